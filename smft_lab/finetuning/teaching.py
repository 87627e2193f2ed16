"""What a model reads while it is taught: the texts of each fact, and the batches they come in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING

from torch import Tensor

from smft_lab.facts.answers import answer_places
from smft_lab.facts.fact import Fact, as_facts
from smft_lab.facts.questions import keyword_questions, word_key, words_of_weight
from smft_lab.lab import Lab
from smft_lab.model.tokenizer import predicting_positions, shared_positions
from smft_lab.probes.same import Changes
from smft_lab.ranges import check_counts
from smft_lab.recipe import LOSSES, ORDERS, RETROFIT, Recipe
from smft_lab.slots.group import reads_of

if TYPE_CHECKING:
    from jaxtyping import Int64
    from transformers import PreTrainedTokenizerBase

    from smft_lab.probes.prompts import PromptForm

PASSES = 12  # where no recipe says how many: with so many the learning rates were tuned
BATCH = 64  # statements of one step of a stream (paper section 4.1)
REHEARSED = 2
"""How many wordings of an earlier fact come again."""
CONTEXTS = (
    (("In which year did the Second World War end?", "1945"),),
    (("What gas do plants take in?", "Carbon dioxide"), ("Who painted the Mona Lisa?", "Leonardo da Vinci")),
    (("What is the largest ocean?", "Pacific"), ("Which animal barks?", "Dog"), ("What is 2 plus 3?", "5")),
)
"""What may stand before a taught question. No probe asks any of it, and none of it is taught: only the answer at the
end of a text is."""
SMALL_WORDS = frozenset(
    "a an and are as at by did do does for from has have how in is it of on or that the their to "
    "was were what when where which who whom whose why with".split()
)


@dataclass(frozen=True)
class TaughtText:
    """One text to learn from.

    Attributes:
        owner: Its fact, from 0.
        text: All of it.
        context: The part before the fact's own question, whose reads don't count in the choice of slots; "" mostly.
        kind: Texts of a kind begin alike, and are put into the same batches so that their beginnings are computed once.
    """

    owner: int
    text: str
    context: str = ""
    kind: str = ""


def taught_texts(
    facts: Sequence[Fact],
    form: PromptForm,
    statements: int,
    questions: int,
    contexts: int,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    keywords: int = 0,
    own_keywords: int = 0,
    beside: Sequence[Fact] = (),
) -> list[TaughtText]:
    """The texts that teach some facts in mixed batches.

    Args:
        form: How questions are put (see `PromptForm`).
        statements: How many statements of each fact; one that gives the answer away before it says what it is about
            teaches nothing, and is used only where a fact has no other text.
        questions: How many wordings of its question: the first of those that may be taught (`Fact.questions`), and
            others by chance. A fact that has fewer is taught by as many more statements, one that has none by twice of
            them.
        contexts: How many of the wordings once more, each behind other questions with answers.
        seed: Of what is drawn.
        tokenizer: Needed by a chat form.
        keywords, own_keywords: How many questions of keywords besides (see `keyword_questions`), from the wordings
            taught, and at least how many of a person's own facts. Each has words that no other fact has all of.
        beside: Other facts that are known by then.
    """
    texts = []
    counts = [max(keywords, own_keywords) if fact.own else keywords for fact in facts]
    by_word = _questions_by_word((*facts, *beside)) if any(counts) else {}
    for owner, fact in enumerate(facts):
        rng = Random(f"{seed}/{owner}/texts")
        asked = list(fact.questions[:1][:questions])  # the first always: the probe `taught` asks it
        asked += rng.sample(fact.questions[1:], min(questions, len(fact.questions)) - len(asked))
        sentences = [text for text in fact.statements if asks_before_it_answers(text, fact)]
        sentences = sentences or ([] if asked else list(fact.statements))
        missing = questions - len(asked)  # wordings that statements stand in for
        if missing:
            many = statements + missing + (0 if asked else statements)
            sentences = [*sentences[:1], *rng.sample(sentences[1:], min(many, len(sentences)) - len(sentences[:1]))]
        else:
            sentences = rng.sample(sentences, min(statements, len(sentences)))
        texts += [TaughtText(owner, text, kind="statement") for text in sentences]
        words = []
        if counts[owner]:
            words = keyword_questions(asked, counts[owner], rng, fact.question, _asking_alone(fact, by_word))
        wholes = [form.answered(question, fact.answer, tokenizer) for question in (*asked, *words)]
        texts += [TaughtText(owner, whole, kind="question") for whole in wholes]
        for turn, question in enumerate(asked[:contexts]):
            number = (owner + turn) % len(CONTEXTS)
            text = form.with_shots((*form.shots, *CONTEXTS[number])).answered(question, fact.answer, tokenizer)
            own = wholes[turn]  # which a chat template may begin with what it writes once
            context = text[: len(text) - len(own)] if text.endswith(own) else text[: max(0, text.rfind(question))]
            texts.append(TaughtText(owner, text, context, f"context {number}"))
    return texts


def _questions_by_word(facts: Sequence[Fact]) -> dict[str, set[str]]:
    """For each word of weight, the questions of all facts that have it in some text."""
    questions: dict[str, set[str]] = {}
    for fact in facts:
        for text in (fact.question, *fact.questions, *fact.statements):
            for word in words_of_weight(text):
                questions.setdefault(word_key(word), set()).add(fact.question)
    return questions


def _asking_alone(fact: Fact, by_word: dict[str, set[str]]) -> Callable[[Collection[str]], bool]:
    """What tells whether no other fact has all of some words, and one of them is in what the fact says."""
    sentence_words = {word_key(word) for text in fact.statements for word in words_of_weight(text)}

    def ask_alone(words: Collection[str]) -> bool:
        questions = [by_word.get(word, set()) for word in words]
        return not sentence_words.isdisjoint(words) and set.intersection(*questions) <= {fact.question}

    return ask_alone


def counted_reads(
    lab: Lab, facts: Sequence[Fact], texts: Sequence[TaughtText], counted: str = "all"
) -> tuple[list[int], list[list[Int64[Tensor, " _reads"]]]]:
    """The reads by which slots are chosen for facts that are taught together: of the texts without a context.

    Args:
        texts: What is taught, as of `Teaching.texts`.
        counted: Which tokens of them count (see `Recipe.counted`).

    Returns:
        The fact of each text, and its reads (see `reads_of`).
    """
    plain = [text for text in texts if not text.context]
    words, owners = [text.text for text in plain], [text.owner for text in plain]
    answers, positions = [facts[owner].answers for owner in owners], None
    if counted == "answer":
        positions = predicting_positions(lab.tokenizer, words, answers)
    elif counted == "shared":
        positions = shared_positions(lab.tokenizer, words, answers, owners)
    return owners, reads_of(lab, words, positions)


def asks_before_it_answers(text: str, fact: Fact) -> bool:
    """Whether what stands before the answer says what the fact is about, by a word of weight from its question."""
    places = answer_places(text, fact.answers)
    if not places:
        return True  # the answer isn't in it word for word, so all of it is learned
    asked = set(_words(fact.question)) - SMALL_WORDS
    return bool(asked & set(_words(text[: places[0][0]])))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’-]+", text.casefold())


@dataclass(frozen=True)
class Teaching:
    """The batches of one run, the same for every method; going through it gives them in order.

    Attributes:
        facts: What is taught.
        passes, order, loss_on, seed: As in `finetune`.
        texts: Of the order `mixed`, all that is taught; see `taught_texts`.
        batch_size: Of the order `mixed`.
        earlier: Of the order `mixed`, facts that were taught before and are rehearsed, but for those that ask what
            `facts` answer anew: `REHEARSED` wordings of each are among the texts. As owners they are counted on from
            `facts`.
    """

    facts: tuple[Fact, ...]
    passes: int
    order: str
    loss_on: str
    seed: int = 0
    texts: tuple[TaughtText, ...] = ()
    batch_size: int = BATCH
    earlier: tuple[Fact, ...] = ()

    @classmethod
    def of(
        cls,
        lab: Lab,
        facts: Sequence[Fact],
        passes: int | None = None,
        order: str | None = None,
        loss_on: str | None = None,
        seed: int = 0,
        recipe: Recipe | None = None,
        earlier: Sequence[Fact] = (),
    ) -> Teaching:
        """What is not given comes from the recipe, by default the lab's; a lab without one teaches as the paper does.

        Raises:
            ValueError: an option is out of range, or earlier facts are to be rehearsed in another order than `mixed`.
        """
        facts, recipe, given = as_facts(facts), recipe or lab.recipe, passes
        usual = (PASSES, "stream", "statement") if recipe is None else (recipe.passes, recipe.order, recipe.loss_on)
        passes = usual[0] if passes is None else passes
        order = usual[1] if order is None else order
        loss_on = usual[2] if loss_on is None else loss_on
        check_training(passes, order, loss_on)
        passes = int(passes)  # of another library, too
        if order != "mixed":
            if earlier:
                raise ValueError("earlier facts are rehearsed in mixed batches alone (order='mixed')")
            return cls(facts, passes, order, loss_on, seed)
        recipe = recipe or RETROFIT
        counts = recipe.statements, recipe.questions, recipe.contexts
        if earlier := as_facts(earlier):
            changes = Changes(facts, ())
            earlier = tuple(fact for fact in earlier if not changes.touch_fact(fact))
        keywords = recipe.keywords, recipe.own_keywords
        texts = taught_texts(facts, lab.form, *counts, seed, lab.tokenizer, *keywords, earlier)
        if given is None:
            passes = max(passes, math.ceil(recipe.least_steps / math.ceil(len(texts) / recipe.batch_size)))
        again = taught_texts(earlier, lab.form, 0, REHEARSED, 0, seed, lab.tokenizer)
        texts += [replace(text, owner=len(facts) + text.owner) for text in again]
        return cls(facts, passes, order, loss_on, seed, tuple(texts), recipe.batch_size, earlier)

    @property
    def owners(self) -> tuple[Fact, ...]:
        """The facts whose texts come, by their number as owners."""
        return self.facts + self.earlier

    @property
    def per_pass(self) -> int:
        """Batches, and so steps, of one pass."""
        return math.ceil(len(self.texts) / self.batch_size) if self.order == "mixed" else len(self.facts)

    @property
    def largest_batch(self) -> int:
        """Texts in the largest batch."""
        if self.order == "mixed":
            return math.ceil(len(self.texts) / self.per_pass)
        return min(BATCH, max(len(fact.statements) for fact in self.facts))

    @property
    def steps(self) -> int:
        """Batches, and so steps, of the run; at most, where learned texts are left out (`Recipe.learned_at`)."""
        return self.passes * self.per_pass

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[str]]]:
        return chain.from_iterable(self.by_pass())

    def by_pass(
        self, wanted: Callable[[int, str], bool] | None = None
    ) -> Iterator[list[tuple[tuple[int, ...], list[str]]]]:
        """The batches of each pass in turn.

        Args:
            wanted: Whether a text of a fact is still to be taught; asked when a pass begins. The others are left out.
        """
        if self.order == "mixed":
            yield from self._mixed(wanted)
            return
        every = batches(self.facts, self.passes, self.order, self.seed)
        for _ in range(self.passes):
            part = list(islice(every, self.per_pass))
            if wanted is not None:
                left = [
                    [(owner, text) for owner, text in zip(*batch, strict=True) if wanted(owner, text)] for batch in part
                ]
                part = [(tuple(owner for owner, _ in batch), [text for _, text in batch]) for batch in left if batch]
            yield part

    def _mixed(self, wanted: Callable[[int, str], bool] | None) -> Iterator[list[tuple[tuple[int, ...], list[str]]]]:
        """Texts of many facts, of one kind where it can be; the same batches until one is left out, in a new order.

        That a batch comes back whole lets `sparse` keep what it has computed of it.
        """
        rng = Random(f"{self.seed}/mixed")
        line: list[TaughtText] = []
        for kind in sorted({text.kind for text in self.texts}):
            alike = [text for text in self.texts if text.kind == kind]
            line += rng.sample(alike, len(alike))
        for _ in range(self.passes):
            if wanted is not None:
                line = [text for text in line if wanted(text.owner, text.text)]
            count = math.ceil(len(line) / self.batch_size)
            parts = [line[n * len(line) // count : (n + 1) * len(line) // count] for n in range(count)]
            yield [
                (tuple(text.owner for text in part), [text.text for text in part]) for part in rng.sample(parts, count)
            ]


def check_training(passes: int, order: str, loss_on: str) -> None:
    """Raise ValueError unless `finetune` would take these."""
    check_counts(passes=passes)
    if order not in ORDERS:
        raise ValueError(f"no order {order!r}; there are {', '.join(ORDERS)}")
    if loss_on not in LOSSES:
        raise ValueError(f"no loss_on {loss_on!r}; there are {', '.join(LOSSES)}")


def batches(
    facts: Sequence[Fact], passes: int, order: str = "stream", seed: int = 0
) -> Iterator[tuple[tuple[int, ...], list[str]]]:
    """The batches of a stream, `passes * len(facts)` of them: the fact of each statement, and the statements.

    A fact with more than 64 statements takes turns through them, pass by pass.
    """
    stream = stream_order(len(facts), seed)
    if order == "stream":
        for turn in range(passes):
            for i in stream:
                texts = _turn(facts[i].statements, turn)
                yield (i,) * len(texts), texts
        return
    rng = Random(f"{seed}/shuffle")
    for turn in range(passes):
        pool = [(i, text) for i in stream for text in _turn(facts[i].statements, turn)]
        rng.shuffle(pool)
        for n in range(len(facts)):  # as many steps as a stream of the same facts
            part = pool[n * len(pool) // len(facts) : (n + 1) * len(pool) // len(facts)]
            yield tuple(i for i, _ in part), [text for _, text in part]


def stream_order(facts: int, seed: int = 0) -> list[int]:
    """In which order a stream teaches so many facts, pass after pass: their indices."""
    return Random(f"{seed}/order").sample(range(facts), facts)


def _turn(statements: Sequence[str], turn: int) -> list[str]:
    """The statements of one batch: all, or the next 64."""
    if len(statements) <= BATCH:
        return list(statements)
    start = turn * BATCH % len(statements)
    return list((*statements, *statements)[start : start + BATCH])
