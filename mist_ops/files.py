"""Atomic writes, and hashes and stamps that detect changed files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mist_ops.types import Json

_TEMPORARY = ".tmp-"
"""Prefix of the names of incomplete files."""

_FULL = 2**16
"""Free bytes below which a disk counts as full; less than any file that failed to be written."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it, synced to disk, if the block succeeds.

    The temporary name ends in the name of ``path``, so writers that look at the suffix see the right one.

    Raises:
        OSError: The file cannot be written; a full disk is reported as such, whatever the block raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=f"-{path.name}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except Exception as error:
        # NumPy and torch do not raise ENOSPC when the disk is full.
        if shutil.disk_usage(path.parent).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that replaces it, with its content, if the block succeeds.

    For thousands of small files that are easily rebuilt: they are not synced, which takes about 10 ms each on a busy
    disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=path.parent) as name:
        temporary, old = Path(name) / "new", Path(name) / "old"
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed writers from a folder and its subfolders, to which no process may be writing."""
    for path in list(folder.rglob(f"{_TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _umask() -> int:
    # The only portable way to read the umask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented by two, keys in the given order; ``NaN`` is refused."""
    # Streamed: as one string, the fingerprint of thousands of CTs takes hundreds of MiB.
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, allow_nan=False)


def read_object(path: Path) -> Json:
    """Read a JSON object.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds {json.dumps(value)[:20]} and not an object")
    return value


_HEADERS = threading.Lock()
"""NumPy parses the header of a file with ``ast``, which fails at random in Python 3.11 if two threads do so at once."""


def map_array(path: Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Memory-map an array, read-only or copy-on-write; threads may do so at the same time.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not an array, or is truncated.
    """
    with _HEADERS:
        return np.lib.format.open_memmap(path, mode=mode)


def read_array(path: Path) -> np.ndarray:
    """Read an array into memory; otherwise as ``map_array``."""
    return np.array(map_array(path))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array atomically as a C-ordered ``.npy``, readable without pickle."""
    with atomic(path) as temporary:
        save_array(temporary, array)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a C-ordered ``.npy``, readable without pickle, to a path of any suffix."""
    with path.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hashes(files: Mapping[str, Iterable[Path]]) -> dict[str, dict[str, str]]:
    """SHA-256 of the existing files of each group, by path."""
    return {name: {str(path): file_hash(path) for path in paths if path.is_file()} for name, paths in files.items()}


def stamp(path: Path) -> list[int]:
    """Size and times of a file (bytes, ns); while they are the same, its content is taken to be unchanged."""
    found = path.stat()
    # Unlike mtime, ctime cannot be set back.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
