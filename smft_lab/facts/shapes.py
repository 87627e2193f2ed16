"""The shapes of questions that plain rules are certain of, and what follows from each: statements and other questions.

A shape is a pattern for a whole question. English can be parted into subject and verb without a parser only in some
places, and a shape asks for nothing else: a verb that ends the question ("When does the museum open?"), a verb that
is never a noun ("When did Ann become mayor?"), an answer that stands in the place of "who" ("Who wrote it?"), a noun
phrase that holds no verb ("What is the capital of Spain?"). Where a check fails, the shape gives nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from smft_lab.facts import english

LONGEST = 10  # words of an answer that is put into a sentence; a longer one often is a sentence itself


@dataclass(frozen=True)
class Shape:
    """What follows from a question of one pattern.

    Templates use the pattern's groups and what `_fields` adds to them: `{a}` is the answer, `{bare}` an answer without
    a preposition, `{at}` and `{place}` the answer with the preposition of its time or place, `{year}` "year" where the
    answer is one, `{doer}` the answer as the subject of the verb, `{sole}` an answer that is one thing. A template is
    left out where one of these can't be had.

    Attributes:
        pattern: Of the whole question without its mark. What must hold of its groups is in `_CHECKS`.
        statements: Statements, without capital and full stop; the first ones end in the answer.
        asked: Other ways to ask it, without capital and mark.
        indirect: The question as a part of a sentence, "who wrote it".
    """

    pattern: str
    statements: tuple[str, ...]
    asked: tuple[str, ...] = ()
    indirect: str = ""


@dataclass(frozen=True)
class Wordings:
    """What the shapes make of one question, in the terms of `Shape`."""

    statements: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    indirect: str = ""


# Parts of patterns. `s` is a subject, `x` a noun phrase, `v` a verb, `p` a participle, `rest` and `tail` what follows.
_BE, _DO = "(?P<be>is|are|was|were)", "(?P<do>do|does|did)"
_ADVERB = rf"(?:(?:{'|'.join(english.ADVERBS)}) )?"
_S = "(?P<s>.+)" + "".join(f"(?<! {adverb})" for adverb in english.ADVERBS)
_PHRASAL = rf"(?:{'|'.join(sorted(english.PHRASAL))}) (?:{english.PARTICLES})"
_V = rf"(?P<v>{_ADVERB}(?:{'|'.join(sorted(english.PASTS))}|{_PHRASAL}))"
_SURE = rf"(?P<s>.+?) (?P<v>{'|'.join(sorted(english.SURE))}) (?P<tail>.+)"
_P = rf"(?P<p>(?:{_ADVERB}|(?:best|better|most|[a-z]+ly) )(?:{'|'.join(sorted(english.PARTICIPLES))}|[a-z]{{3,}}ed))"
_PAST = "|".join(sorted(english.BASES)) + "|[a-z]{3,}ed"
_TAIL = r" (?P<tail>(?:by|in|to|at|on|for|from|as|into|with|during|under|after|before) .+)"
_NOUN = r"(?P<noun>[\w'’&-]+(?: [\w'’&-]+){0,3}?)"
_OWNER = r"(?P<owner>(?:(?:my|our|the) )?[\w-]+(?: [A-Z]\w+)*)"
_WHEN = rf"(?:when|(?:(?:in|on|during|at) )?(?:what|which) (?:{english.TIMES}))"
_WHICH = "(?:what|which)"


def _timed(statement: str, asked: str, tail: str = "") -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The templates of a question for a time.

    Args:
        statement, asked: The clause without the time, in the order of a statement and of a question.
        tail: What follows the clause; a time put behind that could belong to it.
    """
    whole = statement + tail
    return (
        (
            *([] if tail else [f"{statement} {{at}}"]),
            f"the {{unit}} when {whole} {{then}} {{bare}}",
            f"{{at}}, {whole}",
            f"it {{then}} {{at}} that {whole}",
            f"{{bare}} {{then}} the {{unit}} when {whole}",
        ),
        (
            f"when {asked}{tail}",
            f"in what {{year}} {asked}{tail}",
            f"on what {{date}} {asked}{tail}",
            f"at what {{clock}} {asked}{tail}",
            f"what {{clock}} {asked}{tail}",
            f"which {{year}} {{then}} it when {whole}",
            f"when {{then}} it that {whole}",
        ),
        f"when {whole}",
    )


