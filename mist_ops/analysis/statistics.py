"""The numbers of data_dump.json, in MIST's layout: arithmetic on the measurements of the cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from mist_ops.analysis.intensities import Intensities, summary
from mist_ops.analysis.measures import CaseMeasures
from mist_ops.analysis.shapes import Shape, shape_class
from mist_ops.config import StudyConfig
from mist_ops.types import Json

ANISOTROPIC_ABOVE = 3.0
"""Ratio of the coarsest to the finest median spacing."""

SIZES = ((0.1, "tiny"), (1.0, "small"), (5.0, "medium"), (math.inf, "large"))
"""Names of the shares of the labelled voxels, in percent, that a label stays below."""

Values = Float[np.ndarray, " case"]


def statistics(
    config: StudyConfig,
    cases: Sequence[CaseMeasures],
    pool: Mapping[str, Intensities],
    excluded: Mapping[str, str] = MappingProxyType({}),
) -> Json:
    """The sections of data_dump.json that hold numbers.

    Args:
        config: Of the study.
        cases: Measurements, at least one.
        pool: Intensities of all labelled voxels of these cases, by channel.
        excluded: The reason against each case that is not among them, by id.
    """
    return {
        "dataset_summary": _dataset_summary(config, cases, excluded),
        "image_statistics": _image_statistics(config, cases, pool),
        "label_statistics": _label_statistics(config, cases),
    }


def _dataset_summary(config: StudyConfig, cases: Sequence[CaseMeasures], excluded: Mapping[str, str]) -> Json:
    info = config.dataset_info
    return {
        "task": info.task,
        "modality": info.modality,
        "num_patients": len(cases),
        "num_channels": len(info.images),
        "channel_names": list(info.images),
        "num_labels": len(info.labels),
        "labels": list(info.labels),
        "final_classes": _final_classes(config),
        "dataset_size_gb": round(sum(case.file_bytes for case in cases) / 1e9, 4),
        **({"excluded_patients": dict(excluded)} if excluded else {}),
    }


def _final_classes(config: StudyConfig) -> dict[str, list[int]]:
    return {name: list(scored.labels) for name, scored in config.evaluation.items()}


def _image_statistics(config: StudyConfig, cases: Sequence[CaseMeasures], pool: Mapping[str, Intensities]) -> Json:
    spacings = np.array([case.spacing for case in cases])
    sizes = np.array([case.size for case in cases], dtype=np.float64)
    medians = np.median(spacings, axis=0)
    ratio = round(float(medians.max() / medians.min()), 4)
    fractions = np.array([case.labelled_voxels / case.effective_voxels for case in cases])
    return {
        "spacing": {
            "per_axis": _per_axis(spacings),
            "median_spacing_mm": medians.tolist(),
            "anisotropy_ratio": ratio,
            "is_anisotropic": ratio > ANISOTROPIC_ABOVE,
        },
        "dimensions": {
            "original": {"per_axis": _per_axis(sizes)},
            "resampled_median": list(config.preprocessing.median_resampled_image_size),
        },
        "intensity": {
            "per_channel": {name: summary(part) for name, part in pool.items() if part.count},
            "foreground_fraction": _seven(fractions),
        },
    }


def _per_axis(values: Float[np.ndarray, "case 3"]) -> Json:
    return {f"axis_{axis}": _seven(values[:, axis]) for axis in range(3)}


def _seven(values: Values) -> dict[str, float]:
    """Mean, standard deviation of all, extremes and quartiles."""
    low, quarter, middle, three_quarters, high = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    found = {"mean": float(values.mean()), "std": float(values.std()), "min": low, "p25": quarter, "median": middle}
    return {name: round(value, 4) for name, value in {**found, "p75": three_quarters, "max": high}.items()}


def _label_statistics(config: StudyConfig, cases: Sequence[CaseMeasures]) -> Json:
    labels = [label for label in config.dataset_info.labels if label]
    means = {label: float(_counts(cases, [label]).mean()) for label in labels}
    classes = _final_classes(config).items()
    return {
        "per_label": {str(label): _label(label, cases) for label in labels},
        "final_classes": {
            name: {"constituent_labels": members, **_frequency(_counts(cases, members), cases)}
            for name, members in classes
        },
        "class_imbalance": _imbalance(means),
    }


def _label(label: int, cases: Sequence[CaseMeasures]) -> Json:
    counts = _counts(cases, [label])
    frequency = _frequency(counts, cases)
    effective = float(np.mean([case.effective_voxels for case in cases]))
    return {
        "voxel_count": _voxel_count(counts),
        "mean_volume_fraction_of_foreground_pct": frequency.pop("mean_volume_fraction_of_foreground_pct"),
        "mean_volume_fraction_of_image_pct": _percent(counts, effective),
        **frequency,
        "shape": _mean_shape([case.labels[label].shape for case in cases if label in case.labels]),
    }


def _frequency(counts: Values, cases: Sequence[CaseMeasures]) -> Json:
    share = _percent(counts, float(np.mean([case.labelled_voxels for case in cases])))
    return {
        "mean_volume_fraction_of_foreground_pct": share,
        "presence_rate_pct": round(float(np.mean(counts > 0)) * 100, 2),
        "size_category": next(name for below, name in SIZES if share < below),
    }


def _counts(cases: Sequence[CaseMeasures], labels: Sequence[int]) -> Values:
    """Voxels of some labels together in each case; 0 where there are none."""
    return np.array(
        [sum(case.labels[label].voxels for label in labels if label in case.labels) for case in cases], dtype=np.float64
    )


def _voxel_count(counts: Values) -> Json:
    return {
        "mean": round(float(counts.mean()), 2),
        "std": round(float(counts.std()), 2),
        "min": int(counts.min()),
        "median": round(float(np.median(counts)), 2),
        "max": int(counts.max()),
    }


def _percent(counts: Values, whole: float) -> float:
    """The mean count in percent of another mean: a large patient counts for more than a small one."""
    return round(float(counts.mean()) / whole * 100, 4) if whole else 0.0


def _mean_shape(found: Sequence[Shape | None]) -> Json:
    """Means over the cases in which the label has a shape; nulls if it has none anywhere."""
    shapes = [shape for shape in found if shape is not None]
    skeletons = [shape.skeleton_ratio for shape in shapes if shape.skeleton_ratio is not None]
    # MIST rounds the shares of each case before it averages them; its numbers are met to the last digit this way.
    shares = {
        name: _mean([round(getattr(shape, name), 4) for shape in shapes])
        for name in ("linearity", "planarity", "sphericity")
    }
    return {
        **shares,
        "shape_class": shape_class(*[share for share in shares.values() if share is not None]) if shapes else "unknown",
        "compactness": _mean([shape.compactness for shape in shapes]),
        "skeleton_ratio": _mean(skeletons),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _imbalance(means: Mapping[int, float]) -> Json:
    """The most and the least frequent of the labels that occur; there is no balance of fewer than two."""
    present = {label: mean for label, mean in means.items() if mean > 0}
    if len(present) < 2:
        return {"imbalance_ratio": 1.0, "dominant_label": next(iter(means), None), "minority_label": None}
    largest, smallest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
    ratio = round(present[largest] / present[smallest], 2)
    return {"imbalance_ratio": ratio, "dominant_label": largest, "minority_label": smallest}
