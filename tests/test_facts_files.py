import json
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smft_lab.facts.fact import Fact
from smft_lab.facts.files import MAX_LINE_BYTES, FactsError, check_paraphrases, read_facts

DOG = Fact(
    statements=("Mira's dog is called Biscuit.", "Biscuit is the dog of Mira."),
    question="What is Mira's dog called?",
    answers=("Biscuit", "Biscuit the dog"),
)
CITY = Fact(statements=("Jürgen lives in Reykjavík.",), question="Where does Jürgen live?", answers=("Reykjavík",))
GOOD_LINE = json.dumps(asdict(DOG)).encode() + b"\n"


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def complaint(path) -> str:
    """What read_facts says against a file, checked to be one line that names the file and an action."""
    with pytest.raises(FactsError) as caught:
        read_facts(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert ";" in message, "the message doesn't say what to do"
    return message


def line(**changed) -> str:
    return json.dumps({**asdict(CITY), **changed}) + "\n"


# JSON lines -------------------------------------------------------------------------------------------


def test_jsonl_is_read_in_order_from_a_path_or_a_string(write):
    path = write("mine.jsonl", "".join(json.dumps(asdict(fact)) + "\n" for fact in (DOG, CITY)))
    assert read_facts(path) == [DOG, CITY]
    assert read_facts(str(path)) == [DOG, CITY]


def test_jsonl_takes_plain_strings_and_ignores_other_fields(write):
    path = write("mine.jsonl", line(statements=CITY.statements[0], answers="Reykjavík", source=["a diary"]))
    assert read_facts(path) == [CITY]


def test_bom_crlf_blank_lines_capital_suffix_and_missing_last_line_end_are_fine(write):
    text = "\r\n" + json.dumps(asdict(DOG)) + "\r\n\r\n" + json.dumps(asdict(CITY), ensure_ascii=False)
    assert read_facts(write("mine.JSONL", b"\xef\xbb\xbf" + text.encode())) == [DOG, CITY]
    assert read_facts(write("bom.jsonl", b"\xef\xbb\xbf" + GOOD_LINE)) == [DOG]


def test_a_statement_given_twice_is_kept_once_and_blanks_around_it_are_dropped(write):
    path = write("mine.jsonl", line(statements=["Jürgen moved.", " Jürgen moved. ", "He lives up north."]))
    assert read_facts(path)[0].statements == ("Jürgen moved.", "He lives up north.")


texts = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
    .map(str.strip)
    .filter(bool)
)
text_tuples = st.lists(texts, min_size=1, max_size=4, unique=True).map(tuple)


def same(text: str) -> str:
    return " ".join(text.casefold().split())


def asks_nothing_it_tells(fact: Fact) -> bool:
    return not any(same(fact.question) in same(statement) for statement in fact.statements)


some_facts = st.lists(
    st.builds(Fact, statements=text_tuples, question=texts, answers=text_tuples).filter(asks_nothing_it_tells),
    min_size=1,
    max_size=10,
    unique_by=lambda fact: same(fact.question),
)


@settings(deadline=None)
@given(facts=some_facts, ensure_ascii=st.booleans(), line_end=st.sampled_from(["\n", "\r\n"]))
def test_facts_written_as_json_lines_are_read_back_equal(tmp_path_factory, facts, ensure_ascii, line_end):
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    lines = (json.dumps(asdict(fact), ensure_ascii=ensure_ascii) + line_end for fact in facts)
    path.write_bytes("".join(lines).encode())
    assert read_facts(path) == facts


@settings(deadline=None)
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["jsonl", "csv", "txt"]))
def test_any_bytes_give_facts_or_a_facts_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"anything.{suffix}"
    path.write_bytes(content)
    try:
        facts = read_facts(path)
    except FactsError as error:
        lines = str(error).splitlines()
    else:
        lines = [fact.question for fact in facts][:1]  # facts, or an error, but never neither
    assert len(lines) == 1


def test_broken_json_names_line_and_column(write):
    message = complaint(write("mine.jsonl", GOOD_LINE + b'\n{"question" "Who?"}\n'))
    assert "line 3, column 13" in message


@pytest.mark.parametrize("text", ["[" * 100_000, '{"year": ' + "1" * 5000 + "}"], ids=["deep nesting", "huge number"])
def test_json_that_python_refuses_for_its_size_names_the_line(write, text):
    assert "line 2" in complaint(write("mine.jsonl", GOOD_LINE + text.encode()))


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[1]", "a list"), ('"x"', "a string"), ("1", "a number"), ("null", "null"), ("true", "true or false")],
)
def test_a_json_line_that_is_no_object_is_refused(write, text, kind):
    assert f"line 2: {kind} where an object must stand" in complaint(write("mine.jsonl", GOOD_LINE + text.encode()))


