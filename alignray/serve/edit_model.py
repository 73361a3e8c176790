"""The model behind the edit server: started with it, and built anew after it went down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Literal

from alignray.engine import Engine, OpenAIConfig, build_engine
from alignray.engine.configs import AnyEngineConfig
from alignray.errors import EngineDown
from alignray.schema import ChatRequest, Completion

logger = logging.getLogger(__name__)

DOWN_AFTER_S = 5.0
"""An endpoint that gives nothing but errors for this long is down, where its config does not say: a person waits."""


class ModelBehind:
    """One engine, or the reason why there is none. Used from one event loop."""

    def __init__(
        self, config: AnyEngineConfig, *, timeout_s: float, retry_down_s: float, build: Callable[[AnyEngineConfig], Engine] = build_engine,
    ) -> None:
        if isinstance(config, OpenAIConfig) and "down_after_s" not in config.model_fields_set:
            config = config.model_copy(update={"down_after_s": DOWN_AFTER_S})
        self._config, self._timeout_s, self._retry_down_s, self._build = config, timeout_s, retry_down_s, build
        self._engine: Engine | None = None
        self._starting = asyncio.Lock()
        self._reason = ""
        self._down_until = 0.0

    @property
    def state(self) -> Literal["starting", "up", "down"]:
        """How it did last."""
        return "down" if self._reason else "up" if self._engine is not None else "starting"

    async def answer(self, request: ChatRequest) -> Completion:
        """The model's answer.

        Raises:
            CallRefused: it takes no such request.
            EngineDown: it cannot be used now, or gave no answer in time.
        """
        engine = await self._started()
        try:
            async with asyncio.timeout(self._timeout_s):
                completion = await engine.generate(request)
        except TimeoutError as err:
            raise EngineDown(f"no answer within {self._timeout_s:g} s; ask for fewer tokens, or raise answer_timeout_s") from err
        except EngineDown as err:
            await self._went_down(engine, str(err))
            raise
        self._reason = ""
        return completion

    async def start_quietly(self) -> None:
        """Load or connect ahead of the first request; where that cannot be, ``state`` says so, and the request the reason."""
        with contextlib.suppress(EngineDown):
            await self._started()

    async def close(self) -> None:
        """Let go of the engine."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def _started(self) -> Engine:
        async with self._starting:
            if self._engine is not None:
                return self._engine
            if self._reason and time.monotonic() < self._down_until:
                raise EngineDown(self._reason)
            engine = self._build(self._config)
            try:
                await engine.start()
            except EngineDown as err:
                self._fell(str(err))
                with contextlib.suppress(Exception):  # what did not start may not close either
                    await engine.close()
                raise
            self._engine = engine
            return engine

    async def _went_down(self, engine: Engine, reason: str) -> None:
        if self._engine is engine:  # the first of many requests to notice
            self._engine = None
            self._fell(reason)
            with contextlib.suppress(Exception):
                await engine.close()

    def _fell(self, reason: str) -> None:
        logger.warning("the model behind is down: %s", reason)
        self._reason, self._down_until = reason, time.monotonic() + self._retry_down_s
