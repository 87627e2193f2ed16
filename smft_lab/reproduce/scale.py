"""What t means: the number of slots N and the reads per head k against forgetting.

The lab's own model is one of five. The others are pretrained as the shipped one was, but for N or k, once, and lie
beside the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import pandas as pd
import plotly.graph_objects as go
from filelock import FileLock

from smft_lab.charts.style import LOOKS, OTHER_LOOKS
from smft_lab.reproduce.charts import axes, captioned
from smft_lab.reproduce.claims import Claim, Experiment, lost
from smft_lab.reproduce.jobs import Job
from smft_lab.reproduce.tables import at_target, correlation, difference, half_width, rank_correlation
from smft_lab.reproduce.verdicts import AGREES, DIFFERS, OPEN, all_of, positive, with_caveat
from smft_lab.storage import LAB_FILE
from smft_lab.training.pretrain import PretrainRecord, PretrainSettings, pretrain

OWN = (57_600, 8)  # slots and reads per head of the shipped model
LARGEST = (262_144, 8)
OTHERS = ((4_096, 8), LARGEST, (57_600, 2), (57_600, 32))
SIZES = (100, 500, 2000)  # t
T_ALONE = "not asked: it reports t alone"
ONE_EACH = "one pretrained model per table: another might turn the order round"


def model_folder(job: Job, models: Path) -> Path:
    """Where the model of a job with `slots` is, or will be."""
    return models / f"slots-{job.slots}-k-{job.k}-steps-{job.pretraining}"


def pretrained(job: Job, models: Path) -> Iterator[PretrainRecord]:
    """Pretrain the model of a job with `slots`, unless it is there; waits where another process is at it.

    Yields:
        The records of `pretrain`, from where an earlier call was cut off.
    """
    folder = model_folder(job, models)
    settings = PretrainSettings(
        steps=job.pretraining,
        memory_slots=job.slots,
        memory_k=job.k,
        evaluate_every=200,
        background_batches=min(PretrainSettings.background_batches, job.pretraining),  # fewer in a quick run
    )
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{folder.name}.pretraining.lock"):  # saving the lab takes the shorter name
        if not (folder / LAB_FILE).exists():
            yield from pretrain(folder, settings)


def _jobs(job: Job) -> list[Job]:
    models = [job, *(replace(job, slots=slots, k=k) for slots, k in OTHERS)]
    return [replace(model, top_t=t) for model in models for t in SIZES]


def _label(job: dict) -> str:
    slots, k = (job["slots"], job["k"]) if job["slots"] else OWN
    return f"N = {slots:,}, k = {k}, t = {job['top_t']}"


def at_equal_learning(table: pd.DataFrame, details: dict) -> pd.DataFrame:
    """The runs as `at_target` reads them, with slots, k, top_t and distinct (slots that a batch reads)."""
    jobs = table.drop_duplicates("key").set_index("key")
    own = jobs["slots"] == 0
    settings = pd.DataFrame(
        {
            "slots": jobs["slots"].mask(own, OWN[0]),
            "k": jobs["k"].mask(own, OWN[1]),
            "top_t": jobs["top_t"],
            "distinct": [details[key]["slots_read_per_step"] for key in jobs.index],
        }
    )
    return at_target(table, _label).join(settings, on="key")


def by_setting(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per label of `at_equal_learning`: means over seeds, `half` the interval's width of what is lost, and
    whether every seed `reached` 95%."""
    columns = {
        "slots": "first",
        "k": "first",
        "top_t": "first",
        "distinct": "mean",
        "learned": "mean",
        "lost": "mean",
        "reached": "all",
    }
    groups = runs.groupby("label", sort=False)
    return groups.agg(columns).assign(half=groups["lost"].agg(half_width))


def _read(table: pd.DataFrame, details: dict) -> list[Claim]:
    runs = at_equal_learning(table, details)
    return [_larger_tables(runs), _share_of_the_table(runs), _reads_per_token(runs)]


def _larger_tables(runs: pd.DataFrame) -> Claim:
    settings = by_setting(runs)
    tables = settings[settings["k"] == OWN[1]].sort_values("slots").groupby("slots")
    best = [_best(of_size) for _, of_size in tables]
    ours = "; ".join(f"{row.name}: learned {row['learned']:.1%}, lost {lost(runs, str(row.name))}" for row in best)
    text = "At equal learning, a larger table forgets less, each with its best t."
    if not all(row["reached"] for row in best):
        return Claim(text, "not asked", ours, OPEN, "not every table's model learned 95% with some t")
    pairs = pairwise(str(row.name) for row in best)
    less = [positive(difference(runs, smaller, larger, "lost")) for smaller, larger in pairs]
    return Claim(text, "not asked", ours, **with_caveat(all_of(less), ONE_EACH))


