"""A lab in its folder: saved whole, found again, on a device that is there."""

import os
import threading

import pytest
import torch

from smft_lab import lab as module
from smft_lab.lab import READS, REPLACED, load
from smft_lab.model.memory import value_tables


def test_loading_while_a_lab_is_replaced_waits_for_the_new_one(tiny_lab, tmp_path, monkeypatch):
    lab = tiny_lab()
    lab.save(tmp_path / "lab")
    rename, loaded = os.replace, []
    reader = threading.Thread(target=lambda: loaded.append(load(tmp_path / "lab")))

    def replace(source, target):
        rename(source, target)
        if str(target).endswith(REPLACED):  # from now on, until the next rename, there is no lab
            reader.start()
            reader.join(0.5)

    monkeypatch.setattr("smft_lab.lab.os.replace", replace)
    lab.defaults = {"sparse": {"lr": 0.5}}
    lab.save(tmp_path / "lab")
    reader.join()
    assert loaded[0].defaults == load(tmp_path / "lab").defaults == lab.defaults


def test_a_save_after_one_that_was_killed_between_its_renames_keeps_the_files_beside_the_lab(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.save(tmp_path / "lab")
    (tmp_path / "lab" / "notes.txt").write_text("mine")
    (tmp_path / "lab").rename(tmp_path / f"lab{REPLACED}")
    lab.save(tmp_path / "lab")
    assert (tmp_path / "lab" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / f"lab{REPLACED}").exists()


@pytest.mark.parametrize("moment", ["_read_about", "_read_model"])
def test_a_lab_that_is_replaced_while_it_is_read_is_read_again(moment, tiny_lab, tmp_path, monkeypatch):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.save(path)
    lab.defaults = {"sparse": {"lr": 0.5}}
    value_tables(lab.model)[0].weight.data.fill_(1)
    real = getattr(module, moment)

    def overtaken(*folder):
        monkeypatch.setattr(module, moment, real)
        read = real(*folder)
        lab.save(path)
        return read

    monkeypatch.setattr(module, moment, overtaken)
    loaded = load(path)
    assert loaded.defaults == lab.defaults
    assert (value_tables(loaded.model)[0].weight == 1).all()


def let_happen(monkeypatch, *meanwhile) -> list:
    """During each read of a lab one of these, the first to the last; returns those that have not yet happened."""
    real, left = module._read_about, list(meanwhile)

    def overtaken(folder):
        read = real(folder)
        if left:
            left.pop(0)()
        return read

    monkeypatch.setattr(module, "_read_about", overtaken)
    return left


def test_a_lab_that_is_read_again_keeps_no_one_from_saving_it(tiny_lab, tmp_path, monkeypatch):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.save(path)
    left = let_happen(monkeypatch, *[lambda: lab.save(path)] * (READS - 1))  # it refuses while another holds the lab
    assert load(path).defaults == lab.defaults
    assert not left


def test_a_lab_whose_replacement_was_killed_during_the_last_read_is_found_again(tiny_lab, tmp_path, monkeypatch):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.save(path)
    left = let_happen(monkeypatch, *[lambda: lab.save(path)] * (READS - 1), lambda: path.rename(f"{path}{REPLACED}"))
    assert load(path).defaults == lab.defaults
    assert not left


def test_a_lab_that_is_moved_away_just_before_it_is_read_is_found_again(tiny_lab, tmp_path, monkeypatch):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.save(path)
    real = module._place

    def moves(folder):
        monkeypatch.setattr(module, "_place", real)
        path.rename(tmp_path / f"lab{REPLACED}")
        return real(folder)

    monkeypatch.setattr(module, "_place", moves)
    assert load(path).defaults == lab.defaults


@pytest.mark.parametrize("device", ["meta", "cuda:99", "mps"])
def test_a_device_where_nothing_can_be_computed_is_told_before_anything_is_read(device, tmp_path):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=f"^device {device}: .*use cpu$"):
        load(tmp_path / "nowhere", device)


def test_a_lab_that_does_not_fit_its_device_is_not_called_damaged(tiny_lab, tmp_path, monkeypatch):
    tiny_lab().save(tmp_path / "lab")

    def full(self, device):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("torch.nn.Module.to", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(tmp_path / "lab")
