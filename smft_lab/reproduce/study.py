"""The study of retrofits: which settings are run on a real model, and the tables that they become."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from smft_lab.experiments.equal import TARGET, mean_interval
from smft_lab.facts.files import read_facts
from smft_lab.recipe import PAPER, RETROFIT
from smft_lab.reproduce.real import RetrofitJob
from smft_lab.reproduce.sweep import read_result

TITLE = "# A real model: what each switch is worth, and what is learned and lost"
BLOCKS = (0, 2, 4, 8, 12, 16)
RATES = {"full": (1e-5, 2e-5, 4e-5, 8e-5), "lora": (1e-4, 2e-4, 5e-4, 1e-3)}
ALIKE = 0.02  # of the known answers: one of sixty
BASELINES = {"full": "full", "LoRA": "lora"}
MANY = 200
FLOORLESS = {"floor": 0.0, "lr": 0.2}
"""The recipe without its floor, at the rate that suits it then."""
KEYWORDS = {"keywords": RETROFIT.own_keywords}
"""As many questions of keywords for each fact as the recipe has of a person's own."""
BETTER = {"learned_at": 0.3}
"""Texts learned better."""
WITH_SHARED = "sparse, shared tokens counted, no floor"
NARROW = {**FLOORLESS, "counted": "shared"}
"""The recipe that today's was chosen from. Switches and blocks were tried around it, too."""
CENTRE = "as it is"
CENTRES: dict[str, dict] = {"": {}, " of an earlier recipe": NARROW}
"""What switches are turned away from, by what a part's name says of it: today's recipe, and that one."""


UNTAUGHT = "a memory, nothing taught"


class Times(float):
    """So many times what the recipe has."""


SWITCHES: dict[str, dict] = {
    CENTRE: {},
    "with a gate and projection, untrained": {"gate": True, "project": True},
    "with a projection, untrained": {"project": True},
    "queries at random, whitened": {"keys": "random"},
    "queries at random, not whitened": {"keys": "random", "whiten": False},
    "keys by k-means, queries at random": {"keys": "kmeans"},
    "262,144 slots": {"slots": 262_144},
    "65,536 slots": {"slots": 65_536},
    "8 heads": {"heads": 8},
    "k = 4": {"k": 4},
    "all tokens counted": {"counted": "all"},
    "only shared tokens counted": {"counted": "shared"},
    "only where the answer is predicted": {"counted": "answer"},
    "half of t": {"top_t": Times(0.5)},
    "twice t": {"top_t": Times(2)},
    "slots chosen batch by batch": {"choice": "batch"},
    "no momentum": {"momentum": 0.0},
    "no floor": {"floor": 0.0},
    "no floor, two thirds of the rate": {"floor": 0.0, "lr": Times(2 / 3)},
    "SGD": {"optimizer": "sgd", "lr": 30.0},
    "half of the rate": {"lr": Times(0.5)},
    "twice the rate": {"lr": Times(2)},
    "batches of 8, two thirds of the rate": {"batch_size": 8, "lr": Times(2 / 3)},
    "loss on every token": {"loss_on": "statement"},
    "a KL penalty of 0.3": {"kl_anchor": 0.3},
    "learned texts trained on": {"learned_at": 0.0},
    "texts learned better": BETTER,
    "no contexts": {"contexts": 0},
    "background of text alone": {"background_questions": 0, "background_texts": 600},
    "background of questions alone": {"background_texts": 0},
    "facts are no background to each other": {"protect": 0.0},
    "common slots chosen too": {"max_df": 1.0},
}
LEARNED = ("learned", "taught", "prefixed")
ABOUT = (
    "Facts are about invented people: 16 in the blocks and the ablation, 200 in the part many, else as many as the "
    "command says. *learned*: asked in a wording never taught; *taught*: in a taught "
    "one; *prefixed*: in the wording never taught, behind two other questions; all in percent. *known lost*: "
    "points of the questions that the base answered; *replies*: how much likelier or less likely what it replied to "
    "them is at the end, the root mean square in nats; *text*: change in nats per token; *HellaSwag lost*: "
    "points of its right choices; *seconds*: of training on one thread, with other runs beside it; *loudness*: the "
    "norm of what the memory adds, over that of the stream; *same* and *different*: how alike the slots are that two "
    "wordings of a fact, or two facts, read."
)


