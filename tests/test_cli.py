"""The command line: a good run leaves its report, bad input one line and nothing else, Ctrl-C what was finished."""

import csv
import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
from safetensors import SafetensorError

import smft_lab
from smft_lab import cli
from smft_lab.cli.app import COMMANDS, app
from smft_lab.experiments import compare as compare_module
from smft_lab.facts.files import read_facts
from smft_lab.facts.world.world import World, new_facts
from smft_lab.finetuning.methods import Full, Lora, Sparse
from smft_lab.finetuning.methods import sparse as sparse_module
from smft_lab.finetuning.methods.full import FullTraining
from smft_lab.model.tokenizer import train_tokenizer
from smft_lab.probes import probes as probes_module
from smft_lab.recipe import RETROFIT
from smft_lab.storage import LAB_FILE
from smft_lab.training import memory_training, plain_model
from smft_lab.training import pretrain as pretrain_module
from smft_lab.writing import alone, write_atomically

TEXT = [f"Sentence {n} tells of a fox number {n} in the wood." for n in range(200)]
FILES = {"metrics.csv", "summary.json", "samples.json", "patch.safetensors", "report.html"}


@pytest.fixture(scope="module")
def one_lab(tiny_lab):
    return tiny_lab()


@pytest.fixture
def tiny(one_lab, monkeypatch):
    """Has the command line open one tiny lab, whatever --lab says; answers are two tokens long."""
    one_lab.reset()
    one_lab.defaults = {}
    monkeypatch.setattr("smft_lab.lab.load", lambda *_, **__: one_lab)
    answer = probes_module.answer

    def short(*args, **options):
        return answer(*args, **{**options, "max_new_tokens": 2})

    monkeypatch.setattr(probes_module, "answer", short)
    monkeypatch.setattr("smft_lab.lab.answer", short)
    return one_lab


