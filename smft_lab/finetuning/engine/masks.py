"""What a model's attention lets a position see, and whether texts that begin alike may share a row in it.

A block is asked by gradients: a number that isn't seen has a gradient of 0. Only where every block sees all that stands
before, and nothing else, do texts that begin alike come out the same when they share a row (see `packing`). A window,
chunks or a prefix that sees ahead show in no loss until a text is long enough, and a bias by distance in a row hardly
shows until the row is long; so this is asked for every length of a text, and of a row, that is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smft_lab.model.attach import max_positions, text_blocks
from smft_lab.model.hooks import HookScope
from smft_lab.model.memory import value_tables

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from transformers import PreTrainedModel

STEP = 128  # tokens; a model is asked about lengths of that, and of multiples
BEGINNING = 8  # tokens of a text that must come out the same without the rest
TOLERANCE = 1e-4  # of the largest number, in float32
_CAUSAL: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()  # of a model and how it is made: lengths, see below
_TREES: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()


def is_plain_causal(model: PreTrainedModel, ids: Sequence[int], made: int, rounded: bool = False) -> bool:
    """Whether each block of a model sees, in a text as long as `ids`, all that stands before and nothing else.

    Args:
        made: What its answer depends on, but for weights.
        rounded: Whether its products are made with rounded weights.
    """

    def plain(tried: int) -> bool:
        text = (list(ids) * (tried // len(ids) + 1))[:tried]
        passed, begun = (_passed(model, _row(model, part)) for part in (text, text[:BEGINNING]))
        if passed is None or begun is None:
            return False
        middle, every = tried // 2, torch.arange(tried, device=model.device)
        wanted = {(0, tried - 1): every >= 0, (0, middle): every <= middle}
        return _sees(passed, wanted) and _same(passed, begun, every[:BEGINNING], rounded)

    most = max_positions(model) or len(ids)
    lengths = _CAUSAL.setdefault(model, {}).setdefault(made, {})
    return _asked(lengths, len(ids), max(len(ids), min(most, _rounded_up(len(ids)))), plain)


def takes_trees(model: PreTrainedModel, ids: Sequence[int], size: int, made: int, rounded: bool = False) -> bool:
    """Whether, of trees of so many tokens, each block of a model lets a token see its ancestors and nothing else.

    A tree is tried in which the text `ids` is the last branch, behind others that begin alike. It must come out as
    the text does alone: how far away a token is, too, is then counted along its branch.

    Args:
        made, rounded: See `is_plain_causal`.
    """

    def fit(tried: int) -> bool:
        inputs, sees, path = _tree(model, list(ids), half, tried)
        passed, alone = _passed(model, inputs), _passed(model, _row(model, ids))
        if passed is None or alone is None:
            return False
        wanted = {(0, place): sees[place] for place in path[[half, -1]].tolist()}
        return _sees(passed, wanted) and _same(passed, alone, path, rounded)

    half = len(ids) // 2

    if not half:
        return False
    return _asked(_TREES.setdefault(model, {}).setdefault(made, {}), size, _rounded_up(size), fit)


def _asked(known: dict[int, bool], length: int, more: int, ask: Callable[[int], bool]) -> bool:
    """Whether something holds for a length: where it does for a longer one, it does; where not for a shorter, not."""
    if any(other >= length for other, holds in known.items() if holds):
        return True
    if any(other <= length for other, holds in known.items() if not holds):
        return False
    for tried in dict.fromkeys((more, length)):
        known[tried] = ask(tried)
        if known[tried]:
            return True
    return False


def _rounded_up(length: int) -> int:
    return -(-length // STEP) * STEP


def _row(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, Tensor]:
    """A text as a row of its own."""
    inputs = {"input_ids": torch.tensor([list(ids)], device=model.device)}
    return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


def _tree(model: PreTrainedModel, ids: list[int], half: int, size: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A packed row of `size` tokens, whose last branch is a text from its token `half` on.

    Returns:
        What to call the model with; (U, U) what each token is to see; and (T,) where the text's tokens are.
    """
    root, branch = ids[:half], ids[half:]
    room = max(0, size - len(ids))
    others = [branch[::-1][: room - begins] for begins in range(0, room, len(branch))]
    tokens, depths = list(root), list(range(half))
    for part in (*others, branch):
        tokens += part
        depths += range(half, half + len(part))
    sees = torch.block_diag(*(torch.ones(len(part), len(part)) for part in (root, *others, branch))).tril() > 0
    sees[half:, :half] = True
    mask = torch.zeros(sees.shape, dtype=model.dtype).masked_fill_(~sees, torch.finfo(model.dtype).min)
    inputs = {"input_ids": torch.tensor([tokens]), "attention_mask": mask[None, None]}
    inputs["position_ids"] = torch.tensor([depths])
    path = torch.cat([torch.arange(half), torch.arange(len(tokens) - len(branch), len(tokens))])
    return {name: x.to(model.device) for name, x in inputs.items()}, sees.to(model.device), path.to(model.device)


Passed = Mapping[nn.Module, tuple[Tensor, Tensor]]


def _passed(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Passed | None:
    """What goes into each block, as a leaf, and what comes out of it, (B, T, D) both; None where that can't be told."""
    passed: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    with _plain_lookups(model), torch.enable_grad():
        try:
            blocks = list(text_blocks(model))
            with _recorded(blocks, passed):
                model(**inputs, use_cache=False)
        except Exception:  # whatever a foreign architecture does with a length or a mask; it is then run plainly
            return None
    return passed if all(block in passed for block in blocks) else None


def _sees(passed: Passed, wanted: Mapping[tuple[int, int], Bool[Tensor, " T"]]) -> bool:
    """Whether what comes out of each block at (row, place) depends on the wanted places of the row, and no other.

    A block without attention may also see its own place alone.
    """
    attends = False
    for block, (x, y) in passed.items():
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


def _same(passed: Passed, alone: Passed, places: Tensor, rounded: bool) -> bool:
    """Whether the places of one row come out of each block as another row does, up to rounding."""
    for block, (_, y) in passed.items():
        packed, expected = y[0, places].detach().float(), alone[block][1][0].detach().float()
        eps = torch.finfo(torch.bfloat16 if rounded else y.dtype).eps
        largest = expected.abs().max().item()
        if not torch.allclose(packed, expected, rtol=0, atol=max(TOLERANCE, 8 * eps) * largest):
            return False
    return True


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
def _plain_lookups(model: nn.Module) -> Iterator[None]:
    """No selection of rows is asked for in a backward pass, until the block ends."""
    before = [(table, table.hits) for table in value_tables(model)]
    try:
        for table, _ in before:
            table.hits = None
        yield
    finally:
        for table, hits in before:
            table.hits = hits


def _has_attention(block: nn.Module) -> bool:
    return any("attention" in type(module).__name__.lower() for module in block.modules())
