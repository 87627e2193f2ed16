"""How a table of results is read: one row per run, at its end or at equal learning; and what the seeds say of a
difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd

from smft_lab.experiments.equal import mean_interval, read_run
from smft_lab.finetuning.teaching import stream_order

MEASURED = ["step", "probe", "metric", "value"]  # columns of a table of results besides the jobs' fields and `key`


def ends(
    table: pd.DataFrame, label: Callable[[dict], str] | None = None, metric: Literal["em", "f1"] = "em"
) -> pd.DataFrame:
    """The last measurement of every run: one row per key, with `learned`, `kept` (old facts) and the job's fields;
    and with its `label`, where one is given.

    Args:
        metric: Of both: exact match or F1.
    """
    rows = table[(table["metric"] == metric) & table["probe"].isin(["learned", "old_facts"])]
    last = rows[rows["step"] == rows.groupby("key")["step"].transform("max")]
    wide = last.pivot(index="key", columns="probe", values="value")
    fields = table.drop_duplicates("key").set_index("key").drop(columns=MEASURED)
    rows = fields.join(wide.rename(columns={"old_facts": "kept"}), how="inner").reset_index()
    return rows if label is None else rows.assign(label=[label(row) for row in rows.to_dict("records")])


def at_target(table: pd.DataFrame, label: Callable[[dict], str], probe: str = "old_facts") -> pd.DataFrame:
    """Every run where it had learned 95%, or at its best where it never did (see `read_run`).

    Returns:
        One row per run: `key`, `label`, `seed`, whether it `reached` 95%, `learned`, `kept` (exact match of `probe`)
        and `lost` (how much that is below the base's).
    """
    answers = table[(table["kind"] == "finetune") & (table["metric"] == "em")]
    rows = []
    for key, run in answers.groupby("key", sort=False):
        reached, values = read_run(run[MEASURED])
        base = run.loc[(run["step"] == 0) & (run["probe"] == probe), "value"].item()
        kept = values[probe, "em"]
        rows.append(
            {
                "key": key,
                "label": label(run.iloc[0].to_dict()),
                "seed": run["seed"].iloc[0],
                "reached": reached,
                "learned": values["learned", "em"],
                "kept": kept,
                "lost": base - kept,
            }
        )
    return pd.DataFrame(rows)


def over_seeds(last: pd.DataFrame, by: str | list[str] = "label") -> pd.DataFrame:
    """Mean over seeds of what runs learned and kept, and half the width of its 95% interval (`learned_half`,
    `kept_half`; nan with one seed), per setting in the order in which they came."""
    groups = last.groupby(by, sort=False)[["learned", "kept"]]
    return groups.mean().join(groups.agg(half_width).add_suffix("_half"))


def answered(table: pd.DataFrame, probe: str) -> pd.DataFrame:
    """Share of a probe answered at the end of the runs: a row per seed, a column per method."""
    em = table[(table["metric"] == "em") & (table["step"] == table.groupby("key")["step"].transform("max"))]
    return em[em["probe"] == probe].pivot(index="seed", columns="method", values="value")


def half_width(values: pd.Series) -> float:
    """Of the 95% interval over seeds; nan with one."""
    mean, low, _ = mean_interval(values)
    return float("nan") if low is None else mean - low


def difference(last: pd.DataFrame, label: str, other: str, column: str = "kept") -> pd.Series:
    """`column` of `label` less that of `other`, seed by seed.

    Raises:
        ValueError: one of them lacks a seed.
    """
    wide = last.pivot(index="seed", columns="label", values=column)[[label, other]].dropna(how="all")
    if wide.isna().any(axis=None):
        raise ValueError(f"{label} and {other} have not the same seeds")
    return wide[label] - wide[other]


def gap(last: pd.DataFrame, label: str, other: str, column: str = "kept") -> str:
    """`difference` in words."""
    return in_points(difference(last, label, other, column))


def gaps(last: pd.DataFrame, label: str, other: str) -> str:
    """`gap` of what is learned and of what is kept."""
    return ", ".join(f"{column} {gap(last, label, other, column)}" for column in ("learned", "kept"))


def in_points(differences: pd.Series) -> str:
    """The mean of a difference per seed, with its 95% interval, in words."""
    mean, low, high = mean_interval(differences)
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * mean:+.1f} points{interval}"


def known_in_stream(known: Sequence[dict], seed: int) -> pd.DataFrame:
    """Which facts a run knew when (0 or 1): a row per fact, in the order in which its seed's stream taught them, and a
    column per measured step.

    Args:
        known: `{"step", "known"}` per measurement, as in a result; facts as they were drawn.
    """
    table = pd.DataFrame({reading["step"]: reading["known"] for reading in known})
    return table.iloc[stream_order(len(table), seed)].reset_index(drop=True)


def known_before(table: pd.DataFrame, metric: Literal["em", "f1"] = "em") -> float:
    """Share of the old facts that the base answers, or its F1."""
    rows = table[(table["probe"] == "old_facts") & (table["metric"] == metric) & (table["step"] == 0)]
    return rows["value"].mean()


def rank_correlation(values: pd.Series, other: pd.Series) -> float:
    """Spearman's; nan where either is the same throughout.

    Raises:
        ValueError: they are not of the same things, which would be ranked among different ones.
    """
    if set(values.index) != set(other.index):
        raise ValueError("a rank correlation needs both values of everything it is over")
    return values.rank().corr(other.rank())


def correlation(of_seeds: pd.Series) -> str:
    """A correlation in words: its mean over seeds, with half the width of its 95% interval."""
    half = half_width(of_seeds)
    return f"{of_seeds.mean():.2f}" + ("" if pd.isna(half) else f" ± {half:.2f}")
