"""The report of a bridge run: verdicts, how much was changed, samples with their changes marked, cost."""

from __future__ import annotations

import heapq
import re
from typing import Any

import pyarrow as pa
from rapidfuzz.distance import Levenshtein

from alignray.report import charts
from alignray.report.page import MISSING, cut, dollars, frame, is_number, labelled, mapping, number, percent
from alignray.report.run_folder import RunFolder, batches, lookup, reject_reasons
from alignray.report.webr_page import rows_and_cost, throughput, usage
from alignray.schema import BridgedPair, records_of
from alignray.seeding import draw

NUM_SAMPLES = 12
MAX_TEXT = 4000
"""Characters shown of one answer; the rest is counted."""
VARIANTS = {
    "bridge": "the losing answer edited with the winning one as reference", "no_reference": "the losing answer edited without a reference",
    "degrade": "the winning answer edited towards the losing one", "plain": "pairs as they were",
}
Piece = tuple[str, str]
"""same, removed or added, and the text."""


def bridge_page(run: RunFolder) -> dict[str, Any]:
    """What bridge.html shows."""
    facts = [
        ("Bridging", labelled(lookup(run.config, "bridge"))), ("Seconds by stage", labelled(run.manifest.get("seconds"))),
        ("Versions", labelled(run.manifest.get("versions"))),
    ]
    return {
        **frame(run, tiles=_tiles(run), facts=facts, rejects=reject_reasons(run)),
        "usage": usage(run), "throughput": throughput(run.metrics), "charts": _charts(run), "bridging": _bridging(run),
        "samples": [_sample(pair) for pair in sample_pairs(run, NUM_SAMPLES)],
    }


def _tiles(run: RunFolder) -> list[dict[str, str]]:
    return rows_and_cost(run, "Pairs", VARIANTS.get(str(lookup(run.config, "bridge", "variant")), MISSING))


def _bridging(run: RunFolder) -> list[tuple[str, str]]:
    """Sentences about the edits, each a figure and what it is."""
    facts = mapping(run.manifest.get("bridging"))
    told = []
    if facts.get("edited") and facts.get("task") != "instruction":
        told.append((
            percent(facts.get("good_rate")),
            f"of the pairs that were shown to the editor ({number(facts.get('already_good'))} of {number(facts['edited'])}) had a losing "
            "answer that is good already. They were filtered; train a baseline without them too.",
        ))
    if is_number(facts.get("mean_edit_rate")) and facts.get("variant") != "plain":
        told.append((
            percent(facts["mean_edit_rate"]), "of an answer differ within a pair, on average; between the original answers "
            f"{percent(facts.get('mean_original_edit_rate'))} do.",
        ))
        told.append((number(facts.get("copies")), "edits are the reference itself (copies_reference)."))
    if facts.get("with_results"):
        told.append((
            number(facts.get("same_result")),
            f"of {number(facts['with_results'])} pairs whose original answers both say \"The answer is\" name the same result.",
        ))
    return told


def _charts(run: RunFolder) -> list[dict[str, Any]]:
    titles = [("edit_rate", "Within a pair to train on", "share of the words that differ")]
    if lookup(run.config, "bridge", "variant") != "plain":
        titles.append(("original_edit_rate", "Between the original answers", "the same before editing"))
    shown = []
    for key, title, meaning in titles:
        bins, median = mapping(lookup(run.analysis, key, "histogram")), lookup(run.analysis, key, "median")
        if sum(bins.get("counts") or ()):
            marks = [("median", median)] if is_number(median) else []
            title_of = f"Modification proportion: {title}"
            chart = charts.histogram(bins["edges"], bins["counts"], over=0, marks=marks, title=title_of, unit="of the words")
            shown.append({"title": title, "meaning": meaning, "chart": chart})
    return shown


def sample_pairs(run: RunFolder, count: int) -> list[BridgedPair]:
    """Seeded choice of pairs; the same ones whatever the parts are called."""
    ids = (
        (draw(run.seed, row_id, "report/sample"), row_id)
        for batch in batches(run.part_paths(), ["row_id"]) for row_id in batch.column("row_id").to_pylist()
    )
    order = [row_id for _, row_id in heapq.nsmallest(count, ids)]
    wanted, found = set(order), {}
    for batch in batches(run.part_paths(), None) if order else ():
        places = [place for place, row_id in enumerate(batch.column("row_id").to_pylist()) if row_id in wanted]
        if places:
            found.update({pair.row_id: pair for pair in records_of(BridgedPair, pa.Table.from_batches([batch]).take(places))})
    return [found[row_id] for row_id in order]


def marked(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces: what they share, what only the first has (removed), what only the second has (added)."""
    ours, theirs = (re.findall(r"\s*\S+|\s+$", text) for text in (before, after))
    codes = Levenshtein.opcodes([word.strip() for word in ours], [word.strip() for word in theirs])
    left: list[Piece] = []
    right: list[Piece] = []
    for code in codes:
        is_same = code.tag == "equal"
        left += _pieces("same" if is_same else "removed", "".join(ours[code.src_start : code.src_end]))
        right += _pieces("same" if is_same else "added", "".join(theirs[code.dest_start : code.dest_end]))
    return left, right


def _pieces(kind: str, text: str) -> list[Piece]:
    """The text without the blanks before it, which are never marked."""
    words = text.lstrip()
    return [piece for piece in (("same", text[: len(text) - len(words)]), (kind, words)) if piece[1]]


def _sample(pair: BridgedPair) -> dict[str, Any]:
    rejected, chosen = marked(cut(pair.rejected, MAX_TEXT), cut(pair.chosen, MAX_TEXT))
    replaced = pair.original_rejected if pair.variant == "degrade" else pair.original_chosen
    provenance = [
        ("source", pair.source), ("editor", pair.model),
        ("tokens", f"{number(pair.prompt_tokens)} in, {number(pair.completion_tokens)} out"), ("cost", dollars(pair.cost_usd)),
        ("row", pair.row_id),
    ]
    return {
        "prompt": [{"role": turn.role, "text": cut(turn.content, MAX_TEXT)} for turn in pair.prompt],
        "rejected": rejected, "chosen": chosen, "edit_rate": pair.edit_rate, "original_edit_rate": pair.original_edit_rate,
        "copies_reference": pair.copies_reference, "is_plain": pair.variant == "plain",
        "replaced": cut(replaced, MAX_TEXT), "replaced_side": "losing" if pair.variant == "degrade" else "winning",
        "provenance": [(label, value) for label, value in provenance if value],
    }
