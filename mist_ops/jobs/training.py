"""A job that trains a fold."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from typing import cast

from mist_ops.jobs.folder import Work, Writer
from mist_ops.jobs.leaving import Leaving
from mist_ops.records.passport import Epoch
from mist_ops.training.fold import train_fold
from mist_ops.training.plan import Plan

DEVICES = "MIST_DEVICES"
"""Environment variable: devices of the job instead of its GPUs, such as ``cpu,cpu``."""


def run_training(work: Work, messages: Writer, leaving: Leaving) -> None:
    """Train the fold of a plan, and report its epochs.

    A job that runs again resumes what it began.
    """
    assert work.plan is not None
    plan = Plan.from_json(work.plan)
    began = any(message["kind"] == "epoch" for message in messages.earlier)
    epochs = train_fold(
        plan.study,
        plan.config,
        plan.fold,
        device=devices(work),
        resume=plan.resume or (began and plan.study.attempt(plan.fold.index).is_file()),
        workers=plan.workers,
        pretrained=plan.pretrained,
    )
    # Closed at once when the job leaves, which ends the processes that train together.
    with closing(cast(Generator[Epoch], epochs)):
        for epoch in epochs:
            messages.send("epoch", **asdict(epoch))
            leaving.check()


def devices(work: Work) -> list[str]:
    """Names of the devices of a job, one for each process."""
    listed = [name.strip().partition(":") for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
    if listed:
        return [name if name == "cpu" else f"{name}:{number}" if number else name for name, _, number in listed]
    if work.device == "cpu" or not work.gpus:
        return ["cpu"]
    return [f"cuda:{index}" for index in range(work.gpus)]
