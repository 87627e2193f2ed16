"""Whether a model reads a text in a batch as it reads it alone, and whether its output layer alone makes its logits.

Neither is so of every model. Some count positions from where a row begins, whether that is padding or text; some see a
window, or a number of tokens, in which padding takes places; some change hidden states once more before their output
layer. So each is tried, once for a model and for a length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smft_lab.model.attach import input_weight, max_positions, output_layer

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from transformers import PreTrainedModel

STEP = 128  # tokens; a model is tried at multiples of it
TOLERANCE = 1e-3  # of the norm of the logits, in float32
HALF_TOLERANCE = 0.05
_TRIED: WeakKeyDictionary[nn.Module, dict[tuple, bool]] = WeakKeyDictionary()


def holds(model: PreTrainedModel, what: str, length: int, tried: Callable[[int], bool | None]) -> bool:
    """Whether something holds of a model for texts of that length.

    Args:
        what: Its name, under which the answer is kept.
        tried: Finds it out for a length, which is a multiple of `STEP` or what the model reads at most; None where that
            can't be told, as for a model whose logits aren't finite.
    """
    length = min(-(-length // STEP) * STEP, max_positions(model) or length + STEP)
    known = _TRIED.setdefault(model, {})
    key = what, length, str(model.dtype), getattr(model.config, "_attn_implementation", None)
    if key not in known:
        try:
            fits = tried(length)
        except Exception:  # whatever a foreign architecture does with padding or a cache
            fits = False
        if fits is None:
            return True
        known[key] = fits
    return known[key]


def stretched(ids: Sequence[int], length: int) -> list[int]:
    """Token ids over and over, up to a length."""
    return (list(ids) * (length // max(1, len(ids)) + 1))[:length]


def as_alone(model: PreTrainedModel, ids: Sequence[int], logits: Float[Tensor, " V"]) -> bool | None:
    """Whether these are the logits at the end of a text that is read alone, up to rounding; None if they aren't finite.

    Args:
        ids: Of the text.
    """
    expected = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0, -1].float()
    if not expected.isfinite().all():
        return None
    expected = expected - expected.mean()
    differing = (logits.float() - logits.float().mean() - expected).norm()
    tolerance = TOLERANCE if model.dtype.itemsize >= 4 else HALF_TOLERANCE
    return bool(differing <= tolerance * expected.norm())


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the output layer's alone, at the last hidden states of `model.base_model`."""

    def tried(length: int) -> bool | None:
        ids = torch.arange(1, 8, device=model.device)[None] % len(input_weight(model))
        logits = model(input_ids=ids).logits[0]
        if not logits.isfinite().all():
            return None
        best = output_layer(model)(model.base_model(input_ids=ids).last_hidden_state)[0].argmax(-1)
        return torch.equal(logits.gather(1, best[:, None])[:, 0], logits.amax(-1))

    return holds(model, "plain head", 1, tried)


def likeliest(
    model: PreTrainedModel,
    input_ids: Int64[Tensor, "B T"],
    attention_mask: Int64[Tensor, "B T"],
    rows: Int64[Tensor, " n"],
    columns: Int64[Tensor, " n"],
) -> Int64[Tensor, " n"]:
    """The likeliest token after each of some places of a batch that is padded on the right."""
    if not has_plain_head(model):
        return model(input_ids=input_ids, attention_mask=attention_mask).logits[rows, columns].argmax(-1)
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return output_layer(model)(hidden[rows, columns]).argmax(-1)


def in_batches(rows: Sequence[Sequence[int]], size: int, padded: bool = True) -> Iterator[list[int]]:
    """Indices of the rows in batches of like lengths, so that there is little padding.

    Args:
        padded: Whether a batch may be padded; else the lengths in it are equal.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    groups = [order] if padded else [list(group) for _, group in groupby(order, key=lambda i: len(rows[i]))]
    for group in groups:
        for first in range(0, len(group), size):
            yield group[first : first + size]


def takes_padding(model: PreTrainedModel, rows: Sequence[Sequence[int]], room: int, pad: int) -> bool:
    """Whether `generate` goes on from a text in the same way, with padding before it.

    Args:
        rows: Token ids of texts.
        room: How many tokens are written after them.
        pad: What they are padded with.
    """
    longest = max(rows, key=len)

    def tried(length: int) -> bool | None:
        long = stretched(longest, length - 1)  # and the token that is written
        short = long[: max(1, len(long) // 4)]
        blank = len(long) - len(short)
        both = torch.tensor([long, [pad] * blank + short], device=model.device)
        mask = torch.ones_like(both)
        mask[1, :blank] = 0
        given = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=both,
            attention_mask=mask,
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=pad,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return as_alone(model, short, given.logits[0][1])

    return holds(model, "padding", len(longest) + room, tried)
