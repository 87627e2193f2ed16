"""Which slots may change when many facts are taught together: chosen once, fact by fact, before any is taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smft_lab.model.attach import check_readable
from smft_lab.model.locking import reading
from smft_lab.model.memory import memory_layers, observe_reads, stopping_at, value_tables
from smft_lab.slots.scores import check_rule, check_top_t, score, top_slots
from smft_lab.slots.usage import Usage

if TYPE_CHECKING:
    from jaxtyping import Int64

    from smft_lab.lab import Lab

BATCH = 32  # texts per forward pass


@reading
@torch.inference_mode()
def reads_of(
    lab: Lab, texts: Sequence[str], positions: Sequence[Sequence[int]] | None = None
) -> list[list[Int64[Tensor, " _reads"]]]:
    """What each text reads, from forward passes that go no further than the last memory layer's addressing.

    Args:
        positions: Which tokens of each text count; by default all.

    Returns:
        Per text, per value table: slots, as often as they are read. On the CPU.

    Raises:
        ValueError: a text is longer than the model reads, or has a token that the model doesn't know.
    """
    layers, tables = memory_layers(lab.model), value_tables(lab.model)
    *_, last = layers.values()
    reads: list[list[Tensor]] = [[] for _ in texts]
    lengths = [len(text) for text in texts]
    by_length = sorted(range(len(texts)), key=lengths.__getitem__)  # little padding
    for start in range(0, len(texts), BATCH):
        rows = by_length[start : start + BATCH]
        batch = lab.encode([texts[i] for i in rows])
        check_readable(lab.model, batch["input_ids"])
        with observe_reads(lab.model) as observed, stopping_at(last.keys):
            lab.model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        shape = batch["input_ids"].shape
        by_table: list[list[Tensor]] = [[] for _ in tables]
        for position, layer in layers.items():
            by_table[tables.index(layer.values)].append(observed[position].slots[-1].reshape(*shape, -1).cpu())
        mask = batch["attention_mask"].bool().cpu()
        for slots in (torch.cat(parts, -1) for parts in by_table):
            for row, i in enumerate(rows):
                places = mask[row].nonzero().squeeze(1)[:-1]  # the end of the text, which `encode` adds, tells nothing
                if positions is not None:
                    places = torch.tensor(positions[i], dtype=torch.long)
                reads[i].append(slots[row, places].flatten())
    return reads


def rank_slots(
    usage: Usage,
    owners: Sequence[int],
    reads: Sequence[Sequence[Int64[Tensor, " _reads"]]],
    *,
    rule: str = "tfidf",
    protect: float = 0.0,
    max_df: float = 1.0,
    seed: int = 0,
) -> list[list[tuple[Int64[Tensor, " _n"], Int64[Tensor, " _n"]]]]:
    """The slots of each fact of a group, best first; see `choose_slots` for the arguments.

    The idf of a slot is log((B + p (F - 1) + 1) / (df + p (r - 1) + 1)): B background documents, p = `protect`, F facts
    in the group, r of them reading the slot.

    Returns:
        Per value table, per fact in ascending order: slots, and how often the fact's texts read each.

    Raises:
        ValueError: no such rule, or there are no texts.
    """
    check_rule(rule)
    if not owners:
        raise ValueError("no texts to choose slots for")
    total, generator = usage.df.shape[1], torch.Generator().manual_seed(seed)
    facts = sorted(set(owners))
    ranked = []
    for table in range(len(usage.df)):
        df = usage.df[table]
        counts = []  # per fact, (slots it reads,) and how often
        readers = torch.zeros(total, dtype=torch.int32)
        for fact in facts:
            own_reads = [reads[i][table] for i, owner in enumerate(owners) if owner == fact]
            slots, count = torch.cat(own_reads).unique(return_counts=True)
            rare = df[slots] <= max_df * usage.batches
            if rare.any():
                slots, count = slots[rare], count[rare]
            readers[slots] += 1
            counts.append((slots, count))
        batches = usage.batches + protect * (len(facts) - 1)
        best = []
        for slots, count in counts:  # of the slots that are read alone: a table may have a million
            others = df[slots] + protect * (readers[slots] - 1) if protect else df[slots]
            if rule == "kl":  # compares with the background's reads of all slots
                here = torch.zeros(total, dtype=count.dtype)
                here[slots] = count
                scores = score(rule, here, df, batches, generator, usage.count[table])[slots]
            else:
                scores = score(rule, count, others, batches, generator)
            order = top_slots(scores, count, None)
            best.append((slots[order], count[order]))
        ranked.append(best)
    return ranked


def choose_slots(
    usage: Usage,
    owners: Sequence[int],
    reads: Sequence[Sequence[Int64[Tensor, " _reads"]]],
    top_t: int,
    *,
    rule: str = "tfidf",
    protect: float = 0.0,
    max_df: float = 1.0,
    seed: int = 0,
) -> tuple[Int64[Tensor, " _rows"], ...]:
    """The slots that a group of facts may change: of each fact its `top_t` best-scored, together.

    Args:
        usage: The background usage that gives the idf.
        owners: The fact of each text, from 0.
        reads: What each text reads, see `reads_of`.
        rule: See `smft_lab.slots.scores.score`.
        protect: Each other fact of the group counts for so many background documents that read its slots.
        max_df: See `smft_lab.recipe.Recipe`.
        seed: Of the rule `random`.

    Returns:
        Per value table, slots, ascending.

    Raises:
        ValueError: no such rule, `top_t` is out of range, or there are no texts.
    """
    total = usage.df.shape[1]
    check_top_t(top_t, total)
    most = None if rule == "all" else top_t
    chosen = []
    for facts in rank_slots(usage, owners, reads, rule=rule, protect=protect, max_df=max_df, seed=seed):
        mark = torch.zeros(total, dtype=torch.bool)
        for slots, _ in facts:
            mark[slots[:most]] = True
        chosen.append(mark.nonzero().squeeze(1))
    return tuple(chosen)
