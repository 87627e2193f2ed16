"""`smft-lab patch show | apply | revert | combine | diff`: what was learned, as files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from smft_lab.cli.options import ForceOption, InputArgument, SavedLabOption
from smft_lab.terminal import cell, printable, say
from smft_lab.wording import counted

if TYPE_CHECKING:
    from smft_lab.slots.patch import Patch

patches = typer.Typer(no_args_is_help=True, help="Show, apply, take out and combine what sparse finetuning learned.")
SHOWN = 10

Files = Annotated[list[Path], InputArgument(help="Patch files.")]
BaseOption = Annotated[Path | None, SavedLabOption("--lab", help="The base: a saved lab; the shipped one if absent.")]
OutLab = Annotated[Path, typer.Option(help="Folder of the new lab.")]


class OnConflict(StrEnum):
    refuse = "refuse"
    last = "last"
    mean = "mean"
    sum = "sum"


ConflictOption = Annotated[OnConflict, typer.Option(help="What becomes of a row that two patches set differently.")]


def read_patches(files: list[Path]) -> list[Patch]:
    from smft_lab.slots.patch import Patch

    return [Patch.load(file) for file in files]


@patches.command()
def show(files: Files) -> None:
    """List patches: how many rows, what they were taught, on which base; and where several of them meet."""
    from smft_lab.slots.combine import conflicts

    read = read_patches(files)
    table = Table()
    for name in ("patch", "rows", "kB", "rule", "t", "facts", "date", "base"):
        table.add_column(name, justify="right" if name in ("rows", "kB", "t", "facts") else "left", overflow="fold")
    for file, patch in zip(files, read, strict=True):
        about, facts = patch.about, patch.about.get("facts", "")
        count = str(len(facts)) if isinstance(facts, list) else str(facts)
        size = f"{file.stat().st_size / 1000:,.1f}"
        row = (about.get("rule", ""), about.get("top_t", ""), count, about.get("date", ""), patch.base[:8])
        texts = (file.name, f"{len(patch):,}", size, *map(str, row))
        table.add_row(*map(cell, texts))
    Console(highlight=False).print(table)
    for patch in read:
        facts = patch.about.get("facts")
        if isinstance(facts, list) and facts:
            print(f"{printable(patch.name)} was taught:")
            for fact in facts[:SHOWN]:
                print(f"  {printable(str(fact))}")
            if len(facts) > SHOWN:
                print(f"  and {len(facts) - SHOWN} more")
    if len(read) > 1 and len({patch.base for patch in read}) == 1:
        print(f"rows set differently by two or more of them: {len(conflicts(read)):,}")


@patches.command()
def apply(
    files: Files,
    out: OutLab,
    lab: BaseOption = None,
    on_conflict: ConflictOption = OnConflict.refuse,
    force: ForceOption = False,
) -> None:
    """Save the base with these patches in it, as a lab of its own."""
    from smft_lab.lab import load
    from smft_lab.slots.combine import hold

    _check_out(out, lab, force)
    read = read_patches(files)
    opened = load(lab)
    together = hold(opened, read, on_conflict=on_conflict.value)
    opened.save(out)
    _say(together, read)
    print(out)


@patches.command()
def revert(
    file: Annotated[Path, InputArgument(help="The patch to take out.")],
    lab: Annotated[Path, SavedLabOption("--lab", help="The lab that holds it, as `patch apply` saved it.")],
    out: OutLab,
    base: Annotated[Path | None, SavedLabOption(help="The base it was made on; the shipped lab if absent.")] = None,
    force: ForceOption = False,
) -> None:
    """Take one patch out of a lab; others in it stay."""
    from smft_lab.lab import load

    _check_out(out, base, force)
    (patch,) = read_patches([file])
    opened = load(lab)
    patch.revert(opened, load(base))
    opened.save(out)
    say(f"back at the base: {counted(len(patch), 'row')}")
    print(out)


@patches.command()
def combine(
    files: Files,
    out: Annotated[Path, typer.Option(help="The new patch file.")],
    on_conflict: ConflictOption = OnConflict.refuse,
    lab: BaseOption = None,
    force: ForceOption = False,
) -> None:
    """Make one patch of several of the same base; says how many rows they set differently."""
    from smft_lab.lab import load
    from smft_lab.slots.combine import combine as together_of
    from smft_lab.writing import check_new

    check_new(out, force)
    read = read_patches(files)
    together = together_of(
        read, on_conflict=on_conflict.value, lab=load(lab) if on_conflict is OnConflict.sum else None
    )
    together.save(out, replace=force)
    _say(together, read)
    print(out)


@patches.command()
def diff(
    first: Annotated[Path, InputArgument(help="A patch file.")],
    second: Annotated[Path, InputArgument(help="Another, of the same base.")],
) -> None:
    """How two patches differ: rows that only one has, that both have alike, and that they set differently."""
    from smft_lab.slots.combine import diff as lines_of

    table = Table()
    lines = lines_of(*read_patches([first, second]))
    own = (f"only {first.name}", f"only {second.name}")
    for name in ("table", *own, "alike in both", "different", "mean L2 distance", "mean cosine"):
        table.add_column(cell(name), justify="right", overflow="fold")
    for line in lines.itertuples():
        far = ("", "") if line.different == 0 else (f"{line.distance:.3f}", f"{line.cosine:.3f}")
        table.add_row(*(f"{value:,}" for value in line[1:6]), *far)
    Console(highlight=False).print(table)


def _check_out(out: Path, base: Path | None, force: bool) -> None:
    """Find out before the work whether a lab may be saved at `out`."""
    from smft_lab.storage import LAB_FILE, check_lab_place, shipped_checkpoint
    from smft_lab.writing import check_place

    if out.resolve() == (base or shipped_checkpoint()).resolve():
        raise ValueError(f"--out {out} is the base itself; name another folder, or the base is lost")
    if not force:
        check_lab_place(out, otherwise="replace it with --force")
    else:
        check_place(out, LAB_FILE)


def _say(together: Patch, read: list[Patch]) -> None:
    shared = together.about.get("rows set differently", 0) if len(read) > 1 else 0
    rule = (
        f", {shared:,} of them set differently and settled by the rule {together.about['on_conflict']}"
        if shared
        else ""
    )
    say(f"{counted(len(together), 'row')} of {counted(len(read), 'patch', 'patches')}{rule}")
