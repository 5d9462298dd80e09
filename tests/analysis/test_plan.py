from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from expect import refuses

from mist_ops.analysis.fingerprint import CaseFingerprint, HuStatistics
from mist_ops.analysis.plan import (
    PATCH_VOXELS,
    fitted_patch_size,
    is_masked,
    patch_size,
    plan,
    target_spacing,
    warnings,
)
from mist_ops.dataset import DatasetDescription
from mist_ops.errors import ConfigError, DatasetError
from mist_ops.registry import MODELS
from mist_ops.types import Box, Size, Spacing

ISO: Spacing = (1.0, 1.0, 1.0)
GIB8, GIB24, GIB80 = 1_048_576, 3_145_728, 10_485_760


def case(
    size: Size = (64, 64, 64), spacing: Spacing = ISO, box: Box | None = None, **fields: object
) -> CaseFingerprint:
    plain = {"id": "a", "axes": (0, 1, 2), "nonzero_fraction": 1.0, "labels": {0: 1}, "content": "", **fields}
    return CaseFingerprint(size=size, spacing=spacing, box=box or Box.whole(size), **plain)  # type: ignore[arg-type]


def description(modality: str = "mr", **fields: object) -> DatasetDescription:
    plain = {"task": "t", "train-data": Path("x"), "mask": ["m"], "images": {"t1": ["t1"]}, "labels": [0, 1, 4]}
    return DatasetDescription.model_validate({**plain, "modality": modality, **fields})


@pytest.mark.parametrize(
    "median, spacing, patch",
    [
        ((36, 50, 36.5), (1, 1, 1), (32, 32, 32)),
        ((135, 174, 139), (1, 1, 1), (128, 128, 128)),
        ((512, 512, 300), (0.75, 0.75, 1.5), (160, 160, 64)),
        ((512, 512, 100), (0.8, 0.8, 2.5), (512, 512, 8)),
        ((320, 320, 20), (0.6, 0.6, 3), (320, 320, 20)),
        ((100, 400, 400), (4, 1, 1), (14, 384, 384)),
        ((500, 40, 40), (1, 1, 1), (480, 32, 32)),
        ((300, 300, 64), (1, 1, 3.001), (288, 288, 24)),
        ((64, 64, 200), (1, 1, 4), (64, 64, 192)),
        ((128, 128, 128), (1, 1, 1), (128, 128, 128)),
        ((240, 240, 155), (1, 1, 1), (128, 128, 128)),
        ((512, 512, 120), (0.8, 0.8, 2.4), (160, 160, 32)),
        ((512, 512, 40), (0.7, 0.7, 5), (512, 512, 8)),
        ((320, 320, 4), (0.5, 0.5, 4), (320, 320, 4)),
        ((20, 20, 20), (1, 1, 1), (32, 32, 32)),
        ((300, 300, 64), (1, 1, 3.0), (160, 160, 32)),
        ((600, 600, 9), (0.4, 0.4, 5), (576, 576, 5)),
        ((200.5, 200.5, 14.5), (0.7, 0.7, 3.5), (192, 192, 14)),
        ((256, 256, 24), (0.7812499999999999, 0.7812499999999999, 6.499999999999998), (256, 256, 24)),
        ((122, 101, 14), (3, 3, 3), (96, 96, 32)),
    ],
)
def test_the_patch_is_that_of_mist_for_a_budget_of_128_cubed(median, spacing, patch):
    assert patch_size(np.array(median, dtype=float), tuple(map(float, spacing)), PATCH_VOXELS) == patch


@pytest.mark.parametrize(
    "budget, median, spacing, patch",
    [
        (GIB8, (240, 240, 155), (1, 1, 1), (96, 96, 96)),
        (GIB8, (512, 512, 40), (0.7, 0.7, 5), (448, 448, 5)),
        (GIB8, (600, 600, 9), (0.4, 0.4, 5), (448, 448, 5)),
        (GIB24, (135, 174, 139), (1, 1, 1), (128, 160, 128)),
        (GIB24, (512, 512, 40), (0.7, 0.7, 5), (512, 512, 12)),
        (GIB24, (600, 600, 9), (0.4, 0.4, 5), (576, 576, 8)),
        (GIB24, (300, 300, 64), (1, 1, 3.001), (256, 256, 40)),
        (GIB80, (240, 240, 155), (1, 1, 1), (224, 224, 128)),
        (GIB80, (512, 512, 300), (0.75, 0.75, 1.5), (256, 256, 128)),
        (GIB80, (100, 400, 400), (4, 1, 1), (80, 352, 352)),
        (GIB80, (1000, 1000, 1000), (0.5, 0.5, 0.5), (192, 192, 192)),
    ],
)
def test_the_patch_is_that_of_mist_for_other_budgets(budget, median, spacing, patch):
    assert patch_size(np.array(median, dtype=float), tuple(map(float, spacing)), budget) == patch


def test_the_target_spacing_is_the_median_and_a_coarse_axis_takes_its_tenth_percentile():
    spacings = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 4.0], [1.0, 2.0, 6.0]])
    assert target_spacing(spacings) == (1.0, 1.0, pytest.approx(2.4))
    assert target_spacing(np.array([[1.0, 1.0, 3.0]])) == (1.0, 1.0, 3.0)


