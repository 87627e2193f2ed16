"""One page for all experiments: the paper's number beside ours, charts that work offline, and every number's file.

And the same claims as Markdown, to be read where no page can be opened, with the result files behind each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from smft_lab.charts.shell import page_html
from smft_lab.reproduce.claims import AGREES, DIFFERS, OPEN, Claim, Experiment

HERE = Path(__file__).parent
RUNS_TEXT = "runs.md"
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
    "runs: the experiment that a claim is read from, and how many result files it has",
)
COLUMNS = ("claim", "the paper", "here", "verdict", "runs")
FIELDS = (
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
)
Part = tuple[Experiment, pd.DataFrame, dict, list[Claim]]


def report_html(about: dict, parts: Sequence[Part]) -> str:
    """The page.

    Args:
        about: Settings, for the table at the end.
        parts: Per experiment its rows, what was found per result, and what they say.
    """
    figures, shown = {}, []
    for number, (experiment, table, details, own_claims) in enumerate(parts):
        drawn = {
            f"chart{number}-{place}": json.loads(str(draw(table, details, experiment.label).to_json()))
            for place, draw in enumerate(experiment.draw)
        }
        figures |= drawn
        shown.append(
            {
                "name": experiment.name,
                "title": experiment.title,
                "paper": experiment.paper,
                "charts": drawn,
                "claims": own_claims,
                "sources": _sources(table),
            }
        )
    claims = [claim for *_, of_part in parts for claim in of_part]
    drawing = (HERE / "page.js").read_text(encoding="utf-8")
    return page_html(
        HERE / "page.html",
        scripts=(get_plotlyjs(), drawing),
        title=TITLE,
        lead=_lead(claims, about),
        legend=LEGEND,
        columns=COLUMNS,
        parts=shown,
        fields=FIELDS,
        settings=_settings(about),
        marks=MARKS,
        looks={AGREES: "agrees", DIFFERS: "differs"},
        figures=figures,
    )


def claims_text(about: dict, parts: Sequence[Part]) -> str:
    """The claims and settings of the page as Markdown tables."""
    lines = [f"# {TITLE}", "", _lead([claim for *_, claims in parts for claim in claims], about), ""]
    lines += [f"- {line}" for line in LEGEND]
    lines += ["", f"[The result files]({RUNS_TEXT}) of each experiment, by setting."]
    for experiment, table, _, claims in parts:
        runs = f"`{experiment.name}`: {len(_sources(table))}"
        rows = [
            (f"{claim.text} *{claim.why}*" if claim.why else claim.text, claim.paper, claim.ours, claim.in_words, runs)
            for claim in claims
        ]
        lines += ["", f"## {_cell(experiment.title)} ({_cell(experiment.paper)}): `{_cell(experiment.name)}`", ""]
        lines += _markdown(COLUMNS, rows)
    lines += ["", "## Settings", "", *_markdown(("setting", "value"), _settings(about))]
    return "\n".join(lines) + "\n"


def runs_text(parts: Sequence[Part], folder: str) -> str:
    """Which result files the claims of each experiment are read from, by setting, as Markdown tables.

    Args:
        folder: Where the files lie beside the page.
    """
    lines = [
        "# The results behind each claim",
        "",
        f"Every result of an experiment is a file in [`{folder}`]({folder}), named by the hash of its settings. A file "
        "holds `config` (the setting), `rows` (step, probe, metric, value), `found` (what was measured besides) and "
        "`seconds`. Numbers link to the files of the seeds. A setting that several experiments share is in each.",
    ]
    for experiment, table, _, claims in parts:
        sources = _sources(table)
        several = len(claims) != 1
        lines += ["", f"## {_cell(experiment.name)}", ""]
        lines.append(
            f"{_cell(experiment.title)} ({_cell(experiment.paper)}): {len(claims)} claim{'s' * several} "
            f"from {len(sources)} results."
        )
        lines += ["", *_runs_table(experiment, sources, folder)]
    return "\n".join(lines) + "\n"


def _runs_table(experiment: Experiment, sources: Sequence[dict], folder: str) -> list[str]:
    """A row for each setting, with the name that claims call it by and what tells it from the experiment's others."""
    names = [name for name in FIELDS if name != "seed" and len({source[name] for source in sources}) > 1]
    settings: dict[tuple, list[dict]] = {}
    for source in sources:
        settings.setdefault((experiment.label(source), *(source[name] or "" for name in names)), []).append(source)
    rows = [
        (*values, " ".join(f"[{source['seed']}]({folder}/{source['key']}.json)" for source in of_setting))
        for values, of_setting in settings.items()
    ]
    return _markdown(("in the claims", *names, "seeds"), rows)


def _sources(table: pd.DataFrame) -> list[dict]:
    """The settings of an experiment's results, each once, with the `key` that its file is named by."""
    return table.drop_duplicates("key").to_dict("records")


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
    cells = [[_cell(cell) for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)]


def _cell(value) -> str:
    """A value as the text of a Markdown table, whatever is in it."""
    return " ".join(escape(str(value), quote=False).replace("|", "\\|").split())
