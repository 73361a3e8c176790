"""A wrong config says which file, line and key, the value seen and the nearest right one, before anything starts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest

from alignray.config import Config, changed_keys, fingerprint, load_config, may_be_secret
from alignray.engine import EngineConfig
from alignray.errors import ConfigError
from alignray.pipelines.jobs import JOBS
from alignray.serve.edits_config import EditServerConfig

ROOT = Path(__file__).parents[2]


class Part(Config):
    threshold: float = pydantic.Field(default=0.7, gt=0, le=1)
    mode: Literal["exact", "estimate", "none"] = "exact"


class Job(Config):
    name: str
    rows: int = 10
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    engines: dict[str, EngineConfig] = {}
    api_key: Annotated[str, pydantic.Field(max_length=5)] = ""


def load(tmp_path: Path, text: str, *overrides: str) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_config(Job, path, overrides=overrides)


def error_of(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_config_is_frozen_and_filled_with_defaults(tmp_path: Path) -> None:
    job = load(tmp_path, "name: a\npart: {threshold: 0.5}\n")
    assert job == Job(name="a", part=Part(threshold=0.5))
    with pytest.raises(pydantic.ValidationError):
        job.rows = 3  # type: ignore[misc]


# ---- what a message says


def test_an_unknown_key_names_file_line_and_nearest_name(tmp_path: Path) -> None:
    text = "name: a\npart:\n  mode: exact\n  treshold: 0.5\n"
    assert error_of(tmp_path, text) == 'job.yaml:4: unknown key "treshold" under part; did you mean "threshold"?'
    assert error_of(tmp_path, "name: a\n\nrow: 3\n") == 'job.yaml:3: unknown key "row" under the top level; did you mean "rows"?'


def test_an_unknown_key_like_no_other_gets_the_list_of_keys(tmp_path: Path) -> None:
    assert error_of(tmp_path, "name: a\npart: {zzz: 1}\n").endswith('unknown key "zzz" under part; valid keys: mode, threshold')


def test_an_unknown_key_in_a_list_is_found(tmp_path: Path) -> None:
    text = "name: a\nparts:\n  - {mode: none}\n  - threshold: 0.2\n    mod: none\n"
    assert error_of(tmp_path, text) == 'job.yaml:5: unknown key "mod" under parts.1; did you mean "mode"?'


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert error_of(tmp_path, "rows: 3\n") == 'job.yaml:1: required key "name" is missing'
    assert error_of(tmp_path, "") == 'job.yaml:1: required key "name" is missing'


def test_a_wrong_type_shows_the_value(tmp_path: Path) -> None:
    message = error_of(tmp_path, "name: a\nrows: many\n")
    assert message.startswith("job.yaml:2: rows = 'many': input should be a valid integer")


def test_a_value_out_of_range_shows_the_value_and_the_bound(tmp_path: Path) -> None:
    message = error_of(tmp_path, "name: a\npart: {threshold: 1.5}\n")
    assert message == "job.yaml:2: part.threshold = 1.5: input should be less than or equal to 1"


def test_a_wrong_choice_suggests_the_nearest(tmp_path: Path) -> None:
    message = error_of(tmp_path, "name: a\npart:\n  mode: exakt\n")
    assert message.startswith("job.yaml:3: part.mode = 'exakt': ") and message.endswith('did you mean "exact"?')


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    message = error_of(tmp_path, "rows: x\nfoo: 1\n")
    assert "rows = 'x'" in message and 'unknown key "foo"' in message and '"name" is missing' in message


def test_bad_yaml_names_its_line(tmp_path: Path) -> None:
    assert error_of(tmp_path, "name: a\nrows: [1, 2\npart: {}\n").startswith("job.yaml:3: not valid YAML")
    assert error_of(tmp_path, "name: a\n\tb: 1\n").startswith("job.yaml:2: not valid YAML")


def test_a_config_that_is_no_mapping_says_so(tmp_path: Path) -> None:
    assert error_of(tmp_path, "- a\n- b\n") == "job.yaml: a config is a mapping of keys to values; got list"


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot read the config \(No such file"):
        load_config(Job, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(Job, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 6\)"):
        load_config(Job, tmp_path / "binary.yaml")


def test_engines_in_a_union_give_the_key_and_not_the_tag(tmp_path: Path) -> None:
    text = "name: a\nengines:\n  big:\n    kind: openai\n    model: x\n    timout_s: 3\n"
    assert error_of(tmp_path, text) == 'job.yaml:6: unknown key "timout_s" under engines.big; did you mean "timeout_s"?'
    assert error_of(tmp_path, "name: a\nengines: {big: {kind: openai}}\n") == 'job.yaml:2: required key "engines.big.model" is missing'
    message = error_of(tmp_path, "name: a\nengines:\n  fake:\n    kind: scripted\n    fail_rate: 2\n")
    assert message == "job.yaml:5: engines.fake.fail_rate = 2: input should be less than or equal to 1"


def test_an_engine_kind_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    message = error_of(tmp_path, "name: a\nengines:\n  big:\n    kind: sglang\n    model: x\n")
    assert message.startswith("job.yaml:3: engines.big: ") and "'sglang'" in message
    assert all(f"'{kind}'" in message for kind in ("scripted", "llama", "vllm", "openai"))
    assert "kind" in error_of(tmp_path, "name: a\nengines: {big: {model: x}}\n")


def test_a_secret_is_never_repeated(tmp_path: Path) -> None:
    assert "sk-proj-123" not in error_of(tmp_path, "name: a\napi_key: sk-proj-123\n")
    openai = "name: a\nengines: {e: {kind: openai, model: x, %s}}\n"
    assert "sk-proj-123" not in error_of(tmp_path, openai % "api_key_env: sk-proj-123")
    assert "hunter2" not in error_of(tmp_path, openai % "base_url: 'https://me:hunter2@host/v1'")
    assert may_be_secret("Authorization") and not may_be_secret("api_key_env") and not may_be_secret("max_new_tokens")
    assert not may_be_secret("tokenizer") and not may_be_secret("end_token") and may_be_secret("token")


# ---- overrides


def test_overrides_reach_into_parts_and_lists_and_are_yaml(tmp_path: Path) -> None:
    text = "name: a\nparts: [{mode: none}, {mode: exact}]\n"
    job = load(tmp_path, text, "rows=3", "part.threshold=0.25", "parts.1.mode=estimate", "parts.0={threshold: 0.1}", "name='7'")
    assert job == Job(
        name="7", rows=3, part=Part(threshold=0.25), parts=(Part(threshold=0.1), Part(mode="estimate")),
    )


def test_an_override_may_name_a_part_that_the_file_leaves_out(tmp_path: Path) -> None:
    assert load(tmp_path, "name: a\n", "part.mode=none").part.mode == "none"
    assert load(tmp_path, "name: a\n", "engines.x.kind=scripted", "engines.x.seed=3").engines["x"].seed == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rows", "--set 'rows': write dotted.key=value"),
        ("=3", "--set '=3': write dotted.key=value"),
        ("rows=[1", "--set 'rows=[1': '[1' is not a YAML value; quote it"),
        ("rows=x", "--set rows=x: rows = 'x': input should be a valid integer"),
        ("part.tresh=1", '--set part.tresh=1: unknown key "tresh" under part; did you mean "threshold"?'),
        ("parts.2.mode=none", "--set 'parts.2.mode=none': '2' is not a position in a list of 1; count from 0"),
        ("parts.-1.mode=none", "'-1' is not a position in a list of 1; count from 0"),
        ("parts.first=1", "'first' is not a position in a list of 1; count from 0"),
        ("words.0.x=1", "--set 'words.0.x=1': words.0 = 'one' has no keys of its own"),
        ("parts.\u00b2=1", "is not a position in a list of 1"),
    ],
)
def test_a_wrong_override_is_the_one_named(tmp_path: Path, override: str, says: str) -> None:
    assert says in error_of(tmp_path, "name: a\nwords: [one]\nparts: [{mode: none}]\n", override)


# ---- fingerprints


def test_a_fingerprint_sees_every_value_but_those_left_out() -> None:
    job = Job(name="a")
    assert fingerprint(job) == fingerprint(Job(name="a", rows=10))
    assert fingerprint(job) != fingerprint(Job(name="a", part=Part(mode="none")))
    assert fingerprint(job, without=["rows"]) == fingerprint(Job(name="a", rows=99), without=["rows"])


def test_changed_keys_are_listed_by_leaf() -> None:
    old = {"a": 1, "b": {"c": 2, "d": [1]}, "e": 5}
    new = {"a": 1, "b": {"c": 3, "d": [1, 2]}, "f": 6}
    assert changed_keys(old, new) == ["b.c: 2 -> 3", "b.d: [1] -> [1, 2]", "e: 5 -> '(not set)'", "f: '(not set)' -> 6"]
    assert changed_keys(old, old) == []


# ---- this repository


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.y*ml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_in_the_repository_loads(path: Path) -> None:
    load_config({**JOBS, "edits": EditServerConfig}[path.parent.name], path)


def test_the_light_rooms_load_neither_torch_nor_ray() -> None:
    modules = "alignray.schema, alignray.config, alignray.methods.webr, alignray.engine"
    assert _loaded_by(modules, {"torch", "ray", "transformers", "aiohttp", "xllamacpp"}) == "[]"


def test_the_command_line_loads_nothing_heavy() -> None:
    assert _loaded_by("alignray.cli", {"ray", "torch", "numpy", "pyarrow", "pydantic"}) == "[]"


def _loaded_by(modules: str, heavy: set[str]) -> str:
    code = f"import sys, {modules}; print(sorted({heavy!r} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_help_answers_in_half_a_second() -> None:
    times = []
    for _ in range(6):  # the best: a busy machine is not the command's fault
        start = time.perf_counter()
        shown = subprocess.run([sys.executable, "-m", "alignray.cli", "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        if len(times) >= 3 and min(times) < 0.5:
            break
    assert "webr" in shown.stdout
    assert min(times) < 0.5
