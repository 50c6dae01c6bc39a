"""Values of params.yaml are replaced where they stand, and all else stays as it was."""

from pathlib import Path

import pytest

from mlops.errors import PipelineError
from mlops.parameter_values import check_aliases, differing_values, with_values

PARAMS = (Path(__file__).parents[1] / "params.yaml").read_text()

TEXT = """\
# What it is about.
seed: 0 # of all

train:
  learning_rate: 2.0e-3 # AdamW
  models: [a, b] # which
  name: "no" # in quotes
"""


def test_a_file_without_a_change_stays_byte_for_byte() -> None:
    assert with_values(PARAMS, {}) == PARAMS
    assert with_values(TEXT, {"seed": 0.0, "train.learning_rate": 0.002}) == TEXT


def test_values_change_where_they_stand_and_comments_stay() -> None:
    other = TEXT.replace("2.0e-3", "4.0e-3").replace("[a, b]", "[a, c]").replace(": 0", ": 7")
    differences = differing_values(TEXT, other)
    values = {change.key: change.after for change in differences.changes}
    assert list(values) == ["seed", "train.learning_rate", "train.models"]
    assert with_values(TEXT, values) == other
    # As values of another file have them.
    assert "models: [c]    # which\n" in with_values(TEXT, {"train.models": ["c"]})


def test_keys_that_one_of_two_lacks_are_told_and_not_set() -> None:
    differences = differing_values(TEXT, TEXT.replace("models", "model"))
    assert differences.changes == []
    assert (differences.only_here, differences.only_there) == (["train.models"], ["train.model"])
    assert with_values(TEXT, {"train.model": "a", "other": 1}) == TEXT


def test_an_alias_is_refused() -> None:
    """A few lines of them can stand for more than the memory holds."""
    check_aliases(PARAMS, "params.yaml")
    with pytest.raises(PipelineError, match=r"params\.yaml: expected no alias"):
        check_aliases("a: &a [x, x]\nb: [*a, *a]\n", "params.yaml")
