"""YAML 1.2 files: read as DVC reads them, and edited in place.

An edit replaces values and nothing else of the text: comments, blank lines, the order and the
layout stay as they are, so that a diff shows the values alone.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from mlops.errors import PipelineError
from mlops.files.canonical import flatten


def load_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file; a `PipelineError` names file, line and remedy."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(
            f"{path}: expected a file, found none; run from the root of the repository"
        ) from None
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset "
            f"{error.start}; save the file as UTF-8"
        ) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        found = re.match(r"(?:but )?found (.*)", problem, re.DOTALL)
        got = found[1] if found else f"an error ({problem})"
        raise PipelineError(
            f"{path}{line}: expected YAML 1.2, got {got}; correct the line"
        ) from None
    except ValueError as error:
        # A date such as 2024-13-45.
        raise PipelineError(
            f"{path}: expected YAML 1.2, got a value that cannot be read ({error}); correct it, "
            "or put it in quotes"
        ) from None


def replace_values(text: str, values: Mapping[str, Any]) -> str:
    """Return the text with new values, plain types, for the dotted keys, each of which it has.

    Raises `PipelineError` where a value cannot be replaced by itself: one with an alias.
    """
    wanted = {**flatten(_load(text)), **values}
    spans = _spans(text, YAML(pure=True).compose(text))
    # From the end, so that what is before keeps its place.
    for key in sorted(values, key=lambda key: spans[key], reverse=True):
        start, end = spans[key]
        text = text[:start] + _blanks(text[:start]) + flow_style(values[key]) + text[end:]
    try:
        found = flatten(_load(text))
    except YAMLError:
        found = {}
    if found != wanted:
        raise PipelineError(
            f"{', '.join(values)}: expected values that stand in the file by themselves, got one "
            "with an alias (*name); write it out, or edit the file by hand"
        )
    return text


def flow_style(value: Any) -> str:
    """Return a value on one line.

    >>> flow_style(["small3d", "mc3_18"]), flow_style("1e-3"), flow_style(1e-5)
    ('[small3d, mc3_18]', "'1e-3'", '1e-05')
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width, yaml.allow_unicode = True, 1 << 30, True
    stream = io.StringIO()
    # In a list, for a value by itself would be a document, with its mark of the end.
    yaml.dump([value], stream)
    return stream.getvalue().strip()[1:-1]


def _load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def _spans(text: str, section: MappingNode, above: str = "") -> dict[str, tuple[int, int]]:
    """Return where the values stand, by dotted key; a section without keys is a value."""
    spans: dict[str, tuple[int, int]] = {}
    for name, node in section.value:
        key = above + name.value
        if isinstance(node, MappingNode) and node.value:
            spans |= _spans(text, node, f"{key}.")
        elif node.start_mark.index == node.end_mark.index:  # no value, which the marks misplace
            spans[key] = (text.index(":", name.end_mark.index) + 1,) * 2
        else:
            spans[key] = (node.start_mark.index, _end(text, node))
    return spans


def _blanks(before: str) -> str:
    """Return the blanks to write before a value: one after a colon, two at the start of a line, for
    a list in brackets must be indented, unlike the items on one line each that it replaces."""
    if before.endswith(":"):
        return " "
    return "" if before.rpartition("\n")[2].strip() else "  "


def _end(text: str, node: Node) -> int:
    if isinstance(node, CollectionNode) and not node.flow_style:
        # One item a line ends where what comes next begins: comments and blank lines are no part.
        return _end(text, node.value[-1])
    return len(text[: node.end_mark.index].rstrip())
