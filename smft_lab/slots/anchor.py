"""The anchor: what is written for new facts shall change little in what the background reads.

A token adds  y = sum over its reads of  w * V[i]  to its hidden state, and where it reads (i, w) doesn't depend on the
values of the first memory layer. So for every background token m the change by training,

    change[m] = sum over the chosen rows i that m reads of  w[m, i] * (V[i] - V0[i]),

is known from the rows alone, after one forward pass over the background that ends at the addressing. The anchor is the
mean square of it over all background tokens, as a share of the mean square that the memory is heard against. Its
gradient is of a few rows, and no model has to be run for it.

That is the idea of keeping what a covariance of other keys says (MEMIT, Meng et al. 2023, arXiv 2210.07229; AlphaEdit,
Fang et al. 2024, arXiv 2410.02355), here for rows that are read sparsely.

Shapes: M background tokens, R reads of a token, S chosen rows, Vd value width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from smft_lab.model.hooks import HookScope
from smft_lab.model.memory import block_of, memory_layers, value_tables
from smft_lab.model.tokenizer import document_batches
from smft_lab.slots.reading import reads_by_table

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int32, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLE = 2048  # background tokens per step


@dataclass(frozen=True)
class BackgroundReads:
    """What every background token reads in one value table.

    Attributes:
        level: The mean square of what a token's reads add at the base; where that is nothing, as in an empty table, the
            median over tokens of the squared norm of the hidden state that it is added to.
    """

    slots: Int32[Tensor, "M R"]
    weights: Float32[Tensor, "M R"]
    level: float


@torch.inference_mode()
def background_reads(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Sequence[int]]
) -> list[BackgroundReads]:
    """What the background reads, per value table; the model should be at its base.

    Args:
        documents: Token ids of each.

    Raises:
        ValueError: there are none.
    """
    if not documents:
        raise ValueError("an anchor needs background documents")
    tables = value_tables(model)
    blocks = [(tables.index(layer.values), block_of(model, layer)) for layer in memory_layers(model).values()]
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in tables]
    hidden: list[list[Tensor]] = [[] for _ in tables]
    for batch in document_batches(tokenizer, sorted(documents, key=len), model.device):  # by length: little padding
        with ExitStack() as stack:
            streams = [stack.enter_context(_entering(block)) for _, block in blocks]
            reads = reads_by_table(model, batch)
        real = batch["attention_mask"].bool().cpu()
        for table, (slots, weights) in enumerate(zip(*reads, strict=True)):
            parts[table].append((slots[real].int(), weights[real].float()))
        for (table, _), stream in zip(blocks, streams, strict=True):
            hidden[table].append(stream[-1].flatten(0, -2).cpu()[real.flatten()].float().square().sum(1))
    reads_of_tables = []
    for table, of_table in enumerate(parts):
        slots, weights = (torch.cat(part).clone() for part in zip(*of_table, strict=True))
        level = _lookup_square(tables[table].weight, slots, weights) or torch.cat(hidden[table]).median().item()
        reads_of_tables.append(BackgroundReads(slots, weights, level))
    return reads_of_tables


class Anchor:
    """The anchor of one value table, for rows that may change.

    Args:
        rows: The chosen rows, ascending.
        table: How it is now is what the anchor keeps to.
        reads: What the background reads.
        seed: Of the samples.
    """

    def __init__(self, rows: Int64[Tensor, " S"], table: Float[Tensor, "N Vd"], reads: BackgroundReads, seed: int = 0):
        self.table, self._rows, self._before = table, rows.to(table.device), table.detach()[rows].clone()
        place = torch.full((len(table),), -1)
        place[rows.cpu()] = torch.arange(len(rows))
        places = place[reads.slots.long()]
        token, read = (places >= 0).nonzero(as_tuple=True)
        _, counts = token.unique_consecutive(return_counts=True)
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(table.device)
        self._places = places[token, read].to(table.device)
        self._weights = reads.weights[token, read].to(table.device)
        self._unit = len(reads.slots) * reads.level
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def tokens(self) -> int:
        """How many background tokens read one of the rows."""
        return len(self._starts) - 1

    @property
    @torch.no_grad()
    def value(self) -> float:
        """What the anchor is now: 0 as long as no row has changed."""
        change, *_ = self._change(torch.arange(self.tokens, device=self.table.device))
        return change.square().sum().item() / self._unit

    @torch.no_grad()
    def gradients(self) -> tuple[Int64[Tensor, " t"], Float[Tensor, "t Vd"]]:
        """The anchor's gradient, of a random sample of `SAMPLE` tokens where there are more; on average it is exact.

        Returns:
            The rows that they read, ascending, and the gradient of each.
        """
        count, device = self.tokens, self.table.device
        sample = torch.arange(count)
        if count > SAMPLE:
            sample = torch.randint(count, (SAMPLE,), generator=self._generator)
        change, owner, places, weights = self._change(sample.to(device))
        distinct, place = places.unique(return_inverse=True)
        gradients = self.table.new_zeros(len(distinct), self.table.shape[1])
        gradients.index_add_(0, place, weights.unsqueeze(1) * change[owner])
        return self._rows[distinct], gradients * (2 * count / max(1, len(sample)) / self._unit)

    def _change(
        self, tokens: Int64[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m Vd"], Int64[Tensor, " reads"], Int64[Tensor, " reads"], Float[Tensor, " reads"]]:
        """What training has changed in what some tokens read; and of each read: which of the tokens makes it, its place
        in the chosen rows, and its weight."""
        first, count = self._starts[tokens], self._starts[tokens + 1] - self._starts[tokens]
        owner = torch.repeat_interleave(torch.arange(len(tokens), device=tokens.device), count)
        index = torch.arange(len(owner), device=tokens.device) + (first - (count.cumsum(0) - count))[owner]
        places, weights = self._places[index], self._weights[index]
        moved = self.table.detach()[self._rows[places]] - self._before[places]
        change = self.table.new_zeros(len(tokens), self.table.shape[1])
        return change.index_add_(0, owner, weights.unsqueeze(1) * moved), owner, places, weights


@torch.no_grad()
def added(
    rows: Int64[Tensor, " t"],
    gradients: Float[Tensor, "t Vd"],
    others: Int64[Tensor, " u"],
    their: Float[Tensor, "u Vd"],
) -> tuple[Int64[Tensor, " both"], Float[Tensor, "both Vd"]]:
    """Two sets of rows with their gradients as one; what both have is added."""
    union, place = torch.cat([rows, others]).unique(return_inverse=True)
    total = gradients.new_zeros(len(union), gradients.shape[1])
    return union, total.index_add_(0, place, torch.cat([gradients, their]))


def _lookup_square(table: Float[Tensor, "N Vd"], slots: Int32[Tensor, "M R"], weights: Float32[Tensor, "M R"]) -> float:
    """The mean over tokens of the squared norm of their lookups."""
    total = 0.0
    for part, weight in zip(slots.split(4096), weights.split(4096), strict=True):
        part, weight = part.long().to(table.device), weight.to(table.device)
        total += functional.embedding_bag(part, table, per_sample_weights=weight, mode="sum").square().sum().item()
    return total / len(slots)


@contextmanager
def _entering(block: torch.nn.Module) -> Iterator[list[Tensor]]:
    """The hidden states that the block gets, (B, T, D) of each forward pass until the `with` ends."""
    got: list[Tensor] = []

    def keep(module, args, kwargs) -> None:
        got.append(args[0] if args else kwargs["hidden_states"])

    with HookScope() as scope:
        scope.pre_hook(block, keep, with_kwargs=True)
        yield got
