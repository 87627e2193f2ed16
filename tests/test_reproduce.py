"""The reproduction: a job has one result wherever it runs, a killed sweep goes on, and claims say what was measured."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import plotly.graph_objects as go
import psutil
import pytest
from page_policy import Scripts, allowed

from smft_lab.cli.reproduce import NAMES
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.teaching import batches
from smft_lab.lab import load
from smft_lab.reproduce import charts, plan, scale
from smft_lab.reproduce import jobs as jobs_module
from smft_lab.reproduce.beyond import _known_of_quarters
from smft_lab.reproduce.claims import Claim
from smft_lab.reproduce.experiments import EXPERIMENTS
from smft_lab.reproduce.jobs import Job, run_job, with_defaults
from smft_lab.reproduce.page import FIELDS, claims_text, report_html, runs_text
from smft_lab.reproduce.sweep import read_result, result_file, sweep, table_of
from smft_lab.reproduce.tables import known_in_stream
from smft_lab.reproduce.verdicts import (
    AGREES,
    DIFFERS,
    OPEN,
)
from smft_lab.training.pretrain import PretrainRecord

ABOUT = {"seeds": 2, "parameters": 1_234_567, "slots": 4_096, "reads per token": 32}
SMALL = Job(facts=2, passes=2, evaluations=2)
SWEEP = """
import sys
from smft_lab.lab import load
from smft_lab.reproduce.sweep import sweep
sys.path.insert(0, sys.argv[3])
from test_reproduce import grid
print("ready", flush=True)
for done in sweep(grid(sys.argv[1]), sys.argv[2]):
    pass
