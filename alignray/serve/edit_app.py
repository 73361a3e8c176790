"""The edit server's HTTP: routes, login, errors in OpenAI's form, chat completions whole and in pieces.

    POST /v1/chat/completions   GET /v1/models   GET /healthz
    POST /v1/edits   GET /v1/edits   GET /v1/edits/{id}   DELETE /v1/edits/{id}
    PUT or POST /v1/edits/{id}/supersede   POST /v1/edits/dry_run

A stream sends an answer that is finished, in pieces: the engines give whole answers, and so a request that fails gets its status
and reason instead of a stream that breaks off. What does not get as far as this (a full queue, broken HTTP) is answered by Ray
Serve in words of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from alignray.errors import CallRefused, ConfigError, EngineDown, EngineError, StorageError
from alignray.memory import EditResult, ScoredEdit
from alignray.serve.edit_requests import ChatAsk, Unusable, read_chat, read_edit, read_last, read_object, read_page
from alignray.serve.edit_service import Answer, EditService, shown_edit
from alignray.serve.edits_config import is_this_machine

logger = logging.getLogger(__name__)

PIECE_CHARS = 48
"""About so many characters make a piece of a stream."""
BEHIND_FAILED = frozenset({"endpoint_error", "bad_answer"})
"""Reasons of a refused call that are no fault of the request."""

Handler = Callable[[EditService, Request], Awaitable[Response]]


def build_app(service: EditService, *, token_digest: bytes | None = None) -> FastAPI:
    """The application.

    Args:
        token_digest: ``digest_of`` the token that requests must bear; None lets everyone on this machine in, and no web page.
    """
    if (token_digest is None) != (service.config.token_env is None):
        raise ConfigError("a server with token_env needs the token's digest, one without takes none")

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.model.start_quietly())  # edits are served while the model loads
        yield
        starting.cancel()
        await service.close()

    # no pages of documentation: they would answer without the token
    app = FastAPI(title="alignray edits", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    for path, methods, handler in ROUTES:
        app.add_api_route(path, _endpoint(service, path, handler, token_digest), methods=methods, response_model=None)

    async def no_route(_request: Request, err: Exception) -> Response:
        assert isinstance(err, HTTPException)
        service.meter.request("other", err.status_code)
        what = "this path does not take that method" if err.status_code == 405 else str(err.detail).lower()
        answer = _refusal(Unusable(f"{what}; see the routes in the manual", status=err.status_code))
        answer.headers.update(err.headers or {})
        return answer

    app.add_exception_handler(HTTPException, no_route)
    return app


def build_broken_app(reason: str) -> FastAPI:
    """An application that says why it cannot serve."""
    app = FastAPI(openapi_url=None)

    async def refuse(_request: Request) -> Response:
        return _refusal(Unusable(reason, status=503, kind="service_unavailable"))

    app.add_api_route("/{path:path}", refuse, methods=["GET", "POST", "PUT", "DELETE"], response_model=None)
    return app


def digest_of(token: str) -> bytes:
    """What the server keeps of the token."""
    return hashlib.sha256(token.encode()).digest()


def _endpoint(service: EditService, path: str, handler: Handler, token_digest: bytes | None) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        response = await _answered(service, request, handler, None if path == "/healthz" else token_digest)
        service.meter.request(path, response.status_code)
        return response

    return endpoint


async def _answered(service: EditService, request: Request, handler: Handler, token_digest: bytes | None) -> Response:
    """The handler's response, or what its error amounts to."""
    try:
        if service.config.token_env is None:
            _no_web_page(request)
        elif token_digest is not None:
            _bears_token(request, token_digest)
        return await handler(service, request)
    except Unusable as err:
        return _refusal(err)
    except CallRefused as err:
        return _refusal(_of_refused(err))
    except (EngineDown, StorageError, EngineError) as err:
        kind = "storage_error" if isinstance(err, StorageError) else "service_unavailable"
        return _refusal(Unusable(str(err), status=503, kind=kind))
    except Exception:
        logger.exception("%s %s failed", request.method, request.scope.get("route", "?"))
        return _refusal(Unusable("the server failed at this request; its log says why", status=500, kind="server_error"))


def _of_refused(err: CallRefused) -> Unusable:
    reason, message = (*map(str, err.args), "", "")[:2]
    if reason in BEHIND_FAILED:
        return Unusable(f"the model behind failed: {message}", status=503, kind="service_unavailable", code=reason)
    if reason == "context_too_long":
        return Unusable(f"the chat and its edits are too long for the model: {message}", "messages", code="context_length_exceeded")
    return Unusable(f"the model behind refused the request: {message or reason}", code=reason)


