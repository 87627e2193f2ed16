"""Several methods taught the same facts from the same base, with the same budget: what each learned and forgot."""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import math
import os
import platform
import sys
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm import tqdm

from smft_lab import __version__
from smft_lab.charts.style import learned_little
from smft_lab.experiments.equal import ENDS, READING, TARGET, read_last, read_run, summarise
from smft_lab.experiments.run import history_rows
from smft_lab.facts.fact import Fact, as_facts, as_tuple
from smft_lab.facts.own_facts import loss_on_own, with_paraphrases
from smft_lab.finetuning.finetune import Step, TakenOver, all_steps, check_facts, finetune
from smft_lab.finetuning.methods import STANDARD, Method, Sparse, method_of
from smft_lab.finetuning.teaching import Teaching
from smft_lab.kernel import in_kernel
from smft_lab.lab import Lab
from smft_lab.probes.probes import LEARNED, QuestionProbe, TextProbe, probes_of
from smft_lab.probes.prompts import BUILT_IN, PromptForm
from smft_lab.ranges import check_counts, seeds_of
from smft_lab.recipe import Recipe
from smft_lab.slots.patch import Patch
from smft_lab.wording import counted
from smft_lab.writing import atomic_folder, json_text, naming, write_atomically

if TYPE_CHECKING:
    import plotly.graph_objects as go

SEEDS = 2
PATCH_FILE = "patch.safetensors"  # of the first seed's run of `sparse`
REPORT, SUMMARY = "report.html", "summary.json"
RESULTS = ("metrics.csv", "samples.json", PATCH_FILE, REPORT, SUMMARY)
ROOM = 10_000_000  # bytes of a report with its patch
COLUMNS = ["method", "seed", "step", "probe", "metric", "value"]
SAMPLES = {
    "learned": 5,
    "taught": 2,
    "prefixed": 2,
    "two_hop_new": 3,
    "old_facts": 5,
    "known": 5,
    "two_hop": 3,
    "arithmetic": 3,
}
LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Progress:
    """Where a comparison stands: `done` of `total` gradient steps over all methods and seeds, `step` of this run.

    `total` becomes less where a run ends sooner than it might have; `last` says that this run ends here.
    """

    method: str
    seed: int
    step: int
    done: int
    total: int
    loss: float | None
    learned: float | None
    last: bool = False


