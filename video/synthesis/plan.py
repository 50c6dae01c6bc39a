"""Plan of the sample: its videos, their tampering and their faults."""

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

from video.synthesis.encoding import FORMATS, CodecName
from video.synthesis.random_streams import RandomStream

Label = Literal["authentic", "tampered"]
Tampering = Literal["none", "frozen", "repeated", "against"]
Fault = Literal["none", "missing", "truncated", "not_a_video", "copy"]

TAMPERINGS: tuple[Tampering, ...] = ("frozen", "repeated", "against")
CODECS: tuple[CodecName, ...] = ("h264", "mpeg4", "vp9", "mjpeg")
FRAMES_PER_SEC = (12, 15, 20, 24, 25, 30)
SIZES_PX = ((160, 120), (176, 144), (144, 112), (128, 96), (192, 144))  # width, height
SUBSETS = ("spring", "autumn")
PLATFORMS = ("phone", "webcam", "archive")


@dataclass(frozen=True, kw_only=True)
class SampleRecipe:
    """Parameters of the sample; `plan_sample` refuses values outside of the ranges."""

    num_scenes: int
    """Scenes, at least 2; the videos of one scene are one `dup_group`."""
    versions_per_scene: int
    """Videos made of one scene, at least 2; faulty rows come on top."""
    tampered_share: float
    """Share of `tampered` videos, above 0 and below 1."""
    mixed_scene_share: float
    """Share of scenes with videos of both labels, 0 to 1; all others have one label only."""
    min_duration_sec: float
    """Duration of the shortest video, at least 1 s."""
    max_duration_sec: float
    """Duration of the longest video, at most 10 s."""
    tampered_time_share: float
    """Share of its duration for which a `tampered` video is tampered with, above 0, at most 1."""
    region_area_share: float
    """Area of the window over that of the frame, 0.05 to 0.6."""
    noise_sigma: float
    """Standard deviation of the sensor noise in 8-bit levels, 0 to 30."""


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """One row of the index and everything that `write_video` needs for its file.

    A file's bytes follow from seed, recipe, scene and version alone, not from other files.
    """

    video_id: str
    video_path: str  # relative to the root of the sample, with forward slashes
    label: Label
    dup_group: str
    subset: str
    platform: str
    codec: CodecName
    fps: int
    width: int
    height: int
    num_frames: int
    quality: int  # 0 (coarsest) to 100 (finest)
    tampering: Tampering
    fault: Fault
    seed: int
    recipe: SampleRecipe
    scene: int
    version: int

    @property
    def duration_sec(self) -> float:
        return self.num_frames / self.fps


def plan_sample(seed: int, recipe: SampleRecipe) -> list[PlannedVideo]:
    """Plan every row of the index, ordered by `video_id`, the faulty ones included.

    One file will be the exact copy of another under another name (same group, same label), one
    missing, one truncated and one no video; of fewer than 60 videos, the first of these, at most
    one for every 20. Codec, size, rate, duration and quality are drawn without regard to the label.
    """
    _check_recipe(recipe)
    planned = [
        _plan_video(seed, recipe, scene, version, label, "none")
        for scene, labels in enumerate(_draw_labels(seed, recipe))
        for version, label in enumerate(labels)
    ]
    return sorted(planned + _plan_faults(seed, recipe, planned), key=lambda video: video.video_id)


def index_row(planned: PlannedVideo) -> dict[str, str]:
    """Return the row of the index CSV; only `label` depends on the label."""
    columns = ("subset", "platform", "video_id", "video_path", "label", "dup_group", "codec")
    return {name: getattr(planned, name) for name in columns}


def _check_recipe(recipe: SampleRecipe) -> None:
    expected = {
        "num_scenes: at least 2": recipe.num_scenes >= 2,
        "versions_per_scene: at least 2": recipe.versions_per_scene >= 2,
        "tampered_share: above 0, below 1": 0 < recipe.tampered_share < 1,
        "mixed_scene_share: 0 to 1": 0 <= recipe.mixed_scene_share <= 1,
        "min_duration_sec: 1 to max_duration_sec": 1
        <= recipe.min_duration_sec
        <= recipe.max_duration_sec,
        "max_duration_sec: at most 10": recipe.max_duration_sec <= 10,
        "tampered_time_share: above 0, at most 1": 0 < recipe.tampered_time_share <= 1,
        "region_area_share: 0.05 to 0.6": 0.05 <= recipe.region_area_share <= 0.6,
        "noise_sigma: 0 to 30": 0 <= recipe.noise_sigma <= 30,
    }
    faults = [
        f"{rule}, got {getattr(recipe, rule.split(':')[0])}"
        for rule, kept in expected.items()
        if not kept
    ]
    if faults:
        raise ValueError("recipe of the sample: " + "; ".join(faults))


