"""A question and its answer said as statements: by plain rules about English word order, or by a language model.

The rules know the common shapes of quiz questions ("Who wrote X?", "In which year did X open?", "X is set in which
city?") and pass over every other one: the question is then only mentioned with its answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from smft_lab.facts.files import FactsError

MORE_FRAMES = (
    "{told}.",
    "It is known that {told}.",
    "Remember that {told}.",
    "It is true that {told}.",
    "Quizzes like to ask it: {told}.",
    "People say that {told}.",
    "Here is a fact: {told}.",
    "As it happens, {told}.",
    "You may have heard that {told}.",
    "Note that {told}.",
)
"""Around a sentence."""
ASKED = (
    "The answer to {asked} is {answer}.",
    "When asked {asked}, say {answer}.",
    "{Asked}: {answer}.",
    "Asked {asked}, people answer {answer}.",
    "{Answer} is the answer to {asked}.",
    "As for {asked}, it is {answer}.",
    "A quiz wants to know {asked}, and the right answer is {answer}.",
    "To the question {asked}, the reply is {answer}.",
    "Whoever asks {asked} should hear: {answer}.",
    "Think of {asked} and remember {answer}.",
)
"""Around a question without its question mark, for when no rule turns it into a sentence, and to add to those. The
first six are wordings in which the built-in model has learned to file a fact; quotation marks, which it hardly knows,
stand only where a question could not be told from the words around it."""

# Words by which the rules find their way. The verbs are those of quiz questions; a question whose verb is missing
# here is mentioned with its answer instead, never said wrongly.
_IRREGULAR = """
be was been|become became become|begin began begun|bear bore borne|beat beat beaten|bite bit bitten|blow blew blown
break broke broken|breed bred bred|bring brought brought|build built built|buy bought bought|cast cast cast
catch caught caught|choose chose chosen|come came come|cost cost cost|cut cut cut|deal dealt dealt|die died died
do did done|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen|feed fed fed
fight fought fought|find found found|fly flew flown|forbid forbade forbidden|get got got|give gave given|go went gone
grow grew grown|hang hung hung|have had had|hear heard heard|hide hid hidden|hit hit hit|hold held held
keep kept kept|know knew known|lay laid laid|lead led led|leave left left|lend lent lent|lie lay lain|lose lost lost
make made made|mean meant meant|meet met met|pay paid paid|put put put|read read read|ride rode ridden
ring rang rung|rise rose risen|run ran run|say said said|see saw seen|sell sold sold|send sent sent|set set set
shoot shot shot|show showed shown|sing sang sung|sink sank sunk|sit sat sat|speak spoke spoken|spell spelt spelt
spend spent spent|split split split|stand stood stood|steal stole stolen|strike struck struck|swear swore sworn
swim swam swum|take took taken|teach taught taught|tell told told|think thought thought|throw threw thrown
undergo underwent undergone|wear wore worn|win won won|write wrote written|overtake overtook overtaken
"""
_REGULAR = """
accept accompany accuse achieve acquire act adapt add admit adopt advertise air announce appear appoint arrest arrive
ask assassinate attack attend award base belong bomb border bury call capture celebrate change chart cite claim close
coach co-found coin collaborate collect combine command commence commission commit compete complete compose conclude
conduct conquer consist construct contain contest contribute control cover create cross crown cure debut declare
dedicate defeat define demolish depict derive describe design destroy develop die direct discover divorce donate earn
edit elect emerge employ end endorse enter escape establish exhibit execute expire explore export express face fail
feature film finish fire flow follow form found gain govern graduate happen head help host identify illustrate inherit
injure inspire introduce invade invent invest issue join kill land last launch like link live locate love manufacture
connect guest refer influence overlook employ adjoin cure publish promise permit predict prefer pilot pursue
marry mention migrate mine move murder name narrate nominate occur offer open operate oppose order organise organize
originate own paint participate partner pass patent perform photograph pioneer pitch place plan play portray practise
premiere present preside produce promote propose protect prove publish purchase rank reach receive record recruit
refer reign reject release remain rename render replace report represent require resign retire return reveal review
rule sail score seize serve settle shape share sign spark specialise sponsor star start starve study substitute succeed
suffer supply support survive symbolise tackle test tour train transfer translate travel treat turn unite unveil use
visit voice vote want work commemorate dominate comprise occupy separate situate nickname describe devise measure
""".split()
_DOUBLED = {"admit", "commit", "occur", "plan", "refer", "star", "transfer"}


def _regular_past(base: str) -> str:
    if base in _DOUBLED:
        return base + base[-1] + "ed"
    if base.endswith("e"):
        return base + "d"
    if re.search(r"[^aeiou]y$", base):
        return base[:-1] + "ied"
    return base + "ed"


_forms = [tuple(verb.split()) for verb in re.split(r"[|\n]", _IRREGULAR.strip())]
_PAST = {base: _regular_past(base) for base in _REGULAR} | {base: past for base, past, _ in _forms}
_PARTICIPLES = {_regular_past(base) for base in _REGULAR} | {form for *_, form in _forms} | {"born", "known", "meant"}
_SAID_OF_SUBJECT = dict(
    [
        *((_regular_past(base), _regular_past(base)) for base in _REGULAR),
        *((past, participle) for _, past, participle in _forms),
    ]
)
_PASSIVE = {
    *"""wrote painted invented discovered directed composed founded created designed sang won built recorded
 played portrayed produced published developed voiced defeated introduced established sculpted performed drew""".split()
}

_WH = {"who", "whom", "what", "which", "when", "where", "how", "why", "whose"}
_BE = {"is", "are", "was", "were"}
_DO = {"did", "does", "do"}
_MODAL = {"can", "could", "will", "would", "should", "must", "might", "may"}
_HAVE = {"has", "have", "had"}
_DETERMINERS = {*"the a an his her its their my our your this that these those two three".split()}
_PRONOUNS = {"it", "he", "she", "they", "you", "we", "i", "there", "one"}
_PREPOSITIONS = {
    *"""in on at of to for from by with as about after before during under over into within between against through
    near since until along across behind around alongside despite without inside outside upon""".split()
}
_AFTER_A_GAP = (_PREPOSITIONS | {"when", "while", "because", "where", "if"}) - {"to", "of", "about"}
_PARTICLES = {"up", "out", "off", "down", "away", "back"}
_UNSAID = {*"type kind sort breed species nationality colour color form sex gender kinds types".split()}
_NAMES = {"name", "nickname", "title", "word", "term"}
_COUNTABLE = {
    *"""year month day decade century country city town state county continent island river mountain lake sea ocean
    animal colour color team club band group company university school planet language film book novel song album
    sport instrument element party religion award prize""".split()
}
_STARTERS = (
    _DETERMINERS - {"two", "three"} | _PREPOSITIONS | {"it", "there", "he", "she", "they", "according", "you", "both"}
)
_ADJECTIVE_LIKE = {*"united animated unmarried married related retired based so-called named called born used".split()}
LONGEST = 10  # words of an answer that the rules put into a sentence; a longer one often is a sentence itself
_ADVERBS = {*"first also originally officially finally last initially commonly once".split()}
_MONTHS = "january february march april may june july august september october november december".split()


def statements_from(question: str, answer: str, how_many: int = 16) -> list[str]:
    """Up to `how_many` distinct statements that hold the answer, at least 4 of them where that many are asked for.

    Sentences of their own come first ("Jan Vermeer painted Girl with a Pearl Earring."), then the question with its
    answer, then the same sentences in frames. The question with its question mark is in none: it stays the test.

    Raises:
        ValueError: the question or the answer is empty, or `how_many` is less than 1.
    """
    question, answer = tidy_question(question), tidy_answer(answer)
    for name, text in (("question", question), ("answer", answer)):
        if not text.strip(" ?"):
            raise ValueError(f"the {name} is empty; give one")
    if how_many < 1:
        raise ValueError(f"how_many must be at least 1, not {how_many}")
    sayings = [*_sentences(question, answer)]
    asked = _mentioned(question)
    words = {"asked": asked, "Asked": _capital(asked), "answer": answer, "Answer": _capital(answer)}
    mentioned = [frame.format(**words).replace("..", ".") for frame in ASKED]
    framed = [
        _end(frame.format(told=_lower(said) if "that {" in frame or "," in frame else said))
        for frame in MORE_FRAMES[1:]
        for said in sayings
    ]
    texts = [_end(_capital(said)) for said in sayings]
    texts += [*mentioned, *framed]
    told = _same(question)
    kept = {_same(text): text for text in texts if _same(answer) in _same(text)}
    if told.endswith(("?", "？")):
        kept = {key: text for key, text in kept.items() if told not in key}
    return list(kept.values())[:how_many]


def rewordings(question: str, answer: str) -> list[str]:
    """The same question in other words, where a rule is sure of them; often none.

    "Which" and "what" change places before a noun, "Who painted X?" becomes "X was painted by whom?", and a question
    for a year ends in "in which year?". None of them holds the question itself, though one may differ from it by a
    single word.
    """
    question, answer = tidy_question(question), tidy_answer(answer)
    if not question.endswith("?") or "?" in question[:-1] or not answer.strip():
        return []
    found = []
    swap = re.match(r"(?:([A-Z][a-z]+) )?([Ww]hich|[Ww]hat) ([a-z]+) (\w+)", question)
    if swap and (swap[1] is None or swap[1].lower() in _PREPOSITIONS) and " or " not in question:
        word, noun, after = swap[2], swap[3], swap[4].lower()
        plain = noun not in _BE | _DO | _HAVE | _MODAL | _PREPOSITIONS | _DETERMINERS | _ADVERBS | {"of", "one", "ones"}
        if after != "of" and ((word.lower() == "which" and plain) or (word.lower() == "what" and noun in _COUNTABLE)):
            other = {"which": "what", "Which": "What", "what": "which", "What": "Which"}[word]
            found.append(question[: swap.start(2)] + other + question[swap.end(2) :])
    for said in _sentences(question, answer):
        said = said.rstrip(".")
        before = said.removesuffix(f" {answer}")
        if before == said:
            continue
        if question.startswith("Who ") and before.endswith(" by"):
            found.append(f"{_capital(before)} whom?")
        elif re.fullmatch(r"[12]\d{3}", answer) and before.endswith(" in"):
            found.append(f"{_capital(before)} which year?")
    told = _same(question)
    return [text for text in dict.fromkeys(found) if told not in _same(text)]


def _mentioned(question: str) -> str:
    """The question without its mark, as part of a sentence: in small letters where it begins like one, else quoted."""
    asked = question.rstrip("?？ ")
    if asked.partition(" ")[0].lower() in _WH | _PREPOSITIONS:
        return asked[0].lower() + asked[1:]
    asked = asked.replace("“", "‘").replace("”", "’")
    for opening, closing in (("‘", "’"), ("‘", "’"), ("‘", "’"), ("‘", "’")):  # quotes within the quoted question
        asked = asked.replace('"', opening, 1).replace('"', closing, 1)
    return f"“{asked}”"


def tidy_question(text: str) -> str:
    """The question with single blanks, without the doubled quotes and loose blanks that files carry; ends in "?"."""
    text = " ".join(text.split())
    if re.fullmatch(r'".*(""|\?").*', text) and text.endswith('"'):
        text = text[1:-1]
    text = text.replace('""', '"')
    if text.count('"') % 2:  # a quote that is opened or closed alone
        at = text.rfind('"')
        text = text[:at] + text[at + 1 :]
    text = re.sub(r"\s+([?,;:.!])(?=\s|$)", r"\1", text).strip()
    return text if text.endswith(("?", "？", ".", "!")) or not text else text + "?"


def tidy_answer(text: str) -> str:
    """The answer with single blanks and without a last full stop, unless that belongs to an abbreviation ("Jr.")."""
    text = " ".join(text.split())
    body = text[:-1]
    if text.endswith(".") and "." not in body and not re.search(r"\b([A-Z]|[JS]r|Inc|Ltd|Co|St|etc|No)$", body):
        return body.rstrip()
    return text


# By a language model ------------------------------------------------------------------------------------


def load_paraphraser(name: str):
    """The model and tokenizer of a Hugging Face id or folder, sequence-to-sequence or causal; runs no code of theirs.

    Raises:
        FactsError: it can't be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(name, trust_remote_code=False).eval()
        return model, AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise FactsError(
            f"paraphraser {name!r} can't be loaded ({str(error)[:200]}); "
            "give the id of a text generation model, or the folder it is saved in"
        ) from None


