"""Training of one fold by several processes, one per device.

``train_together`` runs in the caller. It starts torchrun's agent (``mist_ops.training.launcher``), which starts the
processes; it relays the messages of the first process, and ends all of them when it ends for whatever reason. ``Ranks``
is what a process knows about the group.
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
"""Time for processes to remove their temporary files before they are killed."""


@dataclass(frozen=True)
class Ranks:
    """A process among those that train together: its number, and their count."""

    rank: int = 0
    count: int = 1

    def sums(self, values: Tensor) -> Tensor:
        """Element-wise sum of a CPU tensor over all processes."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def mean(self, value: float) -> float:
        """Mean of a number over all processes."""
        return float(self.sums(torch.tensor(value, dtype=torch.float64))) / self.count

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with gradients averaged over all processes; the model itself if there is only one."""
        if self.count == 1:
            return model
        # Some networks leave weights unused, which a static graph allows.
        return nn.parallel.DistributedDataParallel(
            model, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True, static_graph=True
        )

    def synchronized(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model, with batch norms synchronized if there are several GPUs."""
        together = self.count > 1 and device.type == "cuda"
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if together else model  # type: ignore


def join(device: torch.device, meeting: Path, backend: str = "auto") -> Ranks:
    """Join the process group; torchrun's agent has set rank and world size in the environment.

    Args:
        device: Of this process.
        meeting: A file for the rendezvous, writable by these processes only.
        backend: Backend for gradients; ``"auto"`` is NCCL between GPUs. Everything else uses gloo.
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
    """Run a job on several devices, and yield the epochs of its first process as JSON.

    Args:
        job: Input of ``mist_ops.training.rank``, the same for all processes.
        devices: One for each process.

    Raises:
        MistError: A process was killed, or raised this error.
        RuntimeError: A process raised another error; the message is its traceback.
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
                # The reason may be another process that was killed, which only the agent knows.
                traces.append(content)
        status = launcher.wait()
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise MistError(
                "A training process was killed, probably because memory ran out. The checkpoint of the last epoch is "
                "kept: resume with a smaller --batch-size-per-gpu.",
                code="process-killed",
            )
        if status:
            raise RuntimeError("\n".join(traces) or "The training processes ended without an error message.")


def send(messages: TextIO, kind: str, content: object) -> None:
    """Write a message to ``train_together``."""
    messages.write(json.dumps([kind, content]) + "\n")
    messages.flush()


@contextmanager
def _launched(job: Json, devices: Sequence[torch.device]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start the agent; yields it and the output of all processes, which have ended when the block does."""
    launcher = subprocess.Popen(
        [sys.executable, "-m", "mist_ops.training.launcher"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # In a session of its own, so that Ctrl-C reaches only the caller, which then ends the agent and its children.
        start_new_session=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // len(devices)))},
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    try:
        launcher.stdin.write(json.dumps({**job, "devices": [str(device) for device in devices]}) + "\n")
        # The pipe stays open; when it closes, also because this process was killed, the training processes end.
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
        # Blocks until the last process has ended.
        launcher.stdout.read()
        launcher.stdout.close()


def _release(launcher: subprocess.Popen[str]) -> None:
    """End the processes if their agent ends before them."""
    launcher.wait()
    assert launcher.stdin is not None
    launcher.stdin.close()
