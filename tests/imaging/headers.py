"""NIfTI files with the headers that scanners and programs write, byte by byte, without a library's corrections."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK

SIZE = (5, 4, 3)


def rotation(generator: np.random.Generator) -> np.ndarray:
    """A random rotation matrix."""
    axes, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    axes[:, 0] *= np.sign(np.linalg.det(axes))
    return axes


def affine(axes: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    """A matrix from voxel indices to millimeters."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = origin
    return matrix


def stored(
    path: Path,
    voxels: np.ndarray,
    sform: np.ndarray,
    qform: np.ndarray,
    codes: tuple[int, int],
    scaling: tuple[float, float] = (np.nan, np.nan),
    **fields: Any,
) -> Path:
    """Write voxels with both forms and any codes, which libraries would correct.

    Args:
        path: The file; compressed if it ends in ``.gz``.
        voxels: As they are stored.
        sform: In the unit of the file.
        qform: As well; its columns must be perpendicular.
        codes: Of the sform and the qform.
        scaling: Slope and intercept.
        fields: Other fields of the header.
    """
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = codes
    header["scl_slope"], header["scl_inter"] = scaling
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    content = bytes(header.binaryblock) + bytes(4) + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def itk_grid(path: Path) -> np.ndarray:
    """The matrix from voxel indices to LPS millimeters, and the size, as ITK reads them."""
    image = SimpleITK.ReadImage(str(path))
    grid = np.eye(4)
    grid[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    grid[:3, 3] = image.GetOrigin()
    return np.vstack([grid, [*image.GetSize(), 0]])


def nibabel_grid(path: Path) -> np.ndarray:
    """The matrix from voxel indices to RAS in the unit of the file, and its size, as nibabel reads them."""
    image = nib.load(path)
    return np.vstack([image.affine, [*image.shape[:3], 0]])


def written_by_itk(scan: Path, path: Path, voxels: np.ndarray) -> Path:
    """Write a mask on the grid that ITK reads from a scan."""
    mask = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    mask.CopyInformation(SimpleITK.ReadImage(str(scan)))
    SimpleITK.WriteImage(mask, str(path))
    return path
