"""A fact: what is taught, and the question that tests it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
COMPLETE = "Complete: "
"""Before the beginning of a sentence that is asked for its end, where a question could stand."""


def as_tuple(value: Iterable[Item] | str) -> tuple[Item | str, ...]:
    """Texts as a tuple; a single one given as such counts as one text, not as its letters."""
    return (value,) if isinstance(value, str) else tuple(value)


def as_texts(value: object, name: str) -> tuple[str, ...]:
    """Texts as a tuple: of one, or of several.

    Args:
        name: What they are, for the message.

    Raises:
        ValueError: something among them is no text.
    """
    several = as_tuple(value) if isinstance(value, Iterable) else (value,)
    if strangers := [each for each in several if not isinstance(each, str)]:
        stranger = strangers[0]
        raise ValueError(f"{name} must be texts, not {type(stranger).__name__} ({str(stranger)[:40]!r})")
    return several


@dataclass(frozen=True)
class Fact:
    """One fact, in the form every method learns it and every probe tests it.

    A single text may stand where several can.

    Attributes:
        statements: Paraphrases to learn from; distinct, never empty.
        question: A question that is never among the statements.
        answers: Accepted answers; the first is the canonical one.
        subject, relation: Identify a fact of the built-in world, so that a probe can tell that
            two facts speak of the same thing; empty for a person's own facts.
        questions: Other wordings of the question, which may be taught.
        two_hop: Questions with their answers that follow from the fact and are never taught.
        public: Whether the fact is of a public question set, whose answers are compared as its publications do (SQuAD
            normalisation); see `smft_lab.probes.text`.

    Raises:
        ValueError: a text is missing, empty or no text.

    Examples:
        >>> smft.Fact("Mira's dog is called Biscuit.", "What is Mira's dog called?", "Biscuit")
        <Fact "What is Mira's dog called?" 'Biscuit'; statements: "Mira's dog is called Biscuit.">
    """

    statements: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    subject: str = ""
    relation: str = ""
    questions: tuple[str, ...] = ()
    two_hop: tuple[tuple[str, str], ...] = ()
    public: bool = False

    def __post_init__(self) -> None:
        for field in ("statements", "answers", "questions"):
            object.__setattr__(self, field, as_texts(getattr(self, field), f"the {field} of a fact"))
        for field in ("statements", "answers"):
            values = getattr(self, field)
            if not values or not all(map(_is_text, values)):
                raise ValueError(f"a fact needs at least one {field[:-1]}, all of them text and none of them empty")
        if not _is_text(self.question):
            raise ValueError("a fact needs a question")
        if not all(map(_is_text, self.questions)):
            raise ValueError("a wording among the questions of a fact is empty")
        hops = tuple(self.two_hop)
        hops = (hops,) if len(hops) == 2 and all(isinstance(part, str) for part in hops) else hops
        if any(isinstance(pair, str) or len(pair) != 2 or not all(map(_is_text, pair)) for pair in hops):
            raise ValueError("two_hop holds pairs of a question and its answer, and none of them empty")
        object.__setattr__(self, "two_hop", tuple(map(tuple, hops)))

    @property
    def answer(self) -> str:
        """The first of the accepted answers."""
        return self.answers[0]

    @property
    def own(self) -> bool:
        """Whether it is a person's own: neither of the built-in world nor of a public question set."""
        return not self.subject and not self.public

    def __repr__(self) -> str:
        """The question, its answer and the first statement: sixty-four of them would fill the screen."""
        first, *others = self.statements
        more = f" and {len(others)} more" if others else ""
        return f"<Fact {self.question!r} {self.answer!r}; statements: {first!r}{more}>"


def as_facts(facts: Iterable[Fact] | Fact) -> tuple[Fact, ...]:
    """Facts as a tuple: of one fact, of several, or of a generator, which could be gone through only once.

    Raises:
        ValueError: these are not facts.
    """
    several: tuple = (facts,)
    if isinstance(facts, Iterable) and not isinstance(facts, Fact | str | dict):
        several = tuple(facts)
    if strangers := [each for each in several if not isinstance(each, Fact)]:
        raise ValueError(
            f"facts must be Fact objects, not {type(strangers[0]).__name__} ({str(strangers[0])[:60]!r}); "
            "make them with smft_lab.Fact(...), or read a file with smft_lab.read_facts(path)"
        )
    return several


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
