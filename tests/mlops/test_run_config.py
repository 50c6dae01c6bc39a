"""RunConfig is params.yaml and what was set beside it, under the names its users know."""

import ast
import copy
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops import RunConfig
from mlops.config import KEYWORDS
from mlops.errors import PipelineError
from mlops.files.yaml_text import load_yaml

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params.yaml"


def value_at(params: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        params = params[name]
    return params


def written(tmp_path: Path, text: str) -> RunConfig:
    (tmp_path / "params.yaml").write_text(text)
    return RunConfig(project_root=tmp_path)


def test_without_keywords_it_is_params_yaml() -> None:
    assert RunConfig(project_root=ROOT).params == load_yaml(PARAMS)


def test_params_yaml_is_that_of_the_current_directory_if_no_root_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    monkeypatch.chdir(tmp_path)
    assert RunConfig().params == {"seed": 7}


def test_the_keywords_of_a_run_are_kept_and_set_their_values(tmp_path: Path) -> None:
    config = RunConfig(
        run_id="run_1",
        experiment_name="demo",
        data_csv="data/mine/index.csv",
        project_root=ROOT,
        output_dir=tmp_path,
        description="a text",
        tags=["one", "two"],
    )
    assert (config.run_id, config.project_root) == ("run_1", str(ROOT))
    assert config.output_dir == str(tmp_path)
    assert config.params["data"]["index"] == "data/mine/index.csv"
    assert config.params["experiment"] == {
        "name": "demo",
        "description": "a text",
        "tags": ["one", "two"],
    }


def test_a_keyword_that_is_none_counts_as_not_given() -> None:
    nothing: dict[str, Any] = dict.fromkeys(KEYWORDS)
    assert RunConfig(project_root=ROOT, **nothing) == RunConfig(project_root=ROOT)


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_a_keyword_sets_its_values_and_no_other(keyword: str) -> None:
    before, after = RunConfig(project_root=ROOT), RunConfig(project_root=ROOT, **{keyword: "new"})
    assert sorted(after.diff(before)) == sorted(KEYWORDS[keyword])
    values = {key: value_at(after.params, key) for key in KEYWORDS[keyword]}
    assert values == {key: ["new"] if key == "seeds" else "new" for key in values}
    assert getattr(after, keyword) == "new"


def test_the_signature_names_every_keyword() -> None:
    names = list(inspect.signature(RunConfig).parameters)
    assert names == ["run_id", "project_root", "output_dir", "set_params", *KEYWORDS]


def test_the_docstring_lists_every_keyword_with_its_values() -> None:
    rows = re.findall(r"^ *\| `(\w+)` +\| (`.*?`) +\|", RunConfig.__doc__ or "", re.MULTILINE)
    assert {name: re.findall(r"`([\w.]+)`", keys) for name, keys in rows} == KEYWORDS


@pytest.mark.parametrize(
    ("keyword", "keyword_meant", "key_meant"),
    [
        ("epochs", "num_epochs", "train.epochs"),
        ("batchsize", "batch_size", "train.batch_size"),
        ("near_duplicates_distance", "", "split.near_duplicate_distance"),
    ],
)
def test_an_unknown_keyword_is_told_with_the_nearest_ones(
    keyword: str, keyword_meant: str, key_meant: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        RunConfig(project_root=ROOT, **{keyword: 1})
    message = str(caught.value)
    assert f"expected keywords that it knows, got '{keyword}'" in message
    assert keyword_meant == "" or f"did you mean {keyword_meant}?" in message
    assert f'Of params.yaml {key_meant} is nearest: set_params=["{key_meant}=VALUE"]' in message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        RunConfig(project_root=ROOT, use_amp=True, epochs=3, set_params=["sed=1", "seed"])
    assert len(caught.value.faults) == 4


def test_a_root_without_params_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"params\.yaml: expected a file, found none"):
        RunConfig(project_root=tmp_path)


def test_an_index_below_the_root_counts_from_there() -> None:
    config = RunConfig(project_root=ROOT, data_csv=str(ROOT / "data/mine/index.csv"))
    assert config.params["data"]["index"] == "data/mine/index.csv"


def test_an_index_elsewhere_keeps_its_path(tmp_path: Path) -> None:
    config = RunConfig(project_root=ROOT, data_csv=tmp_path / "index.csv")
    assert config.params["data"]["index"] == (tmp_path / "index.csv").as_posix()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("folds=[0, 1]", "folds", [0, 1]),
        ("train.schedule=no", "train.schedule", "no"),
        ("data.index='007'", "data.index", "007"),
        ("experiment.description=a=b", "experiment.description", "a=b"),
        ("augment.online=true", "augment.online", True),
    ],
)
def test_a_text_sets_a_value_in_yaml_1_2(text: str, key: str, value: Any) -> None:
    set_value = value_at(RunConfig.from_params(PARAMS, [text]).params, key)
    assert (type(set_value), set_value) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epoch=3", "expected a key of .*, got 'train.epoch'; did you mean train.epochs?"),
        ("epochs=3", "got 'epochs'; did you mean train.epochs?"),
        ("seed.x=3", "expected a key of .*, got 'seed.x'"),
        ("train=3", "expected the key of a value, got the section train; write one of train.ep"),
        ("train.epochs", "expected a key and a value, got no '='; write train.epochs=VALUE"),
        ("folds=[0", r"expected a value in YAML 1\.2, got an error"),
        ("seed=.nan", "seed: expected a finite number, got nan"),
    ],
)
def test_a_text_that_sets_nothing_is_told(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        RunConfig.from_params(PARAMS, [text])


def test_texts_come_after_keywords() -> None:
    config = RunConfig(project_root=ROOT, num_epochs=2, set_params=["train.epochs=3"])
    assert config.num_epochs == 3


def test_a_file_of_another_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("seed: 1\n")
    config = RunConfig.from_params(tmp_path / "other.yaml")
    assert (config.params, config.project_root) == ({"seed": 1}, str(tmp_path))


def test_it_comes_back_from_json_and_from_a_dict(tmp_path: Path) -> None:
    config = RunConfig(project_root=ROOT, run_id="r", output_dir=tmp_path, learning_rate=1.0)
    for again in (RunConfig.from_json(config.to_json()), RunConfig.from_dict(config.to_dict())):
        assert again == config
        assert again.to_dict() == config.to_dict()
        assert type(again.learning_rate) is float
    assert json.loads(config.to_json()) == config.to_dict()


def test_it_comes_back_from_a_copy_and_from_a_pickle() -> None:
    config = RunConfig(project_root=ROOT, run_id="r")
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  our own bytes


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_id": null}'])
def test_json_that_is_none_of_its_own_is_told(text: str) -> None:
    with pytest.raises(PipelineError, match=r"expected .*, got .*; give it what to_"):
        RunConfig.from_json(text)


def test_equal_configurations_are_one_in_a_set() -> None:
    assert len({RunConfig(project_root=ROOT), RunConfig(project_root=ROOT)}) == 1
    assert RunConfig(project_root=ROOT) != RunConfig(project_root=ROOT, random_seed=1)


def test_the_hash_is_blind_to_order_comments_and_the_spelling_of_numbers(tmp_path: Path) -> None:
    one = written(tmp_path, "seed: 0 # a\ntrain:\n  epochs: 8\n  rate: 1.0e-3\n")
    other = written(tmp_path, "train: {rate: 0.0010, epochs: 8.0}\n# b\nseed: 0\n")
    assert one.hash() == other.hash()
    assert re.fullmatch("[0-9a-f]{64}", one.hash())


def test_the_hash_is_blind_to_how_and_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    elsewhere = RunConfig(
        run_id="run_2",
        project_root=tmp_path,
        output_dir="there",
        experiment_name="other",
        description="x",
        tags=["t"],
        device="cpu",
        num_workers=7,
    )
    assert elsewhere.hash() == RunConfig(project_root=ROOT).hash()


@pytest.mark.parametrize(
    "keyword",
    sorted(
        name
        for name, keys in KEYWORDS.items()
        if not keys[0].startswith(("experiment.", "runtime."))
    ),
)
def test_the_hash_sees_what_can_change_a_result(keyword: str) -> None:
    changed = RunConfig(project_root=ROOT, **{keyword: "77"})
    assert changed.hash() != RunConfig(project_root=ROOT).hash()


def test_the_difference_of_two_is_told_by_key(tmp_path: Path) -> None:
    one = written(tmp_path, "seed: 1\nflag: true\nsame: 1\ntrain: {epochs: 8, old: 2}\n")
    other = written(tmp_path, "seed: 2\nflag: 1\nsame: 1.0\ntrain: {epochs: 8, new: [3]}\n")
    assert one.diff(other) == {
        "flag": (True, 1),
        "seed": (1, 2),
        "train.new": (None, [3]),
        "train.old": (2, None),
    }
    assert one.diff(one) == {}


def test_it_cannot_be_changed() -> None:
    config = RunConfig(project_root=ROOT)
    before = config.to_json()
    with pytest.raises(AttributeError, match="frozen"):
        config.run_id = "other"
    with pytest.raises(AttributeError, match="frozen"):
        del config.run_id
    config.params["train"]["epochs"] = 99
    config.to_dict()["params"]["train"]["epochs"] = 99
    assert config.to_json() == before


def test_what_was_given_may_be_changed_afterwards() -> None:
    tags = ["one"]
    config = RunConfig(project_root=ROOT, tags=tags)
    document = config.to_dict()
    again = RunConfig.from_dict(document)
    tags.append("two")
    document["params"]["seed"] = 99
    assert (config.tags, again.random_seed) == (["one"], 0)


def test_a_name_that_it_lacks_is_told() -> None:
    with pytest.raises(AttributeError, match="RunConfig has no 'epochs'"):
        _ = RunConfig(project_root=ROOT).epochs


def run_python(code: str) -> set[str]:
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, text=True, capture_output=True
    )
    return set(output.stdout.split())


