"""A person's own facts: made from a sentence and a question, and with paraphrases by plain rules where they have few.

Names say what is returned. Statements: `statements_from_sentence` here, `statements_from_question` in `questions`, and
`model_paraphrases` in `paraphraser`. Questions: `question_paraphrases` in `questions`, which may be taught, and
`untaught_questions` here. Facts: `own_fact`, and `with_paraphrases`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from smft_lab.facts.answers import answer_places
from smft_lab.facts.english import DETERMINERS
from smft_lab.facts.fact import COMPLETE, Fact, as_texts
from smft_lab.facts.files import ENOUGH, _same
from smft_lab.facts.questions import (
    distinct,
    one_text,
    question_paraphrases,
    statements_from_question,
    tidy_answer,
    verbatim_statements,
    wrapped_questions,
)
from smft_lab.facts.signs import QUESTION_MARKS, STOPS
from smft_lab.recipe import Recipe

FRAMES = (
    "Everyone here knows that {told}.",
    "It is true that {told}.",
    "People say that {told}.",
    "Remember this: {told}.",
    "As I heard it, {told}.",
)
# Words that may stand right before an answer without being part of it.
SMALL_WORDS = {*"is was are were called named to at in on of by from as for and".split()}


def likely_answer(sentence: str, question: str) -> str:
    """The last words of the sentence that the question does not hold: "Biscuit" for "Mira's dog is called Biscuit"."""
    sentence, question = one_text("sentence", sentence), one_text("question", question)
    asked = set(re.findall(r"[\w'’-]+", question.casefold()))
    words: list[str] = []
    for word in reversed(sentence.strip().rstrip("!" + QUESTION_MARKS + STOPS).split()):
        if word.strip(",;:\"'()").casefold() in asked | SMALL_WORDS:
            break
        words.insert(0, word)
    return " ".join(words).strip(",;:\"'()")


def statements_from_sentence(sentence: str, question: str, answer: str, how_many: int = 10) -> list[str]:
    """Distinct statements that teach the answer: the sentence, what rules make of the question, the question's words
    with the answer, and frames around the sentence.

    The question itself, with its question mark, is in none of them: it stays the test.

    Raises:
        ValueError: one of the three is empty or no text.
    """
    sentence, question = one_text("sentence", sentence), one_text("question", question)
    answer = one_text("answer", answer)
    for name, text in (("sentence", sentence), ("question", question), ("answer", answer)):
        if not text.strip():
            raise ValueError(f"the {name} is empty; type one")
    plain = " ".join(sentence.split()).rstrip(".!")
    ended = plain if plain.endswith((*STOPS,)) else f"{plain}."
    asked = verbatim_statements(question, answer)
    made = statements_from_question(question, answer, how_many)
    made = [text for text in made if '"' not in text and text not in asked]
    texts = [ended, *made[:5], *asked, *_framed(sentence), *made[5:]]
    return distinct(texts)[:how_many]


def _with_more_statements(fact: Fact, how_many: int = 16) -> Fact:
    """A person's own fact with statements by rule behind its own, up to `how_many`, where it has fewer than `ENOUGH`.

    Others are returned as they are. A sentence that is to be completed gets frames around it.
    """
    if not fact.own or len(fact.statements) >= ENOUGH:
        return fact
    sentence = _with_its_answer(fact)
    if fact.question.startswith(COMPLETE):
        made = _framed(sentence)
    else:
        made = statements_from_sentence(sentence, fact.question, fact.answer, how_many)
    asked = _same(fact.question)
    safe = [text for text in made if asked not in _same(text)]
    return replace(fact, statements=tuple(distinct([*fact.statements, *safe])[: max(how_many, len(fact.statements))]))


def _with_more_questions(fact: Fact, how_many: int) -> Fact:
    """A person's own fact with paraphrases of its question by rule, behind those that it has, up to `how_many`.

    A sentence that is to be completed is no question, and has none.
    """
    if not fact.own or len(fact.questions) >= how_many or fact.question.startswith(COMPLETE):
        return fact
    sentence = _with_its_answer(fact)
    asked = _same(fact.question)
    made = [text for text in question_paraphrases(fact.question, fact.answer, sentence) if asked not in _same(text)]
    return replace(fact, questions=tuple(distinct([*fact.questions, *made])[:how_many]))


def _with_its_answer(fact: Fact) -> str:
    """The first statement of the fact that holds its answer; its first where none does."""
    return next((text for text in fact.statements if answer_places(text, fact.answers)), fact.statements[0])


def with_paraphrases(facts: Iterable[Fact], recipe: Recipe | None = None) -> list[Fact]:
    """Facts as `run` and `compare` teach them: a person's own with what rules add where it has few words.

    Args:
        recipe: Of the lab. Where it teaches paraphrases of the question, those are added, and statements only to a fact
            of which rules make too few; without a recipe statements.
    """
    asked = 0 if recipe is None else recipe.questions
    more = [_with_more_questions(fact, asked) for fact in facts]
    return [fact if asked and len(fact.questions) >= asked else _with_more_statements(fact) for fact in more]


def loss_on_own(facts: Sequence[Fact], loss_on: str | None = None) -> str | None:
    """What of a statement is learned where statements are made by rule: a person's own facts by their answers alone,
    unless something is said about the loss. A fact that a small model read in one wording it finds from no question."""
    return "answer" if loss_on is None and any(fact.own for fact in facts) else loss_on


def _framed(sentence: str) -> list[str]:
    """A sentence within others."""
    plain = " ".join(sentence.split()).rstrip("!" + STOPS)
    first, blank, rest = plain.partition(" ")
    small = first.lower() + blank + rest if first.lower() in DETERMINERS else plain
    return [frame.format(told=small) for frame in FRAMES]


def untaught_questions(fact: Fact, how_many: int = 4) -> list[str]:
    """Ways to ask a fact that nobody taught: by other words, and the question itself within more ("Tell me: ...?").

    None is the question or among `fact.questions`. The two kinds take turns while there are some of both.
    """
    taught = {_same(text) for text in (*fact.questions, fact.question)}
    others = [text for text in question_paraphrases(fact.question, fact.answer) if text.casefold() not in taught]
    mixed = [text for pair in zip_longest(others, wrapped_questions(fact.question)) for text in pair if text]
    return mixed[:how_many]


def _texts(name: str, value: Sequence[str] | str) -> tuple[str, ...]:
    """The texts that a person typed, each once and without blank ones."""
    several = as_texts(value, f"the {name}")
    return tuple(dict.fromkeys(" ".join(text.split()) for text in several if text.strip()))


def own_fact(
    statements: Sequence[str] | str,
    question: str,
    answer: Sequence[str] | str,
    wordings: Sequence[str] | str | None = None,
) -> Fact:
    """A `Fact` from what a person typed; blank lines are left out.

    Args:
        statements: What says it; a single text counts as one.
        answer: One text, which is taught; where others are right, too, make a `Fact`, which takes several.
        wordings: Other ways to ask the question, which may be taught; by default those that a rule is sure of.

    Raises:
        ValueError: what should be a text is none, nothing is left to teach, or the question stands in a statement word
            for word, or in a wording.

    Examples:
        >>> fact = smft.own_fact(["Mira's dog is called Biscuit."], "What is the name of Mira's dog?", "Biscuit")
        >>> fact.questions[0]
        "What is Mira's dog called?"
    """
    question, answer = one_text("question", question), one_text("answer", answer)
    distinct = _texts("statements", statements)
    if not distinct:
        raise ValueError("there is no statement to teach; type at least one")
    asked = _same(question)
    for text in distinct:
        if asked and asked in text.casefold():
            raise ValueError(f"the question stands in the statement {text!r}, so the test would be taught; change one")
    answer = tidy_answer(answer)
    if wordings is None:
        wordings = question_paraphrases(question, answer)
    others = _texts("wordings", wordings)
    for text in others:
        if asked and asked in text.casefold():
            raise ValueError(
                f"the question that tests it stands among those that are taught, in {text!r}; teach other ones"
            )
    return Fact(distinct, question.strip(), (answer,), questions=others)
