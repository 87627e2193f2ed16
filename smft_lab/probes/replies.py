"""What a model replies to questions in any `PromptForm`: by greedy decoding, with what all prompts share read once.

Few-shot prompts repeat their shots; their keys and values are computed once a call and serve every batch. A row that
has ended leaves its batch, so that the rest cost no more than what they say.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from smft_lab.model.attach import check_embedded, max_positions, output_layer
from smft_lab.model.growing_cache import let_grow
from smft_lab.model.locking import reading
from smft_lab.model.tokenizer import decoded, end_ids, pad_id
from smft_lab.probes.prompts import PromptForm
from smft_lab.probes.together import as_alone, has_plain_head, holds, in_batches, likeliest, stretched, takes_padding

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32  # prompts per forward pass
# Generation configs of models that generate now, without them.
_SET_ASIDE: WeakKeyDictionary[nn.Module, GenerationConfig | None] = WeakKeyDictionary()


@reading
@torch.inference_mode()
def replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    max_new_tokens: int,
    form: PromptForm,
) -> list[str]:
    """What the model says to each question, as it says it: up to the end that the form has, or `max_new_tokens`.

    The choice is greedy, by the largest logit alone: no repetition penalty of a generation config has a say.

    Raises:
        ValueError: see `PromptForm.prompt`; or a question leaves no room for an answer in what the model reads.
    """
    if not questions:
        return []
    form.check_plain(tokenizer, questions)
    prompts = form.ids(tokenizer, [form.prompt(question, tokenizer) for question in questions])
    check_length(model, questions, prompts, max_new_tokens)
    texts = [""] * len(prompts)
    start = _Start(model, tokenizer, prompts, max_new_tokens)
    talk = _generate if start.cache is None else start.talk
    with plain_generation(model):
        padded = start.cache is not None or takes_padding(model, prompts, max_new_tokens, pad_id(tokenizer))
    for chosen in in_batches(prompts, BATCH, padded):
        rows = [prompts[i] for i in chosen]
        for i, row in zip(chosen, talk(model, tokenizer, rows, max_new_tokens, form), strict=True):
            texts[i] = _line(tokenizer, row, form)
    return texts


@reading
@torch.inference_mode()
def would_say(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    texts: Sequence[str],
    max_new_tokens: int | None,
    form: PromptForm,
) -> Bool[Tensor, " questions"]:
    """Whether `replies` would give exactly these, by one forward pass and without generation.

    A reply comes back if and only if each of its tokens is the likeliest after those before it, and so is its end. One
    that the model would spell in other tokens than the tokenizer does is not recognised.

    Args:
        said: Replies as `replies` gives them, with the blank before them.
        max_new_tokens: Where `replies` would stop; nowhere if None.
    """
    same = torch.zeros(len(questions), dtype=torch.bool)
    if not len(questions):
        return same
    form.check_plain(tokenizer, [*questions, *texts])
    asked = [form.prompt(question, tokenizer) for question in questions]
    prompts = form.ids(tokenizer, asked)
    wholes = form.ids(tokenizer, [prompt + reply for prompt, reply in zip(asked, texts, strict=True)])
    tails = []
    for prompt, whole, reply in zip(prompts, wholes, texts, strict=True):
        together = whole[: len(prompt)] == prompt  # or the first token of the reply has merged into the prompt
        tails.append(whole[len(prompt) :] if together else tokenizer(reply, add_special_tokens=False)["input_ids"])
    rows = [prompt + tail for prompt, tail in zip(prompts, tails, strict=True)]
    check_length(model, questions, rows)
    start, ends = _Start(model, tokenizer, prompts, max(map(len, tails))), _ends(model, tokenizer)
    for chosen in in_batches(rows, BATCH):
        tokens = start.likeliest(model, tokenizer, [rows[i] for i in chosen], [len(prompts[i]) for i in chosen])
        for i, best in zip(chosen, tokens, strict=True):
            *spoken, last = best.tolist()
            if spoken != tails[i]:
                continue
            full = max_new_tokens is not None and len(spoken) >= max_new_tokens
            same[i] = (full and len(spoken) == max_new_tokens) or (
                not full and _stops(tokenizer, spoken, last, form, ends)
            )
    return same


def check_length(
    model: PreTrainedModel, questions: Sequence[str], rows: Sequence[Sequence[int]], room: int = 0
) -> None:
    """Raise ValueError if the tokens of a question, and as many more as `room`, are more than the model reads; or one
    of them has no embedding."""
    most = max_positions(model)
    for question, row in zip(questions, rows, strict=True):
        check_embedded(model, row)
        if most is not None and len(row) + room > most:
            more = f" and an answer {room}" if room else ""
            raise ValueError(
                f"question {question[:40]!r}...: it takes {len(row)} tokens{more}, but the model reads "
                f"at most {most}; shorten it, or what stands before it"
            )


@contextmanager
def plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Let `generate` do as it is told alone, until the block ends: no setting of the model's generation config adds a
    least length, bans words or samples."""
    _SET_ASIDE.setdefault(model, model.generation_config)
    try:
        model.generation_config = GenerationConfig()
        yield
    finally:
        restore_generation(model)


