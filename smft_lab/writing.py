"""Files and folders that no reader finds half of, and that take the place of nobody else's."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from filelock import FileLock, Timeout
from safetensors import SafetensorError

PARTIAL, UNFINISHED, REPLACED, LOCK = ".partial", ".unfinished", ".replaced", ".lock"
RANDOM = 8  # hexadecimal digits
HEXADECIMAL = f"[0-9a-f]{{{RANDOM}}}"
LEFT_BEHIND = 3600  # seconds; what is older was left by a process that was killed
FULL = (errno.ENOSPC, errno.EDQUOT)
IMMOVABLE = (errno.EBUSY, errno.EXDEV)


@contextmanager
def atomic_file(
    path: Path, left_behind: float = LEFT_BEHIND, size: int | None = None, replace: bool = True
) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place at the end of the block: the file is the old one or the
    new one, never a part, also where several machines write it at once. An error leaves the old one.

    Args:
        path: A link stays one: the file that it names is written.
        left_behind: Age in seconds from which another's part is deleted; 0 where nobody else writes `path`.
        size: Bytes that are to be written, for the message of a full disk.
        replace: Whether a file that is there at the end of the block may be replaced.

    Raises:
        OSError: it can't be written; the message says which file, and what a full disk lacks.
        ValueError: it is a device or the like, whose place no file is to take; or it is there and not to be replaced.
    """
    asked, path = path, Path(os.path.realpath(path))
    _check_no_device(path)
    for left in _parts_of(path):
        with suppress(OSError):  # it may be another's
            if not left_behind or time.time() - left.stat().st_mtime > left_behind:
                left.unlink()
    partial = path.with_name(f"{path.name}.{uuid4().hex[:RANDOM]}{PARTIAL}")
    try:
        partial.touch()
        mode = stat.S_IMODE((path if path.exists() else partial).stat().st_mode)
        yield partial
        _chmod(partial, mode)  # safetensors writes for the owner alone
        if replace:
            os.replace(partial, path)
            return
        try:
            _move_new(partial, path)
        except FileExistsError:
            raise ValueError(
                f"{asked} is there now, written by somebody else meanwhile, and nothing was saved; name another, or "
                "replace it with --force"
            ) from None
    except Unwritable:  # of another file that is written within the block
        raise
    except (OSError, SafetensorError) as problem:
        raise unwritable(asked, problem, size) from None
    finally:
        with suppress(OSError):  # the folder may be gone, or never was one
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, replace: bool = True) -> None:
    """Write `text`, whole or not at all.

    Args:
        replace: See `atomic_file`.
    """
    write_together({path: text}, replace)


def write_together(texts: Mapping[Path, str], replace: bool = True) -> None:
    """Write several files, each whole or not at all; none takes its place before all are written.

    Args:
        texts: By path, in the order in which they take their places.
        replace: See `atomic_file`.
    """
    with ExitStack() as taking_places:
        for path, text in reversed(list(texts.items())):
            data = text.encode("utf-8", "backslashreplace")  # a file's name in another encoding may be part of it
            partial = taking_places.enter_context(atomic_file(path, size=len(data), replace=replace))
            partial.write_bytes(data)


def _parts_of(path: Path) -> list[Path]:
    """The unfinished files beside `path` that `atomic_file` began for it."""
    name = re.compile(rf"{re.escape(path.name)}\.{HEXADECIMAL}{re.escape(PARTIAL)}")
    try:
        return [file for file in path.parent.iterdir() if name.fullmatch(file.name)]
    except OSError:  # the folder may be missing, or not to be listed
        return []


def _move_new(file: Path, place: Path) -> None:
    """Give a file a place where none is.

    Raises:
        FileExistsError: one is there.
    """
    try:
        os.link(file, place)
    except FileExistsError:
        raise
    except OSError:  # not on every disk
        if os.path.lexists(place):
            raise FileExistsError(place) from None
        os.replace(file, place)


def _chmod(file: Path, mode: int) -> None:
    """Give a file its mode, where the disk knows any and the file is one's own."""
    with suppress(PermissionError, NotImplementedError):
        file.chmod(mode)


def check_new(path: Path, force: bool = False) -> None:
    """Find out before long work whether `path` can be written; makes the folder that it is in.

    Args:
        force: Whether a file that is there may be replaced.

    Raises:
        OSError: it can't be written.
        ValueError: it is a folder or a device or lies in a file, or there is such a file and `force` is not given.
    """
    if (file := _file_among(path.parents)) is not None:
        raise ValueError(f"{file} is a file; name a folder")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; name a file")
    _check_no_device(path)
    if not force and os.path.lexists(path):
        raise ValueError(f"{path} is there already; name another, or replace it with --force")
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _probe(target.parent)
        _check_length(target.with_name(f"{target.name}.{'0' * RANDOM}{PARTIAL}"))
    except OSError as problem:
        raise unwritable(path, problem) from None


