"""The background: text and questions that a model writes itself or a person gives, one a document."""

from itertools import islice, pairwise
from random import Random

import pytest
import torch

from smft_lab.experiments import background
from smft_lab.experiments.background import OwnQuestions, OwnTexts, question_documents, text_documents
from smft_lab.facts.common import common_questions
from smft_lab.facts.public.datasets import Question
from smft_lab.probes.prompts import PLAIN, PromptForm
from smft_lab.probes.text import normalise


def written(writer):
    *records, last = list(writer)
    assert [one.done for one in records] == sorted(one.done for one in records)
    assert all(one.done <= one.total == writer.count and one.tokens > 0 for one in records)
    made = writer.questions if isinstance(writer, OwnQuestions) else writer.documents
    assert (last.done, last.left) == (len(made), 0)
    return writer


# Texts ------------------------------------------------------------------------------------------------


def test_own_texts_are_as_many_and_as_long_as_asked_and_begin_as_the_tokenizer_begins(tiny_model, tokenizer):
    texts = written(OwnTexts(tiny_model(), tokenizer, count=20, window=24, batch=8))
    assert len(texts.documents) == len(texts.texts) == 20
    assert all(ids[0] == tokenizer.bos_token_id and 2 <= len(ids) <= 24 for ids in texts.documents)
    assert max(map(len, texts.documents)) == 24
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert not any(special & set(ids[1:]) for ids in texts.documents)
    assert all(text.lstrip()[0].isalpha() for text in texts.texts)


