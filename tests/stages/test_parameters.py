"""params.yaml is read as DVC reads it, and each fault is told with where, expected, got, remedy."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML

from mlops.errors import PipelineError
from mlops.files.yaml_text import load_yaml
from mlops.params import STRICT, read_parameters, section_as
from stages.params import Params, Sample, read_params, training_of
from video.synthesis.plan import SampleRecipe, plan_sample

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = load_yaml(ROOT / "params.yaml")
REMOVED = "(removed)"


def faults(directory: Path, changes: dict[str, Any]) -> list[str]:
    """Return the faults of the shipped file with some keys changed, without the file's name."""
    document = copy.deepcopy(SHIPPED)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = document
        for name in sections:
            section = section[name]
        if value is REMOVED:
            del section[last]
        else:
            section[last] = value
    path = directory / "params.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(document, stream)
    try:
        read_parameters(path, Params)
    except PipelineError as error:
        return [fault.removeprefix(f"{path}: ") for fault in error.faults]
    return []


def yaml_fault(directory: Path, content: bytes) -> str:
    path = directory / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        read_parameters(path, Params)
    return str(caught.value).removeprefix(str(path))


def test_the_shipped_file_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_params().models


def test_the_shipped_values_arrive_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert dataclasses.asdict(read_params()) == SHIPPED


def test_parameters_cannot_be_changed_after_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_params().train.epochs = 1  # type: ignore[misc]


