"""The ``alignray`` command: thin, and light to start (no ray, torch or engine is imported before a command runs)."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from alignray.errors import AlignrayError, ConfigError, EngineDown, EngineError, RecordError, ResumeError, StorageError
from alignray.untrusted import printable, storable

if TYPE_CHECKING:
    from alignray.methods.webr.plan import StepForecast
    from alignray.pipelines import bridge, construct, dedup, edit_eval, evaluate, lion, lte, train
    from alignray.pipelines.plan import Plan
    from alignray.pipelines.webr import Outcome
    from alignray.runtime.submit import Job, JobOutcome

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Aligning language models on Ray: web pages into instruction data.",
)

edits_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The edit memory: what a model is to know anew.")
app.add_typer(edits_app, name="edits")

EXPORTS = "openai, sharegpt, alpaca, trl, trl-prompt-completion, openrlhf or llamafactory"
EXTRAS = dict.fromkeys(("torch", "transformers", "peft", "deepspeed", "accelerate"), "train")
"""Packages that not every command needs, by what brings them."""
AGAIN = "run the same command again to go on"
DONE, FAILED, BAD_INPUT, AT_BUDGET, NOTHING = 0, 1, 2, 3, 4


class Method(enum.StrEnum):
    """Methods that take a config."""

    webr = "webr"
    bridge = "bridge"
    lion = "lion"
    followbench = "followbench"
    evaluate = "evaluate"


Config = Annotated[Path, typer.Argument(help="YAML config, such as configs/webr/smoke.yaml", show_default=False)]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a config value: --set budget.usd=5")]
RunDir = Annotated[str | None, typer.Option("--run", metavar="DIR", help="Run folder (default: run_dir of the config)")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout")]
NewRun = Annotated[bool, typer.Option("--new-run", help="Start over; the old run folder is moved aside")]
MemoryArgument = Annotated[str, typer.Argument(metavar="MEMORY", help="Folder of the edit memory", show_default=False)]
RunFolderArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run folder", show_default=False)]


@app.command("webr")
def webr_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Common Crawl shards into instruction data. The same command on the same run folder goes on where it stopped."""
    with _exits(as_json):
        from alignray.pipelines.webr import synthesize

        outcome = synthesize(_webr_config(config, set_, run), new_run=new_run)
        _tell(outcome, as_json, _print_outcome)


@app.command("dedup")
def dedup_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Near-duplicate removal of any text column of Parquet or JSON lines files, with measured recall."""
    with _exits(as_json):
        from alignray.pipelines.dedup import deduplicate
        from alignray.pipelines.dedup_config import DedupJobConfig

        outcome = deduplicate(_loaded(DedupJobConfig, config, set_, run), new_run=new_run)
        _emit(_plain(outcome)) if as_json else _print_dedup(outcome)
        raise typer.Exit(DONE if outcome.status == "done" else NOTHING)


@app.command("bridge")
def bridge_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Preference pairs into pairs that differ where it matters (BMC). The same command on the same run folder goes on."""
    with _exits(as_json):
        from alignray.pipelines.bridge import bridge
        from alignray.pipelines.bridge_config import BridgeJobConfig

        outcome = bridge(_loaded(BridgeJobConfig, config, set_, run), new_run=new_run)
        _tell(outcome, as_json, _print_bridge)


@app.command("train")
def train_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
    check: Annotated[bool, typer.Option("--check", help="Look at the rows, the template and the memory needed; train nothing")] = False,
    tokens_only: Annotated[bool, typer.Option("--tokens-only", help="Stop after the token table (for torchrun -m alignray.train)")] = False,
) -> None:
    """Supervised (sft) or preference training: dpo, ipo, orpo, r_dpo, simpo, figa, each plain or with BMC weights."""
    with _exits(as_json):
        from alignray.pipelines.train_config import TrainJobConfig

        loaded = _loaded(TrainJobConfig, config, set_, run)
        if check:
            from alignray.pipelines.train_check import check_training, print_check

            found = check_training(loaded)
            _emit(_plain(found)) if as_json else print_check(found)
            raise typer.Exit(DONE if found.rows else NOTHING)
        from alignray.pipelines.train import train

        outcome = train(loaded, new_run=new_run, tokens_only=tokens_only)
        _emit(_plain(outcome)) if as_json else _print_train(outcome)


@app.command("followbench")
def followbench_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """FollowBench: answers, rules and verdicts along the constraints' levels; HSR, SSR and CSL with intervals."""
    _evaluate("followbench", config, set_, run, as_json, new_run)


