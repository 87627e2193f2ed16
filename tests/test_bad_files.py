"""Damaged files of every kind give a clear error or no harm; never a traceback, never half of one applied.

`SMFT_LAB_DAMAGES=1000 pytest tests/test_bad_files.py` tries that many new damages of each file.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import smft_lab
from smft_lab.facts.files import FactsError, read_facts
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.lab import Lab, load
from smft_lab.model.attach import add_memory
from smft_lab.probes.probes import Probes, QuestionProbe
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import Usage
from smft_lab.storage import LAB_FILE, PROBES_FILE, USAGE_FILE, WEIGHTS_FILE

TRIES = int(os.environ.get("SMFT_LAB_DAMAGES", "0"))
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


@pytest.fixture
def tried(record_property):
    """Files that a test has damaged, one for each time it is called."""
    files = []
    yield lambda: files.append(1)
    record_property("tried", len(files))


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
    Patch.between(lab, about={"method": "sparse"}).save(folder / "patch.safetensors")
    lab.reset()
    return folder, lab


LAB_FILES = [
    LAB_FILE,
    USAGE_FILE,
    WEIGHTS_FILE,
    PROBES_FILE,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
]


@pytest.mark.parametrize("kind", ["built-in", "attached"])
@pytest.mark.parametrize("name", LAB_FILES)
def test_a_damaged_file_of_a_lab_is_a_clear_error_or_no_harm(saved, tmp_path, kind, name, tried):
    folder, _ = saved
    shutil.copytree(folder / kind, tmp_path / "lab")
    file = tmp_path / "lab" / name
    whole = file.read_bytes()

    @FUZZ
    @given(damage())
    def check(how):
        tried()
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


def test_a_damaged_patch_is_refused_and_nothing_of_it_applied(saved, tmp_path, tried):
    folder, lab = saved
    whole = (folder / "patch.safetensors").read_bytes()
    good = load_file(folder / "patch.safetensors")
    file = tmp_path / "patch.safetensors"
    table = next(name for name in lab.model.state_dict() if name.endswith("values.weight"))

    @FUZZ
    @given(damage())
    def check(how):
        tried()
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
def test_damaged_facts_are_a_clear_error_or_facts(tmp_path, suffix, tried):
    facts = new_facts(3)
    lines = {
        ".jsonl": [
            json.dumps({"statements": f.statements[:2], "question": f.question, "answers": f.answers}) for f in facts
        ],
        ".csv": ["statements,question,answers", *(f"{f.statements[0]},{f.question},{f.answer}" for f in facts)],
        ".txt": [f.statements[0] for f in facts],
    }[suffix]
    whole = ("\n".join(lines) + "\n").encode()
    file = tmp_path / f"facts{suffix}"

    @FUZZ
    @given(damage())
    def check(how):
        tried()
        file.write_bytes(damaged(whole, how))
        try:
            assert read_facts(file)
        except FactsError as problem:
            clear(problem, file)

    check()


BAD_ENTRIES = [
    ("format", 0),
    ("format", 1.5),
    ("format", True),
    ("world_seed", "0"),
    ("world_seed", 0.5),
    ("world_scale", 0),
    ("world_scale", 1e9),
    ("world_scale", "1"),
    ("world_scale", float("nan")),
    ("defaults", []),
    ("defaults", {"sparse": 0.5}),
    ("defaults", {"sparse": {"lr": "fast"}}),
    ("defaults", {"full": {"lr": float("nan")}}),
    ("defaults", {"sparse": {"top_t": "many"}}),
    ("defaults", {"lora": {"lr_by_optimizer": [1]}}),
    ("defaults", {"lora": {"lr_by_optimizer": {"adamw": 0}}}),
    ("defaults", {"sweep": {}}),
    ("defaults", {"sweep": [1]}),
    ("files", "lab.json"),
    ("files", [1]),
    ("tables_by_rows", {"a": 1}),
    ("own_tokenizer", "yes"),
    ("dtype", "load"),
    ("dtype", ["float16"]),
    ("narrow_buffers", "all"),
    ("attention", "someone/kernels"),
    ("form", []),
    ("recipe", 3),
    ("recipe", {"slots": "many"}),
    ("recipe", {"lr": float("inf")}),
    ("recipe", {"gate": "no"}),
    ("recipe", {"passes": 1.5}),
]


@pytest.mark.parametrize(("name", "value"), BAD_ENTRIES)
def test_an_entry_of_another_type_or_size_is_named_in_one_line_and_no_model_is_made(
    saved, tmp_path, monkeypatch, name, value
):
    file = changed_copy(saved, tmp_path, "attached", LAB_FILE, **{name: value})
    if name != "recipe":
        monkeypatch.setattr("smft_lab.storage.add_memory", lambda *_, **__: pytest.fail("a model was made"))
    with pytest.raises(ValueError, match=name) as problem:
        load(tmp_path / "lab")
    clear(problem.value, file)


HUGE = [
    ("attached", {"smft_memory": {"slots": 1_000_000**2}}, "slots"),
    ("attached", {"smft_memory": {"slots": 16, "value_dim": 4}}, "slots"),
    ("attached", {"smft_memory": {"key_dim": 2_000_000_000}}, "holds"),
    ("attached", {"smft_memory": {"value_dim": 3_000_000_000}}, "holds"),
    ("attached", {"hidden_size": 1_000_000}, "holds"),
    ("attached", {"vocab_size": 2_000_000_000}, "holds"),
    ("attached", {"num_hidden_layers": 1_000_000_000}, "layers"),
    ("built-in", {"num_hidden_layers": 1_000_000_000}, "layers"),
    ("built-in", {"memory_slots": 1_000_000**2}, "slots"),
    ("built-in", {"vocab_size": 2_000_000_000}, ""),
    ("built-in", {"memory_key_dim": 2_000_000_000}, ""),
]


def changed_copy(saved, tmp_path, kind: str, name: str, **changes):
    """A copy of a saved lab in which entries of a JSON file are others."""
    shutil.copytree(saved[0] / kind, tmp_path / "lab")
    file = tmp_path / "lab" / name
    content = json.loads(file.read_text())
    entries = content.get("base", content)  # of a model with an attached memory, its own config
    for key, value in changes.items():
        entries[key] = {**entries[key], **value} if key == "smft_memory" else value
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(("kind", "changes", "named"), HUGE)
def test_a_size_that_the_files_do_not_have_is_refused_before_it_is_made(saved, tmp_path, kind, changes, named):
    import resource

    file = changed_copy(saved, tmp_path, kind, "config.json", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=named) as problem:
        load(tmp_path / "lab")
    clear(problem.value, file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


BAD_USAGE = {
    "a negative df": {"usage.df": torch.full((1, 256), -1)},
    "a df over the batches": {"usage.df": torch.full((1, 256), 21)},
    "a negative count": {"usage.count": torch.full((1, 256), -5)},
    "a count that is no number": {"usage.count": torch.full((1, 256), float("nan"))},
    "a count too large": {"usage.count": torch.full((1, 256), 2**40)},
    "no batches": {"usage.batches": torch.tensor([0])},
    "half a batch": {"usage.batches": torch.tensor([0.5])},
    "an empty list of batches": {"usage.batches": torch.zeros(0, dtype=torch.long)},
    "another shape": {"usage.count": torch.ones(1, 16)},
    "no table": {"usage.df": torch.ones(0, 256), "usage.count": torch.ones(0, 256)},
}


@pytest.mark.parametrize("name", BAD_USAGE)
def test_a_usage_that_no_text_can_have_is_refused(saved, tmp_path, name):
    shutil.copytree(saved[0] / "attached", tmp_path / "lab")
    file = tmp_path / "lab" / USAGE_FILE
    save_file({**load_file(file), **BAD_USAGE[name]}, file)
    with pytest.raises(ValueError, match=f"{USAGE_FILE} can't be read") as problem:
        load(tmp_path / "lab")
    clear(problem.value, file)


def test_a_patch_of_numbers_that_are_none_is_neither_saved_nor_loaded(saved, tmp_path):
    patch = Patch.load(saved[0] / "patch.safetensors")
    bad = [values.clone() for values in patch.values]
    for number in (float("nan"), float("inf")):
        bad[0][1, 2] = number
        file = tmp_path / "bad.safetensors"
        broken = Patch(patch.slots, bad, patch.base, patch.about)
        with pytest.raises(ValueError, match=r"values are nan or infinite.*lower learning rate"):
            broken.save(file)
        assert not file.exists()
        with pytest.MonkeyPatch.context() as unchecked:
            unchecked.setattr("smft_lab.slots.patch.check_rows", lambda _: None)
            broken.save(file)
        with pytest.raises(ValueError, match=r"bad.safetensors is damaged.*values are nan or infinite"):
            Patch.load(file)
        file.unlink()


def test_nothing_that_comes_with_a_model_is_ever_run_or_offered_to_be():
    """Every call that could ask whether to trust a model's own code says no."""
    calls = r"(?:from_pretrained|(?<!_)from_config)\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
    for file in Path(smft_lab.__file__).parent.rglob("*.py"):
        for call in re.findall(calls, file.read_text(encoding="utf-8")):
            if "from_pretrained()" in call or ("from_config(config)" in call and "plain_model" in file.name):
                continue  # words; a model whose class was named by us
            assert "trust_remote_code=False" in call or "**options" in call, f"{file}: {call}"
