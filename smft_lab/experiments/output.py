"""What comes out of long work: files that no reader finds half of, and whether anybody looks on."""

import os
import sys
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, text: str) -> None:
    """Write `text` under a name of its own, then rename: the file is the old one or the new one, never a part, also
    where several machines write it at once."""
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def watched() -> bool:
    """Whether somebody sees what is printed at once: in a terminal, or in a notebook that is not merely executed."""
    in_notebook = "ipykernel" in sys.modules and os.environ.get("SMFT_LAB_RUNNER") != "inline"
    return sys.stdout.isatty() or in_notebook
