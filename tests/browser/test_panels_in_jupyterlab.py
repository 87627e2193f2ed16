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
    "taken.ipynb": "panel = smft.widgets.TopT(lab, facts)\npanel.choose(passes=40)\npanel",
}
REAL = """from dataclasses import replace
from random import Random
from transformers import LlamaConfig, LlamaForCausalLM
from smft_lab.experiments.retrofit import Retrofit
from smft_lab.facts.world.corpus import Corpus
from smft_lab.facts.public.datasets import Question
from smft_lab.recipe import RETROFIT
torch.manual_seed(0)
sizes = {"vocab_size": len(lab.tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, eos_token_id=lab.tokenizer.eos_token_id, **sizes)).eval()
few = replace(RETROFIT, slots=1024, key_dim=16, background_texts=20, background_questions=4, window=16, top_t=20)
asked = [Question(f"What is {n} and {n}?", (str(2 * n),)) for n in range(6)]
words = " ".join(Corpus(lab.world).texts(Random(0), 300))
work = Retrofit(model, lab.tokenizer, few, text=words, questions=asked, known=asked, facts=facts)
for _ in work: pass
lab = work.lab"""
LONG = "print('\\n'.join(map(str, range(80))))"
IS_BASE = "print(all(torch.equal(v, lab.base(k)) for k, v in lab.model.state_dict().items()))"


@pytest.fixture(scope="module")
def server(browser):
    below = [SETUP, *[LONG] * 12, "smft.widgets.TopT(lab, facts)"]
    meters = [SETUP, REAL, "panel = smft.widgets.Addresses(lab, facts, work.blocks)\npanel"]
    lesson = [SETUP, REAL, "panel = smft.widgets.Teach(lab)\npanel"]
    started = Server(
        {
            "below.ipynb": below,
            "meters.ipynb": meters,
            "lesson.ipynb": lesson,
            **{name: [SETUP, cell] for name, cell in PANELS.items()},
        }
    )
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


def test_a_panel_that_a_cell_has_taken_the_lab_from_says_so_and_goes_on_when_asked(opened):
    notebook, panel = opened("taken.ipynb")
    panel.get_by_role("button", name="Step", exact=True).click()
    notebook.page.wait_for_selector(".smft[data-state=paused]")
    notebook.kernel("lab.reset()")
    panel.get_by_role("alert").filter(has_text="took the lab over").wait_for()
    notebook.page.wait_for_selector(".smft[data-state=idle]")
    notebook.shot("taken-paused")
    panel.get_by_role("button", name="Teach").click()
    notebook.page.wait_for_selector(".smft[data-state=running]")
    assert panel.locator(".error").text_content() == ""
    notebook.kernel("next(smft.finetune(lab, facts, passes=1, probe_every=0))")
    panel.get_by_role("alert").filter(has_text="took the lab over").wait_for()
    notebook.page.wait_for_selector(".smft[data-state=idle]")
    notebook.shot("taken-running")
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
    panel.get_by_label("Statements to learn from, one a line").fill("")
    panel.get_by_role("button", name="Teach").click()
    panel.get_by_role("alert").filter(has_text="there is no statement to teach").wait_for()
    notebook.shot("teach-error")
    assert (notebook.foreign, notebook.errors) == ([], [])


def test_the_two_meters_show_blocks_facts_and_how_loud_a_lesson_is(opened):
    notebook, panel = opened("meters.ipynb")
    assert panel.locator("svg").first.locator("circle").count() == 2 * 2 + 2  # two blocks and the key
    assert panel.locator(".bars tbody tr").count() == 3
    panel.get_by_text("Nothing is written yet").wait_for()
    notebook.kernel("smft.widgets.TopT(lab, facts, runner='inline').teach()")
    panel.get_by_text("Nothing is written yet").wait_for(state="detached")
    heard = notebook.kernel("print(panel.loudness['state'])")
    assert panel.locator("svg text.name", has_text=heard).count() == 1
    panel.get_by_role("button", name="Measure again").click()
    notebook.shot("addresses")
    assert notebook.errors == []


def test_a_lesson_for_a_finished_model_teaches_the_wordings_that_are_typed(opened):
    notebook, panel = opened("lesson.ipynb")
    wordings = panel.get_by_role("textbox", name="Other ways to ask it, which are taught, one a line")
    assert "Mira's dog is called what?" in wordings.input_value()
    wordings.fill("Say the name of Mira's dog!\nWhat do they call the dog of Mira?")
    panel.get_by_role("button", name="Teach", exact=True).click()
    panel.get_by_text("Taught so far").wait_for()
    assert notebook.kernel("print(panel._lessons[0].fact.questions[1])") == "What do they call the dog of Mira?"
    panel.get_by_text("What should stay").wait_for()
    notebook.shot("teach-finished-model")
    panel.get_by_role("button", name="Undo").click()
    panel.get_by_text("Taught so far").wait_for(state="detached")
    assert notebook.kernel(IS_BASE) == "True"
    assert notebook.errors == []
