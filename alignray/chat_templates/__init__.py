"""Chat templates: which one, rendered by transformers' sandbox, and what they cannot do told as it is.

Training and generation both render through here, so a model is asked in the very tokens that it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from alignray.errors import ConfigError
from alignray.schema import Message

BUILT_IN = ("chatml", "plain")
"""chatml needs its two tokens in the vocabulary; plain ("### Instruction:") needs nothing but an end-of-sequence token."""
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "chat_template", "tokenize"})
"""Variables of a template that no config sets."""


class TemplateRefused(Exception):
    """The template cannot render these turns; the argument is what it says (no system turn, roles must alternate ...)."""


class ChatTemplate:
    """A chat template bound to the tokenizer whose special tokens it names."""

    def __init__(self, tokenizer: Any, choice: str | None, fields: Mapping[str, Any], *, part: str = "tokens") -> None:
        """
        Args:
            tokenizer: of transformers.
            choice: a name of ``BUILT_IN`` or a file; None for the tokenizer's own.
            fields: further variables of the template.
            part: of the config that holds these choices, for messages.

        Raises:
            ConfigError: there is no template, or it renders nothing.
        """
        self._tokenizer, self._fields, self._part = tokenizer, dict(fields), part
        self.name, self.text = _named(tokenizer, choice, part)
        specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        specials = sorted({*specials, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, specials)) or "(?!)")
        """Finds the tokenizer's special tokens in a text."""
        try:
            shown = self.render([Message("user", "probe")], is_prompt=True)
        except TemplateRefused as err:
            raise ConfigError(f"chat template {self.name}: cannot render a user's turn ({err}); set {part}.chat_template") from err
        if "probe" not in shown:
            raise ConfigError(f'chat template {self.name} leaves out what the user says, it renders {shown!r}; it must go over "messages"')

    def render(self, messages: Sequence[Message], *, is_prompt: bool) -> str:
        """The text of a chat; of a prompt, up to where the assistant's answer begins.

        Raises:
            TemplateRefused: the template does not take these turns.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(
                turns, chat_template=self.text, tokenize=False, add_generation_prompt=is_prompt, **self._fields,
            ))
        except jinja2.TemplateSyntaxError as err:
            raise ConfigError(f"chat template {self.name} line {err.lineno}: {err.message}") from err
        # a template calls methods of texts and lists as it likes: what goes wrong is its refusal, not our error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as err:
            raise TemplateRefused(str(err) or type(err).__name__) from err

    def find_end(self, wanted: str | None) -> tuple[str, int]:
        """The token that ends a response, and its id: ``wanted``, else what closes an assistant's turn, else the tokenizer's.

        Raises:
            ConfigError: ``wanted`` is no special token, or there is none at all.
        """
        if wanted is not None:
            added = self._tokenizer.get_added_vocab()
            if wanted not in added:
                raise ConfigError(
                    f"{self._part}.end_token = {wanted!r} is no special token of this tokenizer; it has {', '.join(added)[:300]}"
                )
            return wanted, int(added[wanted])
        try:
            shown = self.render([Message("user", "question"), Message("assistant", "probe")], is_prompt=False)
        except TemplateRefused as err:
            raise ConfigError(f"chat template {self.name}: cannot render an answer ({err}); set {self._part}.chat_template") from err
        found = self.special.search(shown.rpartition("probe")[2])
        token = found[0] if found else self._tokenizer.eos_token
        if token is None:
            raise ConfigError(
                "the tokenizer has no end-of-sequence token and its chat template closes no turn with a special token; "
                f"name the token that ends an answer in {self._part}.end_token"
            )
        return token, int(self._tokenizer.convert_tokens_to_ids(token))

    def prompt_ids(self, prompt: str, *, add_bos: bool) -> list[int]:
        """Ids of a rendered prompt; with ``add_bos`` behind the tokenizer's first token, which is never there twice.

        Raises:
            ConfigError: ``add_bos``, and the tokenizer has no such token.
        """
        ids = list(self._tokenizer.encode(prompt, add_special_tokens=False))
        if not add_bos:
            return ids
        bos_id: int | None = self._tokenizer.bos_token_id
        if bos_id is None:
            raise ConfigError(f"{self._part}.add_bos: this tokenizer has no BOS token; leave it out")
        return ids if ids[:1] == [bos_id] else [bos_id, *ids]

    @property
    def follows_clock(self) -> bool:
        """Whether it can write today's date into the prompt, so that tokens of tomorrow are others."""
        return "strftime_now" in self.text and "date_string" not in self._fields


def _named(tokenizer: Any, choice: str | None, part: str) -> tuple[str, str]:
    if choice is None:
        try:
            return "of the tokenizer", str(tokenizer.get_chat_template())
        except ValueError as err:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no chat template; set {part}.chat_template to "
                f"{' or '.join(BUILT_IN)}, or to a file with a Jinja template"
            ) from err
    if choice in BUILT_IN:
        if choice == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys():
            raise ConfigError(
                f"{part}.chat_template = 'chatml': <|im_start|> and <|im_end|> are no tokens of this tokenizer; take plain"
            )
        return choice, resources.files("alignray.chat_templates").joinpath(f"{choice}.jinja").read_text().removesuffix("\n")
    try:
        return choice, Path(choice).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        names = " nor ".join(BUILT_IN)
        raise ConfigError(f"{part}.chat_template = {choice!r} is neither {names} nor a file that can be read ({err})") from err
