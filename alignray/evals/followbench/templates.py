"""The example category: whether an answer has the form of the template, and whether it says what the true one says."""

from __future__ import annotations

import re


def template_ends(target: str) -> tuple[str, str]:
    """What stands before and after the answer in a template of the official file."""
    form = target.replace("{instruction}\n", "").replace("{{", "{").replace("}}", "}")
    before, _, after = form.partition("{answer}")
    return before, after


def template_slot(answer: str, target: str) -> str | None:
    """What an answer puts into the template; None where it has another form."""
    before, after = template_ends(target)
    if len(answer) < len(before) + len(after) or not answer.startswith(before) or not answer.endswith(after):
        return None
    return answer[len(before) : len(answer) - len(after)]


def fills_template(answer: str, target: str) -> bool:
    """The authors' test: the template with any one line, or none, in the place of the answer."""
    slot = template_slot(answer, target)
    return slot is not None and "\n" not in slot


def answer_is_right(answer: str, target: str, gold: str) -> bool:
    """Whether the answer is in form (``fixed``) and says what the true one says; case, blanks and a final stop aside."""
    if not fills_strictly(answer, target, gold):
        return False
    said, meant = template_slot(answer.strip(), target), template_slot(gold.strip(), target)
    return said is not None and meant is not None and _plain(said) == _plain(meant)


def _plain(text: str) -> str:
    joined = " ".join(text.split()).casefold()
    return joined.removesuffix(".").removesuffix("。") or joined


_LABEL = re.compile(
    r"\s*(?:\[[^\]\n]{1,24}\]\s*\n|#[^#\n]{1,24}#\s*\n|<body>|\{'[^'\n]{1,24}': |"
    r"(?:the )?(?:answer|response|bot|ai assistant)(?: of the (?:bot|ai assistant))?(?: is)?: ?|"
    r"(?:答案|回复|机器人|AI助手|机器人的回复|AI助手的回复)是?[:：]|A[:：] ?)",
    re.IGNORECASE,
)


def fills_strictly(answer: str, target: str, gold: str) -> bool:
    """The mended test: an answer must be there, with lines only where the true one has them, and no label where there is none."""
    slot = template_slot(answer.strip(), target)
    if slot is None or not slot.strip():
        return False
    if gold and "\n" in slot.strip() and "\n" not in (template_slot(gold.strip(), target) or "").strip():
        return False
    return template_ends(target) != ("", "") or not _LABEL.match(slot) or bool(_LABEL.match(gold))
