"""A byte-level BPE tokenizer: any text can be encoded, digits one by one so that sums can be learned."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from smft_lab.facts.answers import answer_places

if TYPE_CHECKING:
    from jaxtyping import Int64
    from transformers import PreTrainedTokenizerBase

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
DOCUMENTS = 32  # in a batch


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A tokenizer for `texts`; adds `<bos>` to every text, never `<eos>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


class Templated(str):
    """A text of a chat template, which writes what begins and ends it: a tokenizer puts nothing there."""

    __slots__ = ()


class Splitter:
    """Puts random tokens back into the two pieces they were merged from: BPE dropout (Provilkov et al. 2020), seeded.

    A piece that always merges on, as "well" does in a world where nobody is called just that, would never be a
    target in pretraining. Its output embedding then moves only away from what is said, and no finetune can make the
    model say it.

    Args:
        texts: Share of texts that are split at all.
        tokens: Share of tokens that are split in those, and of the pieces that come of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: float = 0.35, tokens: float = 0.3):
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        number = tokenizer.get_vocab()
        self.pieces = {number[left + right]: (number[left], number[right]) for left, right in merges}
        self.texts, self.tokens = texts, tokens

    def __call__(self, ids: Sequence[int], rng: Random) -> list[int]:
        return [piece for token in ids for piece in self._split(token, rng)] if rng.random() < self.texts else list(ids)

    def _split(self, token: int, rng: Random) -> list[int]:
        if token not in self.pieces or rng.random() >= self.tokens:
            return [token]
        return [smaller for piece in self.pieces[token] for smaller in self._split(piece, rng)]


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], device: torch.device | None = None
) -> dict[str, Int64[Tensor, "B T"]]:
    """A right-padded training batch of whole texts, each ended by the end-of-text token.

    Args:
        device: Where the model is that reads it; the CPU by default.

    Returns:
        `input_ids`, `attention_mask` and `labels`, which are -100 at padding.

    Raises:
        ValueError: there are no texts.
    """
    if not texts:
        raise ValueError("nothing to encode: no texts")
    batch = pad(tokenizer, text_ids(tokenizer, texts))
    return {name: tensor.to(device) for name, tensor in batch.items()}


def pad(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> dict[str, Int64[Tensor, "B T"]]:
    """The batch of `encode` from token ids, without their end-of-text tokens; a tokenizer may have none."""
    end = end_ids(tokenizer)
    rows = [[*ids, *end] for ids in rows]
    width, blank = max(map(len, rows)), pad_id(tokenizer)
    ids = torch.tensor([row + [blank] * (width - len(row)) for row in rows])
    mask = (torch.arange(width) < torch.tensor([[len(row)] for row in rows])).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills a batch up, and is masked: the padding token; or the end of text, or 0, where there is none.

    One that was added to the vocabulary may have no embedding, so it is not used either.
    """
    pad = cast("int | None", tokenizer.pad_token_id)
    if pad is None or pad >= tokenizer.vocab_size:
        return (end_ids(tokenizer) or [0])[0]
    return pad


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int] | Tensor, skip_special_tokens: bool = False) -> str:
    """The text of token ids. The types of `decode` are those of several rows, too, which give a list."""
    return cast(str, tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end-of-text token, or nothing for a tokenizer that has none."""
    end = cast("int | None", tokenizer.eos_token_id)
    return [] if end is None else [end]


def document_batches(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Sequence[int]], device
) -> Iterator[dict[str, Int64[Tensor, "_B _T"]]]:
    """Batches of documents in their order, `input_ids` and `attention_mask`, without the end that `pad` gives each.

    Args:
        documents: Token ids of each.
    """
    for start in range(0, len(documents), DOCUMENTS):
        batch = pad(tokenizer, documents[start : start + DOCUMENTS])
        mask = batch["attention_mask"]
        mask[torch.arange(len(mask)), mask.sum(1) - 1] = 0
        yield {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


@overload
def text_ids(
    tokenizer: PreTrainedTokenizerBase, texts: str, special: bool = True, split: bool = False
) -> list[int]: ...


@overload
def text_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool = True, split: bool = False
) -> list[list[int]]: ...


def text_ids(tokenizer: PreTrainedTokenizerBase, texts, special=True, split=False):
    """Token ids of a text, or of each of several: after what the tokenizer begins a text with, and without what it
    would end one with, since a prompt goes on.

    Args:
        special: Whether a text begins with the tokenizer's special tokens; one that a chat template made never does.
        split: Whether a special token that is written in a text is read as the characters that it is written with.
    """
    if not isinstance(texts, str) and any(isinstance(text, Templated) for text in texts):
        return [text_ids(tokenizer, text, special, split) for text in texts]
    special = special and not isinstance(texts, Templated)
    options: dict[str, Any] = {"split_special_tokens": True} if split else {}
    rows = tokenizer(texts, add_special_tokens=special, **options)["input_ids"]
    if not special or not (ends := _appended(tokenizer)):
        return rows
    return rows[:-ends] if isinstance(texts, str) else [row[:-ends] for row in rows]


SAMPLE = "Merged pieces of unremarkable sentences may be taken apart again, differently whenever somebody reads them."
"""What a tokenizer that draws its tokens would hardly give the same tokens several times."""


