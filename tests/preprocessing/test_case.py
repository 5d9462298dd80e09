"""Preprocessing of cases with both sets of resampling rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from expect import refuses
from imaging.headers import SIZE, stored
from scipy.ndimage import gaussian_filter

from mist_ops import steps
from mist_ops.config import StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_image, write_labels
from mist_ops.inference.restore import resample_onto
from mist_ops.preprocessing.case import preprocess, write_case
from mist_ops.records.arrays import describe_reduced, read_record, reduced_labels
from mist_ops.study import Study
from mist_ops.types import Box, Image, LabelMap, Spacing

GRID = Geometry((12, 14, 10), (1.0, 1.0, 2.0), (5.0, 6.0, 7.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
THORAX = {
    "window_min": -1002.0,
    "window_max": 76.0,
    "z_score_mean": -67.4600605496041,
    "z_score_std": 289.7915098044176,
}


def settings(target: Spacing = (1.0, 1.0, 2.0), labels: tuple[int, ...] = (0, 1, 4), **values: Any) -> StudyConfig:
    """Settings for one channel ``t1``; ``values`` are preprocessing settings, ``modality`` and ``images``."""
    modality, images = values.pop("modality", "mr"), values.pop("images", ["t1"])
    return StudyConfig.model_validate(
        {
            "mist_version": "test",
            "dataset_info": {"task": "test", "modality": modality, "images": images, "labels": labels},
            "spatial_config": {"patch_size": (8, 8, 8), "target_spacing": target},
            "preprocessing": {"median_resampled_image_size": (8, 8, 8), **values},
            "model": {"params": {"in_channels": 1, "out_channels": len(labels)}},
            "training": {},
            "evaluation": {},
        }
    )


def write(folder: Path, image: Image, labels: LabelMap, grid: Geometry = GRID) -> Case:
    write_image(folder / "t1.nii.gz", image, grid)
    write_labels(folder / "mask.nii.gz", labels, grid)
    return Case("007", {"t1": folder / "t1.nii.gz"}, folder / "mask.nii.gz")


@pytest.fixture
def labels() -> LabelMap:
    labels = np.zeros(GRID.size, dtype=np.uint8)
    labels[3:7, 4:9, 2:6], labels[5, 5, 3] = 1, 4
    return labels


@pytest.fixture
def image(labels: LabelMap) -> Image:
    noise = np.random.default_rng(0).normal(100, 0.1, GRID.size).astype(np.float32)
    return noise + np.float32(300) * (labels > 0)


@pytest.fixture
def case(tmp_path: Path, image: Image, labels: LabelMap) -> Case:
    return write(tmp_path, image, labels)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("study", tmp_path / "numpy", tmp_path / "results")


# ── Real scans, compared with the reference ─────────────────────────────────────────────────────────────────────────


def test_a_hippocampus_equals_the_reference(shared: Path) -> None:
    folder, name = shared / "data/Task04_Hippocampus", "hippocampus_001.nii.gz"
    case = Case("001", {"t1": folder / "imagesTr" / name}, folder / "labelsTr" / name)
    made = preprocess(case, settings((1.0, 1.0, 1.0), (0, 1, 2)), None)
    assert made.image.shape == (35, 51, 35, 1)
    assert made.classes is not None
    summary = [made.image.min(), made.image.max(), made.image.mean(dtype=np.float64)]
    np.testing.assert_allclose(summary, [-2.2633631, 1.8211329, -0.00023077297], atol=1e-6)
    assert np.bincount(made.classes.ravel()).tolist() == [59527, 1324, 1624]


@pytest.mark.parametrize(
    "target, values, size, summary, counts",
    [
        (
            (2.0, 3.0, 4.1),
            {"modality": "ct", "ct_normalization": THORAX},
            (182, 96, 10),
            (-3.22487, 0.49504575, -0.8440035931548322),
            [154141, 9499, 8364, 2716],
        ),
        (
            (3.5, 2.2, 0.9),
            {"normalize_with_nonzero_mask": True},
            (104, 131, 47),
            (-1.6798842, 1.3001126, -0.0011872008543781058),
            [567421, 34613, 28416, 9878],
        ),
    ],
)
def test_a_resampled_thorax_equals_the_reference(
    shared: Path,
    tmp_path: Path,
    target: Spacing,
    values: dict[str, Any],
    size: tuple[int, int, int],
    summary: tuple[float, float, float],
    counts: list[int],
) -> None:
    scan, organs = (nib.load(shared / "data/ct" / name) for name in ("example_ct_sm.nii.gz", "example_seg.nii.gz"))
    chosen = np.zeros(256, dtype=np.uint8)
    chosen[[5, 20, 1]] = 1, 2, 4
    nib.save(scan.slicer[..., :14], tmp_path / "ct.nii.gz")
    labels = chosen[np.asarray(organs.slicer[..., :14].dataobj)]
    nib.save(nib.Nifti1Image(labels, scan.affine), tmp_path / "mask.nii.gz")
    case = Case("1", {"t1": tmp_path / "ct.nii.gz"}, tmp_path / "mask.nii.gz")
    made = preprocess(case, settings(target, (0, 1, 2, 4), crop_to_foreground=True, **values), None)
    assert made.image.shape == (*size, 1)
    assert made.classes is not None
    found = [made.image.min(), made.image.max(), made.image.mean(dtype=np.float64)]
    np.testing.assert_allclose(found, summary, atol=1e-6)
    assert np.bincount(made.classes.ravel()).tolist() == counts


def test_a_resampled_sagittal_spine_equals_the_reference(shared: Path, tmp_path: Path) -> None:
    spine = nib.load(shared / "data/spine/ref.nii.gz")
    labels = (np.asarray(spine.dataobj) > 0).astype(np.uint8)
    image = gaussian_filter(labels.astype(np.float32) * 1000, 2)
    nib.save(nib.Nifti1Image(image, spine.affine, spine.header), tmp_path / "t1.nii.gz")
    nib.save(nib.Nifti1Image(labels, spine.affine, spine.header), tmp_path / "mask.nii.gz")
    case = Case("1", {"t1": tmp_path / "t1.nii.gz"}, tmp_path / "mask.nii.gz")
    made = preprocess(case, settings((3.0, 1.0, 0.9), (0, 1), crop_to_foreground=True), None)
    assert made.image.shape == (19, 96, 333, 1)
    assert made.classes is not None
    np.testing.assert_allclose([made.image.min(), made.image.max()], [-0.82817656, 1.9808029], atol=1e-6)
    assert np.bincount(made.classes.ravel()).tolist() == [428848, 178544]


# ── Crop, mask, border ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("resampling, kept", [("reference", 1), ("accurate", 3)])
def test_a_label_outside_the_foreground_box_is_kept(
    tmp_path: Path, image: Image, labels: LabelMap, resampling: str, kept: int
) -> None:
    labels = np.where(labels == 4, 4, 0).astype(np.uint8)
    labels[0, 0, 0] = labels[11, 13, 9] = 4
    config = settings(crop_to_foreground=True, resampling=resampling)
    made = preprocess(write(tmp_path, image, labels), config, Box((3, 4, 2), (7, 9, 6)))
    assert made.classes is not None
    assert int((made.classes == 2).sum()) == kept


def test_by_default_the_box_is_computed_from_the_first_channel(case: Case) -> None:
    made = preprocess(replace(case, mask=None), settings(crop_to_foreground=True), None)
    assert made.geometry.box == Box((3, 4, 2), (7, 9, 6))
    assert made.classes is None
    assert made.dtm is None
    assert made.image.shape == (4, 5, 4, 1)


def test_a_box_has_no_effect_without_cropping(case: Case) -> None:
    assert preprocess(case, settings(), Box((3, 4, 2), (7, 9, 6))).image.shape == (*GRID.size, 1)


def test_a_box_of_another_image_is_refused(case: Case) -> None:
    with refuses("box-mismatch", CaseError, case="007", expected=GRID.size):
        preprocess(case, settings(crop_to_foreground=True), Box((0, 0, 0), (13, 14, 10)))


@pytest.mark.parametrize("resampling, share", [("reference", 0.8), ("accurate", 0.1)])
def test_a_zero_background_is_excluded_from_the_statistics(
    tmp_path: Path, image: Image, labels: LabelMap, resampling: str, share: float
) -> None:
    image[labels == 0] = 0
    config = settings((0.8, 0.8, 1.6), normalize_with_nonzero_mask=True, resampling=resampling)
    made = preprocess(write(tmp_path, image, labels), config, None)
    assert (np.count_nonzero(made.image) / made.image.size > share) == (resampling == "reference")


@pytest.mark.parametrize("resampling, empty", [("reference", True), ("accurate", False)])
def test_the_last_slice_is_not_empty(tmp_path: Path, labels: LabelMap, resampling: str, empty: bool) -> None:
    labels[...] = 1
    image = np.random.default_rng(0).normal(100, 10, GRID.size).astype(np.float32)
    made = preprocess(write(tmp_path, image, labels), settings((1.0, 1.0, 1.0), resampling=resampling), None)
    assert made.classes is not None
    assert (made.classes[..., -1] == 0).all() == empty


@pytest.mark.parametrize("resampling", ["reference", "accurate"])
def test_a_preprocessed_mask_is_restored_to_the_original_grid(case: Case, labels: LabelMap, resampling: str) -> None:
    config = settings((0.5, 1.0, 1.0), crop_to_foreground=True, resampling=resampling)
    made = preprocess(case, config, None)
    assert made.classes is not None
    assert made.geometry.box is not None
    grid, reorientation = made.geometry.canonical()
    shares = [
        resample_onto(torch.from_numpy(made.classes == index).float(), made.geometry.preprocessed, grid).numpy()
        for index in range(3)
    ]
    restored = reorientation.undo(np.argmax(shares, axis=0))
    truth = labels[made.geometry.box.slices]
    np.testing.assert_array_equal(np.array([0, 1, 4])[restored] > 0, truth > 0)


# ── Conversion and distance maps ─────────────────────────────────────────────────────────────────────────────────────


def test_skipping_converts_files_and_maps_labels_to_indices(case: Case, image: Image) -> None:
    made = preprocess(case, settings((3.0, 3.0, 3.0), skip=True, crop_to_foreground=True), None)
    np.testing.assert_array_equal(made.image[..., 0], image)
    assert made.geometry.preprocessed == made.geometry.original
    assert made.classes is not None
    assert made.classes.max() == 2


def test_labels_with_gaps_have_one_distance_map_each(case: Case) -> None:
    dtm = preprocess(case, settings(compute_dtms=True), None).dtm
    assert dtm is not None
    assert dtm.shape == (*GRID.size, 3)
    assert dtm[..., 2].min() == 0
    assert (dtm[..., 2] == 0).sum() == 1


@pytest.mark.parametrize("resampling, slice_apart", [("accurate", 2.0), ("reference", 1.0)])
def test_distances_are_in_mm_except_with_reference_resampling(case: Case, resampling: str, slice_apart: float) -> None:
    config = settings(compute_dtms=True, normalize_dtms=False, resampling=resampling)
    dtm = preprocess(case, config, None).dtm
    assert dtm is not None
    assert dtm.dtype == np.float16
    x, y, z = np.argwhere(dtm[..., 2] == 0)[0]
    assert dtm[x, y, z - 2 : z + 3, 2].tolist() == [2 * slice_apart, slice_apart, 0, slice_apart, 2 * slice_apart]
    assert dtm[x - 1 : x + 2, y, z, 2].tolist() == [1, 0, 1]


def test_channels_keep_the_order_of_the_settings(tmp_path: Path, image: Image, labels: LabelMap) -> None:
    case = write(tmp_path, image, labels)
    write_image(tmp_path / "t2.nii.gz", -image, GRID)
    case = replace(case, images={"t2": tmp_path / "t2.nii.gz", **case.images})
    made = preprocess(case, settings(images=["t1", "t2"], skip=True), None)
    np.testing.assert_array_equal(made.image, np.stack([image, -image], axis=-1))


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_on_different_grids_are_refused(case: Case, labels: LabelMap) -> None:
    assert case.mask is not None
    write_labels(case.mask, labels, replace(GRID, spacing=(1.0, 1.0, 3.0)))
    with refuses("grid-mismatch", CaseError, case="007", file=case.mask, names="(1, 1, 2) and (1, 1, 3) mm"):
        preprocess(case, settings(), None)


def test_an_impossible_spacing_is_refused_before_memory_is_allocated(tmp_path: Path, labels: LabelMap) -> None:
    in_micrometers = replace(GRID, spacing=(1000.0, 1000.0, 2000.0))
    case = write(tmp_path, labels.astype(np.float32), labels, in_micrometers)
    with refuses("image-size", CaseError, case="007", file=case.images["t1"], found=(12000, 14000, 10000)):
        preprocess(case, settings(), None)


def test_an_unknown_label_is_refused(case: Case) -> None:
    with refuses("unknown-label", CaseError, case="007", found=[4], expected=[0, 1]):
        preprocess(case, settings(labels=(0, 1)), None)


def test_a_missing_channel_is_refused(case: Case) -> None:
    with refuses("channel-missing", CaseError, case="007", found=["t1"], expected=["t2"]):
        preprocess(case, settings(images=["t1", "t2"]), None)


# ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_case_is_written_with_its_record(study: Study, case: Case) -> None:
    config = settings(compute_dtms=True)
    content = write_case(study, case, config, None)
    made, record = preprocess(case, config, None), read_record(study, "007")
    assert made.classes is not None
    np.testing.assert_array_equal(np.load(study.image("007")), made.image)
    np.testing.assert_array_equal(np.load(study.label("007")), made.classes[..., None])
    assert np.load(study.dtm("007"), mmap_mode="r").flags.c_contiguous
    assert np.load(study.label("007"), mmap_mode="r").dtype == np.uint8
    assert record.geometry == made.geometry
    assert (record.content, record.settings) == (content, steps.settings(config, "preprocessing"))
    assert list(record.inputs) == ["t1", "mask"]
    assert write_case(study, case, config, None) == content


def test_a_case_that_fails_keeps_the_arrays_of_an_earlier_run(study: Study, case: Case) -> None:
    write_case(study, case, settings(compute_dtms=True), None)
    before = {path: path.read_bytes() for path in study.numpy.rglob("*") if path.is_file()}
    case.images["t1"].write_bytes(b"corrupted")
    with refuses("image-unreadable", CaseError, case="007", file=case.images["t1"]):
        write_case(study, case, settings(), None)
    assert {path: path.read_bytes() for path in study.numpy.rglob("*") if path.is_file()} == before


def test_a_disk_that_fills_up_keeps_the_arrays_of_an_earlier_run(
    study: Study, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(study, case, settings(), None)
    before = {path: path.read_bytes() for path in study.numpy.rglob("*") if path.is_file()}

    def full(path: Path, array: np.ndarray) -> None:
        if "labels" in str(path):
            raise OSError("No space left on device")
        path.write_bytes(b"new")

    monkeypatch.setattr("mist_ops.preprocessing.case.save_array", full)
    with pytest.raises(OSError, match="No space"):
        write_case(study, case, settings(normalize_with_nonzero_mask=True), None)
    assert {path: path.read_bytes() for path in study.numpy.rglob("*") if path.is_file()} == before


def test_distance_maps_that_are_no_longer_requested_are_removed(study: Study, case: Case) -> None:
    write_case(study, case, settings(compute_dtms=True), None)
    write_case(study, case, settings(), None)
    assert not study.dtm("007").exists()


@pytest.mark.parametrize("keep", [False, True])
def test_volumes_of_labels_are_recorded_before_and_after(tmp_path: Path, keep: bool) -> None:
    labels = np.zeros(GRID.size, dtype=np.uint8)
    labels[2:10, 2:10, 2:8] = 1
    labels[5, 6, 4] = 4
    case = write(tmp_path, np.ones(GRID.size, np.float32), labels)
    config, study = settings((3.0, 3.0, 2.0), keep_small_labels=keep), Study("s", tmp_path / "n", tmp_path / "r")
    write_case(study, case, config, None)
    record = read_record(study, case.id)
    classes = np.load(study.label(case.id))
    voxel = 18.0
    assert record.volumes == {
        1: ((384 - 1) * 2.0, np.count_nonzero(classes == 1) * voxel),
        4: (2.0, np.count_nonzero(classes == 2) * voxel),
    }
    found = reduced_labels(study, [case.id, "missing"])
    if keep:
        assert found == {}
        assert describe_reduced(found) == ""
    else:
        assert found == {case.id: {4: (2.0, 0.0)}}
        assert "label 4 is lost in 1 patient (007)" in describe_reduced(found)


def test_channels_on_one_grid_by_another_form_are_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voxels = np.random.default_rng(0).normal(100, 20, SIZE).astype(np.float32)
    moved = np.eye(4)
    moved[1, 3] = 20.0
    images = {
        "t1": stored(tmp_path / "t1.nii", voxels, np.eye(4), moved, (2, 1)),
        "t2": stored(tmp_path / "t2.nii", voxels, moved, moved, (1, 1)),
    }
    config = settings((1.0, 1.0, 1.0), images=["t1", "t2"], skip=True)
    made = preprocess(Case("p", images), config, None)
    np.testing.assert_array_equal(made.image, np.stack([voxels, voxels], axis=-1))
    assert "t2.nii are on the same grid only by a form" in caplog.text
    stored(tmp_path / "t2.nii", voxels, 2 * moved, 2 * moved, (1, 1))
    with refuses("grid-mismatch", CaseError, case="p"):
        preprocess(Case("p", images), config, None)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("stored", [np.int16, np.float32])
def test_arrays_have_the_bytes_of_the_plain_computation(tmp_path: Path, masked: bool, stored: type) -> None:
    """Reading a box, transposing in blocks, and percentiles from brackets change no bit."""
    generator = np.random.default_rng(0)
    values = (generator.normal(400, 80, (80, 70, 60)) * (generator.random((80, 70, 60)) < 0.7)).astype(stored)
    box = Box((5, 3, 4), (76, 70, 55))
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("t1", "t2")}
    for path in paths.values():
        nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    config = settings((1.0, 1.0, 1.0), images=["t1", "t2"], crop_to_foreground=True, normalize_with_nonzero_mask=masked)
    made = preprocess(Case("007", paths, None), config, box).image
    image = np.ascontiguousarray(values, dtype=np.float32)[box.slices]
    inside = image[image != 0] if masked else image
    low, high = np.percentile(inside, (0.5, 99.5)).astype(np.float32)
    expected = (np.clip(image, low, high) - inside.mean()) / inside.std()
    expected = expected * (image != 0) if masked else expected
    assert made.tobytes() == np.stack([expected, expected], axis=-1).tobytes()
