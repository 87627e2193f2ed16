"""The report: one HTML file that needs nothing but itself, drawn from a finished comparison."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import jinja2
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from smft_lab.charts import figures, style
from smft_lab.charts.style import Kept, Probe, fixed, kept_of, learned_little, missing, name, percent, probes_in
from smft_lab.finetuning.methods import METHODS, STANDARD
from smft_lab.probes.text import MATCHES
from smft_lab.writing import write_atomically

DRAG_HINT = ' <span class="mouse">Drag to zoom, double-click to zoom out.</span>'

SAMPLES_SHOWN = 4  # per probe; the rest is folded away

SETTING_NAMES = {
    "facts": "Facts",
    "n_facts": "Number of new facts",
    "passes": "Passes over the facts",
    "top_t": "Slots trained per step (top-t)",
    "slots": "Slots in the memory",
    "rule": "Slot-choosing rule",
    "recipe": "Recipe, and what differs in it from the lab's",
    "order": "Order of the statements",
    "seeds": "Seeds",
    "statements_per_step": "Statements per step",
    "statements_by_rule": "Statements added by rule",
    "wordings_by_rule": "Wordings of questions added by rule",
    "loss_on": "Learned of each statement",
}

METHOD_FIELDS = {"optimizer", "lr", "trainable_per_step", "ms_per_step", "steps_to_target"}

SAMPLE_TITLES = {
    "learned": "New facts",
    "taught": "New facts, as they were taught",
    "prefixed": "New facts, after other questions",
    "two_hop_new": "What follows from new facts",
    "old_facts": "Old facts",
    "known": "Known facts",
    "arithmetic": "Arithmetic",
    "two_hop": "Two-hop questions",
}

GLOSSARY = {
    "Slot": "One row of the memory layer: a key, which decides when the row is read, and a value, which is "
    "added into the model’s working when it is. Each token reads only a few of the many slots.",
    "Top-t": "How many slots sparse memory finetuning may change in one gradient step: the t slots which the "
    "slot-choosing rule (see Settings) puts first for the statements at hand.",
    "Learned": "The share of questions about the new facts which the model answers exactly right (exact match).",
    "Forgetting": "How much worse the model got at something it could do before: points of exact match lost, "
    "or nats of loss gained, counted from the base model.",
    "Probe": "A fixed set of questions or text that measures one ability at every evaluation.",
    "Loss in nats": "How surprised the model is by the right next piece of text; 0 is certainty, lower is "
    "better. A rise of 0.69 nats halves the probability given to it.",
    "95% interval": "A range for the true mean, worked out from the spread between seeds; a procedure that "
    "covers it 95 times in 100. One seed gives no interval.",
}


def write_report(path: str | os.PathLike, table: pd.DataFrame, summary: dict, samples: Iterable[dict] = ()) -> Path:
    """Write the page to `path` in one move: a reader sees the whole page or the previous one.

    `table` is metrics.csv (method, seed, step, probe, metric, value), `summary` is summary.json, `samples`
    are dicts of probe, question, answer, base and answers (method -> text). Returns the path.
    """
    path = Path(path)
    write_atomically(path, page(table, summary, list(samples)))
    return path


def page(table: pd.DataFrame, summary: dict, samples: list[dict]) -> str:
    """The whole page as HTML text."""
    methods = style.ordered([*table["method"], *summary["methods"]])
    drawn = {"plane": figures.plane(table, summary), "curves": figures.curves(table)}
    sweep = _sweep(summary)
    plotly, js = get_plotlyjs(), _part("page.js")
    return Template(_part("page.html")).substitute(
        title=escape(summary["title"]),
        headline=escape(headline(summary)),
        colours=_colours(methods),
        css=_part("page.css"),
        cards=_cards(summary, methods),
        downward=_downward(table),
        plane_alt=escape(_plane_alt(table)),
        plane_caption=_plane_caption(summary),
        rule_text=escape(summary["rule_text"]),
        equal_table=_readings(summary, "equal_learning", methods),
        equal_notes=_equal_notes(summary),
        final_table=_readings(summary, "final", methods),
        f1_details=_f1_details(summary, methods),
        curves_alt=escape(_curves_alt(table)),
        curves_caption=_curves_caption(table),
        marks=_marks(samples),
        questions=_questions(samples, methods),
        sweep=sweep,
        sweep_link='<a href="#sweep">Learning rates</a>' if sweep else "",
        settings=_settings(summary, methods),
        command=_command(summary["command"]),
        made_with=_made_with(summary),
        glossary=_pairs([*GLOSSARY.items(), *_methods_told(methods)], "words"),
        policy=content_policy(plotly, js),
        plotly=plotly,
        figures=_figures_json(drawn),
        js=js,
    )


def _methods_told(methods: list[str]) -> list[tuple[str, str]]:
    """What each of these methods does, and the paper's three in any case."""
    kinds = [METHODS[key] for key in METHODS if key in (*STANDARD, *methods)]
    return [(kind.title, kind.about) for kind in kinds if kind.about]


