"""A fake model: free, fast, and the same answer to the same messages in every process.

A request with a JSON schema gets a value that follows it. Only a new request that is made from another follows the request's seed.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import random
import re
from collections.abc import Sequence
from typing import Any

import orjson

from alignray.engine.base import Admit
from alignray.engine.configs import ScriptedConfig
from alignray.errors import CallRefused
from alignray.schema import ChatRequest, Completion, Message
from alignray.schema.tokens import estimate_tokens

OPTIONS_MARKER = "Answer with one of:"
"""A last message that holds this gets one of the comma-separated options on the rest of that line, and nothing else."""
REFERENCE_MARKER, EDIT_MARKER, END_MARKER = "\n[Reference answer]\n", "\n[Answer to edit]\n", "\n\n[End of the answer]\n"
"""A last message with these gets the marked answer back with the reference's last line, and its words where both have but one line;
a verdict that is asked for is given where both end with the same line."""
VERDICT = "[[GOOD]]"
SCORES_MARKER = "Score of the Assistant 1: <score>"
"""A last message with this gets two scores from 1 to 10; that of an answer between the marks below is the same wherever it stands."""
ANSWER_START, ANSWER_END = "[The Start of Assistant {}'s Answer]\n", "\n[The End of Assistant {}'s Answer]"
GIVEN_MARKER, CREATED_MARKER = "#Given Instruction#:\n", "#Created Instruction#:"
"""A last message that ends with the second gets a new request, from words of what stands behind the first."""
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request.",
    "As an AI language model, I am unable to provide that.",
    "I apologize, but I can't fulfill this request.",
)
OPENERS = (
    "Explain why", "Describe how", "Compare", "Summarize what", "List the reasons for", "Write about", "Outline how",
    "Discuss whether", "Give an example of", "Identify what", "Suggest how to use", "Rewrite the part on", "Analyze how",
    "Design a plan for", "Evaluate", "Show that", "Argue against", "Define", "Plan around", "Draft a note on",
    "Review how", "Clarify", "Find out when", "Name what",
)
LINKS = (
    "In practice,", "For example,", "This matters because", "At the same time,", "A reader may ask about", "Note that",
    "More precisely,", "By contrast,", "One source says", "It follows that", "In short,", "The point is that",
    "First,", "Later on,", "Most people find", "On the whole,",
)
FALLBACK_WORDS = [
    "plain", "answers", "from", "a", "scripted", "model", "that", "was", "given", "nothing", "to", "read", "about", "rivers",
    "trees", "markets", "schools", "and", "songs",
]
WINDOW = 360
"""Characters of the prompt that an answer borrows from, in each of two places."""
TAIL = 240
"""Characters at the end of the prompt, where the question stands."""


class ScriptedEngine:
    """Answers from the words of the prompt. ``engine.num_calls`` counts the requests."""

    def __init__(self, config: ScriptedConfig) -> None:
        self.config = config
        self.num_calls = 0

    @property
    def max_records(self) -> int:
        return self.config.max_in_flight

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, request: ChatRequest, admit: Admit | None = None) -> Completion:
        """Answer from the prompt's words; it never sends anything twice."""
        config = self.config
        self.num_calls += 1
        if config.latency_s:
            await asyncio.sleep(config.latency_s)
        digest = _digest(request.messages, config.seed)
        if config.fail_rate and _unit(digest, 48) < config.fail_rate:
            raise CallRefused("scripted", "the scripted engine refuses this call, as its fail_rate asks")
        cap = request.max_new_tokens or 1024
        text, is_cut = _answer(request.messages, digest, cap, config.refusal_rate, config.length_rate, request.seed or 0)
        if config.garble_rate and SCORES_MARKER in request.messages[-1].content and _unit(digest, 60) < config.garble_rate:
            text = "Both have their points, and a number would not do them justice."
        if request.json_schema and not is_cut and text not in REFUSALS:
            text = _following(orjson.loads(request.json_schema), digest)
        return Completion(
            text=text,
            finish_reason="length" if is_cut else "stop",
            prompt_tokens=sum(estimate_tokens(message.content) for message in request.messages),
            completion_tokens=estimate_tokens(text),
            model="scripted",
            latency_s=config.latency_s,
        )

    async def close(self) -> None:
        """Nothing to let go of."""


