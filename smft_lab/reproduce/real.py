"""What a real model learns and forgets: one setting of the study of `smft-lab study`, and the settings there are."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smft_lab.experiments.equal import TARGET
from smft_lab.experiments.retrofit import KNOWN, Retrofit
from smft_lab.experiments.run import measured_rows
from smft_lab.facts.common import common_questions
from smft_lab.facts.fact import Fact
from smft_lab.facts.files import read_facts
from smft_lab.facts.public.datasets import Question, read_dataset
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import METHODS, Sparse
from smft_lab.finetuning.methods.full_with_replay import own_answers
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.model.opening import open_model
from smft_lab.probes.choices import ChoiceProbe, log_likelihoods
from smft_lab.probes.probes import Probes, QuestionProbe, probes_of
from smft_lab.probes.text import begins_with
from smft_lab.recipe import EARLIER, RETROFIT, SHAPE, Recipe
from smft_lab.slots.addresses import measure_addresses, measure_loudness
from smft_lab.slots.patch import Patch

if TYPE_CHECKING:
    from jaxtyping import Float

FORMAT = 2
TEXT, QUESTIONS, CHOICES = "wikitext2_test.txt", "triviaqa_test_1500.jsonl", "hellaswag_500.jsonl"
ASKED = 1000  # of the questions: the base is asked these, and then the package's own; the others are background
SHOTS = (("What is the capital of Italy?", "Rome"), ("Who wrote the play Hamlet?", "William Shakespeare"))
TAUGHT = {
    "statements",
    "questions",
    "contexts",
    "keywords",
    "own_keywords",
    "order",
    "batch_size",
    "loss_on",
    "passes",
    "least_steps",
}
"""What a recipe says of all methods."""
OTHERS = {"name", "full_lr", "lora_lr"}
"""What it says that is nothing to sparse finetuning."""
LATER_FIELDS = {"known": KNOWN, "kind": "", "source": "people"}
"""What a job got after the first results, with what those were measured with: at that value it is no part of a result's
name, so that they keep theirs; and so for what a recipe got (`EARLIER`)."""
ADDRESS_FACTS = 16


@dataclass(frozen=True)
class RetrofitJob:
    """A setting. Two jobs that are equal have the same result, up to rounding.

    A baseline stops where it has learned enough to be compared (`TARGET`); sparse finetuning ends by itself. Learned
    facts are asked often; all else where that much is learned for the first time, and at the end.

    Attributes:
        model: As `open_model` takes it.
        block: Where the memory is.
        facts, seed: How many facts about invented people, and which.
        method, rule, lr, passes: As in `finetune`; an lr or passes of 0 are the recipe's.
        replay: Questions with the base's own answers that are mixed into each batch.
        switches: Of the recipe, what differs from `RETROFIT`, as sorted (name, value) pairs.
        evaluations: How often learned facts are asked in a run of all its passes.
        choices: Rows of HellaSwag asked before and after.
        known: How many questions that the base answers are asked again.
        data: Folder of the text and questions.
        source: What is taught: `people`, who are invented; `questions`, those of the data that the base answers wrong,
            by statements made by rule; or a file of facts, of which as many are taught as it has.
        kind: What that file is (see `read_facts`), where it can't be told.
    """

    model: str = "smollm2"
    block: int = 2
    facts: int = 32
    seed: int = 0
    method: str = "sparse"
    rule: str = "tfidf"
    lr: float = 0.0
    passes: int = 0
    replay: int = 0
    switches: tuple[tuple[str, object], ...] = ()
    evaluations: int = 12
    choices: int = 0
    known: int = KNOWN
    data: str = ""
    source: str = "people"
    kind: str = ""

    @property
    def recipe(self) -> Recipe:
        return replace(RETROFIT, **{"own_keywords": 0, **dict(self.switches)})

    @property
    def key(self) -> str:
        """Name of its result: a hash of all it says but for where the data lie, and of what the recipe says of it."""
        recipe = self.recipe.to_dict()
        names = set(recipe) - OTHERS if METHODS[self.method].sparse else TAUGHT
        identity = _named(asdict(self), LATER_FIELDS)
        del identity["data"], identity["switches"]  # the switches are in the recipe
        if self.source not in ("people", "questions"):  # a file is what is in it
            identity["source"] = hashlib.sha256(Path(self.source).read_bytes()).hexdigest()
        identity["recipe"] = _named({name: recipe[name] for name in names}, EARLIER)
        return hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def finds(self) -> tuple[str, ...]:
        """Names of what its result has under `found`."""
        return ("seconds", "steps", "texts")

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the probes whose exact match its result has of the base and of the end."""
        return ("learned", "known")

    def run(self, device: str = "cpu") -> dict:
        """Do what the job says: `config`, `rows` (step, probe, metric, value), `found` and `seconds`; all JSON."""
        began = time.perf_counter()
        shape = tuple((name, value) for name, value in self.switches if name in SHAPE)
        lab = _opened(self.model, self.block, shape, self.data, self.known)
        lab.recipe = self.recipe
        lab.reset()
        try:
            rows, details = _run(lab, self)
        finally:
            lab.reset()
        source = Path(self.source).name  # not where it lies on this machine
        config = {**asdict(self), "data": "", "source": source, "recipe": self.recipe.to_dict()}
        return {"config": config, "rows": rows, "found": details, "seconds": time.perf_counter() - began}


