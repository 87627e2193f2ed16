"""Files are written whole or not at all, also by several at once, and what a killed writer left goes."""

import errno
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from smft_lab import writing
from smft_lab.writing import (
    LEFT_BEHIND,
    PARTIAL,
    atomic_file,
    atomic_folder,
    check_new,
    check_place,
    check_replaceable,
    clear_unfinished,
    json_text,
    naming,
    write_atomically,
    write_together,
)


def test_a_file_is_written_whole_by_several_at_once(tmp_path):
    file, texts = tmp_path / "file", [str(n) * 100_000 for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: write_atomically(file, texts[n % 4]), range(200)))
    assert file.read_text() in texts
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_the_old_file(tmp_path):
    file = tmp_path / "file"
    write_atomically(file, "old")

    def stopped_halfway():
        with atomic_file(file) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_halfway()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_writer_left_goes_and_what_another_is_writing_stays(tmp_path):
    left, new, other = (tmp_path / f"{name}{PARTIAL}" for name in ("[a].00000001", "[a].00000002", "b.00000001"))
    for partial in (left, new, other):
        partial.write_text("half")
    long_ago = time.time() - LEFT_BEHIND - 1
    for partial in (left, other):
        os.utime(partial, (long_ago, long_ago))
    write_atomically(tmp_path / "[a]", "whole")
    assert set(os.listdir(tmp_path)) == {"[a]", new.name, other.name}


@pytest.mark.parametrize(("earlier", "expected"), [(None, 0o640), (0o604, 0o604)])
def test_a_file_has_the_mode_of_a_new_one_or_of_the_one_it_replaces(earlier, expected, tmp_path):
    file = tmp_path / "weights.safetensors"
    if earlier:
        file.touch()
        file.chmod(earlier)
    before = os.umask(0o027)
    try:
        with atomic_file(file) as partial:
            save_file({"weight": torch.zeros(2)}, partial)  # makes a file for the owner alone
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == expected


@pytest.mark.parametrize("content", ["mine", "[]", '{"settings": 1}'])
def test_results_replace_those_of_an_earlier_run_alone(tmp_path, content):
    names, keys = ("claims.json", "report.html"), ("settings", "claims")
    check_replaceable(tmp_path / "new", names, "claims.json", keys)
    (tmp_path / "report.html").write_text("of a comparison")
    with pytest.raises(ValueError, match=r"report\.html is of something else, and would be replaced"):
        check_replaceable(tmp_path, names, "claims.json", keys)
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(ValueError, match=r"claims\.json is of something else"):
        check_replaceable(tmp_path, names, "claims.json", keys)
    (tmp_path / "claims.json").write_text('{"settings": {}, "claims": {}}')
    check_replaceable(tmp_path, names, "claims.json", keys)
    with pytest.raises(OSError, match=r"nowhere.* can't be written"):
        check_replaceable(Path("/proc/nowhere"), names, "claims.json", keys)


