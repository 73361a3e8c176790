"""A simulated judge with known errors: does the corrected interval cover the rate that humans would find, and does the naive one?

Each run draws items with a true rate, verdicts of a judge with a given sensitivity and specificity, and a separate slice labelled
by humans from which both are estimated. The corrected interval knows the slice and the verdicts only. The naive one is the
Wilson interval of the verdicts as they are. In the setting with groups, items come five by five with a rate of their own around the
true one, as levels of one instruction do, and the intervals are told the groups: the naive one is the clustered t interval there.

    python bench/judge_intervals.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass

import numpy as np

from alignray.evals.statistics import Calibration, Estimate, corrected_rate, mean_interval

LEVEL, MARK = 0.95, 0.02


@dataclass(frozen=True)
class Setting:
    """What a run draws from."""

    name: str
    rate: float
    sensitivity: float
    specificity: float
    num_items: int
    num_labelled: int
    group_size: int = 1


SETTINGS = (
    Setting("fair judge", 0.60, 0.90, 0.75, 500, 200),
    Setting("lenient judge", 0.40, 0.95, 0.65, 800, 200),
    Setting("strict judge", 0.75, 0.70, 0.95, 800, 200),
    Setting("few labels", 0.50, 0.85, 0.70, 400, 100),
    Setting("rate near 1", 0.90, 0.90, 0.80, 800, 400),
    Setting("groups of five", 0.60, 0.90, 0.75, 800, 200, group_size=5),
)
CONCENTRATION = 4.0
"""Of the Beta that a group's rate comes from: an intraclass correlation of 0.2."""


def one_run(setting: Setting, rng: np.random.Generator) -> tuple[Estimate, Estimate]:
    """Corrected and naive estimate of one simulated evaluation."""
    num_groups = setting.num_items // setting.group_size
    if setting.group_size == 1:
        rates = np.full(num_groups, setting.rate)
    else:
        rates = rng.beta(CONCENTRATION * setting.rate, CONCENTRATION * (1 - setting.rate), size=num_groups)
    groups = np.repeat(np.arange(num_groups), setting.group_size).tolist()
    verdicts = judged(rng.random(setting.num_items) < rates.repeat(setting.group_size), setting, rng)
    truth = rng.random(setting.num_labelled) < setting.rate
    labelled = judged(truth, setting, rng)
    calibration = Calibration(
        num_positive=int(truth.sum()), num_true_positive=int((truth & labelled).sum()), num_negative=int((~truth).sum()),
        num_true_negative=int((~truth & ~labelled).sum()),
    )
    values = verdicts.astype(float).tolist()
    return corrected_rate(values, calibration, groups, level=LEVEL), mean_interval(values, groups, level=LEVEL)


def judged(truth: np.ndarray, setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """The judge's verdicts on items with these true labels."""
    return rng.random(len(truth)) < np.where(truth, setting.sensitivity, 1 - setting.specificity)


def covers(estimate: Estimate, rate: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= rate <= estimate.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 runs of each setting in place of 20,000")
    given = parser.parse_args()
    num_runs = 2000 if given.quick else 20_000
    print(f"Python {platform.python_version()}, numpy {np.__version__}; {num_runs} runs of each setting")
    started = time.perf_counter()
    corrected, naive, bias = {}, {}, {}
    for number, setting in enumerate(SETTINGS):
        rng = np.random.default_rng([20_251_121, number])
        runs = [one_run(setting, rng) for _ in range(num_runs)]
        corrected[setting.name] = sum(covers(ours, setting.rate) for ours, _ in runs) / num_runs
        naive[setting.name] = sum(covers(theirs, setting.rate) for _, theirs in runs) / num_runs
        bias[setting.name] = float(np.mean([ours.value for ours, _ in runs if ours.value is not None])) - setting.rate
        widths = np.mean([ours.high - ours.low for ours, _ in runs if ours.high is not None and ours.low is not None])
        print(
            f"{setting.name:15} corrected covers {corrected[setting.name]:.2%} (width {widths:.3f}, bias {bias[setting.name]:+.4f}), "
            f"naive {naive[setting.name]:.2%}", flush=True,
        )
    worst = max(abs(share - LEVEL) for share in corrected.values())
    print(json.dumps({
        "bench": "judge_intervals", "worst_miss": round(worst, 4), "mark": MARK, "ok": worst <= MARK and max(naive.values()) < LEVEL - MARK,
        "runs": num_runs, "corrected": {name: round(share, 4) for name, share in corrected.items()},
        "naive": {name: round(share, 4) for name, share in naive.items()}, "seconds": round(time.perf_counter() - started, 1),
    }))


if __name__ == "__main__":
    main()
