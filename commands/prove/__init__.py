"""Proof of exact resumption: kill training at random moments and compare the results.

A short training runs once without interruption, and again with SIGKILLs: in saves, in logging, in
validation, in publishing, wherever. Each time the same command starts it again. In the end the
outs' bytes, the log and the samples of every epoch must be the same. All of it happens in a clone
below the system's temporary directory; the work tree, runs/, git and DVC's cache stay as they are.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from commands.prove.attempts import MODES
from commands.prove.clone import Clone, find_target, make_clone, training_changes
from commands.prove.comparison import Outcome, repeated_samples
from commands.prove.evidence import LEDGER, METRICS, Part
from commands.prove.moments import draw_moments
from commands.prove.trial import Kill, killed_and_compared, supervised, uninterrupted_run
from mlops.errors import PipelineError
from mlops.files.tables import aligned
from mlops.processes.progress import counted

# After so many runs that ended before they could be killed, more of them will not help.
MAX_RUNS_IN_VAIN = 5

DIGITS = 8  # of a hash
PARTS = tuple(map(str, Part))


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(1), default=8, metavar="N", help="How many.  [8]")
@click.option("--mode", type=click.Choice(MODES), default="repro", help="How it is run.  [repro]")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Kill only here.")
@click.option("--seed", type=int, metavar="N", help="Of the random moments.")
@click.option("--target", default="train", metavar="STAGE", help="What to kill.  [first of train]")
@click.option(
    "--set-param",
    "set_params",
    multiple=True,
    metavar="KEY=VALUE",
    help="A value of params.yaml in the clone.",
)
def command(
    kills: int,
    mode: str,
    parts: tuple[str, ...],
    seed: int | None,
    target: str,
    set_params: tuple[str, ...],
) -> None:
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    stage = find_target(Path(), target)
    changes = training_changes(set_params)
    directory = Path(tempfile.mkdtemp(prefix="prove-"))
    print(f"prove: {stage.name}, mode {mode}, seed {seed}, in {directory}")
    try:
        clone = make_clone(directory / "clone", stage, changes)
        with supervised():
            differences = prove(
                clone, mode, kills, tuple(map(Part, parts or PARTS)), random.Random(seed)
            )
    except BaseException:
        print(f"prove: what there is of it lies in {directory}")
        raise
    if differences:
        raise PipelineError(
            *differences,
            f"{stage.name}: expected the results of a run that was never killed, got others; "
            f"the clone is left in {clone.root}",
        )
    print(f"prove: after {counted(kills, 'kill')} everything is identical")
    shutil.rmtree(directory)


def prove(
    clone: Clone, mode: str, num_kills: int, parts: Sequence[Part], generator: random.Random
) -> list[str]:
    """Run once without a kill, then until `num_kills` or a difference; return the differences."""
    kills: list[Kill] = []

    def tell(kill: Kill) -> None:
        kills.append(kill)
        lived = f", the trainer ended {kill.orphan_sec:.1f} s later" if kill.orphan_sec else ""
        place = f"in {kill.part}, {kill.victim} ({kill.reached}{lived})"
        print(f"prove: kill {len(kills)} of {num_kills}: {place}")

    started = time.monotonic()
    reference, timeline = uninterrupted_run(clone, mode)
    print(f"prove: without a kill it took {time.monotonic() - started:.1f} s")
    differences: list[str] = []
    runs = in_vain = 0
    while len(kills) < num_kills and not differences:
        before = len(kills)
        moments = draw_moments(num_kills - before, parts, mode, timeline, generator)
        differences = killed_and_compared(clone, mode, moments, reference, tell)
        runs += 1
        in_vain = 0 if len(kills) > before else in_vain + 1
        if in_vain == MAX_RUNS_IN_VAIN and not differences:
            raise PipelineError(
                f"{clone.target.name}: expected a run that lasts long enough to be killed, got "
                f"{in_vain} that ended before; raise train.epochs with --set-param"
            )
    print_comparison(reference, differences)
    print(f"runs: {runs}, starts: {len(kills) + runs}\n")
    return differences


def print_comparison(reference: Outcome, differences: Sequence[str]) -> None:
    (log,) = reference.logs.values()
    made = {path: md5[:DIGITS] for path, md5 in reference.recorded[0].items()}
    made |= {name: counted(len(log[name]), "row") for name in (METRICS, LEDGER)}
    differing = [difference.partition(":")[0] for difference in differences]
    rows = [
        [name, text, "differs" if any(name in place for place in differing) else "the same"]
        for name, text in made.items()
    ]
    print("\n" + aligned(["", "never killed", "killed"], rows))
    repeated = repeated_samples(log[LEDGER])
    print(f"samples that an epoch has more than once, never killed: {repeated}")