"""


def grid(folder) -> list[Job]:
    """Eight small jobs on the lab in `folder`."""
    lab = load(folder)
    template = replace(SMALL, lab=str(folder), method="sparse", lr=0.5)
    return [with_defaults(replace(template, seed=seed, top_t=t), lab) for seed in range(2) for t in (5, 10, 20, 40)]


@pytest.fixture(scope="module")
def saved(tiny_lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "tiny"
    lab = tiny_lab(memory_slots=1024)
    lab.world_seed = None  # so that it is loaded with the few probes it has
    lab.save(folder)
    return folder


def drain(*args, **options) -> list:
    return list(sweep(*args, **options))


def values(jobs, folder) -> list[dict]:
    """What was measured, without what differs from one machine to the next."""
    table = table_of(jobs, folder).drop(columns=["lab"])
    return table.round({"value": 4}).to_dict("records")


def test_a_new_field_at_its_default_leaves_the_names_of_results_as_they_were():
    @dataclass(frozen=True)
    class Later(Job):
        extra: float = 0.0

    assert Later(seed=1).key == Job(seed=1).key != Job().key
    assert Later(extra=0.5).key != Later().key
    assert Job(lab="elsewhere").key == Job().key


def test_a_job_has_the_same_result_twice_and_leaves_the_base(saved):
    job = grid(saved)[0]
    one, two = run_job(job), run_job(job)
    assert one["rows"] == two["rows"]
    assert one["found"]["rows_changed"] > 0
    assert one["found"]["kl_on_taught"] == pytest.approx(two["found"]["kl_on_taught"])
    lab = jobs_module.opened(str(saved))
    assert all((tensor == lab.base(name)).all() for name, tensor in lab.model.state_dict().items())


def test_the_rank_of_lora_is_the_jobs(saved):
    lab = load(saved)
    jobs = [with_defaults(replace(SMALL, lab=str(saved), method="lora", rank=rank), lab) for rank in (0, 4)]
    tuned, four = (run_job(job)["found"]["trainable_per_step"] for job in jobs)
    assert tuned == 4 * four


def test_a_jobs_name_depends_on_what_it_says_and_not_on_where_the_lab_lies(saved):
    job = grid(saved)[0]
    assert replace(job, lab="elsewhere").key == job.key
    for other in ({"seed": 9}, {"top_t": 6}, {"background": "facts"}, {"base": "x"}, {"passes": 3}):
        assert replace(job, **other).key != job.key


def test_a_job_made_for_another_base_is_refused(saved):
    with pytest.raises(ValueError, match="was made for base x"):
        run_job(replace(grid(saved)[0], base="x"))


def test_what_has_a_result_does_not_run_again(saved, tmp_path, monkeypatch):
    jobs = grid(saved)
    assert [done for done, _, _ in drain(jobs[:2], tmp_path)] == [0, 1, 2]
    ran = []
    monkeypatch.setattr("smft_lab.reproduce.jobs.run_job", lambda job, _: ran.append(job) or run_job(job))
    assert [done for done, _, _ in drain([*jobs[:3], jobs[2]], tmp_path)] == [2, 3]
    assert ran == [jobs[2]]


def test_the_background_changes_what_is_selected_and_is_put_back(saved):
    lab = jobs_module.opened(str(saved))
    own = lab.usage
    job = replace(grid(saved)[1], background="facts")
    assert run_job(job)["rows"] != run_job(replace(job, background="pretraining"))["rows"]
    assert lab.usage is own


def test_a_sweep_killed_twice_gives_the_table_of_an_undisturbed_one(saved, tmp_path):
    jobs = grid(saved)
    drain(jobs, tmp_path / "whole")
    rng = random.Random(5)
    for _ in range(2):
        command = [sys.executable, "-c", SWEEP, str(saved), str(tmp_path / "killed"), os.path.dirname(__file__)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.4))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    left = len(jobs) - len(list((tmp_path / "killed").glob("*.json")))
    assert left
    cluster = pytest.importorskip("distributed")
    with cluster.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
        ends = drain(jobs, tmp_path / "killed", backend="dask", address=local.scheduler_address)
    assert len(ends) == left + 1  # and what there was before
    assert ends[-1][0] == len(jobs)
    assert values(jobs, tmp_path / "killed") == values(jobs, tmp_path / "whole")
    assert sorted(os.listdir(tmp_path / "killed")) == sorted(f"{job.key}.json" for job in jobs)


@dataclass(frozen=True)
class Waiting:
    """A job that takes longer than any test."""

    key: str
    folder: str

    def run(self, device: str) -> dict:
        (Path(self.folder) / self.key).touch()
        time.sleep(600)
        return {"rows": [], "found": {}}


@dataclass(frozen=True)
class Meeting:
    """A job that ends once another one runs beside it, and says in which process it ran."""

    key: str
    folder: str

    def run(self, device: str) -> dict:
        (Path(self.folder) / f"{self.key} is here").touch()
        until = time.monotonic() + 60
        while len(list(Path(self.folder).glob("* is here"))) < 2:
            assert time.monotonic() < until, "nobody came"
            time.sleep(0.02)
        return {"rows": [], "found": {"process": os.getpid()}}


@contextmanager
def two_of(backend: str):
    """The options of a sweep over two workers."""
    if backend == "local":
        yield {"workers": 2}
    elif backend == "dask":
        cluster = pytest.importorskip("distributed")
        with cluster.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
            yield {"backend": "dask", "address": local.scheduler_address}
    else:
        ray = pytest.importorskip("ray", reason="pip install smft-lab[ray]")
        ray.init(num_cpus=2, include_dashboard=False)
        try:
            yield {"backend": "ray"}
        finally:
            ray.shutdown()


@pytest.mark.parametrize("backend", ["local", "dask", "ray"])
def test_two_workers_are_two_processes_at_the_same_time(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    jobs = [Meeting(key, str(tmp_path)) for key in ("a", "b")]
    with two_of(backend) as options:
        drain(jobs, tmp_path, **options)
    ran = {json.loads(result_file(tmp_path, job).read_text())["found"]["process"] for job in jobs}
    assert len(ran) == 2
    assert os.getpid() not in ran


WAIT = """
import sys
sys.path.insert(0, sys.argv[2])
from test_reproduce import Waiting
from smft_lab.reproduce.sweep import sweep
list(sweep([Waiting("a", sys.argv[1]), Waiting("b", sys.argv[1])], sys.argv[1], workers=2))
"""


def test_the_workers_of_a_killed_sweep_end_with_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WAIT, str(tmp_path), os.path.dirname(__file__)])
    until = time.monotonic() + 240  # a busy machine starts workers slowly
    while len(os.listdir(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    for worker in alive:
        worker.kill()
    assert not alive


def test_two_local_processes_give_the_table_of_one(saved, tmp_path):
    jobs = grid(saved)[:4]
    drain(jobs, tmp_path / "one")
    drain(jobs, tmp_path / "two", workers=2)
    assert values(jobs, tmp_path / "one") == values(jobs, tmp_path / "two")


def test_a_ray_cluster_gives_the_table_of_one_process(saved, tmp_path):
    jobs = grid(saved)[:4]
    with two_of("ray") as options:
        drain(jobs, tmp_path / "ray", **options)
    drain(jobs, tmp_path / "one")
    assert values(jobs, tmp_path / "one") == values(jobs, tmp_path / "ray")


def test_a_file_that_is_no_result_is_named(saved, tmp_path):
    job = grid(saved)[0]
    for text in ("{", '{"rows": {}, "found": {}, "seconds": 1}'):
        result_file(tmp_path, job).write_text(text)
        with pytest.raises(ValueError, match=f"{job.key}.json is no result of a job; delete it"):
            drain([job], tmp_path)


def changed_result(result: dict, how: str) -> dict:
    row = result["rows"][0]
    return {
        "no rows": lambda: result | {"rows": []},
        "no seconds": lambda: {name: value for name, value in result.items() if name != "seconds"},
        "more fields": lambda: result | {"more": 1},
        "another job": lambda: result | {"config": result["config"] | {"top_t": 7}},
        "half a config": lambda: result | {"config": {"method": "sparse"}},
        "nothing found": lambda: result | {"found": {}},
        "found a text": lambda: result | {"found": result["found"] | {"known": "all"}},
        "a key": lambda: result | {"rows": [row | {"key": "<b>harmless</b>"}]},
        "no probe": lambda: result | {"rows": [{name: row[name] for name in ("step", "metric", "value")}]},
        "nan": lambda: result | {"rows": [row | {"value": float("nan")}]},
        "infinity": lambda: result | {"seconds": float("inf")},
        "a share over 1": lambda: result | {"rows": [row | {"metric": "em", "value": 1.5}]},
        "a share below 0": lambda: result | {"rows": [row | {"metric": "f1", "value": -0.1}]},
        "a text": lambda: result | {"rows": [row | {"value": "<b>harmless</b>"}]},
        "a step before the first": lambda: result | {"rows": [row | {"step": -1}]},
        "half a step": lambda: result | {"rows": [row | {"step": 0.5}]},
        "a row twice": lambda: result | {"rows": [*result["rows"], row]},
        "no base": lambda: result | {"rows": [row for row in result["rows"] if row["step"]]},
        "no share": lambda: result | {"rows": [row | {"metric": "f1", "value": None}, *result["rows"][1:]]},
        "a number that no float holds": lambda: result | {"seconds": 10**400},
        "less than no seconds": lambda: result | {"seconds": -1.0},
        "the base alone": lambda: result | {"rows": [row for row in result["rows"] if not row["step"]]},
        "no end": lambda: result | {"rows": [*result["rows"], row | {"step": 10**6}]},
    }[how]()


BAD = (
    "no rows",
    "no seconds",
    "more fields",
    "another job",
    "half a config",
    "nothing found",
    "found a text",
    "a key",
    "no probe",
    "nan",
    "infinity",
    "a share over 1",
    "a share below 0",
    "a text",
    "a step before the first",
    "half a step",
    "a row twice",
    "no base",
    "no share",
    "a number that no float holds",
    "less than no seconds",
    "the base alone",
    "no end",
)
FOUND_BY_HAND = {
    "trainable_per_step": [None, {"a": None}, [1], True, -1],
    "kl_on_taught": [[0.5], {}],
    "known": [
        {},
        [],
        [{"step": 0}],
        [{"step": 0, "known": [2]}],
        [{"step": 0, "known": [0, 1]}, {"step": 2, "known": [0]}],
        [{"step": 2, "known": [0]}, {"step": 0, "known": [0]}],
        [{"step": "0", "known": [0]}],
    ],
    "facts": ["a", [1], ["one", "fact", "too many"]],
    "tokens": [[["a"]], [[["a", -1]]], [[[1, 1]]], [[1]]],
    "addresses": [{"same": 0.5}, {"same": "much", "different": 0.1}, 0.5],
    "anything": ["<b>harmless</b>", None],
}


@pytest.fixture(scope="module")
def good(saved):
    job = grid(saved)[0]
    return job, run_job(job)


@pytest.mark.parametrize("how", BAD)
def test_a_result_that_its_job_can_not_have_had_is_refused(how, good, tmp_path):
    job, result = good
    file = result_file(tmp_path, job)
    file.write_text(json.dumps(result))
    assert read_result(tmp_path, job)["rows"] == result["rows"]
    file.write_text(json.dumps(changed_result(result, how)))
    with pytest.raises(ValueError, match=f"^{file} is no result of a job; delete it"):
        read_result(tmp_path, job)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, of in FOUND_BY_HAND.items() for value in of])
def test_what_no_job_finds_is_refused_though_its_name_is_known(name, value, good, tmp_path):
    job, result = good
    file = result_file(tmp_path, job)
    result_file(tmp_path, job).write_text(json.dumps(result | {"found": result["found"] | {name: value}}))
    with pytest.raises(ValueError, match=f"^{file} is no result of a job; delete it"):
        read_result(tmp_path, job)


MARKED = "<em>harmless</em></script> {{ 7 * 7 }} ' \" & | \n# not a heading"


def test_no_text_of_a_result_or_a_claim_is_more_than_text_on_the_page(tmp_path):
    claim = Claim(MARKED, MARKED, MARKED, AGREES, why=MARKED)
    table = pd.DataFrame([{**dict.fromkeys(FIELDS, MARKED), "key": MARKED}])
    figure = go.Figure(go.Bar(x=[MARKED], y=[1]))
    experiment = SimpleNamespace(
        name=MARKED, title=MARKED, paper=MARKED, draw=[lambda *_: figure], label=lambda job: MARKED
    )
    about = {**ABOUT, MARKED: MARKED}
    text = report_html(about, [(experiment, table, {}, [claim])])
    page = Scripts(text)
    assert "em" not in page.tags
    assert allowed(page)
    assert len(page.scripts) == 2
    drawn = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text).group(1)
    assert json.loads(drawn)["chart0-0"]["data"][0]["x"] == [MARKED]
    part = (experiment, table, {}, [claim])
    for text in (claims_text(about, [part]), runs_text([part], "runs")):
        assert not any("<em>" in line or line.startswith("# not") for line in text.splitlines())


def test_another_table_is_not_taken_for_the_shipped_one(saved, tmp_path, monkeypatch):
    lab = load(saved)
    lab.world_seed = 0
    monkeypatch.setattr(plan, "opened", lambda *_: lab)
    with pytest.raises(ValueError, match=r"scale: other tables are set beside one of 57,600 slots.* 1,024 with 4"):
        plan.Plan(["scale", "cost"], 1, True, saved, tmp_path)


def test_an_unknown_backend_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="no backend 'slurm'"):
        drain(grid(saved)[:1], tmp_path, backend="slurm")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder in which all experiments keep their results, since many have jobs in common."""
    return tmp_path_factory.mktemp("results")


