"""results.json to one HTML page that needs nothing else."""
import pathlib
import re

import jinja2
from markupsafe import Markup, escape

import comparing
import plots
from comparing import short, short_p, spread, value_of

HERE = pathlib.Path(__file__).parent
SET_TITLES = {"forgotten": "to be forgotten", "shown": "kept, shown to the method", "unseen": "kept, never shown"}
METRIC_TITLES = {"probability": "Probability of the right answer", "rouge": "ROUGE-L recall",
                 "truth_ratio": "Truth ratio", "extraction_strength": "Extraction strength",
                 "exact_memorization": "Exact memorisation"}


def cell(text, small="", kind=""):
    return {"text": text, "small": small, "kind": kind}


def short_deviation(deviation):
    return "0" if deviation == 0 else "<.001" if deviation < 0.00095 else short(deviation)


def with_deviation(numbers, signed=False):
    if not numbers.values:
        return cell("–", kind="none")
    text = short(numbers.mean)
    if signed and numbers.mean > 0:
        text = "+" + text
    return cell(text, f"± {short_deviation(numbers.deviation)}" if numbers.deviation is not None else "")


def level_table(results, level):
    """One level of the comparison."""
    first = results["methods"][0]["title"]
    head = ["method", "kept, never shown", f"minus {first}", "kept, shown", "forget quality: D", "p",
            "extraction strength", "after 10 steps of relearning"]
    reached = [row for row in level.rows if row.reached]
    best = max((row.unseen.mean for row in reached), default=None)
    rows = []
    for row in level.rows:
        if not row.reached:
            cells = [cell("not reached", kind="none")] + [cell("", kind="none")] * (len(head) - 2)
        else:
            number = len(results["seeds"])
            unseen = with_deviation(row.unseen)
            unseen["kind"] = "best" if row.unseen.mean == best else ""
            unseen["small"] += f" {row.seeds(number)}"
            distance = with_deviation(row.distance)
            if row.measured_at.values and row.distance.values:
                distance["small"] = f"at {short(row.measured_at.mean)}"
            gained = cell("") if row.method is results["methods"][0] else with_deviation(row.gained, signed=True)
            cells = [unseen, gained, with_deviation(row.shown), distance, cell(short_p(row.log_p.mean)),
                     with_deviation(row.extraction), with_deviation(row.relearned)]
        rows.append({"cells": [cell(row.method["title"])] + cells})
    seeds = results["seeds"]

    def model_row(title, name):
        def mean(*keys):
            return spread(value_of(seed[name], *keys) for seed in seeds)
        distance, log_p = mean("metrics", "forget_quality", "distance"), mean("metrics", "forget_quality", "log_p")
        return {"model": True, "cells": [
            cell(title), with_deviation(mean("probability", "unseen")), cell(""),
            with_deviation(mean("probability", "shown")), with_deviation(distance), cell(short_p(log_p.mean)),
            with_deviation(mean("metrics", "sets", "forgotten", "extraction_strength")),
            with_deviation(spread(comparing.relearned(seed[name], 10) for seed in seeds))]}

    before, gold = (short(comparing.mean_of(seeds, name, "probability", "forgotten")) for name in ("base", "gold"))
    rows.append(model_row(f"before unlearning (forgotten at {before})", "base"))
    rows.append(model_row(f"gold model (forgotten at {gold})", "gold"))
    name = (f"at the gold model's own level, {short(level.forgotten)}" if level.is_gold
            else f"at forget probability {short(level.forgotten)}")
    return {"name": name, "head": head, "rows": rows, "open": level.forgotten == comparing.focus_level(results)}


def interval(measured):
    """Value and interval, averaged over the seeds."""
    measured = [m for m in measured if isinstance(m, dict) and m.get("value") is not None]
    if not measured:
        return cell("–", kind="none")
    low, high = (spread(m.get(end) for m in measured).mean for end in ("low", "high"))
    return cell(short(spread(m["value"] for m in measured).mean),
                f"{short(low)} to {short(high)}" if low is not None and high is not None else "")


