"""Which slots a batch may change: the score of every slot it reads, and the top t of them.

Paper section 3.2, for one batch:

    tfidf(i) = c(i) / sum_j c(j)  *  log((|B| + 1) / (df(i) + 1))

with c(i) the reads of slot i in this batch and df(i) the number of background batches that read it. It equals
scikit-learn's `TfidfTransformer` with `norm=None` up to its idf: `smooth_idf=True` gives log((1 + n) / (1 + df)) + 1,
where the paper has no "+ 1" outside the logarithm.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from smft_lab.facts.fact import Fact, as_facts
from smft_lab.model.locking import reading
from smft_lab.slots.usage import batch_counts

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, Int64, Real

    from smft_lab.lab import Lab

RULES = ("tfidf", "tf", "idf", "kl", "random", "all")
WHOLE_TABLE = ("kl", "random")  # rules by which a slot's score depends on slots that are not read


def term_frequency(count: Int[Tensor, " N"]) -> Float64[Tensor, " N"]:
    """Share of the batch's reads per slot; zeros where nothing is read."""
    return count.double() / max(1, int(count.sum()))


def inverse_document_frequency(df: Real[Tensor, "*slots"], batches: float) -> Float64[Tensor, "*slots"]:
    """log((|B| + 1) / (df + 1)) per slot, in nats."""
    return torch.log((batches + 1) / (df.double() + 1))


def kl_divergence(count: Int[Tensor, " N"], background: Int[Tensor, " N"]) -> Float64[Tensor, " N"]:
    """Each slot's term of KL(reads of the batch || background reads), in nats.

    As in "Improving Sparse Memory Finetuning" (Goyal et al. 2026); every slot counts as read once more in the
    background than it was, so that one never read there has a finite score.
    """
    in_batch = term_frequency(count)
    in_background = (background.double() + 1) / (background.sum(dtype=torch.double) + len(background))
    return torch.xlogy(in_batch, in_batch / in_background)


def score(
    rule: str,
    count: Int[Tensor, " slots"],
    df: Real[Tensor, " slots"],
    batches: float,
    generator: torch.Generator | None = None,
    background: Int[Tensor, " slots"] | None = None,
) -> Float64[Tensor, " slots"]:
    """Score of each slot given under `rule`; the higher, the sooner it is trained.

    They are all N of a table, or only those that the batch reads, which is enough but for the rules of `WHOLE_TABLE`.

    Args:
        rule: `tfidf` as in the paper; `tf`, `idf` its halves; `kl` of a follow-up (see `kl_divergence`); `random` and
            `all` the controls that ignore usage.
        count: Reads in this batch.
        df: Background batches that read the slot.
        batches: |B|, the number of background batches; no whole number where `protect` adds to it.
        generator: Source of `random`; torch's own by default.
        background: Background reads, for `kl`.

    Raises:
        ValueError: no such rule, or `kl` without background reads.
    """
    check_rule(rule)
    if rule == "kl":
        if background is None:
            raise ValueError("the rule kl needs the background reads")
        return kl_divergence(count, background)
    if rule == "tfidf":
        return term_frequency(count) * inverse_document_frequency(df, batches)
    if rule == "tf":
        return term_frequency(count)
    if rule == "idf":
        return inverse_document_frequency(df, batches)
    if rule == "random":
        return torch.rand(count.shape, generator=generator, dtype=torch.double)
    return torch.ones(count.shape, dtype=torch.double)  # all


def top_slots(scores: Float[Tensor, " slots"], count: Int[Tensor, " slots"], t: int | None) -> Int64[Tensor, " best"]:
    """The `t` best-scored slots among those the batch reads, best first; ties go to the lower slot.

    Fewer than t where fewer are read; all of them where t is None. A slot that is not read gets no gradient, so it is
    never selected.
    """
    read = count.nonzero().squeeze(1)
    order = scores[read].sort(descending=True, stable=True).indices
    return read[order[:t]]


def check_rule(rule: str) -> None:
    """Raise ValueError unless `rule` is one there is."""
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r}; there are {', '.join(RULES)}")


def check_top_t(top_t: int, slots: int) -> None:
    """Raise ValueError unless top_t is a whole number, and 1 <= top_t <= slots."""
    if not isinstance(top_t, Integral) or not 1 <= top_t <= slots:
        raise ValueError(f"top-t must be between 1 and the {slots} slots of the table, not {top_t}")


@reading
def slot_scores(lab: Lab, facts: Fact | Iterable[Fact]) -> pd.DataFrame:
    """Scores of all slots that the statements of `facts` read, taken as one batch.

    Args:
        lab: A `Lab`.
        facts: One fact or several.

    Returns:
        Columns table (of values, from 0), slot, count, tf, df, idf, tfidf, rank; ranks start at 1 in each table, best
        first.

    Examples:
        >>> scores = smft.slot_scores(lab, smft.new_facts(1))
        >>> scores.columns.tolist()
        ['table', 'slot', 'count', 'tf', 'df', 'idf', 'tfidf', 'rank']
    """
    facts = as_facts(facts)
    batch = lab.encode([text for fact in facts for text in fact.statements])
    frames = []
    for table, count in enumerate(batch_counts(lab.model, batch)):
        df = lab.usage.df[table]
        scores = score("tfidf", count, df, lab.usage.batches)
        slots = top_slots(scores, count, None)
        frames.append(
            pd.DataFrame(
                {
                    "table": table,
                    "slot": slots.numpy(),
                    "count": count[slots].numpy(),
                    "tf": term_frequency(count)[slots].numpy(),
                    "df": df[slots].numpy(),
                    "idf": inverse_document_frequency(df, lab.usage.batches)[slots].numpy(),
                    "tfidf": scores[slots].numpy(),
                    "rank": range(1, len(slots) + 1),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