def _named(values: dict, later: dict) -> dict:
    """The values that are part of a result's name: all but those that came later and are as they were before."""
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


@lru_cache(1)
def _opened(model: str, block: int, shape: tuple[tuple[str, object], ...], data: str, known: int = KNOWN) -> Lab:
    """The lab of a job: a retrofit of the model with background, known questions and text from the data."""
    asked, others = _questions(data)
    opened, tokenizer = open_model(model)
    text = (Path(data) / TEXT).read_text(encoding="utf-8")
    work = Retrofit(
        opened,
        tokenizer,
        replace(RETROFIT, **dict(shape)),
        [block],
        text=text,
        questions=others,
        known=asked if known == KNOWN else [*asked, *common_questions("probe")],
        known_limit=known,
        shots=SHOTS,
        folder=_cache(model) / str(known),
    )
    for _ in work:
        pass
    assert work.lab is not None
    return work.lab


def _cache(model: str) -> Path:
    """Where what all labs of a model have in common is kept from one process to the next."""
    from tempfile import gettempdir

    return Path(gettempdir()) / f"smft-lab-study-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def _questions(data: str) -> tuple[list[Question], list[Question]]:
    """Questions that the base is asked, and those of the background."""
    facts = read_dataset(Path(data) / QUESTIONS).facts
    questions = [Question(fact.question, fact.answers) for fact in facts]
    return questions[:ASKED], questions[ASKED:]


def _run(lab: Lab, job: RetrofitJob) -> tuple[list[dict], dict]:
    facts = _facts(lab, job)
    teaching = Teaching.of(lab, facts, job.passes or None, seed=job.seed)
    kind = METHODS[job.method]
    method = kind(lr=job.lr or None, mix=_replay(lab, job) if job.replay else None)
    if isinstance(method, Sparse):
        method = replace(method, rule=job.rule)
    every = math.ceil(teaching.steps / job.evaluations)
    probes, last, reached = probes_of(lab, facts), None, False
    learned, others = Probes([probes["learned"]]), Probes([probe for probe in probes if probe.name != "learned"])
    rows = measured_rows(0, _base_reading(lab, job, probes))
    for last in finetune(lab, facts, method, passes=job.passes or None, seed=job.seed, probe_every=0):
        if not last.step or (last.step % every and not last.last):
            continue
        measured, before = learned.measure(lab.model, lab.tokenizer), reached
        reached = reached or measured["learned"]["em"] >= TARGET
        if last.last or reached > before:
            measured |= others.measure(lab.model, lab.tokenizer)
        rows += measured_rows(last.step, measured)
        if reached and not method.sparse:
            break  # the baselines are read here; going on, they only lose more
    lab.end()
    assert last is not None  # the base comes first
    moved = _replies(lab) - _base_replies(lab, job)
    details: dict = {"seconds": last.seconds, "steps": last.step, "texts": len(teaching.texts)}
    details["replies"] = moved.square().mean().sqrt().item()
    if method.sparse:
        details["rows_changed"] = len(Patch.between(lab))
        details["loudness"] = measure_loudness(lab, facts).median
        details["addresses"] = _addresses(lab)
    if job.choices:
        after = _choices(job).measure(lab.model, lab.tokenizer)
        for step, measured in ((0, _base_choices(lab, job)), (last.step, after)):
            rows += measured_rows(step, {"hellaswag": measured})
    return rows, details


