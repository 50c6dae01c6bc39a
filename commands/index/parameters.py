"""The lines of params.yaml for an index: printed, or written with all comments kept."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mlops.files.canonical import flatten
from mlops.files.yaml_text import flow_style, load_yaml, replace_values
from mlops.params import parse_parameters
from stages.params import Params
from stages.paths import PARAMS_FILE

# Augmentations that can make a label wrong, and what params.yaml says of them.
REASONS: Mapping[str, str] = {
    "augment.flip_probability": (
        "left and right; 0, for a class such as 'turn left' would be mirrored too: raise it if "
        "yours stay what they are"
    ),
    "augment.reversal_probability": (
        "0, for a class such as 'open the door' would run backward too: raise it if yours stay "
        "what they are"
    ),
}


def values_for(
    *,
    index: Path,
    root: Path,
    labels: Sequence[str],
    split_column: str,
    name: str,
    description: str,
) -> dict[str, Any]:
    """Return the values by dotted key, of the keys that params.yaml has."""
    values: dict[str, Any] = {
        "experiment.name": name,
        "experiment.description": description,
        "data.index": index.as_posix(),
        "data.root": root.as_posix(),
        "data.path_column": "video_path",
        "data.label_column": "label",
        "data.group_column": "group",
        "data.split_column": split_column,
        "data.labels": list(labels),
        "split.rebalance": "auto",
        **dict.fromkeys(REASONS, 0.0),
    }
    # A key may be younger than the file.
    known = flatten(load_yaml(PARAMS_FILE))
    return {key: value for key, value in values.items() if key in known}


def edited(values: Mapping[str, Any]) -> tuple[str, Params]:
    """Return the text of params.yaml with the values, the reasons as comments, and what it says.

    Raises `PipelineError` for values that no stage would take, with all faults of the file.
    """
    text = PARAMS_FILE.read_bytes().decode()  # with the ends of its lines as they are
    text = replace_values(text, values)
    for key, reason in REASONS.items():
        line = rf"^( +{key.partition('.')[2]}: *[\d.]+)[^\r\n]*"
        text = re.sub(line, rf"\1 # {reason}", text, flags=re.MULTILINE)
    document = YAML(typ="safe", pure=True).load(text)
    return text, parse_parameters(document, Params, where=str(PARAMS_FILE))


def lines(values: Mapping[str, Any]) -> str:
    """Return the values as they stand in params.yaml, by section."""
    sections: dict[str, list[str]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        reason = f" # {REASONS[key]}" if key in REASONS else ""
        sections.setdefault(section, []).append(f"  {name}: {flow_style(value)}{reason}")
    return "\n".join(
        line for section, below in sections.items() for line in (f"{section}:", *below)
    )