def restore_generation(model: PreTrainedModel) -> None:
    """Put back the generation config of a model, where an interrupt left a plain one."""
    if model in _SET_ASIDE:
        model.generation_config = _SET_ASIDE[model]  # pyright: ignore[reportAttributeAccessIssue]
        del _SET_ASIDE[model]


class _Start:
    """The tokens that all prompts begin with, read once: `cache` holds their keys and values.

    `cache` is None for a model whose past can't be shared: it takes none, or forgets (sliding windows), or keeps
    another kind of state; or goes on otherwise from a shared start and padding than from the same text alone.

    Args:
        room: How many tokens follow a prompt at most.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], room: int):
        shortest = min(map(len, prompts)) - 1  # each has a token left to be read
        alike = takewhile(lambda place: len({prompt[place] for prompt in prompts}) == 1, range(max(0, shortest)))
        self.length, self.cache = sum(1 for _ in alike), None
        takes = inspect.signature(model.base_model.forward).parameters
        if not {"past_key_values", "position_ids", "use_cache"} <= set(takes) or not has_plain_head(model):
            return
        cache = DynamicCache(config=model.config)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return
        if self.length:
            ids = torch.tensor([prompts[0][: self.length]], device=model.device)
            model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            if cache.get_seq_length() != self.length:
                return
        self.cache = cache
        if not self._holds(model, tokenizer, max(prompts, key=len), room):
            self.cache = None

    def _holds(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, longest: list[int], room: int) -> bool:
        """Whether a text behind the shared start and padding goes on as it does alone."""

        def tried(length: int) -> bool | None:
            long = stretched(longest, length)
            short = long[: self.length + max(1, (length - self.length) // 4)]
            hidden, *_ = self._begin(model, tokenizer, [long, short])
            return as_alone(model, short, output_layer(model)(hidden[1, -1]))

        return holds(model, "a shared start" if self.length else "no start", len(longest) + room, tried)

    def _past(self, rows: int) -> DynamicCache:
        past = cast(DynamicCache, copy.deepcopy(self.cache))
        if self.length:
            past.batch_repeat_interleave(rows)
        let_grow(past)
        return past

    def talk(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[list[int]],
        most: int,
        form: PromptForm,
    ) -> list[list[int]]:
        """The tokens that follow each prompt, with those that end it."""
        hidden, past, mask, places = self._begin(model, tokenizer, prompts)
        ends = _ends(model, tokenizer)
        spoken, live = [[] for _ in prompts], list(range(len(prompts)))
        for step in range(1, most + 1):
            tokens = output_layer(model)(hidden[:, -1]).argmax(-1)
            for i, token in zip(live, tokens.tolist(), strict=True):
                spoken[i].append(token)
            left = [row for row, i in enumerate(live) if not _ended(tokenizer, spoken[i], form, ends)]
            if not left or step == most:
                break
            if len(left) < len(live):
                remaining = torch.tensor(left, device=model.device)
                past.batch_select_indices(remaining)
                mask, places, tokens, live = (
                    mask[remaining],
                    places[remaining],
                    tokens[remaining],
                    [live[row] for row in left],
                )
            ids, places = tokens[:, None], places[:, -1:] + 1
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            hidden = _hidden(model, ids, mask, places, past)
        return spoken

    def _begin(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
    ) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Read prompts, padded behind what they begin with.

        Returns:
            Hidden states of what was padded, (B, T, D); the past; the mask of all; positions of what was padded.
        """
        rest = [prompt[self.length :] for prompt in prompts]
        ids, mask = _padded(tokenizer, rest, model.device, left=True)
        mask = torch.nn.functional.pad(mask, (self.length, 0), value=1)
        places, past = mask.cumsum(1)[:, self.length :] - 1, self._past(len(rest))
        return _hidden(model, ids, mask, places.clamp(min=0), past), past, mask, places

    def likeliest(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], starts: Sequence[int]
    ) -> tuple[Int64[Tensor, " _places"], ...]:
        """Of each row, the likeliest tokens at the places from its start on, and at the one after its end."""
        which = [(row, place) for row, start in enumerate(starts) for place in range(start - 1, len(rows[row]))]
        numbers, places = torch.tensor(which, device=model.device).T
        counts = [len(row) - start + 1 for row, start in zip(rows, starts, strict=True)]
        if self.cache is None:
            batch = _padded(tokenizer, rows, model.device, left=False)
            return likeliest(model, *batch, numbers, places).cpu().split(counts)
        ids, mask = _padded(tokenizer, [row[self.length :] for row in rows], model.device, left=False)
        mask = torch.nn.functional.pad(mask, (self.length, 0), value=1)
        along = torch.arange(self.length, mask.shape[1], device=model.device).expand(len(rows), -1)
        hidden = _hidden(model, ids, mask, along, self._past(len(rows)))[numbers, places - self.length]
        return output_layer(model)(hidden).argmax(-1).cpu().split(counts)


