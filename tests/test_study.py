"""The study of a real model: which settings there are, how results are read, and what the page says."""

import json
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

from smft_lab.cli.app import app
from smft_lab.recipe import EARLIER, PAPER
from smft_lab.reproduce.real import LATER_FIELDS, RetrofitJob
from smft_lab.reproduce.study import (
    CENTRES,
    RATES,
    ablation_jobs,
    best_rates,
    block_jobs,
    comparison_jobs,
    many_jobs,
    markdown,
    own_jobs,
    page,
    rates_of,
    readings,
    sweep_jobs,
)

DRAFT = RetrofitJob(data="data")


def keep(folder, job, learned, known, text=0.0, found=None):
    """A result as a job leaves it: measurements at steps 0, 50 and 100."""
    rows = []
    for step, one, other in zip((0, 50, 100), (0.0, *learned), (1.0, *known), strict=True):
        told = {"learned": one, "taught": min(2 * one, 1.0), "prefixed": 1 - one, "known": other}
        rows += [{"step": step, "probe": probe, "metric": "em", "value": value} for probe, value in told.items()]
        rows.append({"step": step, "probe": "text", "metric": "nll", "value": 3.0 + text * step / 100})
    found = {"seconds": 60.0, "steps": 100, "texts": 8, **(found or {})}
    folder.mkdir(parents=True, exist_ok=True)
    result = {"config": asdict(job), "rows": rows, "found": found, "seconds": 70.0}
    (folder / f"{job.key}.json").write_text(json.dumps(result))


def test_a_baselines_result_is_named_by_what_the_recipe_says_of_all_methods():
    full = replace(DRAFT, method="full")
    assert full.key == replace(full, switches=(("top_t", 5),)).key
    assert full.key != replace(full, switches=(("batch_size", 5),)).key
    assert full.key != DRAFT.key


def test_a_result_is_named_by_the_whole_recipe_and_not_by_where_the_data_lie():
    assert DRAFT.key == replace(DRAFT, data="elsewhere").key
    assert DRAFT.key != replace(DRAFT, block=5).key
    assert DRAFT.key != replace(DRAFT, switches=(("top_t", 5),)).key
    assert replace(DRAFT, switches=(("top_t", 5),)).recipe.top_t == 5


def test_a_switch_that_came_later_leaves_the_names_of_earlier_results():
    without = replace(DRAFT, switches=tuple(EARLIER.items()))
    assert without.key == replace(DRAFT, switches=(("floor", 0.0),)).key != DRAFT.key
    recipe = DRAFT.recipe.to_dict()
    assert all(PAPER.to_dict()[name] == off for name, off in EARLIER.items())
    assert EARLIER.keys() < recipe.keys()


def test_a_field_that_came_later_leaves_the_names_of_earlier_results():
    assert asdict(RetrofitJob()).items() > LATER_FIELDS.items()
    assert DRAFT.key == replace(DRAFT, **LATER_FIELDS).key
    for name, other in {"known": 200, "kind": "facts", "source": "questions"}.items():
        assert replace(DRAFT, **{name: other}).key != DRAFT.key


def test_every_switch_of_the_ablation_differs_from_the_recipe():
    for centre in CENTRES.values():
        jobs = ablation_jobs(DRAFT, 1, centre)
        keys = [job.key for mine in jobs.values() for job in mine]
        assert len(set(keys)) == len(keys)
        around = jobs["as it is"][0].recipe
        assert around == replace(DRAFT, switches=tuple(centre.items())).recipe
        assert jobs["half of t"][0].recipe.top_t == round(around.top_t / 2)
        assert jobs["twice the rate"][0].recipe.lr == pytest.approx(2 * around.lr)
        assert jobs["with a gate and projection, untrained"][0].recipe.gate
    assert jobs.keys() ^ ablation_jobs(DRAFT, 1, {}).keys() == {
        "all tokens counted",
        "only shared tokens counted",
        "no floor",
    }


