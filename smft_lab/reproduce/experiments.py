"""The experiments: which jobs each needs, and what their results say about the paper's claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import pandas as pd
from scipy import stats

from smft_lab.experiments.equal import read_run, summarise
from smft_lab.reproduce.jobs import LADDER, Job

LEARNED_ALIKE, KEPT_ALIKE = 0.05, 0.01  # shares; a smaller difference is none
AGREES, DIFFERS, OPEN = "agrees", "differs", "can't be said at this scale"


@dataclass(frozen=True)
class Claim:
    """One thing the paper says, or leaves open, beside what was measured.

    Attributes:
        paper, ours: In words, with the numbers.
        verdict: `AGREES`, `DIFFERS` or `OPEN`.
        why: What to keep in mind.
    """

    text: str
    paper: str
    ours: str
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Experiment:
    """A question, its jobs, and how their table is read.

    Attributes:
        jobs: From a template job to the jobs of one seed.
        read: From the rows of all its jobs (see `table_of`) and the `found` values per result to claims.
        label: From a job's fields to what its line in the chart is called; "" leaves it out.
    """

    name: str
    title: str
    paper: str
    jobs: Callable[[Job], list[Job]]
    read: Callable[[pd.DataFrame, dict], list[Claim]]
    label: Callable[[dict], str]


def readings(table: pd.DataFrame, label: Callable[[dict], str], target: float = 0.95) -> pd.DataFrame:
    """Drops at equal learning (see `read_run`), one row per label, probe and metric."""
    mine = table.assign(method=[label(row) for row in table.to_dict("records")])
    mine = mine[(mine["method"] != "") & (mine["kind"] == "finetune")]
    rows = summarise(mine[["method", "seed", "step", "probe", "metric", "value"]], partial(read_run, target=target))
    return pd.DataFrame(rows)


def _old(rows: pd.DataFrame, label: str, probe: str = "old_facts", metric: str = "em") -> pd.Series | None:
    found = rows[(rows["method"] == label) & (rows["probe"] == probe) & (rows["metric"] == metric)]
    return None if found.empty else found.iloc[0]


def points(row: pd.Series | None) -> str:
    """A drop in points, with its interval and how many runs got to the target."""
    if row is None:
        return "not measured"
    interval = "" if pd.isna(row["drop_low"]) else f" [{100 * row['drop_low']:.1f}, {100 * row['drop_high']:.1f}]"
    return f"{100 * row['drop_mean']:.1f}{interval} points ({row['n_reached']}/{row['n']} runs reached 95%)"


def _ratio_claim(rows: pd.DataFrame, other: str, paper: str, limit: float) -> Claim:
    sparse, theirs = _old(rows, "sparse"), _old(rows, other)
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
    rows = readings(table, _by_method)
    return [
        _ratio_claim(rows, "full", "held-out F1 drops 11% (sparse) against 89% (full): about 1/8", 1 / 8),
        _ratio_claim(rows, "lora", "11% (sparse) against 71% (LoRA): about 1/6", 1 / 6),
        _two_hop(rows),
        _cost(table, found),
    ]


def _two_hop(rows: pd.DataFrame) -> Claim:
    text = "Two-hop questions about what the model knew survive sparse finetuning best."
    drops = {name: _old(rows, name, "two_hop") for name in ("sparse", "full", "lora")}
    ours = "; ".join(f"{name} {points(row)}" for name, row in drops.items())
    if any(row is None for row in drops.values()):
        return Claim(text, "not asked", ours, OPEN)
    if any(row["n_reached"] < row["n"] for row in drops.values()):
        return Claim(text, "not asked", ours, OPEN, "not every run reached 95%, so they are not read at equal learning")
    best = min(drops, key=lambda name: drops[name]["drop_mean"])
    return Claim(text, "not asked", ours, AGREES if best == "sparse" else DIFFERS)


def _cost(table: pd.DataFrame, found: dict) -> Claim:
    text = "A sparse step trains a small part of the weights."
    method = table.drop_duplicates("key").set_index("key")["method"]
    told = []
    for name in ("sparse", "full", "lora"):
        mine = [found[key] for key in method.index[method == name]]
        if mine:
            count = sum(one["trainable_per_step"] for one in mine) / len(mine)
            told.append(
                f"{name} {count:,.0f} weights, {sum(one['ms_per_step'] for one in mine) / len(mine):.0f} ms a step"
            )
    return Claim(text, "t = 500 rows of 1,024: 0.5M of 2.4B weights a step", "; ".join(told), AGREES if told else OPEN)


def _pareto_jobs(job: Job) -> list[Job]:
    full = [replace(job, method="full", lr=lr) for lr in (5e-5, 1e-4, 2e-4, 5e-4)]
    lora = [replace(job, method="lora", lr=lr) for lr in (3e-4, 1e-3, 3e-3)]
    sparse = [replace(job, lr=lr, top_t=t) for lr, t in product((0.05, 0.1), (100, 500, 1000, 2000))]
    sgd = [replace(job, lr=lr, top_t=t, optimizer="sgd") for lr, t in ((20.0, 500), (40.0, 500))]
    return [*full, *lora, *sparse, *sgd]


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The last measurement of every run: one row per key, with `learned`, `kept` (old facts) and the job's fields."""
    em = table[(table["metric"] == "em") & table["probe"].isin(["learned", "old_facts"])]
    last = em[em["step"] == em.groupby("key")["step"].transform("max")]
    wide = last.pivot(index="key", columns="probe", values="value")
    fields = table.drop_duplicates("key").set_index("key")[["method", "lr", "top_t", "optimizer", "rule", "seed"]]
    return fields.join(wide.rename(columns={"old_facts": "kept"}), how="right").reset_index()


