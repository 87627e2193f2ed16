"""A killed process leaves the last saved state whole. `SMFT_LAB_KILLS=20 pytest tests/test_kills.py` tries harder."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from smft_lab.experiments.compare import RESULTS, results_folder
from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.slots.patch import Patch
from smft_lab.storage import LAB_FILE
from smft_lab.training.memory_training import MemoryTraining, TextWindows, pretrain_memory
from smft_lab.training.pretrain import PretrainSettings, pretrain

KILLS = int(os.environ.get("SMFT_LAB_KILLS", "1"))

SAVING = """
import sys, torch
from smft_lab.training.pretrain import PretrainSettings, pretrain
from smft_lab.lab import load
from smft_lab.storage import LAB_FILE
from smft_lab.slots.patch import Patch
lab = load(sys.argv[1])
print("ready", flush=True)
for turn in range(1, 10_000):
    lab.model.model.layers[1].mlp.memory.values.weight.data.fill_(turn)
    lab.usage.count.fill_(turn)
    lab.save(sys.argv[1])
"""

TRAINING = """
import sys
from smft_lab.training.memory_training import pretrain_memory
sys.path.insert(0, sys.argv[2])
from test_kills import beginning
for turn, _ in enumerate(pretrain_memory(*beginning(), sys.argv[1])):
    if turn == 1:  # it saves every second step
        print("ready", flush=True)
print("ready", flush=True)
"""

PRETRAINING = """
import sys
from smft_lab.training.pretrain import PretrainSettings, pretrain
sys.path.insert(0, sys.argv[2])
from test_kills import TINY
for turn, _ in enumerate(pretrain(sys.argv[1], TINY)):
    if turn == 1:  # it saves every second step
        print("ready", flush=True)
print("ready", flush=True)
"""

COMPARING = """
import json, sys
from pathlib import Path
from smft_lab.writing import atomic_folder
out, *names, mark = sys.argv[1:]
for turn in range(1, 100_000):
    with atomic_folder(Path(out), mark, names.__contains__) as folder:
        for name in (*names, mark):
            (folder / name).write_text(json.dumps({"files": [*names, mark], "turn": turn}))
    if turn == 1:
        print("ready", flush=True)
"""

FINETUNING = """
import sys
import smft_lab as smft
lab = smft.load(sys.argv[1])
facts = smft.new_facts(3)
for step in smft.finetune(lab, facts, passes=1000, top_t=20, probe_every=0):
    smft.Patch.between(lab, about={"step": step.step}).save(sys.argv[2])
    if step.step == 1:
        print("ready", flush=True)
