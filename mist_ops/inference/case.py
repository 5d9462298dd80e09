"""Predictions of cases: from files or arrays to a label map, with the models of one or several folds.

A prediction has three parts: ``prepare`` reads and preprocesses, ``predict_prepared`` runs the networks, and
``write_mask`` postprocesses and writes. ``pipeline`` overlaps those of successive cases.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Integer
from torch import nn

from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.devices import catch_out_of_memory
from mist_ops.errors import CaseError, MistError
from mist_ops.files import read_array
from mist_ops.guard.certainty import Certainty
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.nifti import read_geometry, write_labels
from mist_ops.imaging.vectors import write_vectors
from mist_ops.inference.memory import Reservation, estimated_for, no_limit, watching_bytes
from mist_ops.inference.restore import Probabilities, restore_tiles
from mist_ops.inference.sliding_window import predict_tiles
from mist_ops.postprocessing.strategy import Strategy, apply
from mist_ops.preprocessing.case import preprocess
from mist_ops.records.arrays import read_record
from mist_ops.study import Study
from mist_ops.types import Channels, LabelMap

Visit: TypeAlias = Callable[[Probabilities, LabelMap, Geometry], None]
"""Called with the probabilities of a case, an array in a file, with its dataset labels and their grid. It may change
the probabilities, which are written afterwards."""


@dataclass(frozen=True)
class Predictor:
    """Networks that predict together, and how.

    Attributes:
        models: Networks in evaluation mode; see ``load_models``.
        config: Settings of the networks.
        device: Where they run.
        reserve: Reserves main memory for a prediction.
    """

    models: Sequence[nn.Module]
    config: StudyConfig
    device: torch.device
    reserve: Reservation = no_limit


def predict_case(
    predictor: Predictor,
    case: Case,
    output: Path,
    study: Study | None = None,
    *,
    strategy: Strategy = (),
    probabilities: Path | None = None,
) -> None:
    """Predict a case and write its mask atomically; a failure leaves an existing mask as it was.

    Args:
        predictor: The networks.
        case: The patient.
        output: File of the mask.
        study: Predict the preprocessed arrays of this study; the image files of the case by default.
        strategy: Postprocessing steps for the mask.
        probabilities: File for the class probabilities, before postprocessing; not written by default.

    Raises:
        CaseError: As ``predict_preprocessed`` and ``predict_raw``.
        MachineError: A window does not fit into memory.
    """
    prepared = prepare(predictor.config, case, study)
    labels = predict_prepared(predictor, prepared, probabilities)
    write_mask(output, labels, prepared.geometry.original, strategy)


@dataclass(frozen=True)
class Prepared:
    """A preprocessed image, and the grids of its case."""

    image: Channels
    geometry: CaseGeometry


def prepare(config: StudyConfig, case: Case, study: Study | None = None) -> Prepared:
    """Read a case, from the arrays of a study or from its files, which are preprocessed; see ``predict_case``."""
    if study is not None:
        return _from_arrays(config, study, case)
    made = preprocess(Case(case.id, case.images), config, None)
    return Prepared(made.image, made.geometry)


def write_mask(output: Path, labels: LabelMap, grid: Geometry, strategy: Strategy = ()) -> None:
    """Postprocess a mask, and write it atomically."""
    write_labels(output, apply(strategy, labels, grid.spacing) if strategy else labels, grid)


def predict_preprocessed(
    predictor: Predictor, study: Study, case: Case, probabilities: Path | None = None
) -> tuple[LabelMap, Geometry]:
    """Predict the preprocessed arrays of a case; returns dataset labels on the grid of its files.

    Raises:
        CaseError: The case is not preprocessed, or its array does not match its record.
    """
    prepared = _from_arrays(predictor.config, study, case)
    return predict_prepared(predictor, prepared, probabilities), prepared.geometry.original


def _from_arrays(config: StudyConfig, study: Study, case: Case) -> Prepared:
    geometry, path = read_record(study, case.id).geometry, study.image(case.id)
    try:
        image = read_array(path)
    except (OSError, ValueError) as error:
        raise CaseError(
            case.id, f"{path} is missing or corrupted. Preprocess the case again.", code="array-unreadable", file=path
        ) from error
    expected = (*geometry.preprocessed.size, config.model.params.in_channels)
    if image.shape != expected:
        shape, needed = ("x".join(map(str, axes)) for axes in (image.shape, expected))
        raise CaseError(
            case.id,
            f"{path} has shape {shape}, but {needed} is expected. Preprocess the case again.",
            code="array-shape",
            file=path,
            found=image.shape,
            expected=expected,
        )
    return Prepared(image, replace(geometry, original=_with_header(geometry.original, case)))


def _with_header(grid: Geometry, case: Case) -> Geometry:
    """The grid with the header fields of the image, which records of version 0.9 and earlier lack."""
    if grid.header is None:
        with suppress(MistError, StopIteration):  # arrays may be predicted without the files
            return replace(grid, header=read_geometry(next(iter(case.images.values()))).header)
    return grid


def predict_raw(predictor: Predictor, case: Case, probabilities: Path | None = None) -> tuple[LabelMap, Geometry]:
    """Predict the image files of a case; returns dataset labels on their grid.

    Channels are found by the names in ``dataset_info.images``, in any order, and the foreground crop is computed from
    the first of them. A mask is ignored.

    Raises:
        CaseError: A channel is missing or cannot be used.
    """
    prepared = prepare(predictor.config, case)
    return predict_prepared(predictor, prepared, probabilities), prepared.geometry.original


def predict_prepared(
    predictor: Predictor, prepared: Prepared, probabilities: Path | None = None, watch: Certainty | None = None
) -> Integer[np.ndarray, "i j k"]:  # not the grid of the arrays, so other letters
    """Dataset labels on the grid of the files, within reserved memory.

    Args:
        predictor: The networks.
        prepared: The case.
        probabilities: File for the class probabilities; not written by default.
        watch: See ``predict_tiles``.

    Raises:
        MachineError: A window does not fit into memory.
    """
    with predictor.reserve(needed_for(predictor, prepared.geometry, watched=watch is not None)):
        return predict_unreserved(predictor, prepared, probabilities, watch=watch)


def needed_for(predictor: Predictor, geometry: CaseGeometry, *, watched: bool = False) -> int:
    """Estimate the peak main memory of a prediction, and log it; see ``predict_prepared``."""
    needed = estimated_for(geometry, predictor.config, predictor.device, len(predictor.models))
    return needed + (watching_bytes(geometry, predictor.config) if watched else 0)


def predict_unreserved(
    predictor: Predictor,
    prepared: Prepared,
    probabilities: Path | None = None,
    visit: Visit | None = None,
    watch: Certainty | None = None,
) -> Integer[np.ndarray, "i j k"]:
    """As ``predict_prepared``, in memory that the caller reserved."""
    config, device, geometry = predictor.config, predictor.device, prepared.geometry
    channels_first = torch.from_numpy(np.moveaxis(prepared.image, -1, 0)[None])
    labels, size = config.dataset_info.labels, "x".join(map(str, geometry.preprocessed.size))
    with ExitStack() as stack:
        stack.enter_context(
            catch_out_of_memory(
                f"an image of {size} voxels at the target spacing",
                "Lower inference.inferer.params.sw_batch_size in config.json, or predict with --device cpu.",
            )
        )
        tiles = predict_tiles(predictor.models, channels_first, config, device, watch=watch)
        if probabilities is None and visit is None:
            return restore_tiles(tiles, geometry, labels)
        folder = probabilities.parent if probabilities else Path(tempfile.gettempdir())
        volumes = stack.enter_context(_on_disk(folder, (len(labels), *geometry.original.size)))
        volumes[0] = 1  # outside the foreground crop is background
        predicted = restore_tiles(tiles, geometry, labels, volumes)
        if visit:
            visit(volumes, predicted, geometry.original)
        if probabilities:
            write_vectors(probabilities, volumes, geometry.original)
    return predicted


@contextmanager
def _on_disk(folder: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """An array of zeros in a temporary file, for probabilities that may not fit into main memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as stream:
        yield np.memmap(stream, dtype=np.float32, mode="w+", shape=shape)
