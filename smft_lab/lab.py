"""The `Lab`: a language model with memory layers, together with all that finetuning and probing it needs."""

from __future__ import annotations

import json
import math
import re
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from inspect import GEN_CLOSED, GEN_RUNNING, getgeneratorstate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import smft_lab.model.language_model  # noqa: F401  (registers the model with transformers)
from smft_lab.facts.world import World
from smft_lab.model.allocator import keep_freed_memory
from smft_lab.model.attach import add_memory, attached_at
from smft_lab.model.autoclass import (
    CONFIG_KEY,
    check_no_adapters,
    check_rebuilds,
    narrow,
    narrow_buffers,
    new_model,
    read_config,
    take_weights,
    write_config,
)
from smft_lab.model.locking import exclusive, lock_of
from smft_lab.model.memory import MemoryLayer, Wide, differing_rows, empty_table, named_tables, value_tables
from smft_lab.model.opening import (
    Source,
    check_unchanged,
    outside_memory,
    own_memory,
    quiet,
    reopen,
    storage,
    tokenizer_hash,
)
from smft_lab.model.tokenizer import encode
from smft_lab.model.wiring import Wiring
from smft_lab.probes.probes import Probes, answer, recalled, world_probes
from smft_lab.probes.prompts import BUILT_IN, PromptForm
from smft_lab.recipe import Recipe
from smft_lab.slots.usage import Usage
from smft_lab.writing import alone, bring_back, check_place, json_text, moved_away, naming, whole_folder

FORMAT = 2  # 1 where a lab has nothing that the readers of 1 would miss
LAB_FILE, USAGE_FILE, WEIGHTS_FILE, PROBES_FILE = "lab.json", "usage.safetensors", "model.safetensors", "probes.json"
ROWS, VALUES = ".rows", ".values"  # after a table's name in a weights file: which of its rows are not zero, and those
MEMORY_FILE = "memory.safetensors"  # in place of WEIGHTS_FILE, where the base is named instead of copied
BASES = ("copy", "reference")
# What labs were made of before they listed their files; others of a folder are a person's own.
EARLIER_FILES = re.compile(
    r"(usage|memory|model|model-\d{5}-of-\d{5})\.safetensors|model\.safetensors\.index\.json|probes\.json|config\.json"
    r"|generation_config\.json|chat_template\.jinja|tokenizer(_config)?\.json|tokenizer\.model|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.json|vocab\.txt|merges\.txt"
)
LARGEST_WORLD = 100  # times the built-in one
REPLACED_SHARE = 8  # at least one in so many weights of a model is not in feed-forwards, which a memory may replace
DTYPES = ("float32", "auto")
PATIENCE = 60  # seconds that `load` waits for a save to get done
READS = 3  # of a lab that is replaced meanwhile, before `load` keeps others from writing


class Watcher(Protocol):
    """What a lab tells that it has ended a finetune."""

    def run_ended(self, run: Generator) -> None: ...


