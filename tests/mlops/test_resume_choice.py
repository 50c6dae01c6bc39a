"""What a start does is decided by fingerprints, entry by entry, and said in one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import PipelineError
from mlops.files.canonical import config_hash, flatten
from mlops.resume import Mode, Start, choose_start
from mlops.run.directory import make_run, write_metadata
from mlops.run.documents import read_metadata
from mlops.run.identity import TrainingIdentity, trajectory_hash

CONFIG: dict[str, Any] = {
    "train": {"epochs": 4, "learning_rate": 0.1, "schedule": "constant"},
    "augment": {"copies": 3},
    "model": "small3d",
    "fold": 0,
    "seed": 0,
}
FINGERPRINT: dict[str, Any] = {
    "inputs": {"data/clips.parquet": "aa", "models/small3d/seed0/init.pt": "bb"},
    "code": {"stages/train.py": "cc", "video/learning/learner.py": "dd"},
    "versions": {"python": "3.11.7", "torch": "2.15.0"},
    "device": "cpu",
}
PUBLISHED = {"models/small3d/fold0/seed0/best_model.pt": "ee"}


def wanted(
    config: dict[str, Any] = CONFIG,
    fingerprint: dict[str, Any] = FINGERPRINT,
    *,
    without: tuple[str, ...] = ("train.epochs",),
) -> TrainingIdentity:
    whole = copy.deepcopy(fingerprint) | {"config": config_hash(config)}
    return TrainingIdentity(
        config=config,
        fingerprint=whole,
        trajectory=trajectory_hash(whole, config, without=without),
        cell=("model", "fold", "seed"),
        num_epochs=config["train"]["epochs"],
    )


def with_state(run_dir: Path) -> None:
    (run_dir / "checkpoints/latest_checkpoint.pt").touch()


def choose(base: Path, want: TrainingIdentity, mode: Mode = "exact") -> Start:
    return choose_start(base, want, mode=mode)


def changed(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy in which the entry at a path, its names separated by '|', is replaced."""
    result = copy.deepcopy(document)
    *outer, last = key.split("|")
    inner = result
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return result