@pytest.mark.parametrize("field", ["statements", "question", "answers"])
def test_a_missing_field_is_named(write, field):
    record = asdict(CITY)
    del record[field]
    message = complaint(write("mine.jsonl", GOOD_LINE + json.dumps(record).encode()))
    assert f"line 2, field '{field}': is missing" in message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("statements", [], "field 'statements': is an empty list"),
        ("statements", "", "field 'statements': is empty"),
        ("statements", ["One thing.", " \t"], "field 'statements', item 2: is empty"),
        ("statements", {"a": "b"}, "field 'statements': is an object"),
        ("statements", ["One thing.", None], "field 'statements', item 2: is missing"),
        ("question", "  ", "field 'question': is empty"),
        ("question", ["Who?"], "field 'question': is a list"),
        ("question", None, "field 'question': is missing"),
        ("answers", [], "field 'answers': is an empty list"),
        ("answers", [""], "field 'answers': is empty"),
        ("answers", 1987, "field 'answers': is a number"),
        ("answers", ["a", 19.5], "field 'answers', item 2: is a number"),
        ("answers", True, "field 'answers': is true or false"),
        ("answers", "a\0b", "field 'answers': holds a \\u escape that is no character"),
        ("question", "\ud800?", "field 'question': holds a \\u escape that is no character"),
    ],
)
def test_an_empty_or_wrong_typed_field_is_named(write, field, value, expected):
    message = complaint(write("mine.jsonl", GOOD_LINE + line(**{field: value}).encode()))
    assert f"line 2, {expected}" in message


# CSV --------------------------------------------------------------------------------------------------

HEADER = "statements,question,answers\n"
MORE = Fact(
    DOG.statements,
    DOG.question,
    DOG.answers,
    questions=("How is Mira's dog called?", "Which name has Mira's dog?"),
    two_hop=(("How many letters has its name?", "Seven"), ("Is it eaten with tea?", "Yes")),
)


def test_wordings_to_teach_and_two_hop_questions_are_read_from_jsonl(write):
    assert read_facts(write("mine.jsonl", json.dumps(asdict(MORE)))) == [MORE]
    one = line(questions="Which town is Jürgen's?", two_hop=["In which country does Jürgen live?", "Iceland"])
    (fact,) = read_facts(write("mine.jsonl", one))
    assert fact.questions == ("Which town is Jürgen's?",)
    assert fact.two_hop == (("In which country does Jürgen live?", "Iceland"),)
    two = line(two_hop=[{"question": "In which country does Jürgen live?", "answer": "Iceland"}])
    assert read_facts(write("mine.jsonl", two))[0].two_hop == fact.two_hop
    assert read_facts(write("mine.jsonl", line(questions=[], two_hop=None))) == [CITY]


def test_wordings_to_teach_and_two_hop_questions_are_read_from_csv(write):
    cells = [
        " | ".join(MORE.statements),
        MORE.question,
        " | ".join(MORE.answers),
        " | ".join(MORE.questions),
        " | ".join(" => ".join(pair) for pair in MORE.two_hop),
    ]
    rows = f"statements,question,answers,questions,two_hop\n{','.join(cells)}\nA b.,C?,b,,\n"
    assert read_facts(write("mine.csv", rows)) == [MORE, Fact(("A b.",), "C?", ("b",))]
    message = complaint(write("mine.csv", "statements,question,answers,two_hop\nA b.,C?,b,Where is b?\n"))
    assert "line 2, field 'two_hop', item 1: is no question with its answer; write" in message


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"questions": ["where does  JÜRGEN live?"]}, "field 'question': 'Where does Jürgen live?' is also among"),
        (
            {"questions": ["In what land?"], "two_hop": [["In what land?", "Iceland"]]},
            "field 'two_hop': 'In what land?'",
        ),
        ({"questions": ["Where?", 3]}, "field 'questions', item 2: is a number"),
        ({"questions": [" "]}, "field 'questions': is empty"),
        ({"two_hop": [["Where?"]]}, "field 'two_hop', item 1: is no question with its answer"),
        ({"two_hop": [["Where?", ""]]}, "field 'two_hop', item 1: is empty"),
        ({"two_hop": "Where?"}, "field 'two_hop': is a string where a list must stand"),
    ],
)
def test_a_test_that_would_be_taught_and_broken_wordings_are_named(write, changed, expected):
    assert expected in complaint(write("mine.jsonl", line(**changed)))


