"""The paper's own figures and tables: which jobs each needs, and what their results say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas as pd

from smft_lab.reproduce import charts
from smft_lab.reproduce.claims import (
    AGREES,
    BY_SIGN,
    DIFFERS,
    OPEN,
    Claim,
    Experiment,
    all_of,
    below,
    by_method,
    does_as_well,
    drop_of,
    keeps_more,
    methods,
    none_helps,
    points,
    ratio_of_drops,
    readings,
    told,
    told_ratio,
)
from smft_lab.reproduce.jobs import LADDER, Job
from smft_lab.reproduce.tables import difference, ends, over_seeds, sign_of

MORE_SEEDS = 100  # what is lost differs much from seed to seed, so the headline has twice as many


def _facts_jobs(job: Job) -> list[Job]:
    return [*methods(job), *methods(replace(job, seed=job.seed + MORE_SEEDS))]


NOT_EQUAL = "not every run reached 95%, and the others are read at their best: learning is not quite equal"


def _at_equal_learning(table: pd.DataFrame, text: str, paper: str, other: str, limit: float,
                       probe: str = "old_facts") -> Claim:  # fmt: skip
    """The claim that sparse loses at most `limit` of what another method loses, each where it had learned 95%."""
    rows = readings(table, by_method)
    sparse, theirs = (drop_of(rows, name, probe) for name in ("sparse", other))
    ratio = ratio_of_drops(table, by_method, "sparse", other, probe)
    ours = f"sparse {points(sparse)}; {other} {points(theirs)}; ratio, seed by seed, {told_ratio(*ratio)}"
    if theirs["drop_mean"] < 0.02:
        return Claim(text, paper, ours, OPEN, f"{other} hardly forgets here, so there is no ratio to speak of")
    if min(sparse["n_reached"] / sparse["n"], theirs["n_reached"] / theirs["n"]) < 1:
        return Claim(text, paper, ours, OPEN, NOT_EQUAL)
    return Claim(text, paper, ours, below(limit, *ratio))


HEADLINE = {
    "full": ("held-out F1 drops by 11% (sparse) against 89% (full): about 1/8", 8),
    "lora": ("held-out F1 drops by 11% (sparse) against 71% (LoRA): about 1/6", 6),
}


def _read_facts(table: pd.DataFrame, found: dict) -> list[Claim]:
    less = [
        _at_equal_learning(table, f"At equal learning, sparse loses less than {other}.", paper, other, 1)
        for other, (paper, _) in HEADLINE.items()
    ]
    shares = [
        _at_equal_learning(table, f"At equal learning, sparse loses at most 1/{part} of what {other} loses.", paper,
                           other, 1 / part)
        for other, (paper, part) in HEADLINE.items()
    ]  # fmt: skip
    two_hop = [
        _at_equal_learning(table, f"Sparse loses less than {other} of the two-hop questions about what the model knew.",
                           "not asked", other, 1, "two_hop")
        for other in HEADLINE
    ]  # fmt: skip
    return [*less, *shares, *two_hop]


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

    def more(text: str, paper: str, one: str, other: str) -> Claim:
        return Claim(text, paper, told(means, one, other), **keeps_more(last, one, other))

    def both(text: str, paper: str, rule: str) -> Claim:
        pairs = [(f"{rule}, t={t}", f"tfidf, t={t}") for t in (100, 500)]
        verdicts = [does_as_well(last, *pair) for pair in pairs]
        return Claim(text, paper, told(means, *(label for pair in pairs for label in pair)), **all_of(verdicts))

    best = "tfidf, t=500"
    lost = 1 - means.kept
    naive = Claim("Without a choice of slots, a memory model forgets catastrophically, too.",
                  "said of training all slots that are read", told(means, "all read", "full", best),
                  AGREES if lost["all read"] > 0.5 * lost["full"] else DIFFERS,
                  "catastrophically: more than half of what full finetuning loses")  # fmt: skip
    return [
        more("Training the top t keeps more than training all slots that are read.",
             "learns as much and keeps more (Fig. 6)", best, "all read"),
        more("TF-IDF keeps more than TF alone at the same t.", "similar learning, more forgetting with TF",
             best, "tf, t=500"),
        _gap_of_tf(last),
        naive,
        both("Random slots among those read do as well as TF-IDF.", "not tried", "random"),
        both("IDF alone does as well as TF-IDF.", "not tried", "idf"),
        both("The KL score of a follow-up does as well as TF-IDF.", "not tried; the follow-up finds them close", "kl"),
    ]  # fmt: skip


def _gap_of_tf(last: pd.DataFrame) -> Claim:
    few, many = (difference(last, f"tfidf, t={t}", f"tf, t={t}") for t in (100, 500))
    sign, wider = sign_of(few - many)
    return Claim("The gap between TF-IDF and TF widens at small t.", "at t = 50 on both target and held-out",
                 f"gap in what is kept: {sign_of(few)[1]} at t = 100, {sign_of(many)[1]} at t = 500; wider by {wider}",
                 BY_SIGN[sign], "" if sign else "the seeds do not agree")  # fmt: skip


def _background_jobs(job: Job) -> list[Job]:
    return [replace(job, background=one) for one in ("pretraining", "facts", "questions")]


def _read_background(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table, lambda job: job["background"])
    means = over_seeds(last)
    worse = [sign_of(difference(last, "pretraining", "facts", column))[0] > 0 for column in ("learned", "kept")]
    agree_on = {0: "neither", 1: "one of the two"}
    return [
        Claim("With the facts themselves as background, less is learned and more forgotten.",
              "slightly less learning, clearly more forgetting (Fig. 7)", told(means, "facts", "pretraining"),
              AGREES if all(worse) else OPEN,
              "" if all(worse) else f"the seeds agree on {agree_on[sum(worse)]}"),
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
              f"median {spread}", AGREES if 100 <= size.median() <= 500 else DIFFERS,
              "tokens read fewer slots here than the paper's 128"),
        Claim("Fewer slots than the core set are enough to answer.", "25 to 100 needed of core sets of 169 to 477",
              f"median of the least t of {LADDER}: {most}; {share:.0%} below the median core set; "
              f"{never} of {len(least)} facts not answered with any (taught alone, 20 steps)",
              AGREES if share > 0.5 else DIFFERS),
        Claim("Top-t by TF-IDF holds the core set.", "not counted; shown for three facts", recall,
              AGREES if held["500"] > 0.8 else DIFFERS, "holds: 80% of it, at t = 500"),
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
    more = [
        Claim(f"On a stream of passages, sparse keeps more than {other}.", "less forgotten (Fig. 4)",
              told(means, best["sparse"], best[other]), **keeps_more(last, best["sparse"], best[other]))
        for other in PASSAGE_RATES
    ]  # fmt: skip
    less = [sign_of(difference(last, best[other], best["sparse"], "learned"))[0] < 0 for other in PASSAGE_RATES]
    same = Claim("On a stream of passages, full and lora learn as much as sparse.", "same target reached (Fig. 4)",
                 told(means, *best.values()), DIFFERS if any(less) else AGREES,
                 "so the two claims before this one are not at equal learning" if any(less) else "")  # fmt: skip
    return [*more, same]


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
                  "SGD did not help them (Table 2)", told(means, adamw, *sgd),
                  **none_helps(last, adamw, sgd))
        )  # fmt: skip
    usual, sgd = (next(label for label in means.index if label.startswith(f"sparse {one},")) for one in ("adam", "sgd"))
    helped = Claim("SGD lets sparse keep more than an adaptive optimizer.", "with AdamW it forgot little; SGD helped",
                   told(means, sgd, usual), **keeps_more(last, sgd, usual))  # fmt: skip
    return [helped, *claims]


PAPER = (
    Experiment("facts", "One fact a step, three methods", "Fig. 3, task A", _facts_jobs, _read_facts, by_method,
               (charts.over_steps, charts.trade_off)),
    Experiment("documents", "A stream of passages", "Fig. 4, task B", _documents_jobs, _read_documents,
               _documents_label, (charts.over_steps, charts.trade_off)),
    Experiment("pareto", "All rates and all t", "Fig. 5", pareto_jobs, _read_pareto, pareto_label,
               (charts.fronts,)),
    Experiment("selection", "Which slots to train", "Fig. 6", _selection_jobs, _read_selection, _rule_label),
    Experiment("background", "What idf is measured on", "Fig. 7", _background_jobs, _read_background,
               lambda job: job["background"]),
    Experiment("coreset", "Core sets", "Table 1", _coreset_jobs, _read_coreset, lambda job: "",
               (charts.core_sets, charts.core_tokens)),
    Experiment("sgd", "The baselines under SGD", "Table 2", _sgd_jobs, _read_sgd, _sgd_label),
)  # fmt: skip
