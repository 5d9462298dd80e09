"""What a file is according to its first bytes, where its name says otherwise."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

from mist_ops.errors import ImageError

PAIRS = (".img", ".hdr", ".img.gz", ".hdr.gz")
"""Endings of the files of an image in two files, voxels and header."""

_GZIP = b"\x1f\x8b"

_NIFTI = tuple(struct.pack(f"{order}i", size) for order in "<>" for size in (348, 540))
"""The first four bytes of NIfTI-1 and NIfTI-2: the size of the header."""

_START = 512

_DICOM_AT, _DICOM = 128, b"DICM"


def check_format(path: Path) -> None:
    """Check that a file holds what its name says, if its first bytes name another format.

    Raises:
        ImageError: It is in another format; the message says what to do.
    """
    with path.open("rb") as stream:
        start = stream.read(_START)
    found = _misnamed(path.name.lower(), start) or _other_format(path.name.lower(), start)
    if found:
        problem, advice = found
        raise ImageError(f"{path} is {problem}. {advice}.", code="image-format", file=path, found=problem)


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI, compressed or not, by its first bytes."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            return stream.read(4) in _NIFTI
    except (OSError, EOFError, zlib.error):
        return False


def _misnamed(name: str, start: bytes) -> tuple[str, str] | None:
    if name.endswith((".nii", ".img", ".hdr")) and start.startswith(_GZIP):
        return "compressed, but its name does not end in .gz", "Rename it, with .gz at the end"
    if name.endswith(".nii.gz") and start.startswith(_NIFTI):
        return "not compressed, but its name ends in .gz", "Rename it, without .gz at the end"
    return None


def _other_format(name: str, start: bytes) -> tuple[str, str] | None:
    converted = "Convert it with mist_convert_csv"
    if start[_DICOM_AT:].startswith(_DICOM):
        return "a DICOM file", "Convert its series to NIfTI, for example with dcm2niix"
    if start.startswith(b"PK\x03\x04"):
        return "a ZIP archive", "Unpack it"
    if start.startswith(b"version https://git-lfs"):
        return "a placeholder of Git LFS", "Download the file with 'git lfs pull'"
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page", "Download the file again"
    if start.startswith(b"NRRD0") or name.endswith((".nrrd", ".nhdr")):
        return "an NRRD image, which only conversion reads", converted
    if start.startswith((b"ObjectType", b"NDims")) or name.endswith((".mha", ".mhd")):
        return "a MetaImage, which only conversion reads", converted
    return None
