"""Does Lion's loop work: hard instructions found and multiplied, against the same number of random new ones and of easy ones only.

A world in which everything but the student is a rule. An instruction is a short text of one of 23 skills in two domains ("sort letters of
dacb", "what is 47 plus 8"). The *teacher* works out the right answer. The *student* is a small Llama with random weights, trained by the
project's own core. The *referee* gives 10 for a right answer and 1 to 8 by edit similarity for a wrong one, and one reply in twenty of
it cannot be read. The *generator* does what its two prompts ask: hard, the same skill and length with new operands; easy, of the same
domain and as difficult, but rarer: a skill of the same level that seeds have less of, or the same one, and any length.
Everything between them is the product: the steps of ``alignray.methods.lion`` walked by ``run_chain`` (each role reads the request that
the step built), ``read_scores``, ``gap_of``, ``is_hard``, ``drawings``, ``advance``. Seeds are skewed as real seed sets are: three
quarters of them are of seven skills, and 15 of the 23 skills have 3 % or less. The novelty filter compares whole texts: short
instructions out of templates are all alike under ROUGE-L ("sort letters of dacb" and "sort letters of hage" have an F of 0.75).

Three arms with the same seeds, first checkpoint, number of new instructions, steps and rates, three rounds and a closing imitation:

    adversarial   r = 1:1, hard_rate 0.5       easy only   hard_rate 0       random   new instructions drawn as the seeds were
    balanced      a control: new instructions drawn like the test set, every skill and length alike, which takes knowing all skills

The student goes on from its checkpoint, and the Train Pool is replaced each round, as in the thesis. Reported over seeds: exact match on
held-out instructions (the same number of every skill, every length alike; none of them is ever trained on), mean over skills and per
skill; and whether the hard set stands where the student is weak: rank correlation over skills of the share of hard instructions with
the student's held-out accuracy. There is no mark; ``ratio`` is the adversarial arm's mean accuracy over that of the better one of
random and easy only, and ``ok`` says that it is ahead of both in the mean over seeds and that every rank correlation is below -0.5.

    python bench/lion_learns.py [--quick] [--seeds N] [--processes N] [--chart FILE.svg] [--easy-level same|any] [--first-epochs N]
        [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import torch
from bmc_learns import Keeper
from rapidfuzz.distance import Levenshtein
from scipy.stats import spearmanr

from alignray.methods import lion
from alignray.schema import Candidate, ChatRequest, Completion, LionDraft, Rejected
from alignray.seeding import rng_for, row_id_of, unit_draw
from alignray.steps import PromptStep, run_chain
from alignray.train.config import TrainConfig
from alignray.train.data import ExampleRows
from alignray.train.loop import train_loop
from alignray.train.strategies.base import Ranks

RANKS = Ranks(0, 1, torch.device("cpu"))
PAD, END, SAY = "<pad>", "<end>", "<say>"
LETTERS = "abcdefghijklmnop"
UNREADABLE_RATE = 0.05
"""Replies of the referee without scores."""


@dataclass(frozen=True)
class Budget:
    """What a run may use."""

    seeds: int
    rounds: int = 3
    seed_rows: int = 4000
    per_round: int = 2000
    first_epochs: int = 5
    """Over the seeds, from random weights."""
    epochs: int = 5
    """Over what a round brought."""
    batch_size: int = 32
    test_rows: int = 40
    """Of each skill."""
    hidden: int = 96
    layers: int = 3
    learning_rates: tuple[float, float] = (4e-3, 2e-3)
    """Of the first imitation, from random weights, and of the later ones."""
    easy_level: str = "same"


# ---- the world


@dataclass(frozen=True)
class Skill:
    """A kind of task."""

    domain: str
    level: int
    """1: picked off the text, 2: one look over it, 3: every character of the answer takes work."""
    share: float
    """Among seeds, before scaling."""
    text: str
    answer: Callable[..., str]


def following(letters: str) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in letters)


SKILLS = {
    "copy": Skill("words", 1, 16, "write the word {}", lambda w: w),
    "capitals": Skill("words", 1, 14, "put {} in capitals", str.upper),
    "first": Skill("words", 1, 10, "first letter of {}", lambda w: w[0]),
    "last": Skill("words", 1, 8, "last letter of {}", lambda w: w[-1]),
    "second": Skill("words", 1, 2, "second letter of {}", lambda w: w[1]),
    "hyphens": Skill("words", 1, 1, "put hyphens into {}", "-".join),
    "count": Skill("words", 2, 5, "count letters of {}", lambda w: str(len(w))),
    "vowels": Skill("words", 2, 2, "only vowels of {}", lambda w: "".join(c for c in w if c in "aeio") or "none"),
    "double": Skill("words", 2, 1, "double letters of {}", lambda w: "".join(c + c for c in w)),
    "swap": Skill("words", 3, 1, "swap ends of {}", lambda w: w[-1] + w[1:-1] + w[0]),
    "next": Skill("words", 3, 1, "letters following {} each", following),
    "reverse": Skill("words", 3, 1, "read {} from behind", lambda w: w[::-1]),
    "sort": Skill("words", 3, 1, "sort letters of {}", lambda w: "".join(sorted(w))),
    "parity": Skill("numbers", 1, 8, "is {} even or odd", lambda a: "odd" if int(a) % 2 else "even"),
    "units": Skill("numbers", 1, 3, "last digit of {}", lambda a: a[-1]),
    "ten times": Skill("numbers", 1, 1, "what is {} tenfold", lambda a: str(10 * int(a))),
    "larger": Skill("numbers", 2, 14, "larger of {} and {}", lambda a, b: max(a, b, key=int)),
    "successor": Skill("numbers", 2, 5, "what follows {} directly", lambda a: str(int(a) + 1)),
    "smaller": Skill("numbers", 2, 1, "smaller of {} and {}", lambda a, b: min(a, b, key=int)),
    "plus": Skill("numbers", 3, 2, "what is {} plus {}", lambda a, b: str(int(a) + int(b))),
    "minus": Skill("numbers", 3, 1, "what is {} minus {}", lambda a, b: str(int(a) - int(b))),
    "digit sum": Skill("numbers", 3, 1, "digit sum of {}", lambda a: str(sum(map(int, a)))),
    "order": Skill("numbers", 3, 1, "order {} and {} and {}", lambda *n: " ".join(sorted(n, key=int))),
}
SIZES = {"words": (3, 4, 5, 6), "numbers": (1, 2, 3)}
"""Letters of a word; digits of a number, one more where it stands alone: there are few numbers."""
SIZE_SHARES = {"words": (4, 4, 2, 1), "numbers": (4, 6, 1)}
"""Among seeds; short ones are common."""
_FORMS = {name: re.compile(re.escape(skill.text).replace(r"\{\}", r"(\w+)")) for name, skill in SKILLS.items()}
_WORDS = {part for skill in SKILLS.values() for part in skill.text.split() if part != "{}"} | {"none", "even", "odd"}
VOCABULARY = [PAD, END, SAY, "-", " ", *"0123456789", *LETTERS, *LETTERS.upper(), *sorted(_WORDS)]
ID_OF = {token: number for number, token in enumerate(VOCABULARY)}


@dataclass(frozen=True)
class Task:
    """What the world knows of an instruction."""

    skill: str
    operands: tuple[str, ...]

    @property
    def instruction(self) -> str:
        return SKILLS[self.skill].text.format(*self.operands)

    @property
    def answer(self) -> str:
        return SKILLS[self.skill].answer(*self.operands)


def task_of(instruction: str) -> Task:
    """Read an instruction of this world."""
    name, found = next((name, found) for name, form in _FORMS.items() if (found := form.fullmatch(instruction)))
    return Task(name, found.groups())


def make_task(rng: random.Random, skill: str, length: int) -> Task:
    """With operands of so many characters."""
    def operand() -> str:
        if SKILLS[skill].domain == "numbers":
            return str(rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length))
        while (word := "".join(rng.choices(LETTERS, k=length))) in ID_OF:
            pass
        return word

    return Task(skill, tuple(operand() for _ in range(SKILLS[skill].text.count("{}"))))


def length_of(skill: str, size: int) -> int:
    return size + (SKILLS[skill].domain == "numbers" and SKILLS[skill].text.count("{}") == 1)


def seed_task(rng: random.Random) -> Task:
    """As seeds are drawn, and the new instructions of the random arm."""
    skill = rng.choices(list(SKILLS), [skill.share for skill in SKILLS.values()])[0]
    domain = SKILLS[skill].domain
    return make_task(rng, skill, length_of(skill, rng.choices(SIZES[domain], SIZE_SHARES[domain])[0]))


def any_size(rng: random.Random, skill: str) -> Task:
    return make_task(rng, skill, length_of(skill, rng.choice(SIZES[SKILLS[skill].domain])))


def balanced_task(rng: random.Random) -> Task:
    return any_size(rng, rng.choice(list(SKILLS)))


def written_after(parent: Task, origin: str, rng: random.Random, easy_level: str) -> Task:
    """The generator's new instruction."""
    if origin == "hard":
        return make_task(rng, parent.skill, len(parent.operands[0]))
    own = SKILLS[parent.skill]
    rarer = [
        name for name, skill in SKILLS.items()
        if skill.domain == own.domain and skill.share < own.share and (skill.level == own.level or easy_level == "any")
    ]
    return any_size(rng, rng.choice([*rarer, parent.skill]))