class Lab:
    """A model, its tokenizer, its background usage and its probes.

    Args:
        model: A causal language model with at least one memory layer. Finetuning changes it; `reset()` brings it back.
        tokenizer: Its tokenizer.
        usage: Background usage of its slots, measured before any finetuning.
        probes: What to measure for forgetting; none by default.
        defaults: Tuned settings per method, `{method: {"lr": ..., ...}}`.
        world_seed, world_scale: Of the built-in world the model was pretrained on, if it was (see `World`).
        form: How the model is asked; a model from elsewhere needs another form than the built-in world's, such as
            `PromptForm.PLAIN`.
        recipe: How its memory was attached, and how facts are taught by default; None for the paper's way.

    Attributes:
        source: Where the base came from, if `open_model` opened it; else None.
        turn: How often a finetune was begun or the base brought back.
        watchers: Are told when a finetune under way is ended.

    Raises:
        ValueError: the model has no memory layer, or adapters on it, or the usage is of another shape.

    Examples:
        >>> lab = smft.load()
        >>> lab.slots
        57600
        >>> lab.save("mine")
        >>> smft.load("mine").slots
        57600
    """

    def __init__(self, model, tokenizer, usage: Usage, probes: Probes | None = None, defaults: dict | None = None,
                 world_seed: int | None = None, world_scale: float = 1.0, form: PromptForm = BUILT_IN,
                 recipe: Recipe | None = None):  # fmt: skip
        tables = value_tables(model)
        if not tables:
            raise ValueError("the model has no memory layer")
        check_no_adapters(model)
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
        self.source: Source | None = getattr(model, "smft_source", None)
        self._base = _cloned(model.state_dict(), _few_rows(model))
        self.turn = 0
        self.watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        self._run: weakref.ref[Generator] | None = None
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
        return answer(self.model, self.tokenizer, questions, max_new_tokens, form or self.form)

    def recalled(self, questions: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        """Whether the model would now give exactly these answers and end there: (len(questions),) bool.

        One forward pass tells, so it is faster than `answer`; it takes one answer to each question, word for word.

        Examples:
            >>> fact = lab.world.old_facts()[0]
            >>> lab.recalled([fact.question], [fact.answer])
            tensor([True])
        """
        return recalled(self.model, self.tokenizer, questions, answers, form=self.form)

    def encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """A batch of texts for the model, each with its end: `input_ids`, `attention_mask` and `labels`, each (B, T).

        Examples:
            >>> sorted(lab.encode(["A boat.", "Two boats are here."]))
            ['attention_mask', 'input_ids', 'labels']
        """
        return encode(self.tokenizer, list(texts), self.model.device)

    def begin(self, run: Generator) -> None:
        """Make `run` the one finetune that may change the model; one still under way ends here.

        A run that nobody holds any more ends by itself.
        """
        self.end()
        self.turn += 1
        check_no_adapters(self.model)
        self._run = weakref.ref(run)

    @exclusive
    def end(self) -> None:
        """End the finetune under way, if any, after the step it is at; the model stays as it left it.

        Raises:
            ValueError: asked for within a step of it.
        """
        run = self._run and self._run()
        if run is not None and getgeneratorstate(run) == GEN_RUNNING:
            raise ValueError("a finetune can't be ended within its own step")
        self._run = None
        under_way = run is not None and getgeneratorstate(run) != GEN_CLOSED
        if run is not None:
            run.close()
        self.put_together()
        if run is not None and under_way:
            for watcher in list(self.watchers):
                watcher.run_ended(run)

    @contextmanager
    def in_training(self, loop: bool = False) -> Iterator[None]:
        """Whatever happens in the block, the model is afterwards put together as it was before.

        That is: modules at their places, hooks, which parameters take a gradient. The weights stay as they are then.
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
        """What an interrupt left undone of the end of a training; the weights stay.

        Args:
            hooks: See `Wiring.restore`.
        """
        if self._wiring is not None and not self._loop:
            self._wiring.restore(hooks)
            self._wiring = None

    def end_if_renamed(self) -> None:
        """End a finetune under way that gives the model's weights other names, as LoRA does; others may go on."""
        if self.model.state_dict().keys() != self._base.keys():
            self.end()

    @exclusive
    def reset(self) -> None:
        """Bring the base back, bitwise, whatever was finetuned or patched since; ends a finetune under way.

        Raises:
            ValueError: there are adapters of peft on the model.
        """
        self.end()
        self.turn += 1
        check_no_adapters(self.model)
        self.restore_weights()

    def restore_weights(self) -> None:
        """The part of `reset` that is about numbers alone."""
        with torch.no_grad():
            tables = {storage(table.weight) for table in value_tables(self.model)}
            for name, tensor in _distinct(self.model.state_dict()).items():
                base = self._base[name]
                if storage(tensor) in tables and (tensor.dtype, tensor.device) == (base.dtype, base.device):
                    rows = differing_rows(tensor, base)  # few, of a large table
                    tensor[rows] = base[rows]
                else:
                    tensor.copy_(base)

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """The base's weights within the block, and at its end, bitwise, those from before it.

        A finetune under way may go on afterwards, but for one that gives weights other names, as LoRA does: that ends.

        Examples:
            >>> run = smft.run(lab, smft.new_facts(1), passes=1, probe_every=0)
            >>> with lab.at_base():
            ...     [int((norms > 0).sum()) for norms in smft.row_changes(lab)]
            [0]
            >>> lab.reset()
        """
        with self.lock:
            self.end_if_renamed()
            tables = {storage(table.weight) for table in value_tables(self.model)}
            changed = []
            for name, tensor in _distinct(self.model.state_dict()).items():
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
                self.restore_weights()  # whatever was put there meanwhile
                with torch.no_grad():
                    for tensor, rows, values in changed:
                        tensor[rows] = values

    def base(self, name: str) -> torch.Tensor:
        """The base value of one entry of the model's state dict; not to be changed."""
        return self._base[name]

    @exclusive
    def save(self, path: str | Path, base: str = "copy") -> None:
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
        check_no_adapters(self.model)
        if base == "reference":
            self._check_reference()
        else:
            check_rebuilds(self.model, attached_at(self.model))
        path = Path(path)
        with whole_folder(path, LAB_FILE, is_lab_file) as folder, naming(path, lambda: self._size(base == "reference")):
            self._write(folder, base == "reference")

    def _check_reference(self) -> None:
        advice = 'save it with base="copy"'
        if self.source is None:
            raise ValueError(f"the lab's base can't be referenced: open_model didn't open it; {advice}")
        if not hasattr(self.model.config, CONFIG_KEY) or not self.source.files:
            missing = "its weights file" if hasattr(self.model.config, CONFIG_KEY) else "how its memory was added"
            raise ValueError(f"the lab's base can't be referenced: {missing} isn't known; {advice}")
        try:
            check_unchanged(self.model, self.source)
        except ValueError as problem:
            raise ValueError(f"the lab's base can't be referenced: {problem}; {advice}") from None

    def _write(self, folder: Path, reference: bool) -> None:
        about = {"format": 1, "world_seed": self.world_seed, "defaults": self.defaults}
        own_tokenizer = True
        if hasattr(self.model.config, CONFIG_KEY):
            write_config(self.model, folder)
            if self.model.generation_config is not None:
                self.model.generation_config.save_pretrained(folder)
            kept, rows = self._tensors(reference)
            save_file(kept, folder / (MEMORY_FILE if reference else WEIGHTS_FILE), {"format": "pt"})
            if rows:
                about |= {"format": FORMAT, "tables_by_rows": rows}
            if reference and self.source is not None:
                own_tokenizer = tokenizer_hash(self.tokenizer) != self.source.tokenizer
                about |= {"format": FORMAT, "source": self.source.to_json(), "own_tokenizer": own_tokenizer}
        else:
            self.model.save_pretrained(folder)
        if own_tokenizer:
            self.tokenizer.save_pretrained(folder)
        save_file(self.usage.to_tensors(), folder / USAGE_FILE)
        if self.world_scale != 1.0:
            about["world_scale"] = self.world_scale
        if self.model.dtype != torch.float32:
            about["dtype"] = str(self.model.dtype).removeprefix("torch.")
            about["narrow_buffers"] = narrow_buffers(self.model)
        if self.form != BUILT_IN:
            about |= {"format": FORMAT, "form": self.form.to_json()}
        if self.recipe is not None:
            about |= {"format": FORMAT, "recipe": self.recipe.to_dict()}
        if self.world_seed is None:  # else they come from the seed
            (folder / PROBES_FILE).write_text(json_text(self.probes.to_records(), indent=1), encoding="utf-8")
        about["files"] = sorted([LAB_FILE, *(file.name for file in folder.iterdir())])
        (folder / LAB_FILE).write_text(json_text(about, indent=2), encoding="utf-8")

    def _tensors(self, reference: bool) -> tuple[dict[str, torch.Tensor], list[str]]:
        """What the weights file of a model with an added memory holds, and the names of tables of which it has rows."""
        outside = set(outside_memory(self.model)) if reference else set()
        rows, entries = _few_rows(self.model), self.model.state_dict()
        kept = {
            name: tensor.contiguous()
            for name, tensor in _distinct(entries).items()
            if name not in outside and name not in rows
        }
        for name, places in rows.items():
            kept |= {name + ROWS: places, name + VALUES: entries[name][places].contiguous()}
        return kept, list(rows)

    def _size(self, reference: bool) -> int:
        """Bytes of a saved lab, but for small files of text."""
        added = hasattr(self.model.config, CONFIG_KEY)
        kept = self._tensors(reference)[0] if added else _distinct(self.model.state_dict())
        return sum(tensor.nbytes for tensor in (*kept.values(), *self.usage.to_tensors().values()))


def is_lab_file(name: str) -> bool:
    """Whether a lab that doesn't list its files wrote one of that name."""
    return EARLIER_FILES.fullmatch(name) is not None


def check_lab_place(path: Path) -> None:
    """Raise OSError or ValueError unless a new lab can be saved at `path`, before long work: see `check_place`."""
    check_place(path, LAB_FILE)
    if (path / LAB_FILE).exists():
        raise ValueError(f"{path} already holds a finished lab; name another folder, or delete it")
    if path.is_dir() and (lost := sorted(file.name for file in path.iterdir() if is_lab_file(file.name))):
        raise ValueError(f"{path} holds a file {lost[0]} of another model, which a lab would replace; name another "
                         "folder")  # fmt: skip


def _distinct(entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries of a state dict without those that share their memory with one before, as tied embeddings do."""
    first: dict[tuple, str] = {}
    for name, tensor in entries.items():
        first.setdefault(storage(tensor), name)
    return {name: entries[name] for name in first.values()}


def _cloned(entries: dict[str, torch.Tensor], rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of a state dict in which what was shared is shared again.

    Args:
        rows: Of entries that are mostly zeros, the rows that are not: the table of a real model is as large as the
            model, and a copy of it takes little.
    """
    clones = {
        storage(tensor): _copy_of_rows(tensor, rows[name]) if name in rows else tensor.clone()
        for name, tensor in _distinct(entries).items()
    }
    return {name: clones[storage(tensor)] for name, tensor in entries.items()}


def _copy_of_rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if not len(rows):
        return _zeros_like(table)
    if table.dtype != torch.float32 or table.is_cuda:
        return table.clone()
    copy = empty_table(*table.shape)
    copy[rows] = table[rows]
    return copy


def _few_rows(model) -> dict[str, torch.Tensor]:
    """Of the value tables of which most rows are zero, state-dict names and the rows that are not."""
    rows = {
        name: differing_rows(table.weight, _zeros_like(table.weight))
        for name, table in zip(*named_tables(model), strict=True)
    }
    return {name: mine for name, mine in rows.items() if 2 * len(mine) < len(model.state_dict()[name])}


def _check_rows(rows: torch.Tensor, values: torch.Tensor, table: torch.Tensor, name: str) -> None:
    """Raise ValueError unless these can be rows of the table."""
    ascend = rows.dtype == torch.int64 and rows.ndim == 1 and bool((rows.diff() > 0).all())
    inside = ascend and (not len(rows) or (rows[0] >= 0 and rows[-1] < len(table)))
    if not inside or values.shape != (len(rows), table.shape[1]) or values.dtype != table.dtype:
        raise ValueError(f"the rows of {name} are damaged")


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    """One zero, seen everywhere."""
    return tensor.new_zeros(1).expand(tensor.shape)


def shipped_checkpoint() -> Path:
    """The directory of the checkpoint that comes with the package."""
    return Path(str(resources.files("smft_lab") / "model" / "checkpoint"))


def load(path: str | Path | None = None, device: str | torch.device = "cpu", dtype: str = "float32") -> Lab:
    """Open a saved lab; the shipped one by default. Computes in float32, whatever the file stores.

    Args:
        device: Where the model computes, such as `cuda`.
        dtype: `float32`; or `auto`, in what the lab was in when it was saved, to the same logits.

    Raises:
        FileNotFoundError: there is no lab at `path`; or the base that it names is gone.
        ValueError: the directory is damaged, or was written by a newer version; or there is no such device; or
            another process keeps writing there; or the base that it names is another one now.

    Examples:
        >>> lab = smft.load()
        >>> lab.slots
        57600
    """
    check_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    path = shipped_checkpoint() if path is None else Path(path)
    for _ in range(READS):
        if moved_away(path, LAB_FILE):
            with alone(path, PATIENCE):
                bring_back(path, LAB_FILE)
        place = _place(path)
        try:
            lab = _read(path, device, dtype)
        except (OSError, ValueError):
            if not moved_away(path, LAB_FILE) and _place(path) == place:
                raise
        else:
            if _place(path) == place:
                return lab
    with alone(path, PATIENCE):  # it is replaced as fast as it is read
        bring_back(path, LAB_FILE)
        return _read(path, device, dtype)


def _place(path: Path) -> tuple[int, int, int] | None:
    """Which folder is there now, told from one that takes its place; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns  # an inode number may be given again


def _read(path: Path, device: str | torch.device, dtype: str = "float32") -> Lab:
    about = _read_about(path)
    keep_freed_memory()
    base = tokenizer = None
    if "source" in about:
        with _reading(path, f"'source' in {LAB_FILE}"):
            source = Source.from_json(about["source"])
        try:
            base, tokenizer = reopen(source)
        except (ValueError, OSError) as problem:
            kind = FileNotFoundError if isinstance(problem, FileNotFoundError) else ValueError
            raise kind(f"{path}: {problem}") from None
    with _reading(path, USAGE_FILE):
        usage = Usage.from_tensors(load_tensors((path / USAGE_FILE).read_bytes()))
    with torch.random.fork_rng(devices=[]), quiet(), _reading(path, "config.json and the weights"):
        kind = getattr(torch, about.get("dtype", "float32") if dtype == "auto" else dtype)
        model = _read_model(path, about.get("tables_by_rows", []), usage, base, kind)
        if dtype == "auto":
            narrow(model, about.get("narrow_buffers", []), kind)
    model.to(device)
    if tokenizer is None or about.get("own_tokenizer"):
        with _reading(path, "the tokenizer's files"):
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    lab = Lab(model, tokenizer, usage, None, about["defaults"], about["world_seed"], about.get("world_scale", 1.0))
    if "form" in about:
        with _reading(path / LAB_FILE, "the prompt form"):
            lab.form = PromptForm.from_json(about["form"])
    if "recipe" in about:
        with _reading(path / LAB_FILE, "the recipe"):
            lab.recipe = Recipe.from_dict(about["recipe"])
    if lab.world_seed is not None:
        lab.probes = world_probes(lab.world)
    elif (path / PROBES_FILE).exists():
        lab.probes = _read_probes(path / PROBES_FILE)
    return lab


def check_device(device: str | torch.device) -> None:
    """Raise ValueError unless a model can compute there."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"no device {device!r}; there are cpu, and cuda for a GPU") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this torch ({torch.__version__}) finds no GPU here; use cpu")
    try:
        float(torch.ones(1, device=device).sum())
    except (RuntimeError, NotImplementedError, AssertionError) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise ValueError(f"device {device}: torch can't compute there ({reason}); use cpu") from None


def _read_model(path: Path, by_rows: list[str], usage: Usage, base=None, dtype: torch.dtype = torch.float32):
    """The model of a saved lab.

    Args:
        dtype: What it computes in; if that is not float32, each weight is as the file has it.
        by_rows: State-dict names of value tables of which the file has some rows; all others are zero.
        usage: What was counted of its slots.
        base: The opened model that a lab names whose base was not copied; it is given its memory here.
    """
    config = read_config(path)
    asked = getattr(config, CONFIG_KEY, None)
    file = path / (WEIGHTS_FILE if base is None else MEMORY_FILE)
    _check_sizes(config, asked, file, usage, base)
    if asked is None:
        if base is not None:
            raise ValueError(f"config.json lacks {CONFIG_KEY}")
        options = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
        opened: Any = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype, **options)
        model, found = opened
        if strangers := sorted({*found["missing_keys"], *found["unexpected_keys"]}):
            raise ValueError(f"config and weights don't belong together: {strangers[0]} is in one of them only")
        return own_memory(model)
    model = add_memory(new_model(config, dtype) if base is None else base, **asked)
    taken = take_weights(model, [file], as_saved=dtype != torch.float32)
    entries = model.state_dict()
    left_out = {storage(entries[name]) for name in (*by_rows, *(() if base is None else outside_memory(model)))}
    strangers = sorted(taken - set(entries) - {name + part for name in by_rows for part in (ROWS, VALUES)})
    missing = sorted(set(entries) - taken)
    if strangers := [name for name in missing if storage(entries[name]) not in left_out] + strangers:
        raise ValueError(f"config and weights don't belong together: {strangers[0]} is in one of them only")
    with safe_open(file, "pt") as stored:
        for name in by_rows:
            if asked["mode"] != "add":  # there the table is new and empty, and to write zeros to it would take memory
                entries[name].zero_()
            rows, values = stored.get_tensor(name + ROWS), stored.get_tensor(name + VALUES)
            _check_rows(rows, values, entries[name], name)
            entries[name][rows] = values
    return model


