"""Reading batches ahead, in worker processes or in this one."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mist_ops.errors import MistError
from mist_ops.training.batches import Batch, PatchSampler

_AHEAD = 2
"""Batches that each thread reads ahead, as many as a worker of DataLoader."""


def threaded(sampler: PatchSampler, steps: Iterable[int], threads: int, pin_memory: bool = False) -> Iterator[Batch]:
    """Yield the batches of some steps in order, cropped ahead by threads of this process.

    Copying from memory does not hold Python's lock. Unlike workers, threads start at once and share what is in memory.
    """
    create = partial(_pinned, sampler) if pin_memory else sampler.__getitem__
    remaining = iter(steps)
    with ThreadPoolExecutor(threads) as pool:
        begun = deque(pool.submit(create, step) for step in islice(remaining, _AHEAD * threads))
        try:
            while begun:
                batch = begun.popleft().result()
                begun.extend(pool.submit(create, step) for step in islice(remaining, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _pinned(sampler: PatchSampler, step: int) -> Batch:
    return sampler[step].pin_memory()


def stream(sampler: PatchSampler, steps: Sequence[int], workers: int, pin_memory: bool = False) -> Iterator[Batch]:
    """Yield the batches of some steps in order; nothing starts before the first is requested.

    One stream serves a whole run, so workers start once and read ahead during validation.

    Args:
        sampler: Creates the batches.
        steps: Steps, counted over all epochs.
        workers: Processes that read ahead; with 0, batches are created when requested.
        pin_memory: Whether to return them in pinned memory.
    """
    if not workers and not pin_memory:
        yield from map(sampler.__getitem__, steps)
        return
    attempts = DataLoader(
        _Attempts(sampler),
        batch_size=None,
        # By default, tuples become lists without workers.
        collate_fn=_unchanged,
        sampler=steps,
        num_workers=workers,
        multiprocessing_context=_context() if workers else None,
        pin_memory=pin_memory,
        # The loader draws a seed for its workers, by default from the global generator.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in attempts:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def start_server() -> None:
    """Start the process that workers are forked from, so that it imports what they need while others do other things.

    It serves all folds that this process trains. If a pool of workers has started it, workers import on their own.
    """
    _context()
    forkserver.ensure_running()


def _context() -> ForkServerContext:
    """The server that workers are forked from: once it has imported everything, they start in milliseconds.

    They are not forked from this process, which may have threads (Dagster, BLAS) whose locks they would inherit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_main(), __name__])
    return context


def _main() -> str:
    """The name by which workers import the program of this process: its own after ``python -m``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # A package's __main__ is not imported by workers either.
    return "__main__" if spec is None or spec.name.endswith("__main__") else str(spec.name)


Item = TypeVar("Item")


def _unchanged(item: Item) -> Item:
    return item


@dataclass(frozen=True)
class _Attempts(Dataset[Batch | Exception]):
    """The batches of a sampler or their errors, since DataLoader replaces an error in a worker with another."""

    sampler: PatchSampler

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.sampler[step]
        except (MistError, OSError) as error:
            return error


def default_workers(configured: int, device: torch.device) -> int:
    """Processes that read ahead by default: on a GPU the configured number, at most one per core; on a CPU none.

    On a CPU the training step uses all cores, so a worker costs as much as it saves.
    """
    return 0 if device.type == "cpu" else min(configured, len(os.sched_getaffinity(0)))
