"""A memory attached to a finished model is trained on plain text, and nothing else of the model moves."""

import dataclasses
from random import Random

import pytest
import torch
from safetensors import safe_open

from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.model.memory import memory_layers
from smft_lab.slots.usage import Usage
from smft_lab.training.memory_training import (
    HELD_OUT,
    MemoryTraining,
    TextWindows,
    pretrain_memory,
    read_text,
    skew,
    text_lab,
    text_usage,
)

SETTINGS = MemoryTraining(
    steps=12, batch_size=4, window=16, warmup=2, background_batches=5, background_batch_size=4, checkpoint_every=5
)


@pytest.fixture(scope="module")
def text(tokenizer, corpus):
    return TextWindows(" ".join(corpus.texts(Random(0), 300)), tokenizer, 16)


@pytest.fixture
def model(small_llama):
    return add_memory(small_llama(), 1, 256, heads=2, k=4, key_dim=8)


@pytest.fixture
def small_llama():
    from test_attach import small

    return lambda: small("llama")


def trained(model, text, settings=SETTINGS, **options):
    return [loss for _, loss in pretrain_memory(model, text, settings, **options)]


def test_the_memory_learns_and_every_other_weight_stays_bitwise(model, text):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = trained(model, text, dataclasses.replace(SETTINGS, steps=60))
    assert sum(losses[-10:]) < sum(losses[:10]) - 0.4  # a random model can hardly be moved
    memory = {id(p) for layer in memory_layers(model).values() for p in layer.parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in memory), name
        assert parameter.requires_grad


def test_all_of_it_learns_where_that_is_asked_for(model, text):
    before = model.get_input_embeddings().weight.clone()
    trained(model, text, dataclasses.replace(SETTINGS, everything=True))
    assert not torch.equal(model.get_input_embeddings().weight, before)


@pytest.mark.parametrize("stopped", [3, 7, 11])
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(small_llama, text, tmp_path, stopped):
    def fresh():
        return add_memory(small_llama(), 1, 256, heads=2, k=4, key_dim=8)

    whole = fresh()
    trained(whole, text)
    model = fresh()
    run = pretrain_memory(model, text, SETTINGS, tmp_path)
    for _ in range(stopped):
        next(run)
    run.close()
    model = fresh()
    left = trained(model, text, folder=tmp_path)
    assert len(left) == SETTINGS.steps - stopped // SETTINGS.checkpoint_every * SETTINGS.checkpoint_every
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_with_other_settings_or_another_text_is_not_continued(model, text, tokenizer, tmp_path):
    trained(model, text, folder=tmp_path)
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        assert not any("embed_tokens" in name for name in file.keys())  # noqa: SIM118
    with pytest.raises(ValueError, match="other settings"):
        trained(model, text, dataclasses.replace(SETTINGS, lr=1.0), folder=tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        trained(model, TextWindows("One two three four. " * 300, tokenizer, 16), folder=tmp_path)


def test_distilling_keeps_the_model_nearer_to_what_it_said(small_llama, text):
    def change(distill: float) -> float:
        model = add_memory(small_llama(), 1, 256, heads=2, k=4, key_dim=8)
        ids = text.batch(Random(9), 4)["input_ids"]
        before = model(ids).logits.detach()
        trained(model, text, dataclasses.replace(SETTINGS, steps=30, distill=distill))
        return (model(ids).logits.detach() - before).norm().item()

    assert change(0.9) < 0.9 * change(0.0)


def test_a_replaced_feed_forward_is_distilled_only_from_a_teacher(small_llama, text):
    model = add_memory(small_llama(), 1, 256, mode="replace", heads=2, k=4, key_dim=8)
    settings = dataclasses.replace(SETTINGS, distill=0.5)
    with pytest.raises(ValueError, match="is gone"):
        trained(model, text, settings)
    assert len(trained(model, text, settings, teacher=small_llama())) == SETTINGS.steps


def test_a_lab_from_a_text_probes_its_held_out_end_and_comes_back(model, text, tokenizer, tmp_path):
    trained(model, text)
    lab = text_lab(model, tokenizer, text, SETTINGS)
    assert lab.usage.batches == 5
    before = lab.probes.measure(lab.model, tokenizer)
    assert before["prose"]["nll"] > 0
    lab.save(tmp_path)
    again = load(tmp_path)
    assert again.probes.measure(again.model, again.tokenizer) == before


def test_trained_windows_hold_nothing_of_the_held_out_end(tokenizer):
    text = TextWindows("red " * 2000 + "blue " * 70, tokenizer, 16)
    assert "blue" not in tokenizer.decode(text.ids)
    assert any("blue" in one for one in text.held_out)


def test_usage_with_hub_slots_is_warned_of(model, tokenizer, text):
    even = Usage(10, torch.ones(1, 400, dtype=torch.int32), torch.ones(1, 400, dtype=torch.int32))
    assert skew(even) is None
    even.count[0, :4] = 1000
    assert skew(even).startswith("91% of all reads")
    with torch.no_grad():
        memory_layers(model)[0].keys.query.weight.zero_()  # every token asks the same
    with pytest.warns(UserWarning, match="new facts will share slots"):
        text_lab(model, tokenizer, text, SETTINGS)
    assert text_usage(model, text, SETTINGS).share_read() < 0.1


def test_bad_text_and_options_are_one_clear_line(model, text, tokenizer, tmp_path):
    (tmp_path / "latin.txt").write_bytes("a\nb\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt, line 2: not UTF-8"):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="no such text file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="at least 169 are needed"):
        TextWindows("too short", tokenizer, 16)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        trained(model, text, dataclasses.replace(SETTINGS, steps=0))
    with pytest.raises(ValueError, match="no memory layer"):
        trained(torch.nn.Linear(2, 2), text)


@pytest.mark.parametrize(
    "sentence",
    [
        "青山镇在河的南岸，面包师每天四点起床。",
        "パン屋は毎朝四時に起きる。",
        "คนทำขนมปังตื่นตีสี่ทุกวัน",
        "제빵사는네시에일어난다.",
        "abcdefghij",
    ],
)
@pytest.mark.parametrize("before", ["", "A note: "], ids=["no space", "a space at the start"])
def test_a_text_without_spaces_is_held_out_by_token(tokenizer, sentence, before):
    whole = before + sentence * 60
    text = TextWindows(whole, tokenizer, 16)
    every = len(tokenizer(whole, add_special_tokens=False)["input_ids"])
    assert len(text.ids) == pytest.approx((1 - HELD_OUT) * every, abs=2)
    assert tokenizer.decode(text.ids).strip()[:40] == whole[:40]
    assert all(window.strip("\ufffd") == window and window in whole for window in text.held_out)
    assert sum(map(len, text.held_out)) > 0.5 * HELD_OUT * len(whole)
