"""The tokenizer loses nothing of a text, and a training batch pads without teaching padding."""

import string
from random import Random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smft_lab.model.tokenizer import BOS, EOS, PAD, Splitter, encode, train_tokenizer
from smft_lab.probes.text import exact_match

TEXTS = ["The dog of Mira is called Biscuit.", "Hm?", "Jürgen moved to Reykjavík in 1987, 3 years later."]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not any(special in text for special in (PAD, BOS, EOS))
)


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


def decoded(tokenizer, text: str) -> str:
    return tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(text=texts)
@example(text="")
@example(text="plain words, with marks: (a) - 'b'!")
@example(text="  two blanks before, two behind  ")
@example(text="a\n\tb\r\nc")
@example(text="naïve Ærøskøbing 東京 עברית हिन्दी")
@example(text="👩‍👩‍👧 🇫🇮 e\u0301 \u200b")
@example(text="half \u00bd, m\u00b2")
@example(text="The tower was finished in 1889.")
@example(text="What is 12 plus 3?")
@example(text="room 4b, 5pm, x7y")
def test_any_text_comes_back_but_for_one_leading_blank(tokenizer, text):
    assert decoded(tokenizer, text).removeprefix(" ") == text.removeprefix(" ")


def test_texts_that_differ_only_in_a_blank_beside_a_digit_are_told_apart(tokenizer):
    pairs = [("12", "1 2"), ("5pm", "5 pm"), ("is 3?", "is 3 ?"), ("x7", "x 7")]
    same = [pair for pair in pairs if ids_of(tokenizer, pair[0]) == ids_of(tokenizer, pair[1])]
    assert same == []


@pytest.mark.parametrize("answer", ["1889", "42", "Apollo 11", "3.14", "Room 4b"])
def test_an_answer_with_digits_is_an_exact_match_of_itself(tokenizer, answer):
    assert exact_match(decoded(tokenizer, answer).strip(), [answer]) == 1.0


@settings(max_examples=50, deadline=None)
@given(
    number=st.integers(0, 10**9), before=st.sampled_from(["", "is ", "x", "("]), after=st.sampled_from(["", ".", "b"])
)
def test_each_digit_is_a_token_of_its_own(tokenizer, number, before, after):
    tokens = tokenizer.convert_ids_to_tokens(ids_of(tokenizer, f"{before}{number}{after}"))
    with_digits = [token for token in tokens if set(token) & set(string.digits)]
    assert [token.removeprefix("Ġ") for token in with_digits] == list(str(number))


def test_no_token_of_the_vocabulary_joins_a_digit_to_anything():
    numbers = [f"In 19{i} there were 19{i} of {i}pm" for i in range(10, 99)]  # pairs of digits worth merging
    for token in train_tokenizer(numbers, vocab_size=400).get_vocab():
        if set(token) & set(string.digits):
            assert token.removeprefix("Ġ") in string.digits


def test_special_tokens_come_first_and_keep_their_roles(tokenizer):
    assert tokenizer.convert_tokens_to_ids([PAD, BOS, EOS]) == [0, 1, 2]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, BOS, EOS)
    assert tokenizer.padding_side == "right"


def test_a_text_begins_with_bos_and_has_no_eos_of_its_own(tokenizer):
    ids = ids_of(tokenizer, TEXTS[0])
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids


def test_training_twice_on_the_same_texts_gives_the_same_tokenizer():
    one, other = (train_tokenizer(TEXTS * 5, vocab_size=300) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    assert ids_of(one, TEXTS[2]) == ids_of(other, TEXTS[2])


def test_the_vocabulary_is_no_larger_than_asked_for(tokenizer):
    assert 259 < len(tokenizer) <= 400  # 256 bytes, 3 special tokens, and merges


def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ids_of(again, text) == ids_of(tokenizer, text)
        assert again.decode(ids_of(again, text)) == tokenizer.decode(ids_of(tokenizer, text))
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


# encode -----------------------------------------------------------------------------------------------


def test_a_batch_holds_whole_texts_each_ended_by_eos_and_padded_on_the_right(tokenizer):
    batch = encode(tokenizer, TEXTS)
    rows = [ids_of(tokenizer, text) + [tokenizer.eos_token_id] for text in TEXTS]
    width = max(map(len, rows))
    assert len({len(row) for row in rows}) == 3
    assert batch["input_ids"].tolist() == [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
    assert batch["attention_mask"].tolist() == [[1] * len(row) + [0] * (width - len(row)) for row in rows]


def test_labels_are_the_ids_and_minus_100_exactly_at_padding(tokenizer):
    batch = encode(tokenizer, TEXTS)
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    assert (mask == 0).any()
    assert torch.equal(labels == -100, mask == 0)
    assert torch.equal(labels[mask == 1], ids[mask == 1])
    ends = labels.gather(1, mask.sum(1, keepdim=True) - 1)
    assert (ends == tokenizer.eos_token_id).all()


def test_a_text_is_taught_its_end_even_if_it_spells_the_padding_token(tokenizer):
    batch = encode(tokenizer, [f"a {PAD} b", TEXTS[0]])
    at = batch["input_ids"][0] == tokenizer.pad_token_id
    real = at & (batch["attention_mask"][0] == 1)
    assert real.sum() == 1
    assert batch["labels"][0][real].tolist() == [tokenizer.pad_token_id]


def test_texts_of_one_length_need_no_padding(tokenizer):
    batch = encode(tokenizer, [TEXTS[0], TEXTS[0]])
    assert batch["attention_mask"].all()
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert (batch["labels"] == batch["input_ids"]).all()


def test_nothing_to_encode_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no texts"):
        encode(tokenizer, [])


def test_splitting_says_the_same_text_in_smaller_pieces(tokenizer):
    text = "The dog of Mira is called Biscuit."
    whole = ids_of(tokenizer, text)
    split = Splitter(tokenizer, texts=1.0, tokens=0.5)
    rows = [split(whole, Random(seed)) for seed in range(20)]
    assert {tokenizer.decode(row) for row in rows} == {tokenizer.decode(whole)}
    assert all(len(row) >= len(whole) for row in rows)
    assert any(len(row) > len(whole) for row in rows)
    assert rows[3] == split(whole, Random(3))


def test_splitting_leaves_the_share_of_texts_it_was_told_to_leave(tokenizer):
    whole = ids_of(tokenizer, "The dog of Mira is called Biscuit.")
    split, rng = Splitter(tokenizer, texts=0.25, tokens=1.0), Random(0)
    assert 0.15 < sum(split(whole, rng) != whole for _ in range(400)) / 400 < 0.35


def test_splitting_reaches_pieces_that_always_merge_on(tokenizer):
    split, rng = Splitter(tokenizer, texts=1.0, tokens=0.5), Random(0)
    inner = {piece for pieces in split.pieces.values() for piece in pieces}
    seen = {piece for _ in range(30) for token in split.pieces for piece in split([token], rng)}
    assert inner <= seen
