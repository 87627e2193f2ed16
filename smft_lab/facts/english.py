"""The English that rules about questions need: verbs and their forms, times, places, and what a noun phrase is."""

from __future__ import annotations

import re
from itertools import pairwise

IRREGULAR = """
bear bore born|become became become|begin began begun|bite bit bitten|break broke broken|bring brought brought
build built built|buy bought bought|catch caught caught|choose chose chosen|come came come|cost cost cost
draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen|feed fed fed|fight fought fought
find found found|fly flew flown|forget forgot forgotten|get got got|give gave given|go went gone|grow grew grown
have had had|hear heard heard|hide hid hidden|hit hit hit|hold held held|keep kept kept|know knew known|lead led led
leave left left|lend lent lent|lose lost lost|make made made|mean meant meant|meet met met|pay paid paid|put put put
read read read|ride rode ridden|rise rose risen|run ran run|say said said|see saw seen|sell sold sold|send sent sent
set set set|shoot shot shot|show showed shown|sing sang sung|sink sank sunk|sleep slept slept|speak spoke spoken
spend spent spent|stand stood stood|steal stole stolen|strike struck struck|swim swam swum|take took taken
teach taught taught|tell told told|think thought thought|throw threw thrown|wear wore worn|win won won
write wrote written
"""
REGULAR = """
abolish achieve acquire adopt air announce appear appoint arrive assassinate attend award base bury call charge close
collect complete compose cook cover create crown defeat design destroy develop die direct discover divorce elect end
establish execute film finish form found graduate happen host induct introduce invent join launch like live locate
love manage marry name nickname open own paint patent perform play portray prefer premiere produce publish rename
receive record release replace resign retire return reveal schedule serve sign situate stage start stay study train
unveil use visit want work
""".split()
SURE = {
    *"""achieve acquire adopt announce appear appoint arrive assassinate attend become begin bring compose create
defeat destroy die discover divorce elect establish execute give graduate have induct introduce invent join make marry
perform portray publish receive resign retire reveal serve unveil win write""".split()
}
"""Verbs that are no nouns, and so show where a predicate begins within a question."""
NOUNS = {
    *"""award call charge cook cover crown design drink experience film form host hit land launch like live love
march name paint patent play premiere promise put read record release run set show sign stage study train travel use
visit want work""".split()
}
"""Verbs that may be an object without an article: "Where did Ann look for work?"."""
HELPERS = {
    *"""do help let watch try like want need keep cause force enable allow say think claim believe expect
decide agree plan hope promise announce know see hear make have get""".split()
}
"""Verbs that may have another verb behind them: "When did Ann see the shop open?"."""
PEOPLE = {
    *"""actor actress artist author band composer country company director group king monarch player poet
president queen scientist singer team club writer city novelist explorer musician politician philosopher woman man
person footballer architect inventor designer star gymnast athlete minister driver""".split()
}
"""Who or what does something, where a noun stands before its verb."""
PHRASAL = {*"begin break came come end get go grow open set shut take".split()}
PARTICLES = "out|up|off|down|place|married|on sale|on air"
EVENTS = {
    "open": "opening",
    "close": "closing",
    "start": "starting",
    "begin": "starting",
    "finish": "finishing",
    "arrive": "arrival",
    "leave": "departure",
}
"""What stands before the word "time" for the time at which it happens."""
AGENTS = {
    "wrote": "writer",
    "painted": "painter",
    "composed": "composer",
    "directed": "director",
    "founded": "founder",
    "invented": "inventor",
    "discovered": "discoverer",
    "designed": "designer",
    "created": "creator",
    "built": "builder",
    "sang": "singer",
    "produced": "producer",
    "won": "winner",
}
"""What someone is called who did it, of things alone."""
MEASURES = {"old": "age", "tall": "height", "high": "height", "long": "length", "deep": "depth", "wide": "width"}
COUNT = re.compile(
    r"(?:(?:over|about|some|nearly|more than) )?(?:\d[\d,.]*(?: (?:million|billion|thousand))?"
    r"|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty(?:-\w+)?)",
    re.I,
)

ORDINAL = re.compile(
    r"(?:.+-)?(?:first|second|third|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie)th)|\d+(?:st|nd|rd|th)"
)

