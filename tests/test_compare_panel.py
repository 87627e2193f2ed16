"""The compare panel, driven as the browser drives it."""

import math
import time

import pytest
import torch

import smft_lab as smft
from smft_lab.charts import style
from smft_lab.experiments.run import history_rows
from smft_lab.finetuning.teaching import batches, stream_order
from smft_lab.probes.probes import answer, recalled
from smft_lab.widgets import Compare, Slots, TopT


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture
def panel(lab, facts):
    lab.reset()
    made = Compare(lab, facts, runner="inline", passes=2, seeds=1, top_t=20, evaluations=3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def finished(lab, facts):
    made = Compare(lab, facts, runner="inline", passes=2, seeds=2, top_t=20, evaluations=3)
    press(made, "start")
    yield made
    made.close()


def press(panel, name, **rest):
    """What the page sends."""
    panel._command(panel, {"do": name, **rest}, [])


def is_base(lab):
    return all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())


def test_all_methods_are_compared_and_the_base_is_left_behind(lab, finished):
    assert finished.error == ""
    assert finished.state == "idle"
    assert finished.progress["done"] == finished.progress["total"] == 3 * 2 * 6
    assert [row["method"] for row in finished.numbers] == ["base", "sparse", "full", "lora"]
    assert {(path["method"], path["seed"]) for path in finished.paths} == {
        (method, seed) for method in ("sparse", "full", "lora") for seed in (0, 1, None)
    }
    assert is_base(lab)


def test_what_is_drawn_is_what_compare_measures(lab, facts, finished):
    methods = (smft.Sparse(top_t=20), "full", "lora")
    both = smft.compare(lab, facts, methods, seeds=2, passes=2, evaluations=3)
    pd_rows = both.table[(both.table["metric"] == "em") & both.table["probe"].isin(["learned", "old_facts"])]
    for path in finished.paths:
        if path["seed"] is None:
            continue
        mine = pd_rows[(pd_rows["method"] == path["method"]) & (pd_rows["seed"] == path["seed"])]
        wide = mine.pivot_table(index="step", columns="probe", values="value")
        assert path["points"] == [[int(s), r["learned"], r["old_facts"]] for s, r in wide.iterrows()]
    for row in finished.numbers[1:]:
        newest = both.table[(both.table["method"] == row["method"]) & (both.table["step"] == 6)]
        prose = newest[newest["probe"] == "prose"]["value"].mean()
        assert row["prose"] == pytest.approx(prose)
        assert row["trainable_per_step"] > 0
    drops = {(r["method"], r["probe"]): r["drop_mean"] for r in both.summary()["equal_learning"] if r["metric"] == "em"}
    assert [line["drop"][0] for line in finished.verdict] == [drops[name, "old_facts"] for name in finished.methods]


def test_the_mean_path_is_the_mean_of_its_seeds(finished):
    for method in finished.methods:
        mine = {path["seed"]: path["points"] for path in finished.paths if path["method"] == method}
        one, other, mean = (mine[seed] for seed in (0, 1, None))
        for a, b, m in zip(one, other, mean, strict=True):
            assert m == [a[0], pytest.approx((a[1] + b[1]) / 2), pytest.approx((a[2] + b[2]) / 2)]


def test_retention_has_its_facts_in_the_order_in_which_they_were_taught(lab, facts, panel, monkeypatch):
    taught = [facts[owners[0]] for owners, _ in batches(facts, 1, seed=0)]
    assert taught != list(facts)
    second = taught[1].question  # the only one that is "known"
    monkeypatch.setattr(
        "smft_lab.lab.recalled", lambda model, tokenizer, asked, _, form: torch.tensor([q == second for q in asked])
    )
    press(panel, "start")
    for one in panel.retention.values():
        assert one["recalled"] == [[0, 1, 0]] * 4


def test_retention_tells_which_fact_is_known_after_which_step(lab, facts, finished):
    steps = [0, 2, 4, 6]
    assert {name: one["steps"] for name, one in finished.retention.items()} == dict.fromkeys(finished.methods, steps)
    lab.reset()
    seen = []
    taught = [facts[i] for i in stream_order(len(facts), seed=0)]
    for step in smft.finetune(lab, facts, "full", passes=2, seed=0, probe_every=2):
        if history_rows(step):
            right = recalled(lab.model, lab.tokenizer, [f.question for f in taught], [f.answer for f in taught])
            seen.append(right.int().tolist())
    lab.reset()
    assert finished.retention["full"]["recalled"] == seen


