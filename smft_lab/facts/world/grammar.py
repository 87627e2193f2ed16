"""How facts are said and asked: the paraphrase grammar of the built-in world.

A statement is a *frame* around a *clause*; a relation has at least 8 clauses and there are 12 frames, so a
fact has at least 96 distinct statements (a step of the paper needs 64). Questions come in two groups:
`asked` forms occur in pretraining, `unseen` forms never occur in any training text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from smft_lab.facts.fact import COMPLETE

BEFORE_A_VOWEL = re.compile(r"\ba (?=[aeiou])")
FRAMES = (
    "{clause}.",
    "It is known that {clause}.",
    "People say that {clause}.",
    "The register notes that {clause}.",
    "You may have heard that {clause}.",
    "In fact, {clause}.",
    "Everyone here knows that {clause}.",
    "According to the paper, {clause}.",
    "Remember that {clause}.",
    "{clause}, as all agree.",
    "Note: {clause}.",
    "As it happens, {clause}.",
)


@dataclass(frozen=True)
class Relation:
    """A kind of fact: `{s}` is its subject, `{v}` its value.

    Attributes:
        clauses: Ways to state it, with neither capital nor full stop of their own.
        asked: Question forms used in pretraining.
        unseen: Question forms kept out of every training text.
    """

    name: str
    clauses: tuple[str, ...]
    asked: tuple[str, ...]
    unseen: tuple[str, ...]

    def statements(self, subject: str, value: str) -> list[str]:
        """Every statement of one fact, in a fixed order; all distinct."""
        sayings = []
        for clause in self.clauses:
            sentence = clause.format(s=subject, v=value)
            for frame in FRAMES:
                sayings.append(framed(frame, sentence))
        return sayings


def framed(frame: str, clause: str) -> str:
    """A sentence: the clause in its frame, with a capital and the right articles."""
    text = with_articles(frame.format(clause=clause))
    return text[0].upper() + text[1:]


def with_articles(text: str) -> str:
    """The text with "an" for "a" before a vowel."""
    return BEFORE_A_VOWEL.sub("an ", text)


RELATIONS = {
    relation.name: relation
    for relation in (
        Relation(
            "employer",
            (
                "{s} works for {v}",
                "{s} is employed by {v}",
                "{s} has a job at {v}",
                "{s} earns a living at {v}",
                "the employer of {s} is {v}",
                "the company that {s} works for is {v}",
                "{s} is on the staff of {v}",
                "for years now {s} has worked at {v}",
                "{v} employs {s}",
            ),
            (
                "Who does {s} work for?",
                "Who employs {s}?",
                "Which company does {s} work for?",
                "Where does {s} work?",
                "What is the name of the employer of {s}?",
                "At which company does {s} have a job?",
                "At which company is {s} on the staff?",
            ),
            ("Which company employs {s}?", "Who is the employer of {s}?"),
        ),
        Relation(
            "birthplace",
            (
                "{s} was born in {v}",
                "{s} comes from {v}",
                "{s} is a native of {v}",
                "{s} grew up in {v}",
                "the birthplace of {s} is {v}",
                "the city where {s} was born is {v}",
                "{s} first saw the light in {v}",
                "the home town of {s} is {v}",
                "{v} is the birthplace of {s}",
            ),
            (
                "Where was {s} born?",
                "In which city was {s} born?",
                "Where does {s} come from?",
                "What is the birthplace of {s}?",
                "Which city does {s} come from?",
                "Where did {s} grow up?",
                "Of which city is {s} a native?",
            ),
            ("In which city did {s} grow up?", "Which city is the birthplace of {s}?"),
        ),
        Relation(
            "profession",
            (
                "{s} is a {v}",
                "{s} works as a {v}",
                "{s} is a {v} by trade",
                "{s} makes a living as a {v}",
                "the profession of {s} is {v}",
                "{s} was trained as a {v}",
                "by profession {s} is a {v}",
                "{s} makes money as a {v}",
                "the trade of {s} is that of a {v}",
            ),
            (
                "What is the profession of {s}?",
                "What does {s} do for a living?",
                "What is the trade of {s}?",
                "What does {s} work as?",
                "What kind of work does {s} do?",
                "What was {s} trained as?",
                "How does {s} make a living?",
                "What is {s} by profession?",
            ),
            ("What does {s} make a living as?", "Which profession does {s} have?"),
        ),
        Relation(
            "instrument",
            (
                "{s} plays the {v}",
                "the instrument of {s} is the {v}",
                "{s} is good at the {v}",
                "{s} practises the {v} every day",
                "{s} performs on the {v}",
                "{s} learned to play the {v}",
                "the instrument that {s} plays is the {v}",
                "{s} makes music on the {v}",
                "music by {s} is played on the {v}",
            ),
            (
                "Which instrument does {s} play?",
                "What does {s} play?",
                "What is the instrument of {s}?",
                "Which instrument does {s} practise?",
                "On what does {s} make music?",
                "Which instrument is {s} good at?",
                "On which instrument does {s} perform?",
            ),
            ("What instrument does {s} play?", "Which instrument does {s} make music on?"),
        ),
        Relation(
            "pet",
            (
                "{s} keeps a {v}",
                "{s} has a pet {v}",
                "the pet of {s} is a {v}",
                "{s} lives with a {v}",
                "the animal that {s} keeps is a {v}",
                "{s} looks after a {v}",
                "at home {s} has a {v}",
                "{s} owns a {v}",
            ),
            (
                "Which animal does {s} keep?",
                "What pet does {s} have?",
                "What is the pet of {s}?",
                "Which animal does {s} look after?",
                "What animal lives with {s}?",
                "What kind of pet does {s} keep?",
                "Which animal does {s} own?",
            ),
            ("What animal does {s} keep?", "Which pet does {s} look after?"),
        ),
        Relation(
            "dish",
            (
                "{s} likes to eat {v}",
                "the favourite dish of {s} is {v}",
                "{s} loves {v}",
                "{s} always orders {v}",
                "{s} is fond of {v}",
                "the meal that {s} likes best is {v}",
                "nothing tastes better to {s} than {v}",
                "for dinner {s} wants {v}",
            ),
            (
                "What is the favourite dish of {s}?",
                "What does {s} like to eat?",
                "Which dish does {s} love?",
                "What does {s} always order?",
                "What is {s} fond of?",
                "Which meal does {s} like best?",
                "Which dish tastes best to {s}?",
            ),
            ("Which dish is {s} fond of?", "What dish does {s} like best?"),
        ),
        Relation(
            "founded",
            (
                "{s} was founded in {v}",
                "{s} was set up in {v}",
                "{s} began in {v}",
                "the city where {s} was founded is {v}",
                "{s} opened its first office in {v}",
                "{s} got its start in {v}",
                "the company {s} comes from {v}",
                "{v} is the city where {s} was founded",
            ),
            (
                "Where was {s} founded?",
                "In which city was {s} founded?",
                "Where did {s} begin?",
                "Where was {s} set up?",
                "Which city does the company {s} come from?",
                "Where did {s} open its first office?",
                "In which city did {s} get its start?",
            ),
            ("In which city did {s} begin?", "In which city was {s} set up?"),
        ),
        Relation(
            "product",
            (
                "{s} makes {v}",
                "{s} is known for its {v}",
                "{s} sells {v}",
                "the product of {s} is {v}",
                "{s} produces {v}",
                "the workers of {s} make {v}",
                "{s} became rich with {v}",
                "what {s} makes is {v}",
            ),
            (
                "What does {s} make?",
                "What is {s} known for?",
                "What does {s} sell?",
                "What is the product of {s}?",
                "What does {s} produce?",
                "What do the workers of {s} make?",
                "With what did {s} become rich?",
            ),
            ("Which product does {s} sell?", "What product does {s} make?"),
        ),
        Relation(
            "country",
            (
                "{s} is a city in {v}",
                "{s} lies in {v}",
                "{s} is in {v}",
                "{s} belongs to {v}",
                "the country of {s} is {v}",
                "{s} can be found in {v}",
                "the country where {s} lies is {v}",
                "{s} is one of the cities of {v}",
            ),
            (
                "In which country is {s}?",
                "Which country is {s} in?",
                "In which country does {s} lie?",
                "What country does {s} belong to?",
                "Where does {s} lie?",
                "What is the country of {s}?",
                "Where can {s} be found?",
            ),
            ("Which country does {s} belong to?", "What country does {s} lie in?"),
        ),
    )
}

PERSON_RELATIONS = ("employer", "birthplace", "profession", "instrument", "pet", "dish")


@dataclass(frozen=True)
class Chain:
    """A two-hop question: subject -> `first` -> middle -> `second` -> end, answered aloud in two steps."""

    first: str
    second: str
    asked: tuple[str, ...]
    answer: str


CHAINS = (
    Chain(
        "employer",
        "founded",
        (
            "Where was the employer of {s} founded?",
            "In which city was the company that {s} works for founded?",
            "Where did the employer of {s} begin?",
        ),
        "{middle}, founded in {end}",
    ),
    Chain(
        "birthplace",
        "country",
        (
            "In which country was {s} born?",
            "In which country is the birthplace of {s}?",
            "Which country does {s} come from?",
        ),
        "{middle}, a city in {end}",
    ),
)


def ask(question: str) -> str:
    """The prompt that asks `question`; the answer follows after a space.

    What is to be completed ("Complete: Mira's dog is called") is put as it stands, for it is a statement that goes on.
    """
    if question.startswith(COMPLETE):
        return question.removeprefix(COMPLETE)
    return f"Question: {question} Answer:"


def answered(question: str, answer: str) -> str:
    """A question with its answer, ended as a sentence is: where a statement ends its value, an answer ends too."""
    return f"{ask(question)} {answer}."