def check_replaceable(folder: Path, names: Sequence[str], mark: str, keys: Collection[str]) -> None:
    """Find out before long work whether files can be written into a folder, and that none of somebody else is lost.

    Args:
        names: Of the files, all of which go where one of them does.
        mark: Which of them tells an earlier run's from others: a JSON object with these `keys`.

    Raises:
        OSError, ValueError: as of `check_new`; or there is such a file that no earlier run left.
    """
    for name in names:
        check_new(folder / name, force=True)
    there = [name for name in names if (folder / name).exists()]
    if there and not _has_keys(folder / mark, keys):
        raise ValueError(f"{folder / there[0]} is of something else, and would be replaced; name another folder")


def _has_keys(file: Path, keys: Collection[str]) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() == set(keys)


def clear_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Delete the files in which a run kept what it needed to go on, and their folder, if nothing else is in it."""
    for name in names:
        for file in (folder / name, *_parts_of(folder / name)):
            file.unlink(missing_ok=True)
    _beside(folder, LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _file_among(paths: Iterable[Path]) -> Path | None:
    """The first of some paths that is something else than a folder."""
    return next((path for path in paths if os.path.exists(path) and not os.path.isdir(path)), None)


def _check_no_device(path: Path) -> None:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(f"{path} is a device or a pipe, whose place no file can take; name a file")


def _check_length(path: Path) -> None:
    """Raise OSError where a name is longer than the disk takes."""
    with suppress(FileNotFoundError):
        path.lstat()


def _probe(folder: Path) -> None:
    """Raise OSError unless something can be made in a folder."""
    TemporaryFile(dir=folder).close()  # it has no name, so that a kill leaves nothing


@contextmanager
def naming(path: Path, size: Callable[[], int]) -> Iterator[None]:
    """Say of what goes wrong in the block that it is `path` that can't be written.

    Args:
        size: Tells how many bytes are written in all.

    Raises:
        OSError: see `unwritable`.
    """
    try:
        yield
    except Exception as problem:  # tokenizers and safetensors have errors of their own for the system's
        if isinstance(problem, OSError | SafetensorError) or "(os error" in str(problem):
            raise unwritable(path, problem, size()) from None
        raise


def json_text(value: object, indent: int | None = None) -> str:
    """JSON that every reader takes: null where a number is not finite."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # a number of another library
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Unwritable(OSError):
    """What couldn't be written, and why; `reason` is the latter alone."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} can't be written ({reason}); nothing was saved, choose another place")
        self.path, self.reason = path, reason

    def __reduce__(self):  # from a worker process to the one that waits for it
        return type(self), (self.path, self.reason)


def unwritable(path: Path, problem: Exception, size: int | None = None) -> Unwritable:
    """What to raise when `path` couldn't be written: which file, why, and how much room is lacking.

    Args:
        problem: An OSError, or what safetensors makes of one.
        size: Bytes that were to be written.
    """
    if isinstance(problem, Unwritable):  # of a file in a folder that nobody has heard of
        return Unwritable(path, problem.reason)
    reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())
    full = getattr(problem, "errno", None) in FULL or f"os error {errno.ENOSPC}" in reason
    if full and size is not None:
        reason = f"{os.strerror(errno.ENOSPC)}: {in_bytes(size)} needed, {in_bytes(_free(path))} free"
    return Unwritable(path, reason)


def in_bytes(size: int) -> str:
    """A size in words, such as `12.3 MB`; rounded up."""
    for unit, bytes_in in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_in:
            return f"{math.ceil(10 * size / bytes_in) / 10:,.1f} {unit}"
    return f"{size} bytes"


def _free(path: Path) -> int:
    """Bytes that may still be written where `path` is, or will be."""
    path = Path(os.path.realpath(path))
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if os.path.exists(folder))).free


# Folders ----------------------------------------------------------------------------------------------


@contextmanager
def alone(path: Path, patience: float = 0):
    """Keep other processes from writing to the same folder, until the block ends or this process does.

    Args:
        patience: Seconds to wait for another that does.

    Raises:
        ValueError: another process is writing there now.
    """
    lock = FileLock(_beside(path, LOCK))
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise ValueError(f"another process is writing to {path}; wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_folder(
    path: Path, mark: str, is_earlier: Callable[[str], bool], room: int = 0, names: Collection[str] = ()
) -> Iterator[Path]:
    """A folder beside `path` to write to, whose files take their place there at the end of the block.

    A kill at any moment leaves what was there or what is new; after an error all is as it was. Files of others in the
    folder stay. `path` may be a link to a folder.

    Args:
        mark: The file that says what is in the folder: a JSON object, whose `files` lists all that the block writes.
        is_earlier: Whether a file of that name was written with the mark, by versions that listed none.
        room: Bytes that have to be free on the disk before the block begins.
        names: What the block may write, as far as that is known before: a file of somebody else that would be lost is
            then told before the block begins.

    Raises:
        OSError: `path` can't be written.
        ValueError: another process is writing there now, a file of somebody else would be lost, or see `check_place`.
    """
    check_place(path, mark, room)
    target = Path(os.path.realpath(path))
    with alone(path):
        _recover(path, mark)
        _check_none_lost(target, mark, is_earlier, names)
        unfinished = target.with_name(f".{target.name}.{uuid4().hex[:RANDOM]}{UNFINISHED}")
        unfinished.mkdir()
        try:
            try:
                yield unfinished
            except Unwritable as problem:
                raise unwritable(path, problem) from None
            _follow_umask(unfinished)
            try:
                _put(unfinished, target, mark, is_earlier)
            except OSError as problem:
                raise (_immovable(path) if problem.errno in IMMOVABLE else unwritable(path, problem)) from None
        finally:
            _delete_marked(unfinished, mark)


def check_place(path: Path, mark: str, room: int = 0) -> None:
    """Find out before long work whether `atomic_folder` can write to `path`; makes the folder that it is in, and clears
    up what a killed one left.

    Raises:
        OSError: it can't be written, or the disk has too little room.
        ValueError: `path` is or lies in a file, is a mount point, has a name that is kept for the unfinished, would be
            replaced while this process works in it, or another process is writing there now.
    """
    target = Path(os.path.realpath(path))
    if (file := _file_among((target, *target.parents))) is not None:
        raise ValueError(f"{file if file != target else path} is a file; name a folder")
    if not target.name or os.path.ismount(target):
        raise _immovable(path)
    if target.name.startswith(".") and target.name.endswith((UNFINISHED, REPLACED)):
        raise ValueError(f"{path}: names like that are of folders under way; name another folder")
    if os.path.exists(target / mark) and Path(os.path.realpath(".")).is_relative_to(target):
        raise ValueError(
            f"{path} is the folder that this runs in, and can't be replaced; run it from another, or name another"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for place in (target.parent, *([target] if os.path.exists(target) else [])):
            _probe(place)
        _check_length(target.with_name(f".{target.name}.{'0' * RANDOM}{UNFINISHED}"))
        with alone(path):
            _recover(path, mark)
    except OSError as problem:
        raise unwritable(path, problem) from None
    if room and _free(target) < room:
        raise OSError(
            f"{path} can't be written ({os.strerror(errno.ENOSPC)}: {in_bytes(room)} needed, "
            f"{in_bytes(_free(target))} free); make room, or choose another place"
        )


def moved_away(path: Path, mark: str) -> bool:
    """Whether `atomic_folder` is between the two renames with which it replaces a folder, or was killed there."""
    return (_beside(path, REPLACED) / mark).exists() and not path.exists()  # in this order: it goes after the new came


def bring_back(path: Path, mark: str) -> None:
    """Give a folder its place again whose replacement was killed; to be called `alone`."""
    if moved_away(path, mark):
        os.replace(_beside(path, REPLACED), os.path.realpath(path))


def _beside(path: Path, suffix: str) -> Path:
    """A hidden name beside a folder, or beside the one that a link names."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}{suffix}")


