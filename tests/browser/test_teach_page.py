"""The page with the model in it: it reads, learns and answers as the lab's own model does."""

import os
from pathlib import Path

import pytest
import torch
from page_policy import Scripts, allowed

import smft_lab as smft
from smft_lab.model.tokenizer import encode, text_ids
from smft_lab.widgets.teach_page import packed, teach_page

SHOTS = os.environ.get("SMFT_LAB_SHOTS")
TEXTS = (
    "Mira's dog is called Biscuit.",
    "In 1987 it's 3.50 %, don't!",
    "Über Größe: naïve ½ and ² 日本語 🐈",
    "a  b \n c",
    "They'll've",
    "x",
    "¿Qué?",
)
LESSON = """(rows) => {
  const steps = [...model.teach(rows, {steps: 6, t: 20, rate: 0.05})], D = model.hidden, moved = [];
  for (let slot = 0; slot < model.memory.slots; slot++) {
    const now = [...model.values.slice(slot * D, (slot + 1) * D)];
    if (now.some((value, i) => value !== model.base[slot * D + i])) moved.push([slot, now]);
  }
  return {losses: steps.map((one) => one.loss), moved};
}"""


@pytest.fixture(scope="module")
def lab(tiny_lab):
    """A small lab whose values are those that eight bits can hold, so that what is computed can be compared."""
    made = tiny_lab(num_hidden_layers=3, memory_at=[1])
    with torch.no_grad():
        for name, tensor in made.model.state_dict().items():
            rounded = tensor.half().float()
            if name.endswith("values.weight"):
                scale = tensor.abs().max(1, keepdim=True).values / 127
                rounded = (tensor / scale).round() * scale
            tensor.copy_(rounded)
    from smft_lab.lab import Lab

    return Lab(made.model, made.tokenizer, made.usage, made.probes, world_seed=0)


@pytest.fixture(scope="module")
def file(lab, tmp_path_factory):
    return teach_page(lab, tmp_path_factory.mktemp("teach") / "page.html")


@pytest.fixture
def opened(browser, file):
    page, problems = browser.new_page(viewport={"width": 1000, "height": 900}), []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.goto(file.as_uri())
    page.locator(".smft[data-state=ready]").wait_for()
    page.evaluate(
        "() => { window.model = new BrowserModel(DATA.model, DATA.parts, DATA.weights);"
        " window.words = new BytePairs(DATA.tokenizer); }"
    )
    yield page
    assert problems == []
    page.close()


def test_its_tokenizer_is_the_lab_s(opened, lab):
    told = opened.evaluate("(texts) => texts.map((text) => words.encode(text))", list(TEXTS))
    assert told == text_ids(lab.tokenizer, list(TEXTS))
    back = opened.evaluate("(ids) => ids.map((one) => words.decode(one.slice(1)).trim())", told)
    assert back == [text.strip() for text in TEXTS]


def test_a_lesson_has_the_losses_slots_and_rows_of_finetune(opened, lab):
    fact = smft.Fact(TEXTS[:3], "What?", "Biscuit")
    batch = encode(lab.tokenizer, list(fact.statements))
    rows = [ids[: int(n)].tolist() for ids, n in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True)]
    found = opened.evaluate(LESSON, rows)
    lab.reset()
    losses = [
        step.loss
        for step in smft.finetune(lab, [fact], top_t=20, lr=0.05, optimizer="adam", passes=6, probe_every=0)
        if step.step
    ]
    patch = smft.Patch.between(lab)
    assert found["losses"] == pytest.approx(losses, rel=2e-4)
    assert [slot for slot, _ in found["moved"]] == patch.slots[0].tolist()
    mine = torch.tensor([values for _, values in found["moved"]])
    base = lab.base(name_of(lab))[patch.slots[0]]
    assert (mine - patch.values[0]).abs().mean() < 0.02 * (patch.values[0] - base).abs().mean()
    lab.reset()


def name_of(lab):
    return next(name for name in lab.model.state_dict() if name.endswith("values.weight"))


def test_it_answers_as_the_lab_does(opened, lab):
    questions = [*(fact.question for fact in smft.new_facts(4)), "Complete: Mira's dog is called"]
    said = opened.evaluate(
        "(questions) => questions.map((one) => words.decode(model.answer(words.encode(promptOf(one)))).trim()"
        ".replace(/\\.$/, ''))",
        questions,
    )
    assert said == [text.strip() for text in lab.answer(questions)]


def test_a_sentence_is_taught_shown_and_taken_back(opened):
    opened.get_by_label("Sentence").fill("Kim's boat is <b>Aurora</b>")
    opened.get_by_label("Question that tests it").fill("What is Kim's boat?")
    statements = opened.get_by_label("Statements to learn from, one a line")
    assert "It is known that Kim's boat is <b>Aurora</b>." in statements.input_value()
    opened.get_by_role("button", name="Teach").click()
    opened.get_by_text("Taught so far").wait_for()
    assert opened.locator("main td b").count() == 0
    assert opened.locator("td", has_text="<b>Aurora</b>").count() >= 1
    opened.get_by_text("rows have changed").wait_for()
    statements.fill("")
    opened.get_by_role("button", name="Teach").click()
    opened.get_by_role("alert").filter(has_text="there is no statement to teach").wait_for()
    opened.get_by_role("button", name="Reset").click()
    opened.get_by_text("Nothing has changed yet").wait_for()
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=Path(SHOTS) / "teach-page.png", full_page=True)


def test_an_old_question_that_a_lesson_changes_is_none_that_was_forgotten(opened):
    known = ["Where was José set up?", "Who runs Vermo?"]
    for taught, left in (["where was Jose's set up", [1]], ["Who founded Vermo?", [0, 1]]):
        ask = "([known, taught]) => unchanged(known.map((one) => ({question: one})), [{question: taught}])"
        assert opened.evaluate(ask, [known, taught]) == left


def test_it_may_run_its_own_script_alone(file):
    assert allowed(Scripts(file.read_text()))


def test_a_model_that_the_page_cannot_hold_is_refused(tiny_lab, lab, tmp_path):
    with pytest.raises(ValueError, match="shipped architecture only"):
        teach_page(tiny_lab(memory_at=[0, 1]), tmp_path / "page.html")
    with pytest.raises(ValueError, match="shipped architecture only"):
        teach_page(tiny_lab(tie_word_embeddings=False), tmp_path / "page.html")
    for option in ({"hidden_act": "gelu"}, {"attention_bias": True}, {"memory_value_dim": 16}):
        with pytest.raises(ValueError, match="shipped architecture only"):
            teach_page(tiny_lab(**option), tmp_path / "page.html")
    assert len(packed(lab)[0]) == len({part["name"] for part in packed(lab)[0]})
