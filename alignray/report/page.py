"""What every report page has: the escaping template environment, readable numbers, and the sections all methods share.

Page texts, model answers and file names are hostile: Jinja escapes every value, charts escape their labels, and the page
forbids itself scripts and the network by its own content security policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from alignray.report import charts
from alignray.report.run_folder import RejectReason, RunFolder

MAX_EXAMPLE = 700
MAX_CONFIG = 100_000

STATUS = {
    "done": "done",
    "running": "running",
    "failed": "failed",
    "stopped_at_budget": "stopped at the budget",
    "empty": "finished without rows",
}

_UNREADABLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127) if code not in (9, 10)}
MISSING = "–"


def frame(
    run: RunFolder, *, tiles: Sequence[Mapping[str, str]], facts: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    rejects: Sequence[RejectReason],
) -> dict[str, Any]:
    """What base.html and the shared sections show; ``facts`` are titled lists of (label, value)."""
    return {
        "name": run.name,
        "status": _status(run),
        "method": run.manifest.get("method"),
        "started": run.manifest.get("started"),
        "finished": run.manifest.get("finished"),
        "tiles": tiles,
        "funnel": funnel(run),
        "rejects": [reject(reason) for reason in rejects],
        "facts": facts,
        "config": cut(run.config_text, MAX_CONFIG),
        "fingerprint": run.manifest.get("fingerprint"),
        "alignray": run.manifest.get("alignray"),
    }


def environment() -> jinja2.Environment:
    """Templates that escape every value and refuse a name that is not there."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        number=number, dollars=dollars, duration=duration, percent=percent, fixed=lambda value: f"{value:.3f}",
        cut=cut, short=charts.compact,
    )
    return environment


def _finalize(value: Any) -> Any:
    if value is None:
        return MISSING
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_UNREADABLE)
    return value


def number(value: Any) -> str:
    """A count with thousands separators, or a dash."""
    return f"{value:,.0f}" if is_number(value) else MISSING


def dollars(value: Any) -> str:
    """Money with as many decimals as small amounts need, or a dash."""
    if not is_number(value):
        return MISSING
    return f"${value:,.2f}" if value == 0 or abs(value) >= 0.1 else f"${value:.2g}" if abs(value) >= 1e-4 else "under $0.0001"


def duration(seconds: Any) -> str:
    """Seconds as "3 h 12 min", "4 min 5 s" or "2.5 s", or a dash."""
    if not is_number(seconds) or seconds < 0:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def percent(rate: Any) -> str:
    """A rate in [0, 1] as percent, or a dash."""
    if not is_number(rate):
        return MISSING
    return f"{rate:.1%}" if rate == 0 or rate >= 0.001 else "under 0.1%"


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def amount(value: Any) -> float:
    """The number, or 0 for anything else."""
    return value if is_number(value) else 0


def cut(text: str, limit: int) -> str:
    """The beginning of a text, with a note of how much is left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[... {len(text) - limit:,} more characters]"


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _status(run: RunFolder) -> dict[str, str]:
    status = str(run.manifest.get("status", "unknown"))
    return {"css": status if status in STATUS else "unknown", "text": STATUS.get(status, status)}


def total_seconds(run: RunFolder) -> float | None:
    """Over all stages; None where none is recorded."""
    seconds = mapping(run.manifest.get("seconds"))
    return sum(amount(value) for value in seconds.values()) if seconds else None


def funnel(run: RunFolder) -> list[dict[str, Any]]:
    """Stages with what they took, kept and lost, as bars."""
    stages = [stage for stage in run.manifest.get("funnel") or () if isinstance(stage, Mapping)]
    widest = max((amount(stage.get("in")) for stage in stages), default=0) or 1
    shown = []
    for stage in stages:
        taken, kept = stage.get("in"), stage.get("kept")
        rejected = mapping(stage.get("rejected"))
        lost = sum(amount(count) for count in rejected.values())
        shown.append({
            "name": stage.get("stage"), "in": taken, "kept": kept, "lost": lost,
            "kept_percent": round(100 * amount(kept) / widest, 2), "lost_percent": round(100 * lost / widest, 2),
            "rate": amount(kept) / taken if is_number(taken) and taken else None,
            "losses": sorted(rejected.items(), key=lambda item: (-amount(item[1]), item[0])),
            "unaccounted": amount(taken) - amount(kept) - lost if is_number(taken) and is_number(kept) else 0,
        })
    return shown


def labelled(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """The leaves of nested figures, flat: ("records / response", "1,204")."""
    pairs: list[tuple[str, str]] = []
    for key, inner in mapping(value).items():
        name = f"{prefix}{key}".replace("_", " ") if not prefix else f"{prefix}{key}"
        if isinstance(inner, Mapping):
            pairs += labelled(inner, f"{name} / ")
        elif isinstance(inner, int) and not isinstance(inner, bool):
            pairs.append((name, number(inner)))
        elif isinstance(inner, float):
            pairs.append((name, f"{inner:,.4g}" if abs(inner) < 100 else number(inner)))
        elif isinstance(inner, bool):
            pairs.append((name, "yes" if inner else "no"))
        elif inner is not None:
            pairs.append((name, str(inner)))
    return pairs


def reject(reason: RejectReason) -> dict[str, Any]:
    """A reason with its count and one of its records."""
    example = reason.example
    return {
        "step": reason.step, "reason": reason.reason, "count": reason.count,
        "row_id": example.row_id if example else None,
        "raw": cut(example.raw, MAX_EXAMPLE) if example else "",
        "detail": cut(example.detail, MAX_EXAMPLE) if example else "",
    }
