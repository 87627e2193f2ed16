"""Full finetuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from smft_lab.finetuning.baselines import WeightPenalty
from smft_lab.finetuning.dense import DenseTraining, empty_memories
from smft_lab.finetuning.method import Method, register
from smft_lab.lab import Lab
from smft_lab.recipe import Recipe


@register
@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Full finetuning: every parameter, by AdamW (paper) or SGD (its Table 2).

    Args:
        penalty: Pulls the weights back to the base: L2 or EWC (see `smft_lab.finetuning.baselines.WeightPenalty`).
        lr: Learning rate; the lab's tuned one by default. There is none for `sgd`, which needs it given.
        optimizer: `adamw` or `sgd`.
        mix, fast: See `Method`.

    Raises:
        ValueError: a setting is out of range.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), smft.Full(lr=1e-4), passes=1, probe_every=0)
        >>> run.patch is None  # every weight has changed
        True
        >>> lab.reset()
    """

    key = "full"
    title = "Full finetuning"
    short = "Full"
    about = "Trains every number of the model."
    usual: ClassVar = {"adamw": 1e-4}
    rates: ClassVar = {"adamw": (2e-5, 3e-5, 5e-5, 7e-5, 1e-4, 2e-4)}

    penalty: WeightPenalty | None = None

    def of_recipe(self, recipe: Recipe) -> dict[str, Any]:
        return {"lr": recipe.full_lr}

    def start(self, lab: Lab, seed: int = 0, recipe: Recipe | None = None) -> FullTraining:
        return FullTraining(lab, self)


class FullTraining(DenseTraining):
    """`Full` at work."""

    def __init__(self, lab: Lab, settings: Full):
        lab.model.requires_grad_(True)
        for name in empty_memories(lab.model):
            lab.model.get_submodule(name).requires_grad_(False)
        super().__init__(lab.model, settings)
        self.lab, self.penalty = lab, settings.penalty

    def pull(self) -> None:
        if self.penalty is not None:
            self.penalty.add_gradient(self.lab)

    def finish(self) -> None:
        self.optimizer.zero_grad()
