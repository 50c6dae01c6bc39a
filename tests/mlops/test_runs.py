"""Run directories: each has one owner, and only an equal, unfinished run is found again."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops.config import RunConfig
from mlops.errors import PipelineError
from mlops.files.canonical import config_hash
from mlops.files.places import runs_root
from mlops.run.directory import (
    DIRECTORIES,
    FINISHED,
    create_run_directory,
    find_run,
    make_run,
    write_metadata,
)
from mlops.run.identity import Fingerprint, TrainingIdentity, fingerprint_hash
from mlops.tracker import ExperimentTracker
from tests.support.trainer import newest_run

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT: Fingerprint = {
    "config": "c" * 64,
    "inputs": {"data/clips": "d" * 64},
    "code": {"stages/train.py": "e" * 64},
    "versions": {"python": "3.11.7"},
    "device": "cpu",
}

# All processes begin at the moment when the first one closes the pipe they wait at.
FORKS = """
import os, sys
from pathlib import Path
from mlops.run.directory import create_run_directory, write_metadata
number, place = int(sys.argv[1]), Path(sys.argv[2])
gate, opener = os.pipe()
children = []
for child in range(number):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(opener)
        os.read(gate, 1)
        work(child, place)
        os._exit(0)
os.close(opener)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""

CREATES = """
def work(child, place):
    run_id = create_run_directory(place, "demo", "f" * 64)[1]
    os.write(1, f"{run_id}\\n".encode())
"""

WRITES = """
def work(child, place):
    for number in range(10):
        write_metadata(place, **{f"{child}_{number}": number})
"""


def start_run(base: Path, fingerprint: Fingerprint = FINGERPRINT) -> Path:
    wanted = TrainingIdentity(
        config={"seed": 0}, fingerprint=fingerprint, trajectory="t", cell=(), num_epochs=1
    )
    return make_run(base, "demo", wanted)


def note(run_dir: Path) -> None:
    run_dir.mkdir(parents=True)
    write_metadata(run_dir, status=FINISHED)