ADVERBS = ("first", "last", "once", "also", "originally", "officially", "finally", "initially", "formally")
BE = "is|are|was|were"
DO = "do|does|did"
AUXILIARIES = {*f"{BE}|{DO}|am|be|been|being|has|have|had|can|could|will|would|shall|should|must|might|may".split("|")}
WH = {*"who whom whose what which when where why how".split()}
RELATIVES = {*"that who which whose where when".split()}
DETERMINERS = {*"the a an his her its their my our your this that these those".split()}
PRONOUNS = {*"i you he she it we they there everyone someone anyone nobody".split()}
OBJECTS = {*"me him us them myself nobody none".split()}
CASES = {"i": "me", "he": "him", "she": "her", "we": "us", "they": "them"}
"""A pronoun as a subject, and as an object."""
SUBJECTS = {case: pronoun for pronoun, case in CASES.items() if pronoun != "i"}
SINGULAR = {*"series species news lens yes physics mathematics politics economics".split()}
PREPOSITIONS = {
    *"""in on at of to for from by with as about after before during under over into within between
against through near since until along across behind around alongside despite without inside outside upon towards like
than opposite except beside besides among amongst past per versus via off out up down away back""".split()
}
NO_PHRASE = PRONOUNS | {
    *"""able unable likely unlikely supposed allowed due worth ready going not or afraid aware
alive awake asleep available free late closed open called named known born else all both""".split()
}
"""Words with which a supposed noun phrase may hide a predicate: "the ticket worth"."""
NOT_PARTICIPLES = {
    *"""king ring wing spring string thing morning evening wedding red bed seed speed breed hundred
need shed sled anything something nothing beijing""".split()
}
AFTER_ING = {*"time times hours room date point number address place fee fees".split()}
EVENT = re.compile(r"\b(time|game|match|season|occasion|episode|race) \S")
"""Behind which a whole sentence may follow: "the last time Ann won"."""
OF_TWO = {*"named called awarded given offered shown nicknamed".split()}
"""Participles that may have an object behind them: "the singer awarded the prize"."""
NEVER_PASSIVE = {*"appeared arrived died happened lived starred existed emerged".split()}
KINDS = {*"kind type sort form variety part percentage amount number".split()}
NO_NOUN = AUXILIARIES | PREPOSITIONS | WH | DETERMINERS | KINDS | NO_PHRASE | {"one", "ones", "first"}
"""Words that no noun behind "which" holds."""
NAMES = {*"name title nickname word term letter phrase".split()}
"""What is given to somebody or something without being passed on."""
COUNTED = {
    *"""animal bird body container creature device fish insect instrument job mammal meal object occupation plant
position profession reptile role ship shop tool trade tree vehicle vessel weapon""".split()
}
"""Kinds of things one of which has an "a" before it, so that a bare answer can't stand where "which" stood."""
TIMES = r"(?:[a-z,/]+ ){0,4}?(?:year|date|day|month|decade|century|time)(?: of the week)?"
MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
TIME_NOUNS = {*"time times date day days month year hour moment season week weekend deadline century decade".split()}
PLACE_NOUNS = {*"place places spot location site venue".split()}
"""Nouns that are a time or a place themselves, and so have none."""
MANNERS = {*"order way manner role style state condition position capacity shape form case age".split()}
"""Nouns whose answers are often no nouns: "alphabetical"."""
IN_TOWNS = {
    *"""born buried killed found located situated based founded filmed held built discovered raised signed fought
set staged invented assassinated crowned married established introduced opened performed premiered""".split()
}
"""What is done *in* a town or country, where a firm or a school does something else."""
LIVING = {"live", "die", "grow up", "happen", "take place"}
"""Verbs of what is *in* a town or country, and not at a firm or school."""
PLACES = {
    *"""street road avenue lane square park island islands river lake mount mountain hill beach airport station
stadium arena university college school hospital hotel house farm center centre museum abbey church castle studio
studios hall palace bridge tower office library theatre theater floor room""".split()
}
"""Words of places that one is not always *in*."""


RARE = """
bend bent|bind bound|bleed bled|blow blew|breed bred|burst burst|cling clung|creep crept|cut cut|deal dealt|dig dug
feel felt|flee fled|forbid forbade|forgive forgave|freeze froze|grind ground|hang hung|hurt hurt|kneel knelt|lay laid
let let|lie lay|quit quit|ring rang|seek sought|shake shook|shed shed|shine shone|shrink shrank|shut shut|slide slid
sow sowed|spin spun|spread spread|spring sprang|stick stuck|sting stung|swear swore|sweep swept|swing swung|tear tore
understand understood|wake woke|weave wove|weep wept|wind wound|withdraw withdrew
"""
"""Irregular verbs whose past is told from the base, but not looked for in a question."""
OTHER_PARTICIPLES = (
    "blown forbidden forgiven frozen lain rung shaken shrunk sown sprung sworn torn withdrawn woken woven"
)
"""Those of them that are not like the past."""