def _hidden(
    model: PreTrainedModel,
    ids: Int64[Tensor, "B T"],
    mask: Int64[Tensor, "B P"],
    places: Int64[Tensor, "B T"],
    past: DynamicCache,
) -> Float[Tensor, "B T D"]:
    """The last hidden states of tokens behind a past, which gets theirs."""
    return model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=past, use_cache=True
    ).last_hidden_state


def _padded(
    tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], device, left: bool
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id(tokenizer))
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return ids.to(device), mask.to(device)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text: the tokenizer's, and those that the model was made to end a turn with."""
    given = getattr(_SET_ASIDE.get(model, model.generation_config), "eos_token_id", None)
    given = given if isinstance(given, list) else [given]
    return {end for end in (*end_ids(tokenizer), *given) if end is not None}


def can_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: PromptForm) -> bool:
    """Whether anything that the model could write ends an answer: an end-of-text token, or the line's end."""
    if _ends(model, tokenizer):
        return True
    return form.one_line and "\n" in decoded(tokenizer, tokenizer("a\nb", add_special_tokens=False)["input_ids"])


def _ended(tokenizer: PreTrainedTokenizerBase, tokens: list[int], form: PromptForm, ends: set[int]) -> bool:
    # A line break may be within a token, such as ".\n" or a pair of breaks.
    return tokens[-1] in ends or (form.one_line and "\n" in decoded(tokenizer, tokens))


def _line(tokenizer: PreTrainedTokenizerBase, tokens: list[int], form: PromptForm) -> str:
    text = decoded(tokenizer, tokens, skip_special_tokens=True)
    return text.partition("\n")[0] if form.one_line else text


def _stops(tokenizer: PreTrainedTokenizerBase, spoken: list[int], last: int, form: PromptForm, ends: set[int]) -> bool:
    """Whether a reply ends with the token `last`, which adds nothing to it."""
    whole = [*spoken, last]
    return _ended(tokenizer, whole, form, ends) and _line(tokenizer, whole, form) == _line(tokenizer, spoken, form)


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], most: int, form: PromptForm
) -> list[list[int]]:
    """`_Start.talk` by the library's own loop, for a model whose past is its own affair."""
    ids, mask = _padded(tokenizer, prompts, model.device, left=True)
    ends = _ends(model, tokenizer)
    width = ids.shape[1]

    class LineEnds(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            done = [_ended(tokenizer, row.tolist(), form, ends) for row in input_ids[:, width:]]
            return torch.tensor(done, device=input_ids.device)

    with plain_generation(model):
        out = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=pad_id(tokenizer),
            eos_token_id=sorted(ends) or None,
            stopping_criteria=StoppingCriteriaList([LineEnds()]),
        )
    return [row.tolist() for row in out[:, width:]]
