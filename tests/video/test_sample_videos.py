"""The sample: real encoded files, reproducible; only motion in the right order tells the label."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from torch.nn import functional

from video.models.small3d import Small3D
from video.synthesis.clocks import window_clock
from video.synthesis.encoding import FORMATS, encode_video
from video.synthesis.files import write_video
from video.synthesis.frames import render_frames
from video.synthesis.plan import PlannedVideo, SampleRecipe, index_row, plan_sample

RECIPE = SampleRecipe(
    num_scenes=40,
    versions_per_scene=6,
    tampered_share=0.4,
    mixed_scene_share=0.75,
    min_duration_sec=2.0,
    max_duration_sec=3.0,
    tampered_time_share=0.67,
    region_area_share=0.33,
    noise_sigma=8.0,
)
SMALL_RECIPE = replace(RECIPE, num_scenes=4, versions_per_scene=4, max_duration_sec=2.2)


def digest(planned: PlannedVideo, root: Path) -> str:
    write_video(planned, root)
    return hashlib.sha256((root / planned.video_path).read_bytes()).hexdigest()


def decode(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def one_of_each_codec(planned: list[PlannedVideo]) -> list[PlannedVideo]:
    return list({video.codec: video for video in planned if video.fault == "none"}.values())


def the_one(planned: list[PlannedVideo], fault: str) -> PlannedVideo:
    (video,) = [video for video in planned if video.fault == fault]
    return video


# ---------------------------------------------------------------- reproducibility


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert plan_sample(3, RECIPE) == plan_sample(3, RECIPE)
    ids = {video.video_id for video in plan_sample(3, RECIPE)}
    assert ids.isdisjoint(video.video_id for video in plan_sample(4, RECIPE))


def test_files_of_one_seed_have_the_same_bytes_in_whatever_order_they_are_written(tmp_path):
    videos = one_of_each_codec(plan_sample(0, SMALL_RECIPE))
    forwards = {video.video_id: digest(video, tmp_path / "a") for video in videos}
    backwards = {video.video_id: digest(video, tmp_path / "b") for video in reversed(videos)}
    assert forwards == backwards


def test_files_of_another_seed_have_other_bytes(tmp_path):
    for video in one_of_each_codec(plan_sample(0, SMALL_RECIPE)):
        other = replace(video, seed=1)
        assert digest(video, tmp_path / "a") != digest(other, tmp_path / "b")


def test_a_file_does_not_depend_on_how_many_scenes_there_are(tmp_path):
    planned = one_of_each_codec(plan_sample(0, SMALL_RECIPE))[0]
    wider = replace(planned, recipe=replace(SMALL_RECIPE, num_scenes=9))
    assert digest(planned, tmp_path / "a") == digest(wider, tmp_path / "b")


# ---------------------------------------------------------------- files and index


def test_every_planned_file_decodes_to_its_planned_frames(tmp_path):
    planned = [video for video in plan_sample(0, SMALL_RECIPE) if video.fault == "none"]
    assert {video.codec for video in planned} == set(FORMATS)
    for video in planned:
        write_video(video, tmp_path)
        with av.open(str(tmp_path / video.video_path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == video.codec
            assert stream.average_rate == video.fps
            assert (stream.width, stream.height) == (video.width, video.height)
            assert FORMATS[video.codec].container in container.format.name.replace("matroska", "")
            num_frames = sum(1 for _ in container.decode(stream))
        assert num_frames == video.num_frames, video


@pytest.mark.parametrize("codec", FORMATS)
def test_decoded_frames_show_what_was_rendered_and_a_higher_quality_costs_bytes(codec, tmp_path):
    video = replace(plan_sample(0, SMALL_RECIPE)[0], codec=codec, num_frames=6)
    frames = list(render_frames(video))
    sizes_bytes = []
    for quality in (0, 100):
        path = tmp_path / f"{quality}.part"  # the container follows the codec, not the name
        encode_video(path, frames, codec=codec, fps=video.fps, quality=quality)
        error = np.mean(np.abs(np.subtract(decode(path), frames, dtype=np.int16)))
        assert error < 12, (codec, quality)
        sizes_bytes.append(path.stat().st_size)
    assert sizes_bytes[0] < 0.9 * sizes_bytes[1]


def test_a_quality_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match="quality: expected 0 to 100, got 101"):
        encode_video(tmp_path / "a", [], codec="h264", fps=25, quality=101)


def test_classes_are_unbalanced_and_some_groups_hold_both_labels_some_one():
    sound = [video for video in plan_sample(0, RECIPE) if video.fault == "none"]
    counts = Counter(video.label for video in sound)
    assert len(sound) == 240
    assert counts["tampered"] / len(sound) == pytest.approx(RECIPE.tampered_share, abs=0.02)
    labels = defaultdict(set)
    for video in sound:
        labels[video.dup_group].add(video.label)
    assert sum(len(of) == 2 for of in labels.values()) == 30
    assert {label for of in labels.values() if len(of) == 1 for label in of} == set(counts)


def test_names_and_columns_of_the_index_are_unique_and_keep_the_tampering_secret():
    planned = plan_sample(0, RECIPE)
    assert len({video.video_path for video in planned}) == len(planned)
    assert len({video.video_id for video in planned}) == len(planned)
    row = index_row(planned[0])
    assert {"subset", "platform", "video_id", "video_path", "label", "dup_group"} <= set(row)
    assert {"tampering", "fault", "version", "quality"}.isdisjoint(row)


def test_one_file_is_missing_one_cut_off_one_no_video_and_one_a_copy(tmp_path):
    planned = plan_sample(0, replace(SMALL_RECIPE, num_scenes=15))
    assert Counter(video.fault for video in planned if video.fault != "none") == dict.fromkeys(
        ("missing", "truncated", "not_a_video", "copy"), 1
    )
    copy = the_one(planned, "copy")
    (source,) = [
        video
        for video in planned
        if (video.scene, video.version, video.fault) == (copy.scene, copy.version, "none")
    ]
    for fault in ("missing", "truncated", "not_a_video"):
        write_video(the_one(planned, fault), tmp_path)
    assert not (tmp_path / the_one(planned, "missing").video_path).exists()
    for fault in ("truncated", "not_a_video"):
        with pytest.raises(av.FFmpegError):
            decode(tmp_path / the_one(planned, fault).video_path)
    assert b"<html>" in (tmp_path / the_one(planned, "not_a_video").video_path).read_bytes()
    assert digest(copy, tmp_path) == digest(source, tmp_path)
    assert copy.video_path != source.video_path
    assert (copy.label, copy.dup_group) == (source.label, source.dup_group)


def test_a_recipe_out_of_range_is_refused_with_all_its_faults():
    recipe = replace(RECIPE, num_scenes=1, tampered_share=1.5)
    with pytest.raises(
        ValueError, match=r"num_scenes: at least 2, got 1; tampered_share.*got 1\.5"
    ):
        plan_sample(0, recipe)


# ---------------------------------------------------------------- what tells the classes


class SilentDraws:
    """Draws that never vary: a tampered stretch that begins with the video."""

    def between(self, low: float, high: float) -> float:
        return low

    def shuffled(self, options):
        return list(reversed(options))


@pytest.mark.parametrize("tampering", ["frozen", "repeated", "against"])
def test_a_tampered_clock_stays_in_the_video_and_tells_the_time_for_the_rest_of_it(tampering):
    planned = replace(
        plan_sample(0, RECIPE)[0], tampering=tampering, label="tampered", fps=30, num_frames=90
    )
    clock = np.array(window_clock(planned, SilentDraws()))
    times = np.arange(90) / 30
    assert clock.min() >= 0
    assert clock.max() < planned.duration_sec
    told = np.isclose(clock, times)
    assert told[61:].all()
    assert told[:60].mean() < 0.2


def test_an_authentic_clock_tells_the_time():
    planned = replace(plan_sample(0, RECIPE)[0], tampering="none", fps=10, num_frames=20)
    assert window_clock(planned, SilentDraws()) == [index / 10 for index in range(20)]


class Sample:
    """The sound videos of a sample as clips, with what else could give their labels away.

    clips: uint8 of shape (videos, 8, 64, 64, 3); labels and groups: of shape (videos,); metadata:
    of shape (videos, features).
    """

    def __init__(self, root: Path, seed: int, recipe: SampleRecipe) -> None:
        clips, labels, groups, metadata = [], [], [], []
        for video in plan_sample(seed, recipe):
            if video.fault != "none":
                continue
            write_video(video, root)
            path = root / video.video_path
            clips.append(uniform_clip(decode(path)))
            labels.append(int(video.label == "tampered"))
            groups.append(video.scene)
            size_bytes = path.stat().st_size
            metadata.append(
                (
                    *(video.width, video.height, video.fps, video.num_frames, video.duration_sec),
                    *(size_bytes / video.num_frames, size_bytes / video.duration_sec),
                    size_bytes / video.num_frames / video.width / video.height,
                    list(FORMATS).index(video.codec),
                )
            )
            path.unlink()
        self.clips, self.metadata = np.stack(clips), np.array(metadata)
        self.labels, self.groups = np.array(labels), np.array(groups)

    def folds(self, num_folds: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield rows to learn from and rows to predict; no group is in both."""
        splitter = GroupKFold(num_folds, shuffle=True, random_state=0)
        yield from splitter.split(self.labels, groups=self.groups)


