"""Tables, sizes and lists as text, for a terminal."""

from collections.abc import Collection, Sequence

from rich.cells import cell_len

GAP = "  "


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()
) -> str:
    """Return the header and the rows in columns, those of `numbers` aligned to the right."""
    table = [header, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = []
        for name, cell, width in zip(header, row, widths, strict=True):
            blanks = " " * (width - cell_len(cell))  # a sign of Chinese is two columns wide
            cells.append(blanks + cell if name in numbers else cell + blanks)
        lines.append(GAP.join(cells).rstrip())
    return "\n".join(lines)


def size(num_bytes: int | None) -> str:
    """Format a number of bytes.

    >>> size(34762), size(44290026)
    ('34.8 kB', '44.3 MB')
    """
    if num_bytes is None:
        return ""
    value, unit = num_bytes / 1e3, "kB"
    for larger in ("MB", "GB", "TB"):
        if value >= 999.95:
            value, unit = value / 1e3, larger
    return f"{value:.1f} {unit}"


def listed(items: Sequence[object], max_items: int = 5) -> str:
    """Return the first of the items, and how many more there are.

    >>> listed(["a", "b", "c"], 3), listed(["a", "b", "c"], 1)
    ('a, b, c', 'a and 2 more')
    """
    more = len(items) - max_items
    return ", ".join(map(str, items[:max_items])) + (f" and {more} more" if more > 0 else "")
