"""Training of one fold: from preprocessed arrays to weights, checkpoint, curves and passport on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from mist_ops.config import STEP_VERSIONS, StudyConfig, check_channels
from mist_ops.dataset import Fold
from mist_ops.devices import autocast, compiled, memory_told, resolve_devices, seed_everything, tune
from mist_ops.errors import ConfigError, DatasetError, listing
from mist_ops.files import file_hash
from mist_ops.losses.blending import alpha
from mist_ops.losses.objective import Objective, make_objective
from mist_ops.models.weights import write_tensors
from mist_ops.records.arrays import case_content
from mist_ops.records.passport import Content, Epoch, Hardware, Passport, write_passport
from mist_ops.registry import AUGMENTATIONS, LOSSES, MODELS, OPTIMIZERS
from mist_ops.schedulers import learning_rate
from mist_ops.study import Study
from mist_ops.training.batches import Batch, CaseArrays, PatchSampler, default_workers, index_case, stream
from mist_ops.training.distributed import Ranks, train_together
from mist_ops.training.loop import train
from mist_ops.training.state import TrainingState, load_checkpoint, save_checkpoint
from mist_ops.training.transfer import Pretrained, check, transfer
from mist_ops.training.validation import validate
from mist_ops.types import Json

_LOG = logging.getLogger(__name__)
_SHOWN = 5
_BETWEEN_SEEDS = 1_000_003
"""From the seed of one process to that of the next: more than there are epochs, which count seeds up too."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained, wherever that happens; see ``train_fold``."""

    study: Study
    config: StudyConfig
    fold: Fold
    resume: bool = False
    workers: int | None = None
    pretrained: Pretrained | None = None

    def as_json(self) -> Json:
        """The plan in words that another process understands."""
        whole = {**asdict(self), "config": self.config.model_dump(mode="json")}
        return dict(json.loads(json.dumps(whole, default=str)))

    @staticmethod
    def from_json(content: Json) -> Plan:
        """The plan that ``as_json`` put into words."""
        study, fold, pretrained = content["study"], content["fold"], content["pretrained"]
        paths = {name: Path(study[name]) for name in ("numpy", "results", "data") if study[name] is not None}
        files = {name: Path(pretrained[name]) for name in ("weights", "config")} if pretrained else {}
        return Plan(
            Study(study["name"], **paths),
            StudyConfig.model_validate(content["config"]),
            Fold(fold["index"], *(tuple(fold[part]) for part in ("training", "validation", "held_out"))),
            content["resume"],
            content["workers"],
            Pretrained(**{**pretrained, **files}) if pretrained else None,
        )


def train_fold(
    study: Study,
    config: StudyConfig,
    fold: Fold,
    *,
    device: str | Sequence[str] | None = None,
    resume: bool = False,
    workers: int | None = None,
    pretrained: Pretrained | None = None,
    processes: int | None = None,
) -> Iterator[Epoch]:
    """Train a fold, yielding each epoch once its files are on disk.

    After each epoch the checkpoint is written, which holds the best weights too, then the fold's model if that epoch
    was the best so far, then the curves; at the end the passport. So a run that is killed at any moment goes on, when
    resumed, as if nothing had been, and on a CPU ends with the same weights bit for bit.

    On several devices, a process on each takes patches of its own: n processes with a batch of b make the patches that
    one makes with n b. They are started here and end with the iteration. A run may be resumed on other devices.

    Args:
        study: Where the arrays are and the results go.
        config: Its settings.
        fold: The cases that train and those that choose the best weights.
        device: A name as in ``resolve_device``, or several. None and ``"cuda"`` take as many GPUs as
            ``training.hardware.num_gpus`` says, or the CPU where there is none.
        resume: Go on from the fold's checkpoint, if it has one; otherwise what an earlier run left is removed.
        workers: Processes that read ahead, for each device; None decides by configuration and device. The weights do
            not depend on it.
        pretrained: Where the encoder comes from. A resumed run keeps what it began with, and refuses anything else.
        processes: How many train together; None for one on the CPU and one on each GPU.

    Raises:
        DatasetError: Arrays are missing, or the fold has no cases.
        CaseError: The arrays of a case do not fit the configuration.
        ConfigError: A name, device or size that does not exist, or a checkpoint of other settings, or none beside a
            model that is to be gone on with.
        DivergedError: A loss is not finite.
        MachineError: A batch does not fit into memory.
    """
    devices = resolve_devices(device, processes, config.training.hardware.num_gpus)
    plan = Plan(study, config, fold, resume, workers, pretrained)
    if len(devices) == 1:
        yield from train_rank(plan, devices[0], Ranks())
        return
    with closing(train_together(plan.as_json(), devices)) as epochs:
        for epoch in epochs:
            yield Epoch(**epoch)


