"""A tiny random lab that behaves like the shipped one: same classes, same tokenizer kind, no training."""

from copy import deepcopy
from random import Random

import pytest
import torch

from smft_lab.facts.world.corpus import Corpus
from smft_lab.facts.world.world import built_in_world
from smft_lab.lab import Lab
from smft_lab.model.language_model import MemoryLlamaConfig, MemoryLlamaForCausalLM
from smft_lab.model.tokenizer import encode, train_tokenizer
from smft_lab.probes.probes import world_probes
from smft_lab.slots.usage import measure_usage

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus():
    return Corpus(built_in_world())


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return train_tokenizer(corpus.texts(Random(0), 500), vocab_size=400)


@pytest.fixture(scope="session")
def tiny_model(tokenizer):
    """Makes a small random model; options go to its config."""

    def make(**options):
        torch.manual_seed(0)
        config = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "memory_at": [1],
            "memory_slots": 256,
            "memory_heads": 2,
            "memory_k": 4,
            "memory_key_dim": 16,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        return MemoryLlamaForCausalLM(MemoryLlamaConfig(**{**config, **options})).eval()

    return make


@pytest.fixture(scope="session")
def tiny_lab(tokenizer, tiny_model, corpus):
    """Makes a lab around a small random model, with few probes so that measuring takes milliseconds."""
    rng = Random(1)
    background = [encode(tokenizer, corpus.texts(rng, 4)) for _ in range(20)]
    usages = {}  # by the options of the model, which is the same each time

    def make(**options):
        model, key = tiny_model(**options), repr(sorted(options.items()))
        if key not in usages:
            usages[key] = measure_usage(model, background)
        usage, probes = deepcopy(usages[key]), world_probes(built_in_world(), per_probe=4)
        return Lab(model, tokenizer, usage, probes, world_seed=0)

    return make


@pytest.fixture
def lab(tiny_lab):
    return tiny_lab()
