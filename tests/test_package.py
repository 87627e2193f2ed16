"""The package as a whole: its face, its weight at import, and what its text promises."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import smft_lab

ROOT = Path(__file__).parent.parent
ANNOTATIONS = (
    "    from smft_lab.lab import Lab\n"  # after TYPE_CHECKING: every room may name it, and none above imports it
)


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "plotly", "pandas", "ipywidgets", "anywidget", "jaxtyping")
    code = f"import sys, smft_lab; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_what_an_editor_sees_of_the_package_is_what_there_is():
    seen = {}
    for branch in ast.walk(ast.parse((ROOT / "smft_lab" / "__init__.py").read_text())):
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING":
            seen |= {name.name: line.module for line in branch.body for name in line.names}
    assert seen.pop("charts") == seen.pop("widgets") == "smft_lab"
    assert seen == smft_lab._HOME
    assert sorted([*seen, "charts", "widgets"]) == sorted(smft_lab.__all__)


@pytest.mark.parametrize("before", ["", "smft_lab.widgets.TopT, smft_lab.new_facts;"])
def test_dir_lists_what_there_is_and_nothing_else(before):
    code = f"import smft_lab; {before} print(*(name for name in dir(smft_lab) if name[:2] != '__'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == sorted(smft_lab.__all__)


@pytest.mark.parametrize("room", [smft_lab.charts, smft_lab.widgets])
def test_dir_lists_the_public_names_of_a_public_room(room):
    assert [name for name in dir(room) if name[:2] != "__"] == sorted(room.__all__)


@pytest.mark.parametrize("model", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_models_of_transformers_are_imported_as_well_after_the_package(model):
    code = (
        f"import smft_lab; from transformers import {model}; from transformers import AutoConfig;"
        "print(type(AutoConfig.for_model('memory_llama')).__name__)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.strip() == "MemoryLlamaConfig", told.stderr


@pytest.mark.parametrize("name", smft_lab.__all__)
def test_every_public_name_is_there_with_a_docstring(name):
    assert getattr(smft_lab, name).__doc__


def test_public_functions_stay_functions_after_their_modules_are_imported():
    import smft_lab.experiments.compare
    import smft_lab.finetuning.finetune

    assert callable(smft_lab.finetune)
    assert callable(smft_lab.compare)
    assert callable(smft_lab.run)


def test_a_room_imports_only_from_rooms_above_it():
    rooms = (
        "writing terminal kernel ranges wording recipe facts.fact facts.world facts model slots finetuning.engine "
        "probes storage lab training finetuning charts experiments reproduce widgets pages launch cli __main__"
    ).split()

    def room_of(module: str) -> str:
        return max((room for room in rooms if f"{module}.".startswith(f"{room}.")), key=len)

    for file in (ROOT / "smft_lab").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT / "smft_lab").with_suffix("").parts)
        if module == "__init__":
            continue
        imported = file.read_text().replace(ANNOTATIONS, "")
        for other in re.findall(r"^ *(?:from|import) smft_lab\.([\w.]+)", imported, re.MULTILINE):
            assert rooms.index(room_of(other)) <= rooms.index(room_of(module)), f"{file.name} imports {other}"


def test_every_module_can_be_the_first_that_is_imported():
    """None needs one that needs it: with an import of a module come the packages that it lies in, but for those that
    the importing module lies in, too, as they were begun before."""
    modules = {}
    for file in (ROOT / "smft_lab").rglob("*.py"):
        path = file.relative_to(ROOT).with_suffix("")
        modules[".".join(path.parts).removesuffix(".__init__")] = ast.parse(file.read_text())

    def imported(module: str, tree: ast.Module) -> set[str]:
        names = set()
        for line in tree.body:  # what stands in functions, or below TYPE_CHECKING, is not imported at once
            if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("smft_lab"):
                names |= {line.module, *(f"{line.module}.{alias.name}" for alias in line.names)}
        parts = [name.split(".") for name in names & set(modules)]
        wanted = {".".join(part[: i + 1]) for part in parts for i in range(len(part))}
        return {name for name in wanted if not f"{module}.".startswith(f"{name}.")}

    graph = {module: imported(module, tree) for module, tree in modules.items()}
    assert "smft_lab.lab" in graph["smft_lab.finetuning.finetune"]
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the modules


def test_tested_versions_meet_what_the_package_asks_for():
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, sum(project["optional-dependencies"].values(), project["dependencies"]))
    for requirement in (one for one in wanted if one.name != project["name"]):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
        assert not any(part.operator in ("<", "<=", "==") for part in requirement.specifier), requirement


def test_environment_yml_asks_for_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = (ROOT / "environment.yml").read_text()
    for requirement in project["dependencies"]:
        name, least = requirement.split(">=")
        name = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}.get(name, name)
        assert f"- {name}>={least}" in environment


def test_the_panels_are_found_from_the_package():
    assert smft_lab.widgets.TopT.__doc__


def test_the_pages_of_the_panels_travel_with_the_package():
    folder = ROOT / "smft_lab" / "widgets"
    assert (folder / "panel.css").is_file()
    assert all((folder / f"{file.stem}.js").is_file() for file in folder.glob("*.py") if "_esm" in file.read_text())


def test_the_dev_container_installs_what_there_is():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    constraints, extra = re.fullmatch(r"pip install -c (\S+) -e '\.\[(\w+)\]'", container["postCreateCommand"]).groups()
    assert (ROOT / constraints).is_file()
    assert extra in extras


COLAB = {
    "torch": "2.11.0",
    "transformers": "5.15.0",
    "peft": "0.20.0",
    "pandas": "2.2.3",
    "plotly": "5.24.1",
    "ipywidgets": "7.7.1",
    "anywidget": "0.9.21",
    "matplotlib": "3.10.0",
}


@pytest.mark.parametrize("name", COLAB)
def test_installing_in_colab_replaces_none_of_its_own_packages(name):
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    assert wanted[name].contains(COLAB[name])


def test_the_auto_classes_are_registered_whichever_finder_knows_the_module(monkeypatch):
    from importlib.machinery import ModuleSpec, SourceFileLoader

    class Editable:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return (
                ModuleSpec(name, SourceFileLoader(name, __file__))
                if name.startswith("transformers.elsewhere")
                else None
            )

    ours = smft_lab._AutoClasses()
    monkeypatch.setattr(sys, "meta_path", [smft_lab._AutoClasses(), ours, Editable])
    assert ours.find_spec("transformers.elsewhere.modeling_x", []) is not None
    assert ours.find_spec("transformers.nowhere.modeling_x", []) is None
