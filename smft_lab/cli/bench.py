"""`smft-lab bench`: how long a step takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smft_lab.cli.options import ForceOption, LabOption
from smft_lab.terminal import cell, console, progress_bar, say

if TYPE_CHECKING:
    from smft_lab.lab import Lab

NAMES = ("bench.csv", "bench.json")


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and repeats: under a minute.")] = False,
    lab: LabOption = None,
    out: Annotated[Path, typer.Option(help="Folder of bench.json and bench.csv.")] = Path("results/bench"),
    force: ForceOption = False,
) -> None:
    """Time a sparse step beside the other ways to take it; ratios are what counts."""
    from smft_lab.lab import load
    from smft_lab.writing import atomic_folder, check_new, write_atomically

    for name in NAMES:
        check_new(out / name, force)
    opened = load(lab)
    with atomic_folder(out, NAMES[-1], NAMES.__contains__, names=NAMES) as folder:  # before any computing
        texts = _measured(opened, quick, None if lab is None else str(lab))
        for name, text in zip(NAMES, texts, strict=True):
            write_atomically(folder / name, text)
    print(out / NAMES[-1])


def _measured(opened: Lab, quick: bool, lab: str | None) -> tuple[str, str]:
    """The table that is printed, as CSV and, with what it was measured on, as JSON.

    Args:
        lab: Where the lab was opened; None for the shipped one.
    """
    from dataclasses import asdict

    import pandas as pd
    from rich.table import Table

    from smft_lab.experiments.bench import bench as rows_of
    from smft_lab.experiments.bench import machine, ratios
    from smft_lab.writing import json_text

    about, rows = machine(), []
    say(", ".join(f"{name} {value}" for name, value in about.items() if value is not None))
    with progress_bar() as bar:
        task = bar.add_task("bench", total=None)
        for row in rows_of(opened, quick, lab):
            rows.append(row)
            bar.update(task, description=f"{row.part}: {row.what}"[:60])
    frame = pd.DataFrame([{**asdict(row), "ratio": ratio} for row, ratio in zip(rows, ratios(rows), strict=True)])
    for part, of_part in frame.groupby("part", sort=False):
        table = Table(title=str(part), title_justify="left")
        for column in ("what", "N", "median", "ratio", "note"):
            table.add_column(column, justify="right" if column in ("N", "median", "ratio") else "left")
        row: Any  # pandas tells nothing of its fields
        for row in of_part.itertuples():
            known = pd.notna(row.value)
            slots = "" if pd.isna(row.slots) else f"{int(row.slots):,}"
            median = f"{row.value:,.3g} {row.unit}" if known else "-"
            table.add_row(row.what, slots, median, f"{row.ratio:,.2f}" if known else "-", cell(row.note))
        console.print(table)
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return frame.to_csv(index=False), json_text({"machine": about, "rows": records, "files": NAMES}, indent=2)
