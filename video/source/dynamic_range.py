"""Pictures of high dynamic range, in the values that a picture of standard range has.

Light up to the reference white of 203 cd/m² (ITU-R BT.2408) keeps its place on a display of
BT.1886, and all that is brighter is white. Integers and tables only, so that no CPU changes a byte.
"""

import functools
import math

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

_WHITE_CD_PER_M2 = 203.0
_ONE = 1 << 20  # the reference white, in the integers for light
_FACTOR_BITS = 16

# From the primaries of BT.2020 to those of BT.709, for light (ITU-R BT.2087).
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
_LUMINANCE_BT2020 = np.array([0.2627, 0.6780, 0.0593])


def has_high_range(frame: av.VideoFrame) -> bool:
    return frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def standard_range(picture: NDArray[np.uint16], frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return 8-bit RGB of 16-bit RGB that `frame` holds as PQ or HLG (ITU-R BT.2100)."""
    is_hlg = frame.color_trc == ColorTrc.ARIB_STD_B67
    light = (_hlg_light() if is_hlg else _pq_light())[picture]
    if is_hlg:
        luminance = _product(light, _LUMINANCE_BT2020[np.newaxis])
        light = light * _hlg_gains()[luminance >> 4] >> _FACTOR_BITS
    if frame.color_primaries == ColorPrimaries.BT2020:
        light = _product(light, _TO_BT709)
    return np.take(_levels(), light.clip(0, _ONE))


def _product(light: NDArray[np.int64], matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    factors = np.round(matrix * (1 << _FACTOR_BITS)).astype(np.int64)
    return light @ factors.T >> _FACTOR_BITS


def _table(values: list[float]) -> NDArray[np.int64]:
    return np.array([round(value) for value in values], np.int64)


@functools.cache
def _pq_light() -> NDArray[np.int64]:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    powers = [math.pow(value / 65535, 1 / m2) for value in range(65536)]
    light = [math.pow(max(power - c1, 0) / (c2 - c3 * power), 1 / m1) for power in powers]
    return _table([10_000 / _WHITE_CD_PER_M2 * _ONE * value for value in light])


@functools.cache
def _hlg_light() -> NDArray[np.int64]:
    """Return the light of the scene, 1.0 at most."""
    a, b = 0.17883277, 0.28466892
    c = 0.5 - a * math.log(4 * a)
    signals = [value / 65535 for value in range(65536)]
    return _table(
        [_ONE * (s * s / 3 if s <= 0.5 else (math.exp((s - c) / a) + b) / 12) for s in signals]
    )


@functools.cache
def _hlg_gains() -> NDArray[np.int64]:
    """Return how much brighter a display of 1,000 cd/m² shows light, by its luminance."""
    peak = 1000 / _WHITE_CD_PER_M2 * (1 << _FACTOR_BITS)
    return _table([peak * math.pow(value / (_ONE >> 4), 0.2) for value in range((_ONE >> 4) + 1)])


@functools.cache
def _levels() -> NDArray[np.uint8]:
    """Return the value of a display with a gamma of 2.4 (ITU-R BT.1886) for light up to white."""
    bounds = [_ONE * math.pow((level - 0.5) / 255, 2.4) for level in range(1, 256)]
    return np.searchsorted(bounds, np.arange(_ONE + 1), side="right").astype(np.uint8)
