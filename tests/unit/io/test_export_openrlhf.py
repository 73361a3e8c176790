"""The folder for OpenRLHF. That OpenRLHF itself takes the rows and the flags is tests/openrlhf."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from alignray.cli import main
from alignray.errors import ConfigError, RecordError
from alignray.io import openrlhf
from alignray.io.export import export, export_preferences, read_export
from alignray.schema import Message
from tests.runfolders import make_rows, write_parts

USER = {"role": "user", "content": "Tea?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
PAIR = {"chosen": [USER, YES], "rejected": [USER, NO]}


def lines_of(out_dir: Path) -> list[Any]:
    return [json.loads(line) for line in (out_dir / "train.jsonl").open()]


def flags_of(script: str) -> list[str]:
    """The words of the training command."""
    return shlex.split(script[script.index("exec \"$python\"") :])


def test_a_run_becomes_a_folder_of_rows_and_launch_files(tmp_path: Path) -> None:
    rows = make_rows(150)
    write_parts(tmp_path, rows)
    assert export(tmp_path, "openrlhf", tmp_path / "out") == 150
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["launch.sh", "runtime_env.yaml", "train.jsonl"]
    assert lines_of(tmp_path / "out")[0] == {"messages": [{"role": m.role, "content": m.content} for m in rows[0].messages]}
    script = (tmp_path / "out" / "launch.sh").read_text()
    words = flags_of(script)
    assert "openrlhf.cli.train_sft" in words and words[words.index("--data.max_samples") + 1] == "150"
    assert "--data.multiturn" not in words and "do not fill" not in script
    assert os.access(tmp_path / "out" / "launch.sh", os.X_OK)
    assert set(yaml.safe_load((tmp_path / "out" / "runtime_env.yaml").read_text())) == {"excludes", "env_vars"}


def test_the_thesis_settings_are_in_the_flags() -> None:
    sft, dpo = (flags_of(openrlhf.launch_script(task, num_rows=200)) for task in ("sft", "dpo"))
    for words, wanted in (
        (sft, "--train.batch_size 128 --train.max_epochs 4 --adam.lr 2e-5 --data.max_len 4096 --lr_scheduler cosine --lr_warmup_ratio 0.1"),
        (dpo, "--train.batch_size 128 --train.max_epochs 1 --adam.lr 5e-7 --data.max_len 2048 --model.beta 0.01 --lr_warmup_ratio 0.1"),
    ):
        pairs = set(pairwise(words))
        assert set(zip(wanted.split()[::2], wanted.split()[1::2], strict=True)) <= pairs


def test_rows_of_several_answers_are_learned_on_all_and_few_rows_say_so(tmp_path: Path) -> None:
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    rows = make_rows(3, hostile=False)
    write_parts(tmp_path, [*rows, replace(rows[2], messages=turns)])
    export(tmp_path, "openrlhf", tmp_path / "out")
    script = (tmp_path / "out" / "launch.sh").read_text()
    assert "--data.multiturn" in flags_of(script)
    assert "# 4 rows do not fill one batch of 128" in script


@pytest.mark.parametrize("roles", ["user", "assistant", "assistant user"])
def test_a_row_without_prompt_or_answer_is_refused(tmp_path: Path, roles: str) -> None:
    write_parts(tmp_path, [replace(make_rows(1)[0], messages=tuple(Message(role, "a") for role in roles.split()))])
    with pytest.raises(RecordError, match="export as openai"):
        export(tmp_path, "openrlhf", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_name_of_a_file_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, make_rows(2))
    (tmp_path / "there").write_text("mine")
    for name in ("out.jsonl", "there"):
        with pytest.raises(ConfigError, match="give a folder"):
            export(tmp_path, "openrlhf", tmp_path / name)
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "out.jsonl").exists()


def test_the_command_writes_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path, make_rows(5))
    monkeypatch.setattr("sys.argv", ["alignray", "export", str(tmp_path), "openrlhf", str(tmp_path / "my out")])
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
    assert capsys.readouterr().out == f"5 rows in {tmp_path / 'my out'}\n"


@pytest.mark.parametrize("row", [
    {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."},
    {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    {"messages": [USER], "chosen": "Yes.", "rejected": [NO]},
    {"prompt": "Tea?", "chosen": [USER, YES], "rejected": [USER, NO]},
    {"prompt": "Tea?", "messages": [USER, YES], "chosen": [USER, YES], "rejected": [USER, NO]},
    {"messages": [USER, YES], "chosen": [USER, YES], "rejected": [USER, NO]},
    {"prompt": "Tea?", "chosen": [USER, YES], "rejected": "No."},
    {"prompt": None, "chosen": [USER, YES], "rejected": [USER, NO], "margin": 2},
])
def test_every_shape_of_a_pair_gives_the_same_row(row: dict[str, Any]) -> None:
    assert openrlhf.preference_row(row, where="here") == PAIR


def test_a_system_turn_before_the_prompt_is_kept() -> None:
    system = {"role": "system", "content": "Be brief."}
    row = openrlhf.preference_row({"prompt": "Tea?", "chosen": [system, USER, YES], "rejected": [system, USER, NO]}, where="here")
    assert row == {"chosen": [system, USER, YES], "rejected": [system, USER, NO]}


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "Tea?", "chosen": "Yes."}, "here: rejected must be a string or a list"),
    ({"chosen": "Yes.", "rejected": "No."}, "here: chosen must end in an answer to a prompt, got assistant"),
    ({"prompt": "Tea?", "chosen": [YES, USER], "rejected": "No."}, "chosen must end in an answer"),
    ({"prompt": "Coffee?", "chosen": [USER, YES], "rejected": [USER, NO]}, "chosen does not answer the row's prompt"),
    ({"chosen": [USER, YES], "rejected": [{"role": "user", "content": "Milk?"}, NO]}, "differ before their last turn"),
    ({"prompt": "Tea?", "chosen": [{"role": "assistant", "content": None}], "rejected": "No."}, "chosen must hold turns of texts"),
    ({"prompt": "Tea?", "chosen": [{"from": "gpt", "value": "Yes."}], "rejected": "No."}, "list of role and content"),
])
def test_what_is_no_pair_says_why(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        openrlhf.preference_row(row, where="here")


def test_pairs_come_from_parquet_and_json_and_from_a_run_that_has_them(tmp_path: Path) -> None:
    rows = [{"prompt": [USER], "chosen": [YES], "rejected": [NO], "score": 0.5}] * 3
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parts" / "part-0.parquet")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    out_dir = tmp_path / "out"
    assert export_preferences([tmp_path / "pairs.jsonl", tmp_path / "parts" / "part-0.parquet", tmp_path / "pairs.json"], out_dir) == 9
    assert lines_of(out_dir) == [PAIR] * 9
    assert export(tmp_path, "openrlhf", out_dir) == 3
    words = flags_of((out_dir / "launch.sh").read_text())
    assert "openrlhf.cli.train_dpo" in words and words[words.index("--data.max_samples") + 1] == "3"
    with pytest.raises(RecordError, match="record 1 is not openrlhf"):
        list(read_export(out_dir, "openrlhf"))


def test_a_bad_pair_is_named_and_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / "train.jsonl").write_text("old")
    good = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(good)}\n[1]\n")
    with pytest.raises(RecordError, match=r"pairs\.jsonl: record 2 is a list"):
        export_preferences([tmp_path / "pairs.jsonl"], out_dir)
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(RecordError, match="no row"):
        export_preferences([tmp_path / "pairs.jsonl"], out_dir)
    assert [path.name for path in out_dir.iterdir()] == ["train.jsonl"] and (out_dir / "train.jsonl").read_text() == "old"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported folder and, beside it, an environment whose python writes down how it was called."""
    folder = tmp_path / "it's a, folder @1"
    write_parts(tmp_path, make_rows(2))
    export(tmp_path, "openrlhf", folder)
    python = tmp_path / "an env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/bash\nif [[ $1 == -c ]]; then exit "${{NOT_READY:-0}}"; fi\nprintf "%s\\0" "$PWD" "$@" >"{tmp_path}/called"\n'
    )
    python.chmod(0o755)
    return folder


