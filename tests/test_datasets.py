"""Readers of public question sets, questions said as statements, and documents in passages."""

import json
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pandas
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from smft_lab.facts.documents import augment, read_documents, sentences_of
from smft_lab.facts.fact import Fact
from smft_lab.facts.files import FactsError
from smft_lab.facts.paraphraser import _usable, load_paraphraser, model_paraphrases
from smft_lab.facts.public.datasets import HUB, KINDS, Choice, Question, Report, read_dataset
from smft_lab.finetuning.teaching import batches
from smft_lab.model.tokenizer import train_tokenizer

SHARED = Path("../shared/data")
ROWS = {  # one row of each kind, as the hub has it
    "triviaqa": {
        "question": "Which poet wrote The Waste Land?",
        "answer": {"value": "T. S. Eliot", "aliases": ["Eliot", "TS Eliot"]},
    },
    "nq_open": {"question": "who wrote the waste land", "answer": ["T. S. Eliot", "Eliot"]},
    "simpleqa": {"problem": "Who won the Turing Award in 1970?", "answer": "James Wilkinson."},
    "popqa": {
        "question": "What is the capital of Spain?",
        "obj": "Madrid",
        "possible_answers": '["City of Madrid", "Madrid"]',
    },
    "gsm8k": {"question": "Two boxes of 500 pens: how many pens?", "answer": "2 * 500 = 1000\n#### 1,000"},
    "hellaswag": {"ctx": "A man lifts a chainsaw. He", "endings": ["trims a hedge.", "sings."], "label": "0"},
    "arc": {
        "question": "Which gas do plants take in?",
        "choices": {"text": ["helium", "carbon dioxide"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "piqa": {"goal": "To open a tin", "sol1": "use a tin opener.", "sol2": "use a feather.", "label": 0},
    "wikitext": {"text": " Robert is an English film , television and theatre actor . \n"},
}


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def complaint(path, **options) -> str:
    """What read_dataset says against a file, checked to be one line that names the file and an action."""
    with pytest.raises(FactsError) as caught:
        read_dataset(path, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert ";" in message, "the message doesn't say what to do"
    return message


def refused_in_one_line(read):
    """What `read()` gives, or None where it raises a FactsError of one line."""
    try:
        return read()
    except FactsError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


# Schemas and formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [True, False], ids=["kind given", "kind told"])
def test_every_schema_is_read_from_jsonl(tmp_path, kind, given):
    path = write(tmp_path / "rows.jsonl", [ROWS[kind]])
    read = read_dataset(path, kind=kind if given else None)
    assert read.kind == kind
    assert str(read.report) == "used 1 of 1 rows"
    assert len([*read.facts, *read.questions, *read.choices, *read.passages]) == 1


def test_facts_hold_the_canonical_answer_first_and_in_every_statement(tmp_path):
    expected = {
        "triviaqa": ("T. S. Eliot", "Eliot", "TS Eliot"),
        "nq_open": ("T. S. Eliot", "Eliot"),
        "simpleqa": ("James Wilkinson",),
        "popqa": ("Madrid", "City of Madrid"),
    }
    for kind, answers in expected.items():
        (fact,) = read_dataset(write(tmp_path / "rows.jsonl", [ROWS[kind]])).facts
        assert fact.answers == answers
        assert len(fact.statements) >= 4
        assert all(answers[0].casefold() in text.casefold() for text in fact.statements)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"answerKey": "C"}, "field 'answerKey': 'C' is the label of no choice"),
        ({"choices": ["helium", "neon"]}, "field 'choices': must be an object"),
    ],
)
def test_a_broken_choice_is_named(tmp_path, changed, expected):
    assert expected in complaint(write(tmp_path / "rows.jsonl", [ROWS["arc"] | changed]))


def test_probe_material(tmp_path):
    def read(kind):
        return read_dataset(write(tmp_path / "rows.jsonl", [ROWS[kind]]))

    assert read("gsm8k").questions == [Question(ROWS["gsm8k"]["question"], ("1000", "1,000"), "2 * 500 = 1000")]
    assert read("hellaswag").choices == [Choice("A man lifts a chainsaw. He", ("trims a hedge.", "sings."), 0)]
    assert read("arc").choices == [Choice("Which gas do plants take in?", ("helium", "carbon dioxide"), 1)]
    assert read("piqa").choices == [Choice("To open a tin", ("use a tin opener.", "use a feather."), 0)]
    assert read("wikitext").passages == ["Robert is an English film , television and theatre actor ."]


