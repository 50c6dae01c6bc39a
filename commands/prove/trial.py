"""One run of the stage, never killed or killed again and again."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from commands.prove.clone import Clone
from commands.prove.comparison import Outcome, read_outcome
from commands.prove.evidence import last_row
from commands.prove.modes import Attempt, Queue, new_attempt
from commands.prove.moments import Moment, Timeline, wait_for, wait_for_trainer
from commands.prove.processes import POLL_SEC, adopting_orphans, descendants, reap_orphans
from commands.prove.target import LOCK
from mlops.errors import PipelineError

RWLOCK = ".dvc/tmp/rwlock"


@dataclass(frozen=True, kw_only=True)
class Kill:
    aimed_at: str
    part: str  # that it hit, told by what lay on disk
    victim: str
    reached: str  # the last row of the log
    orphan_sec: float | None  # that the trainer lived on after another than itself was killed


Report = Callable[[Kill], None]


@contextmanager
def supervised(clone: Clone) -> Iterator[None]:
    """Within it, all that is started stays below this process; on leaving, it is ended."""
    with adopting_orphans():
        # As Ctrl-C does: what was started must end with this process.
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            # The worker first: it would start what is queued.
            Queue(clone, "").stop()
            for process in descendants():
                process.send(signal.SIGKILL)
            reap_orphans()


def uninterrupted_run(clone: Clone, mode: str) -> tuple[Outcome, Timeline]:
    clone.reset()
    attempt = new_attempt(clone, mode, 0)
    attempt.start()
    scene = wait_for_trainer(attempt)
    if scene is None:
        raise _failed(attempt)
    started = opened = time.monotonic()
    has_opened = False
    while scene.trainer.is_alive():
        if not has_opened and scene.run_dir() is not None:
            has_opened, opened = True, time.monotonic()
        time.sleep(POLL_SEC)
    timeline = Timeline(start_up_sec=opened - started, training_sec=time.monotonic() - opened)
    _finish(attempt)
    return _outcome(clone, mode), timeline


def killed_run(
    clone: Clone,
    mode: str,
    moments: Sequence[Moment],
    report: Report,
) -> Outcome:
    """Kill a run at the moments, of as many starts; fewer times if it ends before the last."""
    clone.reset()
    attempt = new_attempt(clone, mode, 1)
    starts = 1
    attempt.start()
    kills = 0
    while True:
        kill = _kill_once(attempt, moments[kills:])
        if kill is not None:
            kills += 1
            report(kill)
        elif not mended_dvc(attempt):
            break
        starts += 1
        attempt = new_attempt(clone, mode, starts)
        attempt.start()
    _finish(attempt)
    return _outcome(clone, mode)


def _kill_once(attempt: Attempt, moments: Sequence[Moment]) -> Kill | None:
    """Kill the attempt at the first of the moments, or let it run to its end."""
    scene = wait_for_trainer(attempt)
    if scene is None or not moments:
        return None
    stop = wait_for(moments[0], scene, attempt)
    if stop is None:
        return None
    reached = "trained to the end" if stop.trainer is None else last_row(scene.run_dir())
    orphan_sec = attempt.kill(moments[0].victim, stop.trainer)
    return Kill(
        aimed_at=moments[0].part,
        part=stop.part,
        victim=moments[0].victim,
        reached=reached,
        orphan_sec=orphan_sec,
    )


def mended_dvc(attempt: Attempt) -> bool:
    """Whether the attempt ended at a file of DVC's own that a kill has cut off, and it was mended.

    DVC writes its list of locks and dvc.lock in place. Killed in between, it refuses to start
    until the one is removed or the other put back, which no stage can do for it. Where dvc.lock is
    gone altogether, `dvc exp run` removes all outs from the workspace, which are in its cache.
    """
    while not attempt.is_over():
        time.sleep(POLL_SEC)
    if attempt.succeeded():
        return False
    words = attempt.printed()
    if "RWLock-file" in words:
        (attempt.clone.root / RWLOCK).unlink(missing_ok=True)
        print(
            f"prove: a kill has cut off DVC's own {RWLOCK}, so that DVC did not start; removed it"
        )
    elif re.search(rf"{LOCK}' (validation failed|is invalid)|{LOCK}.*corrupted", words):
        attempt.clone.git("checkout", "HEAD", "--", LOCK)
        print(f"prove: a kill has cut off DVC's own {LOCK}, and DVC did not start; put it back")
    elif "No file hash info found" in words:
        attempt.clone.git("checkout", "HEAD", "--", LOCK)
        attempt.clone.dvc("checkout", "--quiet")
        print(f"prove: a kill has left no {LOCK}, by which DVC knows the outs; put both back")
    else:
        return False
    return True


def _finish(attempt: Attempt) -> None:
    while not attempt.is_over():
        time.sleep(POLL_SEC)
    if not attempt.succeeded():
        raise _failed(attempt)


def _outcome(clone: Clone, mode: str) -> Outcome:
    Queue(clone, "").stop()
    return read_outcome(clone, mode)


def _failed(attempt: Attempt) -> PipelineError:
    lines = [line for line in attempt.printed().splitlines() if line.strip()]
    return PipelineError(
        f"{attempt.clone.target.name}: expected it to run to its end, got a start that failed, "
        f"though it was not killed; its last words, in {attempt.clone.root}:",
        *lines[-12:],
    )
