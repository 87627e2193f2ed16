"""Comparing methods: the same base and batches for each, the base left behind, and results that can be kept."""

import errno
import io
import json
import sys

import pandas as pd
import pytest
import torch

from smft_lab.charts import style
from smft_lab.experiments import compare as module
from smft_lab.experiments import tune
from smft_lab.experiments.compare import COLUMNS, RESULTS, Comparison, compare, watched
from smft_lab.experiments.equal import READING
from smft_lab.experiments.run import run
from smft_lab.facts.fact import Fact
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import Step
from smft_lab.finetuning.methods import METHODS, STANDARD, Full, Lora, Method, Sparse, method_of
from smft_lab.finetuning.methods import sparse as sparse_module
from smft_lab.finetuning.teaching import batches
from smft_lab.model.memory import value_tables
from smft_lab.probes import probes as probes_module
from smft_lab.probes.prompts import BUILT_IN
from smft_lab.slots.patch import Patch

RATES = {"sparse": 5.0, "full": 1e-3, "lora": 1e-2}


def at_rates(*names: str, top_t: int | None = None) -> list[Method]:
    """Methods by name, at rates at which a random model learns something; t is that of `sparse`."""
    return [
        method_of(name, lr=RATES[key], **({"top_t": top_t} if key == "sparse" else {}))
        for name in names
        for key in [name.partition(":")[0]]
    ]


def state(lab) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def same(lab, expected: dict[str, torch.Tensor]) -> bool:
    found = lab.model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module", autouse=True)
def short_answers():
    """Answers of two tokens: a random model has nothing to say, and these tests don't ask what."""
    with pytest.MonkeyPatch.context() as patch:
        answer = probes_module.answer

        def short(*args, **options):
            most = options.pop("max_new_tokens", 24)  # what nobody has said is 24
            return answer(*args, max_new_tokens=2 if most == 24 else most, **options)

        patch.setattr(probes_module, "answer", short)
        patch.setattr("smft_lab.lab.answer", short)
        yield


@pytest.fixture(scope="module")
def one_lab(tiny_lab):
    return tiny_lab()


@pytest.fixture
def lab(one_lab):
    """One lab for all tests, since building one takes longer than most of them."""
    one_lab.reset()
    one_lab.defaults = {}
    return one_lab


@pytest.fixture(scope="module")
def whole(one_lab):
    """A finished comparison of the three methods over two seeds, with its lab and the base that the lab had."""
    lab = one_lab
    base = state(lab)
    methods = at_rates(*STANDARD, top_t=6)
    return compare(lab, new_facts(3), methods, seeds=2, passes=1, evaluations=3), lab, base


@pytest.fixture(scope="module")
def saved(whole, tmp_path_factory):
    comparison, _, _ = whole
    out = tmp_path_factory.mktemp("results") / "deep" / "compare"
    return comparison.save(out, title="Mine", settings={"facts": "3 new people"}, command="smft-lab compare"), out


# The table --------------------------------------------------------------------------------------------


def test_the_table_has_these_columns_and_a_row_for_all_that_was_measured(whole):
    table = whole[0].table
    assert [*table.columns] == COLUMNS == ["method", "seed", "step", "probe", "metric", "value"]
    assert not table.duplicated(COLUMNS[:-1]).any()
    assert not table["value"].isna().any()
    assert [*dict.fromkeys(table["method"])] == ["sparse", "full", "lora"]
    measured = {
        *(("learned", "em"), ("learned", "f1"), ("old_facts", "em"), ("old_facts", "f1")),
        *(("two_hop", "em"), ("two_hop", "f1"), ("arithmetic", "nll"), ("prose", "nll")),
    }
    for _, one in table.groupby(["method", "seed", "step"]):
        assert set(zip(one["probe"], one["metric"], strict=True)) == measured
    for _, one in table.groupby(["method", "seed"]):
        assert sorted(set(one["step"])) == [0, 1, 2, 3]