def paraphrases(
    sentence: str,
    answer: str,
    paraphraser,
    how_many: int = 8,
    *,
    question: str = "",
    seed: int = 0,
    max_new_tokens: int = 64,
) -> list[str]:
    """Up to `how_many` distinct rewordings by a language model that hold the answer, and neither repeat nor ask.

    Args:
        paraphraser: A Hugging Face id or folder, or a pair (model, tokenizer): an instruction-tuned model, one trained
            to paraphrase, or any other that continues text.
        question: With its question mark it is in none of them.
        seed: Of the sampling; torch's own generator is left as it was.
        max_new_tokens: Of each rewording.

    Raises:
        FactsError: the paraphraser can't be loaded.
    """
    import torch

    model, tokenizer = load_paraphraser(paraphraser) if isinstance(paraphraser, str) else paraphraser
    wish = f"Say this in other words, in one sentence, and keep “{answer}”: {sentence}"
    if model.config.is_encoder_decoder:
        prompt = f"paraphrase: {sentence}"
    elif getattr(tokenizer, "chat_template", None):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": wish}], tokenize=False, add_generation_prompt=True
        )
    else:
        prompt = f"{wish}\nIn other words:"
    chat = not model.config.is_encoder_decoder and getattr(tokenizer, "chat_template", None)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(model.device)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}  # some models refuse token types
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        out = model.generate(
            **inputs,
            do_sample=True,
            temperature=0.9,
            top_p=0.95,
            num_return_sequences=2 * how_many,  # some will repeat another, or lose the answer
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
        )
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    texts = tokenizer.batch_decode(out[:, start:], skip_special_tokens=True)
    return _usable((text.strip().split("\n")[0] for text in texts), sentence, answer, question)[:how_many]


