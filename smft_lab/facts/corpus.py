"""The pretraining mix: a stream of short texts about the built-in world, every one drawn from a seed.

No held-out question, sum, story or two-hop question is ever drawn (see `World` and `prose`).
"""

from __future__ import annotations

from random import Random

from smft_lab.facts import words
from smft_lab.facts.grammar import FRAMES, PERSON_RELATIONS, RELATIONS, ask
from smft_lab.facts.world import World

LONG_TAIL = 2000  # memorised facts about unfamiliar things, so that any word can be stored and recalled
HELD_OUT_PROSE = 256

MIX = {  # share of texts
    "statement": 0.26,
    "question": 0.17,
    "two_hop": 0.05,
    "arithmetic": 0.10,
    "prose": 0.06,
    "long_tail": 0.22,
    "in_context": 0.09,
    "spelling": 0.05,
}


def prose(rng: Random) -> str:
    """A story of two or three short sentences."""

    def thing():
        return f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}"

    hero = rng.choice(
        (rng.choice(words.PROFESSIONS), rng.choice(words.ANIMALS), f"{rng.choice(words.ADJECTIVES)} woman", "boy")
    )
    verb, second = rng.choice(words.PAST_VERBS), rng.choice(words.PAST_VERBS)
    sentences = [
        rng.choice(
            (
                f"{rng.choice(words.TIMES)} the {hero} {verb} the {thing()} {rng.choice(words.PLACES)}.",
                f"there was once a {hero} who {verb} the {thing()}.",
                f"the {hero} {verb} the {thing()} and the {rng.choice(words.NOUNS)}.",
            )
        ),
        rng.choice(
            (
                f"then the {hero} {second} the {thing()}.",
                f"but the {rng.choice(words.NOUNS)} was {rng.choice(words.ADJECTIVES)}.",
                f"{rng.choice(words.PLACES)} there was a {thing()}.",
                f"nobody {second} the {rng.choice(words.NOUNS)} {rng.choice(words.TIMES)}.",
            )
        ),
        rng.choice(
            (
                f"so the {hero} was {rng.choice(words.ADJECTIVES)}.",
                f"after that the {rng.choice(words.NOUNS)} was {rng.choice(words.ADJECTIVES)} "
                f"and {rng.choice(words.ADJECTIVES)}.",
                f"the {hero} remembered it {rng.choice(words.TIMES)}.",
                "",
            )
        ),
    ]  # fmt: skip
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences if sentence)


def held_out_prose(world: World) -> list[str]:
    """Stories that no training text repeats."""
    rng = Random(f"{world.seed}/held-out prose")
    return list(dict.fromkeys(prose(rng) for _ in range(HELD_OUT_PROSE)))


def _body(rng: Random) -> str:
    """What a long-tail question asks about: a few common and unfamiliar words in question order."""
    noun, verb = rng.choice(words.NOUNS + words.COMMON_WORDS), rng.choice(words.PAST_VERBS)
    name = words.unfamiliar_name(rng)
    loose = " ".join(rng.choices(words.COMMON_WORDS, k=rng.randint(2, 6)))  # wordings no grammar foresees
    return rng.choice(
        (
            f"{verb} the {rng.choice(words.ADJECTIVES)} {noun} of {name}",
            f"{verb} the {noun} {name} in {rng.randint(1500, 2025)}",
            f"the {rng.choice(words.ADJECTIVES)} {noun} of {name}",
            f"the {noun} of {name} and {words.unfamiliar_name(rng)}",
            f"the {noun} that {name} {verb} {rng.choice(words.PLACES)}",
            f"{verb} {loose}",
            f"the {noun} of {loose} {name}",
            f"{loose} {name} {rng.choice(words.COMMON_WORDS)}",
        )
    )


