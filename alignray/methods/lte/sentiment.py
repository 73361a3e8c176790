"""Edit success of sentiment editing (ConvSent), from log-probabilities of replies.

Source: SERAC, arXiv:2206.06520, and its authors' code; EasyEdit takes it over ("es"). The
mean of a set of replies is over all their tokens, so long replies weigh more. We follow the definition where EasyEdit's port for decoder
models does not: that one compares each logit with the token at its own place and not the next, counts padding, and leaves out the
beginning of every reply up to where the longest question of the batch ends. Locality is that of the other data sets, not SERAC's
divergence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from alignray.schema import Answer, Edit, Probe, SentimentEdit

KIND = "Other_Topic"
"""Of questions of locality."""


@dataclass(frozen=True)
class RatedReply:
    """A reply in scope, to be measured by how likely it is."""

    query: str
    text: str
    is_wanted: bool
    """Whether it has the sentiment that the edit is for."""
    prompt: str
    """The user's turn as the model gets it: the bare query, until edits are put before it."""


@dataclass(frozen=True)
class OpinionEdit(Edit):
    """A sentiment edit in the form of all edits. Its one fact is the descriptor, so what memory and prompts hold has no reply in it."""

    replies: tuple[RatedReply, ...] = ()


def as_edit(record: SentimentEdit) -> OpinionEdit:
    """Fine-tuning gets the prompt and the first wanted reply; replies about the other topic are questions of locality."""
    return OpinionEdit(
        row_id=record.row_id, source="convsent", subject=record.topic, relation="sentiment", prompt=record.prompt, target=record.target,
        facts=(record.descriptor,), locality=tuple(Probe(KIND, one.prompt, (Answer(one.reply),)) for one in record.out_of_scope),
        replies=tuple(RatedReply(one.prompt, one.reply, one.sentiment == record.sentiment, one.prompt) for one in record.in_scope),
    )


@dataclass(frozen=True)
class SentimentSuccess:
    """Both parts of edit success, each in [0, 1]."""

    sentiment: float
    """Whether replies of the wanted sentiment have become likelier than the others; 0.5 where both are equally likely."""
    topic: float
    """Whether they are still as likely as before the edit: 1, or how many times less likely a token of them is on geometric average."""

    @property
    def value(self) -> float:
        """Edit success."""
        return self.sentiment * self.topic


def sentiment_success(
    wanted_before: Sequence[Sequence[float]], wanted_after: Sequence[Sequence[float]], unwanted_after: Sequence[Sequence[float]],
) -> SentimentSuccess:
    """sigmoid(wanted_after - unwanted_after) and min(1, exp(wanted_after - wanted_before)), of means over tokens.

    Args:
        wanted_before: for each reply of the wanted sentiment, the natural logs of its tokens' probabilities behind its question, by the
            model without the edit.
        wanted_after: of the same replies, with the edit.
        unwanted_after: of the replies of the other sentiment, with the edit.

    Raises:
        ValueError: one has no token or a value that is not finite, or the first two are not of the same tokens.
    """
    if [len(reply) for reply in wanted_before] != [len(reply) for reply in wanted_after]:
        raise ValueError("wanted_before and wanted_after are not of the same tokens; score the same replies with both models")
    before, after, other = map(token_mean, (wanted_before, wanted_after, unwanted_after))
    return SentimentSuccess(_sigmoid(after - other), math.exp(min(0.0, after - before)))


def token_mean(replies: Sequence[Sequence[float]]) -> float:
    """Mean over all tokens of all replies.

    Raises:
        ValueError: there is no token, or a value is not finite.
    """
    values = list(chain.from_iterable(replies))
    if not values:
        raise ValueError(f"{len(replies)} replies hold no token; leave the edit out of the mean")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"one of {len(values)} tokens has a value that is not finite; take log-probabilities in float32")
    return math.fsum(values) / len(values)


def _sigmoid(value: float) -> float:
    small = math.exp(-abs(value))
    return 1 / (1 + small) if value >= 0 else small / (1 + small)
