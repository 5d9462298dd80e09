"""Conversion of any image format to compressed NIfTI. The only module that reads formats other than NIfTI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mist_ops.errors import ImageError, counted
from mist_ops.files import atomic
from mist_ops.imaging.folders import NIFTI
from mist_ops.imaging.formats import PAIRS, check_format
from mist_ops.imaging.nifti import check_voxels, compressed, on_grid, open_image, read_geometry, readable, save


def store_as_nifti(path: Path, target: Path) -> None:
    """Store an image as a ``.nii.gz`` file, atomically; voxels, data type and geometry are kept.

    ``.nii.gz`` is copied byte for byte and ``.nii`` is compressed, so that their headers are kept. Other formats that
    ITK reads (NRRD, MetaImage, GIPL …) are converted. An image in two files (``.img`` and ``.hdr``) becomes one.

    Args:
        path: Image whose extension names its format.
        target: Ends in ``.nii.gz``.

    Raises:
        ImageError: The file is missing, or is in another format and not a 3D image with one value per voxel.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist. Restore it, or correct its path.", code="image-missing", file=path)
    with atomic(target) as temporary:
        if path.name.endswith(NIFTI):
            check_format(path)
        if path.name.endswith(".nii.gz"):
            shutil.copyfile(path, temporary)
        elif path.suffix == ".nii":
            _compress(path, temporary)
        elif path.name.endswith(PAIRS):
            _join(path, temporary)
        else:
            _convert(path, temporary)


def _compress(path: Path, target: Path) -> None:
    with path.open("rb") as stream, target.open("wb") as raw, compressed(raw) as packed:
        shutil.copyfileobj(stream, packed)


def _join(path: Path, target: Path) -> None:
    """Store an image pair (``.img`` and ``.hdr``) as one file, with both forms of its header; ITK keeps only one."""
    image, geometry = open_image(path), read_geometry(path)
    check_voxels(image, path)
    voxels: Any = image.dataobj
    with readable(path):
        joined = on_grid(voxels.get_unscaled().reshape(geometry.size), geometry)
    joined.header.set_slope_inter(voxels.slope, voxels.inter)
    save(joined, target)


def _convert(path: Path, target: Path) -> None:
    import SimpleITK  # takes 0.3 s, and NIfTI files do not need it

    try:
        image: Any = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        *_, reason = str(error).splitlines()
        raise ImageError(
            f"{path} cannot be read as an image. Export it again. (ITK: {reason.removeprefix('sitk::ERROR: ')})",
            code="image-unreadable",
            file=path,
        ) from error
    size, values = image.GetSize(), image.GetNumberOfComponentsPerPixel()
    if len(size) != 3 or values != 1:
        raise ImageError(
            f"{path} has {len(size)} dimensions and {counted(values, 'value')} per voxel. "
            "An image must have three dimensions and one value per voxel. Split it first.",
            code="image-not-3d",
            file=path,
            found=(*size, values),
        )
    SimpleITK.WriteImage(image, str(target), useCompression=True)
