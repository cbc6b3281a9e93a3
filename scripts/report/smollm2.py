"""docs/results_smollm2.md, of the results of experiment/smollm2 that are kept beside it.

    smollm2.py FOLDER PAGE.md
"""
import json
import pathlib
import re
import sys
import textwrap

SMALL = 0.02  # less between two methods is no difference to speak of, with so few questions and seeds
FAR = 0.05  # more between what two methods left of a request, and they cannot be compared
# Who keeps more of what nobody showed it, in docs/results.md at a forget probability of .50 or .20.
RANKING = [("npo+retain", "conflict", "NPO + retain keeps more of the unseen than ALKN, conflict"),
           ("conflict", "reference", "ALKN, conflict keeps more than ALKN, reference"),
           ("conflict", "paper", "ALKN, conflict keeps more than ALKN, paper"),
           ("conflict", "task-vector", "ALKN, conflict keeps more than the task vector"),
           ("npo+retain", "gradient-ascent+retain", "NPO + retain keeps as much as gradient ascent + retain or more")]
ORDER = ["conflict", "reference", "paper", "task-vector", "npo+retain", "gradient-ascent+retain"]
MODELS = ["original", "taught", "gold"]
GENERAL = [(name, key) for name in ("real_authors", "world_facts") for key in ("accuracy", "probability")]


def short(value, digits=2):
    if value is None:
        return ""
    if 0 < abs(value) < 0.5 * 10 ** -digits:
        return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−")
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}").replace("-", "−")


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def find(value, path):
    for key in path:
        if value is None:
            return None
        value = value[key] if isinstance(value, list) else value.get(key)
    return value


def cell(runs, *path, digits=2):
    """The mean over seeds."""
    return short(mean([find(run, path) for run in runs]), digits)


def table(head, rows):
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def paragraph(text, first="", other=""):
    text = re.sub(r"\[[^\]]*\]", lambda match: match[0].replace(" ", "\0"), text)
    return textwrap.fill(text, 118, initial_indent=first, subsequent_indent=other, break_long_words=False,
                         break_on_hyphens=False).replace("\0", " ") + "\n"


def listed(parts):
    return "; ".join(parts) if parts else "nothing"


