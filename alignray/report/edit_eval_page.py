"""The report of an evaluation of edited models: the main table, curves over the number of edits, radars, retrieval, times, cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignray.report.edit_eval_figures import (
    ALL,
    ASPECTS,
    FAMILIES,
    Case,
    Results,
    curve_views,
    facts_by_edit,
    facts_in,
    metric_table,
    radars,
    read_cases,
    read_results,
    retrieval_tables,
    source_order,
    source_title,
    time_rows,
)
from alignray.report.eval_charts import tone
from alignray.report.page import MISSING, amount, cut, frame, is_number, labelled, mapping, number, percent
from alignray.report.run_folder import RunFolder, lookup, num_rows, reject_reasons
from alignray.report.webr_page import rows_and_cost, throughput, usage

MAX_CASES = 5
"""Edits of one data set and setting; the rest is counted."""
MAX_QUERIES = 4
"""Of one aspect of a case, those on which methods disagree first; the rest is counted."""
MAX_TEXT = 1500
"""Characters shown of one answer or query; the rest is counted."""
MAX_FACT = 600
MAX_FACTS = 10
MAX_SUMMARY = 160


def edit_eval_page(run: RunFolder) -> dict[str, Any]:
    """What edit_eval.html shows."""
    results = read_results(run)
    told = mapping(run.manifest.get("edit_eval"))
    facts = [
        ("Methods", labelled(results.methods)), ("Seconds by stage", labelled(run.manifest.get("seconds"))),
        ("Versions", labelled(run.manifest.get("versions"))),
    ]
    message = run.manifest.get("message")
    single = results.settings_of("single")
    return {
        **frame(run, tiles=_tiles(run, results), facts=facts, rejects=reject_reasons(run)),
        "notes": [message] if isinstance(message, str) and message else [],
        "legend": [(f"f{tone(place)}", name) for place, name in enumerate(results.methods)],
        "families": list(FAMILIES.items()), "sources": [source_title(source) for source in results.sources],
        "results": [table for source in results.sources if (table := metric_table(results, source, single))],
        "datasets": dataset_rows(run), "curves": curve_views(results), "radars": radars(results),
        "retrieval": retrieval_tables(run, results), "times": time_rows(run, results), "browse": case_list(run, results),
        "protocol": labelled(told.get("protocol")), "left_out": counted_notes(run), "usage": usage(run),
        "throughput": throughput(run.metrics),
    }


def dataset_rows(run: RunFolder) -> dict[str, Any]:
    """Records and items by data set."""
    datasets = {str(name): mapping(one) for name, one in mapping(lookup(run.manifest, "edit_eval", "datasets")).items()}
    aspects = [one for one in ASPECTS if any(one in mapping(told.get("items")) for told in datasets.values())]
    return {
        "aspects": [ASPECTS[one] for one in aspects],
        "rows": [
            {"source": source_title(source), "records": datasets[source].get("records"),
             "items": [mapping(datasets[source].get("items")).get(one) for one in aspects]}
            for source in sorted(datasets, key=source_order)
        ],
    }


def counted_notes(run: RunFolder) -> list[tuple[str, float]]:
    """What was left out or is worth a count, most first."""
    notes = mapping(lookup(run.manifest, "edit_eval", "notes"))
    counted = [(str(name).replace("_", " "), amount(count)) for name, count in notes.items() if amount(count)]
    return sorted(counted, key=lambda item: (-item[1], item[0]))


def _tiles(run: RunFolder, results: Results) -> list[dict[str, str]]:
    told = mapping(lookup(run.manifest, "edit_eval", "datasets"))
    datasets = {name: one for name, one in told.items() if name != ALL}
    records = sum(amount(lookup(one, "records")) for one in datasets.values())
    largest = max((setting.size for setting in results.settings), default=None)
    modes = dict.fromkeys(setting.mode for setting in results.settings)
    num_sets = len(datasets)
    num_scored = num_rows(run.part_paths())
    return [
        {"label": "Records", "value": number(records) if datasets else MISSING,
         "note": f"of {number(num_sets)} data set{'' if num_sets == 1 else 's'}"},
        {"label": "Methods", "value": number(len(results.methods) or None), "note": f"{number(len(results.edited))} besides the bare model"
         if len(results.edited) < len(results.methods) else "compared"},
        {"label": "Scored items", "value": number(num_scored), "note": "a row each, over all methods" if num_scored else "none written"},
        {"label": "Edits at once", "value": number(largest), "note": ", ".join(modes)[:80] or "nothing was scored"},
        rows_and_cost(run, "", "")[-1],
    ]


# ---- cases


def case_list(run: RunFolder, results: Results) -> dict[str, Any]:
    """Cases to browse, at most MAX_CASES of each data set and setting, and what can be chosen by radio buttons and the style sheet."""
    cases, total = read_cases(run, results, MAX_CASES)
    cases.sort(key=lambda case: source_order(case.source))
    sources = list(dict.fromkeys(case.source for case in cases))
    settings = list(dict.fromkeys(sorted((case.setting for case in cases), key=lambda one: one.order)))
    facts = facts_by_edit(run, {edit_id for case in cases for row in case.rows for edit_id in (*row["retrieved"], case.edit_id)})
    there = {(case.source, case.setting) for case in cases}
    return {
        "sources": [source_title(source) for source in sources], "settings": [setting.label for setting in settings],
        "empty": [(place, at) for place, source in enumerate(sources) for at, setting in enumerate(settings)
                  if (source, setting) not in there],
        "rest": total - len(cases), "is_disputed": len(results.edited) > 1,
        "cases": [
            {"place": sources.index(case.source), "at": settings.index(case.setting), **_case(case, facts, list(results.methods))}
            for case in cases
        ],
    }


def _case(case: Case, facts: Mapping[str, list[str]], methods: Sequence[str]) -> dict[str, Any]:
    own = facts.get(case.edit_id, [])
    asked = own[0] if own else str(case.rows[0]["query"]) if case.rows else ""
    by_aspect: dict[str, dict[tuple[str, str, str], list[Mapping[str, Any]]]] = {}
    order = {name: place for place, name in enumerate(methods)}
    for row in sorted(case.rows, key=lambda row: (order.get(row["method"], len(order)), row["method"], row["row_id"])):
        by_aspect.setdefault(row["aspect"], {}).setdefault((row["kind"], row["query"], row["target"]), []).append(row)
    aspects = []
    for aspect in sorted(by_aspect, key=lambda name: list(ASPECTS).index(name) if name in ASPECTS else len(ASPECTS)):
        items = sorted(by_aspect[aspect].items(), key=lambda item: (-_apart(item[1]), item[0]))
        aspects.append({
            "aspect": ASPECTS.get(aspect, aspect), "is_locality": aspect == "locality", "rest": max(len(items) - MAX_QUERIES, 0),
            "items": [_item(key, rows, case, facts) for key, rows in items[:MAX_QUERIES]],
        })
    told = f"methods disagree on {number(case.num_apart)} of {number(case.num_compared)} queries" if case.num_compared else ""
    return {
        "title": source_title(case.source), "setting": case.setting.label, "told": told,
        "asked": " ".join(asked[: 2 * MAX_SUMMARY].split())[:MAX_SUMMARY], "edit": [cut(fact, MAX_FACT) for fact in own[:MAX_FACTS]],
        "more_edits": max(len(own) - MAX_FACTS, 0), "aspects": aspects, "edit_id": case.edit_id,
    }


def _apart(rows: Sequence[Mapping[str, Any]]) -> float:
    scores = [row["exact_score"] for row in rows if is_number(row["exact_score"])]
    return max(scores) - min(scores) if scores else 0.0


def _item(
    key: tuple[str, str, str], rows: Sequence[Mapping[str, Any]], case: Case, facts: Mapping[str, list[str]],
) -> dict[str, Any]:
    kind, query, target = key
    has_said = any(row["said"] or is_number(row["said_score"]) for row in rows)
    shown: dict[tuple[str, ...], tuple[list[str], Mapping[str, Any]]] = {}
    for row in rows:
        if row["retrieved"]:
            lines = tuple(facts_in(row["prompt"], query))
            shown.setdefault((*lines, "", *row["retrieved"]), ([], row))[0].append(row["method"])
    return {
        "kind": "" if kind in ASPECTS else kind, "query": cut(query, MAX_TEXT), "target": cut(target, MAX_TEXT), "has_said": has_said,
        "rows": [
            {
                "method": row["method"], "token": percent(row["token_score"]), "exact": _verdict(row["exact_score"], "yes", "no"),
                "said": cut(row["said"], MAX_TEXT), "verdict": _verdict(row["said_score"], "right", "wrong"),
                "fluency": f"{100 * row['fluency']:.1f}" if is_number(row["fluency"]) else "",
            }
            for row in rows
        ],
        "shown": [_shown(names, row, case.edit_id, query, facts) for names, row in shown.values()],
        "nothing": [row["method"] for row in rows if not row["retrieved"]],
    }


def _verdict(score: Any, good: str, bad: str) -> str:
    return "" if not is_number(score) else good if score >= 1 else bad


def _shown(names: list[str], row: Mapping[str, Any], own: str, query: str, facts: Mapping[str, list[str]]) -> dict[str, Any]:
    """The facts that methods were shown, each with whose it is; of facts that are no edit's own words by their place."""
    retrieved = list(row["retrieved"])
    texts = facts_in(row["prompt"], query)
    whose = {fact.strip(): edit_id for edit_id in reversed(retrieved) for fact in facts.get(edit_id, ())}
    by_place = retrieved if len(retrieved) == len(texts) else [""] * len(texts)
    ids = [whose.get(text.strip(), other) for text, other in zip(texts, by_place, strict=True)]
    rank = retrieved.index(own) + 1 if own in retrieved else None
    return {
        "methods": names, "num": len(retrieved), "rank": rank, "more": max(len(texts) - MAX_FACTS, 0),
        "facts": [
            {"text": cut(text, MAX_FACT), "is_own": edit_id == own,
             "label": "the edit's own" if edit_id == own else "of another edit" if edit_id else ""}
            for text, edit_id in zip(texts[:MAX_FACTS], ids, strict=False)
        ],
    }
