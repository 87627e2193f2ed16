"""Giving a finished Hugging Face model memory layers: found by structure, in place of its feed-forward or beside it.

A feed-forward is what works on every position by itself: of the modules of a transformer block, the one with weight
matrices that takes hidden states (B, T, D), gives hidden states back, and whose output at a position doesn't change
with what stands elsewhere. One forward pass over a few tokens tells. Where a block has no such module, but calls
matrix, activation, matrix one after the other (OPT), those three are made into one first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smft_lab.model.autoclass import CONFIG_KEY, check_own_weights, check_plain, check_trainable, keep_when_saved
from smft_lab.model.drawing import drawn_from
from smft_lab.model.hooks import HookScope
from smft_lab.model.memory import MemoryLayer, ValueTable, memory_layers
from smft_lab.model.modes import evaluating

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel

WRITTEN = 1 / 8  # of a table; facts by the hundred write that much
MODES = ("replace", "add")
TOKENS = 7  # of the text that shows where a model's feed-forwards are


class AttachedMemory(nn.Module):
    """A memory layer where a feed-forward was, or the sum of both.

    Attributes:
        memory: The `MemoryLayer`.
        feed_forward: What stood here, in mode `add`; None in mode `replace`.
        residual, outputs: See `FeedForward`.
        left_out: While there is one, tells whether the memory takes no part; see `without_memory`.
    """

    def __init__(self, memory: MemoryLayer, feed_forward: nn.Module | None, residual: bool = False, outputs: int = 0):
        super().__init__()
        self.feed_forward = feed_forward
        self.memory = memory
        self.residual, self.outputs = residual, outputs
        self.left_out: Callable[[], bool] | None = None

    @property
    def on(self) -> bool:
        """Whether the memory takes part."""
        return self.left_out is None or not self.left_out()

    def forward(self, *args, **kwargs):
        """Hidden states x (..., D), and what else the feed-forward takes -> (..., D), or what it gives with that first.

        Some models join batch and tokens before their feed-forward.
        """
        if self.feed_forward is not None and not self.on:
            return self.feed_forward(*args, **kwargs)
        x: Tensor = args[0] if args else next(kwargs[name] for name in ("hidden_states", "x") if name in kwargs)
        read = self.memory(x if x.ndim == 3 else x.unsqueeze(0)).view_as(x)
        if self.feed_forward is None:
            read = read + args[1] if self.residual else read
            return (read, *(None,) * (self.outputs - 1)) if self.outputs else read
        out = self.feed_forward(*args, **kwargs)
        if self.outputs:
            return out[0] + read.view_as(out[0]).to(out[0].dtype), *out[1:]
        return out + read.view_as(out).to(out.dtype)


@dataclass(frozen=True)
class FeedForward:
    """Where the feed-forward of one block is: `parent.name`, in place of which a memory layer can stand.

    Attributes:
        parts: Names of three children of `parent` (matrix, activation, matrix), where no single module holds them.
        residual: Whether it takes the residual too, and adds it.
        outputs: Of how many it gives a tuple, hidden states first; 0 where it gives hidden states alone.
    """

    parent: nn.Module
    name: str
    parts: tuple[str, ...] = ()
    residual: bool = False
    outputs: int = 0

    @property
    def module(self) -> nn.Module:
        if not self.parts:
            return getattr(self.parent, self.name)
        return nn.Sequential(*(getattr(self.parent, part) for part in self.parts))

    @property
    def entry(self) -> nn.Module:
        """The module of the model that gets the feed-forward's hidden states."""
        return getattr(self.parent, self.parts[0] if self.parts else self.name)

    def put(self, attached: AttachedMemory) -> None:
        """Put a memory there, in the mode, training or not, of what it stands in."""
        training = self.parent.training
        attached.memory.train(training)
        for part in self.parts[1:]:
            setattr(self.parent, part, nn.Identity().train(training))
        if self.parts and attached.feed_forward is not None:
            attached.feed_forward.training = training
        attached.training = training
        setattr(self.parent, self.name, attached)


