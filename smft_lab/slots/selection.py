"""Sparse mode: while it is on, a backward pass gives only the batch's top-t slots a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smft_lab.model.hooks import HookScope
from smft_lab.model.memory import RowHits, memory_layers, observe_reads, value_tables
from smft_lab.ranges import check_not_negative
from smft_lab.slots.scores import WHOLE_TABLE, check_rule, check_top_t, score, top_slots
from smft_lab.slots.usage import Usage, table_reads

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int32, Int64, Shaped

    from smft_lab.lab import Lab

Memo = dict[int, tuple[Tensor, RowHits]]
"""Per table: the slots chosen, best first, and their hits."""


class Selection:
    """Chooses, batch by batch, the slots of each value table that a step may change (paper section 3.2).

    Attributes:
        chosen: Per value table the slots that may change at all, where they were chosen beforehand for a group of facts
            (`choose_from`): a step then changes those of them that its batch reads, whatever their scores.
    """

    def __init__(
        self, model: nn.Module, usage: Usage, top_t: int, rule: str = "tfidf", seed: int = 0, protect: float = 0.0
    ):
        """
        Args:
            usage: The background, for the idf.
            top_t: Slots per table and batch.
            rule: See `smft_lab.slots.scores.score`.
            seed: Of the rule `random`.
            protect: For each other owner (see `expect`) that a slot was written for, it counts as read by so many more
                background batches: what was written for one fact is then left alone by the next. 0, as in the paper,
                whose idf never learns of what finetuning wrote.

        Raises:
            ValueError: no such rule, `top_t` is below 1 or above the slots of a table, or `protect` is below 0.
        """
        check_top_t(top_t, usage.df.shape[1])
        check_not_negative(protect=protect)
        check_rule(rule)
        self.model, self.usage, self.rule = model, usage, rule
        self.top_t = None if rule == "all" else top_t
        self.tables = value_tables(model)
        self.protect = protect
        self._owner: object = None
        self._written_by: dict[object, list[Bool[Tensor, " N"]]] = {}  # by owner, per table
        self._writers = [torch.zeros(len(table.weight), dtype=torch.int32) for table in self.tables]
        self._counted: Shaped[Tensor, "B T"] | None = None
        self.chosen: tuple[Int64[Tensor, " _rows"], ...] | None = None
        self._memo: Memo | None = None
        self._generator = torch.Generator().manual_seed(seed)
        layers = list(memory_layers(model).values())
        first = self.tables.index(layers[0].values)
        alone = sum(layer.values is layers[0].values for layer in layers) == 1
        self._constant = {first} if alone and rule != "random" and not protect else set()

        self._slots: tuple[Int64[Tensor, " _best"], ...] | None = None

    _mask: Shaped[Tensor, "B T"]  # of the present batch

    @contextmanager
    def active(self) -> Iterator[Selection]:
        """Sparse mode, until the block ends: each backward pass leaves in `weight.grad` of every value table a sparse
        tensor of the selected rows, and nothing of the size of a table is made. Evaluation in between does no harm.
        """
        with self.observing(), self.training():
            yield self

    @contextmanager
    def observing(self) -> Iterator[None]:
        """What is read is known, until the block ends."""
        with ExitStack() as stack:
            self._reads = stack.enter_context(observe_reads(self.model))
            stack.enter_context(HookScope()).pre_hook(self.model, self._begin, with_kwargs=True)
            yield

    @contextmanager
    def training(self) -> Iterator[None]:
        """Gradients are those of the selected rows, until the block ends; within `observing`."""
        with ExitStack() as stack:
            for i, table in enumerate(self.tables):
                stack.enter_context(table.train_rows(partial(self._hits, i)))
            yield

    def expect(self, counted: Shaped[Tensor, "B T"] | None, memo: Memo | None = None, owner: object = None) -> None:
        """Be told what the next batch is.

        Args:
            counted: Mask of the positions whose reads count; the attention mask by default.
            memo: See `remember_in`.
            owner: What it is about; see `protect`.
        """
        self._counted, self._memo, self._owner = counted, memo, owner

    def count_at(self, counted: Shaped[Tensor, "B T"]) -> None:
        """Count the reads at these positions alone, as where a batch is run in another form."""
        self._counted = counted

    def remember_in(self, memo: Memo) -> None:
        """Keep the choices of the present batch there for the next time it comes.

        That is, for tables whose reads cannot have changed meanwhile: those of the first memory layer alone.
        """
        self._memo = memo

    def choose_from(self, slots: tuple[Int64[Tensor, " _rows"], ...]) -> None:
        """Let only these slots change, per value table, which were chosen beforehand."""
        self.chosen = slots

    @property
    def slots(self) -> tuple[Int64[Tensor, " _best"], ...]:
        """The slots selected for the last batch, per value table, best first."""
        if self._slots is None and self._memo is not None and len(self._memo) == len(self.tables):
            self._slots = tuple(self._memo[table][0] for table in range(len(self.tables)))
        if self._slots is None:
            mask = self._mask if self._counted is None else self._counted
            reads = table_reads(self.model, self._reads, mask)
            self._slots = tuple(self._choose(table, *read) for table, read in enumerate(reads))
        return self._slots

    def _begin(self, module, args, kwargs) -> None:
        for reads in self._reads.values():
            reads.slots.clear()
            reads.weights.clear()
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask")
        self._mask = torch.ones_like(ids) if mask is None else mask
        self._slots = None

    def _choose(
        self, table: int, read: Int64[Tensor, " read"], count: Int32[Tensor, " read"]
    ) -> Int64[Tensor, " best"]:
        """The slots to train.

        Args:
            table: Index of the value table.
            read: The slots that the batch reads, ascending.
            count: How often it reads each.

        Returns:
            At most `top_t` of `read`, best first; with `chosen`, those of it that are read, in its order.
        """
        if self.chosen is not None:
            chosen = self.chosen[table]
            return chosen[torch.isin(chosen, read)]
        df, batches = self.usage.df[table], self.usage.batches
        if self.protect:
            own = self._written_by.get(self._owner)
            others = self._writers[table] - (0 if own is None else own[table].int())
            df = df + self.protect * others
            batches += self.protect * (len(self._written_by) - (own is not None))
        if self.rule in WHOLE_TABLE:
            count_of_all = torch.zeros(len(df), dtype=count.dtype).index_copy_(0, read, count)
            scores = score(self.rule, count_of_all, df, batches, self._generator, self.usage.count[table])[read]
        else:
            scores = score(self.rule, count, df[read], batches)
        return read[top_slots(scores, count, self.top_t)]

    def log_writes(self) -> None:
        """Remember that the last batch's slots were written for its `owner`; for `protect`."""
        if not self.protect:
            return
        new = [torch.zeros(len(writers), dtype=torch.bool) for writers in self._writers]
        own = self._written_by.setdefault(self._owner, new)
        for written, writers, slots in zip(own, self._writers, self.slots, strict=True):
            writers[slots] += (~written[slots]).int()
            written[slots] = True

    def _hits(self, table: int, slots: Int64[Tensor, "M reads"], weights: Float[Tensor, "M reads"]) -> RowHits:
        """Where the selected rows of a table are read in a lookup; from the memo where it can't have changed."""
        memo = self._memo if table in self._constant else None
        if memo is not None and table in memo:
            return memo[table][1]
        hits = RowHits.find(self.slots[table].sort().values.to(slots.device), slots, weights)
        if memo is not None:
            memo[table] = (self.slots[table], hits)
        return hits