def launch(folder: Path, *flags: str, **env: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    called = folder.parent / "called"
    called.unlink(missing_ok=True)
    plain = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "OPENRLHF_ENV": str(folder.parent / "an env")}
    command = ["bash", folder / "launch.sh", *flags]
    done = subprocess.run(command, env=plain | env, cwd=folder.parent, text=True, capture_output=True, check=False)
    return done, called.read_text().split("\0")[:-1] if called.exists() else []


def test_launch_quotes_what_it_is_given(folder: Path) -> None:
    (folder.parent / "a model").mkdir()
    (folder.parent / "chat template").write_text("{{ 'a \"b\" $HOME' }}\n{# more #}")
    done, words = launch(folder, "--adam.lr", "1 e", MODEL="a model", CHAT_TEMPLATE="chat template", OUTPUT_DIR="my tuned")
    assert done.returncode == 0, done.stderr
    assert words[:5] == [str(folder), "-m", "torch.distributed.run", "-m", "openrlhf.cli.train_sft"]
    value_of = dict(pairwise(words))
    assert value_of["--model.model_name_or_path"] == str(folder.parent / "a model")
    assert value_of["--data.tokenizer_chat_template"] == "{{ 'a \"b\" $HOME' }}\n{# more #}"
    assert value_of["--ckpt.output_dir"] == str(folder.parent / "my tuned")
    assert words[-2:] == ["--adam.lr", "1 e"]
    done, words = launch(folder, MODEL="org/name")
    value_of = dict(pairwise(words))
    assert (value_of["--model.model_name_or_path"], value_of["--ckpt.output_dir"]) == ("org/name", str(folder / "checkpoint"))
    assert "--data.tokenizer_chat_template" not in words


