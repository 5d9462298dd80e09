"""Claims that live processes hold, each a locked file in a folder, which the kernel unlocks when its holder dies.

What is claimed, and what goes together, is for the callers to say: memory of a machine, files of a study.
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


def own_folder(name: str) -> Path:
    """A folder of this user on this machine, for what its processes tell one another.

    Raises:
        ConfigError: It is another user's, or no folder.
    """
    folder = Path(tempfile.gettempdir()) / f"mist_{name}_{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    # Everyone may write where it lies, and know its name beforehand.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(f"{folder} is no folder that you alone can write. Remove it, or set TMPDIR to one of yours.")
    return folder


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[list[Json]]:
    """The claims in a folder, with nobody else changing them until the block ends; those of the dead are removed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "turn").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield list(_live(folder))


def put(folder: Path, content: Json, held: ExitStack) -> None:
    """Put a claim into a folder, in a turn; it is taken back with ``held``."""
    handle, name = tempfile.mkstemp(suffix=".claim", dir=folder)
    stream = held.enter_context(os.fdopen(handle, "w"))
    fcntl.flock(stream, fcntl.LOCK_EX)
    json.dump(content, stream)
    stream.flush()
    held.callback(Path(name).unlink, missing_ok=True)


def _live(folder: Path) -> Iterator[Json]:
    for path in folder.glob("*.claim"):
        with contextlib.suppress(FileNotFoundError), path.open("r+") as stream:  # its holder may just take it back
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield json.load(stream)
                continue
            path.unlink()
