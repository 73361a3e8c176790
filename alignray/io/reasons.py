"""Why a record of the input did not become a document."""

from __future__ import annotations

REASONS = {
    "bad_content_encoding": "Content-Encoding is unknown, or the payload does not decode under it",
    "bad_encoding": "no character set turns the payload into text",
    "bad_http": "the block of a response is not an HTTP message",
    "bad_index_line": "a line of an index file is no entry, or names no bytes of a file",
    "bad_record": "the WARC record has no length or a type that carries no page we know",
    "bad_row": "the line is not JSON, the row is not an object, or its text is not a string",
    "corrupt_file": "damage: bytes that are no record or no compressed data; reading goes on behind them where possible",
    "duplicate_record": "the same row id was seen earlier in the same file, or range of one; detail names the first one's offset",
    "empty_payload": "nothing in the payload",
    "http_status": "status other than 200 and 203",
    "index_mismatch": "the bytes that an index names are no page, or one with another payload digest",
    "language": "none of gates.languages",
    "missing_column": "damage for a whole Parquet file, or a JSON row, without the text column",
    "no_text": "the page or row has no text",
    "not_html": "neither HTML nor plain text: images, scripts, DNS answers, crawler logs",
    "optout": "the page opts out of this use; no copy of it is kept, so raw is empty",
    "payload_too_large": "longer than max_record_bytes, as stored or unpacked",
    "revisit": "a pointer to a page stored elsewhere",
    "too_complex": "nesting or attributes so deep that parsing would take minutes",
    "too_long": "more than gates.max_chars of text",
    "too_short": "fewer than gates.min_chars of text",
    "truncated_file": "damage: the file ends inside a record or compressed block",
    "truncated_record": "the record is shorter than its Content-Length",
    "unsupported_format": "damage: a file that cannot be read at all (ARC)",
}
"""Every ``Rejected.reason`` of step "ingest". The ones that begin with "damage" can also stand for a part of the
file that is no record; those are counted in ``counts["damage"]``."""


class PageError(Exception):
    """One record cannot become a document; caught where records are read, and turned into a ``Rejected``.

    ``args`` are a key of ``REASONS`` and a note for the detail.
    """

    @property
    def reason(self) -> str:
        """The key of ``REASONS``."""
        return str(self.args[0])

    @property
    def note(self) -> str:
        """What was seen, for ``Rejected.detail``."""
        return str(self.args[1]) if len(self.args) > 1 else ""


def is_panic(err: BaseException) -> bool:
    """True for a panic of a Rust extension: a BaseException by design, but here it is one bad page, not our end."""
    return type(err).__name__ == "PanicException"