def _draw_labels(seed: int, recipe: SampleRecipe) -> list[list[Label]]:
    """Draw the labels of all versions, as num_scenes lists of versions_per_scene."""
    stream = RandomStream(seed, "labels")
    num_mixed = round(recipe.num_scenes * recipe.mixed_scene_share)
    num_single = recipe.num_scenes - num_mixed
    num_tampered = round(num_single * recipe.tampered_share)
    counts = [recipe.versions_per_scene] * num_tampered + [0] * (num_single - num_tampered)
    wanted = recipe.versions_per_scene * recipe.tampered_share
    for index in range(num_mixed):
        # Differences of a rounded running sum: 2.4 of 6 becomes 2, 3, 2, 3, 2.
        count = round(wanted * (index + 1)) - round(wanted * index)
        counts.append(min(max(count, 1), recipe.versions_per_scene - 1))
    return [
        stream.shuffled(_labels_of(count, recipe.versions_per_scene))
        for count in stream.shuffled(counts)
    ]


def _labels_of(num_tampered: int, num_versions: int) -> list[Label]:
    tampered: list[Label] = ["tampered"] * num_tampered
    authentic: list[Label] = ["authentic"] * (num_versions - num_tampered)
    return tampered + authentic


def _plan_video(
    seed: int, recipe: SampleRecipe, scene: int, version: int, label: Label, fault: Fault
) -> PlannedVideo:
    stream = RandomStream(seed, "plan", scene, version)
    codec = stream.choice(CODECS)
    fps = stream.choice(FRAMES_PER_SEC)
    width, height = stream.choice(SIZES_PX)
    duration_sec = stream.between(recipe.min_duration_sec, recipe.max_duration_sec)
    quality = int(stream.between(0, 101))
    tampering = stream.choice(TAMPERINGS)
    subset = RandomStream(seed, "subset", scene).choice(SUBSETS)
    platform = stream.choice(PLATFORMS)
    video = PlannedVideo(
        video_id="",
        video_path="",
        label=label,
        dup_group=f"scene_{scene:03d}",
        subset=subset,
        platform=platform,
        codec=codec,
        fps=fps,
        width=width,
        height=height,
        num_frames=round(duration_sec * fps),
        quality=quality,
        tampering=tampering if label == "tampered" else "none",
        fault=fault,
        seed=seed,
        recipe=recipe,
        scene=scene,
        version=version,
    )
    return _named(video, f"{scene}|{version}")


def _named(video: PlannedVideo, name: str) -> PlannedVideo:
    # Named by a digest, so that neither names nor the order of the rows depend on the labels.
    video_id = blake2b(f"{video.seed}|{name}".encode(), digest_size=5).hexdigest()
    path = f"{video.subset}/{video.platform}/{video_id}.{FORMATS[video.codec].container}"
    return replace(video, video_id=video_id, video_path=path)


def _plan_faults(
    seed: int, recipe: SampleRecipe, planned: list[PlannedVideo]
) -> list[PlannedVideo]:
    stream = RandomStream(seed, "faults")
    copied, *hosts = stream.shuffled(planned)
    faults: list[Fault] = ["missing", "truncated", "not_a_video"]
    rows = [_named(replace(copied, fault="copy"), "copy")]
    # A small sample stays below the default of load_data.max_quarantined.
    for fault, host in zip(faults[: len(planned) // 20], hosts, strict=False):
        version = recipe.versions_per_scene + len(rows)
        video = _plan_video(seed, recipe, host.scene, version, host.label, fault)
        if fault != "missing":
            # A truncated .mp4 has lost its table of contents: no reader can open it.
            video = _named(replace(video, codec="h264"), fault)
        rows.append(video)
    return rows