def under(tree, *keys):
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


# title, [(column, what it shows of a model)]: path of a measured number, or of a probability set relative to the base
DETAILS = [
    ("How much is forgotten", [
        ("probability", ("metrics", "sets", "forgotten", "probability")),
        ("ROUGE-L", ("metrics", "sets", "forgotten", "rouge")),
        ("truth ratio", ("metrics", "sets", "forgotten", "truth_ratio")),
        ("forget quality: D", ("metrics", "forget_quality", "distance")),
        ("p", "log_p"),
        ("extraction strength", ("metrics", "sets", "forgotten", "extraction_strength")),
        ("exact memorisation", ("metrics", "sets", "forgotten", "exact_memorization")),
        ("leakage, sampled", ("metrics", "sets", "forgotten", "leakage"))],
     "D and p of the gold model: against a gold model of another seed."),
    ("What is kept", [
        ("utility", ("metrics", "utility"))] + [
        (f"{title}: {metric}", ("metrics", "sets", name, key))
        for name, title in [("shown", "shown"), ("unseen", "never shown"), ("retain", "retain"),
                            ("real_authors", "real authors"), ("world_facts", "world facts")]
        for key, metric in [("probability", "probability"), ("rouge", "ROUGE-L"), ("truth_ratio", "truth ratio")]],
     ""),
    ("Other wordings, and two authors in one question", [
        ("rephrased, forgotten: share of before", "rephrased"),
        ("rephrased, shown: share of before", "rephrased_shown"),
        ("rephrased, never shown: share of before", "rephrased_unseen"),
        ("two in one: forgotten part, probability", ("metrics", "sets", "mixed_forgotten", "probability")),
        ("two in one: forgotten part, ROUGE-L", ("metrics", "sets", "mixed_forgotten", "rouge")),
        ("two in one: kept part, probability", ("metrics", "sets", "mixed_kept", "probability")),
        ("two in one: kept part, ROUGE-L", ("metrics", "sets", "mixed_kept", "rouge"))],
     "Rephrased questions are asked relative to the original model, which knows them less well too."),
]


def detail_cell(what, models, seeds):
    if what == "log_p":
        return cell(short_p(spread(value_of(model, "metrics", "forget_quality", "log_p") for model in models).mean))
    if isinstance(what, tuple):
        return interval([under(model, *what) for model in models])
    shares = [model["probability"][what] / seed["base"]["probability"][what] for model, seed in zip(models, seeds)
              if model["probability"].get(what) is not None and seed["base"]["probability"].get(what)]
    return with_deviation(spread(shares))


def detail_tables(results):
    seeds = results["seeds"]
    models = [("before unlearning", True, [seed["base"] for seed in seeds], seeds),
              ("gold model", True, [seed["gold"] for seed in seeds], seeds)]
    for method in results["methods"]:
        runs = [(comparing.nearest(seed, method["name"], comparing.focus_level(results),
                                   lambda run: "metrics" in run), seed) for seed in seeds]
        runs = [(run, seed) for run, seed in runs if run]
        if runs:
            at = short(spread(run["probability"]["forgotten"] for run, _ in runs).mean)
            models.append((f"{method['title']} (at {at})", False, [run for run, _ in runs], [seed for _, seed in runs]))
    tables = []
    if len(models) == 2 and not any("metrics" in model for model in models[0][2]):
        return tables
    for title, columns, note in DETAILS:
        filled = [(column, [detail_cell(what, of, their_seeds) for _, _, of, their_seeds in models])
                  for column, what in columns]
        filled = [(column, cells) for column, cells in filled if any(c["text"] != "–" for c in cells)]
        if filled:
            parts = {under(seed["base"], "metrics", "utility_parts") for seed in seeds}
            said = note
            if title == "What is kept" and parts == {3}:
                said = ("Utility is the harmonic mean of the retain triple alone: another part is at its floor in the "
                        "original model, or the data has none.")
            tables.append({"title": title, "note": said, "head": ["model"] + [column for column, _ in filled],
                           "rows": [{"model": is_model, "cells": [cell(name)] + [cells[i] for _, cells in filled]}
                                    for i, (name, is_model, _, _) in enumerate(models)]})
    return tables


