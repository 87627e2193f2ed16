"""Giving a finished Hugging Face model memory layers: found by structure, in place of its feed-forward or beside it.

A feed-forward is what works on every position by itself: of the modules of a transformer block, the one with weight
matrices that takes hidden states (B, T, D), gives hidden states back, and whose output at a position doesn't change
with what stands elsewhere. One forward pass over a few tokens tells. Where a block has no such module, but calls
matrix, activation, matrix one after the other (OPT), those three are made into one first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smft_lab.model.autoclass import CONFIG_KEY, check_no_adapters, keep_when_saved
from smft_lab.model.memory import MemoryLayer, ValueTable, memory_layers

WRITTEN = 1 / 8  # of a table; facts by the hundred write that much
MODES = ("replace", "add")


class AttachedMemory(nn.Module):
    """A memory layer where a feed-forward was, or the sum of both.

    Attributes:
        memory: The `MemoryLayer`.
        feed_forward: What stood here, in mode `add`; None in mode `replace`.
        on: Whether the memory takes part; see `without_memory`.
    """

    def __init__(self, memory: MemoryLayer, feed_forward: nn.Module | None):
        super().__init__()
        self.feed_forward = feed_forward
        self.memory = memory
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D); some models join batch and tokens before their feed-forward."""
        if self.feed_forward is not None and not self.on:
            return self.feed_forward(x)
        read = self.memory(x if x.ndim == 3 else x.unsqueeze(0)).view_as(x)
        if self.feed_forward is None:
            return read
        out = self.feed_forward(x)
        return out + read.to(out.dtype)


@dataclass(frozen=True)
class FeedForward:
    """Where the feed-forward of one block is: `parent.name`, in place of which a memory layer can stand.

    Attributes:
        parts: Names of three children of `parent` (matrix, activation, matrix), where no single module holds them.
    """

    parent: nn.Module
    name: str
    parts: tuple[str, ...] = ()

    @property
    def module(self) -> nn.Module:
        if not self.parts:
            return getattr(self.parent, self.name)
        return nn.Sequential(*(getattr(self.parent, part) for part in self.parts))

    @property
    def entry(self) -> nn.Module:
        """The module of the model that gets the feed-forward's hidden states."""
        return getattr(self.parent, self.parts[0] if self.parts else self.name)

    def put(self, module: nn.Module) -> None:
        for part in self.parts[1:]:
            setattr(self.parent, part, nn.Identity())
        setattr(self.parent, self.name, module)


def add_memory(
    model,
    layers: Sequence[int] | int,
    slots: int,
    mode: str = "add",
    *,
    heads: int = 4,
    k: int = 8,
    key_dim: int = 64,
    value_dim: int | None = None,
    qk_norm: bool = True,
    gate: bool = True,
    project: bool = True,
    whiten: bool = False,
    shared: bool = True,
    seed: int = 0,
):
    """Give a `transformers` causal language model memory layers; the model is changed in place, and returned.

    Args:
        model: Any causal language model whose blocks have a feed-forward that can be found (see the module's text).
        layers: Which blocks, from 0; negative numbers count from the end.
        slots, heads, k, key_dim, value_dim, qk_norm, gate, project, whiten: See `MemoryLayer`.
        mode: `replace`, the memory layer takes the place of the feed-forward, as in the paper: the model must be
            trained again before it speaks; or `add`, beside it and with a table of zeros: logits are bitwise unchanged
            until something is trained.
        shared: Whether all memory layers read one value table (Memory+), or each its own.
        seed: Of the new weights.

    Raises:
        ValueError: an option is out of range, the model has memory layers already, no feed-forward can be found in
            it, or a table of that size fits in no memory here.
    """
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if memory_layers(model):
        raise ValueError("the model has memory layers already")
    check_no_adapters(model)
    places = feed_forwards(model)
    chosen = _chosen(layers, len(places))
    width = _text(model).hidden_size
    old = [places[number].module for number in chosen]
    like = [next(module.parameters()) for module in old]
    if any(parameter.is_meta for parameter in like):
        raise ValueError("a feed-forward of the model is offloaded; load the model with its weights in memory")
    check_fits(slots * (value_dim or width) * (1 if shared else len(chosen)), like[0], empty=mode == "add")
    values = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, feed_forward, parameter in zip(chosen, old, like, strict=True):
            if mode == "add" and values is None:
                values = ValueTable(slots, value_dim or width, empty=True)
            memory = MemoryLayer(width, slots, heads, k, key_dim, value_dim, qk_norm, values, gate, project, whiten)
            memory.to(device=parameter.device, dtype=parameter.dtype).train(feed_forward.training)
            values = memory.values if shared else None
            places[number].put(AttachedMemory(memory, feed_forward if mode == "add" else None))
    asked = {"layers": chosen, "slots": slots, "mode": mode, "heads": heads, "k": k, "key_dim": key_dim}
    asked |= {"value_dim": value_dim, "qk_norm": qk_norm, "shared": shared}
    changed = {"gate": (gate, True), "project": (project, True), "whiten": (whiten, False)}  # from Memory+
    asked |= {name: value for name, (value, usual) in changed.items() if value != usual}
    setattr(model.config, CONFIG_KEY, asked)
    keep_when_saved(model, _shared(model))
    return model


def attached_at(model) -> list[str]:
    """Names of the modules that stand where a feed-forward was."""
    return [name for name, module in model.named_modules() if isinstance(module, AttachedMemory)]


