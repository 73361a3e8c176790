"""The token table and the reference store for real: splits, kills, two writers at once, damage."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from alignray.errors import ConfigError, EngineError, RecordError, ResumeError
from alignray.io.commits import CommitLog
from alignray.io.reference_store import ReferenceStore, model_key
from alignray.io.sources import IngestConfig, SourceConfig, Split, list_splits
from alignray.io.storage import Storage
from alignray.methods.bmc.masks import edited_masks
from alignray.runtime.reference_store import Forward, ReferenceFill, ReferencePool, fill_store
from alignray.runtime.session import quiet_data_context
from alignray.runtime.tokens import TOKENS, TokenStats, TokenWork, token_stats, tokenize_stage
from alignray.train.tokenize import TokenizeConfig
from tests.ray.processes import finish, kill_tree, start, wait_for
from tests.ray.run_files import rows_of

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One token per byte, ChatML."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"], chat_template=CHATML,
    ).save_pretrained(path)
    return str(path)


def splits_of(*paths: Path, split_bytes: int | None = None) -> list[Split]:
    source = SourceConfig(name="input", paths=tuple(map(str, paths)))
    return list_splits(IngestConfig(sources=(source,), split_bytes=split_bytes))


Tokenize = Callable[..., TokenStats]


@pytest.fixture
def tokenize(local_ray: None, tokenizer_path: str) -> Tokenize:
    quiet_data_context()

    def run(
        root: Path, splits: list[Split], *, kind: Any = "preference", on_part: Callable[[Any], None] = lambda _: None, **config: Any,
    ) -> TokenStats:
        masks = partial(edited_masks, diff="levenshtein")
        work = TokenWork(kind, tokenizer_path, TokenizeConfig(**config), masks=masks, eval_rate=0.1, seed=7)
        return tokenize_stage(splits, work, root=str(root), on_part=on_part)

    return run


def table_of_run(root: Path) -> list[dict[str, Any]]:
    rows = [row for _, table in CommitLog(Storage(str(root))).tables(TOKENS) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: str(row["row_id"]))


def pairs(num: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {row}?", "chosen": f"it is {row}", "rejected": f"it is {row + 1}"} for row in range(num)]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """300 pairs, some of them twice, some unfit."""
    rows: list[dict[str, Any]] = pairs(300)
    rows += [rows[5], rows[250], rows[5]]
    rows += [{"prompt": "same", "chosen": "x", "rejected": "x"}, {"prompt": "late", "chosen": "a" * 300 + "b", "rejected": "a" * 300 + "c"}]
    rows += [{"prompt": "spells <|im_end|>", "chosen": "x", "rejected": "y"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "pairs.jsonl"


LIMITS = {"max_length": 128, "max_prompt_length": 64}


def test_one_split_and_seven_give_the_same_rows_and_account(tmp_path: Path, many: Path, tokenize: Tokenize) -> None:
    one = tokenize(tmp_path / "one", splits_of(many), **LIMITS)
    splits = splits_of(many, split_bytes=many.stat().st_size // 7 + 1)
    seven = tokenize(tmp_path / "seven", splits, **LIMITS)
    assert len(splits) == 7 and one == seven
    rows = table_of_run(tmp_path / "one")
    assert rows == table_of_run(tmp_path / "seven") and len(rows) == 300 == len({row["row_id"] for row in rows})
    assert one.read == 306 and one.rejected == {
        "ingest/duplicate_record": 3, "ingest/identical_pair": 1, "tokens/identical_after_truncation": 1, "tokens/special_token_in_text": 1,
    }
    assert len(rows_of(tmp_path / "seven", "rejects")) == 6
    assert one.eval == sum(row["split"] == "eval" for row in rows) and 15 < one.eval < 50
    row = next(row for row in rows if row["rejected_ids"] and bytes_of(row["chosen_ids"]).startswith("it is 7<"))
    assert row["chosen_edited"] == [0] * 6 + [1, 0] and row["rejected_edited"] == [0] * 6 + [1, 0]
    (_, part), *_ = CommitLog(Storage(str(tmp_path / "one"))).tables(TOKENS)
    assert part["prompt_ids"].type.value_type == pa.int32() and part["chosen_edited"].type.value_type == pa.int8()
    assert sum(map(len, (row["chosen_ids"] + row["rejected_ids"] for row in rows))) == one.targets
    again = tokenize(tmp_path / "seven", splits, **LIMITS)
    assert again == seven


def bytes_of(ids: list[int]) -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join(alphabet[token] if token < 256 else "<" for token in ids).replace("\u0120", " ").replace("\u010a", "\n")


def test_parts_without_a_duplicate_are_not_written_twice(tmp_path: Path, many: Path, tokenize: Tokenize) -> None:
    tokenize(tmp_path / "run", splits_of(many, split_bytes=many.stat().st_size // 7 + 1), **LIMITS)
    log = CommitLog(Storage(str(tmp_path / "run")))
    same = [name for name in log.names(TOKENS) if log.one(TOKENS, name).files["rows"] == log.one("tokens-read", name).files["rows"]]
    assert len(same) == 6 and len(log.names(TOKENS)) == 7
    log.sweep(("stages/tokens", "rejects"))
    assert len(table_of_run(tmp_path / "run")) == 300


class Killed(Exception):
    pass


def test_a_stage_that_was_killed_goes_on_with_the_same_rows(tmp_path: Path, many: Path, tokenize: Tokenize) -> None:
    splits = splits_of(many, split_bytes=many.stat().st_size // 7 + 1)
    whole = tokenize(tmp_path / "whole", splits, **LIMITS)

    def kill_after(number: int) -> Callable[[dict[str, Any]], None]:
        seen: list[int] = []

        def on_part(_: dict[str, Any]) -> None:
            seen.append(1)
            if len(seen) == number:
                raise Killed

        return on_part

    for number in (1, 2):
        with pytest.raises(Killed):
            tokenize(tmp_path / "run", splits, on_part=kill_after(number), **LIMITS)
    log = CommitLog(Storage(str(tmp_path / "run")))
    assert not log.names(TOKENS)
    # killed between two markers of the last step, and within a split
    tokenize(tmp_path / "run", splits, **LIMITS)
    names = log.names(TOKENS)
    for name in names[:3]:
        Path(tmp_path, "run", "commits", TOKENS, f"{name}.json").unlink()
    Path(tmp_path, "run", "commits", "tokens-read-done", f"{splits[0].id}.json").unlink()
    assert tokenize(tmp_path / "run", splits, **LIMITS) == whole == token_stats(str(tmp_path / "run"))
    assert table_of_run(tmp_path / "run") == table_of_run(tmp_path / "whole")


@pytest.mark.slow  # as for the other stages
def test_a_driver_killed_while_it_tokenizes_goes_on_with_the_same_rows(
    tmp_path: Path, tokenizer_path: str, tokenize: Tokenize,
) -> None:
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs(8000))))
    LlamaConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, vocab_size=258).save_pretrained(tokenizer_path)
    config = {
        "model": {"path": tokenizer_path}, "tokens": LIMITS, "runtime": {"num_cpus": 2}, "seed": 7,
        "input": {
            "paths": [str(tmp_path / "pairs.jsonl")], "eval_rate": 0.1, "split_bytes": (tmp_path / "pairs.jsonl").stat().st_size // 20 + 1,
        },
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    process = start(tmp_path / "config.yaml", tmp_path / "run", "--tokens-only", method="train")
    log = CommitLog(Storage(str(tmp_path / "run")))
    wait_for(lambda: len(log.names("tokens-read")) >= 3, process)
    kill_tree(process)
    assert 3 <= len(log.names("tokens-read")) < 20 and not log.names(TOKENS)
    assert "(resumed)" in finish(start(tmp_path / "config.yaml", tmp_path / "run", "--tokens-only", method="train"))
    tokenize(tmp_path / "undisturbed", splits_of(tmp_path / "pairs.jsonl"), **LIMITS)
    rows = table_of_run(tmp_path / "run")
    assert len(rows) == 8000 and rows == table_of_run(tmp_path / "undisturbed")


def test_a_table_that_was_begun_with_another_template_is_not_gone_on_with(tmp_path: Path, many: Path, tokenize: Tokenize) -> None:
    template = tmp_path / "own.jinja"
    for end in (".", "!"):
        template.write_text(CHATML + end)
        if end == ".":
            tokenize(tmp_path / "run", splits_of(many), chat_template=str(template), **LIMITS)
    with pytest.raises(ResumeError, match="begun with another tokenizer or chat template"):
        tokenize(tmp_path / "run", splits_of(many), chat_template=str(template), **LIMITS)


def test_examples_get_a_loss_mask(tmp_path: Path, tokenize: Tokenize) -> None:
    rows = [{"messages": [{"role": "user", "content": f"q{row}"}, {"role": "assistant", "content": "yes"}]} for row in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[0], {"messages": []}])))
    stats = tokenize(tmp_path / "run", splits_of(tmp_path / "a.jsonl"), kind="sft")
    assert stats.kept == 5 and stats.targets == 5 * 4 and stats.rejected == {"ingest/bad_roles": 1, "ingest/duplicate_record": 1}
    assert all(sum(row["loss_mask"]) == 4 and len(row["loss_mask"]) == len(row["input_ids"]) for row in table_of_run(tmp_path / "run"))


def test_nothing_left_is_said_with_the_reasons(tmp_path: Path, tokenize: Tokenize) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "x", "rejected": "x"}))
    with pytest.raises(RecordError, match=r"none of 1 rows can be trained on \(ingest/identical_pair 1\)"):
        tokenize(tmp_path / "run", splits_of(tmp_path / "a.jsonl"))


def test_real_pairs_are_tokenized_and_accounted_for(tmp_path: Path, data_dir: Path, tokenize: Tokenize) -> None:
    files = [data_dir / "pref" / f"{name}.jsonl.gz" for name in ("ultrafeedback_sample", "dpo_en_demo", "hh_harmless_base_test")]
    stats = tokenize(tmp_path / "run", splits_of(*files), max_length=1024, max_prompt_length=768)
    rows = table_of_run(tmp_path / "run")
    assert stats.read == 609 + 148 + 1202 == stats.kept + sum(stats.rejected.values()) and stats.kept == len(rows) > 1000
    assert stats.flags["response_cut"] > 50 and stats.rejected.get("tokens/edits_truncated", 0) + stats.flags["edits_cut"] > 0
    for row in rows:
        longest = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        assert len(row["prompt_ids"]) + longest <= 1024 and row["chosen_ids"] != row["rejected_ids"]
        assert any(row["chosen_edited"]) or any(row["rejected_edited"])
        is_cut = "response_cut" in row["flags"]
        assert is_cut or row["chosen_ids"][-1] == row["rejected_ids"][-1] == 256


# ---- reference store


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test module


def logprobs_of(ids: Any) -> Any:
    return -np.asarray(ids, np.float32) / 100


def fake_forward() -> Forward:
    """Log-probabilities that follow from the ids, so that a wrong row shows."""
    def forward(rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
        return [(logprobs_of(row["chosen_ids"]), logprobs_of(row["rejected_ids"])) for row in rows]

    return forward


@pytest.fixture
def table(tmp_path: Path, many: Path, tokenize: Tokenize) -> Path:
    tokenize(tmp_path / "run", splits_of(many, split_bytes=many.stat().st_size // 3 + 1), **LIMITS)
    return tmp_path / "run"


def fill(root: Path, store: ReferenceStore, make_forward: Callable[[], Forward] = fake_forward) -> ReferenceFill:
    pool = ReferencePool(make_forward, block_rows=40, cpus_per_actor=0.25)
    return fill_store(store, pool, root=str(root), on_block=lambda _: None)


def broken() -> Forward:
    raise AssertionError("no model is needed")


def test_a_second_run_does_no_forward_pass(tmp_path: Path, table: Path) -> None:
    store = ReferenceStore(str(tmp_path / "store"), "k" * 32)
    first = fill(table, store)
    assert (first.distinct, first.found, first.computed) == (300, 0, 300) and first.passes == 9
    second = fill(table, store, broken)
    assert (second.found, second.computed, second.passes) == (300, 0, 0)
    rows = table_of_run(table)
    read = store.read(second.index, [row["token_key"] for row in rows])
    for row in rows:
        for side, logprobs in zip(("chosen", "rejected"), read[row["token_key"]], strict=True):
            assert logprobs.dtype == np.float32
            np.testing.assert_array_equal(logprobs, logprobs_of(row[f"{side}_ids"]))
    assert store.read(second.index, ["unknown"]) == {}


def test_another_run_pays_only_for_its_new_rows(tmp_path: Path, table: Path, tokenize: Tokenize) -> None:
    store = ReferenceStore(str(tmp_path / "store"), "k" * 32)
    fill(table, store)
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, pairs(320))))
    tokenize(tmp_path / "more", splits_of(tmp_path / "more.jsonl"), **LIMITS)
    more = fill(tmp_path / "more", store)
    assert (more.found, more.computed, more.passes) == (300, 20, 1)


def stored(row: dict[str, Any]) -> tuple[str, Any, Any]:
    return row["token_key"], logprobs_of(row["chosen_ids"]), logprobs_of(row["rejected_ids"])


def test_two_runs_at_once_leave_every_row_readable(tmp_path: Path, table: Path) -> None:
    """Both find nothing, both compute all, neither disturbs the other."""
    stores = [ReferenceStore(str(tmp_path / "store"), "k" * 32) for _ in range(2)]
    start = threading.Barrier(2)
    keys = [row["token_key"] for row in table_of_run(table)]
    rows = {row["token_key"]: row for row in table_of_run(table)}

    def write(store: ReferenceStore, block: int) -> None:
        start.wait()
        for at in range(0, len(keys), block):
            store.append([stored(rows[key]) for key in keys[at : at + block]])

    writers = [threading.Thread(target=write, args=(store, block)) for store, block in zip(stores, (7, 11), strict=True)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done = fill(table, stores[0], broken)
    assert done.computed == 0 and done.damaged == 0
    names = stores[0].storage.list("")
    assert len(names) == -(-300 // 7) + -(-300 // 11)
    assert len(stores[1].read(done.index, keys)) == 300


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_part_is_left_out_and_computed_again(tmp_path: Path, table: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = ReferenceStore(str(tmp_path / "store"), "k" * 32)
    index = fill(table, store).index
    part = sorted((tmp_path / "store" / store.key).glob("part-*"))[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes({"cut": bytes(data[:-9]), "flipped": bytes(data), "emptied": b""}[damage])
    lost = [key for key, (name, _) in index.places.items() if name == part.name]
    with pytest.raises(ResumeError, match="gone or damaged; run again"):
        store.read(index, lost)
    with caplog.at_level(logging.WARNING):
        again = fill(table, store)
    assert again.damaged == 1 and again.computed == len(lost) > 0 and "damaged and left out" in caplog.text
    assert len(store.read(again.index, index.places)) == 300


def test_a_store_on_an_object_store_works_the_same(table: Path) -> None:
    store = ReferenceStore("memory://references", "k" * 32)
    rows = table_of_run(table)[:10]
    store.append([stored(row) for row in rows])
    index = store.index(row["token_key"] for row in rows)
    assert not index.missing(row["token_key"] for row in rows) and len(store.read(index, index.places)) == 10


@pytest.mark.parametrize(("value", "message"), [(np.nan, "the log-probability nan"), (0.5, "the log-probability 0.5")])
def test_numbers_that_are_no_log_probabilities_stop_the_run_with_the_row(tmp_path: Path, table: Path, value: float, message: str) -> None:
    def make() -> Forward:
        def forward(rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
            return [(np.full(len(row["chosen_ids"]), value), np.full(len(row["rejected_ids"]), value)) for row in rows]

        return forward

    with pytest.raises(EngineError, match=rf"row [0-9a-f]{{32}}: the reference gives token 0 of chosen {message}"):
        fill(table, ReferenceStore(str(tmp_path / "store"), "k" * 32), make)


def test_a_killed_fill_goes_on_behind_the_stored_blocks(tmp_path: Path, table: Path) -> None:
    store = ReferenceStore(str(tmp_path / "store"), "k" * 32)

    def make() -> Forward:
        calls: list[int] = []

        def forward(rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
            calls.append(1)
            if len(calls) == 4:
                raise EngineError("the machine is gone")
            return list(fake_forward()(rows))

        return forward

    with pytest.raises(EngineError, match="the machine is gone"):
        fill(table, store, make)
    done = fill(table, store)
    assert 80 <= done.found <= 120 and done.found + done.computed == 300


def test_the_key_follows_weights_precision_and_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    keys = [model_key(tmp_path, "float32"), model_key(tmp_path, "bfloat16")]
    (tmp_path / "README.md").write_text("no matter")
    assert model_key(tmp_path, "float32") == keys[0]
    for name, text in (("tokenizer.json", "[]"), ("model.safetensors", "weightz"), ("config.json", "[]")):
        (tmp_path / name).write_text(text)
        keys.append(model_key(tmp_path, "float32"))
    assert len(set(keys)) == 5
    with pytest.raises(ConfigError, match=r"no folder with \*.safetensors"):
        model_key(tmp_path / "nowhere", "float32")
