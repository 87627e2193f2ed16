"""Plotly figures of a finished comparison. They draw the numbers given; they judge nothing.

`table` is metrics.csv: columns method, seed, step (gradient steps, 0 = base model), probe, metric, value.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy import stats

from smft_lab.charts import style
from smft_lab.charts.paths import learned_and_kept
from smft_lab.charts.style import AXIS, GRID, INK, MUTED, SURFACE, Look, Probe

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif'


def mean_over_seeds(table: pd.DataFrame, probe: str, metric: str) -> pd.DataFrame:
    """Mean and 95% t-interval over seeds: columns method, step, mean, low, high, n (seeds).

    Only steps which every seed of the method was evaluated at are kept, so that a seed which stopped early
    cannot bend the mean. With one seed, low and high are missing.
    """
    chosen = table[(table["probe"] == probe) & (table["metric"] == metric)]
    groups = chosen.groupby(["method", "step"])["value"]
    rows = groups.agg(mean="mean", sd="std", n="count").reset_index()
    rows = rows[rows["n"] == rows.groupby("method")["n"].transform("max")]
    half_width = stats.t.ppf(0.975, (rows["n"] - 1).clip(lower=1)) * rows["sd"] / rows["n"] ** 0.5
    rows = rows.assign(low=rows["mean"] - half_width, high=rows["mean"] + half_width)
    return rows[["method", "step", "mean", "low", "high", "n"]].sort_values(["method", "step"])


def plane(table: pd.DataFrame, summary: dict | None = None) -> go.Figure:
    """Learning versus forgetting: x = new facts learned, y = old (or known) facts kept (both exact match, shares).

    Where no questions tell what was kept, y is a loss, upside down: up is better, too.

    One thick path per method through the mean over seeds, faint lines per seed. With `summary`
    (summary.json) also the target and each method's reading at equal learning with its 95% interval.
    """
    paths = learned_and_kept(table)
    kept, runs, means = paths.kept, paths.runs.dropna(), paths.means.dropna()
    look_of = style.looks(table["method"])
    readings = _equal_learning_points(summary, kept) if summary else {}
    heights = [*runs["kept"], *(r[k] for r in readings.values() for k in ("low", "high") if not style.missing(r[k]))]
    bottom, top = _padded(heights) if kept.is_share else _padded_loss(heights)[::-1]

    figure = go.Figure()
    for method, look in look_of.items():
        _add_seed_lines(figure, runs[runs["method"] == method], method, look, kept)
    for method, look in look_of.items():
        _add_mean_path(figure, means[means["method"] == method], method, look, kept)
    for method, reading in readings.items():
        if method in look_of:
            _add_reading(figure, method, reading, look_of[method], kept)
    _add_end_labels(figure, means, look_of, gap=0.055 * abs(top - bottom))
    _add_start(figure, means, kept)
    if summary:
        _add_target(figure, summary["target"])
    _note(figure, "up and to the right is better ↗", xref="paper", yref="paper", x=0.015, y=0.02, name="hint")
    figure.update_xaxes(title_text="New facts learned (exact match, %)", range=[-0.025, 1.025], dtick=0.2)
    figure.update_yaxes(title_text=kept.axis, range=[bottom, top])
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(tickformat=(".0%" if top - bottom > 0.05 else ".1%") if kept.is_share else ".2f")
    longest = max((len(style.name(m)) for m in look_of), default=0)
    _finish(figure, height=540, margin={"l": 70, "r": 24 + 9 * longest, "t": 34, "b": 58})
    figure.update_layout(
        hovermode="closest",
        showlegend=False,
        meta={"kind": "plane", "short": {m: escape(style.short_name(m)) for m in look_of}},
    )
    return figure


def curves(table: pd.DataFrame) -> go.Figure:
    """One small panel per probe over gradient steps: a line per method (mean over seeds), a 95% band."""
    present = set(zip(table["probe"], table["metric"], strict=True))
    probes = style.probes_in(present)
    look_of = style.looks(table["method"])
    places, columns = _places(probes)
    rows = 1 + max((place // columns for place in places), default=0)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.085, vertical_spacing=0.24)
    for index, probe in zip(places, probes, strict=True):
        _add_panel(figure, table, probe, index, columns, look_of)
    for index in sorted(set(range(rows * columns)) - set(places)):
        row, column = divmod(index, columns)
        figure.update_xaxes(visible=False, row=row + 1, col=column + 1)
        figure.update_yaxes(visible=False, row=row + 1, col=column + 1)
    _finish(figure, height=90 + 310 * rows, margin={"l": 66, "r": 12, "t": 88, "b": 56})
    figure.update_layout(
        hovermode="x",
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 14},
            "itemclick": "toggle",
        },
        meta={"kind": "curves", "panels": len(probes)},
    )
    figure.update_xaxes(title_text="gradient steps", title_font_size=12, rangemode="tozero")
    figure.update_yaxes(title_font_size=12)
    return figure


def _places(probes: list[Probe]) -> tuple[list[int], int]:
    """Where each probe's panel goes, counted along the rows, and how many columns there are.

    Where what was taught is asked in several ways, those fill rows of their own, and what should stay is below.
    """
    learned = sum(probe.is_learned for probe in probes)
    if learned < 2:
        return list(range(len(probes))), min(3, max(1, len(probes)))
    columns = 2 if learned == 4 else 3
    below = columns * math.ceil(learned / columns) - learned
    return [i if i < learned else i + below for i in range(len(probes))], columns


def addresses(table: pd.DataFrame) -> go.Figure:
    """How alike addresses are: a line per row, from two facts to one fact in another wording; a long line is good.

    Args:
        table: Columns name (or block), different and same, shares in [0, 1], such as `measure_blocks` gives.
    """
    look = style.LOOKS["sparse"]
    names = table["name"] if "name" in table else [f"block {block}" for block in table["block"]]
    names = [escape(str(name)) for name in names]
    figure = go.Figure()
    for name, low, high in zip(names, table["different"], table["same"], strict=True):
        figure.add_scatter(
            x=[low, high],
            y=[name, name],
            mode="lines",
            line={"color": AXIS, "width": 4},
            hoverinfo="skip",
            showlegend=False,
            meta={"role": "gap"},
        )
    ends_of = (("different", "two facts", MUTED), ("same", "same fact, other wording", look.light))
    for column, called, colour in ends_of:
        hover = f"%{{y}}, {called}: %{{x:.2f}}<extra></extra>"
        figure.add_scatter(
            x=table[column].tolist(),
            y=names,
            mode="markers",
            name=called,
            hovertemplate=hover,
            marker={"color": colour, "size": 11},
            meta={"role": column},
        )
    figure.update_xaxes(title_text="How alike their addresses are", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    _finish(figure, height=110 + 30 * max(1, len(names)), margin={"l": 90, "r": 20, "t": 40, "b": 56})
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}, meta={"kind": "addresses"})
    return figure


def loudness(table: pd.DataFrame, quiet: float, loud: float) -> go.Figure:
    """How loud a memory is, a row each, over the bands quiet, good and loud, on a log scale.

    Args:
        table: Columns name, low, median and high: what is added over what it is added to; 0 where nothing was.
        quiet, loud: Where the band of the good ones begins and ends.
    """
    least, most = min(0.005, quiet / 10), max(20.0, 10 * loud)
    figure = go.Figure()
    colours = {"quiet": style.LOOKS["full"].light, "good": style.LOOKS["lora"].light, "loud": "#B3122F"}
    for (name, colour), start, end in zip(colours.items(), (least, quiet, loud), (quiet, loud, most), strict=True):
        figure.add_vrect(x0=start, x1=end, fillcolor=colour, opacity=0.16, line_width=0, layer="below", name=name)
        _note(figure, name, x=(math.log10(start) + math.log10(end)) / 2, xanchor="center", y=1, yref="paper")
    heard = table[table["median"] > 0]
    names = [escape(str(name)) for name in heard["name"]]
    spread = {"array": heard["high"] - heard["median"], "arrayminus": heard["median"] - heard["low"]}
    figure.add_scatter(
        x=heard["median"].tolist(),
        y=names,
        mode="markers",
        marker={"color": INK, "size": 12, "symbol": "diamond"},
        error_x={"type": "data", "symmetric": False, "color": INK, **{k: v.tolist() for k, v in spread.items()}},
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        meta={"role": "heard"},
    )
    figure.update_xaxes(
        title_text="What the memory adds, over what it is added to",
        type="log",
        range=[math.log10(least), math.log10(most)],
    )
    figure.update_yaxes(autorange="reversed", type="category")
    _finish(figure, height=120 + 40 * max(1, len(names)), margin={"l": 90, "r": 20, "t": 34, "b": 56})
    figure.update_layout(showlegend=False, meta={"kind": "loudness"})
    return figure


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Where each mean path ends: columns method, step, learned, kept (shares), n (seeds)."""
    return learned_and_kept(table).means.dropna().groupby("method", as_index=False).last()


