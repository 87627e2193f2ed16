"""A fact: what is taught, and the question that tests it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One fact, in the form every method learns it and every probe tests it.

    Attributes:
        statements: Paraphrases to learn from; distinct, never empty.
        question: A question that is never among the statements.
        answers: Accepted answers; the first is the canonical one.
        subject, relation: Identify a fact of the built-in world, so that a probe can tell that
            two facts speak of the same thing; empty for a person's own facts.
        questions: Other wordings of the question, which may be taught.
        two_hop: Questions with their answers that follow from the fact and are never taught.
    """

    statements: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    subject: str = ""
    relation: str = ""
    questions: tuple[str, ...] = ()
    two_hop: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        for field in ("statements", "answers"):
            values = getattr(self, field)
            if not values or any(not value.strip() for value in values):
                raise ValueError(f"a fact needs at least one {field[:-1]}, and none of them empty")
        if not self.question.strip():
            raise ValueError("a fact needs a question")
        if any(not text.strip() for text in self.questions):
            raise ValueError("a wording among the questions of a fact is empty")
        if any(len(pair) != 2 or not all(text.strip() for text in pair) for pair in self.two_hop):
            raise ValueError("two_hop holds pairs of a question and its answer, and none of them empty")

    @property
    def answer(self) -> str:
        return self.answers[0]

    def __repr__(self) -> str:
        """The question, its answer and the first statement: sixty-four of them would fill the screen."""
        more = f" and {len(self.statements) - 1} more" if len(self.statements) > 1 else ""
        return f"<Fact {self.question!r} {self.answer!r}; statements: {self.statements[0]!r}{more}>"
