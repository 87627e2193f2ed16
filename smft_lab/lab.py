"""The `Lab`: a language model with memory layers, together with all that finetuning and probing it needs."""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from inspect import GEN_CLOSED, GEN_RUNNING, getgeneratorstate
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

import smft_lab.model.language_model  # noqa: F401  (registers the model with transformers)
from smft_lab.facts.fact import as_texts
from smft_lab.facts.world.corpus import Corpus
from smft_lab.facts.world.world import World
from smft_lab.model.attach import check_embedded
from smft_lab.model.autoclass import check_own_weights, check_plain, check_trainable
from smft_lab.model.copies import cloned, distinct, few_rows, storage
from smft_lab.model.hooks import drop_ended
from smft_lab.model.locking import exclusive, give_way, lock_of
from smft_lab.model.memory import Wide, differing_rows, value_tables
from smft_lab.model.opening import Source
from smft_lab.model.precision import restore_precision
from smft_lab.model.tokenizer import check_same_tokens, encode, text_ids
from smft_lab.model.wiring import Wiring
from smft_lab.probes.probes import Probes, answer, recalled
from smft_lab.probes.prompts import BUILT_IN, PromptForm
from smft_lab.probes.replies import can_end, restore_generation
from smft_lab.recipe import Recipe
from smft_lab.slots.anchor import BackgroundReads, background_reads
from smft_lab.slots.usage import Usage
from smft_lab.storage import BASES, read_lab, write_lab

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORLD_TEXTS = 4000  # of the built-in world, as a background


class Watcher(Protocol):
    """What a lab tells that it has ended a finetune, and that its base is back."""

    def run_ended(self, run: Generator) -> None: ...

    def base_is_back(self) -> None: ...


