"""Methods at equal forgetting: curves, interpolation in log-odds, paired differences, the summary."""
import math
import statistics
from dataclasses import dataclass, field

SMALLEST = 1e-9  # probabilities beyond are taken for it, so that log-odds are finite
NEAR = 0.7       # log-odds: a run counts as measured at a level if it is no farther from it


def log_odds(p):
    p = min(max(p, SMALLEST), 1 - SMALLEST)
    return math.log(p / (1 - p))


def probability(x):
    return 1 / (1 + math.exp(-x))


def value_of(tree, *keys):
    """What stands under the keys, and under "value" of a measured number; None where nothing does."""
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree.get("value") if isinstance(tree, dict) else tree


def method_runs(seed, method):
    """The runs of a method, from weak to strong."""
    return sorted((run for run in seed["runs"] if run["method"] == method), key=lambda run: run["strength"])


def curve(seed, method):
    """Points of a trade-off curve: the original model, at strength 0, then the runs that gave numbers."""
    points = [(0.0, seed["base"]["probability"])]
    points += [(run["strength"], run["probability"]) for run in method_runs(seed, method)]
    return [(strength, p) for strength, p in points if None not in (p["forgotten"], p["shown"], p["unseen"])]


def at_level(points, level, names=("shown", "unseen")):
    """Interpolates where a curve first falls to a level: {name: probability}, or None if it never does."""
    target = log_odds(level)
    for (_, before), (_, after) in zip(points, points[1:]):
        start, end = log_odds(before["forgotten"]), log_odds(after["forgotten"])
        if start > target >= end:
            way = (start - target) / (start - end)
            return {name: probability((1 - way) * log_odds(before[name]) + way * log_odds(after[name]))
                    for name in names}
    return None


def mean_odds(values):
    return probability(statistics.fmean(log_odds(p) for p in values))


def mean_curve(seeds, method, number=24):
    """The trade-off curve of a method over the seeds, as probabilities: means at equal forgetting, in log-odds, as far
    as every seed goes. Of one seed: its points."""
    curves = [points for seed in seeds if len(points := curve(seed, method)) > 1]
    if len(curves) < 2:
        return [p for points in curves for _, p in points]
    names = ("forgotten", "shown", "unseen")
    means = [{name: mean_odds(points[0][1][name] for points in curves) for name in names}]
    start = min(log_odds(points[0][1]["forgotten"]) for points in curves)
    end = max(min(log_odds(p["forgotten"]) for _, p in points) for points in curves)
    for i in range(1, number + 1):
        level = probability(start + (end + 1e-6 - start) * i / number)
        found = [at_level(points, level) for points in curves]
        if end < start and None not in found:
            means.append({"forgotten": level} | {name: mean_odds(p[name] for p in found) for name in names[1:]})
    return means


def distance_to(run, level):
    p = run["probability"]["forgotten"]
    return math.inf if p is None else abs(log_odds(p) - log_odds(level))


def nearest(seed, method, level, has, limit=NEAR):
    """The run that has `has` and is nearest to a level; None if none is near."""
    runs = [run for run in method_runs(seed, method) if has(run) and distance_to(run, level) <= limit]
    return min(runs, key=lambda run: distance_to(run, level), default=None)


@dataclass
class Spread:
    """A number of several seeds."""
    values: list

    @property
    def mean(self):
        return statistics.fmean(self.values) if self.values else None

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    @property
    def deviation(self):
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def low(self):
        return min(self.values, default=None)

    @property
    def high(self):
        return max(self.values, default=None)


def spread(values):
    return Spread([value for value in values if value is not None])


@dataclass
class Row:
    """A method at a level."""
    method: dict
    tried: int = 0    # with so many seeds
    reached: int = 0  # by so many of them
    shown: Spread = field(default_factory=lambda: Spread([]))
    unseen: Spread = field(default_factory=lambda: Spread([]))
    gained: Spread = field(default_factory=lambda: Spread([]))  # unseen, minus the first method's on the same seed
    measured_at: Spread = field(default_factory=lambda: Spread([]))
    log_p: Spread = field(default_factory=lambda: Spread([]))
    distance: Spread = field(default_factory=lambda: Spread([]))
    extraction: Spread = field(default_factory=lambda: Spread([]))
    relearned: Spread = field(default_factory=lambda: Spread([]))


    @property
    def everywhere(self):
        return self.reached == self.tried > 0

    def seeds(self, number):
        """What to say of the seeds where not all of them came to the level: "2 of 3 seeds"."""
        if self.reached < self.tried:
            return f"{self.reached} of {self.tried} seeds"
        return f"{self.tried} seed{'s' if self.tried > 1 else ''}" if self.tried < number else ""


