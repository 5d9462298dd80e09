"""Training of one fold: from preprocessed arrays to weights, checkpoint, curves and passport on disk."""

from __future__ import annotations

import json
import logging
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.devices import autocast, resolve_device, seed_everything
from mist_ops.errors import DatasetError, listing
from mist_ops.files import file_hash, json_hash, write_json
from mist_ops.losses.objective import Objective, make_objective, validation_loss
from mist_ops.models.weights import write_tensors
from mist_ops.registry import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS
from mist_ops.schedulers import learning_rate
from mist_ops.study import Study
from mist_ops.training.batches import Batch, CaseArrays, PatchSampler, default_workers, index_case, stream
from mist_ops.training.loop import Epoch, train
from mist_ops.training.state import TrainingState, load_checkpoint, save_checkpoint
from mist_ops.types import Json

_LOG = logging.getLogger(__name__)
_SHOWN = 5
_LARGEST_ON_DEVICE = 2**28
"""Logits of a validation volume that stay on the device (1 GiB); a larger one is put together on the CPU."""


def train_fold(
    study: Study,
    config: StudyConfig,
    fold: Fold,
    *,
    device: str | None = None,
    resume: bool = False,
    workers: int | None = None,
) -> Iterator[Epoch]:
    """Train a fold, yielding each epoch once its files are on disk.

    After each epoch the checkpoint is written, which holds the best weights too, then the fold's model if that epoch
    was the best so far, then the curves; at the end the passport. So a run that is killed at any moment goes on, when
    resumed, as if nothing had been, and on a CPU ends with the same weights bit for bit.

    Args:
        study: Where the arrays are and the results go.
        config: Its settings.
        fold: The cases that train and those that choose the best weights.
        device: As in ``resolve_device``.
        resume: Go on from the fold's checkpoint, if it has one; otherwise what an earlier run left is removed.
        workers: Processes that read ahead; None decides by configuration and device. The weights do not depend on it.

    Raises:
        DatasetError: Arrays are missing, or the fold has no cases.
        CaseError: The arrays of a case do not fit the configuration.
        ConfigError: A name or size that does not exist, or a checkpoint of other settings.
        DivergedError: A loss is not finite.
    """
    where = resolve_device(device)
    training, validation = _index(study, config, fold)
    settings = {**config.settings("training"), "cases": _content(study, fold)}
    state = _fresh_state(config, fold, where)
    _begin(study, fold, state, settings, resume)
    sampler = _sampler(config, fold, training)
    reading = default_workers(config.training.hardware.num_cpu_workers, where) if workers is None else workers
    batches = stream(
        sampler,
        range(state.epoch * sampler.steps, config.training.epochs * sampler.steps),
        reading,
        pin_memory=where.type == "cuda",
    )
    with closing(SummaryWriter(study.logs(fold.index))) as curves:
        for record in state.history:
            _draw(curves, record)
        for epoch in train(
            state,
            batches,
            partial(_validate, cases=validation, config=config, device=where),
            partial(_loss, objective=_objective(config), device=where, amp=config.training.amp),
            epochs=config.training.epochs,
            steps=sampler.steps,
            learning_rate=_learning_rate(config),
            grad_clip_norm=config.training.grad_clip_norm,
            reseed=lambda epoch: seed_everything(config.training.seed + epoch),
        ):
            state.history.append(asdict(epoch))
            save_checkpoint(study.checkpoint(fold.index), state, settings)
            if epoch.improved:
                write_tensors(study.model(fold.index), state.best_weights)
            _draw(curves, asdict(epoch))
            yield epoch
    _write_passport(study, config, fold, state, settings, where)


def steps_per_epoch(config: StudyConfig, cases: int) -> int:
    """Steps of an epoch: enough to use every case once, and at least ``min_steps_per_epoch``."""
    return max(config.training.min_steps_per_epoch, math.ceil(cases / config.training.batch_size_per_gpu))