def test_own_texts_follow_the_seed_and_leave_all_other_random_numbers_alone(tiny_model, tokenizer):
    model = tiny_model().train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (written(OwnTexts(model, tokenizer, 6, 12, seed)).documents for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_a_sampled_text_is_likely_to_the_model_and_the_same_with_and_without_a_cache(
    tiny_model, tokenizer, monkeypatch
):
    model = tiny_model()
    with_cache = written(OwnTexts(model, tokenizer, 6, 12)).documents
    monkeypatch.setattr(background, "DynamicLayer", tuple)  # then no cache is of a kind that can be shared
    assert written(OwnTexts(model, tokenizer, 6, 12)).documents == with_cache
    monkeypatch.undo()
    greedy = OwnTexts(model, tokenizer, 4, 12, top_p=1e-6)
    for ids in written(greedy).documents:
        likeliest = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        assert likeliest[1:-1] == ids[2:]  # but for the first, which must begin with a letter


def test_texts_that_go_round_in_circles_or_are_no_words_come_last(tiny_model, tokenizer):
    words = tokenizer("Mira keeps a small cat in Rome and reads a book", add_special_tokens=False)["input_ids"][:12]
    rows = [
        words,
        [words[0], words[1]] * 6,
        tokenizer("1 2 3 4 5 6 7 8 9", add_special_tokens=False)["input_ids"],
        words[:2],
    ]
    texts = OwnTexts(tiny_model(), tokenizer, count=3, window=12)
    for row in rows:
        texts._take(row)
    assert texts.documents == [[tokenizer.bos_token_id, *words]]
    texts._finish()
    assert len(texts.documents) == 3
    assert words[:2] not in [ids[1:] for ids in texts.documents]


def test_a_model_that_only_ends_texts_is_told_apart(tiny_model, tokenizer):
    model = tiny_model()
    model.base_model.norm.weight.data.zero_()  # all logits alike ...
    texts = OwnTexts(model, tokenizer, count=2, window=8)
    texts._letters = torch.arange(len(tokenizer)) == tokenizer.eos_token_id  # ... and one first token
    with pytest.raises(ValueError, match="ends every text before it begins; give a text of your own"):
        list(texts)


@pytest.mark.parametrize("options", [{"count": 0}, {"window": 1}, {"top_p": 0.0}, {"batch": 0}])
def test_options_out_of_range_are_refused(tiny_model, tokenizer, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        OwnTexts(tiny_model(), tokenizer, **options)


# Questions --------------------------------------------------------------------------------------------


class Speaks:
    """Stands in for `_sample`: each row says the next of some texts."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts, self.prompts = tokenizer, iter(texts), []

    def __call__(self, model, prompt, rows, most, ended, draw, give_up=0.0):
        self.prompts.append(self.tokenizer.decode(prompt, skip_special_tokens=True))
        for row in rows:
            for token in self.tokenizer(next(self.texts, "nothing\n"), add_special_tokens=False)["input_ids"][:most]:
                row.append(token)
                if ended(row):
                    break
        yield 1


def test_own_questions_keep_what_is_well_formed_once_and_are_made_up_by_examples(tiny_model, tokenizer, monkeypatch):
    said = [
        " Where does Mira live?\nAnswer: Rome.\nQuestion: And",
        " where does Mira live?\nAnswer: Paris\n",  # again
        " Mira lives\nAnswer: Rome\n",  # no question
        " Who is it?\nAnswer: \n",  # no answer
        " Who is Tom?\nAnswer: a b c d e f g h i\n",  # a long one
        " What is the capital of France?\nAnswer: Paris\n",  # probed
        " Is it mine?\nAnswer: no\n",  # asked for to be left out
        " How old is Tom?\nAnswer: Nine\n",
        " How old is Ann?\nAnswer: Nin",  # not ended
    ]
    speaks = Speaks(tokenizer, said)
    monkeypatch.setattr(background, "_sample", speaks)
    examples = [Question("Which is first?", ("One", "1")), Question("Is it mine?", ("No",)), Question("Why?", ("So",))]
    own = written(OwnQuestions(tiny_model(), tokenizer, PLAIN, 4, examples=examples, without=["Is it mine"]))
    assert [(one.question, one.answers[0]) for one in own.questions] == [
        ("Where does Mira live?", "Rome"),
        ("How old is Tom?", "Nine"),
        ("Which is first?", "One"),
        ("Why?", "So"),
    ]
    assert own.written == 2
    assert speaks.prompts[0].endswith("\nQuestion:")
    assert "Question: Which is first?\nAnswer: One\n" in speaks.prompts[0].lstrip()


def test_own_questions_are_read_from_other_forms_and_end_where_the_form_ends(tiny_model, tokenizer, monkeypatch):
    form = PromptForm("Q {question} A", " ", ".")
    monkeypatch.setattr(
        background, "_sample", Speaks(tokenizer, [" Where is Rome? A In Italy. Not in", " Rome. A it."])
    )
    own = written(OwnQuestions(tiny_model(), tokenizer, form, 1))
    assert own.questions == [Question("Where is Rome?", ("In Italy",))]
    chat = PromptForm("{question}", "", "\n", chat=True)
    monkeypatch.setattr(tokenizer, "chat_template", CHAT_TEMPLATE, raising=False)
    speaks = Speaks(tokenizer, ["Where is Rome?<eos>\n[bot]Italy<eos>\n[user]", "Rome<eos>\n[bot]Italy<eos>"])
    monkeypatch.setattr(background, "_sample", speaks)
    own = written(OwnQuestions(tiny_model(), tokenizer, chat, 1))
    assert own.questions == [Question("Where is Rome?", ("Italy",))]
    assert own.written == 1
    assert speaks.prompts[0].endswith("[user]")


CHAT_TEMPLATE = (
    "{% for one in messages %}{{ '[user]' if one.role == 'user' else '[bot]' }}{{ one.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}[bot]{% endif %}"
)


def test_a_model_that_can_ask_nothing_still_gives_a_background(tiny_model, tokenizer):
    model = tiny_model()
    own = written(OwnQuestions(model, tokenizer, PLAIN, 12, batch=6))
    assert len(own.questions) == 12
    probed = {normalise(one.question) for one in common_questions("probe")}
    assert not probed & {normalise(one.question) for one in own.questions}


def test_rows_go_on_from_their_own_past_when_others_have_ended(tiny_model, tokenizer, monkeypatch):
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.weight.data.mul_(40)  # sure of what comes next, so that a row's past tells

    def sampled() -> list[list[int]]:
        rows, draw = [[] for _ in range(8)], background._Draw(torch.Generator().manual_seed(1), 0.9)
        list(background._sample(model, [1, 7], rows, 12, lambda row: row[-1] % 5 == 0, draw))
        return rows

    with_cache = sampled()
    assert len(set(map(len, with_cache))) > 2
    monkeypatch.setattr(background, "DynamicLayer", tuple)
    assert sampled() == with_cache


def test_rows_that_are_left_over_are_given_up(tiny_model, tokenizer):
    rows, model = [[] for _ in range(8)], tiny_model()
    draw = background._Draw(torch.Generator().manual_seed(0), 0.9)
    steps = list(
        background._sample(model, [1], rows, 20, lambda row: rows.index(row) > 0 and len(row) == 3, draw, 1 / 8)
    )
    assert steps == [1, 2, 3]
    rows = [[] for _ in range(8)]
    draw = background._Draw(torch.Generator().manual_seed(0), 0.9)
    for _ in background._sample(model, [1], rows, 20, lambda row: row is not rows[0] and len(row) == 3, draw):
        pass
    assert [len(row) for row in rows] == [20] + [3] * 7


# A person's own ---------------------------------------------------------------------------------------


def test_windows_are_spread_over_the_whole_text_and_never_overlap(tokenizer, corpus):
    text = "\n".join(islice(corpus.texts(Random(3), 300), 300))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    documents = text_documents(text, tokenizer, count=10, window=16, seed=1)
    assert [len(one) for one in documents] == [16] * 10
    assert all(one[0] == tokenizer.bos_token_id for one in documents)
    starts = [next(i for i in range(len(ids)) if ids[i : i + 15] == one[1:]) for one in documents]
    assert all(later - earlier >= 15 for earlier, later in pairwise(starts))
    assert starts[0] < len(ids) / 10
    assert starts[-1] > len(ids) * 0.9 - 15
    assert documents == text_documents(text, tokenizer, count=10, window=16, seed=1)
    assert documents != text_documents(text, tokenizer, count=10, window=16, seed=2)


def test_a_short_text_gives_fewer_windows_and_one_shorter_than_a_window_none(tokenizer):
    text = "Mira keeps a cat in Rome. " * 6
    tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(text_documents(text, tokenizer, count=500, window=11)) == tokens // 10
    with pytest.raises(ValueError, match="and a window takes 299; give a longer text"):
        text_documents(text, tokenizer, window=300)
    with pytest.raises(ValueError, match="count at least 1"):
        text_documents(text, tokenizer, count=0)


def test_own_questions_and_answers_of_a_person_are_documents_of_the_form(tokenizer):
    asked = [Question("Who?", ("Mira", "Tom")), Question("Where?", ("Rome",))]
    documents = question_documents(asked, tokenizer, PLAIN)
    prompt, whole = tokenizer(["Question: Who?\nAnswer:", "Question: Who?\nAnswer: Mira\n"])["input_ids"]
    assert documents[0] == (whole, len(prompt))
    assert len(documents) == 2


def test_every_fourth_question_stands_behind_what_is_shown_before_questions(tokenizer):
    asked = [Question(f"Who is {name}?", (name,)) for name in "ABCDEFGHI"]
    openings = [[("Why?", "So")], [("How?", "Well"), ("When?", "Now")]]
    documents = [
        tokenizer.decode(ids, skip_special_tokens=True)
        for ids, _ in question_documents(asked, tokenizer, PLAIN, openings)
    ]
    alone = [PLAIN.answered(one.question, one.answers[0]) for one in asked]
    assert [text.strip() for text in documents] == [
        *(text.strip() for text in alone[:3]),
        "Question: Why?\nAnswer: So\n" + alone[3].strip(),
        *(text.strip() for text in alone[4:7]),
        "Question: How?\nAnswer: Well\nQuestion: When?\nAnswer: Now\n" + alone[7].strip(),
        alone[8].strip(),
    ]