def test_step_0_is_the_base_for_every_method_and_seed(whole):
    comparison, lab, base = whole
    assert same(lab, base)
    expected = lab.probes.measure(lab.model, lab.tokenizer)
    start = comparison.table[comparison.table.step == 0]
    assert len(start.groupby(["method", "seed"])) == 6
    for row in start[start.probe != "learned"].itertuples():
        assert row.value == pytest.approx(expected[row.probe][row.metric], rel=1e-5)
    learned = start[start.probe == "learned"].groupby("metric")["value"].nunique()
    assert (learned == 1).all()


def test_every_method_changes_the_model_in_a_way_of_its_own(whole):
    comparison, _, _ = whole
    table = comparison.table[(comparison.table.probe == "prose") & (comparison.table.seed == 0)]
    start, last = (table[table.step == step].set_index("method")["value"] for step in (0, 3))
    assert (last != start)[["full", "lora"]].all()
    assert last.nunique() == 3
    assert len(comparison.patch) > 0  # the few rows of sparse need not be among those the probe reads


def test_a_comparison_repeated_gives_the_same_numbers(whole):
    first, lab, _ = whole
    again = compare(lab, new_facts(3), at_rates("full", "sparse", top_t=6), seeds=[1], passes=1, evaluations=3)
    for method in ("full", "sparse"):  # whichever ran before it
        rows = [table[(table.method == method) & (table.seed == 1)] for table in (first.table, again.table)]
        pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in rows))


# The same for every method ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["stream", "shuffled"])
def test_every_method_trains_on_the_same_texts_in_the_same_order(lab, monkeypatch, order):
    seen = []

    def recording(start):
        def started(method, lab, *args):
            training = start(method, lab, *args)
            update = training.update

            def recorded(batch):
                rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"].bool(), strict=True)
                seen.append([lab.tokenizer.decode(ids[mask], skip_special_tokens=True).strip() for ids, mask in rows])
                return update(batch)

            training.update = recorded
            return training

        return started

    methods, facts = [Sparse(top_t=5), Full(), Lora(), method_of("osf")], new_facts(2)
    for method in methods:
        monkeypatch.setattr(type(method), "start", recording(type(method).start))
    comparison = Comparison(lab, facts, methods, seeds=[3], passes=2, order=order, evaluations=1)
    by_method = {}
    for at in comparison.steps():
        by_method.setdefault(at.method, []).extend(seen)
        seen.clear()
    expected = [texts for _, texts in batches(facts, 2, order, 3)]
    assert len(expected) == 4
    assert by_method == dict.fromkeys(("sparse", "full", "lora", "osf"), expected)


def test_batches_are_fixed_by_the_seed_and_hold_every_statement_once_a_pass():
    facts = new_facts(5)
    statements = sorted(text for fact in facts for text in fact.statements)
    for order in ("stream", "shuffled"):
        made = list(batches(facts, 2, order, seed=1))
        assert made == list(batches(facts, 2, order, seed=1))
        assert made != list(batches(facts, 2, order, seed=2))
        assert len(made) == 10
        for one_pass in (made[:5], made[5:]):
            assert sorted(text for _, texts in one_pass for text in texts) == statements
        for which, texts in made:
            assert set(texts) <= {text for i in which for text in facts[i].statements}
    assert all(len(set(owners)) == 1 for owners, _ in batches(facts, 2, "stream", seed=1))
    assert any(len(set(owners)) > 1 for owners, _ in batches(facts, 2, "shuffled", seed=1))


def test_every_seed_may_have_facts_of_its_own(lab):
    asked = []

    def facts(seed):
        asked.append(seed)
        return new_facts(2, seed)

    comparison = compare(lab, facts, [Sparse(top_t=5)], seeds=[4, 5], passes=1, evaluations=1)
    assert set(asked) == {4, 5}
    questions = {one["question"] for one in comparison.samples if one["probe"] == "learned"}
    assert questions == {fact.question for fact in new_facts(2, 4)}


