"""A cache of frozen layers: what cannot change while only values train is computed once per batch, and then kept.

Below the first memory layer nothing depends on the values, nor do that layer's reads, weights and gate, nor the
attention beside it. A step of sparse finetuning therefore runs only from the first memory lookup up, and computes what
the statements of a batch have in common once (see `packing`). This works on any `transformers` model, through hooks and
by putting `KnownOutput` modules in the place of those already known; a model for which it gives another loss or another
gradient is found out on the first batch (`proof`), and trained the plain way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from smft_lab.finetuning.engine.likeness import check_alike, check_alike_if_rounded, loss_and_gradients
from smft_lab.finetuning.engine.live import KeptKeys, Live, PastKeys, live_part, live_positions
from smft_lab.finetuning.engine.packing import Form, Targets, as_rows
from smft_lab.finetuning.engine.products import HeadLoss, RoundedWeights, StandIn, fast_linears
from smft_lab.finetuning.engine.regrouping import KnownTexts
from smft_lab.model.attach import AttachedMemory
from smft_lab.model.hooks import HookScope
from smft_lab.model.memory import memory_layers, stopping_at
from smft_lab.slots.selection import Selection

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, Int64

CACHE_BYTES = 256 * 2**20  # batches past this are computed anew each time
LIVE_BYTES = 256 * 2**20  # batches past this are run whole


@dataclass(eq=False)
class Batch:
    """An encoded batch, and what is known about it from the last time it came. It is equal to itself alone.

    Attributes:
        inputs: `input_ids`, `attention_mask` and `labels`.
        counted: The positions whose reads count in the choice of slots.
        owner: The facts it is about.
        memo: See `Selection`.
        frozen: What `Engine` computed.
        live: The same of the positions alone that this run can change, where that is fewer.
        once: Whether it will not come again, so that nothing of it is to be kept.
    """

    inputs: dict[str, Int64[Tensor, "B T"]]
    counted: Int[Tensor, "B T"]
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
        gate: silu's argument of the first memory layer; None where it has no gate.
        feed_forward: All that the feed-forward beside the first memory layer gives; None where there is none.
        reads: Slots and weights of the first memory layer.
        past: By layer, keys and values of positions that are not run at all (see `Live`).
        still: Where in the whole form those are, as of `Live`; None where all positions are run.
        memo: Where these are live positions, what takes the place of the batch's `memo`, which is of all positions.
    """

    form: Form
    below: object
    beside: dict[str, object]
    gate: Float[Tensor, "G U Vd"] | None
    feed_forward: object
    reads: tuple[Int64[Tensor, "G U H k"], Float[Tensor, "G U H k"]]
    past: dict[int, tuple[Float[Tensor, "G _heads C _width"], Float[Tensor, "G _heads C _width"]]] = field(
        default_factory=dict
    )
    still: Int64[Tensor, "G C"] | None = None
    memo: dict = field(default_factory=dict)

    def size(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in _tensors(self))


class KnownOutput(StandIn):
    """Stands in for a module whose output is known."""

    def __init__(self, module: nn.Module, output):
        super().__init__(module, output=output)

    def forward(self, *args, **kwargs):
        return self.__dict__["output"]


class Head(StandIn):
    """Stands in for the output layer: only at the positions that predict a label, and with the loss for its logits.

    Attributes:
        nats: The loss of each of the targets' pairs, once it was called.
    """

    nats: Float32[Tensor, " L"]

    def __init__(self, head: nn.Module, targets: Targets, fused: bool, rounded: RoundedWeights | None):
        super().__init__(head, targets=targets, fused=fused, rounded=rounded, nats=None)

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "_ _"]:
        known = self.__dict__
        head, targets, rounded = known["replaced"], known["targets"], known["rounded"]
        hidden = hidden.flatten(0, -2)
        if not known["fused"]:
            return head(hidden[targets.predicting])
        frozen = head.weight if rounded is None else rounded.of(head)
        loss, known["nats"] = HeadLoss.apply(hidden, head, targets, frozen)
        return loss.view(1, 1)