def test_a_question_is_answered_by_every_finetuned_model_and_the_base_stays(lab, facts, finished):
    question = facts[0].question
    press(finished, "ask", question=question)
    assert finished.error == ""
    assert is_base(lab)
    found = finished.answers[0]
    for method in finished.methods:
        lab.reset()
        options = {"top_t": 20} if method == "sparse" else {}
        for _ in smft.finetune(lab, facts, method, passes=2, seed=0, probe_every=0, **options):
            pass
        lab.end()
        assert found[method] == answer(lab.model, lab.tokenizer, [question])[0]
    lab.reset()


def test_asking_leaves_another_panels_finetune_in_place(lab, facts, finished):
    trainer = TopT(lab, facts, runner="inline")
    press(trainer, "commit", settings={"top_t": 20, "passes": 2})
    taught = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    press(finished, "ask", question="Who taught whom?")
    assert finished.error == ""
    assert all(torch.equal(tensor, taught[name]) for name, tensor in lab.model.state_dict().items())
    press(trainer, "reset")
    trainer.close()


def test_stop_keeps_what_was_measured_and_start_goes_on(lab, facts):
    panel = Compare(lab, facts, runner="thread", methods=("sparse", "lora"), passes=12, evaluations=12, top_t=20)
    press(panel, "start")
    until = time.monotonic() + 60
    while not panel.paths and time.monotonic() < until:
        time.sleep(0.01)
    press(panel, "stop")
    assert panel.state == "paused"
    done = panel.progress["done"]
    assert 0 <= done < panel.progress["total"]
    assert panel.paths
    press(panel, "ask", question="Who?")
    assert "wait for the comparison to end" in panel.error
    press(panel, "start")
    while panel.state != "idle" and time.monotonic() < until + 300:
        time.sleep(0.01)
    assert panel.progress["done"] == panel.progress["total"]
    assert [len(path["points"]) for path in panel.paths] == [13, 13]
    panel.close()


def test_reset_in_mid_run_brings_the_base_back_and_frees_the_lab(lab, facts):
    panel = Compare(lab, facts, runner="thread", passes=50, top_t=20)
    press(panel, "start")
    other = TopT(lab, facts, runner="inline")
    press(other, "commit", settings={"top_t": 5, "passes": 1})
    assert "another panel" in other.error
    press(panel, "reset")
    assert (panel.state, panel.paths, panel.error) == ("idle", [], "")
    assert is_base(lab)
    press(other, "commit", settings={"top_t": 5, "passes": 1})
    assert other.error == ""
    press(other, "reset")
    other.close()
    panel.close()


def test_slots_beside_it_shows_the_base_again_when_it_is_done(lab, facts, panel):
    slots = Slots(lab, facts)
    press(slots, "look", view="change")
    press(panel, "start")
    assert not any(value for token in slots.tokens for value in token["values"])
    slots.close()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"count": 4}, "between 1 and 3, not 4"),
        ({"passes": 0}, "passes"),
        ({"count": "all"}, "facts must be a finite number"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seeds": 1.5}, "seeds must be a whole number"),
        ({"top_t": 10**9}, "top-t must be between"),
        ({"speed": 3}, "no setting speed"),
    ],
)
def test_a_setting_out_of_range_says_so_and_changes_nothing(panel, settings, problem):
    before = dict(panel.settings)
    press(panel, "choose", **settings)
    assert problem in panel.error
    assert panel.settings == before


def test_a_comparison_has_the_settings_that_came_with_its_start_or_is_not_begun(panel):
    press(panel, "start", settings={"count": 2, "passes": 1, "top_t": 9})
    assert (panel.comparison.n_facts, panel.comparison.passes) == (2, 1)
    assert panel.comparison.chosen["sparse"].top_t == 9
    assert panel.shown == panel.settings
    press(panel, "choose", passes=2)
    assert panel.shown["passes"] == 1
    press(panel, "start", settings={"count": 99})
    assert "between 1 and 3, not 99" in panel.error
    assert (panel.comparison.passes, panel.state) == (1, "idle")


def test_a_snapshot_is_a_picture_that_tells_what_each_method_lost(panel, monkeypatch):
    assert "No comparison has ended" in panel.snapshot().says
    press(panel, "start")
    assert all(line["little"] for line in panel.verdict)
    assert panel.snapshot().says.count("learned hardly anything (0%)") == 3
    monkeypatch.setattr(style, "LITTLE", 0)
    press(panel, "start")
    assert all(f"{name} lost" in panel.snapshot().says for name in ("Sparse", "Full", "LoRA"))


def test_views_hold_only_plain_numbers(finished):
    for row in finished.numbers:
        assert all(type(value) in (str, int, float, type(None)) for value in row.values())
        assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())
