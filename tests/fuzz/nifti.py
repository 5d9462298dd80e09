"""Fuzz the NIfTI readers: any bytes are an image or an ``ImageError``, and allocate no more memory than needed.

``make fuzz`` runs it. By hand: ``python tests/fuzz/nifti.py corpus -max_total_time=60``; inputs that reach new code are
collected in ``corpus``. Failing inputs are written to ``crash-*``; pass such a file instead of the folder to rerun it.
"""

from __future__ import annotations

import gzip
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nibabel", "mist_ops.imaging", "mist_ops.files"]):
    import nibabel as nib
    import numpy as np

    from mist_ops.errors import ImageError
    from mist_ops.imaging.nifti import count_channels, read_geometry, read_image, read_labels, split_channels
    from mist_ops.imaging.vectors import read_values
    from mist_ops.phantoms import phantom

ENDINGS = (".nii", ".nii.gz", ".nii.gz")
"""Chosen by the first byte of the input; ``.nii.gz`` once compresses it and once takes it as it is."""


def check(data: bytes) -> None:
    """Read the bytes as a scan, a mask, channels and a prediction."""
    kind = data[0] % len(ENDINGS) if data else 0
    path = FOLDER / f"scan{ENDINGS[kind]}"
    path.write_bytes(gzip.compress(data[1:], 1) if kind == 1 else data[1:])
    for read in (_grid, _image, _labels, _channels, _values):
        try:
            read(path)
        except ImageError as error:
            if path.name not in str(error):
                raise


def _grid(path: Path) -> None:
    grid = read_geometry(path)
    canonical, order = grid.canonical()
    assert canonical.size == tuple(grid.size[axis] for axis in order.axes)
    assert np.isfinite(canonical.lps_affine).all()


def _image(path: Path) -> None:
    image, grid = read_image(path)
    assert image.shape == grid.size
    assert image.dtype == np.float32
    assert np.isfinite(image).all()


def _labels(path: Path) -> None:
    labels, grid = read_labels(path)
    assert labels.shape == grid.size
    assert labels.dtype in (np.uint8, np.uint16)


def _channels(path: Path) -> None:
    count = count_channels(path)
    if 1 < count <= len(CHANNELS):
        split_channels(path, CHANNELS[:count])


def _values(path: Path) -> None:
    for volume in read_values(path):
        assert np.isfinite(volume).all()


def seeds() -> Iterator[bytes]:
    """A phantom in all variants: types, scaling, byte order, both NIfTI versions, an extension, 4D."""
    scanned = phantom(0, (6, 5, 4))
    image, affine = scanned.channels["t1"], scanned.geometry.ras_affine
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        yield _bytes(nib.Nifti1Image(image.astype(dtype), affine))
        yield _bytes(nib.Nifti2Image(scanned.labels.astype(dtype), affine))
    yield _bytes(nib.Nifti1Image(np.stack([image, image], axis=-1), affine))
    yield _bytes(nib.Nifti1Image(np.stack([image, image], axis=-1)[:, :, :, None], affine))
    yield _bytes(nib.Nifti1Image(image, affine, nib.Nifti1Header(endianness=">")))
    scaled = nib.Nifti1Image(image.astype(np.int16), affine)
    scaled.header.set_slope_inter(2.0, -1000.0)
    scaled.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a phantom"))
    yield _bytes(scaled)


def _bytes(image: nib.Nifti1Image) -> bytes:
    stored: bytes = image.to_bytes()
    return stored


def _write_seeds(corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for number, stored in enumerate(seeds()):
        for kind, content in enumerate((stored, stored, gzip.compress(stored, mtime=0))):
            (corpus / f"seed_{number:02d}_{kind}").write_bytes(bytes([kind]) + content)


if __name__ == "__main__":
    warnings.simplefilter("error")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = Path(folder)
        CHANNELS = [FOLDER / f"channel_{number}.nii" for number in range(4)]
        if len(sys.argv) > 1 and not Path(sys.argv[1]).is_file():
            _write_seeds(Path(sys.argv[1]))
        atheris.Setup(sys.argv, check)
        atheris.Fuzz()
