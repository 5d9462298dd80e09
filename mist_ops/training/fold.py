"""Training of one fold: from preprocessed arrays to weights, checkpoint, curves and passport on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import nn

from mist_ops.config import StudyConfig, check_channels
from mist_ops.dataset import Fold
from mist_ops.devices import catch_out_of_memory, describe, deterministic, resolve_devices, seed_everything
from mist_ops.errors import counted
from mist_ops.files import settle
from mist_ops.records.passport import Computing, Epoch
from mist_ops.study import Study
from mist_ops.training.cache import choose_place, load, size_of
from mist_ops.training.cases import CaseArrays, index_fold
from mist_ops.training.computing import arrange
from mist_ops.training.distributed import Ranks, train_together
from mist_ops.training.loading import start_server
from mist_ops.training.loop import train
from mist_ops.training.memory import estimate_step
from mist_ops.training.outputs import begin, finish, record_epochs
from mist_ops.training.plan import Plan, run_settings
from mist_ops.training.pretrained import Pretrained
from mist_ops.training.setup import fresh_state, make_batches, training_schedule, workers_for
from mist_ops.training.step import BatchLoss, batch_loss
from mist_ops.training.transfer import check, transfer
from mist_ops.training.validation import validate
from mist_ops.types import Json, by

_LOG = logging.getLogger(__name__)

_SEEDS_PER_PROCESS = 1_000_003
"""Between the seeds of two processes: more than there are epochs, which seeds count up with too."""


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
    """Train a fold, and yield each epoch once its files are on disk.

    After each epoch the checkpoint, which includes the best weights, and the curves are written beside those of an
    earlier training. After the last epoch they replace it, with the weights and the passport: a run that is stopped or
    diverges leaves the earlier model as it was. A run that was killed and resumed continues as if uninterrupted, and on
    a CPU ends with the same weights bit for bit.

    On several devices, each has a process: n processes with batches of b patches train on the patches of one process
    with batches of n b. They are started here and end with the iteration. A run may be resumed on other devices.

    Args:
        study: Folders of the arrays and results.
        config: Settings.
        fold: The cases that train the model and those that select its weights.
        device: A name as in ``resolve_device``, or several. None and ``"cuda"`` use as many GPUs as
            ``training.hardware.num_gpus``, or the CPU if there is none.
        resume: Resume an unfinished training, else the last one, if it has a checkpoint; otherwise start from scratch.
        workers: Processes that read ahead, for each device; by default decided from configuration and device. The
            weights do not depend on it.
        pretrained: Weights to initialize the network or its encoder with. A resumed run keeps those it started from,
            and other ones are refused.
        processes: Number of processes that train together; by default one on a CPU and one per GPU.

    Raises:
        DatasetError: Arrays are missing, or the fold has no cases.
        CaseError: The arrays of a case do not match the configuration.
        ConfigError: A name, device or size does not exist; the checkpoint has other settings; or it is missing, but
            there is a model to resume.
        DivergedError: A loss is not finite.
        MachineError: A batch does not fit into memory.
    """
    settle(study.numpy, study.results)
    devices = resolve_devices(device, processes, config.training.hardware.num_gpus)
    plan = Plan(study, config, fold, resume, workers, pretrained)
    if len(devices) == 1:
        yield from train_rank(plan, devices[0], Ranks())
        return
    with closing(train_together(plan.as_json(), devices)) as epochs:
        for epoch in epochs:
            yield Epoch(**epoch)


def train_rank(plan: Plan, device: torch.device, ranks: Ranks) -> Iterator[Epoch]:
    """Train a fold as one of the processes that train together; only the first writes files."""
    with deterministic(plan.settings.training.deterministic):
        yield from _train_rank(plan, device, ranks)


def _train_rank(plan: Plan, device: torch.device, ranks: Ranks) -> Iterator[Epoch]:
    config, fold = plan.settings, plan.fold
    check_channels(plan.config)
    if plan.pretrained is not None:
        check(plan.pretrained, config)
    training, validation = _arrays(plan, device, ranks)
    state = fresh_state(config, fold, device, ranks)
    settings = begin(plan, state, _settings(plan, state.model), ranks)
    computing = arrange(state, config, device)
    schedule = training_schedule(config, len(training), ranks.count)
    steps = schedule.epochs * schedule.steps - state.step
    loss = batch_loss(config, state.model, device, ranks, steps, computing)
    if ranks.rank == 0:
        used = _hardware(plan, state.model, loss, computing, (*training, *validation), ranks)
        _LOG.info("Fold %d trains on %s.", fold.index, used)
    epochs = train(
        state,
        make_batches(plan, training, state.epoch, device, ranks),
        partial(validate, cases=validation, config=config, device=device, ranks=ranks, bf16=loss.bf16),
        loss,
        schedule,
        reseed=lambda epoch: seed_everything(config.training.seed + epoch + _SEEDS_PER_PROCESS * ranks.rank),
        average=ranks.mean,
    )
    epochs = _within_memory(config, partial(_estimate, config, state.model, loss, ranks), epochs)
    if ranks.rank > 0:
        yield from epochs
        return
    yield from record_epochs(plan, state, settings, epochs)
    finish(plan, state, settings, device, ranks)


def _arrays(plan: Plan, device: torch.device, ranks: Ranks) -> tuple[tuple[CaseArrays, ...], tuple[CaseArrays, ...]]:
    """The training and the validation cases, in memory if they fit; otherwise workers start that read them."""
    training, validation = index_fold(plan.study, plan.settings, plan.fold)
    own = validation[ranks.rank :: ranks.count]
    place = choose_place(plan.settings.training.hardware.cache, (*training, *own), device, ranks.count)
    if place == "none":
        if workers_for(plan, device, ranks):
            start_server()
        return training, validation
    memory = device if place == "device" else torch.device("cpu")
    with catch_out_of_memory("the arrays of the fold", "Keep them on disk with --cache none."):
        loaded = {case.id: case for case in load((*training, *own), memory)}
    return tuple(loaded[case.id] for case in training), tuple(loaded.get(case.id, case) for case in validation)


def _hardware(
    plan: Plan, model: nn.Module, loss: BatchLoss, computing: Computing, cases: Sequence[CaseArrays], ranks: Ranks
) -> str:
    """What a run uses, for its log."""
    config = plan.settings
    # The estimate takes seconds. On a CPU it is made only if memory runs out.
    needed = _estimate(config, model, loss, ranks) if loss.device.type == "cuda" else ""
    cached, workers = cases[0].cached, workers_for(plan, loss.device, ranks)
    if cached is None:
        place = f"arrays on disk, read by {counted(workers, 'worker')}" if workers else "arrays on disk"
    else:
        where = "main memory" if cached.image.device.type == "cpu" else "the memory of the device"
        place = f"arrays in {where} ({size_of(cases) / 2**30:.1f} GiB)"
    return "; ".join(
        [
            f"{counted(ranks.count, 'process', 'processes')} with {describe(loss.device)} each"
            if ranks.count > 1
            else describe(loss.device),
            "mixed precision (BF16)" if loss.bf16 else "FP32",
            *(["channels last in memory"] if computing.memory_format == "channels_last" else []),
            "compiled" if loss.uncompiled is None else f"not compiled ({loss.uncompiled})",
            place,
            *([f"a step needs {needed} of device memory"] if needed else []),
            *(["deterministic algorithms"] if config.training.deterministic else []),
        ]
    )


def _settings(plan: Plan, model: nn.Module) -> Json:
    """The settings that the weights depend on; loads pretrained weights into the model."""
    settings = run_settings(plan.study, plan.config, plan.fold)
    if plan.pretrained is None:
        return settings
    encoder = transfer(plan.pretrained, plan.settings, model)
    # Unfinished trainings of earlier versions, which must match to be resumed, do not have it.
    newer = set() if encoder.whole else {"whole"}
    return {**settings, "pretrained": encoder.model_dump(mode="json", exclude=newer)}


def _estimate(config: StudyConfig, model: nn.Module, loss: BatchLoss, ranks: Ranks) -> str:
    """The memory of a step in words; empty if it cannot be estimated."""
    needed = estimate_step(config, model.train(), loss.device, bf16=loss.bf16, processes=ranks.count)
    return f"about {needed.total / 2**30:.1f} GiB" if needed else ""


def _within_memory(config: StudyConfig, estimate: Callable[[], str], epochs: Iterator[Epoch]) -> Iterator[Epoch]:
    patch, batch = by(config.spatial_config.patch_size), config.training.batch_size_per_gpu

    def needed_for() -> str:
        needed = estimate()
        return f"batches of {batch} patches of {patch} voxels" + (f", which need {needed}" if needed else "")

    with catch_out_of_memory(
        needed_for,
        "Lower --batch-size-per-gpu, which --resume allows, or --patch-size.",
    ):
        yield from epochs
