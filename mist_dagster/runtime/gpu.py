"""Leases of GPUs among all processes of this user on this machine.

Dagster's pool limits how many steps run at once, but does not assign devices. A lease is a file lock, which the kernel
drops when its holder dies, so a killed worker frees its devices at once. The pool has a slot for each device, so that
runs wait in the queue and not here.
"""

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mist_dagster.runtime.reservations import private_folder
from mist_dagster.slurm.settings import find, most_jobs
from mist_ops.errors import ConfigError, MistError, from_json, to_json
from mist_ops.study import Study

if TYPE_CHECKING:
    from dagster import AssetExecutionContext, DagsterInstance

POOL = "gpu"
"""The pool of steps that need a device."""

SLURM_POOL = "slurm"
"""The pool of these steps in studies on Slurm: a slot for each job, as none of them needs a device here."""

DEVICES = "MIST_DEVICES"
"""Environment variable: names of the devices to use, such as ``cuda:2,cuda:3``.

``cpu:0,cpu:1`` are two slots on the CPU: leased and queued like GPUs, but sharing its cores.
"""

DEVICE_TAG = "mist/gpu"
"""Run tag: the devices that a run leased."""

ALL_GPUS = 0
"""Number of GPUs that means all of them."""

_SECONDS_BETWEEN_TRIES = 0.5
_logger = logging.getLogger("mist")


@contextlib.contextmanager
def lease(number: int, visible: Mapping[str, str], folder: Path | None = None) -> Iterator[list[str]]:
    """Lease devices while the block runs; wait until enough are free at the same time.

    No device is held while waiting, so two waiting processes cannot block each other.

    Args:
        number: How many devices; at most all visible ones are leased.
        visible: The devices to choose from: name in this process, and an identity that does not depend on
            ``CUDA_VISIBLE_DEVICES``.
        folder: Folder of the lock files; by default one of this user on this machine.

    Raises:
        ConfigError: Another user owns the default folder.
    """
    folder = folder or private_folder("gpus")
    number, waits = min(number, len(visible)), False
    while True:
        with ExitStack() as held:
            names = list(_free(folder, visible, number, held))
            if len(names) == number:
                yield names
                return
        if not waits:
            _logger.info("Waiting for %d of the devices %s.", number, ", ".join(visible))
        waits = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _free(folder: Path, visible: Mapping[str, str], number: int, held: ExitStack) -> Iterator[str]:
    """Lock free devices up to a number; closing ``held`` unlocks them."""
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
        if found == number:
            return


@contextlib.contextmanager
def leased_devices(
    device: str | None, gpus: int, context: "AssetExecutionContext | None" = None, work: str = "predicting"
) -> Iterator[list[str]]:
    """Lease the devices of a step while the block runs: GPUs, or the CPU.

    Args:
        device: The user's choice: the number of one GPU, or None or ``cuda`` for any free ones.
        gpus: How many GPUs; ``ALL_GPUS`` for all visible ones.
        context: The step; its run gets a tag with the names.
        work: What they are for, in the warning that there is no GPU.

    Raises:
        ConfigError: The device does not exist.
    """
    visible = _visible(device, work)
    with lease(gpus or len(visible), visible) if visible else contextlib.nullcontext(["cpu"]) as names:
        if context is not None:
            context.instance.add_run_tags(context.run.run_id, {DEVICE_TAG: ", ".join(names)})
        yield [name.partition(":")[0] if name.startswith("cpu") else name for name in names]


def _visible(device: str | None, work: str = "running") -> dict[str, str]:
    """Devices that match a choice, with their identities; none for the CPU as a whole."""
    import torch  # takes seconds to import

    from mist_ops.devices import resolve_device

    listed = [name.strip() for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
    names = [name for name in listed if device is None or (device == "cuda" and name.startswith("cuda"))]
    if not names:
        found = resolve_device(device, work)
        whole = device in (None, "cuda") and found.type == "cuda"
        numbers = range(torch.cuda.device_count()) if whole else [found.index]
        names = [f"cuda:{number}" for number in numbers] if found.type == "cuda" else []
    return {name: name.replace(":", "_") if name.startswith("cpu") else _uuid(name) for name in names}


def _uuid(name: str) -> str:
    import torch

    from mist_ops.devices import resolve_device

    return str(torch.cuda.get_device_properties(resolve_device(name)).uuid)


def pool_of(study: Study) -> str:
    """The pool of a study's steps that need a device."""
    try:
        return SLURM_POOL if find(study) else POOL
    except ConfigError as error:  # the launcher of runs reports it; the other studies stay usable
        _logger.warning("%s", error)
        return POOL


def fit_pool(instance: "DagsterInstance") -> None:
    """Give the pool a slot for each device, unless the user has set another number.

    The number set here is recorded, to distinguish it from a number that the user set.

    Raises:
        ConfigError: ``MIST_DEVICES`` names a device that does not exist.
    """
    _fit(instance, POOL, "mist/slots of the pool", lambda: max(1, _count()))
    _fit(instance, SLURM_POOL, "mist/slots of the pool of Slurm", most_jobs)


def _fit(instance: "DagsterInstance", pool: str, recorded: str, count: Callable[[], int]) -> None:
    storage = instance.event_log_storage
    limits = {pool.name: pool.limit for pool in storage.get_pool_limits() if not pool.from_default}
    ours = instance.run_storage.get_cursor_values({recorded}).get(recorded)
    if pool in limits and str(limits[pool]) != ours:
        return
    slots = count()
    storage.set_concurrency_slots(pool, slots)
    instance.run_storage.set_cursor_values({recorded: str(slots)})


def _count() -> int:
    """Number of visible devices, counted by another process, so that torch does not stay in this one's memory."""
    code = f"from {__name__} import _print_count; _print_count()"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    if isinstance(found, dict):
        error = from_json(found)
        message = f"{DEVICES}: {error.message}"
        raise ConfigError(message, code=error.code, field=DEVICES, found=os.environ.get(DEVICES)) from error
    return int(found)


def _print_count() -> None:
    try:
        found: object = len(_visible(None))
    except MistError as error:
        found = to_json(error)
    print(json.dumps(found))  # noqa: T201 - read by the process that counts
