"""Files that no reader finds half of."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

PARTIAL = ".partial"
RANDOM = 8  # hexadecimal digits
LEFT_BEHIND = 3600  # seconds; what is older was left by a process that was killed


@contextmanager
def whole(path: Path, left_behind: float = LEFT_BEHIND) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place at the end of the block: the file is the old one or the
    new one, never a part, also where several machines write it at once. An error leaves the old one.

    Args:
        left_behind: Age in seconds from which another's part is deleted; 0 where nobody else writes `path`.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.{'?' * RANDOM}{PARTIAL}"):
        with suppress(OSError):  # it may be another's
            if not left_behind or time.time() - left.stat().st_mtime > left_behind:
                left.unlink()
    partial = path.with_name(f"{path.name}.{uuid4().hex[:RANDOM]}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write `text`, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