def run_code(code: str, *arguments: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert result.returncode == 0
    return result.stdout.split()


def test_a_hundred_processes_in_one_second_get_a_whole_directory_each(tmp_path: Path) -> None:
    names = run_code(CREATES + FORKS, "100", str(tmp_path))
    assert len(names) == len(set(names)) == 100
    made = sorted((tmp_path / "demo").iterdir())
    assert [path.name for path in made] == sorted(names)
    for path in made:
        assert {item.name for item in path.iterdir()} == {*DIRECTORIES, "metadata.json"}
        assert json.loads((path / "metadata.json").read_text())["run_id"] == path.name


def test_a_directory_that_another_has_just_begun_is_left_to_it(tmp_path: Path) -> None:
    moment = datetime.now(UTC)
    begun = [
        tmp_path / "demo" / f"run_{moment + timedelta(seconds=second):%Y%m%d_%H%M%S}_{'f' * 8}"
        for second in range(20)
    ]
    for path in begun:  # without sub-directories, as one process left it between two calls
        path.mkdir(parents=True)
    path, _ = create_run_directory(tmp_path, "demo", "f" * 64)
    assert path not in begun
    assert all(list(path.iterdir()) == [] for path in begun)


def test_a_run_directory_is_never_seen_without_its_subdirectories(tmp_path: Path) -> None:
    code = [sys.executable, "-c", CREATES + FORKS, "300", str(tmp_path)]
    seen = set()
    with subprocess.Popen(code, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for path in set(tmp_path.glob("demo/run_*")) - seen:
                seen.add(path)
                assert len(list(path.iterdir())) == 4, path
    assert len(seen) > 10


def test_the_place_of_the_runs_may_be_given_as_a_text(tmp_path: Path) -> None:
    path, run_id = create_run_directory(str(tmp_path), "demo")
    assert path == tmp_path / "demo" / run_id
    assert path.is_dir()


def test_entries_that_processes_write_at_once_are_all_kept(tmp_path: Path) -> None:
    run_code(WRITES + FORKS, "10", str(tmp_path))
    document = json.loads((tmp_path / "metadata.json").read_text())
    assert len(document) == 10 * 10


def test_entries_that_threads_write_at_once_are_all_kept(tmp_path: Path) -> None:
    def write(thread: int) -> None:
        for number in range(10):
            write_metadata(tmp_path, **{f"{thread}_{number}": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(json.loads((tmp_path / "metadata.json").read_text())) == 8 * 10


def test_the_name_is_the_time_in_utc_and_the_start_of_the_fingerprint(tmp_path: Path) -> None:
    path, run_id = create_run_directory(tmp_path, "demo", fingerprint_hash(FINGERPRINT))
    match = re.fullmatch(r"run_(\d{8}_\d{6})_([0-9a-f]{8})", run_id)
    assert match is not None
    moment = datetime.strptime(match[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    assert match[2] == fingerprint_hash(FINGERPRINT)[:8]
    assert path == tmp_path / "demo" / run_id


def test_a_run_without_a_fingerprint_has_a_name_of_its_own(tmp_path: Path) -> None:
    ids = {create_run_directory(tmp_path, "demo")[1][-8:] for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch(r"[0-9a-f]{8}", identity) for identity in ids)


def test_a_run_directory_has_its_subdirectories(tmp_path: Path) -> None:
    path, _ = create_run_directory(tmp_path, "demo")
    assert {item.name for item in path.iterdir()} == {*DIRECTORIES, "metadata.json"}


def test_runs_lie_in_the_main_repository_that_dvc_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert runs_root() == tmp_path / "runs"


def test_without_dvc_runs_lie_in_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert runs_root() == Path("runs")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../other", "a/b", "a b", ".hidden", "a\n", "a" * 101]
)
def test_a_name_that_is_no_directory_below_runs_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"experiment\.name: expected .*, got .*; it names"):
        create_run_directory(tmp_path / "runs", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sample", "v1.2-b_c", "Größe", "7"])
def test_a_name_of_letters_and_digits_is_accepted(name: str, tmp_path: Path) -> None:
    assert create_run_directory(tmp_path, name)[0].parent.name == name


def test_a_new_run_records_its_configuration_and_fingerprint(tmp_path: Path) -> None:
    run_dir = start_run(tmp_path)
    config = json.loads((run_dir / "config.json").read_text())
    metadata = json.loads((run_dir / "metadata.json").read_text())
    assert config == {"hash": config_hash({"seed": 0}), "config": {"seed": 0}}
    assert (metadata["run_id"], metadata["status"]) == (run_dir.name, "running")
    assert metadata["fingerprint"] == FINGERPRINT


def test_a_run_keeps_all_of_params_yaml(finished: Path, tmp_path: Path) -> None:
    run_dir = newest_run(finished)
    assert run_dir is not None
    kept = RunConfig.of_run(run_dir)
    now = RunConfig(project_root=finished)
    assert kept.diff(now) == {}
    assert json.loads((run_dir / "config.json").read_text())["run_config"]["hash"] == now.hash()
    other = RunConfig(project_root=finished, num_frames=4)
    assert kept.diff(other) == {"clips.frames": (kept.num_frames, 4)}

    tracker = ExperimentTracker(*create_run_directory(tmp_path, "notebook"))
    tracker.log_config(other.to_dict())
    tracker.close()
    assert RunConfig.of_run(tracker.run_dir) == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected the directory of a run, found no such file"),
        ("{", "expected the configuration of a run, got a damaged file (JSONDecodeError("),
        ("[]", "expected the configuration of a run, got a damaged file (AttributeError("),
        ('{"hash": ""}', "expected the configuration of a run, got a damaged file (KeyError("),
        ('{"config": 7}', "expected the configuration of a run, got a damaged file (TypeError("),
        ('{"config": {"train": {}}}', "expected all of params.yaml, got the values of one stage"),
    ],
)
def test_a_run_without_its_configuration_is_told(
    text: str | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(PipelineError) as caught:
        RunConfig.of_run(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {message}")


def test_a_new_run_records_the_md5_of_the_files_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/clips").mkdir(parents=True)
    (tmp_path / "data/clips.parquet").write_bytes(b"abc")
    inputs = {"data/clips": "d" * 64, "data/clips.parquet": "e" * 64}
    run_dir = start_run(tmp_path / "runs", FINGERPRINT | {"inputs": inputs})
    metadata = json.loads((run_dir / "metadata.json").read_text())
    # That of RFC 1321's test suite.
    assert metadata["inputs_md5"] == {"data/clips.parquet": "900150983cd24fb0d6963f7d28e17f72"}


@pytest.mark.parametrize("name", ["run_1", "sample/run_1", "runs/sample/run_1", "."])
def test_a_run_goes_by_its_name_or_its_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "runs/sample/run_1"
    note(run_dir)
    note(tmp_path / "runs/sample/run_2")
    monkeypatch.chdir(run_dir if name == "." else tmp_path)
    assert find_run(tmp_path / "runs", name) == run_dir


def test_a_name_that_two_runs_have_is_refused(tmp_path: Path) -> None:
    for experiment in ("one", "other"):
        note(tmp_path / experiment / "run_1")
    with pytest.raises(PipelineError, match=r"expected one run, got .*one/run_1, .*other/run_1"):
        find_run(tmp_path, "run_1")
    assert find_run(tmp_path, "other/run_1") == tmp_path / "other/run_1"


def test_a_run_that_is_not_there_is_told_with_the_newest_that_is(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"run_1: expected the id of a run .*dvc repro makes"):
        find_run(tmp_path, "run_1")
    for experiment, name in (("b", "run_2"), ("a", "run_3")):
        note(tmp_path / experiment / name)
    with pytest.raises(PipelineError, match=r"the newest is .*a/run_3"):
        find_run(tmp_path, "run_1")


def test_new_entries_of_the_metadata_keep_the_others(tmp_path: Path) -> None:
    write_metadata(tmp_path, run_id="a", status="running")
    write_metadata(tmp_path, status="finished", published_epoch=3)
    assert json.loads((tmp_path / "metadata.json").read_text()) == {
        "run_id": "a",
        "status": "finished",
        "published_epoch": 3,
    }
