"""Atomic writes, and hashes and stamps that detect changed files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from mist_ops.types import Json

_TEMPORARY = ".tmp-"
"""Prefix of the names of incomplete files and folders; machine and process that write them follow."""

_LEFTOVER = re.compile(r"\.tmp-(?P<host>[0-9a-f]{4})-(?P<process>[0-9a-f]+)-[a-z0-9_]{8}(-.+)?")

_JOURNAL = ".replacing-"
"""Prefix of the names of files that list what replaces what."""

_FULL = 2**16
"""Free bytes below which a disk counts as full; less than any file that failed to be written."""


@contextmanager
def atomic(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it, synced to disk, if the block succeeds.

    The temporary name ends in the name of ``path``, so writers that look at the suffix see the right one. A path of
    ``together`` is temporary itself and yielded as it is. ``synced`` is that of ``Replacement.write``.

    Raises:
        OSError: The file cannot be written; a full disk is reported as such, whatever the block raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.startswith(_TEMPORARY):  # a path of ``together``, which syncs it
        yield path
        return
    temporary = _temporary(path)
    try:
        with _no_space(path):
            yield temporary
            _complete(temporary, synced=synced)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Create an empty file beside a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(), suffix=f"-{path.name}", dir=path.parent)
    os.close(handle)
    return Path(name)


def _prefix() -> str:
    return f"{_TEMPORARY}{_host()}-{os.getpid():x}-"


@cache
def _host() -> str:
    # Short, as it is part of each name.
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def _complete(temporary: Path, *, synced: bool) -> None:
    if synced:
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
    temporary.chmod(0o666 & ~_umask())


@contextmanager
def _no_space(path: Path) -> Iterator[None]:
    """Report a full disk as such: NumPy and torch do not raise ENOSPC."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(path.parent).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


class Replacement:
    """Files and folders that replace others together; see ``together``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._moves: list[tuple[Path, Path]] = []
        self._removed: list[Path] = []
        self.temporary: list[Path] = []
        self.synced: set[Path] = set()

    def write(self, path: Path, *, synced: bool = True) -> Path:
        """Return a temporary path beside ``path`` that will replace it.

        Args:
            path: The file.
            synced: Whether it is synced to disk first, which takes 3 to 10 ms. Without, it may be empty after a power
                failure: for files that are easily rebuilt and whose size is on record.
        """
        temporary = _temporary(path)
        if synced:
            self.synced.add(temporary)
        self.temporary.append(temporary)
        self._moves.append((temporary, path))
        return temporary

    def move(self, source: Path, path: Path) -> None:
        """Let a file or folder on the same file system replace ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._moves.append((source, path))

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""
        self._removed.append(path)

    def as_json(self) -> Json:
        """What a journal says; paths are relative, so that they hold in a copy or after a move."""
        beside = [path.parent / f"{_prefix()}{secrets.token_hex(4)}" for _, path in self._moves]
        moves = [(*move, old) for move, old in zip(self._moves, beside, strict=True)]
        return {
            "moves": [[self._relative(path) for path in move] for move in moves],
            "removed": [self._relative(path) for path in self._removed],
        }

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path.absolute(), self._folder.absolute())


