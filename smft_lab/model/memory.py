"""The memory layer: product keys pick a few of very many value rows ("slots") for every token.

Memory+ of Berges et al. 2024 (arXiv 2412.09764), the layer that sparse memory finetuning (Lin et al. 2025,
arXiv 2510.15103, section 3.1) finetunes. For one token x, per head h:

    q        = Wq_h x                           a query of two halves, q = [q1, q2]
    scores   = q1 · K1_h[i] + q2 · K2_h[j]      for slot = i * sqrt(N) + j; with qk_norm, of unit halves, times a
                                                learned temperature per head
    I, s     = top-k slots, softmax of their scores
    y        = sum over heads of  sum over I of  s * V[I]
    out      = W2 (y * silu(W1 x))

A memory that is given to a finished model (a retrofit) may leave out the gate W1, the projection W2, or both:
untrained, they make what is written in the values too quiet to be heard. Its queries may be of whitened hidden states,
and what a token reads may have to be louder than a threshold to count at all.

Only sqrt(N) keys are kept per half, so N slots are searched exactly at the price of 2 sqrt(N) + k² scores.

Shapes: B batch, T tokens, D hidden size, H heads, k reads per head, N slots, R = sqrt(N), Kd key width, Vd value width;
of a lookup, M = B T tokens, t chosen rows, and hits, the reads of those.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smft_lab.model.hooks import HookScope

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64

CHUNK = 8192  # rows that are compared together


class Wide(nn.Module):
    """Keeps its numbers in float32, at least, when the model that it is in is made half precision.

    A step of sparse finetuning is often smaller than what half precision can tell apart, and rounded scores choose
    other slots.
    """

    def widen(self) -> None:
        """Make float32 of what is narrower, as after an assignment."""
        self._apply(lambda tensor: tensor)

    def _apply(self, fn, recurse: bool = True):
        def widely(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point() or moved.dtype.itemsize >= 4:
                return moved
            return tensor.to(moved.device, torch.promote_types(tensor.dtype, torch.float32))

        return super()._apply(widely, recurse)


class ProductKeys(Wide):
    """Addresses the table: hidden states in, the slots each token reads and their weights out.

    Args:
        hidden_size: D.
        slots: N, a perfect square.
        heads: H; each has its own query projection and its own two half-codebooks.
        k: Reads per head; at most sqrt(N), since top-k of the sum needs only the top-k of each half.
        key_dim: Kd, the width of a whole key; even.
        qk_norm: Normalise both halves of queries and keys, with a learned temperature per head. It keeps a
            few loud keys from taking all reads (Berges et al. use it "when needed").
        whiten: Query with hidden states less their mean, each dimension over its deviation; both are measured by
            `smft_lab.model.fitting.fit_keys`, and are 0 and 1 until then. A hidden state's few huge dimensions would
            otherwise choose the slots, whatever the text says.

    Raises:
        ValueError: an option is out of range.
    """

    mean: Float[Tensor, " D"] | None  # as `deviation` a buffer; None without `whiten`
    deviation: Float[Tensor, " D"] | None

    def __init__(
        self, hidden_size: int, slots: int, heads: int, k: int, key_dim: int, qk_norm: bool, whiten: bool = False
    ):
        super().__init__()
        self.root = math.isqrt(max(slots, 0))
        if slots < 1 or self.root**2 != slots:
            near = max(1, round(math.sqrt(max(slots, 1)))) ** 2
            raise ValueError(f"slots must be a perfect square (product keys), not {slots}; the nearest is {near}")
        if not 1 <= k <= self.root:
            raise ValueError(f"k must be between 1 and sqrt(slots) = {self.root}, not {k}")
        if heads < 1:
            raise ValueError(f"heads must be at least 1, not {heads}")
        if key_dim < 2 or key_dim % 2:
            raise ValueError(f"key_dim must be even (two halves) and at least 2, not {key_dim}")
        self.heads, self.k, self.key_dim = heads, k, key_dim
        self.query = nn.Linear(hidden_size, heads * key_dim, bias=False)
        self.keys = nn.Parameter(torch.empty(2, heads, self.root, key_dim // 2))  # two codebooks per head
        self.temperature = nn.Parameter(torch.empty(heads)) if qk_norm else None
        self.register_buffer("mean", torch.zeros(hidden_size) if whiten else None)
        self.register_buffer("deviation", torch.ones(hidden_size) if whiten else None)
        self._known: tuple[Int64[Tensor, "B T H k"], Float[Tensor, "B T H k"]] | None = None
        self.widen()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.query.weight)
        bound = self.key_dim**-0.5
        nn.init.uniform_(self.keys, -bound, bound)
        if self.temperature is not None:
            nn.init.constant_(self.temperature, 8.0)

    def queries(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch {self.heads*self.key_dim}"]:
        """Queries of all heads, not yet normalised."""
        x = x.to(self.keys.dtype)
        return self.query(self.whitened(x))

    def whitened(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """x less the mean and over the deviation, where these were measured."""
        return x if self.mean is None or self.deviation is None else (x - self.mean) / self.deviation

    def forward(self, x: Float[Tensor, "B T D"]) -> tuple[Int64[Tensor, "B T H k"], Float[Tensor, "B T H k"]]:
        """The slots that each token reads, and their weights; the weights of a head sum to 1."""
        if self._known is not None:
            return self._known
        with torch.autocast(x.device.type, enabled=False):
            return self._search(x)

    @contextmanager
    def answering(self, reads: tuple[Int64[Tensor, "B T H k"], Float[Tensor, "B T H k"]]) -> Iterator[None]:
        """Let `forward` give these slots and weights until the block ends: where they were computed before."""
        try:
            self._known = reads
            yield
        finally:
            self._known = None

    def _search(self, x: Float[Tensor, "B T D"]) -> tuple[Int64[Tensor, "B T H k"], Float[Tensor, "B T H k"]]:
        B, T, _ = x.shape
        query = self.queries(x).view(B * T, self.heads, 2, self.key_dim // 2)
        keys = self.keys
        if self.temperature is not None:
            query, keys = F.normalize(query, dim=-1), F.normalize(keys, dim=-1)
            query = query * self.temperature[:, None, None]
        half = torch.einsum("nhcd,chrd->chnr", query, keys)  # (2, H, BT, R)
        best, index = half.topk(self.k, dim=-1)  # (2, H, BT, k): the top k of the sum lie among these
        pairs = (best[0].unsqueeze(-1) + best[1].unsqueeze(-2)).flatten(-2)  # (H, BT, k*k)
        scores, pair = pairs.topk(self.k, dim=-1)  # (H, BT, k)
        row = index[0].gather(-1, pair // self.k)
        column = index[1].gather(-1, pair % self.k)
        slots = (row * self.root + column).transpose(0, 1)  # (BT, H, k)
        weights = scores.softmax(dim=-1).transpose(0, 1)
        return slots.reshape(B, T, self.heads, self.k), weights.reshape(B, T, self.heads, self.k)


@dataclass(frozen=True)
class RowHits:
    """Where the chosen rows of a table were read in one lookup of M tokens, sorted by row.

    Attributes:
        rows: The chosen rows, ascending.
        tokens, weights: The reading tokens and their weights, all of the first row, then of the second, ...
        offsets: Where the hits of each row begin.
    """

    rows: Int64[Tensor, " t"]
    tokens: Int64[Tensor, " hits"]
    weights: Float[Tensor, " hits"]
    offsets: Int64[Tensor, " t"]

    @classmethod
    def find(
        cls, rows: Int64[Tensor, " t"], slots: Int64[Tensor, "M reads"], weights: Float[Tensor, "M reads"]
    ) -> RowHits:
        """The hits of `rows`, ascending, among slots and weights: one sort of the hits alone."""
        flat = slots.flatten()
        if len(rows):
            place = torch.searchsorted(rows, flat).clamp_(max=len(rows) - 1)
            hits = (rows[place] == flat).nonzero().squeeze(1)
        else:
            place, hits = flat, flat.new_empty(0)
        place, order = place[hits].sort(stable=True)
        hits = hits[order]
        offsets = torch.searchsorted(place, torch.arange(len(rows), device=rows.device))
        return cls(rows, hits // slots.shape[1], weights.flatten()[hits], offsets)

    def gradients(self, grad: Float[Tensor, "M Vd"]) -> Float[Tensor, "t Vd"]:
        """Gradient of the lookups -> of each chosen row: the sum of weight * grad over its hits."""
        if not len(self.rows):
            return grad.new_zeros(0, grad.shape[1])
        return F.embedding_bag(self.tokens, grad, self.offsets, per_sample_weights=self.weights, mode="sum")


class RowLookup(torch.autograd.Function):
    """A lookup whose backward pass costs what the chosen rows were read, whatever the size of the table.

    The gradient of the table is a sparse tensor (N, Vd) of exactly the chosen rows, which `torch.optim.SGD` takes.
    `hits(slots, weights)` is asked for them in the backward pass, when all reads of the batch are known.
    """

    @staticmethod
    def forward(
        ctx,
        table: Float[Tensor, "N Vd"],
        slots: Int64[Tensor, "M reads"],
        weights: Float[Tensor, "M reads"],
        hits: Callable[[Tensor, Tensor], RowHits],
    ) -> Float[Tensor, "M Vd"]:
        ctx.save_for_backward(table, slots, weights)
        ctx.hits = hits
        return F.embedding_bag(slots, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, grad: Float[Tensor, "M Vd"]):
        table, slots, weights = ctx.saved_tensors
        hits = ctx.hits(slots, weights)
        grad_table = torch.sparse_coo_tensor(
            hits.rows.unsqueeze(0), hits.gradients(grad), table.shape, is_coalesced=True, check_invariants=False
        )
        grad_weights = torch.einsum("mrv,mv->mr", table[slots], grad) if ctx.needs_input_grad[2] else None
        return grad_table, None, grad_weights, None


class ValueTable(Wide):
    """N value rows, looked up as one weighted sum per token; may be shared by several memory layers.

    Args:
        empty: Whether all rows are zero. On a CPU such a table takes no memory but for the rows that are written.

    Attributes:
        hits: Says which rows take a gradient, while `train_rows` lets only some; else None.
    """

    def __init__(self, slots: int, value_dim: int, empty: bool = False):
        super().__init__()
        self.hits: Callable[[Tensor, Tensor], RowHits] | None = None
        if empty:
            self.weight = nn.Parameter(empty_table(slots, value_dim))
        else:
            self.weight = nn.Parameter(torch.empty(slots, value_dim))
            self.widen()
            self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, slots: Int64[Tensor, "M reads"], weights: Float[Tensor, "M reads"]) -> Float[Tensor, "M Vd"]:
        """The weighted sum of each token's reads, in the table's dtype."""
        weights = weights.to(self.weight.dtype)
        if self.hits is None:
            return F.embedding_bag(slots, self.weight, per_sample_weights=weights, mode="sum")
        return RowLookup.apply(self.weight, slots, weights, self.hits)

    def take_gradient(self) -> Float[Tensor, "N Vd"]:
        """What the backward passes since the last call left in `weight.grad`, sparse and coalesced.

        Raises:
            ValueError: there was none.
        """
        grad, self.weight.grad = self.weight.grad, None
        if grad is None:
            raise ValueError("no gradient has reached the value table")
        return grad.coalesce()

    @contextmanager
    def train_rows(self, hits: Callable[[Tensor, Tensor], RowHits]) -> Iterator[None]:
        """Let only some rows of the table have a gradient: `weight.grad` is then a sparse tensor (N, Vd) of those.

        Args:
            hits: Called in the backward pass with the slots and weights (M, reads) of each lookup; says which rows.

        Raises:
            RuntimeError: entered twice at once.
        """
        if self.hits is not None:
            raise RuntimeError(
                "train_rows() is already active on this table; end sparse_mode, or a finetune of another lab around it"
            )
        self.weight.grad = None  # one left by other training would be added to, and every row would move
        try:
            self.hits = hits
            yield
        finally:
            if self.hits is hits:  # and not of a later block, where this one was interrupted and ends late
                self.hits = None


def empty_table(slots: int, value_dim: int) -> Float32[Tensor, "{slots} {value_dim}"]:
    """Zeros that take no memory until they are written to."""
    # torch.zeros writes its zeros at once, and so does numpy where it gets memory that was used before.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    pages = mmap.mmap(-1, 4 * slots * value_dim, **private)
    return torch.from_numpy(np.frombuffer(pages, dtype=np.float32).reshape(slots, value_dim))


def differing_rows(tensor: Float[Tensor, "N Vd"], other: Float[Tensor, "N Vd"]) -> Int64[Tensor, " rows"]:
    """Which rows of two tables of one type differ in a bit: ascending, on the CPU.

    Goes through the tables part by part, so that nothing of their size is made.
    """
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    parts = []
    for first in range(0, len(tensor), CHUNK):
        a, b = (table.detach()[first : first + CHUNK].contiguous().view(bits) for table in (tensor, other))
        if not torch.equal(a, b):
            parts.append((a != b).any(1).nonzero().squeeze(1).cpu() + first)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


class Threshold(Wide):
    """Lets pass what is louder than a level, and nothing of what is not (hard thresholding).

    A text that happens to read some of the rows that were written for other texts gets a little of many facts, a text
    that asks for a fact most of one. So what a model knows otherwise stays as it was, to the bit.

    Attributes:
        level: The norm that must be exceeded, (1,); 0 until `smft_lab.model.fitting.fit_threshold` has set it.
    """

    level: Float[Tensor, " 1"]

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(1))
        self.widen()

    def forward(self, y: Float[Tensor, "M Vd"]) -> Float[Tensor, "M Vd"]:
        """Its gradient is that of y itself: a row that is not loud enough yet must be able to become it."""
        loud = torch.linalg.vector_norm(y.detach(), dim=-1, keepdim=True) > self.level
        return y - y.detach().masked_fill(loud, 0)


class MemoryLayer(nn.Module):
    """A drop-in for a transformer's feed-forward layer, with the Memory+ gate.

    Args:
        hidden_size: D.
        slots, heads, k, key_dim, qk_norm, whiten: See `ProductKeys`.
        value_dim: Vd; defaults to D.
        values: An existing table to share with another layer, instead of a new one.
        gate: Whether what is read is multiplied by silu(W1 x).
        project: Whether it then goes through W2; without it the value rows are what is added to the hidden state.
        threshold: Whether what a token reads counts only where it is loud enough (see `Threshold`).

    Raises:
        ValueError: an option is out of range, or the shared table has another shape.

    Examples:
        >>> layer = smft.MemoryLayer(hidden_size=32, slots=256)
        >>> layer(torch.zeros(1, 3, 32)).shape
        torch.Size([1, 3, 32])
    """

    def __init__(
        self,
        hidden_size: int,
        slots: int = 16_384,
        heads: int = 4,
        k: int = 8,
        key_dim: int = 64,
        value_dim: int | None = None,
        qk_norm: bool = True,
        values: ValueTable | None = None,
        gate: bool = True,
        project: bool = True,
        whiten: bool = False,
        threshold: bool = False,
    ):
        super().__init__()
        value_dim = value_dim or hidden_size
        if not project and value_dim != hidden_size:
            raise ValueError(f"without a projection value_dim must be the hidden size {hidden_size}, not {value_dim}")
        self.keys = ProductKeys(hidden_size, slots, heads, k, key_dim, qk_norm, whiten)
        self.values = values if values is not None else ValueTable(slots, value_dim)
        if self.values.weight.shape != (slots, value_dim):
            shape = tuple(self.values.weight.shape)
            raise ValueError(f"the shared value table is {shape}, but this layer needs ({slots}, {value_dim})")
        self.gate = nn.Linear(hidden_size, value_dim, bias=False) if gate else None  # W1
        self.out = nn.Linear(value_dim, hidden_size, bias=False) if project else None  # W2
        self.threshold = Threshold() if threshold else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """What each token reads, of the dtype of x."""
        B, T, _ = x.shape
        slots, weights = self.keys(x)
        y = self.values(slots.reshape(B * T, -1), weights.reshape(B * T, -1))  # heads are summed with their reads
        if self.threshold is not None:
            y = self.threshold(y)
        y = y.view(B, T, -1).to(x.dtype)
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return y if self.out is None else self.out(y)


@dataclass
class Reads:
    """What one memory layer read during `observe_reads`, one entry per forward pass.

    Attributes:
        slots: Which slots each token read.
        weights: How much of each; they sum to 1 per head.
    """

    slots: list[Int64[Tensor, "_B _T H k"]] = field(default_factory=list)
    weights: list[Float[Tensor, "_B _T H k"]] = field(default_factory=list)


def memory_layers(model: nn.Module) -> dict[int, MemoryLayer]:
    """The memory layers of a model by position, first to last (0, 1, ... counts memory layers only).

    Examples:
        >>> list(smft.memory_layers(lab.model))
        [0]
    """
    return dict(enumerate(m for m in model.modules() if isinstance(m, MemoryLayer)))


def value_tables(model: nn.Module) -> list[ValueTable]:
    """The distinct value tables of a model, first to last; layers that share one count once.

    Examples:
        >>> [tuple(table.weight.shape) for table in smft.value_tables(lab.model)]
        [(57600, 128)]
    """
    return list(dict.fromkeys(layer.values for layer in memory_layers(model).values()))


def block_of(model: nn.Module, layer: nn.Module) -> nn.Module:
    """The block of the model that a memory layer is in."""
    names = {module: name for name, module in model.named_modules()}
    path = names[layer].split(".")
    parents = [model.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
    depth = max(i for i, parent in enumerate(parents) if isinstance(parent, nn.ModuleList))
    return model.get_submodule(".".join(path[: depth + 1]))


def named_tables(model: nn.Module) -> tuple[list[str], list]:
    """State-dict names of the distinct value tables, and the tables."""
    tables = value_tables(model)
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    return [names[table] for table in tables], tables


@contextmanager
def observe_reads(model: nn.Module) -> Iterator[dict[int, Reads]]:
    """Record the reads of every memory layer of `model` until the block ends, also when it ends by an exception.

    Examples:
        >>> with smft.observe_reads(lab.model) as reads:
        ...     _ = lab.model(ids)
        >>> reads[0].slots[-1].shape[-2:]
        torch.Size([4, 8])
    """
    reads = {position: Reads() for position in memory_layers(model)}

    def recorder(into: Reads):
        def record(module, args, output):
            into.slots.append(output[0].detach())
            into.weights.append(output[1].detach())

        return record

    with HookScope() as scope:
        for position, layer in memory_layers(model).items():
            scope.hook(layer.keys, recorder(reads[position]))
        yield reads


class _Reached(Exception):
    """The forward pass has come as far as it has to."""


@contextmanager
def stopping_at(module: nn.Module) -> Iterator[None]:
    """End any forward pass in the block as soon as `module` has run: what comes after it is not computed.

    The block ends there too, without an error; hooks put on `module` before this one have run.
    """

    def stop(module, args, output):
        raise _Reached

    with HookScope() as scope, suppress(_Reached):
        scope.hook(module, stop)
        yield