@pytest.fixture
def smft(monkeypatch, capsys, tmp_path):
    """Runs a command line in an empty folder: exit code, lines on stdout, lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["smft-lab", *map(str, args)])
        capsys.readouterr()  # what the test printed before
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return 0 if code is None else code, said.out.splitlines(), said.err.splitlines()

    return call


def facts_file(folder, count: int = 2):
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(asdict(fact)) + "\n" for fact in new_facts(count)), encoding="utf-8")
    return path


# A good run -------------------------------------------------------------------------------------------


def test_compare_writes_its_files_and_prints_the_reports_path_last(tiny, smft, tmp_path):
    args = ("--facts", facts_file(tmp_path), "--methods", "sparse,full", "--passes", 1, "--seeds", 1, "--top-t", 5)
    code, out, err = smft("compare", *args, "--out", "my results/one")
    assert code == 0
    assert out == ["my results/one/report.html"]
    assert {path.name for path in (tmp_path / "my results/one").iterdir()} == FILES
    assert any("old_facts" in line for line in err)  # the summary stays out of a pipe's way
    assert "(mean over 1 seed)" in " ".join(" ".join(err).split())
    summary = json.loads((tmp_path / "my results/one/summary.json").read_text())
    assert summary["settings"]["facts"] == "2 facts from mine.jsonl"
    assert summary["settings"]["top_t"] == 5
    assert "stopped early" not in summary["settings"]
    assert summary["command"].startswith("smft-lab compare --facts")
    assert summary["command"].endswith("--out 'my results/one'")


def test_compare_teaches_by_switches_of_the_labs_recipe(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "recipe", replace(RETROFIT, top_t=5, passes=1, least_steps=1))
    args = ("--count", 1, "--methods", "sparse", "--seeds", 1, "--recipe", "floor=0", "--recipe", "lr=0.2")
    code, out, err = smft("compare", *args, "--out", "r")
    assert (code, out) == (0, ["r/report.html"]), err
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["settings"]["recipe"] == "retrofit, floor=0, lr=0.2"
    assert summary["methods"]["sparse"]["lr"] == 0.2
    assert "--recipe floor=0 --recipe lr=0.2" in summary["command"]
    assert "retrofit, floor=0, lr=0.2" in (tmp_path / "r/report.html").read_text()


def test_compare_teaches_each_seed_built_in_facts_of_its_own(tiny, smft, tmp_path, monkeypatch):
    taught, make = [], World.new_facts

    def recorded(world, count, seed):
        taught.append((world.seed, seed))
        return make(world, count, seed)

    monkeypatch.setattr(World, "new_facts", recorded)
    code, out, _ = smft("compare", "--count", 1, "--methods", "sparse", "--passes", 1, "--seeds", 2, "--out", "r")
    assert (code, out) == (0, ["r/report.html"])
    assert set(taught) == {(0, 0), (0, 1)}
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["settings"]["facts"] == "1 fact about people the model has never met"
    assert summary["settings"]["seeds"] == [0, 1]


def test_options_of_the_command_line_reach_the_comparison(tiny, smft, monkeypatch):
    seen = []

    class Recorded(compare_module.Comparison):
        def steps(self):
            seen.append(self)
            raise ValueError("seen enough")

    monkeypatch.setattr(compare_module, "Comparison", Recorded)
    options = ("--top-t", 7, "--passes", 3, "--seeds", 4, "--order", "shuffled", "--optimizer", "adam", "--count", 5)
    smft("compare", *options, "--methods", "sparse, sparse:tf")
    (one,) = seen
    assert (one.passes, [*one.seeds], one.order, one.n_facts) == (3, [0, 1, 2, 3], "shuffled", 5)
    assert one.chosen == {
        "sparse": Sparse(top_t=7, optimizer="adam"),
        "sparse:tf": Sparse(top_t=7, optimizer="adam", rule="tf"),
    }


def test_tuned_rates_are_used_and_shown(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr(Sparse, "rates", {"sgd": (3.0,)})
    monkeypatch.setattr(sparse_module, "TRIED", (4,))
    args = ("--count", 1, "--methods", "sparse", "--passes", 1, "--seeds", 1)
    code, _, _ = smft("compare", *args, "--tune", "--out", "r")
    assert code == 0
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["methods"]["sparse"]["lr"] == 3.0
    (row,) = summary["sweep"]
    assert (row["method"], row["lr"], row["top_t"], row["chosen"]) == ("sparse", 3.0, 4, True)
    assert summary["settings"]["top_t"] == 4


def test_tune_keeps_the_best_rates_with_the_lab(tiny, smft, tmp_path, monkeypatch):
    about = {"format": 1, "world_seed": 0, "defaults": {}}
    (tmp_path / LAB_FILE).write_text(json.dumps(about))
    for kind in (Sparse, Full, Lora):
        monkeypatch.setattr(kind, "rates", dict.fromkeys(kind.rates, (0.01,)))
    code, out, _ = smft("tune", "--lab", tmp_path, "--count", 1, "--passes", 1, "--top-t", 5)
    assert (code, out) == (0, [str(tmp_path / LAB_FILE)])
    kept = json.loads((tmp_path / LAB_FILE).read_text())
    assert {name: value for name, value in kept.items() if name != "defaults"} == {"format": 1, "world_seed": 0}
    assert {name: kept["defaults"][name]["lr"] for name in ("sparse", "full", "lora")} == dict.fromkeys(
        ("sparse", "full", "lora"), 0.01
    )
    assert len(kept["defaults"]["sweep"]) == 4


def test_a_stopped_sweep_keeps_the_methods_that_were_done(tiny, smft, tmp_path, monkeypatch):
    (tmp_path / LAB_FILE).write_text(json.dumps({"format": 1, "world_seed": 0, "defaults": {}}))
    for kind in (Sparse, Full, Lora):
        monkeypatch.setattr(kind, "rates", dict.fromkeys(kind.rates, (0.01,)))
    args = ("tune", "--lab", tmp_path, "--count", 1, "--passes", 1, "--top-t", 5)
    with monkeypatch.context() as patched:
        patched.setattr(FullTraining, "update", interrupt)
        code, out, err = smft(*args)
    assert (code, out) == (130, [])
    assert "stopped; sparse kept, and for the rest: --methods full,lora" in err
    assert set(json.loads((tmp_path / LAB_FILE).read_text())["defaults"]) == {"sparse", "sweep", "sweep_settings"}


def test_what_a_sweep_found_is_told_where_it_can_not_be_kept(tiny, smft, tmp_path, monkeypatch):
    (tmp_path / LAB_FILE).write_text(json.dumps({"format": 1, "world_seed": 0, "defaults": {}}))
    monkeypatch.setattr(Full, "rates", dict.fromkeys(Full.rates, (0.01,)))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("smft_lab.storage.save_defaults", full)
    code, out, err = smft("tune", "--lab", tmp_path, "--count", 1, "--passes", 1, "--methods", "full")
    assert (code, json.loads("\n".join(out))["defaults"]["full"]["lr"]) == (2, 0.01)
    assert "No space left on device" in err[-1]


def test_kind_says_what_a_file_of_facts_is_to_every_command_that_reads_one(tiny, smft, tmp_path):
    file = write(tmp_path / "mine.csv", b"instruction,input,output\nWho runs Vermo?,Briefly.,Ann Lee\n")
    asked = {}
    for kind in ([], ["--kind", "qa"]):
        args = ("--facts", file, "--methods", "full", "--passes", 1, "--seeds", 1, "--force", "--out", "out")
        assert smft("compare", *args, *kind)[0] == 0
        samples = json.loads((tmp_path / "out/samples.json").read_text())
        asked[len(kind)] = {one["question"] for one in samples if one["probe"] == "learned"}
    assert asked == {0: {"Who runs Vermo? Briefly."}, 2: {"Who runs Vermo?"}}
    for command in (["compare", "--out", "new"], ["attach", "smollm2", "--out", "new"]):
        code, _, err = smft(*command, "--facts", file, "--kind", "pairs")
        assert (code, "holds no rows" in err[0]) == (2, True)
        code, _, err = smft(*command, "--kind", "qa")
        assert (code, "give that too" in err[0]) == (2, True)


# Bad input --------------------------------------------------------------------------------------------


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def good_then(bad: bytes):
    return lambda folder: write(folder / "bad.jsonl", facts_file(folder, 1).read_bytes() + bad)


BAD = {
    "facts file missing": (["--facts", lambda folder: folder / "none.jsonl"], "none.jsonl: there is no such file"),
    "facts file not UTF-8": (["--facts", good_then(b'{"question": "\xff"}\n')], "line 2: byte 15 isn't UTF-8 text"),
    "broken JSON line": (["--facts", good_then(b'{"question": \n')], "line 2, column 14: broken JSON"),
    "facts file empty": (["--facts", lambda folder: write(folder / "no.jsonl", b"\n")], "no.jsonl holds no facts"),
    "facts file of an unknown kind": (
        ["--facts", lambda folder: write(folder / "a.doc", b"x")],
        "unknown kind of file",
    ),
    "facts file a folder": (["--facts", lambda folder: folder], "is a directory"),
    "top-t 0": (["--top-t", 0], "top-t must be between 1 and the 256 slots of the table, not 0"),
    "top-t above the slots": (["--top-t", 257], "top-t must be between 1 and the 256 slots of the table, not 257"),
    "unknown method": (["--methods", "sparse,adapter"], "no method 'adapter'; there are sparse, full, lora"),
    "unknown rule": (["--methods", "full,sparse:best"], "no rule 'best'; there are tfidf"),
    "no method": (["--methods", " , "], "--methods is empty"),
    "a method twice": (["--methods", "full,full"], "names one twice"),
    "no facts": (["--count", 0], "--count must be at least 1, not 0"),
    "a switch without a recipe": (["--recipe", "floor=0"], "no recipe in which floor could be changed"),
    "no such recipe": (["--recipe", "floor"], "no recipe 'floor'; there are retrofit, gated, paper, and switches"),
    "no such switch": (["--recipe", "flor=0"], "a recipe has no 'flor'; it has anchor, background_questions,"),
    "a switch of another type": (["--recipe", "floor=none"], "floor of a recipe is a number, not 'none'"),
    "a switch of how it is made": (["--recipe", "k=4"], "k says how a memory is made, and this lab has one"),
    "a switch twice": (["--recipe", "floor=0", "--recipe", "floor=1"], "floor of the recipe is given twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(tiny, smft, tmp_path, case):
    args, message = BAD[case]
    args = [arg(tmp_path) if callable(arg) else arg for arg in args]
    before = sorted(tmp_path.iterdir())
    code, out, err = smft("compare", "--count", 1, "--passes", 1, "--seeds", 1, "--out", tmp_path / "out", *args)
    assert code == 2
    assert out == []
    assert len(err) == 1, err
    assert err[0].startswith("smft-lab: ")
    assert message in err[0]
    assert sorted(tmp_path.iterdir()) == before


def test_out_that_is_a_file_is_refused_and_kept(tiny, smft, tmp_path):
    out_file = write(tmp_path / "taken", b"mine")
    code, out, err = smft("compare", "--count", 1, "--passes", 1, "--out", out_file)
    assert (code, out, len(err)) == (2, [], 1)
    assert f"{out_file} is a file; name a folder" in err[0]
    assert out_file.read_bytes() == b"mine"


def test_out_inside_a_file_is_refused_before_the_run_is_done_for_nothing(tiny, smft, tmp_path, monkeypatch):
    def steps(self):
        raise AssertionError("the run began")

    monkeypatch.setattr(compare_module.Comparison, "steps", steps)
    taken = write(tmp_path / "taken", b"mine")
    code, out, err = smft("compare", "--count", 1, "--passes", 1, "--out", taken / "deeper")
    assert (code, out, len(err)) == (2, [], 1)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"{}", b"[]", b'{"format": 1}', b"\xff"], ids=lambda content: f"lab.json {content!r}"
)
def test_a_folder_that_isnt_a_lab_is_refused(smft, tmp_path, content):
    folder = tmp_path / "notalab"
    folder.mkdir()
    if content is not None:
        (folder / LAB_FILE).write_bytes(content)
    code, out, err = smft("compare", "--count", 1, "--lab", folder, "--out", "out")
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("smft-lab: ")
    assert str(folder) in err[0]
    assert [path.name for path in tmp_path.iterdir()] == ["notalab"]


@pytest.mark.parametrize("name", ["model.safetensors", "usage.safetensors"])
def test_a_lab_that_was_copied_in_part_is_refused(one_lab, smft, tmp_path, name):
    one_lab.save(tmp_path / "part")
    whole = (tmp_path / "part" / name).read_bytes()
    (tmp_path / "part" / name).write_bytes(whole[: len(whole) // 2])
    code, out, err = smft("compare", "--count", 1, "--lab", tmp_path / "part", "--out", "out")
    assert (code, out) == (2, [])
    assert err[-1].startswith("smft-lab: ")
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_told_before_torch_is_loaded(tmp_path):
    missing = {
        "none.jsonl": "compare --facts",
        "none": "compare --lab",
        "none.lab": "patch apply {patch} --out {out} --lab",
        "none.txt": "pretrain --out {out} --text",
        "none.md": "attach smollm2 --out {out} --text",
        "none.safetensors": "patch show {patch}",
        "data": "study comparison --data",
    }
    (tmp_path / "patch").touch()
    places = {"patch": tmp_path / "patch", "out": tmp_path / "out"}
    asked = [[*command.format(**places).split(), name] for name, command in missing.items()]
    script = """
