"""What OpenRLHF 0.11.2 reads: preference rows, and the launch files that stand beside exported data."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Literal

from alignray.errors import RecordError

VERSION = "0.11.2"
TRAIN_FILE, LAUNCH_FILE, RUNTIME_ENV_FILE = "train.jsonl", "launch.sh", "runtime_env.yaml"
PAIR_COLUMNS = frozenset({"chosen", "rejected"})
BATCH_SIZE = 128

Task = Literal["sft", "dpo"]
Flags = Mapping[str, str | int | float | bool]

_SHARED_FLAGS: Flags = {
    "model.gradient_checkpointing_enable": True,
    "data.dataset": TRAIN_FILE,
    "data.apply_chat_template": True,
    "train.batch_size": BATCH_SIZE,
    "train.micro_batch_size": 2,
    "adam.weight_decay": 0.0,
    "lr_scheduler": "cosine",
    "lr_warmup_ratio": 0.1,
    "ds.zero_stage": 3,
    "ds.param_dtype": "bf16",
    "ds.attn_implementation": "flash_attention_2",
    "ds.packing_samples": True,
}
FLAGS: Mapping[Task, Flags] = {
    "sft": {**_SHARED_FLAGS, "data.input_key": "messages", "data.max_len": 4096, "train.max_epochs": 4, "adam.lr": "2e-5"},
    "dpo": {
        **_SHARED_FLAGS, "data.chosen_key": "chosen", "data.rejected_key": "rejected", "data.max_len": 2048,
        "train.max_epochs": 1, "adam.lr": "5e-7", "model.beta": 0.01,
    },
}
"""Settings of arXiv:2506.09329: WebR's fine-tuning (chapter 4) and BMC's preference training (chapter 6, instruction following).

