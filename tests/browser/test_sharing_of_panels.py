"""The foot of the panels in a browser: code that can be copied, folders, and a patch that is dropped."""

import base64
import os
from pathlib import Path

import pytest

import smft_lab as smft
from smft_lab.widgets import Compare, Slots, Teach, TopT

SHOTS = os.environ.get("SMFT_LAB_SHOTS")
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  document.querySelector('.smft').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture
def lab(tiny_lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_lab()


def sent(page):
    page.page.wait_for_function("() => window.sent.length > 0")
    page.answer()


def shot(page, name):
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("kind", [TopT, Compare, Slots, Teach])
def test_code_is_shown_and_copied(shown, lab, facts, kind):
    page = shown(Teach(lab, runner="inline") if kind is Teach else kind(lab, facts))
    page.page.evaluate(
        "() => document.addEventListener('copy', () => { window.copied = document.activeElement.value; })"
    )
    page.button("Copy as code").click()
    page.answer()
    code = page.field("The panel as Python")
    assert code.input_value() == page.panel.as_code()
    assert page.page.evaluate("() => window.copied") == page.panel.as_code()
    assert page.button("Copied").count() == 1
    shot(page, f"code-{kind.__name__}")


def test_what_is_refused_is_told_in_place_of_code(shown, lab):
    page = shown(Teach(lab, runner="inline"))
    page.field("Statements to learn from, one a line").fill("")
    page.page.keyboard.press("Tab")
    page.answer()
    page.button("Copy as code").click()
    page.answer()
    assert "no statement" in page.page.get_by_role("alert").text_content()
    assert not page.page.locator("textarea.code").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 1600])
def test_a_patch_opens_where_it_is_dropped_or_chosen_and_shows_its_card(shown, lab, facts, width, theme):
    run = smft.run(lab, facts, passes=2, top_t=9, probe_every=0)
    run.patch.save("of <b>three.safetensors")
    lab.reset()
    page = shown(TopT(lab, facts, runner="inline"), width, theme)
    page.page.get_by_label("Open a patch").set_input_files("of <b>three.safetensors")
    sent(page)
    card = page.page.locator(".patch .card")
    assert card.locator("h4").first.text_content() == "of <b>three.safetensors"
    assert card.locator("li").all_text_contents() == [fact.statements[0] for fact in facts]
    assert card.get_by_text("What it costs").count() == 1
    assert "of all reads of ordinary text" in card.text_content()
    shot(page, f"card-{theme}-{width}")
    page.button("Reset").click()
    page.answer()
    assert card.count() == 0
    data = base64.b64encode(Path("of <b>three.safetensors").read_bytes()).decode()
    page.page.evaluate(DROP, ["dropped.safetensors", data])
    sent(page)
    assert card.locator("h4").first.text_content() == "dropped.safetensors"


def test_a_file_that_is_no_patch_is_told(shown, lab, facts):
    page = shown(Slots(lab, facts))
    page.page.evaluate(DROP, ["notes.txt", "aGVsbG8="])
    sent(page)
    assert "notes.txt is not a patch" in page.page.get_by_role("alert").text_content()


def test_export_says_where_it_wrote_what(shown, lab, facts):
    page = shown(TopT(lab, facts, runner="inline"))
    page.button("Export").click()
    page.answer()
    assert "Exported to export: page.html, code.py, facts.jsonl" in page.page.locator(".note").text_content()
    assert Path("export/page.html").is_file()


@pytest.mark.parametrize(("theme", "width"), [("light", 1600), ("dark", 1000)])
def test_a_file_of_facts_is_chosen_and_the_panel_is_about_it(shown, lab, facts, width, theme):
    lines = [
        f'{{"statements": "{place} has 4417.", "question": "What has {place}?", "answers": "4417"}}' for place in "AB"
    ]
    Path("mine.jsonl").write_text("\n".join(lines))
    page = shown(TopT(lab, facts, runner="inline"), width, theme)
    page.page.get_by_label("Open a file of facts").set_input_files("mine.jsonl")
    sent(page)
    number = page.page.get_by_role("spinbutton", name="Facts", exact=True)
    assert page.page.locator(".top").text_content().startswith("Top-t2 facts")
    assert [number.input_value(), number.get_attribute("max")] == ["2", "2"]
    assert page.page.locator("datalist option").first.get_attribute("value") == "What has A?"
    assert page.page.locator(".note").text_content().startswith("2 facts to teach now")
    page.button("Teach").click()
    page.answer()
    assert page.page.locator(".numbers").text_content().startswith("t = ")
    shot(page, f"facts-{theme}-{width}")
