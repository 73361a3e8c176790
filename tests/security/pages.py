"""Input files full of hostile pages, good ones among them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.security import hostile
from tests.warcs import PROSE, http, record

NASTY_NAME = "in put;$(id) \x1b[31m [bold] <b>&{{7*7}}.jsonl"


def words(number: int, count: int = 60) -> str:
    """Prose that no other page has."""
    return " ".join(
        f"The {number}th kettle of {number * 7 + place} was on the stove at {place} in the evening." for place in range(count // 10)
    )


def write_inputs(folder: Path) -> list[str]:
    """A WARC, JSON lines under a nasty name, and Parquet with strings that are no UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, (name, text) in enumerate(hostile.ALL.items()):
        clean = hostile.storable(text)
        body = f"<article><p>{PROSE} {words(number)}</p><p>{clean}</p></article>"
        page = f"<html><head><title>{clean}</title></head><body>{body}</body></html>"
        headers = {
            "WARC_Target_URI": f"javascript:alert('{name}')//../../{name}\x1b[31m", "WARC_Record_ID": f"../../{name}\x00\x1b]0;x\x07",
        }
        records.append(record(http(page.encode()), number=number, **headers))
    lines = "\n".join(f"line {number} of a very long page" for number in range(1_000_000))
    records.append(record(http(lines.encode(), "Content-Type: text/plain"), number=90))
    records.append(record(http(b"\xff\xfe\x00\xd8\x00\xdc" + PROSE.encode("utf-16-le")), number=91))
    (folder / "pages.warc").write_bytes(b"".join(records))

    rows = [
        json.dumps({"text": f"{PROSE} {words(20 + number)} {text}", "url": text, "id": text}).encode()
        for number, text in enumerate(hostile.ALL.values())
    ]
    rows += [
        json.dumps({"text": f"{words(40)} {PROSE} {'long ' * 1_900_000}", "url": "u" * 1_000_000}).encode(),
        b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": "\xff\xfe not UTF-8 \xed\xa0\x80"}',
        b'{"text": "' + b"x" * (22 << 20) + b'"}',
        b'{"text": 1e400}', b'{"text": {"__class__": "os.system"}}', b"\x00\x00\x00", b'"\\ud800"',
    ]
    (folder / NASTY_NAME).write_bytes(b"\n".join(rows) + b"\n")

    good = [f"{PROSE} {words(50 + number)}".encode() for number in range(12)]
    table = pa.table({"text": pa.array([*good, b"\xed\xa0\x80 half", b"\xff\xfe"], pa.binary()).view(pa.string())})
    pq.write_table(table, folder / "rows.parquet")
    return [str(folder / "pages.warc"), str(folder / NASTY_NAME), str(folder / "rows.parquet")]
