"""The pages of `smft-lab lab --app`: one for each panel, and a front page that leads to them."""

import json
import os
from pathlib import Path

import nbformat

from smft_lab import widgets
from smft_lab.pages import PAGES, index, make_root

ROOT = Path(__file__).parent.parent


def test_there_is_a_page_for_each_panel():
    shown = {page.code.partition("(")[0].rpartition(".")[2] for page in PAGES}
    assert shown == {*widgets.__all__} - {"Predict"}  # which asks a question about a cell of a notebook


def test_the_folder_that_is_served_holds_valid_notebooks_of_the_panels_and_the_lessons(tmp_path):
    make_root(tmp_path / "pages", ROOT / "notebooks", tmp_path / "it's mine")
    for page in PAGES:
        text = (tmp_path / "pages" / "panels" / f"{page.file}.ipynb").read_text()
        nbformat.validate(nbformat.reads(text, as_version=4))
        opening = json.loads(text)["cells"][1]["source"]
        compile(opening, page.file, "exec")
        assert repr(str(tmp_path / "it's mine")) in opening  # what is saved from a page is not lost with its folder
    lessons = tmp_path / "pages" / "notebooks"
    assert sorted(file.name for file in lessons.glob("*.ipynb")) == sorted(
        file.name for file in (ROOT / "notebooks").glob("*.ipynb")
    )


def test_where_links_are_not_allowed_the_lessons_are_copied(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError("not allowed")

    monkeypatch.setattr(os, "symlink", refused)
    make_root(tmp_path / "pages", ROOT / "notebooks", tmp_path)
    assert (tmp_path / "pages/notebooks/03_top_t_live.ipynb").is_file()


def test_the_front_page_leads_to_every_panel_and_notebook_under_any_address(tmp_path):
    (tmp_path / "a <b> & 'c'.ipynb").write_text("{")
    told = index(tmp_path, "/proxy/8888/")
    for page in PAGES:
        assert f'href="/proxy/8888/voila/render/panels/{page.file}.ipynb"' in told
    assert "voila/render/notebooks/a%20%3Cb%3E%20%26%20%27c%27.ipynb" in told
    assert "<b> &" not in told.replace("<b>a &lt;b&gt;", "")
    assert "Drag t: learning against forgetting" in index(ROOT / "notebooks")
    assert "://" not in told
