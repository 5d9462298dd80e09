from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refuses
from training.small_study import FOLD, small_config, write_case

from mist_ops.config import override
from mist_ops.errors import CaseError
from mist_ops.files import write_array
from mist_ops.study import Study
from mist_ops.training import cases
from mist_ops.training.batches import PatchSampler, PatchSettings
from mist_ops.training.cases import CaseArrays, index_case, index_fold
from mist_ops.training.voxels import VOXELS_PER_CLASS

SETTINGS = PatchSettings((8, 8, 8), 0.6, ())


def found(case: CaseArrays) -> list[list[int]]:
    return [voxels.tolist() for voxels in case.voxels]


def expected(study: Study, case_id: str) -> list[list[int]]:
    labels = np.load(study.label(case_id)).ravel()
    return [np.flatnonzero(labels == index).tolist() for index in (1, 2)]


def test_the_voxels_of_each_class_are_written_beside_the_arrays(study: Study) -> None:
    case = index_case(study, "a", 1, 3)
    assert study.voxels("a").is_file()
    assert case.kept is None
    assert found(case) == expected(study, "a")


def test_voxels_of_a_large_class_are_limited_and_depend_on_the_id_alone(tmp_path: Path) -> None:
    labels = np.ones((40, 40, 40, 1), np.uint8)
    labels[0, 0, 0] = 3
    kept = []
    for name in ("one", "other"):
        study = Study(name, tmp_path / name, tmp_path)
        write_array(study.image("p"), labels.astype(np.float32))
        write_array(study.label("p"), labels)
        kept.append(found(index_case(study, "p", 1, 4)))
    assert [len(voxels) for voxels in kept[0]] == [VOXELS_PER_CLASS, 1]
    assert kept[0] == kept[1]


def test_current_voxels_are_not_selected_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    index_case(study, "a", 1, 3)
    monkeypatch.setattr(cases, "select_voxels", None)
    assert found(index_case(study, "a", 1, 3)) == expected(study, "a")


def relabel(study: Study) -> None:
    write_array(study.label("a"), np.flip(np.load(study.label("a")), 0))


def touch(study: Study) -> None:
    os.utime(study.label("a"))


def truncate(study: Study) -> None:
    study.voxels("a").write_bytes(study.voxels("a").read_bytes()[:-4])


def overwrite(study: Study) -> None:
    study.voxels("a").write_bytes(b"not an array")


def change_type(study: Study) -> None:
    write_array(study.voxels("a"), np.load(study.voxels("a")).astype(np.int64))


@pytest.mark.parametrize("change", [relabel, touch, truncate, overwrite, change_type])
def test_stale_or_corrupted_voxels_are_selected_again(study: Study, change: Any) -> None:
    index_case(study, "a", 1, 3)
    change(study)
    assert found(index_case(study, "a", 1, 3)) == expected(study, "a")


def test_labels_beyond_the_classes_are_refused_though_their_voxels_are_current(study: Study) -> None:
    index_case(study, "a", 1, 3)
    with refuses("labels-out-of-range", CaseError, case="a", found=2):
        index_case(study, "a", 1, 2)


def test_a_case_without_foreground_has_no_voxels(study: Study) -> None:
    write_array(study.label("a"), np.zeros((12, 10, 11, 1), np.uint8))
    for _ in range(2):
        case = index_case(study, "a", 1, 3)
        assert (case.labeled, found(case)) == (False, [])


def test_in_a_read_only_folder_voxels_are_kept_in_memory(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    study.voxels("a").parent.write_bytes(b"a file where the folder would be")
    case = index_case(study, "a", 1, 3)
    assert found(case) == expected(study, "a")
    assert str(study.voxels("a")) in caplog.text
    assert found(pickle.loads(pickle.dumps(case))) == expected(study, "a")


def test_the_dataset_that_workers_receive_is_small(study: Study) -> None:
    labels = np.arange(12 * 10 * 11).reshape(12, 10, 11, 1).astype(np.uint8) % 6
    write_array(study.label("a"), labels)
    config = override(small_config(), {"dataset_info.labels": list(range(6)), "model.params.out_channels": 6})
    for number in range(1, 500):
        for locate in (study.image, study.label):
            os.link(locate("a"), locate(f"BraTS-GLI-{number:05}-000"))
    ids = tuple(f"BraTS-GLI-{number:05}-000" for number in range(1, 500))
    training, _ = index_fold(study, config, replace(FOLD, training=("a", *ids), validation=("d",)))
    assert len(training) == 500
    assert len(pickle.dumps(PatchSampler(training, SETTINGS, 2, 250))) < 2**16


def test_a_case_that_is_preprocessed_again_is_indexed_again(study: Study) -> None:
    config = small_config()
    index_fold(study, config, FOLD)
    write_case(study, "a", seed=7)
    training, _ = index_fold(study, config, FOLD)
    assert found(training[0]) == expected(study, "a")
