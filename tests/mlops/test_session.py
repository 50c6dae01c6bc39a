"""A session comes back as it was: all of it, from its own run's states or from another run's."""

import copy
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlops.checkpoint import LATEST, PREVIOUS
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from mlops.metrics.ledger import Ledger, read_ledger
from mlops.metrics.log import read_metrics
from mlops.resume import Start
from mlops.run.directory import create_run_directory, write_metadata
from mlops.run.documents import read_metadata
from mlops.session import Progress, Session, restore
from mlops.tracker import ExperimentTracker
from tests.support.learners import Weights

FINGERPRINT: dict[str, Any] = {
    "config": "aa",
    "inputs": {"data/clips.parquet": "bb"},
    "code": {"stages/train.py": "cc"},
    "versions": {"torch": "2.15.0"},
    "device": "cpu",
}
PLACE: dict[str, Any] = {
    "epoch": 3,
    "batch": 2,
    "step": 8,
    "loss_sum": 1.5,
    "num_clips": 7,
    "best_epoch": 1,
    "best_metrics": {"accuracy": 0.75},
}


BEGINS_AGAIN = "small3d fold 0 seed 0: found no state that fits: begins again with epoch 0, step 0"


def new_run(base: Path) -> Path:
    run_dir, _ = create_run_directory(base, "demo")
    return run_dir


def new_session(run_dir: Path, fingerprint: dict[str, Any] = FINGERPRINT) -> Session:
    return Session(
        cell="small3d fold 0 seed 0",
        fingerprint=copy.deepcopy(fingerprint),
        learner=Weights(),
        tracker=ExperimentTracker(run_dir, run_dir.name),
        ledger=Ledger(run_dir),
    )


def record(session: Session, step: int) -> None:
    session.tracker.log({"loss": 0.5}, step=step, epoch=0, phase="step")
    session.ledger.record(epoch=0, step=step, samples=[step])


def close(session: Session) -> None:
    session.tracker.close()
    session.ledger.close()


def logged(run_dir: Path) -> tuple[list[int], list[int]]:
    """Return the steps in the log and in the ledger."""
    log = read_metrics(run_dir / "metrics.jsonl")["step"].to_list()
    return log, read_ledger(run_dir / "ledger.jsonl")["step"].to_list()


def left(base: Path, fingerprint: dict[str, Any] = FINGERPRINT, **place: Any) -> Path:
    """Make the directory of a run that was killed at `PLACE`, a step after its last state."""
    run_dir = new_run(base)
    write_metadata(run_dir, fingerprint=fingerprint)
    session = new_session(run_dir, fingerprint)
    vars(session.progress).update(copy.deepcopy(PLACE) | place)
    session.learner.load_state_dict({"values": torch.tensor([1.0, 2.0, 3.0])})
    for step in (7, 8):
        record(session, step)
    session.best_weights = {"values": torch.tensor([4.0, 5.0, 6.0])}
    save_checkpoint(run_dir / "checkpoints" / LATEST, session.state_dict())
    record(session, 9)
    close(session)
    return run_dir


def restored(
    run_dir: Path,
    source: Path | None = None,
    fingerprint: dict[str, Any] = FINGERPRINT,
    *,
    num_epochs: int = 9,
    is_exact: bool = True,
) -> tuple[Session, list[str]]:
    """Restore a session as a new process would; return it and the lines logged."""
    said: list[str] = []
    session = new_session(run_dir, fingerprint)
    start = Start(how="resume", run_dir=run_dir, source=source, is_exact=is_exact)
    try:
        restore(session, start, run_dir, num_epochs=num_epochs, log=said.append)
    finally:
        close(session)
    return session, said


def values(session: Session) -> list[float]:
    found: list[float] = session.learner.state_dict()["values"].tolist()
    return found


def best_weights(session: Session) -> list[float]:
    assert session.best_weights is not None
    found: list[float] = session.best_weights["values"].tolist()
    return found


def other(part: str) -> Any:
    """Return another value of a part of the fingerprint."""
    return {"torch": "other"} if isinstance(FINGERPRINT[part], dict) else "other"


def draw() -> list[float]:
    return [torch.rand(1).item(), random.random(), np.random.random()]  # noqa: NPY002