def page_template(file: Path) -> jinja2.Template:
    """A template of a page: what is put into it is text and never code, and a name that is not given is an error.

    It may extend `base.html`, which has the head that pages share, or a template of its own folder.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(file.name)


def content_policy(*scripts: str) -> str:
    """What a page of one file may do: run these scripts and no others, and ask nothing of the network."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    own = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def headline(summary: dict) -> str:
    """What happened, in one or two sentences that hold whoever came out ahead."""
    kept = _kept(summary)
    rows = _rows(summary, "equal_learning", kept.key, "em")
    rows = {m: r for m, r in rows.items() if m in METHODS and not missing(r["drop_mean"])} or rows
    rows = {m: r for m, r in rows.items() if not missing(r["drop_mean"])}
    target = percent(summary["target"], 0)
    learned = _rows(summary, "equal_learning", "learned", "em")
    little = [m for m in rows or learned if learned_little(learned.get(m))]
    fair = sorted((m for m in rows if _reached(rows[m])), key=lambda m: rows[m]["drop_mean"])
    sentences = []
    if fair:
        clauses = [f"{style.name_in_sentence(m)} {_lost(rows[m]['drop_mean'])}" for m in fair]
        clauses[0] += f" of {kept.recall}"
        sentences.append(f"At {target} learned, {_joined(clauses)} ({_seed_words(rows[fair[0]]['n'])}).")
    if little:
        sentences.append(_little_sentence(little, learned, of_all=not fair and len(little) == len(rows or learned)))
    for method in rows:
        if method not in fair and method not in little:
            sentences.append(_unreached_sentence(method, rows[method], learned.get(method), target, kept))
    if learned and not rows:
        sentences.append("No question here was known before, so what was forgotten is told by the other probes alone.")
    if little:
        sentences.append(remedy(summary))
    return " ".join(sentences) or "No reading at equal learning was recorded."


def _little_sentence(methods: list[str], learned: dict[str, dict], of_all: bool) -> str:
    most = [f"{style.name_in_sentence(m)} {percent(learned[m]['mean'])}" for m in methods]
    whose = "was learned" if of_all else f"was learned by {_joined([style.name_in_sentence(m) for m in methods])}"
    return f"Hardly anything {whose}, so what was kept there says nothing: at best {_joined(most)} of the new facts."


def remedy(summary: dict) -> str:
    """What to do where hardly anything was learned, as far as the settings tell."""
    settings = summary["settings"]
    steps = []
    if settings.get("order") == "mixed":  # such a run ends by itself, however many passes there could be
        steps.append("give each fact more wordings of its question (the field questions)")
    else:
        if settings.get("statements_per_step", 4) < 4:
            steps.append("give each fact four statements or more, in different words")
        if settings.get("loss_on") == "statement":
            steps.append("learn only the answer in each (--loss-on answer)")
        steps.append("take more passes (--passes)")
    if "old_facts" in summary.get("base", {}):
        steps.append("or teach a model that has read ordinary English (smft-lab attach)")
    text = ", ".join(steps).replace(", or ", " or " if len(steps) == 2 else ", or ")
    return f"To have more learned, {text}."


