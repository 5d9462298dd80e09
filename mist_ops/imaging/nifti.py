"""NIfTI files to arrays and back. The only module that reads or writes a medical image.

A file that cannot be used is refused with an ``ImageError`` that names it, from its header where that tells enough.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Num
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from mist_ops.errors import ImageError
from mist_ops.files import atomic
from mist_ops.imaging.geometry import Geometry
from mist_ops.types import Image, LabelMap, Size

MAX_VOXELS = 2**31
"""Larger than any scan; a header that claims more is damaged."""

MAX_LABEL = 65535

# Cosine of the angle between two axes: 0.6 degrees. Real tilts (gantry) are far above, rounding errors far below.
_SHEAR = 1e-2

# A small file is read at once, as its header alone costs as much. Of a larger one, which may unpack to a thousand times
# its size, the header is looked at first.
_LARGE = 2**20

_NIFTI_2 = (struct.pack("<i", 540), struct.pack(">i", 540))


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from its header alone.

    Raises:
        ImageError: No such file, no image, not three-dimensional, no usable affine.
    """
    return _geometry(open_image(path), path)


def read_image(path: Path) -> tuple[Image, Geometry]:
    """Intensities as float32, with the header's slope and intercept applied, in the file's own orientation.

    Raises:
        ImageError: As ``read_geometry``; damaged or complex voxels, or a voxel that is not finite.
    """
    raw, geometry = _read(path)
    image = np.ascontiguousarray(raw, dtype=np.float32)
    if not np.isfinite(image).all():
        count = int(np.count_nonzero(~np.isfinite(image)))
        raise ImageError(f"{path} holds {count} NaN or infinite voxels. Intensities must be finite; export it anew.")
    return image, geometry


def read_labels(path: Path) -> tuple[LabelMap, Geometry]:
    """Labels as the smallest unsigned integers that hold them, in the file's own orientation.

    Raises:
        ImageError: As ``read_geometry``; a value that is fractional, negative, not finite or above 65535.
    """
    raw, geometry = _read(path)
    low, high = raw.min(), raw.max()
    # NaN fails every comparison, and so lands here too.
    if not (low >= 0 and high <= MAX_LABEL):
        raise ImageError(f"{path} holds values from {low:g} to {high:g}. Labels must lie between 0 and {MAX_LABEL}.")
    labels = np.ascontiguousarray(raw, dtype=np.min_scalar_type(int(high)))
    if not np.issubdtype(raw.dtype, np.integer) and not np.array_equal(labels, raw):
        example = raw[labels != raw].flat[0]
        raise ImageError(f"{path} holds the value {example:g}. Labels must be whole; was the mask interpolated?")
    return labels, geometry


def write_image(path: Path, image: Image, geometry: Geometry) -> None:
    """Write float32 intensities, atomically."""
    _write(path, image, geometry)


def write_labels(path: Path, labels: LabelMap, geometry: Geometry) -> None:
    """Write labels as uint8, or as uint16 where one is above 255, atomically."""
    highest = int(labels.max(initial=0))
    if labels.min(initial=0) < 0 or highest > MAX_LABEL:
        raise ValueError(f"labels must lie between 0 and {MAX_LABEL}")
    _write(path, labels.astype(np.min_scalar_type(highest)), geometry)


def count_channels(path: Path) -> int:
    """Volumes in a file: 1 for a three-dimensional one, the size of the fourth axis otherwise. Reads the header.

    Raises:
        ImageError: No such file, no image, neither three nor four dimensions.
    """
    shape = open_image(path).shape
    if len(shape) not in (3, 4):
        raise ImageError(f"{path} has the size {shape}. It must have three dimensions, or four with its channels.")
    return int(shape[3]) if len(shape) == 4 else 1


def split_channels(path: Path, channels: Sequence[Path]) -> None:
    """Write each volume of a four-dimensional NIfTI file to a path of its own, atomically.

    Voxels stay as stored, in type and scaling, and so does the place of the volumes in the patient.

    Raises:
        ImageError: As ``count_channels``, or the voxels cannot be read.
    """
    image = open_image(path)
    voxels = image.dataobj
    if not isinstance(voxels, ArrayProxy):
        raise ImageError(f"{path} is a {type(image).__name__}, whose channels cannot be split. Save it as NIfTI.")
    with readable(path):
        stored = voxels.get_unscaled()
    for index, channel in enumerate(channels):
        volume = nib.Nifti1Image(stored[..., index], image.affine, image.header)
        volume.header.set_slope_inter(voxels.slope, voxels.inter)
        with atomic(channel) as temporary:
            nib.save(volume, temporary)