def repeat(job: Job, seed: int, folder) -> Job:
    """The job with another seed; its result is the job's, so that nothing has to be run."""
    other = replace(job, seed=seed)
    result = json.loads(result_file(folder, job).read_text())
    result_file(folder, other).write_text(json.dumps({**result, "config": {**result["config"], "seed": seed}}))
    return other


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_and_reads_its_own_results(name, saved, results):
    lab = load(saved)
    few = 1 if name in ("retention", "capacity", "protect") else 2
    template = replace(SMALL, lab=str(saved), facts=few, passes=1, evaluations=1)
    jobs = [with_defaults(job, lab) for job in EXPERIMENTS[name].jobs(template)]
    drain(jobs, results)
    jobs += [repeat(job, 1, results) for job in jobs]
    table = table_of(jobs, results)
    found = {job.key: json.loads(result_file(results, job).read_text())["found"] for job in jobs}
    claims = EXPERIMENTS[name].read(table, found)
    assert claims
    assert {claim.verdict for claim in claims} <= {AGREES, DIFFERS, OPEN}
    page = report_html(ABOUT, [(EXPERIMENTS[name], table, found, claims)])
    assert all(f"{job.key}.json" in page for job in jobs)
    lines = claims_text(ABOUT, [(EXPERIMENTS[name], table, found, claims)]).splitlines()
    assert all(any(claim.text in line and claim.in_words in line for line in lines) for claim in claims)
    assert "| seeds | 2 |" in lines


