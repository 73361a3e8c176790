"""Lion's novelty filter by ``rouge_score``, one pair after another: every new text against the pool and what was kept before it.

``bench/novelty.py`` runs this with the python of the peers' venv: texts come as a JSON file, the result leaves as the last line of
standard output. The pool is split into words once, as the authors do it, and the clock starts after that.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer, _score_lcs


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    tokenize = RougeScorer(["rougeL"], use_stemmer=False)._tokenizer.tokenize
    started = time.process_time()
    pool = [tokenize(text) for text in given["pool"]]
    tokenize_seconds = time.process_time() - started

    started = time.process_time()
    closest, new = [], []
    for text in given["new"]:
        words = tokenize(text)
        scores = [_score_lcs(words, other).fmeasure for other in pool]
        best = max(scores)
        closest.append([scores.index(best), best])
        new.append(words)
    seconds = time.process_time() - started

    kept = {}
    for rule in ("thesis", "original"):
        is_like = (lambda score: score >= given["threshold"]) if rule == "thesis" else (lambda score: score > given["threshold"])
        kept[rule] = []
        for row, words in enumerate(new):
            scores = [closest[row][1], *(_score_lcs(words, new[other]).fmeasure for other in kept[rule])]
            if not is_like(max(scores)):
                kept[rule].append(row)
    print(json.dumps({
        "seconds": seconds, "tokenize_seconds": tokenize_seconds, "closest": closest, "kept": kept, "version": version("rouge_score"),
    }))


if __name__ == "__main__":
    main()
