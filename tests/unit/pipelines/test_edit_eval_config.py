"""What an evaluation of edited models may be told to read."""

import pytest

from alignray.pipelines.edit_eval_config import EditEvalInputConfig


def test_edits_or_opinions_must_be_named() -> None:
    with pytest.raises(ValueError, match="nothing to edit by; name files under edits or sentiment"):
        EditEvalInputConfig()
    assert EditEvalInputConfig(sentiment=("a.json",)).edits == ()
