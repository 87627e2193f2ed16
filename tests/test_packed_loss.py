"""Full finetuning and LoRA compute what texts have in common once, with the losses and gradients of the plain way."""

import pytest
import torch
from test_attach import MEMORY, lab_of, small

import smft_lab as smft
from smft_lab.finetuning.engine import products
from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.engine.packed_loss import PackedLoss
from smft_lab.finetuning.engine.products import TrainedLinear
from smft_lab.model.attach import add_memory
from smft_lab.model.tokenizer import encode

FAMILIES = ["gpt2", "gpt_neox", "gemma2", "mixtral"]


def after(lab, method: str, fast: bool, **options) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a short run, by SGD: it shows gradients as they are."""
    run = smft.finetune(
        lab, smft.new_facts(2), method, optimizer="sgd", lr=0.05, passes=2, probe_every=0, fast=fast, **options
    )
    losses = [step.loss for step in run][1:]
    weights = {name: parameter.detach().clone() for name, parameter in lab.model.named_parameters()}
    lab.reset()
    return losses, weights


def check_same(lab, method: str, **options) -> None:
    losses, weights = after(lab, method, False, **options)
    fast_losses, fast_weights = after(lab, method, True, **options)
    assert fast_losses == pytest.approx(losses, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(fast_weights[name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture
def packed_forms(monkeypatch):
    """Which forms were run: packed or not."""
    ran: list[bool] = []
    run = PackedLoss._run

    def noted(self, form, fused):
        ran.append(form.packed)
        return run(self, form, fused)

    monkeypatch.setattr(PackedLoss, "_run", noted)
    return ran


@pytest.mark.parametrize("options", [{}, {"loss_on": "answer"}], ids=["statement", "answer"])
@pytest.mark.parametrize("method", ["full", "lora", "osf"])
def test_a_dense_method_learns_the_same_on_trees(lab, method, options, packed_forms):
    check_same(lab, method, **options)
    assert all(packed_forms)
    assert len(packed_forms) >= 4


@pytest.mark.filterwarnings("ignore:LoRA adapts")
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_face_families_learn_the_same(family, method, tokenizer, corpus, packed_forms):
    check_same(lab_of(add_memory(small(family), 1, **MEMORY), tokenizer, corpus), method)
    assert packed_forms


def test_a_window_is_no_place_for_trees(tokenizer, corpus, packed_forms):
    check_same(lab_of(add_memory(small("mistral", sliding_window=8), 1, **MEMORY), tokenizer, corpus), "full")
    assert not any(packed_forms)


def test_a_model_with_another_loss_is_trained_the_plain_way_and_says_so(lab, monkeypatch):
    batch = a_batch(lab)
    lab.model.requires_grad_(True)
    forward = lab.model.forward

    def louder(**inputs):
        out = forward(**inputs)
        out.logits = 2 * out.logits
        return out

    monkeypatch.setattr(lab.model, "forward", louder)
    with pytest.warns(UserWarning, match="trained the plain way, more slowly"):
        loss = PackedLoss(lab.model).loss(batch)
    torch.testing.assert_close(loss, forward(**batch.inputs).loss)


def test_a_half_precision_model_is_run_as_it_is(lab, packed_forms):
    lab.model.bfloat16()
    batch = a_batch(lab)
    assert torch.equal(PackedLoss(lab.model).loss(batch), lab.model(**batch.inputs).loss)
    assert not packed_forms


def a_batch(lab) -> Batch:
    inputs = encode(lab.tokenizer, list(smft.new_facts(1)[0].statements[:6]))
    return Batch(inputs, inputs["attention_mask"])


@pytest.mark.parametrize("bias", [True, False])
def test_what_stands_in_for_a_training_layer_gives_its_output_and_all_gradients(bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=bias)
    weight = torch.randn(2, 33, 80)
    gradients = []
    for called in (TrainedLinear(layer), layer):
        x = torch.randn(2, 33, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = called(x)
        gradients.append([y, *torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()])])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_that_train_are_stood_in_for_where_that_is_faster(lab, monkeypatch):
    lab.model.requires_grad_(True)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    trained = products.trained_linears(lab.model)
    assert trained
    assert not products.fast_linears(lab.model, None)
    lab.model.requires_grad_(False)
    assert len(products.fast_linears(lab.model, None)) == len(trained)
