"""Queries of an edit: those it bears on, those it does not, free text; each becomes a pair of examples with and without the edit prompt.

Source: thesis chapter 5 and appendix C (which data set gives what); shares and numbers that only the authors' notebook has are
``ScopeConfig``.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from alignray.methods.lte.config import Form, LTEConfig, ScopeConfig
from alignray.methods.lte.render import render_prompt
from alignray.methods.lte.steps import ANSWER, OUT_OF_SCOPE, PLAIN, QUERY, VERIFY
from alignray.methods.lte.threefold import Shown
from alignray.schema import Answer, Edit, EditDraft, EditExample, Message, PlainQuery, Probe
from alignray.schema.lte import Scope
from alignray.seeding import draw, pick, row_id_of, unit_draw

BARE = "bare"
"""Style of an example without the edit prompt."""
NOTES = {
    "no_plain_answer": "in-scope queries left out: the file does not say what holds without the edit (plain_answers: drop)",
    "no_plain_query": "edits without an out-of-scope query: there were fewer plain queries (Evol-Instruct) than edits that want one",
    "no_earlier_query": "edits without an out-of-scope query: no other data set gave one to borrow (earlier_share)",
    "no_locality": "edits without an out-of-scope query: the file has none for them",
}
"""What ``build_drafts`` counts."""


def build_drafts(
    edits: Sequence[Edit], plain_queries: Sequence[PlainQuery], config: LTEConfig, *, seed: int, notes: Counter[str] | None = None,
) -> list[EditDraft]:
    """All pairs that edits can give, before quotas; the same ones whatever the order of the input.

    Args:
        notes: grows by what was left out (``NOTES``).
    """
    notes = notes if notes is not None else Counter()
    scopes = config.scopes
    in_scope = [draft for edit in edits for draft in in_scope_drafts(edit, scopes, seed=seed, notes=notes)]
    own = [draft for edit in edits for draft in out_of_scope_drafts(edit, scopes, notes=notes)]
    return [*in_scope, *own, *_borrowed(edits, own, plain_queries, scopes, seed, notes)]


# ---- queries that the edit bears on


def in_scope_drafts(edit: Edit, config: ScopeConfig, *, seed: int, notes: Counter[str]) -> list[EditDraft]:
    """In-scope or free-text drafts of one edit, by the rule of its data set."""
    if edit.source == "counterfact":
        drafts = [_free_text(edit, config)]
    else:
        drafts = [_draft(edit, "in_scope", *query) for query in _IN_SCOPE[edit.source](edit, config, seed)]
    if config.plain_answers == "drop":
        kept = [draft for draft in drafts if PLAIN not in draft.asks]
        notes["no_plain_answer"] += len(drafts) - len(kept)
        return kept
    return drafts


Query = tuple[str, str, str, str]
"""Aspect, query, answer with the edit, answer without it ("" where the file has none)."""


def _edit_query(edit: Edit) -> Query:
    return "edit", edit.prompt, edit.target, _first(edit.ground_truth)


def _is_asked_directly(edit: Edit, config: ScopeConfig, seed: int) -> bool:
    return unit_draw(seed, edit.row_id, "lte/edit_prompt") < config.edit_prompt_share


def _of_zsre(edit: Edit, config: ScopeConfig, seed: int) -> Iterator[Query]:
    if edit.rephrases and not _is_asked_directly(edit, config, seed):
        rephrase = pick(seed, edit.row_id, "lte/rephrase", edit.rephrases)
        yield "rephrase", rephrase, edit.target, _first(edit.ground_truth)
    else:
        yield _edit_query(edit)


def _of_wiki_counterfact(edit: Edit, config: ScopeConfig, seed: int) -> Iterator[Query]:
    if edit.portability and not _is_asked_directly(edit, config, seed):
        yield from _portability(edit)
    else:
        yield _edit_query(edit)


def _of_wiki_recent(edit: Edit, config: ScopeConfig, seed: int) -> Iterator[Query]:
    yield _edit_query(edit)
    yield from _portability(edit)


def _of_wikibio(edit: Edit, config: ScopeConfig, seed: int) -> Iterator[Query]:
    yield _edit_query(edit)


def _of_mquake(edit: Edit, config: ScopeConfig, seed: int) -> Iterator[Query]:
    """One of the case's questions; the answer, then the hops that lead there."""
    probe: Probe = pick(seed, edit.row_id, "lte/question", edit.portability)
    yield (
        probe.kind, probe.prompt, _with_chain(probe.answers, edit.chain), _with_chain(edit.original_answers, edit.original_chain),
    )


_IN_SCOPE: dict[str, Callable[[Edit, ScopeConfig, int], Iterator[Query]]] = {
    "zsre": _of_zsre, "wiki_counterfact": _of_wiki_counterfact, "wiki_recent": _of_wiki_recent, "wikibio": _of_wikibio,
    "mquake": _of_mquake,
}


def _portability(edit: Edit) -> Iterator[Query]:
    for probe in edit.portability:
        # the subject under another name: what held of it before is known
        plain = _first(edit.ground_truth) if probe.kind == "Subject_Aliasing" else ""
        yield probe.kind, probe.prompt, _first(probe.answers), plain


def _with_chain(answers: Sequence[Answer], chain: str) -> str:
    return "\n".join(text for text in (_first(answers), chain) if text) if answers else ""