Micro batch, packing and ZeRO stage are ours; what is not named here keeps OpenRLHF's default.
"""

_TITLES: Mapping[Task, str] = {
    "sft": "SFT at the thesis' settings for WebR (arXiv:2506.09329;\n# it used --data.max_len 2048 for 14B models).",
    "dpo": "plain DPO (no BMC: OpenRLHF has no weights per token)\n# at the thesis' settings for instruction following "
           "(arXiv:2506.09329; it used --model.beta 0.05 for question answering and mathematics).",
}


def preference_row(item: Mapping[str, Any], *, where: str) -> dict[str, list[dict[str, str]]]:
    """``chosen`` and ``rejected`` as the whole message lists that RewardDataset takes its prompt from (all but the last turn).

    Each side is a string, one assistant turn, or a whole conversation. A string or a single turn follows ``prompt``, else
    ``messages``: a string, which becomes a user turn, or messages.

    Args:
        where: names the row in errors, such as ``pairs.jsonl: record 3``.

    Raises:
        RecordError: a column is missing or of another shape, or the two sides do not answer the same prompt.
    """
    sides = {name: _turns(item.get(name), "assistant", f"{where}: {name}") for name in ("chosen", "rejected")}
    prompt_value = item.get("prompt")
    if not prompt_value and any(len(turns) == 1 for turns in sides.values()):
        prompt_value = item.get("messages")
    prompt = _turns(prompt_value, "user", f"{where}: prompt") if prompt_value else []
    row = {name: turns if len(turns) > 1 else [*prompt, *turns] for name, turns in sides.items()}
    for name, turns in row.items():
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            roles = ", ".join(turn["role"] for turn in turns)
            raise RecordError(f"{where}: {name} must end in an answer to a prompt, got {roles}; give a prompt, or whole conversations")
        if prompt and turns[:-1][-len(prompt) :] != prompt:
            raise RecordError(f"{where}: {name} does not answer the row's prompt; leave the prompt out, or mend the conversation")
    if row["chosen"][:-1] != row["rejected"][:-1]:
        raise RecordError(f"{where}: chosen and rejected differ before their last turn; OpenRLHF takes one prompt for both")
    return row


def _turns(value: Any, role: str, where: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    try:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in value]
    except (TypeError, KeyError) as err:
        raise RecordError(f"{where} must be a string or a list of role and content, got {str(value)[:100]!r}") from err
    if not turns or not all(isinstance(text, str) for turn in turns for text in turn.values()):
        raise RecordError(f"{where} must hold turns of texts, got {str(value)[:100]!r}")
    return turns


def launch_script(task: Task, *, num_rows: int, is_multiturn: bool = False) -> str:
    """Bash that makes OpenRLHF's environment where it is missing and trains on ``train.jsonl`` beside it.

    Args:
        num_rows: rows of the file; OpenRLHF reads only the first 1,000,000 unless told.
        is_multiturn: learn on every assistant turn and not only on the last.
    """
    flags: dict[str, str | int | float | bool] = {**FLAGS[task], "data.max_samples": num_rows}
    if is_multiturn:
        flags["data.multiturn"] = True
    lines = ['--model.model_name_or_path "$MODEL"', *(_flag(name, value) for name, value in sorted(flags.items()))]
    lines += ['--ckpt.output_dir "$output_dir"', '--ckpt.path "$output_dir/states"', '"${template[@]}" "$@"']
    too_few = (
        f"\n# {num_rows} rows do not fill one batch of {BATCH_SIZE}: pass --train.batch_size with fewer, or OpenRLHF plans 0 steps.\n#"
        if num_rows < BATCH_SIZE else ""
    )
    fields = {"TITLE": _TITLES[task], "TASK": task, "ROWS": f"{num_rows:,}", "VERSION": VERSION, "TOO_FEW": too_few,
              "FLAGS": " \\\n  ".join(lines)}
    return _filled(_LAUNCH, fields)


def runtime_env(task: Task) -> str:
    """The file for ``ray job submit --runtime-env``; its comments say why OpenRLHF itself is not in it."""
    return _filled(_RUNTIME_ENV, {"TASK": task, "VERSION": VERSION})


def _flag(name: str, value: str | int | float | bool) -> str:
    return f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}"


def _filled(text: str, fields: Mapping[str, str]) -> str:
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    return text


_LAUNCH = """\
#!/usr/bin/env bash
# OpenRLHF @VERSION@ on the @ROWS@ rows of train.jsonl beside this file: @TITLE@
# `alignray export` writes this file anew each time; set what is yours from outside:
#
#   MODEL=ORG/NAME bash launch.sh                    all GPUs of this machine
#   MODEL=ORG/NAME bash launch.sh --adam.lr 1e-5     flags given here come last and win
#   ray job submit ...                               see runtime_env.yaml
#
# MODEL          name or folder of a model whose tokenizer has a chat template (required)
# CHAT_TEMPLATE  file with a chat template, for a base model that has none
# OUTPUT_DIR     where the tuned model goes (default: checkpoint beside this file)
# OPENRLHF_ENV   Python environment with openrlhf @VERSION@ (default: ~/.cache/alignray/openrlhf-@VERSION@). Where there is none it
#                is made, once, by PYTHON (default: python3), which must be 3.10 to 3.12; without a wheel for your torch and CUDA
#                flash-attn is compiled, which needs nvcc and long
# PET_*          torchrun's settings; on several machines run this on each with PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR
#@TOO_FEW@
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
: "${MODEL:?set MODEL to the name or folder of a model whose tokenizer has a chat template}"
if [[ -d $MODEL ]]; then MODEL=$(realpath -- "$MODEL"); fi
if [[ -z ${OUTPUT_DIR:-} && $here == */runtime_resources/* ]]; then
  echo "launch.sh: Ray removes a job's working folder; set OUTPUT_DIR to a folder that outlives the job" >&2
  exit 2
fi
output_dir=$(realpath -m -- "${OUTPUT_DIR:-$here/checkpoint}")
template=()
if [[ -n ${CHAT_TEMPLATE:-} ]]; then template=(--data.tokenizer_chat_template "$(cat -- "$CHAT_TEMPLATE")"); fi

env_dir=$(realpath -m -- "${OPENRLHF_ENV:-$HOME/.cache/alignray/openrlhf-@VERSION@}")
python=$env_dir/bin/python
is_ready='from importlib.metadata import version; raise SystemExit(version("openrlhf") != "@VERSION@")'
if ! "$python" -c "$is_ready" 2>/dev/null; then
  if [[ -x $python && ! -e $env_dir/.launch.lock ]]; then
    echo "launch.sh: $env_dir has no openrlhf @VERSION@; install it there, or set OPENRLHF_ENV to a folder that does not exist yet" >&2
    exit 2
  fi
  mkdir -p -- "$env_dir"
  exec 9>"$env_dir/.launch.lock"
  flock 9  # two jobs on one node, or nodes that share a home
  if ! "$python" -c "$is_ready" 2>/dev/null; then
    "${PYTHON:-python3}" -m venv "$env_dir"
    # flash-attn is built against the torch that is already there, so torch comes first and build isolation is off
    "$python" -m pip install --upgrade pip setuptools wheel packaging ninja psutil numpy torch
    "$python" -m pip install --no-build-isolation openrlhf==@VERSION@
  fi
  exec 9>&-
fi

export PATH=$env_dir/bin:$PATH PET_NPROC_PER_NODE=${PET_NPROC_PER_NODE:-gpu}
cd -- "$here"  # OpenRLHF splits a dataset's path at "," and "@"; a bare file name has neither
exec "$python" -m torch.distributed.run -m openrlhf.cli.train_@TASK@ \\
  @FLAGS@
"""

_RUNTIME_ENV = """\
# For `ray job submit`, from this folder:
#
#   ray job submit --address http://HEAD:8265 --working-dir . --runtime-env runtime_env.yaml --entrypoint-num-gpus 8 -- \\
#     env MODEL=ORG/NAME OUTPUT_DIR=/shared/tuned bash launch.sh
#
# The job runs on one node, whose GPUs Ray sets aside; its log, `ray job stop` and the dashboard work as for any job. Ray uploads
# at most 512 MiB: with more data put this folder on a shared disk and submit `bash /shared/FOLDER/launch.sh` without --working-dir.
#
# Why openrlhf does not stand under `pip` here:
# - OpenRLHF @VERSION@ pins ray==2.55.0, and Ray refuses a pip or uv environment that holds another Ray than the cluster's
#   ("Changing the ray version is not allowed"); alignray's clusters run 2.60.
# - It pins flash-attn==2.8.3, which on PyPI is source only and builds only beside an installed torch, without build isolation.
# openrlhf.cli.train_@TASK@ does not use Ray. So launch.sh makes a venv of its own on the node (OPENRLHF_ENV, kept for the next job)
# and runs torchrun there as a plain process of the job; the cluster's Ray stays as it is. In an image that has OpenRLHF already, set
# OPENRLHF_ENV to its prefix. Only on a cluster of its own with Ray 2.55.0, torch and flash-attn in its image would
# `pip: ["openrlhf==@VERSION@"]` pass; OPENRLHF_ENV is then "$VIRTUAL_ENV".
#
# Keys (HF_TOKEN, WANDB_API_KEY) belong in the cluster's environment, not here: Ray shows a job's runtime env in its dashboard.
excludes: [/checkpoint]
env_vars:
  PYTHONUNBUFFERED: "1"
"""