def _past(base: str) -> str:
    return re.sub("(?<=[^aeiou])y$", "i", base) + ("d" if base.endswith("e") else "ed")


def _third(base: str) -> str:
    if base == "have":
        return "has"
    return re.sub("(?<=[^aeiou])y$", "ie", base) + ("es" if re.search("(s|sh|ch|x|z|[^o]o)$", base) else "s")


PASTS = {base: (_past(base), _past(base)) for base in REGULAR}
PASTS |= {base: (past, done) for base, past, done in (entry.split() for entry in re.split(r"[|\n]", IRREGULAR.strip()))}
BASES = {past: base for base, (past, _) in PASTS.items()}
PARTICIPLES = {done for _, done in PASTS.values()}
RARE_PASTS = dict(entry.split() for entry in re.split(r"[|\n]", RARE.strip()))
THIRD = {base: _third(base) for base in PASTS}
RARE_NOUNS = {*"cut felt ground hurt lay spread wound".split()}
RARE_PARTICIPLES = {*RARE_PASTS.values(), *OTHER_PARTICIPLES.split()} - RARE_NOUNS - NOT_PARTICIPLES
FORMS = {"do": "base", "does": "third", "did": "past"}
"""Which form a verb has without the auxiliary."""


def within(text: str) -> str:
    """A question or a statement as it stands within a sentence: with a small "who", "in" or "the" at its beginning."""
    first, second = (*re.split(r"[ '’]", text.lower(), maxsplit=2), "")[:2]
    if first in PREPOSITIONS and second in AUXILIARIES:  # the film in "Up was directed by whom?"
        return text
    small = WH | PREPOSITIONS | DETERMINERS | {*f"{BE}|{DO}".split("|")}
    return with_small_letter(text) if first in small else text


def with_small_letter(text: str) -> str:
    """The text with a small first letter, unless its first word has other capitals: "AS Roma"."""
    first = re.split(r"[ '’]", text, maxsplit=1)[0]
    return text if re.search("[A-Z]", first[1:]) else text[:1].lower() + text[1:]


def inflected(verb: str, form: str) -> str:
    """A verb, perhaps as in "first take place", in its `base`, `third` person or `past` form; regular if not listed."""
    adverb = next((word + " " for word in ADVERBS if verb.startswith(word + " ")), "")
    base, *particle = verb.removeprefix(adverb).split(" ", 1)
    past = PASTS[base][0] if base in PASTS else RARE_PASTS.get(base, _past(base))
    return adverb + " ".join([{"base": base, "third": _third(base), "past": past}[form], *particle])


def is_inflected(verb: str, base: str, do: str) -> bool:
    """Whether `verb` is what the base becomes without an auxiliary "do": "weighs" for "does" and "weigh".

    One that isn't listed may double its last letter: "planned".
    """
    form = FORMS.get(do)
    if form == "past" and base not in PASTS.keys() | RARE_PASTS.keys() and verb == f"{base}{base[-1]}ed":
        return True
    return form is not None and verb == inflected(base, form)


def is_finite(word: str) -> bool:
    """Whether a word is a verb of the past, or of he, she and it: not "born" or "written"."""
    return word in BASES or word in THIRD.values() or (is_participle(word) and word.endswith("ed"))


def is_participle(word: str) -> bool:
    """Whether a word may be the participle of the past, known or regular."""
    return (
        re.sub("^(?:re|un|over|mis)(?=...)", "", word) in PARTICIPLES
        or word in PARTICIPLES
        or word in RARE_PARTICIPLES
        or bool(re.fullmatch("[a-z]{3,}ed", word) and word not in NOT_PARTICIPLES)
    )