class Table:
    """All runs of one number of pairs and one target."""

    def __init__(self, runs, pairs, target):
        chosen = [run for run in runs if run["config"]["pairs_per_author"] == pairs]
        self.pairs, self.target = pairs, target
        self.aim = "" if target is None else f" and a target of {short(target)}"
        self.models = {name: [run for run in chosen if run["name"] == name] for name in MODELS}
        self.arms = {name: [run for run in chosen if run["name"] == name and run["config"].get("target") == target]
                     for name in ORDER}
        self.arms = {name: found for name, found in self.arms.items() if found}
        self.seeds = sorted({run["seed"] for run in chosen})

        self.whole = {name: [run for run in found if "final" in run] for name, found in self.arms.items()}
        self.whole = {name: found for name, found in self.whole.items() if found}
        # where all that have begun have come to
        self.requests = next((run["config"]["tasks"] for found in self.arms.values() for run in found), 0)
        self.common = min((len(run["requests"]) for found in self.arms.values() for run in found), default=0)

    @property
    def missing(self):
        begun = {name: f" ({len(found[0]['requests'])} of {self.requests} requests)" for name, found in self.arms.items()}
        return [name + begun.get(name, "") for name in ORDER if name not in self.whole]

    def last(self, name, key):
        return mean([run["requests"][self.common - 1][key] for run in self.arms[name]])

    def unseen(self, name):
        return self.last(name, "unseen")

    def verdict(self):
        """What of the small model's ranking holds, what does not, and what is not known."""
        holds, fails, open_ = [], [], []
        for better, worse, claim in RANKING:
            if better not in self.arms or worse not in self.arms:
                open_.append(claim)
                continue
            left = self.last(better, "request"), self.last(worse, "request")
            if abs(left[0] - left[1]) > FAR:
                open_.append(f"{claim} (they left {short(left[0])} and {short(left[1])} of the request: no comparison)")
                continue
            a, b = self.unseen(better), self.unseen(worse)
            text = f"{claim} ({short(a)} and {short(b)})"
            (fails if a < b - SMALL or (abs(a - b) < SMALL and "as much" not in claim) else holds).append(text)
        return holds, fails, open_

    def rows(self):
        rows = []
        for name, found in [*self.whole.items(), *((n, f) for n, f in self.models.items() if f)]:
            title = found[0]["title"] if name in ORDER else f"*{found[0]['title']}*"
            rows.append([title] + [cell(found, "final", key) for key in ("forgotten", "shown", "unseen")] +
                        [cell(found, "final", *key) for key in GENERAL] +
                        [cell(found, "final", "relearned", "probability", 0) + " → " +
                         cell(found, "final", "relearned", "probability", 1)])
        return rows

    def quality_rows(self):
        rows = []
        for name, found in [*self.whole.items(), *((n, f) for n, f in self.models.items() if f)]:
            title = found[0]["title"] if name in ORDER else f"*{found[0]['title']}*"
            rows.append([title] + [cell(found, "final", "rouge", key) for key in ("forgotten", "shown", "unseen")] +
                        [cell(found, "final", "truth_ratio"), cell(found, "final", "forget_quality", "distance"),
                         cell(found, "final", "forget_quality", "p")])
        return rows

    def common_rows(self):
        """All that have begun, after as many requests."""
        at = ("requests", self.common - 1)
        rows = [[found[0]["title"]] + [cell(found, *at, key) for key in ("request", "earlier", "shown", "unseen")] +
                [cell(found, *at, *key) for key in GENERAL] for found in self.arms.values()]
        if taught := self.models["taught"]:
            rows.append([f"*{taught[0]['title']}*", cell(taught, "final", "forgotten"), ""] +
                        [cell(taught, "final", key) for key in ("shown", "unseen")] +
                        [cell(taught, "final", *key) for key in GENERAL])
        return rows

    def request_rows(self):
        rows = []
        for found in self.arms.values():
            for t in range(len(found[0]["requests"])):
                rows.append([found[0]["title"] if t == 0 else "", str(t + 1)] +
                            [cell(found, "requests", t, key)
                             for key in ("lambda", "request", "earlier", "shown", "unseen")] +
                            [cell(found, "requests", t, "real_authors", "accuracy"),
                             cell(found, "requests", t, "world_facts", "accuracy"),
                             cell(found, "requests", t, "fraction_trained"),
                             cell(found, "requests", t, "seconds", digits=0)])
        return rows

    def sweep_rows(self):
        return [[found[0]["title"] if i == 0 else "", short(row["lambda"])] +
                [cell(found, "sweep", i, key) for key in ("request", "shown", "unseen")]
                for found in self.arms.values() if "sweep" in found[0] for i, row in enumerate(found[0]["sweep"])]

    def cost_rows(self):
        return [[found[0]["title"], cell(found, "seconds", digits=0), cell(found, "measuring_seconds", digits=0),
                 cell(found, "peak_mib", digits=0), cell(found, "load", digits=1)] for found in self.arms.values()]


def top(first):
    """Two sentences, and what they stand on."""
    holds, fails, open_ = first.verdict()
    after = f", after {first.common} of {first.requests} requests," if 0 < first.common < first.requests else ""
    text = (f"On SmolLM2-135M{after or ','} of the ranking that [the small model](results.md) gives, this holds: "
            f"{listed(holds)}. This does not: {listed(fails)}.")
    if not holds and not fails:
        text = "Nothing of [the small model's ranking](results.md) is confirmed or refuted on SmolLM2-135M yet."
    lines = [paragraph(text)]
    if open_:
        lines.append(paragraph("Not measured yet: " + listed(open_) + "."))
    return lines


