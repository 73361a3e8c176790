"""What clients of the edit server send, read and checked. Pure: bytes and values in, requests or a refusal out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from alignray.engine import Sampling
from alignray.errors import RecordError
from alignray.io.edits import relation_of
from alignray.memory import EditDraft, MemoryEdit
from alignray.memory.records import checked
from alignray.methods.lte.config import Form
from alignray.methods.lte.render import render_prompt
from alignray.schema import ChatRequest, Message
from alignray.serve.edits_config import RequestLimits
from alignray.untrusted import storable

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_STOPS, MAX_STOP_CHARS = 16, 256
IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
})
"""Fields of OpenAI's that do not bear on the answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False,), "top_logprobs": (0,),
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False), "response_format": ({"type": "text"},), "modalities": (["text"],),
}
"""Fields that are not served, by the values at which they ask for nothing."""
CHAT_FIELDS = frozenset({
    "model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "stream", "stream_options",
})
EDIT_FIELDS = frozenset({"subject", "prompt", "target", "relation", "fact", "id", "metadata"})
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Unusable(Exception):
    """A request that gets an answer of its own, in OpenAI's form."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, kind: str = "invalid_request_error", code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.kind, self.code = param, status, kind, code

    def body(self) -> dict[str, Any]:
        """{"error": {...}}"""
        param = None if self.param is None else storable(self.param)
        return {"error": {"message": storable(str(self)), "type": self.kind, "param": param, "code": self.code}}


@dataclass(frozen=True)
class ChatAsk:
    """A chat as the client wants it, no edit in it yet."""

    request: ChatRequest
    query_at: int
    """Which message is the last of the user's: the query."""
    stream: bool = False
    include_usage: bool = False
    """Whether a stream tells the token counts at its end."""

    @property
    def query(self) -> str:
        """What edits are looked up by."""
        return self.request.messages[self.query_at].content

    def with_edits(self, facts: Sequence[str], *, form: Form, prompts_dir: str | None = None) -> ChatRequest:
        """The request with the facts put into the query; as it came where there are none."""
        messages = list(self.request.messages)
        messages[self.query_at] = Message("user", render_prompt(facts, self.query, form=form, prompts_dir=prompts_dir))
        return replace(self.request, messages=tuple(messages))


@dataclass(frozen=True)
class PageAsk:
    """Which edits to list."""

    after: int
    limit: int
    include_ended: bool
    as_of: int | None


