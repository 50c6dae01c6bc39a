"""What is read of a run is what its training has written."""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import PipelineError
from mlops.files.atomic import md5
from mlops.metrics.log import read_runs
from mlops.notebook.stage_times import known_times
from mlops.run.attempts import heartbeat, start_attempt
from mlops.run.directory import make_run, write_metadata
from mlops.run.records import differing_parameters, read_record, read_records
from tests.support.runs_directory import config, finished_run, log, wanted


def test_a_finished_run_tells_its_epochs_its_best_value_and_its_parameters(tmp_path: Path) -> None:
    record = read_record(finished_run(tmp_path, [0.5, 0.75, 0.25]))
    assert (record.status, record.num_epochs, record.monitor) == ("finished", 3, "accuracy")
    assert record.best("val", "accuracy") == 0.75
    assert record.best("val", "loss") == 0.25
    assert record.best("val", "f1") is None
    assert record.parameters == {"seed": 0, "train.epochs": 3, "train.monitor": "accuracy"}


def test_the_inputs_of_a_run_are_known_by_their_md5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/clips.parquet").write_bytes(b"clips")
    Path("data/splits.parquet").write_bytes(b"splits")
    inputs = ("data/splits.parquet", "data/clips.parquet")
    record = read_record(finished_run(tmp_path / "runs", [0.5], inputs=inputs))
    assert record.inputs == {path: md5(Path(path)) for path in inputs}


def test_a_duration_counts_every_attempt_and_nothing_between_them(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, [0.5])
    began = datetime(2026, 11, 23, 8, tzinfo=UTC)
    path = run_dir / "metadata.json"
    document = json.loads(path.read_text())
    (attempt,) = document["attempts"]
    document["attempts"] = [
        attempt
        | {
            "started": (began + timedelta(hours=hours)).isoformat(),
            "ended": (began + timedelta(hours=hours, seconds=sec)).isoformat(),
        }
        for hours, sec in ((0, 90), (5, 30))
    ]
    path.write_text(json.dumps(document))
    assert read_record(run_dir).duration_sec == 120


def test_a_killed_attempt_lasted_until_it_was_last_seen(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted(config()))
    attempt = start_attempt(run_dir)
    path = run_dir / "metadata.json"
    document = json.loads(path.read_text())
    began = int(time.time()) - 1000
    document["attempts"][0]["started"] = datetime.fromtimestamp(began, UTC).isoformat()
    path.write_text(json.dumps(document))
    pulse = json.loads((run_dir / "heartbeat").read_text())
    (run_dir / "heartbeat").write_text(json.dumps(pulse | {"stopped": True}))
    os.utime(run_dir / "heartbeat", (began + 250, began + 250))
    record = read_record(run_dir)
    assert attempt.number == 1
    assert record.status == "dead"
    assert record.duration_sec == 250
    assert record.last_seen == datetime.fromtimestamp(began + 250, UTC)


def test_a_run_at_work_is_read_while_it_writes(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted(config()))
    start_attempt(run_dir)
    with heartbeat(run_dir):
        log(run_dir, [0.5])
        record = read_record(run_dir)
    assert (record.status, record.num_epochs) == ("running", 1)


def test_a_run_that_was_killed_while_it_was_made_has_a_record(tmp_path: Path) -> None:
    path = tmp_path / "demo/run_20261123_080000_00000000"
    path.mkdir(parents=True)
    os.utime(path, (0, 0))
    (record,) = read_records(tmp_path)
    assert (record.status, record.attempts, record.last_seen) == ("dead", [], None)
    assert (record.num_epochs, record.duration_sec, record.inputs) == (0, 0, {})


def test_the_newest_run_of_all_experiments_is_last(tmp_path: Path) -> None:
    names = ["b/run_20261123_080000_00000002", "a/run_20261123_080001_00000001"]
    names += ["b/run_20261124_080000_00000000"]
    for name in reversed(names):
        (tmp_path / name).mkdir(parents=True)
    shown = [str(record.path.relative_to(tmp_path)) for record in read_records(tmp_path)]
    assert shown == names
    assert [record.path.name for record in read_records(tmp_path, "a")] == [names[1][2:]]


