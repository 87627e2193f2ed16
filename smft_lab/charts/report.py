"""The report: one HTML file that needs nothing but itself, drawn from a finished comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from smft_lab.charts import figures, readings, sentences, style
from smft_lab.charts.shell import page_html
from smft_lab.charts.style import fixed, learned_little, missing, name, percent, short_name
from smft_lab.finetuning.methods import METHODS, STANDARD
from smft_lab.probes.text import MATCHES
from smft_lab.writing import write_atomically

HERE = Path(__file__).parent

ACCENTS = {"tint": "#F3F6F8", "focus": "#0072B2", "good": "#00714F", "bad": "#B03A00"}
DARK_ACCENTS = {"tint": "#1D2731", "focus": "#56B4E9", "good": "#4FD6A8", "bad": "#FF9B66"}

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


def page(table: pd.DataFrame, summary: dict, samples: Sequence[dict]) -> str:
    """The whole page as HTML text."""
    methods = style.ordered([*table["method"], *summary["methods"]])
    return page_html(
        HERE / "page.html",
        scripts=(get_plotlyjs(), (HERE / "page.js").read_text(encoding="utf-8")),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        title=summary["title"],
        colours=_colours(methods),
        methods=_methods(methods),
        figures=_figures(table, summary),
        **_results(table, summary, methods),
        questions=_questions(samples, methods),
        any_accepted=any(sample.get("accepted") for sample in samples),
        sweep=_sweep(summary),
        settings=_settings(summary),
        of_methods=_of_methods(summary, methods),
        command=summary["command"],
        made_with=_made_with(summary),
        glossary=[*GLOSSARY.items(), *_method_words(methods)],
    )


def _results(table: pd.DataFrame, summary: dict, methods: Sequence[str]) -> dict:
    """What the page says of learning and forgetting, in sentences and tables."""
    return {
        "headline": sentences.headline(summary),
        "cards": _cards(summary, methods),
        "downward": sentences.downward(table),
        "plane_alt": sentences.plane_alt(table),
        "plane_caption": sentences.plane_caption(summary),
        "rule_text": summary["rule_text"],
        "equal_tables": readings.tables(summary, "equal_learning", methods),
        "equal_notes": sentences.equal_notes(summary),
        "final_tables": readings.tables(summary, "final", methods),
        "f1_table": readings.f1_table(summary, methods),
        "curves_alt": sentences.curves_alt(table),
        "curves_caption": sentences.curves_caption(table),
    }


def _method_words(methods: Sequence[str]) -> list[tuple[str, str]]:
    """What each of these methods does, and the paper's three in any case."""
    kinds = [METHODS[key] for key in METHODS if key in (*STANDARD, *methods)]
    return [(kind.title, kind.about) for kind in kinds if kind.about]


def _colours(methods: Sequence[str]) -> list[dict[str, str]]:
    """The light and the dark scheme, from the same constants which the figures use."""
    inks = {"ink": style.INK, "muted": style.MUTED, "grid": style.GRID, "axis": style.AXIS, "surface": style.SURFACE}
    looks = {f"method-{place}": look for place, look in enumerate(style.looks(methods).values())}
    light = inks | {key: look.light for key, look in looks.items()}
    dark = {key: style.DARK_OF[colour] for key, colour in inks.items()}
    dark |= {key: look.dark for key, look in looks.items()}
    return [light | ACCENTS, dark | DARK_ACCENTS]


def _methods(methods: Sequence[str]) -> dict[str, dict]:
    """How each method is shown; its place is that of its colour."""
    looks = style.looks(methods)
    return {
        method: {"place": place, "glyph": looks[method].glyph, "name": name(method), "short": short_name(method)}
        for place, method in enumerate(methods)
    }


def _figures(table: pd.DataFrame, summary: dict) -> dict:
    """The charts as data, and which dark colour takes the place of each light one."""
    drawn = {"plane": figures.plane(table, summary), "curves": figures.curves(table)}
    as_data = {kind: json.loads(str(figure.to_json())) for kind, figure in drawn.items()}
    return {"dark": style.dark_of_light(), "figures": as_data}


def _cards(summary: dict, methods: Sequence[str]) -> list[dict]:
    rows = readings.rows_of(summary, "equal_learning", readings.kept_in(summary).key, "em")
    learned = readings.rows_of(summary, "equal_learning", "learned", "em")
    return [_card(summary, method, rows[method], learned.get(method)) for method in rows if method in methods]


