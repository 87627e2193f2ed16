"""What is saved comes back to the same logits, by `load` and by the auto classes; what would not is refused first."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from test_attach import MEMORY, SMALL, lab_of, logits, small
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import smft_lab as smft
from smft_lab.facts.world.world import new_facts
from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.model.autoclass import AttachedForCausalLM
from smft_lab.model.memory import memory_layers, value_tables
from smft_lab.model.opening import open_model
from smft_lab.model.tokenizer import encode
from smft_lab.slots.patch import Patch, fingerprint

FAMILIES = ["llama", "gpt2", "opt", "mixtral", "gemma2", "gpt_neox"]
ADAPTERS = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)


def written(model):
    """The model, with something in its memory."""
    with torch.no_grad():
        for table in value_tables(model):
            table.weight.copy_(torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_save_pretrained_and_the_auto_class_give_the_model_back_with_its_memory(family, mode, tmp_path):
    model = written(add_memory(small(family), [0, 2], mode=mode, **MEMORY))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(logits(again), logits(model))
    assert len(value_tables(again)) == 1
    again.save_pretrained(tmp_path / "twice", max_shard_size="50KB")
    assert len(list((tmp_path / "twice").glob("*.safetensors"))) > 1
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "twice")), logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_auto_class_keeps_the_dtype_or_takes_another_and_tables_stay_float32(dtype, tmp_path):
    model = written(add_memory(small("llama").to(dtype), 1, **MEMORY))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert torch.equal(logits(again), logits(model))
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert {value_tables(one)[0].weight.dtype for one in (again, wide)} == {torch.float32}


def test_importing_the_package_is_enough_and_a_program_without_it_refuses_the_folder(tmp_path):
    add_memory(small("llama"), 1, **MEMORY).save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert kind not in CONFIG_MAPPING_NAMES  # so that transformers alone doesn't know how to open it
    script = "import sys, smft_lab; from transformers import AutoModelForCausalLM as A; A.from_pretrained(sys.argv[1])"
    told = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


WRAPPED = {
    "text_config": {**SMALL, "head_dim": 16, "sliding_window": 16},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
    "image_token_index": 5,
    "boi_token_index": 6,
    "eoi_token_index": 7,
}


def model_with_a_vision_tower():
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(AutoConfig.for_model("gemma3", **WRAPPED)).eval()


@pytest.mark.parametrize(
    ("make", "others"),
    [
        (lambda: small("llama"), ["LlamaModel", "MistralForCausalLM"]),
        (lambda: small("gpt2"), ["GPT2LMHeadModel"]),
        (model_with_a_vision_tower, ["Gemma3ForCausalLM", "Gemma3Model"]),
    ],
    ids=["llama", "gpt2", "gemma3"],
)
def test_the_classes_of_transformers_refuse_a_folder_instead_of_leaving_the_memory_out(make, others, tmp_path):
    model = written(add_memory(make(), 1, **MEMORY))
    model.save_pretrained(tmp_path)
    names = [type(model).__name__, *others]
    for name in names:
        with pytest.raises(Exception, match="this model has a memory; import smft_lab and open it by"):
            getattr(transformers, name).from_pretrained(tmp_path, attn_implementation="eager")
    script = """
import sys, transformers
for name in sys.argv[2:]:
    try:
        getattr(transformers, name).from_pretrained(sys.argv[1])
    except Exception as problem:
        assert "import smft_lab and open it by" in str(problem) or name.startswith("Auto"), problem
    else:
        sys.exit(f"{name} opened it")