@dataclass
class Comparison:
    """A comparison, under way or finished; `steps()` advances it, everything else reads it.

    Args:
        lab: A `Lab`. Each method starts from its base, and the base is left behind.
        facts: What to teach, or a function from a seed to it, so that every seed has facts of its own.
        methods: Methods with their settings, such as `smft.Sparse(top_t=100)`, or their keys; `sparse:tf` and the like
            run `sparse` under another rule, as a control. They go by their keys, or by the names of a dict,
            `{"t = 50": smft.Sparse(top_t=50), ...}`.
        seeds: Seeds of the facts' order, LoRA's start and random selection.
        passes, order, loss_on, recipe: See `finetune`.
        evaluations: Measurements per run after the base, evenly spread; 12 by default, and one a pass for a lab with a
            recipe, whose probes take long.
        target: Share of new facts that counts as equal learning.
        rephrase: Whether a person's own facts that have few words get more by rule (see `with_paraphrases`): a model
            finds a fact that it read in one wording from no question. In a lab without a recipe they are also learned
            by their answers alone where `loss_on` is not given.
        stop_at_target: Whether all but `sparse` end where they were first measured to have learned that much: going on,
            they only lose more. By default for a lab with a recipe, whose `sparse` ends by itself.

    Raises:
        ValueError: an option is out of range.

    Examples:
        >>> comparison = smft.Comparison(lab, smft.new_facts(2), smft.Sparse(top_t=50), seeds=[0], passes=1)
        >>> [step.step for step in comparison.steps()]
        [0, 1, 2]
        >>> list(comparison.summary()["methods"])
        ['sparse']
    """

    lab: Lab
    facts: Fact | Sequence[Fact] | Callable[[int], Sequence[Fact]]
    methods: str | Method | Sequence[str | Method] | Mapping[str, str | Method] = STANDARD
    _: KW_ONLY
    seeds: Sequence[int] = tuple(range(SEEDS))
    passes: int | None = None
    order: str | None = None
    loss_on: str | None = None
    evaluations: int | None = None
    target: float = TARGET
    rephrase: bool = True
    stop_at_target: bool | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        self.seeds = seeds_of(self.seeds)
        if not self.methods:
            raise ValueError("a comparison needs at least one method")
        if self.evaluations is not None:
            check_counts(evaluations=self.evaluations)
        if not 0 < self.target <= 1:
            raise ValueError(f"target is a share between 0 and 1, not {self.target}")
        self.chosen = _named(self.methods)
        self.names = tuple(self.chosen)
        own, self.recipe = self.lab.recipe, self.recipe or self.lab.recipe
        self._recipe_text = "" if self.recipe is None or self.recipe == own else self.recipe.describe(own)
        if self.stop_at_target is None:
            self.stop_at_target = self.recipe is not None
        if not callable(self.facts):
            self.facts = as_facts(self.facts)
            if self.rephrase and self.recipe is None:
                self.loss_on = loss_on_own(self.facts, self.loss_on)
        first = self.taught(self.seeds[0])
        check_facts(self.lab, first)
        teaching = self._teaching(self.seeds[0], first)
        self.passes, self.order, self.loss_on = teaching.passes, teaching.order, teaching.loss_on
        if self.evaluations is None:
            self.evaluations = 12 if self.recipe is None else self.passes
        for name in self.chosen:
            self.method(name).check(self.lab, self.recipe)
        self.rows: list[dict] = []
        self.samples: list[dict] = []
        self.patch: Patch | None = None
        self.costs: dict[str, list[dict]] = {name: [] for name in self.names}
        self._adapted: dict[str, float | None] = {}
        self.n_facts = len(first)
        self._steps = {self.seeds[0]: teaching.steps}
        self._ended: set[tuple[str, int]] = set()  # runs, of a method and a seed
        self.seconds = 0.0
        self._times: list[float] = [0.0]  # seconds of training after each step of the run under way
        self.under_way: weakref.ref[Generator[Step, None, None]] | None = None  # the finetune at which it is
        self._saved_at = ""
        self._probes = probes_of(self.lab, first)

    def __repr__(self) -> str:
        """A line per method: when it had learned enough, and what it had forgotten by then."""
        seeds = counted(len(self.seeds), "seed")
        lines = [
            f"<Comparison of {', '.join(self.names)}: {counted(self.n_facts, 'fact')}, {seeds}, {self.seconds:.0f} s>"
        ]
        if self.finished_runs().empty:
            return f"{lines[0]} no run has ended yet"
        equal = self.summary()["equal_learning"]
        for name in self.names:
            rows = {row["probe"]: row for row in equal if row["method"] == name and row["metric"] in ("em", "acc")}
            if rows:
                learned = rows.pop("learned")
                if learned_little(learned):
                    lines.append(f"  {name}: hardly anything was learned, {learned['mean']:.0%} of the facts at best")
                    continue
                reached = f"{learned['n_reached']} of {learned['n']} runs reach {self.target:.0%} learned"
                lost = [
                    f"{probe} {round(100 * row['drop_mean'], 1) + 0.0}"
                    for probe, row in rows.items()
                    if probe not in LEARNED
                ]
                lines.append(f"  {name}: {reached}; points lost there (else at its best): {', '.join(lost)}")
        return "\n".join(lines)

    def method(self, name: str) -> Method:
        """The method of that name, with all its settings."""
        return self.chosen[name].resolved(self.lab, self.recipe)

    def taught(self, seed: int) -> Sequence[Fact]:
        """The facts of a seed, with the words that were added to them."""
        facts = as_facts(self.facts(seed) if callable(self.facts) else self.facts)
        return with_paraphrases(facts, self.recipe) if self.rephrase else facts

    def _teaching(self, seed: int, facts: Sequence[Fact]) -> Teaching:
        return Teaching.of(self.lab, facts, self.passes, self.order, self.loss_on, seed, self.recipe)

    def run_steps(self, seed: int) -> int:
        """Gradient steps of one run with that seed, at most."""
        if seed not in self._steps:
            self._steps[seed] = self._teaching(seed, self.taught(seed)).steps
        return self._steps[seed]

    def _finetune(
        self, name: str, facts: Sequence[Fact], seed: int, base_probes: dict[str, dict[str, float]] | None
    ) -> Generator[Step, None, None]:
        assert self.evaluations is not None  # from __post_init__ on
        return finetune(
            self.lab,
            facts,
            self.method(name),
            passes=self.passes,
            order=self.order,
            loss_on=self.loss_on,
            seed=seed,
            recipe=self.recipe,
            probe_every=math.ceil(self.run_steps(seed) / self.evaluations),
            base_probes=base_probes,
        )

    def steps(self) -> Generator[Progress, None, None]:
        """Run everything, one gradient step per item; what was measured before a stop is kept.

        Raises:
            TakenOver: the lab was reset, or another finetune begun, in between; the model is left to that.
        """
        total = len(self.names) * sum(map(self.run_steps, self.seeds))
        done, began = 0, time.perf_counter()
        is_ours, turn = True, self.lab.turn  # whether the model still is this comparison's, and since when
        try:
            for seed in self.seeds:
                facts = self.taught(seed)
                first = seed == self.seeds[0]
                if first:
                    self.samples = self._sample_questions(facts)
                    self.lab.reset()
                    self._answer("base")
                base = None  # every method of a seed starts from it
                for name in self.names:
                    self.lab.reset()
                    learned, stops = None, self.stop_at_target and not self.chosen[name].sparse
                    run = self._finetune(name, facts, seed, base)
                    self.under_way, turn = weakref.ref(run), self.lab.turn
                    self._times = [0.0]
                    for step in all_steps(run):
                        self._times += [step.seconds] if step.step else []
                        base = base or step.probes
                        if step.probes:
                            learned = step.probes["learned"]["em"]
                        measured = stops and step.step > 0 and step.probes
                        enough = measured and learned is not None and learned >= self.target
                        ended = step.last or bool(enough)
                        self.rows += [{"method": name, "seed": seed, **row} for row in history_rows(step)]
                        done += step.step > 0
                        if ended:  # a stop after the last step finds the whole run
                            self._keep(name, step, first)
                            self._ended.add((name, seed))
                            total -= self.run_steps(seed) - step.step
                        yield Progress(name, seed, step.step, done, total, step.loss, learned, ended)
                        if ended:
                            break
        except TakenOver:
            is_ours = False
            raise
        except GeneratorExit:
            is_ours = turn == self.lab.turn
            raise
        finally:
            if is_ours:
                self.lab.reset()
            self.seconds = time.perf_counter() - began

    def _keep(self, name: str, last: Step, first_seed: bool) -> None:
        """What a run leaves besides its measurements."""
        self._adapted[name] = last.adapted
        times = [later - before for before, later in itertools.pairwise(self._times)]
        self.costs[name].append({"trainable_per_step": last.trainable, "ms_per_step": 1000 * median(times or [0.0])})
        if first_seed:
            self._answer(name)
            if self.chosen[name].sparse and self.patch is None:
                about = {"method": name, **self.settings(), **self.method_settings(name)}
                self.patch = Patch.between(self.lab, self.taught(self.seeds[0]), about=about)

    def _sample_questions(self, facts: Sequence[Fact]) -> list[dict]:
        """A few questions per probe, drawn at random from a seed and not by how anyone answers them.

        What was taught of a person's own fact is told with it. In a lab with a form of its own a sample also holds how
        its probe judges a reply: `accepted` and `match`.
        """
        rng = Random("samples")
        pools: dict[str, list] = {}
        judged = self.lab.form != BUILT_IN
        for probe in probes_of(self.lab, facts):
            if isinstance(probe, QuestionProbe):
                pools[probe.name] = [
                    (question, accepted[0], {"accepted": list(accepted), "match": probe.match} if judged else {})
                    for question, accepted in zip(probe.questions, probe.answers, strict=True)
                ]
                if probe.name == "learned":
                    taught = [{"taught": texts} if fact.own else {} for fact, texts in self._texts(facts)]
                    pools["learned"] = [
                        (q, a, how | own) for (q, a, how), own in zip(pools["learned"], taught, strict=True)
                    ]
            elif isinstance(probe, TextProbe) and probe.prompts:
                pools[probe.name] = [(*pair, {}) for pair in probe.questions()]
        return [
            {"probe": name, "question": question, "answer": gold, "base": "", "answers": {}, **how}
            for name, count in SAMPLES.items()
            for question, gold, how in rng.sample(pools.get(name, []), min(count, len(pools.get(name, []))))
        ]

    def _texts(self, facts: Sequence[Fact]) -> Iterator[tuple[Fact, list[str]]]:
        """Each fact with what is taught of it, but for what is taught once more in a context."""
        mixed = self._teaching(self.seeds[0], facts).texts
        for owner, fact in enumerate(facts):
            texts = [text.text for text in mixed if text.owner == owner and not text.context]
            yield fact, texts or list(fact.statements)

    def _answer(self, method: str) -> None:
        forms = {probe.name: probe.form for probe in self._probes if isinstance(probe, QuestionProbe | TextProbe)}
        groups: dict[PromptForm, list[dict]] = {}
        for sample in self.samples:
            groups.setdefault(forms.get(sample["probe"], self.lab.form), []).append(sample)
        for form, samples in groups.items():
            questions = [sample["question"] for sample in samples]
            answers = self.lab.answer(questions, form=form)
            for sample, text in zip(samples, answers, strict=True):
                if method == "base":
                    sample["base"] = text
                else:
                    sample["answers"][method] = text

    @property
    def table(self) -> pd.DataFrame:
        """metrics.csv: method, seed, step, probe, metric, value; step 0 is the base."""
        return pd.DataFrame(self.rows, columns=COLUMNS)

    def finished_runs(self) -> pd.DataFrame:
        """The table without what a stop left half-way: runs, and seeds that not every method finished (if one did)."""
        table = self.table
        runs = zip(table["method"], table["seed"], strict=True)
        finished = table[pd.Series([run in self._ended for run in runs], index=table.index, dtype=bool)]
        methods = finished.groupby("seed")["method"].nunique()
        whole = methods.index[methods == len(self.names)]
        return finished[finished["seed"].isin(whole)] if len(whole) else finished

    @property
    def _sparse(self) -> Sparse:
        """The `sparse` that is compared, a control if there is no other; else what it would be."""
        kinds = [method for method in self.chosen.values() if isinstance(method, Sparse)]
        kinds.sort(key=lambda method: method.rule != "tfidf")
        return [*kinds, Sparse()][0].resolved(self.lab, self.recipe)

    def settings(self) -> dict:
        """What all methods have in common, as the report lists it."""
        taught = self.taught(self.seeds[0])
        given = as_facts(self.facts(self.seeds[0]) if callable(self.facts) else self.facts)
        pairs = list(zip(taught, given, strict=True))
        statements = sum(len(fact.statements) - len(own.statements) for fact, own in pairs)
        wordings = sum(len(fact.questions) - len(own.questions) for fact, own in pairs)
        return {
            "n_facts": self.n_facts,
            **({"recipe": self._recipe_text} if self._recipe_text else {}),
            **({"statements_by_rule": statements} if statements else {}),
            **({"wordings_by_rule": wordings} if wordings else {}),
            "passes": self.passes,
            "top_t": self._sparse.top_t,
            "slots": self.lab.slots,
            "rule": self._sparse.rule,
            "order": self.order,
            "loss_on": self.loss_on,
            "seeds": list(self.seeds),
            "evaluations_per_run": self.evaluations,
            "statements_per_step": self._teaching(self.seeds[0], taught).largest_batch,
        }

    def method_settings(self, name: str) -> dict:
        """Optimizer and rate of a method, and of its other settings those that are not as usual."""
        method, shared = self.method(name), self._sparse.settings()
        usual = {field.name: field.default for field in fields(method)} | {"top_t": shared["top_t"]}
        settings = method.settings()
        note = {"learning rate": "tuned for the rule tfidf"} if settings.pop("rule", "tfidf") != "tfidf" else {}
        shown = {name: value for name, value in settings.items() if name in ("optimizer", "lr") or value != usual[name]}
        adapted = self._adapted.get(name)
        if adapted is not None and adapted < 1:
            note["adapted"] = f"{adapted:.0%} of the weights of linear layers and experts"
        return {**shown, **note}

    def summary(self) -> dict:
        """summary.json: settings, the base, forgetting at equal learning and at the end, costs, versions."""
        table = self.finished_runs()
        equal = summarise(table, partial(read_run, target=self.target))
        steps = {row["method"]: row for row in equal if row["probe"] == "steps"}
        methods = {}
        for name in self.names:
            costs = pd.DataFrame(self.costs[name])
            if name not in steps or costs.empty:
                continue
            reached = steps[name]["n_reached"] == steps[name]["n"]
            methods[name] = {
                **self.method_settings(name),
                "trainable_per_step": int(costs["trainable_per_step"].mean()),
                "ms_per_step": float(costs["ms_per_step"].median()),
                "steps_to_target": steps[name]["mean"] if reached else None,
            }
        base = table[table.step == 0].groupby(["probe", "metric"], sort=False)["value"].mean()
        return {
            "title": "What was learned, and what was forgotten",
            "settings": self.settings(),
            "methods": methods,
            "target": self.target,
            "rule_text": READING.format(target=self.target) + ENDS * bool(self.stop_at_target),
            "base": {probe: base[probe].to_dict() for probe in base.index.unique(0)},
            "equal_learning": [row for row in equal if row["probe"] != "steps"],
            "final": [row for row in summarise(table, read_last) if row["probe"] != "steps"],
            "sweep": self.lab.defaults.get("sweep", []),
            "command": "",
            "versions": {"smft-lab": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES},
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "seconds": self.seconds,
            "date": datetime.date.today().isoformat(),
        }

    def chart(self) -> go.Figure:
        """The learning-forgetting plane as a plotly figure."""
        from smft_lab.charts.figures import plane

        return plane(self.finished_runs(), self.summary())

    def to_html(self, path: str | Path) -> None:
        """Write the report as one self-contained page."""
        from smft_lab.charts.report import write_report

        write_report(path, self.finished_runs(), self.summary(), self.samples)

    def save(self, out: str | Path, force: bool = False, **about) -> Path:
        """Write metrics.csv, summary.json, samples.json, patch.safetensors and report.html into `out`: all or nothing.

        Args:
            force: Whether another comparison in `out` may be replaced; other files there stay.
            about: Entries of the summary to replace, such as its title or the command.

        Returns:
            The report's path.

        Raises:
            OSError: `out` can't be written.
            ValueError: `out` holds another comparison, or another process is writing there now.
        """
        out = Path(out)
        with results_folder(out, force or os.path.realpath(out) == self._saved_at) as folder:
            self.write(folder, out, **about)
        self._saved_at = os.path.realpath(out)
        return out / REPORT

    def write(self, folder: Path, out: Path, **about) -> None:
        """Write the files of `save` into an empty folder, which is to take its place at `out`."""
        from smft_lab.charts.report import page

        table = self.finished_runs()
        summary = self.summary()
        summary["settings"] |= about.pop("settings", {})
        summary |= about
        patch = self.patch
        if patch is not None and not patch.is_finite:
            summary["settings"]["patch"] = "none: the values that sparse finetuning left are not finite"
            patch = None
        summary["files"] = [name for name in RESULTS if name != PATCH_FILE or patch is not None]
        texts = {
            "metrics.csv": table.to_csv(index=False),
            "samples.json": json_text(self.samples, indent=2),
            REPORT: page(table, summary, self.samples),
            SUMMARY: json_text(summary, indent=2),
        }
        with naming(out, lambda: sum(map(len, texts.values()))):
            if patch is not None:
                patch.save(folder / PATCH_FILE)
            for name, text in texts.items():
                write_atomically(folder / name, text)


