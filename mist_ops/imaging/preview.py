"""Smaller versions of large images, to look at."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from mist_ops.errors import ImageError
from mist_ops.imaging.nifti import check_voxels, open_image, read_geometry, readable
from mist_ops.types import Size, Spacing


def strides(size: Size, spacing: Spacing, most: int) -> Size:
    """Distances between the voxels to keep, so that at most ``most`` are left; the finest axes are thinned first."""
    steps = [1, 1, 1]
    while math.prod(_thinned(size, steps)) > most:
        divisible = [axis for axis in range(3) if size[axis] > steps[axis]]
        finest = min(divisible, key=lambda axis: steps[axis] * spacing[axis])
        steps[finest] += 1
    x, y, z = steps
    return x, y, z


def preview(path: Path, most: int) -> bytes:
    """An image with at most ``most`` voxels as an uncompressed NIfTI file.

    Every nth voxel is kept as it is stored, the first one included, so that intensities and labels are those of the
    file, and images on one grid stay on one grid.

    Raises:
        ImageError: The file is missing, not NIfTI, not 3D, or its voxels cannot be read.
    """
    image, geometry = open_image(path), read_geometry(path)
    voxels = image.dataobj
    if not isinstance(image, nib.Nifti1Image) or not isinstance(voxels, ArrayProxy):
        raise ImageError(f"{path} is not NIfTI. Convert it.", code="image-format", file=path)
    check_voxels(image, path)
    steps = strides(geometry.size, geometry.spacing, most)
    with readable(path):
        whole = np.asanyarray(voxels.get_unscaled()).reshape(geometry.size)
    kept = np.ascontiguousarray(whole[tuple(slice(None, None, step) for step in steps)])
    small = type(image)(kept, image.affine @ np.diag((*steps, 1)), image.header)
    small.header.set_slope_inter(voxels.slope, voxels.inter)
    content: bytes = small.to_bytes()
    return content


def _thinned(size: Size, steps: list[int] | Size) -> list[int]:
    return [math.ceil(voxels / step) for voxels, step in zip(size, steps, strict=True)]
