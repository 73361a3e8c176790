"""Records of preference data: a pair, a supervised example, a pair whose two answers were bridged."""

from __future__ import annotations

from dataclasses import dataclass

from alignray.schema.chat import Message


@dataclass(frozen=True)
class PreferencePair:
    """One prompt with the answer that is preferred and the one that is not."""

    row_id: str
    prompt: tuple[Message, ...]
    """Ends with the user's turn."""
    chosen: str
    rejected: str
    source: str = ""


@dataclass(frozen=True)
class SftExample:
    """One chat to learn from; it ends with the assistant's turn."""

    row_id: str
    messages: tuple[Message, ...]
    source: str = ""


@dataclass(frozen=True)
class BridgeDraft:
    """A pair, or a question with its true answer, on its way through the bridging steps."""

    row_id: str
    prompt: tuple[Message, ...]
    chosen: str
    """The winning answer; in a pair built from a model's own answers, the true one."""
    rejected: str
    """The losing answer; empty until the student has answered, where pairs are built from its answers."""
    source: str = ""
    edited: str = ""
    """What the editor wrote."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class BridgedPair:
    """A pair to train on. ``prompt``, ``chosen`` and ``rejected`` are read again as any other pair's are."""

    row_id: str
    prompt: tuple[Message, ...]
    chosen: str
    """The winning answer to train on: the pseudo chosen one, where the losing answer was rewritten."""
    rejected: str
    """The losing answer to train on."""
    original_chosen: str
    original_rejected: str
    source: str
    task: str
    """qa, math or instruction."""
    variant: str
    """Row of Table 6.3: bridge, no_reference, degrade or plain."""
    edit_rate: float
    """Words inserted, deleted or replaced from ``rejected`` to ``chosen`` over the longer one's words, in [0, 1]."""
    original_edit_rate: float
    """The same between the two original answers."""
    copies_reference: bool
    """True where the editor gave the other original answer back and not an edited one."""
    model: str
    """The editor's; empty in plain pairs."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