def test_a_rate_given_per_method_is_used_and_the_tuned_one_otherwise(lab):
    lab.defaults = {"sparse": {"optimizer": "adam", "lr": 0.5, "lr_by_optimizer": {"adam": 0.5, "sgd": 7.0}}}
    comparison = Comparison(lab, new_facts(1), ["sparse", "sparse:tf", Full(lr=0.25)])
    assert comparison.method_settings("sparse") == {"optimizer": "adam", "lr": 0.5}
    control = {"optimizer": "adam", "lr": 0.5, "learning rate": "tuned for the rule tfidf"}
    assert comparison.method_settings("sparse:tf") == control
    assert comparison.method_settings("full") == {"optimizer": "adamw", "lr": 0.25}
    comparison = Comparison(lab, new_facts(1), [Sparse(optimizer="sgd")])
    assert comparison.method_settings("sparse") == {"optimizer": "sgd", "lr": 7.0}


# The base is left behind ------------------------------------------------------------------------------


def test_the_lab_is_back_at_its_base_after_finishing(whole):
    _, lab, base = whole
    assert same(lab, base)
    assert all(parameter.requires_grad for parameter in lab.model.parameters())
    assert not [name for name, _ in lab.model.named_modules() if "lora" in name]


@pytest.mark.parametrize("method", METHODS)
def test_the_lab_is_back_at_its_base_after_stopping_half_way(lab, method):
    base = state(lab)
    methods = [method_of(name, lr=RATES.get(name, 1e-3)) for name in dict.fromkeys(("sparse", method))]
    comparison = Comparison(lab, new_facts(2), methods, passes=2, evaluations=1, seeds=[0])
    steps = comparison.steps()
    for at in steps:
        if at.method == method and at.done % 4 == 2:
            break
    assert not same(lab, base)
    steps.close()
    assert same(lab, base)
    assert all(parameter.requires_grad for parameter in lab.model.parameters())
    assert set(comparison.finished_runs()["method"]) == ({"sparse"} - {method})


def test_the_lab_is_back_at_its_base_after_a_failure(lab, monkeypatch):
    base = state(lab)

    def fail(*args):
        raise ArithmeticError

    comparison = Comparison(lab, new_facts(2), at_rates("full"), passes=1, seeds=[0])
    steps = comparison.steps()
    next(steps), next(steps)
    assert not same(lab, base)
    monkeypatch.setattr(lab, "encode", fail)
    with pytest.raises(ArithmeticError):
        next(steps)
    assert same(lab, base)


def test_a_comparison_starts_from_the_base_whatever_was_finetuned_before(lab):
    comparison = Comparison(lab, new_facts(2), [Sparse(top_t=5)], passes=1, evaluations=1, seeds=[0])
    clean = lab.probes.measure(lab.model, lab.tokenizer)["prose"]["nll"]
    run(lab, new_facts(2, seed=9), "full", passes=1, lr=1e-2, probe_every=0)
    next(comparison.steps())
    table = comparison.table
    assert table[table.probe == "prose"]["value"].tolist() == [pytest.approx(clean, rel=1e-5)]


# Progress, samples, controls --------------------------------------------------------------------------


def test_progress_counts_the_gradient_steps_of_all_methods_and_seeds(lab):
    comparison = Comparison(lab, new_facts(1), [Sparse(top_t=5), "full"], seeds=range(2), passes=2, evaluations=1)
    at = list(comparison.steps())
    assert {one.total for one in at} == {8}
    assert at[-1].done == 8
    assert [one.done for one in at] == sorted(one.done for one in at)
    assert [*dict.fromkeys((one.seed, one.method) for one in at)] == [
        *((0, "sparse"), (0, "full"), (1, "sparse"), (1, "full"))
    ]
    assert [one.done for one in at if one.loss is None] == [0, 2, 4, 6]  # each run's step 0, before any training
    assert comparison.seconds > 0


def test_samples_hold_the_answers_of_the_base_and_of_every_method(whole):
    comparison, lab, _ = whole
    assert {one["probe"] for one in comparison.samples} == {"learned", "old_facts", "two_hop", "arithmetic"}
    for one in comparison.samples:
        assert set(one["answers"]) == set(STANDARD)
        assert one["base"] == lab.answer([one["question"]])[0]
        assert one["answer"]


