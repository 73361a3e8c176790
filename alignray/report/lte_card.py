"""The dataset card of an LTE run: what the rows are, how they came about, counts by cell, sources, limits, how to train."""

from __future__ import annotations

from typing import Any

from alignray.methods.lte.render import PROMPTS
from alignray.prompts import load_prompt
from alignray.report.lte_figures import (
    GROUPS,
    SCOPES,
    SOURCES,
    Rows,
    cell_table,
    leakage_told,
    left_out,
    places_view,
    read_rows,
    source_files,
    threefold_view,
)
from alignray.report.markdown import escape_markdown, front_matter, funnel_table, size_category, status_note, table
from alignray.report.page import MISSING, dollars, mapping, number, percent
from alignray.report.run_folder import RunFolder, lookup

COLUMNS = {
    "row_id": "128-bit id made from the pair's; the same query to the same edit gives the same id in every run",
    "pair_id": "shared by the example with the edit prompt and the one without it",
    "edit_id": "of the edit: a digest of its row in the file",
    "source": "the data set of the edit: zsre, wiki_recent, wiki_counterfact, wikibio, mquake, counterfact",
    "kind": "`in_scope`: the edit bears on the query; `out_of_scope`: it does not; `free_text`: it does, and is answered at length",
    "aspect": "where the query comes from: edit, rephrase, a kind of portability or locality, plain, earlier, model, file",
    "with_prompt": "whether the facts stand before the query",
    "query": "the question alone",
    "answer": "what is trained on; out of scope the same with and without the edit prompt",
    "facts": "facts in the prompt, in the order in which they stand there; none without it",
    "places": "for every fact in the prompt, the id of the edit it belongs to; the exact ones have `edit_id`",
    "retrieved": "edit ids of the neighbours among them, the most similar first",
    "style": "`exact_only`, `exact_and_1` or `exact_and_2`, as drawn; `bare` without the edit prompt",
    "messages": "the chat to train on: `role` (user, assistant) and `content`, in order",
    "prompt_tokens": "tokens sent to models for the pair, on the example with the edit prompt",
    "completion_tokens": "tokens received from models for the pair, likewise",
    "cost_usd": "what these calls cost, likewise",
}


