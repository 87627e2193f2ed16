"""A batch packed into trees has the loss, the gradient and the counts of the batch as it is."""

import pytest
import torch

from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.engine import packing
from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.engine.packing import Targets, as_rows, as_trees
from smft_lab.finetuning.engine.products import HeadLoss
from smft_lab.finetuning.engine.proof import form_of
from smft_lab.model.memory import observe_reads
from smft_lab.model.tokenizer import encode, only_answers
from smft_lab.slots.usage import table_counts

FACT = new_facts(1, seed=3)[0]


@pytest.fixture(params=["statement", "answer"])
def batch(request, lab):
    texts = list(FACT.statements)
    inputs = encode(lab.tokenizer, texts)
    counted = inputs["attention_mask"]
    if request.param == "answer":
        counted = only_answers(lab.tokenizer, texts, [FACT.answers] * len(texts), inputs)
    return inputs, counted


@pytest.mark.parametrize("row", [8, 192, 10_000])
def test_trees_have_the_loss_and_the_reads_of_the_rows(lab, batch, row, monkeypatch):
    monkeypatch.setattr(packing, "ROW", row)
    inputs, counted = batch
    form = as_trees(inputs, counted)
    if row == 8:  # a tree of one statement saves nothing
        assert form is None
        return
    assert form.inputs["input_ids"].numel() < 0.7 * inputs["input_ids"].numel()
    with torch.no_grad(), observe_reads(lab.model) as reads:
        plain = lab.model(**inputs)
        expected = table_counts(lab.model, reads, counted)
        logits = lab.model(**form.inputs).logits.flatten(0, 1)[form.targets.predicting]
        loss = form.targets.mean(form.targets.nats(logits))
        found = table_counts(lab.model, reads, form.counted)
    assert loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert torch.equal(expected[0], found[0])


def test_every_position_is_in_one_tree_and_counted_as_often_as_it_occurs(lab, batch):
    inputs, counted = batch
    form = as_trees(inputs, counted)
    assert form.counted.sum() == counted.sum()
    assert form.targets.weight.sum() == (inputs["labels"][:, 1:] != -100).sum()
    assert torch.equal(form.targets.total.sum(), form.targets.weight.sum())
    sees = form.inputs["attention_mask"][:, 0] == 0
    real = sees.sum(-1) - 1
    assert torch.equal(real, form.inputs["position_ids"])  # a token sees as many others as its depth, padding none


def test_texts_without_a_common_beginning_stay_rows(lab):
    inputs = encode(lab.tokenizer, [f"{first} is what it says." for first in ("Anna", "Bert", "Carl")])
    assert as_trees(inputs, inputs["attention_mask"]) is None


def test_where_the_mask_would_be_too_large_a_batch_stays_rows(lab, batch, monkeypatch):
    G, _, U, _ = as_trees(*batch).inputs["attention_mask"].shape
    monkeypatch.setattr(packing, "LARGEST", G * U * U - 1)
    assert as_trees(*batch) is None


def test_beyond_the_attention_window_a_batch_stays_rows(lab, batch):
    inputs, counted = batch
    lab.model.config.sliding_window = 4
    for window, packed in ((4, False), (400, True)):
        lab.model.config.sliding_window = window
        assert form_of(lab.model, Batch(inputs, counted)).packed == packed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_fused_loss_and_its_gradient_are_those_of_cross_entropy(monkeypatch, chunk, bias):
    monkeypatch.setattr("smft_lab.finetuning.engine.products.CHUNK", chunk)
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 40, bias=bias).requires_grad_(False)
    positions, labels = torch.randint(9, (50,)), torch.randint(40, (50,))
    texts = torch.randint(4, (50,))
    targets = Targets.of(positions, labels, texts)
    one, other = (torch.randn(12, 6, generator=torch.Generator().manual_seed(1)) * 30 for _ in range(2))
    one.requires_grad_(), other.requires_grad_()
    each = torch.nn.functional.cross_entropy(head(one)[positions], labels, reduction="none")
    expected = each.mean()
    fused, nats = HeadLoss.apply(other, head, targets, head.weight)
    unfused = targets.mean(targets.nats(head(other)[targets.predicting]))
    worst = torch.stack([each[texts == text].max() for text in range(4)])
    torch.testing.assert_close(targets.worst_of_text(nats, 4), worst.detach(), rtol=1e-4, atol=1e-4)
    assert targets.worst_of_text(nats, 5)[4] == 0  # a text without a label
    assert fused.item() == pytest.approx(expected.item(), rel=1e-5)
    assert unfused.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    fused.backward()
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)


def test_with_a_rounded_head_no_loss_is_below_zero_and_what_is_sure_costs_nothing():
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 30, bias=False).requires_grad_(False)
    hidden = 60 * torch.nn.functional.normalize(head.weight)  # each position is sure of one word
    places = torch.arange(30)
    _, nats = HeadLoss.apply(hidden, head, Targets.of(places, places, places), head.weight.bfloat16())
    assert (nats >= 0).all()
    assert nats.max() < 0.01


def test_large_products_of_the_fused_loss_are_not_rounded_and_leave_no_setting_behind():
    def setting():  # older PyTorch has none
        return getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)

    before = setting()
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(128, 2000, bias=False).requires_grad_(False)
    hidden = torch.randn(700, 128, generator=generator)
    places = torch.arange(700)
    targets = Targets.of(places, torch.randint(2000, (700,), generator=generator), places)
    exact, fused = hidden.double().requires_grad_(), hidden.clone().requires_grad_()
    targets.mean(targets.nats(exact @ head.weight.double().T)).backward()
    HeadLoss.apply(fused, head, targets, head.weight)[0].backward()
    assert (fused.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()  # bfloat16 would be at 1e-3
    assert setting() == before


def test_rows_keep_padding_and_unlabelled_positions_out(lab, batch):
    inputs, counted = batch
    form = as_rows(inputs, counted)
    with torch.no_grad():
        out = lab.model(**inputs)
        loss = form.targets.mean(form.targets.nats(out.logits.flatten(0, 1)[form.targets.predicting]))
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-5)