def test_a_comparison_shown_in_a_cell_tells_each_methods_end_in_a_line(whole, lab, monkeypatch):
    assert all("hardly anything was learned" in line for line in repr(whole[0]).splitlines()[1:])
    monkeypatch.setattr(style, "LITTLE", 0)
    shown = repr(whole[0]).splitlines()
    assert shown[0].startswith("<Comparison of sparse, full, lora: 3 facts, 2 seeds")
    assert [line.split(":")[0].strip() for line in shown[1:]] == list(STANDARD)
    assert all("of 2 runs reach 95%" in line and "old_facts" in line for line in shown[1:])
    assert "no run has ended yet" in repr(Comparison(lab, new_facts(2), seeds=[0]))


def test_a_long_comparison_shows_how_far_it_is_where_somebody_watches(lab, capsys):
    compare(lab, new_facts(2), ["sparse"], seeds=1, passes=1, evaluations=1)
    assert capsys.readouterr().out == ""
    compare(lab, new_facts(2), ["sparse"], seeds=1, passes=1, evaluations=1, progress=True)
    assert "sparse, seed 0" in capsys.readouterr().out


def test_controls_run_sparse_under_other_rules(lab):
    names = ["sparse", "sparse:tf", "sparse:idf", "sparse:random", "sparse:all"]
    methods = [method_of(name, top_t=3, lr=50.0) for name in names]
    comparison = Comparison(lab, new_facts(2), methods, seeds=[0], passes=1, evaluations=1)
    base, ends = value_tables(lab.model)[0].weight.detach().clone(), {}
    for at in comparison.steps():
        ends[at.method] = value_tables(lab.model)[0].weight.detach().clone()
    assert [*ends] == names
    changed = {name: frozenset((end != base).any(dim=1).nonzero().flatten().tolist()) for name, end in ends.items()}
    assert all(changed.values())
    assert len(set(changed.values())) == len(names)
    summary = comparison.summary()
    trainable = {name: costs["trainable_per_step"] for name, costs in summary["methods"].items()}
    assert [*trainable] == names
    assert {trainable[name] for name in names[:-1]} == {3 * 32}
    assert trainable["sparse:all"] > 3 * 32
    assert comparison.patch.about["top_t"] == 3  # of plain sparse, not of a control
    assert len(comparison.patch) <= 2 * 3


def test_questions_that_the_facts_change_are_not_sampled_as_old_ones(lab):
    probe = lab.probes["old_facts"]
    mine = [Fact(("It is not what it was.",), "What is it?", ("Other",), *subject) for subject in probe.subjects[:2]]
    comparison = Comparison(lab, mine, ["sparse"], passes=1)
    asked = [one["question"] for one in comparison._sample_questions(mine) if one["probe"] == "old_facts"]
    changed = {(fact.subject, fact.relation) for fact in mine}
    assert set(asked) == {q for q, at in zip(probe.questions, probe.subjects, strict=True) if at not in changed}


# The sweep --------------------------------------------------------------------------------------------


def test_a_sweep_tries_everything_with_every_seed_from_the_base_and_leaves_the_base_behind(lab, monkeypatch):
    monkeypatch.setattr(Sparse, "rates", {"sgd": (1.0, 5.0)})
    monkeypatch.setattr(Full, "rates", {"adamw": (1e-3,)})
    monkeypatch.setattr(sparse_module, "TRIED", (3, 5, 10**6))
    base = state(lab)
    rows, starts, facts = [], [], {seed: new_facts(2, seed) for seed in (7, 8)}
    methods = [*Sparse().candidates(lab), *Full().candidates(lab)]
    for method, item in tune.sweep(lab, facts.__getitem__, methods, (7, 8), passes=1, evaluations=1):
        if not isinstance(item, Step):
            rows.append(item)
        elif item.step == 0:
            settings = method.settings()
            starts.append((method.key, settings["lr"], settings.get("top_t"), same(lab, base)))
    tried = [("sparse", 1.0, 3), ("sparse", 1.0, 5), ("sparse", 5.0, 3), ("sparse", 5.0, 5), ("full", 1e-3, None)]
    assert starts == [(*one, True) for one in tried for _ in range(2)]
    assert [(row["method"], row["lr"], row["top_t"]) for row in rows] == tried
    assert {"reached", "steps", "learned", "old_facts", "two_hop", "arithmetic", "prose"} < set(rows[0])
    assert same(lab, base)


