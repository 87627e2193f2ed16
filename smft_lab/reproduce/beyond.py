"""Questions that the paper leaves open: which jobs each needs, and what their results say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from smft_lab.reproduce import charts
from smft_lab.reproduce.claims import (
    Claim,
    Experiment,
    by_method,
    learned_and_kept,
    means_in_words,
    methods,
    share_of,
)
from smft_lab.reproduce.jobs import Job
from smft_lab.reproduce.paper import pareto_jobs, pareto_label
from smft_lab.reproduce.scale import LARGEST, ONE_EACH, OWN
from smft_lab.reproduce.tables import (
    answered,
    correlation,
    ends,
    gaps,
    in_points,
    known_before,
    known_in_stream,
    over_seeds,
    rank_correlation,
)
from smft_lab.reproduce.verdicts import (
    LEARNED_ALIKE,
    OPEN,
    all_of,
    at_least,
    at_most,
    keeps_more,
    positive,
    with_caveat,
)

LEARNED, LOST = 0.95, 0.02  # shares: what is learned and kept well is at least, and at most, that


def _read_razor(table: pd.DataFrame, details: dict) -> list[Claim]:
    last = ends(table)
    last["lost"] = 1 - last["kept"]
    last["kl"] = last["key"].map(lambda key: details[key]["kl_on_taught"])
    last["rows"] = last["key"].map(lambda key: details[key]["rows_changed"])
    sparse = last[last["method"] == "sparse"]
    by_kl, by_rows, kl_in_all, rows_in_all = (
        pd.Series({seed: rank_correlation(runs[column], runs["lost"]) for seed, runs in among.groupby("seed")})
        for among in (sparse, last)
        for column in ("kl", "rows")
    )
    every, some = len(last) // len(by_kl), len(sparse) // len(by_kl)
    ours = (
        f"Spearman with what is forgotten, seed by seed: over the {some} sparse runs, KL {correlation(by_kl)}, rows "
        f"changed {correlation(by_rows)}, the difference {correlation(by_kl - by_rows)}; "
        f"over all {every}, KL {correlation(kl_in_all)}, rows {correlation(rows_in_all)}"
    )
    return [
        Claim(
            "Among sparse runs, KL on the new task predicts forgetting better than the number of rows touched.",
            "not asked; RL's Razor says KL predicts forgetting",
            ours,
            **with_caveat(
                positive(by_kl - by_rows),
                "over all runs, rows mostly tell dense ones, which count as having changed all, from sparse ones",
            ),
        )
    ]


def _read_cost(table: pd.DataFrame, details: dict) -> list[Claim]:
    runs = table.drop_duplicates("key").set_index("key")
    cost = pd.DataFrame(
        {
            "method": runs["method"],
            "seed": runs["seed"],
            "weights": [details[key]["trainable_per_step"] for key in runs.index],
            "flops": [details[key]["flops_per_step"] for key in runs.index],
            "seconds": [details[key]["ms_per_step"] * runs["passes"][key] / 1000 for key in runs.index],
        }
    )
    mean = cost.drop(columns="seed").groupby("method", sort=False).mean()
    by_seed = {name: cost.pivot(index="seed", columns="method", values=name) for name in mean.columns}
    cheaper = [
        positive(costs[other] - costs["sparse"]) for costs in by_seed.values() for other in costs.columns.drop("sparse")
    ]
    ours = "; ".join(
        f"{name} {row.weights:,.0f} weights ({4 * row.weights / 1e6:.2g} MB) and {row.flops / 1e9:.2g} GFLOP a step, "
        f"{row.seconds:.2g} s a fact"
        for name, row in mean.iterrows()
    )
    return [
        Claim(
            "A sparse step changes fewer weights, multiplies less and takes less time than the others.",
            "not reported; t = 500 rows of 1,024 weights a step",
            ours,
            all_of(cheaper)["verdict"],
            "FLOP of matrix products alone, in a step of the second pass; time as the runs took it, several at once",
        )
    ]


def _read_update(table: pd.DataFrame, details: dict) -> list[Claim]:
    new, old, others = (answered(table, probe) for probe in ("learned", "old_values", "old_facts"))
    ours = "; ".join(
        f"{name}: new value {share_of(new[name])}, old value {share_of(old[name])}, "
        f"other old facts {share_of(others[name])}"
        for name in table["method"].unique()
    )
    runs = ends(table, by_method)
    changed = all_of([at_least(LEARNED, new["sparse"]), at_most(LOST, old["sparse"])])
    meant = f"new: {LEARNED:.0%} or more; no longer: {LOST:.0%} or less"
    return [
        Claim(
            "A changed fact is answered with its new value, and no longer with the old one.",
            "not asked",
            ours,
            **with_caveat(changed, meant),
        ),
        Claim(
            "Other old facts stay best with sparse.",
            "not asked",
            means_in_words(over_seeds(runs)),
            **all_of([keeps_more(runs, "sparse", name) for name in new.columns.drop("sparse")]),
        ),
    ]


def _stream(job: Job, times: int) -> Job:
    """A stream of so many times the facts, in fewer passes."""
    return replace(job, facts=times * job.facts, passes=max(2, job.passes * 2 // 3))


def _long_stream(job: Job) -> Job:
    """1,000 facts, measured several times a pass: what is known of fact i when fact j has just been taught."""
    return replace(_stream(job, 25), evaluations=4 * job.evaluations)


def _retention_jobs(job: Job) -> list[Job]:
    stream, (slots, k) = _long_stream(job), LARGEST
    return [stream, replace(stream, slots=slots, k=k)]


def _table_label(job: dict) -> str:
    return f"N = {job['slots'] or OWN[0]:,}"


def _read_retention(table: pd.DataFrame, details: dict) -> list[Claim]:
    ours = table[table["slots"] == 0]
    facts = int(ours["facts"].iloc[0])
    own, larger = (_table_label({"slots": slots}) for slots in (0, LARGEST[0]))
    last = ends(table, _table_label)
    means = over_seeds(last)
    base = known_before(ours)
    first = ours.drop_duplicates("key")
    runs = [(details[key]["known"], seed) for key, seed in zip(first["key"], first["seed"], strict=True)]
    again = [_lost_again(known) for known, _ in runs]
    changed = [details[key]["rows_changed"] for key in ours["key"].unique()]
    quarters = pd.DataFrame([_known_of_quarters(known, seed) for known, seed in runs])
    apart = quarters["last"] - quarters["first"]
    caveat = f"{ONE_EACH}; in the recorded runs that of {larger} is another than in scale, of the same settings"
    f1 = ends(ours, _table_label, "f1")
    whole = all_of([at_least(0.7, f1["learned"]), at_most(0.11, 1 - f1["kept"] / known_before(ours, "f1"))])
    return [
        Claim(
            f"{facts:,} facts in a stream are known at its end with F1 over 0.7, and at most 11% of the old is lost.",
            "1,000 facts learned (F1 over 0.7), 11% of held-out F1 lost",
            f"F1: {means_in_words(over_seeds(f1))}; exact match: {means_in_words(means, own)} (base {base:.1%}); "
            f"{sum(again) / len(again):.1%} of the facts once answered were lost again; "
            f"{sum(changed) / len(changed):,.0f} rows changed",
            **whole,
        ),
        Claim(
            "Its facts forget each other: those taught last are known better than those taught first.",
            "not shown: which fact is known when",
            "quarters of the stream, first to last, at its end: "
            f"{', '.join(f'{known:.1%}' for known in quarters.mean())}; last less first {in_points(apart)}",
            **positive(apart),
        ),
        Claim(
            "A larger table keeps more of such a stream.",
            "not varied: 1M slots",
            means_in_words(means, own, larger),
            **with_caveat(keeps_more(last, larger, own), caveat),
        ),
    ]


def _holds(runs: pd.DataFrame, base: float) -> dict:
    """Verdict on "what is taught is known at the end, and little old is lost", of `ends` and the base's share."""
    return all_of([at_least(LEARNED, runs["learned"]), at_most(LOST, base - runs["kept"])])


