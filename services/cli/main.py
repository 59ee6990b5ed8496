"""`tafs`: align a few-step text-to-image model with a reward. Commands import late, so that help answers at once."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from services.errors import ConfigError, ExitCode, TafsError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)

RunFile = Annotated[Path, typer.Argument(help="Run file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change: dotted.key=value, or @FILE of them.", show_default=False)
]


@app.command()
def train(
    run_file: RunFile,
    overrides: Overrides = None,
    *,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; an earlier run of this name is moved aside.")
    ] = False,
) -> None:
    """Train; the same run name goes on from its last checkpoint."""
    from services.cli.run_file import load_run_file
    from services.cli.train import train_run

    raise typer.Exit(train_run(load_run_file(run_file, overrides or ()), fresh=fresh))


@app.command()
def check(
    run_file: RunFile,
    overrides: Overrides = None,
    *,
    node: Annotated[
        list[str] | None,
        typer.Option(
            help="Plan on such nodes: '8x cpus=32 gpus=8 gpu_gib=80'; again for others. Default: this machine."
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            help="Seconds that were measured, 'sample=1.2 decode=0.4 score=0.3 update=20': the pace of the run."
        ),
    ] = None,
) -> None:
    """Check everything that can be known before a start; say what would run where and what memory it would take."""
    from services.cli.plan import given_pace, nodes_of, plan_lines
    from services.cli.run_file import load_run_file
    from services.fleet.planning.preflight import check_inputs
    from services.fleet.planning.surroundings import check_surroundings
    from services.fleet.workers.build import check_policy

    config = load_run_file(run_file, overrides or ())
    paced = given_pace(config, latency)
    planned = plan_lines(config, nodes_of(node or ()))
    inputs = check_inputs(config, here=not node)
    for line in (*inputs, check_policy(config), *check_surroundings(config), *planned, *paced):
        typer.echo(line)


@app.command()
def submit(
    run_file: RunFile,
    overrides: Overrides = None,
    *,
    address: Annotated[str, typer.Option(envvar="TAFS_JOB_SERVER", help="Ray's job server.")] = "http://127.0.0.1:8265",
    python: Annotated[str, typer.Option(help="Interpreter on the cluster.")] = "python",
    wait: Annotated[bool, typer.Option(help="Follow the run and end with its exit code.")] = True,
    show: Annotated[bool, typer.Option("--print", help="Only print the command.")] = False,
) -> None:
    """Run on a Ray cluster: submit as a job, or attach to the run's job that is going on."""
    from services.cli.submit import submit as submit_job

    given = overrides or ()
    raise typer.Exit(submit_job(run_file, given, address=address, python=python, wait=wait, show=show))


@app.command(name="inspect")
def inspect_model(
    model: Annotated[Path, typer.Argument(help="Pipeline folder, or hub:owner/name.", show_default=False)],
    *,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the schedule shown.")] = 4,
    height: Annotated[int, typer.Option(min=1, help="Pixels.")] = 1024,
    width: Annotated[int, typer.Option(min=1, help="Pixels.")] = 1024,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter counted.")] = 32,
) -> None:
    """Show a model's family, latents, native schedule, adapter targets, parameters and memory."""
    from services.cli.inspect_model import inspect_model as lines

    for line in lines(model, steps, height, width, rank):
        typer.echo(line)


@app.command()
def twin(
    family: Annotated[str, typer.Argument(help="sd3, flux1, flux2_klein, sana_sprint, z_image or qwen_image.")],
    folder: Annotated[Path, typer.Argument(help="Where it is written.", show_default=False)],
) -> None:
    """Write a tiny random pipeline of a family's own classes, to try run files and machines without its weights."""
    from services.cli.twin import write_twin

    typer.echo(write_twin(family, folder))


