"""Run folders made up for tests: real parquet, a full manifest, and texts that try to break out of the page."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from alignray.report.analysis import DIFFICULTY_LEVELS, QUALITY_LEVELS, analyze
from alignray.schema import InstructionRow, Message, Rejected, table_of
from alignray.seeding import row_id_of

HOSTILE = (
    "</pre></script><script>document.title='pwned';alert(1)</script><img src=x onerror=\"document.title='pwned'\">"
    "<svg onload=\"document.title='pwned'\"><iframe src=\"https://evil.example/\"></iframe> {{ 7*7 }} {% raw %} ${7*7} "
    "<style>body{display:none}</style> \" ' & \x07 \u202e reversed"
)
HOSTILE_URL = "javascript:document.title='pwned'"

_VERBS = ("write", "create", "summarize", "explain", "rewrite", "describe", "list", "design", "develop", "compare", "draft",
          "identify", "generate", "outline", "translate", "analyze", "suggest", "classify", "compose", "calculate", "edit",
          "provide", "give", "evaluate")
_NOUNS = ("essay", "story", "plan", "concept", "text", "process", "example", "system", "guide", "difference", "letter",
          "article", "recipe", "policy", "lesson", "report")
_PLACES = ("the harbour of a small town", "a school garden", "river floods in spring", "rail freight", "a family bakery",
           "code maintainers", "night nurses", "mountain weather", "tax rules for freelancers", "early radio")
_TEXT = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they",
    "which one you were all her she there would their we him been has when who will no more if out so up said what",
    "its about than into them can only other time new some could these two may first then do any like my now over",
    "such our man me even most made after also did many off before must well back through years where much your way",
    "down should because long each just those people how too little state good very make world still see own work",
    "men day get here old life both between being under three never know same last another while us might great go",
    "come since against right",
)
_WORDS = " ".join(_TEXT).split()


def build_run(
    run_dir: Path,
    *,
    num_rows: int = 240,
    status: str = "done",
    hostile: bool = True,
    num_parts: int = 3,
    with_plan: bool = True,
    with_analysis: bool = True,
    seed: int = 7,
) -> Path:
    """A run folder with ``num_rows`` rows, two thirds of them WI, and everything the contract names."""
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = make_rows(num_rows, seed=seed, hostile=hostile)
    write_parts(run_dir, rows, num_parts=num_parts)
    rejected = make_rejects(hostile=hostile)
    (run_dir / "rejects").mkdir(exist_ok=True)
    pq.write_table(table_of(Rejected, rejected), run_dir / "rejects" / "rejects-0000.parquet")
    manifest = make_manifest(rows, status=status, hostile=hostile, with_plan=with_plan)
    (run_dir / "manifest.json").write_text(json.dumps(manifest, indent=1))
    (run_dir / "config.yaml").write_text(yaml.safe_dump(make_config(seed, hostile=hostile), sort_keys=False))
    if with_analysis:
        (run_dir / "analysis.json").write_text(json.dumps(make_analysis(rows, seed=seed)))
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in make_metrics()) + '{"t": 17000')
    return run_dir


def write_parts(run_dir: Path, rows: list[InstructionRow], *, num_parts: int = 3) -> None:
    (run_dir / "parts").mkdir(parents=True, exist_ok=True)
    size = math.ceil(len(rows) / num_parts) or 1
    for number, start in enumerate(range(0, len(rows), size)):
        table = table_of(InstructionRow, rows[start : start + size])
        pq.write_table(table, run_dir / "parts" / f"part-{number:05d}.parquet", row_group_size=37)


def make_rows(num_rows: int, *, seed: int = 7, hostile: bool = True) -> list[InstructionRow]:
    rng = random.Random(seed)
    rows = [_make_row(number, rng) for number in range(num_rows)]
    if hostile:
        rows = [_spoil(row) if number % 5 == 0 else row for number, row in enumerate(rows)]
    return rows


def _make_row(number: int, rng: random.Random) -> InstructionRow:
    verb = rng.choices(_VERBS, weights=[1 / (rank + 2) for rank in range(len(_VERBS))])[0]
    nouns = rng.sample(_NOUNS, 6)
    noun = rng.choices(nouns, weights=(8, 5, 3, 2, 1, 1))[0]
    place = rng.choice(_PLACES)
    instruction = (
        f"As a curious reader, I need you to {verb} a {noun} about {place}. "
        f"Keep it under {rng.choice((50, 100, 150, 200))} words, use short paragraphs and a friendly tone."
    )
    if rng.random() < 0.5:
        instruction = f"{verb.capitalize()} a detailed {noun} about {place} with {rng.randint(2, 6)} sections and one example."
    branch = "response" if number % 3 == 2 else "instruction"
    layout = "request_only" if branch == "response" else rng.choice(("doc_first", "request_first"))
    text = _prose(rng, int(rng.lognormvariate(5.6, 0.6)))
    halves = {"request_only": (instruction,), "doc_first": (text, instruction), "request_first": (instruction, text)}[layout]
    turn = "\n\n".join(halves)
    response = _prose(rng, int(rng.lognormvariate(5.0, 0.5)))
    return InstructionRow(
        row_id=row_id_of("test", str(number)),
        messages=(Message("user", turn), Message("assistant", response)),
        branch=branch, part=rng.random() < 0.5, layout=layout,
        persona="A retired harbour pilot who writes about tides, ships and the people who mend them.",
        instruction=instruction, source="common_crawl", url=f"https://site{number % 17}.example/pages/{number}?q=a&b=c#top",
        file=f"crawl-data/CC-MAIN-2024-22/segments/0/warc/CC-MAIN-0000{number % 4}.warc.gz", offset=1_000_003 * number,
        record_id=f"<urn:uuid:{number:08d}-0000-4000-8000-000000000000>", digest=f"sha1:{number:032X}",
        date="2024-05-20T10:11:12Z", language="en", optout="", model="small-model-1",
        prompt_tokens=900 + number, completion_tokens=400 + number, cost_usd=0.00021, cluster_size=1 + (number % 11 == 0) * 3,
    )


def _spoil(row: InstructionRow) -> InstructionRow:
    instruction = f"{row.instruction} {HOSTILE}"
    user, assistant = row.messages
    turn = user.content.replace(row.instruction, instruction)
    if row.layout != "request_only":
        text = turn.replace(instruction, "").strip()
        spoiled = f"{HOSTILE}\n\n{text}"
        turn = f"{spoiled}\n\n{instruction}" if row.layout == "doc_first" else f"{instruction}\n\n{spoiled}"
    return replace(
        row, instruction=instruction, messages=(Message("user", turn), Message("assistant", f"{HOSTILE}\n{assistant.content}")),
        persona=f"{row.persona} {HOSTILE}", url=HOSTILE_URL, file=f"{row.file}{HOSTILE}", optout='{"robots": "<b>noai</b>"}',
    )


def _prose(rng: random.Random, num_words: int) -> str:
    paragraphs, left = [], max(num_words, 12)
    while left > 0:
        size = min(left, rng.randint(30, 80))
        words = rng.choices(_WORDS, k=size)
        paragraphs.append(" ".join(words).capitalize() + ".")
        left -= size
    return "\n\n".join(paragraphs)


def make_rejects(*, hostile: bool = True) -> list[Rejected]:
    counts = {
        ("ingest", "not_html"): 640, ("ingest", "too_short"): 212, ("ingest", "language"): 180, ("ingest", "optout"): 41,
        ("ingest", "undecodable"): 3, ("webr/persona", "empty"): 4, ("webr/instruction", "refusal"): 9,
        ("webr/response", "refusal"): 6, ("webr/response", "length"): 11, ("webr/dedup", "near_duplicate"): 27,
        ("webr/quota", "over_quota"): 12,
    }
    raw = {
        "refusal": "I'm sorry, but I can't help with that request.",
        "near_duplicate": "Write a detailed essay about early radio with three sections and one example.",
        "not_html": "", "too_short": "Page not found. " + (HOSTILE if hostile else ""), "length": "word " * 400,
    }
    return [
        Rejected(row_id_of(step, reason, str(number)), step, reason, raw.get(reason, "Some text that was turned down."),
                 json.dumps({"file": "CC-MAIN-00001.warc.gz", "offset": 4711 * number}))
        for (step, reason), count in counts.items() for number in range(count)
    ]


def make_manifest(rows: list[InstructionRow], *, status: str, hostile: bool, with_plan: bool) -> dict[str, Any]:
    n = len(rows)
    branches = {name: sum(row.branch == name for row in rows) for name in ("instruction", "response")}
    steps = {
        "webr/persona": ("author", n + 60, 523, 32), "webr/instruction": ("author", n + 55, 711, 123),
        "webr/response": ("rewriter", n + 50, 611, 392), "webr/refine": ("rewriter", n // 3, 1155, 591),
    }

    def cost(calls: int, prompt: int, completion: int) -> float:
        return (calls * prompt * 0.075 + calls * completion * 0.3) / 1e6

    usage = {
        name: {"role": role, "calls": calls, "replayed": 12 if name == "webr/persona" else 0, "prompt_tokens": calls * prompt,
               "completion_tokens": calls * completion, "usd": cost(calls, prompt, completion)}
        for name, (role, calls, prompt, completion) in steps.items()
    }
    plan = {
        name: {"calls": round(calls * 1.08), "prompt_tokens": round(calls * prompt * 1.1),
               "completion_tokens": round(calls * completion * 0.95), "usd": cost(calls, prompt, completion) * 1.05}
        for name, (_, calls, prompt, completion) in steps.items()
    }
    total = sum(step["usd"] for step in usage.values())
    planned = sum(step["usd"] for step in plan.values())
    return {
        "method": "webr", "name": f"harbour <b>run</b> {HOSTILE[:60]}" if hostile else "harbour", "status": status,
        "alignray": "0.1.0", "versions": {"ray": "2.60.1", "pyarrow": "26.0.1", "python": "3.11.2", "alignray": "0.1.0"},
        "fingerprint": "0123456789abcdef", "started": "2026-11-20T09:00:00Z",
        "finished": None if status == "running" else "2026-11-20T09:42:11Z",
        "seconds": {"ingest": 31.2, "synthesize": 2301.5, "dedup": 4.25, "quota": 0.8},
        "funnel": [
            {"stage": "ingest", "in": 1076 + n + 100, "kept": n + 100,
             "rejected": {"not_html": 640, "too_short": 212, "language": 180, "optout": 41, "undecodable": 3}},
            {"stage": "select", "in": n + 100, "kept": n + 69, "rejected": {"not_selected": 31}},
            {"stage": "synthesize", "in": n + 69, "kept": n + 39, "rejected": {"refusal": 15, "length": 11, "empty": 4}},
            {"stage": "dedup", "in": n + 39, "kept": n + 12, "rejected": {"near_duplicate": 27}},
            {"stage": "quota", "in": n + 12, "kept": n, "rejected": {"over_quota": 12}},
        ],
        "ingest": {"records": {"response": 1076 + n + 100, "request": 1400, "warcinfo": 4}, "not_pages": 640, "damage": 3,
                   "optout": {"policy": "respect", "robots_meta": 30, "x_robots_tag": 9, "tdm": 2}},
        "usage": {"steps": usage, "usd": total, "lost_in_flight_usd": 0.0004},
        "plan": {"steps": plan, "usd": planned, "low_usd": planned * 0.8, "high_usd": planned * 1.3} if with_plan else None,
        "dedup": {**make_dedup_stats(), "candidates": 96, "verified": 41, "clusters": 22, "removed": 27, "exact_duplicate": 3,
                  "near_duplicate": 24, "exact_copies": 3, "rows": n + 39, "clustered": 49, "largest_cluster": 4},
        "result": {"rows": n, "branches": branches, "part": sum(row.part for row in rows)},
    }


def make_config(seed: int, *, hostile: bool) -> dict[str, Any]:
    return {
        "name": "harbour", "seed": seed, "preset": "thesis",
        "sources": [{"path": "crawl-data/*.warc.gz", "weight": 70, "note": HOSTILE if hostile else ""}],
        "optout": "respect", "roles": {"author": {"engine": "openai", "model": "small-model-1", "temperature": 0.7}},
    }


def make_analysis(rows: list[InstructionRow], *, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(len(rows), 32)) + 0.35
    ratings = [
        {"quality": QUALITY_LEVELS[q], "difficulty": DIFFICULTY_LEVELS[d]}
        for q, d in zip(rng.choice(5, len(rows), p=(0.02, 0.08, 0.2, 0.45, 0.25)),
                        rng.choice(5, len(rows), p=(0.1, 0.3, 0.4, 0.15, 0.05)), strict=True)
    ]
    return dict(analyze(rows, embeddings, [*ratings, {"quality": "splendid", "difficulty": None}]))


def make_metrics() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    rng, t = random.Random(1), 1_795_000_000.0
    for tick in range(8):
        t += 4
        lines.append({"t": t, "stage": "ingest", "done": tick * 180, "total": 1416, "calls": 0, "prompt_tokens": 0,
                      "completion_tokens": 0, "usd": 0.0, "in_flight": 0})
    calls = prompt = completion = done = 0
    for tick in range(230):
        t += 10 if tick != 90 else 7200
        made = rng.randint(2, 7)
        calls, prompt, completion, done = calls + made, prompt + made * 650, completion + made * 300, done + made // 3
        lines.append({"t": t, "stage": "synthesize", "done": done, "total": 309, "calls": calls, "prompt_tokens": prompt,
                      "completion_tokens": completion, "usd": completion * 3e-7, "in_flight": rng.randint(20, 32)})
    return lines


CLUSTER_SIZES = (40, 17, 9, 9, 5, 5, 4, 4, 3, 3, 3, *[2] * 60)


def build_dedup_run(
    run_dir: Path, *, status: str = "done", hostile: bool = True, num_clusters: int = len(CLUSTER_SIZES), as_json: bool = False,
    is_measured: bool = True,
) -> Path:
    """A run folder of ``alignray dedup``: 500 lone rows, clusters as in CLUSTER_SIZES, hits of two benchmarks, two bad rows."""
    rng = random.Random(3)
    bad = f" {HOSTILE}" if hostile else ""
    clusters, rejects = [], []
    rows = [{"id": f"lone-{number}", "text": _prose(rng, 40), "n": number} for number in range(500 if num_clusters else 0)]
    for cluster, size in enumerate(CLUSTER_SIZES[:num_clusters]):
        text, keeper = f"{_prose(rng, 90)}{bad}", f"c{cluster:03d}-000{bad if cluster == 1 else ''}"
        rows.append({"id": keeper, "text": text, "n": cluster})
        for number in range(size):
            row_id = keeper if number == 0 else f"c{cluster:03d}-{number:03d}{bad if cluster == 1 else ''}"
            reason = "" if number == 0 else "exact_duplicate" if number % 3 == 1 else "near_duplicate"
            row = 1000 + 50 * cluster + number
            clusters.append({"row_id": row_id, "row": row, "keeper": keeper, "cluster_size": size, "kept": number == 0, "reason": reason})
            if reason:
                changed = text if reason == "exact_duplicate" else f"{number} times changed. {text}"
                detail = {"file": f"/data/pages{bad}.parquet", "from_byte": 0, "row": row, "keeper": keeper, "cluster_size": size}
                rejects.append(Rejected(row_id, "dedup", reason, changed, json.dumps(detail)))
    rejects.append(Rejected("x1", "dedup", "empty_text", "", '{"file": "a", "from_byte": 0, "row": 1}'))
    rejects.append(Rejected("x2", "dedup", "bad_row", f"{{{bad}", '{"file": "a", "from_byte": 0, "row": 2}'))
    for folder in ("parts", "rejects", "clusters", "hits"):
        (run_dir / folder).mkdir(parents=True, exist_ok=True)
    if as_json:
        (run_dir / "parts" / "0123-00000-aa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif rows:
        pq.write_table(pa.Table.from_pylist(rows), run_dir / "parts" / "0123-00000-aa.parquet")
    pq.write_table(table_of(Rejected, rejects), run_dir / "rejects" / "0123-00000-bb.parquet")
    if clusters:
        for place in range(2):
            table = pa.Table.from_pylist(clusters[place::2])
            pq.write_table(table, run_dir / "clusters" / f"0123-{place:05d}-cc.parquet")
        pq.write_table(pa.Table.from_pylist(_hits(bad)), run_dir / "hits" / "0123-00000-dd.parquet")
    removed = sum(size - 1 for size in CLUSTER_SIZES[:num_clusters])
    manifest = make_dedup_manifest(len(rows), removed, status=status, hostile=hostile, is_measured=is_measured)
    (run_dir / "manifest.json").write_text(json.dumps(manifest, indent=1))
    (run_dir / "config.yaml").write_text(yaml.safe_dump(make_dedup_config(bad), sort_keys=False))
    (run_dir / "metrics.jsonl").write_text('{"t": 1795000000.0, "stage": "sign", "done": 10, "total": 0}\n')
    return run_dir


def _hits(bad: str) -> list[dict[str, Any]]:
    return [
        {"row_id": f"lone-{number}", "row": number, "benchmark": benchmark, "item": f"item/{number}{bad}",
         "matched": f"the quick brown fox jumps over the lazy dog again and again, {number} times{bad}",
         "num_grams": number, "share": number / 10}
        for benchmark, count in (("gsm8k", 5), (f"mt-bench{bad}", 2)) for number in range(1, count + 1)
    ]


def make_quality(**more: Any) -> dict[str, Any]:
    """What planted pairs told, as the manifest says it; 297 of 300 found at the threshold and 100 of 100 above."""
    return {
        "num_at": 300, "found_at": 297, "recall": 0.99, "recall_low": 0.97106, "recall_high": 0.99793,
        "num_above": 100, "found_above": 100, "recall_above": 1.0, "recall_above_low": 0.96378, "recall_above_high": 1.0,
        "num_below": 100, "found_below": 0, "precision": 1.0, "precision_low": 0.99075, "precision_high": 1.0,
        "wanted_recall": 0.99, "is_missed": False, **more,
    }


def make_dedup_stats(**more: Any) -> dict[str, Any]:
    return {
        "bands": 17, "rows_per_band": 4, "threshold": 0.7, "verify": "exact", "candidates": 1320, "verified": 611, "capped": 0,
        "max_bucket": 100, "quality": make_quality(), "exact_copies": 90, "removed": 160, "exact_duplicate": 60, "near_duplicate": 100,
        "clusters": len(CLUSTER_SIZES), "largest_cluster": max(CLUSTER_SIZES), "rows": 731, "against": [], "rows_earlier": 0,
        "clustered": sum(CLUSTER_SIZES), **more,
    }


def make_dedup_manifest(kept: int, removed: int, *, status: str, hostile: bool, is_measured: bool = True) -> dict[str, Any]:
    exact = removed // 3
    bad = HOSTILE if hostile else ""
    begun = {
        "method": "dedup", "name": f"harbour <b>dedup</b> {HOSTILE[:60]}" if hostile else "harbour", "status": status,
        "alignray": "0.1.0", "versions": {"ray": "2.60.1", "pyarrow": "26.0.1", "python": "3.11.2"}, "started": "2026-11-20T09:00:00Z",
    }
    if status == "running":
        return begun
    stats = make_dedup_stats(
        removed=removed, exact_duplicate=exact, near_duplicate=removed - exact, rows=kept + removed, against=[f"runs/earlier{bad}"],
        rows_earlier=1200, capped=3, quality=make_quality() if is_measured else None,
    )
    return {
        **begun, "finished": "2026-11-20T09:04:11Z", "message": f"3 benchmark items are too short to be looked for {bad}",
        "seconds": {"sign": 31.2, "link": 12.25, "write": 4.5},
        "funnel": [
            {"stage": "read", "in": kept + removed + 2, "kept": kept + removed, "rejected": {"empty_text": 1, "bad_row": 1}},
            {"stage": "dedup", "in": kept + removed, "kept": kept,
             "rejected": {"exact_duplicate": exact, "near_duplicate": removed - exact}},
        ],
        "dedup": stats, "contaminated": {"gsm8k": 5, f"mt-bench {bad}".strip(): 2}, "retracted": 7,
        "decontamination": {"items": 1400, "too_short": 3, "n": 13}, "result": {"rows": kept},
    }


def make_dedup_config(bad: str) -> dict[str, Any]:
    return {
        "seed": 0, "input": {"paths": ["/data/*.parquet"], "text_columns": ["text"], "id_column": "id"},
        "minhash": {"unit": "word", "n": 5, "num_perm": 128, "threshold": 0.7, "recall": 0.99, "bands": None, "verify": "exact"},
        "against": [f"runs/earlier{bad}"], "prefer": "best", "num_planted": 500,
        "decontamination": {"action": "report", "benchmarks": [{"name": "gsm8k"}, {"name": f"humaneval{bad}"}]},
    }
