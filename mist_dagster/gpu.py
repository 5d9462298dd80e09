"""Which GPUs a step may use: a lease of devices among all processes of this user on this machine.

Dagster's pool says how many steps run at once, never on which device. A lease is a file lock, which the kernel drops
when its holder dies, so that a killed worker frees its devices at once.
"""

import contextlib
import fcntl
import getpass
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

ALL_GPUS = 0
"""Instead of a number: as many as there are."""

_SECONDS_BETWEEN_TRIES = 0.5
_logger = logging.getLogger("mist")


@contextlib.contextmanager
def lease(wanted: int, visible: Mapping[str, str], locks: Path | None = None) -> Iterator[list[str]]:
    """Hold ``wanted`` of the visible devices, waiting until that many are free together.

    Nothing is held while waiting, so that two waiters never stand in each other's way.

    Args:
        wanted: How many; no more than are visible are ever taken.
        visible: The devices to choose from: names in this process, and what tells each from all others of the
            machine, whatever ``CUDA_VISIBLE_DEVICES`` makes of its number.
        locks: Folder of the lock files; by default one of this user on this machine.
    """
    folder = locks or Path(tempfile.gettempdir()) / f"mist_gpus_{getpass.getuser()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted, waits = min(wanted, len(visible)), False
    while True:
        with ExitStack() as held:
            names = list(_free(folder, visible, wanted, held))
            if len(names) == wanted:
                yield names
                return
        if not waits:
            _logger.info("Waiting for %d of the devices %s.", wanted, ", ".join(visible))
        waits = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _free(folder: Path, visible: Mapping[str, str], wanted: int, held: ExitStack) -> Iterator[str]:
    """Lock free devices until there are enough; the locks are let go with ``held``."""
    found = 0
    for name, identity in visible.items():
        stream: TextIO = (folder / f"{identity}.lock").open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            continue
        held.callback(stream.close)
        found += 1
        yield name
        if found == wanted:
            return


@contextlib.contextmanager
def leased_devices(device: str | None, gpus: int) -> Iterator[list[str]]:
    """The names of the devices that a step may use: leased GPUs, or the CPU.

    Args:
        device: As the user gave it: a GPU by its number is leased itself; None and ``cuda`` take any that are free.
        gpus: How many of those; ``ALL_GPUS`` for all that are visible.

    Raises:
        ConfigError: There is no such device.
    """
    import torch  # loads for seconds: only where it works

    from mist_ops.devices import resolve_device

    found = resolve_device(device)
    if found.type == "cpu":
        yield ["cpu"]
        return
    any_will_do = device in (None, "cuda")
    numbers = range(torch.cuda.device_count()) if any_will_do else [found.index]
    visible = {f"cuda:{number}": str(torch.cuda.get_device_properties(number).uuid) for number in numbers}
    with lease(gpus or len(visible), visible) as names:
        yield names
