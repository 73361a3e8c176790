"""The dataset card of a WebR run: how pages became rows, which models wrote them, opt-out signals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from alignray.report.markdown import by_count, escape_markdown, front_matter, funnel_table, size_category, status_note, table
from alignray.report.page import dollars, number
from alignray.report.run_folder import RunFolder, count_column, lookup, num_rows

COLUMNS = {
    "row_id": "128-bit id made from the page's record id and digest; the same page gives the same id in every run",
    "messages": "the chat: `role` (user, assistant) and `content`, in order",
    "branch": "`instruction`: the page is part of the request; `response`: the page was the source of the answer",
    "part": "true where the request is about a part of the page, false for the whole page",
    "layout": "order inside the user turn, `doc_first`, `request_first` or `request_only`; a blank line joins page and request",
    "persona": "the author profile that the model imagined for the page",
    "instruction": "the request alone, without the page",
    "source": "name of the source in the config",
    "url": "address of the page",
    "file": "input file that held the page",
    "offset": "byte offset of the record in that file",
    "record_id": "WARC record id",
    "digest": "payload digest of the record",
    "date": "when the page was fetched",
    "language": "detected language of the page",
    "optout": "opt-out signals seen on the page, as JSON; empty when there were none",
    "model": "model that wrote the response",
    "prompt_tokens": "tokens sent to models for this row, over all steps",
    "completion_tokens": "tokens received from models for this row, over all steps",
    "cost_usd": "what these calls cost",
    "cluster_size": "near-duplicates that this row stands for, itself included",
}

_STEPS = {
    "webr/persona": "imagine the profile of the page's author",
    "webr/instruction": "write a request that fits page and persona",
    "webr/response": "answer the request",
    "webr/refine": "improve the answer with what the page says (web as response only)",
}


def webr_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows = num_rows(run.part_paths())
    languages = count_column(run.part_paths(), "language")
    models = count_column(run.part_paths(), "model")
    sections = [
        _front_matter(run, rows, languages),
        f"# {escape_markdown(run.name)}",
        _summary(run, rows),
        _made(run, models),
        funnel_table(run),
        _optout(run),
        "## Licence\n\nThe text of the pages belongs to the sites it came from, and nothing here grants a licence to it. Pages "
        "from Common Crawl come under the [Common Crawl terms of use](https://commoncrawl.org/terms-of-use). What the models "
        "wrote comes under the terms of these models. Check all three before you train on the rows or pass them on.",
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        _reproduce(run),
        "## Limits\n\n- Requests and answers were written by models and were not read by people. They can be wrong, and can "
        "repeat what is wrong, private or offensive on a page.\n"
        "- Opt-out signals are read from the page and its HTTP headers; a wish expressed elsewhere is not known here.\n"
        "- Language, lengths and root verbs in the report are estimates.\n"
        "- Near-duplicates are compared by their instructions, so two rows can still share a page's text.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(run: RunFolder, rows: int, languages: Mapping[str, int]) -> str:
    known = [code for code, _ in by_count(languages) if re.fullmatch(r"[a-z]{2,3}", code)]
    return front_matter(
        run,
        **({"language": known[:20]} if known else {}),
        license="other",
        license_name="page-contents-belong-to-their-sites",
        license_link="https://commoncrawl.org/terms-of-use",
        size_categories=[size_category(rows)],
        task_categories=["text-generation"],
        tags=["alignray", "instruction-tuning", "synthetic", "webr"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "parts/*.parquet"}]}],
    )


def _summary(run: RunFolder, rows: int) -> str:
    lines = [
        f"{number(rows)} instruction and response pairs made from web pages with WebR "
        "([arXiv:2504.15573](https://arxiv.org/abs/2504.15573)) by alignray. `report.html` in this folder shows the run.",
    ]
    lines.append(status_note(run))
    lines.append(
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("path/to/this/folder", split="train")\n'
        'rows = load_dataset("parquet", data_files="path/to/this/folder/parts/*.parquet", split="train")\n```'
    )
    return "\n\n".join(line for line in lines if line)


def _made(run: RunFolder, models: Mapping[str, int]) -> str:
    branches = lookup(run.manifest, "result", "branches")
    lines = [
        "## How it was made",
        "A page becomes a row in one of two ways. *Web as instruction*: the page goes into the request, which asks to work on "
        "it. *Web as response*: the page is what a good answer would say, and the answer is written and then refined with it.",
    ]
    if isinstance(branches, Mapping) and branches:
        shares = ", ".join(f"{number(count)} web as {escape_markdown(str(name))}" for name, count in branches.items())
        lines.append(f"Rows: {shares}; {number(lookup(run.manifest, 'result', 'part'))} about a part of the page.")
    facts = []
    if run.config.get("preset"):
        facts.append(("preset", escape_markdown(str(run.config["preset"]))))
    named = [escape_markdown(model) for model, _ in by_count(models) if model]
    facts.append(("models", ", ".join(named[:20]) or "not recorded"))
    if lookup(run.manifest, "usage", "usd") is not None:
        facts.append(("cost", dollars(run.manifest["usage"]["usd"]).replace("$", "\\$")))
    lines.append("\n".join(f"- {label}: {value}" for label, value in facts))
    steps = lookup(run.manifest, "usage", "steps")
    if isinstance(steps, Mapping) and steps:
        lines.append(table("", ("step", "what it asks", "role", "calls", "prompt tokens", "completion tokens"), [
            (escape_markdown(name), _STEPS.get(name, ""), escape_markdown(str(lookup(step, "role") or "")),
             *(number(lookup(step, key)) for key in ("calls", "prompt_tokens", "completion_tokens")))
            for name, step in steps.items()
        ]))
    return "\n\n".join(lines)


def _optout(run: RunFolder) -> str:
    found = lookup(run.manifest, "ingest", "optout")
    policy = run.config.get("optout", lookup(run.config, "ingest", "optout"))
    lines = ["## Opt-out", "alignray reads robots meta tags, X-Robots-Tag headers and TDM reservations before it uses a page."]
    facts = []
    if policy is not None and lookup(found, "policy") is None:
        shown = policy if isinstance(policy, str) else yaml.safe_dump(policy, default_flow_style=True)
        facts.append(f"- policy: {escape_markdown(str(shown))}")
    if isinstance(found, Mapping):
        facts += [f"- {escape_markdown(str(name))}: {_plain(value)}" for name, value in found.items()]
    lines.append("\n".join(facts) or "This run recorded no counts of them.")
    return "\n\n".join(lines)


def _reproduce(run: RunFolder) -> str:
    facts = [
        ("config fingerprint", run.manifest.get("fingerprint")), ("seed", run.config.get("seed")),
        ("alignray", run.manifest.get("alignray")), ("started", run.manifest.get("started")),
    ]
    listed = "\n".join(f"- {label}: {escape_markdown(str(value))}" for label, value in facts if value is not None)
    return (
        "## How to make it again\n\n`alignray webr config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the "
        "same input files. Pages, branches and order come out the same; texts do as far as the model answers alike."
        + (f"\n\n{listed}" if listed else "")
    )


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, int) and not isinstance(value, bool) else escape_markdown(str(value))
