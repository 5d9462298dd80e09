"""Predictions of single cases: from files to a label map, with the models of one or several folds."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer
from pydantic import ValidationError
from torch import nn

from mist_ops.config import PreprocessingConfig, StudyConfig, check_channels
from mist_ops.dataset import Case
from mist_ops.devices import memory_told
from mist_ops.errors import CaseError, ConfigError
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.nifti import write_labels
from mist_ops.imaging.vectors import write_vectors
from mist_ops.inference.restore import restore_slabs
from mist_ops.inference.slabs import slab_bytes
from mist_ops.inference.sliding_window import planned_slabs, predict_slabs, window_batch
from mist_ops.models.weights import load_weights
from mist_ops.postprocessing.strategy import Strategy, apply
from mist_ops.preprocessing.case import preprocess
from mist_ops.records.arrays import read_case_geometry
from mist_ops.records.passport import read_passport
from mist_ops.registry import MODELS
from mist_ops.study import Study
from mist_ops.types import Channels, LabelMap, Size

Admission = Callable[[int], AbstractContextManager[object]]
"""Lets in who will use so many bytes of main memory, once there is room, for as long as the context is open."""

no_limit: Admission = nullcontext
"""The admission of whoever has the machine alone."""

_LOG = logging.getLogger(__name__)
_AT_REST = 400 * 2**20
"""Bytes of a process that has loaded torch and MONAI."""
_OF_DISTANCES = {"compute_dtms", "normalize_dtms", "median_resampled_image_size"}
"""Settings of preprocessing on which no image depends."""
_ALIKE = (
    *(f"dataset_info.{name}" for name in ("modality", "images", "labels")),
    "spatial_config.target_spacing",
    *(f"preprocessing.{name}" for name in PreprocessingConfig.model_fields if name not in _OF_DISTANCES),
)
"""Settings that a model and the images that it sees must share."""
_ACTIVATIONS = 160
"""Values per voxel of a window that are alive at once at full resolution: five tensors of 32 channels."""


def find_folds(models: Path) -> list[int]:
    """The folds whose weights lie in a folder, in numerical order; none if there is no such folder."""
    numbers = (path.stem.removeprefix("fold_") for path in models.glob("fold_*.pt"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def load_models(models: Study | Path, config: StudyConfig, folds: Sequence[int] | None = None) -> list[nn.Module]:
    """The networks of some folds, in main memory and in evaluation mode; ``predict`` moves them to the device.

    Each is built with the settings in its passport, if it has one, so that a later edit of config.json does not matter.

    Args:
        models: A study, or a folder of weights.
        config: How a network without a passport is built.
        folds: Those wanted; None for all that are found.

    Raises:
        ConfigError: Weights are missing (all such folds are named), belong to another network, or were trained on
            other channels, labels or spacing, or on images made in another way, than ``config`` tells.
    """
    # A bare folder is laid out as the folder of models of a study.
    study = models if isinstance(models, Study) else Study("", models.parent, models.parent)
    folder = models.models if isinstance(models, Study) else models
    found = find_folds(folder)
    missing = sorted(set(found if folds is None else folds) - set(found))
    if missing or not found:
        wanted = f"folds {missing}" if missing else "any fold"
        raise ConfigError(f"There are no weights of {wanted} in {folder}; found folds {found}. Train them first.")
    return [_load(folder / study.model(fold).name, config) for fold in (found if folds is None else folds)]


def _load(weights: Path, config: StudyConfig) -> nn.Module:
    trained = _trained_config(weights, config)
    check_channels(trained)
    spatial, params = trained.spatial_config, trained.model.params.model_dump()
    build = MODELS[trained.model.architecture].build
    network = build(patch_size=spatial.patch_size, target_spacing=spatial.target_spacing, **params)
    load_weights(weights, network)
    return network.eval()


def _trained_config(weights: Path, config: StudyConfig) -> StudyConfig:
    """The settings that a model was trained with; those given if it has no passport."""
    passport = weights.with_suffix(".json")
    if not passport.is_file():
        return config
    try:
        trained = StudyConfig.model_validate(read_passport(weights).config)
    except ValidationError as error:
        raise ConfigError(
            f"{passport} holds settings of another version. Train the fold again, or remove it to use config.json.",
            code="passport-invalid",
            file=passport,
        ) from error
    for path in _ALIKE:
        before, now = (attrgetter(path)(whole) for whole in (trained, config))
        if before != now:
            raise ConfigError(f"{passport}: '{path}' was {before} in training, but config.json has {now}. Restore it.")
    return trained


def predict_preprocessed(
    models: Sequence[nn.Module],
    study: Study,
    case: Case,
    config: StudyConfig,
    device: torch.device,
    probabilities: Path | None = None,
    admit: Admission = no_limit,
) -> tuple[LabelMap, Geometry]:
    """Dataset labels of a case on its original grid, from its arrays in the study and with the box recorded there.

    Arguments are those of ``predict_case``.

    Raises:
        CaseError: The case is not preprocessed, or its arrays and their record do not belong together.
    """
    geometry, path = read_case_geometry(study, case.id), study.image(case.id)
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CaseError(case.id, f"{path} cannot be read ({error}). Preprocess the case again.") from error
    expected = (*geometry.preprocessed.size, len(config.dataset_info.images))
    if image.shape != expected:
        raise CaseError(case.id, f"{path} has the shape {image.shape} and not {expected}. Preprocess the case again.")
    return _predicted(models, image, geometry, config, device, probabilities, admit)


def predict_raw(
    models: Sequence[nn.Module],
    case: Case,
    config: StudyConfig,
    device: torch.device,
    probabilities: Path | None = None,
    admit: Admission = no_limit,
) -> tuple[LabelMap, Geometry]:
    """Dataset labels of a case on its original grid, from its image files; the mask, if it has one, is not looked at.

    Channels are taken by the names in ``config.dataset_info.images``, whatever their order in the case, and the crop is
    found in the first of them. Arguments are those of ``predict_case``.

    Raises:
        CaseError: A channel is missing or cannot be used.
    """
    missing = [name for name in config.dataset_info.images if name not in case.images]
    if missing:
        raise CaseError(case.id, f"it lacks the channels {missing}; it has {list(case.images)}. Add or rename them.")
    made = preprocess(Case(case.id, case.images), config, None)
    return _predicted(models, made.image, made.geometry, config, device, probabilities, admit)


def predict_case(
    models: Sequence[nn.Module],
    case: Case,
    config: StudyConfig,
    device: torch.device,
    output: Path,
    study: Study | None = None,
    *,
    strategy: Strategy = (),
    probabilities: Path | None = None,
    admit: Admission = no_limit,
) -> None:
    """Predict a case and write its mask atomically; from the arrays of ``study`` if given, else from the files.

    A mask that is there already is removed first: made by another model, it must not pass for this one's if this fails.

    Args:
        models: Networks that predict together.
        case: Whom to predict.
        config: Settings of the networks.
        device: Where they run.
        output: The mask.
        study: Where the case is preprocessed; its files are read if None.
        strategy: Steps of postprocessing that change the mask.
        probabilities: File for the probabilities of the classes, as they are without postprocessing, if wanted.
        admit: Waits until so many bytes of main memory may be used, and holds them.
    """
    output.unlink(missing_ok=True)
    if probabilities:
        probabilities.unlink(missing_ok=True)
    if study is None:
        labels, grid = predict_raw(models, case, config, device, probabilities, admit)
    else:
        labels, grid = predict_preprocessed(models, study, case, config, device, probabilities, admit)
    write_labels(output, apply(strategy, labels, grid.spacing) if strategy else labels, grid)


def _predicted(
    models: Sequence[nn.Module],
    image: Channels,
    geometry: CaseGeometry,
    config: StudyConfig,
    device: torch.device,
    probabilities: Path | None,
    admit: Admission,
) -> tuple[Integer[np.ndarray, "i j k"], Geometry]:  # not the grid of the arrays, so other letters
    channels_first = torch.from_numpy(np.moveaxis(image, -1, 0)[None])
    labels = config.dataset_info.labels
    with ExitStack() as stack:
        stack.enter_context(admit(_estimate(geometry, config, device)))
        size = "x".join(map(str, geometry.preprocessed.size))
        stack.enter_context(
            memory_told(
                f"an image of {size} voxels at the spacing of the model",
                "Lower inference.inferer.params.sw_batch_size in config.json, or predict it with --device cpu.",
            )
        )
        slabs = predict_slabs(models, channels_first, config, device)
        if probabilities is None:
            return restore_slabs(slabs, geometry, labels), geometry.original
        volumes = stack.enter_context(_on_disk(probabilities.parent, (len(labels), *geometry.original.size)))
        volumes[0] = 1  # what the crop cut off is background
        predicted = restore_slabs(slabs, geometry, labels, volumes)
        write_vectors(probabilities, volumes, geometry.original)
    return predicted, geometry.original


@contextmanager
def _on_disk(folder: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """An array of zeros in a file without a name, for what main memory should not have to hold."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as stream:
        yield np.memmap(stream, dtype=np.float32, mode="w+", shape=shape)