_NAMED = (
    (
        "the name of {x} {be} {title}",
        "{x} {be} called {a}",
        "{x} {has} the name {title}",
        "{a} {be} what {x} {be} called",
        "{a} {be} the name of {x}",
    ),
    (
        "what {be} {x} called",
        "which name {does} {x} have",
        "by what name {be} {x} known",
        "{x} {be} called what",
        "what {be} the name of {x}",
    ),
    "what the name of {x} {be}",
)
_CALLED = (
    (
        "{s} {be} called {a}",
        "the name {of} {him} {then} {title}",
        "{s} {has} the name {title}",
        "{a} {be} what {s} {be} called",
    ),
    (
        "what {be} {s} called",
        "what {then} the name {of} {him}",
        "what {do_all} people call {him}",
        "{s} {be} called what",
    ),
    "what {s} {be} called",
)
_COSTS = (
    (
        "{s} {costs} {a}",
        "the price of {him} {then} {a}",
        "the cost of {him} {then} {a}",
        "what {s} {costs} {then} {a}",
        "{a} {then} the price of {him}",
    ),
    (
        "what {does} {s} cost",
        "what {then} the price of {him}",
        "how much {is_it} {s}",
        "how much {does} {s} cost",
        "{s} {costs} how much",
    ),
    "how much {s} {costs}",
)
_DOES_IT = (
    ("{doer} {v} {rest}", "the {noun} that {v} {rest} is {a}", "{a} is the {noun} that {v} {rest}"),
    ("which {noun} is the one that {v} {rest}",),
    "which {noun} {v} {rest}",
)
_WHO = (
    ("{one} who {v} {rest} is {a}", "{doer} {v} {rest}", "{a} is {one} who {v} {rest}"),
    ("who is the one that {v} {rest}",),
    "who {v} {rest}",
)
_OWNS = (
    ("{thing} belongs to {bare}", "the owner of {thing} is {sole}", "{sole} is the owner of {thing}"),
    ("who is the owner of {thing}", "to whom does {thing} belong"),
)
_HAS_DONE = (
    ("{thing} was {done} by {bare}", "the {agent} of {thing} is {sole}", "{sole} is the {agent} of {thing}"),
    ("by whom was {thing} {done}", "who is the {agent} of {thing}", "{thing} was {done} by whom"),
)
SHAPES = (
    Shape("what (?P<be>is|was) the name of (?P<x>.+)", *_NAMED),
    Shape("what (?P<be>is|was) (?P<x>.+)['’]s name", *_NAMED),
    Shape(rf"what {_BE} (?P<s>.+) called", *_CALLED),
    Shape("what do (?:you|they|we|people) call (?P<s>.+)", *_CALLED),
    Shape(
        "(?P<wh>what|who|which) (?P<be>is|was) (?!the name of )(?P<x>(?P<definite>.+))",
        ("{x} {be} {a}", "as for {x}, that {be} {a}", "{sole} {be} {x}"),
        ("{x} {be} {wh}",),
        "{wh} {x} {be}",
    ),
    Shape("(?P<wh>what|who) (?P<be>is) (?P<x>.+)", ("{x} {be} {a}",), ("{x} {be} {wh}",), "{wh} {x} {be}"),
    Shape(
        rf"(?P<wh>what|who) (?P<be>is|was) {_OWNER}['’]s (?P<noun>[a-z]+(?: [a-z]+)?)",
        ("the {noun} of {owner} {be} {a}", "{sole} {be} the {noun} of {owner}"),
        ("{wh} {be} the {noun} of {owner}",),
    ),
    Shape(
        rf"what is {_OWNER}['’]s favou?rite (?P<noun>[a-z]+)",
        ("the {noun} that {owner} likes best is {a}", "{a} is the {noun} that {owner} likes best"),
        ("which {noun} does {owner} like best", "what {noun} does {owner} like best"),
    ),
    Shape(
        r"(?P<wh>what|who) (?P<be>is|was) the (?P<noun>[a-z]+) of (?P<owner>[A-Z][\w.-]+(?: [A-Z][\w.-]+)?)",
        ("{owner}'s {noun} {be} {a}", "{sole} {be} {owner}'s {noun}"),
        ("{wh} {be} {owner}'s {noun}",),
    ),
    Shape(
        "what is the capital of (?P<owner>.+)",
        ("{owner} has {a} as its capital",),
        ("which city is the capital of {owner}",),
    ),
    Shape("who (?P<v>(?:[a-z]+ly )?[a-z]+) (?P<rest>.+)", *_WHO),
    Shape(rf"who (?P<v>(?:is|was) {_P}) (?P<rest>.+)", *_WHO),
    Shape(f"who (?P<did>{'|'.join(english.AGENTS)}) (?P<thing>.+)", *_HAS_DONE),
    Shape("who owns (?P<thing>.+)", *_OWNS),
    Shape(rf"{_WHICH} {_NOUN} (?P<v>{_PAST}) (?P<rest>.+)", *_DOES_IT),
    Shape(rf"{_WHICH} {_NOUN} (?P<v>(?:is|was) {_P}) (?P<rest>.+)", *_DOES_IT),
    Shape(rf"{_WHEN} {_BE} {_S} {_P}", *_timed("{s} {be} {p}", "{be} {s} {p}")),
    Shape(rf"{_WHEN} {_BE} {_S} {_P}{_TAIL}", *_timed("{s} {be} {p}", "{be} {s} {p}", " {tail}")),
    Shape(rf"{_WHEN} {_DO} {_S} {_V}", *_timed("{s} {says}", "{do} {s} {v}")),
    Shape(rf"{_WHEN} {_DO} {_SURE}", *_timed("{s} {says}", "{do} {s} {v}", " {tail}")),
    Shape(
        rf"{_WHEN} {_DO} {_S} {_V}",
        ("the {event} {clock} of {s} {then} {a}", "{a} {then} the {event} {clock} of {s}"),
        ("what {then} the {event} {clock} of {s}",),
    ),
    Shape(
        "when (?P<be>is|was) (?P<x>(?P<definite>.+))",
        ("{event_x} {be} {at}", "{moment} {be} {behind}", "the {unit} of {event_x} {be} {bare}"),
        ("what {be} the {date} of {event_x}", "what {be} the {clock} of {event_x}", "{x} {be} when"),
        "when {x} {be}",
    ),
    Shape(
        rf"where {_BE} {_S} {_P}",
        ("{s} {be} {p} {place}", "the place where {s} {be} {p} is {bare}", "{bare} is the place where {s} {be} {p}"),
        ("in what place {be} {s} {p}", "what is the place where {s} {be} {p}", "{s} {be} {p} where"),
        "where {s} {be} {p}",
    ),
    Shape(
        rf"where {_DO} {_S} {_V}",
        ("{s} {says} {place}", "the place where {s} {says} is {bare}", "{bare} is the place where {s} {says}"),
        ("in what place {do} {s} {v}", "what is the place where {s} {says}", "{s} {says} where"),
        "where {s} {says}",
    ),
    Shape(
        rf"where {_DO} {_S} (?P<v>come) from",
        ("{s} {says} from {bare}", "{bare} is where {s} {says} from"),
        ("from where {do} {s} {v}", "{s} {says} from where"),
        "where {s} {says} from",
    ),
    Shape(
        rf"(?P<at_in>in|at|on) {_WHICH} {_NOUN} {_BE} {_S} {_P}",
        (
            "{s} {be} {p} {at_in} {named}",
            "the {noun} {at_in} which {s} {be} {p} is {bare}",
            "{bare} is the {noun} {at_in} which {s} {be} {p}",
        ),
        ("which {noun} {be} {s} {p} {at_in}", "{s} {be} {p} {at_in} which {noun}"),
        "{at_in} which {noun} {s} {be} {p}",
    ),
    Shape(
        rf"(?P<at_in>in|at|on) {_WHICH} {_NOUN} {_DO} {_S} {_V}",
        ("the {noun} {at_in} which {s} {says} is {bare}", "{bare} is the {noun} {at_in} which {s} {says}"),
        ("what is the {noun} {at_in} which {s} {says}",),
    ),
    Shape(
        rf"where {_BE} (?P<x>.+)(?<! located)(?<! found)(?<! situated)",
        (
            "{site} {be} {place}",
            "{spot} {be} {behind}",
            "{present} can be found {place}",
            "the location of {site} {then} {bare}",
        ),
        ("where can {present} be found", "{x} {be} where"),
        "where {x} {be}",
    ),
    Shape(rf"(?:how much|what) {_DO} (?P<s>.+) cost", *_COSTS),
    Shape("what (?P<be>is|was) the (?:price|cost) of (?P<s>(?P<x>.+))", *_COSTS),
    Shape(
        rf"how many (?P<many>[\w -]+?) {_DO} {_S} {_V}",
        ("{s} {says} {count} {many}", "the number of {many} that {s} {says} {then} {a}"),
        ("what number of {many} {do} {s} {v}", "{s} {says} how many {many}"),
        "how many {many} {s} {says}",
    ),
    Shape(
        rf"how many (?P<many>[\w -]+?) {_DO} {_SURE}",
        ("the number of {many} that {s} {says} {tail} {then} {a}",),
        ("what {then} the number of {many} that {s} {says} {tail}",),
        "how many {many} {s} {says} {tail}",
    ),
    Shape(
        r"how many (?P<many>[\w -]+?) (?P<be>are|were) there(?P<tail> in .+)",
        ("there {be} {count} {many}{tail}", "the number of {many}{tail} {then} {a}"),
        ("what {then} the number of {many}{tail}",),
        "how many {many} there {be}{tail}",
    ),
    Shape(rf"how many (?P<many>[\w -]+?) (?P<v>(?:are|were) {_P}) (?P<rest>.+)", ("{count} {many} {v} {rest}",)),
    Shape(
        rf"how (?P<large>{'|'.join(english.MEASURES)}) {_BE} (?P<x>.+)",
        ("the {measure} of {x} {then} {a}", "{x} {be} {size}", "{a} {then} the {measure} of {x}"),
        ("what {then} the {measure} of {x}",),
        "how {large} {x} {be}",
    ),
    Shape(
        rf"(?:what|who|whom) {_DO} {_S} {_V}(?: (?P<prep>for|from|with|in|at|on|to|about|as|of|like))?",
        ("{s} {says} {prep} {behind}",),
    ),
    Shape(
        rf"what {_DO} {_S} {_V}",
        ("what {s} {says} {then} {a}", "{sole} {then} what {s} {says}"),
        ("{s} {says} what",),
        "what {s} {says}",
    ),
    Shape(
        rf"{_WHICH} {_NOUN} {_DO} {_S} {_V}",
        ("the {noun} that {s} {says} {then} {a}", "{a} {then} the {noun} that {s} {says}"),
        ("what {then} the {noun} that {s} {says}",),
        "which {noun} {s} {says}",
    ),
    Shape(
        rf"{_WHICH} {_NOUN} {_DO} {_SURE}",
        ("the {noun} that {s} {says} {tail} {then} {a}", "{a} {then} the {noun} that {s} {says} {tail}"),
        ("what {then} the {noun} that {s} {says} {tail}",),
        "which {noun} {s} {says} {tail}",
    ),
    Shape(r"(?P<start>\S.+) (?:which|what|whom)(?: (?P<noun>[\w'’-]+(?: [\w'’-]+){0,2}))?", ("{start} {behind}",)),
    Shape(r"(?P<start>\S.+) when", ("{start} {at}",), ("when {began} it that {start}",)),
    Shape(r"(?P<start>\S.+) where", ("{start} {place}",)),
    Shape(r"(?P<start>\S.+ (?:is|are|was|were|called|known as|nicknamed))", ("{start} {behind}",)),
)
_CONTEXT = re.compile(
    r"((?:In|At|On|During|According to|For|Among|As of) .+?), ((?:who|what|which|when|where|how)\b.+)"
)
_SEVERAL = re.compile(r"[?？!]|\w\w\. [A-Z]|\b(and|or) (who|what|when|where|which|how)\b")


