"""What t means: the number of slots N and the reads per head k against forgetting.

The lab's own model is one of five. The others are pretrained as the shipped one was, but for N or k, once, and lie
beside the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from filelock import FileLock

from smft_lab.charts.style import LOOKS, OTHER_LOOKS
from smft_lab.experiments.pretrain import PretrainRecord, PretrainSettings, pretrain
from smft_lab.lab import LAB_FILE
from smft_lab.reproduce.charts import axes, captioned
from smft_lab.reproduce.claims import AGREES, BY_SIGN, DIFFERS, OPEN, Claim, Experiment, points, readings
from smft_lab.reproduce.jobs import Job
from smft_lab.reproduce.tables import correlation, rank_correlation, sign_of

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


def at_equal_learning(table: pd.DataFrame, found: dict) -> pd.DataFrame:
    """One row per setting: slots, k, top_t, distinct (slots that a batch reads), reached (by every seed), learned, and
    drop of the old facts (`drop_mean` and its interval, `n`, `n_reached`)."""
    runs = table.drop_duplicates("key")
    own = runs["slots"] == 0
    settings = runs.assign(
        method=[_label(row) for row in runs.to_dict("records")],
        slots=runs["slots"].mask(own, OWN[0]),
        k=runs["k"].mask(own, OWN[1]),
        distinct=[found[key]["slots_read_per_step"] for key in runs["key"]],
    )
    columns = {"slots": "first", "k": "first", "top_t": "first", "distinct": "mean"}
    rows = readings(table, _label)
    exact = rows[rows["metric"] == "em"].set_index("method")
    drops = exact[exact["probe"] == "old_facts"][["drop_mean", "drop_low", "drop_high", "n", "n_reached"]]
    learned = exact[exact["probe"] == "learned"]["mean"].rename("learned")
    joined = settings.groupby("method", sort=False).agg(columns).join([drops, learned])
    return joined.assign(reached=joined["n_reached"] == joined["n"])


def drops_by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """The drop of the old facts at equal learning: a row per setting, a column per seed."""
    drops = {}
    for seed, runs in table.groupby("seed"):
        rows = readings(runs, _label)
        drops[seed] = rows[(rows["probe"] == "old_facts") & (rows["metric"] == "em")].set_index("method")["drop_mean"]
    return pd.DataFrame(drops)


def _read(table: pd.DataFrame, found: dict) -> list[Claim]:
    rows = at_equal_learning(table, found)
    return [_larger_tables(rows), _share_of_the_table(rows, drops_by_seed(table)), _reads_per_token(rows)]


def _larger_tables(rows: pd.DataFrame) -> Claim:
    tables = rows[rows["k"] == OWN[1]].sort_values("slots").groupby("slots")
    best = [_best(one) for _, one in tables]
    drops = [row["drop_mean"] for row in best if row["reached"]]
    verdict = OPEN if len(drops) < len(best) else AGREES if drops == sorted(set(drops), reverse=True) else DIFFERS
    why = ONE_EACH if verdict != OPEN else "not every table's model learned 95% with some t"
    return Claim("At equal learning, a larger table forgets less, each with its best t.", "not asked", _told(best),
                 verdict, why)  # fmt: skip


def _share_of_the_table(rows: pd.DataFrame, drops: pd.DataFrame) -> Claim:
    text = "Forgetting at equal learning follows t / N, and not t or the share of the slots that a batch reads."
    reached = rows[rows["reached"]]
    if reached["slots"].nunique() < 2 or len(reached) < 4:
        return Claim(text, T_ALONE, f"{len(reached)} of {len(rows)} settings reached 95% with every seed",
                     OPEN, "too few to compare")  # fmt: skip
    measures = {
        "t / N": reached["top_t"] / reached["slots"],
        "t": reached["top_t"],
        "t / slots read": reached["top_t"] / reached["distinct"],
    }
    among = drops.loc[reached.index]
    by_seed = pd.DataFrame(
        {name: among.apply(lambda drop, of=values: rank_correlation(of, drop)) for name, values in measures.items()}
    )
    sign, _ = sign_of(by_seed["t / N"] - by_seed.drop(columns="t / N").max(axis="columns"))
    ours = "; ".join(f"with {name} {correlation(by_seed[name])}" for name in measures)
    return Claim(text, T_ALONE, f"Spearman of the drop over {len(reached)} settings, seed by seed: {ours}",
                 BY_SIGN[sign], ONE_EACH if sign else "the seeds do not agree on which it follows best")  # fmt: skip


def _reads_per_token(rows: pd.DataFrame) -> Claim:
    by_k = dict(list(rows[rows["slots"] == OWN[0]].groupby("k")))
    least = {k: mine[mine["reached"]]["top_t"].min() for k, mine in by_k.items()}
    ours = "; ".join(
        f"k = {k}: {f'none of {SIZES}' if pd.isna(least[k]) else f't = {least[k]:.0f}'}, "
        f"{mine['distinct'].mean():,.0f} slots read by a batch"
        for k, mine in by_k.items()
    )
    known = [t for t in least.values() if pd.notna(t)]
    verdict = OPEN if len(known) < len(least) else AGREES if known == sorted(set(known)) else DIFFERS
    return Claim("The more reads per token, the more slots it takes to learn.", "not asked: k = 32, t = 500", ours,
                 verdict, ONE_EACH if verdict != OPEN else "not every k learned 95% with some t")  # fmt: skip


def _best(rows: pd.DataFrame) -> pd.Series:
    """The setting that forgets least of those that every seed learned with; where there is none, that learned most."""
    reached = rows[rows["reached"]]
    return rows.loc[rows["learned"].idxmax()] if reached.empty else reached.loc[reached["drop_mean"].idxmin()]


def _told(rows: list[pd.Series]) -> str:
    return "; ".join(f"{row.name}: learned {row['learned']:.1%}, drop {points(row)}" for row in rows)


def _draw(table: pd.DataFrame, found: dict, label: Callable[[dict], str]) -> go.Figure:
    """The drop against t: a line per model, and open dots where some seed did not learn enough."""
    figure = go.Figure()
    for place, ((slots, k), rows) in enumerate(at_equal_learning(table, found).groupby(["slots", "k"])):
        look = [*LOOKS.values(), *OTHER_LOOKS][place]
        drop = 100 * rows["drop_mean"]
        error = None
        if rows["drop_high"].notna().any():
            error = {"array": 100 * (rows["drop_high"] - rows["drop_mean"]).astype(float), "thickness": 1}
        symbols = [look.symbol + "-open" * (not reached) for reached in rows["reached"]]
        figure.add_scatter(x=rows["top_t"], y=drop, mode="lines+markers", name=f"N = {slots:,}, k = {k}",
                           line={"color": look.light, "dash": look.dash}, marker={"size": 11, "symbol": symbols},
                           error_y=error, text=[f"{share:.0%}" for share in rows["learned"]],
                           hovertemplate="t = %{x}: %{y:.1f} points, learned %{text}<extra></extra>")  # fmt: skip
    figure = captioned(axes(figure, "t (slots)", "old facts lost (points)"),
                       "Old facts lost at equal learning, mean over seeds with its 95% interval; open: not every seed "
                       "learned 95% with that t")  # fmt: skip
    sizes = sorted(set(table["top_t"]))
    return figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{t:,}" for t in sizes])


SCALE = Experiment("scale", "What t means", "beyond the paper", _jobs, _read, _label, (_draw,))
