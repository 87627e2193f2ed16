"""Paraphrases by plain rules, for a person's own sentence: frames around it, and its question with the answer."""

from __future__ import annotations

import re

from smft_lab.facts.fact import Fact
from smft_lab.facts.questions import rewordings

FRAMES = (
    "{told}.",
    "Everyone here knows that {told}.",
    "It is true that {told}.",
    "People say that {told}.",
    "Remember this: {told}.",
    "As I heard it, {told}.",
)
ASKED = (
    "The answer to {asked} is {answer}.",
    "When asked {asked}, say {answer}.",
    "Asked {asked}, people answer {answer}.",
    "{Asked}: {answer}.",
)
# Words that may stand right before an answer without being part of it.
SMALL_WORDS = {*"is was are were called named to at in on of by from as for and".split()}


def likely_answer(sentence: str, question: str) -> str:
    """The last words of the sentence that the question does not hold: "Biscuit" for "Mira's dog is called Biscuit"."""
    asked = set(re.findall(r"[\w'’-]+", question.casefold()))
    found: list[str] = []
    for word in reversed(sentence.strip().rstrip(".!?").split()):
        if word.strip(",;:\"'()").casefold() in asked | SMALL_WORDS:
            break
        found.insert(0, word)
    return " ".join(found).strip(",;:\"'()")


def rephrase(sentence: str, question: str, answer: str) -> list[str]:
    """Distinct statements that teach the answer: the sentence in frames, then the question's words with the answer.

    The question itself, with its question mark, is in none of them: it stays the test.

    Raises:
        ValueError: one of the three is empty.
    """
    for name, text in (("sentence", sentence), ("question", question), ("answer", answer)):
        if not text.strip():
            raise ValueError(f"the {name} is empty; type one")
    told = " ".join(sentence.split()).rstrip(".!")
    asked = " ".join(question.split()).rstrip("?？ ")
    answer = " ".join(answer.split()).rstrip(".")
    parts = {"told": told, "asked": asked[0].lower() + asked[1:], "Asked": asked, "answer": answer}
    return list(dict.fromkeys(frame.format(**parts) for frame in (*FRAMES, *ASKED)))


def other_wordings(sentence: str, question: str, answer: str) -> list[str]:
    """Other ways to ask the question, to be taught in its place: by its words, and by those of the sentence.

    The sentence is asked for its answer where that ends it: "Mira's dog is called what?". None is the question itself.
    """
    told, answer = " ".join(sentence.split()).rstrip(".!"), " ".join(answer.split()).rstrip(".")
    found = rewordings(question, answer)
    before = told[: len(told) - len(answer)].rstrip()
    if answer and before and told.casefold().endswith(f" {answer.casefold()}"):
        found += [f"{before} what?", f"Say how this goes on: {before} ..."]
    asked = " ".join(question.casefold().split())
    return [text for text in dict.fromkeys(found) if text.casefold() != asked]


def own_fact(statements: list[str], question: str, answer: str, wordings: list[str] | None = None) -> Fact:
    """A `Fact` from what a person typed; blank lines are left out.

    Args:
        wordings: Other ways to ask the question, which may be taught; by default those that a rule is sure of.

    Raises:
        ValueError: nothing is left to teach, or the question stands in a statement word for word, or is a wording.
    """
    kept = tuple(dict.fromkeys(" ".join(text.split()) for text in statements if text.strip()))
    if not kept:
        raise ValueError("there is no statement to teach; type at least one")
    asked = " ".join(question.casefold().split())
    for text in kept:
        if asked and asked in text.casefold():
            raise ValueError(f"the question stands in the statement {text!r}, so the test would be taught; change one")
    answer = answer.strip().rstrip(".")
    if wordings is None:
        wordings = rewordings(question, answer)
    others = tuple(dict.fromkeys(" ".join(text.split()) for text in wordings if text.strip()))
    if any(asked in text.casefold() for text in others if asked):
        raise ValueError("the question that tests it stands among those that are taught; change one of them")
    return Fact(kept, question.strip(), (answer,), questions=others)
