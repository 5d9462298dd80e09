"""From what was measured to what is done: every setting that depends on the data, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from mist_ops.analysis.fingerprint import HU_MIN, CaseFingerprint, HuStatistics, pooled
from mist_ops.config import (
    CtNormalization,
    DatasetInfo,
    EvaluationClass,
    ModelConfig,
    ModelParams,
    PreprocessingConfig,
    SpatialConfig,
    StudyConfig,
    TrainingConfig,
    override,
)
from mist_ops.dataset import DatasetDescription
from mist_ops.errors import DatasetError, few
from mist_ops.models import Architecture
from mist_ops.models.topology import topology
from mist_ops.registry import MODELS
from mist_ops.types import Size, Spacing

PATCH_VOXELS = 128**3
"""Budget of a patch. A constant, so that the machine that analyzes does not decide what is trained."""

LARGE_BYTES = 2e9
"""A preprocessed case above this is worth a warning."""

_ANISOTROPIC = 3.0
_ENOUGH_REDUCTION = 0.2
_ENOUGH_ZEROS = 0.2
_COARSE_PERCENTILE = 10
_HU_WINDOW = (0.5, 99.5)
_SMALLEST_EDGE = 32
_THINNEST_SLAB = 5.0

Spacings = Float64[np.ndarray, "case axis"]
Sizes = Float64[np.ndarray, "case axis"]
Vector = Float64[np.ndarray, "axis"]


def plan(
    fingerprints: Sequence[CaseFingerprint],
    description: DatasetDescription,
    nfolds: int,
    edits: Mapping[str, Any] = MappingProxyType({}),
) -> StudyConfig:
    """The configuration of a study, chosen from the measurements of its cases.

    Args:
        fingerprints: At least one.
        description: What dataset.json says.
        nfolds: Folds of the cross-validation.
        edits: Settings at dotted paths that a person has decided. They win, and what follows from them is chosen to
            fit: a target spacing decides the sizes, an architecture the patch.

    Raises:
        ConfigError: An edit that is no valid setting, or no architecture.
        DatasetError: A CT study without any labelled voxel, which leaves nothing to normalize by.
    """
    chosen = override(_measured_settings(fingerprints, description, nfolds), edits)
    target, crop = chosen.spatial_config.target_spacing, chosen.preprocessing.crop_to_foreground
    median = np.median(resampled_sizes(fingerprints, target, crop), axis=0)
    wanted = patch_size(median, target, PATCH_VOXELS)
    following = {
        "spatial_config.patch_size": fitted_patch_size(MODELS[chosen.model.architecture], wanted, target),
        "preprocessing.median_resampled_image_size": _size(median),
    }
    # Parameters of an architecture may be edited, but the channels are those of the dataset.
    channels = {"in_channels": len(description.images), "out_channels": len(description.labels)}
    params = chosen.model.params.model_dump() | channels
    return override(chosen, {**following, **edits, "model.params": params})


def _measured_settings(
    fingerprints: Sequence[CaseFingerprint], description: DatasetDescription, nfolds: int
) -> StudyConfig:
    """Every setting but the sizes, which follow from the spacing and the crop, and are left at 1."""
    channels, labels = list(description.images), list(description.labels)
    return StudyConfig(
        mist_version=f"mist-dagster {_version()}",
        dataset_info=DatasetInfo(task=description.task, modality=description.modality, images=channels, labels=labels),
        spatial_config=SpatialConfig(patch_size=(1, 1, 1), target_spacing=target_spacing(_spacings(fingerprints))),
        preprocessing=PreprocessingConfig(
            crop_to_foreground=pays_to_crop(fingerprints),
            median_resampled_image_size=(1, 1, 1),
            normalize_with_nonzero_mask=is_masked(fingerprints),
            ct_normalization=ct_normalization(fingerprints) if description.modality == "ct" else CtNormalization(),
            resampling="accurate",
        ),
        model=ModelConfig(params=ModelParams(in_channels=len(channels), out_channels=len(labels))),
        training=TrainingConfig(nfolds=nfolds, folds=list(range(nfolds))),
        evaluation={
            name: EvaluationClass(labels=members, metrics={"dice": {}, "haus95": {}})
            for name, members in description.classes.items()
        },
    )


def target_spacing(spacings: Spacings) -> Spacing:
    """The spacing in mm that images are resampled to: the median per axis.

    The coarsest axis takes its 10th percentile where its median is above three times the finest.

    Args:
        spacings: Of each case, in canonical order.
    """
    target = np.median(spacings, axis=0)
    if _is_anisotropic(target):
        coarsest = int(np.argmax(target))
        target[coarsest] = np.percentile(spacings[:, coarsest], _COARSE_PERCENTILE)
    return _spacing(target)


def pays_to_crop(fingerprints: Sequence[CaseFingerprint]) -> bool:
    """Whether cropping to the foreground removes at least a fifth of the volume, in the mean over the cases."""
    reductions = [1 - math.prod(case.box.size) / math.prod(case.size) for case in fingerprints]
    return float(np.mean(reductions)) >= _ENOUGH_REDUCTION


def is_masked(fingerprints: Sequence[CaseFingerprint]) -> bool:
    """Whether at least a fifth of the voxels are zero, in the mean over the cases: the mark of a masked background."""
    return 1 - float(np.mean([case.nonzero_fraction for case in fingerprints])) >= _ENOUGH_ZEROS


def resampled_sizes(fingerprints: Sequence[CaseFingerprint], target: Spacing, crop: bool) -> Sizes:
    """The size in voxels that each case will have, in canonical order."""
    kept = np.array([case.canonical(case.box.size if crop else case.size) for case in fingerprints], dtype=np.float64)
    sizes: Sizes = np.maximum(1.0, np.round(kept * _spacings(fingerprints) / target))
    return sizes


def ct_normalization(fingerprints: Sequence[CaseFingerprint]) -> CtNormalization:
    """Window (0.5th to 99.5th percentile, to 1 HU) and z-score of the labelled voxels of all cases together.

    Raises:
        DatasetError: No case has a labelled voxel.
    """
    whole = pooled([case.hu for case in fingerprints if case.hu])
    if not whole.count:
        raise DatasetError("No mask holds a labelled voxel, so there is nothing to normalize by. Check the masks.")
    low, high = (_hu_percentile(whole, percent) for percent in _HU_WINDOW)
    std = math.sqrt(whole.m2 / whole.count)
    return CtNormalization(window_min=low, window_max=high, z_score_mean=whole.mean, z_score_std=std)


def _hu_percentile(statistics: HuStatistics, percent: float) -> float:
    """The lower edge of the first bin at which the cumulated histogram reaches a percentage; 0 for an empty one."""
    counts = statistics.histogram
    reached = np.cumsum(counts) >= percent / 100 * counts.sum()
    return float(HU_MIN + np.argmax(reached)) if counts.any() else 0.0


def warnings(fingerprints: Sequence[CaseFingerprint], config: StudyConfig) -> list[str]:
    """What a person should know before going on; nothing of it stops the study."""
    target, crop = config.spatial_config.target_spacing, config.preprocessing.crop_to_foreground
    values = len(config.dataset_info.images) + len(config.dataset_info.labels)
    sizes = resampled_sizes(fingerprints, target, crop)
    found = [
        f"Case '{case.id}': {bytes_ / 1e9:.1f} GB once resampled, above {LARGE_BYTES / 1e9:.1f} GB. Coarsen the target "
        "spacing or remove the case."
        for case, bytes_ in zip(fingerprints, 4.0 * values * sizes.prod(axis=1), strict=True)
        if bytes_ > LARGE_BYTES
    ]
    empty = [case.id for case in fingerprints if not any(case.labels)]
    if empty:
        found.append(f"The masks of {few(empty)} hold background alone. Is that so, or are masks missing?")
    placed = [case for case in fingerprints if case.form_gap > min(case.spacing)]
    if placed:
        found.append(
            f"The sform and the qform in the headers of {few([case.id for case in placed])} are up to "
            f"{max(case.form_gap for case in placed):.3g} mm apart. The sform counts here, as in nibabel; a program "
            "that goes by the qform shows masks elsewhere. Write one into both."
        )
    outside = sum(case.hu.outside for case in fingerprints if case.hu)
    if outside:
        found.append(f"{outside} sampled voxels lie outside the range of CT numbers and were left out of the window.")
    return found


def patch_size(median_size: Vector, spacing: Spacing, budget: int) -> Size:
    """The patch in voxels that covers as much as ``budget`` voxels allow, shaped like the images.

    Where an axis is more than three times as coarse as the finest, the patch is a slab: as thick as the budget allows
    (a multiple of the network's reduction along that axis), and square in plane. Otherwise the edges are equal in mm,
    except along axes that the images fill first. Edges are multiples of 32, at least 32, except for the thickness.

    Args:
        median_size: Median size of the images at ``spacing``, in voxels, possibly ending in .5.
        spacing: In mm.
        budget: Voxels of a patch; exceeded only where edges of 32 demand it.
    """
    slab = _is_anisotropic(np.array(spacing))
    return _slab(median_size, spacing, budget) if slab else _block(median_size, spacing, budget)


def fitted_patch_size(architecture: Architecture, wanted: Size, spacing: Spacing) -> Size:
    """The patch next to the one wanted that a network takes.

    A network of fixed depth needs a slab thicker than the images may be, which are then padded. Where that
    makes more voxels than the budget and than were wanted, the other axes are shortened.
    """
    patch = architecture.fit_patch_size(wanted, spacing)
    excess = math.prod(patch) / max(PATCH_VOXELS, math.prod(wanted))
    if excess <= 1:
        return patch
    kept = [n <= before for n, before in zip(patch, wanted, strict=True)]
    shrink = excess ** (1 / sum(kept))
    shorter = _size(n / shrink if is_kept else n for n, is_kept in zip(patch, kept, strict=True))
    return architecture.fit_patch_size(shorter, spacing)


def _slab(median_size: Vector, spacing: Spacing, budget: int) -> Size:
    thick = int(np.argmax(spacing))
    depth = float(median_size[thick])
    plane = float(np.delete(median_size, thick).min())
    thinnest = min(_THINNEST_SLAB, depth)
    thickness = int(np.clip(budget / plane**2, thinnest, depth))
    thickness = _whole_strides(thickness, _reduction(plane, thickness, spacing), thinnest, depth)
    edge = _edge(math.sqrt(budget / thickness), plane)
    return _size(thickness if axis == thick else edge for axis in range(3))


def _reduction(plane: float, thickness: int, spacing: Spacing) -> int:
    thick = int(np.argmax(spacing))
    return topology(_size(thickness if axis == thick else plane for axis in range(3)), spacing).reduction[thick]


def _whole_strides(thickness: int, divisor: int, thinnest: float, depth: float) -> int:
    """The thickness rounded up to a multiple of the divisor, or down where the images are not that deep."""
    up = math.ceil(thickness / divisor) * divisor
    return up if up <= depth or divisor == 1 else max(thickness // divisor * divisor, int(thinnest))


def _block(median_size: Vector, spacing: Spacing, budget: int) -> Size:
    filled: dict[int, int] = {}
    free = [0, 1, 2]
    edges: list[float] = []
    while free:
        volume = budget / math.prod(filled.values()) * math.prod(spacing[axis] for axis in free)
        millimeters = volume ** (1 / len(free))
        edges = [millimeters / length for length in spacing]
        full = [axis for axis in free if edges[axis] >= median_size[axis]]
        if not full:
            break
        filled |= {axis: _edge(median_size[axis], median_size[axis]) for axis in full}
        free = [axis for axis in free if axis not in full]
    return _size(filled.get(axis) or _edge(edges[axis], median_size[axis]) for axis in range(3))


def _edge(wanted: float, available: float) -> int:
    edge = min(round(wanted), available)
    return max(_SMALLEST_EDGE, int(edge // _SMALLEST_EDGE) * _SMALLEST_EDGE)


def _is_anisotropic(spacing: Vector) -> bool:
    return bool(spacing.max() / spacing.min() > _ANISOTROPIC)


def _spacings(fingerprints: Sequence[CaseFingerprint]) -> Spacings:
    return np.array([case.canonical(case.spacing) for case in fingerprints], dtype=np.float64)


def _spacing(values: Iterable[float]) -> Spacing:
    x, y, z = (float(length) for length in values)
    return x, y, z


def _size(values: Iterable[float]) -> Size:
    x, y, z = (int(edge) for edge in values)
    return x, y, z


def _version() -> str:
    try:
        return version("mist-dagster")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "(not installed)"
