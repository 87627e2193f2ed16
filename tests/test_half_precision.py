"""Half-precision models keep value tables, and all that moves them, in float32; a loss that is not finite stops."""

from dataclasses import replace

import pytest
import torch
from test_attach import MEMORY, lab_of, logits, small
from torch import nn
from transformers import Trainer, TrainingArguments

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.methods import METHODS
from smft_lab.finetuning.rows import RowAdam
from smft_lab.model.attach import add_memory
from smft_lab.model.fitting import fit_keys, memory_inputs
from smft_lab.model.memory import memory_layers, value_tables
from smft_lab.model.tokenizer import encode

HALVES = [torch.bfloat16, torch.float16]
LESSON = {"lr": 0.5, "top_t": 64, "passes": 3, "probe_every": 0, "loss_on": "answer"}


def short_facts(count):
    return [replace(fact, statements=fact.statements[:8]) for fact in new_facts(count)]


def half_lab(dtype, tokenizer, corpus, **options):
    return lab_of(add_memory(small("llama").to(dtype), 1, **MEMORY, **options), tokenizer, corpus)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_table_is_float32_and_the_logits_are_those_of_the_model(dtype, when):
    model = small("llama").to(dtype)
    before = logits(model)
    if when == "before":
        add_memory(model, 1, **MEMORY)
    else:
        model = add_memory(small("llama"), 1, **MEMORY).to(dtype)
    table = value_tables(model)[0].weight
    assert table.dtype == torch.float32
    assert {p.dtype for name, p in model.named_parameters() if ".memory." not in name} == {dtype}
    assert torch.equal(logits(model), before)
    nn.init.normal_(table)
    found = logits(model)
    assert found.dtype == dtype
    assert not torch.equal(found, before)


def test_tables_that_are_not_zero_lose_nothing_where_a_model_is_made_half_precision(tiny_model, tmp_path):
    model = tiny_model(memory_at=[0, 1])
    before = value_tables(model)[0].weight.detach().clone()
    model.save_pretrained(tmp_path)
    for half in (model.half(), type(model).from_pretrained(tmp_path, dtype=torch.float16)):
        (table,) = value_tables(half)
        assert half.dtype == torch.float16
        assert torch.equal(table.weight, before)
        assert memory_layers(half)[0].keys.keys.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_lesson_in_half_precision_goes_as_in_float32(dtype, optimizer, tokenizer, corpus):
    facts, falls = short_facts(6), {}
    for kind in (torch.float32, dtype):
        lab = half_lab(kind, tokenizer, corpus)
        lesson = LESSON | {"optimizer": optimizer, "lr": 0.5 if optimizer == "adam" else 50.0}
        losses = [step.loss for step in smft.finetune(lab, facts, **lesson, fast=False)][1:]
        table = value_tables(lab.model)[0].weight
        assert table.dtype == torch.float32
        assert table.isfinite().all()
        falls[kind] = losses[0] - losses[-1]
    assert falls[torch.float32] > 0.1
    assert falls[dtype] == pytest.approx(falls[torch.float32], rel=0.2)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_fast_way_learns_in_half_precision_too(dtype, tokenizer, corpus):
    lab = half_lab(dtype, tokenizer, corpus)
    losses = [step.loss for step in smft.finetune(lab, short_facts(6), **LESSON)][1:]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_steps_too_small_for_half_precision_add_up(dtype, method, tokenizer, corpus):
    facts, falls = short_facts(3), {}
    for kind in (torch.float32, dtype):
        lab = half_lab(kind, tokenizer, corpus)
        steps = smft.finetune(lab, facts, method, lr=1e-4 if method == "full" else 1e-3, passes=8, probe_every=0)
        losses = [step.loss for step in steps][1:]
        falls[kind] = losses[0] - losses[-1]
    assert falls[torch.float32] > 0.02
    assert falls[dtype] == pytest.approx(falls[torch.float32], rel=0.3)


