"""What the pages that are live without a kernel have in common: one file, of a size that a browser opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smft_lab.charts.shell import page_html
from smft_lab.widgets.panel import HERE, STYLE
from smft_lab.writing import check_new, write_atomically


def check_path(path: str | Path, force: bool = False) -> Path:
    """The path of a page, before any computing.

    Raises:
        OSError: nothing can be written there.
        ValueError: it is no name of a page, or there is a file and `force` is not given.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"{path}: a page is one HTML file; let its name end in .html")
    check_new(path, force)
    return path


def page_text(template: str, scripts: Sequence[str], data: dict, **parts) -> str:
    """A page as text.

    Args:
        template: A file of this folder that extends `live_page.html`.
        scripts: Files of this folder that run in it, after `panel.js`.
        data: What they draw.
        parts: What else the template shows, such as the title.
    """
    style, *script = ((HERE / name).read_text(encoding="utf-8") for name in ("shared_page.css", "panel.js", *scripts))
    code = "\n".join(script)
    return page_html(HERE / template, scripts=[code], style=f"{STYLE}\n{style}", data=data, **parts)


def write_page(path: Path, text: str, most: int, advice: str = "", replace: bool = True) -> Path:
    """Write a page, whole or not at all.

    Args:
        most: Megabytes that it may have.
        advice: What to do where it has more.
        replace: Whether a page that is there may be replaced.

    Raises:
        OSError: it can't be written.
        ValueError: it is larger; or it is there and not to be replaced.
    """
    size = len(text.encode()) / 1e6
    if size > most:
        raise ValueError(f"the page would be {size:.0f} MB, and is to stay under {most}{advice}")
    write_atomically(path, text, replace)
    return path
