"""The dataset card of an evaluation of edited models: what a row is, the main table, how it was measured, its limits."""

from __future__ import annotations

from typing import Any

from alignray.report.edit_eval_figures import Results, metric_table, read_results
from alignray.report.edit_eval_page import counted_notes, dataset_rows
from alignray.report.markdown import escape_markdown, front_matter, funnel_table, size_category, status_note, table
from alignray.report.page import MISSING, labelled, number
from alignray.report.run_folder import RunFolder, lookup, num_rows

COLUMNS = {
    "row_id": "128-bit id of what was asked, of whom and when; the same in every run",
    "method": "name of the method in `config.yaml`",
    "source": "the data set of the edit: zsre, wiki_recent, wiki_counterfact, wikibio, mquake, counterfact",
    "mode": "`single`, `batch` or `sequential` editing",
    "size": "edits of the batch or stream",
    "when": "of a stream: `at_insertion`, right after the record's own edit, or `final`, after all of them; else empty",
    "edit_id": "of the edit: a digest of its row in the file",
    "aspect": "`edit`, `rephrase` (both are edit success), `portability` or `locality`",
    "kind": "of portability and locality, as the file names it; else the aspect",
    "query": "the question alone",
    "target": "what should be answered; of locality the file's answer, which need not be what the model says",
    "prompt": "the user's turn as the model got it",
    "retrieved": "ids of the edits in the prompt, the most similar first; none where the method shows none",
    "token_score": "share of the target's tokens that are the most likely ones under teacher forcing; of locality, share on which the "
    "edited model says what it said before the edit",
    "exact_score": "1 where all of them are, else 0",
    "said": "the free-running answer; empty where none was asked for",
    "said_score": "1 where it is right, 0 where it is not, null where it was not judged",
    "fluency": "entropy of the n-grams of a continuation with the edit, in bits; null where none was asked for",
    "fluency_original": "the same of prompt and continuation together, as the authors measure it",
    "edit_seconds": "time the edit took",
    "answer_seconds": "time the answer took",
}


def edit_eval_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows, results = num_rows(run.part_paths()), read_results(run)
    sections = [
        front_matter(
            run, license="other", license_name="text-belongs-to-its-sources", size_categories=[size_category(rows)],
            task_categories=["text-generation"], tags=["alignray", "evaluation", "knowledge-editing", "lte"],
            configs=[{"config_name": "default", "data_files": [{"split": "test", "path": "parts/*.parquet"}]}],
        ),
        f"# {escape_markdown(run.name)}",
        f"{number(rows)} scored questions to edited language models: edits of {number(len(dataset_rows(run)['rows']))} data sets put to "
        f"{number(len(results.methods))} methods and measured by alignray as in chapter 5 of "
        "[arXiv:2506.09329](https://arxiv.org/abs/2506.09329). `report.html` in this folder shows the figures and lets one browse cases.",
        status_note(run),
        _results(results),
        _sizes(results),
        '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="test")\n```',
        _methods(results),
        _datasets(run),
        _protocol(run),
        _left_out(run),
        funnel_table(run),
        "## Licence\n\nEdits and questions belong to the data sets they came from, and nothing here grants a licence to them. What the "
        "models wrote comes under the terms of these models.",
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        "## How to make it again\n\n`alignray edit-eval config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same "
        "files and models. Items and ids come out the same; scores do as far as the hardware rounds alike.",
        "## Limits\n\n- The rows hold the data sets' questions and answers: keep them out of training data.\n- Many targets are untrue on "
        "purpose: they say what the edit says. Do not take them for facts.\n- Under teacher forcing a model is told all tokens before "
        "the one it is scored on: it can score well on an answer that it would not begin.\n- Locality tells whether a model says what "
        "it said before, not whether that is right.\n- Standard errors tell how much the choice of records matters, and nothing else.\n"
        "- Fluency of short texts is low because they are short: compare equal lengths.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _results(results: Results) -> str:
    """Single editing by data set."""
    single = results.settings_of("single")
    tables = [_table(found, has_size=False) for source in results.sources if (found := metric_table(results, source, single))]
    if not tables:
        return ""
    return "\n\n".join(["## Single editing", *tables, _READING])


_READING = (
    "Rates are in percent, fluency is entropy times 100; ± is one standard error, then the number of records. Bold: the best of its "
    "column, the bare model aside."
)


def _sizes(results: Results) -> str:
    """Batches and streams over all data sets, or over the first one where these were not put together."""
    settings = [*results.settings_of("batch"), *results.settings_of("sequential")]
    found = next((found for source in results.sources if (found := metric_table(results, source, settings))), None)
    return "\n\n".join(["## Many edits at once", _table(found, has_size=True)]) if found else ""


def _table(found: dict[str, Any], *, has_size: bool) -> str:
    header = [
        "method", *(["edits"] if has_size else []),
        *(f"{head['title'].lower()}, {measure}" for head in found["heads"] for measure in head["measures"]),
    ]
    rows = [
        [escape_markdown(row["method"]), *([row["setting"]] if has_size else []), *map(_cell, row["cells"])] for row in found["rows"]
    ]
    return table(f"### {escape_markdown(found['source'])}", header, rows)


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return MISSING
    value = f"**{cell['value']}**" if cell["is_best"] else cell["value"]
    return f"{value}{' ± ' + cell['se'] if cell['se'] else ''} ({number(cell['records'])})"


def _methods(results: Results) -> str:
    rows = [
        (escape_markdown(name), escape_markdown("; ".join(f"{label}: {value}" for label, value in labelled(told)), 600) or MISSING)
        for name, told in results.methods.items()
    ]
    return table("## Methods", ("method", "what it is"), rows) if rows else ""


def _datasets(run: RunFolder) -> str:
    found = dataset_rows(run)
    rows = [(escape_markdown(row["source"]), number(row["records"]), *map(number, row["items"])) for row in found["rows"]]
    return table("## Data sets", ("data set", "records", *found["aspects"]), rows) if rows else ""


def _protocol(run: RunFolder) -> str:
    told = labelled(lookup(run.manifest, "edit_eval", "protocol"))
    lines = [f"- {escape_markdown(label)}: {escape_markdown(text, 4000)}" for label, text in told]
    return "\n".join(["## How it was measured", "", *lines]) if lines else ""


def _left_out(run: RunFolder) -> str:
    lines = [f"- {number(count)} {escape_markdown(meaning)}" for meaning, count in counted_notes(run)]
    return "\n".join(["## Notes", "", *lines]) if lines else ""
