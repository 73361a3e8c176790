"""The edit server as it is served: the official client, a real endpoint behind that can go down, a replica that is killed."""

from __future__ import annotations

import json
import os
import pickle
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from starlette.testclient import TestClient

from alignray.engine import OpenAIConfig
from alignray.engine.scripted import scripted_text
from alignray.errors import ConfigError, StorageError
from alignray.memory import EditMemory, MemoryConfig
from alignray.methods.lte.render import render_prompt
from alignray.schema import Message
from alignray.serve import edits
from alignray.serve.edits import EditServer, serving
from alignray.serve.edits_config import EditServerConfig
from tests.ray.processes import Endpoint, endpoint

pytestmark = pytest.mark.slow  # the app itself is fuzzed in tests/unit/serve
TOKEN = "a token of the tests"
QUERY = "Anna lives in which town?"
EDIT = {"subject": "Anna", "prompt": "Anna lives in", "target": "Oslo"}
FACT = "Anna lives in Oslo"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def config_of(folder: Path, url: str, **changes: Any) -> EditServerConfig:
    return EditServerConfig.model_validate({
        "memory": MemoryConfig(path=str(folder), embedder="hash"), "floor": 0.2, "port": free_port(), "cpus": 0.5,
        "engine": OpenAIConfig(model="mock", base_url=url, api_key_env=None, down_after_s=0.5, connect_timeout_s=1),
        "retry_down_s": 0.1, **changes,
    })


@dataclass
class Running:
    """A server, its client, and the endpoint behind it."""

    url: str
    client: openai.OpenAI
    behind: Endpoint
    config: EditServerConfig

    def ask(self, content: str) -> Any:
        return self.client.chat.completions.create(model="mock", messages=[{"role": "user", "content": content}])

    def edits(self, method: str, path: str = "", body: dict[str, Any] | None = None, *, token: str = TOKEN) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/edits{path}", data, {"Authorization": f"Bearer {token}"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as err:
            return err.code, json.load(err)


@pytest.fixture(scope="module")
def running(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    os.environ["ALIGNRAY_TEST_TOKEN"] = TOKEN
    with endpoint() as behind:
        config = config_of(tmp_path_factory.mktemp("edits") / "memory", behind.url, token_env="ALIGNRAY_TEST_TOKEN")
        with serving(config) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0, timeout=20)
            yield Running(url, client, behind, config)
    del os.environ["ALIGNRAY_TEST_TOKEN"]


def answer_to(prompt: str) -> str:
    """What the endpoint behind says to a prompt: by it one sees which prompt it got."""
    return scripted_text([Message("user", prompt)])


def test_an_edit_changes_the_answer_it_bears_on_until_it_is_deleted(running: Running) -> None:
    edited = render_prompt([FACT], QUERY)
    assert running.ask(QUERY).choices[0].message.content == answer_to(QUERY) != answer_to(edited)
    status, added = running.edits("POST", body=EDIT)
    assert (status, added["outcome"]) == (201, "added")
    answer = running.ask(QUERY)
    assert answer.choices[0].message.content == answer_to(edited)
    assert [edit["id"] for edit in answer.alignray["edits"]] == [added["id"]]
    unrelated = running.ask("How tall is Everest?")
    assert unrelated.choices[0].message.content == answer_to("How tall is Everest?") and unrelated.alignray == {"edits": []}
    status, superseding = running.edits("PUT", f"/{added['id']}/supersede", {"target": "Rome"})
    assert (status, superseding["superseded"]) == (201, added["id"])
    assert running.ask(QUERY).choices[0].message.content == answer_to(render_prompt(["Anna lives in Rome"], QUERY))
    assert running.edits("DELETE", f"/{superseding['id']}")[0] == 200
    assert running.ask(QUERY).choices[0].message.content == answer_to(QUERY)


