"""Kill training at random moments, and compare what it ends with.

A short training runs once without interruption, and again with SIGKILLs: in saves, in logging, in
validation, in publishing, wherever. Each time the same command starts it again. In the end the
outs' bytes, the log and the samples of every epoch must be the same. All of it happens in a clone
below the system's temporary directory; the work tree, runs/, git and DVC's cache stay as they are.
"""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from commands.prove.clone import PARAMS, Clone, make_clone, training_changes
from commands.prove.comparison import Outcome, differences, repeated_samples
from commands.prove.evidence import LEDGER, METRICS, PARTS
from commands.prove.modes import MODES
from commands.prove.moments import draw_moments
from commands.prove.target import find_target
from commands.prove.trial import Kill, killed_run, supervised, uninterrupted_run
from mlops.errors import PipelineError
from mlops.files.tables import aligned
from mlops.processes.progress import counted

# After so many runs that ended before they could be killed, more of them will not help.
MAX_RUNS_IN_VAIN = 5

DIGITS = 8  # of a hash


@dataclass(kw_only=True)
class Proof:
    """What has been run so far, and what of it differs."""

    mode: str
    seed: int
    target: str
    reference: Outcome | None = None
    killed: list[Outcome] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(1), default=8, metavar="N", help="How many.  [8]")
@click.option("--mode", type=click.Choice(MODES), default="repro", help="How it is run.  [repro]")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Kill in these.")
@click.option("--seed", type=int, metavar="N", help="Of the random moments.")
@click.option("--target", default="train", metavar="STAGE", help="What to kill.  [first of train]")
@click.option(
    "--set-param",
    "set_params",
    multiple=True,
    metavar="KEY=VALUE",
    help="A value of params.yaml in the clone.",
)
@click.option("--keep", is_flag=True, help="Leave the clone where it is.")
def command(
    kills: int,
    mode: str,
    parts: tuple[str, ...],
    seed: int | None,
    target: str,
    set_params: tuple[str, ...],
    keep: bool,
) -> None:
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    stage = find_target(Path(), target)
    changes = training_changes(Path(PARAMS), set_params)
    directory = Path(tempfile.mkdtemp(prefix="prove-"))
    print(f"prove: {stage.name}, mode {mode}, seed {seed}, in {directory}")
    proof = Proof(mode=mode, seed=seed, target=stage.name)
    try:
        clone = make_clone(Path(), directory / "clone", stage, changes)
        with supervised(clone):
            run_proof(proof, clone, kills, parts or PARTS)
    except BaseException:
        print(f"prove: what there is of it lies in {directory}")
        raise
    print_kills(proof)
    print_comparison(proof)
    if proof.differences:
        raise PipelineError(
            *proof.differences,
            f"{stage.name}: expected the results of a run that was never killed, got others; "
            f"the clone is left in {clone.root}",
        )
    print(f"prove: after {counted(len(proof.kills), 'kill')} everything is identical")
    if keep:
        print(f"prove: the clone is left in {clone.root}")
    else:
        shutil.rmtree(directory)


def run_proof(proof: Proof, clone: Clone, num_kills: int, parts: Sequence[str]) -> None:
    """The run without a kill, and as many runs with kills as it takes for `num_kills`."""

    def tell(kill: Kill) -> None:
        proof.kills.append(kill)
        print(f"prove: kill {len(proof.kills)} of {num_kills}: {describe(kill)}")

    started = time.monotonic()
    proof.reference, timeline = uninterrupted_run(clone, proof.mode)
    print(f"prove: without a kill it took {time.monotonic() - started:.1f} s")
    generator = random.Random(proof.seed)
    in_vain = 0
    while len(proof.kills) < num_kills and not proof.differences:
        before = len(proof.kills)
        moments = draw_moments(num_kills - before, parts, proof.mode, timeline, generator)
        try:
            killed = killed_run(clone, proof.mode, moments, tell)
        except PipelineError as error:
            proof.differences += error.faults
            return
        proof.killed.append(killed)
        proof.differences += differences(proof.reference, killed)
        in_vain = 0 if len(proof.kills) > before else in_vain + 1
        if in_vain == MAX_RUNS_IN_VAIN:
            raise PipelineError(
                f"{proof.target}: expected a run that lasts long enough to be killed, got "
                f"{in_vain} that ended before; raise train.epochs with --set-param"
            )


def describe(kill: Kill) -> str:
    lived = f", the trainer ended {kill.orphan_sec:.1f} s later" if kill.orphan_sec else ""
    return f"in {kill.part}, {kill.victim} ({kill.reached}{lived})"


def print_kills(proof: Proof) -> None:
    counts = Counter((kill.part, kill.victim) for kill in proof.kills)
    victims = sorted({victim for _, victim in counts})
    rows = [
        [part, *(str(counts[part, victim] or "") for victim in victims), str(total)]
        for part in PARTS
        if (total := sum(counts[part, victim] for victim in victims))
    ]
    print("\n" + aligned(["killed in", *victims, "all"], rows, numbers={*victims, "all"}) + "\n")


def print_comparison(proof: Proof) -> None:
    if proof.reference is None or not proof.killed:
        return
    (log,) = proof.reference.logs
    rows = [[path, md5[:DIGITS]] for path, md5 in proof.reference.recorded[0].items()]
    rows.append([METRICS, counted(len(log.metrics), "row")])
    rows.append([LEDGER, "none" if log.ledger is None else counted(len(log.ledger), "row")])
    for row in rows:
        differs = any(row[0] in difference.split(":")[0] for difference in proof.differences)
        row.append("differs" if differs else "the same")
    print(aligned(["", "never killed", "killed"], rows))
    if log.ledger is not None:
        repeated = repeated_samples(log.ledger)
        print(f"samples that an epoch has more than once, never killed: {repeated}")
    print(f"runs: {len(proof.killed)}, starts: {len(proof.kills) + len(proof.killed)}\n")