import json, sys
from smft_lab.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, arguments
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", script, json.dumps(asked)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    told = ended.stderr.splitlines()
    assert len(told) == len(missing)
    assert all(line.startswith(f"smft-lab: {name}: ") for line, name in zip(told, missing, strict=True))


@pytest.mark.parametrize("start", ["smft_lab", "smft_lab.cli"])
def test_the_version_is_told_and_without_a_command_the_help(start):
    for arguments, expected in (["--version"], f"smft-lab {smft_lab.__version__}"), ([], "Usage: python -m smft_lab"):
        ended = subprocess.run([sys.executable, "-m", start, *arguments], capture_output=True, text=True, check=False)
        assert expected in ended.stdout + ended.stderr


def test_every_command_has_its_place_in_the_help():
    from typer.main import get_command

    group = get_command(app)
    assert group.list_commands(None) == list(COMMANDS)


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_a_lab_that_isnt_there_is_refused(smft, tmp_path, command):
    code, out, err = smft(command, "--lab", tmp_path / "nowhere")
    assert (code, out, len(err)) == (2, [], 1)
    assert "nowhere: no lab.json there; a saved lab is a directory written by Lab.save()" in err[0]
    assert list(tmp_path.iterdir()) == []


def test_a_lab_of_a_newer_format_is_refused(smft, tmp_path):
    (tmp_path / LAB_FILE).write_text('{"format": 99}')
    code, out, err = smft("compare", "--lab", tmp_path)
    assert (code, out, len(err)) == (2, [], 1)
    assert "update smft-lab" in err[0]