@contextmanager
def results_folder(out: Path, force: bool = False) -> Iterator[Path]:
    """A folder to write a comparison to, which takes its place at `out` when the block ends; see `atomic_folder`.

    Raises:
        OSError: `out` can't be written, or the disk is full.
        ValueError: `out` holds a comparison already and `force` is not given, or another process is writing there.
    """

    def check() -> None:
        if not force and (there := [name for name in RESULTS if os.path.lexists(out / name)]):
            raise ValueError(f"{out} already holds a comparison ({there[0]}); name another folder, or give --force")

    check()
    with atomic_folder(out, SUMMARY, RESULTS.__contains__, ROOM, RESULTS) as folder:
        check()  # another process may have written one before it let this one in
        yield folder


def _named(methods: str | Method | Sequence[str | Method] | Mapping[str, str | Method]) -> dict[str, Method]:
    """The methods of a comparison by what they are called in it."""
    if isinstance(methods, Mapping):
        return {name: method_of(method) for name, method in methods.items()}
    several = [methods] if isinstance(methods, Method) else as_tuple(methods)
    chosen = [method_of(method) for method in several]
    named = {method.name: method for method in chosen}
    if len(named) < len(chosen):
        raise ValueError(
            "a method is named twice; give names of their own to several of a kind: "
            '{"t = 50": smft.Sparse(top_t=50), "t = 500": smft.Sparse(top_t=500)}'
        )
    return named


