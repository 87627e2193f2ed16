"""Scoring an answer against the accepted ones: the SQuAD measures (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles or extra blanks (SQuAD normalisation)."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if `answer` equals an accepted one after normalisation, else 0.0."""
    return float(_words(answer) in [_words(one) for one in accepted])


def begins_with(answer: str, accepted: Iterable[str]) -> float:
    """1.0 if the words of `answer` begin with those of an accepted one after normalisation, else 0.0."""
    said = _words(answer)
    return float(any(words and said[: len(words)] == words for words in map(_words, accepted)))


def f1(answer: str, accepted: Iterable[str]) -> float:
    """Word-overlap F1 with the accepted answer that fits best, in [0, 1]."""
    return max(_f1(_words(answer), _words(one)) for one in accepted)


def _words(text: str) -> list[str]:
    """The normalised words; the words as they are where normalisation leaves none, as of the grade "A"."""
    return normalise(text).split() or text.split()


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold))
