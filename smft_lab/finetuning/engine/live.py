"""Positions that training cannot change are computed once per run: their attention keys and values are kept.

Where the slots that may change were chosen beforehand, a position is *live* if it reads one of them, if it follows one
that does, or if a label is predicted there. All others stay as they are from the first step to the last, layer by
layer; live positions only need to attend to them. In a few-shot prompt that is most of the text. What stands behind a
text's last label is not needed at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from smft_lab.finetuning.engine.packing import Form

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64, Shaped


@dataclass(frozen=True)
class Live:
    """The live positions of a packed form: G trees of U tokens, of which at most L are live and C are needed but not.

    Attributes:
        form: The live positions alone; its attention mask is (G, 1, L, C + L).
        places: Where in their tree they were; rows with fewer of them are filled up with other places.
        still: Where in their tree those are that are not live; -1 in rows with fewer.
        positions: U.
    """

    form: Form
    places: Int64[Tensor, "G L"]
    still: Int64[Tensor, "G C"]
    positions: int

    def of(self, nested) -> Any:
        """What is given, of the live positions alone.

        Args:
            nested: A tensor (G, U, ...), or tuples and lists of such. Attention weights (G, heads, U, U), which are
                for whoever looks at them and go no further, become None.

        Raises:
            ValueError: a tensor has another shape.
        """
        index = self.places + self.positions * torch.arange(len(self.places), device=self.places.device).unsqueeze(1)
        return joined([nested], [(len(self.places), self.positions)], index)

    def past_of(
        self, keys: Mapping[int, tuple[Float[Tensor, "G _heads U _width"], Float[Tensor, "G _heads U _width"]]]
    ) -> dict[int, tuple[Float[Tensor, "G _heads C _width"], Float[Tensor, "G _heads C _width"]]]:
        """By layer of the model, keys and values of what is needed and not live.

        Args:
            keys: By layer, those of all positions.
        """
        if not self.still.shape[1]:
            return {}
        at = self.still.clamp(min=0)[:, None, :, None]

        def taken(x: Tensor) -> Tensor:
            return x.detach().gather(2, at.expand(-1, x.shape[1], -1, x.shape[3]))

        return {layer: (taken(k), taken(v)) for layer, (k, v) in keys.items()}


def joined(parts: Sequence, shapes: Sequence[tuple[int, int]], index: Int64[Tensor, "G L"]) -> Any:
    """What some forms have of each of their positions, at other places.

    Args:
        parts: Of each form, a tensor (G, U, ...), or tuples and lists of such. Attention weights (G, heads, U, U),
            which are for whoever looks at them and go no further, become None.
        shapes: (G, U) of each form.
        index: Where the positions are in the flattened forms, one after another.

    Raises:
        ValueError: a tensor has another shape.
    """
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, tuple | list):
        return type(first)(joined(same, shapes, index) for same in zip(*parts, strict=True))
    if isinstance(first, Tensor) and first.ndim == 4 and first.shape[2:] == (shapes[0][1], shapes[0][1]):
        return None
    if any(not isinstance(x, Tensor) or x.shape[:2] != shape for x, shape in zip(parts, shapes, strict=True)):
        raise ValueError("what was kept of a batch has no place for each of its tokens")
    return torch.cat([x.flatten(0, 1) for x in parts])[index]


def live_positions(
    form: Form, reads: Int64[Tensor, "G U H k"], chosen: Int64[Tensor, " rows"]
) -> tuple[Bool[Tensor, "G U"], Bool[Tensor, "G U"]]:
    """Which positions of a packed form the loss depends on, and of these, which ones training can change.

    Args:
        reads: Slots that each position reads.
        chosen: The slots that may change, ascending.

    Returns:
        Those that training can change and those that it can't.
    """
    G, U = form.inputs["input_ids"].shape
    sees = form.inputs["attention_mask"][:, 0] == 0  # (G, U, U): a token sees its ancestors and itself
    predicting = torch.zeros(G, U, dtype=torch.bool, device=sees.device)
    predicting.view(-1)[form.targets.predicting] = True
    needed = (sees & predicting.unsqueeze(2)).any(1)
    live = torch.isin(reads, chosen.to(reads.device)).view(G, U, -1).any(-1) | predicting
    live = (sees & live.unsqueeze(1)).any(-1)
    return needed & live, needed & ~live


def before_last_label(labels: Int64[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """What stands before a text's last label; the loss depends on nothing else."""
    left = (labels != -100).flip(1).cumsum(1).flip(1)  # labels there or later
    return functional.pad(left[:, 1:], (0, 1)) > 0


