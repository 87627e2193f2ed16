"""What a top t would change, before anything is trained: the slots chosen, and whose reading they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smft_lab.facts.fact import Fact, as_facts
from smft_lab.slots.group import rank_slots
from smft_lab.slots.scores import check_rule, score, top_slots
from smft_lab.slots.usage import batch_counts

if TYPE_CHECKING:
    from jaxtyping import Float64, Int, Int32, Int64

    from smft_lab.lab import Lab


def fact_counts(lab: Lab, facts: Sequence[Fact]) -> list[list[Int32[Tensor, " N"]]]:
    """Reads per slot of each fact's statements, per fact and value table.

    Examples:
        >>> counts = smft.fact_counts(lab, smft.new_facts(2))
        >>> len(counts), counts[0][0].shape
        (2, torch.Size([57600]))
    """
    return [batch_counts(lab.model, lab.encode(fact.statements)) for fact in as_facts(facts)]


@dataclass(frozen=True)
class Coverage:
    """The choice of slots for every t at once, fact by fact.

    Attributes:
        slots: Slots that any fact reads, table after table (table x N + slot), best rank first.
        ranks: The best rank that a slot has for any fact; top-t chooses those with rank <= t.
        of_facts: Share of a fact's reads that its top 1, 2, ... R slots carry, mean over the facts.
        of_background: Share of all background reads that go to the slots so chosen over all facts.
        chosen: How many slots are chosen over all facts.
    """

    slots: Int64[Tensor, " U"]
    ranks: Int64[Tensor, " U"]
    of_facts: Float64[Tensor, " R"]
    of_background: Float64[Tensor, " R"]
    chosen: Int64[Tensor, " R"]

    @property
    def most(self) -> int:
        """R, the most slots that one fact reads: a larger t changes nothing."""
        return len(self.chosen)

    def at(self, t: int) -> dict[str, float]:
        """`chosen` slots, and the shares of the facts' and of background reading that they carry."""
        i = min(t, self.most) - 1
        shares = {"of_facts": self.of_facts[i].item(), "of_background": self.of_background[i].item()}
        return {"chosen": int(self.chosen[i]), **shares}


def coverage(lab: Lab, counts: list[list[Int32[Tensor, " N"]]], rule: str = "tfidf", *, seed: int = 0) -> Coverage:
    """The slots that `rule` would choose for each fact, for every t.

    Args:
        lab: A `Lab`; its background usage gives df.
        counts: See `fact_counts`.
        rule: See `smft_lab.slots.scores.score`; `random` shows one draw.

    Raises:
        ValueError: no such rule, or no facts.

    Examples:
        >>> chosen = smft.coverage(lab, smft.fact_counts(lab, smft.new_facts(2)))
        >>> 0 < chosen.at(500)["of_background"] < 1
        True
    """
    check_rule(rule)
    if not counts:
        raise ValueError("no facts to teach")
    generator = torch.Generator().manual_seed(int(seed))
    ranked = []
    for fact in counts:
        of_fact = []
        for table, count in enumerate(fact):
            usage = lab.usage.df[table], lab.usage.batches
            order = top_slots(score(rule, count, *usage, generator, lab.usage.count[table]), count, None)
            of_fact.append((order, count[order]))
        ranked.append(of_fact)
    return _covered(lab, ranked, rule)


def group_coverage(
    lab: Lab,
    owners: Sequence[int],
    reads: Sequence[Sequence[Int64[Tensor, " _reads"]]],
    rule: str = "tfidf",
    seed: int = 0,
) -> Coverage:
    """The same for facts whose slots are chosen together, by the lab's recipe, before any is taught.

    Args:
        lab: A `Lab` with a recipe.
        owners, reads: See `smft_lab.finetuning.teaching.counted_reads`.

    Raises:
        ValueError: the lab has no recipe, no such rule, or no texts.
    """
    if lab.recipe is None:
        raise ValueError("slots are chosen for facts together by a recipe, and the lab has none")
    by_table = rank_slots(lab.usage, owners, reads, rule=rule, seed=seed, **lab.recipe.choosing)
    return _covered(lab, list(zip(*by_table, strict=True)), rule)


def _covered(
    lab: Lab, ranked: Sequence[Sequence[tuple[Int64[Tensor, " _n"], Int[Tensor, " _n"]]]], rule: str
) -> Coverage:
    """Per fact and value table the slots, best first, and how often each is read."""
    tables, n = lab.usage.df.shape
    best = torch.full((tables, n), n + 1, dtype=torch.int64)
    curves, most = [], 1
    for fact in ranked:
        carried = torch.zeros(n, dtype=torch.double)
        for table, (slots, count) in enumerate(fact):
            if rule == "all":  # no order: every slot is chosen whatever t is
                ranks, carried[0] = torch.ones(len(slots), dtype=torch.int64), carried[0] + count.sum()
            else:
                ranks = torch.arange(1, len(slots) + 1)
                carried[: len(slots)] += count
                most = max(most, len(slots))
            best[table, slots] = torch.minimum(best[table, slots], ranks)
        curves.append(carried.cumsum(0) / carried.sum())
    flat = best.flatten()
    read = (flat <= n).nonzero().squeeze(1)
    order = flat[read].sort(stable=True).indices
    slots, ranks = read[order], flat[read[order]]
    chosen = torch.bincount(ranks, minlength=most + 1)[1:].cumsum(0)
    background = lab.usage.count.double()
    background = (background / background.sum(dim=1, keepdim=True) / tables).flatten()[slots].cumsum(0)
    return Coverage(slots, ranks, torch.stack(curves).mean(0)[:most], background[chosen - 1], chosen)
