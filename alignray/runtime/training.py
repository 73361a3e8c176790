"""Training on Ray Train: ranks that run ``train_loop``, checkpoints into the run folder, metrics to Ray and metrics.jsonl."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pydantic
import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from alignray.config import Config
from alignray.errors import AlignrayError, ConfigError, RecordError, ResumeError, TrainingError
from alignray.io.commits import CommitLog
from alignray.io.reference_store import ReferenceStore
from alignray.io.run_folder import RunFolder
from alignray.io.storage import Storage
from alignray.runtime.metrics import Meter
from alignray.runtime.reference_store import Forward
from alignray.runtime.tokens import TOKENS
from alignray.train.checkpoint import MODEL
from alignray.train.config import ModelConfig, TrainConfig
from alignray.train.data import ExampleRows, PairRows, PairTokens, split_of
from alignray.train.loop import train_loop
from alignray.train.model import merge_adapters
from alignray.train.reference import ReferenceScorer
from alignray.train.strategies.base import find_ranks

logger = logging.getLogger(__name__)

NAME = "training"
"""Folder of the run's checkpoints."""
SAID, OUTCOME = f"{NAME}/outcome.json", "training.json"
"""What rank 0 says at the end, and the same once the model is in its place."""
GAUGED = ("loss", "margin", "accuracy", "tokens_per_s", "grad_norm", "learning_rate")
"""Of a line of metrics, what Ray's metrics show."""
KEPT = 2
"""Checkpoints that stay."""
ERRORS: dict[str, type[AlignrayError]] = {
    error.__name__: error for error in (ConfigError, RecordError, ResumeError, TrainingError)
}


class WorkersConfig(Config):
    """The ranks of a training run."""

    num_workers: int = pydantic.Field(1, ge=1)
    """Ranks; one GPU each where use_gpu is set."""
    use_gpu: bool | None = None
    """null: where the cluster has GPUs."""
    cpus_per_worker: float = pydantic.Field(1, ge=0)
    """CPUs that Ray sets aside for each rank."""
    max_failures: int = pydantic.Field(3, ge=0)
    """Restarts from the newest checkpoint after a rank or a node died, before the run gives up."""
    max_preemption_failures: int = pydantic.Field(-1, ge=-1)
    """The same for announced preemptions, which are not held against the run; -1: any number."""

    def has_gpus(self) -> bool:
        """Whether ranks get a GPU each; asks the cluster where the config leaves it open."""
        return self.use_gpu if self.use_gpu is not None else ray.cluster_resources().get("GPU", 0) > 0


@dataclass(frozen=True)
class TrainingOutcome:
    """How training ended."""

    steps: int
    metrics: dict[str, Any]
    layout: str
    layout_reason: str | None
    model: str
    """Folder of the trained model (or its adapters) in Hugging Face format."""


