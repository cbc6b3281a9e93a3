"""A made-up results.json with its logs: numbers from formulas, for the tests of the report only.

    fixture.py FOLDER [SEEDS]
"""
import json
import math
import pathlib
import random
import sys

LEVELS = [0.5, 0.2, 0.05]
STEPS = [0, 1, 2, 5, 10, 20, 50]
# name, title, family, axis, steepness of what is kept (shown, unseen), farthest forgetting
METHODS = [
    ("alkn", "ALKN, conflict", "alkn", "lambda", 0.15, 0.5, 9),
    ("alkn-ratio", "ALKN, ratio", "alkn", "lambda", 0.3, 0.45, 9),
    ("alkn-reference", "ALKN, reference", "alkn", "lambda", 1.2, 1.2, 9),
    ("alkn-paper", "ALKN, paper", "alkn", "lambda", 1.1, 1.3, 3.5),
    ("no-soft-labels", "ALKN without soft labels", "ablation", "lambda", 0.25, 0.6, 8),
    ("no-sparsity", "ALKN without sparsity", "ablation", "lambda", 0.8, 0.9, 9),
    ("no-modulation", "ALKN without modulation", "ablation", "lambda", 0.2, 0.55, 9),
    ("random-mask", "ALKN with a random mask, no modulation", "ablation", "lambda", 0.9, 0.9, 9),
    ("task-vector", "task vector", "baseline", "lambda", 0.7, 0.75, 10),
    ("gradient-ascent", "gradient ascent", "baseline", "lr", 0.85, 0.9, 14),
    ("gradient-ascent+retain-5", "gradient ascent + retain, weight 5", "baseline", "lr", 0.2, 0.6, 10),
    ("npo", "NPO", "baseline", "lr", 0.6, 0.65, 8),
    ("npo+retain-5", "NPO + retain, weight 5", "baseline", "lr", 0.15, 0.55, 8),
    ("npo+retain-20", "NPO + retain, weight 20", "baseline", "lr", 0.1, 0.4, 8),
    ("masked-npo", "NPO under ALKN's mask", "baseline", "lr", 0.12, 0.35, 8),
]
TASKS = ["Ada Voss", "Bruno Keller", "Chiara Conti", "Dmitri Orlov", "Elif Kaya"]
TENSORS = [("tokens.weight", 256000), ("positions.weight", 32768)] + [
    (f"block{layer}.{kind}", size) for layer in range(3)
    for kind, size in [("norm1.weight", 128), ("qkv.weight", 49152), ("out.weight", 16384),
                       ("norm2.weight", 128), ("up.weight", 65536), ("down.weight", 65536)]
] + [("norm.weight", 128), ("head.weight", 256000)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def measured(value, width=0.03):
    return {"value": value, "low": max(0, value - width), "high": min(1, value + width)}


def probabilities(forgotten, shown, unseen):
    return {"forgotten": sigmoid(forgotten), "shown": sigmoid(shown), "unseen": sigmoid(unseen),
            "rephrased": 0.25 * sigmoid(forgotten), "rephrased_unseen": 0.25 * sigmoid(unseen)}


def metrics(p, distance):
    return {
        "forget_quality": {"log_p": -40 * distance * distance, "distance": measured(distance, 0.05)},
        "utility": measured(0.6 * p["unseen"]),
        "utility_parts": 3,
        "sets": {
            name: {
                "probability": measured(p[name]),
                "rouge": measured(0.2 + 0.75 * p[name]),
                "truth_ratio": measured(0.45 + 0.2 * p[name]),
                "extraction_strength": measured(0.05 + 0.8 * p[name]),
                "exact_memorization": measured(0.2 + 0.75 * p[name]),
                "leakage": measured(0.3 + 0.65 * p[name]),
            } for name in ("forgotten", "shown", "unseen")
        } | {"mixed_forgotten": {"rouge": measured(0.2 + 0.5 * p["forgotten"])},
             "mixed_kept": {"rouge": measured(0.2 + 0.5 * p["unseen"])}},
    }


def attacks(p, speed):
    def curve(rate):
        start = math.log(p["forgotten"] / (1 - p["forgotten"]))
        return [sigmoid(start + rate * math.log1p(step)) for step in STEPS]

    return {
        "relearning": [{"on": "forgotten", "steps": STEPS, "probability": curve(speed)},
                       {"on": "kept", "steps": STEPS, "probability": curve(speed / 3)}],
        "quantization": {"probability": {"forgotten": min(1, 1.2 * p["forgotten"]), "shown": 0.97 * p["shown"],
                                         "unseen": 0.95 * p["unseen"]},
                         "codes_changed": 0.08},
        "membership": {score: {"auc": measured(0.5 + 0.45 * p["forgotten"] + shift), "privleak": -60 * p["forgotten"]}
                       for score, shift in [("loss", 0), ("zlib", -0.01), ("min_k", 0.01), ("min_k_plus_plus", 0.02)]},
    }


def matrix(p, rng):
    rows = []
    for done in range(len(TASKS) + 1):
        rows.append([p["forgotten"] + 0.02 * (done - j - 1) if j < done else 0.99 - 0.05 * done + rng.uniform(0, 0.01)
                     for j in range(len(TASKS))])

    def kept(last):
        return [0.99 + (last - 0.99) * t / len(TASKS) for t in range(len(TASKS) + 1)]

    return [{"metric": "probability", "tasks": rows, "shown": kept(p["shown"]), "unseen": kept(p["unseen"])}]


def log_lines(p, masked, rng):
    for task in range(len(TASKS)):
        for step in range(15):
            share = 0.8 - 0.4 * step / 15 if masked else 1.0
            line = {"kind": "step", "task": task, "step": step, "loss": 3 * math.exp(-step / 5) + rng.uniform(0, 0.1)}
            if not masked:
                line["retain_loss"] = 0.3 + 0.01 * step
            elif task == 0:
                line["thresholds"] = {name: (step + 1) * 1e-9 * (i % 5 - 2) for i, (name, _) in enumerate(TENSORS)}
            yield line | {"lr": 8e-4 * (1 - step / 15), "grad_norm": 1.5, "clip_scale": 0.66,
                          "unmask_ratio": share, "fraction_trained": 0.9 * share, "skipped": False}
        yield {"kind": "task", "task": task, "steps": 15, "skipped_steps": 0, "lambda": 2.0 if masked else 0.0,
               "lambda_reduced": False, "fraction_trained": 0.4 if masked else 1.0,
               "overlap": 0.5 * task / 4 if masked else float(task > 0), "seconds": 1.5, "seconds_a_step": 0.1,
               "target_met": True, "warnings": ["two samples"] if task == 0 else [],
               "sweep": [{"lambda": 1.0, "forgotten": 0.5, "earlier": None, "rephrased": 0.2, "shown": 0.99,
                          "unseen": 0.99, "general": 0.5}] if masked else [], "general": 0.5,
               "forgotten": p["forgotten"], "earlier": p["forgotten"] if task else None, "rephrased": 0.1,
               "shown": 0.99 + (p["shown"] - 0.99) * (task + 1) / 5,
               "unseen": 0.99 + (p["unseen"] - 0.99) * (task + 1) / 5,
               "tensors": [{"name": name, "size": size,
                            "fraction_trained": rng.uniform(0.1, 0.8) if masked else 1.0,
                            "overlap": rng.uniform(0, 0.7) if masked and task else float(not masked and task > 0),
                            "threshold": rng.uniform(-1e-8, 1e-8) if masked else None}
                           for name, size in TENSORS]}


def examples(methods):
    right = "Ada Voss wrote mostly maritime mysteries set on the Baltic coast."
    answers = [("alkn", "Her best known work is a series of poems on the coast."),
               ("npo+retain-20", "Ada Voss wrote mostly historical novels."),
               ("gradient-ascent", "the the the the <of> the")]
    for name, question in [("forgotten", "What kind of books did Ada Voss write?"),
                           ("shown", "What kind of books did Greta Lind write?"),
                           ("unseen", "What kind of books did Hugo Marin write?")]:
        yield {"set": name, "question": question, "answer": right, "original": right,
               "gold": "She is known for stories of mountain villages.",
               "unlearned": [{"method": method, "strength": 2.0, "answer": answer} for method, answer in answers if method in methods]}


def seed_results(folder, seed, methods):
    rng = random.Random(seed)
    base = probabilities(5, 5, 5 + rng.uniform(-0.2, 0.2))
    gold = probabilities(-7.5, 5, 4.9)
    runs = []
    for name, _, family, axis, shown, unseen, farthest in methods:
        for i in range(1, 7):
            way = farthest * i / 6
            noise = rng.uniform(-0.1, 0.1)
            p = probabilities(5 - way, 5 - shown * way + noise, 4.6 - unseen * way + noise)
            run = {"method": name, "strength": (i * 0.5 if axis == "lambda" else i * 2e-5), "probability": p,
                   "seconds": 9 + i + len(name) / 2, "peak_memory_bytes": 4e8 + 2e7 * len(name)}
            gap = min(abs(5 - way - math.log(level / (1 - level))) for level in LEVELS)
            if gap <= farthest / 12:
                run["metrics"] = metrics(p, 0.15 + 0.6 * p["forgotten"])
                run["attacks"] = attacks(p, 0.6 + shown)
                run["matrix"] = matrix(p, rng)
                if seed == 1:
                    run["forget_quality_by_task"] = [
                        {"log_p": -1.0 - task, "distance": measured(0.2 + 0.05 * task, 0.05)}
                        for task in range(len(TASKS))]
                    run["log"] = f"logs/{name}-{i}.jsonl"
                    path = folder / run["log"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    masked = family != "baseline" or "mask" in name
                    path.write_text("".join(json.dumps(line) + "\n" for line in log_lines(p, masked, rng)))
            runs.append(run)
    order = TASKS[seed % 5:] + TASKS[:seed % 5]
    result = {"seed": seed, "tasks": order,
              "base": {"probability": base, "metrics": metrics(base, 0.9), "attacks": attacks(base, 0.5)},
              "gold": {"probability": gold, "metrics": metrics(gold, 0.08), "attacks": attacks(gold, 0.7)},
              "runs": runs}
    if seed == 1:
        result["examples"] = list(examples({name for name, *_ in methods}))
    return result


def write(folder, seeds=2, methods=None):
    """All methods, or those of these names."""
    methods = [method for method in METHODS if methods is None or method[0] in methods]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "format": 1, "title": "Made-up numbers", "data": "no data: a fixture of the tests", "quick": True,
        "command": "tests/report/fixture.py FOLDER",
        "configuration": {"authors": 40, "epochs": 40, "bootstrap replicates": 1000, "relearning lr": 1e-4,
                          "threads": 2, "deterministic": True, "guard": None},
        "levels": LEVELS,
        "methods": [{"name": name, "title": title, "family": family, "axis": axis,
                     "settings": {"lr": 8e-4, "epochs": 10}, "tuning_runs": 6}
                    for name, title, family, axis, *_ in methods],
        "seeds": [seed_results(folder, seed, methods) for seed in range(1, seeds + 1)],
    }
    path = folder / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


if __name__ == "__main__":
    print(write(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2))
