"""One configuration, one text, one hash."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from mlops.files.canonical import canonical_json, config_hash, flatten


@dataclass
class Inner:
    rate: float


@dataclass
class Outer:
    name: str
    inner: Inner


def test_the_text_is_sorted_and_without_spaces() -> None:
    assert canonical_json({"b": [1, None, True], "a": {"d": "é", "c": 0.5}}) == (
        '{"a":{"c":0.5,"d":"\\u00e9"},"b":[1,null,true]}'
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1e3}, {"a": 1000}),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        (Outer("x", Inner(1.0)), {"name": "x", "inner": {"rate": 1}}),
        ([Inner(0.5)], [{"rate": 0.5}]),
    ],
)
def test_two_spellings_of_one_value_have_one_hash(one: Any, other: Any) -> None:
    assert config_hash(one) == config_hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": 0}, {"a": None}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": 0.1}, {"a": math.nextafter(0.1, 1)}),
        ({"a": {"b": 1}}, {"a": {}, "b": 1}),
        ({"a": 2**53}, {"a": 2**53 + 1}),
    ],
)
def test_different_values_have_different_hashes(one: Any, other: Any) -> None:
    assert config_hash(one) != config_hash(other)


def test_reading_the_text_gives_the_document_back() -> None:
    document = {"a": [1, 0.1, "x", None, {"b": 1e-300}]}
    assert json.loads(canonical_json(document)) == document


def test_the_hash_is_the_sha256_of_the_text() -> None:
    assert config_hash({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        config_hash({"a": [value]})


def test_what_is_no_plain_type_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        config_hash({"a": {1, 2}})


def test_the_values_of_nested_sections_have_dotted_keys() -> None:
    nested = {"seed": 0, "a": {"b": {"c": 1, "d": None}, "list": [{"x": 1}]}, "none": {}}
    assert flatten(nested) == {
        "seed": 0,
        "a.b.c": 1,
        "a.b.d": None,
        "a.list": [{"x": 1}],
        "none": {},
    }
