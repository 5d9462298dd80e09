from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mist_ops.analysis.dump import DataDump
from mist_ops.analysis.narrative import markdown, observations
from mist_ops.analysis.shapes import measure_shape
from mist_ops.types import Json

SEVEN = {"mean": 1.0, "std": 0.0, "min": 1.0, "p25": 1.0, "median": 1.0, "p75": 1.0, "max": 1.0}
AXES = {"per_axis": {f"axis_{axis}": SEVEN for axis in range(3)}}
BLOB = {"linearity": 0.2, "planarity": 0.2, "sphericity": 0.6, "shape_class": "blob"}
LABEL = {
    "voxel_count": {"mean": 1000.0, "std": 10.0, "min": 900, "median": 1000.0, "max": 1100},
    "mean_volume_fraction_of_foreground_pct": 50.0,
    "mean_volume_fraction_of_image_pct": 25.0,
    "presence_rate_pct": 100.0,
    "size_category": "large",
    "shape": {**BLOB, "compactness": 0.4, "skeleton_ratio": 0.01},
}
WHOLE = {
    "constituent_labels": [1, 2],
    "mean_volume_fraction_of_foreground_pct": 100.0,
    "presence_rate_pct": 100.0,
    "size_category": "large",
}
PLAIN: Json = {
    "dataset_summary": {
        "task": "Toy",
        "modality": "mr",
        "num_patients": 100,
        "num_channels": 1,
        "channel_names": ["t1"],
        "num_labels": 3,
        "labels": [0, 1, 2],
        "final_classes": {"whole": [1, 2]},
        "dataset_size_gb": 1.5,
    },
    "image_statistics": {
        "spacing": {**AXES, "median_spacing_mm": [1.0] * 3, "anisotropy_ratio": 1.0, "is_anisotropic": False},
        "dimensions": {"original": AXES, "resampled_median": [10, 11, 12]},
        "intensity": {
            "per_channel": {
                "t1": dict.fromkeys(("mean", "std", "p01", "p05", "p25", "p50", "p75", "p95", "p99"), 12.345)
            },
            "foreground_fraction": {**SEVEN, "mean": 0.5},
        },
    },
    "label_statistics": {
        "per_label": {"1": LABEL},
        "final_classes": {
            "whole": WHOLE,
        },
        "class_imbalance": {"imbalance_ratio": 1.0, "dominant_label": 1, "minority_label": None},
    },
    "observations": [],
    "mist_config_path": "/x/config.json",
}
SHAPE = "label_statistics.per_label.1.shape"
ALWAYS = (
    "Label 1 is compact (linearity 0.20, planarity 0.20, sphericity 0.60, compactness 0.400, skeleton ratio 0.010)."
)


def dump(changes: Mapping[str, Any] = MappingProxyType({})) -> DataDump:
    """The plain data dump with values changed at dotted paths."""
    changed = copy.deepcopy(PLAIN)
    for path, value in changes.items():
        *parents, name = path.split(".")
        inner = changed
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    return DataDump.model_validate(changed)


def test_a_plain_dataset_gives_only_the_shapes():
    assert observations(dump()) == [ALWAYS]


@pytest.mark.parametrize(
    "changes, finding",
    [
        ({"dataset_summary.num_patients": 49}, "Small dataset: 49 patients"),
        ({"dataset_summary.num_patients": 501}, "Large dataset: 501 patients"),
        ({"dataset_summary.num_channels": 2, "dataset_summary.channel_names": ["a", "b"]}, r"2 \(a, b\)"),
        (
            {"image_statistics.spacing.is_anisotropic": True, "image_statistics.spacing.anisotropy_ratio": 8.3212},
            "Anisotropic spacing: .* 8.32 times",
        ),
        ({"image_statistics.intensity.foreground_fraction.mean": 0.0534}, "Low foreground density: .* 5.34 %"),
        ({"dataset_summary.modality": "ct"}, "from 12 to 12 HU .* 12.3 ± 12.3 HU"),
        (
            {"label_statistics.class_imbalance": {"imbalance_ratio": 4.0, "dominant_label": 1, "minority_label": 4}},
            "Moderate class imbalance: label 1 has 4.0 times the voxels of label 4",
        ),
        (
            {"label_statistics.class_imbalance": {"imbalance_ratio": 10.1, "dominant_label": 1, "minority_label": 4}},
            "Severe class imbalance",
        ),
        ({"label_statistics.per_label.1.size_category": "tiny"}, "Label 1 is very small: 50.0000 % .* 100.0 %"),
        (
            {"label_statistics.per_label.1": {**LABEL, "lost_in_patients": ["a"], "reduced_in_patients": ["b", "c"]}},
            r"Label 1 is lost in 1 patient \(a\) and loses more than half of its volume in 2 patients \(b, c\)",
        ),
        ({"label_statistics.per_label.1.presence_rate_pct": 40.0}, "Label 1 is absent in 60.0 % of the patients"),
        ({"label_statistics.per_label.1.mean_volume_fraction_of_image_pct": 0.1459}, "very sparse: 0.1459 %"),
        ({"label_statistics.per_label.1.mean_volume_fraction_of_image_pct": 2.851}, "is sparse: 2.8510 %"),
    ],
)
def test_each_finding_is_reported_once(changes: Mapping[str, Any], finding: str):
    found = [sentence for sentence in observations(dump(changes)) if sentence != ALWAYS]
    assert len(found) == 1
    assert re.search(finding, found[0])


