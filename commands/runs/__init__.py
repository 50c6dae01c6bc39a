"""The runs below runs/: a table, one in full, several side by side, and their removal."""

import click

from commands import as_json, asks_group_itself, experiment
from commands.runs.comparison import compare_runs
from commands.runs.details import show_run
from commands.runs.removal import remove_runs
from commands.runs.table import list_runs
from mlops.files.places import runs_root
from mlops.run.directory import find_run
from mlops.run.records import VAL, read_record


@click.group(invoke_without_command=True, help=__doc__)
@experiment
@click.option("--metric", metavar="NAME", help="Best value of this.  [train.monitor]")
@click.option("--phase", default=VAL, help="Of the metric.  [val]")
@as_json
@click.pass_context
def command(
    context: click.Context, experiment: str | None, metric: str | None, phase: str, as_json: bool
) -> None:
    if asks_group_itself(context):
        list_runs(experiment, metric, phase, as_json=as_json)


@command.command()
@click.argument("run")
@as_json
def show(run: str, as_json: bool) -> None:
    """Show what made a run and how to restore its results.

    RUN is its id, or its directory below runs/.
    """
    show_run(read_record(find_run(runs_root(), run)), as_json=as_json)


@command.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
def compare(runs: tuple[str, ...]) -> None:
    """Compare several runs side by side."""
    paths = dict.fromkeys(find_run(runs_root(), name) for name in runs)
    compare_runs([read_record(path) for path in paths])


@command.command()
@experiment
@click.option("--keep", type=click.IntRange(0), default=3, help="Newest of an experiment.  [3]")
@click.option(
    "--older-than",
    "older_than_days",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Also dead, failed and interrupted runs that were last at work longer ago.",
)
@click.option("--yes", is_flag=True, help="Remove them; without it they are listed.")
def gc(experiment: str | None, keep: int, older_than_days: float | None, yes: bool) -> None:
    """Remove runs that are of no more use."""
    remove_runs(experiment, keep, older_than_days, yes=yes)
