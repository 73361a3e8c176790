"""The dataset card of an evaluation: what was measured, what came out, and what may be said of the candidates' order."""

from __future__ import annotations

from alignray.report.eval_figures import Results, judge_total, main_table, read_results
from alignray.report.markdown import escape_markdown, front_matter, funnel_table, size_category, status_note, table
from alignray.report.page import MISSING, dollars, number, percent
from alignray.report.run_folder import RunFolder, lookup, num_rows

COLUMNS = {
    "row_id": "128-bit id of benchmark, item and candidate; the same in every run",
    "candidate": "name of the model in `config.yaml`",
    "benchmark": "name of the benchmark",
    "key": "the item's name in the benchmark's own file",
    "group": "items of one group are not independent; intervals are clustered by it",
    "category": "task, level or domain; empty where the benchmark has none",
    "prompt": "what the candidate was asked: `role` and `content`, in order",
    "facts": "what the scorer and the judge were told (reference, choices, rules), as JSON",
    "replies": "answers in order: `step` (the candidate's, then the judge's), `text`, `finish_reason`",
    "scores": "`metric`, `value`, `weight` in the metric's mean; with a `problem` there is no score and the value says nothing",
    "prompt_tokens": "tokens sent to models for this row, over all steps",
    "completion_tokens": "tokens received from models for this row, over all steps",
    "cost_usd": "what these calls cost",
}


def eval_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows, results = num_rows(run.part_paths()), read_results(run)
    command = "followbench" if run.manifest.get("method") == "followbench" else "evaluate"
    sections = [
        front_matter(
            run, license="other", license_name="text-belongs-to-its-sources", size_categories=[size_category(rows)],
            task_categories=["text-generation"], tags=["alignray", "evaluation", *(["followbench"] if command == "followbench" else [])],
            configs=[{"config_name": "default", "data_files": [{"split": "test", "path": "parts/*.parquet"}]}],
        ),
        f"# {escape_markdown(run.name)}",
        f"{number(rows)} scored items of {number(len(results.candidates))} candidates on {number(len(results.benchmarks))} benchmarks, "
        "measured by alignray. `report.html` in this folder shows the run and lets one browse answers and verdicts.",
        status_note(run),
        _results(results),
        _notes(run, results),
        '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="test")\n```',
        funnel_table(run),
        "## Licence\n\nQuestions, references and rules belong to the benchmarks they came from, and nothing here grants a licence to "
        "them. What the models wrote comes under the terms of these models.",
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        f"## How to make it again\n\n`alignray {command} config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same "
        "benchmark files. Items and ids come out the same; scores do as far as the models answer alike.",
        "## Limits\n\n- The rows hold the benchmarks' questions and references: keep them out of training data.\n- Verdicts of a judge "
        "model were not checked by people unless a note says so.\n- Intervals tell how much the choice of items matters, not whether a "
        "model has seen them before.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _results(results: Results) -> str:
    """The main table and, for each benchmark, whether an order may be read from it."""
    main = main_table(results)
    if not main["rows"]:
        return ""
    header = ["candidate", *(
        " ".join(escape_markdown(str(name)) for name in (column["name"], column["metric"]) if name) for column in main["columns"])]
    rows = [[escape_markdown(row["candidate"]), *map(_cell, row["cells"])] for row in main["rows"]]
    lines = [table("## Results", header, rows),
             "Means with 95 % intervals over the items with a score. Candidates are in the order of the config, which is no ranking."]
    told = [f"- {escape_markdown(one['benchmark'])}: {escape_markdown(one['summary'])}" for one in main["told"]]
    return "\n\n".join([*lines, *(["\n".join(told)] if told else [])])


def _cell(cell: dict[str, object] | None) -> str:
    if cell is None:
        return MISSING
    unscored = f", {number(cell['unscored'])} unscored" if cell["unscored"] else ""
    return f"{cell['value']} ({cell['interval']}), {number(cell['num'])} items{unscored}"


def _notes(run: RunFolder, results: Results) -> str:
    failed, judged = judge_total(results)
    listed = [f"- {escape_markdown(note)}" for note in results.notes]
    if judged:
        listed.append(f"- judge failures: {percent(failed / judged)}, {number(failed)} of {number(judged)} judgements could not be read")
    if lookup(run.manifest, "usage", "usd") is not None:
        listed.append("- cost: " + dollars(run.manifest["usage"]["usd"]).replace("$", "\\$"))
    return "\n".join(["## Notes", "", *listed]) if listed else ""
