"""Config as a typed value: frozen, unknown keys refused, wrong before the cluster starts."""

from __future__ import annotations

import difflib
import hashlib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import pydantic
import yaml

from alignray.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="Config")

_SECRET = re.compile(r"key|token|secret|password|authorization", re.IGNORECASE)
_HARMLESS = re.compile(r"_env$|tokens(_key)?$|^tokens|_tokens|token_ids?$|^tokenizer|^end_token$")
_SECRET_IN_QUERY = re.compile(r"key|token|secret|passw|pwd|auth|credential|signature|(^|[-_])sig$", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/?#\s@]*:[^/?#\s]*@")
_UNFIT = re.compile("[\x00\ud800-\udfff]")


class Config(pydantic.BaseModel):
    """Base of every config part. A field's meaning stands right under it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @pydantic.model_validator(mode="after")
    def _texts_are_fit(self) -> Self:
        for name, value in self.__dict__.items():
            for text in _texts(value):
                if _UNFIT.search(text):
                    raise ValueError(f"{name} holds {text!r}, and a NUL or half a surrogate pair is no text; write it without")
                if _LOGIN.search(text):
                    raise ValueError(f"{name} holds a URL with a password; leave it out: credentials come from the store's own environment")
        return self


def load_config(cls: type[ConfigT], path: str | Path, *, overrides: Sequence[str] = ()) -> ConfigT:
    """Config of a YAML file with ``dotted.key=value`` overrides; values are YAML.

    Raises:
        ConfigError: naming the file and line (or the override), the key, the value and the nearest valid name.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as err:
        raise ConfigError(f"{path}: cannot read the config ({err.strerror}); name an existing YAML file") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8 text (byte {err.start}); name a YAML file") from err
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(err, 'problem', err)}") from err
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values; got {type(data).__name__}")
    lines = dict(_lines(node)) if node is not None else {}
    origins: dict[tuple[str, ...], str] = {}
    for override in overrides:
        _apply(data, override, origins)
    try:
        return cls.model_validate(data)
    except pydantic.ValidationError as err:
        raise ConfigError("; ".join(_explain(cls, error, path, lines, origins) for error in err.errors())) from err


