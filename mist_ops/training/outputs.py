"""The files of a run: checkpoint, weights, curves and passport."""

from __future__ import annotations

import logging
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from mist_ops.config import STEP_VERSIONS
from mist_ops.errors import ConfigError, counted
from mist_ops.files import file_hash
from mist_ops.models.weights import write_tensors
from mist_ops.records.passport import Content, Epoch, Hardware, Passport, write_passport
from mist_ops.training.distributed import Ranks
from mist_ops.training.plan import Plan
from mist_ops.training.state import TrainingState, load_checkpoint, save_checkpoint
from mist_ops.types import Json

_LOG = logging.getLogger(__name__)


def begin(plan: Plan, state: TrainingState, settings: Json, ranks: Ranks) -> Json:
    """Resume from the checkpoint if requested, otherwise remove the files of earlier runs.

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
    study, checkpoint = plan.study, plan.study.checkpoint(state.fold)
    resumed = plan.resume and checkpoint.is_file()
    if resumed:
        settings = load_checkpoint(checkpoint, state, settings)
        changes = f" Changes: {'; '.join(state.changes)}." if state.changes else ""
        _LOG.info("Fold %d resumes after %s.%s", state.fold, counted(state.epoch, "epoch"), changes)
    elif plan.resume and study.model(state.fold).is_file():
        raise ConfigError(
            f"Fold {state.fold} has a model but no checkpoint to resume from: {checkpoint} is missing. Restore it, or "
            "train the fold from scratch with --overwrite.",
            code="checkpoint-missing",
            file=checkpoint,
        )
    elif plan.resume:
        _LOG.warning("Fold %d starts from scratch: checkpoint %s does not exist.", state.fold, checkpoint)
    # A barrier: no process may look for a checkpoint that another has removed.
    ranks.mean(0.0)
    if ranks.rank == 0:
        _prepare(plan, state, resumed)
    return settings


def _prepare(plan: Plan, state: TrainingState, resumed: bool) -> None:
    study = plan.study
    if resumed:
        # If the run was killed between writing the two files, the weights are older than the checkpoint.
        write_tensors(study.model(state.fold), state.best_weights)
    else:
        predictions = map(study.cv_prediction, plan.fold.held_out)
        for path in (study.checkpoint(state.fold), study.model(state.fold), *predictions):
            path.unlink(missing_ok=True)
    study.passport(state.fold).unlink(missing_ok=True)
    # Rewritten from the history, so that they hold no epochs that were lost or belong to earlier runs.
    shutil.rmtree(study.logs(state.fold), ignore_errors=True)


def record_epochs(plan: Plan, state: TrainingState, settings: Json, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
    """Yield each epoch after writing its checkpoint, the weights if they are the best so far, and the curves."""
    study, fold = plan.study, plan.fold.index
    with closing(SummaryWriter(study.logs(fold))) as curves:
        for epoch in state.history:
            _draw(curves, epoch)
        for epoch in epochs:
            state.history.append(epoch)
            save_checkpoint(study.checkpoint(fold), state, settings)
            if epoch.improved:
                write_tensors(study.model(fold), state.best_weights)
            _draw(curves, epoch)
            yield epoch


def _draw(curves: SummaryWriter, epoch: Epoch) -> None:
    """Add an epoch to the curves, at the number of epochs done."""
    for name in ("training_loss", "validation_loss", "learning_rate", "alpha"):
        value = getattr(epoch, name)
        if value is not None:
            curves.add_scalar(name, value, epoch.index + 1)
    curves.flush()


def finish(plan: Plan, state: TrainingState, settings: Json, device: torch.device, ranks: Ranks) -> None:
    """Write the passport of a trained fold."""
    study, config, fold = plan.study, plan.config, plan.fold
    passport = Passport(
        fold=fold.index,
        training=fold.training,
        validation=fold.validation,
        held_out=fold.held_out,
        content=Content.model_validate(settings["cases"]),
        config=config.model_dump(mode="json"),
        settings=config.digest("training"),
        version=STEP_VERSIONS["training"],
        seed=config.training.seed,
        changes=tuple(state.changes),
        pretrained=settings.get("pretrained"),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "monai", "numpy")},
            "cuda": torch.version.cuda,
        },
        hardware=_hardware(device),
        mist_version=config.mist_version,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        processes=ranks.count,
        history=tuple(state.history),
        best_epoch=min(state.history, key=lambda epoch: epoch.validation_loss).index,
        seconds=sum(epoch.seconds for epoch in state.history),
        weights=file_hash(study.model(fold.index)),
    )
    write_passport(study.passport(fold.index), passport)


def _hardware(device: torch.device) -> Hardware:
    on_gpu = device.type == "cuda"
    return Hardware(
        machine=platform.machine(),
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_gpu_memory=torch.cuda.max_memory_allocated(device) if on_gpu else None,
    )
