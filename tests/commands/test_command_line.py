"""`python -m commands` tells its commands, and what is wrong with a command line."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands.__main__ import COMMANDS
from mlops.files.tables import aligned, size

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "commands", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_the_help_names_every_command() -> None:
    code, output = command("--help")
    assert code == 0
    for name, purpose in COMMANDS.items():
        assert name in output
        assert purpose.split(",")[0] in " ".join(output.split())


def test_every_command_is_a_module_and_every_module_a_command() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(ROOT / "commands")])} - {
        "__main__"
    }
    assert set(COMMANDS) == modules


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_a_help(name: str) -> None:
    code, output = command(name, "--help")
    assert code == 0
    assert f"usage: python -m commands {name}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["date"], "invalid choice: 'date'"),
        (["data", "diff", "A"], "the following arguments are required: B"),
        (["data", "differ"], "invalid choice: 'differ'"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told(arguments: list[str], message: str) -> None:
    code, output = command(*arguments)
    assert code == 2
    assert output.startswith("usage: python -m commands")
    assert message in output


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    text = aligned(
        ["name", "n", "note"], [["真假", "5", "a"], ["video", "1,000", ""]], numbers={"n"}
    )
    assert text.splitlines() == [
        "name       n  note",
        "真假       5  a",
        "video  1,000",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert aligned(["a", "b"], []) == "a  b"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (None, ""),
        (0, "0.0 kB"),
        (34_762, "34.8 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (44_290_026, "44.3 MB"),
        (5_300_000_000_000_000, "5300.0 TB"),
    ],
)
def test_a_size_has_one_digit_after_the_point(num_bytes: int | None, text: str) -> None:
    assert size(num_bytes) == text