def _index(study: Study, config: StudyConfig, fold: Fold) -> tuple[tuple[CaseArrays, ...], tuple[CaseArrays, ...]]:
    """The cases that train and those that validate, once all that they need is there."""
    _check_fold(fold)
    with_dtm = "dtm" in LOSSES[config.training.loss.name].needs
    paths = {
        case_id: (study.image(case_id), study.label(case_id), study.dtm(case_id) if with_dtm else None)
        for case_id in (*fold.training, *fold.validation)
    }
    missing = [str(path) for files in paths.values() for path in files if path is not None and not path.is_file()]
    if missing:
        shown = [*missing[:_SHOWN], *([f"and {len(missing) - _SHOWN} more"] if len(missing) > _SHOWN else [])]
        how = f" with --compute-dtms: the loss '{config.training.loss.name}' needs distance maps" if with_dtm else ""
        raise DatasetError(f"Fold {fold.index} lacks arrays: {listing(shown)}. Preprocess these cases{how}.")
    shape = config.model.params
    indexed = {name: index_case(name, *files, shape.in_channels, shape.out_channels) for name, files in paths.items()}
    return tuple(indexed[name] for name in fold.training), tuple(indexed[name] for name in fold.validation)


def _check_fold(fold: Fold) -> None:
    if not fold.training or not fold.validation:
        raise DatasetError(
            f"Fold {fold.index} has {len(fold.training)} cases to train on and {len(fold.validation)} to validate "
            "with; it needs at least one of each. Use fewer folds or a smaller --val-percent."
        )
    both = sorted(set(fold.training) & set(fold.validation))
    if both:
        raise DatasetError(f"Fold {fold.index} would train on cases that validate it: {', '.join(both[:_SHOWN])}.")


def _content(study: Study, fold: Fold) -> Json:
    """Hashes of the arrays that a fold sees: those that preprocessing noted, or else those of the files."""

    def content(case_id: str) -> str:
        noted = study.geometry(case_id)
        found = json.loads(noted.read_text(encoding="utf-8")).get("content") if noted.is_file() else None
        arrays = (study.image(case_id), study.label(case_id), study.dtm(case_id))
        return str(found or json_hash([file_hash(path) for path in arrays if path.is_file()]))

    return {part: {name: content(name) for name in names} for part, names in _parts(fold).items()}


def _parts(fold: Fold) -> dict[str, tuple[str, ...]]:
    return {"training": fold.training, "validation": fold.validation}


def _fresh_state(config: StudyConfig, fold: Fold, device: torch.device) -> TrainingState:
    training, grid = config.training, config.spatial_config
    architecture = MODELS[config.model.architecture]
    architecture.check_patch_size(grid.patch_size, grid.target_spacing)
    for name in _augmentations(config):
        AUGMENTATIONS[name]
    _learning_rate(config)(training.epochs - 1)
    # Patches are all of one size, so that the fastest convolution for it is worth looking for.
    torch.backends.cudnn.benchmark = True
    seed_everything(training.seed)
    model = architecture.build(
        patch_size=grid.patch_size, target_spacing=grid.target_spacing, **config.model.params.model_dump()
    ).to(device)
    optimizer = OPTIMIZERS[training.optimizer](model.parameters(), training.learning_rate, training.l2_penalty)
    return TrainingState(fold.index, model, optimizer)


def _begin(study: Study, fold: Fold, state: TrainingState, settings: Json, resume: bool) -> None:
    """Restore the state, or clear away what another run left, so that it is never taken for this one's."""
    checkpoint, model = study.checkpoint(state.fold), study.model(state.fold)
    if resume and not checkpoint.is_file():
        _LOG.warning("There is no checkpoint %s: the fold is trained from the start.", checkpoint)
    if resume and checkpoint.is_file():
        load_checkpoint(checkpoint, state, settings)
        # The run may have been killed between the two files; the checkpoint is the one that counts.
        write_tensors(model, state.best_weights)
        _LOG.info("Fold %d goes on after %d epochs. %s", state.fold, state.epoch, "; ".join(state.changes))
    else:
        for path in (checkpoint, model, *map(study.cv_prediction, fold.held_out)):
            path.unlink(missing_ok=True)
    study.passport(state.fold).unlink(missing_ok=True)
    # Written again from the history, so that curves of lost epochs or earlier runs do not stay among them.
    shutil.rmtree(study.logs(state.fold), ignore_errors=True)


