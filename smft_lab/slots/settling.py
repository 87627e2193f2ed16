"""Whether the background is large enough: how far the choice of slots still depends on how much of it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from smft_lab.model.memory import memory_layers, observe_reads, stopping_at, value_tables
from smft_lab.model.tokenizer import pad
from smft_lab.slots.group import choose_slots
from smft_lab.slots.usage import Usage

BATCH = 32  # documents per forward pass
PARTS = (0.25, 0.5, 1.0)


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


@torch.inference_mode()
def growing_usage(model, tokenizer, documents: Sequence[Sequence[int]], parts: Sequence[float] = PARTS,
                  seed: int = 0) -> list[Usage]:  # fmt: skip
    """Background usage by a growing number of documents, each one a document of the idf.

    Args:
        documents: Token ids of each; they are shuffled, so that each part is like the whole.
        parts: Shares of the documents, ascending; the last is 1.
        seed: Of the shuffling.

    Returns:
        The usage by each part; the last is that of the whole background.

    Raises:
        ValueError: the model has no memory layer, there are no documents, or the parts aren't as above.
    """
    layers, tables = memory_layers(model), value_tables(model)
    if not tables:
        raise ValueError("the model has no memory layer")
    if not documents:
        raise ValueError("usage needs at least one document")
    if not parts or list(parts) != sorted(parts) or parts[0] <= 0 or parts[-1] != 1:
        raise ValueError(f"parts must ascend from above 0 to 1, not {tuple(parts)}")
    *_, last = layers.values()
    order = Random(f"{seed}/documents").sample(range(len(documents)), len(documents))
    ends = [max(1, round(part * len(documents))) for part in parts]
    shape = (len(tables), len(tables[0].weight))
    df, count = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape, dtype=torch.int32)
    usages, start = [], 0
    for end in ends:
        mine = sorted(order[start:end], key=lambda i: len(documents[i]))  # little padding
        for first in range(0, len(mine), BATCH):
            batch = pad(tokenizer, [documents[i] for i in mine[first : first + BATCH]])
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            mask = batch["attention_mask"].clone()
            mask[torch.arange(len(mask)), mask.sum(1) - 1] = 0  # the end that `pad` sets is read after every text
            with observe_reads(model) as observed, stopping_at(last.keys):
                model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            reads: list[list[Tensor]] = [[] for _ in tables]
            for position, layer in layers.items():
                slots = observed[position].slots[-1]
                reads[tables.index(layer.values)].append(slots.reshape(*mask.shape, -1).cpu())
            kept = mask.bool().cpu()
            for table, parts_read in enumerate(reads):
                for row, read in zip(kept, torch.cat(parts_read, -1), strict=True):
                    slots, times = read[row].flatten().unique(return_counts=True)
                    df[table, slots] += 1
                    count[table, slots] += times.int()
        start = end
        usages.append(Usage(end, df.clone(), count.clone()))
    return usages


def settling(usages: Sequence[Usage], owners: Sequence[int], reads: Sequence[Sequence[Tensor]], top_t: int,
             **options) -> list[Settled]:  # fmt: skip
    """How much of the choice of slots for a group of facts stands with each smaller background.

    Args:
        usages: Of growing backgrounds, see `growing_usage`; the last is the whole.
        owners, reads, top_t, options: As of `smft_lab.slots.group.choose_group`.

    Returns:
        One for each usage but the last.

    Raises:
        ValueError: there are fewer than two usages; or see `choose_group`.
    """
    if len(usages) < 2:
        raise ValueError("how far a choice has settled shows in at least two backgrounds, a part and the whole")
    *smaller, whole = usages
    wanted = choose_slots(whole, owners, reads, top_t, **options)
    found = []
    for usage in smaller:
        chosen = choose_slots(usage, owners, reads, top_t, **options)
        same = sum(torch.isin(mine, theirs).sum().item() for mine, theirs in zip(chosen, wanted, strict=True))
        found.append(Settled(usage.batches, whole.batches, same / sum(map(len, chosen))))
    return found
