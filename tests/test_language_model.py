"""The language model with memory layers, as a citizen of `transformers`."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from smft_lab.model.language_model import MemoryLlamaConfig, MemoryLlamaForCausalLM
from smft_lab.model.memory import MemoryLayer, memory_layers, value_tables


@pytest.fixture
def ids(tokenizer):
    return torch.randint(3, len(tokenizer), (3, 9), generator=torch.Generator().manual_seed(3))


def logits(model, ids):
    with torch.inference_mode():
        return model.eval()(ids).logits


def stored_tables(folder) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return [name for name in file.keys() if name.endswith("values.weight")]  # noqa: SIM118


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory_qk_norm": False},
        {"memory_value_dim": 24},
        {"memory_at": [0, 2]},
        {"memory_at": [0, 1, 2], "memory_shared": False},
    ],
    ids=str,
)
def test_a_saved_model_comes_back_with_bitwise_the_same_logits(tiny_model, ids, tmp_path, options, tied):
    model = tiny_model(tie_word_embeddings=tied, **options)
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)  # so that anything left to its random start would differ
    again = MemoryLlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_saved_model_is_a_config_and_safetensors_and_no_pickle(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }


def test_every_memory_option_comes_back_with_the_config(tiny_model, tmp_path):
    options = {
        "memory_at": [0, 2],
        "memory_slots": 144,
        "memory_heads": 3,
        "memory_k": 5,
        "memory_key_dim": 10,
        "memory_value_dim": 24,
        "memory_qk_norm": False,
        "memory_shared": False,
    }
    tiny_model(**options).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "memory_llama"
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, MemoryLlamaConfig)
    assert {name: getattr(config, name) for name in options} == options
    assert config.num_hidden_layers == 3


def test_default_memory_options_come_back_too(tmp_path):
    MemoryLlamaConfig().save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    fields = [name for name in MemoryLlamaConfig.__annotations__ if name.startswith("memory_")]
    assert len(fields) == 8
    for name in fields:
        saved, default = getattr(config, name), getattr(MemoryLlamaConfig(), name)
        assert (list(saved) if name == "memory_at" else saved) == (list(default) if name == "memory_at" else default)


def test_the_auto_class_finds_the_model(tiny_model, ids, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(found) is MemoryLlamaForCausalLM
    assert torch.equal(logits(found, ids), logits(model, ids))


@pytest.mark.parametrize("tied", [True, False])
def test_a_shared_table_is_stored_once_and_one_tensor_after_reload(tiny_model, tmp_path, tied):
    tiny_model(memory_at=[0, 1, 2], tie_word_embeddings=tied).save_pretrained(tmp_path)
    assert len(stored_tables(tmp_path)) == 1
    again = MemoryLlamaForCausalLM.from_pretrained(tmp_path)
    layers = memory_layers(again)
    assert len(layers) == 3
    assert len({id(layer.values.weight) for layer in layers.values()}) == 1
    assert len(value_tables(again)) == 1
    with torch.no_grad():
        layers[0].values.weight[7] = 1.0
    assert (layers[2].values.weight[7] == 1.0).all()


def test_own_tables_are_distinct_before_and_after_reload(tiny_model, tmp_path):
    model = tiny_model(memory_at=[0, 1, 2], memory_shared=False)
    model.save_pretrained(tmp_path)
    assert len(stored_tables(tmp_path)) == 3
    for one in (model, MemoryLlamaForCausalLM.from_pretrained(tmp_path)):
        tables = [table.weight for table in value_tables(one)]
        assert len({table.data_ptr() for table in tables}) == 3
        assert not torch.equal(tables[0], tables[1])


def test_only_the_named_layers_are_memory_layers(tiny_model):
    model = tiny_model(memory_at=[1, 2, 1])
    assert [isinstance(layer.mlp, MemoryLayer) for layer in model.model.layers] == [False, True, True]


@pytest.mark.parametrize("qk_norm", [True, False])
def test_memory_layers_are_built_as_the_config_says(tiny_model, qk_norm):
    model = tiny_model(
        memory_slots=64, memory_heads=3, memory_k=2, memory_key_dim=6, memory_value_dim=20, memory_qk_norm=qk_norm
    )
    layer = model.model.layers[1].mlp
    assert (layer.keys.root, layer.keys.heads, layer.keys.k, layer.keys.key_dim) == (8, 3, 2, 6)
    assert (layer.keys.temperature is not None) == qk_norm
    assert layer.values.weight.shape == (64, 20)
    assert layer.out.weight.shape == (32, 20)


def test_generation_is_the_same_with_and_without_a_cache(tiny_model, ids):
    model = tiny_model(memory_at=[0, 2], tie_word_embeddings=False)
    options = {
        "max_new_tokens": 10,
        "min_new_tokens": 10,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    cached = model.generate(ids, use_cache=True, **options)
    plain = model.generate(ids, use_cache=False, **options)
    assert cached.sequences.shape == (3, 19)
    assert len(set(plain.sequences[:, 9:].flatten().tolist())) > 3, "too dull to tell a difference"
    assert torch.equal(cached.sequences, plain.sequences)
    for one, other in zip(cached.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory_at", [[], [3], [-1], [0, 7]])
def test_memory_at_a_layer_that_is_not_there_is_refused_with_the_range(tiny_model, memory_at):
    with pytest.raises(ValueError, match="memory_at must name blocks between 0 and 2") as caught:
        tiny_model(memory_at=memory_at)
    assert str(memory_at) in str(caught.value)


def test_memory_options_out_of_range_are_refused_when_the_model_is_built(tiny_model):
    with pytest.raises(ValueError, match="the nearest is 256"):
        tiny_model(memory_slots=250)
    with pytest.raises(ValueError, match="k must be between 1"):
        tiny_model(memory_k=17)
