"""The runs behind a page that needs no kernel: every t, rule and seed once, each kept as it ends."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from smft_lab.experiments.compare import Comparison
from smft_lab.facts.fact import Fact
from smft_lab.finetuning.finetune import all_steps, check_facts, finetune
from smft_lab.finetuning.methods import METHODS, Method, Sparse, method_of
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab, load
from smft_lab.model.memory import differing_rows, named_tables
from smft_lab.probes.probes import match_of
from smft_lab.probes.text import MATCHES
from smft_lab.slots.patch import fingerprint
from smft_lab.slots.scores import check_rule, check_top_t
from smft_lab.training.processes import end_with
from smft_lab.widgets.kept import KeptQuestions
from smft_lab.writing import json_text, write_atomically

FORMAT = 1  # of a kept run
MEASURED = 12  # times a run, at most
KNOWN = 12  # questions about what should stay, whose answers the page shows


@dataclass(frozen=True)
class SharedRun:
    """One finetune of a page; `rule` and `top_t` are of `sparse` alone."""

    method: str
    seed: int
    rule: str = ""
    top_t: int = 0

    @property
    def sparse(self) -> bool:
        """Whether it changes chosen slots alone."""
        return METHODS[self.method].sparse


@dataclass(frozen=True)
class Course:
    """What all runs of a page have in common.

    Attributes:
        facts: What is taught, with the statements that were added by rule.
        passes, order, loss_on: See `finetune`.
        optimizer, lr: Of `sparse`; the lab's tuned ones where None.
        evaluations: Measurements per run, after that of the base.
        known: The questions by which forgetting is told.
    """

    facts: tuple[Fact, ...]
    passes: int
    order: str
    loss_on: str
    evaluations: int
    optimizer: str | None = None
    lr: float | None = None
    known: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        lab: Lab,
        facts: Sequence[Fact],
        passes: int | None = None,
        evaluations: int | None = None,
        optimizer: str | None = None,
        lr: float | None = None,
        rephrase: bool = True,
        **chosen,
    ) -> Course:
        """What is not given is as in a comparison (see `Comparison`).

        Raises:
            ValueError: an option is out of range, or a statement is too long for the model.
        """
        same = Comparison(
            lab,
            facts,
            (Sparse(optimizer=optimizer, lr=lr),),
            passes=passes,
            evaluations=evaluations,
            rephrase=rephrase,
            **chosen,
        )
        taught = tuple(same.taught(0))
        check_facts(lab, taught)
        teaching = Teaching.of(lab, taught, same.passes, same.order, same.loss_on)
        evaluations = evaluations or min(teaching.passes, same.evaluations or MEASURED)
        return cls(
            taught,
            teaching.passes,
            teaching.order,
            teaching.loss_on,
            evaluations,
            optimizer,
            lr,
            KeptQuestions(lab, taught).questions,
        )

    def options(self, lab: Lab, run: SharedRun) -> dict:
        """What `finetune` is given for a run."""
        options: dict[str, Any] = {"method": run.method, "seed": run.seed, "passes": self.passes}
        options |= {"order": self.order, "loss_on": self.loss_on}
        if run.sparse:
            options |= {"top_t": run.top_t, "rule": run.rule, "optimizer": self.optimizer, "lr": self.lr}
        return options

    def tuned(self, lab: Lab, method: str) -> Method:
        """The method of that key, with the lab's tuned settings but for those given for `sparse`."""
        given = {"optimizer": self.optimizer, "lr": self.lr} if METHODS[method].sparse else {}
        return method_of(method, **given).resolved(lab)

    def key(self, lab: Lab, run: SharedRun) -> str:
        """What tells the result of a run from any other: a hash of all that it follows from."""
        used = self.tuned(lab, run.method).settings()
        about = {"format": FORMAT, "base": fingerprint(lab), "used": used, "course": asdict(self), "run": asdict(run)}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def planned(
    lab: Lab, methods: Sequence[str], rules: Sequence[str], top_t: Sequence[int], seeds: Sequence[int]
) -> list[SharedRun]:
    """The runs of a page: `sparse` with every rule, t and seed, the other methods with every seed.

    Raises:
        ValueError: an option is out of range, or there is nothing to run.
    """
    if not (methods and rules and top_t and seeds):
        raise ValueError("a page needs at least one method, one rule, one t and one seed")
    for method in methods:
        method_of(method).resolved(lab).check(lab)
    for rule in rules:
        check_rule(rule)
    for t in top_t:
        check_top_t(t, lab.slots)
    others = [SharedRun(method, seed) for method in methods if not METHODS[method].sparse for seed in seeds]
    sparse = [
        SharedRun(method, seed, rule, t)
        for method in methods
        if METHODS[method].sparse
        for seed in seeds
        for rule in rules
        for t in (top_t if rule != "all" else top_t[-1:])
    ]
    return [*others, *sparse]