def page(runs):
    tables = sorted({(run["config"]["pairs_per_author"], run["config"]["target"])
                     for run in runs if "target" in run["config"]}, key=lambda key: (-key[0], -key[1]))
    if not runs:
        raise ValueError("no results")
    tables = tables or [(runs[0]["config"]["pairs_per_author"], None)]  # a taught model, no method yet
    tables = [Table(runs, *key) for key in tables]
    first = max(tables, key=lambda t: (len(t.whole), len(t.arms), len(t.seeds)))
    config = runs[0]["config"]
    taught = first.models["taught"][0]["teaching"]
    machine = next((run["machine"] for run in runs if "machine" in run), "one machine")
    lines = ["# Results on a real model\n", "<!-- written by scripts/report/smollm2.py from results_smollm2/ -->\n"]
    lines += top(first)
    state = [f"{len(t.whole)} of {len(ORDER)} methods are finished and {len(t.arms) - len(t.whole)} begun at {t.pairs} "
             f"pairs an author{t.aim}, "
             f"{len(t.seeds)} seed{'s' if len(t.seeds) > 1 else ''}" for t in tables]
    partial = any(t.missing for t in tables)
    lines.append(paragraph(
        f"{'A partial table' if partial else 'State'}: {'; '.join(state)}. "
        f"{'What is finished is kept in `docs/results_smollm2`; a later run goes on. ' if partial else ''}"
        "`make experiment MODEL=smollm2 ARGS=\"--data TOFU\"` runs what is missing, and "
        "`make results MODEL=smollm2` writes this page."))
    lines.append("## What was measured\n")
    lines.append(paragraph(
        f"SmolLM2-135M-Instruct is taught {config['tasks'] * config['authors_per_task'] + config['authors_kept']} of "
        "TOFU's made-up authors (`Question: ...`, a new line, `Answer: ...`; loss on the answer and its end, AdamW at "
        f"{config['teach_lr']:g}, batch {config['teach_batch']}) in {taught['passes']} passes to an answer probability "
        f"of {short(taught['probability'])}; not to .99, where loss and gradient say nothing. The gold model is taught "
        "the same without the authors that are to be forgotten, as many passes. Then "
        f"{config['tasks']} requests of {config['authors_per_task']} authors each, {config['epochs']} passes a request "
        f"in batches of {config['batch']}; {config['authors_shown']} kept authors are shown to the methods, "
        f"{config['authors_kept'] - config['authors_shown']} never."))
    lines.append(paragraph(
        "A request ends when the answer probability of what it asks to forget has fallen to the target "
        f"({config['judged']} pairs judge it): methods that negate search their λ from one fine-tuning "
        "(`task.end(EndTarget)`), the others stop training there. So methods are compared at equal forgetting, "
        "request by request; later requests change earlier ones further."))
    lines.append(paragraph(
        f"Each set is a fixed one of {config['asked']} questions ({2 * config['asked']} forgotten ones, "
        f"{config['told']} for truth ratios, {config['generated']} answered freely): one question is "
        f"{short(1 / config['asked'])} of an accuracy. *Real authors* and *world facts* are TOFU's: how often the "
        "right answer is the likeliest of all that are given, and its share of their probability, end tokens left out "
        f"({2 * config['asked']} questions each, after a request half of them). *Relearned*: answer probability of half "
        f"of the forgotten pairs before and after {config['relearn_steps']} steps on the other "
        "half. *D*, *p*: Kolmogorov-Smirnov distance of the truth ratios from the gold model's, and the exact test."))
    for t in tables:
        lines.append(f"## {t.pairs} of 20 pairs of each author{t.aim}\n")
        if t.missing:
            lines.append(paragraph("Not finished: " + ", ".join(t.missing) + "."))
        if 0 < t.common < t.requests:
            lines.append(paragraph(f"All that have begun, after {t.common} of {t.requests} requests:"))
            lines.append(table(["", "this request", "earlier ones", "kept, shown", "kept, never shown",
                                "real authors: accuracy", "share", "world facts: accuracy", "share"], t.common_rows()))
        lines.append(table(["after the last request", "forgotten", "kept, shown", "kept, never shown",
                            "real authors: accuracy", "share", "world facts: accuracy", "share", "relearned"], t.rows()))
        lines.append(table(["", "ROUGE-L: forgotten", "shown", "unseen", "truth ratio, forgotten", "D", "p"],
                           t.quality_rows()))
        if not t.arms:
            continue
        lines.append("### Request by request\n")
        lines.append(table(["", "request", "λ", "this request", "earlier ones", "shown", "unseen", "real authors",
                            "world facts", "weights trained", "seconds"], t.request_rows()))
        if t.sweep_rows():
            lines.append("### Strengths of one fine-tuning\n")
            lines.append(paragraph("What the first request would have left at other λ (`task.weights_at`)."))
            lines.append(table(["", "λ", "this request", "shown", "unseen"], t.sweep_rows()))
        lines.append("### Time and memory\n")
        lines.append(paragraph(
            f"{machine}, {config['threads']} threads. The machine had other work: seconds are those of the clock, "
            "beside the load of the last minute (two would be this program alone)."))
        lines.append(table(["", "seconds, unlearning", "seconds, measuring", "peak, MiB", "load"], t.cost_rows()))
    lines.append("## The taught models\n")
    lines.append(table(["", "seed", "pairs", "passes", "answer probability", "hash of the weights", "seconds"],
                       [[run["title"], str(run["seed"]), str(run["config"]["pairs_per_author"]),
                         str(run["teaching"]["passes"]), short(run["teaching"]["probability"]),
                         f"`{run['teaching']['hash']}`", short(run["teaching"]["seconds"], 0)]
                        for run in runs if "teaching" in run]))
    return "\n".join(lines)


def read(folder):
    return [json.loads(path.read_text()) for path in sorted(pathlib.Path(folder).glob("*.json"))]


def main(folder, out):
    pathlib.Path(out).write_text(page(read(folder)), encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError, TypeError) as error:
        sys.exit(f"smollm2: {error}")
