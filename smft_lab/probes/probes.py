"""Probes: what a model has learned and what it has forgotten.

A probe turns a model into one number per metric: `em` and `f1` in [0, 1] of greedily generated answers, `nll` in nats
per token, or `acc` and `acc_norm` in [0, 1] of choices. Nothing here changes the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smft_lab.facts.fact import Fact, as_facts, as_texts, as_tuple
from smft_lab.facts.world.corpus import held_out_prose
from smft_lab.facts.world.grammar import answered, ask
from smft_lab.facts.world.world import World
from smft_lab.model.attach import check_readable
from smft_lab.model.locking import lock_of, reading
from smft_lab.model.modes import evaluating
from smft_lab.model.tokenizer import decoded, encode, pad, pad_id, text_ids
from smft_lab.probes.choices import ChoiceProbe
from smft_lab.probes.prompts import BUILT_IN, NEUTRAL_SHOTS, PromptForm
from smft_lab.probes.replies import check_length, plain_generation, replies, would_say
from smft_lab.probes.same import Changes
from smft_lab.probes.text import MATCHES
from smft_lab.probes.together import in_batches, likeliest, takes_padding

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from smft_lab.lab import Lab

BATCH = 256  # questions or texts per forward pass
LOGITS = 2**27  # at most so many in a pass; half a GiB in float32
LONGEST_REPLY = 16  # tokens; room for an answer of eight words
LEARNED = ("learned", "taught", "prefixed", "two_hop_new")  # probes of what a finetune has taught, not of what it cost


@dataclass(frozen=True)
class QuestionProbe:
    """Exact match and F1 of the answers to `questions`.

    Attributes:
        answers: The accepted answers of each question.
        subjects: (subject, relation) of each question, where known.
        form: How they are asked.
        match: What counts as an exact match (`em`): `exact`, a whole reply that is an accepted answer; or `prefix`, a
            reply that begins with one; both as public question sets are scored. `strict` and `strict prefix` are the
            same for a person's own facts, where numbers, signs and single letters count (see `smft_lab.probes.text`).
        replies: What a base model says to each, as it says it. Measuring first looks, in one pass, whether the model
            still says the same, and generates only where it doesn't; what is measured is the same.

    Examples:
        >>> probe = smft.QuestionProbe.of("old", lab.world.old_facts()[:4])
        >>> probe.measure(lab.model, lab.tokenizer)["em"]
        1.0
    """

    name: str
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    subjects: tuple[tuple[str, str], ...] = ()
    form: PromptForm = BUILT_IN
    match: str = "exact"
    replies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise ValueError(f"no match {self.match!r}; there are {', '.join(MATCHES)}")
        for name in ("questions", "replies"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        object.__setattr__(self, "answers", tuple(map(as_tuple, as_tuple(self.answers))))
        for name in ("answers", "subjects", "replies"):
            count = len(getattr(self, name))
            if count != len(self.questions) and (count or name == "answers"):
                raise ValueError(f"probe {self.name!r} has {len(self.questions)} questions, but {count} {name}")
        if not all(self.answers):
            raise ValueError(f"probe {self.name!r} has a question without an answer that counts as right")

    @classmethod
    def of(cls, name: str, facts: Iterable[Fact], form: PromptForm = BUILT_IN) -> QuestionProbe:
        """The questions of some facts, compared as `match_of` says."""
        facts = as_facts(facts)
        return cls(
            name,
            tuple(fact.question for fact in facts),
            tuple(fact.answers for fact in facts),
            tuple((fact.subject, fact.relation) for fact in facts),
            form,
            match_of(facts),
        )

    def without(self, facts: Iterable[Fact]) -> QuestionProbe:
        """The same probe without questions whose answer the given facts change: that ask the same, or what a fact of
        the built-in world is about, directly or in the first hop."""
        return self.but(Changes(facts, [self]))

    @property
    def size(self) -> int:
        """How much it asks."""
        return len(self.questions)

    def but(self, changes: Changes) -> QuestionProbe:
        """`without` what is known to be changed."""
        about = self.subjects or (("", ""),) * len(self.questions)
        keep = [i for i, pair in enumerate(zip(self.questions, about, strict=True)) if not changes.touch(*pair)]
        if len(keep) == len(self.questions):
            return self
        parts = {name: getattr(self, name) for name in ("questions", "answers", "subjects", "replies")}
        return replace(self, **{name: tuple(part[i] for i in keep) for name, part in parts.items() if part})

    def longest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """How many tokens of a reply are looked at."""
        if self.match.endswith("prefix"):
            return LONGEST_REPLY
        longest = max(len(tokenizer(" " + text)["input_ids"]) for accepted in self.answers for text in accepted)
        return longest if self.form == BUILT_IN else longest + 2  # a full stop and the line's end

    def spoken(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What the model says to each question."""
        answers, most = [_plain(reply) for reply in self.replies], self.longest(tokenizer)
        if not answers:
            return answer(model, tokenizer, self.questions, max_new_tokens=most, form=self.form)
        same = would_say(model, tokenizer, self.questions, self.replies, most, self.form)
        others = (~same).nonzero().flatten().tolist()
        texts = answer(model, tokenizer, [self.questions[i] for i in others], max_new_tokens=most, form=self.form)
        for i, text in zip(others, texts, strict=True):
            answers[i] = text
        return answers

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        pairs = list(zip(self.spoken(model, tokenizer), self.answers, strict=True))
        scores = zip(("em", "f1"), MATCHES[self.match], strict=True)
        return {name: sum(score(*pair) for pair in pairs) / len(pairs) for name, score in scores}


