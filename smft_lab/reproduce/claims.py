"""What the paper says beside what was measured: claims, verdicts, and how tables of results are read for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from smft_lab.experiments.equal import mean_interval, read_run, summarise
from smft_lab.reproduce.charts import trade_off
from smft_lab.reproduce.jobs import Job
from smft_lab.reproduce.tables import difference, over_seeds, sign_of

LEARNED_ALIKE, KEPT_ALIKE = 0.05, 0.01  # shares; a smaller difference is none
HALF_A_QUESTION = 0.5 / 240  # of the old facts that are asked
AGREES, DIFFERS, OPEN = "agrees", "differs", "can't be said at this scale"
BY_SIGN = {1: AGREES, 0: OPEN, -1: DIFFERS}  # of a difference that a claim says is positive, see `sign_of`
OWN_WORDS = {AGREES: "holds", DIFFERS: "does not hold", OPEN: OPEN}


@dataclass(frozen=True)
class Claim:
    """One thing the paper says, or leaves open, beside what was measured.

    Attributes:
        paper, ours: In words, with the numbers. "not ..." is what the paper does not say.
        verdict: `AGREES`, `DIFFERS` or `OPEN`.
        why: What to keep in mind.
    """

    text: str
    paper: str
    ours: str
    verdict: str
    why: str = ""

    @property
    def is_the_papers(self) -> bool:
        """Whether the paper says so, too; else it is a question of our own."""
        return not self.paper.startswith("not ")

    @property
    def said(self) -> str:
        """The verdict in words: a claim of our own holds or does not; it cannot agree with the paper."""
        return self.verdict if self.is_the_papers else OWN_WORDS[self.verdict]


@dataclass(frozen=True)
class Experiment:
    """A question, its jobs, and how their table is read.

    Attributes:
        jobs: From a template job to the jobs of one seed.
        read: From the rows of all its jobs (see `table_of`) and the `found` values per result to claims.
        label: From a job's fields to what its dots in the chart are called; "" leaves them out.
        draw: The charts, each from the same as `read` and `label`.
    """

    name: str
    title: str
    paper: str
    jobs: Callable[[Job], list[Job]]
    read: Callable[[pd.DataFrame, dict], list[Claim]]
    label: Callable[[dict], str]
    draw: Sequence[Callable[[pd.DataFrame, dict, Callable], go.Figure]] = (trade_off,)


def readings(table: pd.DataFrame, label: Callable[[dict], str], target: float = 0.95) -> pd.DataFrame:
    """Drops at equal learning (see `read_run`), one row per label, probe and metric."""
    mine = table.assign(method=[label(row) for row in table.to_dict("records")])
    mine = mine[(mine["method"] != "") & (mine["kind"] == "finetune")]
    rows = summarise(mine[["method", "seed", "step", "probe", "metric", "value"]], partial(read_run, target=target))
    return pd.DataFrame(rows)


def told(means: pd.DataFrame, *labels: str) -> str:
    """What some rows of `over_seeds` say, in words; all of them by default."""
    rows = [(label, means.loc[label]) for label in labels or means.index]
    return "; ".join(f"{label}: {learned_and_kept(row)}" for label, row in rows)


def learned_and_kept(row: pd.Series) -> str:
    """A row of `over_seeds` in words."""
    return f"learned {share(row.learned, row.learned_half)}, kept {share(row.kept, row.kept_half)}"


def share(mean: float, half: float) -> str:
    """A share with half the width of its interval, in percent."""
    return f"{mean:.1%}" + ("" if pd.isna(half) else f" ± {100 * half:.1f}")


def drop_of(rows: pd.DataFrame, label: str, probe: str = "old_facts", metric: str = "em") -> pd.Series | None:
    found = rows[(rows["method"] == label) & (rows["probe"] == probe) & (rows["metric"] == metric)]
    return None if found.empty else found.iloc[0]


def ratio_of_drops(
    table: pd.DataFrame, label: Callable[[dict], str], one: str, other: str, probe: str = "old_facts"
) -> tuple[float, float | None, float | None]:
    """What `one` loses for each point that `other` loses at equal learning: the geometric mean over seeds, and its 95%
    interval (none with one seed). Less than half a question counts as half a question."""
    logs = {}
    for seed, runs in table.groupby("seed"):
        rows = readings(runs, label)
        lost = [max(drop_of(rows, name, probe)["drop_mean"], HALF_A_QUESTION) for name in (one, other)]
        logs[seed] = math.log(lost[0] / lost[1])
    return tuple(None if value is None else math.exp(value) for value in mean_interval(pd.Series(logs)))


def below(limit: float, mean: float, low: float | None, high: float | None) -> str:
    """Verdict on "it is at most `limit`", of a mean and its interval."""
    if low is None:
        return AGREES if mean <= limit else DIFFERS
    return AGREES if high <= limit else DIFFERS if low > limit else OPEN


def told_ratio(mean: float, low: float | None, high: float | None) -> str:
    """A ratio in words."""
    return f"{mean:.2g}" + ("" if low is None else f" [{low:.2g}, {high:.2g}]")


def points(row: pd.Series | None) -> str:
    """A drop in points, with its interval and how many runs got to the target."""
    if row is None:
        return "not measured"
    interval = "" if pd.isna(row["drop_low"]) else f" [{100 * row['drop_low']:.1f}, {100 * row['drop_high']:.1f}]"
    return f"{100 * row['drop_mean']:.1f}{interval} points ({row['n_reached']}/{row['n']} runs reached 95%)"


def keeps_more(last: pd.DataFrame, one: str, other: str) -> dict:
    """Verdict on "`one` keeps more than `other`", of two labels of `ends`.

    It says nothing of one that kept more by learning less, nor of a difference that the seeds do not agree on.
    """
    learned = difference(last, one, other, "learned").mean()
    sign, gap = sign_of(difference(last, one, other))
    if learned < -LEARNED_ALIKE and sign > 0:
        return {"verdict": OPEN, "why": "it kept more, but also learned less"}
    if learned > LEARNED_ALIKE and sign < 0:
        return {"verdict": OPEN, "why": "it learned more, and the other kept no less"}
    if sign == 0:
        return {"verdict": OPEN, "why": f"what is kept differs by {gap}: the seeds do not agree on which is more"}
    return {"verdict": AGREES if sign > 0 else DIFFERS}


def does_as_well(last: pd.DataFrame, one: str, other: str) -> dict:
    """Verdict on "`one` does as well as `other`": learns and keeps as much, but for `LEARNED_ALIKE` and `KEPT_ALIKE`.

    It differs where the whole interval of a difference is past that margin, and agrees where none of it is.
    """
    gaps = [difference(last, one, other, column) for column in ("learned", "kept")]
    signs = [sign_of(gap + margin)[0] for gap, margin in zip(gaps, (LEARNED_ALIKE, KEPT_ALIKE), strict=True)]
    meant = "as well: {:.0f} points less learned and {:.0f} less kept count as nothing"
    why = meant.format(100 * LEARNED_ALIKE, 100 * KEPT_ALIKE)
    if min(signs) == 0:
        learned, kept = (sign_of(gap)[1] for gap in gaps)
        why += f"; the seeds do not agree: learned {learned}, kept {kept}"
    return {"verdict": BY_SIGN[min(signs)], "why": why}


def none_helps(last: pd.DataFrame, usual: str, others: Sequence[str]) -> dict:
    """Verdict on "none of `others` learns as much as `usual` and keeps more"; open where one does on average, but the
    seeds do not agree that it keeps more."""
    means = over_seeds(last)
    better = [
        keeps_more(last, other, usual)
        for other in others
        if means.learned[other] >= means.learned[usual] - LEARNED_ALIKE and means.kept[other] > means.kept[usual]
    ]
    if any(one["verdict"] == AGREES for one in better):
        return {"verdict": DIFFERS}
    return better[0] if better else {"verdict": AGREES}


def all_of(verdicts: Sequence[dict]) -> dict:
    """Verdict on several things said at once: each must agree, and one that differs is enough."""
    return min(verdicts, key=lambda one: (DIFFERS, OPEN, AGREES).index(one["verdict"]))


def methods(job: Job) -> list[Job]:
    return [replace(job, method=method) for method in ("sparse", "full", "lora")]


def by_method(job: dict) -> str:
    return job["method"]
