"""A lab on a GPU does what it does on the CPU; these tests need one, and are skipped where there is none."""

import re
from dataclasses import replace

import pytest
import torch
from test_kills import TINY
from typer.testing import CliRunner

from smft_lab.cli.app import app
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import Full, Lora, Sparse
from smft_lab.finetuning.methods.osf import Osf
from smft_lab.lab import load
from smft_lab.model.tokenizer import encode
from smft_lab.reproduce.jobs import Job, run_job
from smft_lab.slots.patch import Patch
from smft_lab.slots.reading import core_set
from smft_lab.slots.usage import batch_counts
from smft_lab.training.pretrain import pretrain

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def both():
    """The shipped lab on the CPU and on the GPU."""
    return load(), load(device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("device", "told"),
    [("cuda", "device cuda: this torch .* finds no GPU here; use cpu"), ("gpu", "no device 'gpu'; .*")],
)
def test_a_device_that_is_not_there_is_told(device, told):
    with pytest.raises(ValueError, match=told):
        load(device=device)
    done = CliRunner().invoke(app, ["compare", "--device", device])
    assert re.search(told, str(done.exception))


@needs_gpu
@pytest.mark.parametrize(
    "method", [Sparse(lr=1e-3), Sparse(lr=1e-3, fast=False), Full(lr=1e-3), Lora(lr=1e-3), Osf(lr=1e-3)], ids=repr
)
def test_a_finetune_takes_the_same_steps(both, method):
    facts = new_facts(2)
    cpu, gpu = (list(finetune(lab, facts, method, passes=3)) for lab in both)
    for one, other in zip(cpu[1:], gpu[1:], strict=True):
        assert other.loss == pytest.approx(one.loss, rel=5e-3)
        assert [len(slots) for slots in one.slots] == [len(slots) for slots in other.slots]
    assert gpu[-1].probes["prose"]["nll"] == pytest.approx(cpu[-1].probes["prose"]["nll"], rel=5e-3)
    for lab in both:
        lab.reset()


@needs_gpu
def test_reads_core_sets_and_patches_are_those_of_the_cpu(both, tmp_path):
    facts = new_facts(2)
    counts = [
        batch_counts(lab.model, encode(lab.tokenizer, list(facts[0].statements), lab.model.device))[0] for lab in both
    ]
    assert (counts[0] - counts[1]).abs().sum() < 0.01 * counts[0].sum()
    cores = [set(core_set(lab, facts[0])[0].tolist()) for lab in both]
    assert len(cores[0] & cores[1]) > 0.9 * len(cores[0])
    for _ in finetune(both[1], facts, passes=2, probe_every=0):
        pass
    patch = Patch.between(both[1])
    patch.save(tmp_path / "patch.safetensors")
    for lab in both:
        lab.reset()
        Patch.load(tmp_path / "patch.safetensors").apply(lab)
        assert len(Patch.between(lab)) == len(patch) > 0
        patch.revert(lab)
        assert len(Patch.between(lab)) == 0


@needs_gpu
@pytest.mark.parametrize(
    "job",
    [
        Job(facts=2, passes=2, evaluations=1, rule="random", lr=0.1, top_t=50, optimizer="adam"),
        Job(
            facts=2,
            passes=2,
            evaluations=1,
            method="full",
            lr=1e-4,
            optimizer="adamw",
            rule="",
            remedy="ewc",
            strength=0.1,
        ),
    ],
)
def test_a_job_runs(job):
    cpu, gpu = run_job(job), run_job(job, "cuda")
    values = [{(row["step"], row["probe"], row["metric"]): row["value"] for row in one["rows"]} for one in (cpu, gpu)]
    assert values[0].keys() == values[1].keys()
    assert values[1][4, "prose", "nll"] == pytest.approx(values[0][4, "prose", "nll"], rel=1e-2)


@needs_gpu
def test_pretraining_that_is_cut_off_goes_on(tmp_path):
    settings = replace(TINY, steps=40, evaluate_every=8)
    records = pretrain(tmp_path / "lab", settings)
    for _ in range(20):
        next(records)
    records.close()
    steps = [record.step for record in pretrain(tmp_path / "lab", settings)]
    assert (steps[0], steps[-1]) == (17, 40)
    assert next(load(tmp_path / "lab", device="cuda").model.parameters()).is_cuda
    assert torch.get_float32_matmul_precision() == "highest"  # TF32 is for pretraining alone