def test_no_parameter_has_a_default() -> None:
    waiting, with_default = [Params], []
    while waiting:
        for field in dataclasses.fields(waiting.pop()):
            if dataclasses.is_dataclass(field.type):
                waiting.append(field.type)  # type: ignore[arg-type]
            if field.default is not dataclasses.MISSING or (
                field.default_factory is not dataclasses.MISSING
            ):
                with_default.append(field.name)
    assert with_default == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"train.epochs": REMOVED},
            "train.epochs: expected a value, got none; add the key train.epochs",
        ),
        ({"train": REMOVED}, "train: expected a value, got none; add the key train"),
        ({"train.epoch": 3}, "train.epoch: expected no such key, got int 3; did you mean epochs?"),
        (
            {"evaluate.zzz": {"a": 1}},
            "evaluate.zzz: expected no such key, got a section with the keys a; "
            "remove it (known: batch_size, num_threads)",
        ),
        (
            {"train.learning_rate": "1e-3"},
            "train.learning_rate: expected a number, got str '1e-3'; write 1e-3 without quotes",
        ),
        ({"seed": "x"}, "seed: expected a whole number, got str 'x'; write a whole number"),
        ({"seed": 1.0}, "seed: expected a whole number, got float 1.0; write 1"),
        ({"seed": True}, "seed: expected a whole number, got bool True; write a whole number"),
        (
            {"train": None},
            "train: expected a section with keys, got nothing (null); write a section with keys",
        ),
        ({"models": "small3d"}, "models: expected a list, got str 'small3d'; write [small3d]"),
        (
            {"experiment.name": 2024},
            "experiment.name: expected a text, got int 2024; put it in quotes",
        ),
        (
            {"data.labels": ["real", True]},
            "data.labels[1]: expected a text, got bool True; put it in quotes",
        ),
        (
            {"train.learning_rate": float("nan")},
            "train.learning_rate: expected a finite number, got float nan; write a finite number",
        ),
        (
            {"train.weight_decay": float("inf")},
            "train.weight_decay: expected a finite number, got float inf; write a finite number",
        ),
        (
            {"seed": float("nan")},
            "seed: expected a whole number, got float nan; write a whole number",
        ),
        (
            {"seed": float("inf")},
            "seed: expected a whole number, got float inf; write a whole number",
        ),
        (
            {"train.learning_rate": "nan"},
            "train.learning_rate: expected a number, got str 'nan'; write a number",
        ),
        (
            {"train.epochs": 0},
            "train.epochs: expected a value >= 1, got int 0; write a value >= 1",
        ),
        (
            {"split.rebalance": "best"},
            "split.rebalance: expected auto or a whole number >= 0, got 'best'; write auto",
        ),
        (
            {"split.test_share": 1.0},
            "split.test_share: expected a value < 1.0, got float 1.0; write a value < 1.0",
        ),
        (
            {"folds": [0, -1]},
            "folds[1]: expected a value >= 0, got int -1; write a value >= 0",
        ),
        (
            {"data.labels": ["real"]},
            "data.labels: expected a list of at least 2 items, got list ['real']; "
            "write a list of at least 2 items",
        ),
        (
            {"models": []},
            "models: expected a list of at least 1 item, got list []; "
            "write a list of at least 1 item",
        ),
        (
            {"train.micro_batches": 0},
            "train.micro_batches: expected a value >= 1, got int 0; write a value >= 1",
        ),
        (
            {"train.precision": "half"},
            "train.precision: expected one of 'float32', 'bfloat16' or 'float16', got str 'half'; "
            "choose one of them",
        ),
        (
            {"train.compile": "yes"},
            "train.compile: expected true or false, got str 'yes'; write true",
        ),
        (
            {"train.schedule": "linear"},
            "train.schedule: expected one of 'constant', 'cosine' or 'step', got str 'linear'; "
            "choose one of them",
        ),
        (
            {"train.step_epochs": 0},
            "train.step_epochs: expected a value >= 1, got int 0; write a value >= 1",
        ),
        (
            {"train.step_factor": 0.0},
            "train.step_factor: expected a value > 0.0, got float 0.0; write a value > 0.0",
        ),
        (
            {"train.step_factor": 1.5},
            "train.step_factor: expected a value <= 1.0, got float 1.5; write a value <= 1.0",
        ),
        (
            {"train.warmup_steps": -1},
            "train.warmup_steps: expected a value >= 0, got int -1; write a value >= 0",
        ),
        (
            {"train.clip_norm": -0.5},
            "train.clip_norm: expected a value >= 0.0, got float -0.5; write a value >= 0.0",
        ),
        (
            {"train.ema_decay": 1.0},
            "train.ema_decay: expected a value < 1.0, got float 1.0; write a value < 1.0",
        ),
        (
            {"train.frozen_epochs": -1},
            "train.frozen_epochs: expected a value >= 0, got int -1; write a value >= 0",
        ),
        (
            {"train.label_smoothing": 1.0},
            "train.label_smoothing: expected a value < 1.0, got float 1.0; write a value < 1.0",
        ),
        (
            {"train.sampling": "sampler"},
            "train.sampling: expected one of 'shuffled', 'balanced' or 'weighted', got str "
            "'sampler'; choose one of them",
        ),
        (
            {"train.class_weights": 1},
            "train.class_weights: expected true or false, got int 1; write true or false",
        ),
        (
            {"clips.fit": "pad"},
            "clips.fit: expected one of 'letterbox' or 'crop', got str 'pad'; choose one of them",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_fault_says_where_expected_got_and_what_to_do(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert faults(tmp_path, changes) == [expected]


def test_several_faults_come_in_one_message(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        {"seed": -1, "train.epochs": "6", "train.zzz": 1, "clips.fit": 3, "report": REMOVED},
    )
    assert sorted(fault.split(":")[0] for fault in found) == [
        "clips.fit",
        "report",
        "seed",
        "train.epochs",
        "train.zzz",
    ]


def test_an_unknown_model_is_told_the_known_ones(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"models": ["small3d", "resnet"]})
    assert fault.startswith("models[1]: expected one of 'small3d', ")
    assert fault.endswith("got str 'resnet'; choose one of them")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"folds": [0, 3, 4], "split.num_folds": 3},
            "folds: expected numbers below split.num_folds = 3, got [3, 4]; "
            "remove them or raise split.num_folds",
        ),
        (
            {"models": ["s3d", "small3d", "s3d"]},
            "models: expected every item once, got ['s3d'] again; remove the repetition",
        ),
        (
            {"folds": [1, 1]},
            "folds: expected every item once, got [1] again; remove the repetition",
        ),
        (
            {"seeds": [2, 2]},
            "seeds: expected every item once, got [2] again; remove the repetition",
        ),
        (
            {"data.labels": ["real", "real"]},
            "data.labels: expected every item once, got ['real'] again; remove the repetition",
        ),
        (
            {"sample.min_duration_sec": 4.0, "sample.max_duration_sec": 3.0},
            "sample.min_duration_sec: expected at most sample.max_duration_sec = 3.0, got 4.0; "
            "exchange them",
        ),
        (
            {"augment.scale_min": 1.5, "augment.scale_max": 1.1},
            "augment.scale_min: expected at most augment.scale_max = 1.1, got 1.5; exchange them",
        ),
        (
            {"train.micro_batches": 9},
            "train.micro_batches: expected at most 8, which leaves 2 clips of train.batch_size = "
            "16 in each, got 9; lower it",
        ),
        (
            {"init_model.weights": "data/own.pt"},
            "init_model.weights: expected random, kinetics400 or file, got 'data/own.pt'; write "
            "file, and the path in init_model.weights_file",
        ),
        (
            {"train.publish": "last", "train.patience_epochs": 6},
            "train.patience_epochs: expected 0 with train.publish = last, got 6; write 0 to train "
            "all epochs, or publish: best: stopped early, the last epoch is always one without an "
            "improvement",
        ),
        (
            {"train_of.r3d_8": {}},
            "train_of.r3d_8: expected no such key, got a section with the keys (none); did you "
            "mean r3d_18?",
        ),
        (
            {"train_of.r3d_18.learning_rat": 1e-4},
            "train_of.r3d_18.learning_rat: expected no such key, got float 0.0001; did you mean "
            "learning_rate?",
        ),
        (
            {"train_of.r3d_18.learning_rate": "1e-4"},
            "train_of.r3d_18.learning_rate: expected a number, got str '1e-4'; write 1e-4 without "
            "quotes",
        ),
        (
            {"train_of.small3d": None},
            "train_of.small3d: expected a section with keys, got nothing (null); write a section "
            "with keys",
        ),
        (
            {"train_of.small3d": REMOVED, "models": ["s3d", "small3d"]},
            "train_of: expected a key for each of models, got none for small3d; add small3d: {} "
            "there, or values of its own",
        ),
        (
            {"train_of.r3d_18.micro_batches": 9},
            "train_of.r3d_18: with train: train.micro_batches: expected at most 8, which leaves 2 "
            "clips of train.batch_size = 16 in each, got 9; lower it",
        ),
        (
            {"train.features": "frozen", "train.frozen_epochs": 2},
            "train.frozen_epochs: expected 0 with train.features = frozen, which trains the head "
            "alone in every epoch, got 2; write 0, or features: trained",
        ),
        (
            {"train_of.small3d.features": "frozen", "train.compile": True},
            "train_of.small3d: with train: train.compile: expected false with train.features = "
            "frozen, which trains the head alone in every epoch, got true; write false, or "
            "features: trained",
        ),
        (
            {"train.features": "frozen", "train.sync_batch_norm": True},
            "train.sync_batch_norm: expected false with train.features = frozen, which trains the "
            "head alone in every epoch, got true; write false, or features: trained",
        ),
        (
            {"train_of.small3d.features": "frozen", "augment.online": True},
            "train.features: expected trained with augment.online = true, got frozen for small3d; "
            "write online: false: the features of the copies made beforehand are computed once, "
            "those of new ones in every epoch could not be",
        ),
        (
            {"experiment.name": "my run"},
            "experiment.name: expected at most 100 letters, digits, '_', '-' and '.', got "
            "'my run'; it names a directory below runs/",
        ),
        (
            {"runtime.device": "gpu"},
            "runtime.device: expected auto, cpu, cuda or cuda and a number as in cuda:1, got "
            "'gpu'; write auto",
        ),
        (
            {"runtime.executor": "dask"},
            "runtime.dask_address: expected the address of a Dask scheduler for runtime.executor = "
            "dask, got ''; write one as in tcp://host:8786, or the path of its scheduler file",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_values_that_disagree_are_told_by_name(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert faults(tmp_path, changes) == [expected]


def test_models_are_compared_by_one_metric(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"train_of.r3d_18.monitor": "loss"})
    assert fault.startswith("train_of.r3d_18.monitor: expected no such key, got str 'loss'; remove")


def test_a_model_has_its_own_values_and_else_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    train, train_of = read_params().train, {"s3d": {"epochs": 3}, "small3d": {}}
    assert training_of("s3d", train, train_of) == dataclasses.replace(train, epochs=3)
    assert training_of("small3d", train, train_of) == train


@pytest.mark.parametrize("root", ["data", ".", "./data/", "data/generated_sample/.."])
def test_videos_cannot_lie_where_the_pipeline_writes(root: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"data.root": root})
    assert fault.startswith("data.root: expected a directory of its own")


