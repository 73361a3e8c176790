"""What an engine actor needs of the cluster: CPUs, GPUs, or a placement group over nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from alignray.engine import EngineConfig, TransformersConfig, VLLMConfig
from alignray.errors import ConfigError
from alignray.runtime.session import RuntimeConfig

_groups: list[PlacementGroup] = []


def actor_resources(runtime: RuntimeConfig, engines: Sequence[EngineConfig]) -> dict[str, Any]:
    """Keywords of ``map_batches`` for actors that hold these engines.

    Where ``runtime`` says nothing, an actor with a model in its process (vLLM, transformers) gets as many GPUs as its largest
    engine has devices, and on a cluster without GPUs as many CPUs. A vLLM whose devices are spread over nodes gets a placement
    group with a bundle for each device; its actor starts in the first one.

    Raises:
        ConfigError: engines that do not fit on one actor's GPUs together.
    """
    release_groups()
    in_process = [engine for engine in engines if isinstance(engine, VLLMConfig)]
    loaded = [engine for engine in engines if isinstance(engine, TransformersConfig)]
    given = runtime.model_fields_set
    cpus, gpus = runtime.cpus_per_actor, runtime.gpus_per_actor
    if in_process or loaded:
        num_devices = max((engine.num_devices for engine in in_process), default=1)
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        if has_gpus:
            _check_shares(in_process)
        if any(engine.distributed_executor_backend == "ray" for engine in in_process):
            bundle = {"CPU": 1.0, "GPU": 1.0} if has_gpus else {"CPU": 1.0}
            # the bundles hold the devices; the actor itself takes none, so that a worker fits into each
            return {"num_cpus": 0, "ray_remote_args_fn": partial(_in_group, [bundle] * num_devices)}
        takes_gpus = has_gpus and bool(in_process or any(engine.device != "cpu" for engine in loaded))
        if takes_gpus and "gpus_per_actor" not in given:
            gpus = float(num_devices)
        if not takes_gpus and "cpus_per_actor" not in given:
            cpus = float(num_devices)
    return {"num_cpus": cpus, "num_gpus": gpus or None}


def _check_shares(engines: Sequence[VLLMConfig]) -> None:
    shares = [engine.gpu_memory_utilization for engine in engines]
    if len(engines) > 1 and sum(shares) > 1:
        raise ConfigError(
            f"engines {', '.join(engine.model for engine in engines)} answer in one chain and so share their actor's GPUs, and their "
            f"gpu_memory_utilization {' + '.join(f'{share:g}' for share in shares)} is above 1; lower it, or serve one of them and "
            "name its endpoint (kind: openai)"
        )


def _in_group(bundles: list[dict[str, float]]) -> dict[str, Any]:
    """Scheduling of one more actor: in a placement group of its own, packed on as few nodes as possible."""
    group = placement_group(bundles, strategy="PACK")
    _groups.append(group)
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)}


def release_groups() -> None:
    """Give back the placement groups of earlier chains, whose actors are gone; what is left goes with the driver."""
    while _groups:
        remove_placement_group(_groups.pop())
