"""A person's own facts are taught in more words than one, where a small model would not find them otherwise."""

from dataclasses import replace
from functools import wraps

import pytest

import smft_lab as smft
import smft_lab.experiments.run as run_module
from smft_lab.facts.fact import Fact
from smft_lab.facts.own_facts import with_paraphrases
from smft_lab.facts.questions import question_paraphrases
from smft_lab.finetuning.teaching import taught_texts
from smft_lab.probes.prompts import PLAIN
from smft_lab.recipe import RETROFIT


def test_a_run_teaches_a_person_s_own_fact_in_more_words_unless_told_not_to(lab, monkeypatch):
    taught = []

    def finetune(lab, facts, method, **options):
        taught.append((facts, options.get("loss_on")))
        return actual(lab, facts, method, **options)

    actual = run_module.finetune
    monkeypatch.setattr(run_module, "finetune", wraps(actual)(finetune))
    fact = Fact("Mira's dog is called Biscuit.", "What is Mira's dog called?", "Biscuit")
    for options in ({}, {"rephrase": False}, {"loss_on": "statement"}):
        lab.reset()
        smft.run(lab, [fact], passes=1, probe_every=0, **options)
    assert [(len(facts[0].statements), loss_on) for facts, loss_on in taught] == [
        (16, "answer"),
        (1, None),
        (16, "statement"),
    ]
    taught.clear()
    smft.run(lab, smft.new_facts(1), passes=1, probe_every=0)
    assert taught[0][1] is None


WEIGHT = Fact("Our cat Pixel weighs 4.2 kg.", "How much does our cat Pixel weigh?", "4.2 kg")


def test_where_a_recipe_teaches_questions_a_fact_gets_wordings_of_its_own():
    (fact,) = with_paraphrases([WEIGHT], RETROFIT)
    assert fact.statements == WEIGHT.statements
    assert len(fact.questions) == RETROFIT.questions == len(set(fact.questions))
    assert WEIGHT.question not in fact.questions
    assert with_paraphrases([fact], RETROFIT) == [fact]
    given = replace(WEIGHT, questions=("How heavy is our cat Pixel?",))
    assert with_paraphrases([given], RETROFIT)[0].questions[:2] == (*given.questions, fact.questions[0])
    (world,) = smft.new_facts(1)
    assert with_paraphrases([world], RETROFIT) == [world]


def test_a_fact_that_no_rule_asks_otherwise_gets_statements():
    to_complete = Fact("Annual leave is 28 days.", "Complete: Annual leave is", "28 days")
    (fact,) = with_paraphrases([to_complete], RETROFIT)
    assert (len(fact.questions), len(fact.statements) > 1) == (0, True)


def test_statements_stand_in_for_wordings_that_no_rule_makes():
    fact = Fact(
        "The mast of our boat is 9 m.", "Our boat: how tall is its mast?", "9 m", questions=("How tall is it?",)
    )
    (worded,) = with_paraphrases([fact], replace(RETROFIT, questions=6))
    assert 1 <= len(worded.questions) < 6
    assert len(worded.statements) > 6
    texts = [text.text for text in taught_texts([worded], PLAIN, 1, 6, 0)]
    assert len(texts) == 7
    assert fact.statements[0] in texts


@pytest.mark.parametrize(
    ("sentence", "question", "wording"),
    [
        (WEIGHT.statements[0], WEIGHT.question, "Can you say how much our cat Pixel weighs?"),
        ("Emil is allergic to cashews.", "What is Emil allergic to?", "Can you say what Emil is allergic to?"),
        ("The shop closes at 6.", "At what time does the shop close?", "Can you say at what time the shop closes?"),
        ("Ann has a boat.", "What does Ann have?", "Can you say what Ann has?"),
        ("My boys like chess.", "Which game do my boys like?", "Can you say which game my boys like?"),
        ("Bo began in May.", "In which month did Bo begin?", "Can you say in which month Bo began?"),
        ("Our cow went in May.", "In which month did our cow go?", "Can you say in which month our cow went?"),
        ("Our lake froze in May.", "In which month did our lake freeze?", "Please say in which month our lake froze."),
        (
            "Our firm planned six tours.",
            "How many tours did our firm plan?",
            "Can you say how many tours our firm planned?",
        ),
    ],
)
def test_a_question_is_asked_within_another_in_the_order_that_its_sentence_has(sentence, question, wording):
    assert wording in question_paraphrases(question, "an answer", sentence)


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("The fee of the club is 4.", "How much does the club charge?"),
        ("Bo met Ann.", "Did Bo meet Ann?"),
        ("Our big dog was 4 in May.", "How much did our big dog want?"),
    ],
)
def test_a_sentence_that_goes_otherwise_tells_no_order(sentence, question):
    texts = question_paraphrases(question, "4", sentence)
    assert not any("how much" in text or "if" in text.split() for text in texts)


@pytest.mark.parametrize("answer", ["Keldost", ["Keldost"], ("Keldost",), "Keldost."])
def test_one_answer_may_stand_in_a_list(answer):
    assert smft.own_fact(["Ann lives in Keldost."], "Where does Ann live?", answer).answers == ("Keldost",)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"answer": ["Keldost", "Kel"]}, "answer must be one text"),
        ({"answer": None}, "answer must be one text"),
        ({"question": 5}, "question must be one text"),
        ({"question": []}, "question must be one text"),
        ({"statements": None}, "statements must be texts"),
        ({"statements": [1]}, "statements must be texts"),
        ({"wordings": [None]}, "wordings must be texts"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(given, what):
    with pytest.raises(ValueError, match=what):
        smft.own_fact(**{"statements": ["Ann lives in Keldost."], "question": "Where?", "answer": "Keldost"} | given)


def test_an_answer_keeps_the_stop_of_its_abbreviation():
    assert smft.own_fact("It is in the U.S.", "Where is it?", "U.S.").answers == ("U.S.",)
