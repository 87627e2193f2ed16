"""Public question sets as facts and probes, from the Hugging Face hub or from local files in the same schemas.

| kind | columns | gives |
|---|---|---|
| triviaqa | `question`, `answer` {`value`, `aliases`} | facts |
| nq_open | `question`, `answer` [...] | facts |
| simpleqa | `problem`, `answer` | facts |
| popqa | `question`, `possible_answers` (a JSON list), `obj` | facts |
| gsm8k | `question`, `answer` that ends in "#### 42" | questions |
| hellaswag | `ctx`, `endings`, `label` | choices |
| arc | `question`, `choices` {`text`, `label`}, `answerKey` | choices |
| piqa | `goal`, `sol1`, `sol2`, `label` | choices |
| wikitext | `text` | passages |

A local file may also have the plain columns `question` and `answers`, with `solution` for gsm8k and with `choices`, the
right one as answer, for hellaswag. Files are `.jsonl`, `.json` (a list of objects), `.csv`, `.parquet`, and `.txt` for
wikitext. In a CSV a list is a JSON list, or its values are separated by ` | `.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from random import Random

from smft_lab.facts.fact import Fact
from smft_lab.facts.files import FactsError, _fact, _kind, _lines, _same, _short, _text
from smft_lab.facts.paraphraser import load_paraphraser, paraphrases
from smft_lab.facts.questions import (
    rewordings,
    statements_from,
    tidy_answer,
    tidy_question,
)

HUB = {  # kind -> repository, configuration, split
    "triviaqa": ("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
    "nq_open": ("google-research-datasets/nq_open", None, "validation"),
    "simpleqa": ("basicv8vc/SimpleQA", None, "test"),
    "popqa": ("akariasai/PopQA", None, "test"),
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "arc": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "piqa": ("baber/piqa", None, "validation"),
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
}
KINDS = tuple(HUB)
CHOICE_KINDS = ("hellaswag", "arc", "piqa")
FACT_KINDS = ("triviaqa", "nq_open", "simpleqa", "popqa")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
LONGEST_ANSWER = 8  # words; a longer one is rarely said word for word, so exact match can't tell whether it is known
LONGEST_QUESTION = 60  # words
SHORTEST_PASSAGE = 8  # words


@dataclass(frozen=True)
class Question:
    """A question to be tested with, `solution` being the worked way to its answer."""

    question: str
    answers: tuple[str, ...]
    solution: str = ""


@dataclass(frozen=True)
class Choice:
    """A text and its possible endings, of which number `label` is right."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Report:
    """How many rows there were, how many are used, and why others are not; `str` says it in one line."""

    rows: int
    used: int
    skipped: dict[str, int] = field(default_factory=dict)
    unit: str = "rows"

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
        return f"used {self.used:,} of {self.rows:,} {self.unit}" + (f"; skipped {reasons}" if reasons else "")


@dataclass(frozen=True)
class Dataset:
    """What `read_dataset` gives: one of the four lists is filled, by the kind."""

    kind: str
    report: Report
    facts: list[Fact] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)


class _Skip(Exception):
    """A row that is well formed but of no use; the message is the reason, as it is counted."""


