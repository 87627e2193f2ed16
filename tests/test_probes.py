"""Probes: the SQuAD measures, answers that don't depend on their batch, and exact log-likelihoods."""

import math
from dataclasses import replace

import pytest
import torch

from smft_lab.facts.fact import Fact
from smft_lab.facts.world.grammar import answered, ask
from smft_lab.facts.world.world import built_in_world
from smft_lab.probes import probes as probes_module
from smft_lab.probes.probes import Probes, QuestionProbe, TextProbe, answer, world_probes
from smft_lab.probes.text import exact_match, f1, normalise

# Scoring ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  a   cat and AN owl ", "cat and owl"),
        ("U.S.A.", "usa"),
        ("Ash-Works, founded in Falova.", "ashworks founded in falova"),
        ("theatre anthem", "theatre anthem"),  # articles go as words only
        ("the", ""),
        ("Café", "café"),
        ("1,066", "1066"),
    ],
)
def test_normalising_drops_case_punctuation_articles_and_blanks(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("said", "accepted", "score"),
    [
        ("the Falcon.", ["falcon"], 1.0),
        ("falcon", ["owl", "Falcon"], 1.0),
        ("falcons", ["falcon"], 0.0),
        ("a falcon and an owl", ["falcon"], 0.0),
        ("", ["falcon"], 0.0),
    ],
)
def test_exact_match_takes_any_accepted_answer_and_no_part_of_one(said, accepted, score):
    assert exact_match(said, accepted) == score


@pytest.mark.parametrize(
    ("said", "accepted", "score"),
    [
        ("barley soup", ["barley soup"], 1.0),
        ("the Barley Soup", ["a barley soup"], 1.0),
        ("barley", ["barley soup"], 2 / 3),  # precision 1, recall 1/2
        ("hot barley soup with rye", ["barley soup"], 4 / 7),  # precision 2/5, recall 1
        ("soup soup", ["soup"], 2 / 3),  # a word counts as often as it stands in both
        ("soup of soup", ["soup with soup"], 2 / 3),
        ("owl", ["falcon"], 0.0),
        ("barley", ["falcon", "barley soup", "barley bread and soup"], 2 / 3),  # the best of several
        ("", ["falcon"], 0.0),
        ("the", ["a"], 0.0),  # nothing left of either: the letters decide
        ("A", ["A"], 1.0),
        ("owl", ["the"], 0.0),
    ],
)
def test_f1_is_the_word_overlap_with_the_best_accepted_answer(said, accepted, score):
    assert f1(said, accepted) == pytest.approx(score)


def test_a_question_probe_averages_over_its_questions(lab, monkeypatch):
    monkeypatch.setattr(
        probes_module,
        "answer",
        lambda model, tokenizer, questions, max_new_tokens, form: ["owl", "barley", "", "The owl."],
    )
    accepted = (("owl",), ("barley soup",), ("cat",), ("cat", "owl"))
    probe = QuestionProbe("some", ("1?", "2?", "3?", "4?"), accepted)
    assert probe.measure(lab.model, lab.tokenizer) == {"em": 0.5, "f1": pytest.approx((1 + 2 / 3 + 0 + 1) / 4)}


