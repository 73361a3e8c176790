"""The files of cluster/: valid for what reads them, token authentication on, nothing public, no secrets."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import alignray
from alignray.runtime.metrics import COUNTERS, GAUGES, LATENCY

CLUSTER = Path(__file__).parents[3] / "cluster"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
MANIFESTS = ("raycluster", "rayjob", "networkpolicy", "podmonitor")
LAUNCHERS = ("ray-aws", "ray-onprem")
CHECK = jsonschema.Draft202012Validator(json.loads(Path(__file__).with_name("kuberay_schema.json").read_text()))
RAY = "2.60.0"
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9]{20}|-----BEGIN|[0-9a-f]{40}|(token|password)\s*[=:]\s*['\"]?[A-Za-z0-9+/_-]{20}"
)


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def cluster_specs() -> list[dict[str, Any]]:
    return [load("raycluster")["spec"], load("rayjob")["spec"]["rayClusterSpec"]]


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_follows_the_schema(name: str) -> None:
    CHECK.validate(load(name))


def mutated(name: str, path: tuple[str | int, ...], value: Any) -> Any:
    manifest = copy.deepcopy(load(name))
    *parents, last = path
    part = manifest
    for key in parents:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return manifest


@pytest.mark.parametrize(("name", "path", "value"), [
    ("raycluster", ("spec", "workerGroups"), []),
    ("raycluster", ("spec", "authOptions", "mode"), "tokens"),
    ("raycluster", ("spec", "authOptions", "enabled"), True),
    ("raycluster", ("spec", "enableInTreeAutoscaling"), "yes"),
    ("raycluster", ("spec", "autoscalerOptions", "upscalingMode"), "Fast"),
    ("raycluster", ("spec", "headGroupSpec", "template"), None),
    ("raycluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ("raycluster", ("spec", "workerGroupSpecs", 0, "maxReplicas"), None),
    ("raycluster", ("spec", "workerGroupSpecs", 1, "maxReplicas"), "16"),
    ("raycluster", ("spec", "workerGroupSpecs", 1, "template", "spec", "containers", 0, "resource"), {}),
    ("raycluster", ("spec", "workerGroupSpecs", 1, "template", "spec", "containers", 0, "resources", "limits", "memory"), "96 GB"),
    ("raycluster", ("spec", "workerGroupSpecs", 2, "template", "spec", "tolerations", 0, "operator"), "Exist"),
    ("raycluster", ("apiVersion",), "ray.io/v1alpha1"),
    ("rayjob", ("spec", "submissionMode"), "UserMode"),
    ("rayjob", ("spec", "metadata", "job_name"), 1),
    ("rayjob", ("spec", "rayClusterSpec", "headGroupSpec", "serviceType"), "Public"),
    ("networkpolicy", ("spec", "ingress", 0, "form"), []),
    ("podmonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "10"),
])
def test_a_wrong_manifest_does_not(name: str, path: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        CHECK.validate(mutated(name, path, value))


def test_a_job_runs_on_the_same_cluster() -> None:
    cluster, job = cluster_specs()
    assert cluster == job


def test_every_group_has_its_limits() -> None:
    spec = cluster_specs()[0]
    assert spec["enableInTreeAutoscaling"] and spec["rayVersion"] == RAY
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "generator-gpu", "training-gpu"}
    for name, group in groups.items():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] <= 64
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["limits"] == resources["requests"]  # what Ray is told is what the pod gets
        assert ("nvidia.com/gpu" in resources["limits"]) == name.endswith("-gpu")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_file_follows_ray_s_own_schema(name: str) -> None:
    validate_config(prepare_config(load(name)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(load(name) | {"max_worker": 3}))


def test_aws_has_the_three_groups_within_the_limit() -> None:
    config = load("ray-aws")
    groups = {name: group for name, group in config["available_node_types"].items() if name != config["head_node_type"]}
    assert set(groups) == {"cpu", "generator_gpu", "training_gpu"}
    assert sum(group["max_workers"] for group in groups.values()) == config["max_workers"]
    assert all(group["node_config"]["SecurityGroupIds"] for group in config["available_node_types"].values())


def test_token_authentication_is_on_everywhere() -> None:
    assert all(spec["authOptions"] == {"mode": "token"} for spec in cluster_specs())
    for name in LAUNCHERS:
        config = load(name)
        assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "Dockerfile").read_text()


def test_nothing_is_public() -> None:
    for spec in cluster_specs():
        head = spec["headGroupSpec"]
        assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    for name in LAUNCHERS:
        (start,) = [command for command in load(name)["head_start_ray_commands"] if "--head" in command]
        assert "--dashboard-host=127.0.0.1" in start
    text = "".join(path.read_text() for path in FILES if path.suffix == ".yaml" and path.stem not in ("raycluster", "rayjob"))
    assert "0.0.0.0" not in text


def test_pods_run_without_rights() -> None:
    job = load("rayjob")["spec"]
    for pod in [*(pod for spec in cluster_specs() for pod in pods(spec)), job["submitterPodTemplate"]["spec"]]:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_secrets_are_named_and_never_written() -> None:
    for spec in cluster_specs():
        for pod in pods(spec):
            for variable in pod["containers"][0]["env"]:
                if re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]):
                    assert "value" not in variable and variable["valueFrom"]["secretKeyRef"]["name"], variable
    for path in FILES:
        assert not SECRET.search(path.read_text()), path


def test_the_image_carries_the_same_ray() -> None:
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert set(re.findall(r"rayproject/ray:([\d.]+)-", dockerfile)) == {RAY}
    assert f"ray=={RAY}" in (CLUSTER.parent / "constraints.txt").read_text()
    assert f"ray=={RAY}" in (CLUSTER / "constraints-gpu.txt").read_text()
    assert "USER ray" in dockerfile and alignray.__version__
    copied = [word for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", dockerfile, re.M) for word in line.split()]
    assert all((CLUSTER.parent / name).exists() for name in copied if "$" not in name)


def test_the_dashboard_knows_only_metrics_that_we_tell() -> None:
    dashboard = json.loads((CLUSTER / "grafana" / "alignray.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    used = {name for expression in expressions for name in re.findall(r"ray_(alignray_\w+)", expression)}
    told = {*COUNTERS, *GAUGES, f"{LATENCY[0]}_bucket"}
    assert used <= told
    assert told - used == {"alignray_budget_left_tokens"}
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_finds_the_nodes_by_ray_s_own_list() -> None:
    (job,) = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
