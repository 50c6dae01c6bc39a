"""Parameters of params.yaml, read as DVC reads them and checked before any work starts.

The file is YAML 1.2 (`1e-3` is a number, `no` is a string), as it is for DVC; PyYAML's 1.1
would see other values than those that DVC hashed. Its shape is given by frozen, keyword-only
pydantic dataclasses without defaults, so that every value that can change a result stands in
the file. All faults are reported at once:

    params.yaml: train.learning_rate: expected a number, got str '1e-3'; write 1e-3 without quotes
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mlops.errors import PipelineError
from mlops.files.yaml_text import load_yaml

T = TypeVar("T")

# Nothing is coerced and nothing is passed over: a typing error in a key must not turn into a
# default, nor "1e-3" in quotes into a number that DVC hashed as text.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dataclass_type": "a section with keys",
    "dict_type": "a section with keys",
    "finite_number": "a finite number",
}


def read_parameters(path: Path, kind: type[T]) -> T:
    """Read `path` as the dataclass `kind`, or raise one `PipelineError` with every fault."""
    return parse_parameters(load_yaml(path), kind, where=str(path))


def parse_parameters(document: Any, kind: type[T], *, where: str) -> T:
    """Check a document already read; `where` is the file's name in the messages."""
    # Strict pydantic takes a dataclass from JSON, where a mapping can be nothing else, but not
    # from a Python dict.
    try:
        text = json.dumps(document, default=str)
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"{where}: expected texts as keys and no section within itself, got a fault "
            f"({error}); correct the file"
        ) from None
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        faults = [f"{where}: {_describe(detail, kind)}" for detail in error.errors()]
    raise PipelineError(*faults)


def section_as(section: Any, kind: type[T]) -> T:
    """Build the dataclass `kind` from the fields of the same names of a section.

    So the domain states what it needs without knowing params.yaml, and a field that the section
    lacks is an `AttributeError`, which the contract test would show first.
    """
    names = [field.name for field in dataclasses.fields(cast(Any, kind))]
    return kind(**{name: getattr(section, name) for name in names})


def _describe(detail: ErrorDetails, kind: type) -> str:
    # A section is reported by its dotted key, an item of a list by its position: folds[1].
    key = ""
    for part in detail["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    key = key or "the whole file"
    got, context, fault = detail["input"], detail.get("ctx", {}), detail["type"]
    if fault == "missing":
        return f"{key}: expected a value, got none; add the key {key}"
    if fault in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: expected no such key, got {_show(got)}; {_rename(detail['loc'], kind)}"
    if fault == "value_error":
        # Raised by a check of the dataclass itself, which names the keys that disagree.
        return str(context["error"])
    expected = _EXPECTED.get(fault) or _bound(fault, context)
    if expected is None:
        return f"{key}: {detail['msg']}, got {_show(got)}; correct the value"
    return f"{key}: expected {expected}, got {_show(got)}; {_remedy(fault, expected, got)}"


def _bound(fault: str, context: Mapping[str, Any]) -> str | None:
    signs = {
        "greater_than": (">", "gt"),
        "greater_than_equal": (">=", "ge"),
        "less_than": ("<", "lt"),
        "less_than_equal": ("<=", "le"),
    }
    if fault in signs:
        sign, name = signs[fault]
        return f"a value {sign} {context[name]}"
    if fault == "literal_error":
        return f"one of {context['expected']}"
    if fault == "too_short":
        min_length = context["min_length"]
        return f"a list of at least {min_length} item{'s' if min_length > 1 else ''}"
    if fault == "string_too_short":
        return "a text, not empty"
    return None


def _show(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, Mapping):
        return f"a section with the keys {', '.join(map(str, value)) or '(none)'}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _remedy(fault: str, expected: str, got: Any) -> str:
    if fault == "literal_error":
        return "choose one of them"
    if fault == "string_type" and isinstance(got, bool | int | float):
        return "put it in quotes"
    if fault == "list_type" and isinstance(got, str | int | float):
        return f"write [{got}]"
    if fault == "bool_type" and str(got).lower() in ("yes", "no", "on", "off"):
        # YAML 1.1 habits: in 1.2 these are plain texts.
        return f"write {'true' if got.lower() in ('yes', 'on') else 'false'}"
    if fault in ("float_type", "int_type", "int_from_float") and isinstance(got, str | float):
        try:
            number = float(got)
        except ValueError:
            number = math.nan
        if isinstance(got, float) and math.isfinite(number):
            return f"write {round(number)}"
        if (fault == "float_type" and math.isfinite(number)) or number.is_integer():
            return f"write {got} without quotes"
    return f"write {expected}"


def _rename(location: Sequence[int | str], kind: type) -> str:
    known = _known_keys(location[:-1], kind)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]}?" if close else f"remove it (known: {', '.join(known)})"


def _known_keys(section: Sequence[int | str], kind: Any) -> list[str]:
    fields = _fields(kind)
    for name in section:
        fields = _fields(fields[str(name)])
    return list(fields)


def _fields(kind: Any) -> dict[str, Any]:
    """Return the types of the keys of a section: a dataclass, or a dict that names its keys."""
    kind = getattr(kind, "__origin__", kind)  # of Annotated
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is None:
        return getattr(kind, "__annotations__", {})
    return {name: field.type for name, field in fields.items()}
