"""The built-in world: all from one seed, enough paraphrases, and held-out questions that stay held out."""

import re

import pytest

from smft_lab.facts.world import words
from smft_lab.facts.world.grammar import CHAINS, PERSON_RELATIONS, RELATIONS
from smft_lab.facts.world.world import (
    HELD_OUT_CHAINS,
    HELD_OUT_SUMS,
    LARGEST_NUMBER,
    PEOPLE,
    STATEMENTS_PER_FACT,
    WITHHELD,
    World,
    built_in_world,
    changed_facts,
    new_facts,
)


@pytest.fixture(scope="module")
def world():
    return built_in_world()


@pytest.fixture(scope="module")
def taught(world):
    """Facts of all three kinds."""
    return {"old": world.old_facts(), "new": world.new_facts(120, seed=3), "changed": world.changed_facts(120, seed=3)}


def everything(world: World) -> dict:
    return {
        "values": world.values,
        "withheld": [world.withheld_questions(person, "pet") for person in world.people],
        "unseen": world.unseen_questions(),
        "new": world.new_facts(12, seed=5),
        "changed": world.changed_facts(12, seed=5),
        "chains": world.held_out_chains(),
        "trained chains": world.trained_chains(),
        "sums": world.sums(held_out=True),
    }


# One seed, one world ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, again, other = (everything(World(seed)) for seed in (7, 7, 8))
    assert first == again
    for name in first:
        assert first[name] != other[name], name


def test_names_are_distinct_within_each_kind_and_no_name_serves_two_kinds(world):
    kinds = (world.people, world.companies, world.cities, world.countries)
    assert all(len(set(names)) == len(names) for names in kinds)
    assert len({name for names in kinds for name in names}) == sum(map(len, kinds))


def test_every_person_has_every_relation_of_a_person(world):
    assert {relation for _, relation in world.values} == set(RELATIONS)
    assert all((person, relation) in world.values for person in world.people for relation in PERSON_RELATIONS)


# Statements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELATIONS)
def test_a_relation_says_a_fact_in_at_least_64_distinct_ways(world, name):
    for (subject, relation), value in world.values.items():
        if relation == name:
            said = RELATIONS[name].statements(subject, value)
            assert len(set(said)) == len(said) >= 64


def test_a_fact_carries_64_distinct_statements_each_with_its_subject_and_value(taught):
    for kind, facts in taught.items():
        for fact in facts:
            assert len(set(fact.statements)) == len(fact.statements) == STATEMENTS_PER_FACT == 64
            for text in fact.statements:
                assert fact.subject in text, kind
                assert fact.answer in text, kind


def test_statements_say_an_before_a_vowel_and_a_before_a_consonant(world):
    said = [
        text
        for relation, values in (
            ("profession", words.PROFESSIONS),
            ("instrument", words.INSTRUMENTS),
            ("pet", words.ANIMALS),
        )
        for value in values
        for text in RELATIONS[relation].statements(world.people[0], value)
    ]
    assert any(" an owl" in text for text in said)
    assert any(" an engraver" in text for text in said)
    assert not [text for text in said if re.search(r"\b[Aa] [aeiou]", text)]
    assert not [text for text in said if re.search(r"\b[Aa]n [^aeiou]", text)]


def test_every_statement_begins_with_a_capital_and_ends_with_a_full_stop(taught):
    texts = [text for facts in taught.values() for fact in facts for text in fact.statements]
    assert all(text[0].isupper() and text.endswith(".") for text in texts)


def test_a_question_that_tests_a_fact_is_not_in_any_of_its_statements(taught):
    for kind, facts in taught.items():
        for fact in facts:
            assert not [text for text in fact.statements if fact.question.casefold() in text.casefold()], kind


# New facts --------------------------------------------------------------------------------------------


def test_new_people_are_none_of_the_old_and_have_one_fact_each(world):
    for seed in range(3):
        people = [fact.subject for fact in world.new_facts(300, seed)]
        assert len(set(people)) == 300
        assert not set(people) & set(world.people)


def test_new_people_avoid_an_old_name_that_would_be_drawn_again(world):
    drawn = words.make_people(world._rng("new/0"), 5)
    crowded = World(0)
    crowded.people = [*world.people, *drawn]
    assert not {fact.subject for fact in crowded.new_facts(5, seed=0)} & set(drawn)


def test_new_facts_are_the_same_for_the_same_seed_and_others_for_another(world):
    assert new_facts(24, seed=2) == World(0).new_facts(24, seed=2)
    assert not {f.subject for f in new_facts(24, seed=2)} & {f.subject for f in new_facts(24, seed=3)}


def test_new_facts_take_the_relations_in_turn(world):
    count = 4 * len(PERSON_RELATIONS)
    relations = [fact.relation for fact in world.new_facts(count)]
    assert all(relations.count(name) == 4 for name in PERSON_RELATIONS)


def test_a_new_fact_is_asked_in_a_form_no_training_text_uses(world):
    used = set()
    for fact in world.new_facts(120):
        relation = RELATIONS[fact.relation]
        forms = [form for form in relation.unseen if form.format(s=fact.subject) == fact.question]
        assert forms, fact.question
        assert fact.question not in {form.format(s=fact.subject) for form in relation.asked}
        used.update(forms)
    assert used == {form for name in PERSON_RELATIONS for form in RELATIONS[name].unseen}  # not always the same one


