"""Run folders of ``alignray train`` made up for tests; texts of tokens, warnings and settings try to break out of the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from alignray.io.commits import CommitLog
from alignray.io.storage import Storage
from alignray.schema import Rejected, table_of
from tests.runfolders import HOSTILE

ROW_IDS = ("a" * 32, "b" * 32)
CHOSEN_TEXTS = ["The", " answer", " is", " ", "no", "\n", "\t", "", "\u202e", "\x07", "<script>alert(1)</script>", HOSTILE, "</span>", "🙂"]
REJECTED_TEXTS = ["The", " answer", " is", " ", "yes", "\n", "<|im_end|>"]
EVALUATIONS = (0, 10, 20)


def build_train_run(
    run_dir: Path, *, status: str = "done", hostile: bool = True, objective: str = "dpo", with_texts: bool = True,
    with_analysis: bool = True, num_steps: int = 20,
) -> Path:
    """A finished (or running) run of ``num_steps`` steps with three evaluations and two watched pairs."""
    run_dir.mkdir(parents=True, exist_ok=True)
    bad = f" {HOSTILE}" if hostile else ""
    is_sft = objective == "sft"
    (run_dir / "manifest.json").write_text(json.dumps(make_train_manifest(bad, status=status, objective=objective, num_steps=num_steps)))
    (run_dir / "config.yaml").write_text(yaml.safe_dump(make_train_config(bad, objective)))
    lines = make_train_metrics(num_steps, objective=objective)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"t": 17000')
    (run_dir / "rejects").mkdir(exist_ok=True)
    rejects = [Rejected("r1", "tokens", "identical_tokens", f'{{"chosen": "x{bad}"}}'), Rejected("r2", "ingest", "one_sided", "{}")]
    pq.write_table(table_of(Rejected, rejects), run_dir / "rejects" / "rejects-0000.parquet")
    if with_texts and not is_sft:
        texts = {"prompt": ["What", f" now?{bad}"], "chosen": CHOSEN_TEXTS, "rejected": REJECTED_TEXTS}
        (run_dir / "watched.json").write_text(json.dumps(dict.fromkeys(ROW_IDS, texts)))
    if with_analysis and not is_sft:
        (run_dir / "analysis.json").write_text(json.dumps(make_train_analysis()))
    if not is_sft:
        rows = [{"row_id": f"{n}", "chosen_ids": [1] * chosen, "rejected_ids": [2] * rejected}
                for n, (chosen, rejected) in enumerate(((3, 1), (5, 2), (4, 4), (1, 7)))]
        CommitLog(Storage(str(run_dir))).write("tokens", "part-0", {"rows": ("stages/tokens", pa.Table.from_pylist(rows))}, {"kept": 4})
    return run_dir


def make_watched(step: int, *, with_reference: bool = True) -> list[dict[str, Any]]:
    """Two pairs after some steps: what differs gains with every step on the chosen side, and loses on the other."""
    def side(texts: list[str], place: int, sign: float) -> dict[str, Any]:
        edited = [at == place for at in range(len(texts))]
        reference = [-2.0 + 0.01 * at for at in range(len(texts))]
        logprobs = [value + (sign * step / 20 if is_edited else 0.0) for value, is_edited in zip(reference, edited, strict=True)]
        weights = [1 + is_edited * min(math.exp(-value), 3.0) for value, is_edited in zip(logprobs, edited, strict=True)]
        return {"ids": list(range(100, 100 + len(texts))), "edited": edited, "logprobs": logprobs, "weights": weights,
                "reference": reference if with_reference else None}

    return [
        {"row_id": row_id, "prompt_ids": [1, 2], "chosen": side(CHOSEN_TEXTS, 4, 1.0), "rejected": side(REJECTED_TEXTS, 4, -1.0)}
        for row_id in ROW_IDS
    ]


def make_train_metrics(num_steps: int, *, objective: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    t, is_sft = 1_795_000_000.0, objective == "sft"

    def pair_figures(done: float) -> dict[str, float]:
        margin = 2 * done
        return {} if is_sft else {
            "margin": margin, "accuracy": 0.0 if done == 0 else 0.5 + done / 2, "chosen_reward": done, "rejected_reward": done - margin,
            "weighted_margin": 2 * margin, "chosen_weight": 3.5 - done, "rejected_weight": 3.5 + done / 2, "chosen_logprob": -2 + done / 2,
            "rejected_logprob": -2 - done / 2,
        }

    for step in range(num_steps + 1):
        done = step / max(num_steps, 1)
        if step:
            lines.append({
                "t": t + step, "stage": "train", "kind": "train", "step": step, "loss": 0.7 - 0.5 * done, "grad_norm": 4 - 3 * done,
                "learning_rate": 1e-6 * (1 - done), "rows": 16, "tokens": 4000, "passes": 2, "tokens_per_s": 8000.0 + step,
                "rows_per_s": 32.0, "step_s": 0.5, **pair_figures(done),
            })
        if step in EVALUATIONS:
            line = {"t": t + step, "stage": "train", "kind": "eval", "step": step, "loss": 0.69 - 0.4 * done, "rows": 30, "tokens": 3000,
                    "kl": 0.2 * done, **pair_figures(done)}
            lines.append(line if is_sft else line | {"watched": make_watched(step, with_reference=objective == "dpo")})
    if num_steps >= 12:  # killed after step 12 and taken up at 10: two steps are there twice
        lines += [{**line, "loss": line["loss"] + 0.001} for line in lines if line["kind"] == "train" and line["step"] in (11, 12)]
    return lines


def make_train_analysis() -> dict[str, Any]:
    norm = {"mean": 2.5, "low": 2.0, "high": 3.0, "batches": 4}
    splits = [
        {"name": name, "rows": 10, "edit_rate": {"low": low, "mean": low + 0.05, "high": low + 0.1}, "margin": 1.25, "accuracy": 0.8,
         "grad_norm": {"untrained": norm, "trained": norm | {"mean": 0.5}}}
        for name, low in (("least edited", 0.1), ("in between", 0.3), ("most edited", 0.6))
    ]
    side = {"positions": [{"position": place, "tokens": 9, "mean": 0.1 * place, "error": None} for place in (1, 2, 3)],
            "unedited": {"tokens": 90, "mean": 0.5, "error": 0.01}}
    confidence = {name: {"chosen": side, "rejected": side} for name in ("untrained", "trained")}
    return {"split": "eval", "rows": 30, "batch_size": 8, "max_position": 8, "edit_splits": splits, "confidence": confidence}


def make_train_manifest(bad: str, *, status: str, objective: str, num_steps: int) -> dict[str, Any]:
    begun = {
        "method": "train", "name": f"harbour <b>train</b> {HOSTILE[:60]}" if bad else "harbour", "status": status, "alignray": "0.1.0",
        "versions": {"ray": "2.60.1", "torch": "2.13"}, "started": "2026-11-20T09:00:00Z", "sessions": 2, "identity": {},
    }
    if status == "running":
        return begun
    warnings = [f"the learning rate is high{bad}", "weights.delta is below 1"]
    return {
        **begun, "finished": "2026-11-20T09:04:11Z", "message": "; ".join(warnings), "warnings": warnings,
        "seconds": {"tokens": 12.0, "reference": 20.5, "train": 100.0},
        "funnel": [{"stage": "read", "in": 202, "kept": 200, "rejected": {"tokens/identical_tokens": 1, "ingest/one_sided": 1}}],
        "objective": make_train_config("", objective)["objective"],
        "tokens": {"read": 202, "kept": 200, "rejected": {}, "flags": {"prompt_cut": 10}, "eval": 30, "tokens": 50000, "targets": 20000,
                   "edited": 2000},
        "reference": None if objective != "dpo" else {"distinct": 200, "found": 150, "computed": 50, "passes": 3},
        "result": {"rows": 170, "eval_rows": 30, "steps": num_steps, "model": "runs/train/model", "layout": "padded",
                   "layout_reason": f"a sliding window of 128 positions{bad}", "metrics": {}},
    }


def make_train_config(bad: str, objective: str) -> dict[str, Any]:
    details: dict[str, Any] = {"kind": objective}
    if objective == "dpo":
        details |= {"beta": 0.1, "weights": {"kind": "bmc", "delta": 3.0, "reference": "policy"}}
    return {
        "run_dir": "runs/train", "model": {"path": f"models/tiny{bad}", "dtype": "bfloat16", "lora": None}, "objective": details,
        "optimizer": {"learning_rate": 5e-7, "schedule": "cosine"}, "strategy": {"kind": "ddp", "zero_stage": 2, "offload": "none"},
        "input": {"paths": [f"data/pairs{bad}.parquet"]}, "batch_size": 16, "epochs": 1, "seed": 0, "tokens": {"max_length": 2048},
    }
