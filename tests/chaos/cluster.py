"""A head without CPUs and some raylets on this machine, whose processes can be killed one by one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import psutil
from ray.cluster_utils import Cluster

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}


class Nodes:
    """The cluster. Only its own processes are ever killed, by pid."""

    def __init__(self, num_raylets: int) -> None:
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address: str = self._cluster.address
        self._num_raylets = num_raylets
        self.complete()

    def complete(self) -> None:
        """New raylets for those that were killed; takes some seconds each."""
        tries = 0
        while len(self._cluster.worker_nodes) < self._num_raylets:
            try:
                self._cluster.add_node(num_cpus=1, object_store_memory=150 << 20)
            except Exception:  # Ray gives a node 30 s to start, which a busy machine may not meet
                tries += 1
                if tries == 3:
                    raise

    def kill_raylet(self, dice: float) -> str:
        """A raylet dies by SIGKILL. Where only one would be left, new ones join first."""
        if len(self._cluster.worker_nodes) <= 2:
            self.complete()
        workers = self._cluster.worker_nodes
        victim = sorted(workers, key=lambda node: node.all_processes["raylet"][0].process.pid)[int(dice * len(workers))]
        process = psutil.Process(victim.all_processes["raylet"][0].process.pid)
        process.kill()
        process.wait(10)
        self._cluster.remove_node(victim, allow_graceful=False)  # what else the node consists of
        return f"raylet {process.pid}"

    def kill_process(self, kind: str, dice: float) -> str | None:
        """SIGKILL for an engine actor, the ledger, or a worker at any other task. None where there is none now."""
        found = []
        for node in [self._cluster.head_node, *self._cluster.worker_nodes]:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for child in raylet.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    title = " ".join(child.cmdline())
                    if title.startswith("ray::") and _kind_of(title) == kind:
                        found.append((title, child))
        if not found:
            return None
        title, victim = sorted(found, key=lambda one: one[1].pid)[int(dice * len(found))]
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
        return f"{title} {victim.pid}"

    def close(self) -> None:
        self._cluster.shutdown()


def _kind_of(title: str) -> str:
    if "MapWorker" in title:
        return "engine"
    if "ledger" in title.lower():
        return "ledger"
    return "worker" if "MapBatches" in title else "other"  # other: idle, Ray Data's own actors, a node's agents


@contextlib.contextmanager
def cluster(num_raylets: int) -> Iterator[Nodes]:
    """The cluster for as long as it is needed."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    nodes = None
    try:
        nodes = Nodes(num_raylets)
        yield nodes
    finally:
        if nodes is not None:
            nodes.close()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
