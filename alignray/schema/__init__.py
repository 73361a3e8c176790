"""Typed records that cross doors, and their Arrow columns."""

from alignray.schema.chat import ChatRequest, Completion, Conversation, Message, Rejected
from alignray.schema.evals import ConstructedItem, EvalDraft, Figure, Reply, Score, ScoredItem
from alignray.schema.lion import Candidate, LionDraft, LionRow, Review
from alignray.schema.lte import Answer, Edit, EditDraft, EditExample, EditScore, PlainQuery, Probe, Rewrite
from alignray.schema.preferences import BridgedPair, BridgeDraft, PreferencePair, SftExample
from alignray.schema.rows import arrow_schema, from_row, records_of, table_of, to_row
from alignray.schema.sentiment import Opinion, SentimentEdit
from alignray.schema.webr import InstructionRow, WebDocument, WebRDraft

__all__ = [
    "Answer", "BridgeDraft", "BridgedPair", "Candidate", "ChatRequest", "Completion", "ConstructedItem", "Conversation", "Edit",
    "EditDraft", "EditExample", "EditScore", "EvalDraft", "Figure", "InstructionRow", "LionDraft", "LionRow", "Message", "Opinion",
    "PlainQuery", "PreferencePair", "Probe", "Rejected", "Reply", "Review", "Rewrite", "Score", "ScoredItem", "SentimentEdit", "SftExample",
    "WebDocument", "WebRDraft", "arrow_schema", "from_row", "records_of", "table_of", "to_row",
]
