"""The readings of a comparison: looked up in its summary, and as tables with methods down and probes across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from smft_lab.charts import style
from smft_lab.charts.style import Kept, Probe, fixed, kept_of, missing, percent, probes_in

TITLES = {"equal_learning": "At equal learning", "final": "At the last evaluation"}
WAYS = (
    "The same facts, asked in several ways: in a wording that was never taught, in one that was, and in the first "
    "after other questions with their answers."
)


def rows_of(summary: dict, reading: str, probe: str, metric: str) -> dict[str, dict]:
    """Method -> its row of `reading` (a key of `TITLES`) for one probe and metric."""
    rows = [row for row in summary.get(reading, []) if (row["probe"], row["metric"]) == (probe, metric)]
    by_method = {row["method"]: row for row in rows}
    return {method: by_method[method] for method in style.ordered(by_method)}


def reached(row: dict) -> bool:
    """Whether every seed reached the target."""
    return row["n_reached"] >= row["n"]


def kept_in(summary: dict) -> Kept:
    """By which questions this comparison tells forgetting."""
    return kept_of(row["probe"] for row in summary.get("equal_learning", []))


def tables(summary: dict, reading: str, methods: Sequence[str]) -> list[dict]:
    """The table of all probes; two of them where what was taught is asked in several ways."""
    probes, label = _probes(summary, reading), TITLES[reading]
    learned = [probe for probe in probes if probe.is_learned]
    if len(learned) < 2:
        return [{"title": "", "about": "", **_table(summary, reading, methods, probes, label, with_costs=True)}]
    stays = [probe for probe in probes if not probe.is_learned]
    of_learned = _table(summary, reading, methods, learned, f"{label}, what was learned")
    of_rest = _table(summary, reading, methods, stays, label, with_costs=True)
    return [
        {"title": "What was learned", "about": WAYS, **of_learned},
        {"title": "What should have stayed", "about": "", **of_rest},
    ]


def f1_table(summary: dict, methods: Sequence[str]) -> dict | None:
    """The probes at equal learning with partly right answers counted, where that was measured."""
    asked = [probe for probe in _probes(summary, "equal_learning") if probe.metric == "em"]
    measured = [probe for probe in asked if rows_of(summary, "equal_learning", probe.key, "f1")]
    probes = [replace(probe, metric="f1", unit="word overlap, F1 (%)") for probe in measured]
    return _table(summary, "equal_learning", methods, probes, TITLES["equal_learning"]) if probes else None


def _probes(summary: dict, reading: str) -> list[Probe]:
    """The probes of a reading, in the order they are shown."""
    return probes_in((row["probe"], row["metric"]) for row in summary.get(reading, []))


def _table(
    summary: dict,
    reading: str,
    methods: Sequence[str],
    probes: Sequence[Probe],
    label: str,
    with_costs: bool = False,
) -> dict:
    """One table, the base model first; without rows where none of the methods was read."""
    by_probe = {probe: rows_of(summary, reading, probe.key, probe.metric) for probe in probes}
    present = [method for method in methods if any(method in rows for rows in by_probe.values())]
    return {
        "label": label,
        "columns": [(probe.title, _unit(probe)) for probe in probes],
        "with_costs": with_costs,
        "base": [number(_base_value(summary, probe), probe) for probe in probes],
        "rows": [_row(summary, method, by_probe) for method in present],
    }


def _row(summary: dict, method: str, by_probe: dict[Probe, dict[str, dict]]) -> dict:
    own = [rows[method] for rows in by_probe.values() if method in rows]
    worst = min(own, key=lambda row: row["n_reached"] / row["n"])
    return {
        "method": method,
        "flag": "" if reached(worst) else f"† reached in {worst['n_reached']} of {worst['n']} seeds",
        "cells": [_cell(rows.get(method), probe) for probe, rows in by_probe.items()],
        "costs": _costs(summary["methods"].get(method, {}), own),
    }


def _cell(row: dict | None, probe: Probe) -> dict | None:
    """A reading and what lies between it and the base; none where there is nothing to show."""
    if row is None or missing(row["mean"]):
        return None
    spread = interval(row["drop_low"], row["drop_high"], probe)
    return {
        "value": number(row["mean"], probe),
        "reached": reached(row),
        "interval": interval(row["low"], row["high"], probe),
        "change": "" if probe.is_learned else _change(row["drop_mean"], probe),
        "spread": "" if probe.is_learned else spread,
    }


def _costs(costs: dict, rows: Sequence[dict]) -> list[str]:
    """Steps to the target, numbers trained per step, and milliseconds per step."""
    steps, trained, time = (costs.get(key) for key in ("steps_to_target", "trainable_per_step", "ms_per_step"))
    unreached = "not in every seed" if any(row["n_reached"] for row in rows) else "not reached"
    return [
        unreached if steps is None or missing(steps) else steps_words(steps),
        "–" if missing(trained) else f"{trained:,.0f}",
        "–" if time is None or missing(time) else fixed(time, 1),
    ]


def _base_value(summary: dict, probe: Probe) -> float | None:
    return summary.get("base", {}).get(probe.key, {}).get(probe.metric)


def _unit(probe: Probe) -> str:
    return probe.unit.replace(" ", "\u00a0") if probe.is_share else probe.unit  # keeps "(%)" on its line


def _change(drop: float | None, probe: Probe) -> str:
    """How much worse than the base model, in words: points for shares, nats for losses."""
    if drop is None or missing(drop):
        return ""
    scale, digits, unit = (100, 1, "pts") if probe.is_share else (1, 3, "nats")
    size = fixed(abs(scale * drop), digits)
    return f"{size} {unit} {'worse' if drop > 0 else 'better'}" if size.strip("0.") else "unchanged"


def interval(low: float | None, high: float | None, probe: Probe | Kept) -> str:
    """An interval in words, empty where there is none."""
    if low is None or high is None or missing(low) or missing(high):
        return ""
    scale, digits = (100, 1) if probe.is_share else (1, 3)
    return f"{fixed(scale * low, digits)} to {fixed(scale * high, digits)}"


def number(value: float | None, probe: Probe | Kept) -> str:
    """A value of a probe: a share as a percentage, a loss in nats."""
    if value is None or missing(value):
        return "–"
    return percent(value) if probe.is_share else fixed(value, 3)


def steps_words(steps: float) -> str:
    return fixed(steps, 0 if steps == round(steps) or steps >= 100 else 1)