def _kept(summary: dict) -> Kept:
    """By which questions this comparison tells forgetting."""
    return kept_of(row["probe"] for row in summary.get("equal_learning", []))


def _unreached_sentence(method: str, row: dict, learned: dict | None, target: str, kept: Kept) -> str:
    share = f" ({percent(learned['mean'])} learned)" if learned and not missing(learned["mean"]) else ""
    lost = f"it {_lost(row['drop_mean'])} of {kept.recall}."
    if row["n_reached"] == 0:
        return f"{name(method)} never reached {target} learned; at its best-learned evaluation{share} {lost}"
    return (
        f"{name(method)} reached {target} learned in only {row['n_reached']} of {row['n']} seeds; with the "
        f"others read at their best-learned evaluation{share} {lost}"
    )


def _lost(drop: float) -> str:
    points = round(100 * drop, 1)
    unit = "point" if abs(points) == 1 else "points"
    return f"{'gained' if points < 0 else 'lost'} {abs(points):.1f} {unit}"


def _joined(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def _seed_words(n: int) -> str:
    return "one seed, which says little: give --seeds 3 for an interval" if n == 1 else f"means of {n} seeds"


def _part(file_name: str) -> str:
    return (files("smft_lab.charts") / file_name).read_text(encoding="utf-8")


def _rows(summary: dict, reading: str, probe: str, metric: str) -> dict[str, dict]:
    """Method -> its row of `reading` ("equal_learning" or "final") for one probe and metric."""
    rows = [r for r in summary.get(reading, []) if (r["probe"], r["metric"]) == (probe, metric)]
    by_method = {r["method"]: r for r in rows}
    return {m: by_method[m] for m in style.ordered(by_method)}


def _reached(row: dict) -> bool:
    return row["n_reached"] >= row["n"]


def _colours(methods: list[str]) -> str:
    """CSS variables of both colour schemes, from the same constants which the figures use."""
    light = {"ink": style.INK, "muted": style.MUTED, "grid": style.GRID, "axis": style.AXIS}
    light |= {"surface": style.SURFACE}
    dark = {key: style.DARK_OF[colour] for key, colour in light.items()}
    for index, look in enumerate(style.looks(methods).values()):
        light[f"method-{index}"], dark[f"method-{index}"] = look.light, look.dark
    light |= {"tint": "#F3F6F8", "focus": "#0072B2", "good": "#00714F", "bad": "#B03A00"}
    dark |= {"tint": "#1D2731", "focus": "#56B4E9", "good": "#4FD6A8", "bad": "#FF9B66"}
    lines = [" ".join(f"--{key}: {value};" for key, value in scheme.items()) for scheme in (light, dark)]
    return f":root {{ {lines[0]} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {lines[1]} }} }}"


def _colour(method: str, methods: list[str]) -> str:
    return f"--c: var(--method-{methods.index(method)})"


def _glyph(method: str, methods: list[str]) -> str:
    glyph = style.looks(methods)[method].glyph
    return f'<span class="glyph" style="{_colour(method, methods)}" aria-hidden="true">{glyph}</span>'


def _figures_json(drawn: dict[str, go.Figure]) -> str:
    figures_text = ", ".join(f'"{kind}": {figure.to_json()}' for kind, figure in drawn.items())
    text = f'{{"dark": {json.dumps(style.dark_of_light())}, "figures": {{{figures_text}}}}}'
    return text.replace("<", "\\u003c")  # so that no text in the data can end the script element


def _cards(summary: dict, methods: list[str]) -> str:
    rows = _rows(summary, "equal_learning", _kept(summary).key, "em")
    learned = _rows(summary, "equal_learning", "learned", "em")
    return "\n".join(_card(m, rows[m], learned.get(m), methods, summary) for m in rows if m in methods)


def _card(method: str, row: dict, learned: dict | None, methods: list[str], summary: dict) -> str:
    interval = _interval(row["drop_low"], row["drop_high"], 100, 1)
    lines = [f"95% interval {interval}" if interval else "one seed, no interval"]
    if learned and not missing(learned["mean"]):
        lines.append(f"at {percent(learned['mean'])} of the new facts learned")
    number = "–"
    if learned and learned_little(learned):
        number = f"{percent(learned['mean'])} <small>of the new facts learned: too few to tell what it costs</small>"
        lines = lines[:0]
    elif not missing(row["drop_mean"]):
        verb, points, unit = _lost(row["drop_mean"]).split()
        number = f"{points} <small>{unit} of {_kept(summary).recall} {verb}</small>"
    flag = "" if _reached(row) else f'<span class="flag">{_flag(row, summary)}</span>'
    return (
        f'<div class="card" style="{_colour(method, methods)}">'
        f"<h2>{_glyph(method, methods)}{escape(name(method))}</h2>"
        f'<div class="big">{number}</div><p>{"<br>".join(lines)}</p>{flag}</div>'
    )


def _flag(row: dict, summary: dict) -> str:
    target = percent(summary["target"], 0)
    if row["n_reached"] == 0:
        return f"† never reached {target}"
    return f"† {target} reached in {row['n_reached']} of {row['n']} seeds"


def _interval(low: float | None, high: float | None, scale: float, digits: int) -> str:
    if low is None or high is None or missing(low) or missing(high):
        return ""
    return f"{fixed(scale * low, digits)} to {fixed(scale * high, digits)}"


def _number(value: float | None, probe: Probe) -> str:
    if value is None or missing(value):
        return "–"
    return percent(value) if probe.is_share else fixed(value, 3)


def _change(row: dict, probe: Probe) -> str:
    """How much worse than the base model, in words: points for shares, nats for losses."""
    drop = row["drop_mean"]
    if missing(drop):
        return ""
    scale, digits, unit = (100, 1, "pts") if probe.is_share else (1, 3, "nats")
    size = fixed(abs(scale * drop), digits)
    if not size.strip("0."):
        return "unchanged"
    return f"{size} {unit} {'worse' if drop > 0 else 'better'}"


def _reading_cell(row: dict | None, probe: Probe) -> str:
    if row is None or missing(row["mean"]):
        return "<td>–</td>"
    scale, digits = (100, 1) if probe.is_share else (1, 3)
    interval = _interval(row["low"], row["high"], scale, digits)
    dagger = "" if _reached(row) else "<abbr title='target not reached in every seed'>†</abbr>"
    lines = [f"<b>{_number(row['mean'], probe)}</b>{dagger}"]
    if interval:
        lines.append(f"<small>{interval}</small>")
    if not probe.is_learned:
        change = _change(row, probe)
        spread = _interval(row["drop_low"], row["drop_high"], scale, digits)
        lines.append(f'<small class="drop">{change}</small>')
        lines.append(f"<small>({spread})</small>" if spread else "")
    return f"<td>{''.join(lines)}</td>"


def _readings(summary: dict, reading: str, methods: list[str]) -> str:
    """The table of all probes; two of them where what was taught is asked in several ways."""
    probes = _probes(summary, reading)
    learned = [probe for probe in probes if probe.is_learned]
    if len(learned) < 2:
        return _readings_table(summary, reading, methods, probes, with_costs=True)
    stays = [probe for probe in probes if not probe.is_learned]
    return (
        "<h3>What was learned</h3>"
        "<p>The same facts, asked in several ways: in a wording that was never taught, in one that was, and in the "
        "first after other questions with their answers.</p>"
        f"{_readings_table(summary, reading, methods, learned)}"
        f"<h3>What should have stayed</h3>{_readings_table(summary, reading, methods, stays, with_costs=True)}"
    )


def _probes(summary: dict, reading: str) -> list[Probe]:
    """The probes of a reading, in the order they are shown."""
    return probes_in((row["probe"], row["metric"]) for row in summary.get(reading, []))


def _readings_table(
    summary: dict, reading: str, methods: list[str], probes: Sequence[Probe], with_costs: bool = False
) -> str:
    """Methods down, probes across; the cost columns only beside the main probes."""
    by_probe = {p: _rows(summary, reading, p.key, p.metric) for p in probes}
    present = [m for m in methods if any(m in rows for rows in by_probe.values())]
    if not present:
        return "<p>No such reading was recorded.</p>"
    head = "".join(f'<th scope="col">{p.title}<small>{_unit(p)}</small></th>' for p in probes)
    base = "".join(f"<td>{_number(_base_value(summary, p), p)}</td>" for p in probes)
    costs_head, no_costs = (_COST_HEAD, "<td>–</td>" * 3) if with_costs else ("", "")
    body = [f'<tr class="base"><th scope="row">Base model<small>before</small></th>{base}{no_costs}</tr>']
    for method in present:
        cells = "".join(_reading_cell(by_probe[p].get(method), p) for p in probes)
        own = [rows[method] for rows in by_probe.values() if method in rows]
        costs = _cost_cells(summary["methods"].get(method, {}), own) if with_costs else ""
        head_cell = _row_head(method, methods, own)
        body.append(f"<tr>{head_cell}{cells}{costs}</tr>")
    label = "At equal learning" if reading == "equal_learning" else "At the last evaluation"
    if not with_costs and probes[0].metric != "f1":
        label += ", what was learned"
    return _table(label, f'<th scope="col">Method</th>{head}{costs_head}', body)


_COST_HEAD = (
    '<th scope="col">Steps<small>to the target</small></th>'
    '<th scope="col">Trained<small>numbers per step</small></th>'
    '<th scope="col">Time<small>ms per step</small></th>'
)


def _unit(probe: Probe) -> str:
    return probe.unit.replace(" ", "\u00a0") if probe.is_share else probe.unit  # keeps "(%)" on its line


def _cost_cells(costs: dict, rows: list[dict]) -> str:
    unreached = "not in every seed" if any(row["n_reached"] for row in rows) else "not reached"
    steps, trained, time = (costs.get(k) for k in ("steps_to_target", "trainable_per_step", "ms_per_step"))
    return (
        f"<td>{unreached if steps is None or missing(steps) else _steps(steps)}</td>"
        f"<td>{'–' if missing(trained) else f'{trained:,.0f}'}</td>"
        f"<td>{'–' if time is None or missing(time) else fixed(time, 1)}</td>"
    )


def _steps(steps: float) -> str:
    return fixed(steps, 0 if steps == round(steps) or steps >= 100 else 1)


def _row_head(method: str, methods: list[str], rows: list[dict]) -> str:
    worst = min(rows, key=lambda r: r["n_reached"] / r["n"])
    flag = "" if _reached(worst) else f"<small>† reached in {worst['n_reached']} of {worst['n']} seeds</small>"
    return f'<th scope="row">{_glyph(method, methods)}{escape(name(method))}{flag}</th>'


def _base_value(summary: dict, probe: Probe) -> float | None:
    return summary.get("base", {}).get(probe.key, {}).get(probe.metric)


def _table(label: str, head: str, body: list[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)} (table)">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(body)}\n</tbody></table></div>"
    )


