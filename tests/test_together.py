"""What is answered in a batch, through a shared start and through a model's parts is what the model says alone."""

import pytest
import torch
from test_attach import small
from tiny_families import tiny_model

from smft_lab.model.tokenizer import encode
from smft_lab.probes.probes import answer
from smft_lab.probes.prompts import BUILT_IN, PLAIN
from smft_lab.probes.replies import _line, _Start, replies
from smft_lab.probes.together import has_plain_head, in_batches, likeliest, takes_padding

SHOTS = (("What is the name of the dog that Mira has, and where does it sleep?", "Biscuit, by the stove"),)
QUESTIONS = ["Who keeps a cat?", "What is the name of the dog that Mira has, and where does it sleep?", "Who?"]
ROOM = 8
ODD = {  # what is odd about each
    "bart": "it counts positions from where a row begins",
    "gpt_neo": "it sees a window by places in a row, which its config doesn't name as others do",
    "modernbert-decoder": "it changes hidden states before its output layer",
    "llama4_text": "its base is the whole of it",
    "gemma3_text": "it forgets what is before a window",
    "llama": "nothing",
}


def by_hand(model, tokenizer, form, question) -> str:
    """What the model says, by one forward pass over all of one text for each token."""
    prompt, spoken = form.ids(tokenizer, form.prompt(question)), []
    while len(spoken) < ROOM:
        with torch.inference_mode():
            spoken.append(model(input_ids=torch.tensor([prompt + spoken])).logits[0, -1].argmax().item())
        if spoken[-1] == tokenizer.eos_token_id or (form.one_line and "\n" in tokenizer.decode(spoken)):
            break
    return _line(tokenizer, spoken, form)


@pytest.mark.parametrize("form", [PLAIN, PLAIN.with_shots(SHOTS), BUILT_IN], ids=["plain", "after a shot", "built-in"])
@pytest.mark.parametrize("family", ODD)
def test_answers_in_a_batch_are_those_of_each_question_alone(family, form, tokenizer):
    model = tiny_model(family)
    expected = [by_hand(model, tokenizer, form, question) for question in QUESTIONS]
    if form == BUILT_IN:
        plain = [text.strip().removesuffix(".") for text in expected]
        assert answer(model, tokenizer, QUESTIONS, ROOM, form) == plain
    else:
        assert replies(model, tokenizer, QUESTIONS, ROOM, form) == expected


@pytest.mark.parametrize("family", ODD)
def test_the_likeliest_tokens_are_those_of_the_models_own_logits(family, tokenizer):
    model = tiny_model(family)
    batch = encode(tokenizer, QUESTIONS)
    rows, columns = batch["attention_mask"].nonzero(as_tuple=True)
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        best = likeliest(model, batch["input_ids"], batch["attention_mask"], rows, columns)
    assert torch.equal(best, logits[rows, columns].argmax(-1))
    assert has_plain_head(model) is (family not in ("modernbert-decoder", "llama4_text"))


def test_a_model_that_takes_padding_is_asked_in_padded_batches(tokenizer):
    prompts = [PLAIN.ids(tokenizer, PLAIN.prompt(question)) for question in QUESTIONS]
    with torch.inference_mode():
        found = {
            family: (
                _Start(model, tokenizer, prompts, ROOM).cache is not None,
                takes_padding(model, prompts, ROOM, 0),
            )
            for family, model in ((family, tiny_model(family)) for family in ODD)
        }
    shared, padded = ({family for family in found if found[family][place]} for place in (0, 1))
    assert shared == {"llama"}
    assert padded == {"llama", "gemma3_text", "llama4_text", "gpt_neo", "modernbert-decoder"}


def test_what_was_tried_is_not_tried_again_for_texts_of_like_length_and_is_for_longer_ones(tokenizer, monkeypatch):
    model, calls = small("llama"), []
    real = model.generate
    monkeypatch.setattr(model, "generate", lambda **options: calls.append(1) or real(**options))
    for length, expected in ((20, 1), (60, 1), (140, 2), (30, 2)):
        assert takes_padding(model, [list(range(3, 3 + length))], ROOM, 0)
        assert len(calls) == expected


def test_weights_that_are_not_finite_say_nothing_of_a_model():
    model = tiny_model("modernbert-decoder")
    weight = model.get_input_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
        assert has_plain_head(model)
        weight.copy_(kept)
        assert not has_plain_head(model)


def test_batches_of_equal_lengths_hold_each_row_once():
    rows = [[1] * length for length in (3, 1, 2, 3, 1, 3)]
    batches = list(in_batches(rows, 2, padded=False))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len({len(rows[i]) for i in batch}) == 1 and len(batch) <= 2 for batch in batches)
    assert [len(batch) for batch in in_batches(rows, 4)] == [4, 2]