def reference_forward(config: TrainConfig) -> Forward:
    """What fills the reference store: token rows to log-probabilities. Loads the model."""
    scorer = ReferenceScorer(config)

    def forward(rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
        return scorer.score([_pair(row) for row in rows])

    return forward


def merge_on_worker(config: ModelConfig, adapters: Path, into: Path, workers: WorkersConfig) -> None:
    """``merge_adapters`` on a node of the cluster, with the CPUs of a rank.

    Args:
        adapters, into: folders that the workers see under the same path.
    """
    task = ray.remote(num_cpus=workers.cpus_per_worker, max_retries=workers.max_failures)(merge_adapters)
    try:
        ray.get(task.options(name="merge adapters").remote(config, adapters, into))
    except ray.exceptions.RayTaskError as err:
        raise (err.cause if isinstance(err.cause, AlignrayError) else TrainingError(f"{adapters}: cannot be merged: {err.cause}")) from err


def _pair(row: dict[str, Any]) -> PairTokens:
    prompt, chosen, rejected = (np.asarray(row[f"{name}_ids"], np.int64) for name in ("prompt", "chosen", "rejected"))
    return PairTokens(row["row_id"], prompt, chosen, rejected, np.zeros(len(chosen), bool), np.zeros(len(rejected), bool))


def launch_training(
    config: TrainConfig, workers: WorkersConfig, *, root: str, store: ReferenceStore | None, on_step: Callable[[int], None],
) -> TrainingOutcome:
    """Train on the token table of a run folder; a run that was stopped goes on from its newest checkpoint.

    Args:
        store: reference log-probabilities of all rows; None where the objective needs none.
        on_step: called with the number of steps done since.

    Raises:
        ConfigError, RecordError, ResumeError, TrainingError: as a rank raised it.
    """
    storage = Storage(root)
    if not storage.exists(OUTCOME):
        storage.remove(SAID)  # of an earlier session
        board = _Board.options(num_cpus=0).remote()  # type: ignore[attr-defined]
        with _steps_told(board, on_step):
            _fit(config, workers, storage, store, board)
    return TrainingOutcome(**orjson.loads(storage.read(OUTCOME)))


def _fit(config: TrainConfig, workers: WorkersConfig, storage: Storage, store: ReferenceStore | None, board: Any) -> None:
    use_gpu = workers.has_gpus()
    # without a filesystem object Ray would look for credentials and endpoints of a store in its own way
    filesystem, path = storage.arrow()
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"config": config.model_dump(mode="json", by_alias=True), "root": storage.root, "store": store, "board": board},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers, use_gpu=use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=NAME, storage_path=path, storage_filesystem=None if storage.is_local else filesystem,
            failure_config=FailureConfig(max_failures=workers.max_failures, max_preemption_failures=workers.max_preemption_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.v2.api.exceptions.TrainingFailedError as err:
        first = next(iter(getattr(err, "worker_failures", {}).values()), err)
        raise TrainingError(f"training failed {workers.max_failures + 1} times, last: {str(first).strip().splitlines()[-1]}") from err
    if not storage.exists(SAID):
        raise TrainingError(f"training ended without a word; look into {storage.path(NAME)} and the logs of its workers")
    outcome = orjson.loads(storage.read(SAID))
    if "error" in outcome:
        raise ERRORS.get(outcome["error"], TrainingError)(outcome["message"])
    _keep_model(result.checkpoint, storage)
    storage.write(OUTCOME, orjson.dumps(outcome))  # last: a run that has it is whole


def _keep_model(checkpoint: Any, storage: Storage) -> None:
    """The model of the last checkpoint, where users look for it."""
    filesystem, target = storage.arrow(MODEL)
    filesystem.create_dir(target, recursive=True)
    pafs.copy_files(f"{checkpoint.path}/{MODEL}", target, source_filesystem=checkpoint.filesystem, destination_filesystem=filesystem)


# ---- on the ranks


def _rank(loop_config: dict[str, Any]) -> None:
    """One rank. What it raises on purpose is told and not tried again."""
    config = TrainConfig.model_validate(loop_config["config"])
    reporter = _RayReporter(loop_config["root"], loop_config["board"])
    try:
        rows, held_out = load_rows(loop_config["root"], loop_config["store"])
        result = train_loop(config, rows, held_out, find_ranks(), reporter)
    except AlignrayError as err:
        reporter.end({"error": type(err).__name__, "message": str(err)})
    else:
        reporter.end({**asdict(result), "model": Storage(loop_config["root"]).path(MODEL)})


def load_rows(root: str, store: ReferenceStore | None) -> tuple[PairRows | ExampleRows, PairRows | ExampleRows]:
    """Training and held-out rows of a run folder's token table, with their reference log-probabilities."""
    tables = [table for _, table in CommitLog(Storage(root)).tables(TOKENS)]
    table = pa.concat_tables(tables)
    return _rows(split_of(table, "train"), store), _rows(split_of(table, "eval"), store)


def _rows(table: pa.Table, store: ReferenceStore | None) -> PairRows | ExampleRows:
    if "input_ids" in table.column_names:
        return ExampleRows(table)
    if store is None:
        return PairRows(table)
    keys = table["token_key"].to_pylist()
    return PairRows(table, store.read(store.index(keys), keys))


class _RayReporter:
    """Reporter over Ray Train. Ray is told of checkpoints alone: each report waits for the controller's next look, some two seconds."""

    def __init__(self, root: str, board: Any) -> None:
        self._root, self._board = root, board
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._folder, self._meter = RunFolder(root), Meter(root)
        self._announced: Any = None

    def report(self, line: dict[str, Any], checkpoint: Path | None) -> None:
        """See Reporter."""
        if self._is_first:
            self._folder.metric({"stage": "train", **line})
            for name in GAUGED:
                if name in line:
                    self._meter.set(f"alignray_train_{name}", line[name], line["kind"])
            self._board.tell.remote(line["step"])
        if checkpoint is not None:
            kept = ray.train.Checkpoint.from_directory(str(checkpoint))
            ray.train.report({"step": line["step"]}, checkpoint=kept, checkpoint_dir_name=f"step-{line['step']:08d}")

    def end(self, outcome: dict[str, Any]) -> None:
        """What the driver is to know."""
        if self._is_first:
            RunFolder(self._root).write_json(SAID, outcome)

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """See Reporter."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def wants_checkpoint(self) -> bool:
        """See Reporter: once for each announcement, which Ray goes on telling."""
        announced = ray.train.get_preemption_info()
        is_new = announced is not None and announced != self._announced
        self._announced = announced
        return is_new


# ---- on the driver


@ray.remote
class _Board:
    """The number of steps done, for the driver to show."""

    def __init__(self) -> None:
        self._step = 0

    def tell(self, step: int) -> None:
        self._step = max(self._step, step)

    def step(self) -> int:
        return self._step


@contextmanager
def _steps_told(board: Any, on_step: Callable[[int], None]) -> Iterator[None]:
    """Tell the display about steps while training blocks the caller."""
    finished = threading.Event()

    def poll() -> None:
        told = 0
        while True:
            is_last = finished.wait(1.0)
            with contextlib.suppress(ray.exceptions.RayError):
                step = ray.get(board.step.remote(), timeout=10)
                on_step(step - told)
                told = step
            if is_last:
                return

    thread = threading.Thread(target=poll, name="steps", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=15)
        ray.kill(board)