def _share_of_the_table(runs: pd.DataFrame) -> Claim:
    text = "Forgetting at equal learning follows t / N, and not t or the share of the slots that a batch reads."
    settings = by_setting(runs)
    reached = settings[settings["reached"]]
    if reached["slots"].nunique() < 2 or len(reached) < 4:
        return Claim(
            text,
            T_ALONE,
            f"{len(reached)} of {len(settings)} settings reached 95% with every seed",
            OPEN,
            "too few to compare",
        )
    measures = {
        "t / N": reached["top_t"] / reached["slots"],
        "t": reached["top_t"],
        "t / slots read": reached["top_t"] / reached["distinct"],
    }
    among = runs.pivot(index="label", columns="seed", values="lost").loc[reached.index]
    by_seed = pd.DataFrame(
        {name: among.apply(lambda drop, of=values: rank_correlation(of, drop)) for name, values in measures.items()}
    )
    lead = by_seed["t / N"] - by_seed.drop(columns="t / N").max(axis="columns")
    ours = "; ".join(f"with {name} {correlation(by_seed[name])}" for name in measures)
    return Claim(
        text,
        T_ALONE,
        f"Spearman of the drop over {len(reached)} settings, seed by seed: {ours}",
        **with_caveat(positive(lead), ONE_EACH),
    )


def _reads_per_token(runs: pd.DataFrame) -> Claim:
    settings = by_setting(runs)
    by_k = dict(list(settings[settings["slots"] == OWN[0]].groupby("k")))
    least = {k: runs_of_k[runs_of_k["reached"]]["top_t"].min() for k, runs_of_k in by_k.items()}
    ours = "; ".join(
        f"k = {k}: {f'none of {SIZES}' if pd.isna(least[k]) else f't = {least[k]:.0f}'}, "
        f"{runs_of_k['distinct'].mean():,.0f} slots read by a batch"
        for k, runs_of_k in by_k.items()
    )
    known = [t for t in least.values() if pd.notna(t)]
    verdict = OPEN if len(known) < len(least) else AGREES if known == sorted(set(known)) else DIFFERS
    return Claim(
        "The more reads per token, the more slots it takes to learn.",
        "not asked: k = 32, t = 500",
        ours,
        verdict,
        ONE_EACH if verdict != OPEN else "not every k learned 95% with some t",
    )


def _best(rows: pd.DataFrame) -> pd.Series:
    """The setting that forgets least of those that every seed learned with; where there is none, that learned most."""
    reached = rows[rows["reached"]]
    label = rows["learned"].idxmax() if reached.empty else reached["lost"].idxmin()
    return cast(pd.Series, rows.loc[str(label)])


def _draw(table: pd.DataFrame, details: dict, label: Callable[[dict], str]) -> go.Figure:
    """The drop against t: a line per model, and open dots where some seed did not learn enough."""
    figure = go.Figure()
    settings = by_setting(at_equal_learning(table, details))
    for place, ((slots, k), rows) in enumerate(settings.groupby(["slots", "k"])):
        look = [*LOOKS.values(), *OTHER_LOOKS][place]
        error = {"array": 100 * rows["half"], "thickness": 1} if rows["half"].notna().any() else None
        symbols = [look.symbol + "-open" * (not reached) for reached in rows["reached"]]
        figure.add_scatter(
            x=rows["top_t"],
            y=100 * rows["lost"],
            mode="lines+markers",
            name=f"N = {slots:,}, k = {k}",
            line={"color": look.light, "dash": look.dash},
            marker={"size": 11, "symbol": symbols},
            error_y=error,
            text=[f"{share:.0%}" for share in rows["learned"]],
            hovertemplate="t = %{x}: %{y:.1f} points, learned %{text}<extra></extra>",
        )
    figure = captioned(
        axes(figure, "t (slots)", "old facts lost (points)"),
        "Old facts lost at equal learning, mean over seeds with its 95% interval; open: not every seed "
        "learned 95% with that t",
    )
    sizes = sorted(set(table["top_t"]))
    return figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{t:,}" for t in sizes])


SCALE = Experiment("scale", "What t means", "beyond the paper", _jobs, _read, _label, (_draw,))