def _check_sizes(config, asked: dict | None, file: Path, usage: Usage, base) -> None:
    """Raise ValueError where config.json names sizes that the files don't have, before anything of them is made."""
    slots = getattr(config, "memory_slots", None) if asked is None else asked["slots"]
    if type(slots) is not int or slots != usage.df.shape[1]:
        raise ValueError(f"config.json has {str(slots)[:20]} slots, {USAGE_FILE} {usage.df.shape[1]:,}")
    if not file.exists():
        return
    with safe_open(file, "pt") as stored:
        shapes = [stored.get_slice(name).get_shape() for name in stored.keys()]  # noqa: SIM118
    numbers = sum(map(math.prod, shapes))
    layers = config.get_text_config().num_hidden_layers
    if base is None and layers > len(shapes):
        raise ValueError(f"config.json has {layers} layers, {file.name} {len(shapes)} weights")
    if asked is None:
        return  # transformers compares each shape
    with torch.device("meta"):
        width = (config if base is None else base.config).get_text_config().hidden_size
        options = {name: value for name, value in asked.items() if name not in ("layers", "mode", "shared", "seed")}
        table: Any = SimpleNamespace(weight=SimpleNamespace(shape=(slots, options.get("value_dim") or width)))
        needed = sum(parameter.numel() for parameter in MemoryLayer(width, values=table, **options).parameters())
        if base is None:
            model = new_model(config, torch.float32)
            needed += sum(parameter.numel() for parameter in model.parameters()) // REPLACED_SHARE
    if needed > numbers:
        raise ValueError(f"config.json describes {needed:,} numbers and more, {file.name} holds {numbers:,}")


