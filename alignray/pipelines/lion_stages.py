"""The parts of a round of Lion: teach, imitate, judge, generate; each resumes from its committed parts (thesis 3.2)."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from rich.console import Console

from alignray.dedup.novelty import Match, closest, decide, tokens_of
from alignray.engine import EngineConfig, TransformersConfig, VLLMConfig
from alignray.errors import RecordError
from alignray.io.commits import CommitLog, parquet_bytes
from alignray.io.instructions import read_instructions
from alignray.io.run_folder import RunFolder
from alignray.methods.lion.discriminate import gap_of, is_hard
from alignray.methods.lion.pools import Pools, advance
from alignray.methods.lion.sampling import drawings
from alignray.methods.lion.steps import generator_steps, judge_steps, teacher_steps
from alignray.pipelines.lion_config import STUDENT, LionJobConfig
from alignray.pipelines.train import train
from alignray.pipelines.walk import pending_of, walk
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import listed, reject_reasons
from alignray.runtime.ask import AskConfig
from alignray.runtime.index import Index
from alignray.runtime.ledger import snapshot_of
from alignray.runtime.stages import read_stage, scan
from alignray.runtime.training import merge_on_worker
from alignray.schema import Candidate, LionDraft, Rejected, records_of, table_of
from alignray.seeding import row_id_of
from alignray.steps import PromptStep
from alignray.train.checkpoint import MODEL

SEEDS, TAUGHT, JUDGED, DRAWN, WRITTEN, NEW = "seeds", "taught", "judged", "drawn", "written", "new"
"""Stages; all but the first once in each round, as NAME_ROUND."""
STEP = "lion/novelty"
LEAST_PASS_RATE = 0.1
"""A wave draws for no lower one, so that one in which nothing passed is not followed by an endless one."""


@dataclass(frozen=True)
class SeedSource:
    """One file of seeds, as a unit of reading."""

    id: str
    uri: str


@dataclass
class Run:
    """What every part of the story needs."""

    config: LionJobConfig
    folder: RunFolder
    watch: Watch
    ledger: Any
    console: Console

    @property
    def root(self) -> str:
        return self.folder.root

    def stopped(self) -> str:
        """Why nothing more may be asked ("budget", "down", ...), or nothing."""
        return str(snapshot_of(self.ledger)["stop_kind"])


@dataclass(frozen=True)
class Pool:
    """Instructions of several stages as one index."""

    index: Index
    stage_of: dict[str, str]
    """Stage of each part."""

    def __len__(self) -> int:
        return len(self.index)


def stage(name: str, round_: int) -> str:
    """Name of a round's stage."""
    return f"{name}_{round_}"


def of_round(steps: Iterable[PromptStep[Any, Any]], round_: int) -> list[PromptStep[Any, Any]]:
    """The steps under names of their round: other draws, and calls that are not taken for those of another round."""
    return [dataclasses.replace(step, name=f"{step.name}/round_{round_}") for step in steps]


# ---- seeds and pools


def read_seeds(run: Run) -> None:
    """Every row of the input a seed or a reject, in committed parts.

    Raises:
        RecordError: no seed is left.
    """
    sources = [SeedSource(row_id_of(uri)[:16], uri) for uri in dict.fromkeys(run.config.input.files())]
    with run.watch.stage(SEEDS, None) as advance:
        read_stage(
            sources, partial(_seeds, config=run.config), LionDraft, root=run.root, stage=SEEDS,
            on_part=lambda part: advance(part["kept"]),
        )
    if not len(pool_of(run, [SEEDS])):
        reasons = listed(reject_reasons(run.folder, [SEEDS]))
        raise RecordError(f"no seed instruction is left; rejected: {reasons or 'nothing was read'}; look into {run.root}/rejects")


def _seeds(source: SeedSource, counts: Counter[str], *, config: LionJobConfig) -> Iterator[LionDraft | Rejected]:
    return read_instructions(source.uri, config.input.fetch, counts)


