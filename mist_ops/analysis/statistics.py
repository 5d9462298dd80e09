"""The numbers of data_dump.json: arithmetic on the measurements of the cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from mist_ops.analysis.dump import (
    ClassImbalance,
    ClassStatistics,
    DatasetSummary,
    Dimensions,
    Distribution,
    ImageStatistics,
    IntensityStatistics,
    Labels,
    LabelStatistics,
    MeanShape,
    OriginalDimensions,
    SizeCategory,
    SpacingStatistics,
    Statistics,
    VoxelCount,
)
from mist_ops.analysis.intensities import Intensities, summary
from mist_ops.analysis.measures import CaseMeasures
from mist_ops.analysis.shapes import Shape, shape_class
from mist_ops.config import StudyConfig

ANISOTROPIC_ABOVE = 3.0
"""Ratio of the coarsest to the finest median spacing."""

SIZES: tuple[tuple[float, SizeCategory], ...] = ((0.1, "tiny"), (1.0, "small"), (5.0, "medium"), (math.inf, "large"))
"""Upper limits of the size categories, as a share of the labeled voxels in percent."""

Values = Float[np.ndarray, " case"]


def statistics(
    config: StudyConfig,
    cases: Sequence[CaseMeasures],
    pool: Mapping[str, Intensities],
    excluded: Mapping[str, str] = MappingProxyType({}),
) -> Statistics:
    """Summarize the measurements of a study.

    Args:
        config: Of the study.
        cases: Measurements, at least one.
        pool: Intensities of all labeled voxels of these cases, by channel.
        excluded: Reason by id for each case that could not be measured.
    """
    return Statistics(
        dataset_summary=_dataset_summary(config, cases, excluded),
        image_statistics=_image_statistics(config, cases, pool),
        label_statistics=_label_statistics(config, cases),
    )


def _dataset_summary(config: StudyConfig, cases: Sequence[CaseMeasures], excluded: Mapping[str, str]) -> DatasetSummary:
    info = config.dataset_info
    return DatasetSummary(
        task=info.task,
        modality=info.modality,
        num_patients=len(cases),
        num_channels=len(info.images),
        channel_names=info.images,
        num_labels=len(info.labels),
        labels=info.labels,
        final_classes={name: scored.labels for name, scored in config.evaluation.items()},
        dataset_size_gb=round(sum(case.file_bytes for case in cases) / 1e9, 4),
        excluded_patients=dict(excluded),
    )


def _image_statistics(
    config: StudyConfig, cases: Sequence[CaseMeasures], pool: Mapping[str, Intensities]
) -> ImageStatistics:
    spacings = np.array([case.spacing for case in cases])
    sizes = np.array([case.size for case in cases], dtype=np.float64)
    medians = np.median(spacings, axis=0)
    ratio = round(float(medians.max() / medians.min()), 4)
    fractions = np.array([case.labeled_voxels / case.effective_voxels for case in cases])
    return ImageStatistics(
        spacing=SpacingStatistics(
            per_axis=_per_axis(spacings),
            median_spacing_mm=medians.tolist(),
            anisotropy_ratio=ratio,
            is_anisotropic=ratio > ANISOTROPIC_ABOVE,
        ),
        dimensions=Dimensions(
            original=OriginalDimensions(per_axis=_per_axis(sizes)),
            resampled_median=list(config.preprocessing.median_resampled_image_size),
        ),
        intensity=IntensityStatistics(
            per_channel={name: summary(part) for name, part in pool.items() if part.count},
            foreground_fraction=_distribution(fractions),
        ),
    )


def _per_axis(values: Float[np.ndarray, "case 3"]) -> dict[str, Distribution]:
    return {f"axis_{axis}": _distribution(values[:, axis]) for axis in range(3)}


def _distribution(values: Values) -> Distribution:
    quartiles = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    mean, std, low, p25, median, p75, high = (
        round(x, 4) for x in (float(values.mean()), float(values.std()), *quartiles)
    )
    return Distribution(mean=mean, std=std, min=low, p25=p25, median=median, p75=p75, max=high)


def _label_statistics(config: StudyConfig, cases: Sequence[CaseMeasures]) -> Labels:
    labels = [label for label in config.dataset_info.labels if label]
    means = {label: float(_counts(cases, [label]).mean()) for label in labels}
    return Labels(
        per_label={label: _label(label, cases) for label in labels},
        final_classes={name: _class(scored.labels, cases) for name, scored in config.evaluation.items()},
        class_imbalance=_imbalance(means),
    )


def _label(label: int, cases: Sequence[CaseMeasures]) -> LabelStatistics:
    counts = _counts(cases, [label])
    share = _share(counts, cases)
    return LabelStatistics(
        voxel_count=_voxel_count(counts),
        mean_volume_fraction_of_foreground_pct=share,
        mean_volume_fraction_of_image_pct=_percent(counts, float(np.mean([case.effective_voxels for case in cases]))),
        presence_rate_pct=_presence(counts),
        size_category=_size(share),
        shape=_mean_shape([case.labels[label].shape for case in cases if label in case.labels]),
        lost_in_patients=[case.id for case in cases if label in case.labels and not case.labels[label].kept],
        reduced_in_patients=[case.id for case in cases if label in case.labels and 0 < case.labels[label].kept < 0.5],
    )


def _class(labels: Sequence[int], cases: Sequence[CaseMeasures]) -> ClassStatistics:
    counts = _counts(cases, labels)
    share = _share(counts, cases)
    return ClassStatistics(
        constituent_labels=list(labels),
        mean_volume_fraction_of_foreground_pct=share,
        presence_rate_pct=_presence(counts),
        size_category=_size(share),
    )


def _counts(cases: Sequence[CaseMeasures], labels: Sequence[int]) -> Values:
    """Sum the voxels of some labels in each case."""
    return np.array(
        [sum(case.labels[label].voxels for label in labels if label in case.labels) for case in cases], dtype=np.float64
    )


def _share(counts: Values, cases: Sequence[CaseMeasures]) -> float:
    """Mean count in percent of the mean count of all labeled voxels."""
    return _percent(counts, float(np.mean([case.labeled_voxels for case in cases])))


def _percent(counts: Values, whole: float) -> float:
    """Mean count in percent of another mean: a ratio of means, so large patients weigh more."""
    return round(float(counts.mean()) / whole * 100, 4) if whole else 0.0


def _presence(counts: Values) -> float:
    return round(float(np.mean(counts > 0)) * 100, 2)


def _size(share: float) -> SizeCategory:
    return next(name for below, name in SIZES if share < below)


def _voxel_count(counts: Values) -> VoxelCount:
    return VoxelCount(
        mean=round(float(counts.mean()), 2),
        std=round(float(counts.std()), 2),
        min=int(counts.min()),
        median=round(float(np.median(counts)), 2),
        max=int(counts.max()),
    )


def _mean_shape(found: Sequence[Shape | None]) -> MeanShape:
    shapes = [shape for shape in found if shape is not None]
    if not shapes:
        return MeanShape()
    # MIST rounds the shares of each case before averaging them.
    linearity = _mean([round(shape.linearity, 4) for shape in shapes])
    planarity = _mean([round(shape.planarity, 4) for shape in shapes])
    sphericity = _mean([round(shape.sphericity, 4) for shape in shapes])
    skeletons = [shape.skeleton_ratio for shape in shapes if shape.skeleton_ratio is not None]
    return MeanShape(
        linearity=linearity,
        planarity=planarity,
        sphericity=sphericity,
        shape_class=shape_class(linearity, planarity, sphericity),
        compactness=_mean([shape.compactness for shape in shapes]),
        skeleton_ratio=_mean(skeletons) if skeletons else None,
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _imbalance(means: Mapping[int, float]) -> ClassImbalance:
    """Ratio of the most to the least frequent label of those that occur; 1 for fewer than two."""
    present = {label: mean for label, mean in means.items() if mean > 0}
    if len(present) < 2:
        return ClassImbalance(imbalance_ratio=1.0, dominant_label=next(iter(means), None), minority_label=None)
    largest, smallest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    ratio = round(present[largest] / present[smallest], 2)
    return ClassImbalance(imbalance_ratio=ratio, dominant_label=largest, minority_label=smallest)
