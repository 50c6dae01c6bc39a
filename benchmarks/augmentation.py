"""Cost of augmenting a clip with everything on, compared with other tools and with a copy.

    python -m benchmarks.augmentation [--rounds 5]

CPU time of one thread, medians over interleaved rounds, each tool in a process of its own.
albumentations (or AlbumentationsX, which has the same module) and kornia take part if they are
installed. Clips are uint8, 16 frames of 112x112 px; all probabilities are 1, the limits are those
of params.yaml, and each tool applies one draw to all frames of a clip:

- Rotation and affine are one step for the other tools; "ours" also drops, doubles and reverses
  frames, which none of them does.
- Bilinear everywhere; the mirrored border if a tool has one (torchvision fills with gray).
- The others' blur has 3 or 5 taps, ours at most 5; their elastic field is their own cheapest one.
- torchvision gets its fastest layout: a TxCxHxW uint8 tensor, in channels_last for the blur.
- kornia takes and returns floats: the conversions are not counted.

"as it is" is the default allocator: large arrays are returned to the system and faulted in again.
With "memory kept" they are not, as in a process that has freed a larger array before. That is the
best case for all tools; which one holds depends on the rest of the process.

Limits: in both, 4 times albumentations' and 8 times torchvision's clips per second.
"""

import argparse
import dataclasses
import importlib.util
import inspect
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mlops.files.yaml_text import load_yaml
from mlops.processes.progress import track
from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe

NUM_CLIPS, FRAMES, SIDE = 8, 16, 112
MIN_SEC = 0.2  # CPU time of one measurement

OPERATIONS = ("rotation and affine", "flip", "elastic", "blur", "jitter", "noise", "cutout")
ALL = "everything"

# Tool: (modules that it needs, distributions to name with their versions).
TOOLS = {
    "ours": ((), ()),
    "albumentations": (("albumentations",), ("albumentationsx", "albumentations")),
    "torchvision v2": (("torchvision",), ("torchvision",)),
    "kornia": (("kornia",), ("kornia",)),
    "memcpy": ((), ()),
}
LIMITS = {"albumentations": 4, "torchvision v2": 8}

ALLOCATORS = {
    "as it is": {},
    "memory kept": {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"},
}
# One thread each; no tool asks the network for news.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ALBUMENTATIONS_NO_TELEMETRY": "1",
}

Clip = NDArray[np.uint8]
Task = Callable[[int], object]  # given a number that picks the clip, makes one augmented copy


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    tools = available_tools()
    print(", ".join(described(tool) for tool in tools))
    costs = {allocator: measured(tools, [ALL], rounds, allocator)[ALL] for allocator in ALLOCATORS}
    print_whole(costs)
    print_operations(measured(tools, OPERATIONS, rounds, "memory kept"))
    print_limits(costs)


def available_tools() -> list[str]:
    tools = []
    for tool, (modules, _) in TOOLS.items():
        if all(importlib.util.find_spec(module) for module in modules):
            tools.append(tool)
        else:
            print(f"{tool}: not installed, left out")
    return tools


def described(tool: str) -> str:
    for distribution in TOOLS[tool][1]:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return tool


# --- tools -------------------------------------------------------------------------------------


def recipe(operations: str) -> AugmentationRecipe:
    """Return the limits of params.yaml, with probability 1 for one of OPERATIONS or for all."""
    values = load_yaml(Path("params.yaml"))["augment"]
    names = {field.name for field in dataclasses.fields(AugmentationRecipe)}
    own = {
        name: float(operations == ALL or name.removesuffix("_probability") in operations.split())
        for name in names
        if name.endswith("_probability")
    }
    return AugmentationRecipe(**{name: values[name] for name in names} | own)


