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


def final(run, requests):
    """What was measured after so many requests."""
    return next((one for one in run.get("finals", []) if one["requests"] == requests), None)


def number(count, what):
    return f"{count} {what}{'' if count == 1 else 's'}"


class Table:
    """All runs of one number of pairs and one target, and the models of their seeds."""

    def __init__(self, runs, pairs, target):
        chosen = [run for run in runs if run["config"]["pairs_per_author"] == pairs]
        self.pairs, self.target = pairs, target
        self.aim = "" if target is None else f" and a target of {short(target)}"
        self.arms = {name: [run for run in chosen if run["name"] == name and run["config"].get("target") == target]
                     for name in ORDER}
        self.arms = {name: found for name, found in self.arms.items() if found}
        self.seeds = sorted({run["seed"] for found in self.arms.values() for run in found} or
                            {run["seed"] for run in chosen})
        self.models = {name: [run for run in chosen if run["name"] == name and run["seed"] in self.seeds]
                       for name in MODELS}
        self.requests = next((run["config"]["tasks"] for run in chosen), 0)

        # After how many requests most methods were measured whole; before any was, the models.
        counts = {}
        for weight, group in ((100, self.arms), (1, self.models)):
            for run in (run for found in group.values() for run in found):
                for one in run.get("finals", []):
                    counts[one["requests"]] = counts.get(one["requests"], 0) + weight
        self.after = max(counts, key=lambda count: (counts[count], count), default=self.requests)
        self.whole = {name: [run for run in found if final(run, self.after)] for name, found in self.arms.items()}
        self.whole = {name: found for name, found in self.whole.items() if found}
        self.common = min((self.answered(name) for name in self.arms), default=0)  # where all have come to

    def answered(self, name):
        return min(len(run["requests"]) for run in self.arms[name])

    @property
    def which(self):
        """The seeds, in words."""
        return f"seed{'' if len(self.seeds) == 1 else 's'} {' and '.join(map(str, self.seeds))}"

    @property
    def missing(self):
        return [name + (f" ({self.answered(name)} of {number(self.after, 'request')})" if name in self.arms else "")
                for name in ORDER if name not in self.whole]

    def left(self, name, requests):
        """Of what a request asked to forget, after it: the mean over the requests."""
        return mean([run["requests"][t]["request"] for run in self.arms[name] for t in range(requests)])

    def unseen(self, name, requests):
        return mean([run["requests"][requests - 1]["unseen"] for run in self.arms[name]])

    def holds(self, better, worse, claim, requests):
        """Whether it does after so many requests, and the two numbers."""
        a, b = self.unseen(better, requests), self.unseen(worse, requests)
        return a >= b - SMALL and (abs(a - b) >= SMALL or "as much" in claim), f"{short(a)} and {short(b)}"

    def verdict(self):
        """What of the small model's ranking holds, what does not, and what is not known."""
        holds, fails, open_ = [], [], []
        most = max((self.answered(name) for name in self.arms), default=0)
        for better, worse, claim in RANKING:
            if better not in self.arms or worse not in self.arms:
                open_.append(claim)
                continue
            both = min(self.answered(better), self.answered(worse))
            after = "" if both == most else f" after {number(both, 'request')}"
            left = self.left(better, both), self.left(worse, both)
            if abs(left[0] - left[1]) > FAR:
                open_.append(f"{claim} (they left {short(left[0])} and {short(left[1])} of a request{after}: no comparison)")
                continue
            held, numbers = self.holds(better, worse, claim, both)
            if not held and both > 1 and abs(self.left(better, 1) - self.left(worse, 1)) <= FAR:
                held_first, first = self.holds(better, worse, claim, 1)
                numbers += f"; it did after 1 request, {first}" if held_first else ""
            (holds if held else fails).append(f"{claim} ({numbers}{after})")
        return holds, fails, open_

    def finals(self):
        """A title and the final measures of its seeds, methods first."""
        for name, found in [*self.whole.items(), *self.models.items()]:
            measured = [one for one in (final(run, self.after) for run in found) if one]
            if measured:
                yield (found[0]["title"] if name in ORDER else f"*{found[0]['title']}*"), measured

    def rows(self):
        return [[title] + [cell(found, key) for key in ("forgotten", "shown", "unseen")] +
                [cell(found, *key) for key in GENERAL] +
                [cell(found, "relearned", "probability", 0) + " → " + cell(found, "relearned", "probability", 1)]
                for title, found in self.finals()]

    def quality_rows(self):
        return [[title] + [cell(found, "rouge", key) for key in ("forgotten", "shown", "unseen")] +
                [cell(found, "truth_ratio"), cell(found, "forget_quality", "distance"),
                 cell(found, "forget_quality", "p")] for title, found in self.finals()]

    def common_rows(self):
        """All that have begun, after as many requests."""
        at = ("requests", self.common - 1)
        rows = [[found[0]["title"]] + [cell(found, *at, key) for key in ("request", "earlier", "shown", "unseen")] +
                [cell(found, *at, *key) for key in GENERAL] for found in self.arms.values()]
        taught = [one for one in (final(run, self.after) for run in self.models["taught"]) if one]
        if taught:
            rows.append([f"*{self.models['taught'][0]['title']}*", cell(taught, "forgotten"), ""] +
                        [cell(taught, key) for key in ("shown", "unseen")] + [""] * len(GENERAL))  # of twice as many
        return rows

    def request_rows(self):
        rows = []
        for name, found in self.arms.items():
            for t in range(self.answered(name)):
                rows.append([found[0]["title"] if t == 0 else "", str(t + 1)] +
                            [cell(found, "requests", t, "steps", digits=0)] +
                            [cell(found, "requests", t, key)
                             for key in ("lambda", "request", "earlier", "shown", "unseen")] +
                            [cell(found, "requests", t, "real_authors", "accuracy"),
                             cell(found, "requests", t, "world_facts", "accuracy"),
                             cell(found, "requests", t, "fraction_trained"),
                             cell(found, "requests", t, "seconds", digits=0)])
        return rows

    def not_met(self):
        """Where a method ended above the target."""
        return [f"{run['title']} after request {t + 1}" for found in self.arms.values() for run in found
                for t, request in enumerate(run["requests"]) if request.get("target_met") is False]

    def passes(self, negates):
        """Over a request, of methods that search a strength, or of those that train until the target is met."""
        return max((run["config"]["epochs"] for found in self.arms.values() for run in found
                    if (run["config"]["max_lambda"] > 0) == negates), default=None)

    def rates(self):
        by_rate = {}
        for found in self.arms.values():
            by_rate.setdefault(found[0]["config"]["lr"], []).append(found[0]["title"])
        return ", ".join(f"{rate:.1e} ({'; '.join(titles)})".replace(".0e", "e").replace("e-0", "e-")
                         for rate, titles in sorted(by_rate.items())) or "none yet"

    def spared(self):
        """Whether a request found the model there already."""
        return any(request.get("lambda") == 0 or request["steps"] == 1
                   for found in self.arms.values() for run in found for request in run["requests"])

    def sweep_rows(self):
        return [[found[0]["title"] if i == 0 else "", short(row["lambda"])] +
                [cell(found, "sweep", i, key) for key in ("request", "shown", "unseen")]
                for found in self.arms.values() if "sweep" in found[0] for i, row in enumerate(found[0]["sweep"])]

    def cost_rows(self):
        rows = []
        for name, found in self.arms.items():
            each = self.answered(name) * len(found)
            rows.append([found[0]["title"]] +
                        [short(sum(request.get(key, 0) for run in found for request in run["requests"]) / each, 0)
                         for key in ("seconds", "measuring_seconds")] +
                        [cell(found, "peak_mib", digits=0), cell(found, "load", digits=1)])
        return rows


