"""Forgetting at equal learning: what every run had kept when it had learned the same share of the new facts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pandas as pd
from scipy import stats

TARGET = 0.95
READING = (
    "Every run is read at the point where its exact match on the new facts first reaches {target:.0%}: "
    "its measurements just below and at or above the target are joined by a straight line, "
    "and all probes are read off where that line crosses the target. "
    "A run that never gets there is read at its best-learned measurement instead, and marked."
)
ENDS = " Sparse finetuning ends when all is learned; every other method at the first measurement beyond the target."
LOWER_IS_BETTER = ("nll",)


def read_run(run: pd.DataFrame, target: float = TARGET) -> tuple[bool, pd.Series]:
    """Read one run at the target.

    Args:
        run: Columns step, probe, metric, value, of a single run.
        target: Exact match on `learned`, in [0, 1].

    Returns:
        Whether the target was reached, and the values at that point, indexed by (probe, metric), with the number of
        steps, maybe fractional, under ("steps", "").
    """
    wide = _wide(run)
    learned = wide["learned", "em"]
    reached = learned >= target
    if not reached.any():
        return False, cast(pd.Series, wide.loc[cast(int, learned.idxmax())])
    place = int(reached.to_numpy().argmax())
    after = wide.iloc[place]
    if place == 0:
        return True, after
    before = wide.iloc[place - 1]
    part = (target - before["learned", "em"]) / (after["learned", "em"] - before["learned", "em"])
    return True, before + part * (after - before)


def mean_interval(values: pd.Series) -> tuple[float, float | None, float | None]:
    """Mean and 95% confidence interval over seeds (Student's t); no interval for a single value."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.sem())
    return mean, mean - half, mean + half


def summarise(table: pd.DataFrame, read: Callable[[pd.DataFrame], tuple[bool, pd.Series]]) -> list[dict]:
    """One row per method, probe and metric: value and drop since the base, with intervals over seeds.

    Args:
        table: Columns method, seed, step, probe, metric, value.
        read: Function of one run's table giving (reached, values), such as `read_run`.

    Returns:
        Rows with method, probe, metric, base, mean, low, high, drop_mean, drop_low, drop_high, n, n_reached. A drop
        is positive where things got worse, whichever way the metric points.
    """
    rows = []
    for method, runs in table.groupby("method", sort=False):
        readings = [
            (read(run), run[run.step == 0].set_index(["probe", "metric"])["value"]) for _, run in runs.groupby("seed")
        ]
        for probe, metric in readings[0][0][1].index:
            values = pd.Series([values[probe, metric] for (_, values), _ in readings])
            row = {"method": method, "probe": probe, "metric": metric}
            row |= dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))
            row |= {"n": len(readings), "n_reached": sum(bool(reached) for (reached, _), _ in readings)}
            if probe != "steps":
                base = pd.Series([base[probe, metric] for _, base in readings])
                drops = (values - base) if metric in LOWER_IS_BETTER else (base - values)
                row["base"] = float(base.mean())
                row |= dict(zip(("drop_mean", "drop_low", "drop_high"), mean_interval(drops), strict=True))
            rows.append(row)
    return rows


def read_last(run: pd.DataFrame) -> tuple[bool, pd.Series]:
    """Read one run at its last measurement; in the form of `read_run`."""
    return True, _wide(run).iloc[-1]


def _wide(run: pd.DataFrame) -> pd.DataFrame:
    """One row per measured step. A diverged model's NaN counts as infinitely bad, so that it can't pass for a gap."""
    wide = run.pivot(index="step", columns=["probe", "metric"], values="value").fillna(math.inf)
    wide["steps", ""] = wide.index.astype(float)
    return wide
