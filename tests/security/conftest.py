"""Property tests without a deadline: how long an example takes on a shared machine is no property of the code."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("security", deadline=None, print_blob=True)
hypothesis.settings.load_profile("security")
