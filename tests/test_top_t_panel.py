"""The top-t panel, driven as the browser drives it: messages in, traits out."""

import base64
import itertools
import json
import threading
import time

import pytest
import torch

import smft_lab as smft
from smft_lab.probes.probes import QuestionProbe, answer, recalled
from smft_lab.widgets import TopT, top_t


@pytest.fixture
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture
def panel(lab, facts):
    made = TopT(lab, facts, runner="inline")
    made.choose(passes=2, top_t=20, facts=3)
    yield made
    made.close()


def press(panel, name, /, **rest):
    """What the page sends."""
    panel._command(panel, {"do": name, **rest}, [])


def weights(lab):
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def model_sum(model):
    return sum(float(parameter.detach().double().sum()) for parameter in model.parameters())


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def wait(panel, state, seconds=20):
    until = time.monotonic() + seconds
    while panel.state != state and time.monotonic() < until:
        time.sleep(0.01)
    assert panel.state == state


def test_letting_the_slider_go_finetunes_from_the_base_and_leaves_a_path(lab, panel):
    base = weights(lab)
    press(panel, "commit", settings={"top_t": 30})
    assert panel.error == ""
    assert panel.state == "idle"
    (run,) = panel.runs
    assert run["settings"]["top_t"] == 30
    assert (run["step"], run["total"]) == (6, 6)
    assert [run["points"][0][0], run["points"][-1][0]] == [0, 6]
    assert not same(base, weights(lab))


def test_the_run_is_the_one_that_finetune_makes(lab, facts, panel):
    press(panel, "commit", settings={"top_t": 30, "optimizer": "sgd", "lr": 5.0})
    shown = weights(lab)
    lab.reset()
    for _ in smft.finetune(lab, facts, "sparse", top_t=30, optimizer="sgd", lr=5.0, passes=2, probe_every=0):
        pass
    assert same(shown, weights(lab))


def test_every_run_starts_from_the_base(lab, panel):
    press(panel, "commit", settings={"top_t": 30})
    once = weights(lab)
    press(panel, "commit", settings={"top_t": 5})
    press(panel, "commit", settings={"top_t": 30})
    assert len(panel.runs) == 3
    assert same(once, weights(lab))


def test_undo_goes_back_one_run_and_reset_to_the_base_bitwise(lab, panel):
    base = weights(lab)
    press(panel, "commit", settings={"top_t": 30})
    first = weights(lab)
    press(panel, "commit", settings={"top_t": 5})
    press(panel, "undo")
    assert same(first, weights(lab))
    assert len(panel.runs) == 1
    press(panel, "undo")
    assert same(base, weights(lab))
    assert panel.runs == []
    press(panel, "undo")
    assert "no run to undo" in panel.error
    press(panel, "teach")
    press(panel, "reset")
    assert same(base, weights(lab))
    assert len(panel.runs) == 1


def test_stepping_to_the_end_is_the_same_run(lab, panel):
    press(panel, "teach")
    whole = weights(lab)
    for step in range(1, 7):
        press(panel, "step")
        if step < 6:
            assert panel.state == "paused"
            assert panel.live["step"] == step
    press(panel, "teach")
    assert panel.state == "idle"
    assert same(whole, weights(lab))


def test_a_paused_run_goes_on_where_it_stopped_unless_its_settings_change(panel):
    press(panel, "step")
    press(panel, "teach")
    assert [run["step"] for run in panel.runs] == [6]
    press(panel, "step")
    press(panel, "choose", top_t=3)
    states = []
    panel.observe(lambda change: states.append(change["new"]), "state")
    press(panel, "teach")
    assert states == ["running", "idle"]  # never idle before the new run has ended
    assert [(run["step"], run["settings"]["top_t"]) for run in panel.runs] == [(6, 20), (1, 20), (6, 3)]


def test_a_thread_trains_while_the_kernel_is_free_and_stop_ends_it(lab, facts):
    panel = TopT(lab, facts, runner="thread")
    base = weights(lab)
    panel.choose(passes=100, top_t=20)
    press(panel, "teach")
    assert panel.state == "running"
    press(panel, "ask", question=facts[0].question)
    assert panel.answers[0]["question"] == facts[0].question
    press(panel, "stop")
    wait(panel, "paused")
    stopped = weights(lab)
    time.sleep(0.05)
    assert same(stopped, weights(lab))
    press(panel, "reset")
    assert same(base, weights(lab))
    assert panel.error == ""
    panel.close()
    assert not [thread for thread in threading.enumerate() if "smft-lab" in thread.name]


def test_a_new_value_cancels_the_run_under_way(lab, facts):
    panel = TopT(lab, facts, runner="thread")
    panel.choose(passes=100)
    press(panel, "teach")
    press(panel, "commit", settings={"top_t": 10, "passes": 1})
    wait(panel, "idle")
    assert panel.runs[-1]["settings"]["top_t"] == 10
    assert panel.runs[-1]["step"] == 3
    assert all(run["step"] < 300 for run in panel.runs[:-1])
    panel.close()