# Answers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talkative(tiny_model, tokenizer):
    """A random model whose answers depend on all of the question."""
    torch.manual_seed(3)
    model = tiny_model(num_hidden_layers=2, memory_at=[1], tie_word_embeddings=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model.eval(), tokenizer


QUESTIONS = [
    "Who?",
    "Where was Alan Ashbury born, and when, and who was there to see it?",
    "What is 3 plus 4?",
    "Which animal does Corine Barton keep?",
    "Who does Belis Oakham work for?",
    "Why?",
]


def test_batched_answers_are_those_asked_one_by_one(talkative):
    together = answer(*talkative, QUESTIONS, max_new_tokens=8)
    assert len(set(together)) == len(QUESTIONS)  # or the test would hold for any mix-up
    assert together == [answer(*talkative, [question], max_new_tokens=8)[0] for question in QUESTIONS]


def test_answers_come_in_the_order_of_the_questions_whatever_the_batch_size(talkative, monkeypatch):
    together = answer(*talkative, QUESTIONS, max_new_tokens=8)
    monkeypatch.setattr(probes_module, "BATCH", 2)
    assert answer(*talkative, QUESTIONS, max_new_tokens=8) == together
    assert answer(*talkative, QUESTIONS[::-1], max_new_tokens=8) == together[::-1]


def test_an_answer_is_what_greedy_decoding_by_hand_gives(talkative):
    model, tokenizer = talkative
    ids = tokenizer(ask(QUESTIONS[2]))["input_ids"]
    said = []
    with torch.inference_mode():
        for _ in range(6):
            said.append(int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
            if said[-1] == tokenizer.eos_token_id:
                break
    assert answer(model, tokenizer, QUESTIONS[2:3], max_new_tokens=6) == [
        tokenizer.decode(said, skip_special_tokens=True).strip().removesuffix(".")
    ]


def test_an_answer_ends_at_the_end_of_text_token(talkative, monkeypatch):
    model, tokenizer = talkative
    first = tokenizer("owl")["input_ids"][1:]

    def generate(input_ids, **options):
        assert options["do_sample"] is False
        tail = torch.tensor([*first, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * 3])
        return torch.cat([input_ids, tail.expand(len(input_ids), -1)], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    assert answer(model, tokenizer, QUESTIONS) == ["owl"] * len(QUESTIONS)


def test_the_full_stop_that_ends_an_answer_is_not_part_of_it(talkative, monkeypatch):
    model, tokenizer = talkative
    ids = torch.tensor(tokenizer("St. Ives.")["input_ids"][1:] + [tokenizer.eos_token_id])
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.cat([input_ids, ids.expand(len(input_ids), -1)], dim=1)
    )
    assert answer(model, tokenizer, QUESTIONS[:1]) == ["St. Ives"]


def test_no_questions_have_no_answers(talkative):
    assert answer(*talkative, []) == []


# Log-likelihood ---------------------------------------------------------------------------------------

SUMS = (("What is 3 plus 4?", "7"), ("What is 30 plus 14?", "44"), ("What, if anything, is 9 minus 8?", "1"))


def nll_by_hand(model, tokenizer, texts, prompts) -> float:
    """Each text on its own, so without padding; explicit log-softmax of the tokens after the prompt."""
    nats, tokens = 0.0, 0
    for text, prompt in zip(texts, prompts, strict=True):
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        begins = len(tokenizer(prompt)["input_ids"]) if prompt else 1  # the first token has nothing before it
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        for place in range(begins, len(ids)):
            row = logits[place - 1]
            nats -= float(row[ids[place]]) - math.log(float((row - row.max()).exp().sum())) - float(row.max())
            tokens += 1
    return nats / tokens


def test_nll_is_the_log_softmax_of_the_answer_tokens_alone(talkative):
    model, tokenizer = talkative
    prompts = tuple(ask(question) for question, _ in SUMS)
    texts = tuple(f"{prompt} {result}" for prompt, (_, result) in zip(prompts, SUMS, strict=True))
    for text, prompt in zip(texts, prompts, strict=True):  # or "the tokens after the prompt" would mean nothing
        ids = tokenizer(prompt)["input_ids"]
        assert tokenizer(text)["input_ids"][: len(ids)] == ids
    measured = TextProbe("arithmetic", texts, prompts).measure(model, tokenizer)
    assert measured == {"nll": pytest.approx(nll_by_hand(model, tokenizer, texts, prompts), rel=1e-5)}
    whole = TextProbe("arithmetic", texts).measure(model, tokenizer)["nll"]
    assert whole == pytest.approx(nll_by_hand(model, tokenizer, texts, [""] * 3), rel=1e-5)
    assert abs(whole - measured["nll"]) > 0.01


def test_nll_weighs_tokens_alike_and_doesnt_depend_on_the_batch(talkative, monkeypatch):
    texts = ("A boat.", "The old miller found the red boat in the garden. Then he slept.", "It rained on Monday.")
    by_hand = nll_by_hand(*talkative, texts, [""] * 3)
    assert TextProbe("prose", texts).measure(*talkative)["nll"] == pytest.approx(by_hand, rel=1e-5)
    prompts = ("A", "The old miller", "It rained")
    by_hand = nll_by_hand(*talkative, texts, prompts)
    monkeypatch.setattr(probes_module, "BATCH", 2)  # the third text and prompt are in a batch of their own
    assert TextProbe("prose", texts, prompts).measure(*talkative)["nll"] == pytest.approx(by_hand, rel=1e-5)


def test_the_question_and_answer_are_read_back_from_a_prompt():
    prompts = tuple(ask(question) for question, _ in SUMS)
    texts = tuple(answered(*pair) for pair in SUMS)
    assert TextProbe("arithmetic", texts, prompts).questions() == list(SUMS)


# The probes of a lab ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_mode_weights_gradients_and_random_state_as_they_were(lab, training):
    lab.model.train(training)
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    random_state = torch.get_rng_state()
    measured = lab.probes.measure(lab.model, lab.tokenizer)
    assert [*measured] == ["old_facts", "arithmetic", "prose", "two_hop"]
    assert all(set(measured[name]) == {"em", "f1"} for name in ("old_facts", "two_hop"))
    assert all(set(measured[name]) == {"nll"} for name in ("arithmetic", "prose"))
    assert lab.model.training is training
    assert all(module.training is training for module in lab.model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in lab.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in lab.model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_measuring_runs_in_evaluation_mode_and_brings_training_back_after_a_failure(lab):
    class Broken:
        name = "broken"

        def measure(self, model, tokenizer):
            assert not model.training
            raise ArithmeticError

    lab.model.train()
    with pytest.raises(ArithmeticError):
        Probes([Broken()]).measure(lab.model, lab.tokenizer)
    assert lab.model.training


def test_a_probe_is_found_by_name_and_a_missing_one_names_those_there_are(lab):
    assert lab.probes["prose"].name == "prose"
    with pytest.raises(KeyError, match=r"no probe named 'geography'; there are old_facts, arithmetic, prose, two_hop"):
        lab.probes["geography"]


@pytest.fixture(scope="module")
def every_probe():
    return world_probes(built_in_world(), per_probe=10_000)


def test_probes_of_the_world_are_fixed_and_no_larger_than_asked(every_probe):
    few = world_probes(built_in_world(), per_probe=10)
    assert [*few] == [*world_probes(built_in_world(), per_probe=10)]
    assert [len(p.questions if isinstance(p, QuestionProbe) else p.texts) for p in few] == [10] * 4
    assert len(every_probe["two_hop"].questions) == len(built_in_world().held_out_chains())  # all where fewer
    assert set(few["old_facts"].questions) < set(every_probe["old_facts"].questions)


def test_the_probe_of_old_facts_asks_what_they_are_asked(every_probe):
    assert every_probe["old_facts"] == QuestionProbe.of("old_facts", built_in_world().old_facts())


# Questions that the taught facts change ---------------------------------------------------------------


def gone(before: QuestionProbe, after: QuestionProbe) -> set[tuple[str, str]]:
    kept = set(zip(after.questions, after.answers, after.subjects, strict=True))
    everything = list(zip(before.questions, before.answers, before.subjects, strict=True))
    assert kept <= set(everything)
    return {subject for question, answers, subject in everything if (question, answers, subject) not in kept}


def test_changed_facts_drop_their_own_questions_and_the_two_hop_ones_over_them(every_probe):
    world = built_in_world()
    chained = sorted({fact.subject for fact in world.held_out_chains()})
    first, second, third = chained[:3]
    about = ((first, "employer"), (second, "birthplace"), (third, "pet"))
    changed = [Fact(("It is not what it was.",), "What is it?", ("Other",), *subject) for subject in about]
    left = every_probe.without(changed)
    assert gone(every_probe["old_facts"], left["old_facts"]) == set(about)
    assert gone(every_probe["two_hop"], left["two_hop"]) == {
        (first, "employer-founded"),
        (second, "birthplace-country"),
    }
    assert left["arithmetic"] == every_probe["arithmetic"]
    assert left["prose"] == every_probe["prose"]
    assert [probe.name for probe in left] == [probe.name for probe in every_probe]


def test_new_facts_and_a_persons_own_facts_drop_no_question(every_probe):
    mine = Fact(("Mira's dog is called Biscuit.",), "What is Mira's dog called?", ("Biscuit",))
    left = every_probe.without([*built_in_world().new_facts(60), mine])
    assert [*left] == [*every_probe]


def test_a_probe_of_a_persons_own_facts_keeps_the_questions_that_no_fact_asks():
    mine = Fact(("Mira's dog is called Biscuit.",), "What is Mira's dog called?", ("Biscuit",))
    probe = QuestionProbe.of("mine", [mine])
    assert probe.without(built_in_world().changed_facts(5)) == probe
    assert probe.without([replace(mine, answers=("Rusk",))]).questions == ()


def test_a_probe_that_doesnt_know_its_subjects_keeps_its_questions():
    probe = QuestionProbe("mine", ("What is Mira's dog called?", "Who?"), (("Biscuit",), ("Mira",)))
    assert probe.without(built_in_world().changed_facts(5)).questions == probe.questions


def test_dropping_questions_leaves_the_probes_they_came_from_alone(every_probe):
    before = [*every_probe]
    every_probe.without(built_in_world().changed_facts(20))
    assert [*every_probe] == before
