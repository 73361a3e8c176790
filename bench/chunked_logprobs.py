"""Log-probabilities of given tokens at a large vocabulary: ``objectives.token_logprobs`` against log_softmax and gather.

2,048 positions, hidden size 512, a vocabulary of 128,000, float32, forward and backward, each contender in a process of its own. The peak
is the process' high-water mark of resident memory above what it held with inputs, weight and the (equally large) gradients already in
place; time is CPU time of one thread, the better of both orders. Ours runs with the chunk it uses in
training (1,024 positions) and with a smaller one. Values and gradients are compared with the naive ones. DESIGN has no mark.

    python bench/chunked_logprobs.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from alignray.objectives.logprobs import CHUNK, token_logprobs

HIDDEN = 512
KINDS = ("chunked", "chunked-256", "naive")


def logprobs_of(kind: str, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    if kind != "naive":
        return token_logprobs(hidden_ND, weight_VD, targets_N, chunk=256 if kind == "chunked-256" else CHUNK)
    return (hidden_ND @ weight_VD.T).log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def contend(kind: str, positions: int, vocabulary: int, out: Path) -> None:
    """One contender: values and gradients into a file, figures on standard output."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(positions, HIDDEN, generator=generator).requires_grad_()
    weight_VD = (torch.randn(vocabulary, HIDDEN, generator=generator) / HIDDEN**0.5).requires_grad_()
    targets_N = torch.randint(vocabulary, (positions,), generator=generator)
    slope_N = torch.randn(positions, generator=generator)  # what a loss would send back
    hidden_ND.grad, weight_VD.grad = torch.zeros_like(hidden_ND), torch.zeros_like(weight_VD)
    logprobs_of(kind, hidden_ND[:8], weight_VD, targets_N[:8]).sum().backward()  # the libraries' own buffers
    before = peak_mib()
    hidden_ND.grad.zero_()
    weight_VD.grad.zero_()
    started = time.process_time()
    logprobs_N = logprobs_of(kind, hidden_ND, weight_VD, targets_N)
    (logprobs_N * slope_N).sum().backward()
    seconds = time.process_time() - started
    peak = peak_mib()
    torch.save({"values": logprobs_N.detach(), "hidden": hidden_ND.grad, "weight": weight_VD.grad}, out)
    print(json.dumps({"kind": kind, "seconds": seconds, "peak_mib": peak - before, "whole_mib": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 positions, a vocabulary of 32,000")
    parser.add_argument("--contend", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    positions, vocabulary = (512, 32_000) if given.quick else (2048, 128_000)
    if given.contend:
        contend(given.contend, positions, vocabulary, given.out)
        return
    print(f"Python {platform.python_version()}, torch {version('torch')}; {positions} positions x {vocabulary} tokens x {HIDDEN}")
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for kind in (*KINDS, *KINDS[::-1]):
            command = [sys.executable, __file__, "--contend", kind, "--out", f"{folder}/{kind}.pt", *["--quick"] * given.quick]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[kind].append(json.loads(done.stdout.splitlines()[-1]))
        ours, naive = (torch.load(f"{folder}/{kind}.pt", weights_only=True) for kind in (KINDS[0], KINDS[-1]))
    apart = {name: float((ours[name] - naive[name]).abs().max()) for name in ours}
    size = {name: float(naive[name].abs().max()) for name in naive}
    seconds, peaks = ({kind: min(run[key] for run in runs[kind]) for kind in KINDS} for key in ("seconds", "peak_mib"))
    for kind in KINDS:
        print(f"{kind:12} {seconds[kind]:7.2f} CPU s, peak {peaks[kind]:8.1f} MiB above inputs, weight and gradients")
    for name in apart:
        print(f"{name:12} differ by {apart[name]:.2e} at most; the largest is {size[name]:.2e}")
    # the naive way adds up in another order, so it may be off by float32's rounding
    ok = all(apart[name] <= 1e-5 * max(size[name], 1.0) for name in apart)
    print(json.dumps({
        "bench": "chunked_logprobs", "ratio": round(peaks["naive"] / max(peaks["chunked"], 1e-9), 2), "mark": None, "ok": ok,
        "time": round(seconds["chunked"] / seconds["naive"], 3), "peak_mib": {kind: round(value, 1) for kind, value in peaks.items()},
        "max_difference": {name: float(f"{value:.2e}") for name, value in apart.items()},
    }))


if __name__ == "__main__":
    main()
