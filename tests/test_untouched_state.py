"""Whatever is called, all that isn't what it is for is as before: of the process, the model, the tokenizer, the lab."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import peft  # noqa: F401
import pytest
import torch
import transformers
from test_attach import MEMORY, lab_of, small
from test_closed_panels import KINDS
from test_retrofit import KNOWN, RECIPE
from test_special_tokens import other as copy_of

import smft_lab as smft
import smft_lab.charts.report  # with whatever it imports, that has warnings filters of its own
import smft_lab.widgets
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.baselines import average_with_base, fisher
from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.model.fitting import memory_inputs
from smft_lab.model.hooks import HOOKS
from smft_lab.model.memory import ProductKeys, ValueTable, observe_reads
from smft_lab.model.tokenizer import encode
from smft_lab.probes.probes import TextProbe
from smft_lab.probes.prompts import PLAIN
from smft_lab.slots.addresses import measure_loudness
from smft_lab.slots.usage import measure_usage
from smft_lab.training.memory_training import new_model
from smft_lab.writing import alone

FACTS = new_facts(2, seed=5)
TEXTS = ("A boat is at the pier.", "Two boats are here.")
OPTIONS = {"passes": 1, "lr": 1e-3, "probe_every": 0}


def of_process() -> dict:
    """All that torch, transformers, Python and numpy keep for the whole process and a person may have set."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return {
        "torch's random numbers": torch.get_rng_state().tolist(),
        "Python's random numbers": random.getstate(),
        "numpy's random numbers": [str(part) for part in np.random.get_state()],
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "products": (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            None if matmul is None else matmul.fp32_precision,
        ),
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "warnings": [
            entry for entry in warnings.filters if "plotly" not in str(entry[1])
        ],  # it adds one where it is used first
        "environment": dict(os.environ),
        "transformers": (
            transformers.logging.get_verbosity(),
            transformers.utils.logging.is_progress_bar_enabled(),
        ),
        "logging": {
            name: (logger.level, logger.disabled, logger.propagate, list(logger.handlers))
            for name in ("", "transformers", "peft", "huggingface_hub", "torch", "accelerate")
            for logger in [logging.getLogger(name)]
        },
        "logging at all": logging.root.manager.disable,
        "pandas": {
            name: pd.get_option(name) for name in ("display.max_rows", "mode.copy_on_write", "display.precision")
        },
        "python": (
            os.getcwd(),
            sys.getrecursionlimit(),
            gc.isenabled(),
            sys.excepthook,
            locale.setlocale(locale.LC_ALL),
        ),
        "signals": signal.getsignal(signal.SIGINT),
        "trace": (sys.gettrace(), threading.gettrace()),
    }


