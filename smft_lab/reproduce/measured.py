"""What was measured on SmolLM2 with its memory beside one block or another, read from the runs of the study."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

PACKAGE = Path(__file__).parents[1]
RUNS = (PACKAGE / "measured", PACKAGE.parent / "docs" / "retrofit" / "runs")  # of an installation, and of a source tree
FACTS = 16


def measured_blocks() -> pd.DataFrame:
    """Addresses and what was learned, block by block: SmolLM2-135M, 16 facts about invented people, one seed.

    Returns:
        A row per block, in their order: `block`; `same` and `different`, how alike addresses are of one fact in two
        wordings and of two facts (see `smft.widgets.Addresses`); `learned`, `taught` and `prefixed`, the shares
        answered in a wording never taught, in a taught one, and behind two other questions; `known_lost`, the share of
        known questions lost; `text`, the change of the loss on text in nats a token; `steps`.

    Raises:
        FileNotFoundError: this installation has no such files.

    Examples:
        >>> smft.measured_blocks()[["block", "prefixed"]].iloc[-1].tolist()
        [16.0, 0.5625]
    """
    files = next((in_folder for folder in RUNS if (in_folder := sorted(folder.glob("*.json")))), None)
    if files is None:
        raise FileNotFoundError("the measurements are missing from this installation; install smft-lab again")
    rows = []
    for file in files:
        run = json.loads(file.read_text(encoding="utf-8"))
        about = run["config"]
        if (about["facts"], about["method"], about["rule"], about["switches"]) != (FACTS, "sparse", "tfidf", []):
            continue
        values = {(row["step"], row["probe"]): row["value"] for row in run["rows"] if row["metric"] in ("em", "nll")}
        last = max(step for step, _ in values)
        rows.append(
            {
                "block": about["block"],
                **run["found"]["addresses"],
                **{probe: values[last, probe] for probe in ("learned", "taught", "prefixed")},
                "known_lost": values[0, "known"] - values[last, "known"],
                "text": values[last, "text"] - values[0, "text"],
                "steps": run["found"]["steps"],
            }
        )
    return pd.DataFrame(rows).sort_values("block", ignore_index=True)
