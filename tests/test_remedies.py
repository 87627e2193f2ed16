"""Remedies against forgetting: penalties, averaging, texts mixed in, the write log, and the dense methods under SGD."""

import pytest
import torch

from smft_lab.facts.common import common_questions
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.baselines import WeightPenalty, average_with_base, fisher
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.method import Method
from smft_lab.finetuning.methods import full_with_replay
from smft_lab.finetuning.methods.full_with_replay import Replay
from smft_lab.model.tokenizer import encode
from smft_lab.slots.selection import Selection

FACTS = new_facts(3)


def train(lab, method="full", **options):
    options = {"passes": 2, "probe_every": 0, **({} if isinstance(method, Method) else {"lr": 1e-3}), **options}
    return list(finetune(lab, FACTS, method, **options))


def distance(lab) -> float:
    state = lab.model.state_dict()
    return sum(float((tensor - lab.base(name)).square().sum()) for name, tensor in state.items()) ** 0.5


def test_the_gradient_of_a_weight_penalty_is_that_of_its_formula(lab):
    name, parameter = next(iter(lab.model.named_parameters()))
    with torch.no_grad():
        parameter.add_(0.5)
    importance = {key: torch.full_like(value, 3.0) for key, value in lab.model.named_parameters()}
    for penalty, expected in ((WeightPenalty(0.1), 0.05), (WeightPenalty(0.1, importance), 0.15)):
        for one in lab.model.parameters():
            one.grad = torch.zeros_like(one)
        penalty.add_gradient(lab)
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, expected))
        assert all(not other.grad.any() for key, other in lab.model.named_parameters() if key != name)


def test_a_model_under_a_penalty_stays_nearer_to_the_base(lab):
    train(lab)
    free = distance(lab)
    lab.reset()
    train(lab, penalty=WeightPenalty(10.0))
    assert 0 < distance(lab) < free


def test_the_fisher_information_is_the_mean_squared_gradient_of_single_texts(lab):
    texts = list(FACTS[0].statements[:3])
    squared = {name: torch.zeros_like(one) for name, one in lab.model.named_parameters()}
    for text in texts:
        grads = torch.autograd.grad(lab.model(**encode(lab.tokenizer, [text])).loss, list(lab.model.parameters()))
        for one, grad in zip(squared.values(), grads, strict=True):
            one += grad**2
    scale = sum(float(one.sum()) for one in squared.values()) / sum(one.numel() for one in squared.values())
    for name, one in fisher(lab, texts).items():
        torch.testing.assert_close(one, squared[name] / scale, rtol=1e-4, atol=1e-6)
    assert all(one.grad is None or not one.grad.any() for one in lab.model.parameters())