def _equal_notes(summary: dict) -> str:
    rows = summary.get("equal_learning", [])
    notes = []
    if any(not missing(r["low"]) for r in rows):
        notes.append(
            "In each cell: the mean over seeds, its 95% interval, the change from the base model, and (in "
            "brackets) the 95% interval of that change, positive when worse."
        )
    else:
        notes.append("One seed: no intervals, so small differences between methods mean nothing.")
    if any(not _reached(r) for r in rows):
        notes.append(
            f"† {percent(summary['target'], 0)} learned was not reached in every seed; where it was not, the "
            "values are read at that run’s best-learned evaluation: that row is not at equal learning."
        )
    return "\n".join(f'<p class="notes">{escape(note)}</p>' for note in notes)


def _f1_details(summary: dict, methods: list[str]) -> str:
    asked = [p for p in _probes(summary, "equal_learning") if _rows(summary, "equal_learning", p.key, "f1")]
    probes = [replace(p, metric="f1", unit="word overlap, F1 (%)") for p in asked if p.metric == "em"]
    if not probes:
        return ""
    inner = _readings_table(summary, "equal_learning", methods, probes)
    return f"<details><summary>Partly right answers counted too (F1)</summary>{inner}</details>"


def _plane_alt(table: pd.DataFrame) -> str:
    up = style.upward(table["probe"])
    ends = figures.ends(table)
    written = percent if up.is_share else (lambda loss: fixed(loss, 3))
    parts = [
        f"{name(method)} ends at {percent(learned)} learned with {up.describe(written(kept))}"
        for method, learned, kept in zip(ends["method"], ends["learned"], ends["kept"], strict=True)
    ]
    return f"Plane of new facts learned against {up.title.lower()}, from step 0 on. {'; '.join(parts)}."


