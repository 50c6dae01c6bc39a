"""Values are replaced in a YAML file, and not one other byte of it."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mlops.errors import PipelineError
from mlops.files.canonical import flatten
from mlops.files.yaml_text import replace_values

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text()

LAID_OUT = """\
# what it is
models:   # one a line
- small3d # the project's own

- r3d_18
# the next
text: >
  two
  lines

none:
a: {b: 1, c: [1, 2]} # in a flow
last: 'x'"""


def test_only_the_values_change_in_params_yaml() -> None:
    values = {
        "models": ["small3d", "mc3_18"],
        "folds": [0, 1],
        "experiment.description": "a: b # c",
        "train.learning_rate": 1e-5,
        "train.schedule": "1e-3",
        "augment.online": True,
    }
    after = replace_values(PARAMS, values)
    changed = [
        (old, new)
        for old, new in zip(PARAMS.splitlines(), after.splitlines(), strict=True)
        if old != new
    ]
    assert len(changed) == len(values)
    for old, new in changed:
        assert old.split(":")[0] == new.split(":")[0]
        assert old.partition(" # ")[2] == new.rpartition(" # ")[2] or "description" in old
    assert flatten(YAML(typ="safe").load(after)) == {**flatten(YAML().load(PARAMS)), **values}


def test_no_value_is_a_value_too() -> None:
    assert replace_values(PARAMS, {}) == PARAMS
    assert "none: 1\na:" in replace_values(LAID_OUT, {"none": 1})


def test_any_layout_keeps_its_comments() -> None:
    after = replace_values(
        LAID_OUT, {"models": ["s3d"], "text": "one", "a.b": 2, "a.c": [], "last": None}
    )
    assert after == (
        "# what it is\nmodels:   # one a line\n  [s3d]\n# the next\ntext: one\n\nnone:\n"
        "a: {b: 2, c: []} # in a flow\nlast: null"
    )


def test_a_value_that_another_refers_to_is_refused() -> None:
    with pytest.raises(PipelineError, match="write it out"):
        replace_values("a: &x 1\nb: *x\n", {"b": 2})