def of_model(model) -> dict:
    """How it is put together and set up, without the numbers of its weights."""
    modules = dict(model.named_modules(remove_duplicate=False))
    own = {"_parameters", "_buffers", "_modules", "training", *HOOKS}
    return {
        "modules": {name: id(module) for name, module in modules.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "attributes": {name: sorted(set(vars(module)) - own) for name, module in modules.items()},
        "forward": {name: vars(module).get("forward") for name, module in modules.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "memory": [
            vars(m).get("hits", vars(m).get("known"))
            for m in modules.values()
            if isinstance(m, ProductKeys | ValueTable)
        ],
        "hooks": {name: [dict(vars(module)[hooks]) for hooks in HOOKS] for name, module in modules.items()},
        "parameters": {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)},
        "buffers": {name: (id(buffer), buffer.dtype) for name, buffer in model.named_buffers(remove_duplicate=False)},
        "trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "gradients": {name: None if p.grad is None else id(p.grad) for name, p in model.named_parameters()},
        "hooks of tensors": {
            name: (len(p._backward_hooks or ()), len(getattr(p, "_post_accumulate_grad_hooks", None) or ()))
            for name, p in model.named_parameters()
        },
        "generation": (id(model.generation_config), model.generation_config.to_dict()),
        "config": (id(model.config), model.config.to_dict(), model.config._attn_implementation),
    }


def of_tokenizer(tokenizer) -> dict:
    backend = tokenizer.backend_tokenizer
    return {
        "settings": {
            name: value
            for name, value in vars(tokenizer).items()
            if name not in ("_tokenizer", "deprecation_warnings", "added_tokens_encoder")
        }.__repr__(),
        "sides": (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length),
        "special": tokenizer.special_tokens_map,
        "backend": backend.to_str(),
        "template": tokenizer.chat_template,
        "clean up": tokenizer.clean_up_tokenization_spaces,
        "size": len(tokenizer),
    }


def of_lab(lab) -> dict:
    """What a person put into a lab."""
    return {
        "defaults": repr(lab.defaults),
        "usage": (lab.usage.batches, lab.usage.df.tolist(), lab.usage.count.tolist()),
        "probes": repr(list(lab.probes)),
        "recipe": lab.recipe,
        "form": lab.form,
        "documents": lab.documents,
        "parts": (id(lab.model), id(lab.tokenizer), id(lab.usage), id(lab.probes)),
        "folder": lab.folder,
    }


def changes(before: dict, after: dict) -> dict:
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


@pytest.fixture(scope="module")
def words(corpus):
    return " ".join(corpus.texts(Random(0), 300))


@pytest.fixture(scope="module")
def made(tokenizer, corpus):
    """A lab with everything set as a person may have set it, and which nothing here is to change."""
    model = add_memory(small("llama"), 1, **MEMORY)
    own = other(tokenizer)
    usage = measure_usage(model, [encode(own, corpus.texts(Random(1), 4)) for _ in range(10)])
    documents = [own(text)["input_ids"] for text in corpus.texts(Random(2), 8)]
    probes = smft.Probes([TextProbe("prose", TEXTS, whole=False)])
    lab = smft.Lab(model, own, usage, probes, form=PLAIN, recipe=RECIPE, documents=documents)
    model.model.layers[0].requires_grad_(False)
    model.generation_config.update(do_sample=True, temperature=0.7, num_beams=2, max_length=9, min_new_tokens=1)
    model.config.use_cache = False
    return lab


def other(tokenizer):
    made = copy_of(tokenizer, padding_side="left", truncation_side="left", model_max_length=10)
    made.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return made


@pytest.fixture
def lab(made):
    """The same, as it was at first, with a person's own hook and modes."""
    made.reset()
    made.model.train()
    made.model.model.layers[0].eval()
    hook = made.model.model.layers[0].register_forward_hook(lambda *_: None)
    yield made
    hook.remove()
    made.model.eval()
    made.reset()


def drained(steps) -> None:
    for _ in steps:
        pass


def broken_out_of(lab, method):
    for step in smft.finetune(lab, FACTS, method, **OPTIONS):
        if step.step == 1:
            break


def closed(lab, method):
    run = smft.finetune(lab, FACTS, method, **OPTIONS)
    next(run), next(run)
    run.close()


def failing(lab, method):
    run = smft.finetune(lab, FACTS, method, **OPTIONS)
    next(run), next(run)
    with suppress(KeyError):
        run.throw(KeyError("half-way"))


def never_begun(lab, method):
    smft.finetune(lab, FACTS, method, **OPTIONS)


def diverged(lab, method):
    with suppress(ValueError):
        drained(smft.finetune(lab, FACTS * 3, method, **{**OPTIONS, "lr": 1e38, "passes": 4, "probe_every": 1}))


def with_a_failing_probe(lab, method):
    class Failing(TextProbe):
        def measure(self, model, tokenizer):
            raise KeyError("in a probe")

    before = lab.probes
    lab.probes = smft.Probes([Failing("prose", TEXTS)])
    try:
        with suppress(KeyError):
            drained(smft.finetune(lab, FACTS, method, **OPTIONS | {"probe_every": 1}))
    finally:
        lab.probes = before


@pytest.mark.parametrize("fast", [True, False])
def test_between_two_steps_a_callers_own_gradients_are_those_of_a_plain_model(fast, tiny_lab):
    lab, other = tiny_lab(), tiny_lab()
    run = smft.finetune(lab, FACTS, "sparse", **OPTIONS, fast=fast)
    next(run), next(run)
    ids = torch.arange(3, 63).view(3, 20)
    lab.model(input_ids=ids, labels=ids).loss.backward()
    gradient = smft.value_tables(lab.model)[0].weight.grad
    other.model.load_state_dict(lab.model.state_dict())
    other.model(input_ids=ids, labels=ids).loss.backward()
    assert torch.equal(gradient, smft.value_tables(other.model)[0].weight.grad)
    undisturbed = [step.loss for step in smft.finetune(tiny_lab(), FACTS, "sparse", **OPTIONS, fast=fast)]
    assert [step.loss for step in run] == undisturbed[2:]


@pytest.mark.parametrize("method", ["lora", "osf"])
def test_adapters_leave_no_hook_where_activations_are_computed_again(method, tiny_lab):
    lab = tiny_lab()
    lab.model.gradient_checkpointing_enable()
    hooks = lab.model.get_input_embeddings()._forward_hooks
    before = [*hooks]
    smft.run(lab, FACTS, method, **OPTIONS)
    assert [*hooks] == before


ENDS = {
    "finished": lambda lab, method: drained(smft.finetune(lab, FACTS, method, **OPTIONS | {"probe_every": 1})),
    "run": lambda lab, method: smft.run(lab, FACTS, method, **OPTIONS),
    "plain": lambda lab, method: smft.run(lab, FACTS, method, fast=False, **OPTIONS),
    "broken out of": broken_out_of,
    "closed": closed,
    "failing": failing,
    "never begun": never_begun,
    "diverged": diverged,
    "with a failing probe": with_a_failing_probe,
}


def in_sparse_mode(lab):
    with smft.sparse_mode(lab, top_t=7):
        rows = smft.RowOptimizer(lab, lr=0.1)
        lab.model(**lab.encode(TEXTS)).loss.backward()
        lab.answer(["Who?"])
        rows.step()


def in_failing_sparse_mode(lab):
    with suppress(KeyError), smft.sparse_mode(lab, top_t=7):
        lab.model(**lab.encode(TEXTS)).loss.backward()
        raise KeyError


def with_patches(lab, folder):
    patch = smft.run(lab, FACTS[:1], "sparse", **OPTIONS).patch
    lab.reset()
    second = smft.run(lab, FACTS[1:], "sparse", **OPTIONS).patch
    lab.reset()
    patch.save(folder / "one.safetensors")
    patch = smft.Patch.load(folder / "one.safetensors")
    patch.apply(lab)
    smft.row_changes(lab)
    with lab.at_base():
        pass
    patch.revert(lab)
    smft.conflicts([patch, second]), smft.diff(patch, second)
    smft.combine([patch, second], on_conflict="last", lab=lab).apply(lab)
    lab.reset()
    smft.hold(lab, [patch, second], on_conflict="mean")


def refused(call, *args, **options):
    with suppress(ValueError):
        call(*args, **options)
        pytest.fail("it was not refused")


def reported(lab, folder):
    comparison = smft.compare(lab, FACTS, ("sparse", "full"), seeds=1, passes=1, evaluations=1)
    comparison.to_html(folder / "report.html")
    comparison.chart()


WORKS = {
    "answers": lambda lab, _: [
        lab.answer(["Who?", "What is it?"], form=form)
        for form in (PLAIN, smft.PromptForm.BUILT_IN, smft.PromptForm.CHAT)
    ],
    "recalled": lambda lab, _: [lab.recalled(["Who?"], ["Mira"])],
    "encode": lambda lab, _: lab.encode(TEXTS),
    "probes": lambda lab, _: (
        lab.probes.measure(lab.model, lab.tokenizer),
        [p.measure(lab.model, lab.tokenizer) for p in smft.learned_probes(FACTS, PLAIN)],
    ),
    "a text probe": lambda lab, _: lab.probes["prose"].measure(lab.model, lab.tokenizer),
    "windows": lambda lab, _: smft.text_windows("A boat is here. " * 40, lab.tokenizer, window=8).measure(
        lab.model, lab.tokenizer
    ),
    "choices": lambda lab, _: smft.ChoiceProbe("c", ("The capital is",), ((" Paris", " Rome"),), (0,)).measure(
        lab.model, lab.tokenizer
    ),
    "known": lambda lab, _: drained(smft.KnownSearch(lab.model, lab.tokenizer, KNOWN)),
    "token reads": lambda lab, _: smft.token_reads(lab, TEXTS[0]),
    "core set": lambda lab, _: smft.core_set(lab, FACTS[0]),
    "scores": lambda lab, _: smft.slot_scores(lab, FACTS),
    "coverage": lambda lab, _: smft.coverage(lab, smft.fact_counts(lab, FACTS)),
    "usage": lambda lab, _: smft.measure_usage(lab.model, [lab.encode(TEXTS)]),
    "addresses": lambda lab, _: smft.measure_addresses(lab, FACTS),
    "loudness": lambda lab, _: measure_loudness(lab, FACTS),
    "background": lambda lab, _: lab.background_reads(),
    "inputs": lambda lab, _: memory_inputs(lab.model, [lab.encode(TEXTS)]),
    "observed": lambda lab, _: next(iter(_observed(lab))),
    "without memory": lambda lab, _: _without(lab),
    "fisher": lambda lab, _: fisher(lab, TEXTS),
    "averaged": lambda lab, _: average_with_base(lab, 0.5),
    "reset": lambda lab, _: lab.reset(),
    "saved": lambda lab, folder: (lab.save(folder / "lab"), load(folder / "lab")),
    "a save that fails": lambda lab, folder: (
        (folder / "file").write_text(""),
        _oserror(lab.save, folder / "file" / "lab"),
    ),
    "patches": with_patches,
    "sparse mode": lambda lab, _: in_sparse_mode(lab),
    "failing sparse mode": lambda lab, _: in_failing_sparse_mode(lab),
    "a comparison": reported,
    "facts": lambda lab, _: (smft.new_facts(3), smft.changed_facts(2), smft.World(1)),
    "refusals": lambda lab, _: (
        refused(smft.finetune, lab, []),
        refused(smft.finetune, lab, FACTS, "no"),
        refused(smft.add_memory, lab.model, 0, 256),
        refused(smft.finetune, lab, FACTS, top_t=0),
        refused(lab.answer, ["Who " * 400]),
    ),
    "a new model": lambda lab, _: new_model("A boat is a boat. " * 100),
}


def _observed(lab):
    with observe_reads(lab.model) as reads:
        lab.model(**lab.encode(TEXTS))
        yield reads


def _without(lab):
    with smft.without_memory(lab.model):
        lab.model(**lab.encode(TEXTS))


def _oserror(call, *args):
    with pytest.raises((OSError, ValueError)):
        call(*args)


def snapshot(lab) -> dict:
    return {
        "process": of_process(),
        "model": of_model(lab.model),
        "tokenizer": of_tokenizer(lab.tokenizer),
        "lab": of_lab(lab),
    }


def assert_untouched(lab, work: Callable) -> None:
    before = snapshot(lab)
    work()
    gc.collect()
    after = snapshot(lab)
    found = {
        f"{kind}: {name}": change for kind in before for name, change in changes(before[kind], after[kind]).items()
    }
    assert found == {}


@pytest.mark.parametrize(
    ("method", "end"),
    [*((method, end) for method in ("sparse", "full", "lora") for end in ENDS), ("replay", "run"), ("osf", "run")],
)
def test_a_finetune_leaves_all_but_the_weights_as_it_was(lab, method, end):
    assert_untouched(lab, lambda: ENDS[end](lab, method))


@pytest.mark.parametrize("name", WORKS)
def test_what_is_called_leaves_all_else_as_it_was(lab, name, tmp_path):
    assert_untouched(lab, lambda: WORKS[name](lab, tmp_path))


@pytest.mark.parametrize("kind", ["addresses", "slots", "compare", "teach, left early", "top t, left early"])
def test_a_panel_that_was_opened_used_and_closed_leaves_all_as_it_was(lab, kind):
    def work():
        KINDS[kind](lab).close()
        lab.reset()

    assert_untouched(lab, work)


@pytest.mark.parametrize("method", ["sparse", "full", "lora", "osf"])
def test_between_two_steps_the_process_is_as_it_was(lab, method):
    before = of_process()
    for _ in smft.finetune(lab, FACTS, method, **OPTIONS):
        assert changes(before, of_process()) == {}


@contextmanager
def as_a_person_has_it(setting: str) -> Iterator[None]:
    dtype = torch.get_default_dtype()
    try:
        if setting == "deterministic":
            torch.use_deterministic_algorithms(True)
        else:
            torch.set_default_dtype(getattr(torch, setting))
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(dtype)


def test_opening_a_model_with_a_memory_draws_no_random_numbers(lab, tmp_path):
    lab.model.save_pretrained(tmp_path)
    before = of_process()
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert changes(before, of_process()) == {}


@pytest.mark.parametrize("setting", ["float64", "bfloat16", "deterministic"])
@pytest.mark.parametrize("method", ["sparse", "lora"])
def test_what_is_learned_does_not_depend_on_how_the_process_is_set(lab, method, setting):
    expected = [step.loss for step in smft.finetune(lab, FACTS, method, **OPTIONS)]
    lab.reset()
    with as_a_person_has_it(setting):
        assert [step.loss for step in smft.finetune(lab, FACTS, method, **OPTIONS)] == expected


@pytest.mark.parametrize("setting", ["float64", "bfloat16"])
def test_a_new_memory_does_not_depend_on_how_the_process_is_set(setting):
    expected, model = add_memory(small("llama"), 1, **MEMORY).state_dict(), small("llama")
    with as_a_person_has_it(setting):
        made = add_memory(model, 1, **MEMORY).state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in expected.items())


