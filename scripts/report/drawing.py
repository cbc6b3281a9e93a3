"""Matplotlib to SVG that takes its colours from the page, and gives the same bytes for the same numbers.

A plot is drawn in CSS pixels: a figure 320 wide has 11 px text where the page shows it at its natural size. Text stays
text. Colours are placeholders that become CSS variables, so that one drawing serves light, dark and print.
"""
import html
import io
import re
import textwrap

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

INK, MUTED, GRID, SURFACE, FAINT = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface", FAINT: "faint"}
NUM_SERIES = 8
SERIES = [f"#1000{i:02x}" for i in range(NUM_SERIES)]
VARIABLES |= {colour: f"series-{i}" for i, colour in enumerate(SERIES)}
HEAT = [f"#2000{i:02x}" for i in range(11)]  # a scale of one hue, which survives any colour vision and a grey printer
VARIABLES |= {colour: f"heat-{i}" for i, colour in enumerate(HEAT)}
HEAT_INK = ["#300000", "#300001"]  # on its lower and its upper half
VARIABLES |= {colour: f"heat-ink-{i}" for i, colour in enumerate(HEAT_INK)}
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "h"]
DASHES = ["-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5))]
NARROW, FONT = 320, 11

matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "alkn", "font.size": FONT, "font.family": "DejaVu Sans",
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "axes.titlecolor": INK, "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "axes.axisbelow": True, "axes.titlesize": FONT + 1, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.labelsize": FONT, "axes.titlepad": 8, "axes.unicode_minus": True,
    "grid.color": GRID, "grid.linewidth": 0.8, "text.color": INK, "figure.facecolor": "none",
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": FONT, "ytick.labelsize": FONT,
    "xtick.major.size": 0, "ytick.major.size": 0, "lines.linewidth": 1.8, "lines.markersize": 5,
})


def figure(width, height, rows=1, columns=1, **options):
    fig = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    fig.get_layout_engine().set(w_pad=4 / 72, h_pad=4 / 72)
    return fig, fig.subplots(rows, columns, **options)


def wrapped(text, columns=34):
    """In lines of at most so many characters."""
    return textwrap.fill(text, columns)


def series_id(method, title):
    """For set_gid: the page dims all methods but the one that is pointed at."""
    return f"series|{method}|{title}"


LOG_ODDS_TICKS = [1e-5, 1e-4, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99]


def log_odds_axis(axis, low, high):
    """A logit scale from low to high with ticks that people read as probabilities."""
    axis.axes.set(**{f"{axis.axis_name}scale": "logit"})
    inside = [tick for tick in LOG_ODDS_TICKS if min(low, high) <= tick <= max(low, high)]
    axis.set_major_locator(FixedLocator(inside))
    axis.set_major_formatter(FixedFormatter([f"{tick:g}".lstrip("0").replace("1e-0", "1e−") for tick in inside]))
    axis.set_minor_locator(NullLocator())
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})


def probability_axis(axis, low=0.0, high=1.0):
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(["0", ".25", ".5", ".75", "1"]))
    pad = 0.03 * (high - low)
    axis.axes.set(**{f"{axis.axis_name}lim": (low - pad, high + pad)})


def svg(fig, name, text):
    """The figure as an element of a page: `name` makes its identifiers its own, `text` stands for it where it is not
    seen."""
    buffer = io.StringIO()
    FigureCanvasSVG(fig).print_svg(buffer)
    source = buffer.getvalue()
    source = source[source.index("<svg"):]
    source = re.sub(r"\s*<metadata>.*?</metadata>", "", source, flags=re.DOTALL)  # it has the date
    source = re.sub(r"\s*<style type=\"text/css\">.*?</style>", "", source, flags=re.DOTALL)
    source = re.sub(r"<!--.*?-->\s*", "", source, flags=re.DOTALL)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', source)
    head = (f'<svg role="img" viewBox="0 0 {box[1]} {box[2]}" aria-label="{html.escape(text)}" '
            f'style="--most: {float(box[1]) * (1.45 if float(box[1]) < 400 else 1.12):.0f}px">')
    source = head + source[source.index(">") + 1:]

    def titled(match):
        _, method, title = html.unescape(match[1]).split("|", 2)
        return f'<g class="series" data-method="{html.escape(method)}"><title>{html.escape(title)}</title>'

    source = re.sub(r'<g id="(series\|[^"]*)">', titled, source)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', source))
    source = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", source)
    source = re.sub(r'(url\(#|href="#)([^)"]+)', lambda m: f"{m[1]}{name}-{m[2]}", source)
    source = source.replace("xlink:href", "href")
    source = re.sub(r"font: (?:(\w+) )?([\d.]+)px 'DejaVu Sans'[^;\"]*",
                    lambda m: (f"font-weight: {m[1]}; " if m[1] else "") + f"font-size: {m[2]}px", source)
    source = re.sub(r"font-family: 'DejaVu Sans'; | transform=\"rotate\(-0 [^\"]*\"", "", source)
    source = re.sub(r'<path d="[^"]*"\s+style="fill: none"/>|<defs>\s*</defs>', "", source)
    for _ in range(3):
        source = re.sub(r"<g>\s*</g>|<g/>", "", source)
    source = re.sub(r'( (?:d|x|y|transform|width|height|points)=")([^"]*)',
                    lambda m: m[1] + re.sub(r"(\.\d\d)\d+", r"\1", m[2]).replace("\n", ""), source)
    for colour, variable in VARIABLES.items():
        source = source.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", source).strip()
