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
from alignray.io.preferences import REASONS, example_of, pair_of, read_examples, read_pairs
from alignray.io.sources import IngestConfig, SourceConfig, Split, list_splits
from alignray.schema import BridgedPair, Message, PreferencePair, Rejected, SftExample, table_of

USER, GOOD, BAD = Message("user", "2+2?"), "four", "five"
SYSTEM = Message("system", "be brief")


def split_of(path: Path) -> Split:
    return list_splits(IngestConfig(sources=(SourceConfig(name="input", paths=(str(path),)),), split_bytes=None))[0]


def openai(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


ONE_PAIR: dict[str, dict[str, Any]] = {
    "strings": {"prompt": "2+2?", "chosen": GOOD, "rejected": BAD},
    "question": {"question": "2+2?", "chosen": GOOD, "rejected": BAD},
    "prompt as turns": {"prompt": openai(("user", "2+2?")), "chosen": GOOD, "rejected": BAD},
    "turns behind a prompt": {
        "prompt": openai(("user", "2+2?")), "chosen": openai(("assistant", GOOD)), "rejected": openai(("assistant", BAD)),
    },
    "whole chats": {"chosen": openai(("user", "2+2?"), ("assistant", GOOD)), "rejected": openai(("user", "2+2?"), ("assistant", BAD))},
    "whole chats, prompt too": {
        "prompt": "2+2?", "chosen": openai(("user", "2+2?"), ("assistant", GOOD)), "rejected": openai(("user", "2+2?"), ("assistant", BAD)),
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "2+2?"}], "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "transcripts": {"chosen": f"\n\nHuman: 2+2?\n\nAssistant: {GOOD}", "rejected": f"\n\nHuman: 2+2?\n\nAssistant: {BAD}"},
}


@pytest.mark.parametrize("form", ONE_PAIR)
def test_the_same_pair_is_read_from_every_form_with_the_same_id(form: str) -> None:
    pair = pair_of(ONE_PAIR[form], source="here")
    assert isinstance(pair, PreferencePair)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.source) == ((USER,), GOOD, BAD, "here")
    assert pair.row_id == pair_of(ONE_PAIR["strings"]).row_id


def test_longer_chats_keep_their_turns() -> None:
    text = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2+2?\n\nAssistant: "
    pair = pair_of({"chosen": text + GOOD, "rejected": text + BAD})
    assert isinstance(pair, PreferencePair)
    assert [turn.role for turn in pair.prompt] == ["user", "assistant", "user"] and pair.prompt[-1] == USER
    with_system = pair_of({"system": "be brief", **ONE_PAIR["sharegpt"]})
    assert isinstance(with_system, PreferencePair) and with_system.prompt == (SYSTEM, USER)


@pytest.mark.parametrize(("reason", "row"), [
    ("missing_column", {"text": "x"}),
    ("missing_column", {"chosen": GOOD, "rejected": BAD}),
    ("one_sided", {"prompt": "2+2?", "chosen": GOOD}),
    ("one_sided", {"prompt": "2+2?", "chosen": None, "rejected": BAD}),
    ("empty_prompt", {"prompt": " ", "chosen": GOOD, "rejected": BAD}),
    ("empty_prompt", {"prompt": [], "chosen": GOOD, "rejected": BAD}),
    ("empty_prompt", {"chosen": openai(("assistant", GOOD)), "rejected": openai(("assistant", BAD)), "prompt": []}),
    ("empty_response", {"prompt": "2+2?", "chosen": GOOD, "rejected": "\n"}),
    ("identical_pair", {"prompt": "2+2?", "chosen": GOOD, "rejected": f"{GOOD}\n"}),
    ("prompts_differ", {"chosen": openai(("user", "a"), ("assistant", GOOD)), "rejected": openai(("user", "b"), ("assistant", BAD))}),
    ("prompts_differ", {**ONE_PAIR["whole chats"], "prompt": openai(("user", "other"))}),
    ("bad_roles", {"prompt": openai(("user", "a"), ("tool", "b")), "chosen": GOOD, "rejected": BAD}),
    ("bad_roles", {"prompt": openai(("user", "a"), ("assistant", "b")), "chosen": GOOD, "rejected": BAD}),
    ("bad_roles", {"prompt": openai(("user", "a"), ("system", "b"), ("user", "c")), "chosen": GOOD, "rejected": BAD}),
    ("bad_roles", {"chosen": openai(("user", "a")), "rejected": openai(("user", "b"))}),
    ("bad_row", {"prompt": "2+2?", "chosen": 4, "rejected": BAD}),
    ("bad_row", {"prompt": ["2+2?"], "chosen": GOOD, "rejected": BAD}),
    ("bad_encoding", {"prompt": "2+2?", "chosen": b"\xff", "rejected": BAD}),
])
def test_a_row_that_is_no_pair_says_why(reason: str, row: dict[str, Any]) -> None:
    rejected = pair_of(row, number=7, where="a.jsonl")
    assert isinstance(rejected, Rejected) and reason in REASONS
    assert (rejected.step, rejected.reason) == ("ingest", reason)
    assert json.loads(rejected.detail)["row"] == 7 and rejected.raw