@torch.inference_mode(False)  # its weights are to be trained, whoever calls
def add_memory(
    model: PreTrainedModel,
    layers: Sequence[int] | int,
    slots: int,
    *,
    mode: str = "add",
    heads: int = 4,
    k: int = 8,
    key_dim: int = 64,
    value_dim: int | None = None,
    qk_norm: bool = True,
    gate: bool = True,
    project: bool = True,
    whiten: bool = False,
    threshold: bool = False,
    shared: bool = True,
    seed: int = 0,
) -> PreTrainedModel:
    """Give a `transformers` causal language model memory layers; the model is changed in place, and returned.

    Args:
        model: Any causal language model whose blocks have a feed-forward that can be found (see the module's text).
        layers: Which blocks, from 0; negative numbers count from the end.
        slots, heads, k, key_dim, value_dim, qk_norm, gate, project, whiten, threshold: See `MemoryLayer`.
        mode: `replace`, the memory layer takes the place of the feed-forward, as in the paper: the model must be
            trained again before it speaks; or `add`, beside it and with a table of zeros: logits are bitwise unchanged
            until something is trained.
        shared: Whether all memory layers read one value table (Memory+), or each its own.
        seed: Of the new weights.

    Raises:
        ValueError: an option is out of range, the model has memory layers already, no feed-forward can be found in
            it, or a table of that size fits in no memory here.

    Examples:
        >>> model = smft.add_memory(plain, layers=[1], slots=256)
        >>> len(smft.value_tables(model))
        1
    """
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    places = check_attachable(model)
    chosen = _chosen(layers, places)
    width = _text(model).hidden_size
    taken = [place for number in chosen if (place := places[number]) is not None]
    old = [place.module for place in taken]
    like = [next(module.parameters()) for module in old]
    check_fits(slots * (value_dim or width) * (1 if shared else len(chosen)), like[0], empty=mode == "add")
    values, made = None, []
    with drawn_from(seed):
        for place, feed_forward, parameter in zip(taken, old, like, strict=True):
            if mode == "add" and values is None:
                values = ValueTable(slots, value_dim or width, empty=True)
            shape = (width, slots, heads, k, key_dim, value_dim, qk_norm)
            memory = MemoryLayer(*shape, values, gate, project, whiten, threshold)
            memory.to(device=parameter.device, dtype=parameter.dtype)
            values = memory.values if shared else None
            made.append(AttachedMemory(memory, feed_forward if mode == "add" else None, place.residual, place.outputs))
    asked = {"layers": chosen, "slots": slots, "mode": mode, "heads": heads, "k": k, "key_dim": key_dim}
    asked |= {"value_dim": value_dim, "qk_norm": qk_norm, "shared": shared}
    changed = {"gate": (gate, True), "project": (project, True)}  # from Memory+
    changed |= {"whiten": (whiten, False), "threshold": (threshold, False)}
    asked |= {name: value for name, (value, usual) in changed.items() if value != usual}
    with _all_or_nothing(model, taken):
        for place, attached in zip(taken, made, strict=True):
            place.put(attached)
        setattr(model.config, CONFIG_KEY, asked)
        keep_when_saved(model, _shared(model))
    return model


@contextmanager
def _all_or_nothing(model: PreTrainedModel, places: Sequence[FeedForward]) -> Iterator[None]:
    """Give a model a memory within the block; whatever stops it, an interrupt too, the model is as before."""
    changed = [vars(model), vars(model.config), *(place.parent._modules for place in places)]
    before = [dict(entries) for entries in changed]
    try:
        yield
    except BaseException:
        for entries, old in zip(changed, before, strict=True):
            entries.update(old)
            for name in entries.keys() - old.keys():
                del entries[name]
        raise