def _known_of_quarters(known: Sequence[dict], seed: int) -> dict[str, float]:
    """Share known at the end of a run, of each quarter of the facts in the order of the stream."""
    last = known_in_stream(known, seed).iloc[:, -1]
    quarter = 4 * last.index // len(last)
    return dict(zip(("first", "second", "third", "last"), last.groupby(quarter).mean(), strict=True))


def _lost_again(known: Sequence[dict]) -> float:
    ever = [any(reading["known"][i] for reading in known) for i in range(len(known[0]["known"]))]
    now = known[-1]["known"]
    return sum(e and not n for e, n in zip(ever, now, strict=True)) / max(1, sum(ever))


SIZES = (1, 4, 10)


def _capacity_jobs(job: Job) -> list[Job]:
    return [*(_stream(job, times) for times in SIZES), _long_stream(job)]


def _read_capacity(table: pd.DataFrame, details: dict) -> list[Claim]:
    last = ends(table)
    means = over_seeds(last, "facts")
    base = known_before(table)
    ours = "; ".join(f"{facts:,} facts: {learned_and_kept(row)}" for facts, row in means.iterrows())
    return [
        Claim(
            f"Up to {means.index.max():,} facts, 95% stay learned and at most 2 points of old facts go.",
            "not asked",
            f"{ours} (base {base:.1%})",
            **all_of([_holds(runs, base) for _, runs in last.groupby("facts")]),
        )
    ]


PROTECT = (1.0, 5.0)  # background batches that each other fact written counts for


FOLLOWS = 0.9


