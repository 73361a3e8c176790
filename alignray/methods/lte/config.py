"""LTE's switches. ``preset`` sets them together; each can be set on its own as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from alignray.config import Config

Form = Literal["thesis", "original_train", "original_seqedit", "original_easyedit", "ice"]
"""How facts and a query are put into one prompt."""
Group = Literal["zsre", "ripple_edits", "wikibio", "mquake", "counterfact"]
"""A line of Table C.1; ripple_edits is wiki_recent and wiki_counterfact together."""
GROUP_OF: dict[str, Group] = {
    "zsre": "zsre", "wiki_recent": "ripple_edits", "wiki_counterfact": "ripple_edits", "wikibio": "wikibio", "mquake": "mquake",
    "counterfact": "counterfact",
}

# what the authors' code does where the thesis says something else or leaves it open
ORIGINAL: dict[str, Any] = {
    "form": "original_train",
    "single_edit_form": "original_easyedit",
    "stream_form": "original_seqedit",
    "top_k": 1,
    "memory_key": "prompt",
    "threefold": {
        "neighbours": "random_of_top", "exclude": "same_subject", "exact_first": True, "when_short": "exact_only",
        "draw_per": "edit", "skip": ("mquake", "counterfact"),
    },
    "quotas": {"ripple_edits_rule": "original"},
    "evaluation": {"items": "first_only", "sequential": "at_insertion"},
}


class ThreefoldConfig(Config):
    """Which facts stand in a training prompt beside the exact one. Source: thesis chapter 5, the threefold strategy."""

    shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
    """Of prompts with the exact fact alone, with one neighbour and with two; their sum is 1."""
    neighbours: Literal["top", "random_of_top"] = "top"
    """top: the most similar ones; random_of_top (original): drawn from those that are left of the ``pool`` most similar ones."""
    pool: int = pydantic.Field(default=5, ge=1)
    """How many of the most similar facts random_of_top looks at, before any is excluded."""
    exclude: Literal["same_fact", "conflicting", "same_subject"] = "conflicting"
    """What is no neighbour. same_fact: the fact itself, by id or text; conflicting: that, and facts of the same subject and relation,
    which would stand for the edit's own older or newer versions; same_subject (original): the fact, and all of the same subject."""
    exact_first: bool = False
    """Whether the exact fact is always the first (original); else the order is shuffled, so that its place tells nothing."""
    when_short: Literal["show_fewer", "exact_only"] = "show_fewer"
    """What is shown where there are too few neighbours: those there are, or none at all (original). Counted either way."""
    draw_per: Literal["query", "edit"] = "query"
    """Whether each query of an edit draws its own number of neighbours, or all of them share one draw (original)."""
    skip: tuple[str, ...] = ()
    """Data sets whose prompts never get neighbours; original: mquake and counterfact, 46,000 of 60,000 rows."""

    @pydantic.field_validator("shares")
    @classmethod
    def _sum_to_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares {shares} must be 0 or more, and their sum 1")
        return shares


class CellQuota(Config):
    """Queries of one data set that become pairs of training examples."""

    in_scope: int = pydantic.Field(default=0, ge=0)
    """Also of each of its two cells, with and without the edit prompt."""
    out_of_scope: int = pydantic.Field(default=0, ge=0)
    """Also of each of its two cells."""


def _table_c1() -> dict[Group, CellQuota]:
    sizes: dict[Group, int] = {"zsre": 1000, "ripple_edits": 2250, "wikibio": 250, "mquake": 4000, "counterfact": 7500}
    return {group: CellQuota(in_scope=size, out_of_scope=size) for group, size in sizes.items()}


class QuotaConfig(Config):
    """How many training examples. Source: thesis Table C.1: 15,000 in each of the four cells, 60,000 in all."""

    table: dict[Group, CellQuota] = pydantic.Field(default_factory=_table_c1)
    """Pairs by data set; one that is not named gives none."""
    scale: float = pydantic.Field(default=1.0, gt=0)
    """All of the table times this, rounded to the nearest: 0.01 makes 600 examples."""
    ripple_edits_rule: Literal["quota", "original"] = "quota"
    """original: of each of wiki_recent and wiki_counterfact, records are taken whole until there are as many in-scope as out-of-scope
    queries and more than ``original_stop`` of them; that gives 2,405 to 2,800 pairs."""
    original_stop: int = pydantic.Field(default=1200, ge=0)
    """For the original rule."""


