"""Two machines of a Ray cluster, both this one, on loopback."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def machine(gib: int) -> dict:
    """What a small node of Ray is started with. Its ports are given: for those that it has to find out it waits
    for another process, and fails where that takes 15 s."""
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, "memory": gib * 2**30, "include_dashboard": False,
            "no_monitor": True, "include_log_monitor": False, "node_ip_address": "127.0.0.1",
            **{name: free_port() for name in PORTS}}


@contextmanager
def two_machines(gib: int) -> Iterator:
    """A cluster of two machines with one CPU each.

    Args:
        gib: memory of each.
    """
    # a folder of our own with a short path: sockets stand below it, whose paths have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder, (
            pytest.MonkeyPatch.context()) as patch:
        for name, value in {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
                            "HOME": folder, "RAY_enable_metrics_collection": "0",
                            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}.items():
            patch.setenv(name, value)
        both = _started(gib)
        yield both
        both.shutdown()


def _started(gib: int) -> Any:
    """Ray gives up on a machine whose agent takes more than 15 s to start, as it does where tests run side by side."""
    from ray.cluster_utils import Cluster

    for tries_left in (2, 1, 0):
        both = Cluster()
        try:
            for _ in range(2):
                both.add_node(**machine(gib))
            return both
        except Exception:
            both.shutdown()
            if not tries_left:
                raise
    raise AssertionError("not reached")


def lineage(pid: int) -> list[int]:
    """Its ancestors."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        found.append(pid)
    return found