def test_a_swept_run_ends_where_it_is_read(lab):
    methods = Sparse(top_t=5).candidates(lab)[:1]
    steps = [
        item.step
        for _, item in tune.sweep(lab, new_facts(3), methods, (0,), target=0.0, passes=2)
        if isinstance(item, Step)
    ]
    assert steps == [0]


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ()}, "a comparison needs at least one method"),
        ({"seeds": ()}, "at least one seed is needed"),
        ({"methods": ("sparse", "adapter")}, "no method 'adapter'; there are sparse, full, lora"),
        ({"methods": ("full", "sparse:best")}, "no rule 'best'"),
        ({"passes": 0}, "passes"),
        ({"evaluations": 0}, "evaluations"),
        ({"facts": []}, "no facts"),
    ],
    ids=["no method", "no seed", "method", "rule", "passes", "evaluations", "facts"],
)
def test_an_option_out_of_range_is_refused_before_anything_runs(lab, options, message):
    options = {"facts": new_facts(1), **options}
    with pytest.raises(ValueError, match=message):
        Comparison(lab, **options)


# The summary and the files ----------------------------------------------------------------------------

KEYS = {
    *("title", "settings", "methods", "target", "rule_text", "base", "equal_learning", "final", "sweep", "command"),
    *("versions", "machine", "seconds", "date", "files"),
}
ROW_KEYS = {
    *("method", "probe", "metric", "base", "mean", "low", "high", "drop_mean", "drop_low", "drop_high", "n"),
    "n_reached",
}


def test_save_writes_the_data_the_patch_and_the_report_and_nothing_else(saved):
    report, out = saved
    assert report == out / "report.html"
    assert {path.name for path in out.iterdir()} == {
        *("metrics.csv", "summary.json", "samples.json", "patch.safetensors", "report.html")
    }
    page = report.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert "Mine" in page


def test_metrics_csv_is_the_table(whole, saved):
    pd.testing.assert_frame_equal(pd.read_csv(saved[1] / "metrics.csv"), whole[0].table)


def test_samples_json_are_the_samples(whole, saved):
    assert json.loads((saved[1] / "samples.json").read_text()) == whole[0].samples


def test_summary_json_is_strict_json_with_these_keys(saved):
    def never(text):
        raise AssertionError(f"{text} isn't JSON")

    summary = json.loads((saved[1] / "summary.json").read_text(encoding="utf-8"), parse_constant=never)
    assert set(summary) == KEYS
    assert (summary["title"], summary["command"]) == ("Mine", "smft-lab compare")
    assert summary["rule_text"] == READING.format(target=summary["target"])
    assert set(summary["versions"]) == {"smft-lab", "torch", "transformers", "peft"}
    settings = {"n_facts": 3, "passes": 1, "top_t": 6, "slots": 256, "rule": "tfidf", "order": "stream"} | {
        "loss_on": "statement"
    }
    settings |= {"seeds": [0, 1], "evaluations_per_run": 3, "statements_per_step": 64, "facts": "3 new people"}
    assert summary["settings"] == settings
    assert set(summary["base"]) == {"learned", "old_facts", "arithmetic", "prose", "two_hop"}


def test_summary_json_reads_every_method_at_equal_learning_and_at_the_end(saved):
    summary = json.loads((saved[1] / "summary.json").read_text())
    for part in ("equal_learning", "final"):
        assert {(row["method"], row["probe"], row["metric"]) for row in summary[part]} == {
            (method, probe, metric)
            for method in STANDARD
            for probe, metrics in summary["base"].items()
            for metric in metrics
        }
        assert all(set(row) == ROW_KEYS and row["n"] == 2 for row in summary[part])


