"""Still pictures: PNGs that every host shows, also where no kernel runs (GitHub, a saved notebook, Colab).

A chart is a function that draws on matplotlib axes; `picture` puts one or several side by side:

>>> picture(heat(counts, "Reads", "reads"), curves({"df": (x, y)}, "slots", "batches"), says="What is to be seen.")
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, PercentFormatter
from PIL import Image

from smft_lab.charts import style
from smft_lab.charts.paths import learned_and_kept
from smft_lab.charts.style import AXIS, GRID, INK, MUTED, SURFACE

Draw = Callable[[Axes], None]
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name: (x values, y values)
DPI = 120  # of the PNG; shown at two thirds of its pixels
COLOURS = 128  # of the PNG: a table of 57,600 cells is then a third of the size
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
    "figure.facecolor": SURFACE,
    "axes.facecolor": SURFACE,
}
SHADES = LinearSegmentedColormap.from_list("slots", ["#d6e6f1", "#56a0ce", "#00548c", "#04224a"])
SHADES = SHADES.with_extremes(bad="#fcfcfc")
PATHS = [look.light for look in style.LOOKS.values()] + [look.light for look in style.OTHER_LOOKS]


class Picture:
    """A drawn figure that a notebook shows as a PNG.

    Attributes:
        png: The file's bytes.
        says: What there is to be seen, in a sentence: its text for whoever cannot see it.
    """

    def __init__(self, figure: Figure, says: str):
        self.says = says
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI)
        small = io.BytesIO()
        Image.open(file).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
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
    """
    with mpl.rc_context(LOOK):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.06)
        figure = Figure(figsize=(width * len(charts), height), layout=layout)
        axes = figure.subplots(1, len(charts), squeeze=False)[0]
        for one, draw in zip(axes, charts, strict=True):
            draw(one)
        return Picture(figure, says)


def _say(axes: Axes, why: str) -> None:
    """Why an empty chart is empty, in its middle."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=MUTED)


def heat(values, title: str, unit: str) -> Draw:
    """One value per slot, drawn as the square of product keys: slot = row x sqrt(N) + column. Darker is more.

    Args:
        values: (N,) numbers, N a perfect square; slots of value 0 stay blank.
        unit: What is counted, for the colour bar.
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
    """

    def draw(axes: Axes) -> None:
        colours = [PATHS[0] if one else "#B9C7D3" for one in (strong or [True] * len(values))]
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
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    return draw


def spans(
    names: Sequence[str], lows: Sequence[float], highs: Sequence[float], ends: tuple[str, str], x: str, title: str = ""
) -> Draw:
    """A line from a low to a high value per name, the first on top.

    Args:
        ends: What the low and the high ends are.
    """

    def draw(axes: Axes) -> None:
        places = range(len(names))
        axes.hlines(places, lows, highs, color="#B9C7D3", lw=4)
        axes.plot(lows, places, "o", color=MUTED, label=ends[0], clip_on=False)
        axes.plot(highs, places, "o", color=PATHS[0], label=ends[1], clip_on=False)
        axes.set_yticks(places, [_shortened(name) for name in names], color=INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(title=title, xlabel=x)
        axes.set_xlim(0, max([0.1, *lows, *highs]) * 1.08)
        axes.legend(frameon=False, labelcolor="linecolor", fontsize=10)

    return draw


def gauge(low: float, middle: float, high: float, bands: tuple[float, float], title: str = "") -> Draw:
    """How loud the memory is, on a log scale with its bands quiet, good and loud.

    Args:
        low, middle, high: Between which most positions are, and their median; 0 where nothing was added.
        bands: Where good begins and where loud does.
    """

    def draw(axes: Axes) -> None:
        least, most = 0.005, 20.0
        edges = (least, *bands, most)
        for (start, end), name, colour in zip(
            itertools.pairwise(edges), ("quiet", "good", "loud"), ("#E9B48A", "#8CCDB6", "#E8A29D"), strict=True
        ):
            axes.axvspan(start, end, 0.35, 0.65, color=colour, lw=0)
            axes.text(math.sqrt(start * end), 0.7, name, ha="center", color=INK)
        if middle:
            axes.plot([max(low, least), min(high, most)], [0.5, 0.5], color=INK, lw=2)
            axes.plot([middle], [0.5], "D", color=INK, ms=9)
            axes.text(middle, 0.25, f"{middle:.2g}", ha="center", color=INK, fontweight="bold")
        else:
            _say(axes, "nothing is written yet")
        axes.set_xscale("log")
        axes.set(xlim=(least, most), ylim=(0, 1), title=title, xlabel="what the memory adds, over what it is added to")
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
        values: Per token, one number per read; darker is more.
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
    """

    def draw(axes: Axes) -> None:
        paths = learned_and_kept(table)
        kept, runs = paths.kept, paths.runs
        looks = style.looks([*runs["method"], *among])
        for method in style.ordered(runs["method"]):
            look, of_method = looks[method], runs[runs["method"] == method]
            if of_method["seed"].nunique() > 1:
                for _, run in of_method.groupby("seed"):
                    axes.plot(run["learned"], run["kept"], color=look.light, lw=0.8, alpha=0.35)
            mean = paths.means[paths.means["method"] == method]
            axes.plot(
                mean["learned"],
                mean["kept"],
                DASHES[look.dash],
                color=look.light,
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


def grid(matrix, x: str, y: str, title: str, unit: str, *, names: tuple[Sequence, Sequence] | None = None) -> Draw:
    """Shares in a grid of rows and columns, with the number in each cell where there is room.

    Args:
        matrix: (rows, columns) shares in [0, 1]; NaN is left blank.
        names: Of the columns and of the rows.
    """

    def draw(axes: Axes) -> None:
        cells = pd.DataFrame(matrix).to_numpy(dtype=float)
        drawn = axes.imshow(cells, cmap=SHADES, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
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
                        color=SURFACE if value > 0.45 else INK,
                    )
        axes.grid(False)
        axes.set(title=title, xlabel=x, ylabel=y)
        bar = axes.figure.colorbar(drawn, ax=axes, pad=0.02, format=PercentFormatter(1.0, decimals=0))
        bar.set_label(unit)
        bar.outline.set_visible(False)

    return draw
