"""The configs of evaluation: those that ship load and hold what they promise, wrong ones say what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alignray.config import load_config
from alignray.errors import ConfigError
from alignray.evals.benchmark import CANDIDATE
from alignray.evals.kinds import build_benchmark
from alignray.pipelines.evaluate_config import EvaluateJobConfig, FollowBenchJobConfig, identity_of
from alignray.runtime.ask import role_of

ROOT = Path(__file__).parents[3]
KINDS = {"evaluate": EvaluateJobConfig, "followbench": FollowBenchJobConfig}
SHIPPED = sorted(path for folder in KINDS for path in (ROOT / "configs" / folder).glob("*.yaml"))
THESIS = {
    "thesis-webr": {"alpaca_eval", "arena_hard", "mt_bench", "ifeval", "arc", "gsm8k", "math", "humaneval", "mmlu"},
    "thesis-lion": {"vicuna/setting_1", "vicuna/setting_2", "agieval", "bbh"},
    "thesis-bmc": {"ecqa", "qasc", "openbookqa", "strategyqa", "gsm8k", "math", "mawps", "svamp", "alpaca_eval", "arena_hard"},
    "thesis": {"followbench"},
}
"""Names of the benchmarks of each config for the thesis' tables."""
JOB: dict[str, Any] = {
    "benchmarks": [{"kind": "ifeval", "prompts": "p.jsonl"}], "candidates": {"one": {"engine": "fake"}},
    "engines": {"fake": {"kind": "scripted"}},
}


def shipped(path: Path) -> EvaluateJobConfig:
    return load_config(KINDS[path.parent.name], path)


def job(**changes: Any) -> EvaluateJobConfig:
    return EvaluateJobConfig.model_validate({**JOB, **changes})


def error_of(tmp_path: Path, kind: type[EvaluateJobConfig] = EvaluateJobConfig, **changes: Any) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**JOB, **changes}))
    with pytest.raises(ConfigError) as caught:
        load_config(kind, path)
    return str(caught.value).replace(f"{tmp_path}/", "")


# ---- those that ship


def test_there_are_configs_for_every_chapter() -> None:
    assert {path.stem for path in SHIPPED} >= {*THESIS, "smoke", "demo"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_config_loads_and_everything_it_names_is_there(path: Path) -> None:
    config = shipped(path)
    built = [build_benchmark(benchmark) for benchmark in config.benchmarks]
    assert len({benchmark.name for benchmark in built}) == len(built)
    for step in (step for benchmark in built for step in benchmark.steps if step.role != CANDIDATE):
        assert role_of(config.roles, step.role).engine in config.engines
    if not path.stem.startswith("thesis"):  # those are about official files, which do not ship
        assert all((ROOT / file).is_file() for benchmark in config.benchmarks for file in benchmark.files().values())


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.stem in THESIS], ids=lambda path: path.stem)
def test_a_thesis_config_holds_the_benchmarks_of_its_chapter(path: Path) -> None:
    config = shipped(path)
    assert {build_benchmark(benchmark).name for benchmark in config.benchmarks} == THESIS[path.stem]
    assert config.budget.usd is not None and config.runtime.address == "auto"
    assert all(candidate.temperature == 0 for candidate in config.candidates.values())


def test_the_thesis_measures_so_many_tasks() -> None:
    """AGIEval's eight English ones and BBH's 23 with options (chapter 3), MMLU's 57."""
    configs = [shipped(ROOT / "configs" / "evaluate" / f"thesis-{name}.yaml") for name in ("lion", "webr")]
    tasks = {
        getattr(benchmark, "format", ""): len(getattr(benchmark, "tasks", ()))
        for config in configs for benchmark in config.benchmarks if benchmark.kind == "choice"
    }
    assert tasks == {"agieval": 8, "bbh": 23, "arc": 2, "mmlu": 57}