@contextmanager
def together(folder: Path) -> Iterator[Replacement]:
    """Replace several files below a folder together if the block succeeds: all or none, even if the process is killed.

    New files are written beside the old ones. A journal in ``folder`` then lists what replaces what, and remains until
    that is done: whoever calls ``settle``, as this does first, completes what a killed process began.

    Raises:
        OSError: As ``atomic``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    new = Replacement(folder)
    try:
        with _no_space(folder / "any"):
            yield new
            for temporary in new.temporary:
                _complete(temporary, synced=temporary in new.synced)
            journal = _temporary(folder / "journal")
            new.temporary.append(journal)
            listed = new.as_json()
            with journal.open("w") as stream:
                _lock(stream)  # others wait until this process has carried it out or died
                json.dump(listed, stream)
                stream.flush()
                visible = folder / f"{_JOURNAL}{secrets.token_hex(4)}"
                new.temporary.clear()  # interrupted from here on, they are needed
                journal.replace(visible)
                _carry_out(folder.resolve(), listed)
                visible.unlink()
    finally:
        for temporary in new.temporary:
            temporary.unlink(missing_ok=True)


def settle(*folders: Path) -> None:
    """Complete the replacements that killed processes began in folders; without write access they stay as they are."""
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            _settle(folder)


def _settle(folder: Path) -> None:
    for name in [name for name in os.listdir(folder) if name.startswith(_JOURNAL)]:  # noqa: PTH208 - often called
        journal = folder / name
        with suppress(OSError), journal.open("r+") as stream:
            _lock(stream)
            if journal.exists():
                with suppress(ValueError):  # after a power failure
                    _carry_out(folder.resolve(), _checked(json.load(stream)))
                journal.unlink()


def _lock(stream: IO[str]) -> None:
    """Lock an open file, if its file system can: Lustre often cannot."""
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX)


def _checked(listed: Any) -> Json:
    """Return what a journal lists if all of it is in its folder: the folder may come from somebody else.

    Raises:
        ValueError: It is not, or this is no journal.
    """
    try:
        moves = [(str(source), str(path), str(old)) for source, path, old in listed["moves"]]
        removed = [str(name) for name in listed["removed"]]
    except (TypeError, KeyError) as error:
        raise ValueError("not a journal") from error
    if not all(Path(old).name.startswith(_TEMPORARY) for _, _, old in moves):
        raise ValueError("not a journal")
    for name in (*removed, *(name for move in moves for name in move)):
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
            raise ValueError(f"{name} is not below the folder of the journal")
    return {"moves": moves, "removed": removed}


def _carry_out(folder: Path, listed: Json) -> None:
    """Replace and remove what a journal lists, or what is left of it."""
    for move in listed["moves"]:
        source, path, old = (folder / name for name in move)
        if os.path.lexists(source):
            if path.is_dir() and not path.is_symlink():
                path.replace(old)
            source.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    for name in listed["removed"]:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that replaces it, with its content, if the block succeeds.

    For thousands of small files that are easily rebuilt: they are not synced, which takes about 10 ms each on a busy
    disk.
    """
    with temporary_folder(path.parent) as folder, together(path.parent) as files:
        temporary = folder / "new"
        temporary.mkdir()
        yield temporary
        files.move(temporary, path)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder in another one, which is created, to build in it what will be moved."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_prefix(), dir=parent) as name:
        yield Path(name)


def remove_leftovers(*folders: Path) -> None:
    """Complete what killed processes of this machine began to replace in folders, and remove their temporary files."""
    found = [path for folder in folders for path in _leftovers(folder)]
    settle(*folders)  # after the search: none of those found is part of a replacement to come
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _leftovers(folder: Path) -> Iterator[Path]:
    """The temporary files and folders in a folder, subfolders apart, whose process no longer exists."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):  # noqa: PTH208 - of thousands of files
            found = _LEFTOVER.fullmatch(name) if name.startswith(_TEMPORARY) else None
            if found and found["host"] == _host() and not _exists(int(found["process"], 16)):
                yield folder / name


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _umask() -> int:
    # The only portable way to read the umask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, synced: bool = True) -> None:
    """Write JSON as ``atomic`` does, indented by two, keys in the given order; ``NaN`` is refused."""
    # Streamed: as one string, the fingerprint of thousands of CTs takes hundreds of MiB.
    with atomic(path, synced=synced) as temporary, temporary.open("w", encoding="utf-8") as stream:
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
    return stamp_of(path.stat())


def stamp_of(found: os.stat_result) -> list[int]:
    """The stamp of a file whose state is known."""
    # Unlike mtime, ctime cannot be set back.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def stamps(files: Mapping[str, Path]) -> dict[str, list[int]]:
    """The stamps of those files that exist, by name, with one look at each."""
    found = {}
    for name, path in files.items():
        try:
            state = path.stat()
        except OSError as error:
            if error.errno not in _MISSING:
                raise
        else:
            if stat.S_ISREG(state.st_mode):
                found[name] = stamp_of(state)
    return found


_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
