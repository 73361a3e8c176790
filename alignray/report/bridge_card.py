"""The dataset card of a bridge run: what the editor did to the pairs, and which of them were filtered."""

from __future__ import annotations

from alignray.report.markdown import by_count, escape_markdown, front_matter, funnel_table, size_category, status_note, table
from alignray.report.page import dollars, is_number, mapping, number, percent
from alignray.report.run_folder import RunFolder, count_column, lookup, num_rows

COLUMNS = {
    "row_id": "128-bit id made from the pair's texts; the same pair gives the same id in every run",
    "prompt": "the turns before the answer: `role` (system, user, assistant) and `content`, in order",
    "chosen": "the winning answer to train on; the edited one (pseudo chosen) in the variants bridge and no_reference",
    "rejected": "the losing answer to train on; the edited one in the variant degrade",
    "original_chosen": "the winning answer as it came, or the true one",
    "original_rejected": "the losing answer as it came, or as the student model wrote it",
    "source": "where the row came from, as the input says",
    "task": "qa, math or instruction",
    "variant": "bridge, no_reference, degrade or plain",
    "edit_rate": "share of the words that differ between rejected and chosen (Levenshtein over the longer one)",
    "original_edit_rate": "the same between the original answers",
    "copies_reference": "true where the editor gave the reference back",
    "model": "the editor",
    "prompt_tokens": "tokens sent to models for this row, over all steps",
    "completion_tokens": "tokens received from models for this row, over all steps",
    "cost_usd": "what these calls cost",
}
_VARIANTS = {
    "bridge": "The losing answer was edited where it is wrong or weak, with the winning one as reference, whose place it takes.",
    "no_reference": "The losing answer was edited where it is wrong or weak, without a reference, and takes the winning one's place.",
    "degrade": "The winning answer was edited towards the losing one, whose place it takes.",
    "plain": "The pairs are as they were read.",
}


def bridge_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows = num_rows(run.part_paths())
    sections = [
        front_matter(
            run, license="other", license_name="text-belongs-to-its-sources", size_categories=[size_category(rows)],
            task_categories=["text-generation"], tags=["alignray", "preference", "dpo", "bmc"],
            configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "parts/*.parquet"}]}],
        ),
        f"# {escape_markdown(run.name)}",
        f"{number(rows)} preference pairs made with the bridging step of BMC ([arXiv:2408.07471](https://arxiv.org/abs/2408.07471)) by "
        "alignray. `report.html` in this folder shows the run.",
        status_note(run),
        '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="train")\n```',
        _made(run),
        funnel_table(run),
        "## Licence\n\nQuestions and answers belong to the data they came from, and nothing here grants a licence to them. What the models "
        "wrote comes under the terms of these models. Check both before you train on the rows or pass them on.",
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        "## How to make it again\n\n`alignray bridge config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same "
        "input files. Pairs and ids come out the same; texts do as far as the model answers alike.",
        "## Limits\n\n- Edits were written by a model and were not read by people: an edited answer can still be wrong, and a good one can "
        "have been filtered.\n- What was wrong, private or offensive in the input may still be in the rows.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _made(run: RunFolder) -> str:
    facts = mapping(run.manifest.get("bridging"))
    lines = ["## How it was made", _VARIANTS.get(str(lookup(run.config, "bridge", "variant")), "")]
    if lookup(run.config, "input", "kind") == "questions":
        lines.append("Losing answers were written by a student model that got the question alone; the true answers are the winning ones.")
    if facts.get("edited") and facts.get("task") != "instruction":
        lines.append(
            f"{number(facts.get('already_good'))} of {number(facts['edited'])} pairs ({percent(facts.get('good_rate'))}) were filtered, "
            "since their losing answer was found good already."
        )
    listed = [("models", ", ".join(escape_markdown(name) for name, _ in by_count(count_column(run.part_paths(), "model")) if name))]
    if is_number(facts.get("mean_edit_rate")):
        listed.append(("mean edit rate", f"{percent(facts['mean_edit_rate'])}, {percent(facts.get('mean_original_edit_rate'))} before"))
        listed.append(("copies of the reference", number(facts.get("copies"))))
    if lookup(run.manifest, "usage", "usd") is not None:
        listed.append(("cost", dollars(run.manifest["usage"]["usd"]).replace("$", "\\$")))
    lines.append("\n".join(f"- {label}: {value}" for label, value in listed if value))
    return "\n\n".join(line for line in lines if line)