class Lab:
    """A model, its tokenizer, its background usage and its probes.

    Args:
        model: A causal language model with at least one memory layer; it is put into evaluation mode. Finetuning
            changes it; `reset()` brings it back.
        tokenizer: Its tokenizer.
        usage: Background usage of its slots, measured before any finetuning.
        probes: What to measure for forgetting; none by default.
        defaults: Tuned settings per method, `{method: {"lr": ..., ...}}`.
        world_seed, world_scale: Of the built-in world the model was pretrained on, if it was (see `World`).
        form: How the model is asked; a model from elsewhere needs another form than the built-in world's, such as
            `PromptForm.PLAIN`.
        recipe: How its memory was attached, and how facts are taught by default; None for the paper's way.
        documents: Token ids of the background documents; only a recipe with an `anchor` needs them.

    Attributes:
        source: Where the base came from, if `open_model` opened it; else None.
        folder: Where `load` found it; None if it was made otherwise.
        turn: Counts finetunes that were begun, and resets.
        watchers: Are told when a finetune under way is ended, and when `reset` has brought the base back.

    Raises:
        ValueError: the model has no memory layer, or adapters on it, or was compiled, or is in a wrapper, or the usage
            is of another shape, or the tokenizer gives a text other tokens each time.

    Warns:
        UserWarning: nothing that the model can write ends an answer.

    Examples:
        >>> lab = smft.load()
        >>> lab.slots
        57600
        >>> lab.save("mine")
        >>> smft.load("mine").slots
        57600
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        usage: Usage,
        probes: Probes | None = None,
        defaults: dict[str, Any] | None = None,
        world_seed: int | None = None,
        world_scale: float = 1.0,
        form: PromptForm = BUILT_IN,
        recipe: Recipe | None = None,
        documents: Sequence[Sequence[int]] = (),
    ):
        check_plain(model)
        tables = value_tables(model)
        if not tables:
            raise ValueError("the model has no memory layer")
        check_own_weights(model)
        check_trainable(model)
        check_same_tokens(tokenizer)
        for module in (module for module in model.modules() if isinstance(module, Wide)):
            module.widen()
        expected = (len(tables), len(tables[0].weight))
        if tuple(usage.df.shape) != expected:
            raise ValueError(f"the usage is for (tables, slots) = {tuple(usage.df.shape)}, the model has {expected}")
        self.model, self.tokenizer, self.usage = model.eval(), tokenizer, usage
        self.probes = probes or Probes()
        self.defaults = defaults or {}
        self.world_seed, self.world_scale = world_seed, world_scale
        self.form, self.recipe = form, recipe
        if not can_end(model, tokenizer, form):
            warnings.warn(
                "nothing ends an answer, so hardly any will count as right: the tokenizer has no end-of-text token"
                + (", and leaves line breaks out" if form.one_line else "")
                + "; set tokenizer.eos_token",
                stacklevel=2,
            )
        self.documents = tuple(map(tuple, documents))
        self._background_reads: list[BackgroundReads] | None = None
        self.source: Source | None = getattr(model, "smft_source", None)
        self.folder: Path | None = None
        self._base = cloned(model.state_dict(), few_rows(model))
        self.turn = 0
        self.watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        self._run: weakref.ref[Generator] | None = None
        self._stop = threading.Event()  # of that run
        self._wiring: Wiring | None = None  # of the model before the training under way
        self._loop = False  # whether that is a person's own

    @property
    def slots(self) -> int:
        """N, the number of slots of the value table."""
        return self.usage.df.shape[1]

    @property
    def world(self) -> World:
        """The built-in world that the model knows; the default one for a model pretrained on something else."""
        return World(self.world_seed or 0, self.world_scale)

    @property
    def lock(self) -> threading.RLock:
        """Held by each step of training, and by whatever reads the model (see `smft_lab.model.locking`)."""
        return lock_of(self.model)

    def answer(
        self, questions: Sequence[str], *, max_new_tokens: int = 24, form: PromptForm | None = None
    ) -> list[str]:
        """The model's greedy answers as it is now, up to their end or `max_new_tokens`, without a last full stop.

        Args:
            questions: Plain questions, or a single one.
            form: How they are put; the lab's form by default.

        Raises:
            ValueError: a question is longer than the model reads.

        Examples:
            >>> lab.answer([lab.world.old_facts()[0].question])
            ['Copper Works']
        """
        form = form or self.form
        return answer(self.model, self.tokenizer, questions, max_new_tokens=max_new_tokens, form=form)

    def recalled(self, questions: Sequence[str], answers: Sequence[str]) -> Bool[Tensor, " questions"]:
        """Whether the model would now give exactly these answers and end there.

        One forward pass tells, so it is faster than `answer`; it takes one answer to each question, word for word.

        Raises:
            ValueError: there are not as many answers as questions, or a question is longer than the model reads.

        Examples:
            >>> fact = lab.world.old_facts()[0]
            >>> lab.recalled([fact.question], [fact.answer])
            tensor([True])
        """
        return recalled(self.model, self.tokenizer, questions, answers, form=self.form)

    def encode(self, texts: Sequence[str]) -> dict[str, Int64[Tensor, "B T"]]:
        """A batch of texts for the model, each with its end: `input_ids`, `attention_mask` and `labels`.

        Each is (B, T), filled up on the right and on the model's device; labels are -100 where it is filled up.

        Args:
            texts: Several, or a single one.

        Raises:
            ValueError: there are no texts, or the model has no embedding for one of their tokens.

        Examples:
            >>> sorted(lab.encode(["A boat.", "Two boats are here."]))
            ['attention_mask', 'input_ids', 'labels']
        """
        batch = encode(self.tokenizer, list(as_texts(texts, "what is encoded")))
        check_embedded(self.model, batch["input_ids"])
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def background_reads(self) -> list[BackgroundReads]:
        """What the base reads in its background, per value table; computed once.

        A lab of the built-in world without documents takes texts of that world.

        Raises:
            ValueError: the lab has no documents.

        Examples:
            >>> (reads,) = lab.background_reads()
            >>> reads.slots.shape == reads.weights.shape
            True
        """
        if self._background_reads is None:
            documents: Sequence[Sequence[int]] = self.documents
            if not documents and self.world_seed is not None:
                texts = Corpus(self.world).texts(Random("background"), WORLD_TEXTS)
                documents = text_ids(self.tokenizer, texts)
            if not documents:
                raise ValueError(
                    "the lab keeps no background text, which the anchor of a recipe needs; "
                    "attach the memory anew, or teach with anchor=0"
                )
            with self.at_base():
                self._background_reads = background_reads(self.model, self.tokenizer, documents)
        return self._background_reads

    @exclusive
    def begin(self, run: Generator, stop: threading.Event) -> None:
        """Make `run` the one finetune that may change the model; one still under way ends here.

        A run that nobody holds any more ends by itself.

        Args:
            stop: Tells the run, each time it has the lock, that it is to end.
        """
        self.end()
        self.turn += 1
        check_own_weights(self.model)
        self.check_weights()
        self._run, self._stop = weakref.ref(run), stop

    @exclusive
    def end(self) -> None:
        """End the finetune under way, if any, after the step it is at; the model stays as it left it.

        Raises:
            ValueError: asked for within a step of it.
        """
        under_way = []
        while (run := self._run and self._run()) is not None:
            if _is_within(run):
                raise ValueError("a finetune can't be ended within its own step")
            if getgeneratorstate(run) != GEN_CLOSED:
                under_way = [run]
                self._stop.set()
                self._close(run)  # others may have the lock meanwhile, and begin another run
            if self._run is not None and self._run() is run:
                break
            under_way = []  # who has ended it has told so
        self._run = None
        self.put_together()
        for watcher in list(self.watchers) if under_way else ():
            watcher.run_ended(*under_way)

    def _close(self, run: Generator) -> None:
        """Close a run; where another thread is in it, waiting for the lock, that one ends it."""
        while getgeneratorstate(run) != GEN_CLOSED:
            give_way(self.lock, lambda: getgeneratorstate(run) != GEN_RUNNING)
            try:
                run.close()
            except ValueError:
                if getgeneratorstate(run) != GEN_RUNNING:  # else it was just asked for another step
                    raise

    @property
    def in_loop(self) -> bool:
        """Whether a person's own training loop is on, in `sparse_mode`."""
        return self._loop

    @contextmanager
    def in_training(self, loop: bool = False) -> Iterator[None]:
        """Whatever happens in the block, the model is afterwards put together as it was before.

        That is: modules at their places, modes, hooks, which parameters take a gradient. The weights stay as they are.
        What an interrupt of the very end leaves undone, `end` and `reset` do.

        Args:
            loop: Whether a person's own loop trains in the block, so that nothing else may end it.

        Raises:
            ValueError: such a loop is on.
        """
        if self._loop:
            raise ValueError("sparse_mode is on for this lab; leave its block first")
        self.put_together()
        done = False
        try:
            self._wiring = Wiring(self.model)
            self._loop = loop
            yield
            done = True
        except GeneratorExit:  # a run that was closed has taken its own hooks down, too
            done = True
            raise
        finally:
            self._loop = False
            self.put_together(hooks=not done)

    def put_together(self, hooks: bool = True) -> None:
        """Undo what an interrupted training, or call that reads the model, left on it; the weights stay.

        That is: modules, hooks, modes, which parameters take a gradient, settings of generation and of products.

        Args:
            hooks: See `Wiring.restore`.
        """
        if self._wiring is not None and not self._loop:
            self._wiring.restore(hooks)
            self._wiring = None
        drop_ended(self.model)
        restore_generation(self.model)
        restore_precision()

    def check_comparable(self) -> None:
        """Raise ValueError if the model's weights can't be set beside the base's: adapters are on it, or other dtypes.

        A finetune under way that gives weights other names, as LoRA does, ends; others may go on.
        """
        self._end_if_renamed()
        check_own_weights(self.model)
        self.check_weights()

    def _end_if_renamed(self) -> None:
        """End a finetune under way that gives the model's weights other names; others may go on."""
        if self.model.state_dict().keys() != self._base.keys():
            self.end()

    @exclusive
    def reset(self) -> None:
        """Bring the base back, bitwise, whatever was finetuned or patched since; ends a finetune under way.

        Raises:
            ValueError: there are adapters of peft on the model, or its weights are in another dtype now.
        """
        self.end()
        self.turn += 1
        check_own_weights(self.model)
        self.check_weights()
        self.restore_weights()
        for watcher in list(self.watchers):
            watcher.base_is_back()

    def check_weights(self) -> None:
        """Raise ValueError if the model's weights aren't those of the base by name, or are in other dtypes, in which no
        copy would bring them back bitwise."""
        entries = self.model.state_dict()
        for name in sorted(entries.keys() ^ self._base.keys()):
            what = "was added to the model" if name in entries else "was taken from the model"
            raise ValueError(f"{name} {what} since the lab was made; undo that, or make another lab around the model")
        for name, tensor in entries.items():
            if tensor.dtype != (dtype := self.base(name).dtype):
                raise ValueError(
                    f"{name} is in {tensor.dtype}, and in {dtype} in the lab's base; convert the model back, "
                    f"as by lab.model.to({dtype}), or make another lab around it"
                )

    def restore_weights(self) -> None:
        """Copy the base's weights into the model; no run is ended, and nobody told."""
        with torch.no_grad():
            tables = {storage(table.weight) for table in value_tables(self.model)}
            for name, tensor in distinct(self.model.state_dict()).items():
                base = self._base[name]
                if storage(tensor) in tables and (tensor.dtype, tensor.device) == (base.dtype, base.device):
                    rows = differing_rows(tensor, base)  # few, of a large table
                    tensor[rows] = base[rows]
                else:
                    tensor.copy_(base)
        torch.clear_autocast_cache()  # where a caller's block keeps other weights, rounded

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """The base's weights within the block, and at its end, bitwise, those from before it.

        A finetune under way may go on afterwards, but for one that gives weights other names, as LoRA does: that ends.

        Raises:
            ValueError: there are adapters on the model, or its weights are in another dtype now.

        Examples:
            >>> run = smft.run(lab, smft.new_facts(1), passes=1, probe_every=0)
            >>> with lab.at_base():
            ...     [int((norms > 0).sum()) for norms in smft.row_changes(lab)]
            [0]
            >>> lab.reset()
        """
        with self.lock:
            self.check_comparable()
            tables = {storage(table.weight) for table in value_tables(self.model)}
            changed = []
            for name, tensor in distinct(self.model.state_dict()).items():
                base = self._base[name]
                comparable = (tensor.dtype, tensor.device) == (base.dtype, base.device)
                if comparable and storage(tensor) in tables:
                    rows = differing_rows(tensor, base)  # few, of a large table
                    changed.append((tensor, rows, tensor[rows]))
                elif not comparable or not torch.equal(tensor, base):
                    changed.append((tensor, ..., tensor.clone()))
            try:
                self.restore_weights()
                yield
            finally:
                self._end_if_renamed()  # one that was begun in the block
                self.restore_weights()  # whatever was put there meanwhile
                with torch.no_grad():
                    for tensor, rows, values in changed:
                        tensor[rows] = values

    @property
    def weights(self) -> list[str]:
        """The names of the base's entries, in order, as `base` takes them."""
        return sorted(self._base)

    def base(self, name: str) -> Tensor:
        """The base value of one entry of the model's state dict; not to be changed."""
        return self._base[name]

    @exclusive
    def save(self, path: str | Path, *, base: str = "copy") -> None:
        """Write the lab as a directory that `load` reads back: config, safetensors, tokenizer, usage, probes, defaults.

        A finetune under way ends first: what is saved is the model as it left it. A lab already there is replaced only
        when the new one is whole; other files beside it stay. Of a value table that is mostly zeros, only the other
        rows are written.

        Args:
            base: `copy`, with all weights; or `reference`, the memory layers alone and a record of the file or the
                model on the hub that `open_model` took the others from, which `load` opens and checks.

        Raises:
            OSError: the disk is full, or `path` can't be written; what was there is as before.
            ValueError: another process is writing there now; the model isn't what its config describes, so that `load`
                couldn't build it; or `base` is `reference`, and the weights outside the memory are not those that
                `open_model` opened.
        """
        if base not in BASES:
            raise ValueError(f"no base {base!r}; there are {', '.join(BASES)}")
        self.end()
        check_own_weights(self.model)
        write_lab(self, Path(path), base == "reference")


def _is_within(run: Generator) -> bool:
    """Whether this thread is in the run: what asks was called by it."""
    frame, own = inspect.currentframe(), getattr(run, "gi_frame", None)
    while frame is not None and frame is not own:
        frame = frame.f_back
    return frame is not None


@torch.inference_mode(False)  # a lab is to be trained, whoever loads it
def load(path: str | Path | None = None, *, device: str | torch.device = "cpu", dtype: str = "float32") -> Lab:
    """Open a saved lab; the shipped one by default.

    Args:
        path: Its folder.
        device: Where the model computes, such as `cuda`.
        dtype: `float32` computes in float32, whatever the file stores; `auto` in what the lab was in when it was saved,
            to the same logits.

    Raises:
        FileNotFoundError: there is no lab at `path`; or the base that it names is gone.
        ValueError: the directory is damaged, or was written by a newer version; or there is no such device; or
            another process keeps writing there; or the base that it names is another one now.

    Examples:
        >>> lab = smft.load()
        >>> lab.slots
        57600
    """
    return read_lab(None if path is None else Path(path), device, dtype, Lab)
