"""How a claim is judged: one rule for all, on the 95% interval over seeds, and never on a mean alone.

A claim agrees where the whole interval says so, differs where the whole interval says the opposite, and is open where
the interval holds both. A single seed is taken at its word.

Means only choose which settings are set beside each other. What no interval tells is asked besides: what is compared at
equal learning must have learned 95% with every seed, or is left out or open (`paper`, `scale`), and where both methods
lose next to nothing there is no part to speak of (`paper.FORGOTTEN`).

A verdict is `{"verdict": AGREES, DIFFERS or OPEN, "why": what to keep in mind}`, as `Claim` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from smft_lab.experiments.equal import mean_interval
from smft_lab.reproduce.tables import difference, gap, gaps, in_points

AGREES, DIFFERS, OPEN = "agrees", "differs", "can't be said at this scale"
LEARNED_ALIKE, KEPT_ALIKE = 0.05, 0.01  # margins, as shares: a smaller difference is none
ROUNDING = 1e-9
BOTH = "the interval holds both"
LESS_LEARNED = f"{100 * LEARNED_ALIKE:.0f} points less learned"


def interval(values: pd.Series) -> tuple[float, float]:
    """Lower and upper end of the 95% interval over seeds; of a single seed, its value."""
    mean, low, high = mean_interval(values)
    return (mean, mean) if low is None or high is None else (low, high)


def positive(values: pd.Series) -> dict:
    """Verdict on "they are positive", of one value per seed; open where all are 0."""
    low, high = interval(values)
    return _verdict(AGREES if low > 0 else DIFFERS if high < 0 else OPEN)


def positive_in_each(values: Mapping[str, pd.Series]) -> dict:
    """Verdict on "all of them are positive", by name; an open one names those whose interval holds both."""
    verdicts = {name: positive(differences) for name, differences in values.items()}
    verdict = all_of(list(verdicts.values()))
    unsure = [name for name, verdict in verdicts.items() if verdict["verdict"] == OPEN]
    return {**verdict, "why": f"{' and '.join(unsure)}: {BOTH}"} if verdict["verdict"] == OPEN else verdict


def at_least(limit: float, values: pd.Series) -> dict:
    """Verdict on "they are at least `limit`", of one value per seed."""
    low, high = interval(values)
    return _verdict(AGREES if low >= limit - ROUNDING else DIFFERS if high < limit - ROUNDING else OPEN)


def at_most(limit: float, values: pd.Series) -> dict:
    """Verdict on "they are at most `limit`", of one value per seed."""
    return at_least(-limit, -values)


def _verdict(verdict: str) -> dict:
    return {"verdict": verdict, "why": BOTH if verdict == OPEN else ""}


def all_of(verdicts: Sequence[dict]) -> dict:
    """Verdict on several things said at once: each must agree, and one that differs is enough."""
    return min(verdicts, key=_agreement)


def any_of(verdicts: Sequence[dict]) -> dict:
    """Verdict on one of several things, whichever: one that agrees is enough, and all must differ."""
    return max(verdicts, key=_agreement)


def _agreement(verdict: dict) -> int:
    return (DIFFERS, OPEN, AGREES).index(verdict["verdict"])


def with_caveat(verdict: dict, why: str) -> dict:
    """The verdict with something more to keep in mind."""
    return {**verdict, "why": "; ".join(filter(None, [verdict["why"], why]))}


def as_much(last: pd.DataFrame, label: str, other: str) -> dict:
    """Verdict on "`label` learns as much as `other`", but for `LEARNED_ALIKE`, of two labels of `ends`."""
    verdict = at_least(-LEARNED_ALIKE, difference(last, label, other, "learned"))
    return with_caveat(verdict, f"as much: {LESS_LEARNED} count as nothing")


def keeps_more(last: pd.DataFrame, label: str, other: str) -> dict:
    """Verdict on "`label` keeps more than `other`", by more than `KEPT_ALIKE`, of two labels of `ends`.

    It says nothing of one that kept more and may have learned less.
    """
    kept = difference(last, label, other)
    verdict, note = positive(kept), f"what is kept differs by {in_points(kept)}"
    least, most = sorted(map(abs, interval(kept)))
    if most < KEPT_ALIKE - ROUNDING:
        return {"verdict": OPEN, "why": f"{note}: less than a point, which counts as nothing"}
    if verdict["verdict"] == OPEN:
        return {"verdict": OPEN, "why": f"{note}: {BOTH}"}
    if least < KEPT_ALIKE - ROUNDING:
        return {"verdict": OPEN, "why": f"{note}: that may be less than a point, which counts as nothing"}
    more, less = (label, other) if kept.mean() > 0 else (other, label)
    if as_much(last, more, less)["verdict"] != AGREES:
        learned = gap(last, more, less, "learned")
        return {"verdict": OPEN, "why": f"{more} kept more, but learned {learned}, which may be over {LESS_LEARNED}"}
    return verdict


def does_as_well(last: pd.DataFrame, label: str, other: str) -> dict:
    """Verdict on "`label` does as well as `other`": learns and keeps as much, but for the two margins."""
    learned, kept = (difference(last, label, other, column) for column in ("learned", "kept"))
    verdict = all_of([at_least(-LEARNED_ALIKE, learned), at_least(-KEPT_ALIKE, kept)])["verdict"]
    why = f"as well: {LESS_LEARNED} and {100 * KEPT_ALIKE:.0f} less kept count as nothing"
    return {"verdict": verdict, "why": f"{why}; {gaps(last, label, other)}"}


def none_helps(last: pd.DataFrame, usual: str, others: Sequence[str]) -> dict:
    """Verdict on "none of `others` learns as much as `usual` and keeps more"."""
    return all_of([_does_not_help(last, usual, other) for other in others])


def _does_not_help(last: pd.DataFrame, usual: str, other: str) -> dict:
    if keeps_more(last, other, usual)["verdict"] == AGREES:
        return {"verdict": DIFFERS, "why": f"{other} does"}
    learns_less = as_much(last, other, usual)["verdict"] == DIFFERS
    keeps_no_more = at_most(KEPT_ALIKE, difference(last, other, usual))["verdict"] == AGREES
    if learns_less or keeps_no_more:
        return {"verdict": AGREES, "why": ""}
    margins = f"{LESS_LEARNED} and {100 * KEPT_ALIKE:.0f} more kept count as nothing"
    return {"verdict": OPEN, "why": f"{other} may: {gaps(last, other, usual)}, where {margins}"}
