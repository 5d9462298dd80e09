"""NIfTI files to arrays and back. The only module that reads or writes a medical image.

A file that cannot be used is refused with an ``ImageError`` that names it, from its header where that tells enough.
"""

from __future__ import annotations

import gzip
import io
import itertools
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
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from mist_ops.errors import ImageError
from mist_ops.files import atomic
from mist_ops.imaging.geometry import Geometry
from mist_ops.machine import installed_memory
from mist_ops.types import Image, LabelMap, Size

MAX_VOXELS = 2**31
"""Larger than any scan; a header that claims more is damaged."""

MAX_LABEL = 65535

# Cosine of the angle between two axes: 0.6 degrees. Real tilts (gantry) are far above, rounding errors far below.
_SHEAR = 1e-2

_NIFTI_2 = (struct.pack("<i", 540), struct.pack(">i", 540))

# Bytes that a byte of a gzip file becomes at most.
_MOST_PACKED = 1032

# Bytes that may follow the voxels, as some writers pad their files.
_PADDING = 2**20


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from its header alone.

    Raises:
        ImageError: No such file, no image, not three-dimensional, no usable affine.
    """
    return _geometry(open_image(path), path)


def form_gap(path: Path) -> float:
    """How far apart, in mm, the two forms of a header place a corner of the image; 0 if one of them is not set.

    The sform is the one that counts here, as in nibabel; other programs go by the qform.

    Raises:
        ImageError: As ``read_geometry``.
    """
    image = open_image(path)
    if not isinstance(image.header, nib.Nifti1Header):
        return 0.0
    try:
        (sform, _), (qform, _) = image.header.get_sform(coded=True), image.header.get_qform(coded=True)
    except ValueError:  # no rotation, which nobody can go by
        return 0.0
    if sform is None or qform is None:
        return 0.0
    corners = [[*corner, 1] for corner in itertools.product(*((0, voxels - 1) for voxels in image.shape[:3]))]
    gap = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    return gap if math.isfinite(gap) else 0.0


def read_image(path: Path) -> tuple[Image, Geometry]:
    """Intensities as float32, with the header's slope and intercept applied, in the file's own orientation.

    Raises:
        ImageError: As ``read_geometry``; damaged or complex voxels, or a voxel that is not finite.
    """
    raw, geometry = _read(path)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and told of
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
        raise ImageError(
            f"{path} holds values from {low:g} to {high:g}. Labels must lie between 0 and {MAX_LABEL}; correct it."
        )
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
    checked_size(image.shape, path)
    if not isinstance(voxels, ArrayProxy):
        raise ImageError(f"{path} is a {type(image).__name__}, whose channels cannot be split. Save it as NIfTI.")
    check_voxels(image, path)
    with readable(path):
        whole: Any = (_unpacked(path, image) if _is_packed(path) else image).dataobj
        stored = whole.get_unscaled()
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


_UNREADABLE = (
    *(OSError, ValueError, EOFError, ArithmeticError, MemoryError, zlib.error),
    *(nib.filebasedimages.ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError),
)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell whatever goes wrong in reading a file as an ``ImageError`` that names it."""
    try:
        yield
    except ImageError:
        raise
    except _UNREADABLE as error:
        raise ImageError(
            f"{path} cannot be read as a NIfTI image: {str(error).rstrip('.')}. Copy or export it anew."
        ) from error


def open_image(path: Path) -> SpatialImage:
    """A file whose header is read and whose voxels are not.

    Raises:
        ImageError: No such file, or no image.
    """
    if not path.is_file():
        raise ImageError(f"There is no file {path}. Restore it, or correct its path.")
    if not path.stat().st_size:
        raise ImageError(f"{path} is empty. Copy or export it anew.")
    with readable(path), np.errstate(all="ignore"):  # an affine that is not finite is told of by ``grid_of``
        image = _nifti(str(path)) if _is_nifti(path) else nib.load(path)
    if not isinstance(image, SpatialImage):
        raise ImageError(f"{path} is no volume but a {type(image).__name__}.")
    return image


def check_voxels(image: SpatialImage, path: Path) -> None:
    """Check what a header tells of the voxels, before memory is taken for them.

    Raises:
        ImageError: They are no real numbers, or more than the file or this machine can hold.
    """
    stored, claimed = image.get_data_dtype(), _claimed(image)
    if not np.issubdtype(stored, np.integer) and not np.issubdtype(stored, np.floating):
        raise ImageError(f"{path} holds voxels of type {stored}. A voxel must be one real number; convert it first.")
    held = path.stat().st_size * (_MOST_PACKED if path.suffix.lower() == ".gz" else 1)
    if _is_nifti(path) and claimed > held:
        raise ImageError(
            f"{path} tells of {claimed} bytes, and cannot hold more than {held}. It is cut off or damaged; copy or "
            "export it anew."
        )
    memory = installed_memory()
    if claimed > memory:
        raise ImageError(
            f"{path} holds {claimed / 2**30:.1f} GiB of voxels, and this machine has {memory / 2**30:.1f} GiB of "
            "memory. Crop or resample it, or use a larger machine."
        )


def _claimed(image: SpatialImage) -> int:
    """Bytes to the end of the voxels, as the header has them."""
    before = image.dataobj.offset if isinstance(image.dataobj, ArrayProxy) else 0
    return int(before) + math.prod(image.shape) * image.get_data_dtype().itemsize


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".nii.gz")


def _nifti(source: str | io.BytesIO) -> nib.Nifti1Image:
    """An image without the extensions of its header, which are not needed and say themselves how long they are."""
    with ImageOpener(source) as stream:
        start = stream.read(len(_NIFTI_2[0]))
        version: type[nib.Nifti1Header] = nib.Nifti2Header if start in _NIFTI_2 else nib.Nifti1Header
        header = version(start + stream.read(version.sizeof_hdr - len(start)))
    kind: type[nib.Nifti1Image] = nib.Nifti2Image if version is nib.Nifti2Header else nib.Nifti1Image
    return kind(ArrayProxy(source, header), header.get_best_affine(), header)


def _read(path: Path) -> tuple[Num[np.ndarray, "x y z"], Geometry]:
    image = open_image(path)
    geometry = _geometry(image, path)
    check_voxels(image, path)
    with readable(path), np.errstate(over="ignore", invalid="ignore"):
        voxels = _unpacked(path, image).dataobj if _is_packed(path) else image.dataobj
        raw: np.ndarray[Any, np.dtype[Any]] = np.asanyarray(voxels).reshape(geometry.size)
    return raw, geometry


def _unpacked(path: Path, image: SpatialImage) -> nib.Nifti1Image:
    """The image in memory, read to the checksum at the end of its file, which nibabel leaves unread."""
    most = _claimed(image) + _PADDING
    with gzip.open(path) as stream:
        content = stream.read(most)
        if stream.read(1):
            raise ValueError(f"it unpacks to more than the {most} bytes that its header tells of")
    return _nifti(io.BytesIO(content))


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
        advice = "stack its slices" if len(shape) < 3 else "split it first"
        raise ImageError(f"{path} has the size {shape}. An image must have three dimensions; {advice}.")
    return checked_size(shape, path)


def checked_size(shape: tuple[int, ...], path: Path) -> Size:
    """The first three axes of a shape; an ``ImageError`` if no scan is that large."""
    x, y, z = shape[:3]
    if min(x, y, z) < 1 or x * y * z > MAX_VOXELS:
        raise ImageError(f"{path} claims a size of {shape} voxels, which no scan has. Copy or export it anew.")
    return x, y, z
