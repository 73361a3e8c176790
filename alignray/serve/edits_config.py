"""What an edit server is told: the memory, the model behind it, the way edits are put, and what a request may take."""

from __future__ import annotations

import re

import pydantic

from alignray.config import Config
from alignray.engine import EngineConfig, Sampling, model_name
from alignray.engine.configs import is_loopback
from alignray.memory import MemoryConfig
from alignray.methods.lte.config import Form

HOST, PORT = "127.0.0.1", 8771


class RequestLimits(Config):
    """What a request may take; over it the answer is 4xx."""

    body_bytes: int = pydantic.Field(default=2**20, ge=1024)
    """Of a request's body."""
    messages: int = pydantic.Field(default=256, ge=1)
    """Turns of a chat."""
    message_chars: int = pydantic.Field(default=200_000, ge=1)
    """Characters of a turn."""
    new_tokens: int = pydantic.Field(default=32_768, ge=1)
    """Most tokens that a client may ask for."""
    field_chars: int = pydantic.Field(default=4096, ge=1)
    """Characters of each text of an edit."""
    metadata_bytes: int = pydantic.Field(default=8192, ge=2)
    """An edit's metadata, as JSON."""
    page_edits: int = pydantic.Field(default=1000, ge=1)
    """Edits of a page."""


class EditServerConfig(Config):
    """``alignray edits serve``: an OpenAI-compatible endpoint whose model knows the memory's edits. Source: LTE, thesis 5.1.2."""

    memory: MemoryConfig
    """The edits. Embedder and key that are not set here are those it was made with."""
    engine: EngineConfig
    """The model behind. Of an endpoint, ``down_after_s`` is 5 here where it is not set: a person waits for the answer."""
    model: str | None = pydantic.Field(default=None, min_length=1, max_length=200)
    """Name that clients ask for; null: the engine's own."""
    sampling: Sampling = Sampling()
    """Where a request does not say."""
    form: Form = "thesis"
    """How edits are put before the query. thesis: for models tuned by LTE. ice: for any other, with instructions (in-context
    editing). original_*: for the authors' checkpoints."""
    prompts_dir: str | None = None
    """Folder of prompts that stand in for ours."""
    top_k: int = pydantic.Field(default=3, ge=1, le=100)
    """Edits that a query may get. Source: thesis 5.1.2."""
    floor: float | None = pydantic.Field(default=None, ge=-1, le=1)
    """Edits whose cosine with the query is below are left out; null: every query gets top_k edits, as the authors have it."""
    recent_queries: int = pydantic.Field(default=1000, ge=0)
    """Queries kept in the server's memory, with their vectors, for dry runs; 0: none."""
    host: str = HOST
    """Address to listen on. Without token_env only one of this machine."""
    port: int = pydantic.Field(default=PORT, ge=1, le=65535)
    """Port to listen on."""
    token_env: str | None = None
    """Name of the environment variable that holds the token which every request must bear; null: no login."""
    answer_timeout_s: float = pydantic.Field(default=300.0, gt=0)
    """Longest time for an answer of the model; after it the request gets 503."""
    retry_down_s: float = pydantic.Field(default=5.0, ge=0)
    """A model that is down is tried again after this long; until then requests get 503 at once."""
    max_open: int = pydantic.Field(default=256, ge=1)
    """Requests worked on at once; as many again wait, further ones get 503."""
    limits: RequestLimits = RequestLimits()
    """What a request may take."""
    address: str | None = None
    """Ray cluster; null: RAY_ADDRESS if that is set, else a local one for as long as the server runs."""
    cpus: float = pydantic.Field(default=1.0, ge=0)
    """CPUs that Ray sets aside for the replica."""
    gpus: float = pydantic.Field(default=0.0, ge=0)
    """GPUs that Ray sets aside for it, where model or index use one."""

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.model or model_name(self.engine)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _holds_no_token(cls, data: object) -> object:
        # on the whole part: an error about the field would repeat the token as its value
        name = data.get("token_env") if isinstance(data, dict) else None
        if isinstance(name, str) and not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError("token_env is the name of an environment variable, not the token itself")
        return data

    @pydantic.model_validator(mode="after")
    def _strangers_need_a_token(self) -> EditServerConfig:
        if self.token_env is None and not is_this_machine(self.host):
            raise ValueError(f"host = {self.host!r} lets others in; name the variable that holds the token in token_env, or use {HOST}")
        return self


def is_this_machine(host: str) -> bool:
    """True for a name or address that only this machine can reach."""
    return is_loopback(f"http://[{host}]" if ":" in host else f"http://{host}")
