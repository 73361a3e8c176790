"""The report of an evaluation: candidates by benchmarks, curves and radars, and every item with its answer and verdicts to browse."""

from __future__ import annotations

import base64
import hashlib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from alignray.report.eval_figures import (
    Results,
    benchmark_section,
    comparison_rows,
    judge_total,
    legend,
    main_table,
    num_unscored,
    read_results,
    readable,
)
from alignray.report.page import MISSING, cut, environment, frame, is_number, labelled, number, percent
from alignray.report.run_folder import RunFolder, batches, num_rows, reject_reasons
from alignray.report.webr_page import rows_and_cost, throughput, usage
from alignray.schema import Message, ScoredItem, records_of
from alignray.seeding import draw

MAX_ITEMS = 5000
"""Items that can be browsed; the others are counted and stay in parts/."""
MAX_BYTES = 15_000_000
"""Of the browsed items as JSON, which is nearly all of the file."""
TEXT_LIMITS = (8000, 4000, 2000, 1000, 400)
"""Characters of one text, the most that keeps within MAX_BYTES; where the least does not, fewer items are shown."""
MAX_TURNS, MAX_SCORES = 24, 60
"""Messages, replies and scores of one item."""


def eval_page(run: RunFolder) -> dict[str, Any]:
    """What evaluation.html shows."""
    results = read_results(run)
    facts = [
        ("Benchmarks", [(name, number(results.about(name).get("items"))) for name in results.benchmarks]),
        ("Seconds by stage", labelled(run.manifest.get("seconds"))), ("Versions", labelled(run.manifest.get("versions"))),
    ]
    return {
        **frame(run, tiles=_tiles(run, results), facts=facts, rejects=reject_reasons(run)),
        "notes": _notes(run, results), "candidates": results.candidates, "legend": legend(results.candidates), "main": main_table(results),
        "comparisons": comparison_rows(results), "benchmarks": [benchmark_section(results, name) for name in results.benchmarks],
        "usage": usage(run), "throughput": throughput(run.metrics), "verdicts": verdict_list(run), "browser": browser_script(),
    }


def _tiles(run: RunFolder, results: Results) -> list[dict[str, str]]:
    note = f"{_counted(len(results.candidates), 'candidate')}, {_counted(len(results.benchmarks), 'benchmark')}"
    failed, judged = judge_total(results)
    unscored = num_unscored(results)
    return [
        *rows_and_cost(run, "Scored items", note),
        {"label": "Unscored", "value": number(unscored) if unscored is not None else MISSING,
         "note": "of the main metrics; in no mean"},
        {"label": "Judge failures", "value": percent(failed / judged) if judged else MISSING,
         "note": f"{number(failed)} of {number(judged)} judgements" if judged else "nothing was judged by a model"},
    ]


def _notes(run: RunFolder, results: Results) -> list[str]:
    """Why the run stopped, if it did before its end, and what a reader of the figures has to know."""
    message = str(run.manifest.get("message") or "")
    return [*([message] if message else []), *results.notes]


