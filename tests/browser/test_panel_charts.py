"""What the panels draw: nothing misleads, and texts can be read in narrow places."""

import re

import numpy as np
import pytest

import smft_lab as smft
from smft_lab.widgets import Compare, Predict, Slots, Teach, TopT, Train


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture
def knows_nothing(lab):
    """The lab without questions that tell what was known."""
    every = lab.probes
    lab.probes = type(every)([probe for probe in every if probe.name != "old_facts"])
    lab.reset()
    yield lab
    lab.probes = every


@pytest.mark.parametrize("kind", [Compare, TopT])
def test_where_nothing_was_known_the_plane_shows_what_is_learned_over_the_steps(shown, knows_nothing, facts, kind):
    panel = kind(knows_nothing, facts, runner="inline")
    panel.choose(passes=2)
    page = shown(panel)
    page.button("Start" if kind is Compare else "Teach").click()
    page.answer()
    plane = page.page.locator(".charts svg").first
    assert plane.locator("polyline").count() >= 1
    texts = plane.locator("text").all_text_contents()
    assert {"Gradient steps", "New facts learned (exact match)", "6"} <= set(texts)
    assert "kept" not in " ".join(texts)


def test_rows_changed_are_those_of_the_patch(lab, facts):
    lab.reset()
    panel = TopT(lab, facts, runner="inline")
    panel.choose(passes=2, lr=1e-12)  # most rows are trained, and few of their numbers move
    panel.teach()
    assert panel.runs[0]["rows"] == len(panel._paths[0].patch)
    panel.close()


def test_a_tooltip_of_a_token_says_slot_value_and_unit_and_a_cell_its_value_in_the_view_shown(shown, lab, facts):
    page = shown(Slots(lab, facts))
    page.button("Background df").click()
    page.answer()
    token = page.page.locator(".token").nth(1)
    values = page.panel.tokens[1]["values"]
    best = page.panel.tokens[1]["slots"][values.index(max(values))]
    assert f"slot {best}, {max(values):,.0f} background batches" in token.get_attribute("title")
    page.page.locator("canvas").hover(position={"x": 40, "y": 50})
    assert "background batches" in page.page.locator(".under").text_content()
    page.button("Change since the base").click()
    page.answer()
    unit = page.panel.limits["maps"]["change"]["unit"]
    assert re.match(rf"Slot \d+: 0 {unit}\.", page.page.locator(".under").text_content())  # the pointer hasn't moved


@pytest.mark.parametrize("width", [620, 1000, 1600])
def test_texts_of_charts_are_large_enough_to_be_read(shown, lab, facts, width):
    lab.reset()
    for panel in (TopT(lab, facts, runner="inline"), Train(runner="inline", steps=1, memory_slots=256)):
        page = shown(panel, width)
        page.page.wait_for_timeout(100)
        sizes = page.page.evaluate(
            "() => [...document.querySelectorAll('svg text')].filter((text) => text.textContent).map((text) =>"
            " parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b))"
        )
        assert min(sizes) > 10
        assert page.page.evaluate("() => document.body.scrollWidth <= innerWidth")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_panel_is_as_dark_as_a_page_that_has_no_theme_of_its_own(shown, lab, facts, theme):
    page = shown(Slots(lab, facts), theme=theme)
    shade = page.page.locator(".smft").evaluate(
        "(e) => ['backgroundColor', 'color'].map((n) => getComputedStyle(e)[n].match(/\\d+/g).map(Number)[0])"
    )
    assert (shade[0] < 60 < 200 < shade[1]) if theme == "dark" else (shade[1] < 60 < 200 < shade[0])


def test_the_curves_of_a_training_name_their_axis(shown):
    page = shown(Train(runner="inline", steps=1, memory_slots=256))
    assert page.page.get_by_text("gradient steps").count() == 4