@pytest.mark.parametrize("row", [
    {"messages": openai(("user", "2+2?"), ("assistant", GOOD))},
    {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": GOOD}]},
    {"prompt": "2+2?", "response": GOOD},
    {"prompt": openai(("user", "2+2?")), "completion": openai(("assistant", GOOD))},
    {"instruction": "2+2?", "input": "", "output": GOOD},
    {"problem": "2+2?", "solution": GOOD, "answer": "4"},
    ONE_PAIR["strings"], ONE_PAIR["sharegpt"], ONE_PAIR["transcripts"], ONE_PAIR["whole chats"],
])
def test_the_same_example_is_read_from_every_form(row: dict[str, Any]) -> None:
    example = example_of(row)
    assert isinstance(example, SftExample) and example.messages == (USER, Message("assistant", GOOD))
    assert example.row_id == example_of({"prompt": "2+2?", "response": GOOD}).row_id


def test_alpaca_input_follows_the_instruction() -> None:
    example = example_of({"instruction": "add", "input": "2+2", "output": GOOD})
    assert isinstance(example, SftExample) and example.messages[0].content == "add\n\n2+2"


@pytest.mark.parametrize(("reason", "row"), [
    ("missing_column", {"text": "x"}),
    ("bad_roles", {"messages": openai(("user", "2+2?"))}),
    ("bad_roles", {"messages": []}),
    ("empty_prompt", {"messages": openai(("assistant", GOOD))}),
    ("empty_response", {"prompt": "2+2?", "response": ""}),
])
def test_a_row_that_is_no_example_says_why(reason: str, row: dict[str, Any]) -> None:
    rejected = example_of(row)
    assert isinstance(rejected, Rejected) and rejected.reason == reason


def test_ids_and_sources_of_our_own_rows_stay() -> None:
    pair = pair_of({**ONE_PAIR["strings"], "row_id": "a" * 32, "source": "web"}, source="file")
    assert isinstance(pair, PreferencePair) and (pair.row_id, pair.source) == ("a" * 32, "web")
    assert pair_of({**ONE_PAIR["strings"], "row_id": "7"}).row_id == pair_of(ONE_PAIR["strings"]).row_id


def test_a_bridged_part_is_read_as_its_pair(tmp_path: Path) -> None:
    bridged = BridgedPair("b" * 32, (USER,), "four", "five", "it is four", "five", "web", "qa", "bridge", 1.0, 1.0, False, "editor")
    pq.write_table(table_of(BridgedPair, [bridged]), tmp_path / "part.parquet")
    (pair,) = read_pairs(split_of(tmp_path / "part.parquet"), FetchConfig(), Counter())
    assert pair == PreferencePair("b" * 32, (USER,), "four", "five", "web")
    (pair,) = read_pairs(split_of(tmp_path / "part.parquet"), FetchConfig(), Counter(), originals=True)
    assert pair == PreferencePair("b" * 32, (USER,), "it is four", "five", "web")


def test_every_row_of_a_file_is_a_pair_or_a_reject(tmp_path: Path) -> None:
    rows = [ONE_PAIR["strings"], {"prompt": "x", "chosen": "y"}, ONE_PAIR["whole chats"], {"prompt": "x", "chosen": "y", "rejected": "z"}]
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, rows), "no json"]))
    counts = Counter[str]()
    outcomes = list(read_pairs(split_of(tmp_path / "a.jsonl"), FetchConfig(), counts))
    reasons = [one.reason if isinstance(one, Rejected) else "" for one in outcomes]
    assert sorted(reasons) == ["", "", "bad_row", "duplicate_record", "one_sided"]
    assert counts == {"records": 5}


