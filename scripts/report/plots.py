"""The plots of the report. Each function gives an element of the page, with a text that stands for it."""
import math
import re
from dataclasses import dataclass

from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

import comparing
from comparing import log_odds, probability, short
from drawing import (DASHES, FAINT, GRID, HEAT, HEAT_INK, INK, MARKERS, MUTED, NARROW, NUM_SERIES, SERIES, SURFACE, figure,
                     log_odds_axis, probability_axis, series_id, svg, wrapped)

FAMILIES = {"alkn": "ALKN's presets", "ablation": "ALKN without its parts", "baseline": "Other methods"}
WIDE = 1180
KNOWN = {"forgotten": "this request", "shown": "kept, shown", "unseen": "kept, never shown",
         "earlier": "earlier requests", "rephrased": "this request, rephrased"}


@dataclass
class Look:
    """How a method is drawn, everywhere."""
    colour: str
    index: int
    marker: str
    dashes: object
    filled: bool

    @property
    def face(self):
        return self.colour if self.filled else SURFACE


def family(method):
    return method.get("family", "baseline")


def families(methods):
    """[(title, methods)] of those that there are."""
    groups = [(title, [method for method in methods if family(method) == name]) for name, title in FAMILIES.items()]
    return [(title, group) for title, group in groups if group]


