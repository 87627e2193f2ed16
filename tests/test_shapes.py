"""Tensors are shaped as annotations say, whatever is done with a lab."""

from dataclasses import replace
from random import Random

import pytest
import torch
from shape_checks import ShapeChecks
from test_attach import small

import smft_lab as smft
from smft_lab.experiments.background import _Draw, _letters
from smft_lab.experiments.retrofit import count_documents
from smft_lab.finetuning.engine import products
from smft_lab.finetuning.engine.products import FastLinear, TrainedLinear
from smft_lab.finetuning.methods import Full, Sparse
from smft_lab.finetuning.methods.sparse import SparseTraining
from smft_lab.finetuning.teaching import Teaching, counted_reads
from smft_lab.lab import Lab
from smft_lab.model.fitting import fit_keys, fit_threshold, memory_inputs
from smft_lab.model.tokenizer import document_batches, encode
from smft_lab.probes.prompts import PLAIN
from smft_lab.recipe import RETROFIT
from smft_lab.slots.addresses import measure_blocks, measure_loudness
from smft_lab.slots.coverage import group_coverage
from smft_lab.slots.settling import settling
from smft_lab.slots.usage import measure_usage
from smft_lab.training.processes import Processes

FACTS = [replace(fact, statements=fact.statements[:4]) for fact in smft.new_facts(2)]
RECIPE = replace(RETROFIT, top_t=8, max_df=1.0, batch_size=4, anchor=1.0)
ELSEWHERE = {"model.precision.product_by_onednn"}  # where it is slower, or torch was built without it


@pytest.fixture
def checks():
    with pytest.MonkeyPatch.context() as patch:
        yield ShapeChecks(patch, __name__)


@pytest.fixture
def with_all_that_is_optional(monkeypatch):
    """Weights are rounded on any processor, and the first text of each batch is learned at once."""
    monkeypatch.setattr(products, "rounding_is_faster", lambda: True)
    monkeypatch.setattr(products, "ROUNDED_FROM", 1)
    plain = SparseTraining.update

    def update(self, batch):
        told = plain(self, batch)
        return replace(told, nats=(0.0, *told.nats[1:]))

    monkeypatch.setattr(SparseTraining, "update", update)


def retrofitted(tokenizer, texts) -> Lab:
    documents = [tokenizer(text)["input_ids"] for text in texts]
    shape: dict = {"heads": 2, "k": 4, "key_dim": 16, "gate": False, "project": False, "whiten": True}
    answering = [torch.ones(len(ids), dtype=torch.bool) for ids in documents]
    measure_blocks(
        small("llama"), tokenizer, replace(RECIPE, slots=256, **shape), documents, FACTS, PLAIN, answering=answering
    )
    model = smft.add_memory(small("llama"), 1, 256, **shape, threshold=True)
    fit_threshold(model, document_batches(tokenizer, documents, model.device), 1e-3)
    inputs = memory_inputs(model, document_batches(tokenizer, documents, model.device))
    fit_keys(model, inputs, "pca")
    _, usage = count_documents(model, inputs, list(map(len, documents)))
    return Lab(model, tokenizer, usage, form=PLAIN, recipe=RECIPE, documents=documents)


def use(lab: Lab) -> None:
    smft.token_reads(lab, "A dog.")
    smft.core_set(lab, FACTS[0])
    smft.coverage(lab, smft.fact_counts(lab, FACTS))
    smft.measure_addresses(lab, FACTS)
    lab.recalled(["Who?"], ["Nobody"])
    probe = smft.QuestionProbe("base", ["Who?"], [["Nobody"]], replies=[" Nobody"], form=lab.form)
    probe.measure(lab.model, lab.tokenizer)
    smft.row_changes(lab)


def teach(lab: Lab, method: Sparse | Full, **options) -> None:
    list(smft.finetune(lab, FACTS, method, passes=2, probe_every=0, **options))


def test_every_shape_that_an_annotation_says_is_one_that_is_there(
    checks, with_all_that_is_optional, tiny_model, tokenizer, corpus, tmp_path
):
    texts = corpus.texts(Random(0), 20)
    model = tiny_model(memory_at=[0, 2])
    built_in, lab = (
        Lab(model, tokenizer, measure_usage(model, [encode(tokenizer, texts)])),
        retrofitted(tokenizer, texts),
    )
    for each in (built_in, lab):
        use(each)
    teach(built_in, Sparse(rule="kl", optimizer="sgd", fast=False))
    teach(built_in, Sparse(protect=1.0))
    teach(built_in, Full())
    teach(lab, Sparse())
    teach(lab, Sparse(), recipe=replace(RECIPE, kl_anchor=1.0))

    patch = smft.Patch.between(lab)
    patch.save(tmp_path / "one.safetensors")
    smft.Patch.load(tmp_path / "one.safetensors").revert(lab, lab)
    owners, reads = counted_reads(lab, FACTS, Teaching.of(lab, FACTS).texts)
    group_coverage(lab, owners, reads)
    settling([lab.usage, lab.usage], owners, reads, 8)
    measure_loudness(lab, FACTS)
    smft.TextWindows(" ".join(texts), tokenizer, window=8).batch(Random(0), 2)
    slots = smft.widgets.Slots(lab, FACTS)
    slots.snapshot()
    slots.close()
    batch, processes = encode(tokenizer, texts[:2]), Processes()
    processes.backward(built_in.model(**processes.share(batch)).loss, batch, built_in.model)
    _Draw(torch.Generator(), 0.9, _letters(lab.model, tokenizer))(torch.zeros(2, len(tokenizer)), 1)
    for stand_in in (FastLinear, TrainedLinear):
        stand_in(torch.nn.Linear(8, 4))(torch.randn(2, 3, 8).requires_grad_()).sum().backward()

    assert not checks.wrong
    assert checks.public - checks.called <= ELSEWHERE
