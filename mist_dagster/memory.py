"""How much main memory a step may count on: claims of all processes of this user on this machine, met one by one.

What does not fit beside the claims of others waits; a claim is a locked file, which the kernel unlocks when its holder
dies.
"""

import contextlib
import fcntl
import getpass
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup/memory.max")
_SHARE = 0.9
"""Of the machine's memory; the rest is for the system and for estimates that were too low."""

_SECONDS_BETWEEN_TRIES = 0.5
_logger = logging.getLogger("mist")


@contextlib.contextmanager
def claim(needed: int, total: int | None = None, claims: Path | None = None) -> Iterator[None]:
    """Claim main memory for as long as the block runs, waiting until it fits beside what others have claimed.

    Whoever finds no claims is let in whatever the size: an estimate may be too high, and nobody is hurt by a try.

    Args:
        needed: Bytes.
        total: Bytes to share; by default most of this machine's, or of this container's.
        claims: Folder of the claims; by default one of this user on this machine.
    """
    folder = claims or Path(tempfile.gettempdir()) / f"mist_memory_{getpass.getuser()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    budget, waits = int(_SHARE * machine_memory()) if total is None else total, False
    with ExitStack() as held:
        while not _claimed(folder, needed, budget, held):
            if not waits:
                _logger.info("Waiting for %.1f GiB of memory, which other predictions hold.", needed / 2**30)
            waits = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield


def machine_memory() -> int:
    """Bytes of main memory of this machine, or of the container that this process runs in."""
    limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return physical if limit == "max" else min(physical, int(limit))


def _claimed(folder: Path, needed: int, budget: int, held: ExitStack) -> bool:
    """Put a claim among the others if it fits; it is taken back with ``held``."""
    with (folder / "one-at-a-time").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        others = sum(_of_others(folder))
        if others and others + needed > budget:
            return False
        handle, name = tempfile.mkstemp(suffix=".claim", dir=folder)
        stream = held.enter_context(os.fdopen(handle, "w"))
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(str(needed))
        stream.flush()
        held.callback(Path(name).unlink, missing_ok=True)
        return True


def _of_others(folder: Path) -> Iterator[int]:
    """The bytes of each claim whose holder lives; those of the dead are removed."""
    for path in folder.glob("*.claim"):
        with path.open("r+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield int(stream.read() or 0)
                continue
            path.unlink(missing_ok=True)