def check_attachable(model: PreTrainedModel, layers: Sequence[int] | None = None) -> list[FeedForward | None]:
    """The feed-forwards of a model that can be given a memory, beside these blocks if they are named.

    Raises:
        ValueError: it can't be; see `add_memory`.
    """
    check_plain(model)
    if memory_layers(model):
        raise ValueError("the model has memory layers already")
    check_own_weights(model)
    check_trainable(model)
    places = feed_forwards(model)
    if layers is not None:
        _chosen(layers, places)
    return places


def attached_at(model: nn.Module) -> list[str]:
    """Names of the modules that stand where a feed-forward was."""
    return [name for name, module in model.named_modules() if isinstance(module, AttachedMemory)]


def _shared(model: nn.Module) -> dict[str, str]:
    """State-dict names of the tables that a layer has in common with one before, and of that one's."""
    first: dict[ValueTable, str] = {}
    shared = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ValueTable) and first.setdefault(module, name) != name:
            shared[f"{name}.weight"] = f"{first[module]}.weight"
    return shared


@contextmanager
def without_memory(model: nn.Module) -> Iterator[None]:
    """Let the model compute as before `add_memory` in mode `add`, until the block ends.

    Raises:
        ValueError: a memory layer of the model stands in place of a feed-forward, which is gone.

    Examples:
        >>> model = smft.add_memory(plain, layers=[1], slots=256)
        >>> with smft.without_memory(model):
        ...     _ = model(ids)
    """
    attached = [module for module in model.modules() if isinstance(module, AttachedMemory)]
    if len(attached) != len(memory_layers(model)) or any(memory.feed_forward is None for memory in attached):
        raise ValueError("the feed-forward that a memory layer replaced is gone; only added memory can be left out")
    before = [memory.left_out for memory in attached]
    with HookScope() as scope:
        try:
            for memory in attached:
                memory.left_out = scope.lasts
            yield
        finally:
            for memory, left_out in zip(attached, before, strict=True):
                memory.left_out = left_out