def _no_web_page(request: Request) -> None:
    """Where there is no login, a page in this machine's browser must not reach the memory.

    Raises:
        Unusable: the request comes from a page of another host, or by a name that is not this machine's.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    try:
        hosts = [urlsplit(f"http://{host}").hostname or "", *([] if origin is None else [urlsplit(origin).hostname or ""])]
    except ValueError:
        hosts = [""]
    if not all(map(is_this_machine, hosts)):
        raise Unusable("a server without a token answers to this machine's own programs only; set token_env", status=403,
                       kind="permission_error")


def _bears_token(request: Request, digest: bytes) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest_of(token.strip()), digest):
        raise Unusable("the request bears no token or a wrong one; send Authorization: Bearer TOKEN", status=401,
                       kind="authentication_error", code="invalid_api_key")


def _refusal(err: Unusable) -> Response:
    response = _json(err.body(), err.status)
    if err.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if err.status == 503:
        response.headers["Retry-After"] = "5"
    return response


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")


async def _body(service: EditService, request: Request) -> dict[str, Any]:
    limit, data = service.config.limits.body_bytes, bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise Unusable(f"the body is over {limit} bytes", status=413)
    return read_object(bytes(data))


# ---- edits


async def _add(service: EditService, request: Request) -> Response:
    draft = read_edit(await _body(service, request), service.config.limits)
    return _taken(await service.add(draft))


async def _supersede(service: EditService, request: Request) -> Response:
    body = await _body(service, request)
    old = service.get(request.path_params["edit_id"])
    draft = read_edit(body, service.config.limits, old=old)
    if not old.is_live:
        by = f"superseded by {old.superseded_by!r}" if old.superseded_by else "deleted"
        raise Unusable(f"edit {old.edit_id!r} is not live any more ({by}); add an edit, or supersede the live one", "id", status=409,
                       kind="conflict_error")
    return _taken(await service.supersede(old, draft))


def _taken(result: EditResult) -> Response:
    return _json({
        "id": result.edit.edit_id, "outcome": result.outcome, "superseded": result.superseded.edit_id if result.superseded else None,
        "contradicts": result.contradicts, "note": result.note, "edit": shown_edit(result.edit),
    }, 200 if result.outcome == "unchanged" else 201)


async def _page(service: EditService, request: Request) -> Response:
    page = await service.page(read_page(request.query_params, service.config.limits))
    return _json({
        "object": "list", "data": [shown_edit(edit) for edit in page.edits], "has_more": page.next_after is not None,
        "next_after": page.next_after, "live": service.num_live,
    })


async def _get(service: EditService, request: Request) -> Response:
    edit = service.get(request.path_params["edit_id"])
    return _json({**shown_edit(edit), "history": [other.edit_id for other in await service.history(edit)]})


async def _delete(service: EditService, request: Request) -> Response:
    edit, was_live = await service.delete(request.path_params["edit_id"])
    return _json({"id": edit.edit_id, "outcome": "deleted" if was_live else "unchanged", "edit": shown_edit(edit)})


async def _dry_run(service: EditService, request: Request) -> Response:
    body = await _body(service, request)
    last = read_last(body, service.config.recent_queries)
    run = await service.dry_run(read_edit(body, service.config.limits, extra=frozenset({"last"})), last)
    touched = [{"query": query, "score": float(touch.score), "rank": int(touch.rank), "displaces": touch.displaces}
               for query, touch in run.touches]
    return _json({"object": "dry_run", "queries": run.num_queries, "touched": touched})


# ---- chat


async def _models(service: EditService, _request: Request) -> Response:
    model = {"id": service.config.model_name, "object": "model", "created": 0, "owned_by": "alignray"}
    return _json({"object": "list", "data": [model]})


async def _health(service: EditService, _request: Request) -> Response:
    return _json({"status": "ok", "model": service.model.state, "live_edits": service.num_live})


async def _chat(service: EditService, request: Request) -> Response:
    config = service.config
    ask = read_chat(await _body(service, request), model=config.model_name, sampling=config.sampling, limits=config.limits)
    answer = await service.answer(ask)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": config.model_name}
    if ask.stream:
        return StreamingResponse(_events(head, ask, answer), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    message = {"role": "assistant", "content": answer.completion.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    return _json({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer), "alignray": _edits(answer.edits)})


async def _events(head: dict[str, Any], ask: ChatAsk, answer: Answer) -> AsyncIterator[bytes]:
    """A finished answer as server-sent events; the first holds the edits."""
    head = {**head, "object": "chat.completion.chunk", **({"usage": None} if ask.include_usage else {})}

    def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice], **more})

    yield chunk({"role": "assistant", "content": ""}, alignray=_edits(answer.edits))
    for piece in pieces_of(answer.completion.text):
        yield chunk({"content": piece})
    yield chunk({}, _finish(answer))
    if ask.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(answer)})
    yield b"data: [DONE]\n\n"


def pieces_of(text: str) -> Iterator[str]:
    """The text in pieces that end where words do, as far as they can."""
    yield from re.findall(rf"(?s).{{1,{PIECE_CHARS}}}(?=\s|$)|.{{1,{PIECE_CHARS}}}", text)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _edits(edits: tuple[ScoredEdit, ...]) -> dict[str, Any]:
    return {"edits": [{"id": one.edit.edit_id, "score": one.score} for one in edits]}


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.completion.prompt_tokens, answer.completion.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _finish(answer: Answer) -> str:
    reason = answer.completion.finish_reason
    return "stop" if reason == "unknown" else reason


ROUTES: tuple[tuple[str, list[str], Handler], ...] = (
    ("/healthz", ["GET"], _health),
    ("/v1/models", ["GET"], _models),
    ("/v1/chat/completions", ["POST"], _chat),
    ("/v1/edits", ["POST"], _add),
    ("/v1/edits", ["GET"], _page),
    ("/v1/edits/dry_run", ["POST"], _dry_run),
    ("/v1/edits/{edit_id}", ["GET"], _get),
    ("/v1/edits/{edit_id}", ["DELETE"], _delete),
    ("/v1/edits/{edit_id}/supersede", ["PUT", "POST"], _supersede),
)
