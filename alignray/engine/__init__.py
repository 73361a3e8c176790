"""Text in, text out: one door to every model. Backend libraries load when an engine is built, not before."""

from alignray.engine.base import Engine, Sampling
from alignray.engine.build import build_engine
from alignray.engine.configs import (
    EngineConfig,
    LlamaConfig,
    OpenAIConfig,
    ScriptedConfig,
    TransformersConfig,
    VLLMConfig,
    model_name,
    price_of,
    without_transport,
)
from alignray.engine.prices import FREE, Price, price_table

__all__ = [
    "FREE", "Engine", "EngineConfig", "LlamaConfig", "OpenAIConfig", "Price", "Sampling", "ScriptedConfig",
    "TransformersConfig", "VLLMConfig", "build_engine", "model_name", "price_of", "price_table", "without_transport",
]
