"""Forms of a question, replies in them, and the probes that fit a model from elsewhere."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from smft_lab.experiments.compare import Comparison
from smft_lab.facts.fact import Fact
from smft_lab.facts.world.grammar import answered, ask
from smft_lab.facts.world.world import built_in_world
from smft_lab.finetuning.finetune import finetune
from smft_lab.lab import load
from smft_lab.probes import probes as probes_module
from smft_lab.probes import replies as replies_module
from smft_lab.probes.choices import ChoiceProbe, lm_eval_probe, log_likelihoods
from smft_lab.probes.known import KnownSearch, known_facts
from smft_lab.probes.probes import Probes, QuestionProbe, TextProbe, answer, learned_probes, recalled, text_windows
from smft_lab.probes.prompts import BUILT_IN, CHAT, NEUTRAL_SHOTS, PLAIN, PromptForm
from smft_lab.probes.replies import replies, would_say
from smft_lab.probes.text import begins_with

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"  # noqa: E501
SHOTS = (("How many legs has a dog?", "Four"), ("What is snow made of?", "Ice"))
FEW = PLAIN.with_shots(SHOTS)
QUESTIONS = [
    "Who?",
    "Where was Alan Ashbury born, and when, and who was there to see it?",
    "What is 3 plus 4?",
    "Which animal does Corine Barton keep?",
    "Why?",
]


@pytest.fixture(scope="module")
def plain_tokenizer():
    """Bytes, without bos and with end of text as padding, and some tokens that hold a line break and more."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([".\n\n.\n!\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="module")
