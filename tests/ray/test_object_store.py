"""A run folder on S3: a real client against a local server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ray.conftest import SAMPLE
from tests.ray.processes import finish, start, wait_for

CONFIG = f"""
num_rows: 9
ingest: {{sources: [{{name: sample, paths: [{SAMPLE}]}}]}}
engines: {{fake: {{kind: scripted, latency_s: 0.1, max_in_flight: 2}}}}
roles: {{default: {{engine: fake, max_new_tokens: 150}}}}
analysis: {{embedder: hash}}
runtime: {{num_cpus: 2, part_rows: 4}}
"""


def test_a_run_on_an_object_store_resumes_and_ends_with_report_and_rows(tmp_path: Path) -> None:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        files = s3fs.S3FileSystem(endpoint_url=environment["AWS_ENDPOINT_URL"], key="test", secret="test", use_listings_cache=False)
        files.mkdir("bucket")
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        process = start(config, "s3://bucket/run", **environment)
        wait_for(lambda: len(files.glob("bucket/run/calls/*.jsonl")) > 8, process)
        process.kill()
        process.wait()
        output = finish(start(config, "s3://bucket/run", **environment))
        assert "(resumed)" in output and "9 rows kept" in output
        manifest = json.loads(files.cat_file("bucket/run/manifest.json"))
        assert manifest["usage"]["repeated_calls"] == 0 and manifest["result"]["rows"] == 9
        assert files.exists("bucket/run/report.html") and files.exists("bucket/run/README.md")
        assert files.glob("bucket/run/parts/*.parquet") and files.glob("bucket/run/rejects/*.parquet")
    finally:
        server.stop()
