"""What a lab promises about its base: a patch holds the changed rows, and `reset()` brings the base back, bitwise."""

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_attach import small

import smft_lab as smft
from smft_lab.facts.world.world import built_in_world
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import METHODS
from smft_lab.lab import Lab, load
from smft_lab.model.memory import value_tables
from smft_lab.slots import patch as patch_module
from smft_lab.slots.patch import Patch, fingerprint
from smft_lab.slots.usage import Usage
from smft_lab.storage import FORMAT, LAB_FILE

LAYOUTS = [{}, {"memory_at": [0, 2]}, {"memory_at": [0, 2], "memory_shared": False}]


@pytest.fixture(scope="module")
def facts():
    return [replace(fact, statements=fact.statements[:4]) for fact in built_in_world().new_facts(3)]


@pytest.fixture
def make_lab(tiny_model, tokenizer):
    """Makes a lab in milliseconds: made-up usage, no probes."""

    def make(**options):
        model = tiny_model(**options)
        shape = (len(value_tables(model)), 256)
        df = torch.randint(0, 21, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        return Lab(model, tokenizer, Usage(20, df, df * torch.tensor(3)))

    return make


@pytest.fixture
def lab(make_lab):
    return make_lab()


def teach(lab, facts, method="sparse", steps=None, **options):
    """Finetune without probing; the generator is left suspended after `steps` gradient steps, or drained."""
    run = finetune(lab, facts, method, passes=1, probe_every=0, **options)
    done = []
    for step in run:
        done.append(step)
        if step.step == steps:
            break
    return run, done


def state(lab) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)  # so that 0.0 and -0.0 differ


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


@pytest.fixture
def patched(make_lab, facts):
    """A lab at its base, the base, the finetuned weights and the patch between them."""

    def make(**options):
        lab = make_lab(**options)
        base = state(lab)
        teach(lab, facts, top_t=10)
        finetuned, patch = state(lab), Patch.between(lab, about={"method": "sparse"})
        lab.reset()
        assert not same(base, finetuned)
        return lab, base, finetuned, patch

    return make


# patches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_a_patch_holds_exactly_the_rows_that_changed(make_lab, facts, options):
    lab = make_lab(**options)
    before = [table.weight.detach().clone() for table in value_tables(lab.model)]
    _, steps = teach(lab, facts, top_t=10)
    patch = Patch.between(lab)
    assert len(patch.slots) == len(patch.values) == len(before)
    for i, table in enumerate(value_tables(lab.model)):
        changed = [slot for slot in range(256) if not torch.equal(table.weight[slot], before[i][slot])]
        trained = {slot for step in steps[1:] for slot in step.slots[i].tolist()}
        assert patch.slots[i].tolist() == changed == sorted(trained)
        assert torch.equal(patch.values[i], table.weight.detach()[changed])
    assert len(patch) == sum(map(len, patch.slots)) > 0


def test_one_changed_number_makes_its_row_part_of_the_patch(lab):
    with torch.no_grad():
        value_tables(lab.model)[0].weight[7, 3] += 1
    assert Patch.between(lab).slots[0].tolist() == [7]


def test_a_patch_keeps_its_values_when_training_goes_on(lab, facts):
    run, _ = teach(lab, facts, steps=1)
    patch = Patch.between(lab)
    values = [tensor.clone() for tensor in patch.values]
    list(run)
    assert all(torch.equal(one, other) for one, other in zip(patch.values, values, strict=True))


def test_a_patch_can_be_saved_at_every_step_while_training_goes_on(lab, facts, tmp_path):
    rows = []
    for step in finetune(lab, facts, passes=2, top_t=10, probe_every=0):
        patch = Patch.between(lab, about={"step": step.step})
        patch.save(tmp_path / "now.safetensors")
        rows.append(len(patch))
    assert len(rows) == 1 + 2 * len(facts)
    assert rows == sorted(rows)
    assert rows[-1] > rows[1] > rows[0] == 0