def train_rank(plan: Plan, device: torch.device, ranks: Ranks) -> Iterator[Epoch]:
    """Train a fold as one of the processes that do so together; the first of them alone writes files."""
    study, config, fold = plan.study, plan.config, plan.fold
    check_channels(config)
    if plan.pretrained is not None:
        check(plan.pretrained, config)
    training, validation = _index(study, config, fold)
    state = _fresh_state(config, fold, device, ranks)
    settings = _settings(plan, state.model)
    settings = _begin(plan, state, settings, ranks)
    sampler = _sampler(config, fold, training, ranks)
    epochs = train(
        state,
        _batches(plan, sampler, state.epoch, device),
        partial(validate, cases=validation, config=config, device=device, ranks=ranks),
        partial(
            _loss,
            model=_forward(config, state.model, device, ranks),
            objective=_objective(config),
            device=device,
            amp=config.training.amp,
        ),
        epochs=config.training.epochs,
        steps=sampler.steps,
        learning_rate=_learning_rate(config),
        grad_clip_norm=config.training.grad_clip_norm,
        alpha=_alpha(config),
        reseed=lambda epoch: seed_everything(config.training.seed + epoch + _BETWEEN_SEEDS * ranks.rank),
        average=ranks.mean,
    )
    epochs = _within_memory(config, epochs)
    if ranks.rank > 0:
        yield from epochs
        return
    with closing(SummaryWriter(study.logs(fold.index))) as curves:
        for epoch in state.history:
            _draw(curves, epoch)
        for epoch in epochs:
            state.history.append(epoch)
            save_checkpoint(study.checkpoint(fold.index), state, settings)
            if epoch.improved:
                write_tensors(study.model(fold.index), state.best_weights)
            _draw(curves, epoch)
            yield epoch
    write_passport(study.passport(fold.index), _passport(plan, state, settings, device, ranks))


