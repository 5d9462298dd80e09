from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from expect import refuses
from inference.settings import settings
from records.passports import passport
from torch import nn

from mist_ops.config import StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, ConfigError
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels, write_image
from mist_ops.imaging.vectors import read_values, read_vector_grid
from mist_ops.inference.case import Predictor, predict_case, predict_preprocessed, predict_raw
from mist_ops.inference.models import find_folds, load_models
from mist_ops.models.weights import write_tensors
from mist_ops.postprocessing.strategy import Step
from mist_ops.preprocessing.case import write_case
from mist_ops.records.passport import write_passport
from mist_ops.registry import MODELS
from mist_ops.study import Study

CPU = torch.device("cpu")
GRID = Geometry((20, 18, 16), (1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


class Threshold(nn.Module):
    """Class 1 where channel t1 is bright, class 2 where t2 is."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(windows[:, :1], 0.5), windows], dim=1)


def config(**values: object) -> StudyConfig:
    changes: dict[str, object] = {
        "dataset_info.images": ["t1", "t2"],
        "dataset_info.labels": [0, 4, 7],
        "model.params": {"in_channels": 2, "out_channels": 3},
        "spatial_config.patch_size": (32, 32, 32),
        "training.amp": False,
        "inference.tta.strategy": "none",
    }
    return override(settings(), changes | values)


def predictor(settings: StudyConfig | None = None) -> Predictor:
    return Predictor([Threshold()], settings or config(), CPU)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name, part in (("t1", np.s_[3:9, 4:8, 5:9]), ("t2", np.s_[12:17, 10:14, 5:9])):
        image = np.zeros(GRID.size, dtype=np.float32)
        image[part] = 50
        write_image(tmp_path / f"{name}.nii.gz", image, GRID)
    return Case("007", {"t2": tmp_path / "t2.nii.gz", "t1": tmp_path / "t1.nii.gz"})


def truth() -> np.ndarray:
    expected = np.zeros(GRID.size, dtype=np.uint8)
    expected[3:9, 4:8, 5:9], expected[12:17, 10:14, 5:9] = 4, 7
    return expected


def network() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["nnunet-pocket"].build(2, 3, (32, 32, 32), (1.0, 1.0, 1.0))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("test", tmp_path / "numpy", tmp_path / "results")


def test_channels_are_found_by_name_and_dataset_labels_are_returned(case: Case) -> None:
    labels, grid = predict_raw(predictor(), case)
    assert np.array_equal(labels, truth())
    assert grid.differences(GRID) == []


def test_arrays_and_files_give_the_same_prediction(case: Case, study: Study, tmp_path: Path) -> None:
    write_case(study, case, config(), None)
    output = tmp_path / "out" / "007.nii.gz"
    predict_case(predictor(), case, output, study)
    written, grid = read_labels(output)
    assert np.array_equal(written, predict_raw(predictor(), case)[0])
    assert grid.differences(GRID) == []


def test_probabilities_match_the_labels_and_sum_to_one(case: Case, study: Study, tmp_path: Path) -> None:
    output, probabilities = tmp_path / "out" / "007.nii.gz", tmp_path / "probabilities" / "007.nii.gz"
    wide = config(**{"spatial_config.target_spacing": [1.5, 1.5, 1.5]})
    predict_case(predictor(wide), case, output, probabilities=probabilities)
    labels, _ = read_labels(output)
    volumes = np.stack(list(read_values(probabilities)))
    np.testing.assert_array_equal(np.array([0, 4, 7])[volumes.argmax(axis=0)], labels)
    np.testing.assert_allclose(volumes.sum(axis=0), 1, atol=1e-5)
    assert len(list(probabilities.parent.iterdir())) == 1
    assert read_vector_grid(probabilities)[1].differences(GRID) == []


def test_a_strategy_is_applied_to_the_mask(case: Case, study: Study, tmp_path: Path) -> None:
    output = tmp_path / "007.nii.gz"
    step = Step(
        "replace_small_objects_with_label", (4,), True, {"small_object_threshold": 10**6, "replacement_label": 9}
    )
    predict_case(predictor(), case, output, strategy=(step,))
    plain, _ = predict_raw(predictor(), case)
    assert (plain == 4).any()
    np.testing.assert_array_equal(read_labels(output)[0], np.where(plain == 4, 9, plain))


def test_a_missing_channel_is_refused(case: Case) -> None:
    with refuses("channel-missing", CaseError, case="007"):
        predict_raw(predictor(config(**{"dataset_info.images": ["t1", "flair"]})), case)


def test_a_case_must_be_preprocessed(case: Case, study: Study) -> None:
    with refuses("not-preprocessed", CaseError, case="007"):
        predict_preprocessed(predictor(), study, case)


def test_an_array_that_does_not_match_its_record_is_refused(case: Case, study: Study) -> None:
    write_case(study, case, config(), None)
    np.save(study.image("007"), np.zeros((3, 3, 3, 2), dtype=np.float32))
    with refuses("array-shape", CaseError, case="007", found=(3, 3, 3, 2), expected=(20, 18, 16, 2)):
        predict_preprocessed(predictor(), study, case)


def test_folds_are_ordered_by_number_and_other_files_ignored(tmp_path: Path) -> None:
    for name in ("fold_10.pt", "fold_2.pt", ".fold_1.pt", "fold_x.pt", "fold_3.json"):
        (tmp_path / name).touch()
    assert find_folds(tmp_path) == [2, 10]
    assert find_folds(tmp_path / "absent") == []


def test_models_are_loaded_from_a_study_or_a_folder(study: Study) -> None:
    fit, architecture = network(), {"spatial_config.patch_size": (64, 64, 64), "model.architecture": "nnunet"}
    write_tensors(study.model(1), fit.state_dict())
    write_passport(study.passport(1), passport(config=config().model_dump(mode="json")))
    # The network is built from the passport, not from config.json.
    for models in (load_models(study, config(**architecture), [1]), load_models(study.models, config(**architecture))):
        (loaded,) = models
        assert not loaded.training
        assert all(torch.equal(value, fit.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_network_without_a_passport_is_built_from_the_config(study: Study) -> None:
    write_tensors(study.model(0), network().state_dict())
    assert len(load_models(study, config())) == 1
    with refuses("weights-mismatch", ConfigError):
        load_models(study, config(**{"model.architecture": "nnunet"}))


def test_all_missing_folds_are_listed(study: Study) -> None:
    write_tensors(study.model(1), network().state_dict())
    with refuses("weights-missing", ConfigError, names="fold 0, 2", file=study.models, found=[1], expected=[0, 1, 2]):
        load_models(study, config(), [0, 1, 2])
    with refuses("weights-missing", ConfigError, found=[]):
        load_models(study.numpy, config())


def test_a_model_with_other_channels_is_refused(study: Study) -> None:
    write_tensors(study.model(0), network().state_dict())
    swapped = config(**{"dataset_info.images": ["t2", "t1"]})
    write_passport(study.passport(0), passport(config=swapped.model_dump(mode="json")))
    with refuses("training-mismatch", ConfigError, field="dataset_info.images", expected=["t2", "t1"]):
        load_models(study, config())


def test_a_corrupted_passport_is_refused(study: Study) -> None:
    write_tensors(study.model(0), network().state_dict())
    study.passport(0).write_text("{")
    with refuses("passport-invalid", ConfigError, file=study.passport(0)):
        load_models(study, config())
