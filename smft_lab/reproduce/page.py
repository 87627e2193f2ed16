"""One page for all experiments: the paper's number beside ours, charts that work offline, and every number's file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from smft_lab.experiments.output import write_whole
from smft_lab.reproduce.experiments import AGREES, DIFFERS, Claim, Experiment, ends

MARKS = {AGREES: "✓ agrees", DIFFERS: "✗ differs"}
STYLE = """
:root { color-scheme: light dark; --line: #d5d5d5; --soft: #666; --yes: #137333; --no: #b3261e;
  --ground: #fff; --ink: #1f1f1f }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --soft: #aaa; --yes: #81c995; --no: #f2b8b5; --ground: #161616; --ink: #e8e8e8 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--ground); color: var(--ink) }
h2 { margin-top: 3rem } .soft { color: var(--soft) } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--line) }
th { font-weight: 600 }
.agrees { color: var(--yes); white-space: nowrap } .differs { color: var(--no); white-space: nowrap }
.chart { height: 420px; margin: 1rem 0; background: #fff; border-radius: 6px }
details { margin: .6rem 0 } code { font-size: .85em }
"""


def write_page(path: Path, about: dict, parts: Sequence[tuple[Experiment, pd.DataFrame, list[Claim]]]) -> None:
    """Write the page, whole or not at all.

    Args:
        about: Settings and machine, for the table at the end.
        parts: Per experiment its rows and what they say.
    """
    claims = [(experiment, claim) for experiment, _, found in parts for claim in found]
    agreeing = sum(claim.verdict == AGREES for _, claim in claims)
    differing = sum(claim.verdict == DIFFERS for _, claim in claims)
    lead = (
        f"{len(claims)} claims: {agreeing} agree, {differing} differ, {len(claims) - agreeing - differing} can't be "
        "said at this scale."
    )
    body = [
        "<h1>Sparse memory finetuning, reproduced at lab scale</h1>",
        f"<p>{lead} Lin et al. 2025 (arXiv 2510.15103) used a model of 1.3B parameters; this one has 8.7M.</p>",
        _claims_table([claim for _, claim in claims]),
    ]
    for number, (experiment, table, found) in enumerate(parts):
        body.append(
            f"<h2 id='{experiment.name}'>{escape(experiment.title)} "
            f"<span class='soft'>({escape(experiment.paper)})</span></h2>"
        )
        figure = chart(experiment, table)
        if figure is not None:
            body.append(f"<div class='chart' id='chart{number}'></div><script>Plotly.newPlot('chart{number}', "
                        f"...Object.values({figure.to_json()}).slice(0, 2), "
                        "{responsive: true, displaylogo: false})</script>")  # fmt: skip
        body.append(_claims_table(found))
        body.append(_sources(table))
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in about.items()
    )
    body.append(f"<h2>Settings</h2><div class='wide'><table>{rows}</table></div>")
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<title>SMFT reproduced</title>"
    )
    html = f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
    write_whole(path, f"{html}<body>{''.join(body)}</body></html>\n")


def _claims_table(claims: Sequence[Claim]) -> str:
    lines = []
    for one in claims:
        mark = {AGREES: "agrees", DIFFERS: "differs"}.get(one.verdict, "soft")
        why = f"<br><span class='soft'>{escape(one.why)}</span>" if one.why else ""
        cells = f"<td>{escape(one.text)}{why}</td><td>{escape(one.paper)}</td><td>{escape(one.ours)}</td>"
        lines.append(f"<tr>{cells}<td class='{mark}'>{escape(MARKS.get(one.verdict, one.verdict))}</td></tr>")
    head = "<tr><th>claim</th><th>the paper</th><th>here</th><th>verdict</th></tr>"
    return f"<div class='wide'><table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table></div>"


def _sources(table: pd.DataFrame) -> str:
    files = table.drop_duplicates("key")
    fields = ["method", "rule", "top_t", "lr", "optimizer", "facts", "what", "background", "passes", "seed"]
    head = "".join(f"<th>{name}</th>" for name in ("result file", *fields))
    lines = []
    for row in files.to_dict("records"):
        cells = "".join(f"<td>{escape(str(row[name]))}</td>" for name in fields)
        lines.append(f"<tr><td><code>{row['key']}.json</code></td>{cells}</tr>")
    return (f"<details><summary>{len(files)} results</summary><div class='wide'><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div></details>")  # fmt: skip


def chart(experiment: Experiment, table: pd.DataFrame) -> go.Figure | None:
    """Learned against kept at the end of every run, a colour per setting, a dot per seed; None where nothing trains."""
    if (table["kind"] != "finetune").all():
        return None
    last = ends(table).merge(table.drop_duplicates("key")[["key", "background"]], on="key")
    last["label"] = [experiment.label(row) for row in last.to_dict("records")]
    figure = go.Figure()
    for label, runs in last.groupby("label", sort=False):
        hover = "%{text}<br>learned %{x:.1%}<br>old facts kept %{y:.1%}<extra></extra>"
        figure.add_scatter(x=runs["learned"], y=runs["kept"], mode="markers", name=str(label), marker={"size": 11},
                           text=[f"{label}, seed {seed}" for seed in runs["seed"]], hovertemplate=hover)  # fmt: skip
    figure.update_layout(template="plotly_white", margin={"t": 20, "r": 20}, legend={"font": {"size": 12}})
    figure.update_xaxes(title="new facts learned at the end (share)", tickformat=".0%")
    figure.update_yaxes(title="old facts kept (share)", tickformat=".0%")
    return figure