def test_a_cut_file_counts_as_damage(tmp_path: Path) -> None:
    line = json.dumps(ONE_PAIR["strings"])
    data = gzip.compress("\n".join(line.replace("2+2", str(number * 7919)) for number in range(5000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    counts = Counter[str]()
    outcomes = list(read_pairs(split_of(tmp_path / "a.jsonl.gz"), FetchConfig(), counts))
    assert counts["damage"] == 1 and counts["records"] + counts["damage"] == len(outcomes)


def test_a_file_without_the_columns_is_an_error_that_names_what_is_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 0]}), tmp_path / "a.parquet")
    with pytest.raises(RecordError, match=r"a\.parquet: no row has chosen and rejected.*there are: label, text"):
        list(read_pairs(split_of(tmp_path / "a.parquet"), FetchConfig(), Counter()))
    with pytest.raises(RecordError, match=r"no row has messages.*there are: label, text"):
        list(read_examples(split_of(tmp_path / "a.parquet"), FetchConfig(), Counter()))


def test_bytes_that_are_no_text_reject_their_row_alone(tmp_path: Path) -> None:
    table = pa.table({
        "prompt": ["a", "b"], "rejected": ["x", "y"],
        "chosen": pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string()),
    })
    pq.write_table(table, tmp_path / "a.parquet")
    outcomes = list(read_pairs(split_of(tmp_path / "a.parquet"), FetchConfig(), Counter()))
    assert isinstance(outcomes[0], PreferencePair)
    assert isinstance(outcomes[1], Rejected) and outcomes[1].reason == "bad_encoding"


@pytest.mark.parametrize(("name", "num_pairs", "reasons"), [
    ("dpo_en_demo.jsonl.gz", 146, {"duplicate_record": 2}),
    ("hh_harmless_base_test.jsonl.gz", 1198, {"empty_response": 3, "prompts_differ": 1}),
    ("ultrafeedback_sample.jsonl.gz", 603, {"identical_pair": 5, "empty_response": 1}),
])
def test_real_pairs(data_dir: Path, name: str, num_pairs: int, reasons: dict[str, int]) -> None:
    outcomes = list(read_pairs(split_of(data_dir / "pref" / name), FetchConfig(), Counter()))
    assert sum(isinstance(one, PreferencePair) for one in outcomes) == num_pairs
    assert Counter(one.reason for one in outcomes if isinstance(one, Rejected)) == reasons


@pytest.mark.parametrize(("name", "num_examples"), [
    ("pref/bmc_qa_sft.parquet", 15345), ("pref/kto_en_demo.jsonl.gz", 147), ("qa/ecqa_train_2k.jsonl.gz", 2000),
    ("qa/qasc_train_2k.jsonl.gz", 2000),
])
def test_real_examples(data_dir: Path, name: str, num_examples: int) -> None:
    outcomes = list(read_examples(split_of(data_dir / name), FetchConfig(), Counter()))
    assert len(outcomes) == num_examples and all(isinstance(one, SftExample) for one in outcomes)


def test_real_labels_without_pairs_are_told(data_dir: Path) -> None:
    with pytest.raises(RecordError, match="there are: label, messages"):
        list(read_pairs(split_of(data_dir / "pref" / "kto_en_demo.jsonl.gz"), FetchConfig(), Counter()))
