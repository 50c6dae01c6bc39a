"""Check of this machine and this clone: what is missing, and what to do about it.

Exits with 1 if something must be done. Nothing is changed: temporary files, below runs/ to try its
locks and in directories that are written to, are made and removed.
"""

import click

from commands.doctor.finding import WRONG, Findings
from commands.doctor.machine import (
    disk_space,
    encoding,
    file_locks,
    memory,
    packages,
    python,
    torch_and_gpus,
    user,
)
from commands.doctor.repository import conflicts, git, left_by_trials, params
from commands.doctor.storage import dvc, outs, remotes
from mlops.errors import PipelineError
from mlops.files.places import runs_root
from mlops.files.tables import aligned
from mlops.processes.progress import counted
from mlops.recorded.dvc_cache import cache_directory
from mlops.recorded.dvc_yaml import PIPELINE


@click.command(help=__doc__)
@click.option("--torch", "with_torch", is_flag=True, help="Import torch, which takes seconds.")
@click.option("--remote", "ask", is_flag=True, help="Ask DVC's remotes, over the network.")
@click.option("--outs", "outs_alone", is_flag=True, help="Only look for files of yours in outs.")
def command(with_torch: bool, ask: bool, outs_alone: bool) -> None:
    found = list(outs() if outs_alone else all_checks(with_torch=with_torch, ask=ask))
    if not outs_alone:
        rows = [[finding.level, finding.subject, finding.text] for finding in found]
        print(aligned(["", "what", "found"], rows))
    if wrong := [f"{one.subject}: {one.text}" for one in found if one.level == WRONG]:
        raise PipelineError(*wrong)
    if not outs_alone:
        print(f"\n{counted(len(found), 'check')}, nothing that must be done")


def all_checks(*, with_torch: bool, ask: bool) -> Findings:
    """Yield what is found in the current directory, the root of the repository."""
    cache = cache_directory()
    yield python()
    yield from user()
    yield from encoding()
    yield from packages()
    yield from torch_and_gpus(with_torch=with_torch)
    yield from git()
    yield from conflicts()
    yield from left_by_trials()
    if PIPELINE.is_file():
        yield from params()
    yield from dvc(cache)
    if cache is not None:
        yield from remotes(ask=ask)
        yield disk_space("disk of DVC's cache", cache)
    if PIPELINE.is_file():
        yield from outs()
    yield disk_space("disk of runs/", runs_root())
    yield file_locks(runs_root())
    yield memory()
