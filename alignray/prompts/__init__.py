"""Prompt texts, one file each, rendered strictly: a missing or an extra field is an error.

A user shadows any of them with a file of the same name under ``prompts.dir``. Untrusted text (pages, model output) is
only ever a field's value, never a template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignray.errors import ConfigError

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


class PromptTemplate:
    """One prompt text with named fields."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        try:
            self.fields = frozenset(jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(text)))
            self._template = _ENVIRONMENT.from_string(text)
        except jinja2.TemplateSyntaxError as err:
            raise ConfigError(f'prompt "{name}" line {err.lineno}: {err.message}') from err

    def __reduce__(self) -> tuple[type[PromptTemplate], tuple[str, str]]:
        return PromptTemplate, (self.name, self.text)

    @property
    def digest(self) -> str:
        """16 hex digits of the text."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def render(self, **fields: object) -> str:
        """The prompt with its fields filled in.

        Raises:
            ConfigError: the fields given are not the fields the text names, or the template cannot be filled in with them.
        """
        if fields.keys() != self.fields:
            raise ConfigError(f'prompt "{self.name}" needs field(s) {_names(self.fields)}; got {_names(fields)}')
        try:
            return self._template.render(fields)
        except Exception as err:  # a template computes as it likes: it divides by zero, it includes what is not there
            raise ConfigError(f'prompt "{self.name}": {err or type(err).__name__}') from err


def _names(fields: object) -> str:
    return ", ".join(sorted(fields)) or "none"  # type: ignore[call-overload]


@cache
def load_prompt(name: str, prompts_dir: str | None = None) -> PromptTemplate:
    """The prompt "webr/persona" of the package, or of ``prompts_dir`` where that holds a file of the name.

    Raises:
        ConfigError: there is no such prompt, it is not a valid template, or its fields are not those of the package's.
    """
    packaged = resources.files("alignray.prompts").joinpath(f"{name}.txt")
    ours = PromptTemplate(name, packaged.read_text(encoding="utf-8")) if packaged.is_file() else None
    template = _shadow(name, prompts_dir) if prompts_dir is not None else None
    if template is None:
        template = ours
    elif ours is not None and template.fields != ours.fields:
        raise ConfigError(f'prompt "{name}" in {prompts_dir} must use field(s) {_names(ours.fields)}; it uses {_names(template.fields)}')
    if template is None:
        raise ConfigError(f'there is no prompt "{name}"; the package has: {", ".join(prompt_names())}')
    return template


def _shadow(name: str, prompts_dir: str) -> PromptTemplate | None:
    if not Path(prompts_dir).is_dir():
        raise ConfigError(f"prompts.dir = {prompts_dir!r} is not a folder")
    path = Path(prompts_dir) / f"{name}.txt"
    if not path.is_file():
        return None
    try:
        return PromptTemplate(name, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as err:
        raise ConfigError(f'prompt "{name}": {path} is not UTF-8 text (byte {err.start})') from err


def prompt_names() -> Iterator[str]:
    """Names of all prompts that ship in the package."""
    root = resources.files("alignray.prompts")
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        if folder.is_dir():
            for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(".txt"):
                    yield f"{folder.name}/{file.name.removesuffix('.txt')}"
