"""The addresses panel: will a fact be found again from another wording, and is what the memory adds heard?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import traitlets
from torch import nn

from smft_lab.facts.fact import Fact
from smft_lab.lab import Lab
from smft_lab.model.memory import memory_layers
from smft_lab.slots.addresses import LOUD, QUIET, Loudness, has_added_memory, measure_addresses, measure_loudness
from smft_lab.slots.patch import Patch
from smft_lab.widgets import sharing
from smft_lab.widgets.panel import Panel, page

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

LISTED = 50  # facts that are measured
ASKED = 8  # facts at whose questions loudness is measured
EVERY = 1.0  # seconds between two looks at a model that is being trained
LOOKING = 0.1  # most of the time that they may take
TRAIL = 40  # earlier measurements shown
REPORT = "addresses.json"  # in a lab's folder, where `smft-lab attach` made it


class Addresses(Panel):
    """The two meters of a memory, before and while it is taught.

    Will a fact be found? Only if its question reads the slots that the taught wordings read, and few of those that
    other facts read. Is it heard? Only if what the memory adds is neither a whisper nor a shout beside the stream of
    the model that it is added to. The second is measured again whenever another panel has changed the model.

    Args:
        lab: A `Lab`; the panel only reads its model.
        facts: At least two that are to be taught; the first 50 are measured.
        blocks: How good each block's addresses would be: the table of `measure_blocks` (`Retrofit.blocks`), or the
            folder of a lab that `smft-lab attach` made. Without it only the memory as it is attached is shown.
        theme: `auto`, `light` or `dark`.

    Raises:
        ValueError: there are fewer than two facts, or `blocks` is neither.
        FileNotFoundError: the folder has no such table.
    """

    lab: Lab
    _esm = page("addresses.js")
    title, takes_patches = "Will a fact be found, and is it heard?", True
    commands = ("measure",)

    limits = traitlets.Dict().tag(sync=True)
    blocks = traitlets.List().tag(sync=True)  # {block, same, different, here}, in the order of the model
    tables = traitlets.List().tag(sync=True)  # {same, different, weak}, one per value table
    facts = traitlets.List().tag(sync=True)  # {question, same, different, weak, advice}, the hardest to find first
    loudness = traitlets.Dict().tag(sync=True)  # median, low, high, state, message, trail

    def __init__(
        self, lab: Lab, facts: Sequence[Fact], blocks: pd.DataFrame | str | Path | None = None, *, theme: str = "auto"
    ):
        self._facts = list(facts)[:LISTED]
        if len(self._facts) < 2:
            raise ValueError("addresses are compared between facts; give at least two")
        table = _table_of(blocks)
        super().__init__(lab, theme=theme)
        self._added = has_added_memory(lab.model)
        self._looked, self._wait, self._trail = 0.0, EVERY, []
        here = memory_blocks(lab.model)
        self.limits = {"quiet": QUIET, "loud": LOUD, "blocks": here, "facts": len(self._facts)}
        self.blocks = [
            {
                "block": int(row["block"]),
                "same": float(row["same"]),
                "different": float(row["different"]),
                "here": int(row["block"]) in here,
            }
            for row in table.sort_values("block").to_dict("records")
        ]
        self.measure()
        lab.watchers.add(self)

    def base_is_back(self) -> None:
        """Measure the base."""
        self.measure()
        self.note = ""

    # What goes to somebody else

    def as_code(self) -> str:
        """Python that measures both meters."""
        lines = [
            *sharing.beginning(self.lab),
            *sharing.facts_lines(self.lab, self._facts),
            "for address in smft.measure_addresses(lab, facts):",
            "    print(address)",
            f"print(smft.measure_loudness(lab, facts[:{ASKED}]))",
            "# In a notebook: smft.widgets.Addresses(lab, facts)",
        ]
        return "\n".join(lines) + "\n"

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """The facts, and what was measured of each."""
        return self._facts, None, pd.DataFrame(self.facts)

    def _taken(self, patch: Patch) -> None:
        self.measure()
        self.note = f"The model holds {patch.name} now. lab.reset() brings the base back."

    # Commands

    def measure(self) -> None:
        """Measure both meters anew."""
        with self._claim.lock:
            measured = measure_addresses(self.lab, self._facts)
            loudness = self._listen()
        rows = []
        for number, fact in enumerate(self._facts):
            best = max(measured, key=lambda layer: layer.each[number] - layer.different)
            weak = all(number in layer.weak for layer in measured)
            rows.append(
                {
                    "question": fact.question,
                    "same": best.each[number],
                    "different": best.different,
                    "weak": weak,
                    "advice": _advice(fact) if weak else "",
                }
            )
        with self.hold_sync():
            self.tables = [
                {"same": layer.same, "different": layer.different, "weak": len(layer.weak)} for layer in measured
            ]
            self.facts = sorted(rows, key=lambda row: row["same"] - row["different"])
            self._hear(loudness)

    def model_changed(self) -> None:
        """Listen again; while the model is being trained, not too often."""
        trained = self._claim.owner is not None and self._claim.owner() is not None
        began = time.monotonic()
        if not self._added or (trained and began - self._looked < self._wait):
            return
        with self._claim.lock:
            loudness = self._listen()
        self._looked = time.monotonic()
        self._wait = max(EVERY, (self._looked - began) / LOOKING)
        self._hear(loudness)

    def snapshot(self) -> Picture:
        """The addresses, fact by fact or block by block, and the loudness."""
        from smft_lab.charts.pictures import gauge, picture, spans

        rows = self.blocks or self.facts[:12]
        names = [f"block {row['block']}" if self.blocks else row["question"] for row in rows]
        title = "Alike addresses, block by block" if self.blocks else "Alike addresses, hardest first"
        drawn = spans(
            names,
            [row["different"] for row in rows],
            [row["same"] for row in rows],
            ("two facts", "same fact"),
            "how alike two texts' addresses are",
            title,
        )
        heard = self.loudness
        loud = gauge(heard["low"], heard["median"], heard["high"], (QUIET, LOUD), "Loudness of the memory")
        weak = sum(row["weak"] for row in self.facts)
        return picture(
            drawn,
            loud,
            says=f"The addresses panel: {weak} of {len(self.facts)} facts are hard to find. {heard['message']}",
        )

    # Measuring

    def _listen(self) -> Loudness:
        return measure_loudness(self.lab, self._facts[:ASKED]) if self._added else Loudness([])

    def _hear(self, loudness: Loudness) -> None:
        low, median, high = (loudness.at(share) for share in (0.1, 0.5, 0.9))
        if not median:
            self._trail = []
        elif not self._trail or self._trail[-1] != median:
            self._trail = [*self._trail, median][-TRAIL:]
        state, warning = self._state_of(median, loudness.warning())
        self.loudness = {
            "median": median,
            "low": low,
            "high": high,
            "state": state,
            "message": warning,
            "trail": self._trail[:-1],
        }

    def _state_of(self, median: float, warning: str | None) -> tuple[str, str]:
        if not self._added:
            return (
                "part",
                "The memory stands in the place of a feed-forward here: it is a part of the model, and heard.",
            )
        if not median:
            return "silent", "Nothing is written yet, so the memory adds nothing. Teach something."
        if warning:
            return ("quiet" if median < QUIET else "loud"), warning[0].upper() + warning[1:] + "."
        return "good", f"The memory adds {median:.2f} of what it is added to: heard, and not too loud."


def memory_blocks(model: nn.Module) -> list[int]:
    """The blocks of the model that hold a memory layer, from 0."""
    names = {module: name for name, module in model.named_modules()}
    numbers = [
        [int(part) for part in names[layer].split(".") if part.isdigit()] for layer in memory_layers(model).values()
    ]
    return sorted({group[0] for group in numbers if group})


def _table_of(blocks: pd.DataFrame | str | Path | None) -> pd.DataFrame:
    """The table of blocks, with columns block, same and different; empty where none was given."""
    columns = ["block", "same", "different"]
    if blocks is None:
        return pd.DataFrame(columns=columns)
    if isinstance(blocks, str | Path):
        file = Path(blocks) / REPORT if Path(blocks).is_dir() else Path(blocks)
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}; name the folder of a lab that smft-lab attach made")
        try:
            rows = json.loads(file.read_text(encoding="utf-8")).get("blocks")
        except (ValueError, AttributeError):
            raise ValueError(f"{file} is damaged: it holds no measurements of blocks") from None
        blocks = pd.DataFrame(rows or [], columns=None if rows else columns)
    if not isinstance(blocks, pd.DataFrame) or not set(columns) <= set(blocks):
        raise ValueError("blocks is the table of measure_blocks, with block, same and different, or a lab's folder")
    return blocks


def _advice(fact: Fact) -> str:
    """What to do about a fact whose question reads other slots than its wordings."""
    if not fact.questions:
        return "give other wordings of its question to be taught (`questions`)"
    return "teach it in more wordings, or attach the memory to another block"
