"""A lab in its folder: saved whole, found again, on a device that is there."""

import errno
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
import time
from inspect import GEN_CLOSED, GEN_RUNNING, getgeneratorstate
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from smft_lab import storage as module
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import TakenOver, all_steps, finetune
from smft_lab.finetuning.methods import METHODS
from smft_lab.lab import Lab, load
from smft_lab.model.attach import add_memory
from smft_lab.model.memory import value_tables
from smft_lab.model.opening import open_model
from smft_lab.probes.probes import Probes, QuestionProbe, answer
from smft_lab.probes.prompts import BUILT_IN, PromptForm
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import Usage
from smft_lab.storage import BACKGROUND_FILE, LAB_FILE, READS, check_lab_place, is_lab_file
from smft_lab.widgets import Compare
from smft_lab.writing import REPLACED, Unwritable, atomic_folder, check_new, check_place, write_atomically


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

    monkeypatch.setattr("smft_lab.writing.os.replace", replace)
    lab.defaults = {"sparse": {"lr": 0.5}}
    lab.save(tmp_path / "lab")
    reader.join()
    assert loaded[0].defaults == load(tmp_path / "lab").defaults == lab.defaults


def test_a_save_after_one_that_was_killed_between_its_renames_keeps_the_files_beside_the_lab(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.save(tmp_path / "lab")
    (tmp_path / "lab" / "notes.txt").write_text("mine")
    (tmp_path / "lab").rename(tmp_path / f".lab{REPLACED}")
    lab.save(tmp_path / "lab")
    assert (tmp_path / "lab" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / f".lab{REPLACED}").exists()


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
    left = let_happen(
        monkeypatch, *[lambda: lab.save(path)] * (READS - 1), lambda: path.rename(tmp_path / f".lab{REPLACED}")
    )
    assert load(path).defaults == lab.defaults
    assert not left


def test_a_lab_that_is_moved_away_just_before_it_is_read_is_found_again(tiny_lab, tmp_path, monkeypatch):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.save(path)
    real = module._place

    def moves(folder):
        monkeypatch.setattr(module, "_place", real)
        path.rename(tmp_path / f".lab{REPLACED}")
        return real(folder)

    monkeypatch.setattr(module, "_place", moves)
    assert load(path).defaults == lab.defaults


@pytest.mark.parametrize("device", ["meta", "cuda:99", "mps"])
def test_a_device_where_nothing_can_be_computed_is_told_before_anything_is_read(device, tmp_path):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=f"^device {device}: .*use cpu$"):
        load(tmp_path / "nowhere", device=device)


