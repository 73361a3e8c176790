"""Chat templates: which one, rendered by transformers' sandbox, and what they cannot do told as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from alignray.errors import ConfigError
from alignray.schema import Message

BUILT_IN = ("chatml", "plain")
"""chatml needs its two tokens in the vocabulary; plain ("### Instruction:") needs nothing but an end-of-sequence token."""


class TemplateRefused(Exception):
    """The template cannot render these turns; the argument is what it says (no system turn, roles must alternate ...)."""


class ChatTemplate:
    """A chat template bound to the tokenizer whose special tokens it names."""

    def __init__(self, tokenizer: Any, choice: str | None, fields: Mapping[str, Any]) -> None:
        """
        Args:
            tokenizer: of transformers.
            choice: a name of ``BUILT_IN`` or a file; None for the tokenizer's own.
            fields: further variables of the template.

        Raises:
            ConfigError: there is no template, or it renders nothing.
        """
        self._tokenizer, self._fields = tokenizer, dict(fields)
        self.name, self.text = _named(tokenizer, choice)
        try:
            shown = self.render([Message("user", "probe")], is_prompt=True)
        except TemplateRefused as err:
            raise ConfigError(f"chat template {self.name}: cannot render a user's turn ({err}); set tokens.chat_template") from err
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

    @property
    def follows_clock(self) -> bool:
        """Whether it can write today's date into the prompt, so that tokens of tomorrow are others."""
        return "strftime_now" in self.text and "date_string" not in self._fields


def _named(tokenizer: Any, choice: str | None) -> tuple[str, str]:
    if choice is None:
        try:
            return "of the tokenizer", str(tokenizer.get_chat_template())
        except ValueError as err:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no chat template; set tokens.chat_template to "
                f"{' or '.join(BUILT_IN)}, or to a file with a Jinja template"
            ) from err
    if choice in BUILT_IN:
        if choice == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys():
            raise ConfigError(
                "tokens.chat_template = 'chatml': <|im_start|> and <|im_end|> are no tokens of this tokenizer; take plain"
            )
        return choice, resources.files("alignray.train").joinpath(f"chat_templates/{choice}.jinja").read_text().removesuffix("\n")
    try:
        return choice, Path(choice).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        names = " nor ".join(BUILT_IN)
        raise ConfigError(f"tokens.chat_template = {choice!r} is neither {names} nor a file that can be read ({err})") from err
