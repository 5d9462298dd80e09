"""What the stages of a study should request of Slurm: measured where it ran before, otherwise estimated."""

import math
from contextlib import suppress
from dataclasses import dataclass

import dagster as dg

from mist_dagster.freshness.estimates import hours
from mist_dagster.slurm.settings import STAGES, SlurmSettings, find
from mist_dagster.stages import Inspection
from mist_ops.boxes import read_sizes
from mist_ops.config import StudyConfig
from mist_ops.errors import MistError
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

_SPARE = 1.5
"""Times what is measured or estimated."""

_GIB = 2**30
_PROGRAM = {"preprocess": 0.5, "evaluate": 0.5, "predict": 2.0, "test": 2.0, "train": 4.0}
"""GiB of a process without data: Python with its packages, and for a GPU its driver and pinned memory."""

_EVALUATION = 64
"""Bytes per voxel while a patient is scored: masks, distances and components."""


@dataclass(frozen=True)
class Proposal:
    """What a stage should request.

    Attributes:
        memory: Main memory, as Slurm reads it.
        time: Time limit; None if the speed is not known.
        lines: Where these come from.
    """

    memory: str
    time: str | None
    lines: tuple[str, ...]


def propose(study: Study, instance: dg.DagsterInstance | None = None) -> dict[str, Proposal]:
    """Propose the request of each stage of an analyzed study."""
    seen = Inspection(study, as_analyzed=True)
    settings = find(study) or SlurmSettings(executor="slurm")
    return {stage: _of_stage(seen, settings, stage, instance) for stage in STAGES}


def _of_stage(seen: Inspection, settings: SlurmSettings, stage: str, instance: dg.DagsterInstance | None) -> Proposal:
    request = settings.request(stage)
    memory, why = _memory(seen.study, seen.config, stage, request.cpus or 1)
    one = {"fold_0": ""} if stage == "train" else {"patient": ""}
    needed = hours(seen, {stage: one}, instance).get(stage)
    if needed is None:
        time, measured = None, "time: not measured yet on this study"
    else:
        number = 1 if stage == "train" else request.patients or 1
        total = max(1.0, needed * number * _SPARE)
        time = f"{math.ceil(total) // 24}-{math.ceil(total) % 24:02}:00:00"
        measured = f"time: {needed * number:.2g} h measured for {_task(stage, number)}, and half as much again"
    cores = "cores: one worker process for each" if stage in ("preprocess", "evaluate") else "cores: to read ahead"
    return Proposal(
        f"{max(1, math.ceil(memory / _GIB))}G", time, (f"memory: {why}, and half as much again", measured, cores)
    )


def _task(stage: str, patients: int) -> str:
    return "a fold" if stage == "train" else f"{patients} patients"


def _memory(study: Study, config: StudyConfig, stage: str, workers: int) -> tuple[float, str]:
    """Bytes that a task needs, and where that comes from."""
    base = _PROGRAM[stage] * _GIB
    if stage == "train":
        peaks = list(_measured(study, config))
        if peaks:
            return max(peaks) * _SPARE, f"{max(peaks) / _GIB:.1f} GiB measured"
        arrays = sum(
            path.stat().st_size for path in (*study.arrays.glob("*.npy"), *(study.numpy / "labels").glob("*.npy"))
        )
        return (base + arrays) * _SPARE, f"{(base + arrays) / _GIB:.1f} GiB estimated, with all arrays in memory"
    voxels = max((math.prod(size) for size in read_sizes(study).values()), default=256**3)
    channels, classes = len(config.dataset_info.images), len(config.dataset_info.labels)
    if stage == "preprocess":
        maps = 8 * classes if config.preprocessing.compute_dtms else 0
        needed = base + workers * voxels * (4 * (2 * channels + 3) + maps)
    elif stage == "evaluate":
        needed = base + workers * voxels * _EVALUATION
    else:
        needed = base + voxels * (4 * (2 * channels + 3) + 8 * classes)
    return needed * _SPARE, f"{needed / _GIB:.1f} GiB estimated for the largest image, {voxels:,} voxels"


def _measured(study: Study, config: StudyConfig) -> list[int]:
    """Peaks of the main memory of earlier trainings."""
    found = []
    for fold in config.training.folds:
        with suppress(MistError):
            hardware = read_passport(study.model(fold)).hardware
            if hardware and hardware.peak_memory:
                found.append(hardware.peak_memory)
    return found
