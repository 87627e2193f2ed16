"""A panel that was closed is gone, with all that it held. `SMFT_LAB_PANELS=30 pytest tests/test_closed_panels.py` opens
that many of every kind, with the shipped lab, and looks at the memory of the process too."""

import gc
import os
import threading
import time
import weakref

import psutil
import pytest
import torch

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.probes.probes import world_probes
from smft_lab.widgets import Addresses, Compare, Predict, Slots, Teach, TopT, Train

MANY = int(os.environ.get("SMFT_LAB_PANELS", "0"))
FACTS = new_facts(60 if MANY else 4, seed=5)
FEW = {"passes": 1, "facts": 2, "top_t": 5}
TINY = {"steps": 4, "batch_size": 4, "vocab_size": 400, "memory_slots": 64, "background_batches": 3, "warmup": 2}
TINY |= {"tokenizer_texts": 200, "hidden_size": 32, "intermediate_size": 32, "world_scale": 0.02}


def trained(panel, name="start", **options):
    """The panel after a run in a thread, as in a notebook."""
    getattr(panel, name)(**options)
    until = time.monotonic() + 60
    while panel.state not in ("idle", "done") and time.monotonic() < until:
        time.sleep(0.01)
    assert panel.state in ("idle", "done")
    assert panel.error == ""
    return panel


def left_early(panel, name="start", **options):
    """The panel while its run is under way."""
    getattr(panel, name)(**options)
    return panel


LESSON = {
    "statements": ["Mira's dog is called Biscuit."],
    "question": "What is Mira's dog called?",
    "answer": "Biscuit",
}
KINDS = {
    "addresses": lambda lab: Addresses(lab, FACTS),
    "compare": lambda lab: trained(Compare(lab, FACTS, runner="thread", passes=1, count=2, evaluations=1)),
    "compare, left early": lambda lab: left_early(Compare(lab, FACTS, runner="thread", passes=50)),
    "predict": lambda lab: Predict("How many?", [1, 10]),
    "slots": lambda lab: Slots(lab, FACTS),
    "teach": lambda lab: trained(Teach(lab, runner="thread"), "teach", passes=2, **LESSON),
    "teach, left early": lambda lab: left_early(Teach(lab, runner="thread"), "teach", passes=500, **LESSON),
    "top t": lambda lab: trained(TopT(lab, FACTS, runner="thread"), "commit", settings=FEW),
    "top t, left early": lambda lab: left_early(TopT(lab, FACTS, runner="thread"), "commit", settings={"passes": 99}),
    "train": lambda lab: trained(Train(runner="thread", **TINY)),
    "train, left early": lambda lab: left_early(Train(runner="thread", **{**TINY, "steps": 9999})),
}


def open_and_close(kind: str, lab, times: int) -> int:
    """How many of so many panels are left when all have been closed."""
    panels = weakref.WeakSet()
    for _ in range(times):
        panel = KINDS[kind](lab)
        panels.add(panel)
        panel.close()
        lab.reset()
        del panel
    gc.collect()
    return len(panels)


def held() -> int:
    """Bytes of all tensors that there are."""
    storages = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor) and one.layout is torch.strided:
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("kind", KINDS)
def test_closed_panels_are_freed_with_all_that_they_held(tiny_lab, kind, record_property):
    lab = tiny_lab()
    if MANY:
        lab = smft.load()
        lab.probes = world_probes(lab.world, per_probe=4)
    open_and_close(kind, lab, 1)  # what is made once, such as the built-in world, comes with the first
    threads, before, resident = set(threading.enumerate()), held(), psutil.Process().memory_info().rss
    left = open_and_close(kind, lab, MANY or 2)
    record_property("tried", MANY or 2)
    record_property("broke", left)
    assert left == 0
    assert held() == before
    assert set(threading.enumerate()) <= threads
    if MANY:
        grown = psutil.Process().memory_info().rss - resident
        record_property("grown, MB", round(grown / 1e6, 1))
        assert grown < 60e6


@pytest.mark.parametrize("kind", ["compare", "top t"])
def test_a_closed_panel_that_something_still_names_holds_little(tiny_lab, kind):
    """As a notebook does with all that was the last line of a cell."""
    lab = tiny_lab()
    open_and_close(kind, lab, 1)
    before = held()
    panel = KINDS[kind](lab)
    gc.collect()
    shown = held() - before
    panel.close()
    lab.reset()
    gc.collect()
    assert held() - before < shown / 10
