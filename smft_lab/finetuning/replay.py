"""What cannot change while only values train is computed once per batch, and then replayed.

Below the first memory layer nothing depends on the values, nor do that layer's reads, weights and gate, nor the
attention beside it. A step of sparse finetuning therefore runs only from the first memory lookup up, and computes what
the statements of a batch have in common once (see `packing`). This works on any `transformers` model, through hooks and
by putting `Replay` modules in the place of those already known; a model for which it gives another loss or another
gradient is found out on the first batch, and trained the plain way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import product
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smft_lab.finetuning.live import KeptKeys, PastKeys, live_part, live_positions
from smft_lab.finetuning.packing import Form, Targets, as_rows, as_trees
from smft_lab.model.attach import AttachedMemory
from smft_lab.model.memory import memory_layers, stopping_at, value_tables
from smft_lab.slots.selection import Selection

CACHE_BYTES = 256 * 2**20  # batches past this are computed anew each time
LIVE_BYTES = 256 * 2**20  # batches past this are run whole
CHUNK = 1024  # positions whose logits are in memory together
ROUND = 64  # rows that a product is filled up to: oneDNN compiles one for each new shape, and keeps 1 MB for it
_PROVEN: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()
_SETTING = Lock()  # of the process, so of all threads
TOLERANCE = 1e-3  # relative; float32 sums in another order differ by 1e-6 or so


@dataclass
class Batch:
    """An encoded batch, and what is known about it from the last time it came.

    Attributes:
        inputs: `input_ids`, `attention_mask`, `labels`, each (B, T).
        counted: (B, T), the positions whose reads count in the choice of slots.
        owner: The facts it is about.
        memo: See `Selection`.
        frozen: What `Prefix` computed.
        live: The same of the positions alone that this run can change, where that is fewer.
        once: Whether it will not come again, so that nothing of it is to be kept.
    """

    inputs: dict[str, Tensor]
    counted: Tensor
    owner: tuple[int, ...] = ()
    memo: dict = field(default_factory=dict)
    frozen: Frozen | None = None
    live: Frozen | None = None
    once: bool = False

    def for_another_run(self) -> Batch:
        """The same batch without what depends on the slots that a run has chosen."""
        return replace(self, memo={}, live=None)


@dataclass(frozen=True)
class Frozen:
    """The part of one batch's forward pass that stays the same while only values train.

    Attributes:
        form: The batch as it is run.
        below: Output of the block below the first memory layer's; None where that is the first block.
        beside: Outputs, by name, of the parts of its own block that come before the memory layer: the attention.
        gate: silu's argument, (B, T, Vd), of the first memory layer; None where it has no gate.
        feed_forward: Output of the feed-forward beside the first memory layer; None where there is none.
        reads: Slots and weights, each (B, T, H, k), of the first memory layer.
        past: By layer, keys and values of positions that are not run at all (see `Live`).
        memo: Where these are live positions, what takes the place of the batch's `memo`, which is of all positions.
    """

    form: Form
    below: object
    beside: dict[str, object]
    gate: Tensor | None
    feed_forward: Tensor | None
    reads: tuple[Tensor, Tensor]
    past: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    memo: dict = field(default_factory=dict)

    def size(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in _tensors(self))


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


@cache
def _onednn_is_faster() -> bool:
    """Whether this processor is AMD's with AVX-512, of which MKL makes half the use that oneDNN does.

    With AMX, oneDNN would round to bfloat16.
    """
    if not hasattr(torch.cpu, "get_capabilities") or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    has = torch.cpu.get_capabilities()
    return "AMD" in has.get("cpu_name", "") and has.get("avx512_f", False) and not has.get("amx_tile", False)


@contextmanager
def fast_products() -> Iterator[None]:
    """Large float32 products by oneDNN where that is faster; the name of the setting is of what it does with AMX."""
    if not _onednn_is_faster():
        yield
        return
    products = torch.backends.mkldnn.matmul
    with _SETTING:
        before = products.fp32_precision
        products.fp32_precision = "bf16"
        try:
            yield
        finally:
            products.fp32_precision = before


def filled_up(x: Tensor) -> Tensor:
    """(..., D) -> (M, D), with rows of zeros at the end for M to be a multiple of ROUND."""
    x = x.flatten(0, -2)
    return nn.functional.pad(x, (0, 0, 0, -len(x) % ROUND))


class Product(torch.autograd.Function):
    """A frozen linear layer, forward and backward by `fast_products`."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        with fast_products():
            return nn.functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx, of_output: Tensor):
        with fast_products():
            return of_output @ ctx.layer.weight, None


