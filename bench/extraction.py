"""HTML to text: resiliparse, trafilatura, and both in two tiers, against texts that people marked and Readability's own.

Pages with ground truth: news articles of the article extraction benchmark (text marked by hand) and test pages of
Readability (their expected main content). Two scores per page, means over pages: token F1 (bag of words) and shingle F1
(bag of 4 words in a row, as that benchmark counts). CPU seconds of one thread for decoded HTML to text, best of the
rounds, every other one in the other order. Rows in brackets are outputs that the benchmark recorded, not run here.
The threshold of the two tiers was chosen on these same pages, so its gain here is rather the best case; the two kinds of
pages are also scored apart. A page that our parser is not given (nesting, attributes) counts as an empty text.

    python bench/extraction.py [--quick] [--rounds N]

ALIGNRAY_DATA names the folder with the pages (default ../shared/data).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from alignray.io.extract import parse_html, text_by_tiers, text_of, text_with_trafilatura
from alignray.io.reasons import PageError

WORD = re.compile(r"\w+")
MARK = 2.0


@dataclass
class Page:
    """A page with the text that should come out."""

    kind: str
    html: str
    expected: str
    recorded: dict[str, str] = field(default_factory=dict)


def load(folder: Path) -> list[Page]:
    pages = []
    with gzip.open(folder / "aeb_articles.jsonl.gz") as lines:
        for row in map(json.loads, lines):
            pages.append(Page("articles", row["html"], row["articleBody"], row["recorded"]))
    with gzip.open(folder / "readability_pages.jsonl.gz") as lines:
        for row in map(json.loads, lines):
            pages.append(Page("readability", row["source_html"], text_of(parse_html(row["expected_html"]), main_content=False)))
    return pages


def shingles(text: str, size: int) -> Counter[tuple[str, ...]]:
    words = WORD.findall(text)
    return Counter(tuple(words[start : start + size]) for start in range(max(1, len(words) - size + 1))) if words else Counter()


def f1(text: str, expected: str, size: int) -> float:
    found, wanted = shingles(text, size), shingles(expected, size)
    return 2 * (found & wanted).total() / (found.total() + wanted.total()) if found or wanted else 1.0


def of_page(extract: Callable[[str], tuple[str, str]]) -> Callable[[str], tuple[str, str]]:
    def run(html: str) -> tuple[str, str]:
        try:
            return extract(html)
        except PageError:
            return "", ""
    return run


EXTRACTORS: dict[str, Callable[[str], tuple[str, str]]] = {
    "resiliparse, main content": of_page(lambda html: ("resiliparse", text_of(parse_html(html), main_content=True))),
    "resiliparse, all text": of_page(lambda html: ("resiliparse", text_of(parse_html(html), main_content=False))),
    "trafilatura": of_page(lambda html: ("trafilatura", text_with_trafilatura(html))),
    "two_tier": of_page(lambda html: text_by_tiers(parse_html(html), html)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    data = Path(os.environ.get("ALIGNRAY_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data")
    pages = load(data / "html_extraction")
    seconds: dict[str, list[float]] = {name: [] for name in EXTRACTORS}
    texts: dict[str, list[tuple[str, str]]] = {}
    text_with_trafilatura(pages[0].html)  # imports
    for number in range(1 if options.quick else options.rounds):
        for name in sorted(EXTRACTORS, reverse=bool(number % 2)):
            started = time.process_time()
            texts[name] = [EXTRACTORS[name](page.html) for page in pages]
            seconds[name].append(time.process_time() - started)
    rates = {name: len(pages) / min(taken) for name, taken in seconds.items()}

    versions = ", ".join(f"{name} {version(name)}" for name in ("resiliparse", "trafilatura"))
    print(f"{len(pages)} pages; {versions}, Python {platform.python_version()}")
    kinds = {kind: [number for number, page in enumerate(pages) if page.kind == kind] for kind in ("articles", "readability")}
    print(f"{'':34}" + "".join(f"{kind + ' ' + str(len(numbers)):>22}" for kind, numbers in kinds.items()) + f"{'all':>10}")
    print(f"{'':34}" + "  token F1  shingle F1" * 2 + "  token F1   pages/s  second tier")
    token_f1: dict[str, float] = {}
    for name, found in texts.items():
        scores = [(f1(text, page.expected, 1), f1(text, page.expected, 4)) for (_, text), page in zip(found, pages, strict=True)]
        token_f1[name] = fmean(score for score, _ in scores)
        cells = "".join(f"{fmean(scores[n][0] for n in ns):10.4f}{fmean(scores[n][1] for n in ns):12.4f}" for ns in kinds.values())
        share = fmean(extractor == "trafilatura" for extractor, _ in found)
        print(f"{name:34}{cells}{token_f1[name]:10.4f}{rates[name]:10.0f}{share:13.2f}")
    for name in pages[0].recorded:
        marked = [page for page in pages if page.kind == "articles"]
        one, four = (fmean(f1(page.recorded[name] or "", page.expected, size) for page in marked) for size in (1, 4))
        print(f"{'[' + name + ', recorded]':34}{one:10.4f}{four:12.4f}")
    ratio = rates["two_tier"] / rates["trafilatura"]
    gained = token_f1["two_tier"] - token_f1["resiliparse, main content"]
    print(json.dumps({
        "bench": "extraction", "ratio": round(ratio, 2), "mark": MARK, "ok": ratio >= MARK and gained >= 0,
        "token_f1": {name: round(score, 4) for name, score in token_f1.items()}, "f1_over_resiliparse": round(gained, 4),
        "second_tier_share": round(fmean(extractor == "trafilatura" for extractor, _ in texts["two_tier"]), 3),
        "pages_per_s": {name: round(rate) for name, rate in rates.items()}, "quick": options.quick,
    }))


if __name__ == "__main__":
    main()