@dataclass
class Level:
    forgotten: float
    is_gold: bool
    rows: list


def relearned(model, steps, on="forgotten"):
    """The probability of the held-out half after so many steps of relearning."""
    for curve_ in model.get("attacks", {}).get("relearning", []):
        if curve_["on"] == on and steps in curve_["steps"]:
            return curve_["probability"][curve_["steps"].index(steps)]
    return None


def compare(results, relearning_steps=10):
    """The comparison table: a Level each, the gold model's own last."""
    seeds = results["seeds"]
    golds = [seed["gold"]["probability"]["forgotten"] for seed in seeds]
    first = results["methods"][0]["name"]
    levels = [(level, False) for level in results["levels"]]
    if None not in golds:
        levels.append((probability(statistics.fmean(log_odds(p) for p in golds)), True))
    table = []
    for level, is_gold in levels:
        wanted = [gold if is_gold else level for gold in golds]
        references = [at_level(curve(seed, first), level) for seed, level in zip(seeds, wanted)]
        rows = []
        for method in results["methods"]:
            name = method["name"]
            points = [at_level(curve(seed, name), level) for seed, level in zip(seeds, wanted)]
            runs = [nearest(seed, name, level, lambda run: "metrics" in run or "attacks" in run)
                    for seed, level in zip(seeds, wanted)]
            runs = [run for run, point in zip(runs, points) if run and point]
            rows.append(Row(
                method,
                tried=sum(bool(method_runs(seed, name)) for seed in seeds),
                reached=sum(point is not None for point in points),
                shown=spread(point["shown"] for point in points if point),
                unseen=spread(point["unseen"] for point in points if point),
                gained=spread(point["unseen"] - reference["unseen"]
                              for point, reference in zip(points, references) if point and reference),
                measured_at=spread(run["probability"]["forgotten"] for run in runs),
                log_p=spread(value_of(run, "metrics", "forget_quality", "log_p") for run in runs),
                distance=spread(value_of(run, "metrics", "forget_quality", "distance") for run in runs),
                extraction=spread(value_of(run, "metrics", "sets", "forgotten", "extraction_strength")
                                  for run in runs),
                relearned=spread(relearned(run, relearning_steps) for run in runs)))
        table.append(Level(level, is_gold, rows))
    return table


