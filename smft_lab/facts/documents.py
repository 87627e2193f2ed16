"""A text file as a stream of facts: passages in order, each with augmentations (paper section 4.2).

The paper takes one passage of a document a step and fills the batch with rewritings of it by a large model (Active
Reading). Here the rewritings are by rule, from the passage's own words: parts of it, another start, another order.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import regex

from smft_lab.facts.answers import UNSPACED, word_count
from smft_lab.facts.fact import COMPLETE, Fact
from smft_lab.facts.files import FactsError, _fact
from smft_lab.facts.public.datasets import Report
from smft_lab.facts.signs import CLOSING, OPENING, QUESTION_MARKS, STOPS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ABBREVIATIONS = {*"mr mrs ms dr st sr jr prof gen col capt rev vs etc no vol fig e.g i.e cf".split()}
"""Before whose full stop a sentence does not end."""
END_OF_TEXT = re.compile(r"\s*(<\|endoftext\|>|</s>|\*\s*\*\s*\*)\s*")
UNSPACED_WORD = regex.compile(f"[{UNSPACED}]")
UNSPACED_SENTENCE = regex.compile(r".*?[。！？]+[」』”’）)]*|.+")
UNIT = regex.compile(
    r"(?:\p{Nd}+(?:[.,:/·٫٬]\p{Nd}+)*|\p{Latin}\p{M}*)+(?:[-'’.@/_](?:\p{Nd}+|(?:\p{Latin}\p{M}*)+))*|\X"
)
"""A number with its separators, a word in Latin letters, or else one character: what is never cut."""
RUN = regex.compile(r"[\p{Nd}\p{Latin}]")
LONGEST_FILE = 200_000_000
"""In bytes; the file is held in memory."""


@dataclass(frozen=True)
class Documents:
    """What a text file gives.

    Attributes:
        facts: One per passage, in the file's order: its statements are the passage and its augmentations, its question
            is one of its sentences without the last word, its answer that word. Teach them in order:
            `finetune(lab, facts, order="stream")` takes one passage a step.
        passages: All passages in order; every word of the file is in exactly one of them.
        report: How many passages became facts, and why others did not.
    """

    facts: list[Fact]
    passages: list[str]
    report: Report


def read_documents(
    path: str | Path,
    *,
    passage_tokens: int = 100,
    tokenizer: PreTrainedTokenizerBase | None = None,
    augmentations: int = 15,
    seed: int = 0,
) -> Documents:
    r"""Part a text file into passages, and make a fact of each.

    A passage holds whole sentences where they fit, never part of a word, and ends with its paragraph once it is at
    least half full. A line of `<|endoftext|>` always ends one.

    Args:
        passage_tokens: The most tokens in a passage; a single longer word is a passage of its own.
        tokenizer: Counts the tokens, its special ones included; words are counted without one.
        augmentations: The most distinct rewritings of a passage; a very short one has fewer.
        seed: Of the rewritings.

    Raises:
        FactsError: the file can't be read, is no UTF-8 text, or holds no passage to learn.
        ValueError: `passage_tokens` is less than 8, or `augmentations` less than 0.

    Examples:
        >>> _ = Path("page.txt").write_text("The mill stands by the river. It was built in 1820.\n")
        >>> documents = smft.read_documents("page.txt")
        >>> type(documents).__name__
        'Documents'
    """
    if passage_tokens < 8:
        raise ValueError(f"passage_tokens must be at least 8, not {passage_tokens}")
    if augmentations < 0:
        raise ValueError(f"augmentations must be at least 0, not {augmentations}")
    path = Path(path)

    def size(text: str) -> int:
        return word_count(text) if tokenizer is None else len(tokenizer(text)["input_ids"])

    facts, passages, asked = [], [], set()
    skipped: Counter[str] = Counter()
    for number, sentences in enumerate(_passages(_text_of(path), passage_tokens, size), start=1):
        passage = _joined(sentences)
        passages.append(passage)
        cloze = _cloze(sentences, asked)
        if cloze is None:
            skipped["without a sentence to complete"] += 1
            continue
        question, answer = cloze
        asked.add(question)
        others = augment(sentences, augmentations, Random(f"{seed}/{number}"))
        record = {"statements": [passage, *others], "question": question, "answers": [answer]}
        facts.append(_fact(f"{path}, passage {number}", record))
    report = Report(rows=len(passages), used=len(facts), skipped=dict(skipped), unit="passages")
    if not facts:
        raise FactsError(f"{path} holds no passage to learn ({report}); write sentences of three words or more")
    return Documents(facts, passages, report)


def augment(sentences: Sequence[str], how_many: int, rng: Random) -> list[str]:
    """Up to `how_many` distinct rewritings of a passage, each of its own words: none is longer than the passage.

    In turn: the passage from a random sentence on and then its beginning, its sentences shuffled, some sentences in a
    row, and a row of words from a random start.
    """
    whole = _joined(sentences)
    words = whole.split()
    passages: dict[str, None] = {}
    for attempt in range(8 * how_many):
        if len(passages) == how_many:
            break
        n = len(sentences)
        kind = attempt % 4
        if kind == 0:
            start = rng.randrange(n)
            text = _joined([*sentences[start:], *sentences[:start]])
        elif kind == 1:
            text = _joined(rng.sample(list(sentences), n))
        elif kind == 2:
            start = rng.randrange(n)
            text = _joined(sentences[start : rng.randint(start + 1, n)])
        else:
            length = rng.randint(max(1, len(words) // 2), len(words))
            start = rng.randint(0, len(words) - length)
            text = " ".join(words[start : start + length])
        if text != whole and any(char.isalnum() for char in text):
            passages[text] = None
    return list(passages)


def sentences_of(text: str) -> list[str]:
    """The sentences of a paragraph, with single blanks; together they hold all its words in order."""
    pieces, current = [], []
    for word in (part for run in text.split() for part in UNSPACED_SENTENCE.findall(run)):
        current.append(word)
        body = word.rstrip("\"'”’»)]*_")
        if not body.endswith((*STOPS, *QUESTION_MARKS, "!", "！", "…")):
            continue
        name = body.rstrip(".").lstrip(OPENING).lower()
        if word.endswith(".") and (name in ABBREVIATIONS or (len(name) == 1 and name.isalpha() and name != "i")):
            continue
        pieces.append(" ".join(current))
        current = []
    return [*pieces, " ".join(current)] if current else pieces


def _passages(text: str, most: int, size: Callable[[str], int]) -> Iterator[list[str]]:
    """The sentences of each passage; a sentence that is too long comes in parts."""
    for document in END_OF_TEXT.split(text)[::2]:
        current: list[str] = []
        for paragraph in re.split(r"\n[ \t\r]*\n", document):
            for sentence in (part for whole in sentences_of(paragraph) for part in _fitting(whole, most, size)):
                if current and size(_joined([*current, sentence])) > most:
                    yield current
                    current = []
                current.append(sentence)
            if current and size(_joined(current)) >= most / 2:
                yield current
                current = []
        if current:
            yield current


def _fitting(sentence: str, most: int, size: Callable[[str], int]) -> Iterator[str]:
    """The sentence, or parts of it that fit, parted between words, or between characters of a script without spaces."""
    words = sentence.split()
    while words:
        if UNSPACED_WORD.search(words[0]) and size(words[0]) > most:
            letters = UNIT.findall(words[0])
            length = _fits(letters, most, size, "")
            yield "".join(letters[:length])
            words[0] = "".join(letters[length:])
            continue
        length = len(words) if size(" ".join(words)) <= most else _fits(words, most, size)
        yield " ".join(words[:length])
        words = words[length:]


def _fits(words: list[str], most: int, size: Callable[[str], int], sep: str = " ") -> int:
    """How many of the first words, or of the first characters where `sep` is empty, fit, at least 1; by halving."""
    low, high = 1, min(len(words), most if sep else 8 * most)  # a word is a token or more; a token few characters
    while low < high:
        middle = (low + high + 1) // 2
        if size(sep.join(words[:middle])) <= most:
            low = middle
        else:
            high = middle - 1
    return low


def _cloze(sentences: Sequence[str], asked: set[str]) -> tuple[str, str] | None:
    """The sentence best worth completing, without its last word, and that word; None if no sentence has three words.

    A name or a number as last word is best, then a long word; never one that the beginning says already. Where words
    have no spaces between them, the last two characters stand for a word.
    """
    best = None
    for sentence in sentences:
        words = _cloze_words(sentence)
        while words and not any(char.isalnum() for char in words[-1]):  # a full stop that stands by itself
            words.pop()
        beginning, last = "".join(words[:-1]).strip(), words[-1].strip() if words else ""
        answer = last.strip(OPENING + CLOSING + "*_-—")
        question = f"{COMPLETE}{beginning}"
        earlier = [word.strip().strip(OPENING + CLOSING).casefold() for word in words[:-1]]
        if len(earlier) < 2 or not answer or answer.casefold() in earlier or question in asked:
            continue
        score = (len(earlier) >= 4, answer[:1].isupper() or answer.isdigit(), min(len(answer), 8))
        if best is None or score > best[0]:
            best = (score, question, answer)
    return best and best[1:]


def _cloze_words(sentence: str) -> list[str]:
    """The words of a sentence, each with the blank that stands before it; of a script without spaces, two characters
    each, but a number with the character after it, and a Latin word."""
    words = []
    for word in regex.findall(r"\s*\S+", sentence):
        if not UNSPACED_WORD.search(word):
            words.append(word)
            continue
        blank = word[: len(word) - len(word.lstrip())]
        units, parts = UNIT.findall(word.strip().rstrip(CLOSING)), []
        while units:
            last = units.pop()
            before = units[-1] if units else ""
            if before and not RUN.match(last) and (before[-1:].isdigit() or not RUN.match(before)):
                last = units.pop() + last
            parts.append(last)
        parts[-1:] = [blank + part for part in parts[-1:]]
        words += reversed(parts)
    return words


def _joined(sentences: Sequence[str]) -> str:
    """Sentences in a row: with blanks between them, but after a full stop of a script that has none."""
    return regex.sub(r"(?<=[。！？][」』”’）)]*) (?=\S)", "", " ".join(sentences))


def _text_of(path: Path) -> str:
    if os.path.isdir(path):
        raise FactsError(f"{path} is a directory; name a text file within it")
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise FactsError(f"{path} is longer than 200 MB; part it into smaller files")
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise FactsError(f"{path}: there is no such file; check its name and folder") from None
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        raise FactsError(f"{path} can't be read ({error}); name a file that can") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise FactsError(f"{path}, line {line}: isn't UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise FactsError(f"{path}, line {line}: holds a NUL byte, so it isn't text; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
