"""Paraphrases of a statement by a language model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from smft_lab.facts.files import FactsError, _same

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Paraphraser = str | tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_paraphraser(name: str) -> tuple[Any, Any]:
    """The model and tokenizer of a Hugging Face id or folder, sequence-to-sequence or causal; runs no code of theirs.

    Raises:
        FactsError: it can't be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(name, trust_remote_code=False).eval()
        return model, AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise FactsError(
            f"paraphraser {name!r} can't be loaded ({str(error)[:200]}); "
            "give the id of a text generation model, or the folder it is saved in"
        ) from None


def model_paraphrases(
    sentence: str,
    answer: str,
    paraphraser: Paraphraser,
    how_many: int = 8,
    *,
    question: str = "",
    seed: int = 0,
    max_new_tokens: int = 64,
) -> list[str]:
    """Up to `how_many` distinct paraphrases by a language model that hold the answer, and neither repeat nor ask.

    Args:
        paraphraser: A Hugging Face id or folder, or a pair (model, tokenizer): an instruction-tuned model, one trained
            to paraphrase, or any other that continues text.
        question: With its question mark it is in none of them.
        seed: Of the sampling; torch's own generator is left as it was.
        max_new_tokens: Of each paraphrase.

    Raises:
        FactsError: the paraphraser can't be loaded.
    """
    import torch

    loaded: Any = load_paraphraser(paraphraser) if isinstance(paraphraser, str) else paraphraser
    model, tokenizer = loaded
    wish = f"Say this in other words, in one sentence, and keep “{answer}”: {sentence}"
    if model.config.is_encoder_decoder:
        prompt = f"paraphrase: {sentence}"
    elif getattr(tokenizer, "chat_template", None):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": wish}], tokenize=False, add_generation_prompt=True
        )
    else:
        prompt = f"{wish}\nIn other words:"
    chat = not model.config.is_encoder_decoder and getattr(tokenizer, "chat_template", None)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(model.device)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}  # some models refuse token types
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        out = model.generate(
            **inputs,
            do_sample=True,
            temperature=0.9,
            top_p=0.95,
            num_return_sequences=2 * how_many,  # some will repeat another, or lose the answer
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
        )
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    texts = tokenizer.batch_decode(out[:, start:], skip_special_tokens=True)
    return _usable((text.strip().split("\n")[0] for text in texts), sentence, answer, question)[:how_many]


def _usable(texts: Iterable[str], sentence: str, answer: str, question: str) -> list[str]:
    """The texts that teach the answer in words of their own, each once."""
    by_sense: dict[str, str] = {}
    asked = _same(question)
    for text in texts:
        text = " ".join(text.replace("\0", "").replace("\ufffd", "").split()).strip('"“”- ')
        same = _same(text)
        asks = same.endswith("?") or (asked.endswith("?") and asked in same)
        if same not in {"", _same(sentence), _same(answer)} and _same(answer) in same and not asks:
            by_sense.setdefault(same, text)
    return list(by_sense.values())
