"""Charts of the page: one per experiment, colours by method as in every other chart of the lab."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from smft_lab.charts.style import LOOKS, SHORT_NAMES
from smft_lab.reproduce.jobs import LADDER
from smft_lab.reproduce.tables import ends

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon", "pentagon",
           "circle-open", "square-open", "diamond-open", "triangle-up-open")  # fmt: skip
SHARE = ".0%"


def trade_off(table: pd.DataFrame, label: Callable[[dict], str]) -> go.Figure | None:
    """Learned against kept at the end of every run: a colour per method, a symbol per setting, a dot per seed."""
    if (table["kind"] != "finetune").all():
        return None
    last = ends(table)
    last["label"] = [label(row) for row in last.to_dict("records")]
    figure = go.Figure()
    used: dict[str, int] = {}
    for name, runs in last[last["label"] != ""].groupby("label", sort=False):
        method = runs["method"].iloc[0]
        used[method] = used.get(method, -1) + 1
        look = {"size": 11, "color": LOOKS[method].light, "symbol": SYMBOLS[used[method] % len(SYMBOLS)]}
        hover = "%{text}<br>learned %{x:.1%}<br>old facts kept %{y:.1%}<extra></extra>"
        figure.add_scatter(x=runs["learned"], y=runs["kept"], mode="markers", name=str(name), marker=look,
                           text=[f"{name}, seed {seed}" for seed in runs["seed"]],
                           hovertemplate=hover)  # fmt: skip
    return axes(figure, "new facts learned at the end (share)", "old facts kept (share)", SHARE, SHARE)


def razor(table: pd.DataFrame, found: dict) -> go.Figure:
    """Forgetting against KL on the taught statements, a dot per run."""
    figure = go.Figure()
    for method, runs in ends(table).groupby("method", sort=False):
        figure.add_scatter(x=[found[key]["kl_on_taught"] for key in runs["key"]], y=1 - runs["kept"], mode="markers",
                           name=SHORT_NAMES[method], marker=_marker(method),
                           text=[f"lr={lr:g}, t={t}" for lr, t in zip(runs["lr"], runs["top_t"], strict=True)],
                           hovertemplate="%{text}<br>KL %{x:.2f}<br>not known %{y:.1%}<extra></extra>")  # fmt: skip
    return axes(figure, "KL(base || finetuned) on the taught statements (nats a token)", "old facts not known (share)",
                 None, SHARE)  # fmt: skip


def cost(table: pd.DataFrame, found: dict) -> go.Figure:
    """Time of a step per method, a bar each."""
    figure = go.Figure()
    for method, runs in table.drop_duplicates("key").groupby("method", sort=False):
        times = [found[key]["ms_per_step"] for key in runs["key"]]
        figure.add_bar(x=[SHORT_NAMES[method]], y=[sum(times) / len(times)], name=SHORT_NAMES[method],
                       marker={"color": LOOKS[method].light})  # fmt: skip
    return axes(figure.update_layout(showlegend=False), "", "training time of a step (ms)")


def retention(table: pd.DataFrame, found: dict) -> go.Figure:
    """Fact i after so many steps of the stream, for the first seed: known or not."""
    first = table.drop_duplicates("key").sort_values("seed")["key"].iloc[0]
    known = found[first]["known"]
    figure = go.Figure(
        go.Heatmap(
            z=list(zip(*(one["known"] for one in known), strict=True)), x=[str(one["step"]) for one in known],
            colorscale=[[0, "#D55E00"], [0.5, "#D55E00"], [0.5, "#0072B2"], [1, "#0072B2"]], zmin=0, zmax=1,
            colorbar={"tickvals": [0.25, 0.75], "ticktext": ["not known", "known"]},
            hovertemplate="fact %{y} after step %{x}: %{z}<extra></extra>",
        )
    )  # fmt: skip
    figure = axes(figure, "gradient steps", "fact, in the order it was drawn")
    return figure.update_xaxes(type="category")


def capacity(table: pd.DataFrame, found: dict) -> go.Figure:
    """What is learned and kept against the length of the stream, mean over seeds."""
    mean = ends(table).groupby("facts")[["learned", "kept"]].mean()
    figure = go.Figure()
    for column, name, look in (
        ("learned", "new facts learned", LOOKS["sparse"]),
        ("kept", "old facts kept", LOOKS["full"]),
    ):
        figure.add_scatter(x=mean.index, y=mean[column], mode="lines+markers", name=name,
                           line={"color": look.light, "dash": "solid" if column == "learned" else "dash"},
                           marker={"size": 10, "symbol": look.symbol})  # fmt: skip
    figure = axes(figure, "facts in the stream", "share known at its end", None, SHARE)
    return figure.update_xaxes(type="log", tickvals=list(mean.index), ticktext=[f"{facts:,}" for facts in mean.index])


def core_sets(table: pd.DataFrame, found: dict) -> go.Figure:
    """How much of a core set the top t hold, mean over facts, and how many facts were answered with that t."""
    held = table[table["probe"] == "core held by top-t"].groupby("metric")["value"].mean()
    least = table[table["probe"] == "least t"]["value"]
    figure = go.Figure()
    figure.add_scatter(x=LADDER, y=[held[str(t)] for t in LADDER], mode="lines+markers", name="core set held by top t",
                       line={"color": LOOKS["sparse"].light}, marker={"size": 10})  # fmt: skip
    figure.add_scatter(x=LADDER, y=[(least <= t).mean() for t in LADDER], mode="lines+markers",
                       name="facts answered, trained alone with t", line={"color": LOOKS["full"].light, "dash": "dash"},
                       marker={"size": 10, "symbol": "square"})  # fmt: skip
    figure = axes(figure, "t (slots)", "share", None, SHARE)
    return figure.update_xaxes(type="log", tickvals=LADDER, ticktext=[str(t) for t in LADDER])


def _marker(method: str) -> dict:
    return {"size": 11, "color": LOOKS[method].light, "symbol": LOOKS[method].symbol}


def axes(figure: go.Figure, x: str, y: str, x_format: str | None = None, y_format: str | None = None) -> go.Figure:
    """Titles and number formats of the axes, on the page's own ground."""
    clear = "rgba(0,0,0,0)"  # the page's own ground, light or dark
    figure.update_layout(template="plotly_white", margin={"t": 20, "r": 20}, legend={"font": {"size": 12}},
                         paper_bgcolor=clear, plot_bgcolor=clear)  # fmt: skip
    figure.update_xaxes(title=x, tickformat=x_format, automargin=True)
    return figure.update_yaxes(title=y, tickformat=y_format, automargin=True)