def pool_of(run: Run, stages: Sequence[str]) -> Pool:
    """The distinct kept rows of some stages; read here and not in tasks, as ids of some 10,000 rows are.

    Raises:
        RecordError: a row is in two of the stages.
    """
    log = CommitLog(run.folder.storage)
    pools, places, stage_of = Pools(), dict[str, tuple[str, int]](), dict[str, str]()
    for name in stages:
        own: dict[str, tuple[str, int]] = {}
        for commit, table in log.tables(name, columns=["row_id"]):
            stage_of[commit.name] = name
            for row, row_id in enumerate(table["row_id"].to_pylist()):
                own.setdefault(row_id, (commit.name, row))
        pools = advance(pools, sorted(own))
        places |= own
    ids = list(pools.cache)
    return Pool(Index.of(ids, [places[row_id][0] for row_id in ids], [places[row_id][1] for row_id in ids]), stage_of)


def train_pool(run: Run, round_: int) -> Pool:
    """What a round's teacher answers and student learns: the seeds, later what was new in the round before."""
    if round_ > 1:
        return pool_of(run, [stage(NEW, round_ - 1)])
    seeds = pool_of(run, [SEEDS])
    limit = run.config.input.max_seeds
    if limit is None or limit >= len(seeds):
        return seeds
    return Pool(seeds.index.take(seeds.index.least(limit, run.config.seed, "lion/seeds")), seeds.stage_of)


def cache_pool(run: Run, round_: int) -> Pool:
    """What a round's student is judged on: everything that the teacher has answered so far."""
    return pool_of(run, [stage(TAUGHT, number) for number in range(1, round_ + 1)])


def num_taught(run: Run, round_: int) -> int:
    """Rows that the student of a round learns from."""
    return sum(commit.counts["kept"] for commit in CommitLog(run.folder.storage).read(stage(TAUGHT, round_)))


def drafts_at(run: Run, stage_name: str) -> Iterator[LionDraft]:
    """All kept rows of a stage, part by part."""
    for _, table in CommitLog(run.folder.storage).tables(stage_name):
        yield from records_of(LionDraft, table)


# ---- teacher and student


def teach(run: Run, round_: int) -> bool:
    """The teacher answers the Train Pool, each instruction once; True when no row is left unasked."""
    pool = train_pool(run, round_)
    steps = teacher_steps(run.config.lion, run.config.prompts.dir)
    return _ask(run, pool, steps, round_, LionDraft, into=stage(TAUGHT, round_), title=f"teacher {round_}", checkpoint=None)


def imitate(run: Run, round_: int, before: str | None) -> str | None:
    """The student trained on the Train Pool; the folder of its model, None where no student is trained.

    Args:
        before: the last round's model.
    """
    student = run.config.student
    if student is None:
        return None
    start = first_model(run.config, before)
    rows = f"students/train_{round_}.parquet"
    if not run.folder.storage.exists(rows):
        run.folder.storage.write(rows, parquet_bytes(_chats(drafts_at(run, stage(TAUGHT, round_)))))
    root = str(Path(run.root) / "students" / stage("round", round_))
    done = RunFolder(root).manifest()
    if done is not None and done["status"] == "done":
        model = str(Path(root) / MODEL)  # where it is now: the folder may have been moved since
    else:
        training = student.training(
            str(Path(run.root) / rows), run_dir=root, model=start, seed=run.config.seed + round_, runtime=run.config.runtime,
        )
        model = train(training, console=run.console).model
    if student.model.lora is None:
        return str(model)
    merged = Path(root) / "merged"
    if not (merged / "config.json").is_file():
        merge_on_worker(student.from_model(start), Path(model), merged, student.workers)
    return str(merged)


def first_model(config: LionJobConfig, before: str | None) -> str:
    """What a round's imitation begins with: the last round's model, or always the one named (``student_start: restart``)."""
    assert config.student is not None
    return config.student.model.path if before is None or config.lion.student_start == "restart" else before


def _chats(drafts: Iterable[LionDraft]) -> pa.Table:
    """Instruction and teacher's answer as chats, in the order of their ids."""
    rows = [
        {"row_id": draft.row_id, "messages": [
            {"role": role, "content": text} for role, text in (("user", draft.instruction), ("assistant", draft.teacher))
        ]} for draft in sorted(drafts, key=lambda draft: draft.row_id)
    ]
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.Table.from_pylist(rows, schema=pa.schema([("row_id", pa.string()), ("messages", messages)]))


