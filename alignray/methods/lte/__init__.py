"""LTE (thesis chapter 5, arXiv:2402.11905): a model aligned once to use the edits that it is shown, then edited on the fly."""

from alignray.methods.lte.config import EvaluationConfig, Form, LTEConfig, QuotaConfig, ScopeConfig, ThreefoldConfig
from alignray.methods.lte.leakage import Overlap, leaking_ids, overlaps
from alignray.methods.lte.protocol import Event, Item, batch_events, items_of, stream_events
from alignray.methods.lte.quotas import Shortfall, num_examples, select_pairs, shortfalls, wanted_pairs
from alignray.methods.lte.render import fact_list, is_authors_lead_in, render_prompt
from alignray.methods.lte.scopes import build_drafts, examples_of
from alignray.methods.lte.steps import lte_steps, read_verdict
from alignray.methods.lte.threefold import Neighbour, Shown, num_neighbours, select_neighbours, show, style_draw

__all__ = [
    "EvaluationConfig", "Event", "Form", "Item", "LTEConfig", "Neighbour", "Overlap", "QuotaConfig", "ScopeConfig", "Shortfall",
    "Shown", "ThreefoldConfig", "batch_events", "build_drafts", "examples_of", "fact_list", "is_authors_lead_in", "items_of",
    "leaking_ids", "lte_steps", "num_examples", "num_neighbours", "overlaps", "read_verdict", "render_prompt",
    "select_neighbours", "select_pairs", "shortfalls", "show", "stream_events", "style_draw", "wanted_pairs",
]
