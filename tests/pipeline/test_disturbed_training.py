"""A training whose files are lost, changed or damaged says so, and ends with the same bytes."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from mlops.files.journal import copy_of
from tests.support.clone import set_params
from tests.support.trainer import MODEL, Trainer, lines, results, stopped_run, the_run, train

EPOCHS = 4
LOGS = ["metrics.jsonl", "ledger.jsonl"]
# Every checkpoint that time asks for.
SHORT: dict[str, Any] = {
    "train": {"epochs": EPOCHS, "batch_size": 2, "schedule": "constant", "publish": "best"},
    "runtime": {"checkpoint_every_sec": 0.01, "log_every_steps": 1},
}


@pytest.fixture(scope="module")
def short(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a clone with the parameters above, and the results of an undisturbed training."""
    root = tmp_path_factory.mktemp("short") / "clone"
    shutil.copytree(finished, root, symlinks=True)
    set_params(root, SHORT)
    shutil.rmtree(root / "runs")
    train(root)
    whole = results(root)
    shutil.rmtree(root / "runs")
    return root, whole


@pytest.fixture
def root(short: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "clone"
    shutil.copytree(short[0], root, symlinks=True)
    (root / MODEL).unlink()
    yield root
    shutil.rmtree(root)


@pytest.fixture
def whole(short: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return short[1]


def steps_of_an_epoch(whole: dict[str, Any]) -> int:
    return sum(epoch == 0 for epoch, *_ in whole["samples"])


def killed_in_epoch_2(root: Path, whole: dict[str, Any]) -> Path:
    """Return a run with the state after two epochs, and newer ones."""
    run_dir = stopped_run(root, 2 * steps_of_an_epoch(whole) + 4, signal.SIGTERM)
    assert (run_dir / "checkpoints/checkpoint_epoch_0002.pt").exists()
    return run_dir


def offset(run_dir: Path, checkpoint: str, log: str) -> int:
    part = {"metrics.jsonl": "tracker", "ledger.jsonl": "ledger"}[log]
    found: int = load_checkpoint(run_dir / "checkpoints" / checkpoint)[part]["offset_bytes"]
    return found


def change_digit(path: Path, after: int) -> None:
    """Change a digit of the first line after an offset, in place."""
    content = bytearray(path.read_bytes())
    place = content.index(b'"step":', after) + len(b'"step":')
    content[place] = ord("9") if content[place] != ord("9") else ord("8")
    with path.open("r+b") as file:
        file.write(content)


# Files of a run that was killed, each lost or damaged alone


@pytest.fixture(scope="module")
def killed(
    short: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return a clone whose training was killed in epoch 2, and a run of another training."""
    root = tmp_path_factory.mktemp("killed") / "clone"
    shutil.copytree(short[0], root, symlinks=True)
    (root / MODEL).unlink()
    set_params(root, {"train": {"learning_rate": 0.003}})
    other = killed_in_epoch_2(root, short[1]).rename(root.parent / "other")
    set_params(root, {"train": {"learning_rate": 0.002}})
    killed_in_epoch_2(root, short[1])
    return root, other


def delete(path: Path, other: Path) -> None:
    path.unlink()


def cut(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_a_byte(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def take_another_runs(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def make_a_directory(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = [delete, cut, change_a_byte, take_another_runs, make_a_directory]
COSTS_NOTHING = [
    *("metrics.jsonl", "ledger.jsonl", "metrics.copy.jsonl", "ledger.copy.jsonl"),
    *("timings.jsonl", "heartbeat", "logs/attempt_001.log"),
    *("checkpoints/previous_checkpoint.pt", "checkpoints/checkpoint_epoch_0002.pt"),
]


# Each harm to the files that a state needs, and one to each other file.
NEEDED = ("checkpoints/latest_checkpoint.pt", "metrics.jsonl", "ledger.jsonl")
OTHERS = [name for name in COSTS_NOTHING if name not in NEEDED]
HARMED = [
    *itertools.product(NEEDED, HARMS),
    *zip(OTHERS, itertools.cycle(HARMS), strict=False),
]


@pytest.mark.parametrize(
    ("name", "harm"), HARMED, ids=lambda each: each if isinstance(each, str) else each.__name__
)
def test_no_file_of_a_run_costs_more_than_the_time_since_the_state_before(
    harm: Callable[[Path, Path], None], name: str, killed: tuple[Path, Path], tmp_path: Path,
    whole: dict[str, Any],
) -> None:  # fmt: skip
    root = tmp_path / "killed"
    shutil.copytree(killed[0], root, symlinks=True)
    run_dir = the_run(root)
    newest = "previous" if name.startswith("checkpoints/latest") else "latest"
    state = load_checkpoint(run_dir / f"checkpoints/{newest}_checkpoint.pt")
    assert state["best_weights"] is not None
    harm(run_dir / name, killed[1] / name)
    output = train(root)
    assert f"goes on with epoch 2, step {state['progress']['step']}\n" in output
    assert results(root) == whole
    shutil.rmtree(root)


def test_every_file_of_a_run_is_among_them(killed: tuple[Path, Path]) -> None:
    """Its record, without which it would not be found, is not: training stops, and says so."""
    run_dir = the_run(killed[0])
    found = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}
    record = {"metadata.json", "config.json", ".metadata.lock"}
    assert found - record == {*COSTS_NOTHING, "checkpoints/latest_checkpoint.pt"}


@pytest.mark.parametrize("log", LOGS)
def test_a_log_and_its_copy_that_lost_lines_cost_the_time_since_a_state_that_fits(
    log: str, root: Path, whole: dict[str, Any]
) -> None:
    run_dir = killed_in_epoch_2(root, whole)
    os.truncate(run_dir / log, offset(run_dir, "checkpoint_epoch_0002.pt", log) + 10)
    shutil.copy(run_dir / log, copy_of(run_dir / log))
    output = train(root)
    assert f"latest_checkpoint.pt: does not fit runs/sample/{run_dir.name}/{log}: exp" in output
    assert "goes on with epoch 2, step" in output
    assert results(root) == whole


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("harm", ["changed", "emptied", "removed"])
def test_where_no_state_fits_training_begins_again_and_says_so(
    harm: str, log: str, root: Path, whole: dict[str, Any]
) -> None:
    run_dir = killed_in_epoch_2(root, whole)
    for path in (run_dir / log, copy_of(run_dir / log)):
        if harm == "changed":
            change_digit(path, 0)
        elif harm == "emptied":
            os.truncate(path, 0)
        else:
            path.unlink()
    output = train(root)
    assert "found no state that fits: begins again with epoch 0, step 0" in output
    assert results(root) == whole


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("harm", ["changed", "added to", "cut"])
def test_what_changes_while_it_trains_is_never_published(
    harm: str, log: str, root: Path, whole: dict[str, Any]
) -> None:
    trainer = Trainer(root, hold=steps_of_an_epoch(whole) + 2).held()
    run_dir = the_run(root)
    if harm == "changed":
        change_digit(run_dir / log, 0)
    elif harm == "cut":
        os.truncate(run_dir / log, (run_dir / log).stat().st_size // 2)
    else:
        with (run_dir / log).open("ab") as file:
            file.write((run_dir / log).read_bytes().splitlines(keepends=True)[0])
    assert trainer.signal(signal.SIGCONT) == 1
    assert f"{log}: expected" in trainer.output
    assert "nothing is published: run the same command again" in trainer.output
    assert "Traceback" not in trainer.output
    assert not (root / MODEL).exists()
    train(root)
    assert results(root) == whole


def test_a_changed_line_of_a_finished_run_is_not_published_again(
    root: Path, whole: dict[str, Any]
) -> None:
    train(root)
    (root / MODEL).unlink()
    run_dir = the_run(root)
    content = (run_dir / "metrics.jsonl").read_bytes()
    begin = content.rindex(b'"value":', 0, content.rindex(b'"phase":"val"') + 100)
    changed = content[: begin + 8] + b"7" + content[begin + 9 :]
    (run_dir / "metrics.jsonl").write_bytes(changed)
    output = train(root)
    assert "metrics.jsonl: expected what was written in lines" in output
    assert "restored from metrics.copy.jsonl, and kept as metrics.jsonl.damaged1" in output
    assert results(root) == whole


def test_states_of_code_without_checksums_are_refused(root: Path, whole: dict[str, Any]) -> None:
    run_dir = killed_in_epoch_2(root, whole)
    for path in (run_dir / "checkpoints").glob("*checkpoint*.pt"):
        state = load_checkpoint(path)
        del state["tracker"]["crc32"], state["ledger"]["crc32"]
        save_checkpoint(path, state)
    output = train(root)
    assert "expected what was written in lines 1 to" in output
    assert "found no state that fits: begins again" in output
    assert results(root) == whole


# Directories that go


def remove_all(root: Path) -> None:
    shutil.rmtree(root / "runs")


def remove_run(root: Path) -> None:
    shutil.rmtree(the_run(root))


def move_all(root: Path) -> None:
    (root / "runs").rename(root / "moved")


@pytest.mark.parametrize(
    ("go", "every_sec"),
    [(remove_all, 0.01), (remove_run, 0.01), (move_all, 0.01), (remove_run, 1000.0)],
)
def test_a_run_that_goes_while_it_trains_ends_it_with_one_line(
    every_sec: float, go: Callable[[Path], None], root: Path, whole: dict[str, Any]
) -> None:
    set_params(root, {"runtime": {"checkpoint_every_sec": every_sec}})
    trainer = Trainer(root, hold=steps_of_an_epoch(whole) + 2).held()
    trainer.wait_for("epoch 0: val accuracy")  # a process of its own passes lines on
    run_dir, before = the_run(root), len(trainer.output)
    go(root)
    assert trainer.signal(signal.SIGCONT) == 1
    (line,) = trainer.output[before:].splitlines()
    assert line == (
        f"train: {run_dir.relative_to(root)}: expected the directory of this run, found none, for "
        "it was removed or moved meanwhile; put it back and run the same command again, or run it "
        "again to begin anew"
    )
    assert not run_dir.exists()
    if go is move_all:
        shutil.rmtree(root / "runs", ignore_errors=True)
        (root / "moved").rename(root / "runs")
    train(root)
    assert results(root) == whole


def test_a_signal_after_the_run_has_gone_ends_with_the_line_too(root: Path) -> None:
    trainer = Trainer(root, hold=5).held()
    remove_all(root)
    assert trainer.signal(signal.SIGTERM) in (1, 143)
    assert "expected the directory of this run, found none" in trainer.output
    assert "Traceback" not in trainer.output
    assert not list(root.glob("runs/*/run_*"))


@pytest.mark.parametrize("log", LOGS)
def test_a_log_that_is_replaced_while_it_trains_ends_it(
    log: str, root: Path, whole: dict[str, Any]
) -> None:
    trainer = Trainer(root, hold=steps_of_an_epoch(whole) + 2).held()
    path = the_run(root) / log
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)  # as `sed -i` and most editors do
    steps = lines(the_run(root), "ledger.jsonl")
    assert trainer.signal(signal.SIGCONT) == 1
    assert f"{log}: expected the file that is written here, found another;" in trainer.output
    assert lines(the_run(root), "ledger.jsonl") <= steps + 1
    train(root)
    assert results(root) == whole


# Damaged records and checkpoints


def test_a_damaged_record_of_another_training_is_told_and_stops_nothing(
    root: Path, whole: dict[str, Any]
) -> None:
    set_params(root, {"train": {"learning_rate": 0.001}})
    other = stopped_run(root, 3, signal.SIGTERM)
    (other / "metadata.json").write_bytes((other / "metadata.json").read_bytes()[:100])
    set_params(root, {"train": {"learning_rate": 0.002}})
    output = train(root)
    (told,) = [line for line in output.splitlines() if other.name in line]
    assert told.startswith(f"train: runs/sample/{other.name}: expected metadata.json and config.js")
    assert "it is passed over" in told
    shutil.rmtree(other)  # which may have begun in the same second
    assert results(root) == whole


@pytest.mark.parametrize("name", ["metadata.json", "config.json"])
@pytest.mark.parametrize("harm", ["cut off", "a directory", "removed"])
def test_a_damaged_record_stops_its_own_training_with_one_line(
    harm: str, name: str, root: Path, whole: dict[str, Any]
) -> None:
    run_dir = stopped_run(root, 20, signal.SIGTERM)
    content = (run_dir / name).read_bytes()
    (run_dir / name).unlink()
    if harm == "cut off":
        (run_dir / name).write_bytes(content[:100])
    elif harm == "a directory":
        (run_dir / name).mkdir()
    trainer = Trainer(root)
    assert trainer.end() == 1
    (line,) = trainer.output.splitlines()
    assert f"{run_dir.name}: expected metadata.json and config.json of a run, got a dam" in line
    assert name in line
    assert line.endswith("; restore it, or move the directory away to train anew")
    if harm == "a directory":
        (run_dir / name).rmdir()
    (run_dir / name).write_bytes(content)
    assert "goes on with epoch" in train(root)
    assert results(root) == whole


def test_a_record_that_is_damaged_while_it_trains_is_told(root: Path) -> None:
    trainer = Trainer(root, hold=5).held()
    (the_run(root) / "metadata.json").write_text("{")
    assert trainer.signal(signal.SIGCONT) == 1
    assert "metadata.json: expected the record of a run, got a damaged file" in trainer.output
    assert "Traceback" not in trainer.output


@pytest.mark.parametrize(
    "name",
    ["latest_checkpoint.pt", "previous_checkpoint.pt", "checkpoint_epoch_0002.pt"],
)
@pytest.mark.parametrize("put", ["a directory", "a link to nothing"])
def test_what_is_no_file_in_a_checkpoints_place_is_told_and_training_goes_on(
    put: str, name: str, root: Path, whole: dict[str, Any]
) -> None:
    run_dir = killed_in_epoch_2(root, whole)
    path = run_dir / "checkpoints" / name
    path.unlink()
    if put == "a directory":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        path.symlink_to("nowhere.pt")
    output = train(root)
    assert f"{name}: expected a checkpoint, got {put}; kept as {name}.damaged1" in output
    assert "cannot" not in output
    assert "expected to write" not in output
    assert os.path.lexists(f"{path}.damaged1")
    assert results(root) == whole


def test_a_directory_that_takes_a_checkpoints_place_while_it_trains_costs_no_save(
    root: Path, whole: dict[str, Any]
) -> None:
    trainer = Trainer(root, hold=steps_of_an_epoch(whole) + 2).held()
    path = the_run(root) / "checkpoints/latest_checkpoint.pt"
    path.unlink(missing_ok=True)
    path.mkdir()
    assert trainer.signal(signal.SIGCONT) == 0, trainer.output
    assert "expected to write" not in trainer.output
    assert path.is_file()
    assert results(root) == whole


def test_checkpoints_that_are_gone_are_told(root: Path, whole: dict[str, Any]) -> None:
    run_dir = killed_in_epoch_2(root, whole)
    shutil.rmtree(run_dir / "checkpoints")
    assert "found no state that fits: begins again with epoch 0" in train(root)
    assert results(root) == whole