def judge(run: Run, round_: int, checkpoint: str | None) -> bool:
    """The student of the round answers the Cache Pool and the referee reviews; True when no row is left unasked."""
    steps = judge_steps(run.config.lion, run.config.prompts.dir)
    return _ask(
        run, cache_pool(run, round_), steps, round_, LionDraft, into=stage(JUDGED, round_), title=f"judge {round_}", checkpoint=checkpoint,
    )


def engines_of(config: LionJobConfig, checkpoint: str | None) -> dict[str, EngineConfig]:
    """Every engine; the student's renders chats as it was trained on them, whatever of that its own config leaves at its default."""
    engines = config.engines_with(checkpoint)
    student = engines[STUDENT]
    if config.student is not None and isinstance(student, TransformersConfig):
        names = ("chat_template", "template_fields", "add_bos", "end_token")
        unset = [name for name in names if getattr(student, name) == TransformersConfig.model_fields[name].get_default()]
        engines[STUDENT] = student.model_copy(update={name: getattr(config.student.tokens, name) for name in unset})
    elif config.student is not None and isinstance(student, VLLMConfig) and not student.chat_template_args:
        # the template itself is in the checkpoint's tokenizer
        engines[STUDENT] = student.model_copy(update={"chat_template_args": dict(config.student.tokens.template_fields)})
    return engines


def _ask(
    run: Run, pool: Pool, steps: Sequence[PromptStep[Any, Any]], round_: int, record: type, *, into: str, title: str,
    checkpoint: str | None,
) -> bool:
    config = run.config
    ask_config = AskConfig(
        engines=engines_of(config, checkpoint), roles=config.roles_of_round(), budget=config.budget, runtime=config.runtime,
        seed=config.seed, shared=config.answers,
    )
    walk(
        pool.index, pending_of(run.root, into, pool.index), of_round(steps, round_), ask_config, record, root=run.root,
        source=pool.stage_of, into=into, title=title, ledger=run.ledger, watch=run.watch,
    )
    return not len(pending_of(run.root, into, pool.index))


# ---- generator


def hard_and_easy(run: Run, round_: int) -> tuple[list[LionDraft], list[LionDraft]]:
    """The judged instructions, without their answers, by what they are for the student; unjudged ones are neither."""
    hard: list[LionDraft] = []
    easy: list[LionDraft] = []
    for draft in drafts_at(run, stage(JUDGED, round_)):
        gap = gap_of(draft)
        assert gap is not None, "a row without a readable review is rejected by its step"
        bare = LionDraft(draft.row_id, draft.instruction, draft.origin, draft.round, category=draft.category)
        (hard if is_hard(gap, run.config.lion) else easy).append(bare)
    return hard, easy


def generate(run: Run, round_: int) -> bool:
    """New instructions after hard and easy ones, wave by wave, until there are enough; False where asking had to stop.

    A wave is drawn, written by the generator, and decided on in the order of its drawings, so the outcome does not depend on who was
    quicker. A round ends short when ``max_drawings`` are used up; that is said, and never fatal.
    """
    hard, easy = hard_and_easy(run, round_)
    log = CommitLog(run.folder.storage)
    sides = {"hard": hard, "easy": easy}
    wanted = _quotas(run, sides)
    limit = math.ceil(run.config.lion.max_drawings * run.config.lion.per_round)
    for wave in range(limit):
        name = f"wave-{wave:04d}"
        if name in log.names(stage(NEW, round_)):
            continue
        kept, drawn = _kept_of(log, round_), _drawn_of(log, round_, before=wave)
        missing = {kind: wanted[kind] - kept[kind] for kind in sides}
        if not any(missing.values()) or (drawn.total() >= limit and name not in log.names(stage(DRAWN, round_))):
            return True
        if name not in log.names(stage(DRAWN, round_)):
            _commit(log, stage(DRAWN, round_), name, _draw(run, round_, sides, missing, drawn, limit, kept), Candidate)
        if not _write(run, round_, name):
            return False
        _decide(run, round_, name, missing)
    return True


def _quotas(run: Run, sides: dict[str, list[LionDraft]]) -> dict[str, int]:
    """New instructions wanted of each kind; all of one where the other has no parents."""
    config = run.config.lion
    num_hard = round(config.per_round * config.hard_rate)
    wanted = {"hard": num_hard, "easy": config.per_round - num_hard}
    for kind, other in (("hard", "easy"), ("easy", "hard")):
        if not sides[kind]:
            wanted = {kind: 0, other: config.per_round if sides[other] else 0}
    return wanted