def test_an_interrupted_fisher_information_leaves_a_persons_own_gradients(lab, monkeypatch):
    weight = next(lab.model.parameters())
    own = weight.grad = torch.ones_like(weight)
    monkeypatch.setattr(lab, "encode", lambda texts: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fisher(lab, FACTS[0].statements[:2])
    assert weight.grad is own
    assert all(other.grad is None for other in list(lab.model.parameters())[1:])


def test_a_model_whose_gradients_are_all_zero_has_no_fisher_information(lab):
    with torch.no_grad():
        lab.model.get_output_embeddings().weight.zero_()
    with pytest.raises(ValueError, match="add up to 0"):
        fisher(lab, FACTS[0].statements[:2])


def test_weights_without_a_gradient_have_no_fisher_information_and_no_penalty(lab):
    name, frozen = next(iter(lab.model.named_parameters()))
    frozen.requires_grad_(False)
    information = fisher(lab, FACTS[0].statements[:2])
    assert not information[name].any()
    assert sum(float(one.sum()) for one in information.values()) > 0
    lab.model(**encode(lab.tokenizer, [FACTS[0].statements[0]])).loss.backward()
    WeightPenalty(0.1, information).add_gradient(lab)
    assert frozen.grad is None
    lab.model.requires_grad_(False)
    with pytest.raises(ValueError, match="no weight of the model takes a gradient"):
        fisher(lab, FACTS[0].statements[:2])


def test_an_average_lies_on_the_line_between_base_and_model(lab):
    train(lab)
    ends = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    average_with_base(lab, 0.25)
    for name, tensor in lab.model.state_dict().items():
        torch.testing.assert_close(tensor, lab.base(name) + 0.25 * (ends[name] - lab.base(name)))
    average_with_base(lab, 0.0)
    assert distance(lab) == 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_dense_method_under_sgd_takes_its_very_step(lab, method):
    first = train(lab, method, optimizer="sgd", lr=0.05)
    assert distance(lab) > 0
    lab.reset()
    assert [step.loss for step in first] == [step.loss for step in train(lab, method, optimizer="sgd", lr=0.05)]
    if method == "full":
        lab.reset()
        (name, parameter) = next(iter(lab.model.named_parameters()))
        run = finetune(lab, FACTS, "full", optimizer="sgd", lr=0.05, probe_every=0)
        next(run)
        which = next(run).facts[0]
        moved = parameter.detach().clone()
        lab.reset()
        loss = lab.model(**encode(lab.tokenizer, list(FACTS[which].statements))).loss
        grad = torch.autograd.grad(loss, parameter)[0]
        torch.testing.assert_close(moved, lab.base(name) - 0.05 * grad)


def test_mixed_in_texts_are_trained_on_but_do_not_choose_slots(lab):
    asked = []

    def old(rng):
        asked.append(f"Repeat {rng.random()}: nothing.")
        return asked[-1:]

    plain = train(lab, "sparse", lr=0.1, top_t=5, passes=1)
    lab.reset()
    mixed = train(lab, "sparse", lr=0.1, top_t=5, passes=1, mix=old)
    assert len(set(asked)) == len(FACTS)
    for one, other in zip(plain[1:], mixed[1:], strict=True):
        assert one.loss != other.loss
        assert [set(slots.tolist()) for slots in one.slots] == [set(slots.tolist()) for slots in other.slots]


def test_mixed_in_texts_are_learned_whole_where_of_the_taught_only_the_answer_is(lab, monkeypatch):
    labels = []
    forward = lab.model.forward

    def watched(*args, **inputs):
        labels.append(inputs["labels"])
        return forward(*args, **inputs)

    monkeypatch.setattr(lab.model, "forward", watched)
    old = "It was never said."
    train(lab, "full", passes=1, loss_on="answer", mix=lambda rng: [old], fast=False)
    whole = len(lab.tokenizer(old)["input_ids"]) + 1  # the end of the text, too
    for one in labels:
        assert int((one[-1] != -100).sum()) == whole
        assert all(0 < int((row != -100).sum()) < 12 for row in one[:-1])


def labelled_texts(lab, monkeypatch) -> list[list[str]]:
    """Is filled with the texts of each batch that the model is trained on."""
    batches = []
    forward = lab.model.forward

    def watched(*args, **inputs):
        if "labels" in inputs:
            texts = lab.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
            batches.append([text.strip() for text in texts])
        return forward(*args, **inputs)

    monkeypatch.setattr(lab.model, "forward", watched)
    return batches


def test_full_finetuning_with_replay_trains_on_old_texts_beside_each_batch(lab, monkeypatch):
    batches = labelled_texts(lab, monkeypatch)
    texts = tuple(f"It is said that {number} is a number." for number in range(30))
    train(lab, Replay(texts=texts, count=5, lr=1e-3, fast=False))
    olds = [batch[-5:] for batch in batches]
    assert len(olds) == 6
    assert all(len(set(old)) == 5 and set(old) <= set(texts) for old in olds)
    assert olds[0] != olds[3]  # drawn anew when a batch comes back
    assert all(len(batch) == 5 + 64 for batch in batches)


def test_replay_goes_at_the_rate_of_full_finetuning_unless_it_was_tuned_itself(lab):
    lab.defaults = {"full": {"lr": 0.25}}
    assert Replay().resolved(lab).lr == 0.25
    lab.defaults["replay"] = {"lr": 0.5}
    assert Replay().resolved(lab).lr == 0.5


def test_replay_takes_what_a_model_of_the_built_in_world_was_pretrained_on(lab, monkeypatch):
    batches = labelled_texts(lab, monkeypatch)
    train(lab, "replay", passes=1, fast=False)
    known = {name for name, _ in lab.world.values}
    assert sum(any(name in text for name in known) for batch in batches for text in batch[-16:]) > len(batches)


def test_replay_has_another_model_answer_general_questions_that_no_probe_asks(lab, monkeypatch):
    monkeypatch.setattr(lab, "world_seed", None)
    few = common_questions("background")[:4]
    monkeypatch.setattr(full_with_replay, "common_questions", lambda part: few)
    batches = labelled_texts(lab, monkeypatch)
    train(lab, Replay(count=2, lr=1e-3, fast=False), passes=1)
    background = [question.question for question in common_questions("background")]
    olds = [old for batch in batches for old in batch[-2:]]
    assert len(olds) == 2 * len(FACTS)
    assert all(any(question in old for question in background) for old in olds)


def test_osf_leaves_the_largest_directions_of_each_matrix_alone(lab):
    train(lab, "osf", passes=2, lr=1e-2)
    name = "model.layers.0.self_attn.q_proj.weight"
    base, change = lab.base(name), lab.model.state_dict()[name] - lab.base(name)
    left, sizes, right = torch.linalg.svd(base)
    high = len(sizes) // 2
    inside = left[:, :high].T @ change @ right[:high].T
    assert change.norm() > 1e-3
    assert inside.norm() < 0.05 * change.norm()


def test_what_one_fact_wrote_is_left_alone_by_the_next(lab):
    inputs = [encode(lab.tokenizer, list(fact.statements[:4])) for fact in FACTS[:2]]
    selection = Selection(lab.model, lab.usage, 20, protect=1e6)

    def select(owner, batch):
        selection.expect(None, owner=owner)
        lab.model(**batch)
        return set(selection.slots[0].tolist())

    with selection.active():
        alone = select("second", inputs[1])
        first = select("first", inputs[0])
        assert alone & first, "the two facts contend for some slots"
        selection.log_writes()
        assert not select("second", inputs[1]) & first
        assert select("first", inputs[0]) == first, "its own writes are no hindrance"


def test_the_write_log_counts_a_fact_once_however_often_it_writes(lab):
    def last_slots(passes, protect):
        return train(lab, "sparse", top_t=5, lr=1e-9, passes=passes, protect=protect)[-1].slots[0].tolist()

    assert last_slots(2, 50.0) == last_slots(6, 50.0)
    assert last_slots(6, 0.0) != last_slots(6, 50.0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", {"penalty": WeightPenalty(0.1)}, "lora has no 'penalty'; it has lr, optimizer, mix, fast, rank"),
        ("full", {"protect": 1.0}, "full has no 'protect'; it has lr, optimizer, mix, fast, penalty"),
        ("sparse", {"protect": -1.0}, "protect must be at least 0"),
        ("full", {"rank": 8}, "full has no 'rank'"),
        ("lora", {"rank": 0}, "rank must be at least 1"),
        ("lora", {"rank": 10**9}, "rank must be at most 1024, not 1000000000: beyond its matrices"),
        ("full", {"optimizer": "adam"}, "no optimizer 'adam' for full; there are adamw, sgd"),
        ("replay", {"count": 0}, "count must be at least 1"),
        ("replay", {"texts": ("One.",), "count": 2}, "2 texts can't be drawn from 1"),
        ("replay", {"mix": lambda rng: ["One."]}, "replay mixes its own texts"),
        ("osf", {"preserved": 1.0}, "preserved is a share between 0 and 1"),
    ],
)
def test_a_remedy_where_it_does_not_belong_is_refused(lab, method, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(lab, FACTS, method, **options)


def test_impossible_strengths_are_refused(lab):
    with pytest.raises(ValueError, match="strength must be positive, not 0"):
        WeightPenalty(0)
    with pytest.raises(ValueError, match="share must be within"):
        average_with_base(lab, 1.5)
    with pytest.raises(ValueError, match="at least one text"):
        fisher(lab, [])