def test_sizes_and_patch_are_planned_in_canonical_order():
    # A PIR spine: the file's last axis is the thick left-right one, and comes first once reoriented.
    fine = 0.5859400033950806
    box = Box((249, 1, 1), (412, 510, 16))
    spine = case((512, 512, 17), (fine, fine, 3.299999952316284), box, axes=(2, 0, 1))
    config = plan([spine, spine], description(), 2)
    assert config.spatial_config.target_spacing == (3.299999952316284, fine, fine)
    assert config.preprocessing.crop_to_foreground
    assert config.preprocessing.median_resampled_image_size == (15, 163, 509)
    assert config.spatial_config.patch_size == (14, 160, 160)


def test_twenty_percent_are_enough_for_a_crop_and_a_masked_background():
    cropped = case((10, 10, 10), box=Box((0, 0, 0), (7, 10, 10)), nonzero_fraction=0.75)
    config = plan([cropped], description(), 2).preprocessing
    assert config.crop_to_foreground
    assert config.normalize_with_nonzero_mask
    assert not is_masked([case(nonzero_fraction=0.9)])


def test_the_plan_holds_every_measured_setting():
    config = plan([case()], description(final_classes={"tumor": [1, 4]}), 3)
    assert config.dataset_info.model_dump() == {"task": "t", "modality": "mr", "images": ["t1"], "labels": [0, 1, 4]}
    assert config.model.params.model_dump() == {"in_channels": 1, "out_channels": 3}
    assert config.training.folds == [0, 1, 2]
    assert config.preprocessing.resampling == "accurate"
    assert config.evaluation["tumor"].model_dump() == {"labels": [1, 4], "metrics": {"dice": {}, "haus95": {}}}


def test_without_final_classes_each_label_is_a_class():
    assert list(plan([case()], description(), 2).evaluation) == ["label_1", "label_4"]


def test_sizes_are_planned_for_an_edited_target_spacing_and_an_edited_patch_is_kept():
    edits = {"spatial_config.target_spacing": [0.5, 0.5, 0.5]}
    config = plan([case()], description(), 2, edits)
    assert config.preprocessing.median_resampled_image_size == (128, 128, 128)
    assert config.spatial_config.patch_size == (128, 128, 128)
    edited = plan([case()], description(), 2, {**edits, "spatial_config.patch_size": [64, 64, 32]})
    assert edited.spatial_config.patch_size == (64, 64, 32)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("size, spacing", [((36, 50, 36), ISO), ((512, 512, 40), (0.7, 0.7, 5.0))])
def test_every_architecture_gets_a_supported_patch_within_the_budget(architecture, size, spacing):
    spatial = plan([case(size, spacing)], description(), 2, {"model.architecture": architecture}).spatial_config
    MODELS[architecture].check_patch_size(spatial.patch_size, spatial.target_spacing)
    assert np.prod(spatial.patch_size) <= PATCH_VOXELS


@pytest.mark.parametrize(
    "architecture, preferred, patch",
    [
        ("nnunet", (512, 512, 8), (512, 512, 8)),
        ("mednext-small", (512, 512, 8), (352, 352, 16)),
        ("swinunetr-small", (512, 512, 8), (256, 256, 32)),
        ("swinunetr-small", (256, 256, 5), (256, 256, 32)),
        ("swinunetr-small", (32, 32, 32), (64, 32, 32)),
    ],
)
def test_a_slab_that_must_be_thicker_is_narrowed_to_the_budget(architecture, preferred, patch):
    assert fitted_patch_size(MODELS[architecture], preferred, (1.0, 1.0, 5.0)) == patch


def test_edited_parameters_of_the_model_keep_the_channels_of_the_dataset():
    config = plan([case()], description(), 2, {"model.params": {"in_channels": 7, "out_channels": 9, "depth": 3}})
    assert config.model.params.model_dump() == {"in_channels": 1, "out_channels": 3, "depth": 3}


@pytest.mark.parametrize(
    "path, value, code",
    [("spatial_config.target_spacing", [1.0], "value-invalid"), ("model.architecture", "nnunot", "unknown-model")],
)
def test_an_invalid_edit_is_refused(path: str, value: object, code: str):
    with refuses(code, ConfigError, found=value):
        plan([case()], description(), 2, {path: value})


def test_the_ct_window_is_the_lower_edge_of_the_bin_that_reaches_the_percentage():
    hu = HuStatistics(count=1000, mean=10.0, m2=4000.0, first=-50, counts=[4, 2, 988, 2, 4])
    window = plan([case(hu=hu)], description("ct"), 2).preprocessing.ct_normalization
    assert (window.window_min, window.window_max) == (-49.0, -47.0)
    assert (window.z_score_mean, window.z_score_std) == (10.0, 2.0)


def test_a_ct_study_without_a_labeled_voxel_is_refused():
    empty = HuStatistics(count=0, mean=0.0, m2=0.0, first=-1024, counts=[])
    with refuses("mask-empty", DatasetError):
        plan([case(hu=empty)], description("ct"), 2)


def test_a_case_of_more_than_two_gigabytes_gives_a_warning():
    large = case((600, 600, 400), labels={0: 1, 4: 1})
    (warning,) = warnings([large], plan([large], description(), 2))
    assert "'a'" in warning
    assert "2.3 GB" in warning


def test_empty_masks_and_contradictory_headers_give_a_warning():
    cases = [case(labels={0: 1, 4: 1}, form_gap=0.9), case(id="b"), case(id="c", labels={4: 1}, form_gap=31.5)]
    empty, placed = warnings(cases, plan(cases, description(), 2))
    assert "background: b." in empty
    assert "31.5 mm in headers of c." in placed
