"""Does LTE work: SmolLM2-135M aligned on edits from real files, then edited by edits it has never seen, beside ICE, FT and FT-L.

Training edits are ZsRE, RippleEdits (WikiData_counterfact and WikiData_recent), WikiBio, MQuAKE and COUNTERFACT of the shared data in
the proportions of Table C.1, with what the files hold (no GPT-4: answers that a file lacks are left out, COUNTERFACT's own questions
stand for free text). Test edits are KnowEdit's ZsRE test file, all questions of each record; training edits that share a fact or a
question with any of them are dropped by the pipeline. For every seed the examples are drawn anew and two models are trained, all
weights and LoRA; then one evaluation:

    bare    the model as it is                          ft      its MLP layer at two thirds of the depth trained on the edits
    ice     edits and instructions in its prompt        ft-l    the same, no weight moved by more than --limit
    lte, lte-lora (one of each per seed)                edits in the prompt, looked up by MiniLM, top 3

Single edits, batches of 10 and of all, and a stream of all, scored at its end. Every command is the product's own, as a user types
it. There is no mark; ``ratio`` is the mean edit success of the LTE models over that of ICE in single editing, and ``ok`` says that
edit success and portability are both ahead of ICE in the mean over seeds (the thesis' order).

    python bench/lte_works.py --model models/smollm2 --data ../shared/data [--quick] [--seeds N] [--records N] [--scale X]
        [--no-stream] [--general N] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edit_memory import minilm

METRICS = (("edit_success", "token"), ("edit_success", "exact"), ("portability", "token"), ("portability", "exact"),
           ("locality", "token"), ("locality", "exact"), ("fluency", "thesis"))
COUNTERFACT_ROWS = 1000
ALIGNRAY = str(Path(sys.executable).with_name("alignray"))


def alignray(*arguments: str) -> dict[str, Any]:
    """What a command prints as JSON; its progress goes to our stderr."""
    done = subprocess.run([ALIGNRAY, *arguments, "--json"], stdout=subprocess.PIPE, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"alignray {' '.join(arguments)} ended with {done.returncode}: {done.stdout.decode()[:2000]}")
    return json.loads(done.stdout)


def written(path: Path, config: dict[str, Any]) -> str:
    """JSON is YAML."""
    path.write_text(json.dumps(config, indent=1))
    return str(path)


def examples_config(data: Path, folder: Path, seed: int, scale: float, embedder: str) -> dict[str, Any]:
    """``alignray lte`` on what the shared files hold; of COUNTERFACT the first rows, as every row read is embedded."""
    def edit(*names: str) -> list[str]:
        return [str(data / "edit" / f"{name}.jsonl.gz") for name in names]

    counterfact = folder / "counterfact.jsonl"
    with gzip.open(edit("counterfact_edit_10k")[0], "rt") as lines:
        counterfact.write_text("".join(itertools.islice(lines, COUNTERFACT_ROWS)))
    return {
        "seed": seed, "embedder": embedder,
        "input": {
            "edits": [
                {"form": "zsre_mend", "paths": edit("zsre_mend_train_1k")},
                {"form": "wiki_recent", "paths": edit("knowedit_wiki_recent_train")},
                {"form": "wiki_counterfact", "paths": edit("knowedit_wiki_counterfact_train")},
                {"form": "wikibio", "paths": edit("knowedit_wikibio_train")}, {"form": "mquake", "paths": edit("mquake_hard_429")},
                {"form": "counterfact", "paths": [str(counterfact)]},
            ],
            "test": [{"form": "zsre_knowedit", "paths": edit("knowedit_zsre_test")}],
        },
        "lte": {
            "quotas": {"scale": scale}, "scopes": {"plain_answers": "drop", "free_text": "file", "out_of_scope": "file", "verify": False},
        },
    }


def training_config(model: Path, rows: Path, seed: int, *, lora: bool, quick: bool) -> dict[str, Any]:
    """Table C.2 on a small scale: fewer examples, so a smaller batch and more of a rate."""
    return {
        "seed": seed, "input": {"paths": [str(rows)], "eval_rate": 0.02}, "objective": {"kind": "sft"},
        "model": {"path": str(model), "dtype": "float32", "gradient_checkpointing": False,
                  **({"lora": {"rank": 8, "alpha": 16, "dropout": 0.05}} if lora else {})},
        "tokens": {"max_length": 512, "max_prompt_length": 448},
        "optimizer": {"learning_rate": 3e-4 if lora else 5e-5, "warmup_rate": 0.03}, "batch_size": 8, "max_tokens_per_device": 1024,
        "epochs": 1, "checkpoint_every_steps": 10_000, "eval": {"every_steps": 10_000}, **({"max_steps": 3} if quick else {}),
        "reference": {"store": str(rows.parent / "store")},
    }


def evaluation_config(
    data: Path, model: Path, trained: dict[str, dict[str, Any]], records: int, stream: bool, embedder: str, limit: float,
) -> dict[str, Any]:
    """Every method on the same records."""
    bare = {"path": str(model), "dtype": "float32", "max_batch": 32}
    test = {"form": "zsre_knowedit", "paths": [str(data / "edit" / "knowedit_zsre_test.jsonl.gz")]}
    return {
        "embedder": embedder, "input": {"edits": [test], "max_records": records},
        "editing": {"batch": [10, records], "stream": [records] if stream else []},
        "lte": {"evaluation": {"sequential": "final", "fluency": "thesis"}}, "write": {"max_new_tokens": 40},
        "methods": {
            "bare": {"kind": "bare", "model": bare}, "ice": {"kind": "ice", "model": bare},
            "ft": {"kind": "fine_tune", "model": bare},
            **({"ft-l": {"kind": "fine_tune", "model": bare, "fine_tune": {"max_change": limit}}} if limit else {}),
            **{name: {"kind": "lte", "model": bare | given} for name, given in trained.items()},
        },
    }


def general_config(data: Path, folder: Path, model: Path, trained: dict[str, dict[str, Any]], items: int) -> dict[str, Any]:
    """What the first seed's models can do without any edit: IFEval's first prompts (rules), OpenBookQA's questions (a letter)."""
    ifeval, questions = folder / "ifeval.jsonl", folder / "openbookqa.jsonl"
    with (data / "ifeval" / "input_data.jsonl").open() as lines:
        ifeval.write_text("".join(itertools.islice(lines, items)))
    with gzip.open(data / "qa" / "openbookqa_test.jsonl.gz", "rt") as lines:
        questions.write_text("".join(itertools.islice(lines, items)))
    models = {"base": {}} | {name: given for name, given in trained.items() if name.endswith("-0")}
    engines = {
        name: {"kind": "transformers", "model": given.get("path", str(model)), "adapters": given.get("adapters", []), "threads": 1}
        for name, given in models.items()
    }
    return {
        "benchmarks": [
            {"kind": "ifeval", "prompts": str(ifeval), "max_new_tokens": 160},
            {"kind": "choice", "format": "openbookqa", "tasks": {"openbookqa": str(questions)}, "max_new_tokens": 12},
        ],
        "candidates": {name: {"engine": name, "temperature": 0.0} for name in models}, "engines": engines,
    }


