"""Opening a finished language model by one word: a packaged model, a GGUF file, a folder, or a name on the hub.

What comes out is a plain float32 model of `transformers` in eval mode, wherever its weights were kept.

A model remembers where it came from (`model.smft_source`), so that a lab can name its base instead of copying it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from smft_lab.model.attach import AttachedMemory
from smft_lab.model.autoclass import CONFIG_KEY, AttachedConfig
from smft_lab.model.copies import storage
from smft_lab.model.gguf_files import INSTALL, open_gguf
from smft_lab.model.memory import MemoryLayer
from smft_lab.model.packaged import PACKAGED, packaged_file

Model = TypeVar("Model", bound=nn.Module)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Source:
    """Where an opened model came from, and how to tell that it is the same one.

    Attributes:
        asked: The name that `open_model` was given.
        place: Absolute path of the file or folder, or the name on the hub.
        revision: The commit on the hub; None for a path.
        files: Per weights file, its sha256 and its size: `{name: {"sha256": ..., "bytes": ...}}`.
        weights: A hash of all weights as they are computed with.
        about: The model and the numbers in its file, in words.
        tensors: Per entry of the state dict, a hash; known to the process that opened the model only.
        tokenizer: A hash of the tokenizer; known to the process that opened the model only.
    """

    asked: str
    place: str
    revision: str | None
    files: dict[str, dict]
    weights: str
    about: str
    tensors: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    tokenizer: str = field(default="", compare=False, repr=False)

    def to_json(self) -> dict:
        """What a saved lab keeps of it."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in ("tensors", "tokenizer")}

    @classmethod
    def from_json(cls, record) -> Source:
        """The opposite of `to_json`.

        Raises:
            ValueError: it is no such record.
        """
        try:
            asked, place, weights, about = (record[name] for name in ("asked", "place", "weights", "about"))
            revision, files = record["revision"], record["files"]
            whole = all(isinstance(field, str) for field in (asked, place, weights, about)) and (
                revision is None or isinstance(revision, str)
            )
            listed = {
                name: {"sha256": str(record["sha256"]), "bytes": int(record["bytes"])} for name, record in files.items()
            }
            plain = all(Path(name).name == name for name in listed)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as problem:
            raise ValueError(f"no record of a model ({type(problem).__name__}: {problem})") from None
        if not whole or not listed or not plain or not place or not asked:
            raise ValueError("no record of a model")
        return cls(asked, place, revision, listed, weights, about)


@dataclass(frozen=True)
class _Place:
    """A model that was found: `path` is a GGUF file or a folder; None for a name on the hub."""

    name: str
    path: Path | None

    @property
    def is_gguf(self) -> bool:
        return self.path is not None and self.path.suffix.lower() == ".gguf"


@torch.inference_mode(False)  # a memory is to be trained in it, whoever opens it
def open_model(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, by name; never runs code that comes with them.

    Args:
        name: `smollm2` (SmolLM2-135M-Instruct, see `smft_lab.model.packaged`), a `.gguf` file, a folder that holds one
            or a model of `transformers`, or a name on the hub.

    Returns:
        `(model, tokenizer)`: the model in float32 and eval mode, with its `Source` as `model.smft_source`. What a
        GGUF file stores in fewer bits is a plain model too, which can be saved, halved and trained.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no causal language model of that name, its files can't be read, or a package is missing.

    Examples:
        >>> plain.save_pretrained("plain")
        >>> _ = lab.tokenizer.save_pretrained("plain")
        >>> model, tokenizer = smft.open_model("plain")
        >>> type(model).__name__, model.smft_source.about
        ('LlamaForCausalLM', 'plain, float32')
    """
    return _open(_find(str(name)), str(name))


def reopen(source: Source) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a saved lab names, where it was or by the name it was asked for; checked before it is read.

    Raises:
        FileNotFoundError: it isn't there any more.
        ValueError: it is another one now, or see `open_model`.
    """
    if source.revision is not None:
        place = _Place(source.place, _download(source))
    elif Path(source.place).exists():
        place = _Place(source.place, Path(source.place))
    else:
        try:
            place = _find(source.asked, on_hub=False)
        except (ValueError, OSError) as problem:
            raise FileNotFoundError(
                f"the base model {source.asked!r} ({source.about}) is not at {source.place} any more, nor to be found "
                f"by its name ({problem}); put {', '.join(source.files)} back there"
            ) from None
    _check_files(place, source)
    model, tokenizer = _open(place, source.asked, source)
    if model.smft_source.weights != source.weights:
        raise ValueError(
            f"the base model {source.asked!r} at {place.path} is the same file, but its weights come out "
            "as other numbers here; install the versions in constraints.txt, or save the lab with a copy "
            "of its base where it was made"
        )
    return model, tokenizer


def described(model: PreTrainedModel) -> str:
    """One line on a model: its name, the numbers its file keeps, and the numbers that are computed with."""
    source = getattr(model, "smft_source", None)
    about = source.about if source else model.name_or_path or type(model).__name__
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return f"{about}{' in the file' if source else ''}, computed in {dtype}"


def check_unchanged(model: nn.Module, source: Source) -> None:
    """Raise ValueError unless all weights of the model but its memory layers' are what was opened from `source`."""
    if not source.tensors:
        raise ValueError("what was opened is not known in this process; open the model again with open_model")
    now, left = dict(hashes(model)), dict(source.tensors)
    attached = {name: module for name, module in model.named_modules() if isinstance(module, AttachedMemory)}
    moved = []
    for name in outside_memory(model):
        was = _name_before(name, attached)
        if was not in left:
            moved.append(name)
        elif left.pop(was) != now[name]:
            raise ValueError(f"{name} is not what {source.asked!r} holds")
    for name in moved:  # parts that stood apart and now stand together, as OPT's
        beside = [other for other in left if any(other.startswith(_parent(tensor)) for tensor in attached)]
        same = next((other for other in beside if left[other] == now[name]), None)
        if same is None:
            raise ValueError(f"{name} is not in {source.asked!r}")
        del left[same]
    replaced = tuple(_parent(name) for name, module in attached.items() if module.feed_forward is None)
    if lost := [name for name in left if not name.startswith(replaced or ("\0",))]:
        raise ValueError(f"{lost[0]} of {source.asked!r} is not in the model any more")


def outside_memory(model: nn.Module) -> list[str]:
    """State-dict names of all that is not in a memory layer."""
    memory = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, MemoryLayer))
    return [name for name in model.state_dict() if not name.startswith(memory or ("\0",))]


