"""Pretraining in miniature: it can be stopped anywhere, ends in the same bits, and leaves a lab and nothing else."""

import csv
import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from safetensors import safe_open

from smft_lab.facts.world import world as world_module
from smft_lab.facts.world.corpus import Corpus
from smft_lab.facts.world.world import World
from smft_lab.lab import load
from smft_lab.model.tokenizer import encode
from smft_lab.probes.probes import world_probes
from smft_lab.training import pretrain as module
from smft_lab.training.pretrain import PretrainSettings, pretrain, training_batches

TINY = PretrainSettings(
    steps=6,
    batch_size=8,
    warmup=2,
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    attention_heads=2,
    memory_at=(1,),
    memory_slots=256,
    memory_heads=2,
    memory_k=4,
    memory_key_dim=16,
    background_batches=2,
    background_batch_size=4,
    evaluate_every=2,
)


@pytest.fixture(scope="module", autouse=True)
def small_world():
    """A world of 16 people and few texts, so that a whole pretraining takes a second."""

    class FewTexts(Corpus):
        def texts(self, rng, count, moment=None):
            return super().texts(rng, min(count, 400), moment)

    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("PEOPLE", 16), ("COMPANIES", 4), ("CITIES", 4), ("COUNTRIES", 2)):
            patch.setattr(world_module, name, size)
        patch.setattr(module, "Corpus", FewTexts)
        patch.setattr(module, "CHUNK", 4)  # so that six steps need a second chunk
        patch.setattr(module, "world_probes", lambda world: world_probes(world, per_probe=4))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run: its folder, its records, and the model that its final metrics were measured on."""
    out, measured = tmp_path_factory.mktemp("whole") / "lab", []
    with pytest.MonkeyPatch.context() as patch:
        final = module.final_metrics

        def final_metrics(model, *rest):
            measured.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return final(model, *rest)

        patch.setattr(module, "final_metrics", final_metrics)
        records = list(pretrain(out, TINY))
    return out, records, measured[0]


def stop_after(out, steps: int) -> list:
    run = pretrain(out, TINY)
    records = [next(run) for _ in range(steps)]
    run.close()
    return records


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".csv"}


def rows_of(folder) -> list[dict]:
    """pretraining.csv without its timings; empty cells are None."""
    with (folder / "pretraining.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row.pop("seconds")) >= 0 for row in rows)
    return [{name: float(value) if value else None for name, value in row.items()} for row in rows]


def test_a_run_stopped_twice_and_resumed_ends_in_the_same_bits(finished, tmp_path):
    whole, records, _ = finished
    first = stop_after(tmp_path, 3)  # the checkpoint is at 2, so step 3 is done again
    second = stop_after(tmp_path, 3)
    third = list(pretrain(tmp_path, TINY))
    assert [record.step for record in second] == [3, 4, 5]
    assert [record.step for record in third] == [5, 6, 6]
    by_step = {record.step: record for record in [*first, *second, *third[:-1]]}
    assert [by_step[step].loss for step in range(1, 7)] == pytest.approx([record.loss for record in records[:-1]])
    assert contents(tmp_path) == contents(whole)
    for row, expected in zip(rows_of(tmp_path), rows_of(whole), strict=True):
        assert row == pytest.approx(expected)


def test_what_a_kill_left_of_a_checkpoint_is_gone_with_the_next(tmp_path):
    stop_after(tmp_path, 2)
    half = tmp_path / "unfinished" / "state.safetensors.00000000.partial"
    half.write_text("half")
    stop_after(tmp_path, 2)
    assert not half.exists()


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(finished, tmp_path):
    assert [record.step for record in stop_after(tmp_path, 1)] == [1]
    assert [next(pretrain(tmp_path, TINY)).step] == [1]
    assert not (tmp_path / "unfinished" / "state.safetensors").exists()


def test_other_settings_on_an_unfinished_folder_are_refused_and_the_folder_is_kept(tmp_path):
    stop_after(tmp_path, 2)
    state = (tmp_path / "unfinished" / "state.safetensors").read_bytes()
    for other in (replace(TINY, seed=1), replace(TINY, steps=8), replace(TINY, lr=1e-3)):
        with pytest.raises(ValueError, match="unfinished run with other settings"):
            next(pretrain(tmp_path, other))
    assert (tmp_path / "unfinished" / "state.safetensors").read_bytes() == state
    assert next(pretrain(tmp_path, TINY)).step == 3


def test_records_come_one_per_step_with_the_probes_where_measured(finished):
    _, records, _ = finished
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6, 6]
    assert [bool(record.metrics) for record in records] == [False, True, False, True, False, False, True]
    assert set(records[1].metrics) == {
        *("old_facts_em", "old_facts_f1", "two_hop_em", "two_hop_f1", "arithmetic_nll", "prose_nll")
    }
    assert set(records[-1].metrics) - set(records[1].metrics) == {
        *("all_old_facts_em", "all_old_facts_em_unseen_forms", "slots_read", "reads_on_top_1_percent")
    }


def test_weights_are_stored_in_16_bit_and_loaded_in_32(finished):
    out, _, _ = finished
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert {parameter.dtype for parameter in load(out).model.parameters()} == {torch.float32}


def test_the_loaded_lab_computes_what_was_measured(finished):
    out, records, measured = finished
    lab = load(out)
    assert all(torch.equal(tensor, measured[name]) for name, tensor in lab.model.state_dict().items())
    settings = TINY.model_config(lab.tokenizer)
    model = module.MemoryLlamaForCausalLM(settings).eval()
    model.load_state_dict(measured)
    batch = encode(lab.tokenizer, ["The old miller found a boat.", "Question: What is 3 plus 4? Answer: 7"])
    with torch.inference_mode():
        torch.testing.assert_close(lab.model(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-6)
    again = world_probes(World(0), per_probe=4).measure(lab.model, lab.tokenizer)
    assert again["prose"]["nll"] == pytest.approx(records[-1].metrics["prose_nll"], rel=1e-5)
    assert again["arithmetic"]["nll"] == pytest.approx(records[-1].metrics["arithmetic_nll"], rel=1e-5)


def test_the_loaded_lab_has_the_usage_the_world_and_the_probes(finished):
    out, records, _ = finished
    lab = load(out)
    assert lab.world_seed == TINY.seed
    assert lab.slots == TINY.memory_slots
    assert [probe.name for probe in lab.probes] == ["old_facts", "arithmetic", "prose", "two_hop"]
    assert lab.usage.batches == TINY.background_batches
    assert int(lab.usage.df.max()) == TINY.background_batches
    assert lab.usage.share_read() == pytest.approx(records[-1].metrics["slots_read"])


def test_the_folder_holds_a_lab_the_metrics_the_settings_and_nothing_else(finished):
    out, _, _ = finished
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "lab.json", "usage.safetensors", "tokenizer.json"} < names
    assert {"pretraining.csv", "pretraining.json"} < names
    assert not {name for name in names if "unfinished" in name or name.endswith((".tmp", ".partial"))}
    assert json.loads((out / "pretraining.json").read_text())["memory_slots"] == 256


def test_pretraining_csv_has_a_row_per_evaluation_and_the_final_one(finished):
    out, records, _ = finished
    rows = rows_of(out)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["loss"] for row in rows] == pytest.approx(
        [sum(record.loss for record in records[i : i + 2]) / 2 for i in (0, 2, 4)]
    )
    assert rows[-1]["prose_nll"] == records[-1].metrics["prose_nll"]
    assert rows[0]["slots_read"] is None
    assert 0 < rows[-1]["slots_read"] <= 1


def test_batches_are_fixed_by_the_seed_and_the_chunk(tokenizer):
    corpus = module.Corpus(World(0))
    chunks = [training_batches(corpus, tokenizer, replace(TINY, seed=seed), 0) for seed in (0, 0, 1)]
    same, again, other = ([batch["input_ids"].tolist() for batch in chunk] for chunk in chunks)
    assert same == again != other
    assert same != [batch["input_ids"].tolist() for batch in training_batches(corpus, tokenizer, TINY, 1)]


def test_a_chunk_holds_every_text_short_enough_once(tokenizer):
    settings = replace(TINY, max_tokens=45)
    corpus = module.Corpus(World(0))
    batches = training_batches(corpus, tokenizer, settings, 0)
    assert len(batches) == module.CHUNK
    assert max(batch["input_ids"].shape[1] for batch in batches) <= 45
    drawn = corpus.texts(Random("0/chunk/0"), module.CHUNK * settings.batch_size, moment=0)
    every = sorted(tokenizer.batch_decode(tokenizer(drawn)["input_ids"]))
    rows = [pair for batch in batches for pair in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)]
    got = Counter(tokenizer.decode(ids[mask][:-1]) for ids, mask in rows)  # without the end-of-text token
    assert got <= Counter(every)
    missing = Counter(every) - got
    assert missing
    assert min(len(tokenizer(text)["input_ids"]) for text in missing) > 30  # only near the limit can splitting pass it


@pytest.mark.parametrize("damage", [b"", b"abc", None])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, damage):
    stop_after(tmp_path, 2)
    state = tmp_path / "unfinished" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged .*; delete it, and the run begins anew"):
        next(pretrain(tmp_path, TINY))


def test_files_of_somebody_else_are_neither_replaced_nor_deleted(tmp_path):
    metrics, diary = tmp_path / "pretraining.csv", tmp_path / "unfinished" / "diary.txt"
    metrics.write_text("mine")
    with pytest.raises(ValueError, match=r"holds a file pretraining\.csv of another model"):
        next(pretrain(tmp_path, TINY))
    assert metrics.read_text() == "mine"
    metrics.unlink()
    diary.parent.mkdir()
    diary.write_text("mine")
    list(pretrain(tmp_path, TINY))
    assert [file.read_text() for file in diary.parent.iterdir()] == ["mine"]
