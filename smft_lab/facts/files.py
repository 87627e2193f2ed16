"""Reading a person's own facts from a file: JSON lines, CSV or plain text.

- `.jsonl`: one object a line, `{"statements": [...], "question": "...", "answers": [...]}`. A single
  statement or answer may be a plain string; other fields are ignored.
- `.csv`: the columns `statements`, `question` and `answers`; several statements or answers within one
  cell are separated by ` | `.
- `.txt`: one statement a line. The last word is the answer, with the number before it where there is one, and the
  question is what comes before: "Mira's dog is called Biscuit." gives "Complete: Mira's dog is called" and "Biscuit",
  "Annual leave is 28 days." gives "Complete: Annual leave is" and "28 days".

The first two may also have `questions`, other wordings of the question that may be taught, and `two_hop`, questions
that follow from the fact and are never taught, with their answers: `[["Where ...?", "Oslo"], ...]`, or in a CSV
`Where ...? => Oslo | ...`.

Questions with answers in other formats (`smft_lab.facts.public.formats`) and other files (`.json`, `.tsv`, `.parquet`,
`.md`) are read, too; a text of flash cards or of `Q:` and `A:` is recognised by its marks.

Every file is UTF-8. Blank lines are skipped, and blanks around a value are dropped.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import regex

from smft_lab.facts.fact import COMPLETE, Fact
from smft_lab.facts.signs import CLOSING, OPENING, QUESTION_ENDS

FIELDS = ("statements", "question", "answers")
OPTIONAL_FIELDS = ("questions", "two_hop")
LEADS_TO = " => "  # in a CSV, between a two-hop question and its answer
MAX_LINE_BYTES = 1_000_000
"""A longer line is no list of facts, and is refused before all of it is read."""

ENOUGH = 4
"""Statements in different words, for a fact to be found again by a question."""

"""What may stand around a last word without being part of the answer."""


class FactsError(ValueError):
    """A file of facts can't be used; the message is one line: file, line, field, and what to do.

    Examples:
        >>> _ = Path("bad.jsonl").write_text("{}")
        >>> try:
        ...     smft.read_facts("bad.jsonl")
        ... except smft.FactsError as problem:
        ...     print(problem)
        bad.jsonl, line 1, field 'statements': is missing; give it
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # even a file's name may hold a line break


def read_facts(path: str | Path, kind: str | None = None) -> list[Fact]:
    r"""Read all facts of a file, in the file's order; `smft-lab facts FILE` shows what is understood of it.

    Besides the formats above, questions with answers are read in those of `smft_lab.facts.public.formats`; what is
    taught of them are statements by rule.

    Args:
        kind: Which of the formats; by default it is told from the columns, or from the marks in a text.

    Raises:
        FactsError: The file can't be read, isn't in its format, holds no fact, asks the same question
            twice, or gives a question away in its fact's own statements.
        ValueError: There is no such kind.

    Warns:
        UserWarning: Some rows of a file of questions are of no use.

    Examples:
        >>> _ = Path("mine.txt").write_text("Who wrote Hamlet?\tWilliam Shakespeare\n")
        >>> smft.read_facts("mine.txt")[0].answer
        'William Shakespeare'
    """
    from smft_lab.facts.public.datasets import read_own

    read = read_own(path, kind)
    if read.report.skipped:
        warnings.warn(f"{path}: {read.report}", stacklevel=2)
    return read.facts


def record_of(fact: Fact) -> dict:
    """The fields of a fact that say something, as a file of facts has them."""
    return {name: value for name, value in asdict(fact).items() if value and name not in ("subject", "relation")}


def plain_facts(path: Path, kind: str = "facts") -> list[Fact]:
    """The facts of a JSONL or CSV file with statements, or of a text of sentences (kind `lines`).

    A statement given twice within one fact is kept once.

    Raises:
        FactsError: see `read_facts`.
    """
    reader = {".jsonl": _read_jsonl, ".csv": _read_csv}.get(path.suffix.lower(), _read_txt)
    facts, line_of, empty = [], {}, []
    for line, record in reader(path):
        where = f"{path}, line {line}"
        if not any(value not in (None, "", []) for value in record.values()):
            empty.append((where, record))
            continue
        fact = _fact(where, record)
        first = line_of.setdefault(_same(fact.question), line)
        if first != line:
            raise FactsError(
                f"{where}, field 'question': asks the same as line {first} ({_short(fact.question)}); "
                "merge the two into one fact, or take one out"
            )
        facts.append(fact)
    if not facts and empty:
        _fact(*empty[0])  # which says what is missing
    if not facts:
        raise FactsError(f"{path} holds no facts; write at least one")
    return facts


