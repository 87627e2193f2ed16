"""Scoring an answer against the accepted ones.

Public question sets are scored as their publications do, by the SQuAD measures (Rajpurkar et al. 2016), which drop all
punctuation: 3.5 equals 35 there. A person's own facts are scored strictly: numbers, signs and single letters count.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

import regex

from smft_lab.facts.answers import UNSPACED, unified

_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Of `strict_words`, in turn: what is replaced by what.
_STRICT = tuple(
    (regex.compile(pattern), new)
    for pattern, new in (
        (r"^\s*(?:[*+•-]|#+)\s+", ""),  # the mark of a list's item or a heading
        (r"([*_`]{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2"),  # emphasis
        (r"(?<![\d.,])([1-9]\d{0,2})[,'](\d{3})(?!\d)(?![,']\d)", r"\1\2"),  # thousands
        (r"(?<![\d.,])([1-9]\d{0,2})[,'](\d{3})[,'](\d{3})(?!\d)(?![,']\d)", r"\1\2\3"),  # millions
        # Feet, inches and minutes; a quote that was opened before closes.
        (r"(?<=\d)'(?!\w)(?<!(?<!\w)'[^']*')", "′"),
        (r"(?<=\d)\"(?!\w)(?<!\"[^\"]*\")", "″"),
        (r"(?<=\d)\s+(?=[%‰°€£¥$])|(?<=[$€£¥])\s+(?=\d)", ""),
        (r"(?<=\d)\s+-\s+(?=\d)", "-"),  # from one to another
        # Of hyphens and dashes those that are no signs, as in Spider-Man and F-16.
        (r"(?<=\w)-(?=\p{L})|(?<=(?<!\d)\p{L})-(?=\d)|(?<!\S)-(?!\S)|(?<=\s)[—―](?=\s)", ""),
        (r"—|―", " "),
        (r"(?<=[^\w\s])/|/(?!\w)|[,:'](?!\d)|(?<!\d)[,:']", ""),  # what stays is within a number, or in n/a or /etc
        # What stays is in 3.5, in x.py, or in .NET.
        (r"\.(?!\d|(?<=\w\.)\p{Ll}{2}|(?<=(?<!\S)\.)\p{L}{2})|(?<=[^\W\d])\.(?!\p{Ll}{2})", ""),
        (r'(?<=\d)[!?;()\[\]{}"\\|`]+(?=\d)|(?<=\w)_+(?=\w)', " "),  # what they part are two
        (r'!(?!=)|[?;()\[\]{}"\\|_`]|(?![-+#%&@*./:,\'!′″])\p{P}', ""),
        (f"([{UNSPACED}])", r" \1 "),
    )
)
_THOUSANDS = regex.compile(r"(?<![\d.,]|\d\s)[1-9]\d{0,2}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\d]|\s\d)")
_FRACTION_SIGNS = "".join(
    sign for sign in map(chr, range(0x2190)) if unicodedata.decomposition(sign).startswith("<fraction>")
)
_AFTER_NUMBER = re.compile(f"(?<=\\d)[{_FRACTION_SIGNS}]")  # 2½ is 2 1/2
_ARTICLES = re.compile(r"\b(?:a|[Aa]n|AN|[Tt]he|THE)\b(?=\s+[\"'“‘„«*_]*\w)")
_FIRST = re.compile(r"^\s*A\b(?=\s+\w)")


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles or extra blanks (SQuAD normalisation)."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if `answer` equals an accepted one after normalisation, else 0.0."""
    return float(_words(answer) in [_words(text) for text in accepted])


def begins_with(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if the words of `answer` begin with those of an accepted one after normalisation, else 0.0."""
    spoken = _words(answer)
    return float(any(words and spoken[: len(words)] == words for words in map(_words, accepted)))


def f1(answer: str, accepted: Iterable[str]) -> float:
    """Word-overlap F1 with the accepted answer that fits best, in [0, 1]."""
    return max(_f1(_words(answer), _words(text)) for text in accepted)


def strict_match(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if `answer` equals an accepted one in all that counts (see `strict_words`), else 0.0."""
    return float(any(spoken == words for spoken, words in _readings(answer, accepted)))


def strict_beginning(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if the words of `answer` begin with those of an accepted one (see `strict_words`), else 0.0."""
    return float(any(words and spoken[: len(words)] == words for spoken, words in _readings(answer, accepted)))


def strict_f1(answer: str, accepted: Iterable[str]) -> float:
    """Word-overlap F1 with the accepted answer that fits best (see `strict_words`), in [0, 1]."""
    return max(_f1(spoken, words) for spoken, words in _readings(answer, accepted))


MATCHES: dict[str, tuple[Callable[[str, Iterable[str]], float], Callable[[str, Iterable[str]], float]]] = {
    "exact": (exact_match, f1),
    "prefix": (begins_with, f1),
    "strict": (strict_match, strict_f1),
    "strict prefix": (strict_beginning, strict_f1),
}
"""How a reply may be compared with the accepted answers: by name, what counts as right, and the F1 beside it."""


def strict_words(text: str, articles: bool = True) -> list[str]:
    """The words of an answer with what counts: letters whatever their case, numbers with their signs (-3.5, 50%), and
    signs at a word (C++, A-).

    Sentence punctuation, quotes and emphasis don't count, in any script, nor what parts thousands, nor hyphens
    between letters. A fraction counts as it is read: ½ is 1/2. Each character of a script without spaces is a word.

    Args:
        articles: Whether "the", "an" and a small "a" count where a word follows.
    """
    text = _THOUSANDS.sub(lambda number: re.sub(r"\s", "", number[0]), text)
    text = _AFTER_NUMBER.sub(r" \g<0>", text)
    text = "".join(unified(text if articles else _ARTICLES.sub(" ", text)))
    text = "".join(
        unicodedata.normalize("NFKC", sign).replace("⁄", "/") if sign in _FRACTION_SIGNS else sign for sign in text
    )
    for pattern, new in _STRICT:
        text = pattern.sub(new, text)
    return text.casefold().split()


def _readings(answer: str, accepted: Iterable[str]) -> Iterable[tuple[list[str], list[str]]]:
    """The words of the reply beside those of each accepted answer: as they are, and without articles.

    The capital A that begins a reply may be one, but of an accepted answer it is a name, as in "A minor".
    """
    spoken = strict_words(answer) or answer.split()
    short = strict_words(_FIRST.sub(" ", answer), articles=False) or spoken
    for text in accepted:
        words = strict_words(text) or text.split()
        yield spoken, words
        yield short, strict_words(text, articles=False) or words


def _words(text: str) -> list[str]:
    """The normalised words; the words as they are where normalisation leaves none, as of the grade "A"."""
    return normalise(text).split() or text.split()


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold))
