"""A small model of another architecture, made where none can be fetched."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM

import smft_lab as smft
from smft_lab.facts.public.datasets import Question
from smft_lab.training import plain_model
from smft_lab.training.plain_model import new_plain_model, text_with_questions, train_plain_model

QUESTIONS = [Question(f"Who keeps {n} cats?", (name, "nobody")) for n, name in enumerate(("Mira", "Tom", "Ada"))]
TEXT = "".join(f"Line {n} of a long tale about the sea.\n" for n in range(400))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shape = {
        **plain_model.SHAPE,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    monkeypatch.setattr(plain_model, "SHAPE", shape)
    training = replace(plain_model.TRAINING, batch_size=2, window=32, checkpoint_every=2, steps=4)
    monkeypatch.setattr(plain_model, "TRAINING", training)


def test_questions_stand_in_the_text_equally_often_and_its_lines_stay_whole():
    lines = text_with_questions(TEXT, QUESTIONS).splitlines(keepends=True)
    assert [line for line in lines if line.startswith("Line")] == TEXT.splitlines(keepends=True)
    asked = Counter(line for line in lines if line.startswith("Question:"))
    assert set(asked) == {f"Question: {one.question}\n" for one in QUESTIONS}
    assert len(set(asked.values())) == 1
    assert lines[lines.index("Question: Who keeps 1 cats?\n") + 1] == "Answer: Tom\n"
    questions = sum(len(line) for line in lines if not line.startswith("Line"))
    assert questions / sum(map(len, lines)) == pytest.approx(plain_model.SHARE, abs=0.02)


def test_a_text_needs_questions_to_hold():
    with pytest.raises(ValueError, match="no questions"):
        text_with_questions(TEXT, [])


def test_a_trained_model_is_a_plain_one_of_its_architecture_and_takes_a_memory(tmp_path):
    losses = [loss for _, loss in train_plain_model(TEXT, "gpt_neox", tmp_path)]
    assert len(losses) == 4
    assert {file.name for file in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not (tmp_path / "unfinished").exists()
    model, tokenizer = smft.open_model(tmp_path)
    assert isinstance(model, GPTNeoXForCausalLM)
    ids = tokenizer("Line 3 of", return_tensors="pt")["input_ids"]
    before = model(ids).logits
    smft.add_memory(model, layers=[1], slots=64)
    assert torch.equal(model(ids).logits, before)


def test_a_run_that_was_stopped_goes_on_to_the_same_model(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    list(train_plain_model(TEXT, "gpt_neox", whole))
    for step, _ in train_plain_model(TEXT, "gpt_neox", stopped):
        if step == 3:
            break
    assert [step for step, _ in train_plain_model(TEXT, "gpt_neox", stopped)] == [3, 4]
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (whole, stopped)]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_the_start_is_of_the_seed_and_draws_no_other_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    models = [new_plain_model(TEXT, "gpt_neox", seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    first, again, other = (model.get_input_embeddings().weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_architecture_that_transformers_does_not_have_is_told():
    with pytest.raises(ValueError, match="no causal language model of the type 'gpt_neo_y'"):
        new_plain_model(TEXT, "gpt_neo_y")


def test_a_file_that_is_there_is_not_replaced_and_a_folder_of_somebody_else_s_not_deleted(tmp_path, monkeypatch):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "diary.txt").write_text("mine")
    (tmp_path / "tokenizer.json").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(plain_model, "pretrain_memory", lambda *_: pytest.fail("it trained"))
        with pytest.raises(ValueError, match=r"holds a file tokenizer\.json of another model"):
            list(train_plain_model(TEXT, "gpt_neox", tmp_path))
        with pytest.raises(OSError, match="can't be written"):
            list(train_plain_model(TEXT, "gpt_neox", "/proc/nowhere/model"))
    (tmp_path / "tokenizer.json").unlink()
    list(train_plain_model(TEXT, "gpt_neox", tmp_path))
    assert (tmp_path / "unfinished" / "diary.txt").read_text() == "mine"
    assert [file.name for file in (tmp_path / "unfinished").iterdir()] == ["diary.txt"]


def test_a_model_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(GPTNeoXForCausalLM, "save_pretrained", full)
        with pytest.raises(OSError, match=r"can't be written \(No space left on device: .* needed, .* free\)"):
            list(train_plain_model(TEXT, "gpt_neox", tmp_path))
    assert {file.name for file in tmp_path.iterdir()} <= {"unfinished", ".unfinished.lock"}
    assert [step for step, _ in train_plain_model(TEXT, "gpt_neox", tmp_path)] == [3, 4]  # from the last checkpoint
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), GPTNeoXForCausalLM)
