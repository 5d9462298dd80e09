"""Synthetic patients: small MR-like datasets for the demo, tests and experiments.

A head is an ellipsoid with a lesion that contains a core, defined in millimeters and sampled on a grid: as in clinical
data, size, spacing, orientation and tilt differ between patients. Two channels show the tissues with different
contrast, with a bias field and Rician noise. The same seed gives the same images, and patients are independent of each
other, so that adding one does not change the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from jaxtyping import Float

from mist_ops.files import write_json
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_image, write_labels
from mist_ops.types import Image, Json, LabelMap, Size, Spacing

LESION, CORE = 1, 2
"""Labels: the core is inside the lesion."""

Points = Float[np.ndarray, "3 x y z"]
Field = Float[np.ndarray, "x y z"]
Vector = Float[np.ndarray, "3"]

# Signal of air, brain, ventricle, lesion and core in arbitrary units: no single channel separates all of them.
_SIGNAL = {
    "t1": np.array([0.0, 420.0, 180.0, 300.0, 560.0]),
    "t2": np.array([0.0, 260.0, 600.0, 460.0, 380.0]),
}
_NOISE = 22.0

# Half axes of the head as a fraction of the field of view.
_HEAD = 0.42


@dataclass(frozen=True)
class Phantom:
    """Images and labels of a patient, all on the same grid and in its orientation."""

    channels: dict[str, Image]
    labels: LabelMap
    geometry: Geometry


def phantom(seed: int | Sequence[int], size: Size = (40, 44, 36), *, varied: bool = True) -> Phantom:
    """Generate a patient.

    Args:
        seed: The same seed gives the same patient.
        size: Voxels along x, y, z of the canonical LPS grid; with ``varied`` up to two voxels more or fewer.
        varied: Draw orientation, tilt and spacing at random. Otherwise the grid is LPS with voxels of 1 mm.
    """
    generator = np.random.default_rng(seed)
    geometry = _scan_grid(generator, size) if varied else Geometry(size, (1.0, 1.0, 1.0))
    extent = np.multiply(geometry.size, geometry.spacing)
    center = geometry.lps_affine @ [*((voxels - 1) / 2 for voxels in geometry.size), 1.0]
    points = _points(geometry) - center[:3, None, None, None]
    # The head is upright whatever the orientation of the grid.
    half = _HEAD * np.abs(geometry.axes) @ extent
    tissue, labels = _anatomy(generator, points, half)
    blur = 0.45 / np.array(geometry.spacing)
    field = _bias_field(generator, points / half[:, None, None, None])
    channels = {name: _scan(generator, signal[tissue], field, blur) for name, signal in _SIGNAL.items()}
    return Phantom(channels, labels, geometry)


def write_phantoms(
    folder: Path, *, patients: int = 10, tests: int = 0, seed: int = 0, size: Size = (40, 44, 36), varied: bool = True
) -> Path:
    """Write a dataset of phantoms and return its dataset.json.

    Args:
        folder: Gets ``dataset.json``, ``train/<id>/`` and, if there are test patients, ``test/<id>/``.
        patients: Number of training patients, with masks.
        tests: Number of test patients, without masks.
        seed: The same seed gives the same patients.
        size: As for ``phantom``.
        varied: As for ``phantom``.
    """
    for kind, count in enumerate((patients, tests)):
        for number in range(count):
            scanned = phantom((seed, kind, number), size, varied=varied)
            patient = folder / ("train", "test")[kind] / f"phantom_{number + 1:03d}"
            for name, image in scanned.channels.items():
                write_image(patient / f"{name}.nii.gz", image, scanned.geometry)
            if kind == 0:
                write_labels(patient / "mask.nii.gz", scanned.labels, scanned.geometry)
    path = folder / "dataset.json"
    write_json(path, _description(has_tests=tests > 0))
    return path


def _description(*, has_tests: bool) -> Json:
    test_data = {"test-data": "test"} if has_tests else {}
    return {
        "task": "phantoms",
        "modality": "mr",
        "train-data": "train",
        **test_data,
        "mask": ["mask.nii.gz"],
        "images": {name: [f"{name}.nii.gz"] for name in _SIGNAL},
        "labels": [0, LESION, CORE],
        "final_classes": {"whole_lesion": [LESION, CORE], "core": [CORE]},
    }


def _scan_grid(generator: np.random.Generator, size: Size) -> Geometry:
    """A grid near ``size`` with 1 to 1.3 mm in plane and up to 1.8 mm between slices, tilted by up to 10 degrees."""
    jittered = np.array(size) + generator.integers(-2, 3, size=3)
    in_plane = generator.uniform(1.0, 1.3)
    spacing = np.array([in_plane, in_plane, generator.uniform(1.0, 1.8)]).round(3)
    tilt = scipy.spatial.transform.Rotation.from_rotvec(generator.uniform(-1, 1, size=3) * np.deg2rad(10) / np.sqrt(3))
    order = generator.permutation(3)
    axes = tilt.as_matrix()[:, order] * generator.choice([-1.0, 1.0], size=3)
    origin = generator.uniform(-80, 80, size=3).round(2)
    return Geometry(_sizes(jittered[order]), _triple(spacing[order]), _triple(origin), tuple(axes.ravel().tolist()))


def _points(geometry: Geometry) -> Points:
    """LPS position of every voxel in mm."""
    indices = np.indices(geometry.size, dtype=np.float64)
    affine = geometry.lps_affine
    points: Points = np.einsum("ij,jxyz->ixyz", affine[:3, :3], indices) + affine[:3, 3, None, None, None]
    return points


def _anatomy(generator: np.random.Generator, points: Points, half: Vector) -> tuple[LabelMap, LabelMap]:
    """Tissue (an index into the signals) and labels at points relative to the center of the head."""
    inside_brain = _ellipsoid(points, np.zeros(3), half)
    reach = float(half.min())
    lesion_radii = generator.uniform(0.32, 0.5, size=3) * reach
    towards = generator.normal(size=3)
    center = towards / np.linalg.norm(towards) * (reach - lesion_radii.max()) * generator.uniform(0.3, 0.8)
    # Lesions are not ellipsoids: their border has dents longer than a voxel.
    dents = 0.18 * _waves(generator, points, wavelength=reach)
    lesion = (_ellipsoid(points, center, lesion_radii) + dents < 1) & (inside_brain < 1)
    core_radii = lesion_radii * generator.uniform(0.5, 0.65)
    core = (_ellipsoid(points, center, core_radii) + dents < 1) & lesion
    ventricle = _ellipsoid(points, 0.15 * half, 0.25 * half) < 1
    tissue = np.select([core, lesion, ventricle, inside_brain < 1], [4, 3, 2, 1], default=0).astype(np.uint8)
    labels = np.select([core, lesion], [CORE, LESION], default=0).astype(np.uint8)
    return tissue, labels


def _ellipsoid(points: Points, center: Vector, radii: Vector) -> Field:
    """Squared distance from the center in units of the radii: below one inside."""
    scaled = (points - center[:, None, None, None]) / radii[:, None, None, None]
    squared: Field = np.square(scaled).sum(axis=0)
    return squared


def _waves(generator: np.random.Generator, points: Points, wavelength: float) -> Field:
    """A smooth random function of position, roughly between -2 and 2."""
    total: Field = np.zeros(points.shape[1:])
    for _ in range(4):
        direction = generator.normal(size=3)
        direction *= 2 * np.pi / (wavelength * np.linalg.norm(direction))
        total += np.sin(np.einsum("i,ixyz->xyz", direction, points) + generator.uniform(0, 2 * np.pi))
    return total / 2


def _bias_field(generator: np.random.Generator, relative: Points) -> Field:
    """A smooth gain around 1, as from a surface coil; ``relative`` is the position in units of the head."""
    linear = np.einsum("i,ixyz->xyz", generator.normal(scale=0.08, size=3), relative)
    quadratic = np.einsum("i,ixyz->xyz", generator.normal(scale=0.04, size=3), np.square(relative))
    gain: Field = np.exp(linear + quadratic)
    return gain


def _scan(generator: np.random.Generator, signal: Field, field: Field, blur: Vector) -> Image:
    """Simulate a scan of a signal: texture, blur, bias field, and the magnitude of complex noise."""
    texture = 1 + 0.25 * scipy.ndimage.gaussian_filter(generator.normal(size=signal.shape), 1.0)
    clean = scipy.ndimage.gaussian_filter(signal * texture, blur) * field
    real, imaginary = generator.normal(scale=_NOISE, size=(2, *signal.shape))
    magnitude: Image = np.hypot(clean + real, imaginary).astype(np.float32)
    return magnitude


def _sizes(values: np.ndarray) -> Size:
    x, y, z = values.tolist()
    return x, y, z


def _triple(values: Vector) -> Spacing:
    x, y, z = values.tolist()
    return x, y, z