def test_weights_are_drawn_without_seeding_other_devices(lab, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("the GPUs were seeded"))
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1))
    add_memory(model, 0, **MEMORY)
    drained(smft.finetune(lab, FACTS, "lora", **OPTIONS))


SETTINGS = {"steps": 3, "batch_size": 2, "window": 16, "warmup": 1, "checkpoint_every": 1}


@pytest.fixture
def windows(tokenizer, words):
    return smft.TextWindows(words, tokenizer, 16)


@pytest.fixture
def frozen_in_part():
    """A model that somebody trains, but for a block."""
    model = add_memory(small("llama"), 1, **MEMORY).train()
    model.model.layers[0].eval().requires_grad_(False)
    return model


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("end", ["finished", "left early", "refused"])
def test_the_training_of_a_memory_leaves_modes_and_what_is_frozen_as_they_were(
    frozen_in_part, windows, tmp_path, everything, end
):
    model, settings = frozen_in_part, smft.MemoryTraining(everything=everything, **SETTINGS)
    expected = {name: of_model(model)[name] for name in ("modes", "trained", "hooks", "gradients")}
    for _ in smft.pretrain_memory(model, windows, settings, tmp_path):
        if end != "finished":
            break
    if end == "refused":
        with pytest.raises(ValueError, match="other settings"):
            next(smft.pretrain_memory(model, windows, replace(settings, seed=1), tmp_path))
        with alone(tmp_path):
            pass
    assert {name: of_model(model)[name] for name in expected} == expected


def test_gradients_that_other_training_left_do_not_go_into_a_memory(windows):
    weights = []
    for leftover in (None, 100.0):
        model = add_memory(small("llama"), 1, **MEMORY)
        for parameter in model.parameters() if leftover else ():
            parameter.grad = torch.full_like(parameter, leftover)
        drained(smft.pretrain_memory(model, windows, smft.MemoryTraining(everything=True, **SETTINGS)))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


def test_fisher_leaves_the_gradients_that_were_there(lab):
    weight = lab.model.model.norm.weight
    weight.grad = torch.ones_like(weight)
    before = weight.grad
    fisher(lab, TEXTS)
    assert weight.grad is before
    assert torch.equal(before, torch.ones_like(weight))
    weight.grad = None


@pytest.mark.parametrize("values", [{"temperature": 0.5}, {"top_p": 0.9}, {"early_stopping": True}])
def test_a_lab_is_saved_with_the_generation_config_that_its_model_came_with(tokenizer, corpus, tmp_path, values):
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    lab.model.generation_config.update(**values)
    lab.save(tmp_path / "lab")
    again = load(tmp_path / "lab").model.generation_config
    assert {name: getattr(again, name) for name in values} == values