"""

TINY = PretrainSettings(
    steps=64,
    batch_size=8,
    world_scale=0.02,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    memory_at=(1,),
    memory_slots=256,
    memory_heads=2,
    memory_k=4,
    memory_key_dim=16,
    attention_heads=2,
    vocab_size=400,
    tokenizer_texts=300,
    background_batches=2,
    evaluate_every=2,
)


def beginning():
    """A small model with a memory, a text and settings, the same in every process."""
    from test_attach import small

    from smft_lab.facts.world.corpus import Corpus
    from smft_lab.facts.world.world import World
    from smft_lab.model.tokenizer import train_tokenizer

    texts = Corpus(World(0)).texts(random.Random(0), 300)
    tokenizer = train_tokenizer(texts, 400)
    model = add_memory(small("llama"), 1, 256, heads=2, k=4, key_dim=8)
    settings = MemoryTraining(steps=60, batch_size=4, window=16, checkpoint_every=2, background_batches=2)
    return model, TextWindows(" ".join(texts), tokenizer, 16), settings


def run_and_kill(script: str, *args, after: float) -> bool:
    """Whether the process was still at it `after` seconds after it said that there is something to lose."""
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, args)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(after)
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        return alive
    finally:
        process.wait()
        process.stdout.close()


@pytest.fixture
def saved(tokenizer, corpus, tmp_path):
    from test_attach import MEMORY, lab_of, small

    lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus).save(tmp_path / "lab")
    return tmp_path / "lab"


def test_a_kill_while_a_lab_is_saved_over_another_leaves_one_of_them_whole(saved, record_property):
    record_property("tried", KILLS)
    rng = random.Random(KILLS)
    last = 0
    for _ in range(KILLS):
        assert run_and_kill(SAVING, saved, after=rng.uniform(0.02, 0.5))
        lab = load(saved)
        values = lab.model.model.layers[1].mlp.memory.values.weight
        turn = int(values[0, 0])
        assert (values == turn).all()
        assert last == 0 or (lab.usage.count == turn).all() or turn == 0  # weights and usage of the same moment
        last = turn
    lab.save(saved)
    assert load(saved).usage.batches == 10


def test_processes_that_save_beside_each_other_under_similar_names_are_killed_without_harm_to_the_other(
    saved, record_property
):
    record_property("tried", KILLS)
    rng = random.Random(KILLS)
    beside = saved.with_name(f"{saved.name}.v2")
    shutil.copytree(saved, beside)
    for turn in range(KILLS):
        other = subprocess.Popen([sys.executable, "-c", SAVING, str(beside)], stdout=subprocess.PIPE)
        try:
            assert other.stdout.readline()
            assert run_and_kill(SAVING, saved, after=rng.uniform(0.02, 0.5))
            assert other.poll() is None, f"kill {turn}"
        finally:
            other.kill()
            other.communicate()
        for folder in (saved, beside):
            values = load(folder).model.model.layers[1].mlp.memory.values.weight
            assert (values == values[0, 0]).all()


def test_a_killed_memory_training_goes_on_and_ends_as_if_it_had_not_been(tmp_path, record_property):
    model, text, settings = beginning()
    torch.set_num_threads(1)
    whole, again = model, beginning()[0]
    for _ in pretrain_memory(whole, text, settings):
        pass
    rng = random.Random(KILLS)
    here = os.path.dirname(__file__)
    killed = [
        run_and_kill(TRAINING, tmp_path / "run", here, after=rng.uniform(0, 0.3) if turn else 0)
        for turn in range(KILLS)
    ]
    record_property("tried", sum(killed))
    assert killed[0]
    left = sum(1 for _ in pretrain_memory(again, text, settings, tmp_path / "run"))
    assert left < settings.steps
    for one, other in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif("SMFT_LAB_KILLS" not in os.environ, reason="slow: set SMFT_LAB_KILLS")
def test_a_killed_pretraining_goes_on_and_ends_as_if_it_had_not_been(tmp_path, record_property):
    torch.set_num_threads(1)
    steps = sum(1 for _ in pretrain(tmp_path / "whole", TINY))
    rng = random.Random(KILLS)
    killed, here = 0, os.path.dirname(__file__)
    while killed < KILLS and run_and_kill(
        PRETRAINING, tmp_path / "run", here, after=rng.uniform(0, 0.5) if killed else 0
    ):
        killed += 1  # and else it got to its end
    record_property("tried", killed)
    assert killed
    if not (tmp_path / "run" / LAB_FILE).exists():
        assert sum(1 for _ in pretrain(tmp_path / "run", TINY)) < steps
    one, other = (load(tmp_path / name).model.state_dict() for name in ("run", "whole"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=2e-3)


def test_a_killed_finetune_leaves_its_last_patch_whole_and_its_lab_untouched(saved, tmp_path, record_property):
    record_property("tried", KILLS)
    rng = random.Random(KILLS)
    before = {name: tensor.clone() for name, tensor in load(saved).model.state_dict().items()}
    for _ in range(KILLS):
        assert run_and_kill(FINETUNING, saved, tmp_path / "patch.safetensors", after=rng.uniform(0, 0.6))
        lab = load(saved)
        assert all(torch.equal(tensor, before[name]) for name, tensor in lab.model.state_dict().items())
        patch = Patch.load(tmp_path / "patch.safetensors")
        assert patch.about["step"] >= 1
        patch.apply(lab)
        assert len(patch) == len(Patch.between(lab)) > 0


def test_a_kill_while_a_comparison_is_written_over_another_leaves_files_of_one_of_them(tmp_path, record_property):
    record_property("tried", KILLS)
    out, rng = tmp_path / "out", random.Random(KILLS)
    for _ in range(KILLS):
        assert run_and_kill(COMPARING, out, *RESULTS, after=rng.uniform(0, 0.3))
        with results_folder(out, force=True) as folder:  # as the next run does first
            turns = {json.loads((out / name).read_text())["turn"] for name in RESULTS}
            for name in RESULTS:
                (folder / name).write_text((out / name).read_text())
        assert len(turns) == 1
        assert {entry.name for entry in tmp_path.iterdir()} == {"out", ".out.lock"}
