"""Paragraphs of samples/crawl as JSON lines, some of them again with an edit or two, for ``alignray dedup`` to find.

Both files are committed; run this again after changing a page.

    python scripts/pack_paragraphs.py [--output-dir DIR]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import orjson

from alignray.io.records import read_split
from alignray.io.sources import IngestConfig, SourceConfig, list_splits
from alignray.schema import WebDocument
from alignray.seeding import rng_for

ROOT = Path(__file__).parent.parent
MIN_WORDS = 25
FILLERS = ("indeed", "perhaps", "often", "still", "rather")


def paragraphs() -> list[str]:
    """Distinct paragraphs of the sample crawl, in its order."""
    config = IngestConfig(sources=(SourceConfig(name="sample", paths=(str(ROOT / "samples" / "sample.warc.gz"),)),))
    documents = [document for split in list_splits(config) for document in read_split(split, config, Counter())]
    pieces = (piece.strip() for document in documents if isinstance(document, WebDocument) for piece in document.text.split("\n"))
    return list(dict.fromkeys(piece for piece in pieces if len(piece.split()) >= MIN_WORDS))


def rows(texts: list[str]) -> list[dict[str, object]]:
    """Every paragraph; about one in six again, with nothing to three words changed, and with other votes."""
    found: list[dict[str, object]] = []
    for number, text in enumerate(texts):
        rng = rng_for(0, str(number), "paragraphs")
        found.append({"id": f"p{number:03d}", "text": text, "votes": rng.randint(0, 9)})
        if rng.random() < 1 / 6:
            words = text.split()
            for place in rng.sample(range(len(words)), rng.randint(0, 3)):
                words[place] = rng.choice(FILLERS)
            found.append({"id": f"p{number:03d}b", "text": " ".join(words), "votes": rng.randint(0, 9)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "samples")
    args = parser.parse_args()
    texts = paragraphs()
    # an exam that quotes the crawl: two of its three questions stand in the data
    exam = [{"id": f"q{number}", "question": f"Explain in one sentence: {texts[number * 7]}"} for number in range(2)]
    exam.append({"id": "q2", "question": "Which number is the smallest prime above two hundred and fifty, and how do you know that it is?"})
    for name, items in (("paragraphs.jsonl", rows(texts)), ("exam.jsonl", exam)):
        (args.output_dir / name).write_bytes(b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items))
        print(f"{len(items)} rows in {args.output_dir / name}")


if __name__ == "__main__":
    main()