def _equal_learning_points(summary: dict, kept: style.Kept) -> dict[str, dict]:
    """Method -> its equal-learning row for what was kept, with `learned` (share) added."""
    rows = {(r["method"], r["probe"], r["metric"]): r for r in summary.get("equal_learning", [])}
    points = {}
    for (method, probe, metric), row in rows.items():
        if (probe, metric) == (kept.key, kept.metric) and not style.missing(row["mean"]):
            learned = rows.get((method, "learned", "em"), {}).get("mean")
            points[method] = row | {"learned": summary["target"] if style.missing(learned) else learned}
    return points


def _padded(values: list[float]) -> tuple[float, float]:
    """An axis range with room above for the start label; never so tight that noise looks like a cliff."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, 0.1)
    return max(high - span - 0.08 * span, -0.02), high + 0.1 * span


def _padded_loss(values: list[float]) -> tuple[float, float]:
    """An axis range for losses with room for a label, never so tight that noise looks like a cliff."""
    values = [value for value in values if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, 0.05)
    return low - 0.12 * span, max(high, low + span) + 0.08 * span


def _padded_share(values: list[float]) -> tuple[float, float]:
    """An axis range for shares with some room, of nothing that no share can be."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, 0.1)
    return max(min(low, high - span) - 0.08 * span, -0.02), min(max(high, low + span) + 0.08 * span, 1.02)


