"""The loss of a batch in a model that trains throughout, without computing anything twice.

What the texts of a batch have in common is computed once (see `packing`), logits are made only where a label is
predicted, and linear layers are multiplied by what this processor does fastest (see `products`). A model that gives
another loss or gradient so is found out on the first batch, and trained the plain way.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smft_lab.finetuning.engine.frozen_layers import Batch, Head, replaced
from smft_lab.finetuning.engine.likeness import check_alike
from smft_lab.finetuning.engine.packing import Form
from smft_lab.finetuning.engine.products import fast_linears, trained_linears
from smft_lab.finetuning.engine.proof import few_texts, form_of

if TYPE_CHECKING:
    from jaxtyping import Float, Float32
    from transformers import PreTrainedModel


class PackedLoss:
    """Losses of batches of one model, of which any weights may train.

    Args:
        model: As it trains: which of its parameters take a gradient stays as it is.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self._forms: WeakKeyDictionary[Batch, Form] = WeakKeyDictionary()
        self._fused: dict[tuple[bool, bool], bool | None] = {}  # by what of a form has to be proven of its own
        self._linear = [*fast_linears(model, None), *trained_linears(model)]
        head = model.get_output_embeddings()
        self._head = next(
            ((parent, name) for parent in model.modules() for name, child in parent.named_children() if child is head),
            None,
        )

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean loss in nats over the labels, as `model(**batch.inputs).loss`, with a graph back to the weights."""
        if self._head is None or self.model.dtype != torch.float32 or torch.is_autocast_enabled(self.model.device.type):
            return self.model(**batch.inputs).loss
        form = self._form(batch)
        kind = form.packed, form.branches
        if kind not in self._fused:
            self._fused[kind] = self._proven(batch, form)
        fused = self._fused[kind]
        return self.model(**batch.inputs).loss if fused is None else self._run(form, fused)

    def _form(self, batch: Batch) -> Form:
        if batch not in self._forms:
            self._forms[batch] = form_of(self.model, batch)
        return self._forms[batch]

    def _run(self, form: Form, fused: bool) -> Float32[Tensor, ""]:
        assert self._head is not None
        parent, name = self._head
        stand_in = Head(getattr(parent, name), form.targets, fused, None)
        with replaced([*self._linear, (parent, name, stand_in)]):
            out = self.model(**form.inputs, use_cache=False).logits
        return out.squeeze() if fused else form.targets.mean(form.targets.nats(out))

    def _proven(self, batch: Batch, form: Form) -> bool | None:
        """Whether the loss may take the place of the logits; None if the model gives another loss or gradient so."""
        few, few_form = few_texts(self.model, batch, form)
        head = self.model.get_output_embeddings()
        frozen = type(head) is nn.Linear and not any(parameter.requires_grad for parameter in head.parameters())
        plain = self._loss_and_gradients(self.model(**few.inputs).loss)
        if not plain[0].isfinite():  # which says nothing of the model, and ends the training
            return None
        problem = None
        for linear, fused in product((self._linear, []), (True, False) if frozen else (False,)):
            self._linear = linear
            try:
                check_alike(plain, self._loss_and_gradients(self._run(few_form, fused)))
                return fused
            except Exception as raised:  # whatever a foreign architecture does, training goes on without
                problem = raised
        name = type(self.model).__name__
        warnings.warn(f"{name} is trained the plain way, more slowly: {problem}", stacklevel=2)
        return None

    def _loss_and_gradients(self, loss: Tensor) -> list[Tensor]:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        grads = torch.autograd.grad(loss, trained, allow_unused=True)
        return [loss.detach(), *(loss.new_empty(0) if grad is None else grad for grad in grads)]