def test_an_experiment_without_a_run_is_told(tmp_path: Path) -> None:
    finished_run(tmp_path, [0.5], experiment="first")
    with pytest.raises(PipelineError, match="expected runs of this experiment, found none") as told:
        read_records(tmp_path, "frist")
    assert "there are those of first" in str(told.value)


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"config": {"train": {"epochs": 3',
    "no object": b"[]",
    "not UTF-8": b'{"config": {"name": "\xff"}}',
    "NULs": bytes(64),
    "too deep": b"[" * 100_000,
}


def put_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.json")


@pytest.mark.parametrize("name", ["metadata.json", "config.json"])
@pytest.mark.parametrize("damage", [*DAMAGE, put_a_directory, put_a_link_to_nothing])
def test_a_damaged_run_is_named_and_hides_no_sound_one(
    damage: str | Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    first, second = finished_run(tmp_path, [0.5]), finished_run(tmp_path, [0.75])
    path = first / name
    if isinstance(damage, str):
        path.write_bytes(DAMAGE[damage])
    else:
        damage(path)
    told: list[str] = []
    assert [record.path for record in read_records(tmp_path, warn=told.append)] == [second]
    (line,) = told
    assert line.startswith(f"{path}: expected the record of a run, got a damaged file (")
    assert line.endswith("; restore the file, or move the run's directory away")
    assert known_times(tmp_path) == {}


@pytest.mark.parametrize(
    "entries",
    [
        {"attempts": {}},
        {"attempts": [7]},
        {"attempts": [{"number": 1, "started": "yesterday"}]},
        {"status": "done"},
        {"published": ["model.pt"]},
        {"inputs_md5": {"data/clips.parquet": 7}},
        {"fingerprint": "cafe"},
        {"fingerprint": {"code": "cafe"}},
        {"goes_on_from": "run_1"},
    ],
)
def test_an_entry_of_another_type_is_damage_and_is_not_written(
    entries: dict[str, Any], tmp_path: Path
) -> None:
    run_dir = finished_run(tmp_path, [0.5])
    before = (run_dir / "metadata.json").read_bytes()
    with pytest.raises(PipelineError, match=r"metadata.json: expected an entry that readers of"):
        write_metadata(run_dir, **entries)
    assert (run_dir / "metadata.json").read_bytes() == before
    (run_dir / "metadata.json").write_text(json.dumps(json.loads(before) | entries))
    told: list[str] = []
    assert read_records(tmp_path, warn=told.append) == []
    assert told[0].startswith(f"{run_dir / 'metadata.json'}: expected the record of a run, got a")


def test_a_log_that_is_no_file_is_named(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, [0.5])
    put_a_directory(run_dir / "metrics.jsonl")
    told: list[str] = []
    assert read_records(tmp_path, warn=told.append) == []
    assert told[0].startswith(f"{run_dir / 'metrics.jsonl'}: expected the log of a run, got a")


@pytest.mark.parametrize("content", [b"", b"{}", b"7", b'{"stopped": false}', b"\xff"])
def test_a_damaged_heartbeat_is_none(content: bytes, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted(config()))
    start_attempt(run_dir)
    (run_dir / "heartbeat").write_bytes(content)
    assert read_record(run_dir).status == "running"
    os.utime(run_dir / "heartbeat", (0, 0))
    assert read_record(run_dir).status == "dead"


def test_files_and_directories_without_a_log_stop_no_query(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, [0.5])
    for name in ("demo/run_notes", ".locks/run_1.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "demo/run_2/metrics.jsonl").mkdir(parents=True)
    (tmp_path / "demo/run_3").symlink_to("nowhere")
    found = list(tmp_path.glob("*/run_*"))
    assert len(found) == 5
    assert read_runs(found)["run_id"].unique().to_list() == [run_dir.name]
    with pytest.raises(PipelineError, match="expected the directory of a run, found none"):
        read_runs([tmp_path / "demo/run_4"])


def test_parameters_differ_by_value_and_not_by_spelling_or_by_being_new(tmp_path: Path) -> None:
    finished_run(tmp_path, [0.5], learning_rate=1e-3, clip_norm=1)
    finished_run(tmp_path, [0.5], learning_rate=2e-3, clip_norm=1.0, ema_decay=0.0)
    assert differing_parameters(read_records(tmp_path)) == ["train.learning_rate"]
