"""The edit memory against a plain dict, and what it promises by hand."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alignray.engine.embedders import HashEmbedder, Vectors
from alignray.errors import ConfigError, EngineError, RecordError
from alignray.memory import EditDraft, EditMemory, MemoryConfig, rebuild

HASH = HashEmbedder(64)


def config_of(folder: Path | str, **changes: object) -> MemoryConfig:
    return MemoryConfig.model_validate({"path": str(folder), "embedder": "hash", "fsync": False, **changes})


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory(config_of(tmp_path / "memory"), embedder=HASH) as opened:
        yield opened


def capital(country: str, city: str, **more: str) -> EditDraft:
    return EditDraft(country, f"The capital of {country} is", city, "capital", **more)  # type: ignore[arg-type]


def found_by(memory: EditMemory, query: str, **options: object) -> list[str]:
    return [scored.edit.target for scored in memory.top_k([query], **options)[0]]  # type: ignore[arg-type]


def test_the_nearest_edits_come_first_with_their_cosine(memory: EditMemory) -> None:
    """Of 3 words of the query all are among the 6 of the descriptor: 3 / sqrt(18)."""
    memory.add_many([capital("France", "Lyon"), EditDraft("x", "moon tide", "sea", descriptor="moon tide sea")])
    best = memory.top_k(["capital of france"], k=1)[0][0]
    assert best.edit.target == "Lyon" and best.score == pytest.approx(3 / math.sqrt(18), abs=1e-6)
    assert memory.top_k(["moon tide sea"])[0][0].score == pytest.approx(1, abs=1e-6)


def test_a_floor_leaves_out_what_is_unlike(memory: EditMemory) -> None:
    memory.add_many([capital("France", "Lyon"), capital("Spain", "Seville")])
    assert len(memory.top_k(["The capital of France is Lyon"])[0]) == 2
    assert found_by(memory, "The capital of France is Lyon", floor=0.9) == ["Lyon"]


def test_a_contradicting_edit_supersedes_and_says_so(memory: EditMemory) -> None:
    first = memory.add(capital("France", "Lyon"))
    second = memory.add(EditDraft("france ", "France's capital is", "Nice", "CAPITAL"))
    assert (first.outcome, second.outcome, second.contradicts) == ("added", "superseded", True)
    assert second.superseded is not None and second.superseded.superseded_by == second.edit.edit_id
    assert "'Lyon' gave way to 'Nice'" in second.note
    assert found_by(memory, "capital of France") == ["Nice"]
    old, new = memory.history("FRANCE", "capital")
    assert (old.target, old.ended_version, old.deleted, old.is_live) == ("Lyon", 2, False, False)
    assert (new.target, new.is_live) == ("Nice", True)


def test_without_a_relation_the_prompt_tells_the_fact(memory: EditMemory) -> None:
    memory.add(EditDraft("France", "The capital is", "Lyon"))
    memory.add(EditDraft("France", "The anthem is", "La Mer"))
    assert memory.add(EditDraft("France", "the  capital is", "Nice")).outcome == "superseded"
    assert [edit.target for edit in memory.history("France", prompt="The capital is")] == ["Lyon", "Nice"]
    with pytest.raises(RecordError, match="name the relation, or the prompt"):
        memory.history("France")


def test_the_same_edit_again_changes_nothing(memory: EditMemory) -> None:
    first = memory.add(capital("France", "Lyon"))
    again = memory.add(capital("France", "Lyon"))
    assert again.outcome == "unchanged" and again.edit == first.edit and memory.version == 1
    named = memory.add(capital("Spain", "Cadiz", edit_id="mine"))
    memory.delete("mine")
    retried = memory.add(capital("Spain", "Cadiz", edit_id="mine"))
    assert retried.outcome == "unchanged" and retried.edit.edit_id == named.edit.edit_id and not retried.edit.is_live
    with pytest.raises(RecordError, match=r"edit id 'mine' is that of another edit \('Cadiz'\)"):
        memory.add(capital("Spain", "Seville", edit_id="mine"))


def test_an_edit_that_comes_back_after_its_deletion_is_another_one(memory: EditMemory) -> None:
    first = memory.add(capital("France", "Lyon")).edit
    ended = memory.delete(first.edit_id)
    assert ended.deleted and ended.superseded_by is None and found_by(memory, "capital") == []
    assert memory.delete(first.edit_id) == ended and memory.version == 2
    second = memory.add(capital("France", "Lyon")).edit
    assert second.edit_id != first.edit_id and memory.num_live == 1
    with pytest.raises(RecordError, match="no edit has the id 'nobody'"):
        memory.delete("nobody")


def test_supersede_wants_the_live_edit_of_the_fact(memory: EditMemory) -> None:
    with pytest.raises(RecordError, match="no live edit of subject 'France', relation 'capital' to supersede; use add"):
        memory.supersede(capital("France", "Nice"))
    first = memory.add(capital("France", "Lyon")).edit
    second = memory.supersede(capital("France", "Nice"), edit_id=first.edit_id)
    assert second.outcome == "superseded"
    with pytest.raises(RecordError, match=f"'{second.edit.edit_id}' is; supersede that one"):
        memory.supersede(capital("France", "Metz"), edit_id=first.edit_id)


def test_a_batch_is_taken_whole_or_not_at_all(memory: EditMemory) -> None:
    memory.add(capital("Spain", "Cadiz", edit_id="mine"))
    with pytest.raises(RecordError, match="that of another edit"):
        memory.add_many([capital("France", "Lyon"), capital("Italy", "Turin", edit_id="mine")])
    assert (memory.version, memory.num_edits) == (1, 1)
    results = memory.add_many([capital("France", "Lyon"), capital("France", "Nice")])
    assert [result.outcome for result in results] == ["added", "superseded"] and memory.num_live == 2


def test_as_of_a_version_and_a_time(memory: EditMemory) -> None:
    first = memory.add(capital("France", "Lyon")).edit
    second = memory.add(capital("France", "Nice")).edit
    memory.delete(second.edit_id)
    assert [found_by(memory, "capital of France", as_of=version) for version in range(4)] == [[], ["Lyon"], ["Nice"], []]
    assert memory.top_k(["capital"], as_of=1)[0][0].edit.is_live
    before = datetime.fromtimestamp(first.time, UTC) - timedelta(seconds=1)
    assert found_by(memory, "capital of France", as_of=before) == []
    assert memory.version_at(datetime.now(UTC) + timedelta(seconds=1)) == 3
    with pytest.raises(RecordError, match="as of version 4: this memory has 0 to 3"):
        memory.top_k(["x"], as_of=4)
    with pytest.raises(RecordError, match="without its zone"):
        memory.top_k(["x"], as_of=datetime(2026, 1, 1))


def test_pages_hold_every_edit_once(memory: EditMemory) -> None:
    drafts = [capital(f"land {number}", "city") for number in range(7)]
    ids = [result.edit.edit_id for result in memory.add_many(drafts)]
    memory.delete(ids[2])
    seen, after = [], 0
    while True:
        page = memory.list_edits(after=after, limit=2)
        seen += [edit.edit_id for edit in page.edits]
        if page.next_after is None:
            break
        after = page.next_after
    assert seen == ids[:2] + ids[3:]
    assert [edit.edit_id for edit in memory.list_edits(include_ended=True).edits] == ids
    assert [edit.edit_id for edit in memory.list_edits(as_of=3).edits] == ids[:3]


def test_a_dry_run_names_the_queries_an_edit_would_reach(memory: EditMemory) -> None:
    lyon = memory.add(capital("France", "Lyon")).edit
    spain = memory.add(capital("Spain", "Cadiz")).edit
    queries = ["The capital of France is", "moon tide", "The capital of Spain is"]
    touches = memory.would_touch(capital("France", "Nice"), queries, k=1, floor=0.5)
    assert [(touch.query, touch.rank, touch.displaces) for touch in touches] == [(0, 1, lyon.edit_id)]
    touches = memory.would_touch(EditDraft("s", "The capital of Spain is", "x"), queries, k=1, floor=0.5)
    assert [(touch.query, touch.displaces) for touch in touches] == [(2, spain.edit_id)]
    assert memory.version == 2


def test_a_dry_run_tells_what_an_add_then_does(memory: EditMemory) -> None:
    memory.add_many([EditDraft(str(n), f"w{n} w{n + 1} w{n + 2}", "x") for n in range(30)])
    queries = [f"w{n} w{n + 3}" for n in range(30)]
    draft = EditDraft("new", "w5 w8 w9", "x")
    touches = {touch.query: touch for touch in memory.would_touch(draft, queries)}
    before = memory.top_k(queries)
    added = memory.add(draft).edit
    for at, after in enumerate(memory.top_k(queries)):
        ids = [scored.edit.edit_id for scored in after]
        assert (added.edit_id in ids) == (at in touches)
        if at in touches:
            assert ids[touches[at].rank - 1] == added.edit_id and after[touches[at].rank - 1].score == touches[at].score
            assert {scored.edit.edit_id for scored in before[at]} - set(ids) == {touches[at].displaces}


def test_the_key_decides_what_is_embedded(tmp_path: Path) -> None:
    with EditMemory(config_of(tmp_path, key="prompt"), embedder=HASH) as memory:
        memory.add(EditDraft("s", "moon tide", "sea", descriptor="ship rock"))
        assert memory.top_k(["moon tide"])[0][0].score == pytest.approx(1, abs=1e-6)


def test_query_vectors_serve_as_well_as_texts(memory: EditMemory) -> None:
    memory.add_many([capital("France", "Lyon"), capital("Spain", "Cadiz")])
    queries = ["capital of Spain", "France"]
    assert memory.top_k(HASH.embed(queries)) == memory.top_k(queries)
    with pytest.raises(RecordError, match=r"shape \(2, 3\); this memory compares finite ones of shape \(N, 64\)"):
        memory.top_k(np.zeros((2, 3), np.float32))
    assert memory.top_k([]) == []


@pytest.mark.parametrize(("draft", "said"), [
    (EditDraft("s", " ", "t"), "prompt is empty"), (EditDraft("s", "p", ""), "target is empty"),
    (EditDraft("s", "p", "\ud800"), "not storable"), (EditDraft("s", "p", "t", metadata={"a": object()}), "not storable"),
])
def test_what_cannot_be_kept_is_refused(memory: EditMemory, draft: EditDraft, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        memory.add(draft)
    assert memory.version == 0 and memory.get("\ud800") is None


class Moody:
    """An embedder that fails on a word, and gives what is no number on another."""

    name = "hash"

    def embed(self, texts: list[str]) -> Vectors:
        if any("bomb" in text for text in texts):
            raise EngineError("out of memory")
        return HASH.embed(texts) * (np.nan if any("nan" in text for text in texts) else 1)


def test_an_embedder_that_fails_leaves_the_memory_as_it_was(tmp_path: Path) -> None:
    with EditMemory(config_of(tmp_path), embedder=Moody()) as memory:
        memory.add(capital("France", "Lyon"))
        with pytest.raises(EngineError, match="out of memory"):
            memory.add(capital("France", "bomb"))
        with pytest.raises(EngineError, match="not numbers"):
            memory.add(capital("France", "nan"))
        assert found_by(memory, "France") == ["Lyon"] and memory.version == 1
        assert memory.add(capital("France", "Nice")).outcome == "superseded"


def test_another_embedder_or_key_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        memory.add(capital("France", "Lyon"))
        memory.add(capital("France", "Nice"))
    for changes in ({"embedder": "other"}, {"key": "prompt"}):
        with pytest.raises(ConfigError, match=r"made with .* alignray.memory.rebuild\(config\)"):
            EditMemory(config_of(tmp_path, **changes), embedder=HASH)
    with EditMemory(config_of(tmp_path), embedder=HashEmbedder(32)) as memory, pytest.raises(ConfigError, match="gives other vectors"):
        memory.top_k(["x"])


def test_a_rebuild_keeps_ids_versions_and_history(tmp_path: Path) -> None:
    with EditMemory(config_of(tmp_path), embedder=HASH) as memory:
        memory.add_many([capital("France", "Lyon"), capital("Spain", "Cadiz"), capital("France", "Nice")])
        memory.delete(memory.history("Spain", "capital")[0].edit_id)
        before = memory.list_edits(include_ended=True)
    reader = EditMemory(config_of(tmp_path), embedder=HASH, writable=False)
    changed = config_of(tmp_path, key="prompt")
    assert rebuild(changed, embedder=HashEmbedder(128)) == 3
    with EditMemory(changed, embedder=HashEmbedder(128)) as memory:
        assert memory.list_edits(include_ended=True) == before and memory.verify() == 4
        assert memory.top_k(["The capital of France is"])[0][0].score == pytest.approx(1, abs=1e-6)
    with pytest.raises(ConfigError, match="made with key = 'prompt'"):
        reader.refresh()
    with pytest.raises(ConfigError, match="none to rebuild"):
        rebuild(config_of(tmp_path / "nowhere"), embedder=HASH)


@pytest.mark.parametrize("backend", ["auto", "lists"])
def test_what_many_threads_add_is_found_at_once_and_there_once_each(tmp_path: Path, backend: str) -> None:
    """While the index, trained on a few words, takes in others."""
    errors: list[Exception] = []
    index = {"backend": backend, "flat_below": 20, "merge_at": 10}
    with EditMemory(config_of(tmp_path, snapshot_every=40, index=index), embedder=HASH) as memory:
        def work(worker: int) -> None:
            try:
                for number in range(40):
                    name = f"land{worker}x{number}"
                    result = memory.add(capital(name, "city"))
                    found = memory.top_k([f"The capital of {name} is city"], k=30)[0]  # other names share a vector
                    if result.edit not in [scored.edit for scored in found] or found[0].score < 1 - 1e-6:
                        raise AssertionError(name)
            except Exception as err:
                errors.append(err)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and memory.num_live == memory.version == memory.verify() == 320
        versions = [edit.version for edit in memory.list_edits(limit=1000).edits]
        assert versions == list(range(1, 321))


SUBJECTS = st.sampled_from([f"s{number}" for number in range(5)])
WORDS = st.sampled_from(["moon", "tide", "sea", "ship", "rock", "light"])


class AgainstDict(RuleBasedStateMachine):
    """Whatever is done, live edits, histories and nearest edits are those of a dict that is scanned."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        # a small index with a main part, so that merging is in it too
        self.config = config_of(self.folder.name, snapshot_every=7, index={"flat_below": 4, "merge_at": 3, "background": False,
                                                                          "backend": "lists", "probes": 64})
        self.memory = EditMemory(self.config, embedder=HASH)
        self.reader = EditMemory(self.config, embedder=HASH, writable=False)
        self.live: dict[str, tuple[str, str]] = {}
        self.past: list[dict[str, tuple[str, str]]] = [{}]
        self.histories: dict[str, list[str]] = {}

    def remember(self) -> None:
        self.past.append(dict(self.live))

    @rule(subject=SUBJECTS, word=WORDS)
    def add(self, subject: str, word: str) -> None:
        known = self.live.get(subject)
        result = self.memory.add(EditDraft(subject, f"{subject} has", word, "has"))
        if known is not None and known[1] == word:
            assert result.outcome == "unchanged" and result.edit.edit_id == known[0]
            return
        assert result.outcome == ("superseded" if known else "added")
        assert (result.superseded.edit_id if result.superseded else None) == (known[0] if known else None)
        self.live[subject] = (result.edit.edit_id, word)
        self.histories.setdefault(subject, []).append(word)
        self.remember()

    @rule(subject=SUBJECTS, word=WORDS)
    def supersede(self, subject: str, word: str) -> None:
        draft = EditDraft(subject, f"{subject} has", word, "has")
        if subject not in self.live:
            with pytest.raises(RecordError, match="no live edit"):
                self.memory.supersede(draft)
            return
        result = self.memory.supersede(draft, edit_id=self.live[subject][0])
        assert result.outcome == ("unchanged" if self.live[subject][1] == word else "superseded")
        if result.outcome == "superseded":
            self.live[subject] = (result.edit.edit_id, word)
            self.histories[subject].append(word)
            self.remember()

    @rule(subject=SUBJECTS)
    def delete(self, subject: str) -> None:
        if subject in self.live:
            assert self.memory.delete(self.live.pop(subject)[0]).deleted
            self.remember()

    @rule(is_clean=st.booleans())
    def restart(self, is_clean: bool) -> None:
        if is_clean:
            self.memory.close()
        else:
            for job in self.memory._jobs.values():
                job.join()
            self.memory._lock.release()  # type: ignore[union-attr]  # as a killed process leaves it
        self.memory = EditMemory(self.config, embedder=HASH)

    @rule(data=st.data())
    def as_of(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(0, len(self.past) - 1))
        page = self.memory.list_edits(as_of=version)
        assert {edit.edit_id for edit in page.edits} == {edit_id for edit_id, _ in self.past[version].values()}
        assert all(edit.is_live for edit in page.edits)
        self.compare(self.memory, self.past[version], version)

    @rule()
    def follow(self) -> None:
        self.reader.refresh()
        assert self.reader.version == self.memory.version
        self.compare(self.reader, self.live, None)

    def compare(self, memory: EditMemory, live: dict[str, tuple[str, str]], version: int | None) -> None:
        query = HASH.embed(["s1 has moon"])
        texts = {edit_id: f"{subject} has {word}" for subject, (edit_id, word) in live.items()}
        exact = sorted((float(HASH.embed([text])[0] @ query[0]) for text in texts.values()), reverse=True)[:3]
        found = memory.top_k(query, as_of=version)[0]
        assert [scored.score for scored in found] == pytest.approx(exact, abs=1e-6)
        assert {scored.edit.edit_id for scored in found} <= texts.keys()

    @invariant()
    def is_the_same(self) -> None:
        if not hasattr(self, "memory"):
            return
        assert self.memory.version == len(self.past) - 1 and self.memory.num_live == len(self.live)
        assert {edit.subject: (edit.edit_id, edit.target) for edit in self.memory.list_edits().edits} == self.live
        for subject, words in self.histories.items():
            assert [edit.target for edit in self.memory.history(subject, "has")] == words
        self.compare(self.memory, self.live, None)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            self.folder.cleanup()


TestAgainstDict = AgainstDict.TestCase
TestAgainstDict.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