def read_object(data: bytes) -> dict[str, Any]:
    """A body's JSON object. JSON with halves of surrogate pairs, NaN or nesting without end is refused by the parser."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as err:
        raise Unusable(f"the body is not JSON ({err})") from err
    if not isinstance(value, dict):
        raise Unusable(f"the body is a JSON object; got {_kind(value)}")
    return value


def read_chat(body: Mapping[str, Any], *, model: str, sampling: Sampling, limits: RequestLimits) -> ChatAsk:
    """A chat completion request, with every sampling field filled in.

    Args:
        model: the one name that is served.
    """
    _known(body, CHAT_FIELDS)
    asked = _text(body, "model", 200)
    if asked != model:
        raise Unusable(f"there is no model {asked!r} here; ask for {model!r}", "model", status=404, code="model_not_found")
    messages = _messages(body.get("messages"), limits)
    query_at = max((at for at, message in enumerate(messages) if message.role == "user"), default=None)
    if query_at is None:
        raise Unusable("messages hold no turn of the user, so there is nothing to answer", "messages")
    if body.get("n") not in (None, 1) or body.get("n") is True:
        raise Unusable(f"n = {_shown(body['n'])} is not served; one answer comes per request", "n")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Unusable(f"stream_options is an object; got {_kind(options)}", "stream_options")
    tokens = [_whole(body, name, 1, limits.new_tokens) for name in ("max_completion_tokens", "max_tokens")]
    temperature, top_p = _number(body, "temperature", 0, 2), _number(body, "top_p", 0, 1)
    if top_p == 0:
        raise Unusable("top_p = 0 leaves no token to choose from; for greedy answers set temperature to 0", "top_p")
    return ChatAsk(
        ChatRequest(
            tuple(messages),
            max_new_tokens=next((count for count in tokens if count is not None), sampling.max_new_tokens),
            temperature=sampling.temperature if temperature is None else temperature,
            top_p=sampling.top_p if top_p is None else top_p,
            stop=_stops(body.get("stop")) or sampling.stop,
            seed=_whole(body, "seed", -(2**63), 2**63 - 1),
        ),
        query_at, stream=_flag(body, "stream"), include_usage=_flag(options or {}, "include_usage", "stream_options.include_usage"),
    )


def read_edit(
    body: Mapping[str, Any], limits: RequestLimits, *, old: MemoryEdit | None = None, extra: frozenset[str] = frozenset(),
) -> EditDraft:
    """An edit that a client wants taken in.

    Args:
        old: the one it is to supersede; what is not given is taken from it, but for the fact's sentence, the id and the metadata.
        extra: fields that the body may have besides.
    """
    _known(body, EDIT_FIELDS | extra)
    texts = {name: _text(body, name, limits.field_chars, default=getattr(old, name, None) if name != "target" else None)
             for name in ("subject", "prompt", "target")}
    for name, text in texts.items():
        if not text.strip():
            raise Unusable(f"{name} is blank; an edit needs a subject, a prompt and its new target", name)
    relation = _text(body, "relation", limits.field_chars, default=old.relation if old else "")
    if not relation.strip() and old is None:
        relation = relation_of(texts["prompt"], texts["subject"])
    fact = _text(body, "fact", limits.field_chars, default="")
    edit_id = _text(body, "id", 128, default="")
    if edit_id and not _ID.fullmatch(edit_id):
        raise Unusable("id is made of letters, digits and . _ : -, 128 at most; leave it out to have one made", "id")
    metadata = _metadata(body.get("metadata"), limits)
    try:
        return checked(EditDraft(**texts, relation=relation, descriptor=fact, metadata=metadata, edit_id=edit_id))
    except RecordError as err:
        raise Unusable(str(err)) from err


def read_page(query: Mapping[str, str], limits: RequestLimits) -> PageAsk:
    """Which page of edits a query string asks for."""
    unknown = sorted(query.keys() - {"after", "limit", "include_ended", "as_of"})
    if unknown:
        raise Unusable(f"no such parameter: {_shown(unknown[0])}; after, limit, include_ended and as_of are known", unknown[0][:64])
    ended = query.get("include_ended", "false")
    if ended not in ("true", "false", "1", "0"):
        raise Unusable(f"include_ended is true or false; got {_shown(ended)}", "include_ended")
    return PageAsk(
        _digits(query, "after", 0, 2**62) or 0, _digits(query, "limit", 1, limits.page_edits) or min(100, limits.page_edits),
        ended in ("true", "1"), _digits(query, "as_of", 0, 2**62),
    )


def read_last(body: Mapping[str, Any], most: int) -> int:
    """Over how many recent queries a dry run goes."""
    last = _whole(body, "last", 1, 10**9)
    return most if last is None else min(last, most)


# ---- fields


def _known(body: Mapping[str, Any], fields: frozenset[str]) -> None:
    for name, value in body.items():
        if name in fields or (fields is CHAT_FIELDS and (name in IGNORED or value is None)):
            continue
        if fields is CHAT_FIELDS and name in NEUTRAL:
            if value in NEUTRAL[name]:
                continue
            raise Unusable(f"{name} = {_shown(value)} is not served here; leave it out", name)
        raise Unusable(f"no such field: {_shown(name)}; {', '.join(sorted(fields))} are known", name.replace("\0", "")[:64])


def _messages(value: Any, limits: RequestLimits) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise Unusable(f"messages is a list of one turn or more; got {_kind(value) if value != [] else 'none'}", "messages")
    if len(value) > limits.messages:
        raise Unusable(f"{len(value)} messages; {limits.messages} are the most", "messages")
    return [_message(turn, f"messages[{at}]", limits) for at, turn in enumerate(value)]


def _message(turn: Any, place: str, limits: RequestLimits) -> Message:
    if not isinstance(turn, dict):
        raise Unusable(f"{place} is an object with role and content; got {_kind(turn)}", place)
    role = turn.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Unusable(f"{place}.role is system, developer, user or assistant; got {_shown(role)}", f"{place}.role")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise Unusable(f"{place} calls a tool, and tools are not served here", place)
    content = turn.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(part, f"{place}.content[{at}]") for at, part in enumerate(content))
    if not isinstance(content, str):
        raise Unusable(f"{place}.content is a text or a list of text parts; got {_kind(content)}", f"{place}.content")
    return Message(ROLES[role], _fit(content, f"{place}.content", limits.message_chars))


def _part(part: Any, place: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise Unusable(f'{place} is {{"type": "text", "text": ...}}; other parts are not served here', place)
    return text


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value if value is not None else []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise Unusable(f"stop is a text, or a list of up to {MAX_STOPS} texts, none empty", "stop")
    return tuple(_fit(stop, "stop", MAX_STOP_CHARS) for stop in stops)


def _metadata(value: Any, limits: RequestLimits) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unusable(f"metadata is an object; got {_kind(value)}", "metadata")
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError as err:
        raise Unusable(f"metadata cannot be kept ({err})", "metadata") from err
    if size > limits.metadata_bytes:
        raise Unusable(f"metadata take {size} bytes; {limits.metadata_bytes} are the most", "metadata")
    if _depth(value) > 16:
        raise Unusable("metadata are nested deeper than 16 levels", "metadata")
    return value


def _depth(value: Any) -> int:
    """Levels of objects and lists, without recursion."""
    level, depth = [value], 0
    while level := [inner for outer in level if isinstance(outer, dict | list)
                    for inner in (outer.values() if isinstance(outer, dict) else outer)]:
        depth += 1
    return depth


def _text(body: Mapping[str, Any], name: str, most: int, *, default: str | None = None) -> str:
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise Unusable(f"{name} is a text; got {_kind(value) if name in body else 'none'}", name)
    return _fit(value, name, most)


def _fit(text: str, place: str, most: int) -> str:
    if len(text) > most:
        raise Unusable(f"{place} has {len(text)} characters; {most} are the most", place)
    if "\0" in text:
        raise Unusable(f"{place} holds a NUL character, which is no text; leave it out", place)
    return text


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Unusable(f"{name} is a number from {least:g} to {most:g}; got {_shown(value)}", name)
    return float(value)


def _whole(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Unusable(f"{name} is a whole number from {least} to {most}; got {_shown(value)}", name)
    return value


def _digits(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise Unusable(f"{name} is a whole number from {least} to {most}; got {_shown(text)}", name)
    return int(text)


def _flag(body: Mapping[str, Any], name: str, place: str | None = None) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Unusable(f"{place or name} is true or false; got {_shown(value)}", place or name)
    return bool(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _shown(value: Any) -> str:
    """A value in a message, cut short and on one line."""
    return repr(value)[:80]