def compare(
    lab: Lab,
    facts: Fact | Sequence[Fact] | Callable[[int], Sequence[Fact]],
    methods: Sequence[str | Method] | Mapping[str, str | Method] = STANDARD,
    *,
    seeds: int | Sequence[int] = SEEDS,
    progress: bool | None = None,
    **options: Any,
) -> Comparison:
    """Teach `facts` by every method from the same base, and measure what each learned and forgot.

    Args:
        seeds: How many (0, 1, ...), or which.
        progress: Whether to show how far it is; by default where somebody watches, in a notebook or a terminal.
        options: See `Comparison`.

    Raises:
        ValueError: see `Comparison`.

    Examples:
        >>> facts, methods = smft.new_facts(2), ("sparse", "lora")
        >>> comparison = smft.compare(lab, facts, methods=methods, seeds=1, passes=1, evaluations=1)
        >>> comparison.table["method"].unique().tolist()
        ['sparse', 'lora']
    """
    comparison = Comparison(lab, facts, methods, seeds=seeds_of(seeds), **options)
    progress = watched() if progress is None else progress
    with tqdm(unit=" steps", leave=False, file=sys.stdout, disable=not progress) as bar:
        for step in comparison.steps():
            bar.total = step.total
            bar.set_description(f"{step.method}, seed {step.seed}", refresh=False)
            bar.update(step.done - bar.n)
    return comparison


def watched() -> bool:
    """Whether somebody sees what is printed at once: in a terminal, or in a notebook that is not merely executed."""
    return sys.stdout.isatty() or (in_kernel() and os.environ.get("SMFT_LAB_RUNNER") != "inline")