def _kept_of(log: CommitLog, round_: int) -> Counter[str]:
    found = Counter({"hard": 0, "easy": 0})
    for commit in log.read(stage(NEW, round_)):
        found.update({kind: commit.counts[f"kept_{kind}"] for kind in ("hard", "easy")})
    return found


def _drawn_of(log: CommitLog, round_: int, *, before: int) -> Counter[str]:
    """Drawings of each kind in the waves before one."""
    found = Counter({"hard": 0, "easy": 0})
    for commit in log.read(stage(DRAWN, round_)):
        if int(commit.name.removeprefix("wave-")) < before:
            found.update({kind: commit.counts[f"kept_{kind}"] for kind in ("hard", "easy")})
    return found


def _draw(
    run: Run, round_: int, sides: dict[str, list[LionDraft]], missing: dict[str, int], drawn: Counter[str], limit: int,
    kept: Counter[str],
) -> list[Candidate]:
    """The next drawings: as many as it should take to fill what is missing, going by what passed so far."""
    found: list[Candidate] = []
    room = limit - drawn.total()
    for kind, parents in sides.items():
        if not missing[kind]:
            continue
        pass_rate = max(kept[kind] / drawn[kind], LEAST_PASS_RATE) if drawn[kind] else 1.0
        share = math.ceil(room * missing[kind] / sum(missing.values()))
        number = min(math.ceil(missing[kind] / pass_rate), share, limit - drawn.total() - len(found))
        one_sided = {"hard": parents if kind == "hard" else [], "easy": parents if kind == "easy" else []}
        found += drawings(
            **one_sided, round=round_, start=drawn[kind], num=number, config=run.config.lion, seed=run.config.seed,
        )
    return sorted(found, key=lambda candidate: (candidate.number, candidate.origin))


def _write(run: Run, round_: int, wave: str) -> bool:
    """The generator writes a wave; True when no drawing is left unasked."""
    drawn = pool_of(run, [stage(DRAWN, round_)])
    own = np.flatnonzero([part == wave for part in drawn.index.parts])
    steps = generator_steps(run.config.lion, run.config.prompts.dir)
    pool = Pool(drawn.index.take(own), drawn.stage_of)
    return _ask(run, pool, steps, round_, Candidate, into=stage(WRITTEN, round_), title=f"generator {round_}", checkpoint=None)


def _decide(run: Run, round_: int, wave: str, missing: dict[str, int]) -> None:
    """Which of a wave's texts are new: unlike the Cache Pool and whatever this round has kept (thesis 3.2.3).

    New ones beyond what is missing of their kind are turned down too, as over_quota.
    """
    log = CommitLog(run.folder.storage)
    own = {row.row_id for _, row in _candidates(log, stage(DRAWN, round_), only=wave)}
    written = sorted(
        (row for _, row in _candidates(log, stage(WRITTEN, round_)) if row.row_id in own), key=lambda row: (row.number, row.origin),
    )
    with run.watch.stage(f"novelty {round_}", len(written)) as advance:
        like, surplus = _too_like(run, round_, written, missing)
        advance(len(written))
    kept: list[LionDraft] = []
    rejected: list[Rejected] = []
    for row in written:
        evidence = like.get(row.row_id)
        if evidence is None and row.row_id not in surplus:
            kept.append(LionDraft(
                row.row_id, row.instruction, row.origin, round_, row.parent_id, row.category, prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens, cost_usd=row.cost_usd,
            ))
        else:
            reason, detail = ("over_quota", "") if evidence is None else ("too_similar", orjson.dumps(evidence).decode())
            rejected.append(Rejected(row.row_id, STEP, reason, row.instruction[: Rejected.RAW_LIMIT], detail))
    _commit(log, stage(NEW, round_), wave, kept, LionDraft, rejected)


