"""Cost of reading 16 uniform frames at 112x112, beside other readers, and memory of a long video.

    python -m benchmarks.decoding [--rounds 5]

CPU time of this process, one thread, medians over interleaved rounds. torchcodec and decord2 take
part if they are installed (torchcodec looks for FFmpeg's libraries in LD_LIBRARY_PATH). "Ours"
reads with the timing that `load_data` records, and "inspect" is the decode that records it; its
fingerprint and its checksums of frames are timed per call, in separate runs.

Limits: at most 0.80 of decoding every frame for H.264 with B-frames, 0.50 with a key frame every
12 frames; faster than OpenCV, torchcodec and decord2 at 480p for every codec; 100 MB at 1080p.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from video.clips.frames import uniform_indices
from video.source import inspection
from video.source.container import FrameTiming, frame_timing
from video.source.decoding import read_frames
from video.source.fingerprint import Fingerprint
from video.source.inspection import inspect_video

SCFD = Path(__file__).parents[2] / "shared/real/scfd"

FPS, NUM_SAMPLED, SIDE = 30, 16, 112

# Name: (suffix, encoder, options, height, width). x264 and x265 choose B-frames by content.
VIDEOS = {
    "h264 240p GOP 250": (".mp4", "libx264", {"g": "250"}, 240, 426),
    "h264 480p GOP 250": (".mp4", "libx264", {"g": "250"}, 480, 854),
    "h264 480p GOP 12": (".mp4", "libx264", {"g": "12"}, 480, 854),
    "hevc 480p": (".mp4", "libx265", {"x265-params": "log-level=0"}, 480, 854),
    "vp9 480p": (".webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, 480, 854),
    "mpeg4 480p": (".mp4", "mpeg4", {"bf": "2", "qmin": "4", "qmax": "8"}, 480, 854),
}
LIMITS = {"h264 240p GOP 250": 0.80, "h264 480p GOP 250": 0.80, "h264 480p GOP 12": 0.50}
LIMIT_MB = 100
REAL = ", real"

Reader = Callable[[Path, Sequence[int], FrameTiming | None], object]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--peak-of", nargs=2, metavar=("READER", "VIDEO"))
    options = arguments.parse_args()
    cv2.setNumThreads(1)
    if options.peak_of:
        print_peak(*options.peak_of)
        return
    with tempfile.TemporaryDirectory() as directory:
        readers = available_readers()
        paths = {name: encoded(Path(directory), name, 10 * FPS) for name in names_of_videos()}
        print_table({name: compare(path, readers, options) for name, path in paths.items()})
        print_shares({name: [path] for name, path in paths.items()} | real_videos(), options)
        print_memory(Path(directory))


# --- videos ------------------------------------------------------------------------------------


def names_of_videos() -> list[str]:
    """Name the videos; with the surveillance clips at hand, each also with real pictures."""
    return [*VIDEOS, *(f"{name}{REAL}" for name in VIDEOS if SCFD.is_dir())]


def encoded(directory: Path, name: str, num_frames: int) -> Path:
    suffix, encoder, options, height, width = VIDEOS[name.removesuffix(REAL)]
    pictures = footage if name.endswith(REAL) else texture
    path = directory / (name.replace(" ", "_") + suffix)
    write(path, encoder, options, pictures((height, width), num_frames))
    return path


def write(
    path: Path, encoder: str, options: dict[str, str], pictures: Iterable[NDArray[np.uint8]]
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def texture(size: tuple[int, int], num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield a texture that moves in a curve, with independent noise in each frame."""
    height, width = size
    generator = np.random.default_rng(0)
    tiles = generator.integers(40, 216, (height // 8 + 20, width // 8 + 20, 3), np.uint8)
    pattern = cv2.GaussianBlur(np.kron(tiles, np.ones((8, 8, 1), np.uint8)), (0, 0), 2)
    noises = generator.integers(0, 9, (7, height, width, 1), np.uint8)
    for number in range(num_frames):
        top = round(60 + 50 * np.sin(number / 15))
        left = round(60 + 50 * np.cos(number / 11))
        yield pattern[top : top + height, left : left + width] + noises[number % 7]


def footage(size: tuple[int, int], num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of the surveillance clips, the largest first, resized to `size`."""
    index = pl.read_csv(SCFD / "index_full.csv").sort("height", "video_path", descending=True)
    for name in index["video_path"]:
        with av.open(str(SCFD / name)) as container:
            for frame in container.decode(video=0):
                if num_frames == 0:
                    return
                num_frames -= 1
                picture = frame.to_ndarray(format="rgb24")
                yield cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


# --- readers -----------------------------------------------------------------------------------


def every_frame(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> object:
    return read_frames(path, indices, height=SIDE, width=SIDE, fit="crop", timing=None).clip


def ours(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> object:
    reading = read_frames(path, indices, height=SIDE, width=SIDE, fit="crop", timing=timing)
    assert timing is None or not reading.doubt, reading.doubt
    return reading.clip


def opencv(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> object:
    """Grab every frame and retrieve those at `indices`, which is exact."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    pictures, wanted = [], set(indices)
    for number in range(indices[-1] + 1):
        assert capture.grab()
        if number in wanted:
            picture = capture.retrieve()[1].astype(np.uint8, copy=False)
            pictures.append(resized(picture[..., ::-1]))
    capture.release()
    return np.stack(pictures)


def torchcodec(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> object:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        str(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC"
    )
    frames = decoder.get_frames_at(list(indices)).data.numpy()
    return np.stack([resized(frame) for frame in frames])


def decord2(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> object:
    import decord

    frames = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    return np.stack([resized(frame) for frame in frames])


def resized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle square, resized to SIDE."""
    height, width = picture.shape[:2]
    left = (width - height) // 2
    square = np.ascontiguousarray(picture[:, left : left + height])
    shrunk = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return shrunk.astype(np.uint8, copy=False)


def available_readers() -> dict[str, Reader]:
    readers: dict[str, Reader] = {"every frame": every_frame, "ours": ours, "OpenCV": opencv}
    for name, module, reader in (
        ("torchcodec", "torchcodec", torchcodec),
        ("decord2", "decord", decord2),
    ):
        if importlib.util.find_spec(module):
            readers[name] = reader
        else:
            print(f"{name}: not installed, left out")
    return readers


# --- measuring ---------------------------------------------------------------------------------


def compare(
    path: Path, readers: dict[str, Reader], options: argparse.Namespace
) -> dict[str, float]:
    """Return CPU milliseconds of each reader and of the inspection; NaN if it cannot read it."""
    facts = inspect_video(path)
    timing = frame_timing(asdict(facts))
    indices = uniform_indices(facts.num_frames, NUM_SAMPLED)
    spent: dict[str, list[float]] = {name: [] for name in (*readers, "inspect")}
    tasks: dict[str, Callable[[], object]] = {
        name: partial(reader, path, indices, timing) for name, reader in readers.items()
    }
    tasks["inspect"] = partial(inspect_video, path)
    for name, task in list(tasks.items()):
        # This also warms caches and imports.
        try:
            task()
        except RuntimeError as error:
            print(f"{name} cannot read {path.name}: {str(error).splitlines()[0]}")
            del tasks[name]
    for _ in range(options.rounds):
        for name, task in tasks.items():
            started = time.process_time()
            task()
            spent[name].append(1000 * (time.process_time() - started))
    if timing is None:
        print(f"{path.name}: the timing is not proven, ours decodes every frame")
    return {
        name: statistics.median(times) if times else float("nan") for name, times in spent.items()
    }


def print_table(costs: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(costs.values())))
    readers = [name for name in names if name != "inspect"]
    print("\nCPU ms per video, in brackets the ratio to every frame")
    print("| video | " + " | ".join(names) + " | limit |\n|" + " --- |" * (len(names) + 2))
    for video, spent in costs.items():
        whole = spent["every frame"]
        cells = [f"{spent[name]:.0f} ({spent[name] / whole:.2f})" for name in names]
        others = [name for name in readers if name not in ("every frame", "ours")]
        slower = [name for name in others if "480p" in video and spent[name] <= spent["ours"]]
        share = LIMITS.get(video.removesuffix(REAL))
        held = not slower and (share is None or spent["ours"] <= share * whole)
        limit = "" if share is None else f"{share:.2f} "
        word = "held" if held else "MISSED" + "".join(f", slower than {name}" for name in slower)
        print(f"| {video} | " + " | ".join(cells) + f" | {limit}{word} |")


# --- parts of the inspection -------------------------------------------------------------------


def real_videos() -> dict[str, list[Path]]:
    """Return every tenth of the surveillance clips, if present."""
    paths = sorted(SCFD.glob("*/*.mp4"))[::10]
    return {f"{len(paths)} real clips": paths} if paths else {}


def print_shares(videos: dict[str, list[Path]], options: argparse.Namespace) -> None:
    """Print the shares of fingerprint and CRC-32 in the CPU time of the inspection."""
    print("\nParts of inspect, by CPU time")
    print("| video | frames | CPU ms per video | fingerprint | CRC-32 of the frames |")
    print("|" + " --- |" * 5)
    for name, paths in videos.items():
        rounds = [inspected_in_parts(paths) for _ in range(options.rounds + 1)][1:]
        whole, *parts = (statistics.median(times) for times in zip(*rounds, strict=True))
        shares = " | ".join(f"{part / whole:.1%}" for part in parts)
        frames = sum(inspect_video(path).num_frames for path in paths) / len(paths)
        print(f"| {name} | {frames:.0f} | {1000 * whole / len(paths):.0f} | {shares} |")


def inspected_in_parts(paths: Sequence[Path]) -> tuple[float, float, float]:
    """Return the CPU seconds of the inspection, of its fingerprint and of its CRC-32."""
    with (
        clocked(Fingerprint, "add") as adding,
        clocked(Fingerprint, "hashes") as hashing,
        clocked(inspection, "frame_crc32") as checking,
    ):
        started = time.process_time()
        for path in paths:
            inspect_video(path)
        spent = time.process_time() - started
    return spent, sum(adding) + sum(hashing), sum(checking)


@contextmanager
def clocked(owner: object, name: str) -> Iterator[list[float]]:
    """Record the CPU seconds of each call of `name`, a function of a class or module."""
    function = getattr(owner, name)
    spent: list[float] = []

    def timed(*arguments: object) -> object:
        started = time.process_time()
        result = function(*arguments)
        spent.append(time.process_time() - started)
        return result

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, function)


# --- memory ------------------------------------------------------------------------------------


def print_memory(directory: Path) -> None:
    """Print the peak memory above that after the imports, each reader in its own process."""
    path = directory / "long.mp4"
    options = {"g": "250", "preset": "ultrafast", "bf": "2"}
    write(path, "libx264", options, texture((1080, 1920), 30 * FPS))
    print(f"\nPeak memory above the imports, 1080p 30 s (limit {LIMIT_MB} MB)")
    for name in ("every frame", "ours", "inspect"):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.decoding", "--peak-of", name, str(path)], check=True
        )


def print_peak(name: str, video: str) -> None:
    path = Path(video)
    indices = uniform_indices(30 * FPS, NUM_SAMPLED)
    timing = None
    if name == "ours":
        # From another process, as in the pipeline: this one's peak must not be the inspection's.
        timing = timing_from_elsewhere(path)
    before = peak_mb()
    if name == "inspect":
        inspect_video(path)
    else:
        {"every frame": every_frame, "ours": ours}[name](path, indices, timing)
    added = peak_mb() - before
    print(f"{name}: {added:.0f} MB, {'held' if added <= LIMIT_MB else 'MISSED'}")


def peak_mb() -> float:
    """Return the peak memory of this process; getrusage may include that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def timing_from_elsewhere(path: Path) -> FrameTiming | None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return frame_timing(asdict(pool.submit(inspect_video, path).result()))


if __name__ == "__main__":
    main()
