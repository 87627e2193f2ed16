"""Whether the background is large enough: how far the choice of slots still depends on how much of it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smft_lab.slots.group import choose_slots
from smft_lab.slots.usage import Usage

if TYPE_CHECKING:
    from jaxtyping import Int64


@dataclass(frozen=True)
class Settled:
    """How much of the choice stands with a part of the background.

    Attributes:
        documents, total: Documents of the part, and of the whole background.
        same: Share of the slots chosen with the part that are chosen with the whole too, in [0, 1].
    """

    documents: int
    total: int
    same: float

    def __str__(self) -> str:
        return f"{self.same:.0%} of the slots are the same with {self.documents:,} of {self.total:,} documents"


def settling(
    usages: Sequence[Usage],
    owners: Sequence[int],
    reads: Sequence[Sequence[Int64[Tensor, " _reads"]]],
    top_t: int,
    **options,
) -> list[Settled]:
    """How much of the choice of slots for a group of facts stands with each smaller background.

    Args:
        usages: Of growing backgrounds, such as `count_documents` gives; the last is the whole.
        owners, reads, top_t, options: As of `smft_lab.slots.group.choose_slots`.

    Returns:
        One for each usage but the last.

    Raises:
        ValueError: there are fewer than two usages; or see `choose_slots`.
    """
    if len(usages) < 2:
        raise ValueError("how far a choice has settled shows in at least two backgrounds, a part and the whole")
    *smaller, whole = usages
    wanted = choose_slots(whole, owners, reads, top_t, **options)
    readings = []
    for usage in smaller:
        chosen = choose_slots(usage, owners, reads, top_t, **options)
        same = sum(torch.isin(own, theirs).sum().item() for own, theirs in zip(chosen, wanted, strict=True))
        readings.append(Settled(usage.batches, whole.batches, same / sum(map(len, chosen))))
    return readings
