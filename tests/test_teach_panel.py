"""The teach panel, driven as the browser drives it, and the rules that make statements of a sentence."""

import time
from pathlib import Path

import pytest
import torch

import smft_lab as smft
from smft_lab.facts.own_facts import likely_answer, own_fact, statements_from_sentence
from smft_lab.finetuning.methods import Sparse
from smft_lab.probes.probes import QuestionProbe
from smft_lab.widgets import Slots, Teach, TopT
from smft_lab.widgets.kept import FEW, KeptQuestions
from smft_lab.widgets.teach import Lesson

DOG = ("Mira's dog is called Biscuit", "What is the name of Mira's dog?")


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture
def panel(lab):
    lab.reset()
    made = Teach(lab, runner="inline")
    yield made
    made.close()


def press(panel, name, **rest):
    """What the page sends."""
    panel._command(panel, {"do": name, **rest}, [])


def drafted(panel):
    return {name: panel.draft[name] for name in ("statements", "question", "answer")}


def teach(panel, **rest):
    press(panel, "teach", **{**drafted(panel), "passes": 3, "top_t": 20, **rest})


def weights(lab):
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        (*DOG, "Biscuit"),
        ("The capital of Australia is Canberra.", "What is the capital of Australia?", "Canberra"),
        ("My sister works at UniFirst", "Where does my sister work?", "UniFirst"),
        ("Our cat was born in New York!", "In which city was our cat born?", "New York"),
        ("Ada Lovelace wrote it", "Who wrote it?", ""),
    ],
)
def test_the_answer_is_told_from_the_end_of_the_sentence(sentence, question, answer):
    assert likely_answer(sentence, question) == answer


def test_paraphrases_are_distinct_hold_the_answer_and_never_the_question():
    statements = statements_from_sentence(*DOG, "Biscuit")
    assert len(statements) == len(set(statements)) >= 8
    assert all("Biscuit" in text for text in statements)
    assert not any(DOG[1].casefold() in text.casefold() for text in statements)
    assert own_fact([*statements, "  ", statements[0]], DOG[1], "Biscuit.").statements == tuple(statements)


def test_a_single_statement_or_wording_is_one_text_and_not_its_letters(lab):
    fact = own_fact(DOG[0], DOG[1], "Biscuit", "Who is Mira's dog?")
    assert (fact.statements, fact.questions) == ((DOG[0],), ("Who is Mira's dog?",))
    panel = Teach(lab)
    panel.propose("", DOG[1], "Biscuit", statements=DOG[0])
    assert panel.draft["statements"] == [DOG[0]]
    panel.close()


def test_a_lesson_is_a_sparse_finetune_on_the_statements_shown(lab, panel):
    statements = panel.draft["statements"]
    teach(panel)
    assert (panel.error, panel.state) == ("", "idle")
    taught = weights(lab)
    (lesson,) = panel.lessons
    assert lesson["slots"] == len(panel._lessons[0].patch) > 0
    lab.reset()
    fact = smft.Fact(tuple(statements), DOG[1], ("Biscuit",))
    lr = 2 * Sparse().resolved(lab).lr
    for _ in smft.finetune(lab, [fact], "sparse", lr=lr, passes=3, top_t=20, probe_every=0):
        pass
    assert same(taught, weights(lab))


def test_lessons_add_up_and_undo_takes_back_one_at_a_time_bitwise(lab, panel):
    base = weights(lab)
    teach(panel)
    one = weights(lab)
    press(panel, "propose", sentence="Our cat was born in Lisbon", question="In which city was our cat born?")
    assert panel.draft["answer"] == "Lisbon"
    teach(panel)
    assert [lesson["answer"] for lesson in panel.lessons] == ["Biscuit", "Lisbon"]
    assert not same(one, weights(lab))
    press(panel, "undo")
    assert same(one, weights(lab))
    assert len(panel.lessons) == 1
    press(panel, "undo")
    assert same(base, weights(lab))
    press(panel, "undo")
    assert "no lesson to undo" in panel.error


def test_a_lesson_says_which_others_trained_some_of_its_rows(panel):
    teach(panel)
    assert panel.lessons[0]["shared"] == []
    teach(panel, question="Who barks?", statements=["Mira's dog barks.", "Biscuit barks."])
    first, second = (lesson.slots for lesson in panel._lessons)
    both = len(first & second)
    assert [lesson["shared"] for lesson in panel.lessons] == [
        [{"question": question, "slots": both}] if both else [] for question in ("Who barks?", DOG[1])
    ]
    assert both


