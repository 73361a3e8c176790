"""Per-token log-probabilities of a reference model, kept by content and shared between runs.

``STORE/<model_key>/part-<digest>.parquet`` holds rows by token_key. A part is named after its own bytes, so that writers never meet
and damage shows; one that is not what its name says is left out, and its rows count as missing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.errors import ConfigError, ResumeError
from alignray.io.commits import parquet_bytes
from alignray.io.storage import Storage

logger = logging.getLogger(__name__)

SCHEMA = pa.schema([
    ("token_key", pa.string()), ("chosen_logprobs", pa.list_(pa.float32())), ("rejected_logprobs", pa.list_(pa.float32())),
])
"""Natural logarithms, one per response token."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
READERS = 8

Logprobs = npt.NDArray[np.float32]


def model_key(model_dir: str | Path, dtype: str) -> str:
    """32 hex digits over what decides a log-probability: the bytes of weights, config and tokenizer, and the precision.

    Reads all weights once (about 1 GB/s).

    Raises:
        ConfigError: not a folder with safetensors weights.
    """
    folder = Path(model_dir)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(f"model.path = {str(model_dir)!r} is no folder with *.safetensors; save the model with save_pretrained")
    files = [*weights, *(path for name in ("config.json", *TOKENIZER_FILES) if (path := folder / name).is_file())]
    with ThreadPoolExecutor(READERS) as pool:
        digests = list(pool.map(_file_digest, files))
    facts = [[path.name, path.stat().st_size, digest] for path, digest in zip(files, digests, strict=True)]
    return hashlib.blake2b(orjson.dumps([facts, dtype]), digest_size=16).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@dataclass(frozen=True)
class ReferenceIndex:
    """Where rows stand: token_key to part and row number."""

    places: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    """Parts that are not what their name says."""

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that are not there, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self.places]


class ReferenceStore:
    """The rows of one reference model."""

    def __init__(self, root: str, key: str) -> None:
        """
        Args:
            root: folder of all models, local or fsspec URL.
            key: ``model_key``.
        """
        self.storage, self.key = Storage(f"{root.rstrip('/')}/{key}"), key

    def describe(self, facts: Mapping[str, str]) -> None:
        """Write down, once, what model this is, for who finds the folder."""
        self.storage.write("model.json", orjson.dumps(dict(facts), option=orjson.OPT_INDENT_2), exclusive=True)

    def append(self, rows: Sequence[tuple[str, Logprobs, Logprobs]]) -> str:
        """Write token_keys with the log-probabilities of chosen and rejected as one part, visible in one step; its name."""
        columns = zip(*rows, strict=True)
        table = pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)
        data = parquet_bytes(table)
        name = f"part-{hashlib.blake2b(data, digest_size=16).hexdigest()}.parquet"
        self.storage.write(name, data)  # over one of this name that is damaged, too
        return name

    def index(self, keys: Iterable[str]) -> ReferenceIndex:
        """Where the rows of these keys stand, every part checked against its name; of a key that is there twice, in the first part."""
        wanted = set(keys)
        places: dict[str, tuple[str, int]] = {}
        damaged = []
        names = self.storage.list("", ".parquet")
        with ThreadPoolExecutor(READERS) as pool:
            for name, found in zip(names, pool.map(self._keys_of, names), strict=True):
                if found is None:
                    damaged.append(name)
                    logger.warning("reference store: %s is damaged and left out; its rows are computed again", self.storage.path(name))
                    continue
                for row, key in enumerate(found):
                    if key in wanted:
                        places.setdefault(key, (name, row))
        return ReferenceIndex(places, tuple(damaged))

    def _keys_of(self, name: str) -> list[str] | None:
        table = self._table(name, ["token_key"])
        return None if table is None else table["token_key"].to_pylist()

    def _table(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        """A part, or None where its bytes are not those that it was written with."""
        try:
            data = self.storage.read(name)
        except FileNotFoundError:
            return None
        if name != f"part-{hashlib.blake2b(data, digest_size=16).hexdigest()}.parquet":
            return None
        return pq.read_table(pa.BufferReader(data), columns=columns)

    def read(self, index: ReferenceIndex, keys: Iterable[str]) -> dict[str, tuple[Logprobs, Logprobs]]:
        """Log-probabilities of chosen and rejected by token_key, of the keys that are there.

        Raises:
            ResumeError: a part was damaged after it was indexed.
        """
        by_part: dict[str, list[tuple[str, int]]] = {}
        for key in dict.fromkeys(keys):
            if key in index.places:
                name, row = index.places[key]
                by_part.setdefault(name, []).append((key, row))
        return {key: values for name, rows in by_part.items() for key, values in self._rows(name, rows)}

    def _rows(self, name: str, rows: Sequence[tuple[str, int]]) -> Iterator[tuple[str, tuple[Logprobs, Logprobs]]]:
        table = self._table(name)
        if table is None:
            raise ResumeError(f"reference store: {self.storage.path(name)} is gone or damaged; run again to compute its rows anew")
        taken = table.take([row for _, row in rows]).combine_chunks()
        sides = [_split(taken[column].chunk(0)) for column in ("chosen_logprobs", "rejected_logprobs")]
        for (key, _), chosen, rejected in zip(rows, *sides, strict=True):
            yield key, (chosen, rejected)


def _split(lists: pa.ListArray) -> list[Logprobs]:
    return np.split(np.asarray(lists.flatten()), np.asarray(lists.offsets)[1:-1] - lists.offsets[0].as_py())
