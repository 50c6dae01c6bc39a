"""A finding of the doctor: what was looked at, what was found, and what to do about it."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlops.errors import PipelineError

OK, HINT, WRONG = "ok", "hint", "DO"  # a hint may be left, what is wrong must be mended


class Finding(NamedTuple):
    level: str
    subject: str
    found: str
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.found}; {self.advice}" if self.advice else self.found


Findings = Iterator[Finding]


def faults_of(error: PipelineError) -> Findings:
    """Yield the faults of an error, each "where: expected, got; what to do"."""
    for fault in error.faults:
        where, _, rest = fault.partition(": ")
        yield Finding(WRONG, where, *rest.split("; ", 1))


def ask(*command: str) -> tuple[str | None, str]:
    """Return what a program prints, None if it fails, and its first words on stderr."""
    try:
        answer = subprocess.run(
            command, encoding="utf-8", errors="replace", capture_output=True, check=False
        )
    except FileNotFoundError:
        return None, "found no program on PATH"
    said = answer.stderr.strip().partition("\n")[0]
    return (answer.stdout.strip() if answer.returncode == 0 else None), said


def output(*command: str) -> str | None:
    """Return what a program prints; None if it fails or is not there."""
    return ask(*command)[0]


def refusal(directory: Path) -> str | None:
    """Return why no file can be written to a directory; None if one can."""
    try:
        # Tried, for the rights alone do not tell: a server may map or refuse this user.
        with tempfile.TemporaryFile(dir=directory, prefix=".doctor."):
            return None
    except OSError as error:
        return error.strerror or str(error)
