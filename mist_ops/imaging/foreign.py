"""Images of any format to compressed NIfTI files. The only module that knows formats other than NIfTI."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

from mist_ops.errors import ImageError
from mist_ops.files import atomic


def store_as_nifti(path: Path, target: Path) -> None:
    """Store an image as a ``.nii.gz`` file, atomically, with its voxels, their type and their place in the patient.

    ``.nii.gz`` is copied byte for byte and ``.nii`` compressed, so that their headers stay whole. Anything else (NRRD,
    MetaImage, GIPL and what else ITK reads) is read and written anew.

    Args:
        path: Its ending tells its format.
        target: Ends in ``.nii.gz``.

    Raises:
        ImageError: No such file; or one of another format that is no three-dimensional image of real numbers.
    """
    if not path.is_file():
        raise ImageError(f"There is no file {path}.")
    with atomic(target) as temporary:
        if path.name.endswith(".nii.gz"):
            shutil.copyfile(path, temporary)
        elif path.suffix == ".nii":
            _compress(path, temporary)
        else:
            _convert(path, temporary)


def _compress(path: Path, target: Path) -> None:
    # Without the time, so that the same file gives the same bytes.
    with path.open("rb") as stream, target.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
        shutil.copyfileobj(stream, packed)


def _convert(path: Path, target: Path) -> None:
    import SimpleITK  # 0.3 s, which NIfTI files need not wait

    try:
        image: Any = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        *_, reason = str(error).splitlines()
        raise ImageError(
            f"{path} cannot be read as an image: {reason.removeprefix('sitk::ERROR: ')}. Export it anew."
        ) from error
    size, values = image.GetSize(), image.GetNumberOfComponentsPerPixel()
    if len(size) != 3 or values != 1:
        found = f"the size {size} and {values} values a voxel"
        raise ImageError(f"{path} has {found}. It must have three dimensions and one value; split it first.")
    SimpleITK.WriteImage(image, str(target), useCompression=True)
