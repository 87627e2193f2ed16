"""Forgetting at equal learning, by hand-computed numbers; and the learning rate that a sweep picks."""

import pandas as pd
import pytest
from scipy import stats

from smft_lab.experiments.compare import COLUMNS
from smft_lab.experiments.equal import READING, mean_interval, read_last, read_run, summarise
from smft_lab.experiments.tune import best_settings
from smft_lab.finetuning.methods import METHODS


def run_of(learned: list[float], old_facts=None, prose=None, every: int = 10) -> pd.DataFrame:
    """One run's table, measured at steps 0, `every`, 2 `every`, ..."""
    rows = []
    for i, value in enumerate(learned):
        rows.append((i * every, "learned", "em", value))
        rows.append((i * every, "old_facts", "em", old_facts[i] if old_facts else 0.9))
        rows.append((i * every, "prose", "nll", prose[i] if prose else 2.0))
    return pd.DataFrame(rows, columns=["step", "probe", "metric", "value"])


def table_of(**runs: pd.DataFrame) -> pd.DataFrame:
    """A comparison's table; a run's name is method_seed."""
    parts = []
    for name, run in runs.items():
        method, seed = name.split("_")
        parts.append(run.assign(method=method, seed=int(seed)))
    return pd.concat(parts)[COLUMNS]


# Reading one run --------------------------------------------------------------------------------------


def test_a_run_is_read_where_the_line_between_two_measurements_crosses_the_target():
    run = run_of([0.0, 0.6, 1.0, 1.0], old_facts=[0.9, 0.8, 0.4, 0.1], prose=[2.0, 2.5, 3.5, 9.0])
    reached, values = read_run(run, target=0.9)  # three quarters of the way from step 10 to step 20
    assert reached
    assert values["learned", "em"] == pytest.approx(0.9)
    assert values["old_facts", "em"] == pytest.approx(0.5)
    assert values["prose", "nll"] == pytest.approx(3.25)
    assert values["steps", ""] == pytest.approx(17.5)


def test_the_first_crossing_counts_even_where_learning_falls_again():
    run = run_of([0.0, 0.8, 0.4, 1.0], old_facts=[0.9, 0.7, 0.6, 0.5])
    reached, values = read_run(run, target=0.6)
    assert reached
    assert values["steps", ""] == pytest.approx(7.5)
    assert values["old_facts", "em"] == pytest.approx(0.75)


def test_a_measurement_right_at_the_target_is_read_as_it_is():
    reached, values = read_run(run_of([0.0, 0.5, 0.95, 1.0], old_facts=[0.9, 0.8, 0.7, 0.6]))
    assert reached
    assert (values["steps", ""], values["old_facts", "em"]) == (pytest.approx(20), pytest.approx(0.7))


def test_a_target_reached_before_any_step_reads_the_base():
    reached, values = read_run(run_of([1.0, 0.2, 0.4], old_facts=[0.9, 0.8, 0.7]), target=0.95)
    assert reached
    assert (values["steps", ""], values["learned", "em"], values["old_facts", "em"]) == (0, 1.0, 0.9)


def test_a_run_that_never_gets_there_is_read_at_its_best_and_says_so():
    reached, values = read_run(run_of([0.0, 0.3, 0.7, 0.5], old_facts=[0.9, 0.8, 0.6, 0.4]), target=0.95)
    assert not reached
    assert (values["steps", ""], values["learned", "em"], values["old_facts", "em"]) == (20, 0.7, 0.6)


def test_a_run_that_learns_nothing_is_read_at_the_base():
    reached, values = read_run(run_of([0.0, 0.0], old_facts=[0.9, 0.1]))
    assert not reached
    assert (values["steps", ""], values["old_facts", "em"]) == (0, 0.9)


def test_the_order_of_the_rows_makes_no_difference():
    run = run_of([0.0, 0.6, 1.0], old_facts=[0.9, 0.8, 0.4])
    shuffled = run.sample(frac=1, random_state=1)
    assert read_run(shuffled, 0.9)[1].to_dict() == read_run(run, 0.9)[1].to_dict()


def test_the_last_measurement_is_read_whatever_was_learned():
    reached, values = read_last(run_of([0.0, 1.0, 0.2], old_facts=[0.9, 0.8, 0.3]))
    assert reached
    assert (values["steps", ""], values["learned", "em"], values["old_facts", "em"]) == (20, 0.2, 0.3)


def test_the_stated_rule_names_the_target():
    assert "first reaches 95%" in READING.format(target=0.95)