def test_a_model_of_its_own_is_pretrained_once_as_the_job_says_and_the_job_runs_on_it(saved, tmp_path, monkeypatch):
    asked = []

    def fake(folder, settings):
        asked.append((settings.memory_slots, settings.memory_k, settings.steps))
        load(saved).save(folder)  # as `pretrain` does, with its locks
        yield PretrainRecord(settings.steps, 1.0, {})

    monkeypatch.setattr(scale, "pretrain", fake)
    template = replace(SMALL, k=2, pretraining=7, top_t=10)
    jobs = [replace(template, slots=slots, seed=seed) for slots in (64, 256) for seed in (0, 1)]
    for _ in range(2):
        for _ in plan.pretrain_models([*jobs, SMALL], tmp_path):
            pass
    assert asked == [(64, 2, 7), (256, 2, 7)]
    whole = plan.whole_job(replace(jobs[0], lab=str(saved)), tmp_path)
    assert whole.lab == str(scale.model_folder(jobs[0], tmp_path))
    assert run_job(whole)["config"]["slots"] == 64


def test_a_model_of_its_own_is_taught_with_the_settings_of_the_lab_and_needs_not_be_there_to_be_named(saved, tmp_path):
    own = plan.whole_job(replace(SMALL, lab=str(saved)), tmp_path)
    other = plan.whole_job(replace(SMALL, lab=str(saved), slots=64, k=2, pretraining=7), tmp_path)
    assert (other.lr, other.top_t, other.optimizer) == (own.lr, own.top_t, own.optimizer)
    assert not other.base


