"""What engine actors get of a cluster: seen on a Ray of its own that is told it has GPUs (and has none)."""

from __future__ import annotations

import json
import subprocess
import sys

from alignray.engine import OpenAIConfig, ScriptedConfig, TransformersConfig, VLLMConfig
from alignray.runtime.devices import actor_resources
from alignray.runtime.session import RuntimeConfig
from tests.ray.conftest import ROOT

TWO = VLLMConfig(model="org/model", tensor_parallel_size=2)
SPREAD = VLLMConfig(model="org/model", tensor_parallel_size=1, pipeline_parallel_size=2, distributed_executor_backend="ray")

ON_GPUS = """
import json, sys
import ray
from ray.data import ActorPoolStrategy
from alignray.engine import EngineConfig, TransformersConfig, VLLMConfig
from alignray.errors import ConfigError
from alignray.runtime.devices import actor_resources
from alignray.runtime.session import RuntimeConfig, quiet_data_context

class Look:
    def __call__(self, batch):
        group = ray.util.get_current_placement_group()
        return {"gpus": [str(ray.get_gpu_ids())], "bundles": [json.dumps(group.bundle_specs if group else None)]}

def look(config):
    resources = actor_resources(RuntimeConfig(), [VLLMConfig.model_validate_json(config)])
    rows = ray.data.range(4).map_batches(Look, batch_size=4, compute=ActorPoolStrategy(size=1), **resources).take_all()
    return {"gpus": len(json.loads(rows[0]["gpus"])), "bundles": json.loads(rows[0]["bundles"])}

ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
quiet_data_context()
seen = [look(config) for config in sys.argv[1:]]  # one after the other: each finds the GPUs that the last one had
given = actor_resources(RuntimeConfig(gpus_per_actor=0.5), [VLLMConfig(model="m")])
loaded, on_cpu = TransformersConfig(model="m"), TransformersConfig(model="m", device="cpu")
checkpoints = [actor_resources(RuntimeConfig(), engines) for engines in ([loaded], [on_cpu], [on_cpu, loaded, VLLMConfig(model="m")])]
try:
    actor_resources(RuntimeConfig(), [VLLMConfig(model="m"), VLLMConfig(model="n")])
    refused = ""
except ConfigError as err:
    refused = str(err)
print("SEEN", json.dumps({"seen": seen, "given": given, "refused": refused, "checkpoints": checkpoints}))
"""


def test_engines_elsewhere_take_what_the_config_says(local_ray: None) -> None:
    assert actor_resources(RuntimeConfig(), [ScriptedConfig()]) == {"num_cpus": 0.5, "num_gpus": None}
    asked = RuntimeConfig(cpus_per_actor=0.25, gpus_per_actor=2)
    assert actor_resources(asked, [OpenAIConfig(model="m")]) == {"num_cpus": 0.25, "num_gpus": 2}


def test_a_model_in_the_actor_takes_a_cpu_per_device_where_there_are_no_gpus(local_ray: None) -> None:
    assert actor_resources(RuntimeConfig(), [TWO, ScriptedConfig()]) == {"num_cpus": 2.0, "num_gpus": None}
    assert actor_resources(RuntimeConfig(cpus_per_actor=0.1), [TWO]) == {"num_cpus": 0.1, "num_gpus": None}
    assert actor_resources(RuntimeConfig(), [TransformersConfig(model="org/model")]) == {"num_cpus": 1.0, "num_gpus": None}


def test_a_model_in_the_actor_takes_a_gpu_per_device_and_over_nodes_a_placement_group() -> None:
    engines = [TWO, SPREAD, SPREAD]
    command = [sys.executable, "-c", ON_GPUS, *(engine.model_dump_json() for engine in engines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=400, check=False)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")] or [done.stderr]
    result = json.loads(line.removeprefix("SEEN "))
    owns, spread = {"gpus": 2, "bundles": None}, {"gpus": 0, "bundles": [{"CPU": 1.0, "GPU": 1.0}] * 2}
    assert result["seen"] == [owns, spread, spread]
    assert result["given"] == {"num_cpus": 0.5, "num_gpus": 0.5}
    gpu, cpu = {"num_cpus": 0.5, "num_gpus": 1.0}, {"num_cpus": 1.0, "num_gpus": None}
    assert result["checkpoints"] == [gpu, cpu, gpu]
    assert "gpu_memory_utilization 0.9 + 0.9 is above 1; lower it" in result["refused"]


def test_shares_are_no_matter_without_gpus(local_ray: None) -> None:
    assert actor_resources(RuntimeConfig(), [TWO, TWO])["num_cpus"] == 2.0
