"""How much main memory a step may count on: what does not fit beside the claims of others waits."""

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from mist_dagster.runtime.reservations import own_folder, put, turn
from mist_ops.machine import installed_memory

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

    Raises:
        ConfigError: That folder is another user's.
    """
    folder = claims or own_folder("memory")
    budget, waits = int(_SHARE * installed_memory()) if total is None else total, False
    with ExitStack() as held:
        while not _claimed(folder, needed, budget, held):
            if not waits:
                _logger.info("Waiting for %.1f GiB of memory, which other predictions hold.", needed / 2**30)
            waits = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield


def _claimed(folder: Path, needed: int, budget: int, held: ExitStack) -> bool:
    with turn(folder) as others:
        fits = not others or sum(other["bytes"] for other in others) + needed <= budget
        if fits:
            put(folder, {"bytes": needed}, held)
        return fits