def code_table(results):
    """Share of the 4-bit codes that unlearning changed."""
    seeds = results["seeds"]
    rows = []
    models = [("before unlearning", [seed["base"] for seed in seeds]), ("gold model", [seed["gold"] for seed in seeds])]
    models += [(method["title"], [run for seed in seeds
                                  if (run := comparing.focus_run(results, seed, method["name"], "attacks"))])
               for method in results["methods"]]
    for i, (title, of) in enumerate(models):
        of = [model for model in of if under(model, "attacks", "quantization")]
        if of:
            quantized = [model["attacks"]["quantization"] for model in of]
            rows.append({"model": i < 2, "cells": [cell(title)] + [
                with_deviation(spread(values)) for values in (
                    [model["probability"]["forgotten"] for model in of],
                    [q["probability"]["forgotten"] for q in quantized],
                    [model["probability"]["unseen"] for model in of],
                    [q["probability"]["unseen"] for q in quantized],
                    [q.get("codes_changed") for q in quantized])]})
    return {"head": ["model", "forgotten", "after 4 bits", "kept, never shown", "after 4 bits", "codes changed"],
            "rows": rows}


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def marked(text, right):
    """`text` with the words marked that a longest common subsequence with `right` takes."""
    parts = re.findall(r"\S+\s*", text)
    a, b = [" ".join(words(part)) for part in parts], words(right)
    length = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            length[i][j] = length[i + 1][j + 1] + 1 if a[i] == b[j] else max(length[i + 1][j], length[i][j + 1])
    i = j = 0
    result = Markup()
    while i < len(a):
        if j < len(b) and a[i] == b[j] and length[i][j] == length[i + 1][j + 1] + 1:
            word = parts[i].rstrip()
            result += Markup("<mark>{}</mark>{}").format(word, parts[i][len(word):])
            i, j = i + 1, j + 1
        elif j == len(b) or length[i + 1][j] >= length[i][j + 1]:
            result += escape(parts[i])
            i += 1
        else:
            j += 1
    return result or Markup("<i>(nothing)</i>")


def example_cards(results, looks):
    titles = {method["name"]: method["title"] for method in results["methods"]}
    for seed in results["seeds"]:
        for example in seed.get("examples", []):
            right = example["answer"]
            answers = [{"who": "before unlearning", "text": marked(example["original"], right), "colour": "var(--muted)"},
                       {"who": "gold model, which never saw what is forgotten", "text": marked(example["gold"], right),
                        "colour": "var(--ink)"}]
            answers += [{"who": titles[answer["method"]], "text": marked(answer["answer"], right),
                         "method": answer["method"],
                         "colour": f"var(--series-{looks[answer['method']].index})"}
                        for answer in example["unlearned"] if answer["method"] in titles]
            yield {"set": SET_TITLES.get(example["set"], example["set"].replace("_", " ")),
                   "question": example["question"], "answer": right, "answers": answers}


