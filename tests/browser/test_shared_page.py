"""The page without a kernel, opened from a file: everything on it is live, and its address holds its state."""

import os
from pathlib import Path

import pytest

import smft_lab as smft

SHOTS = os.environ.get("SMFT_LAB_SHOTS")
T, RULES = (1, 4, 20, 60), ("tfidf", "tf", "all")


@pytest.fixture(scope="module")
def file(tiny_lab, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    nasty = smft.Fact(("Mira's dog is called <b>Rex</b>.",), "What is <i>Mira's</i> dog called?", ("<b>Rex</b>",))
    facts = [*smft.new_facts(2, seed=3), nasty]
    return smft.page(tiny_lab(), facts, path, rules=RULES, top_t=T, seeds=2, passes=2, rephrase=False)


@pytest.fixture
def opened(browser, file):
    """Opens the page at an address; at the end it must have raised no error and asked for nothing but itself."""
    pages, problems, asked = [], [], []

    def open_at(fragment="", width=1000, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(5000)
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url.split("#")[0]))
        page.goto(file.as_uri() + fragment)
        pages.append(page)
        return page

    yield open_at
    assert (problems, set(asked)) == ([], {file.as_uri()})
    for page in pages:
        page.close()


def said(page) -> str:
    return page.locator(".preview").text_content()


def fragment(page, has: str) -> str:
    page.wait_for_function("has => location.hash.includes(has)", arg=has)
    return page.evaluate("location.hash")


def pixels(page) -> str:
    return page.evaluate("() => document.querySelector('canvas').toDataURL()")


def test_the_slider_moves_everything_on_the_page_at_once(opened):
    page = opened("#t=1")
    slider = page.get_by_role("slider")
    before = (said(page), pixels(page), page.locator(".numbers").text_content(), page.locator(".strips").inner_html())
    assert "t = 1 chooses" in before[0]
    slider.focus()
    page.keyboard.press("End")
    after = (said(page), pixels(page), page.locator(".numbers").text_content(), page.locator(".strips").inner_html())
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert "t = 60 chooses" in after[0]
    assert slider.get_attribute("aria-valuetext") == "60 slots"
    assert page.locator(".answers th", has_text="Sparse, t = 60").count() == 2
    assert fragment(page, "t=60") == "#t=60&rule=tfidf&seed=0"


def test_an_address_restores_the_state_and_a_strange_one_does_no_harm(opened):
    page = opened("#t=18&rule=tf&seed=1&methods=sparse,lora&fact=2")
    assert "t = 20 chooses" in said(page)  # the nearest there is
    assert page.get_by_label("Rule that chooses slots").input_value() == "tf"
    assert page.get_by_label("Seed").input_value() == "1"
    assert [page.get_by_label(name, exact=True).is_checked() for name in ("Sparse", "Full", "LoRA")] == [
        True,
        False,
        True,
    ]
    assert page.get_by_label("Fact", exact=True).input_value() == "1"
    page.evaluate("location.hash = '#t=4&rule=tfidf'")
    page.wait_for_function("() => document.querySelector('.preview').textContent.includes('t = 4 ')")
    strange = opened("#t=many&rule=best&seed=9&methods=none&fact=-3&%zz=<script>")
    assert strange.get_by_label("Rule that chooses slots").input_value() == "tfidf"
    assert strange.locator(".numbers > div").count() == 3


def test_methods_rule_and_seed_change_what_is_shown(opened):
    page = opened()
    assert page.locator("svg polyline").count() == 4  # three methods, and where each t ends
    page.get_by_role("checkbox", name="Full").uncheck()
    assert page.locator("svg polyline").count() == 3
    assert page.locator(".answers th", has_text="Full").count() == 0
    page.get_by_label("Rule that chooses slots").select_option("all")
    assert page.get_by_role("slider").is_disabled()
    assert "Every slot the facts read" in said(page)
    page.get_by_label("Seed").select_option("1")
    assert fragment(page, "seed=1") == "#rule=all&seed=1&methods=sparse,lora"


def test_playing_passes_every_place_and_stops_where_a_hand_takes_over(opened):
    page = opened("#t=1")
    page.evaluate(
        "() => { window.passed = []; new MutationObserver(() => window.passed.push(document.querySelector('output')"
        ".textContent)).observe(document.querySelector('output'), {childList: true}); }"
    )
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('output').textContent === 't = 60'")
    assert [*dict.fromkeys(page.evaluate("window.passed"))] == ["t = 4", "t = 20", "t = 60"]
    page.get_by_role("button", name="Play").wait_for()
    page.get_by_role("button", name="Play").click()  # from the start again
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    stays = page.locator("output").text_content()
    page.wait_for_timeout(600)
    assert page.locator("output").text_content() == stays != "t = 60"
    page.get_by_role("button", name="Play").wait_for()


def test_texts_of_facts_stay_texts(opened):
    page = opened("#fact=3")
    assert page.locator("main b", has_text="Rex").count() == 0
    assert page.get_by_text("What is <i>Mira's</i> dog called?").count() >= 1
    assert page.evaluate("() => document.querySelectorAll('script').length") == 2


def test_all_of_it_is_reached_by_keyboard_and_named_for_a_screen_reader(opened):
    page = opened()
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                "() => document.activeElement.ariaLabel || document.activeElement.labels?.[0]?.textContent"
                " || document.activeElement.textContent"
            )
        )
    wanted = [
        "Skip to the slider",
        "t: slots each step may change",
        "Rule that chooses slots",
        "Seed",
        "Sparse",
        "Full",
        "LoRA",
        "Play",
        "Copy link",
        "Copy as code",
    ]
    told = " | ".join(names)
    assert [name for name in wanted if name not in told] == []
    for picture in page.get_by_role("img").all():
        assert len(picture.get_attribute("aria-label")) > 10
    assert page.locator("main").get_by_role("table").first.locator("th").count() > 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [600, 1000, 1600])
def test_nothing_is_cut_off_and_texts_stand_out_in_light_and_dark(opened, width, scheme):
    page = opened("#t=20", width, scheme)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".smft").evaluate("(root) => root.classList.contains('dark')") == (scheme == "dark")
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"shared-{scheme}-{width}.png", full_page=True)


def test_the_page_follows_when_the_browser_turns_dark(opened):
    page = opened()
    was = pixels(page)
    page.emulate_media(color_scheme="dark")
    page.locator(".smft.dark").wait_for()
    assert pixels(page) != was


def test_the_link_holds_what_stands_there(opened):
    page = opened("#t=4&rule=tf&seed=0")
    page.evaluate(
        "() => document.addEventListener('copy', () => { window.copied = getSelection().toString() ||"
        " document.activeElement.value; })"
    )
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("window.copied").endswith("page.html#t=4&rule=tf&seed=0")


def test_the_code_makes_the_run_that_is_shown(opened, tiny_lab):
    page = opened("#t=4&rule=tf&seed=1")
    page.evaluate("() => document.addEventListener('copy', () => { window.copied = document.activeElement.value; })")
    page.get_by_role("button", name="Copy as code").click()
    names = {"lab": tiny_lab()}
    exec(page.evaluate("window.copied"), names)
    assert f"{len(names['run'].patch):,} rows changed" in page.locator(".numbers > div").first.text_content()
    assert [names["run"].summary()[name] for name in ("top_t", "rule", "seed")] == [4, "tf", 1]