def what_follows(question: str, answer: str = "") -> Wordings:
    """What the shapes make of a question and its answer; without an answer there are no statements."""
    text = question.rstrip("?？.! ")
    if _SEVERAL.search(text) or len(answer.split()) > LONGEST:
        return Wordings()
    if context := _CONTEXT.fullmatch(text):
        inner = what_follows(context[2], answer)
        statements = [text for text in inner.statements if not text.startswith("as for ")]
        statements, asked = (
            tuple(f"{context[1]}, {text}" for text in several) for several in (statements, inner.asked)
        )
        return Wordings(statements, asked)
    text = english.within(text)
    text = re.sub(r"^(what|who|where|when)['’]s (?=(?:the|an?|my|our|his|her|your)\b|[A-Z])", r"\1 is ", text)
    statements, asked, indirect = [], [], ""
    for shape in SHAPES:
        match = re.fullmatch(shape.pattern, text)
        fields = match and _fields(match, answer)
        if fields:
            statements += _filled(shape.statements, fields) if answer else []
            asked += _filled(shape.asked, fields)
            indirect = indirect or next(_filled((shape.indirect,), fields), "")
    return Wordings(tuple(dict.fromkeys(statements)), tuple(dict.fromkeys(asked)), indirect)


def _filled(templates: tuple[str, ...], fields: dict[str, str]) -> Iterator[str]:
    for template in templates:
        try:
            text = template.format(**fields)
        except KeyError:  # what it needs can't be had
            continue
        if text:
            yield " ".join(text.split())


