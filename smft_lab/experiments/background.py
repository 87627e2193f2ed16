"""The background: ordinary text in which the reads of slots are counted for the idf, one text a document.

A person's own text and questions are the best background. Where there are none, the model writes them itself, which
needs no data and works in any language: what a model samples is like what it was trained on.
"""

from __future__ import annotations

import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise, takewhile
from operator import eq
from random import Random
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from smft_lab.facts.common import common_questions
from smft_lab.facts.fact import Fact
from smft_lab.facts.public.datasets import LONGEST_ANSWER, Question
from smft_lab.facts.signs import QUESTION_ENDS
from smft_lab.model.attach import output_layer
from smft_lab.model.growing_cache import let_grow
from smft_lab.model.modes import evaluating
from smft_lab.model.tokenizer import decoded
from smft_lab.probes.prompts import PLAIN, PromptForm
from smft_lab.probes.replies import _ends
from smft_lab.probes.text import normalise
from smft_lab.training.memory_training import _parts, _plain_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 96  # texts that are written side by side
TOP_P = 0.95  # the likeliest tokens that together have this probability; the unlikely rest makes texts wander off
QUESTION_TOP_P = 0.8  # with more, small models ask what nobody would
STRAGGLERS = 1 / 8  # of a batch of questions: rows that are still being written when all others have ended are given up
CANDIDATES = 1024  # of these likeliest tokens one is drawn, so that no whole vocabulary is sorted
USEFUL = 0.9  # of the first texts, it is thought
TRIES = 3  # at most so many times the texts that are wanted are written
EVERY = 8  # tokens between two reports of progress
DISTINCT, COMMONEST, LETTERS = 0.3, 0.25, 0.6  # of the tokens, of the tokens, of the characters of a text that counts
EXAMPLES = 4  # questions with answers that are shown before one is written
LONGEST = 48  # tokens of a question with its answer
SHORTEST_QUESTION, LONGEST_QUESTION = 8, 200  # characters


@dataclass(frozen=True)
class Written:
    """How far the writing is.

    Attributes:
        done, total: Documents so far, those that are being written in part, and those there will be.
        tokens: Tokens sampled so far.
        seconds, left: Time taken, and still to take at this pace.
    """

    done: int
    total: int
    tokens: int
    seconds: float
    left: float

    def __str__(self) -> str:
        return f"{self.done:,} of {self.total:,} texts, {self.tokens / max(self.seconds, 1e-9):,.0f} tokens a second"


