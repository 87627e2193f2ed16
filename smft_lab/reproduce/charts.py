"""Charts of the page, colours by method (and rule) as in every other chart of the lab.

Each is drawn from the rows of an experiment (see `table_of`), what was found per result, and how settings are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from smft_lab.charts.figures import mean_over_seeds
from smft_lab.charts.style import LOOKS, looks, short_name
from smft_lab.reproduce.jobs import LADDER
from smft_lab.reproduce.tables import ends, known_in_stream, over_seeds

Label = Callable[[dict], str]
Metric = Literal["em", "f1"]
UNITS = {"em": "share", "f1": "F1"}
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "cross",
    "x",
    "star",
    "hexagon",
    "pentagon",
    "circle-open",
    "square-open",
    "diamond-open",
    "triangle-up-open",
)
DASHES = ("solid", "dash", "dot", "dashdot")
SHARE = ".1~%"
GROUPS = 40  # of facts, in the retention matrix
SHADED = 6  # facts whose tokens are shown
SHADES = [[0, "#f3f6f9"], [1, LOOKS["sparse"].light]]  # of a heatmap, from none to most


def trade_off(table: pd.DataFrame, details: dict, label: Label, metric: Metric = "em") -> go.Figure:
    """Learned against kept at the end: a dot per setting, mean over seeds and its 95% interval; the larger, the more
    weights a step trains."""
    means = _settings(table, details, label, metric)
    look_of = looks(means["kind"])
    figure = go.Figure()
    used: dict[str, int] = {}
    for name, row in means.iterrows():
        used[row.kind] = place = used.get(row.kind, -1) + 1
        look = {"size": row["size"], "color": look_of[row.kind].light, "symbol": SYMBOLS[place % len(SYMBOLS)]}
        errors = {"error_x": _error(row.learned, row.learned_half), "error_y": _error(row.kept, row.kept_half)}
        figure.add_scatter(
            x=[row.learned],
            y=[row.kept],
            mode="markers",
            name=str(name),
            marker=look,
            **errors,
            hovertemplate=_hover(row),
        )
    return _plane(
        figure, "A dot per setting, mean over seeds with its 95% interval; larger: a step trains more weights", metric
    )


def fronts(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """`trade_off` of many settings: named when pointed at; a line joins those of a method that no other of its
    settings beats in both (paper Fig. 5)."""
    means = _settings(table, details, label)
    look_of = looks(means["kind"])
    figure = go.Figure()
    for kind, group in means.groupby("kind", sort=False):
        kind = str(kind)
        look, name = look_of[kind], short_name(kind)
        figure.add_scatter(
            x=group["learned"],
            y=group["kept"],
            mode="markers",
            name=name,
            legendgroup=kind,
            marker={"size": group["size"], "color": look.light, "symbol": look.symbol, "opacity": 0.7},
            hovertemplate=[_hover(row) for _, row in group.iterrows()],
        )
        best = group.sort_values(["learned", "kept"], ascending=False)
        best = best[best["kept"] > best["kept"].cummax().shift(fill_value=-1.0)]
        figure.add_scatter(
            x=best["learned"],
            y=best["kept"],
            mode="lines",
            legendgroup=kind,
            showlegend=False,
            line={"color": look.light, "dash": look.dash, "width": 1.5},
            hoverinfo="skip",
        )
    return _plane(figure, "A dot per setting, mean over seeds; larger: a step trains more weights. Lines: fronts")


def _plane(figure: go.Figure, caption: str, metric: Metric = "em") -> go.Figure:
    unit = UNITS[metric]
    titles = f"new facts learned at the end ({unit})", f"old facts kept ({unit})"
    return captioned(axes(figure, *titles, SHARE, SHARE), caption)


def _settings(table: pd.DataFrame, details: dict, label: Label, metric: Metric = "em") -> pd.DataFrame:
    """`over_seeds` of the settings that have a label, with the kind (method, or rule that is not TF-IDF), weights
    trained in a step, and size of the dot."""
    last = ends(table, label, metric)
    last = last[last["label"] != ""]
    last["trainable"] = [details[key]["trainable_per_step"] for key in last["key"]]
    last["kind"] = last["method"].where(last["rule"].isin(["", "tfidf"]), last["rule"])
    means = over_seeds(last).join(last.groupby("label")[["kind", "trainable"]].first())
    return means.assign(size=[7 + 5 * math.log10(max(count, 1e4) / 1e4) for count in means["trainable"]])


def _hover(row: pd.Series) -> str:
    return (
        f"{row.name}<br>learned %{{x:.1%}}<br>old facts kept %{{y:.1%}}<br>{row.trainable:,.0f} weights a step"
        "<extra></extra>"
    )


def _error(share: float, half: float) -> dict | None:
    """The interval of a share, which knows nothing of 0% and 100% by itself."""
    if pd.isna(half):
        return None
    return {"array": [min(half, 1 - share)], "arrayminus": [min(half, share)], "thickness": 1, "width": 2}


def over_steps(table: pd.DataFrame, details: dict, label: Label, metric: Metric = "em") -> go.Figure:
    """Learned and kept over gradient steps, mean over seeds and its 95% band: a line per label (paper Figs. 3, 4)."""
    labelled = table.assign(method=[label(row) for row in table.to_dict("records")])
    method_of = dict(zip(labelled["method"], table["method"], strict=True))
    figure = make_subplots(cols=2, subplot_titles=("new facts learned", "old facts kept"), horizontal_spacing=0.1)
    for column, probe in enumerate(("learned", "old_facts"), start=1):
        rows = mean_over_seeds(labelled, probe, metric)
        used: dict[str, int] = {}
        for name in method_of:
            line, look = rows[rows["method"] == name], LOOKS[method_of[name]]
            used[method_of[name]] = place = used.get(method_of[name], -1) + 1
            band = line.dropna(subset=["low"])
            figure.add_scatter(
                x=[*band["step"], *band["step"][::-1]],
                y=[*band["high"].clip(0, 1), *band["low"].clip(0, 1)[::-1]],
                fill="toself",
                fillcolor=look.light,
                opacity=0.2,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                legendgroup=name,
                showlegend=False,
                row=1,
                col=column,
            )
            dash = DASHES[place] if place else look.dash
            figure.add_scatter(
                x=line["step"],
                y=line["mean"],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": look.light, "dash": dash},
                marker={"size": 7, "symbol": look.symbol},
                row=1,
                col=column,
                hovertemplate=f"{name}, step %{{x}}: %{{y:.1%}}<extra></extra>",
            )
    return axes(figure, "gradient steps", UNITS[metric], None, SHARE)


def razor(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """Forgetting against KL on the taught statements, a dot per run."""
    figure = go.Figure()
    for method, runs in ends(table).groupby("method", sort=False):
        method = str(method)
        figure.add_scatter(
            x=[details[key]["kl_on_taught"] for key in runs["key"]],
            y=1 - runs["kept"],
            mode="markers",
            name=short_name(method),
            marker=_marker(method),
            text=[f"lr={lr:g}, t={t}" for lr, t in zip(runs["lr"], runs["top_t"], strict=True)],
            hovertemplate="%{text}<br>KL %{x:.2f}<br>not known %{y:.1%}<extra></extra>",
        )
    return axes(
        figure,
        "KL(base || finetuned) on the taught statements (nats a token)",
        "old facts not known (share)",
        None,
        SHARE,
    )


def cost(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """Time of a step per method, a bar each."""
    figure = go.Figure()
    for method, runs in table.drop_duplicates("key").groupby("method", sort=False):
        method, times = str(method), [details[key]["ms_per_step"] for key in runs["key"]]
        figure.add_bar(
            x=[short_name(method)],
            y=[sum(times) / len(times)],
            name=short_name(method),
            marker={"color": LOOKS[method].light},
        )
    return axes(figure.update_layout(showlegend=False), "", "training time of a step (ms)")


def retention(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """Share of each group of facts that is known after so many steps of the stream, for the first seed."""
    first = table.drop_duplicates("key").sort_values(["seed", "slots"]).iloc[0]
    known = known_in_stream(details[first["key"]]["known"], first["seed"])
    size = math.ceil(len(known) / GROUPS)
    groups = known.groupby(known.index // size).mean()
    names = [f"{start + 1:,}" for start in groups.index * size]
    figure = go.Figure(
        go.Heatmap(
            z=groups.to_numpy().tolist(),
            x=[f"{step:,}" for step in groups.columns],
            y=names,
            colorscale=SHADES,
            zmin=0,
            zmax=1,
            colorbar={"title": {"text": "known"}, "tickformat": SHARE},
            hovertemplate="from fact %{y} on, after step %{x}: %{z:.0%} known<extra></extra>",
        )
    )
    figure = axes(figure, f"gradient steps ({len(known):,} a pass)", "fact, in the order of the stream")
    passes = [f"{step:,}" for step in groups.columns if step % len(known) == 0]
    figure.update_xaxes(type="category", tickvals=passes, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed")
    return captioned(figure, f"Share known of each {size} facts in a row, first seed; one fact a step, pass after pass")


def capacity(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """What is learned and kept against the length of the stream, mean over seeds and its 95% interval."""
    means = over_seeds(ends(table), "facts")
    figure = go.Figure()
    for column, name, look in (
        ("learned", "new facts learned", LOOKS["sparse"]),
        ("kept", "old facts kept", LOOKS["full"]),
    ):
        half = means[f"{column}_half"]
        error = {"array": half.clip(upper=1 - means[column]), "arrayminus": half, "thickness": 1}
        figure.add_scatter(
            x=means.index,
            y=means[column],
            mode="lines+markers",
            name=name,
            line={"color": look.light, "dash": "solid" if column == "learned" else "dash"},
            error_y=error if half.notna().any() else None,
            marker={"size": 10, "symbol": look.symbol},
        )
    figure = axes(figure, "facts in the stream", "share answered at its end", None, SHARE)
    return figure.update_xaxes(type="log", tickvals=list(means.index), ticktext=[f"{facts:,}" for facts in means.index])


def core_sets(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """How much of a core set the top t hold, mean over facts, and how many facts were answered with that t."""
    held = table[table["probe"] == "core held by top-t"].groupby("metric")["value"].mean()
    least = table[table["probe"] == "least t"]["value"]
    figure = go.Figure()
    figure.add_scatter(
        x=LADDER,
        y=[held[str(t)] for t in LADDER],
        mode="lines+markers",
        name="core set held by top t",
        line={"color": LOOKS["sparse"].light},
        marker={"size": 10},
    )
    figure.add_scatter(
        x=LADDER,
        y=[(least <= t).mean() for t in LADDER],
        mode="lines+markers",
        name="facts answered, trained alone with t",
        line={"color": LOOKS["full"].light, "dash": "dash"},
        marker={"size": 10, "symbol": "square"},
    )
    figure = axes(figure, "t (slots)", "share", None, SHARE)
    return figure.update_xaxes(type="log", tickvals=LADDER, ticktext=[str(t) for t in LADDER])


def core_tokens(table: pd.DataFrame, details: dict, label: Label) -> go.Figure:
    """Where in a statement its core set is read: a row per fact of the first seed, a cell per token, as wide as its
    text (paper Table 1)."""
    first = table.drop_duplicates("key").sort_values("seed")["key"].iloc[0]
    facts = details[first]["tokens"][:SHADED]
    most = max(core for tokens in facts for _, core in tokens)
    figure = go.Figure()
    for place in range(max(len(tokens) for tokens in facts)):
        questions, pieces, core = zip(
            *(
                (question, tokens[place][0].strip() or "▷", tokens[place][1])
                for question, tokens in zip(details[first]["facts"], facts, strict=False)
                if place < len(tokens)
            ),
            strict=True,
        )
        figure.add_bar(
            x=[len(piece) + 2 for piece in pieces],
            y=questions,
            orientation="h",
            customdata=core,
            text=pieces,
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="none",
            showlegend=False,
            textfont={"size": 11, "color": ["#ffffff" if share > 0.7 * most else "#1a1a1a" for share in core]},
            marker={"color": core, "coloraxis": "coloraxis", "line": {"width": 1, "color": "#ffffff"}},
            hovertemplate="%{text}: %{customdata} of its reads are of the core set<extra></extra>",
        )
    figure = axes(figure, "token", "")
    figure.update_layout(
        barmode="stack",
        bargap=0.2,
        coloraxis={
            "colorscale": SHADES,
            "cmin": 0,
            "colorbar": {"title": {"text": "core slots<br>read here"}},
        },
    )
    figure.update_xaxes(showgrid=False, zeroline=False, showticklabels=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return captioned(figure, "Core slots read at each token of a statement (▷ its start, ■ its end); darker: more")


def _marker(method: str) -> dict:
    return {"size": 11, "color": LOOKS[method].light, "symbol": LOOKS[method].symbol}


def captioned(figure: go.Figure, text: str) -> go.Figure:
    """What a chart shows, in small letters above it."""
    title = {"text": text, "font": {"size": 13}, "x": 0, "xanchor": "left", "xref": "paper"}
    return figure.update_layout(title=title, margin={"t": 50})


def axes(figure: go.Figure, x: str, y: str, x_format: str | None = None, y_format: str | None = None) -> go.Figure:
    """Titles and number formats of the axes, on the page's own ground."""
    clear = "rgba(0,0,0,0)"  # the page's own ground, light or dark
    figure.update_layout(
        template="plotly_white",
        margin={"t": 20, "r": 20},
        legend={"font": {"size": 12}},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
    )
    figure.update_xaxes(title=x, tickformat=x_format, automargin=True)
    return figure.update_yaxes(title=y, tickformat=y_format, automargin=True)