def test_the_state_of_a_row_is_float32(tokenizer, corpus):
    lab = half_lab(torch.bfloat16, tokenizer, corpus)
    rows = RowAdam(value_tables(lab.model)[0].weight, 0.1)
    rows.step(torch.tensor([3]), torch.full((1, 32), 1e-6))
    assert rows._second.dtype == torch.float32
    assert rows._second[0].max() > 0


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lesson_under_autocast(dtype, fast, tokenizer, corpus):
    lab = half_lab(dtype, tokenizer, corpus)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [step.loss for step in smft.finetune(lab, short_facts(6), **LESSON, fast=fast)][1:]
    assert value_tables(lab.model)[0].weight.dtype == torch.float32
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("method", ["full", "lora", "replay"])
def test_under_autocast_a_dense_method_trains_the_weights_of_now(method, tokenizer, corpus):
    ends = []
    for cached in (False, True):  # whether what was rounded is kept until the block ends
        lab = half_lab(torch.float32, tokenizer, corpus)
        mix = {"texts": ["Mira keeps a cat."], "count": 1} if method == "replay" else {}
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            run = smft.run(lab, short_facts(2), method, passes=4, probe_every=0, lr=3e-3, **mix)
            ends.append((run.losses[-1], logits(lab.model)))
            lab.reset()
            ends[-1] += (logits(lab.model),)
    (loss, taught, base), (cached_loss, cached_taught, cached_base) = ends
    assert cached_loss == loss
    assert torch.equal(cached_taught, taught)
    assert torch.equal(cached_base, base)
    assert not torch.equal(taught, base)


def test_osf_is_refused_under_autocast_before_anything_is_changed(tokenizer, corpus):
    lab = half_lab(torch.float32, tokenizer, corpus)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="OSF can't be trained under torch"):
        smft.finetune(lab, short_facts(1), "osf")


def test_a_half_precision_model_gets_its_memory_trained_under_autocast_of_another_dtype(tokenizer, corpus):
    from random import Random

    windows = smft.TextWindows(" ".join(corpus.texts(Random(2), 200)), tokenizer, 16)
    model = add_memory(small("llama").half(), 1, **MEMORY)
    with torch.autocast("cpu", torch.bfloat16):
        list(smft.pretrain_memory(model, windows, smft.MemoryTraining(steps=2, window=16)))
    assert value_tables(model)[0].weight.any()


def test_under_autocast_an_empty_memory_changes_no_logit():
    model = small("llama")
    with torch.autocast("cpu", torch.bfloat16):
        before = logits(model)
        assert torch.equal(logits(add_memory(model, 1, **MEMORY)), before)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_trainer_in_bf16_moves_the_table_as_it_does_in_float32(optimizer, tokenizer, corpus, tmp_path):
    texts = [{"text": text} for fact in new_facts(4) for text in fact.statements[:8]]
    tables = {}
    for bf16 in (False, True):
        lab = half_lab(torch.float32, tokenizer, corpus)
        options = TrainingArguments(
            tmp_path,
            max_steps=4,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
            bf16=bf16,
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=True,
        )
        with smft.sparse_mode(lab, top_t=9):
            rows = smft.RowOptimizer(lab, lr=0.1 if optimizer == "adam" else 10.0, optimizer=optimizer)
            collate = lambda some, lab=lab: encode(lab.tokenizer, [one["text"] for one in some])  # noqa: E731
            Trainer(lab.model, options, collate, texts, optimizers=(rows, None)).train()
        tables[bf16] = value_tables(lab.model)[0].weight.detach().clone()
    assert tables[True].dtype == torch.float32
    moved = [set(table.any(1).nonzero().flatten().tolist()) for table in tables.values()]
    assert len(moved[0] & moved[1]) > 0.8 * len(moved[0])
    both = torch.nn.functional.cosine_similarity(*(table.flatten() for table in tables.values()), dim=0)
    assert both > (0.8 if optimizer == "adam" else 0.95)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_what_to_do(method, dtype, tokenizer, corpus):
    lab = half_lab(dtype, tokenizer, corpus)
    run = smft.finetune(lab, short_facts(4), method, passes=2, probe_every=0, lr=0.01)
    next(run), next(run)
    with torch.no_grad():
        next(lab.model.lm_head.parameters()).fill_(float("nan"))
    advice = "compute in float32" if dtype == torch.float16 else "lower lr"
    before = value_tables(lab.model)[0].weight.detach().clone()
    with pytest.raises(ValueError, match=f"step 2: the loss is nan.*{advice}"):
        next(run)
    assert torch.equal(value_tables(lab.model)[0].weight, before)
    lab.reset()
    assert logits(lab.model).isfinite().all()