@dataclass(frozen=True)
class TextProbe:
    """Mean negative log-likelihood, in nats per token, of texts; of the part after the prompt, where there is one.

    Attributes:
        whole: Whether the end of each text is the end of all there is to say, and to be foreseen like its words.
        tokens: The token ids of each text, where encoding it would not give exactly these, as for a text that was cut
            between two tokens.
        form: In which the prompts were made.

    Examples:
        >>> smft.TextProbe("mine", ("Rain fell on the town.",)).measure(lab.model, lab.tokenizer).keys()
        dict_keys(['nll'])
    """

    name: str
    texts: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    whole: bool = True
    tokens: tuple[tuple[int, ...], ...] = ()
    form: PromptForm = BUILT_IN

    def __post_init__(self) -> None:
        for name in ("texts", "prompts"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))

    @property
    def size(self) -> int:
        """How much it asks."""
        return len(self.texts)

    def but(self, changes: Changes) -> TextProbe:
        """The same probe without texts whose prompt asks what is changed."""
        if not self.prompts:
            return self
        keep = [i for i, (question, _) in enumerate(self.questions()) if not changes.touch(question)]
        if len(keep) == len(self.texts):
            return self
        parts = {name: getattr(self, name) for name in ("texts", "prompts", "tokens")}
        return replace(self, **{name: tuple(part[i] for i in keep) for name, part in parts.items() if part})

    def questions(self) -> list[tuple[str, str]]:
        """The question in each prompt, with its answer."""
        return [
            (self.form.question_in(prompt), _plain(text.removeprefix(prompt)))
            for prompt, text in zip(self.prompts, self.texts, strict=True)
        ]

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        total, tokens = 0.0, 0
        size = self._batch(model, tokenizer)
        for start in range(0, len(self.texts), size):
            batch = self._encoded(tokenizer, slice(start, start + size), model.device)
            labels = batch.pop("labels")
            check_readable(model, batch["input_ids"])
            if not self.whole:
                labels[torch.arange(len(labels)), batch["attention_mask"].sum(1) - 1] = -100
            for row, prompt in enumerate(self.prompts[start : start + size]):
                labels[row, : len(text_ids(tokenizer, prompt))] = -100
            with lock_of(model), evaluating(model), torch.inference_mode():
                logits = model(**batch).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="sum"
            )
            total += losses.item()
            tokens += int((labels[:, 1:] != -100).sum())
        return {"nll": total / tokens}

    def _encoded(self, tokenizer: PreTrainedTokenizerBase, which: slice, device) -> dict[str, Int64[Tensor, "B T"]]:
        if not self.tokens:
            return encode(tokenizer, list(self.texts[which]), device)
        return {name: tensor.to(device) for name, tensor in pad(tokenizer, self.tokens[which]).items()}

    def _batch(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
        """How many texts fit into a pass: a large vocabulary makes many logits."""
        longest = max(map(len, self.tokens or text_ids(tokenizer, list(self.texts)))) + 1
        return max(1, min(BATCH, LOGITS // (longest * model.config.get_text_config().vocab_size)))


def text_windows(
    text: str, tokenizer: PreTrainedTokenizerBase, *, window: int = 128, count: int = 40, name: str = "text"
) -> TextProbe:
    """A probe of running text: its first `count` windows of `window` tokens, each on its own.

    The text is encoded once and then cut, so that every window holds exactly the tokens of the text. A tokenizer that
    puts a token before a text (bos) puts it before each window, in addition; without one the first token of a window
    has nothing before it and isn't foreseen.

    Raises:
        ValueError: `window` is below 2 or `count` below 1, or the text is shorter than one window.

    Examples:
        >>> smft.text_windows("Rain fell on the town. " * 20, lab.tokenizer, window=16, count=2).size
        2
    """
    if window < 2 or count < 1:
        raise ValueError(f"window must be at least 2 tokens and count at least 1, not {window} and {count}")
    before = tokenizer("")["input_ids"][:1]
    before = before if before == [tokenizer.bos_token_id] else []
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    cut = [ids[start : start + window] for start in range(0, min(len(ids), window * count) - window + 1, window)]
    if not cut:
        raise ValueError(f"the text has {len(ids)} tokens, and a window takes {window}; give a longer text")
    texts = tuple(decoded(tokenizer, ids) for ids in cut)
    return TextProbe(name, texts, whole=False, tokens=tuple((*before, *ids) for ids in cut))


Probe = QuestionProbe | TextProbe | ChoiceProbe
KINDS = {QuestionProbe: "questions", TextProbe: "texts", ChoiceProbe: "choices"}  # in a file
SHAPES = {
    "name": str,
    "match": str,
    "whole": bool,
    **dict.fromkeys(("questions", "replies", "texts", "prompts", "contexts"), (str,)),
    **dict.fromkeys(("answers", "endings"), ((str,),)),
    "subjects": ((str, str),),
    "labels": (int,),
    "tokens": ((int,),),
}
"""The types of a probe's fields; a tuple of one type holds any number of that."""
OPTIONAL = ("form", "match", "replies", "tokens")  # fields that a file holds only where they say something


@dataclass
class Probes:
    """The held-out probes of one lab, in the order they are reported.

    Examples:
        >>> lab.probes["old_facts"].questions[0]
        'Where was Copper Trading set up?'
        >>> few = smft.Probes([smft.TextProbe("prose", lab.probes["prose"].texts[:4])])
        >>> few.measure(lab.model, lab.tokenizer).keys()
        dict_keys(['prose'])
    """

    probes: list[Probe] = field(default_factory=list)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.probes)

    def __getitem__(self, name: str) -> Probe:
        for probe in self.probes:
            if probe.name == name:
                return probe
        raise KeyError(f"no probe named {name!r}; there are {', '.join(p.name for p in self.probes)}")

    def to_records(self) -> list[dict]:
        """The probes as JSON values; `from_records` reads them back."""
        return [{"kind": KINDS[type(probe)]} | _record(probe) for probe in self.probes]

    @classmethod
    def from_records(cls, records: list[dict]) -> Probes:
        """The probes of such records, but for those that ask nothing.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: these are not records of probes.
        """
        kinds = {kind: probe for probe, kind in KINDS.items()}
        read = []
        for record in records:
            values = _tuples({name: value for name, value in record.items() if name != "kind"})
            for name in set(values) & set(SHAPES):
                if not _has_shape(values[name], SHAPES[name]):
                    raise ValueError(f"{name} of a probe can't be {str(values[name])[:40]!r}")
            if "form" in values:
                values["form"] = PromptForm.from_json(values["form"])
            read.append(kinds[record["kind"]](**values))
        return cls([probe for probe in read if probe.size])

    def without(self, facts: Sequence[Fact], questions: Sequence[str] = ()) -> Probes:
        """The same probes, without the questions that `facts` are about to change; a probe left empty goes.

        Args:
            questions: Others whose answers change, such as those of a patch (`Patch.questions`).
        """
        changes = Changes(facts, [p for p in self.probes if isinstance(p, QuestionProbe)], questions)
        left = [probe.but(changes) for probe in self.probes]
        return Probes([probe for probe in left if probe.size])

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, float]]:
        """`{probe: {metric: value}}`; the model is left in the mode it was in."""
        with evaluating(model):
            return {probe.name: probe.measure(model, tokenizer) for probe in self.probes}