def lte_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows = read_rows(run)
    sections = [
        front_matter(
            run, license="other", license_name="text-belongs-to-its-sources", size_categories=[size_category(rows.num)],
            task_categories=["text-generation"], tags=["alignray", "knowledge-editing", "instruction-tuning", "lte"],
            configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "parts/*.parquet"}]}],
        ),
        f"# {escape_markdown(run.name)}",
        f"{number(rows.num)} examples that teach a model to answer by the facts in its prompt, and to leave them aside where they do not "
        "bear on the question: training data of LTE, Learning to Edit ([arXiv:2402.11905](https://arxiv.org/abs/2402.11905)), made by "
        "alignray as in chapter 5 of [arXiv:2506.09329](https://arxiv.org/abs/2506.09329). `report.html` in this folder shows the run.",
        status_note(run),
        '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="train")\n'
        'prompted = rows.filter(lambda row: row["with_prompt"])\n```',
        _made(run),
        _form(run),
        _cells(run),
        _beside(run, rows),
        _sources(run, rows),
        _leakage(run),
        _engines(run),
        funnel_table(run),
        "## Licence\n\nEdits and questions belong to the data they came from, and nothing here grants a licence to them. What models "
        "wrote comes under the terms of these models. Check both before you train on the rows or pass them on.",
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        "## How to train\n\n```sh\nalignray train configs/train/thesis-lte.yaml --set 'input.paths=[\"RUN\"]'\n```\n\nwith this folder's "
        "path for RUN (thesis Table C.2; `configs/train/thesis-lte-lora.yaml` trains LoRA weights). Use the same form of the prompt when "
        "you evaluate or serve the model: it learns this one.",
        "## How to make it again\n\n`alignray lte config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same "
        "files. Pairs, neighbours and ids come out the same; texts do as far as the models answer alike.",
        _limits(run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _made(run: RunFolder) -> str:
    is_verified = lookup(run.config, "lte", "scopes", "verify") is not False
    verified = ", and what a verifier does not find to follow from the edit is dropped" if is_verified else ""
    lines = [
        "## How the rows came about",
        "An edit is a fact that is to hold from now on. Each gives queries: in-scope ones, which it bears on (its own prompt, that in "
        "other words, what follows from it), out-of-scope ones, which it does not, and of COUNTERFACT free text, where a model writes "
        f"query and answer{verified}. Every query becomes a pair: once with the edit "
        "prompt, once without it. In scope the answer with the edit prompt follows the edit, and the one without it is what held before "
        "or what a model says unasked; out of scope both are the same, so that the model learns when to leave the facts aside. "
        "Which queries are taken follows a seeded draw until the quotas of thesis Table C.1 are full.",
    ]
    notes = left_out(run)
    if notes:
        lines.append("Left out before a model was asked:\n\n" + "\n".join(
            f"- {number(count)} {escape_markdown(meaning)}" for meaning, count in notes))
    return "\n\n".join(lines)


def _form(run: RunFolder) -> str:
    """The prompt's form, as the package words it."""
    form = lookup(run.manifest, "lte", "form") or lookup(run.config, "lte", "form")
    name = mapping(PROMPTS).get(str(form))
    if name is None:
        return ""
    shown = f"```text\n{load_prompt(name).text}\n```"
    told = f"## Form of the prompt\n\n`{form}`; one fact stands as it is, several are numbered lines.\n\n{shown}"
    own = lookup(run.config, "prompts", "dir")
    return told + ("\n\nThe run took prompt texts from a folder of its own, whose wording may differ." if own else "")


def _cells(run: RunFolder) -> str:
    found = cell_table(run)
    if not found:
        return ""
    rows = [
        (escape_markdown(row["group"]), escape_markdown(row["scope"]), number(row["wanted"]), number(row["found"]),
         f"**{number(row['missing'])}**" if row["is_short"] else number(row["missing"]) if row["missing"] else MISSING)
        for row in found["rows"]
    ]
    total = found["total"]
    rows.append(("all", "", number(total["wanted"]), number(total["found"]), number(total["missing"]) if total["missing"] else MISSING))
    told = "Pairs; each is one example with the edit prompt and one without it. Free text counts as in-scope."
    if found["num_short"]:
        told += f" **{number(found['num_short'])} cells are short of what was wanted.**"
    return table("## Pairs by cell of Table C.1", ("data set", "scope", "wanted", "found", "missing"), rows) + f"\n\n{told}"


def _beside(run: RunFolder, rows: Rows) -> str:
    drawn = threefold_view(run, rows)
    if not drawn:
        return ""
    lines = [
        (row["style"], percent(row["wanted"]), percent(row["rate"]), number(row["count"]), number(row["shown"])) for row in drawn["rows"]
    ]
    embedder = escape_markdown(str(run.config.get("embedder") or "the embedder"))
    told = [
        table("## What stands beside the exact fact", ("prompts with", "configured", "drawn", "count", "in the rows"), lines),
        f"Neighbours are facts of the same data set that are similar by {embedder}. " + (
            f"{number(drawn['short'])} that were drawn are missing: there were too few." if drawn["short"] else
            "None that was drawn is missing."),
    ]
    places = places_view(run, rows)
    if places:
        told.append("\n".join(f"- {one['text']}" for one in places["told"]))
    if drawn["skipped"]:
        told.append(f"Never with neighbours, as configured: {', '.join(map(escape_markdown, drawn['skipped']))}.")
    return "\n\n".join(told)


def _sources(run: RunFolder, rows: Rows) -> str:
    tables = []
    files = [
        (escape_markdown(file.path), escape_markdown(file.form) or MISSING, file.use, number(file.kept), number(file.rejected))
        for file in source_files(run)
    ]
    if files:
        tables.append(table("", ("file", "form", "what for", "records", "turned down"), files))
    by_set = [
        (SOURCES.get(source, escape_markdown(source)), SCOPES.get(kind, escape_markdown(kind)), number(rows.cells[source, kind, True]),
         number(rows.cells[source, kind, False]))
        for source, kind in sorted({(source, kind) for source, kind, _ in rows.cells}, key=_in_order)
    ]
    if by_set:
        tables.append(table("", ("data set", "kind", "examples with the edit prompt", "without it"), by_set))
    return "\n\n".join(["## Sources", *tables]) if tables else ""


def _in_order(cell: tuple[str, str]) -> tuple[int, str, int, str]:
    order, scopes = list(SOURCES), list(SCOPES)
    source, kind = cell
    return (order.index(source) if source in order else len(order), source, scopes.index(kind) if kind in scopes else len(scopes), kind)


def _leakage(run: RunFolder) -> str:
    told = leakage_told(run)
    return "\n\n".join(["## Check against test edits", *(escape_markdown(one.text, 600) for one in told)]) if told else ""


def _engines(run: RunFolder) -> str:
    steps = mapping(lookup(run.manifest, "usage", "steps"))
    if not steps:
        return "## Models\n\nNo model was asked: all texts stand in the files." if run.manifest.get("usage") else ""
    rows = [
        (escape_markdown(str(name)), escape_markdown(str(lookup(step, "role") or "")), _models(step), number(lookup(step, "calls")),
         _money(lookup(step, "usd")))
        for name, step in steps.items()
    ]
    return table("## Models", ("step", "role", "models", "calls", "cost"), rows) + (
        f"\n\nIn all {_money(lookup(run.manifest, 'usage', 'usd'))}.")


def _models(step: Any) -> str:
    models = mapping(step).get("models")
    return ", ".join(escape_markdown(str(model)) for model in models[:10]) if isinstance(models, list) and models else MISSING


def _money(value: Any) -> str:
    return dollars(value).replace("$", "\\$")


def _limits(run: RunFolder) -> str:
    lines = [
        "- Many answers with the edit prompt are untrue, on purpose: they say what the edit says. Do not take them for facts.",
        "- Texts that models wrote were not read by people. What the verifier lets pass can still be wrong, private or offensive.",
        "- What is out of scope is so by the files or by drawing a query at random; now and then an edit bears on it after all.",
        "- The check against test edits compares subject and relation, and questions by their words: the same fact in other words passes.",
        "- Do not measure an editor on the edits that these rows were made of.",
    ]
    if lookup(run.config, "lte", "scopes", "verify") is False:
        lines.append("- What models wrote for free text was not verified (scopes.verify is off).")
    found = cell_table(run) or {"rows": []}
    if any(row["group"] == GROUPS["mquake"] for row in found["rows"]):
        lines.append("- MQuAKE has no training part: its edits here are those that others evaluate with.")
    short = [escape_markdown(f"{row['group']} {row['scope']}") for row in found["rows"] if row["is_short"]]
    if short:
        lines.append(f"- Fewer pairs than wanted: {', '.join(short)}.")
    if run.config.get("embedder") == "hash":
        lines.append("- Neighbours were found by hashed words, not by a sentence model: they are good for a try only.")
    return "\n".join(["## Limits", "", *lines])
