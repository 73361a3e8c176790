"""What a submitted job is sent: the code as its wheel holds it, the config, small local inputs; sized before anything leaves."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alignray
from alignray.config import Config, may_be_secret, without_secrets
from alignray.engine.configs import is_loopback
from alignray.errors import ConfigError

CONFIG = "job.yaml"
ENTRY = '''\
"""``alignray {method}`` as a Ray job.

``ray job submit --working-dir . -- python jobs/{method}.py CONFIG [options of alignray {method}]``
"""

import sys

from alignray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "{method}")
    main()
'''
"""What jobs/METHOD.py holds; an installed alignray has no jobs/ beside it."""

_PATH_KEY = re.compile(r"^(paths|index|against|dir|base_url|review)$|_(path|dir)$")
_SHOWN = 5


@dataclass(frozen=True)
class JobPackage:
    """The files of a job's working folder, by their path in it: content, or where it lies on this machine."""

    files: Mapping[str, bytes | Path]

    @property
    def num_bytes(self) -> int:
        """Size before compression."""
        return sum(map(_size, self.files.values()))

    def check_size(self, max_bytes: int) -> None:
        """Nothing is read or sent of a package that is too big.

        Raises:
            ConfigError: naming the biggest files.
        """
        if self.num_bytes <= max_bytes:
            return
        by_size = sorted(self.files.items(), key=lambda item: -_size(item[1]))
        biggest = ", ".join(f"{name} ({_mb(_size(content))})" for name, content in by_size[:_SHOWN])
        raise ConfigError(
            f"the job's files are {_mb(self.num_bytes)}, over the limit of {_mb(max_bytes)}; the biggest are {biggest}; "
            "put big inputs where every node reaches them and name them by absolute path or URL, or raise --max-mb"
        )

    def write_zip(self, path: Path) -> None:
        """The package as a zip archive; the same files give the same bytes, so that a cluster that has them is sent nothing."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(self.files.items()):
                info = zipfile.ZipInfo(name)
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(info, content if isinstance(content, bytes) else content.read_bytes())


def build_package(method: str, config: Config, *, root: Path) -> JobPackage:
    """Code, config, locked versions and the config's relative inputs under ``root``, as they will lie on the cluster.

    Raises:
        ConfigError: the run folder would be lost, the config holds a secret, or an input is not there or not below ``root``.
    """
    data = portable(config)
    pins, missing = locked(extras_of(config))
    lock = "".join(f"{pin}\n" for pin in pins) + "".join(f"# {name}: not installed where this was submitted\n" for name in missing)
    files: dict[str, bytes | Path] = {
        **wheel_content(),
        f"jobs/{method}.py": ENTRY.format(method=method).encode(),
        CONFIG: yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode(),
        "constraints.txt": lock.encode(),
    }
    for name, path in local_inputs(config, root).items():
        known = files.setdefault(name, path)
        if known is not path and _content(known) != path.read_bytes():
            raise ConfigError(f"input {name} has the name of a file of the job itself; move it, or name it by absolute path or URL")
    return JobPackage(files)


# ---- the config


def portable(config: Config) -> dict[str, Any]:
    """The config as the job reads it: overrides applied, what was not set left out, no address (the job runs where it was sent).

    Raises:
        ConfigError: the run folder is relative, or a value may be a secret; neither is repeated in a job that Ray stores.
    """
    data = config.model_dump(mode="json", exclude_unset=True)
    for path, value in _leaves(data):
        if isinstance(value, str) and value and (any(map(may_be_secret, path)) or without_secrets(value) != value):
            raise ConfigError(
                f"{'.'.join(path)} may hold a secret, and Ray stores a job's files and metadata readable by everyone on the cluster; "
                "leave it to an environment variable of the cluster (api_key_env, or what the store's library reads)"
            )
    run_dir = str(config.run_dir)  # type: ignore[attr-defined]  # every job config has one
    if "://" not in run_dir and not Path(run_dir).is_absolute():
        raise ConfigError(
            f"run_dir = {run_dir!r} is relative: on the cluster it would lie in the job's own folder and be lost with it; "
            "take an absolute path that every node reaches, or a URL such as s3://bucket/run, with --run"
        )
    if isinstance(data.get("runtime"), dict):
        data["runtime"].pop("address", None)
    return data


def required_variables(config: Config) -> list[str]:
    """Environment variables whose names the config gives; an endpoint on the very machine needs no key."""
    return sorted(set(_variables(config.model_dump(mode="json"))))


def _variables(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        is_own = isinstance(value.get("base_url"), str) and is_loopback(value["base_url"])
        for key, inner in value.items():
            if str(key).endswith("_env") and isinstance(inner, str) and not is_own:
                yield inner
            yield from _variables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _variables(inner)


def extras_of(config: Config) -> list[str]:
    """Extras of alignray that this config makes use of."""
    leaves = list(_leaves(config.model_dump(mode="json")))
    kinds = {value for path, value in leaves if path[-1] == "kind"}
    wanted = {
        "local": "llama" in kinds, "vllm": "vllm" in kinds, "eval": "ifeval" in kinds,
        "train": "transformers" in kinds or any("objective" in path for path, _ in leaves),
        "s3": any(isinstance(value, str) and value.startswith("s3://") for _, value in leaves),
        "edit": any(path[-1] == "embedder" and path[0] == "embedder" and value != "hash" for path, value in leaves),
        "extract": any(path[-1] == "extractor" and value in ("trafilatura", "two_tier") for path, value in leaves),
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(index)))
    else:
        yield path, value


# ---- inputs


def local_inputs(config: Config, root: Path) -> dict[str, Path]:
    """Files behind the relative paths of a config, by their path below ``root``.

    Raises:
        ConfigError: a path leads out of ``root``, or matches nothing.
    """
    found: dict[str, Path] = {}
    cure = "name it by an absolute path that every node reaches, or a URL"
    for key, path in _paths(config):
        if Path(path).is_absolute():
            continue
        if ".." in Path(path).parts or path.startswith("~"):
            raise ConfigError(f"{key} = {path!r} is not below {root}; {cure}")
        whole = root / path
        if whole.is_dir():
            files = [file for file in whole.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(whole))]
        else:
            files = [whole] if whole.is_file() else [file for file in root.glob(path) if file.is_file()]
        if not files:
            raise ConfigError(f"{key} = {path!r} matches no file below {root}; {cure}")
        found.update({file.relative_to(root).as_posix(): file for file in files})
    return found


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    for path, value in _leaves(config.model_dump(mode="json", exclude={"run_dir"})):
        key = next((part for part in reversed(path) if not part.isdecimal()), "")
        if isinstance(value, str) and "://" not in value and (_PATH_KEY.search(key) or value.startswith(("./", "../", "~/"))):
            yield ".".join(path), value
    for key, uri in getattr(config, "input_files", dict)().items():  # of a config whose files have names of their own
        if "://" not in uri:
            yield key, uri


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


# ---- the code


def wheel_content() -> dict[str, bytes]:
    """The files that the wheel of the installed alignray holds, its RECORD too, whether it was installed from one or from sources.

    Unpacked in the working folder, it comes before what the cluster's image may have installed.
    """
    package, info = Path(alignray.__file__).parent, f"alignray-{alignray.__version__}.dist-info"
    files = {
        f"alignray/{path.relative_to(package).as_posix()}": path.read_bytes() for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not _is_hidden(path.relative_to(package))
    }
    files[f"{info}/METADATA"] = _installed_metadata().encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: alignray submit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,\n"]).encode()
    return files


def _installed_metadata() -> str:
    distribution = metadata.distribution("alignray")
    return distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""  # the second beside a source tree


def code_digest(package: JobPackage) -> str:
    """12 hex digits that name the code of a package."""
    return hashlib.sha256(_content(package.files[f"alignray-{alignray.__version__}.dist-info/RECORD"])).hexdigest()[:12]


def locked(extras: Sequence[str]) -> tuple[list[str], list[str]]:
    """``name==version`` of everything that alignray with these extras needs, as it is installed here; and what is not installed."""
    pins: dict[str, str] = {}
    missing: set[str] = set()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    todo: list[tuple[str, tuple[str, ...]]] = [("alignray", tuple(extras))]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        pins[name] = f"{name}=={distribution.version}"
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                todo.append((canonicalize_name(requirement.name), tuple(sorted(requirement.extras))))
    del pins["alignray"]
    return [pins[name] for name in sorted(pins)], sorted(missing)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _content(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