class FastLinear(Replay):
    """Stands in for a frozen linear layer, and does the same by `Product`.

    Whole blocks cannot be run so: attention is slower by oneDNN.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__(layer, None)

    def forward(self, x: Tensor) -> Tensor:
        y = Product.apply(filled_up(x), self.__dict__["replaced"])
        return y[: x.shape[:-1].numel()].view(*x.shape[:-1], -1)


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of a frozen output layer, forward and backward at once: no logits are kept."""

    @staticmethod
    def forward(ctx, hidden: Tensor, head: nn.Linear, targets: Targets) -> Tensor:
        """hidden (M, D) -> mean loss in nats."""
        every, hidden = hidden, hidden[targets.predicting]
        M, hidden = len(hidden), filled_up(hidden)
        sums = hidden.new_empty(len(hidden), dtype=torch.float32)
        grads = hidden.new_empty(hidden.shape, dtype=torch.float32)
        for first in range(0, len(hidden), CHUNK):
            part = slice(first, first + CHUNK)
            with fast_products():
                logits = head(hidden[part]).float()
            p = logits.softmax(-1)
            sums[part] = logits.amax(-1) - p.amax(-1).log()  # log of the sum of exp(logits)
            with fast_products():
                grads[part] = (p.to(hidden.dtype) @ head.weight).float()
        hidden, sums, grads = hidden[:M], sums[:M], grads[:M]
        rows = head.weight[targets.label].float()
        wanted = (hidden[targets.place] * rows).sum(-1)
        if head.bias is not None:
            wanted += head.bias[targets.label]
        grads.mul_(targets.total.unsqueeze(1)).index_add_(0, targets.place, rows * -targets.weight.unsqueeze(1))
        count = targets.weight.sum()
        grads = torch.zeros_like(every).index_copy_(0, targets.predicting, (grads / count).to(every.dtype))
        ctx.save_for_backward(grads)
        return ((sums[targets.place] - wanted) * targets.weight).sum() / count

    @staticmethod
    def backward(ctx, of_loss: Tensor):
        return ctx.saved_tensors[0] * of_loss, None, None


class Head(Replay):
    """Stands in for the output layer: only at the positions that predict a label, and with the loss for its logits."""

    def __init__(self, head: nn.Module, targets: Targets, fused: bool):
        super().__init__(head, targets)
        self.fused = fused

    def forward(self, hidden: Tensor) -> Tensor:
        head, targets = self.__dict__["replaced"], self.__dict__["output"]
        hidden = hidden.flatten(0, -2)
        return HeadLoss.apply(hidden, head, targets).view(1, 1) if self.fused else head(hidden[targets.predicting])


