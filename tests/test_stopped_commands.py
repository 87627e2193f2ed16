"""Ctrl-C while a command works: no traceback, nothing half-written, and the same command can be given again.

`SMFT_LAB_STOPS=20 pytest tests/test_stopped_commands.py` stops every command twenty times.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import smft_lab as smft
from smft_lab.finetuning.finetune import finetune
from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.slots.patch import Patch

STOPS = int(os.environ.get("SMFT_LAB_STOPS", "0"))
SOON = {"compare": 6.0, "attach": 6.0, "patch apply": 3.0}  # seconds; what is stopped once where no number is given
SHORT = ["--passes", "1", "--top-t", "20"]
COMMANDS = {  # with what they write, in the folder that they are given in
    "compare": (["--lab", "lab", "--facts", "facts.jsonl", "--seeds", "1", *SHORT, "--out", "out"], "out"),
    "tune": (["--lab", "lab", "--count", "2", *SHORT, "--methods", "sparse"], "lab"),
    "attach": (
        ["model", "--text", "words.txt", "--slots", "256", "--layers", "1", "--known", "facts.jsonl", "--questions"]
        + ["facts.jsonl", "--out", "out"],
        "out",
    ),
    "attach --steps": (
        ["model", "--text", "words.txt", "--slots", "256", "--layers", "1", "--steps", "200", "--window", "16"]
        + ["--out", "out"],
        "out",
    ),
    "page": (["--lab", "lab", "--facts", "facts.jsonl", "--passes", "1", "--top-t", "10,20", "--out", "out.html"], ""),
    "facts": (["facts.jsonl", "--out", "out.jsonl"], "out.jsonl"),
    "patch apply": (["one.safetensors", "--lab", "lab", "--out", "out"], "out"),
    "patch combine": (["one.safetensors", "one.safetensors", "--out", "out.safetensors"], "out.safetensors"),
    "patch show": (["one.safetensors"], ""),
    "pretrain": (["--out", "out", "--steps", "3"], "out"),
    "reproduce": (["facts", "--quick", "--seeds", "1", "--lab", "lab", "--out", "out", "--workers", "2"], "out"),
    "bench": (["--quick", "--lab", "lab", "--out", "out"], "out"),
}
LONG = ("pretrain", "reproduce", "bench")  # which are not awaited
LONGEST = 20.0  # seconds after which those are stopped, at most
AGAIN = ("already holds", "is there already")  # what is told where the first had ended


@pytest.fixture(scope="module")
def place(tokenizer, corpus, tmp_path_factory):
    """A folder with a lab, a plain model, facts, a text and a patch."""
    from test_attach import MEMORY, lab_of, small
    from test_cli import TEXT

    folder = tmp_path_factory.mktemp("stopped")
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    lab.world_seed = 0
    lab.save(folder / "lab")
    facts = smft.new_facts(2)
    list(finetune(lab, facts, top_t=20, passes=1, probe_every=0))
    Patch.between(lab).save(folder / "one.safetensors")
    small("llama").save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = (json.dumps(asdict(fact)) + "\n" for fact in smft.new_facts(8))
    (folder / "facts.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "words.txt").write_text(" ".join(TEXT) * 20, encoding="utf-8")
    return folder


def started(name: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "smft_lab", *name.split(" --")[0].split(), *COMMANDS[name][0]]
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(smft.__file__).parent.parent)},
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def lives_on(group: int, patience: float = 10.0) -> bool:
    """Whether a process of a group is still there after some seconds; it is killed then."""
    until = time.monotonic() + patience
    try:
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def problems_of(name: str, folder: Path, before: dict[str, bytes], code: int, told: str, group: int) -> list[str]:
    """What is wrong after a command was stopped."""
    wrong = []
    if "Traceback" in told and " in main" not in told:  # Python itself was still getting there, and tells of it so
        code = 130
    elif "Traceback" in told:
        wrong.append("a traceback")
    if code not in (0, 130, -signal.SIGINT):  # the last as the interpreter ends, which a shell counts as 130
        wrong.append(f"exit code {code}")
    if lives_on(group):
        wrong.append("a process that went on")
    now, written = contents(folder), COMMANDS[name][1]
    if lost := [file for file, data in before.items() if now.get(file) != data and file.split("/")[0] != written]:
        wrong.append(f"changed {lost}")
    try:
        load(folder / "lab")
        if written == "out" and (folder / "out/lab.json").exists():
            load(folder / "out")
        if written == "out.safetensors" and (folder / written).exists():
            Patch.load(folder / written)
        if written == "out.jsonl" and (folder / written).exists():
            smft.read_facts(folder / written)
    except (OSError, ValueError) as problem:
        wrong.append(str(problem))
    return wrong


@pytest.mark.parametrize("name", COMMANDS if STOPS else SOON)
def test_a_command_that_is_stopped_leaves_no_half_and_can_be_given_again(name, place, tmp_path, record_property):
    draw, broke, tried = random.Random(name), [], 0
    seconds = LONGEST
    if name not in LONG and STOPS:
        shutil.copytree(place, tmp_path / "whole")
        began = time.perf_counter()
        process = started(name, tmp_path / "whole")
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
        seconds = time.perf_counter() - began
    for turn in range(STOPS or 1):
        folder = tmp_path / str(turn)
        shutil.copytree(place, folder)
        before = contents(folder)
        process = started(name, folder)
        time.sleep(draw.uniform(min(2.0, seconds / 2), seconds) if STOPS else SOON[name])
        alive = process.poll() is None
        if alive:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, told = process.communicate(timeout=60)
        tried += alive
        wrong = problems_of(name, folder, before, process.returncode, told, process.pid)
        if not wrong and name not in LONG:
            process = started(name, folder)
            _, told = process.communicate(timeout=300)
            if process.returncode and not any(text in told for text in AGAIN):
                wrong.append("it can't be given again")
        broke += [f"{wrong}: {told[-600:]}"] if wrong else []
        shutil.rmtree(folder)
    record_property("tried", tried)
    record_property("broke", len(broke))
    assert not broke, broke[0]