def _counted(count: int, noun: str) -> str:
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def browser_script() -> dict[str, Any]:
    """The script of the list and the hash by which the page's policy lets this one script run and no other."""
    module: Any = environment().get_template("evaluation_verdicts.html").module
    text = str(module.script())
    return {"text": Markup(text), "hash": f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"}


def verdict_list(run: RunFolder, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Items to browse as JSON that is safe within a script element, and what was left out."""
    total = num_rows(run.part_paths())
    items = chosen_items(run, max_items)
    for limit in TEXT_LIMITS:
        data = script_json(_payload(items, limit))
        if len(data) <= max_bytes:
            break
    else:
        if len(items) > 1:
            return verdict_list(run, len(items) // 2, max_bytes)
    return {"json": Markup(data), "shown": len(items), "total": total, "rest": total - len(items), "limit": limit}


def script_json(value: Any) -> str:
    """JSON in ASCII-safe form for a script element: no "<", ">", "&" and no line separators, so that no text can end the element."""
    text = orjson.dumps(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def chosen_items(run: RunFolder, count: int) -> list[ScoredItem]:
    """Up to ``count`` items, shared evenly among candidates and benchmarks; the same keys for each candidate.

    The choice is seeded and does not depend on what the parts are called.
    """
    heaps: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for batch in batches(run.part_paths(), ["row_id", "candidate", "benchmark", "key"]):
        for row_id, candidate, benchmark, key in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            heap = heaps.setdefault((candidate, benchmark), [])
            place = (-draw(run.seed, f"{benchmark}\x00{key}", "report/verdicts"), row_id)
            if len(heap) < count:
                heapq.heappush(heap, place)
            elif place > heap[0]:
                heapq.heapreplace(heap, place)
    wanted: list[str] = []
    left = count
    for waiting, (_, heap) in zip(range(len(heaps), 0, -1), sorted(heaps.items(), key=lambda item: (len(item[1]), item[0])), strict=True):
        share = [row_id for _, row_id in heapq.nlargest(left // waiting, heap)]
        wanted += share
        left -= len(share)
    return sorted(_fetched(run, wanted), key=lambda item: (item.benchmark, _natural(item.key), item.candidate))


def _fetched(run: RunFolder, row_ids: Sequence[str]) -> Iterable[ScoredItem]:
    value_set = pa.array(row_ids, type=pa.string())
    for batch in batches(run.part_paths(), None) if row_ids else ():
        found = batch.filter(pc.is_in(batch.column("row_id"), value_set=value_set))
        if found.num_rows:
            yield from records_of(ScoredItem, pa.Table.from_batches([found]))


def _natural(key: str) -> tuple[tuple[int, int, str], ...]:
    """Keys in the order people count: 9 before 10."""
    parts = (part for part in re.split(r"([0-9]+)", key) if part)
    return tuple((0, int(part[:18]), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


class _Names:
    """Each value once, and its place."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        return self.places.setdefault(value, len(self.places))

    @property
    def values(self) -> list[Any]:
        return list(self.places)


def _payload(items: Sequence[ScoredItem], limit: int) -> dict[str, Any]:
    """What the list's script reads: names, prompts and facts once, then the items with places in these."""
    names = {name: _Names() for name in ("candidates", "benchmarks", "categories", "metrics", "steps", "prompts", "facts")}
    shown = [
        {
            "id": item.row_id, "key": _text(item.key, 200), "group": _text(item.group, 200), "level": level_of(item.facts),
            "candidate": names["candidates"].place(_text(item.candidate, 200)),
            "benchmark": names["benchmarks"].place(_text(item.benchmark, 200)),
            "category": names["categories"].place(_text(item.category, 200)),
            "prompt": names["prompts"].place(_prompt(item.prompt, limit)), "facts": names["facts"].place(_facts(item.facts, limit)),
            "replies": [[names["steps"].place(_text(reply.step, 200)), _text(reply.text, limit), _text(reply.finish_reason, 60)]
                        for reply in item.replies[:MAX_TURNS]],
            "more": max(len(item.replies) - MAX_TURNS, 0) + max(len(item.scores) - MAX_SCORES, 0),
            "scores": [[names["metrics"].place(_text(score.metric, 200)), score.value if is_number(score.value) else None, score.weight if
                        is_number(score.weight) else None, _text(score.problem, 200)] for score in item.scores[:MAX_SCORES]],
            "tokens": [item.prompt_tokens, item.completion_tokens], "usd": item.cost_usd if is_number(item.cost_usd) else None,
        }
        for item in items
    ]
    return {**{name: known.values for name, known in names.items()}, "items": shown}


def _text(text: str, limit: int) -> str:
    return readable(cut(text, limit))


def _prompt(messages: Sequence[Message], limit: int) -> tuple[tuple[str, str], ...]:
    """Roles and texts; of a long conversation its end, where the question is."""
    left_out = max(len(messages) - MAX_TURNS, 0)
    before = (("", f"[{left_out:,} earlier messages]"),) if left_out else ()
    return (*before, *((_text(one.role, 60), _text(one.content, limit)) for one in messages[left_out:]))


def level_of(facts: str) -> int | None:
    """The level that an item's facts name."""
    level = _parsed(facts).get("level")
    return level if isinstance(level, int) and not isinstance(level, bool) else None


def _parsed(facts: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(facts)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _facts(facts: str, limit: int) -> str:
    """Facts as indented JSON, or as they are where they are not an object."""
    if facts in ("{}", "null"):
        return ""
    value = _parsed(facts)
    try:
        shown = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if value else facts
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        shown = facts
    return _text(shown, limit)