def test_an_untouched_lab_has_an_empty_patch_that_can_be_saved(lab, tmp_path):
    patch = Patch.between(lab)
    assert len(patch) == 0
    patch.save(tmp_path / "none.safetensors")
    base = state(lab)
    Patch.load(tmp_path / "none.safetensors").apply(lab)
    assert same(state(lab), base)


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_a_saved_patch_makes_the_base_bitwise_the_finetuned_model_and_reverts_it(patched, tmp_path, options):
    lab, base, finetuned, patch = patched(**options)
    patch.save(tmp_path / "facts.safetensors")
    again = Patch.load(tmp_path / "facts.safetensors")
    assert same(state(lab), base)
    again.apply(lab)
    assert same(state(lab), finetuned)
    again.revert(lab)
    assert same(state(lab), base)


def test_a_patch_fits_another_lab_around_the_same_base(patched, make_lab):
    _, _, finetuned, patch = patched()
    other = make_lab()
    patch.apply(other)
    assert same(state(other), finetuned)


def test_saving_and_loading_changes_nothing_in_a_patch(patched, tmp_path):
    lab, _, _, patch = patched(memory_at=[0, 2], memory_shared=False)
    patch.about = {"method": "sparse", "lr": 2.0, "note": "Jürgen's facts", "top_t": None}
    patch.save(str(tmp_path / "facts.safetensors"))
    again = Patch.load(str(tmp_path / "facts.safetensors"))
    assert again.about == patch.about
    assert again.base == patch.base == fingerprint(lab)
    for one, other in ((again.slots, patch.slots), (again.values, patch.values)):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def test_a_patch_undoes_only_its_own_rows(patched):
    lab, base, _, patch = patched()
    free = next(slot for slot in range(256) if slot not in patch.slots[0].tolist())
    with torch.no_grad():
        value_tables(lab.model)[0].weight[free] += 1
    patch.apply(lab)
    patch.revert(lab)
    now, name = state(lab), "model.layers.1.mlp.values.weight"
    different = (now[name] != base[name]).any(1).nonzero().squeeze(1).tolist()
    assert different == [free]


def test_a_patch_of_another_base_is_refused_and_changes_nothing(patched, tiny_model, tokenizer):
    lab, _, _, patch = patched()
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3  # one number, and not in the table
    other = Lab(model, tokenizer, lab.usage)
    before = state(other)
    for act in (patch.apply, patch.revert):
        with pytest.raises(ValueError, match=f"made on base {patch.base}, but this lab's base is {fingerprint(other)}"):
            act(other)
    assert same(state(other), before)


def test_a_finetuned_lab_still_counts_as_its_base(patched, facts):
    lab, _, finetuned, patch = patched()
    teach(lab, facts, "full", steps=1)
    assert fingerprint(lab) == patch.base
    lab.reset()
    patch.apply(lab)
    assert same(state(lab), finetuned)


