"""What a comparison says in sentences for people: its headline, its notes, and what its figures show."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from smft_lab.charts import figures, style
from smft_lab.charts.readings import kept_in, number, reached, rows_of
from smft_lab.charts.style import learned_little, missing, name, name_in_sentence, percent, probes_in
from smft_lab.finetuning.methods import METHODS


def headline(summary: dict) -> str:
    """What happened, in one or two sentences that hold whoever came out ahead."""
    rows, learned = _known_drops(summary), rows_of(summary, "equal_learning", "learned", "em")
    little = [method for method in rows or learned if learned_little(learned.get(method))]
    fair = sorted((method for method in rows if reached(rows[method])), key=lambda method: rows[method]["drop_mean"])
    sentences = []
    if fair:
        sentences.append(_fair_sentence(summary, {method: rows[method] for method in fair}))
    if little:
        sentences.append(_little_sentence(little, learned, of_all=not fair and len(little) == len(rows or learned)))
    for method in rows:
        if method not in fair and method not in little:
            sentences.append(_unreached_sentence(summary, method, rows[method], learned.get(method)))
    if learned and not rows:
        sentences.append("No question here was known before, so what was forgotten is told by the other probes alone.")
    if little:
        sentences.append(remedy(summary))
    return " ".join(sentences) or "No reading at equal learning was recorded."


def _known_drops(summary: dict) -> dict[str, dict]:
    """Method -> what it lost of the questions that tell forgetting; of controls only where there is nothing else."""
    rows = rows_of(summary, "equal_learning", kept_in(summary).key, "em")
    measured = {method: row for method, row in rows.items() if not missing(row["drop_mean"])}
    return {method: row for method, row in measured.items() if method in METHODS} or measured


def _fair_sentence(summary: dict, rows: dict[str, dict]) -> str:
    """Of the methods that reached the target in every seed, from the smallest loss on."""
    clauses = [f"{name_in_sentence(method)} {lost(row['drop_mean'])}" for method, row in rows.items()]
    clauses[0] += f" of {kept_in(summary).recall}"
    seeds = _seed_words(next(iter(rows.values()))["n"])
    return f"At {target_words(summary)} learned, {_joined(clauses)} ({seeds})."


def _little_sentence(methods: Sequence[str], learned: dict[str, dict], of_all: bool) -> str:
    names = [name_in_sentence(method) for method in methods]
    most = [f"{name_in_sentence(method)} {percent(learned[method]['mean'])}" for method in methods]
    whose = "was learned" if of_all else f"was learned by {_joined(names)}"
    return f"Hardly anything {whose}, so what was kept there says nothing: at best {_joined(most)} of the new facts."


def _unreached_sentence(summary: dict, method: str, row: dict, learned: dict | None) -> str:
    share = f" ({percent(learned['mean'])} learned)" if learned and not missing(learned["mean"]) else ""
    change = f"it {lost(row['drop_mean'])} of {kept_in(summary).recall}."
    if row["n_reached"] == 0:
        return (
            f"{name(method)} never reached {target_words(summary)} learned; at its best-learned evaluation{share} "
            f"{change}"
        )
    return (
        f"{name(method)} reached {target_words(summary)} learned in only {row['n_reached']} of {row['n']} seeds; with "
        f"the others read at their best-learned evaluation{share} {change}"
    )


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


def target_words(summary: dict) -> str:
    return percent(summary["target"], 0)


def lost(drop: float) -> str:
    points = round(100 * drop, 1)
    unit = "point" if abs(points) == 1 else "points"
    return f"{'gained' if points < 0 else 'lost'} {abs(points):.1f} {unit}"


def _joined(clauses: Sequence[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def _seed_words(n: int) -> str:
    return "one seed, which says little: give --seeds 3 for an interval" if n == 1 else f"means of {n} seeds"


def flag(summary: dict, row: dict) -> str:
    """In how few seeds a method reached the target; empty where it did in all."""
    if reached(row):
        return ""
    if row["n_reached"] == 0:
        return f"† never reached {target_words(summary)}"
    return f"† {target_words(summary)} reached in {row['n_reached']} of {row['n']} seeds"


def equal_notes(summary: dict) -> list[str]:
    """How the table at equal learning is read."""
    rows = summary.get("equal_learning", [])
    notes = ["One seed: no intervals, so small differences between methods mean nothing."]
    if any(not missing(row["low"]) for row in rows):
        notes = [
            "In each cell: the mean over seeds, its 95% interval, the change from the base model, and (in "
            "brackets) the 95% interval of that change, positive when worse."
        ]
    if not all(reached(row) for row in rows):
        notes.append(
            f"† {target_words(summary)} learned was not reached in every seed; where it was not, the "
            "values are read at that run’s best-learned evaluation: that row is not at equal learning."
        )
    return notes


def plane_alt(table: pd.DataFrame) -> str:
    """The plane, for who can't see it."""
    up, ends = style.upward(table["probe"]), figures.ends(table)
    parts = [
        f"{name(method)} ends at {percent(learned)} learned with {up.describe(number(kept, up))}"
        for method, learned, kept in zip(ends["method"], ends["learned"], ends["kept"], strict=True)
    ]
    return f"Plane of new facts learned against {up.title.lower()}, from step 0 on. {'; '.join(parts)}."


def downward(table: pd.DataFrame) -> str:
    """What moving down in the plane means."""
    up = style.upward(table["probe"])
    return f"more {up.facts} forgotten" if up.is_share else f"a higher loss on {up.facts}, for no question was known"


def plane_caption(summary: dict) -> str:
    up = style.upward(row["probe"] for row in summary.get("equal_learning", []))
    rows = rows_of(summary, "equal_learning", up.key, up.metric).values()
    many = any(row["n"] > 1 for row in rows)
    seeds = "Thick lines are means over seeds, faint lines single seeds; " if many else "One seed per method; "
    whiskers = ", its whiskers the 95% interval over seeds" if many else ""
    text = f"{seeds}every dot is an evaluation. The hollow marker is the reading at equal learning{whiskers}."
    if not all(reached(row) for row in rows):
        text += " A cross-shaped hollow marker did not reach the target in every seed."
    return text + " The vertical axis does not start at zero."


def curves_alt(table: pd.DataFrame) -> str:
    """The curves, for who can't see them."""
    parts = []
    for probe in probes_in(zip(table["probe"], table["metric"], strict=True)):
        last = figures.mean_over_seeds(table, probe.key, probe.metric).groupby("method", as_index=False).last()
        ends = zip(last["method"], last["mean"], strict=True)
        words = ", ".join(f"{name(method)} {number(mean, probe)}" for method, mean in ends)
        if words:
            parts.append(f"{probe.title}, {probe.unit}, at the end: {words}")
    return f"One panel per probe over the gradient steps. {'. '.join(parts)}."


def curves_caption(table: pd.DataFrame) -> str:
    many = table.groupby("method")["seed"].nunique().max() > 1
    bands = "Lines are means over seeds, bands their 95% interval." if many else "One seed, so no bands."
    return f"{bands} The dotted line is the base model. Vertical axes do not start at zero."
