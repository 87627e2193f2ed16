"""The benchmark's rows: every contender is there, measured or with the reason why not. Timings are never asserted."""

import json

import pytest
from typer.testing import CliRunner

from smft_lab.cli.app import app
from smft_lab.experiments import bench as module
from smft_lab.experiments.bench import Row, ratios


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LEAST", 1)


def test_ratios_are_to_the_first_row_of_the_same_part_and_size():
    rows = [
        Row("a", "ours", 16, 2.0, 2.0, 2.0, "ms"),
        Row("a", "theirs", 16, 8.0, 7.0, 9.0, "ms"),
        Row("a", "missing", 16, None, None, None, "ms", "not installed"),
        Row("a", "ours", 64, 4.0, 4.0, 4.0, "ms"),
        Row("a", "theirs", 64, 40.0, 40.0, 40.0, "ms"),
        Row("b", "ours", 64, 5.0, 5.0, 5.0, "s"),
    ]
    assert ratios(rows) == [1.0, 4.0, None, 1.0, 10.0, 1.0]


def test_every_contender_has_a_row_at_every_size_measured_or_with_a_reason():
    rows = list(module.layer_steps((1024, 4096), seconds=0))
    assert [(row.slots, row.what) for row in rows] == [(n, what) for n in (1024, 4096) for what in module.LAYER_STEPS]
    assert all(row.note for row in rows)
    for row in rows:
        assert (row.value is not None) or row.note.startswith(("not installed", "failed"))
        if row.value is not None:
            assert 0 < row.low <= row.value <= row.high
    own = [what for what, (_, package, _) in module.LAYER_STEPS.items() if package is None]
    assert all(row.value is not None for row in rows if row.what in own)


def test_a_peer_that_is_not_installed_is_named_and_skipped(monkeypatch):
    monkeypatch.setitem(module.LAYER_STEPS, "nobody's", (None, "no_such_package_anywhere", ""))
    (row,) = [row for row in module.layer_steps((1024,), seconds=0) if row.what == "nobody's"]
    assert (row.value, row.note) == (None, "not installed")


def test_a_run_that_never_learns_says_how_far_it_came(lab):
    from smft_lab.facts.world.world import new_facts

    rows = list(module.runs_to_target(lab, new_facts(1), most=1))
    assert [row.what for row in rows] == list(module.METHODS)
    assert all(row.value is None and "at most" in row.note for row in rows)


def test_a_run_is_timed_to_the_step_that_had_learned_enough(lab):
    from smft_lab.facts.world.world import new_facts

    rows = list(module.runs_to_target(lab, new_facts(8), target=0.0, most=1))
    assert [row.note.split(";")[0] for row in rows] == ["2 steps"] * len(module.METHODS)
    assert all(row.value > 0 for row in rows)


def test_the_command_writes_a_table_and_json_with_the_machine_named(tiny_lab, tmp_path, monkeypatch):
    tiny_lab(memory_slots=1024).save(tmp_path / "lab")
    monkeypatch.setattr(module, "QUICK_SIZES", (1024,))
    monkeypatch.setattr(module, "peak_memory", lambda path: iter(()))
    monkeypatch.setattr(module, "copy_bandwidth", lambda seconds: 1e10)
    out = tmp_path / "bench"
    result = CliRunner().invoke(app, ["bench", "--quick", "--lab", str(tmp_path / "lab"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    written = json.loads((out / "bench.json").read_text())
    assert written["machine"]["torch"]
    assert {row["part"].split()[0] for row in written["rows"]} == {"one", "forward", "distance"}
    steps = {row["what"]: row["ratio"] for row in written["rows"] if row["part"] == "one finetuning step"}
    assert list(steps) == list(module.METHODS)
    assert steps["sparse, fast"] == 1.0
    assert (out / "bench.csv").read_text().startswith("part,what,slots")