@contextmanager
def _reading(path: Path, what: str):
    """Say where it was when a library can't make sense of a file; theirs raise errors of all kinds on damaged ones."""
    try:
        yield
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError):
            raise
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(
            f"{path}: {what} can't be read ({type(problem).__name__}: {reason}); copy the lab again"
        ) from None


def _read_probes(file: Path) -> Probes:
    try:
        return Probes.from_records(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{file} is not what Lab.save() writes ({problem}); copy the lab again") from None


def _read_about(path: Path) -> dict:
    file = path / LAB_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no {LAB_FILE} there; a saved lab is a directory written by Lab.save()")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        newer = about["format"] > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{file} is not what Lab.save() writes; copy the lab again") from None
    if newer:
        found = f"format {about['format']} is newer than this version reads ({FORMAT})"
        raise ValueError(f"{file}: {found}; update smft-lab")
    if missing := {"world_seed", "defaults"} - set(about):
        raise ValueError(f"{file} lacks {', '.join(sorted(missing))}; copy the lab again")
    for name, (is_right, what) in ABOUT.items():
        if name in about and not is_right(about[name]):
            raise ValueError(f"{file}: {name} is {str(about[name])[:60]!r}, not {what}; copy the lab again")
    return about


def _is_defaults(value) -> bool:
    """Whether this may be settings per method, the sweep that they come from and what that ran under."""
    if not isinstance(value, dict):
        return False
    kinds = {name: list if name == "sweep" else dict for name in value}
    return all(isinstance(value[name], kind) for name, kind in kinds.items()) and all(
        isinstance(row, dict) for row in value.get("sweep", [])
    )


def _is_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


ABOUT = {
    "format": (lambda value: type(value) is int and value > 0, "a version"),
    "world_seed": (lambda value: value is None or type(value) is int, "a whole number or null"),
    "world_scale": (
        lambda value: type(value) in (int, float) and 0 < value <= LARGEST_WORLD,
        f"a number above 0, at most {LARGEST_WORLD}",
    ),
    "defaults": (_is_defaults, "an object of settings per method"),
    "tables_by_rows": (_is_texts, "a list of names"),
    "files": (_is_texts, "a list of names"),
    "own_tokenizer": (lambda value: isinstance(value, bool), "true or false"),
    "form": (lambda value: isinstance(value, dict), "an object"),
    "recipe": (lambda value: isinstance(value, dict), "an object"),
}
"""What each entry of a lab's file may be, and how that is called."""