def _read_pareto(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table)
    good = last[last["learned"] >= 0.9]
    best = good.groupby(good["method"] == "sparse")["kept"].max()
    text = "The best trade-off between learning and forgetting is sparse, over all rates, ranks and t."
    if len(best) < 2:
        return [Claim(text, "sparse is the Pareto front (Fig. 5)", "no setting of one side learned 90%", OPEN)]
    kept = f"{best[True]:.1%} (sparse), {best[False]:.1%} (others)"
    ours = f"of the runs that end with 90% learned or more, the best keeps {kept}"
    mine = last["key"].map(lambda key: found[key]["kl_on_taught"])
    lost = 1 - last["kept"]
    by_kl = stats.spearmanr(mine, lost).statistic
    rows_changed = last["key"].map(lambda key: found[key]["rows_changed"])
    sparse = last["method"] == "sparse"
    by_rows = stats.spearmanr(rows_changed[sparse], lost[sparse]).statistic
    by_kl_sparse = stats.spearmanr(mine[sparse], lost[sparse]).statistic
    among = f"over sparse runs with KL {by_kl_sparse:.2f}, with rows changed {by_rows:.2f}"
    razor = f"Spearman of forgetting with KL {by_kl:.2f} over all runs; {among}"
    return [
        Claim(text, "sparse is the Pareto front (Fig. 5)", ours, AGREES if best[True] > best[False] else DIFFERS),
        Claim("KL on the new task predicts forgetting better than the number of rows touched.",
              "RL's Razor says KL predicts forgetting; the paper doesn't ask", razor,
              AGREES if by_kl_sparse > by_rows else DIFFERS),
    ]  # fmt: skip


def keeps_more(one: pd.Series, other: pd.Series) -> dict:
    """Verdict on "`one` keeps more than `other`", which says nothing where `one` also learned less."""
    if one.learned < other.learned - LEARNED_ALIKE and one.kept > other.kept:
        return {"verdict": OPEN, "why": "it kept more, but also learned less"}
    return {"verdict": AGREES if one.kept > other.kept else DIFFERS}