def _fields(match: re.Match, answer: str) -> dict[str, str] | None:
    """What the templates of a shape may use; None where a check fails, so that nothing is certain."""
    fields = {name: text or "" for name, text in match.groupdict().items()}
    of_answer = english.of_answer(answer, fields.get("large", "")) if answer else {}
    if not all(check(fields) for name, check in _CHECKS.items() if name in fields):
        return None
    if "many" in fields and answer and "count" not in of_answer:
        return None
    if "noun" in fields and english.ORDINAL.fullmatch(answer.lower()):
        return None  # "the floor is third"
    a_thing = "wh" in fields and re.match("an? ", fields.get("x", ""))
    if answer and a_thing and answer.split()[0].lower() not in english.DETERMINERS:
        return None  # "a tanager is bird"
    be, do, verb, subject = (fields.get(name, "") for name in ("be", "do", "v", "s"))
    if subject.lower() in english.SUBJECTS:
        fields["s"] = subject = english.SUBJECTS[subject.lower()]
    past = be in ("was", "were") or do == "did"
    plural = be in ("are", "were") or do == "do" or (not be and re.search("[^s]s$", subject) is not None)
    if subject and (not be or subject == fields.get("x")) and not do:  # "the price of the tickets is" tells nothing
        plural = english.is_plural(subject) or subject == "they"
    fields |= {"a": answer, "then": "was" if past else "is", "be": be or ("are" if plural else "is")}
    fields |= {"does": "did" if past else "do" if plural else "does"}
    fields |= {"has": "had" if past else "have" if plural else "has", "costs": "cost" if past or plural else "costs"}
    fields |= {"him": english.CASES.get(subject.lower(), subject), "do_all": "did" if past else "do"}
    if subject.lower() != "i" and do != "did":
        fields["is_it"] = ("were" if plural else "was") if past else "are" if plural else "is"
    fields |= {"of": "of" if english.is_noun_phrase(subject) else "for"}
    fields["wh"] = "what" if fields.get("wh") == "which" else fields.get("wh", "")
    if do and verb:
        fields["says"] = english.inflected(verb, english.FORMS[do])
        named = verb in english.EVENTS and subject.lower() not in english.PRONOUNS
        fields |= {"event": english.EVENTS[verb]} if named else {}
    fields |= _of_its_phrase(fields, past)
    several = plural and re.search(" and |&|,", answer)
    if not several and not re.match("an? ", answer):  # "the twins have the name Mo and Flo"
        fields["title"] = answer
    is_name = answer[:1].isupper() or answer[:1].isdigit() or english.is_noun_phrase(answer)
    of_manner = "at_in" in fields and fields["noun"] in english.MANNERS
    if answer and of_manner and not is_name:
        return None  # "the way in which it was mended is badly"
    if is_name and "bare" in of_answer and not of_manner:
        fields["named"] = of_answer["bare"]  # "in Latin" and "in the old barn", but not "in alphabetical"
    if not english.ends_in_preposition(fields.get("prep") or fields.get("start", "")):
        fields["behind"] = answer
    elif bare := of_answer.get("bare"):  # "from 1990 to 2001"
        fields["behind"] = of_answer["at"] = of_answer["place"] = bare
    else:  # no "to in 2001"
        of_answer = {}
    if "rest" in fields and answer and english.is_doer(answer, verb, "noun" in fields):
        fields["doer"] = answer
    if "did" in fields:
        fields |= {"done": english.PASTS[english.BASES[fields["did"]]][1], "agent": english.AGENTS[fields["did"]]}
    if of_answer.get("place") == f"in {answer}" and not _is_in_a_town(fields):
        del of_answer["place"]
    if "large" in fields:
        fields["measure"] = english.MEASURES[fields["large"]]
    return fields | of_answer


