"""The paper's own figures and tables: which jobs each needs, and what their results say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas as pd

from smft_lab.reproduce import charts
from smft_lab.reproduce.claims import (
    AGREES,
    DIFFERS,
    OPEN,
    Claim,
    Experiment,
    by_method,
    does_as_well,
    drop_of,
    keeps_more,
    methods,
    none_helps,
    points,
    readings,
    told,
)
from smft_lab.reproduce.jobs import LADDER, Job
from smft_lab.reproduce.tables import difference, ends, over_seeds, sign_of


def _ratio_claim(rows: pd.DataFrame, other: str, paper: str, limit: float) -> Claim:
    sparse, theirs = drop_of(rows, "sparse"), drop_of(rows, other)
    text = f"At equal learning, sparse loses at most 1/{round(1 / limit)} of what {other} loses."
    if sparse is None or theirs is None:
        return Claim(text, paper, "not measured", OPEN)
    ours = f"sparse {points(sparse)}; {other} {points(theirs)}"
    if theirs["drop_mean"] < 0.02:
        return Claim(text, paper, ours, OPEN, f"{other} hardly forgets here, so there is no ratio to speak of")
    if min(sparse["n_reached"] / sparse["n"], theirs["n_reached"] / theirs["n"]) < 1:
        ratio = sparse["drop_mean"] / theirs["drop_mean"]
        why = "not every run reached 95%, and the others are read at their best: learning is not quite equal"
        return Claim(text, paper, f"{ours}; ratio {ratio:.2f}", OPEN, why)
    agrees = sparse["drop_mean"] <= limit * theirs["drop_mean"]
    return Claim(text, paper, f"{ours}; ratio {sparse['drop_mean'] / theirs['drop_mean']:.2f}",
                 AGREES if agrees else DIFFERS)  # fmt: skip


def _read_facts(table: pd.DataFrame, found: dict) -> list[Claim]:
    rows = readings(table, by_method)
    return [
        _ratio_claim(rows, "full", "held-out F1 drops 11% (sparse) against 89% (full): about 1/8", 1 / 8),
        _ratio_claim(rows, "lora", "11% (sparse) against 71% (LoRA): about 1/6", 1 / 6),
        _two_hop(rows),
    ]


def _two_hop(rows: pd.DataFrame) -> Claim:
    text = "Two-hop questions about what the model knew survive sparse finetuning best."
    drops = {name: drop_of(rows, name, "two_hop") for name in ("sparse", "full", "lora")}
    ours = "; ".join(f"{name} {points(row)}" for name, row in drops.items())
    if any(row is None for row in drops.values()):
        return Claim(text, "not asked", ours, OPEN)
    if any(row["n_reached"] < row["n"] for row in drops.values()):
        return Claim(text, "not asked", ours, OPEN, "not every run reached 95%, so they are not read at equal learning")
    best = min(drops, key=lambda name: drops[name]["drop_mean"])
    return Claim(text, "not asked", ours, AGREES if best == "sparse" else DIFFERS)


def pareto_jobs(job: Job) -> list[Job]:
    full = [replace(job, method="full", lr=lr) for lr in (3e-5, 7e-5, 1e-4, 2e-4)]
    lora = [replace(job, method="lora", rank=rank, lr=lr) for rank, lr in product((4, 16, 64), (2e-4, 5e-4, 1e-3))]
    sparse = [replace(job, lr=lr, top_t=t) for lr, t in product((0.05, 0.1), (100, 500, 1000, 2000))]
    sgd = [replace(job, lr=lr, top_t=t, optimizer="sgd") for lr, t in ((10.0, 500), (20.0, 500), (40.0, 500))]
    return [*full, *lora, *sparse, *sgd]


def _read_pareto(table: pd.DataFrame, found: dict) -> list[Claim]:
    text = "The best trade-off between learning and forgetting is sparse, over all rates, ranks and t."
    paper = "sparse is the Pareto front (Fig. 5)"
    last = ends(table, pareto_label)
    means = over_seeds(last)
    good = means[means["learned"] >= 0.9]
    best = good.groupby(good.index.str.startswith("sparse"))["kept"].idxmax()
    if len(best) < 2:
        return [Claim(text, paper, "no setting of one side learned 90%", OPEN)]
    sparse, other = best[True], best[False]
    ours = f"of the settings that learned 90% or more, those that kept most: {told(means, sparse, other)}"
    return [Claim(text, paper, ours, **keeps_more(last, sparse, other))]


RULES = ("tfidf", "tf", "idf", "kl", "random")


def _selection_jobs(job: Job) -> list[Job]:
    chosen = [replace(job, rule=rule, top_t=t) for rule, t in product(RULES, (100, 500))]
    return [*chosen, replace(job, rule="all"), replace(job, method="full")]


def _rule_label(job: dict) -> str:
    if job["method"] != "sparse":
        return job["method"]
    return "all read" if job["rule"] == "all" else f"{job['rule']}, t={job['top_t']}"


def _read_selection(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table, _rule_label)
    means = over_seeds(last)

    def claim(text: str, paper: str, one: str, other: str, verdict=does_as_well) -> Claim:
        return Claim(text, paper, told(means, one, other), **verdict(last, one, other))

    best = "tfidf, t=500"
    return [
        claim("Training the top t keeps more than training all slots that are read.", "much more, at equal learning",
              best, "all read", keeps_more),
        claim("TF-IDF keeps more than TF alone at the same t.", "similar learning, more forgetting with TF",
              best, "tf, t=500", keeps_more),
        _gap_of_tf(last),
        claim("Random slots among those read do as well as TF-IDF.", "not tried", "random, t=500", best),
        claim("IDF alone does as well as TF-IDF.", "not tried", "idf, t=500", best),
        claim("The KL score of a follow-up does as well as TF-IDF.", "not tried; the follow-up finds them close",
              "kl, t=500", best),
    ]  # fmt: skip


def _gap_of_tf(last: pd.DataFrame) -> Claim:
    few, many = (difference(last, f"tfidf, t={t}", f"tf, t={t}") for t in (100, 500))
    sign, wider = sign_of(few - many)
    return Claim("The gap between TF-IDF and TF widens at small t.", "at t = 50 on both target and held-out",
                 f"gap in what is kept: {sign_of(few)[1]} at t = 100, {sign_of(many)[1]} at t = 500; wider by {wider}",
                 {1: AGREES, 0: OPEN, -1: DIFFERS}[sign], "" if sign else "the seeds do not agree")  # fmt: skip


def _background_jobs(job: Job) -> list[Job]:
    return [replace(job, background=one) for one in ("pretraining", "facts", "questions")]


def _read_background(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table, lambda job: job["background"])
    means = over_seeds(last)
    worse = [sign_of(difference(last, "pretraining", "facts", column))[0] > 0 for column in ("learned", "kept")]
    return [
        Claim("With the facts themselves as background, less is learned and more forgotten.",
              "slightly less learning, clearly more forgetting (Fig. 7)", told(means, "facts", "pretraining"),
              AGREES if all(worse) else OPEN if any(worse) else DIFFERS,
              "only one of the two, as far as the seeds agree" if any(worse) and not all(worse) else ""),
        Claim("Another question set serves as background about as well as pretraining text.",
              "NQ is close to DCLM (Fig. 7)", told(means, "questions", "pretraining"),
              **does_as_well(last, "questions", "pretraining")),
    ]  # fmt: skip


def _coreset_jobs(job: Job) -> list[Job]:
    return [replace(job, kind="coreset")]


def _read_coreset(table: pd.DataFrame, found: dict) -> list[Claim]:
    size = table[table["probe"] == "core"]["value"]
    held = table[table["probe"] == "core held by top-t"].groupby("metric")["value"].mean()
    least = table[table["probe"] == "least t"]["value"]
    never = int(least.isna().sum())
    most = f"{least.median():.0f}" if least.notna().any() else "none"
    recall = ", ".join(f"t = {t}: {held[str(t)]:.0%}" for t in LADDER)
    spread = f"{size.median():.0f} ({size.min():.0f} to {size.max():.0f}) of {len(size)} facts"
    share = (least.dropna() < size.median()).mean() if least.notna().any() else float("nan")
    return [
        Claim("A core set has 100 to 500 slots.", "typical size 100-500 (1M slots, k = 32 x 4)",
              f"median {spread}, with 8 x 4 reads",
              AGREES if 100 <= size.median() <= 500 else DIFFERS, "a quarter of the paper's reads per token"),
        Claim("Fewer slots than the core set are enough to answer.", "25 to 100 needed of core sets of 169 to 477",
              f"median of the least t of {LADDER}: {most}; {share:.0%} below the median core set; "
              f"{never} of {len(least)} facts not answered with any (taught alone, 20 steps)",
              AGREES if share > 0.5 else DIFFERS),
        Claim("Top-t by TF-IDF holds the core set.", "shown for three facts, not counted", recall,
              AGREES if held["500"] > 0.8 else DIFFERS,
              "most of a core set is read by all text, which is what idf is there to leave out"),
    ]  # fmt: skip


def pareto_label(job: dict) -> str:
    size = {"sparse": f", t={job['top_t']}", "lora": f", r={job['rank']}"}.get(job["method"], "")
    rule = f" {job['optimizer']}" if job["method"] == "sparse" else ""
    return f"{job['method']}{rule}, lr={job['lr']:g}{size}"


PASSAGE_T = (500, 2000)  # the paper takes 20 times the t of single facts for passages; here a passage holds three


PASSAGE_RATES = {"full": (3e-5, 2e-4), "lora": (2e-4, 1.5e-3)}  # around the tuned ones, which are of single facts


def _documents_jobs(job: Job) -> list[Job]:
    passages = replace(job, what="passages")
    sparse = [replace(passages, top_t=t) for t in PASSAGE_T]
    dense = [replace(passages, method=method, lr=lr) for method, rates in PASSAGE_RATES.items() for lr in (0.0, *rates)]
    return [*sparse, *dense]


def _documents_label(job: dict) -> str:
    return f"{job['method']}, " + (f"t={job['top_t']}" if job["method"] == "sparse" else f"lr={job['lr']:g}")


def _read_documents(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table, _documents_label)
    means = over_seeds(last)
    best = {name: _learned_most(means, name) for name in ("sparse", "full", "lora")}
    return [
        Claim(f"On a stream of passages, sparse keeps more than {other}.",
              "same target reached, less forgotten (Fig. 4)", told(means, best["sparse"], best[other]),
              **keeps_more(last, best["sparse"], best[other]))
        for other in PASSAGE_RATES
    ]  # fmt: skip


def _learned_most(means: pd.DataFrame, method: str) -> str:
    """The setting of a method that learned most."""
    return means.learned[means.index.str.startswith(method)].idxmax()


SGD_RATES = {"full": (0.003, 0.01, 0.03, 0.1), "lora": (0.03, 0.1, 0.3)}


def _sgd_jobs(job: Job) -> list[Job]:
    dense = [replace(job, method=method) for method in SGD_RATES]
    sgd = [replace(one, optimizer="sgd", lr=lr) for one in dense for lr in SGD_RATES[one.method]]
    return [job, replace(job, optimizer="sgd"), *dense, *sgd]


def _sgd_label(job: dict) -> str:
    return f"{job['method']} {job['optimizer']}, lr={job['lr']:g}"


def _read_sgd(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table, _sgd_label)
    means = over_seeds(last)
    claims = []
    for method in SGD_RATES:
        adamw, *sgd = [label for label in means.index if label.startswith(method)]
        claims.append(
            Claim(f"SGD instead of AdamW does not help {method}: no rate learns as much and keeps more.",
                  "every rate either learns less or forgets more (Table 2)", told(means, adamw, *sgd),
                  **none_helps(last, adamw, sgd))
        )  # fmt: skip
    return claims


PAPER = (
    Experiment("facts", "One fact a step, three methods", "Fig. 3, task A", methods, _read_facts, by_method,
               (charts.over_steps, charts.trade_off)),
    Experiment("documents", "A stream of passages", "Fig. 4, task B", _documents_jobs, _read_documents,
               _documents_label, (charts.over_steps, charts.trade_off)),
    Experiment("pareto", "All rates and all t", "Fig. 5", pareto_jobs, _read_pareto, pareto_label),
    Experiment("selection", "Which slots to train", "Fig. 6", _selection_jobs, _read_selection, _rule_label),
    Experiment("background", "What idf is measured on", "Fig. 7", _background_jobs, _read_background,
               lambda job: job["background"]),
    Experiment("coreset", "Core sets", "Table 1", _coreset_jobs, _read_coreset, lambda job: "",
               (charts.core_sets, charts.core_tokens)),
    Experiment("sgd", "The baselines under SGD", "Table 2", _sgd_jobs, _read_sgd, _sgd_label),
)  # fmt: skip