def test_an_earlier_lesson_that_is_broken_is_named_at_once(panel, monkeypatch):
    teach(panel)
    panel.lessons = [{**panel.lessons[0], "right": True}]
    monkeypatch.setattr(panel.lab, "answer", lambda questions, **options: ["Rex"] * len(questions))
    teach(panel, question="Who barks?")
    assert panel.note.endswith(f"This lesson broke an earlier one: {DOG[1]} is answered 'Rex' now, not 'Biscuit'.")


def test_what_was_forgotten_is_named(lab, panel, monkeypatch):
    questions = panel._kept.questions
    known = [True, True, *(False for _ in questions[2:])]
    monkeypatch.setattr(KeptQuestions, "right", lambda kept: known)
    teach(panel)
    assert panel.lost == []
    known = [False, True, *known[2:]]
    teach(panel, question="Who barks?")
    (lost,) = panel.lost
    assert lost == {
        "question": questions[0],
        "answer": panel._kept.probe.answers[0][0],
        "now": lab.answer([questions[0]], form=panel._kept.probe.form)[0],
    }
    press(panel, "reset")
    assert panel.lost == []


def test_reset_brings_the_base_back_after_several_lessons(lab, panel):
    base = weights(lab)
    teach(panel)
    teach(panel, question="Who barks?", answer="Biscuit")
    press(panel, "reset")
    assert same(base, weights(lab))
    assert (panel.lessons, panel.live) == ([], {})


def test_probes_are_shown_beside_their_base_and_move_with_the_model(lab, panel):
    expected = lab.probes.measure(lab.model, lab.tokenizer)
    teach(panel)
    assert {row["name"]: row["base"] for row in panel.probes} == {
        name: metrics.get("em", metrics.get("nll")) for name, metrics in expected.items()
    }
    now = lab.probes.measure(lab.model, lab.tokenizer)
    assert {row["name"]: row["now"] for row in panel.probes} == {
        name: metrics.get("em", metrics.get("nll")) for name, metrics in now.items()
    }


def test_a_lesson_that_changes_a_known_answer_does_not_count_it_as_forgotten(lab, panel):
    teach(panel)
    base = {one["name"]: one["base"] for one in panel.probes}
    old = lab.probes["old_facts"]
    for number in (0, 1):
        panel.draft = panel.draft | {"question": old.questions[number], "answer": "Biscuit"}
        teach(panel)
        assert panel.state == "idle"
        assert not set(old.questions[: number + 1]) & {*panel._stays["old_facts"].questions, *panel._kept.questions}
        assert len(panel._stays["old_facts"].questions) == len(old.questions) - number - 1
    taught = weights(lab)
    lab.reset()
    assert panel._base_probes == panel._stays.measure(lab.model, lab.tokenizer)
    assert {one["name"] for one in panel.probes} == set(base)
    panel._lessons[-1].patch.apply(lab)
    assert same(weights(lab), taught)


def test_a_question_that_moves_up_among_the_few_asked_is_left_out_where_a_lesson_changes_it(lab, monkeypatch):
    lab.reset()
    monkeypatch.setattr(lab, "recipe", smft.Recipe(order="stream", choice="batch", passes=1, least_steps=1))
    every = tuple(f"Who lives in house {number}?" for number in range(FEW + 1))
    answers = (("Ann",),) * len(every)
    probe = QuestionProbe("known", every, answers, replies=("Ann",) * len(every), form=lab.form)
    monkeypatch.setattr(lab, "probes", smft.Probes([probe]))
    panel = Teach(lab, runner="inline")
    first, last, other = (smft.Fact("So it is.", question, "Bob") for question in (every[0], every[-1], "Who barks?"))
    for lessons, fact, left in (([], first, every[1:]), ([first], last, every[1:-1]), ([first], other, every[1:])):
        panel._lessons = [Lesson(lesson, "", []) for lesson in lessons]
        assert panel._leave_out(fact)
        assert panel._kept.questions == panel._stays["known"].questions == left
        assert not panel._leave_out(fact)
    panel.close()


def test_what_was_asked_is_asked_again_after_a_lesson_and_after_undo(lab, panel, monkeypatch):

    def weight(*_):
        return str(sum(float(one.detach().double().sum()) for one in lab.model.parameters()))

    # Answers that tell the weights: the tiny model's own might not change.
    monkeypatch.setattr(
        "smft_lab.lab.answer", lambda model, tokenizer, questions, **options: [weight()] * len(questions)
    )
    base = weight()
    press(panel, "ask", question="Who is it?")
    press(panel, "propose", sentence=DOG[0], question=DOG[1])
    teach(panel)
    assert panel.answers[0]["now"] == weight() != base
    press(panel, "undo")
    assert panel.answers[0]["now"] == base