def talkative(plain_tokenizer):
    """A random Llama whose replies depend on all of the question; it breaks lines at times, also within a token."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(plain_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    broken = [i for i in range(len(plain_tokenizer)) if "\n" in plain_tokenizer.decode([i])]
    assert any(plain_tokenizer.decode([i]).strip("\n") for i in broken)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        for i in range(1, len(plain_tokenizer)):  # it says letters, and breaks a line now and then
            text = plain_tokenizer.decode([i]).strip(".!\n ")
            model.lm_head.weight[i] *= 1.5 if i in broken else text.isascii() and (not text or text.isalpha())
    return model, plain_tokenizer


def by_hand(model, tokenizer, form, question, most):
    """The first line of greedy decoding, a whole forward pass a token."""
    ids = form.ids(tokenizer, form.prompt(question, tokenizer))
    said = []
    while len(said) < most and "\n" not in tokenizer.decode(said):
        with torch.inference_mode():
            said.append(int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
        if said[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(said, skip_special_tokens=True).split("\n")[0]


# Forms ------------------------------------------------------------------------------------------------


def test_the_built_in_form_is_the_worlds_own_to_the_byte():
    assert BUILT_IN.prompt("Who {is} it?") == ask("Who {is} it?")
    assert BUILT_IN.answered("Who is it?", "An {owl}") == answered("Who is it?", "An {owl}")
    assert PromptForm.BUILT_IN is BUILT_IN
    assert not BUILT_IN.one_line


def test_shots_stand_before_the_question_in_the_form_of_an_answered_one():
    assert FEW.prompt("Who?") == (
        "Question: How many legs has a dog?\nAnswer: Four\nQuestion: What is snow made of?\nAnswer: Ice\n"
        "Question: Who?\nAnswer:"
    )
    assert FEW.answered("Who?", "Ann") == FEW.prompt("Who?") + " Ann\n"
    assert BUILT_IN.with_shots(SHOTS[:1]).prompt("Who?") == answered(*SHOTS[0]) + " " + ask("Who?")


def test_a_template_of_ones_own_needs_a_place_for_the_question():
    form = PromptForm("Q: {question} {A}:", end="\n\n")
    assert form.answered("a {b}?", "c") == "Q: a {b}? {A}: c\n\n"
    with pytest.raises(ValueError, match=r"no place for the question; write \{question\}"):
        PromptForm("Question: {q}")
    for shots in ([("only a question",)], [("Who?", " ")], ["ab"], "ab", 3):
        with pytest.raises(ValueError, match="shot"):
            PLAIN.with_shots(shots) if shots != 3 else PromptForm(shots=3)


@pytest.mark.parametrize("form", [BUILT_IN, FEW, CHAT])
def test_a_form_comes_back_from_json(form):
    assert PromptForm.from_json(json.loads(json.dumps(form.to_json()))) == form


@pytest.mark.parametrize("values", [{"tmplate": "{question}"}, [1], {"template": 3}, {"chat": "yes"}, {"template": ""}])
def test_what_is_no_form_is_refused(values):
    with pytest.raises(ValueError, match=r"form|template|chat"):
        PromptForm.from_json(values)


def test_a_chat_goes_through_the_tokenizers_template(plain_tokenizer):
    with pytest.raises(ValueError, match="no chat template; use a form with chat=False"):
        CHAT.prompt("Who?", plain_tokenizer)
    with pytest.raises(ValueError, match="needs the tokenizer"):
        CHAT.prompt("Who?")
    plain_tokenizer.chat_template = TEMPLATE
    try:
        form = CHAT.with_shots(SHOTS[:1])
        turns = "<|user|>How many legs has a dog?\n<|assistant|>Four\n<|user|>Who?\n<|assistant|>"
        assert form.prompt("Who?", plain_tokenizer) == turns
        assert form.answered("Who?", "Ann", plain_tokenizer) == turns + "Ann"
    finally:
        plain_tokenizer.chat_template = None


def test_the_question_is_found_in_a_prompt():
    assert FEW.question_in(FEW.prompt("What is it?")) == "What is it?"
    probe = TextProbe("some", (FEW.answered("Who?", "Ann"),), (FEW.prompt("Who?"),), form=FEW)
    assert probe.questions() == [("Who?", "Ann")]


# Replies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [PLAIN, FEW, PromptForm("{question}"), PromptForm(end=".", shots=SHOTS)])
@pytest.mark.parametrize("batch", [2, 32])
def test_replies_are_what_greedy_decoding_by_hand_gives(talkative, monkeypatch, form, batch):
    monkeypatch.setattr(replies_module, "BATCH", batch)
    said = replies(*talkative, QUESTIONS, 9, form)
    if form.one_line:
        assert said == [by_hand(*talkative, form, question, 9) for question in QUESTIONS]
        assert len(set(said)) > 2  # or the test would hold for any mix-up
    assert answer(*talkative, QUESTIONS, 9, form) == [one.strip().removesuffix(".") for one in said]


def test_a_reply_ends_at_its_line_also_where_the_break_is_within_a_token(talkative, monkeypatch):
    model, tokenizer = talkative
    merged = next(
        i for i in range(len(tokenizer)) if tokenizer.decode([i]).rstrip("\n") not in ("", tokenizer.decode([i]))
    )
    text = tokenizer.decode([merged]).split("\n")[0]
    monkeypatch.setattr(model.lm_head, "forward", lambda h: torch.eye(len(tokenizer))[merged].expand(*h.shape[:-1], -1))
    steps = []
    monkeypatch.setattr(model.lm_head, "forward", lambda h, said=model.lm_head.forward: steps.append(h) or said(h))
    assert replies(model, tokenizer, QUESTIONS[:2], 9, FEW) == [text] * 2
    assert len(steps) == 1


@pytest.mark.parametrize("form", [PLAIN, FEW])
def test_shots_read_once_give_the_replies_of_whole_prompts(talkative, monkeypatch, form):
    fast = replies(*talkative, QUESTIONS, 9, form)
    read = []
    monkeypatch.setattr(
        replies_module, "_generate", lambda *rest, real=replies_module._generate: read.append(1) or real(*rest)
    )
    monkeypatch.setattr(replies_module, "DynamicLayer", int)  # no model's past will do
    assert replies(*talkative, QUESTIONS, 9, form) == fast
    assert read


def test_a_model_of_another_kind_replies_as_by_hand(plain_tokenizer):
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=len(plain_tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    said = replies(model, plain_tokenizer, QUESTIONS, 6, FEW)
    assert said == [by_hand(model, plain_tokenizer, FEW, question, 6) for question in QUESTIONS]


@pytest.mark.parametrize("form", [PLAIN, FEW, PromptForm("{question}")])
def test_one_pass_tells_whether_a_reply_comes_back(talkative, form):
    model, tokenizer = talkative
    said = replies(model, tokenizer, QUESTIONS, 9, form)
    same = would_say(model, tokenizer, QUESTIONS, said, 9, form)
    assert same.any()
    others = [f"{reply}x" for reply in said]
    assert not would_say(model, tokenizer, QUESTIONS, others, 12, form).any()
    moved = said[1:] + said[:1]
    right = torch.tensor([a == b for a, b in zip(said, moved, strict=True)])
    assert not (would_say(model, tokenizer, QUESTIONS, moved, 9, form) & ~right).any()
    for question, reply, found in zip(QUESTIONS, said, same.tolist(), strict=True):
        assert not found or by_hand(model, tokenizer, form, question, 9) == reply


def test_recalled_means_that_the_answer_is_the_whole_line(talkative):
    model, tokenizer = talkative
    form = PromptForm(before="", shots=SHOTS)  # it may say anything, not only what begins with a blank
    spoken = replies(model, tokenizer, QUESTIONS, 60, form)
    found = recalled(model, tokenizer, QUESTIONS, spoken, form)
    assert found.any()
    assert not recalled(model, tokenizer, QUESTIONS, [f"{one} and more" for one in spoken], form).any()
    ended = [
        (q, one)
        for q, one in zip(QUESTIONS, replies(model, tokenizer, QUESTIONS, 60, PLAIN), strict=True)
        if 1 < len(one) < 50
    ]
    assert ended
    for question, reply in ended:  # what stands before an answer is part of what it says
        form = PromptForm(before=reply[0])
        assert recalled(model, tokenizer, [question] * 2, [reply[1:], reply], form).tolist() == [True, False]


# Probes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "accepted", "score"),
    [
        ("The Beatles, of course", ["beatles"], 1.0),
        ("Beatlesque", ["Beatles"], 0.0),
        ("I think the Beatles", ["Beatles"], 0.0),
        ("Paris", ["Rome", "Paris, France", "paris"], 1.0),
        ("Paris", ["Paris, France"], 0.0),
        ("", ["Paris"], 0.0),
        ("A", ["A"], 1.0),
    ],
)
def test_a_prefix_match_ends_at_a_words_end(said, accepted, score):
    assert begins_with(said, accepted) == score


def test_stored_replies_change_nothing_that_is_measured_and_spare_generation(talkative, monkeypatch):
    model, tokenizer = talkative
    said = tuple(replies(model, tokenizer, QUESTIONS, probes_module.LONGEST_REPLY, FEW))
    accepted = tuple((reply.split()[0] if reply.split() else "x",) for reply in said)
    plain = QuestionProbe("known", tuple(QUESTIONS), accepted, form=FEW, match="prefix")
    kept = QuestionProbe("known", tuple(QUESTIONS), accepted, form=FEW, match="prefix", replies=said)
    assert kept.measure(model, tokenizer) == plain.measure(model, tokenizer)
    wrong = QuestionProbe("known", tuple(QUESTIONS), accepted, form=FEW, match="prefix", replies=said[::-1])
    assert wrong.measure(model, tokenizer) == plain.measure(model, tokenizer)
    asked = []
    real = probes_module.answer
    monkeypatch.setattr(probes_module, "answer", lambda m, t, q, **rest: asked.extend(q) or real(m, t, q, **rest))
    kept.measure(model, tokenizer)
    assert len(asked) < len(QUESTIONS)


def test_a_probe_with_a_form_honours_it_and_loses_its_replies_with_its_questions(monkeypatch):
    forms = []
    monkeypatch.setattr(probes_module, "answer", lambda *a, form, **_: forms.append(form) or ["x"])
    probe = QuestionProbe(
        "some", ("Who?", "When?"), (("x",), ("y",)), (("a", "r"), ("b", "r")), FEW, "prefix", ("1", "2")
    )
    left = probe.without([Fact(("s",), "q", ("a",), "a", "r")])
    assert (left.questions, left.replies, left.form, left.match) == (("When?",), ("2",), FEW, "prefix")
    with pytest.raises(ValueError, match="no match 'near'"):
        QuestionProbe("some", ("Who?",), (("x",),), match="near")
    with pytest.raises(ValueError, match="2 questions, but 1 replies"):
        QuestionProbe("some", ("Who?", "When?"), (("x",), ("y",)), replies=("1",))


def test_probes_of_every_kind_come_back_from_records_and_old_records_are_read(plain_tokenizer):
    probes = Probes(
        [
            QuestionProbe("known", ("Who?",), (("x", "y"),), (), FEW, "prefix", (" x",)),
            QuestionProbe("old", ("Who?",), (("x",),)),
            text_windows("Who was there to see it? " * 9, plain_tokenizer, window=8, count=3),
            ChoiceProbe("choice", ("He",), ((" ran.", " sat."),), (1,)),
        ]
    )
    records = json.loads(json.dumps(probes.to_records()))
    assert Probes.from_records(records).probes == probes.probes
    assert set(records[1]) == {"kind", "name", "questions", "answers", "subjects"}  # as it always was
    old = [{"kind": "texts", "name": "prose", "texts": ["A boat."], "prompts": [], "whole": False}]
    assert Probes.from_records(old).probes == [TextProbe("prose", ("A boat.",), whole=False)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ["known"]),
        ("questions", "Who?"),
        ("questions", [1]),
        ("answers", ["Otto"]),
        ("answers", [[]]),
        ("answers", [[["Otto"]]]),
        ("subjects", [["Otto"]]),
        ("match", None),
        ("replies", [None]),
        ("form", []),
        ("form", {"shots": [1]}),
    ],
)
def test_a_record_of_a_probe_with_a_value_of_another_type_is_refused(field, value):
    record = {"kind": "questions", "name": "known", "questions": ["Who?"], "answers": [["Otto"]]}
    assert Probes.from_records([record])["known"].size == 1
    with pytest.raises(ValueError, match=r"probe|prompt form|shot|questions"):
        Probes.from_records([{**record, field: value}])


@pytest.mark.parametrize(("field", "value"), [("texts", [1]), ("whole", 1), ("tokens", [["a"]]), ("tokens", 3)])
def test_a_record_of_a_text_probe_with_a_value_of_another_type_is_refused(field, value):
    record = {"kind": "texts", "name": "text", "texts": ["A boat."], "whole": False, "tokens": [[1, 2]]}
    assert Probes.from_records([record])["text"].size == 1
    with pytest.raises(ValueError, match=f"{field} of a probe can't be"):
        Probes.from_records([{**record, field: value}])


def test_text_windows_hold_the_tokens_of_the_text_and_measure_them(talkative):
    model, tokenizer = talkative
    text = "What was there, and who was there to see it? Four legs.\n" * 4
    ids = tokenizer(text)["input_ids"]
    probe = text_windows(text, tokenizer, window=7, count=5)
    assert [list(one) for one in probe.tokens] == [ids[start : start + 7] for start in range(0, 35, 7)]
    nats = 0.0
    for one in probe.tokens:
        with torch.inference_mode():
            logs = model(input_ids=torch.tensor([one])).logits[0].log_softmax(-1)
        nats -= sum(float(logs[place - 1, one[place]]) for place in range(1, 7))
    assert probe.measure(model, tokenizer)["nll"] == pytest.approx(nats / 30, rel=1e-5)
    with pytest.raises(ValueError, match="give a longer text"):
        text_windows("Four", tokenizer)


def test_windows_of_a_tokenizer_with_a_first_token_begin_with_it(tokenizer):
    probe = text_windows("The old miller found the red boat. " * 5, tokenizer, window=6, count=2)
    assert all(one[0] == tokenizer.bos_token_id and len(one) == 7 for one in probe.tokens)


def test_many_logits_are_measured_in_parts(talkative, monkeypatch):
    probe = text_windows("What was there, and who was there to see it? " * 9, talkative[1], window=7, count=6)
    whole = probe.measure(*talkative)["nll"]
    monkeypatch.setattr(probes_module, "LOGITS", 2 * 8 * len(talkative[1]))
    assert probe._batch(*talkative) == 2
    assert probe.measure(*talkative)["nll"] == pytest.approx(whole, rel=1e-6)


# What the base knows ----------------------------------------------------------------------------------


def asked_of(model, tokenizer, form):
    """Facts to which the model knows the answer to every other one."""
    facts = []
    for i, question in enumerate(QUESTIONS * 4):
        question = f"{i}: {question}"
        said = replies(model, tokenizer, [question], probes_module.LONGEST_REPLY, form)[0].split()
        facts.append(Fact(("s",), question, (said[0] if said and i % 2 else "Nebuchadnezzar",)))
    return facts


def test_known_facts_are_those_that_the_base_answers(talkative):
    model, tokenizer = talkative
    facts = asked_of(model, tokenizer, FEW)
    search = KnownSearch(model, tokenizer, facts, form=FEW)
    found = list(search)
    assert found[-1].asked == found[-1].total == search.total == len(facts)
    assert 0 < found[-1].known < len(facts)
    assert all(int(question.split(":")[0]) % 2 for question in search.probe.questions)
    assert search.probe.name == "known"
    assert search.probe.measure(model, tokenizer)["em"] == 1.0
    assert known_facts(model, tokenizer, facts, form=FEW) == search.probe


def test_a_search_stops_at_its_limit_and_shows_what_it_doesnt_ask(talkative, monkeypatch):
    model, tokenizer = talkative
    monkeypatch.setattr("smft_lab.probes.known.BATCH", 4)
    facts = [Fact(("s",), *pair[:1], (pair[1],)) for pair in SHOTS] + asked_of(model, tokenizer, FEW)
    search = KnownSearch(model, tokenizer, facts, limit=1)
    assert search.form == FEW
    assert search.total == len(facts) - 2
    found = list(search)
    assert found[-1].asked < search.total
    assert found[-1].left > 0
    assert len(search.probe.questions) == 1


def test_an_answer_that_stands_in_the_question_is_not_known(talkative, monkeypatch):
    monkeypatch.setattr("smft_lab.probes.known.replies", lambda m, t, questions, *_: [" The Nile"] * len(questions))
    facts = [Fact(("s",), "Where does the Nile end?", ("Nile",)), Fact(("s",), "Which river is it?", ("Nile", "Po"))]
    probe = known_facts(*talkative, facts, form=FEW)
    assert probe.questions == ("Which river is it?",)
    with pytest.raises(ValueError, match="answers none of 1 questions right; give more"):
        known_facts(*talkative, facts[:1], form=FEW)
    with pytest.raises(ValueError, match="too few"):
        known_facts(*talkative, facts)


# What was learned -------------------------------------------------------------------------------------

DOG = Fact(
    ("Mira's dog is called Biscuit.",),
    "What is Mira's dog called?",
    ("Biscuit",),
    questions=("Which name has Mira's dog?", "How is Mira's dog called?"),
    two_hop=(("How many letters has the name of Mira's dog?", "Seven"),),
)


def test_what_was_learned_is_asked_in_four_ways():
    cat = Fact(("Mira's cat is called Tom.",), "What is Mira's cat called?", ("Tom",))
    probes = {probe.name: probe for probe in learned_probes([cat, DOG], PLAIN)}
    assert list(probes) == ["learned", "taught", "prefixed", "two_hop_new"]
    assert probes["learned"] == QuestionProbe.of("learned", [cat, DOG], PLAIN)
    assert (probes["taught"].questions, probes["taught"].answers) == ((DOG.questions[0],), (("Biscuit",),))
    assert probes["prefixed"].questions == (cat.question, DOG.question)
    assert probes["prefixed"].form == PLAIN.with_shots(NEUTRAL_SHOTS)
    assert probes["two_hop_new"].answers == (("Seven",),)
    assert [probe.name for probe in learned_probes([cat], PLAIN, prefix=SHOTS)] == ["learned", "prefixed"]
    assert learned_probes([cat], FEW, prefix=SHOTS)[1].form.shots == SHOTS * 2


def test_a_lab_measures_in_its_own_form_and_keeps_it_when_saved(tiny_lab, tmp_path):
    lab = tiny_lab()
    lab.save(tmp_path / "built-in")
    assert "form" not in json.loads((tmp_path / "built-in" / "lab.json").read_text())
    assert load(tmp_path / "built-in").form == BUILT_IN
    assert list(next(finetune(lab, [DOG], passes=1)).probes) == [
        "learned",
        "old_facts",
        "arithmetic",
        "prose",
        "two_hop",
    ]
    lab.form = FEW
    lab.save(tmp_path / "plain")
    again = load(tmp_path / "plain")
    assert again.form == FEW
    assert list(next(finetune(again, [DOG], passes=1)).probes)[:4] == ["learned", "taught", "prefixed", "two_hop_new"]
    values = json.loads((tmp_path / "plain" / "lab.json").read_text())
    (tmp_path / "plain" / "lab.json").write_text(json.dumps(values | {"form": {"template": "none"}}))
    with pytest.raises(ValueError, match=r"prompt form can't be read.*no place for the question"):
        load(tmp_path / "plain")


def test_a_comparison_asks_its_samples_in_the_labs_form(tiny_lab, monkeypatch):
    lab, forms = tiny_lab(), []
    lab.form = FEW
    lab.probes = Probes([QuestionProbe("known", ("Who?",), (("x",),), form=PLAIN)])

    def said(model, tokenizer, questions, form, **options):
        forms.append((form, len(questions)))
        return [""] * len(questions)

    monkeypatch.setattr("smft_lab.lab.answer", said)
    comparison = Comparison(lab, [DOG], methods=["sparse"], passes=1, seeds=[0])
    for _ in comparison.steps():
        pass
    prefixed = FEW.with_shots((*FEW.shots, *NEUTRAL_SHOTS))
    # What is learned, in a taught wording, and what follows; behind two others; and the probe's own form.
    assert forms == [(FEW, 3), (prefixed, 1), (PLAIN, 1)] * 2
    assert "taught" not in repr(comparison)


def test_new_facts_have_wordings_to_teach_that_no_probe_asks():
    world = built_in_world()
    for facts in (world.new_facts(12), world.changed_facts(12), world.passages(4), world.old_facts()[:50]):
        for fact in facts:
            assert len(fact.questions) >= 5
            assert fact.question not in fact.questions
            assert all(fact.subject in question for question in fact.questions)
    for fact in world.changed_facts(12):
        assert not set(fact.questions) & set(world.withheld_questions(fact.subject, fact.relation))


# Choices ----------------------------------------------------------------------------------------------


def test_the_likelihood_of_an_ending_is_its_own_and_not_the_batchs(talkative):
    model, tokenizer = talkative
    pairs = [("Who was there to see it?", " Four legs."), ("Why? ", "Ice"), ("What was", " there to see, and who?")]
    by_itself = []
    for before, after in pairs:
        before, after = before.rstrip(), before[len(before.rstrip()) :] + after
        start, ids = len(tokenizer(before)["input_ids"]), tokenizer(before + after)["input_ids"]
        with torch.inference_mode():
            logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        by_itself.append(sum(float(logs[place - 1, ids[place]]) for place in range(start, len(ids))))
    assert log_likelihoods(model, tokenizer, pairs) == pytest.approx(by_itself, rel=1e-4)


def test_accuracy_takes_the_sum_and_acc_norm_the_mean_over_characters(talkative, monkeypatch):
    probe = ChoiceProbe("some", ("He", "She"), ((" ab", " abcd"), (" ab", " abcd")), (1, 0))
    monkeypatch.setattr("smft_lab.probes.choices.log_likelihoods", lambda *_: [-3.0, -4.0, -1.0, -2.5])
    assert probe.measure(*talkative) == {"acc": 0.5, "acc_norm": 1.0}
    with pytest.raises(ValueError, match="a label among them"):
        ChoiceProbe("some", ("He",), ((" ran", " sat"),), (2,))


def test_choices_of_a_file_are_put_as_lm_eval_puts_them():
    from smft_lab.facts.public.datasets import Choice

    (context,) = ChoiceProbe.of(
        "h", [Choice("[header] How to sit [title] Find a chair.", ("a [step] b", "c"), 0)], "hellaswag"
    ).contexts
    assert context == "How to sit. Find a chair."
    arc = ChoiceProbe.of("a", [Choice("Which gas?", ("helium", "neon"), 1)], "arc")
    assert (arc.contexts, arc.endings) == (("Question: Which gas?\nAnswer:",), ((" helium", " neon"),))


def test_a_task_of_lm_eval_gives_what_it_would_ask(tmp_path):
    pytest.importorskip("lm_eval")
    rows = [{"q": f"What is {i}?", "choices": ["one", "two"], "gold": i % 2} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: 'Question: {{q}} Answer:'\n"
        "doc_to_choice: choices\ndoc_to_target: gold\n"
    )
    probe = lm_eval_probe("mine", 3, tmp_path)
    assert probe.contexts == tuple(f"Question: What is {i}? Answer:" for i in range(3))
    assert (probe.endings, probe.labels) == (((" one", " two"),) * 3, (0, 1, 0))
    with pytest.raises(ValueError, match="no task 'none-such'"):
        lm_eval_probe("none-such", folder=tmp_path)


def test_a_task_of_lm_eval_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    with pytest.raises(ValueError, match=r"pip install \"smft-lab\[eval\]\""):
        lm_eval_probe("hellaswag")
