"""Normalization of intensities."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from mist_ops.config import CtNormalization
from mist_ops.errors import ConfigError
from mist_ops.types import Image, Mask

Values: TypeAlias = Float32[np.ndarray, "*any"]

_PERCENTILES = (0.5, 99.5)


def normalize(image: Image, mask: Mask | None, ct: CtNormalization | None) -> Image:
    """Clip to a window, subtract the mean and divide by the standard deviation.

    For CT, all of them are settings, so that tissues keep their values. Otherwise, the window is the 0.5th to the
    99.5th percentile, and mean and deviation are those of the unclipped values. A constant image becomes zero.

    Args:
        image: Intensities of one channel; HU for CT.
        mask: Voxels from which statistics are computed; all others become zero. None or an empty mask for all voxels.
        ct: Window and z-score of a CT study; None for other modalities.

    Raises:
        ConfigError: A CT study has no window or z-score, or a deviation of zero.
    """
    values = image[mask] if mask is not None and mask.any() else image
    low, high, mean, deviation = _ct_window(ct) if ct else _window(values)
    if deviation == 0:
        return np.zeros_like(image)
    scaled: Image = np.clip(image, low, high)
    scaled -= mean
    scaled /= deviation
    if mask is not None:
        scaled *= mask
    return scaled


def _window(values: Values) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    low, high = np.percentile(values, _PERCENTILES)
    return np.float32(low), np.float32(high), values.mean(), values.std()


def _ct_window(ct: CtNormalization) -> tuple[np.float32, np.float32, np.float32, np.float32]:
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
