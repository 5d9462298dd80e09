"""The parts of a run, built from the configuration: model and optimizer, batches, schedule and loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.devices import seed_everything, tune
from mist_ops.losses.blending import alpha
from mist_ops.registry import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS
from mist_ops.schedulers import learning_rate
from mist_ops.training.batches import Batch, PatchSampler, PatchSettings
from mist_ops.training.cases import CaseArrays
from mist_ops.training.distributed import Ranks
from mist_ops.training.loading import default_workers, stream, threaded
from mist_ops.training.loop import TrainingSchedule
from mist_ops.training.plan import Plan
from mist_ops.training.state import TrainingState


def fresh_state(config: StudyConfig, fold: Fold, device: torch.device, ranks: Ranks) -> TrainingState:
    """Build the model with random weights, and its optimizer.

    Raises:
        ConfigError: The configuration names something unknown, or a patch size that the network does not support.
    """
    training, grid = config.training, config.spatial_config
    architecture = MODELS[config.model.architecture]
    architecture.check_patch_size(grid.patch_size, grid.target_spacing)
    for name in _augmentations(config):
        AUGMENTATIONS[name]
    _learning_rate(config)(training.epochs - 1)
    _alpha(config)(0)
    tune(device)
    seed_everything(training.seed)
    model = architecture.build(
        patch_size=grid.patch_size, target_spacing=grid.target_spacing, **config.model.params.model_dump()
    )
    model = ranks.synchronized(model.to(device), device)
    optimizer = OPTIMIZERS[training.optimizer](model.parameters(), training.learning_rate, training.l2_penalty)
    return TrainingState(fold.index, model, optimizer)


def training_schedule(config: StudyConfig, cases: int, processes: int = 1) -> TrainingSchedule:
    """The length of a run on a number of cases, and its learning rates."""
    training = config.training
    return TrainingSchedule(
        epochs=training.epochs,
        steps=training.steps_per_epoch(cases, processes),
        learning_rate=_learning_rate(config),
        grad_clip_norm=training.grad_clip_norm,
        alpha=_alpha(config),
        validation_every=training.validation_every,
    )


def make_batches(
    plan: Plan, cases: tuple[CaseArrays, ...], first_epoch: int, device: torch.device, ranks: Ranks
) -> Iterator[Batch]:
    """The batches of a run from an epoch on.

    Patches of arrays in the memory of the device are cropped there when they are requested. Other patches for a GPU are
    cropped ahead: by threads from main memory, by workers from files.
    """
    training, grid = plan.settings.training, plan.settings.spatial_config
    augmentations = _augmentations(plan.settings)
    sampler = PatchSampler(
        cases=cases,
        patches=PatchSettings(
            size=grid.patch_size,
            foreground_probability=training.dali_foreground_prob or 0.0,
            augmentations=augmentations,
            spacing=grid.target_spacing,
            flip_axes=tuple(training.augmentation.flip_axes) if "flips" in augmentations else (),
        ),
        batch_size=training.batch_size_per_gpu,
        steps=training.steps_per_epoch(len(cases), ranks.count),
        seed=training.seed,
        fold=plan.fold.index,
        ranks=ranks,
    )
    steps = range(first_epoch * sampler.steps, training.epochs * sampler.steps)
    ahead, cached, pinned = workers_for(plan, device, ranks), cases[0].cached, device.type == "cuda"
    if cached is None:
        return stream(sampler, steps, ahead, pinned)
    if ahead and cached.image.device != device:
        return threaded(sampler, steps, ahead, pinned)
    return map(sampler.__getitem__, steps)


def workers_for(plan: Plan, device: torch.device, ranks: Ranks) -> int:
    """Processes or threads that read ahead for one device."""
    configured = math.ceil(plan.settings.training.hardware.num_cpu_workers / ranks.count)
    return default_workers(configured, device) if plan.workers is None else plan.workers


def _augmentations(config: StudyConfig) -> tuple[str, ...]:
    augmentation = config.training.augmentation
    return tuple(name for name, on in augmentation.transforms.items() if on) if augmentation.enabled else ()


def _learning_rate(config: StudyConfig) -> Callable[[int], float]:
    training = config.training
    warmup = training.effective_warmup_epochs
    return lambda epoch: learning_rate(training.lr_scheduler, epoch, training.epochs, warmup, training.learning_rate)


def _alpha(config: StudyConfig) -> Callable[[int], float | None]:
    training = config.training
    if LOSSES[training.loss.name].blended_with is None:
        return lambda epoch: None
    return lambda epoch: alpha(training.loss.composite_loss_weighting, epoch, training.epochs)