def of_answer(answer: str, large: str = "") -> dict[str, str]:
    """The answer as a time, a place, a count and a measure, if it is one; `large` is the word for the measure."""
    fields = {}
    if time := in_time(answer):
        at, unit = time
        fields |= {"at": at, "unit": "time" if unit == "clock" else unit}
        fields |= {"clock": "time"} if unit == "clock" else {unit: unit} if unit in ("year", "date") else {}
    if answer.split()[0].lower() not in PREPOSITIONS:
        fields["bare"] = f"the {answer}" if fields.get("at") == f"in the {answer}" else answer
    if answer[:1].isupper() and not re.search(r"^the |,|&| and ", answer, re.I) and not is_plural(answer):
        fields["one"] = "the one"
    if not is_plural(answer) and not re.search("&| and | or ", answer):
        fields["sole"] = answer
    if place := in_place(answer):
        fields["place"] = place
    if COUNT.fullmatch(answer):
        fields["count"] = answer.lower()
    if large == "old" and answer.isdigit():
        fields["size"] = f"{answer} years old"
    elif large and re.fullmatch(r"[\w ]*\d[\d,.]* [a-z ]+", answer):
        fields["size"] = answer if large in answer.split() else f"{answer} {large}"
    return fields


def in_time(answer: str) -> tuple[str, str] | None:
    """The answer with the preposition of a time, and what it is: a year, a date or a time; None if it is no time."""
    low = re.sub(r"[,.]", " ", answer.lower()).strip()
    if low.split()[0] in {"in", "on", "at", "since", "during", "between", "before", "after", "from", "by"}:
        return with_small_letter(answer), "time"
    if re.fullmatch(r"([01]?\d|2[0-4])|[012]?\d[: ]\d\d( ?[ap] ?m)?|[012]?\d ?([ap] ?m|o['’]clock)|noon|midnight", low):
        return f"at {answer}", "clock"
    if re.fullmatch(r"(ad |c\.? ?)?\d{3,4}( ?(ad|bc|bce|ce))?", low):
        return f"in {answer}", "year"
    if re.fullmatch(r"(early |late |mid-?)?(\d{4}['’]?s|\d+(st|nd|rd|th) century.*)", low):
        return f"in the {answer}", "time"
    if re.fullmatch(rf"({MONTH})( of)?( +\d{{4}})?|spring|summer|autumn|winter", low):
        return f"in {answer}", "time"
    day, weekday = r"\d{1,2}(st|nd|rd|th)?", r"(mon|tues|wednes|thurs|fri|satur|sun)day"
    dated = rf"({weekday}  ?)?(({MONTH}) {day}( +\d{{4}})?|{day}( of)? ({MONTH})( +\d{{4}})?)|\d{{4}}-\d\d-\d\d"
    if re.fullmatch(dated, low):
        return f"on {answer}", "date"
    return (f"on {answer}", "day") if re.fullmatch(rf"{weekday}s?", low) else None


def in_place(answer: str) -> str | None:
    """The answer with the preposition of a place; None where it isn't certain which."""
    words = answer.split()
    if words[0].lower() in PREPOSITIONS:
        return None if words[0].lower() in {"to", "from", "of", "for", "with", "as"} else with_small_letter(answer)
    plain = all(word[:1].isupper() and word.isalpha() for word in re.split(r"[ ,-]+", answer))
    return f"in {answer}" if plain and len(words) <= 3 and not PLACES & {word.lower() for word in words} else None


def _hides_a_participle(clause: list[str], spelled: list[str]) -> bool:
    """Whether a clause may end in a verb that is not its own: "ended the war signed", "Ann built sunk".

    Args:
        clause: What follows "that" or "who", in small letters.
        spelled: The same as it is written.
    """
    *before, last = clause or [""]
    if not before or not (is_participle(last) or last in BASES):
        return False
    if before[-1] in AUXILIARIES or (before[-1].endswith("ly") and {*before} & AUXILIARIES):
        return False
    own = not spelled[0].islower() or clause[0] in DETERMINERS | PRONOUNS  # "that Ann built": its subject is told
    return not own or any(word in AUXILIARIES or is_finite(word) or is_participle(word) for word in before)


def _before_its_tail(text: str) -> str:
    """A noun phrase without what follows its noun: "of the king", "that sense light"."""
    return re.split(" (?:of|in|at|for|from|on|with|that|which|who) ", text)[0]


def is_plural(text: str) -> bool:
    """Whether a noun, or a name of several words, may be of several: "songs", "the Dutch", "Houston Rockets"."""
    if re.fullmatch("[Tt]he [A-Z][a-z]*(ese|[cs]h)", text):
        return True
    words = _before_its_tail(text).split()
    head = words[-1] if words else ""
    return bool(re.search("[^aius]s$", head.lower())) and (len(words) > 1 or head.islower()) and head not in SINGULAR