# Over seeds -------------------------------------------------------------------------------------------


def test_the_interval_is_students_t():
    values = pd.Series([0.70, 0.74, 0.81])
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(0.75)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values)))
    assert (low, high) == pytest.approx((0.75 - 4.302653 * 0.0321455, 0.75 + 4.302653 * 0.0321455), abs=1e-6)


def test_one_seed_has_no_interval():
    assert mean_interval(pd.Series([0.7])) == (0.7, None, None)


def test_equal_seeds_have_an_interval_of_no_width():
    assert mean_interval(pd.Series([0.5, 0.5])) == pytest.approx((0.5, 0.5, 0.5))


def by_probe(rows: list[dict], method: str) -> dict:
    return {(row["probe"], row["metric"]): row for row in rows if row["method"] == method}


def test_a_drop_is_positive_where_things_got_worse_for_em_and_for_nll():
    worse = run_of([0.0, 1.0], old_facts=[0.9, 0.6], prose=[2.0, 2.75])
    better = run_of([0.0, 1.0], old_facts=[0.9, 1.0], prose=[2.0, 1.5])
    rows = summarise(table_of(full_0=worse, sparse_0=better), read_last)
    full, sparse = by_probe(rows, "full"), by_probe(rows, "sparse")
    assert full["old_facts", "em"]["drop_mean"] == pytest.approx(0.3)
    assert full["prose", "nll"]["drop_mean"] == pytest.approx(0.75)
    assert sparse["old_facts", "em"]["drop_mean"] == pytest.approx(-0.1)
    assert sparse["prose", "nll"]["drop_mean"] == pytest.approx(-0.5)
    assert full["learned", "em"]["drop_mean"] == pytest.approx(-1.0)
    assert full["old_facts", "em"]["base"] == pytest.approx(0.9)
    assert full["old_facts", "em"]["drop_low"] is None


def test_drops_are_taken_within_each_seed_before_they_are_averaged():
    runs = {
        "full_0": run_of([0.0, 1.0], old_facts=[0.9, 0.8]),  # drops 0.1
        "full_1": run_of([0.0, 1.0], old_facts=[0.5, 0.3]),  # drops 0.2
    }
    row = by_probe(summarise(table_of(**runs), read_last), "full")["old_facts", "em"]
    assert (row["base"], row["mean"], row["drop_mean"]) == pytest.approx((0.7, 0.55, 0.15))
    assert (row["drop_low"], row["drop_high"]) == pytest.approx(stats.t.interval(0.95, 1, loc=0.15, scale=0.05))
    assert (row["low"], row["high"]) == pytest.approx(stats.t.interval(0.95, 1, loc=0.55, scale=0.25))


def test_a_method_counts_its_seeds_and_those_that_reached_the_target():
    runs = {"full_0": run_of([0.0, 1.0]), "full_1": run_of([0.0, 0.4]), "lora_0": run_of([0.0, 1.0])}
    rows = summarise(table_of(**runs), read_run)
    assert {(row["method"], row["n"], row["n_reached"]) for row in rows} == {("full", 2, 1), ("lora", 1, 1)}
    assert [*dict.fromkeys(row["method"] for row in rows)] == ["full", "lora"]
    steps = by_probe(rows, "lora")["steps", ""]
    assert steps["mean"] == pytest.approx(9.5)
    assert "drop_mean" not in steps


# Tuning -----------------------------------------------------------------------------------------------


def tried(method, optimizer, lr, reached, learned=1.0, old_facts=0.5, arithmetic=1.0, steps=100.0) -> dict:
    return {
        "method": method,
        "optimizer": optimizer,
        "lr": lr,
        "reached": reached,
        "learned": learned,
        "old_facts": old_facts,
        "arithmetic": arithmetic,
        "steps": steps,
    }


def test_of_the_rates_that_reach_the_target_the_one_that_keeps_most_is_best():
    rows = [
        tried("full", "adamw", 1e-5, reached=False, learned=0.5, old_facts=0.99),
        tried("full", "adamw", 1e-4, reached=True, old_facts=0.6),
        tried("full", "adamw", 1e-3, reached=True, old_facts=0.8),
        tried("full", "adamw", 1e-2, reached=True, old_facts=0.7),
    ]
    assert best_settings(rows)["full"]["lr"] == 1e-3
    assert [row["chosen"] for row in rows] == [False, False, True, False]


