"""The dataset card of a dedup run: what was removed and why, and how surely near-duplicates were found."""

from __future__ import annotations

from typing import Any

from alignray.report.dedup_figures import guarantee, unit_of
from alignray.report.markdown import escape_markdown, front_matter, funnel_table, listed, size_category, status_note, table
from alignray.report.page import is_number, mapping, number
from alignray.report.run_folder import RunFolder, lookup, num_rows

FORMATS = {"parquet": "parts/*.parquet", "json": "parts/*.jsonl"}
"""Where rows are, by the builder of ``datasets`` that reads them."""

_REASONS = {
    "exact_duplicate": "the text is that of the row that stays, to the byte",
    "near_duplicate": "the text is nearly that of another row, which stays or leads to one that stays",
    "contaminated": "the text shares words with an item of a benchmark",
    "empty_text": "there is nothing to compare",
    "missing_column": "a column that is needed is missing or null",
    "bad_row": "the row cannot be read, or a column holds something else than it should",
}


def dedup_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    counted = lookup(run.manifest, "result", "rows")
    rows = counted if is_number(counted) else num_rows([*run.part_paths(), *run.json_part_paths()])
    formats = _formats(run)
    sections = [
        _front_matter(run, rows, formats),
        f"# {escape_markdown(run.name)}",
        _summary(run, rows, formats),
        status_note(run),
        _removed(run),
        f"## The guarantee\n\n{escape_markdown(guarantee(run), limit=2000)}",
        funnel_table(run),
        _overlap(run),
        "## Licence\n\nThe text belongs to its sources, and nothing here grants a licence to it. What held for the rows that were "
        "read holds for the rows that are left: check it before you train on them or pass them on.",
        "## Columns\n\nThe rows are as they came, with the columns of the input; none was added, and no text was changed.",
        _reproduce(run),
        "## Limits\n\n- Rows are alike when they share shingles; rows that say the same in other words both stay.\n"
        "- Rows of a cluster are linked in a chain, so a removed row can be less like the one that stays than the threshold says.\n"
        "- Nothing else was judged: rows that stay were not checked for quality, privacy or harm.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _formats(run: RunFolder) -> list[str]:
    found = [name for name, paths in (("parquet", run.part_paths()), ("json", run.json_part_paths())) if paths]
    return found or ["parquet"]


def _front_matter(run: RunFolder, rows: float, formats: list[str]) -> str:
    # a folder is read by one builder of ``datasets``: the rows of a second format are named in the text only
    return front_matter(
        run,
        license="other",
        license_name="text-belongs-to-its-sources",
        size_categories=[size_category(rows)],
        tags=["alignray", "deduplicated"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": FORMATS[formats[0]]}]}],
    )


def _summary(run: RunFolder, rows: float, formats: list[str]) -> str:
    stages = run.manifest.get("funnel")
    taken = lookup(stages[0], "in") if isinstance(stages, list) and stages else None
    columns = lookup(run.config, "input", "text_columns")
    compared = ", ".join(escape_markdown(str(name)) for name in columns) if isinstance(columns, list) else "the text"
    others = "".join(
        f'more = load_dataset("{kind}", data_files="path/to/this/folder/{FORMATS[kind]}", split="train")\n' for kind in formats[1:]
    )
    return (
        f"{number(rows)} of {number(taken)} rows, left after alignray removed exact and near-duplicates by {compared} "
        f"(MinHash over {escape_markdown(unit_of(run))}). `report.html` in this folder shows the run; `clusters/` names the row that "
        "each removed row is a duplicate of, and `rejects/` holds the removed texts with their reason.\n\n"
        f'```python\nfrom datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="train")\n{others}```'
    )


def _removed(run: RunFolder) -> str:
    counts: dict[str, Any] = {}
    for stage in run.manifest.get("funnel") or ():
        for reason, count in mapping(lookup(stage, "rejected")).items():
            counts[str(reason)] = counts.get(str(reason), 0) + (count if is_number(count) else 0)
    if not counts:
        return "## What was removed, and why\n\nNothing, or nothing that was recorded."
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return table("## What was removed, and why", ("reason", "rows", "meaning"), [
        (escape_markdown(reason), number(count), _REASONS.get(reason, "")) for reason, count in ordered
    ])


def _overlap(run: RunFolder) -> str:
    lines = []
    found = {str(name): count for name, count in mapping(run.manifest.get("contaminated")).items() if is_number(count)}
    searched = mapping(run.manifest.get("decontamination"))
    if searched or found:
        fate = "were removed" if lookup(run.config, "decontamination", "action") == "drop" else "**are still in the data**"
        lines.append(
            f"## Benchmarks\n\nRows that share {number(searched.get('n'))} words in a row with one of {number(searched.get('items'))} "
            f"benchmark items {fate}: {listed(found) or 'none were found'}. `hits/` lists them."
            + (f" {number(searched['too_short'])} items are too short and were left out." if searched.get("too_short") else "")
        )
    if run.manifest.get("retracted"):
        lines.append(
            f"## Earlier runs\n\n{number(run.manifest['retracted'])} rows of earlier runs have been replaced by a better row of this one: "
            "take those that `retracted/` lists out of the earlier data."
        )
    return "\n\n".join(lines)


def _reproduce(run: RunFolder) -> str:
    facts = [("seed", run.config.get("seed")), ("alignray", run.manifest.get("alignray")), ("started", run.manifest.get("started"))]
    listed_facts = "\n".join(f"- {label}: {escape_markdown(str(value))}" for label, value in facts if value is not None)
    return (
        "## How to make it again\n\n`alignray dedup config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same "
        "input files gives the same rows, with any number of workers." + (f"\n\n{listed_facts}" if listed_facts else "")
    )
