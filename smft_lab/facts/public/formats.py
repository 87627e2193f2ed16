"""Questions with answers in the formats that people have: instructions, chats, question sets, edits, flash cards.

| kind | what a row or a text holds |
|---|---|
| qa | a question and an answer, under any usual name: `Question,Answer`, `term,definition`, `front,back` |
| alpaca | `instruction`, `input`, `output`; or `instruction`, `context`, `response` |
| sharegpt | `conversations` [{`from`, `value`}]; the first exchange |
| messages | `messages` [{`role`, `content`}]; the first exchange |
| prompts | `prompt` and `completion`, `response` or `chosen`; texts, or messages |
| squad | `question`, `answers` {`text`}; or the JSON of SQuAD: `data`, `paragraphs`, `qas` |
| dpr | `question`, `answers` [...], `positive_ctxs` |
| zsre | `src`, `alt`, `rephrase`; or `prompt`, `target_new`, `rephrase_prompt` |
| counterfact | `requested_rewrite` {`prompt` with `{}`, `subject`, `target_new`}, `paraphrase_prompts` |
| mquake | `requested_rewrite` [{..., `question`}], `questions`, `new_answer`, `new_answer_alias` |
| cards | a text file: a question, a tab or another mark, and its answer on each line (Quizlet, Anki); or a table |
| pairs | a text file: `Q: ...` and `A: ...`, or other labels in turn, or headings that ask, and answers below |
| lines | a text file: a sentence on each line, whose last word is the answer |
| facts | `statements`, `question`, `answers`, as `smft_lab.facts.files` describes them |
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable

from smft_lab.facts.fact import COMPLETE
from smft_lab.facts.files import FactsError
from smft_lab.facts.rows import ANSWER_WORDS, QUESTION_WORDS, Rows, Unusable, parsed, strings

FORMATS = (
    "facts",
    "qa",
    "alpaca",
    "sharegpt",
    "messages",
    "prompts",
    "squad",
    "dpr",
    "zsre",
    "counterfact",
    "mquake",
    "cards",
    "pairs",
    "lines",
)
PUBLIC = ("squad", "dpr")  # public question sets, whose answers are compared by SQuAD normalisation
ASKS = (
    *("question", "q", "query", "front", "term", "prompt", "instruction", "problem", "input", "questions", "inputs"),
    *QUESTION_WORDS,
)
TELLS = (
    *("answer", "answers", "a", "back", "definition", "response", "completion", "output", "target", "targets"),
    *("best_answer", "correct_answer", "correct_answers", "ideal", "reply", "correct", "correct_option"),
    *ANSWER_WORDS,
)
ALIASES = ("aliases", "answer_aliases", "answer_alias", "accepted_answers", "alternative_answers", "synonyms")
CHOICES = ("options", "choices")
ANSWER_MARK = "Answer|A|Response|Output|Assistant"  # that ends a prompt
NO_INPUT = re.compile(r"<\s*no ?input\s*>", re.IGNORECASE)  # as files of instructions write an empty one


# Rows ---------------------------------------------------------------------------------------------------


def kind_of_row(row: dict) -> str | None:
    """The format whose columns a row has, whatever their case; None if it is of none here."""
    names = set(_named(row))
    if {"statements", "question", "answers"} <= names:
        return "facts"
    for kind, columns in (
        ("sharegpt", {"conversations"}),
        ("sharegpt", {"conversation"}),
        ("messages", {"messages"}),
        ("squad", {"paragraphs"}),
        ("dpr", {"question", "answers", "positive_ctxs"}),
        ("zsre", {"src", "alt"}),
        ("zsre", {"prompt", "target_new"}),
        ("alpaca", {"instruction", "output"}),
        ("alpaca", {"instruction", "context", "response"}),
    ):
        if columns <= names:
            return kind
    if "requested_rewrite" in names:
        return "mquake" if isinstance(_unpacked(_named(row)["requested_rewrite"]), list) else "counterfact"
    if "question" in names and _is_squad(_named(row).get("answers")):
        return "squad"
    if ("prompt" in names and names & {"completion", "response", "chosen"}) or {"chosen", "rejected"} <= names:
        return "prompts"
    return "qa" if names & set(ASKS) and names & set(TELLS) and _first(row, ASKS) != _first(row, TELLS) else None


def expanded(kind: str, rows: Iterable[tuple[str, dict]]) -> Rows:
    """Rows with one question each, of those that hold several."""
    for where, row in rows:
        row = _named(row)
        if kind == "squad" and "paragraphs" in row:
            for paragraph in _objects(row["paragraphs"]):
                for number, pair in enumerate(_objects(_named(paragraph).get("qas")), start=1):
                    yield f"{where}, question {number}", _named(pair)
        elif kind == "mquake":
            edits = _objects(_unpacked(row.get("requested_rewrite")))
            for edit in edits:
                hops = row if len(edits) == 1 else {}  # or they follow from all edits together
                yield where, {**hops, "requested_rewrite": edit}
        else:
            yield where, row


def record_of(kind: str, where: str, row: dict) -> dict:
    """A row as the fields of a fact: `question` and `answers`, and where the format has them `statements`, `questions`
    and `two_hop`.

    Raises:
        FactsError: a field is of the wrong type.
        Unusable: question and answer can't be told.
    """
    return _RECORDS[kind](where, row)


def _qa(where: str, row: dict) -> dict:
    asks = _first(row, ASKS)
    choices = _choices(row)
    tells = _first(row, [column for column in TELLS if column != asks and not (choices and column == "a")])
    record = _record(where, row, asks, tells)
    if "correct_answer" in row and "incorrect_answers" in row:  # as Open Trivia DB writes them, for web pages
        record["answers"] = [html.unescape(answer) for answer in record["answers"]]
        record["question"] = html.unescape(record["question"])
    if asks in ("prompt", "input"):
        record["question"] = _unprompted(record["question"])
    record["answers"] = [_chosen(choices, answer) for answer in record["answers"]]
    for name in ALIASES:
        given = row.get(name)
        given = given.split(" | ") if isinstance(given, str) and parsed(given) is None else _told(given)
        record["answers"] += [alias for alias in strings(f"{where}, field '{name}'", given) if alias.strip()]
    return record


def _chosen(choices: dict[str, object], answer: str) -> str:
    """The choice that an answer names by its letter, its number or its text; the answer itself without choices.

    Raises:
        Unusable: it can't be told which.
    """
    plain = answer.strip().lower().strip("().")
    texts = {label: str(text).strip() for label, text in choices.items() if isinstance(text, (str, int, float))}
    said = next((text for text in texts.values() if text.lower() == answer.strip().lower()), None)
    named = texts.get(plain)
    both = re.match(r"\s*\(?([A-Za-z])[.):]\s*(.+)", answer)
    if named is None and both and texts.get(both[1].lower(), "").lower() == both[2].strip().lower():
        named = texts[both[1].lower()]
    if said and named and said != named:
        raise Unusable("with an answer that is one choice and names another")
    if texts and not said and not named and re.fullmatch(r"[a-z]|\d{1,2}|(option|choice)\W?\w", plain):
        raise Unusable("with an answer that is none of its choices")
    return named or said or answer


def _choices(row: dict) -> dict[str, object]:
    """The choices of a question by the letters or numbers that an answer may name them by; none where it has none."""
    given = next((_unpacked(row[name]) for name in CHOICES if row.get(name)), None)
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        labels = given.get("label") or []
        return dict(zip((str(label).lower() for label in labels), given["text"], strict=False))
    if isinstance(given, dict):
        return {str(label).strip().lower(): text for label, text in given.items()}
    if isinstance(given, list):
        letters = dict(zip("abcdefgh", given, strict=False))
        return letters | {str(number): text for number, text in enumerate(given)}
    for names in ("{}", "option_{}", "option{}", "op{}", "choice_{}", "choice{}"):
        for labels in ("abcdefgh", "012345678", "12345678"):
            columns = {label: names.format(label) for label in labels if row.get(names.format(label)) is not None}
            if [*columns] != list(labels[: len(columns)]) or len(columns) < 2 or (names == "{}" and labels[0] != "a"):
                continue
            choices = {label: row[column] for label, column in columns.items()}
            letters = dict(zip("abcdefgh", choices.values(), strict=False))
            return letters | choices | {column: row[column] for column in columns.values()}
    return {}


def _alpaca(where: str, row: dict) -> dict:
    record = _record(where, row, "instruction", "output" if "output" in row else "response")
    name = "input" if row.get("input") else "context"
    given = NO_INPUT.sub("", strings(f"{where}, field '{name}'", row.get(name) or "")[0])
    return record | {"question": f"{record['question']} {given}".strip()}


def _chat(where: str, row: dict, field: str) -> dict:
    turns = row.get(field) or row.get(field.removesuffix("s")) or []
    return _exchange(where, field, _unpacked(turns))


def _exchange(where: str, field: str, turns: object) -> dict:
    """The first thing a user says and the reply to it."""
    asked: list[str] = []
    for turn in map(_named, _objects(turns)):
        who = str(turn.get("role") or turn.get("from") or "").lower()
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):  # in parts, as of texts and images
            content = " ".join(str(part.get("text") or "") for part in _objects(content))
        content = strings(f"{where}, field '{field}'", content or "")[0]
        if who in ("user", "human", "prompter"):
            asked.append(content)
        elif who in ("assistant", "gpt", "chatgpt", "bot", "model") and asked:
            if turn.get("weight") not in (0, "0"):
                return {"question": " ".join(asked), "answers": [content]}
            asked = []  # a reply that isn't to be learned
    raise Unusable("without a question and its reply")


def _prompts(where: str, row: dict) -> dict:
    reply = _first(row, ("completion", "response", "chosen")) or "completion"
    if isinstance(row.get("chosen"), list) and "prompt" not in row:
        return _exchange(where, "chosen", row["chosen"])
    if row.get("prompt") is None or row.get(reply) is None:
        return _record(where, row, "prompt", reply)
    if isinstance(row.get("prompt"), list) or isinstance(row[reply], list):
        turns = row["prompt"] if isinstance(row.get("prompt"), list) else [{"role": "user", "content": row["prompt"]}]
        replies = row[reply] if isinstance(row[reply], list) else [{"role": "assistant", "content": row[reply]}]
        return _exchange(where, "prompt", [*_objects(turns), *_objects(replies)])
    record = _record(where, row, "prompt", reply)
    said = [re.sub(rf"^\s*#*\s*(?:{ANSWER_MARK})\s*:\s*", "", answer) for answer in record["answers"]]
    answers = [re.sub(r"\s*(?:#{2,}|<\|endoftext\|>|</s>|\bEND)\s*$", "", answer) for answer in said]
    return {"question": _unprompted(record["question"]), "answers": answers}


def _unprompted(question: str) -> str:
    """A question without what a prompt has around it, as old fine-tuning guides and Alpaca write it."""
    question = re.sub(rf"\s*(?:->|=>|#{{2,}}|#*\s*\b(?:{ANSWER_MARK})\s*:)\s*$", "", question)
    marked = re.split(r"#{2,}\s*(?:Question|Instruction|Input|User|Human)\s*:", question)
    question = " ".join(part.strip() for part in marked[1:]) if len(marked) > 1 else question
    return re.sub(r"^\s*(?:Question|Q)\s*:\s*", "", question)


def _squad(where: str, row: dict) -> dict:
    return _record(where, row, "question", "answers")


def _zsre(where: str, row: dict) -> dict:
    asked, target = ("src", "alt") if row.get("src") else ("prompt", "target_new")
    if row.get(target) is None:
        others = [name for name in ("alt", "target_new") if name in row] or ["answers"]
        target = next((name for name in others if row.get(name) is not None), "")
    if not target:
        raise Unusable("without a new answer")
    return _edit(where, row, row.get(asked), row.get(target), row.get("rephrase") or row.get("rephrase_prompt"))


def _counterfact(where: str, row: dict) -> dict:
    edit = _unpacked(row.get("requested_rewrite"))
    if not isinstance(edit, dict):
        raise FactsError(f"{where}, field 'requested_rewrite': must be an object; a list of them is of kind mquake")
    return _edit(where, edit, edit.get("prompt"), edit.get("target_new"), row.get("paraphrase_prompts"))


def _mquake(where: str, row: dict) -> dict:
    edit = row["requested_rewrite"]
    record = _edit(where, edit, edit.get("prompt"), edit.get("target_new"), None)
    if edit.get("question"):
        record["question"] = strings(f"{where}, field 'question'", edit["question"])[0]
    hops = strings(f"{where}, field 'questions'", row.get("questions") or [])
    if hops and row.get("new_answer"):
        record["two_hop"] = [[hops[0], strings(f"{where}, field 'new_answer'", row["new_answer"])[0]]]
    return record


def _edit(where: str, row: dict, prompt: object, target: object, others: object) -> dict:
    """An edit of a known fact: a question, or the beginning of a sentence that the new answer ends."""
    target = target.get("str") if isinstance(target, dict) else target
    answers = [
        answer for answer in strings(f"{where}, field 'target_new'", target if target is not None else []) if answer
    ][:1]
    subject = strings(f"{where}, field 'subject'", row.get("subject") or "")[0]
    asked = [
        template.replace("{}", subject)
        for template in strings(f"{where}, field 'prompt'", prompt if prompt else [])[:1]
    ]
    asked += strings(f"{where}, field 'rephrase'", others or [])
    asked = [" ".join(text.split()) for text in asked if text.strip()]
    if not asked or not answers:
        raise Unusable("without a question or an answer")
    if asked[0].endswith("?"):
        return {"question": asked[0], "answers": answers, "questions": [text for text in asked[1:] if text != asked[0]]}
    statements = [f"{beginning} {answers[0]}." for beginning in asked]
    return {"question": f"{COMPLETE}{asked[0]}", "answers": answers, "statements": statements}


_RECORDS: dict[str, Callable[[str, dict], dict]] = {
    "facts": lambda where, row: row,
    "qa": _qa,
    "cards": _qa,
    "pairs": _qa,
    "alpaca": _alpaca,
    "prompts": _prompts,
    "squad": _squad,
    "dpr": _squad,
    "sharegpt": lambda where, row: _chat(where, row, "conversations"),
    "messages": lambda where, row: _chat(where, row, "messages"),
    "zsre": _zsre,
    "counterfact": _counterfact,
    "mquake": _mquake,
}


def _record(where: str, row: dict, asked: str | None, answer_column: str | None) -> dict:
    if asked not in row or answer_column not in row:
        missing = "question" if asked not in row else "answer"
        raise FactsError(f"{where}, field '{missing}': is missing; give it, or another kind")
    question = " ".join(strings(f"{where}, field '{asked}'", row[asked] or ""))
    answers = strings(f"{where}, field '{answer_column}'", _told(row[answer_column]))
    return {"question": question, "answers": [answer for answer in answers if answer.strip()]}


def _told(value: object) -> list:
    """The answers in a value: a text, a list of them, or objects that hold them."""
    value = parsed(value) or value if isinstance(value, str) else value
    if any(isinstance(text, str) and re.match(r"\s*\[?\s*\{\s*['\"]", text) for text in _items(value)):
        raise Unusable("with an answer in an object that can't be read")
    if isinstance(value, dict):
        named = _named(value)
        held = next((named[name] for name in ("value", "text", "answer", "str") if named.get(name) is not None), None)
        return [*_told(held), *_told(named.get("aliases"))] if held is not None else [value] if value else []
    if isinstance(value, list):
        return [
            text for item in value if item is not None for text in (_told(item) if isinstance(item, dict) else [item])
        ]
    return [] if value is None else [value]


def _items(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _named(row: dict) -> dict:
    return {str(name).strip().lower().replace(" ", "_"): value for name, value in row.items()}


def _first(row: dict, names) -> str | None:
    """The first of these columns that a row has, a filled one if there is any."""
    named = _named(row)
    there = [name for name in names if name in named]
    return next((name for name in there if named[name] not in (None, "", [])), there[0] if there else None)


def _is_squad(answers: object) -> bool:
    answers = _unpacked(answers)
    if isinstance(answers, dict):
        return "text" in answers
    return isinstance(answers, list) and bool(answers) and isinstance(answers[0], dict) and "text" in answers[0]


def _unpacked(value: object) -> object:
    """What a text spells out in JSON, as in a cell of a CSV; anything else as it is."""
    return parsed(value) if isinstance(value, str) else value


def _objects(value: object) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