def test_unseen_forms_are_no_asked_forms_of_any_relation():
    asked = {form for relation in RELATIONS.values() for form in relation.asked}
    asked |= {form for chain in CHAINS for form in chain.asked}
    assert not asked & {form for relation in RELATIONS.values() for form in relation.unseen}


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_fact_is_refused(count):
    with pytest.raises(ValueError, match="at least 1"):
        new_facts(count)
    with pytest.raises(ValueError, match="between 1 and"):
        changed_facts(count)


# Changed facts ----------------------------------------------------------------------------------------


def test_every_changed_fact_has_a_value_other_than_the_known_one_but_of_its_kind(world):
    known = len(world.people) * len(PERSON_RELATIONS)
    facts = world.changed_facts(known)  # all of them, so that a rare clash can't hide
    assert len({(fact.subject, fact.relation) for fact in facts}) == known
    for fact in facts:
        assert fact.answer != world.values[fact.subject, fact.relation]
        assert fact.relation in PERSON_RELATIONS
    kinds = {"employer": world.companies, "birthplace": world.cities, "pet": words.ANIMALS}
    assert all(fact.answer in kinds[fact.relation] for fact in facts if fact.relation in kinds)


def test_more_changed_facts_than_known_ones_are_refused(world):
    with pytest.raises(ValueError, match="1920"):
        world.changed_facts(1921)


def test_changed_facts_are_asked_in_a_withheld_form(world):
    for fact in world.changed_facts(60, seed=1):
        assert fact.question in world.withheld_questions(fact.subject, fact.relation)


# Held-out questions -----------------------------------------------------------------------------------


def test_asked_and_withheld_forms_of_a_fact_are_disjoint_and_together_all(world):
    for subject, relation in world.values:
        withheld, asked = world.withheld_questions(subject, relation), world.asked_questions(subject, relation)
        assert len(set(withheld)) == WITHHELD
        assert not set(withheld) & set(asked)
        assert {*withheld, *asked} == {form.format(s=subject) for form in RELATIONS[relation].asked}


def test_a_form_withheld_for_one_subject_is_asked_about_others(world):
    for name in PERSON_RELATIONS:
        for form in RELATIONS[name].asked:
            asked = [form.format(s=person) in world.asked_questions(person, name) for person in world.people]
            assert any(asked)
            assert not all(asked)


def test_every_old_fact_is_tested_once_in_a_withheld_form(world, taught):
    assert [(fact.subject, fact.relation) for fact in taught["old"]] == list(world.values)
    for fact in taught["old"]:
        assert fact.question in world.withheld_questions(fact.subject, fact.relation)
        assert fact.answers == (world.values[fact.subject, fact.relation],)


def test_unseen_questions_ask_for_every_old_fact_in_unseen_forms(world):
    questions = world.unseen_questions()
    assert len(questions) == len(world.values)
    for (question, answers), ((subject, relation), value) in zip(questions, world.values.items(), strict=True):
        assert question in {form.format(s=subject) for form in RELATIONS[relation].unseen}
        assert answers == (value,)


def test_two_hop_questions_are_held_out_by_person_and_trained_for_all_others(world):
    held_out = {fact.subject for fact in world.held_out_chains()}
    assert len(held_out) == PEOPLE * HELD_OUT_CHAINS
    trained = [question for question, _ in world.trained_chains()]
    assert not [question for question in trained if any(person in question for person in held_out)]
    assert len(trained) == (PEOPLE - len(held_out)) * sum(len(chain.asked) for chain in CHAINS)


def test_a_two_hop_answer_follows_both_hops(world):
    for fact in world.held_out_chains():
        first, second = fact.relation.split("-")
        middle = world.values[fact.subject, first]
        assert fact.answer.startswith(middle)
        assert fact.answer.endswith(world.values[middle, second])


def test_sums_held_out_and_trained_are_disjoint_right_and_together_all(world):
    held_out, trained = dict(world.sums(held_out=True)), dict(world.sums(held_out=False))
    assert not held_out.keys() & trained.keys()
    numbers = LARGEST_NUMBER + 1
    assert len(held_out) + len(trained) == numbers**2 + numbers * (numbers + 1) // 2
    assert 0.8 * HELD_OUT_SUMS < len(held_out) / (len(held_out) + len(trained)) < 1.2 * HELD_OUT_SUMS
    for question, answer in {**held_out, **trained}.items():
        a, sign, b = re.fullmatch(r"What is (\d+) (plus|minus) (\d+)\?", question).groups()
        assert int(answer) == (int(a) + int(b) if sign == "plus" else int(a) - int(b)) >= 0


def test_a_passage_says_three_facts_in_every_rewriting_and_asks_for_one(world):
    for passage in world.passages(12, seed=2):
        assert len(set(passage.statements)) == len(passage.statements) == STATEMENTS_PER_FACT
        assert all(text.count(passage.subject) == 3 for text in passage.statements)
        assert all(passage.answer.lower() in text.lower() for text in passage.statements)
        assert passage.subject not in world.people
        unseen = RELATIONS[passage.relation].unseen
        assert passage.question in [form.format(s=passage.subject) for form in unseen]
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        world.passages(0)


def test_a_changed_first_hop_changes_what_follows_from_it(world):
    facts = world.changed_facts(40, hops=True)
    held_out = {chain.subject for chain in world.held_out_chains()}
    assert {fact.subject for fact in facts} <= held_out
    chains = world.chains_from(facts)
    assert len(chains) == len(facts)
    for fact, chain in zip(facts, chains, strict=True):
        second = next(one.second for one in CHAINS if one.first == fact.relation)
        assert fact.answer in chain.answer
        assert chain.answer.endswith(world.values[fact.answer, second])
        assert chain.answer != world.chain_answer(fact.subject, next(c for c in CHAINS if c.first == fact.relation))
