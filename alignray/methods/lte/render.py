"""The one way in which facts and a query become a prompt, for training, evaluation and serving alike.

Source: thesis chapter 5 for the form of its own; the originals' forms are those of the authors' three programs, whose lead-in
sentence is put in our own words (``alignray.prompts``). Shadow ``lte/original_question`` and ``lte/original_query`` under
``prompts.dir`` with theirs for checkpoints that were trained on it: ``is_authors_lead_in`` tells whether the sentence is theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from alignray.methods.lte.config import Form
from alignray.prompts import load_prompt

PROMPTS: dict[Form, str] = {
    "thesis": "lte/thesis", "original_train": "lte/original_question", "original_seqedit": "lte/original_question",
    "original_easyedit": "lte/original_query", "ice": "lte/ice",
}
"""The prompt of every form."""
AUTHORS_LEAD_INS: dict[Form, str] = {
    "original_train": "6e0ee8bbfefca3f75e5d6c9a5c350bf765018ef3b67a2635f2bd9c4bd3e6caf9",
    "original_seqedit": "6e0ee8bbfefca3f75e5d6c9a5c350bf765018ef3b67a2635f2bd9c4bd3e6caf9",
    "original_easyedit": "2920ef55472da030aa3124ddb424c0b0dd16b4f3d2013ab127a356b6b0152bfd",
}
"""SHA-256 of the authors' sentence in each of their forms."""
AUTHORS_WRAPPERS = {
    "complete_sentence": "eadbffdc084a7c27d1aba696f43ca56c76026255070c225014056c184c5c52df",
    "complete_text": "dae3ff48de50de6b7bf2b7f0d0090bba76f505cd9cb2a98e9e5e33197d246eea",
    "answer_question": "e6986ab063f6f331204e258aa35b0f8af7d56be57f75179b1c1cda7f41567b81",
}
"""SHA-256 of the authors' sentence before a query whose answer without the edit is asked for."""


def render_prompt(facts: Sequence[str], query: str, *, form: Form = "thesis", prompts_dir: str | None = None) -> str:
    """The user's turn for a query with the facts that were found for it; the query alone where there are none."""
    if not facts:
        return query
    return load_prompt(PROMPTS[form], prompts_dir).render(facts=fact_list(facts), query=query)


def fact_list(facts: Sequence[str]) -> str:
    """One fact as it is; several as numbered lines."""
    if len(facts) == 1:
        return facts[0]
    return "\n".join(f"{number}. {fact}" for number, fact in enumerate(facts, start=1))


def lead_in(form: Form, prompts_dir: str | None = None) -> str:
    """What stands before the first blank line of a form's prompt; nothing in the thesis' form."""
    before, blank, _ = load_prompt(PROMPTS[form], prompts_dir).text.partition("\n\n")
    return before if blank else ""


def is_authors_lead_in(form: Form, prompts_dir: str | None = None) -> bool:
    """Whether a form's lead-in is the authors' to the byte: then their checkpoints see what they were trained on."""
    return hashlib.sha256(lead_in(form, prompts_dir).encode()).hexdigest() == AUTHORS_LEAD_INS.get(form)


def is_authors_wrapper(name: str, prompts_dir: str | None = None) -> bool:
    """The same for what stands before a query that is asked without an edit: complete_sentence, complete_text, answer_question."""
    before = load_prompt(f"lte/{name}", prompts_dir).text.partition("\n\n")[0]
    return hashlib.sha256(before.encode()).hexdigest() == AUTHORS_WRAPPERS[name]