def _first(answers: Sequence[Answer]) -> str:
    return answers[0].text if answers else ""


def _free_text(edit: Edit, config: ScopeConfig) -> EditDraft:
    if config.free_text == "file":
        query = edit.question or (edit.rephrases[0] if edit.rephrases else edit.prompt)
        return _draft(edit, "free_text", "file", query, edit.target, _first(edit.ground_truth))
    asks = (QUERY, ANSWER, *((VERIFY,) if config.verify else ()), PLAIN)
    return dataclasses.replace(_draft(edit, "free_text", "model", "", "", ""), asks=asks)


# ---- queries that it does not bear on


def out_of_scope_drafts(edit: Edit, config: ScopeConfig, *, notes: Counter[str]) -> list[EditDraft]:
    """Out-of-scope drafts of one edit from its own record; MQuAKE and COUNTERFACT mostly have none of their own."""
    if edit.source == "counterfact" and config.out_of_scope == "model":
        return [dataclasses.replace(_draft(edit, "out_of_scope", "model", "", "", ""), asks=(OUT_OF_SCOPE,))]
    if edit.source == "mquake" or (edit.source == "counterfact" and config.out_of_scope == "plain"):
        return []
    probes = _own_locality(edit, config)
    notes["no_locality"] += not probes
    return [_draft(edit, "out_of_scope", probe.kind, probe.prompt, *([_first(probe.answers)] * 2)) for probe in probes]


def _own_locality(edit: Edit, config: ScopeConfig) -> list[Probe]:
    if edit.source == "wikibio":
        return list(edit.locality[:1])
    if edit.source != "wiki_recent":
        return list(edit.locality)
    seen: Counter[str] = Counter()
    kept = []
    for probe in edit.locality:
        seen[probe.kind] += 1
        if seen[probe.kind] <= config.locality_per_kind:
            kept.append(probe)
    return kept


def _borrowed(
    edits: Sequence[Edit], own: Sequence[EditDraft], plain_queries: Sequence[PlainQuery], config: ScopeConfig, seed: int,
    notes: Counter[str],
) -> Iterator[EditDraft]:
    """Out-of-scope drafts of edits that have no queries of their own: other data sets', or plain ones, each of those once."""
    # a digest of a query in the order of a seeded draw: no order of the input matters
    earlier = sorted(
        (draft for draft in own if draft.query and draft.source not in ("mquake", "counterfact")), key=lambda draft: draft.row_id,
    )
    plain = iter(sorted(plain_queries, key=lambda query: (draw(seed, query.row_id, "lte/plain"), query.row_id)))
    wanting = [edit for edit in edits if edit.source == "mquake" or (edit.source == "counterfact" and config.out_of_scope == "plain")]
    for edit in sorted(wanting, key=lambda edit: (draw(seed, edit.row_id, "lte/borrow"), edit.row_id)):
        if edit.source == "mquake" and unit_draw(seed, edit.row_id, "lte/earlier") < config.earlier_share:
            if not earlier:
                notes["no_earlier_query"] += 1
                continue
            other: EditDraft = pick(seed, edit.row_id, "lte/earlier_query", earlier)
            yield _draft(edit, "out_of_scope", "earlier", other.query, other.answer, other.plain_answer)
        elif (query := next(plain, None)) is not None:
            yield _draft(edit, "out_of_scope", "plain", query.query, query.answer, query.answer)
        else:
            notes["no_plain_query"] += 1


def _draft(edit: Edit, kind: Scope, aspect: str, query: str, answer: str, plain_answer: str) -> EditDraft:
    asks = (PLAIN,) if query and not plain_answer else ()
    row_id = row_id_of("lte/draft", edit.row_id, kind, aspect, query)
    return EditDraft(row_id, edit.row_id, edit.source, kind, aspect, edit.facts, edit.subject, query, answer, plain_answer, asks)


# ---- examples


def examples_of(
    draft: EditDraft, shown: Shown, *, form: Form, prompts_dir: str | None = None,
) -> tuple[EditExample, EditExample]:
    """The two training examples of a finished draft: with the edit prompt, then without it."""
    prompt = render_prompt(shown.facts, draft.query, form=form, prompts_dir=prompts_dir)
    prompted = EditExample(
        row_id=row_id_of("lte/example", draft.row_id, "with"), pair_id=draft.row_id, edit_id=draft.edit_id, source=draft.source,
        kind=draft.kind, aspect=draft.aspect, with_prompt=True, query=draft.query, answer=draft.answer, facts=shown.facts,
        places=shown.places, retrieved=shown.retrieved, style=shown.style, messages=_chat(prompt, draft.answer),
        prompt_tokens=draft.prompt_tokens, completion_tokens=draft.completion_tokens, cost_usd=draft.cost_usd,
    )
    bare = dataclasses.replace(
        prompted, row_id=row_id_of("lte/example", draft.row_id, "without"), with_prompt=False, answer=draft.plain_answer, facts=(),
        places=(), retrieved=(), style=BARE, messages=_chat(draft.query, draft.plain_answer), prompt_tokens=0, completion_tokens=0,
        cost_usd=0.0,
    )
    return prompted, bare


def _chat(prompt: str, answer: str) -> tuple[Message, ...]:
    return Message("user", prompt), Message("assistant", answer)