@cache
def clips() -> list[Clip]:
    """Draw clips of colored squares that move, blurred as video is."""
    generator = np.random.default_rng(0)
    made: list[Clip] = []
    for _ in range(NUM_CLIPS):
        tiles = generator.integers(0, 256, (SIDE // 8 + 2, SIDE // 8 + 2, 3), np.uint8)
        picture = cv2.GaussianBlur(np.kron(tiles, np.ones((8, 8, 1), np.uint8)), (0, 0), 1)
        made.append(np.stack([picture[n : n + SIDE, n : n + SIDE] for n in range(FRAMES)]))
    return made


def ours(operations: str) -> Task:
    own = recipe(operations)
    return lambda number: augment_clip(
        clips()[number % NUM_CLIPS], own, seed=0, video_sha256="ab" * 32, copy=number
    )


def memcpy(operations: str) -> Task:
    target = np.empty_like(clips()[0])
    return lambda number: np.copyto(target, clips()[number % NUM_CLIPS])


def albumentations(operations: str) -> Task:
    import albumentations as A  # noqa: N812, their own abbreviation

    limit = recipe(ALL)
    mirrored: dict[str, Any] = {"border_mode": cv2.BORDER_REFLECT_101, "p": 1}
    # Version 2.0.8, the last of the old name, and its successor differ in the elastic field.
    if "displacement_range" in inspect.signature(A.ElasticTransform.__init__).parameters:
        nodes = limit.elastic_grid + 1
        elastic = A.ElasticTransform((0, limit.elastic_max_px / SIDE), (nodes, nodes), **mirrored)
        quiet = {"telemetry": False}
    else:
        elastic = A.ElasticTransform(alpha=20, sigma=SIDE / 8, approximate=True, **mirrored)
        quiet = {}
    steps = {
        "flip": A.HorizontalFlip(p=1),
        "rotation and affine": A.Affine(
            scale=(limit.scale_min, limit.scale_max),
            translate_percent=(-limit.translate_max_share, limit.translate_max_share),
            rotate=(-limit.rotation_max_deg, limit.rotation_max_deg),
            shear={"x": (-limit.shear_max_deg, limit.shear_max_deg), "y": (0, 0)},
            interpolation=cv2.INTER_LINEAR,
            **mirrored,
        ),
        "elastic": elastic,
        "blur": A.GaussianBlur((3, 5), (0.1, limit.blur_max_sigma_px), p=1),
        "jitter": A.ColorJitter(
            around(1, limit.brightness_max),
            around(1, limit.contrast_max),
            around(1, limit.saturation_max),
            around(0, limit.hue_max_turn),
            p=1,
        ),
        "noise": A.GaussNoise((0, limit.noise_max_sigma / 255), per_channel=True, p=1),
        "cutout": A.CoarseDropout(
            (1, 1), (0.01, limit.cutout_max_share), (0.01, limit.cutout_max_share), fill=128, p=1
        ),
    }
    whole = A.Compose(chosen(steps, operations), **quiet)
    return lambda number: whole(images=clips()[number % NUM_CLIPS])["images"]


def torchvision_v2(operations: str) -> Task:
    import torch
    from torchvision.transforms import InterpolationMode, v2

    torch.set_num_threads(1)
    limit = recipe(ALL)
    bilinear: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": 128}
    steps = {
        "flip": v2.RandomHorizontalFlip(1.0),
        "rotation and affine": v2.RandomAffine(
            limit.rotation_max_deg,
            (limit.translate_max_share, limit.translate_max_share),
            (limit.scale_min, limit.scale_max),
            (-limit.shear_max_deg, limit.shear_max_deg),
            **bilinear,
        ),
        # sigma is its default: one as wide as our field's cells costs 5 times as much.
        "elastic": v2.ElasticTransform(alpha=30.0, sigma=5.0, **bilinear),
        "blur": v2.Compose(
            [
                v2.Lambda(lambda clip: clip.contiguous(memory_format=torch.channels_last)),
                v2.GaussianBlur(5, (0.1, limit.blur_max_sigma_px)),
                v2.Lambda(lambda clip: clip.contiguous(memory_format=torch.contiguous_format)),
            ]
        ),
        "jitter": v2.ColorJitter(
            limit.brightness_max, limit.contrast_max, limit.saturation_max, limit.hue_max_turn
        ),
        "noise": v2.GaussianNoise(sigma=limit.noise_max_sigma / 2 / 255),
        "cutout": v2.RandomErasing(1.0, (0.001, limit.cutout_max_share**2), value=128),
    }
    whole = v2.Compose(chosen(steps, operations))
    tensors = [torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous() for clip in clips()]
    return torch.inference_mode()(lambda number: whole(tensors[number % NUM_CLIPS]))


def kornia(operations: str) -> Task:
    import kornia.augmentation as K  # noqa: N812, their own abbreviation
    import torch

    torch.set_num_threads(1)
    limit = recipe(ALL)
    mirrored: dict[str, Any] = {"resample": "bilinear", "padding_mode": "reflection", "p": 1.0}
    steps = {
        "flip": K.RandomHorizontalFlip(p=1.0),
        "rotation and affine": K.RandomAffine(
            limit.rotation_max_deg,
            (limit.translate_max_share, limit.translate_max_share),
            (limit.scale_min, limit.scale_max),
            (-limit.shear_max_deg, limit.shear_max_deg),
            **mirrored,
        ),
        "elastic": K.RandomElasticTransform((17, 17), (5.0, 5.0), (0.03, 0.03), **mirrored),
        "blur": K.RandomGaussianBlur((5, 5), (0.1, limit.blur_max_sigma_px), p=1.0),
        "jitter": K.ColorJitter(
            limit.brightness_max,
            limit.contrast_max,
            limit.saturation_max,
            limit.hue_max_turn,
            p=1.0,
        ),
        "noise": K.RandomGaussianNoise(0.0, limit.noise_max_sigma / 2 / 255, p=1.0),
        "cutout": K.RandomErasing((0.001, limit.cutout_max_share**2), (0.5, 2.0), 0.5, p=1.0),
    }
    whole = K.VideoSequential(*chosen(steps, operations), data_format="BTCHW", same_on_frame=True)
    tensors = [torch.from_numpy(clip).permute(0, 3, 1, 2)[None] / 255 for clip in clips()]
    return torch.inference_mode()(lambda number: whole(tensors[number % NUM_CLIPS]))


def around(middle: float, limit: float) -> tuple[float, float]:
    return middle - limit, middle + limit


def chosen(steps: dict[str, Any], operations: str) -> list[Any]:
    return list(steps.values()) if operations == ALL else [steps[operations]]


MAKERS: dict[str, Callable[[str], Task]] = {
    "ours": ours,
    "albumentations": albumentations,
    "torchvision v2": torchvision_v2,
    "kornia": kornia,
    "memcpy": memcpy,
}


# --- measuring ---------------------------------------------------------------------------------


def measured(
    tools: list[str], operations: Sequence[str], rounds: int, allocator: str
) -> dict[str, dict[str, float]]:
    """Return the CPU milliseconds per clip, by operation and tool."""
    settings = ENVIRONMENT | ALLOCATORS[allocator]
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)  # glibc reads it when a process starts
    pools = {tool: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for tool in tools}
    spent: dict[tuple[str, str], list[float]] = {}

    def measurements() -> Iterator[None]:
        for _ in range(rounds + 1):  # the first one warms imports and caches
            for name in operations:
                for tool, pool in pools.items():
                    cost = pool.submit(cpu_ms, tool, name).result()
                    spent.setdefault((name, tool), []).append(cost)
                    yield None

    what = "everything on" if operations == [ALL] else "single operations"
    try:
        total = (rounds + 1) * len(operations) * len(tools)
        for _ in track(measurements(), total=total, task=f"{what}, {allocator}"):
            pass
    finally:
        for pool in pools.values():
            pool.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return {
        name: {tool: statistics.median(spent[name, tool][1:]) for tool in tools}
        for name in operations
    }


def cpu_ms(tool: str, operations: str) -> float:
    """Return the CPU milliseconds per clip of all threads; runs in the tool's process."""
    task = made(tool, operations)
    started = time.process_time()
    number = 0
    while True:
        task(number)
        number += 1
        spent = time.process_time() - started
        if spent >= MIN_SEC:
            return 1000 * spent / number


@cache
def made(tool: str, operations: str) -> Task:
    cv2.setNumThreads(1)
    task = MAKERS[tool](operations)
    task(0)
    return task


def print_whole(costs: dict[str, dict[str, float]]) -> None:
    print(f"\nEverything on, {FRAMES}x{SIDE}x{SIDE}x3, one thread, with the allocator …")
    heads = [f"{name}: CPU ms per clip | clips/s | times ours" for name in costs]
    print("| tool | " + " | ".join(heads) + " |\n|" + " --- |" * (1 + 3 * len(costs)))
    for tool in next(iter(costs.values())):
        cells = [
            f"{cost[tool]:.3g} | {1000 / cost[tool]:.0f} | {cost[tool] / cost['ours']:.3g}"
            for cost in costs.values()
        ]
        print(f"| {tool} | " + " | ".join(cells) + " |")


def print_operations(costs: dict[str, dict[str, float]]) -> None:
    tools = [tool for tool in next(iter(costs.values())) if tool != "memcpy"]
    print("\nOne operation alone, CPU ms per clip, memory kept")
    print("| operation | " + " | ".join(tools) + " |\n|" + " --- |" * (1 + len(tools)))
    for name, cost in costs.items():
        print(f"| {name} | " + " | ".join(f"{cost[tool]:.2f}" for tool in tools) + " |")


def print_limits(costs: dict[str, dict[str, float]]) -> None:
    print()
    for tool, limit in LIMITS.items():
        for allocator, cost in costs.items():
            if tool in cost:
                ratio = cost[tool] / cost["ours"]
                word = "reached" if ratio >= limit else "NOT REACHED"
                print(
                    f"{limit} times the clips/s of {described(tool)}, {allocator}: "
                    f"{word}, {ratio:.2f} times"
                )
            else:
                print(f"{limit} times the clips/s of {tool}: not measured")
                break


if __name__ == "__main__":
    main()