@pytest.mark.parametrize(
    "shape, finding",
    [
        ({"shape_class": "tubular"}, r"is elongated \(linearity 0.20, planarity 0.20, sphericity 0.60, skeleton"),
        ({"shape_class": "planar"}, "is sheet-like"),
        ({"skeleton_ratio": 0.051}, "is thin or branching"),
        ({"skeleton_ratio": None}, "skeleton ratio \N{EM DASH}"),
    ],
)
def test_the_skeleton_and_the_shape_class_name_the_shape(shape: Mapping[str, Any], finding: str):
    [sentence] = observations(dump({f"{SHAPE}.{name}": value for name, value in shape.items()}))
    assert re.search(finding, sentence)


def test_a_small_and_thin_label_needs_a_fine_spacing():
    small = {"label_statistics.per_label.1.size_category": "small"}
    assert "target spacing" in observations(dump({**small, f"{SHAPE}.skeleton_ratio": 0.06}))[-1]
    unknown = {f"{SHAPE}.skeleton_ratio": None, f"{SHAPE}.shape_class": "tubular"}
    assert "target spacing" in observations(dump({**small, **unknown}))[-1]
    assert observations(dump(small)) == [ALWAYS]


def test_excluded_patients_are_listed_with_the_reason():
    excluded = {"dataset_summary.excluded_patients": {"007": "x.nii.gz does not exist."}}
    assert "007" in observations(dump(excluded))[-1]
    assert "x.nii.gz" in observations(dump(excluded))[-1]


def test_the_markdown_has_its_sections_in_order_and_dashes_for_unknown_numbers():
    unknown = dict.fromkeys(("linearity", "planarity", "sphericity", "compactness", "skeleton_ratio"))
    text = markdown(dump({SHAPE: {**unknown, "shape_class": "unknown"}}))
    assert re.findall(r"^##? (.*)$", text, re.MULTILINE) == [
        "Data dump: Toy",
        "Dataset Description and Goals",
        "Dataset Summary",
        "Image Statistics",
        "Label Statistics",
        "Metric Definitions",
        "Observations",
    ]
    dashes = " | ".join("\N{EM DASH}" * 5)
    assert f"| 1 | 1000.0 ± 10.0 | 100.0 | 50.0000 | 25.0000 | large | unknown | {dashes} |" in text
    assert "| t1 | 12.35 ± 12.35 |" in text.replace("12.34", "12.35")
    assert text.endswith("Configuration: `/x/config.json`")


def test_bars_are_escaped_and_line_breaks_removed():
    text = markdown(
        dump(
            {
                "label_statistics.final_classes": {"a|b": WHOLE},
                "observations": ["first\n  - second"],
            }
        )
    )
    assert "| a\\|b | 1, 2 | 100.0000 | 100.0 | large |" in text
    assert "- first - second" in text


def test_the_definitions_hold_the_numbers_that_are_computed():
    text = markdown(dump())
    cube = measure_shape(np.ones((9, 9, 9), dtype=bool), (1.0, 1.0, 1.0))
    distance = np.square(np.indices((123,) * 3) - 61).sum(axis=0)
    ball = measure_shape(distance <= 60**2, (1.0, 1.0, 1.0))
    assert cube is not None
    assert ball is not None
    assert f"π/6 = {cube.compactness:.3f}" in text
    assert ball.compactness == pytest.approx(8 / 27, rel=5e-3)
    assert f"8/27 = {8 / 27:.3f}" in text
    assert cube.compactness == pytest.approx(math.pi / 6)
    assert "tiny below 0.1 %, small below 1 %, medium below 5 %, else\n  large" in text