@app.command("evaluate")
def evaluate_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Any list of benchmarks and models in one run. The same command on the same run folder goes on where it stopped."""
    _evaluate("evaluate", config, set_, run, as_json, new_run)


def _evaluate(method: str, config: Path, set_: list[str] | None, run: str | None, as_json: bool, new_run: bool) -> None:
    with _exits(as_json):
        from alignray.pipelines.evaluate import evaluate
        from alignray.pipelines.evaluate_config import EvaluateJobConfig, FollowBenchJobConfig

        kind = FollowBenchJobConfig if method == "followbench" else EvaluateJobConfig
        outcome = evaluate(_loaded(kind, config, set_, run), method=method, new_run=new_run)
        _tell(outcome, as_json, _print_evaluation)


@app.command("compare")
def compare_command(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Run folder of an evaluation", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another one", show_default=False)], as_json: Json = False,
) -> None:
    """Two evaluations item by item: differences with paired intervals, on what both have measured."""
    with _exits(as_json):
        from alignray.pipelines.compare_runs import compare_folders

        found = compare_folders(first, second)
        _emit(found) if as_json else _print_comparisons(found)


@app.command("construct")
def construct_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Initial instructions into a benchmark in FollowBench's form. The same command on the same run folder goes on."""
    with _exits(as_json):
        from alignray.pipelines.construct import construct
        from alignray.pipelines.construct_config import ConstructJobConfig

        outcome = construct(_loaded(ConstructJobConfig, config, set_, run), new_run=new_run)
        _tell(outcome, as_json, _print_construct)


@app.command("lion")
def lion_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds in all; more than last time extends a finished run")] = None,
) -> None:
    """Adversarial distillation: a student imitates a teacher, and new instructions are made after those it fails at."""
    with _exits(as_json):
        from alignray.pipelines.lion import distill
        from alignray.pipelines.lion_config import LionJobConfig

        own = [*(set_ or []), *([f"rounds={rounds}"] if rounds is not None else [])]
        _tell(distill(_loaded(LionJobConfig, config, own, run), new_run=new_run), as_json, _print_lion)


