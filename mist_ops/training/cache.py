"""The arrays of a fold in memory, so that patches are cropped without reading files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mist_ops.files import read_array
from mist_ops.machine import available_memory
from mist_ops.training.cases import CaseArrays, Volumes, check_finite

Place: TypeAlias = Literal["device", "ram", "none"]
"""Where arrays are kept: in the memory of the device, in main memory, or only on disk."""

_SHARE_OF_DEVICE = 0.4
"""Of its free memory; the rest is for the network, which needs 5 to 8 GiB for two patches of 128 voxels cubed."""

_SHARE_OF_RAM = 0.5
"""Of the available memory, for all processes that train together."""

_LOG = logging.getLogger(__name__)


def choose_place(
    requested: Literal["auto", "device", "ram", "none"],
    cases: Sequence[CaseArrays],
    device: torch.device,
    processes: int = 1,
) -> Place:
    """Return where to keep arrays: as requested, or where they fit.

    On a CPU, memory-mapped files are as fast as copies of them, since the system keeps them in memory.
    """
    if requested != "auto":
        return requested
    if device.type == "cpu":
        return "none"
    needed = size_of(cases)
    free, _ = torch.cuda.mem_get_info(device)
    if needed <= _SHARE_OF_DEVICE * free:
        return "device"
    return "ram" if processes * needed <= _SHARE_OF_RAM * available_memory() else "none"


def size_of(cases: Sequence[CaseArrays]) -> int:
    """Bytes of the arrays of cases."""
    paths = (path for case in cases for path in (case.image, case.label, case.dtm))
    return sum(path.stat().st_size for path in paths if path is not None)


def load(cases: Sequence[CaseArrays], device: torch.device) -> tuple[CaseArrays, ...]:
    """Read the arrays of cases into the memory of a device.

    Raises:
        CaseError: An array holds NaN or infinite values.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return tuple(pool.map(partial(_loaded, device=device), cases))


def _loaded(case: CaseArrays, device: torch.device) -> CaseArrays:
    image, label = (_read(path, device) for path in (case.image, case.label))
    check_finite(case.id, case.image, image)
    dtm = None
    if case.dtm is not None:
        dtm = _read(case.dtm, device)
        check_finite(case.id, case.dtm, dtm)
    kept = read_array(case.study.voxels(case.id)) if case.kept is None else case.kept
    return replace(case, kept=kept, cached=Volumes(image, label, dtm))


def _read(path: Path, device: torch.device) -> Tensor:
    return torch.from_numpy(read_array(path)).to(device).movedim(-1, 0).contiguous()
