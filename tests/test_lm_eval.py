"""A lab's model goes into EleutherAI's evaluation harness as it is (the extra `eval`)."""

import pytest
import torch

pytest.importorskip("lm_eval", reason="pip install smft-lab[eval]")


def test_the_evaluation_harness_reads_a_labs_model(lab):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=lab.model, tokenizer=lab.tokenizer, backend="causal", batch_size=2)
    asked = [("The capital of Spain is", " Madrid"), ("A rose is", " red and sweet")]
    found = harness.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)])
    for (context, continuation), (sum_of_logs, _) in zip(asked, found, strict=True):
        start = len(lab.tokenizer(context)["input_ids"])
        ids = lab.tokenizer(context + continuation, return_tensors="pt")["input_ids"]
        logs = lab.model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        expected = logs[torch.arange(len(logs)), ids[0, start:]].sum().item()
        assert sum_of_logs == pytest.approx(expected, abs=1e-3)
