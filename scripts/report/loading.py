"""Reads results.json and metrics.jsonl. What does not fit schema.json is refused, with file and path."""
import functools
import json
import pathlib

import jsonschema

SCHEMA = pathlib.Path(__file__).with_name("schema.json")


class InvalidInput(Exception):
    """A file that cannot be used; the text says which and where."""


@functools.cache
def validators():
    """Of results.json, and of a line of metrics.jsonl."""
    schema = json.loads(SCHEMA.read_text())
    line = {"$schema": schema["$schema"], "$ref": "#/$defs/line", "$defs": schema["$defs"]}
    return tuple(jsonschema.Draft202012Validator(which) for which in (schema, line))


def refuse_constant(name):
    raise ValueError(f"{name} is no JSON number")


def parsed(text, where):
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except ValueError as error:
        raise InvalidInput(f"{where}: expected JSON, got {error}") from error


def read_text(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def place(path):
    """seeds[0].runs[3].strength, of a path of keys and indices."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.lstrip(".") or "the whole"


def validate(validator, value, where):
    errors = sorted(validator.iter_errors(value), key=lambda error: [str(key) for key in error.absolute_path])
    if errors:
        error = jsonschema.exceptions.best_match(errors[:1])
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        message = error.message if len(error.message) < 300 else error.message[:297] + "..."
        raise InvalidInput(f"{where}: {place(error.absolute_path)}: {message}{more}")


def read_log(path, growing=False):
    """The lines of a metrics.jsonl. A growing one may end in half a line."""
    text = read_text(path)
    if growing:
        text = text[:text.rfind("\n") + 1]
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        value = parsed(line, f"{path}: line {number}")
        validate(validators()[1], value, f"{path}: line {number}")
        lines.append(value)
    return lines


def check(results, path):
    """What a schema cannot say."""
    def require(condition, where, expected, got):
        if not condition:
            raise InvalidInput(f"{path}: {where}: expected {expected}, got {got}")

    names = [method["name"] for method in results["methods"]]
    require(len(set(names)) == len(names), "methods", "different names", ", ".join(names))
    for s, seed in enumerate(results["seeds"]):
        seen = set()
        tasks = len(seed["tasks"])
        for r, run in enumerate(seed["runs"]):
            where = f"seeds[{s}].runs[{r}]"
            require(run["method"] in names, f"{where}.method", "a name in methods", run["method"])
            key = (run["method"], run["strength"])
            require(key not in seen, f"{where}.strength", f"one run of {key[0]} at each strength", f"{key[1]} again")
            seen.add(key)
            for m, matrix in enumerate(run.get("matrix", [])):
                rows = matrix["tasks"]
                require(len(rows) == tasks + 1 and all(len(row) == tasks for row in rows),
                        f"{where}.matrix[{m}].tasks", f"{tasks + 1} rows of {tasks}",
                        f"{len(rows)} of {sorted({len(row) for row in rows})}")
                for kept in ("shown", "unseen"):
                    require(len(matrix[kept]) == tasks + 1, f"{where}.matrix[{m}].{kept}", f"{tasks + 1} numbers",
                            len(matrix[kept]))
        models = [("base", seed["base"]), ("gold", seed["gold"])]
        models += [(f"runs[{r}]", run) for r, run in enumerate(seed["runs"])]
        for name, model in models:
            for c, curve in enumerate(model.get("attacks", {}).get("relearning", [])):
                require(len(curve["steps"]) == len(curve["probability"]),
                        f"seeds[{s}].{name}.attacks.relearning[{c}].probability", f"{len(curve['steps'])} numbers",
                        len(curve["probability"]))
        for e, example in enumerate(seed.get("examples", [])):
            for u, answer in enumerate(example["unlearned"]):
                require(answer["method"] in names, f"seeds[{s}].examples[{e}].unlearned[{u}].method",
                        "a name in methods", answer["method"])


def keep(path, folder):
    """Copies a results.json that fits, and the logs that it names, into a folder of the repository."""
    read_results(path)
    path = path / "results.json" if path.is_dir() else path
    results = parsed(read_text(path), path)
    for seed in results["seeds"]:
        for run in seed["runs"]:
            if "log" in run:
                log = f"logs/{seed['seed']}-{run['method']}-{run['strength']:g}.jsonl"
                (folder / "logs").mkdir(parents=True, exist_ok=True)
                (folder / log).write_text(read_text(path.parent / run["log"]), encoding="utf-8")
                run["log"] = log
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_results(path):
    """results.json, and under each run's "lines" the log that it names. Methods without a run, of an experiment that is
    not finished, go from "methods" to "not_run"."""
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "results.json"
    results = parsed(read_text(path), path)
    validate(validators()[0], results, path)
    check(results, path)
    for s, seed in enumerate(results["seeds"]):
        for r, run in enumerate(seed["runs"]):
            if "log" in run and not (path.parent / run["log"]).is_file():
                raise InvalidInput(f"{path}: seeds[{s}].runs[{r}].log: expected a file, got {run['log']}, "
                                   "which is not there")
            run["lines"] = read_log(path.parent / run["log"]) if "log" in run else []
    ran = {run["method"] for seed in results["seeds"] for run in seed["runs"]}
    results["not_run"] = [method for method in results["methods"] if method["name"] not in ran]
    results["methods"] = [method for method in results["methods"] if method["name"] in ran]
    if not results["methods"]:
        raise InvalidInput(f"{path}: seeds: expected runs, got none")
    return results
