"""`smft-lab patch`: what was learned as files, shown, applied, taken out, combined; bad input is one line."""

import sys

import pytest
import torch

import smft_lab as smft
from smft_lab import cli
from smft_lab.cli.patch import OnConflict
from smft_lab.lab import load
from smft_lab.slots.combine import RULES
from smft_lab.slots.patch import Patch


@pytest.fixture(scope="module")
def folder(tiny_lab, tmp_path_factory):
    """A saved base, and two patches of it that meet in some rows."""
    folder = tmp_path_factory.mktemp("patches")
    lab = tiny_lab()
    lab.save(folder / "base")
    lab = load(folder / "base")
    facts = smft.new_facts(2)
    for name, fact in zip(("one", "two"), facts, strict=True):
        lab.reset()
        smft.run(lab, [fact], passes=1, top_t=60, lr=0.5, probe_every=0).patch.save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def call(*args) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["smft-lab", "patch", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_show_lists_what_patches_hold_and_what_they_were_taught(run):
    code, out, _ = run("show", "one.safetensors", "two.safetensors")
    assert code == 0
    assert "tfidf" in out
    assert "60" in out
    for fact in smft.new_facts(2):
        assert fact.statements[0] in out
    both = [Patch.load("one.safetensors"), Patch.load("two.safetensors")]
    assert f"by two or more of them: {len(smft.conflicts(both))}" in out


def test_apply_then_revert_gives_the_base_back_bitwise(run, tmp_path):
    assert run("apply", "one.safetensors", "--lab", "base", "--out", tmp_path / "taught")[0] == 0
    base, taught = load("base").model.state_dict(), load(tmp_path / "taught").model.state_dict()
    assert sum(not torch.equal(base[name], taught[name]) for name in base) == 1
    code, _, _ = run(
        "revert", "one.safetensors", "--lab", tmp_path / "taught", "--base", "base", "--out", tmp_path / "again"
    )
    assert code == 0
    again = load(tmp_path / "again").model.state_dict()
    assert all(torch.equal(base[name], again[name]) for name in base)


def test_several_are_combined_by_a_stated_rule_and_the_conflicts_counted(run, tmp_path):
    code, out, err = run("combine", "one.safetensors", "two.safetensors", "--out", tmp_path / "both.safetensors")
    assert (code, out) == (2, "")
    assert "set differently" in err
    assert "last, mean or sum" in err
    for rule in ("last", "mean", "sum"):
        code, out, err = run(
            "combine",
            "one.safetensors",
            "two.safetensors",
            "--lab",
            "base",
            "--on-conflict",
            rule,
            "--out",
            tmp_path / "both.safetensors",
            "--force",
        )
        assert code == 0
        assert f"the rule {rule}" in err
    assert len(Patch.load(tmp_path / "both.safetensors").about["facts"]) == 2
    assert run("apply", tmp_path / "both.safetensors", "--lab", "base", "--out", tmp_path / "lab")[0] == 0


def test_diff_says_how_many_rows_both_have(run):
    code, out, _ = run("diff", "one.safetensors", "two.safetensors")
    both = [set(Patch.load(name).slots[0].tolist()) for name in ("one.safetensors", "two.safetensors")]
    assert code == 0
    assert f"{len(both[0] - both[1])}" in out
    assert f"{len(both[0] & both[1])}" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "missing.safetensors"), "there is no such file"),
        (("show", "base/model.safetensors"), "is not a patch"),
        (("apply", "one.safetensors", "--out", "x"), "was made on base"),
        (("apply", "one.safetensors", "--lab", "base", "--out", "base"), "the base is lost"),
        (("revert", "one.safetensors", "--lab", "base", "--base", "base", "--out", "x"), "can't be taken out"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_bad_input_is_one_line(run, folder, args, message):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (folder / "x").exists()


def test_a_lab_that_is_there_is_replaced_only_by_force_and_the_base_never(run, folder, tmp_path, lab):
    lab.save(tmp_path / "other")
    before = {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()}
    code, out, err = run("apply", "one.safetensors", "--lab", "base", "--out", tmp_path / "other")
    assert (code, out) == (2, "")
    assert "other already holds a finished lab; name another folder, or replace it with --force" in err
    assert {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()} == before
    assert run("apply", "one.safetensors", "--lab", "base", "--out", "base", "--force")[0] == 2
    assert run("apply", "one.safetensors", "--lab", "base", "--out", tmp_path / "other", "--force")[0] == 0
    assert Patch.between(load("base")).slots[0].numel() == 0
    code, _, err = run("combine", "one.safetensors", "--out", "two.safetensors")
    assert code == 2
    assert "two.safetensors is there already" in err


def test_names_and_dates_are_shown_literally(run, folder, tmp_path):
    name = "[bold]n\x1b[31m.safetensors"
    patch = Patch.load("one.safetensors")
    about = {
        **patch.about,
        "date": "[link=x]2[/link]\x07",
        "rule": "a\rb",
        "facts": ["One\x1b]0;title\x07 fact.\u202e"],
    }
    Patch(patch.slots, patch.values, patch.base, about).save(tmp_path / name)
    code, out, _ = run("show", tmp_path / name)
    assert code == 0
    assert not set(out) & set("\x1b\x07\r\u202e")
    told = out.replace("\n", "").replace(" ", "").replace("\u2502", "")
    for shown in ("[bold]n", r"\x1b[31m", "[link=x]2", r"\x07", r"a\rb", r"One\x1b]0;title\x07fact."):
        assert shown in told, (shown, out)


def test_the_command_line_has_every_rule_for_rows_set_differently():
    assert [rule.value for rule in OnConflict] == list(RULES)
