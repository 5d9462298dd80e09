"""Reading and writing of NIfTI files. The only module that reads or writes medical images.

A file that cannot be used raises an ``ImageError`` that names it, before its voxels are read if the header suffices.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from jaxtyping import Num
from nibabel.arrayproxy import ArrayProxy
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from mist_ops.errors import ImageError, counted
from mist_ops.files import atomic, stamp
from mist_ops.imaging.formats import PAIRS, check_format
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.header import GridHeader, in_mm, lengths_in_mm, units_of
from mist_ops.machine import installed_memory
from mist_ops.types import Box, Image, LabelMap, Size, by

MAX_VOXELS = 2**31
"""More than any scan has; a header with more is corrupted."""

MAX_LABEL = 65535

# Axis in voxels that fits the header of NIfTI-1.
_LONGEST = 32767

# Relative to a label, and at most: 255 with a slope of 1/255 is 1.00000006, and with the slope 0.0039216 1.000008.
_OFF_BY_ROUNDING, _OFF_AT_MOST = 1e-4, 0.1

# Of nibabel's notices on what it corrects in a header, which do not name the file. It is not registered: Dagster's
# logging.config enables every logger that is.
_SILENT = logging.Logger("nibabel", logging.CRITICAL + 1)

# Cosine of the angle between two axes (0.6 degrees off): gantry tilts are far above, rounding errors far below.
_SHEAR = 1e-2

_NIFTI_2 = (struct.pack("<i", 540), struct.pack(">i", 540))

# Highest compression ratio of gzip.
_MOST_PACKED = 1032

# Of igzip, whose levels are 0 to 3: five times as fast as level 1 of zlib, and masks take less than half the space.
_LEVEL = 1

# Columns that are transposed at once, so that their cache lines are used again before they are evicted.
_COLUMNS = 16

# Headers that are kept: a case has at most this many files.
_OPENED = 32

# Preprocessing of 40 hippocampi and of scans of 240x240x155 voxels, rounded.
_SECONDS_PER_FILE, _SECONDS_PER_VOXEL = 2e-3, 1e-8

# Bytes that may follow the voxels: some writers pad their files.
_PADDING = 2**20


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from its header alone.

    Raises:
        ImageError: The file is missing, not an image, not 3D, or has an unusable affine.
    """
    image = open_image(path)
    return _grid(path, *stamp(path)) if _is_nifti(path) else grid_of(image, _size(image, path), path)


def read_image(path: Path, box: Box | None = None) -> tuple[Image, Geometry]:
    """Read intensities as float32 in the orientation of the file, with the header's slope and intercept applied.

    Args:
        path: The file.
        box: The part to return, a view in a larger array; all by default.

    Returns:
        Intensities, and the grid of the whole file.

    Raises:
        ImageError: As ``read_geometry``, or voxels are corrupted, complex or not finite, be it outside the box.
    """
    raw, geometry = _read(path)
    if not np.issubdtype(raw.dtype, np.integer):
        with np.errstate(over="ignore"):  # values beyond float32 become infinite
            raw = raw.astype(np.float32, copy=False)
        if not np.isfinite(raw).all():
            count = int(np.count_nonzero(~np.isfinite(raw)))
            raise ImageError(
                f"{path} holds {counted(count, 'NaN or infinite voxel')}. Intensities must be finite; export it again.",
                code="image-not-finite",
                file=path,
                found=count,
            )
    return _in_c_order(raw, np.dtype(np.float32), box), geometry


def read_labels(path: Path) -> tuple[LabelMap, Geometry]:
    """Read labels as the smallest sufficient unsigned integers, in the orientation of the file.

    Raises:
        ImageError: As ``read_geometry``, or a value is fractional, negative, not finite or above 65535.
    """
    raw, geometry = _read(path)
    low, high = float(raw.min()), float(raw.max())
    # NaN fails every comparison.
    if not (low > -0.5 and high < MAX_LABEL + 0.5):
        raise ImageError(
            f"{path} holds values from {low:.7g} to {high:.7g}. Labels must be between 0 and {MAX_LABEL}; correct it.",
            code="labels-out-of-range",
            file=path,
            found=(low, high),
            expected=(0, MAX_LABEL),
        )
    smallest = np.min_scalar_type(round(high))
    if np.issubdtype(raw.dtype, np.integer):
        return _in_c_order(raw, smallest), geometry
    labels: LabelMap = np.empty_like(raw, dtype=smallest)
    np.rint(raw, out=labels, casting="unsafe")
    if not np.array_equal(labels, raw):
        _check_whole(raw, labels, path)
    return _in_c_order(labels, smallest), geometry