def test_tasks(rng: random.Random, each: int) -> list[Task]:
    tasks: dict[str, Task] = {}
    for skill in SKILLS:
        wanted = len(tasks) + each
        while len(tasks) < wanted:
            task = any_size(rng, skill)
            tasks[task.instruction] = task
    return list(tasks.values())


def grade(answer: str, truth: str) -> int:
    return 10 if answer == truth else 1 + int(8 * Levenshtein.normalized_similarity(answer, truth))


class World:
    """Plays every role, from the text of the request alone; the student's answers are worked out beforehand."""

    def __init__(self, seed: int, easy_level: str) -> None:
        self.seed, self.easy_level = seed, easy_level
        self.said: dict[str, str] = {}

    def __call__(self, step: PromptStep[Any, Any], record: LionDraft | Candidate, request: ChatRequest) -> Completion:
        turns = [message.content for message in request.messages if message.role == "user"]
        return Completion(getattr(self, step.role)(turns[0], record, step.name))

    def teacher(self, text: str, record: LionDraft, name: str) -> str:
        return task_of(_between(text, "### Instruction:\n", "\n\n### Response:")).answer

    def student(self, text: str, record: LionDraft, name: str) -> str:
        return self.said[text]

    def referee(self, text: str, record: LionDraft, name: str) -> str:
        if unit_draw(self.seed, record.row_id, f"{record.round}/{record.student}/{name}") < UNREADABLE_RATE:
            return "Evaluation evidence: there is something to be said for both."
        truth = task_of(_between(text, "[Instruction]\n", "\n\n[The Start")).answer
        shown = [_between(text, f"[The Start of Assistant {place}'s Answer]\n", f"\n\n[The End of Assistant {place}") for place in (1, 2)]
        scores = [f"Score of the Assistant {place}: {grade(answer, truth)}" for place, answer in enumerate(shown, 1)]
        return "\n".join([f"Evaluation evidence: the right answer is {truth}.", *scores])

    def generator(self, text: str, record: Candidate, name: str) -> str:
        parent = task_of(_between(text, "#Given Instruction#:\n", "\n\n#Created Instruction#:"))
        return written_after(parent, record.origin, rng_for(self.seed, record.row_id, "world"), self.easy_level).instruction


