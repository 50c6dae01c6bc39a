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


def fitted(frame, height, width, fit):
    choose = min if fit == "letterbox" else max
    scale = choose(Fraction(height, frame.height), Fraction(width, frame.width))
    rows, columns = (max(1, round(side * scale)) for side in (frame.height, frame.width))
    known = frame.colorspace not in (Colorspace.DEFAULT, 2)
    space = frame.colorspace if known else Colorspace.ITU601
    small = frame.reformat(columns, rows, "rgb24", space, interpolation=SCALING).to_ndarray()
    top, left = max(0, rows - height) // 2, max(0, columns - width) // 2
    small = small[top : top + height, left : left + width]
    missing = height - small.shape[0], width - small.shape[1]
    return np.pad(small, [*((n // 2, n - n // 2) for n in missing), (0, 0)])


model = onnxruntime.InferenceSession(sys.argv[1])
metadata = model.get_modelmeta().custom_metadata_map
labels, size = json.loads(metadata["labels"]), json.loads(metadata["clips"])
for path in sys.argv[2:]:
    length = sum(1 for _ in av.open(path).decode(video=0))
    chosen = [(2 * i + 1) * length // (2 * size["frames"]) for i in range(size["frames"])]
    shape = size["height"], size["width"], size["fit"]
    every = av.open(path).decode(video=0)
    found = {i: fitted(frame, *shape) for i, frame in enumerate(every) if i in chosen}
    clips = np.stack([found[i] for i in chosen])[np.newaxis]
    values = model.run(None, {"clips": clips})[0][0].tolist()
    print(path, dict(zip(labels, values, strict=True)))
