"""Paraphrases by plain rules, for a person's own sentence: frames around it, and its question with the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from smft_lab.facts.answers import answer_places
from smft_lab.facts.english import DETERMINERS
from smft_lab.facts.fact import COMPLETE, Fact, as_tuple
from smft_lab.facts.files import ENOUGH, _same
from smft_lab.facts.questions import requests, rewordings, statements_from, tidy_question, with_its_words
from smft_lab.recipe import Recipe

FRAMES = (
    "Everyone here knows that {told}.",
    "It is true that {told}.",
    "People say that {told}.",
    "Remember this: {told}.",
    "As I heard it, {told}.",
)
INDIRECT = ("Can you say {}?", "Do you know {}?", "Please say {}.")
AUXILIARIES = {*"is are was were does do did has have had can could will would must should may might".split()}
# Words that may stand right before an answer without being part of it.
SMALL_WORDS = {*"is was are were called named to at in on of by from as for and".split()}


def likely_answer(sentence: str, question: str) -> str:
    """The last words of the sentence that the question does not hold: "Biscuit" for "Mira's dog is called Biscuit"."""
    asked = set(re.findall(r"[\w'’-]+", question.casefold()))
    words: list[str] = []
    for word in reversed(sentence.strip().rstrip(".!?").split()):
        if word.strip(",;:\"'()").casefold() in asked | SMALL_WORDS:
            break
        words.insert(0, word)
    return " ".join(words).strip(",;:\"'()")


def rephrase(sentence: str, question: str, answer: str, how_many: int = 10) -> list[str]:
    """Distinct statements that teach the answer: the sentence, what rules make of the question, the question's words
    with the answer, and frames around the sentence.

    The question itself, with its question mark, is in none of them: it stays the test.

    Raises:
        ValueError: one of the three is empty.
    """
    for name, text in (("sentence", sentence), ("question", question), ("answer", answer)):
        if not text.strip():
            raise ValueError(f"the {name} is empty; type one")
    plain = " ".join(sentence.split()).rstrip(".!")
    asked = with_its_words(question, answer)
    made = [text for text in statements_from(question, answer, how_many) if '"' not in text and text not in asked]
    texts = [f"{plain}.", *made[:5], *asked, *_framed(sentence), *made[5:]]
    return unique(texts)[:how_many]


def with_statements(fact: Fact, how_many: int = 16) -> Fact:
    """A person's own fact with statements by rule behind its own, up to `how_many`, where it has fewer than `ENOUGH`.

    Others are returned as they are. A sentence that is to be completed gets frames around it.
    """
    if not fact.own or len(fact.statements) >= ENOUGH:
        return fact
    sentence = _with_its_answer(fact)
    if fact.question.startswith(COMPLETE):
        made = _framed(sentence)
    else:
        made = rephrase(sentence, fact.question, fact.answer, how_many)
    asked = _same(fact.question)
    safe = [text for text in made if asked not in _same(text)]
    return replace(fact, statements=tuple(unique([*fact.statements, *safe])[: max(how_many, len(fact.statements))]))


def with_wordings(fact: Fact, how_many: int) -> Fact:
    """A person's own fact with other wordings of its question by rule, behind those that it has, up to `how_many`.

    A sentence that is to be completed is no question, and has none.
    """
    if not fact.own or len(fact.questions) >= how_many or fact.question.startswith(COMPLETE):
        return fact
    sentence = _with_its_answer(fact)
    asked = _same(fact.question)
    made = [text for text in other_wordings(sentence, fact.question, fact.answer) if asked not in _same(text)]
    return replace(fact, questions=tuple(unique([*fact.questions, *made])[:how_many]))


def _with_its_answer(fact: Fact) -> str:
    """The first statement of the fact that holds its answer; its first where none does."""
    return next((text for text in fact.statements if answer_places(text, fact.answers)), fact.statements[0])


def in_more_words(facts: Iterable[Fact], recipe: Recipe | None = None) -> list[Fact]:
    """Facts as `run` and `compare` teach them: a person's own with what rules add where it has few words.

    Args:
        recipe: Of the lab. Where it teaches wordings of the question, those are added, and statements only to a fact
            of which rules make too few; without a recipe statements.
    """
    asked = 0 if recipe is None else recipe.questions
    worded = [with_wordings(fact, asked) for fact in facts]
    return [fact if asked and len(fact.questions) >= asked else with_statements(fact) for fact in worded]


def loss_on_own(facts: Sequence[Fact], loss_on: str | None = None) -> str | None:
    """What of a statement is learned where statements are made by rule: a person's own facts by their answers alone,
    unless something is said about the loss. A fact that a small model read in one wording it finds from no question."""
    return "answer" if loss_on is None and any(fact.own for fact in facts) else loss_on


def other_wordings(sentence: str, question: str, answer: str) -> list[str]:
    """Other ways to ask the question, to be taught in its place: by its words, and by those of the sentence.

    The sentence is asked for its answer where that ends it: "Mira's dog is called what?". None is the question itself.
    """
    plain, answer = " ".join(sentence.split()).rstrip(".!"), " ".join(answer.split()).rstrip(".")
    wordings = rewordings(question, answer)
    if (indirect := _indirect(plain, question)) and not any(
        indirect.casefold() in text.casefold() for text in wordings
    ):
        wordings += [frame.format(indirect) for frame in INDIRECT]
    before = plain[: len(plain) - len(answer)].rstrip()
    if answer and before and plain.casefold().endswith(f" {answer.casefold()}"):
        person = re.match("(by )?whom?\\b", question.strip(), re.I)
        if not re.match("(when|where)\\b", question.strip(), re.I):  # "The key is what?" asks for no place
            wordings.append(f"{before} {'who' if person else 'what'}?")
        wordings.append(f"Say how this goes on: {before} ...")
    asked = _same(question)
    return [text for text in unique(wordings) if text.casefold() != asked]


def _indirect(sentence: str, question: str) -> str:
    """The question as a clause, in the order of words that the sentence has: "how much our cat weighs" for "How much
    does our cat weigh?", where the sentence begins with "Our cat weighs". "" where the sentence doesn't tell it."""
    words, told = tidy_question(question).rstrip("?").split(), sentence.split()
    place = next((i for i, word in enumerate(words) if i and word.casefold() in AUXILIARIES), 0)
    if not place:
        return ""
    opening, auxiliary, rest = words[:place], words[place], words[place + 1 :]
    opening[0] = opening[0][:1].lower() + opening[0][1:]
    for end in range(len(rest), 0, -1):
        subject, after = rest[:end], rest[end:]
        if [_same(word) for word in told[:end]] != [_same(word) for word in subject] or len(told) == end:
            continue
        verb = told[end]
        if verb.casefold() == auxiliary.casefold():
            return " ".join([*opening, *subject, verb, *after])
        if after and _inflects(verb.casefold(), after[0].casefold(), auxiliary.casefold()):
            return " ".join([*opening, *subject, verb, *after[1:]])
    return ""


