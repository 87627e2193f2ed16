"""A patch: the value rows that a sparse finetune changed, as a small file that can be applied and reverted."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smft_lab.model.memory import value_tables

FORMAT = "1"


@dataclass
class Patch:
    """Rows and their new values, per value table.

    Attributes:
        slots: Per table, (rows,) int64 ascending.
        values: Per table, (rows, Vd), bitwise what the finetuned table holds.
        base: Fingerprint of the base it belongs to.
        about: How it was made (method, facts, settings), any JSON values.
    """

    slots: list[Tensor]
    values: list[Tensor]
    base: str
    about: dict = field(default_factory=dict)

    @classmethod
    def between(cls, lab, about: dict | None = None) -> Patch:
        """The rows in which the lab's model now differs from its base.

        Raises:
            ValueError: more than value rows differs, as after full finetuning or LoRA; rows can't restore that.
        """
        lab.end()
        names, tables = named_tables(lab.model)
        for name, tensor in lab.model.state_dict().items():
            if not name.endswith("values.weight") and not torch.equal(tensor, lab.base(name)):
                raise ValueError(f"{name} differs from the base; only sparse finetuning leaves a patch of value rows")
        slots, values = [], []
        for name, table in zip(names, tables, strict=True):
            changed = (table.weight.detach() != lab.base(name)).any(dim=1).nonzero().squeeze(1)
            slots.append(changed)
            values.append(table.weight.detach()[changed].clone())
        return cls(slots, values, fingerprint(lab), about or {})

    def __len__(self) -> int:
        return sum(map(len, self.slots))

    @torch.no_grad()
    def apply(self, lab) -> None:
        """Set the patched rows of the lab's model; bitwise the finetuned model, if it holds the base.

        Raises:
            ValueError: the patch belongs to another base.
        """
        self._check(lab)
        for table, slots, values in zip(value_tables(lab.model), self.slots, self.values, strict=True):
            table.weight[slots] = values

    @torch.no_grad()
    def revert(self, lab) -> None:
        """Set the patched rows back to the base, bitwise.

        Raises:
            ValueError: the patch belongs to another base.
        """
        self._check(lab)
        for name, table, slots in zip(*named_tables(lab.model), self.slots, strict=True):
            table.weight[slots] = lab.base(name)[slots]

    def _check(self, lab) -> None:
        found = fingerprint(lab)
        if found != self.base:
            raise ValueError(f"the patch was made on base {self.base}, but this lab's base is {found}")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; whole or not at all."""
        path = Path(path)
        tensors = {}
        for i, (slots, values) in enumerate(zip(self.slots, self.values, strict=True)):
            tensors |= {f"{i}.slots": slots, f"{i}.values": values}
        metadata = {"format": FORMAT, "kind": "smft-lab patch", "base": self.base, "about": json.dumps(self.about)}
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata=metadata)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch file.

        Raises:
            ValueError: the file is not a patch, or of a newer format.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as problem:
            raise ValueError(f"{path} is not a patch written by Patch.save(): {problem}") from None
        if metadata.get("kind") != "smft-lab patch":
            raise ValueError(f"{path} is not a patch written by Patch.save()")
        if metadata["format"] != FORMAT:
            raise ValueError(f"{path}: patch format {metadata['format']}, but this version reads {FORMAT}")
        tables = range(len(tensors) // 2)
        slots, values = ([tensors[f"{i}.{kind}"] for i in tables] for kind in ("slots", "values"))
        return cls(slots, values, metadata["base"], json.loads(metadata["about"]))


def fingerprint(lab) -> str:
    """A short hash of every weight of the lab's base."""
    lab.end()  # LoRA gives the model other names while it runs
    digest = hashlib.sha256()
    for name in sorted(lab.model.state_dict()):
        digest.update(name.encode())
        digest.update(lab.base(name).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@torch.no_grad()
def row_changes(lab) -> list[Tensor]:
    """How far every row is from the base: per value table, (N,) norms; 0 exactly where nothing has changed."""
    return [(table.weight - lab.base(name)).norm(dim=1) for name, table in zip(*named_tables(lab.model), strict=True)]


def named_tables(model) -> tuple[list[str], list]:
    """State-dict names of the distinct value tables, and the tables."""
    tables = value_tables(model)
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    return [names[table] for table in tables], tables
