"""The books of a Lion run, kept from its folder's files: what each round came to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignray.io.commits import CommitLog
from alignray.io.run_folder import RunFolder
from alignray.methods.lion.steps import REFEREE_STEP, UNREADABLE
from alignray.methods.lion.summary import round_figures, samples
from alignray.pipelines.lion_config import STUDENT
from alignray.pipelines.lion_stages import (
    DRAWN,
    JUDGED,
    NEW,
    SEEDS,
    TAUGHT,
    WRITTEN,
    Run,
    cache_pool,
    drafts_at,
    hard_and_easy,
    stage,
    train_pool,
)
from alignray.pipelines.webr_account import by_reason, funnel_rows, stage_counts, usage_of
from alignray.report.verb_nouns import verb_noun_structure
from alignray.schema import LionDraft

BENCHMARKS, RESULT = "benchmarks", "lion.json"
NUM_SAMPLES = 12
"""Hard, easy and quarantined instructions shown of each round, each."""
_OF_ROUND = re.compile(r"(?P<name>.+)/round_(?P<round>\d+)\Z")


def stages_of(run: Run) -> list[str]:
    """Every stage that turned records down."""
    return [SEEDS, *(stage(name, number) for number in range(1, run.config.rounds + 2) for name in (TAUGHT, JUDGED, WRITTEN, NEW))]


def round_state(run: Run, round_: int) -> dict[str, Any]:
    """What a round has come to so far: pools, shares, gaps, referee, new instructions, training, benchmarks, cost."""
    judged = list(drafts_at(run, stage(JUDGED, round_)))
    told = stage_counts(run.folder, stage(JUDGED, round_))
    quarantined, unreadable = told["rejected"], told[f"rejected/{REFEREE_STEP}/{UNREADABLE}"]
    drawn, new = stage_counts(run.folder, stage(DRAWN, round_)), stage_counts(run.folder, stage(NEW, round_))
    texts = {"cache": _texts(judged)} if judged else {}
    if judged:
        texts["hard"] = _texts(hard_and_easy(run, round_)[0])
        texts["generated"] = _texts(drafts_at(run, stage(NEW, round_)))
    return {
        "round": round_, "train_pool": len(train_pool(run, round_)), "cache_pool": len(cache_pool(run, round_)),
        **round_figures(judged, run.config.lion, quarantined=quarantined, refused=quarantined - unreadable),
        "verb_nouns": {name: verb_noun_structure(found) for name, found in texts.items()},
        "generated": {
            "drawn": drawn["kept"], "hard": new["kept_hard"], "easy": new["kept_easy"],
            "rejected": dict(Counter(by_reason(stage_counts(run.folder, stage(WRITTEN, round_)))) + Counter(by_reason(new))),
        } if drawn["kept"] else None,
        "train": _training(run, round_), "usage": _usage(run.folder, round_), "benchmarks": _benchmarks(run, round_), "stopped": "",
    }


def _texts(drafts: Iterable[LionDraft]) -> list[str]:
    return [draft.instruction for draft in drafts]


def _training(run: Run, round_: int) -> dict[str, Any] | None:
    manifest = RunFolder(run.folder.storage.path(f"students/{stage('round', round_)}")).manifest()
    if manifest is None or manifest["status"] != "done":
        return None
    result = manifest["result"]
    return {
        "rows": result["rows"], "steps": result["steps"], "loss": result["metrics"].get("loss"),
        "run_dir": f"students/{stage('round', round_)}",
    }


def _usage(folder: RunFolder, round_: int) -> dict[str, dict[str, Any]]:
    """Calls, tokens and dollars of a round by role."""
    totals: dict[str, Counter[str]] = {}
    for name, step in usage_of(folder, lost_usd=0.0)["steps"].items():
        found = _OF_ROUND.match(name)
        if found is not None and int(found["round"]) == round_:
            own = totals.setdefault(step["role"], Counter())
            own.update({key: step[key] for key in ("calls", "prompt_tokens", "completion_tokens", "usd")})
    return {role: dict(counts) for role, counts in totals.items()}


def _benchmarks(run: Run, round_: int) -> dict[str, dict[str, Any]]:
    """The first figure of each benchmark over all its items."""
    analysis = RunFolder(run.folder.storage.path(f"{BENCHMARKS}/{stage('round', round_)}")).read_json("analysis.json")
    measured: Mapping[str, Any] = ((analysis or {}).get("candidates") or {}).get(STUDENT) or {}
    found = {}
    for name, benchmark in measured.items():
        overall = [figure for figure in benchmark["figures"] if not figure["category"] and figure["value"] is not None]
        if overall:
            found[name] = {key: overall[0][key] for key in ("metric", "value", "low", "high")}
    return found


def samples_of(run: Run, rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Some hard, easy and quarantined instructions of each round, with answers and reviews."""
    found: list[dict[str, Any]] = []
    log = CommitLog(run.folder.storage)
    for state in rounds:
        number = state["round"]
        judged = list(drafts_at(run, stage(JUDGED, number)))
        found += [{**sample, "round": number} for sample in samples(judged, run.config.lion, NUM_SAMPLES, run.config.seed)]
        rejected = [row for _, table in log.tables(stage(JUDGED, number), "rejects") for row in table.to_pylist()]
        wanted = {row["row_id"]: row for row in sorted(rejected, key=lambda row: row["row_id"])[:NUM_SAMPLES]}
        found += [
            {
                "round": number, "kind": "quarantined", "row_id": draft.row_id, "instruction": draft.instruction, "origin": draft.origin,
                "category": draft.category, "teacher": draft.teacher, "student": "", "gap": None,
                "reviews": [{
                    "step": wanted[draft.row_id]["step"], "teacher": None, "student": None,
                    "text": wanted[draft.row_id]["raw"] or wanted[draft.row_id]["reason"],
                }],
            }
            for earlier in range(1, number + 1 if wanted else 0) for draft in drafts_at(run, stage(TAUGHT, earlier))
            if draft.row_id in wanted
        ]
    return found


def funnel_of(run: Run, rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records read to instructions kept: at each stage of each round what came in, what stayed, and what was lost by reason."""
    seeds = stage_counts(run.folder, SEEDS)
    num_seeds = rounds[0]["train_pool"] if rounds else 0
    rows: list[tuple[str, int, int, Mapping[str, int]]] = [
        ("read", seeds["records"], seeds["kept"], by_reason(seeds)),
        ("seeds", seeds["kept"], num_seeds, {"duplicate_or_over_max_seeds": seeds["kept"] - num_seeds}),
    ]
    for state in rounds:
        number = state["round"]
        taught, judged = stage_counts(run.folder, stage(TAUGHT, number)), stage_counts(run.folder, stage(JUDGED, number))
        rows.append((f"teacher {number}", state["train_pool"], taught["kept"], _lost(taught, state["train_pool"])))
        if judged["kept"] + judged["rejected"]:
            rows.append((f"judge {number}", state["cache_pool"], judged["kept"], _lost(judged, state["cache_pool"])))
        if state["generated"] is not None:
            made = state["generated"]
            kept = made["hard"] + made["easy"]
            asked = {**made["rejected"], "not_asked_yet": made["drawn"] - kept - sum(made["rejected"].values())}
            rows.append((f"generator {number}", made["drawn"], kept, asked))
    return funnel_rows(rows)


def _lost(counts: Counter[str], before: int) -> dict[str, int]:
    return {**by_reason(counts), "not_asked_yet": before - counts["kept"] - counts["rejected"]}