def hashes(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Name and hash of every entry of the state dict; one that shares its memory with another is read once."""
    known: dict[tuple, str] = {}
    for name, tensor in model.state_dict().items():
        if (place := storage(tensor)) not in known:
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            known[place] = digest.hexdigest()
        yield name, known[place]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer does and of its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = [str(tokenizer) if backend is None else backend.to_str(), tokenizer.special_tokens_map]
    text = json.dumps([*described, tokenizer.padding_side, tokenizer.chat_template], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parent(name: str) -> str:
    return name.rpartition(".")[0] + "."


def _name_before(name: str, attached: dict) -> str:
    """What a weight was called before its feed-forward stood beside a memory layer."""
    for place in attached:
        if name.startswith(inside := f"{place}.feed_forward."):
            return f"{place}.{name.removeprefix(inside)}"
    return name


def _find(name: str, on_hub: bool = True) -> _Place:
    if name in PACKAGED:
        if find_spec("gguf") is None:  # before anything is fetched
            raise ValueError(f"{name}: the package gguf, which reads it, is not installed; {INSTALL}")
        return _Place(name, packaged_file(name))
    path = Path(name).expanduser()
    if path.is_dir():
        _check_no_memory(path)
        files = sorted(path.glob("*.gguf"))
        if _weights_files(path):
            return _Place(name, path.resolve())
        if len(files) > 1:
            raise ValueError(f"{name} holds several models: {', '.join(file.name for file in files)}; name one of them")
        if not files and not (path / "config.json").is_file():
            raise ValueError(f"{name}: no causal language model in that folder (no .gguf file and no config.json)")
        return _Place(name, (files[0] if files else path).resolve())
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"{name}: there is no such file")
        return _Place(name, path.resolve())
    if path.is_file():
        raise ValueError(f"{name} is neither a .gguf file nor a folder; name one of those, or a model on the hub")
    if not on_hub:
        raise FileNotFoundError(f"{name}: there is no such file or folder")
    return _Place(name, None)


def _check_no_memory(folder: Path) -> None:
    """Raise ValueError if a folder holds a model with a memory, or adapters of peft."""
    if (folder / "lab.json").is_file():
        raise ValueError(f"{folder} is a saved lab, so its model has a memory already; open it with smft_lab.load")
    if (folder / "adapter_config.json").is_file():
        advice = "merge them into their model first (merge_and_unload()), save that, and name its folder"
        raise ValueError(f"{folder} holds adapters of peft; {advice}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        attached = isinstance(config, dict) and (CONFIG_KEY in config or config.get("model_type") == CONFIG_KEY)
    except (OSError, ValueError):  # whoever reads it will say what is wrong
        return
    if attached:
        advice = "AutoModelForCausalLM.from_pretrained opens it, once smft_lab is imported"
        raise ValueError(f"{folder} holds a model that has a memory already; {advice}")


def _weights_files(folder: Path) -> list[Path]:
    """The files in a folder that `transformers` takes weights from; what it looks for first comes first."""
    for name in WEIGHTS:
        file = folder / name
        if file.is_file():
            if file.suffix != ".json":
                return [file]
            try:
                parts = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
                return [file, *(folder / Path(part).name for part in sorted(parts))]
            except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
                raise ValueError(f"{file} is damaged; download it again") from None
    return []


def _files(path: Path) -> dict[str, dict]:
    files = {}
    for file in _weights_files(path) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[file.name] = {"sha256": digest, "bytes": file.stat().st_size}
    return files


def _check_files(place: _Place, source: Source) -> None:
    advice = "put the file back that the lab was made on, or make the lab again"
    path = place.path
    files: dict[str, Path] = {}
    if path is not None and place.is_gguf:
        files = dict.fromkeys(source.files, path) if len(source.files) == 1 else {}
    elif path is not None:
        files = {name: path / name for name in source.files if (path / name).is_file()}
    if missing := sorted(set(source.files) - set(files)):
        raise FileNotFoundError(f"the base model {source.asked!r} at {path} lacks {missing[0]}; {advice}")
    for name, record in source.files.items():
        file, size = files[name], files[name].stat().st_size
        if size != record["bytes"]:
            sizes = f"{size:,} bytes, not {record['bytes']:,}"
            raise ValueError(f"{file} is not the file that the lab's base {source.asked!r} was ({sizes}); {advice}")
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != record["sha256"]:
                problem = f"is not the file that the lab's base {source.asked!r} was (another sha256)"
                raise ValueError(f"{file} {problem}; {advice}")


def _download(source: Source) -> Path:
    """The folder of the very files on the hub that a lab was made on; from the cache where they are there."""
    from huggingface_hub import snapshot_download

    wanted = [*source.files, *TOKENIZER_FILES]
    try:
        return Path(snapshot_download(source.place, revision=source.revision, allow_patterns=wanted))
    except (OSError, ValueError) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"the base model {source.place} ({source.revision}) can't be had from the hub "
            f"({reason}); go online once, or put it in the hub's cache"
        ) from None


def _open(place: _Place, asked: str, source: Source | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of a place; with `source`, whose files were checked, no file is hashed again."""
    model: Any
    cached = None
    with quiet():
        if place.path is not None and place.is_gguf:
            model, tokenizer, about = open_gguf(place.path)
        else:
            model, tokenizer, about, cached = _open_transformers(place)
    own_memory(model.eval())
    about = source.about if source else about
    tensors = dict(hashes(model))
    weights = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()
    if source:
        where, revision, files = source.place if source.revision else str(place.path), source.revision, source.files
    elif place.path:
        where, revision, files = str(place.path), None, _files(place.path)
    else:
        where, revision, files = place.name, cached and cached.name, _files(cached) if cached else {}
    model.smft_source = Source(asked, where, revision, files, weights, about, tensors, tokenizer_hash(tokenizer))
    return model, tokenizer


@torch.no_grad()
def own_memory(model: Model) -> Model:
    """Copy weights that lie in a file still: it may be overwritten after it was checked, or cut under the process."""
    for tensor in {*model.parameters(), *model.buffers()}:
        tensor.data = tensor.data.clone()
    return model


def _cached(name: str) -> Path | None:
    """The folder in the hub's cache that holds what was just taken from the hub; its name is the commit."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _open_transformers(place: _Place):
    where = place.name if place.path is None else str(place.path)
    options: dict[str, Any] = {"local_files_only": place.path is not None, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(where, **options)
        if isinstance(config, AttachedConfig):
            raise ValueError("it has a memory already")
        stored = getattr(config, "dtype", None)
        cached = None if place.path else _cached(where)
        if cached is not None:
            options["revision"] = cached.name
        opened: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
        model, loading = opened
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError) as problem:
        at = "in that folder" if place.path else "in no folder of that name, nor to be had from the hub"
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise ValueError(f"{place.name}: no causal language model {at} ({reason})") from None
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"{place.name} is no causal language model: its weights lack {missing[0]}")
    if strange := sorted(loading["unexpected_keys"]):
        raise ValueError(
            f"{place.name} is not what its config.json describes, a {type(model).__name__}: its weights "
            f"hold {strange[0]}, for which that has no place"
        )
    if mismatched := sorted(map(str, loading.get("mismatched_keys", ()))):
        raise ValueError(f"{place.name} is not what its config.json describes: {mismatched[0]} has another shape there")
    name = Path(where).name if place.path else where
    dtype_note = f", {str(stored).removeprefix('torch.')}" if stored else ""
    return model, tokenizer, f"{name}{dtype_note}", cached


@contextmanager
def quiet():
    """No progress bars while weights are read; in a notebook they would stay for good."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
