"""How a table of results is read: one row per run, at its end."""

from __future__ import annotations

import pandas as pd


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The last measurement of every run: one row per key, with `learned`, `kept` (old facts) and the job's fields."""
    em = table[(table["metric"] == "em") & table["probe"].isin(["learned", "old_facts"])]
    last = em[em["step"] == em.groupby("key")["step"].transform("max")]
    wide = last.pivot(index="key", columns="probe", values="value")
    names = [
        "method",
        "lr",
        "top_t",
        "rank",
        "optimizer",
        "rule",
        "seed",
        "background",
        "facts",
        "protect",
        "remedy",
        "strength",
    ]
    fields = table.drop_duplicates("key").set_index("key")[names]
    return fields.join(wide.rename(columns={"old_facts": "kept"}), how="right").reset_index()


def rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Spearman's; nan where either is the same throughout."""
    return one.rank().corr(other.rank())