def test_a_long_message_stays_on_one_line(tiny, smft, tmp_path):
    name = "a long name with [brackets] and " * 6
    code, _, err = smft("compare", "--facts", tmp_path / f"{name}.jsonl")
    assert (code, len(err)) == (2, 1)
    assert name.strip() in err[0]


@pytest.mark.parametrize("args", ["compare --passes 0", "compare --order up", "fly", "compare --fast"])
def test_what_the_parser_refuses_is_exit_code_2_without_a_traceback(smft, tmp_path, args):
    code, out, err = smft(*args.split())
    assert (code, out) == (2, [])
    assert not any("Traceback" in line for line in err)
    assert list(tmp_path.iterdir()) == []


def test_a_single_statement_per_fact_is_noted(tiny, smft, tmp_path):
    path = write(tmp_path / "mine.txt", b"The dog of Mira is called Biscuit.\n")
    code, _, err = smft("compare", "--facts", path, "--top-t", 0)
    assert code == 2
    assert "1 of 1 facts has a single statement" in err[0]


# What is there already --------------------------------------------------------------------------------


def never(*_):
    raise AssertionError("it computed")


def test_compare_asks_whether_it_may_write_before_it_computes(tiny, smft, tmp_path, monkeypatch):
    args = ("--count", 1, "--methods", "sparse", "--passes", 1, "--seeds", 1, "--top-t", 5)
    assert smft("compare", *args, "--out", "r")[0] == 0
    (tmp_path / "r/notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in (tmp_path / "r").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(compare_module.Comparison, "steps", never)
        code, out, err = smft("compare", *args, "--out", "r")
        assert (code, out, len(err)) == (2, [], 1)
        assert "r already holds a comparison (metrics.csv); name another folder, or give --force" in err[0]
        code, out, err = smft("compare", *args, "--out", "/proc/nowhere/r")
        assert (code, out, len(err)) == (2, [], 1)
        assert "/proc/nowhere/r can't be written" in err[0]
        with compare_module.results_folder(tmp_path / "other"):
            code, out, err = smft("compare", *args, "--out", "other")
        assert (code, out, len(err)) == (2, [], 1)
        assert "another process is writing to other" in err[0]
    assert {file.name: file.read_bytes() for file in (tmp_path / "r").iterdir()} == before
    args = (*args[:2], "--methods", "full", *args[4:])
    assert smft("compare", *args, "--out", "r", "--force")[0] == 0
    assert {file.name for file in (tmp_path / "r").iterdir()} == FILES - {"patch.safetensors"} | {"notes.txt"}


def test_runs_that_had_ended_are_kept_when_a_later_one_fails(tiny, smft, tmp_path, monkeypatch):
    def diverge(*_):
        raise ValueError("the loss is not finite")

    monkeypatch.setattr(FullTraining, "update", diverge)
    args = ("--count", 2, "--methods", "sparse,full", "--passes", 1, "--seeds", 1, "--top-t", 5)
    code, out, err = smft("compare", *args, "--out", "r")
    assert (code, out) == (2, ["r/report.html"])
    assert err[-1] == "smft-lab: the loss is not finite"
    assert {path.name for path in (tmp_path / "r").iterdir()} == FILES


def test_facts_are_never_written_over_their_source_nor_over_other_facts(smft, tmp_path):
    rows = [{"question": f"Who wrote Book {n}?", "answer": ["Ann Lee", "Lee"]} for n in "ABC"]
    source, other = tmp_path / "nq.jsonl", tmp_path / "other.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    other.write_text("mine")
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_bytes()
    for out, options in ((source, ["--force"]), (tmp_path / "link.jsonl", ["--force"]), (other, [])):
        code, _, err = smft("facts", source, "--out", out, *options)
        assert (code, len(err)) == (2, 1)
        assert ("is the source itself" if options else "is there already") in err[0]
    assert (source.read_bytes(), other.read_text()) == (before, "mine")


def test_bench_and_tune_ask_before_they_measure(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr("smft_lab.experiments.bench.bench", never)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/bench.json").write_text("mine")
    code, _, err = smft("bench", "--out", "b")
    assert (code, len(err)) == (2, 1)
    assert "bench.json is there already" in err[0]
    monkeypatch.setattr("smft_lab.cli.compare._follow_sweep", never)
    code, _, err = smft("tune", "--lab", "/proc/nowhere")
    assert (code, len(err)) == (2, 1)


def test_reproduce_replaces_no_page_of_another_command_and_asks_before_it_computes(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr("smft_lab.reproduce.plan.sweep", never)
    (tmp_path / "r").mkdir()
    (tmp_path / "r/report.html").write_text("a comparison")
    for out, problem in (("r", "r/report.html is of something else"), ("/proc/nowhere/r", "can't be written")):
        code, printed, err = smft("reproduce", "facts", "--quick", "--seeds", 1, "--out", out)
        assert (code, printed, len(err)) == (2, [], 1)
        assert problem in err[0]
    assert (tmp_path / "r/report.html").read_text() == "a comparison"


def test_two_benches_of_one_folder_do_not_mix_their_files(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr("smft_lab.cli.bench._measured", lambda *_: ("what", '{"rows": []}'))
    assert smft("bench", "--out", "b")[0] == 0
    assert {file.name for file in (tmp_path / "b").iterdir()} == {"bench.csv", "bench.json"}
    monkeypatch.setattr("smft_lab.cli.bench._measured", never)
    with alone(tmp_path / "b"):
        code, _, err = smft("bench", "--out", "b", "--force")
    assert (code, len(err)) == (2, 1)
    assert "another process is writing to b" in err[0]


@pytest.mark.parametrize("how", [[], ["--steps", "2", "--window", "16"]])
def test_attach_leaves_files_that_were_there_alone(smft, tokenizer, tmp_path, how):
    from test_attach import small

    small("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "words.txt").write_text(" ".join(TEXT), encoding="utf-8")
    about = tmp_path / "lab" / ("memory_training.json" if how else "addresses.json")
    diary = tmp_path / "lab" / "unfinished" / "diary.txt"
    diary.parent.mkdir(parents=True)
    for file in (about, diary):
        file.write_text("mine")
    asked = [] if how else ["--known", facts_file(tmp_path, 8), "--questions", facts_file(tmp_path, 8)]
    args = ("attach", "model", "--slots", 256, "--text", "words.txt", "--layers", 1, *asked, *how, "--out", "lab")
    code, _, err = smft(*args)
    assert (code, about.read_text()) == (2, "mine")
    assert f"lab holds a file {about.name} of another model" in err[-1]
    about.unlink()
    code, _, err = smft(*args)
    assert code == 0, err
    assert [file.read_text() for file in diary.parent.iterdir()] == ["mine"]


def test_of_two_attaches_to_one_folder_the_second_is_told_so(smft, tokenizer, tmp_path):
    from test_attach import small

    small("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "words.txt").write_text(" ".join(TEXT), encoding="utf-8")
    (tmp_path / "lab" / "unfinished").mkdir(parents=True)
    asked = ["--known", facts_file(tmp_path, 8), "--questions", facts_file(tmp_path, 8)]
    args = ("attach", "model", "--slots", 256, "--text", "words.txt", "--layers", 1, *asked, "--out", "lab")
    with alone(tmp_path / "lab" / "unfinished"):
        code, _, err = smft(*args)
    assert code == 2
    assert "another process is writing to" in err[-1]
    assert smft(*args)[0] == 0


# Ctrl-C -----------------------------------------------------------------------------------------------


def interrupt(*args):
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_runs_that_had_ended(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr(FullTraining, "update", interrupt)
    args = ("--count", 2, "--methods", "sparse,full", "--passes", 1, "--seeds", 1, "--top-t", 5)
    code, out, err = smft("compare", *args, "--out", "r")
    assert (code, out) == (130, ["r/report.html"])
    assert any("stopped early" in line for line in err)
    assert {path.name for path in (tmp_path / "r").iterdir()} == FILES
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert [*summary["methods"]] == ["sparse"]
    assert "stopped early" in summary["settings"]
    with (tmp_path / "r/metrics.csv").open(newline="") as file:
        steps = {(row["method"], row["step"]) for row in csv.DictReader(file)}
    assert steps == {("sparse", "0"), ("sparse", "1"), ("sparse", "2")}


def test_ctrl_c_before_the_first_run_ended_writes_nothing(tiny, smft, tmp_path, monkeypatch):
    monkeypatch.setattr(FullTraining, "update", interrupt)
    code, out, err = smft("compare", "--count", 2, "--methods", "full", "--passes", 1, "--seeds", 1, "--out", "r")
    assert (code, out) == (130, [])
    assert err[-1] == "stopped before the first run ended; nothing was written"
    assert {file.name for file in tmp_path.iterdir()} <= {".r.lock"}


def test_ctrl_c_while_pretraining_says_how_to_go_on(smft, monkeypatch):
    def pretrain(out, settings):
        yield pretrain_module.PretrainRecord(1, 7.0, {})
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_module, "pretrain", pretrain)
    code, out, err = smft("pretrain", "--out", "lab", "--steps", 5)
    assert (code, out) == (130, [])
    assert "stopped; the same command goes on from the last checkpoint in lab" in err


def test_pretrain_makes_a_model_of_another_architecture_from_a_text_with_questions(smft, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(plain_model, "train_plain_model", lambda *given: asked.append(given) or iter([(5, 2.5)]))
    text, questions = tmp_path / "text.txt", tmp_path / "questions.jsonl"
    text.write_text("A tale. " * 50, encoding="utf-8")
    questions.write_text('{"question": "Who?", "answer": "Mira"}\n', encoding="utf-8")
    code, out, _ = smft(
        "pretrain",
        "--text",
        text,
        "--questions",
        questions,
        "--architecture",
        "gpt_neox",
        "--steps",
        5,
        "--out",
        "neox",
    )
    assert (code, out) == (0, ["neox"])
    words, *others = asked[0]
    assert words.startswith("Question: Who?\nAnswer: Mira\n")
    assert [str(one) for one in others] == ["gpt_neox", "neox", "5", "0"]
    code, _, err = smft("pretrain", "--architecture", "gpt_neox", "--out", "other")
    assert code == 2
    assert "--text" in " ".join(err)


def test_pretrain_prints_the_final_metrics_and_the_folder(smft, monkeypatch):
    asked = []

    def pretrain(out, settings):
        asked.append((str(out), settings))
        yield pretrain_module.PretrainRecord(1, 7.0, {})
        yield pretrain_module.PretrainRecord(1, 7.0, {"old_facts_em": 0.25})

    monkeypatch.setattr(pretrain_module, "pretrain", pretrain)
    code, out, err = smft("pretrain", "--out", "lab", "--steps", 5, "--seed", 3)
    assert (code, out) == (0, ["lab"])
    assert asked == [("lab", pretrain_module.PretrainSettings(seed=3, steps=5))]
    assert any(line.split() == ["old_facts_em", "0.2500"] for line in err)
    assert smft("pretrain", "--out", "lab", "--preset", "base")[0] == 0
    assert asked[1][1] == pretrain_module.BASE
    assert asked[1][1].memory_slots > 10 * pretrain_module.PretrainSettings().memory_slots


def test_a_preset_is_not_for_a_model_of_ones_own_text(smft, tmp_path):
    (tmp_path / "tales.txt").write_text("Once upon a time.")
    code, _, err = smft("pretrain", "--text", tmp_path / "tales.txt", "--preset", "base")
    assert code == 2
    assert "--preset base is of the built-in world; leave it out with --text" in " ".join(err)


def test_a_question_set_becomes_a_file_of_facts_that_compare_reads(smft, tmp_path):
    from smft_lab.facts.files import read_facts

    rows = [{"question": f"Who wrote Book {n}?", "answer": ["Ann Lee", "Lee"]} for n in "ABC"]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "new" / "facts.jsonl"
    code, _, err = smft("facts", str(tmp_path / "nq.jsonl"), "--out", str(out), "--limit", "2")
    assert code == 0, " ".join(err)
    assert "2 facts; used 2" in " ".join(err)
    facts = read_facts(out)
    assert len(facts) == 2
    assert facts[0].answers == ("Ann Lee", "Lee")
    assert any(statement.startswith("Ann Lee wrote Book") for statement in facts[0].statements)
    text = " ".join(f"Sentence {n} tells of a fox number {n} in the wood." for n in range(60))
    (tmp_path / "tale.txt").write_text(text)
    assert smft("facts", tmp_path / "tale.txt", "--documents", "--out", out, "--force")[0] == 0
    assert len(read_facts(out)) > 2


def test_a_model_becomes_a_lab_and_a_report_by_the_command_line_alone(smft, tokenizer, corpus, tmp_path):
    from test_attach import small

    small("gpt2").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join(corpus.texts(Random(0), 300)))
    (tmp_path / "facts.txt").write_text("Mira keeps a cat.\nTom lives in Rome.\n")
    lab, out = tmp_path / "lab", tmp_path / "report"
    options = ["--steps", "3", "--window", "16", "--slots", "256", "--out", str(lab)]
    code, _, err = smft("attach", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), *options)
    assert code == 0, " ".join(err)
    assert "of the slots are read" in " ".join(err)
    code, _, err = smft("attach", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), *options)
    assert code == 2
    assert "already holds a finished lab" in " ".join(err)
    options = ["--lab", str(lab), "--facts", str(tmp_path / "facts.txt"), "--passes", "1", "--seeds", "1"]
    code, _, err = smft("compare", *options, "--out", str(out))
    assert code == 0, " ".join(err)
    assert (out / "report.html").exists()


def test_a_finished_model_becomes_a_lab_without_training_and_without_data(smft, tokenizer, tmp_path):
    from test_attach import small

    small("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lab, out = tmp_path / "lab", tmp_path / "report"
    code, printed, err = smft(
        "attach", str(tmp_path / "model"), "--slots", "256", "--recipe", "floor=0", "--out", str(lab)
    )
    assert code == 0, " ".join(err)
    assert json.loads((lab / LAB_FILE).read_text())["recipe"] == {**RETROFIT.to_dict(), "slots": 256, "floor": 0.0}
    told = " ".join(err)
    assert "addresses, same fact / two facts, and stray reads; best block first: " in told
    assert "of the slots are the same with" in told
    assert printed == [str(lab)]
    assert not (lab / "unfinished").exists()
    assert not (lab / "model.safetensors").exists()  # the base is named, not copied
    assert {"blocks", "addresses", "settled"} <= set(json.loads((lab / "addresses.json").read_text()))
    options = ["--lab", str(lab), "--count", "2", "--passes", "1", "--seeds", "1", "--methods", "sparse,full"]
    code, _, err = smft("compare", *options, "--out", str(out))
    assert code == 0, " ".join(err)
    rows = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    assert {"taught", "prefixed", "text"} <= {row["probe"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "none.txt"], "none.txt: there is no such file"),
        (["--steps", "3", "--distill", "2"], "distill must be between 0 and 1"),
        (["--distill", "0.5"], "needs the memory to be trained"),
        (["--mode", "replace"], "needs the memory to be trained"),
        (["--layers", "two"], "takes whole numbers"),
        (["--questions-kind", "alpaca"], "give one of them too"),
        (["--recipe", "plain"], "no recipe 'plain'; there are retrofit"),
        (["--recipe", "slots=256", "--slots", "1024"], "slots of the recipe is given twice"),
        (["--recipe", "top_t=0"], "top_t must be"),
        (["--recipe", "paper", "--steps", "3"], "says how a memory is made without training it"),
        (["--known", "text.txt", "--questions-kind", "alpaca"], "alpaca"),
    ],
)
def test_bad_input_to_attach_is_one_line_and_exit_code_2(smft, tokenizer, tmp_path, arguments, message):
    from test_attach import small

    small("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("One two three four. " * 500)
    there = [str(tmp_path / text) if text == "text.txt" else text for text in arguments]
    given = ["--text", str(tmp_path / "text.txt"), *there]
    code, _, err = smft("attach", str(tmp_path / "model"), *given, "--out", str(tmp_path / "lab"))
    assert code == 2
    assert message in " ".join(err)
    assert len(err) == 1
    assert not (tmp_path / "lab" / "lab.json").exists()


# A terminal of another time ---------------------------------------------------------------------------


def test_a_locale_or_a_terminal_without_utf_8_costs_no_result(tmp_path):
    """Names that the terminal can't show, and that are no text at all, are spelled out where they are printed."""
    rows = [{"question": f"Who wrote Bøk {n}?", "answer": ["Ånn Lée", "Lée"]} for n in "ABC"]
    source = tmp_path / "spørsmål.jsonl"
    source.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment = {**os.environ, **old, "PYTHONPATH": str(Path(cli.__file__).parent.parent.parent)}
    for out in (os.fsencode(tmp_path / "fakta-å.jsonl"), os.fsencode(tmp_path) + b"/fakta-\xff.jsonl"):
        command = [sys.executable, "-m", "smft_lab.cli", "facts", os.fsencode(source), "--out", out]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.startswith(os.fsencode(tmp_path))
        done.stdout.decode("ascii")
        assert len(read_facts(Path(os.fsdecode(out)))) == 3


def test_facts_are_shown_literally_and_in_short(smft, tmp_path):
    """A file of somebody else sets no colour and no title, and fills no screen."""
    fact = {"statements": ["[red]Zorb[/red] \x1b[31mis\x1b]0;t\x07 Mirn."], "question": "W\x1b[2Jhere?"}
    (tmp_path / "a.jsonl").write_text(json.dumps(fact | {"answers": ["Mirn\x08" + "x" * 1000]}))
    code, _, err = smft("facts", "a.jsonl")
    assert code == 0
    assert err[0] == r"1. taught: [red]Zorb[/red] \x1b[31mis\x1b]0;t\x07 Mirn."
    assert err[1].startswith(r"   asked:  W\x1b[2Jhere? -> Mirn\x08x")
    assert len(err[1]) < 250


def test_a_name_that_is_no_text_does_not_cost_a_report(tmp_path):
    write_atomically(tmp_path / "report.html", "made by --facts fakta-\udcff.jsonl")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").endswith("fakta-\\udcff.jsonl")


def test_no_file_is_read_or_written_in_the_encoding_of_the_locale():
    command = [sys.executable, "-m", "ruff", "check", "--preview", "--select", "PLW1514", "--no-cache", "smft_lab"]
    done = subprocess.run(command, cwd=Path(cli.__file__).parent.parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_disk_full_at_a_checkpoint_of_attach_is_one_line(smft, tmp_path, monkeypatch):
    from test_attach import small

    from smft_lab.training import pretrain

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(pretrain, "save_file", full)
    monkeypatch.setattr("smft_lab.model.opening.open_model", lambda _: (small("llama"), train_tokenizer(TEXT, 300)))
    monkeypatch.setattr(memory_training, "MemoryTraining", partial(memory_training.MemoryTraining, checkpoint_every=1))
    (tmp_path / "words.txt").write_text(" ".join(TEXT), encoding="utf-8")
    args = ("attach", "any", "--out", "lab", "--text", "words.txt", "--steps", 2, "--window", 16, "--slots", 256)
    code, out, err = smft(*args)
    assert (code, out) == (2, [])
    assert re.search(r"state.safetensors can't be written \(No space left on device: .* needed, .* free\)", err[-1])
