"""Writing results so that a reader never finds half of one."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` under a temporary name, then rename: the file is the old one or the new one, never a part."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
