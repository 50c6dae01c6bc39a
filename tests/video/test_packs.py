"""A pack is named by what made it, and its table tells where each clip's bytes lie."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from video.clips.packs import (
    PackError,
    check_clip,
    pack_bytes,
    pack_key,
    pack_rows,
    parse_pack,
    read_clip_into,
)

SHA256 = "ab" * 32
RECIPE: dict[str, Any] = {
    "frames": 8,
    "height": 64,
    "fit": "crop",
    "decoders": {"av": "18.1.0", "libavcodec": "62.28.100"},
}


@pytest.fixture
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 4, 5, 6, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path, clips: NDArray[np.uint8]) -> Path:
    path = tmp_path / "pack.npy"
    path.write_bytes(pack_bytes(clips))
    return path


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"frames": 9},
        {"height": 65},
        {"fit": "letterbox"},
        {"decoders": {"av": "18.1.1", "libavcodec": "62.28.100"}},
        {"more": 1},
    ],
)
def test_every_value_of_the_recipe_is_in_the_key(changed: dict[str, Any]) -> None:
    assert pack_key(SHA256, RECIPE | changed) != pack_key(SHA256, RECIPE)


def test_the_video_is_in_the_key() -> None:
    assert pack_key("cd" * 32, RECIPE) != pack_key(SHA256, RECIPE)


def test_the_order_of_the_recipe_is_not_in_the_key() -> None:
    turned = dict(reversed(RECIPE.items()))
    turned["decoders"] = dict(reversed(RECIPE["decoders"].items()))

    assert pack_key(SHA256, turned) == pack_key(SHA256, RECIPE)


def test_a_key_is_the_same_in_another_process() -> None:
    program = f"from video.clips.packs import pack_key; print(pack_key({SHA256!r}, {RECIPE!r}))"
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    assert process.stdout.strip() == pack_key(SHA256, RECIPE)


def test_a_key_is_a_file_name_of_40_hex_digits() -> None:
    key = pack_key(SHA256, RECIPE)

    assert len(key) == 40
    assert set(key) <= set("0123456789abcdef")


# --- bytes -------------------------------------------------------------------------------------


def test_numpy_reads_a_pack(path: Path, clips: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), clips, strict=True)


def test_a_packs_content_reads_back_as_its_clips(clips: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(parse_pack(pack_bytes(clips), clips.shape), clips, strict=True)


def test_each_row_tells_where_its_clip_lies(path: Path, clips: NDArray[np.uint8]) -> None:
    content = path.read_bytes()
    rows = pack_rows("pack.npy", clips).to_dicts()

    for number, row in enumerate(rows):
        raw = content[row["offset_bytes"] : row["offset_bytes"] + clips[number].nbytes]
        assert raw == clips[number].tobytes()
        assert hashlib.sha256(raw).hexdigest() == row["clip_sha256"]
    assert [row["clip"] for row in rows] == [0, 1, 2]
    assert rows[-1]["offset_bytes"] + clips[-1].nbytes == len(content)


def test_each_row_tells_the_shape_of_its_clip(clips: NDArray[np.uint8]) -> None:
    row = pack_rows("pack.npy", clips).row(0, named=True)

    assert (row["frames"], row["height"], row["width"], row["dtype"]) == (4, 5, 6, "uint8")


def test_rows_of_clips_in_another_memory_order_tell_the_same(
    clips: NDArray[np.uint8],
) -> None:
    other = np.asfortranarray(clips)

    assert pack_bytes(other) == pack_bytes(clips)
    assert pack_rows("p", other).equals(pack_rows("p", clips))


def test_a_clip_is_read_from_its_offset(path: Path, clips: NDArray[np.uint8]) -> None:
    target = np.zeros_like(clips[1])

    read_clip_into(target, path, pack_rows("p", clips)["offset_bytes"][1])

    np.testing.assert_array_equal(target, clips[1])


def test_a_pack_cut_off_is_refused(path: Path, clips: NDArray[np.uint8]) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    offset = pack_rows("p", clips)["offset_bytes"][2]

    with pytest.raises(
        ValueError,
        match=rf"pack\.npy: expected 360 bytes of a clip at {offset}, got 359; make it again",
    ):
        read_clip_into(np.zeros_like(clips[2]), path, offset)


def test_a_pack_that_is_not_there_is_named(tmp_path: Path, clips: NDArray[np.uint8]) -> None:
    with pytest.raises(PackError, match=r"gone\.npy: expected a pack, got no file; make it again"):
        read_clip_into(np.zeros_like(clips[0]), tmp_path / "gone.npy", 128)


def test_a_clip_with_other_bytes_is_refused_with_its_pack(clips: NDArray[np.uint8]) -> None:
    sha256 = pack_rows("p", clips)["clip_sha256"][0]
    check_clip(clips[0], Path("p.npy"), sha256)

    clips[0, 0, 0, 0, 0] ^= 1

    with pytest.raises(PackError, match=rf"^p\.npy: expected a clip with sha256 {sha256}, got "):
        check_clip(clips[0], Path("p.npy"), sha256)


@pytest.mark.parametrize("shape", [(2, 4, 5, 6, 3), (3, 5, 4, 6, 3), (3, 4, 5, 6, 4)])
def test_content_of_another_shape_is_no_pack(
    clips: NDArray[np.uint8], shape: tuple[int, ...]
) -> None:
    assert parse_pack(pack_bytes(clips), shape) is None


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", pack_bytes(np.zeros((1, 2), np.uint8))])
def test_content_that_is_no_pack_is_none(content: bytes) -> None:
    assert parse_pack(content, (3, 4, 5, 6, 3)) is None