def _downward(table: pd.DataFrame) -> str:
    """What moving down in the plane means."""
    up = style.upward(table["probe"])
    return f"more {up.facts} forgotten" if up.is_share else f"a higher loss on {up.facts}, for no question was known"


def _plane_caption(summary: dict) -> str:
    up = style.upward(row["probe"] for row in summary.get("equal_learning", []))
    rows = _rows(summary, "equal_learning", up.key, up.metric).values()
    many = any(r["n"] > 1 for r in rows)
    seeds = "Thick lines are means over seeds, faint lines single seeds; " if many else "One seed per method; "
    whiskers = ", its whiskers the 95% interval over seeds" if many else ""
    text = f"{seeds}every dot is an evaluation. The hollow marker is the reading at equal learning{whiskers}."
    if any(not _reached(r) for r in rows):
        text += " A cross-shaped hollow marker did not reach the target in every seed."
    return text + " The vertical axis does not start at zero." + DRAG_HINT


def _curves_alt(table: pd.DataFrame) -> str:
    parts = []
    for probe in probes_in(zip(table["probe"], table["metric"], strict=True)):
        last = figures.mean_over_seeds(table, probe.key, probe.metric).groupby("method", as_index=False).last()
        read = zip(last["method"], last["mean"], strict=True)
        ends = ", ".join(f"{name(method)} {_number(mean, probe)}" for method, mean in read)
        if ends:
            parts.append(f"{probe.title}, {probe.unit}, at the end: {ends}")
    return f"One panel per probe over the gradient steps. {'. '.join(parts)}."


