"""README.md of a run folder: the dataset card, which also tells ``datasets.load_dataset`` what to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alignray.report.bridge_card import bridge_card
from alignray.report.construct_card import construct_card
from alignray.report.dedup_card import dedup_card
from alignray.report.edit_eval_card import edit_eval_card
from alignray.report.eval_card import eval_card
from alignray.report.lion_card import lion_card
from alignray.report.lte_card import lte_card
from alignray.report.run_folder import RunFolder, read_run, write_whole
from alignray.report.train_card import train_card
from alignray.report.webr_card import webr_card

CARDS: dict[str, Callable[[RunFolder], str]] = {
    "webr": webr_card, "dedup": dedup_card, "bridge": bridge_card, "train": train_card, "evaluate": eval_card, "followbench": eval_card,
    "construct": construct_card, "lion": lion_card, "lte": lte_card, "edit-eval": edit_eval_card,
}


def write_card(run_dir: str | Path) -> Path:
    """Write the dataset card into the run folder, replacing an older one whole, and return its path.

    Raises:
        RecordError: not a run folder.
    """
    run = read_run(run_dir)
    card = CARDS.get(str(run.manifest.get("method")), webr_card)
    return write_whole(run.path / "README.md", card(run))
