"""A setting that is no number in its range is refused, by name, wherever one is given."""

import json
from dataclasses import fields

import numpy as np
import pytest

import smft_lab as smft
from smft_lab.experiments.compare import Comparison
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.baselines import WeightPenalty
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import METHODS
from smft_lab.ranges import seeds_of
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


@pytest.mark.parametrize("seed", [float("nan"), 1.5, "x", None, 2**70, True, np.float64(1)])
def test_a_seed_is_a_number_that_every_generator_takes(seed, lab):
    facts = new_facts(1)
    with pytest.raises(ValueError, match="a seed must be a whole number"):
        next(finetune(lab, facts, passes=1, seed=seed))
    with pytest.raises(ValueError, match="a seed must be a whole number"):
        Comparison(lab, facts, "sparse", seeds=[seed], passes=1)


def test_seeds_are_named_or_counted_from_zero():
    assert seeds_of(3) == seeds_of(np.int64(3)) == seeds_of(range(3)) == seeds_of(iter([0, 1, 2])) == (0, 1, 2)
    assert [type(seed) for seed in seeds_of(np.arange(2))] == [int, int]
    for none, said in ((0, "at least 1"), (-1, "at least 1"), (True, "whole"), ((), "at least one"), ((1, 1), "twice")):
        with pytest.raises(ValueError, match=said):
            seeds_of(none)


def test_whole_numbers_of_numpy_are_taken_for_pythons(lab, tmp_path):
    facts, one = new_facts(np.int64(1)), np.int64(1)
    lab.reset()
    run = smft.run(lab, facts, top_t=np.int64(20), lr=np.float32(0.05), passes=one, seed=one, probe_every=one)
    run.patch.save(tmp_path / "patch.safetensors")
    assert smft.Patch.load(tmp_path / "patch.safetensors").about == run.patch.about
    lab.reset()
    comparison = smft.compare(lab, facts, ["sparse"], seeds=np.arange(1), passes=one, evaluations=one)
    comparison.save(tmp_path / "results")
    assert json.loads((tmp_path / "results" / "summary.json").read_text())["settings"]["passes"] == 1
    assert smft.compare(lab, facts, ["sparse"], seeds=one, passes=one, evaluations=one).seeds == (0,)
    lab.reset()


def test_a_number_with_a_point_is_no_count(lab):
    for give in (lambda: new_facts(2.0), lambda: finetune(lab, new_facts(1), passes=2.0), lambda: Recipe(top_t=2.0)):
        with pytest.raises(ValueError, match=r"must be a whole number, not 2\.0"):
            give()


@pytest.mark.parametrize("number", [float("nan"), 0.5, 1.0, True])
def test_how_often_is_measured_is_a_whole_number(number, lab):
    facts = new_facts(1)
    with pytest.raises(ValueError, match="probe_every must be"):
        next(finetune(lab, facts, passes=1, probe_every=number))
    with pytest.raises(ValueError, match="evaluations must be"):
        Comparison(lab, facts, "sparse", seeds=[0], passes=1, evaluations=number)
    with pytest.raises(ValueError, match="keywords must be"):
        Recipe(keywords=number)
