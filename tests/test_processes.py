"""Pretraining under `torchrun`: two processes together take the steps of one."""

import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
import torch
from joblib import Parallel, delayed
from safetensors import safe_open
from safetensors.torch import load_file
from test_kills import TINY, beginning

from smft_lab.training import pretrain as pretraining
from smft_lab.training.memory_training import LabTraining, pretrain_memory
from smft_lab.training.pretrain import pretrain
from smft_lab.training.processes import Processes
from smft_lab.writing import alone

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TINY = replace(TINY, steps=6, evaluate_every=3)

MEMORY = """
import sys
sys.path.insert(0, sys.argv[2])
from safetensors.torch import save_file
from smft_lab.training import pretrain as pretraining
from smft_lab.training.memory_training import pretrain_memory
from smft_lab.training.processes import Processes
from test_kills import beginning
model, text, settings = beginning()
losses = [loss for _, loss in pretrain_memory(model, text, settings, sys.argv[1] + "/run")]
processes = Processes()
(open(sys.argv[1] + f"/rank{processes.rank}", "w")).write(str(processes.count))
if processes.main:
    learned = {name: p.detach().contiguous() for name, p in model.named_parameters() if "memory" in name}
    save_file(learned, sys.argv[1] + "/learned.safetensors", {"last": str(losses[-1])})
"""

PRETRAIN = """
import sys
sys.path.insert(0, sys.argv[2])
from smft_lab.training.pretrain import pretrain
from smft_lab.training.processes import Processes
from test_processes import TINY
assert Processes().count == 2
for record in pretrain(sys.argv[1] + "/lab", TINY):
    pass
"""


def launch(script: str, folder) -> None:
    (folder / "script.py").write_text(script)
    command = [*LAUNCH, folder / "script.py", folder, os.path.dirname(__file__)]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_memory_training_on_two_processes_takes_the_steps_of_one(tmp_path):
    launch(MEMORY, tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.glob("rank*")} == {"rank0": "2", "rank1": "2"}
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


def test_a_second_process_leaves_the_place_to_the_main_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "main", False)
    with alone(tmp_path / "lab"):  # as the main one has it while it looks whether it can write there
        assert [record.step for record in pretrain(tmp_path / "lab", TINY)] == [1, 2, 3, 4, 5, 6]
        model, text, settings = beginning()
        assert len(list(LabTraining(model, None, text, settings, tmp_path / "lab").steps())) == settings.steps


def test_a_model_and_its_batches_go_to_the_device_of_the_process():
    model, processes = torch.nn.Linear(2, 2), Processes(torch.device("meta"))  # stands for a GPU
    processes.place(model)
    assert model.weight.device.type == "meta"
    assert processes.share({"input_ids": torch.ones(2, 3)})["input_ids"].device.type == "meta"


def test_batches_drawn_ahead_by_other_processes_are_those_drawn_in_turn():
    settings = replace(TINY, steps=100)
    _, corpus, tokenizer, _ = pretraining.beginning(settings)
    ahead = list(pretraining.drawn_ahead(settings, 1))
    assert len(ahead) == 3  # of the chunks 0 to 3, of 32 steps each
    for chunk, batches in enumerate(ahead, start=1):
        expected = pretraining.training_batches(corpus, tokenizer, settings, chunk)
        for one, other in zip(batches, expected, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_sweep_by_local_processes_follows_batches_drawn_ahead():
    next(pretraining.drawn_ahead(TINY, 0))
    assert Parallel(n_jobs=2, backend="loky")(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


DRAW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_processes import TINY
from smft_lab.training.pretrain import drawn_ahead
drawn = drawn_ahead(TINY, 0)
next(drawn)
print("drawn", flush=True)
time.sleep(300)
"""


def test_the_processes_that_draw_batches_end_with_the_one_that_asked_for_them():
    process = subprocess.Popen([sys.executable, "-c", DRAW, os.path.dirname(__file__)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"drawn\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=60)
    for worker in alive:
        worker.kill()
    assert not alive


def test_a_worker_whose_parent_is_gone_before_it_begins_ends_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = f"from smft_lab.training.processes import end_with; end_with({gone.pid}); print('went on')"
    worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (worker.returncode, worker.stdout) == (1, "")


def test_more_processes_than_texts_in_a_batch_are_refused():
    processes = Processes()
    processes.count = 3
    with pytest.raises(ValueError, match="a batch of 2 texts can't be shared by 3 processes"):
        processes.share({"input_ids": torch.zeros(2, 4)})
