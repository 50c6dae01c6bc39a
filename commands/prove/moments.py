"""Moments of a kill: a part of training, and a random time in it."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from commands.prove.attempts import COMMANDS, DVC, GROUP, Attempt, victims_of
from commands.prove.evidence import Part, Scene, look
from commands.prove.processes import POLL_SEC, wait_until
from mlops.errors import PipelineError

WATCH_SEC = 0.0005


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The weight of a part of training, and the times in it that a kill may hit."""

    weight: int  # how often
    occasions: int = 1  # of one start, the last that a kill waits for
    max_delay_sec: float | None = None  # after the occasion began; None: by the timeline


# A save takes little of the time, and is where most goes wrong.
AIMS = {
    Part.START_UP: Aim(weight=1),
    Part.TRAINING: Aim(weight=3),
    Part.LOGGING: Aim(weight=2, occasions=12, max_delay_sec=0.001),
    Part.SAVE: Aim(weight=5, occasions=3, max_delay_sec=0.004),
    Part.VALIDATION: Aim(weight=2, occasions=2, max_delay_sec=0.1),
    Part.PUBLISHING: Aim(weight=2, max_delay_sec=0.002),
    Part.RECORDING: Aim(weight=1, max_delay_sec=0.5),
}


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Durations of an uninterrupted run, in seconds."""

    start_up_sec: float  # from the trainer's start until it has its log open
    training_sec: float  # from there until it ended


@dataclass(frozen=True, kw_only=True)
class Moment:
    part: Part
    occasion: int  # the first, second … time that this start is in the part
    delay_sec: float  # after the occasion began
    victim: str


def draw_moments(
    number: int,
    parts: Sequence[Part],
    mode: str,
    timeline: Timeline,
    generator: random.Random,
) -> list[Moment]:
    """Return `number` moments of one run, in some of the parts, those that end a run last."""
    possible = [part for part in parts if part != Part.RECORDING or mode in COMMANDS]
    if not possible:
        raise PipelineError(
            f"{Part.RECORDING}: expected a part in which the mode {mode} can be killed, got one in "
            "which it cannot; choose another --part"
        )
    drawn = _deal(number, possible, generator)
    drawn.sort(key=lambda part: (part == Part.RECORDING, part == Part.PUBLISHING))
    # Every start goes on with what the one before has saved: together they must not reach the end.
    longest_sec = {
        Part.START_UP: timeline.start_up_sec,
        Part.TRAINING: timeline.training_sec / max(1, number // 2),
    }
    return [_draw(part, mode, longest_sec.get(part, 0.0), generator) for part in drawn]


def _deal(number: int, parts: Sequence[Part], generator: random.Random) -> list[Part]:
    """Return parts as if dealt from a shuffled deck: a few of them are not all of one kind."""
    dealt = [Part.SAVE] if Part.SAVE in parts else []
    while len(dealt) < number:
        deck = [part for part in parts for _ in range(AIMS[part].weight)]
        generator.shuffle(deck)
        dealt += deck
    del dealt[number:]
    generator.shuffle(dealt)
    return dealt


def _draw(part: Part, mode: str, longest_sec: float, generator: random.Random) -> Moment:
    aim = AIMS[part]
    delay_sec = generator.uniform(0, aim.max_delay_sec or longest_sec)
    if aim.max_delay_sec is not None:
        delay_sec *= generator.choice((0, 1))  # half at once: a write may be over in a millisecond
    victims = victims_of(mode)
    if part == Part.RECORDING:  # with the trainer gone, only DVC is left to be killed
        victims = tuple(victim for victim in victims if victim in (GROUP, DVC))
    return Moment(
        part=part,
        occasion=generator.randint(1, aim.occasions),
        delay_sec=delay_sec,
        victim=generator.choice(victims),
    )


def wait_for_trainer(attempt: Attempt) -> Scene | None:
    """Return the scene; None if the attempt is over without one: DVC had the result already."""
    while True:
        trainer = attempt.trainer()
        if trainer is not None and (scene := look(attempt.clone, trainer)) is not None:
            return scene
        if attempt.is_over():
            return None
        time.sleep(POLL_SEC)


def wait_for(moment: Moment, scene: Scene, attempt: Attempt) -> Part | None:
    """Freeze the trainer at the moment and return the part that it is in.

    In recording it has ended. Return None if the attempt ends before the moment.
    """
    if moment.part == Part.RECORDING:
        wait_until(lambda: not scene.trainer.is_alive(), poll_sec=WATCH_SEC)
        time.sleep(moment.delay_sec)
        return None if attempt.is_over() else Part.RECORDING
    occasions, previous = 0, None
    while scene.trainer.is_alive():
        part = scene.part(time.time())
        occasions += part == moment.part != previous
        if occasions >= moment.occasion:
            time.sleep(moment.delay_sec)
            return _freeze(scene)
        previous = part
        time.sleep(WATCH_SEC)
    return None


def _freeze(scene: Scene) -> Part | None:
    now = time.time()
    scene.trainer.freeze()
    return scene.part(now) if scene.trainer.is_alive() else None
