"""The files of a run: checkpoint, weights, curves and passport."""

from __future__ import annotations

import logging
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from mist_ops.config import STEP_VERSIONS
from mist_ops.errors import ConfigError, counted
from mist_ops.files import file_hash, together
from mist_ops.machine import installed_packages
from mist_ops.models.weights import write_tensors
from mist_ops.records.epochs import append_epoch, write_epochs
from mist_ops.records.passport import Content, Epoch, Hardware, Passport, read_passport, write_passport
from mist_ops.steps import digest
from mist_ops.study import Study
from mist_ops.training.attempts import Progress, forget, resumable, write_progress
from mist_ops.training.distributed import Ranks
from mist_ops.training.plan import Plan
from mist_ops.training.state import TrainingState, load_checkpoint, save_checkpoint
from mist_ops.training.validation import WINDOWS
from mist_ops.types import Json

_LOG = logging.getLogger(__name__)


def begin(plan: Plan, state: TrainingState, settings: Json, ranks: Ranks) -> Json:
    """Resume from a checkpoint if requested, otherwise discard an unfinished training.

    The model of an earlier training, its passport and its checkpoint stay as they are until ``finish`` replaces them.

    Args:
        plan: What is trained.
        state: A fresh state; the checkpoint is loaded into it.
        settings: Settings of this run; see ``run_settings``.
        ranks: The first of the processes writes files.

    Returns:
        The settings, with those of the checkpoint that only its start depended on.

    Raises:
        ConfigError: There is a model but no checkpoint to resume from, or settings changed that may not.
    """
    study, fold = plan.study, state.fold
    checkpoint = resumable(study, fold) if plan.resume else None
    if checkpoint:
        settings = load_checkpoint(checkpoint, state, settings)
        changes = f" Changes: {'; '.join(state.changes)}." if state.changes else ""
        _LOG.info("Fold %d resumes after %s.%s", fold, counted(state.epoch, "epoch"), changes)
    elif plan.resume and study.model(fold).is_file():
        raise ConfigError(
            f"Fold {fold} has a model but no checkpoint to resume from: {study.checkpoint(fold)} is missing. Restore "
            "it, or train the fold from scratch with --overwrite.",
            code="checkpoint-missing",
            file=study.checkpoint(fold),
        )
    elif plan.resume:
        _LOG.info("Fold %d starts from scratch, as it has no checkpoint to resume from.", fold)
    # A barrier: no process may look for a checkpoint that another has removed.
    ranks.mean(0.0)
    if ranks.rank == 0:
        if not checkpoint:
            forget(study, fold)
        # Rewritten from the history, so that they hold no epochs that were lost or belong to earlier runs.
        shutil.rmtree(study.attempt_logs(fold), ignore_errors=True)
    return settings


def record_epochs(plan: Plan, state: TrainingState, settings: Json, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
    """Yield each epoch after writing its checkpoint, which includes the best weights so far, and the curves."""
    study, fold = plan.study, plan.fold.index
    with closing(SummaryWriter(study.attempt_logs(fold))) as curves:
        for epoch in state.history:
            _draw(curves, epoch)
        write_epochs(study.attempt_epochs(fold), state.history)
        for epoch in epochs:
            state.history.append(epoch)
            save_checkpoint(study.attempt(fold), state, settings)
            write_progress(study, fold, Progress(epochs=state.epoch, settings=settings, arrays=plan.arrays))
            _draw(curves, epoch)
            append_epoch(study.attempt_epochs(fold), epoch)
            yield epoch


def _draw(curves: SummaryWriter, epoch: Epoch) -> None:
    """Add an epoch to the curves, at the number of epochs done."""
    for name in ("training_loss", "validation_loss", "learning_rate", "alpha"):
        value = getattr(epoch, name)
        if value is not None:
            curves.add_scalar(name, value, epoch.index + 1)
    curves.flush()


def finish(plan: Plan, state: TrainingState, settings: Json, device: torch.device, ranks: Ranks) -> None:
    """Replace the model of a fold with its passport, checkpoint and curves.

    If the process is killed before, the earlier model stays, and resuming the unfinished training repeats this step.
    """
    study, fold = plan.study, plan.fold
    _keep_previous(study, fold.index, state)
    with together(study.results) as files:
        weights = files.write(study.model(fold.index))
        write_tensors(weights, state.best_weights)
        write_passport(
            files.write(study.passport(fold.index)), _passport(plan, state, settings, device, ranks, weights)
        )
        if study.attempt(fold.index).is_file():  # not if a finished training was resumed without further epochs
            files.move(study.attempt(fold.index), study.checkpoint(fold.index))
        files.move(study.attempt_logs(fold.index), study.logs(fold.index))
    study.attempt_progress(fold.index).unlink(missing_ok=True)


def _keep_previous(study: Study, fold: int, state: TrainingState) -> None:
    """Keep the epochs of the model that is replaced beside the new curves, unless this training continued them."""
    with suppress(ConfigError):  # there is no model, or its passport is not valid
        before = read_passport(study.model(fold)).history
        if list(before) != state.history[: len(before)]:
            name = study.previous_epochs(fold).name
            write_epochs(study.attempt_logs(fold) / name, before)


def _passport(
    plan: Plan, state: TrainingState, settings: Json, device: torch.device, ranks: Ranks, weights: Path
) -> Passport:
    config, fold = plan.config, plan.fold
    return Passport(
        fold=fold.index,
        training=fold.training,
        validation=fold.validation,
        held_out=fold.held_out,
        content=Content.model_validate(settings["cases"]),
        config=config.model_dump(mode="json"),
        arrays=plan.arrays,
        windows=WINDOWS,
        settings=digest(config, "training"),
        version=STEP_VERSIONS["training"],
        seed=config.training.seed,
        changes=tuple(state.changes),
        pretrained=settings.get("pretrained"),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "monai", "numpy")},
            "cuda": torch.version.cuda,
        },
        packages=installed_packages(),
        hardware=_hardware(device),
        mist_version=config.mist_version,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        computing=state.computing,
        processes=ranks.count,
        history=tuple(state.history),
        best_epoch=max(epoch.index for epoch in state.history if epoch.improved),
        seconds=sum(epoch.seconds for epoch in state.history),
        weights=file_hash(weights),
    )


def _hardware(device: torch.device) -> Hardware:
    on_gpu = device.type == "cuda"
    return Hardware(
        machine=platform.machine(),
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_gpu_memory=torch.cuda.max_memory_allocated(device) if on_gpu else None,
    )
