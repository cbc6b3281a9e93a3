"""docs/results.md and its pictures, of the results.json that is kept beside them."""
import html
import pathlib
import re
import textwrap

import comparing
import page
import plots
from comparing import short, spread
from drawing import figure

# a page of Markdown has one look: that of print
STYLE = (pathlib.Path(__file__).parent / "style.css").read_text()
COLOURS = dict(re.findall(r"--([\w-]+): (#\w+);", STYLE[:STYLE.index("@media")]))


def standalone(source):
    """An SVG of the report as a file of its own."""
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', source).groups()
    source = re.sub(r"var\(--([\w-]+)\)", lambda match: COLOURS[match[1]], source)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="system-ui, DejaVu Sans, sans-serif" ')
    source = source.replace("<svg role=\"img\" ", head, 1).replace(f'viewBox="0 0 {width} {height}" aria', "aria", 1)
    source = re.sub(r' style="--most: [^"]*"', "", source, count=1)
    return source.replace(">", f'>\n<rect width="{width}" height="{height}" fill="#ffffff"/>', 1) + "\n"


def alternative(source):
    return html.unescape(re.search(r'aria-label="([^"]*)"', source)[1])


def panels(drawn, draw, titles, height):
    """A figure with one panel a family and row, and a legend under each column."""
    groups = plots.families(drawn.methods)
    fig, axes = figure(320 * len(groups), height, len(titles), len(groups), squeeze=False)
    for column, (family, group) in enumerate(groups):
        for row, title in enumerate(titles):
            draw(axes[row][column], group, row, f"{family}: {title}" if len(titles) == 1 else title)
        handles, labels = axes[0][column].get_legend_handles_labels()
        axes[-1][column].legend(handles, labels, loc="upper left", bbox_to_anchor=(-0.05, -0.22), frameon=False,
                                fontsize=10, ncols=1, labelspacing=0.35)
    return fig


def table(head, rows):
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def with_deviation(numbers):
    cell = page.with_deviation(numbers)
    return cell["text"] + (f" {cell['small']}" if cell["small"] else "")


def paragraph(text, first="", other=""):
    """In lines; a link stays on one, which Doxygen needs."""
    text = re.sub(r"\[[^\]]*\]", lambda match: match[0].replace(" ", "\0"), text)
    return textwrap.fill(text, 118, initial_indent=first, subsequent_indent=other, break_long_words=False,
                         break_on_hyphens=False).replace("\0", " ")


def level_rows(results, level):
    rows = []
    for row in level.rows:
        if not row.reached and level.is_gold:
            continue  # most or all of them: named in a sentence
        if not row.reached:
            rows.append([row.method["title"], "not reached", "", "", "", "", ""])
            continue
        kept = with_deviation(row.unseen)
        if said := row.seeds(len(results["seeds"])):
            kept += f" ({said})"
        distance = short(row.distance.mean)
        if row.distance.values:
            distance += f" (at {short(row.measured_at.mean)})"
        rows.append([row.method["title"], with_deviation(row.shown), kept, distance,
                     comparing.short_p(row.log_p.mean), with_deviation(row.extraction), with_deviation(row.relearned)])
    return rows


HEAD = ["", "kept, shown", "kept, never shown", "forget quality: D", "p", "extraction strength",
        "relearned after 10 steps"]


def model_rows(results):
    rows = []
    for title, name in (("before unlearning", "base"), ("gold model", "gold")):
        def mean(*keys):
            return spread(comparing.value_of(seed[name], *keys) for seed in results["seeds"])
        relearned = spread(comparing.relearned(seed[name], 10) for seed in results["seeds"])
        rows.append([f"*{title}*, forgotten {short(mean('probability', 'forgotten').mean)}",
                     with_deviation(mean("probability", "shown")), with_deviation(mean("probability", "unseen")),
                     short(mean("metrics", "forget_quality", "distance").mean),
                     comparing.short_p(mean("metrics", "forget_quality", "log_p").mean),
                     with_deviation(mean("metrics", "sets", "forgotten", "extraction_strength")),
                     with_deviation(relearned)])
    return rows


