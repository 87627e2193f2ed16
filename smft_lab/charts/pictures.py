"""Still pictures: PNGs that every host shows, also where no kernel runs (GitHub, a saved notebook, Colab).

A saved picture can't know whether it will be seen on a light or on a dark page. So its ground is transparent, and all
its colours are far enough from white and from black to be read on both.
"""

from __future__ import annotations

import colorsys
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, PercentFormatter
from PIL import Image

from smft_lab.charts import style
from smft_lab.charts.paths import learned_and_kept

if TYPE_CHECKING:
    from jaxtyping import Num
    from torch import Tensor

Draw = Callable[[Axes], None]
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name: (x values, y values)
DPI = 120  # of the PNG; shown at two thirds of its pixels
COLOURS = 256  # of the PNG: a table of 57,600 cells is then a third of the size
WIDTH, HEIGHT = 5.2, 4.0  # inches of one chart
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "star": "*",
    "pentagon": "p",
    "x": "X",
}
STROKES = ("-", "--", "-.", ":")
DASHES = {"solid": "-", "dash": "--", "dot": ":"}
# On white and on the ground of a dark page the text has a contrast of 4 and more, lines and dots one of 3 and more.
INK, MUTED, AXIS = "#6C7884", "#727E8A", "#8A949E"
GRID = to_rgba("#8A949E", 0.28)
LINK = to_rgba("#8A949E", 0.6)  # between two dots, and of bars that stand back
DARKEST = 0.18  # luminance of a line
CLEAR = (0.0, 0.0, 0.0, 0.0)
LOOK: dict[Any, Any] = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": CLEAR,
    "axes.facecolor": CLEAR,
    "savefig.facecolor": CLEAR,
}
# More is stronger: the least lets the page shine through.
SHADES = LinearSegmentedColormap.from_list(
    "slots",
    [
        (0.0, to_rgba("#5AA9DC", 0.22)),
        (0.4, to_rgba("#2E8BC9", 0.7)),
        (0.75, to_rgba("#7A5FC0", 1.0)),
        (1.0, to_rgba("#D0457B", 1.0)),
    ],
).with_extremes(bad=CLEAR)

CELLS = LinearSegmentedColormap.from_list("cells", ["#6B7A88", "#2A7AB5", "#5A46B0"])  # white is read on all of it


def _on_both(colour: str) -> str:
    """A colour of a light page, as bright as a dark one needs."""
    red, green, blue, _ = to_rgba(colour)
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    while _luminance(colorsys.hls_to_rgb(hue, light, saturation)) < DARKEST:
        light += 0.01
    return to_hex(colorsys.hls_to_rgb(hue, light, saturation))


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance as WCAG has it, of three shares of light in [0, 1]."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


GAUGE = ("#D98B45", "#3FA37E", "#D9655C")  # quiet, good, loud
PATHS = [_on_both(look.light) for look in (*style.LOOKS.values(), *style.OTHER_LOOKS)]


class Picture:
    """A drawn figure that a notebook shows as a PNG.

    Attributes:
        png: The file's bytes.
        says: What there is to be seen, in a sentence: its text for whoever cannot see it.

    Examples:
        >>> shown = smft.charts.picture(smft.charts.bars(["a"], [1], "reads"), says="One bar.")
        >>> shown.save("bar.png")
    """

    def __init__(self, figure: Figure, says: str):
        self.says = says
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI)
        small = io.BytesIO()
        Image.open(file).convert("RGBA").quantize(COLOURS).save(small, format="png", optimize=True)
        self.png = small.getvalue()
        self._width = round(figure.get_figwidth() * DPI / 1.5)

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": self.png, "text/plain": self.says}
        return data, {"image/png": {"width": self._width, "alt": self.says}}

    def __repr__(self) -> str:
        return self.says

    def save(self, path: str | Path) -> None:
        """Write the PNG."""
        Path(path).write_bytes(self.png)


def picture(*charts: Draw, says: str, width: float = WIDTH, height: float = HEIGHT) -> Picture:
    """Charts side by side.

    Args:
        says: What there is to be seen, in a sentence.
        width, height: Of one chart, in inches.

    Examples:
        >>> smft.charts.picture(smft.charts.bars(["a", "b"], [1, 3], "reads"), says="b is read more often than a.")
        b is read more often than a.
    """
    with mpl.rc_context(LOOK):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.06)
        figure = Figure(figsize=(width * len(charts), height), layout=layout)
        axes = figure.subplots(1, len(charts), squeeze=False)[0]
        for axis, draw in zip(axes, charts, strict=True):
            draw(axis)
        return Picture(figure, says)