@app.command("lte")
def lte_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Edits into training examples that teach a model to answer by the edits in its prompt. Train on them with alignray train."""
    with _exits(as_json):
        from alignray.pipelines.lte import build_examples
        from alignray.pipelines.lte_config import LTEJobConfig

        _tell(build_examples(_loaded(LTEJobConfig, config, set_, run), new_run=new_run), as_json, _print_lte)


@app.command("edit-eval")
def edit_eval_command(
    config: Config, set_: Sets = None, run: RunDir = None, as_json: Json = False, new_run: NewRun = False,
) -> None:
    """Edited models measured: edit success, portability, locality, fluency; by prompt (LTE, ICE) or by weights (FT, FT-L)."""
    with _exits(as_json):
        from alignray.pipelines.edit_eval import evaluate_edits
        from alignray.pipelines.edit_eval_config import EditEvalJobConfig

        _tell(evaluate_edits(_loaded(EditEvalJobConfig, config, set_, run), new_run=new_run), as_json, _print_edit_eval)


@edits_app.command("add")
def edits_add_command(
    memory: MemoryArgument, file: Annotated[str | None, typer.Argument(metavar="FILE", help="File of edits, instead of the flags")] = None,
    form: Annotated[str, typer.Option("--form", help="Of the file: zsre_mend, zsre_knowedit, wiki_recent, wiki_counterfact, wikibio, "
                                                     "mquake, counterfact or counterfact_questions")] = "counterfact",
    subject: Annotated[str, typer.Option("--subject", help="What the fact is about")] = "",
    prompt: Annotated[str, typer.Option("--prompt", help="The question or the beginning of the sentence")] = "",
    target: Annotated[str, typer.Option("--target", help="What holds now")] = "",
    relation: Annotated[str, typer.Option("--relation", help="Which fact of the subject; the prompt stands in for it")] = "",
    fact: Annotated[str, typer.Option("--fact", help="The fact as a sentence (default: prompt and target)")] = "",
    embedder: Annotated[str | None, typer.Option("--embedder", help="Of a new memory: a sentence-transformers model, or hash")] = None,
    as_json: Json = False,
) -> None:
    """Take in an edit, or a file of them. A newer edit of the same subject and relation supersedes the older one."""
    with _exits(as_json):
        from alignray.pipelines.edits import add_file, add_one, open_memory

        if file is not None and (subject or prompt or target or relation or fact):
            raise ConfigError("give FILE, or --subject, --prompt and --target (--relation, --fact), not both")
        with open_memory(memory, embedder=embedder, writable=True) as opened:
            if file is not None:
                counts = add_file(opened, file, _edit_form(form))
                found: dict[str, Any] = {**counts, "live": opened.num_live}
            else:
                result = add_one(opened, subject=subject, prompt=prompt, target=target, relation=relation, fact=fact)
                found = {"edit_id": result.edit.edit_id, "outcome": result.outcome, "note": result.note, "live": opened.num_live}
        _emit(found) if as_json else _print_status({name: value for name, value in found.items() if value != ""})


@edits_app.command("list")
def edits_list_command(
    memory: MemoryArgument, ended: Annotated[bool, typer.Option("--ended", help="Superseded and deleted ones too")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many")] = 50, as_json: Json = False,
) -> None:
    """Edits in the order they were taken in."""
    with _exits(as_json):
        from alignray.pipelines.edits import listed_edits, open_memory

        with open_memory(memory) as opened:
            edits, live = listed_edits(opened, include_ended=ended, limit=limit), opened.num_live
        if as_json:
            _emit({"live": live, "edits": [{**_plain(edit), "metadata": dict(edit.metadata)} for edit in edits]})
            return
        for edit in edits:
            fate = "" if edit.is_live else "  (deleted)" if edit.deleted else f"  (superseded by {edit.superseded_by})"
            typer.echo(printable(f"{edit.edit_id}  {edit.descriptor}{fate}"))
        typer.echo(f"{live:,} live")


@edits_app.command("rm")
def edits_rm_command(
    memory: MemoryArgument, edit_id: Annotated[str, typer.Argument(metavar="EDIT_ID", show_default=False)], as_json: Json = False,
) -> None:
    """End an edit; it stays in the history, and what it superseded does not come back."""
    with _exits(as_json):
        from alignray.pipelines.edits import open_memory, remove

        with open_memory(memory, writable=True) as opened:
            edit, live = remove(opened, edit_id), opened.num_live
        _emit({"edit_id": edit.edit_id, "live": live}) if as_json else typer.echo(printable(f"ended: {edit.descriptor}; {live:,} live"))


@edits_app.command("find")
def edits_find_command(
    memory: MemoryArgument, query: Annotated[str, typer.Argument(metavar="QUERY", show_default=False)],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Edits to find")] = 3,
    floor: Annotated[float | None, typer.Option("--floor", help="Least cosine similarity")] = None,
    as_of: Annotated[int | None, typer.Option("--as-of", help="As the memory was at this version")] = None, as_json: Json = False,
) -> None:
    """The edits nearest to a query, and the prompt that a model would get with them."""
    with _exits(as_json):
        from alignray.methods.lte.render import render_prompt
        from alignray.pipelines.edits import open_memory

        with open_memory(memory) as opened:
            near = opened.top_k([query], top_k, floor=floor, as_of=as_of)[0]
        prompt = render_prompt([one.edit.descriptor for one in near], query)
        if as_json:
            shown = [{"edit_id": one.edit.edit_id, "score": one.score, "fact": one.edit.descriptor} for one in near]
            _emit({"edits": shown, "prompt": prompt})
            return
        for one in near:
            typer.echo(printable(f"{one.score:.3f}  {one.edit.edit_id}  {one.edit.descriptor}"))
        typer.echo(printable(f"\n{prompt}"))


@edits_app.command("serve")
def edits_serve_command(config: Config, set_: Sets = None) -> None:
    """Serve the edits, and chat completions of a model that knows them, over HTTP until interrupted."""
    with _exits(False):
        from alignray.serve.edits import run
        from alignray.serve.edits_config import EditServerConfig

        run(_loaded(EditServerConfig, config, set_, None), tell=lambda line: typer.echo(printable(line), err=True))


def _edit_form(form: str) -> Any:
    from typing import get_args

    from alignray.io.edits import EditFile

    if form not in get_args(EditFile):
        raise ConfigError(f"--form {form!r} is no form of edit files; choose {', '.join(get_args(EditFile))}")
    return form


@app.command("rewards")
def rewards_command(
    host: Annotated[str, typer.Option("--host", help="Address; there is no login, so only this machine by default")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port")] = 8770,
) -> None:
    """Serve FollowBench's and IFEval's rules as rewards over HTTP, for OpenRLHF's remote reward (PPO, GRPO)."""
    with _exits(False):
        from alignray.serve.rewards import run

        typer.echo(f"POST http://{host}:{port}/reward", err=True)
        run(host, port)


