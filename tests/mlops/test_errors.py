"""Faults by the thousand become lines that a person reads."""

import pytest

from mlops.errors import MAX_KINDS, PipelineError, grouped


def test_a_few_faults_are_told_as_they_are() -> None:
    faults = [
        "params.yaml: train.epochs: expected a whole number, got str 'ten'; write 10",
        "params.yaml: models: expected a list, got str 'small3d'; write [small3d]",
        "a.csv: row 3: expected 3 fields, got 4; quote a field that holds a comma",
    ]
    assert grouped(faults) == faults


def test_equal_faults_of_many_rows_are_one_line_with_their_number_and_the_first_rows() -> None:
    faults = [f"a.csv: row {number}: expected 2 fields, got 3" for number in range(1, 6002)]
    assert grouped(faults) == [
        "a.csv: rows 1, 2, 3, 4, 5 and 5996 more: expected 2 fields, got 3",
    ]


def test_of_many_faults_of_one_kind_three_are_shown_and_the_others_counted() -> None:
    faults = [f"a.csv row {n}: missing: 'videos/{n}.mp4' not found under data" for n in range(99)]
    assert grouped([*faults, "other"]) == [*faults[:3], "and 96 more like this", "other"]


@pytest.mark.parametrize(
    "fault",
    ["data/clips/{0:040x}.npy: no file", "group '{0}': no", "{0:040x}: no", 'class "{0}": no'],
)
def test_faults_of_other_files_names_and_hashes_are_of_one_kind(fault: str) -> None:
    faults = [fault.format(number) for number in range(1000)]
    assert grouped(faults) == [*faults[:3], "and 997 more like this"]


def test_only_the_first_row_that_a_fault_names_is_its_own() -> None:
    faults = [f"row {number}: the label differs from row 7 of the same file" for number in (2, 9)]
    assert grouped([*faults, "row 9: the label differs from row 8 of the same file"]) == [
        "rows 2, 9: the label differs from row 7 of the same file",
        "row 9: the label differs from row 8 of the same file",
    ]


def test_at_most_so_many_kinds_are_shown() -> None:
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}: wrong" for i in range(MAX_KINDS + 7)]
    assert grouped(words) == [*words[:MAX_KINDS], "and 7 other faults"]


def test_an_error_keeps_all_its_faults_and_prints_the_lines() -> None:
    faults = [f"row {number}: wrong" for number in range(1, 4)]
    error = PipelineError(*faults)
    assert (str(error), list(error.faults)) == ("rows 1, 2, 3: wrong", faults)
