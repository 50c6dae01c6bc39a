"""States are written behind training's back, and one sound state is always there."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mlops.checkpoint import (
    LATEST,
    PREVIOUS,
    CheckpointManager,
    epoch_checkpoints,
    load_newest,
)
from mlops.files import atomic
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from tests.support.bad_checkpoints import Touches, write_with_checksum

ROOT = Path(__file__).resolve().parents[2]

SAVES_FOREVER = """
import sys
from pathlib import Path
import torch
from mlops.checkpoint import CheckpointManager
manager = CheckpointManager(Path(sys.argv[1]), keep_epochs=2, every_sec=0)
for step in range(10**9):
    state = {"step": step, "weights": torch.full((200_000,), float(step))}
    manager.save(state, epoch=step)
    print(step, flush=True)
"""

FILL = """
def fill():
    with (directory.parent / "blocker").open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
"""
SAVES_ON_A_SMALL_DISK = (
    FILL
    + """
import sys
from pathlib import Path
import torch
from mlops.files.checkpoint_file import load_checkpoint
from mlops.checkpoint import CheckpointManager, epoch_checkpoints
directory = Path(sys.argv[1])
manager = CheckpointManager(directory, keep_epochs=3, every_sec=0)
def save(step):
    state = {"step": step, "weights": torch.full((100_000,), float(step))}
    manager.save(state, epoch=step)
    manager.wait()
def show(moment):
    latest = load_checkpoint(directory / "latest_checkpoint.pt")
    assert bool((latest["weights"] == latest["step"]).all())
    epochs = [int(path.stem[-4:]) for path in epoch_checkpoints(directory)]
    print(moment, latest["step"], epochs)
for step in range(6):
    save(step)
show("roomy")
fill()
save(6)
show("full")
for path in [*epoch_checkpoints(directory), directory / "previous_checkpoint.pt"]:
    path.unlink()
fill()
for step in (7, 8):
    save(step)
    show("full")
(directory.parent / "blocker").unlink()
save(10)
manager.close()
show("roomy")
"""
)

# As after a kill between two renames: what training began with is not the newest by name.
SAVES_WITHOUT_A_LATEST = (
    FILL
    + """
import sys
from pathlib import Path
import torch
from mlops.checkpoint import CheckpointManager, load_newest
directory = Path(sys.argv[1])
manager = CheckpointManager(directory, keep_epochs=0, every_sec=0)
def save(step):
    manager.save({"step": step, "weights": torch.full((100_000,), float(step))})
    manager.wait()
for step in range(2):
    save(step)