def world_probes(world: World, per_probe: int = 240) -> Probes:
    """The held-out probes of the built-in world: `old_facts`, `arithmetic`, `prose`, `two_hop`.

    At most `per_probe` questions or texts each, drawn from a seed, so that measuring takes about a second.
    """
    rng = Random(f"{world.seed}/probes")

    def some(items: list) -> list:
        return items if len(items) <= per_probe else rng.sample(items, per_probe)

    sums = some(world.sums(held_out=True))
    about = some(list(world.values))
    return Probes(
        [
            QuestionProbe(
                "old_facts",
                tuple(world.withheld_questions(*fact)[0] for fact in about),
                tuple((world.values[fact],) for fact in about),
                tuple(about),
            ),
            TextProbe(
                "arithmetic",
                tuple(answered(question, result) for question, result in sums),
                tuple(ask(question) for question, _ in sums),
            ),
            TextProbe("prose", tuple(some(held_out_prose(world)))),
            QuestionProbe.of("two_hop", some(world.held_out_chains())),
        ]
    )


def learned_probes(
    facts: Sequence[Fact], form: PromptForm = BUILT_IN, *, prefix: Sequence[tuple[str, str]] = NEUTRAL_SHOTS
) -> list[QuestionProbe]:
    """What was learned of `facts`, told apart by how far the question is from what was taught.

    Args:
        prefix: Questions with answers that stand before those of `prefixed`.

    Returns:
        `learned`, the wording that is never taught; `taught`, the first wording that may be taught, which a recipe
        always teaches, of the facts that have one; `prefixed`, the wording of `learned` after two other questions with
        their answers; `two_hop_new`, what follows from the facts. A probe without questions is left out.

    Examples:
        >>> [probe.name for probe in smft.learned_probes(smft.new_facts(2))]
        ['learned', 'taught', 'prefixed']
    """
    facts = as_facts(facts)
    taught = [fact for fact in facts if fact.questions]
    hops = [pair for fact in facts for pair in fact.two_hop]
    about = tuple((fact.subject, fact.relation) for fact in taught)
    probes = [QuestionProbe.of("learned", facts, form)]
    if taught:
        questions = tuple(fact.questions[0] for fact in taught)
        answers = tuple(fact.answers for fact in taught)
        probes.append(QuestionProbe("taught", questions, answers, about, form, match_of(taught)))
    probes.append(QuestionProbe.of("prefixed", facts, form.with_shots((*form.shots, *prefix))))
    if hops:
        questions, answers = zip(*hops, strict=True)
        accepted = tuple((text,) for text in answers)
        probes.append(QuestionProbe("two_hop_new", questions, accepted, form=form, match=match_of(facts)))
    return probes


