from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from mist_ops.analysis.dump import ClassImbalance, Labels, MeanShape
from mist_ops.analysis.intensities import measure_intensities
from mist_ops.analysis.measures import CaseMeasures, LabelMeasures
from mist_ops.analysis.shapes import Shape
from mist_ops.analysis.statistics import statistics
from mist_ops.config import StudyConfig, override
from mist_ops.types import Spacing

TUBE, SHEET = Shape(0.8, 0.15, 0.05, 0.1, 0.2), Shape(0.1, 0.7, 0.2, 0.3, None)


def measured(labels: Mapping[int, LabelMeasures], spacing: Spacing = (1.0, 1.0, 1.0)) -> CaseMeasures:
    return CaseMeasures("p", spacing, (10, 10, 20), 2000, 1_000_000, labels, {})


def labels_of(config: StudyConfig, *cases: CaseMeasures) -> Labels:
    return statistics(config, cases, {}).label_statistics


def test_shares_are_ratios_of_means_and_an_absent_label_counts_as_zero(phantom_config: StudyConfig):
    first = measured({1: LabelMeasures(300, TUBE), 2: LabelMeasures(100, SHEET)})
    second = measured({1: LabelMeasures(100, None)})
    found = labels_of(phantom_config, first, second)
    assert found.per_label[1].mean_volume_fraction_of_foreground_pct == 80.0
    assert found.per_label[2].model_dump() == {
        "voxel_count": {"mean": 50.0, "std": 50.0, "min": 0, "median": 50.0, "max": 100},
        "mean_volume_fraction_of_foreground_pct": 20.0,
        "mean_volume_fraction_of_image_pct": 2.5,
        "presence_rate_pct": 50.0,
        "size_category": "large",
        "shape": {
            "linearity": 0.1,
            "planarity": 0.7,
            "sphericity": 0.2,
            "shape_class": "planar",
            "compactness": 0.3,
            "skeleton_ratio": None,
        },
    }
    assert found.class_imbalance == ClassImbalance(imbalance_ratio=4.0, dominant_label=1, minority_label=2)


def test_an_absent_label_has_no_shape_and_does_not_count_as_imbalance(phantom_config: StudyConfig):
    found = labels_of(phantom_config, measured({2: LabelMeasures(7, TUBE)}))
    assert found.per_label[1].shape == MeanShape()
    assert found.per_label[1].size_category == "tiny"
    assert found.class_imbalance == ClassImbalance(imbalance_ratio=1.0, dominant_label=1, minority_label=None)


def test_empty_masks_have_shares_of_zero(phantom_config: StudyConfig):
    found = labels_of(phantom_config, measured({}))
    assert found.per_label[2].mean_volume_fraction_of_foreground_pct == 0.0


@pytest.mark.parametrize(
    "voxels, size", [(9, "tiny"), (10, "small"), (99, "small"), (100, "medium"), (499, "medium"), (500, "large")]
)
def test_size_categories_depend_on_the_share_of_the_labeled_voxels(phantom_config: StudyConfig, voxels: int, size: str):
    case = measured({1: LabelMeasures(voxels, None), 2: LabelMeasures(10_000 - voxels, None)})
    assert labels_of(phantom_config, case).per_label[1].size_category == size


def test_a_class_is_present_where_any_of_its_labels_is(phantom_config: StudyConfig):
    classes = {"both": {"labels": [1, 2], "metrics": {"dice": {}}}}
    config = override(phantom_config, {"evaluation": classes})
    cases = [measured({1: LabelMeasures(5, None)}), measured({2: LabelMeasures(5, None)})]
    assert labels_of(config, *cases).final_classes["both"].model_dump() == {
        "constituent_labels": [1, 2],
        "mean_volume_fraction_of_foreground_pct": 100.0,
        "presence_rate_pct": 100.0,
        "size_category": "large",
    }


@pytest.mark.parametrize("thick, anisotropic", [(3.0, False), (3.001, True)])
def test_spacing_is_anisotropic_above_three(phantom_config: StudyConfig, thick: float, anisotropic: bool):
    cases = [measured({}, (1.0, 1.0, thick)) for _ in range(3)]
    spacing = statistics(phantom_config, cases, {}).image_statistics.spacing
    assert (spacing.is_anisotropic, spacing.median_spacing_mm) == (anisotropic, [1.0, 1.0, thick])


def test_a_channel_without_a_labeled_voxel_is_excluded(phantom_config: StudyConfig):
    pool = {"t1": measure_intensities(np.ones(3, np.float32)), "t2": measure_intensities(np.zeros(0, np.float32))}
    images = statistics(phantom_config, [measured({})], pool).image_statistics
    assert list(images.intensity.per_channel) == ["t1"]


def test_patients_whose_label_is_lost_or_reduced_are_listed(phantom_config: StudyConfig):
    cases = [
        replace(measured({1: LabelMeasures(9, None, kept)}), id=name)
        for name, kept in (("gone", 0.0), ("less", 0.49), ("half", 0.5), ("more", 1.2))
    ]
    label = labels_of(phantom_config, *cases).per_label[1]
    assert (label.lost_in_patients, label.reduced_in_patients) == (["gone"], ["less"])
    assert "lost_in_patients" not in labels_of(phantom_config, cases[2]).per_label[1].model_dump()