def _inflects(verb: str, plain: str, auxiliary: str) -> bool:
    """Whether `verb` is what the plain form becomes without the auxiliary: "weighs" for "does" and "weigh"."""
    if auxiliary == "do":
        return verb == plain
    if auxiliary == "does":
        return verb in (f"{plain}s", f"{plain}es", f"{plain[:-1]}ies") or (plain, verb) == ("have", "has")
    return auxiliary == "did" and verb != plain and verb[:2] == plain[:2]


def _framed(sentence: str) -> list[str]:
    """A sentence within others."""
    plain = " ".join(sentence.split()).rstrip(".!")
    first, blank, rest = plain.partition(" ")
    small = first.lower() + blank + rest if first.lower() in DETERMINERS else plain
    return [frame.format(told=small) for frame in FRAMES]


def unique(texts: Iterable[str]) -> list[str]:
    """The texts in their order, each once, whatever its capitals."""
    distinct: dict[str, str] = {}
    for text in texts:
        distinct.setdefault(text.casefold(), text)
    return list(distinct.values())


def untaught_wordings(fact: Fact, how_many: int = 4) -> list[str]:
    """Ways to ask a fact that nobody taught: by other words, and the question itself within more ("Tell me: ...?").

    None is the question or among `fact.questions`. The two kinds take turns while there are some of both.
    """
    taught = {_same(text) for text in (*fact.questions, fact.question)}
    others = [text for text in rewordings(fact.question, fact.answer) if text.casefold() not in taught]
    mixed = [text for pair in zip_longest(others, requests(fact.question)) for text in pair if text]
    return mixed[:how_many]


def own_fact(
    statements: Sequence[str] | str, question: str, answer: str, wordings: Sequence[str] | str | None = None
) -> Fact:
    """A `Fact` from what a person typed; blank lines are left out.

    Args:
        statements: What says it; a single text counts as one.
        wordings: Other ways to ask the question, which may be taught; by default those that a rule is sure of.

    Raises:
        ValueError: nothing is left to teach, or the question stands in a statement word for word, or in a wording.

    Examples:
        >>> fact = smft.own_fact(["Mira's dog is called Biscuit."], "What is the name of Mira's dog?", "Biscuit")
        >>> fact.questions[0]
        "What is Mira's dog called?"
    """
    kept = tuple(dict.fromkeys(" ".join(text.split()) for text in as_tuple(statements) if text.strip()))
    if not kept:
        raise ValueError("there is no statement to teach; type at least one")
    asked = _same(question)
    for text in kept:
        if asked and asked in text.casefold():
            raise ValueError(f"the question stands in the statement {text!r}, so the test would be taught; change one")
    answer = answer.strip().rstrip(".")
    if wordings is None:
        wordings = rewordings(question, answer)
    others = tuple(dict.fromkeys(" ".join(text.split()) for text in as_tuple(wordings) if text.strip()))
    for text in others:
        if asked and asked in text.casefold():
            raise ValueError(
                f"the question that tests it stands among those that are taught, in {text!r}; teach other ones"
            )
    return Fact(kept, question.strip(), (answer,), questions=others)
