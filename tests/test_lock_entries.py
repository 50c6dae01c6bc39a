"""Entries of dvc.lock are found by what they made, and taken over as DVC wrote them."""

import re
from pathlib import Path

import pytest

from mlops.lock_entries import differing, merged, origins, read_entries, selected, sources_of
from mlops.locks import LockError

LOCK = (Path(__file__).parents[1] / "dvc.lock").read_text()


def trained() -> dict[str, str]:
    """The first model that the repository's own dvc.lock names."""
    for entry in read_entries(LOCK).values():
        for out in entry.outs:
            if out.path.endswith("best_model.pt"):
                return {out.path: out.md5}
    raise AssertionError


def test_a_result_comes_from_the_stages_before_it_and_no_others() -> None:
    entries = read_entries(LOCK)
    stages = sources_of(entries, trained())
    assert {name.partition("@")[0] for name in stages} == {
        "sample",
        "load_data",
        "create_splits",
        "create_dataset",
        "generate_augmentations",
        "init_model",
        "train",
    }
    assert sources_of(entries, dict.fromkeys(trained(), "0" * 32)) == []
    # What no stage made is code; index.csv lies in a directory that one made.
    read = {file.path for file in origins([entries[name] for name in stages])}
    assert all(re.match(r"(stages|video|mlops)/[\w/]+\.py$", path) for path in read)
    assert "stages/train.py" in read


def test_what_is_selected_and_merged_again_is_the_file_itself() -> None:
    stages = sources_of(read_entries(LOCK), trained())
    part = selected(LOCK, stages)
    assert list(read_entries(part)) == stages
    assert merged(LOCK, part) == LOCK
    assert differing(LOCK, part) == []
    assert merged("", part) == part


def test_other_entries_stay_as_they_are() -> None:
    stage = next(name for name in read_entries(LOCK) if name.startswith("train@"))
    part = re.sub(r"(\n +epochs: )\d+", r"\g<1>99", selected(LOCK, [stage]))
    assert differing(LOCK, part) == [stage]
    changed = merged(LOCK, part)
    assert read_entries(changed)[stage].params["train.epochs"] == 99
    lines = zip(LOCK.splitlines(), changed.splitlines(), strict=True)
    assert [new.split() for old, new in lines if old != new] == [["epochs:", "99"]]


@pytest.mark.parametrize(
    "text", ["", "stages", "stages:\n  a: [", "stages:\n  a:\n    deps: 3\n", "x stages:\n"]
)
def test_what_is_no_dvc_lock_is_told(text: str) -> None:
    with pytest.raises(LockError):
        read_entries(text)
