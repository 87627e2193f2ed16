"""Whatever stops a finetune, the model is put together as it was, and `reset` brings the base back.

`SMFT_LAB_INTERRUPTS=10` tries twenty times as many interrupts, and `SMFT_LAB_EVERY_LINE=1` one at every line.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import peft
import pytest
import torch
from test_attach import MEMORY, logits, small
from transformers import AutoModelForCausalLM

import smft_lab as smft
from smft_lab import finetune
from smft_lab.experiments.compare import Comparison
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.engine.products import fast_product
from smft_lab.finetuning.methods import METHODS, Sparse
from smft_lab.model.attach import AttachedMemory, add_memory, feed_forwards
from smft_lab.model.fitting import memory_inputs
from smft_lab.model.hooks import HOOKS, HookScope, drop_ended
from smft_lab.model.memory import ProductKeys, ValueTable, value_tables
from smft_lab.model.tokenizer import encode
from smft_lab.slots.addresses import measure_addresses, measure_loudness, observe_loudness
from smft_lab.slots.anchor import background_reads
from smft_lab.slots.reading import core_set
from smft_lab.training.memory_training import new_model
from smft_lab.widgets import Compare, Teach, TopT, Train

FACTS = new_facts(2, seed=5)
EVERY_LINE = bool(os.environ.get("SMFT_LAB_EVERY_LINE"))
OFTEN = float(os.environ.get("SMFT_LAB_INTERRUPTS", "0.5"))
# Lines from one interrupt to the next.
STRIDE = {"sparse": 1601, "full": 661, "lora": 3989, "replay": 1499, "osf": 2999}
TINY = {"steps": 2, "batch_size": 4, "vocab_size": 400, "memory_slots": 64, "background_batches": 2, "warmup": 1}
TINY |= {"tokenizer_texts": 200, "hidden_size": 32, "intermediate_size": 32, "world_scale": 0.02}
RAISED: list[str] = []  # the lines before which there was an interrupt
PLACES = tuple(str(Path(package.__file__).parent) for package in (smft, peft))  # whose lines are interrupted


def assembly(model) -> dict:
    """How a model is put together, without its numbers."""
    return {
        "modules": {name: id(module) for name, module in model.named_modules()},
        "hooks": {name: [len(getattr(module, hooks)) for hooks in HOOKS] for name, module in model.named_modules()},
        "trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "modes": [
            module.hits if isinstance(module, ValueTable) else module._known
            for module in model.modules()
            if isinstance(module, ValueTable | ProductKeys)
        ],
        "adapted": hasattr(model, "peft_config"),
        "memory on": [module.on for module in model.modules() if isinstance(module, AttachedMemory)],
        "generation": id(model.generation_config),
    }


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def bitwise_equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(lab, method: str) -> None:
    of_sparse = {"top_t": 20} if method == "sparse" else {}
    for _ in finetune(lab, FACTS, method, passes=1, lr=1e-3, probe_every=0, **of_sparse):
        pass


@cache
def source_line(file: str, number: int) -> str:
    return linecache.getline(file, number).strip()


def lines_of(function, stop_at: int | None = None, again: int | None = None) -> int:
    """Call the function; how many lines of ours and of peft it ran, up to the one before which it was interrupted.

    Args:
        again: Interrupt it once more, so many lines later, while it is being taken down.
    """
    count = 0

    def resume(*_):
        """What raises while it traces is no longer called: this is, at the next call or return, and traces again."""
        nonlocal stop_at, again
        if count == stop_at and again is not None and sys.gettrace() is None:
            stop_at, again = count + again, None
            sys.setprofile(None)
            sys.settrace(trace)

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PLACES):
            return None
        if event == "line":
            line = source_line(frame.f_code.co_filename, frame.f_lineno)
            if line.startswith(("with ", "try:")):  # where Python itself is not interrupted, nor where a block ends
                return trace
            count += 1
            if count == stop_at:
                sys.settrace(None)
                RAISED.append(line)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    if again is not None:
        sys.setprofile(resume)
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.setprofile(None)
        sys.settrace(before)
    return count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # peft's layers that were never whole
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_at_any_line_leaves_nothing_that_reset_does_not_bring_back(tiny_lab, method, record_property):
    lab = tiny_lab()
    lab.model.model.embed_tokens.weight.requires_grad_(False)  # a person's own choice
    before, base = assembly(lab.model), state(lab.model)
    total = lines_of(lambda: run(lab, method))
    lab.reset()
    assert total > 200
    lines = range(1, total, stepping(STRIDE.get(method, 2999)))
    record_property("tried", len(lines))
    check_interrupted(lab, partial(run, method=method), lines, before, base)
    run(lab, method)
    learned = state(lab.model)
    fresh = tiny_lab()
    fresh.model.model.embed_tokens.weight.requires_grad_(False)
    run(fresh, method)
    assert bitwise_equal(learned, state(fresh.model))
    assert assembly(lab.model) == before


def check_interrupted(lab, work, lines, before: dict, base: dict) -> None:
    """Interrupt some work before each of these lines in turn, and see that `reset` brings back what was before."""
    for line in lines:
        with suppress(KeyboardInterrupt):
            lines_of(partial(work, lab), line)
        lab.reset()
        assert assembly(lab.model) == before, f"line {line} of {lines[-1]}"
        assert bitwise_equal(state(lab.model), base), f"line {line} of {lines[-1]}"


@pytest.mark.skipif(OFTEN < 2, reason="takes minutes; SMFT_LAB_INTERRUPTS=10 asks for it")
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_at_any_line_leaves_nothing_in_the_shipped_lab(lab, method, record_property):
    before, base = assembly(lab.model), state(lab.model)
    total = lines_of(lambda: run(lab, method))
    lab.reset()
    lines = range(1, total, int(total / (7 * OFTEN)))
    record_property("tried", len(lines))
    check_interrupted(lab, partial(run, method=method), lines, before, base)


def within(block) -> None:
    with block:
        pass


READING = {
    "observed reads": lambda lab: within(smft.observe_reads(lab.model)),
    "observed loudness": lambda lab: within(observe_loudness(lab.model)),
    "memory left out": lambda lab: within(smft.without_memory(lab.model)),
    "a question": lambda lab: lab.answer([FACTS[0].question], max_new_tokens=1),
    "scores": lambda lab: smft.slot_scores(lab, FACTS[0]),
    "usage": lambda lab: smft.measure_usage(lab.model, [lab.encode(["A boat."])]),
    "inputs of the memory": lambda lab: memory_inputs(lab.model, [lab.encode(["A boat."])]),
    "addresses": lambda lab: measure_addresses(lab, FACTS),
    "loudness": lambda lab: measure_loudness(lab, FACTS[:1]),
    "background": lambda lab: background_reads(lab.model, lab.tokenizer, [[5, 6, 7]]),
    "feed-forwards": lambda lab: feed_forwards(lab.model),
}


@pytest.mark.parametrize("name", READING)
def test_an_interrupt_of_what_reads_the_model_leaves_nothing_that_reset_does_not_bring_back(
    tokenizer, name, record_property
):
    model = add_memory(small("llama"), 1, **MEMORY)
    usage = smft.Usage(20, torch.ones(1, 256, dtype=torch.int32), torch.ones(1, 256))
    lab = smft.Lab(model, tokenizer, usage, form=smft.PromptForm.PLAIN)
    before, base = assembly(lab.model), state(lab.model)
    total = lines_of(lambda: READING[name](lab))
    lines = sorted({*range(1, total, max(1, int(total / (40 * OFTEN)))), *range(max(1, total - 11), total)})
    record_property("tried", len(lines))
    check_interrupted(lab, READING[name], lines, before, base)
    READING[name](lab)
    assert assembly(lab.model) == before


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {"layers": 1}), ("llama", {"layers": [0, 2], "shared": False}), ("opt", {"layers": [0, 2]})],
    ids=["llama", "llama two tables", "opt two layers"],
)
def test_an_interrupt_at_any_line_leaves_a_model_without_a_memory_or_with_a_whole_one(
    family, options, tmp_path, record_property
):
    work = partial(add_memory, **options, **MEMORY)
    plain = small(family)
    base, before = logits(plain), {**vars(plain), "of config": dict(vars(plain.config))}
    whole = assembly(work(small(family)))["modules"].keys()
    total = lines_of(lambda: work(small(family)))
    lines = sorted({*range(1, total, stepping(5)), *range(max(1, total - 160), total + 1)})
    record_property("tried", len(lines))
    model = small(family)
    for line in lines:
        with suppress(KeyboardInterrupt):
            lines_of(partial(work, model), line)
        assert torch.equal(logits(model), base), f"line {line} of {total}"
        if value_tables(model):
            assert "save_pretrained" in vars(model), f"line {line} of {total}"
            assert assembly(model)["modules"].keys() == whole
            torch.nn.init.normal_(value_tables(model)[0].weight)
            model.save_pretrained(tmp_path / "model")
            again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
            assert len(value_tables(again)) == len(value_tables(model)), f"line {line} of {total}"
            assert torch.equal(logits(again), logits(model)), f"line {line} of {total}"
            model = small(family)
        else:
            left = {**vars(model), "of config": dict(vars(model.config))}
            assert left.keys() == before.keys()
            assert left["of config"].keys() == before["of config"].keys()
    work(model)
    assert torch.equal(logits(model), base)
    assert assembly(model)["modules"].keys() == whole


def test_a_hook_does_nothing_once_its_scope_is_gone_though_it_was_never_ended():
    layer, calls = torch.nn.Linear(1, 1), []
    scope = HookScope()
    scope.hook(layer, lambda *_: calls.append(1))
    layer(torch.ones(1))
    del scope
    layer(torch.ones(1))
    assert calls == [1]
    drop_ended(layer)
    assert not layer._forward_hooks


def test_a_hook_goes_though_its_scope_was_interrupted_at_its_end_and_is_kept_by_a_cycle():
    layer = torch.nn.Linear(1, 1)
    scope = HookScope()
    scope.hook(layer, lambda *_: None)
    scope.itself = scope
    drop_ended(layer)
    assert layer._forward_hooks
    del scope
    drop_ended(layer)
    assert not layer._forward_hooks


def test_an_interrupt_within_a_product_leaves_no_setting_of_the_process_that_reset_does_not_bring_back(
    lab, monkeypatch
):
    setting = getattr(torch.backends.mkldnn, "matmul", None)
    if setting is None:
        pytest.skip("this torch has no such setting")
    monkeypatch.setattr("smft_lab.finetuning.engine.products.onednn_is_faster", lambda: True)
    before, factor = setting.fp32_precision, torch.ones(2, 2)
    for line in range(1, lines_of(lambda: fast_product(factor, factor)) + 1):
        with suppress(KeyboardInterrupt):
            lines_of(lambda: fast_product(factor, factor), line)
        lab.reset()
        assert setting.fp32_precision == before


def stepping(stride: int) -> int:
    return 1 if EVERY_LINE else max(1, int(stride / OFTEN))


def compare(lab) -> None:
    for _ in Comparison(lab, FACTS, (Sparse(top_t=20), "lora"), passes=1, evaluations=1, seeds=[0]).steps():
        pass


def in_panel(lab, kind, name: str, **options) -> None:
    panel = kind(lab, *([FACTS] if kind is not Teach else []), runner="inline")
    try:
        getattr(panel, name)(**options)
    finally:
        PANELS.append(panel)


PANELS: list = []  # that the work has made
DOG = {"statements": ["Mira's dog is called Biscuit."], "question": "What is Mira's dog called?", "answer": "Biscuit"}
SHORT = partial(Compare, methods=("sparse", "lora"), passes=1, evaluations=1)
WORK = {  # and lines from one pair of interrupts to the next
    "sparse": (lambda lab: run(lab, "sparse"), 6007),
    "full": (lambda lab: run(lab, "full"), 797),
    "lora": (lambda lab: run(lab, "lora"), 2399),
    "osf": (lambda lab: run(lab, "osf"), 2399),
    "compare": (compare, 14009),
    "panel teach": (lambda lab: in_panel(lab, Teach, "teach", passes=2, **DOG), 5003),
    "panel top t": (lambda lab: in_panel(lab, TopT, "commit", settings={"passes": 1, "top_t": 5}), 12007),
    "panel compare": (lambda lab: in_panel(lab, SHORT, "start"), 18013),
}
SOME_WORK = ("sparse", "full", "lora", "panel teach", "panel top t")  # the others take as long as all these


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", WORK if "SMFT_LAB_INTERRUPTS" in os.environ else SOME_WORK)
def test_two_interrupts_one_while_the_other_takes_down_leave_nothing_that_reset_does_not_bring_back(
    tiny_lab, name, record_property
):
    work, stride = WORK[name]
    lab = tiny_lab()
    before, base = assembly(lab.model), state(lab.model)
    total = lines_of(lambda: work(lab))
    lab.reset()
    tried, broken = 0, []
    RAISED.clear()
    for line in range(1, total, stepping(stride)):
        again = tried * 5 % 17 + 1
        with suppress(KeyboardInterrupt):
            lines_of(partial(work, lab), line, again)
        lab.reset()
        tried += 1
        if assembly(lab.model) != before or not bitwise_equal(state(lab.model), base):
            broken.append((line, again))
            lab = tiny_lab()
        for panel in PANELS:
            panel._command(panel, {"do": "reset"}, [])
            if (panel.error, panel.state) != ("", "idle"):
                broken.append((line, again))
            panel.close()
        PANELS.clear()
    twice = len(RAISED) - tried
    record_property("tried", twice)
    record_property("broke", len(broken))
    assert not broken, f"lines and what came between, of {total}"
    assert twice > tried / 4 > 0
    work(lab)
    for panel in PANELS:
        assert (panel.error, panel.state) == ("", "idle")
        panel.close()
    PANELS.clear()


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_that_is_left_early_leaves_the_model_as_a_finished_run_does(lab, method):
    lab.model.model.embed_tokens.weight.requires_grad_(False)
    before = assembly(lab.model)
    for step in finetune(lab, FACTS, method, passes=2, probe_every=0):
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


def test_a_run_that_renames_weights_within_at_base_costs_nothing_that_was_taught_before(lab):
    run(lab, "sparse")
    taught = state(lab.model)
    with suppress(KeyboardInterrupt), lab.at_base():
        steps = finetune(lab, FACTS, "lora", passes=1, probe_every=0)
        next(steps), next(steps)
        raise KeyboardInterrupt
    assert bitwise_equal(state(lab.model), taught)
    lab.reset()


def test_a_model_with_other_names_than_its_lab_is_not_saved(lab, tmp_path):
    lab.model.add_module("stranger", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"can't be rebuilt from its config: stranger\.bias is"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_a_reading_call_during_training_waits_for_the_end_of_a_step(lab, record_property):
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
        lab.answer([FACTS[0].question], max_new_tokens=2)
        assert len(smft.slot_scores(lab, FACTS[0]))
        core_set(lab, FACTS[0])
        lab.probes["old_facts"].measure(lab.model, lab.tokenizer)
        calls += 1
    worker.join()
    record_property("tried", 4 * calls)
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