def does_as_well(one: pd.Series, other: pd.Series) -> dict:
    """Verdict on "`one` does as well as `other`": open where it does better in one way and worse in the other."""
    learned, kept = one.learned - other.learned, one.kept - other.kept
    if (learned < -LEARNED_ALIKE and kept > 0) or (learned > LEARNED_ALIKE and kept < 0):
        return {"verdict": OPEN, "why": "one learned more and the other kept more"}
    return {"verdict": DIFFERS if learned < -LEARNED_ALIKE or kept < -KEPT_ALIKE else AGREES}


RULES = ("tfidf", "tf", "idf", "random")


def _selection_jobs(job: Job) -> list[Job]:
    chosen = [replace(job, rule=rule, top_t=t) for rule, t in product(RULES, (100, 500))]
    return [*chosen, replace(job, rule="all"), replace(job, method="full")]


def _rule_label(job: dict) -> str:
    if job["method"] != "sparse":
        return job["method"]
    return "all read" if job["rule"] == "all" else f"{job['rule']}, t={job['top_t']}"


def _read_selection(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table)
    last["label"] = [_rule_label(row) for row in last.to_dict("records")]
    mean = last.groupby("label")[["learned", "kept"]].mean()

    def told(*labels: str) -> str:
        return "; ".join(f"{one}: learned {mean.learned[one]:.1%}, kept {mean.kept[one]:.1%}" for one in labels)

    def verdict(one: str, other: str) -> dict:
        return keeps_more(mean.loc[one], mean.loc[other])

    def as_well(one: str, other: str) -> dict:
        return does_as_well(mean.loc[one], mean.loc[other])

    gap = {t: mean.kept[f"tfidf, t={t}"] - mean.kept[f"tf, t={t}"] for t in (100, 500)}
    return [
        Claim("Training the top t keeps more than training all slots that are read.", "much more, at equal learning",
              told("tfidf, t=500", "all read"), **verdict("tfidf, t=500", "all read")),
        Claim("TF-IDF keeps more than TF alone at the same t.", "similar learning, more forgetting with TF",
              told("tfidf, t=500", "tf, t=500"), **verdict("tfidf, t=500", "tf, t=500")),
        Claim("The gap between TF-IDF and TF widens at small t.", "at t = 50 on both target and held-out",
              f"gap in what is kept: {100 * gap[100]:.1f} points at t = 100, {100 * gap[500]:.1f} at t = 500",
              AGREES if gap[100] > gap[500] else DIFFERS),
        Claim("Random slots among those read do as well as TF-IDF.", "not tried", told("tfidf, t=500", "random, t=500"),
              **as_well("random, t=500", "tfidf, t=500")),
        Claim("IDF alone does as well as TF-IDF.", "not tried", told("tfidf, t=500", "idf, t=500"),
              **as_well("idf, t=500", "tfidf, t=500")),
    ]  # fmt: skip


def _background_jobs(job: Job) -> list[Job]:
    return [replace(job, background=one) for one in ("pretraining", "facts", "questions")]


