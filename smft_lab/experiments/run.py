"""One finetune from its start to its end, kept as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from smft_lab.facts.fact import Fact, as_facts
from smft_lab.finetuning.finetune import Step, finetune, settings_for, whole
from smft_lab.lab import Lab
from smft_lab.recipe import Recipe
from smft_lab.slots.patch import Patch


@dataclass
class Run:
    """A finished finetune.

    Attributes:
        history: One row per measurement: step, probe, metric, value.
        losses: Loss of every step, in nats per token.
        summary: Settings, and the last measurement of every probe.
        patch: The changed rows, for `sparse`; None for the methods that change everything.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), passes=2)
        >>> run.summary["steps"], len(run.losses)
        (2, 2)
        >>> lab.reset()
    """

    history: pd.DataFrame
    losses: list[float]
    summary: dict
    patch: Patch | None


def history_rows(step: Step) -> list[dict]:
    """The measurements of one step, one row each; none where nothing was measured."""
    return measured_rows(step.step, step.probes or {})


def measured_rows(step: int, measured: dict[str, dict[str, float]]) -> list[dict]:
    """What probes measured after so many steps, one row each: step, probe, metric, value."""
    return [
        {"step": step, "probe": probe, "metric": metric, "value": value}
        for probe, metrics in measured.items()
        for metric, value in metrics.items()
    ]


def _told(summary: dict) -> dict:
    """What of a summary a file can hold: no functions, and a recipe by its fields."""
    fields = {name: asdict(value) if isinstance(value, Recipe) else value for name, value in summary.items()}
    return {name: value for name, value in fields.items() if isinstance(value, str | int | float | dict | None)
            and name not in ("kept", "base_probes")}  # fmt: skip


def run(lab: Lab, facts: Sequence[Fact], method: str = "sparse", **options) -> Run:
    """Drain `finetune(lab, facts, method, **options)`; the model is left finetuned.

    It starts from the model as it is: the patch holds what earlier sparse runs changed, too, unless `lab.reset()` came
    between.

    Raises:
        ValueError: see `finetune`; or the method is `sparse`, and an earlier run changed more than value rows.
        TakenOver: see `whole`.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(2), passes=1)
        >>> run.history.columns.tolist()
        ['step', 'probe', 'metric', 'value']
        >>> lab.reset()
    """
    facts = as_facts(facts)
    if method == "sparse":
        Patch.between(lab)  # refuses before anything is trained
    rows, losses, last, probes = [], [], None, {}
    for last in whole(finetune(lab, facts, method, **options)):
        rows += history_rows(last)
        losses += [last.loss] if last.loss is not None else []
        probes = last.probes or probes
    assert last is not None  # the base comes first
    used = settings_for(lab, method, **{name: options.get(name) for name in ("top_t", "lr", "optimizer")})
    summary = {"method": method, **options, **used, "facts": len(facts), "steps": last.step, "seconds": last.seconds}
    if last.adapted is not None:
        summary["adapted"] = last.adapted
    patch = Patch.between(lab, {"rule": "tfidf", **_told(summary)}, facts) if method == "sparse" else None
    summary["probes"] = probes
    return Run(pd.DataFrame(rows), losses, summary, patch)
