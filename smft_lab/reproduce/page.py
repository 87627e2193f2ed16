"""One page for all experiments: the paper's number beside ours, charts that work offline, and every number's file.

And the same claims as Markdown, to be read where no page can be opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from smft_lab.reproduce.claims import AGREES, DIFFERS, OPEN, Claim, Experiment
from smft_lab.writing import write_whole

TITLE = "Sparse memory finetuning, reproduced at lab scale"
MARKS = {AGREES: "✓", DIFFERS: "✗"}
LEGEND = (
    "learned: share of the new facts that are answered at the end of a run; kept: of 240 old ones; or F1, if told",
    "lost: points (hundredths) since the base, read where a run had learned 95%, which may be long before its end",
    "points with a sign: a difference of two settings, seed by seed",
    "± and [ ]: 95% interval over seeds (Student's t); seeds draw the facts, the pretrained model is one",
    "a verdict is read from the whole interval; where that holds both, it can't be said. Means only say which settings "
    "are set beside each other",
    "t: slots that a step trains; all methods start from the same model, which has a memory",
    "lr: learning rate; unless told, as tuned on other facts: sparse with row-wise Adam, the others with AdamW",
)
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
.chart { height: 420px; margin: 1rem 0 }
details { margin: .6rem 0 } code { font-size: .85em }
"""
FOLLOW_SCHEME = """
const dark = matchMedia('(prefers-color-scheme: dark)');
function follow() {
  const [ink, line] = dark.matches ? ['#e8e8e8', '#444'] : ['#1f1f1f', '#e4e8ec'];
  for (const chart of document.querySelectorAll('.chart')) {
    const look = {'font.color': ink};
    for (const axis of Object.keys(chart.layout).filter((key) => /^[xy]axis/.test(key))) {
      look[axis + '.gridcolor'] = look[axis + '.zerolinecolor'] = line;
    }
    Plotly.relayout(chart, look);
  }
}
dark.addEventListener('change', follow);
follow();
"""


def write_page(path: Path, about: dict, parts: Sequence[tuple[Experiment, pd.DataFrame, dict, list[Claim]]]) -> None:
    """Write the page, whole or not at all.

    Args:
        about: Settings, for the table at the end.
        parts: Per experiment its rows, what was found per result, and what they say.
    """
    claims = [claim for *_, said in parts for claim in said]
    legend = "".join(f"<li>{escape(one)}</li>" for one in LEGEND)
    body = [
        f"<h1>{TITLE}</h1>",
        f"<p>{_lead(claims, about)}</p>",
        f"<ul class='soft'>{legend}</ul>",
        _claims_table(claims),
    ]
    for number, (experiment, table, found, said) in enumerate(parts):
        body.append(
            f"<h2 id='{experiment.name}'>{escape(experiment.title)} "
            f"<span class='soft'>({escape(experiment.paper)})</span></h2>"
        )
        for place, draw in enumerate(experiment.draw):
            body.append(_chart(f"chart{number}-{place}", draw(table, found, experiment.label)))
        body.append(_claims_table(said))
        body.append(_sources(table))
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _settings(about))
    body.append(f"<h2>Settings</h2><div class='wide'><table>{rows}</table></div>")
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<title>SMFT reproduced</title>"
    )
    html = f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
    write_whole(path, f"{html}<body>{''.join(body)}<script>{FOLLOW_SCHEME}</script></body></html>\n")


def _chart(name: str, figure: go.Figure) -> str:
    return (f"<div class='chart' id='{name}'></div><script>Plotly.newPlot('{name}', "
            f"...Object.values({figure.to_json()}).slice(0, 2), {{responsive: true, displaylogo: false}})</script>"
            )  # fmt: skip


def write_claims(path: Path, about: dict, parts: Sequence[tuple[Experiment, pd.DataFrame, dict, list[Claim]]]) -> None:
    """Write the claims and settings of the page as Markdown tables."""
    lines = [f"# {TITLE}", "", _lead([claim for *_, said in parts for claim in said], about), ""]
    lines += [f"- {one}" for one in LEGEND]
    for experiment, _, _, said in parts:
        rows = [(f"{one.text} *{one.why}*" if one.why else one.text, one.paper, one.ours, one.said) for one in said]
        lines += ["", f"## {experiment.title} ({experiment.paper}): `{experiment.name}`", ""]
        lines += _markdown(("claim", "the paper", "here", "verdict"), rows)
    lines += ["", "## Settings", "", *_markdown(("setting", "value"), _settings(about))]
    write_whole(path, "\n".join(lines) + "\n")


def _settings(about: dict) -> list[tuple[str, str]]:
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in about.items()]


def _lead(claims: Sequence[Claim], about: dict) -> str:
    papers = [claim for claim in claims if claim.is_the_papers]
    own = [claim for claim in claims if not claim.is_the_papers]
    return (
        f"{len(papers)} claims of the paper: {_count(papers, AGREES)} agree, {_count(papers, DIFFERS)} differ, "
        f"{_count(papers, OPEN)} can't be said at this scale. {len(own)} of our own: {_count(own, AGREES)} hold, "
        f"{_count(own, DIFFERS)} do not, {_count(own, OPEN)} can't be said. Lin et al. 2025 (arXiv 2510.15103) used a "
        f"model of 1.3B parameters, 1M slots and 128 reads per token; this one has {about['parameters'] / 1e6:.1f}M, "
        f"{about['slots']:,} and {about['reads per token']}."
    )


def _count(claims: Sequence[Claim], verdict: str) -> int:
    return sum(claim.verdict == verdict for claim in claims)


def _markdown(head: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)]


def _claims_table(claims: Sequence[Claim]) -> str:
    lines = []
    for one in claims:
        mark = {AGREES: "agrees", DIFFERS: "differs"}.get(one.verdict, "soft")
        why = f"<br><span class='soft'>{escape(one.why)}</span>" if one.why else ""
        cells = f"<td>{escape(one.text)}{why}</td><td>{escape(one.paper)}</td><td>{escape(one.ours)}</td>"
        sign = MARKS.get(one.verdict, "")
        lines.append(f"<tr>{cells}<td class='{mark}'>{sign} {escape(one.said)}</td></tr>")
    head = "<tr><th>claim</th><th>the paper</th><th>here</th><th>verdict</th></tr>"
    return f"<div class='wide'><table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table></div>"


def _sources(table: pd.DataFrame) -> str:
    files = table.drop_duplicates("key")
    fields = [
        "method",
        "rule",
        "top_t",
        "lr",
        "rank",
        "optimizer",
        "facts",
        "what",
        "background",
        "protect",
        "remedy",
        "strength",
        "passes",
        "slots",
        "k",
        "seed",
    ]
    head = "".join(f"<th>{name}</th>" for name in ("result file", *fields))
    lines = []
    for row in files.to_dict("records"):
        cells = "".join(f"<td>{escape(str(row[name]))}</td>" for name in fields)
        lines.append(f"<tr><td><code>{row['key']}.json</code></td>{cells}</tr>")
    return (f"<details><summary>{len(files)} results</summary><div class='wide'><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div></details>")  # fmt: skip