def test_summary_json_tells_what_every_method_cost(whole, saved):
    _, lab, _ = whole
    methods = json.loads((saved[1] / "summary.json").read_text())["methods"]
    assert [*methods] == [*STANDARD]
    for name, costs in methods.items():
        assert set(costs) == {"optimizer", "lr", "trainable_per_step", "ms_per_step", "steps_to_target"}
        assert costs["lr"] == RATES[name]
        assert costs["ms_per_step"] > 0
        assert costs["steps_to_target"] is None  # a random model learns nothing in three steps
    assert methods["sparse"]["trainable_per_step"] == 6 * 32  # top-t rows of the table's width
    assert methods["full"]["trainable_per_step"] == sum(p.numel() for p in lab.model.parameters())
    assert methods["sparse"]["trainable_per_step"] < methods["lora"]["trainable_per_step"]


def test_the_saved_patch_gives_bitwise_the_sparse_model_of_the_first_seed(whole, saved, lab):
    _, _, base = whole
    run(lab, new_facts(3), "sparse", passes=1, top_t=6, lr=RATES["sparse"], seed=0, probe_every=0)
    finetuned = state(lab)
    assert not same(lab, base)
    lab.reset()
    patch = Patch.load(saved[1] / "patch.safetensors")
    assert patch.about["n_facts"] == 3
    assert patch.about["lr"] == RATES["sparse"]
    assert 0 < len(patch) <= 3 * 6
    patch.apply(lab)
    assert same(lab, finetuned)
    patch.revert(lab)
    assert same(lab, base)


def test_saving_again_replaces_the_files(whole, saved):
    comparison, _, _ = whole
    _, out = saved
    before = (out / "metrics.csv").read_bytes()
    (out / "metrics.csv").write_text("old")
    comparison.save(out, title="Mine", settings={"facts": "3 new people"}, command="smft-lab compare")
    assert (out / "metrics.csv").read_bytes() == before
    assert not list(out.glob("*.partial"))


