"""The slots panel: which slots a text reads, token by token, and how ordinary text, TF-IDF and finetuning see them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
import traitlets
from torch import Tensor

from smft_lab.facts.fact import Fact
from smft_lab.finetuning.methods import Sparse
from smft_lab.finetuning.teaching import Teaching, counted_reads
from smft_lab.lab import Lab
from smft_lab.model.memory import named_tables, value_tables
from smft_lab.slots.coverage import fact_counts
from smft_lab.slots.patch import Patch, row_changes
from smft_lab.slots.reading import TokenReads, core_set, token_reads
from smft_lab.slots.scores import check_top_t, inverse_document_frequency, score, term_frequency, top_slots
from smft_lab.slots.usage import batch_counts
from smft_lab.widgets import sharing
from smft_lab.widgets.drawn_table import MOST, cell_of, in_cells, side_of
from smft_lab.widgets.panel import Panel, page

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int32, Int64

    from smft_lab.charts.pictures import Picture

LISTED = 50  # facts offered to pick from
TOP = 20  # slots in the ranking
MAPS = {  # view: (name, unit, how slots that share a drawn cell add up)
    "count": ("Reads of this text", "reads", "sum"),
    "df": ("Background df", "background batches", "amax"),
    "tfidf": ("TF-IDF score", "score", "amax"),
    "change": ("Change since the base", "norm of the row's change", "amax"),
    "core": ("Core set of the fact", "1 outside the top t, 2 in it", "amax"),
}
EVERY = 0.5  # seconds between two looks at a model that is being trained


class Slots(Panel):
    """Look into the memory: type a text, or pick a fact, and see which slots it reads.

    Args:
        lab: A `Lab`; the panel only reads its model, and follows it while another panel trains it.
        facts: Facts to pick from; the first 50 are offered.
        text: What to show first; the first fact by default.
        theme: `auto`, `light` or `dark`.

    Raises:
        ValueError: there are neither facts nor a text, or a text is too long for the model.
    """

    lab: Lab
    _esm = page("slots.js")
    title, takes_patches = "Which slots a text reads", True
    commands = ("read", "pick", "look", "describe", "peek")

    limits = traitlets.Dict().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)  # view, table, top_t
    subject = traitlets.Dict().tag(sync=True)  # text, fact (its number or None), statements
    tokens = traitlets.List().tag(sync=True)  # {text, slots, values}
    heat = traitlets.Bytes(b"").tag(sync=True)  # float32 per cell of the drawn table
    ranking = traitlets.List().tag(sync=True)  # top slots: slot, count, tf, df, idf, tfidf
    core = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)  # size, covered
    slot = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)  # the card
    under = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)  # what a drawn cell holds

    def __init__(self, lab: Lab, facts: Sequence[Fact] = (), *, text: str | None = None, theme: str = "auto"):
        self.facts = list(facts)[:LISTED]
        if not self.facts and text is None:
            raise ValueError("give a text, or facts to pick from: Slots(lab, facts) or Slots(lab, text='...')")
        super().__init__(lab, theme=theme)
        self._fact_counts: list[list[Int32[Tensor, " N"]]] | None = None
        self._grouped = lab.recipe is not None and lab.recipe.choice == "group"
        self._looked = 0.0
        tables, n = lab.usage.df.shape
        self.limits = {
            "slots": n,
            "tables": tables,
            "batches": lab.usage.batches,
            "side": side_of(n),
            "aggregated": side_of(n) == MOST < n**0.5,
            "maps": {view: {"name": name, "unit": unit} for view, (name, unit, _) in MAPS.items()},
            "facts": [fact.question for fact in self.facts],
            "grouped": self._grouped,
        }
        top_t = min(Sparse().resolved(lab).settings()["top_t"], n)
        self.settings = {"view": "tfidf", "table": 0, "top_t": top_t}
        if text is not None:
            self.read(text)
        else:
            self.pick(0)
        lab.watchers.add(self)

    # Commands

    def read(self, text: str) -> None:
        """Show what one text reads.

        Raises:
            ValueError: it is empty, or too long for the model.
        """
        with self._claim.lock:
            reads = token_reads(self.lab, text)
            counts = batch_counts(self.lab.model, self.lab.encode([text]))
        self._take(reads, counts, None, {"text": text, "fact": None, "statements": 1})

    def pick(self, fact: int) -> None:
        """Show what all that is taught of a fact reads, as the choice of slots scores it; the first text is drawn.

        Raises:
            ValueError: there is no fact of that number.
        """
        if not 0 <= fact < len(self.facts):
            raise ValueError(f"there are facts 0 to {len(self.facts) - 1}, not {fact}")
        chosen = self.facts[fact]
        texts = list(chosen.statements)
        if self._grouped:
            texts = [text.text for text in Teaching.of(self.lab, [chosen]).texts if not text.context]
        with self._claim.lock:
            reads = token_reads(self.lab, texts[0])
            (counts,) = self._counts_of([chosen])
            cores = core_set(self.lab, chosen)
        self._take(reads, counts, cores, {"text": texts[0], "fact": fact, "statements": len(texts)})

    def _counts_of(self, facts: list[Fact]) -> list[list[Int32[Tensor, " N"]]]:
        """Reads per slot, per fact and value table, of the texts by which slots are chosen."""
        recipe = self.lab.recipe
        if not self._grouped or recipe is None:
            return fact_counts(self.lab, facts)
        owners, reads = counted_reads(self.lab, facts, Teaching.of(self.lab, facts).texts, recipe.counted)
        counts = torch.zeros(len(facts), self.limits["tables"], self.lab.slots, dtype=torch.int32)
        for owner, tables in zip(owners, reads, strict=True):
            for table, slots in enumerate(tables):
                counts[owner, table] += torch.bincount(slots, minlength=self.lab.slots).int()
        return [list(of_table) for of_table in counts]

    def look(self, **settings) -> None:
        """Take over some of `view`, `table`, `top_t`.

        Raises:
            ValueError: a setting is out of range.
        """
        wanted = self.with_settings(settings)
        if wanted["view"] not in MAPS:
            raise ValueError(f"no view {wanted['view']!r}; there are {', '.join(MAPS)}")
        if not 0 <= wanted["table"] < self.limits["tables"]:
            raise ValueError(f"there are tables 0 to {self.limits['tables'] - 1}, not {wanted['table']}")
        if wanted["view"] == "core" and self._cores is None:
            raise ValueError("a core set belongs to a fact; pick one first")
        check_top_t(wanted["top_t"], self.lab.slots)
        self.settings = wanted
        self._show()
        if self.slot is not None:
            self.describe(self.slot["slot"])

    def describe(self, slot: int) -> None:
        """Show all there is to know about one slot.

        Raises:
            ValueError: there is no such slot.
        """
        if not 0 <= slot < self.lab.slots:
            raise ValueError(f"slots are numbered 0 to {self.lab.slots - 1}, not {slot}")
        table = self.settings["table"]
        with self._claim.lock:
            if self._fact_counts is None:
                self._fact_counts = self._counts_of(self.facts)
            rows = [self._base_values(table)[slot], value_tables(self.lab.model)[table].weight.detach()[slot].clone()]
        here = (self._reads.slots[table] == slot).double() * self._reads.weights[table].double()
        tokens = [(w, text) for w, text in zip(here.sum(1).tolist(), self._reads.tokens, strict=True) if w > 0]
        facts = [(int(counts[table][slot]), fact.question) for counts, fact in zip(self._fact_counts, self.facts)]  # noqa: B905
        ranks = (self._ranked == slot).nonzero()
        self.slot = {
            **self._row(slot),
            "rank": int(ranks[0]) + 1 if len(ranks) else None,
            "of": len(self._ranked),
            "background": int(self.lab.usage.count[table][slot]),
            "tokens": [[text or "(start, end)", round(w, 3)] for w, text in sorted(tokens, reverse=True)[:5]],
            "facts": [[question, count] for count, question in sorted(facts, reverse=True)[:5] if count],
            "norms": [row.norm().item() for row in rows],
            "moved": (rows[1] - rows[0]).norm().item(),
        }

    def peek(self, cell: int) -> None:
        """Tell exactly what is in one cell of a table too large to be drawn slot by slot."""
        inside = (cell_of(torch.arange(self.lab.slots), self.lab.slots) == cell).nonzero().squeeze(1)
        largest = self._values[inside].sort(descending=True, stable=True)
        pairs = zip(inside[largest.indices[:3]].tolist(), largest.values[:3].tolist(), strict=True)
        self.under = {"cell": cell, "slots": [list(pair) for pair in pairs], "of": len(inside)}

    def as_code(self) -> str:
        """Python that scores the slots that the text or the fact reads, and lists the top t."""
        chosen, fact = self.settings, self._fact()
        lines = [
            *sharing.beginning(self.lab),
            f"fact = {sharing.fact_code(fact)}",
            "scores = smft.slot_scores(lab, fact)",
            f'print(scores[scores["table"] == {chosen["table"]}].head({chosen["top_t"]}))',
            "# In a notebook: smft.widgets.Slots(lab, [fact])",
        ]
        return "\n".join(lines) + "\n"

    def _fact(self) -> Fact:
        """The fact that is shown; of a text that is none, one that teaches it."""
        number, text = self.subject["fact"], self.subject["text"]
        return Fact(text, text, text) if number is None else self.facts[number]

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """What is read, the change of the model if it is one of rows, and the slots that rank highest."""
        table = pd.DataFrame(self.ranking)
        try:
            patch = Patch.between(self.lab)
        except ValueError:  # other methods change more than rows
            patch = None
        return [self._fact()], patch if patch is not None and len(patch) else None, table

    def base_is_back(self) -> None:
        """Show the base."""
        self._show()
        self.note = ""

    def _taken(self, patch: Patch) -> None:
        self.settings = {**self.settings, "view": "change"}
        self._show()
        self.note = f"The model holds {patch.name} now: its rows are coloured below. lab.reset() brings the base back."

    def snapshot(self) -> Picture:
        """The table in the chosen view, and the slots that rank highest."""
        from smft_lab.charts.pictures import bars, heat, picture

        name, unit, _ = MAPS[self.settings["view"]]
        names = [f"slot {row['slot']}" for row in self.ranking[:12]]
        scores = [row["tfidf"] for row in self.ranking[:12]]
        about = (
            f"The slots panel: {name.lower()} of {self.subject['text']!r}; slot {self.ranking[0]['slot']} ranks first."
        )
        return picture(
            heat(in_cells(self._values, MAPS[self.settings["view"]][2]), name, unit),
            bars(names, scores, "TF-IDF score", "Top slots"),
            says=about,
        )

    # What is shown

    def model_changed(self) -> None:
        """Look at the rows again; while they are being trained, twice a second."""
        trained = self._claim.owner is not None and self._claim.owner() is not None
        if self.settings["view"] != "change" or (trained and time.monotonic() - self._looked < EVERY):
            return
        self._looked = time.monotonic()
        self._show()

    def _take(
        self,
        reads: TokenReads,
        counts: list[Int32[Tensor, " N"]],
        cores: list[Int64[Tensor, " _slots"]] | None,
        about: dict,
    ) -> None:
        self._reads, self._counts, self._cores = reads, counts, cores
        if cores is None and self.settings["view"] == "core":
            self.settings = {**self.settings, "view": "tfidf"}
        with self.hold_sync():
            self.subject = about
            self._show()
            if self.slot is not None:
                self.describe(self.slot["slot"])

    def _show(self) -> None:
        table = self.settings["table"]
        count, df = self._counts[table], self.lab.usage.df[table]
        self._scores = score("tfidf", count, df, self.lab.usage.batches)
        self._ranked = top_slots(self._scores, count, None)
        self._values = self._map(self.settings["view"], table)
        cells = in_cells(self._values, MAPS[self.settings["view"]][2])
        self.under = None  # of other values
        reads = self._reads
        with self.hold_sync():
            self.heat = cells.float().numpy().tobytes()
            self.tokens = [
                {"text": text, "slots": slots.tolist(), "values": self._values[slots].tolist()}
                for text, slots in zip(reads.tokens, reads.slots[table], strict=True)
            ]
            self.ranking = [self._row(slot) for slot in self._ranked[:TOP].tolist()]
            self.core = None if self._cores is None else self._core_words(self._cores[table])

    def _map(self, view: str, table: int) -> Float64[Tensor, " N"]:
        """(N,) values of one view."""
        if view == "count":
            return self._counts[table].double()
        if view == "df":
            return self.lab.usage.df[table].double()
        if view == "tfidf":
            return self._scores
        if view == "change":
            return row_changes(self.lab)[table].double()
        values = torch.zeros(self.lab.slots, dtype=torch.double)
        if self._cores is not None:
            values[self._cores[table]] = 1
        return values + values * torch.zeros_like(values).index_fill_(0, self._ranked[: self.settings["top_t"]], 1)

    def _core_words(self, core: Int64[Tensor, " slots"]) -> dict:
        covered = torch.isin(core, self._ranked[: self.settings["top_t"]])
        common = self.lab.usage.df[self.settings["table"]][core] * 2 > self.lab.usage.batches
        return {
            "size": len(core),
            "covered": int(covered.sum()),
            "common": int(common.sum()),
            "read": len(self._ranked),
        }

    def _row(self, slot: int) -> dict:
        table = self.settings["table"]
        count, df, batches = self._counts[table], self.lab.usage.df[table], self.lab.usage.batches
        return {
            "slot": slot,
            "count": int(count[slot]),
            "tf": term_frequency(count)[slot].item(),
            "df": int(df[slot]),
            "idf": inverse_document_frequency(df[slot], batches).item(),
            "tfidf": self._scores[slot].item(),
        }

    def _base_values(self, table: int) -> Float[Tensor, "N Vd"]:
        names, _ = named_tables(self.lab.model)
        return self.lab.base(names[table])