def _in_c_order(
    raw: Num[np.ndarray, "x y z"], dtype: np.dtype[Any], box: Box | None = None
) -> Num[np.ndarray, "new_x new_y new_z"]:
    """Voxels in C order, from files in Fortran order; those of a box are a view in an array of all.

    The rest of that array is never touched, so it takes no memory. The strides of the view determine the order in which
    NumPy sums, and thereby the last digits of normalized intensities.
    """
    slices = (box or Box.whole(raw.shape)).slices
    if raw.dtype == dtype and raw.flags.c_contiguous:
        return raw[slices]
    part, source = np.empty(raw.shape, dtype)[slices], raw[slices]
    for start in range(0, source.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        part[:, columns] = source[:, columns]
    return part


def _check_whole(raw: Num[np.ndarray, "x y z"], labels: LabelMap, path: Path) -> None:
    """Refuse values that are further from the nearest label than a slope and floats can be off by rounding."""
    tolerance = np.minimum(_OFF_BY_ROUNDING * np.maximum(labels, 1), _OFF_AT_MOST)
    wrong = np.abs(raw - labels) > tolerance
    count = int(np.count_nonzero(wrong))
    if count:
        example = float(raw[wrong][0])
        raise ImageError(
            f"{path} holds {counted(count, 'voxel')} with a value that is not an integer, such as {example:.7g}. "
            "Labels must be integers. Was the mask resampled with interpolation?",
            code="labels-not-integer",
            file=path,
            found=example,
        )


def write_image(path: Path, image: Image, geometry: Geometry) -> None:
    """Write float32 intensities, atomically."""
    _write(path, image, geometry)


def write_labels(path: Path, labels: LabelMap, geometry: Geometry) -> None:
    """Write labels as uint8, or as uint16 if one is above 255, atomically."""
    highest = int(labels.max(initial=0))
    if labels.min(initial=0) < 0 or highest > MAX_LABEL:
        raise ValueError(f"labels must be between 0 and {MAX_LABEL}")
    _write(path, labels.astype(np.min_scalar_type(highest)), geometry)


def seconds_for(files: Sequence[Path]) -> float:
    """Rough time to read and process files on the same grid, from the header of the first; 0 if that is invalid."""
    try:
        voxels = math.prod(read_geometry(files[0]).size)
    except ImageError:
        return 0.0
    return len(files) * (_SECONDS_PER_FILE + _SECONDS_PER_VOXEL * voxels)


def count_channels(path: Path) -> int:
    """Number of volumes in a 3D or 4D file, from its header alone.

    Raises:
        ImageError: The file is missing, not an image, or has neither three nor four dimensions.
    """
    shape = open_image(path).shape
    if len(shape) not in (3, 4):
        raise ImageError(
            f"{path} has {counted(len(shape), 'dimension')}. It must have three, or four including channels.",
            code="image-not-3d",
            file=path,
            found=shape,
        )
    return int(shape[3]) if len(shape) == 4 else 1


def split_channels(path: Path, channels: Sequence[Path]) -> None:
    """Write each volume of a 4D NIfTI file to its own path, atomically; data type, scaling and geometry are kept.

    Raises:
        ImageError: As ``count_channels``, or the voxels cannot be read.
    """
    image = open_image(path)
    voxels = image.dataobj
    checked_size(image.shape, path)
    if not isinstance(voxels, ArrayProxy):
        raise ImageError(
            f"{path} is a {type(image).__name__}, whose channels cannot be split. Save it as NIfTI.",
            code="image-format",
            file=path,
            found=type(image).__name__,
        )
    check_voxels(image, path)
    with readable(path):
        whole: Any = _unpacked(path, image) if _is_packed(path) else voxels
        stored = whole.get_unscaled()
    for index, channel in enumerate(channels):
        volume = nib.Nifti1Image(stored[..., index], image.affine, image.header)
        volume.header.set_slope_inter(voxels.slope, voxels.inter)
        with atomic(channel) as temporary:
            save(volume, temporary)


def _write(path: Path, array: Num[np.ndarray, "x y z"], geometry: Geometry) -> None:
    if array.shape != geometry.size:
        raise ValueError(f"an array of shape {array.shape} does not fit a grid of {geometry.size}")
    with atomic(path) as temporary:
        save(on_grid(array, geometry), temporary)


def save(image: nib.Nifti1Image, path: Path) -> None:
    """Write an image to a path, compressed if its name ends in .gz; the same image gives the same bytes."""
    if not _is_packed(path):
        nib.save(image, path)
        return
    with path.open("wb") as file, compressed(file) as stream:
        image.to_stream(stream)


def compressed(file: IO[bytes]) -> igzip.GzipFile:
    """Compress what is written to a file as gzip, without a time, so that equal contents give equal bytes."""
    return igzip.GzipFile("", "wb", _LEVEL, file, mtime=0)


def on_grid(array: Num[np.ndarray, "x y z *values"], geometry: Geometry) -> nib.Nifti1Image:
    """An image of voxels on a grid, with the header fields of the file that the grid is from.

    Without such fields, the grid is stored as sform and qform with code 1, since programs read one or the other.
    """
    kind: type[nib.Nifti1Image] = nib.Nifti1Image if max(array.shape) <= _LONGEST else nib.Nifti2Image
    image = kind(array, None)
    if geometry.header is not None and geometry.is_stated():
        geometry.header.store(image.header)
        return image
    image.header.set_zooms((*geometry.spacing, *(1.0 for _ in array.shape[3:])))
    image.header.set_sform(geometry.ras_affine, code=1)
    image.header.set_qform(geometry.ras_affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


_UNREADABLE = (
    *(OSError, ValueError, EOFError, ArithmeticError, MemoryError, zlib.error),
    cast(type[Exception], isal_zlib.error),  # an instance in its stubs
    *(nib.filebasedimages.ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError),
)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise errors of reading a file as an ``ImageError`` that names it."""
    try:
        yield
    except ImageError:
        raise
    except _UNREADABLE as error:
        raise ImageError(
            f"{path} cannot be read as a NIfTI image. Copy or export it again. ({str(error).rstrip('.')})",
            code="image-unreadable",
            file=path,
        ) from error


def open_image(path: Path) -> SpatialImage:
    """Open an image: its header is read, its voxels are not.

    Raises:
        ImageError: The file is missing or not an image.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist. Restore it, or correct its path.", code="image-missing", file=path)
    if not path.stat().st_size:
        raise ImageError(f"{path} is empty. Copy or export it again.", code="image-unreadable", file=path)
    if _is_nifti(path):
        return _opened(path, *stamp(path))
    check_format(path)
    image: Any
    with readable(path), np.errstate(all="ignore"), LoggingOutputSuppressor():  # its notices do not name the file
        image = _pair(path) if path.name.lower().endswith(PAIRS) else nib.load(path)
    if not isinstance(image, SpatialImage):
        raise ImageError(
            f"{path} is a {type(image).__name__} and not a volume. Save it as NIfTI.",
            code="image-format",
            file=path,
            found=type(image).__name__,
        )
    return image


@lru_cache(maxsize=_OPENED)
def _opened(path: Path, *_: int) -> nib.Nifti1Image:
    """Read a header; a case's are read several times, and whoever replaces a file gives it another stamp."""
    check_format(path)
    with readable(path), np.errstate(all="ignore"):  # ``grid_of`` refuses affines that are not finite
        return _nifti(path)


def check_voxels(image: SpatialImage, path: Path) -> None:
    """Check type and number of voxels in the header, before memory is allocated for them.

    Raises:
        ImageError: They are not real numbers, or more than the file or the memory can hold.
    """
    stored, claimed = image.get_data_dtype(), _claimed(image)
    if not np.issubdtype(stored, np.integer) and not np.issubdtype(stored, np.floating):
        raise ImageError(
            f"{path} holds voxels of type {stored}. A voxel must be one real number; convert it first.",
            code="voxel-type",
            file=path,
            found=str(stored),
        )
    held = path.stat().st_size * (_MOST_PACKED if path.suffix.lower() == ".gz" else 1)
    if _is_nifti(path) and claimed > held:
        raise ImageError(
            f"{path} is truncated or corrupted: its header claims {claimed:,} bytes, and the file can hold at most "
            f"{held:,}. Copy or export it again.",
            code="image-truncated",
            file=path,
            found=held,
            expected=claimed,
        )
    memory = installed_memory()
    if claimed > memory:
        raise ImageError(
            f"{path} holds {claimed / 2**30:.1f} GiB of voxels, and this machine has {memory / 2**30:.1f} GiB of "
            "memory. Crop or resample it, or use a larger machine.",
            code="image-too-large",
            file=path,
            found=claimed,
            expected=memory,
        )


def _claimed(image: SpatialImage) -> int:
    """Bytes up to the end of the voxels, according to the header."""
    before = image.dataobj.offset if isinstance(image.dataobj, ArrayProxy) else 0
    return int(before) + math.prod(image.shape) * image.get_data_dtype().itemsize


def _pair(path: Path) -> Any:
    """An image pair (``.img`` and ``.hdr``); either file may be compressed."""
    stem = path.with_name(path.name.removesuffix(".gz")).with_suffix("")
    header, voxels = _part(stem, ".hdr", path), _part(stem, ".img", path)
    with ImageOpener(str(header)) as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (nib.Nifti1Pair, nib.Nifti2Pair):
        if kind.header_class.may_contain_header(start):
            return kind.from_file_map({"header": nib.FileHolder(str(header)), "image": nib.FileHolder(str(voxels))})
    return nib.load(voxels)


def _part(stem: Path, ending: str, given: Path) -> Path:
    named = [stem.with_name(f"{stem.name}{ending}{packed}") for packed in ("", ".gz")]
    found = [given] if given in named else [path for path in named if path.is_file()]
    if not found:
        raise ImageError(
            f"{named[0]} does not exist, which belongs to {given.name}. Restore it.",
            code="image-missing",
            file=named[0],
        )
    return found[0]


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".nii.gz")


def _nifti(path: Path) -> nib.Nifti1Image:
    """An image without its header extensions, which are not needed and may claim any length."""
    with ImageOpener(str(path)) as stream:
        start = stream.read(len(_NIFTI_2[0]))
        version: type[nib.Nifti1Header] = nib.Nifti2Header if start in _NIFTI_2 else nib.Nifti1Header
        header = version(start + stream.read(version.sizeof_hdr - len(start)), check=False)
    header.check_fix(logger=_SILENT)
    kind: type[nib.Nifti1Image] = nib.Nifti2Image if version is nib.Nifti2Header else nib.Nifti1Image
    return kind(ArrayProxy(str(path), header), header.get_best_affine(), header)


def _read(path: Path) -> tuple[Num[np.ndarray, "x y z"], Geometry]:
    image, geometry = open_image(path), read_geometry(path)
    check_voxels(image, path)
    with readable(path), np.errstate(over="ignore", invalid="ignore"):
        voxels = _unpacked(path, image) if _is_packed(path) else image.dataobj
        raw: np.ndarray[Any, np.dtype[Any]] = np.asanyarray(voxels).reshape(geometry.size)
    return raw, geometry


def _unpacked(path: Path, image: SpatialImage) -> ArrayProxy:
    """Read the voxels of an image into memory, up to the checksum at the end, which nibabel does not verify."""
    most = _claimed(image) + _PADDING
    with igzip.open(path) as stream:
        content = stream.read(most)
        if stream.read(1):
            raise ValueError(f"it decompresses to more than the {most:,} bytes that its header claims")
    voxels = cast(ArrayProxy, image.dataobj)  # the header of an image lacks its slope and where its voxels start
    return ArrayProxy(io.BytesIO(content), (voxels.shape, voxels.dtype, voxels.offset, voxels.slope, voxels.inter))


@lru_cache(maxsize=_OPENED)
def _grid(path: Path, *stamps: int) -> Geometry:
    image = _opened(path, *stamps)
    return grid_of(image, _size(image, path), path)


def grid_of(image: SpatialImage, size: Size, path: Path) -> Geometry:
    """The grid of an image's first three axes; ``ImageError`` if its affine is unusable."""
    units = units_of(image)
    with readable(path):
        geometry = Geometry.from_ras_affine(in_mm(image.affine, units), size)
    if np.abs(geometry.axes.T @ geometry.axes - np.eye(3)).max() > _SHEAR:
        raise ImageError(
            f"{path} has a sheared grid (a tilted gantry?). Axes must be perpendicular; resample it.",
            code="grid-sheared",
            file=path,
        )
    geometry = replace(geometry, header=GridHeader.of(image))
    x, y, z = lengths_in_mm(np.array(image.header.get_zooms()[:3], dtype=np.float64), units).tolist()
    # The affine of an oblique image has rounding errors that the spacing in the header does not have.
    return replace(geometry, spacing=(x, y, z)) if np.allclose((x, y, z), geometry.spacing, rtol=1e-4) else geometry


def _size(image: SpatialImage, path: Path) -> Size:
    shape = tuple(int(voxels) for voxels in image.shape)
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        advice = "stack its slices" if len(shape) < 3 else "split it first"
        raise ImageError(
            f"{path} has the size {by(shape)}. An image must have three dimensions; {advice}.",
            code="image-not-3d",
            file=path,
            found=shape,
        )
    return checked_size(shape, path)


def checked_size(shape: tuple[int, ...], path: Path) -> Size:
    """The first three axes of a shape; ``ImageError`` if a scan cannot have that size."""
    x, y, z = shape[:3]
    if min(x, y, z) < 1 or x * y * z > MAX_VOXELS:
        raise ImageError(
            f"{path} is corrupted: its header claims a size of {by(shape)} voxels. Copy or export it again.",
            code="image-size",
            file=path,
            found=shape,
        )
    return x, y, z
