"""Reservations of main memory: work that does not fit beside what others have reserved waits."""

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from mist_dagster.runtime.reservations import add, private_folder, reservations
from mist_ops.machine import installed_memory

_SHARE = 0.9
"""Of the machine's memory; the rest is for the system and for estimates that are too low."""

_SECONDS_BETWEEN_TRIES = 0.5
_logger = logging.getLogger("mist")


@contextlib.contextmanager
def reserve(needed: int, total: int | None = None, folder: Path | None = None, *, wait: bool = True) -> Iterator[bool]:
    """Reserve main memory while the block runs; wait until it fits beside other reservations, or yield whether it does.

    Without other reservations any size is granted, as the estimate may be too high.

    Args:
        needed: Bytes.
        total: Bytes to share; by default 90 % of the memory of this machine or container.
        folder: Folder of the reservations; by default one of this user on this machine.
        wait: Wait for memory. Otherwise nothing is reserved if it does not fit.

    Raises:
        ConfigError: Another user owns the default folder.
    """
    folder = folder or private_folder("memory")
    budget, waits = int(_SHARE * installed_memory()) if total is None else total, False
    with ExitStack() as held:
        while not (granted := _reserved(folder, needed, budget, held)) and wait:
            if not waits:
                _logger.info("Waiting for %.1f GiB of memory, reserved by other predictions.", needed / 2**30)
            waits = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield granted


def _reserved(folder: Path, needed: int, budget: int, held: ExitStack) -> bool:
    with reservations(folder) as others:
        fits = not others or sum(other["bytes"] for other in others) + needed <= budget
        if fits:
            add(folder, {"bytes": needed}, held)
        return fits
