"""Sessions in the documentation: commands behind "$ ", and what they print, to run and compare.

In what is printed, "…" stands for any text within a line, and a line of it alone for any lines.
Numbers, times and hashes stand for others of their kind: they are those of one machine and day.
Columns may be wider or narrower. Lines of progress are left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```[a-z]*\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
# A hash has a digit, or words of these letters would be some; a number may have a sign.
_VARYING = re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b|[-+]?\d[\d.,:]*(?:e[-+]?\d+)?(?: [AP]M)?")
_ANY = "\0any\0"
# Printed if a command takes long.
_PROGRESS = re.compile(r"[^:]+: (?:.*: )?\d+ of \d+, .* left$")


@dataclass(frozen=True, kw_only=True)
class Command:
    line: str
    printed: str


def sessions(page: Path) -> list[list[Command]]:
    """Return the commands of each session of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [_commands(found[1]) for found in _BLOCK.finditer(text)]


def _commands(block: str) -> list[Command]:
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    commands = []
    for part in parts:
        line, _, printed = part.partition("\n")
        commands.append(Command(line=line, printed=printed))
    return commands


def agrees(shown: str, printed: str) -> bool:
    """Return whether a command has printed what a page shows of it."""
    lines = [line.rstrip() for line in shown.splitlines()]
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else _pattern_of(line) + r"\s*\n" for line in lines if line
    )
    text = "".join(
        f"{line.rstrip()}\n"
        for line in printed.splitlines()
        if line.strip() and not _PROGRESS.match(line)
    )
    return re.fullmatch(pattern, text) is not None


def _pattern_of(line: str) -> str:
    marked = _VARYING.sub(_ANY, line)
    words = re.split(r"(\0any\0|…|\s+)", marked)
    found = {_ANY: f"(?:{_VARYING.pattern})", "…": ".*"}
    return "".join(
        found.get(word) or (r"\s+" if word.isspace() else re.escape(word)) for word in words if word
    )
