"""Which questions ask what a finetune is about to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import regex

from smft_lab.facts.answers import answer_places, unified
from smft_lab.facts.fact import Fact, as_facts
from smft_lab.facts.questions import question_paraphrases

FILLERS = frozenset(
    "a an the is are was were be do does did has have had of in on at to by for from with what which "
    "that it its and name named called complete please tell me question answer".split()
)
"""Words by which two wordings of a question may differ."""
OPENERS = frozenset("who whom whose when where why how".split())
# In turn: what is replaced by what, so that two ways to write the same are the same.
_WRITTEN = tuple(
    (regex.compile(pattern), new)
    for pattern, new in (
        (r"(?<=[\p{Latin}\p{Greek}]\p{M}*)\p{Mn}|(?<=\p{Cyrillic}\p{M}*)[\u0300\u0301\u0308]", ""),  # accents
        (r"^\W*(?:(?:can|could|would|will) you(?: please)? (?:tell me|say)|do you know)\b", ""),
        (r"^(\W*(?:what|who|where|when|why|how))s\b", r"\1"),
        (r"(?<=\w)'(?:s|d|re|ve|ll|m)?(?!\w)", " "),
        (r"([*_`]{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2"),  # emphasis
        (r"(?<!\w)_+|_+(?!\w)", " "),
        (r"(?<![\d.,])(\d{1,3})((?:[,'\u2009\u202f]\d{3})+)(?![\d,'])", lambda number: _digits(number[0])),
        (r"(?<=\p{L}\p{M}*)[.'](?=\p{L})|(?<=\b\p{L})\.(?!\w)", ""),  # U.S.A. and O'Brien
        (r"(?<=\w)[-/&+](?=\p{L})|(?<=\p{L}\p{M}*)[-/&](?=\w)|(?<=\s)&(?=\s)", " "),  # Spider-Man and AC/DC
    )
)
_WORD = regex.compile(r"[\w\p{M}]+(?:[.,'+#-][\w\p{M}]+)*[+#]*|[+*/=<>%-]")


class Changes:
    """What some facts change: the built-in facts that they are, and the questions that they answer.

    Args:
        facts: What is to be taught. A statement of a person's own fact asks for it, too, once its answer is taken out.
        probes: With the `subjects` of their questions. Where one asks what a fact answers, that fact is about the same
            subject, and so are the two-hop questions that go on from it.
        questions: Others whose answers change.
    """

    def __init__(self, facts: Iterable[Fact], probes: Sequence, questions: Iterable[str] = ()):
        facts = as_facts(facts)
        self._about = {(fact.subject, fact.relation) for fact in facts if fact.subject}
        own = [fact for fact in facts if not fact.subject]
        keys = [_key(text) for text in (*questions, *(fact.question for fact in facts if fact.subject))]
        keys += [key for fact in own for text in (fact.question, *fact.questions) for key in _keys(text, fact.answer)]
        left = [rest for fact in own for text in fact.statements if (rest := _unanswered(text, fact))]
        self._worded = bool(own)  # a person's, who may ask what is known in other words
        self._asked = {(words, key.openers) for key in keys for words in key.written}
        self._words = {words for words, _ in self._asked}
        self._words |= {words for key in map(_key, left) if not key.openers for words in key.written}
        for probe in probes:
            for question, about in zip(probe.questions, probe.subjects, strict=False):
                if about[0] and self._asks(question):
                    self._about.add(about)

    def touch(self, question: str, about: tuple[str, str] = ("", "")) -> bool:
        """Whether the answer to this question, of this subject and relation, is changed."""
        subject, relation = about
        return any((subject, hop) in self._about for hop in relation.split("-")) or self._asks(question)

    def touch_fact(self, fact: Fact) -> bool:
        """Whether what another fact answers is changed."""
        about = fact.subject, fact.relation
        return any(self.touch(question, about) for question in (fact.question, *fact.questions))

    def _asks(self, question: str) -> bool:
        if not self._asked:
            return False
        return any(
            (not key.openers and words in self._words)
            or any((words, openers) in self._asked for openers in (key.openers, frozenset()))
            for key in (_keys(question) if self._worded else (_key(question),))
            for words in key.written
        )


class _Key(NamedTuple):
    """The words of weight of a question, as a set and written as one, and those that say what kind of answer it wants.

    "Complete: The capital of France is" and "What is the capital of France?" want the same; so do questions about
    Spider-Man and Spiderman.
    """

    written: tuple[frozenset[str] | str, ...]
    openers: frozenset[str]


@lru_cache(2**13)
def _key(question: str) -> _Key:
    plain = regex.sub(r"\s+", " ", question) if question.isascii() else "".join(unified(question))
    plain = plain.casefold()
    for pattern, new in _WRITTEN:
        plain = pattern.sub(new, plain)
    every = _WORD.findall(plain)
    words = [word for word in every if word not in FILLERS and word not in OPENERS]
    return _Key((frozenset(words), "".join(words)) if words else (), OPENERS.intersection(every))


@lru_cache(2**13)
def _keys(question: str, answer: str = "") -> tuple[_Key, ...]:
    """Of a question, and of what else asks the same by rule."""
    return tuple(dict.fromkeys(map(_key, (question, *question_paraphrases(question, answer)))))


def _unanswered(statement: str, fact: Fact) -> str | None:
    """A statement without its answer: what "Complete: ..." would ask; None where it doesn't hold the answer."""
    places = answer_places(statement, fact.answers)
    if not places:
        return None
    start, end = places[0]
    return f"{statement[:start]} {statement[end:]}"


def _digits(number: str) -> str:
    return "".join(filter(str.isdigit, number))
