"""What Ray's list of jobs says of a run while it works: run, stage and progress, in the metadata of the job that was submitted.

A driver started without ``ray job submit`` has metadata too, but Ray takes it once, when the driver connects. Of a submitted job Ray
keeps a JSON record in its key-value store; no public call changes its metadata, so this one writes into the record, by name of
Ray 2.60's ``JobInfoStorageClient``. Where the record looks different nothing is written.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import orjson
from ray.experimental import internal_kv

logger = logging.getLogger(__name__)

CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable in which Ray tells a submitted driver about its job."""
RECORD, NAMESPACE = "_ray_internal_job_info_{}", b"job"


def submission_id() -> str | None:
    """Id of the submitted job that this process drives."""
    try:
        metadata = orjson.loads(os.environ.get(CONFIG_VARIABLE, "{}")).get("metadata") or {}
    except orjson.JSONDecodeError:
        return None
    return metadata.get("job_submission_id")


def tell_job(**facts: str) -> None:
    """Put facts into the metadata of our submitted job; without one nothing happens. What goes wrong never ends a run."""
    job = submission_id()
    if job is None or not internal_kv._internal_kv_initialized():
        return
    key = RECORD.format(job).encode()
    try:
        raw = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        record: dict[str, Any] = orjson.loads(raw) if raw else {}
        # Ray itself writes at the start and when the driver is gone; a record of any other state is left to it
        if record.get("status") == "RUNNING" and "metadata" in record:
            record["metadata"] = {**(record["metadata"] or {}), **facts}
            internal_kv._internal_kv_put(key, orjson.dumps(record), overwrite=True, namespace=NAMESPACE)
    except Exception as err:  # a display, and none that Ray promises
        logger.debug("the job's metadata stays as it is: %s", err)
