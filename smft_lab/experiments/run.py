"""One finetune from its start to its end, kept as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any

import pandas as pd

from smft_lab.facts.fact import Fact, as_facts
from smft_lab.facts.own_facts import loss_on_own, with_paraphrases
from smft_lab.finetuning.finetune import Step, all_steps, finetune
from smft_lab.finetuning.methods import Method, method_of
from smft_lab.lab import Lab
from smft_lab.recipe import Recipe
from smft_lab.slots.patch import Patch
from smft_lab.wording import counted


@dataclass(repr=False)
class Run:
    """A finished finetune.

    Attributes:
        table: One row per measurement: step, probe, metric, value; step 0 is the base.
        losses: Loss of every step, in nats per token.
        settings: The method and its settings, what was asked of `finetune`, and what the run took.
        patch: The changed rows, for `sparse`; None for the methods that change everything.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), passes=2)
        >>> run.summary()["steps"], len(run.losses)
        (2, 2)
        >>> lab.reset()
    """

    table: pd.DataFrame
    losses: list[float]
    settings: dict
    patch: Patch | None

    def __repr__(self) -> str:
        """What was taught how, and what was learned and kept, in a line."""
        summary = self.summary()
        about = [summary["method"], counted(summary["facts"], "fact"), counted(summary["steps"], "step")]
        about += [] if self.patch is None else [counted(len(self.patch), "row")]
        shares = {probe: values["em"] for probe, values in summary["probes"].items() if "em" in values}
        read = ", ".join(f"{probe} {share:.0%}" for probe, share in shares.items())
        return f"<Run of {', '.join(about)}{f': {read}' if read else ''}>"

    def summary(self) -> dict:
        """The settings, and `probes`: the last measurement of every probe, `{probe: {metric: value}}`."""
        last = self.table[self.table["step"] == self.table["step"].max()]
        probes: dict[str, dict[str, float]] = {}
        for row in last.to_dict("records"):
            probes.setdefault(row["probe"], {})[row["metric"]] = row["value"]
        return {**self.settings, "probes": probes}


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


def run(lab: Lab, facts: Sequence[Fact], method: str | Method = "sparse", *, rephrase: bool = True, **options) -> Run:
    """Drain `finetune(lab, facts, method, **options)`; the model is left finetuned.

    It starts from the model as it is: the patch holds what earlier sparse runs changed, too, unless `lab.reset()` came
    between.

    Args:
        rephrase: As of `Comparison`: whether a person's own facts that have few words get more by rule.
        options: Of `finetune`, or of the method.

    Raises:
        ValueError: see `finetune`; or the method is `sparse`, and an earlier run changed more than value rows.
        TakenOver: see `all_steps`.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(2), smft.Sparse(top_t=50), passes=1)
        >>> run.table.columns.tolist()
        ['step', 'probe', 'metric', 'value']
        >>> lab.reset()
    """
    facts, before = as_facts(facts), as_facts(options.pop("earlier", ()))
    names = signature(finetune).parameters
    asked = {name: value for name, value in options.items() if name in names}
    recipe = asked.get("recipe") or lab.recipe
    if rephrase:
        loss_on = loss_on_own(facts, asked.get("loss_on")) if recipe is None else None
        facts, before = with_paraphrases(facts, recipe), with_paraphrases(before, recipe)
        asked |= {} if loss_on is None else {"loss_on": loss_on}
    chosen = method_of(method, **{name: value for name, value in options.items() if name not in names})
    chosen = chosen.resolved(lab, asked.get("recipe"))
    if chosen.sparse:
        Patch.between(lab)  # refuses before anything is trained
    rows, losses, last = [], [], None
    for last in all_steps(finetune(lab, facts, chosen, earlier=before, **asked)):
        rows += history_rows(last)
        losses += [last.loss] if last.loss is not None else []
    assert last is not None  # the base comes first
    plain: dict[str, Any] = {name: value for name, value in asked.items() if isinstance(value, str | int | float)}
    if isinstance(recipe := asked.get("recipe"), Recipe):
        plain["recipe"] = asdict(recipe)
    settings = {"method": chosen.key, **plain, **chosen.settings(), "facts": len(facts)}
    settings |= {"steps": last.step, "seconds": last.seconds}
    if before:
        settings["earlier"] = len(before)
    if last.adapted is not None:
        settings["adapted"] = last.adapted
    patch = Patch.between(lab, [*before, *facts], about=settings) if chosen.sparse else None
    return Run(pd.DataFrame(rows, columns=["step", "probe", "metric", "value"]), losses, settings, patch)