def read_dataset(
    name_or_path: str | Path,
    kind: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    paraphraser=None,
    *,
    statements: int = 16,
) -> Dataset:
    """Read a question set, or a corpus for probes, from a local file or the Hugging Face hub.

    Args:
        name_or_path: A local file; one of `KINDS`, which is then fetched from its usual place on the hub; or a hub
            name "owner/name", or "owner/name:configuration".
        kind: One of `KINDS`; by default it is told from the columns.
        split: Of a hub data set; its test or validation split by default.
        limit: The most rows to use, drawn by `seed` and kept in their order; all by default.
        paraphraser: None for statements by rule. A Hugging Face id or a pair (model, tokenizer) adds its rewordings of
            the first statement; see `smft_lab.facts.paraphraser.paraphrases`.
        statements: The most statements of a fact.

    Returns:
        The facts, questions, choices or passages, with a report of the rows used and skipped.

    Raises:
        FactsError: the file or data set can't be read, a row breaks its schema, or no row is of use.
        ValueError: an argument is out of range.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(KINDS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if statements < 4:
        raise ValueError(f"statements must be at least 4, not {statements}")
    source, rows = _rows(name_or_path, kind, split)
    if source.startswith(tuple(f"{repo}, " for repo, _, _ in HUB.values())):
        kind = kind or next(one for one in KINDS if source.startswith(f"{HUB[one][0]}, "))
    if not rows:
        raise FactsError(f"{source} holds no rows; give a file with at least one")
    kind = kind or _kind_of(rows[0][1], source)
    if isinstance(paraphraser, str) and kind in FACT_KINDS:
        paraphraser = load_paraphraser(paraphraser)

    chosen: list[tuple[int, object]] = []
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    order = range(len(rows)) if limit is None else Random(f"{seed}/rows").sample(range(len(rows)), len(rows))
    for number, i in enumerate(order):
        if limit is not None and len(chosen) == limit:
            skipped[f"beyond the limit of {limit:,}"] = len(rows) - number
            break
        where, row = rows[i]
        try:
            item = _ITEMS[kind](where, row)
            key = _same(item if isinstance(item, str) else item.context if isinstance(item, Choice) else item.question)
            if key in seen:
                raise _Skip("given twice" if kind in ("wikitext", "hellaswag") else "asked twice")
            seen.add(key)
            if kind in FACT_KINDS:
                item = _as_fact(where, item, statements, paraphraser, seed)
        except _Skip as reason:
            skipped[str(reason)] += 1
            continue
        chosen.append((i, item))
    report = Report(len(rows), len(chosen), dict(skipped))
    if not chosen:
        raise FactsError(f"{source}: no row is of use ({report}); check the kind ({kind}) and the columns")
    items = [item for _, item in sorted(chosen, key=lambda pair: pair[0])]
    places = {"gsm8k": "questions", "wikitext": "passages"} | dict.fromkeys(CHOICE_KINDS, "choices")
    place = places.get(kind, "facts")
    return Dataset(kind, report, **{place: items})


def _as_fact(where: str, item: Question, how_many: int, paraphraser, seed: int) -> Fact:
    question, answers = item.question, item.answers
    if _same(question) in _same(answers[0]):
        raise _Skip("with the question in the answer")
    texts = statements_from(question, answers[0], how_many)
    if paraphraser is not None:
        told = paraphrases(texts[0], answers[0], paraphraser, how_many // 2, question=question, seed=seed)
        texts = list(dict.fromkeys([texts[0], *told, *texts[1:]]))[:how_many]
    # The check that a person's own file must pass, too: the question is in none of its statements.
    fields = {"statements": texts, "question": question, "answers": list(answers)}
    return _fact(where, fields | {"questions": rewordings(question, answers[0])})


# Rows into items: each raises FactsError for a broken row and _Skip for one of no use. -------------------


def _asked(where: str, row: dict, *fields: str) -> Question:
    name = next((one for one in ("question", "problem") if one in row), "question")
    question = tidy_question(_string(f"{where}, field '{name}'", row.get(name)))
    if not question.strip("?？. "):
        raise _Skip("without a question")
    if len(question.split()) > LONGEST_QUESTION:
        raise _Skip(f"with questions longer than {LONGEST_QUESTION} words")
    name = next((one for one in (*fields, "answers") if row.get(one) is not None), None)
    if name is None:
        raise FactsError(f"{where}, field '{fields[0]}': is missing; give it")
    found = [tidy_answer(one) for one in _answers(f"{where}, field '{name}'", row[name])]
    first = row.get("obj") if name == "possible_answers" else None  # of popqa: the name among the aliases
    if isinstance(first, str) and first.strip():
        found = [tidy_answer(first), *found]
    distinct: dict[str, str] = {}
    for one in found:
        if one.strip(" .,;:!?\"'"):
            distinct.setdefault(_same(one), one)
    found = list(distinct.values())
    if not found:
        raise _Skip("without an answer")
    answers = found if isinstance(row[name], dict) or first else _best_first(found)
    if len(answers[0].split()) > LONGEST_ANSWER:
        raise _Skip(f"with answers longer than {LONGEST_ANSWER} words")
    return Question(question, tuple(answers))


def _answers(where: str, value: object) -> list[str]:
    """The answers in any of the schemas, the canonical one first."""
    if isinstance(value, dict):  # triviaqa
        aliases = value.get("aliases")
        first = [value["value"]] if value.get("value") is not None else []
        where = where.removesuffix("'")
        return [*_strings(f"{where}.value'", first), *_strings(f"{where}.aliases'", aliases or [])]
    if isinstance(value, str):
        parsed = _parsed(value) if value.lstrip()[:1] in ("[", "{") else None
        if isinstance(parsed, (list, dict)):
            return _answers(where, parsed)
        return [_string(where, value)]
    return _strings(where, value)


def _best_first(answers: list[str]) -> list[str]:
    """The answers with the most typical one first, where many are aliases of one thing: the one most others contain.

    A list without a canonical answer, such as TriviaQA's aliases, may begin with "Orangeish black" for "Red".
    """
    if len(answers) < 4:
        return answers
    plain = [f" {words} " for words in (" ".join(re.findall(r"\w+", one.casefold())) for one in answers)]
    held = [sum(mine in other for other in plain) if mine.strip() else 0 for mine in plain]
    best = max(range(len(answers)), key=lambda i: (held[i], -i))
    if held[best] < 3:
        return answers
    return [answers[best], *answers[:best], *answers[best + 1 :]]


def _popqa(where: str, row: dict) -> Question:
    value = row.get("possible_answers")
    if isinstance(value, str) and not isinstance(_parsed(value), list):
        raise FactsError(
            f'{where}, field \'possible_answers\': {_short(value)} is no JSON list; write ["first", "second"]'
        )
    return _asked(where, row, "possible_answers", "answer")


def _gsm8k(where: str, row: dict) -> Question:
    question = " ".join(_string(f"{where}, field 'question'", row.get("question")).split())
    if not question:
        raise _Skip("without a question")
    name = "answer" if row.get("answer") is not None else "solution"
    if name == "solution" and row.get("solution") is None:
        raise FactsError(f"{where}, field 'answer': is missing; give a solution that ends in #### and the number")
    solution = _string(f"{where}, field '{name}'", row[name]).strip()
    said, mark, number = solution.rpartition("####")
    if not mark or not number.strip():
        raise FactsError(f"{where}, field '{name}': has no #### before its result; end it in, for example, #### 42")
    number = " ".join(number.split())
    answers = dict.fromkeys([number.replace(",", ""), number])
    return Question(question, tuple(answers), said.strip())


def _hellaswag(where: str, row: dict) -> Choice:
    names = [one for one in ("ctx", "question") if row.get(one) is not None]
    context = _string(f"{where}, field 'ctx'", row[names[0]] if names else None).strip()
    name = "endings" if "endings" in row else "choices"
    value = row.get(name)
    parsed = _parsed(value) if isinstance(value, str) else value
    if isinstance(value, str) and not isinstance(parsed, list):
        parsed = value.split(" | ")
    endings = _strings(f"{where}, field '{name}'", parsed)
    if len(endings) < 2:
        raise FactsError(f"{where}, field '{name}': holds fewer than two endings; give all of them")
    if not context:
        raise _Skip("without a context")
    label = row.get("label")
    if label is None and row.get("answers") is not None:
        right = _answers(f"{where}, field 'answers'", row["answers"])
        if not right or right[0] not in endings:
            raise FactsError(f"{where}, field 'answers': is none of the choices; copy the right one")
        return Choice(context, tuple(endings), endings.index(right[0]))
    if label is None or label in ("", -1, "-1"):
        raise _Skip("without a label")
    number = str(label).strip().removesuffix(".0")
    if isinstance(label, bool) or not re.fullmatch(r"[0-9]{1,3}", number) or int(number) >= len(endings):
        raise FactsError(
            f"{where}, field 'label': {_short(str(label))} is not the number of an ending; "
            f"give one from 0 to {len(endings) - 1}"
        )
    return Choice(context, tuple(endings), int(number))


def _arc(where: str, row: dict) -> Choice:
    choices = row.get("choices")
    choices = _parsed(choices) if isinstance(choices, str) else choices
    if not isinstance(choices, dict):
        raise FactsError(f'{where}, field \'choices\': must be an object; write {{"text": [...], "label": [...]}}')
    names = [one.strip() for one in _strings(f"{where}, field 'choices.label'", choices.get("label"))]
    key = _string(f"{where}, field 'answerKey'", row.get("answerKey")).strip()
    if key not in names:
        raise FactsError(f"{where}, field 'answerKey': {_short(key)} is the label of no choice; give one of its labels")
    plain = {"ctx": row.get("question"), "endings": choices.get("text"), "label": names.index(key)}
    return _hellaswag(where, plain)


def _piqa(where: str, row: dict) -> Choice:
    endings = [_string(f"{where}, field '{name}'", row.get(name)) for name in ("sol1", "sol2")]
    return _hellaswag(where, {"ctx": row.get("goal"), "endings": endings, "label": row.get("label")})


def _wikitext(where: str, row: dict) -> str:
    text = _string(f"{where}, field 'text'", row.get("text")).strip()
    if not text:
        raise _Skip("empty lines")
    if re.fullmatch(r"(= )+.+( =)+", text):
        raise _Skip("headings")
    if len(text.split()) < SHORTEST_PASSAGE:
        raise _Skip(f"with fewer than {SHORTEST_PASSAGE} words")
    return text


_ITEMS = {
    "triviaqa": lambda where, row: _asked(where, row, "answer"),
    "nq_open": lambda where, row: _asked(where, row, "answer"),
    "simpleqa": lambda where, row: _asked(where, row, "answer"),
    "popqa": _popqa,
    "gsm8k": _gsm8k,
    "hellaswag": _hellaswag,
    "arc": _arc,
    "piqa": _piqa,
    "wikitext": _wikitext,
}


def _kind_of(row: dict, source: str) -> str:
    """The kind whose columns the first row has."""
    if "possible_answers" in row:
        return "popqa"
    if "answerKey" in row:
        return "arc"
    if "goal" in row and "sol1" in row:
        return "piqa"
    if "endings" in row or "choices" in row:
        return "hellaswag"
    if "solution" in row or ("question" in row and "####" in str(row.get("answer"))):
        return "gsm8k"
    if "problem" in row:
        return "simpleqa"
    if "question" in row and ("answer" in row or "answers" in row):
        answer = row.get("answer")
        if isinstance(answer, dict) or (isinstance(answer, str) and isinstance(_parsed(answer), dict)):
            return "triviaqa"
        named = re.sub(r"[^a-z]", "", Path(source).name.lower())  # the plain columns serve several
        return next((kind for kind in FACT_KINDS if kind.replace("_", "") in named), "nq_open")
    if "text" in row:
        return "wikitext"
    have = ", ".join(map(str, list(row)[:8])) or "none"
    raise FactsError(
        f"{source}: its columns ({have}) are those of no known kind; give kind=, or the columns question and answers"
    )


# Where rows come from: each gives (where, row) pairs, the row unchecked but for being an object. ---------


def _rows(name_or_path: str | Path, kind: str | None, split: str | None) -> tuple[str, list[tuple[str, dict]]]:
    name = str(name_or_path)
    suffix = os.path.splitext(name)[1].lower()
    if "\0" in name:
        raise FactsError(f"{name!r} is no file name; give a path or the name of a data set")
    there = os.path.exists(name)
    local = isinstance(name_or_path, Path) or there or suffix in SUFFIXES or name.startswith((".", "/", "~"))
    if not local:
        return _from_hub(name, split)
    path = Path(name)
    if os.path.isdir(path):
        raise FactsError(f"{path} is a directory; name a file within it")
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".txt": _txt}
    if suffix not in readers:
        raise FactsError(f"{path}: unknown kind of file; its name must end in {', '.join(SUFFIXES)}")
    if suffix == ".txt" and kind not in (None, "wikitext"):
        raise FactsError(f"{path}: a .txt file is read as wikitext, not as {kind}; save the rows as .jsonl")
    return name, list(readers[suffix](path))


def _from_hub(name: str, split: str | None) -> tuple[str, list[tuple[str, dict]]]:
    try:
        import datasets
    except ImportError:
        raise FactsError(
            f"{name}: data sets of the hub need the package datasets; "
            'pip install "smft-lab[data]", or save the data as a file and give its path'
        ) from None
    repository, configuration, usual = HUB.get(name, (*(name.split(":", 1) + [None])[:2], None))
    if usual is None:
        usual = next((one for repo, _, one in HUB.values() if repo.lower() == repository.lower()), "test")
    split = split or usual
    source = f"{repository}, split {split}"
    try:
        table = datasets.load_dataset(repository, configuration, split=split)
        return source, [(f"{source}, row {number}", dict(row)) for number, row in enumerate(table, start=1)]
    except Exception as error:  # of many kinds: no network, no such data set, no such split, one that needs own code
        reason = " ".join(str(error).split())[:200]
        raise FactsError(
            f"{source}: can't be loaded from the hub ({type(error).__name__}: {reason}); "
            "without a network, save it as a .jsonl or .parquet file and give its path"
        ) from None


def _jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    for line, text in _lines(path):
        if text.strip():
            where = f"{path}, line {line}"
            yield where, _object(where, _load(where, text, "write one whole object a line"))


def _json(path: Path) -> Iterator[tuple[str, dict]]:
    text = "\n".join(text for _, text in _lines(path))
    if not text.strip():
        return
    rows = _load(str(path), text, "write one list of objects")
    if not isinstance(rows, list):
        raise FactsError(f"{path}: {_kind(rows)} where a list of objects must stand; write [{{...}}, {{...}}]")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, item {number}", _object(f"{path}, item {number}", row)


def _csv(path: Path) -> Iterator[tuple[str, dict]]:
    reader = csv.reader((text + "\n" for _, text in _lines(path)), strict=True)
    header = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FactsError(f"{where}: broken CSV ({error}); check the quotes of this row") from None
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            continue
        if len(cells) > len(header):
            raise FactsError(
                f"{where}: {len(cells)} cells for {len(header)} columns; put quotes around a cell with a comma"
            )
        row = dict(zip_longest(header, cells))  # a short row lacks fields, as its kind will tell
        if row.get("answers"):
            row["answers"] = _parsed(row["answers"]) or row["answers"].split(" | ")
        yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, dict]]:
    import pandas

    try:
        table = pandas.read_parquet(path)
    except FileNotFoundError:
        raise FactsError(f"{path}: there is no such file; check its name and folder") from None
    except ImportError:
        raise FactsError(f'{path}: parquet files need pyarrow; pip install "smft-lab[data]"') from None
    except Exception as error:  # pyarrow's own errors, of many kinds
        reason = " ".join(str(error).split())[:200]
        raise FactsError(f"{path} can't be read as parquet ({reason}); save it again, or as .jsonl") from None
    for number, row in enumerate(table.to_dict("records"), start=1):
        yield f"{path}, row {number}", {str(name): _plain(value) for name, value in row.items()}


def _txt(path: Path) -> Iterator[tuple[str, dict]]:
    for line, text in _lines(path):
        yield f"{path}, line {line}", {"text": text}


# Values -------------------------------------------------------------------------------------------------


def _load(where: str, text: str, advice: str) -> object:
    try:
        return json.loads(text)
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


def _string(where: str, value: object) -> str:
    """A text that may be empty; a number is taken as it is written, since an answer such as 42 may be kept as one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if isinstance(value, str) and not value.strip():
        return ""
    return _text(where, value)


def _strings(where: str, value: object) -> list[str]:
    if not isinstance(value, (list, tuple)):
        return [_string(where, value)]
    return [_string(f"{where}, item {number}", one) for number, one in enumerate(value, start=1)]


def _parsed(text: str) -> object:
    """The list or object that a cell spells out, in JSON or as Python prints it; None if it spells none."""
    if text.strip()[:1] not in ("[", "{"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, (list, dict)) else None
    return None


def _plain(value: object) -> object:
    """A value of a pandas table as JSON would have it: arrays as lists, nan as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
