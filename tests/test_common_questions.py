"""The common questions: many, each asked once, with answers that can be told right from wrong, in two parts."""

import pytest

from smft_lab.facts.common import common_questions
from smft_lab.finetuning.teaching import CONTEXTS
from smft_lab.probes.prompts import NEUTRAL_SHOTS
from smft_lab.probes.text import begins_with, normalise


def answers() -> dict[str, tuple[str, ...]]:
    return {one.question: one.answers for one in common_questions()}


def test_there_are_some_hundreds_each_asked_once_and_in_a_fixed_order():
    questions = [one.question for one in common_questions()]
    assert len({normalise(question) for question in questions}) == len(questions) > 400
    assert questions == [one.question for one in common_questions()]
    assert questions[0] == "What is the capital of France?"


def test_the_first_questions_differ_in_kind_and_answer_since_they_are_shown_before_the_others():
    for part in (None, "probe", "background"):
        first, second = common_questions(part)[:2]
        assert first.question.split()[-2] != second.question.split()[-2]
        assert not set(first.answers) & set(second.answers)


def test_every_question_is_one_plain_line_with_short_answers_that_it_does_not_give_away():
    for one in common_questions():
        assert one.question.endswith("?")
        assert one.question[0].isupper()
        assert "  " not in one.question + "|".join(one.answers)
        assert len(set(one.answers)) == len(one.answers) > 0
        for answer in one.answers:
            assert answer == answer.strip() != ""
            assert len(answer.split()) <= 5
            assert not set(answer) & set(";|:?")
            assert f" {normalise(answer)} " not in f" {normalise(one.question)} ", one


def test_subjects_are_mixed_so_that_few_questions_are_of_many_kinds():
    first = [one.question.split()[:2] for one in common_questions("probe")[:20]]
    assert len({" ".join(words) for words in first}) >= 8


def test_parts_hold_everything_between_them_and_share_no_subject():
    probe, background = common_questions("probe"), common_questions("background")
    both = {one.question for one in probe} | {one.question for one in background}
    assert both == set(answers())
    assert len(probe) + len(background) == len(both)
    assert 0.2 < len(background) / len(both) < 0.3
    about = (
        "What is the capital of ",
        "On which continent is ",
        "What is the main language of ",
        "What is the currency of ",
    )
    countries = [
        {one.question.removeprefix(start) for one in part for start in about if one.question.startswith(start)}
        for part in (probe, background)
    ]
    assert min(map(len, countries)) > 10
    assert not countries[0] & countries[1]


def test_names_count_in_all_the_ways_they_are_written():
    known = answers()
    assert begins_with("Bronte", known["Who wrote Jane Eyre?"])
    assert begins_with("J.R.R. Tolkien", known["Who wrote The Hobbit?"])
    assert begins_with("J. R. R. Tolkien, a writer", known["Who wrote The Hobbit?"])
    assert begins_with("Brasilia", known["What is the capital of Brazil?"])
    assert begins_with("Einstein", known["Who developed the theory of relativity?"])
    assert not begins_with("Caesar", known["Who was the first emperor of Rome?"])


def test_none_is_shown_beside_a_taught_question():
    shown = {
        normalise(question) for question, _ in (*NEUTRAL_SHOTS, *(pair for context in CONTEXTS for pair in context))
    }
    assert not shown & {normalise(question) for question in answers()}


def test_another_part_is_refused():
    with pytest.raises(ValueError, match="no part 'test' of the common questions; there are probe, background"):
        common_questions("test")