def _write(path: Path, array: Num[np.ndarray, "x y z"], geometry: Geometry) -> None:
    if array.shape != geometry.size:
        raise ValueError(f"an array of {array.shape} does not fit a grid of {geometry.size}")
    image = nib.Nifti1Image(array, geometry.ras_affine)
    affine_header(image, geometry)
    with atomic(path) as temporary:
        nib.save(image, temporary)


def affine_header(image: nib.Nifti1Image, geometry: Geometry) -> None:
    """Put a grid into a header, with code 1 in both forms: other programs read one or the other."""
    image.set_sform(geometry.ras_affine, code=1)
    image.set_qform(geometry.ras_affine, code=1)
    image.header.set_xyzt_units("mm")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell whatever goes wrong in reading a file as an ``ImageError`` that names it."""
    try:
        yield
    except ImageError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, ArithmeticError, nib.filebasedimages.ImageFileError) as error:
        raise ImageError(f"{path} cannot be read as a NIfTI image: {str(error).rstrip('.')}.") from error


def open_image(path: Path) -> SpatialImage:
    """A file whose header is read and whose voxels are not.

    Raises:
        ImageError: No such file, or no image.
    """
    if not path.is_file():
        raise ImageError(f"There is no file {path}.")
    with readable(path):
        image = nib.load(path)
    if not isinstance(image, SpatialImage):
        raise ImageError(f"{path} is no volume but a {type(image).__name__}.")
    return image


def _read(path: Path) -> tuple[Num[np.ndarray, "x y z"], Geometry]:
    image = _open_whole(path)
    geometry = _geometry(image, path)
    with readable(path):
        raw: np.ndarray[Any, np.dtype[Any]] = np.asanyarray(image.dataobj).reshape(geometry.size)
    if not np.issubdtype(raw.dtype, np.integer) and not np.issubdtype(raw.dtype, np.floating):
        raise ImageError(f"{path} holds voxels of type {raw.dtype}. A voxel must be one real number.")
    return raw, geometry


def _open_whole(path: Path) -> SpatialImage:
    """The image, read to the checksum at the end of a compressed file, which nibabel leaves unread."""
    if not path.name.endswith(".nii.gz") or not path.is_file():
        return open_image(path)
    if path.stat().st_size > _LARGE:
        _geometry(open_image(path), path)
    with readable(path):
        voxels = gzip.decompress(path.read_bytes())
        version = nib.Nifti2Image if voxels[:4] in _NIFTI_2 else nib.Nifti1Image
        return version.from_bytes(voxels)


def _geometry(image: SpatialImage, path: Path) -> Geometry:
    return grid_of(image, _size(image, path), path)


def grid_of(image: SpatialImage, size: Size, path: Path) -> Geometry:
    """The grid of an image's first three axes; an ``ImageError`` if it is none."""
    with readable(path):
        geometry = Geometry.from_ras_affine(image.affine, size)
    if np.abs(geometry.axes.T @ geometry.axes - np.eye(3)).max() > _SHEAR:
        raise ImageError(f"{path} has a sheared grid (a tilted gantry?). Axes must be perpendicular; resample it.")
    x, y, z = (float(zoom) for zoom in image.header.get_zooms()[:3])
    # The affine of an oblique image carries rounding errors that its stated spacing does not.
    return replace(geometry, spacing=(x, y, z)) if np.allclose((x, y, z), geometry.spacing, rtol=1e-4) else geometry


def _size(image: SpatialImage, path: Path) -> Size:
    shape = tuple(int(voxels) for voxels in image.shape)
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        raise ImageError(f"{path} has the size {shape}. An image must have three dimensions; split it first.")
    return checked_size(shape, path)


def checked_size(shape: tuple[int, ...], path: Path) -> Size:
    """The first three axes of a shape; an ``ImageError`` if no scan is that large."""
    x, y, z = shape[:3]
    if min(x, y, z) < 1 or x * y * z > MAX_VOXELS:
        raise ImageError(f"{path} claims a size of {shape} voxels, which no scan has. The file is damaged.")
    return x, y, z