def kind_of_file(path: Path) -> str:
    """What a file is read as: `facts` with statements of their own; `lines`, `cards` or `pairs` of a text; or a suffix,
    such as `.csv`, of rows whose columns are still to be looked at.

    Raises:
        FactsError: the file can't be read, or its name ends in no known suffix.
    """
    from smft_lab.facts.public.texts import kind_of_text
    from smft_lab.facts.rows import HEADS, SUFFIXES

    suffix = path.suffix.lower()
    if os.path.isdir(path):  # unlike Path.is_dir, never raises
        raise FactsError(f"{path} is a directory; name a file of facts within it")
    if suffix not in (*SUFFIXES, ".md"):
        raise FactsError(f"{path}: unknown kind of file; its name must end in {', '.join(SUFFIXES)}")
    if suffix not in (".jsonl", ".csv", ".txt", ".md"):
        return suffix
    first = next((text for _, text in _lines(path) if text.strip()), "").lstrip()
    if suffix in (".txt", ".md"):
        if first.startswith(("{", "[{")) and not first.startswith(("{{", "{\\rtf")):
            return ".jsonl"
        cells = {cell.strip().strip('"').lower() for cell in re.split("[,;]", first)}
        return ".csv" if len(cells & HEADS) > 1 else kind_of_text(path)
    if suffix == ".csv":
        return "facts" if not first or "statement" in first.lower() else suffix
    try:
        record = json.loads(first)
        if record in ({}, None):  # an empty row says nothing of the others
            full = (text for _, text in _lines(path) if text.strip() and text.strip() not in ("{}", "null"))
            record = json.loads(next(full, "{}"))
    except (ValueError, RecursionError):
        return ".json" if first.startswith("[") else "facts"
    if first.startswith("[{"):
        return ".json"
    return "facts" if not isinstance(record, dict) or "statements" in record or not record else suffix


def check_paraphrases(facts: list[Fact]) -> str | None:
    """A one-line note when some facts have a single statement; None when all have more."""
    single = sum(len(fact.statements) == 1 for fact in facts)
    if not single:
        return None
    return (
        f"{single} of {len(facts)} facts {'has' if single == 1 else 'have'} a single statement; compare adds others by "
        f"rule, but {ENOUGH} or more of your own each make a fact stick better and be found again"
    )


# The three formats: each gives a fact's first line and its fields, unchecked. -------------------------


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for line, text in _lines(path):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        try:
            record = json.loads(text, object_pairs_hook=_distinct)
        except json.JSONDecodeError as error:
            raise FactsError(
                f"{where}, column {error.colno}: broken JSON ({error.msg}); write one whole object a line"
            ) from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; deep nesting
            raise FactsError(f"{where}: JSON that can't be read ({error}); write a simple object") from None
        if not isinstance(record, dict):
            raise FactsError(
                f"{where}: {_kind(record)} where an object must stand; "
                'write {"statements": [...], "question": "...", "answers": [...]}'
            )
        yield line, record


def _distinct(pairs: list[tuple[str, object]]) -> dict:
    """The object of a JSON text, of whose names none stands twice for different values."""
    record = dict(pairs)
    for name, value in pairs:
        if record[name] is not value and record[name] != value:
            raise ValueError(f"the name {_short(name)} stands twice")
    return record


def _read_csv(path: Path) -> Iterator[tuple[int, dict]]:
    # strict, because otherwise a quote that is never closed swallows the rest of the file in silence.
    reader = csv.reader((text + "\n" for _, text in _lines(path)), strict=True)
    header = None
    for line, row in _csv_rows(path, reader):
        where = f"{path}, line {line}"
        if header is None:
            header = [cell.strip().lower() for cell in row]
            missing = [field for field in FIELDS if header.count(field) != 1]
            if missing:
                raise FactsError(
                    f"{where}, field '{missing[0]}': must be the name of one column; "
                    "start the file with the line statements,question,answers (separated by commas)"
                )
            continue
        _check_width(where, row, header)
        record: dict = dict(zip(header, row, strict=False))  # a short row lacks fields, which _fact tells
        for field in ("statements", "answers"):
            if field in record:
                record[field] = record[field].split(" | ")
        for field in OPTIONAL_FIELDS:
            if header.count(field) > 1:
                raise FactsError(f"{path}, field '{field}': names two columns; take one out")
            if field in record:
                record[field] = record[field].split(" | ") if record[field].strip() else []
        if "two_hop" in record:
            record["two_hop"] = [line.split(LEADS_TO) for line in record["two_hop"]]
        yield line, record