def _immovable(path: Path) -> ValueError:
    return ValueError(f"{path} is a mount point, whose place no new folder can take; name a folder in it")


def _listed(folder: Path, mark: str) -> set[str] | None:
    """What was written into a folder together with its mark; None where it doesn't say."""
    try:
        names = json.loads((folder / mark).read_text(encoding="utf-8"))["files"]
        return {name for name in names if isinstance(name, str) and Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _recover(path: Path, mark: str) -> None:
    """Undo what killed processes left half done; to be called `alone`."""
    bring_back(path, mark)
    target = Path(os.path.realpath(path))
    name = re.compile(rf"\.{re.escape(target.name)}\.{HEXADECIMAL}{re.escape(UNFINISHED)}")
    for left in target.parent.iterdir():
        if not name.fullmatch(left.name):
            continue
        if not (target / mark).exists():
            _take_back(left, target, mark)
        _delete_marked(left, mark)
    old = _beside(path, REPLACED)
    if old.exists() and target.exists() and (listed := _listed(old, mark)) is not None:
        _bring_late(old, target, {mark} | listed | (_listed(target, mark) or set()))
    _delete_marked(old, mark)
    if old.exists():
        raise OSError(errno.ENOTEMPTY, f"{old} is left of an earlier one and can't be deleted; delete it")


def _delete(file: Path) -> None:
    """Delete a file, or of a folder all that may be, also in folders of it that are read-only."""
    if not file.is_dir() or file.is_symlink():
        file.unlink(missing_ok=True)
        return
    for place, folders, _ in os.walk(file):
        for folder in folders:
            with suppress(OSError):
                if not os.path.islink(inner := os.path.join(place, folder)):
                    os.chmod(inner, 0o700)
    shutil.rmtree(file, ignore_errors=True)


def _follow_umask(folder: Path) -> None:
    """Give all files the mode that a new file gets; safetensors writes for the owner alone."""
    for file in folder.rglob("*"):
        if file.is_file():
            _chmod(file, stat.S_IMODE(folder.stat().st_mode) & 0o666)


def _delete_marked(folder: Path, mark: str) -> None:
    """Delete a folder, its mark first: without it, whoever finds a rest of the folder takes nothing from there."""
    (folder / mark).unlink(missing_ok=True)
    _delete(folder)


def _check_none_lost(
    target: Path, mark: str, is_earlier: Callable[[str], bool], new: Collection[str]
) -> tuple[set[str], set[str]]:
    """The names in a folder, and those of them that were written with its mark.

    Raises:
        ValueError: one of the others is new, too.
    """
    there = {file.name for file in target.iterdir()} if target.exists() else set()
    own = set()
    if mark in there:
        listed = _listed(target, mark)
        own = {mark} | {name for name in there if (is_earlier(name) if listed is None else name in listed)}
    if lost := sorted(there.intersection(new) - own):
        raise ValueError(
            f"{target} holds a file {lost[0]} that was not written with {mark} and would be lost; name "
            "another folder, or move it away"
        )
    return there, own


def _put(unfinished: Path, target: Path, mark: str, is_earlier: Callable[[str], bool]) -> None:
    new = sorted((file.name for file in unfinished.iterdir()), key=lambda name: name == mark)  # the mark comes last
    there, own = _check_none_lost(target, mark, is_earlier, new)
    if not there and not target.exists():
        os.replace(unfinished, target)
    elif mark not in there:
        try:
            for name in new:
                _move_new(unfinished / name, target / name)
        except BaseException:
            _take_back(unfinished, target, mark)
            raise
    else:
        for name in there - own:
            _take_along(target / name, unfinished / name)
        _chmod(unfinished, stat.S_IMODE(target.stat().st_mode))
        with suppress(OSError):  # to whom it belongs is for its owner to say
            os.chown(unfinished, -1, target.stat().st_gid)
        old = _beside(target, REPLACED)
        os.replace(target, old)
        os.replace(unfinished, target)
        with suppress(OSError):  # all is saved, and what is left of the old one is seen to by whoever writes next
            _bring_late(old, target, own.union(new))
            _delete_marked(old, mark)


def _take_back(unfinished: Path, target: Path, mark: str) -> None:
    """Delete from a folder what was given its place there, but for what somebody else has put there since.

    Nothing has its place where the mark is missing: it is written before any has, and is the first to be deleted.
    """
    for name in _listed(unfinished, mark) or ():
        with suppress(FileNotFoundError):
            # A file that has its place has two names, and one on disks that know no second names.
            if not os.path.lexists(unfinished / name) or os.path.samefile(unfinished / name, target / name):
                _delete(target / name)


def _bring_late(old: Path, new: Path, own: Collection[str] = ()) -> None:
    """Move to a folder's successor what somebody else wrote into the folder since its files were taken along.

    Args:
        own: Names of files that are the folder's or its successor's own.
    """
    for file in old.iterdir():
        place = new / file.name
        if file.name in own:
            continue
        if not os.path.lexists(place):
            os.replace(file, place)
        elif file.is_dir() and not file.is_symlink() and place.is_dir():
            _bring_late(file, place)
        elif not file.is_dir() and file.lstat().st_ctime_ns > place.lstat().st_ctime_ns:  # whoever wrote it, came last
            os.replace(file, place)


def _take_along(file: Path, place: Path) -> None:
    """Give somebody else's file or folder another place, too: a second name of the same files, however large."""
    try:
        if file.is_dir() and not file.is_symlink():
            shutil.copytree(file, place, symlinks=True, ignore=_check_no_mount, copy_function=_link)
        else:
            _link(file, place)
    except OSError as problem:
        reason = problem.strerror or " ".join(str(problem).split())
        raise OSError(None, f"{file.name} in it can't be taken along: {reason}") from None


def _link(file: str | Path, place: str | Path) -> None:
    try:
        os.link(file, place, follow_symlinks=False)
    except OSError:  # not on every disk
        shutil.copy2(file, place, follow_symlinks=False)


def _check_no_mount(folder: str, names: Sequence[str]) -> Sequence[str]:
    """To be asked by `copytree` what it is to leave out."""
    if os.path.ismount(folder):
        raise ValueError(f"{folder} is a mount point, which can't be moved; name another folder")
    return []
