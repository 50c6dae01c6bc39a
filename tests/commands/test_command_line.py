"""`python -m commands` tells its commands, and what is wrong with a command line."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands.__main__ import purpose
from mlops.files.tables import aligned, size
from tests.support.clone import completed

ROOT = Path(__file__).parents[2]
COMMANDS = {module.name for module in pkgutil.iter_modules([str(ROOT / "commands")])} - {"__main__"}


def command(*arguments: str) -> tuple[int, str]:
    result = completed(sys.executable, "-m", "commands", *arguments, cwd=ROOT)
    return result.returncode, result.stdout + result.stderr


def test_the_help_names_every_command() -> None:
    code, output = command("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"  {name} " in output
        assert purpose(name) in " ".join(output.split())


def test_only_the_chosen_command_is_imported() -> None:
    code = (
        "import sys; from commands.__main__ import main; main(sys.argv[1:]); "
        "print(*(name for name in sys.modules if name.startswith('commands.')))"
    )
    for arguments, imported in ((["--help"], set()), (["doctor", "--outs"], {"doctor"})):
        output = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            check=True,
            text=True,
            capture_output=True,
        ).stdout
        names = {name.removeprefix("commands.") for name in output.splitlines()[-1].split()}
        assert {name.partition(".")[0] for name in names} - {"__main__"} == imported


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_a_help(name: str) -> None:
    code, output = command(name, "--help")
    assert code == 0
    assert f"Usage: python -m commands {name}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Commands:"),
        (["date"], "No such command 'date'"),
        (["data", "diff", "A"], "Missing argument 'B'"),
        (["data", "differ"], "No such command 'differ'. Did you mean 'diff'?"),
        (["runs", "--json", "show", "run_0"], "--json: expected it after show, got it before"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told(arguments: list[str], message: str) -> None:
    code, output = command(*arguments)
    assert code == 2
    assert output.startswith("Usage: python -m commands")
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
