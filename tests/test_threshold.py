"""What is read of a memory counts only where it is louder than a threshold; all else stays as it was, to the bit."""

from dataclasses import replace
from random import Random

import pytest
import torch
from test_attach import logits, small
from test_retrofit import RECIPE, small_retrofit

import smft_lab as smft
from smft_lab.finetuning.finetune import finetune
from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.model.fitting import fit_threshold
from smft_lab.model.memory import Threshold, block_of, memory_layers, value_tables
from smft_lab.model.tokenizer import document_batches
from smft_lab.slots.addresses import measure_loudness

LOUD = replace(RECIPE, threshold=0.02)


@pytest.fixture
def lab(tokenizer, corpus):
    work = small_retrofit(tokenizer, " ".join(corpus.texts(Random(0), 300)), LOUD, [1])
    list(work)
    assert work.lab is not None
    return work.lab


def test_what_is_louder_than_the_level_passes_as_it_is_and_the_rest_is_nothing():
    threshold = Threshold()
    threshold.level.fill_(5.0)
    y = torch.tensor([[3.0, 4.0], [0.1, -0.2], [-30.0, 0.7]], requires_grad=True)  # the first is as loud as the level
    out = threshold(y)
    assert torch.equal(out, torch.tensor([[0.0, 0.0], [0.0, 0.0], [-30.0, 0.7]]))
    out.sum().backward()
    assert torch.equal(y.grad, torch.ones(3, 2))  # also of what is quiet, which could never become loud otherwise


def test_what_is_no_number_is_not_taken_for_quiet():
    assert Threshold()(torch.full((1, 2), torch.nan)).isnan().all()


def test_the_level_is_a_share_of_the_hidden_states_that_the_memory_is_added_to(lab):
    documents, block = lab.documents[::3], block_of(lab.model, memory_layers(lab.model)[0])
    norms = []
    handle = block.register_forward_hook(lambda module, args, output: norms.append(output.norm(dim=-1).flatten()))
    with torch.no_grad():
        for ids in documents:
            lab.model(input_ids=torch.tensor([ids]))
    handle.remove()
    fit_threshold(lab.model, document_batches(lab.tokenizer, documents, "cpu"), 0.25)
    (layer,) = memory_layers(lab.model).values()
    assert layer.threshold.level.item() == pytest.approx(0.25 * torch.cat(norms).median().item(), rel=1e-4)


def test_a_memory_without_a_threshold_cannot_be_fitted_one():
    model = add_memory(small("llama"), [1], 256, heads=2, k=4, key_dim=16)
    assert memory_layers(model)[0].threshold is None
    with pytest.raises(ValueError, match="no threshold"):
        fit_threshold(model, [], 0.1)


def test_quiet_rows_change_no_logit_and_louder_ones_do(lab):
    before = logits(lab.model)
    (layer,), (table,) = memory_layers(lab.model).values(), value_tables(lab.model)
    level = layer.threshold.level.item()
    assert level > 0
    per_row = level / (RECIPE.heads * table.weight.shape[1] ** 0.5)  # the weights of each head sum to 1
    with torch.no_grad():
        table.weight.fill_(0.9 * per_row)
    assert torch.equal(logits(lab.model), before)
    assert measure_loudness(lab, smft.new_facts(2)).median == 0
    with torch.no_grad():
        table.weight.fill_(1.1 * per_row)
    assert not torch.equal(logits(lab.model), before)
    assert measure_loudness(lab, smft.new_facts(2)).median > 0


def test_facts_are_learned_past_the_threshold_the_fast_way_as_the_plain_one(lab):
    facts, losses = smft.new_facts(4), {}
    for fast in (True, False):
        lab.reset()
        losses[fast] = [step.loss for step in finetune(lab, facts, probe_every=0, fast=fast, lr=0.1)][1:]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert losses[True][-1] < losses[True][0]


def test_a_saved_lab_has_its_threshold_and_a_copy_of_it_is_as_quiet(lab, tmp_path):
    for _ in finetune(lab, smft.new_facts(4), probe_every=0, lr=0.1):
        pass
    lab.save(tmp_path / "lab")
    again = load(tmp_path / "lab")
    ours, theirs = (memory_layers(each.model)[0].threshold.level for each in (lab, again))
    assert torch.equal(ours, theirs)
    assert torch.equal(logits(again.model), logits(lab.model))


def test_in_half_precision_the_level_stays_as_it_was(lab):
    level = memory_layers(lab.model)[0].threshold.level.clone()
    lab.model.to(torch.bfloat16)
    assert torch.equal(memory_layers(lab.model)[0].threshold.level, level)