assert "smft_lab" not in sys.modules
"""
    names += ["AutoConfig", "AutoModel", "AutoModelForCausalLM"]
    told = subprocess.run([sys.executable, "-c", script, tmp_path, *names], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(logits(again), logits(model))


def test_a_folder_that_refuses_no_class_opens_as_before(tmp_path):
    model = written(add_memory(small("llama"), 1, **MEMORY))
    model.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    for name in ("attn_implementation", "experts_implementation"):
        del told[name], told["base"][name]
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.fixture
def folder(tmp_path):
    written(add_memory(small("llama"), 1, **MEMORY)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "options",
    [
        {"rms_norm_eps": 0.3},
        {"use_cache": False},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"id2label": {0: "a"}},
        {"quantization_config": {"load_in_8bit": True}},
        {"nonsense": 3},
        {"variant": "fp16"},
        {"state_dict": {}},
        {"device_map": "sequential"},
        {"device_map": "balanced"},
        {"device_map": {"model": "cpu", "lm_head": "disk"}},
    ],
    ids=str,
)
def test_an_option_that_the_auto_class_can_not_follow_is_named(options, folder):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}=.*leave it out"):
        AutoModelForCausalLM.from_pretrained(folder, **options)


def test_a_changed_config_is_refused_by_the_auto_class_and_the_saved_one_is_taken(folder):
    config = AutoConfig.from_pretrained(folder)
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(folder, config=config)),
        logits(AutoModelForCausalLM.from_pretrained(folder)),
    )
    config.base["rms_norm_eps"] = 0.3
    with pytest.raises(ValueError, match=r"rms_norm_eps=0.3 can't be followed"):
        AutoModelForCausalLM.from_pretrained(folder, config=config)
    with pytest.raises(ValueError, match="dtype='nothing' is nothing to compute in"):
        AttachedForCausalLM.from_pretrained(folder, dtype="nothing")


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}, torch.device("cpu")])
def test_the_auto_class_follows_a_device_map_of_one_device(device_map, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map)
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(folder)))


def test_the_auto_class_follows_the_attention_and_the_options_of_the_hub(folder, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert (eager.config._attn_implementation, plain.config._attn_implementation) == ("eager", "sdpa")
    options = {"cache_dir": tmp_path / "cache", "local_files_only": True, "token": "secret", "trust_remote_code": False}
    within = AutoModelForCausalLM.from_pretrained(tmp_path, subfolder="model", revision="main", **options)
    assert torch.equal(logits(within), logits(plain))


def test_adapters_name_the_folder_of_their_model_and_are_put_on_it_again(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    plain = logits(model)
    assert model.name_or_path == model.config.name_or_path == str(folder)
    adapted = get_peft_model(model, ADAPTERS)
    adapted.save_pretrained(tmp_path / "adapters")
    assert adapted.peft_config["default"].base_model_name_or_path == str(folder)
    for kind in (AutoModelForCausalLM, AutoPeftModelForCausalLM):
        again = logits(kind.from_pretrained(tmp_path / "adapters"))
        assert torch.equal(again, logits(adapted))
        assert not torch.equal(again, plain)


@pytest.mark.parametrize("shipped", [False, True])
def test_a_model_with_adapters_on_is_not_saved_and_the_adapters_alone_are(shipped, tiny_model, tmp_path):
    model = tiny_model() if shipped else add_memory(small("llama"), 1, **MEMORY)
    adapted = get_peft_model(model, ADAPTERS)
    with pytest.raises(ValueError, match=r"adapters of peft are on the model.*merge them or take them off first"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    adapted.save_pretrained(tmp_path / "adapters")
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()
    model = adapted.unload()
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), logits(model))
    model.add_adapter(ADAPTERS)
    model.delete_adapter("default")  # peft leaves its modules there, under whose names no weights are found
    with pytest.raises(ValueError, match="load the model anew"):
        model.save_pretrained(tmp_path / "another")


def test_a_save_that_would_push_the_config_of_a_model_without_a_memory_is_refused(tmp_path):
    model = add_memory(small("llama"), 1, **MEMORY)
    with pytest.raises(ValueError, match=r"use model.push_to_hub\(name\)"):
        model.save_pretrained(tmp_path / "model", push_to_hub=True)
    assert not (tmp_path / "model").exists()


def test_a_model_is_not_saved_between_the_steps_of_a_lora_run(tiny_lab, tmp_path):
    lab = tiny_lab()
    for step in smft.finetune(lab, new_facts(1), "lora", passes=1, probe_every=0):
        if step.step:
            with pytest.raises(ValueError, match="adapters of peft are on the model"):
                lab.model.save_pretrained(tmp_path / "model")
    lab.model.save_pretrained(tmp_path / "model")


def test_the_auto_class_names_load_for_the_folder_of_a_lab(tokenizer, corpus, tmp_path):
    lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus).save(tmp_path)
    with pytest.raises(ValueError, match=r"is a saved lab; smft_lab.load\(.*\).model is its model"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_weights_of_another_config_are_refused_by_the_auto_class(tmp_path):
    add_memory(small("llama"), 1, **MEMORY).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told["base"]["num_hidden_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"don't belong together: model.layers.2"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("shipped", [False, True])
def test_a_checkpoint_of_the_trainer_goes_on_with_the_table_that_two_layers_share(
    shipped, tiny_model, tokenizer, corpus, tmp_path
):
    def trained(resume=None, steps=4):
        model = tiny_model(memory_at=[0, 2]) if shipped else written(add_memory(small("llama"), [0, 2], **MEMORY))
        options = TrainingArguments(
            tmp_path,
            max_steps=steps,
            per_device_train_batch_size=4,
            report_to=[],
            save_steps=2,
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
            lr_scheduler_type="constant",
            learning_rate=1e-3,
        )
        texts = [{"text": text} for text in new_facts(1)[0].statements[:16]]
        collate = lambda some: encode(tokenizer, [one["text"] for one in some])  # noqa: E731
        Trainer(model, options, collate, texts).train(resume_from_checkpoint=resume)
        return model.eval()

    whole = trained()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert len(memory_layers(saved)) == 2
    assert len(value_tables(saved)) == 1
    assert torch.equal(logits(saved), logits(whole))
    assert torch.equal(logits(trained(str(tmp_path / "checkpoint-2"))), logits(whole))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shipped", [False, True])
def test_a_half_precision_lab_comes_back_as_it_was_and_takes_its_own_patch(
    dtype, shipped, tiny_lab, tiny_model, tokenizer, corpus, tmp_path
):
    model = tiny_model() if shipped else add_memory(small("llama"), 1, **MEMORY)
    lab = lab_of(model.to(dtype), tokenizer, corpus)
    lab.save(tmp_path)
    list(smft.finetune(lab, new_facts(1), lr=0.5, top_t=20, passes=1, probe_every=0))
    taught, patch = logits(lab.model), Patch.between(lab)
    same, wide = load(tmp_path, dtype="auto"), load(tmp_path)
    assert (same.model.dtype, wide.model.dtype) == (dtype, torch.float32)
    assert fingerprint(same) == fingerprint(wide) == fingerprint(lab)
    for again in (same, wide):
        patch.apply(again)
    assert torch.equal(logits(same.model), taught)
    torch.testing.assert_close(logits(wide.model), taught.float(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_lab_comes_back_with_the_attention_that_it_was_saved_with(attention, tokenizer, corpus, tmp_path):
    model = small("llama")
    model.set_attn_implementation(attention)
    lab = lab_of(add_memory(model, 1, **MEMORY), tokenizer, corpus)
    lab.save(tmp_path)
    again = load(tmp_path)
    assert again.model.config._attn_implementation == attention
    assert torch.equal(logits(again.model), logits(lab.model))


def test_a_patch_of_another_dtype_says_so(tokenizer, corpus):
    labs = {
        dtype: lab_of(add_memory(small("llama").to(dtype), 1, **MEMORY), tokenizer, corpus)
        for dtype in (torch.float32, torch.bfloat16)
    }
    for one, other in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        with pytest.raises(ValueError, match=f"is of a {str(one)[6:]} model, and the lab's is in {str(other)[6:]}"):
            Patch.between(labs[one]).apply(labs[other])
    labs[torch.float32].model.bfloat16()
    with pytest.raises(ValueError, match=r"is in torch.bfloat16, and in torch.float32 in the lab's base"):
        Patch.between(labs[torch.float32])


def test_the_same_numbers_in_another_dtype_are_the_same_base(tokenizer, corpus):
    half, wide = (
        lab_of(add_memory(small("llama"), 1, **MEMORY).bfloat16().to(dtype), tokenizer, corpus)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert fingerprint(half) == fingerprint(wide)


def test_a_model_with_adapters_gets_no_memory_and_makes_no_lab(tokenizer, corpus):
    with pytest.raises(ValueError, match="adapters of peft are on the model"):
        add_memory(get_peft_model(small("llama"), ADAPTERS), 1, **MEMORY)
    model = add_memory(small("llama"), 1, **MEMORY)
    usage = lab_of(model, tokenizer, corpus).usage
    for adapted in (get_peft_model(model, ADAPTERS), model):  # peft puts them into the model that it is given
        with pytest.raises(ValueError, match="adapters of peft are on the model"):
            smft.Lab(adapted, tokenizer, usage)


def test_adapters_that_were_put_on_a_lab_are_named_and_come_off(tokenizer, corpus, tmp_path):
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    before = logits(lab.model)
    adapted = get_peft_model(lab.model, ADAPTERS)
    steps = (
        lab.reset,
        lambda: lab.save(tmp_path / "lab"),
        lambda: smft.run(lab, new_facts(1), passes=1),
        lambda: smft.finetune(lab, new_facts(1)),
        lambda: Patch.between(lab),
    )
    for step in steps:
        with pytest.raises(ValueError, match="adapters of peft are on the model"):
            step()
    assert not (tmp_path / "lab").exists()
    adapted.unload()
    lab.reset()
    assert torch.equal(logits(lab.model), before)


def test_a_model_that_its_config_does_not_describe_is_refused_before_anything_is_written(tokenizer, corpus, tmp_path):
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    lab.model.lm_head = nn.Linear(32, 500, bias=False)
    with pytest.raises(ValueError, match=r"lm_head.weight is \(500, 32\) in it, and \(400, 32\) by its config"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_resized_embeddings_come_back(tokenizer, corpus, tmp_path):
    model = small("llama")
    model.resize_token_embeddings(410)
    lab = lab_of(add_memory(model, 1, **MEMORY), tokenizer, corpus)
    lab.save(tmp_path)
    assert torch.equal(logits(load(tmp_path).model), logits(model))


class OtherLlama(AutoModelForCausalLM._model_mapping[type(small("llama").config)]):
    pass


def test_a_model_of_a_class_of_ones_own_is_refused(tokenizer, corpus, tmp_path):
    model = OtherLlama(small("llama").config).eval()
    lab = lab_of(add_memory(model, 1, **MEMORY), tokenizer, corpus)
    with pytest.raises(ValueError, match="no class OtherLlama for a config of the type 'llama'"):
        lab.save(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_attach_refuses_folders_of_models_that_have_a_memory_already(tokenizer, corpus, tmp_path):
    lab = lab_of(add_memory(small("llama"), 1, **MEMORY), tokenizer, corpus)
    lab.save(tmp_path / "lab")
    lab.model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, message in (("lab", "is a saved lab"), ("model", "has a memory already")):
        with pytest.raises(ValueError, match=message):
            open_model(tmp_path / name)


def test_attach_refuses_a_folder_of_adapters(tokenizer, tmp_path):
    get_peft_model(small("llama"), ADAPTERS).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds adapters of peft; merge them"):
        open_model(tmp_path)


@pytest.mark.parametrize(("layers", "message"), [(4, "lack model.layers.3"), (2, "hold model.layers.2")])
def test_attach_refuses_weights_that_the_config_does_not_describe(layers, message, tokenizer, tmp_path):
    small("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "num_hidden_layers": layers}))
    with pytest.raises(ValueError, match=message):
        open_model(tmp_path)