def test_a_second_panel_says_that_the_lab_is_taken_until_the_first_lets_go(lab, facts):
    panel, other = TopT(lab, facts, runner="tick"), TopT(lab, facts, runner="inline")
    press(panel, "teach")
    press(other, "teach")
    assert "another panel" in other.error
    press(other, "reset")
    assert "another panel" in other.error
    press(panel, "reset")
    press(other, "teach")
    assert other.error == ""
    assert len(other.runs) == 1
    press(other, "step")
    other.close()
    press(panel, "teach")
    assert panel.error == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_t": 0}, "top-t must be between 1 and the 256 slots"),
        ({"top_t": 300}, "top-t must be between 1 and the 256 slots"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"facts": 9}, "facts must be between 1 and 3"),
        ({"facts": None}, "facts must be a finite number"),
        ({"lr": -1.0}, "-1"),
        ({"rule": "best"}, "no rule 'best'"),
        ({"speed": 1}, "no setting speed"),
    ],
)
def test_bad_settings_are_shown_and_change_nothing(panel, settings, said):
    before = panel.settings
    press(panel, "commit", settings=settings)
    assert said in panel.error
    assert panel.settings == before
    assert panel.runs == []
    press(panel, "teach")
    assert panel.error == ""


def test_an_error_while_training_is_shown_and_the_panel_goes_on_working(panel, monkeypatch):
    from smft_lab.finetuning.methods.sparse import SparseTraining

    def broken(self, batch):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(SparseTraining, "update", broken)
        press(panel, "teach")
    assert panel.error == "RuntimeError: out of memory"
    assert panel.state == "idle"
    press(panel, "teach")
    assert panel.error == ""
    assert panel.state == "idle"
    assert len(panel.runs) == 1


def test_an_unknown_command_is_shown(panel):
    press(panel, "close")
    assert "doesn't know" in panel.error


def test_the_base_is_asked_too_and_the_finetuned_model_stays(lab, facts, panel):
    question = facts[0].question
    (at_base,) = answer(lab.model, lab.tokenizer, [question])
    press(panel, "teach")
    taught = weights(lab)
    press(panel, "ask", question=f" {question} ")
    assert panel.answers[0]["base"] == at_base
    assert panel.answers[0]["now"] == answer(lab.model, lab.tokenizer, [question])[0]
    assert same(taught, weights(lab))
    press(panel, "ask", question="  ")
    assert "type a question" in panel.error