def probes_of(lab: Lab, facts: Sequence[Fact], earlier: Sequence[Fact] = ()) -> Probes:
    """What a finetune of `facts` on `lab` measures: what it teaches, then the facts that were taught earlier, as
    `earlier`, and the lab's own probes.

    A lab that asks in the built-in form has `learned` alone of `learned_probes`.
    """
    facts = as_facts(facts)
    learned = [QuestionProbe.of("learned", facts)] if lab.form == BUILT_IN else learned_probes(facts, lab.form)
    before = [QuestionProbe.of("earlier", earlier, lab.form)] if earlier else []
    return Probes([*learned, *before, *lab.probes.without([*facts, *earlier])])


def match_of(facts: Iterable[Fact]) -> str:
    """How replies about these facts are compared with their answers: strictly if any is a person's own."""
    return "strict" if any(fact.own for fact in facts) else "exact"


def _record(probe: Probe) -> dict:
    default = {item.name: item.default for item in fields(probe)}
    saved = {name: getattr(probe, name) != default[name] for name in default if name in OPTIONAL}
    return {name: value for name, value in asdict(probe).items() if saved.get(name, True)}


def _tuples(value) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _has_shape(value: object, shape: type | tuple) -> bool:
    """Whether a value has one of the types of `SHAPES`."""
    if not isinstance(shape, tuple):
        return type(value) is shape
    if not isinstance(value, tuple) or len(shape) not in (1, len(value)):
        return False
    return all(_has_shape(*pair) for pair in zip(value, shape if len(shape) > 1 else shape * len(value), strict=True))


