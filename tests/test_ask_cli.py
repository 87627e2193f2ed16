"""`smft-lab ask`: the base's answers, and beside them what patches have taught it."""

import sys

import pytest
from test_patch_cli import folder  # noqa: F401  (a fixture)

from smft_lab import cli
from smft_lab.lab import load
from smft_lab.slots.patch import Patch


@pytest.fixture
def ask(folder, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(folder)

    def call(*args) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["smft-lab", "ask", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        both = capsys.readouterr()
        return ended.value.code or 0, both.out + both.err

    return call


def test_the_base_answers_in_the_lab_s_own_form(ask):
    code, out = ask("Who?", "Where?", "--lab", "base")
    answers = load("base").answer(["Who?", "Where?"])
    assert code == 0
    assert [line.strip() for line in out.splitlines()] == ["Who?", answers[0], "Where?", answers[1]]


def test_a_patch_is_asked_beside_the_base(ask):
    lab = load("base")
    patch = Patch.load("one.safetensors")
    question, before = "Who?", lab.answer(["Who?"])[0]
    patch.apply(lab)
    code, out = ask(question, "--lab", "base", "--patch", "one.safetensors")
    assert code == 0
    assert [line.strip() for line in out.splitlines()] == [
        question,
        f"base:   {before}".strip(),
        f"taught: {lab.answer([question])[0]}".strip(),
    ]


def test_a_missing_patch_is_told_in_a_line(ask):
    code, out = ask("Who?", "--patch", "none.safetensors")
    assert (code, out.count("\n")) == (2, 1)
    assert "none.safetensors: there is no such file" in out
