"""Text in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from alignray.errors import EngineDown

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """One embedding model."""

    name: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors [N, D] of unit length, float32."""


class HashEmbedder:
    """Hashed bags of words: no model, deterministic. For tests and smoke runs; its distances mean shared words only."""

    name = "hash"

    def __init__(self, dimensions: int = 512) -> None:
        self._dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Signed hashed word counts, normalised."""
        vectors = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                value = xxhash.xxh3_64_intdigest(word.encode())
                vectors[row, value % self._dimensions] += 1.0 if value >> 63 else -1.0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, 1e-12)


class SentenceEmbedder:
    """Any sentence-transformers model, by hub name or local folder; CPU unless a GPU is there."""

    def __init__(self, name: str, *, setting: str = "analysis.embedder") -> None:
        self.name = name
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as err:
            raise EngineDown(f"{setting} needs sentence-transformers; pip install 'alignray[eval]', or set it to hash") from err
        try:
            self._model = SentenceTransformer(name, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as err:
            raise EngineDown(
                f"{setting} = {name!r} cannot be loaded ({str(err).splitlines()[0]}); name a local folder, or set it to hash"
            ) from err

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Mean-pooled sentence vectors, normalised."""
        vectors = self._model.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def build_embedder(name: str, *, setting: str = "analysis.embedder") -> Embedder:
    """ "hash", or a sentence-transformers model.

    Args:
        setting: the config key that the name is from, for messages.

    Raises:
        EngineDown: the model or its library is not there.
    """
    return HashEmbedder() if name == "hash" else SentenceEmbedder(name, setting=setting)
