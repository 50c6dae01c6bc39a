"""Values of params.yaml, compared and replaced; comments, layout and other values stay."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from mlops.config import canonical_json, flatten
from mlops.errors import PipelineError

PARAMS = "params.yaml"


@dataclass(frozen=True, kw_only=True)
class Change:
    """`before` is the value here, `after` the one there."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Differences:
    changes: list[Change]
    only_here: list[str]
    only_there: list[str]


def differing_values(here: str, there: str) -> Differences:
    """What two texts of params.yaml do not share, by dotted key.

    The spelling of a number counts for nothing.
    """
    ours, theirs = flatten(_load(here)), flatten(_load(there))
    return Differences(
        changes=[
            Change(key=key, before=ours[key], after=theirs[key])
            for key in theirs
            if key in ours and not _equal(ours[key], theirs[key])
        ],
        only_here=[key for key in ours if key not in theirs],
        only_there=[key for key in theirs if key not in ours],
    )


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The text of params.yaml with these values, by dotted key; keys that it lacks are left out."""
    document = _load(text)
    known = flatten(document)
    for key, value in values.items():
        if key in known and not _equal(known[key], value):
            *sections, name = key.split(".")
            place = document
            for section in sections:
                place = place[section]
            place[name] = _in_one_line(value)
    written = io.StringIO()
    _yaml().dump(document, written)
    return written.getvalue()


def check_aliases(text: str, where: str) -> None:
    """Raise for `*name` in a YAML text: one of a few lines can stand for more than memory holds."""
    try:
        events = yaml.parse(text, yaml.CSafeLoader)
        has_alias = any(isinstance(event, yaml.AliasEvent) for event in events)
    except yaml.YAMLError as error:
        raise PipelineError(
            f"{where}: expected YAML, got a fault ({' '.join(str(error).split())}); correct it"
        ) from None
    if has_alias:
        raise PipelineError(
            f"{where}: expected no alias (*name), got one; write the value in its place"
        )


def _equal(one: Any, other: Any) -> bool:
    return canonical_json(one) == canonical_json(other)


def _in_one_line(value: Any) -> Any:
    if not isinstance(value, list) or isinstance(value, CommentedSeq):
        return value
    items = CommentedSeq(value)
    items.fa.set_flow_style()
    return items


def _load(text: str) -> Any:
    """With all that it takes to write it as it was, the spelling of numbers included."""
    try:
        document = _yaml().load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise PipelineError(
            f"{PARAMS}: expected YAML 1.2, got a fault ({' '.join(str(error).split())}); correct it"
        ) from None
    if not isinstance(document, dict):
        raise PipelineError(
            f"{PARAMS}: expected sections with keys, got {type(document).__name__}; restore it "
            f"with git checkout HEAD -- {PARAMS}"
        )
    return document


def _yaml() -> YAML:
    keeping = YAML()
    keeping.preserve_quotes = True
    keeping.width = 4096  # of no line that a person writes
    return keeping
