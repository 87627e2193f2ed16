"""The train panel, driven as the browser drives it."""

import time

import pytest
import torch

import smft_lab as smft
from smft_lab.facts.world.world import World
from smft_lab.training.pretrain import beginning, gradient_steps, make_optimizer
from smft_lab.widgets import TopT, Train

TINY = {"steps": 8, "batch_size": 4, "vocab_size": 400, "memory_slots": 64, "background_batches": 3, "warmup": 2}
TINY |= {"tokenizer_texts": 200, "hidden_size": 32, "intermediate_size": 32, "world_scale": 0.02}


@pytest.fixture
def panel():
    made = Train(runner="inline", **TINY)
    yield made
    made.close()


def press(panel, name, **rest):
    """What the page sends."""
    panel._command(panel, {"do": name, **rest}, [])


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_training_ends_in_a_lab_that_other_panels_take(panel):
    assert panel.lab is None
    press(panel, "start")
    assert (panel.error, panel.state) == ("", "done")
    assert panel.live["step"] == panel.live["total"] == panel.points[-1]["step"] == 8
    assert panel.lab.usage.batches == 3
    assert panel.lab.slots == 64
    other = TopT(panel.lab, panel.lab.world.new_facts(2), runner="inline")
    press(other, "commit", settings={"top_t": 5, "passes": 1})
    assert (other.error, len(other.runs)) == ("", 1)
    other.close()


def test_the_model_is_the_one_that_pretraining_makes(panel):
    press(panel, "start")
    settings = panel._settings
    _, corpus, tokenizer, model = beginning(settings)
    losses = [loss for _, loss in gradient_steps(model, make_optimizer(model, settings), corpus, tokenizer, settings)]
    assert same(model, panel.lab.model)
    assert panel.points[-1]["loss"] == pytest.approx(sum(losses) / len(losses))


def test_every_point_is_what_the_model_does_at_that_step(panel):
    press(panel, "start")
    last, lab = panel.points[-1], panel.lab
    assert last["old_facts"] == pytest.approx(lab.probes["old_facts"].measure(lab.model, lab.tokenizer)["em"])
    assert last["arithmetic"] == pytest.approx(lab.probes["arithmetic"].measure(lab.model, lab.tokenizer)["nll"])
    assert 0 < last["slots_read"] <= 1
    assert len(panel.heat) == 4 * 64


def test_a_panel_without_a_point_yet_is_no_empty_chart(panel):
    assert "image/png" not in panel._repr_mimebundle_()[0]
    assert "press Start" in panel._repr_mimebundle_()[0]["text/plain"]
    press(panel, "step")
    assert "image/png" in panel._repr_mimebundle_()[0]


def test_the_time_left_does_not_count_a_pause(panel, monkeypatch):
    from smft_lab.widgets import train

    clock = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    press(panel, "step")
    clock[0] += 1000
    press(panel, "step")
    assert panel.live["left"] == 0


def test_a_training_steps_pauses_and_goes_on():
    panel = Train(runner="thread", **{**TINY, "steps": 3000})
    press(panel, "step")
    press(panel, "step")
    assert (panel.state, panel.live["step"]) == ("paused", 2)
    press(panel, "start")
    until = time.monotonic() + 20
    while panel.live["step"] < 5 and time.monotonic() < until:
        time.sleep(0.01)
    press(panel, "pause")
    assert panel.state == "paused"
    assert 5 <= panel.live["step"] < 3000
    said = []
    panel.observe(lambda change: said.append(change["new"]), "state")
    press(panel, "finish")
    assert said == ["finishing", "done"]  # the usage is counted in between, for some seconds
    assert (panel.error, panel.state) == ("", "done")
    assert panel.lab.world.scale == 0.02
    panel.close()


def test_reset_puts_the_same_untrained_model_in_place(panel):
    _, _, _, untrained = beginning(panel._settings)
    press(panel, "start")
    press(panel, "reset")
    assert (panel.lab, panel.state, panel.points) == (None, "idle", [])
    assert same(untrained, panel._model)
    press(panel, "finish")
    assert "nothing to finish" in panel.error


def test_a_trained_lab_is_saved_and_loaded_with_its_own_world(panel, tmp_path):
    press(panel, "start")
    panel.lab.save(tmp_path / "small")
    again = smft.load(tmp_path / "small")
    assert again.world.values == panel.lab.world.values == World(0, 0.02).values
    assert again.probes["old_facts"] == panel.lab.probes["old_facts"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"steps": 0}, "at least 1"), ({"memory_slots": 50}, "square"), ({"speed": 2}, "no setting speed")],
)
def test_a_setting_that_cannot_be_says_so(settings, problem):
    with pytest.raises(ValueError, match=problem):
        Train(**{**TINY, **settings})
