"""The edit server on Ray Serve.

One replica holds memory, embedder and model, for the memory has one writer. If it dies Serve starts it again, and what was
acknowledged is there: it reads the log. Reads could scale by further replicas that open the memory with ``writable=False``, call
``refresh`` before a query, and hand what writes to the one; the model behind scales by itself where it is an endpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util import metrics as ray_metrics

from alignray.errors import AlignrayError, ConfigError
from alignray.runtime.session import RuntimeConfig, ray_session
from alignray.serve.edits_config import EditServerConfig

logger = logging.getLogger(__name__)

APP = "alignray-edits"
GRACE_S = 30.0
"""So long a replica that could not start says why before it is started anew."""
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


def run(config: EditServerConfig, *, tell: Callable[[str], object] = logger.info) -> None:
    """Serve until interrupted or asked to end (SIGTERM).

    Raises:
        ConfigError: the port is taken, the token is not set, the memory was made otherwise, a library is missing.
        StorageError: another process writes to the memory.
        EngineDown: the embedder cannot be loaded.
    """
    with serving(config) as url:
        tell(f"{url}/v1: model {config.model_name!r}, edits of {config.memory.path}")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own would end the process with an error
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def serving(config: EditServerConfig) -> Iterator[str]:
    """A server, and its address without a path; it ends with the block. Raises as ``run``."""
    serve = _ray_serve()
    from alignray.serve.edit_app import digest_of

    token = _token(config)
    _check_port(config.host, config.port)
    folder = str(Path(config.memory.path).expanduser().resolve())
    config = config.model_copy(update={"memory": config.memory.model_copy(update={"path": folder})})
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # how it starts and ends is told here
    with ray_session(RuntimeConfig(address=config.address), {"job_name": "alignray edits serve"}):
        if others := sorted(serve.status().applications):
            raise ConfigError(f"Ray Serve runs {', '.join(others)} on this cluster already; end that, or use another cluster (address)")
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port}, logging_config=quiet)
        try:
            handle = serve.run(_application(serve, config, digest_of(token) if token else None, quiet), name=APP, logging_config=quiet)
            problem = handle.problem.remote().result()
            if problem is not None:
                raise problem
            host = f"[{config.host}]" if ":" in config.host else config.host
            yield f"http://{host}:{config.port}"
        finally:
            serve.shutdown()


class EditServer:
    """The deployment. What keeps it from starting is told by ``problem``: in a constructor Serve would try it again and again."""

    def __init__(self, config: EditServerConfig, token_digest: bytes | None) -> None:
        self._config = config
        self._digest = token_digest
        self._problem: AlignrayError | None = None
        self._built_at = time.monotonic()
        self._build()

    def _build(self) -> None:
        from alignray.serve.edit_service import EditService

        try:
            self._service: EditService | None = EditService(self._config, meter=RayMeter())
        except AlignrayError as err:
            self._service, self._problem = None, err

    def problem(self) -> AlignrayError | None:
        """Why it does not serve; None where it does."""
        return self._problem

    def check_health(self) -> None:
        """Serve asks now and then, and starts another replica where this raises: one that came up in place of a dead one tries again."""
        if self._problem is not None and time.monotonic() - self._built_at > GRACE_S:
            raise self._problem

    def __serve_build_asgi_app__(self) -> Any:
        """What Serve asks for after the constructor."""
        from alignray.serve.edit_app import build_app, build_broken_app

        if self._service is None:
            return build_broken_app(str(self._problem))
        return build_app(self._service, token_digest=self._digest)


class RayMeter:
    """The server's numbers for Prometheus, under /metrics of the node with the prefix ``ray_``; every label is of a small set."""

    def __init__(self) -> None:
        self._requests = ray_metrics.Counter("alignray_edit_requests_total", "Requests answered", ("route", "status"))
        self._seconds = ray_metrics.Histogram(
            "alignray_edit_retrieval_seconds", "Time to embed a query (embed), and to find its edits (search)", list(BUCKETS_S), ("stage",),
        )
        self._live = ray_metrics.Gauge("alignray_edits_live", "Edits that queries can find")

    def request(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.inc(1, {"route": route, "status": str(status)})

    def retrieval(self, stage: str, seconds: float) -> None:
        """A query was embedded or compared."""
        self._seconds.observe(seconds, {"stage": stage})

    def live(self, edits: int) -> None:
        """So many edits can be found."""
        self._live.set(float(edits))


def _application(serve: Any, config: EditServerConfig, token_digest: bytes | None, logs: dict[str, Any]) -> Any:
    # the memory lies on this machine's disk, so the replica must
    node = ray.get_runtime_context().get_node_id()
    here = {f"node:{found['NodeManagerAddress']}": 0.001 for found in ray.nodes() if found["NodeID"] == node}
    deployment = serve.deployment(
        serve.ingress()(EditServer), name="edits", num_replicas=1, max_ongoing_requests=config.max_open,
        max_queued_requests=config.max_open, graceful_shutdown_timeout_s=20, health_check_period_s=2, logging_config=logs,
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus, "resources": here},
    )
    return deployment.bind(config, token_digest)


def _ray_serve() -> Any:
    try:
        import fastapi  # noqa: F401
        from ray import serve
    except ImportError as err:
        raise ConfigError(f"the edit server needs Ray Serve and FastAPI ({err}); pip install 'alignray[serve]'") from err
    return serve


def _token(config: EditServerConfig) -> str | None:
    if config.token_env is None:
        return None
    token = os.environ.get(config.token_env, "").strip()
    if not token:
        raise ConfigError(f"token_env names ${config.token_env}, which is not set; export {config.token_env}=$(openssl rand -hex 32)")
    return token


def _check_port(host: str, port: int) -> None:
    """Serve would try a port that is taken for a long while."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as err:
            raise ConfigError(f"cannot listen on {host}:{port} ({err.strerror or err}); choose another port") from err
