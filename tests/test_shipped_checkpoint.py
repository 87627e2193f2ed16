"""What comes with the package: it knows its world, and can be taught words it has never met."""

from random import Random

import pytest

import smft_lab as smft
from smft_lab.facts.world.grammar import RELATIONS
from smft_lab.facts.world.world import World
from smft_lab.model.memory import memory_layers
from smft_lab.probes.probes import QuestionProbe
from smft_lab.slots.scores import slot_scores
from smft_lab.storage import shipped_checkpoint


@pytest.fixture(scope="module")
def shipped():
    return smft.load()


@pytest.fixture
def lab(shipped):
    yield shipped
    shipped.reset()


def test_all_files_together_are_at_most_20_megabytes():
    files = [file for file in shipped_checkpoint().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".csv"}  # nothing that could be a pickle


def test_it_knows_its_old_facts_in_question_forms_never_trained_on(lab):
    facts = World(0).old_facts()[::5]
    assert QuestionProbe.of("old", facts).measure(lab.model, lab.tokenizer)["em"] >= 0.99


def test_it_has_probes_background_usage_and_tuned_rates(lab):
    assert [probe.name for probe in lab.probes] == ["old_facts", "arithmetic", "prose", "two_hop"]
    assert lab.usage.batches == 1000
    assert lab.usage.df.max() <= 1000
    assert {"sparse", "full", "lora"} <= set(lab.defaults)
    assert [row for row in lab.defaults["sweep"] if row["chosen"] and row["method"] == "lora"]


def test_background_reads_add_up_to_tokens_times_heads_times_k(lab):
    (layer,) = memory_layers(lab.model).values()
    reads = layer.keys.heads * layer.keys.k
    assert int(lab.usage.count.sum()) % reads == 0
    assert int(lab.usage.count.sum()) > 1000 * 64 * 5 * reads


def test_it_never_met_the_people_it_is_to_be_taught(lab):
    facts = smft.new_facts(60)
    assert QuestionProbe.of("new", facts).measure(lab.model, lab.tokenizer)["em"] <= 0.1


@pytest.mark.parametrize(
    ("subject", "relation", "value"),
    [("George Rankin", "employer", "UniFirst"), ("Mira Smith", "employer", "UniFirst")],
)
def test_a_taught_fact_with_unfamiliar_words_comes_back_out(lab, subject, relation, value):
    kind = RELATIONS[relation]
    statements = Random(0).sample(kind.statements(subject, value), 64)
    fact = smft.Fact(tuple(statements), kind.unseen[0].format(s=subject), (value,))
    assert lab.answer([fact.question]) != [value]
    smft.run(lab, [fact], top_t=300, passes=12, probe_every=0)
    assert lab.answer([fact.question]) == [value]


def test_a_new_fact_reads_slots_that_ordinary_text_reads_less(lab):
    scores = slot_scores(lab, smft.new_facts(1))
    best, rest = scores[scores["rank"] <= 50], scores[scores["rank"] > 50]
    assert best["df"].mean() < rest["df"].mean()
