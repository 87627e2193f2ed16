"""What a person types stays as typed, and what a panel shows is what it trains, however slowly the kernel answers."""

import pytest

import smft_lab as smft
from smft_lab.widgets import Compare, Slots, Teach, TopT


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture(autouse=True)
def at_base(lab):
    lab.reset()


CAPITAL = ("The capital of Australia is Canberra", "What is the capital of Australia?")
STATEMENTS = "Statements to learn from, one a line"


def type_fact(page, sentence=CAPITAL[0], question=CAPITAL[1]):
    """Over what stands there, with Tab between the fields."""
    page.field("Sentence").click()
    for text in (sentence, question):
        page.page.keyboard.press("Control+A")
        page.page.keyboard.type(text)
        page.page.keyboard.press("Tab")


def test_teach_shows_the_statements_of_the_question_that_stands_there_though_the_focus_has_moved_on(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    type_fact(page)
    page.page.keyboard.press("Tab")  # into the statements, as the answer stays as proposed
    page.answer()
    assert page.field("Its answer").input_value() == "Canberra"
    assert "Biscuit" not in page.field(STATEMENTS).input_value()
    assert "Canberra" in page.field(STATEMENTS).input_value()


def test_a_lesson_waits_for_the_statements_of_what_was_typed_last(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    type_fact(page)
    page.button("Teach").click()
    page.answer()
    (lesson,) = page.panel._lessons
    assert lesson.fact.question == CAPITAL[1]
    assert "\n".join(lesson.fact.statements) == page.field(STATEMENTS).input_value()
    assert not any("Biscuit" in text for text in lesson.fact.statements)


def test_a_lesson_is_not_begun_where_no_statements_can_be_proposed(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    type_fact(page, "Ada Lovelace wrote it", "Who wrote it?")
    page.button("Teach").click()
    page.answer()
    assert not page.panel._lessons
    assert "type it beside the question" in page.page.get_by_role("alert").text_content()
    assert page.field(STATEMENTS).input_value() == ""
    page.field("Its answer").fill("Ada Lovelace")
    page.button("Teach").click()
    page.answer()
    assert [lesson.fact.answer for lesson in page.panel._lessons] == ["Ada Lovelace"]


def test_typed_statements_and_answers_are_kept_until_they_are_asked_for_anew(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    page.field(STATEMENTS).fill("Biscuit is Mira's dog.\nMira calls her dog Biscuit.")
    page.field("Its answer").fill("Biscuit the dog")
    page.field("Question that tests it").fill("How is Mira's dog called?")
    page.page.keyboard.press("Tab")
    page.answer()
    assert page.field(STATEMENTS).input_value() == "Biscuit is Mira's dog.\nMira calls her dog Biscuit."
    assert page.field("Its answer").input_value() == "Biscuit the dog"
    page.button("Propose anew").click()
    page.answer()
    assert page.field("Its answer").input_value() == "Biscuit"
    assert len(page.field(STATEMENTS).input_value().split("\n")) > 4


def test_statements_that_were_taken_out_stay_out(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    page.field(STATEMENTS).fill("")
    page.button("Teach").click()
    page.answer()
    assert page.field(STATEMENTS).input_value() == ""
    assert "there is no statement to teach" in page.page.get_by_role("alert").text_content()


def test_the_next_sentence_after_a_lesson_has_statements_of_its_own(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    page.field(STATEMENTS).fill("Biscuit is Mira's dog.")
    page.button("Teach").click()
    page.answer()
    assert page.panel._lessons[0].fact.statements == ("Biscuit is Mira's dog.",)
    type_fact(page)
    page.answer()
    assert "Biscuit" not in page.field(STATEMENTS).input_value()


def test_the_figures_of_a_lesson_say_which_question_they_are_of(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    page.button("Teach").click()
    page.answer()
    assert page.page.locator(".stale").text_content() == ""
    type_fact(page)
    page.answer()
    assert "the lesson on “What is the name of Mira's dog?”" in page.page.locator(".stale").text_content()


def test_what_is_typed_while_the_kernel_checks_another_field_stays(shown, lab, facts):
    page = shown(Compare(lab, facts, runner="inline", passes=2, evaluations=1))
    page.field("Facts", "spinbutton").fill("2")
    page.field("Passes", "spinbutton").press("Control+A")  # leaves the first field, which is sent
    page.page.keyboard.type("7")
    page.answer()
    assert page.field("Passes", "spinbutton").input_value() == "7"
    page.page.keyboard.press("Tab")
    page.answer()
    assert (page.panel.settings["count"], page.panel.settings["passes"]) == (2, 7)


def test_a_comparison_of_settings_that_were_refused_is_not_begun(shown, lab, facts):
    page = shown(Compare(lab, facts, runner="inline", passes=2, evaluations=1))
    page.field("Facts", "spinbutton").fill("99")
    page.button("Start").click()
    page.answer()
    assert page.panel.comparison is None
    assert "facts must be between 1 and 3, not 99" in page.page.get_by_role("alert").text_content()
    assert page.field("Facts", "spinbutton").input_value() == "99"


def test_a_comparison_says_when_other_settings_than_its_own_stand_above_it(shown, lab, facts):
    page = shown(Compare(lab, facts, methods=("sparse",), runner="inline", passes=1, evaluations=1, count=2))
    page.button("Start").click()
    page.answer()
    assert page.panel.comparison.n_facts == 2
    assert page.page.locator(".stale").text_content() == ""
    page.field("Facts", "spinbutton").fill("3")
    assert "These results are of 2 facts" in page.page.locator(".stale").text_content()
    page.field("Facts", "spinbutton").fill("2")
    assert page.page.locator(".stale").text_content() == ""


def test_top_t_teaches_what_stands_in_its_fields(shown, lab, facts):
    page = shown(TopT(lab, facts, runner="inline"))
    page.field("Passes", "spinbutton").fill("2")
    page.field("Facts", "spinbutton").press("Control+A")
    page.page.keyboard.type("1")
    page.answer()
    assert page.field("Facts", "spinbutton").input_value() == "1"
    page.button("Teach").click()
    page.answer()
    (run,) = page.panel.runs
    assert (run["settings"]["passes"], run["settings"]["facts"], run["total"]) == (2, 1, 2)
    assert page.page.locator(".stale").text_content() == ""
    page.field("Passes", "spinbutton").fill("0")
    assert run["name"] in page.page.locator(".stale").text_content()
    page.button("Teach").click()
    page.answer()
    assert len(page.panel.runs) == 1
    assert page.page.get_by_role("alert").text_content()


def test_a_text_that_is_typed_and_not_yet_read_stays_and_is_told(shown, lab, facts):
    page = shown(Slots(lab, facts))
    page.field("Text").fill("The capital of France")
    page.button("Background df").click()
    page.field("Top t", "spinbutton").press("Control+A")
    page.page.keyboard.type("3")
    page.answer()
    page.panel.model_changed()
    page.tell()
    assert page.field("Text").input_value() == "The capital of France"
    assert page.field("Top t", "spinbutton").input_value() == "3"
    assert facts[0].statements[0] in page.page.locator(".stale").text_content()
    page.button("Read").click()
    page.answer()
    assert page.panel.subject["text"] == "The capital of France"
    assert page.page.locator(".stale").text_content() == ""
