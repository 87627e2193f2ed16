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

from smft_lab.writing import (
    LEFT_BEHIND,
    PARTIAL,
    atomic_file,
    atomic_folder,
    check_new,
    check_replaceable,
    naming,
    write_atomically,
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