def said(holds, fails):
    return f"this holds: {listed(holds)}. This does not: {listed(fails)}."


def top(first, others):
    """Two sentences, and what they stand on."""
    holds, fails, open_ = first.verdict()
    most = max((first.answered(name) for name in first.arms), default=0)
    after = f", after {most} of {first.requests} requests," if 0 < most < first.requests else ""
    text = (f"On SmolLM2-135M{after or ','} of the ranking that [the small model](results.md) gives, "
            f"{said(holds, fails)}")
    if not holds and not fails:
        text = "Nothing of [the small model's ranking](results.md) is confirmed or refuted on SmolLM2-135M yet."
    lines = [paragraph(text)]
    if open_:
        lines.append(paragraph("Not known: " + listed(open_) + "."))
    for other in others:
        holds, fails, open_ = other.verdict()
        lines.append(paragraph(f"At {other.pairs} pairs an author{other.aim} {said(holds, fails)}" +
                               (f" Not known: {listed(open_)}." if open_ else "")))
    return lines


def page(runs):
    tables = sorted({(run["config"]["pairs_per_author"], run["config"]["target"])
                     for run in runs if "target" in run["config"]}, key=lambda key: (-key[0], key[1]))
    if not runs:
        raise ValueError("no results")
    tables = tables or [(runs[0]["config"]["pairs_per_author"], None)]  # a taught model, no method yet
    tables = [Table(runs, *key) for key in tables]
    first = max(tables, key=lambda t: (len(t.whole), len(t.arms), len(t.seeds)))
    config = runs[0]["config"]
    taught = first.models["taught"][0]["teaching"]
    machine = next((run["machine"] for run in runs if "machine" in run), "one machine")
    lines = ["# Results on a real model\n", "<!-- written by scripts/report/smollm2.py from results_smollm2/ -->\n"]
    lines += top(first, [t for t in tables if t is not first and not t.missing])
    state = []
    for t in tables:
        begun = len(t.arms) - len(t.whole)
        also = f" and {begun} {'has' if begun == 1 else 'have'} begun" if begun else ""
        state.append(f"{len(t.whole)} of {len(ORDER)} methods have answered {t.after} of {number(t.requests, 'request')}"
                     f"{also}, at {t.pairs} pairs an author{t.aim}, {t.which}")
    partial = any(t.missing or t.after < t.requests for t in tables)
    lines.append(paragraph(
        f"{'A partial table' if partial else 'State'}: {'; '.join(state)}. "
        f"{'What is finished is kept in `docs/results_smollm2`; a later run goes on. ' if partial else ''}"
        f"`make experiment MODEL=smollm2 ARGS=\"--data TOFU --pairs {first.pairs}\"` runs all of it (`--targets`, `--pairs`, "
        "`--seeds` and `--iterations` say which table), and `make report MODEL=smollm2` writes such a page; with `--results "
        "docs/results_smollm2` among ARGS it goes on from the numbers here, where machine and program teach the same bits, "
        "and `make results MODEL=smollm2` writes this page."))
    searched = sorted({run["config"]["iterations"] for run in runs if "iterations" in run["config"]})
    steps = f", to {' or '.join(f'1/{2 ** n}' for n in searched)} of the largest allowed" if searched else ""
    lines.append("## What was measured\n")
    lines.append(paragraph(
        f"SmolLM2-135M-Instruct is taught {config['tasks'] * config['authors_per_task'] + config['authors_kept']} of "
        "TOFU's made-up authors (`Question: ...`, a new line, `Answer: ...`; loss on the answer and its end, AdamW at "
        f"{config['teach_lr']:g}, batch {config['teach_batch']}) in {taught['passes']} passes to an answer probability "
        f"of {short(taught['probability'])}; not to .99, where loss and gradient say nothing. The gold model is taught "
        f"the same without the authors of all {number(config['tasks'], 'request')}, as many passes. A seed is an order of the "
        "requests and of all batches, and has models of its own. A request is "
        f"{config['authors_per_task']} authors; {config['authors_shown']} kept authors are shown to the methods, "
        f"{config['authors_kept'] - config['authors_shown']} never."))
    lines.append(paragraph(
        "A request ends when the answer probability of what it asks to forget has fallen to the target "
        f"({config['judged']} pairs judge it). Methods that negate search their λ from one fine-tuning" +
        (f" of {first.passes(True)} passes" if first.passes(True) else "") +
        f" in batches of {config['batch']} (`task.end(EndTarget)`{steps}); the others have no λ and train until the target is "
        "met, asked after each step" +
        (f", {first.passes(False)} passes at most" if first.passes(False) else "") +
        ". So methods are compared at equal forgetting, request by request; later requests change earlier ones further. "
        f"Learning rates, not tuned alike: {first.rates()}."))
    lines.append(paragraph(
        f"Each set is a fixed one of {config['asked']} questions ({2 * config['asked']} forgotten ones, "
        f"{config['told']} for truth ratios, {config['generated']} answered freely): one question is "
        f"{short(1 / config['asked'])} of an accuracy. *Real authors* and *world facts* are TOFU's: how often the "
        "right answer is the likeliest of all that are given, and its share of their probability, end tokens left out "
        f"({2 * config['asked']} questions each, after a request half of them). *Relearned*: answer probability of half "
        f"of the forgotten pairs before and after {number(config['relearn_steps'], 'step')} on the other half, at "
        f"{config['relearn_lr']:g} in batches of {config['relearn_batch']}" +
        (f", up to that rate in {config['relearn_warmup']} steps and down to 0, as in teaching; "
         if "relearn_warmup" in config else "; ") +
        "what the same steps do to the taught and the gold model says what is the attack's and what was still there. "
        "*D*, *p*: Kolmogorov-Smirnov distance of the truth ratios from the gold model's, and the exact test."))
    for t in tables:
        lines.append(f"## {t.pairs} of 20 pairs of each author{t.aim}\n")
        if t.missing:
            lines.append(paragraph("Not finished: " + ", ".join(t.missing) + "."))
        if t.not_met():
            lines.append(paragraph("Ended above the target: " + ", ".join(t.not_met()) + "."))
        if t.common > 0 and t.missing:
            lines.append(paragraph(f"All that have begun, after {t.common} of {number(t.requests, 'request')}:"))
            lines.append(table(["", "this request", "earlier ones", "kept, shown", "kept, never shown",
                                "real authors: accuracy", "share", "world facts: accuracy", "share"], t.common_rows()))
        lines.append(table([f"after {number(t.after, 'request')}", "forgotten", "kept, shown", "kept, never shown",
                            "real authors: accuracy", "share", "world facts: accuracy", "share", "relearned"], t.rows()))
        lines.append(table(["", "ROUGE-L: forgotten", "shown", "unseen", "truth ratio, forgotten", "D", "p"],
                           t.quality_rows()))
        if not t.arms:
            continue
        lines.append("### Request by request\n")
        if t.spared():
            lines.append(paragraph("A λ of .00, or one step (at a rate of 0): the requests before had made the model forget "
                                   "this one as well, and nothing was changed for it."))
        lines.append(table(["", "request", "steps", "λ", "this request", "earlier ones", "shown", "unseen", "real authors",
                            "world facts", "weights trained", "seconds"], t.request_rows()))
        if t.sweep_rows():
            lines.append("### Strengths of one fine-tuning\n")
            lines.append(paragraph("What the first request would have left at other λ (`task.weights_at`)."))
            lines.append(table(["", "λ", "this request", "shown", "unseen"], t.sweep_rows()))
        lines.append("### Time and memory\n")
        lines.append(paragraph(
            f"{machine}, {config['threads']} threads. The machine had other work: seconds are those of the clock, "
            "the mean over the requests, beside the load of the last minute (two would be this program alone)."))
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
