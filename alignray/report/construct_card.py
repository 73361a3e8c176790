"""The dataset card of a grown benchmark: what was made by whom, what people said of it, how to measure with it."""

from __future__ import annotations

from typing import Any

from alignray.report.markdown import by_count, escape_markdown, front_matter, funnel_table, size_category, status_note, table
from alignray.report.page import dollars, mapping, number
from alignray.report.run_folder import RunFolder, count_column, lookup, num_rows

COLUMNS = {
    "row_id": "128-bit id of the initial instruction, its category and the level; the same in every run",
    "example_id": "number of the example within its category, from 1 on",
    "category": "content, situation, style, format, example or mixed",
    "kinds": "kinds of the constraints so far where they are mixed",
    "source": "where the initial instruction came from, as the input says",
    "level": "0 is the initial instruction, each level above has one constraint more",
    "instruction": "what a model is asked at this level",
    "target": "the template that an answer has to fill (example alone)",
    "answer": "the true answer in its template (example alone)",
    "added_constraint": "what this level added, in the generator's words",
    "review": "unreviewed, accepted or rejected, by people",
}


def construct_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows = num_rows(run.part_paths())
    sections = [
        front_matter(
            run, license="other", license_name="text-belongs-to-its-sources", size_categories=[size_category(rows)],
            task_categories=["text-generation"], tags=["alignray", "benchmark", "instruction-following", "followbench"],
            configs=[{"config_name": "default", "data_files": [{"split": "test", "path": "parts/*.parquet"}]}],
        ),
        f"# {escape_markdown(run.name)}",
        f"{number(rows)} items of a benchmark in the form of FollowBench ([arXiv:2310.20410](https://arxiv.org/abs/2310.20410)), grown by "
        "alignray from initial instructions, one constraint more at each level. `report.html` in this folder shows the run.",
        status_note(run),
        _reviewed(run),
        table("## What it holds", ("category", "examples", "with all levels in the file", "items above level 0", "accepted", "rejected"),
              [_row(name, facts) for name, facts in mapping(run.manifest.get("construction")).items()]),
        _made(run),
        "## How to measure with it\n\nEach `benchmark_CATEGORY.json` is in the form of the official files: name it under `benchmarks` in a "
        "config of `alignray followbench`. A judge or a template's rule decides; figures from items that nobody reviewed say little.",
        funnel_table(run),
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        "## Limits\n\n- Whether a reply of the generator added exactly one constraint, and one that can be met, no program can tell: that "
        "is what the review is for.\n- What the generator model wrote comes under its terms, initial instructions under those of their "
        "source.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _reviewed(run: RunFolder) -> str:
    if run.manifest.get("reviewed"):
        return "The files hold what people accepted, as far as no level below was turned down."
    return "**Nobody has reviewed these items.** Fill in `to_review.jsonl`, name it as `review` in the config, and run again."


def _row(name: str, facts: Any) -> tuple[str, ...]:
    keys = ("examples", "complete", "items", "accepted", "rejected")
    return escape_markdown(str(name)), *(number(lookup(facts, key)) for key in keys)


def _made(run: RunFolder) -> str:
    steps = mapping(lookup(run.manifest, "usage", "steps"))
    models = sorted({str(model) for step in steps.values() for model in lookup(step, "models") or ()})
    sources = [name for name, _ in by_count(count_column(run.part_paths(), "source"))]
    listed = [
        ("generator", ", ".join(map(escape_markdown, models)) or "none: examples come from templates"),
        ("sources", ", ".join(escape_markdown(name) for name in sources if name)),
        ("instructions were set aside from this ROUGE-L to an earlier one on", str(lookup(run.config, "grow", "max_rouge_l") or "")),
    ]
    if lookup(run.manifest, "usage", "usd") is not None:
        listed.append(("cost", dollars(run.manifest["usage"]["usd"]).replace("$", "\\$")))
    return "## How it was made\n\n" + "\n".join(f"- {label}: {value}" for label, value in listed if value)
