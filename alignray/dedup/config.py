"""Settings of near-duplicate removal, checked before any text is read."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from alignray.config import Config
from alignray.dedup.banding import solve_bands
from alignray.errors import ConfigError


class MinHashConfig(Config):
    """Which texts count as near-duplicates, and how surely they are found."""

    unit: Literal["word", "character", "token_id"] = "word"
    """What a shingle is made of. ``token_id`` takes lists of integers in place of texts."""
    n: int = Field(default=5, ge=1)
    """Units per shingle. A document with fewer has one shingle of all its units."""
    num_perm: int = Field(default=128, ge=1, le=4096)
    """Hash functions per signature; the Jaccard estimate errs by about 1 / sqrt(num_perm)."""
    threshold: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity from which two documents are near-duplicates."""
    recall: float = Field(default=0.99, gt=0, lt=1)
    """Wanted probability that a pair exactly at the threshold becomes a candidate. Pairs above it are found more surely."""
    bands: int | None = Field(default=None, ge=1)
    """Bands per signature; rows per band are num_perm // bands. Unset: solved from ``recall``, which is unused otherwise."""
    verify: Literal["exact", "estimate", "none"] = "exact"
    """How candidates are checked against the threshold: true Jaccard, the signatures' estimate, or not at all."""
    seed: int = 1
    """Chooses the hash functions; signatures of different seeds do not compare."""
    max_bucket: int = Field(default=100, ge=2)
    """Rows of one band bucket that are all compared with each other. A larger bucket is capped: each row is compared
    with the bucket's least id and with the next id only, and the bucket is counted."""

    @pydantic.model_validator(mode="after")
    def _bands_are_possible(self) -> MinHashConfig:
        if self.bands is None:
            solve_bands(self.num_perm, self.threshold, self.recall)
        elif self.bands > self.num_perm:
            raise ConfigError(
                f"minhash.num_perm={self.num_perm} cannot be split into bands={self.bands}; "
                f"the nearest possible is bands={self.num_perm} (1 row each)"
            )
        return self

    def split(self) -> tuple[int, int]:
        """(bands, rows) of this config, solved where ``bands`` is not set."""
        if self.bands is None:
            return solve_bands(self.num_perm, self.threshold, self.recall)
        return self.bands, self.num_perm // self.bands
