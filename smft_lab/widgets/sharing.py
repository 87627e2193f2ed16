"""What a panel gives to somebody else: its Python, a folder, and the card of a patch that was brought to it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smft_lab.charts.shell import page_html
from smft_lab.charts.style import probes_in
from smft_lab.facts.fact import Fact
from smft_lab.facts.files import record_of
from smft_lab.lab import Lab
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import batch_counts
from smft_lab.storage import shipped_checkpoint
from smft_lab.widgets.kept import KeptQuestions, few
from smft_lab.writing import unwritable

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

SEEDS = 10  # of built-in facts that are looked through for those of a panel
READERS, LOOKED = 5, 60  # questions on a card, and those that are looked at for it
TAUGHT = 8  # facts on a card
EXPORT = "export"  # a folder that is exported


# As code ----------------------------------------------------------------------------------------------


def written(call: str, **options) -> str:
    """A call with those of its options that are not None."""
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    head, _, rest = call.partition("(")
    inside = rest.removesuffix(")")
    return f"{head}({', '.join([*filter(None, [inside]), *given])})"


def beginning(lab: Lab) -> list[str]:
    """The lines that open a lab; one that is in no folder is the one that the notebook has."""
    lines = ["import smft_lab as smft", ""]
    if lab.folder is None:
        return [
            *lines,
            '# `lab` is the one of this notebook; lab.save("mine") keeps it, smft.load("mine") opens it',
            "lab.reset()",
        ]
    shipped = os.path.realpath(lab.folder) == os.path.realpath(shipped_checkpoint())
    return [*lines, "lab = smft.load()" if shipped else f"lab = smft.load({str(lab.folder)!r})", "lab.reset()"]


def as_given(facts: Sequence[Fact]) -> dict[str, bool]:
    """What tells `run` to teach the facts as they are, where it would add words to a person's own."""
    return {"rephrase": False} if any(fact.own for fact in facts) else {}


def facts_lines(lab: Lab, facts: Sequence[Fact], count: int | None = None) -> list[str]:
    """The lines that make `facts`, and of them the first `count`."""
    facts = list(facts)
    first = "" if count in (None, len(facts)) else f"[:{count}]"
    if lab.world_seed is not None and facts[0].subject:
        for seed in range(SEEDS):
            if lab.world.new_facts(len(facts), seed) == facts:
                return [f"facts = lab.world.new_facts({len(facts)}, seed={seed}){first}"]
    return ["facts = [", *(f"    {fact_code(fact)}," for fact in facts[:count]), "]"]


def fact_code(fact: Fact) -> str:
    """A fact as Python."""
    default = {"subject": "", "relation": "", "questions": (), "two_hop": (), "public": False}
    more = {name: getattr(fact, name) for name in default if getattr(fact, name) != default[name]}
    parts = [repr(fact.statements), repr(fact.question), repr(fact.answers)]
    parts += [f"{name}={value!r}" for name, value in more.items()]
    if len(", ".join(parts)) > 100:
        statements = "".join(f"\n        {text!r}," for text in fact.statements)
        return f"smft.Fact(\n    ({statements}\n    ),\n    " + ",\n    ".join(parts[1:]) + ",\n)"
    return f"smft.Fact({', '.join(parts)})"


# A folder ---------------------------------------------------------------------------------------------


def free_name(name: str) -> Path:
    """`name`, or the first of `name-2`, `name-3`, ... that nothing has."""
    path = Path(name)
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], others) if not os.path.lexists(candidate))


def export(
    path: Path, title: str, picture: Picture, code: str, facts: Sequence[Fact], patch: Patch | None, table: pd.DataFrame
) -> list[str]:
    """Write a folder with the page of a panel, its code, facts, patch and figures.

    Returns:
        The names of its files.

    Raises:
        OSError: it can't be written.
        ValueError: there is something of that name.
    """
    if os.path.lexists(path):
        raise ValueError(f"{path} is there already; name another folder")
    lines = "".join(json.dumps(record_of(fact), ensure_ascii=False) + "\n" for fact in facts)
    texts = {"code.py": code, "facts.jsonl": lines, "table.csv": table.to_csv(index=False) if len(table) else ""}
    texts = {name: text for name, text in texts.items() if text}
    names = ["page.html", *texts, *(["patch.safetensors"] if patch is not None else [])]
    texts["page.html"] = still_page(title, picture, code, table, names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as unfinished:
            folder = Path(unfinished, path.name)
            folder.mkdir()
            if patch is not None:
                patch.save(folder / "patch.safetensors")
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            os.rename(folder, path)
    except OSError as problem:
        raise unwritable(path, problem) from None
    return names


def still_page(title: str, picture: Picture, code: str, table: pd.DataFrame, files: Sequence[str]) -> str:
    """What a panel shows as a page of one file that runs nothing."""
    rows = [[f"{value:.4g}" if isinstance(value, float) else value for value in row] for row in table.values.tolist()]
    return page_html(
        Path(__file__).with_name("still_page.html"),
        title=title,
        says=picture.says,
        picture=base64.b64encode(picture.png).decode(),
        columns=list(table.columns),
        rows=rows[:200],
        code=code,
        files=files,
    )


# The card of a patch ----------------------------------------------------------------------------------


def card(lab: Lab, patch: Patch, name: str, facts: Sequence[Fact] = ()) -> dict:
    """What a patch is: how it was made, what was taught, what it costs, and what else reads its rows.

    A question whose answer it is to change is no cost.

    Args:
        lab: Holds the base with the patch in it afterwards.
        facts: Other facts to look at for what reads its rows.
    """
    probes = few(lab, questions=patch.questions)
    lab.reset()
    base = probes.measure(lab.model, lab.tokenizer)
    readers = _readers(lab, patch, facts)
    patch.apply(lab)
    now = probes.measure(lab.model, lab.tokenizer)
    titles = {(probe.key, probe.metric): probe.title for probe in probes_in((p, m) for p in now for m in now[p])}
    about, taught = patch.about, patch.about.get("facts", [])
    taught = [str(text) for text in taught] if isinstance(taught, list) else []
    made = {key: about[key] for key in ("method", "rule", "top_t", "date") if isinstance(about.get(key), str | int)}
    return {
        "name": name,
        "rows": len(patch),
        "of": sum(len(df) for df in lab.usage.df),
        "made": made,
        "taught": taught[:TAUGHT],
        "count": len(taught),
        "cost": [
            {"title": title, "metric": metric, "base": base[probe][metric], "now": now[probe][metric]}
            for (probe, metric), title in titles.items()
        ],
        **readers,
    }


def _readers(lab: Lab, patch: Patch, facts: Sequence[Fact]) -> dict:
    """How much of ordinary reading, and which known questions and facts, go to the rows of a patch."""
    usage = zip(lab.usage.count, patch.slots, strict=True)
    share = sum(float(count[slots].double().sum()) for count, slots in usage)
    questions = [*KeptQuestions(lab).questions[:LOOKED], *(fact.question for fact in facts[:LOOKED])]
    shares = []
    for question in dict.fromkeys(questions):
        counts = batch_counts(lab.model, lab.encode([question]))
        reads = sum(int(count[slots].sum()) for count, slots in zip(counts, patch.slots, strict=True))
        shares.append((reads / max(1, sum(int(count.sum()) for count in counts)), question))
    shares.sort(key=lambda pair: -pair[0])
    return {
        "background": share / max(1.0, float(lab.usage.count.double().sum())),
        "readers": [[question, part] for part, question in shares[:READERS] if part > 0],
    }
