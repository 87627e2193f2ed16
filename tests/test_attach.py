"""`add_memory` on the families people use: found by structure, changes nothing, learns, comes off, saved and loaded."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.lab import Lab, load
from smft_lab.model import attach
from smft_lab.model.attach import add_memory, feed_forwards, without_memory
from smft_lab.model.memory import MemoryLayer, memory_layers, observe_reads, value_tables
from smft_lab.model.tokenizer import encode
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import measure_usage

SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHER = {"opt": {"word_embed_proj_dim": 32, "ffn_dim": 64}}
FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "opt", "phi3", "olmo2"),
    *("falcon", "mixtral", "xglm"),
)
MEMORY = {"slots": 256, "heads": 2, "k": 4, "key_dim": 8}
IDS = torch.arange(3, 15).view(2, 6)


def small(family: str, **options):
    torch.manual_seed(0)
    head = {} if family == "falcon" else {"head_dim": 16}
    config = AutoConfig.for_model(family, **{**SMALL, **head, **OTHER.get(family, {}), **options})
    return AutoModelForCausalLM.from_config(config).eval()


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS, use_cache=False).logits


def lab_of(model, tokenizer, corpus) -> Lab:
    from random import Random

    rng = Random(1)
    return Lab(model, tokenizer, measure_usage(model, [encode(tokenizer, corpus.texts(rng, 4)) for _ in range(10)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gets_a_memory_learns_facts_forgets_them_bitwise_and_is_saved_and_loaded(
    family, tokenizer, corpus, tmp_path
):
    model = small(family)
    before = logits(model)
    add_memory(model, [1, -1], **MEMORY)
    assert torch.equal(logits(model), before)
    assert len(memory_layers(model)) == 2
    assert len(value_tables(model)) == 1

    lab = lab_of(model, tokenizer, corpus)
    facts = new_facts(8)
    losses = [
        step.loss
        for step in smft.finetune(
            lab, facts, lr=1.0, top_t=64, optimizer="adam", passes=2, probe_every=0, loss_on="answer"
        )
    ]
    assert sum(losses[9:]) < sum(losses[1:9]) - 0.2  # a random model can hardly be moved, and yet
    taught = logits(model)
    assert not torch.equal(taught, before)

    patch = Patch.between(lab)
    assert 64 <= len(patch) <= 256
    lab.save(tmp_path / "lab")
    again = load(tmp_path / "lab")
    assert torch.equal(logits(again.model), taught)
    assert torch.equal(again.usage.df, lab.usage.df)

    lab.reset()
    assert torch.equal(logits(model), before)
    patch.apply(lab)
    assert torch.equal(logits(model), taught)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_replaced_feed_forwards_are_gone_and_come_back_with_the_file(family, tokenizer, corpus, tmp_path):
    model = small(family)
    dense = sum(p.numel() for p in model.parameters())
    add_memory(model, 1, mode="replace", **MEMORY)
    of_memory = sum(p.numel() for p in memory_layers(model)[0].parameters())
    assert sum(p.numel() for p in model.parameters()) < dense - 64 * 32 + of_memory
    lab_of(model, tokenizer, corpus).save(tmp_path)
    assert torch.equal(logits(load(tmp_path).model), logits(model))
    with pytest.raises(ValueError, match="only added memory can be left out"), without_memory(model):
        pass


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_an_added_memory_can_be_left_out_also_after_it_was_trained(family):
    model = small(family)
    before = logits(model)
    add_memory(model, 1, **MEMORY)
    nn.init.normal_(value_tables(model)[0].weight)
    assert not torch.equal(logits(model), before)
    with without_memory(model):
        assert torch.equal(logits(model), before)
    assert not torch.equal(logits(model), before)


def test_own_tables_are_distinct_and_come_back(tokenizer, corpus, tmp_path):
    model = add_memory(small("llama"), [0, 2], shared=False, **MEMORY)
    assert len(value_tables(model)) == 2
    nn.init.normal_(value_tables(model)[1].weight)
    lab_of(model, tokenizer, corpus).save(tmp_path)
    again = load(tmp_path).model
    assert not value_tables(again)[0].weight.any()
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tied_embeddings_stay_tied(family, tokenizer, corpus, tmp_path):
    model = add_memory(small(family, tie_word_embeddings=True), 1, **MEMORY)
    lab_of(model, tokenizer, corpus).save(tmp_path)
    again = load(tmp_path).model
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(logits(again), logits(model))


def test_a_model_with_a_device_map_gets_its_memory_where_its_block_is(tmp_path):
    small("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu").eval()
    before = logits(model)
    assert torch.equal(logits(add_memory(model, 1, **MEMORY)), before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_generation_with_and_without_a_cache_is_the_same(family):
    model = add_memory(small(family), 1, **MEMORY)
    nn.init.normal_(value_tables(model)[0].weight)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(model.generate(IDS, use_cache=True, **options), model.generate(IDS, use_cache=False, **options))


def test_gradient_checkpointing_gives_the_same_gradient():
    def gradient(checkpointing: bool):
        model = add_memory(small("llama"), 1, **MEMORY).train()
        nn.init.normal_(value_tables(model)[0].weight, generator=torch.Generator().manual_seed(1))
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(IDS, labels=IDS).loss.backward()
        return value_tables(model)[0].weight.grad

    torch.testing.assert_close(gradient(True), gradient(False))


def test_every_token_of_a_model_that_joins_batch_and_tokens_is_counted(tokenizer):
    model = add_memory(small("opt"), 1, **MEMORY)
    with observe_reads(model) as reads:
        logits(model)
    assert reads[0].slots[0].numel() == IDS.numel() * 2 * 4


def test_a_model_without_a_feed_forward_is_told_what_was_looked_for():
    config = AutoConfig.for_model("mamba", vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=r"block 0 \(MambaBlock\): no feed-forward found. Looked for a module"):
        feed_forwards(model)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([3], {}, "between 0 and 2"),
        ([], {}, "between 0 and 2"),
        ([1], {"slots": 250}, "perfect square"),
        ([1], {"mode": "beside"}, "there are replace, add"),
    ],
)
def test_options_out_of_range_are_refused_and_the_model_is_as_before(layers, options, message):
    model = small("llama")
    modules = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        add_memory(model, layers, **{**MEMORY, **options})
    assert dict(model.named_modules()) == modules


def test_a_memory_that_fails_beside_one_block_is_put_beside_none(monkeypatch):
    model, made = small("opt"), []
    modules = dict(model.named_modules())

    def make(*options):
        if made:
            raise MemoryError
        made.append(MemoryLayer(*options))
        return made[-1]

    monkeypatch.setattr(attach, "MemoryLayer", make)
    with pytest.raises(MemoryError):
        add_memory(model, [0, 2], **MEMORY)
    assert dict(model.named_modules()) == modules


def test_a_model_that_reads_more_than_token_ids_is_refused_with_what_it_said(monkeypatch):
    model = small("llama")
    monkeypatch.setattr(model, "forward", lambda pixel_values, input_ids=None, **options: None)
    with pytest.raises(ValueError, match=r"can't be run on token ids and labels alone.* missing .* 'pixel_values'"):
        add_memory(model, 1, **MEMORY)


def test_a_model_of_a_few_tokens_gets_a_memory():
    model = small("llama", vocab_size=5)
    assert len(value_tables(add_memory(model, 1, **MEMORY))) == 1


def test_a_second_memory_is_refused():
    model = add_memory(small("llama"), 1, **MEMORY)
    with pytest.raises(ValueError, match="memory layers already"):
        add_memory(model, 2, **MEMORY)


def test_a_table_that_cannot_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(attach, "MemoryLayer", lambda *_: pytest.fail("it was made"))
    with pytest.raises(ValueError, match=r"needs .* GiB, and .* GiB are free"):
        add_memory(small("llama"), 1, slots=1_000_000**2)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_what_a_text_reads_is_told_token_by_token(family, tokenizer, corpus):
    from smft_lab.slots.reading import core_set, token_reads

    lab = lab_of(add_memory(small(family), 1, **MEMORY), tokenizer, corpus)
    reads = token_reads(lab, "Mira keeps a cat.")
    assert reads.slots[0].shape == (len(reads.tokens), 2 * 4)
    assert all(core_set(lab, fact)[0].ndim == 1 for fact in new_facts(2))


def test_a_folder_that_another_process_writes_to_is_left_alone(tokenizer, corpus, tmp_path):
    from smft_lab.writing import alone

    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    with alone(tmp_path / "lab"), pytest.raises(ValueError, match="another process is writing"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    lab.save(tmp_path / "lab")


def test_a_save_that_fails_leaves_the_lab_that_was_there(tokenizer, corpus, tmp_path, monkeypatch):
    from smft_lab import storage as module

    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    lab.save(tmp_path / "lab")
    (tmp_path / "lab" / "notes.txt").write_text("mine")
    before = logits(lab.model)
    nn.init.normal_(value_tables(lab.model)[0].weight)
    with monkeypatch.context() as patched:
        patched.setattr(module, "save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            lab.save(tmp_path / "lab")
    assert torch.equal(logits(load(tmp_path / "lab").model), before)
    lab.save(tmp_path / "lab")
    assert torch.equal(logits(load(tmp_path / "lab").model), logits(lab.model))
    assert (tmp_path / "lab" / "notes.txt").read_text() == "mine"
    assert {entry.name for entry in tmp_path.iterdir()} <= {"lab", ".lab.lock"}


WRAPPED = {
    "compiled": (
        lambda model: torch.compile(model, backend="eager"),
        r"OptimizedModule.*model\._orig_mod",
    ),
    "compiled in place": (lambda model: model.compile(backend="eager") or model, "was compiled"),
    "a compiled part": (lambda model: model.model.layers[0].compile(backend="eager") or model, "was compiled"),
    "parallel": (nn.DataParallel, r"DataParallel.*model\.module"),
}


@pytest.mark.parametrize("way", WRAPPED)
def test_a_model_that_was_compiled_or_is_in_a_wrapper_is_refused(way, tokenizer, corpus):
    wrap, message = WRAPPED[way]
    with pytest.raises(ValueError, match=message):
        add_memory(wrap(small("llama")), 1, **MEMORY)
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    with pytest.raises(ValueError, match=message):
        Lab(wrap(lab.model), tokenizer, lab.usage)


def test_a_model_in_which_two_blocks_are_one_is_not_saved_as_its_config_could_not_rebuild_it(
    tokenizer, corpus, tmp_path
):
    model = small("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    lab = lab_of(add_memory(model, 2, **MEMORY), tokenizer, corpus)
    with pytest.raises(ValueError, match=r"can't be rebuilt from its config: .*mlp.* are one weight in it"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: small("llama").model,
        lambda: AutoModelForSequenceClassification.from_config(small("llama").config),
        lambda: nn.Linear(2, 2),
    ],
    ids=["no output", "a classifier", "another module"],
)
def test_what_is_no_causal_language_model_is_refused(make):
    with pytest.raises(ValueError, match="is no causal language model of transformers"):
        add_memory(make(), 1, **MEMORY)