def swatch(look):
    """The little line and mark of a legend."""
    shapes = {"o": '<circle cx="13" cy="6" r="4"/>', "s": '<rect x="9.4" y="2.4" width="7.2" height="7.2"/>',
              "^": '<path d="M13 1.4 17.4 9.6H8.6Z"/>', "D": '<path d="M13 1 18 6 13 11 8 6Z"/>',
              "v": '<path d="M13 10.6 17.4 2.4H8.6Z"/>', "P": '<path d="M11.3 1.6h3.4v2.7h2.7v3.4h-2.7v2.7h-3.4V7.7H8.6V4.3h2.7Z"/>',
              "X": '<path d="M10 1.6 13 4.4 16 1.6 17.6 3.2 14.8 6 17.6 8.8 16 10.4 13 7.6 10 10.4 8.4 8.8 11.2 6 8.4 3.2Z"/>',
              "h": '<path d="M13 1 17.4 3.5v5L13 11 8.6 8.5v-5Z"/>'}
    colour = f"var(--series-{look.index})"
    fill = colour if look.filled else "var(--surface)"
    dashes = "" if look.dashes == "-" else ' stroke-dasharray="4 2"'
    return Markup(f'<svg viewBox="0 0 26 12" aria-hidden="true" style="stroke: {colour}; fill: {fill}; stroke-width: 1.6">'
                  f'<path d="M1 6H25"{dashes}/>{shapes[look.marker]}</svg>')


def matrix_caption(run, matrix):
    losses = comparing.matrix_losses(matrix)
    said = f"Forgotten at {short(run['probability']['forgotten'])}. "
    if losses is None:
        return said + "Some values could not be computed."
    back = f"Up to {short(losses['returned'])} of a request" if losses["returned"] >= 0.005 else "Nothing"
    return said + (f"{back} came back later; up to {short(losses['early'])} was lost before anybody asked; kept authors "
                   f"never shown lost {short(losses['decline'])}.")


def matrix_groups(results, drawn):
    groups = {}
    seed = results["seeds"][0]
    for method in results["methods"]:
        run = comparing.any_run(results, seed, method["name"], "matrix")
        for matrix in (run or {}).get("matrix", []):
            groups.setdefault(matrix["metric"], []).append((method, run, matrix))
    order = [metric for metric in METRIC_TITLES if metric in groups]
    return [{"title": f"{METRIC_TITLES[metric]}, of the run nearest to {short(comparing.focus_level(results))} "
                      f"(seed {seed['seed']})",
             "plots": [{"plot": Markup(drawn.heat_map(method, run, matrix)), "caption": matrix_caption(run, matrix)}
                       for method, run, matrix in groups[metric]]} for metric in order]


def by_task_table(results):
    seed = results["seeds"][0]
    rows = []
    for method in results["methods"]:
        run = comparing.any_run(results, seed, method["name"], "forget_quality_by_task")
        if run:
            rows.append({"cells": [cell(method["title"])] + [
                cell(short(quality["distance"]["value"]), f"p {short_p(quality['log_p'])}")
                for quality in run["forget_quality_by_task"]]})
    if not rows:
        return None
    return {"head": ["method"] + [f"after {t + 1}" for t in range(max(len(row["cells"]) for row in rows) - 1)],
            "rows": rows}


def shown_value(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds):
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def tiles(results, table):
    seeds = results["seeds"]
    level = next(row for row in table if row.forgotten == comparing.focus_level(results))
    best = max((row.unseen.mean for row in level.rows if row.everywhere), default=None)
    runs = [run for seed in seeds for run in seed["runs"]]
    seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
    result = [(short(comparing.mean_of(seeds, "base", "probability", "forgotten")),
               "how well the original model knows what is to be forgotten"),
              (short(comparing.mean_of(seeds, "gold", "probability", "forgotten")), "a model that never saw it"),
              (short(best), f"the most that is kept of unseen authors when forgotten at {short(level.forgotten)}"),
              (str(len(results["methods"])), f"methods, {len(runs)} runs, {len(seeds)} "
                                             f"seed{'s' if len(seeds) > 1 else ''}")]
    if seconds:
        result.append((duration(sum(seconds)), "of unlearning, all runs"))
    return result


