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
right one as answer, for hellaswag. Files are `.jsonl`, `.json` (a list of objects), `.csv`, `.tsv`, `.parquet`, and
`.txt` for wikitext. The formats of `smft_lab.facts.public.formats` are read as well. In a CSV a list is a JSON list, or
its values are separated by ` | `.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from smft_lab.facts.answers import word_count
from smft_lab.facts.fact import Fact, as_tuple
from smft_lab.facts.files import FactsError, _fact, _same, _short, kind_of_file, plain_facts
from smft_lab.facts.paraphraser import load_paraphraser, model_paraphrases
from smft_lab.facts.public.formats import FORMATS, PUBLIC, expanded, kind_of_row, record_of
from smft_lab.facts.public.texts import text_rows
from smft_lab.facts.questions import (
    question_paraphrases,
    statements_from_question,
    tidy_answer,
    tidy_question,
)
from smft_lab.facts.rows import SUFFIXES, Unusable, file_rows, is_empty, parsed, string, strings
from smft_lab.facts.signs import QUESTION_MARKS, STOPS

if TYPE_CHECKING:
    from smft_lab.facts.paraphraser import Paraphraser

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
_NAME_IT = "say what they are: `smft-lab facts FILE --kind KIND`, or kind=, one of " + ", ".join(FORMATS)
_ASKING = "who|whom|whose|what|which|when|where|why|how|in (?:what|which)|is|are|was|were|do|does|did|can|has|have"
LONGEST_ANSWER = 8  # words; a longer one is rarely said word for word, so exact match can't tell whether it is known
LONGEST_QUESTION = 60  # words
SHORTEST_PASSAGE = 8  # words


@dataclass(frozen=True)
class Question:
    """A question to be tested with, `solution` being the worked way to its answer."""

    question: str
    answers: tuple[str, ...]
    solution: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", as_tuple(self.answers))


@dataclass(frozen=True)
class Choice:
    """A text and its possible endings, of which number `label` is right."""

    context: str
    endings: tuple[str, ...]
    label: int

    def __post_init__(self) -> None:
        if isinstance(self.endings, str):
            raise ValueError(f"a choice has a list of endings, not the text {self.endings[:40]!r}")


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