def test_followbench_is_judged_as_in_the_thesis() -> None:
    config = shipped(ROOT / "configs" / "followbench" / "thesis.yaml")
    [benchmark] = config.benchmarks
    assert set(benchmark.files()) == {"content", "situation", "style", "format", "example", "mixed"}
    assert getattr(config.engines["gpt-4"], "model", "") == "gpt-4-1106-preview" and config.roles["judge"].engine == "gpt-4"
    assert (config.roles["judge"].temperature, config.roles["judge"].max_new_tokens) == (0.0, 2048)
    assert benchmark.model_dump()["judge"] == {
        "prompt": "multi_level", "form": "list", "parser": "strict", "temperature": 0.0, "max_new_tokens": 2048,
    }


# ---- wrong ones


@pytest.mark.parametrize(("changes", "said"), [
    ({"candidates": {"one": {"engine": "fakee"}}}, "candidates.one.engine = 'fakee' is not under engines; it has: fake"),
    ({"candidates": {"one": {"engine": "fake"}}, "engines": {}}, "candidates.one.engine = 'fake' is not under engines; it has: nothing"),
    ({"candidates": {"one": {"engine": "fake", "answers": "a.jsonl"}}}, "candidates.one: a candidate has either engine"),
    ({"candidates": {"one": {}}}, "candidates.one: a candidate has either engine (a name under engines) or answers (a file of"),
    ({"candidates": {"a@b": {"engine": "fake"}}}, "candidate 'a@b': a name has no \"@\" and no \"/\", and is not empty"),
    ({"candidates": {"a/b": {"answers": "a.jsonl"}}}, "candidate 'a/b': a name has no \"@\""),
    ({"candidates": {}}, "candidates: dictionary should have at least 1 item"),
    ({"roles": {"candidate": {"engine": "fake"}}}, "roles.candidate is set by candidates; remove it"),
    ({"benchmarks": []}, "benchmarks is empty; name at least one"),
    ({"benchmarks": [{"kind": "ifevall", "prompts": "p"}]}, "'ifevall' found using 'kind' does not match any of the expected tags"),
    ({"benchmarks": [{"kind": "ifeval", "prompts": "", "max_item": 3}]}, 'unknown key "max_item" under benchmarks.0; did you mean "max_i'),
    ({"benchmarks": [{"kind": "followbench"}]}, "FollowBench needs a file; name at least one of content, situation, style"),
    ({"temperatures": [0, -0.5]}, "temperatures.1 = -0.5: input should be greater than or equal to 0"),
    ({"plan": {"completion_tokens": {"ifeval/answer": -1}}}, "ifeval/answer = -1: input should be greater than or equal to 0"),
], ids=str)
def test_a_wrong_config_says_what_is_wrong(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    message = error_of(tmp_path, **changes)
    assert message.startswith("job.yaml:") and said.casefold() in message.casefold()
    assert "; job.yaml" not in message, "one mistake, one message"


def test_followbench_alone_says_which_command_takes_the_others(tmp_path: Path) -> None:
    message = error_of(tmp_path, FollowBenchJobConfig)
    assert "benchmarks has kind 'ifeval'; alignray followbench measures FollowBench alone, use alignray evaluate" in message


# ---- what follows from a config


def test_each_engine_is_measured_at_each_temperature_and_recorded_answers_once() -> None:
    config = job(candidates={"one": {"engine": "fake", "max_new_tokens": 9}, "old": {"answers": "a.jsonl"}}, temperatures=[0, 0.5])
    assert {name: candidate.temperature for name, candidate in config.measured().items()} == {"one@0": 0.0, "one@0.5": 0.5, "old": 0.0}
    assert config.measured()["one@0.5"].role().max_new_tokens == 9
    assert list(job().measured()) == ["one"]


def test_identity_holds_what_decides_the_scores() -> None:
    base = identity_of(job())
    elsewhere = {"plan": {"sample_items": 3, "completion_tokens": {"ifeval/answer": 7}}, "run_dir": "elsewhere", "verdicts": "store"}
    assert identity_of(job(**elsewhere, budget={"usd": 1}, max_reject_rate=0.5)) == base
    for change in ({"seed": 1}, {"temperatures": [0.5]}, {"candidates": {"one": {"engine": "fake", "temperature": 1.0}}},
                   {"benchmarks": [{"kind": "ifeval", "prompts": "p.jsonl", "max_items": 3}]}):
        assert identity_of(job(**change)) != base
