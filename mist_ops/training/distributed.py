"""One fold trained by several processes, each on a device of its own.

``train_together`` is the side of the caller: it starts the processes, passes on what the first of them tells, and takes
all of them down with it, however it ends. ``Ranks`` is what each process knows of the others. The processes are
started one by one rather than by ``torchrun``: that would be one more process that can be killed before its children.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from mist_ops import errors
from mist_ops.errors import CaseError, MistError
from mist_ops.types import Json

GRACE_SECONDS = 5.0
"""Time that the others have to say what went wrong, or to remove temporary files, before they are killed."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: this one's number among them, and how many there are."""

    rank: int = 0
    count: int = 1

    def sums(self, values: Tensor) -> Tensor:
        """Sums of the values of all processes, element by element; on the CPU."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def mean(self, value: float) -> float:
        """Mean of a number of each process."""
        return float(self.sums(torch.tensor(value, dtype=torch.float64))) / self.count

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """A model whose gradients are means over all processes; the model itself if there is but one."""
        if self.count == 1:
            return model
        # A static graph may leave weights unused, as some networks do.
        return nn.parallel.DistributedDataParallel(
            model, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True, static_graph=True
        )

    def synchronized(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model, with batch norms that count all processes' patches where there are several on GPUs."""
        together = self.count > 1 and device.type == "cuda"
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if together else model  # type: ignore


def join(rank: int, devices: Sequence[torch.device], meeting: Path, backend: str = "auto") -> Ranks:
    """Meet the other processes in a file; no port is needed.

    Args:
        rank: Number of this process.
        devices: Of all processes.
        meeting: File that does not exist yet, the same for all.
        backend: How gradients travel; ``"auto"`` is NCCL between GPUs. Everything else goes by gloo.
    """
    if devices[rank].type == "cuda":
        torch.cuda.set_device(devices[rank])
        backend = f"cpu:gloo,cuda:{'nccl' if backend == 'auto' else backend}"
    else:
        backend = "gloo"
    distributed.init_process_group(backend, init_method=meeting.as_uri(), rank=rank, world_size=len(devices))
    return Ranks(rank, len(devices))


def train_together(job: Json, devices: Sequence[torch.device]) -> Generator[Json]:
    """Run a job on several devices, yielding the epochs, as JSON, that its first process tells of.

    Args:
        job: What ``mist_ops.training.rank`` reads, the same for all processes.
        devices: One for each process.

    Raises:
        MistError: What stopped one of the processes, as if it had been raised here.
        RuntimeError: A mistake in the program stopped one; its trace.
    """
    with _processes(job, devices) as (processes, messages):
        for line in messages:
            kind, content = json.loads(line)
            if kind == "epoch":
                yield content
            elif kind == "log":
                name, level, message = content
                logging.getLogger(name).log(level, message)
            elif kind == "error":
                raise told(*content)
            else:
                _fail(processes, content)
        _fail(processes, "A process that trained the fold ended without a word.")


def told(family: str, arguments: Sequence[str]) -> MistError:
    """The error that another process met."""
    error: MistError = getattr(errors, family)(*arguments)
    return error


def telling(error: MistError) -> tuple[str, list[str]]:
    """An error in words that ``told`` understands: the nearest kind in ``mist_ops.errors``, and its arguments."""
    family = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return family.__name__, [error.case_id, error.problem] if isinstance(error, CaseError) else [str(error)]


def _fail(processes: Sequence[subprocess.Popen[str]], trace: str) -> None:
    """Raise what stopped the processes, if anything did: that one was killed explains the traces of the others."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(_POLL_SECONDS)
    if any(process.returncode == -signal.SIGKILL for process in processes):
        raise MistError(
            "A process that trained the fold was killed, probably for want of memory. The checkpoint of the last "
            "epoch is kept: resume with a smaller batch."
        )
    if any(process.returncode for process in processes):
        raise RuntimeError(trace)


@contextmanager
def _processes(
    job: Json, devices: Sequence[torch.device]
) -> Iterator[tuple[list[subprocess.Popen[str]], Iterator[str]]]:
    """The processes at work, and the lines they write; when the block ends, however it does, none is left."""
    with tempfile.TemporaryDirectory() as folder:
        common = {**job, "devices": [str(device) for device in devices], "meeting": f"{folder}/meeting"}
        common["threads"] = max(1, torch.get_num_threads() // len(devices))
        reading, writing = os.pipe()
        processes: list[subprocess.Popen[str]] = []
        with os.fdopen(reading, encoding="utf-8") as messages:
            try:
                with os.fdopen(writing, "wb"):
                    for rank in range(len(devices)):
                        processes.append(_start({**common, "rank": rank, "messages": writing}))
                threading.Thread(target=_watch, args=[processes], daemon=True).start()
                yield processes, messages
            finally:
                _end(processes)


def _start(job: Json) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mist_ops.training.rank"],
        stdin=subprocess.PIPE,
        stdout=2,  # What libraries print is no answer of ours.
        pass_fds=[job["messages"]],
        # Of its own session: Ctrl-C in a terminal reaches the caller alone, who then ends it with its children.
        start_new_session=True,
        text=True,
    )
    assert process.stdin is not None
    # The pipe stays open: that it closes tells the process that the caller is gone, whatever became of it.
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process


def _watch(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End all processes once one has failed: the others would wait for it in vain."""
    while all(process.poll() in (None, 0) for process in processes):
        if all(process.poll() == 0 for process in processes):
            return
        time.sleep(_POLL_SECONDS)
    # One that hangs in a library never sees SIGTERM; SIGKILL would look like want of memory.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        time.sleep(GRACE_SECONDS)
        _signal([process for process in processes if process.poll() is None], number)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    _signal([process for process in processes if process.poll() is None], signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(_POLL_SECONDS)
    # Those that read patches ahead are in the groups of the processes they serve.
    _signal(processes, signal.SIGKILL)
    for process in processes:
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _signal(processes: Sequence[subprocess.Popen[str]], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            continue