def test_a_lab_that_does_not_fit_its_device_is_not_called_damaged(tiny_lab, tmp_path, monkeypatch):
    tiny_lab().save(tmp_path / "lab")

    def full(self, device):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("torch.nn.Module.to", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(tmp_path / "lab")


# Other people's folders and files ---------------------------------------------------------------------


def entries(folder) -> set[str]:
    return {entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")}


@pytest.mark.parametrize(("one", "other"), [("n", "n.v2"), ("[ab]", "a"), ("n", "n.12345678"), ("n*", "n-other")])
def test_saving_leaves_a_save_under_way_at_a_similar_name_alone(one, other, tiny_lab, tmp_path):
    lab = tiny_lab()
    with atomic_folder(tmp_path / other, LAB_FILE, is_lab_file) as under_way:
        module._write(lab, under_way, False)
        lab.save(tmp_path / one)
        assert (under_way / LAB_FILE).exists()
    for name in (one, other):
        load(tmp_path / name)
    assert entries(tmp_path) == {one, other}


@pytest.mark.parametrize("suffix", [".replaced", ".unfinished", ".lock"])
def test_a_lab_whose_name_ends_like_one_under_way_is_a_lab_of_its_own(suffix, tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.save(tmp_path / f"n{suffix}")
    lab.save(tmp_path / "n")
    lab.save(tmp_path / "n")
    (tmp_path / "n").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "n")
    load(tmp_path / f"n{suffix}")


OWN = ("model_card.md", "models/notes.txt", "tokenizer-notes.txt", "model.txt", "modelling/deep/er.py", ".hidden")


def with_own_files(folder) -> None:
    for name in OWN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "link").symlink_to("nowhere")


@pytest.mark.parametrize("listed", [True, False])
def test_saving_again_leaves_every_file_that_no_lab_wrote(listed, tiny_lab, tmp_path):
    lab, path = tiny_lab(), tmp_path / "lab"
    with_own_files(path)
    for turn in range(1, 4):
        lab.save(path)
        if not listed:  # as labs were before they listed their files
            about = json.loads((path / LAB_FILE).read_text())
            del about["files"]
            (path / LAB_FILE).write_text(json.dumps(about))
        lab.defaults = {"sparse": {"lr": turn}}
    assert all((path / name).read_text() == "mine" for name in OWN)
    assert os.readlink(path / "link") == "nowhere"
    assert entries(tmp_path) == {"lab"}


def test_saving_again_takes_files_of_every_kind_along_without_copying_them(tiny_lab, tmp_path):
    lab, path = tiny_lab(), tmp_path / "lab"
    with_own_files(path)
    os.mkfifo(path / "models" / "pipe")
    with (path / "data.bin").open("wb") as file:
        file.truncate(10**8)
    before = {name: (path / name).stat().st_ino for name in (*OWN, "data.bin", "models/pipe")}
    for _ in range(2):
        lab.save(path)
        assert {name: (path / name).stat().st_ino for name in before} == before


def test_a_folder_of_somebody_else_that_is_read_only_is_taken_along_and_leaves_nothing(tiny_lab, tmp_path, monkeypatch):
    lab, path, deleted = tiny_lab(), tmp_path / "lab", shutil.rmtree

    def as_no_superuser(folder, **options):
        if all(place.stat().st_mode & stat.S_IWUSR for place in Path(folder).rglob("*/")):
            deleted(folder, **options)
        elif not options.get("ignore_errors"):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("smft_lab.writing.shutil.rmtree", as_no_superuser)
    lab.save(path)
    with_own_files(path)
    (path / "models").chmod(0o500)
    for turn in range(1, 3):
        lab.defaults = {"sparse": {"lr": turn}}
        lab.save(path)
        assert load(path).defaults == lab.defaults
        assert stat.S_IMODE((path / "models").stat().st_mode) == 0o500
        assert entries(tmp_path) == {"lab"}
    monkeypatch.setattr("smft_lab.writing.shutil.rmtree", lambda *_, **__: None)
    lab.save(path)
    with pytest.raises(OSError, match=r"\.lab\.replaced is left of an earlier one and can't be deleted; delete it"):
        check_place(path, LAB_FILE)


def test_a_disk_mounted_in_the_folder_of_a_lab_is_not_emptied(tiny_lab, tmp_path, monkeypatch):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.save(path)
    with_own_files(path)
    monkeypatch.setattr("smft_lab.writing.os.path.ismount", lambda place: Path(place).name == "deep")
    with pytest.raises(ValueError, match="lab/modelling/deep is a mount point, which can't be moved"):
        lab.save(path)
    assert (path / "modelling/deep/er.py").read_text() == "mine"


@pytest.mark.parametrize(("name", "fits"), [("n" * 230, True), ("n" * 240, False), ("ü" * 120, False)])
def test_a_name_too_long_for_what_is_written_beside_it_is_told_before_long_work(name, fits, tiny_lab, tmp_path):
    file = tmp_path / (name + ".x")
    if fits:
        check_place(tmp_path / name, LAB_FILE)
        tiny_lab().save(tmp_path / name)
        check_new(file)
        write_atomically(file, "text")
        return
    with pytest.raises(OSError, match=r"n't be written \(File name too long\)"):
        check_place(tmp_path / name, LAB_FILE)
    with pytest.raises(OSError, match=r"n't be written \(File name too long\)"):
        check_new(file)


def test_what_an_earlier_lab_wrote_and_a_new_one_does_not_goes(tiny_lab, tmp_path):
    lab, path = tiny_lab(), tmp_path / "lab"
    lab.world_seed = None
    lab.save(path)
    assert (path / "probes.json").exists()
    lab.world_seed = 0
    lab.save(path)
    assert not (path / "probes.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "usage.safetensors"])
def test_a_file_of_another_model_is_not_overwritten_by_a_lab(name, tiny_lab, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds a file {name} that was not written with lab.json"):
        tiny_lab().save(tmp_path / "lab")
    assert entries(tmp_path / "lab") == {name}
    assert entries(tmp_path) == {"lab"}
    with pytest.raises(ValueError, match=f"holds a file {name} of another model"):
        check_lab_place(tmp_path / "lab")


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_first_save_that_was_killed_while_its_files_moved_can_be_made_again(moved, tiny_lab, tmp_path):
    lab, path = tiny_lab(), tmp_path / "lab"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    left = tmp_path / ".lab.0123abcd.unfinished"
    left.mkdir()
    module._write(lab, left, False)
    for file in sorted(file for file in left.iterdir() if file.name != LAB_FILE)[:moved]:
        file.rename(path / file.name)
    check_lab_place(path)
    assert entries(path) == {"notes.txt"}
    lab.save(path)
    load(path)
    assert entries(tmp_path) == {"lab"}


def test_a_lab_at_a_link_is_saved_where_it_points_any_number_of_times(tiny_lab, tmp_path):
    lab, link = tiny_lab(), tmp_path / "links" / "lab"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "disk" / "real")  # nothing is there yet
    for turn in range(1, 4):
        lab.defaults = {"sparse": {"lr": turn}}
        lab.save(link)
        assert link.is_symlink()
        assert load(link).defaults == load(tmp_path / "disk" / "real").defaults == lab.defaults
    assert entries(link.parent) == {"lab"}
    assert entries(tmp_path / "disk") == {"real"}


def test_defaults_that_could_not_be_loaded_are_not_saved(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.defaults = {"sparse": {"lr": 0}}
    with pytest.raises(
        ValueError, match=r"lab\.defaults is .* not an object of settings per method with rates above 0"
    ):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_the_folder_one_is_in_takes_a_first_lab_and_says_why_it_takes_no_second(tiny_lab, tmp_path, monkeypatch):
    lab = tiny_lab()
    monkeypatch.chdir(tmp_path)
    lab.save(".")
    load(".")
    with pytest.raises(ValueError, match=r"^\. is the folder that this runs in"):
        lab.save(".")
    load(tmp_path)


def test_a_mount_point_is_refused_with_what_to_do(tiny_lab, tmp_path, monkeypatch):
    lab = tiny_lab()
    with pytest.raises(ValueError, match="/ is a mount point, whose place no new folder can take; name a folder in it"):
        lab.save("/")
    lab.save(tmp_path / "lab")

    def busy(source, target):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("smft_lab.writing.os.replace", busy)
    with pytest.raises(ValueError, match="lab is a mount point"):
        lab.save(tmp_path / "lab")
    load(tmp_path / "lab")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_saved_files_follow_the_umask_and_a_replaced_folder_keeps_its_mode(mask, tiny_lab, tmp_path):
    lab, path = tiny_lab(), tmp_path / "lab"
    before = os.umask(mask)
    try:
        lab.save(path)
        patch = Patch.between(lab)
        patch.save(tmp_path / "patch.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask
    for file in (*path.iterdir(), tmp_path / "patch.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file
    path.chmod(0o750)
    lab.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_a_full_disk_says_which_lab_and_how_much_room_it_needs(tiny_lab, tmp_path, monkeypatch):
    lab = tiny_lab()
    full = OSError(errno.ENOSPC, "No space left on device")
    problems = (
        full,
        SafetensorError("I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),
    )
    for problem in problems:
        monkeypatch.setattr("smft_lab.storage.save_file", lambda *_, problem=problem: (_ for _ in ()).throw(problem))
        with pytest.raises(OSError, match=r"lab can't be written \(No space left on device: \S+ kB needed, .* free"):
            lab.save(tmp_path / "lab")
        assert not entries(tmp_path)


MAPPED = """
import sys
import smft_lab as smft
from smft_lab.probes.probes import Probes, QuestionProbe, answer
from smft_lab.probes.prompts import BUILT_IN, PromptForm
from smft_lab.slots.patch import Patch
patch, *files = sys.argv[1:]
labs, patch = [smft.load(name) for name in files if not name.endswith(".safetensors")], Patch.load(patch)
loaded = [patch.values[0], *(t for lab in labs for t in (lab.usage.df, *lab.model.parameters()))]
before = [tensor.clone() for tensor in loaded]
for name in sys.argv[1:]:
    if name.endswith(".safetensors"):
        open(name, "r+b").truncate(8)  # a page that is mapped still ends the process when it is read
print(all((one == other).all() for one, other in zip(before, loaded)))
"""


def test_files_that_are_cut_after_loading_change_nothing_that_was_loaded(tiny_lab, tokenizer, tmp_path):
    from test_attach import MEMORY, small

    built_in, base = tiny_lab(), tmp_path / "base"
    small("llama").save_pretrained(base)
    tokenizer.save_pretrained(base)
    usage = Usage(20, torch.ones(1, 256, dtype=torch.int32), torch.ones(1, 256))
    model, own = open_model(base)
    attached = Lab(add_memory(model, 1, **MEMORY), own, usage)
    built_in.save(tmp_path / "built-in")
    attached.save(tmp_path / "copy")
    attached.save(tmp_path / "reference", base="reference")
    value_tables(built_in.model)[0].weight.data[3:200] += 1
    Patch.between(built_in).save(tmp_path / "patch.safetensors")
    labs = [tmp_path / name for name in ("built-in", "copy", "reference")]
    files = [file for folder in (*labs, base) for file in folder.glob("*.safetensors")]
    command = [sys.executable, "-c", MAPPED, tmp_path / "patch.safetensors", *labs, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


# The base for a moment, and what a lab is asked --------------------------------------------------------


def state(lab) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_the_base_is_there_for_a_block_and_then_again_what_was_before(method, tiny_lab):
    lab = tiny_lab()
    base = state(lab)
    for _ in finetune(lab, new_facts(2), method, passes=1, probe_every=0):
        pass
    finetuned = state(lab)
    assert not same(base, finetuned)
    with lab.at_base(), torch.no_grad():
        assert same(state(lab), base)
        value_tables(lab.model)[0].weight.add_(1.0)  # whatever is done there
    assert same(state(lab), finetuned)
    with pytest.raises(ArithmeticError), lab.at_base():
        raise ArithmeticError
    assert same(state(lab), finetuned)


@pytest.mark.parametrize("method", ["sparse", "full"])
def test_a_run_goes_on_after_the_base_was_there_as_if_it_had_not_been(method, tiny_lab):
    first, second = tiny_lab(), tiny_lab()
    base = state(second)
    undisturbed = [step.loss for step in finetune(first, new_facts(2), method, passes=2, probe_every=0)]
    losses = []
    for step in finetune(second, new_facts(2), method, passes=2, probe_every=0):
        losses.append(step.loss)
        with second.at_base():
            assert same(state(second), base)
    assert losses == undisturbed
    assert same(state(first), state(second))


def test_a_run_that_renames_weights_ends_where_the_base_is_put_back_for_a_block(tiny_lab):
    lab = tiny_lab()
    run = finetune(lab, new_facts(2), "lora", passes=2, probe_every=0, lr=1e-2)
    next(run), next(run)
    with lab.at_base():
        assert all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())
    assert next(run, None) is None
    assert not all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())


def test_a_lab_answers_in_its_form_unless_another_is_given(tiny_lab):
    lab = tiny_lab()
    old = lab.probes["old_facts"]
    lab.model.load_state_dict({name: torch.randn_like(tensor) for name, tensor in state(lab).items()})
    expected = {form: answer(lab.model, lab.tokenizer, old.questions, 4, form) for form in (BUILT_IN, PromptForm.PLAIN)}
    assert expected[BUILT_IN] != expected[PromptForm.PLAIN]
    assert lab.answer(old.questions, max_new_tokens=4) == expected[BUILT_IN]
    assert lab.answer(old.questions[0], max_new_tokens=4) == expected[BUILT_IN][:1]
    assert lab.answer(old.questions, max_new_tokens=4, form=PromptForm.PLAIN) == expected[PromptForm.PLAIN]
    lab.form = PromptForm.PLAIN
    assert lab.answer(old.questions, max_new_tokens=4) == expected[PromptForm.PLAIN]


def test_a_lab_that_diverged_is_not_saved_over_a_good_one(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.save(tmp_path / "lab")
    with torch.no_grad():
        value_tables(lab.model)[0].weight[3] = float("nan")
    with pytest.raises(ValueError, match=r"values\.weight holds numbers that are not finite, .*lab\.reset\(\) brings"):
        lab.save(tmp_path / "lab")
    lab.reset()
    assert all(tensor.isfinite().all() for tensor in load(tmp_path / "lab").model.state_dict().values())


@pytest.mark.parametrize("problem", [Unwritable(Path("a.json"), "No space left on device"), TakenOver(3)])
def test_a_problem_of_a_worker_process_is_the_same_one_outside_of_it(problem):
    again = pickle.loads(pickle.dumps(problem))
    assert (type(again), str(again)) == (type(problem), str(problem))


TAKE = {
    "reset": lambda lab, path: lab.reset(),
    "save": lambda lab, path: lab.save(path / "lab"),
    "finetune": lambda lab, path: list(finetune(lab, new_facts(1), passes=1, probe_every=0)),
}


@pytest.mark.parametrize("take", TAKE)
@pytest.mark.parametrize("method", ["sparse", "full", "lora"])
def test_a_run_in_another_thread_that_waits_for_its_turn_ends_where_the_lab_is_taken_over(
    method, take, tiny_lab, tmp_path
):
    lab, ended = tiny_lab(), []
    base = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    run = finetune(lab, new_facts(2), method, passes=100_000, probe_every=0)
    next(run), next(run)

    def go_on():
        try:
            for _ in all_steps(run):
                pass
        except TakenOver as problem:
            ended.append(problem)

    other = threading.Thread(target=go_on)
    with lab.lock:
        other.start()
        while getgeneratorstate(run) != GEN_RUNNING:  # it waits within its step for the lock that is held here
            time.sleep(0.01)
        TAKE[take](lab, tmp_path)
        assert getgeneratorstate(run) == GEN_CLOSED
        if take == "reset":
            assert all(torch.equal(tensor, base[name]) for name, tensor in lab.model.state_dict().items())
    other.join(60)
    assert not other.is_alive()
    assert len(ended) == 1
    assert lab.model.state_dict().keys() == base.keys()
    lab.reset()
    assert all(torch.equal(tensor, base[name]) for name, tensor in lab.model.state_dict().items())


@pytest.mark.parametrize("method", ["sparse", "lora"])
def test_a_panel_can_be_stopped_while_the_base_is_put_back_for_a_moment(method, tiny_lab):
    lab = tiny_lab()
    base = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    panel = Compare(lab, new_facts(2), [method], runner="thread", passes=100_000, seeds=1)
    turn = lab.turn
    panel.start()
    while lab.turn == turn:  # the run has not begun yet
        time.sleep(0.01)
    with lab.at_base():
        panel.stop()
    assert panel.state != "running"
    panel.close()
    lab.reset()
    assert all(torch.equal(tensor, base[name]) for name, tensor in lab.model.state_dict().items())


def test_a_part_that_was_added_to_the_model_or_taken_from_it_is_named(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.model.own = torch.nn.Linear(2, 2)
    for use in (lab.reset, lambda: Patch.between(lab), lambda: finetune(lab, new_facts(1))):
        with pytest.raises(ValueError, match=r"own\.bias was added to the model since the lab was made; undo that"):
            use()
    del lab.model.own
    lab.reset()
    norm, lab.model.model.norm = lab.model.model.norm, torch.nn.Identity()
    with pytest.raises(ValueError, match=r"model\.norm\.weight was taken from the model since the lab was made"):
        lab.reset()
    lab.model.model.norm = norm
    lab.reset()


def test_a_lab_in_float64_comes_back_in_float32_and_as_it_was(tiny_lab, tmp_path):
    source = tiny_lab()
    add_to = source.model.double()
    lab = Lab(add_to, source.tokenizer, source.usage)
    lab.save(tmp_path / "lab")
    assert load(tmp_path / "lab").model.dtype == torch.float32
    again = load(tmp_path / "lab", dtype="auto")
    assert all(torch.equal(tensor, lab.base(name)) for name, tensor in again.model.state_dict().items())


def test_a_name_that_is_no_utf8_is_told_before_anything_is_written(tiny_lab, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    for use in (lambda: tiny_lab().save(path), lambda: check_lab_place(path), lambda: load(path)):
        with pytest.raises(ValueError, match="a name in it is not in UTF-8"):
            use()
    assert not path.exists()


def test_a_file_that_a_lab_would_replace_is_told_before_long_work(tmp_path):
    (tmp_path / BACKGROUND_FILE).write_text("a person's own")
    with pytest.raises(ValueError, match=r"holds a file background\.safetensors of another model"):
        check_lab_place(tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        "x",
        {"chosen": 1},
        {"reached": 1},
        {"lr": "0.1"},
        {"lr": 0},
        {"lr": 10**400},
        {"method": None},
        {"steps": [1]},
    ],
)
def test_a_sweep_with_a_row_that_none_has_written_is_refused(row, tiny_lab, tmp_path):
    lab = tiny_lab()
    good = {"method": "full", "optimizer": "adamw", "lr": 0.1, "top_t": None, "reached": True, "chosen": True}
    lab.defaults = {"sweep": [{**good, "steps": 12.5}]}
    lab.save(tmp_path / "lab")
    about = json.loads((tmp_path / "lab" / LAB_FILE).read_text())
    about["defaults"]["sweep"] = [{**good, **row} if isinstance(row, dict) else row]
    (tmp_path / "lab" / LAB_FILE).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"defaults is .* not an object of settings per method"):
        load(tmp_path / "lab")


def test_a_run_that_was_begun_while_another_was_ended_ends_too(tiny_lab, monkeypatch):
    lab, facts = tiny_lab(), new_facts(1)
    first, later = finetune(lab, facts, probe_every=0), []
    next(first), next(first)
    close = lab._close

    def close_and_begin(run):
        close(run)
        if not later:  # as another thread may, which has the lock meanwhile
            later.append(finetune(lab, facts, probe_every=0))
            next(later[0])

    monkeypatch.setattr(lab, "_close", close_and_begin)
    lab.reset()
    assert getgeneratorstate(first) == getgeneratorstate(later[0]) == GEN_CLOSED


def test_probes_that_could_not_be_loaded_are_told_before_a_lab_is_saved(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.world_seed = None  # else they come from the seed
    lab.probes = Probes([QuestionProbe("known", ("Who?",), (("Otto",),), subjects=(("a", None),))])
    with pytest.raises(ValueError, match="the lab's probes can't be saved: subjects of a probe can't be"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    lab.probes = Probes([QuestionProbe("none", (), ()), QuestionProbe("known", ("Who?",), (("Otto",),))])
    lab.save(tmp_path / "lab")
    assert [probe.name for probe in load(tmp_path / "lab").probes] == ["known"]


def test_numbers_of_numpy_in_the_defaults_are_saved_as_plain_ones(tiny_lab, tmp_path):
    lab = tiny_lab()
    row = {
        "method": "sparse",
        "optimizer": "adam",
        "lr": np.float64(0.1),
        "top_t": np.int64(20),
        "steps": np.float32(2),
    }
    lab.defaults = {"sweep": [{**row, "reached": np.bool_(True)}], "sparse": {"lr": np.float32(0.5)}}
    lab.save(tmp_path / "lab")
    assert load(tmp_path / "lab").defaults["sweep"] == [{**row, "reached": True}]
