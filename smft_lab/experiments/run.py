"""One finetune from the base to its end, kept as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from smft_lab.facts.fact import Fact
from smft_lab.finetuning.finetune import Step, finetune
from smft_lab.slots.patch import Patch


@dataclass
class Run:
    """A finished finetune.

    Attributes:
        history: One row per measurement: step, probe, metric, value.
        losses: Loss of every step, in nats per token.
        summary: Settings and last values.
        patch: The changed rows, for `sparse`; None for the methods that change everything.
    """

    history: pd.DataFrame
    losses: list[float]
    summary: dict
    patch: Patch | None


def history_rows(step: Step) -> list[dict]:
    """The measurements of one step, one row each; none where nothing was measured."""
    return [
        {"step": step.step, "probe": probe, "metric": metric, "value": value}
        for probe, metrics in (step.probes or {}).items()
        for metric, value in metrics.items()
    ]


def run(lab, facts: Sequence[Fact], method: str = "sparse", **options) -> Run:
    """Drain `finetune(lab, facts, method, **options)`; the model is left finetuned.

    Raises:
        ValueError: see `finetune`.
    """
    rows, losses, last = [], [], None
    for last in finetune(lab, facts, method, **options):
        rows += history_rows(last)
        losses += [last.loss] if last.loss is not None else []
    summary = {"method": method, **options, "facts": len(facts), "steps": last.step, "seconds": last.seconds}
    patch = Patch.between(lab, summary) if method == "sparse" else None
    return Run(pd.DataFrame(rows), losses, summary, patch)
