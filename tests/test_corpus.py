"""Invariant 6: probes never appear in any training text. And the mix: from a seed, of every kind, with varied names."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest

from smft_lab.facts.world import corpus as corpus_module
from smft_lab.facts.world import words
from smft_lab.facts.world.corpus import LONG_TAIL, LONG_TAIL_NEWS, MIX, Corpus, LongTailFact, held_out_prose, prose
from smft_lab.facts.world.grammar import CHAINS, PERSON_RELATIONS, RELATIONS, ask
from smft_lab.facts.world.world import World, built_in_world
from smft_lab.probes.probes import world_probes

SAMPLE = 15_000


@pytest.fixture(scope="module")
def world():
    return built_in_world()


@pytest.fixture(scope="module")
def texts(corpus):
    return corpus.texts(Random("a large sample"), SAMPLE)


def questions_in(text: str) -> Iterator[str]:
    """Whatever stands before a question mark, from any word on, in lower case."""
    text = text.casefold()
    for mark in re.finditer(r"\?", text):
        for start in re.finditer(r"(?<!\S)\S", text[: mark.end()]):
            yield text[start.start() : mark.end()]


@pytest.fixture(scope="module")
def asked(texts):
    """All that the sample could be said to ask."""
    return {question for text in texts for question in questions_in(text)}


def leaked(questions, asked) -> list[str]:
    return [question for question in questions if question.casefold() in asked]


# Nothing held out is in a training text ---------------------------------------------------------------


def test_the_sample_asks_what_it_may_ask(world, asked):
    """The tests below would also pass if questions weren't found in the texts at all."""
    may = [q for subject, relation in world.values for q in world.asked_questions(subject, relation)]
    assert len(leaked(may, asked)) > 1500
    assert len(leaked([question for question, _ in world.trained_chains()], asked)) > 300
    assert len(leaked([question for question, _ in world.sums(held_out=False)], asked)) > 350


def test_no_question_of_a_probe_is_in_a_training_text(world, texts, asked):
    probes = world_probes(world, per_probe=10_000)  # every question there is, not only those measured
    assert len(probes["old_facts"].questions) == len(world.values)
    for name in ("old_facts", "two_hop"):
        assert not leaked(probes[name].questions, asked)
    assert not leaked([question for question, _ in probes["arithmetic"].questions()], asked)
    assert not set(probes["arithmetic"].texts) & set(texts)
    assert not set(probes["prose"].texts) & set(texts)


def test_no_withheld_form_is_asked_of_its_subject(world, asked):
    assert not leaked(
        [q for subject, relation in world.values for q in world.withheld_questions(subject, relation)], asked
    )


def test_no_unseen_form_is_asked_of_any_subject(texts):
    forms = [form for relation in RELATIONS.values() for form in relation.unseen]
    unseen = re.compile("|".join(".+".join(map(re.escape, form.split("{s}"))) for form in forms), re.IGNORECASE)
    assert unseen.search(ask(forms[0].format(s="Quit Snarlp")))
    assert not [text for text in texts if unseen.search(text)]


def test_no_two_hop_question_of_a_held_out_person_is_asked_in_any_form(world, asked):
    people = {fact.subject for fact in world.held_out_chains()}
    assert not leaked([form.format(s=person) for person in people for chain in CHAINS for form in chain.asked], asked)


def test_no_held_out_sum_is_asked_but_all_sums_are_stated(world, texts):
    held_out = {question for question, _ in world.sums(held_out=True)}
    said = {match for text in texts for match in re.findall(r"What is \d+ (?:plus|minus) \d+\?", text)}
    assert said
    assert not said & held_out
    stated = {match for text in texts for match in re.findall(r"\d+ (?:plus|minus) \d+ is \d+", text)}
    every = world.sums(held_out=True) + world.sums(held_out=False)
    true = {f"{question.removeprefix('What is ').removesuffix('?')} is {answer}" for question, answer in every}
    assert stated <= true
    assert len(stated) > 0.4 * len(true)


def test_a_held_out_story_is_drawn_again(corpus, world, monkeypatch):
    """Stories repeat too rarely for any sample to show this."""
    held_out = held_out_prose(world)
    drawn = iter([held_out[0], held_out[-1], "A story of its own."])
    monkeypatch.setattr(corpus_module, "prose", lambda rng: next(drawn))
    assert corpus._prose(Random(0)) == "A story of its own."


def test_held_out_stories_are_distinct_fixed_by_the_seed_and_of_the_trained_kind(world):
    stories = held_out_prose(world)
    assert len(set(stories)) == len(stories) > 200
    assert stories == held_out_prose(World(0))
    assert stories != held_out_prose(World(1))
    rng = Random(5)
    trained = Counter(word for _ in range(2000) for word in prose(rng).split())
    assert all(word in trained for story in stories for word in story.split())


def test_new_people_are_in_no_training_text(world, texts):
    pairs = {" ".join(pair) for text in texts for pair in pairwise(re.findall(r"[\w-]+", text))}
    assert len(pairs & set(world.people)) == len(world.people)  # old people are found this way
    new = {fact.subject for seed in range(4) for fact in world.new_facts(500, seed)}
    assert not pairs & new


# The mix ----------------------------------------------------------------------------------------------


def test_the_same_rng_draws_the_same_texts(corpus):
    assert corpus.texts(Random(4), 300) == Corpus(World(0)).texts(Random(4), 300)
    assert corpus.texts(Random(4), 300) != corpus.texts(Random(5), 300)