@app.command("plan")
def plan_command(
    method: Annotated[Method, typer.Argument(help="What to plan")], config: Config, set_: Sets = None, as_json: Json = False,
    figures: Annotated[bool, typer.Option("--thesis-figures", help="The thesis' counts (4.5, 6.5, A.4) at this config's prices")] = False,
) -> None:
    """Rows, calls, tokens and dollars with an interval, from a sample of the real input. Nothing is spent."""
    with _exits(as_json):
        if method is Method.bridge:
            _plan_bridge(config, set_, as_json, figures=figures)
            return
        if method is Method.lion:
            from alignray.pipelines.lion_config import LionJobConfig
            from alignray.pipelines.lion_plan import plan_lion

            forecast = plan_lion(_loaded(LionJobConfig, config, set_, None), thesis=figures)
            _emit(_plain(forecast)) if as_json else _print_plan(forecast)
            return
        if method in (Method.followbench, Method.evaluate):
            _plan_evaluation(method, config, set_, as_json, figures=figures)
            return
        loaded = _webr_config(config, set_, None)
        if figures:
            _print_table_4_5(loaded, as_json)
            return
        from alignray.pipelines.plan import plan_webr

        plan = plan_webr(loaded)
        _emit(_plain(plan)) if as_json else _print_plan(plan)


@app.command("submit")
def submit_command(
    method: Annotated[
        str, typer.Argument(
            metavar="METHOD", show_default=False,
            help="webr, dedup, bridge, train, lion, lte, edit-eval, followbench, evaluate or construct"),
    ], config: Config,
    address: Annotated[str, typer.Option(
        "--address", metavar="URL", envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], show_default=False,
        help="The cluster's dashboard, such as http://HEAD:8265",
    )],
    set_: Sets = None, run: RunDir = None, new_run: NewRun = False,
    env: Annotated[list[str] | None, typer.Option("--env", metavar="NAME", help="Environment variable the cluster must have set")] = None,
    pip: Annotated[bool, typer.Option("--pip", help="Have Ray install the locked requirements first (minutes)")] = False,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0, help="Refuse to send more than this")] = 50,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job")] = False, as_json: Json = False,
) -> None:
    """A run as a Ray job: checked here, sent, its log followed. Submitting again with the same run folder goes on."""
    with _exits(as_json):
        from alignray.pipelines.jobs import job_config
        from alignray.runtime.submit import submit

        loaded = _loaded(job_config(method), config, set_, run)
        job = submit(method, loaded, address=address, new_run=new_run, env=env or (), pip=pip, max_bytes=int(max_mb * 1e6))
        outcome = _followed(job, no_wait=no_wait, as_json=as_json)
        _emit(_plain(outcome)) if as_json else _print_job(outcome)
        raise typer.Exit(outcome.exit_code)


@app.command("status")
def status_command(run: RunFolderArgument, as_json: Json = False) -> None:
    """How a run stands, from its files alone."""
    with _exits(as_json):
        from alignray.pipelines.inspect_run import status_of

        status = status_of(run)
        _emit(status) if as_json else _print_status(status)


@app.command("report")
def report_command(run: RunFolderArgument) -> None:
    """Write report.html again from the run folder's files, and print its path."""
    with _exits(False):
        from alignray.pipelines.inspect_run import rewrite_report

        typer.echo(printable(rewrite_report(run)))


@app.command("trace")
def trace_command(run: RunFolderArgument, row_id: Annotated[str, typer.Argument(metavar="ROW_ID", show_default=False)]) -> None:
    """Everything known of one row as JSON: its page, every call with its price, and what became of it."""
    with _exits(True):
        from alignray.pipelines.inspect_run import trace

        _emit(trace(run, row_id))


@app.command("export")
def export_command(
    run: RunFolderArgument,
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=EXPORTS)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; openrlhf: a folder, with launch files", show_default=False)],
) -> None:
    """The finished rows in another trainer's format."""
    with _exits(False):
        from alignray.io.export import export

        typer.echo(printable(f"{export(run, format_, out):,} rows in {out}"))


def _loaded(kind: Any, path: Path, overrides: list[str] | None, run: str | None) -> Any:
    import json

    from alignray.config import load_config

    return load_config(kind, path, overrides=[*(overrides or []), *([f"run_dir={json.dumps(run)}"] if run else [])])


def _webr_config(path: Path, overrides: list[str] | None, run: str | None) -> Any:
    from alignray.pipelines.webr_config import WebRJobConfig

    return _loaded(WebRJobConfig, path, overrides, run)


