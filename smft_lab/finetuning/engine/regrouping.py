"""Where texts of earlier batches come back in other company, what was computed of them is put together anew.

Of a text that is learned nothing more is computed, so later passes share the others out anew. Nothing of what is kept
of a token depends on the texts beside its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smft_lab.finetuning.engine.live import Live, joined
from smft_lab.finetuning.engine.packing import Form, token_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from smft_lab.finetuning.engine.frozen_layers import Batch, Frozen


class KnownTexts:
    """The batches that held a text last."""

    def __init__(self):
        self._rows: dict[tuple[int, ...], tuple[weakref.ref[Batch], int]] = {}

    def add(self, batch: Batch) -> None:
        """Remember where its texts are."""
        at = weakref.ref(batch)
        self._rows |= {tuple(text): (at, row) for row, text in enumerate(token_rows(batch.inputs))}

    def find(self, batch: Batch, form: Form) -> Sources | None:
        """Where the tokens of a form of a batch are in the forms of others; None if one of its texts is new."""
        G, U = form.inputs["input_ids"].shape
        index = torch.zeros(G * U, dtype=torch.long, device=form.places.device)
        begins: dict[Batch, int] = {}
        end = 0
        for row, text in enumerate(token_rows(batch.inputs)):
            at, there = self._rows.get(tuple(text), (None, 0))
            source = at and at()
            if source is None or source.frozen is None or not source.frozen.form.packed:
                return None
            if source not in begins:
                begins[source] = end
                end += source.frozen.form.inputs["input_ids"].numel()
            places = source.frozen.form.places[there, : len(text)]
            index[form.places[row, : len(text)]] = begins[source] + places
        return Sources(list(begins), index.view(G, U))


class Sources:
    """Batches, and where the tokens of another are in their flattened forms, one after another."""

    def __init__(self, batches: Sequence[Batch], index: Int64[Tensor, "G U"]):
        self.batches, self.index = batches, index
        self._frozen = [batch.frozen for batch in batches if batch.frozen is not None]
        ids = [frozen.form.inputs["input_ids"] for frozen in self._frozen]
        self._shapes = [(x.shape[0], x.shape[1]) for x in ids]

    def frozen(self, form: Form) -> Frozen:
        """What `Engine` would compute of the form."""
        known = self._frozen

        def taken(of: str):
            return joined([getattr(frozen, of) for frozen in known], self._shapes, self.index)

        beside = {
            name: joined([frozen.beside[name] for frozen in known], self._shapes, self.index)
            for name in known[0].beside
        }
        parts = {of: taken(of) for of in ("below", "gate", "feed_forward", "reads")}
        return replace(known[0], form=form, beside=beside, **parts)

    def past(
        self, part: Live
    ) -> dict[int, tuple[Float[Tensor, "G _heads C _width"], Float[Tensor, "G _heads C _width"]]] | None:
        """Keys and values of what is needed and not live, as of `Live.past_of`; None where some were not kept."""
        if not part.still.shape[1]:
            return {}
        known = (batch.live for batch in self.batches)
        lives = [(live.still, live.past) for live in known if live is not None and live.still is not None]
        if len(lives) < len(self.batches):
            return None
        width = self.index.shape[1]
        at = torch.full((sum(G * U for G, U in self._shapes),), -1, device=self.index.device)
        begins, begins_still = 0, 0
        for (still, _), (G, U) in zip(lives, self._shapes, strict=True):
            flat = still + U * torch.arange(G, device=at.device).unsqueeze(1)
            at[begins + flat[still >= 0]] = (
                begins_still + torch.arange(still.numel(), device=at.device).view(G, -1)[still >= 0]
            )
            begins, begins_still = begins + G * U, begins_still + still.numel()
        trees = torch.arange(len(part.still), device=at.device).unsqueeze(1)
        wanted = at[self.index.flatten()[part.still.clamp(min=0) + width * trees]]
        if (wanted[part.still >= 0] < 0).any():
            return None
        pasts = [past for _, past in lives if past]
        keys = {layer: _taken([past[layer][0] for past in pasts], wanted) for layer in pasts[0]}
        return {layer: (keys[layer], _taken([past[layer][1] for past in pasts], wanted)) for layer in keys}


def _taken(
    pasts: Sequence[Float[Tensor, "_G heads _C width"]], wanted: Int64[Tensor, "G C"]
) -> Float[Tensor, "G heads C width"]:
    """Keys or values of several forms -> those of the wanted ones."""
    every = torch.cat([past.transpose(1, 2).flatten(0, 1) for past in pasts])
    return every[wanted.clamp(min=0)].transpose(1, 2).contiguous()