def live_part(form: Form, live: Bool[Tensor, "G U"], still: Bool[Tensor, "G U"]) -> Live:
    """The live part of a form.

    Args:
        live, still: See `live_positions`.
    """
    (G, U), device = live.shape, live.device
    places, real = _gathered(live)
    still, known = _gathered(still)
    mask = form.inputs["attention_mask"]
    low = torch.finfo(mask.dtype).min
    rows = mask[:, 0].gather(1, places.unsqueeze(-1).expand(-1, -1, U))  # (G, L, U)
    L = places.shape[1]
    of_still = _columns(rows, still).masked_fill(~known.unsqueeze(1), low)
    of_live = _columns(rows, places).masked_fill(~real.unsqueeze(1), low)
    own = torch.eye(L, dtype=torch.bool, device=device).unsqueeze(0)
    of_live = of_live.masked_fill(own & ~real.unsqueeze(1), 0)  # whoever fills up a row sees itself
    now = torch.full((G * U,), -1, device=device)
    flat = (torch.arange(G, device=device).unsqueeze(1) * U + places)[real]
    now[flat] = torch.arange(G * L, device=device).view(G, L)[real]
    inputs = {
        "input_ids": _taken(form.inputs["input_ids"], places),
        "attention_mask": torch.cat([of_still, of_live], -1).unsqueeze(1),
        "position_ids": _taken(form.inputs["position_ids"], places),
    }
    targets = replace(form.targets, predicting=now[form.targets.predicting])
    counted = _taken(form.counted, places) * real
    of_text = now[form.places.clamp(min=0)].masked_fill(form.places < 0, -1)
    return Live(Form(inputs, counted, targets, of_text), places, still.masked_fill(~known, -1), U)


class KeptKeys(DynamicCache):
    """Keeps the keys and values that each layer makes, and gives them back as they are."""

    def __init__(self):
        super().__init__()
        self.by_layer: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        self.by_layer[layer_idx] = key_states, value_states
        return key_states, value_states


class PastKeys(DynamicCache):
    """Puts known keys and values before those that each layer makes, and keeps nothing."""

    def __init__(self, past: dict[int, tuple[Tensor, Tensor]]):
        super().__init__()
        self.past = past

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        if layer_idx not in self.past:
            return key_states, value_states
        keys, values = self.past[layer_idx]
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return next((keys.shape[2] for keys, _ in self.past.values()), 0)


def _gathered(chosen: Bool[Tensor, "G U"]) -> tuple[Int64[Tensor, "G most"], Bool[Tensor, "G most"]]:
    """The places of each row that are chosen, in order, filled up to as many as the fullest row has, and which of them
    are no filling."""
    most = int(chosen.sum(1).max())
    places = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, chosen.gather(1, places)


def _taken(x: Shaped[Tensor, "G U *rest"], places: Int64[Tensor, "G L"]) -> Shaped[Tensor, "G L *rest"]:
    return x[torch.arange(len(x), device=x.device).unsqueeze(1), places]


def _columns(rows: Float[Tensor, "G L U"], places: Int64[Tensor, "G M"]) -> Float[Tensor, "G L M"]:
    return rows.gather(2, places.unsqueeze(1).expand(-1, rows.shape[1], -1))
