"""The built-in world: fictional people, companies and cities, everything from one seed.

What the model knows before anyone teaches it (*old* facts), what it can be taught (*new* facts about people
it has never met, and *changed* facts), and the held-out questions that show what it forgot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

from smft_lab.facts.fact import Fact
from smft_lab.facts.world import words
from smft_lab.facts.world.grammar import CHAINS, PERSON_RELATIONS, RELATIONS
from smft_lab.ranges import check_counts

STATEMENTS_PER_FACT = 64  # one batch of the paper (section 4.1)
FACTS_PER_PASSAGE = 3
PEOPLE, COMPANIES, CITIES, COUNTRIES = 320, 48, 48, 12
WITHHELD = 2  # question forms of each old fact that are kept out of training
HELD_OUT_CHAINS = 0.25  # share of people whose two-hop questions are kept out of training
HELD_OUT_SUMS = 0.10  # share of sums that training never asks
LARGEST_NUMBER = 20


class World:
    """The built-in world of one seed.

    Args:
        scale: Its size, 1 for the one that the shipped model knows; there are names for 380 companies and 432 cities.

    Attributes:
        people, companies, cities, countries: Names, in a fixed order.
        values: `(subject, relation) -> value`, every old fact.

    Examples:
        >>> world = smft.World(seed=0)
        >>> world.new_facts(1)[0].question
        'Which company employs Belus Wingate?'
    """

    def __init__(self, seed: int = 0, scale: float = 1.0):
        self.seed, self.scale = seed, scale
        people, companies, cities, countries = (
            max(2, round(scale * count)) for count in (PEOPLE, COMPANIES, CITIES, COUNTRIES)
        )
        self.countries = words.make_countries(self._rng("countries"), countries)
        self.cities = words.make_cities(self._rng("cities"), cities)
        self.companies = words.make_companies(self._rng("companies"), companies)
        self.people = words.make_people(self._rng("people"), people)
        self._pools = {
            "employer": self.companies,
            "birthplace": self.cities,
            "profession": words.PROFESSIONS,
            "instrument": words.INSTRUMENTS,
            "pet": words.ANIMALS,
            "dish": words.DISHES,
            "founded": self.cities,
            "product": words.PRODUCTS,
            "country": self.countries,
        }
        rng = self._rng("values")
        kinds = [(person, PERSON_RELATIONS) for person in self.people]
        kinds += [(company, ("founded", "product")) for company in self.companies]
        kinds += [(city, ("country",)) for city in self.cities]
        self.values = {
            (subject, relation): rng.choice(self._pools[relation])
            for subject, relations in kinds
            for relation in relations
        }

    def pool(self, relation: str) -> Sequence[str]:
        """The values that a relation may have."""
        return self._pools[relation]

    def _rng(self, purpose: str) -> Random:
        return Random(f"{self.seed}/{purpose}")

    def _fact(self, subject: str, relation: str, value: str, question: str, rng: Random) -> Fact:
        every = RELATIONS[relation].statements(subject, value)
        statements = tuple(rng.sample(every, STATEMENTS_PER_FACT))
        return Fact(statements, question, (value,), subject, relation, self._may_teach(subject, relation))

    def _may_teach(self, subject: str, relation: str) -> tuple[str, ...]:
        """The wordings of a fact's question that may be taught: none that a probe of the world asks."""
        if (subject, relation) in self.values:
            return tuple(self.asked_questions(subject, relation))
        return tuple(form.format(s=subject) for form in RELATIONS[relation].asked)

    def withheld_questions(self, subject: str, relation: str) -> tuple[str, ...]:
        """The question forms of one old fact that no training text contains, though others of the relation do."""
        rng = self._rng(f"withheld/{subject}/{relation}")
        return tuple(form.format(s=subject) for form in rng.sample(RELATIONS[relation].asked, WITHHELD))

    def asked_questions(self, subject: str, relation: str) -> list[str]:
        """The question forms of one old fact that pretraining may use."""
        withheld = self.withheld_questions(subject, relation)
        every = (form.format(s=subject) for form in RELATIONS[relation].asked)
        return [question for question in every if question not in withheld]

    def old_facts(self) -> list[Fact]:
        """Every fact of the world, each with a question form never used in training for that subject."""
        rng = self._rng("old facts")
        return [
            self._fact(subject, relation, value, self.withheld_questions(subject, relation)[0], rng)
            for (subject, relation), value in self.values.items()
        ]

    def unseen_questions(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every old fact asked in a form that no training text contains, with its accepted answers."""
        rng = self._rng("unseen questions")
        return [
            (rng.choice(RELATIONS[relation].unseen).format(s=subject), (value,))
            for (subject, relation), value in self.values.items()
        ]

    def new_facts(self, count: int, seed: int = 0) -> list[Fact]:
        """`count` facts about people the model has never met, one each, relations in turn.

        The question is of a form that occurs in no training text at all.

        Raises:
            ValueError: `count` is below 1.
        """
        check_counts(count=count)
        rng = self._rng(f"new/{seed}")
        facts = []
        for i, person in enumerate(words.make_people(rng, count, taken=set(self.people))):
            relation = PERSON_RELATIONS[i % len(PERSON_RELATIONS)]
            question = rng.choice(RELATIONS[relation].unseen).format(s=person)
            facts.append(self._fact(person, relation, rng.choice(self._pools[relation]), question, rng))
        return facts

    def passages(self, count: int, seed: int = 0) -> list[Fact]:
        """`count` passages of three facts each, about people the model has never met (paper section 4.2).

        Their statements are rewritings of the whole passage, other wordings in another order; the question asks for one
        of the three facts, in a form that occurs in no training text.

        Raises:
            ValueError: `count` is below 1.
        """
        check_counts(count=count)
        rng = self._rng(f"passages/{seed}")
        facts = []
        for person in words.make_people(rng, count, taken=set(self.people)):
            relations = rng.sample(PERSON_RELATIONS, FACTS_PER_PASSAGE)
            values = [rng.choice(self._pools[relation]) for relation in relations]
            ways = [RELATIONS[name].statements(person, value) for name, value in zip(relations, values, strict=True)]
            texts: dict[str, None] = {}
            while len(texts) < STATEMENTS_PER_FACT:
                texts[" ".join(rng.choice(clauses) for clauses in rng.sample(ways, len(ways)))] = None
            question = rng.choice(RELATIONS[relations[0]].unseen).format(s=person)
            wordings = self._may_teach(person, relations[0])
            facts.append(Fact(tuple(texts), question, (values[0],), person, relations[0], wordings))
        return facts

    def changed_facts(self, count: int, seed: int = 0, hops: bool = False) -> list[Fact]:
        """`count` old facts about people, each with a value other than the one the model knows.

        Args:
            hops: Only facts that are the first hop of a two-hop question, about people for whom training asks none.

        Raises:
            ValueError: `count` is below 1 or above the number of such facts.
        """
        known = [key for key in self.values if key[1] in PERSON_RELATIONS]
        if hops:
            people, first = self._held_out_chain_people(), {chain.first for chain in CHAINS}
            known = [(person, relation) for person, relation in known if person in people and relation in first]
        if not 1 <= count <= len(known):
            raise ValueError(f"count must be between 1 and {len(known)}, not {count}")
        rng = self._rng(f"changed/{seed}")
        facts = []
        for subject, relation in rng.sample(known, count):
            others = [value for value in self._pools[relation] if value != self.values[subject, relation]]
            question = self.withheld_questions(subject, relation)[0]
            facts.append(self._fact(subject, relation, rng.choice(others), question, rng))
        return facts

    def chains_from(self, facts: Sequence[Fact]) -> list[Fact]:
        """The two-hop questions whose first hop is one of `facts`, answered as those say."""
        return [
            Fact(
                (chain.answer,),
                chain.asked[0].format(s=fact.subject),
                (self.chain_answer(fact.subject, chain, fact.answer),),
                fact.subject,
                f"{chain.first}-{chain.second}",
            )
            for fact in facts
            for chain in CHAINS
            if chain.first == fact.relation
        ]

    def chain_answer(self, person: str, chain, middle: str | None = None) -> str:
        """The answer to a two-hop question, over the old middle or another one."""
        middle = self.values[person, chain.first] if middle is None else middle
        return chain.answer.format(middle=middle, end=self.values[middle, chain.second])

    def held_out_chains(self) -> list[Fact]:
        """Two-hop questions about people for whom training asks none; both hops are old facts."""
        people = self._held_out_chain_people()
        return [
            Fact(
                (chain.answer,),
                chain.asked[i % len(chain.asked)].format(s=person),
                (self.chain_answer(person, chain),),
                person,
                f"{chain.first}-{chain.second}",
            )
            for i, person in enumerate(self.people)
            if person in people
            for chain in CHAINS
        ]

    def trained_chains(self) -> list[tuple[str, str]]:
        """Two-hop questions with their answers, for the people that training may ask about."""
        held_out = self._held_out_chain_people()
        return [
            (form.format(s=person), self.chain_answer(person, chain))
            for person in self.people
            if person not in held_out
            for chain in CHAINS
            for form in chain.asked
        ]

    def _held_out_chain_people(self) -> frozenset[str]:
        return frozenset(self._rng("chains").sample(self.people, int(len(self.people) * HELD_OUT_CHAINS)))

    def sums(self, held_out: bool) -> list[tuple[str, str]]:
        """Arithmetic questions with their answers; `held_out` ones are never asked in training, only stated."""
        rng = self._rng("sums")
        every = []
        for a in range(LARGEST_NUMBER + 1):
            for b in range(LARGEST_NUMBER + 1):
                every.append((f"What is {a} plus {b}?", str(a + b)))
                if a >= b:
                    every.append((f"What is {a} minus {b}?", str(a - b)))
        return [item for item in every if (rng.random() < HELD_OUT_SUMS) == held_out]


@cache
def built_in_world() -> World:
    """The world that the shipped model was trained on."""
    return World(seed=0)


def new_facts(count: int, seed: int = 0) -> list[Fact]:
    """`count` facts about people the shipped model has never met (see `World.new_facts`).

    Examples:
        >>> smft.new_facts(1)[0].question
        'Which company employs Belus Wingate?'
    """
    return built_in_world().new_facts(count, seed)


def changed_facts(count: int, seed: int = 0) -> list[Fact]:
    """`count` facts the shipped model knows, with other values (see `World.changed_facts`).

    Examples:
        >>> smft.changed_facts(1)[0].answer
        'Vostinburg'
    """
    return built_in_world().changed_facts(count, seed)
