"""The methods that can be sent to a cluster, each with its config."""

from __future__ import annotations

from alignray.config import Config
from alignray.errors import ConfigError
from alignray.pipelines.bridge_config import BridgeJobConfig
from alignray.pipelines.construct_config import ConstructJobConfig
from alignray.pipelines.dedup_config import DedupJobConfig
from alignray.pipelines.edit_eval_config import EditEvalJobConfig
from alignray.pipelines.evaluate_config import EvaluateJobConfig, FollowBenchJobConfig
from alignray.pipelines.lion_config import LionJobConfig
from alignray.pipelines.lte_config import LTEJobConfig
from alignray.pipelines.train_config import TrainJobConfig
from alignray.pipelines.webr_config import WebRJobConfig

JOBS: dict[str, type[Config]] = {
    "webr": WebRJobConfig, "dedup": DedupJobConfig, "bridge": BridgeJobConfig, "train": TrainJobConfig,
    "followbench": FollowBenchJobConfig, "evaluate": EvaluateJobConfig,
    "construct": ConstructJobConfig, "lion": LionJobConfig, "lte": LTEJobConfig, "edit-eval": EditEvalJobConfig,
}
"""Each has its entry jobs/NAME.py, and a key run_dir in its config."""


def job_config(method: str) -> type[Config]:
    """The config of a method.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in JOBS:
        raise ConfigError(f"there is no method {method!r} to submit; choose {' or '.join(JOBS)}")
    return JOBS[method]
