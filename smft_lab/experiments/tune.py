"""The learning-rate sweep that gives each method its best rate, so that no baseline is shown at a bad one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from smft_lab.experiments.equal import TARGET, read_run
from smft_lab.experiments.run import history_rows
from smft_lab.facts.fact import Fact
from smft_lab.finetuning.finetune import Step, finetune

GRID = {  # (method, optimizer): learning rates
    ("sparse", "sgd"): (5.0, 10.0, 20.0, 40.0, 80.0),
    ("sparse", "adam"): (0.025, 0.05, 0.1, 0.2, 0.4),
    ("full", "adamw"): (5e-5, 7e-5, 1e-4, 2e-4),
    ("lora", "adamw"): (1e-4, 3e-4, 5e-4, 1e-3, 3e-3),
}
SEED = 1000  # of the facts' order; no comparison uses it by default


def sweep(lab, facts: Sequence[Fact], methods: Sequence[str], grid: dict = GRID, target: float = TARGET,
          evaluations: int = 10, *, passes: int, **options) -> Iterator[tuple[str, float, Step | dict]]:  # fmt: skip
    """Run every rate of every method once from the base; `options` go to `finetune`.

    Yields:
        (method, lr, `Step`) while a run goes on, and (method, lr, row) when it ends: a row of the sweep's table with
        method, optimizer, lr, reached, steps, and learned, old_facts, arithmetic, prose as read at equal learning.
    """
    for (method, optimizer), rates in grid.items():
        if method not in methods:
            continue
        for lr in rates:
            lab.reset()
            rows = []
            chosen = {"optimizer": optimizer} if method == "sparse" else {}
            chosen |= {"passes": passes, "probe_every": math.ceil(passes * len(facts) / evaluations)}
            for step in finetune(lab, facts, method, lr=lr, seed=SEED, **chosen, **options):
                rows += history_rows(step)
                yield method, lr, step
            reached, values = read_run(pd.DataFrame(rows), target)
            row = {"method": method, "optimizer": optimizer, "lr": lr, "reached": bool(reached)}
            row |= {"steps": float(values["steps", ""]), "learned": float(values["learned", "em"])}
            for probe, metric in (("old_facts", "em"), ("two_hop", "em"), ("arithmetic", "nll"), ("prose", "nll")):
                if (probe, metric) in values.index:
                    row[probe] = float(values[probe, metric])
            yield method, lr, row
    lab.reset()


def best_rates(rows: list[dict]) -> dict[str, dict]:
    """The defaults that a sweep's table gives, and a mark `chosen` on each of its rows.

    Of the rates that reach the target, the one that keeps most old facts, and with equal ones the lower arithmetic nll;
    where none reaches it, the one that learns most.

    Returns:
        `{method: {"optimizer", "lr", "lr_by_optimizer"}}`.
    """

    def merit(row: dict) -> tuple:
        if not row["reached"]:
            return (0, row["learned"], 0.0)
        return (1, row.get("old_facts", 0.0), -row.get("arithmetic", 0.0))

    defaults: dict[str, dict] = {}
    for row in rows:
        row["chosen"] = False
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        best = max(mine, key=merit)
        best["chosen"] = True
        by_optimizer = {
            optimizer: max((row for row in mine if row["optimizer"] == optimizer), key=merit)["lr"]
            for optimizer in dict.fromkeys(row["optimizer"] for row in mine)
        }
        defaults[method] = {"optimizer": best["optimizer"], "lr": best["lr"], "lr_by_optimizer": by_optimizer}
    return defaults


def edges(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """The lowest and highest rate tried of each method's chosen optimizer: a best rate there asks for a wider sweep."""
    chosen = {row["method"]: row["optimizer"] for row in rows if row["chosen"]}
    tried = {m: [row["lr"] for row in rows if (row["method"], row["optimizer"]) == (m, o)] for m, o in chosen.items()}
    return {method: (min(rates), max(rates)) for method, rates in tried.items()}