def _plain(answer: str) -> str:
    return answer.strip().removesuffix(".")


@reading
@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    max_new_tokens: int = 24,
    form: PromptForm = BUILT_IN,
) -> list[str]:
    """The model's greedy answers, up to their end or `max_new_tokens`, without a last full stop.

    Args:
        questions: Plain questions, or a single one; each is put into the form.
        form: How they are asked and where an answer ends: at the end-of-text token, or at its line's end. `lab.form`
            is the form of a lab.

    Raises:
        ValueError: a question is longer than the model reads, or see `PromptForm.prompt`.
    """
    questions = as_texts(questions, "questions")
    if form != BUILT_IN:
        return [_plain(reply) for reply in replies(model, tokenizer, questions, max_new_tokens, form)]
    answers: list[str] = [""] * len(questions)
    prompts = form.ids(tokenizer, [ask(question) for question in questions]) if questions else []
    check_length(model, questions, prompts, max_new_tokens)
    with plain_generation(model):
        padded = not prompts or takes_padding(model, prompts, max_new_tokens, pad_id(tokenizer))
    for chosen in in_batches(prompts, BATCH, padded):
        width = len(prompts[chosen[-1]])
        ids = torch.full((len(chosen), width), pad_id(tokenizer))
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):  # padded on the left, so that every prompt ends where its answer begins
            ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, width - len(prompts[i]) :] = 1
        with plain_generation(model):
            out: Tensor = model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad_id(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
            )
        for i, row in zip(chosen, out[:, width:], strict=True):
            answers[i] = _plain(decoded(tokenizer, row, skip_special_tokens=True))
    return answers


@reading
@torch.inference_mode()
def recalled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    form: PromptForm = BUILT_IN,
) -> Bool[Tensor, " questions"]:
    """Whether greedy generation would give exactly these answers and end there.

    It says a text if and only if each of its tokens is the likeliest after those before it, which one forward pass
    tells. For charts that move while a model trains. Exact match of `answer` is a little kinder: it takes any accepted
    answer, whatever its case, articles and punctuation, and looks no further than `max_new_tokens`.

    Raises:
        ValueError: there are not as many answers as questions, or a question is longer than the model reads.
    """
    questions, answers = as_texts(questions, "questions"), as_texts(answers, "answers")
    if len(questions) != len(answers):
        raise ValueError(f"there are {len(questions)} questions and {len(answers)} answers; give one answer to each")
    if form != BUILT_IN:
        whole = [form.reply(*pair, tokenizer) for pair in zip(questions, answers, strict=True)]
        return would_say(model, tokenizer, questions, whole, None, form)
    exact = torch.zeros(len(questions), dtype=torch.bool)
    pairs = list(zip(questions, answers, strict=True))
    starts = [len(ids) for ids in form.ids(tokenizer, [ask(question) for question in questions])] if pairs else []
    for first in range(0, len(pairs), BATCH):
        batch = encode(tokenizer, [answered(*pair) for pair in pairs[first : first + BATCH]], model.device)
        labels, lengths = batch["labels"], batch["attention_mask"].sum(1).tolist()
        rows = [ids[:length] for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
        check_length(model, questions[first : first + BATCH], rows)
        for row, start in enumerate(starts[first : first + BATCH]):
            labels[row, :start] = -100
        rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        best = likeliest(model, batch["input_ids"], batch["attention_mask"], rows, columns)
        right = best == labels[rows, columns + 1]
        wrong = torch.bincount(rows[~right], minlength=len(labels))
        exact[first : first + BATCH] = wrong == 0
    return exact
