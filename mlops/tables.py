"""Tables as text, for a terminal."""

import shutil
import sys
from collections.abc import Collection, Sequence

GAP = "  "


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()
) -> str:
    """The table with its columns one below the other, those of `numbers` to the right.

    On a terminal a line that is too long ends with …; into a pipe or a file it goes whole.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        lines.append(GAP.join(cells).rstrip())
    if sys.stdout.isatty():
        most = shutil.get_terminal_size().columns
        lines = [line if len(line) <= most else f"{line[: most - 1]}…" for line in lines]
    return "\n".join(lines)
