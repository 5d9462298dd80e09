"""Voxel grids in patient space: affine, canonical orientation, crop and resampling.

Voxel values are only permuted and flipped here. Positions are in LPS millimeters, as in DICOM and ITK.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from jaxtyping import Float

from mist_ops.imaging.header import GridHeader
from mist_ops.types import Box, Size, Spacing

Affine = Float[np.ndarray, "4 4"]
Vector = Float[np.ndarray, "3"]
Direction = tuple[float, float, float, float, float, float, float, float, float]
AnyDtype = TypeVar("AnyDtype", bound=np.generic)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Headers store float32: in public datasets, origins of an image and its mask differ by up to 6e-4 mm.
_RELATIVE_SPACING = 1e-3
_DIRECTION = 1e-3
_ORIGIN_IN_VOXELS = 1e-2


@dataclass(frozen=True)
class Reorientation:
    """Permutation and flips that bring an array to LPS voxel order.

    Attributes:
        axes: For each canonical axis, the corresponding axis of the original array.
        flipped: Canonical axes whose direction is opposite to the original one.
    """

    axes: tuple[int, int, int]
    flipped: tuple[int, ...]

    def apply(self, array: np.ndarray[Any, np.dtype[AnyDtype]]) -> np.ndarray[Any, np.dtype[AnyDtype]]:
        """A view of an ``(x, y, z)`` or ``(x, y, z, channel)`` array in canonical order."""
        return np.flip(np.transpose(array, (*self.axes, *range(3, array.ndim))), self.flipped)

    def undo(self, array: np.ndarray[Any, np.dtype[AnyDtype]]) -> np.ndarray[Any, np.dtype[AnyDtype]]:
        """A view of a canonical array in the original order: the inverse of ``apply``."""
        x, y, z = (self.axes.index(axis) for axis in range(3))
        return np.transpose(np.flip(array, self.flipped), (x, y, z, *range(3, array.ndim)))


@dataclass(frozen=True)
class Geometry:
    """A voxel grid in patient space.

    Attributes:
        size: Voxels along each axis.
        spacing: Distance between voxel centers along each axis, in mm.
        origin: LPS position of the center of voxel (0, 0, 0), in mm.
        direction: Row-major 3x3 matrix whose columns are the directions of the axes in LPS.
        header: The fields of the file that state this grid; files on the same grid are written with them. None for
            another grid than that of a NIfTI file. Grids that differ only in it are equal.
    """

    size: Size
    spacing: Spacing
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: Direction = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    header: GridHeader | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_ras_affine(cls, affine: np.ndarray, size: Size) -> Geometry:
        """The grid of a 4x4 matrix from voxel indices to RAS millimeters, as in NIfTI headers.

        Raises:
            ValueError: A column of the matrix is zero or not finite.
        """
        return cls._from_lps_affine(RAS_TO_LPS @ np.asarray(affine, dtype=np.float64), size)

    @classmethod
    def _from_lps_affine(cls, affine: Affine, size: Size) -> Geometry:
        with np.errstate(over="ignore"):
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not (np.isfinite(affine).all() and np.isfinite(spacing).all() and (spacing > 0).all()):
            raise ValueError(f"a column of the affine {affine.tolist()} is zero or not finite")
        return cls(size, _triple(spacing), _triple(affine[:3, 3]), _direction(affine[:3, :3] / spacing))

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Directions of the axes in LPS, one per column."""
        return np.array(self.direction).reshape(3, 3)

    @property
    def lps_affine(self) -> Affine:
        """The 4x4 matrix from voxel indices to LPS millimeters."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes * self.spacing
        affine[:3, 3] = self.origin
        return affine

    @property
    def ras_affine(self) -> Affine:
        """The 4x4 matrix from voxel indices to RAS millimeters."""
        affine: Affine = RAS_TO_LPS @ self.lps_affine
        return affine

    @property
    def axis_codes(self) -> str:
        """Where the index of each axis grows towards, as in nibabel: LPS for canonical order."""
        return "".join(nib.orientations.aff2axcodes(self.ras_affine))

    @property
    def diagonal(self) -> float:
        """Length of the diagonal of the volume in mm, including the full width of the outer voxels."""
        return float(np.linalg.norm(np.multiply(self.size, self.spacing)))

    def differences(self, other: Geometry) -> list[str]:
        """Describe the fields in which another grid differs.

        Empty if they are equal up to the precision of headers, or if any program sees them so; see ``shared_forms``.
        """
        return [] if self.shared_forms(other) else self._differences(other)

    def shared_forms(self, other: Geometry) -> tuple[str, str] | None:
        """Names of the parts of both headers by which two different grids are equal.

        A header may state two grids, and programs choose differently. A mask that ITK wrote has the grid that ITK reads
        from the scan, which may not be the one that is used here.

        Returns:
            Such as ``("qform", "sform")``; None if the grids are equal anyway, or by nothing in the headers.
        """
        if self == other or not self._differences(other):
            return None
        for (name, grid), (other_name, other_grid) in itertools.product(self._stated(), other._stated()):
            if not grid._differences(other_grid):
                return name, other_name
        return None

    @property
    def form_gap(self) -> float:
        """Largest distance in mm between the corners by sform and by qform; 0 if one of them is not set.

        This program uses the sform, as nibabel does; others use the qform.
        """
        forms = dict(self.header.affines(self.size)) if self.header else {}
        if not {"sform", "qform"} <= forms.keys():
            return 0.0
        corners = [[*corner, 1] for corner in itertools.product(*((0, voxels - 1) for voxels in self.size))]
        gap = float(np.linalg.norm(corners @ (forms["sform"] - forms["qform"]).T, axis=1).max())
        return gap if math.isfinite(gap) else 0.0

    def is_stated(self) -> bool:
        """Whether ``header`` states this very grid, and not the one that it was derived from."""
        _, stated = next(self._stated(), ("", None))
        return self.header is not None and stated is not None and not self._differences(stated)

    def _stated(self) -> Iterator[tuple[str, Geometry]]:
        """Every grid that programs read from the header, the one of this program first."""
        if self.header is None:
            yield "header", self
            return
        for name, affine in self.header.affines(self.size):
            with suppress(ValueError):  # a form that no program can use
                yield name, Geometry.from_ras_affine(affine, self.size)

    def _differences(self, other: Geometry) -> list[str]:
        gap = self.axes.T @ np.subtract(other.origin, self.origin)
        fields = {
            "size": self.size == other.size,
            "spacing": np.allclose(self.spacing, other.spacing, rtol=_RELATIVE_SPACING, atol=0.0),
            "origin": bool((np.abs(gap) <= np.multiply(_ORIGIN_IN_VOXELS, self.spacing)).all()),
            "direction": np.allclose(self.direction, other.direction, rtol=0.0, atol=_DIRECTION),
        }
        different = [name for name, same in fields.items() if not same]
        units = {"size": " voxels", "spacing": " mm", "origin": " mm", "direction": ""}
        return [f"{name} {_short(self, name)} and {_short(other, name)}{units[name]}" for name in different]

    def canonical(self) -> tuple[Geometry, Reorientation]:
        """The grid in LPS voxel order, and the reorientation of arrays to it. Oblique directions are kept."""
        current = nib.orientations.io_orientation(self.ras_affine)
        towards = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt(("L", "P", "S")))
        x, y, z = np.argsort(towards[:, 0]).tolist()
        flipped = tuple(axis for axis, old in enumerate((x, y, z)) if towards[old, 1] < 0)
        affine = self.lps_affine @ nib.orientations.inv_ornt_aff(towards, self.size)
        reoriented = Geometry._from_lps_affine(affine, (self.size[x], self.size[y], self.size[z]))
        # Permuted instead of recomputed, which would change the last digits.
        spacing = (self.spacing[x], self.spacing[y], self.spacing[z])
        return replace(reoriented, spacing=spacing), Reorientation((x, y, z), flipped)

    def cropped(self, box: Box) -> Geometry:
        """The grid of a box of these voxels."""
        origin = np.add(self.origin, self.axes @ np.multiply(self.spacing, box.start))
        return replace(self, size=box.size, origin=_triple(origin), header=None)

    def resampled(self, target_spacing: Spacing) -> Geometry:
        """The grid at another spacing that covers the same volume; the centers of the first voxels coincide.

        The size is rounded half to even and is at least one voxel.
        """
        if np.allclose(self.spacing, target_spacing):
            return self
        exact = np.multiply(self.size, self.spacing) / target_spacing
        x, y, z = (max(1, round(voxels)) for voxels in exact.tolist())
        return replace(self, size=(x, y, z), spacing=target_spacing, header=None)


@dataclass(frozen=True)
class CaseGeometry:
    """The grids of a case before and after preprocessing, from which a prediction is restored to the original grid.

    Attributes:
        original: Grid of the files.
        box: The part of it that was cropped out, in its voxel indices; None for all of it.
        preprocessed: Canonical grid of the arrays; the original one where preprocessing is skipped.
    """

    original: Geometry
    box: Box | None
    preprocessed: Geometry

    def canonical(self) -> tuple[Geometry, Reorientation]:
        """The cropped original grid in canonical order, and the reorientation that leads there."""
        return (self.original.cropped(self.box) if self.box else self.original).canonical()


def _triple(values: Vector) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _direction(axes: Float[np.ndarray, "3 3"]) -> Direction:
    xx, xy, xz, yx, yy, yz, zx, zy, zz = (axes + 0.0).ravel().tolist()
    return xx, xy, xz, yx, yy, yz, zx, zy, zz


def _short(geometry: Geometry, name: str) -> str:
    return f"({', '.join(f'{value:.6g}' for value in getattr(geometry, name))})"