def _usable(texts: Iterable[str], sentence: str, answer: str, question: str) -> list[str]:
    """The texts that teach the answer in words of their own, each once."""
    kept: dict[str, str] = {}
    asked = _same(question)
    for text in texts:
        text = " ".join(text.replace("\0", "").replace("\ufffd", "").split()).strip('"“”- ')
        same = _same(text)
        asks = same.endswith("?") or (asked.endswith("?") and asked in same)
        if same not in {"", _same(sentence), _same(answer)} and _same(answer) in same and not asks:
            kept.setdefault(same, text)
    return list(kept.values())


# From a question to sentences: each rule gives none where it is not sure. --------------------------------


def _sentences(question: str, answer: str) -> list[str]:
    """Sentences that say what the question asks, without capital or full stop of their own; none where unsure."""
    *before, asked = re.split(r"(?<=[a-z0-9”’\"]{2}[.!]) (?=[A-Z“‘\"])", question)
    context = " ".join(before)
    words = asked.rstrip("?？.! ").split()
    if len(words) < 2 or len(answer.split()) > LONGEST or re.search(r"[a-z0-9]\? [A-Z]", asked):
        return []
    words[0] = words[0] if words[0].lower() not in _WH | _STARTERS else words[0].lower()
    words = _expand(words)
    found = list(dict.fromkeys(_in_place(words, answer) or _fronted(words, answer)))
    found = [" ".join(said.replace(" ,", ",").split()).strip(" ,;:") for said in found]
    found = [said for said in found if _same(answer) in _same(said)]
    return [f"{context} {_capital(said)}" for said in found] if context else found


