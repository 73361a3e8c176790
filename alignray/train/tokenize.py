"""Pairs and examples into token rows: rendered once, cut where no token straddles, truncated without silence.

Prompt and response are the two parts of the chat template's own rendering of the whole conversation; the prompt has the ids that it has
alone, as it will when the model is asked. A response ends with one end token, and what the template writes behind that is left out.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pydantic

from alignray.chat_templates import RESERVED, ChatTemplate, TemplateRefused
from alignray.config import Config
from alignray.errors import ConfigError
from alignray.schema import Message, PreferencePair, Rejected, SftExample

STEP = "tokens"
REASONS = {
    "edits_truncated": "a side's differing tokens are all behind the cut",
    "empty_response": "the template leaves nothing of a response but its end token",
    "identical_after_truncation": "chosen and rejected differ only behind the cut",
    "identical_tokens": "chosen and rejected are the same tokens",
    "special_token_in_text": "a text spells one of the tokenizer's special tokens, which would become that token",
    "template_refused": "the chat template raises an error on these turns",
    "too_long": "longer than tokens.max_length, with tokens.too_long reject",
}
"""Every ``Rejected.reason`` of step "tokens"."""
FLAGS = {
    "border_merged": "the tokenizer would have joined the end of a prompt and the start of a response into one token; they are kept apart",
    "edits_cut": "some of the differing tokens are behind the cut",
    "end_token_in_text": "a response spelled the end token itself; it stands there once",
    "prompt_cut": "the beginning of the prompt is cut off",
    "response_cut": "the end of a response is cut off, its end token with it",
    "template_breaks_prefix": "the whole chat's rendering does not begin with the prompt's; the response stands behind it as it is",
}
"""What can be said of a row that is kept."""

Masks = Callable[[Sequence[int], Sequence[int]], tuple[list[int], list[int]]]
"""Ids of chosen and rejected to 1 for each token that the two do not share, 0 for the others (``methods.bmc.edited_masks``)."""


class TokenizeConfig(Config):
    """How chats become tokens."""

    max_length: int = pydantic.Field(2048, ge=2)
    """Tokens of a prompt with its longer response."""
    max_prompt_length: int = pydantic.Field(1800, ge=1)
    """What stays of a prompt, its end, where prompt and response together are longer than max_length."""
    max_response_length: int | None = pydantic.Field(None, ge=1)
    """What stays of a response of a pair, its beginning, in any case; null: as much as max_length leaves."""
    too_long: Literal["cut", "reject"] = "cut"
    """reject: no row is cut."""
    chat_template: str | None = None
    """null: the tokenizer's own; chatml or plain ("### Instruction:") are built in; else a file with a Jinja template."""
    template_fields: dict[str, str | bool | int] = {}
    """Further variables of the template, such as date_string or enable_thinking."""
    add_bos: bool = False
    """Put the tokenizer's first token before renderings that do not begin with it; it is never there twice."""
    end_token: str | None = None
    """What ends a response. null: the special token with which the template closes an assistant's turn, else the tokenizer's."""
    special_tokens: Literal["reject", "keep"] = "reject"
    """Texts that spell a special token: keep lets them become that token."""
    loss_on: Literal["all", "last"] = "all"
    """sft: targets are all turns of the assistant, or the last one."""
    template_targets: bool = pydantic.Field(False, exclude_if=lambda on: not on)
    """sft: special tokens that the template writes in and between other turns are targets too (original: Qwen's labels)."""
    diff: Literal["levenshtein", "difflib"] = "levenshtein"
    """How differing tokens are found; difflib as in the authors' code."""
    never_edited: tuple[str, ...] = ()
    """Words that never count as differing where they are a single token, as stop words in the authors' code."""

    @pydantic.model_validator(mode="after")
    def _room_for_a_response(self) -> TokenizeConfig:
        if self.max_prompt_length >= self.max_length:
            raise ValueError(f"max_prompt_length = {self.max_prompt_length} leaves no token of max_length = {self.max_length}; lower it")
        if reserved := sorted(RESERVED & self.template_fields.keys()):
            raise ValueError(f'template_fields cannot set "{reserved[0]}"')
        return self


@dataclass(frozen=True)
class TokenPair:
    """A preference pair as token ids; masks are as long as the ids they are for."""

    row_id: str
    token_key: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_edited: list[int]
    rejected_edited: list[int]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenExample:
    """A chat as token ids, and which of them are targets."""

    row_id: str
    token_key: str
    input_ids: list[int]
    loss_mask: list[int]
    flags: tuple[str, ...] = ()


