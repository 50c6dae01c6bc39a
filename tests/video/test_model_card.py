"""The model card says what is recorded, in a format that Hugging Face reads, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.support.outcomes import LABELS, outcome, predictions
from video.card.model_card import DataFacts, ModelFacts, model_card
from video.clips.frames import ClipRecipe
from video.scoring.estimates import METRICS, estimate
from video.scoring.outcomes import Outcome

MODEL = ModelFacts(
    path=Path("models/small/fold1/seed0/best_model.pt"),
    md5="0123456789abcdef0123456789abcdef",
    num_parameters=70802,
    clips=ClipRecipe(frames=8, height=48, width=64, fit="crop"),
)
EPOCHS = {"epoch": 5, "num_candidates": 4, "exact_up_to_step": None}
GROUPS = [f"g{number % 8}" for number in range(40)]


def cell(groups: Sequence[str] = GROUPS, **recorded: Any) -> Outcome:
    """Return a cell of fold 1 whose model errs on one of five test videos, more often on val."""
    found = outcome(predicted(groups, err_every=3), predicted(groups, err_every=5), fold=1)
    return replace(found, evaluation={**found.evaluation, **EPOCHS, **recorded})


def predicted(groups: Sequence[str], *, err_every: int) -> pl.DataFrame:
    numbers = range(len(groups))
    targets = [number % 3 % 2 for number in numbers]
    return predictions(
        groups,
        targets,
        predicted=[abs(targets[number] - (number % err_every == 0)) for number in numbers],
        predicted_majority=[0] * len(groups),
        predicted_metadata=[number % 2 for number in numbers],
    )


def data(labels: Sequence[str] = LABELS, verdicts: Sequence[str] = ()) -> DataFacts:
    """Return splits of 4 videos in fold 0, 3 in fold 1 and 2 of test, in groups of at most two."""
    folds = [0, 0, 0, 0, 1, 1, 1, None, None]
    return DataFacts(
        root="data/my videos",
        splits=pl.DataFrame(
            {
                "fold": folds,
                "group": ["a", "a", "b", "c", "d", "d", "e", "f", "f"],
                "label": pl.Series(
                    [labels[number % 2] for number in range(9)], dtype=pl.Enum(labels)
                ),
            }
        ),
        splits_sha256="ab" * 32,
        quarantine=pl.DataFrame({"verdict": verdicts}, schema={"verdict": pl.String}),
    )


def front_matter(card: str) -> dict[str, Any]:
    _, text, _ = card.split("---\n", 2)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def test_the_front_matter_has_what_the_hub_asks_for_and_the_figures_of_the_test_set() -> None:
    document = front_matter(model_card(cell(), MODEL, data()))

    assert document["library_name"] == "pytorch"
    assert document["pipeline_tag"] == "video-classification"
    (index,) = document["model-index"]
    (result,) = index["results"]
    assert index["name"] == "small-fold1-seed0"
    assert result["task"]["type"] == "video-classification"
    assert result["dataset"]["name"] == "data/my videos"
    assert {"type", "split", "revision"} <= set(result["dataset"])
    known = cell().evaluation["test"]
    found = {item["name"].split(",")[0]: item["value"] for item in result["metrics"]}
    assert found == pytest.approx({name: known[name] for name in METRICS})
    assert [item["type"] for item in result["metrics"]] == ["accuracy", "balanced_accuracy", "f1"]


def test_a_license_is_named_as_the_users_choice_and_not_given() -> None:
    card = model_card(cell(), MODEL, data())
    assert "license" not in front_matter(card)
    assert "\n# license: yours to choose" in card.split("---\n")[1]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("baseline", [None, "majority", "metadata"])
def test_the_figures_are_those_of_the_report_with_their_intervals(
    split: str, baseline: str | None
) -> None:
    card = model_card(cell(), MODEL, data())

    table = card[card.index(f"| {split} | accuracy | balanced_accuracy | f1_macro |") :]
    (row,) = [
        line
        for line in table.split("\n\n")[0].splitlines()
        if line.startswith(f"| {baseline or 'small'} ")
    ]
    estimates = [estimate([cell()], split, metric, baseline) for metric in METRICS]
    for shown, known in zip(row.split(" | ")[1:], estimates, strict=True):
        low, high = known.interval
        assert shown.strip(" |") == f"{known.value:.3f} ({low:.3f} to {high:.3f})"


def test_the_data_is_counted_by_part_group_and_class_and_so_is_the_quarantine() -> None:
    card = model_card(cell(), MODEL, data(verdicts=["truncated", "missing", "truncated"]))

    assert "9 videos in 6 groups, of `data/my videos`." in card
    assert "| train | 4 | 3 | 2 | 2 |" in card
    assert "| val | 3 | 2 | 2 | 1 |" in card
    assert "| test | 2 | 1 | 1 | 1 |" in card
    assert "in quarantine: 1 missing, 2 truncated." in card
    assert "- Videos in quarantine are in no figure.\n" in card
    assert "in quarantine: no video." in model_card(cell(), MODEL, data())


def test_limits_are_those_of_this_model() -> None:
    card = model_card(cell(exact_up_to_step=40), MODEL, data())
    assert "- It sees 8 frames of 48×64 pixels (crop)" in card
    assert "- Fold 1 alone proves little" in card
    assert "was trained exactly up to step 40" in card
    assert "a maximum over 4 epochs" in card
    assert "exactly up to step" not in model_card(cell(), MODEL, data())
    assert "that of the last epoch" in model_card(cell(num_candidates=1), MODEL, data())


def test_a_given_split_that_divides_groups_is_told_first() -> None:
    whole = data()
    divided = replace(whole, splits=whole.splits.with_columns(group=pl.lit("one")))
    card = model_card(cell(), MODEL, divided)
    assert "**Every figure is too good:** " in card
    assert "the split that the index gives divides 1 group (9 videos) between its parts." in card
    assert "whole groups" not in card
    card = model_card(cell(), MODEL, whole)
    assert "too good" not in card
    assert "in one group, and whole groups on one side of the split." in card


def test_too_few_groups_are_said_to_prove_nothing() -> None:
    for groups in (["one"] * 12, ["one", "two"] * 6):
        card = model_card(cell(groups), MODEL, data())
        assert f"It may be luck: 12 videos in {len(set(groups))} groups, too few groups" in card


def test_odd_labels_break_neither_the_yaml_nor_a_table() -> None:
    labels = ["no | yes", "true: *ünï*\n#1"]
    card = model_card(cell(), MODEL, data(labels))

    assert front_matter(card)["pipeline_tag"] == "video-classification"
    for block in card.split("\n\n"):
        if block.startswith("| part"):
            rows = [line.replace("\\|", "").count("|") for line in block.splitlines()]
            assert rows == [6] * 5


def test_a_card_shows_no_half_filled_place() -> None:
    card = model_card(cell(), MODEL, data())
    assert not {"{{", "{%", "None", "Series"} & set(card.split())
    assert "\n\n\n" not in card
    assert card.endswith("```\n")
