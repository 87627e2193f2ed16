"""What cannot change while only values train is computed once per batch, and then replayed.

Below the first memory layer nothing depends on the values, nor do that layer's reads, weights and gate, nor the
attention beside it. A step of sparse finetuning therefore runs only from the first memory lookup up. This works on any
`transformers` model, through hooks and by putting `Replay` modules in the place of those already known; a model for
which it gives another loss or another gradient is found out on the first batch, and trained the plain way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smft_lab.model.memory import memory_layers, stopping_at, value_tables

CACHE_BYTES = 256 * 2**20  # batches past this are computed anew each time
CHUNK = 128  # positions whose logits are computed together
TOLERANCE = 1e-3  # relative; float32 sums in another order differ by 1e-6 or so


@dataclass
class Batch:
    """An encoded batch, and what is known about it from the last time it came.

    Attributes:
        inputs: `input_ids`, `attention_mask`, `labels`, each (B, T).
        counted: (B, T), the positions whose reads count in the choice of slots.
        memo: See `Selection`.
        frozen: What `Prefix` computed.
    """

    inputs: dict[str, Tensor]
    counted: Tensor
    memo: dict = field(default_factory=dict)
    frozen: Frozen | None = None


@dataclass(frozen=True)
class Frozen:
    """The part of one batch's forward pass that stays the same while only values train.

    Attributes:
        below: Output of the block below the first memory layer's; None where that is the first block.
        beside: Outputs of the parts of its own block that come before the memory layer, in order: the attention.
        gate: silu's argument, (B, T, Vd), of the first memory layer.
        reads: Slots and weights, each (B, T, H, k), of the first memory layer.
        predicting: (L,) flat positions that predict a label.
        targets: (L,) those labels.
    """

    below: object
    beside: list
    gate: Tensor
    reads: tuple[Tensor, Tensor]
    predicting: Tensor
    targets: Tensor

    def size(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in _tensors([getattr(self, field.name) for field in fields(self)]))


class Replay(nn.Module):
    """Stands in for a module whose output is known; answers for it in all else."""

    def __init__(self, module: nn.Module, output):
        super().__init__()
        self.__dict__.update(replaced=module, output=output)  # neither is a submodule

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["replaced"], name)

    def forward(self, *args, **kwargs):
        return self.__dict__["output"]


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of a frozen output layer, forward and backward at once: no logits are kept.

    A chunk of positions at a time, few enough to stay in cache.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
        """hidden (L, D), targets (L,) -> mean loss in nats."""
        grads, total = [], 0.0
        for part, wanted in zip(hidden.split(CHUNK), targets.unsqueeze(1).split(CHUNK), strict=True):
            log_p = head(part).float().log_softmax(-1)
            total = total - log_p.gather(1, wanted).sum()
            of_logits = log_p.exp_().scatter_add_(1, wanted, log_p.new_full(wanted.shape, -1.0))
            grads.append(of_logits.to(hidden.dtype) @ head.weight)
        ctx.save_for_backward(torch.cat(grads).div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx, of_loss: Tensor):
        return ctx.saved_tensors[0] * of_loss, None, None


class Head(Replay):
    """Stands in for the output layer: only at the positions that predict a label, and with the loss for its logits."""

    def __init__(self, head: nn.Module, frozen: Frozen, fused: bool):
        super().__init__(head, frozen)
        self.fused = fused

    def forward(self, hidden: Tensor) -> Tensor:
        head, frozen = self.__dict__["replaced"], self.__dict__["output"]
        hidden = hidden.flatten(0, -2)[frozen.predicting]
        return HeadLoss.apply(hidden, head, frozen.targets).view(1, 1) if self.fused else head(hidden)


class Prefix:
    """Runs a model from its first memory lookup up.

    Args:
        fused: Whether the loss takes the place of the logits (`HeadLoss`); wrong for a model that goes on to change its
            logits.

    Raises:
        ValueError: the first memory layer isn't in a stack of blocks, or the model names no output embeddings.
    """

    def __init__(self, model: nn.Module, fused: bool = True):
        self.model, self.fused = model, fused
        names = {module: name for name, module in model.named_modules()}
        head = model.get_output_embeddings()
        if head is None:
            raise ValueError("the model has no output embeddings")
        parent, _, name = names[head].rpartition(".")
        self._head = (model.get_submodule(parent), name, head)
        self.layer = memory_layers(model)[0]
        path = names[self.layer].split(".")
        modules = [model.get_submodule(".".join(path[:depth])) for depth in range(len(path) + 1)]
        depth = next((i for i, module in enumerate(modules) if isinstance(module, nn.ModuleList)), None)
        if depth is None:
            raise ValueError("its memory layer is in no list of blocks")
        self._blocks, index = modules[depth], int(path[depth])
        self._block = self._blocks[index]
        self._below = list(self._blocks.named_children())[:index]
        self._candidates = [
            (name, child)
            for name, child in self._block.named_children()
            if [name] != path[depth + 1 : depth + 2] and any(parameter.ndim > 1 for parameter in child.parameters())
        ]
        self._beside: list[tuple[str, nn.Module]] = []
        self._held = 0

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss in nats over the labels, as `model(**batch).loss`, with a graph back to the values."""
        frozen = batch.frozen or self._freeze(batch)
        places = [(self._blocks, name, Replay(block, frozen.below)) for name, block in self._below]
        outputs = zip(self._beside, frozen.beside, strict=True)
        places += [(self._block, name, Replay(module, output)) for (name, module), output in outputs]
        places.append((self.layer, "gate", Replay(self.layer.gate, frozen.gate)))

        parent, name, head = self._head
        places.append((parent, name, Head(head, frozen, self.fused)))
        self.layer.keys.known = frozen.reads
        try:
            with _replaced(places):
                mask, ids = batch.inputs["attention_mask"], batch.inputs["input_ids"]
                out = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            self.layer.keys.known = None
        return out.squeeze() if self.fused else F.cross_entropy(out.float(), frozen.targets)

    @torch.no_grad()
    def _freeze(self, batch: Batch) -> Frozen:
        """Run the model up to its first memory layer, and keep what `loss` replays; in the batch, if there is room."""
        outputs: dict[nn.Module, object] = {}

        def keep(module, args, output):
            outputs[module] = output

        keys = self.layer.keys
        wanted = [module for _, module in (*self._below[-1:], *self._candidates)]
        handles = [module.register_forward_hook(keep) for module in (*wanted, keys)]
        handles.append(self.layer.register_forward_pre_hook(lambda layer, args: outputs.update({layer: args[0]})))
        mask, ids, labels = (batch.inputs[name] for name in ("attention_mask", "input_ids", "labels"))
        try:
            with stopping_at(keys):
                self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        self._beside = [(name, module) for name, module in self._candidates if module in outputs]
        labels = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()
        predicting = (labels != -100).nonzero().squeeze(1)
        frozen = Frozen(
            below=outputs[self._below[-1][1]] if self._below else None,
            beside=[outputs[module] for _, module in self._beside],
            gate=self.layer.gate(outputs[self.layer]),
            reads=outputs[keys],
            predicting=predicting,
            targets=labels[predicting],
        )
        if self._held + frozen.size() <= CACHE_BYTES:
            self._held += frozen.size()
            batch.frozen = frozen
        return frozen