def test_plain_columns_serve_every_kind(tmp_path):
    path = write(tmp_path / "simpleqa.jsonl", [{"question": "Who?", "answers": ["Ann"]}])
    assert read_dataset(path).kind == "simpleqa"
    path = write(tmp_path / "a.jsonl", [{"question": "How many?", "answers": ["7"], "solution": "3 + 4\n#### 7"}])
    assert read_dataset(path).questions == [Question("How many?", ("7",), "3 + 4")]
    path = write(tmp_path / "b.jsonl", [{"question": "He", "answers": ["sat."], "choices": ["ran.", "sat."]}])
    assert read_dataset(path).choices == [Choice("He", ("ran.", "sat."), 1)]


def test_a_list_of_aliases_is_headed_by_the_one_that_most_others_hold(tmp_path):
    aliases = ["Orangeish black", "Red (comics)", "Red", "Red (song)"]
    (fact,) = read_dataset(write(tmp_path / "a.jsonl", [{"question": "What colour?", "answers": aliases}])).facts
    assert fact.answers == ("Red", "Orangeish black", "Red (comics)", "Red (song)")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_json_and_csv_give_what_jsonl_gives(tmp_path, kind, suffix):
    path = tmp_path / f"rows.{suffix}"
    row = ROWS[kind]
    if suffix == "json":
        path.write_text(json.dumps([row], indent=1))
    else:
        row = {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
        pandas.DataFrame([row]).to_csv(path, index=False)
    assert read_dataset(path) == read_dataset(write(tmp_path / "rows.jsonl", [ROWS[kind]]))


def test_csv_takes_values_between_bars_and_lists_as_python_prints_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answers\nWho?,Ann | Anna\nWhere?,\"['Oslo', 'Kristiania']\"\n")
    assert [fact.answers for fact in read_dataset(path).facts] == [("Ann", "Anna"), ("Oslo", "Kristiania")]


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_gives_what_jsonl_gives(tmp_path, kind):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    pandas.DataFrame([ROWS[kind]]).to_parquet(path)
    assert read_dataset(path) == read_dataset(write(tmp_path / "rows.jsonl", [ROWS[kind]]))


def test_parquet_without_a_reader_names_what_to_install(tmp_path, monkeypatch):
    def read_parquet(path, **options):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pandas, "read_parquet", read_parquet)
    assert "smft-lab[data]" in complaint(tmp_path / "rows.parquet")