def fingerprint(config: Config, *, without: Sequence[str] = ()) -> str:
    """16 hex digits over everything in the config except the named top-level keys."""
    data = config.model_dump(mode="json", exclude=set(without))
    return hashlib.blake2b(orjson.dumps(data, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def may_be_secret(key: str) -> bool:
    """Whether the value under such a key should not be repeated; names of environment variables may be."""
    return bool(_SECRET.search(key)) and not _HARMLESS.search(key)


def without_secrets(uri: str) -> str:
    """A URL with the values of those query parameters replaced that may be secrets: keys, tokens, signatures."""
    if "://" not in uri or "?" not in uri:
        return uri
    return re.sub(r"([?&;])([^=&;#]*)=([^&;#]*)", lambda found: (
        f"{found[1]}{found[2]}=(redacted)" if _SECRET_IN_QUERY.search(found[2]) else found[0]
    ), uri)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "key: old -> new" for every leaf in which two dumped configs differ."""
    changes = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key, "(not set)"), new.get(key, "(not set)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changes


def _texts(value: Any) -> Iterator[str]:
    """Texts in a field that is no config of its own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)


def _hidden(text: str) -> str:
    """A text without the login of a URL in it, and without the secrets of its query."""
    return without_secrets(_LOGIN.sub("://...@", text))


def _shown(override: str) -> str:
    """An override as a message may repeat it."""
    key, separator, value = override.partition("=")
    return f"{key}{separator}{_shown_value(key.split('.'), value)}"


def _shown_value(path: Iterable[str], value: str) -> str:
    return "(redacted)" if any(map(may_be_secret, path)) else _hidden(value)


def _lines(node: yaml.Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    yield prefix, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*prefix, str(key.value)), key.start_mark.line + 1
            yield from ((path, line) for path, line in _lines(value, (*prefix, str(key.value))) if path != (*prefix, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*prefix, str(index)))


def _apply(data: dict[str, Any], override: str, origins: dict[tuple[str, ...], str]) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {_shown(override)!r}: write dotted.key=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {_shown(override)!r}: {_shown_value(key.split('.'), value)!r} is not a YAML value; quote it") from err
    path = tuple(key.split("."))
    origins[path] = override
    target: Any = data
    for position, part in enumerate(path[:-1]):
        if isinstance(target, list):
            target = _item(target, part, override)
            if not isinstance(target, dict | list):
                seen = _shown_value(path, repr(target))
                raise ConfigError(f"--set {_shown(override)!r}: {'.'.join(path[: position + 1])} = {seen} has no keys of its own")
            continue
        if not isinstance(target.get(part), dict | list):
            target[part] = {}
        target = target[part]
    if isinstance(target, list):
        _item(target, path[-1], override)
        target[int(path[-1])] = parsed
    else:
        target[path[-1]] = parsed


def _item(items: list[Any], part: str, override: str) -> Any:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(f"--set {_shown(override)!r}: {part!r} is not a position in a list of {len(items)}; count from 0")
    return items[int(part)]


def _models(hint: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, pydantic.BaseModel):
        yield hint
    for inner in typing.get_args(hint):
        yield from _models(inner)


def _names_at(cls: type[pydantic.BaseModel], path: Sequence[str]) -> list[str]:
    """Valid keys of the config part at ``path``; union tags and list positions are stepped over."""
    candidates: list[type[pydantic.BaseModel]] = [cls]
    for part in path:
        hints = [model.model_fields[part].annotation for model in candidates if part in model.model_fields]
        if hints:
            candidates = [found for hint in hints for found in _models(hint)]
    return sorted({name for model in candidates for name in model.model_fields})


def _explain(
    cls: type[pydantic.BaseModel], error: Any, path: Path,
    lines: Mapping[tuple[str, ...], int], origins: Mapping[tuple[str, ...], str],
) -> str:
    raw_location = tuple(str(part) for part in error["loc"])
    # pydantic puts union tags into the location; the longest prefix chain that the file knows drops them
    location: tuple[str, ...] = ()
    for index, part in enumerate(raw_location):
        is_last = index == len(raw_location) - 1
        if (*location, part) in lines or is_last or any(origin[: len(location) + 1] == (*location, part) for origin in origins):
            location = (*location, part)
    related = (text for origin, text in origins.items() if location[: len(origin)] == origin or origin[: len(location)] == location)
    override = next(related, None)
    known = next((location[:n] for n in range(len(location), -1, -1) if location[:n] in lines), ())
    where = f"--set {_shown(override)}" if override else f"{path}:{lines.get(known, 1)}"
    key, under = location[-1] if location else "", ".".join(location[:-1])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, names := _names_at(cls, location[:-1]), n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"valid keys: {', '.join(names)}"
        return f'{where}: unknown key "{key}" under {under or "the top level"}; {hint}'
    if error["type"] == "missing":
        return f'{where}: required key "{".".join(location)}" is missing'
    value = error["input"]
    message = error["msg"].removeprefix("Value error, ")
    hint = ""
    expected = error.get("ctx", {}).get("expected") or error.get("ctx", {}).get("expected_tags")
    if isinstance(value, str) and isinstance(expected, str):
        choices = [choice.strip(" '\"") for choice in expected.replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
    shown = "" if isinstance(value, dict | list) or may_be_secret(key.removesuffix("_env")) else f" = {value!r}"
    shown = re.sub(r"//[^/@\s]*@", "//...@", without_secrets(shown))  # user and password of a URL
    return f"{where}: {'.'.join(location) or 'config'}{shown}: {message[:1].lower()}{message[1:]}{hint}"
