"""A lab on disk: a folder of weights, tokenizer, usage, probes and defaults, which no reader finds half of."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import smft_lab.model.language_model  # noqa: F401  (registers the model with transformers)
from smft_lab.model.allocator import keep_freed_memory
from smft_lab.model.attach import add_memory, attached_at, input_weight
from smft_lab.model.autoclass import (
    CONFIG_KEY,
    GENERATION_FILE,
    NUMBERS,
    check_rebuilds,
    narrow,
    narrow_buffers,
    new_model,
    read_config,
    take_generation_config,
    take_weights,
    write_config,
)
from smft_lab.model.copies import distinct, few_rows, storage
from smft_lab.model.memory import CHUNK, MemoryLayer
from smft_lab.model.opening import Source, check_unchanged, outside_memory, own_memory, quiet, reopen, tokenizer_hash
from smft_lab.probes.probes import Probes, world_probes
from smft_lab.probes.prompts import BUILT_IN, PromptForm
from smft_lab.ranges import check_positive
from smft_lab.recipe import Recipe
from smft_lab.slots.usage import Usage
from smft_lab.writing import (
    alone,
    atomic_folder,
    bring_back,
    check_place,
    json_text,
    moved_away,
    naming,
    write_atomically,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from smft_lab.lab import Lab

BACKGROUND_FILE = "background.safetensors"
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
SAVED_DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in NUMBERS)
ATTENTION = ("eager", "sdpa")  # implementations that every machine has; they differ in rounding
PATIENCE = 60  # seconds that `load` waits for a save to get done
READS = 3  # of a lab that is replaced meanwhile, before `load` keeps others from writing


def write_lab(lab: Lab, path: Path, reference: bool) -> None:
    """Write a lab as `Lab.save` says; see there.

    Args:
        reference: Whether the base is named instead of copied.
    """
    check_name(path)
    if not _is_defaults(json.loads(json_text(lab.defaults))):  # else it could be saved, and not loaded
        raise ValueError(f"lab.defaults is {str(lab.defaults)[:60]!r}, not {ABOUT['defaults'][1]} with rates above 0")
    if lab.world_seed is None:
        _check_probes(lab.probes)
    if reference:
        _check_reference(lab)
    else:
        check_rebuilds(lab.model, attached_at(lab.model))
    _check_finite(lab)
    with atomic_folder(path, LAB_FILE, is_lab_file) as folder, naming(path, lambda: _size(lab, reference)):
        _write(lab, folder, reference)


def _check_probes(probes: Probes) -> None:
    """Raise ValueError unless what is saved of the probes could be loaded."""
    try:
        Probes.from_records(json.loads(json_text(probes.to_records())))
    except (ValueError, TypeError, AttributeError) as problem:
        raise ValueError(f"the lab's probes can't be saved: {problem}") from None


def _check_finite(lab: Lab) -> None:
    """Raise ValueError if a weight is not finite any more, as after a training that diverged."""
    for name, tensor in distinct(lab.model.state_dict()).items():
        if not _is_finite(tensor) and _is_finite(lab.base(name)):
            raise ValueError(
                f"{name} holds numbers that are not finite, as after a training that diverged, so nothing was saved; "
                "lab.reset() brings the base back"
            )


def _is_finite(tensor: Tensor) -> bool:
    parts = torch.atleast_1d(tensor.detach()).split(CHUNK)  # nothing of the size of a table is made
    return all(bool(part.isfinite().all()) for part in parts)


def _check_reference(lab: Lab) -> None:
    advice = 'save it with base="copy"'
    if lab.source is None:
        raise ValueError(f"the lab's base can't be referenced: open_model didn't open it; {advice}")
    if not hasattr(lab.model.config, CONFIG_KEY) or not lab.source.files:
        missing = "its weights file" if hasattr(lab.model.config, CONFIG_KEY) else "how its memory was added"
        raise ValueError(f"the lab's base can't be referenced: {missing} isn't known; {advice}")
    try:
        check_unchanged(lab.model, lab.source)
    except ValueError as problem:
        raise ValueError(f"the lab's base can't be referenced: {problem}; {advice}") from None


def _write(lab: Lab, folder: Path, reference: bool) -> None:
    about = {"format": 1, "world_seed": lab.world_seed, "defaults": lab.defaults}
    own_tokenizer = True
    if hasattr(lab.model.config, CONFIG_KEY):
        write_config(lab.model, folder)
        if lab.model.generation_config is not None:
            # `save_pretrained` refuses what it would not generate with, and opening a model does not.
            lab.model.generation_config.to_json_file(folder / GENERATION_FILE)
        stored, rows = _tensors(lab, reference)
        save_file(stored, folder / (MEMORY_FILE if reference else WEIGHTS_FILE), {"format": "pt"})
        if rows:
            about |= {"format": FORMAT, "tables_by_rows": rows}
        if reference and lab.source is not None:
            own_tokenizer = tokenizer_hash(lab.tokenizer) != lab.source.tokenizer
            about |= {"format": FORMAT, "source": lab.source.to_json(), "own_tokenizer": own_tokenizer}
    else:
        lab.model.save_pretrained(folder)
    if own_tokenizer:
        lab.tokenizer.save_pretrained(folder)
    save_file(lab.usage.to_tensors(), folder / USAGE_FILE)
    if lab.documents:
        save_file(_packed(lab.documents), folder / BACKGROUND_FILE)
    if lab.world_scale != 1.0:
        about["world_scale"] = lab.world_scale
    if lab.model.dtype != torch.float32:
        about["dtype"] = str(lab.model.dtype).removeprefix("torch.")
        about["narrow_buffers"] = narrow_buffers(lab.model)
    if (attention := lab.model.config._attn_implementation) in ATTENTION:
        about["attention"] = attention
    if lab.form != BUILT_IN:
        about |= {"format": FORMAT, "form": lab.form.to_json()}
    if lab.recipe is not None:
        about |= {"format": FORMAT, "recipe": lab.recipe.to_dict()}
    if lab.world_seed is None:  # else they come from the seed
        (folder / PROBES_FILE).write_text(json_text(lab.probes.to_records(), indent=1), encoding="utf-8")
    about["files"] = sorted([LAB_FILE, *(file.name for file in folder.iterdir())])
    (folder / LAB_FILE).write_text(json_text(about, indent=2), encoding="utf-8")


def _tensors(lab: Lab, reference: bool) -> tuple[dict[str, torch.Tensor], list[str]]:
    """What the weights file of a model with an added memory holds, and the names of tables of which it has rows."""
    outside = set(outside_memory(lab.model)) if reference else set()
    rows, entries = few_rows(lab.model), lab.model.state_dict()
    stored = {
        name: tensor.contiguous()
        for name, tensor in distinct(entries).items()
        if name not in outside and name not in rows
    }
    for name, places in rows.items():
        stored |= {name + ROWS: places, name + VALUES: entries[name][places].contiguous()}
    return stored, list(rows)


def _size(lab: Lab, reference: bool) -> int:
    """Bytes of a saved lab, but for small files of text."""
    added = hasattr(lab.model.config, CONFIG_KEY)
    stored = _tensors(lab, reference)[0] if added else distinct(lab.model.state_dict())
    tensors = (*stored.values(), *lab.usage.to_tensors().values(), *_packed(lab.documents).values())
    return sum(tensor.nbytes for tensor in tensors)


def _packed(documents: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Documents as two tensors: their token ids behind one another, and how many each has."""
    ids = [token for document in documents for token in document]
    lengths = [len(document) for document in documents]
    return {"ids": torch.tensor(ids, dtype=torch.int32), "lengths": torch.tensor(lengths, dtype=torch.int32)}