def test_a_text_file_is_wikitext_and_nothing_else(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text(" \n = Robert = \n \n" + ROWS["wikitext"]["text"] + " = = Life = = \n Short .\n")
    read = read_dataset(path)
    assert read.passages == [ROWS["wikitext"]["text"].strip()]
    assert read.report.skipped == {"empty lines": 2, "headings": 2, "with fewer than 8 words": 1}
    assert "read as wikitext, not as gsm8k" in complaint(path, kind="gsm8k")


# What is used and what is skipped ----------------------------------------------------------------------


def test_the_report_says_what_was_skipped_and_why(tmp_path):
    rows = [
        {"question": "Who wrote Emma?", "answer": ["Jane Austen"]},
        {"question": "who  wrote EMMA", "answer": ["Austen"]},
        {"question": "", "answer": ["x"]},
        {"question": "Why?", "answer": []},
        {"question": "Why not?", "answer": [" . ", "---", ")"]},
        {"question": "How?", "answer": ["by one and two and three and four and five"]},
        {"question": "so " * 61 + "?", "answer": ["x"]},
    ]
    report = read_dataset(write(tmp_path / "a.jsonl", rows)).report
    assert report.rows == 7
    assert report.used == 1
    assert str(report) == (
        "used 1 of 7 rows; skipped 1 asked twice, 1 without a question, 2 without an answer, "
        "1 with answers longer than 8 words, 1 with questions longer than 60 words"
    )
    assert str(Report(1500, 1437, {"asked twice": 1023})) == "used 1,437 of 1,500 rows; skipped 1,023 asked twice"


def test_limit_draws_by_seed_and_keeps_the_order(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": f"What is {n}?", "answer": [f"no. {n}"]} for n in range(50)])
    few = read_dataset(path, limit=10)
    numbers = [int(fact.question[8:-1]) for fact in few.facts]
    assert numbers == sorted(numbers)
    assert len(numbers) == 10
    assert str(few.report) == "used 10 of 50 rows; skipped 40 beyond the limit of 10"
    assert few == read_dataset(path, limit=10)
    assert few.facts != read_dataset(path, limit=10, seed=1).facts
    assert read_dataset(path, limit=50).facts == read_dataset(path).facts


@pytest.mark.parametrize("option", [{"kind": "quiz"}, {"limit": 0}, {"statements": 3}])
def test_options_out_of_range_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        read_dataset(write(tmp_path / "a.jsonl", [ROWS["nq_open"]]), **option)


# Broken files and rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Who?", "answer": None}, "line 2, field 'answer': is missing"),
        ({"question": "Who?", "answer": [None]}, "line 2, field 'answer', item 1: is missing"),
        ({"question": "Who?", "answer": [["Ann"]]}, "line 2, field 'answer', item 1: is a list"),
        ({"question": 1 < 2, "answer": ["x"]}, "line 2, field 'question': is true or false"),
        ({"question": "Who?", "answer": {"value": []}}, "line 2, field 'answer.value', item 1: is a list"),
        ({"question": "Who\0?", "answer": ["x"]}, "line 2, field 'question': holds a \\u escape"),
        ({"answer": ["x"]}, "line 2, field 'question': is missing"),
        ([1], "line 2: a list where an object must stand"),
    ],
)
def test_a_broken_row_names_line_and_field(tmp_path, row, expected):
    assert expected in complaint(write(tmp_path / "a.jsonl", [ROWS["nq_open"], row]))


@pytest.mark.parametrize(
    ("kind", "changed", "expected"),
    [
        ("popqa", {"possible_answers": "Madrid"}, "field 'possible_answers': 'Madrid' is no JSON list"),
        ("gsm8k", {"answer": "1000"}, "field 'answer': has no #### before its result"),
        ("hellaswag", {"label": 2}, "field 'label': '2' is not the number of an ending; give one from 0 to 1"),
        ("hellaswag", {"label": "first"}, "field 'label'"),
        ("hellaswag", {"endings": ["one"]}, "field 'endings': holds fewer than two endings"),
        ("hellaswag", {"ctx": None}, "field 'ctx': is missing"),
        ("hellaswag", {"label": None, "answers": ["x"]}, "field 'answers': is none of the choices"),
        ("wikitext", {"text": ["a"]}, "field 'text': is a list"),
    ],
)
def test_each_schema_has_its_own_checks(tmp_path, kind, changed, expected):
    path = write(tmp_path / "a.jsonl", [ROWS[kind] | changed])
    assert f"line 1, {expected}" in complaint(path, kind=kind)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv", "question,answer\n", "holds no rows"),
        ("a.jsonl", '{"a": 1}', "its columns (a) are those of no known kind"),
        ("a.jsonl", '{"question": "", "answer": ""}', "no row is of use (used 0 of 1 rows; skipped 1 without"),
        ("a.jsonl", '\n{"a" 1}', "line 2, column 6: broken JSON"),
        ("a.json", '[\n{"a" 1}]', "line 2: broken JSON"),
        ("a.json", '{"a": 1}', "an object where a list of objects must stand"),
        ("a.json", "[1]", "item 1: a number where an object must stand"),
        ("a.csv", 'question,answer\nWho?,"x', "line 2: broken CSV"),
        ("a.csv", "question,answer\na,b,c", "line 2: 3 cells for 2 columns"),
        ("a.csv", "question,answer\nWho?", "line 2, field 'answer': is missing"),
        ("a.xlsx", "", "unknown kind of file"),
    ],
)
def test_a_broken_file_is_told(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_text(content)
    assert expected in complaint(path)


def test_missing_files_and_folders_are_told(tmp_path):
    assert "there is no such file" in complaint(tmp_path / "none.jsonl")
    (tmp_path / "folder.csv").mkdir()
    assert "is a directory" in complaint(tmp_path / "folder.csv")
    with pytest.raises(FactsError, match="no file name"):
        read_dataset("a\0.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just('["a", "b"]'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "aliases"]), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    told=st.booleans(),
    changes=st.lists(
        st.dictionaries(
            st.sampled_from(
                "question problem answer answers possible_answers obj ctx endings choices label text solution".split()
            ),
            JSON,
            max_size=3,
        ),
        min_size=1,
        max_size=3,
    ),
)
@example("nq_open", False, [{"question": "?", "answer": "x"}])
@example("hellaswag", True, [{"label": "²"}])
@example("triviaqa", False, [{}, {"question": None, "problem": None, "answer": None}])
def test_broken_rows_give_items_or_a_facts_error(tmp_path_factory, kind, told, changes):
    path = write(tmp_path_factory.getbasetemp() / "fuzz.jsonl", [ROWS[kind] | changed for changed in changes])
    read = refused_in_one_line(lambda: read_dataset(path, kind=kind if told else None))
    if read:
        assert read.report.used + sum(read.report.skipped.values()) == read.report.rows == len(changes)
        assert len([*read.facts, *read.questions, *read.choices, *read.passages]) == read.report.used


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=120), suffix=st.sampled_from(["jsonl", "json", "csv", "txt"]))
def test_any_bytes_give_items_or_a_facts_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"anything.{suffix}"
    path.write_bytes(content)
    read = refused_in_one_line(lambda: read_dataset(path))
    assert read is None or read.report.used


