"""A panel whose lab something else has taken over says so on its face, and leaves the model to that."""

import pytest
import torch

from smft_lab import finetune
from smft_lab.experiments.compare import Comparison
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import TakenOver
from smft_lab.finetuning.methods import Sparse
from smft_lab.widgets import Compare, Teach, TopT, runners

FACTS = new_facts(2, seed=5)
DOG = {"statements": ["Mira's dog is called Biscuit."], "question": "What is Mira's dog called?", "answer": "Biscuit"}
BEGIN = {
    "compare": lambda lab: (Compare(lab, FACTS, runner="tick", passes=9, top_t=20), "start", {}),
    "teach": lambda lab: (Teach(lab, runner="tick"), "teach", {"passes": 9, **DOG}),
    "top t": lambda lab: (TopT(lab, FACTS, runner="tick"), "commit", {"settings": {"passes": 9}}),
}
TAKE = {
    "reset": lambda lab, path: lab.reset(),
    "save": lambda lab, path: lab.save(path / "lab"),
    "finetune": lambda lab, path: finetune(lab, FACTS, passes=1, top_t=20, probe_every=0),
}


def by_a_panel(lab, path):
    other = TopT(lab, FACTS, runner="inline")
    press(other, "commit", settings={"passes": 1, "top_t": 5})
    assert (other.error, len(other.runs)) == ("", 1)
    other.close()


def press(panel, name, **options):
    """What the page sends."""
    panel._command(panel, {"do": name, **options}, [])


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def bitwise_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def under_way(kind, lab):
    """A panel of that kind in the middle of a run."""
    panel, name, options = BEGIN[kind](lab)
    press(panel, name, **options)
    base = state(lab.model)
    while bitwise_equal(base, state(lab.model)):
        press(panel, "tick")
    assert (panel.error, panel.state) == ("", "running")
    return panel


@pytest.fixture(autouse=True)
def one_step_a_tick(monkeypatch):
    monkeypatch.setattr(runners, "TICK", 0.0)


@pytest.mark.parametrize("take", TAKE)
@pytest.mark.parametrize("kind", BEGIN)
def test_a_running_panel_says_so_at_its_next_step_and_touches_the_model_no_more(tiny_lab, tmp_path, kind, take):
    lab = tiny_lab()
    panel = under_way(kind, lab)
    run = TAKE[take](lab, tmp_path)
    left = state(lab.model)
    press(panel, "tick")
    assert "took the lab over" in panel.error
    assert panel.state == "idle"
    assert bitwise_equal(state(lab.model), left)
    if take == "finetune":
        assert [step.step for step in run] == [0, 1, 2]
    press(panel, "reset")
    assert panel.error == ""
    other = TopT(lab, FACTS, runner="inline")
    press(other, "teach")  # nobody holds the lab any more
    assert other.error == ""
    other.close()
    panel.close()


@pytest.mark.parametrize("take", [*TAKE, "panel"])
@pytest.mark.parametrize("kind", ["compare", "top t"])
def test_a_stopped_panel_says_so_at_once(tiny_lab, tmp_path, kind, take):
    lab = tiny_lab()
    panel = under_way(kind, lab)
    press(panel, "stop")
    assert (panel.error, panel.state) == ("", "paused")
    run = {**TAKE, "panel": by_a_panel}[take](lab, tmp_path)
    assert "took the lab over" in panel.error
    assert panel.state == "idle"
    if take == "reset":
        assert bitwise_equal(state(lab.model), state(tiny_lab().model))
    if take == "finetune":
        assert [step.step for step in run] == [0, 1, 2]
    panel.close()


@pytest.mark.parametrize("kind", ["compare", "top t"])
def test_a_cell_with_a_panel_can_be_run_again_and_again_though_the_last_one_was_stopped(tiny_lab, kind):
    lab = tiny_lab()
    for _ in range(3):
        panel = under_way(kind, lab)  # which says of no error
        press(panel, "stop")


def test_a_comparison_that_was_stopped_before_its_first_run_gives_way_too(tiny_lab, tmp_path):
    lab = tiny_lab()
    panel = Compare(lab, FACTS, runner="tick", passes=9, top_t=20)
    press(panel, "start")
    press(panel, "stop")
    by_a_panel(lab, tmp_path)
    assert (panel.state, "took the lab over" in panel.error) == ("idle", True)
    press(panel, "start")
    assert panel.error == ""


def test_to_ask_a_comparison_takes_the_lab_from_nobody(tiny_lab):
    lab = tiny_lab()
    comparison = Compare(lab, FACTS, runner="inline", passes=1, top_t=20)
    press(comparison, "start")
    panel = under_way("top t", lab)
    press(panel, "stop")
    press(comparison, "ask", question="Who?")
    assert "another panel" in comparison.error
    assert (panel.state, panel.error) == ("paused", "")


@pytest.mark.parametrize("kind", ["teach", "top t"])
def test_a_panel_that_has_taught_says_that_another_one_has_changed_the_model_since(tiny_lab, kind):
    lab = tiny_lab()
    panel = under_way(kind, lab)
    while panel.state == "running":
        press(panel, "tick")
    assert "Another panel" not in panel.note
    other = TopT(lab, FACTS, runner="inline")
    press(other, "commit", settings={"passes": 1, "top_t": 5})
    assert panel.note.startswith("Another panel has changed the model since")
    press(other, "undo")
    assert "Another panel" not in other.note
    press(panel, "reset")
    press(other, "commit", settings={"passes": 1, "top_t": 5})
    assert panel.note == "The base is back, bitwise."
    other.close()
    panel.close()


def test_a_run_that_a_later_one_ends_is_no_result(tiny_lab):
    lab = tiny_lab()
    steps = Comparison(lab, FACTS, (Sparse(top_t=20), "full"), passes=2, seeds=[0]).steps()
    while next(steps).step < 2:
        pass
    later = finetune(lab, FACTS, passes=1, top_t=20, probe_every=0)
    next(later), next(later)
    taught = state(lab.model)
    with pytest.raises(TakenOver, match="after step 2"):
        next(steps)
    assert bitwise_equal(state(lab.model), taught)
    assert next(later).last
