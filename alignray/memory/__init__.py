"""The edit memory (LTE, thesis chapter 5): edits found by likeness, with their history, safe on disk."""

from alignray.memory.config import IndexConfig, MemoryConfig
from alignray.memory.edit_memory import AsOf, EditMemory
from alignray.memory.rebuild import rebuild
from alignray.memory.records import EditDraft, EditPage, EditResult, MemoryEdit, ScoredEdit, Touch
from alignray.memory.store import Recovery

__all__ = [
    "AsOf", "EditDraft", "EditMemory", "EditPage", "EditResult", "IndexConfig", "MemoryConfig", "MemoryEdit", "Recovery", "ScoredEdit",
    "Touch", "rebuild",
]
