"""An anchor holds what is written to what the background reads, and a lab keeps the background that it needs."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_retrofit import RECIPE, words, work  # noqa: F401  (fixtures)

import smft_lab as smft
from smft_lab.finetuning.finetune import finetune
from smft_lab.lab import load
from smft_lab.model.memory import value_tables
from smft_lab.slots.anchor import Anchor, BackgroundReads, added, background_reads
from smft_lab.storage import BACKGROUND_FILE


@pytest.fixture
def lab(work):  # noqa: F811
    done = work(layers=[1])
    list(done)
    return done.lab


def test_the_anchor_is_the_mean_square_of_what_changed_and_its_gradient_is_that_of_autograd(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(12, 3, generator=generator)
    slots = torch.randint(12, (40, 4), generator=generator)
    weights = torch.rand(40, 4, generator=generator)
    chosen = torch.tensor([1, 2, 5, 7, 11])
    anchor = Anchor(chosen, table, BackgroundReads(slots.int(), weights, level=2.0))
    assert anchor.value == 0
    moved = torch.zeros_like(table)
    moved[chosen] = torch.randn(5, 3, generator=generator)
    table += moved
    moved.requires_grad_(True)
    expected = torch.einsum("mr,mrv->mv", weights, moved[slots]).square().sum(1).mean() / 2
    expected.backward()
    assert anchor.value == pytest.approx(expected.item(), rel=1e-5)
    rows, gradients = anchor.gradients()
    assert rows.tolist() == chosen.tolist()
    assert torch.allclose(gradients, moved.grad[rows], atol=1e-6)
    monkeypatch.setattr("smft_lab.slots.anchor.SAMPLE", 8)
    total = torch.zeros_like(table)
    for _ in range(2000):
        rows, gradients = anchor.gradients()
        total[rows] += gradients / 2000
    assert torch.allclose(total[chosen], moved.grad[chosen], atol=0.1 * moved.grad.abs().max())


def test_a_row_that_no_background_token_reads_is_free():
    table = torch.zeros(4, 2)
    reads = BackgroundReads(torch.tensor([[0, 1]], dtype=torch.int32), torch.ones(1, 2), level=1.0)
    anchor = Anchor(torch.tensor([1, 3]), table, reads)
    table += 1
    rows, gradients = anchor.gradients()
    assert (rows.tolist(), gradients.tolist()) == ([1], [[2, 2]])  # row 0 was not chosen: it isn't this run's


def test_gradients_of_rows_that_both_have_are_added():
    rows, gradients = added(torch.tensor([4, 1]), torch.ones(2, 1), torch.tensor([1, 7]), torch.full((2, 1), 2.0))
    assert (rows.tolist(), gradients.flatten().tolist()) == ([1, 4, 7], [3, 1, 2])


def test_background_reads_are_those_of_every_token_but_the_added_end(lab):
    (reads,) = background_reads(lab.model, lab.tokenizer, lab.documents)
    assert len(reads.slots) == sum(map(len, lab.documents))
    assert torch.allclose(reads.weights.sum(1), torch.full((len(reads.weights),), 2.0), atol=1e-4)  # of each head, 1
    counts = torch.bincount(reads.slots.long().flatten(), minlength=lab.slots)
    assert torch.equal(counts, lab.usage.count[0].long())
    assert reads.level > 0  # the table is empty, so it is what the memory is added to


def test_an_anchor_changes_less_of_what_the_background_reads(lab):
    facts = smft.new_facts(4)

    def change(weight: float) -> float:
        lab.reset()
        (reads,) = lab.background_reads()
        anchor = Anchor(torch.arange(lab.slots), value_tables(lab.model)[0].weight, reads)
        *_, last = finetune(lab, facts, probe_every=0, recipe=replace(RECIPE, anchor=weight))
        assert last.loss == last.loss
        return anchor.value

    free, held = change(0.0), change(1000.0)
    assert 0 < held < free / 2
    lab.reset()


def test_an_anchored_run_takes_the_same_steps_fast_and_plainly(lab):
    recipe, losses = replace(RECIPE, anchor=1000.0), []
    for fast in (True, False):
        lab.reset()
        run = finetune(lab, smft.new_facts(4), smft.Sparse(fast=fast), probe_every=0, recipe=recipe)
        losses.append([step.loss for step in run if step.loss is not None])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_lab_keeps_its_background_documents(lab, tmp_path):
    lab.save(tmp_path / "lab")
    again = load(tmp_path / "lab")
    assert again.documents == lab.documents != ()
    assert torch.equal(again.background_reads()[0].slots, lab.background_reads()[0].slots)


@pytest.mark.parametrize("damage", ["short", "outside", "kind"])
def test_damaged_documents_are_refused_by_name(lab, tmp_path, damage):
    lab.save(tmp_path / "lab")
    file = tmp_path / "lab" / BACKGROUND_FILE
    tensors = load_file(file)
    if damage == "short":
        tensors["ids"] = tensors["ids"][:-1].clone()
    elif damage == "outside":
        tensors["ids"][0] = 10**6
    else:
        tensors["lengths"] = tensors["lengths"].float()
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"{BACKGROUND_FILE} can't be read"):
        load(tmp_path / "lab")


def test_a_lab_without_a_background_says_what_an_anchor_needs(lab):
    lab.documents = ()
    with pytest.raises(ValueError, match="keeps no background text, which the anchor of a recipe needs"):
        list(finetune(lab, smft.new_facts(2), probe_every=0, recipe=replace(RECIPE, anchor=1.0)))
    assert not value_tables(lab.model)[0].weight.any()


def test_the_built_in_world_is_a_background_of_its_own(tiny_lab):
    lab = tiny_lab()
    (reads,) = lab.background_reads()
    assert len(reads.slots) > 10_000
    assert lab.background_reads()[0] is reads


def test_an_anchor_for_slots_chosen_batch_by_batch_is_refused():
    with pytest.raises(ValueError, match="chosen for a group of facts"):
        smft.Recipe(anchor=1.0, choice="batch", order="stream")
