"""Background usage: how often, and in how many background batches, each slot is read by ordinary text.

Everything is per value table: where several memory layers share one, their reads add up, because it is the rows that
finetuning changes. Tables are numbered in the order of the model, from 0. Counts are on the CPU, wherever the model is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smft_lab.model.attach import check_readable
from smft_lab.model.locking import reading
from smft_lab.model.memory import Reads, memory_layers, observe_reads, stopping_at, value_tables

if TYPE_CHECKING:
    from jaxtyping import Int32, Int64, Shaped
    from transformers import PreTrainedModel

SPARSE_FROM = 16  # slots of a table per read; below, an array of all slots is faster than sorting the reads


def count_reads(slots: Int64[Tensor, "B T H k"], mask: Shaped[Tensor, "B T"], total: int) -> Int32[Tensor, " {total}"]:
    """How often each slot is read at positions that are not padding.

    Args:
        slots: What each token read.
        mask: 0 at padding; the paper masks padding out of the counts (section 3.2). A position that stands for several
            counts as often.
        total: N.

    Returns:
        Counts of all slots; they sum to unpadded tokens x H x k.
    """
    return torch.bincount(_unpadded(slots, mask), minlength=total).int()


def read_slots(
    slots: Int64[Tensor, "B T H k"], mask: Shaped[Tensor, "B T"], total: int
) -> tuple[Int64[Tensor, " R"], Int32[Tensor, " R"]]:
    """Which slots are read at positions that are not padding, and how often; nothing of the size of a table is made
    where the table is much larger than the reads are many.

    Args:
        slots, mask, total: As for `count_reads`.

    Returns:
        Slots, ascending, and how often each is read, at least once.
    """
    if total > SPARSE_FROM * int(mask.sum()) * slots.shape[-2:].numel():
        read, count = _unpadded(slots, mask).unique(return_counts=True)
        return read, count.int()
    count = count_reads(slots, mask, total)
    read = count.nonzero().squeeze(1)
    return read, count[read]


def _unpadded(slots: Int64[Tensor, "B T H k"], mask: Shaped[Tensor, "B T"]) -> Int64[Tensor, " M"]:
    """The reads of positions that count, each as often as it does."""
    return slots.flatten(0, 1).repeat_interleave(mask.flatten().long(), 0).flatten()


@dataclass
class Usage:
    """Reads of every value table over background batches.

    Attributes:
        batches: `|B|`, the number of background batches.
        df: The number of batches in which a slot was read at least once.
        count: The number of reads.

    Examples:
        >>> lab.usage.batches, tuple(lab.usage.df.shape)
        (1000, (1, 57600))
        >>> round(lab.usage.share_read(), 2)
        1.0
    """

    batches: int
    df: Int32[Tensor, "tables N"]
    count: Int32[Tensor, "tables N"]

    def share_read(self) -> float:
        """Share of slots that were ever read, in [0, 1]."""
        return (self.df > 0).float().mean().item()

    def top_share(self, top: float = 0.01) -> float:
        """Share of all reads that went to the most-read `top` share of slots, in [0, 1]: how skewed usage is."""
        ranked = self.count.sort(dim=1, descending=True).values.double()
        rows = max(1, round(top * ranked.shape[1]))
        return (ranked[:, :rows].sum() / ranked.sum()).item()

    def to_tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names that a lab's file has them under."""
        return {"usage.df": self.df, "usage.count": self.count, "usage.batches": torch.tensor([self.batches])}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Usage:
        """The opposite of `to_tensors`.

        Raises:
            ValueError: these can't be counts.
        """
        df, count, batches = (tensors[f"usage.{name}"] for name in ("df", "count", "batches"))
        if batches.shape != (1,) or batches.is_floating_point() or batches[0] < 1:
            raise ValueError(f"usage needs at least one background batch, not {str(batches.tolist())[:40]}")
        if df.ndim != 2 or df.shape != count.shape:
            raise ValueError(f"df is {tuple(df.shape)} and count {tuple(count.shape)}, not both (tables, slots)")
        if (
            not df.numel()
            or not ((df >= 0) & (df <= batches)).all()
            or not ((count >= 0) & (count.double() < 2**31)).all()
        ):
            raise ValueError(f"df must be between 0 and the {int(batches)} batches, and counts 0 or more")
        return cls(int(batches), df.int(), count.int())


@reading
@torch.inference_mode()
def measure_usage(model: PreTrainedModel, batches: Iterable[dict[str, Shaped[Tensor, "_B _T"]]]) -> Usage:
    """Background usage of `model` over `batches` (paper section 3.2: 1,000 of pretraining text).

    Args:
        batches: Encoded batches with `input_ids` and `attention_mask`; each one is a "document" of the idf.

    Raises:
        ValueError: the model has no memory layer, or there are no batches.

    Examples:
        >>> batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        >>> smft.measure_usage(lab.model, [batch]).batches
        1
    """
    tables = value_tables(model)
    if not tables:
        raise ValueError("the model has no memory layer")
    shape = (len(tables), len(tables[0].weight))
    df = torch.zeros(shape, dtype=torch.int32)
    count = torch.zeros(shape, dtype=torch.int32)
    seen = 0
    for batch in batches:
        seen += 1
        for table, counts in enumerate(batch_counts(model, batch)):
            df[table] += counts > 0
            count[table] += counts
    if not seen:
        raise ValueError("usage needs at least one background batch")
    return Usage(seen, df, count)


@reading
def batch_counts(model: PreTrainedModel, batch: dict[str, Shaped[Tensor, "B T"]]) -> list[Int32[Tensor, " N"]]:
    """Reads per slot of one batch, per value table, padding excluded.

    The forward pass goes no further than the last memory layer's addressing.

    Raises:
        ValueError: a text is longer than the model reads, or has a token that the model doesn't know.
    """
    *_, last = memory_layers(model).values()
    check_readable(model, batch["input_ids"])
    with observe_reads(model) as reads, torch.inference_mode(), stopping_at(last.keys):
        model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return table_counts(model, reads, batch["attention_mask"])


def table_counts(model: nn.Module, reads: dict[int, Reads], mask: Shaped[Tensor, "B T"]) -> list[Int32[Tensor, " N"]]:
    """Reads per slot of the last observed forward pass, per value table, padding excluded."""
    tables = value_tables(model)
    counts = [torch.zeros(len(table.weight), dtype=torch.int32) for table in tables]
    for total, (slots, count) in zip(counts, table_reads(model, reads, mask), strict=True):
        total[slots] = count
    return counts


def table_reads(
    model: nn.Module, reads: dict[int, Reads], mask: Shaped[Tensor, "B T"]
) -> list[tuple[Int64[Tensor, " _R"], Int32[Tensor, " _R"]]]:
    """The slots that the last observed forward pass read, per value table, padding excluded: as of `read_slots`."""
    layers = memory_layers(model)
    counts = []
    for table in value_tables(model):
        slots = [
            reads[position].slots[-1].flatten(0, -3) for position, layer in layers.items() if layer.values is table
        ]
        every = torch.stack(slots)  # (layers, B x T, H, k)
        times = mask.flatten().unsqueeze(0).expand(len(slots), -1)
        read, count = read_slots(every, times, len(table.weight))
        counts.append((read.cpu(), count.cpu()))
    return counts