def focus_level(results):
    """The level of the plots that show one run a method: the middle one."""
    return results["levels"][len(results["levels"]) // 2]


def focus_run(results, seed, method, key, limit=NEAR):
    """The run of a method that such a plot shows: nearest to the focus level, if it is near."""
    return nearest(seed, method, focus_level(results), lambda run: key in run and run[key], limit)


def any_run(results, seed, method, key):
    """The same, however far: for what is not compared between methods."""
    return focus_run(results, seed, method, key, math.inf)


def matrix_losses(matrix):
    """What a per-task matrix says in three numbers, as alkn/eval/task_matrix.hpp has them."""
    rows, number = matrix["tasks"], len(matrix["tasks"][0])
    if any(value is None for row in rows for value in row):
        return None
    kept = matrix["unseen"]
    return {
        "returned": max(max(rows[t][j] for t in range(j + 1, number + 1)) - rows[j + 1][j] for j in range(number)),
        "early": max(rows[0][j] - rows[j][j] for j in range(number)),
        "decline": None if None in (kept[0], kept[-1]) else kept[0] - kept[-1],
    }


def mean_of(seeds, model, *keys):
    """Of a number of the base or gold models."""
    return spread(value_of(seed[model], *keys) for seed in seeds).mean


def short(p):
    """.97, .004, 3e-6; as the tables have it."""
    if p is None:
        return "–"
    sign, p = ("−", -p) if p < 0 else ("", p)
    if p == 0:
        return "0"
    if p < 0.00095:
        mantissa, exponent = f"{p:.0e}".split("e")
        return f"{sign}{mantissa}e−{-int(exponent)}"
    text = f"{p:.3f}" if p < 0.01 else f"{p:.2f}"
    return sign + (text[1:] if text.startswith("0") else text)


def short_p(log_p):
    """A p-value of its natural logarithm."""
    if log_p is None:
        return "–"
    if log_p > math.log(0.00095):
        return short(min(math.exp(log_p), 1.0))
    exponent = math.floor(log_p / math.log(10))
    mantissa = round(math.exp(log_p - exponent * math.log(10)))
    if mantissa == 10:
        mantissa, exponent = 1, exponent + 1
    return f"{mantissa}e−{-exponent}"


def enumeration(words):
    words = list(words)
    if any("," in word for word in words):
        return "; ".join(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def summary(results, table):
    """Sentences made of the numbers, the first one the headline."""
    level = next(row for row in table if row.forgotten == focus_level(results))
    seeds = results["seeds"]
    number = len(seeds)
    whole = [row for row in level.rows if row.everywhere]
    at = f"forget probability {short(level.forgotten)}"
    if not whole:
        return [f"No method came to {at} with every seed."]
    ranked = sorted(whole, key=lambda row: -row.unseen.mean)
    best = ranked[0]
    before = mean_of(seeds, "base", "probability", "unseen")
    only = len(ranked) == 1
    fewer = [row.method["title"] for row in level.rows if row.tried < number]
    sentences = [
        (f"Only {best.method['title']} came to {at}" if only else
         f"At {at}, {best.method['title']} keeps most of what nobody asked to forget")
        + f": kept authors that it never saw answer with probability {short(best.unseen.mean)} ({short(before)} before), "
          f"those that it was shown with {short(best.shown.mean)}."]
    first = next(row for row in level.rows if row.method is results["methods"][0])
    if first is not best and first.reached:
        gain = best.gained
        text = (f"{first.method['title']} keeps {short(first.unseen.mean)} of the unseen and "
                f"{short(first.shown.mean)} of the shown")
        if len(gain.values) > 1:
            same = "with every seed" if gain.low > 0 else "but not with every seed"
            text += (f"; {best.method['title']} keeps {short(gain.mean)} more of the unseen, {same} "
                     f"({short(gain.low)} to {short(gain.high)})")
        sentences.append(text + ".")
    elif first is best and len(ranked) > 1:
        second = ranked[1]
        sentences.append(f"Next is {second.method['title']} with {short(second.unseen.mean)} of the unseen and "
                         f"{short(second.shown.mean)} of the shown.")
    presets = [row for row in level.rows if row.method.get("family") == "alkn"]
    if presets and not only:
        def rank(row):
            return f"{row.method['title']} is {ranked.index(row) + 1}" if row in ranked \
                else f"{row.method['title']} does not get there"
        sentences.append(f"Of the {len(ranked)} methods that forget this much, ranked by what is kept of the unseen: "
                         f"{enumeration(map(rank, presets))}.")
    if fewer:
        sentences.append(f"With fewer than {number} seeds, and means over those: {enumeration(fewer)}.")
    lowest = [row for row in table if not row.is_gold][-1]
    missing = [row.method["title"] for row in lowest.rows if not row.everywhere]
    if missing:
        who = enumeration(missing)
        sentences.append(f"Not every seed came to {short(lowest.forgotten)} with {who}." if number > 1 else
                         f"Did not come to {short(lowest.forgotten)}: {who}.")
    else:
        sentences.append(f"Every method came to {short(lowest.forgotten)}.")
    back = [row for row in level.rows if row.relearned.values]
    gold_back = spread(relearned(seed["gold"], 10) for seed in seeds).mean
    if len(back) > 1 and gold_back is not None:
        least = min(back, key=lambda row: row.relearned.mean)
        most = max(back, key=lambda row: row.relearned.mean)
        sentences.append(
            f"Ten steps of relearning on half of each forgotten author's questions bring the other half back to "
            f"{short(least.relearned.mean)} ({least.method['title']}) up to {short(most.relearned.mean)} "
            f"({most.method['title']}); a model that never saw them comes to {short(gold_back)}.")
    close = [row for row in lowest.rows if row.distance.values]
    gold_distance = mean_of(seeds, "gold", "metrics", "forget_quality", "distance")
    if close and gold_distance is not None:
        nearest_row = min(close, key=lambda row: row.distance.mean)
        verdict = "is as close to a model that never learned it as another such model is" \
            if nearest_row.distance.mean <= gold_distance else "can be told from a model that never learned it"
        sentences.append(
            f"Near {short(lowest.forgotten)}, even the closest method ({nearest_row.method['title']}, "
            f"D = {short(nearest_row.distance.mean)}) {verdict}; two such models differ by {short(gold_distance)}."
            if nearest_row.distance.mean > gold_distance else
            f"Near {short(lowest.forgotten)}, {nearest_row.method['title']} (D = {short(nearest_row.distance.mean)}) "
            f"{verdict} ({short(gold_distance)}).")
    return sentences