def looks(methods):
    """{name: Look}: a colour and a shape within each family, filled or hollow by family."""
    result = {}
    for number, (_, group) in enumerate(families(methods)):
        for i, method in enumerate(group):
            colour = i % NUM_SERIES
            result[method["name"]] = Look(SERIES[colour], colour, MARKERS[(i + 3 * (i // NUM_SERIES)) % len(MARKERS)],
                                          DASHES[(i // NUM_SERIES) % len(DASHES)], number != 1)
    return result


class Plots:
    """All plots of one results.json."""

    def __init__(self, results, table):
        self.results = results
        self.table = table
        self.methods = results["methods"]
        self.seeds = results["seeds"]
        self.looks = looks(self.methods)
        self.number = 0

    def finish(self, fig, text):
        self.number += 1
        return svg(fig, f"p{self.number}", text)

    # rows of methods

    def positions(self):
        """{method: y}, families apart, and the height that they need."""
        y, places = 0.0, {}
        for _, group in families(self.methods):
            for method in group:
                places[method["name"]] = y
                y += 1
            y += 0.6
        return places, y - 0.6

    def rows(self, width, panels, row_height=21):
        """Methods below each other; a panel is (title, draw(ax, method, y), set_axis(ax))."""
        places, height = self.positions()
        columns = 20 if width == NARROW else 60
        titles = {method["name"]: wrapped(method["title"], columns) for method in self.methods}
        row_height += 6 if any("\n" in title for title in titles.values()) else 0
        fig, axes = figure(width, height * row_height + 62, 1, len(panels), sharey=True, squeeze=False)
        for ax, (title, draw, set_axis) in zip(axes[0], panels):
            ax.set_title(title)
            ax.grid(axis="y", visible=False)
            for method in self.methods:
                y = places[method["name"]]
                ax.axhline(y, color=GRID, linewidth=0.8, zorder=0)
                draw(ax, method, y)
            set_axis(ax)
            ax.set_ylim(height - 0.4, -0.6)
            ax.yaxis.set_major_locator(FixedLocator([places[name] for name in titles]))
            ax.yaxis.set_major_formatter(FixedFormatter(list(titles.values())))
            ax.tick_params(axis="y", labelcolor=INK)
        return fig

    def pair(self, ax, y, method, start, end, title, first_marker="o"):
        """A line from a hollow mark to a full one."""
        look = self.looks[method["name"]]
        gid = series_id(method["name"], f"{method['title']}: {title}")
        ax.plot([start, end], [y, y], color=look.colour, linewidth=2.2, alpha=0.45, gid=gid, solid_capstyle="butt")
        ax.plot([start], [y], first_marker, color=look.colour, markerfacecolor=SURFACE, markersize=7, gid=gid)
        ax.plot([end], [y], "o", color=look.colour, markersize=7.5, gid=gid)

    @staticmethod
    def absent(ax, y, text):
        ax.text(0.01, y, text, va="center", color=MUTED, style="italic")

    def level_name(self, level):
        return f"at {short(level.forgotten)} (gold)" if level.is_gold else f"at {short(level.forgotten)}"

    def level_panel(self, level):
        rows = {row.method["name"]: row for row in level.rows}
        before = comparing.mean_of(self.seeds, "base", "probability", "unseen")

        def draw(ax, method, y):
            row = rows[method["name"]]
            if not row.reached:
                self.absent(ax, y, "not reached")
                return
            self.pair(ax, y, method, row.shown.mean, row.unseen.mean,
                      f"{short(row.unseen.mean)} unseen, {short(row.shown.mean)} shown "
                      f"({row.reached} of {len(self.seeds)} seeds)")
            if len(row.unseen.values) > 1:
                ax.plot(row.unseen.values, [y] * len(row.unseen.values), "|", color=INK, markersize=9,
                        markeredgewidth=1.1, gid=series_id(method["name"], "each seed"))

        def set_axis(ax):
            probability_axis(ax.xaxis)
            ax.axvline(before, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))

        return f"forgotten {self.level_name(level)}", draw, set_axis

    def comparison(self):
        """(wide, [narrow, ...]): what is kept of shown and unseen authors at each level."""
        def text(levels):
            parts = []
            for level in levels:
                parts += [f"Forgotten {self.level_name(level)}: " + "; ".join(
                    f"{row.method['title']} keeps {short(row.unseen.mean)} of the unseen and {short(row.shown.mean)} "
                    "of the shown" if row.reached else f"{row.method['title']} not reached" for row in level.rows)]
            return "Dot plot of kept probability. " + ". ".join(parts)

        wide = self.finish(self.rows(WIDE, [self.level_panel(level) for level in self.table], 23), text(self.table))
        narrow = [self.finish(self.rows(NARROW, [self.level_panel(level)]), text([level])) for level in self.table]
        return wide, narrow

    # trade-off

    def trade_off(self, group, kept, title):
        fig, ax = figure(NARROW, 260)
        ends = self.draw_trade_off(ax, group, kept, title)
        return self.finish(fig, f"Trade-off curves, {title}, of kept authors ({kept}) over forgotten ones: "
                                + "; ".join(ends) + ".")

    def draw_trade_off(self, ax, group, kept, title):
        """Draws the curves; says where they end."""
        golds = [seed["gold"]["probability"] for seed in self.seeds]
        known = [p["forgotten"] for p in golds if p["forgotten"] is not None] + self.results["levels"]
        lowest = min([p["forgotten"] for method in self.methods for seed in self.seeds
                      for _, p in comparing.curve(seed, method["name"])] + known)
        # what has collapsed stands at the border
        border = max(0.6 * lowest, 5e-6, min(5e-4, 0.3 * min(known)))

        def forgotten(points):
            return [max(p["forgotten"], border) for p in points]

        names = [method["name"] for method in group]
        for level in self.results["levels"]:
            ax.axvline(level, color=GRID, linewidth=1.2)
        for method in self.methods:
            if method["name"] not in names:
                curve = comparing.mean_curve(self.seeds, method["name"])
                ax.plot(forgotten(curve), [p[kept] for p in curve], color=FAINT, linewidth=1.2,
                        gid=series_id(method["name"], method["title"]))
        ends = []
        for method in group:
            look = self.looks[method["name"]]
            gid = series_id(method["name"], method["title"])
            several = len(self.seeds) > 1
            for seed in self.seeds if several else []:
                curve = [p for _, p in comparing.curve(seed, method["name"])]
                ax.plot(forgotten(curve), [p[kept] for p in curve], color=look.colour,
                        linewidth=0.7, alpha=0.5, marker=".", markersize=4, gid=gid)
            curve = comparing.mean_curve(self.seeds, method["name"])
            ax.plot(forgotten(curve), [p[kept] for p in curve], color=look.colour,
                    linestyle=look.dashes, marker=look.marker, markerfacecolor=look.face, markersize=5.5, gid=gid,
                    markevery=(4, 8) if len(curve) > 12 else None, label=wrapped(method["title"], 24))
            if curve:
                ends.append(f"{method['title']} ends at forgotten {short(curve[-1]['forgotten'])}, kept "
                            f"{short(curve[-1][kept])}")
        for p in golds:
            if p["forgotten"] is not None and p[kept] is not None:
                ax.plot(forgotten([p]), [p[kept]], "*", color=INK, markersize=12, markeredgewidth=0,
                        gid=series_id("gold", f"gold model: {short(p['forgotten'])} forgotten, {short(p[kept])} kept"))
        log_odds_axis(ax.xaxis, 0.997, 0.85 * border)
        probability_axis(ax.yaxis)
        ax.set_title(title)
        ax.set_xlabel("probability of what was to be forgotten →")
        return ends

    # the per-task matrix

    def heat_map(self, method, run, matrix):
        rows, tasks = matrix["tasks"], len(matrix["tasks"][0])
        columns = [[row[j] for row in rows] for j in range(tasks)] + [matrix["shown"], matrix["unseen"]]
        places = list(range(tasks)) + [tasks + 0.4, tasks + 1.4]
        cell = min(36.0, 262 / (tasks + 2.4))
        fig, ax = figure(NARROW, (tasks + 1) * min(cell, 28) + 64)
        for x, column in zip(places, columns):
            for t, value in enumerate(column):
                self.cell(ax, x, t, value, cell >= 24)
        for j in range(tasks):
            ax.add_patch(Rectangle((j - 0.5, j + 0.5), 1, 1, fill=False, edgecolor=SERIES[1], linewidth=2, zorder=3))
        self.grid_axes(ax, places, [str(j + 1) for j in range(tasks)] + ["seen", "not"], range(tasks + 1),
                       ["before"] + [f"after {t}" for t in range(1, tasks + 1)])
        ax.set_title(wrapped(method["title"]))
        text = "; ".join(f"after {t} requests: " + ", ".join(short(value) for value in row)
                         + f", kept shown {short(shown)}, kept unseen {short(unseen)}"
                         for t, (row, shown, unseen) in enumerate(zip(rows, matrix["shown"], matrix["unseen"])))
        return self.finish(fig, f"Heat map of {matrix['metric']} by request, {method['title']}: {text}.")

    @staticmethod
    def cell(ax, x, y, value, labelled):
        if value is None:
            ax.text(x, y, "–", ha="center", va="center", color=MUTED)
            return
        share = min(max(value, 0), 1)
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=HEAT[round(share * (len(HEAT) - 1))],
                               edgecolor=SURFACE, linewidth=1.5))
        if labelled:
            label = "1" if value >= 0.995 else "0" if 0 <= value < 0.005 else f"{value:.2f}".lstrip("0").replace("-0", "−")
            ax.text(x, y, label, ha="center", va="center", color=HEAT_INK[share >= 0.55])

    @staticmethod
    def grid_axes(ax, x_places, x_names, y_places, y_names):
        ax.grid(visible=False)
        ax.spines["bottom"].set_visible(False)
        ax.set_xlim(min(x_places) - 0.55, max(x_places) + 0.55)
        ax.set_ylim(max(y_places) + 0.55, min(y_places) - 0.55)
        ax.xaxis.set_major_locator(FixedLocator(list(x_places)))
        ax.xaxis.set_major_formatter(FixedFormatter(list(x_names)))
        ax.yaxis.set_major_locator(FixedLocator(list(y_places)))
        ax.yaxis.set_major_formatter(FixedFormatter(list(y_names)))

    # where the trained weights are

    def place(self, method, lines, field, title):
        """Heat map of a share per layer and type of tensor, in the last request."""
        tensors = [line for line in lines if line["kind"] == "task"][-1]["tensors"]
        layers, kinds, cells = places_of(tensors)
        fig, ax = figure(NARROW, len(kinds) * 24 + 60)
        values = {}
        for tensor in tensors:
            layer, kind = cells[tensor["name"]]
            values[tensor["name"]] = tensor[field]
            self.cell(ax, layers.index(layer), kinds.index(kind), tensor[field], True)
        self.grid_axes(ax, range(len(layers)), layers, range(len(kinds)), kinds)
        ax.set_title(wrapped(f"{method['title']}: {title}"))
        return self.finish(fig, f"Heat map, {title}, {method['title']}, by tensor: "
                                + ", ".join(f"{name} {short(value)}" for name, value in values.items()) + ".")

    def share_by_task(self, logs):
        """Lines over requests: the share of weights trained, and how much of it earlier requests had trained."""
        result = []
        for field, title in (("fraction_trained", "share of weights trained"),
                             ("overlap", "of these, trained by earlier requests")):
            fig, ax = figure(NARROW, 220)
            texts = []
            for method, lines in logs:
                look = self.looks[method["name"]]
                tasks = [line for line in lines if line["kind"] == "task"]
                ax.plot([line["task"] + 1 for line in tasks], [line[field] for line in tasks], color=look.colour,
                        linestyle=look.dashes, marker=look.marker, markerfacecolor=look.face,
                        gid=series_id(method["name"], method["title"]))
                texts.append(f"{method['title']} " + ", ".join(short(line[field]) for line in tasks))
            probability_axis(ax.yaxis)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            ax.set_xlabel("request")
            ax.set_title(title)
            result.append(self.finish(fig, f"{title}, request by request: " + "; ".join(texts) + "."))
        return result

    # over the steps

    def steps(self, title, lines):
        return self.finish(*steps_figure(title, lines))

    def thresholds(self, method, lines):
        """The threshold of each tensor, on a scale that is linear around zero."""
        unit, curves = threshold_curves(lines)
        sizes = sorted(abs(value) for curve in curves.values() for _, value in curve if value)
        fig, ax = figure(NARROW, 240)
        for name, curve in curves.items():
            large = name.endswith("weight") and "norm" not in name
            ax.plot([x for x, _ in curve], [value for _, value in curve], color=SERIES[0] if large else MUTED,
                    linewidth=1.1, alpha=0.8 if large else 0.35, gid=series_id("tensor", name))
        linear = 10 ** math.floor(math.log10(sizes[len(sizes) // 4])) if sizes else 1
        ax.set_yscale("symlog", linthresh=linear)
        largest = math.ceil(math.log10(sizes[-1])) if sizes else 0
        first = math.ceil(math.log10(linear)) if sizes else 0
        stride = max(1, (largest - first) // 2)
        powers = list(range(largest, first - 1, -stride))
        ax.yaxis.set_major_locator(FixedLocator([-(10.0 ** k) for k in powers] + [0] + [10.0 ** k for k in powers]))
        ax.yaxis.set_major_formatter(FixedFormatter([f"−1e{k}".replace("e-", "e−") for k in powers] + ["0"]
                                                    + [f"1e{k}".replace("e-", "e−") for k in powers]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        ax.set_xlabel(unit)
        ax.set_title(wrapped(f"{method['title']}: η"))
        last = [curve[-1][1] for curve in curves.values()]
        above = sum(value > 0 for value in last)
        return self.finish(fig, f"Thresholds of {len(curves)} tensors, {unit} by {unit}, {method['title']}: after the "
                                f"last, {above} are above zero and {len(last) - above} at or below it; the largest "
                                f"size is {sizes[-1]:.1e}." if sizes else f"No thresholds, {method['title']}.")

    # attacks

    def relearning(self, group, on, title):
        fig, ax = figure(NARROW, 260)
        texts, steps = self.draw_relearning(ax, group, on, title)
        return self.finish(fig, f"Relearning, {title}: probability of the other half after {', '.join(map(str, steps))} "
                                "steps. " + "; ".join(texts) + ".") if texts else None

    def draw_relearning(self, ax, group, on, title):
        """Draws the curves; says what they show, and after which steps."""
        texts, steps = [], []

        def draw(models, label, name, **style):
            curves = [curve for model in models for curve in (model or {}).get("attacks", {}).get("relearning", [])
                      if curve["on"] == on and None not in curve["probability"]]
            curves = [curve for curve in curves if curve["steps"] == curves[0]["steps"]]
            if not curves:
                return
            steps[:] = curves[0]["steps"]
            mean = [probability(sum(log_odds(p) for p in ps) / len(ps))
                    for ps in zip(*(curve["probability"] for curve in curves))]
            ax.plot(range(len(mean)), mean, gid=series_id(name, label), **style)
            texts.append(f"{label} " + ", ".join(short(p) for p in mean))

        draw([seed["gold"] for seed in self.seeds], "gold model", "gold", color=INK, linewidth=2.6,
             linestyle=DASHES[2])
        for method in group:
            look = self.looks[method["name"]]
            runs = [comparing.focus_run(self.results, seed, method["name"], "attacks") for seed in self.seeds]
            draw(runs, method["title"], method["name"], color=look.colour, linestyle=look.dashes,
                 marker=look.marker, markerfacecolor=look.face)
        probability_axis(ax.yaxis)
        ax.xaxis.set_major_locator(FixedLocator(list(range(len(steps)))))
        ax.xaxis.set_major_formatter(FixedFormatter([str(step) for step in steps]))
        ax.set_xlabel("steps of relearning")
        ax.set_title(title)
        return texts, steps

    def attacked(self, method):
        runs = [comparing.focus_run(self.results, seed, method["name"], "attacks") for seed in self.seeds]
        return [run for run in runs if run]

    def quantization(self):
        texts = []

        def panel(name, title):
            def draw(ax, method, y):
                runs = [run for run in self.attacked(method) if "quantization" in run["attacks"]]
                before = comparing.spread(run["probability"][name] for run in runs).mean
                after = comparing.spread(run["attacks"]["quantization"]["probability"][name] for run in runs).mean
                if before is None or after is None:
                    self.absent(ax, y, "no run near")
                    return
                self.pair(ax, y, method, before, after, f"{short(before)} before, {short(after)} after")
                texts.append(f"{method['title']} {name} {short(before)} to {short(after)}")
            return title, draw, lambda ax: probability_axis(ax.xaxis)

        panels = [panel("forgotten", "forgotten"), panel("unseen", "kept, unseen")]
        wide = self.rows(660, panels)
        narrow = [self.rows(NARROW, [one]) for one in panels]
        text = "Probability before and after a 4-bit round trip: " + "; ".join(dict.fromkeys(texts)) + "."
        return self.finish(wide, text), [self.finish(fig, text) for fig in narrow]

    MEMBERSHIP = {"loss": "loss", "zlib": "loss / zlib", "min_k": "Min-K%", "min_k_plus_plus": "Min-K%++"}

    def membership(self):
        texts = []

        def panel(score, title):
            gold = comparing.mean_of(self.seeds, "gold", "attacks", "membership", score, "auc")

            def draw(ax, method, y):
                look = self.looks[method["name"]]
                aucs = [run["attacks"]["membership"][score]["auc"] for run in self.attacked(method)
                        if score in run["attacks"].get("membership", {})]
                mean = comparing.spread(auc["value"] for auc in aucs).mean
                if mean is None:
                    self.absent(ax, y, "no run near")
                    return
                gid = series_id(method["name"], f"{method['title']}: AUC {short(mean)}")
                for auc in aucs:
                    if auc.get("low") is not None and auc.get("high") is not None:
                        ax.plot([auc["low"], auc["high"]], [y, y], color=look.colour, alpha=0.4, linewidth=3,
                                gid=gid, solid_capstyle="butt")
                ax.plot([mean], [y], "o", color=look.colour, markersize=7, gid=gid)
                texts.append(f"{title}, {method['title']}: {short(mean)}")

            def set_axis(ax):
                probability_axis(ax.xaxis)
                ax.axvline(0.5, color=MUTED, linewidth=1)
                if gold is not None:
                    ax.axvline(gold, color=INK, linewidth=1.4, linestyle=DASHES[2])
            return title, draw, set_axis

        measured = {score for seed in self.seeds for run in seed["runs"]
                    for score in run.get("attacks", {}).get("membership", {})}
        panels = [panel(score, title) for score, title in self.MEMBERSHIP.items() if score in measured]
        if not panels:
            return None
        wide = self.rows(180 + 250 * len(panels), panels)
        narrow = [self.rows(NARROW, [one]) for one in panels]
        text = "Area under the curve of membership inference: " + "; ".join(dict.fromkeys(texts)) + "."
        return self.finish(wide, text), [self.finish(fig, text) for fig in narrow]

    # cost

    def cost(self):
        texts = []

        def panel(field, title, unit, scale):
            def values(method):
                runs = [run for seed in self.seeds for run in comparing.method_runs(seed, method["name"])]
                return comparing.spread(run.get(field) for run in runs)

            def draw(ax, method, y):
                look, value = self.looks[method["name"]], values(method).median
                if value is None:
                    return
                gid = series_id(method["name"], f"{method['title']}: {value / scale:.3g} {unit}")
                ax.barh([y], [value / scale], height=0.55, color=look.colour, gid=gid)
                ax.text(value / scale, y, f" {value / scale:.3g}", va="center", color=INK)
                texts.append(f"{method['title']} {value / scale:.3g} {unit}")

            def set_axis(ax):
                most = max((values(method).median or 0 for method in self.methods), default=0) / scale
                ax.set_xlim(0, 1.2 * most or 1)
                ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
                ax.set_xlabel(unit)
            return title, draw, set_axis

        has = {field for seed in self.seeds for run in seed["runs"] for field in ("seconds", "peak_memory_bytes")
               if run.get(field) is not None}
        panels = []
        if "seconds" in has:
            panels.append(panel("seconds", "time of a run", "s", 1))
        if "peak_memory_bytes" in has:
            panels.append(panel("peak_memory_bytes", "peak memory", "MB", 1e6))
        if not panels:
            return None
        wide = self.rows(660, panels)
        narrow = [self.rows(NARROW, [one]) for one in panels]
        text = "Cost of a run, median over runs: " + "; ".join(dict.fromkeys(texts)) + "."
        return self.finish(wide, text), [self.finish(fig, text) for fig in narrow]


def steps_figure(title, lines):
    """Losses, and the share of trained weights, over the steps of all requests."""
    steps = [line for line in lines if line["kind"] == "step"]
    fig, (top, bottom) = figure(NARROW, 270, 2, 1, sharex=True, height_ratios=[1.6, 1])
    x = list(range(len(steps)))
    nan = math.nan

    def series(field):
        return [nan if line.get(field) is None else line[field] for line in steps]

    top.plot(x, series("loss"), color=SERIES[0])
    if any("retain_loss" in line for line in steps):
        top.plot(x, series("retain_loss"), color=SERIES[1], linestyle=DASHES[1])
    bottom.plot(x, series("unmask_ratio"), color=MUTED, linewidth=1.2, linestyle=DASHES[1])
    bottom.plot(x, series("fraction_trained"), color=SERIES[2])
    borders = [i for i in x if i and steps[i]["task"] != steps[i - 1]["task"]]
    for ax in (top, bottom):
        ax.grid(axis="x", visible=False)
        for border in borders:
            ax.axvline(border - 0.5, color=GRID, linewidth=1.2)
        for i in x:
            if steps[i]["skipped"]:
                ax.axvline(i, color=SERIES[1], linewidth=0.8)
    top.yaxis.set_major_locator(MaxNLocator(nbins=4))
    probability_axis(bottom.yaxis)
    bottom.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    bottom.yaxis.set_major_formatter(FixedFormatter(["0", ".5", "1"]))
    bottom.set_xlabel("step")
    top.set_title(wrapped(title))
    losses = [line["loss"] for line in steps if line["loss"] is not None]
    said = f"forget loss from {losses[0]:.3g} to {losses[-1]:.3g}" if losses else "no finite loss"
    return fig, (f"{title}: {len(steps)} steps of {len(borders) + 1} requests, {said}, share trained "
                 f"{short(steps[0]['fraction_trained'])} to {short(steps[-1]['fraction_trained'])}, "
                 f"{sum(line['skipped'] for line in steps)} steps skipped.")


def threshold_curves(lines):
    """("step" or "request", {tensor: [(step or request, threshold)]}): step by step where the log has it."""
    curves = {}
    for line in lines:
        for name, value in line.get("thresholds", {}).items():
            if value is not None:
                curves.setdefault(name, []).append((line["step"] + 1, value))
    if curves:
        return "step", curves
    for line in lines:
        for tensor in line.get("tensors", []):
            if tensor["threshold"] is not None:
                curves.setdefault(tensor["name"], []).append((line["task"] + 1, tensor["threshold"]))
    return "request", curves


def requests_figure(title, lines):
    """The five probabilities after each request."""
    tasks = [line for line in lines if line["kind"] == "task"]
    fig, ax = figure(NARROW, 240)
    x = [line["task"] + 1 for line in tasks]
    texts = []
    for (field, label), colour, marker in zip(KNOWN.items(), SERIES, MARKERS):
        values = [math.nan if line[field] is None else line[field] for line in tasks]
        ax.plot(x, values, color=colour, marker=marker, gid=series_id(field, label))
        texts.append(f"{label} " + ", ".join(short(line[field]) for line in tasks))
    probability_axis(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.set_xlim(0.7, max(x[-1], 2) + 0.3)
    ax.set_xlabel("request")
    ax.set_title(title)
    return fig, f"Probabilities after each request: " + "; ".join(texts) + "."


def places_of(tensors):
    """Layers, types, and {name: (layer, type)}: block0.qkv.weight is the qkv of layer 0; biases and
    normalisation beside them."""
    cells, layers, kinds = {}, [], []
    for tensor in tensors:
        match = re.match(r"(.*?\D)?(\d+)\.(.+)$", tensor["name"])
        layer, kind = (match[2], match[3]) if match else ("–", tensor["name"])
        cells[tensor["name"]] = (layer, kind.removesuffix(".weight"))
        kind = kind.removesuffix(".weight")
        if layer not in layers:
            layers.append(layer)
        if kind not in kinds:
            kinds.append(kind)
    layers.sort(key=lambda layer: (layer == "–", int(layer) if layer.isdigit() else 0))
    return layers, kinds, cells