def _unpacked(tensors: dict[str, torch.Tensor], vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """The documents of `_packed`.

    Raises:
        ValueError: they are damaged, or of a larger vocabulary.
    """
    ids, lengths = tensors["ids"], tensors["lengths"]
    if any(tensor.dim() != 1 or tensor.dtype != torch.int32 for tensor in (ids, lengths)):
        raise ValueError("ids and lengths must be lists of int32")
    if (lengths < 1).any() or lengths.sum() != len(ids):
        raise ValueError("the lengths are not of the ids")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(f"an id is outside the vocabulary of {vocabulary:,}")
    return tuple(tuple(part.tolist()) for part in ids.split(lengths.tolist()))


def save_defaults(path: Path, defaults: dict) -> None:
    """Give a saved lab other defaults; all else stays as it is there, though it be saved again meanwhile."""
    file = path / LAB_FILE
    with alone(path, PATIENCE):
        about = json.loads(file.read_text(encoding="utf-8"))
        about["defaults"] = defaults
        write_atomically(file, json_text(about, indent=2))


def is_lab_file(name: str) -> bool:
    """Whether a lab that doesn't list its files wrote one of that name."""
    return EARLIER_FILES.fullmatch(name) is not None


def check_name(path: Path) -> None:
    """Raise ValueError if a name on the way to a file is no UTF-8, which tokenizers and safetensors can't open."""
    try:
        os.path.realpath(path).encode("utf-8")
    except UnicodeEncodeError:
        problem = "a name in it is not in UTF-8, and a tokenizer is opened by no other"
        raise ValueError(f"{path}: {problem}; choose another name") from None


def check_lab_place(
    path: Path, mark: str = LAB_FILE, besides: Collection[str] = (), otherwise: str = "delete it"
) -> None:
    """Raise OSError or ValueError unless a new lab can be saved at `path`, before long work: see `check_place`.

    Args:
        mark: The file that says what is there, if it is another kind of model.
        besides: Names of files that will be written beside the lab when it is there.
        otherwise: What a person may do about a finished one, if not name another folder.
    """
    what = "lab" if mark == LAB_FILE else "model"
    check_name(path)
    check_place(path, mark)
    if (path / mark).exists():
        raise ValueError(f"{path} already holds a finished {what}; name another folder, or {otherwise}")
    lost = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if lost := [name for name in lost if is_lab_file(name) or name == BACKGROUND_FILE or name in besides]:
        raise ValueError(
            f"{path} holds a file {lost[0]} of another model, which a {what} would replace; name another folder"
        )


def _check_rows(rows: torch.Tensor, values: torch.Tensor, table: torch.Tensor, name: str) -> None:
    """Raise ValueError unless these can be rows of the table."""
    ascend = rows.dtype == torch.int64 and rows.ndim == 1 and bool((rows.diff() > 0).all())
    inside = ascend and (not len(rows) or (rows[0] >= 0 and rows[-1] < len(table)))
    if not inside or values.shape != (len(rows), table.shape[1]) or values.dtype not in NUMBERS:
        raise ValueError(f"the rows of {name} are damaged")


def shipped_checkpoint() -> Path:
    """The directory of the checkpoint that comes with the package."""
    return Path(str(resources.files("smft_lab") / "model" / "checkpoint"))


def read_lab(path: Path | None, device: str | torch.device, dtype: str, lab_of: Callable[..., Lab]) -> Lab:
    """Read a saved lab as `load` says; see there.

    Args:
        path: Its folder; None for the shipped one.
        lab_of: Makes a lab of its parts, as `Lab`.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    path = path or shipped_checkpoint()
    check_name(path)
    for _ in range(READS):
        if moved_away(path, LAB_FILE):
            with alone(path, PATIENCE):
                bring_back(path, LAB_FILE)
        place = _place(path)
        try:
            lab = _read(path, device, dtype, lab_of)
        except (OSError, ValueError):
            if not moved_away(path, LAB_FILE) and _place(path) == place:
                raise
        else:
            if _place(path) == place:
                return lab
    with alone(path, PATIENCE):  # it is replaced as fast as it is read
        bring_back(path, LAB_FILE)
        return _read(path, device, dtype, lab_of)


def _place(path: Path) -> tuple[int, int, int] | None:
    """Which folder is there now, told from one that takes its place; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns  # an inode number may be given again


def _read(path: Path, device: str | torch.device, dtype: str, lab_of: Callable[..., Lab]) -> Lab:
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
        if "attention" in about and about["attention"] != model.config._attn_implementation:
            model.set_attn_implementation(about["attention"])
    if GENERATION_FILE in about.get("files", ()):  # and not a person's own of that name
        with _reading(path, GENERATION_FILE):
            take_generation_config(model, path)
    model.to(device)  # pyright: ignore[reportArgumentType]
    if tokenizer is None or about.get("own_tokenizer"):
        with _reading(path, "the tokenizer's files"):
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    lab = lab_of(model, tokenizer, usage, None, about["defaults"], about["world_seed"], about.get("world_scale", 1.0))
    lab.folder = path
    if "form" in about:
        with _reading(path / LAB_FILE, "the prompt form"):
            lab.form = PromptForm.from_json(about["form"])
    if "recipe" in about:
        with _reading(path / LAB_FILE, "the recipe"):
            lab.recipe = Recipe.from_dict(about["recipe"])
    if BACKGROUND_FILE in about.get("files", ()):  # and not a person's own of that name
        with _reading(path, BACKGROUND_FILE):
            packed = load_tensors((path / BACKGROUND_FILE).read_bytes())
            lab.documents = _unpacked(packed, len(input_weight(model)))
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


def _read_model(
    path: Path,
    by_rows: list[str],
    usage: Usage,
    base: PreTrainedModel | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
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
        model, loading = opened
        if strangers := sorted({*loading["missing_keys"], *loading["unexpected_keys"]}):
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
            entries[name][rows] = values.to(entries[name].dtype)
    return model


def _check_sizes(config, asked: dict | None, file: Path, usage: Usage, base: PreTrainedModel | None) -> None:
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
        problem = f"format {about['format']} is newer than this version reads ({FORMAT})"
        raise ValueError(f"{file}: {problem}; update smft-lab")
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
    if not all(isinstance(value[name], kind) for name, kind in kinds.items()):
        return False
    settings = [settings for name, settings in value.items() if name != "sweep"]
    return all(map(_is_tried, value.get("sweep", []))) and all(map(_has_rates, settings))


def _is_tried(row) -> bool:
    """Whether this may be a setting that a sweep tried, with what came of it (see `smft_lab.experiments.tune`)."""
    kinds = {"method": str, "optimizer": str, "chosen": bool, "reached": bool}
    if not isinstance(row, dict):
        return False
    row = {"chosen": False, **row}  # it has that mark once the best of all are known
    if not all(isinstance(row.get(name), kind) for name, kind in kinds.items()):
        return False
    numbers = {name: number for name, number in row.items() if name not in kinds and number is not None}
    return "lr" in numbers and _has_rates(numbers) and all(type(number) in (int, float) for number in numbers.values())


def _has_rates(settings: dict) -> bool:
    """Whether what a method's settings name as rates may be some."""
    by_optimizer = settings.get("lr_by_optimizer", {})
    try:
        check_positive(**{name: settings[name] for name in ("lr", "top_t") if name in settings})
        check_positive(**by_optimizer)
    except (ValueError, TypeError):
        return False
    return True


def _is_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


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
    "dtype": (lambda value: value in SAVED_DTYPES, f"one of {', '.join(SAVED_DTYPES)}"),
    "narrow_buffers": (_is_texts, "a list of names"),
    "attention": (lambda value: value in ATTENTION, f"one of {', '.join(ATTENTION)}"),
    "own_tokenizer": (lambda value: isinstance(value, bool), "true or false"),
    "form": (lambda value: isinstance(value, dict), "an object"),
    "recipe": (lambda value: isinstance(value, dict), "an object"),
}
"""What each entry of a lab's file may be, and how that is called."""
