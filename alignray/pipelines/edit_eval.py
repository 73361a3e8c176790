"""Edited models under test, told once: records -> what is asked with which edits -> scores -> figures and report (thesis 5.2, 5.4)."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import orjson
import ray
from rich.console import Console

from alignray.engine.embedders import Embedder, build_embedder
from alignray.errors import RecordError
from alignray.io.commits import CommitLog
from alignray.io.fetch import FetchConfig
from alignray.io.run_folder import RunFolder, now
from alignray.io.sentiment_edits import read_sentiment_edits
from alignray.io.storage import Storage
from alignray.memory import EditMemory, MemoryConfig
from alignray.memory.records import EditDraft as MemoryDraft
from alignray.methods.lte.evaluation import (
    Entries,
    Moment,
    Question,
    Setting,
    Step,
    Tally,
    Unit,
    answered,
    grouped,
    moments,
    questions_of,
    shown,
    unedited,
)
from alignray.methods.lte.render import render_prompt
from alignray.methods.lte.sentiment import as_edit
from alignray.pipelines.edit_eval_config import BareConfig, EditEvalJobConfig, FineTunedConfig, PromptedConfig, identity_of
from alignray.pipelines.inspect_run import rewrite_report
from alignray.pipelines.lte import Source, edits_in
from alignray.pipelines.open_run import open_run, seconds_of
from alignray.pipelines.watch import Watch
from alignray.pipelines.webr_account import by_reason, funnel_rows, listed, reject_reasons, stage_counts
from alignray.prompts import load_prompt, prompt_names
from alignray.runtime.stages import read_stage
from alignray.schema import Edit, EditScore, Rejected, SentimentEdit, records_of
from alignray.seeding import draw, row_id_of
from alignray.train.edit_config import EditedModelConfig
from alignray.train.edited_model import EditedModel
from alignray.train.model import check_path

EDITS, OPINIONS, SCORED, ROWS = "edits", "opinions", "scored", "rows"
"""Stages of a run, in order."""
LEFT_OUT = ("probes_without_answer", "replies_left_out", "edits_without_other_topic")
"""What readers count beside records, for the notes."""
MOMENTS_OF_A_UNIT = 8
"""Batches of edits that one task trains a model on, each from the unedited weights."""
TIMED_EDITS = 50
"""Edits that are put into a memory of their own one after the other, to tell how long one takes."""
PROTOCOL = {
    "token": "share of the answer's tokens that are the most likely ones given all before them (teacher forcing; the authors' code)",
    "exact": "1 where all of them are, else 0 (Eq 5.1: the most likely answer is the target)",
    "said": "1 where the free-running answer begins with the target or an alias, but for case, articles and punctuation",
    "locality": "the same shares against what the same model says to the bare query before any edit; the gold answer need not be right",
    "sentiment": "of convsent, edit success in place of token: sigmoid(w - u) x min(1, e^(w - b)), w and u being the mean log-probability "
    "of all tokens of all replies of the wanted and of the other sentiment, each behind its question with the edits found for that one, "
    "and b w before the edit; in place of exact: 1 where w > u; said: none. So SERAC defines it; EasyEdit's port for decoder models "
    "scores each token by logits that have seen it, counts padding, and leaves out the beginnings of replies. Locality is as above and not "
    "SERAC's divergence. As in EasyEdit the reply that fine_tune trains on is among the wanted ones. The figures of all data sets leave "
    "convsent out",
    "fluency thesis": "(2/3 H2 + 4/3 H3) / 2 in bits, times 100, of the likeliest continuation of the prompt with its edit",
    "fluency original": "the same of the bare prompt and a continuation drawn among the 5 likeliest tokens, together at most 100 tokens",
    "mean": "over records, each the mean over its items; se is the standard error over records",
}
Chosen = dict[str, list[Edit]]


@dataclass
class Outcome:
    """How a run ended, for the command line and for ``--json``."""

    status: str
    """done or empty."""
    rows: int
    """Scored questions."""
    rejected: dict[str, int]
    evaluation: dict[str, Any]
    """Figures, retrieval, times, protocol and notes."""
    report: str
    run_dir: str
    message: str = ""
    funnel: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Run:
    """What every part of the story needs."""

    config: EditEvalJobConfig
    folder: RunFolder
    watch: Watch

    @property
    def root(self) -> str:
        return self.folder.root


def evaluate_edits(config: EditEvalJobConfig, *, new_run: bool = False, console: Console | None = None) -> Outcome:
    """Records in, scores of every method out. Running it again goes on where it stopped.

    Raises:
        ConfigError, RecordError, ResumeError: before any model is asked.
        EngineDown: the embedder cannot be used.
    """
    console = console or Console(stderr=True)
    for method in config.methods.values():
        check_path(method.model.path)
    prompts = {name: load_prompt(name).digest for name in prompt_names() if name.startswith("lte/")}
    identity = {"config": identity_of(config), "prompts": prompts}
    with open_run("edit-eval", config, identity, title="Edited models", new_run=new_run, console=console) as (folder, manifest, watch):
        run = Run(config, folder, watch)
        chosen = read(run)
        notes: Counter[str] = Counter()
        units = list(units_of(run, chosen, notes))
        score(run, units)
        tally = write(run)
    return _finish(run, manifest, chosen, tally, notes)


# ---- which records


def read(run: Run) -> Chosen:
    """The records of each data set that are taken, in the order in which they become edits.

    Raises:
        RecordError: there is none.
    """
    wanted = run.config.input
    files = {path: group.form for group in wanted.edits for path in group.paths}
    sources = [Source(row_id_of(uri, form)[:16], uri, form) for uri, form in files.items()]
    with run.watch.stage(EDITS, None) as advance:
        read_stage(
            sources, partial(edits_in, fetch=wanted.fetch), Edit, root=run.root, stage=EDITS, on_part=lambda part: advance(part["kept"]),
        )
        read_stage(
            [Source(row_id_of(uri, "convsent")[:16], uri, "convsent") for uri in dict.fromkeys(wanted.sentiment)],
            partial(_opinions, fetch=wanted.fetch, seed=run.config.seed), SentimentEdit, root=run.root, stage=OPINIONS,
            on_part=lambda part: advance(part["kept"]),
        )
    log = CommitLog(run.folder.storage)
    rows = {edit.row_id: edit for _, table in log.tables(EDITS) for edit in records_of(Edit, table)}
    rows |= {one.row_id: as_edit(one) for _, table in log.tables(OPINIONS) for one in records_of(SentimentEdit, table)}
    if not rows:
        reasons = listed(reject_reasons(run.folder, [EDITS, OPINIONS]))
        raise RecordError(f"no record is left to edit by; rejected: {reasons or 'nothing was read'}; look into {run.root}/rejects")
    chosen: Chosen = defaultdict(list)
    for edit in sorted(rows.values(), key=lambda edit: (edit.source, draw(run.config.seed, edit.row_id, "record"), edit.row_id)):
        if wanted.max_records is None or len(chosen[edit.source]) < wanted.max_records:
            chosen[edit.source].append(edit)
    return dict(chosen)


def _opinions(source: Source, counts: Counter[str], *, fetch: FetchConfig, seed: int) -> Iterator[SentimentEdit | Rejected]:
    return read_sentiment_edits(source.uri, fetch, counts, seed=seed)


# ---- what is asked


def units_of(run: Run, chosen: Chosen, notes: Counter[str]) -> Iterator[Unit]:
    """All work, in units whose names depend on nothing but what they hold."""
    config = run.config
    is_original = config.lte.evaluation.fluency != "thesis"
    prompted = {name: method for name, method in config.methods.items() if isinstance(method, PromptedConfig)}
    lookup = _Lookup(config, chosen, notes) if prompted else None
    for name, method in config.methods.items():
        for source, edits in chosen.items():
            when = _moments(config, len(edits), is_bare=isinstance(method, BareConfig))
            if isinstance(method, FineTunedConfig):
                yield from _trained_units(config, name, source, edits, when, is_original)
                continue
            questions: Iterator[Question]
            if isinstance(method, PromptedConfig):
                assert lookup is not None
                questions = lookup.questions(name, method, source, when)
            else:
                questions = (question for moment in when for question in _bare(config, name, edits, moment))
            for number, bag in enumerate(grouped(questions, config.unit_questions)):
                yield Unit(_unit_id(name, source, f"{number:05d}"), name, (Step((), bag),), is_original)


def _moments(config: EditEvalJobConfig, num: int, *, is_bare: bool = False) -> list[Moment]:
    editing = config.editing
    return moments(
        num, single=editing.single, batch=() if is_bare else editing.batch, stream=() if is_bare else editing.stream,
        when=config.lte.evaluation,
    )


def _bare(config: EditEvalJobConfig, name: str, edits: Sequence[Edit], moment: Moment) -> Iterator[Question]:
    for record in moment.scored:
        yield from _questions(config, name, edits[record], moment.setting)


def _questions(config: EditEvalJobConfig, name: str, edit: Edit, setting: Setting) -> list[Question]:
    writes = config.write.items if setting.mode in config.write.modes else "none"
    return questions_of(edit, setting, name, config.lte.evaluation, writes=writes)


def _unit_id(*parts: str) -> str:
    return f"{parts[0]}-{row_id_of(*parts)[:12]}"


def _trained_units(
    config: EditEvalJobConfig, name: str, source: str, edits: Sequence[Edit], when: Sequence[Moment], is_original: bool,
) -> Iterator[Unit]:
    """Batches start from the unedited weights, some in a unit; the stream is one unit, from the first edit to the last."""
    facts = [tuple((rewrite.prompt, rewrite.target) for rewrite in edit.rewrites) for edit in edits]
    apart = [moment for moment in when if moment.setting.mode != "sequential"]
    for start in range(0, len(apart), MOMENTS_OF_A_UNIT):
        steps = [
            Step(tuple(fact for record in moment.memory for fact in facts[record]), tuple(_bare(config, name, edits, moment)), True)
            for moment in apart[start : start + MOMENTS_OF_A_UNIT]
        ]
        yield Unit(_unit_id(name, source, "apart", f"{start:05d}"), name, tuple(steps), is_original)
    asked: dict[int, list[Question]] = defaultdict(list)
    for moment in when:
        if moment.setting.mode == "sequential":
            asked[moment.memory.stop - 1] += _bare(config, name, edits, moment)
    if asked:
        steps = [Step(facts[record], tuple(asked[record]), is_fresh=record == 0) for record in range(max(asked) + 1)]
        yield Unit(_unit_id(name, source, "stream"), name, tuple(steps), is_original)


class _Lookup:
    """The edits that each query gets, for the methods that put them into the prompt."""

    def __init__(self, config: EditEvalJobConfig, chosen: Chosen, notes: Counter[str]) -> None:
        self._config, self._chosen = config, chosen
        embedder = build_embedder(config.embedder, setting="embedder")
        self._edit_seconds = _seconds_of_an_edit(embedder, chosen)
        self._entries = {source: Entries(edits, key=config.lte.memory_key) for source, edits in chosen.items()}
        self._rows: dict[str, dict[str, int]] = {}
        self._cosines: dict[str, Any] = {}
        for source, edits in chosen.items():
            notes["superseded_in_its_data_set"] += self._entries[source].num_superseded
            any_setting = Setting("single", 1)
            queries = sorted({query for edit in edits for one in _questions(config, "", edit, any_setting) for query in one.queries})
            self._rows[source] = {query: row for row, query in enumerate(queries)}
            keys_ED = embedder.embed(self._entries[source].keys)
            self._cosines[source] = np.asarray(embedder.embed(queries) @ keys_ED.T, np.float32) if queries else np.empty((0, 0), np.float32)

    def questions(self, name: str, method: PromptedConfig, source: str, when: Sequence[Moment]) -> Iterator[Question]:
        """Every question of a method with its edits before it."""
        settings, entries, edits = self._config.lte, self._entries[source], self._chosen[source]
        for moment in when:
            is_single = moment.setting.mode == "single"
            form = "ice" if method.kind == "ice" else settings.form_for("single" if is_single else "stream")
            for record in moment.scored:
                for question in _questions(self._config, name, edits[record], moment.setting):
                    places: dict[str, Sequence[int]] = {
                        query: entries.of(record) if is_single else entries.find(
                            self._cosines[source][self._rows[source][query]], moment.memory, top_k=settings.top_k,
                            floor=settings.similarity_floor,
                        ) for query in question.queries
                    }
                    prompts = {
                        query: render_prompt([entries.facts[place] for place in found], query, form=method.form or form)
                        for query, found in places.items()
                    }
                    owners = [entries.owners[place] for place in places[question.row.query]]
                    yield shown(question, prompts, owners, self._edit_seconds)


def _seconds_of_an_edit(embedder: Embedder, chosen: Chosen) -> float:
    """Time until an edit can be found, each added by itself to a memory on the local disk."""
    rewrites = [rewrite for edits in chosen.values() for edit in edits for rewrite in edit.rewrites][:TIMED_EDITS]
    embedder.embed(["warm-up"])
    with tempfile.TemporaryDirectory() as path, EditMemory(MemoryConfig(path=path, embedder=embedder.name), embedder=embedder) as memory:
        began = time.perf_counter()
        for rewrite in rewrites:
            memory.add(MemoryDraft(rewrite.subject, rewrite.prompt, rewrite.target, rewrite.relation))
        return (time.perf_counter() - began) / len(rewrites)


# ---- scores


def score(run: Run, units: Sequence[Unit]) -> None:
    """Every unit that is not committed yet, a task each."""
    config = run.config
    gpus = config.gpus_per_task
    if gpus is None:
        gpus = float(ray.cluster_resources().get("GPU", 0) > 0 and any(method.model.device != "cpu" for method in config.methods.values()))
    with run.watch.stage("score", sum(len(step.questions) for unit in units for step in unit.steps)) as advance:
        read_stage(
            units, partial(_scores, config=config), EditScore, root=run.root, stage=SCORED, on_part=lambda part: advance(part["kept"]),
            num_cpus=config.cpus_per_task, num_gpus=gpus,
        )


@lru_cache(maxsize=1)
def _model(config: str) -> EditedModel:
    return EditedModel(EditedModelConfig.model_validate_json(config))


def _scores(unit: Unit, counts: Counter[str], *, config: EditEvalJobConfig) -> Iterator[EditScore | Rejected]:
    method = config.methods[unit.method]
    model = _model(method.model.model_dump_json())
    model.restore()
    unit, refused = _askable(model, unit)
    yield from refused
    if not any(step.questions for step in unit.steps):
        return
    before = unedited(model, unit)
    ask: Callable[..., Iterator[EditScore]] = partial(
        answered, model, before=before, max_new_tokens=config.write.max_new_tokens, is_original=unit.is_original, seed=config.seed,
    )
    for step in unit.steps:
        seconds: float | None = None
        if step.facts:
            assert isinstance(method, FineTunedConfig), "only these units hold facts to train on"
            if step.is_fresh:
                model.restore()
            seconds = model.edit(step.facts, method.fine_tune).seconds / len(step.facts)
        yield from ask(step.questions, edit_seconds=seconds)
    model.restore()


def _askable(model: EditedModel, unit: Unit) -> tuple[Unit, list[Rejected]]:
    """A unit without what is too long for the model; facts too, which then are no edits and whose questions are rejected as well."""
    refused: list[Rejected] = []
    steps = []
    for step in unit.steps:
        bad_facts = [why for prompt, target in step.facts if (why := model.why_not(prompt, target))]
        questions = []
        for question in step.questions:
            why = next(filter(None, (*bad_facts, *(model.why_not(*pair) for pair in question.pairs))), "")
            if why:
                detail = orjson.dumps({"method": unit.method, "edit_id": question.row.edit_id, "error": why}).decode()
                raw = question.row.prompt[: Rejected.RAW_LIMIT]
                refused.append(Rejected(question.row.row_id, "edit-eval/score", "cannot_be_asked", raw, detail))
            else:
                questions.append(question)
        facts = tuple(fact for fact in step.facts if not bad_facts or not model.why_not(*fact))
        steps.append(dataclasses.replace(step, facts=facts, questions=tuple(questions)))
    return dataclasses.replace(unit, steps=tuple(steps)), refused


def write(run: Run) -> Tally:
    """The scored rows as the run's data, and what they come to."""
    log, tally = CommitLog(run.folder.storage), Tally()
    for commit in log.read(ROWS):
        log.remove(commit)
    for commit in log.read(SCORED):
        table = log.table(commit)
        if table is not None:
            for row in records_of(EditScore, table):
                tally.add(row, top_k=run.config.lte.top_k)
            log.write(ROWS, commit.name, {"rows": ("parts", table)}, {"kept": len(table), "rejected": 0})
    return tally