def test_rates_that_keep_the_same_are_told_apart_by_the_lower_arithmetic_nll():
    rows = [tried("full", "adamw", lr, True, arithmetic=nll) for lr, nll in ((1e-4, 1.5), (1e-3, 1.2), (1e-2, 1.9))]
    assert best_settings(rows)["full"]["lr"] == 1e-3


def test_of_rates_that_keep_as_much_but_for_chance_the_one_that_takes_fewest_steps_is_best():
    def chosen(*tries) -> float:
        rows = [tried("full", "adamw", lr, True, old_facts=kept, steps=steps) for lr, kept, steps in tries]
        return best_settings(rows)["full"]["lr"]

    assert chosen((1e-4, 0.998, 200), (1e-3, 0.996, 120), (1e-2, 0.990, 60)) == 1e-3
    assert chosen((1e-4, 0.998, 200), (1e-3, 0.995, 120)) == 1e-4


def test_a_rate_that_only_just_gets_there_is_not_chosen_unless_all_are_so_slow():
    rows = [
        tried("full", "adamw", lr, True, old_facts=kept, steps=steps)
        for lr, kept, steps in ((1e-4, 0.9, 400), (1e-3, 0.8, 200), (1e-2, 0.7, 100))
    ]
    assert best_settings(rows, steps=480)["full"]["lr"] == 1e-3
    assert best_settings(rows[:1], steps=480)["full"]["lr"] == 1e-4
    assert best_settings(rows)["full"]["lr"] == 1e-4


def test_without_old_facts_the_lower_nll_of_prose_decides():
    rows = [
        {"method": "full", "optimizer": "adamw", "lr": lr, "reached": True, "prose": nll, "steps": steps}
        for lr, nll, steps in ((1e-4, 2.0, 50), (1e-3, 1.8, 90), (1e-2, 1.9, 60))
    ]
    assert best_settings(rows)["full"]["lr"] == 1e-3


def test_on_a_real_model_what_it_knows_decides_and_then_its_text():
    rows = [
        {"method": "full", "optimizer": "adamw", "lr": lr, "reached": True, "known": known, "text": nll, "steps": 50}
        for lr, known, nll in ((1e-4, 0.5, 3.8), (1e-3, 0.9, 3.9), (1e-2, 0.9, 3.85))
    ]
    assert best_settings(rows)["full"]["lr"] == 1e-2
    assert best_settings(rows[:2])["full"]["lr"] == 1e-3


def test_where_no_rate_reaches_the_target_the_one_that_learns_most_is_best():
    rows = [
        tried("lora", "adamw", lr, False, learned=learned, old_facts=kept)
        for lr, learned, kept in ((1e-4, 0.1, 0.9), (1e-3, 0.6, 0.2), (1e-2, 0.4, 0.8))
    ]
    assert best_settings(rows)["lora"]["lr"] == 1e-3


def test_each_method_and_each_optimizer_has_a_best_rate_of_its_own():
    rows = [
        tried("sparse", "sgd", 1.0, True, old_facts=0.7),
        tried("sparse", "sgd", 5.0, True, old_facts=0.8),
        tried("sparse", "adam", 1e-3, True, old_facts=0.9),
        tried("sparse", "adam", 1e-2, True, old_facts=0.6),
        tried("full", "adamw", 1e-4, True, old_facts=0.1),
    ]
    assert best_settings(rows) == {
        "sparse": {"optimizer": "adam", "lr": 1e-3, "lr_by_optimizer": {"sgd": 5.0, "adam": 1e-3}},
        "full": {"optimizer": "adamw", "lr": 1e-4, "lr_by_optimizer": {"adamw": 1e-4}},
    }
    assert [row["lr"] for row in rows if row["chosen"]] == [1e-3, 1e-4]


def test_the_grid_tries_several_rates_of_every_method():
    assert all(kind.rates for kind in METHODS.values())
    assert all(len(set(rates)) >= 3 for kind in METHODS.values() for rates in kind.rates.values())


def test_t_is_chosen_with_the_rate_and_the_other_optimizers_rate_at_that_t():
    kept = {("sgd", 1.0, 50): 0.97, ("sgd", 2.0, 100): 0.9, ("sgd", 4.0, 100): 0.8}
    kept |= {("adam", 0.1, 50): 0.95, ("adam", 0.2, 100): 0.98}
    rows = [{**tried("sparse", o, lr, True, old_facts=share), "top_t": t} for (o, lr, t), share in kept.items()]
    expected = {"optimizer": "adam", "lr": 0.2, "lr_by_optimizer": {"sgd": 2.0, "adam": 0.2}, "top_t": 100}
    assert best_settings(rows)["sparse"] == expected
