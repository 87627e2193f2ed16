"""The slots, compare and teach panels in a real JupyterLab."""

import pytest
from live_notebook import Notebook, Server

SETUP = (
    "import torch\ntorch.set_num_threads(1)\nimport smft_lab as smft\n"
    "lab, facts = smft.load(), smft.new_facts(3, seed=3)"
)
PANELS = {
    "slots.ipynb": "panel = smft.widgets.Slots(lab, facts)\npanel",
    "compare.ipynb": "panel = smft.widgets.Compare(lab, facts, passes=1, evaluations=1)\npanel",
    "teach.ipynb": "panel = smft.widgets.Teach(lab)\npanel",
}
LONG = "print('\\n'.join(map(str, range(80))))"
IS_BASE = "print(all(torch.equal(v, lab.base(k)) for k, v in lab.model.state_dict().items()))"


@pytest.fixture(scope="module")
def server(browser):
    below = [SETUP, *[LONG] * 12, "smft.widgets.TopT(lab, facts)"]
    started = Server({"below.ipynb": below, **{name: [SETUP, cell] for name, cell in PANELS.items()}})
    yield started
    started.stop()


@pytest.fixture
def opened(server, browser):
    pages = []

    def run(name):
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        pages.append(page)
        page.set_default_timeout(60_000)
        notebook = Notebook(server, page)
        notebook.run(name)
        page.locator(".smft").wait_for(state="attached")
        return notebook, page.locator(".smft")

    yield run
    for page in pages:
        page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
        page.close()


def pixels(canvas):
    """How many different colours a canvas shows."""
    return canvas.evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )


def test_slots_are_read_pointed_at_and_looked_up(opened):
    notebook, panel = opened("slots.ipynb")
    assert panel.locator(".token").count() > 5
    assert pixels(panel.locator("canvas")) > 10
    panel.locator(".bars .pick").nth(1).click()
    second = notebook.kernel("print(panel.ranking[1]['slot'])")
    panel.locator(".card h4", has_text=f"Slot {second}:").wait_for()
    panel.get_by_role("button", name="Core set of the fact").click()
    panel.get_by_text("in the core and the top t").wait_for()
    notebook.shot("slots-core")
    panel.get_by_role("textbox", name="Text").fill("The capital of France is Paris.")
    notebook.page.keyboard.press("Enter")
    panel.locator(".token", has_text="Paris").wait_for()
    panel.get_by_role("button", name="Background df").click()
    panel.locator("canvas").hover(position={"x": 40, "y": 50})
    panel.locator(".under", has_text="background batches").wait_for()
    panel.locator(".token", has_text="Paris").click()
    panel.locator(".card td", has_text="Paris").wait_for()
    panel.get_by_role("spinbutton", name="Slot").fill("99999999")
    notebook.page.keyboard.press("Tab")
    panel.get_by_role("alert").filter(has_text="slots are numbered 0 to").wait_for()
    notebook.shot("slots-error")
    assert (notebook.foreign, notebook.errors) == ([], [])


def test_a_panel_below_the_screen_has_its_colours_when_it_comes_into_sight(opened):
    notebook, panel = opened("below.ipynb")
    panel.scroll_into_view_if_needed()
    panel.locator("canvas").hover()
    notebook.page.wait_for_timeout(300)
    notebook.shot("below")
    blue = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.join().includes('0,114,178,255')"
    assert panel.locator("canvas").evaluate(blue)


def test_three_methods_are_compared_while_the_kernel_answers(opened):
    notebook, panel = opened("compare.ipynb")
    panel.get_by_role("button", name="Start").click()
    notebook.page.wait_for_selector(".smft[data-state=running]")
    assert notebook.kernel("print(panel.state)") == "running"
    notebook.page.wait_for_selector(".smft[data-state=idle]")
    for name in ("Base", "Sparse", "Full", "LoRA"):
        panel.locator(".measures td", has_text=name).wait_for()
    assert panel.locator(".verdict b").count() == panel.locator(".known canvas").count() == 3
    assert panel.locator("svg polyline").count() == 3
    question = notebook.kernel("print(facts[0].question)")
    panel.get_by_role("combobox", name="Question").fill(question)
    notebook.page.keyboard.press("Enter")
    panel.locator("td", has_text=question).wait_for()
    notebook.shot("compare-end")
    assert notebook.kernel(IS_BASE) == "True"
    assert (notebook.foreign, notebook.errors) == ([], [])


def test_a_typed_sentence_is_taught_answered_and_undone(opened):
    notebook, panel = opened("teach.ipynb")
    panel.get_by_role("button", name="Teach").click()  # the example that stands there
    panel.locator("td.right", has_text="Biscuit").wait_for()
    assert notebook.kernel(IS_BASE) == "False"
    assert pixels(panel.locator("canvas")) > 10
    notebook.shot("teach-end")
    panel.get_by_role("button", name="Undo").click()
    panel.locator(".note", has_text="Undone").wait_for()
    assert notebook.kernel(IS_BASE) == "True"
    panel.get_by_role("textbox", name="Sentence").fill("The capital of Australia is Canberra")
    panel.get_by_role("textbox", name="Question that tests it").fill("What is the capital of Australia?")
    notebook.page.keyboard.press("Tab")
    proposed = "() => document.querySelector('.smft textarea').value.includes('what is the capital of Australia')"
    notebook.page.wait_for_function(proposed)
    panel.locator("textarea").fill("")
    panel.get_by_role("button", name="Teach").click()
    panel.get_by_role("alert").filter(has_text="there is no statement to teach").wait_for()
    notebook.shot("teach-error")
    assert (notebook.foreign, notebook.errors) == ([], [])