def test_without_any_run_it_starts_afresh_and_has_nothing_to_say(tmp_path: Path) -> None:
    assert choose(tmp_path / "runs", wanted()) == Start(how="new")


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_that_is_not_finished_goes_on(status: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    write_metadata(run_dir, status=status)
    assert choose(tmp_path, wanted()) == Start(how="resume", run_dir=run_dir)


def test_key_order_and_the_spelling_of_numbers_make_no_difference(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    same = dict(reversed(list(CONFIG.items()))) | {"seed": 0.0}
    assert choose(tmp_path, wanted(same)).run_dir == run_dir


def test_the_name_of_the_experiment_makes_no_difference(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "another", wanted())
    assert choose(tmp_path, wanted()).run_dir == run_dir


@pytest.mark.parametrize("key", sorted(set(flatten(CONFIG)) - {"model", "fold", "seed"}))
def test_every_parameter_changed_alone_starts_afresh_and_is_named(key: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted(without=()))
    before = flatten(CONFIG)[key]
    after = "cosine" if key == "train.schedule" else 7
    config = changed(CONFIG, key.replace(".", "|"), after)
    start = choose(tmp_path, wanted(config, without=()))
    assert start == Start(how="new", differs=f"beside {run_dir.name}: {key} {before} -> {after}")


@pytest.mark.parametrize("key", ["model", "fold", "seed"])
def test_another_cell_is_compared_with_none(key: str, tmp_path: Path) -> None:
    make_run(tmp_path, "demo", wanted())
    assert choose(tmp_path, wanted(changed(CONFIG, key, 7))) == Start(how="new")


FIELDS = [
    "inputs|data/clips.parquet",
    "inputs|models/small3d/seed0/init.pt",
    "code|stages/train.py",
]
FIELDS += ["code|video/learning/learner.py", "versions|python", "versions|torch", "device"]


@pytest.mark.parametrize("mode", ["exact", "compatible"])
@pytest.mark.parametrize("key", FIELDS)
def test_every_entry_of_the_fingerprint_changed_alone_starts_afresh_and_is_named(
    key: str, mode: Mode, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    with_state(run_dir)
    start = choose(tmp_path, wanted(fingerprint=changed(FINGERPRINT, key, "other")), mode)
    *_, name = key.split("|")
    assert start.differs.endswith(f"{name} {flat(FINGERPRINT)[key]} -> other")
    if mode == "compatible" and key.startswith(("code", "versions", "device")):
        assert (start.how, start.source, start.is_exact) == ("adopt", run_dir, False)
    else:
        assert (start.how, start.source, start.run_dir) == ("new", None, None)


def flat(document: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{part}|{name}" if isinstance(entries, dict) else part: value
        for part, entries in document.items()
        for name, value in (entries.items() if isinstance(entries, dict) else [("", entries)])
    }


@pytest.mark.parametrize("part", ["inputs", "code", "versions"])
@pytest.mark.parametrize("change", ["added", "removed"])
def test_an_entry_more_or_less_starts_afresh(part: str, change: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    fingerprint = copy.deepcopy(FINGERPRINT)
    if change == "added":
        fingerprint[part]["new"] = "ff"
        expected = "new none -> ff"
    else:
        name, value = fingerprint[part].popitem()
        expected = f"{name} {value} -> none"
    start = choose(tmp_path, wanted(fingerprint=fingerprint))
    assert start == Start(how="new", differs=f"beside {run_dir.name}: {expected}")


def test_of_many_differences_three_are_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    config = changed(changed(CONFIG, "train|epochs", 5), "augment", {"copies": 1, "online": True})
    fingerprint = changed(FINGERPRINT, "device", "cuda")
    start = choose(tmp_path, wanted(config, fingerprint))
    assert start.differs == (
        f"beside {run_dir.name}: augment.copies 3 -> 1, augment.online none -> True, "
        "train.epochs 4 -> 5 and 1 more"
    )


def test_hashes_are_shown_by_their_first_digits(tmp_path: Path) -> None:
    old, new = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    key = "inputs|data/clips.parquet"
    make_run(tmp_path, "demo", wanted(fingerprint=changed(FINGERPRINT, key, old)))
    start = choose(tmp_path, wanted(fingerprint=changed(FINGERPRINT, key, new)))
    assert start.differs.endswith("data/clips.parquet 01234567 -> fedcba98")


def test_a_finished_run_is_published_again_unless_nothing_is_to_be_resumed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    write_metadata(run_dir, status="finished", published=PUBLISHED)
    assert choose(tmp_path, wanted()) == Start(how="republish", run_dir=run_dir)
    assert choose(tmp_path, wanted(), "never").how == "new"


def test_a_forced_training_that_was_killed_goes_on(tmp_path: Path) -> None:
    first = make_run(tmp_path, "demo", wanted())
    write_metadata(first, status="finished", published=PUBLISHED)
    second = make_run(tmp_path, "demo", wanted())
    assert choose(tmp_path, wanted()).run_dir == second


def test_an_older_run_that_was_left_does_not_hide_a_newer_one_that_is_finished(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, "demo", wanted())
    newer = make_run(tmp_path, "demo", wanted())
    write_metadata(newer, status="finished", published=PUBLISHED)
    assert choose(tmp_path, wanted()) == Start(how="republish", run_dir=newer)


def test_a_forced_training_goes_on_although_the_clock_was_ahead_before_it(tmp_path: Path) -> None:
    made = make_run(tmp_path, "demo", wanted())
    first = made.with_name(f"run_29991231_235958{made.name[-9:]}")
    made.rename(first)
    write_metadata(first, status="finished", published=PUBLISHED, run_id=first.name)
    second = make_run(tmp_path, "another", wanted())

    assert second.name.startswith("run_29991231_235959_")
    assert choose(tmp_path, wanted()) == Start(how="resume", run_dir=second)


@pytest.mark.parametrize("status", ["running", "finished"])
def test_more_epochs_extend_the_longest_shorter_run(status: str, tmp_path: Path) -> None:
    runs = {
        epochs: make_run(tmp_path, "demo", wanted(changed(CONFIG, "train|epochs", epochs)))
        for epochs in (2, 3, 1, 9)
    }
    for run_dir in runs.values():
        with_state(run_dir)
        write_metadata(run_dir, status=status, published=PUBLISHED)
    start = choose(tmp_path, wanted())
    assert start == Start(how="extend", source=runs[3], differs="train.epochs 3 -> 4")


def test_more_epochs_and_another_parameter_start_afresh(tmp_path: Path) -> None:
    make_run(tmp_path, "demo", wanted(changed(CONFIG, "train|epochs", 2)))
    start = choose(tmp_path, wanted(changed(CONFIG, "train|learning_rate", 0.2)))
    assert start.how == "new"
    assert start.differs.endswith(": train.epochs 2 -> 4, train.learning_rate 0.1 -> 0.2")


@pytest.mark.parametrize("key", FIELDS)
def test_more_epochs_extend_no_run_of_another_fingerprint(key: str, tmp_path: Path) -> None:
    shorter = changed(CONFIG, "train|epochs", 2)
    make_run(tmp_path, "demo", wanted(shorter, changed(FINGERPRINT, key, "other")))
    assert choose(tmp_path, wanted()).how == "new"


def test_a_run_of_its_own_comes_before_one_that_could_be_extended(tmp_path: Path) -> None:
    shorter = make_run(tmp_path, "demo", wanted(changed(CONFIG, "train|epochs", 2)))
    with_state(shorter)
    own = make_run(tmp_path, "demo", wanted())
    assert choose(tmp_path, wanted()) == Start(
        how="resume", run_dir=own, source=shorter, differs="train.epochs 2 -> 4"
    )


def test_a_finished_run_of_other_versions_is_not_taken(tmp_path: Path) -> None:
    other = wanted(fingerprint=changed(FINGERPRINT, "versions|torch", "1.0"))
    run_dir = make_run(tmp_path, "demo", other)
    write_metadata(run_dir, status="finished", published=PUBLISHED)
    assert choose(tmp_path, wanted(), "compatible").how == "new"


@pytest.mark.parametrize("status", ["running", "finished"])
def test_what_went_on_inexactly_is_taken_by_no_exact_start(status: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    with_state(run_dir)
    write_metadata(
        run_dir, status=status, published=PUBLISHED, goes_on_from={"run": "x", "exact": False}
    )
    assert choose(tmp_path, wanted()) == Start(how="new")
    assert choose(tmp_path, wanted(), "compatible").run_dir == run_dir
    longer = wanted(changed(CONFIG, "train|epochs", 9))
    assert choose(tmp_path, longer).how == "new"
    start = choose(tmp_path, longer, "compatible")
    assert (start.how, start.source, start.is_exact) == ("extend", run_dir, False)


def test_a_shorter_run_without_a_state_hides_no_other(tmp_path: Path) -> None:
    first = make_run(tmp_path, "demo", wanted(changed(CONFIG, "train|epochs", 2)))
    with_state(first)
    # As one that was killed in its first save.
    second = make_run(tmp_path, "demo", wanted(changed(CONFIG, "train|epochs", 3)))
    (second / "checkpoints/.latest_checkpoint.x1y2.tmp.pt").touch()
    assert choose(tmp_path, wanted()).source == first


def test_a_run_of_other_versions_without_a_state_hides_no_other(tmp_path: Path) -> None:
    first, _ = (
        make_run(tmp_path, "demo", wanted(fingerprint=changed(FINGERPRINT, "versions|torch", of)))
        for of in ("1.0", "1.1")
    )
    with_state(first)
    assert choose(tmp_path, wanted(), "compatible").source == first


def test_with_never_nothing_is_taken(tmp_path: Path) -> None:
    make_run(tmp_path, "demo", wanted())
    assert choose(tmp_path, wanted(), "never").how == "new"


def test_a_run_that_was_killed_while_it_was_made_is_passed_over(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    (run_dir / "config.json").unlink()
    assert choose(tmp_path, wanted()) == Start(how="new")


@pytest.mark.parametrize(
    ("name", "content"),
    [("metadata.json", '{"status": "running"'), ("metadata.json", "7"), ("config.json", "[]")],
    ids=["cut off", "a number", "a list"],
)
def test_a_damaged_record_is_told_and_not_passed_over(
    name: str, content: str, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path, "demo", wanted())
    (run_dir / name).write_text(content)
    with pytest.raises(PipelineError) as caught:
        choose(tmp_path, wanted())
    (fault,) = caught.value.faults
    assert fault.startswith(f"{run_dir}: expected metadata.json and config.json of a run, got a ")
    assert fault.endswith("; restore it, or move the directory away to train anew")


@pytest.mark.parametrize("name", ["metadata.json", "config.json"])
@pytest.mark.parametrize(
    "content", [b"", b'{"status": "running"', b"7", b"[]", b'{"fingerprint": "cafe"}', b"\xff"]
)
def test_the_damaged_record_of_another_run_is_told_and_stops_nothing(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = make_run(tmp_path, "demo", wanted(changed(CONFIG, "train|epochs", 3)))
    own = make_run(tmp_path, "demo", wanted())
    (damaged / name).write_bytes(content)
    assert choose(tmp_path, wanted()) == Start(how="resume", run_dir=own)
    line, *others = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{damaged}: expected metadata.json and config.json of a run, got a")
    assert name in line
    assert not others


@pytest.mark.parametrize("name", ["metadata.json", "config.json"])
def test_a_lost_record_of_a_run_with_a_state_stops_its_own_training_alone(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_run(tmp_path, "demo", wanted())
    with_state(own)
    (own / name).unlink()
    with pytest.raises(
        PipelineError, match=f"got a damaged file .{name}: no such file.; restore it"
    ):
        choose(tmp_path, wanted())
    other = wanted(changed(CONFIG, "train|learning_rate", 3))
    assert choose(tmp_path, other).how == "new"
    assert "it is passed over" in capsys.readouterr().out


def test_a_sound_run_of_the_same_fingerprint_comes_before_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, damaged = (make_run(tmp_path, "demo", wanted()) for _ in range(2))
    (damaged / "metadata.json").write_bytes(b"")
    assert choose(tmp_path, wanted()) == Start(how="resume", run_dir=sound)
    assert "it is passed over" in capsys.readouterr().out


def test_a_run_directory_tells_what_identifies_it(tmp_path: Path) -> None:
    want = wanted()
    run_dir = make_run(tmp_path, "demo", want)
    document = json.loads((run_dir / "config.json").read_text())
    assert document == {"hash": config_hash(CONFIG), "config": CONFIG}
    metadata = read_metadata(run_dir)
    assert metadata["fingerprint"] == want.fingerprint
    assert metadata["trajectory"] == want.trajectory
    assert metadata["run_id"] == run_dir.name