def _between(text: str, before: str, after: str) -> str:
    return text.split(before, 1)[1].split(after, 1)[0]


# ---- the student


def ids_of(text: str) -> list[int]:
    """Words of the templates are tokens, everything else is spelled; a blank is a token between two spelled words."""
    found: list[int] = []
    spelled_before = False
    for word in text.split(" "):
        is_spelled = word not in _WORDS
        if is_spelled and spelled_before:
            found.append(ID_OF[" "])
        found += [ID_OF[character] for character in word] if is_spelled else [ID_OF[word]]
        spelled_before = is_spelled
    return found


def make_model(folder: Path, seed: int, budget: Budget) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=budget.hidden, intermediate_size=3 * budget.hidden, num_hidden_layers=budget.layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True,
        eos_token_id=ID_OF[END], pad_token_id=ID_OF[PAD], bos_token_id=None,
    )).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(ID_OF, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=PAD).save_pretrained(folder)
    return folder


def imitate(model: Path, out: Path, drafts: Sequence[LionDraft], seed: int, budget: Budget, epochs: int, learning_rate: float) -> Path:
    """Supervised training on the teacher's answers."""
    config = TrainConfig.model_validate({
        "model": {"path": str(model), "dtype": "float32", "gradient_checkpointing": False}, "objective": {"kind": "sft"},
        "batch_size": budget.batch_size, "epochs": epochs, "optimizer": {"learning_rate": learning_rate}, "seed": seed,
        "checkpoint_every_steps": 10**9, "log_every_steps": 10**9,
    })
    rows = []
    for draft in drafts:
        prompt, answer = [*ids_of(draft.instruction), ID_OF[SAY]], [*ids_of(draft.teacher), ID_OF[END]]
        rows.append({"row_id": draft.row_id, "input_ids": prompt + answer, "loss_mask": [0] * len(prompt) + [1] * len(answer)})
    train_loop(config, ExampleRows(pa.Table.from_pylist(rows)), None, RANKS, Keeper(out))
    return out


