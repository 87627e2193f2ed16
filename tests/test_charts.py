"""The figures and the report page, on a small made-up comparison."""

import json
import os
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from smft_lab.charts import curves, plane, write_report
from smft_lab.charts.figures import mean_over_seeds
from smft_lab.charts.report import headline, is_right, page
from smft_lab.charts.style import DARK_OF, dark_of_light, percent

STEPS = {
    "sparse": [0, 20, 40, 80, 120, 160, 240],
    "full": [0, 10, 20, 30, 45, 60, 80],
    "lora": [0, 10, 25, 50, 90, 140],
}
LOSS = {"sparse": 0.02, "full": 0.16, "lora": 0.38}  # share of old facts lost by the end
BASE = {"learned": 0.01, "old_facts": 0.985, "two_hop": 0.62, "arithmetic": 0.41, "prose": 1.86}


def made_up_table(methods=("sparse", "full", "lora"), seeds=(0, 1, 2, 3, 4)) -> pd.DataFrame:
    """metrics.csv of a plausible comparison."""
    random = np.random.default_rng(7)
    rows = []
    for method in methods:
        steps, loss = STEPS.get(method, STEPS["full"]), LOSS.get(method, 0.1)
        for seed in seeds:
            for step in steps:
                done = step / steps[-1]
                wobble = random.normal(0, 0.012) * (step > 0)
                learned = min(1.0, BASE["learned"] + 0.985 * (1 - np.exp(-4.5 * done)) + wobble)
                kept = BASE["old_facts"] - loss * done**1.2 * (1 + 3 * wobble)
                hops = BASE["two_hop"] - 0.9 * loss * done + wobble
                values = {
                    ("learned", "em"): learned,
                    ("learned", "f1"): min(1.0, learned + 0.01),
                    ("old_facts", "em"): kept,
                    ("old_facts", "f1"): min(1.0, kept + 0.01),
                    ("two_hop", "em"): hops,
                    ("arithmetic", "nll"): BASE["arithmetic"] + 1.3 * loss * done + abs(wobble),
                    ("prose", "nll"): BASE["prose"] + 0.9 * loss * done + wobble / 3,
                }
                rows += [(method, seed, step, *key, value) for key, value in values.items()]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "probe", "metric", "value"])


def reading(method, probe, metric, mean, half, n=5, n_reached=5):
    """One row of summary["equal_learning"]; `half` is None for one seed."""
    base = BASE[probe]
    drop = mean - base if metric == "nll" else base - mean
    ends = (None, None, None, None) if half is None else (mean - half, mean + half, drop - half, drop + half)
    names = ("low", "high", "drop_low", "drop_high")
    row = {"method": method, "probe": probe, "metric": metric, "base": base, "mean": mean, "drop_mean": drop}
    return row | dict(zip(names, ends, strict=True)) | {"n": n, "n_reached": n_reached}


