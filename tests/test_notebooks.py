"""The notebooks: they run, their text says no number of its own, and their files are clean.

`SMFT_LAB_NOTEBOOKS=all` runs every one, which takes minutes each; a few are always run, and of all it is looked whether
what they call is there and takes what it is given.
"""

import ast
import inspect
import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from operator import attrgetter

import nbformat
import pytest
from notebook_runs import FOLDER, execute

import smft_lab as smft

NAMES = [
    "01_memory_layers",
    "02_which_slots",
    "03_top_t_live",
    "04_forgetting_side_by_side",
    "05_a_stream_of_facts",
    "06_your_facts_your_model",
    "07_where_should_a_memory_go",
]
PANELS = {"01": "Train", "02": "Slots", "03": "TopT", "04": "Compare", "05": "Teach", "06": "TopT", "07": "Addresses"}
HIDDEN = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-input"]}  # Colab, Jupyter, the site
FOLDED = {
    "cellView": "form",
    "collapsed": True,
    "jupyter": {"outputs_hidden": True, "source_hidden": True},
    "tags": ["hide-cell"],
}
RUN = NAMES if os.environ.get("SMFT_LAB_NOTEBOOKS") == "all" else [NAMES[0], NAMES[1], NAMES[5]]
BINDER = 2 * 2**30  # bytes of memory that Binder gives


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def text_of(notebook, kind):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


@pytest.mark.parametrize("name", RUN)
def test_a_notebook_runs_on_one_core_in_the_memory_of_binder(name):
    notebook, _ = execute(FOLDER / f"{name}.ipynb", memory=BINDER)
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 2  # the result, and the panel at rest


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_calls_of_the_package_takes_what_it_is_given(name):
    checked = 0
    for cell in read(name).cells:
        if cell.cell_type != "code":
            continue
        for call in ast.walk(ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source))):  # magics are no Python
            called = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
            if not re.fullmatch(r"smft(\.\w+)+", called):
                continue
            asked = attrgetter(called.removeprefix("smft."))(smft)
            if any(isinstance(given, ast.Starred) for given in call.args) or None in [w.arg for w in call.keywords]:
                continue
            inspect.signature(asked).bind(*call.args, **{word.arg: word.value for word in call.keywords})
            checked += 1
    assert checked


@pytest.mark.parametrize("name", NAMES)
def test_a_number_in_the_text_is_a_setting_of_the_code_and_no_result(name):
    notebook = read(name)
    code = text_of(notebook, "code").replace("_", "")
    for cell in notebook.cells[1:]:
        if cell.cell_type == "markdown":
            said = cell.source.partition("## Try this")[0]
            said = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|\$[^$]*\$", "", said, flags=re.DOTALL)
            said = re.sub(r"([Nn]otebook|section) [\d.]+|\(\d\)", "", said)
            for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", said):
                written = re.escape(number.replace(",", ""))
                assert re.search(rf"(?<![\w.]){written}(?![\w.])", code), (cell.id, number)


@pytest.mark.parametrize("name", NAMES)
def test_what_answers_a_question_is_folded_and_so_is_the_code_of_charts(name):
    seen = {"reveal": 0, "picture": 0}
    for cell in read(name).cells:
        if ".reveal(" in cell.source:
            seen["reveal"] += 1
            assert cell.metadata == FOLDED, cell.id
        elif "smft.charts.picture(" in cell.source:
            seen["picture"] += 1
            assert cell.metadata in (HIDDEN, FOLDED), cell.id
    assert seen["reveal"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_imports_of_the_package_only_its_public_face(name):
    lines = re.findall(r"^\s*(?:from|import)\s+smft_lab.*$", text_of(read(name), "code"), re.MULTILINE)
    assert {line.strip() for line in lines} == {"import smft_lab as smft"}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_has_two_decimals_at_most_and_no_names_of_the_code(name):
    for cell in read(name).cells:
        for out in cell.get("outputs", []):
            for value in re.findall(r"<t[dh]>(.*?)</t[dh]>", out.get("data", {}).get("text/html", "")):
                if not re.fullmatch(r"0\.0+[1-9]", value):  # such as a rate
                    assert not re.fullmatch(r"-?\d+\.\d{3,}|[a-z]+(_[a-z]+)+|NaN", value), (cell.id, value)


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
