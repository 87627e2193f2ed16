"""A person's own facts are taught in more words than one, where a small model would not find them otherwise."""

from functools import wraps

import smft_lab as smft
import smft_lab.experiments.run as run_module
from smft_lab.facts.fact import Fact


def test_a_run_teaches_a_person_s_own_fact_in_more_words_unless_told_not_to(lab, monkeypatch):
    taught = []

    def finetune(lab, facts, method, **options):
        taught.append((facts, options.get("loss_on")))
        return actual(lab, facts, method, **options)

    actual = run_module.finetune
    monkeypatch.setattr(run_module, "finetune", wraps(actual)(finetune))
    fact = Fact("Mira's dog is called Biscuit.", "What is Mira's dog called?", "Biscuit")
    for options in ({}, {"rephrase": False}, {"loss_on": "statement"}):
        lab.reset()
        smft.run(lab, [fact], passes=1, probe_every=0, **options)
    assert [(len(facts[0].statements), loss_on) for facts, loss_on in taught] == [
        (16, "answer"),
        (1, None),
        (16, "statement"),
    ]
    taught.clear()
    smft.run(lab, smft.new_facts(1), passes=1, probe_every=0)
    assert taught[0][1] is None
