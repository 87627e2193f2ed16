"""Files as rows: JSON lines, JSON, CSV, TSV and parquet, each row an object as JSON would have it, unchecked.

A list in a cell of a CSV is a JSON list. Rows without any value are left out.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import os
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from smft_lab.facts.files import FactsError, _check_width, _csv_rows, _distinct, _kind, _lines, _text
from smft_lab.facts.signs import QUESTION_ENDS

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
LONGEST_FILE = 200_000_000
"""Bytes of a JSON file, which is held in memory."""
DELIMITERS = ",;\t|"
QUESTION_WORDS = tuple("frage pregunta domanda pergunta вопрос 问题 問題 質問 سؤال".split())
ANSWER_WORDS = tuple("antwort respuesta risposta resposta réponse ответ 答案 回答 答え جواب".split())
HEADS = {
    *QUESTION_WORDS,
    *ANSWER_WORDS,
    *"question questions q query front term prompt instruction problem input answer answers a back definition "
    "response completion output target text ctx goal statements statement".split(),
}
"""Names by which the first line of a table is told from its first row, and its delimiter from the others."""
WHOLE = re.compile(r"\s*[-+]?\d+\.0\s*")  # a whole number of a column with gaps, as pandas writes it
Rows = Iterator[tuple[str, dict]]


class Unusable(Exception):
    """A row that is well formed but of no use; the message is the reason, as it is counted."""


def file_rows(path: Path, suffix: str = "") -> Rows:
    """The rows of a file, each with the place it stands at, for messages.

    Args:
        suffix: What the file is, where its name doesn't say so.

    Raises:
        FactsError: the file can't be read, or isn't in the format that its name says.
    """
    suffix = suffix or path.suffix.lower()
    if os.path.isdir(path):
        raise FactsError(f"{path} is a directory; name a file within it")
    readers: dict[str, Callable[[Path], Rows]] = {
        ".jsonl": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".txt": _txt,
    }
    if suffix not in readers:
        raise FactsError(f"{path}: unknown kind of file; its name must end in {', '.join(SUFFIXES)}")
    yield from readers[suffix](path)


def is_empty(row: dict) -> bool:
    """Whether a row says nothing, as tables have them at their ends."""
    return all(value is None for value in row.values())


def _jsonl(path: Path) -> Rows:
    for line, text in _lines(path):
        if line == 1 and text.lstrip().startswith("["):
            yield from _json(path)
            return
        if text.strip():
            where = f"{path}, line {line}"
            yield where, _object(where, load_json(where, text, "write one whole object a line"))


def _json(path: Path) -> Rows:
    text = whole_text(path)
    if not text.strip():
        return
    first, _, rest = text.lstrip().partition("\n")
    if rest.strip() and _is_object(first):  # lines, under the name of a whole
        yield from _jsonl(path)
        return
    rows = _listed(load_json(str(path), text, "write one list of objects"))
    if not isinstance(rows, list):
        raise FactsError(f"{path}: {_kind(rows)} where a list of objects must stand; write [{{...}}, {{...}}]")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) for text in row):
            row = dict(zip(("question", "answer"), row, strict=True))
        if row is not None:
            yield f"{path}, item {number}", _object(f"{path}, item {number}", row)


def _listed(value: object) -> object:
    """The list in an object that holds one, as {"data": [...]}; an object that is a row, as a list of one."""
    if not isinstance(value, dict):
        return value
    names = {str(name).lower() for name in value}
    lists = [
        entry
        for entry in value.values()
        if isinstance(entry, list) and entry and all(isinstance(e, dict) for e in entry)
    ]
    columns = [entry for entry in value.values() if isinstance(entry, (list, dict))]
    alike = len({(type(entry), len(entry)) for entry in columns}) == 1 and len(columns) == len(value)
    if len(names & HEADS) > 1 and alike and len(columns[0]) > 1:
        return _rows_of_columns(value)
    if value and all(str(name).endswith(QUESTION_ENDS) and isinstance(text, str) for name, text in value.items()):
        return [{"question": name, "answer": text} for name, text in value.items()]
    is_row = len(names & HEADS) > 1 or _turns(value)
    return [value] if is_row else lists[0] if len(lists) == 1 else value


def _rows_of_columns(table: dict) -> list[dict]:
    """The rows of a table that is kept by columns, as lists, or as pandas writes it: {"question": {"0": ...}, ...}."""
    columns = {name: list(entry.values() if isinstance(entry, dict) else entry) for name, entry in table.items()}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _turns(row: dict) -> bool:
    return bool({"messages", "conversations", "conversation", "requested_rewrite"} & set(row))


def _csv(path: Path) -> Rows:
    rows = list(_csv_table(path))
    names = dict.fromkeys(name for _, row in rows for name in row)
    for name in names:
        cells = [row.get(name) for _, row in rows]
        filled = [cell for cell in cells if not isinstance(cell, str) or cell.strip()]
        if len(filled) < len(cells) and all(isinstance(cell, str) and WHOLE.fullmatch(cell) for cell in filled):
            for _, row in rows:
                row[name] = row[name].strip().removesuffix(".0")
    yield from ((where, row) for where, row in rows if any(row.values()))


def _csv_table(path: Path) -> Rows:
    """The rows of a CSV as they are written, empty ones among them."""
    lines, delimiter = _lines(path), "," if path.suffix.lower() != ".tsv" else "\t"
    texts, head = (text + "\n" for _, text in lines), []
    for text in texts:
        head.append(text)
        if text.strip():
            break
    first = head[-1] if head else ""
    if first.lower().startswith("sep="):  # as spreadsheets write it
        delimiter, first = first.strip()[4:5] or "\t", ""
        head = []
    known = {mark: sum(_head(cell) in HEADS for cell in first.split(mark)) for mark in DELIMITERS}
    if max(known.values()) > known.get(delimiter, 0):
        delimiter = max(known, key=lambda mark: known[mark])
    elif not max(known.values()) and first.count("\t") == 1:
        delimiter = "\t"
    elif delimiter not in first:
        delimiter = max(DELIMITERS, key=first.count) if any(mark in first for mark in DELIMITERS) else delimiter
    reader = csv.reader(chain(head, texts), delimiter=delimiter, strict=True)
    header = None
    for line, cells in _csv_rows(path, reader, empty=True):
        where = f"{path}, line {line}"
        if header is None and not any(cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            names = [name.lower() for name in header]
            twice = next((name for name in header if name.lower() in HEADS and names.count(name.lower()) > 1), None)
            if twice:
                raise FactsError(f"{where}, field '{twice}': names two columns; take one out, or name it otherwise")
            asks = delimiter == "\t" or header[0].endswith(QUESTION_ENDS)
            if max(known.values()) or len(cells) != 2 or not asks:
                continue
            header = ["question", "answer"]  # two columns without a head, as trivia files have them
        _check_width(where, cells, header)
        short = [name for name in header[len(cells) :] if name.lower() in HEADS]
        if short and any(cells):
            raise FactsError(f"{where}, field '{short[0]}': is missing; give it")
        row: dict = dict(zip(header, cells, strict=False))
        for name, value in row.items():
            if value and name.lower() in ("answers", "answer") and " | " in value:
                row[name] = value.split(" | ")
            elif value and name.lower() == "answers":
                row[name] = parsed(value) or [value]
        yield where, row


def _head(cell: str) -> str:
    return cell.strip().strip('"').strip().lower()


def _parquet(path: Path) -> Rows:
    import pandas

    try:
        table = pandas.read_parquet(path, dtype_backend="numpy_nullable")  # whole numbers beside gaps stay whole
    except FileNotFoundError:
        raise FactsError(f"{path}: there is no such file; check its name and folder") from None
    except ImportError:
        raise FactsError(f'{path}: parquet files need pyarrow; pip install "smft-lab[data]"') from None
    except Exception as error:  # pyarrow's own errors, of many kinds
        reason = " ".join(str(error).split())[:200]
        raise FactsError(f"{path} can't be read as parquet ({reason}); save it again, or as .jsonl") from None
    for number, row in enumerate(table.to_dict("records"), start=1):
        yield f"{path}, row {number}", {str(name): _plain(value) for name, value in row.items()}


def _txt(path: Path) -> Rows:
    for line, text in _lines(path):
        yield f"{path}, line {line}", {"text": text}


def whole_text(path: Path) -> str:
    """All of a UTF-8 file, which may be one long line.

    Raises:
        FactsError: it can't be read, or is longer than 200 MB.
    """
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise FactsError(f"{path} is longer than 200 MB; part it into smaller files")
    except (OSError, ValueError):
        pass  # as `_lines` will tell
    return "\n".join(text for _, text in _lines(path, LONGEST_FILE))


# Values -------------------------------------------------------------------------------------------------


def load_json(where: str, text: str, advice: str) -> object:
    try:
        return _plain(json.loads(text, object_pairs_hook=_distinct))
    except json.JSONDecodeError as error:
        at = f"{where}, column {error.colno}" if "\n" not in text else f"{where}, line {error.lineno}"
        raise FactsError(f"{at}: broken JSON ({error.msg}); {advice}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; deep nesting
        raise FactsError(f"{where}: JSON that can't be read ({error}); write simple objects") from None


def _object(where: str, row: object) -> dict:
    if not isinstance(row, dict):
        raise FactsError(
            f'{where}: {_kind(row)} where an object must stand; write {{"question": ..., "answers": [...]}}'
        )
    return row


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def string(where: str, value: object) -> str:
    """A text that may be empty; a number is taken as it is written, since an answer such as 42 may be kept as one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15  # 1984.0, of a column with gaps
        value = str(int(value) if whole else value)
    if isinstance(value, str) and not value.strip():
        return ""
    return _text(where, value)


def strings(where: str, value: object) -> list[str]:
    if not isinstance(value, (list, tuple)):
        return [string(where, value)]
    return [string(f"{where}, item {number}", item) for number, item in enumerate(value, start=1)]


def parsed(text: str) -> object:
    """The list or object that a cell spells out, in JSON or as Python prints it; None if it spells none."""
    if text.strip()[:1] not in ("[", "{"):
        return None
    for parse in (json.loads, _printed):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        return value if isinstance(value, (list, dict)) else None
    return None


def _printed(text: str) -> object:
    """What Python prints, in which an array of numpy is a list, even where only blanks part its texts."""
    kinds = (tokenize.NUMBER, tokenize.STRING, tokenize.OP, tokenize.NAME)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type in kinds]
    parts: list[str] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before and before.type == token.type == tokenize.STRING:
            parts.append(",")
        if token.string != "array":
            parts.append(token.string)
        if parts[-4:-1] == [",", "dtype", "="]:
            del parts[-4:]
    return ast.literal_eval(" ".join(parts))


def _plain(value: Any) -> Any:
    """A value of a table as JSON would have it: arrays as lists, and what is missing (nan, NA) as None."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, (bytes, bytearray)):
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:  # a picture or the like
            return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