def _estimate(geometry: CaseGeometry, config: StudyConfig, device: torch.device) -> int:
    """The bytes that a prediction will take, logged before it does."""
    size = geometry.preprocessed.size
    needed = estimated_bytes(size, geometry.original.size, config, device)
    _LOG.info(
        "Predicting %s voxels and %d classes in %d slabs: about %.1f GiB of memory.",
        "x".join(map(str, size)),
        config.model.params.out_channels,
        len(planned_slabs(size, config, device)),
        needed / 2**30,
    )
    return needed


def estimated_bytes(size: Size, original: Size, config: StudyConfig, device: torch.device) -> int:
    """Bytes of main memory that predicting and restoring a volume will take at its peak, roughly.

    Args:
        size: Of the preprocessed volume.
        original: Of the volume of the files.
        config: Gives patch, classes and channels.
        device: Where the networks run; activations on a GPU do not count.
    """
    params, patch = config.model.params, config.spatial_config.patch_size
    overlap = config.inference.inferer.params.patch_overlap
    held = slab_bytes(planned_slabs(size, config, device), size, patch, overlap, params.out_channels)
    image, labels = 4 * params.in_channels * math.prod(size), 2 * math.prod(original)
    batch = config.inference.inferer.params.sw_batch_size or window_batch(config, device)
    activations = 0 if device.type == "cuda" else _ACTIVATIONS * 4 * batch * math.prod(patch)
    return _AT_REST + image + labels + held + activations
