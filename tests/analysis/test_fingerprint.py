from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mist_ops.analysis.fingerprint import CaseFingerprint, hu_statistics, measure, pooled
from mist_ops.analysis.plan import plan, warnings
from mist_ops.dataset import Case, DatasetDescription
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_image, read_labels, write_image, write_labels
from mist_ops.types import Box


def description(modality: str, labels: list[int]) -> DatasetDescription:
    return DatasetDescription.model_validate(
        {"task": "t", "modality": modality, "train-data": "x", "mask": ["m"], "images": {"ct": ["c"]}, "labels": labels}
    )


def test_a_hippocampus_has_the_foreground_box_of_mist(shared: Path):
    folder = shared / "data" / "Task04_Hippocampus"
    name = "hippocampus_001.nii.gz"
    measured = measure(
        Case("001", {"MRI": folder / "imagesTr" / name}, folder / "labelsTr" / name), description("mr", [0, 1, 2])
    )
    assert measured.box == Box((0, 0, 0), (35, 51, 35))
    assert (measured.size, measured.spacing) == ((35, 51, 35), (1.0, 1.0, 1.0))
    assert measured.labels == {0: 59527, 1: 1324, 2: 1624}
    assert measured.hu is None


def test_three_slabs_of_a_ct_give_the_window_of_mist(shared: Path, tmp_path: Path):
    image, grid = read_image(shared / "data" / "ct" / "example_ct_sm.nii.gz")
    organs, _ = read_labels(shared / "data" / "ct" / "example_seg.nii.gz")
    mask = np.select([organs == 5, organs == 20, organs == 1], [1, 2, 4], default=0).astype(np.uint8)
    described = description("ct", [0, 1, 2, 4])
    measured = []
    for first, stop in ((0, 14), (8, 22), (16, 30)):
        box = Box((0, 0, first), (*grid.size[:2], stop))
        case = Case(f"slab{first}", {"ct": tmp_path / f"{first}.nii.gz"}, tmp_path / f"{first}_mask.nii.gz")
        write_image(case.images["ct"], image[box.slices], grid.cropped(box))
        write_labels(case.mask, mask[box.slices], grid.cropped(box))  # type: ignore[arg-type]
        measured.append(measure(case, described))
    config = plan(measured, described, 3)
    window = config.preprocessing.ct_normalization
    assert (window.window_min, window.window_max) == (-1002.0, 76.0)
    assert window.z_score_mean == pytest.approx(-67.4600605496041, rel=1e-12)
    assert window.z_score_std == pytest.approx(289.7915098044176, rel=1e-12)
    assert config.preprocessing.median_resampled_image_size == (122, 101, 14)
    assert config.spatial_config.patch_size == (96, 96, 32)
    assert not config.preprocessing.crop_to_foreground
    assert "2 sampled voxels" in warnings(measured, config)[0]


def test_a_spine_is_measured_along_the_axes_of_its_file(shared: Path, tmp_path: Path):
    path = shared / "data" / "spine" / "ref.nii.gz"
    labels, grid = read_labels(path)
    write_image(tmp_path / "image.nii.gz", labels.astype(np.float32), grid)
    case = Case("spine", {"ct": tmp_path / "image.nii.gz"}, path)
    measured = measure(case, description("mr", np.unique(labels).tolist()))
    assert measured.size == (512, 512, 17)
    assert measured.canonical(measured.size) == (17, 512, 512)
    assert measured.canonical(measured.spacing) == (3.299999952316284, 0.5859400033950806, 0.5859400033950806)


def test_every_tenth_labeled_voxel_is_sampled_in_c_order():
    image = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    statistics = hu_statistics(image, (image >= 5).astype(np.uint8))
    assert (statistics.count, statistics.mean, statistics.first) == (6, 30.0, 5)
    assert statistics.counts == [1 if k % 10 == 0 else 0 for k in range(51)]
    assert statistics.m2 == pytest.approx(1750.0)


def test_samples_outside_the_range_count_in_the_mean_but_not_in_the_histogram():
    image = np.full((30, 1, 1), -2000, dtype=np.float32)
    image[10], image[20] = 3072, 5000
    statistics = hu_statistics(image, np.ones(image.shape, dtype=np.uint8))
    assert (statistics.count, statistics.outside, statistics.first, statistics.counts) == (3, 2, 3071, [1])
    assert statistics.mean == pytest.approx((3072 + 5000 - 2000) / 3)


def test_pooled_statistics_are_those_of_all_samples_together():
    generator = np.random.default_rng(0)
    parts = [generator.normal(center, 30, (10 * n, 1, 1)).astype(np.float32) for center, n in ((0, 40), (300, 7))]
    masks = [np.ones(part.shape, dtype=np.uint8) for part in parts]
    empty = hu_statistics(parts[0], np.zeros_like(masks[0]))
    together = pooled([*(hu_statistics(*pair) for pair in zip(parts, masks, strict=True)), empty])
    samples = np.concatenate([part[::10].ravel() for part in parts]).astype(np.float64)
    assert together.count == samples.size == sum(together.counts)
    assert together.mean == pytest.approx(samples.mean(), rel=1e-12)
    assert together.m2 / together.count == pytest.approx(samples.var(), rel=1e-12)


def test_a_fingerprint_survives_json(tmp_path: Path):
    image = np.random.default_rng(1).normal(0, 200, (9, 8, 7)).astype(np.float32)
    grid = Geometry((9, 8, 7), (1.0, 2.0, 3.0))
    write_image(tmp_path / "c.nii.gz", image, grid)
    write_labels(tmp_path / "m.nii.gz", (image > 0).astype(np.uint8), grid)
    case = Case("a", {"ct": tmp_path / "c.nii.gz"}, tmp_path / "m.nii.gz")
    measured = measure(case, description("ct", [0, 1]))
    assert CaseFingerprint.model_validate_json(measured.model_dump_json()) == measured
