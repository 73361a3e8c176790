"""The report of a Lion run: pools, hard share, gaps, wheels, categories, learning curve, referee, cost by round, samples to browse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignray.report.lion_figures import (
    LionResults,
    Round,
    benchmark_table,
    category_view,
    cost_table,
    gap_charts,
    learning_curves,
    merged_steps,
    pool_chart,
    read_lion,
    threshold_of,
    wheels,
)
from alignray.report.page import MISSING, amount, cut, frame, is_number, labelled, mapping, number, percent
from alignray.report.run_folder import RunFolder, lookup, reject_reasons
from alignray.report.webr_page import rows_and_cost, throughput, usage

KINDS = ("hard", "easy", "quarantined")
MAX_SAMPLES = 12
"""Samples of one round and kind; the rest is counted."""
MAX_SHOWN = 360
"""Samples of all rounds, the last rounds first."""
MAX_TEXT = 4000
"""Characters shown of one instruction, answer or reply; the rest is counted."""
MAX_REVIEWS = 8
MAX_SUMMARY = 160
LINKS = (("training", "students/round_{}/report.html"), ("evaluation", "benchmarks/round_{}/report.html"))


def lion_page(run: RunFolder) -> dict[str, Any]:
    """What lion.html shows."""
    results = read_lion(run)
    facts = [
        ("Lion", labelled(lookup(run.config, "lion"))), ("Student", _student(run)),
        ("Seconds by stage", labelled(run.manifest.get("seconds"))), ("Versions", labelled(run.manifest.get("versions"))),
    ]
    threshold = threshold_of(run)
    return {
        **frame(run, tiles=_tiles(run, results), facts=facts, rejects=reject_reasons(run)),
        "notes": _notes(run, results), "rounds": [_round_row(run, one) for one in results.rounds], "pools": pool_chart(results.rounds),
        "shares": [_shares(one) for one in results.judged], "gaps": gap_charts(results.judged, threshold), "threshold": threshold,
        "wheels": wheels(results.rounds), "categories": category_view(results.judged), "curves": learning_curves(results.rounds),
        "benchmarks": benchmark_table(results.rounds), "generated": [made for one in results.rounds if (made := _generated(one))],
        "referee": [_referee(one) for one in results.judged], "cost": cost_table(run, results.rounds),
        "browse": sample_list(results), "usage": _usage(run), "throughput": throughput(run.metrics),
    }


def _student(run: RunFolder) -> list[tuple[str, str]]:
    settings = mapping(run.config.get("student"))
    named = {name: settings.get(name) for name in ("model", "epochs", "batch_size", "optimizer")}
    return labelled({**named, "engine": run.config.get("student_engine")}) if settings else []


def _tiles(run: RunFolder, results: LionResults) -> list[dict[str, str]]:
    judged, rounds = results.judged, results.rounds
    first, last = (judged[0], judged[-1]) if judged else (None, None)
    begun = f"{number(len(rounds))} begun" if rounds else "none begun"
    trained = "and the closing imitation" if rounds and rounds[-1].is_closing else begun
    pool = next((size for one in reversed(rounds) if (size := one.figure("cache_pool")) is not None), None)
    quality = last.figure("relative_quality") if last else None
    return [
        {"label": "Rounds judged", "value": number(len(judged)), "note": trained},
        {"label": "Cache Pool", "value": number(pool),
         "note": f"{number(rounds[0].figure('cache_pool'))} in round {rounds[0].name}" if rounds else "no pool yet"},
        {"label": "Hard now", "value": percent(last.figure("hard_share") if last else None), "note": _since(first, last, "hard_share")},
        {"label": "Relative quality", "value": f"{quality:.1f}" if quality is not None else MISSING,
         "note": _since(first, last, "relative_quality")},
        *rows_and_cost(run, "Rows", "")[2:],
    ]


def _since(first: Round | None, last: Round | None, key: str) -> str:
    """What a figure was in the first judged round."""
    before = first.figure(key) if first else None
    if first is None or last is None or before is None:
        return "nothing was judged" if last is None else "not known"
    if first.number == last.number:
        return f"in round {first.name}"
    shown = percent(before) if key == "hard_share" else f"{before:.1f}"
    return f"{shown} in round {first.name}"


def _usage(run: RunFolder) -> dict[str, Any] | None:
    """What cost.html shows, the rounds of a step added up."""
    parts = {name: {**mapping(run.manifest.get(name)), "steps": merged_steps(lookup(run.manifest, name, "steps"))}
             for name in ("usage", "plan")}
    return usage(replace(run, manifest={**run.manifest, **parts}))


def _notes(run: RunFolder, results: LionResults) -> list[str]:
    """Why the run ended before its end, and what a reader of the figures has to know; each once."""
    message = str(run.manifest.get("message") or "")
    told = [*([message] if message else []), *results.notes]
    stopped = [f"Round {one.name}: {one.stopped}" for one in results.rounds if one.stopped and one.stopped not in told]
    left_out = [f"{number(results.num_left_out)} earlier rounds are in lion.json and not shown."] if results.num_left_out else []
    return list(dict.fromkeys([*told, *stopped, *left_out]))


def _round_row(run: RunFolder, one: Round) -> dict[str, Any]:
    train = one.part("train")
    return {
        "round": one.number, "is_closing": one.is_closing, "is_judged": one.is_judged,
        "pools": [one.figure("train_pool"), one.figure("cache_pool")],
        "train": {key: train.get(key) for key in ("rows", "steps")}, "loss": _fixed(one.figure("train", "loss"), 3),
        "judged": one.figure("judged"), "hard_share": one.figure("hard_share"),
        "means": [_fixed(one.figure(key), 2) for key in ("teacher_mean", "student_mean")],
        "quality": _fixed(one.figure("relative_quality"), 1), "new": _kept(one) if one.part("generated") else None,
        "usd": sum(amount(lookup(spent, "usd")) for spent in one.part("usage").values()) if one.part("usage") else None,
        "links": [(label, path.format(one.number)) for label, path in LINKS if (run.path / path.format(one.number)).is_file()],
    }


def _fixed(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _kept(one: Round) -> float:
    return amount(lookup(one.raw, "generated", "hard")) + amount(lookup(one.raw, "generated", "easy"))


def _shares(one: Round) -> dict[str, Any]:
    counts = [one.figure(kind) or 0 for kind in KINDS]
    total = sum(counts)
    return {
        "round": one.number, "judged": one.figure("judged"),
        "parts": [{"kind": kind, "count": count, "rate": count / total if total else None, "percent": round(100 * count / (total or 1), 2)}
                  for kind, count in zip(KINDS, counts, strict=True)],
    }


def _generated(one: Round) -> dict[str, Any] | None:
    made = one.part("generated")
    if not made:
        return None
    drawn, kept = made.get("drawn"), _kept(one)
    rejected = {str(reason): count for reason, count in mapping(made.get("rejected")).items() if is_number(count)}
    lost = sum(rejected.values())
    widest = max(amount(drawn), kept + lost) or 1
    parts = [("hard", amount(made.get("hard"))), ("easy", amount(made.get("easy")))]
    return {
        "round": one.number, "drawn": drawn, "kept": kept, "rate": kept / drawn if is_number(drawn) and drawn else None,
        "lost": lost, "lost_percent": round(100 * lost / widest, 2),
        "parts": [{"kind": kind, "count": count, "percent": round(100 * count / widest, 2)} for kind, count in parts],
        "losses": sorted(rejected.items(), key=lambda item: (-item[1], item[0])),
    }


def _referee(one: Round) -> dict[str, Any]:
    readings, unreadable = one.figure("referee", "readings"), one.figure("referee", "unreadable")
    return {
        "round": one.number, "readings": readings, "unreadable": unreadable,
        "unreadable_rate": unreadable / readings if unreadable is not None and readings else None,
        "first_wins": one.figure("referee", "first_wins"), "order_flips": one.figure("referee", "order_flips"),
        "one_reading": one.figure("one_reading"), "quarantined": one.figure("quarantined"), "judged": one.figure("judged"),
    }


# ---- samples


def sample_list(results: LionResults) -> dict[str, Any]:
    """Samples to browse in order of round and kind, at most MAX_SAMPLES of each and MAX_SHOWN in all, and what can be chosen.

    Which round and kind is shown is chosen by radio buttons and the style sheet alone.
    """
    known = {one.number for one in results.rounds}
    named = [one for one in results.samples if one.get("round") in known and one.get("kind") in KINDS]
    named.sort(key=lambda one: (-one["round"], KINDS.index(one["kind"])))
    seen: Counter[tuple[int, str]] = Counter()
    shown: list[Mapping[str, Any]] = []
    for one in named:
        seen[one["round"], one["kind"]] += 1
        if seen[one["round"], one["kind"]] <= MAX_SAMPLES and len(shown) < MAX_SHOWN:
            shown.append(one)
    rounds = sorted({one["round"] for one in shown})
    there = {(one["round"], one["kind"]) for one in shown}
    empty = [
        {"round": chosen, "kind": kind} for chosen in ["all", *rounds] for kind in KINDS
        if not any(chosen in (of_round, "all") and found == kind for of_round, found in there)
    ]
    return {
        "rounds": rounds, "kinds": KINDS, "empty": empty, "rest": len(results.samples) - len(shown), "samples": list(map(_sample, shown)),
    }


def _sample(one: Mapping[str, Any]) -> dict[str, Any]:
    instruction = _text(one.get("instruction"))
    gap = one.get("gap")
    reviews = [_review(review) for review in _list(one.get("reviews"))[:MAX_REVIEWS] if isinstance(review, Mapping)]
    return {
        "round": one["round"], "kind": one["kind"], "instruction": instruction, "asked": " ".join(instruction[: 2 * MAX_SUMMARY].split()),
        "gap": f"{gap:+.2f}" if is_number(gap) else "", "category": _text(one.get("category"), 200),
        "answers": [("teacher", _text(one.get("teacher"))), ("student", _text(one.get("student")))], "reviews": reviews,
        "more": max(len(_list(one.get("reviews"))) - MAX_REVIEWS, 0),
        "provenance": [(label, _text(one.get(key), 200)) for label, key in (("origin", "origin"), ("row", "row_id")) if one.get(key)],
    }


def _review(review: Mapping[str, Any]) -> dict[str, Any]:
    scores = [review.get(side) for side in ("teacher", "student")]
    is_read = all(map(is_number, scores))
    return {
        "step": _text(review.get("step"), 200), "is_read": is_read, "text": _text(review.get("text")),
        "scores": f"teacher {scores[0]:g}, student {scores[1]:g}" if is_read else "no scores could be read",
    }


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any, limit: int = MAX_TEXT) -> str:
    return cut(value if isinstance(value, str) else "", limit)