def test_texts_are_drawn_one_after_the_other(corpus):
    one_by_one, together = Random(4), Random(4)
    assert [corpus.text(one_by_one) for _ in range(50)] == corpus.texts(together, 50)
    assert one_by_one.getstate() == together.getstate()


def test_every_kind_of_text_occurs_about_as_often_as_stated(world):
    corpus, drawn = Corpus(world), Counter()

    def counted(kind, make):
        def text(*given):
            drawn[kind] += 1
            return make(*given)

        return text

    for kind in MIX:
        setattr(corpus, f"_{kind}", counted(kind, getattr(corpus, f"_{kind}")))
    made = corpus.texts(Random(0), 4000)
    assert all(text.strip() == text != "" for text in made)
    assert sum(MIX.values()) == pytest.approx(1)
    assert all(drawn[kind] / len(made) == pytest.approx(share, abs=0.02) for kind, share in MIX.items())


def test_every_old_fact_is_told_or_asked_sooner_or_later(corpus, world):
    rng = Random(0)
    told = Counter(corpus._statement(rng) for _ in range(3000))
    assert len(told) > 2900  # paraphrases, not one wording per fact
    people = [person for person in world.people if any(person in text for text in told)]
    assert len(people) == len(world.people)


def test_an_answer_in_a_question_text_is_the_known_one(corpus, world):
    known = {
        question: value
        for (subject, relation), value in world.values.items()
        for question in world.asked_questions(subject, relation)
    }
    rng = Random(1)
    for _ in range(500):
        question, answer = corpus._question(rng).removeprefix("Question: ").split(" Answer: ")
        assert f"{known[question]}." == answer


def test_reading_texts_hold_the_answer_before_they_ask_for_it(corpus):
    rng = Random(2)
    for _ in range(300):
        told, asked = corpus._in_context(rng).split(" Question: ")
        answer = asked.split(" Answer: ")[1].removesuffix(".")
        assert answer in told or answer in told[0].lower() + told[1:]  # a sentence that begins with it has a capital


def test_unfamiliar_names_are_varied_and_in_all_the_shapes_of_real_ones():
    rng = Random(0)
    names = [words.unfamiliar_name(rng) for _ in range(3000)]
    assert len(set(names)) > 2700
    shapes = (
        r"[A-Z][a-z]+",
        r"[A-Z][a-z]+ [A-Z][a-z]+",
        r"[A-Z][a-z]+ [A-Z][a-z]+ [A-Z][a-z]+",
        r"[A-Z][a-z]+[A-Z][a-z]+",
        r"[A-Z]{2,4}",
        r"(the )?[a-z]+ [a-z]+",
    )
    rarer = (
        r"[A-Z][a-z]+-[A-Z][a-z]+",
        r"[A-Z][a-z]+'s [A-Z][a-z]+",
        r".+ & .+",
        r".*[áéíöüñç].*",
        r".+ \(.+\)",
        r'".+"',
    )
    found = Counter(shape for name in names for shape in shapes + rarer if re.fullmatch(shape, name))
    assert all(found[shape] > 30 for shape in shapes)
    assert all(found[shape] > 3 for shape in rarer)
    lengths = Counter(map(len, names))
    assert lengths.most_common(1)[0][1] < 0.2 * len(names)


def test_nobody_who_passes_by_is_a_person_of_the_world_or_one_to_be_taught():
    rng = Random(0)
    passing = {words.passer_by(rng) for _ in range(20_000)}
    assert len(passing) > 10_000
    assert not passing & set(words.make_people(Random(1), 300_000))
    firsts, lasts = (set(part) for part in zip(*(name.split() for name in words.make_people(rng, 50_000)), strict=True))
    assert all((first in firsts) + (last in lasts) == 1 for first, last in map(str.split, passing))


def test_long_tail_answers_are_names_numbers_years_and_dates(world):
    rng = Random(0)
    facts = [LongTailFact(rng, world) for _ in range(1000)]
    values = [fact.value for fact in facts]
    common = {value for relation in PERSON_RELATIONS for value in world.pool(relation)}
    unfamiliar = [value for value in values if value not in common]
    assert len(unfamiliar) > 0.75 * len(values)
    assert len(set(unfamiliar)) > 0.9 * len(unfamiliar)
    assert any(re.fullmatch(r"\d+", value) for value in values)
    assert any(re.fullmatch(r"\d+ [A-Z][a-z]+ \d{4}", value) for value in values)
    assert all(fact.value in clause for fact in facts for clause in fact.clauses)
    given_away = [fact for fact in facts if any(fact.value in question for question in fact.questions)]
    assert len(given_away) < 0.02 * len(facts)  # a short value may be in a question by chance


def long_tail(corpus, moment, count=6000) -> set[str]:
    """The long-tail questions asked at one moment."""
    rng = Random(f"moment {moment}")
    texts = [corpus._long_tail(rng, moment) for _ in range(count)]
    return {text.split(" Answer: ")[0] for text in texts if text.startswith("Question: ")}


def test_long_tail_facts_are_current_for_a_while_and_then_gone(corpus):
    now, soon, later = (long_tail(corpus, moment) for moment in (0, 1, LONG_TAIL // LONG_TAIL_NEWS + 1))
    assert 0.5 < len(now & soon) / len(now) < 0.9
    assert not now & later


def test_without_a_moment_every_long_tail_fact_is_a_new_one(corpus):
    rng = Random(0)
    texts = [corpus._long_tail(rng, None) for _ in range(500)]
    assert len({text.removesuffix(".").split()[-1] for text in texts}) > 400