def part_sentence(row, first):
    """What leaving out a part of ALKN does, paired over seeds."""
    gain = row.gained
    if not gain.values:
        return f"{row.method['title']}: does not get there."
    seeds = " (one seed)" if len(gain.values) == 1 else ""
    unclear = gain.low < 0 < gain.high
    word = "as much, within the spread of the seeds," if unclear or abs(gain.mean) < 0.005 else \
        f"{short(abs(gain.mean))} {'more' if gain.mean > 0 else 'less'}"
    return f"{row.method['title']} keeps {word} of the unseen than {first['title']}{seeds}." if not word.startswith("as much") \
        else f"{row.method['title']} keeps {word} of the unseen as {first['title']}{seeds}."


def advice(results, table_):
    """What the numbers mean for someone who chooses."""
    level = next(row for row in table_ if row.forgotten == comparing.focus_level(results))
    at = short(level.forgotten)
    reached = [row for row in level.rows if row.everywhere]
    lines = []
    if not reached:
        return lines
    by_unseen, by_shown = (sorted(reached, key=lambda row: -getattr(row, name).mean) for name in ("unseen", "shown"))

    def kept(rows, name):
        return "; ".join(f"{row.method['title']} {short(getattr(row, name).mean)}" for row in rows)

    lines.append(f"**If what is to be kept can be shown**: at {at} these keep most of "
                 f"it: {kept(by_shown[:4], 'shown')}.")
    lines.append(f"**If most of what is to be kept cannot be shown**, which is the rule, judge by the authors that no "
                 f"method saw. These keep most of them: {kept(by_unseen[:4], 'unseen')}. Last is "
                 f"{kept(by_unseen[-1:], 'unseen')}.")
    gap = max(reached, key=lambda row: row.shown.mean - row.unseen.mean)
    lines.append(f"**Never measure on what the method was shown.** {gap.method['title']} keeps {short(gap.shown.mean)} "
                 f"of that and {short(gap.unseen.mean)} of the rest.")
    relearned = sorted((row for row in reached if row.relearned.values), key=lambda row: row.relearned.mean)
    gold = spread(comparing.relearned(seed["gold"], 10) for seed in results["seeds"]).mean
    if len(relearned) > 1 and gold is not None:
        lines.append(f"**If others can train the model**, forgetting is thin: ten steps on half of the questions bring "
                     f"the other half from {at} to {short(relearned[0].relearned.mean)} "
                     f"({relearned[0].method['title']}) up to {short(relearned[-1].relearned.mean)} "
                     f"({relearned[-1].method['title']}); a model that never learned them comes to {short(gold)}.")
    quantized = []
    for row in reached:
        runs = [comparing.focus_run(results, seed, row.method["name"], "attacks") for seed in results["seeds"]]
        pairs = [(comparing.value_of(run or {}, "attacks", "quantization", "probability", "forgotten"),
                  comparing.value_of(run or {}, "probability", "forgotten")) for run in runs]
        rise = spread(after - before for after, before in pairs if after is not None and before is not None).mean
        if rise is not None:
            quantized.append((rise, row.method["title"]))
    if len(quantized) > 1:
        rise, title = max(quantized)
        lines.append("**If the model will be quantised to four bits**, measure again: "
                     + (f"with {title} the forget probability rises by {short(rise)}, the most of all." if rise > 0 else
                        "here it brought nothing back."))
    return lines