def _curves_caption(table: pd.DataFrame) -> str:
    many = table.groupby("method")["seed"].nunique().max() > 1
    bands = "Lines are means over seeds, bands their 95% interval." if many else "One seed, so no bands."
    return f"{bands} The dotted line is the base model. Vertical axes do not start at zero." + DRAG_HINT


def is_right(answer: str | None, gold: str, accepted: Sequence[str] = (), match: str = "exact") -> bool:
    """Whether an answer equals the gold answer, whatever the capitals and outer spaces.

    Args:
        accepted: All that counts, where it is judged as its probe does: without articles and punctuation.
        match: How its probe compares, see `smft_lab.probes.text.MATCHES`.
    """
    if answer is not None and accepted:
        return bool(MATCHES[match][0](answer, accepted))
    return answer is not None and answer.strip().casefold() == gold.strip().casefold()


def _marks(samples: list[dict]) -> str:
    """What a mark beside an answer means."""
    wrong = '<span class="mark wrong">✗</span> any other; capital\nletters do not matter.'
    begun = " Nor do articles. A reply about a known fact is right if it begins with the answer."
    kinds = any(sample.get("accepted") for sample in samples)
    return f'<span class="mark right">✓</span> is the right answer, {wrong}{begun if kinds else ""}'


def _questions(samples: list[dict], methods: list[str]) -> str:
    if not samples:
        return "<p>No questions were recorded.</p>"
    known = list(SAMPLE_TITLES)
    probes = sorted({s["probe"] for s in samples}, key=lambda p: (known.index(p) if p in known else 99, p))
    return "\n".join(_probe_questions(p, [s for s in samples if s["probe"] == p], methods) for p in probes)