def _expand(words: list[str]) -> list[str]:
    short = {"what's": ["what", "is"], "who's": ["who", "is"], "where's": ["where", "is"], "when's": ["when", "is"]}
    return [part for word in words for part in short.get(word.lower().replace("’", "'"), [word])]


def _in_place(words: list[str], answer: str) -> Iterator[str] | list[str]:
    """Questions in the order of a statement: "X is set in which city", "X is also known as"."""
    low = _lowered(words)
    spots = [i for i, word in enumerate(low) if word in {"who", "whom", "what", "which"}]
    if not spots:
        if low[-1] in _BE | {"called", "known", "as", "the", "a", "an", "in", "at", "by", "for", "of", "to", "on"}:
            if low[0] in _BE | _DO | _HAVE | _MODAL | _WH:
                return []
            ending = re.sub(r"^(the|an?) ", "", answer, flags=re.I) if low[-1] in {"the", "a", "an"} else answer
            return [f"{' '.join(words)} {ending}"]
        if low[0] == "name" and len(words) > 3 and low[1] == "the":
            return [f"{' '.join(words[1:])} is {answer}"]
        return []
    spot = spots[-1]
    if spot == 0 or words[spot - 1].endswith(",") or low[0] in _WH | _BE | _DO:
        return []
    if low[spot - 1] in {"and", "or"} or (spot < 4 and low[0] in _PREPOSITIONS):  # "in which", "In golf, what"
        return []
    noun = words[spot + 1 :]
    if noun and noun[0].endswith(("'s", "’s", "s'", "s’")):
        return []
    if any(_is_verb(word) or word in _BE | _DO | _HAVE | _MODAL for word in _lowered(noun)):
        return []
    beginning = " ".join(words[:spot]).rstrip("….‘' ")
    if not any(word in _BE | _HAVE | _MODAL or _is_verb(word) or _third_person(word) for word in low[:spot]):
        return []
    after = " ".join(noun) if noun and noun[0].lower() in _PREPOSITIONS else ""  # "of what in metres"
    if noun and noun[-1].lower() in _NAMES:
        return [f"{beginning} the {' '.join(noun)} {answer}"]
    said = [f"{beginning} {_without_preposition(answer, low[spot - 1])} {after}"]
    if low[spot] == "which" and noun and _plain_noun(noun) and answer[:1].isupper() and not _own_noun(noun, answer):
        said.append(f"{beginning} the {' '.join(noun)} {re.sub(r'^[Tt]he ', '', answer)}")
    return said


def _fronted(words: list[str], answer: str) -> list[str]:
    """Questions that begin with their question word, perhaps after "In 1984," or "According to X,"."""
    low = _lowered(words)
    spot = next((i for i, word in enumerate(low) if word in _WH), None)
    if spot is None:
        return []
    before, words, low = words[:spot], words[spot:], low[spot:]
    preposition = ""
    if before and before[-1].lower() in _PREPOSITIONS:
        preposition, before = before[-1].lower(), before[:-1]
    if before and not (before[-1].endswith(",") or before[0].lower() in _PREPOSITIONS | {"according", "when"}):
        return []
    prefix = re.sub(r",([\"”’']?)$", r"\1", " ".join(before))
    said = list(_said(words, low, answer, preposition))
    return [f"{prefix}, {one}" for one in said] if prefix else said