class Prefix:
    """Runs a model from its first memory lookup up.

    Args:
        selection: Is told which reads count, whenever a batch is run in another form.
        fused: Whether the loss takes the place of the logits (`HeadLoss`); wrong for a model that goes on to change its
            logits.
        trees: Whether batches are packed; wrong for a model that takes no mask of its own for every pair of tokens.

    Attributes:
        live: Whether packed batches are run at their live positions alone (see `smft_lab.finetuning.live`): where slots
            were chosen beforehand, and the model gives the same loss and gradients so; None until that was tried.

    Raises:
        ValueError: the first memory layer isn't in a stack of blocks, or the model names no output embeddings.
    """

    def __init__(self, model: nn.Module, selection: Selection | None = None, fused: bool = True, trees: bool = True):
        self.model, self.selection, self.fused, self.trees = model, selection, fused, trees
        grouped = selection is not None and selection.chosen is not None
        self.live = None if trees and grouped and len(memory_layers(model)) == 1 else False
        names = {module: name for name, module in model.named_modules()}
        head = model.get_output_embeddings()
        if head is None:
            raise ValueError("the model has no output embeddings")
        parent, _, name = names[head].rpartition(".")
        self._head = (model.get_submodule(parent), name, head)
        self.layer = memory_layers(model)[0]
        holder = model.get_submodule(names[self.layer].rpartition(".")[0])
        self._attached = holder if isinstance(holder, AttachedMemory) and holder.feed_forward is not None else None
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
        self._linear_below, self._linear = _linear_layers(self._blocks[:index]), _linear_layers(self._blocks[index:])
        self._held = self._held_live = 0

    def loss(self, batch: Batch, form: Form) -> Tensor:
        """Mean loss in nats over the labels, as `model(**batch).loss`, with a graph back to the values.

        Args:
            form: The batch as it is to be run (see `form_of`).
        """
        if batch.live is not None:
            return self._replay(batch.live, batch.live.memo, PastKeys(batch.live.past))
        frozen = batch.frozen or self._freeze(batch, form if self.trees else as_rows(batch.inputs, batch.counted))
        if self.live is False or batch.frozen is None or not frozen.form.packed:
            return self._replay(frozen, batch.memo)
        try:
            cache = KeptKeys()
            loss = self._replay(frozen, batch.memo, cache)
            self._keep_live(batch, loss, cache)
            return loss
        except Exception as problem:  # whatever a foreign architecture does with a cache, training goes on without
            if self.live:
                raise
            self.live, batch.live = False, None
            name = type(self.model).__name__
            warnings.warn(f"{name} computes all positions at every step, more slowly: {problem}", stacklevel=2)
            return self._replay(frozen, batch.memo)

    def _replay(self, frozen: Frozen, memo: dict, cache=None) -> Tensor:
        if self.selection is not None:
            self.selection.memo = memo
        targets = frozen.form.targets
        places = [*self._linear]
        places += [(self._blocks, name, Replay(block, frozen.below)) for name, block in self._below]
        beside = frozen.beside.items()
        places += [(self._block, name, Replay(getattr(self._block, name), output)) for name, output in beside]
        if frozen.gate is not None:
            places.append((self.layer, "gate", Replay(self.layer.gate, frozen.gate)))
        if frozen.feed_forward is not None:
            feed_forward = self._attached.feed_forward
            places.append((self._attached, "feed_forward", Replay(feed_forward, frozen.feed_forward)))

        parent, name, head = self._head
        places.append((parent, name, Head(head, targets, self.fused)))
        self.layer.keys.known = frozen.reads
        try:
            with _replaced(places):
                out = self._run(frozen.form, cache).logits
        finally:
            self.layer.keys.known = None
        return out.squeeze() if self.fused else targets.loss(out)

    def _run(self, form: Form, cache=None):
        """Call the model on a batch; the selection then counts the reads of that form."""
        if self.selection is not None:
            self.selection.counted = form.counted
        return self.model(**form.inputs, use_cache=False, past_key_values=cache)

    def _keep_live(self, batch: Batch, loss: Tensor, cache: KeptKeys) -> None:
        """Leave the live positions in the batch, for the next time it comes, if they are fewer and there is room.

        Args:
            loss: Of all positions.
            cache: What the model made for it.

        Raises:
            ValueError: it was not tried before, and gives another loss or gradient.
        """
        frozen = batch.frozen
        live = live_positions(frozen.form, frozen.reads[0], self.selection.chosen[0])
        C = live.shape[1] - int(live.sum(1).min())  # of the row that has most to keep
        if not C:
            return
        past = sum(tensor[:, :, :C].numel() * tensor.element_size() for pair in cache.kept.values() for tensor in pair)
        if self._held_live + past + frozen.size() > LIVE_BYTES:
            self.live = False  # for the batches to come; those that are kept go on
            return
        part = live_part(frozen.form, live, cache)
        kept = Frozen(
            form=part.form,
            below=part.of(frozen.below),
            beside={name: part.of(output) for name, output in frozen.beside.items()},
            gate=part.of(frozen.gate),
            feed_forward=part.of(frozen.feed_forward),
            reads=part.of(frozen.reads),
            past=part.past,
        )
        self._held_live += kept.size()
        if self.live is None:
            whole = _loss_and_gradients(self.model, loss, retain_graph=True)
            replayed = self._replay(kept, kept.memo, PastKeys(kept.past))
            check_alike(whole, _loss_and_gradients(self.model, replayed))
            self.live = True
            self.selection.memo = batch.memo
        batch.live = kept

    @torch.no_grad()
    def _freeze(self, batch: Batch, form: Form) -> Frozen:
        """Run the model up to its first memory layer, and keep what `loss` replays; in the batch, if there is room."""
        outputs: dict[nn.Module, object] = {}

        def keep(module, args, output):
            outputs[module] = output

        keys = self.layer.keys
        wanted = [module for _, module in (*self._below[-1:], *self._candidates)]
        handles = [module.register_forward_hook(keep) for module in (*wanted, keys)]
        for module in filter(None, (self.layer, self._attached)):
            handles.append(module.register_forward_pre_hook(lambda module, args: outputs.update({module: args[0]})))
        try:
            with stopping_at(keys), _replaced([*self._linear_below, *self._linear]):
                self._run(form)
        finally:
            for handle in handles:
                handle.remove()
        x = outputs[self.layer]
        attached = self._attached
        frozen = Frozen(
            form=form,
            below=outputs[self._below[-1][1]] if self._below else None,
            beside={name: outputs[module] for name, module in self._candidates if module in outputs},
            gate=None if self.layer.gate is None else self.layer.gate(x),
            feed_forward=None if attached is None else attached.feed_forward(outputs[attached]),
            reads=outputs[keys],
        )
        if not batch.once and self._held + frozen.size() <= CACHE_BYTES:
            self._held += frozen.size()
            batch.frozen = frozen
        return frozen