def table(evaluation: dict[str, Any], names: dict[str, list[str]], settings: Sequence[tuple[str, int, str]]) -> None:
    """Means over seeds, with each seed's figure where there are several."""
    figures = {(one["method"], one["mode"], one["size"], one["when"], one["metric"], one["measure"]): one for one in evaluation["figures"]
               if one["source"] == "zsre"}
    for setting in settings:
        print(f"\n{' '.join(str(part) for part in setting if part)}")
        for method, runs in names.items():
            cells = []
            for metric in METRICS:
                values = [figures[run, *setting, *metric]["mean"] for run in runs if (run, *setting, *metric) in figures]
                if values:
                    each = f" ({', '.join(f'{value:.3g}' for value in values)})" if len(values) > 1 else ""
                    cells.append(f"{' '.join(metric)} {statistics.fmean(values):.3f}{each}")
            if cells:
                print(f"  {method:9} " + "; ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ALIGNRAY_DATA", "../shared/data")))
    parser.add_argument("--embedder", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--scale", type=float, default=0.02, help="of Table C.1's 60,000 examples")
    parser.add_argument("--limit", type=float, default=5e-4, help="of FT-L; 0 leaves it out")
    parser.add_argument("--no-stream", dest="stream", action="store_false", help="single edits and batches only: two thirds of the time")
    parser.add_argument("--general", type=int, default=60, help="items of each general benchmark; 0: none")
    parser.add_argument("--keep", type=Path, default=None, help="work there, and go on there after a stop")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    seeds, records, scale = (1, 4, 0.0004) if given.quick else (given.seeds, given.records, given.scale)
    items = min(given.general, 4) if given.quick else given.general
    data, model, embedder = given.data.resolve(), given.model.resolve(), given.embedder or minilm()
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = (given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)

        def trained(seed: int, lora: bool) -> dict[str, Any]:
            name = f"{'lora' if lora else 'full'}-{seed}"
            config = training_config(model, folder / f"examples-{seed}", seed, lora=lora, quick=given.quick)
            path = written(folder / f"{name}.json", config)
            done = alignray("train", path, "--run", str(folder / name))
            print(f"{name}: {done['rows']:,} examples, {done['steps']} steps, loss {done['metrics']['loss']:.3f}", flush=True)
            return {"adapters": [done["model"]]} if lora else {"path": done["model"]}

        for seed in range(seeds):
            config = written(folder / f"examples-{seed}.json", examples_config(data, folder, seed, scale, embedder))
            made = alignray("lte", config, "--run", str(folder / f"examples-{seed}"))
            print(f"seed {seed}: {made['rows']:,} examples; leakage {made['data']['leakage']}", flush=True)
        jobs = [(seed, lora) for seed in range(seeds) for lora in (False, True)]
        with ThreadPoolExecutor(2) as pool:
            models = dict(zip(jobs, pool.map(lambda job: trained(*job), jobs), strict=True))
        names = {"bare": ["bare"], "ice": ["ice"], "ft": ["ft"], "ft-l": ["ft-l"]}
        names |= {kind: [f"{kind}-{seed}" for seed in range(seeds)] for kind in ("lte", "lte-lora")}
        methods = {f"lte-lora-{seed}" if lora else f"lte-{seed}": found for (seed, lora), found in models.items()}
        config = written(folder / "evaluation.json", evaluation_config(data, model, methods, records, given.stream, embedder, given.limit))
        outcome = alignray("edit-eval", config, "--run", str(folder / "evaluation"))
        config = written(folder / "general.json", general_config(data, folder, model, methods, items))
        general = alignray("evaluate", config, "--run", str(folder / "general"))["figures"] if items else {}
    evaluation = outcome["evaluation"]
    settings = sorted({(one["mode"], one["size"], one["when"]) for one in evaluation["figures"]}, key=lambda one: (one[0] != "single", one))
    table(evaluation, names, settings)
    for one in evaluation["times"]:
        seconds = f"{one['edit_seconds']:.4f} s per edit, {one['answer_seconds']:.4f} s per answer"
        print(f"{one['method']} {one['mode']} {one['size']}: {seconds}")
    for one in evaluation["retrieval"]:
        if one["method"] == "ice" and one["source"] == "zsre":
            print(f"{one['mode']} {one['size']} {one['aspect']}: precision at {one['k']} {one['precision']:.3f}, hit {one['hit']:.3f}")
    for name, benchmarks in general.items():
        whole = [one for figures in benchmarks.values() for one in figures if not one["category"] and one["value"] is not None]
        cells = (f"{one['metric']} {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in whole)
        print(f"without edits, {items} items each: {name}: " + "; ".join(cells))
    single = {(one["method"], one["metric"]): one["mean"] for one in evaluation["figures"]
              if one["source"] == "zsre" and one["mode"] == "single" and one["measure"] == "token"}
    ours = {metric: statistics.fmean(single[run, metric] for run in names["lte"]) for metric in ("edit_success", "portability")}
    print(json.dumps({
        "bench": "lte_works", "ratio": round(ours["edit_success"] / max(single["ice", "edit_success"], 1e-9), 3), "mark": None,
        "ok": all(value > single["ice", metric] for metric, value in ours.items()), "seeds": seeds, "records": records, "scale": scale,
        "seconds": round(time.perf_counter() - began),
    }))


if __name__ == "__main__":
    main()
