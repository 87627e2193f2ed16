"""One setting of one experiment: what is run, and what comes of it, as plain values that any machine can share."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from smft_lab.experiments.run import history_rows
from smft_lab.facts.fact import Fact
from smft_lab.facts.world import words
from smft_lab.facts.world.corpus import Corpus
from smft_lab.facts.world.world import World
from smft_lab.finetuning.baselines import WeightPenalty, average_with_base, fisher
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import METHODS, Method, Sparse
from smft_lab.lab import Lab, load
from smft_lab.probes.probes import Probes, QuestionProbe
from smft_lab.slots.coverage import fact_counts
from smft_lab.slots.patch import Patch, fingerprint
from smft_lab.slots.reading import core_set, token_reads
from smft_lab.slots.scores import slot_scores
from smft_lab.slots.usage import measure_usage

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

FORMAT = 4  # of a result; part of its name, so that results of other versions are never mixed
LADDER = (10, 25, 50, 100, 200, 500, 1000)  # the t that `least_t` tries
LEAST_T_STEPS = 20
FISHER_TEXTS = 64
OF_METHODS = ("lr", "top_t", "optimizer", "rule", "rank")  # fields of a job that are settings of methods


@dataclass(frozen=True)
class Job:
    """A setting. Two jobs that are equal have the same result, up to rounding.

    Attributes:
        kind: `finetune`; or `coreset`, where every fact is looked at and taught by itself.
        facts: How many; `what`: `new` people, `changed` values of old facts, `hops` (changed values of first hops) or
            `passages` of three facts. `seed` draws them.
        background: What idf is measured on: the lab's `pretraining` text, the `facts` that are taught, or `questions`
            about other people.
        lab: Folder of a saved lab; "" is the shipped one.
        base: Fingerprint of that lab, so that a result is never taken for one of another model. "" for a model of its
            own, which `slots`, `k` and `pretraining` tell: its result outlives it, and counts on any machine.
        protect: See `finetune`.
        remedy: Against forgetting: `replay` (of pretraining text) or `remix` (texts of random words) beside each batch,
            `l2`, `ewc`, or `average` (of the weights, with the base's, at the end); "" is none.
        strength: Of the remedy: texts per batch, the penalty's strength, or the finetuned weights' share.
        evaluations: Measurements in a run.
        slots, k, pretraining: A model of its own with so many slots, reads per head and pretraining steps (see
            `scale`); without `slots`, the lab as it is.

    The others are those of `finetune`; 0 or "" stands for the lab's tuned value (see `with_defaults`).
    """

    kind: str = "finetune"
    facts: int = 40
    what: str = "new"
    seed: int = 0
    method: str = "sparse"
    lr: float = 0.0
    top_t: int = 0
    rule: str = "tfidf"
    optimizer: str = ""
    passes: int = 12
    order: str = "stream"
    background: str = "pretraining"
    rank: int = 0
    protect: float = 0.0
    remedy: str = ""
    strength: float = 0.0
    evaluations: int = 12
    slots: int = 0
    k: int = 0
    pretraining: int = 0
    lab: str = ""
    base: str = ""

    @property
    def key(self) -> str:
        """Name of its result: a hash of all that it says beyond the defaults, but for where the lab lies.

        So a new field leaves the names of earlier results as they were. A default is never changed without `FORMAT`.
        """
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        identity = {name: value for name, (value, usual) in values.items() if name != "lab" and value != usual}
        return hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def finds(self) -> tuple[str, ...]:
        """Names of what its result has under `found`."""
        return FOUND[self.kind]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the probes whose exact match its result has of the base and of the end."""
        return ("learned", "old_facts") if self.kind == "finetune" else ()

    def run(self, device: str = "cpu") -> dict:
        """See `run_job`."""
        return run_job(self, device)


def with_defaults(job: Job, lab: Lab) -> Job:
    """The job with the lab's tuned rate, optimizer and t where it names none (0 or ""), and the lab's fingerprint.

    A model of its own gets those of the lab, too: only what a job names differs from one to the next.
    """
    used = {"lr": 0.0, "top_t": 0, "optimizer": "", "rule": "", "rank": 0, **method_of(job).resolved(lab).settings()}
    used = {name: value for name, value in used.items() if name in OF_METHODS}
    return replace(
        job,
        **{**used, "top_t": min(used["top_t"], lab.slots)},
        pretraining=job.pretraining if job.slots else 0,
        base="" if job.slots else fingerprint(lab),
    )


def method_of(job: Job, **others) -> Method:
    """The method of a job; what the job leaves open (0 or "") is as usual.

    Args:
        others: Settings that no field of a job holds.
    """
    kind = METHODS[job.method]
    names = {field.name for field in fields(kind)} & {*OF_METHODS, "protect"}
    return kind(**{name: value for name in names if (value := getattr(job, name))}, **others)


@lru_cache(8)
def opened(folder: str, device: str = "cpu") -> Lab:
    """The lab of a job; kept by the process from one job to the next."""
    return load(folder or None, device=device)


def run_job(job: Job, device: str = "cpu") -> dict:
    """Do what a job says.

    Args:
        device: Where to compute.

    Returns:
        `config` (the job, with the lab's name for its folder), `rows` (step, probe, metric, value), `found` (one value
        per name) and `seconds`; all of it JSON.

    Raises:
        ValueError: the lab is not the one the job was made for.
    """
    lab = opened(job.lab, device)
    lab.reset()
    if job.base and job.base != fingerprint(lab):
        raise ValueError(f"job {job.key} was made for base {job.base}, but the lab is {fingerprint(lab)}")
    began = time.perf_counter()
    try:
        facts = FACTS[job.what](lab.world, job.facts, job.seed)
        with _background(lab, job, facts):
            rows, details = KINDS[job.kind](lab, job, facts)
    finally:
        lab.reset()
    config = asdict(replace(job, lab=Path(job.lab).name))
    return {"config": config, "rows": rows, "found": details, "seconds": time.perf_counter() - began}


def _finetune(lab: Lab, job: Job, facts: Sequence[Fact]) -> tuple[list[dict], dict]:
    watched = [text for fact in facts for text in fact.statements[:4]]
    read = [sum(int((counts > 0).sum()) for counts in tables) for tables in fact_counts(lab, facts)]
    before = list(_log_probabilities(lab, watched))
    steps = job.passes * len(facts)
    method, probe_every = method_of(job, **_remedy(lab, job)), math.ceil(steps / job.evaluations)
    run = finetune(lab, facts, method, passes=job.passes, order=job.order, seed=job.seed, probe_every=probe_every)
    rows, known, last, flops = [], [], None, FlopCounterMode(display=False)
    counted = next((step for step in range(len(facts) + 1, steps + 1) if step % probe_every), None)
    for step in range(steps + 1):
        with flops if step == counted else nullcontext():  # a step of the second pass, without a measurement
            last = next(run)
        rows += history_rows(last)
        if last.probes:
            known.append({"step": last.step, "known": _known(lab, facts)})
            rows += [{"step": last.step, **row} for row in _asked_besides(lab, job, facts)]
    assert last is not None  # the base comes first
    if job.remedy == "average":
        average_with_base(lab, job.strength)
        probes = Probes([QuestionProbe.of("learned", facts), *lab.probes.without(facts)])
        rows += history_rows(replace(last, step=steps + 1, probes=probes.measure(lab.model, lab.tokenizer)))
    details = {
        "ms_per_step": 1000 * last.seconds / last.step,
        "trainable_per_step": last.trainable,
        "slots_read_per_step": sum(read) / len(read),
        "flops_per_step": flops.get_total_flops(),
        "kl_on_taught": _kl(before, _log_probabilities(lab, watched)),
        "rows_changed": len(Patch.between(lab)) if method.sparse else lab.slots,
        "known": known,
    }
    return rows, details


def _asked_besides(lab: Lab, job: Job, facts: Sequence[Fact]) -> list[dict]:
    """What else changed facts are asked: their old values; and what follows from a changed first hop."""
    probes = []
    if job.what in ("changed", "hops"):
        old = tuple((lab.world.values[fact.subject, fact.relation],) for fact in facts)
        probes.append(QuestionProbe("old_values", tuple(fact.question for fact in facts), old))
    if job.what == "hops":
        probes.append(QuestionProbe.of("new_hops", lab.world.chains_from(facts)))
    return [
        {"probe": probe.name, "metric": "em", "value": probe.measure(lab.model, lab.tokenizer)["em"]}
        for probe in probes
    ]


def _remedy(lab: Lab, job: Job) -> dict:
    """The settings of a method that a remedy is; none where it comes after the run, or there is none."""
    corpus, texts = Corpus(lab.world), round(job.strength)
    if job.remedy == "replay":
        return {"mix": lambda rng: corpus.texts(rng, texts)}
    if job.remedy == "remix":
        return {"mix": lambda rng: [_random_words(rng) for _ in range(texts)]}
    if job.remedy == "l2":
        return {"penalty": WeightPenalty(job.strength)}
    if job.remedy == "ewc":
        texts = corpus.texts(Random(f"{job.seed}/fisher"), FISHER_TEXTS)
        return {"penalty": WeightPenalty(job.strength, fisher(lab, texts))}
    return {}


def _random_words(rng: Random) -> str:
    """A text that says nothing, as REMIX mixes in."""
    return " ".join(words.unfamiliar_word(rng) for _ in range(8)) + "."


def _coreset(lab: Lab, job: Job, facts: Sequence[Fact]) -> tuple[list[dict], dict]:
    """Core sets, how much of them top-t holds, and the least t with which a fact taught alone is answered."""
    rows, tokens = [], []
    for i, fact in enumerate(facts):
        cores = core_set(lab, fact)
        core = {int(slot) for slots in cores for slot in slots}
        rows.append({"step": i, "probe": "core", "metric": "slots", "value": len(core)})
        table = slot_scores(lab, fact)
        ranked = table[table["count"] > 0].sort_values("tfidf", ascending=False)["slot"].tolist()
        for t in LADDER:
            held = len(core & set(ranked[:t])) / max(1, len(core))
            rows.append({"step": i, "probe": "core held by top-t", "metric": str(t), "value": held})
        least = next((t for t in LADDER if t <= lab.slots and _answers(lab, job, fact, t)), None)
        rows.append({"step": i, "probe": "least t", "metric": "slots", "value": least})
        tokens.append(_core_reads(lab, fact.statements[0], cores))
    return rows, {"facts": [fact.question for fact in facts], "tokens": tokens}


def _core_reads(lab: Lab, statement: str, cores: Sequence[Int64[Tensor, " _slots"]]) -> list[tuple[str, int]]:
    """(token, how many slots of the core set it reads), the end of the text as a square (paper Table 1)."""
    reads = token_reads(lab, statement)
    counts = [
        sum(int(torch.isin(core, slots[place]).sum()) for core, slots in zip(cores, reads.slots, strict=True))
        for place in range(len(reads.tokens))
    ]
    return list(zip([*reads.tokens[:-1], "■"], counts, strict=True))


def _answers(lab: Lab, job: Job, fact: Fact, t: int) -> bool:
    lab.reset()
    method = Sparse(top_t=t, lr=job.lr, optimizer=job.optimizer)
    for _ in finetune(lab, [fact], method, passes=LEAST_T_STEPS, probe_every=0):
        pass
    known = bool(_known(lab, [fact])[0])
    lab.reset()
    return known


FOUND = {
    "finetune": (
        "ms_per_step",
        "trainable_per_step",
        "slots_read_per_step",
        "flops_per_step",
        "kl_on_taught",
        "rows_changed",
        "known",
    ),
    "coreset": ("facts", "tokens"),
}
KINDS = {"finetune": _finetune, "coreset": _coreset}
FACTS = {
    "new": World.new_facts,
    "changed": World.changed_facts,
    "hops": partial(World.changed_facts, hops=True),
    "passages": World.passages,
}


def _known(lab: Lab, facts: Sequence[Fact]) -> list[int]:
    """1 for every fact that is answered now, in order."""
    questions, answers = [fact.question for fact in facts], [fact.answer for fact in facts]
    return lab.recalled(questions, answers).int().tolist()


@contextmanager
def _background(lab: Lab, job: Job, facts: Sequence[Fact]) -> Iterator[None]:
    """Measure idf on something else than pretraining text, for this job (paper section 5.3, Fig. 7)."""
    if job.background == "pretraining":
        yield
        return
    rng, own = Random(f"{job.seed}/background"), lab.usage
    if job.background == "facts":
        texts = [text for fact in facts for text in fact.statements]
    else:
        texts = [
            text for fact in lab.world.new_facts(400, 90_000 + job.seed) for text in (fact.question, fact.statements[0])
        ]
    batches = (lab.encode(rng.sample(texts, min(64, len(texts)))) for _ in range(200))
    lab.usage = measure_usage(lab.model, batches)
    try:
        yield
    finally:
        lab.usage = own


def _log_probabilities(lab: Lab, texts: Sequence[str]) -> Iterator[Float[Tensor, "_tokens V"]]:
    """(tokens, vocabulary) of the texts, some texts at a time."""
    for start in range(0, len(texts), 32):
        batch = lab.encode(texts[start : start + 32])
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        with torch.inference_mode():
            logs = lab.model(**inputs).logits[batch["attention_mask"].bool()].log_softmax(-1)
        yield logs


def _kl(before: Iterable[Float[Tensor, "_tokens V"]], now: Iterable[Float[Tensor, "_tokens V"]]) -> float:
    """KL(base || finetuned) on the taught statements, nats per token: what RL's Razor predicts forgetting by."""
    total = tokens = 0
    for old, new in zip(before, now, strict=True):
        total += float(F.kl_div(new, old, log_target=True, reduction="sum"))
        tokens += len(old)
    return total / tokens
