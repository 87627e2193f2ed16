"""Files that people have: which question and which answer are understood of each, and what is said where none is."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smft_lab.cli import main
from smft_lab.facts.fact import Fact
from smft_lab.facts.files import FactsError, read_facts
from smft_lab.facts.public.datasets import KINDS, read_dataset, read_own
from smft_lab.facts.public.formats import FORMATS
from smft_lab.facts.rows import _plain

WHO, WHERE = ("Who runs Vermo?", "Ann Lee"), ("Where is Vermo?", "Norland")
EDIT = {"prompt": "{} is run by", "subject": "Vermo", "target_new": {"str": "Ann Lee"}, "target_true": {"str": "Bo"}}
QAS = [
    {"question": "Who runs Vermo?", "answers": [{"text": "Ann Lee", "answer_start": 3}]},
    {"question": "Why?", "answers": [], "is_impossible": True},
]


def turns(who: str, said: str, *names: str) -> list[dict]:
    said_by = zip(names, ("Be brief.", *WHO, "Why?", "Because."), strict=False)
    return [{who: name, said: text} for name, text in said_by]


ROWS = {  # one row of each kind, in which Ann Lee runs Vermo
    "qa": {"Question": WHO[0], "ANSWER": WHO[1]},
    "alpaca": {"instruction": "Who runs", "input": "Vermo?", "output": "Ann Lee."},
    "sharegpt": {"id": "1", "conversations": turns("from", "value", "system", "human", "gpt", "human", "gpt")},
    "messages": {"messages": turns("role", "content", "system", "user", "assistant", "user", "assistant")},
    "prompts": {"prompt": "Who runs Vermo? ->", "completion": " Ann Lee END"},
    "squad": {"id": "1", "context": "c", "question": WHO[0], "answers": {"text": ["Ann Lee"], "answer_start": [3]}},
    "dpr": {"question": WHO[0], "answers": ["Ann Lee"], "positive_ctxs": [], "negative_ctxs": []},
    "zsre": {"subject": "Vermo", "src": WHO[0], "alt": "Ann Lee", "answers": ["Bo"], "rephrase": "Who heads Vermo?"},
    "counterfact": {"requested_rewrite": EDIT, "paraphrase_prompts": ["The head of Vermo is"]},
    "mquake": {
        "requested_rewrite": [{**EDIT, "question": WHO[0]}],
        "questions": ["Where was the head of Vermo born?"],
        "answer": "Rome",
        "new_answer": "Oslo",
    },
    "facts": {"statements": ["Ann Lee runs Vermo."], "question": WHO[0], "answers": ["Ann Lee"]},
}
TEXTS = {  # in each, Ann Lee runs Vermo, which is in Norland
    "quizlet": ("cards", "Who runs Vermo?\tAnn Lee\nWhere is Vermo?\tNorland\n"),
    "anki": (
        "cards",
        "#separator:tab\n#html:true\nWho runs <b>Vermo</b>?\tAnn&nbsp;Lee\tt1\nWhere is Vermo?\tNorland\tt2",
    ),
    "a head": ("cards", "Question\tAnswer\nWho runs Vermo?\tAnn Lee\nWhere is Vermo?\tNorland\n"),
    "an arrow": ("cards", "Who runs Vermo? => Ann Lee\nWhere is Vermo? => Norland\n"),
    "on one line": ("cards", "Who runs Vermo? Ann Lee\nWhere is Vermo? - Norland.\n"),
    "pairs": ("pairs", "Q: Who runs Vermo?\nA: Ann Lee\n\nQ: Where is Vermo?\nA: Norland.\n"),
    "numbered": (
        "pairs",
        "Question 1: Who runs Vermo?\nAnswer: Ann Lee\nQuestion 2: Where is\nVermo?\nAnswer: Norland\n",
    ),
    "bold": ("pairs", "**Q: Who runs Vermo?**\n**A:** Ann Lee\n\n**Q: Where is Vermo?**\n**A:** Norland\n"),
    "one line a pair": ("pairs", "Q: Who runs Vermo? A: Ann Lee\nQ: Where is Vermo? A: Norland\n"),
    "markdown": ("pairs", "# Vermo\nA land.\n\n## Who runs Vermo?\n\nAnn Lee.\n\n## Where is Vermo?\n- Norland\n"),
    "a table": ("cards", "| Q | A |\n|---|---|\n| Who runs Vermo? | Ann Lee |\n| Where is Vermo? | Norland |\n"),
    "a chat": ("pairs", "User: Who runs Vermo?\nAssistant: Ann Lee\nUser: Where is Vermo?\nAssistant: Norland\n"),
    "semicolons": ("qa", "Question;Answer\nWho runs Vermo?;Ann Lee\nWhere is Vermo?;Norland\n"),
    "lone CR": ("cards", "Who runs Vermo?\tAnn Lee\rWhere is Vermo?\tNorland\r"),
    "anki with semicolons": (
        "cards",
        "#separator:Semicolon\n#html:false\nWho runs Vermo?;Ann Lee\nWhere is Vermo?;Norland",
    ),
    "anki with commas": ("cards", '#separator:Comma\nWho runs Vermo?,"Ann\nLee"\n"Where is Vermo?",Norland\n'),
    "anki with ids": (
        "cards",
        "#separator:tab\n#guid column:1\n#notetype column:2\n#deck column:3\n"
        "x\tBasic\tD\tWho runs Vermo?\tAnn Lee\ny\tBasic\tD\tWhere is Vermo?\tNorland\n",
    ),
    "commas and no head": ("cards", 'Who runs Vermo?,"Ann Lee"\nWhere is Vermo?,Norland\n'),
    "a numbered list": ("cards", "1) Who runs Vermo? - Ann Lee\n2) Where is Vermo? - Norland\n"),
    "line by line": ("pairs", "1. Who runs Vermo?\nAnn Lee\n\n2. Where is Vermo?\nNorland\n"),
    "bold and plain lines": ("pairs", "**Who runs Vermo?**\nAnn Lee\n\n**Where is Vermo?**\nNorland.\n"),
    "csv": ("qa", "Question,Answer\nWho runs Vermo?,Ann Lee\nWhere is Vermo?,Norland\n"),
    "jsonl": ("qa", '{"question": "Who runs Vermo?", "answer": "Ann Lee"}\n{"q": "Where is Vermo?", "a": "Norland"}\n'),
}


LABELS = [  # before a question, and before its answer
    *(("Q. ", "A. "), ("Q - ", "A - "), ("Q) ", "A) "), ("Q1) ", "A1) "), ("Ques: ", "Ans: "), ("1. Q: ", "   A: ")),
    *(("1. Question: ", "Answer: "), ("## Q: ", "A: "), ("- Q: ", "- A: "), ("## 1. ", ""), ("1) ", "A) ")),
    *(("Domanda: ", "Risposta: "), ("问题：", "答案："), ("質問：", "答え："), ("س: ", "ج: "), ("P: ", "R: ")),
    *(("Question\n", "Answer\n"), ("## Question\n", "## Answer\n"), ("**Question 1:** ", "**Answer:** ")),
    *(("Vraag: ", "Antwoord: "), ("Topic: Land\nQ: ", "Source: x\nA: "), ("Front: ", "Back: ")),
]
TABLES = {  # of columns in which the question isn't the first, or the answer isn't the second
    "a.txt": [
        "id\tquestion\tanswer\n1\tWho runs Vermo?\tAnn Lee\n2\tWhere is Vermo?\tNorland\n",
        "answer\tquestion\nAnn Lee\tWho runs Vermo?\nNorland\tWhere is Vermo?\n",
        "1\tWho runs Vermo?\tAnn Lee\n2\tWhere is Vermo?\tNorland\n",
        "70\tWho runs Vermo?\tAnn Lee\n8\tWhere is Vermo?\tNorland\n",
        "#separator:tab\n#columns:Tags\tBack\tFront\nt\tAnn Lee\tWho runs Vermo?\nt\tNorland\tWhere is Vermo?\n",
        "# Facts\nWho runs Vermo?\tAnn Lee\nWhere is Vermo?\tNorland\n",
        "Frage\tAntwort\nWho runs Vermo?\tAnn Lee\nWhere is Vermo?\tNorland\n",
    ],
    "a.md": [
        "| # | Question | Answer |\n|--|--|--|\n| 1 | Who runs Vermo? | Ann Lee |\n| 2 | Where is Vermo? | Norland |\n",
        "| Answer | Question |\n|---|---|\n| Ann Lee | Who runs Vermo? |\n| Norland | Where is Vermo? |\n",
        "# Facts\n\n| Q | A |\n|---|---|\n| Who runs Vermo? | Ann Lee |\n| Where is Vermo? | Norland |\n",
        "|Of Vermo|As it is|\n|:--|--:|\n|Who runs Vermo?|Ann Lee|\n|Where is Vermo?|Norland|\n",
        "| Question | A | B | Answer |\n|-|-|-|-|\n| Who runs Vermo? | Bo | Ann Lee | B |\n"
        "| Where is Vermo? | Norland | x | A |\n",
    ],
}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just('[{"a": 1}]'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "value", "role", "content", "prompt", "str", "qas"]), inner)
    ),
    max_leaves=5,
)


@pytest.fixture
def write(tmp_path):
    def write(name: str, content) -> Path:
        path = tmp_path / name
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(text.encode())
        return path

    return write


def pairs(facts) -> list[tuple[str, str]]:
    return [(fact.question, fact.answer) for fact in facts]


def complaint(path, **options) -> str:
    with pytest.raises(FactsError) as caught:
        read_facts(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert ";" in message
    return message


# Rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize("given", [True, False], ids=["kind given", "kind told"])
def test_each_format_gives_its_question_and_answer(write, kind, suffix, given):
    row = ROWS[kind]
    path = write(f"mine.{suffix}", [row] if suffix == "jsonl" else json.dumps([row]))
    read = read_own(path, kind if given else None)
    assert read.kind == kind
    (fact,) = read.facts
    asked = "Complete: Vermo is run by" if kind == "counterfact" else WHO[0]
    assert (fact.question, fact.answer) == (asked, "Ann Lee")
    assert all("Ann Lee" in text for text in fact.statements)
    assert fact.public == (kind in ("squad", "dpr"))
    assert read_facts(path, kind) == [fact]


def test_edits_keep_their_other_wordings_and_what_follows_from_them(write):
    assert "Who heads Vermo?" in read_facts(write("a.jsonl", [ROWS["zsre"]]))[0].questions
    (fact,) = read_facts(write("b.jsonl", [ROWS["counterfact"]]))
    assert fact.statements == ("Vermo is run by Ann Lee.", "The head of Vermo is Ann Lee.")
    (fact,) = read_facts(write("c.jsonl", [ROWS["mquake"]]))
    assert fact.two_hop == (("Where was the head of Vermo born?", "Oslo"),)
    other = {**EDIT, "question": WHERE[0], "target_new": {"str": "Norland"}}
    both = {**ROWS["mquake"], "requested_rewrite": [*ROWS["mquake"]["requested_rewrite"], other]}
    facts = read_facts(write("d.jsonl", [both]))
    assert pairs(facts) == [WHO, WHERE]
    assert facts[0].two_hop == ()  # it follows from both together


def test_squad_as_json_and_chats_in_parts_are_read(write):
    squad = {"version": "2.0", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": QAS}]}]}
    with pytest.warns(UserWarning, match="used 1 of 2 rows; skipped 1 without an answer"):
        assert pairs(read_facts(write("squad.json", json.dumps(squad)))) == [WHO]
    parts = [{"role": "user", "content": [{"type": "text", "text": WHO[0]}]}, {"role": "assistant", "content": WHO[1]}]
    assert pairs(read_facts(write("a.jsonl", [{"messages": parts}]))) == [WHO]
    assert pairs(read_facts(write("b.jsonl", [{"prompt": parts[:1], "completion": parts[1:]}]))) == [WHO]
    assert pairs(read_facts(write("c.jsonl", [{"prompt": "Q: Who runs Vermo?\nA:", "response": "Ann Lee"}]))) == [WHO]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "ID,QUESTION,Answer\n1,Who runs Vermo?,Ann Lee\n2,Where is Vermo?,Norland\n"),
        ("a.csv", "\n\nFront;Back\nWho runs Vermo?;Ann Lee\n;\nWhere is Vermo?;Norland\n"),
        ("a.tsv", "Term\tDefinition\nWho runs Vermo?\tAnn Lee\nWhere is Vermo?\tNorland\n"),
        ("a.csv", "sep=;\nQuestion;Answer\nWho runs Vermo?;Ann Lee\nWhere is Vermo?;Norland\n"),
        ("a.csv", "Who runs Vermo?,Ann Lee\nWhere is Vermo?,Norland\n"),
        ("a.csv", "Who runs Vermo?\t['Ann Lee']\nWhere is Vermo?\t['Norland']\n"),
        ("a.tsv", "Who runs Vermo?\t['Ann Lee']\nWhere is Vermo?\t['Norland', 'the North']\n"),
        ("a.jsonl", '[{"question": "Who runs Vermo?", "answer": "Ann Lee"}, {"q": "Where is Vermo?", "a": "Norland"}]'),
        ("a.json", '{"question": "Who runs Vermo?", "answer": "Ann Lee"}\n{"q": "Where is Vermo?", "a": "Norland"}\n'),
        (
            "a.json",
            '{"data": [{"q": "Who runs Vermo?", "a": "Ann Lee"}, {"q": "Where is Vermo?", "a": "Norland"}]}',
        ),
    ],
)
def test_tables_and_lists_are_read_however_they_are_headed_and_parted(write, name, text):
    read = read_own(write(name, text))
    assert pairs(read.facts) == [WHO, WHERE]
    assert read.kind == "qa"


def test_answers_are_found_in_the_objects_that_question_sets_put_them_in(write):
    official = {"Question": WHO[0], "Answer": {"Value": "Ann Lee", "Aliases": ["A. Lee"], "NormalizedValue": "ann lee"}}
    (fact,) = read_facts(write("a.json", json.dumps({"Data": [official], "Domain": "web"})))
    assert fact.answers == ("Ann Lee", "A. Lee")
    kilt = {"input": WHO[0], "output": [{"answer": "Ann Lee", "provenance": []}]}
    assert pairs(read_facts(write("b.jsonl", [kilt]))) == [WHO]
    cells = {"requested_rewrite": json.dumps(EDIT), "paraphrase_prompts": json.dumps(["The head of Vermo is"])}
    path = write("c.csv", pandas.DataFrame([cells]).to_csv(index=False))
    assert read_facts(path)[0].statements[0] == "Vermo is run by Ann Lee."


def test_a_json_file_may_be_one_line_of_megabytes(write):
    rows = [{"question": f"Who is person {n}?", "answer": f"Name {n}", "notes": "n" * 2000} for n in range(600)]
    assert len(read_facts(write("mine.json", json.dumps(rows)))) == 600


def test_gaps_whole_numbers_and_the_word_nan_are_what_they_are(write, monkeypatch):
    path = write(
        "a.json",
        '[{"question": "When?", "answer": 1984.0}, {"question": null, "answer": null}, {}, null, '
        '{"question": "What bread?", "answer": "nan"}, {"question": "Who?", "answer": NaN}]',
    )
    with pytest.warns(UserWarning, match="skipped 1 without an answer"):
        assert pairs(read_facts(path)) == [("When?", "1984"), ("What bread?", "nan")]
    table = pandas.DataFrame(
        {"question": ["When?", "Who?", None, "What bread?", "Why?"], "answer": ["1984", None, None, "nan", ""]}
    )
    path = write("a.csv", table.to_csv(index=False))
    with pytest.warns(UserWarning, match="skipped 2 without an answer"):
        assert pairs(read_facts(path)) == [("When?", "1984"), ("What bread?", "nan")]
    monkeypatch.setattr(pandas, "read_parquet", lambda path, **options: years.convert_dtypes(**options))
    years = pandas.DataFrame({"question": ["When?", "Who?", None, "Why?"], "answer": [1984.0, None, None, 1985.0]})
    with pytest.warns(UserWarning, match="skipped 1 without an answer"):
        assert pairs(read_facts(Path("years.parquet"))) == [("When?", "1984"), ("Why?", "1985")]


@pytest.mark.parametrize(
    ("cells", "answers"),
    [
        (("1984.0", "", "1985.0"), ["1984", "1985"]),
        (("-7.0", ",", "1985.0"), ["-7", "1985"]),  # a row without any cell is a gap, too
        (("1.0", "", "2.5"), ["1.0", "2.5"]),
        (("1.0", "2.0", "3.0"), ["1.0", "2.0", "3.0"]),
        (("1.0", "", "two"), ["1.0", "two"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(without an answer|that are empty)")
def test_whole_numbers_of_a_column_with_gaps_are_whole_in_a_csv(write, cells, answers):
    rows = "".join(f"{cell}\n" if cell == "," else f"What is {n}?,{cell}\n" for n, cell in enumerate(cells))
    for name, text in (
        ("a.csv", f"question,answer\n{rows}"),
        ("a.tsv", f"question\tanswer\n{rows}".replace(",", "\t")),
    ):
        assert [answer for _, answer in pairs(read_facts(write(name, text)))] == answers


def test_parquet_keeps_whole_numbers_beside_gaps(tmp_path):
    pytest.importorskip("pyarrow")
    for kind in ("Int64", "float64"):
        rows = {"question": ["When?", "Who?", "Why?"], "answer": pandas.array([1984, None, 1985], dtype="Int64")}
        pandas.DataFrame(rows).astype({"answer": kind}).to_parquet(tmp_path / "a.parquet")
        assert pairs(read_own(tmp_path / "a.parquet").facts) == [("When?", "1984"), ("Why?", "1985")]
    pandas.DataFrame([ROWS["squad"], ROWS["squad"] | {"question": "Who else?"}]).to_parquet(tmp_path / "b.parquet")
    assert read_own(tmp_path / "b.parquet").kind == "squad"


def test_columns_that_say_nothing_name_the_command_and_its_kinds(write):
    message = complaint(write("a.jsonl", [{"foo": "x", "bar": "y"}]))
    assert "its columns (foo, bar) are those of no known kind" in message
    assert "`smft-lab facts FILE --kind KIND`" in message
    assert all(kind in message for kind in FORMATS)
    assert "holds wikitext, no questions" in complaint(write("b.jsonl", [{"text": "Once upon a time."}]))
    assert "field 'answer': is missing" in complaint(write("c.csv", "question,answer\nWho?"))
    with pytest.raises(ValueError, match="no kind 'quiz' of facts; there are facts, qa"):
        read_facts(write("d.jsonl", [ROWS["qa"]]), kind="quiz")
    assert not set(FORMATS) & set(KINDS)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "row",
    [{"question": 1, "answers": {"a": [None]}}, {"messages": "x", "prompt": [3]}, {"x": None}, {"src": [], "alt": 3}],
)
def test_rows_of_another_kind_are_a_facts_error(write, kind, row):
    for name in ("a.jsonl", "a.json"):
        with pytest.raises(FactsError):
            read_facts(write(name, [row]), kind=kind)


# Text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_something_else_is_recognised(write, name):
    kind, text = TEXTS[name]
    read = read_own(write("mine.txt", text))
    assert read.kind == kind
    assert pairs(read.facts) == [WHO, WHERE]
    assert not read.report.skipped
    if kind in ("cards", "pairs"):
        assert read_dataset(write("mine.txt", text), kind=kind).facts == read.facts


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in TABLES.items() for text in texts])
def test_the_columns_of_a_text_are_told_by_their_head_or_what_they_hold(write, name, text):
    read = read_own(write(name, text))
    assert read.kind == "cards"
    assert pairs(read.facts) == [WHO, WHERE]


def test_columns_that_do_not_say_what_they_are_are_refused(write):
    table = "| Country | Capital | Size |\n|--|--|--|\n| Vermo | Keldost | 3 |\n"
    assert "line 3: which of its 3 columns ask and answer isn't said" in complaint(write("a.md", table))
    assert "its columns (instruction, input, output)" in complaint(
        write("a.txt", "instruction\tinput\toutput\nWho runs\tVermo?\tAnn\n")
    )
    assert pairs(read_facts(write("b.txt", "12\tdozen\tmany\n60\tshock\tmore\n")))[0] == ("12", "dozen")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "My cards\nWho runs Vermo?\tAnn Lee\nWhere is Vermo?\tNorland\n", "line 1: has no answer after"),
        ("a.txt", "My cards\nWho runs Vermo?\tAnn Lee\n", "line 1: has no answer after"),
        ("a.txt", "Who runs Vermo?\tAnn Lee\nWhere is\nVermo?\tNorland\n", "line 2: has no answer after"),
        ("a.txt", "My cards\nWho runs it? -> Ann Lee\nWhere is it? -> Norland\n", "line 1: has no answer after"),
        ("a.txt", "My cards\nWho runs it? Ann Lee\nWhere is it? Norland\n", "line 1: has no answer after"),
        ("a.md", "Some facts.\n\n| Q | A |\n|--|--|\n| Who runs it? | Ann |\n", "line 1: is no row of the table"),
        ("a.md", "A b c.\nD e f.\nG h i.\n| Q | A |\n|--|--|\n| Who? | Ann |\n", "line 4: a row of a table among"),
    ],
)
def test_a_line_that_is_no_card_among_cards_is_named(write, name, text, message):
    assert message in complaint(write(name, text))


@pytest.mark.parametrize(("asks", "tells"), LABELS)
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_labels_are_no_part_of_question_and_answer(write, name, asks, tells):
    text = "".join(f"{asks}{question}\n{tells}{answer}\n\n" for question, answer in (WHO, WHERE))
    read = read_own(write(name, text))
    assert read.kind == "pairs"
    assert pairs(read.facts) == [WHO, WHERE]


def test_labels_that_are_not_known_to_ask_are_refused(write):
    text = "Name: Ann\nCity: Oslo\nName: Bo\nCity: Rome\n"
    assert "begin with Name: and City: in turn" in complaint(write("a.txt", text))


@pytest.mark.filterwarnings("ignore:.*none of its choices")
def test_the_choices_and_notes_below_a_question_are_no_answer(write):
    text = "Q: Who runs Vermo?\nA) Bo\nB) Ann Lee\nA: B\n\nQ: Where is Vermo?\na. Norland\nb. Oslo\nA: a. Norland\n"
    assert pairs(read_facts(write("a.txt", text))) == [WHO, WHERE]
    assert pairs(read_facts(write("a.txt", f"{text}Q: When?\nA) Now\nB) Then\nA: D\n"))) == [WHO, WHERE]
    numbered = "1. Who runs Vermo?\nA) Bo\nB) Ann Lee\nAnswer: B\n2. Where is Vermo?\nA) Norland\nB) x\nAnswer: A\n"
    assert pairs(read_facts(write("a.txt", numbered))) == [WHO, WHERE]
    assert pairs(read_facts(write("a.txt", "Q: Who runs Vermo?\nA: Ann Lee\nSource: http://x\n"))) == [WHO]


def test_sentences_stay_sentences_without_the_marks_of_markdown(write):
    plain = "Vermo is run by Ann.\nIt has one town; it is called Keldost.\nA. Smith lives there - in Norland.\n"
    assert [fact.statements[0] for fact in read_facts(write("a.txt", plain))] == plain.splitlines()
    marked = "# Vermo\n\n- Vermo is run by **Ann**.\n1. Its town is Keldost.\n---\n"
    facts = read_facts(write("a.md", marked))
    assert [fact.statements for fact in facts] == [("Vermo is run by Ann.",), ("Its town is Keldost.",)]
    assert facts[0] == Fact("Vermo is run by Ann.", "Complete: Vermo is run by", "Ann")
    numbered = read_facts(write("b.txt", "1. Vermo is run by Ann.\n2) Its town is Keldost.\n"))
    assert [fact.statements for fact in numbered] == [fact.statements for fact in facts]
    assert len(read_facts(write("cr.txt", "Vermo is run by Ann.\rIts town is Keldost.\r"))) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "The head of Vermo is {{c1::Ann}}.\nThe {{c1::town}} of Vermo is {{c2::Keldost::a name}}\textra\n"),
        ("a.txt", "<p>The head of Vermo is <b>Ann</b>.</p>\n<p>The town of Vermo is Keldost</p>\n"),
        ("a.txt", "The head of Vermo is Ann.\fThe town of Vermo is Keldost\n"),
        ("a.txt", '"The head of Vermo is Ann."\n“The town of Vermo is Keldost”\n'),
        ("a.md", "---\ntitle: Vermo\n---\n> The head of Vermo is Ann.\n```\nThe town of Vermo is Keldost\n```\n"),
        ("a.md", "The head of Vermo is [Ann](http://x.org).\nThe [town](http://x.org/a_(b)) of Vermo is Keldost\n"),
        ("a.md", "[![x](a.png)](b)\n![y](c.png)\nThe head of Vermo is Ann.\nThe town of Vermo is [Keldost](a)\n"),
        ("a.txt", "The head of Vermo is *Ann*.\nThe ~~town~~ of **Vermo** is _Keldost_\n"),
        ("a.md", "- [ ] The head of Vermo is Ann.\n- [x] The town of Vermo is Keldost\n"),
        ("a.txt", "The head of Vermo is Ann[^1].\nThe town of Vermo is Keldost.[2][3]\n[^1]: A note on it.\n"),
        ("a.md", "The head of Vermo is Ann [1].\n<!-- a note\nand more -->\nThe town of Vermo is Keldost<!-- b -->\n"),
        ("a.md", "The head of Vermo is Ann.\n```python\nx\n```\n~~~\ny = 2\n~~~\nThe town of Vermo is Keldost\n"),
        ("a.txt", "The head of Vermo is ____. (Ann)\nThe town of Vermo is ___ - Keldost\n"),
    ],
)
def test_marks_of_cards_of_pages_and_of_markdown_are_no_part_of_a_sentence(write, name, text):
    facts = read_facts(write(name, text))
    assert [fact.statements[0].rstrip(".") for fact in facts] == [
        "The head of Vermo is Ann",
        "The town of Vermo is Keldost",
    ]
    assert pairs(facts) == [("Complete: The head of Vermo is", "Ann"), ("Complete: The town of Vermo is", "Keldost")]


def test_what_looks_like_a_mark_but_is_none_stays(write):
    text = "The method is __init__\nThe name is snake_case_is\nThe sum is 2 * 3 * 4\n"
    assert [fact.statements[0] for fact in read_facts(write("a.txt", text))] == text.splitlines()


def test_words_that_stand_alone_on_their_side_are_cards(write):
    for mark in (": ", " → ", " — "):
        text = "".join(
            f"{word}{mark}{meaning}\n" for word, meaning in (("dog", "Hund"), ("big cat", "der Tiger"), ("ox", "Ochse"))
        )
        assert pairs(read_facts(write("a.txt", text)))[1] == ("big cat", "der Tiger")
    text = "osmosis,water through a wall\nmitosis,cells that part, and more\n"
    assert pairs(read_facts(write("a.txt", text)))[1] == ("mitosis", "cells that part, and more")
    text = "**Capital:** Keldost\n**Head:** Ann Lee\n"
    assert pairs(read_facts(write("a.txt", text)))[1] == ("Head", "Ann Lee")
    assert pairs(read_facts(write("a.txt", f"{text}**Founded:** 1984\n")))[1] == ("Head", "Ann Lee")
    labels = "Dogs: the best one is Rex\nCats: the best one is Tom\nOxen: the best one is Bo\n"
    assert pairs(read_facts(write("a.txt", labels)))[0] == ("Complete: Dogs: the best one is", "Rex")
    assert pairs(read_facts(write("a.txt", "The tag for bold is <b>.\n")))[0][1] == "<b>"


def test_what_no_answer_can_be_told_of_is_refused_in_those_words(write):
    assert "isn't at the end of its sentence" in complaint(write("a.txt", "The {{c1::head}} of Vermo is Ann.\n"))
    assert "has no blank before its last word" in complaint(write("a.txt", "法国的首都是巴黎。\n"))
    assert "isn't at the end of its sentence" in complaint(write("a.txt", "{{c1::Ann}} is the head of Vermo.\n"))
    assert "what fills the gap ____ isn't said" in complaint(write("a.txt", "The head of Vermo is ____.\n"))
    assert "the gap isn't at the end" in complaint(write("a.txt", "____ is the head of Vermo. (Ann)\n"))
    assert "[1] isn't its answer" in complaint(write("a.txt", "The head of Vermo is Ann [1].\n"))
    assert "is rich text (RTF)" in complaint(write("a.txt", "{\\rtf1 Hello}\n"))
    assert "is a web page" in complaint(write("a.txt", "<!DOCTYPE html>\n<p>Vermo is a town.</p>\n"))


def test_an_answer_that_names_a_choice_is_that_choice(write):
    letters = "question,A,B,C,answer\nWho runs Vermo?,Bo,Ann Lee,Al,B\nWhere is Vermo?,Norland,Rome,Oslo,(a)\n"
    assert pairs(read_facts(write("a.csv", letters))) == [WHO, WHERE]
    assert pairs(read_facts(write("a.csv", letters.replace("answer", "correct")))) == [WHO, WHERE]
    rows = [
        {"question": WHO[0], "options": {"A": "Bo", "B": "Ann Lee"}, "answer": "B"},
        {"question": WHERE[0], "options": ["Norland", "Rome"], "answer": "Norland"},
    ]
    assert pairs(read_facts(write("a.jsonl", rows))) == [WHO, WHERE]
    rows = [{"question": WHO[0], "choices": ["Bo", "Ann Lee"], "answer": 1}]
    assert pairs(read_facts(write("a.jsonl", rows), kind="qa")) == [WHO]


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_an_answer_that_names_a_numbered_choice_is_that_choice_or_is_skipped(write):
    for first, answer in (("choice1,choice2", "2"), ("option1,option2", "option2"), ("choice0,choice1", "1")):
        text = f"question,{first},answer\nWho runs Vermo?,Bo,Ann Lee,{answer}\nWhere is Vermo?,Norland,Rome,Norland\n"
        assert pairs(read_facts(write("a.csv", text))) == [WHO, WHERE]
        unclear = "Why?,a thing,b,7\n" + "How many?,2,1,2\n" * (answer != "1")
        assert pairs(read_facts(write("a.csv", text + unclear))) == [WHO, WHERE]


def test_other_answers_in_a_column_of_their_own_are_accepted(write):
    text = "question,answer,aliases\nWho?,Ann Lee,A. Lee | Lee\nWhere?,Oslo,\nWhy?,So,\"['Thus', 'Ergo']\"\n"
    answers = [fact.answers for fact in read_facts(write("a.csv", text))]
    assert answers == [("Ann Lee", "A. Lee", "Lee"), ("Oslo",), ("So", "Thus", "Ergo")]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": numpy.array(["Ann Lee"], dtype=object), "answer_start": numpy.array([0])}, ("Ann Lee",)),
        ({"text": numpy.array(["Ann [x] Lee"]), "answer_start": numpy.array([0])}, ("Ann [x] Lee",)),
        (numpy.array(["Ann Lee", "A. O'Lee"], dtype=object), ("Ann Lee", "A. O'Lee")),
    ],
)
def test_arrays_that_a_csv_spells_out_are_lists(write, answers, expected):
    path = write("a.csv", pandas.DataFrame([{"question": WHO[0], "answers": answers}]).to_csv(index=False))
    assert read_facts(path)[0].answers == expected


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_what_is_not_to_be_learned_or_cannot_be_told_is_skipped(write):
    old = ROWS["zsre"] | {"src": "Who?", "alt": None}
    read = read_own(write("a.jsonl", [old, ROWS["zsre"]]))
    assert (pairs(read.facts), str(read.report)) == ([WHO], "used 1 of 2 rows; skipped 1 without a new answer")
    broken = "question,answer\nWho?,\"{'text': oops}\"\nWho runs Vermo?,Ann Lee\n"
    assert pairs(read_facts(write("a.csv", broken))) == [WHO]
    for name, text in (("a.csv", "question,answer,Answer\nWho?,Bo,Al\n"), ("a.csv", "q,note,q,a\nA?,b,C?,d\n")):
        assert "names two columns" in complaint(write(name, text))
    for name in ("a.jsonl", "a.json"):
        assert "stands twice" in complaint(write(name, '{"question": "Who?", "answer": "Bo", "answer": "Al"}\n'))
    facts = json.dumps(ROWS["facts"])[:-1]
    assert "stands twice" in complaint(write("b.jsonl", f'{facts}, "question": "Why?"}}\n'))


def test_turns_of_a_chat_that_are_not_to_be_learned_are_not(write):
    turns = [*({"role": "user", "content": text} for text in ("Vermo.", WHO[0])), {"role": "bot", "content": WHO[1]}]
    assert pairs(read_facts(write("a.jsonl", [{"messages": turns}]))) == [(f"Vermo. {WHO[0]}", WHO[1])]
    wrong = [turns[0], {"role": "assistant", "content": "No.", "weight": 0}]
    assert pairs(read_facts(write("a.jsonl", [{"messages": [*wrong, *turns[1:]]}]))) == [WHO]


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("### Question: Who runs Vermo?\n### Answer:", "Ann Lee"),
        ("### Question:\nWho runs Vermo?\n\n### Answer:\n", "### Answer: Ann Lee"),
        ("Below is an instruction.\n\n### Instruction:\nWho runs\n\n### Input:\nVermo?\n\n### Response:", "Ann Lee"),
    ],
)
def test_a_prompt_is_asked_without_its_headings(write, prompt, completion):
    assert pairs(read_facts(write("a.jsonl", [{"prompt": prompt, "completion": completion}]))) == [WHO]
    if "#" not in completion:
        assert pairs(read_facts(write("a.jsonl", [{"prompt": prompt, "answer": completion}]))) == [WHO]


def test_entities_are_characters_only_in_a_file_that_is_written_for_web_pages(write):
    row = {"question": "Who wrote &quot;It&quot;?", "correct_answer": "O&#039;Lee", "incorrect_answers": ["x"]}
    assert pairs(read_facts(write("a.json", json.dumps({"results": [row]})))) == [('Who wrote "It"?', "O'Lee")]
    assert pairs(read_facts(write("a.jsonl", [{"question": "Which is &?", "answer": "&amp;"}])))[0][1] == "&amp;"


def test_bytes_of_a_table_are_text():
    assert _plain({"a": [b"Ann", "\u00e9".encode(), b"\xff"]}) == {"a": ["Ann", "\u00e9", None]}


def test_a_csv_may_be_parted_by_semicolons_whatever_its_head(write):
    assert pairs(read_facts(write("a.csv", f"Frage;Antwort\nWho, then?;Ann Lee\n{';'.join(WHERE)}\n")))[1] == WHERE
    assert "its columns (Vraag, Antwoord)" in complaint(write("a.csv", "Vraag;Antwoord\nWho, then?;Ann Lee\n"))


@pytest.mark.parametrize(
    "table",
    [
        {"question": [WHO[0], WHERE[0]], "answer": [WHO[1], WHERE[1]]},
        {"question": {"0": WHO[0], "1": WHERE[0]}, "answer": {"0": WHO[1], "1": WHERE[1]}},
        dict([WHO, WHERE]),
        [WHO, WHERE],
    ],
)
def test_a_table_in_json_may_be_kept_by_columns_or_in_pairs(write, table):
    assert pairs(read_facts(write("a.json", json.dumps(table)))) == [WHO, WHERE]


def test_instructions_without_an_input_and_chats_with_a_preference_are_read(write):
    rows = [{"instruction": WHO[0], "input": "<noinput>", "output": WHO[1]}]
    assert pairs(read_facts(write("a.jsonl", rows))) == [WHO]
    rows = [{"instruction": "Who wrote it?", "context": "It is Hamlet.", "response": "Bo"}]
    assert pairs(read_facts(write("a.jsonl", rows))) == [("Who wrote it? It is Hamlet.", "Bo")]
    chat = [{"role": "user", "content": WHO[0]}, {"role": "assistant", "content": WHO[1]}]
    assert pairs(read_facts(write("a.jsonl", [{"chosen": chat, "rejected": chat}]))) == [WHO]
    assert pairs(read_facts(write("a.csv", f"Questions,Best Answer\n{WHO[0]},{WHO[1]}\n"))) == [WHO]


@pytest.mark.filterwarnings("ignore:.*that are empty")
def test_an_empty_row_refuses_no_file(write):
    fact = {"statements": ["Ann Lee runs it."], "question": WHO[0], "answers": [WHO[1]]}
    for rows in ([{}, fact], [fact, {}, {"statements": [], "question": "", "answers": []}]):
        assert pairs(read_facts(write("a.jsonl", rows))) == [WHO]
    assert pairs(read_facts(write("a.jsonl", [{}, {"question": WHO[0], "answer": WHO[1]}]))) == [WHO]
    assert "line 1, field 'statements': is missing" in complaint(write("b.jsonl", [{}]))


def test_questions_without_answers_are_not_taught(write):
    assert "line 2: 'Who runs it?' is a question without an answer" in complaint(
        write("a.txt", "A b c.\nWho runs it?\n")
    )
    assert "line 3: the question 'Where is it?' has no answer" in complaint(
        write("b.txt", "Q: Who runs it?\nA: Ann\nQ: Where is it?\nQ: When?\nA: Now\n")
    )
    lines = "".join(f"Who is {n}?\tName {n}\n" for n in range(8))
    assert "line 9: has no answer after its question" in complaint(write("c.txt", f"{lines}Who else?\n"))


def told(path, kind=None) -> list[str]:
    """What is read of a file, or the lines of the error."""
    try:
        return [fact.question for fact in read_own(path, kind).facts]
    except FactsError as error:
        message = str(error)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return [message]


MARKED = st.text(st.sampled_from("QA:?\t\n\r|#-;=> .*1x日{}[]\\\",'"), max_size=60)


@example(content="1\t?", suffix=".csv")
@example(content=">", suffix=".md")
@example(content="<b></b>", suffix=".txt")
@settings(deadline=None, max_examples=150)
@given(content=MARKED, suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".md"]))
def test_any_text_gives_facts_or_a_facts_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"anything{suffix}"
    path.write_bytes(content.encode())
    assert told(path)


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from([*ROWS]), name=st.integers(0, 9), value=VALUES)
def test_damaged_rows_give_facts_or_a_facts_error(tmp_path_factory, kind, name, value):
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    path.write_text(json.dumps(ROWS[kind] | {[*ROWS[kind]][name % len(ROWS[kind])]: value}))
    assert told(path, kind)


# The command ------------------------------------------------------------------------------------------


def smft(monkeypatch, capsys, *args) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["smft-lab", *map(str, args)])
    with pytest.raises(SystemExit) as done:
        main()
    out, err = capsys.readouterr()
    return done.value.code or 0, out, err


def test_the_command_shows_facts_as_they_are_taught_and_asked_and_keeps_them(write, monkeypatch, capsys, tmp_path):
    path = write("mine.txt", TEXTS["pairs"][1])
    code, out, err = smft(monkeypatch, capsys, "facts", path)
    assert (code, out) == (0, "")
    for line in (
        "1. taught: The one who runs Vermo is Ann Lee.; and 15 more",
        "asked:  Who runs Vermo? -> Ann Lee",
        "2 facts; used 2 of 2 rows; read as pairs",
    ):
        assert line in err
    kept = tmp_path / "kept.jsonl"
    for source, options in (
        (path, ()),
        (write("a.jsonl", [ROWS["mquake"]]), ("--kind", "mquake")),
        (write("b.jsonl", [ROWS["squad"]]), ()),
    ):
        code, out, _ = smft(monkeypatch, capsys, "facts", source, "--out", kept, "--force", *options)
        assert (code, out.strip()) == (0, str(kept))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_facts(kept) == read_facts(source) != []
    lost = write("lost.jsonl", [ROWS["facts"] | {"answers": ["Lee Ann"]}])
    assert "1 of 1 statements do not hold their answer" in smft(monkeypatch, capsys, "facts", lost)[2]
    code, _, err = smft(monkeypatch, capsys, "facts", write("c.jsonl", [{"foo": "x"}]))
    assert code == 2
    assert "`smft-lab facts FILE --kind KIND`" in err


def test_a_public_set_keeps_its_equality_in_a_file_of_facts(write):
    path = write("nq_open.jsonl", [{"question": "who runs vermo", "answer": ["Ann Lee"]}])
    (fact,) = read_facts(path)
    assert fact.public
    assert not read_facts(write("mine.jsonl", [{"question": "who runs vermo", "answer": ["Ann Lee"]}]))[0].public
    assert replace(fact, public=False).own
