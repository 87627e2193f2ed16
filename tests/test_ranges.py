"""A setting that is no number in its range is refused, by name, wherever one is given."""

from dataclasses import fields

import pytest

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.baselines import WeightPenalty
from smft_lab.finetuning.methods import METHODS
from smft_lab.recipe import Recipe
from smft_lab.training.pretrain import PretrainSettings

NO_NUMBERS = (float("nan"), float("inf"), "0.1")
GIVEN = {
    **{f"lr of {key}": (lambda value, kind=kind: kind(lr=value), "lr") for key, kind in METHODS.items()},
    **{
        f"{field.name} of a recipe": (lambda value, name=field.name: Recipe(**{name: value}), field.name)
        for field in fields(Recipe)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    },
    "protect": (lambda value: smft.Sparse(protect=value), "protect"),
    "rank": (lambda value: smft.Lora(rank=value), "rank"),
    "count": (lambda value: smft.Replay(count=value), "count"),
    "strength": (lambda value: WeightPenalty(value), "strength"),
    "lr of a memory": (lambda value: smft.MemoryTraining(lr=value).check(), "lr"),
    "value_lr of a memory": (lambda value: smft.MemoryTraining(value_lr=value).check(), "value_lr"),
    "lr of a model": (lambda value: PretrainSettings(lr=value), "lr"),
    "steps of a model": (lambda value: PretrainSettings(steps=value), "steps"),
}


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", GIVEN)
def test_what_is_no_finite_number_is_refused_by_name(name, value):
    make, named = GIVEN[name]
    with pytest.raises(ValueError, match=named):
        make(value)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_run_of_a_rate_that_is_none_does_not_begin(lab, value):
    for options in ({"lr": value}, {"method": "full", "lr": value}, {"top_t": value}, {"passes": value}):
        with pytest.raises(ValueError, match=r"lr|top-t|passes"):
            smft.finetune(lab, new_facts(1), **options)
    with pytest.raises(ValueError, match="lr"):
        smft.RowOptimizer(lab, lr=value)
