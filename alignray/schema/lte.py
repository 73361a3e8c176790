"""Records of LTE: an edit, a training pair on its way through the steps, one finished training example (thesis chapter 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignray.schema.chat import Message

EditSource = Literal["zsre", "wiki_recent", "wiki_counterfact", "wikibio", "mquake", "counterfact", "convsent"]
"""The data set an edit comes from; convsent's change an opinion, and are there to evaluate by alone."""
Scope = Literal["in_scope", "out_of_scope", "free_text"]
"""Whether the edit bears on the query; free_text: it does, and a model wrote both query and answer."""


@dataclass(frozen=True)
class Answer:
    """One thing that may, or must, be answered."""

    text: str
    aliases: tuple[str, ...] = ()
    """Other ways to write it."""


@dataclass(frozen=True)
class Probe:
    """A question to an edited model beside the edit itself, and what it should answer."""

    kind: str
    """As the file names it: Reasoning, Subject_Aliasing, Logical_Generalization; Relation_Specificity, Forgetfulness ..."""
    prompt: str
    answers: tuple[Answer, ...]
    """At least one. Several stand for several things that are all true (the siblings of somebody)."""


@dataclass(frozen=True)
class Rewrite:
    """One fact that is changed."""

    subject: str
    relation: str
    """The file's id of it (P175), else the prompt with {} for the subject."""
    prompt: str
    target: str
    question: str = ""
    """The prompt put as a question, where the file has it."""
    ground_truth: tuple[Answer, ...] = ()
    """What held before."""

    @property
    def fact(self) -> str:
        """The edit descriptor: prompt and target."""
        return f"{self.prompt} {self.target}"


@dataclass(frozen=True)
class Edit:
    """One case of an editing data set: what is changed, and what else is asked to evaluate it."""

    row_id: str
    source: EditSource
    subject: str
    relation: str
    """As in ``Rewrite``; of WikiBio the text that is continued."""
    prompt: str
    target: str
    facts: tuple[str, ...]
    """Edit descriptors: one, or of MQuAKE one per rewrite of the case."""
    question: str = ""
    """The edit put as a question, where the file has it."""
    ground_truth: tuple[Answer, ...] = ()
    """What held before the edit; none where the file does not say."""
    further: tuple[Rewrite, ...] = ()
    """The other rewrites of an MQuAKE case."""
    rephrases: tuple[str, ...] = ()
    portability: tuple[Probe, ...] = ()
    locality: tuple[Probe, ...] = ()
    chain: str = ""
    """MQuAKE's hops to the answer after the edit, each "cloze answer."; empty elsewhere."""
    original_chain: str = ""
    """The same before the edit."""
    original_answers: tuple[Answer, ...] = ()
    """What MQuAKE's questions were answered with before the edit."""
    case_id: str = ""
    """The file's own id."""

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """All facts of the case, the first one included."""
        first = Rewrite(self.subject, self.relation, self.prompt, self.target, self.question, self.ground_truth)
        return (first, *self.further)


@dataclass(frozen=True)
class PlainQuery:
    """A question that no edit bears on, with an answer where the file has one."""

    row_id: str
    query: str
    answer: str = ""
    source: str = ""


@dataclass(frozen=True)
class EditDraft:
    """A query to an edit with both its answers: the pair of training examples that it becomes, with and without the edit prompt."""

    row_id: str
    edit_id: str
    source: EditSource
    kind: Scope
    aspect: str
    """Where the query comes from: edit, rephrase, a kind of probe, nq, plain, earlier or model."""
    facts: tuple[str, ...]
    """Descriptors of the edit."""
    subject: str
    query: str = ""
    answer: str = ""
    """With the edit prompt; of an out-of-scope query without it as well."""
    plain_answer: str = ""
    """Without the edit prompt."""
    asks: tuple[str, ...] = ()
    """Names of the steps that a model must still be asked: lte/query, lte/answer ..."""
    reply: str = ""
    """The verifier's last reply."""
    verdict: bool | None = None
    """What it says; None where nothing was verified or it could not be read."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class EditExample:
    """One training example; ``messages`` is what is trained on."""

    row_id: str
    pair_id: str
    """Of the draft; the example with the edit prompt and the one without it share it."""
    edit_id: str
    source: EditSource
    kind: Scope
    aspect: str
    with_prompt: bool
    query: str
    answer: str
    facts: tuple[str, ...]
    """Shown, in the order in which they stand in the prompt; none without it."""
    places: tuple[str, ...]
    """For every fact shown, the id of the edit it belongs to."""
    retrieved: tuple[str, ...]
    """Ids of the neighbours among them, the most similar first."""
    style: str
    """exact_only, exact_and_1 or exact_and_2, as drawn; bare without the edit prompt."""
    messages: tuple[Message, ...]
    prompt_tokens: int = 0
    """What the pair cost, on the example with the edit prompt."""
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class EditScore:
    """One question to an edited model, what it was shown, and how it did (thesis 5.2)."""

    row_id: str
    method: str
    """As the config names it."""
    source: EditSource
    mode: Literal["single", "batch", "sequential"]
    """How many edits there are at once: one, a batch that is loaded before any question, or a stream."""
    size: int
    """Edits of the batch or stream."""
    when: Literal["", "at_insertion", "final"]
    """Of a stream: right after the record's own edit, or after all of them."""
    edit_id: str
    aspect: Literal["edit", "rephrase", "portability", "locality"]
    """edit and rephrase are edit success."""
    kind: str
    """Of portability and locality, as the file names it; else the aspect."""
    query: str
    target: str
    prompt: str
    """The user's turn as the model got it."""
    retrieved: tuple[str, ...] = ()
    """Ids of the edits in the prompt, the most similar first."""
    token_score: float = 0.0
    """Share of the target's tokens that are the most likely ones when all before them are given; of locality, the share on which the
    edited model says what it said before the edit; of convsent's edits their edit success."""
    exact_score: float = 0.0
    """1 where all of them are, else 0 (Eq 5.1); of convsent's edits 1 where wanted replies are likelier than the others."""
    said: str = ""
    """The free-running answer, where one was asked for."""
    said_score: float | None = None
    """1 where it begins with the target or an alias, else 0; None where none was asked for, of locality, and of convsent."""
    fluency: float | None = None
    """Of the continuation of the prompt with its edit, where one was asked for."""
    fluency_original: float | None = None
    """Of the bare prompt and its continuation together, as the authors measure it."""
    edit_seconds: float = 0.0
    """To make the edits that the model was asked with, divided by their number."""
    answer_seconds: float = 0.0
    """To score this question, of convsent's edits one of its replies; those of a forward pass share its time."""
