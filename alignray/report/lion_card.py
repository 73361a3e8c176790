"""The dataset card of a Lion run: what the rows are, how the pools came about, which engines played which role, numbers by round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignray.report.lion_figures import ROLES, LionResults, Round, planned_by_role, read_lion, threshold_of
from alignray.report.markdown import escape_markdown, front_matter, funnel_table, listed, size_category, status_note, table
from alignray.report.page import MISSING, amount, dollars, is_number, mapping, number, percent
from alignray.report.run_folder import RunFolder, count_column, lookup, num_rows

COLUMNS = {
    "row_id": "128-bit id; of a seed made from its text, of a new instruction from its parent, round and number",
    "instruction": "the instruction and its input, joined by a line break",
    "response": "the teacher's answer",
    "messages": "the same two as a chat: `role` (user, assistant) and `content`, in order",
    "origin": "`seed`: of the input; `hard`, `easy`: written after an instruction that was so for the student",
    "round": "whose generator wrote it, from 1 on; 0 for a seed",
    "parent_id": "id of the instruction that it was written after; empty for a seed",
    "category": "kind of task, where the input says; a new instruction has its parent's",
    "student": "the student's answer when it was last asked; empty where it was not",
    "gap": "the teacher's mean score minus the student's at that time; null where nothing was judged",
    "is_hard": "whether that gap made it a hard one; null where nothing was judged",
    "judged_in": "round that judged it last; 0 where none did",
    "prompt_tokens": "tokens sent to models to write it, to answer it and to judge it the last time; calls/ has all",
    "completion_tokens": "tokens received for these",
    "cost_usd": "what these calls cost",
}
_WORK = {
    "teacher": "answers every instruction once", "student": "is trained in every round, then answers the Cache Pool",
    "referee": "scores both answers from 1 to 10, in both orders", "generator": "writes new instructions after hard and easy ones",
}


def lion_card(run: RunFolder) -> str:
    """The card as text: YAML front matter, then Markdown."""
    rows, results = num_rows(run.part_paths()), read_lion(run)
    sections = [
        front_matter(
            run, license="other", license_name="text-belongs-to-its-sources", size_categories=[size_category(rows)],
            task_categories=["text-generation"], tags=["alignray", "instruction-tuning", "distillation", "synthetic", "lion"],
            configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "parts/*.parquet"}]}],
        ),
        f"# {escape_markdown(run.name)}",
        f"{number(rows)} instructions with a teacher's answers, the Cache Pool of an adversarial distillation with Lion "
        "([arXiv:2305.12870](https://arxiv.org/abs/2305.12870)) by alignray. `report.html` in this folder shows the run; the students are "
        "in `students/`.",
        status_note(run),
        '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="train")\n'
        'written = rows.filter(lambda row: row["origin"] != "seed")\n```',
        _made(run, results),
        _by_round(results),
        _engines(run),
        funnel_table(run),
        "## Licence\n\nSeeds belong to the data they came from, and nothing here grants a licence to them. Answers and new instructions "
        "come under the terms of the models that wrote them, which often say what may be trained on them. Check both before you train "
        "on the rows or pass them on.",
        table("## Columns", ("column", "meaning"), [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]),
        "## How to make it again\n\n`alignray lion config.yaml --run NEW_FOLDER` with the `config.yaml` of this folder and the same seeds. "
        "Drawings and ids follow from the seed of the config; texts come out the same as far as the models answer alike.",
        _limits(run, results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _made(run: RunFolder, results: LionResults) -> str:
    threshold = threshold_of(run)
    hard = f"a gap of {threshold:g} or more" if threshold is not None else "a gap above a threshold"
    judged = results.judged
    lines = [
        "## How the pools came about",
        "Round by round: the teacher answers what is new in the Train Pool; the student is trained on it; the student answers the whole "
        "Cache Pool, which is all that the teacher has answered so far; the referee scores both answers in both orders. Where "
        f"{hard} shows that the student is behind, an instruction is hard, else easy; without any readable score it is neither, and set "
        "aside. The generator writes new instructions after both; those that are too much like what is there are turned down. The rest is "
        "the next Train Pool and joins the Cache Pool. After the last round the student is trained on what was written last.",
    ]
    counts = _origins(run)
    if counts:
        lines.append(f"Rows by origin: {listed(counts)}.")
    if judged:
        lines.append(f"{number(len(judged))} rounds were judged; the hard share was {percent(judged[0].figure('hard_share'))} in round "
                     f"{judged[0].name} and {percent(judged[-1].figure('hard_share'))} in round {judged[-1].name}.")
    stopped = [f"- stopped in round {one.name}: {escape_markdown(one.stopped)}" for one in results.rounds if one.stopped]
    notes = [f"- {escape_markdown(note)}" for note in results.notes[:20]]
    return "\n\n".join([*lines, *(["\n".join([*stopped, *notes])] if stopped or notes else [])])


def _origins(run: RunFolder) -> Mapping[str, int]:
    try:
        return count_column(run.part_paths(), "origin")
    except (KeyError, ValueError):  # parts of another build
        return {}


def _by_round(results: LionResults) -> str:
    if not results.rounds:
        return ""
    header = ("round", "Train Pool", "Cache Pool", "judged", "hard", "easy", "quarantined", "hard share", "relative quality", "new", "cost")
    benchmarks = list(dict.fromkeys(str(name) for one in results.rounds for name in one.part("benchmarks")))[:12]
    rows = [
        [
            one.name + (" (closing imitation)" if one.is_closing else ""),
            *(number(one.figure(key)) for key in ("train_pool", "cache_pool")),
            *(number(one.figure(key)) if one.is_judged else MISSING for key in ("judged", "hard", "easy", "quarantined")),
            percent(one.figure("hard_share")), _fixed(one.figure("relative_quality")), number(_new(one)), _usd(one),
            *(_measured(one, name) for name in benchmarks),
        ]
        for one in results.rounds
    ]
    told = "Relative quality: the student's scores in percent of the teacher's, on the Cache Pool; it can pass 100."
    return "\n\n".join([table("## Numbers by round", [*header, *map(escape_markdown, benchmarks)], rows), told])


def _new(one: Round) -> float | None:
    made = one.part("generated")
    return amount(made.get("hard")) + amount(made.get("easy")) if made else None


def _usd(one: Round) -> str:
    spent = one.part("usage")
    return _money(sum(amount(lookup(of_role, "usd")) for of_role in spent.values())) if spent else MISSING


def _measured(one: Round, name: str) -> str:
    value, low, high = (one.figure("benchmarks", name, key) for key in ("value", "low", "high"))
    if value is None:
        return MISSING
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g} to {high:.4g})"


def _fixed(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _money(value: Any) -> str:
    return dollars(value).replace("$", "\\$")


def _engines(run: RunFolder) -> str:
    """Roles with their engines, models, prices and what they cost beside the plan."""
    spent, planned = _spent_by_role(run), planned_by_role(run)
    roles = mapping(run.config.get("roles"))
    named = [role for role in dict.fromkeys([*ROLES, *map(str, roles), *spent, *planned]) if role != "default"]
    if not (roles or spent):
        return ""
    rows = [
        (escape_markdown(role), _work(run, role), *_engine(run, role, spent.get(role, {})),
         number(lookup(spent, role, "calls")), _money(lookup(spent, role, "usd")), _money(lookup(planned, role, "usd")))
        for role in named
    ]
    header = ("role", "what it does", "engine", "models", "price", "calls", "cost", "planned")
    return table("## Engines", header, rows) + f"\n\nIn all {_money(lookup(run.manifest, 'usage', 'usd'))}" + (
        f", planned {_money(lookup(run.manifest, 'plan', 'usd'))}." if is_number(lookup(run.manifest, "plan", "usd")) else ".")


def _work(run: RunFolder, role: str) -> str:
    is_fixed = role == "student" and "student" in run.config and run.config["student"] is None
    return "answers the Cache Pool in every round; it is not trained" if is_fixed else _WORK.get(role, "")


def _spent_by_role(run: RunFolder) -> dict[str, dict[str, Any]]:
    by_role: dict[str, dict[str, Any]] = {}
    for step in mapping(lookup(run.manifest, "usage", "steps")).values():
        role = lookup(step, "role")
        if not isinstance(role, str):
            continue
        total = by_role.setdefault(role, {"calls": 0, "usd": 0, "models": {}})
        total["calls"] += amount(lookup(step, "calls"))
        total["usd"] += amount(lookup(step, "usd"))
        models = lookup(step, "models")
        total["models"] |= dict.fromkeys(map(str, models)) if isinstance(models, list) else {}
    return by_role


def _engine(run: RunFolder, role: str, spent: Mapping[str, Any]) -> tuple[str, str, str]:
    """Name and kind of a role's engine, the models behind it, and its price where the config sets one."""
    is_student = role == "student"
    name = lookup(run.config, "roles", role, "engine") or ("student" if is_student else lookup(run.config, "roles", "default", "engine"))
    own = is_student and name == "student"
    engine = mapping(run.config.get("student_engine") if own else lookup(run.config, "engines", str(name)))
    if own and (base := lookup(run.config, "student", "model", "path")):
        return _kind("student", engine), f"each round's checkpoint of {escape_markdown(str(base))}", "its own, 0"
    models = list(spent.get("models") or ()) or [str(model) for model in [engine.get("model")] if model]
    price = mapping(engine.get("price"))
    told = "that of the price table" if engine.get("kind") == "openai" else "its own, 0"
    if price:
        told = f"{_money(price.get('prompt'))} in, {_money(price.get('completion'))} out, per million tokens"
    return (
        _kind(str(name), engine) if name else MISSING, ", ".join(map(escape_markdown, models[:10])) or MISSING,
        told if engine else MISSING,
    )


def _kind(name: str, engine: Mapping[str, Any]) -> str:
    return escape_markdown(name) + (f" ({escape_markdown(str(engine['kind']))})" if engine.get("kind") else "")


def _limits(run: RunFolder, results: LionResults) -> str:
    last = results.judged[-1] if results.judged else None
    lines = [
        "- Answers and new instructions were written by models and were not read by people. They can be wrong, private or offensive.",
        "- Hard and easy are what one referee said of one student at one time. Referees prefer long answers and, some of them, their own.",
        "- Categories of new instructions are those of their parents; what was written may be of another kind.",
        "- New instructions were compared with what was there by their words: the same task in other words can be there twice.",
        "- The students learnt from these rows: do not measure them on these.",
    ]
    first_wins, flips = (last.figure("referee", key) if last else None for key in ("first_wins", "order_flips"))
    if last is not None and (first_wins is not None or flips is not None):
        lines.append(f"- In round {last.name} the answer shown first scored higher in {percent(first_wins)} of the replies (50.0% would be "
                     f"fair), and {percent(flips)} of the winners changed with the order; {number(last.figure('one_reading'))} rows were "
                     "judged by one reply alone.")
    return "\n".join(["## Limits", "", *lines])
