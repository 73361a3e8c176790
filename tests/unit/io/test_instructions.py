"""Instructions out of files as people keep them: each row an instruction or a reject with a reason."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignray.errors import RecordError
from alignray.io.fetch import FetchConfig
from alignray.io.instructions import REASONS, read_instructions
from alignray.schema import LionDraft, Rejected


def read(path: Path | str) -> tuple[list[LionDraft], list[Rejected], Counter[str]]:
    counts: Counter[str] = Counter()
    found = list(read_instructions(str(path), FetchConfig(), counts))
    kept = [one for one in found if isinstance(one, LionDraft)]
    return kept, [one for one in found if isinstance(one, Rejected)], counts


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("row", "text"), [
    ({"instruction": "Sum up.", "input": "A long text.", "output": "x"}, "Sum up.\nA long text."),
    ({"instruction": "Name a river.", "input": "", "output": "x"}, "Name a river."),
    ({"instruction": "Name a river.", "input": None}, "Name a river."),
    ({"instruction": "Rewrite.", "instances": [{"input": "one", "output": "two"}]}, "Rewrite.\none"),
    ({"prompt": "Why?"}, "Why?"), ({"question": "Why?"}, "Why?"), ({"problem": "1+1"}, "1+1"), ({"turns": ["First.", "Second."]}, "First."),
    ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "a"}]}, "Hi."),
    ({"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "a"}]}, "Hi."),
])
def test_an_instruction_is_found_in_every_form(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    kept, rejected, _ = read(write(tmp_path / "rows.jsonl", [row]))
    assert [draft.instruction for draft in kept] == [text] and not rejected
    assert (kept[0].origin, kept[0].round) == ("seed", 0)


def test_the_same_instruction_has_the_same_id_in_any_file_and_form(tmp_path: Path) -> None:
    lines = write(tmp_path / "rows.jsonl", [{"instruction": "Name a river.", "category": "geo"}])
    array = tmp_path / "rows.json.gz"
    array.write_bytes(gzip.compress(json.dumps([{"question": " Name a river. "}]).encode()))
    pq.write_table(pa.table({"prompt": ["Name a river."]}), tmp_path / "rows.parquet")
    ids = {read(path)[0][0].row_id for path in (lines, array, tmp_path / "rows.parquet")}
    assert len(ids) == 1 and read(lines)[0][0].category == "geo"


def test_what_is_no_instruction_is_a_reject_with_its_reason(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Name a river."}, {"instruction": "Name a river. "}, {"instruction": "  "}, {"instruction": 7}, {"title": "x"},
        {"messages": [{"role": "assistant", "content": "a"}]},
    ]
    kept, rejected, counts = read(write(tmp_path / "rows.jsonl", rows))
    assert len(kept) == 1 and counts["records"] == len(rows)
    assert [one.reason for one in rejected] == ["duplicate_record", "empty_prompt", "bad_row", "missing_column", "empty_prompt"]
    assert {one.reason for one in rejected} <= REASONS.keys() and len({one.row_id for one in rejected}) == len(rejected)
    assert json.loads(rejected[2].detail)["note"] == "instruction is int, not a text"


def test_a_file_without_any_instruction_is_an_error_that_names_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"title": "x", "body": "y"}])
    with pytest.raises(RecordError, match=r"no row has instruction, prompt, .*there are: body, title"):
        read(path)


@pytest.mark.parametrize(("name", "num", "num_repeated"), [
    ("alpaca_5000.NC.jsonl.gz", 3541, 0), ("alpaca_en_demo.jsonl.gz", 710, 11), ("self_instruct_seeds.jsonl", 175, 0),
    ("user_oriented_252.jsonl", 182, 0), ("vicuna_80.jsonl", 80, 0), ("dummy_conversation.json.gz", 52, 448),
])
def test_the_real_files_are_read_to_the_last_row(name: str, num: int, num_repeated: int, data_dir: Path) -> None:
    kept, rejected, counts = read(data_dir / "instructions" / name)
    assert (len(kept), Counter(one.reason for one in rejected)) == (num, +Counter({"duplicate_record": num_repeated}))
    assert counts["records"] == num + num_repeated
