"""How a batch is run fast in a model, proven on a few texts of the first such batch to be like the plain way."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from smft_lab.finetuning.engine.frozen_layers import Batch, Engine, replaced
from smft_lab.finetuning.engine.likeness import check_alike, check_alike_if_rounded, loss_and_gradients
from smft_lab.finetuning.engine.masks import is_plain_causal, takes_trees
from smft_lab.finetuning.engine.packing import LEAST_SAVED, Form, as_rows, as_trees
from smft_lab.finetuning.engine.products import RoundedWeights, fast_linears
from smft_lab.model.modes import configs_of
from smft_lab.slots.selection import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROVEN: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()
PLAIN = (bool, int, float, str, type(None))
PROOF = 4  # texts on which a way of running a model is compared with the plain way


def form_of(model: PreTrainedModel, batch: Batch, chosen: bool = False, rounded: RoundedWeights | None = None) -> Form:
    """How to run a batch: as trees, where that saves something and texts that share a row come out as they do alone.

    Args:
        chosen: Whether the slots that may change are chosen already. Trees save something then even where the texts
            have nothing in common: what can't change, or isn't needed, is left out (see `live`).
        rounded: What it is found out with, if not with the model's own weights: which gradients are 0 stays the same.
    """
    if batch.frozen is not None:
        return batch.frozen.form
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    packed = None
    if window is None or ids.shape[1] <= window:
        packed = as_trees(batch.inputs, batch.counted, model.dtype, least_saved=-1.0 if chosen else LEAST_SAVED)
    if packed is not None:
        row, made, size = mask.sum(1).argmax(), _made_of(model), packed.inputs["input_ids"].shape[1]
        longest, rounds = ids[row][mask[row].bool()].tolist(), rounded is not None
        with replaced(fast_linears(model, rounded)):
            if not (is_plain_causal(model, longest, made, rounds) and takes_trees(model, longest, size, made, rounds)):
                packed = None
    return packed or as_rows(batch.inputs, batch.counted)


def engine_of(
    model: PreTrainedModel,
    batch: Batch,
    form: Form,
    selection: Selection | None = None,
    rounded: RoundedWeights | None = None,
) -> Engine | None:
    """An `Engine` of `model`, if it gives the same loss and gradients as the whole model does on texts of `batch`.

    It is first tried with the model's own weights, and then with `rounded` ones, if given: where these give much the
    same (`check_alike_if_rounded`), they are the ones it uses.

    Where every backward pass selects other rows (the rule `random`), only the losses are compared.
    Where they differ, or no `Engine` can be made, it warns and returns None: the plain way is then the one to take.
    What was found to agree is not tried again while the model is made in the same way.
    """
    grouped = selection is not None and selection.chosen is not None
    proven, made = _PROVEN.setdefault(model, {}), (form.packed, form.branches, grouped, _made_of(model))
    if made in proven:
        fused, trees, may_round = proven[made]
        return Engine(model, selection, fused, trees, rounded if may_round else None)
    whole = batch
    batch, form = few_texts(model, whole, form)
    if selection is not None:
        selection.count_at(batch.counted)
        selection.remember_in(batch.memo)
    plain = loss_and_gradients(model, model(**batch.inputs).loss)
    if selection is not None and selection.rule == "random":
        plain = plain[:1]
    engine = None
    if plain[0].isfinite():  # a loss that isn't says nothing of the model, and ends the training
        engine = _engine_alike(plain, model, batch, form, selection, rounded)
    if engine is not None:
        proven[made] = engine.fused, engine.trees, engine.rounded is not None
    elif selection is not None:
        selection.count_at(whole.counted)
        selection.remember_in(whole.memo)
    return engine


def _engine_alike(
    plain: list[Tensor],
    model: PreTrainedModel,
    batch: Batch,
    form: Form,
    selection: Selection | None,
    rounded: RoundedWeights | None,
) -> Engine | None:
    """The first engine that gives the loss and gradients of the whole model, `plain`; warns where none does."""
    problem = None
    for trees, fused in product((True, False) if form.packed else (False,), (True, False)):
        batch.memo.clear()  # what was kept there belongs to the batch in another form
        try:
            engine = Engine(model, selection, fused, trees)
            for _ in range(2):  # twice: a model that changes what it was given in place would show the second time
                check_alike(plain, loss_and_gradients(model, engine.loss(batch, form)))
            return engine if rounded is None else _rounded(engine, rounded, batch, form, plain) or engine
        except Exception as raised:  # whatever a foreign architecture does, training goes on without
            problem, batch.frozen, batch.live = raised, None, None
    name = type(model).__name__
    warnings.warn(f"{name} is trained without the cache of frozen layers, more slowly: {problem}", stacklevel=3)
    return None


def _rounded(engine: Engine, weights: RoundedWeights, batch: Batch, form: Form, exact: list[Tensor]) -> Engine | None:
    """The same engine with rounded weights, where they give much the same."""
    model = engine.model
    tried = Engine(model, engine.selection, engine.fused, engine.trees, weights)
    try:
        check_alike_if_rounded(exact, loss_and_gradients(model, tried.loss(batch, form)))
        return tried
    except ValueError:
        return None
    finally:
        batch.live = None


def few_texts(model: PreTrainedModel, batch: Batch, form: Form) -> tuple[Batch, Form]:
    """The longest text of a batch and its neighbours in the order of a dictionary, run in the form of the whole.

    It is the whole where these few would be run in another form, or have nothing to learn.
    """
    lengths, texts = batch.inputs["attention_mask"].sum(1), batch.inputs["input_ids"].tolist()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    first = min(max(0, order.index(int(lengths.argmax())) - PROOF // 2), max(0, len(order) - PROOF))
    rows, T = order[first : first + PROOF], int(lengths.max())
    few = Batch({name: x[rows, :T] for name, x in batch.inputs.items()}, batch.counted[rows, :T], batch.owner)
    learns = bool((few.inputs["labels"][:, 1:] != -100).any())
    if not form.packed:
        few_form = as_rows(few.inputs, few.counted)
    else:
        trees = min(2, len(form.inputs["input_ids"]))
        few_form = as_trees(few.inputs, few.counted, model.dtype, least=trees, least_saved=-1.0)  # if it saves or not
    if few_form is None or few_form.branches != form.branches or not learns:
        return replace(batch, memo={}, frozen=None, live=None), form
    return few, few_form


def config_of(model: nn.Module) -> int:
    """The settings of the configs of a model and of its parts, as one number."""
    return hash(tuple(map(_settings, configs_of(model))))


def _made_of(model: PreTrainedModel) -> int:
    """What a model computes depends on, but for its weights, as one number."""
    autocast = torch.is_autocast_enabled(model.device.type)
    return hash((model.dtype, autocast, config_of(model), *map(_made, model.modules())))


def _made(module: nn.Module) -> tuple:
    """What a module computes depends on, but for its weights: a window can be set in it after it was made, too."""
    hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
    return type(module), hooks, module.__dict__.get("forward"), _settings(module)


def _settings(of: object) -> tuple:
    """The attributes of a config or of a module that are plain values."""
    return tuple(
        (name, value if isinstance(value, PLAIN) else repr(value))
        for name, value in vars(of).items()
        if isinstance(value, PLAIN) or (isinstance(value, list | tuple | dict) and not isinstance(of, nn.Module))
    )
