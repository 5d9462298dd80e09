"""Which GPUs a step may use: a lease of devices among all processes of this user on this machine.

Dagster's pool says how many steps run at once, never on which device. A lease is a file lock, which the kernel drops
when its holder dies, so that a killed worker frees its devices at once. The queue holds back what would only wait
here: the pool has as many slots as there are devices.
"""

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mist_dagster.runtime.reservations import own_folder

if TYPE_CHECKING:
    from dagster import AssetExecutionContext, DagsterInstance

POOL = "gpu"
"""The pool of steps that need a device."""

DEVICES = "MIST_DEVICES"
"""Environment variable: the devices to use, by name, such as ``cuda:2,cuda:3``.

``cpu:0,cpu:1`` are two places on the CPU: leased and queued for as two GPUs are, and computing on the same cores.
"""

DEVICE_TAG = "mist/gpu"
"""Run tag: the devices that a run got."""

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

    Raises:
        ConfigError: That folder is another user's.
    """
    folder = locks or own_folder("gpus")
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
def leased_devices(
    device: str | None, gpus: int, context: "AssetExecutionContext | None" = None
) -> Iterator[list[str]]:
    """The names of the devices that a step may use: leased GPUs, or the CPU.

    Args:
        device: As the user gave it: a GPU by its number is leased itself; None and ``cuda`` take any that are free.
        gpus: How many of those; ``ALL_GPUS`` for all that are visible.
        context: The step, whose run gets the names as a tag.

    Raises:
        ConfigError: There is no such device.
    """
    visible = _visible(device)
    with lease(gpus or len(visible), visible) if visible else contextlib.nullcontext(["cpu"]) as names:
        if context is not None:
            context.instance.add_run_tags(context.run.run_id, {DEVICE_TAG: ", ".join(names)})
        yield [name.partition(":")[0] if name.startswith("cpu") else name for name in names]


def _visible(device: str | None) -> dict[str, str]:
    """The devices that will do, with what tells each from all others of this machine; none for the CPU as a whole."""
    import torch  # loads for seconds: only where it works

    from mist_ops.devices import resolve_device

    listed = [name.strip() for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
    names = [name for name in listed if device is None or (device == "cuda" and name.startswith("cuda"))]
    if not names:
        found = resolve_device(device)
        whole = device in (None, "cuda") and found.type == "cuda"
        numbers = range(torch.cuda.device_count()) if whole else [found.index]
        names = [f"cuda:{number}" for number in numbers] if found.type == "cuda" else []
    return {name: name.replace(":", "_") if name.startswith("cpu") else _uuid(name) for name in names}


def _uuid(name: str) -> str:
    import torch

    from mist_ops.devices import resolve_device

    return str(torch.cuda.get_device_properties(resolve_device(name)).uuid)


def fit_pool(instance: "DagsterInstance") -> None:
    """Give the pool a slot for each device, unless the user has set another number.

    What was set here is remembered, so that it follows the devices when some are added.
    """
    storage, remembered = instance.event_log_storage, "mist/slots of the pool"
    limits = {pool.name: pool.limit for pool in storage.get_pool_limits() if not pool.from_default}
    ours = instance.run_storage.get_cursor_values({remembered}).get(remembered)
    if POOL in limits and str(limits[POOL]) != ours:
        return
    slots = max(1, _count())
    storage.set_concurrency_slots(POOL, slots)
    instance.run_storage.set_cursor_values({remembered: str(slots)})


def _count() -> int:
    """How many devices a step may choose from, counted by a process, so that torch does not stay in memory."""
    counted = subprocess.run([sys.executable, "-c", _COUNT], check=False, stdout=subprocess.PIPE)
    if counted.returncode:  # it has said why
        raise SystemExit(1)
    return int(counted.stdout)


_COUNT = """
import sys
from mist_dagster.runtime.gpu import _visible
from mist_ops.errors import MistError
try:
    print(len(_visible(None)))
except MistError as error:
    sys.exit(f"Error: MIST_DEVICES: {error}")
"""
