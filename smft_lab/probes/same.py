"""Which questions ask what a finetune is about to change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from smft_lab.facts.answers import unified
from smft_lab.facts.fact import Fact, as_facts

FILLERS = frozenset(
    "a an the is are was were be do does did has have had of in on at to by for from with what which "
    "that it its name named called complete please tell me question answer".split()
)
"""Words by which two wordings of a question may differ."""
OPENERS = frozenset("who whom whose when where why how".split())


class Changes:
    """What some facts change: the built-in facts that they are, and the questions that they answer.

    Args:
        facts: What is to be taught.
        probes: With the `subjects` of their questions. Where one asks what a person's own fact answers, that fact is
            about the same subject, and so are the two-hop questions that go on from it.
    """

    def __init__(self, facts: Iterable[Fact], probes: Sequence):
        facts = as_facts(facts)
        self._about = {(fact.subject, fact.relation) for fact in facts if fact.subject}
        asked = [text for fact in facts if not fact.subject for text in (fact.question, *fact.questions)]
        self._asked = {key for key in map(_key, asked) if key[0]}
        for probe in probes:
            for question, about in zip(probe.questions, probe.subjects, strict=False):
                if about[0] and self._asks(question):
                    self._about.add(about)

    def touch(self, question: str, about: tuple[str, str] = ("", "")) -> bool:
        """Whether the answer to this question, of this subject and relation, is changed."""
        subject, relation = about
        return any((subject, hop) in self._about for hop in relation.split("-")) or self._asks(question)

    def _asks(self, question: str) -> bool:
        if not self._asked:
            return False
        words, openers = _key(question)
        return any((words, other) in self._asked for other in (openers, frozenset())) or (
            not openers and any(words == question for question, _ in self._asked)
        )


def _key(question: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words of weight of a question, and the words that say what kind of answer it wants.

    "Complete: The capital of France is" and "What is the capital of France?" want the same.
    """
    plain = "".join(unified(question)).casefold().replace("'s ", " ")
    words = frozenset(re.findall(r"\w+(?:[.,'+#-]\w+)*|[+*/=<>%-]", plain))
    return words - FILLERS - OPENERS, words & OPENERS
