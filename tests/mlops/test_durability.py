"""What has its name is on the disk: every file is synced before it is renamed, and its name after.

The calls are recorded on their way to the system, in order, with the size that a file had.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlops.checkpoint import LATEST, PREVIOUS
from mlops.files import atomic
from mlops.files.journal import Journal
from mlops.processes.group import ProcessGroup
from mlops.processes.signals import StopFlag
from mlops.resume import Start
from mlops.run.directory import create_run_directory
from mlops.training import TrainingProcess, TrainingRun, TrainingRuntime
from tests.support.learners import Weights

Calls = list[tuple[Any, ...]]
CPU = torch.device("cpu")
RUNTIME = TrainingRuntime(
    device="cpu",
    num_processes=1,
    checkpoint_every_sec=0.0,
    keep_epoch_checkpoints=1,
    resume="exact",
)


def name_of(path: str | Path) -> str:
    """Return the name of a file; of a temporary one, what it is to become, in brackets."""
    name = Path(path).name
    match = atomic.HALF_WRITTEN.fullmatch(name)
    return f"({match[1]}{match[2] or ''})" if match else name


def opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Return the list of the calls that sync, rename or cut a file, which grows."""
    found: Calls = []

    def recorded(call: Callable[..., Any], note: Callable[..., tuple[Any, ...]]) -> Any:
        def record(*arguments: Any, **options: Any) -> Any:
            found.append(note(*arguments))
            return call(*arguments, **options)

        return record

    def sync(descriptor: int) -> tuple[Any, ...]:
        path = opened(descriptor)
        return ("sync", "." if path.is_dir() else name_of(path))

    def rename(source: Path, target: Path) -> tuple[Any, ...]:
        return ("rename", name_of(source), name_of(target), Path(source).stat().st_size)

    def cut(descriptor: int, length: int) -> tuple[Any, ...]:
        return ("cut", name_of(opened(descriptor)), length)

    monkeypatch.setattr(os, "fsync", recorded(os.fsync, sync))
    monkeypatch.setattr(os, "fdatasync", recorded(os.fdatasync, sync))
    monkeypatch.setattr(os, "rename", recorded(os.rename, rename))
    monkeypatch.setattr(os, "replace", recorded(os.replace, rename))
    monkeypatch.setattr(os, "ftruncate", recorded(os.ftruncate, cut))
    return found


def test_a_file_is_synced_before_it_is_renamed_and_its_directory_after(
    calls: Calls, tmp_path: Path
) -> None:
    atomic.write_bytes(tmp_path / "a.bin", b"12345")
    assert calls == [
        ("sync", "(a.bin)"),
        ("rename", "(a.bin)", "a.bin", 5),
        ("sync", "."),
    ]


def test_content_that_is_stored_elsewhere_too_is_not_synced(calls: Calls, tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "a.bin", b"12345", durable=False)
    assert calls == [("rename", "(a.bin)", "a.bin", 5)]


def test_what_a_journal_loses_is_synced_before_it_is_cut_off(calls: Calls, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.append(b"one\n")
    state = journal.state_dict()
    journal.append(b"two\n")
    journal.load_state_dict(state)
    journal.close()
    assert calls == [("sync", "orphans.jsonl"), ("cut", "log.jsonl", 4), ("sync", "log.jsonl")]


def test_a_state_is_renamed_once_all_that_it_refers_to_is_synced(
    calls: Calls, tmp_path: Path
) -> None:
    directory, _ = create_run_directory(tmp_path, "demo")
    process = TrainingProcess(
        device=CPU, group=ProcessGroup(), stop=StopFlag(), runtime=RUNTIME, log=print
    )
    run = TrainingRun(directory=directory, process=process, start=Start(how="new"))
    session = run.restore("cell", Weights())
    with run.checkpoints(session) as checkpoints:
        checkpoints.save(session.state_dict())
        checkpoints.finish()
        session.record_step([3, 1], 0.5, log_every_steps=1)
        calls.clear()
        checkpoints.save(session.state_dict(), epoch=1)
        checkpoints.finish()
    session.close()

    size = (directory / "checkpoints" / LATEST).stat().st_size
    assert [call[:3] for call in calls] == [
        ("sync", "metrics.jsonl"),
        ("sync", "metrics.copy.jsonl"),
        ("sync", "ledger.jsonl"),
        ("sync", "ledger.copy.jsonl"),
        ("sync", f"({LATEST})"),
        ("rename", LATEST, PREVIOUS),
        ("rename", f"({LATEST})", LATEST),
        ("sync", "."),
    ]
    assert calls[-2][3] == size