def test_all_of_the_place_comes_back(tmp_path: Path) -> None:
    session, said = restored(left(tmp_path))
    assert vars(session.progress) == PLACE
    assert values(session) == [1.0, 2.0, 3.0]
    assert best_weights(session) == [4.0, 5.0, 6.0]
    assert said == ["small3d fold 0 seed 0: goes on with epoch 3, step 8"]


def test_an_epoch_is_logged_at_once_and_the_next_one_begins(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path)
    session = new_session(run_dir)
    session.record_step([4, 2, 3], 0.5, log_every_steps=2)
    session.record_step([1], 1.5, log_every_steps=2)
    session.record_epoch({"learning_rate": 0.1, "skipped_steps": 1}, {"loss": 0.3}, is_best=True)
    close(session)

    rows = read_metrics(run_dir / "metrics.jsonl").drop("time").rows()
    assert rows == [
        (2, 0, "step", "loss", 1.5),
        (2, 0, "train", "loss", 0.75),
        (2, 0, "train", "learning_rate", 0.1),
        (2, 0, "train", "skipped_steps", 1.0),
        (2, 0, "val", "loss", 0.3),
    ]
    assert read_ledger(run_dir / "ledger.jsonl").rows() == [(0, 1, [4, 2, 3]), (0, 2, [1])]
    expected = Progress(epoch=1, step=2, best_epoch=0, best_metrics={"loss": 0.3})
    assert session.progress == expected