def test_a_device_or_a_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match=r"pipe|link .* is a device or a pipe"):
            check_new(tmp_path / name, force=True)
        with pytest.raises(ValueError, match="pipe is a device or a pipe, whose place no file can take; name a file"):
            write_atomically(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()


def test_what_went_wrong_in_an_unfinished_folder_is_told_of_the_one_that_was_asked_for(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "results"

    def write(named: bool):
        with (
            atomic_folder(path, "mark", lambda _: False) as folder,
            naming(path, lambda: 1) if named else nullcontext(),
        ):
            write_atomically(folder / "report.html", "text")

    for named in (True, False):
        with pytest.raises(OSError, match=r"results can't be written \(File too large\); nothing was saved") as problem:
            write(named)
        assert str(problem.value).count("can't be written") == 1
        assert "unfinished" not in str(problem.value)


def test_a_file_that_is_not_to_be_replaced_stays_though_it_came_while_another_was_written(tmp_path):
    file = tmp_path / "facts.jsonl"

    def write_while_another_does():
        with atomic_file(file, replace=False) as partial:
            partial.write_text("mine")
            file.write_text("theirs")

    with pytest.raises(ValueError, match=r"facts\.jsonl is there now, written by somebody else meanwhile"):
        write_while_another_does()
    assert file.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["facts.jsonl"]
    file.unlink()
    write_atomically(file, "mine", replace=False)
    assert file.read_text() == "mine"


def test_files_that_belong_together_take_their_places_when_all_are_written(tmp_path, monkeypatch):
    texts = {tmp_path / name: f"new {name}" for name in ("claims.json", "runs.md", "report.html")}
    for path in texts:
        path.write_text("old")
    write, written = Path.write_bytes, []

    def full(path, data):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"claims\.json can't be written"):
        write_together(texts)
    assert {path.read_text() for path in texts} == {"old"}
    assert len(os.listdir(tmp_path)) == 3
    written.clear()
    monkeypatch.undo()
    write_together(texts)
    assert {path.read_text() for path in texts} == set(texts.values())


def _saved(path: Path, text: str, meanwhile=lambda: None) -> None:
    with atomic_folder(path, "mark.json", lambda _: False) as folder:
        (folder / "weights").write_text(text)
        (folder / "mark.json").write_text(json_text({"files": ["mark.json", "weights"]}))
        meanwhile()


def test_what_others_write_into_a_folder_while_it_is_replaced_stays(tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    _saved(lab, "old")
    (lab / "notes").mkdir()
    (lab / "notes" / "early.txt").write_text("early")
    (lab / "changed.txt").write_text("first")
    take_along = writing._take_along

    def slowly(file, place):
        take_along(file, place)
        (lab / "late.txt").write_text("late")
        (lab / "notes" / "late.txt").write_text("late")
        changed = lab / "changed.partial"
        changed.write_text("second")
        changed.replace(lab / "changed.txt")

    monkeypatch.setattr(writing, "_take_along", slowly)
    _saved(lab, "new", lambda: (lab / "meanwhile.txt").write_text("meanwhile"))
    texts = {str(file.relative_to(lab)): file.read_text() for file in lab.rglob("*") if file.is_file()}
    assert texts.pop("mark.json")
    assert texts == {
        "weights": "new",
        "changed.txt": "second",
        "meanwhile.txt": "meanwhile",
        "late.txt": "late",
        "notes/early.txt": "early",
        "notes/late.txt": "late",
    }
    assert {file.name for file in tmp_path.iterdir()} <= {"lab", ".lab.lock"}


def test_what_others_wrote_before_a_kill_between_the_renames_is_found_in_the_new_folder(tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    _saved(lab, "old")

    class Killed(BaseException):
        pass

    def killed(old, new, own):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_bring_late", killed)
        with pytest.raises(Killed):
            _saved(lab, "new")
    (tmp_path / ".lab.replaced" / "late.txt").write_text("late")
    check_place(lab, "mark.json")
    assert (lab / "late.txt").read_text() == "late"
    assert (lab / "weights").read_text() == "new"
    assert not (tmp_path / ".lab.replaced").exists()


def test_a_file_that_would_be_lost_is_told_before_the_work(tmp_path):
    (tmp_path / "metrics.csv").write_text("a person's own")
    work = atomic_folder(tmp_path, "summary.json", lambda _: True, names=["metrics.csv", "summary.json"])
    with pytest.raises(ValueError, match=r"holds a file metrics\.csv that was not written with summary\.json"):
        work.__enter__()


def test_files_that_came_into_a_folder_without_a_mark_are_neither_replaced_nor_deleted(tmp_path):
    target = tmp_path / "results"
    target.mkdir()
    (target / "own.txt").write_text("own")
    move_new = writing._move_new

    def move_and_write(file, place):
        move_new(file, place)
        (target / "mark.json").write_text("theirs")  # comes before ours, which is last

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writing, "_move_new", move_and_write)
        with pytest.raises(OSError, match="results can't be written"):
            _saved(target, "new")
    assert {file.name: file.read_text() for file in target.iterdir()} == {"own.txt": "own", "mark.json": "theirs"}


def test_only_names_that_a_writer_makes_are_taken_for_leftovers(tmp_path):
    own = tmp_path / f"notes.chapters{PARTIAL}"  # eight letters, too
    own.write_text("a person's own")
    long_ago = time.time() - LEFT_BEHIND - 1
    os.utime(own, (long_ago, long_ago))
    write_atomically(tmp_path / "notes", "text")
    clear_unfinished(tmp_path, ["notes"])
    assert os.listdir(tmp_path) == [own.name]


def test_a_disk_without_modes_and_a_folder_of_a_group_take_files_all_the_same(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "chown", refuse)
    write_atomically(tmp_path / "file", "text")
    for text in ("old", "new"):
        _saved(tmp_path / "lab", text)
    assert (tmp_path / "file").read_text() == "text"
    assert (tmp_path / "lab" / "weights").read_text() == "new"


def test_files_that_belong_together_take_their_places_in_their_order(tmp_path, monkeypatch):
    replaced, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (replaced.append(Path(new).name), replace(old, new)))
    write_together({tmp_path / name: "text" for name in ("claims.json", "runs.md", "report.html")})
    assert replaced == ["claims.json", "runs.md", "report.html"]


def test_a_persons_files_stay_where_the_clean_up_of_a_refused_save_was_killed(tmp_path, monkeypatch):
    target = tmp_path / "results"
    target.mkdir()
    (target / "weights").write_text("a person's own")

    class Killed(BaseException):
        pass

    def killed(folder, **_):
        (Path(folder) / "weights").unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(writing.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            _saved(target, "new")  # it is refused, and what was written for it is cleared away
    check_place(target, "mark.json")
    assert (target / "weights").read_text() == "a person's own"
    assert set(os.listdir(tmp_path)) <= {"results", ".results.lock"}


def test_what_was_taken_along_stays_where_a_kill_came_before_the_renames(tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    _saved(lab, "old")
    (lab / "notes.txt").write_text("a person's own")

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_chmod", killed)
        patched.setattr(writing, "_follow_umask", lambda _: None)
        patched.setattr(writing, "_delete_marked", killed)
        with pytest.raises(Killed):
            _saved(lab, "new")
    for name in ("weights", "mark.json"):  # and then the person deletes the lab by hand
        (lab / name).unlink()
    check_place(lab, "mark.json")
    assert (lab / "notes.txt").read_text() == "a person's own"


def test_a_late_file_does_not_take_the_place_of_a_new_one(tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    with atomic_folder(lab, "mark.json", lambda _: False) as folder:
        (folder / "mark.json").write_text(json_text({"files": ["mark.json"]}))
    (lab / "notes.txt").write_text("a person's own")
    take_along = writing._take_along

    def slowly(file, place):
        take_along(file, place)
        (lab / "weights").write_text("late")

    monkeypatch.setattr(writing, "_take_along", slowly)
    _saved(lab, "new")
    assert (lab / "weights").read_text() == "new"
    assert (lab / "notes.txt").read_text() == "a person's own"