def test_other_rates_are_tried_where_they_are_named():
    assert rates_of(()) == RATES
    rates = rates_of(["full=1e-3", "full=0.002"])
    assert rates == {**RATES, "full": (1e-3, 2e-3)}
    jobs = sweep_jobs(DRAFT, rates)
    assert [job.lr for (job,) in jobs.values() if job.method == "full"] == [1e-3, 2e-3]
    for wrong in ("full", "full=", "sparse=1", "lora=-1", "lora=nan"):
        with pytest.raises(ValueError, match="as full=1e-4"):
            rates_of([wrong])


def test_a_baseline_is_compared_at_the_rate_that_learns_and_keeps_most(tmp_path):
    jobs = sweep_jobs(DRAFT)
    for name, (job,) in jobs.items():
        rate = float(name.split(", ")[1])
        # The higher the rate, the more is lost; the lowest learns too little.
        reached = rate > min(one.lr for (one,) in jobs.values() if one.method == job.method)
        keep(tmp_path, job, (0.5, 1.0 if reached else 0.6), (0.9, 0.9 - 100 * rate))
    best = best_rates(jobs, tmp_path)
    assert best == {method: sorted(rates)[1] for method, rates in RATES.items()}
    for (job,) in jobs.values():  # all keep alike, and the highest rate takes fewest steps
        rates = RATES[job.method]
        keep(tmp_path, job, (1.0 if job.lr == max(rates) else 0.5, 1.0), (0.9 - 0.01 * (job.lr == max(rates)), 0.9))
    assert best_rates(jobs, tmp_path) == {method: max(rates) for method, rates in RATES.items()}
    compared = comparison_jobs(DRAFT, 2, best)
    assert {job.lr for job in compared["full"]} == {best["full"]}
    assert [len(mine) for mine in compared.values()] == [2] * 9
    with pytest.raises(ValueError, match="run the part sweep first"):
        comparison_jobs(DRAFT, 2, {"full": 3e-5})


def test_what_is_lost_is_read_where_enough_was_learned(tmp_path):
    (job,) = block_jobs(DRAFT, {})["block 2"]
    keep(tmp_path, job, (0.96, 1.0), (0.8, 0.6), text=0.1)
    at_the_end = readings({"one": [job]}, tmp_path).iloc[0]
    assert at_the_end["learned"] == 100
    assert at_the_end["known lost"] == pytest.approx(40)
    assert at_the_end["text, nats"] == pytest.approx(0.1)
    at_target = readings({"one": [job]}, tmp_path, equal=True).iloc[0]
    assert at_target["learned"] == pytest.approx(96)
    assert at_target["known lost"] == pytest.approx(20)
    assert at_target["steps"] == 50
    assert at_target["seconds"] == pytest.approx(30)


def test_the_page_has_a_line_per_setting_with_intervals_and_the_agreement_of_the_meter(tmp_path):
    blocks = block_jobs(DRAFT, {})
    for i, (job,) in enumerate(blocks.values()):
        keep(tmp_path, job, (0.1, 1 - i / 10), (1.0, 1.0), found={"addresses": {"same": 0.5 - i / 100, "different": 0}})
    ablation = {name: mine for name, mine in ablation_jobs(DRAFT, 2, {}).items() if name in ("SGD", "k = 4")}
    for i, job in enumerate(ablation["SGD"]):
        keep(tmp_path, job, (0.0, i / 2), (1.0, 1.0))
    text = page({"blocks": blocks, "ablation": ablation}, tmp_path, ["About."])
    told = text.partition(f"the address margin and what is learned, {len(blocks)} blocks: ")[2].partition("\n")[0]
    assert told.startswith("learned 1.00 (p = ")
    assert "prefixed -1.00" in told
    assert "taught" not in told  # alike everywhere
    assert "| SGD | 2 | 25 [" in text
    assert "k = 4" not in text  # it has not been run
    assert "| block 0 | 1 | 100 |" in text


