"""Several patches of one base: where they meet, what they make together, and a model that holds some of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from smft_lab.model.memory import named_tables
from smft_lab.slots.patch import Patch, as_bytes, check_rows

if TYPE_CHECKING:
    from smft_lab.lab import Lab

OnConflict = Literal["refuse", "last", "mean", "sum"]
RULES = get_args(OnConflict)
KEPT_ALIKE = ("method", "rule", "top_t", "layers")  # what a combination says of itself where its parts agree


def conflicts(patches: Sequence[Patch]) -> pd.DataFrame:
    """The rows that several patches set to different values.

    Returns:
        One line per slot: `table`, `slot`, `patches` (their places in the list), `distance` (the largest L2 distance
        between two of the rows asked for) and `cosine` (the smallest cosine between two of them).

    Raises:
        ValueError: the patches belong to different bases, or have other tables.

    Examples:
        >>> one, two = (smft.Patch.load(name) for name in ("one.safetensors", "two.safetensors"))
        >>> smft.conflicts([one, two]).columns.tolist()
        ['table', 'slot', 'patches', 'distance', 'cosine']
    """
    _check_alike(patches)
    lines = []
    for table in range(len(patches[0].slots)):
        for slot, wanting in _shared(patches, table).items():
            rows = torch.stack([_row(patches[i], table, slot) for i in wanting]).double()
            if (as_bytes(rows[1:]) != as_bytes(rows[:1])).any():
                unit = torch.nn.functional.normalize(rows, dim=1)
                cosine = float((unit @ unit.T).min())
                lines.append((table, slot, tuple(wanting), float(torch.cdist(rows, rows).max()), cosine))
    return pd.DataFrame(lines, columns=["table", "slot", "patches", "distance", "cosine"])


def combine(patches: Sequence[Patch], *, on_conflict: OnConflict = "refuse", lab: Lab | None = None) -> Patch:
    """One patch that does what all of them do.

    A row that one patch has, or that all who have it set alike, is taken over bitwise. Where they differ, `on_conflict`
    decides: `refuse`; `last` takes the row of the patch that comes last; `mean` their mean; `sum` adds what each
    changed to the base's row.

    Args:
        lab: A lab around the base; only `sum` asks for it.

    Raises:
        ValueError: the patches belong to different bases; they differ in a row and `on_conflict` is `refuse`; or it is
            `sum` and there is no lab.

    Examples:
        >>> one, two = (smft.Patch.load(name) for name in ("one.safetensors", "two.safetensors"))
        >>> both = smft.combine([one, two], on_conflict="last")
        >>> len(both) <= len(one) + len(two)
        True
    """
    if on_conflict not in RULES:
        raise ValueError(f"on_conflict must be one of {', '.join(RULES)}, not {on_conflict!r}")
    differing = conflicts(patches)
    if on_conflict == "refuse" and len(differing):
        first = differing.iloc[0]
        who = " and ".join(patches[i].name for i in first["patches"][:2])
        raise ValueError(
            f"rows set differently: {len(differing)}, the first of them slot {first['slot']} by {who}; "
            "choose what to do: last, mean or sum"
        )
    if on_conflict == "sum" and len(differing):
        if lab is None:
            raise ValueError("sum adds to the base's rows; name the lab around the base")
        patches[0].check(lab)
    slots, values = [], []
    for table in range(len(patches[0].slots)):
        joint = torch.cat([patch.slots[table] for patch in patches]).unique()  # ascending
        rows = patches[0].values[table].new_empty(len(joint), patches[0].values[table].shape[1])
        for patch in patches:  # a later one writes over an earlier one
            rows[torch.searchsorted(joint, patch.slots[table])] = patch.values[table]
        if on_conflict in ("mean", "sum"):
            adds = lab is not None and on_conflict == "sum" and len(differing)
            base = lab.base(named_tables(lab.model)[0][table]) if lab is not None and adds else None
            here = differing[differing["table"] == table]
            for slot, wanting in zip(here["slot"], here["patches"], strict=True):
                wanted = torch.stack([_row(patches[i], table, slot) for i in wanting]).double()
                start = wanted.mean(0) if base is None else base[slot].cpu().double()
                row = start if base is None else start + (wanted - start).sum(0)
                rows[torch.searchsorted(joint, slot)] = row.to(rows.dtype)
        slots.append(joint)
        values.append(rows)
    return Patch(slots, values, patches[0].base, _about(patches, on_conflict, len(differing)))


def hold(lab: Lab, patches: Sequence[Patch], *, on_conflict: OnConflict = "refuse") -> Patch:
    """Make the lab's model its base with exactly these patches: those applied before and not named are gone, bitwise.

    So one of several is removed by naming the others. A finetune under way ends.

    Returns:
        What is in the model now, as one patch.

    Raises:
        ValueError: see `combine` and `Patch.check`; nothing was changed.

    Examples:
        >>> one, two = (smft.Patch.load(name) for name in ("one.safetensors", "two.safetensors"))
        >>> len(smft.hold(lab, [one])) == len(one)
        True
        >>> len(smft.hold(lab, []))
        0
    """
    together = combine(patches, on_conflict=on_conflict, lab=lab) if patches else None
    if together is not None:
        together.check(lab)
    lab.reset()
    if together is None:
        return Patch.between(lab)
    together.apply(lab)
    return together


def diff(patch: Patch, other: Patch) -> pd.DataFrame:
    """How two patches of one base differ.

    Returns:
        One line per value table: rows `only_first`, `only_second`, `alike` (in both, bitwise) and `different`, with the
        mean L2 `distance` and the mean `cosine` of the different ones (NaN where there is none).

    Raises:
        ValueError: the patches belong to different bases, or have other tables.

    Examples:
        >>> one, two = (smft.Patch.load(name) for name in ("one.safetensors", "two.safetensors"))
        >>> bool(smft.diff(one, two)["only_first"].sum() <= len(one))
        True
    """
    differing = conflicts([patch, other])
    lines = []
    for table, (first, second) in enumerate(zip(patch.slots, other.slots, strict=True)):
        both = int(torch.isin(first, second).sum())
        of_table = differing[differing["table"] == table]
        lines.append(
            (
                table,
                len(first) - both,
                len(second) - both,
                both - len(of_table),
                len(of_table),
                of_table["distance"].mean(),
                of_table["cosine"].mean(),
            )
        )
    columns = ["table", "only_first", "only_second", "alike", "different", "distance", "cosine"]
    return pd.DataFrame(lines, columns=columns)


def _check_alike(patches: Sequence[Patch]) -> None:
    if not patches:
        raise ValueError("there is no patch; name at least one")
    first = patches[0]
    for patch in patches:
        check_rows(patch)
        if patch.base != first.base:
            raise ValueError(
                f"{patch.name} was made on base {patch.base}, {first.name} on base {first.base}; "
                "only patches of one base go together"
            )
        if [(rows.shape[1], rows.dtype) for rows in patch.values] != [(r.shape[1], r.dtype) for r in first.values]:
            raise ValueError(f"{patch.name} and {first.name} have other tables; only patches of one base go together")


def _shared(patches: Sequence[Patch], table: int) -> dict[int, list[int]]:
    """slot -> which patches have it, for the slots that more than one has."""
    who: dict[int, list[int]] = {}
    for i, patch in enumerate(patches):
        for slot in patch.slots[table].tolist():
            who.setdefault(slot, []).append(i)
    return {slot: wanting for slot, wanting in sorted(who.items()) if len(wanting) > 1}


def _row(patch: Patch, table: int, slot: int) -> Tensor:
    return patch.values[table][torch.searchsorted(patch.slots[table], slot)]


def _about(patches: Sequence[Patch], on_conflict: str, differing: int) -> dict:
    alike = {
        key: patches[0].about[key]
        for key in KEPT_ALIKE
        if key in patches[0].about and all(patch.about.get(key) == patches[0].about[key] for patch in patches)
    }
    facts = [fact for patch in patches for fact in _facts(patch)]
    questions = [question for patch in patches for question in patch.questions]
    parts = [{"name": patch.name, "rows": len(patch), "date": patch.about.get("date")} for patch in patches]
    made = {"combined": parts, "on_conflict": on_conflict, "rows set differently": differing}
    return {**alike, "facts": facts, "questions": questions, "date": date.today().isoformat(), **made}


def _facts(patch: Patch) -> list:
    facts = patch.about.get("facts")
    return facts if isinstance(facts, list) else []