def test_the_package_imports_nothing_until_a_name_is_asked_for() -> None:
    loaded = run_python("import mlops, sys; print(*sys.modules)")
    assert not {name for name in loaded if name.startswith("mlops.")}
    assert not loaded & {"polars", "torch", "msgspec", "pydantic"}


def test_a_run_configuration_needs_neither_polars_nor_torch() -> None:
    loaded = run_python("from mlops import RunConfig; import sys; print(*sys.modules)")
    assert "mlops.config" in loaded
    assert not loaded & {"polars", "torch"}


def test_the_names_of_the_package_are_those_the_type_checker_knows() -> None:
    import mlops

    stub = (ROOT / "mlops/__init__.pyi").read_text()
    known = dict(re.findall(r"^from (\S+) import \w+ as (\w+)$", stub, re.MULTILINE))
    assert sorted(known.values()) == mlops.__all__
    for module, name in re.findall(r"^from (\S+) import \w+ as (\w+)$", stub, re.MULTILINE):
        assert getattr(mlops, name).__module__ == module
    assert set(mlops.__all__) <= set(dir(mlops))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlops.nothing


def test_no_module_of_the_repository_takes_a_name_from_the_package() -> None:
    """The module it comes from would then be missing from the code that its result depends on."""
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for layer in ("stages", "video", "mlops")
        for path in (ROOT / layer).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "mlops"
        for name in (alias.name for alias in node.names)
        if not (ROOT / "mlops" / f"{name}.py").exists()
    ]
    assert found == []