@app.command()
def evaluate(
    run_file: RunFile,
    overrides: Overrides = None,
    *,
    adapter: Annotated[Path | None, typer.Option(help="A saved adapter; without one the base model.")] = None,
) -> None:
    """Measure a model, with or without an adapter, on the run file's evaluation prompts."""
    from services.cli.measure import evaluate_adapter
    from services.cli.run_file import load_run_file

    evaluate_adapter(load_run_file(run_file, overrides or ()), adapter)


@app.command()
def sample(
    run_file: RunFile,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    *,
    adapter: Annotated[Path | None, typer.Option(help="A saved adapter; without one the base model.")] = None,
    output: Annotated[Path, typer.Option(help="PNG: one row per sample, one column per step.")] = Path("sample.png"),
    count: Annotated[int, typer.Option(min=1, help="Samples.")] = 4,
) -> None:
    """Draw a prompt with the serving sampler and keep every step's one-step prediction."""
    from services.cli.measure import sample_strip
    from services.cli.run_file import load_run_file

    typer.echo(sample_strip(load_run_file(run_file), prompt, adapter, output, count))


@app.command()
def status(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/quickstart.")],
    *,
    watch: Annotated[
        bool | None, typer.Option("--watch/--once", help="Live, or once. Default: live on a terminal.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Show where a run stands: progress, queue, and every worker."""
    from rich.console import Console

    from services.cli.status import show_status, watch_status

    console = Console()
    if console.is_terminal if watch is None else watch:
        watch_status(run_folder, console, every_s=every)
    else:
        show_status(run_folder, console)


@app.command()
def drain(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/quickstart.", show_default=False)],
    *,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the run's end; 0 does not.")] = 600.0,
) -> None:
    """Ask a run to finish the groups in flight, checkpoint and leave, as SIGTERM does."""
    from services.cli.elastic import ask_drain

    ask_drain(run_folder, wait_s=wait)


@app.command()
def scale(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/quickstart.", show_default=False)],
    workers: Annotated[list[str], typer.Argument(help="rollout=N, reward=M.", show_default=False)],
) -> None:
    """Have more or fewer workers in a run that is going on; those that leave finish what they have in hand."""
    from services.cli.elastic import ask_workers

    for role, count in ask_workers(run_folder, workers).items():
        typer.echo(f"{role}: {count} asked for; `tafs status {run_folder}` shows them")


failed = typer.Typer(no_args_is_help=True, help="The dead letters: groups that failed too often, and why.")
app.add_typer(failed, name="failed")
RunFolder = Annotated[Path, typer.Argument(help="Run folder, e.g. runs/quickstart.", show_default=False)]
Groups = Annotated[list[int] | None, typer.Argument(help="Numbers of groups.", show_default=False)]
Every = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


@failed.command(name="ls")
def failed_ls(run_folder: RunFolder) -> None:
    """List them."""
    from rich.console import Console

    from services.cli.failed import list_letters

    list_letters(run_folder, Console())


@failed.command(name="show")
def failed_show(
    run_folder: RunFolder, group: Annotated[int, typer.Argument(help="Number of the group.", show_default=False)]
) -> None:
    """Show one with its prompt, its weights and the error, as JSON."""
    from services.cli.failed import letter_as_json

    typer.echo(letter_as_json(run_folder, group))


@failed.command(name="retry")
def failed_retry(run_folder: RunFolder, groups: Groups = None, *, every: Every = False) -> None:
    """Have groups drawn again, with a clean record."""
    from services.cli.failed import settle_letters

    done = settle_letters(run_folder, groups or (), every=every, retry=True)
    typer.echo(f"drawn again: {', '.join(map(str, done)) or 'none'}")


@failed.command(name="drop")
def failed_drop(run_folder: RunFolder, groups: Groups = None, *, every: Every = False) -> None:
    """Throw letters away; their groups are not trained."""
    from services.cli.failed import settle_letters

    done = settle_letters(run_folder, groups or (), every=every, retry=False)
    typer.echo(f"dropped: {', '.join(map(str, done)) or 'none'}")


@app.command()
def trace(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/quickstart.")],
    *,
    output: Annotated[Path | None, typer.Option(help="Default: trace.json in the run folder.")] = None,
    group: Annotated[str | None, typer.Option(help="Show this group's way instead: its number, or gid.")] = None,
) -> None:
    """Write the run's updates, phases and workers as a trace for ui.perfetto.dev or chrome://tracing."""
    from services.cli.trace import group_lines, write_trace

    for line in [str(write_trace(run_folder, output))] if group is None else group_lines(run_folder, group):
        typer.echo(line)


@app.command()
def replay(
    run_folder: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/quickstart.", show_default=False)],
    *,
    from_update: Annotated[
        int | None, typer.Option(min=1, help="First update to do again. Default: the earliest that has a start.")
    ] = None,
    to_update: Annotated[int | None, typer.Option(min=1, help="Last one. Default: the last recorded.")] = None,
) -> None:
    """Do a run's updates again from its recordings (fleet.record), with the learner alone; is the end the same?"""
    from rich.console import Console

    from services.cli.replay import replay_run

    raise typer.Exit(replay_run(run_folder, from_update, to_update, Console()))


@app.command()
def report(
    run_folders: Annotated[
        list[Path], typer.Argument(help="Run folders, e.g. runs/quickstart; several are compared.", show_default=False)
    ],
    *,
    output: Annotated[
        Path | None, typer.Option(help="Default: report.html in the run folder, or comparison.html beside the first.")
    ] = None,
) -> None:
    """Write a run's report anew, or one page that compares several runs."""
    from services.cli.report import write_reports

    typer.echo(write_reports(run_folders, output))


@app.command()
def bench(run_file: RunFile, overrides: Overrides = None) -> None:
    """Time sampling, decoding, scoring and updating against their pure network and scorer calls."""
    from services.cli.bench import bench_run
    from services.cli.run_file import load_run_file

    bench_run(load_run_file(run_file, overrides or ()))


@app.command()
def bench_fleet(
    run_file: RunFile,
    overrides: Overrides = None,
    *,
    draw: Annotated[float, typer.Option(min=0, help="Seconds to draw a group.")] = 10.0,
    score: Annotated[float, typer.Option(min=0, help="Seconds to score one.")] = 2.0,
    update: Annotated[float, typer.Option(min=0, help="Seconds of an update.")] = 5.0,
    sample_kb: Annotated[int, typer.Option(min=1, help="Of a sample's latents, and of its images.")] = 8,
    weights_kb: Annotated[int, typer.Option(min=1, help="Of an adapter.")] = 1024,
    updates: Annotated[int, typer.Option(min=1, help="That are counted.")] = 10,
    actors: Annotated[bool, typer.Option("--actors", help="A second time with a Ray actor for each worker.")] = False,
) -> None:
    """Simulate the run file's fleet: the controller's CPU a group, and how long the learner waits."""
    from rich.console import Console

    from services.cli.bench_fleet import print_figures, simulate
    from services.cli.run_file import load_run_file
    from services.fleet.workers.simulated import Latencies

    sizes = {"latents_bytes": sample_kb << 10, "images_bytes": sample_kb << 10, "weights_bytes": weights_kb << 10}
    latencies = Latencies(draw_s=draw, score_s=score, update_s=update, **sizes)
    config = load_run_file(run_file, overrides or ())
    ways = (False, True) if actors else (False,)
    print_figures([simulate(config, latencies, updates, actors=way) for way in ways], Console())


@app.command()
def accept(
    run_file: Annotated[Path, typer.Argument(help="Run file (YAML) of what is measured and trained.")] = Path(
        "deploy/configs/quickstart.yaml"
    ),
    overrides: Overrides = None,
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="Beginning of a claim's name, e.g. parity:flux1; again for more.")
    ] = None,
    output: Annotated[Path, typer.Option(help="JSON file with what was found.")] = Path("accept.json"),
    updates: Annotated[int, typer.Option(min=10, help="Of the run that has to learn.")] = 20,
) -> None:
    """Look at what this machine does: parity, ratio guard, sums over ranks, memory, speed, a run that learns."""
    from services.cli.acceptance.accept import Request
    from services.cli.acceptance.accept import accept as look

    request = Request(
        run_file=run_file, overrides=tuple(overrides or ()), only=tuple(only or ()), output=output, updates=updates
    )
    raise typer.Exit(look(request, typer.echo))


@app.command()
def calibrate(
    run_file: RunFile,
    overrides: Overrides = None,
    *,
    temperature: Annotated[list[float] | None, typer.Option(help="Constant temperature; again for more.")] = None,
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of steps; again for more. Default: the run file's.")
    ] = None,
    groups: Annotated[int, typer.Option(min=1, help="Groups drawn at every setting.")] = 8,
    output: Annotated[Path | None, typer.Option(help="JSON file with the table.")] = None,
) -> None:
    """Tabulate reward, spread, diversity and legibility of every step before training, and suggest a start."""
    from rich.console import Console

    from rollout.schedule import TEMPERATURE_MAX
    from services.cli.calibrate import calibrate as tabulate
    from services.cli.run_file import load_run_file

    taus = temperature or [0.25, 0.5, 0.75, 1.0]
    if wrong := [tau for tau in taus if not 0.0 <= tau <= TEMPERATURE_MAX]:
        raise ConfigError(f"--temperature: expected numbers from 0 to {TEMPERATURE_MAX:g}; found {wrong[0]:g}")
    tabulate(load_run_file(run_file, overrides or ()), taus, steps or (), groups, output, Console())


