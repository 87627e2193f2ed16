"""A lab's model is a `transformers` model: their Trainer and peft's adapters work on it as on any other."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_attach import MEMORY, lab_of, small
from transformers import Trainer, TrainingArguments

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.model.attach import add_memory
from smft_lab.model.tokenizer import encode


@pytest.fixture
def lab(tokenizer, corpus):
    return lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)


def test_the_transformers_trainer_in_sparse_mode_moves_selected_rows_alone(lab, tmp_path):
    texts = [{"text": text} for fact in new_facts(4) for text in fact.statements[:8]]
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    options = TrainingArguments(
        tmp_path,
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    with smft.sparse_mode(lab, top_t=9):
        rows = smft.RowOptimizer(lab, lr=0.1)
        trainer = Trainer(
            lab.model,
            options,
            lambda some: encode(lab.tokenizer, [one["text"] for one in some]),
            texts,
            optimizers=(rows, None),
        )
        trainer.train()
    (name,) = [name for name, tensor in lab.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert name == "model.layers.1.mlp.memory.values.weight"
    changed = (lab.model.state_dict()[name] != before[name]).any(1).sum()
    assert 9 <= changed <= 8 * 9
    assert rows.param_groups[0]["lr"] < 0.1  # the Trainer's schedule


def test_a_trainer_that_goes_on_from_a_checkpoint_ends_as_if_it_had_not_stopped(tiny_lab, tmp_path):
    texts = [{"text": text} for fact in new_facts(4) for text in fact.statements[:8]]

    def train(steps: int, checkpoint: str | None = None):
        lab = tiny_lab()
        options = TrainingArguments(
            tmp_path,
            max_steps=steps,
            per_device_train_batch_size=4,
            save_steps=3,
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
            lr_scheduler_type="constant",
        )
        with smft.sparse_mode(lab, top_t=9):
            trainer = Trainer(
                lab.model,
                options,
                lambda some: encode(lab.tokenizer, [one["text"] for one in some]),
                texts,
                optimizers=(smft.RowOptimizer(lab, lr=0.1), None),
            )
            trainer.train(resume_from_checkpoint=checkpoint)
        return smft.value_tables(lab.model)[0].weight.detach()

    whole = train(6)
    train(3)
    assert torch.equal(train(6, str(tmp_path / "checkpoint-3")), whole)


@pytest.mark.parametrize(("other", "says"), [("sgd", "another optimizer"), ("small", "not of a table of 256 x 32")])
def test_a_state_of_another_optimizer_is_refused(lab, other, says):
    rows = smft.RowOptimizer(lab, lr=0.1)
    state = smft.RowOptimizer(lab, lr=0.1, optimizer="sgd" if other == "sgd" else "adam").state_dict()
    if other == "small":
        state["rows"][0]["second"] = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=says):
        rows.load_state_dict(state)


@pytest.mark.parametrize(
    "damage",
    [
        {"second": torch.zeros(2, 32), "steps": torch.zeros(3)},
        {"rows": torch.tensor([-1, 2])},
        {"rows": torch.tensor([2, 2])},
        {"rows": torch.tensor([2, 256])},
        {"overall": torch.zeros(1)},
        {"first": torch.zeros(2, 32)},
    ],
)
def test_of_a_damaged_state_nothing_is_taken_up(tiny_lab, damage):
    lab = tiny_lab(memory_at=[0, 1], memory_shared=False)
    optimizer = smft.RowOptimizer(lab, lr=0.1)
    assert len(optimizer._rows) == 2
    of_two = {"rows": torch.tensor([2, 3]), "steps": torch.ones(2), "second": torch.ones(2, 32)}
    of_two["overall"] = torch.ones(2)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.5
    state["rows"] = [of_two, {**of_two, **damage}]
    with pytest.raises(ValueError, match="the state is"):
        optimizer.load_state_dict(state)
    assert [rows.rows_with_state for rows in optimizer._rows] == [0, 0]
    assert optimizer.param_groups[0]["lr"] == 0.1
    state["rows"][1] = of_two
    optimizer.load_state_dict(state)
    assert [rows.rows_with_state for rows in optimizer._rows] == [2, 2]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_row_optimizer_takes_the_steps_of_finetune(lab, optimizer):
    facts = new_facts(3)
    options = {"top_t": 9, "lr": 0.5, "optimizer": optimizer, "passes": 2, "probe_every": 0, "fast": False}
    order = [step.facts[0] for step in smft.finetune(lab, facts, **options) if step.step]
    theirs = smft.value_tables(lab.model)[0].weight.detach().clone()
    lab.reset()
    with smft.sparse_mode(lab, top_t=9):
        rows = smft.RowOptimizer(lab, lr=0.5, optimizer=optimizer)
        for i in order:
            lab.model(**encode(lab.tokenizer, list(facts[i].statements))).loss.backward()
            assert all(parameter.grad is None for parameter in lab.model.parameters())
            rows.step()
    assert torch.equal(smft.value_tables(lab.model)[0].weight, theirs)


def test_a_row_optimizer_that_is_gone_leaves_later_gradients_alone(lab):
    with smft.sparse_mode(lab, top_t=9):
        rows = smft.RowOptimizer(lab, lr=0.5)
        del rows
        lab.model(**encode(lab.tokenizer, ["Mira keeps a cat."])).loss.backward()
        assert smft.value_tables(lab.model)[0].weight.grad.is_sparse


def test_of_two_row_optimizers_the_newest_gets_the_gradients_and_the_other_says_so(lab):
    table, batch, norms = smft.value_tables(lab.model)[0].weight, encode(lab.tokenizer, ["Mira keeps a cat."]), []
    kept = []
    for _ in range(2):
        before = table.detach().clone()
        with smft.sparse_mode(lab, top_t=9):
            kept.append(smft.RowOptimizer(lab, lr=0.5))
            lab.model(**batch).loss.backward()
            kept[-1].step()
        norms.append((table.detach() - before).norm().item())
        lab.reset()
    assert norms[0] == norms[1] > 0
    with pytest.raises(ValueError, match="another RowOptimizer was made for this lab since"):
        kept[0].step()


def test_a_row_optimizer_that_is_kept_leaves_a_later_finetune_alone(lab):
    options = {"lr": 0.5, "top_t": 9, "passes": 1, "probe_every": 0}
    losses = smft.run(lab, new_facts(2), **options).losses
    lab.reset()
    with smft.sparse_mode(lab, top_t=9):
        kept = smft.RowOptimizer(lab, lr=0.1)
    assert smft.run(lab, new_facts(2), **options).losses == losses
    assert kept._taken == [None]


def test_a_row_optimizer_writes_nothing_where_a_gradient_is_not_finite(lab):
    table = smft.value_tables(lab.model)[0].weight
    before = table.detach().clone()
    with smft.sparse_mode(lab, top_t=9):
        rows = smft.RowOptimizer(lab, lr=0.1)
        (lab.model(**encode(lab.tokenizer, ["Mira keeps a cat."])).loss * float("nan")).backward()
        with pytest.raises(ValueError, match="a gradient is not finite, so nothing more is learned; lower lr"):
            rows.step()
        assert torch.equal(table, before)
        lab.model(**encode(lab.tokenizer, ["Mira keeps a cat."])).loss.backward()
        rows.step()
    assert table.isfinite().all()
    assert not torch.equal(table, before)


def test_a_peft_adapter_goes_on_top_and_comes_off_again(lab):
    ids = torch.arange(3, 15).view(2, 6)
    before = lab.model(ids).logits
    adapted = get_peft_model(lab.model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert any("memory" in name for name in names)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        adapted(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(adapted(ids).logits, before)
    with adapted.disable_adapter():
        assert torch.equal(adapted(ids).logits, before)
