"""What a model's attention lets a position see, found out by gradients: a number that isn't seen has a gradient of 0.

Only where every block sees all that stands before, and nothing else, do texts that begin alike come out the same when
they share a row (see `packing`). A window, chunks or a prefix that sees ahead show in no loss until a text is long
enough, so this is asked for every length that is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smft_lab.finetuning.engine.packing import Form
from smft_lab.model.attach import max_positions, text_blocks
from smft_lab.model.hooks import HookScope
from smft_lab.model.memory import value_tables

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

STEP = 128  # tokens; a model is asked about lengths of that, and of multiples
_CAUSAL: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()  # of a model and how it is made: lengths, see below


def is_plain_causal(model, ids: Sequence[int], made: tuple) -> bool:
    """Whether each block of a model sees, in a text as long as `ids`, all that stands before and nothing else.

    Args:
        made: What its answer depends on, but for weights.
    """
    lengths = _CAUSAL.setdefault(model, {}).setdefault(made, {})
    length = len(ids)
    if any(known >= length for known, plain in lengths.items() if plain):
        return True
    if any(known <= length for known, plain in lengths.items() if not plain):
        return False
    most = max_positions(model) or length
    for tried in dict.fromkeys((max(length, min(most, -(-length // STEP) * STEP)), length)):
        text = (list(ids) * (tried // length + 1))[:tried]
        inputs = {"input_ids": torch.tensor([text], device=model.device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        middle, every = tried // 2, torch.arange(tried, device=model.device)
        lengths[tried] = _sees(model, inputs, {(0, tried - 1): every >= 0, (0, middle): every <= middle})
        if lengths[tried]:
            return True
    return False


def takes_trees(model, form: Form) -> bool:
    """Whether, of packed trees, each block of a model lets a token see its ancestors and nothing else."""
    sees = form.inputs["attention_mask"][:, 0] == 0  # (G, U, U)
    last = (sees.sum(-1) > 1).float().cumsum(1).argmax(1)  # (G,): of each tree; what follows is padding
    wanted = {(row, place): sees[row, place] for row, place in enumerate(last.tolist())}
    return _sees(model, form.inputs, wanted)


def _sees(model, inputs: dict[str, Tensor], wanted: dict[tuple[int, int], Bool[Tensor, " T"]]) -> bool:
    """Whether what comes out of each block at (row, place) depends on the wanted places of the row, and no other.

    A block without attention may also see its own place alone.
    """
    passed: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    attends = False
    with _plain_lookups(model), torch.enable_grad():
        try:
            blocks = list(text_blocks(model))
            with _recorded(blocks, passed):
                model(**inputs, use_cache=False)
        except Exception:  # whatever a foreign architecture does with a length or a mask; it is then run plainly
            return False
        for block in blocks:
            if block not in passed:
                return False  # it gets its hidden states in a way that is not known
            x, y = passed.pop(block)
            generator = torch.Generator().manual_seed(0)
            probe = torch.randn(y.shape[-1], generator=generator).to(y.device, y.dtype)  # a sum can be constant
            for (row, place), places in wanted.items():
                (grad,) = torch.autograd.grad(y[row, place] @ probe, x, retain_graph=True)
                seen = grad[row].ne(0).any(-1)
                if torch.equal(seen, places):
                    attends = True
                elif _has_attention(block) or seen.sum() != 1 or not seen[place]:
                    return False
    return attends


@contextmanager
def _recorded(
    blocks: Sequence[nn.Module], passed: dict[nn.Module, tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]]
) -> Iterator[None]:
    """Keep what goes into each block, as a leaf, and what comes out of it."""
    leaves: dict[nn.Module, Tensor] = {}

    def enter(module, args, kwargs):
        x = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(x, Tensor) or x.ndim != 3:
            return None
        leaves[module] = x = x.detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def leave(module, args, output):
        y = output if isinstance(output, Tensor) else output[0]
        if module in leaves and y.shape == leaves[module].shape:
            passed[module] = leaves[module], y

    with HookScope() as scope:
        for block in blocks:
            scope.pre_hook(block, enter, with_kwargs=True)
            scope.hook(block, leave)
        yield


@contextmanager
def _plain_lookups(model) -> Iterator[None]:
    """No selection of rows is asked for in a backward pass, until the block ends."""
    before = [(table, table._hits) for table in value_tables(model)]
    try:
        for table, _ in before:
            table._hits = None
        yield
    finally:
        for table, hits in before:
            table._hits = hits


def _has_attention(block: nn.Module) -> bool:
    return any("attention" in type(module).__name__.lower() for module in block.modules())
