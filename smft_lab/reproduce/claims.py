"""What the paper says beside what was measured: claims, and how numbers are told in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import plotly.graph_objects as go

from smft_lab.experiments.equal import mean_interval
from smft_lab.reproduce.charts import trade_off
from smft_lab.reproduce.jobs import Job
from smft_lab.reproduce.tables import half_width
from smft_lab.reproduce.verdicts import AGREES, DIFFERS, OPEN

QUESTIONS = {"old_facts": 240, "two_hop": 160}  # that a probe of the built-in world asks
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
    def in_words(self) -> str:
        """The verdict in words: a claim of our own holds or does not; it cannot agree with the paper."""
        return self.verdict if self.is_the_papers else OWN_WORDS[self.verdict]


@dataclass(frozen=True)
class Experiment:
    """A question, its jobs, and how their table is read.

    Attributes:
        name: As the command takes it.
        title: On the page.
        paper: Where in the paper it is, such as a figure.
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


def means_in_words(means: pd.DataFrame, *labels: str) -> str:
    """What some rows of `over_seeds` say, in words; all of them by default."""
    rows = means.loc[list(labels)] if labels else means
    return "; ".join(f"{label}: {learned_and_kept(row)}" for label, row in rows.iterrows())


def learned_and_kept(row: pd.Series) -> str:
    """A row of `over_seeds` in words."""
    return f"learned {share(row.learned, row.learned_half)}, kept {share(row.kept, row.kept_half)}"


def share(mean: float, half: float, digits: int = 1) -> str:
    """A share with half the width of its interval, in percent."""
    return f"{mean:.{digits}%}" + ("" if pd.isna(half) else f" ± {100 * half:.{digits}f}")


def share_of(values: pd.Series, digits: int = 1) -> str:
    """The mean of one share per seed in words, as `share`."""
    return share(values.mean(), half_width(values), digits)


def lost(runs: pd.DataFrame, label: str) -> str:
    """What the runs of a label of `at_target` lost, in points, and how many got to the target."""
    own = runs[runs["label"] == label]
    mean, low, high = mean_interval(own["lost"])
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * mean:.1f}{interval} points ({own['reached'].sum()}/{len(own)} runs reached 95%)"


def log_ratios(runs: pd.DataFrame, label: str, other: str, probe: str) -> pd.Series:
    """Logarithm of what `label` loses for each point that `other` loses, two labels of `at_target`, seed by seed.

    Less than half a question of the probe counts as half a question.
    """
    drops = runs.pivot(index="seed", columns="label", values="lost").clip(lower=0.5 / QUESTIONS[probe])
    return (drops[label] / drops[other]).map(math.log)


def ratio_in_words(logs: pd.Series) -> str:
    """The geometric mean over seeds in words, and its 95% interval."""
    mean, low, high = mean_interval(logs)
    interval = "" if low is None or high is None else f" [{math.exp(low):.2g}, {math.exp(high):.2g}]"
    return f"{math.exp(mean):.2g}{interval}"


def methods(job: Job) -> list[Job]:
    return [replace(job, method=method) for method in ("sparse", "full", "lora")]


def by_method(job: dict) -> str:
    return job["method"]