def is_doer(answer: str, verb: str, title: bool = False) -> bool:
    """Whether an answer is certainly a subject as it stands, and of the number of the verb.

    "judges", "me" and "uninhabited" are none, and "Houston Rockets" is none of "has".

    Args:
        title: Whether it may be the title of one thing, as "Romeo and Juliet" is.
    """
    first = answer.split()[0].lower()
    own = first in DETERMINERS and len(answer.split()) > 1
    if not (own or not answer[0].islower()) or first in OBJECTS or "," in answer:
        return False
    singular = any(re.search("[^s]s$", word) for word in verb.split())
    return not (singular and (is_plural(answer) or (not title and re.search(" and | or |&", answer))))


def is_noun_phrase(text: str) -> bool:
    """Whether the text is certainly one noun phrase with a "the", "my", "Mira's" or a name at its head, and no more."""
    words = text.split()
    low = [word.lower().strip("\"'“”‘’()") for word in words]
    named = all(word[:1].isupper() or word[:1].isdigit() for word in words)
    owned = re.match(r"(?:(?:the|my|our|his|her|their|your) )?\w+(?: [A-Z]\w+){0,2}['’]s? \w", text)
    if not low or not (
        low[0] in {"the", "a", "an", "my", "our", "his", "her", "its", "their", "your"} or named or owned
    ):
        return False
    if re.search(r"[,;:?!]|\. ", text) or low[-1] in PREPOSITIONS | DETERMINERS:
        return False
    for before, word, spelled, after in zip(["", *low], low, words, [*low[1:], ""], strict=False):
        if before in RELATIVES - {"that"} or (before == "that" and word not in PREPOSITIONS):
            clause = low[low.index(before) + 1 :]
            if any(first in PREPOSITIONS and two in PREPOSITIONS for first, two in pairwise(low)):
                return False
            return not _hides_a_participle(clause, words[-len(clause) :])
        if before in PREPOSITIONS and word in PREPOSITIONS:
            return False
        if word in AUXILIARIES | NO_PHRASE and not spelled[:1].isupper():
            return False
        verbal = re.fullmatch(r"\w{2,}ing", word) or is_participle(word) or word in BASES
        if (
            verbal
            and spelled.islower()
            and not (before in DETERMINERS | {"of"} or after in AFTER_ING or word in NOT_PARTICIPLES)
        ):
            return False
    return True


def ends_in_preposition(text: str) -> bool:
    """Whether the last word is a preposition."""
    return text.split(" ")[-1].lower() in PREPOSITIONS


def joins_verbs(text: str) -> bool:
    """Whether an "and" or "or" in what follows a verb may join a second verb: "and Bo film"."""
    for after in re.split(r"\b(?:and|or|but)\b", text)[1:]:
        words = after.split()
        if any(word in PASTS or is_finite(word) for word in words):
            return True
        if words and words[0].islower() and words[0] not in DETERMINERS | PREPOSITIONS:
            return True
    return False


def is_thing(text: str) -> bool:
    """Whether the text is a noun phrase of one thing, with nothing behind it that could belong to what was done."""
    low = text.lower().split()
    head = next((i for i, word in enumerate(low) if word in {"of", "for"}), len(low)) - 1
    several = low[head].endswith("s") and text.split()[head].islower()
    more = PREPOSITIONS - {"of", "for"} | RELATIVES | {"and", "both", "twice", "first", "alone", "together"}
    return is_noun_phrase(text) and not several and not re.search(r"\d{4}", text) and not {*low} & more


def is_subject(text: str, verb: str, do: str = "") -> bool:
    """Whether what stands before a verb, behind an auxiliary, is certainly its subject and no more."""
    low = text.lower().split()
    head = _before_its_tail(text)
    if do == "does" and " " in head and head.split()[-1].islower() and is_plural(head):
        return False
    unended = PREPOSITIONS | DETERMINERS | {"and", "or", "not", "first", "last", "next"}
    if low[0] in PREPOSITIONS | WH or low[-1] in unended:
        return False
    if any(" " in joined and not is_noun_phrase(joined) for joined in re.split(" (?:and|or|but) ", text)[:-1]):
        return False  # "Ann bake and Bo"
    if verb in NOUNS:
        name = r"(?:(?:the|my|our|his|her|a|an) [\w-]+|[A-Z][\w.-]*(?: [A-Z][\w.-]*)*)"
        return bool(re.fullmatch(rf"I|you|he|she|it|we|they|{name}(?:['’]s [\w-]+)?(?: (?:of|in|at) {name})?", text))
    return not any(word in (PASTS.keys() | HELPERS | AUXILIARIES) - NOUNS for word in text.split()[1:])