def read_dataset(
    name_or_path: str | Path,
    kind: str | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    paraphraser: Paraphraser | None = None,
    statements: int = 16,
) -> Dataset:
    r"""Read a question set, or a corpus for probes, from a local file or the Hugging Face hub.

    Args:
        name_or_path: A local file; one of `KINDS`, which is then fetched from its usual place on the hub; or a hub
            name "owner/name", or "owner/name:configuration".
        kind: One of `KINDS`; by default it is told from the columns.
        split: Of a hub data set; its test or validation split by default.
        limit: The most rows to use, drawn by `seed` and kept in their order; all by default.
        paraphraser: None for statements by rule. A Hugging Face id or a pair (model, tokenizer) adds its paraphrases of
            the first statement; see `smft_lab.facts.paraphraser.model_paraphrases`.
        statements: The most statements of a fact.

    Returns:
        The facts, questions, choices or passages, with a report of the rows used and skipped.

    Raises:
        FactsError: the file or data set can't be read, a row breaks its schema, or no row is of use.
        ValueError: an argument is out of range.

    Examples:
        >>> _ = Path("qa.jsonl").write_text('{"question": "Who wrote Hamlet?", "answer": "William Shakespeare"}\n')
        >>> smft.read_dataset("qa.jsonl").facts[0].statements[0]
        'The one who wrote Hamlet is William Shakespeare.'
    """
    if kind is not None and kind not in (*KINDS, *FORMATS):
        raise ValueError(f"no kind {kind!r}; there are {', '.join((*KINDS, *FORMATS))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if statements < 4:
        raise ValueError(f"statements must be at least 4, not {statements}")
    source, rows = _rows(name_or_path, kind, split)
    return _dataset(source, rows, kind, limit, seed, paraphraser, statements)


def read_own(
    path: str | Path,
    kind: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    paraphraser: Paraphraser | None = None,
) -> Dataset:
    """The facts of a person's own file, in whichever of `FORMATS` or `KINDS` it is.

    Args:
        kind: One of them; by default it is told from the file: from its columns, or the marks in its text.
        limit, seed, paraphraser: See `read_dataset`.

    Raises:
        FactsError: see `read_dataset`.
        ValueError: there is no such kind.
    """
    if kind is not None and kind not in (*FACT_KINDS, *FORMATS):
        raise ValueError(f"no kind {kind!r} of facts; there are {', '.join((*FORMATS, *FACT_KINDS))}")
    path = Path(path)
    file_kind = kind_of_file(path) if kind is None else kind
    if file_kind == "lines" and path.suffix.lower() not in (".txt", ".md"):
        raise FactsError(f"{path}: sentences are read from a text file; let its name end in .txt, or give another kind")
    if file_kind in ("facts", "lines") and path.suffix.lower() in (".jsonl", ".csv", ".txt", ".md"):
        facts = plain_facts(path, file_kind)
        return Dataset(file_kind, Report(len(facts), len(facts), unit="facts"), facts)
    if file_kind in ("cards", "pairs"):
        rows = list(text_rows(path, file_kind))
    else:
        rows = list(file_rows(path, file_kind if file_kind.startswith(".") else ""))
        file_kind = None if file_kind.startswith(".") else file_kind
    if rows and file_kind is None:
        file_kind = _kind_of(next((row for _, row in rows if not is_empty(row)), {}), str(path), own=True)
    if file_kind not in (*FACT_KINDS, *FORMATS) and rows:
        raise FactsError(f"{path}: holds {file_kind}, no questions with short answers; {_NAME_IT}")
    return _dataset(str(path), rows, file_kind, limit, seed, paraphraser, 16)


def _dataset(
    source: str,
    rows: list,
    kind: str | None,
    limit: int | None,
    seed: int,
    paraphraser: Paraphraser | None,
    statements: int,
) -> Dataset:
    if source.startswith(tuple(f"{repo}, " for repo, _, _ in HUB.values())):
        kind = kind or next(name for name in KINDS if source.startswith(f"{HUB[name][0]}, "))
    full = [(where, row) for where, row in rows if not is_empty(row)]
    empty, rows = len(rows) - len(full), full
    if not rows:
        raise FactsError(f"{source} holds no rows; give a file with at least one")
    kind = kind or _kind_of(rows[0][1], source)
    if kind in FORMATS:
        rows = list(expanded(kind, rows))
    if isinstance(paraphraser, str) and kind in (*FACT_KINDS, *FORMATS):
        paraphraser = load_paraphraser(paraphraser)

    chosen: list[tuple[int, Any]] = []
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    order = range(len(rows)) if limit is None else Random(f"{seed}/rows").sample(range(len(rows)), len(rows))
    for number, i in enumerate(order):
        if limit is not None and len(chosen) == limit:
            skipped[f"beyond the limit of {limit:,}"] = len(rows) - number
            break
        where, row = rows[i]
        try:
            item = _own(kind, where, row) if kind in FORMATS else _ITEMS[kind](where, row)
            key = _same(item if isinstance(item, str) else item.context if isinstance(item, Choice) else item.question)
            if key in seen:
                raise Unusable("given twice" if kind in ("wikitext", "hellaswag") else "asked twice")
            seen.add(key)
            if isinstance(item, Question) and kind != "gsm8k":
                item = _as_fact(where, item, statements, paraphraser, seed, kind in (*FACT_KINDS, *PUBLIC))
        except Unusable as reason:
            skipped[str(reason)] += 1
            continue
        chosen.append((i, item))
    if empty:
        skipped["that are empty"] = empty
    report = Report(len(rows) + empty, len(chosen), dict(skipped))
    if not chosen:
        raise FactsError(f"{source}: no row is of use ({report}); check the kind ({kind}) and the columns")
    items = [item for _, item in sorted(chosen, key=lambda pair: pair[0])]
    places = {"gsm8k": "questions", "wikitext": "passages"} | dict.fromkeys(CHOICE_KINDS, "choices")
    place = places.get(kind, "facts")
    return Dataset(kind, report, **{place: items})


def _own(kind: str, where: str, row: dict) -> Question | Fact:
    """A row of one of `FORMATS`: a fact where it has statements, else a question that is still to be said."""
    record = record_of(kind, where, row)
    if kind == "facts":
        return _fact(where, record)
    question = " ".join(record["question"].split())
    question = tidy_question(question) if re.match(rf"(?:{_ASKING})\b", question, re.IGNORECASE) else question
    answers = tuple(dict.fromkeys(filter(None, map(tidy_answer, record["answers"]))))
    _check_lengths(question, answers)
    if record.get("statements"):
        return _fact(where, {**record, "answers": list(answers)})
    others = tuple(wording for wording in record.get("questions", ()) if _same(wording) != _same(question))
    hops = tuple(tuple(pair) for pair in record.get("two_hop", ()))
    return _Asked(question, answers, questions=others, two_hop=hops)


@dataclass(frozen=True)
class _Asked(Question):
    """A question of a format that has more: other wordings, and what follows from the answer."""

    questions: tuple[str, ...] = ()
    two_hop: tuple[tuple[str, str], ...] = ()


def _as_fact(
    where: str,
    item: Question,
    how_many: int,
    paraphraser: Paraphraser | None,
    seed: int,
    public: bool,
) -> Fact:
    question, answers = item.question, item.answers
    if not answers[0].strip(" ?"):
        raise Unusable("without an answer")
    if _same(question) in _same(answers[0]):
        raise Unusable("with the question in the answer")
    texts = statements_from_question(question, answers[0], how_many)
    if not texts:
        raise Unusable("of which no statement can be made")
    if paraphraser is not None:
        by_model = model_paraphrases(texts[0], answers[0], paraphraser, how_many // 2, question=question, seed=seed)
        texts = list(dict.fromkeys([texts[0], *by_model, *texts[1:]]))[:how_many]
    others = [*getattr(item, "questions", ()), *question_paraphrases(question, answers[0])]
    hops = [list(pair) for pair in getattr(item, "two_hop", ())]
    # The check that a person's own file must pass, too: the question is in none of its statements.
    fields = {"statements": texts, "question": question, "answers": list(answers), "public": public}
    return _fact(where, fields | {"questions": others, "two_hop": hops})


# Rows into items: each raises FactsError for a broken row and Unusable for one of no use. -------------------


def _asked(where: str, row: dict, *fields: str) -> Question:
    name = next((column for column in ("question", "problem") if column in row), "question")
    question = tidy_question(string(f"{where}, field '{name}'", row.get(name)))
    _check_lengths(question, ("x",))
    name = next((column for column in (*fields, "answers") if row.get(column) is not None), None)
    if name is None:
        raise FactsError(f"{where}, field '{fields[0]}': is missing; give it")
    given = [tidy_answer(answer) for answer in _answers(f"{where}, field '{name}'", row[name])]
    first = row.get("obj") if name == "possible_answers" else None  # of popqa: the name among the aliases
    if isinstance(first, str) and first.strip():
        given = [tidy_answer(first), *given]
    distinct: dict[str, str] = {}
    for answer in given:
        if answer.strip(" .,;:!?\"'()[]{}-–—_…"):
            distinct.setdefault(_same(answer), answer)
    given = list(distinct.values())
    answers = tuple(given if isinstance(row[name], dict) or first else _best_first(given))
    _check_lengths(question, answers)
    return Question(question, answers)


def _check_lengths(question: str, answers: Sequence[str]) -> None:
    if not question.strip(f"{QUESTION_MARKS}{STOPS} "):
        raise Unusable("without a question")
    if word_count(question) > LONGEST_QUESTION:
        raise Unusable(f"with questions longer than {LONGEST_QUESTION} words")
    if not answers:
        raise Unusable("without an answer")
    if word_count(answers[0]) > LONGEST_ANSWER:
        raise Unusable(f"with answers longer than {LONGEST_ANSWER} words")


def _answers(where: str, value: object) -> list[str]:
    """The answers in any of the schemas, the canonical one first."""
    if isinstance(value, dict):  # triviaqa
        aliases = value.get("aliases")
        first = [value["value"]] if value.get("value") is not None else []
        where = where.removesuffix("'")
        return [*strings(f"{where}.value'", first), *strings(f"{where}.aliases'", aliases or [])]
    if isinstance(value, str):
        listed = parsed(value) if value.lstrip()[:1] in ("[", "{") else None
        if isinstance(listed, (list, dict)):
            return _answers(where, listed)
        return [string(where, value)]
    return strings(where, value)


def _best_first(answers: list[str]) -> list[str]:
    """The answers with the most typical one first, where many are aliases of one thing: the one most others contain.

    A list without a canonical answer, such as TriviaQA's aliases, may begin with "Orangeish black" for "Red".
    """
    if len(answers) < 4:
        return answers
    plain = [f" {words} " for words in (" ".join(re.findall(r"\w+", answer.casefold())) for answer in answers)]
    held = [sum(words in other for other in plain) if words.strip() else 0 for words in plain]
    best = max(range(len(answers)), key=lambda i: (held[i], -i))
    if held[best] < 3:
        return answers
    return [answers[best], *answers[:best], *answers[best + 1 :]]


def _popqa(where: str, row: dict) -> Question:
    value = row.get("possible_answers")
    if isinstance(value, str) and not isinstance(parsed(value), list):
        raise FactsError(
            f'{where}, field \'possible_answers\': {_short(value)} is no JSON list; write ["first", "second"]'
        )
    return _asked(where, row, "possible_answers", "answer")


def _gsm8k(where: str, row: dict) -> Question:
    question = " ".join(string(f"{where}, field 'question'", row.get("question")).split())
    if not question:
        raise Unusable("without a question")
    name = "answer" if row.get("answer") is not None else "solution"
    if name == "solution" and row.get("solution") is None:
        raise FactsError(f"{where}, field 'answer': is missing; give a solution that ends in #### and the number")
    solution = string(f"{where}, field '{name}'", row[name]).strip()
    reasoning, mark, number = solution.rpartition("####")
    if not mark or not number.strip():
        raise FactsError(f"{where}, field '{name}': has no #### before its result; end it in, for example, #### 42")
    number = " ".join(number.split())
    answers = dict.fromkeys([number.replace(",", ""), number])
    return Question(question, tuple(answers), reasoning.strip())


def _hellaswag(where: str, row: dict) -> Choice:
    names = [column for column in ("ctx", "question") if row.get(column) is not None]
    context = string(f"{where}, field 'ctx'", row[names[0]] if names else None).strip()
    name = "endings" if "endings" in row else "choices"
    value = row.get(name)
    listed = parsed(value) if isinstance(value, str) else value
    if isinstance(value, str) and not isinstance(listed, list):
        listed = value.split(" | ")
    endings = strings(f"{where}, field '{name}'", listed)
    if len(endings) < 2:
        raise FactsError(f"{where}, field '{name}': holds fewer than two endings; give all of them")
    if not context:
        raise Unusable("without a context")
    label = row.get("label")
    if label is None and row.get("answers") is not None:
        right = _answers(f"{where}, field 'answers'", row["answers"])
        if not right or right[0] not in endings:
            raise FactsError(f"{where}, field 'answers': is none of the choices; copy the right one")
        return Choice(context, tuple(endings), endings.index(right[0]))
    if label is None or label in ("", -1, "-1"):
        raise Unusable("without a label")
    number = str(label).strip().removesuffix(".0")
    if isinstance(label, bool) or not re.fullmatch(r"[0-9]{1,3}", number) or int(number) >= len(endings):
        raise FactsError(
            f"{where}, field 'label': {_short(str(label))} is not the number of an ending; "
            f"give one from 0 to {len(endings) - 1}"
        )
    return Choice(context, tuple(endings), int(number))


def _arc(where: str, row: dict) -> Choice:
    choices = row.get("choices")
    choices = parsed(choices) if isinstance(choices, str) else choices
    if not isinstance(choices, dict):
        raise FactsError(f'{where}, field \'choices\': must be an object; write {{"text": [...], "label": [...]}}')
    names = [label.strip() for label in strings(f"{where}, field 'choices.label'", choices.get("label"))]
    key = string(f"{where}, field 'answerKey'", row.get("answerKey")).strip()
    if key not in names:
        raise FactsError(f"{where}, field 'answerKey': {_short(key)} is the label of no choice; give one of its labels")
    plain = {"ctx": row.get("question"), "endings": choices.get("text"), "label": names.index(key)}
    return _hellaswag(where, plain)


def _piqa(where: str, row: dict) -> Choice:
    endings = [string(f"{where}, field '{name}'", row.get(name)) for name in ("sol1", "sol2")]
    return _hellaswag(where, {"ctx": row.get("goal"), "endings": endings, "label": row.get("label")})


def _wikitext(where: str, row: dict) -> str:
    text = string(f"{where}, field 'text'", row.get("text")).strip()
    if not text:
        raise Unusable("empty lines")
    if re.fullmatch(r"(= )+.+( =)+", text):
        raise Unusable("headings")
    if word_count(text) < SHORTEST_PASSAGE:
        raise Unusable(f"with fewer than {SHORTEST_PASSAGE} words")
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


def _kind_of(row: dict, source: str, own: bool = False) -> str:
    """The kind whose columns the first row has.

    Args:
        own: Whether plain columns are a person's own, unless the file is named after a public set.
    """
    other = kind_of_row(row)
    if other == "facts" and own:
        return other
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
    if other not in (None, "facts", "qa"):
        return other
    if "problem" in row:
        return "simpleqa"
    if "question" in row and ("answer" in row or "answers" in row):
        answer = row.get("answer")
        if isinstance(answer, dict) or (isinstance(answer, str) and isinstance(parsed(answer), dict)):
            return "triviaqa"
        named = re.sub(r"[^a-z]", "", Path(source).name.lower())  # the plain columns serve several
        plain = "qa" if own or (isinstance(answer, str) and parsed(answer) is None) else "nq_open"
        return next((kind for kind in FACT_KINDS if kind.replace("_", "") in named), plain)
    if other == "qa":
        return other
    if "text" in row:
        return "wikitext"
    have = ", ".join(map(str, list(row)[:8])) or "none"
    raise FactsError(
        f"{source}: its columns ({have}) are those of no known kind; name two of them question and answer, "
        f"or {_NAME_IT}"
    )


# Where rows come from ------------------------------------------------------------------------------------


def _rows(name_or_path: str | Path, kind: str | None, split: str | None) -> tuple[str, list[tuple[str, dict]]]:
    name = str(name_or_path)
    if "\0" in name:
        raise FactsError(f"{name!r} is no file name; give a path or the name of a data set")
    there, suffix = os.path.exists(name), os.path.splitext(name)[1].lower()
    local = isinstance(name_or_path, Path) or there or suffix in SUFFIXES or name.startswith((".", "/", "~"))
    if not local:
        return _from_hub(name, split)
    path = Path(name)
    if suffix == ".txt" and kind not in (None, "wikitext"):
        if kind in ("cards", "pairs"):
            return name, list(text_rows(path, kind))
        raise FactsError(f"{path}: a .txt file is read as wikitext, not as {kind}; save the rows as .jsonl")
    return name, list(file_rows(path))


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
        usual = next((split for repo, _, split in HUB.values() if repo.lower() == repository.lower()), "test")
    split = split or usual
    source = f"{repository}, split {split}"
    try:
        table = datasets.load_dataset(repository, configuration, split=split)  # pyright: ignore[reportAttributeAccessIssue]
        return source, [(f"{source}, row {number}", dict(row)) for number, row in enumerate(table, start=1)]
    except Exception as error:  # of many kinds: no network, no such data set, no such split, one that needs own code
        reason = " ".join(str(error).split())[:200]
        raise FactsError(
            f"{source}: can't be loaded from the hub ({type(error).__name__}: {reason}); "
            "without a network, save it as a .jsonl or .parquet file and give its path"
        ) from None
