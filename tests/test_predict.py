"""A question before a result, and the health line: what they say."""

import pytest
import torch

from smft_lab.widgets import Predict
from smft_lab.widgets import health as health_room
from smft_lab.widgets.predict import UNGUESSED


@pytest.fixture
def slots():
    return Predict("How many slots?", [4, 32, 500, 57_600], "slots")


def test_choices_are_shown_with_their_unit(slots):
    assert slots.choices == ["4 slots", "32 slots", "500 slots", "57,600 slots"]
    assert Predict("How much?", [5, 30], "%").choices == ["5%", "30%"]
    assert slots.guess is None


@pytest.mark.parametrize(("truth", "right"), [(32, 1), (100, 1), (200, 2), (6_000, 3), (4_000, 2)])
def test_the_choice_nearest_by_ratio_is_right(slots, truth, right):
    slots.reveal(truth, "that many")
    assert slots.right == right


def test_with_a_zero_among_the_choices_the_nearest_is_by_difference():
    share = Predict("How much?", [0, 20, 50], "%")
    share.reveal(11, "little")
    assert share.right == 1


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (-1, f"{UNGUESSED}\n"),
        (1, "Your guess: 32 slots (right). It is 32.\n"),
        (3, "Your guess: 57,600 slots (the nearest is 32 slots). It is 32.\n"),
    ],
)
def test_what_came_out_is_told_beside_the_guess(slots, capsys, chosen, said):
    slots.chosen = chosen
    slots.reveal(32, "It is 32.")
    assert capsys.readouterr().out == said
    assert slots.outcome == "It is 32."


def test_a_truth_that_is_no_choice_is_refused():
    which = Predict("Which?", ["sparse", "full"])
    which.reveal("full", "so it is")
    assert which.right == 1
    with pytest.raises(ValueError, match="'lora' is none of the choices: sparse, full"):
        which.reveal("lora", "")


def test_one_choice_is_none():
    with pytest.raises(ValueError, match="at least two"):
        Predict("Which?", ["sparse"])


def test_the_health_line_warns_of_a_kernel_that_kills_live_training(monkeypatch, capsys):
    monkeypatch.setattr(health_room, "in_kernel", lambda: True)
    real = health_room.importlib.metadata.version
    monkeypatch.setattr(
        health_room.importlib.metadata, "version", lambda name: "7.0.1" if name == "ipykernel" else real(name)
    )
    health_room.setup()
    assert "Warning: ipykernel 7.0" in capsys.readouterr().out
    monkeypatch.setattr(
        health_room.importlib.metadata, "version", lambda name: "7.4.0" if name == "ipykernel" else real(name)
    )
    health_room.setup()
    assert "Warning" not in capsys.readouterr().out


def test_no_more_threads_are_used_than_the_container_has_cores(monkeypatch, capsys):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(health_room.joblib, "cpu_count", lambda: 2)
        health_room.setup()
        assert torch.get_num_threads() == 2
        assert "CPU, 2 cores" in capsys.readouterr().out
        monkeypatch.setattr(health_room.joblib, "cpu_count", lambda: 4)
        health_room.setup()
        assert torch.get_num_threads() == 2  # fewer may be wanted
    finally:
        torch.set_num_threads(before)