def token_key(*lists: Sequence[int]) -> str:
    """32 hex digits over lists of ids: blake2b-128 of each list's length and items as little-endian int32."""
    digest = hashlib.blake2b(digest_size=16)
    for ids in lists:
        digest.update(len(ids).to_bytes(4, "little"))
        digest.update(np.asarray(ids, "<i4").tobytes())
    return digest.hexdigest()


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """The tokenizer of a model folder or hub name; no code of the model's is run.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as err:
        raise ConfigError(f"model.path = {path!r}: no tokenizer can be loaded ({str(err).splitlines()[0]}); check the path") from err


def keep_template(folder: str, config: TokenizeConfig) -> None:
    """Write the chat template that a model was trained with beside it, where it was not the tokenizer's own: who serves it finds it."""
    if config.chat_template is not None:
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = ChatTemplate(tokenizer, config.chat_template, config.template_fields).text
        with tempfile.TemporaryDirectory(dir=folder) as aside:  # a kill in between leaves whole files
            tokenizer.save_pretrained(aside)
            for file in Path(aside).iterdir():
                file.replace(Path(folder) / file.name)


def never_ids(tokenizer: Any, words: Iterable[str]) -> frozenset[int]:
    """Ids of those words that are a single token when they stand alone."""
    ids = (tokenizer.encode(word, add_special_tokens=False) for word in words)
    return frozenset(found[0] for found in ids if len(found) == 1)