def _add_seed_lines(figure: go.Figure, runs: pd.DataFrame, method: str, look: Look, kept: style.Kept) -> None:
    if runs["seed"].nunique() < 2:
        return
    for seed, run in runs.groupby("seed"):
        figure.add_scatter(
            x=run["learned"].tolist(),
            y=run["kept"].tolist(),
            customdata=run["step"].tolist(),
            mode="lines",
            line={"color": look.light, "width": 1.2},
            opacity=0.32,
            name=escape(style.name(method)),
            hovertemplate=_hover(method, f"seed {seed}", kept),
            meta={"role": "seed", "method": method},
        )


def _add_mean_path(figure: go.Figure, path: pd.DataFrame, method: str, look: Look, kept: style.Kept) -> None:
    size = [7] * (len(path) - 1) + [13]
    seeds = int(path["n"].max()) if len(path) else 0
    who = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
    figure.add_scatter(
        x=path["learned"].tolist(),
        y=path["kept"].tolist(),
        customdata=path["step"].tolist(),
        mode="lines+markers",
        line={"color": look.light, "width": 3, "dash": look.dash},
        marker={"color": look.light, "symbol": look.symbol, "size": size, "opacity": 1, "line": {"width": 0}},
        cliponaxis=False,
        name=escape(style.name(method)),
        hovertemplate=_hover(method, who, kept),
        meta={"role": "path", "method": method},
    )


def _hover(method: str, who: str, kept: style.Kept) -> str:
    return (
        f"<b>{escape(style.name(method))}</b>, {who}<br>step %{{customdata}}<br>"
        f"learned %{{x:.1%}}<br>{kept.describe(_value(kept))}<extra></extra>"
    )


def _value(kept: style.Kept) -> str:
    """How a hover text writes what was kept."""
    return "%{y:.1%}" if kept.is_share else "%{y:.3f}"