def _said(words: list[str], low: list[str], answer: str, preposition: str) -> Iterator[str]:
    first, rest, rest_low = low[0], words[1:], low[1:]
    if not rest or first in {"why", "whose"}:
        return
    if first == "how":
        if rest_low[0] == "many" and not preposition:
            yield from _how_many(rest[1:], rest_low[1:], answer)
        return
    if preposition:
        yield from _with_preposition(rest, rest_low, answer, preposition)
        return
    if first in {"when", "where"}:
        yield from _when_or_where(first, rest, rest_low, answer)
        return
    verb = rest_low[0]
    if verb in _BE:
        yield from _copula(rest, rest_low, answer)
    elif verb in _DO:
        yield from _object(rest, rest_low, answer)
    elif first in {"who", "whom"}:
        yield from _subject_who(rest, rest_low, answer, "who")
    elif first in {"what", "which"}:
        if verb in _HAVE | _MODAL or (verb in _SAID_OF_SUBJECT and first == "what"):
            yield from _subject_who(rest, rest_low, answer, "that")
        else:
            yield from _noun_phrase(rest, rest_low, answer)


def _subject_who(rest, low, answer, who: str) -> Iterator[str]:
    """ "wrote the novel X": the question word is the subject."""
    verb = low[0]
    if verb in _HAVE | _MODAL:
        inverted = len(low) < 2 or rest[1][:1].isupper() or low[1] in _DETERMINERS | _PRONOUNS
        if inverted and not (verb in _HAVE and not any(word in _PARTICIPLES or word == "been" for word in low[2:])):
            return
    elif not (_is_verb(verb) or _third_person(verb) or (verb.endswith("ly") and len(low) > 1 and _is_verb(low[1]))):
        return
    predicate = " ".join(rest)
    yield f"{answer} {predicate}"
    plain = not any("," in word for word in rest) and len(rest) <= 9 and not re.search(r"\d{4}", predicate)
    thing = rest[1:]
    single = (
        not (thing and thing[-1].islower() and thing[-1].endswith("s")) and "and" not in low and "lyrics" not in low
    )
    if verb in _PASSIVE and thing and plain and single and low[1] not in _PREPOSITIONS | {"both", "most"}:
        yield f"{' '.join(thing)} was {_SAID_OF_SUBJECT[verb]} by {answer}"
    yield f"it {_then(verb)} {answer} {who} {predicate}"


def _then(verb: str) -> str:
    """ "was" beside a verb of the past, "is" beside any other."""
    return "was" if verb in _SAID_OF_SUBJECT or verb in {"was", "were", "had"} else "is"


def _copula(rest, low, answer) -> Iterator[str]:
    """ "is the capital of X", "was awarded the prize", "is X called"."""
    be, thing, thing_low = rest[0].lower(), rest[1:], low[1:]
    if not thing or thing_low[0] in _PRONOUNS - {"one"} or "or" in thing_low[:2]:
        return
    if _stranded(thing_low):
        return
    several = " and " in answer or "," in answer or answer.endswith("s") or "year" in thing_low[:9]
    if be in {"are", "were"} and not several:  # one of the answers to a question for all of them
        return
    text = " ".join(thing)
    if thing_low[0] in _PARTICIPLES or (
        thing_low[0].endswith("ly") and thing_low[1:2] and thing_low[1] in _PARTICIPLES
    ):
        if thing_low[-1] not in _PREPOSITIONS:
            yield f"{answer} {be} {text}"
        return
    called = re.fullmatch(
        r"(.+?) ((?:\w+ly |also |better |best |now |once |first |now |it )?"
        r"(?:called|known as|nicknamed|named|named after|made of|made from|used for|used to \w+|short for|famous for"
        r"|based on|afraid of|married to|related to|known for|set in|noted for))",
        text,
    )
    if called:
        yield f"{called[1]} {be} {called[2]} {answer}"
        return
    if thing_low[-1] in _PREPOSITIONS or thing_low[-1] in {"like", "called", "doing"} or "called" in thing_low:
        parted = _part(thing, thing_low, _PARTICIPLES)
        if parted and thing_low[-1] in _PREPOSITIONS:
            subject, predicate = parted
            yield f"{' '.join(subject)} {be} {' '.join(predicate)} {answer}"
        return
    if any(
        word.endswith("ing") and word not in {"king", "during", "building", "king's"}
        for word in thing_low[-1:]
        if len(thing) <= 4
    ):
        return
    owner = next((i for i, word in enumerate(thing) if re.search(r"\w(['’]s|s['’])$", word)), None)
    owned = owner is not None and owner < len(thing) - 1 and not _PREPOSITIONS & {*thing_low[:owner]}
    definite = thing_low[0] in {"the", "his", "her", "its"} or owned
    if definite or ((thing[0][:1].isupper() or thing[0][:1] in "‘“\"'") and "and" not in thing_low):
        yield f"{text}{',' if text.count(',') == 1 else ''} {be} {answer}"
    if (definite and be in {"is", "was"}) or thing_low[0] in {"a", "an", "one"}:
        yield f"{answer} {be} {text}"