(directory / "latest_checkpoint.pt").unlink()
fill()
save(2)
manager.close()
print(load_newest(directory, lambda _: None)["step"])
"""
)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((1000,), float(step)), "rates": [0.1, (1, None)]}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def manager(tmp_path: Path, said: list[str]) -> CheckpointManager:
    return CheckpointManager(tmp_path, keep_epochs=2, every_sec=60.0, log=said.append)


def newest(directory: Path, said: list[str]) -> dict[str, Any] | None:
    return load_newest(directory, lambda _: None, log=said.append)


def test_the_newest_state_comes_back_and_the_one_before_is_kept(
    tmp_path: Path, manager: CheckpointManager, said: list[str]
) -> None:
    for step in range(3):
        manager.save(state(step))
    manager.close()
    loaded = newest(tmp_path, said)
    assert loaded is not None
    assert (loaded["step"], loaded["rates"]) == (2, [0.1, (1, None)])
    assert torch.equal(loaded["weights"], state(2)["weights"])
    assert load_checkpoint(tmp_path / PREVIOUS)["step"] == 1
    assert said == []


def test_what_changes_after_a_save_is_not_in_it(tmp_path: Path, manager: CheckpointManager) -> None:
    changing = state(1)
    changing["inner"] = {"list": [torch.zeros(3)]}
    manager.save(changing)
    changing["weights"].zero_()
    changing["inner"]["list"][0].fill_(9.0)
    manager.close()
    saved = load_checkpoint(tmp_path / LATEST)
    assert torch.equal(saved["weights"], torch.ones(1000))
    assert torch.equal(saved["inner"]["list"][0], torch.zeros(3))


def test_a_state_of_another_shape_or_type_gets_buffers_of_its_own(
    tmp_path: Path, manager: CheckpointManager
) -> None:
    for weights in (torch.zeros(3), torch.ones(4), torch.ones(4, dtype=torch.int64), None):
        manager.save({"weights": weights})
        manager.wait()
        saved = load_checkpoint(tmp_path / LATEST)["weights"]
        assert (saved is None) if weights is None else torch.equal(saved, weights)
        assert weights is None or saved.dtype == weights.dtype
    manager.close()


def test_of_epochs_the_newest_few_are_kept(tmp_path: Path, manager: CheckpointManager) -> None:
    for epoch in range(1, 13):
        manager.save(state(epoch), epoch=epoch)
    manager.close()
    kept = [path.name for path in epoch_checkpoints(tmp_path)]
    assert kept == ["checkpoint_epoch_0011.pt", "checkpoint_epoch_0012.pt"]
    assert load_checkpoint(tmp_path / kept[0])["step"] == 11


def test_no_epoch_is_kept_if_none_is_wanted(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_epochs=0, every_sec=1.0)
    manager.save(state(1), epoch=1)
    manager.close()
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]


def test_a_save_is_due_some_time_after_the_last(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_epochs=0, every_sec=0.2)
    assert not manager.is_due
    time.sleep(0.25)
    assert manager.is_due
    manager.save(state(1))
    assert not manager.is_due
    manager.close()


def test_none_is_due_while_one_is_written(tmp_path: Path) -> None:
    written = threading.Event()
    manager = CheckpointManager(
        tmp_path, keep_epochs=0, every_sec=0.0, sync=[lambda: bool(written.wait(30))]
    )
    manager.save(state(1))
    assert not manager.is_due
    written.set()
    manager.wait()
    assert manager.is_due
    manager.close()


def test_the_log_is_on_the_disk_before_the_state_that_refers_to_it(tmp_path: Path) -> None:
    seen = []
    manager = CheckpointManager(
        tmp_path,
        keep_epochs=0,
        every_sec=0.0,
        sync=[lambda: seen.append((tmp_path / LATEST).exists())],
    )
    manager.save(state(1))
    manager.close()
    assert seen == [False]


def test_a_fault_of_the_program_is_raised_by_the_next_call(manager: CheckpointManager) -> None:
    manager.save({"model": lambda: None})
    with pytest.raises(AttributeError, match=r"pickle|local object"):
        manager.wait()
    manager.close()


def test_a_save_that_fails_moves_and_prunes_nothing(
    tmp_path: Path, manager: CheckpointManager
) -> None:
    for step in (1, 2):
        manager.save(state(step), epoch=step)
    manager.wait()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    manager.save({"model": lambda: None}, epoch=3)
    with pytest.raises(AttributeError, match=r"pickle|local object"):
        manager.wait()
    manager.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_kill_9_at_any_moment_leaves_a_sound_state(tmp_path: Path, said: list[str]) -> None:
    inside = 0
    for round_number in range(30):
        if round_number >= 5 and inside:
            break
        directory = tmp_path / str(round_number)
        directory.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", SAVES_FOREVER, str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        acknowledged = int(process.stdout.readline())
        while acknowledged < 3:
            acknowledged = int(process.stdout.readline())
        time.sleep(0.003 * (round_number % 5))
        process.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, process.communicate()[0].split("\n")[:-1])])
        inside += bool(list(directory.glob(".*.tmp*")))
        loaded = newest(directory, said)
        assert loaded is not None
        # The last one that `save` returned from may still be in memory; the one before is written.
        assert loaded["step"] >= acknowledged - 1
        assert torch.equal(loaded["weights"], torch.full((200_000,), float(loaded["step"])))
        atomic.remove_half_written(directory)
        assert not list(directory.glob(".*"))
    assert said == []
    assert inside > 0, "no kill was inside a save"


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    weights = content.find(torch.full((4,), 2.0).numpy().tobytes())
    assert weights > 0
    flipped = {"header": 40, "tensor": weights + 1, "table": len(content) - 60, "sum": -1}
    if kind.startswith("cut"):
        path.write_bytes(content[: int(float(kind.removeprefix("cut ")) * len(content))])
    elif kind in flipped:
        damaged = bytearray(content)
        damaged[flipped[kind]] ^= 4
        path.write_bytes(damaged)
    elif kind == "longer":
        path.write_bytes(content + b"\0")
    elif kind == "zeros at the end":
        path.write_bytes(content[:-512] + bytes(512))
    elif kind == "hole":
        path.write_bytes(content[:1024] + bytes(2048) + content[3072:])
    elif kind == "two records exchanged":
        path.write_bytes(content[512:1024] + content[:512] + content[1024:])
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "other format":
        write_with_checksum({"format_version": 1}, path)
    elif kind == "a class":
        write_with_checksum({"format_version": 2, "step": 2, "path": Path("x")}, path)
    elif kind == "code":
        write_with_checksum(
            {"format_version": 2, "step": 2, "code": Touches(path.with_name("trace"))}, path
        )
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Touches(path.with_name("trace"))))
    elif kind == "torch alone":
        torch.save({"format_version": 2, "step": 2}, path)
    else:
        raise AssertionError(kind)


DAMAGED = r"a checkpoint, got a damaged file \("
CODE = "tensors and plain types, got objects that only running code could load"
EXPECTED = {"other format": "format version 2, got 1", "a class": CODE, "code": CODE}

MOMENTS = ("roomy", "full")

KINDS = [
    *("cut 0", "cut 0.001", "cut 0.1", "cut 0.5", "cut 0.9", "cut 0.999"),
    *("header", "tensor", "table", "sum"),
    *("longer", "zeros at the end", "hole", "two records exchanged", "text"),
    *("other format", "a class", "code", "bare pickle", "torch alone"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_state_is_set_aside_and_the_one_before_is_taken(
    kind: str, tmp_path: Path, manager: CheckpointManager, said: list[str]
) -> None:
    for step in (1, 2):
        manager.save(state(step))
    manager.close()
    damage(tmp_path / LATEST, kind)
    damaged = (tmp_path / LATEST).read_bytes()
    loaded = newest(tmp_path, said)
    assert loaded is not None
    assert loaded["step"] == 1
    (message,) = said
    assert re.match(f"{tmp_path / LATEST}: expected {EXPECTED.get(kind, DAMAGED)}", message)
    assert message.endswith(f"; kept as {LATEST}.damaged1, and not used")
    assert (tmp_path / f"{LATEST}.damaged1").read_bytes() == damaged
    assert not (tmp_path / "trace").exists()


def test_with_both_damaged_the_newest_epoch_is_taken(
    tmp_path: Path, manager: CheckpointManager, said: list[str]
) -> None:
    for step in (1, 2):
        manager.save(state(step), epoch=step)
    for step in (3, 4):
        manager.save(state(step))
    manager.close()
    for name in (LATEST, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    loaded = newest(tmp_path, said)
    assert loaded is not None
    assert loaded["step"] == 2
    assert len(said) == 2


def test_without_any_sound_state_there_is_none(tmp_path: Path, said: list[str]) -> None:
    assert newest(tmp_path, said) is None
    (tmp_path / LATEST).write_bytes(b"")
    assert newest(tmp_path, said) is None
    assert len(said) == 1


def test_a_state_that_is_refused_is_set_aside(tmp_path: Path, said: list[str]) -> None:
    save_checkpoint(tmp_path / LATEST, state(2))
    save_checkpoint(tmp_path / PREVIOUS, state(1))
    loaded = load_newest(
        tmp_path,
        lambda state: "expected step 1" if state["step"] != 1 else None,
        log=said.append,
    )
    assert loaded is not None
    assert loaded["step"] == 1
    aside = f"{LATEST}.refused1"
    assert said == [f"{tmp_path / LATEST}: expected step 1; kept as {aside}, and not used"]
    assert (tmp_path / aside).exists()


def test_nothing_is_moved_in_another_runs_directory(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / LATEST).write_bytes(b"")
    found = load_newest(tmp_path, lambda _: None, log=said.append, set_aside=False)
    assert found is None
    assert said[0].endswith("; left there, and not used")
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]


def on_a_small_disk(directory: Path, size: str, script: str) -> list[str]:
    """Return the lines that a script prints with `directory` on a file system of its own, which
    only root of a user namespace may mount."""
    command = f"mount -t tmpfs -o size={size} none '{directory}' && mkdir '{directory}/checkpoints'"
    run = f"{command} && exec '{sys.executable}' -c \"$SCRIPT\" '{directory}/checkpoints'"
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", run],
        cwd=ROOT,
        env=os.environ | {"SCRIPT": script},
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode and "unshare" in result.stderr:
        pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_full_disk_costs_old_epochs_first_and_never_the_last_state(tmp_path: Path) -> None:
    lines = on_a_small_disk(tmp_path, "3m", SAVES_ON_A_SMALL_DISK)
    warnings = [line for line in lines if "expected to write a checkpoint, got: No space" in line]
    assert warnings
    assert all(line.endswith(": make room, or mend that") for line in warnings)
    shown = [line.split(maxsplit=2) for line in lines if line not in warnings]
    states = {moment: [int(step) for m, step, _ in shown if m == moment] for moment in MOMENTS}
    assert states["roomy"] == [5, 10]
    # Old epochs made room for some; then the last state that was written stayed.
    assert states["full"] == [6, 6, 6]
    assert [epochs for *_, epochs in shown] == ["[3, 4, 5]", "[4, 5, 6]", "[]", "[]", "[10]"]


SAVES_WHAT_HAS_NO_ROOM = """
import sys
from pathlib import Path
import torch
from mlops.checkpoint import CheckpointManager
directory = Path(sys.argv[1])
before = directory.stat().st_mtime_ns
manager = CheckpointManager(directory, keep_epochs=1, every_sec=0)
manager.save({"model": torch.ones(1_000_000)})
manager.wait()
print(directory.stat().st_mtime_ns == before)
"""


def test_a_disk_is_not_filled_by_a_state_that_it_has_no_room_for(tmp_path: Path) -> None:
    warning, is_untouched = on_a_small_disk(tmp_path, "2m", SAVES_WHAT_HAS_NO_ROOM)
    assert "expected to write a checkpoint, got: No space" in warning
    assert is_untouched == "True"


def test_a_full_disk_never_costs_the_only_state(tmp_path: Path) -> None:
    warning, newest_step = on_a_small_disk(tmp_path, "2m", SAVES_WITHOUT_A_LATEST)
    assert "expected to write a checkpoint, got: No space" in warning
    assert newest_step == "0"
