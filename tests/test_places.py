"""Where a memory goes: beside the feed-forwards of the text decoder, block by block, or it is said exactly why not."""

import pytest
import torch
from test_attach import MEMORY, lab_of, logits, small
from test_half_precision import short_facts
from tiny_families import tiny_model
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.lab import load
from smft_lab.model.attach import AttachedMemory, add_memory, feed_forwards, max_positions, text_blocks
from smft_lab.model.memory import value_tables
from smft_lab.slots.addresses import measure_blocks

PLACES = {  # where it goes in block 1, or the first block that has a feed-forward after that
    "llama4_text": "model.layers.1.feed_forward",
    "gpt_oss": "model.layers.1.mlp",
    "bloom": "transformer.h.1.mlp",
    "mpt": "transformer.blocks.1.ffn",
    "gemma3": "model.language_model.layers.1.mlp",
    "bart": "model.decoder.layers.1.fc1",
    "blenderbot": "model.decoder.layers.1.fc1",
    "zaya": "model.layers.1.mlp",
    "nemotron_h": "model.layers.1.mixer",
}


def memories(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, AttachedMemory)]


def written(model):
    with torch.no_grad():
        value_tables(model)[0].weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("family", PLACES)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_the_place_is_the_whole_feed_forward_of_the_text_decoder(family, mode, tokenizer, corpus, tmp_path):
    model = tiny_model(family)
    before = logits(model)
    add_memory(model, 1, mode=mode, **MEMORY)
    assert memories(model) == [PLACES[family]]
    assert torch.equal(logits(model), before) == (mode == "add")
    lab = lab_of(written(model), tokenizer, corpus)
    assert not torch.equal(logits(model), before)
    lab.save(tmp_path)
    assert torch.equal(logits(load(tmp_path).model), logits(model))


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_the_residual_that_a_feed_forward_adds_stays_where_a_memory_replaces_it(family):
    model = add_memory(tiny_model(family), 1, mode="replace", **MEMORY)
    (place,) = [module for module in model.modules() if isinstance(module, AttachedMemory)]
    x, residual = torch.randn(2, 1, 5, 32)
    torch.testing.assert_close(place(x, residual), place.memory(x) + residual)


def test_a_vision_tower_as_deep_as_the_text_model_is_left_alone():
    model = tiny_model("gemma3")
    towers = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 4]
    assert len(towers) == 2
    assert text_blocks(model) is model.model.language_model.layers


def test_an_encoder_decoder_is_refused_and_its_decoder_has_its_own_depth():
    config = {
        "d_model": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "vocab_size": 400,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_layers": 2,
        "decoder_layers": 3,
    }
    with pytest.raises(ValueError, match="BartForConditionalGeneration is an encoder-decoder"):
        add_memory(BartForConditionalGeneration(BartConfig(**config)), 1, **MEMORY)
    assert len(text_blocks(small("bart", **config))) == 3


def test_in_a_hybrid_the_blocks_that_have_a_feed_forward_can_be_chosen_and_the_others_are_named(tokenizer):
    model = tiny_model("nemotron_h")
    assert [place is not None for place in feed_forwards(model)] == [False, True, False, True]
    with pytest.raises(ValueError, match="block 2 has no feed-forward; blocks that have one: 1, 3"):
        add_memory(model, [1, 2], **MEMORY)
    assert not memories(model)
    documents = [tokenizer(text)["input_ids"] for fact in new_facts(3) for text in fact.statements[:6]]
    recipe = smft.Recipe(slots=256, heads=2, k=4, key_dim=8)
    ranked = measure_blocks(model, tokenizer, recipe, documents, new_facts(3), smft.PromptForm.PLAIN)
    assert set(ranked["block"]) <= {1, 3}
    assert memories(add_memory(model, [1, -1], **MEMORY)) == ["model.layers.1.mixer", "model.layers.3.mixer"]


def test_a_model_whose_attention_alone_has_little_weight_is_not_taken_for_one_without(tokenizer):
    with pytest.raises(ValueError, match=r"BertLMHeadModel, block 0 \(BertLayer\): no feed-forward found"):
        feed_forwards(small("bert", is_decoder=True))


@pytest.mark.parametrize("family", ["apertus", "bloom", "gpt_oss"])
def test_a_run_of_a_model_with_numbers_of_no_dimension_or_no_limit_on_positions(family, tokenizer, corpus):
    model = add_memory(tiny_model(family), 1, **MEMORY)
    if family == "bloom":
        assert max_positions(model) is None
    lab = lab_of(model, tokenizer, corpus)
    run = smft.run(lab, short_facts(2), passes=1)
    assert len(run.patch)
    after = logits(model)
    lab.reset()
    run.patch.apply(lab)
    assert torch.equal(logits(model), after)