@pytest.mark.parametrize("steps", [None, 1], ids=["finished", "stopped"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_changes_more_than_rows_leaves_no_patch(lab, facts, method, steps):
    teach(lab, facts, method, steps)
    with pytest.raises(ValueError, match="differs from the base; only sparse finetuning leaves a patch"):
        Patch.between(lab)


@pytest.mark.parametrize("method", METHODS)
def test_a_patch_can_be_applied_and_reverted_after_a_run_was_stopped(patched, facts, method):
    lab, base, _, patch = patched()
    teach(lab, facts, method, steps=1)
    table = value_tables(lab.model)[0].weight
    patch.apply(lab)
    assert torch.equal(table[patch.slots[0]], patch.values[0])
    patch.revert(lab)
    assert torch.equal(table[patch.slots[0]], base["model.layers.1.mlp.values.weight"][patch.slots[0]])


def test_saving_leaves_one_file_and_replaces_an_older_one(patched, tmp_path):
    _, _, _, patch = patched()
    path = tmp_path / "facts.safetensors"
    path.write_text("something older")
    patch.save(path)
    assert os.listdir(tmp_path) == ["facts.safetensors"]
    assert len(Patch.load(path)) == len(patch)


def test_a_save_that_fails_leaves_the_older_file_whole(patched, tmp_path, monkeypatch):
    _, _, _, patch = patched()
    path = tmp_path / "facts.safetensors"
    patch.save(path)
    before = path.read_bytes()

    def half_written(self, data):
        with open(self, "wb") as file:
            file.write(data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(OSError, match=r"facts\.safetensors can't be written \(No space left"):
        patch.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["facts.safetensors"]


@pytest.mark.parametrize("about", [None, "a lesson", ["a lesson"], {"made": object()}, {"facts": {1, 2}}])
def test_a_patch_that_could_not_be_loaded_for_what_it_says_is_not_saved(patched, tmp_path, about):
    *_, patch = patched()
    with pytest.raises(ValueError, match="the patch: about must be a dict of JSON values"):
        replace(patch, about=about).save(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "made",
    [lambda rows: rows.tolist(), lambda rows: rows.numpy(), torch.Tensor.to_sparse, lambda rows: rows.to("meta")],
)
@pytest.mark.parametrize("field", ["slots", "values"])
def test_rows_that_are_no_numbers_in_memory_are_refused(patched, tmp_path, made, field):
    lab, *_, patch = patched()
    other = replace(patch, **{field: [made(rows) for rows in getattr(patch, field)]})
    for use in (lambda: other.apply(lab), lambda: other.save(tmp_path / "p.safetensors")):
        with pytest.raises(ValueError, match=r"table 0: (slots and values must be plain|its numbers are not)"):
            use()


def test_a_safetensors_file_that_is_no_patch_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    for metadata in (None, {"kind": "weights"}):
        save_file({"0.slots": torch.arange(2), "0.values": torch.zeros(2, 3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"weights\.safetensors is not a patch"):
            Patch.load(path)


def test_a_patch_of_a_newer_format_is_refused(patched, tmp_path):
    _, _, _, patch = patched()
    path = tmp_path / "facts.safetensors"
    patch.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, "format": "2"})
    with pytest.raises(ValueError, match="patch format 2, but this version reads 1"):
        Patch.load(path)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickled_file_is_refused_and_never_unpickled(tmp_path, write):
    path, marker = tmp_path / "facts.safetensors", tmp_path / "unpickled"
    with open(path, "wb") as file:
        write(Trap(marker), file)
    with pytest.raises(ValueError, match="not a patch"):
        Patch.load(path)
    assert not marker.exists()


def test_a_patch_file_cut_short_is_refused_as_no_patch(patched, tmp_path):
    _, _, _, patch = patched()
    path = tmp_path / "facts.safetensors"
    patch.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a patch"):
        Patch.load(path)


def test_loading_a_patch_reads_no_pickle(patched, tmp_path, monkeypatch):
    _, _, _, patch = patched()
    patch.save(tmp_path / "facts.safetensors")

    def refuse(*args, **options):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert len(Patch.load(tmp_path / "facts.safetensors")) == len(patch)


# reset ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_reset_brings_the_base_back_bitwise_after_a_run(lab, facts, method):
    base, kinds = state(lab), [type(module) for module in lab.model.modules()]
    batch = torch.tensor([[1, 5, 6, 7]])
    before = lab.model(batch).logits.detach()
    teach(lab, facts, method)
    assert not same(state(lab), base)
    assert not torch.equal(lab.model(batch).logits, before)
    lab.reset()
    assert same(state(lab), base)
    assert torch.equal(lab.model(batch).logits, before)
    assert [type(module) for module in lab.model.modules()] == kinds
    assert all(parameter.requires_grad for parameter in lab.model.parameters())


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_reset_ends_a_run_under_way_and_brings_the_base_back_bitwise(lab, facts, method, steps):
    base, kinds = state(lab), [type(module) for module in lab.model.modules()]
    run, done = teach(lab, facts, method, steps=steps)
    assert len(done) == steps + 1
    lab.reset()
    assert same(state(lab), base)
    assert [type(module) for module in lab.model.modules()] == kinds
    assert all(parameter.requires_grad for parameter in lab.model.parameters())
    assert next(run, None) is None
    assert same(state(lab), base)


@pytest.mark.parametrize("options", LAYOUTS[1:], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_reset_brings_back_every_layout_of_tables(make_lab, facts, method, options):
    lab = make_lab(**options)
    base = state(lab)
    teach(lab, facts, method, steps=1)
    lab.reset()
    assert same(state(lab), base)


def test_a_run_after_reset_is_the_same_run(lab, facts):
    teach(lab, facts)
    first = state(lab)
    for method in METHODS:
        lab.reset()
        teach(lab, facts, method, steps=2)
    lab.reset()
    teach(lab, facts)
    assert same(state(lab), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_that_was_converted_is_told_so_and_comes_back_bitwise_in_its_own_dtype(lab, facts, dtype):
    lab.model.to(dtype)
    for use in (lab.reset, lambda: teach(lab, facts), lab.at_base().__enter__, lambda: Patch.between(lab)):
        with pytest.raises(ValueError, match=r"convert the model back, as by lab.model.to\(torch.float32\)"):
            use()
    lab.model.to(torch.float32)
    lab.reset()
    assert all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())
    teach(lab, facts)


def test_reset_undoes_a_patch(patched):
    lab, base, _, patch = patched()
    patch.apply(lab)
    lab.reset()
    assert same(state(lab), base)


def test_a_new_run_ends_the_one_under_way(lab, facts):
    first, _ = teach(lab, facts, "lora", steps=1)
    second = finetune(lab, facts, "sparse", passes=1, probe_every=0)
    assert next(first, None) is None
    assert len(list(second)) == 4


# save and load ----------------------------------------------------------------------------------------


def test_a_saved_lab_comes_back_with_all_it_holds(make_lab, tmp_path):
    lab = make_lab(memory_at=[0, 2], memory_shared=False)
    lab.defaults = {"sparse": {"lr": 0.5, "top_t": 7}}
    lab.save(tmp_path / "new" / "lab")
    again = load(tmp_path / "new" / "lab")
    assert same(state(again), state(lab))
    assert again.usage.batches == lab.usage.batches == 20
    assert torch.equal(again.usage.df, lab.usage.df)
    assert torch.equal(again.usage.count, lab.usage.count)
    assert again.defaults == lab.defaults
    assert again.slots == lab.slots == 256
    assert fingerprint(again) == fingerprint(lab)
    text = "Mira moved to Reykjavík."
    assert again.tokenizer(text)["input_ids"] == lab.tokenizer(text)["input_ids"]


def test_a_lab_of_the_built_in_world_comes_back_with_its_probes(lab, tmp_path):
    lab.world_seed = 0
    lab.save(tmp_path)
    again = load(tmp_path)
    assert again.world_seed == 0
    assert [probe.name for probe in again.probes] == ["old_facts", "arithmetic", "prose", "two_hop"]


def test_a_lab_without_a_world_comes_back_without_probes(lab, tmp_path):
    lab.save(tmp_path)
    again = load(tmp_path)
    assert again.world_seed is None
    assert list(again.probes) == []


def test_a_finetuned_lab_is_saved_as_it_is_and_resets_to_that(lab, facts, tmp_path):
    teach(lab, facts, "lora")
    lab.save(tmp_path)
    again = load(tmp_path)
    assert same(state(again), state(lab))
    teach(again, facts)
    again.reset()
    assert same(state(again), state(lab))


@pytest.mark.parametrize("method", METHODS)
def test_a_lab_saved_after_a_run_was_stopped_comes_back_as_it_was(lab, facts, tmp_path, method):
    teach(lab, facts, method, steps=2)
    batch = torch.tensor([[1, 5, 6, 7]])
    before = lab.model(batch).logits
    lab.save(tmp_path)
    torch.testing.assert_close(load(tmp_path).model(batch).logits, before, atol=1e-5, rtol=1e-4)


def test_a_patch_fits_the_lab_that_was_saved_and_opened_again(patched, tmp_path):
    lab, _, finetuned, patch = patched()
    lab.save(tmp_path)
    again = load(tmp_path)
    patch.apply(again)
    assert same(state(again), finetuned)


def test_a_lab_stored_in_half_precision_computes_in_float32(tiny_model, tokenizer, lab, tmp_path):
    Lab(tiny_model().bfloat16(), tokenizer, lab.usage).save(tmp_path)
    again = load(tmp_path)
    assert {parameter.dtype for parameter in again.model.parameters()} == {torch.float32}


def test_a_saved_lab_has_no_pickle_in_it(lab, tmp_path):
    lab.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_a_lab_of_a_newer_format_is_refused(lab, tmp_path):
    lab.save(tmp_path)
    about = json.loads((tmp_path / LAB_FILE).read_text())
    assert about["format"] == 1  # it has nothing that a reader of 1 would miss
    (tmp_path / LAB_FILE).write_text(json.dumps({**about, "format": FORMAT + 1}))
    with pytest.raises(ValueError, match=rf"format {FORMAT + 1} is newer than this version reads \({FORMAT}\)"):
        load(tmp_path)


def test_a_directory_without_a_lab_is_refused_naming_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {LAB_FILE} there") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_lab_needs_a_memory_and_usage_of_its_shape(tiny_model, tokenizer, lab):
    with pytest.raises(ValueError, match="no memory layer"):
        Lab(small("llama"), tokenizer, lab.usage)
    with pytest.raises(ValueError, match="Linear is no causal language model"):
        Lab(torch.nn.Linear(2, 2), tokenizer, lab.usage)
    fewer = Usage(1, torch.zeros(1, 64, dtype=torch.int32), torch.zeros(1, 64, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(1, 64\), the model has \(1, 256\)"):
        Lab(tiny_model(), tokenizer, fewer)


def test_a_patch_and_a_run_say_what_they_are_in_a_line(lab, facts):
    run = smft.run(lab, facts, top_t=10, passes=1)
    lab.reset()
    rows, base = len(run.patch), fingerprint(lab)
    assert repr(run.patch) == f"<Patch of {rows} rows for {len(facts)} facts, base {base}>"
    assert repr(run).startswith(f"<Run of sparse, {len(facts)} facts, {len(run.losses)} steps, {rows} rows: learned ")
    assert "\n" not in repr(run)
    unmeasured = smft.run(lab, facts, "full", passes=1, probe_every=0)
    lab.reset()
    assert repr(unmeasured) == f"<Run of full, {len(facts)} facts, {len(run.losses)} steps>"


def test_a_large_file_of_something_else_is_refused_before_it_is_read(tmp_path, monkeypatch):
    model = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(100_000)}, model)
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda *_: pytest.fail("all of it was read"))
    monkeypatch.setattr(patch_module, "from_bytes", read.append)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a patch written by .*its metadata don't say so"):
        Patch.load(model)
    (tmp_path / "long.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="it is no safetensors file"):
        Patch.load(tmp_path / "long.safetensors")
    assert not read


def test_a_file_that_is_not_to_be_replaced_by_a_patch_stays(patched, tmp_path):
    _, _, _, patch = patched()
    patch.save(tmp_path / "mine.safetensors", replace=False)
    with pytest.raises(ValueError, match=r"mine\.safetensors is there now"):
        patch.save(tmp_path / "mine.safetensors", replace=False)
    assert Patch.load(tmp_path / "mine.safetensors").about == patch.about