@dataclass
class Asked:
    """The questions whose answers a page shows before and after: those of the facts, and some of what should stay."""

    questions: tuple[str, ...]
    accepted: tuple[tuple[str, ...], ...]
    matches: tuple[str, ...]
    facts: int  # the first so many are those of the facts

    @classmethod
    def of(cls, lab: Lab, facts: Sequence[Fact], kept: KeptQuestions) -> Asked:
        probe, every = kept.probe, len(kept)
        # Evenly drawn, not by how anyone answers them.
        places = [] if probe is None else [n * every // min(KNOWN, every) for n in range(min(KNOWN, every))]
        known = [] if probe is None else [(probe.questions[n], probe.answers[n], probe.match) for n in places]
        of_facts = [(fact.question, fact.answers, match_of([fact])) for fact in facts]
        questions, accepted, matches = zip(*of_facts, *known, strict=True)
        return cls(questions, accepted, matches, len(of_facts))

    def answers(self, lab: Lab) -> list[str]:
        return lab.answer(self.questions)

    def right(self, answers: Sequence[str]) -> list[bool]:
        each = zip(answers, self.accepted, self.matches, strict=True)
        return [bool(MATCHES[match][0](text, accepted)) for text, accepted, match in each]


@dataclass
class Runner:
    """Runs one after another on one lab, each from its base.

    Attributes:
        batches: What a run computed that the next need not.
    """

    lab: Lab
    course: Course
    batches: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.kept = KeptQuestions(self.lab, self.course.facts)
        self.asked = Asked.of(self.lab, self.course.facts, self.kept)
        self._base: list | None = None

    def point(self, step: int) -> list:
        """[step, share of new facts learned, share of what was known kept or None]."""
        facts = self.course.facts
        asked, golds = [fact.question for fact in facts], [fact.answer for fact in facts]
        right = self.lab.recalled(asked, golds)
        return [step, round(right.double().mean().item(), 5), self.kept.share()]

    def base(self) -> dict:
        """What the base knows and answers."""
        self.lab.reset()
        self._base = self._base or self.point(0)
        return {"point": self._base, "answers": self.asked.answers(self.lab)}

    def run(self, run: SharedRun) -> dict:
        """The result of one run, as it is kept; the model is left finetuned."""
        began, lab, course = time.process_time(), self.lab, self.course
        lab.reset()
        self._base = self._base or self.point(0)
        points, loss, seconds, step = [self._base], None, 0.0, None
        options = course.options(lab, run)
        steps = Teaching.of(lab, course.facts, course.passes, course.order, course.loss_on, run.seed).steps
        every = math.ceil(steps / course.evaluations)
        cache = self.batches if run.sparse else None
        for step in all_steps(finetune(lab, course.facts, probe_every=0, cache=cache, **options)):
            loss, seconds = step.loss, step.seconds
            if step.last or (step.step and step.step % every == 0):
                points.append(self.point(step.step))
        rows = None
        if run.sparse:
            tables = zip(*named_tables(lab.model), strict=True)
            rows = sum(len(differing_rows(table.weight, lab.base(name))) for name, table in tables)
        answers = self.asked.answers(lab)
        assert step is not None
        measured = {"points": points, "loss": loss, "rows": rows, "trained": seconds, "answers": answers}
        return {"run": asdict(run), **measured, "steps": step.step, "seconds": time.process_time() - began}


def kept_run(folder: Path, course: Course, lab: Lab, run: SharedRun) -> dict | None:
    """A run that was kept; None if there is none, or what is there is no result that it can have had."""
    try:
        result = json.loads((folder / f"{course.key(lab, run)}.json").read_text(encoding="utf-8"))
        return result if result["run"] == asdict(run) and _is_result(result, course) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_result(result: dict, course: Course) -> bool:
    """Whether this may be what `Runner.run` gives."""
    asked = len(course.facts) + min(KNOWN, len(course.known))
    shares = [share for _, learned, kept in result["points"] for share in (learned, 0 if kept is None else kept)]
    numbers = [result["trained"], result["seconds"], result["steps"], result["rows"] or 0, *shares]
    return (
        bool(shares)
        and all(type(number) in (int, float) and number >= 0 for number in numbers)
        and all(share <= 1 for share in shares)
        and all(type(step) is int for step in (result["steps"], *(point[0] for point in result["points"])))
        and type(result["loss"]) in (int, float, NoneType)
        and isinstance(result["answers"], list)
        and [type(text) for text in result["answers"]] == [str] * asked
    )


def computed(
    lab: Lab,
    course: Course,
    runs: Sequence[SharedRun],
    folder: Path | None = None,
    workers: int = 1,
    source: tuple[Path | None, str] | None = None,
) -> Iterator[tuple[int, dict]]:
    """Compute the runs that are not in `folder` yet, and keep each there as soon as it has ended.

    Args:
        lab: Holds its base in the end.
        folder: Where runs are kept; None to keep none.
        workers: Processes, of one thread each, where `source` says which lab they open.
        source: The lab's folder (None for the shipped one) and the device to compute on.

    Yields:
        (runs done, the one that was found or has just ended).
    """
    waiting, done = [], 0
    for run in runs:
        result = None if folder is None else kept_run(folder, course, lab, run)
        if result is None:
            waiting.append(run)
        else:
            done += 1
            yield done, result
    if not waiting:
        return
    if folder is not None and workers > 1 and source is not None and len(waiting) > 1:
        for result in _in_parallel(lab, course, waiting, folder, workers, source):
            done += 1
            yield done, result
        return
    runner = Runner(lab, course)
    try:
        for run in waiting:
            result = runner.run(run)
            if folder is not None:
                write_atomically(folder / f"{course.key(lab, run)}.json", json_text(result))
            done += 1
            yield done, result
    finally:
        lab.reset()


def _in_parallel(
    lab: Lab, course: Course, runs: Sequence[SharedRun], folder: Path, workers: int, source: tuple[Path | None, str]
) -> Iterator[dict]:
    """The results as they come."""
    from joblib import Parallel, delayed, parallel_config

    calls = [delayed(_keep)(course, run, course.key(lab, run), folder, source, os.getpid()) for run in runs]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        ended: Any = Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
        yield from ended


@cache
def _runner(course: Course, source: tuple[Path | None, str]) -> Runner:
    torch.set_num_threads(1)
    folder, device = source
    return Runner(load(folder, device=device), course)


def _keep(course: Course, run: SharedRun, key: str, folder: Path, source: tuple[Path | None, str], parent: int) -> dict:
    end_with(parent)
    result = _runner(course, source).run(run)
    write_atomically(folder / f"{key}.json", json_text(result))
    return result