def test_a_result_names_no_folder_of_the_machine(saved):
    config = run_job(grid(saved)[0])["config"]
    assert config["lab"] == saved.name


def test_the_retention_matrix_has_its_facts_in_the_order_in_which_they_were_taught():
    facts = new_facts(8)
    taught = [owners[0] for owners, _ in batches(facts, 1, seed=3)]
    assert taught != sorted(taught)
    known = [{"step": n, "known": [int(i in taught[:n]) for i in range(8)]} for n in range(9)]
    table = known_in_stream(known, seed=3)
    assert table.columns.tolist() == list(range(9))
    for n in range(9):
        assert table[n].tolist() == [1] * n + [0] * (8 - n)
    assert _known_of_quarters(known[:6], 3) == {"first": 1, "second": 1, "third": 0.5, "last": 0}


def test_results_are_plain_json(saved, tmp_path):
    job = grid(saved)[0]
    drain([job], tmp_path)
    result = json.loads(result_file(tmp_path, job).read_text())
    assert set(result) == {"config", "rows", "found", "seconds"}
    assert result["config"]["base"] == job.base


def test_the_chart_of_core_sets_has_a_cell_per_token_in_the_order_of_its_statement():
    about = {"facts": ["Who?", "Where?"], "tokens": [[["", 5], ["Bel", 3]], [["", 5], [" in", 0], [" town", 1]]]}
    figure = charts.core_tokens(pd.DataFrame([{"key": "one", "seed": 0}]), {"one": about}, str)
    rows = {}
    for bar in figure.data:
        for question, text, core in zip(bar.y, bar.text, bar.marker.color, strict=True):
            rows.setdefault(question, []).append((text, core))
    assert rows == {"Who?": [("▷", 5), ("Bel", 3)], "Where?": [("▷", 5), ("in", 0), ("town", 1)]}


def test_the_help_of_reproduce_names_every_experiment():
    assert NAMES.split(", ") == list(EXPERIMENTS)


def test_the_page_has_a_column_for_every_setting_of_a_job_that_may_differ_within_an_experiment():
    alike = {"kind", "order", "evaluations", "pretraining", "lab", "base"}
    assert {*FIELDS} == {field.name for field in fields(Job)} - alike
