"""Folders that hold one image per case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mist_ops.errors import DatasetError, few

NIFTI = (".nii.gz", ".nii")
"""Endings of NIfTI files."""

IMAGES = (*NIFTI, ".nrrd", ".mha", ".mhd")
"""Endings of images, including formats that only conversion reads."""


def image_id(name: str) -> str:
    """The name of a file without ``.nii.gz`` or ``.nii``."""
    return name.removesuffix(".gz").removesuffix(".nii") if name.endswith(NIFTI) else name


def images_in(folder: Path, endings: Sequence[str] = NIFTI) -> list[Path]:
    """Images directly in a folder, by name; hidden files are skipped, and a missing folder is empty.

    Subfolders and broken links with the name of an image are included, so that reading them fails by name.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.name.endswith(tuple(endings)) and not path.name.startswith("."))


def find_images(folder: Path, option: str, endings: Sequence[str] = NIFTI) -> dict[str, Path]:
    """Images directly in a folder, by case id, as ``images_in``.

    Args:
        folder: Where to look.
        option: Flag that names the folder, for error messages.
        endings: Endings of the images; ``IMAGES`` lets other formats fail by name instead of skipping them.

    Raises:
        DatasetError: The folder is missing or holds no image, or two images have the same id.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder. Give a folder of images with {option}.",
            code="folder-missing",
            file=folder,
            field=option,
        )
    found = images_in(folder, endings)
    if not found:
        raise DatasetError(
            f"{folder} holds no images. Their names must end in {few(NIFTI)}.",
            code="folder-empty",
            file=folder,
            field=option,
            expected=NIFTI,
        )
    ids = [image_id(path.name) for path in found]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(
            f"{folder} holds both .nii and .nii.gz of {few(twice)}. Remove one of them.",
            code="patient-duplicate",
            file=folder,
            found=twice,
        )
    return dict(zip(ids, found, strict=True))
