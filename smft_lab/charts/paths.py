"""Learned against kept: the paths that every plane draws, from a table of measurements."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from smft_lab.charts.style import Kept, upward


@dataclass(frozen=True)
class Paths:
    """What was learned and kept, step by step.

    Attributes:
        kept: What is upward.
        runs: A row per measurement of a run: method, seed, step, learned, kept. The last is missing where nothing that
            was known was measured.
        means: A row per step at which every seed of a method was measured, so that one that stopped early can't bend
            the mean: method, step, learned, kept, n (seeds).
    """

    kept: Kept
    runs: pd.DataFrame
    means: pd.DataFrame


def learned_and_kept(table: pd.DataFrame, kept: Kept | None = None) -> Paths:
    """The paths of a table.

    Args:
        table: Columns method, seed, step, probe, metric, value; step 0 is the base.
        kept: What is upward; by default what the table has (see `upward`).
    """
    kept = kept or upward(table["probe"])
    learned = (table["probe"] == "learned") & (table["metric"] == "em")
    shown = table[learned | ((table["probe"] == kept.key) & (table["metric"] == kept.metric))]
    wide = shown.pivot_table(index=["method", "seed", "step"], columns="probe", values="value")
    wide = wide.reindex(columns=["learned", kept.key]).rename(columns={kept.key: "kept"})
    runs = wide.dropna(subset="learned").rename_axis(columns=None).reset_index()
    steps = runs.groupby(["method", "step"], as_index=False)
    means = steps.agg(learned=("learned", "mean"), kept=("kept", "mean"), n=("seed", "nunique"))
    means = means[means["n"] == means.groupby("method")["n"].transform("max")]
    return Paths(kept, runs, means.reset_index(drop=True))
