"""The top-t panel in a real JupyterLab: dragged, typed at, stopped, undone, asked, in light and dark."""

import pytest
from live_notebook import Notebook, Server

CELLS = [
    "import torch\ntorch.set_num_threads(1)\nimport smft_lab as smft\nfrom smft_lab.widgets import TopT\n"
    "lab, facts = smft.load(), smft.new_facts(8, seed=3)",
    "panel = TopT(lab, facts)\npanel.choose(passes=400)\npanel",
]
IS_BASE = "print(all(torch.equal(v, lab.base(k)) for k, v in lab.model.state_dict().items()))"


@pytest.fixture(scope="module")
def server(browser):
    started = Server({"top_t.ipynb": CELLS})
    yield started
    started.stop()


@pytest.fixture
def notebook(server, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1050})
    page.set_default_timeout(60_000)
    opened = Notebook(server, page)
    opened.run("top_t.ipynb")
    yield opened
    page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
    page.close()


def test_the_slider_starts_a_finetune_that_can_be_stopped_undone_and_taken_back(notebook):
    page, panel = notebook.page, notebook.page.locator(".smft")
    panel.wait_for()
    notebook.shot("top_t-rest")
    state = lambda name: page.wait_for_selector(f".smft[data-state={name}]")  # noqa: E731
    slider, said = panel.get_by_role("slider"), panel.locator(".preview")

    # Dragging previews without training; letting go trains.
    before = said.text_content()
    notebook.drag(slider, 0.5)
    assert said.text_content() != before
    assert notebook.kernel("print(panel.state, len(panel.runs))") == "idle 0"
    page.mouse.up()
    state("running")
    panel.locator("svg circle").nth(3).wait_for(state="attached")
    first = panel.locator("svg polyline").get_attribute("points")
    page.wait_for_function("was => document.querySelector('.smft polyline').getAttribute('points') !== was", arg=first)
    assert notebook.kernel("print(panel.state)") == "running"  # and the kernel answers meanwhile
    notebook.shot("top_t-motion")

    # Stop keeps the model as it is; going on goes on.
    panel.get_by_role("button", name="Stop").click()
    state("paused")
    steps = int(notebook.kernel("print(panel.live['step'])"))
    assert 0 < steps < 3200
    assert notebook.kernel(IS_BASE) == "False"

    # A key moves the slider and starts anew, which leaves the first path.
    slider.focus()
    page.keyboard.press("ArrowLeft")
    state("running")
    panel.get_by_role("spinbutton", name="Passes").fill("2")
    panel.get_by_role("button", name="Stop").click()
    state("paused")
    panel.get_by_role("button", name="Teach").or_(panel.get_by_role("button", name="Go on")).click()
    state("idle")
    assert int(notebook.kernel("print(len(panel.runs))")) >= 2
    assert notebook.kernel("print(panel.runs[-1]['step'])") == "16"

    # Asking, undoing, and the base back bitwise.
    panel.get_by_role("textbox", name="Question").or_(panel.get_by_role("combobox", name="Question")).fill(
        notebook.kernel("print(facts[0].question)")
    )
    page.keyboard.press("Enter")
    panel.locator("td", has_text=notebook.kernel("print(facts[0].question)")).first.wait_for()
    panel.get_by_text("Show as a table").click()
    notebook.shot("top_t-end")
    runs = int(notebook.kernel("print(len(panel.runs))"))
    panel.get_by_role("button", name="Undo").click()
    panel.locator(".note", has_text="Undone").wait_for()
    assert int(notebook.kernel("print(len(panel.runs))")) == runs - 1
    panel.get_by_role("button", name="Reset").click()
    panel.locator(".note", has_text="base is back").wait_for()
    assert notebook.kernel(IS_BASE) == "True"

    # What goes wrong is shown, in red, with what to do.
    panel.get_by_role("spinbutton", name="Facts").fill("99")
    page.keyboard.press("Tab")
    panel.get_by_role("alert").filter(has_text="facts must be between 1 and 8").wait_for()
    notebook.shot("top_t-error")

    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector(".smft.dark")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    notebook.shot("top_t-dark")
    assert notebook.foreign == []
    assert notebook.errors == []
