"""A journal holds whole lines, whatever the disk and other processes do."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import PipelineError
from mlops.files.journal import Journal, copy_of, intact

ROOT = Path(__file__).resolve().parents[2]

MEETS_A_FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from mlops.errors import PipelineError
from mlops.files.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
journal = Journal(Path(sys.argv[1]))
journal.append(b"first\\n")
journal.append(b"half of it\\n" * 20)
journal.append(b"another\\n")
print(json.dumps(journal.state_dict()))
try:
    journal.flush()
except PipelineError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
if sys.argv[2] == "goes on":
    journal.append(b"after\\n")
    journal.flush()
    print(json.dumps(journal.state_dict()))
"""


def written(path: Path, *blocks: bytes) -> dict[str, Any]:
    """Append the blocks and return the state after them."""
    journal = Journal(path)
    for block in blocks:
        journal.append(block)
    state = journal.state_dict()
    journal.close()
    return state


def cut(path: Path, state: dict[str, Any] | None) -> None:
    journal = Journal(path)
    try:
        journal.load_state_dict(state)
    finally:
        journal.close()


def on_a_full_disk(path: Path, then: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", MEETS_A_FULL_DISK, str(path), then],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


def test_lines_that_the_disk_has_no_room_for_wait_until_it_has(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    (full, fault, later), warning = on_a_full_disk(path, "goes on")
    lines = "half of it\n" * 20 + "another\n"
    crc32 = f"{zlib.crc32(b'first' + bytes([10])):08x}"
    assert json.loads(full) == {"offset_bytes": 6, "crc32": crc32, "waiting": lines}
    assert fault == (
        f"{path}: expected room for {len(lines)} bytes, got a full disk; make room and run the "
        "same command again"
    )
    assert warning == (
        f"{path}: expected room for another line, got: File too large; the lines wait in memory "
        "and in the checkpoints: make room\n"
    )
    assert path.read_text() == f"first\n{lines}after\n"
    crc32 = f"{zlib.crc32(path.read_bytes()):08x}"
    assert json.loads(later) == {
        "offset_bytes": path.stat().st_size,
        "crc32": crc32,
        "waiting": "",
    }


def test_lines_that_waited_when_the_process_was_killed_come_back_with_the_state(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lines.jsonl"
    (state, _), _ = on_a_full_disk(path, "is killed")
    assert path.read_bytes() == b"first\n"
    cut(path, json.loads(state))
    assert path.read_text() == "first\n" + "half of it\n" * 20 + "another\n"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_its_files_have_the_mode_that_the_umask_gives(
    umask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        written(tmp_path / "lines.jsonl", b"one\n")
        cut(tmp_path / "lines.jsonl", None)
    finally:
        os.umask(before)
    for name in ("lines.jsonl", "orphans.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_torn_line_of_a_killed_writer_is_moved_away_before_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"whole\nto")
    written(path, b"next\n")
    assert path.read_bytes() == b"whole\nnext\n"
    assert (tmp_path / "orphans.jsonl").read_bytes() == b"to\n"


def test_a_torn_line_of_many_nuls_is_moved_away_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"whole\n" + bytes(300_000))
    written(path, b"next\n")
    assert path.read_bytes() == b"whole\nnext\n"
    assert (tmp_path / "orphans.jsonl").read_bytes() == bytes(300_000) + b"\n"


def test_a_long_tail_is_cut_and_kept_to_the_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    state = written(path, b"kept\n")
    tail = b"".join(b"%d\n" % number for number in range(400_000))  # over 2 MiB
    written(path, tail)
    cut(path, state)
    assert path.read_bytes() == b"kept\n"
    assert (tmp_path / "orphans.jsonl").read_bytes() == tail


# --- the copy ----------------------------------------------------------------------------------


def synced(path: Path) -> dict[str, Any]:
    """Write lines and sync them, then one more, and return the state before that."""
    journal = Journal(path)
    for number in range(500):
        journal.append(b'{"step":%d}\n' % number)
    state = journal.state_dict()
    journal.append(b"later\n")
    journal.sync()
    journal.close()
    return state


def lose(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def put_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


HARMS = [lose, shorten, change, put_a_directory, put_a_link_to_nothing]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("which", ["the file", "its copy"])
def test_a_file_or_its_copy_can_be_lost(
    which: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    state = synced(path)
    whole = path.read_bytes()[: state["offset_bytes"]]
    harm(path if which == "the file" else copy_of(path))
    assert intact(path, state) is not None
    journal = Journal(path)
    journal.load_state_dict(state)
    assert path.read_bytes() == whole
    journal.append(b"next\n")
    journal.sync()
    journal.close()
    assert path.read_bytes() == copy_of(path).read_bytes() == whole + b"next\n"


def test_a_file_that_is_restored_is_kept_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lines.jsonl"
    state = synced(path)
    change(path)
    damaged = path.read_bytes()
    cut(path, state)
    assert (tmp_path / "lines.jsonl.damaged1").read_bytes() == damaged
    assert capsys.readouterr().err == (
        f"{path}: expected what was written in lines 1 to 324, got a changed line; restored from "
        "lines.copy.jsonl, and kept as lines.jsonl.damaged1\n"
    )


def test_with_both_lost_it_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    state = synced(path)
    path.unlink()
    copy_of(path).unlink()
    assert intact(path, state) is None
    with pytest.raises(PipelineError, match="expected at least 6390 bytes, as the checkpoint says"):
        cut(path, state)


def test_another_journal_is_adopted_by_its_copy(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    state = synced(path)
    whole = path.read_bytes()[: state["offset_bytes"]]
    change(path)
    journal = Journal(tmp_path / "own.jsonl")
    journal.adopt(path, state)
    journal.close()
    assert (tmp_path / "own.jsonl").read_bytes() == whole


def test_a_directory_in_the_copys_place_costs_no_sync(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lines.jsonl")
    journal.append(b"first\n")
    copy_of(journal.path).mkdir()
    journal.sync()
    journal.close()
    assert copy_of(journal.path).read_bytes() == b"first\n"


def test_orphans_go_where_they_are_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lines.jsonl", tmp_path / "others.jsonl")
    journal.append(b"line\n")
    journal.load_state_dict(None)
    journal.close()
    assert (tmp_path / "others.jsonl").read_bytes() == b"line\n"
    assert not (tmp_path / "orphans.jsonl").exists()


def test_what_is_appended_after_a_cut_stands_at_the_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lines.jsonl")
    journal.append(b"first\n")
    state = journal.state_dict()
    journal.append(b"second\n")
    journal.load_state_dict(state)
    journal.append(b"again\n")
    journal.sync()
    journal.close()
    assert (tmp_path / "lines.jsonl").read_bytes() == b"first\nagain\n"


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    first = Journal(path)
    with pytest.raises(PipelineError, match="expected a run that no process is in"):
        Journal(path)
    first.close()
    first.close()  # nothing more happens
    Journal(path).close()


def test_a_refused_writer_leaves_the_line_that_the_first_is_in(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    first = Journal(path)
    with path.open("ab") as stream:
        stream.write(b"not yet who")
    with pytest.raises(PipelineError):
        Journal(path)
    first.close()
    assert path.read_bytes() == b"not yet who"


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere: expected the directory of a run, found no"):
        Journal(tmp_path / "nowhere" / "lines.jsonl")
