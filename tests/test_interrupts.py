"""Whatever stops a finetune, the model is put together as it was, and `reset` brings the base back."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import smft_lab as smft
from smft_lab import finetune
from smft_lab.experiments.memory_training import new_model
from smft_lab.facts.world import new_facts
from smft_lab.model.memory import ProductKeys, ValueTable
from smft_lab.model.tokenizer import encode
from smft_lab.model.wiring import HOOKS
from smft_lab.slots.reading import core_set
from smft_lab.widgets import Train

FACTS = new_facts(2, seed=5)
EVERY_LINE = bool(os.environ.get("SMFT_LAB_EVERY_LINE"))
STRIDE = {"sparse": 397, "full": 83, "lora": 157}  # lines from one interrupt to the next
TINY = {"steps": 2, "batch_size": 4, "vocab_size": 400, "memory_slots": 64, "background_batches": 2, "warmup": 1}
TINY |= {"tokenizer_texts": 200, "hidden_size": 32, "intermediate_size": 32, "world_scale": 0.02}
PACKAGE = str(Path(smft.__file__).parent)


def assembly(model) -> dict:
    """How a model is put together, without its numbers."""
    return {
        "modules": {name: id(module) for name, module in model.named_modules()},
        "hooks": {
            name: [len(getattr(module, hooks)) for hooks in HOOKS] for name, module in model.named_modules()
        },
        "trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "modes": [
            module._hits if isinstance(module, ValueTable) else module.known
            for module in model.modules()
            if isinstance(module, ValueTable | ProductKeys)
        ],
        "adapted": hasattr(model, "peft_config"),
    }  # fmt: skip


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def bitwise_equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(lab, method: str) -> None:
    for _ in finetune(lab, FACTS, method, passes=1, top_t=20, lr=1e-3, probe_every=0):
        pass


def lines_of(function, stop_at: int | None = None) -> int:
    """Call the function; how many lines of the package it ran, up to the one before which it was interrupted."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            if line.startswith("with "):  # also at the end of its block, where Python itself is not interrupted
                return trace
            count += 1
            if count == stop_at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("method", ["sparse", "full", "lora"])
def test_an_interrupt_at_any_line_leaves_nothing_that_reset_does_not_bring_back(tiny_lab, method):
    lab = tiny_lab()
    lab.model.model.embed_tokens.weight.requires_grad_(False)  # a person's own choice
    before, base = assembly(lab.model), state(lab.model)
    total = lines_of(lambda: run(lab, method))
    lab.reset()
    assert total > 200
    for line in range(1, total, 1 if EVERY_LINE else STRIDE[method]):
        with suppress(KeyboardInterrupt):
            lines_of(lambda: run(lab, method), line)
        lab.reset()
        assert assembly(lab.model) == before, f"line {line} of {total}"
        assert bitwise_equal(state(lab.model), base), f"line {line} of {total}"
    run(lab, method)
    learned = state(lab.model)
    fresh = tiny_lab()
    fresh.model.model.embed_tokens.weight.requires_grad_(False)
    run(fresh, method)
    assert bitwise_equal(learned, state(fresh.model))
    assert assembly(lab.model) == before


@pytest.mark.parametrize("method", ["sparse", "full", "lora"])
def test_a_loop_that_is_left_early_leaves_the_model_as_a_finished_run_does(lab, method):
    lab.model.model.embed_tokens.weight.requires_grad_(False)
    before = assembly(lab.model)
    for step in finetune(lab, FACTS, method, passes=2, top_t=20, probe_every=0):
        if step.step == 2:
            break
    assert assembly(lab.model) == before
    lab.model(**encode(lab.tokenizer, ["A boat."])).loss.backward()
    assert smft.value_tables(lab.model)[0].weight.grad.layout is torch.strided


def test_a_lora_that_fails_to_start_leaves_the_lab_as_it_was(lab, monkeypatch):
    import peft

    run(lab, "sparse")
    before, taught = assembly(lab.model), state(lab.model)
    whole = peft.tuners.lora.LoraModel._replace_module
    calls = []

    def fail_at_the_fifth(*args, **options):
        calls.append(1)
        if len(calls) == 5:
            raise ValueError("this layer can't be adapted")
        return whole(*args, **options)

    monkeypatch.setattr(peft.tuners.lora.LoraModel, "_replace_module", fail_at_the_fifth)
    with pytest.raises(ValueError, match="can't be adapted"):
        run(lab, "lora")
    assert assembly(lab.model) == before
    assert bitwise_equal(state(lab.model), taught)


def test_a_lora_that_fails_to_merge_leaves_the_base(lab, monkeypatch):
    import peft

    before, base = assembly(lab.model), state(lab.model)
    whole, calls = peft.tuners.lora.Linear.merge, []

    def fail_at_the_third(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return whole(*args, **options)

    monkeypatch.setattr(peft.tuners.lora.Linear, "merge", fail_at_the_third)
    with pytest.raises(MemoryError):
        run(lab, "lora")
    assert assembly(lab.model) == before
    assert bitwise_equal(state(lab.model), base)


def test_a_model_with_other_names_than_its_lab_is_not_saved(lab, tmp_path):
    lab.model.add_module("stranger", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"can't be rebuilt from its config: stranger\.bias is"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_a_reading_call_during_training_waits_for_the_end_of_a_step(lab):
    """And neither the call nor the run is any other for it."""
    undisturbed = [step.loss for step in finetune(lab, FACTS, passes=40, top_t=20, probe_every=0)]
    after = state(lab.model)
    lab.reset()
    losses, problems = [], []

    def train():
        try:
            losses.extend(step.loss for step in finetune(lab, FACTS, passes=40, top_t=20, probe_every=0))
        except Exception as problem:
            problems.append(problem)

    worker = threading.Thread(target=train)
    worker.start()
    calls = 0
    while worker.is_alive():
        smft.answer(lab.model, lab.tokenizer, [FACTS[0].question], max_new_tokens=2)
        assert len(smft.slot_scores(lab, FACTS[0]))
        core_set(lab, FACTS[0])
        lab.probes["old_facts"].measure(lab.model, lab.tokenizer)
        calls += 1
    worker.join()
    assert calls
    assert not problems
    assert losses == undisturbed
    assert bitwise_equal(state(lab.model), after)


def test_sparse_mode_is_left_alone_by_a_save_and_refuses_another_training(lab, tmp_path):
    with smft.sparse_mode(lab, top_t=7):
        lab.save(tmp_path / "lab")
        with pytest.raises(ValueError, match="sparse_mode is on"):
            run(lab, "full")
        lab.model(**encode(lab.tokenizer, ["A boat."])).loss.backward()
        assert smft.value_tables(lab.model)[0].weight.grad.is_sparse


@pytest.mark.parametrize(
    "work",
    [
        lambda: smft.load(),
        lambda: Train(runner="inline", **TINY).start(),
        lambda: new_model("A boat is a boat. " * 100),
    ],
    ids=["opening a lab", "training one in a panel", "making a model for a text"],
)
def test_random_numbers_are_left_alone_by(work):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    work()
    assert torch.equal(torch.rand(3), expected)