def write(results, path):
    """Writes the page to `path`, its pictures into the folder of the same name without .md."""
    table_ = comparing.compare(results)
    drawn = plots.Plots(results, table_)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    level = next(row for row in table_ if row.forgotten == comparing.focus_level(results))
    lowest = [row for row in table_ if not row.is_gold][-1]
    chosen = [level] if lowest is level else [level, lowest]
    texts = []

    def trade_off(ax, group, row, title):
        kept = ("unseen", "shown")[row]
        texts.extend(drawn.draw_trade_off(ax, group, kept, title))

    trade = drawn.finish(panels(drawn, trade_off, ["kept, never shown", "kept, shown"], 690),
                         "Trade-off curves. " + "; ".join(dict.fromkeys(texts)) + ".")
    pictures = {"kept": drawn.finish(drawn.rows(860, [drawn.level_panel(one) for one in chosen], 23),
                                     "What is kept at equal forgetting; the tables have the numbers."),
                "trade-off": trade}
    said = []

    def relearning(ax, group, row, title):
        found, _ = drawn.draw_relearning(ax, group, "forgotten", title)
        said.extend(found)

    attack = panels(drawn, relearning, ["relearning"], 330)
    if said:
        pictures["relearning"] = drawn.finish(attack, "Relearning curves. " + "; ".join(dict.fromkeys(said)) + ".")
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, source in pictures.items():
        (folder / f"{name}.svg").write_text(standalone(source), encoding="utf-8")

    def picture(name):
        return f"![{alternative(pictures[name])}]({folder.name}/{name}.svg)\n"

    summary = comparing.summary(results, table_)
    number = len(results["seeds"])
    first = results["methods"][0]
    parts = [row for row in level.rows if row.method.get("family") == "ablation"]
    lines = ["# Results\n",
             f"<!-- written by `make results` from {folder.name}/results.json -->\n",
             paragraph(f"{results['title']}: {results['data']}, {len(results['methods'])} methods, "
             f"{sum(len(seed['runs']) for seed in results['seeds'])} runs, {number} seed{'s' if number > 1 else ''}. The "
             "same numbers as a page with all metrics, attacks and answers: "
             f"`make report RESULTS=docs/{folder.name}`. How to measure your own model: [the guide](measure.md).") + "\n"]
    if results.get("quick"):
        lines.append("**A trial run on little data: it shows that everything works, and nothing about the methods.**\n")
    if results["not_run"]:
        lines.append(paragraph("Not run: " + comparing.enumeration(m["title"] for m in results["not_run"]) + ".") + "\n")
    lines += [paragraph(sentence, "- ", "  ") for sentence in summary]
    lines += ["\n## At equal forgetting\n",
              paragraph("Every method is a curve along its one strength, interpolated in log-odds to the same forget probability. "
              "*Kept, shown*: answer probability on kept authors that the method was shown; *kept, never shown*: on "
              "others. *D*: distance of the truth ratios from those of the gold model, a model that never learned what "
              "is forgotten (p of the exact test beside it, too small since one author's questions are alike). D, p, "
              "extraction strength and relearning are of the run nearest to the level."
              + (" ± is one standard deviation over seeds." if number > 1 else " One seed: no spread.")) + "\n"]
    for one in table_:
        lines.append(f"### Forget probability {short(one.forgotten)}"
                     + (", the gold model's own level\n" if one.is_gold else "\n"))
        missing = [row.method["title"] for row in one.rows if not row.reached]
        if one.is_gold and len(missing) == len(one.rows):
            lines.append("Not reached by any method.\n")
            continue
        lines.append(table(HEAD, level_rows(results, one) + model_rows(results)))
        if one.is_gold and missing:
            lines.append(paragraph(f"Not reached: {comparing.enumeration(missing)}.\n") + "\n")
    lines += ["Full marks: never shown; hollow marks: shown; upright bars: each seed.\n", picture("kept"),
              "## The price of forgetting more\n",
              "Star: the gold model. Grey: all other methods. Thin: each seed.\n", picture("trade-off")]
    if "relearning" in pictures:
        lines += ["## Relearning\n", f"From runs near {short(level.forgotten)}; dotted: the gold model.\n",
                  picture("relearning")]
    lines.append("## Choosing a method\n")
    lines += [paragraph(text) + "\n" for text in advice(results, table_)]
    if parts:
        lines.append(f"## What the parts of ALKN do\n\nAt forget probability {short(level.forgotten)}, differences "
                     "paired over seeds:\n")
        lines += [paragraph(part_sentence(row, first), "- ", "  ") for row in parts] + [""]
    lines += ["## What this cannot show\n",
              paragraph("The model is small and has memorised short texts about people who do not exist. It has no general "
              "knowledge that could be lost, and it answers nothing that it was not trained on. Forgetting in it need not "
              "look like forgetting in a model of billions of weights; learning rates do not carry over. "
              + (f"{number} seeds show large differences and not small ones. " if number > 1 else
                 "One seed shows no difference for certain. ")
              + "Every method got the same number of tuning runs, and one that needs more may do better than here.") + "\n",
              "## Reproduce\n", f"    {results['command']}\n",
              "| setting | value |\n| --- | --- |"]
    lines += [f"| {key} | {page.shown_value(value)} |" for key, value in results["configuration"].items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