class ChatTokenizer:
    """A tokenizer with its chat template and the rules of a config."""

    def __init__(self, tokenizer: Any, config: TokenizeConfig) -> None:
        """
        Raises:
            ConfigError: no chat template, or nothing that can end a response.
        """
        self._tokenizer, self._config = tokenizer, config
        tokenizer.model_max_length = int(1e30)  # truncation is ours, and so are its warnings
        self.template = ChatTemplate(tokenizer, config.chat_template, config.template_fields)
        self._special = self.template.special
        self.end_token, self.end_id = self.template.find_end(config.end_token)
        ends = "|".join(re.escape(token) for token in {self.end_token, tokenizer.eos_token} if token)
        self._closing = re.compile(rf"(?:(?:{ends})\s*)+\Z")
        self._bos_id: int | None = tokenizer.bos_token_id
        specials = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        # texts have the unknown token, templates do not
        self._special_ids = {*specials, *tokenizer.all_special_ids} - {tokenizer.unk_token_id} | {self.end_id}
        self._prompt_ids("")  # so that a BOS token that is asked for and not there is told now

    def facts(self) -> dict[str, str]:
        """What is used: template, end token, BOS, padding."""
        tokenizer = self._tokenizer
        padding = repr(tokenizer.pad_token) if tokenizer.pad_token else f"none; {self.end_token!r} stands in, masked"
        shown = self._prompt_ids(self.template.render([Message("user", "question")], is_prompt=True))
        bos = "none" if self._bos_id is None or shown[0] != self._bos_id else f"{tokenizer.bos_token!r}, once"
        return {"template": self.template.name, "end_token": repr(self.end_token), "bos_token": bos, "pad_token": padding}

    @property
    def digest(self) -> str:
        """32 hex digits over vocabulary, chat template and end token."""
        known = [sorted(self._tokenizer.get_vocab().items()), self.template.text, self.end_token]
        return hashlib.blake2b(orjson.dumps(known), digest_size=16).hexdigest()

    def notes(self) -> list[str]:
        """What a user should know of template and tokenizer before training."""
        found = []
        if self.template.follows_clock:
            found.append("the chat template writes today's date into prompts; fix it with tokens.template_fields: {date_string: ...}")
        if self.end_token != self._tokenizer.eos_token:
            found.append(
                f"responses end with {self.end_token!r}, the tokenizer's own is {self._tokenizer.eos_token!r}: generation must stop at both"
            )
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones too."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def texts(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text; a character of several tokens stands at the last of them. For showing: it decodes often."""
        texts, shown = [], ""
        for stop in range(1, len(ids) + 1):
            whole = self.text(ids[:stop])
            stable = whole.rstrip("\N{REPLACEMENT CHARACTER}") if stop < len(ids) else whole
            texts.append(stable[len(shown) :])
            shown = max(shown, stable, key=len)
        return texts

    # ---- pairs

    def pair(self, pair: PreferencePair, masks: Masks) -> TokenPair | Rejected:
        """The token row of a pair, or why it is none (one of ``REASONS``). ``masks`` sees whole responses; they are cut with them."""
        flags: set[str] = set()
        try:
            *turns, chosen, rejected = self._checked(
                [*pair.prompt, Message("assistant", pair.chosen), Message("assistant", pair.rejected)], flags,
            )
            prompt = self.template.render(turns, is_prompt=True)
            prompt_ids = self._prompt_ids(prompt)
            chosen_ids, rejected_ids = (
                self._continue(prompt, self._response(turns, prompt, answer, flags), flags) for answer in (chosen, rejected)
            )
        except (TemplateRefused, _Unfit) as err:
            return _rejected(pair.row_id, err, _shown_pair(pair))
        for name, ids in (("chosen", chosen_ids), ("rejected", rejected_ids)):
            if len(ids) == 1:
                return _rejected(pair.row_id, _Unfit("empty_response", name), _shown_pair(pair))
        if chosen_ids == rejected_ids:
            return _rejected(pair.row_id, _Unfit("identical_tokens", ""), _shown_pair(pair))
        edited = masks(chosen_ids, rejected_ids)
        try:
            row = self._cut_pair(prompt_ids, (chosen_ids, rejected_ids), edited, flags)
        except _Unfit as err:
            return _rejected(pair.row_id, err, _shown_pair(pair))
        return TokenPair(pair.row_id, token_key(*row[:3]), *row, tuple(sorted(flags)))

    def _cut_pair(
        self, prompt_ids: list[int], responses: tuple[list[int], list[int]], edited: tuple[list[int], list[int]], flags: set[str],
    ) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        config = self._config
        longest = min(max(map(len, responses)), config.max_response_length or config.max_length)
        if len(prompt_ids) + longest > config.max_length and len(prompt_ids) > config.max_prompt_length:
            prompt_ids = self._end_of(prompt_ids, config.max_prompt_length)
            flags.add("prompt_cut")
        room = min(config.max_length - len(prompt_ids), config.max_response_length or config.max_length)
        if any(len(ids) > room for ids in responses):
            flags.add("response_cut")
        if config.too_long == "reject" and flags & {"prompt_cut", "response_cut"}:
            raise _Unfit("too_long", f"{len(prompt_ids)} and {max(map(len, responses))} tokens")
        chosen_ids, rejected_ids = (ids[:room] for ids in responses)
        if chosen_ids == rejected_ids:
            raise _Unfit("identical_after_truncation", f"the first {room} tokens are the same")
        for name, mask in zip(("chosen", "rejected"), edited, strict=True):
            if any(mask) and not any(mask[:room]):
                raise _Unfit("edits_truncated", f"the first edited token of {name} is number {mask.index(1) + 1}, {room} are kept")
            if any(mask[room:]):
                flags.add("edits_cut")
        return prompt_ids, chosen_ids, rejected_ids, list(edited[0][:room]), list(edited[1][:room])

    # ---- examples

    def example(self, example: SftExample) -> TokenExample | Rejected:
        """The token row of a chat, or why it is none. Targets are the assistant's turns, end tokens included.

        With ``template_targets`` so are all special tokens, as in the authors' Qwen labels, which have the line break behind an end
        token too.
        """
        flags: set[str] = set()
        turns = example.messages
        try:
            ids, mask = self._chat_ids(self._checked(turns, flags), flags)
        except (TemplateRefused, _Unfit) as err:
            return _rejected(example.row_id, err, [[turn.role, turn.content] for turn in turns])
        config = self._config
        num_prompt = mask.index(1)
        if len(ids) > config.max_length:
            if config.too_long == "reject":
                return _rejected(example.row_id, _Unfit("too_long", f"{len(ids)} tokens"), [[turn.role, turn.content] for turn in turns])
            if num_prompt > config.max_prompt_length:
                ids = self._end_of(ids[:num_prompt], config.max_prompt_length) + ids[num_prompt:]
                mask = [0] * config.max_prompt_length + mask[num_prompt:]
                flags.add("prompt_cut")
            if any(mask[config.max_length :]):
                flags.add("response_cut")
            ids, mask = ids[: config.max_length], mask[: config.max_length]
        if config.template_targets:
            mask = [int(flag or token_id in self._special_ids) for token_id, flag in zip(ids, mask, strict=True)]
        return TokenExample(example.row_id, token_key(ids, mask), ids, mask, tuple(sorted(flags)))

    def _chat_ids(self, messages: Sequence[Message], flags: set[str]) -> tuple[list[int], list[int]]:
        """Ids of a chat and which are targets. Where the template renders earlier turns anew, only the last answer is a target."""
        answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
        if self._config.loss_on == "last":
            answers = answers[-1:]
        pieces = self._pieces(messages, answers)
        if pieces is None:
            flags.add("template_breaks_prefix")
            prompt = self.template.render(messages[:-1], is_prompt=True)
            pieces = [(prompt, self._response(messages[:-1], prompt, messages[-1], flags))]
        ids: list[int] = []
        mask: list[int] = []
        before = ""
        for text, answer in pieces:
            more = self._continue(before, text, set()) if before else self._prompt_ids(text)
            target = self._continue(before + text, answer, flags)
            if len(target) == 1 and target[0] == self.end_id:
                raise _Unfit("empty_response", "")
            ids += more + target
            mask += [0] * len(more) + [1] * len(target)
            before += text + answer
        return ids, mask

    def _pieces(self, messages: Sequence[Message], answers: Sequence[int]) -> list[tuple[str, str]] | None:
        """What stands before each answer, from the one before on, and the answer; None where the pieces do not make up the rendering."""
        whole = self.template.render(messages, is_prompt=False)
        pieces: list[tuple[str, str]] = []
        at = 0
        for place in answers:
            prompt = self.template.render(messages[:place], is_prompt=True)
            rendered = whole if place == len(messages) - 1 else self.template.render(messages[: place + 1], is_prompt=False)
            if not (rendered.startswith(prompt) and whole.startswith(prompt) and len(prompt) >= at):
                return None
            is_last = place == len(messages) - 1
            answer = self._closed(rendered[len(prompt) :], or_add=is_last)
            if not is_last and not whole.startswith(prompt + answer):
                return None
            pieces.append((prompt[at:], answer))
            at = len(prompt) + len(answer)
        return pieces

    # ---- texts

    def _checked(self, messages: Sequence[Message], flags: set[str]) -> list[Message]:
        """The turns, without an end token that an answer spells at its end.

        Raises:
            _Unfit: one of them spells a special token.
        """
        checked = []
        for message in messages:
            text = message.content
            if message.role == "assistant" and (closing := self._closing.search(text)):
                text = text[: closing.start()]
                flags.add("end_token_in_text")
            if self._config.special_tokens == "reject" and (found := self._special.search(text)):
                raise _Unfit("special_token_in_text", found[0])
            checked.append(Message(message.role, text))
        return checked

    def _response(self, messages: Sequence[Message], prompt: str, answer: Message, flags: set[str]) -> str:
        """What the template writes behind the prompt, up to the end token."""
        whole = self.template.render([*messages, answer], is_prompt=False)
        if not whole.startswith(prompt):
            flags.add("template_breaks_prefix")
            return answer.content + self.end_token
        return self._closed(whole[len(prompt) :], or_add=True)

    def _closed(self, rendered: str, *, or_add: bool) -> str:
        """The answer up to and with one end token; one that has none gets it where ``or_add``."""
        closing = self._closing.search(rendered)
        return rendered + self.end_token * or_add if closing is None else rendered[: closing.start()] + self.end_token

    # ---- ids

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self.template.prompt_ids(prompt, add_bos=self._config.add_bos)

    def _continue(self, before: str, text: str, flags: set[str]) -> list[int]:
        """Ids of ``text`` behind ``before``: those of both together where ``before`` keeps its own, else those it has for itself."""
        # a special token is never joined with what follows, so what stands before the last one does not matter
        specials = list(self._special.finditer(before))
        tail = before[specials[-1].start() :] if specials else before
        known, both = self._encode(tail), self._encode(tail + text)
        if both[: len(known)] == known:
            return both[len(known) :]
        flags.add("border_merged")
        # behind a special token, because some tokenizers put a blank before the first word of a text
        return self._encode(self.end_token + text)[1:]

    def _end_of(self, prompt_ids: list[int], length: int) -> list[int]:
        """The last ids of a prompt; a BOS token in front stays there."""
        if prompt_ids[0] == self._bos_id and length > 1:
            return [prompt_ids[0], *prompt_ids[len(prompt_ids) - length + 1 :]]
        return prompt_ids[len(prompt_ids) - length :]


class _Unfit(Exception):
    """reason, note"""


def _rejected(row_id: str, err: Exception, shown: Any) -> Rejected:
    reason, note = err.args if isinstance(err, _Unfit) else ("template_refused", str(err))
    raw = orjson.dumps(shown).decode()[: Rejected.RAW_LIMIT]
    return Rejected(row_id, STEP, reason, raw, orjson.dumps({"note": note[:500]}).decode() if note else "")


def _shown_pair(pair: PreferencePair) -> Mapping[str, Any]:
    return {"prompt": [[turn.role, turn.content] for turn in pair.prompt], "chosen": pair.chosen, "rejected": pair.rejected}