def _say(axes: Axes, why: str) -> None:
    """Why an empty chart is empty, in its middle."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=MUTED)


def heat(values: Sequence[float] | np.ndarray | Num[Tensor, " N"], title: str, unit: str) -> Draw:
    """One value per slot, drawn as the square of product keys: slot = row x sqrt(N) + column. Stronger is more.

    Args:
        values: (N,) numbers, N a perfect square; slots of value 0 stay blank.
        unit: What is counted, for the colour bar.

    Examples:
        >>> smft.charts.picture(smft.charts.heat(lab.usage.df[0], "Background df", "batches"), says="Few are hubs.")
        Few are hubs.
    """

    def draw(axes: Axes) -> None:
        side = math.isqrt(len(values))
        square = pd.Series([float(value) for value in values]).to_numpy().reshape(side, side)
        square = square.copy()
        square[square <= 0] = float("nan")
        blank = not (square > 0).any()
        limits: dict[str, Any] = {"vmin": 0, "vmax": 1} if blank else {}
        drawn = axes.imshow(square, cmap=SHADES, norm=PowerNorm(0.5, **limits), interpolation="nearest")
        if blank:
            _say(axes, "none yet")
        axes.set(title=title, xlabel="column (second half-key)", ylabel="row (first half-key)")
        axes.grid(False)
        bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
        bar.set_label(unit)
        bar.outline.set_visible(False)

    return draw


def curves(
    lines: Lines,
    x: str,
    y: str,
    title: str = "",
    *,
    log: str = "",
    share: bool = False,
    marks: Mapping[str, float] | None = None,
    points: bool = False,
) -> Draw:
    """Lines with their names at the end.

    Args:
        lines: At most nine.
        x, y: What the axes show, with units.
        log: Axes to draw on a log scale: "x", "y" or "xy".
        share: Whether y is a share, shown in percent.
        marks: Name to an x value, drawn as a dashed line.
        points: Whether every value gets a dot.

    Examples:
        >>> lines = {"learned": ([0, 10, 20], [0.0, 0.7, 1.0])}
        >>> smft.charts.picture(smft.charts.curves(lines, "steps", "facts", share=True), says="All are learned.")
        All are learned.
    """

    def draw(axes: Axes) -> None:
        for i, (name, (across, up)) in enumerate(lines.items()):
            marker = "o" if points else ""
            axes.plot(across, up, STROKES[i % 4], color=PATHS[i % len(PATHS)], lw=2.2, marker=marker, ms=4, label=name)
        for name, at in (marks or {}).items():
            axes.axvline(at, color=MUTED, ls="--", lw=1.2)
            axes.annotate(
                name,
                (at, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(4, -3),
                va="top",
                textcoords="offset points",
                color=MUTED,
                fontsize=9.5,
            )
        axes.set(title=title, xlabel=x, ylabel=y)
        if "x" in log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        if "y" in log:
            axes.set_yscale("log")
        if share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_ylim(-0.03, 1.05)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor="linecolor", fontsize=10, handlelength=2.4)

    return draw


def bars(
    names: Sequence[str],
    values: Sequence[float],
    x: str,
    title: str = "",
    *,
    share: bool = False,
    strong: Sequence[bool] | None = None,
    most: float | None = None,
) -> Draw:
    """Horizontal bars, the first on top, each with its value.

    Args:
        most: What the longest bar could be; of `values` by default.
        strong: Which bars are drawn in full colour; all by default.

    Examples:
        >>> smft.charts.picture(smft.charts.bars(["learned", "kept"], [0.9, 1.0], "share", share=True), says="Kept.")
        Kept.
    """

    def draw(axes: Axes) -> None:
        colours = [PATHS[0] if is_strong else LINK for is_strong in (strong or [True] * len(values))]
        drawn = axes.barh(range(len(values)), values, color=colours, height=0.72)
        axes.bar_label(
            drawn, [f"{v:.1%}" if share else f"{v:,.4g}" for v in values], padding=4, color=MUTED, fontsize=10
        )
        axes.set_yticks(range(len(values)), names, color=INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.16)
        if most is not None or not values:
            axes.set_xlim(0, 1.16 * (most or 1))
        if not values:
            _say(axes, "not measured yet")
        axes.set(title=title, xlabel=x)
        if share:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))

    return draw


def spans(
    names: Sequence[str], lows: Sequence[float], highs: Sequence[float], ends: tuple[str, str], x: str, title: str = ""
) -> Draw:
    """A line from a low to a high value per name, the first on top.

    Args:
        ends: What the low and the high ends are.

    Examples:
        >>> ends = ("two facts", "same fact")
        >>> smft.charts.picture(smft.charts.spans(["block 2"], [0.01], [0.18], ends, "alike"), says="Far apart.")
        Far apart.
    """

    def draw(axes: Axes) -> None:
        places = range(len(names))
        axes.hlines(places, lows, highs, color=LINK, lw=4)
        axes.plot(lows, places, "o", color=MUTED, label=ends[0], clip_on=False)
        axes.plot(highs, places, "o", color=PATHS[0], label=ends[1], clip_on=False)
        axes.set_yticks(places, [_shortened(name) for name in names], color=INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(title=title, xlabel=x)
        axes.set_xlim(0, max([0.1, *lows, *highs]) * 1.08)
        under = {"loc": "upper center", "bbox_to_anchor": (0.5, -40 / (72 * axes.bbox.height / axes.figure.dpi))}
        axes.legend(frameon=False, labelcolor="linecolor", fontsize=10, ncols=2, **under)

    return draw


def gauge(low: float, middle: float, high: float, bands: tuple[float, float], title: str = "") -> Draw:
    """How loud the memory is, on a log scale with its bands quiet, good and loud.

    Args:
        low, middle, high: Between which most positions are, and their median; 0 where nothing was added.
        bands: Where good begins and where loud does.

    Examples:
        >>> smft.charts.picture(smft.charts.gauge(0.2, 0.4, 0.6, (0.05, 1.0)), says="Heard.")
        Heard.
    """

    def draw(axes: Axes) -> None:
        least, most = 0.005, 20.0
        edges = (least, *bands, most)
        for (start, end), name, colour in zip(itertools.pairwise(edges), ("quiet", "good", "loud"), GAUGE, strict=True):
            axes.axvspan(start, end, 0.35, 0.65, color=colour, alpha=0.5, lw=0)
            axes.text(math.sqrt(start * end), 0.7, name, ha="center", color=INK)
        if middle:
            axes.plot([max(low, least), min(high, most)], [0.5, 0.5], color=INK, lw=2)
            axes.plot([middle], [0.5], "D", color=INK, ms=9)
            axes.text(middle, 0.25, f"{middle:.2g}", ha="center", color=INK, fontweight="bold")
        else:
            axes.text(0.5, 0.2, "nothing is written yet", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_xscale("log")
        axes.set(xlim=(least, most), ylim=(0, 1), title=title, xlabel="what is added, over the stream it joins")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set_yticks([])
        axes.grid(False)
        axes.spines["left"].set_visible(False)

    return draw


def _shortened(name: str, most: int = 38) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def tokens(pieces: Sequence[str], values: Sequence[Sequence[float]], title: str, unit: str) -> Draw:
    """A text token by token, and under each token a strip with one cell per read.

    Args:
        pieces: T tokens as they are written.
        values: Per token, one number per read; stronger is more.

    Examples:
        >>> reads = smft.token_reads(lab, "Mira has a dog.")
        >>> drawn = smft.charts.tokens(reads.tokens, reads.weights[0], "What each token reads", "weight")
        >>> smft.charts.picture(drawn, says="Each token reads slots of its own.")
        Each token reads slots of its own.
    """

    def draw(axes: Axes) -> None:
        square = pd.DataFrame([[float(v) for v in row] for row in values]).to_numpy().T
        square = square.copy()
        square[square <= 0] = float("nan")
        drawn = axes.imshow(square, cmap=SHADES, norm=PowerNorm(0.5), aspect="auto", interpolation="nearest")
        blank = {0: "start", len(pieces) - 1: "end"}
        names = [piece.strip() or blank.get(place, "␣") for place, piece in enumerate(pieces)]
        axes.set_xticks(range(len(pieces)), names, rotation=45, ha="right", color=INK)
        axes.set_yticks([])
        axes.grid(False)
        axes.set(title=title, ylabel=f"{len(square)} reads per token")
        bar = axes.figure.colorbar(drawn, ax=axes, pad=0.01)
        bar.set_label(unit)
        bar.outline.set_visible(False)

    return draw


def plane(table: pd.DataFrame, title: str = "", among: Iterable[str] = ()) -> Draw:
    """Learning against forgetting: right is learned, down is forgotten; one path per method, mean over seeds.

    Args:
        table: Columns method, seed, step, probe, metric, value, as a comparison's; step 0 is the base.
        among: All methods of several planes, for a method to look the same in each.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), passes=1)
        >>> drawn = smft.charts.plane(run.table.assign(method="sparse", seed=0))
        >>> smft.charts.picture(drawn, says="Right is learned, up is kept.")
        Right is learned, up is kept.
    """

    def draw(axes: Axes) -> None:
        paths = learned_and_kept(table)
        kept, runs = paths.kept, paths.runs
        looks = style.looks([*runs["method"], *among])
        for method in style.ordered(runs["method"]):
            look, of_method = looks[method], runs[runs["method"] == method]
            if of_method["seed"].nunique() > 1:
                for _, run in of_method.groupby("seed"):
                    axes.plot(run["learned"], run["kept"], color=_on_both(look.light), lw=0.8, alpha=0.35)
            mean = paths.means[paths.means["method"] == method]
            axes.plot(
                mean["learned"],
                mean["kept"],
                DASHES[look.dash],
                color=_on_both(look.light),
                lw=2.2,
                ms=5,
                marker=MARKERS[look.symbol],
                label=style.short_name(method),
                clip_on=False,
            )
        axes.axvline(0.95, color=MUTED, ls="--", lw=1)
        axes.set(xlabel="new facts learned (exact match)", ylabel=kept.axis.replace(", %)", ")").lower(), title=title)
        axes.set_xlim(-0.03, 1.03)
        low = runs["kept"].min() if runs["kept"].notna().any() else 1.0
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if kept.is_share:
            axes.set_ylim(min(low - 0.03, 0.87), 1.015)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        else:
            span = max(runs["kept"].max() - low, 0.05)
            axes.set_ylim(low + 1.08 * span, low - 0.12 * span)  # up is better, as ever
        if len(runs):
            axes.legend(frameon=False, labelcolor="linecolor", fontsize=10, loc="lower left")
        else:
            _say(axes, "nothing has been taught yet")

    return draw


def grid(
    matrix: Sequence[Sequence[float]] | np.ndarray | pd.DataFrame,
    x: str,
    y: str,
    title: str,
    unit: str,
    *,
    names: tuple[Sequence, Sequence] | None = None,
) -> Draw:
    """Shares in a grid of rows and columns, with the number in each cell where there is room.

    Args:
        matrix: (rows, columns) shares in [0, 1]; NaN is left blank.
        names: Of the columns and of the rows.

    Examples:
        >>> drawn = smft.charts.grid([[0.9, 0.6]], "facts taught", "group", "Retention", "known")
        >>> smft.charts.picture(drawn, says="The group fades.")
        The group fades.
    """

    def draw(axes: Axes) -> None:
        cells = pd.DataFrame(matrix).to_numpy(dtype=float)
        drawn = axes.imshow(cells, cmap=CELLS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        if names is not None:
            axes.set_xticks(range(cells.shape[1]), names[0])
            axes.set_yticks(range(cells.shape[0]), names[1])
        if cells.size <= 150:
            for (row, column), value in np.ndenumerate(cells):
                if not np.isnan(value):
                    axes.text(
                        column,
                        row,
                        f"{value:.0%}",
                        ha="center",
                        va="center",
                        fontsize=8.5,
                        color="white",
                    )
        axes.grid(False)
        axes.set(title=title, xlabel=x, ylabel=y)
        bar = axes.figure.colorbar(drawn, ax=axes, pad=0.02, format=PercentFormatter(1.0, decimals=0))
        bar.set_label(unit)
        bar.outline.set_visible(False)

    return draw
