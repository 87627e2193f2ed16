"""Orthogonal subspace finetuning, by `peft`: a baseline that was made against forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from smft_lab.finetuning.adapters import AdapterTraining, without_adapters
from smft_lab.finetuning.method import Method, register
from smft_lab.lab import Lab
from smft_lab.recipe import Recipe


@register
@dataclass(frozen=True, kw_only=True)
class Osf(Method):
    """Orthogonal subspace finetuning (Nayak et al. 2025) of all linear layers, by `peft`.

    Each weight matrix keeps its largest singular directions; only the others move, orthogonally to them.

    Args:
        preserved: The share of each matrix's directions that stay, in (0, 1).
        lr: Learning rate; the lab's tuned one by default. There is none for `sgd`, which needs it given.
        optimizer: `adamw` or `sgd`.
        mix, fast: See `Method`.

    Raises:
        ValueError: a setting is out of range.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), smft.Osf(preserved=0.75), passes=1, probe_every=0)
        >>> run.summary()["preserved"]
        0.75
        >>> lab.reset()
    """

    key = "osf"
    title = "Orthogonal subspace finetuning"
    short = "OSF"
    about = "Keeps the largest singular directions of every weight matrix, and trains only the others."
    usual: ClassVar = {"adamw": 1e-4}
    rates: ClassVar = {"adamw": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4)}

    preserved: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.preserved < 1:
            raise ValueError(f"preserved is a share between 0 and 1, not {self.preserved}")

    def check(self, lab: Lab, recipe: Recipe | None = None) -> None:
        if torch.is_autocast_enabled(lab.model.device.type):
            raise ValueError("OSF can't be trained under torch.autocast; leave its block, or take another method")

    def start(self, lab: Lab, seed: int = 0, recipe: Recipe | None = None) -> AdapterTraining:
        from peft import OSFConfig

        output, without = lab.model.get_output_embeddings(), set(without_adapters(lab.model))
        targets = [
            name
            for name, module in lab.model.named_modules()
            if isinstance(module, nn.Linear) and module is not output and name not in without
            if int(self.preserved * min(module.weight.shape))  # one direction at least stays
        ]
        if not targets:
            raise ValueError("the model has no linear layers outside its output, and OSF trains no others")
        config = OSFConfig(effective_rank=float(self.preserved), target_modules=targets, task_type="CAUSAL_LM")
        return AdapterTraining(lab, self, config, seed)