def render(results):
    """The page, as text."""
    table = comparing.compare(results)
    drawn = plots.Plots(results, table)
    groups = plots.families(results["methods"])
    seed = results["seeds"][0]
    logs = [(method, run["lines"]) for method in results["methods"]
            if (run := comparing.any_run(results, seed, method["name"], "lines"))
            and any(line["kind"] == "task" for line in run["lines"])]
    masked = [(method, lines) for method, lines in logs
              if any(tensor["threshold"] is not None for line in lines if line["kind"] == "task"
                     for tensor in line["tensors"])]

    def marks(svgs):
        return [Markup(plot) for plot in svgs if plot]

    def both(pair):
        return pair and (Markup(pair[0]), marks(pair[1]))

    relearning = []
    for title, group in groups:
        svgs = marks(drawn.relearning(group, on, f"trained on {on} authors") for on in ("forgotten", "kept"))
        if svgs:
            relearning.append({"title": title, "methods": group, "plots": svgs})
    has_quantization = any("quantization" in run.get("attacks", {}) for s in results["seeds"] for run in s["runs"])
    context = {
        "comparison": both(drawn.comparison()),
        "families": [{"title": title, "methods": group, "trade_off": marks(
            drawn.trade_off(group, kept, name) for kept, name in (("unseen", "kept, never shown"),
                                                                  ("shown", "kept, shown")))}
            for title, group in groups],
        "matrices": matrix_groups(results, drawn),
        "by_task": by_task_table(results),
        "shares": marks(drawn.share_by_task(masked)) if masked else [],
        "places": marks(drawn.place(method, lines, field, title) for method, lines in masked
                        for field, title in (("fraction_trained", "trained"), ("overlap", "trained before"))),
        "logged": [method for method, _ in masked],
        "steps": marks(drawn.steps(method["title"], lines) for method, lines in logs
                       if any(line["kind"] == "step" for line in lines)),
        "thresholds": marks(drawn.thresholds(method, lines) for method, lines in masked),
        "details": detail_tables(results),
        "relearning": relearning,
        "quantization": both(drawn.quantization()) if has_quantization else None,
        "not_attacked": comparing.enumeration(absent) if (absent := [
            method["title"] for method in results["methods"] if not drawn.attacked(method)]) else "",
        "codes": code_table(results) if has_quantization else None,
        "membership": both(drawn.membership()),
        "examples": list(example_cards(results, drawn.looks)),
        "cost": both(drawn.cost()),
    }
    candidates = [("comparison", "At equal forgetting", True), ("trade-off", "Trade-off", True),
                  ("requests", "Request by request", context["matrices"]), ("weights", "Weights", context["places"]),
                  ("steps", "Steps", context["steps"]), ("metrics", "All metrics", context["details"]),
                  ("attacks", "Attacks", relearning or has_quantization or context["membership"]),
                  ("examples", "Answers", context["examples"]), ("cost", "Time and memory", context["cost"]),
                  ("reproduce", "How it was made", True)]
    number = len(results["seeds"])
    context |= {
        "results": results, "style": Markup((HERE / "style.css").read_text()),
        "summary": comparing.summary(results, table), "tiles": tiles(results, table),
        "sections": [(name, title) for name, title, there in candidates if there],
        "levels": [level_table(results, level) for level in table],
        "focus": short(comparing.focus_level(results)),
        "comparison_note": (f"{number} seeds, each with its own original model, gold model and order of requests; "
                            "± one standard deviation over them." if number > 1 else "One seed only: no spread.")
                           + " Forget quality, extraction and relearning are those of the run nearest to the level.",
        "not_run": comparing.enumeration(method["title"] for method in results["not_run"]) if results["not_run"] else "",
        "configuration": [(key.replace("_", " "), shown_value(value)) for key, value in results["configuration"].items()]
                         + [("seeds", ", ".join(str(s["seed"]) for s in results["seeds"]))],
        "settings": lambda method: ", ".join(f"{key} {shown_value(value)}" for key, value in method["settings"].items()),
        "swatch": lambda name: swatch(drawn.looks[name]),
    }
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
                                     undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("page.html.j2").render(context)
