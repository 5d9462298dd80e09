from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expect import refuses

from mist_ops.analysis.measures import measure_case
from mist_ops.config import StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.errors import CaseError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_image, write_labels
from mist_ops.preprocessing.case import preprocess
from mist_ops.types import Box

GRID = Geometry((6, 7, 8), (1.0, 2.0, 3.0))
WHOLE = {"p": Box.whole(GRID.size)}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A case with four voxels of label 1 and a single one of label 2, valued 0, 1, 2 ... from the first on."""
    mask = np.zeros(GRID.size, dtype=np.uint8)
    mask[1:5, 1, 1] = 1
    mask[5, 6, 7] = 2
    image = np.arange(mask.size, dtype=np.float32).reshape(GRID.size)
    write_labels(tmp_path / "mask.nii.gz", mask, GRID)
    for factor, name in enumerate(("t1", "t2"), start=1):
        write_image(tmp_path / f"{name}.nii.gz", image * factor, GRID)
    return Case("p", {"t1": tmp_path / "t1.nii.gz", "t2": tmp_path / "t2.nii.gz"}, tmp_path / "mask.nii.gz")


def test_a_case_is_measured_by_hand(case: Case, phantom_config: StudyConfig):
    found = measure_case(case, phantom_config, WHOLE)
    assert (found.spacing, found.size, found.effective_voxels) == ((1.0, 2.0, 3.0), (6, 7, 8), 336)
    assert {label: measures.voxels for label, measures in found.labels.items()} == {1: 4, 2: 1}
    assert found.labels[1].shape is not None
    assert found.labels[1].shape.linearity == 1.0
    assert found.labels[2].shape is None
    assert found.labeled_voxels == 5
    assert found.intensities["t2"].values.tolist() == [130.0, 242.0, 354.0, 466.0, 670.0]
    assert found.file_bytes == sum(path.stat().st_size for path in case.files)


def test_a_crop_counts_the_foreground_box_extended_to_all_labels(case: Case, phantom_config: StudyConfig):
    boxes = {"p": Box((0, 0, 0), (6, 2, 2))}
    cropping = override(phantom_config, {"preprocessing.crop_to_foreground": True})
    assert measure_case(case, cropping, boxes).effective_voxels == 336
    as_mist = override(cropping, {"preprocessing.resampling": "reference"})
    assert measure_case(case, as_mist, boxes).effective_voxels == 24
    assert measure_case(case, phantom_config, boxes).effective_voxels == 336


def test_the_share_of_a_label_that_is_left_at_the_target_spacing(case: Case, phantom_config: StudyConfig):
    coarse = override(phantom_config, {"spatial_config.target_spacing": [2.0, 4.0, 6.0]})
    found = measure_case(case, coarse, WHOLE)
    classes = preprocess(case, coarse, None).classes
    assert classes is not None
    for label, volume in ((1, 4 * 6.0), (2, 6.0)):
        kept = np.count_nonzero(classes == label) * 48.0 / volume
        assert found.labels[label].kept == pytest.approx(kept)
    assert found.labels[2].kept == 0.0
    small = override(coarse, {"preprocessing.keep_small_labels": True})
    assert measure_case(case, small, WHOLE).labels[2].kept > 0.5


def test_measurements_can_be_pickled(case: Case, phantom_config: StudyConfig):
    found = measure_case(case, phantom_config, WHOLE)
    assert pickle.loads(pickle.dumps(found)).labels == found.labels


def test_a_channel_that_is_missing_or_on_another_grid_is_refused(
    case: Case, phantom_config: StudyConfig, tmp_path: Path
):
    with refuses("channel-missing", CaseError, case="p", field="t2"):
        measure_case(replace(case, images={"t1": case.images["t1"]}), phantom_config, WHOLE)
    write_image(case.images["t2"], np.zeros((6, 7, 9), dtype=np.float32), replace(GRID, size=(6, 7, 9)))
    with refuses("grid-mismatch", CaseError, names="size", case="p", file=case.images["t2"]):
        measure_case(case, phantom_config, WHOLE)
    case.images["t2"].unlink()
    with refuses("image-missing", CaseError, case="p", file=case.images["t2"]):
        measure_case(case, phantom_config, WHOLE)


def test_an_unlisted_label_is_refused(case: Case, phantom_config: StudyConfig):
    write_labels(case.files[-1], np.full(GRID.size, 9, dtype=np.uint8), GRID)
    with refuses("unknown-label", CaseError, case="p", found=[9]):
        measure_case(case, phantom_config, WHOLE)