def _read_background(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table).merge(table.drop_duplicates("key")[["key", "background"]], on="key")
    mean = last.groupby("background")[["learned", "kept"]].mean()
    told = {one: f"{one}: learned {mean.learned[one]:.1%}, kept {mean.kept[one]:.1%}" for one in mean.index}
    less_learned = mean.learned["facts"] < mean.learned["pretraining"]
    less_kept = mean.kept["facts"] < mean.kept["pretraining"]
    worse = AGREES if less_learned and less_kept else OPEN if less_learned or less_kept else DIFFERS
    near = does_as_well(mean.loc["questions"], mean.loc["pretraining"])
    return [
        Claim("With the facts themselves as background, less is learned and more forgotten.",
              "slightly less learning, clearly more forgetting (Fig. 7)",
              f"{told['facts']}; {told['pretraining']}", worse),
        Claim("Another question set serves as background about as well as pretraining text.",
              "NQ is close to DCLM (Fig. 7)",
              f"{told['questions']}; {told['pretraining']}", **near),
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


def _read_update(table: pd.DataFrame, found: dict) -> list[Claim]:
    rows = readings(table, _by_method)
    em = table[(table["metric"] == "em") & (table["step"] == table.groupby("key")["step"].transform("max"))]
    last = em.groupby(["method", "probe"])["value"].mean()
    names = list(dict.fromkeys(em["method"]))
    told = "; ".join(
        f"{name}: new value {last[name, 'learned']:.0%}, old value {last[name, 'old_values']:.0%}, "
        f"other old facts {last[name, 'old_facts']:.0%}"
        for name in names
    )
    drops = "; ".join(f"{name} {points(_old(rows, name))}" for name in names)
    good = last["sparse", "learned"] >= 0.95 and last["sparse", "old_values"] <= 0.02
    end = {name: pd.Series({"learned": last[name, "learned"], "kept": last[name, "old_facts"]}) for name in names}
    others = [keeps_more(end["sparse"], end[name])["verdict"] for name in names if name != "sparse"]
    kept = OPEN if OPEN in others else DIFFERS if DIFFERS in others else AGREES
    return [
        Claim("A changed fact is answered with its new value, and no longer with the old one.", "not asked", told,
              AGREES if good else DIFFERS),
        Claim("Neighbouring facts stay best with sparse.", "not asked", drops, kept),
    ]  # fmt: skip


def _retention_jobs(job: Job) -> list[Job]:
    return [replace(job, facts=25 * job.facts, passes=max(2, job.passes * 2 // 3), evaluations=8)]


def _read_retention(table: pd.DataFrame, found: dict) -> list[Claim]:
    last = ends(table)
    facts = int(table["facts"].iloc[0])
    learned, kept = last["learned"].mean(), last["kept"].mean()
    base = table[(table["probe"] == "old_facts") & (table["metric"] == "em") & (table["step"] == 0)]["value"].mean()
    again = sum(_lost_again(found[key]["known"]) for key in last["key"]) / len(last)
    return [
        Claim(f"{facts:,} facts in a stream are still known at its end, and little old is lost.",
              "1,000 facts learned, 11% of held-out F1 lost",
              f"learned {learned:.1%}, old facts {100 * (base - kept):.1f} points down; {again:.1%} of the facts "
              "once answered were lost again",
              AGREES if learned >= 0.95 and base - kept <= 0.02 else DIFFERS),
    ]  # fmt: skip


def _lost_again(known: Sequence[dict]) -> float:
    ever = [any(one["known"][i] for one in known) for i in range(len(known[0]["known"]))]
    now = known[-1]["known"]
    return sum(e and not n for e, n in zip(ever, now, strict=True)) / max(1, sum(ever))


def _methods(job: Job) -> list[Job]:
    return [replace(job, method=method) for method in ("sparse", "full", "lora")]


def _by_method(job: dict) -> str:
    return job["method"]


def _pareto_label(job: dict) -> str:
    size = f", t={job['top_t']}" if job["method"] == "sparse" else ""
    rule = f" {job['optimizer']}" if job["method"] == "sparse" else ""
    return f"{job['method']}{rule}, lr={job['lr']:g}{size}"


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment("facts", "One fact a step, three methods", "Fig. 3, task A", _methods, _read_facts, _by_method),
        Experiment("pareto", "All rates and all t", "Fig. 5", _pareto_jobs, _read_pareto, _pareto_label),
        Experiment("selection", "Which slots to train", "Fig. 6", _selection_jobs, _read_selection, _rule_label),
        Experiment("background", "What idf is measured on", "Fig. 7", _background_jobs, _read_background,
                   lambda job: job["background"]),
        Experiment("coreset", "Core sets", "Table 1", _coreset_jobs, _read_coreset, lambda job: ""),
        Experiment("update", "Changed facts", "beyond the paper",
                   lambda job: _methods(replace(job, what="changed")), _read_update, _by_method),
        Experiment("retention", "A long stream", "beyond the paper", _retention_jobs, _read_retention, _by_method),
    )
}  # fmt: skip
