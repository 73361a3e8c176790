"""datatrove's four MinHash stages, one task after another in one process.

``bench/dedup_text.py`` runs this with the python of datatrove's own venv: settings come as one JSON argument, the result
leaves as the last line of standard output.
"""

import json
import resource
import sys
from importlib.metadata import version
from pathlib import Path

from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer


class WhiteSpace(WordTokenizer):
    """Words as the other tools see them, in place of spaCy's."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    settings = json.loads(sys.argv[1])
    folder, bands = Path(settings["folder"]), settings["bands"]
    config = MinhashConfig(n_grams=settings["n"], num_buckets=bands, hashes_per_bucket=settings["rows"])
    words = WhiteSpace() if settings["white_space"] else Languages.english
    if words == Languages.english:
        load_word_tokenizer(words).word_tokenize("loads spaCy")
    path = Path(settings["path"])
    reader = JsonlReader(str(path.parent), glob_pattern=path.name)
    signatures, matches, removed = str(folder / "signatures"), str(folder / "matches"), str(folder / "removed")

    started = cpu_seconds()
    MinhashDedupSignature(signatures, config, words).run(reader.run())
    for rank in range(bands):
        MinhashDedupBuckets(signatures, matches, config=config).run(None, rank, bands)
    MinhashDedupCluster(matches, removed, config).run()
    kept = [int(document.id) for document in MinhashDedupFilter(removed).run(reader.run())]
    seconds = cpu_seconds() - started
    print(json.dumps({"seconds": seconds, "kept": kept, "version": version("datatrove")}))


if __name__ == "__main__":
    main()