# ---- the end


def _finish(run: Run, manifest: dict[str, Any], chosen: Chosen, tally: Tally, notes: Mapping[str, int]) -> Outcome:
    """Manifest, report and card; all from the run folder's files."""
    folder, config = run.folder, run.config
    CommitLog(Storage(run.root)).sweep(("parts", "rejects"))
    status = "done" if tally.num_rows else "empty"
    seen, scored = stage_counts(folder, EDITS) + stage_counts(folder, OPINIONS), stage_counts(folder, SCORED)
    num_taken = sum(map(len, chosen.values()))
    funnel = funnel_rows([
        ("read", seen["records"], seen["kept"], by_reason(seen)),
        ("records", seen["kept"], num_taken, {"over_max_records": seen["kept"] - num_taken}),
        ("score", scored["kept"] + scored["rejected"], scored["kept"], by_reason(scored)),
    ])
    evaluation = {
        "protocol": PROTOCOL | {"items": config.lte.evaluation.items, "top_k": str(config.lte.top_k), "memory_key": config.lte.memory_key},
        "datasets": {source: {"records": len(edits)} for source, edits in chosen.items()},
        "methods": {
            name: {"kind": method.kind, "model": method.model.path} | (
                {"form": method.form or ("ice" if method.kind == "ice" else config.lte.form_for("stream"))}
                if isinstance(method, PromptedConfig) else {}
            ) for name, method in config.methods.items()
        },
        "figures": tally.figures(), "retrieval": tally.retrieval(), "times": tally.times(),
        "notes": {name: count for name, count in ({name: seen[name] for name in LEFT_OUT} | dict(notes)).items() if count},
    }
    manifest.update({
        "status": status, "finished": now(), "message": "", "funnel": funnel, "edit_eval": evaluation,
        "seconds": seconds_of(manifest, run.watch), "result": {"rows": tally.num_rows},
    })
    folder.write_manifest(manifest)
    return Outcome(
        status=status, rows=tally.num_rows, rejected=dict(reject_reasons(folder, [EDITS, OPINIONS, SCORED])), evaluation=evaluation,
        report=rewrite_report(folder.root), run_dir=folder.root, funnel=funnel,
    )


def table_of_figures(evaluation: Mapping[str, Any], measures: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One row for every method, data set and setting, with a column for each of the four metrics.

    Args:
        measures: which definition of a metric; the authors' token accuracy and agreement, and the thesis' fluency, where nothing is said.
    """
    wanted = {"edit_success": "token", "portability": "token", "locality": "token", "fluency": "thesis"} | dict(measures or {})
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in evaluation["figures"]:
        names = ("source", "mode", "size", "when", "method")
        row = rows.setdefault(tuple(one[name] for name in names), {name: one[name] for name in names})
        if wanted[one["metric"]] == one["measure"]:
            row[one["metric"]] = one["mean"]
    return [rows[key] for key in sorted(rows)]
