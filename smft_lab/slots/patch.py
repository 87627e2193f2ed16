"""A patch: the value rows that a sparse finetune changed, as a small file that can be applied and reverted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from smft_lab.facts.fact import Fact
from smft_lab.model.autoclass import check_own_weights
from smft_lab.model.locking import exclusive
from smft_lab.model.memory import CHUNK, differing_rows, named_tables, value_tables
from smft_lab.wording import counted
from smft_lab.writing import atomic_file, json_text

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64, Shaped, UInt8

    from smft_lab.lab import Lab

FORMAT = "1"
KIND = "smft-lab patch"
LONGEST_HEADER = 10**8  # bytes; safetensors takes no longer one
WRITE_AGAIN = "save the patch again, or copy the file again"
_FINGERPRINTS: WeakKeyDictionary = WeakKeyDictionary()  # of labs, whose bases never change


@dataclass(repr=False)
class Patch:
    """Rows and their new values, per value table.

    Attributes:
        slots: Per table, ascending.
        values: Per table, bitwise what the finetuned table holds.
        base: Fingerprint of the base it belongs to.
        about: How it was made (method, rule, top_t, facts, questions, layers, date), any JSON values.
        name: What messages call it: its file, if it came from one.

    Examples:
        >>> run = smft.run(lab, smft.new_facts(1), passes=1)
        >>> run.patch.save("one.safetensors")
        >>> lab.reset()
        >>> smft.Patch.load("one.safetensors").apply(lab)
        >>> lab.reset()
    """

    slots: list[Int64[Tensor, " _rows"]]
    values: list[Float[Tensor, "_rows Vd"]]
    base: str
    about: dict = field(default_factory=dict)
    name: str = field(default="the patch", compare=False)

    @classmethod
    @exclusive
    def between(cls, lab: Lab, facts: Sequence[Fact] = (), *, about: dict | None = None) -> Patch:
        """The rows in which the lab's model now differs from its base; a sparse finetune under way may go on.

        Args:
            facts: What was taught; the patch keeps a statement and the question of each.
            about: How they came about, for whoever finds the file.

        Raises:
            ValueError: more than value rows differs, as after full finetuning or LoRA; rows can't restore that.
        """
        lab.check_comparable()
        names, tables = named_tables(lab.model)
        for name, tensor in lab.model.state_dict().items():
            if not name.endswith("values.weight") and not torch.equal(tensor, lab.base(name)):
                raise ValueError(f"{name} differs from the base; only sparse finetuning leaves a patch of value rows")
        slots, values = [], []
        for name, table in zip(names, tables, strict=True):
            changed = differing_rows(table.weight, lab.base(name))
            slots.append(changed)
            values.append(table.weight.detach()[changed].cpu())
        made = {"layers": [name.removesuffix(".values.weight") for name in names], "date": date.today().isoformat()}
        described: dict = {"facts": [fact.statements[0] for fact in facts]} if facts else {}
        described |= {"questions": [fact.question for fact in facts]} if facts else {}
        if lab.model.dtype != torch.float32:
            described["dtype"] = str(lab.model.dtype).removeprefix("torch.")
        return cls(slots, values, fingerprint(lab), {**made, **(about or {}), **described})

    def __repr__(self) -> str:
        facts = self.about.get("facts")
        taught = f" for {counted(len(facts), 'fact')}" if isinstance(facts, list) else ""
        return f"<Patch of {counted(len(self), 'row')}{taught}, base {self.base}>"

    def __len__(self) -> int:
        return sum(map(len, self.slots))

    @property
    def questions(self) -> list[str]:
        """The questions whose answers it changes, as far as it tells."""
        questions = self.about.get("questions")
        return [text for text in questions if isinstance(text, str)] if isinstance(questions, list) else []

    @property
    def is_finite(self) -> bool:
        """Whether all values are numbers; after a finetune that diverged they are not."""
        return all(bool(torch.isfinite(values).all()) for values in self.values)

    @exclusive
    @torch.no_grad()
    def apply(self, lab: Lab) -> None:
        """Set the patched rows of the lab's model, bitwise the finetuned one if it holds the base; ends any run.

        Raises:
            ValueError: see `check`; nothing was changed.
        """
        self.check(lab)
        lab.end()
        for table, slots, values in zip(value_tables(lab.model), self.slots, self.values, strict=True):
            table.weight[slots] = values.to(table.weight.device)

    @exclusive
    @torch.no_grad()
    def revert(self, lab: Lab, base: Lab | None = None) -> None:
        """Set the patched rows back to the base, bitwise. A run under way ends.

        Args:
            lab: The lab that holds the patch.
            base: A lab around the unpatched base, for a `lab` that was saved with the patch in it: such a lab takes
                the patched model for its base.

        Raises:
            ValueError: see `check`; or, with `base`, the patch isn't in `lab`. Nothing was changed.
        """
        self.check(base or lab)
        if base is not None:
            self._check_holds(lab, base)
        lab.end()
        for name, table, slots in zip(*named_tables(lab.model), self.slots, strict=True):
            table.weight[slots] = (base or lab).base(name)[slots]

    def check(self, lab: Lab) -> None:
        """Raise ValueError if the patch is damaged or doesn't fit the lab: another base, tables, slots or numbers."""
        check_rows(self)
        check_own_weights(lab.model)
        base_now = fingerprint(lab)
        if base_now != self.base:
            dtype = str(lab.model.dtype).removeprefix("torch.")
            theirs = self.about.get("dtype", "float32")
            other = "" if theirs == dtype else f" (the patch is of a {theirs} model, and the lab's is in {dtype})"
            raise ValueError(
                f"{self.name} was made on base {self.base}, but this lab's base is {base_now}{other}; "
                "open the lab it was made on"
            )
        tables = [table.weight for table in value_tables(lab.model)]
        if len(tables) != len(self.slots):
            raise ValueError(f"{self.name} has {len(self.slots)} tables, the model {len(tables)}; {WRITE_AGAIN}")
        for i, (table, slots, values) in enumerate(zip(tables, self.slots, self.values, strict=True)):
            if values.shape[1] != table.shape[1] or values.dtype != table.dtype:
                own_rows, theirs = f"{values.shape[1]} {values.dtype}", f"{table.shape[1]} {table.dtype}"
                raise ValueError(
                    f"{self.name}, table {i}: rows of {own_rows} numbers, the model's have {theirs}; {WRITE_AGAIN}"
                )
            if len(slots) and slots[-1] >= len(table):
                raise ValueError(
                    f"{self.name}, table {i}: slot {slots[-1]}, but the model has {len(table)} slots; {WRITE_AGAIN}"
                )

    def _check_holds(self, lab: Lab, base) -> None:
        """Raise ValueError unless the lab's model is the base in all but value rows, and the patch in its own rows."""
        lab.end()
        entries, expected = lab.model.state_dict(), base.model.state_dict()
        names = named_tables(base.model)[0]
        for name in sorted({*entries, *expected}):
            tensor, other = entries.get(name), None if name not in expected else base.base(name)
            if (
                tensor is None
                or other is None
                or tensor.shape != other.shape
                or tensor.dtype != other.dtype
                or (name not in names and not torch.equal(tensor, other))
            ):
                raise ValueError(
                    f"{self.name} can't be taken out: the lab isn't its base with patches in it ({name} "
                    "differs); name the lab it was applied to"
                )
        for i, (name, slots, values) in enumerate(zip(names, self.slots, self.values, strict=True)):
            other = (as_bytes(entries[name][slots].cpu()) != as_bytes(values)).any(dim=1)
            if other.any():
                raise ValueError(
                    f"{self.name} can't be taken out: {int(other.sum())} of its {len(slots)} rows of table {i} hold "
                    f"something else, the first of them slot {slots[other][0]}; combine the patches that are to stay, "
                    "and apply that to the base"
                )

    def save(self, path: str | Path, *, replace: bool = True) -> None:
        """Write a safetensors file; whole or not at all.

        Args:
            replace: Whether a file of that name may be replaced.

        Raises:
            OSError: it can't be written; an older file of that name is as it was.
            ValueError: slots, values or what it says about itself are not what `Patch` says; or there is such a file
                and it is not to be replaced.
        """
        path = Path(path)
        check_rows(self)
        about = self._about_text()
        tensors = {}
        for i, (slots, values) in enumerate(zip(self.slots, self.values, strict=True)):
            tensors |= {f"{i}.slots": slots.contiguous(), f"{i}.values": values.contiguous()}
        metadata = {"format": FORMAT, "kind": KIND, "base": self.base, "about": about}
        metadata["digest"] = _digest(metadata, tensors)
        data = to_bytes(tensors, metadata)
        with atomic_file(path, size=len(data), replace=replace) as partial:
            partial.write_bytes(data)

    def _about_text(self) -> str:
        """What it says about itself, as JSON."""
        try:
            if not isinstance(self.about, dict):
                raise TypeError(f"it is a {type(self.about).__name__}")
            return json_text(self.about)
        except (TypeError, ValueError) as problem:
            raise ValueError(f"{self.name}: about must be a dict of JSON values: {problem}") from None

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a patch, damaged, or of a newer format.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file; name one that Patch.save() wrote")
        try:
            with path.open("rb") as file:
                _read_metadata(file)  # before all of it is read: it may be a model of many gigabytes
                file.seek(0)
                data = file.read()  # what is checked below is what stays, whatever becomes of the file
            tensors, metadata = from_bytes(data), _read_metadata(BytesIO(data))
        # A header may name shapes and types that PyTorch can't make.
        except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, KeyError, RecursionError) as problem:
            reason = (str(problem).splitlines() or ["unreadable"])[0]
            raise ValueError(f"{path} is not a patch written by Patch.save(): {reason}") from None
        if metadata.get("format") != FORMAT:
            version = f"patch format {metadata.get('format')}, but this version reads {FORMAT}"
            raise ValueError(f"{path}: {version}; update smft-lab")
        tables = range(len(tensors) // 2)
        if set(tensors) != {f"{i}.{kind}" for i in tables for kind in ("slots", "values")}:
            raise ValueError(f"{path} is damaged: tables are missing or have odd names; {WRITE_AGAIN}")
        if missing := {"base", "about", "digest"} - set(metadata):
            raise ValueError(f"{path} is damaged: its metadata lack {', '.join(sorted(missing))}; {WRITE_AGAIN}")
        if metadata.pop("digest") != _digest(metadata, tensors):
            raise ValueError(f"{path} is damaged: its content is not what was saved; {WRITE_AGAIN}")
        try:
            about = json.loads(metadata["about"])
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise ValueError(f"{path} is damaged: 'about' in its metadata is no JSON object; {WRITE_AGAIN}")
        slots, values = ([tensors[f"{i}.{kind}"] for i in tables] for kind in ("slots", "values"))
        patch = cls(slots, values, metadata["base"], about, str(path))
        check_rows(patch)
        return patch


def is_patch(file: Path) -> bool:
    """Whether a file says that it is a patch; what else is in it is not looked at."""
    try:
        with file.open("rb") as opened:
            _read_metadata(opened)
    except (OSError, ValueError, RecursionError):
        return False
    return True


def _read_metadata(file: BinaryIO) -> dict:
    """What the header of a safetensors file says about it.

    Raises:
        ValueError: it has no such header, or says nothing of a patch.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= LONGEST_HEADER:
        raise ValueError("it is no safetensors file")
    header = json.loads(file.read(length))
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.get("kind") != KIND:
        raise ValueError("its metadata don't say so")
    return metadata


def check_rows(patch: Patch) -> None:
    """Raise ValueError unless every table has ascending slots and one row of finite numbers for each."""
    if len(patch.slots) != len(patch.values):
        raise ValueError(f"{patch.name}: slots for {len(patch.slots)} tables, values for {len(patch.values)}")
    for i, (slots, values) in enumerate(zip(patch.slots, patch.values, strict=True)):
        problem = None
        if not all(isinstance(rows, Tensor) and rows.layout == torch.strided for rows in (slots, values)):
            problem = "slots and values must be plain tensors"
        elif slots.is_meta or values.is_meta:
            problem = "its numbers are not in memory"
        elif slots.dtype != torch.int64 or slots.dim() != 1:
            problem = f"slots must be a list of int64, not {tuple(slots.shape)} {slots.dtype}"
        elif values.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64) or values.dim() != 2:
            problem = f"values must be rows of floats, not {tuple(values.shape)} {values.dtype}"
        elif len(slots) != len(values):
            problem = f"{len(slots)} slots, but {len(values)} rows of values"
        elif len(slots) and (slots[0] < 0 or (slots.diff() <= 0).any()):
            problem = "slots must ascend from 0 or more, each once"
        elif not torch.isfinite(values).all():
            problem = "values are nan or infinite, as after a finetune that diverged: teach at a lower learning rate"
        if problem:
            raise ValueError(f"{patch.name} is damaged, table {i}: {problem}; {WRITE_AGAIN}")


def _digest(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """A short hash of all that a patch file holds, so that no damaged number is ever applied."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(as_bytes(tensors[name].reshape(-1)).numpy().data)
    return digest.hexdigest()[:16]


def as_bytes(tensor: Shaped[Tensor, "*rows width"]) -> UInt8[Tensor, "*rows bytes"]:
    """The bytes of the last dimension: they compare bitwise, so that 0.0 and -0.0 differ."""
    return tensor.contiguous().view(torch.uint8)


@exclusive
def fingerprint(lab: Lab) -> str:
    """A short hash of every weight of the lab's base, by name and value, whatever dtype holds it."""
    if lab not in _FINGERPRINTS:
        digest = hashlib.sha256()
        for name in lab.weights:
            digest.update(name.encode())
            for part in torch.atleast_1d(lab.base(name)).split(CHUNK):  # nothing of the size of a table is made
                if part.is_floating_point() and part.dtype.itemsize < 4:
                    part = part.float()  # the same numbers
                digest.update(part.contiguous().view(torch.uint8).cpu().numpy())
        _FINGERPRINTS[lab] = digest.hexdigest()[:16]
    return _FINGERPRINTS[lab]


@exclusive
@torch.no_grad()
def row_changes(lab: Lab) -> list[Float32[Tensor, " N"]]:
    """How far every row is from the base: norms, per value table; 0 exactly where nothing has changed.

    Examples:
        >>> [int((norms > 0).sum()) for norms in smft.row_changes(lab)]
        [0]
    """
    changes = []
    for name, table in zip(*named_tables(lab.model), strict=True):
        rows, norms = differing_rows(table.weight, lab.base(name)), torch.zeros(len(table.weight), dtype=torch.float32)
        norms[rows] = (table.weight[rows] - lab.base(name)[rows]).norm(dim=1).float().cpu()
        changes.append(norms)
    return changes
