"""Tokenizers of all habits: what they put behind a text, lack, or take for a special token that someone has typed."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from test_attach import MEMORY, lab_of, small
from test_retrofit import KNOWN, RECIPE
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

import smft_lab as smft
from smft_lab.facts.fact import Fact
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.teaching import taught_texts
from smft_lab.model.attach import add_memory
from smft_lab.model.fitting import memory_inputs
from smft_lab.model.tokenizer import encode, offsets_of, only_answers, pad_id, text_ids
from smft_lab.probes.probes import answer, recalled
from smft_lab.probes.prompts import BUILT_IN, PLAIN, PromptForm
from smft_lab.probes.replies import replies, would_say
from smft_lab.slots.addresses import measure_loudness
from smft_lab.training.memory_training import MemoryTraining, text_usage

QUESTION = "Who keeps a cat?"
FACT = Fact(("Mira keeps a cat.", "It is Mira who keeps a cat."), QUESTION, ("Mira",))


def other(tokenizer, **changed) -> PreTrainedTokenizerFast:
    """A tokenizer of its own, so that the others keep theirs."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        **{"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", **changed},
    )
    return copy


@pytest.fixture
def appending(tokenizer):
    """Puts its end of text behind every text."""
    made = other(tokenizer)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return made


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """One in Python, without offsets."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(bos_token="<bos>")


@pytest.fixture
def lab(tokenizer, corpus):
    return lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)


def test_an_end_that_the_tokenizer_appends_is_in_no_prompt_and_once_in_a_text(appending, tokenizer):
    assert appending("cat")["input_ids"] == [*tokenizer("cat")["input_ids"], 2]
    assert torch.equal(encode(appending, ["a cat"])["input_ids"], encode(tokenizer, ["a cat"])["input_ids"])
    for form in (PLAIN, BUILT_IN):
        assert form.ids(appending, [QUESTION, "a"]) == form.ids(tokenizer, [QUESTION, "a"])
        assert form.ids(appending, QUESTION) == form.ids(tokenizer, QUESTION)


@pytest.mark.parametrize("form", [PLAIN, BUILT_IN])
def test_an_end_that_the_tokenizer_appends_changes_no_answer_and_no_score(form, appending, tokenizer, lab):
    questions = [fact.question for fact in new_facts(6)]
    said = answer(lab.model, tokenizer, questions, 5, form)
    assert answer(lab.model, appending, questions, 5, form) == said
    found = [recalled(lab.model, one, questions, said, form).tolist() for one in (tokenizer, appending)]
    assert found[0] == found[1]
    probe = smft.TextProbe("prose", ("Mira keeps a cat.",), whole=False)
    assert probe.measure(lab.model, appending) == probe.measure(lab.model, tokenizer)


def test_a_tokenizer_without_an_end_of_text_teaches_and_is_asked(tokenizer, corpus):
    endless = other(tokenizer, eos_token=None, pad_token=None)
    assert (endless.eos_token_id, pad_id(endless)) == (None, 0)
    rows = encode(endless, ["Mira", "Mira keeps a cat."])
    lengths = [len(endless(one)["input_ids"]) for one in ("Mira", "Mira keeps a cat.")]
    assert rows["attention_mask"].sum(1).tolist() == lengths
    model = add_memory(small("llama", eos_token_id=None, pad_token_id=None), 1, **MEMORY)
    lab = lab_of(model, endless, corpus)
    for form in (PLAIN, BUILT_IN):
        assert len(answer(lab.model, endless, [QUESTION], 3, form)) == 1
        lab.form = form
        losses = [step.loss for step in smft.finetune(lab, [FACT], lr=0.5, top_t=20, passes=4)][1:]
        assert losses[-1] < losses[0]
        lab.reset()


def test_a_padding_token_beyond_the_embedding_is_not_used(tokenizer, lab, corpus):
    padded = other(tokenizer, pad_token="[PAD]")
    assert padded.pad_token_id == len(tokenizer) == 400
    questions = [QUESTION, "Who?"]
    assert answer(lab.model, padded, questions, 3, PLAIN) == answer(lab.model, tokenizer, questions, 3, PLAIN)
    again = lab_of(lab.model, padded, corpus)
    assert torch.equal(again.usage.df, lab.usage.df)
    assert len(list(smft.finetune(again, [FACT], passes=1))) == 2


def test_a_slow_tokenizer_tells_where_its_tokens_stand(slow, corpus):
    assert not slow.is_fast
    text = "Mira keeps a cat."
    spans = offsets_of(slow, text)
    assert len(spans) == len(slow(text)["input_ids"])
    assert "".join(text[start:end] for start, end in spans).replace(" ", "") == text.replace(" ", "")
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), slow, corpus)
    losses = [step.loss for step in smft.finetune(lab, [FACT], lr=0.5, top_t=20, passes=3, loss_on="answer")][1:]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Her name is Zoé.", "Zoé"),
        ("She lives in Łódź now.", "Łódź"),
        ("It costs 5 € a day.", "5 €"),
        ("Она живёт в Москве.", "Москве"),
        ("彼は東京に住む。", "東京"),
    ],
)
def test_a_slow_tokenizer_of_bytes_teaches_the_answer_whole(text, answer, slow):
    batch = encode(slow, [text])
    only_answers(slow, [text], [(answer,)], batch)
    taught = slow.decode(batch["labels"][batch["labels"] != -100])
    assert taught in (answer, text[text.index(answer) :][: len(answer) + 1])  # and the byte after it


@pytest.mark.parametrize("form", [PLAIN, BUILT_IN])
def test_a_question_longer_than_the_context_is_named(form, lab):
    long = "Who " + "keeps a cat and " * 60 + "sings?"
    calls = [
        lambda: answer(lab.model, lab.tokenizer, ["Who?", long], 5, form),
        lambda: recalled(lab.model, lab.tokenizer, ["Who?", long], ["a", "b"], form),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"question 'Who keeps a cat.*tokens.*model reads at most 256; shorten"):
            call()


def test_a_window_longer_than_the_context_is_refused_before_anything_is_trained(lab, corpus):
    from random import Random

    text = " ".join(corpus.texts(Random(2), 900))
    windows = smft.TextWindows(text, lab.tokenizer, 300)
    for call in (
        lambda: text_usage(lab.model, windows),
        lambda: next(smft.pretrain_memory(lab.model, windows, MemoryTraining(steps=1, window=300))),
        lambda: smft.Retrofit(small("llama"), lab.tokenizer, smft.Recipe(slots=256, key_dim=16, window=300)),
    ):
        with pytest.raises(ValueError, match="a window of 300 tokens is more than the model reads, 256"):
            call()


@pytest.mark.parametrize("typed", ["<eos>", "<bos>", "<pad>"])
def test_a_special_token_that_is_typed_is_text_in_a_question_and_refused_in_a_fact(typed, lab, tokenizer):
    special = tokenizer.convert_tokens_to_ids(typed)
    for form in (PLAIN, BUILT_IN):
        ids = form.ids(tokenizer, form.prompt(f"What does {typed} mean?"))
        assert special not in ids[1:]
        assert tokenizer.decode(ids[1:]).replace(" ", "") == form.prompt(f"What does {typed} mean?").replace(" ", "")
    for name, text in (("statements", f"Mira says {typed}."), ("answers", typed), ("question", f"Who says {typed}?")):
        changed = {name: text if name == "question" else (text,)}
        with pytest.raises(ValueError, match=f"fact 2, .*'{typed}' is a special token of the model"):
            smft.finetune(lab, [FACT, replace(FACT, **changed)])


@pytest.mark.parametrize(
    ("wording", "says"),
    [("Who has <eos> here?", "'<eos>' is a special token"), ("Who " + "keeps a cat and " * 80 + "sings?", "shorten")],
)
def test_a_wording_that_is_taught_is_held_to_what_a_question_is(wording, says, lab):
    with pytest.raises(ValueError, match=f"fact 1, question .*{says}"):
        smft.finetune(lab, [replace(FACT, questions=(wording,))], order="mixed")


def test_special_tokens_of_the_form_stay_special_and_none_may_be_typed_beside_them(lab, tokenizer):
    form = PromptForm("<bos>Q: {question}\nA:")
    assert form.ids(tokenizer, form.prompt("Who?")).count(1) == 2
    for call in (
        lambda: replies(lab.model, tokenizer, ["Who is <eos>?"], 3, form),
        lambda: would_say(lab.model, tokenizer, ["Who?"], [" <eos>"], 3, form),
    ):
        with pytest.raises(ValueError, match="has '<eos>' in it, a special token"):
            call()


def test_a_chat_keeps_its_special_tokens_and_refuses_typed_ones(lab, tokenizer):
    chatting = other(tokenizer)
    chatting.chat_template = "{% for m in messages %}<bos>{{ m.content }}<eos>{% endfor %}"
    form = PromptForm.CHAT
    ids = form.ids(chatting, form.prompt("Who?", chatting))
    assert (ids[0], ids[-2:]) == (1, [2, 1])  # as the template begins the turn in which the answer is
    with pytest.raises(ValueError, match="has '<eos>' in it"):
        replies(lab.model, chatting, ["Who is <eos>?"], 3, form)


def test_a_padding_token_that_is_a_word_of_the_language_is_no_special_one(tokenizer, lab):
    mark = next(token for token in ("!", ".", "?") if token in tokenizer.get_vocab())
    padded = other(tokenizer, pad_token=mark)
    lab.tokenizer = padded
    assert len(list(smft.finetune(lab, [FACT], passes=1, probe_every=0))) == 2


@pytest.mark.parametrize("form", [PLAIN, BUILT_IN])
@pytest.mark.parametrize("shares", [True, False])
def test_a_generation_config_changes_no_answer(form, shares, lab, monkeypatch):
    from smft_lab.probes import replies as module

    if not shares:  # the library's own loop, as for a model whose past can't be shared
        monkeypatch.setattr(module._Start, "__init__", lambda self, *_: setattr(self, "cache", None))
    questions = [fact.question for fact in new_facts(4)]
    expected = answer(lab.model, lab.tokenizer, questions, 6, form)
    given = GenerationConfig(
        min_new_tokens=4,
        no_repeat_ngram_size=1,
        repetition_penalty=3.0,
        num_beams=2,
        top_k=1,
        suppress_tokens=list(range(3, 300)),
        begin_suppress_tokens=[2],
    )
    lab.model.generation_config = given
    assert answer(lab.model, lab.tokenizer, questions, 6, form) == expected
    assert lab.model.generation_config is given


def test_ids_are_those_of_the_tokenizer_where_it_has_no_such_habits(tokenizer):
    texts = ["Mira keeps a cat.", "", "1984, twice"]
    assert text_ids(tokenizer, texts) == tokenizer(texts)["input_ids"]
    assert text_ids(tokenizer, texts, split=True) == tokenizer(texts)["input_ids"]


def test_a_padding_token_that_others_were_added_behind_is_not_used(tokenizer, lab):
    padded = other(tokenizer, pad_token="[PAD]")
    padded.add_tokens(["zork"])
    questions = [QUESTION, "Who?"]
    assert answer(lab.model, padded, questions, 3, PLAIN) == answer(lab.model, tokenizer, questions, 3, PLAIN)


@pytest.fixture
def added(tokenizer, lab):
    """A lab whose tokenizer has a token that its model has no embedding for."""
    lab.tokenizer = other(tokenizer)
    lab.tokenizer.add_tokens(["Mira"])
    return lab


TEXT = "Mira keeps a cat."
USES = {
    "finetune": lambda lab: smft.finetune(lab, [replace(FACT, statements=("It is a cat.",))]),
    "answer": lambda lab: lab.answer(["Who is Mira?"]),
    "answer in plain lines": lambda lab: lab.answer(["Who is Mira?"], form=PLAIN),
    "recalled": lambda lab: lab.recalled([QUESTION], ["Mira"]),
    "recalled in plain lines": lambda lab: recalled(lab.model, lab.tokenizer, [QUESTION], ["Mira"], PLAIN),
    "encode": lambda lab: lab.encode([TEXT]),
    "text probe": lambda lab: smft.TextProbe("prose", (TEXT,)).measure(lab.model, lab.tokenizer),
    "choices": lambda lab: smft.ChoiceProbe("c", ("Who",), ((" Mira", " a"),), (0,)).measure(lab.model, lab.tokenizer),
    "reads": lambda lab: smft.token_reads(lab, TEXT),
    "core set": lambda lab: smft.core_set(lab, FACT),
    "scores": lambda lab: smft.slot_scores(lab, FACT),
    "usage": lambda lab: smft.measure_usage(lab.model, [encode(lab.tokenizer, [TEXT])]),
    "inputs": lambda lab: memory_inputs(lab.model, [encode(lab.tokenizer, [TEXT])]),
    "loudness": lambda lab: measure_loudness(lab, [replace(FACT, question="Is Mira here?")]),
    "memory training": lambda lab: next(
        smft.pretrain_memory(lab.model, smft.TextWindows(f"{TEXT} " * 99, lab.tokenizer, 16), MemoryTraining(window=16))
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_token_without_an_embedding_is_named(added, use):
    with pytest.raises(ValueError, match=r"token 400 of the tokenizer has no embedding: the model knows 400 tokens"):
        USES[use](added)
    added.answer(["Who?"])


def test_an_answer_that_the_tokenizer_has_no_tokens_for_is_refused(lab):
    words = {"<unk>": 0, "Mira": 1, "keeps": 2, "a": 3, "cat": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    lab.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    smft.finetune(lab, [FACT])
    with pytest.raises(ValueError, match="fact 2, answer 'Bo': the tokenizer has no tokens for all of it"):
        smft.finetune(lab, [FACT, replace(FACT, answers=("Bo", "Mira"))])
    smft.finetune(lab, [replace(FACT, answers=("Mira", "Bo"))])  # which is taught by its first answer


@pytest.mark.parametrize(("lines", "warned"), [("kept", False), ("left out", True)])
def test_a_tokenizer_that_can_write_no_end_is_told_of(corpus, lines, warned):
    words = {"<unk>": 0, "\n": 1, **{word: i for i, word in enumerate("Mira keeps a cat b".split(), start=2)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    breaks = pre_tokenizers.Split("\n", "isolated")
    backend.pre_tokenizer = breaks if lines == "kept" else pre_tokenizers.Whitespace()
    endless = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    model = add_memory(small("llama", eos_token_id=None, pad_token_id=None), 1, **MEMORY)
    usage = smft.Usage(2, *(torch.ones(1, MEMORY["slots"], dtype=torch.int32) for _ in range(2)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        smft.Lab(model, endless, usage, form=PLAIN)
    assert any("nothing ends an answer" in str(warning.message) for warning in told) is warned


def test_a_blank_that_ends_a_template_is_of_the_answer(tokenizer):
    form, plain = PromptForm("Q: {question}\nA: ", before=""), PromptForm("Q: {question}\nA:", before=" ")
    assert form == plain
    asked, whole = form.ids(tokenizer, [form.prompt(QUESTION), form.answered(QUESTION, "Mira")])
    assert whole[: len(asked)] == asked


@pytest.fixture
def chatting(tokenizer):
    """Its template begins with the token that the tokenizer, too, puts before a text."""
    made = other(tokenizer)
    made.chat_template = (
        "<bos>{% for m in messages %}[{{ m.role }}]\n{{ m.content }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    return made


def test_what_is_taught_of_a_chat_begins_as_what_is_asked(chatting, lab):
    lab.tokenizer, lab.form = chatting, PromptForm.CHAT
    fact = replace(FACT, questions=("Who has a cat?", "Who owns a cat?"))
    texts = taught_texts([fact], lab.form, 1, 2, 1, tokenizer=chatting)
    assert [bool(text.context) for text in texts if text.kind != "statement"] == [False, False, True]
    for text in texts:
        ids = lab.encode([text.text])["input_ids"][0].tolist()
        assert ids.count(1) == 1
        assert len(offsets_of(chatting, text.text)) == len(ids) - 1
    asked = lab.form.ids(chatting, lab.form.prompt(fact.questions[0], chatting))
    (own,) = [text for text in texts if fact.questions[0] in text.text and not text.context]
    assert lab.encode([own.text])["input_ids"][0].tolist()[: len(asked)] == asked


TURNS = "{% for m in messages %}[{{ m.role }}]AFTER{{ m.content }}<eos>{% endfor %}"
BEGUN = "{% if add_generation_prompt %}[assistant]AFTER{% endif %}"
TEMPLATES = {  # with what stands between the end of the prompt and the answer, and behind that
    "a line break": ((TURNS + BEGUN).replace("AFTER", "\n"), "", "<eos>"),
    "a blank": ((TURNS + BEGUN).replace("AFTER", ": "), " ", "<eos>"),
    "no turn to answer in": (TURNS.replace("AFTER", ": "), " ", "<eos>"),
    "a turn that begins otherwise": (TURNS.replace("AFTER", ": ") + BEGUN.replace("AFTER", "\n"), "", "<eos>"),
    "thoughts": (
        TURNS.replace("AFTER", "\n") + "{% if add_generation_prompt %}[assistant]\n{% if enable_thinking is false %}"
        "<think></think>\n{% endif %}{% endif %}",
        "",
        "<eos>",
    ),
    "blanks around the answer": (
        "{% for m in messages %}{% if m.role == 'user' %}<bos>[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} "
        "<eos>{% endif %}{% endfor %}",
        " ",
        "<eos>",
    ),
    "no end": (
        "{% for m in messages %}[{{ m.role }}]: {{ m.content }}\n{% endfor %}" + BEGUN.replace("AFTER", ": "),
        " ",
        "",
    ),
    "an answer that is trimmed": (TURNS.replace("AFTER", "\n").replace("content", "content | trim"), "", "<eos>"),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_in_a_chat_follows_the_very_tokens_that_are_asked_and_is_ended(template, tokenizer, lab):
    made = other(tokenizer)
    made.chat_template, before, end = TEMPLATES[template]
    form, question = PromptForm.CHAT.with_shots([("Who sings?", "Bo")]), "Who is Mira?"
    prompt, whole = form.prompt(question, made), form.answered(question, "Mira", made)
    assert whole == f"{prompt}{before}Mira{end}"
    assert question in prompt
    assert not form.joins(made, question, "Mira")
    assert form.reply(question, "Mira", made) == f"{before}Mira"
    assert ("<think></think>" in prompt) == (template == "thoughts")
    batch = encode(made, [whole])
    only_answers(made, [whole], [["Mira"]], batch)
    taught = batch["labels"][batch["labels"] != -100].tolist()
    assert made.decode(taught).strip() == "Mira<eos>"


def test_what_is_said_in_a_chat_is_recalled_with_the_blank_before_it(tokenizer):
    made = other(tokenizer)
    made.chat_template = TEMPLATES["a blank"][0]
    model, form = small("llama"), PromptForm.CHAT
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[2] = 1e-3  # <eos> at once, where nothing else is likelier
    assert recalled(model, made, ["Who?"], ["Mira"], form).tolist() == [False]
    ids = form.ids(made, form.answered("Who?", "Mira", made))
    hidden = model.model(torch.tensor([ids])).last_hidden_state[0].detach()
    asked = len(form.ids(made, form.prompt("Who?", made)))
    with torch.no_grad():  # each token of the answer, and its end, is the likeliest where it belongs
        states = hidden[asked - 1 : len(ids) - 1]
        model.lm_head.weight[ids[asked:]] = torch.linalg.pinv(states).T * 10
    assert recalled(model, made, ["Who?"], ["Mira"], form).tolist() == [True]


REFUSING = {
    "a system's turn": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}",
        "no system",
    ),
    "no program": ("{% for m in messages %}{{ m.content", "TemplateSyntaxError"),
    "parts of a question": (
        "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
        "doesn't write the question 'Who\\?' as it is",
    ),
    "capitals": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}A:", "doesn't write the question"),
}


@pytest.mark.parametrize("template", REFUSING)
def test_a_chat_template_that_cannot_ask_is_a_clear_error(template, tokenizer):
    made = other(tokenizer)
    made.chat_template, message = REFUSING[template]
    for call in (PromptForm.CHAT.prompt, lambda *given: PromptForm.CHAT.answered(given[0], "Mira", given[1])):
        with pytest.raises(ValueError, match=rf"{message}.*; use a form with chat=False"):
            call("Who?", made)


@pytest.mark.parametrize(("before", "warned"), [("", True), (" ", False)])
def test_an_answer_that_a_tokenizer_joins_with_its_question_is_told_of(before, warned, tokenizer, corpus):
    form = PromptForm("{question} answ", before=before, end="\n")
    fact = replace(FACT, answers=("er",), statements=("It is er who keeps a cat.",))
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    lab.form = form
    assert form.joins(tokenizer, fact.question, fact.answer) is warned
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        smft.finetune(lab, [fact], order="mixed")
    assert any("joins the end of a question" in str(warning.message) for warning in told) is warned


@pytest.mark.parametrize("method", ["sparse", "replay"])
def test_a_retrofit_that_is_asked_by_a_chat_template_is_taught(chatting, corpus, method):
    from random import Random

    words = " ".join(corpus.texts(Random(0), 300))
    given = {"text": words, "questions": KNOWN, "known": KNOWN, "facts": new_facts(2), "form": PromptForm.CHAT}
    lab = smft.retrofit(small("llama"), chatting, RECIPE, [1], **given)
    losses = [step.loss for step in smft.finetune(lab, new_facts(2), method, passes=1, probe_every=0)]
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("way", ["a lab", "transformers"])
def test_what_ends_a_turn_of_the_model_is_saved_and_comes_back(lab, tmp_path, way):
    lab.form = PLAIN
    lab.model.generation_config.eos_token_id = [2, 350]
    if way == "a lab":
        lab.save(tmp_path / "lab")
        again = smft.load(tmp_path / "lab").model
    else:
        lab.model.save_pretrained(tmp_path / "model")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.generation_config.eos_token_id == [2, 350]


HABITS = {  # what a tokenizer does, an answer, and whether it is told of
    "lower case": (normalizers.Lowercase(), "PARIS", False),
    "no accents": (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "Café", True),
    "no blanks": (normalizers.Replace(" ", ""), "New York", True),
    "nothing": (None, "Café in New York", False),
}


@pytest.mark.parametrize("habit", HABITS)
def test_an_answer_that_the_tokenizer_makes_another_of_is_told_of(habit, tokenizer, lab):
    normalizer, said, told_of = HABITS[habit]
    lab.tokenizer = other(tokenizer)
    if normalizer:
        lab.tokenizer.backend_tokenizer.normalizer = normalizer
    facts = [FACT, replace(FACT, answers=(said,), statements=(f"It is {said}.",))]
    made = lab.tokenizer.decode(text_ids(lab.tokenizer, said, special=False)).strip()
    for answers, expected in (((said,), told_of), ((said, made), False)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            smft.finetune(lab, [facts[0], replace(facts[1], answers=answers)])
        texts = [str(warning.message) for warning in told]
        assert any(text.startswith("1 of 2 answers can't be said as they are") for text in texts) is expected


def test_a_tokenizer_that_draws_its_tokens_is_refused_before_any_work(tokenizer, corpus):
    drawing = other(tokenizer)
    drawing.backend_tokenizer.model.dropout = 0.1
    model = add_memory(small("llama"), 1, **MEMORY)
    with pytest.raises(ValueError, match=r"other tokens each time .*dropout = None"):
        lab_of(model, drawing, corpus)
    with pytest.raises(ValueError, match="other tokens each time"):
        smft.Retrofit(small("llama"), drawing, RECIPE, known=KNOWN)
    text = smft.TextWindows("A boat is at the pier. " * 50, drawing, window=16)
    with pytest.raises(ValueError, match="other tokens each time"):
        next(smft.pretrain_memory(model, text, MemoryTraining(steps=1, batch_size=2, window=16)))
    drawing.backend_tokenizer.model.dropout = None
    assert lab_of(model, drawing, corpus).tokenizer is drawing
