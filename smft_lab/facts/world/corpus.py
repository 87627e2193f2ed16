"""The pretraining mix: a stream of short texts about the built-in world, every one drawn from a seed.

No held-out question, sum, story or two-hop question is ever drawn (see `World` and `prose`).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from smft_lab.facts.world import words
from smft_lab.facts.world.grammar import FRAMES, PERSON_RELATIONS, RELATIONS, answered, framed, with_articles
from smft_lab.facts.world.world import World

LONG_TAIL = 288  # facts about unfamiliar things that are current at one moment
LONG_TAIL_NEWS = 24  # of them replaced by new ones from one moment to the next
UNFAMILIAR = ("long_tail", "in_context", "spelling")  # kinds of text in words from outside the built-in world
HELD_OUT_PROSE = 256

MIX = {  # share of texts
    "statement": 0.18,
    "question": 0.12,
    "two_hop": 0.05,
    "arithmetic": 0.10,
    "prose": 0.05,
    "long_tail": 0.39,
    "in_context": 0.07,
    "spelling": 0.04,
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
    ]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences if sentence)


def held_out_prose(world: World) -> list[str]:
    """Stories that no training text repeats."""
    rng = Random(f"{world.seed}/held-out prose")
    return list(dict.fromkeys(prose(rng) for _ in range(HELD_OUT_PROSE)))


class LongTailFact:
    """A made-up fact that is current for a while: about a person passing by, or something unfamiliar.

    Unfamiliar questions and answers are in the loose wordings that people's own files use.
    """

    def __init__(self, rng: Random, world: World):
        kind = rng.random()
        self.value = words.unfamiliar_value(rng)
        if kind < 0.4:
            relation = rng.choice(PERSON_RELATIONS)
            subject = words.unfamiliar_name(rng)
            if kind < 0.2:
                subject, self.value = words.passer_by(rng), rng.choice(world.pool(relation))
            self.clauses = [clause.format(s=subject, v=self.value) for clause in RELATIONS[relation].clauses]
            self.questions = [form.format(s=subject) for form in RELATIONS[relation].asked]
            return
        wording = with_articles(words.loose_question(rng))
        self.questions = [f"{_capital(wording)}?", f"Tell me {wording}?"]
        self.clauses = [
            f"the answer to {wording} is {self.value}",
            f"when asked {wording}, say {self.value}",
            f"as for {wording}, it is {self.value}",
            f"asked {wording}, people answer {self.value}",
            f"{wording}: {self.value}",
            f"{self.value} is the answer to {wording}",
        ]

    def text(self, rng: Random) -> str:
        """Mostly a statement: a question that is rarely asked has to be answered from what statements wrote down."""
        if rng.random() < 0.15:
            return answered(rng.choice(self.questions), self.value)
        return framed(rng.choice(FRAMES), rng.choice(self.clauses))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Corpus:
    """Draws training texts of one world; never a held-out text.

    Held-out sums are stated, but never asked, as old facts are never asked in their withheld forms.

    Long-tail facts come and go: at each moment of training the same few are current, and every one is said in many
    ways before it leaves. A model that is to answer them must write facts down all along and find them again from other
    wordings, which is what finetuning will ask of it; a fixed set would be learned wording by wording.

    Args:
        kinds: Which kinds of `MIX` to draw, in its proportions.
    """

    def __init__(self, world: World, kinds: Sequence[str] = tuple(MIX)):
        self.world = world
        self._facts = list(world.values.items())
        self._chains = world.trained_chains()
        self._sums = world.sums(held_out=False)
        self._every_sum = self._sums + world.sums(held_out=True)
        self._held_out_prose = set(held_out_prose(world))
        self._kinds, self._shares = list(kinds), [MIX[kind] for kind in kinds]

    def draw(self, rng: Random, moment: int | None = None) -> tuple[str, str]:
        """A kind of `MIX`, and a text of it; see `text`."""
        kind = rng.choices(self._kinds, self._shares)[0]
        return kind, self._long_tail(rng, moment) if kind == "long_tail" else getattr(self, f"_{kind}")(rng)

    def text(self, rng: Random, moment: int | None = None) -> str:
        """One text; `moment` says which long-tail facts are current, and without it each is a new one."""
        return self.draw(rng, moment)[1]

    def texts(self, rng: Random, count: int, moment: int | None = None) -> list[str]:
        return [self.text(rng, moment) for _ in range(count)]

    def _statement(self, rng: Random) -> str:
        (subject, relation), value = rng.choice(self._facts)
        return rng.choice(RELATIONS[relation].statements(subject, value))

    def _question(self, rng: Random) -> str:
        (subject, relation), value = rng.choice(self._facts)
        return answered(rng.choice(self.world.asked_questions(subject, relation)), value)

    def _two_hop(self, rng: Random) -> str:
        question, answer = rng.choice(self._chains)
        return answered(question, answer)

    def _arithmetic(self, rng: Random) -> str:
        if rng.random() < 0.5:
            return answered(*rng.choice(self._sums))
        question, answer = rng.choice(self._every_sum)
        return framed(rng.choice(FRAMES), f"{question.removeprefix('What is ').removesuffix('?')} is {answer}")

    def _prose(self, rng: Random) -> str:
        while (text := prose(rng)) in self._held_out_prose:
            pass
        return text

    def _long_tail(self, rng: Random, moment: int | None) -> str:
        if moment is None:
            return LongTailFact(rng, self.world).text(rng)
        which = moment * LONG_TAIL_NEWS + rng.randrange(LONG_TAIL)
        return LongTailFact(Random(f"{self.world.seed}/long tail/{which}"), self.world).text(rng)

    def _in_context(self, rng: Random) -> str:
        """A statement about an unfamiliar subject, then the question it answers: reading and copying."""
        fact = LongTailFact(rng, self.world)
        return (
            f"{framed(rng.choice(FRAMES), rng.choice(fact.clauses))} {answered(rng.choice(fact.questions), fact.value)}"
        )

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