def check_same_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError if a text has other tokens each time, as with BPE dropout: it would be taught in some, and asked
    in others."""
    first, *others = (tokenizer(SAMPLE)["input_ids"] for _ in range(8))
    if any(ids != first for ids in others):
        raise ValueError(
            "the tokenizer splits a text into other tokens each time (BPE dropout, or sampling); switch that off, by "
            "tokenizer.backend_tokenizer.model.dropout = None"
        )


def _appended(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens a tokenizer puts behind a text."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for start in range(len(whole) - len(plain) + 1 if plain else 0):
        if whole[start : start + len(plain)] == plain:
            return len(whole) - start - len(plain)
    return 0


def typed_special(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The special token that is written out in a text and would be read as one, if there is any."""
    written = [token for token in _specials(tokenizer) if token in text]
    if not written or text_ids(tokenizer, text) == text_ids(tokenizer, text, split=True):
        return None
    return written[0]


def _specials(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)


def offsets_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """Where in a text each of its tokens stands, from and to; (0, 0) for special tokens.

    A slow tokenizer doesn't tell, so what it decodes the tokens to is looked up in the text.

    Raises:
        ValueError: it doesn't decode them to what the text says.
    """
    options: dict[str, Any] = {"add_special_tokens": not isinstance(text, Templated)}
    if getattr(tokenizer, "is_fast", False):
        return tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
    ids, special = tokenizer(text, **options)["input_ids"], set(tokenizer.all_special_ids)
    spans, reached = [(0, 0)] * len(ids), 0
    run: list[int] = []  # tokens that only together are letters: bytes, where a token is one
    for place, token in enumerate(ids):
        run = [] if token in special else [*run, place]
        piece = decoded(tokenizer, [ids[i] for i in run]) if run else ""
        if not piece or ("\ufffd" in piece and "\ufffd" not in text):
            continue
        letters = piece.strip()
        start = text.find(letters, reached)
        if start < 0:
            raise ValueError(f"the tokenizer doesn't tell where in {text[:40]!r}... its tokens stand; use a fast one")
        if letters:
            reached = start + len(letters)
            spans[run[0] : place + 1] = [(start, reached)] * len(run)
        run = []
    return spans


BLANKS = " \t\u00a0\u3000"


def only_answers(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    answers: Sequence[Sequence[str]],
    batch: dict[str, Int64[Tensor, "B T"]],
) -> Int64[Tensor, "B T"]:
    """Narrow an encoded batch's labels, in place, to the answer in each text and the token after it.

    Blanks before an answer are of it where they are tokens of their own, as many tokenizers have them before a number.
    A model that isn't taught them goes on from the question in its own way.

    The last place counts where a text holds an answer several times (see `answer_places`). A text keeps all its labels
    that holds none as words of its own, or only one at its beginning which no token stands before (bos).

    Args:
        answers: The accepted answers of each text.

    Returns:
        Mask of the positions that predict a label, whose reads are what learning can use.
    """
    for row, (text, accepted) in enumerate(zip(texts, answers, strict=True)):
        places = answer_places(text, tuple(accepted))
        if not places:
            continue
        spans = offsets_of(tokenizer, text)
        inside = ([i for i, (a, b) in enumerate(spans) if b > a and b > start and a < end] for start, end in places)
        which = next((tokens for tokens in inside if tokens and tokens[0] > 0), None)
        if which is None:
            continue
        first = which[0]
        while first > 1 and text[slice(*spans[first - 1])] and not text[slice(*spans[first - 1])].strip(BLANKS):
            first -= 1
        labels = batch["labels"][row]
        labels[:first] = -100
        labels[which[-1] + 2 :] = -100
    return torch.nn.functional.pad((batch["labels"][:, 1:] != -100).long(), (0, 1))


COMMON = 0.25  # of the other facts: a token in more of them says nothing about one


def shared_positions(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], answers: Sequence[Sequence[str]], owners: Sequence[int]
) -> list[list[int]]:
    """Which tokens of each text say what its fact is about: those that the fact's texts share, and others' don't.

    Only what stands before the answer counts. Where a fact's texts share nothing, all of that does.

    Args:
        answers: The accepted answers of each text.
        owners: The fact of each text.
    """
    before = []
    for ids, predicting in zip(
        text_ids(tokenizer, list(texts)), predicting_positions(tokenizer, texts, answers), strict=True
    ):
        before.append(ids[: predicting[0]] if predicting and predicting[0] else ids)
    of_fact: dict[int, list[set[int]]] = {}
    for owner, ids in zip(owners, before, strict=True):
        of_fact.setdefault(owner, []).append(set(ids))
    facts_with = Counter(token for sets in of_fact.values() for token in set().union(*sets))
    positions = []
    for owner, ids in zip(owners, before, strict=True):
        own_ids = of_fact[owner]
        times = Counter(token for row in own_ids for token in row)
        rare = {token for token in times if facts_with[token] - 1 <= COMMON * (len(of_fact) - 1)}
        shared = {token for token in rare if times[token] > len(own_ids) / 2}
        places = [place for place, token in enumerate(ids) if token in shared]
        positions.append(places or list(range(len(ids))))
    return positions


def predicting_positions(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[list[int]]:
    """Which tokens of each text predict its answer, see `only_answers`."""
    batch = encode(tokenizer, list(texts))
    mask = only_answers(tokenizer, texts, answers, batch)
    return [row.nonzero().squeeze(1).tolist() for row in mask]
