"""Reservations that live processes hold: locked files in a folder, which the kernel unlocks when their holder dies.

What is reserved and what excludes what is up to the callers: memory of a machine, files of a study.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from mist_ops.errors import ConfigError
from mist_ops.types import Json


def private_folder(name: str) -> Path:
    """Return a temporary folder for locks that this user's processes on this machine share.

    Raises:
        ConfigError: Another user owns it or can write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"mist_{name}_{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    # The parent folder is writable for everyone and the name is predictable.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{folder} must be a folder that only you can write to. Remove it, or set TMPDIR to a private folder.",
            code="folder-not-private",
            file=folder,
        )
    return folder


@contextlib.contextmanager
def reservations(folder: Path) -> Iterator[list[Json]]:
    """Yield a folder's reservations; until the block ends, no other process can add one.

    Reservations of processes that died are removed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield list(_live(folder))


def add(folder: Path, content: Json, held: ExitStack) -> None:
    """Add a reservation inside a block of ``reservations``; closing ``held`` removes it."""
    handle, name = tempfile.mkstemp(suffix=".reservation", dir=folder)
    stream = held.enter_context(os.fdopen(handle, "w"))
    fcntl.flock(stream, fcntl.LOCK_EX)
    json.dump(content, stream)
    stream.flush()
    held.callback(Path(name).unlink, missing_ok=True)


def held(folder: Path) -> Iterator[Json]:
    """Yield the reservations of a folder, which may be read-only; others may be added and removed meanwhile."""
    for path in folder.glob("*.reservation"):
        with contextlib.suppress(OSError, ValueError), path.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield json.load(stream)


def _live(folder: Path) -> Iterator[Json]:
    for path in folder.glob("*.reservation"):
        with contextlib.suppress(FileNotFoundError), path.open("r+") as stream:  # its holder may be removing it
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield json.load(stream)
                continue
            path.unlink()
