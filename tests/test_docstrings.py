"""The examples in the docstrings of the public face, run as they stand."""

import doctest
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import smft_lab as smft
from smft_lab.finetuning.methods import METHODS
from smft_lab.probes.probes import world_probes

WITHOUT = {"lm_eval_probe", "widgets"}  # the one needs the extra `eval`, the other is a module
CHARTS = [f"charts.{name}" for name in smft.charts.__all__]
OF_LAB = ("Lab.answer", "Lab.at_base", "Lab.encode", "Lab.recalled")
PARSER = doctest.DocTestParser()


@pytest.fixture(scope="module")
def shipped():
    """The shipped lab with few probes, and two patches of it."""
    lab = smft.load()
    lab.probes = world_probes(lab.world, per_probe=4)
    patches = {}
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        patches[name] = smft.run(lab, smft.new_facts(1, seed), passes=1, probe_every=0).patch
        lab.reset()
    return lab, patches


@pytest.fixture
def names(shipped, tmp_path, monkeypatch):
    """What an example may use without making it: see CONTRIBUTING.md."""
    monkeypatch.chdir(tmp_path)
    lab, patches = shipped
    for name, patch in patches.items():
        patch.save(name)
    torch.manual_seed(0)
    special = {f"{name}_token_id": getattr(lab.tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    yield {
        "smft": smft,
        "torch": torch,
        "Path": Path,
        "lab": lab,
        "plain": LlamaForCausalLM(LlamaConfig(vocab_size=len(lab.tokenizer), **sizes, **special)).eval(),
        "text": " ".join(text for fact in smft.new_facts(20) for text in fact.statements[:5]),
        "ids": torch.tensor([[5, 6, 7, 8]]),
    }
    lab.reset()


@pytest.mark.filterwarnings("ignore::UserWarning")  # a tiny memory finds hardly anything
@pytest.mark.parametrize("name", [*sorted({*smft.__all__} - WITHOUT), *OF_LAB, *CHARTS, *METHODS])
def test_an_example_does_what_it_shows(name, names):
    about = METHODS[name] if name in METHODS else attrgetter(name)(smft)
    example = PARSER.get_doctest(about.__doc__, names, name, None, None)
    assert example.examples, f"{name} has no example"
    told = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append, clear_globs=False)
    assert not told, "".join(told)