def test_a_lesson_can_be_stopped_and_what_it_taught_stays_until_undone(lab):
    lab.reset()
    base = weights(lab)
    panel = Teach(lab, runner="thread")
    press(panel, "teach", **{**drafted(panel), "passes": 5000, "top_t": 20})
    until = time.monotonic() + 20
    while not panel.live.get("step") and time.monotonic() < until:
        time.sleep(0.01)
    press(panel, "stop")
    assert panel.state == "idle"
    assert 0 < panel._lessons[0].steps < 5000
    assert not same(base, weights(lab))
    press(panel, "undo")
    assert same(base, weights(lab))
    panel.close()


def test_a_saved_patch_makes_the_taught_model_again(lab, panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teach(panel)
    taught = weights(lab)
    press(panel, "save", path="dog.safetensors")
    assert "Saved" in panel.note
    lab.reset()
    smft.Patch.load(tmp_path / "dog.safetensors").apply(lab)
    assert same(taught, weights(lab))


@pytest.mark.parametrize(
    "name",
    [
        "../dog.safetensors",
        "/tmp/dog.safetensors",
        "dog.txt",
        ".safetensors",
        7,
        "a/b.safetensors",
        "link.safetensors",
        "folder.safetensors",
    ],
)
def test_a_page_gives_a_patch_a_name_and_no_other_place(lab, panel, tmp_path, monkeypatch, name):
    (tmp_path / "own" / "folder.safetensors").mkdir(parents=True)
    (tmp_path / "own" / "link.safetensors").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "own")
    teach(panel)
    press(panel, "save", path=name)
    assert "give" in panel.error
    assert {file.name for file in tmp_path.rglob("*")} == {"own", "folder.safetensors", "link.safetensors"}


def test_a_page_replaces_a_patch_and_no_other_file(lab, panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").write_text("a person's own")
    teach(panel)
    press(panel, "save", path="model.safetensors")
    assert "model.safetensors is there and no patch, and would be lost" in panel.error
    assert Path("model.safetensors").read_text() == "a person's own"
    for _ in range(2):
        press(panel, "save", path="dog.safetensors")
        assert panel.error == ""


def test_slots_beside_it_light_up_and_other_panels_wait_for_the_lesson(lab, panel):
    slots = Slots(lab, text="Biscuit barks.")
    press(slots, "look", view="change")
    teach(panel)
    assert slots.heat == panel.heat
    trainer = TopT(lab, smft.new_facts(2, seed=3), runner="inline")
    press(trainer, "commit", settings={"top_t": 5, "passes": 1})
    assert trainer.error == ""
    trainer.close()
    slots.close()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"statements": ["", " "]}, "no statement to teach"),
        ({"statements": [f"Ask: {DOG[1]}"]}, "stands in the statement"),
        ({"question": " "}, "question"),
        ({"answer": ""}, "answer"),
        ({"passes": 0}, "passes"),
        ({"top_t": 0}, "top-t must be between"),
    ],
)
def test_a_lesson_that_cannot_be_taught_says_why_and_changes_nothing(lab, panel, change, problem):
    base = weights(lab)
    teach(panel, **change)
    assert problem in panel.error
    assert panel.state == "idle"
    assert same(base, weights(lab))


def test_a_sentence_whose_answer_cannot_be_told_asks_for_it(panel):
    press(panel, "propose", sentence="Ada Lovelace wrote it", question="Who wrote it?")
    assert "type it beside the question" in panel.error
    press(panel, "propose", sentence="Ada Lovelace wrote it", question="Who wrote it?", answer="Ada Lovelace")
    assert (panel.error, panel.draft["answer"]) == ("", "Ada Lovelace")


def test_what_a_person_gave_is_not_proposed_and_the_rest_is(panel):
    press(panel, "propose", sentence=DOG[0], question=DOG[1], statements=["Biscuit is what Mira calls her dog."])
    assert panel.draft["statements"] == ["Biscuit is what Mira calls her dog."]
    assert (panel.draft["answer"], panel.draft["edited"]) == ("Biscuit", ["statements"])


@pytest.mark.parametrize(
    ("sentence", "question"), [("Ada Lovelace wrote it", "Who wrote it?"), ("", DOG[1]), (DOG[0], " ")]
)
def test_what_was_proposed_for_another_sentence_is_gone_where_nothing_can_be_proposed(panel, sentence, question):
    press(panel, "propose", sentence=sentence, question=question)
    assert panel.error
    assert (panel.draft["statements"], panel.draft["answer"]) == ([], "")


def test_a_lesson_of_which_no_statement_says_the_answer_tells_so(panel):
    teach(panel, answer="Canberra")
    assert "No statement says 'Canberra'" in panel.note
    press(panel, "undo")
    teach(panel, answer="Biscuit")
    assert panel.note == ""