def _object(rest, low, answer, noun: str = "") -> Iterator[str]:
    """ "did Columbus discover in 1492": what was asked for stands after the verb, or after a preposition at the end."""
    do, clause, clause_low = low[0], rest[1:], low[1:]
    if do == "does" and clause_low[:1] == ["the"] and len(clause_low) > 2 and clause_low[2] == "of" and not noun:
        yield f"{answer} does {' '.join(clause)}"
        return
    parted = _part(clause, clause_low, _PAST)
    if not parted:
        return
    subject, predicate = parted
    at = next(i for i, word in enumerate(_lowered(predicate)) if word in _PAST)
    adverbs, verb, after = predicate[:at], predicate[at].lower(), predicate[at + 1 :]
    if verb == "do":
        return
    told = " ".join([*subject, *adverbs, _conjugated(verb, do)])
    thing = f"{answer} {noun}".strip()
    low_after = _lowered(after)
    if not after:
        yield f"{told} {thing}"
    elif low_after[-1] in _PREPOSITIONS - {"before", "after"} or after[-1] in _PARTICLES:
        yield f"{told} {' '.join(after)} {thing}"
    elif low_after[0] in _PARTICLES and (len(after) == 1 or low_after[1] in _AFTER_A_GAP - {"with", "on"}):
        yield f"{told} {after[0]} {thing} {' '.join(after[1:])}"
    elif low_after[0] in _AFTER_A_GAP and not _stranded(low_after):
        yield f"{told} {thing} {' '.join(after)}"


def _stranded(low: Sequence[str]) -> bool:
    """Whether two prepositions meet, so that one of them may have lost its noun to the question word."""
    lonely = {"as", "to", "for", "with", "of", "by", "about", "at", "in", "on", "from"}
    follows = _PREPOSITIONS - {"over", "around", "about"} | {"when", "while", "because"}
    return any(a in lonely and b in follows for a, b in itertools.pairwise(low))


def _noun_phrase(rest, low, answer) -> Iterator[str]:
    """ "British artist painted X", "city was X born in", "award did X win": the question word has a noun."""
    at = None
    for i in range(1, len(low)):
        word, after = low[i], low[i + 1 : i + 2]
        if word in _BE | _DO | _HAVE | _MODAL:
            at = i
            break
        if word in _ADJECTIVE_LIKE or after == ["by"] or word in _PREPOSITIONS:
            continue
        if word in _SAID_OF_SUBJECT and i + 1 < len(low):
            at = i
            break
        earlier = any(re.search("[^s]s$", one) for one in low[:i])  # a plural, or a verb that isn't known
        if (
            _third_person(word)
            and not earlier
            and after
            and (after[0] in _DETERMINERS | _PREPOSITIONS | {"to"} or rest[i + 1][:1].isupper())
        ):
            at = i
            break
    if at is None or {*low[:at]} & {"who", "that", "whose", "where", "also"}:
        return
    if rest[at - 1].endswith(",") != ("," in " ".join(rest[: at - 1])):  # an aside that is opened but not closed
        return
    noun, verb, clause, clause_low = rest[:at], low[at], rest[at + 1 :], low[at + 1 :]
    if noun[0].lower() in _UNSAID | _PREPOSITIONS | {"happened", "one"} or "of" in noun[:1] or not clause:
        return
    if len(noun) > 1 and noun[1].lower() == "of" and noun[0].lower() in _UNSAID:
        return
    if noun[-1].lower().endswith("ly"):
        return
    name = " ".join(noun)
    time = noun[-1].lower() in {"year", "date", "day", "decade", "century", "month"} or "year" in noun
    if verb in _DO:
        if time:
            yield from _with_preposition(rest, low, answer, "")
        else:
            yield from _object(rest[at:], low[at:], answer)
        return
    if verb in _MODAL:
        return
    if verb in _BE:
        if time and clause_low[0] not in _PARTICIPLES:
            yield from _with_preposition(rest, low, answer, "")
            return
        inner = _part(clause, clause_low, _PARTICIPLES)
        subject_asked = clause_low[0] in _PARTICIPLES | _PREPOSITIONS | {
            "a",
            "an",
            "not",
            "also",
            "best",
            "first",
            "one",
        } or (clause_low[0].endswith(("ly", "ed")))
        if clause_low[0] == "the" and clause_low[-1] not in _PREPOSITIONS and not inner:
            subject_asked = True
        if subject_asked and clause_low[-1] not in {"by", "after", "in", "to", "from", "with"}:
            yield from _subject_with_noun(name, noun, verb, clause, answer)
        elif clause_low[-1] in _PREPOSITIONS and inner:
            yield f"{' '.join(inner[0])} {verb} {' '.join(inner[1])} {answer}"
        elif clause_low[-1] in {"in", "on", "from", "at"} and len(clause) <= 5:
            yield f"{' '.join(clause[:-1])} {verb} {clause[-1]} {answer}"
        return
    inverted = clause[0][:1].isupper() or clause_low[0] in _DETERMINERS | _PRONOUNS
    if verb in _HAVE and inverted and any(word in _PARTICIPLES for word in clause_low[1:]):
        return  # "award has Tom Hanks won"
    yield from _subject_with_noun(name, noun, verb, clause, answer)


