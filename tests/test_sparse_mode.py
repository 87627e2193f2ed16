"""Sparse mode in a training loop of one's own."""

import pytest
import torch

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.model.tokenizer import encode

FACTS = new_facts(2)


def train(lab, facts=FACTS, **options):
    """A plain PyTorch loop; the slots selected at each step."""
    selected = []
    with smft.sparse_mode(lab, top_t=7, **options) as selection:
        optimizer = torch.optim.SGD([table.weight for table in smft.value_tables(lab.model)], lr=5.0)
        for fact in facts:
            lab.model(**encode(lab.tokenizer, list(fact.statements))).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            selected.append(selection.slots)
    return selected


@pytest.mark.parametrize(
    "memory", [{"memory_at": [1]}, {"memory_at": [0, 2]}, {"memory_at": [0, 2], "memory_shared": False}], ids=str
)
def test_a_plain_sgd_loop_changes_the_selected_rows_and_nothing_else(tiny_lab, memory):
    lab = tiny_lab(**memory)
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    selected = train(lab)
    tables = smft.value_tables(lab.model)
    for i, table in enumerate(tables):
        name = next(name for name, parameter in lab.model.named_parameters() if parameter is table.weight)
        changed = (before[name] != table.weight).any(dim=1).nonzero().squeeze(1)
        assert set(changed.tolist()) == set(torch.cat([slots[i] for slots in selected]).tolist())
    others = {name for name in before if not name.endswith("values.weight")}
    assert others
    assert all(torch.equal(before[name], lab.model.state_dict()[name]) for name in others)


def test_it_is_the_same_training_as_finetune(lab):
    options = {"passes": 2, "top_t": 7, "lr": 5.0, "optimizer": "sgd", "probe_every": 0}
    order = [step.facts[0] for step in finetune(lab, FACTS, **options) if step.step]
    theirs = smft.value_tables(lab.model)[0].weight.detach().clone()
    lab.reset()
    train(lab, [FACTS[i] for i in order])
    torch.testing.assert_close(smft.value_tables(lab.model)[0].weight, theirs, rtol=1e-4, atol=1e-5)


def test_padding_is_not_counted(lab):
    texts = [FACTS[0].statements[0], FACTS[0].statements[1] + " And so it has always been, as everyone here will say."]
    batch = encode(lab.tokenizer, texts)
    longer = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 9), value=lab.tokenizer.pad_token_id),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 9)),
        "labels": torch.nn.functional.pad(batch["labels"], (0, 9), value=-100),
    }
    with smft.sparse_mode(lab, top_t=20) as selection:
        lab.model(**batch).loss.backward()
        slots = selection.slots[0].tolist()
        lab.model(**longer).loss.backward()
        assert selection.slots[0].tolist() == slots


def test_evaluating_between_steps_does_no_harm(lab):
    train(lab)
    expected = smft.value_tables(lab.model)[0].weight.detach().clone()
    lab.reset()
    with smft.sparse_mode(lab, top_t=7):
        optimizer = torch.optim.SGD([table.weight for table in smft.value_tables(lab.model)], lr=5.0)
        for fact in FACTS:
            loss = lab.model(**encode(lab.tokenizer, list(fact.statements))).loss
            loss.backward()
            lab.answer([fact.question])
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(smft.value_tables(lab.model)[0].weight, expected)


def test_everything_is_as_before_after_the_block_also_when_it_fails(lab):
    lab.model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in lab.model.named_parameters()}

    def fail():
        with smft.sparse_mode(lab, top_t=7):
            assert not lab.model.model.layers[0].mlp.up_proj.weight.requires_grad
            raise KeyError("in the block")

    with pytest.raises(KeyError):
        fail()
    assert before == {name: parameter.requires_grad for name, parameter in lab.model.named_parameters()}
    lab.model(**encode(lab.tokenizer, ["A boat."])).loss.backward()
    assert smft.value_tables(lab.model)[0].weight.grad.layout is torch.strided


@pytest.mark.parametrize(
    ("options", "says"),
    [({"top_t": 0}, "between 1 and"), ({"top_t": 257}, "between 1 and"), ({"rule": "best"}, "no rule")],
)
def test_options_out_of_range_are_named(lab, options, says):
    with pytest.raises(ValueError, match=says), smft.sparse_mode(lab, **options):
        pass
