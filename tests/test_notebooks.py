"""The notebooks: they run, they say what they compute, and their files are clean."""

import json
import re
import resource
import subprocess
import sys
import tomllib

import nbformat
import pytest
from notebook_runs import FOLDER, execute, write_claims, wrong_claims

NAMES = [
    "01_memory_layers",
    "02_which_slots",
    "03_top_t_live",
    "04_forgetting_side_by_side",
    "05_a_stream_of_facts",
    "06_your_facts_your_model",
]
PANELS = {"01": "Train", "02": "Slots", "03": "TopT", "04": "Compare", "05": "Teach", "06": "TopT"}
BINDER = 2 * 2**30  # bytes of memory that Binder gives


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def text_of(notebook, kind):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_one_core_in_the_memory_of_binder_and_its_text_quotes_what_its_cells_compute(name):
    found = []
    notebook, _ = execute(FOLDER / f"{name}.ipynb", lambda client: found.extend(wrong_claims(client)), memory=BINDER)
    assert found == []
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 2  # the result, and the panel at rest


def test_the_text_is_held_against_the_numbers_that_cells_compute(tmp_path):
    notebook = nbformat.v4.new_notebook()
    quoted = "It is 92%<!--share ±1-->, 1,234<!--many-->, and agrees<!--share > 2-->."
    notebook.cells = [nbformat.v4.new_code_cell("share, many = 0.8, 1235"), nbformat.v4.new_markdown_cell(quoted)]
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    found = []
    execute(tmp_path / "wrong.ipynb", lambda client: found.extend(wrong_claims(client)))
    assert [line.split(" in the text")[0] for line in found] == ["92%", "1,234", "agrees"]


def test_a_refreshed_text_has_the_numbers_of_its_outputs(tmp_path):
    notebook = nbformat.v4.new_notebook()
    quoted = "It is 92%<!--share ±20-->, 1,200<!--many ±100-->, 0.5<!--small ±1-->, and agrees<!--share < 2-->."
    notebook.cells = [
        nbformat.v4.new_code_cell("share, many, small = 0.876, 1235, -0.26"),
        nbformat.v4.new_markdown_cell(quoted),
    ]
    nbformat.write(notebook, tmp_path / "old.ipynb")
    new, _ = execute(tmp_path / "old.ipynb", write_claims)
    assert new.cells[1].source == (
        "It is 88%<!--share ±20-->, 1,235<!--many ±100-->, -0.3<!--small ±1-->, and agrees<!--share < 2-->."
    )
    nbformat.write(new, tmp_path / "old.ipynb")
    again, _ = execute(tmp_path / "old.ipynb", write_claims)
    assert again.cells[1].source == new.cells[1].source


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_every_part_that_a_reader_is_promised(name):
    notebook = read(name)
    said, done = text_of(notebook, "markdown"), text_of(notebook, "code")
    for part in (
        "**What you will see.**",
        "## What the paper says, and what we saw",
        "**Where they differ.**",
        "## Try this",
    ):
        assert part in said
    assert f"smft.widgets.{PANELS[name[:2]]}(" in done
    assert done.count("smft.widgets.Predict(") == done.count(".reveal(") >= 1
    assert done.startswith("try:\n    import smft_lab as smft")


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_notebook_is_small_and_holds_pictures_but_no_widget_path_or_trace(name):
    file = FOLDER / f"{name}.ipynb"
    whole = file.read_text(encoding="utf-8")
    assert len(whole) < 1_000_000
    assert "widget-state" not in whole
    assert "widget-view" not in whole
    assert not re.search(r"/(home|root|Users|tmp|opt|work)/|[A-Z]:\\\\", whole)
    outputs = [out for cell in read(name).cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert not any(out.output_type == "error" or "Traceback" in out.get("text", "") for out in outputs)
    assert max(len(json.dumps(out)) for out in outputs) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_notebook_resolve_and_its_badges_name_it(name):
    pyproject = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    repository = pyproject["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    said = text_of(read(name), "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", said):
        if not link.startswith("https://"):
            assert (FOLDER / link).is_file(), link
    assert f"colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb" in said
    assert f"mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/notebooks/{name}.ipynb" in said
    assert f"git+https://github.com/{repository}" in text_of(read(name), "code")


def test_every_notebook_is_listed_here():
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == NAMES


def test_the_first_cell_is_silent_on_installing_where_the_package_is_there():
    first = next(cell.source for cell in read(NAMES[0]).cells if cell.cell_type == "code")
    plain = first.replace("%pip", "raise SystemExit #")
    said = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert re.match(r"smft-lab \S+ · Python .* · torch .* · runner: inline\n$", said.stdout)


def test_memory_and_cores_are_really_limited_while_a_notebook_runs(tmp_path):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("hog = bytearray(3 * 2**30)")]
    nbformat.write(notebook, tmp_path / "hog.ipynb")
    with pytest.raises(Exception, match="MemoryError"):
        execute(tmp_path / "hog.ipynb", memory=BINDER)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != BINDER  # the kernel's limit, not this process's
    notebook.cells = [nbformat.v4.new_code_cell("import torch; torch.get_num_threads()")]
    nbformat.write(notebook, tmp_path / "cores.ipynb")
    executed, _ = execute(tmp_path / "cores.ipynb", memory=BINDER)
    assert executed.cells[0].outputs[0]["data"]["text/plain"] == "1"