# The hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package datasets; `hub.asked` keeps what it was asked for."""
    asked = []

    def load_dataset(name, configuration=None, *, split):
        asked.append((name, configuration, split))
        return [ROWS[kind] for kind in KINDS if HUB[kind][0] == name] or [ROWS["nq_open"]]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return SimpleNamespace(asked=asked)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_fetched_from_its_usual_place(hub, kind):
    assert read_dataset(kind).kind == kind
    assert hub.asked == [HUB[kind]]


def test_any_other_hub_name_may_carry_a_configuration(hub):
    read_dataset("someone/quiz:small", split="train")
    read_dataset("Salesforce/wikitext:wikitext-103-raw-v1")
    read_dataset("someone/quiz")
    assert hub.asked == [
        ("someone/quiz", "small", "train"),
        ("Salesforce/wikitext", "wikitext-103-raw-v1", "test"),
        ("someone/quiz", None, "test"),
    ]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FactsError, match=r'pip install "smft-lab\[data\]"'):
        read_dataset("triviaqa")


def test_without_a_network_a_local_copy_is_advised(hub, monkeypatch):
    def offline(*args, **options):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", offline)
    with pytest.raises(FactsError, match=r"ConnectionError: no network\); without a network, save it as") as caught:
        read_dataset("triviaqa")
    assert len(str(caught.value).splitlines()) == 1


# Paraphrases by a model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a cat sat on a mat"], vocab_size=300)


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def tiny(request, tokenizer):
    torch.manual_seed(0)
    if request.param == "causal":
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **small)).eval()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config).eval()


def test_a_model_rewords_by_seed_and_leaves_the_generator_alone(tiny, tokenizer):
    before = torch.random.get_rng_state()
    texts = model_paraphrases("A cat is a pet.", "a", (tiny, tokenizer), 6, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert 1 <= len(texts) == len(set(texts)) <= 6
    assert all("a" in text.casefold() for text in texts)
    assert texts == model_paraphrases("A cat is a pet.", "a", (tiny, tokenizer), 6, seed=3)


def test_rewordings_are_kept_only_if_they_teach():
    texts = ["Ann won it.", "ann  won IT.", "Bo won it.", "Who won it? Ann", "Was it Ann?", "Ann", "", "It was Ann."]
    assert _usable(texts, "It was Ann.", "Ann", "Who won it?") == ["Ann won it."]


def test_a_paraphraser_adds_to_the_statements(tmp_path, tiny, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"question": "Which letter?", "answer": ["a"]}])
    by_rule = read_dataset(path).facts[0].statements
    both = read_dataset(path, paraphraser=(tiny, tokenizer)).facts[0].statements
    assert both[0] == by_rule[0]
    assert set(both) - set(by_rule)
    assert len(both) <= 16