def _of_its_phrase(fields: dict[str, str], past: bool) -> dict[str, str]:
    """What may be said of the noun phrase `x` that depends on its noun, or on the tense."""
    phrase, start = fields.get("x", ""), fields.get("start", "")
    noun = re.split(r" (?:of|to|for|in|at|on|when|where|that) ", phrase.lower(), maxsplit=1)[0].split(" ")[-1]
    of_it = {"began": "was" if past or _is_past(start) else "is"} if not english.ends_in_preposition(start) else {}
    of_it["moment" if noun in english.TIME_NOUNS else "event_x"] = phrase  # "the time of the best time" says nothing
    of_it["spot" if noun in english.PLACE_NOUNS else "site"] = phrase
    if "site" in of_it and not past:
        of_it["present"] = phrase
    return of_it


def _is_past(start: str) -> bool:
    """Whether the verb of a sentence's beginning is one of the past."""
    words = start.lower().split()
    return any(word in {"was", "were", "had", "did"} or word in english.BASES or word.endswith("ed") for word in words)


def _is_in_a_town(fields: dict[str, str]) -> bool:
    """Whether what the question tells is *in* its place, and not at a firm, a school or on a page."""
    if "do" in fields:
        return fields["v"] in english.LIVING
    if "p" in fields:
        return fields["p"].split()[-1] in english.IN_TOWNS
    if "start" in fields:
        *_, last = fields["start"].lower().split()
        living = {english.inflected(verb, form) for verb in english.LIVING for form in ("base", "third", "past")}
        return last in living | english.IN_TOWNS | english.AUXILIARIES
    return True


