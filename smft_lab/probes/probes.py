"""Probes: what a model has learned and what it has forgotten.

A probe turns a model into one number per metric: `em` and `f1` in [0, 1] of greedily generated answers, or `nll` in
nats per token. Nothing here changes the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from random import Random

import torch
from torch import Tensor

from smft_lab.facts.corpus import held_out_prose
from smft_lab.facts.fact import Fact
from smft_lab.facts.grammar import answered, ask
from smft_lab.facts.world import World
from smft_lab.model.tokenizer import encode, pad_id
from smft_lab.probes.text import exact_match, f1

BATCH = 256  # questions or texts per forward pass


@dataclass(frozen=True)
class QuestionProbe:
    """Exact match and F1 of the answers to `questions`."""

    name: str
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    subjects: tuple[tuple[str, str], ...] = ()  # (subject, relation) of each, where known

    @classmethod
    def of(cls, name: str, facts: Iterable[Fact]) -> QuestionProbe:
        facts = list(facts)
        return cls(
            name,
            tuple(fact.question for fact in facts),
            tuple(fact.answers for fact in facts),
            tuple((fact.subject, fact.relation) for fact in facts),
        )

    def without(self, facts: Iterable[Fact]) -> QuestionProbe:
        """The same probe without questions whose answer the given facts change, directly or in the first hop."""
        gone = {(fact.subject, fact.relation) for fact in facts if fact.subject}
        keep = [
            i
            for i, (subject, relation) in enumerate(self.subjects)
            if not any((subject, hop) in gone for hop in relation.split("-"))
        ]
        if len(keep) == len(self.subjects):
            return self
        parts = (self.questions, self.answers, self.subjects)
        return QuestionProbe(self.name, *(tuple(part[i] for i in keep) for part in parts))

    def measure(self, model, tokenizer) -> dict[str, float]:
        longest = max(len(tokenizer(" " + one)["input_ids"]) for accepted in self.answers for one in accepted)
        answers = answer(model, tokenizer, self.questions, max_new_tokens=longest)
        pairs = list(zip(answers, self.answers, strict=True))
        return {
            "em": sum(exact_match(*pair) for pair in pairs) / len(pairs),
            "f1": sum(f1(*pair) for pair in pairs) / len(pairs),
        }


@dataclass(frozen=True)
class TextProbe:
    """Mean negative log-likelihood, in nats per token, of texts; of the part after the prompt, where there is one.

    Attributes:
        whole: Whether the end of each text is the end of all there is to say, and to be foreseen like its words.
    """

    name: str
    texts: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    whole: bool = True

    def questions(self) -> list[tuple[str, str]]:
        """The question in each prompt, with its answer."""
        return [
            (prompt.removeprefix("Question: ").removesuffix(" Answer:"), _plain(text.removeprefix(prompt)))
            for prompt, text in zip(self.prompts, self.texts, strict=True)
        ]

    def measure(self, model, tokenizer) -> dict[str, float]:
        total, tokens = 0.0, 0
        for start in range(0, len(self.texts), BATCH):
            batch = encode(tokenizer, list(self.texts[start : start + BATCH]), model.device)
            labels = batch.pop("labels")
            if not self.whole:
                labels[torch.arange(len(labels)), batch["attention_mask"].sum(1) - 1] = -100
            for row, prompt in enumerate(self.prompts[start : start + BATCH]):
                labels[row, : len(tokenizer(prompt)["input_ids"])] = -100
            with torch.inference_mode():
                logits = model(**batch).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="sum"
            )
            total += losses.item()
            tokens += int((labels[:, 1:] != -100).sum())
        return {"nll": total / tokens}


Probe = QuestionProbe | TextProbe
KINDS = {QuestionProbe: "questions", TextProbe: "texts"}  # in a file


@dataclass
class Probes:
    """The held-out probes of one lab, in the order they are reported."""

    probes: list[Probe] = field(default_factory=list)

    def __iter__(self):
        return iter(self.probes)

    def __getitem__(self, name: str) -> Probe:
        for probe in self.probes:
            if probe.name == name:
                return probe
        raise KeyError(f"no probe named {name!r}; there are {', '.join(p.name for p in self.probes)}")

    def to_records(self) -> list[dict]:
        """The probes as JSON values; `from_records` reads them back."""
        return [{"kind": KINDS[type(probe)]} | asdict(probe) for probe in self.probes]

    @classmethod
    def from_records(cls, records: list[dict]) -> Probes:
        """
        Raises:
            ValueError, KeyError, TypeError, AttributeError: these are not records of probes.
        """
        kinds = {kind: probe for probe, kind in KINDS.items()}
        return cls([kinds[record.pop("kind")](**_tuples(record)) for record in records])

    def without(self, facts: Sequence[Fact]) -> Probes:
        """The same probes, without the questions that `facts` are about to change; a probe left empty goes."""
        left = [p.without(facts) if isinstance(p, QuestionProbe) else p for p in self.probes]
        return Probes([p for p in left if not isinstance(p, QuestionProbe) or p.questions])

    def measure(self, model, tokenizer) -> dict[str, dict[str, float]]:
        """`{probe: {metric: value}}`; the model is left in the mode it was in."""
        training = model.training
        model.eval()
        try:
            return {probe.name: probe.measure(model, tokenizer) for probe in self.probes}
        finally:
            model.train(training)


def world_probes(world: World, per_probe: int = 240) -> Probes:
    """The held-out probes of the built-in world: `old_facts`, `arithmetic`, `prose`, `two_hop`.

    At most `per_probe` questions or texts each, drawn from a seed, so that measuring takes about a second.
    """
    rng = Random(f"{world.seed}/probes")

    def some(items: list) -> list:
        return items if len(items) <= per_probe else rng.sample(items, per_probe)

    sums = some(world.sums(held_out=True))
    return Probes(
        [
            QuestionProbe.of("old_facts", some(world.old_facts())),
            TextProbe(
                "arithmetic",
                tuple(answered(question, result) for question, result in sums),
                tuple(ask(question) for question, _ in sums),
            ),
            TextProbe("prose", tuple(some(held_out_prose(world)))),
            QuestionProbe.of("two_hop", some(world.held_out_chains())),
        ]
    )


def _tuples(value):
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(answer: str) -> str:
    return answer.strip().removesuffix(".")


@torch.inference_mode()
def answer(model, tokenizer, questions: Sequence[str], max_new_tokens: int = 24) -> list[str]:
    """The model's greedy answers, up to the end-of-text token or `max_new_tokens`, without a last full stop.

    Args:
        questions: Plain questions; each is put into the prompt form of `ask`.
    """
    answers: list[str] = [""] * len(questions)
    prompts = [tokenizer(ask(question))["input_ids"] for question in questions]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding, fewer batches
    for start in range(0, len(by_length), BATCH):
        chosen = by_length[start : start + BATCH]
        width = len(prompts[chosen[-1]])
        ids = torch.full((len(chosen), width), pad_id(tokenizer))
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):  # padded on the left, so that every prompt ends where its answer begins
            ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, width - len(prompts[i]) :] = 1
        out: Tensor = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad_id(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
        )
        for i, row in zip(chosen, out[:, width:], strict=True):
            answers[i] = _plain(tokenizer.decode(row, skip_special_tokens=True))
    return answers


@torch.inference_mode()
def recalled(model, tokenizer, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
    """Whether greedy generation would give exactly these answers and end there, (len(questions),) bool.

    It says a text if and only if each of its tokens is the likeliest after those before it, which one forward pass
    tells. For charts that move while a model trains. Exact match of `answer` is a little kinder: it takes any accepted
    answer, whatever its case, articles and punctuation, and looks no further than `max_new_tokens`.
    """
    found = torch.zeros(len(questions), dtype=torch.bool)
    pairs = list(zip(questions, answers, strict=True))
    starts = [len(ids) for ids in tokenizer([ask(question) for question in questions])["input_ids"]] if pairs else []
    head = model.get_output_embeddings()
    for first in range(0, len(pairs), BATCH):
        batch = encode(tokenizer, [answered(*pair) for pair in pairs[first : first + BATCH]], model.device)
        labels = batch["labels"]
        for row, start in enumerate(starts[first : first + BATCH]):
            labels[row, :start] = -100
        rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        hidden = model.base_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        right = head(hidden[rows, columns]).argmax(-1) == labels[rows, columns + 1]
        wrong = torch.bincount(rows[~right], minlength=len(labels))
        found[first : first + BATCH] = wrong == 0
    return found
