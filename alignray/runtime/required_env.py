"""Whether the environment variables that a job needs are set on the cluster; run there, before the job: exit code 0 or 2.

Only names come in and only names go out: a value never leaves the node that has it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alignray.errors import ConfigError
from alignray.runtime.session import RuntimeConfig, ray_session


def missing_variables(names: Sequence[str]) -> dict[str, list[str]]:
    """Variables not set for Ray's workers, by the address of each node that has CPUs for them. Wants a connected Ray."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    look = ray.remote(num_cpus=0)(_not_set)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(list(names))
        for node in nodes
    ]
    answers = zip(nodes, ray.get(asked), strict=True)
    return {node["NodeManagerAddress"]: missing for node, missing in answers if missing}


def _not_set(names: Sequence[str]) -> list[str]:
    return [name for name in names if not os.environ.get(name)]


def complaint(missing: Mapping[str, Sequence[str]]) -> str:
    """What is missing where, and the way out."""
    names = sorted({name for there in missing.values() for name in there})
    return (
        f"{', '.join(f'${name}' for name in names)} not set on node(s) {', '.join(sorted(missing))}; set it in the environment that Ray "
        "is started with there (on Kubernetes: env of the pod, from a secret); alignray submit sends names, never values"
    )


def main(names: Sequence[str]) -> int:
    """Exit code of the check."""
    try:
        with ray_session(RuntimeConfig()):
            missing = missing_variables(names)
    except ConfigError as err:
        sys.stderr.write(f"alignray: {err}\n")
        return 2
    if missing:
        sys.stderr.write(f"alignray: {complaint(missing)}\n")
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