def _sampler(config: StudyConfig, fold: Fold, cases: tuple[CaseArrays, ...]) -> PatchSampler:
    return PatchSampler(
        cases=cases,
        patch_size=config.spatial_config.patch_size,
        batch_size=config.training.batch_size_per_gpu,
        foreground_probability=config.training.dali_foreground_prob or 0.0,
        augmentations=_augmentations(config),
        seed=config.training.seed,
        fold=fold.index,
        steps=steps_per_epoch(config, len(cases)),
    )


def _augmentations(config: StudyConfig) -> tuple[str, ...]:
    augmentation = config.training.augmentation
    return tuple(name for name, on in augmentation.transforms.items() if on and augmentation.enabled)


def _learning_rate(config: StudyConfig) -> Callable[[int], float]:
    training = config.training
    warmup = training.effective_warmup_epochs
    return lambda epoch: learning_rate(training.lr_scheduler, epoch, training.epochs, warmup, training.learning_rate)


def _objective(config: StudyConfig) -> Objective:
    return make_objective(config.training.loss.name, spacing=config.spatial_config.target_spacing)


def _loss(model: nn.Module, batch: Batch, *, objective: Objective, device: torch.device, amp: bool) -> Tensor:
    """The objective of a model on a batch."""
    batch = batch.to(device)
    with autocast(device, amp):
        return objective(model(batch.image), batch.label, batch.dtm)


@torch.no_grad()
def _validate(model: nn.Module, *, cases: Sequence[CaseArrays], config: StudyConfig, device: torch.device) -> float:
    """Mean over whole volumes of the soft Dice loss without the background, predicted as at inference but unflipped."""
    model.eval()
    window = config.inference.inferer.params
    infer = SlidingWindowInferer(
        roi_size=config.spatial_config.patch_size,
        sw_batch_size=window.sw_batch_size or 2 * config.training.batch_size_per_gpu,
        overlap=window.patch_overlap,
        mode=window.patch_blend_mode,
        cpu_thresh=_LARGEST_ON_DEVICE // config.model.params.out_channels,
    )
    losses = []
    for case in cases:
        with autocast(device, config.training.amp):
            logits = infer(_volume(case.image, device), model)
        assert isinstance(logits, Tensor)
        losses.append(float(validation_loss(logits, _volume(case.label, logits.device))))
    return fmean(losses)


def _volume(path: Path, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.load(path), -1, 0)))[None].to(device)


def _draw(curves: SummaryWriter, record: Json) -> None:
    """Add an epoch to the curves, at the number of epochs done."""
    for name in ("training_loss", "validation_loss", "learning_rate"):
        curves.add_scalar(name, record[name], record["index"] + 1)
    curves.flush()


def _write_passport(
    study: Study, config: StudyConfig, fold: Fold, state: TrainingState, settings: Json, device: torch.device
) -> None:
    """Write what the fold's model was made from and how it came about."""
    best = min(state.history, key=lambda record: record["validation_loss"])
    write_json(
        study.passport(fold.index),
        {
            "fold": fold.index,
            **{part: list(names) for part, names in _parts(fold).items()},
            "held_out": list(fold.held_out),
            "content": settings["cases"],
            "config": config.model_dump(mode="json"),
            "settings": config.digest("training"),
            "seed": config.training.seed,
            "changes": state.changes,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "monai")}},
            "mist_version": config.mist_version,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "history": state.history,
            "best_epoch": best["index"],
            "seconds": sum(record["seconds"] for record in state.history),
            "weights": file_hash(study.model(fold.index)),
        },
    )