def test_a_gradient_that_is_not_finite_stops_before_the_table_is_changed(tokenizer, corpus):
    lab = half_lab(torch.float16, tokenizer, corpus)
    lab.model.model.layers[2].register_full_backward_hook(
        lambda module, of_input, of_output: tuple(grad * float("inf") for grad in of_input)
    )
    with pytest.raises(ValueError, match="step 1: a gradient is not finite"):
        list(smft.finetune(lab, short_facts(2), passes=1, probe_every=0, fast=False))
    assert not value_tables(lab.model)[0].weight.any()


def test_training_a_memory_stops_at_a_loss_that_is_not_finite(tokenizer, corpus):
    from random import Random

    text = " ".join(corpus.texts(Random(2), 200))
    windows = smft.TextWindows(text, tokenizer, 16)
    model = add_memory(small("llama"), 1, **MEMORY)
    nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(ValueError, match="step 1: the loss is nan"):
        list(smft.pretrain_memory(model, windows, smft.MemoryTraining(steps=2, window=16)))


@pytest.mark.parametrize("keys", ["pca", "kmeans"])
def test_addresses_are_fitted_to_a_half_precision_model_as_to_a_float32_one(keys):
    memory = {**MEMORY, "slots": 16, "whiten": True}
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        half = add_memory(small("llama").to(dtype), 1, **memory)
        ids = torch.arange(64).view(4, 16)
        inputs = memory_inputs(half, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
        fit_keys(half, inputs, keys)
        found[dtype] = memory_layers(half)[0].keys
    assert found[torch.bfloat16].mean.dtype == torch.float32
    torch.testing.assert_close(found[torch.bfloat16].mean, found[torch.float32].mean, rtol=0.05, atol=1e-3)
    assert found[torch.bfloat16].query.weight.isfinite().all()


def test_measures_of_a_half_precision_lab_can_be_taken(tokenizer, corpus):
    lab = half_lab(torch.bfloat16, tokenizer, corpus)
    assert logits(lab.model).dtype == torch.bfloat16
    assert len(lab.answer(["Who is it?"], form=smft.PromptForm.PLAIN, max_new_tokens=3)) == 1
    run = smft.run(lab, short_facts(2), passes=1)
    assert run.table[run.table.probe == "learned"].value.between(0, 1).all()


def test_a_lesson_goes_the_same_where_half_precision_is_the_default(tokenizer, corpus):
    tables = {}
    for dtype in (torch.float32, torch.bfloat16):
        lab = half_lab(torch.bfloat16, tokenizer, corpus)
        torch.set_default_dtype(dtype)
        try:
            smft.run(lab, short_facts(3), passes=2, lr=0.5, top_t=64, rephrase=False)
            norms = smft.row_changes(lab)[0]
        finally:
            torch.set_default_dtype(torch.float32)
        assert norms.dtype == torch.float32
        tables[dtype] = value_tables(lab.model)[0].weight.detach().clone()
    assert tables[torch.float32].any()
    torch.testing.assert_close(tables[torch.bfloat16], tables[torch.float32])