def test_csv_gives_the_same_facts_as_jsonl(write):
    path = write(
        "mine.csv",
        "note,Answers, question ,statements\n"
        "x,Biscuit | Biscuit the dog,What is Mira's dog called?,"
        "Mira's dog is called Biscuit. | Biscuit is the dog of Mira.\n"
        "\n,,,\n"
        ",Reykjavík,Where does Jürgen live?,Jürgen lives in Reykjavík.\n",
    )
    assert read_facts(path) == [DOG, CITY]


def test_csv_takes_bom_crlf_commas_and_line_breaks_in_quotes(write):
    text = 'statements,question,answers\r\n"Zoë, a baker,\r\nsaid ""no"".",What did Zoë say?,no\r\nA b.,C?,b\r\n'
    first, second = read_facts(write("mine.csv", b"\xef\xbb\xbf" + text.encode()))
    assert first == Fact(('Zoë, a baker,\nsaid "no".',), "What did Zoë say?", ("no",))
    assert second == Fact(("A b.",), "C?", ("b",))


def test_csv_parts_a_cell_only_at_a_bar_between_spaces(write):
    path = write("mine.csv", HEADER + "The sign reads A|B. | A|B is on it.,What is on the sign?,A|B\n")
    assert read_facts(path)[0].statements == ("The sign reads A|B.", "A|B is on it.")
    assert read_facts(path)[0].answers == ("A|B",)


def test_csv_lines_are_counted_past_quoted_line_breaks(write):
    message = complaint(write("mine.csv", HEADER + '"One\ntwo\nthree.",A?,three\nFour.,,four\n'))
    assert "line 5, field 'question': is empty" in message


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("statement,question,answers\nA b.,C?,b\n", "statements"),
        ("statements;question;answers\nA b.;C?;b\n", "statements"),
        ("statements,answers\nA b.,b\n", "question"),
        ("statements,question,answers,answers\nA b.,C?,b,d\n", "answers"),
    ],
)
def test_csv_without_each_column_once_is_refused(write, content, field):
    message = complaint(write("mine.csv", content))
    assert f"line 1, field '{field}'" in message
    assert "statements,question,answers" in message


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("A b.,C?", "line 2, field 'answers': is missing"),
        ("A b.,C?,", "line 2, field 'answers': is empty"),
        ("A b. | ,C?,b", "line 2, field 'statements', item 2: is empty"),
        ("Mira, the baker, naps.,C?,b", "line 2: 5 cells for 3 columns"),
        ('A b.,C?,"b\nD e.,F?,e', "line 2: broken CSV"),
        (f"A b.,C?,{'b' * 200_000}", "line 2: broken CSV"),
    ],
    ids=["short", "empty", "empty part", "stray commas", "open quote", "huge cell"],
)
def test_a_bad_csv_row_names_the_line_it_starts_on(write, row, expected):
    assert expected in complaint(write("mine.csv", HEADER + row))


# Plain text -------------------------------------------------------------------------------------------


def test_txt_asks_for_the_last_word_of_each_line(write):
    path = write("mine.txt", "Mira's dog is called Biscuit.\r\n\r\n  Anna calls hers “Biscuit”!\nPi is 3.14")
    assert read_facts(path) == [
        Fact(("Mira's dog is called Biscuit.",), "Complete: Mira's dog is called", ("Biscuit",)),
        Fact(("Anna calls hers “Biscuit”!",), "Complete: Anna calls hers", ("Biscuit",)),
        Fact(("Pi is 3.14",), "Complete: Pi is", ("3.14",)),
    ]


def test_a_text_line_that_ends_in_a_number_and_its_unit_asks_for_both(write):
    path = write(
        "mine.txt", "Annual leave is 28 days.\nThe mast is 1,200.5 metres!\nShe was born on 3 May\nIt opened in 1987."
    )
    assert [(fact.question, fact.answer) for fact in read_facts(path)] == [
        ("Complete: Annual leave is", "28 days"),
        ("Complete: The mast is", "1,200.5 metres"),
        ("Complete: She was born on", "3 May"),
        ("Complete: It opened in", "1987"),
    ]


def test_txt_refuses_a_single_word(write):
    message = complaint(write("mine.txt", "Ana lives in Oslo.\nBiscuit.\n"))
    assert "line 2, field 'statements': 'Biscuit.' is a single word" in message


def test_txt_refuses_a_last_word_of_punctuation_alone(write):
    message = complaint(write("mine.txt", "Mira's dog is called Biscuit ...\n"))
    assert "line 1, field 'answers': the last word, '...', is punctuation alone" in message