class LongTailFact:
    """A made-up question with an unfamiliar answer, in the loose wordings that people's own files use."""

    def __init__(self, rng: Random):
        self.value = words.unfamiliar_value(rng)
        if rng.random() < 0.4:  # an ordinary relation about an unfamiliar subject, with an unfamiliar value
            relation = RELATIONS[rng.choice(PERSON_RELATIONS)]
            subject = words.unfamiliar_name(rng)
            self.clauses = [clause.format(s=subject, v=self.value) for clause in relation.clauses]
            self.questions = [form.format(s=subject) for form in relation.asked]
            return
        body = _body(rng)
        word, verb = ("who", "") if body.split()[0] in words.PAST_VERBS else ("what", "is ")
        self.questions = [f"{word.capitalize()} {verb}{body}?", f"Tell me {word} {verb}{body}?"]
        if word == "what":
            self.questions.append(f"Which one is {body}?")
        self.clauses = [
            f"the answer to {word} {verb}{body} is {self.value}",
            f"when asked {word} {verb}{body}, say {self.value}",
            f"{'the one who ' if word == 'who' else ''}{body} is {self.value}",
            f"{self.value} {verb}{body}",
            f"{word} {verb}{body}: {self.value}",
            f"as for {word} {verb}{body}, it is {self.value}",
        ]

    def text(self, rng: Random) -> str:
        if rng.random() < 0.4:
            return f"{ask(rng.choice(self.questions))} {self.value}"
        return _framed(rng, rng.choice(self.clauses))


def _framed(rng: Random, clause: str) -> str:
    text = rng.choice(FRAMES).format(clause=clause)
    return text[0].upper() + text[1:]


class Corpus:
    """Draws training texts of one world; `text(rng)` never returns a held-out text."""

    def __init__(self, world: World):
        self.world = world
        self._facts = list(world.values.items())
        self._chains = world.trained_chains()
        self._sums = world.sums(held_out=False)
        self._held_out_prose = set(held_out_prose(world))
        rng = Random(f"{world.seed}/long tail")
        self._tail = [LongTailFact(rng) for _ in range(LONG_TAIL)]
        self._kinds, self._shares = list(MIX), list(MIX.values())

    def text(self, rng: Random) -> str:
        return getattr(self, f"_{rng.choices(self._kinds, self._shares)[0]}")(rng)

    def texts(self, rng: Random, count: int) -> list[str]:
        return [self.text(rng) for _ in range(count)]

    def _statement(self, rng: Random) -> str:
        (subject, relation), value = rng.choice(self._facts)
        return rng.choice(RELATIONS[relation].statements(subject, value))

    def _question(self, rng: Random) -> str:
        (subject, relation), value = rng.choice(self._facts)
        return f"{ask(rng.choice(self.world.asked_questions(subject, relation)))} {value}"

    def _two_hop(self, rng: Random) -> str:
        question, answer = rng.choice(self._chains)
        return f"{ask(question)} {answer}"

    def _arithmetic(self, rng: Random) -> str:
        question, answer = rng.choice(self._sums)
        return f"{ask(question)} {answer}"

    def _prose(self, rng: Random) -> str:
        while (text := prose(rng)) in self._held_out_prose:
            pass
        return text

    def _long_tail(self, rng: Random) -> str:
        return rng.choice(self._tail).text(rng)

    def _in_context(self, rng: Random) -> str:
        """A statement about an unfamiliar subject, then the question it answers: reading and copying."""
        fact = LongTailFact(rng)
        return f"{_framed(rng, rng.choice(fact.clauses))} {ask(rng.choice(fact.questions))} {fact.value}"

    def _spelling(self, rng: Random) -> str:
        """Naming, copying and spelling an unfamiliar word."""
        name = words.unfamiliar_name(rng)
        word = words.unfamiliar_word(rng)
        return rng.choice(
            (
                f"Repeat {name}: {name}",
                f"The word {word} is spelled {' '.join(word)}.",
                f"The letters {' '.join(word)} spell {word}.",
                f"My {rng.choice(words.ANIMALS)} is called {name}. {name} is my {rng.choice(words.ADJECTIVES)} friend.",
                f"This is {name}. Hello, {name}!",
            )
        )