class Study:
    """The settings of a study by its parts; the rates of a sweep decide what the parts after it run.

    Args:
        draft: The model, the block and the number of facts of all jobs.
        seeds: Of facts, per setting.
        rates: What the sweep tries, as `rates_of` gives it.
        choices: Rows of the choices that are asked before and after a comparison.
        handbook: The facts file of the part `own`.
        results: Folder of the results.
        kind: What the handbook is, where it can't be told.
    """

    def __init__(
        self,
        draft: RetrofitJob,
        seeds: int,
        rates: dict[str, tuple[float, ...]],
        choices: int,
        handbook: Path,
        results: Path,
        kind: str = "",
    ):
        self.results = results
        sweep = sweep_jobs(draft, rates)

        def best() -> dict[str, float]:
            return best_rates(sweep, results)

        self._parts: dict[str, Callable[[], dict[str, list[RetrofitJob]]]] = {
            **{f"blocks{of}": partial(block_jobs, draft, centre) for of, centre in CENTRES.items()},
            **{f"ablation{of}": partial(ablation_jobs, draft, seeds, centre) for of, centre in CENTRES.items()},
            "sweep": lambda: sweep,
            "comparison": lambda: comparison_jobs(draft, seeds, best(), choices),
            "many": lambda: many_jobs(draft, seeds, best()),
            "own": lambda: own_jobs(draft, best(), handbook.resolve(), kind),
        }

    def jobs(self, part: str) -> dict[str, list[RetrofitJob]]:
        """The jobs of a part by their settings.

        Raises:
            ValueError: the sweep, whose best rates they are run with, isn't done yet.
        """
        return self._parts[part]()

    def page(self, command: str) -> str:
        """All parts whose jobs can be named, as one page of Markdown; `command` made it."""
        parts = {}
        for part in self._parts:
            try:
                parts[part] = self.jobs(part)
            except ValueError:  # the comparison before its sweep
                continue
        return page(parts, self.results, [f"`{command}`; a file per run in `runs`.", "", ABOUT])


def block_jobs(draft: RetrofitJob, centre: dict) -> dict[str, list[RetrofitJob]]:
    """The same facts taught beside each block, by the recipe with the switches of one of `CENTRES`."""
    draft = _switched(replace(draft, facts=16, evaluations=1), centre)
    return {f"block {block}": [replace(draft, block=block)] for block in BLOCKS}


def ablation_jobs(draft: RetrofitJob, seeds: int, centre: dict) -> dict[str, list[RetrofitJob]]:
    """Each switch alone, turned away from one of `CENTRES`; without those that stand so there."""
    draft = _switched(replace(draft, facts=16, evaluations=1), centre)
    jobs: dict[str, list[RetrofitJob]] = {}
    for name, changed in SWITCHES.items():
        values = {key: _value(draft, key, value) for key, value in changed.items()}
        job = _switched(draft, values)
        if not changed or job.recipe != draft.recipe:
            jobs[name] = [replace(job, seed=seed) for seed in range(seeds)]
    paper = {
        field: value
        for field, value in PAPER.to_dict().items()
        if value != getattr(RETROFIT, field) and field != "name"
    }
    jobs["the paper's design, untrained"] = [_switched(replace(draft, switches=()), {**paper, "passes": 5})]
    jobs["random slots"] = [replace(draft, seed=seed, rule="random") for seed in range(seeds)]
    return jobs


def _switched(job: RetrofitJob, values: dict) -> RetrofitJob:
    """The job with other values of some switches."""
    return replace(job, switches=tuple(sorted({**dict(job.switches), **values}.items())))


