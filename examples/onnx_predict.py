"""Probabilities of an exported model, without its repository: onnx_predict.py MODEL.onnx VIDEO…"""

import json
import sys
from fractions import Fraction

import av
import numpy as np
import onnxruntime
from av.video.reformatter import Colorspace
from av.video.reformatter import Interpolation as By

SCALING = By.AREA | By.ACCURATE_RND | By.BITEXACT | By.FULL_CHR_H_INT


def fitted(frame, height, width, fit, **_):
    choose = min if fit == "letterbox" else max
    scale = choose(Fraction(height, frame.height), Fraction(width, frame.width))
    rows, columns = (max(1, round(side * scale)) for side in (frame.height, frame.width))
    space = Colorspace.ITU601 if frame.colorspace in (Colorspace.DEFAULT, 2) else frame.colorspace
    small = frame.reformat(columns, rows, "rgb24", space, interpolation=SCALING).to_ndarray()
    top, left = max(0, rows - height) // 2, max(0, columns - width) // 2
    small = small[top : top + height, left : left + width]
    missing = [n - m for n, m in zip((height, width), small.shape, strict=False)]
    return np.pad(small, [*((n // 2, n - n // 2) for n in missing), (0, 0)])


model = onnxruntime.InferenceSession(sys.argv[1])
metadata = model.get_modelmeta().custom_metadata_map
labels, size = json.loads(metadata["labels"]), json.loads(metadata["clips"])
if {"fps", "per_video"} & set(size):
    sys.exit("expected a model of one clip over the whole video; see clip_frames in video/clips")
for path in sys.argv[2:]:
    length = sum(1 for _ in av.open(path).decode(video=0))
    chosen = [(2 * i + 1) * length // (2 * size["frames"]) for i in range(size["frames"])]
    every = enumerate(av.open(path).decode(video=0))
    found = {i: fitted(frame, **size) for i, frame in every if i in chosen}
    clips = np.stack([found[i] for i in chosen])
    values = model.run(None, {"clips": clips[np.newaxis]})[0][0].tolist()
    print(path, dict(zip(labels, values, strict=True)))