def _add_reading(figure: go.Figure, method: str, reading: dict, look: Look, kept: style.Kept) -> None:
    """A hollow marker at equal learning; its whiskers are the 95% interval over seeds."""
    reached = reading["n_reached"] >= reading["n"]
    note = "" if reached else f"<br>target reached in {reading['n_reached']} of {reading['n']} seeds"
    error = None
    if not style.missing(reading["low"]) and not style.missing(reading["high"]):
        error = {
            "type": "data",
            "symmetric": False,
            "array": [reading["high"] - reading["mean"]],
            "arrayminus": [reading["mean"] - reading["low"]],
            "color": look.light,
            "thickness": 1.8,
            "width": 6,
        }
    reading_name = "equal learning" if reached else "best-learned evaluation"
    figure.add_scatter(
        x=[reading["learned"]],
        y=[reading["mean"]],
        error_y=error,
        mode="markers",
        marker={
            "color": SURFACE,
            "symbol": look.symbol if reached else "x",
            "size": 14 if reached else 13,
            "line": {"color": look.light, "width": 3 if reached else 2},
        },
        cliponaxis=False,
        name=escape(style.name(method)),
        hovertemplate=(
            f"<b>{escape(style.name(method))}</b>, {reading_name}"
            f"<br>learned %{{x:.1%}}<br>{kept.describe(_value(kept))}{note}<extra></extra>"
        ),
        meta={"role": "reading", "method": method, "reached": reached},
    )


def _add_end_labels(figure: go.Figure, means: pd.DataFrame, look_of: dict[str, Look], gap: float) -> None:
    last = means.groupby("method").last()
    kept: dict[Any, float] = last["kept"].to_dict()
    methods = sorted(kept, key=kept.__getitem__)
    heights = _spread([kept[method] for method in methods], gap)
    for method, height in zip(methods, heights, strict=True):
        figure.add_annotation(
            x=last.loc[method, "learned"],
            y=height,
            text=f"{escape(style.name(method))}",
            name=f"label:{method}",
            xanchor="left",
            xshift=12,
            showarrow=False,
            font={"color": look_of[method].light, "size": 15, "weight": 700},
        )


def _spread(values: list[float], gap: float) -> list[float]:
    """Ascending values moved apart, around their own middle, so that no two are closer than `gap`."""
    groups: list[list[float]] = []  # each group is placed evenly around the mean of its members
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _lowest(groups[-1], gap) - _highest(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_lowest(group, gap) + i * gap for group in groups for i in range(len(group))]


