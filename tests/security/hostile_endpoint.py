"""An endpoint that answers with hostile texts, and with the key it was sent.

``python -m tests.security.hostile_endpoint`` prints its URL, and then one line for each request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

from aiohttp import web

from tests.security import hostile

GIANT = 10_000_000
_TEXTS = (*hostile.ALL.values(), " ".join(hostile.ALL.values()))


def answer_to(prompt: str) -> str:
    """A usable answer with one of the hostile texts inside, fixed by the prompt; one prompt in sixteen gets a giant."""
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    text = f"Explain case {digest.hex()[:12]} of {_TEXTS[digest[0] % len(_TEXTS)]} in plain words {digest.hex()}"
    if digest[1] % 16 == 0:
        words = (f"w{digest.hex()[:6]}{number:x}" for number in range(GIANT // 12))
        return f"{text} {' '.join(words)}"
    return f"Here is the request:\n{text}" if digest[2] % 2 else text


class HostileEndpoint:
    """``refusals`` requests get an error whose body repeats the key; all others an answer that may repeat it too."""

    def __init__(self, refusals: tuple[int, ...] = ()) -> None:
        self._refusals = list(refusals)

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        sys.stdout.write(f"asked {bool(key)}\n")
        sys.stdout.flush()
        if self._refusals:
            status = self._refusals.pop(0)
            message = f"{'x' * (286 - len(key) // 2)} key {key} of {dict(request.headers)} is not for you \x1b[31m{hostile.HTML}"
            return web.json_response({"error": {"message": message, "type": "auth"}}, status=status)
        text = answer_to(body["messages"][-1]["content"])
        if len(text) % 5 == 0:
            text += f" your key is {key}"
        return web.Response(body=_reply(text, f"mock {key} \x1b[31m"), content_type="application/json")


def _reply(text: str, model: str) -> bytes:
    reply: dict[str, Any] = {
        "model": model, "choices": [{"message": {"content": text}, "finish_reason": ["stop"] if len(text) % 7 == 0 else "stop"}],
        "usage": {"prompt_tokens": 2**63 if len(text) % 11 == 0 else 5, "completion_tokens": -7 if len(text) % 13 == 0 else 5},
    }
    return json.dumps(reply).encode()  # halves of surrogate pairs go out as \ud800


async def serve(refusals: tuple[int, ...]) -> None:
    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/chat/completions", HostileEndpoint(refusals).chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}/v1\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(tuple(int(status) for status in sys.argv[1:])))
