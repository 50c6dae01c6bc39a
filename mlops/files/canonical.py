"""A configuration as one canonical text, and its hash."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(document: Any) -> str:
    """Return the one JSON text of a document: keys sorted, no spaces, one spelling per number.

    Dataclasses count as mappings and tuples as lists. A float without a fraction is written as
    the integer it equals, so that `1`, `1.0` and `1e0` in params.yaml are one value.
    NaN and infinities raise `ValueError`.
    """
    return json.dumps(
        _plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def config_hash(document: Any) -> str:
    """Return the sha256 of `canonical_json(document)`, 64 hex digits."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def config_document(config: Any) -> dict[str, Any]:
    """Return what a run's config.json holds at least: the configuration and its hash."""
    return {"hash": config_hash(config), "config": config}


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by dotted key; a list is one value, and so is a section without keys.

    >>> flatten({"seed": 0, "train": {"epochs": 8}})
    {'seed': 0, 'train.epochs': 8}
    """
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{name}": item for name, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