def test_log_and_ledger_are_cut_where_the_state_was_saved(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    assert logged(run_dir) == ([7, 8, 9], [7, 8, 9])
    restored(run_dir)
    assert logged(run_dir) == ([7, 8], [7, 8])


def test_the_next_draw_is_the_one_that_would_have_come(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    expected = draw()
    restored(run_dir)
    assert draw() == expected


def test_the_time_of_earlier_attempts_is_counted(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    path = run_dir / "checkpoints" / LATEST
    save_checkpoint(path, load_checkpoint(path) | {"wall_sec": 1000.0})
    session, _ = restored(run_dir)
    assert 1000.0 <= time.monotonic() - session.started < 1060.0


def test_without_a_state_it_begins_with_an_empty_log(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    (run_dir / "checkpoints" / LATEST).unlink()
    session, said = restored(run_dir)
    assert session.progress == Progress()
    assert logged(run_dir) == ([], [])
    assert said == [BEGINS_AGAIN]


def test_what_a_kill_left_of_a_save_is_removed(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    half = run_dir / "checkpoints/.latest_checkpoint.abcd1234.tmp.pt"
    half.write_bytes(b"half")
    restored(run_dir)
    assert not half.exists()


@pytest.mark.parametrize("part", sorted(FINGERPRINT))
def test_a_state_whose_fingerprint_differs_in_one_part_is_refused(
    part: str, tmp_path: Path
) -> None:
    run_dir = left(tmp_path, FINGERPRINT | {part: other(part)})
    session, said = restored(run_dir)
    assert session.progress == Progress()
    message, _ = said
    assert "expected the state of this run, got that of another fingerprint; kept as" in message


def test_a_state_that_is_refused_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    checkpoints = run_dir / "checkpoints"
    state = load_checkpoint(checkpoints / LATEST)
    save_checkpoint(checkpoints / PREVIOUS, state)
    state["progress"] |= {"step": 99}
    save_checkpoint(checkpoints / LATEST, state | {"fingerprint": {}})
    session, said = restored(run_dir)
    assert session.progress.step == 8
    assert len(said) == 2


def test_another_runs_state_is_taken_with_its_log_up_to_there(tmp_path: Path) -> None:
    source = left(tmp_path)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    run_dir = new_run(tmp_path)
    session, said = restored(run_dir, source, FINGERPRINT | {"config": "longer"})
    assert vars(session.progress) == PLACE
    assert values(session) == [1.0, 2.0, 3.0]
    assert logged(run_dir) == ([7, 8], [7, 8])
    assert best_weights(session) == [4.0, 5.0, 6.0]
    assert read_metadata(run_dir)["goes_on_from"] == {
        "run": source.name,
        "exact": True,
        "differs": "",
        "epoch": 3,
        "step": 8,
    }
    assert said == ["small3d fold 0 seed 0: goes on with epoch 3, step 8"]
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_its_own_state_comes_before_that_of_another_run(tmp_path: Path) -> None:
    source = left(tmp_path, step=80)
    run_dir = left(tmp_path)
    session, _ = restored(run_dir, source)
    assert session.progress.step == 8
    assert logged(run_dir) == ([7, 8], [7, 8])
    assert "goes_on_from" not in read_metadata(run_dir)


@pytest.mark.parametrize("part", ["code", "versions", "device"])
def test_of_other_code_or_versions_or_another_device_it_is_said_to_be_inexact(
    part: str, tmp_path: Path
) -> None:
    source = left(tmp_path, FINGERPRINT | {part: other(part)})
    run_dir = new_run(tmp_path)
    session, said = restored(run_dir, source, is_exact=False)
    assert read_metadata(run_dir)["goes_on_from"]["exact"] is False
    assert read_metadata(run_dir)["exact_up_to_step"] == session.exact_up_to_step == 8
    assert said[0] == "exact up to step 8, and from there on only about so"


def test_what_was_inexact_once_stays_so_from_the_same_step_on(tmp_path: Path) -> None:
    source = left(tmp_path)
    path = source / "checkpoints" / LATEST
    save_checkpoint(path, load_checkpoint(path) | {"exact_up_to_step": 3})
    for is_exact in (False, True):
        session, said = restored(new_run(tmp_path), source, is_exact=is_exact)
        assert session.exact_up_to_step == 3
        assert said[0] == "exact up to step 3, and from there on only about so"


def test_a_state_that_other_code_cannot_load_is_told_and_left(tmp_path: Path) -> None:
    source = left(tmp_path)
    path = source / "checkpoints" / LATEST
    save_checkpoint(path, load_checkpoint(path) | {"learner": {"renamed": torch.zeros(3)}})
    run_dir = new_run(tmp_path)
    message = r"expected code that can load the state of .*, got KeyError: 'values'; undo that "
    with pytest.raises(PipelineError, match=message):
        restored(run_dir, source, is_exact=False)
    assert path.exists()
    assert "goes_on_from" not in read_metadata(run_dir)


@pytest.mark.parametrize(("num_epochs", "taken"), [(2, False), (3, True)])
def test_another_runs_state_of_too_many_epochs_is_refused(
    num_epochs: int, taken: bool, tmp_path: Path
) -> None:
    session, _ = restored(new_run(tmp_path), left(tmp_path), num_epochs=num_epochs)
    assert (session.progress != Progress()) == taken


def test_a_file_of_another_kind_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    checkpoints = run_dir / "checkpoints"
    (checkpoints / LATEST).rename(checkpoints / PREVIOUS)
    save_checkpoint(checkpoints / LATEST, {"model": {}, "epoch": 1})
    session, said = restored(run_dir)
    assert session.progress.step == 8
    assert "expected the state of this run, got that of another fingerprint" in said[0]


def test_states_of_later_epochs_are_set_aside(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    for epoch in (2, 3, 4):
        (run_dir / f"checkpoints/checkpoint_epoch_{epoch:04}.pt").touch()
    restored(run_dir)
    names = {path.name for path in (run_dir / "checkpoints").glob("checkpoint_epoch*")}
    assert names == {
        "checkpoint_epoch_0002.pt",
        "checkpoint_epoch_0003.pt",
        "checkpoint_epoch_0004.pt.later1",
    }


def test_a_damaged_file_of_another_run_stays_where_it_is(tmp_path: Path) -> None:
    source = left(tmp_path)
    for name in (LATEST, PREVIOUS):
        (source / "checkpoints" / name).write_bytes(b"")
    restored(new_run(tmp_path), source)
    assert sorted(path.name for path in (source / "checkpoints").iterdir()) == [LATEST, PREVIOUS]


def lose(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def change(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'"step":8') == 1
    path.write_bytes(content.replace(b'"step":8', b'"step":5'))


def remove(path: Path) -> None:
    path.unlink()


HARM = {
    lose: "expected at least",
    change: "expected what was written in lines 1 to 2, got a changed line",
    remove: "expected at least",  # it is there again, and empty, once it has been opened
}


@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl"])
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_a_state_that_does_not_fit_the_log_gives_way_to_one_that_does(
    harm: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    run_dir = left(tmp_path)
    (run_dir / "checkpoints" / LATEST).unlink()
    session = new_session(run_dir)
    session.tracker.load_state_dict(None)
    session.ledger.load_state_dict(None)
    vars(session.progress).update(copy.deepcopy(PLACE) | {"step": 7})
    early = run_dir / "checkpoints/checkpoint_epoch_0003.pt"
    record(session, 7)
    save_checkpoint(early, session.state_dict())
    vars(session.progress).update(step=8)
    record(session, 8)
    save_checkpoint(run_dir / "checkpoints" / LATEST, session.state_dict())
    close(session)

    harm(run_dir / name)
    session, said = restored(run_dir)
    latest = run_dir / "checkpoints" / LATEST
    assert said[0].startswith(f"{latest}: does not fit {run_dir / name}: {HARM[harm]}")
    assert said[0].endswith("; kept as latest_checkpoint.pt.refused1, and not used")
    if harm is remove:
        assert said[2:] == [BEGINS_AGAIN]
        assert logged(run_dir) == ([], [])
    else:
        assert said[1:] == ["small3d fold 0 seed 0: goes on with epoch 3, step 7"]
        assert logged(run_dir) == ([7], [7])


def test_another_runs_state_that_does_not_fit_its_log_is_refused_and_left(tmp_path: Path) -> None:
    source = left(tmp_path)
    change(source / "metrics.jsonl")
    session, said = restored(new_run(tmp_path), source)
    assert session.progress == Progress()
    assert f"does not fit {source / 'metrics.jsonl'}: expected what was written in lines" in said[0]
    assert said[1] == BEGINS_AGAIN
    assert (source / "checkpoints" / LATEST).exists()


def test_a_state_of_code_without_checksums_is_refused(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    path = run_dir / "checkpoints" / LATEST
    state = load_checkpoint(path)
    del state["ledger"]["crc32"]
    save_checkpoint(path, state)
    session, said = restored(run_dir)
    assert session.progress == Progress()
    assert "ledger.jsonl: expected what was written in lines 1 to 2" in said[0]


def a_directory(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("elsewhere.pt")


@pytest.mark.parametrize("name", [LATEST, PREVIOUS, "checkpoint_epoch_0002.pt"])
@pytest.mark.parametrize("put", [a_directory, a_link_to_nothing], ids=lambda put: put.__name__)
def test_what_is_no_file_in_a_checkpoints_place_is_told_and_kept(
    put: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    run_dir = left(tmp_path)
    path = run_dir / "checkpoints" / name
    if path.exists():
        path.unlink()
    put(path)
    _, said = restored(run_dir)
    kind = put.__name__.replace("_", " ")
    assert said[0] == (
        f"{path}: expected a checkpoint, got {kind}; kept as {name}.damaged1, and not used"
    )
    assert not os.path.lexists(path)
    assert os.path.lexists(path.with_name(f"{name}.damaged1"))


@pytest.mark.parametrize("put", [a_directory, a_link_to_nothing], ids=lambda put: put.__name__)
def test_what_is_no_file_in_the_place_of_another_runs_checkpoint_is_told_and_left(
    put: Callable[[Path], None], tmp_path: Path
) -> None:
    source = left(tmp_path)
    path = source / "checkpoints" / LATEST
    path.rename(path.with_name(PREVIOUS))
    put(path)
    session, said = restored(new_run(tmp_path), source)
    assert session.progress.step == 8
    assert "left there, and not used" in said[0]
    assert os.path.lexists(path)


@pytest.mark.parametrize("put", ["a file", "a link"])
def test_a_directory_of_checkpoints_that_is_none_stops_the_training(
    put: str, tmp_path: Path
) -> None:
    run_dir = left(tmp_path)
    directory = run_dir / "checkpoints"
    shutil.rmtree(directory)
    if put == "a file":
        directory.touch()
    else:
        directory.symlink_to("elsewhere")
    with pytest.raises(PipelineError, match="expected the directory of the checkpoints, got"):
        restored(run_dir)


def test_lost_checkpoints_are_told(tmp_path: Path) -> None:
    run_dir = left(tmp_path)
    shutil.rmtree(run_dir / "checkpoints")
    _, said = restored(run_dir)
    assert said == [BEGINS_AGAIN]