def _value(job: RetrofitJob, name: str, value):
    """The value of a switch, in the type that the recipe has."""
    if not isinstance(value, Times):
        return value
    own = getattr(job.recipe, name)
    return type(own)(own * value)


def rates_of(given: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The rates of the baselines that a sweep tries, from texts such as `full=1e-4`; ours where none is given.

    Raises:
        ValueError: a text is of another form, or a rate isn't positive.
    """
    rates: dict[str, tuple[float, ...]] = {}
    for text in given:
        method, _, rate = text.partition("=")
        try:
            lr = float(rate)
        except ValueError:
            lr = 0.0
        if method not in RATES or not 0 < lr < math.inf:
            raise ValueError(
                f"a rate is one of {' and '.join(RATES)} with a positive number, as full=1e-4, not {text!r}"
            )
        rates[method] = (*rates.get(method, ()), lr)
    return {**RATES, **rates}


def sweep_jobs(draft: RetrofitJob, rates: dict[str, tuple[float, ...]] = RATES) -> dict[str, list[RetrofitJob]]:
    """The rates of the baselines, on facts that no comparison teaches."""
    return {
        f"{method}, {lr:g}": [replace(draft, method=method, lr=lr, seed=1000)]
        for method, tried in rates.items()
        for lr in tried
    }


def comparison_jobs(
    draft: RetrofitJob, seeds: int, rates: dict[str, float], choices: int = 0
) -> dict[str, list[RetrofitJob]]:
    """Every method and control on the same facts, the baselines at their best rates.

    Raises:
        ValueError: a baseline has no rate yet.
    """
    _check_rates(rates)
    return _of_methods([replace(draft, seed=seed, choices=choices) for seed in range(seeds)], rates)


def many_jobs(draft: RetrofitJob, seeds: int, rates: dict[str, float]) -> dict[str, list[RetrofitJob]]:
    """The same with so many facts at once as a person may have.

    Raises:
        ValueError: a baseline has no rate yet.
    """
    _check_rates(rates)
    return _of_methods([replace(draft, facts=MANY, seed=seed) for seed in range(seeds)], rates)


def _of_methods(jobs: list[RetrofitJob], rates: dict[str, float]) -> dict[str, list[RetrofitJob]]:
    """The jobs by every method, at the rates of the baselines, and by the controls."""
    baselines = {
        name: [replace(job, method=method, lr=rates[method]) for job in jobs] for name, method in BASELINES.items()
    }
    return {
        **_of_sparse(jobs),
        **baselines,
        "full with replay": [replace(job, replay=4) for job in baselines["full"]],
        f"{WITH_SHARED}, random slots": [replace(_switched(job, NARROW), rule="random") for job in jobs],
    }


def _of_sparse(jobs: list[RetrofitJob]) -> dict[str, list[RetrofitJob]]:
    """The jobs by the recipe, and by those it was chosen from."""
    settings = {
        "sparse": {},
        "sparse, no floor": FLOORLESS,
        "sparse, no floor, an anchor of 10,000": {**FLOORLESS, "anchor": 10_000.0},
        WITH_SHARED: NARROW,
        "sparse, shared tokens counted, a floor of 1 at the same rate": {**NARROW, "floor": 1.0},
    }
    return {name: [_switched(job, values) for job in jobs] for name, values in settings.items()}


def own_jobs(draft: RetrofitJob, rates: dict[str, float], file: Path, kind: str = "") -> dict[str, list[RetrofitJob]]:
    """Facts as people have them: questions of the data that the base answers wrong, and a file of facts.

    Raises:
        ValueError: a baseline has no rate yet.
    """
    _check_rates(rates)
    jobs: dict[str, list[RetrofitJob]] = {}
    written = replace(draft, facts=len(read_facts(file, kind or None)), seed=0, source=str(file), kind=kind)
    wrong = replace(draft, facts=MANY, seed=0, source="questions")
    for about, job in (("200 questions", wrong), ("handbook", written)):
        settings = {"sparse": {}, "sparse, no floor": FLOORLESS}
        if job is written:
            settings = {
                "sparse": KEYWORDS,
                "sparse, texts learned better": {**KEYWORDS, **BETTER},
                "sparse, texts learned better, no floor": {**KEYWORDS, **BETTER, **FLOORLESS},
                "sparse, no keywords": {},
                "sparse, no keywords, no floor": FLOORLESS,
                "sparse, no keywords, texts learned better": BETTER,
            }
        jobs |= {f"{about}, {name}": [_switched(job, values)] for name, values in settings.items()}
        for name, method in BASELINES.items():
            jobs[f"{about}, {name}"] = [replace(job, method=method, lr=rates[method])]
    return jobs


def _check_rates(rates: dict[str, float]) -> None:
    if missing := set(RATES) - set(rates):
        raise ValueError(f"no rate of {', '.join(sorted(missing))} was tried yet; run the part sweep first")


def best_rates(jobs: dict[str, list[RetrofitJob]], folder: Path) -> dict[str, float]:
    """Of each baseline's rates that reach the target, those that keep most known answers, up to `ALIKE`; of these the
    one that takes fewest steps. Where none reaches it, the one that learns most."""
    tried: dict[str, list[dict]] = {}
    for (job,) in jobs.values():
        result = read_result(folder, job)
        if result is None:
            continue
        wide, step, reached = read_steps(result)
        learned, known = wide.loc[step]["learned", "em"], wide.loc[step]["known", "em"]
        tried.setdefault(job.method, []).append(
            {"lr": job.lr, "step": step, "reached": reached, "learned": learned, "known": known}
        )
    best = {}
    for method, rates in tried.items():
        reached = [rate for rate in rates if rate["reached"]]
        most = max((rate["known"] for rate in reached), default=0)
        alike = [rate for rate in reached if rate["known"] >= most - ALIKE]
        chosen = min(alike, key=lambda rate: rate["step"]) if alike else max(rates, key=lambda rate: rate["learned"])
        best[method] = chosen["lr"]
    return best


def read_steps(result: dict) -> tuple[pd.DataFrame, int, bool]:
    """The measurements of a run.

    Returns:
        A row per measured step; the first step at which the target was reached, else the last; and whether it was.
    """
    wide = pd.DataFrame(result["rows"]).pivot_table(index="step", columns=["probe", "metric"], values="value")
    reached = wide.index[wide["learned", "em"] >= TARGET]
    return wide, int(reached[0] if len(reached) else wide.index[-1]), bool(len(reached))


def readings(jobs: dict[str, list[RetrofitJob]], folder: Path, equal: bool = False) -> pd.DataFrame:
    """One row per setting and seed: what was learned, known and lost, at the end or where the target was reached.

    Args:
        equal: Read where the target was first reached, where it was.
    """
    rows = []
    for name, of_setting in jobs.items():
        for job in of_setting:
            result = read_result(folder, job)
            if result is None:
                continue
            wide, step, reached = read_steps(result)
            if not equal:
                step = wide.index[-1]
            values = wide.loc[step]
            row = {"setting": name, "seed": job.seed, "reached": reached, **result["found"]}
            row["replies, nats"] = row.pop("replies", float("nan"))  # results of before it was measured have none
            for probe in LEARNED:
                row[probe] = 100 * values.get((probe, "em"), float("nan"))
            base = wide.loc[0]
            row["known lost"] = 100 * (base["known", "em"] - values["known", "em"])
            row["text, nats"] = values["text", "nll"] - base["text", "nll"]
            if ("hellaswag", "acc_norm") in wide:
                asked = wide["hellaswag", "acc_norm"].dropna()
                row["HellaSwag lost"] = 100 * (asked.iloc[0] - asked.iloc[-1])
            row["seconds"], row["steps"] = step / wide.index[-1] * result["found"]["seconds"], step
            rows.append(row)
    return pd.DataFrame(rows)


def untaught(jobs: Sequence[RetrofitJob], folder: Path) -> pd.DataFrame:
    """The control: what is answered with a memory in which nothing is written; one row per seed.

    Known questions were found by asking the model before it got the memory, so what it loses by that is *known lost*.
    """
    rows = []
    for job in jobs:
        result = read_result(folder, job)
        if result is None:
            continue
        empty = read_steps(result)[0].loc[0]
        row = {probe: 100 * empty.get((probe, "em"), float("nan")) for probe in LEARNED}
        row["known lost"] = 100 * (1 - empty["known", "em"])
        rows.append({"setting": UNTAUGHT, "seed": job.seed, **row})
    return pd.DataFrame(rows)


def written(value: pd.Series, digits: int, share: bool = False) -> str:
    """Mean and 95% interval over seeds; of a share in percent, that of it which can be."""
    if value.empty:
        return ""
    mean, low, high = mean_interval(value)
    text = f"{mean:.{digits}f}"
    if low is None or high is None:
        return text
    if share:
        low, high = max(low, 0.0), min(high, 100.0)
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown(table: pd.DataFrame, columns: dict[str, int]) -> str:
    """A table with a line per setting, in the order of the settings.

    Args:
        columns: Which columns, and digits after the point of each.
    """
    shown = [name for name in columns if name in table and table[name].notna().any()]
    lines = ["| setting | runs | " + " | ".join(shown) + " |", "| --- | --- |" + " --- |" * len(shown)]
    for name in dict.fromkeys(table["setting"]):
        rows = table[table["setting"] == name]
        cells = [written(rows[column].dropna(), columns[column], column in LEARNED) for column in shown]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def address_agreement(table: pd.DataFrame, form: str) -> tuple[float, float]:
    """Spearman's rank correlation of the address margin and of what is learned, over blocks, and its p-value.

    Args:
        form: How what is learned is asked, one of `LEARNED`.
    """
    margin = [measured["same"] - measured["different"] for measured in table["addresses"]]
    correlation: Any = stats.spearmanr(margin, table[form])
    return float(correlation.statistic), float(correlation.pvalue)


def page(parts: dict[str, dict[str, list[RetrofitJob]]], folder: Path, about: Sequence[str]) -> str:
    """The study as one page of Markdown: what was run, and a table per part."""
    usual = {
        "learned": 0,
        "taught": 0,
        "prefixed": 0,
        "known lost": 1,
        "replies, nats": 2,
        "text, nats": 3,
        "HellaSwag lost": 1,
        "seconds": 0,
        "steps": 0,
        "loudness": 2,
    }
    lines = [TITLE, "", *about, ""]
    for name, jobs in parts.items():
        equal = name in ("sweep", "comparison", "many", "own")
        table = readings(jobs, folder, equal)
        if table.empty or (CENTRE in jobs and CENTRE not in set(table["setting"])):
            continue  # switches say something only beside what they are turned away from
        if "sparse" in jobs:
            table = pd.concat([untaught(jobs["sparse"], folder), table])
        read = f"where {TARGET:.0%} were learned first, or at the end" if equal else "at the end"
        lines += [f"## {name.capitalize()}", "", f"Read {read}; mean and 95% interval over seeds.", ""]
        if name.startswith("blocks"):
            table["same"] = [measured["same"] for measured in table["addresses"]]
            table["different"] = [measured["different"] for measured in table["addresses"]]
        lines += [markdown(table, {**usual, "same": 2, "different": 2}), ""]
        if name == "comparison":
            whole = {setting: of_setting for setting, of_setting in jobs.items() if setting.startswith("sparse")}
            lines += [
                "Sparse finetuning goes on until every text is learned; there:",
                "",
                markdown(readings(whole, folder), usual),
                "",
            ]
        if name.startswith("blocks") and len(table) > 5:
            agreement = {form: address_agreement(table, form) for form in LEARNED if table[form].nunique() > 1}
            correlations = ", ".join(f"{form} {rho:.2f} (p = {p:.2g})" for form, (rho, p) in agreement.items())
            lines += [
                f"Rank correlation of the address margin and what is learned, {len(table)} blocks: {correlations}.",
                "",
            ]
    return "\n".join(lines)