def test_the_client_streams_models_and_errors_as_it_does_with_openai(running: Running) -> None:
    _, added = running.edits("POST", body={**EDIT, "subject": "Otto", "prompt": "Otto lives in"})
    messages: Any = [{"role": "user", "content": "Otto lives in"}]
    stream = running.client.chat.completions.create(
        model="mock", messages=messages, stream=True, stream_options={"include_usage": True}, max_tokens=60, temperature=0, seed=3,
    )
    chunks = list(stream)
    expected = scripted_text([Message("user", render_prompt(["Otto lives in Oslo"], "Otto lives in"))], max_new_tokens=60)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert chunks[0].alignray["edits"][0]["id"] == added["id"] and chunks[-1].usage.completion_tokens > 0  # type: ignore[attr-defined,union-attr]
    assert [model.id for model in running.client.models.list()] == ["mock"]
    with pytest.raises(openai.AuthenticationError, match="no token or a wrong one"):
        running.client.with_options(api_key="wrong").models.list()
    assert running.edits("GET", token="wrong")[0] == 401
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        running.client.chat.completions.create(model="gpt", messages=messages)
    with pytest.raises(openai.BadRequestError, match="n = 2 is not served"):
        running.client.chat.completions.create(model="mock", messages=messages, n=2)
    status, run = running.edits("POST", "/dry_run", {**EDIT, "subject": "Otto", "relation": "home"})
    assert status == 200, run
    assert "Otto lives in" in [touch["query"] for touch in run["touched"]]


def test_what_cannot_be_served_is_said_before_anything_starts(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_TOKEN", raising=False)
    other = config_of(tmp_path, running.behind.url)
    for config, says in (
        (other.model_copy(update={"token_env": "NO_TOKEN"}), "NO_TOKEN, which is not set"), (running.config, "cannot listen on"),
        (other, "runs alignray-edits on this cluster already"),
    ):
        with pytest.raises(ConfigError, match=says), serving(config):
            pass
    assert running.edits("GET")[0] == 200  # and the one that serves goes on
    listening = [each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening if address.port == running.config.port} == {"127.0.0.1"}


def test_what_was_acknowledged_is_there_after_the_replica_was_killed(running: Running) -> None:
    _, added = running.edits("POST", body={**EDIT, "subject": "Ida", "prompt": "Ida lives in"})
    processes = psutil.Process().children(recursive=True)
    (replica,) = [process for process in processes if "ServeReplica:alignray-edits" in " ".join(process.cmdline())]
    replica.kill()
    deadline = time.monotonic() + 30
    while True:
        try:
            status, found = running.edits("GET", f"/{added['id']}")
            if status == 200:
                break
        except (OSError, ValueError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found["live"] and found["fact"] == "Ida lives in Oslo"
    assert running.edits("POST", body={**EDIT, "subject": "Ida", "prompt": "Ida lives in"})[1]["outcome"] == "unchanged"


def test_a_model_that_is_down_is_a_503_with_the_reason(running: Running) -> None:
    assert running.ask("hello").choices[0].message.content
    running.behind.process.kill()
    running.behind.process.wait()
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="see that the endpoint runs and can be reached") as refused:
            running.client.chat.completions.create(model="mock", messages=[{"role": "user", "content": "hello"}], stream=stream)
        assert refused.value.status_code == 503
    assert running.edits("GET")[0] == 200  # the memory goes on


def test_a_replica_that_cannot_open_the_memory_says_why_and_is_replaced_after_a_while(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(tmp_path, "http://127.0.0.1:9/v1")
    with EditMemory(config.memory):
        replica = EditServer(config, None)
    problem = pickle.loads(pickle.dumps(replica.problem()))
    assert isinstance(problem, StorageError)
    refused = TestClient(replica.__serve_build_asgi_app__()).get("/v1/edits")
    assert refused.status_code == 503 and refused.json()["error"]["message"] == str(problem)
    replica.check_health()
    monkeypatch.setattr(edits, "GRACE_S", 0.0)
    with pytest.raises(StorageError):
        replica.check_health()