class _exits:  # noqa: N801  reads as "with exits"
    """Turns our errors into one line on stderr and an exit code; anything else is a bug and keeps its traceback."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            _fail(f"stopped; {AGAIN}", 130, self._as_json)
        if isinstance(error, ConfigError | RecordError | ResumeError):
            _fail(str(error), BAD_INPUT, self._as_json)
        if isinstance(error, EngineDown | StorageError):
            _fail(f"{error}; what was done is kept, {AGAIN}", FAILED, self._as_json)
        if isinstance(error, EngineError | AlignrayError):
            _fail(str(error), FAILED, self._as_json)
        if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get(str(error.name).partition(".")[0])):
            _fail(f"{error.name} is not installed; run pip install 'alignray[{extra}]' (or make setup)", BAD_INPUT, self._as_json)


def _tell(outcome: Any, as_json: bool, show: Callable[[Any], None]) -> NoReturn:
    """How a run ended, and the exit code for it."""
    _emit(_plain(outcome)) if as_json else show(outcome)
    raise typer.Exit({"done": DONE, "stopped_at_budget": AT_BUDGET, "empty": NOTHING}.get(outcome.status, FAILED))


def _fail(message: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        _emit({"status": "failed", "message": storable(message)})
    typer.echo(f"alignray: {printable(message)}", err=True)
    sys.stdout.flush()
    raise typer.Exit(code)


def _plain(value: Any) -> Any:
    import dataclasses

    return dataclasses.asdict(value)


def _emit(value: Any) -> None:
    import orjson

    typer.echo(printable(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()))


def _shown(text: object) -> str:
    """Somebody else's text for a rich console."""
    from rich.markup import escape

    return escape(printable(str(text)))


