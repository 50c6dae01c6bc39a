"""The verdict on a model: whether it beats what sees no pixel by more than luck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from video.scoring.estimates import Estimate, estimate, lead
from video.scoring.intervals import CLAIM, MIN_GROUPS
from video.scoring.outcomes import Outcome, by_fold


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A baseline's test balanced accuracy, and the lead of the model over it."""

    score: Estimate
    lead: Estimate


@dataclass(frozen=True, kw_only=True)
class Verdict:
    tone: Literal["good", "unsure", "bad"]
    text: str


def rivals(cells: Sequence[Outcome]) -> dict[str, Rival]:
    """Return the baselines of the cells of one model."""
    return {
        name: Rival(
            score=estimate(cells, "test", "balanced_accuracy", name), lead=lead(cells, name)
        )
        for name in cells[0].evaluation["baseline"]
    }


def judge(against: Mapping[str, Rival]) -> Verdict:
    """Judge whether the model beats every baseline on the same videos; in doubt, unsure."""
    for name, rival in against.items():
        if rival.lead.value <= 0:
            return Verdict(tone="bad", text=f"Not better than {_named(name, rival)}.")
    name, rival = min(against.items(), key=lambda item: item[1].lead.interval[0])
    found, low = rival.lead, rival.lead.interval[0]
    if found.num_groups < MIN_GROUPS:
        return Verdict(tone="unsure", text=f"It may be luck: {found.basis}.")
    text = (
        f"{found.value:.3f} above {_named(name, rival)} on the same videos, "
        f"{100 * CLAIM:.0f} % interval {low:.3f} to {found.interval[1]:.3f} ({found.basis})."
    )
    if low <= 0:
        return Verdict(tone="unsure", text=f"It may be luck: {text}")
    return Verdict(tone="good", text=f"More than luck: {text}")


def _named(name: str, rival: Rival) -> str:
    return f"the baseline “{name}” ({rival.score.value:.3f})"


def remarks(cells: Sequence[Outcome]) -> list[str]:
    """Return what the intervals of these cells cannot hold."""
    if len(by_fold(cells)) > 1:
        return []
    return [
        f"Fold {cells[0].fold} alone proves little: how much the score depends on the training "
        "videos is not known, nor part of an interval; name more in folds"
    ]