class _Writing:
    """Batch after batch of sampled texts, until enough of them are of use. Going through it writes them."""

    _give_up = 0.0  # see `_sample`

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        count: int,
        seed: int,
        top_p: float,
        batch: int,
    ):
        for name, value in (("count", count), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
        self.model, self.tokenizer, self.count, self.seed = model, tokenizer, count, seed
        self.top_p, self.batch = top_p, batch
        self._special = set(tokenizer.all_special_ids) | _ends(model, tokenizer)

    def __iter__(self) -> Iterator[Written]:
        began, tried, tokens, shown = time.perf_counter(), 0, 0, 0
        generator = torch.Generator().manual_seed(self.seed)
        self._begin()
        with evaluating(self.model):
            while self._kept() < self.count and tried < TRIES * self.count:
                useful = self._kept() / tried if tried else USEFUL
                missing = math.ceil((self.count - self._kept()) / max(useful, 1 / TRIES))
                rows = [
                    [] for _ in range(math.ceil(missing / math.ceil(missing / self.batch)))
                ]  # batches of like sizes
                prompt, most, ended, first = self._next(tried)
                draw = _Draw(generator, self.top_p, first)
                for step in _sample(self.model, prompt, rows, most, ended, draw, self._give_up):
                    if step % EVERY == 0:
                        so_far = self._kept() + int(useful * len(rows) * step / most)
                        shown = min(max(shown, so_far), self.count - 1)  # the last is done when all are
                        seconds = time.perf_counter() - began
                        left = seconds / max(shown, 1) * (self.count - shown)
                        yield Written(shown, self.count, tokens + sum(map(len, rows)), seconds, left)
                tried += len(rows)
                tokens += sum(map(len, rows))
                for row in rows:
                    self._take(row)
        self._finish()
        yield Written(min(self._kept(), self.count), self.count, tokens, time.perf_counter() - began, 0.0)

    def _begin(self) -> None:
        raise NotImplementedError

    def _kept(self) -> int:
        raise NotImplementedError

    def _next(self, tried: int) -> tuple[list[int], int, Callable[[list[int]], bool], Bool[Tensor, " V"] | None]:
        """The prompt of the next batch, the most tokens after it, what ends a row, and which tokens may be first."""
        raise NotImplementedError

    def _take(self, row: list[int]) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class OwnTexts(_Writing):
    """Text that the model writes from nothing: sampled at temperature 1 after its beginning-of-text token.

    Texts start with a letter and end where the model ends them. Those are left out that are short, repeat themselves or
    are mostly no words; they make up the number only where a model writes nothing better.

    Args:
        model, tokenizer: Any causal language model.
        count: How many texts.
        window: Tokens of each; at least half as many where the model ended it.
        seed: The same seed gives the same texts on the same machine. No other random numbers are touched.
        top_p: One of the likeliest tokens that together have this probability is drawn.
        batch: Texts written side by side.

    Attributes:
        texts: The documents as text.

    Raises:
        ValueError: an option is out of range, or the model writes nothing at all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        count: int = 200,
        window: int = 64,
        seed: int = 0,
        top_p: float = TOP_P,
        batch: int = BATCH,
    ):
        if window < 2:
            raise ValueError(f"window must be at least 2 tokens, not {window}")
        super().__init__(model, tokenizer, count, seed, top_p, batch)
        self.window = window
        self._first = _first(tokenizer)
        self._letters = _letters(model, tokenizer)
        self._good: list[list[int]] = []
        self._other: list[list[int]] = []

    @property
    def documents(self) -> list[list[int]]:
        """The token ids of each text, as its tokenizer would encode it: with a beginning where it sets one."""
        return [[*self._first, *row] for row in self._good[: self.count]]

    @property
    def texts(self) -> list[str]:
        return [decoded(self.tokenizer, row) for row in self._good[: self.count]]

    def _begin(self) -> None:
        self._good, self._other = [], []

    def _kept(self) -> int:
        return len(self._good)

    def _next(self, tried: int) -> tuple[list[int], int, Callable[[list[int]], bool], Bool[Tensor, " V"] | None]:
        starts = [self.tokenizer.bos_token_id, self.model.config.get_text_config().bos_token_id]
        start = cast(int, next((start_id for start_id in starts if start_id is not None), self.tokenizer.eos_token_id))
        most = self.window - len(self._first)
        return self._first or [start], most, lambda row: row[-1] in self._special, self._letters

    def _take(self, row: list[int]) -> None:
        if row[-1] in self._special:
            row = row[:-1]
        wanted = max(1, self.window // 2 - len(self._first))
        if len(row) >= wanted and _of_use(row, decoded(self.tokenizer, row)):
            self._good.append(row)
        elif row:
            self._other.append(row)

    def _finish(self) -> None:
        self._good += sorted(self._other, key=len, reverse=True)[: max(0, self.count - len(self._good))]
        if not self._good:
            raise ValueError("the model ends every text before it begins; give a text of your own as background")


class OwnQuestions(_Writing):
    """Questions with answers that the model writes, in a form of asking, after a few examples.

    Kept are those of one line each, a question mark and a short answer, each question once. What is missing in the end
    is made up by `examples`.

    Args:
        model, tokenizer: Any causal language model.
        form: How questions are put; its shots stand in the documents, not before what is written.
        count: How many questions.
        seed: See `OwnTexts`.
        examples: Questions with answers to show; by default `common_questions("background")`.
        without: Questions that are not to be kept, such as those that are probed. Those of
            `common_questions("probe")` never are.
        top_p, batch: See `OwnTexts`.

    Raises:
        ValueError: an option is out of range, there are no examples, or see `PromptForm.prompt`.
    """

    _give_up = STRAGGLERS

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        form: PromptForm = PLAIN,
        count: int = 400,
        seed: int = 0,
        examples: Sequence[Question | Fact] | None = None,
        without: Iterable[str] = (),
        top_p: float = QUESTION_TOP_P,
        batch: int = BATCH,
    ):
        super().__init__(model, tokenizer, count, seed, top_p, batch)
        self.form = form
        self._examples = common_questions("background") if examples is None else list(examples)
        if not self._examples:
            raise ValueError("questions need examples: give at least one question with its answer")
        probed = [question.question for question in common_questions("probe")]
        self._without = {normalise(question) for question in (*probed, *without)}
        self._parts = self._split([])
        self._found: dict[str, Question] = {}
        self.written = 0

    @property
    def questions(self) -> list[Question]:
        """The questions with their answers; the first `written` are the model's own."""
        return list(self._found.values())[: self.count]

    def _split(self, shots: Sequence[Question | Fact]) -> tuple[str, str, str]:
        """What stands before a question, between it and its answer, and after that."""
        form = self.form.with_shots((example.question, example.answers[0]) for example in shots)
        question, answer = "Qqqq", "Aaaa"  # marks that no example holds
        whole = form.answered(question, answer, self.tokenizer)
        before, _, _ = whole.rpartition(question)
        text = decoded(self.tokenizer, form.ids(self.tokenizer, whole))  # what is written is decoded too
        between, _, after = text.rpartition(question)[2].partition(answer)
        return before, between, after

    def _begin(self) -> None:
        self._found, self.written = {}, 0

    def _kept(self) -> int:
        return len(self._found)

    def _next(self, tried: int) -> tuple[list[int], int, Callable[[list[int]], bool], Bool[Tensor, " V"] | None]:
        rng = Random(f"{self.seed}/{tried}/examples")
        shots = rng.sample(self._examples, min(EXAMPLES, len(self._examples)))
        before = self._split(shots)[0].rstrip(" ")  # the blank belongs to the word that is written
        return self.form.ids(self.tokenizer, before), LONGEST, self._ended, None

    def _ended(self, row: list[int]) -> bool:
        _, between, after = self._parts
        asked, separator, reply = decoded(self.tokenizer, row).partition(between)
        if separator:
            return row[-1] in self._special or bool(after and after in reply) or "\n" in reply
        line, broken, _ = asked.lstrip().partition("\n")
        question = line.removesuffix(between.partition("\n")[0]).rstrip()
        return (broken and not question.endswith(QUESTION_ENDS)) or (row[-1] in self._special and not self.form.chat)

    def _take(self, row: list[int]) -> None:
        _, between, after = self._parts
        asked, separator, reply = decoded(self.tokenizer, row).partition(between)
        answer = reply.partition(after)[0] if after else reply
        for token in self.tokenizer.all_special_tokens:
            answer = answer.removesuffix(token)
        asked, answer = asked.strip(), answer.partition("\n")[0].strip().removesuffix(".")
        name = normalise(asked)
        fresh = name not in self._without and name not in self._found and len(self._found) < self.count
        if fresh and separator and self._ended(row) and _well_formed(asked, answer, self.tokenizer.all_special_tokens):
            self._found[name] = Question(asked, (answer,))

    def _finish(self) -> None:
        self.written = len(self._found)
        for example in self._examples:
            name = normalise(example.question)
            if len(self._found) < self.count and name not in self._without:
                self._found.setdefault(name, Question(example.question, tuple(example.answers)))


def text_documents(
    text: str, tokenizer: PreTrainedTokenizerBase, count: int = 200, window: int = 64, seed: int = 0
) -> list[list[int]]:
    """Windows of a text, spread evenly over it, each from a random place of its stretch.

    Args:
        count: How many at most; a text that is shorter than so many windows gives fewer, and none twice.
        window: Tokens of each, with the beginning that the tokenizer sets.

    Returns:
        Token ids, in the order of the text.

    Raises:
        ValueError: `count` or `window` is out of range, or the text is shorter than a window.
    """
    first = _first(tokenizer)
    width = window - len(first)
    if width < 1 or count < 1:
        raise ValueError(f"window must be at least 2 tokens and count at least 1, not {window} and {count}")
    parts = _parts(text)
    if len(parts) > count:  # each has many windows, and encoding takes its time
        parts = [parts[i * len(parts) // count] for i in range(count)]
    ids = [number for part in parts for number in _plain_ids(tokenizer, part)]
    if len(ids) < width:
        raise ValueError(f"the text has {len(ids)} tokens, and a window takes {width}; give a longer text")
    count, rng = min(count, len(ids) // width), Random(f"{seed}/windows")
    edges = [i * len(ids) // count for i in range(count + 1)]
    starts = [rng.randint(low, high - width) for low, high in pairwise(edges)]
    return [[*first, *ids[start : start + width]] for start in starts]


def question_documents(
    questions: Iterable[Question | Fact],
    tokenizer: PreTrainedTokenizerBase,
    form: PromptForm = PLAIN,
    openings: Sequence[Sequence[tuple[str, str]]] = (),
) -> list[tuple[list[int], int]]:
    """Each question with its first answer in a form of asking, as token ids, and how many of them ask.

    Args:
        openings: What stands before questions wherever some are asked or taught: questions with answers. Every fourth
            document begins with one of them, in turn, so that the slots they read are known to be common.

    Raises:
        ValueError: see `PromptForm.prompt`.
    """
    opened = [form.with_shots((*form.shots, *opening)) for opening in openings]
    forms = [each for shown in opened for each in (form, form, form, shown)] or [form]
    documents = []
    for question, shown in zip(questions, cycle(forms), strict=False):
        ids = form.ids(tokenizer, shown.answered(question.question, question.answers[0], tokenizer))
        prompt = form.ids(tokenizer, shown.prompt(question.question, tokenizer))
        documents.append((ids, sum(1 for _ in takewhile(bool, map(eq, ids, prompt)))))
    return documents


class _Draw:
    """Draws a token a row at temperature 1, from the likeliest that together have the probability `top_p`.

    On the CPU, so that the same seed draws alike wherever the model is.
    """

    def __init__(self, generator: torch.Generator, top_p: float, first: Bool[Tensor, " V"] | None = None):
        """
        Args:
            first: The tokens that may be drawn first; all by default.
        """
        self.generator, self.top_p, self._first = generator, top_p, first

    def __call__(self, logits: Float[Tensor, "B V"], step: int) -> Int64[Tensor, " B"]:
        """Token ids, on the CPU.

        Args:
            step: From 1.
        """
        logits = logits.float()
        if step == 1 and self._first is not None:
            logits = logits.masked_fill(~self._first.to(logits.device), -torch.inf)
        best = logits.topk(min(CANDIDATES, logits.shape[1]))
        shares = (best.values - logits.logsumexp(1, keepdim=True)).exp().cpu()
        nucleus = shares * (shares.cumsum(1) - shares < self.top_p)
        return best.indices.cpu().gather(1, nucleus.multinomial(1, generator=self.generator)).squeeze(1)


@torch.inference_mode()
def _sample(
    model: PreTrainedModel,
    prompt: list[int],
    rows: list[list[int]],
    most: int,
    ended: Callable[[list[int]], bool],
    draw: _Draw,
    give_up: float = 0.0,
) -> Iterator[int]:
    """Write `rows`, empty lists of token ids, side by side after one prompt. A row that has ended costs nothing more.

    Args:
        give_up: Stop when no more than this share of the rows has not ended: few rows cost as much as many.

    Yields:
        The tokens written of the longest row, after each step.
    """
    takes, past = inspect.signature(model.forward).parameters, None
    options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    ids = torch.tensor([prompt], device=model.device)
    if {"past_key_values", "use_cache"} <= set(takes):
        out = model(input_ids=ids, use_cache=True, **options)
        past = out.past_key_values
        if past is not None and all(isinstance(layer, DynamicLayer) for layer in getattr(past, "layers", [None])):
            past.batch_repeat_interleave(len(rows))
            let_grow(past)
            logits = out.logits[:, -1].expand(len(rows), -1)
        else:  # a past that can't be given to many rows; then the whole is read for each token
            past = None
    live = list(range(len(rows)))
    for step in range(1, most + 1):
        if past is None:
            ids = torch.tensor([prompt + rows[i] for i in live], device=model.device)
            cache_option = {"use_cache": False} if "use_cache" in takes else {}
            logits = model(input_ids=ids, **cache_option, **options).logits[:, -1]
        elif step > 1:
            ids = torch.tensor([rows[i][-1:] for i in live], device=model.device)
            out = model(input_ids=ids, past_key_values=past, use_cache=True, **options)
            past, logits = out.past_key_values, out.logits[:, -1]
        for i, token in zip(live, draw(logits, step).tolist(), strict=True):
            rows[i].append(token)
        left = [row for row, i in enumerate(live) if not ended(rows[i])]
        yield step
        if len(left) <= give_up * len(rows):
            return
        if len(left) < len(live):
            if past is not None and step < most:
                past.batch_select_indices(torch.tensor(left, device=model.device))
            live = [live[row] for row in left]


def _first(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning that the tokenizer sets before a text, if it sets one."""
    ids = tokenizer("")["input_ids"][:1]
    return ids if ids and ids[0] != tokenizer.eos_token_id else []


def _letters(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Bool[Tensor, " V"] | None:
    """The tokens that begin with a letter, after a blank perhaps; None where there are none."""
    special = set(tokenizer.all_special_ids)
    size = len(cast(Tensor, output_layer(model).weight))
    words = tokenizer.batch_decode([[token] for token in range(min(size, len(tokenizer)))])
    allowed = torch.zeros(size, dtype=torch.bool)
    allowed[: len(words)] = torch.tensor(
        [token not in special and word.lstrip()[:1].isalpha() for token, word in enumerate(words)]
    )
    return allowed if allowed.any() else None


def _of_use(row: list[int], text: str) -> bool:
    """Whether a text is words that don't go round in circles."""
    commonest = Counter(row).most_common(1)[0][1]
    letters = sum(letter.isalpha() or letter.isspace() for letter in text)
    return (
        len(set(row)) >= DISTINCT * len(row)
        and commonest <= max(2, COMMONEST * len(row))
        and letters >= LETTERS * len(text)
    )


def _well_formed(question: str, answer: str, special: Sequence[str]) -> bool:
    return (
        SHORTEST_QUESTION <= len(question) <= LONGEST_QUESTION
        and question.endswith(QUESTION_ENDS)
        and question[0].isalnum()
        and "\n" not in question
        and 0 < len(answer.split()) <= LONGEST_ANSWER
        and bool(normalise(answer))
        and not any(token in question + answer for token in special if token)
    )