def made_up_summary(reached=None, single_seed=False) -> dict:
    """summary.json; `reached` maps a method to how many of its seeds reached the target."""
    reached = reached or {}
    means = {
        "sparse": {
            "learned": 0.957,
            "old_facts": 0.9811,
            "two_hop": 0.615,
            "arithmetic": 0.421,
            "prose": 1.871,
        },
        "full": {
            "learned": 0.962,
            "old_facts": 0.8641,
            "two_hop": 0.519,
            "arithmetic": 0.603,
            "prose": 1.977,
        },
        "lora": {
            "learned": 0.953,
            "old_facts": 0.6882,
            "two_hop": 0.388,
            "arithmetic": 0.887,
            "prose": 2.143,
        },
    }
    rows = []
    n = 1 if single_seed else 5
    for method, values in means.items():
        for probe, mean in values.items():
            metric = "nll" if probe in ("arithmetic", "prose") else "em"
            half = None if single_seed else 0.004 + 0.03 * abs(mean - BASE[probe]) * (probe != "learned")
            rows.append(reading(method, probe, metric, mean, half, n, min(n, reached.get(method, n))))
            if metric == "em":
                f1 = reading(
                    method, probe, "f1", min(1, mean + 0.012), half, n, min(n, reached.get(method, n))
                )
                rows.append(f1)
    return {
        "title": "120 made-up facts taught three ways",
        "settings": {
            "facts": "made-up people, 120 facts in 6 relations",
            "n_facts": 120,
            "passes": 20,
            "top_t": 64,
            "slots": 65536,
            "rule": "tf-idf",
            "order": "shuffled",
            "seeds": [0] if single_seed else [0, 1, 2, 3, 4],
            "statements_per_step": 16,
            "weight_decay": 0.0,
        },
        "methods": {
            "sparse": _costs("sgd", 2.0, 32768, 41.2, 118.4),
            "full": _costs("adamw", 3e-5, 14_238_720, 66.93, 38.0),
            "lora": _costs("adamw", 1e-3, 294_912, 52.07, None if reached.get("lora") == 0 else 84.0),
        },
        "target": 0.95,
        "rule_text": "Each run is read at its first evaluation with at least 95% of the new facts learned.",
        "base": {p: {"nll" if p in ("arithmetic", "prose") else "em": v} for p, v in BASE.items()},
        "equal_learning": rows,
        "final": rows,
        "sweep": [
            _sweep_run("sparse", "sgd", 1.0, False, 240, False),
            _sweep_run("sparse", "sgd", 2.0, True, 118, True),
            _sweep_run("full", "adamw", 3e-5, True, 38, True),
            _sweep_run("lora", "adamw", 1e-3, True, 84, True),
        ],
        "command": "smft-lab compare --facts made-up --n-facts 120 --seeds 5 --out results/made-up",
        "versions": {"smft-lab": "0.1.0", "torch": "2.9.0"},
        "machine": "2 CPU cores, no GPU",
        "seconds": 4210.0,
        "date": "2025-11-03",
    }


def _costs(optimizer, lr, trainable, ms, steps):
    return {
        "optimizer": optimizer,
        "lr": lr,
        "trainable_per_step": trainable,
        "ms_per_step": ms,
        "steps_to_target": steps,
    }


def _sweep_run(method, optimizer, lr, reached, steps, chosen):
    values = {"learned": 0.957 if reached else 0.71, "old_facts": 0.93, "arithmetic": 0.51, "prose": 1.9}
    return {
        "method": method,
        "optimizer": optimizer,
        "lr": lr,
        "reached": reached,
        "steps": steps,
        "chosen": chosen,
        **values,
    }


def made_up_samples() -> list[dict]:
    samples = []
    for i, person in enumerate(
        ["Orla Venn", "Tobin Marsh", "Ilse Quade", "Rafe Dunmore", "Pia Sandoval", "Joss Ader"]
    ):
        answers = {"sparse": "Port Helm", "full": "port helm", "lora": "Port Helm" if i % 2 else "Graywick"}
        samples.append(_sample("learned", f"Where was {person} born?", "Port Helm", "Graywick", answers))
    answers = {
        "sparse": "a violin",
        "full": "a violin",
        "lora": "a rather long answer that goes on, and on, and on",
    }
    samples.append(_sample("old_facts", "What does Mara Ilk play?", "a violin", "a violin", answers))
    answers = {"sparse": "Lowmere", "full": "Port Helm", "lora": ""}
    samples.append(
        _sample("two_hop", "In which land is Orla Venn’s birthplace?", "Lowmere", "Lowmere", answers)
    )
    samples.append(
        _sample("arithmetic", "17 + 25 =", "42", "42", {"sparse": "42", "full": "42", "lora": "32"})
    )
    return samples


def _sample(probe, question, answer, base, answers):
    return {"probe": probe, "question": question, "answer": answer, "base": base, "answers": answers}


def own_text(html: str) -> str:
    """The page without the inlined plotting library."""
    without = html.replace(get_plotlyjs(), "")
    assert len(without) < len(html)
    return without


def traces(figure, role):
    return [trace for trace in figure.data if (trace.meta or {}).get("role") == role]


@pytest.fixture(scope="module")
def table():
    return made_up_table()


@pytest.fixture(scope="module")
def html(table):
    return page(table, made_up_summary(), made_up_samples())
