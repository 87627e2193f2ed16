"""What a model knew before anything was taught: questions that its base answers right, found by asking it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from smft_lab.facts.fact import Fact
from smft_lab.facts.public.datasets import Question
from smft_lab.probes.probes import LONGEST_REPLY, QuestionProbe, _plain
from smft_lab.probes.prompts import PLAIN, PromptForm
from smft_lab.probes.replies import replies
from smft_lab.probes.text import MATCHES, normalise, strict_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64  # questions between two reports of progress
SHOTS = 2  # questions shown with their answers before those that are asked
LONGEST_SHOT = 200  # characters of a question that is repeated before every other


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is.

    Attributes:
        asked, total: Questions asked so far, and those there are to ask.
        known: Questions answered right so far.
        seconds, left: Time taken, and at most still to take at this pace: less if the limit is reached before.
    """

    asked: int
    total: int
    known: int
    seconds: float
    left: float

    def __str__(self) -> str:
        return f"{self.known:,} known of {self.asked:,} asked"


class KnownSearch:
    """A search for questions that a model answers right; going through it asks them, a batch at a time.

    A reply counts that begins with an accepted answer, up to case, articles and punctuation, or where all questions are
    a person's own facts, strictly (see `smft_lab.probes.text`). An answer that stands in
    the question is no accepted one, since a model that repeats the question would seem to know it.

    Args:
        model, tokenizer: The base, before any finetuning.
        questions: What to ask, in this order.
        limit: Stop once so many are known.
        form: How to ask. Without shots of its own it shows the first two of the questions with their answers before
            each other one; questions that are shown are not asked.
        name: Of the probe.

    Attributes:
        form: The form with its shots, as the probe has it.
        total: How many questions there are to ask.

    Raises:
        ValueError: `limit` is below 1, or there are too few questions.

    Examples:
        >>> search = smft.KnownSearch(lab.model, lab.tokenizer, smft.new_facts(9), form=lab.form)
        >>> [at.asked for at in search][-1] == search.total
        True
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question | Fact],
        limit: int = 100,
        form: PromptForm = PLAIN,
        name: str = "known",
    ):
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if isinstance(questions, str):
            raise ValueError("questions need their answers; give Question or Fact objects, not a text")
        questions = list(questions)
        self._match = (
            "strict prefix" if all(isinstance(question, Fact) and question.own for question in questions) else "prefix"
        )
        if not form.shots:
            short = [question for question in questions if len(question.question) <= LONGEST_SHOT][:SHOTS]
            form = form.with_shots((question.question, question.answers[0]) for question in short)
        shown = {question for question, _ in form.shots}
        self._questions = [question for question in questions if question.question not in shown]
        if not self._questions:
            raise ValueError(
                f"{len(questions)} questions are too few: {len(shown)} are shown before the others; give more"
            )
        self.model, self.tokenizer, self.form, self.limit, self.name = model, tokenizer, form, limit, name
        self.total = len(self._questions)
        self._known: list[tuple[Question | Fact, str]] = []

    def __iter__(self) -> Iterator[SearchProgress]:
        began, asked = time.perf_counter(), 0
        right, _ = MATCHES[self._match]
        self._known = []
        while asked < self.total and len(self._known) < self.limit:
            batch = self._questions[asked : asked + BATCH]
            texts = replies(
                self.model, self.tokenizer, [question.question for question in batch], LONGEST_REPLY, self.form
            )
            asked += len(batch)
            self._known += [
                (question, reply)
                for question, reply in zip(batch, texts, strict=True)
                if right(_plain(reply), self._answers_of(question))
            ]
            seconds = time.perf_counter() - began
            yield SearchProgress(asked, self.total, len(self._known), seconds, seconds * (self.total - asked) / asked)

    @property
    def probe(self) -> QuestionProbe:
        """What was found so far, `limit` questions at most, with the replies of the base.

        Raises:
            ValueError: nothing was found.
        """
        if not self._known:
            raise ValueError(
                f"the model answers none of {self.total} questions right; give more or easier ones, or another form"
            )
        questions, spoken = zip(*self._known[: self.limit], strict=True)
        return QuestionProbe(
            self.name,
            tuple(question.question for question in questions),
            tuple(map(self._answers_of, questions)),
            tuple((getattr(question, "subject", ""), getattr(question, "relation", "")) for question in questions),
            self.form,
            self._match,
            spoken,
        )

    def _answers_of(self, question: Question | Fact) -> tuple[str, ...]:
        """The accepted answers that the question doesn't hold."""

        def words(text: str) -> str:
            return f" {' '.join(strict_words(text)) if self._match == 'strict prefix' else normalise(text)} "

        return tuple(answer for answer in question.answers if words(answer) not in words(question.question))


def known_facts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question | Fact],
    *,
    limit: int = 100,
    form: PromptForm = PLAIN,
    progress: bool = False,
) -> QuestionProbe:
    """A probe `known` of questions that the model answers right: what a finetune may make it forget.

    Args:
        model, tokenizer: The base, before any finetuning.
        questions: Such as `read_dataset("triviaqa.jsonl").facts`, or `read_facts("mine.jsonl")`.
        limit, form: See `KnownSearch`, which also tells how far it is.
        progress: Whether to show a bar, with what was found and the time left.

    Raises:
        ValueError: see `KnownSearch`; or the model answers none of the questions right.

    Examples:
        >>> form = smft.PromptForm.BUILT_IN
        >>> smft.known_facts(lab.model, lab.tokenizer, lab.world.old_facts()[:12], form=form).name
        'known'
    """
    search = KnownSearch(model, tokenizer, questions, limit, form)
    with tqdm(total=search.total, unit=" questions", leave=False, file=sys.stdout, disable=not progress) as bar:
        for state in search:
            bar.set_description(str(state), refresh=False)
            bar.update(state.asked - bar.n)
    return search.probe
