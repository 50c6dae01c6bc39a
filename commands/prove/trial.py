"""One run of the stage, never killed or killed again and again."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from commands.prove.attempts import Attempt, mended_dvc, start_attempt, stop_queue
from commands.prove.clone import Clone
from commands.prove.comparison import Outcome, differences, read_outcome
from commands.prove.evidence import Part, last_step
from commands.prove.moments import Moment, Timeline, wait_for, wait_for_trainer
from commands.prove.processes import adopting_orphans, descendants, reap_orphans, wait_until
from mlops.errors import PipelineError

LAST_LINES = 12  # of what a start that failed has printed


@dataclass(frozen=True, kw_only=True)
class Kill:
    part: Part  # that it hit, told by what lay on disk
    victim: str
    reached: str  # the last row of the log
    orphan_sec: float | None  # that the trainer lived on after another than itself was killed


Report = Callable[[Kill], None]


@contextmanager
def supervised() -> Iterator[None]:
    """Keep all that is started below this process, and end it on leaving."""
    with adopting_orphans():
        # As Ctrl-C does: what was started must end with this process.
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            # The worker first: it would start what is queued.
            stop_queue()
            for process in descendants():
                process.send(signal.SIGKILL)
            reap_orphans()


def uninterrupted_run(clone: Clone, mode: str) -> tuple[Outcome, Timeline]:
    """Run the stage to its end; return what it left, and how long its parts took."""
    clone.reset()
    attempt = start_attempt(clone, mode, 0)
    scene = wait_for_trainer(attempt)
    if scene is None:
        raise failed(attempt)
    started = time.monotonic()
    trainer = scene.trainer
    wait_until(lambda: not trainer.is_alive() or scene.part(time.time()) != Part.START_UP)
    opened = time.monotonic()
    wait_until(lambda: not trainer.is_alive())
    timeline = Timeline(start_up_sec=opened - started, training_sec=time.monotonic() - opened)
    return finish(attempt, mode), timeline


def killed_and_compared(
    clone: Clone, mode: str, moments: Sequence[Moment], reference: Outcome, report: Report
) -> list[str]:
    """Kill a run at the moments; return how it differs from the reference, or why it failed."""
    try:
        return differences(reference, killed_run(clone, mode, moments, report))
    except PipelineError as error:
        return list(error.faults)


def killed_run(clone: Clone, mode: str, moments: Sequence[Moment], report: Report) -> Outcome:
    """Kill a run at the moments, of as many starts; fewer times if it ends before the last."""
    clone.reset()
    starts, kills = 1, 0
    attempt = start_attempt(clone, mode, starts)
    while True:
        kill = kill_once(attempt, moments[kills]) if kills < len(moments) else None
        if kill is not None:
            kills += 1
            report(kill)
        elif not mended_dvc(attempt):
            return finish(attempt, mode)
        starts += 1
        attempt = start_attempt(clone, mode, starts)


def kill_once(attempt: Attempt, moment: Moment) -> Kill | None:
    """Kill the attempt at the moment; return None if it ends before."""
    scene = wait_for_trainer(attempt)
    part = wait_for(moment, scene, attempt) if scene else None
    if scene is None or part is None:
        return None
    trainer = None if part == Part.RECORDING else scene.trainer
    reached = "trained to the end" if trainer is None else last_step(scene.run_dir)
    return Kill(
        part=part,
        victim=moment.victim,
        reached=reached,
        orphan_sec=attempt.kill(moment.victim, trainer),
    )


def finish(attempt: Attempt, mode: str) -> Outcome:
    if not attempt.wait():
        raise failed(attempt)
    stop_queue()
    return read_outcome(attempt.clone, mode)


def failed(attempt: Attempt) -> PipelineError:
    lines = [line for line in attempt.printed().splitlines() if line.strip()]
    return PipelineError(
        f"{attempt.clone.target.name}: expected it to run to its end, got a start that failed, "
        f"though it was not killed; its last words, in {attempt.clone.root}:",
        *lines[-LAST_LINES:],
    )
