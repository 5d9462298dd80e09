"""One fold trained by several processes, each on a device of its own.

``train_together`` is the side of the caller: it starts torchrun's agent (``mist_ops.training.launcher``), which starts
the processes, passes on what the first of them tells, and takes all of them down with it, however it ends. ``Ranks`` is
what each process knows of the others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

import torch
from torch import Tensor, distributed, nn

from mist_ops.errors import MistError, from_json
from mist_ops.types import Json

GRACE_SECONDS = 5
"""Time that processes have to remove their temporary files before they are killed."""


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


def join(device: torch.device, meeting: Path, backend: str = "auto") -> Ranks:
    """Meet the other processes, whose number and that of this one torchrun's agent says in the environment.

    Args:
        device: Of this process.
        meeting: A file that all of them can write, and nobody else.
        backend: How gradients travel; ``"auto"`` is NCCL between GPUs. Everything else goes by gloo.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = f"cpu:gloo,cuda:{'nccl' if backend == 'auto' else backend}"
    else:
        backend = "gloo"
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(backend, init_method=meeting.absolute().as_uri(), rank=rank, world_size=count)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def train_together(job: Json, devices: Sequence[torch.device]) -> Generator[Json]:
    """Run a job on several devices, yielding the epochs, as JSON, that its first process tells of.

    Args:
        job: What ``mist_ops.training.rank`` reads, the same for all processes.
        devices: One for each process.

    Raises:
        MistError: What stopped one of the processes, as if it had been raised here.
        RuntimeError: A mistake in the program stopped one; its trace.
    """
    traces = []
    with _launched(job, devices) as (launcher, messages):
        for line in messages:
            kind, content = json.loads(line)
            if kind == "epoch":
                yield content
            elif kind == "log":
                name, level, message = content
                logging.getLogger(name).log(level, message)
            elif kind == "error":
                raise from_json(content)
            else:
                # That another was killed would explain the trace; only the agent knows.
                traces.append(content)
        status = launcher.wait()
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise MistError(
                "A process that trained the fold was killed, probably for want of memory. The checkpoint of the last "
                "epoch is kept: resume with a smaller batch."
            )
        if status:
            raise RuntimeError("\n".join(traces) or "The processes that trained the fold ended without a word.")


def tell(messages: TextIO, kind: str, content: object) -> None:
    """Write what ``train_together`` reads."""
    messages.write(json.dumps([kind, content]) + "\n")
    messages.flush()


@contextmanager
def _launched(job: Json, devices: Sequence[torch.device]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The agent at work, and the lines that it and the processes write; when the block ends, none of them is left."""
    launcher = subprocess.Popen(
        [sys.executable, "-m", "mist_ops.training.launcher"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Of its own session: Ctrl-C in a terminal reaches the caller alone, who then ends it with its children.
        start_new_session=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // len(devices)))},
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    try:
        launcher.stdin.write(json.dumps({**job, "devices": [str(device) for device in devices]}) + "\n")
        # The pipe stays open: that it closes tells the processes that nobody waits for them, whatever became of us.
        launcher.stdin.flush()
        threading.Thread(target=_release, args=[launcher], daemon=True).start()
        yield launcher, launcher.stdout
    finally:
        launcher.terminate()
        try:
            launcher.wait(2 * GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            launcher.kill()
        launcher.stdin.close()
        # Until the last of the processes is gone.
        launcher.stdout.read()
        launcher.stdout.close()


def _release(launcher: subprocess.Popen[str]) -> None:
    """End the processes, should their agent have gone before them."""
    launcher.wait()
    assert launcher.stdin is not None
    launcher.stdin.close()
