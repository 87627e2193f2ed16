"""Giving a finished model a memory that facts can be written into, by forward passes alone: a `Lab` in minutes."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from smft_lab.experiments.background import OwnQuestions, OwnTexts, question_documents, text_documents
from smft_lab.facts.common import common_questions
from smft_lab.facts.fact import Fact
from smft_lab.facts.public.datasets import Question
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.teaching import CONTEXTS, counted_reads, taught_texts
from smft_lab.lab import Lab
from smft_lab.model.attach import add_memory, check_attachable
from smft_lab.model.fitting import fit_keys, fit_threshold, memory_inputs
from smft_lab.model.memory import memory_layers, value_tables
from smft_lab.model.tokenizer import check_same_tokens, decoded, document_batches
from smft_lab.probes.known import KnownSearch
from smft_lab.probes.probes import Probe, Probes, QuestionProbe, TextProbe, text_windows
from smft_lab.probes.prompts import PLAIN, PromptForm
from smft_lab.recipe import RETROFIT, Recipe
from smft_lab.slots.addresses import Addresses, measure_addresses, measure_blocks
from smft_lab.slots.settling import Settled, settling
from smft_lab.slots.usage import Usage
from smft_lab.terminal import progress_bar
from smft_lab.training.memory_training import check_window, skew
from smft_lab.writing import write_atomically

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEARD = 60  # background documents whose hidden states the threshold is measured against
RANKING = 240  # background documents with which blocks are ranked
FACTS = 16  # built-in ones that addresses are measured with, where no others are given
FORMAT = 3  # of what is kept of a stage
KNOWN = 60  # questions that the base answers right
HELD_OUT = 40  # windows of the text probe
HELD_OUT_SHARE = 0.1  # of a given text
ADDRESS_SEED = 999  # of the built-in facts that addresses are measured with
STAGES = {
    "background": "background texts",
    "questions": "background questions",
    "known": "asking what it knows",
    "blocks": "addresses, block by block",
    "keys": "fitting the keys",
    "usage": "counting reads",
    "addresses": "addresses of the memory",
}
KEPT = ("background", "questions", "known")
"""Those whose results are kept until all is done, each in a file."""


@dataclass(frozen=True)
class Progress:
    """How far a retrofit is: in which of `STAGES`, and how far in it."""

    stage: str
    done: int
    total: int
    note: str = ""


class Retrofit:
    """Attaches a memory to a finished model; going through it does the work, and `lab` is the result.

    Nothing is trained: the model writes its own background, or is given one; the block is chosen by how well facts are
    found there from another wording; the keys are fitted to what the block computes; reads are counted.

    Args:
        model, tokenizer: As `open_model` gives them; the model is changed in place.
        recipe: The switches.
        layers: Which blocks; `auto` takes the one where addresses are best, of those where what is written is not read
            by other texts, too (see `measure_blocks`).
        text: Ordinary text for the background and the text probe; by default the model writes its own.
        questions: Questions with answers for the background; by default the model writes its own.
        known: What to ask the base, to find what it knows; by default plain questions that come with the package.
        known_limit: How many questions that the base answers are enough.
        facts: Whose addresses are measured; by default built-in ones about invented people.
        probes: Other probes the lab is to have.
        form: How the model is asked.
        shots: Questions with answers shown before each of `known`.
        seed: Of all that is drawn.
        folder: Where finished stages are kept, so that one stopped at any moment goes on from there.

    Attributes:
        lab: The lab, once all is done.
        blocks: The table of `measure_blocks`; None where `layers` named blocks.
        addresses: Of the memory as attached.
        settled: How far the choice of slots for the facts has settled.

    Raises:
        ValueError: an option is out of range, the model can't be given a memory (see `add_memory`), the tokenizer
            gives a text other tokens each time, there is one fact, or the folder has files of something else.

    Examples:
        >>> small = smft.Recipe(slots=1024, background_texts=8, background_questions=0, window=16)
        >>> known = smft.new_facts(9)
        >>> work = smft.Retrofit(plain, lab.tokenizer, small, layers=[1], text=text, known=known, facts=known[:2])
        >>> list(dict.fromkeys(progress.stage for progress in work))
        ['background', 'known', 'keys', 'usage', 'addresses']
        >>> work.lab.slots
        1024
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe = RETROFIT,
        layers: str | Sequence[int] = "auto",
        *,
        text: str | None = None,
        questions: Sequence[Question | Fact] = (),
        known: Sequence[Question | Fact] = (),
        known_limit: int = KNOWN,
        facts: Sequence[Fact] = (),
        probes: Sequence[Probe] = (),
        form: PromptForm = PLAIN,
        shots: Sequence[tuple[str, str]] = (),
        seed: int = 0,
        folder: str | Path | None = None,
    ):
        if isinstance(layers, str) and layers != "auto":
            raise ValueError(f"layers must be 'auto' or numbers of blocks, not {layers!r}")
        check_attachable(model, None if isinstance(layers, str) else layers)
        check_same_tokens(tokenizer)
        if known_limit < 1:
            raise ValueError(f"known_limit must be at least 1, not {known_limit}")
        check_window(model, recipe.window if text is None else 2 * recipe.window)  # held-out text is in longer ones
        self.model, self.tokenizer, self.recipe, self.layers = model, tokenizer, recipe, layers
        self.text, self.questions, self.known, self.probes = text, list(questions), list(known), list(probes)
        self.taught = list(facts) or new_facts(FACTS, seed=ADDRESS_SEED)
        self.form, self.shots, self.seed, self.known_limit = form, tuple(shots), seed, known_limit
        if len(self.taught) < 2:
            raise ValueError("the addresses of facts are compared with one another; give at least two facts, or none")
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            for file in (self.folder / f"{stage}.json" for stage in KEPT):
                if file.exists():
                    _stage_in(file)
        self.lab: Lab | None = None
        self.blocks: pd.DataFrame | None = None
        self.addresses: list[Addresses] = []
        self.settled: Settled | None = None

    def __iter__(self) -> Iterator[Progress]:
        """Do the work, a part per item.

        Warns:
            UserWarning: so few slots take so many reads that a small t cannot work, or facts can't be found again.
        """
        recipe, model = self.recipe, self.model
        texts = yield from self._kept("background", self._texts())
        asked = yield from self._kept("questions", self._asked())
        texts_read = texts[: recipe.background_texts]
        documents = [*texts_read, *(ids for ids, _ in asked)]
        answering = None
        if recipe.fitted == "answer":
            answering = [*(torch.zeros(len(ids), dtype=torch.bool) for ids in texts_read), *map(_answering, asked)]
        known = yield from self._kept("known", self._known())
        layers = self.layers
        if isinstance(layers, str):
            yield Progress("blocks", 0, 1)
            self.blocks = measure_blocks(
                model,
                self.tokenizer,
                recipe,
                _spread(documents, RANKING),
                self.taught,
                self.form,
                seed=self.seed,
                answering=answering and _spread(answering, RANKING),
            )
            layers = [int(self.blocks["block"][0])]
        yield Progress("keys", 0, 1)
        add_memory(
            model,
            layers,
            recipe.slots,
            heads=recipe.heads,
            k=recipe.k,
            key_dim=recipe.key_dim,
            gate=recipe.gate,
            project=recipe.project,
            whiten=recipe.whiten,
            threshold=recipe.threshold > 0,
            seed=self.seed,
        )
        device = next(model.parameters()).device
        inputs = memory_inputs(model, document_batches(self.tokenizer, documents, device))
        fitted = inputs
        if answering is not None:
            places = torch.cat(answering)
            fitted = {position: states[places] for position, states in inputs.items()}
        fit_keys(model, fitted, recipe.keys, self.seed)
        if recipe.threshold:
            heard = document_batches(self.tokenizer, _spread(documents, HEARD), device)
            fit_threshold(model, heard, recipe.threshold)
        yield Progress("usage", 0, 1)
        half, usage = count_documents(model, inputs, [len(document) for document in documents])
        probes = [*Probes.from_records(known), self._text_probe(texts), *self.probes]
        self.lab = Lab(model, self.tokenizer, usage, Probes(probes), form=self.form, recipe=recipe, documents=documents)
        yield Progress("addresses", 0, 1)
        self.addresses = measure_addresses(self.lab, self.taught)
        self.settled = settled(self.lab, half, self.taught)
        yield Progress("addresses", 1, 1)
        weak = sum(len(layer.weak) for layer in self.addresses)
        for problem in (skew(usage), self._unfound(weak)):
            if problem:
                warnings.warn(problem, stacklevel=2)

    def report(self) -> dict:
        """The meters as JSON values: the table of blocks, the memory's addresses, and how settled the choice is."""
        return {
            "blocks": None if self.blocks is None else self.blocks.to_dict("records"),
            "addresses": [
                {"same": layer.same, "different": layer.different, "weak": layer.weak} for layer in self.addresses
            ],
            "facts": len(self.taught),
            "settled": self.settled and self.settled.same,
        }

    def summary(self) -> list[str]:
        """The meters in lines for people."""
        lines = []
        if self.blocks is not None:
            shown = ", ".join(
                f"{row.block}: {row.same:.2f}/{row.different:.2f}, {row.stray:.1%}" for row in self.blocks.itertuples()
            )
            lines.append(f"addresses, same fact / two facts, and stray reads; best block first: {shown}")
        for layer in self.addresses:
            lines.append(
                f"addresses of the memory: {layer.same:.2f} same fact, {layer.different:.2f} two facts; "
                f"{len(layer.weak)} of {len(self.taught)} facts hard to find"
            )
        lines.append(f"how far the choice of slots has settled: {self.settled}")
        probes = [] if self.lab is None else [probe for probe in self.lab.probes if isinstance(probe, QuestionProbe)]
        known = [len(probe.questions) for probe in probes if probe.name == "known"]
        known_note = f"{known[0]} questions that the base answers" if known else "no question that the base answers"
        lines.append(f"{known_note} found, to see what it forgets; more to ask: --known")
        return lines

    def _unfound(self, weak: int) -> str | None:
        if not weak:
            return None
        return (
            f"{weak} of {len(self.taught)} facts read other slots when they are asked than when they are told, and "
            "will hardly be found again; teach them in more wordings, or attach the memory to another block"
        )

    def _kept(self, stage: str, work: Iterator[Progress]) -> Iterator[Progress]:
        """Do one stage, or read what an earlier try has kept of it; what a stage returns is JSON values."""
        if self.folder is None:
            return (yield from work)
        file = self.folder / f"{stage}.json"
        asked = self._fingerprint()
        if file.exists():
            stored = _stage_in(file)
            if stored["asked"] == asked:
                yield Progress(stage, 1, 1, "kept from the last try")
                return stored["result"]
        result = yield from work
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"asked": asked, "result": result}) + "\n")
        return result

    def _fingerprint(self) -> str:
        """A hash of all that the kept stages depend on."""
        source = getattr(self.model, "smft_source", None)
        about = {
            "format": FORMAT,
            "model": source.to_json() if source is not None else str(self.model.config),
            "recipe": [getattr(self.recipe, name) for name in ("background_texts", "background_questions", "window")],
            "text": self.text,
            "form": self.form.to_json(),
            "shots": self.shots,
            "seed": self.seed,
            "known_limit": self.known_limit,
            "questions": [(question.question, question.answers) for question in (*self.questions, *self.known)],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _texts(self) -> Iterator[Progress]:
        """Windows of ordinary text, and after them those that are held out for the text probe, where it is written."""
        recipe = self.recipe
        if self.text is not None:
            yield Progress("background", 0, 1)
            if not recipe.background_texts:
                return []
            return text_documents(
                self.text[: self._held_out_from], self.tokenizer, recipe.background_texts, recipe.window, self.seed
            )
        wanted = recipe.background_texts + HELD_OUT
        writing = OwnTexts(self.model, self.tokenizer, wanted, recipe.window, self.seed)
        for written in writing:
            yield Progress("background", written.done, written.total)
        return writing.documents

    @property
    def _held_out_from(self) -> int:
        """Where in the given text its held-out end begins."""
        return int(len(self.text or "") * (1 - HELD_OUT_SHARE))

    def _text_probe(self, texts: list[list[int]]) -> TextProbe:
        if self.text is not None:
            return text_windows(
                self.text[self._held_out_from :], self.tokenizer, window=2 * self.recipe.window, count=HELD_OUT
            )
        own = texts[self.recipe.background_texts :]
        written = tuple(decoded(self.tokenizer, ids) for ids in own)
        return TextProbe("text", written, whole=False, tokens=tuple(map(tuple, own)))

    def _asked(self) -> Iterator[Progress]:
        count = self.recipe.background_questions
        if not count:
            return []
        openings = [self._search().form.shots, *CONTEXTS]
        if self.questions:
            yield Progress("questions", 0, 1)
            return question_documents(self.questions[:count], self.tokenizer, self.form, openings)
        probed = [question.question for question in self.known]
        writing = OwnQuestions(self.model, self.tokenizer, self.form, count, self.seed, without=probed)
        for written in writing:
            yield Progress("questions", written.done, written.total)
        return question_documents(writing.questions, self.tokenizer, self.form, openings)

    def _known(self) -> Iterator[Progress]:
        search = self._search()
        for progress in search:
            yield Progress("known", progress.asked, progress.total, str(progress))
        return Probes([search.probe]).to_records() if progress.known else []

    def _search(self) -> KnownSearch:
        pool = self.known or common_questions("probe")
        return KnownSearch(self.model, self.tokenizer, pool, self.known_limit, self.form.with_shots(self.shots))


def _spread(items: list, count: int) -> list:
    """Some of them, evenly spread: `count` or a few more, up to twice as many."""
    return items[:: max(1, len(items) // count)]


def _answering(document: tuple[list[int], int]) -> Bool[Tensor, " _tokens"]:
    """The tokens of a question with its answer that predict one of the answer, or the one that ends it."""
    ids, asking = document
    places = torch.arange(len(ids))
    return (places >= asking - 1) & (places < len(ids) - 1)


def _stage_in(file: Path) -> dict:
    """What an earlier try has kept of a stage.

    Raises:
        ValueError: the file is of something else.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or stored.keys() != {"asked", "result"}:
        raise ValueError(f"{file} is of something else, and would be replaced; move it away, or name another folder")
    return stored


@torch.no_grad()
def count_documents(
    model: PreTrainedModel, inputs: dict[int, Float[Tensor, "tokens D"]], lengths: Sequence[int]
) -> tuple[Usage, Usage]:
    """Background usage by every second document, and by all of them.

    Args:
        inputs: What each memory layer gets for all documents (see `memory_inputs`), so that no forward pass is needed.
        lengths: Tokens of each document, in the same order.
    """
    layers, tables = memory_layers(model), value_tables(model)
    N = len(tables[0].weight)
    usages = [Usage(0, *(torch.zeros(len(tables), N, dtype=torch.int32) for _ in range(2))) for _ in range(2)]
    parts = {position: states.split(list(lengths)) for position, states in inputs.items()}
    for i in range(len(lengths)):
        counts = torch.zeros(len(tables), N, dtype=torch.int32)
        for position, layer in layers.items():
            x = parts[position][i].to(layer.values.weight.device).unsqueeze(0)
            slots = layer.keys(x)[0].flatten().cpu()
            counts[tables.index(layer.values)] += torch.bincount(slots, minlength=N).int()
        for usage in usages[i % 2 :]:
            usage.batches += 1
            usage.df += counts > 0
            usage.count += counts
    return usages[0], usages[1]


def settled(lab: Lab, half: Usage, facts: Sequence[Fact]) -> Settled:
    """How far the choice of slots for some facts has settled with half of the background.

    Raises:
        ValueError: the lab has no recipe.
    """
    recipe = lab.recipe
    if recipe is None:
        raise ValueError("slots are chosen for facts together by a recipe, and the lab has none")
    counts, keywords = (recipe.statements, recipe.questions, 0), (recipe.keywords, recipe.own_keywords)
    texts = taught_texts(facts, lab.form, *counts, 0, lab.tokenizer, *keywords)
    owners, reads = counted_reads(lab, facts, texts, recipe.counted)
    return settling([half, lab.usage], owners, reads, recipe.top_t, **recipe.choosing)[0]


def retrofit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe = RETROFIT,
    layers: str | Sequence[int] = "auto",
    *,
    progress: bool = False,
    **options: Any,
) -> Lab:
    """Give a finished model a memory, and return the lab around it; see `Retrofit` for the options.

    Args:
        progress: Whether to show a bar with the time left.

    Examples:
        >>> small = smft.Recipe(slots=1024, background_texts=8, background_questions=0, window=16)
        >>> known = smft.new_facts(9)
        >>> smft.retrofit(plain, lab.tokenizer, small, layers=[1], text=text, known=known, facts=known[:2]).slots
        1024
    """
    work = Retrofit(model, tokenizer, recipe, layers, **options)
    with progress_bar(progress) as bar:
        follow(work, bar)
    assert work.lab is not None
    return work.lab


def follow(work: Retrofit, bar: ProgressBar) -> None:
    """Do the work of a retrofit behind a progress bar: a line per stage."""
    tasks: dict[str, TaskID] = {}
    for at in work:
        if at.stage not in tasks:
            for task in tasks.values():
                bar.update(task, total=1, completed=1)
            tasks[at.stage] = bar.add_task(STAGES[at.stage], total=at.total)
        label = f"{STAGES[at.stage]}: {at.note}" if at.note else STAGES[at.stage]
        bar.update(tasks[at.stage], total=at.total, completed=at.done, description=label)
