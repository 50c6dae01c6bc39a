"""The log of an attempt holds all that its process printed, however that process ended."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mlops.run.attempt_log import PlainLines

ROOT = Path(__file__).resolve().parents[2]

START = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from mlops.run.attempt_log import attempt_log
def put(text):
    print(text, flush=True)
"""


def run(
    place: Path, code: str, before: str = "", after: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process within the log of its first attempt."""
    program = f"{START}{before}\nwith attempt_log(Path(sys.argv[1]), 1):\n"
    program += "".join(f"    {line}\n" for line in code.splitlines()) + after
    return subprocess.run(
        [sys.executable, "-c", program, str(place)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def log(place: Path, *, number: int = 1, holds: str = "") -> str:
    """Return the log once it holds this text: the writer outlives a process that was killed."""
    path = place / f"logs/attempt_{number:03}.log"
    deadline = time.monotonic() + 10
    while holds not in (text := path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return text


def test_what_is_printed_is_in_the_log_and_where_it_went_before(tmp_path: Path) -> None:
    result = run(tmp_path, "put('one')\nprint('two', file=sys.stderr)", after="put('after')")
    assert (result.stdout, result.stderr) == ("one\nafter\n", "two\n")
    assert sorted(log(tmp_path).splitlines()) == ["one", "two"]


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("libc = ctypes.CDLL(None)\nlibc.puts(b'from C')\nlibc.fflush(None)", "from C"),
        ("os.write(2, b'by descriptor\\n')", "by descriptor"),
        ("subprocess.run(['echo', 'of a child'])", "of a child"),
        ("os.system('echo of a shell >&2')", "of a shell"),
    ],
)
def test_what_python_does_not_print_is_in_the_log(code: str, line: str, tmp_path: Path) -> None:
    result = run(tmp_path, code)
    assert log(tmp_path) == result.stdout + result.stderr == f"{line}\n"


@pytest.mark.parametrize(
    ("code", "holds"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "last\n"),
        ("os._exit(3)", "last\n"),
        ("os.abort()", "Fatal Python error: Aborted"),
        ("ctypes.string_at(0)", "Fatal Python error: Segmentation fault"),
    ],
)
def test_a_process_that_ends_at_once_leaves_its_last_words(
    code: str, holds: str, tmp_path: Path
) -> None:
    result = run(tmp_path, f"put('last')\n{code}", after="put('not reached')")
    assert result.returncode != 0
    assert result.stdout == "last\n"
    text = log(tmp_path, holds=holds)
    assert holds in text
    assert "last\n" in text


def test_a_line_without_an_end_is_in_the_log_of_a_killed_process(tmp_path: Path) -> None:
    run(tmp_path, "os.write(1, b'half')\nos.kill(os.getpid(), signal.SIGKILL)")
    assert log(tmp_path, holds="half") == "half\n"


def test_all_of_much_output_arrives_before_what_comes_after(tmp_path: Path) -> None:
    result = run(tmp_path, "for i in range(200_000): print(f'line {i}')", after="put('after')")
    lines = [f"line {i}" for i in range(200_000)]
    assert result.stdout.splitlines() == [*lines, "after"]
    assert log(tmp_path).splitlines() == lines


def test_the_order_is_exact_where_stdout_and_stderr_are_one(tmp_path: Path) -> None:
    code = "for i in range(2000):\n    os.write(1 + i % 2, f'{i}\\n'.encode())"
    result = run(tmp_path, code, before="os.dup2(1, 2)")
    assert result.stdout.splitlines() == log(tmp_path).splitlines() == [*map(str, range(2000))]


@pytest.mark.parametrize("error", ["ValueError", "KeyboardInterrupt"])
def test_an_error_ends_the_log_with_its_traceback(error: str, tmp_path: Path) -> None:
    result = run(tmp_path, f"put('one')\nraise {error}('the fault')")
    assert log(tmp_path).startswith("one\nTraceback (most recent call last):\n")
    assert log(tmp_path).endswith(f"\n{error}: the fault\n")
    assert result.stderr.count(f"{error}: the fault") == 1


def test_an_exit_leaves_no_traceback(tmp_path: Path) -> None:
    result = run(tmp_path, "put('one')\nsys.exit(3)")
    assert result.returncode == 3
    assert log(tmp_path) == "one\n"


def test_a_second_attempt_has_a_log_of_its_own(tmp_path: Path) -> None:
    again = "with attempt_log(Path(sys.argv[1]), 2):\n    put('two')\n"
    run(tmp_path, "put('one')", after=again)
    assert (log(tmp_path), log(tmp_path, number=2)) == ("one\n", "two\n")


def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    run(tmp_path, "put('one')")
    run(tmp_path, "put('two')")
    assert log(tmp_path) == "one\ntwo\n"


def test_a_child_that_lives_on_delays_nothing_and_is_still_copied(tmp_path: Path) -> None:
    child = "import time; time.sleep(3); print('late', flush=True)"
    code = f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\nstart = time.monotonic()"
    result = run(tmp_path, code, after="put(time.monotonic() - start)\nchild.wait()")
    assert float(result.stdout.split()[0]) < 1.5
    assert log(tmp_path, holds="late") == "late\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_leaves_the_writer_to_write_the_end(number: int, tmp_path: Path) -> None:
    """As Ctrl-C, a batch system or the end of a session sends it."""
    code = "put('one')\ntime.sleep(0.3)\nos.killpg(0, number)\ntime.sleep(0.3)\nput('end')"
    before = f"number = {int(number)}\nos.setpgid(0, 0)\nsignal.signal(number, signal.SIG_IGN)"
    result = run(tmp_path, code, before=before)
    assert result.stdout == log(tmp_path) == "one\nend\n"


def test_a_kill_of_the_whole_group_leaves_the_writer_to_write_the_end(tmp_path: Path) -> None:
    run(tmp_path, "put('last')\nos.killpg(0, signal.SIGKILL)", before="os.setpgid(0, 0)")
    assert log(tmp_path, holds="last") == "last\n"


def test_a_signal_to_every_process_leaves_the_writer_as_well(tmp_path: Path) -> None:
    code = f"time.sleep(0.5)\n{WRITER}os.kill(writer, signal.SIGTERM)\ntime.sleep(0.3)\nput('end')"
    result = run(tmp_path, code)
    assert result.stdout == log(tmp_path) == "end\n"


# The number of the writer: the only child.
WRITER = "writer = int(Path('/proc/self/task', str(os.getpid()), 'children').read_text())\n"


def test_a_process_whose_writer_is_killed_goes_on_printing(tmp_path: Path) -> None:
    kill = f"{WRITER}os.kill(writer, signal.SIGKILL)\n"
    much = "for i in range(100_000): os.write(1, b'line %d\\n' % i)"
    result = run(tmp_path, f"put('one')\ntime.sleep(0.5)\n{kill}{much}", after="put('after')")
    assert result.returncode == 0, result.stderr
    lines = [f"line {i}" for i in range(100_000)]
    printed = result.stdout.splitlines()
    assert (printed[0], printed[-1]) == ("one", "after")
    assert printed[1:-1] == lines  # the next writer reads what that one had not read
    assert log(tmp_path).splitlines() == ["one", *lines]


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/attempt_001.log").symlink_to("/dev/full")
    result = run(tmp_path, "put('one')\ntime.sleep(0.3)\nput('two')", after="put('after')")
    assert (result.returncode, result.stdout, result.stderr) == (0, "one\ntwo\nafter\n", "")


def test_a_log_that_cannot_be_made_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    result = run(tmp_path, "put('one')")
    assert (result.returncode, result.stdout) == (0, "one\n")
    assert "logs/attempt_001.log: no log is written (File exists)" in result.stderr


def test_a_reader_that_has_gone_ends_nothing(tmp_path: Path) -> None:
    """A terminal that was closed, or `| head`: the log goes on."""
    program = f"{START}with attempt_log(Path(sys.argv[1]), 1):\n"
    program += "    for i in range(30_000): put(i)\n"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(60) == 0
    assert log(tmp_path).splitlines() == [*map(str, range(30_000))]


def test_a_process_on_a_terminal_still_sees_one_and_the_file_gets_plain_text(
    tmp_path: Path,
) -> None:
    program = f"""{START}
from mlops.processes.progress import track
with attempt_log(Path(sys.argv[1]), 1):
    put(f"terminal: {{sys.stdout.isatty()}} {{os.isatty(2)}} {{os.get_terminal_size().columns}}")
    for _ in track(range(20), total=20, task="train"):
        time.sleep(0.05)
    put("\\x1b[31mred\\x1b[0m")
"""
    shown = on_terminal([sys.executable, "-c", program, str(tmp_path)], columns=93)
    assert "terminal: True True 93\r\n" in shown
    assert "\x1b[31mred\x1b[0m\r\n" in shown
    assert shown.count("train") >= 2  # the bar was drawn again and again
    lines = log(tmp_path).splitlines()
    assert (lines[0], lines[-1]) == ("terminal: True True 93", "red")
    assert len(lines) <= 4
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", log(tmp_path))


def test_all_of_much_output_is_on_a_terminal_before_what_comes_after(tmp_path: Path) -> None:
    program = f"{START}with attempt_log(Path(sys.argv[1]), 1):\n"
    program += "    os.write(1, b'0123456789\\n' * 3000)\nput('after')\n"
    shown = on_terminal([sys.executable, "-c", program, str(tmp_path)], columns=80)
    assert shown.split() == ["0123456789"] * 3000 + ["after"]
    assert log(tmp_path).split() == ["0123456789"] * 3000


def on_terminal(command: list[str], columns: int) -> str:
    """Return what a command shows on a terminal of this width."""
    import fcntl
    import struct
    import termios

    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # no one writes to it any more
            while content := os.read(screen, 1 << 16):
                shown.append(content)

    reader = threading.Thread(target=read)
    reader.start()
    environment = os.environ | {"TERM": "xterm-256color"}
    subprocess.run(
        command, cwd=ROOT, env=environment, stdout=terminal, stderr=terminal, check=True, timeout=60
    )
    os.close(terminal)
    reader.join()
    os.close(screen)
    return b"".join(shown).decode()


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (b"a\nb\n", b"a\nb\n"),
        (b"a\r\n", b"a\n"),
        (b"10 %\r20 %\r30 %\n", b"30 %\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", b"red link\n"),
        (b"half", b"half\n"),
        (b"", b""),
        ("Größe\n".encode(), "Größe\n".encode()),
    ],
)
def test_a_stream_is_plain_in_whatever_pieces_it_comes(written: bytes, plain: bytes) -> None:
    for size in (1, 2, 3, 100):
        lines = PlainLines()
        pieces = [written[start : start + size] for start in range(0, len(written), size)]
        assert b"".join(map(lines.add, pieces)) + lines.end() == plain


def test_a_bar_that_is_drawn_for_ever_takes_no_more_memory_than_a_line() -> None:
    lines = PlainLines()
    for number in range(400):
        assert lines.add(b"\r" + f"{number} ".encode() * 1000 + b"x" * 10_000) == b""
        assert len(lines._rest) < 1 << 21
    assert lines.end().startswith(b"399 399 ")


def test_a_line_without_end_is_written_in_pieces() -> None:
    lines = PlainLines()
    content = b"".join(lines.add(b"x" * 100_000) for _ in range(30))
    assert len(content) > 2_000_000
    content += lines.end()
    assert content.replace(b"\n", b"") == b"x" * 3_000_000