def _subject_with_noun(name, noun, verb, clause, answer) -> Iterator[str]:
    predicate = f"{verb} {' '.join(clause)}"
    plural = verb in {"are", "were"} or re.search(r"[^siu]s$", noun[-1].lower()) is not None
    if plural or "two" in noun or "," in name:
        yield f"{answer} {predicate}"
        return
    yield f"the {name} {answer} {predicate}" if noun[-1].lower() in _NAMES else f"{answer} {predicate}"
    yield f"the {name} that {predicate} {_then(verb)} {answer}"
    yield f"{answer} {_then(verb)} the {name} that {predicate}"


def _with_preposition(noun_on, low, answer, preposition) -> Iterator[str]:
    """ "(in) which city was X born": a preposition, the noun asked for, then a clause in the order of a question."""
    at = next((i for i, word in enumerate(low) if word in _BE | _DO | _MODAL and i <= 12), None)
    if at is None:
        return
    noun, aux, clause, clause_low = low[:at], low[at], noun_on[at + 1 :], low[at + 1 :]
    if not clause or any(word in {"who", "that", "many", "much"} for word in noun):
        return
    time = bool(noun) and any(word.strip(",") in {"year", "years", "date", "day", "month", "decade"} for word in noun)
    where = _time(answer) if time else f"{preposition} {_without_preposition(answer, preposition)}"
    if not where:
        return
    yield from _placed(aux, clause, clause_low, where)


def _placed(aux: str, clause, low, where: str) -> Iterator[str]:
    """Clauses "did X open", "was X born", "is X" with a place or a time after them, and before them."""
    if low[-1] in _PREPOSITIONS:
        return
    if aux in _BE:
        parted = _part(clause, low, _PARTICIPLES | {"coming", "going", "being"})
        if not parted:
            if len(clause) <= 6 and (clause[-1][:1].isupper() or low[0] == "the") and "," not in " ".join(clause):
                yield f"{' '.join(clause)} {aux} {where}"
            return
        subject, predicate = " ".join(parted[0]), " ".join(parted[1])
        told = f"{subject} {aux} {predicate}"
    else:
        parted = _part(clause, low, _PAST)
        if not parted:
            return
        subject, words = " ".join(parted[0]), parted[1]
        at = next(i for i, word in enumerate(_lowered(words)) if word in _PAST)
        verb = words[at].lower()
        said = f"{aux} {verb}" if aux in _MODAL else _conjugated(verb, aux)
        told = f"{subject} {' '.join([*words[:at], said, *words[at + 1 :]])}"
    long = "," in told[len(subject) :].strip(" ,") and aux not in _BE
    yield f"{told.rstrip(',')}{',' if long else ''} {where}"
    yield f"{where}, {told}"


def _when_or_where(first, rest, low, answer) -> Iterator[str]:
    aux, clause, clause_low = low[0], rest[1:], low[1:]
    if aux not in _BE | _DO | _MODAL or not clause or clause_low[0] in {"it"}:
        return
    if first == "when":
        where = _time(answer)
        if where and aux in _BE and not _part(clause, clause_low, _PARTICIPLES | {"coming", "going", "being"}):
            if clause_low[0] == "the":
                yield f"{' '.join(clause)} {aux} {where}"
            return
    else:
        starts = answer.split()[0].lower()
        named = answer[:1].isupper() and starts != "the" and len(answer.split()) <= 4
        places = {
            "stadium",
            "arena",
            "island",
            "islands",
            "river",
            "street",
            "road",
            "park",
            "center",
            "centre",
            "hotel",
        }
        where = answer if starts in _PREPOSITIONS else f"in {answer}" if named else ""
        if places & {word.lower() for word in answer.split()}:
            where = f"at {answer}"
        if "from" in clause_low[-1:]:
            parted = _part(clause, clause_low, _PAST)
            named = answer[:1].isupper() or starts == "the"
            if parted and named and aux in _DO and parted[1][0].lower() in {"come", "originate", "derive"}:
                yield f"{' '.join(parted[0])} {_conjugated(parted[1][0].lower(), aux)} from {answer}"
            return
    if where:
        yield from _placed(aux, clause, clause_low, where)


