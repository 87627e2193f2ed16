"""What dense methods have in common: a torch optimizer on whatever of a model takes a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.engine.packed_loss import PackedLoss
from smft_lab.finetuning.method import Method, Training, Update, check_finite, required
from smft_lab.model.attach import AttachedMemory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHT_DECAY = 0.1  # of AdamW, as in the paper (section 3.3)


class DenseTraining(Training):
    """A torch optimizer on every parameter of `model` that takes a gradient.

    Of half-precision parameters it moves float32 copies, which are then rounded: a step is often too small for them.
    What the texts of a batch have in common is computed once, if the method is `fast` (see `PackedLoss`).
    """

    def __init__(self, model: PreTrainedModel, settings: Method):
        """
        Args:
            settings: A resolved method; `lr`, `optimizer` and `fast` count.
        """
        lr, optimizer = required(settings.lr), settings.optimizer
        self.model = model
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        half = [parameter for parameter in parameters if parameter.dtype.itemsize < 4]
        self._copies = {parameter: parameter.detach().float() for parameter in half}
        moved = [self._copies.get(parameter, parameter) for parameter in parameters]
        if optimizer == "adamw":
            fused = parameters[0].device.type in ("cpu", "cuda")  # in one pass, without copies of the model
            self.optimizer = torch.optim.AdamW(moved, lr=lr, weight_decay=WEIGHT_DECAY, fused=fused)
        else:
            self.optimizer = torch.optim.SGD(moved, lr=lr)
        self.trainable = sum(parameter.numel() for parameter in parameters)
        self._packed = PackedLoss(model) if settings.fast else None

    def update(self, batch: Batch) -> Update:
        loss = self.model(**batch.inputs).loss if self._packed is None else self._packed.loss(batch)
        loss.backward()
        self.pull()
        grads = [parameter.grad for parameter in self._copies if parameter.grad is not None]
        check_finite(self.model, loss.detach(), grads)  # others overflow with the loss
        for parameter, copy in self._copies.items():
            copy.grad = None if parameter.grad is None else parameter.grad.float()
        self.optimizer.step()
        with torch.no_grad():
            for parameter, copy in self._copies.items():
                parameter.copy_(copy)
                copy.grad = parameter.grad = None
        self.optimizer.zero_grad(set_to_none=False)
        torch.clear_autocast_cache()  # where a caller's block keeps the weights of before, rounded
        return Update(loss.item(), self.trainable)

    def pull(self) -> None:
        """Change the gradients before the step. AdamW decays weights by `WEIGHT_DECAY` times the rate besides."""


def empty_memories(model: nn.Module) -> list[str]:
    """Names of all modules in added memories in which nothing has been written yet.

    Dense methods leave those out: they are no part of what the model was before, and would only make it slower.
    """
    return [
        f"{name}.memory.{inner}"
        for name, module in model.named_modules()
        if isinstance(module, AttachedMemory) and module.feed_forward is not None
        if not module.memory.values.weight.any()
        for inner, _ in module.memory.named_modules()
        if inner
    ]