def _probe_questions(probe: str, samples: list[dict], methods: list[str]) -> str:
    shown = "\n".join(_question(s, methods) for s in samples[:SAMPLES_SHOWN])
    rest = samples[SAMPLES_SHOWN:]
    if rest:
        folded = "\n".join(_question(s, methods) for s in rest)
        shown += f"<details><summary>{len(rest)} more</summary>{folded}</details>"
    title = SAMPLE_TITLES.get(probe, probe)
    return f"<h3>{escape(title)}</h3>\n{shown}"


def _question(sample: dict, methods: list[str]) -> str:
    gold, how = sample["answer"], (sample.get("accepted", ()), sample.get("match", "exact"))
    base = sample.get("base")
    answers = [_answer("Before: base model", "", base, is_right(base, gold, *how))]
    for method in methods:
        if method in sample["answers"]:
            label = f"{_glyph(method, methods)}After: {escape(style.short_name(method))}"
            text = sample["answers"][method]
            answers.append(_answer(label, _colour(method, methods), text, is_right(text, gold, *how)))
    return (
        f'<article class="question"><p><span class="asked">{escape(sample["question"])}</span> '
        f'<span class="gold">Right answer: {escape(gold)}</span></p>'
        f'<dl class="answers">{"".join(answers)}</dl>{_taught(sample)}</article>'
    )


def _taught(sample: dict) -> str:
    texts = sample.get("taught", [])
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    many = f"{len(texts)} texts" if len(texts) > 1 else "one text"
    return f"<details><summary>Taught by {many}</summary><ul>{items}</ul></details>" if texts else ""


def _answer(label: str, colour: str, text: str | None, right: bool) -> str:
    kind, glyph = ("right", "✓") if right else ("wrong", "✗")
    mark = f'<span class="mark {kind}" aria-hidden="true">{glyph}</span><span class="hidden">{kind}: </span>'
    shown = escape(text) if text and text.strip() else "<i>(nothing)</i>"
    return f'<div style="{colour}"><dt>{label}</dt><dd class="{kind}-answer">{mark}{shown}</dd></div>'


def _sweep(summary: dict) -> str:
    rows = summary.get("sweep") or []
    if not rows:
        return ""
    order = style.ordered(r["method"] for r in rows)
    rows = sorted(rows, key=lambda r: (order.index(r["method"]), r["optimizer"], r["lr"], r.get("top_t") or 0))
    head = (
        '<th scope="col">Method</th><th scope="col" class="text">Optimizer</th>'
        '<th scope="col">Learning rate</th><th scope="col">t<small>slots a step</small></th>'
        '<th scope="col" class="text">Chosen</th>'
        '<th scope="col" class="text">Target</th><th scope="col">Steps</th>'
        '<th scope="col">Learned<small>exact match (%)</small></th>'
        '<th scope="col">Old facts kept<small>exact match (%)</small></th>'
        '<th scope="col">Arithmetic<small>nats per answer token</small></th>'
        '<th scope="col">Prose<small>nats per token</small></th>'
    )
    table = _table("Learning rates tried", head, [_sweep_row(r) for r in rows])
    return (
        '<section id="sweep" aria-labelledby="sweep-title"><h2 id="sweep-title">Learning rates tried</h2>'
        "<p>The settings marked ✓ chosen are those that a comparison uses by default: of those with which every seed "
        "reached the target in about half of the steps there are, the ones that kept most old facts, or were as good "
        "but for a quarter of a point and faster. Figures are means over seeds.</p>"
        f"<details><summary>{len(rows)} settings</summary>{table}</details></section>"
    )


