"""Vector images, such as class probabilities, in one NIfTI file.

The files have the layout of ITK's vector images: five dimensions, the fourth of size 1 and the fifth for the values,
and the intent code of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener

from mist_ops.errors import ImageError
from mist_ops.files import atomic
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import check_voxels, checked_size, grid_of, on_grid, open_image, readable, save
from mist_ops.types import Image

Vectors = Float32[np.ndarray, "value x y z"]


def write_vectors(path: Path, vectors: Vectors, geometry: Geometry) -> None:
    """Write a vector image as float32, atomically."""
    if vectors.shape[1:] != geometry.size:
        raise ValueError(f"values of shape {vectors.shape[1:]} do not fit a grid of {geometry.size}")
    image = on_grid(np.moveaxis(vectors, 0, -1)[:, :, :, None], geometry)
    image.header.set_intent("vector")
    with atomic(path) as temporary:
        save(image, temporary)


def read_vector_grid(path: Path) -> tuple[int, Geometry]:
    """Number of values per voxel and the grid, from the header alone; four dimensions are accepted as well.

    Raises:
        ImageError: The file is missing, not an image, or has one value per voxel.
    """
    image = open_image(path)
    shape = image.shape
    values = shape[4] if len(shape) == 5 and shape[3] == 1 else shape[3] if len(shape) == 4 else 1
    if values < 2:
        raise ImageError(
            f"{path} has one value per voxel. Probabilities have one per class; run the prediction again.",
            code="not-probabilities",
            file=path,
            found=shape,
        )
    return int(values), grid_of(image, checked_size(shape, path), path)


def read_values(path: Path) -> Iterator[Image]:
    """Read the volumes of a file one by one, as float32, so that only one is in memory at a time.

    Raises:
        ImageError: As ``read_vector_grid``, or a value is not finite.
    """
    values, geometry = read_vector_grid(path)
    image = open_image(path)
    stored = image.dataobj
    if not isinstance(stored, ArrayProxy):
        raise ImageError(f"{path} is not a NIfTI file. Run the prediction again.", code="image-unreadable", file=path)
    check_voxels(image, path)
    kind = np.dtype(stored.dtype)
    # Not by index: in a compressed file, each access would decompress everything before it.
    with readable(path), ImageOpener(str(path)) as stream:
        stream.seek(stored.offset)
        for _ in range(values):
            raw = np.frombuffer(stream.read(kind.itemsize * math.prod(geometry.size)), dtype=kind)
            with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite, checked below
                volume = np.float32(stored.slope) * raw.reshape(geometry.size, order="F") + np.float32(stored.inter)
            if not np.isfinite(volume).all():
                raise ImageError(
                    f"{path} holds NaN or infinite values. Run the prediction again.",
                    code="image-not-finite",
                    file=path,
                )
            yield volume.astype(np.float32, copy=False)
