"""Pages to work on."""

from __future__ import annotations

import pytest

from alignray.schema import WebDocument
from alignray.seeding import row_id_of


@pytest.fixture
def pages() -> list[WebDocument]:
    """Sixty pages of three sections each."""
    return [
        WebDocument(
            row_id=row_id_of(str(n)), text=f"# Page {n}\n\nA first part on number {n}.\n\nA second part on number {n}.",
            source="cc", url=f"https://example.org/{n}", file="a.warc.gz", offset=n, record_id=f"<{n}>", digest=f"sha1:{n}",
            date="2024-05-18T00:00:00Z", language="en", optout="",
        )
        for n in range(60)
    ]
