"""The parameters that dvc.yaml puts into commands, which a shell reads: they must be plain words.

The stages check every value of params.yaml, but only once the shell has started them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlops.parameters import load_yaml

PIPELINE = "dvc.yaml"

_WORD = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


def unfit_for_commands(params: str, pipeline: Path) -> list[str]:
    """What is wrong with the values in a text of params.yaml, in words; ValueError if it is none.

    Looked at are those that a `cmd` names, or a matrix, whose items a `cmd` names.
    """
    try:
        values = YAML(typ="safe", pure=True).load(params)
    except YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    return [
        f"{key}: expected plain words and numbers, for {pipeline} puts them into commands, got "
        f"{leaf!r}"
        for key in sorted(_named(load_yaml(pipeline)))
        for leaf in _leaves(_value_at(values, key))
        if not _is_plain(leaf)
    ]


def _named(pipeline: Any) -> set[str]:
    """The keys of params.yaml that the commands of the pipeline name, themselves or by a matrix."""
    texts: list[Any] = []
    for stage in pipeline["stages"].values():
        stage = {**stage, **stage.get("do", {})}
        texts += _leaves([stage.get(part) for part in ("cmd", "matrix", "foreach")])
    found = {key for text in texts for key in re.findall(r"\$\{([^}]+)\}", str(text))}
    return {key for key in found if key.split(".")[0] not in ("item", "key")}


def _value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, int | float) or bool(_WORD.fullmatch(str(leaf)))