def middle_block(model: PreTrainedModel) -> int:
    """The block nearest the middle that has a feed-forward.

    Raises:
        ValueError: see `feed_forwards`.
    """
    places = feed_forwards(model)
    with_one = [block for block, place in enumerate(places) if place is not None]
    return min(with_one, key=lambda block: abs(block - len(places) // 2))


@torch.inference_mode(False)  # gradients are asked for, whoever calls
@torch.no_grad()
def feed_forwards(model: PreTrainedModel) -> list[FeedForward | None]:
    """The feed-forward of every block, first to last; None for a block that has none, as in hybrids.

    Raises:
        ValueError: no block has one; the message says what was looked for. Or the model is an encoder-decoder.
    """
    blocks = text_blocks(model)
    calls: dict[nn.Module, list[_Call]] = {}  # in the order of their ends

    def record(module, args, kwargs, output):
        if (call := _Call.of(args, kwargs, output)) is not None:
            calls.setdefault(module, []).append(call)

    embeddings = input_weight(model)
    ids = (torch.arange(TOKENS, device=embeddings.device).unsqueeze(0) + 1) % len(embeddings)
    with evaluating(model):
        with HookScope() as scope:
            for block in blocks:
                for module in block.modules():
                    scope.hook(module, record, with_kwargs=True)
            try:
                out = model(input_ids=ids, labels=ids, use_cache=False)
            except Exception as problem:
                needed = f"{type(model).__name__} can't be run on token ids and labels alone, as a memory needs it"
                raise ValueError(f"{needed}: {type(problem).__name__}: {problem}") from problem
        if not isinstance(getattr(out, "loss", None), Tensor) or not isinstance(getattr(out, "logits", None), Tensor):
            given = f"{type(model).__name__} gives a {type(out).__name__} without loss and logits by name"
            raise ValueError(f"{given}, as a memory needs them")
        places = [_feed_forward(block, calls) for block in blocks]
    if any(places):
        return places
    raise ValueError(
        f"{type(model).__name__}, block 0 ({type(blocks[0]).__name__}): no feed-forward found. Looked for a module "
        "with at least two weight matrices that takes hidden states, returns them in the same shape and works on "
        "every position by itself, or for matrix, activation, matrix called in a row"
    )


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


def max_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a model reads at most; None where its config sets no limit."""
    for config in (_text(model), model.config):
        for name in POSITIONS:
            if isinstance(most := getattr(config, name, None), int) and most > 0:
                return most
    return None


def input_weight(model: PreTrainedModel) -> Float[Tensor, "V D"]:
    """The embedding of each token."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def output_layer(model: PreTrainedModel) -> nn.Module:
    """What makes logits of the last hidden states; `check_plain` refuses a model without."""
    head = model.get_output_embeddings()
    assert head is not None
    return head


def check_embedded(model: PreTrainedModel, ids: Tensor | Sequence[int]) -> None:
    """Raise ValueError if the model has no embedding for one of some token ids: on a GPU, to look it up would end the
    process."""
    known = len(input_weight(model))
    most = int(ids.max()) if isinstance(ids, Tensor) else max(ids, default=0)
    if most >= known:
        raise ValueError(
            f"token {most} of the tokenizer has no embedding: the model knows {known:,} tokens. Use the tokenizer that "
            "the model came with; or, for one with tokens of your own, call model.resize_token_embeddings("
            "len(tokenizer)) before the model is given a memory"
        )


def check_readable(model: PreTrainedModel, ids: Tensor) -> None:
    """Raise ValueError if the texts of a batch, (texts, tokens), are longer than the model reads, which could take all
    memory; or one of their tokens has no embedding."""
    check_embedded(model, ids)
    length, most = ids.shape[1], max_positions(model)
    if most is not None and length > most:
        raise ValueError(f"the text is {length} tokens long, and the model reads {most}; shorten it")


def _text(model: PreTrainedModel):
    return model.config.get_text_config()


def _chosen(layers: Sequence[int] | int, places: Sequence[FeedForward | None]) -> list[int]:
    asked, count = [layers] if isinstance(layers, int) else list(layers), len(places)
    if not asked or not all(-count <= block < count for block in asked):
        raise ValueError(f"layers must name blocks between 0 and {count - 1}, not {asked}")
    chosen = sorted({block % count for block in asked})
    if without := [number for number in chosen if places[number] is None]:
        known = ", ".join(str(number) for number, place in enumerate(places) if place is not None)
        raise ValueError(f"block {without[0]} has no feed-forward; blocks that have one: {known}")
    return chosen


def text_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks of a model's text decoder.

    Raises:
        ValueError: there is no list of as many as its config says, or the model is an encoder-decoder.
    """
    name, config = type(model).__name__, _text(model)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder; a memory needs a causal language model, such as its decoder")
    count = getattr(config, "decoder_layers", None) or getattr(config, "num_hidden_layers", None)
    for module in _of_text(model, (type(model.config), type(config))):
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{name}: no list of {count} blocks (as its config says) in it, so no place for a memory")


def _of_text(module: nn.Module, configs: tuple[type, ...]) -> Iterator[nn.Module]:
    """A module and all in it, but for models of their own kind within it, such as a vision tower."""
    yield module
    for child in module.children():
        if not hasattr(child, "base_model_prefix") or isinstance(child.config, configs):
            yield from _of_text(child, configs)


@dataclass(frozen=True)
class _Call:
    """How a module was called: with hidden states x, and what else; y is what came back for x."""

    x: Tensor
    args: tuple
    kwargs: dict
    y: Tensor
    outputs: int

    @classmethod
    def of(cls, args: tuple, kwargs: dict, output) -> _Call | None:
        """None where it isn't one of hidden states and of what belongs to each of them."""
        name = next((name for name in ("hidden_states", "x") if name in kwargs), None)
        x = args[0] if args else kwargs.get(name)
        outputs = len(output) if isinstance(output, tuple) else 0
        y = output[0] if outputs else output
        others = [*args[1:], *(value for key, value in kwargs.items() if args or key != name)]
        if (
            not isinstance(x, Tensor)
            or not isinstance(y, Tensor)
            or not all(_of_positions(value, x) for value in others)
        ):
            return None
        return cls(x, args, kwargs, y, outputs)

    def again(self, module: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """What comes out for other hidden states, and another first argument after them, if given."""
        if not self.args:
            name = next(name for name in ("hidden_states", "x") if name in self.kwargs)
            output = module(**{**self.kwargs, name: x})
        else:
            rest = self.args[1:] if residual is None else (residual, *self.args[2:])
            output = module(x, *rest, **self.kwargs)
        return output[0] if self.outputs else output

    @property
    def in_order(self) -> bool:
        """Whether the hidden states were those of one text, one after the other."""
        return self.x.shape[:-1] in ((1, TOKENS), (TOKENS,))

    @property
    def simple(self) -> bool:
        """Whether it was of one tensor, and gave one."""
        return len(self.args) == 1 and not self.kwargs and not self.outputs


def _of_positions(value, x: Tensor) -> bool:
    """Whether an argument holds something for each position by itself, or nothing."""
    if isinstance(value, Tensor):
        return value.shape[: x.ndim - 1] == x.shape[:-1]
    return value is None or isinstance(value, bool | int | float)


def _feed_forward(block: nn.Module, calls: dict[nn.Module, list[_Call]]) -> FeedForward | None:
    lists: list[tuple[str, nn.Module]] = []
    for name, module in block.named_modules():
        inside = any(name.startswith(outer + ".") for outer, _ in lists)
        if name and not inside and len(calls.get(module, ())) == 1 and _matrices(module) > 1:
            (call,) = calls[module]
            if call.in_order and call.x.numel() == call.y.numel() and _by_itself(module, call):
                lists.append((name, module))
    if lists:
        name, module = max(lists, key=lambda named: sum(p.numel() for p in named[1].parameters()))
        parent, _, last = name.rpartition(".")
        (call,) = calls[module]
        return FeedForward(block.get_submodule(parent), last, (), _adds_residual(module, call), call.outputs)
    children = {module: name for name, module in block.named_children()}
    called = [module for module in calls if module in children and len(calls[module]) == 1 and calls[module][0].simple]
    for first, between, last in zip(called, called[1:], called[2:], strict=False):
        if _matrices(first) == _matrices(last) == 1 and not _matrices(between):
            chain = [calls[module][0] for module in (first, between, last)]
            joined = chain[0].y is chain[1].x and chain[1].y is chain[2].x
            if joined and chain[0].x.shape == chain[2].y.shape:
                parts = tuple(children[module] for module in (first, between, last))
                return FeedForward(block, parts[0], parts)
    return None


def _matrices(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _by_itself(module: nn.Module, call: _Call) -> bool:
    """Whether what comes out at other positions has nothing of the first in it (attention looks back at it)."""
    x = call.x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            y = call.again(module, x * 1).reshape(-1, x.shape[-1])
            probe = torch.randn(y.shape[-1], generator=torch.Generator().manual_seed(0)).to(y.device, y.dtype)
            (grad,) = torch.autograd.grad((y[1:] @ probe).sum(), x)
    except Exception:  # it takes more than hidden states, so it is no feed-forward
        return False
    return not grad.reshape(-1, x.shape[-1])[0].any()


def _adds_residual(module: nn.Module, call: _Call) -> bool:
    """Whether it adds a second argument to what it computes of the first, as BLOOM's does."""
    residual = call.args[1] if len(call.args) > 1 else None
    if not isinstance(residual, Tensor) or residual.shape != call.x.shape or not residual.is_floating_point():
        return False
    moved = call.again(module, call.x, residual + 1) - call.again(module, call.x)
    return torch.allclose(moved, torch.ones_like(moved), atol=1e-2)