class Engine:
    """Runs a model from its first memory lookup up.

    Args:
        selection: Is told which reads count, whenever a batch is run in another form.
        fused: Whether the loss takes the place of the logits (`HeadLoss`); wrong for a model that goes on to change its
            logits.
        trees: Whether batches are packed; wrong for a model that takes no mask of its own for every pair of tokens.
        rounded: What products above the memory are made with, if not with the model's own weights.

    Attributes:
        nats: Of the batch that `loss` was last of, the loss of the least likely label of each text.
        live: Whether packed batches are run at their live positions alone (see `engine/live.py`): where slots
            were chosen beforehand, and the model gives the same loss and gradients so; None until that was tried.

    Raises:
        ValueError: the first memory layer isn't in a stack of blocks, or the model names no output embeddings.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        selection: Selection | None = None,
        fused: bool = True,
        trees: bool = True,
        rounded: RoundedWeights | None = None,
    ):
        self.model, self.selection, self.fused, self.trees, self.rounded = model, selection, fused, trees, rounded
        self.nats: Float32[Tensor, " B"] | None = None
        grouped = selection is not None and selection.chosen is not None
        self._tried: set[bool] = set()  # whether there were known keys (see `Live.past_of`) where it was found to agree
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
        listed = next(((i, module) for i, module in enumerate(modules) if isinstance(module, nn.ModuleList)), None)
        if listed is None:
            raise ValueError("its memory layer is in no list of blocks")
        depth, self._blocks = listed
        index = int(path[depth])
        self._block = self._blocks[index]
        self._below = list(self._blocks.named_children())[:index]
        self._candidates = [
            (name, child)
            for name, child in self._block.named_children()
            if [name] != path[depth + 1 : depth + 2] and any(parameter.ndim > 1 for parameter in child.parameters())
        ]
        self._exact = fast_linears(self._blocks[: index + 1], None)  # to the memory: which slots are read is exact
        self._linear = fast_linears(self._blocks[index:], rounded)
        self._kept: WeakSet[Batch] = WeakSet()
        self._texts = KnownTexts()

    def loss(self, batch: Batch, form: Form) -> Float[Tensor, ""]:
        """Mean loss in nats over the labels, as `model(**batch).loss`, with a graph back to the values.

        Args:
            form: The batch as it is to be run (see `form_of`).
        """
        loss, nats = self._run_batch(batch, form)
        self.nats = form.targets.worst_of_text(nats, len(batch.inputs["input_ids"]))
        return loss

    def _run_batch(self, batch: Batch, form: Form) -> tuple[Float[Tensor, ""], Float32[Tensor, " L"]]:
        frozen = batch.frozen
        if frozen is None:
            frozen = self._regrouped(batch, form)
        elif batch not in self._kept:  # an earlier run's
            self._kept.add(batch)
            self._texts.add(batch)
        if batch.live is not None:
            return self._run_above(batch.live, batch.live.memo, PastKeys(batch.live.past))
        frozen = frozen or self._freeze(batch, form if self.trees else as_rows(batch.inputs, batch.counted))
        if self.live is False or batch.frozen is None or not frozen.form.packed:
            return self._run_above(frozen, batch.memo)
        try:
            cache = KeptKeys()
            loss, nats = self._run_above(frozen, batch.memo, cache)
            self._keep_live(batch, loss, cache)
            return loss, nats
        except Exception as problem:  # whatever a foreign architecture does with a cache, training goes on without
            if self.live:
                raise
            self.live, batch.live = False, None
            name = type(self.model).__name__
            warnings.warn(f"{name} computes all positions at every step, more slowly: {problem}", stacklevel=3)
            return self._run_above(frozen, batch.memo)

    def _run_above(self, frozen: Frozen, memo: dict, cache=None) -> tuple[Float[Tensor, ""], Float32[Tensor, " L"]]:
        """The mean loss over the labels, and that of each of the targets' pairs."""
        if self.selection is not None:
            self.selection.remember_in(memo)
        targets = frozen.form.targets
        places: list[tuple[nn.Module, str, nn.Module]] = [*self._linear]
        places += [(self._blocks, name, KnownOutput(block, frozen.below)) for name, block in self._below]
        beside = frozen.beside.items()
        places += [(self._block, name, KnownOutput(getattr(self._block, name), output)) for name, output in beside]
        if frozen.gate is not None and self.layer.gate is not None:
            places.append((self.layer, "gate", KnownOutput(self.layer.gate, frozen.gate)))
        attached = self._attached
        if frozen.feed_forward is not None and attached is not None and attached.feed_forward is not None:
            places.append((attached, "feed_forward", KnownOutput(attached.feed_forward, frozen.feed_forward)))

        parent, name, head = self._head
        stand_in = Head(head, targets, self.fused, self.rounded)
        places.append((parent, name, stand_in))
        with self.layer.keys.answering(frozen.reads), replaced(places):
            out = self._run(frozen.form, cache).logits
        if self.fused:
            return out.squeeze(), stand_in.nats
        nats = targets.nats(out)
        return targets.mean(nats), nats

    def _run(self, form: Form, cache=None):
        """Call the model on a batch; the selection then counts the reads of that form."""
        if self.selection is not None:
            self.selection.count_at(form.counted)
        return self.model(**form.inputs, use_cache=False, past_key_values=cache)

    def _keep_live(self, batch: Batch, loss: Float[Tensor, ""], cache: KeptKeys) -> None:
        """Leave the live positions in the batch, for the next time it comes, if they are fewer and there is room.

        Args:
            loss: Of all positions.
            cache: What the model made for it.

        Raises:
            ValueError: it is tried for the first time, and gives another loss or gradient.
        """
        frozen, selection = batch.frozen, self.selection
        if frozen is None or selection is None or selection.chosen is None:
            return
        part = self._live_part(frozen)
        if part is None:
            return
        C = part.still.shape[1]
        past = sum(tensor[:, :, :C].nbytes for pair in cache.by_layer.values() for tensor in pair)
        if self._held("live") + past + frozen.size() > LIVE_BYTES:  # asked at each step: nothing is gathered in vain
            return
        cut = self._cut(frozen, part, part.past_of(cache.by_layer))
        if bool(C) not in self._tried:  # without known keys nothing shows of how they are taken
            self.live = None
            whole = loss_and_gradients(self.model, loss, retain_graph=True)
            above, _ = self._run_above(cut, cut.memo, PastKeys(cut.past))
            check = check_alike if self.rounded is None else check_alike_if_rounded
            check(whole, loss_and_gradients(self.model, above))
            self.live = True
            self._tried.add(bool(C))
            selection.remember_in(batch.memo)
        batch.live = cut

    def _regrouped(self, batch: Batch, form: Form) -> Frozen | None:
        """What `_freeze` would compute of a batch, if its texts came in others before, and left in it what is live."""
        sources = self._texts.find(batch, form) if self.live and form.packed else None
        if sources is None:
            return None
        frozen = sources.frozen(form)
        self._keep(batch, frozen)
        part = self._live_part(frozen)
        past = None if part is None or batch.frozen is None else sources.past(part)
        if part is not None and past is not None:
            live = self._cut(frozen, part, past)
            batch.live = live if self._held("live") + live.size() <= LIVE_BYTES else None
        return frozen

    def _live_part(self, frozen: Frozen) -> Live | None:
        """The positions of a batch that training can change; None where that is all of them."""
        if self.selection is None or self.selection.chosen is None:
            return None
        live, still = live_positions(frozen.form, frozen.reads[0], self.selection.chosen[0])
        return None if int(live.sum(1).max()) == live.shape[1] else live_part(frozen.form, live, still)

    def _cut(
        self,
        frozen: Frozen,
        part: Live,
        past: dict[int, tuple[Float[Tensor, "G _heads C _width"], Float[Tensor, "G _heads C _width"]]],
    ) -> Frozen:
        """What is kept of a batch, of its live positions alone."""
        return Frozen(
            form=part.form,
            below=part.of(frozen.below),
            beside={name: part.of(output) for name, output in frozen.beside.items()},
            gate=part.of(frozen.gate),
            feed_forward=part.of(frozen.feed_forward),
            reads=part.of(frozen.reads),
            past=past,
            still=part.still,
        )

    @torch.no_grad()
    def _freeze(self, batch: Batch, form: Form) -> Frozen:
        """Run the model up to its first memory layer; what `loss` starts from stays in the batch, if there is room."""
        outputs: dict[nn.Module | None, Any] = {}

        def keep(module, args, output):
            outputs[module] = output

        def take(module, args, kwargs):
            outputs[module] = args, kwargs

        keys = self.layer.keys
        wanted = [module for _, module in (*self._below[-1:], *self._candidates)]
        with HookScope() as scope:
            for module in (*wanted, keys):
                scope.hook(module, keep)
            for module in filter(None, (self.layer, self._attached)):
                scope.pre_hook(module, take, with_kwargs=True)
            with stopping_at(keys), replaced(self._exact):
                self._run(form)
        (x,), _ = outputs[self.layer]
        attached, (given, named) = self._attached, outputs.get(self._attached, ((), {}))
        frozen = Frozen(
            form=form,
            below=outputs[self._below[-1][1]] if self._below else None,
            beside={name: outputs[module] for name, module in self._candidates if module in outputs},
            gate=None if self.layer.gate is None else self.layer.gate(x),
            feed_forward=attached and attached.feed_forward and attached.feed_forward(*given, **named),
            reads=outputs[keys],
        )
        self._keep(batch, frozen)
        return frozen

    def _keep(self, batch: Batch, frozen: Frozen) -> None:
        """Leave it in the batch, if there is room."""
        if not batch.once and self._held("frozen") + frozen.size() <= CACHE_BYTES:
            batch.frozen = frozen
            self._kept.add(batch)
            self._texts.add(batch)

    def _held(self, what: str) -> int:
        """Bytes that the batches still in use hold as `frozen` or `live`."""
        return sum(part.size() for batch in self._kept if (part := getattr(batch, what)) is not None)


@contextmanager
def replaced(places: Sequence[tuple[nn.Module, str, nn.Module]]) -> Iterator[None]:
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
        for part in nested:
            yield from _tensors(part)
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))
    elif is_dataclass(nested):
        yield from _tensors([getattr(nested, field.name) for field in fields(nested)])