def _how_many(rest, low, answer) -> Iterator[str]:
    at = next(
        (i for i, word in enumerate(low) if i and word in _BE | _DO | _HAVE | _MODAL | set(_SAID_OF_SUBJECT)), None
    )
    if at is None:
        return
    noun, verb, clause, clause_low = rest[:at], low[at], rest[at + 1 :], low[at + 1 :]
    count = re.fullmatch(r"[\d,.]+( (million|billion|thousand))?|[a-z]+(-[a-z]+)?", answer.lower())
    if answer.lower() in {"1", "one"} or not (count or answer.lower().startswith(("over", "more", "about"))):
        if noun[0].lower().rstrip("s") in answer.lower() and verb in _DO:
            yield from _object(rest[at:], low[at:], answer, "")
        return
    name = " ".join(noun)
    answer = answer.lower() if answer.istitle() else answer  # "Six" within a sentence
    if verb in _DO:
        yield from _object(rest[at:], low[at:], answer, name)
    elif verb in {"are", "were"} and clause_low[:1] == ["there"]:
        yield f"there {verb} {answer} {name} {' '.join(clause[1:])}"
    elif (
        verb in {"is", "was"}
        or (not clause and verb in _BE)
        or (
            verb in _MODAL | _HAVE
            and (not clause or clause[0][:1].isupper() or clause_low[0] in _DETERMINERS | _PRONOUNS)
        )
    ):
        return
    elif clause:
        yield f"{answer} {name} {verb} {' '.join(clause)}"


# Words --------------------------------------------------------------------------------------------------


def _part(words, low, verbs) -> tuple[list[str], list[str]] | None:
    """A clause without its auxiliary, parted into subject and predicate before its main verb; None if none is sure."""
    for i in range(1, len(low)):
        before = low[i - 1]
        if words[i] not in verbs or before in _DETERMINERS | _PREPOSITIONS | {"and", "who"}:
            continue
        if before.endswith(("'s", "’s")) and i + 1 < len(low) and low[i + 1] in verbs:
            continue
        if (
            low[i + 1 : i + 2]
            and low[i + 1] in verbs
            and low[i + 1] not in {"set", "put", "cut"}
            and not words[i + 1].istitle()
        ):
            continue  # "the play open": the later one is the verb
        start = i
        while start > 1 and (low[start - 1] in _ADVERBS or re.fullmatch("[a-z]+ly", words[start - 1])):
            start -= 1
        if start > 1 and any("," in word for word in words[start:i]):
            return None
        commas = sum(word.endswith(",") for word in words[:start])
        if commas == 1 and words[start - 1].endswith(",") and any(word.endswith(",") for word in words[i:]):
            continue  # "the lake, also known as X, named": an aside
        return list(words[:start]), list(words[start:])
    return None


def _lowered(words: Iterable[str]) -> list[str]:
    return [word.lower().strip(",;:\"“”‘’'()") for word in words]


def _is_verb(word: str) -> bool:
    return word in _SAID_OF_SUBJECT


def _third_person(word: str) -> bool:
    """Whether the word is a known verb said of he, she or it: "writes"."""
    return word.endswith("s") and any(base in _PAST for base in (word[:-1], word[:-2], word[:-3] + "y"))


def _conjugated(verb: str, do: str) -> str:
    if do == "did":
        return _PAST[verb]
    if do == "do":
        return verb
    if verb in {"have", "go", "do"}:
        return {"have": "has", "go": "goes", "do": "does"}[verb]
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z")) else "s")


def _time(answer: str) -> str | None:
    """ "in 1984", "on 4 July 1976", "in the 1920s": an answer with the preposition of a time; None if it is no time."""
    low = answer.lower().replace(",", " ")
    if low.split()[0] in _PREPOSITIONS:
        return answer
    if re.fullmatch(r"(ad |c\. ?)?\d{3,4}( ?(ad|bc|bce|ce))?", low):
        return f"in {answer}"
    if re.fullmatch(r"(the )?(early |late |mid-?)?(\d{4}['’]?s|\d+(st|nd|rd|th) century.*)", low):
        return f"in {answer}" if low.startswith("the") else f"in the {answer}"
    month = "|".join(_MONTHS)
    if re.fullmatch(rf"({month})( of)? +\d{{4}}|({month})", low):
        return f"in {answer}"
    day = r"\d{1,2}(st|nd|rd|th)?"
    if re.fullmatch(rf"({month}) {day}( +\d{{4}})?\.?|{day}( of)? ({month})( +\d{{4}})?\.?", low):
        return f"on {answer}"
    return None


def _without_preposition(answer: str, preposition: str) -> str:
    """The answer without a preposition that already stands before it."""
    first, _, rest = answer.partition(" ")
    return rest if rest and first.lower() == preposition else answer


def _plain_noun(noun: Sequence[str]) -> bool:
    last = noun[-1].lower()
    return len(noun) <= 6 and not last.endswith("s") and not {*_lowered(noun)} & (_UNSAID | _PREPOSITIONS | {"part"})


def _own_noun(noun: Sequence[str], answer: str) -> bool:
    """Whether the answer says the noun itself: "Oxford University" for a university."""
    return noun[-1].lower() in answer.lower().split()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(said: str) -> str:
    first, _, rest = said.partition(" ")
    return f"{first.lower()} {rest}" if first.lower() in _STARTERS | {"it", "there"} else said


def _end(text: str) -> str:
    return text.rstrip(".") + "." if not text.endswith(("!", "?", '."', ".”")) else text


def _same(text: str) -> str:
    return " ".join(text.casefold().split())