def _shared(model) -> dict[str, str]:
    """State-dict names of the tables that a layer has in common with one before, and of that one's."""
    first: dict[ValueTable, str] = {}
    shared = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ValueTable) and first.setdefault(module, name) != name:
            shared[f"{name}.weight"] = f"{first[module]}.weight"
    return shared


@contextmanager
def without_memory(model) -> Iterator[None]:
    """Let the model compute as before `add_memory` in mode `add`, until the block ends.

    Raises:
        ValueError: a memory layer of the model stands in place of a feed-forward, which is gone.
    """
    attached = [module for module in model.modules() if isinstance(module, AttachedMemory)]
    if len(attached) != len(memory_layers(model)) or any(one.feed_forward is None for one in attached):
        raise ValueError("the feed-forward that a memory layer replaced is gone; only added memory can be left out")
    try:
        for one in attached:
            one.on = False
        yield
    finally:
        for one in attached:
            one.on = True


@torch.no_grad()
def feed_forwards(model) -> list[FeedForward]:
    """The feed-forward of every block, first to last.

    Raises:
        ValueError: it can't be found; the message says what was looked for.
    """
    blocks = text_blocks(model)
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}  # in the order of their ends

    def record(module, args, kwargs, output):
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.setdefault(module, []).append((args[0], output))

    training = model.training
    model.eval()
    handles = [module.register_forward_hook(record, with_kwargs=True) for block in blocks for module in block.modules()]
    try:
        ids = torch.arange(4, device=model.get_input_embeddings().weight.device).unsqueeze(0) + 1
        model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
        return [_feed_forward(model, block, number, calls) for number, block in enumerate(blocks)]
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)


def check_fits(numbers: int, like: Tensor, empty: bool = False) -> None:
    """Raise ValueError if a value table of that many numbers can't fit in what memory is free now.

    Args:
        empty: Whether it begins with zeros: on a CPU, in float32, room is then needed for what is written to it alone.
    """
    from psutil import virtual_memory

    cuda, lazy = like.device.type == "cuda", empty and like.device.type == "cpu" and like.element_size() <= 4
    needed = numbers * max(like.element_size(), 4) * (WRITTEN if lazy else 1)
    free = torch.cuda.mem_get_info(like.device)[0] if cuda else virtual_memory().available
    if needed > free:
        sizes = f"{needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        raise ValueError(f"the value table needs {sizes} on {like.device}; use fewer slots or a smaller value_dim")


POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")


def max_positions(model) -> int | None:
    """How many tokens a model reads at most; None where its config sets no limit."""
    for config in (_text(model), model.config):
        for name in POSITIONS:
            if isinstance(most := getattr(config, name, None), int) and most > 0:
                return most
    return None


def _text(model):
    return model.config.get_text_config()


def _chosen(layers: Sequence[int] | int, count: int) -> list[int]:
    asked = [layers] if isinstance(layers, int) else list(layers)
    if not asked or not all(-count <= one < count for one in asked):
        raise ValueError(f"layers must name blocks between 0 and {count - 1}, not {asked}")
    return sorted({one % count for one in asked})


def text_blocks(model) -> nn.ModuleList:
    count = getattr(_text(model), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    name = type(model).__name__
    raise ValueError(f"{name}: no list of {count} blocks (config.num_hidden_layers) in it, so no place for a memory")


def _feed_forward(model, block: nn.Module, number: int, calls: dict) -> FeedForward:
    found: list[tuple[str, nn.Module]] = []
    for name, module in block.named_modules():
        inside = any(name.startswith(outer + ".") for outer, _ in found)
        if name and not inside and len(calls.get(module, ())) == 1 and _matrices(module) > 1:
            (x, y) = calls[module][0]
            if x.shape == y.shape and _by_itself(module, x):
                found.append((name, module))
    if found:
        name = max(found, key=lambda one: sum(p.numel() for p in one[1].parameters()))[0]
        parent, _, last = name.rpartition(".")
        return FeedForward(block.get_submodule(parent), last)
    children = {module: name for name, module in block.named_children()}
    called = [module for module in calls if module in children]
    for first, between, last in zip(called, called[1:], called[2:], strict=False):
        if _matrices(first) == _matrices(last) == 1 and not _matrices(between):
            chain = [calls[module][0] for module in (first, between, last)]
            joined = chain[0][1] is chain[1][0] and chain[1][1] is chain[2][0]
            if joined and chain[0][0].shape == chain[2][1].shape:
                parts = tuple(children[module] for module in (first, between, last))
                return FeedForward(block, parts[0], parts)
    raise ValueError(
        f"{type(model).__name__}, block {number} ({type(block).__name__}): no feed-forward found. Looked for a module "
        "with at least two weight matrices that takes hidden states alone, returns them in the same shape and works on "
        "every position by itself, or for matrix, activation, matrix called in a row"
    )


def _matrices(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _by_itself(module: nn.Module, x: Tensor) -> bool:
    """Whether another first position leaves what comes out at the others the same (attention looks back at it)."""
    other = x.clone()
    positions = other.view(-1, other.shape[-1])
    positions[0] = positions[1:].mean(0) + 1
    try:
        one, two = (module(y).reshape(-1, y.shape[-1])[1:] for y in (x, other))
    except Exception:  # it takes more than hidden states, so it is no feed-forward
        return False
    return torch.allclose(one, two, rtol=1e-2, atol=1e-2 * one.abs().max().item())
