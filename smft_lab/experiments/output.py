"""What comes out of long work: files that no reader finds half of, and whether anybody looks on."""

import os
import sys
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` under a temporary name, then rename: the file is the old one or the new one, never a part."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def watched() -> bool:
    """Whether somebody sees what is printed at once: in a terminal, or in a notebook that is not merely executed."""
    in_notebook = "ipykernel" in sys.modules and os.environ.get("SMFT_LAB_RUNNER") != "inline"
    return sys.stdout.isatty() or in_notebook