def answers(folder: Path, instructions: Sequence[str]) -> list[str]:
    """What a student says, greedily."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [[*ids_of(text), ID_OF[SAY]] for text in instructions]
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        by_length[len(prompt)].append(place)
    found = [""] * len(prompts)
    chunks = (places[start : start + 512] for places in by_length.values() for start in range(0, len(places), 512))
    for chosen in chunks:
        ids = torch.tensor([prompts[place] for place in chosen])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=14, do_sample=False, pad_token_id=ID_OF[PAD])
        for place, row in zip(chosen, out[:, ids.shape[1] :].tolist(), strict=True):
            said = [VOCABULARY[id_] for id_ in row]
            found[place] = "".join(said[: said.index(END)] if END in said else said)
    return found


def accuracy(folder: Path, test: Sequence[Task]) -> dict[str, float]:
    """Exact match by skill."""
    right: dict[str, list[bool]] = defaultdict(list)
    for task, said in zip(test, answers(folder, [task.instruction for task in test]), strict=True):
        right[task.skill].append(said == task.answer)
    return {skill: statistics.mean(right[skill]) for skill in SKILLS}


# ---- the loop


ARMS = {"adversarial": 0.5, "random": None, "easy only": 0.0, "balanced": None}
"""hard_rate; None: nobody is judged and the generator is not asked."""
RIVALS = ("random", "easy only")
JUDGED = [arm for arm, rate in ARMS.items() if rate is not None]


class Loop:
    """One arm of one seed, from the checkpoint of its first imitation on."""

    def __init__(self, seed: int, arm: str, budget: Budget) -> None:
        self.seed, self.arm, self.budget = seed, arm, budget
        rate = ARMS[arm]
        self.config = lion.LionConfig(per_round=budget.per_round, hard_rate=0.5 if rate is None else rate)
        self.world = World(seed, budget.easy_level)
        rng = random.Random(seed)
        self.test = test_tasks(rng, budget.test_rows)
        self.taken = {task.instruction for task in self.test}
        self.drafts: dict[str, LionDraft] = {}
        seeds = self.add(self.new_random(rng, budget.seed_rows, 0, seed_task))
        self.pools = lion.advance(lion.Pools(), seeds)

    def new_random(self, rng: random.Random, num: int, round_: int, task: Callable[[random.Random], Task]) -> list[LionDraft]:
        found: list[LionDraft] = []
        while len(found) < num:
            text = task(rng).instruction
            if text not in self.taken:
                self.taken.add(text)
                found.append(LionDraft(row_id_of(text), text, "seed", round_, category=SKILLS[task_of(text).skill].domain))
        return found

    def add(self, new: Sequence[LionDraft]) -> list[str]:
        """With the teacher's answers."""
        steps = lion.teacher_steps(self.config)
        for draft in new:
            self.drafts[draft.row_id] = run_chain(draft, steps, self.world)
        return [draft.row_id for draft in new]

    def train_pool(self) -> list[LionDraft]:
        return [self.drafts[row_id] for row_id in self.pools.train]

    def judged(self, model: Path) -> tuple[dict[str, Any], list[LionDraft], list[LionDraft]]:
        """The Cache Pool as student and referee leave it: figures, hard instructions, easy ones."""
        drafts = [self.drafts[row_id] for row_id in self.pools.cache]
        texts = [draft.instruction for draft in drafts]
        self.world.said = dict(zip(texts, answers(model, texts), strict=True))
        steps = lion.judge_steps(self.config)
        outcomes = [run_chain(draft, steps, self.world) for draft in drafts]
        kept = [outcome for outcome in outcomes if not isinstance(outcome, Rejected)]
        hard, easy = ([d for d in kept if (gap := lion.gap_of(d)) and lion.is_hard(gap, self.config) is wanted] for wanted in (True, False))
        figures = lion.round_figures(kept, self.config, quarantined=len(outcomes) - len(kept))
        return {
            "hard_share": figures["hard_share"], "quarantined": figures["quarantined"], **figures["referee"],
            "cache_by_skill": by_skill(kept), "hard_by_skill": by_skill(hard),
        }, hard, easy

    def generate(self, hard: Sequence[LionDraft], easy: Sequence[LionDraft], round_: int) -> list[LionDraft]:
        """``per_round`` new instructions, decided on in the order of their drawing."""
        if ARMS[self.arm] is None:
            task = balanced_task if self.arm == "balanced" else seed_task
            return self.new_random(random.Random(f"{self.seed}/{round_}"), self.budget.per_round, round_, task)
        steps, start, size = lion.generator_steps(self.config), 0, 500
        kept: list[LionDraft] = []
        while len(kept) < self.budget.per_round and start < self.budget.per_round * self.config.max_drawings:
            for drawn in lion.drawings(hard, easy, round=round_, start=start, num=size, config=self.config, seed=self.seed):
                new = run_chain(drawn, steps, self.world)
                if not isinstance(new, Rejected) and new.instruction not in self.taken and len(kept) < self.budget.per_round:
                    self.taken.add(new.instruction)
                    kept.append(LionDraft(new.row_id, new.instruction, new.origin, round_, new.parent_id, new.category))
            start += size
        assert len(kept) == self.budget.per_round, "every arm gets the same number"
        return kept

    def run(self, first: Path, folder: Path) -> dict[str, Any]:
        model, curve, rounds = first, [accuracy(first, self.test)], []
        for round_ in range(1, self.budget.rounds + 1):
            figures, hard, easy = ({}, [], []) if ARMS[self.arm] is None else self.judged(model)
            new = self.generate(hard, easy, round_)
            rounds.append({**figures, "new_by_skill": by_skill(new), "new_after_hard": sum(draft.origin == "hard" for draft in new)})
            self.pools = lion.advance(self.pools, self.add(new))
            out, (_, rate) = folder / f"round-{round_ + 1}", self.budget.learning_rates
            model = imitate(model, out, self.train_pool(), self.seed, self.budget, self.budget.epochs, rate)
            curve.append(accuracy(model, self.test))
        return {"seed": self.seed, "arm": self.arm, "curve": curve, "rounds": rounds}


