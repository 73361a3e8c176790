import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.dedup import shingles
from alignray.dedup.decontaminate import Hit, build_index, find_hits
from alignray.dedup.shingles import normalise, text_units, word_spans
from alignray.errors import ConfigError

QUESTION = "A train leaves the station at noon and travels sixty miles per hour; how far has it gone by five?"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "13th", "14th", "15th"]


def hits_of(items: list[tuple[str, str, str]], texts: list[str], n: int = 13) -> list[Hit]:
    return find_hits(build_index(items, n=n), texts)


def test_a_verbatim_leak_is_cut_out_as_it_stands() -> None:
    text = f"Here is a riddle. {QUESTION} Think first!"
    (hit,) = hits_of([("gsm", "7", QUESTION)], ["nothing of the kind", text])
    assert (hit.row, hit.benchmark, hit.item, hit.share) == (1, "gsm", "7", 1.0)
    assert hit.matched == QUESTION.removesuffix("?")
    assert hit.num_grams == len(QUESTION.split()) - 12


def test_a_paraphrase_is_no_leak() -> None:
    text = "At noon a train sets off from the station and goes sixty miles per hour; how far will it be by five?"
    assert hits_of([("gsm", "7", QUESTION)], [text, "", "short", "..."]) == []


def test_case_punctuation_and_line_breaks_do_not_hide_a_leak() -> None:
    text = "x " + QUESTION.upper().replace(" ", "\n-- ") + " y"
    (hit,) = hits_of([("gsm", "7", QUESTION)], [text])
    assert hit.matched == text[2:-3]


def test_short_items_are_looked_for_whole_and_shorter_ones_are_counted() -> None:
    items = [
        ("b", "nine", " ".join(WORDS[:9])), ("b", "eight", " ".join(WORDS[5:13])), ("b", "seven", " ".join(WORDS[:7])),
        ("b", "none", ""), ("b", "long", " ".join(WORDS)),
    ]  # fmt: skip
    index = build_index(items, n=13)
    assert (index.num_items, index.num_too_short) == (5, 2)
    assert [table.width for table in index.tables] == [8, 9, 13]
    hits = find_hits(index, [" ".join(WORDS[:12]), f"zero {' '.join(WORDS[:13])}!", " ".join(WORDS[:8])])
    assert [(hit.row, hit.item, hit.num_grams, hit.share) for hit in hits] == [
        (0, "nine", 1, 1.0), (1, "eight", 1, 1.0), (1, "long", 1, 1 / 3), (1, "nine", 1, 1.0),
    ]  # fmt: skip
    assert hits[1].matched == " ".join(WORDS[5:13])
    assert build_index(items, n=13, min_words=7).num_too_short == 1
    assert build_index(items, n=5).num_too_short == 1  # from n words on an item is long enough


def test_a_gram_of_two_items_reports_both() -> None:
    items = [("z", "2", " ".join(WORDS[:5])), ("a", "1", " ".join([*WORDS[:4], "other"])), ("a", "0", " ".join(WORDS[2:7]))]
    hits = hits_of(items, [" ".join(WORDS[:4])], n=3)
    assert [(hit.benchmark, hit.item, hit.matched, hit.num_grams) for hit in hits] == [
        ("a", "1", "one two three four", 2),
        ("z", "2", "one two three four", 2),
    ]


def test_share_counts_distinct_grams_and_the_longest_passage_is_shown() -> None:
    # grams of 3: abc bcd cde dea eab abc: 5 distinct; the text holds bcd, abc (twice) and cde, in runs of 1 and 2
    (hit,) = hits_of([("b", "1", "a b c d e a b c")], ["a b c x B c, D e! x a b c"], n=3)
    assert (hit.num_grams, hit.share) == (3, 3 / 5)
    assert hit.matched == "B c, D e"
    (tie,) = hits_of([("b", "1", "a b c d e a b c")], ["x a b c x b c d x"], n=3)
    assert tie.matched == "a b c"  # the first of equals


def test_rows_stay_apart_and_long_passages_are_cut() -> None:
    item = " ".join(f"word{index}" for index in range(200))
    halves = [" ".join(WORDS[:8]), " ".join(WORDS[8:])]
    assert hits_of([("b", "1", " ".join(WORDS))], halves) == []
    (hit,) = hits_of([("b", "1", item)], [item])
    assert hit.matched == item[:500]


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        pytest.param("the oﬃce ﬁle", "the office file", id="ligatures"),
        pytest.param("ＦＵＬＬ　ｗｉｄｔｈ text", "full width text", id="full width"),
        pytest.param("İstanbul İzmir STRASSE", "İstanbul İzmir straße", id="dotted i and sharp s"),
        pytest.param("so \U0001f600 \U0001f44d\U0001f3fd happy", "so \U0001f600 \U0001f44d\U0001f3fd happy", id="emoji"),
        pytest.param("cafe\u0301 re\u0301sume\u0301 nai\u0308ve", "café résumé naïve", id="combining marks"),
        pytest.param("第一章 GPU", "第 一 章 gpu", id="ideographs"),
        pytest.param("half of ½ and …", "half of 1⁄2 and", id="one character of two words"),
    ],
)
def test_passages_of_other_scripts_are_cut_out_of_the_original(leak: str, words: str) -> None:
    text = f"ŒUVRE, ﬁn… «İ» \U0001f600 e\u0301: {leak} / après ﬀ"
    (hit,) = hits_of([("b", "1", words)], [text], n=3)
    assert hit.matched == leak.removesuffix(" …")


