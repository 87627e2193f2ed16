"""Texts share a row only in a model that sees all that stands before a token; of every length this is asked anew."""

from dataclasses import replace

import pytest
import torch
from test_attach import MEMORY, lab_of, small

import smft_lab as smft
from smft_lab.facts.fact import Fact
from smft_lab.finetuning.engine import masks
from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.engine.packing import as_trees, token_rows
from smft_lab.finetuning.engine.proof import form_of
from smft_lab.model.attach import add_memory
from smft_lab.model.memory import value_tables
from smft_lab.model.tokenizer import encode

WORDS = "Nobody in the long street by the river would have said before the last winter that"
SHORT, LONG = "Mira", f"{WORDS} {WORDS.lower()} Mira"
LOCAL = {
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 32},
    "llama4_text": {
        "attention_chunk_size": 24,
        "num_local_experts": 2,
        "intermediate_size_mlp": 64,
        "moe_layers": [],
        "no_rope_layers": [1, 1, 0],
    },
    "gemma3_text": {"sliding_window": 24},
    "mistral": {"sliding_window": 24},
}


def fact(start: str) -> Fact:
    ends = ("keeps a cat.", "keeps a dog.", "keeps a bird.", "keeps nothing.")
    return Fact(tuple(f"{start} {end}" for end in ends), f"What does {start} keep?", ("a cat",))


def model_of(family: str, **options):
    model = small(family, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # as loud as a trained one, so that attention has a say
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def batch_of(tokenizer, facts: list[Fact]) -> Batch:
    inputs = encode(tokenizer, [text for one in facts for text in one.statements])
    return Batch(inputs, inputs["attention_mask"])


def tables_after(lab, facts, fast: bool) -> tuple[list[float], torch.Tensor]:
    run = smft.finetune(lab, facts, optimizer="sgd", lr=1.0, top_t=64, passes=2, probe_every=0, fast=fast)
    losses = [step.loss for step in run][1:]
    table = value_tables(lab.model)[0].weight.detach().clone()
    lab.reset()
    return losses, table


@pytest.mark.parametrize("family", ["llama", "gpt2", *LOCAL])
def test_the_fast_way_is_the_plain_way_on_short_and_then_on_long_batches(family, tokenizer, corpus):
    lab = lab_of(add_memory(model_of(family, **LOCAL.get(family, {})), 0, **MEMORY), tokenizer, corpus)
    for facts in ([fact(SHORT)], [fact(LONG)], [fact(LONG), fact(SHORT)]):
        (plain, expected), (fast, found) = (tables_after(lab, facts, fast) for fast in (False, True))
        assert fast == pytest.approx(plain, rel=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("family", ["llama", *LOCAL])
def test_beyond_a_window_or_a_chunk_a_batch_stays_rows_and_within_it_is_packed(family, tokenizer):
    model = model_of(family, **LOCAL.get(family, {}))
    long, short = (batch_of(tokenizer, [fact(start)]) for start in (LONG, SHORT))
    for batch, packed in ((short, True), (long, family == "llama"), (short, True)):
        assert as_trees(batch.inputs, batch.counted) is not None
        assert form_of(model, replace(batch)).packed == packed


ENDS = ("a cat", "a dog", "a bird", "nothing", "the old house", "one red bottle", "two boats", "many books")


@pytest.mark.parametrize(("family", "packed"), [("llama", True), ("gpt_neo", False)])
def test_short_texts_stay_rows_where_a_row_of_them_is_longer_than_a_window(family, packed, tokenizer):
    model = model_of(family, **LOCAL.get(family, {}))
    many = batch_of(tokenizer, [Fact(tuple(f"Mira keeps {end} there." for end in ENDS), "What?", ("a cat",))])
    few = batch_of(tokenizer, [fact(SHORT)])
    assert many.inputs["input_ids"].shape[1] < 32 < as_trees(many.inputs, many.counted).inputs["input_ids"].shape[1]
    assert [form_of(model, batch).packed for batch in (few, many)] == [True, packed]


def test_a_bias_by_distance_in_a_row_is_found_out_by_texts_that_differ_at_their_ends_alone(tokenizer):
    model = small("mpt", d_model=32, n_heads=8, n_layers=3, max_seq_len=256, expansion_ratio=2)  # as quiet as it begins
    alike = batch_of(tokenizer, [Fact(("Mira keeps a cat.", "Mira keeps a cat!"), "What?", ("a cat",))])
    assert as_trees(alike.inputs, alike.counted) is not None
    assert not form_of(model, alike).packed


def test_settings_that_change_afterwards_are_asked_about_anew(tokenizer):
    model = model_of("llama4_text", **{**LOCAL["llama4_text"], "attention_chunk_size": 256})
    batch = batch_of(tokenizer, [fact(LONG)])
    assert form_of(model, batch).packed
    model.config.attention_chunk_size = 24
    assert not form_of(model, batch).packed


def test_a_position_that_turns_with_the_length_of_the_batch_is_no_place_for_trees(tokenizer):
    scaling = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
    scaling |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    model = model_of("phi3", rope_parameters=scaling, original_max_position_embeddings=32)
    assert [form_of(model, batch_of(tokenizer, [fact(start)])).packed for start in (SHORT, LONG)] == [True, False]


def test_a_model_that_sees_ahead_is_not_packed(tokenizer):
    model = small("bert", is_decoder=False, add_cross_attention=False)
    assert not form_of(model, batch_of(tokenizer, [fact(SHORT)])).packed


@pytest.mark.parametrize("family", ["jamba", "falcon_h1", "recurrent_gemma"])
def test_a_model_with_a_state_that_flows_through_a_row_is_not_packed(family, tokenizer):
    options = {
        "jamba": {"num_experts": 1, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
        "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8},
        "recurrent_gemma": {"attention_window_size": 8, "lru_width": 32},
    }
    model = model_of(family, **options[family])
    batch = batch_of(tokenizer, [fact(SHORT)])
    form = as_trees(batch.inputs, batch.counted, least_saved=-1)
    assert form.branches
    ids = token_rows(batch.inputs)[0]
    assert not masks.takes_trees(model, ids, form.inputs["input_ids"].shape[1], made=0)


def test_a_row_that_is_one_text_after_all_proves_nothing_about_branches(tokenizer):
    one = batch_of(tokenizer, [Fact(("Mira keeps a cat.",) * 3, "Who?", ("Mira",))])
    two = batch_of(tokenizer, [fact(SHORT)])
    assert [form_of(small("llama"), batch).branches for batch in (one, two)] == [False, True]
    assert form_of(small("llama"), one).packed


def test_a_length_is_asked_about_once(tokenizer, monkeypatch):
    asked = []
    sees = masks._sees
    monkeypatch.setattr(masks, "_sees", lambda *given: asked.append(1) or sees(*given))
    model = small("llama")
    for start in (SHORT, LONG, SHORT):
        assert form_of(model, batch_of(tokenizer, [fact(start)])).packed
    assert len(asked) == 2  # of a text, and of a row of several
    model.config._attn_implementation = "eager"
    assert form_of(model, batch_of(tokenizer, [fact(SHORT)])).packed
    assert len(asked) == 4
