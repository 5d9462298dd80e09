"""Foreground boxes of images, and bounding boxes of masks."""

from __future__ import annotations

import numpy as np
import skimage

from mist_ops.imaging.percentiles import percentiles
from mist_ops.types import Box, Image, Mask

_PERCENTILES = (33.0, 99.5)
_BINS = 256


def foreground_box(image: Image) -> Box:
    """Bounding box of the voxels above Otsu's threshold, in the axes of ``image``; the whole of a constant image.

    Intensities are first clipped to their 33rd and 99.5th percentiles, so that neither a large background nor a few
    bright voxels determine the threshold. (Otsu, 1979)
    """
    low, high = percentiles(image, _PERCENTILES).tolist()
    threshold = low if low == high else _otsu(image, low, high)
    return bounding_box(image > np.float64(threshold)) or Box.whole(image.shape)


def _otsu(image: Image, low: float, high: float) -> float:
    """Otsu's threshold of an image that is clipped to a range."""
    # Most voxels are clipped, and need no search for their bin.
    between = image[(image > low) & (image < high)].astype(np.float64)
    counts, edges = np.histogram(between, bins=_BINS, range=(low, high))
    counts[0] += np.count_nonzero(image <= low)
    counts[-1] += np.count_nonzero(image >= high)
    return float(skimage.filters.threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def bounding_box(mask: Mask) -> Box | None:
    """Bounding box of a mask; None if it is empty."""
    # Two axes share one projection: 0.2 instead of 7.5 ms for 6 million voxels.
    plane = np.any(mask, axis=0)
    spans = []
    for line in (np.any(mask, axis=(1, 2)), np.any(plane, axis=1), np.any(plane, axis=0)):
        occupied = np.flatnonzero(line)
        if not occupied.size:
            return None
        spans.append((int(occupied[0]), int(occupied[-1]) + 1))
    start, stop = zip(*spans, strict=True)
    return Box(start, stop)


def union_box(first: Box, second: Box) -> Box:
    """The smallest box that contains two boxes."""
    x, y, z = (min(pair) for pair in zip(first.start, second.start, strict=True))
    end_x, end_y, end_z = (max(pair) for pair in zip(first.stop, second.stop, strict=True))
    return Box((x, y, z), (end_x, end_y, end_z))
