"""When to kill: a part of training, and a random moment in it."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from commands.prove.evidence import (
    LOGGING,
    PUBLISHING,
    RECORDING,
    SAVE,
    START_UP,
    TRAINING,
    VALIDATION,
    Scene,
    look,
)
from commands.prove.modes import COMMANDS, DVC, GROUP, Attempt, victims_of
from commands.prove.processes import POLL_SEC, Process
from mlops.errors import PipelineError

# How often each part is aimed at. A save takes little of the time, and is where most goes wrong.
WEIGHTS = {
    START_UP: 1,
    TRAINING: 3,
    LOGGING: 2,
    SAVE: 5,
    VALIDATION: 2,
    PUBLISHING: 2,
    RECORDING: 1,
}

# What ends a run: nothing else of it can be killed after that.
AT_THE_END = (PUBLISHING, RECORDING)

WATCH_SEC = 0.0005


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """How long an uninterrupted run took, in seconds."""

    start_up_sec: float  # from the trainer's start until it has its log open
    training_sec: float  # from there until it ended


@dataclass(frozen=True, kw_only=True)
class Moment:
    part: str
    occasion: int  # the first, second … save, or row of the log, of this start
    delay_sec: float  # after the occasion began
    victim: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The trainer stands still at the moment; None of it if it has ended already."""

    trainer: Process | None
    part: str
    scene: Scene


def draw_moments(
    number: int,
    parts: Sequence[str],
    mode: str,
    timeline: Timeline,
    generator: random.Random,
) -> list[Moment]:
    """`number` moments of one run, in some of the parts, those that end a run last."""
    possible = [part for part in parts if part != RECORDING or mode in COMMANDS]
    if not possible:
        raise PipelineError(
            f"{RECORDING}: expected a part in which the mode {mode} can be killed, got one in "
            "which it cannot; choose another --part"
        )
    drawn = sorted(_deal(number, possible, generator), key=_rank)
    return [draw_moment(part, number, victims_of(mode), timeline, generator) for part in drawn]


def _deal(number: int, parts: Sequence[str], generator: random.Random) -> list[str]:
    """Parts as if dealt from a shuffled deck: a few of them are not all of one kind."""
    dealt = [SAVE] if SAVE in parts else []
    while len(dealt) < number:
        deck = [part for part in parts for _ in range(WEIGHTS[part])]
        generator.shuffle(deck)
        dealt += deck
    del dealt[number:]
    generator.shuffle(dealt)
    return dealt


def _rank(part: str) -> int:
    return AT_THE_END.index(part) if part in AT_THE_END else -1


def draw_moment(
    part: str,
    number: int,
    victims: Sequence[str],
    timeline: Timeline,
    generator: random.Random,
) -> Moment:
    longest_sec = {
        START_UP: timeline.start_up_sec,
        TRAINING: timeline.training_sec / max(1, number // 2),
        LOGGING: 0.001,
        SAVE: 0.004,
        VALIDATION: 0.1,
        PUBLISHING: 0.002,
        RECORDING: 0.5,
    }[part]
    occasions = {SAVE: 3, LOGGING: 12, VALIDATION: 2}.get(part, 1)
    # With the trainer gone, only DVC is left to be killed.
    among = (
        [victim for victim in victims if victim in (GROUP, DVC)] if part == RECORDING else victims
    )
    return Moment(
        part=part,
        occasion=generator.randint(1, occasions),
        # Half of them at once: a write may be over in a millisecond.
        delay_sec=generator.choice((0.0, 1.0)) * generator.uniform(0, longest_sec)
        if part in (LOGGING, SAVE, PUBLISHING)
        else generator.uniform(0, longest_sec),
        victim=generator.choice(among),
    )


def wait_for_trainer(attempt: Attempt) -> Scene | None:
    """None if the attempt is over without one: DVC had the result already."""
    while True:
        trainer = attempt.trainer()
        if trainer is not None and (scene := look(attempt.clone, trainer)) is not None:
            return scene
        if attempt.is_over():
            return None
        time.sleep(POLL_SEC)


def wait_for(moment: Moment, scene: Scene, attempt: Attempt) -> Stop | None:
    """Stop the trainer at the moment; None if the attempt ends before."""
    if moment.part == RECORDING:
        return _wait_for_recording(moment, scene, attempt)
    started = time.monotonic()
    run_dir, opened, logged, occasions, was_there = None, 0.0, 0, 0, False
    while scene.trainer.is_alive():
        now = time.monotonic()
        if run_dir is None and (run_dir := scene.run_dir()) is not None:
            opened, logged = now, scene.log_sizes(run_dir)
        is_there = False
        if moment.part == START_UP:
            is_there = run_dir is None and now - started >= moment.delay_sec
        elif run_dir is not None and moment.part == TRAINING:
            is_there = now - opened >= moment.delay_sec
        elif run_dir is not None and moment.part == SAVE:
            is_there = bool(scene.saves())
        elif run_dir is not None and moment.part == LOGGING:
            size = scene.log_sizes(run_dir)
            is_there, was_there, logged = size > logged, False, size
        elif run_dir is not None and moment.part == VALIDATION:
            is_there = scene.validates()
        elif run_dir is not None:
            is_there = bool(scene.publications())
        if is_there and not was_there:
            occasions += 1
            if occasions >= moment.occasion:
                if moment.part not in (START_UP, TRAINING):
                    time.sleep(moment.delay_sec)
                return _stop(scene)
        was_there = is_there
        time.sleep(WATCH_SEC)
    return None


def _wait_for_recording(moment: Moment, scene: Scene, attempt: Attempt) -> Stop | None:
    while scene.trainer.is_alive():
        time.sleep(WATCH_SEC)
    time.sleep(moment.delay_sec)
    return None if attempt.is_over() else Stop(trainer=None, part=RECORDING, scene=scene)


def _stop(scene: Scene) -> Stop | None:
    now = time.time()
    scene.trainer.freeze()
    if not scene.trainer.is_alive():
        return None
    return Stop(trainer=scene.trainer, part=scene.part(scene.run_dir(), now), scene=scene)