def test_a_text_that_cannot_be_aligned_shows_the_normalised_passage() -> None:
    syllables = "\u1112\u1161\u11ab"  # conjoining jamo, which compose to one syllable
    (hit,) = hits_of([("b", "1", "one two three")], [f"{syllables} ONE, Two three {syllables}"], n=3)
    assert hit.matched == "one, two three"


def test_items_of_one_id_are_compared_each_by_itself() -> None:
    hits = hits_of([("b", "1", "a b c"), ("b", "1", "d e f")], ["d e f a b c"], n=3)
    assert [hit.matched for hit in hits] == ["a b c", "d e f"]


def test_an_index_survives_pickle_and_may_be_empty() -> None:
    index = pickle.loads(pickle.dumps(build_index([("gsm", "7", QUESTION)], n=13)))
    assert len(find_hits(index, [QUESTION])) == 1
    assert find_hits(index, []) == []
    nothing = build_index([("b", "1", "short")], n=13)
    assert nothing.num_too_short == 1 and find_hits(nothing, [QUESTION]) == []
    assert build_index([], n=13).num_items == 0
    with pytest.raises(ConfigError, match="n=0"):
        build_index([], n=0)


def test_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [("b", str(number), " ".join(f"i{number}w{word}" for word in range(10 + number))) for number in range(10)]
    texts = [f"text {number} {items[number % 10][2]} end" for number in range(40)]
    whole = hits_of(items, texts)
    assert len(whole) == 40
    monkeypatch.setattr(shingles, "_CHUNK_CHARACTERS", 150)
    assert hits_of(items, texts) == whole


characters = st.sampled_from("abcXYZ 09,.;-\n\tßéİﬁ½…第ก\u0301\u0663\U0001f600\U00020000")


@settings(max_examples=200, deadline=None)
@given(st.text(characters, max_size=60))
def test_word_spans_are_the_words_that_are_hashed(text: str) -> None:
    normal = normalise(text)
    spans = word_spans(normal)
    ((hashes, _),) = text_units([text], "word")
    # not through text_units: a word by itself, normalised again, may change (a sharp s with an accent)
    alone = [shingles._chunk_units([normal[start:end]], "word")[0] for start, end in spans.tolist()]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.uint64), *alone]), hashes)
    assert all(end <= start for end, start in zip(spans[:-1, 1], spans[1:, 0], strict=True))


plain = st.text("abcdeXYZéßﬁİ第\U0001f600", min_size=1, max_size=5)
sequences = st.lists(plain, min_size=4, max_size=15)


@settings(max_examples=150, deadline=None)
@given(sequences, st.lists(plain, max_size=10), st.lists(plain, max_size=10), st.sampled_from([" ", "\n", ", ", " -- "]))
def test_a_planted_passage_is_always_found_and_shown(item: list[str], before: list[str], after: list[str], gap: str) -> None:
    text = " ".join([*before, "|", gap.join(item), "|", *after])
    (hit,) = hits_of([("b", "1", " ".join(item))], ["", text, "x"], n=4)
    assert hit.row == 1 and hit.share == 1.0
    passage, shown = (" ".join(normalise(found).replace(",", "").replace("--", "").split()) for found in (gap.join(item), hit.matched))
    assert passage in shown
    assert hit.matched in text


@settings(max_examples=100, deadline=None)
@given(*(st.lists(st.lists(st.sampled_from("abc"), max_size=size), max_size=4) for size in (8, 12)))
def test_counts_meet_the_plain_python_oracle(items: list[list[str]], texts: list[list[str]]) -> None:
    def grams(words: list[str], width: int) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}

    expected = []
    for row, text in enumerate(texts):
        for number, item in enumerate(items):
            own = grams(item, min(3, len(item))) if len(item) >= 2 else set()
            common = own & grams(text, min(3, len(item)))
            if common:
                expected.append((row, str(number), len(common), len(common) / len(own)))
    index = build_index([("b", str(number), " ".join(item)) for number, item in enumerate(items)], n=3, min_words=2)
    hits = find_hits(index, [" ".join(text) for text in texts])
    assert [(hit.row, hit.item, hit.num_grams, hit.share) for hit in hits] == expected
    for hit in hits:
        words, width = hit.matched.split(), min(3, len(items[int(hit.item)]))
        assert grams(words, width) <= grams(items[int(hit.item)], width)