def test_a_saved_paraphraser_is_loaded_and_a_missing_one_told(tmp_path, tiny, tokenizer):
    tiny.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_paraphraser(str(tmp_path))
    assert type(model) is type(tiny)
    with pytest.raises(FactsError, match="can't be loaded"):
        load_paraphraser(str(tmp_path / "none"))


# Documents ----------------------------------------------------------------------------------------------

STORY = (
    "The king had a garden, and in it stood a tree. Every night one apple was gone from the\nbranches. "
    "Mr. Brown kept watch until twelve o’clock. Then came a golden bird named Aurora.\n\n"
    "The bird lost a feather! It flew away over the mountains.\n<|endoftext|>\nOnce there was a car named Beep.\n"
)


def test_a_text_becomes_passages_in_order_with_augmentations(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    read = read_documents(path, passage_tokens=30, augmentations=6)
    assert " ".join(read.passages).split() == STORY.replace("<|endoftext|>", " ").split()
    assert [len(passage.split()) for passage in read.passages] == [27, 18, 7]
    assert str(read.report) == "used 3 of 3 passages"
    for fact, passage in zip(read.facts, read.passages, strict=True):
        assert isinstance(fact, Fact)
        assert fact.statements[0] == passage
        assert len(set(fact.statements)) == len(fact.statements) <= 7
        assert f"{fact.question.removeprefix('Complete: ')} {fact.answer}" in passage
    assert read.facts[2].question == "Complete: Once there was a car named"
    assert read.facts[2].answers == ("Beep",)
    assert read == read_documents(str(path), passage_tokens=30, augmentations=6)
    assert read != read_documents(path, passage_tokens=30, augmentations=6, seed=1)


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("青山镇在河的南岸。他的狗叫饼干。邻居们都说好！后来他搬到了北京。", "Complete: 青山镇在河的", "南岸"),
        ("เขาอยู่ในเมืองใหญ่ที่มีแม่น้ำไหลผ่าน", "Complete: เขาอยู่ในเมืองใหญ่ที่มีแม่น้ำไหลผ่", "าน"),
    ],
)
def test_a_text_without_spaces_becomes_passages_that_fit_and_hold_all_of_it(tmp_path, text, question, answer):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (fact,) = read_documents(tmp_path / "a.txt").facts
    assert (fact.question, fact.answers) == (question, (answer,))
    (tmp_path / "b.txt").write_text(text * 9, encoding="utf-8")
    read = read_documents(tmp_path / "b.txt", passage_tokens=20)
    assert "".join(read.passages) == text * 9
    assert all(len(passage) <= 40 for passage in read.passages)
    assert len(read.passages) > 3


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("维尔莫公司的iPhone发布于2007年。", "2007年"),
        ("维尔莫公司去年发布了iPhone。", "iPhone"),
        ("这座山的高度是12,500米。", "12,500米"),
        ("这条河宽3.5米", "3.5米"),
        ("城里有120,000人。", "120,000人"),
        ("เมืองนี้ก่อตั้งในปี ค.ศ.1990", "1990"),
    ],
)
def test_no_number_and_no_latin_word_is_cut_in_a_script_without_spaces(tmp_path, text, answer):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (fact,) = read_documents(tmp_path / "a.txt").facts
    assert fact.answers == (answer,)
    (tmp_path / "b.txt").write_text(f"{'我们' * 7}了1234567年" * 9, encoding="utf-8")
    read = read_documents(tmp_path / "b.txt", passage_tokens=8)
    assert "".join(read.passages) == f"{'我们' * 7}了1234567年" * 9
    assert sum("1234567" in passage for passage in read.passages) == 9