def _sweep_row(row: dict) -> str:
    steps = row.get("steps")
    shares = "".join(f"<td>{percent(row.get(key))}</td>" for key in ("learned", "old_facts"))
    losses = "".join(
        f"<td>{'–' if missing(row.get(key)) else fixed(row[key], 3)}</td>" for key in ("arithmetic", "prose")
    )
    kind = "chosen" if row["chosen"] else "tried"
    return (
        f'<tr class="{kind}"><th scope="row">{escape(name(row["method"]))}</th>'
        f'<td class="text">{escape(row["optimizer"])}</td><td>{row["lr"]:g}</td>'
        f"<td>{'–' if missing(row.get('top_t')) else row['top_t']}</td>"
        f'<td class="text">{"✓ chosen" if row["chosen"] else ""}</td>'
        f'<td class="text">{"reached" if row["reached"] else "not reached"}</td>'
        f"<td>{'–' if steps is None or missing(steps) else _steps(steps)}</td>{shares}{losses}</tr>"
    )


def _settings(summary: dict, methods: list[str]) -> str:
    pairs = [(SETTING_NAMES.get(k, _words(k)), _plain(v)) for k, v in summary["settings"].items()]
    pairs.append(("Target share learned", percent(summary["target"], 0)))
    head = '<th scope="col">Method</th><th scope="col" class="text">Optimizer</th>'
    head += '<th scope="col">Learning rate</th>'
    used = {m: summary["methods"][m] for m in methods if m in summary["methods"]}
    extra = list(dict.fromkeys(k for values in used.values() for k in values if k not in METHOD_FIELDS))
    head += "".join(f'<th scope="col">{escape(_words(k))}</th>' for k in extra)
    body = []
    for method, values in used.items():
        lr = values.get("lr")
        cells = f'<td class="text">{escape(_plain(values.get("optimizer")))}</td>'
        cells += f"<td>{'–' if missing(lr) else f'{lr:g}'}</td>"
        cells += "".join(f"<td>{escape(_plain(values.get(k)))}</td>" for k in extra)
        body.append(f'<tr><th scope="row">{_glyph(method, methods)}{escape(name(method))}</th>{cells}</tr>')
    return _pairs(pairs, "pairs") + _table("Settings of each method", head, body)


def _command(command: str) -> str:
    if not command:
        return "<p>Made from Python or a notebook with the settings above; there is no command to repeat.</p>"
    return (
        '<div class="command"><pre tabindex="0" aria-label="Command that reproduces this page">'
        f'<code id="command">{escape(command)}</code></pre>'
        '<button type="button" id="copy">Copy</button></div>'
    )


def _made_with(summary: dict) -> str:
    pairs = [("Machine", summary["machine"]), ("Time taken", _duration(summary["seconds"]))]
    pairs += [("Date", summary["date"])] + list(summary["versions"].items())
    return _pairs(pairs, "pairs")


def _pairs(pairs: Iterable[tuple[str, object]], kind: str) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(_plain(v))}</dd></div>" for k, v in pairs)
    return f'<dl class="{kind}">{rows}</dl>'


def _words(key: str) -> str:
    text = key.replace("_", " ")
    return text[:1].upper() + text[1:]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if missing(value):
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)  # seeds are names, not amounts: no thousands commas
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
