"""`smft-lab facts`: what is understood of a file or a public question set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smft_lab.cli.options import ForceOption, KindOption
from smft_lab.terminal import say
from smft_lab.wording import counted

SHOWN = 5  # facts that are printed


def make_facts(
    source: Annotated[
        str, typer.Argument(help="A file; or triviaqa, nq_open, simpleqa, popqa, owner/name on the hub.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the facts here, as JSON lines for --facts.")] = None,
    kind: KindOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most facts, drawn by the seed.")] = None,
    documents: Annotated[bool, typer.Option("--documents", help="A text file: its passages, in order.")] = False,
    paraphraser: Annotated[
        str | None, typer.Option(help="A Hugging Face model that paraphrases; else only rules.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    force: ForceOption = False,
) -> None:
    """Show the first facts of a file or a public question set as they will be taught and asked; --out keeps all."""
    from smft_lab.facts.answers import check_answers
    from smft_lab.facts.documents import read_documents
    from smft_lab.facts.files import check_paraphrases, record_of
    from smft_lab.facts.public.datasets import read_dataset, read_own
    from smft_lab.writing import check_new, write_atomically

    if out is not None and out.suffix != ".jsonl":
        raise ValueError(f"--out {out}: facts are JSON lines; let its name end in .jsonl")
    if out is not None:
        if out.exists() and Path(source).exists() and out.samefile(source):
            raise ValueError(f"--out {out} is the source itself; name another file, or it is lost")
        check_new(out, force)
    if documents:
        read, is_what = read_documents(source, seed=seed), "documents"
    else:
        read = (read_own if _is_file(source) else read_dataset)(
            source, kind, limit=limit, seed=seed, paraphraser=paraphraser
        )
        is_what = read.kind
    facts = read.facts[:limit]
    if not facts:
        raise ValueError(f"{source} holds no questions with short answers ({read.report})")
    for number, fact in enumerate(facts[:SHOWN], start=1):
        others = [f"{len(texts)} more" for texts in (fact.statements[1:],) if texts]
        text = "; and ".join([_in_a_line(fact.statements[0]), *others])
        say(f"{number}. taught: {text}")
        for question in fact.questions[:1]:
            say(f"   taught: {_in_a_line(question)} -> {_in_a_line(fact.answer)}")
        answers = _in_a_line(" | ".join(fact.answers[:4]))
        say(f"   asked:  {_in_a_line(fact.question)} -> {answers}")
    for note in (check_paraphrases(facts), check_answers(facts)):
        if note:
            say(f"note: {note}")
    say(f"{counted(len(facts), 'fact')}; {read.report}; read as {is_what}")
    if out is not None:
        lines = "".join(json.dumps(record_of(fact), ensure_ascii=False) + "\n" for fact in facts)
        write_atomically(out, lines, replace=force)
        print(out)


def _is_file(source: str) -> bool:
    from smft_lab.facts.rows import SUFFIXES

    return Path(source).exists() or Path(source).suffix.lower() in SUFFIXES or source.startswith((".", "/", "~"))


def _in_a_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:159]}…"