def _too_like(
    run: Run, round_: int, written: Sequence[Candidate], missing: dict[str, int],
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """By id of those that are not new, the row that each is too like and how much; and the new ones beyond what is missing.

    What is beyond its quota is not kept, so it may not stand in another's way: it is taken out, and the others are decided on again.
    """
    config = run.config.lion.novelty
    compare: dict[str, Any] = {"threshold": config.max_similarity, "inclusive": config.on_equal == "reject"}
    in_pool = _closest_in_pool(run, round_, written, compare)
    earlier = sorted(drafts_at(run, stage(NEW, round_)), key=lambda draft: draft.row_id)
    everyone: list[LionDraft | Candidate] = [*earlier, *written]
    tokens = {row.row_id: tokens_of(row.instruction, config.tokenizer) for row in everyone}
    surplus: set[str] = set()
    while True:
        rows = [row for row in everyone if row.row_id not in surplus]
        found = decide(
            [tokens[row.row_id] for row in rows], [in_pool.matches.get(row.row_id) for row in rows], **compare,
            groups=[row.origin for row in rows] if config.pool == "own_kind" else None,
        )
        new = [row for row, verdict in zip(rows[len(earlier):], found[len(earlier):], strict=True) if verdict is None]
        over = {row.row_id for kind, number in missing.items() for row in [row for row in new if row.origin == kind][number:]}
        if not over:
            break
        surplus |= over
    like = {
        row.row_id: {
            "like": in_pool.ids[verdict.index] if verdict.side == "pool" else rows[verdict.index].row_id, "rouge_l": verdict.score,
        } for row, verdict in zip(rows, found, strict=True) if verdict is not None
    }
    return like, surplus


@dataclass(frozen=True)
class _InPool:
    """By id of those texts that are too like one of the Cache Pool: the closest one's position in ``ids``, and the F-measure."""

    ids: list[str]
    matches: dict[str, Match]


def _closest_in_pool(run: Run, round_: int, written: Sequence[Candidate], compare: dict[str, Any]) -> _InPool:
    """Compared in a task for each part of the pool."""
    tokenizer = run.config.lion.novelty.tokenizer
    texts = [row.instruction for row in written]

    def of_part(_part: str, table: pa.Table, _facts: None) -> pa.Table:
        pool = [tokens_of(text, tokenizer) for text in table["instruction"].to_pylist()]
        found = closest([tokens_of(text, tokenizer) for text in texts], pool, **compare)
        ids = table["row_id"].to_pylist()
        hits = [(number, ids[match[0]], match[1]) for number, match in enumerate(found) if match is not None]
        return pa.table({
            "number": pa.array([hit[0] for hit in hits], pa.int64()), "row_id": pa.array([hit[1] for hit in hits], pa.string()),
            "score": pa.array([hit[2] for hit in hits], pa.float64()),
        })

    best: dict[int, tuple[float, str]] = {}
    for earlier in range(1, round_ + 1):
        columns = ["row_id", "instruction"]
        for table in scan(run.root, stage(TAUGHT, earlier), of_part, columns=columns, name=f"novelty {round_}"):
            for hit in table.to_pylist():
                # the least id of the closest ones, whatever order the parts come in
                best[hit["number"]] = min(best.get(hit["number"], (0.0, "")), (-hit["score"], hit["row_id"]))
    ids = sorted({row_id for _, row_id in best.values()})
    place = {row_id: number for number, row_id in enumerate(ids)}
    return _InPool(ids, {written[number].row_id: (place[row_id], -score) for number, (score, row_id) in best.items()})


def _candidates(log: CommitLog, stage_name: str, *, only: str | None = None) -> Iterator[tuple[str, Candidate]]:
    """Kept candidates of a stage, or of one of its parts, with the part's name."""
    for commit, table in log.tables(stage_name):
        if only is None or commit.name == only:
            for row in records_of(Candidate, table):
                yield commit.name, row


def _commit(log: CommitLog, stage_name: str, name: str, kept: Sequence[Any], record: type, rejected: Sequence[Rejected] = ()) -> None:
    counts = Counter({"kept": len(kept), "rejected": len(rejected)})
    counts.update({f"kept_{kind}": sum(row.origin == kind for row in kept) for kind in ("hard", "easy")})
    counts.update(f"rejected/{reject.step}/{reject.reason}" for reject in rejected)
    tables = {"rows": (f"stages/{stage_name}", table_of(record, kept)), "rejects": ("rejects", table_of(Rejected, rejected))}
    log.write(stage_name, name, tables, counts)
