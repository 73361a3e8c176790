"""The shipped fake embedder: unit vectors, the same everywhere, near where words are shared."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.engine.embedders import HashEmbedder, build_embedder
from alignray.errors import EngineDown

WORDS = st.lists(st.sampled_from(["moon", "tide", "sea", "ship", "rock", "light", "board", "town"]), min_size=1, max_size=12)


def cosine(left: str, right: str) -> float:
    first, second = HashEmbedder().embed([left, right])
    return float(first @ second)


def test_vectors_have_unit_length_and_no_text_has_none() -> None:
    vectors = HashEmbedder(64).embed(["the moon pulls the sea", "a", ""])
    assert vectors.shape == (3, 64) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0])
    assert HashEmbedder().embed([]).shape == (0, 512)


def test_distances_by_hand() -> None:
    """Of two words one is shared: cosine 1/2; of 3 and 2 words two are: 2 / sqrt(6)."""
    assert cosine("moon tide", "moon ship") == pytest.approx(0.5, abs=1e-6)
    assert cosine("moon tide sea", "tide sea") == pytest.approx(2 / 6**0.5, abs=1e-6)
    assert cosine("moon tide", "rock light") == pytest.approx(0, abs=1e-6)


@given(WORDS, st.randoms())
def test_case_order_and_white_space_do_not_matter(words: list[str], shuffler: object) -> None:
    shuffled = words.copy()
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cosine(" ".join(words), "\n ".join(shuffled).upper()) == pytest.approx(1, abs=1e-5)


def test_a_text_has_the_same_vector_alone_among_others_and_in_another_process() -> None:
    alone = HashEmbedder().embed(["moon tide"])
    assert np.array_equal(alone[0], HashEmbedder().embed(["x y", "moon tide"])[1])
    code = (
        "from alignray.engine.embedders import HashEmbedder;"
        "print(HashEmbedder().embed(['moon tide']).nonzero()[1].tolist())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert shown.stdout.strip() == str(alone.nonzero()[1].tolist())


def test_the_name_hash_builds_it() -> None:
    assert isinstance(build_embedder("hash"), HashEmbedder) and build_embedder("hash").name == "hash"


def test_a_library_that_is_not_installed_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EngineDown, match=r"pip install 'alignray\[eval\]', or set it to hash"):
        build_embedder("all-mpnet-base-v2")


@pytest.mark.parametrize("error", [OSError("no such model\nmore"), ValueError("no such model"), RuntimeError("no such model")])
def test_a_model_that_cannot_be_loaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(name: str, **_: object) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=fail))
    with pytest.raises(EngineDown, match=r"analysis.embedder = 'mine' cannot be loaded \(no such model\); name a local folder"):
        build_embedder("mine")