def test_switches_are_shown_once_there_is_what_they_are_turned_away_from(tmp_path):
    jobs = ablation_jobs(DRAFT, 1, {})
    keep(tmp_path, jobs["SGD"][0], (0.0, 0.5), (1.0, 1.0))
    assert "SGD" not in page({"ablation": jobs}, tmp_path, ["About."])
    keep(tmp_path, jobs["as it is"][0], (0.0, 1.0), (1.0, 1.0))
    assert "SGD" in page({"ablation": jobs}, tmp_path, ["About."])


def test_the_page_has_the_control_of_a_memory_in_which_nothing_is_written(tmp_path):
    jobs = {"sparse": [replace(DRAFT, seed=seed) for seed in range(2)]}
    for job in jobs["sparse"]:
        keep(tmp_path, job, (0.9, 1.0), (0.8, 0.7))
    text = page({"comparison": jobs}, tmp_path, ["About."])
    assert "| a memory, nothing taught | 2 | 0 [0, 0] | 0 [0, 0] | 100 [100, 100] | 0.0 [0.0, 0.0] |" in text


def test_a_table_without_a_column_is_drawn_without_it(tmp_path):
    (job,) = block_jobs(DRAFT, {})["block 0"]
    keep(tmp_path, job, (0.0, 1.0), (1.0, 1.0))
    table = markdown(readings({"one": [job]}, tmp_path), {"learned": 0, "HellaSwag lost": 1})
    assert table.splitlines()[0] == "| setting | runs | learned |"


def test_a_source_that_is_not_the_usual_one_has_results_of_its_own(tmp_path):
    handbook = tmp_path / "handbook.jsonl"
    handbook.write_text(json.dumps({"statements": ["The code is 7."], "question": "Which code?", "answers": ["7"]}))
    own = own_jobs(DRAFT, {"full": 3e-5, "lora": 3e-4}, handbook)
    assert own["handbook, sparse"][0].facts == 1
    keys = [job.key for mine in own.values() for job in mine]
    assert len(set(keys)) == len(keys)
    many = many_jobs(DRAFT, 2, {"full": 3e-5, "lora": 3e-4})
    assert not set(keys) & {job.key for mine in many.values() for job in mine}
    assert many["sparse"][0].facts == own["200 questions, sparse"][0].facts == 200
    told = own_jobs(DRAFT, {"full": 3e-5, "lora": 3e-4}, handbook, "facts")["handbook, sparse"][0]
    assert (told.kind, told.key == own["handbook, sparse"][0].key) == ("facts", False)
    before = own["handbook, sparse"][0].key
    handbook.write_text(handbook.read_text().replace("7", "8"))
    assert own["handbook, sparse"][0].key != before


def test_every_part_of_the_study_can_be_read_by_the_command(tmp_path):
    handbook = tmp_path / "handbook.jsonl"
    handbook.write_text(json.dumps({"statements": ["The code is 7."], "question": "Which code?", "answers": ["7"]}))
    for (job,) in sweep_jobs(DRAFT).values():
        keep(tmp_path / "out" / "runs", job, (0.5, 1.0), (0.9, 0.8))
    read = ["study", "--read", "--data", "data", "--out", str(tmp_path / "out"), "--handbook", str(handbook)]
    done = CliRunner().invoke(app, [*read, "--facts", str(DRAFT.facts), "--block", str(DRAFT.block)])
    assert done.exit_code == 0, done.output
    assert "## Sweep" in (tmp_path / "out" / "README.md").read_text()


def test_a_readme_that_is_not_the_studys_is_not_replaced(tmp_path):
    (tmp_path / "README.md").write_text("# Mine")
    done = CliRunner().invoke(app, ["study", "--read", "--data", "data", "--out", str(tmp_path)])
    assert isinstance(done.exception, ValueError)
    assert "README.md is not a page of this command" in str(done.exception)
    assert (tmp_path / "README.md").read_text() == "# Mine"
