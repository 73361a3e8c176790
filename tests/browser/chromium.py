"""Headless Chromium by its own debugging protocol: open a page, hear everything it complains about or fetches."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def require_chromium() -> str:
    """Path of the browser (CHROMIUM, or the first of the usual names); skips, or fails with ALIGNRAY_REQUIRE_BROWSER=1."""
    found = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        message = "no Chromium found; install it or set CHROMIUM to its path"
        if os.environ.get("ALIGNRAY_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found


@dataclass
class Page:
    """One tab. ``complaints`` are console messages, exceptions, log entries, audit issues and dialogs."""

    socket: aiohttp.ClientWebSocketResponse
    session_id: str = ""
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _last_id: int = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        answer = self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": params}
        if self.session_id:
            message["sessionId"] = self.session_id
        await self.socket.send_json(message)
        return await asyncio.wait_for(answer, 30)

    async def listen(self) -> None:
        async for frame in self.socket:
            event = frame.json()
            if "id" in event:
                answer = self._answers.pop(event["id"])
                if "error" in event:
                    answer.set_exception(RuntimeError(f"{event['error']}"))
                else:
                    answer.set_result(event["result"])
                continue
            self._note(event["method"], event.get("params", {}))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded.set()
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded",
                        "Page.javascriptDialogOpening"):
            self.complaints.append(f"{method}: {params}")

    async def open(self, url: str, *, width: int, height: int) -> None:
        """Load ``url`` in a window of this size and wait until it has settled."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self.loaded.wait(), 30)
        await asyncio.sleep(0.3)

    async def value(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def screenshot(self) -> bytes:
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@asynccontextmanager
async def chromium_page(profile_dir: Path) -> AsyncIterator[Page]:
    """A tab of a fresh browser; the browser is gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        require_chromium(), *FLAGS, f"--user-data-dir={profile_dir}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )
    try:
        port, path = await _debugging_address(profile_dir / "DevToolsActivePort")
        async with aiohttp.ClientSession() as http, http.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket:
            page = Page(socket)
            listener = asyncio.create_task(page.listen())
            target = await page.call("Target.createTarget", url="about:blank")
            attached = await page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            page.session_id = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                await page.call(f"{domain}.enable")
            yield page
            listener.cancel()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _debugging_address(path: Path) -> tuple[str, str]:
    for _ in range(300):
        if path.exists() and len(lines := path.read_text().split()) == 2:
            return lines[0], lines[1]
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{path}: the browser did not open its debugging port in 30 s")
