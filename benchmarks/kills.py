"""Test of 200 kills at random moments, over four ways of running a training.

    python -m benchmarks.kills [--kills 200] [--per-run 5] [--json FILE]

As `python -m commands prove`, in one clone for each mode, several kills per run, each run compared
with one that was never killed. With `--json` each run is written when it has been compared, and the
same command goes on where it was cut off. Needs what a finished `dvc repro` leaves.

Limits: no difference in outs, log and samples; at least 25 of 200 kills inside the write of a
checkpoint.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commands.prove.attempts import MODES
from commands.prove.clone import Clone, find_target, make_clone, training_changes
from commands.prove.comparison import Outcome
from commands.prove.evidence import Part
from commands.prove.moments import Moment, draw_moments
from commands.prove.trial import Kill, killed_and_compared, supervised, uninterrupted_run
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.tables import aligned
from mlops.stage import run_command

SAVES_SHARE = 25 / 200  # of the kills, inside the write of a checkpoint

Run = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--kills", type=int, default=200, help="over all modes")
    arguments.add_argument("--per-run", type=int, default=5, help="kills of one run at most")
    arguments.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--target", default="train")
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()
    runs: list[Run] = []
    if options.json and options.json.exists():
        runs = json.loads(options.json.read_text())
        print(f"kills: goes on after {num_kills(runs)} kills in {len(runs)} runs")
    for mode in options.modes:
        run_mode(mode, runs, options)
    print_table(runs, options)


def run_mode(mode: str, runs: list[Run], options: argparse.Namespace) -> None:
    """Add runs until the mode has its share of the kills, and of those in saves."""
    wanted = -(-options.kills // len(options.modes))
    if not lacking(mode, runs, wanted):
        return
    target = find_target(Path(), options.target)
    changes = training_changes()
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as directory:
        clone = make_clone(Path(directory) / "clone", target, changes)
        with supervised():
            reference, timeline = uninterrupted_run(clone, mode)
            print(f"{mode}: without a kill {timeline.training_sec:.1f} s of training")
            while number := lacking(mode, runs, wanted):
                killed = num_kills(of_mode(mode, runs))
                parts = list(Part) if killed < wanted else [Part.SAVE]
                # One per run, so that a continued benchmark does not repeat the moments.
                generator = random.Random(f"{options.seed} {mode} {len(of_mode(mode, runs))}")
                moments = draw_moments(
                    min(number, options.per_run), parts, mode, timeline, generator
                )
                runs.append(killed_run(clone, mode, moments, reference))
                if not any(run["kills"] for run in of_mode(mode, runs)[-5:]):
                    raise PipelineError(
                        f"{mode}: expected kills, got five runs without one; look at a run of "
                        f"python -m commands prove --mode {mode}"
                    )
                if options.json:
                    atomic.write_json(options.json, runs)


def killed_run(clone: Clone, mode: str, moments: Sequence[Moment], reference: Outcome) -> Run:
    kills: list[Kill] = []
    start = time.monotonic()
    found = killed_and_compared(clone, mode, moments, reference, kills.append)
    parts = ", ".join(f"{kill.part} ({kill.victim})" for kill in kills)
    duration_sec = time.monotonic() - start
    print(f"{mode}: {len(kills)} kills: {parts}: {duration_sec:.0f} s: {found or 'identical'}")
    return {
        "mode": mode,
        "kills": [asdict(kill) for kill in kills],
        "differences": found,
        "duration_sec": round(duration_sec, 1),
    }


def lacking(mode: str, runs: Sequence[Run], wanted: int) -> int:
    """Return how many kills the mode still lacks, in total or in saves."""
    kills = [kill for run in of_mode(mode, runs) for kill in run["kills"]]
    saves = sum(kill["part"] == Part.SAVE for kill in kills)
    return max(wanted - len(kills), math.ceil(wanted * SAVES_SHARE) - int(saves), 0)


def of_mode(mode: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run["mode"] == mode]


def num_kills(runs: Sequence[Run]) -> int:
    return sum(len(run["kills"]) for run in runs)


def print_table(runs: Sequence[Run], options: argparse.Namespace) -> None:
    rows = []
    for mode in options.modes:
        own = of_mode(mode, runs)
        counts = Counter(kill["part"] for run in own for kill in run["kills"])
        differing = sum(bool(run["differences"]) for run in own)
        rows.append(
            [
                mode,
                str(num_kills(own)),
                *(str(counts[part]) for part in Part),
                str(len(own)),
                str(differing),
            ]
        )
    header = ["mode", "kills", *Part, "runs", "that differ"]
    print("\n" + aligned(header, rows, numbers=set(header) - {"mode"}))
    victims = Counter(f"{kill['victim']} ({run['mode']})" for run in runs for kill in run["kills"])
    print("\nvictims: " + ", ".join(f"{name} {count}" for name, count in sorted(victims.items())))
    orphans = [
        kill["orphan_sec"]
        for run in runs
        for kill in run["kills"]
        if kill["orphan_sec"] is not None
    ]
    if orphans:
        print(f"orphaned trainers: {len(orphans)}, ended after at most {max(orphans):.1f} s")
    saves = sum(kill["part"] == Part.SAVE for run in runs for kill in run["kills"])
    differ = [fault for run in runs for fault in run["differences"]]
    min_saves = num_kills(runs) * SAVES_SHARE
    print(f"\nidentical after every kill: {'reached' if not differ else 'NOT reached'}")
    print(
        f"kills inside a save: {saves}, at least {min_saves:.0f}: "
        f"{'reached' if saves >= min_saves else 'NOT reached'}"
    )
    for fault in differ:
        print(f"  {fault}")


if __name__ == "__main__":
    run_command("kills", main)
