"""WebR (thesis chapter 4, arXiv:2504.15573): web pages into instruction data."""

from alignray.methods.webr.config import WebRConfig
from alignray.methods.webr.drafts import assign_branch, leading_sections, to_row_record, user_turn
from alignray.methods.webr.quota import branch_of, largest_balanced, quotas
from alignray.methods.webr.ratings import Rated, rating_steps
from alignray.methods.webr.steps import webr_steps

__all__ = [
    "Rated", "WebRConfig", "assign_branch", "branch_of", "largest_balanced", "leading_sections", "quotas", "rating_steps",
    "to_row_record", "user_turn", "webr_steps",
]
