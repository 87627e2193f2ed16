"""Positions that training cannot change are computed once per run: their attention keys and values are kept.

Where the slots that may change were chosen beforehand, a position is *live* if it reads one of them, if it follows one
that does, or if a label is predicted there. All others stay as they are from the first step to the last, layer by
layer; live positions only need to attend to them. In a few-shot prompt that is most of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from smft_lab.finetuning.packing import Form


@dataclass(frozen=True)
class Live:
    """The live positions of a packed form: G trees of U tokens, of which at most L are live and C are not.

    Attributes:
        form: The live positions alone; its attention mask is (G, 1, L, C + L).
        places: (G, L) where in their tree they were; rows with fewer of them are filled up with other places.
        past: By layer of the model, keys and values (G, heads, C, width) of the positions that are not live.
        positions: U.
    """

    form: Form
    places: Tensor
    positions: int
    past: dict[int, tuple[Tensor, Tensor]]

    def of(self, nested) -> Any:
        """What is given, of the live positions alone.

        Args:
            nested: A tensor (G, U, ...), or tuples and lists of such. Attention weights (G, heads, U, U), which are
                for whoever looks at them and go no further, become None.

        Raises:
            ValueError: a tensor has another shape.
        """
        if nested is None:
            return None
        if isinstance(nested, tuple | list):
            return type(nested)(self.of(part) for part in nested)
        if isinstance(nested, Tensor) and nested.ndim == 4 and nested.shape[2:] == (self.positions, self.positions):
            return None
        if not isinstance(nested, Tensor) or nested.shape[:2] != (len(self.places), self.positions):
            raise ValueError("what was kept of a batch has no place for each of its tokens")
        return _taken(nested, self.places)


def live_positions(form: Form, reads: Tensor, chosen: Tensor) -> Tensor:
    """Which positions of a packed form training can change.

    Args:
        reads: (G, U, H, k) slots that each position reads.
        chosen: (rows,) the slots that may change, ascending.

    Returns:
        (G, U) bool.
    """
    G, U = form.inputs["input_ids"].shape
    sees = form.inputs["attention_mask"][:, 0] == 0  # (G, U, U): a token sees its ancestors and itself
    live = torch.isin(reads, chosen.to(reads.device)).view(G, U, -1).any(-1)
    live.view(-1)[form.targets.predicting] = True
    return (sees & live.unsqueeze(1)).any(-1)


def live_part(form: Form, live: Tensor, cache: KeptKeys) -> Live:
    """The live part of a form.

    Args:
        live: See `live_positions`.
        cache: What the model was called with on all of the form.
    """
    (G, U), device = live.shape, live.device
    places, real = _gathered(live)
    still, known = _gathered(~live)
    mask = form.inputs["attention_mask"]
    low = torch.finfo(mask.dtype).min
    rows = mask[:, 0].gather(1, places.unsqueeze(-1).expand(-1, -1, U))  # (G, L, U)
    L, C = places.shape[1], still.shape[1]
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
    past = {}
    if C:
        for layer, pair in cache.kept.items():
            past[layer] = tuple(
                x.detach().gather(2, still[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])) for x in pair
            )
    return Live(Form(inputs, counted, targets), places, U, past)


class KeptKeys(DynamicCache):
    """Keeps the keys and values that each layer makes, and gives them back as they are."""

    def __init__(self):
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        self.kept[layer_idx] = key_states, value_states
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


def _gathered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(G, U) bool -> the places of each row that are chosen, in order, filled up to as many as the fullest row has, and
    which of them are no filling; both (G, most)."""
    most = int(chosen.sum(1).max())
    places = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, chosen.gather(1, places)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """x (G, U, ...), places (G, L) -> (G, L, ...)."""
    return x[torch.arange(len(x), device=x.device).unsqueeze(1), places]


def _columns(rows: Tensor, places: Tensor) -> Tensor:
    """rows (G, L, U), places (G, M) -> (G, L, M)."""
    return rows.gather(2, places.unsqueeze(1).expand(-1, rows.shape[1], -1))
