"""A bundle is the same bytes for the same run, and what is wrong with one is refused."""

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops import bundle
from mlops.applying import read_record
from mlops.bundle import FORMAT_VERSION, Content, Manifest, unpacked, write_bundle
from mlops.errors import PipelineError

CONTENTS = {
    "params.yaml": b"seed: 0\n",
    "dvc.lock": b"schema: '2.0'\nstages:\n",
    "run/config.json": b"{}",
    "run/metadata.json": b"{}",
    "run/logs/attempt_001.log": b"epoch 0\n" * 100,
    "run/checkpoints/best_model.pt": bytes(range(256)),
}

RUN = "run_20261123_100000_0123abcd"

Files = dict[str, Any]  # the content of each, or a ZipInfo with it


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A sound bundle."""
    path = tmp_path / "whole.zip"
    write(path)
    return path


def manifest(**entries: Any) -> Manifest:
    known: dict[str, Any] = {"run": RUN, "experiment": "demo", "commit": None, "stage": None}
    known |= {"remotes": {}, "files": {}}
    return Manifest(format_version=FORMAT_VERSION, **(known | entries))


def write(path: Path) -> None:
    write_bundle(path, manifest(), CONTENTS)


def rewritten(whole: Path, change: Callable[[Files], None]) -> Path:
    """The bundle with other content: `change` gets a dict of bytes by name."""
    with zipfile.ZipFile(whole) as archive:
        contents: Files = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    path = whole.with_name("other.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            info, data = content if isinstance(content, tuple) else (name, content)
            archive.writestr(info, data)
    return path


def refusal(path: Path) -> list[str]:
    parent = path.parent / "below/here"
    with pytest.raises(PipelineError) as raised, unpacked(path, parent):
        pass
    # Nothing is left, neither there nor beside it.
    left = {str(one.relative_to(path.parent)) for one in path.parent.rglob("*")}
    assert left <= {"whole.zip", "other.zip", "below", "below/here"}
    return list(raised.value.faults)


def test_what_is_written_is_what_is_unpacked(whole: Path, tmp_path: Path) -> None:
    with unpacked(whole, tmp_path / "place") as (directory, manifest):
        found = {name: (directory / name).read_bytes() for name in manifest.files}
        assert {path for path in directory.rglob("*") if path.is_file()} == {
            directory / name for name in CONTENTS
        }
    assert found == CONTENTS
    assert not directory.exists()


def test_the_same_files_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    write(again := tmp_path / "again.zip")
    assert again.read_bytes() == whole.read_bytes()


def test_every_damaged_file_is_named(whole: Path) -> None:
    def damage(contents: Files) -> None:
        contents["run/config.json"] = b"[]"
        contents["params.yaml"] = b"seed: 1\n"
        contents["run/metadata.json"] = b"{} "
        del contents["dvc.lock"]
        contents["run/more.json"] = b"{}"

    faults = refusal(rewritten(whole, damage))
    assert [fault.split(": ")[1:3] for fault in faults] == [
        ["dvc.lock", "expected it in the bundle, found none; have the bundle made again, and sent "
         "as a binary file"],
        ["params.yaml", faults[1].split(": ")[2]],
        ["run/config.json", faults[2].split(": ")[2]],
        ["run/metadata.json", "expected 2 bytes, got 3; have the bundle made again, and sent as a "
         "binary file"],
        ["run/more.json", "expected no such file, for manifest.json lists none; remove it"],
    ]  # fmt: skip
    assert all("expected sha256" in faults[place] for place in (1, 2))


@pytest.mark.parametrize(
    "name",
    ["run/../../outside", "/outside", "run/.hidden", "run//a", "run/a\\..\\b", "other/a", "run/ä"],
)
def test_a_name_that_leads_elsewhere_is_refused(whole: Path, name: str) -> None:
    (fault,) = refusal(rewritten(whole, lambda contents: contents.update({name: b"x"})))
    assert name in fault.replace("\\\\", "\\")
    assert "expected" in fault


def test_a_link_is_refused(whole: Path) -> None:
    info = zipfile.ZipInfo("run/link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = rewritten(whole, lambda contents: contents.update({"run/link": (info, b"/etc")}))
    assert "'run/link': expected a plain file, got a link" in refusal(path)[0]


def test_two_names_for_one_file_are_refused(whole: Path) -> None:
    path = rewritten(whole, lambda contents: contents.update({"run/CONFIG.json": b"{}"}))
    assert "'run/config.json': expected once, got it again" in refusal(path)[0]


def test_what_would_unpack_to_too_much_is_refused(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rewritten(whole, lambda contents: contents.update({"run/big": b"\0" * 100_000}))
    monkeypatch.setattr(bundle, "MOST_PACKED_BYTES", 90_000)
    assert "expected at most 90.0 kB of packed files, got" in refusal(path)[0]


def test_another_format_version_is_refused_with_what_to_do(whole: Path) -> None:
    def older(contents: Files) -> None:
        document = json.loads(contents["manifest.json"])
        contents["manifest.json"] = json.dumps({"format_version": 0, "run": document["run"]})

    (fault,) = refusal(rewritten(whole, older))
    assert "manifest.json: expected format version 1, got 0; apply it in a clone with" in fault


def test_what_a_bundle_says_is_checked_before_it_is_used(tmp_path: Path) -> None:
    made_of: dict[str, Any] = {"code": {}, "versions": {}, "inputs": {}}
    document = {
        "run_id": RUN,
        "status": "finished",
        "fingerprint": made_of | {"config": "0", "device": "cpu"},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metadata.json").write_text(json.dumps(document))
    (tmp_path / "run/config.json").write_text('{"config": {}}')
    for name in ("params.yaml", "dvc.lock"):
        (tmp_path / name).write_bytes(CONTENTS[name])
    assert read_record(tmp_path, manifest()).versions == {}

    wrong = manifest(
        run="run_1", experiment="../up", commit="HEAD", stage="train; echo all of it is run"
    )
    with pytest.raises(PipelineError) as raised:
        read_record(tmp_path, wrong)
    said = [fault.split(": ")[1] for fault in raised.value.faults]
    assert said == ["experiment.name", "run", "stage", "commit", "run/metadata.json"]
    for name, content, fault in (
        ("run/config.json", "[]", "Expected `object`, got `array`"),
        ("run/metadata.json", json.dumps(document | {"fingerprint": made_of}), "missing required"),
        ("run/metadata.json", json.dumps(document | {"published": []}), r"at `\$.published`"),
    ):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content)
        with pytest.raises(PipelineError, match=fault):
            read_record(tmp_path, manifest())
        (tmp_path / name).write_text(before)
    (tmp_path / "dvc.lock").write_text("stages:\n  a: &a {}\n  b: *a\n")
    with pytest.raises(PipelineError, match=r"dvc\.lock: expected no alias"):
        read_record(tmp_path, manifest())
    (tmp_path / "dvc.lock").write_bytes(CONTENTS["dvc.lock"])
    of_a_run = manifest(files={"run/heartbeat": Content(size_bytes=0, sha256="")})
    with pytest.raises(PipelineError, match="run/heartbeat: expected a file of a run's record"):
        read_record(tmp_path, of_a_run)
    (tmp_path / "params.yaml").write_text(
        "models: [small3d, 'small3d; touch gone']\nfolds: [0, $(id)]\nseeds: --help\nseed: a b\n"
    )
    with pytest.raises(PipelineError) as raised:
        read_record(tmp_path, manifest())
    faults = [fault.removeprefix("bundle: params.yaml: ") for fault in raised.value.faults]
    assert [fault.split(":")[0] for fault in faults] == ["folds", "models", "seeds"]
    assert "dvc.yaml puts them into commands, got 'small3d; touch gone'; have it made" in faults[1]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_bundle_is_told(whole: Path, content: bytes) -> None:
    whole.write_bytes(content)
    (fault,) = refusal(whole)
    assert str(whole) in fault


def test_every_cut_off_bundle_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    for length in range(0, len(content), 97):
        whole.write_bytes(content[:length])
        assert refusal(whole)


def test_no_changed_byte_gets_through(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    for place in range(0, len(content), 19):
        whole.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            with unpacked(whole, tmp_path / "place") as (directory, manifest):
                found = {name: (directory / name).read_bytes() for name in manifest.files}
        except PipelineError:
            continue
        assert found == CONTENTS  # the byte was a time, or another that says nothing
