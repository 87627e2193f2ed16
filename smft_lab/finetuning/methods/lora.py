"""LoRA, by `peft`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from smft_lab.finetuning.adapters import AdapterTraining, linear_weights, without_adapters
from smft_lab.finetuning.dense import empty_memories
from smft_lab.finetuning.method import Method, register
from smft_lab.lab import Lab
from smft_lab.ranges import check_counts
from smft_lab.recipe import Recipe

LARGEST = 1024
"""A rank that any model may have, however small: beyond its widest matrix it only takes memory."""


@register
@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """LoRA by `peft` on all linear layers that it finds, by AdamW or SGD; merged into the model when the run ends.

    Args:
        rank: r, from 1 to the largest that a matrix of the model can have, or `LARGEST`; alpha is twice that.
        lr: Learning rate; the lab's tuned one by default. There is none for `sgd`, which needs it given.
        optimizer: `adamw` or `sgd`.
        mix, fast: See `Method`.

    Raises:
        ValueError: a setting is out of range.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), smft.Lora(rank=4), passes=1, probe_every=0)
        >>> run.summary()["rank"]
        4
        >>> lab.reset()
    """

    key = "lora"
    title = "LoRA"
    short = "LoRA"
    about = (
        "Low-rank adaptation: keeps the model frozen and trains a small low-rank correction beside its weight matrices."
    )
    usual: ClassVar = {"adamw": 3e-4}
    rates: ClassVar = {"adamw": (2e-4, 3e-4, 5e-4, 1e-3, 2e-3)}

    rank: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(rank=self.rank)

    def of_recipe(self, recipe: Recipe) -> dict[str, Any]:
        return {"lr": recipe.lora_lr}

    def check(self, lab: Lab, recipe: Recipe | None = None) -> None:
        weights = linear_weights(lab.model, empty_memories(lab.model)).values()
        most = max((LARGEST, *(min(weight.shape[-2:]) for weight in weights)))
        if self.rank > most:
            raise ValueError(f"rank must be at most {most}, not {self.rank}: beyond its matrices it only takes memory")

    def start(self, lab: Lab, seed: int = 0, recipe: Recipe | None = None) -> AdapterTraining:
        from peft import LoraConfig

        config = LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank,
            target_modules="all-linear",
            exclude_modules=without_adapters(lab.model),
            task_type="CAUSAL_LM",
            bias="none",
        )
        return AdapterTraining(lab, self, config, seed)