def _csv_rows(path: Path, reader, empty: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV reader that are not blank, each with the line where it starts: a cell may hold line breaks.

    Args:
        empty: Whether to give rows of blank cells, too; never a blank line.
    """
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FactsError(f"{path}, line {line}: broken CSV ({error}); check the quotes of this row") from None
        if any(cell.strip() for cell in row) or (empty and len(row) > 1):
            yield line, row


def _check_width(where: str, row: list[str], header: list[str]) -> None:
    if len(row) > len(header):
        raise FactsError(f"{where}: {len(row)} cells for {len(header)} columns; put quotes around a cell with a comma")


def _read_txt(path: Path) -> Iterator[tuple[int, dict]]:
    from smft_lab.facts.answers import UNSPACED
    from smft_lab.facts.public.texts import CLOZE, plain_lines

    for line, text in plain_lines(path):
        where = f"{path}, line {line}"
        if blanks := list(CLOZE.finditer(text)):
            last = blanks[-1]
            beginning = CLOZE.sub(r"\1", text[: last.start()]).strip()
            if not beginning or text[last.end() :].strip(CLOSING + " "):
                raise FactsError(
                    f"{where}: the blank {_short(last[0])} isn't at the end of its sentence; put it there, or write "
                    "question, tab and answer on the line"
                )
            yield line, {"statements": CLOZE.sub(r"\1", text), "question": f"{COMPLETE}{beginning}", "answers": last[1]}
            continue
        if gap := re.search(r"_{3,}", text):
            filled = re.fullmatch(r"(.*[^\s_])\s*_{3,}\s*[.!]?\s*(?:\(([^()]+)\)|[-–—=>:]+\s*(\S.*))[.\s]*", text)
            if not filled or "___" in filled[1]:
                raise FactsError(
                    f"{where}: what fills the gap {gap[0]} isn't said, or the gap isn't at the end of its sentence; "
                    "write question, tab and answer on the line"
                )
            answer = (filled[2] or filled[3]).strip()
            yield line, {"statements": f"{filled[1]} {answer}.", "question": COMPLETE + filled[1], "answers": answer}
            continue
        if note := re.search(r"\s(\[\d{1,3}\])[.,;:!?\s]*$", text):
            raise FactsError(
                f"{where}: {note[1]} isn't its answer but the mark of a note; take it out, or write question, tab and "
                "answer on the line"
            )
        if text.rstrip().endswith(QUESTION_ENDS):
            raise FactsError(
                f"{where}: {_short(text)} is a question without an answer; write Q: before it and A: before its answer "
                "on the next line, or question, tab and answer on one"
            )
        beginning, *last_word = text.strip().rsplit(maxsplit=1)
        if not last_word and regex.search(f"[{UNSPACED}]", text):
            raise FactsError(
                f"{where}: {_short(beginning)} has no blank before its last word, which is then the answer; "
                "write question, tab and answer on the line, or give question and answers in a .jsonl file"
            )
        if not last_word:
            raise FactsError(
                f"{where}, field 'statements': {_short(beginning)} is a single word; "
                "write a sentence that ends in the answer, or give question and answers in a .jsonl file"
            )
        before, *number = beginning.rsplit(maxsplit=1)
        if number and re.fullmatch(r"[-+]?[\d.,]*\d", number[0]) and last_word[0][:1].isalpha():
            beginning, last_word = before, [f"{number[0]} {last_word[0]}"]
        answer = last_word[0].lstrip(OPENING).rstrip(CLOSING)
        if not answer:
            raise FactsError(
                f"{where}, field 'answers': the last word, {_short(last_word[0])}, is punctuation alone; "
                "end the sentence in the answer"
            )
        yield line, {"statements": text, "question": f"{COMPLETE}{beginning}", "answers": answer}


# What all formats share. ------------------------------------------------------------------------------


def _lines(path: Path, longest: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """The file's lines, numbered from 1, without their ends (LF, CR LF or CR); never holds more than one line.

    Args:
        longest: Bytes in a line; a longer one is refused before all of it is read.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(_raw_lines(file, f"{path}", longest), start=1):
                where = f"{path}, line {number}"
                if b"\0" in raw:
                    raise FactsError(f"{where}: holds a NUL byte, so it isn't UTF-8 text; save it as UTF-8")
                if number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise FactsError(
                        f"{where}: byte {error.start + 1} isn't UTF-8 text; save the file as UTF-8"
                    ) from None
                yield number, text
    except FileNotFoundError:
        raise FactsError(f"{path}: there is no such file; check its name and folder") from None
    except OSError as error:
        raise FactsError(f"{path} can't be read ({error.strerror}); name a file that can") from None


def _raw_lines(file: BinaryIO, name: str, longest: int) -> Iterator[bytes]:
    number = 1
    while raw := file.readline(longest + 1):
        if len(raw) > longest:
            size = f"{longest // 1_000_000} MB"
            raise FactsError(f"{name}, line {number}: longer than {size}; write each fact on a line of its own")
        for line in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
            yield line
            number += 1


def _fact(where: str, record: dict) -> Fact:
    statements = _texts(where, "statements", record)
    question = _text(f"{where}, field 'question'", record.get("question"))
    answers = _texts(where, "answers", record)

    questions = _texts(where, "questions", record) if record.get("questions") not in (None, [], "") else ()
    two_hop = _two_hop(where, record)

    asked = _same(question)
    for statement in statements:
        plain = _same(statement)
        # Without a question mark the question may be the statement's own beginning, left to complete.
        if plain == asked or (asked.endswith(QUESTION_ENDS) and asked in plain):
            raise FactsError(
                f"{where}, field 'question': stands in the statement {_short(statement)}, "
                "so the test would be taught; take the question out of the statement"
            )
    taught = {_same(question) for question in questions}
    for field, tested in (("question", [question]), ("two_hop", [pair[0] for pair in two_hop])):
        for candidate in tested:
            if _same(candidate) in taught:
                raise FactsError(
                    f"{where}, field '{field}': {_short(candidate)} is also among the questions that may be taught, "
                    "so the test would be taught; word one of the two otherwise"
                )
    return Fact(
        statements, question, answers, questions=questions, two_hop=two_hop, public=record.get("public") is True
    )


def _two_hop(where: str, record: dict) -> tuple[tuple[str, str], ...]:
    where = f"{where}, field 'two_hop'"
    pairs = record.get("two_hop") or []
    if isinstance(pairs, list) and len(pairs) == 2 and all(isinstance(side, str) for side in pairs):
        pairs = [pairs]  # a single one
    if not isinstance(pairs, list):
        raise FactsError(f'{where}: is {_kind(pairs)} where a list must stand; write [["question", "answer"], ...]')
    read = []
    for number, pair in enumerate(pairs, 1):
        if isinstance(pair, dict):
            pair = [pair.get("question"), pair.get("answer")]
        if not isinstance(pair, list) or len(pair) != 2:
            raise FactsError(
                f"{where}, item {number}: is no question with its answer; write "
                f'["question", "answer"], or in a CSV question{LEADS_TO}answer'
            )
        read.append(tuple(_text(f"{where}, item {number}", text) for text in pair))
    return tuple(dict.fromkeys(read))


def _texts(where: str, field: str, record: dict) -> tuple[str, ...]:
    """The distinct strings of a field that holds a list of strings or a single one."""
    where = f"{where}, field '{field}'"
    values = record.get(field)
    if not isinstance(values, list):
        values = [values]
    if not values:
        raise FactsError(f"{where}: is an empty list; give at least one")
    if len(values) == 1:
        return (_text(where, values[0]),)
    return tuple(dict.fromkeys(_text(f"{where}, item {n}", value) for n, value in enumerate(values, 1)))


def _text(where: str, value: object) -> str:
    if value is None:
        raise FactsError(f"{where}: is missing; give it")
    if not isinstance(value, str):
        raise FactsError(f"{where}: is {_kind(value)} where text must stand; write it in double quotes")
    if not value.strip():
        raise FactsError(f"{where}: is empty; fill it in")
    # JSON can spell both of these out; no tokenizer takes the second one.
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise FactsError(f"{where}: holds a \\u escape that is no character; take it out")
    return value.strip()


def _same(text: str) -> str:
    """Equal for texts that differ in nothing but case and space."""
    return " ".join(text.casefold().split())


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _kind(value: object) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
