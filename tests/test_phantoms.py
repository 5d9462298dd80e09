from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mist_ops.dataset import find_test_cases, find_training_cases, read_description
from mist_ops.imaging.nifti import read_geometry, read_labels
from mist_ops.phantoms import CORE, LESION, phantom, write_phantoms
from mist_ops.types import Box


def test_the_same_seed_gives_the_same_patient() -> None:
    first, second = phantom(7), phantom(7)
    assert first.geometry == second.geometry
    np.testing.assert_array_equal(first.channels["t1"], second.channels["t1"])
    np.testing.assert_array_equal(first.labels, second.labels)


def test_seeds_give_different_patients() -> None:
    assert phantom(1).geometry != phantom(2).geometry


@pytest.mark.parametrize("seed", range(6))
def test_a_phantom_has_both_labels(seed: int) -> None:
    labels = phantom(seed).labels
    assert np.count_nonzero(labels == LESION) > 300
    assert np.count_nonzero(labels == CORE) > 50
    inner = Box((1, 1, 1), tuple(voxels - 1 for voxels in labels.shape)).slices
    assert not labels[0].any()
    assert labels[inner].any()


def test_orientations_and_spacings_differ() -> None:
    grids = [phantom(seed).geometry for seed in range(8)]
    assert len({grid.canonical()[1] for grid in grids}) > 4
    assert len({grid.spacing for grid in grids}) == 8


def test_an_unvaried_phantom_has_an_lps_grid_of_the_requested_size() -> None:
    plain = phantom(3, size=(20, 24, 16), varied=False)
    assert plain.labels.shape == plain.geometry.size == (20, 24, 16)
    assert plain.geometry.spacing == (1.0, 1.0, 1.0)
    assert plain.geometry.canonical()[0] == plain.geometry


def test_lesion_and_core_differ_in_a_channel() -> None:
    scanned = phantom(0)
    lesion, core = (scanned.labels == label for label in (LESION, CORE))
    assert scanned.channels["t1"][core].mean() > 1.3 * scanned.channels["t1"][lesion].mean()
    assert scanned.channels["t2"].std() > 0
    assert all(channel.min() >= 0 for channel in scanned.channels.values())


def test_a_written_dataset_is_read(tmp_path: Path) -> None:
    described = read_description(write_phantoms(tmp_path, patients=3, tests=2, size=(20, 20, 18)))
    cases = find_training_cases(described)
    assert [case.id for case in cases] == ["phantom_001", "phantom_002", "phantom_003"]
    assert len(find_test_cases(described)) == 2
    assert described.classes == {"whole_lesion": [LESION, CORE], "core": [CORE]}
    assert cases[0].mask is not None
    labels, geometry = read_labels(cases[0].mask)
    assert set(np.unique(labels)) == {0, LESION, CORE}
    assert all(read_geometry(path).differences(geometry) == [] for path in cases[0].files)


def test_adding_a_patient_does_not_change_the_others(tmp_path: Path) -> None:
    for folder, patients in (("few", 1), ("more", 2)):
        write_phantoms(tmp_path / folder, patients=patients, size=(16, 16, 16))
    few, more = (tmp_path / folder / "train" / "phantom_001" / "mask.nii.gz" for folder in ("few", "more"))
    np.testing.assert_array_equal(read_labels(few)[0], read_labels(more)[0])