def _card(summary: dict, method: str, row: dict, learned: dict | None) -> dict:
    kept = readings.kept_in(summary)
    spread = readings.interval(row["drop_low"], row["drop_high"], kept)
    card = {"method": method, "number": "–", "unit": "", "flag": sentences.flag(summary, row)}
    lines = [f"95% interval {spread}" if spread else "one seed, no interval"]
    if learned and learned_little(learned):
        few = "of the new facts learned: too few to tell what it costs"
        return card | {"number": percent(learned["mean"]), "unit": few, "lines": []}
    if learned and not missing(learned["mean"]):
        lines.append(f"at {percent(learned['mean'])} of the new facts learned")
    if not missing(row["drop_mean"]):
        verb, points, unit = sentences.lost(row["drop_mean"]).split()
        card |= {"number": points, "unit": f"{unit} of {kept.recall} {verb}"}
    return card | {"lines": lines}


def is_right(answer: str | None, gold: str, accepted: Sequence[str] = (), match: str = "exact") -> bool:
    """Whether an answer equals the gold answer, whatever the capitals and outer spaces.

    Args:
        accepted: All that counts, where it is judged as its probe does: without articles and punctuation.
        match: How its probe compares, see `smft_lab.probes.text.MATCHES`.
    """
    if answer is not None and accepted:
        return bool(MATCHES[match][0](answer, accepted))
    return answer is not None and answer.strip().casefold() == gold.strip().casefold()


def _questions(samples: Sequence[dict], methods: Sequence[str]) -> list[dict]:
    """The questions of each probe, those that are shown and those that are folded away."""
    known = list(SAMPLE_TITLES)
    probes = {sample["probe"] for sample in samples}
    parts = []
    for probe in sorted(probes, key=lambda probe: (known.index(probe) if probe in known else len(known), probe)):
        asked = [_question(sample, methods) for sample in samples if sample["probe"] == probe]
        title = SAMPLE_TITLES.get(probe, probe)
        parts.append({"title": title, "shown": asked[:SAMPLES_SHOWN], "folded": asked[SAMPLES_SHOWN:]})
    return parts


def _question(sample: dict, methods: Sequence[str]) -> dict:
    present = [method for method in methods if method in sample["answers"]]
    replies = [(None, sample.get("base")), *((method, sample["answers"][method]) for method in present)]
    return {
        "question": sample["question"],
        "gold": sample["answer"],
        "answers": [_answer(sample, method, text) for method, text in replies],
        "taught": sample.get("taught", []),
    }


def _answer(sample: dict, method: str | None, text: str | None) -> dict:
    """A reply and whether it is right; the base model's has no method."""
    right = is_right(text, sample["answer"], sample.get("accepted", ()), sample.get("match", "exact"))
    return {"method": method, "text": text if text and text.strip() else "", "right": right}


def _sweep(summary: dict) -> list[dict]:
    """The settings that were tried, in the order of methods."""
    rows = summary.get("sweep") or []
    order = style.ordered(row["method"] for row in rows)
    rows = sorted(
        rows, key=lambda row: (order.index(row["method"]), row["optimizer"], row["lr"], row.get("top_t") or 0)
    )
    return [_sweep_row(row) for row in rows]


def _sweep_row(row: dict) -> dict:
    top_t, steps = row.get("top_t"), row.get("steps")
    losses = [row.get(key) for key in ("arithmetic", "prose")]
    return {
        "name": name(row["method"]),
        "optimizer": row["optimizer"],
        "lr": f"{row['lr']:g}",
        "top_t": "–" if missing(top_t) else top_t,
        "chosen": row.get("chosen", False),
        "reached": row["reached"],
        "steps": "–" if steps is None or missing(steps) else readings.steps_words(steps),
        "shares": [percent(row.get(key)) for key in ("learned", "old_facts")],
        "losses": ["–" if loss is None or missing(loss) else fixed(loss, 3) for loss in losses],
    }


def _settings(summary: dict) -> list[tuple[str, str]]:
    pairs = [(SETTING_NAMES.get(key, _words(key)), _plain(value)) for key, value in summary["settings"].items()]
    return [*pairs, ("Target share learned", sentences.target_words(summary))]


def _of_methods(summary: dict, methods: Sequence[str]) -> dict:
    """The settings of each method, with a column for each that any of them has besides its rate."""
    used = {method: summary["methods"][method] for method in methods if method in summary["methods"]}
    extra = list(dict.fromkeys(key for values in used.values() for key in values if key not in METHOD_FIELDS))
    rows = [
        {
            "method": method,
            "optimizer": _plain(values.get("optimizer")),
            "lr": "–" if missing(values.get("lr")) else f"{values['lr']:g}",
            "extra": [_plain(values.get(key)) for key in extra],
        }
        for method, values in used.items()
    ]
    return {"columns": [_words(key) for key in extra], "rows": rows}


def _made_with(summary: dict) -> list[tuple[str, str]]:
    pairs = [("Machine", summary["machine"]), ("Time taken", _duration(summary["seconds"])), ("Date", summary["date"])]
    return [(key, _plain(value)) for key, value in (*pairs, *summary["versions"].items())]


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
