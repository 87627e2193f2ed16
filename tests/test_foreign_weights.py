"""Weights that are not plain numbers in memory: a model that has some is refused before any work."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, init_empty_weights
from test_attach import MEMORY, lab_of, small
from test_retrofit import KNOWN, RECIPE
from torch import nn
from transformers import AutoModelForCausalLM

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.model.attach import add_memory
from smft_lab.slots.patch import Patch


def emptied():
    with init_empty_weights():
        return small("llama")


def partly_on_disk(folder):
    small("llama").save_pretrained(folder / "model")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{block}": "disk" if block == 2 else "cpu" for block in range(3)}
    return AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map=places, offload_folder=folder / "offloaded"
    )


def assert_refused(model, tokenizer, message: str) -> None:
    """It gets no memory in either way, and no module of it is another one afterwards."""
    modules = dict(model.named_modules())
    for attach in (
        lambda: add_memory(model, 1, **MEMORY),
        lambda: smft.Retrofit(model, tokenizer, RECIPE, known=KNOWN),
    ):
        with pytest.raises(ValueError, match=message):
            attach()
    assert dict(model.named_modules()) == modules


AWAY = {
    "all on the CPU": lambda folder: cpu_offload(small("llama"), torch.device("cpu")),
    "all on disk": lambda folder: disk_offload(small("llama"), str(folder), torch.device("cpu")),
    "a block on disk": partly_on_disk,
    "none at all": lambda folder: emptied(),
}


@pytest.mark.parametrize("way", AWAY)
def test_a_model_whose_weights_are_not_in_memory_is_refused_before_any_work(way, tokenizer, tmp_path):
    model = AWAY[way](tmp_path)
    assert_refused(model, tokenizer, r"weight is not in memory, as the model was offloaded.*; load all of it")


def test_a_lab_that_is_offloaded_later_is_neither_taught_nor_reset_nor_saved(tokenizer, corpus, tmp_path):
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    patch = Patch.between(lab)
    cpu_offload(lab.model, torch.device("cpu"))
    uses = (
        lambda: smft.finetune(lab, new_facts(1)),
        lab.reset,
        lambda: lab.save(tmp_path / "lab"),
        lambda: Patch.between(lab),
        lambda: patch.apply(lab),
        lambda: patch.revert(lab),
        lambda: smft.Lab(lab.model, tokenizer, lab.usage),
    )
    for use in uses:
        with pytest.raises(ValueError, match="is not in memory, as the model was offloaded"):
            use()


class Packed(nn.Module):
    """A quantized linear layer, as bitsandbytes keeps one; or, with a dtype of int32, as GPTQ does."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.scale = layer.weight.abs().max().item() / 100
        self.shift = 100 if dtype == torch.uint8 else 0
        numbers = (layer.weight / self.scale + self.shift).to(dtype)
        if dtype == torch.int32:
            self.register_buffer("qweight", numbers)
        else:
            self.weight = nn.Parameter(numbers, False)

    def forward(self, x):
        numbers = self.qweight if hasattr(self, "qweight") else self.weight
        return x @ ((numbers.float() - self.shift) * self.scale).T


class Quantized(torch.Tensor):
    """A weight that is unpacked where it is used and looks like a plain one, as torchao keeps it."""


def subclassed(layer: nn.Linear, _) -> nn.Linear:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantized), False)
    return layer


KINDS = {
    "torch.uint8": (Packed, torch.uint8),
    "torch.int8": (Packed, torch.int8),
    "torch.float8_e4m3fn": (Packed, torch.float8_e4m3fn),
    "torch.int32": (Packed, torch.int32),
    "Quantized": (subclassed, None),
}
PARTS = {"all": "proj", "attention": "self_attn", "one feed-forward": "layers.0.mlp", "output": "lm_head"}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_is_refused_whichever_part_of_it_is(kind, part, tokenizer):
    model, (make, dtype) = small("llama"), KINDS[kind]
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and PARTS[part] in name:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, make(layer, dtype))
    assert_refused(model, tokenizer, rf"is quantized \(.* is kept as {kind}\).*or call model.dequantize")


@pytest.mark.parametrize(
    ("change", "layers", "message"),
    [
        (lambda model: None, [7], "layers must name blocks between 0 and 2"),
        (lambda model: setattr(model.config, "return_dict", False), "auto", "return_dict is False.*set it to True"),
        (lambda model: setattr(model, "forward", lambda **inputs: (torch.zeros(1),)), "auto", "gives a tuple without"),
    ],
)
def test_a_retrofit_that_could_not_attach_its_memory_writes_no_background_first(change, layers, message, tokenizer):
    model = small("llama")
    change(model)
    with pytest.raises(ValueError, match=message):
        smft.Retrofit(model, tokenizer, RECIPE, layers, known=KNOWN)
    with pytest.raises(ValueError, match=message):
        add_memory(model, [1] if layers == "auto" else layers, **MEMORY)