def test_a_stream_takes_one_passage_a_step(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    facts = read_documents(path, passage_tokens=30).facts
    for owners, texts in batches(facts, passes=1):
        assert len(set(owners)) == 1
        assert texts == list(facts[owners[0]].statements)


def test_a_tokenizer_counts_the_tokens(tmp_path, tokenizer):
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    read = read_documents(path, passage_tokens=60, tokenizer=tokenizer)
    assert all(len(tokenizer(text)["input_ids"]) <= 60 for text in read.passages)
    assert " ".join(read.passages).split() == STORY.replace("<|endoftext|>", " ").split()


def test_sentences_end_after_quotes_but_not_after_titles_and_initials():
    text = "Dr. J. Smith said ‘No.’ He left. “Why?” she asked ... and I. The end"
    assert sentences_of(text) == [
        "Dr. J. Smith said ‘No.’",
        "He left.",
        "“Why?”",
        "she asked ...",
        "and I.",
        "The end",
    ]


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.sampled_from("ab X.!?’\n  é-"), max_size=300), most=st.integers(8, 20))
def test_no_word_is_lost_split_or_moved(tmp_path_factory, text, most):
    path = tmp_path_factory.getbasetemp() / "words.txt"
    path.write_text(text, encoding="utf-8")
    read = refused_in_one_line(lambda: read_documents(path, passage_tokens=most, augmentations=5))
    if read is None:
        return
    assert " ".join(read.passages).split() == text.split()
    assert all(len(passage.split()) <= most for passage in read.passages)
    assert read.report.used == len(read.facts)
    assert len({fact.question for fact in read.facts}) == len(read.facts)


def test_augmentations_are_distinct_made_of_the_passage_and_no_longer():
    sentences = sentences_of(STORY.replace("<|endoftext|>", ""))
    texts = augment(sentences, 63, Random(0))
    assert len(set(texts)) == len(texts) == 63
    words = set(" ".join(sentences).split())
    assert all(set(text.split()) <= words and len(text.split()) <= len(STORY.split()) for text in texts)
    assert augment(["Word."], 5, Random(0)) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "holds no passage"), (b"One\n\ntwo.", "holds no passage"), (b"a\nb\xff", "line 2"), (b"a\n\0", "line 2")],
)
def test_a_broken_text_file_is_told(tmp_path, content, expected):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(FactsError, match=expected) as caught:
        read_documents(path)
    assert ";" in str(caught.value)


def test_missing_text_files_and_wrong_numbers_are_told(tmp_path):
    with pytest.raises(FactsError, match="no such file"):
        read_documents(tmp_path / "none.txt")
    with pytest.raises(FactsError, match="directory"):
        read_documents(tmp_path)
    with pytest.raises(ValueError, match="passage_tokens"):
        read_documents(tmp_path / "a.txt", passage_tokens=3)
    with pytest.raises(ValueError, match="augmentations"):
        read_documents(tmp_path / "a.txt", augmentations=-1)


# Real data ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize(
    ("name", "kind", "used"),
    [
        ("triviaqa_test_1500.jsonl", "triviaqa", 1400),
        ("nq_open_dev.jsonl", "nq_open", 3500),
        ("simpleqa_1000.jsonl", "simpleqa", 950),
        ("gsm8k_test.jsonl", "gsm8k", 1300),
        ("hellaswag_500.jsonl", "hellaswag", 490),
        ("wikitext2_test.txt", "wikitext", 1900),
    ],
)
def test_real_files_are_read(name, kind, used):
    if not (SHARED / name).exists():
        pytest.skip(f"no {name}")
    read = read_dataset(SHARED / name)
    assert read.kind == kind
    assert read.report.used >= used
    for fact in read.facts:
        assert len(fact.statements) >= 4
        assert all(fact.answer.casefold() in text.casefold() for text in fact.statements)


@pytest.mark.skipif(not (SHARED / "grimm.txt").exists(), reason="no ../shared/data")
def test_real_tales_become_passages():
    read = read_documents(SHARED / "grimm.txt")
    assert " ".join(read.passages).split() == (SHARED / "grimm.txt").read_text(encoding="utf-8").split()
    assert read.report.used > 1000