def test_the_saved_patch_makes_the_same_model(lab, panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    press(panel, "save")
    assert "nothing to save" in panel.error
    press(panel, "teach")
    taught = weights(lab)
    press(panel, "save")
    assert "patch.safetensors" in panel.note
    press(panel, "reset")
    smft.Patch.load("patch.safetensors").apply(lab)
    assert same(taught, weights(lab))


def test_what_travels_to_the_page_is_small_and_plain_json(panel):
    press(panel, "teach")
    state = panel.get_state(drop_defaults=False)
    binary = sum(len(value) for value in state.values() if isinstance(value, bytes | memoryview))
    plain = {
        name: value
        for name, value in state.items()
        if not isinstance(value, bytes | memoryview) and name not in ("_esm", "_css", "layout")
    }
    json.dumps(plain, allow_nan=False)
    live = {name: value for name, value in plain.items() if name in ("live", "runs", "state")}
    assert len(json.dumps(live)) < 4000
    assert binary < 300_000


def test_the_preview_covers_every_t_up_to_the_most_that_is_read(panel):
    grid = panel.preview["t"]
    assert (grid[0], grid[-1]) == (1, panel.coverage.most)
    assert panel.preview["of_facts"][-1] == 1
    assert panel.preview["chosen"] == sorted(panel.preview["chosen"])


def test_a_path_is_named_by_what_sets_it_apart_from_the_first(panel):
    for settings in (
        {"top_t": 30},
        {"top_t": 5, "rule": "tf"},
        {"top_t": 30, "rule": "tfidf", "optimizer": "sgd"},
        {"optimizer": "adam", "lr": 0.25, "passes": 1},
        {"passes": 2, "lr": None},
    ):
        press(panel, "commit", settings=settings)
    assert panel.error == ""
    assert [run["name"] for run in panel.runs] == [
        "t = 30",
        "t = 5, tf",
        "t = 30, sgd",
        "t = 30, rate 0.25, 1 pass",
        "t = 30 (2)",
    ]


def test_a_path_tells_how_many_rows_it_has_changed(lab, panel):
    press(panel, "commit", settings={"top_t": 30})
    assert panel.runs[-1]["rows"] == len(smft.Patch.between(lab)) > 0


def test_what_was_asked_is_asked_again_when_the_model_has_become_another(lab, facts, panel, monkeypatch):

    # Told by its weights: the tiny model's own answers might not change.
    monkeypatch.setattr("smft_lab.lab.answer", lambda model, _, asked, **options: [f"{model_sum(model)}"] * len(asked))
    base = model_sum(lab.model)
    press(panel, "ask", question=facts[0].question)
    assert panel.answers[0]["now"] == f"{base}"
    press(panel, "commit", settings={"top_t": 30})
    assert panel.answers[0]["now"] == f"{model_sum(lab.model)}" != f"{base}"
    press(panel, "undo")
    assert panel.answers[0]["now"] == f"{base}"
    press(panel, "step")
    press(panel, "reset")
    assert panel.answers[0]["now"] == f"{base}"


def test_a_page_can_tell_that_its_command_is_done_even_if_it_failed(panel):
    before = panel.handled
    press(panel, "ask", question="")
    press(panel, "tick")
    assert (panel.error != "", panel.handled) == (True, before + 1)


def test_a_snapshot_is_a_picture_that_tells_how_many_runs_it_shows(panel):
    at_rest = panel.snapshot()
    press(panel, "commit", settings={"top_t": 30})
    press(panel, "commit", settings={"top_t": 5})
    assert "0 runs" in at_rest.says
    assert "t is 5; 2 runs" in panel.snapshot().says
    assert panel.snapshot().png != at_rest.png


def test_the_lab_cannot_be_reset_from_within_a_step(lab, facts):
    def computing():
        with pytest.raises(ValueError, match="within its own step"):
            lab.reset()
        yield

    run = computing()
    lab.begin(run, threading.Event())
    next(run)
    lab.reset()


def test_recall_without_generating_agrees_with_greedy_answers():
    lab = smft.load()
    facts = smft.new_facts(6, seed=1)
    probe = lab.probes["old_facts"]
    questions = probe.questions[:40] + tuple(fact.question for fact in facts)
    answers = tuple(accepted[0] for accepted in probe.answers[:40]) + tuple(fact.answer for fact in facts)
    for passes in (0, 4):
        if passes:
            for _ in smft.finetune(lab, facts, passes=passes, probe_every=0):
                pass
        said = answer(lab.model, lab.tokenizer, questions)
        found = recalled(lab.model, lab.tokenizer, questions, answers).tolist()
        assert found == [one == other for one, other in zip(said, answers, strict=True)]
        measured = QuestionProbe("all", questions, tuple((one,) for one in answers)).measure(lab.model, lab.tokenizer)
        assert measured["em"] == pytest.approx(sum(found) / len(found))
    assert any(found[40:])


def test_a_path_has_points_enough_to_be_seen_moving_however_fast_it_is(lab, facts, monkeypatch):
    monkeypatch.setattr(top_t, "MEASURED_EVERY", 1e9)  # so fast that no time passes
    panel = TopT(lab, facts, runner="inline")
    panel.choose(passes=20, top_t=20, facts=3)
    press(panel, "teach")
    steps = [step for step, *_ in panel.runs[0]["points"]]
    assert len(steps) > 20
    assert max(after - before for before, after in itertools.pairwise(steps)) <= 3
    assert steps[-1] == panel.runs[0]["total"]


def test_a_file_of_facts_that_comes_with_the_page_is_taught_in_place_of_the_old_ones(lab, panel):
    base = weights(lab)
    press(panel, "teach")
    lines = [
        {
            "statements": [f"The door code of {place} is {code}."],
            "question": f"Which code has {place}?",
            "answers": code,
        }
        for place, code in (("Oslo", "4417"), ("Porto", "9082"))
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    press(panel, "take_facts", name="../mine.jsonl", data=base64.b64encode(text).decode())
    assert panel.error == ""
    assert [fact.answer for fact in panel.facts] == ["4417", "9082"]
    assert len(panel.facts[0].statements) > 4  # by rule
    assert panel.limits["facts"] == panel.settings["facts"] == 2
    assert panel.limits["questions"][0] == "Which code has Oslo?"
    assert panel.runs == []
    assert same(weights(lab), base)
    press(panel, "teach")
    assert len(panel.runs) == 1
    assert panel.runs[0]["total"] == 4


def test_a_file_of_facts_with_a_mistake_is_refused_and_changes_nothing(lab, facts, panel):
    press(panel, "teach")
    taught = weights(lab)
    press(
        panel,
        "take_facts",
        name="mine.jsonl",
        data=base64.b64encode(b'{"statements": "Here.", "question": "Where?"}').decode(),
    )
    assert panel.error == "mine.jsonl, line 1, field 'answers': is missing; give it"
    assert panel.facts == facts
    assert len(panel.runs) == 1
    assert same(weights(lab), taught)