def _lowest(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _highest(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _add_start(figure: go.Figure, means: pd.DataFrame, kept: style.Kept) -> None:
    start = means[means["step"] == 0]
    if start.empty:
        return
    x, y = start["learned"].mean(), start["kept"].mean()
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers",
        marker={"color": INK, "size": 11, "symbol": "circle"},
        hovertemplate=f"base model, step 0<br>learned %{{x:.1%}}<br>{kept.describe(_value(kept))}<extra></extra>",
        name="base model",
        cliponaxis=False,
        meta={"role": "start"},
    )
    _note(figure, "base model, step 0", x=x, y=y, yshift=9, color=INK, bgcolor=SURFACE)


def _add_target(figure: go.Figure, target: float) -> None:
    line = {"color": MUTED, "width": 1.5, "dash": "dash"}
    figure.add_shape(
        type="line", x0=target, x1=target, y0=0, y1=1, yref="paper", line=line, layer="below", name="target"
    )
    text = f"target: {style.percent(target, 0)} learned"
    _note(figure, text, x=target, xanchor="center", y=1, yref="paper", yshift=2)


def _note(figure: go.Figure, text: str, color: str = MUTED, **where) -> None:
    place = {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "name": "note"} | where
    figure.add_annotation(text=text, font={"color": color, "size": 13}, **place)


def _add_panel(
    figure: go.Figure, table: pd.DataFrame, probe: Probe, index: int, columns: int, look_of: dict[str, Look]
) -> None:
    row, column = divmod(index, columns)
    cell: dict[str, Any] = {"row": row + 1, "col": column + 1}
    rows = mean_over_seeds(table, probe.key, probe.metric)
    for method, look in look_of.items():
        line = rows[rows["method"] == method]
        _add_band(figure, line, probe, method, look, cell)
        _add_line(figure, line, probe, method, look, cell, in_legend=index == 0)
    base = rows.loc[rows["step"] == 0, "mean"]
    if not probe.is_learned and not base.empty:
        figure.add_hline(y=base.mean(), line={"color": AXIS, "width": 1.2, "dash": "dot"}, layer="below", **cell)
    suffix = "" if index == 0 else str(index + 1)
    figure.add_annotation(
        xref=f"x{suffix} domain",
        yref=f"y{suffix} domain",
        x=0,
        y=1,
        yshift=6,
        xanchor="left",
        yanchor="bottom",
        align="left",
        showarrow=False,
        name="panel",
        text=f"<b>{probe.title}</b>  <span style='font-size:12px;color:{MUTED}'>{probe.better}</span>",
        font={"size": 14, "color": INK},
    )
    drawn = [v for name in ("mean", "low", "high") for v in rows[name] if math.isfinite(v)]
    around = _padded_share([min(1.0, max(0.0, v)) for v in drawn]) if probe.is_share else _padded_loss(drawn)
    figure.update_yaxes(range=list(around), **cell)
    loss_format = ".2f" if rows["mean"].max() - rows["mean"].min() > 0.05 else ".3f"
    figure.update_yaxes(title_text=probe.unit, tickformat=".0%" if probe.is_share else loss_format, **cell)


def _add_band(figure: go.Figure, line: pd.DataFrame, probe: Probe, method: str, look: Look, cell: dict) -> None:
    band = line.dropna(subset=["low", "high"])
    if band.empty:
        return
    # A t-interval knows nothing of 0% and 100%; a band outside them would show impossible shares.
    high, low = (band[k].clip(0, 1) if probe.is_share else band[k] for k in ("high", "low"))
    steps = band["step"].tolist()
    figure.add_scatter(
        x=steps + steps[::-1],
        y=high.tolist() + low.tolist()[::-1],
        fill="toself",
        fillcolor=look.light,
        opacity=0.2,
        line={"width": 0, "color": look.light},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=method,
        meta={"role": "band", "method": method, "probe": probe.key},
        **cell,
    )


def _add_line(
    figure: go.Figure,
    line: pd.DataFrame,
    probe: Probe,
    method: str,
    look: Look,
    cell: dict,
    in_legend: bool,
) -> None:
    number = "%{y:.1%}" if probe.is_share else "%{y:.3f}"
    figure.add_scatter(
        x=line["step"].tolist(),
        y=line["mean"].tolist(),
        mode="lines+markers",
        line={"color": look.light, "width": 2.5, "dash": look.dash},
        marker={"color": look.light, "symbol": look.symbol, "size": 7},
        name=escape(style.name(method)),
        legendgroup=method,
        showlegend=in_legend,
        hovertemplate=f"{escape(style.name(method))}, step %{{x}}: {number}<extra></extra>",
        meta={"role": "line", "method": method, "probe": probe.key},
        **cell,
    )


def _finish(figure: go.Figure, height: int, margin: dict) -> None:
    """The plain look that every figure shares; transparent, so that the page's own background shows."""
    axis = {
        "gridcolor": GRID,
        "linecolor": AXIS,
        "tickcolor": AXIS,
        "tickfont": {"color": MUTED, "size": 12},
        "title": {"font": {"color": INK, "size": 14}, "standoff": 10},
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
    }
    look = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": INK},
        "hoverlabel": {
            "bgcolor": SURFACE,
            "bordercolor": AXIS,
            "font": {"color": INK, "family": FONT},
            "align": "left",
        },
        "xaxis": axis,
        "yaxis": axis,
    }
    figure.layout.template = go.layout.Template(layout=look)  # replaces Plotly's own, and all its colours
    figure.update_layout(height=height, margin=margin, uirevision="keep")