def _print_outcome(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=None, box=None, padding=(0, 2), show_header=True, header_style="dim")
    for column, side in (("step", "left"), ("calls", "right"), ("tokens in", "right"), ("tokens out", "right"), ("USD", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for name, usage in outcome.usage["steps"].items():
        table.add_row(
            name, f"{usage['calls']:,}", f"{usage['prompt_tokens']:,}", f"{usage['completion_tokens']:,}", f"{usage['usd']:.4f}",
        )
    console.print(table)
    branches = ", ".join(f"{count:,} web-as-{name}" for name, count in outcome.branches.items())
    console.print(f"\n[bold]{outcome.rows:,} rows kept[/] ({branches})", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    console.print(f"tokens    {outcome.usage['tokens']:,}   USD {outcome.usage['usd']:.4f}", highlight=False)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    console.print(f"dataset   {_shown(outcome.run_dir)}/parts", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no row was kept")
    if outcome.status == "done" and outcome.message:
        console.print(f"[yellow]fewer rows than wanted[/]: {_shown(outcome.message)}", highlight=False, soft_wrap=True)


def _print_bridge(outcome: bridge.Outcome) -> None:
    from rich.console import Console

    console = Console()
    for name, step in outcome.usage["steps"].items():
        console.print(
            f"{name:<12} {step['calls']:>9,} calls {step['prompt_tokens']:>12,} tokens in {step['completion_tokens']:>11,} out "
            f"{step['usd']:>10.4f} USD", highlight=False, soft_wrap=True,
        )
    console.print(f"[bold]{outcome.rows:,} pairs to train on[/]", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    facts = outcome.bridging
    if facts["edited"] and facts["task"] != "instruction":
        console.print(f"found good already: {facts['already_good']:,} of {facts['edited']:,} ({facts['good_rate']:.1%})", highlight=False)
    if facts["mean_edit_rate"] is not None:
        console.print(
            f"changed on average: {facts['mean_edit_rate']:.1%} of an answer; between the original answers "
            f"{facts['mean_original_edit_rate']:.1%}; copies of the reference: {facts['copies']:,}", highlight=False, soft_wrap=True,
        )
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    console.print(f"dataset   {_shown(outcome.run_dir)}/parts", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no pair was kept")


def _print_evaluation(outcome: evaluate.Outcome) -> None:
    from rich.console import Console

    console = Console()
    for name, benchmarks in outcome.figures.items():
        for benchmark, figures in benchmarks.items():
            console.print(f"[bold]{_shown(name)}[/] on {_shown(benchmark)}", highlight=False, soft_wrap=True)
            for figure in (figure for figure in figures if not figure["category"]):
                interval = "" if figure["low"] is None else f"{figure['low']:.4g} to {figure['high']:.4g}"
                value = "-" if figure["value"] is None else f"{figure['value']:.4g}"
                unscored = f", {figure['num_unscored']:,} unscored" if figure["num_unscored"] else ""
                line = f"  {_shown(figure['metric']):<32} {value:>8}  {interval:<20} {figure['num']:,} items{unscored}"
                console.print(line, highlight=False, soft_wrap=True)
    _print_comparisons(outcome.comparisons)
    for note in outcome.notes:
        console.print(f"note      {_shown(note)}", highlight=False, soft_wrap=True)
    console.print(f"[bold]{outcome.rows:,} items scored[/]", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    console.print(f"tokens    {outcome.usage['tokens']:,}   USD {outcome.usage['usd']:.4f}", highlight=False)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no item was scored")


def _print_comparisons(comparisons: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console()
    for found in comparisons:
        difference, low, high = ("-" if found[name] is None else f"{found[name]:+.4g}" for name in ("difference", "low", "high"))
        is_open = found["verdict"] == "not separable"
        console.print(
            f"{_shown(found['benchmark'])} {_shown(found['metric'])}: {_shown(found['first'])} - {_shown(found['second'])} = {difference} "
            f"({low} to {high}, {found['num']:,} items), {'not separable' if is_open else _shown(found['verdict']) + ' is higher'}",
            highlight=False, soft_wrap=True,
        )


def _print_construct(outcome: construct.Outcome) -> None:
    from rich.console import Console

    console = Console()
    for name, facts in outcome.construction.items():
        console.print(
            f"{name:<10} {facts['examples']:>6,} examples {facts['items']:>7,} items, {facts['written']:,} in the file "
            f"({facts['accepted']:,} accepted, {facts['rejected']:,} rejected, {facts['unreviewed']:,} unreviewed)",
            highlight=False, soft_wrap=True,
        )
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    for note in outcome.notes:
        console.print(f"note      {_shown(note)}", highlight=False, soft_wrap=True)
    for path in outcome.benchmarks.values():
        console.print(f"benchmark {_shown(path)}", highlight=False, soft_wrap=True)
    console.print(f"tokens    {outcome.usage['tokens']:,}   USD {outcome.usage['usd']:.4f}", highlight=False)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no item was made")


def _print_lion(outcome: lion.Outcome) -> None:
    from rich.console import Console

    console = Console()
    for state in outcome.rounds:
        line = f"[bold]round {state['round']}[/]  train {state['train_pool']:,}, cache {state['cache_pool']:,}"
        if state["judged"]:
            line += (f"; hard {state['hard']:,} ({state['hard_share']:.1%}), easy {state['easy']:,}, quarantined {state['quarantined']:,}; "
                     f"student at {state['relative_quality']:.1f} % of the teacher")
        if state["generated"] is not None:
            line += f"; new {state['generated']['hard'] + state['generated']['easy']:,} of {state['generated']['drawn']:,} drawn"
        console.print(line, highlight=False, soft_wrap=True)
        for name, figure in state["benchmarks"].items():
            console.print(f"  {_shown(name)} {_shown(figure['metric'])} {figure['value']:.4g}", highlight=False, soft_wrap=True)
    console.print(f"[bold]{outcome.rows:,} instructions with the teacher's answer[/]", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    for note in outcome.notes:
        console.print(f"note      {_shown(note)}", highlight=False, soft_wrap=True)
    console.print(f"tokens    {outcome.usage['tokens']:,}   USD {outcome.usage['usd']:.4f}", highlight=False)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    console.print(f"dataset   {_shown(outcome.run_dir)}/parts", highlight=False, soft_wrap=True)
    if outcome.model:
        console.print(f"model     {_shown(outcome.model)}", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no instruction was kept")


def _print_lte(outcome: lte.Outcome) -> None:
    from rich.console import Console

    from alignray.pipelines.lte import summary_of

    console = Console()
    for line in summary_of(outcome.data):
        console.print(_shown(line), highlight=False, soft_wrap=True)
    console.print(f"[bold]{outcome.rows:,} examples to train on[/], with and without the edit prompt", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    for note, count in outcome.data["notes"].items():
        console.print(f"note      {_shown(note)}: {count:,}", highlight=False, soft_wrap=True)
    console.print(f"tokens    {outcome.usage['tokens']:,}   USD {outcome.usage['usd']:.4f}", highlight=False)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    console.print(f"dataset   {_shown(outcome.run_dir)}/parts", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no example was kept")


def _print_edit_eval(outcome: edit_eval.Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    from alignray.pipelines.edit_eval import table_of_figures

    console = Console()
    metrics = ("edit_success", "portability", "locality", "fluency")
    table = Table("data set", "editing", "method", *(name.replace("_", " ") for name in metrics), box=None)
    for row in table_of_figures(outcome.evaluation):
        values = ["-" if name not in row else f"{row[name]:.0f}" if name == "fluency" else f"{row[name]:.3f}" for name in metrics]
        editing = " ".join((row["mode"], *([str(row["size"])] if row["mode"] != "single" else []), row["when"].replace("_", " "))).strip()
        table.add_row(row["source"], editing, _shown(row["method"]), *values)
    console.print(table)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    console.print(f"[bold]{outcome.rows:,} questions scored[/]; shown: token accuracy under teacher forcing, fluency x100", highlight=False)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    _print_stop(outcome.status, outcome.message, "no question was scored")


def _print_stop(status: str, message: str, nothing: str) -> None:
    """Why a run is not done, and what to do."""
    from rich.console import Console

    console = Console()
    if status == "stopped_at_budget":
        console.print(f"[yellow]stopped at the budget[/]: {_shown(message)}; raise it and run again to go on", soft_wrap=True)
    elif status == "failed":
        console.print(f"[red]stopped[/]: {_shown(message)}; what was done is kept, {AGAIN}", soft_wrap=True)
    elif status == "empty":
        console.print(f"[yellow]finished, and {nothing}[/]: see the reasons above", highlight=False)


def _print_train(outcome: train.Outcome) -> None:
    from rich.console import Console

    console = Console()
    console.print(f"[bold]{outcome.rows:,} rows trained on[/], {outcome.eval_rows:,} held out, {outcome.steps:,} steps", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>7,}  {_shown(reason)}", highlight=False)
    if outcome.reference is not None:
        console.print(
            f"reference  {outcome.reference['found']:,} of {outcome.reference['distinct']:,} rows were in the store, "
            f"{outcome.reference['computed']:,} computed", highlight=False, soft_wrap=True,
        )
    if outcome.layout:
        why = f" ({outcome.layout_reason})" if outcome.layout_reason else ""
        console.print(f"layout     {outcome.layout}{_shown(why)}", highlight=False, soft_wrap=True)
    for name in ("loss", "accuracy", "margin", "eval_loss", "eval_accuracy", "eval_margin", "eval_kl"):
        if name in outcome.metrics:
            console.print(f"{name:<14} {outcome.metrics[name]:.4f}", highlight=False)
    console.print(f"report     {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    if outcome.model:
        console.print(f"model      {_shown(outcome.model)}", highlight=False, soft_wrap=True)


def _print_dedup(outcome: dedup.Outcome) -> None:
    from rich.console import Console

    console = Console()
    stats, quality = outcome.stats, outcome.stats["quality"]
    console.print(f"[bold]{outcome.kept:,} of {outcome.rows:,} rows kept[/], {stats['clusters']:,} clusters", highlight=False)
    for reason, count in sorted(outcome.rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {count:>9,}  {_shown(reason)}", highlight=False)
    console.print(
        f"threshold {stats['threshold']:g}, {stats['bands']} bands of {stats['rows_per_band']}; {stats['candidates']:,} candidate pairs, "
        f"{stats['verified']:,} verified; {stats['capped']:,} capped buckets", highlight=False, soft_wrap=True,
    )
    if quality and quality["num_at"]:
        console.print(
            f"recall at the threshold {quality['recall']:.3f} (95 % interval {quality['recall_low']:.3f} to {quality['recall_high']:.3f}, "
            f"{quality['num_at']} planted pairs)" + (
                f", precision {quality['precision']:.3f} ({quality['precision_low']:.3f} to {quality['precision_high']:.3f})"
                if quality["precision"] is not None else ""
            ), highlight=False, soft_wrap=True,
        )
    for name, count in outcome.contaminated.items():
        console.print(f"{count:,} rows share words with {_shown(name)}: {_shown(outcome.run_dir)}/hits", highlight=False, soft_wrap=True)
    if outcome.retracted:
        where = f"{outcome.run_dir}/retracted"
        console.print(f"{outcome.retracted:,} rows of earlier runs are replaced: {_shown(where)}", highlight=False, soft_wrap=True)
    for warning in outcome.warnings:
        console.print(f"[yellow]warning[/]: {_shown(warning)}", highlight=False, soft_wrap=True)
    console.print(f"report    {_shown(outcome.report)}", highlight=False, soft_wrap=True)
    console.print(f"rows      {_shown(outcome.run_dir)}/parts", highlight=False, soft_wrap=True)


def _followed(job: Job, *, no_wait: bool, as_json: bool) -> JobOutcome:
    from alignray.runtime.submit import JobOutcome, follow

    size = f"{job.num_bytes / 1e6:.1f} MB"
    typer.echo(f"job {job.submission_id} sent to {job.address} ({size}), run folder {job.run_dir}", err=True)
    if no_wait:
        return JobOutcome(job.submission_id, job.run_dir, "submitted", DONE)
    try:
        return follow(job, lambda text: typer.echo(text, nl=False, err=as_json))
    except KeyboardInterrupt:
        look, stop = (f"ray job {verb} {job.submission_id} --address {job.address}" for verb in ("logs --follow", "stop"))
        message = f"job {job.submission_id} goes on; look again: {look}; how it stands: alignray status {job.run_dir}; stop it: {stop}"
        _fail(message, 130, as_json)


def _print_job(outcome: JobOutcome) -> None:
    message = f" ({printable(outcome.message)})" if outcome.message else ""
    typer.echo(f"job        {outcome.submission_id} {outcome.status}{message}")
    typer.echo(f"run folder {printable(outcome.run_dir)}")


def _print_plan(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column, side in (("step", "left"), ("calls", "right"), ("tokens in", "right"), ("tokens out", "right"), ("USD", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for step in plan.steps.values():
        table.add_row(step.step, f"{step.calls:,}", f"{step.prompt_tokens:,}", f"{step.completion_tokens:,}", _usd(step.usd))
    table.add_section()
    table.add_row("total", f"{plan.calls:,}", f"{plan.prompt_tokens:,}", f"{plan.completion_tokens:,}", _usd(plan.usd))
    console.print(table)
    bounds = "" if plan.pages_low == plan.pages_high else f" ({plan.pages_low:,} to {plan.pages_high:,})"
    console.print(f"\n{plan.unit} {plan.pages:,}{bounds}, drafts {plan.drafts:,}, rows up to {plan.rows:,}", highlight=False)
    interval = f"90 % interval {_usd(plan.low_usd)} to {_usd(plan.high_usd)}"
    console.print(f"USD {_usd(plan.usd)}, {interval}; from {plan.sampled_pages} {plan.unit}", highlight=False)
    for note in plan.notes:
        console.print(f"note: {_shown(note)}", highlight=False)


def _usd(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 10 or amount == 0 else f"{amount:.4f}"


def _print_table_4_5(config: Any, as_json: bool) -> None:
    from alignray.engine import price_of
    from alignray.methods.webr.plan import table_4_5
    from alignray.runtime.ask import role_of

    price = price_of(config.engines[role_of(config.roles, "author").engine])
    _print_figures(table_4_5((price.prompt, price.completion)), as_json)


def _plan_bridge(path: Path, overrides: list[str] | None, as_json: bool, *, figures: bool) -> None:
    from alignray.pipelines.bridge_config import BridgeJobConfig
    from alignray.pipelines.bridge_plan import plan_bridge, table_6_5
    from alignray.pipelines.plan import price_of_role

    config = _loaded(BridgeJobConfig, path, overrides, None)
    if figures:
        _print_figures(table_6_5(price_of_role(config.engines, config.roles, "editor")), as_json)
        return
    plan = plan_bridge(config)
    _emit(_plain(plan)) if as_json else _print_plan(plan)


def _plan_evaluation(method: Method, path: Path, overrides: list[str] | None, as_json: bool, *, figures: bool) -> None:
    from alignray.pipelines.evaluate_config import EvaluateJobConfig, FollowBenchJobConfig
    from alignray.pipelines.evaluate_plan import plan_evaluation

    if figures:
        raise ConfigError(f"--thesis-figures is about webr, bridge and lion; the thesis prints no bill of {method.value}")
    plan = plan_evaluation(_loaded(FollowBenchJobConfig if method is Method.followbench else EvaluateJobConfig, path, overrides, None))
    _emit(_plain(plan)) if as_json else _print_plan(plan)


def _print_figures(steps: list[StepForecast], as_json: bool) -> None:
    from alignray.methods.webr.plan import total

    if as_json:
        _emit({"steps": [_plain(step) for step in steps], "usd": round(total(steps), 2)})
        return
    for step in steps:
        typer.echo(f"{step.step:<40} {step.calls:>8,} calls {step.usd:>8.2f} USD")
    typer.echo(f"{'total':<40} {sum(step.calls for step in steps):>8,} calls {total(steps):>8.2f} USD")


def _print_status(status: dict[str, Any]) -> None:
    for key, value in status.items():
        typer.echo(printable(f"{key:<12} {value}"))


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