def by_skill(drafts: Sequence[LionDraft]) -> dict[str, int]:
    counts = Counter(task_of(draft.instruction).skill for draft in drafts)
    return {skill: counts[skill] for skill in SKILLS}


def quiet() -> None:
    logging.getLogger("alignray").setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):
        from transformers.utils import logging as theirs

        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
    torch.set_num_threads(1)


def first_imitation(work: tuple[int, Budget, Path]) -> float:
    seed, budget, folder = work
    if (folder / str(seed) / "first").exists():
        return 0.0
    quiet()
    started = time.process_time()
    (folder / str(seed)).mkdir(exist_ok=True)
    start = make_model(folder / str(seed) / "start", seed, budget)
    pool = Loop(seed, "random", budget).train_pool()
    imitate(start, folder / str(seed) / "first", pool, seed, budget, budget.first_epochs, budget.learning_rates[0])
    return time.process_time() - started


def run_arm(work: tuple[int, str, Budget, Path]) -> dict[str, Any]:
    seed, arm, budget, folder = work
    kept = folder / f"{seed}-{arm}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    quiet()
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        found = Loop(seed, arm, budget).run(folder / str(seed) / "first", Path(own))
    line = ", ".join(f"{mean(accuracies):.3f}" for accuracies in found["curve"])
    print(f"seed {seed}, {arm}: held-out accuracy after each imitation {line}; hard shares "
          + ", ".join(f"{one['hard_share']:.3f}" for one in found["rounds"] if "hard_share" in one)
          + f"; {time.process_time() - started:.0f} CPU s", flush=True)
    found["cpu_s"] = time.process_time() - started
    kept.write_text(json.dumps(found))
    return found


