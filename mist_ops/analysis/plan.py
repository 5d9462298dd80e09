"""Planning: every setting that depends on the data, as pure functions of the measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from mist_ops.analysis.fingerprint import HU_MAX, HU_MIN, CaseFingerprint, HuStatistics, pooled
from mist_ops.analysis.ranges import range_warnings
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
    edits,
    leaves,
    override,
)
from mist_ops.dataset import DatasetDescription
from mist_ops.errors import DatasetError, counted, few
from mist_ops.models import Architecture
from mist_ops.models.topology import topology
from mist_ops.registry import MODELS
from mist_ops.steps import Settings, formatted, short_name
from mist_ops.types import Size, Spacing

PATCH_VOXELS = 128**3
"""Budget of a patch. A constant, so that plans do not depend on the machine."""

LARGE_BYTES = 2e9
"""Size of a preprocessed case that gives a warning."""

SIZES = ("spatial_config.patch_size", "preprocessing.median_resampled_image_size")
"""Settings that follow from the target spacing, the crop and the architecture."""

MEASURED = (
    "spatial_config.target_spacing",
    *SIZES,
    *(f"preprocessing.ct_normalization.{name}" for name in CtNormalization.model_fields),
    "preprocessing.crop_to_foreground",
    "preprocessing.normalize_with_nonzero_mask",
)
"""Settings measured over all cases, so that a case more or less may change them; arrays and models depend on them."""

_SIZES_FOLLOW = ("spatial_config.target_spacing", "preprocessing.crop_to_foreground", "model.architecture")
_HU = "preprocessing.ct_normalization."

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
    base: Mapping[str, Any] = MappingProxyType({}),
) -> StudyConfig:
    """Plan the configuration of a study from the measurements of its cases.

    Args:
        fingerprints: Measurements of at least one case.
        description: The contents of dataset.json.
        nfolds: Number of cross-validation folds.
        edits: Settings by dotted path that override the plan. Dependent settings are planned to match: the sizes to a
            target spacing, the patch size to an architecture.
        base: Values of ``MEASURED`` settings, as ``kept`` returns them, to use in place of measured ones.

    Raises:
        ConfigError: An edit is invalid, or names an unknown architecture.
        DatasetError: A CT study has no labeled voxel to normalize by.
    """
    chosen = override(_measured_settings(fingerprints, description, nfolds), {**base, **edits})
    target, crop = chosen.spatial_config.target_spacing, chosen.preprocessing.crop_to_foreground
    median = np.median(resampled_sizes(fingerprints, target, crop), axis=0)
    preferred = patch_size(median, target, PATCH_VOXELS)
    following = {
        "spatial_config.patch_size": fitted_patch_size(MODELS[chosen.model.architecture], preferred, target),
        "preprocessing.median_resampled_image_size": _size(median),
    }
    # Other parameters of an architecture may be edited, but the dataset determines its channels.
    channels = {"in_channels": len(description.images), "out_channels": len(description.labels)}
    params = chosen.model.params.model_dump() | channels
    return override(chosen, {**following, **base, **edits, "model.params": params})


def kept(
    last: StudyConfig, config: StudyConfig, description: DatasetDescription, overrides: Settings
) -> dict[str, Any]:
    """The ``MEASURED`` settings of an earlier plan, without those that must be planned again.

    These are the CT window after a change of the modality, and the sizes if a setting that they follow from is
    overridden.

    Args:
        last: The earlier plan.
        config: config.json, which may have been edited since.
        description: The contents of dataset.json.
        overrides: Settings by dotted path that take precedence over config.json.
    """
    values = leaves(last.model_dump(mode="json"))
    followed = {path: overrides[path] for path in _SIZES_FOLLOW if path in overrides}
    resized = bool(edits(config, override(config, followed)))
    converted = description.modality != last.dataset_info.modality
    return {
        path: values[path]
        for path in MEASURED
        if not (resized and path in SIZES) and not (converted and path.startswith(_HU))
    }


def alternatives(config: StudyConfig, fresh: StudyConfig) -> dict[str, Any]:
    """The ``MEASURED`` settings that a fresh plan would choose otherwise, with its values."""
    return {path: value for path, value in edits(config, fresh).items() if path in MEASURED}


def describe_alternatives(config: StudyConfig, fresh: Settings) -> list[str]:
    """Messages such as ``target_spacing: kept 1, 1, 1; a fresh analysis would choose 1, 1, 0.9 (10 % smaller)``."""
    values = leaves(config.model_dump(mode="json"))
    return [
        f"{short_name(path)}: kept {formatted(values[path])}; a fresh analysis would choose {formatted(value)}"
        f"{_distance(path, values[path], value)}"
        for path, value in fresh.items()
    ]


def _distance(path: str, before: Any, after: Any) -> str:
    """How far two values are from each other, in parentheses; of several, the largest difference."""
    if None in (before, after) or isinstance(before, bool):
        return ""
    if path.startswith(_HU):
        return f" ({abs(after - before):.3g} HU {'higher' if after > before else 'lower'})"
    relative = max((y / x - 1 for x, y in zip(before, after, strict=True)), key=abs)
    return f" ({abs(100 * relative):.3g} % {'larger' if relative > 0 else 'smaller'})"


def _measured_settings(
    fingerprints: Sequence[CaseFingerprint], description: DatasetDescription, nfolds: int
) -> StudyConfig:
    """Plan every setting except the sizes, which depend on spacing and crop and are set to 1."""
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
        evaluation=class_settings(description),
    )


def class_settings(description: DatasetDescription) -> dict[str, EvaluationClass]:
    """The classes to score, each with the default metrics."""
    return {
        name: EvaluationClass(labels=members, metrics={"dice": {}, "haus95": {}})
        for name, members in description.classes.items()
    }


def target_spacing(spacings: Spacings) -> Spacing:
    """Target spacing in mm: the median per axis.

    If the coarsest median is above three times the finest, that axis takes its 10th percentile instead.

    Args:
        spacings: Spacing of each case, in canonical order.
    """
    target = np.median(spacings, axis=0)
    if _is_anisotropic(target):
        coarsest = int(np.argmax(target))
        target[coarsest] = np.percentile(spacings[:, coarsest], _COARSE_PERCENTILE)
    return _spacing(target)


def pays_to_crop(fingerprints: Sequence[CaseFingerprint]) -> bool:
    """Whether cropping to the foreground removes at least 20 % of the volume, averaged over the cases."""
    reductions = [1 - math.prod(case.box.size) / math.prod(case.size) for case in fingerprints]
    return float(np.mean(reductions)) >= _ENOUGH_REDUCTION


def is_masked(fingerprints: Sequence[CaseFingerprint]) -> bool:
    """Whether at least 20 % of the voxels are zero, averaged over the cases, as after masking the background."""
    return 1 - float(np.mean([case.nonzero_fraction for case in fingerprints])) >= _ENOUGH_ZEROS


def resampled_sizes(fingerprints: Sequence[CaseFingerprint], target: Spacing, crop: bool) -> Sizes:
    """Size of each case in voxels after resampling, in canonical order."""
    kept = np.array([case.canonical(case.box.size if crop else case.size) for case in fingerprints], dtype=np.float64)
    sizes: Sizes = np.maximum(1.0, np.round(kept * _spacings(fingerprints) / target))
    return sizes


def ct_normalization(fingerprints: Sequence[CaseFingerprint]) -> CtNormalization:
    """Window (0.5th to 99.5th percentile, to 1 HU) and z-score of the labeled voxels of all cases.

    Raises:
        DatasetError: No case has a labeled voxel.
    """
    whole = pooled([case.hu for case in fingerprints if case.hu])
    if not whole.count:
        raise DatasetError(
            "All masks contain only background, so CT intensities cannot be normalized. Check the masks.",
            code="mask-empty",
        )
    low, high = (_hu_percentile(whole, percent) for percent in _HU_WINDOW)
    std = math.sqrt(whole.m2 / whole.count)
    return CtNormalization(window_min=low, window_max=high, z_score_mean=whole.mean, z_score_std=std)


def _hu_percentile(statistics: HuStatistics, percent: float) -> float:
    """Lower edge of the bin at which the cumulative histogram reaches a percentage; 0 if it is empty."""
    counts = statistics.histogram
    reached = np.cumsum(counts) >= percent / 100 * counts.sum()
    return float(HU_MIN + np.argmax(reached)) if counts.any() else 0.0


def warnings(fingerprints: Sequence[CaseFingerprint], config: StudyConfig) -> list[str]:
    """List findings that do not stop the study but need attention."""
    target, crop = config.spatial_config.target_spacing, config.preprocessing.crop_to_foreground
    values = len(config.dataset_info.images) + len(config.dataset_info.labels)
    sizes = resampled_sizes(fingerprints, target, crop)
    found = [
        f"Case '{case.id}' takes {bytes_ / 1e9:.1f} GB after resampling, more than {LARGE_BYTES / 1e9:.1f} GB. Use a "
        "coarser target spacing or remove the case."
        for case, bytes_ in zip(fingerprints, 4.0 * values * sizes.prod(axis=1), strict=True)
        if bytes_ > LARGE_BYTES
    ]
    empty = [case.id for case in fingerprints if not any(case.labels)]
    if empty:
        found.append(f"Masks that contain only background: {few(empty)}. Check that no mask is missing.")
    placed = [case for case in fingerprints if case.form_gap > min(case.spacing)]
    if placed:
        found.append(
            f"sform and qform differ by up to {max(case.form_gap for case in placed):.3g} mm in headers of "
            f"{few([case.id for case in placed])}. The sform is used, as in nibabel. Masks get both forms of "
            "their image, so that any program shows them on it."
        )
    shared = [case for case in fingerprints if case.shared_forms]
    if shared:
        found.append(
            f"The files of {few([case.id for case in shared])} are on the same grid only by {shared[0].shared_forms}, "
            "which programs choose differently; ITK writes such masks. They are used voxel by voxel."
        )
    found += range_warnings({case.id: case.ranges for case in fingerprints}, config.dataset_info.modality)
    outside = sum(case.hu.outside for case in fingerprints if case.hu)
    if outside:
        found.append(
            f"Excluded from the intensity window: {counted(outside, 'sampled voxel')} outside {HU_MIN} to {HU_MAX} HU."
        )
    return found


def patch_size(median_size: Vector, spacing: Spacing, budget: int) -> Size:
    """Patch size in voxels, as large as the budget allows and shaped like the images.

    If an axis is more than three times as coarse as the finest, the patch is a slab: square in plane, and its thickness
    a multiple of the network's reduction along that axis. Otherwise, the edges are equal in mm, limited by the size of
    the images. Edges are multiples of 32 and at least 32, except for the thickness of a slab.

    Args:
        median_size: Median size of the images at ``spacing``, in voxels, possibly ending in .5.
        spacing: In mm.
        budget: Maximum number of voxels; exceeded only by edges of 32.
    """
    slab = _is_anisotropic(np.array(spacing))
    return _slab(median_size, spacing, budget) if slab else _block(median_size, spacing, budget)


def fitted_patch_size(architecture: Architecture, preferred: Size, spacing: Spacing) -> Size:
    """Patch size nearest to the preferred one that a network supports.

    A network of fixed depth may require a slab thicker than the images, which are then padded. If the patch exceeds
    both the budget and the preferred size, its other axes are shortened.
    """
    patch = architecture.fit_patch_size(preferred, spacing)
    excess = math.prod(patch) / max(PATCH_VOXELS, math.prod(preferred))
    if excess <= 1:
        return patch
    kept = [n <= before for n, before in zip(patch, preferred, strict=True)]
    shrink = excess ** (1 / sum(kept))
    shorter = _size(n / shrink if is_kept else n for n, is_kept in zip(patch, kept, strict=True))
    return architecture.fit_patch_size(shorter, spacing)


def _slab(median_size: Vector, spacing: Spacing, budget: int) -> Size:
    thick = int(np.argmax(spacing))
    depth = float(median_size[thick])
    plane = float(np.delete(median_size, thick).min())
    thinnest = min(_THINNEST_SLAB, depth)
    thickness = int(np.clip(budget / plane**2, thinnest, depth))
    thickness = _round_to_stride(thickness, _reduction(plane, thickness, spacing), thinnest, depth)
    edge = _edge(math.sqrt(budget / thickness), plane)
    return _size(thickness if axis == thick else edge for axis in range(3))


def _reduction(plane: float, thickness: int, spacing: Spacing) -> int:
    thick = int(np.argmax(spacing))
    return topology(_size(thickness if axis == thick else plane for axis in range(3)), spacing).reduction[thick]


def _round_to_stride(thickness: int, divisor: int, thinnest: float, depth: float) -> int:
    """Round the thickness up to a multiple of the divisor, or down if the images are thinner than that."""
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


def _edge(preferred: float, available: float) -> int:
    edge = min(round(preferred), available)
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
