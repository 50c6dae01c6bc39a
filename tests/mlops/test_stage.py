"""How a stage's process ends, and what a user sees of it."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import sys, time
from mlops.errors import PipelineError
from mlops.stage import run_command
def main():
    print("working")
    {body}
run_command("load_data", main)
print("after")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD.format(body=body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stage_that_ends_well_exits_with_0() -> None:
    done = run("pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "working\nafter\n", "")


def test_faults_are_lines_with_the_stages_name_and_no_traceback() -> None:
    done = run('raise PipelineError("a.csv: expected b, got c; do d", "two\\nlines")')
    assert done.stderr.splitlines() == [
        "load_data: a.csv: expected b, got c; do d",
        "load_data: two",
        "load_data: lines",
    ]


def test_a_fault_exits_with_1_and_nothing_runs_after_it() -> None:
    done = run('raise PipelineError("x")')
    assert (done.returncode, done.stdout) == (1, "working\n")


def test_another_exception_keeps_its_traceback() -> None:
    done = run("1 / 0")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "load_data: " not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp437"])
def test_a_sign_that_the_terminal_lacks_ends_no_stage(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = run("print('mean ▁ 3'); print('an error ▁', file=sys.stderr)")
    assert (done.returncode, done.stdout) == (0, "working\nmean \\u2581 3\nafter\n")
    assert done.stderr == "an error \\u2581\n"


def test_an_exit_code_of_its_own_stays() -> None:
    assert run("sys.exit(75)").returncode == 75


def test_into_a_pipe_progress_comes_line_by_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD.format(body="sys.stdin.readline()")],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # The stage waits for a line that it gets only when its own has arrived or 10 s have passed.
    arrived, _, _ = select.select([process.stdout], [], [], 10)
    process.communicate("go\n")
    assert arrived
