"""Records of sentiment editing (ConvSent): how a model is to speak of a topic, with replies of both sentiments to measure it by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sentiment = Literal["positive", "negative"]


@dataclass(frozen=True)
class Opinion:
    """A reply to a question about a topic."""

    prompt: str
    reply: str
    sentiment: Sentiment
    """Of the reply."""


@dataclass(frozen=True)
class SentimentEdit:
    """One edit of a model's opinion. Source: SERAC (arXiv:2206.06520), data set ConvSent; thesis 5.4 takes it as out of distribution."""

    row_id: str
    topic: str
    sentiment: Sentiment
    """Wanted from the edited model, about this topic and no other."""
    descriptor: str
    """The edit as a model is told it; no reply is in it."""
    prompt: str
    """A question about the topic, for an answer of the model's own."""
    in_scope: tuple[Opinion, ...]
    """All replies about the topic, of both sentiments, at least one of each; edit success is measured on them."""
    other_topic: str = ""
    """Of ``out_of_scope``; empty in a file with one topic."""
    out_of_scope: tuple[Opinion, ...] = ()
    """All replies about another topic of the file, on which the model is to stay as it is (locality)."""

    @property
    def wanted(self) -> tuple[Opinion, ...]:
        """Those in scope that have the wanted sentiment."""
        return tuple(opinion for opinion in self.in_scope if opinion.sentiment == self.sentiment)

    @property
    def unwanted(self) -> tuple[Opinion, ...]:
        """Those in scope that have the other one."""
        return tuple(opinion for opinion in self.in_scope if opinion.sentiment != self.sentiment)

    @property
    def target(self) -> str:
        """What fine-tuning trains as the answer to ``prompt``: the first wanted reply, which is measured too, as in EasyEdit."""
        return self.wanted[0].reply
