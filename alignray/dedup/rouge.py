"""ROUGE-L of two texts by words, and the first text of a pool that is too like a new one.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3; the F-measure with equal weights (beta 1), which
is what Self-Instruct, Lion and FollowBench compare with 0.7. On ASCII text the words are those of the usual scorer without stemming.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import LCSseq

_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SINGLE}]|[^\W_{_SINGLE}]+")


def words_of(text: str) -> list[str]:
    """Runs of letters and digits in lower case; of scripts that put no blanks between words (kanji, kana) each character."""
    return _WORD.findall(text.lower())


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """F-measure in [0, 1] of the longest common subsequence of two lists of words; 0 where one is empty."""
    length = len(first) + len(second)
    return 2 * common_words(first, second) / length if length else 0.0


def common_words(first: Sequence[str], second: Sequence[str]) -> int:
    """Words in the longest common subsequence: shared words in the same order, not necessarily side by side."""
    return int(LCSseq.similarity(first, second))


def first_like(words: Sequence[str], pool: Iterable[Sequence[str]], *, threshold: float) -> tuple[int, float] | None:
    """Position and ROUGE-L of the first text of a pool that reaches the threshold; None where all stay below.

    Args:
        threshold: in (0, 1]; a ROUGE-L equal to it counts as reached.
    """
    for position, other in enumerate(pool):
        length = len(words) + len(other)
        if 2 * min(len(words), len(other)) >= threshold * length > 0:  # else lengths alone keep it below
            score = rouge_l(words, other)
            if score >= threshold:
                return position, score
    return None