# ---- what comes out


def mean(accuracies: dict[str, float]) -> float:
    return statistics.mean(accuracies.values())


def spread(values: Sequence[float], digits: int = 3) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def of_arm(runs: Sequence[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["arm"] == arm]


def weak_share(counts: dict[str, int], accuracies: dict[str, float]) -> float:
    """Share of instructions whose skill the student gets right in less than half of the held-out cases."""
    return sum(counts[skill] for skill in SKILLS if accuracies[skill] < 0.5) / max(sum(counts.values()), 1)


def concentration(run: dict[str, Any]) -> list[dict[str, float]]:
    """Of each round: how the share of hard instructions of a skill goes with the student's held-out accuracy on it."""
    found = []
    for accuracies, one in zip(run["curve"], run["rounds"], strict=False):
        shares = [one["hard_by_skill"][skill] / max(one["cache_by_skill"][skill], 1) for skill in SKILLS]
        found.append({
            "rho": float(spearmanr([accuracies[skill] for skill in SKILLS], shares).statistic), "hard_share": one["hard_share"],
            **{f"weak_{name}": weak_share(one[f"{name}_by_skill"], accuracies) for name in ("cache", "hard", "new")},
        })
    return found


def curve_table(runs: Sequence[dict[str, Any]]) -> str:
    num = len(runs[0]["curve"])
    lines = [f"| arm | after the first imitation | {' | '.join(f'after imitation {place}' for place in range(2, num + 1))} "
             "| least skill, at the end | lost, at the end |", "| --- |" + " --- |" * (num + 2)]
    for arm in ARMS:
        own = of_arm(runs, arm)
        shown = [spread([mean(run["curve"][place]) for run in own]) for place in range(num)]
        least = spread([min(run["curve"][-1].values()) for run in own], 2)
        lines.append(f"| {arm} | {' | '.join(shown)} | {least} | {spread([forgotten(run) for run in own])} |")
    return "\n".join(lines)


def forgotten(run: dict[str, Any]) -> float:
    """Accuracy lost since the first imitation, mean over the skills that were right in 9 of 10 cases then."""
    first, last = run["curve"][0], run["curve"][-1]
    return statistics.mean([first[skill] - last[skill] for skill in SKILLS if first[skill] >= 0.9] or [0.0])


def skill_table(runs: Sequence[dict[str, Any]]) -> str:
    whole = sum(skill.share for skill in SKILLS.values())
    lines = [f"| skill | level | of the seeds | right at first | {' | '.join(ARMS)} | new instructions: {' / '.join(ARMS)} |",
             "| --- | --- | --- | --- |" + " --- |" * len(ARMS) + " --- |"]
    for name, skill in SKILLS.items():
        first = statistics.mean(run["curve"][0][name] for run in runs)
        last = [f"{statistics.mean(run['curve'][-1][name] for run in of_arm(runs, arm)):.2f}" for arm in ARMS]
        totals = [[sum(one["new_by_skill"][name] for one in run["rounds"]) for run in of_arm(runs, arm)] for arm in ARMS]
        new = " / ".join(f"{statistics.mean(total):.0f}" for total in totals)
        shown = [str(skill.level), f"{100 * skill.share / whole:.0f} %", f"{first:.2f}", *last, new]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def concentration_table(runs: Sequence[dict[str, Any]]) -> str:
    lines = ["| arm, round | rank correlation | hard, of the Cache Pool | weak skills, of the Cache Pool | of the hard set | of the new |",
             "| --- | --- | --- | --- | --- | --- |"]
    for arm in JUDGED:
        for place, figures in enumerate(zip(*(concentration(run) for run in of_arm(runs, arm)), strict=True), 1):
            shown = [spread([one[key] for one in figures], 2) for key in ("rho", "hard_share", "weak_cache", "weak_hard", "weak_new")]
            lines.append(f"| {arm}, {place} | {' | '.join(shown)} |")
    return "\n".join(lines)


COLOURS = {"adversarial": "#08519c", "random": "#999999", "easy only": "#d95f0e", "balanced": "#31a354"}


def chart_of(runs: Sequence[dict[str, Any]]) -> str:
    """Held-out accuracy over imitations, and hard shares of skills against accuracy, as SVG."""
    num = len(runs[0]["curve"])
    every = [mean(accuracies) for run in runs for accuracies in run["curve"]]
    low, high = max(min(every) - 0.05, 0.0), min(max(every) + 0.05, 1.0)

    def x(place: float) -> float:
        return 60 + place * 330 / (num - 1)

    def y(value: float) -> float:
        return 270 - (value - low) / (high - low) * 230

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="900" height="340" font-family="sans-serif" font-size="13">',
             '<rect width="900" height="340" fill="white"/>',
             '<text x="60" y="22">held-out accuracy, mean over skills</text>',
             '<text x="520" y="22">hard share of a skill\'s instructions, adversarial arm</text>']
    for tick in (step / 20 for step in range(21)):
        if low <= tick <= high:
            parts.append(f'<line x1="60" x2="390" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
                         f'<text x="52" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#444">{tick:.2f}</text>')
    for place in range(num):
        parts.append(f'<text x="{x(place):.1f}" y="290" text-anchor="middle" fill="#444">{place + 1}</text>')
    for number, (arm, colour) in enumerate(COLOURS.items()):
        own = of_arm(runs, arm)
        for run in own:
            parts += [f'<circle cx="{x(place):.1f}" cy="{y(mean(found)):.1f}" r="3" fill="{colour}" fill-opacity="0.5"/>'
                      for place, found in enumerate(run["curve"])]
        line = " ".join(f"{x(place):.1f},{y(statistics.mean(mean(run['curve'][place]) for run in own)):.1f}" for place in range(num))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{60 + 95 * number}" y="328" fill="{colour}">{arm}</text>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="520" x2="870" y1="{270 - 230 * tick:.1f}" y2="{270 - 230 * tick:.1f}" stroke="#ddd"/>'
                     f'<text x="512" y="{274 - 230 * tick:.1f}" text-anchor="end" fill="#444">{tick:g}</text>'
                     f'<text x="{520 + 350 * tick:.1f}" y="290" text-anchor="middle" fill="#444">{tick:g}</text>')
    for run in of_arm(runs, "adversarial"):
        for accuracies, one in zip(run["curve"], run["rounds"], strict=False):
            parts += [f'<circle cx="{520 + 350 * accuracies[skill]:.1f}" '
                      f'cy="{270 - 230 * one["hard_by_skill"][skill] / max(one["cache_by_skill"][skill], 1):.1f}" r="3" '
                      'fill="#08519c" fill-opacity="0.35"/>' for skill in SKILLS]
    for x_, legend in ((225, "imitation; a dot per seed"), (695, "held-out accuracy on the skill; a dot per skill, round and seed")):
        parts.append(f'<text x="{x_}" y="308" text-anchor="middle" fill="#444">{legend}</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def run_all(budget: Budget, processes: int, kept: Path | None) -> list[dict[str, Any]]:
    seeds = range(budget.seeds)
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(processes) as pool:
        folder = Path(name)
        if kept is not None:
            folder = kept / row_id_of(repr(replace(budget, seeds=0)))[:8]
            folder.mkdir(parents=True, exist_ok=True)
        first = pool.map(first_imitation, [(seed, budget, folder) for seed in seeds], chunksize=1)
        order = sorted(((seed, arm) for seed in seeds for arm in ARMS), key=lambda one: one[1] == "balanced")
        runs = pool.map(run_arm, [(seed, arm, budget, folder) for seed, arm in order], chunksize=1)
    print(f"CPU seconds: first imitations {sum(first):.0f}, arms {sum(run['cpu_s'] for run in runs):.0f}")
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds and little training: no accuracy to speak of")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--easy-level", choices=("same", "any"), default="same", help="of the rarer skills in the easy kind")
    parser.add_argument("--first-epochs", type=int, default=Budget.first_epochs, help="over the seeds, the same checkpoint for every arm")
    parser.add_argument("--keep", type=Path, help="folder for what is finished; the same command with it goes on from there")
    given = parser.parse_args()
    budget = Budget(given.seeds, first_epochs=given.first_epochs, easy_level=given.easy_level)
    if given.quick:
        budget = Budget(1, rounds=2, seed_rows=600, per_round=300, test_rows=10, first_epochs=3, epochs=3, easy_level=given.easy_level)
    print(f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}; {budget}", flush=True)
    started = time.time()
    runs = run_all(budget, given.processes, given.keep)
    print(f"\n{curve_table(runs)}\n\n{skill_table(runs)}\n\n{concentration_table(runs)}\n")
    readings, unreadable, quarantined = (
        sum(one.get(key, 0) for run in runs for one in run["rounds"]) for key in ("readings", "unreadable", "quarantined"))
    print(f"referee: {readings} replies, {unreadable} unreadable, {quarantined} instructions quarantined")
    if given.chart:
        given.chart.write_text(chart_of(runs) + "\n", encoding="utf-8")
    ends = {arm: [round(mean(run["curve"][-1]), 4) for run in of_arm(runs, arm)] for arm in ARMS}
    means = {arm: statistics.mean(values) for arm, values in ends.items()}
    rhos = [one["rho"] for run in of_arm(runs, "adversarial") for one in concentration(run)]
    others = max(means[arm] for arm in RIVALS)
    print(json.dumps({
        "bench": "lion_learns", "ratio": round(means["adversarial"] / max(others, 1e-9), 3), "mark": None,
        "ok": means["adversarial"] > others and max(rhos) < -0.5, "accuracy": ends, "rank_correlation": [round(rho, 3) for rho in rhos],
        "seeds": budget.seeds, "wall_s": round(time.time() - started, 1),
    }))


if __name__ == "__main__":
    sys.exit(main())
