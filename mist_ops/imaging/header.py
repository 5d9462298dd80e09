"""How the header of a NIfTI file states a grid: two affines with codes, the unit of length and the order of encoding.

Programs choose between the two affines by rules of their own: nibabel takes the sform, ITK in many cases the qform. A
file that is written for a scan therefore gets all fields of the scan's header, so that any program finds both in the
same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.spatialimages import HeaderDataError, SpatialImage

_METERS, _MILLIMETERS, _MICRONS = 1, 2, 3
"""Codes of units of length; any other counts as millimeters."""

_UNIT_OF_LENGTH = 8
"""``xyzt_units`` modulo this is the unit of length; the rest is the unit of time."""

_Three = tuple[float, float, float]
_Row = tuple[float, float, float, float]


@dataclass(frozen=True)
class GridHeader:
    """The fields of a NIfTI header that place its voxels in space, as they are stored.

    Attributes:
        sform_code: What the sform refers to; 0 if it is not set.
        sform: The first three rows of the sform.
        qform_code: What the qform refers to; 0 if it is not set.
        quaternion: The numbers b, c and d of the rotation of the qform.
        offset: The translation of the qform.
        pixdim: The handedness of the qform (1 or -1), and the distances between voxels.
        xyzt_units: Units of length and time.
        dim_info: Which axes encode frequency, phase and slice.
    """

    sform_code: int
    sform: tuple[_Row, _Row, _Row]
    qform_code: int
    quaternion: _Three
    offset: _Three
    pixdim: _Row
    xyzt_units: int = _MILLIMETERS
    dim_info: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that a header cannot hold, as a damaged record may."""
        codes, fields = (self.sform_code, self.qform_code), (self.xyzt_units, self.dim_info)
        if not all(abs(code) < 2**15 for code in codes) or not all(0 <= field < 2**8 for field in fields):
            raise ValueError(f"a header cannot hold the codes {codes} and {fields}")

    @classmethod
    def of(cls, image: SpatialImage) -> GridHeader | None:
        """Return the fields of an image; None if it is not NIfTI, and if they are not finite.

        An Analyze image without a matrix has the grid of a NIfTI image without sform and qform.
        """
        header: Any = image.header
        if not isinstance(header, nib.Nifti1Header):
            if not isinstance(header, nib.AnalyzeHeader) or not np.allclose(image.affine, header.get_base_affine()):
                return None
            nifti = nib.Nifti1Header()
            nifti.set_data_shape(header.get_data_shape())
            nifti.set_zooms(header.get_zooms())
            header = nifti
        fields = cls(
            int(header["sform_code"]),
            (_row(header["srow_x"]), _row(header["srow_y"]), _row(header["srow_z"])),
            int(header["qform_code"]),
            _three(header[f"quatern_{name}"] for name in "bcd"),
            _three(header[f"qoffset_{name}"] for name in "xyz"),
            _row(header["pixdim"][:4]),
            int(header["xyzt_units"]),
            int(header["dim_info"]),
        )
        numbers = [
            *fields.quaternion,
            *fields.offset,
            *fields.pixdim,
            *(value for row in fields.sform for value in row),
        ]
        return fields if np.isfinite(numbers).all() else None

    def store(self, header: nib.Nifti1Header) -> None:
        """Write the fields into the header of an image of three or more dimensions."""
        header["sform_code"], header["qform_code"] = self.sform_code, self.qform_code
        for name, row in zip("xyz", self.sform, strict=True):
            header[f"srow_{name}"] = row
        for name, value in zip("bcd", self.quaternion, strict=True):
            header[f"quatern_{name}"] = value
        for name, value in zip("xyz", self.offset, strict=True):
            header[f"qoffset_{name}"] = value
        header["pixdim"][:4] = self.pixdim
        header["xyzt_units"], header["dim_info"] = self.xyzt_units, self.dim_info

    def affines(self, size: tuple[int, int, int]) -> Iterator[tuple[str, Float[np.ndarray, "4 4"]]]:
        """Name and matrix, from voxel indices to RAS millimeters, of every grid that programs read from the header."""
        header = nib.Nifti1Header()  # which accepts the rounding errors of a quaternion in float32
        self.store(header)
        if self.sform_code:
            yield "sform", in_mm(header.get_sform(), self.xyzt_units)
        if self.qform_code:
            try:
                yield "qform", in_mm(header.get_qform(), self.xyzt_units)
            except (HeaderDataError, ValueError):  # not a rotation, so no program can use it
                return
        if not self.sform_code and not self.qform_code:
            yield "voxel size as nibabel reads it", in_mm(self._centered(size), self.xyzt_units)
            # ITK's axes point to left, posterior and superior, and its first voxel is the origin.
            yield (
                "voxel size as ITK reads it",
                in_mm(np.diag([-1.0, -1.0, 1.0, 1.0] * np.append(self.pixdim[1:], 1.0)), self.xyzt_units),
            )

    def _centered(self, size: tuple[int, int, int]) -> Float[np.ndarray, "4 4"]:
        header = nib.Nifti2Header()  # whose axes have any length
        header.set_data_shape(size)
        self.store(header)
        affine: Float[np.ndarray, "4 4"] = header.get_base_affine()
        return affine


def units_of(image: SpatialImage) -> int:
    """The field ``xyzt_units`` of an image; millimeters if it is not NIfTI."""
    header = image.header
    return int(header["xyzt_units"]) if isinstance(header, nib.Nifti1Header) else _MILLIMETERS


def lengths_in_mm(lengths: np.ndarray, xyzt_units: int) -> np.ndarray:
    """Convert lengths of a header to millimeters."""
    unit = xyzt_units % _UNIT_OF_LENGTH
    # Divided for microns, as 1000 is exact and 0.001 is not.
    return lengths * 1000.0 if unit == _METERS else lengths / 1000.0 if unit == _MICRONS else lengths


def in_mm(affine: np.ndarray, xyzt_units: int) -> Float[np.ndarray, "4 4"]:
    """Convert an affine of a header to millimeters."""
    converted = np.array(affine, dtype=np.float64)
    converted[:3] = lengths_in_mm(converted[:3], xyzt_units)
    return converted


def _row(values: np.ndarray) -> _Row:
    first, second, third, fourth = (float(value) for value in values)
    return first, second, third, fourth


def _three(values: Iterator[Any]) -> _Three:
    first, second, third = (float(value) for value in values)
    return first, second, third