class ScopeConfig(Config):
    """Which queries an edit gives."""

    edit_prompt_share: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Share of edits that are asked by their own prompt; the others by a rephrased one (ZsRE) or by all items of portability
    (wiki_counterfact)."""
    locality_per_kind: int = pydantic.Field(default=3, ge=1)
    """Of a wiki_recent edit, at most so many out-of-scope queries of each kind."""
    earlier_share: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of MQuAKE's out-of-scope queries that are those of the other data sets; the rest are plain ones (Evol-Instruct)."""
    plain_answers: Literal["model", "drop"] = "model"
    """Where a file does not say what holds without the edit: a model is asked, or the pair is left out and counted."""
    free_text: Literal["model", "file"] = "model"
    """COUNTERFACT's in-scope pairs. model: query and answer are written and verified by one; file: the file's question, or a
    rephrased prompt, and the bare target."""
    out_of_scope: Literal["plain", "model", "file"] = "plain"
    """Where COUNTERFACT's out-of-scope queries come from: plain queries (Evol-Instruct), a model that sees the edit (Figure C.1), or
    the file's own items of locality."""
    verify: bool = True
    """Whether what a model wrote for free text is verified by one (Figure C.4)."""


class EvaluationConfig(Config):
    """How an edited model is measured. Every figure is given under both definitions where there are two."""

    items: Literal["all", "first_only"] = "all"
    """Of each kind of portability and locality, all items of a record or its first (original)."""
    sequential: Literal["final", "at_insertion", "both"] = "both"
    """When a stream's records are scored: all after the whole stream, each right after its own edit (original), or both."""
    fluency: Literal["both", "thesis"] = "both"
    """thesis: of the continuation of the prompt with its edit; both: also the authors' way, bare prompt and continuation together, at
    most 100 tokens, each drawn among the 5 most likely."""


class LTEConfig(Config):
    """How training data is made and edits are put to a model. Source: thesis chapter 5; the authors' code where it says "original"."""

    preset: Literal["thesis", "original"] = "thesis"
    """thesis: equations and text; original: compatible with the authors' code. Any other key overrides its preset value."""
    form: Form = "thesis"
    """Prompt form of training, and of inference where nothing else is said."""
    single_edit_form: Form | None = None
    """Of evaluation with one edit; None: ``form``."""
    stream_form: Form | None = None
    """Of evaluation with many edits, and of serving; None: ``form``."""
    top_k: int = pydantic.Field(default=3, ge=1)
    """Edits retrieved for a query."""
    similarity_floor: float | None = pydantic.Field(default=None, ge=-1, le=1)
    """Edits whose cosine similarity to the query is less are not shown; None shows the top_k whatever they are, as the thesis does."""
    memory_key: Literal["descriptor", "prompt"] = "descriptor"
    """What of an edit is embedded: prompt and target, or the prompt alone (original)."""
    threefold: ThreefoldConfig = ThreefoldConfig()
    """Which facts stand beside the exact one."""
    quotas: QuotaConfig = QuotaConfig()
    """How many training examples."""
    scopes: ScopeConfig = ScopeConfig()
    """Which queries an edit gives."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How an edited model is measured."""
    retries: int = pydantic.Field(default=2, ge=0, le=9)
    """How often the verifier is asked again where its verdict cannot be read; the pair is dropped and counted after that."""
    on_length: Literal["reject", "keep"] = "reject"
    """What becomes of an answer that was cut at max_new_tokens."""
    on_leakage: Literal["drop", "report", "refuse"] = "drop"
    """What becomes of training edits that are also test edits: they are left out, only told of, or the run does not start."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("preset") != "original":
            return data
        filled = {**ORIGINAL, **data}
        for part, values in ORIGINAL.items():
            own = data.get(part)
            if isinstance(values, dict) and isinstance(own, Config):
                own = own.model_dump(exclude_unset=True)
            if isinstance(values, dict) and isinstance(own, Mapping):
                filled[part] = {**values, **own}
        return filled

    def form_for(self, use: Literal["train", "single", "stream"]) -> Form:
        """The prompt form of a use."""
        own = {"train": self.form, "single": self.single_edit_form, "stream": self.stream_form}[use]
        return own or self.form
