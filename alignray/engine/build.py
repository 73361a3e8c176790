"""From an engine's config to the engine."""

from __future__ import annotations

from alignray.engine.base import Engine
from alignray.engine.configs import AnyEngineConfig, LlamaConfig, ScriptedConfig, TransformersConfig, VLLMConfig


def build_engine(config: AnyEngineConfig) -> Engine:
    """The engine that the config describes, not started yet."""
    # each backend's library is heavy or optional, so its module loads only here
    if isinstance(config, ScriptedConfig):
        from alignray.engine.scripted import ScriptedEngine

        return ScriptedEngine(config)
    if isinstance(config, LlamaConfig):
        from alignray.engine.llama import LlamaEngine

        return LlamaEngine(config)
    if isinstance(config, VLLMConfig):
        from alignray.engine.vllm import VLLMEngine

        return VLLMEngine(config)
    if isinstance(config, TransformersConfig):
        from alignray.engine.transformers import TransformersEngine

        return TransformersEngine(config)
    from alignray.engine.openai import OpenAIEngine

    return OpenAIEngine(config)