def test_a_number_may_be_written_without_a_fraction(tmp_path: Path) -> None:
    assert faults(tmp_path, {"augment.brightness_max": 0}) == []


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_known_devices_are_accepted_on_any_machine(device: str, tmp_path: Path) -> None:
    assert faults(tmp_path, {"runtime.device": device}) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ": the whole file: expected a section with keys, got nothing (null)"),
        (b"seed\n", ": the whole file: expected a section with keys, got str 'seed'"),
        (
            b"seed: 0\ntrain: {}\nseed: 1\n",
            ' line 3: expected YAML 1.2, got duplicate key "seed" with value "1"',
        ),
        (b"a: 1\nb: caf\xe9\n", ": expected UTF-8 text, got byte 0xe9 at offset 11; save the file"),
        (b"a: 1\nb: c: d\n", " line 2: expected YAML 1.2, got an error (mapping values are not"),
        (b"a:\n\tb: 1\n", " line 2: expected YAML 1.2, got character '\\t' that cannot start"),
        (b"a: 1\n---\nb: 2\n", " line 2: expected YAML 1.2, got another document; correct"),
        (b"a: 1\nb: *c\n", " line 2: expected YAML 1.2, got undefined alias 'c'; correct"),
        (b"a: !!python/object:os.system 1\n", " line 1: expected YAML 1.2, got an error (could"),
        (b"a: \x01\n", ": expected YAML 1.2, got an error (unacceptable character #x0001"),
        (b"a: 2024-13-45\n", ": expected YAML 1.2, got a value that cannot be read (month must"),
        (b"a: &x [*x]\n", ": expected texts as keys and no section within itself"),
        (b"? [a, b]\n: 1\n", ": expected texts as keys and no section within itself"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    assert yaml_fault(tmp_path, content).startswith(expected)


def test_a_missing_file_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected a file, found none; run from the root of"):
        read_parameters(tmp_path / "params.yaml", Params)


SCALARS = [
    *["1e-3", "1E5", "1.0e+3", "2.0e-3", ".5", "5.", "1_000", "+7", "-0", "010", "0o10", "0x1F"],
    *["0b11", "1:30", "no", "yes", "on", "off", "y", "true", "True", "TRUE", "null", "~", "''"],
    *[".inf", "-.inf", "2024-01-02", "'1e-3'", "12e03", "0.10"],
]


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_value_is_what_dvc_sees(scalar: str, tmp_path: Path) -> None:
    text = f"key: {scalar}\nlist: [{scalar}]\n"
    path = tmp_path / "params.yaml"
    path.write_text(text)
    ours, dvcs = load_yaml(path), parse_yaml(text, str(path))
    assert (repr(ours), type(ours["key"])) == (repr(dvcs), type(dvcs["key"]))


def test_the_shipped_file_is_what_dvc_sees() -> None:
    path = ROOT / "params.yaml"
    assert repr(load_yaml(path)) == repr(parse_yaml(path.read_text(), str(path)))


@pytest.mark.parametrize(
    ("scalar", "value"), [("1e-3", 0.001), ("no", "no"), ("010", 10), ("0o10", 8), ("1:30", "1:30")]
)
def test_values_are_those_of_yaml_1_2(scalar: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {scalar}\n")
    assert load_yaml(path) == {"key": value}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Section:
    size: int
    name: str
    more: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Part:
    size: int


def test_pick_takes_the_fields_of_the_same_names() -> None:
    assert section_as(Section(size=3, name="a", more=True), Part) == Part(size=3)


def test_pick_refuses_a_section_that_lacks_a_field() -> None:
    with pytest.raises(AttributeError, match="name"):
        section_as(Part(size=3), Section)


@pytest.mark.parametrize(
    ("word", "meant"), [("yes", "true"), ("no", "false"), ("on", "true"), ("off", "false")]
)
def test_a_truth_value_of_yaml_1_1_is_told_its_spelling_in_1_2(
    word: str, meant: str, tmp_path: Path
) -> None:
    path = tmp_path / "section.yaml"
    path.write_text(f"size: 1\nname: a\nmore: {word}\n")
    with pytest.raises(PipelineError) as caught:
        read_parameters(path, Section)
    assert str(caught.value) == (
        f"{path}: more: expected true or false, got str '{word}'; write {meant}"
    )


def test_a_sample_with_too_few_scenes_for_the_parts_is_told(tmp_path: Path) -> None:
    few = {"sample.num_scenes": 7, "sample.versions_per_scene": 9}
    assert faults(tmp_path, few | {"sample.mixed_scene_share": 0.0}) == [
        "sample.num_scenes: expected at least 6 scenes with authentic videos, one for the test set "
        "and each of split.num_folds = 5 folds, got 4; raise it or sample.mixed_scene_share, or "
        "lower split.num_folds"
    ]
    assert faults(tmp_path, few | {"sample.mixed_scene_share": 1.0}) == []
    assert faults(tmp_path, {"sample.tampered_share": 0.01, "sample.mixed_scene_share": 0.0})


@pytest.mark.parametrize("num_scenes", [2, 3, 7, 40])
@pytest.mark.parametrize("mixed_scene_share", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("tampered_share", [0.01, 0.4, 0.9])
def test_the_scenes_of_a_label_are_those_of_the_plan(
    num_scenes: int, mixed_scene_share: float, tampered_share: float
) -> None:
    values = SHIPPED["sample"] | {
        "num_scenes": num_scenes,
        "mixed_scene_share": mixed_scene_share,
        "tampered_share": tampered_share,
    }
    sample = Sample(**values)
    plan = plan_sample(0, section_as(sample, SampleRecipe))
    bad = [video for video in plan if video.fault not in ("none", "copy")]
    found = {
        label: len({video.scene for video in plan if video.label == label and video not in bad})
        for label in ("authentic", "tampered")
    }

    assert found == sample.scenes_of_labels
    videos = num_scenes * sample.versions_per_scene
    assert (len(bad), len(plan)) == (min(3, videos // 20), videos + 1 + len(bad))
    assert len(bad) / len(plan) < SHIPPED["load_data"]["max_quarantined"]