def prefix_of(model, batch: Batch, same_rows: bool = True) -> Prefix | None:
    """A `Prefix` of `model`, if it gives the same loss and gradients as the whole model does on `batch`.

    Where every backward pass selects other rows (not `same_rows`), only the losses are compared.
    Where they differ, or no `Prefix` can be made, it warns and returns None: the plain way is then the one to take.
    """
    problem = None
    for fused in (True, False):
        try:
            prefix = Prefix(model, fused)
            plain = _loss_and_gradients(model, model(**batch.inputs).loss)
            for _ in range(2):  # twice: a model that changes what it was given in place would show the second time
                replayed = _loss_and_gradients(model, prefix.loss(batch))
                for one, other in list(zip(plain, replayed, strict=True))[: None if same_rows else 1]:
                    if not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * one.abs().max().item()):
                        raise ValueError("the replayed part gives another loss or gradient")
            return prefix
        except Exception as raised:  # whatever a foreign architecture does, training goes on without
            problem, batch.frozen = raised, None
    name = type(model).__name__
    warnings.warn(f"{name} is trained without the cache of frozen layers, more slowly: {problem}", stacklevel=2)
    return None


def _loss_and_gradients(model, loss: Tensor) -> list[Tensor]:
    loss.backward()
    found = [loss.detach()]
    for table in value_tables(model):
        found.append(table.weight.grad.coalesce().values())
        table.weight.grad = None
    return found


@contextmanager
def _replaced(places: list[tuple[nn.Module, str, nn.Module]]) -> Iterator[None]:
    """Put other modules in the place of children of a model, until the block ends."""
    before = [(parent, name, getattr(parent, name)) for parent, name, _ in places]
    try:
        for parent, name, module in places:
            setattr(parent, name, module)
        yield
    finally:
        for parent, name, module in before:
            setattr(parent, name, module)


def _tensors(nested) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for one in nested:
            yield from _tensors(one)
