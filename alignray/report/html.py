"""report.html: one self-contained page about a run folder, from its files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignray.report.bridge_page import bridge_page
from alignray.report.construct_page import construct_page
from alignray.report.dedup_page import dedup_page
from alignray.report.edit_eval_page import edit_eval_page
from alignray.report.eval_page import eval_page
from alignray.report.lion_page import lion_page
from alignray.report.lte_page import lte_page
from alignray.report.page import environment
from alignray.report.run_folder import RunFolder, read_run, write_whole
from alignray.report.train_page import train_page
from alignray.report.webr_page import webr_page

PAGES: dict[str, tuple[str, Callable[[RunFolder], dict[str, Any]]]] = {
    "webr": ("webr.html", webr_page),
    "dedup": ("dedup.html", dedup_page),
    "bridge": ("bridge.html", bridge_page),
    "train": ("train.html", train_page),
    "evaluate": ("evaluation.html", eval_page),
    "followbench": ("evaluation.html", eval_page),
    "construct": ("construct.html", construct_page),
    "lion": ("lion.html", lion_page),
    "lte": ("lte.html", lte_page),
    "edit-eval": ("edit_eval.html", edit_eval_page),
}
"""Template and contents by method."""


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into the run folder, replacing an older one whole, and return its path.

    Works on a run that is running, failed or empty; what is not there yet is left out or shown as a dash.

    Raises:
        RecordError: not a run folder.
    """
    run = read_run(run_dir)
    return write_whole(run.path / "report.html", render_report(run))


def render_report(run: RunFolder) -> str:
    """The page as text; a run that does not say its method is shown as WebR."""
    template, contents = PAGES.get(str(run.manifest.get("method")), PAGES["webr"])
    return environment().get_template(template).render(contents(run))
