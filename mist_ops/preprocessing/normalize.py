"""Normalization of intensities."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32

from mist_ops.config import CtNormalization
from mist_ops.errors import ConfigError
from mist_ops.imaging.percentiles import percentiles
from mist_ops.types import Image, Mask

Values: TypeAlias = Float32[np.ndarray, "*any"]

Number: TypeAlias = np.float32 | np.float64
Rules: TypeAlias = Literal["reference", "accurate"]

_PERCENTILES = (0.5, 99.5)

# Squares of smaller deviations are not normal numbers of float32.
_TINY = 1e-18


def normalize(image: Image, mask: Mask | None, ct: CtNormalization | None, rules: Rules = "accurate") -> Image:
    """Clip to a window, subtract the mean and divide by the standard deviation.

    For CT, all of them are settings, so that tissues keep their values. Otherwise, the window is the 0.5th to the
    99.5th percentile, and mean and deviation are those of the unclipped values. A constant image becomes zero.

    A few voxels far outside the window, such as one of 1e9, can make the deviation larger than the window, and all
    others equal after normalization. With accurate rules, mean and deviation are then those of the clipped values.

    Args:
        image: Intensities of one channel; HU for CT.
        mask: Voxels from which statistics are computed; all others become zero. None or an empty mask for all voxels.
        ct: Window and z-score of a CT study; None for other modalities.
        rules: Those of the resampling; ``reference`` normalizes like MIST 2.3 in any case.

    Raises:
        ConfigError: A CT study has no window or z-score, or a deviation of zero.
    """
    values = image[mask] if mask is not None and mask.any() else image
    low, high, mean, deviation = _ct_window(ct) if ct else _window(values, rules)
    if deviation == 0:
        return np.zeros_like(image)
    # In the precision of the statistics: float64 for values whose squares leave the range of float32.
    scaled = np.clip(image, low, high).astype(mean.dtype, copy=False)
    scaled -= mean
    scaled /= deviation
    if mask is not None:
        scaled *= mask
    return np.asarray(scaled, dtype=np.float32)


def _window(values: Values, rules: Rules) -> tuple[Number, Number, Number, Number]:
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = percentiles(values, _PERCENTILES)
        mean, deviation = values.mean(), values.std()
    found: tuple[Number, Number, Number, Number] = (np.float32(low), np.float32(high), mean, deviation)
    if not np.isfinite(found).all() or deviation < _TINY:
        exact = values.astype(np.float64)
        low, high = percentiles(exact, _PERCENTILES)
        found = (low, high, exact.mean(), exact.std())
    low, high, _, deviation = found
    if rules == "accurate" and is_dominated(low, high, deviation):
        clipped = np.clip(values.astype(np.float64), low, high)
        found = (low, high, clipped.mean(), clipped.std())
    return found


def is_dominated(low: Number, high: Number, deviation: Number) -> bool:
    """Whether so few voxels lie so far outside a window that the others are equal relative to the deviation.

    Without such voxels, the deviation is at most half of the window.
    """
    return bool(deviation > high - low > 0)


def _ct_window(ct: CtNormalization) -> tuple[Number, Number, Number, Number]:
    numbers = (ct.window_min, ct.window_max, ct.z_score_mean, ct.z_score_std)
    if None in numbers or not ct.z_score_std:
        raise ConfigError(
            "'preprocessing.ct_normalization' is incomplete. CT needs a window, a mean and a standard deviation above "
            "0; run the analysis again on cases whose masks are not empty.",
            code="ct-normalization-missing",
            field="preprocessing.ct_normalization",
            found=numbers,
        )
    low, high, mean, deviation = (np.float32(number) for number in numbers if number is not None)
    return low, high, mean, deviation