@contextmanager
def sparse_mode(lab: Lab, *, top_t: int | None = None, rule: str = "tfidf", seed: int = 0) -> Iterator[Selection]:
    """Sparse memory finetuning in a training loop of one's own.

    Inside the block only the value tables take gradients, and only at the top-t slots of each batch; a plain
    `torch.optim.SGD` step on them is then a step of the paper (section 3.3)::

        with smft.sparse_mode(lab, top_t=100):
            optimizer = torch.optim.SGD([table.weight for table in smft.value_tables(lab.model)], lr=20.0)
            for batch in batches:
                lab.model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    A finetune under way ends.

    Args:
        lab: A `Lab`; its background usage gives the idf.
        top_t: Slots per table and batch; by default the lab's tuned t, or else 100. A recipe's is not taken.
        rule: See `smft_lab.slots.scores.score`.
        seed: Of the rule `random`.

    Raises:
        ValueError: an option is out of range, or the mode is on already.

    Examples:
        >>> with smft.sparse_mode(lab, top_t=10) as selection:
        ...     lab.model(input_ids=ids, labels=ids).loss.backward()
        >>> [len(slots) for slots in selection.slots]
        [10]
    """
    most: int = lab.defaults.get("sparse", {}).get("top_t", 100) if top_t is None else top_t
    lab.end()
    selection = Selection(lab.model, lab.usage, most, rule, seed)
    with lab.in_training(loop=True):
        freeze_all_but_values(lab.model)
        with selection.active():
            yield selection


def freeze_all_but_values(model: nn.Module) -> None:
    """Turn gradients off for all parameters but the value tables."""
    model.requires_grad_(False)
    for table in value_tables(model):
        table.weight.requires_grad_(True)