def test_the_chosen_slot_is_marked_in_the_table_the_ranking_and_the_tokens_and_its_card_stands_beside_them(
    shown, lab, facts
):
    page = shown(Slots(lab, facts), 1000)
    token = page.page.locator(".token").nth(2)
    box = token.bounding_box()
    read = sorted(
        zip(page.panel.tokens[2]["values"], page.panel.tokens[2]["slots"], strict=True), key=lambda one: -one[0]
    )
    for x in (3, box["width"] - 3):  # wherever it is clicked
        page.page.locator(".token").nth(1).click()
        page.answer()
        token.click(position={"x": x, "y": box["height"] - 5})
        page.answer()
        assert page.panel.slot["slot"] == read[0][1]
    token.click()
    page.answer()
    assert page.panel.slot["slot"] == read[1][1]
    assert "reads" in token.get_attribute("class")
    slot = page.panel.ranking[3]["slot"]
    page.page.locator(".bars .pick").nth(3).click()
    page.answer()
    assert page.page.locator("tr[aria-current]").get_attribute("data-slot") == str(slot)
    for place, one in enumerate(page.panel.tokens):
        marked = "reads" in page.page.locator(".token").nth(place).get_attribute("class")
        assert marked == (slot in one["slots"])
    table, ring = page.page.locator("canvas").bounding_box(), page.page.locator(".ring").bounding_box()
    side = page.panel.limits["side"]
    assert ring["x"] + ring["width"] / 2 == pytest.approx(
        table["x"] + (slot % side + 0.5) / side * table["width"], abs=2
    )
    assert ring["y"] + ring["height"] / 2 == pytest.approx(
        table["y"] + (slot // side + 0.5) / side * table["height"], abs=2
    )
    card = page.page.locator(".card").bounding_box()
    assert card["y"] < table["y"] + table["height"] / 2
    assert card["x"] >= table["x"] + table["width"]


def test_a_stripe_of_what_is_known_says_which_fact_it_is(shown, lab, facts):
    lab.reset()
    page = shown(Compare(lab, facts, methods=("sparse",), runner="inline", passes=1, evaluations=1))
    page.button("Start").click()
    page.answer()
    canvas = page.page.locator(".known canvas")
    canvas.hover(position={"x": 4, "y": canvas.bounding_box()["height"] - 4})
    asked = page.panel.retention["sparse"]["questions"]
    assert sorted(asked) == sorted(fact.question for fact in facts)
    assert page.page.locator(".which").text_content() == f"Sparse, step 0: “{asked[-1]}” is not known."


def test_what_came_out_is_shown_to_who_has_guessed_or_asks_for_it(shown):
    page = shown(Predict("How many?", [2, 4, 8]))
    page.panel.reveal(4, "It is four.")
    page.tell()
    assert "four" not in page.page.locator(".predict").text_content()
    assert page.page.locator(".right").count() == 0
    page.button("Show").click()
    assert page.page.locator(".outcome").text_content() == "It is four."
    assert page.page.locator("label.right").text_content() == "4"
    other = shown(Predict("How many?", [2, 4, 8]))
    other.panel.reveal(4, "It is four.")
    other.tell()
    other.page.get_by_text("8", exact=True).click()
    other.panel.chosen = 2
    other.tell()
    assert other.page.locator(".outcome").text_content() == "It is four."
    assert (other.page.locator("label.right").text_content(), other.page.locator("label.wrong").text_content()) == (
        "4",
        "8",
    )


@pytest.mark.parametrize("kind", [Compare, Teach, TopT])
def test_a_panel_says_what_the_model_has_read_and_offers_questions_that_it_knows(shown, lab, facts, kind):
    page = shown(kind(lab) if kind is Teach else kind(lab, facts))
    said = page.page.locator(".familiar")
    assert "invented world" in said.text_content()
    offered = said.get_by_role("button").all_text_contents()
    assert len(offered) == 3
    assert set(offered) <= set(lab.probes["old_facts"].questions)
    said.get_by_role("button").nth(1).click()
    page.answer()
    assert [one["question"] for one in page.panel.answers] == [offered[1]]


def test_a_cell_of_top_t_says_its_rank_and_whether_it_may_change(shown, lab, facts):
    lab.reset()
    page = shown(TopT(lab, facts, runner="inline"))
    page.panel.choose(top_t=2)
    page.tell()
    pairs = np.frombuffer(page.panel.slots, dtype=np.uint32).reshape(-1, 2)
    best = {cell: pairs[pairs[:, 0] == cell][:, 1].min() for cell in pairs[:, 0]}
    side = page.panel.limits["side"]
    canvas = page.page.locator("canvas")
    box = canvas.bounding_box()
    unread = next(cell for cell in range(side * side) if cell not in best)
    chosen = next(cell for cell, rank in best.items() if rank <= 2)
    left_out = next(cell for cell, rank in best.items() if rank > 2)
    for cell, verdict in (
        (unread, "not read by the facts"),
        (chosen, "so it may change"),
        (left_out, f"may not change below t = {best[left_out]}"),
    ):
        place = {"x": (cell % side + 0.5) / side * box["width"], "y": (cell // side + 0.5) / side * box["height"]}
        canvas.hover(position=place)
        text = page.page.locator(".under").text_content()
        assert text.startswith(f"Slot {cell}:")
        assert verdict in text
    page.page.get_by_label("as a number").fill(str(best[left_out]))  # the pointer is where it was
    assert "so it may change" in page.page.locator(".under").text_content()