def _within_memory(config: StudyConfig, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
    patch, batch = "x".join(map(str, config.spatial_config.patch_size)), config.training.batch_size_per_gpu
    with memory_told(
        f"batches of {batch} patches of {patch} voxels",
        "Lower --batch-size-per-gpu, with which --resume goes on, or --patch-size.",
    ):
        yield from epochs


def steps_per_epoch(config: StudyConfig, cases: int, processes: int = 1) -> int:
    """Steps of an epoch: enough to use every case once, and at least ``min_steps_per_epoch``."""
    patches = config.training.batch_size_per_gpu * processes
    return max(config.training.min_steps_per_epoch, math.ceil(cases / patches))


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
    """Hashes of the arrays that a fold sees."""
    return {part: {name: case_content(study, name) for name in names} for part, names in _parts(fold).items()}


def _parts(fold: Fold) -> dict[str, tuple[str, ...]]:
    return {"training": fold.training, "validation": fold.validation}


def _fresh_state(config: StudyConfig, fold: Fold, device: torch.device, ranks: Ranks) -> TrainingState:
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


def _settings(plan: Plan, model: nn.Module) -> Json:
    """What the weights depend on; puts the pretrained ones into the model."""
    settings = made_from(plan.study, plan.config, plan.fold)
    if plan.pretrained is None:
        return settings
    encoder = transfer(plan.pretrained, plan.config, model)
    return {**settings, "pretrained": encoder.model_dump(mode="json")}


def made_from(study: Study, config: StudyConfig, fold: Fold) -> Json:
    """The settings of a run and the hashes of its cases: what a checkpoint of it must have been made with."""
    return {**config.settings("training"), "cases": _content(study, fold)}


def _begin(plan: Plan, state: TrainingState, settings: Json, ranks: Ranks) -> Json:
    """Restore the state, or clear away what another run left, so that it is never taken for this one's.

    Returns the settings, with those that a resumed run began with and that are not given again.
    """
    study, checkpoint = plan.study, plan.study.checkpoint(state.fold)
    found = plan.resume and checkpoint.is_file()
    if found:
        settings = load_checkpoint(checkpoint, state, settings)
        _LOG.info("Fold %d goes on after %d epochs. %s", state.fold, state.epoch, "; ".join(state.changes))
    elif plan.resume and study.model(state.fold).is_file():
        raise ConfigError(
            f"Fold {state.fold} has a model but no checkpoint to go on from: there is no {checkpoint}. Restore it, or "
            "train the fold from the start."
        )
    elif plan.resume:
        _LOG.warning("There is no checkpoint %s: the fold is trained from the start.", checkpoint)
    # No process may look for a checkpoint that another has removed.
    ranks.mean(0.0)
    if ranks.rank > 0:
        return settings
    if found:
        # The run may have been killed between the two files; the checkpoint is the one that counts.
        write_tensors(study.model(state.fold), state.best_weights)
    else:
        for path in (checkpoint, study.model(state.fold), *map(study.cv_prediction, plan.fold.held_out)):
            path.unlink(missing_ok=True)
    study.passport(state.fold).unlink(missing_ok=True)
    # Written again from the history, so that curves of lost epochs or earlier runs do not stay among them.
    shutil.rmtree(study.logs(state.fold), ignore_errors=True)
    return settings


def _sampler(config: StudyConfig, fold: Fold, cases: tuple[CaseArrays, ...], ranks: Ranks) -> PatchSampler:
    return PatchSampler(
        cases=cases,
        patch_size=config.spatial_config.patch_size,
        batch_size=config.training.batch_size_per_gpu,
        foreground_probability=config.training.dali_foreground_prob or 0.0,
        augmentations=_augmentations(config),
        seed=config.training.seed,
        fold=fold.index,
        steps=steps_per_epoch(config, len(cases), ranks.count),
        rank=ranks.rank,
        ranks=ranks.count,
        spacing=config.spatial_config.target_spacing,
        flip_axes=tuple(config.training.augmentation.flip_axes),
    )


def _batches(plan: Plan, sampler: PatchSampler, epoch: int, device: torch.device) -> Iterator[Batch]:
    """The batches from an epoch on."""
    training = plan.config.training
    wanted = math.ceil(training.hardware.num_cpu_workers / sampler.ranks)
    workers = default_workers(wanted, device) if plan.workers is None else plan.workers
    steps = range(epoch * sampler.steps, training.epochs * sampler.steps)
    return stream(sampler, steps, workers, pin_memory=device.type == "cuda")


def _augmentations(config: StudyConfig) -> tuple[str, ...]:
    augmentation = config.training.augmentation
    return tuple(name for name, on in augmentation.transforms.items() if on and augmentation.enabled)


def _learning_rate(config: StudyConfig) -> Callable[[int], float]:
    training = config.training
    warmup = training.effective_warmup_epochs
    return lambda epoch: learning_rate(training.lr_scheduler, epoch, training.epochs, warmup, training.learning_rate)


def _alpha(config: StudyConfig) -> Callable[[int], float | None]:
    training = config.training
    if LOSSES[training.loss.name].blended_with is None:
        return lambda epoch: None
    return lambda epoch: alpha(training.loss.composite_loss_weighting, epoch, training.epochs)


def _objective(config: StudyConfig) -> Objective:
    return make_objective(config.training.loss.name, spacing=config.spatial_config.target_spacing)


def _forward(config: StudyConfig, model: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """The model as a training step calls it: compiled if that is wished for, and with the other processes."""
    training = config.training
    if training.hardware.compile:
        shape = (training.batch_size_per_gpu, config.model.params.in_channels, *config.spatial_config.patch_size)
        model = compiled(model, torch.zeros(shape, device=device), amp=training.amp)
    return ranks.wrap(model, device)


def _loss(
    batch: Batch, blend: float | None, *, model: nn.Module, objective: Objective, device: torch.device, amp: bool
) -> Tensor:
    """The objective of a model on a batch."""
    batch = batch.to(device)
    with autocast(device, amp):
        outputs = model(batch.image)
    blended = {} if blend is None else {"alpha": blend}
    return objective(outputs, batch.label, batch.dtm, **blended)


def _hardware(device: torch.device) -> Hardware:
    on_gpu = device.type == "cuda"
    return Hardware(
        machine=platform.machine(),
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        peak_gpu_memory=torch.cuda.max_memory_allocated(device) if on_gpu else None,
    )


def _draw(curves: SummaryWriter, epoch: Epoch) -> None:
    """Add an epoch to the curves, at the number of epochs done."""
    for name in ("training_loss", "validation_loss", "learning_rate", "alpha"):
        value = getattr(epoch, name)
        if value is not None:
            curves.add_scalar(name, value, epoch.index + 1)
    curves.flush()


def _passport(plan: Plan, state: TrainingState, settings: Json, device: torch.device, ranks: Ranks) -> Passport:
    study, config, fold = plan.study, plan.config, plan.fold
    return Passport(
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
