"""``mist_calibrate`` on finished studies with one fault each."""

from __future__ import annotations

from functools import partial

import pytest

from mist_ops.records.calibration import read_calibration

from .harness import Arguments, Fault, Sandbox, cut_short, meets, move_grid, remove


def calibrated(box: Sandbox) -> Arguments:
    return ["--results", box.study.results, "--numpy", box.study.numpy, "--device", "cpu", "--no-figures"]


def others_measured(box: Sandbox) -> bool:
    """Whether the calibration is that of all patients but the first."""
    others = {"phantom_002", "phantom_003", "phantom_004"}
    return all(known.patients.keys() == others for known in read_calibration(box.study.calibration).volumes.values())


def without_test_patients(box: Sandbox) -> Arguments:
    remove(box.study.test_paths)
    return ["--tests"]


def with_one_fold(box: Sandbox) -> Arguments:
    remove(box.study.model(1))
    return ["--tests"]


refused = partial(Fault, touches=False, again=False)

FAULTS = [
    refused(
        "calibrate/no-model",
        "a study without models",
        lambda box: remove(box.study.models),
        ("[model-missing]", "mist_train"),
    ),
    refused(
        "calibrate/weights-truncated",
        "truncated weights of a fold",
        lambda box: cut_short(box.study.model(0)),
        ("[weights-unreadable]", "fold_0.pt"),
    ),
    Fault(
        "calibrate/array-truncated",
        "a truncated array of a patient",
        lambda box: cut_short(box.study.image("phantom_001")),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_measured,
    ),
    Fault(
        "calibrate/mask-truncated",
        "a truncated mask of a patient",
        lambda box: cut_short(box.mask()),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_measured,
        again=False,
    ),
    Fault(
        "calibrate/mask-of-another-size",
        "a mask of another size",
        lambda box: move_grid(box.mask(), "size"),
        ("1 of 4 patients", "phantom_001"),
        others_done=others_measured,
        again=False,
    ),
    refused(
        "calibrate/no-arrays",
        "no arrays at all",
        lambda box: remove(box.study.numpy),
        ("[not-preprocessed]", "phantom_001", "[calibration-too-few]"),
    ),
    refused(
        "calibrate/no-test-patients",
        "--tests in a study without test patients",
        without_test_patients,
        "[tests-missing]",
    ),
    refused(
        "calibrate/tests-with-one-fold",
        "--tests with the model of one fold only",
        with_one_fold,
        "[tests-missing]",
    ),
    refused(
        "calibrate/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        "[config-missing]",
    ),
    refused(
        "calibrate/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "calibrate/paths-missing",
        "a study without its table of patients",
        lambda box: remove(box.study.train_paths),
        "[table-missing]",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_calibrate(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "calibrate", calibrated(trained), fault)
