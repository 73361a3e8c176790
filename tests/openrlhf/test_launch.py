"""launch.sh as a user starts it: OpenRLHF's own parser takes its flags, and OpenRLHF's own dataset classes take the rows.

Runs on a CPU by what imports/sitecustomize.py stands in for (its docstring says what that is).
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignray.io import openrlhf
from alignray.io.export import export, export_preferences
from alignray.schema import InstructionRow, Message
from tests.runfolders import make_rows, write_parts

IMPORTS = Path(__file__).with_name("imports")
END = "<|im_end|>"
LONG = "65536"


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    return tmp_path / "the rows, 100% @home" / "it's mine"


def launched(out_dir: Path, env_dir: Path, model_dir: Path, *flags: str) -> dict[str, Any]:
    probe_path = out_dir.parent / "probe.json"
    env = os.environ | {
        "MODEL": str(model_dir), "OPENRLHF_ENV": str(env_dir), "PYTHONPATH": str(IMPORTS), "PROBE_OUT": str(probe_path),
        "PET_NPROC_PER_NODE": "1", "PET_STANDALONE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(out_dir.parent / "hf"),
    }
    command = ["bash", out_dir / "launch.sh", *flags]
    done = subprocess.run(command, env=env, cwd="/", text=True, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0 and probe_path.exists(), f"{done.stdout}\n{done.stderr}"[-6000:]
    return json.loads(probe_path.read_text())


def flag_of(args: dict[str, Any], name: str) -> Any:
    for key in name.split("."):
        args = args[key]
    return args


def chatml(messages: tuple[Message, ...]) -> str:
    return "\n".join(f"<|im_start|>{message.role}\n{message.content}{END}" for message in messages)


def test_sft_rows_and_flags(openrlhf_env: Path, model_dir: Path, out_dir: Path, tmp_path: Path) -> None:
    rows = make_rows(90)
    write_parts(tmp_path / "run", rows)
    assert export(tmp_path / "run", "openrlhf", out_dir) == 90
    probe = launched(out_dir, openrlhf_env, model_dir, "--data.max_len", LONG)
    assert probe["dataset"] == "SFTDataset" and len(probe["samples"]) == 90
    for row, sample in zip(rows, probe["samples"], strict=True):
        assert sample["text"] == chatml(row.messages)
        assert sample["learned"] == row.messages[-1].content + END
    assert len(probe["batch_shapes"]) == 3 and probe["batch_shapes"][0][0] == 2
    expected = {**openrlhf.FLAGS["sft"], "data.max_len": int(LONG), "data.max_samples": 90, "data.multiturn": False}
    assert_parsed(probe["args"], expected, out_dir, model_dir)


def test_all_turns_are_learned_where_there_are_more(openrlhf_env: Path, model_dir: Path, out_dir: Path, tmp_path: Path) -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hi\u2028there \U0001f600"), Message("assistant", "Yes?"),
             Message("user", "Tea?"), Message("assistant", "No."))
    base = make_rows(3, hostile=False)[2]
    two = (Message("user", "Say a."), Message("assistant", "a"))
    rows: list[InstructionRow] = [replace(base, messages=turns), replace(base, messages=two)]
    write_parts(tmp_path / "run", rows)
    export(tmp_path / "run", "openrlhf", out_dir)
    probe = launched(out_dir, openrlhf_env, model_dir)
    assert [sample["learned"] for sample in probe["samples"]] == [f"Yes?{END}\nNo.{END}", f"a{END}"]
    assert [sample["text"] for sample in probe["samples"]] == [chatml(turns), chatml(two)]
    assert_parsed(probe["args"], {**openrlhf.FLAGS["sft"], "data.multiturn": True, "data.max_samples": 2}, out_dir, model_dir)


def test_pairs_and_flags(openrlhf_env: Path, model_dir: Path, out_dir: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"Name {n}?", "chosen": f"It is {n}. \U0001f600", "rejected": "Who knows \u2028\n\nreally"} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert export_preferences([tmp_path / "pairs.jsonl"], out_dir) == 60
    probe = launched(out_dir, openrlhf_env, model_dir)
    assert probe["dataset"] == "RewardDataset" and len(probe["samples"]) == 60
    for pair, sample in zip(pairs, probe["samples"], strict=True):
        assert sample["prompt"] == f"<|im_start|>user\n{pair['prompt']}{END}\n<|im_start|>assistant\n"
        assert (sample["chosen"], sample["rejected"]) == (pair["chosen"] + END, pair["rejected"] + END)
    assert_parsed(probe["args"], {**openrlhf.FLAGS["dpo"], "data.max_samples": 60}, out_dir, model_dir)
    assert flag_of(probe["args"], "ref.model_name_or_path") == str(model_dir)


def test_a_flag_that_openrlhf_does_not_know_is_refused(openrlhf_env: Path, model_dir: Path, out_dir: Path, tmp_path: Path) -> None:
    """So that the tests above would see a flag that is no longer there."""
    write_parts(tmp_path / "run", make_rows(3))
    export(tmp_path / "run", "openrlhf", out_dir)
    with pytest.raises(AssertionError, match=r"unrecognized arguments: --data\.max_length"):
        launched(out_dir, openrlhf_env, model_dir, "--data.max_length", "5")


def assert_parsed(args: dict[str, Any], expected: dict[str, Any], out_dir: Path, model_dir: Path) -> None:
    expected = expected | {
        "model.model_name_or_path": str(model_dir), "ckpt.output_dir": str(out_dir / "checkpoint"),
        "ckpt.path": str(out_dir / "checkpoint" / "states"), "data.dataset": "train.jsonl",
    }
    parsed = {name: flag_of(args, name) for name in expected}
    assert {name: type(parsed[name])(value) for name, value in expected.items()} == parsed
