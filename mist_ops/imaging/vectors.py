"""Images with several values per voxel, such as the probabilities of classes: one NIfTI file, read value by value.

On disk they are vector images as ITK writes them: five dimensions, of which the fourth is 1 and the fifth counts the
values, with the intent of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener

from mist_ops.errors import ImageError
from mist_ops.files import atomic
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import affine_header, check_voxels, checked_size, grid_of, open_image, readable
from mist_ops.types import Image

Vectors = Float32[np.ndarray, "value x y z"]


def write_vectors(path: Path, vectors: Vectors, geometry: Geometry) -> None:
    """Write a value after the other as float32, atomically."""
    if vectors.shape[1:] != geometry.size:
        raise ValueError(f"values of {vectors.shape[1:]} voxels do not fit a grid of {geometry.size}")
    image = nib.Nifti1Image(np.moveaxis(vectors, 0, -1)[:, :, :, None], geometry.ras_affine)
    image.header.set_intent("vector")
    affine_header(image, geometry)
    with atomic(path) as temporary:
        nib.save(image, temporary)


def read_vector_grid(path: Path) -> tuple[int, Geometry]:
    """How many values a voxel has, and the grid, from the header alone; also of a file with four dimensions.

    Raises:
        ImageError: No such file, no image, or one value per voxel.
    """
    image = open_image(path)
    shape = image.shape
    values = shape[4] if len(shape) == 5 and shape[3] == 1 else shape[3] if len(shape) == 4 else 1
    if values < 2:
        raise ImageError(f"{path} has the size {shape}. Probabilities have a value for each class; predict them anew.")
    return int(values), grid_of(image, checked_size(shape, path), path)


def read_values(path: Path) -> Iterator[Image]:
    """The volumes of a file one after another, as float32, so that two are never in memory.

    Raises:
        ImageError: As ``read_vector_grid``; a value that is not finite.
    """
    values, geometry = read_vector_grid(path)
    image = open_image(path)
    stored = image.dataobj
    if not isinstance(stored, ArrayProxy):
        raise ImageError(f"{path} is no NIfTI file. Predict the case anew.")
    check_voxels(image, path)
    kind = np.dtype(stored.dtype)
    # Not by index: in a compressed file, each index would unpack all that lies before it.
    with readable(path), ImageOpener(str(path)) as stream:
        stream.seek(stored.offset)
        for _ in range(values):
            raw = np.frombuffer(stream.read(kind.itemsize * math.prod(geometry.size)), dtype=kind)
            with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is not finite
                volume = np.float32(stored.slope) * raw.reshape(geometry.size, order="F") + np.float32(stored.inter)
            if not np.isfinite(volume).all():
                raise ImageError(f"{path} holds NaN or infinite values. Predict the case anew.")
            yield volume.astype(np.float32, copy=False)