def _protect_jobs(job: Job) -> list[Job]:
    return [_long_stream(job), *(replace(_stream(job, 25), protect=weight) for weight in PROTECT)]


def _protect_label(job: dict) -> str:
    return f"write log x {job['protect']:g}" if job["protect"] else "background alone"


def _read_protect(table: pd.DataFrame, details: dict) -> list[Claim]:
    last = ends(table, _protect_label)
    means = over_seeds(last)
    alone, *protected = means.index
    return [
        Claim(
            f"An idf that also counts what the run wrote ({label}) learns as much of a long stream, and keeps more "
            "old facts.",
            "not tried: its idf knows pretraining text alone",
            f"{means_in_words(means, alone, label)}; {gaps(last, label, alone)}",
            **keeps_more(last, label, alone),
        )
        for label in protected
    ]


def _read_twohop(table: pd.DataFrame, details: dict) -> list[Claim]:
    changed, follows, others = (answered(table, probe) for probe in ("learned", "new_hops", "two_hop"))
    names = table["method"].unique()
    ours = "; ".join(
        f"{name}: changed hop {share_of(changed[name])}, what follows from it {share_of(follows[name])}, "
        f"other two-hop questions {share_of(others[name])}"
        for name in names
    )
    used = at_least(0, follows["sparse"] - FOLLOWS * changed["sparse"])
    as_much = [at_least(-LEARNED_ALIKE, follows["sparse"] - follows[name]) for name in names if name != "sparse"]
    return [
        Claim(
            "What is taught is used: two-hop questions follow a changed first hop.",
            "not asked",
            ours,
            **with_caveat(used, f"follow: {FOLLOWS:.0%} of what is answered of the changed hops"),
        ),
        Claim(
            "Sparse lets at least as much follow as full finetuning and LoRA.",
            "not asked",
            "; ".join(f"{name} {share_of(follows[name])}" for name in names),
            **with_caveat(all_of(as_much), f"as much: {100 * LEARNED_ALIKE:.0f} points less count as nothing"),
        ),
    ]


REMEDIES = (("replay", 8.0), ("remix", 8.0), ("l2", 0.03), ("l2", 0.1), ("ewc", 0.03), ("ewc", 0.1), ("average", 0.75))


def _baselines_jobs(job: Job) -> list[Job]:
    full = replace(job, method="full")
    return [job, full, *(replace(full, remedy=remedy, strength=strength) for remedy, strength in REMEDIES)]


def _remedy_label(job: dict) -> str:
    return f"{job['method']} + {job['remedy']} {job['strength']:g}" if job["remedy"] else job["method"]


def _read_baselines(table: pd.DataFrame, details: dict) -> list[Claim]:
    last = ends(table, _remedy_label)
    means = over_seeds(last)
    others = means.drop(index="sparse")
    rivals = others[others.learned >= means.learned["sparse"] - LEARNED_ALIKE]
    text = "Sparse keeps more than full finetuning with any of these remedies that learns as much."
    paper = "not tried: replay, EWC, averaging and the like are left out"
    if rivals.empty:
        return [Claim(text, paper, means_in_words(means), OPEN, "no remedy learned as much")]
    verdict = all_of([keeps_more(last, "sparse", rival) for rival in rivals.index])
    why = (
        f"of those that learned as much, {rivals.kept.idxmax()} keeps most; replay may look at pretraining text; "
        "remedies are at full's tuned rate alone: pareto has lower ones, without a remedy"
    )
    return [Claim(text, paper, means_in_words(means), **with_caveat(verdict, why))]


BEYOND = (
    Experiment(
        "razor", "What predicts forgetting", "beyond the paper", pareto_jobs, _read_razor, pareto_label, (charts.razor,)
    ),
    Experiment("cost", "What a fact costs", "beyond the paper", methods, _read_cost, by_method, (charts.cost,)),
    Experiment(
        "update",
        "Changed facts",
        "beyond the paper",
        lambda job: methods(replace(job, what="changed")),
        _read_update,
        by_method,
    ),
    Experiment(
        "twohop",
        "What follows from a changed fact",
        "beyond the paper",
        lambda job: methods(replace(job, what="hops")),
        _read_twohop,
        by_method,
    ),
    Experiment(
        "baselines", "Remedies for full finetuning", "beyond the paper", _baselines_jobs, _read_baselines, _remedy_label
    ),
    Experiment(
        "retention",
        "A long stream",
        "beyond the paper",
        _retention_jobs,
        _read_retention,
        _table_label,
        (charts.retention, charts.over_steps),
    ),
    Experiment(
        "capacity",
        "How many facts fit",
        "beyond the paper",
        _capacity_jobs,
        _read_capacity,
        lambda job: f"{job['facts']:,} facts",
        (charts.capacity,),
    ),
    Experiment(
        "protect", "Protecting what was written", "beyond the paper", _protect_jobs, _read_protect, _protect_label
    ),
)
