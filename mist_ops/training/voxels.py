"""Some voxels of each class of a case, on which patches are centered: selected once, and kept beside the arrays.

Searching a volume of BraTS size takes 30 ms. A worker that opens the file instead receives nothing but its path.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from mist_ops.files import map_array, stamp, write_array

VOXELS_PER_CLASS = 10_000
"""Voxels of a class that are kept per case: 40 kB, and closer together than a patch is wide."""

_LOG = logging.getLogger(__name__)
_VERSION = 1
_HEAD = 8
"""Length of the head: version, stamp of the label array (three integers of 64 bits), and number of classes. Then follow
the number of voxels of each class from 1 on, and their flat indices, all as uint32."""


def class_voxels(path: Path) -> tuple[np.ndarray, ...]:
    """Memory-map the file of a case; return the flat indices of each class that is present, without the background."""
    return split(map_array(path))


def split(content: np.ndarray) -> tuple[np.ndarray, ...]:
    """The flat indices of each class that is present, from the content of a file."""
    counts = _counts(content)
    stops = (_HEAD + len(counts) + np.cumsum(counts)).tolist()
    return tuple(content[stop - count : stop] for stop, count in zip(stops, counts.tolist(), strict=True) if count)


def read_current(path: Path, label: Path) -> np.ndarray | None:
    """The content of the file of a case if it belongs to the label array as it is now; None if it must be rebuilt."""
    try:
        content = map_array(path)
    except (OSError, ValueError, EOFError):
        return None
    head = content[: _HEAD - 1]
    if content.dtype != np.uint32 or content.ndim != 1 or not np.array_equal(head, _head(label)):
        return None
    counts = _counts(content)
    return content if len(content) == _HEAD + len(counts) + counts.sum() else None


def select_voxels(case_id: str, labels: np.ndarray, label: Path) -> np.ndarray:
    """Select voxels of each class; those of a large class depend on the id of the case alone."""
    head = _head(label)  # If the array changes while it is read, the file is stale.
    where = np.flatnonzero(labels)
    values = labels.reshape(-1)[where]
    kept = [_selected(where[values == index], case_id, index) for index in range(1, int(values.max(initial=0)) + 1)]
    counts = np.array([len(kept), *map(len, kept)], dtype=np.uint32)
    return np.concatenate([head, counts, *kept])


def write_voxels(path: Path, content: np.ndarray) -> bool:
    """Write the file of a case; return False if its folder cannot be written."""
    try:
        write_array(path, content)
    except OSError as error:
        _LOG.warning("%s cannot be written (%s); the voxels of each class are kept in memory.", path, error.strerror)
        return False
    return True


def largest_class(content: np.ndarray) -> int:
    """The largest class index of a case, from the content of its file."""
    return int(content[_HEAD - 1])


def _head(label: Path) -> np.ndarray:
    stamped = np.array(stamp(label), dtype=np.int64).view(np.uint32)
    return np.concatenate([np.array([_VERSION], dtype=np.uint32), stamped])


def _counts(content: np.ndarray) -> np.ndarray:
    return content[_HEAD : _HEAD + largest_class(content)]


def _selected(voxels: np.ndarray, case_id: str, index: int) -> np.ndarray:
    if len(voxels) > VOXELS_PER_CLASS:
        drawn = torch.randperm(len(voxels), generator=seeded("voxels", case_id, index))
        voxels = np.sort(voxels[drawn[:VOXELS_PER_CLASS].numpy()])
    return voxels.astype(np.uint32)


def seeded(*key: str | int) -> Generator:
    """A random generator that depends on the key alone; different keys give unrelated numbers."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
