"""The model card of a training run: what was trained on what, how, with what result."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from alignray.report.markdown import escape_markdown, front_matter, funnel_table, status_note, table
from alignray.report.page import is_number, labelled, mapping, number, percent
from alignray.report.run_folder import RunFolder, lookup
from alignray.report.train_figures import (
    before_and_after,
    is_sft,
    layout_sentence,
    length_bias,
    lines_of,
    objective_name,
    objective_of,
    reference_sentence,
    strategy_of,
)

HELD_OUT = {
    "loss": "loss", "accuracy": "accuracy (chosen reward above rejected)", "margin": "reward margin", "chosen_reward": "reward of chosen",
    "rejected_reward": "reward of rejected", "kl": "KL from the base model, nats per token",
}


def train_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    sections = [
        _front_matter(run),
        f"# {escape_markdown(run.name)}",
        f"{escape_markdown(_base(run))}, tuned with {escape_markdown(objective_name(run))} by alignray. `report.html` in this folder "
        "shows the run; `model/` holds the " + ("adapters" if _has_adapters(run) else "model") + ".",
        status_note(run),
        _usage(run),
        _data(run),
        _training(run),
        _results(run),
        "## Licence\n\nThe licence of the base model holds for what was made from it, and the terms of the training data for what was "
        "learnt from them. Check both before you use the model or pass it on.",
        "## How to make it again\n\n`alignray train config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same input "
        "files gives the same batches in the same order with any number of workers; losses agree to rounding.",
        _limits(run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _base(run: RunFolder) -> str:
    return str(lookup(run.config, "model", "path") or "A model")


def _has_adapters(run: RunFolder) -> bool:
    return bool(lookup(run.config, "model", "lora"))


def _front_matter(run: RunFolder) -> str:
    base = _base(run)
    fields: dict[str, Any] = {
        "license": "other", "license_name": "that-of-base-model-and-data", "library_name": "peft" if _has_adapters(run) else "transformers",
        "pipeline_tag": "text-generation", "tags": ["alignray", "sft" if is_sft(run) else "preference", *_tags(run)],
    }
    # the Hub links this name; a folder of this machine means nothing there
    if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", base):
        fields["base_model"] = base
    return front_matter(run, **fields)


def _tags(run: RunFolder) -> list[str]:
    kind, weights = objective_of(run).get("kind"), lookup(objective_of(run), "weights", "kind")
    return [str(name)[:40] for name in (kind, weights) if name not in (None, "none", "sft")]


def _usage(run: RunFolder) -> str:
    if _has_adapters(run):
        return (
            "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder/model")\n```'
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder/model")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder/model")\n```'
    )


def _data(run: RunFolder) -> str:
    result, stats, bias = mapping(run.manifest.get("result")), mapping(run.manifest.get("tokens")), length_bias(run)
    paths = lookup(run.config, "input", "paths")
    shown = ", ".join(escape_markdown(str(path)) for path in paths[:10]) if isinstance(paths, list) else "not recorded"
    unit = "examples" if is_sft(run) else "pairs"
    lines = [f"- input: {shown}", f"- {unit}: {number(result.get('rows'))}, and {number(result.get('eval_rows'))} held out"]
    if is_number(stats.get("tokens")):
        lines.append(f"- tokens: {number(stats['tokens'])}, {number(stats.get('targets'))} of them "
                     + ("targets" if is_sft(run) else "of responses"))
    if bias is not None:
        lines.append(f"- lengths: chosen is longer in {percent(bias.rate)} of the pairs ({bias.mean_chosen:,.1f} tokens against "
                     f"{bias.mean_rejected:,.1f} on average)")
    return "\n\n".join(part for part in ("## Data", "\n".join(lines), funnel_table(run).replace("## ", "### ", 1)) if part)


def _training(run: RunFolder) -> str:
    parts = [("objective", objective_of(run)), ("optimizer", lookup(run.config, "optimizer")), ("strategy", strategy_of(run))]
    settings: list[tuple[str, str]] = [("steps", number(lookup(run.manifest, "result", "steps")))]
    settings += labelled({name: run.config.get(name) for name in ("batch_size", "epochs", "max_tokens_per_device", "seed")})
    for title, values in parts:
        settings += [(f"{title}: {label}", value) for label, value in labelled(values)]
    settings += [(f"model: {label}", value) for label, value in labelled(lookup(run.config, "model")) if label != "path"]
    told = [sentence for sentence in (layout_sentence(run), reference_sentence(run)) if sentence]
    rows = ((escape_markdown(label), escape_markdown(value)) for label, value in settings)
    return "\n\n".join([table("## Training", ("setting", "value"), rows), *map(_sentence, told)])


def _sentence(text: str) -> str:
    return escape_markdown(text, limit=1000)


def _results(run: RunFolder) -> str:
    rows = []
    for name, label in HELD_OUT.items():
        measured = before_and_after(run, name, percent if name == "accuracy" else lambda value: f"{value:.4g}")
        if measured is not None:
            rows.append((label, *measured))
    trained = lines_of(run.metrics, "train")
    lost = f"The loss of the last training step was {trained[-1]['loss']:.4g}." if trained and is_number(trained[-1].get("loss")) else ""
    held_out = table("", ("held out", "figure", ""), rows) if rows else "Nothing was held out, so nothing was measured."
    return "\n\n".join(part for part in ("## Results", held_out, lost) if part)


def _limits(run: RunFolder) -> str:
    limits: list[str] = ["The figures are of rows like those that were trained on; nothing else was measured here."]
    if not is_sft(run):
        limits.append("A higher reward margin is not a better answer: look at answers before you use the model.")
    limits.append("What was wrong, private or offensive in the data may be in the model.")
    limits += [_sentence(str(warning)) for warning in _listed(run.manifest.get("warnings"))]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()