@app.command()
def score(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, folders of them, or CSV files.", show_default=False)
    ],
    *,
    reward: Annotated[list[str], typer.Option(help="'NAME key=value ...'; again for another one.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="What they should show, where a CSV does not say.")] = "",
    metadata: Annotated[list[str] | None, typer.Option(help="key=text for every picture; again for more.")] = None,
    output: Annotated[Path | None, typer.Option(help="CSV file with the scores.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG: the pictures, best first.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of one size scored in one call.")] = 64,
) -> None:
    """Score pictures with rewards; the first one sorts."""
    from rich.console import Console

    from services.cli.pictures import find_pictures
    from services.cli.score import build_rewards, print_table, score_pictures, write_csv, write_sheet

    found = find_pictures(pictures, prompt, key_values(metadata or ()))
    rewards = build_rewards(reward)
    scored = score_pictures(found, rewards, batch)
    print_table(scored, rewards, Console())
    if output is not None:
        write_csv(scored, rewards, output)
    if sheet is not None:
        write_sheet(scored, rewards, sheet)


@app.command()
def serve_reward(
    config: Annotated[Path, typer.Argument(help="Reward server's file (YAML).", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Serve a reward over HTTP, for runs on other machines; docs/reward-protocol.md describes the protocol."""
    from services.cli.run_file import load_serving_file
    from services.cli.serve_reward import serve

    serve(load_serving_file(config, overrides or ()))


def key_values(given: Sequence[str]) -> dict[str, str]:
    """The texts by key of `key=text`. Raises ConfigError."""
    pairs = [text.partition("=") for text in given]
    if wrong := [text for text, (_, equals, _) in zip(given, pairs, strict=True) if not equals]:
        raise ConfigError(f"--metadata: expected key=text; found {wrong[0]!r}")
    return {key: value for key, _, value in pairs}


def main() -> NoReturn:
    """Run the command line; errors that we raise on purpose end in one sentence and their exit code."""
    try:
        code = app(standalone_mode=False)  # a command's typer.Exit comes back as its number
    except TyperException as error:
        typer.echo(f"error: {error}; see `tafs --help`", err=True)
        sys.exit(ExitCode.BAD_CONFIG)
    except TafsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.DRAINED)
    except Exception:  # the process's edge: whatever we did not foresee ends with the code that says so
        traceback.print_exc()
        sys.exit(ExitCode.BUG)
    sys.exit(code or ExitCode.DONE)