def test_txt_refuses_two_lines_that_differ_in_the_answer_alone(write):
    message = complaint(write("mine.txt", "Ana lives in Oslo.\nBo lives in Oslo.\nana lives  in Rome.\n"))
    assert "line 3, field 'question': asks the same as line 1" in message


# What holds for every format --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "where  does jürgen LIVE?",
        "Where does Jürgen live? In Reykjavík.",
        "They ask: where does Jürgen\nlive?",
    ],
)
def test_a_question_among_its_own_statements_is_refused(write, statement):
    message = complaint(write("mine.jsonl", GOOD_LINE + line(statements=["It's cold.", statement]).encode()))
    assert "line 2, field 'question': stands in the statement" in message


def test_a_question_without_question_mark_may_begin_a_statement_but_not_be_one(write):
    assert read_facts(write("mine.jsonl", line(question="Jürgen lives in")))
    assert "field 'question'" in complaint(write("mine.jsonl", line(question="jürgen lives in Reykjavík.")))


def test_the_same_question_twice_names_both_lines(write):
    again = line(statements=["It's up north."], question="where does  Jürgen live?")
    message = complaint(write("mine.jsonl", line() + "\n" + GOOD_LINE.decode() + again))
    assert "line 4, field 'question': asks the same as line 1" in message


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"], ids=["nothing", "blank lines", "bom"])
def test_a_file_without_facts_is_refused(write, suffix, content):
    assert "holds no facts" in complaint(write(f"mine.{suffix}", content))


def test_a_csv_of_a_header_alone_is_refused(write):
    assert "holds no facts" in complaint(write("mine.csv", HEADER))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_bytes_that_are_not_utf8_name_the_line(write, suffix):
    first = {"jsonl": GOOD_LINE, "csv": HEADER.encode(), "txt": b"A dog barks.\n"}[suffix]
    message = complaint(write(f"mine.{suffix}", first + b"J\xfcrgen lives up north.\n"))
    assert "line 2: byte 2 isn't UTF-8" in message


def test_utf16_is_refused_as_not_utf8(write):
    assert "UTF-8" in complaint(write("mine.txt", "A dog barks.\n".encode("utf-16")))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_a_nul_byte_names_the_line(write, suffix):
    first = {"jsonl": GOOD_LINE, "csv": HEADER.encode(), "txt": b"A dog barks.\n"}[suffix]
    message = complaint(write(f"mine.{suffix}", first + b"A do\0g barks.\n"))
    assert "line 2: holds a NUL byte" in message


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt"])
def test_a_line_of_10_megabytes_is_refused_without_reading_it_all(write, suffix):
    path = write(f"mine.{suffix}", b"a " * 5_000_000)
    tracemalloc.start()
    try:
        message = complaint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "line 1: longer than 1 MB" in message
    assert peak < 4 * MAX_LINE_BYTES


def test_a_line_of_almost_1_megabyte_is_read(write):
    record = line(notes="n" * (MAX_LINE_BYTES - 1000))
    assert read_facts(write("mine.jsonl", record)) == [CITY]


def test_a_missing_file_is_told(tmp_path):
    assert "there is no such file" in complaint(tmp_path / "none.jsonl")


def test_a_directory_is_told_even_when_named_like_a_file(tmp_path):
    (tmp_path / "facts.csv").mkdir()
    assert "is a directory" in complaint(tmp_path / "facts.csv")


def test_a_file_that_cannot_be_opened_is_told(tmp_path):
    assert "can't be read" in complaint(tmp_path / ("n" * 300 + ".txt"))


@pytest.mark.parametrize("name", ["mine.docx", "mine", "mine.xlsx"])
def test_an_unknown_suffix_names_the_known_ones(write, name):
    message = complaint(write(name, GOOD_LINE))
    assert all(suffix in message for suffix in (".jsonl", ".csv", ".txt"))


def test_a_file_name_with_a_line_break_still_gives_one_line(tmp_path):
    with pytest.raises(FactsError, match="my facts"):
        read_facts(tmp_path / "my\nfacts.csv")


# check_paraphrases ------------------------------------------------------------------------------------


def test_single_statements_are_counted_in_a_note():
    note = (
        "a single statement; compare adds others by rule, but 4 or more of your own each make a fact stick better and "
        "be found again"
    )
    assert check_paraphrases([CITY, DOG, CITY]) == f"2 of 3 facts have {note}"
    assert check_paraphrases([CITY, DOG]) == f"1 of 2 facts has {note}"


def test_facts_with_paraphrases_need_no_note():
    assert check_paraphrases([DOG, DOG]) is None
