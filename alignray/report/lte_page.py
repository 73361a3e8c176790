"""The report of an LTE run: Table C.1, where queries come from, what stands beside the exact fact, leakage, pairs to browse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignray.methods.lte.scopes import BARE
from alignray.report.lte_figures import (
    ASPECTS,
    SCOPES,
    SOURCES,
    Rows,
    aspect_view,
    cell_table,
    leakage_told,
    left_out,
    places_view,
    read_rows,
    sample_pairs,
    source_files,
    threefold_view,
    word_charts,
)
from alignray.report.page import MISSING, cut, dollars, frame, is_number, labelled, mapping, number
from alignray.report.run_folder import RunFolder, lookup, reject_reasons
from alignray.report.webr_page import rows_and_cost, throughput, usage

MAX_SAMPLES = 8
"""Pairs of one data set and scope; the rest is counted."""
MAX_TEXT = 4000
"""Characters shown of one prompt or answer; the rest is counted."""
MAX_FACT = 600
MAX_FACTS = 12
MAX_SUMMARY = 160


def lte_page(run: RunFolder) -> dict[str, Any]:
    """What lte.html shows."""
    rows = read_rows(run)
    settings = mapping(run.config.get("lte"))
    facts = [
        ("Prompts", labelled({"form": _form(run), "embedder": run.config.get("embedder"), "drop rate": run.config.get("drop_rate")})),
        ("Beside the exact fact", labelled(settings.get("threefold"))), ("Scopes", labelled(settings.get("scopes"))),
        ("Seconds by stage", labelled(run.manifest.get("seconds"))), ("Versions", labelled(run.manifest.get("versions"))),
    ]
    cells = cell_table(run)
    message = run.manifest.get("message")
    return {
        **frame(run, tiles=_tiles(run, rows, cells), facts=facts, rejects=reject_reasons(run)),
        "notes": [message] if isinstance(message, str) and message else [], "cells": cells, "aspects": aspect_view(run, rows),
        "files": source_files(run), "threefold": threefold_view(run, rows), "places": places_view(run, rows),
        "num_without_exact": rows.num_without_exact, "words": word_charts(rows), "leakage": leakage_told(run), "left_out": left_out(run),
        "browse": sample_list(run), "usage": usage(run), "throughput": throughput(run.metrics),
    }


def _form(run: RunFolder) -> Any:
    return lookup(run.manifest, "lte", "form") or lookup(run.config, "lte", "form")


def _tiles(run: RunFolder, rows: Rows, cells: Mapping[str, Any] | None) -> list[dict[str, str]]:
    prompted = sum(count for (_, _, with_prompt), count in rows.cells.items() if with_prompt)
    pairs = lookup(run.manifest, "lte", "pairs")
    note = f"{number(prompted)} with the edit prompt" if rows.num else "none written"
    short = {"label": "Short cells", "value": MISSING, "note": "of Table C.1"}
    if cells:
        missing = cells["total"]["missing"]
        short |= {"value": number(cells["num_short"]), "note": f"of {number(len(cells['rows']))}" + (
            f", {number(missing)} pairs missing" if missing else ", nothing missing")}
    return [
        *rows_and_cost(run, "Examples", note)[:1],
        {"label": "Pairs", "value": number(pairs if is_number(pairs) else prompted if rows.num else None),
         "note": f"{number(cells['total']['wanted'])} wanted" if cells else "with and without the edit prompt"},
        short, *rows_and_cost(run, "Examples", note)[1:],
    ]


# ---- samples


def sample_list(run: RunFolder) -> dict[str, Any]:
    """Pairs to browse, at most MAX_SAMPLES of each data set and scope, and what can be chosen.

    Which ones are shown is chosen by radio buttons and the style sheet alone.
    """
    pairs, total = sample_pairs(run, MAX_SAMPLES)
    there = {(pair["with"]["source"], pair["with"]["kind"]) for pair in pairs}
    sources = [source for source in SOURCES if any(source == found for found, _ in there)]
    kinds = [kind for kind in SCOPES if any(kind == found for _, found in there)]
    empty = [(source, kind) for source in sources for kind in kinds if (source, kind) not in there]
    return {
        "sources": [(source, SOURCES[source]) for source in sources], "kinds": [(kind, SCOPES[kind]) for kind in kinds], "empty": empty,
        "rest": total - len(pairs), "samples": [_sample(pair["with"], pair.get("without")) for pair in pairs],
    }


def _sample(prompted: Mapping[str, Any], bare: Mapping[str, Any] | None) -> dict[str, Any]:
    sides = [("with the edit prompt", prompted), ("without it", bare)]
    neighbours = list(prompted["retrieved"])
    known = list(zip(prompted["facts"], prompted["places"], strict=False))
    style = "" if prompted["style"] in ("", BARE) else prompted["style"].replace("_", " ")
    provenance = [
        ("drawn", style), ("edit", prompted["edit_id"]), ("pair", prompted["pair_id"]),
        ("tokens", f"{number(prompted['prompt_tokens'])} in, {number(prompted['completion_tokens'])} out" if prompted["prompt_tokens"]
         else ""), ("cost", dollars(prompted["cost_usd"]) if prompted["cost_usd"] else ""),
    ]
    return {
        "source": prompted["source"], "kind": prompted["kind"], "title": SOURCES[prompted["source"]], "scope": SCOPES[prompted["kind"]],
        "aspect": cut(prompted["aspect"], 200), "meaning": ASPECTS.get(prompted["aspect"], ""),
        "asked": " ".join(prompted["query"][: 2 * MAX_SUMMARY].split())[:MAX_SUMMARY],
        "sides": [
            {"title": title, "turns": [(str(turn["role"]), cut(turn["content"], MAX_TEXT)) for turn in row["messages"]] if row else []}
            for title, row in sides
        ],
        "facts": [{"text": cut(fact, MAX_FACT), **_place(edit_id, prompted["edit_id"], neighbours)} for fact, edit_id in known[:MAX_FACTS]],
        "more_facts": max(len(known) - MAX_FACTS, 0), "provenance": [(label, value) for label, value in provenance if value],
    }


def _place(fact_of: str, edit_id: str, neighbours: list[str]) -> dict[str, Any]:
    """Whether a fact is the edit's own, and its rank among the neighbours."""
    if fact_of == edit_id:
        return {"is_exact": True, "label": "the edit's own"}
    rank = f", {neighbours.index(fact_of) + 1} by similarity" if fact_of in neighbours else ""
    return {"is_exact": False, "label": f"neighbour{rank}"}
