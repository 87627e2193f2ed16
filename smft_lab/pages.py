"""The front page of `smft-lab lab --app`, and a page for each panel: notebooks of three cells, made when it starts."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from smft_lab.charts.shell import page_html

PANELS, LESSONS = "panels", "notebooks"  # folders of pages
FRONT_PAGE = Path(__file__).with_name("front_page.html")
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
    panels = [_entry(base, f"{PANELS}/{page.file}.ipynb", page.title, page.about) for page in PAGES]
    notebooks = [_entry(base, f"{LESSONS}/{file.name}", *_about(file)) for file in sorted(lessons.glob("*.ipynb"))]
    return page_html(FRONT_PAGE, panels=panels, lessons=notebooks)


def _entry(base: str, path: str, title: str, about: str) -> dict[str, str]:
    return {"link": f"{base}voila/render/{quote(path)}", "title": title, "about": about}


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