def form_of(model, batch: Batch) -> Form:
    """How to run a batch: as trees, where that saves something and all of a row is within the attention window."""
    if batch.frozen is not None:
        return batch.frozen.form
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    packed = None
    if window is None or batch.inputs["input_ids"].shape[1] <= window:
        packed = as_trees(batch.inputs, batch.counted, model.dtype)
    return packed or as_rows(batch.inputs, batch.counted)


def prefix_of(model, batch: Batch, form: Form, selection: Selection | None = None) -> Prefix | None:
    """A `Prefix` of `model`, if it gives the same loss and gradients as the whole model does on `batch`.

    Where every backward pass selects other rows (the rule `random`), only the losses are compared.
    Where they differ, or no `Prefix` can be made, it warns and returns None: the plain way is then the one to take.
    What was found to agree is not tried again while the model is made in the same way.
    """
    grouped = selection is not None and selection.chosen is not None
    proven, made = _PROVEN.setdefault(model, {}), (form.packed, grouped, *map(_made, model.modules()))
    if made in proven:
        return Prefix(model, selection, *proven[made])
    plain = _loss_and_gradients(model, model(**batch.inputs).loss)
    if selection is not None and selection.rule == "random":
        plain = plain[:1]
    problem = None
    for trees, fused in product((True, False) if form.packed else (False,), (True, False)):
        batch.memo.clear()  # what was kept there belongs to the batch in another form
        try:
            prefix = Prefix(model, selection, fused, trees)
            for _ in range(2):  # twice: a model that changes what it was given in place would show the second time
                check_alike(plain, _loss_and_gradients(model, prefix.loss(batch, form)))
            proven[made] = fused, trees
            return prefix
        except Exception as raised:  # whatever a foreign architecture does, training goes on without
            problem, batch.frozen, batch.live = raised, None, None
    batch.memo.clear()
    name = type(model).__name__
    warnings.warn(f"{name} is trained without the cache of frozen layers, more slowly: {problem}", stacklevel=2)
    return None


def _made(module: nn.Module) -> tuple:
    """What a module computes depends on, but for its weights."""
    settings = getattr(getattr(module, "config", None), "_attn_implementation", None)
    hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
    return type(module), module.training, hooks, module.__dict__.get("forward"), settings


def check_alike(plain: list[Tensor], replayed: list[Tensor]) -> None:
    """Raise ValueError unless a loss and gradients agree, up to rounding; what only the second has is left out."""
    for one, other in zip(plain, replayed, strict=False):
        alike = one.shape == other.shape and (
            not one.numel() or torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * one.abs().max().item())
        )
        if not alike:
            raise ValueError("the replayed part gives another loss or gradient")


def _loss_and_gradients(model, loss: Tensor, retain_graph: bool = False) -> list[Tensor]:
    loss.backward(retain_graph=retain_graph)
    found = [loss.detach()]
    for table in value_tables(model):
        found.append(table.weight.grad.coalesce().values())
        table.weight.grad = None
    return found


def _linear_layers(blocks: nn.Module) -> list[tuple[nn.Module, str, FastLinear]]:
    """Where the frozen float32 linear layers of some blocks are, and what stands in for them where that is faster."""
    if not _onednn_is_faster():
        return []
    return [
        (parent, name, FastLinear(layer))
        for parent in blocks.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear
        and layer.weight.dtype == torch.float32
        and not any(parameter.requires_grad for parameter in layer.parameters())
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    ]


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
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))
    elif is_dataclass(nested):
        yield from _tensors([getattr(nested, field.name) for field in fields(nested)])
