"""The front page of `smft-lab lab --app`, and a page for each panel: notebooks of three cells, made when it starts."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

PANELS, LESSONS = "panels", "notebooks"  # folders of pages
OPEN = "import smft_lab as smft\n\nlab, facts = smft.load(), smft.new_facts(24)"


@dataclass(frozen=True)
class PanelPage:
    """The page of one panel."""

    file: str
    title: str
    about: str
    code: str


PAGES = (
    PanelPage(
        "top_t",
        "Top-t",
        "Drag the slider, let it go, and watch what is learned and what is forgotten.",
        "smft.widgets.TopT(lab, facts)",
    ),
    PanelPage(
        "teach",
        "Teach",
        "Type a sentence and a question, teach it, ask anything, take it back.",
        "smft.widgets.Teach(lab)",
    ),
    PanelPage(
        "compare",
        "Compare",
        "Sparse memory finetuning, full finetuning and LoRA, side by side.",
        "smft.widgets.Compare(lab, facts)",
    ),
    PanelPage(
        "slots",
        "Slots",
        "Which slots a text reads, token by token; heatmaps, ranking, cards.",
        "smft.widgets.Slots(lab, facts)",
    ),
    PanelPage(
        "addresses",
        "Addresses",
        "Will a fact be found from another wording, and is it heard?",
        "smft.widgets.Addresses(lab, facts)",
    ),
    PanelPage("train", "Train", "A small memory model from nothing, in two minutes.", "smft.widgets.Train()"),
)

INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SMFT Lab</title>
<link rel="icon" href="data:;base64,=">
<style>
:root {{ color-scheme: light dark; --line: light-dark(#d5dbe1, #34404b); --muted: light-dark(#55626f, #a5b1bd) }}
body {{ margin: 0 auto; padding: 32px 24px 48px; max-width: 1180px; font: 16px/1.5 system-ui, sans-serif;
  background: light-dark(#fff, #10161c); color: light-dark(#1d2730, #e8edf2) }}
h1 {{ margin: 0 0 4px; font-size: 34px; letter-spacing: -.015em }} h2 {{ margin: 32px 0 10px; font-size: 20px }}
p {{ margin: 0; color: var(--muted) }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 14px; margin: 0;
  padding: 0; list-style: none }}
a {{ display: block; height: 100%; box-sizing: border-box; padding: 14px 18px; border: 1px solid var(--line);
  border-radius: 8px; color: inherit; text-decoration: none }}
a:hover, a:focus-visible {{ border-color: light-dark(#0072b2, #56b4e9); outline: none;
  box-shadow: inset 4px 0 light-dark(#0072b2, #56b4e9) }}
b {{ display: block }}
</style>
</head>
<body>
<h1>SMFT Lab</h1>
<p>Teach a small language model new facts by changing a few rows of its memory, and watch what it forgets.</p>
<main>
<h2>Panels</h2>
<ul>
{panels}
</ul>
<h2>Notebooks</h2>
<ul>
{lessons}
</ul>
</main>
</body>
</html>
"""


def panel_notebook(page: PanelPage, folder: Path) -> dict:
    """A notebook with one panel.

    Args:
        folder: Where it works, so that what is saved from the page is found again.
    """
    cells = [
        ("markdown", f"# {page.title}\n\n{page.about}"),
        ("code", f"import os\n\nos.chdir({str(folder)!r})\n{OPEN}"),
        ("code", page.code),
    ]
    return {
        "cells": [
            {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
            | ({"execution_count": None, "outputs": []} if kind == "code" else {})
            for number, (kind, source) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def make_root(root: Path, lessons: Path, folder: Path) -> None:
    """The folder that is served: a notebook per panel, and the notebooks of `lessons` as they are.

    Args:
        folder: Where the panels' kernels work.
    """
    (root / PANELS).mkdir(parents=True)
    for page in PAGES:
        text = json.dumps(panel_notebook(page, folder), indent=1)
        (root / PANELS / f"{page.file}.ipynb").write_text(text, encoding="utf-8")
    try:
        os.symlink(lessons, root / LESSONS, target_is_directory=True)
    except OSError:  # not allowed on some systems
        shutil.copytree(lessons, root / LESSONS, ignore=shutil.ignore_patterns(".*", "results"))


def index(lessons: Path, base: str = "/") -> str:
    """The front page.

    Args:
        base: Where the server's addresses begin.
    """

    def entry(path: str, title: str, about: str) -> str:
        link = escape(f"{base}voila/render/{quote(path)}")
        return f'<li><a href="{link}"><b>{escape(title)}</b>{escape(about)}</a></li>'

    panels = "\n".join(entry(f"{PANELS}/{page.file}.ipynb", page.title, page.about) for page in PAGES)
    entries = "\n".join(entry(f"{LESSONS}/{file.name}", *_about(file)) for file in sorted(lessons.glob("*.ipynb")))
    return INDEX.format(panels=panels, lessons=entries)


def _about(notebook: Path) -> tuple[str, str]:
    """The first heading of a notebook; its file's name where it has none."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    except (OSError, ValueError, KeyError, TypeError):
        sources = []
    for line in "\n".join(sources).splitlines():
        if line.startswith("# "):
            return line[2:].strip(), ""
    return notebook.stem, ""