def scripted_text(
    messages: Sequence[Message], *, seed: int = 0, max_new_tokens: int = 1024, schema: dict[str, Any] | None = None,
) -> str:
    """The answer of a ScriptedEngine that neither refuses nor fails."""
    digest = _digest(messages, seed)
    return _answer(messages, digest, max_new_tokens, 0.0, 0.0)[0] if schema is None else _following(schema, digest)


def _digest(messages: Sequence[Message], seed: int) -> bytes:
    """64 bytes fixed by roles, texts and seed; every choice below takes its own slice."""
    digest = hashlib.blake2b(b"%d" % seed)
    for message in messages:
        data = message.content.encode("utf-8", "surrogatepass")
        digest.update(b"\x00%b\x00%d\x00" % (message.role.encode(), len(data)))
        digest.update(data)
    return digest.digest()


def _unit(digest: bytes, position: int) -> float:
    return int.from_bytes(digest[position : position + 4], "little") / 2**32


def _answer(
    messages: Sequence[Message], digest: bytes, max_new_tokens: int, refusal_rate: float, length_rate: float, seed: int = 0,
) -> tuple[str, bool]:
    """The text, and whether it was cut off."""
    prompt = messages[-1].content if messages else ""
    at = prompt.rfind(OPTIONS_MARKER)
    if at >= 0:
        options = _options(prompt[at + len(OPTIONS_MARKER) :])
        if options:
            return options[digest[0] % len(options)], False
    declines = refusal_rate and _unit(digest, 52) < refusal_rate
    if declines:
        text = REFUSALS[digest[1] % len(REFUSALS)]
    elif EDIT_MARKER in prompt and END_MARKER in prompt:
        text = _edited(prompt, digest)
    elif SCORES_MARKER in prompt:
        text = _scored(messages)
    elif GIVEN_MARKER in prompt and prompt.rstrip().endswith(CREATED_MARKER):
        text = _created(prompt, digest, seed)
    else:
        text = _prose(prompt, digest)
    if length_rate and _unit(digest, 56) < length_rate:
        return text[: len(text) * 2 // 3].rstrip(), True
    # 4 characters per token stay under the cap by the estimate's 4.3 as long as the text is ASCII
    if estimate_tokens(text) > max_new_tokens:
        limit = max_new_tokens * 4 if text.isascii() else max_new_tokens
        return text[:limit].rstrip(), True
    return text, False


def _following(schema: dict[str, Any], digest: bytes) -> str:
    return orjson.dumps(_instance(schema, random.Random(digest))).decode()


def _instance(schema: dict[str, Any], choice: random.Random) -> Any:
    """Some value that follows a JSON schema of the kinds that prompts use: objects, lists, enums, booleans, numbers, strings."""
    if "enum" in schema:
        return choice.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: _instance(inner, choice) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        fewest = schema.get("minItems", 1)
        number = choice.randint(fewest, schema.get("maxItems", fewest))
        return [_instance(schema.get("items", {}), choice) for _ in range(number)]
    if kind == "boolean":
        return choice.random() < 0.5
    if kind in ("integer", "number"):
        return choice.randint(schema.get("minimum", 0), schema.get("maximum", 10))
    return " ".join(choice.sample(FALLBACK_WORDS, 6))


def _options(rest: str) -> list[str]:
    line = rest.split("\n", 1)[0].rstrip(" .\r")
    return [option for part in line.split(",") if (option := part.strip().strip(".`\"'"))]


def _edited(prompt: str, digest: bytes) -> str:
    """An edit of the marked answer towards the reference; without one its last word becomes one of the question's."""
    before, _, rest = prompt.rpartition(EDIT_MARKER)
    answer, _, task = rest.rpartition(END_MARKER)
    question, found, reference = before.partition(REFERENCE_MARKER)
    reference = reference.strip()
    is_good = answer.split("\n")[-1] == reference.split("\n")[-1] if found else digest[0] % 4 == 0
    if VERDICT in task and is_good:
        return VERDICT
    if not found:
        words = question.split()[1:] or FALLBACK_WORDS
        return f"{answer.rpartition(' ')[0]} {words[digest[1] % len(words)]}".strip()
    body, _, old = answer.rpartition("\n")
    new = reference.rpartition("\n")[2]
    if body and old != new:  # the last line is the result: it is put right, and so is the rest where it names the result
        num_same = next((n for n, (one, other) in enumerate(zip(old.split(), new.split(), strict=False)) if one != other), 0)
        wrong, right = (" ".join(line.split()[num_same:]) for line in (old, new))
        return re.sub(rf"(?<!\w){re.escape(wrong)}(?!\w)", lambda _: right, body) + f"\n{new}" if wrong else f"{body}\n{new}"
    ours, theirs = (re.findall(r"\s+|\S+", text) for text in (answer, reference))
    codes = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    pieces = [theirs[j1:j2] if tag == "replace" else ours[i1:i2] for tag, i1, i2, j1, j2 in codes]
    edited = "".join(word for piece in pieces for word in piece)
    return edited if edited != answer else reference


def _scored(messages: Sequence[Message]) -> str:
    """Scores that answers carry with them; the answers stand in the last message that shows two."""
    shown = next((message.content for message in reversed(messages) if ANSWER_START.format(1) in message.content), "")
    scores = []
    for place in (1, 2):
        answer = shown.partition(ANSWER_START.format(place))[2].partition(ANSWER_END.format(place))[0].strip()
        scores.append(1 + hashlib.blake2b(answer.encode("utf-8", "surrogatepass")).digest()[0] % 10)
    lines = (f"Score of the Assistant {place}: {score}" for place, score in enumerate(scores, start=1))
    return "\n".join(("Evaluation evidence: one says more than the other.", *lines))


def _created(prompt: str, digest: bytes, seed: int) -> str:
    """An opener, some words of the given request, and some of no matter what; other seeds give others, as drawings of one parent do."""
    given = prompt.rpartition(GIVEN_MARKER)[2].partition(CREATED_MARKER)[0].split() or FALLBACK_WORDS
    choice = random.Random(b"%b%d" % (digest, seed))
    first = choice.randrange(len(given))
    words = given[first : first + choice.randint(2, 5)] + choice.sample(FALLBACK_WORDS, choice.randint(3, 7))
    return f"{choice.choice(OPENERS)} {' '.join(words)}"


def _prose(prompt: str, digest: bytes) -> str:
    """Three to eight sentences of phrases from a window of the prompt and from its end."""
    room = max(len(prompt) - TAIL - WINDOW, 0)
    start = int(_unit(digest, 2) * room)
    # a window begins and ends in mid-word: those two are left out
    words = prompt[start : start + WINDOW].split()[1:-1] or FALLBACK_WORDS
    tail = prompt[-TAIL:].split()[1:] or words
    num_words, num_tail = len(words), len(tail)
    at = digest[6] % num_tail
    sentences = [OPENERS[digest[7] % len(OPENERS)] + " " + " ".join(words[: 6 + digest[8] % 8])
                 + " and " + " ".join(tail[at : at + 3])]
    for position in range(9, 9 + 4 * (2 + digest[45] % 6), 4):
        source = digest[position] * 256 + digest[position + 1]
        first = source % num_words
        length = 7 + digest[position + 2] % 9
        phrase = words[first : first + length] + words[: max(0, length - num_words + first)]
        sentences.append(LINKS[digest[position + 3] & 15] + " " + " ".join(phrase))
    return ". ".join(sentences).replace(",.", ".").replace("..", ".") + "."