def _replies(lab: Lab) -> Float[Tensor, " questions"]:
    """(questions,) log-probability, in nats, of what the base replies to each known question."""
    known = lab.probes["known"]
    assert isinstance(known, QuestionProbe)
    prompts = [known.form.prompt(question) for question in known.questions]
    replies = [reply.strip() for reply in known.replies]  # the form has a blank of its own before them
    whole = [known.form.answered(*both) for both in zip(known.questions, replies, strict=True)]
    pairs = [(prompt, text[len(prompt) :]) for prompt, text in zip(prompts, whole, strict=True)]
    return torch.tensor(log_likelihoods(lab.model, lab.tokenizer, pairs))


def _choices(job: RetrofitJob) -> ChoiceProbe:
    choices = read_dataset(Path(job.data) / CHOICES).choices[: job.choices]
    return ChoiceProbe.of("hellaswag", choices, "hellaswag")


_BASE: dict[tuple, Any] = {}
"""What was measured of a base in this process: an empty memory changes nothing, wherever it is."""


def _base_reading(lab: Lab, job: RetrofitJob, probes: Probes) -> dict[str, dict[str, float]]:
    """What the base answers of the job's facts and of all else; the lab must be at its base."""
    key = "probes", job.model, job.data, job.source, job.facts, job.seed, job.known
    if key not in _BASE:
        _BASE[key] = probes.measure(lab.model, lab.tokenizer)
    return _BASE[key]


def _base_replies(lab: Lab, job: RetrofitJob) -> Float[Tensor, " questions"]:
    """How likely the base finds its own replies."""
    key = "replies", job.model, job.data, job.known
    if key not in _BASE:
        with lab.at_base():
            _BASE[key] = _replies(lab)
    return _BASE[key]


def _base_choices(lab: Lab, job: RetrofitJob) -> dict[str, float]:
    """What the base chooses."""
    key = "choices", job.model, job.data, job.choices
    if key not in _BASE:
        lab.reset()
        _BASE[key] = _choices(job).measure(lab.model, lab.tokenizer)
    return _BASE[key]


def _facts(lab: Lab, job: RetrofitJob) -> list[Fact]:
    if job.source == "people":
        return new_facts(job.facts, seed=job.seed)
    if job.source != "questions":
        return read_facts(job.source, job.kind or None)
    known = lab.probes["known"]
    assert isinstance(known, QuestionProbe)
    facts = [
        fact for fact in read_dataset(Path(job.data) / QUESTIONS).facts[:ASKED] if fact.question not in known.questions
    ]
    drawn = Random(f"{job.seed}/wrong").sample(facts, len(facts))
    wrong: list[Fact] = []
    while drawn and len(wrong) < job.facts:
        part, drawn = drawn[:64], drawn[64:]
        replies = lab.answer([fact.question for fact in part], form=known.form)
        wrong += [fact for fact, reply in zip(part, replies, strict=True) if not begins_with(reply, fact.answers)]
    if len(wrong) < job.facts:
        raise ValueError(f"{QUESTIONS} has {len(wrong)} questions that the base answers wrong, not {job.facts}")
    return wrong[: job.facts]


def _addresses(lab: Lab) -> dict:
    """Of facts that no job teaches, so that it is the same for every seed."""
    overlap = measure_addresses(lab, new_facts(ADDRESS_FACTS, seed=999))[0]
    return {"same": overlap.same, "different": overlap.different}


def _replay(lab: Lab, job: RetrofitJob):
    """Background questions with what the base itself answers."""
    _, others = _questions(job.data)
    texts = own_answers(lab, [question.question for question in others[:150]])
    return lambda rng: rng.sample(texts, job.replay)