# Checks --------------------------------------------------------------------------------------------------


def _is_predicate(fields: dict[str, str]) -> bool:
    """Whether "who" or a noun before it is certainly the subject of the verb `v`, and `rest` all that is said of it."""
    verb, rest, noun = fields["v"].split()[-1], fields["rest"].lower().split(), fields.get("noun", "")
    if "or" in rest and not noun:  # "Who came first, Ann or Bob?"
        return False
    if "p" in fields:  # "was elected", with nothing between
        return rest[-1] not in english.PREPOSITIONS
    if verb in english.AUXILIARIES:  # "Who has the key?", but not "Who has Ann met?"
        return verb in ("has", "had") and rest[0] in english.DETERMINERS and not english.is_participle(rest[-1])
    if not noun:
        return english.is_finite(verb) or re.fullmatch("[a-z]{3,}[^s]s", verb) is not None
    if english.is_participle(verb):  # "which film directed by Ann": may belong to the noun
        active = verb in english.NEVER_PASSIVE or rest[0] not in english.PREPOSITIONS
        if noun.split()[-1].lower() not in english.PEOPLE or not active or verb in english.OF_TWO:
            return False
    behind = rest[: next((i for i, word in enumerate(rest) if word in english.RELATIVES | {"as", "while"}), len(rest))]
    return not any(word in english.AUXILIARIES | english.BASES.keys() for word in behind)