def uniform_clip(frames: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the middles of eight equal parts, letterboxed: uint8 of shape (8, 64, 64, 3)."""
    height, width = frames[0].shape[:2]
    small_height = round(64 * height / width)
    top = (64 - small_height) // 2
    clip = np.zeros((8, 64, 64, 3), np.uint8)
    for picture, index in zip(clip, (np.arange(8) + 0.5) * len(frames) / 8, strict=True):
        small = cv2.resize(frames[int(index)], (64, small_height), interpolation=cv2.INTER_AREA)
        picture[top : top + small_height] = small
    return clip


def score_of_metadata(sample: Sample) -> float:
    predicted = np.empty_like(sample.labels)
    for known, unknown in sample.folds(5):
        forest = RandomForestClassifier(
            200, min_samples_leaf=3, class_weight="balanced", random_state=0
        )
        forest.fit(sample.metadata[known], sample.labels[known])
        predicted[unknown] = forest.predict(sample.metadata[unknown])
    return float(balanced_accuracy_score(sample.labels, predicted))


def score_of_clips(sample: Sample, clips: NDArray[np.uint8], *, temporal_difference: bool) -> float:
    """Return the balanced accuracy of small networks, each of which predicts only videos of
    scenes that it has not seen."""
    inputs = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().sub(115).div(57)
    labels = torch.from_numpy(sample.labels)
    predicted = torch.empty_like(labels)
    for known, unknown in sample.folds(3):
        network = train(inputs[known], labels[known], temporal_difference)
        with torch.no_grad():
            predicted[unknown] = network(inputs[unknown]).argmax(1)
    return float(balanced_accuracy_score(labels, predicted))


def train(inputs: torch.Tensor, labels: torch.Tensor, temporal_difference: bool) -> Small3D:
    torch.manual_seed(0)
    network = Small3D(num_classes=2, dropout=0.3, temporal_difference=temporal_difference)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    weight = len(labels) / 2 / torch.bincount(labels).float()
    num_epochs, num_steps = 8, len(labels) // 16
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * num_steps)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(labels))[: num_steps * 16].split(16):
            batch = inputs[rows]
            batch = batch.flip(4) if torch.rand(()) < 0.5 else batch
            loss = functional.cross_entropy(network(batch), labels[rows], weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@pytest.fixture
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("one_thread")
def test_frames_in_order_tell_the_label_but_neither_shuffled_nor_single_nor_metadata_do(tmp_path):
    sample = Sample(tmp_path, 0, replace(RECIPE, num_scenes=24))
    rng = np.random.default_rng(0)
    shuffled = np.stack([clip[rng.permutation(8)] for clip in sample.clips])
    single_frame = np.repeat(sample.clips[:, 3:4], 2, axis=1)
    scores = {
        "ordered": score_of_clips(sample, sample.clips, temporal_difference=True),
        "shuffled": score_of_clips(sample, shuffled, temporal_difference=True),
        "single": score_of_clips(sample, single_frame, temporal_difference=False),
        "metadata": score_of_metadata(sample),
    }
    assert scores["ordered"] > 0.8, scores
    assert max(scores["shuffled"], scores["single"], scores["metadata"]) < 0.64, scores