def test_one_folder_is_one_comparison(whole, lab, tmp_path):
    comparison, out = whole[0], tmp_path / "out"
    comparison.save(out, title="first")
    (out / "notes.txt").write_text("mine")
    again = Comparison(lab, new_facts(3), at_rates("full"), passes=1)
    again.rows, again.costs, again._ended = comparison.rows, comparison.costs, comparison._ended
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(ValueError, match=r"already holds a comparison \(metrics.csv\)"):
        again.save(out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    again.save(out, force=True)
    assert {file.name for file in out.iterdir()} == {*RESULTS, "notes.txt"} - {"patch.safetensors"}
    assert json.loads((out / "summary.json").read_text())["files"] == [
        name for name in RESULTS if name != "patch.safetensors"
    ]


def test_a_save_that_fails_leaves_the_earlier_comparison_whole(whole, tmp_path, monkeypatch):
    comparison = whole[0]
    out = comparison.save(tmp_path / "out", title="first").parent
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write = module.write_atomically

    def full(path, text):
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(module, "write_atomically", full)
    message = rf"^{out} can't be written \(No space left on device: .* MB needed, .* free\)"
    with pytest.raises(OSError, match=message):
        comparison.save(out, title="second")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert {file.name for file in tmp_path.iterdir()} <= {"out", ".out.lock"}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_a_diverged_run_left_costs_no_result_and_no_file_holds_a_bare_nan(whole, lab, tmp_path):
    comparison = Comparison(lab, new_facts(3), at_rates(*STANDARD), seeds=(0, 1), passes=1)
    comparison.costs, comparison._ended = whole[0].costs, whole[0]._ended
    comparison.rows = [{**row, "value": float("nan")} if row["metric"] == "nll" else row for row in whole[0].rows]
    patch = whole[0].patch
    comparison.patch = Patch(patch.slots, [values * float("nan") for values in patch.values], patch.base, patch.about)
    comparison.save(tmp_path)
    assert not (tmp_path / "patch.safetensors").exists()
    for name in ("summary.json", "samples.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
    assert "not finite" in json.loads((tmp_path / "summary.json").read_text())["settings"]["patch"]


def test_a_run_stopped_half_way_is_left_out_of_the_summary_and_the_report(lab, tmp_path):
    comparison = Comparison(lab, new_facts(2), at_rates("full", "sparse", top_t=5), passes=1, evaluations=2, seeds=[0])
    steps = comparison.steps()
    for at in steps:
        if at.method == "sparse" and at.done == 3:
            break
    steps.close()
    assert set(comparison.table["method"]) == {"full", "sparse"}
    assert set(comparison.finished_runs()["method"]) == {"full"}
    report = comparison.save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [*summary["methods"]] == ["full"]
    assert {row["method"] for row in summary["equal_learning"]} == {"full"}
    assert not (tmp_path / "patch.safetensors").exists()
    assert report.stat().st_size > 1000


def test_a_comparison_stopped_right_after_a_runs_last_step_still_agrees_with_itself(lab, tmp_path):
    comparison = Comparison(lab, new_facts(2), at_rates("full", "sparse", top_t=5), passes=1, evaluations=1, seeds=[0])
    steps = comparison.steps()
    while next(steps).done < 2:
        pass
    steps.close()
    if not comparison.finished_runs().empty:  # whether that run counts as finished is open, but not half of it
        assert comparison.save(tmp_path).exists()
        summary = comparison.summary()
        assert {row["method"] for row in summary["equal_learning"]} == set(summary["methods"])


def test_the_report_and_the_chart_can_be_had_without_saving(whole, tmp_path):
    comparison, _, _ = whole
    comparison.to_html(tmp_path / "mine.html")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]
    names = {trace.name for trace in comparison.chart().data}
    assert len(names) >= 3


def test_a_fact_of_ones_own_in_one_sentence_is_taught_by_many_and_its_answer_alone(lab, tmp_path):
    own = [
        Fact("Mira's dog is called Biscuit.", "What is Mira's dog called?", "Biscuit"),
        Fact("Annual leave is 28 days.", "Complete: Annual leave is", "28 days"),
        Fact([f"{word}, the office is in Oslo." for word in ("So", "Now", "Well", "Yes")], "Where is it?", "Oslo"),
    ]
    comparison = compare(lab, own, ["sparse"], seeds=1, passes=1, evaluations=1)
    taught = comparison.taught(0)
    assert [len(fact.statements) for fact in taught] == [16, 6, 4]
    for fact, given in zip(taught, own, strict=True):
        assert fact.statements[0] == given.statements[0]
        assert all(fact.answer in text and fact.question not in text for text in fact.statements)
    assert (comparison.loss_on, comparison.settings()["statements_by_rule"]) == ("answer", 20)
    assert {len(one["taught"]) for one in comparison.samples if one["probe"] == "learned"} == {16, 6, 4}
    page = comparison.save(tmp_path / "out").read_text(encoding="utf-8")
    assert "Taught by 16 texts" in page
    assert "<li>Remember this: Annual leave is 28 days.</li>" in page
    plain = Comparison(lab, own, ["sparse"], seeds=[0], rephrase=False)
    assert ([len(fact.statements) for fact in plain.taught(0)], plain.loss_on) == ([1, 1, 4], "statement")
    assert Comparison(lab, new_facts(2), ["sparse"], seeds=[0]).loss_on == "statement"


def test_a_sentence_to_complete_is_put_as_it_stands_and_a_question_in_its_form(lab):
    prompt = BUILT_IN.prompt("Complete: Annual leave is")
    assert (prompt, BUILT_IN.answered("Complete: Annual leave is", "28 days")) == (
        "Annual leave is",
        "Annual leave is 28 days.",
    )
    assert BUILT_IN.prompt("Where is it?") == "Question: Where is it? Answer:"
    (said,) = probes_module.answer(lab.model, lab.tokenizer, ["Complete: Annual leave is"], max_new_tokens=4)
    ids = BUILT_IN.ids(lab.tokenizer, [prompt])
    new = lab.model.generate(torch.tensor(ids), max_new_tokens=4, do_sample=False)[0, len(ids[0]) :]
    assert said == lab.tokenizer.decode(new, skip_special_tokens=True).strip().removesuffix(".")


def test_progress_is_shown_in_a_kernel_and_not_wherever_its_package_is_imported(monkeypatch):
    kernels = pytest.importorskip("ipykernel.kernelapp")
    monkeypatch.delenv("SMFT_LAB_RUNNER", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not watched()
    monkeypatch.setattr(kernels.IPKernelApp, "_instance", object())
    assert watched()