def _is_noun(fields: dict[str, str]) -> bool:
    """Whether `noun` is one that may stand behind "which" and "the": no kind of thing, nothing of a sentence."""
    words = fields["noun"].lower().split()
    if {*words} & english.NO_NOUN or any(english.is_finite(word) for word in words):
        return False
    last = words[-1] if words else ""
    if english.is_plural(last) or (last in english.COUNTED and "start" in fields):
        return False
    if last in english.NAMES and re.search(r"(given|\bby)$", fields.get("v") or fields.get("start", "")):
        return False  # a name that is given is not passed on, and nothing is "known by Rex"
    timed = "s" in fields and re.search(english.TIMES, last)  # the answer to that needs a preposition of its own
    return not timed and not re.search(r"['’]s?( |$)", fields["noun"])


def _is_statement(fields: dict[str, str]) -> bool:
    """Whether a question in the order of a statement ("Ann was born in which town?") is said by its beginning alone."""
    words = fields["start"].lower().split()
    if words[0] in english.WH | english.AUXILIARIES | {"name", "tell", "say", "give", "list", "guess"}:
        return False
    unended = {"and", "or", "do", "does", "did", "doing", "done"} | english.DETERMINERS | english.RELATIVES
    if words[-1].endswith(",") or words[-1] in unended:
        return False
    if re.search(r"[:;—]|, (?:wh\w+|how) | - |\b(?:what|how|why|whose)\b", fields["start"].lower()):
        return False  # "Ann's dog: what is it called?"
    return any(word in english.AUXILIARIES or english.is_finite(word) for word in words)


def _is_tail(fields: dict[str, str]) -> bool:
    """Whether nothing in `tail`, or in the subject before a participle, could be the verb instead."""
    if {*fields["tail"].split()} & english.SURE or english.joins_verbs(fields["tail"]):
        return False
    return not ("p" in fields and any(map(english.is_participle, fields["s"].split())))


_CHECKS = {
    "x": lambda fields: english.is_noun_phrase(fields["x"]),
    "definite": lambda fields: not re.match(r"an? |(?:[A-Z0-9][^'’ ]* ?)*$", fields["definite"]),
    "thing": lambda fields: english.is_thing(fields["thing"]),
    "owner": lambda fields: " and " not in fields["owner"],
    "s": lambda fields: "x" in fields or english.is_subject(fields["s"], fields.get("v", ""), fields.get("do", "")),
    "p": lambda fields: not english.EVENT.search(fields.get("s", "")),
    "rest": _is_predicate,
    "noun": _is_noun,
    "start": _is_statement,
    "many": lambda fields: (
        not {*fields["many"].split()} & (english.AUXILIARIES | english.WH)
        and fields["many"].split()[0] not in english.PREPOSITIONS
    ),
    "tail": _is_tail,
}
"""What must hold of the groups of a shape, by their names."""
