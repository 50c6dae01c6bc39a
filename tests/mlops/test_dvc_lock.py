"""dvc.lock is read as DVC wrote it: which data, of what size, made by which parameters."""

from typing import Any

import pytest
from dvc.utils.serialize import dumps_yaml

from mlops.files.canonical import config_hash
from mlops.recorded.dvc_lock import Lock, LockError, read_versions
from mlops.recorded.dvc_yaml import data_tables
from tests.support.clone import ROOT

MD5S = {name: digit * 32 for name, digit in zip(("index", "splits", "clips"), "abc", strict=True)}


def out(path: str, md5: str | None, size: int | None = 7, **more: Any) -> dict[str, Any]:
    item = {"path": path, "hash": "md5", "md5": md5, "size": size} | more
    return {key: value for key, value in item.items() if value is not None}


def stage(**entries: Any) -> dict[str, Any]:
    return {"cmd": "python -m stages.x", **entries}


def read_lock(content: bytes) -> Lock:
    return read_versions(content, data_tables(ROOT))


def written(stages: dict[str, Any]) -> bytes:
    """Return a dvc.lock as DVC's own function writes it."""
    return dumps_yaml({"schema": "2.0", "stages": stages}).encode()


LOAD = stage(
    deps=[out("data/mine", "d" * 32 + ".dir", nfiles=3)],
    params={"params.yaml": {"data": {"labels": ["b", "a"]}}},
    outs=[out("data/quarantine.csv", "e" * 32), out("data/videos.parquet", MD5S["index"])],
)
SPLIT = stage(
    deps=[out("data/videos.parquet", MD5S["index"])],
    params={"params.yaml": {"seed": 0}},
    outs=[out("data/splits.parquet", MD5S["splits"], 11)],
)
CLIPS = stage(
    deps=[out("data/videos.parquet", MD5S["index"])],
    outs=[
        out("data/clips", "f" * 32 + ".dir", 100, nfiles=3),
        out("data/clips.parquet", MD5S["clips"], 11),
    ],
)
TRAIN = stage(deps=[out("data/clips.parquet", MD5S["clips"])], outs=[out("models/m.pt", "1" * 32)])


def test_the_outs_of_all_stages_are_found_and_what_they_were_made_from() -> None:
    stages = {"load": LOAD, "split": SPLIT, "make_clips": CLIPS, "train@m-0": TRAIN}
    lock = read_lock(written(stages))
    assert {data: version.content_hash for data, version in lock.items()} == MD5S
    assert lock["clips"].files_hash == "f" * 32 + ".dir"
    assert [lock[data].size_bytes for data in MD5S] == [7, 11, 111]
    assert [lock[data].made_from for data in MD5S] == [{}, *[{"index": MD5S["index"]}] * 2]
    assert lock["index"].config_hash == config_hash(
        {"params.yaml": {"data": {"labels": ["b", "a"]}}}
    )


def test_only_an_out_is_a_version() -> None:
    assert read_lock(written({"split": stage(deps=SPLIT["deps"], outs=[]), "train": TRAIN})) == {}


VALUES = [1e-05, 0.1, 1.0, -3, 0, True, None, [], {}, [1, "1"], {"no": False}]
# What one version or the other of YAML takes for something else, or DVC breaks into lines.
TEXTS = ["", "no", "yes", "on", "~", "null", "true", "1e-3", "010", "0x10", "1.5", "2024-01-01"]
TEXTS += ["12:30:00", "a: b", "# c", "- d", "    outs:", "a\n    outs:\n", "long " * 60, "e" * 200]


@pytest.mark.parametrize("value", VALUES + TEXTS, ids=repr)
def test_every_value_of_a_parameter_counts_as_dvc_wrote_it(value: Any) -> None:
    params = {"params.yaml": {"split": {"first": value, "second": [value]}}}
    version = read_lock(written({"split": SPLIT | {"params": params}}))["splits"]
    assert version.config_hash == config_hash(params)
    assert version.content_hash == MD5S["splits"]


@pytest.mark.parametrize("digits", ["0" * 32, "1" * 32, "12345678901234567890e12345678901"])
def test_a_hash_that_looks_like_a_number_is_a_text(digits: str) -> None:
    lock = read_lock(written({"split": SPLIT | {"outs": [out("data/splits.parquet", digits)]}}))
    assert lock["splits"].content_hash == digits


def test_a_file_that_a_cloud_keeps_by_version_is_none() -> None:
    outs = [{"path": "data/splits.parquet", "files": []}]
    assert read_lock(written({"split": SPLIT | {"outs": outs}})) == {}


def test_a_size_that_is_not_recorded_is_not_known() -> None:
    outs = [out("data/clips", "f" * 32 + ".dir", None), out("data/clips.parquet", MD5S["clips"])]
    assert read_lock(written({"clips": CLIPS | {"outs": outs}}))["clips"].size_bytes is None


@pytest.mark.parametrize("content", [b"", b"schema: '2.0'\n", b"stages: {}\n", b"no lock\n"])
def test_a_lock_without_stages_names_nothing(content: bytes) -> None:
    assert read_lock(content) == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.replace(b"    outs:", b"<<<<<<< HEAD\n    outs:"),
        lambda content: content.replace(b"size: 11", b"size: many"),
        lambda content: content.replace(b"    outs:\n", b"    outs:\n    - \xff\n"),
        lambda content: content.replace(b"    - path", b"    -path"),
    ],
    ids=["conflict", "size", "not UTF-8", "not YAML"],
)
def test_what_is_not_as_dvc_writes_it_is_refused(spoil: Any) -> None:
    with pytest.raises(LockError):
        read_lock(spoil(written({"split": SPLIT})))
