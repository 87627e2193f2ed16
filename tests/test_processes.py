"""Pretraining under `accelerate launch`: two processes together take the steps of one."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_kills import TINY, beginning

from smft_lab.experiments.memory_training import pretrain_memory
from smft_lab.experiments.pretrain import pretrain
from smft_lab.experiments.processes import Processes

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
TINY = replace(TINY, steps=6, evaluate_every=3)

MEMORY = """
import sys
sys.path.insert(0, sys.argv[2])
from safetensors.torch import save_file
from smft_lab.experiments.memory_training import pretrain_memory
from smft_lab.experiments.processes import Processes
from test_kills import beginning
model, text, settings = beginning()
losses = [loss for _, loss in pretrain_memory(model, text, settings, sys.argv[1] + "/run")]
if Processes().main:
    learned = {name: p.detach().contiguous() for name, p in model.named_parameters() if "memory" in name}
    save_file(learned, sys.argv[1] + "/learned.safetensors", {"last": str(losses[-1])})
"""

PRETRAIN = """
import sys
sys.path.insert(0, sys.argv[2])
from smft_lab.experiments.pretrain import pretrain
from test_processes import TINY
for record in pretrain(sys.argv[1] + "/lab", TINY):
    pass
"""


def launch(script: str, folder) -> None:
    (folder / "script.py").write_text(script)
    command = [*LAUNCH, folder / "script.py", folder, os.path.dirname(__file__)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_memory_training_on_two_processes_takes_the_steps_of_one(tmp_path):
    launch(MEMORY, tmp_path)
    model, text, settings = beginning()
    losses = [loss for _, loss in pretrain_memory(model, text, settings)]
    learned = load_file(tmp_path / "learned.safetensors")
    assert learned
    for name, parameter in model.named_parameters():
        if name in learned:
            torch.testing.assert_close(learned[name], parameter.detach(), rtol=1e-2, atol=1e-3)
    with safe_open(tmp_path / "learned.safetensors", "pt") as file:
        assert float(file.metadata()["last"]) == pytest.approx(losses[-1], rel=1e-3)


def test_pretraining_on_two_processes_writes_the_lab_of_one(tmp_path):
    launch(PRETRAIN, tmp_path)
    for _ in pretrain(tmp_path / "alone", TINY):
        pass
    both, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("lab", "alone"))
    assert both.keys() == alone.keys()
    for name in both:
        torch.testing.assert_close(both[name].float(), alone[name].float(), rtol=1e-2, atol=2e-3)
    assert not list((tmp_path / "lab").glob("*unfinished*"))


def test_a_model_is_measured_on_the_cpu_and_goes_on_where_it_was():
    model, processes = torch.nn.Linear(2, 2), Processes(torch.device("meta"))  # stands for a GPU
    processes.place(model)
    assert model.weight.device.type == "meta"
    assert processes.share({"input_ids": torch.ones(2, 3)})["input_ids"].device.type == "meta"
    moved = []
    model.cpu = lambda: moved.append("cpu")
    with processes.on_cpu(model):
        assert moved == ["cpu"]
        model.to = lambda device: moved.append(device.type)
    assert moved == ["cpu", "meta"]


def test_more_processes_than_texts_in_a_batch_are_refused():
    processes = Processes()
    processes.count = 3
    with pytest.raises(ValueError, match="a batch of 2 texts can't be shared by 3 processes"):
        processes.share({"input_ids": torch.zeros(2, 4)})
