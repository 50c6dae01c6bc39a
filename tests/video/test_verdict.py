"""Nothing is called more than luck unless it beats every baseline on the same videos."""

import pytest

from tests.support.outcomes import outcome, predictions
from video.scoring.estimates import Estimate
from video.scoring.verdict import Rival, judge, remarks, rivals


def found(value: float, low: float = 0.0, high: float = 1.0, *, num_groups: int = 8) -> Estimate:
    return Estimate(value=value, interval=(low, high), num_videos=48, num_groups=num_groups)


def rival(lead: float, low: float, score: float = 0.5, *, num_groups: int = 8) -> Rival:
    return Rival(score=found(score), lead=found(lead, low, 0.6, num_groups=num_groups))


def test_a_lead_whose_interval_is_above_0_is_more_than_luck() -> None:
    verdict = judge({"majority": rival(0.4, 0.1), "metadata": rival(0.3, 0.02, 0.6)})

    assert verdict.tone == "good"
    assert verdict.text == (
        "More than luck: 0.300 above the baseline “metadata” (0.600) on the same videos, "
        "99 % interval 0.020 to 0.600 (48 videos in 8 groups)."
    )


def test_the_baseline_that_is_hardest_to_beat_decides() -> None:
    verdict = judge({"majority": rival(0.2, 0.1), "metadata": rival(0.3, -0.02)})

    assert verdict.tone == "unsure"
    assert verdict.text.startswith("It may be luck: 0.300 above the baseline “metadata”")


@pytest.mark.parametrize("lead", [0.0, -0.1])
def test_a_model_that_is_not_better_than_one_of_them_is_called_so(lead: float) -> None:
    verdict = judge({"majority": rival(0.2, 0.1), "metadata": rival(lead, -0.3, 0.7)})

    assert verdict.tone == "bad"
    assert verdict.text == "Not better than the baseline “metadata” (0.700)."


def test_of_too_few_groups_nothing_is_claimed() -> None:
    verdict = judge({"majority": rival(0.4, 0.2, num_groups=4)})

    assert verdict.tone == "unsure"
    assert verdict.text == ("It may be luck: 48 videos in 4 groups, too few groups (at least 5).")


# Six groups of four videos. The model is right; the metadata too, or with half of each class.
GROUPS = [f"g{number // 4}" for number in range(24)]
TARGETS = [0, 0, 1, 1] * 6


def table(metadata: list[int]) -> "object":
    return predictions(
        GROUPS,
        TARGETS,
        predicted=TARGETS,
        predicted_metadata=metadata,
        predicted_majority=[0] * 24,
    )


@pytest.mark.parametrize(
    ("metadata", "tone"), [([0, 1, 0, 1] * 6, "good"), (TARGETS, "bad")], ids=["guess", "as good"]
)
def test_predictions_are_judged_by_what_they_say(metadata: list[int], tone: str) -> None:
    cell = outcome(table(metadata), table(metadata))

    assert judge(rivals([cell])).tone == tone
    assert set(rivals([cell])) == {"metadata", "majority"}


def test_one_fold_is_said_to_prove_little() -> None:
    cells = [outcome(table(TARGETS), table(TARGETS), fold=fold, seed=fold) for fold in (2, 3)]

    assert remarks(cells) == []
    assert remarks(cells[:1]) == [
        "Fold 2 alone proves little: how much the score depends on the training videos is not "
        "known, nor part of an interval; name more in folds"
    ]
