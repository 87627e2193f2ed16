"""What reads a model reads it without dropout, also where somebody trains it; and leaves every module in its mode."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_attach import MEMORY, lab_of, small

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.baselines import fisher
from smft_lab.model.attach import add_memory, feed_forwards
from smft_lab.model.fitting import memory_inputs
from smft_lab.model.modes import evaluating
from smft_lab.probes.choices import log_likelihoods
from smft_lab.probes.probes import TextProbe
from smft_lab.probes.prompts import PLAIN
from smft_lab.slots.addresses import measure_addresses, measure_blocks, measure_loudness
from smft_lab.slots.anchor import background_reads

DROPOUT = {"embd_pdrop": 0.5, "resid_pdrop": 0.5, "attn_pdrop": 0.5}
FACTS = new_facts(2)
ASKED = [fact.question for fact in FACTS]
ANSWERS = [fact.answer for fact in FACTS]
TEXTS = ("A boat is at the pier.", "Two boats are here.")
IDS = [[5, 6, 7, 8, 9], [10, 11, 12, 13]]


@pytest.fixture(scope="module")
def lab(tokenizer, corpus):
    lab = lab_of(add_memory(small("gpt2", **DROPOUT), 1, **MEMORY), tokenizer, corpus)
    with torch.no_grad():
        smft.value_tables(lab.model)[0].weight.normal_()
    return lab


@pytest.fixture
def in_training(lab):
    """The lab, its model in training but for one block, as where a part is frozen."""
    lab.model.train()
    lab.model.transformer.h[0].eval()
    yield lab
    lab.model.eval()


def batch_of(lab):
    return lab.encode(TEXTS)


READERS = {
    "answer": lambda lab: lab.answer(ASKED),
    "answer in another form": lambda lab: lab.answer(ASKED, form=PLAIN),
    "recalled": lambda lab: lab.recalled(ASKED, lab.answer(ASKED)),
    "log_likelihoods": lambda lab: log_likelihoods(lab.model, lab.tokenizer, list(zip(ASKED, ANSWERS, strict=True))),
    "probes": lambda lab: smft.Probes([TextProbe("text", TEXTS)]).measure(lab.model, lab.tokenizer),
    "a text probe": lambda lab: TextProbe("text", TEXTS).measure(lab.model, lab.tokenizer),
    "token_reads": lambda lab: smft.token_reads(lab, TEXTS[0]).slots,
    "core_set": lambda lab: smft.core_set(lab, FACTS[0]),
    "slot_scores": lambda lab: smft.slot_scores(lab, FACTS),
    "measure_usage": lambda lab: smft.measure_usage(lab.model, [batch_of(lab)]).df,
    "measure_addresses": lambda lab: measure_addresses(lab, FACTS),
    "measure_loudness": lambda lab: measure_loudness(lab, FACTS).ratios,
    "memory_inputs": lambda lab: memory_inputs(lab.model, [batch_of(lab)])[0],
    "background_reads": lambda lab: background_reads(lab.model, lab.tokenizer, IDS)[0].weights,
    "fisher": lambda lab: next(iter(fisher(lab, TEXTS).values())),
}


def modes(model) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif isinstance(one, list | tuple) and one and isinstance(one[0], torch.Tensor):
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


@pytest.mark.parametrize("reader", READERS)
def test_a_model_in_training_is_read_as_one_that_is_not(lab, in_training, reader):
    before = modes(lab.model)
    found = READERS[reader](lab)
    assert modes(lab.model) == before
    lab.model.eval()
    assert_same(found, READERS[reader](lab))


def test_the_blocks_of_a_model_in_training_are_ranked_as_of_one_that_is_not(tokenizer):
    recipe = smft.Recipe(slots=256, heads=2, k=4, key_dim=8)
    model = small("gpt2", **DROPOUT)
    ranked = measure_blocks(model, tokenizer, recipe, IDS * 2, FACTS, PLAIN)
    again = measure_blocks(model.train(), tokenizer, recipe, IDS * 2, FACTS, PLAIN)
    pd.testing.assert_frame_equal(ranked, again)
    assert all(modes(model).values())


def test_the_feed_forwards_of_a_model_in_training_are_found_and_its_modes_stay():
    model = small("gpt2", **DROPOUT).train()
    model.transformer.h[0].eval()
    before = modes(model)
    assert len(feed_forwards(model)) == 3
    assert modes(model) == before


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_new_memory_is_in_the_mode_of_the_model_around_it(family, training, mode):
    model = add_memory(small(family).train(training), 1, mode=mode, **MEMORY)
    assert set(modes(model).values()) == {training}


@pytest.mark.parametrize("method", ["sparse", "full", "lora"])
def test_a_finetune_trains_without_dropout_and_leaves_the_modes_as_they_were(lab, in_training, method):
    lab.reset()
    before = modes(lab.model)
    losses = [step.loss for step in smft.finetune(lab, FACTS, method, passes=1, probe_every=0, lr=0.01)]
    assert modes(lab.model) == before
    lab.model.eval()
    lab.reset()
    same = [step.loss for step in smft.finetune(lab, FACTS, method, passes=1, probe_every=0, lr=0.01)]
    lab.reset()
    np.testing.assert_allclose(losses[1:], same[1:], rtol=1e-5)


@pytest.mark.parametrize("method", ["sparse", "full"])
def test_a_finetune_of_a_mixture_of_experts_trains_without_the_loss_of_its_router(tokenizer, corpus, method):
    model = small("mixtral", output_router_logits=True, router_aux_loss_coef=100.0)
    lab = lab_of(add_memory(model, 1, **MEMORY), tokenizer, corpus)
    options = {"passes": 1, "probe_every": 0, "lr": 0.01}
    losses = []
    for fast in (True, False):
        losses.append([step.loss for step in smft.finetune(lab, FACTS, method, fast=fast, **options)][1:])
        lab.reset()
    fast, plain = losses
    np.testing.assert_allclose(fast, plain, rtol=1e-4)
    assert max(plain) < 10
    assert model.config.output_router_logits
    for _ in smft.finetune(lab, FACTS, method, **options):
        break
    assert model.config.output_router_logits


def test_a_block_that_fails_leaves_the_modes_as_they_were(in_training):
    before = modes(in_training.model)
    with pytest.raises(KeyError), evaluating(in_training.model):
        raise KeyError(max(modes(in_training.model).values()))
    assert modes(in_training.model) == before