def test_launch_asks_for_a_model_and_changes_no_environment_that_is_not_its_own(folder: Path) -> None:
    done, words = launch(folder)
    assert done.returncode and "set MODEL" in done.stderr and not words
    done, words = launch(folder, MODEL="m", NOT_READY="1")
    assert done.returncode == 2 and "has no openrlhf 0.11.2" in done.stderr and not words


def test_launch_makes_its_environment_once(folder: Path) -> None:
    base, env_dir = folder.parent, folder.parent / "new env"
    shim = (
        '#!/bin/bash\necho "$(basename "$0") $*" >>"$HOME/calls"\nif [[ $1 == -c ]]; then [[ -e $HOME/has_openrlhf ]]; exit; fi\n'
        'if [[ $* == *openrlhf==* ]]; then touch "$HOME/has_openrlhf"; fi\n'
        'if [[ $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi\n'
    )
    (base / "my python").write_text(shim)
    (base / "my python").chmod(0o755)
    for _ in range(2):
        done, _ = launch(folder, MODEL="m", OPENRLHF_ENV=str(env_dir), PYTHON=str(base / "my python"))
        assert done.returncode == 0, done.stderr
    calls = [line for line in (base / "calls").read_text().splitlines() if " -m " in line]
    assert [" ".join(call.split()[:4]) for call in calls] == [
        "my python -m venv", *["python -m pip install"] * 2, *["python -m torch.distributed.run -m"] * 2,
    ]
    assert calls[1].endswith(" torch") and calls[2].endswith("--no-build-isolation openrlhf==0.11.2")


def test_launch_in_a_ray_job_wants_an_output_folder_that_outlives_it(folder: Path) -> None:
    job_dir = folder.parent / "runtime_resources" / "working_dir_files" / "x"
    job_dir.parent.mkdir(parents=True)
    folder.rename(job_dir)
    script_env = {"MODEL": "m", "OPENRLHF_ENV": str(folder.parent / "an env")}
    done, _ = launch(job_dir, **script_env)
    assert done.returncode == 2 and "set OUTPUT_DIR" in done.stderr
    done, _ = launch(job_dir, **script_env, OUTPUT_DIR=str(folder.parent / "tuned"))
    assert done.returncode == 0, done.stderr
