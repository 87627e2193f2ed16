"""Damaged files of every kind give a clear error or no harm; never a traceback, never half of one applied.

`SMFT_FUZZ=1000 pytest tests/test_bad_files.py` tries that many new damages of each file.
"""

import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from smft_lab.facts.files import FactsError, read_facts
from smft_lab.facts.world import new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.lab import LAB_FILE, PROBES_FILE, USAGE_FILE, WEIGHTS_FILE, Lab, load
from smft_lab.model.attach import add_memory
from smft_lab.probes.probes import Probes, QuestionProbe
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import Usage

TRIES = int(os.environ.get("SMFT_FUZZ", "0"))
FUZZ = settings(
    max_examples=TRIES or 40,
    derandomize=not TRIES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def damage(draw) -> tuple:
    """How a file is damaged: cut, overwritten, grown, or a JSON value in it replaced."""
    kind = draw(st.sampled_from(["cut", "bytes", "grow", "json", "empty"]))
    places = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
    value = draw(st.sampled_from([None, -1, 0, 1e30, "x", [], {}, [[1]], {"a": None}, True, 10**30, "../../etc"]))
    return kind, places, value


def damaged(data: bytes, how: tuple) -> bytes:
    kind, places, value = how
    at = [int(share * max(len(data) - 1, 0)) for share, _ in places]
    if kind == "empty":
        return b""
    if kind == "cut":
        return data[: at[0]]
    if kind == "grow":
        return data[: at[0]] + bytes(number for _, number in places) + data[at[0] :]
    if kind == "json":
        try:
            content = json.loads(data)
        except ValueError:
            content = None
        if isinstance(content, dict) and content:
            key = sorted(content)[at[0] % len(content)]
            return json.dumps({**content, key: value}).encode()
    changed = bytearray(data)
    for place, (_, number) in zip(at, places, strict=True):
        changed[place] = number
    return bytes(changed)


def clear(problem: Exception, file) -> None:
    """The error is of the kind the command line prints as one line, and names the file or its folder."""
    text = " ".join(str(problem).split())
    assert str(file.parent) in text, text
    assert len(text) < 700, text


@pytest.fixture(scope="module")
def saved(tiny_model, tokenizer, tmp_path_factory):
    """Two labs on disk, one of each kind of model, and a patch of the first."""
    from test_attach import MEMORY, small

    folder = tmp_path_factory.mktemp("whole")
    probes = Probes([QuestionProbe("colours", ("What colour is grass?",), (("green",),))])
    for name, model in (("built-in", tiny_model()), ("attached", add_memory(small("llama"), 1, **MEMORY))):
        usage = Usage(20, torch.ones(1, 256, dtype=torch.int32), torch.ones(1, 256))
        lab = Lab(model, tokenizer, usage, probes)
        lab.save(folder / name)
    lab = load(folder / "built-in")
    for _ in finetune(lab, new_facts(2), passes=1, top_t=10, probe_every=0):
        pass
    Patch.between(lab, {"method": "sparse"}).save(folder / "patch.safetensors")
    lab.reset()
    return folder, lab


LAB_FILES = [LAB_FILE, USAGE_FILE, WEIGHTS_FILE, PROBES_FILE, "config.json", "tokenizer.json", "tokenizer_config.json",
             "generation_config.json"]  # fmt: skip


@pytest.mark.parametrize("kind", ["built-in", "attached"])
@pytest.mark.parametrize("name", LAB_FILES)
def test_a_damaged_file_of_a_lab_is_a_clear_error_or_no_harm(saved, tmp_path, kind, name):
    folder, _ = saved
    shutil.copytree(folder / kind, tmp_path / "lab")
    file = tmp_path / "lab" / name
    whole = file.read_bytes()

    @FUZZ
    @given(damage())
    def check(how):
        file.write_bytes(damaged(whole, how))
        try:
            load(tmp_path / "lab")
        except (ValueError, OSError) as problem:
            clear(problem, file)

    check()


@pytest.mark.parametrize("name", LAB_FILES)
def test_a_missing_file_of_a_lab_is_a_clear_error_or_no_harm(saved, tmp_path, name):
    folder, _ = saved
    shutil.copytree(folder / "attached", tmp_path / "lab")
    (tmp_path / "lab" / name).unlink()
    try:
        load(tmp_path / "lab")
    except (ValueError, OSError) as problem:
        clear(problem, tmp_path / "lab" / name)


def test_a_damaged_patch_is_refused_and_nothing_of_it_applied(saved, tmp_path):
    folder, lab = saved
    whole = (folder / "patch.safetensors").read_bytes()
    good = load_file(folder / "patch.safetensors")
    file = tmp_path / "patch.safetensors"
    table = next(name for name in lab.model.state_dict() if name.endswith("values.weight"))

    @FUZZ
    @given(damage())
    def check(how):
        file.write_bytes(damaged(whole, how))
        try:
            Patch.load(file).apply(lab)
        except (ValueError, OSError) as problem:
            clear(problem, file)
            assert torch.equal(lab.model.state_dict()[table], lab.base(table))
        else:
            assert torch.equal(lab.model.state_dict()[table][good["0.slots"]], good["0.values"])
            lab.reset()

    check()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_damaged_facts_are_a_clear_error_or_facts(tmp_path, suffix):
    facts = new_facts(3)
    lines = {
        ".jsonl": [json.dumps({"statements": f.statements[:2], "question": f.question, "answers": f.answers})
                   for f in facts],
        ".csv": ["statements,question,answers", *(f"{f.statements[0]},{f.question},{f.answer}" for f in facts)],
        ".txt": [f.statements[0] for f in facts],
    }[suffix]  # fmt: skip
    whole = ("\n".join(lines) + "\n").encode()
    file = tmp_path / f"facts{suffix}"

    @FUZZ
    @given(damage())
    def check(how):
        file.write_bytes(damaged(whole, how))
        try:
            assert read_facts(file)
        except FactsError as problem:
            clear(problem, file)

    check()
