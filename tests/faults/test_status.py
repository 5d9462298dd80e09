"""``mist_status`` and ``mist_plan`` on studies of which a record, a model, an array or a table is broken."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from mist_dagster.runtime.locks import study_lock
from mist_ops.evaluation.table import summary_path

from .harness import Fault, Sandbox, cut_short, edit_json, edit_rows, meets, remove, set_folds


def passport(box: Sandbox) -> Path:
    return box.study.passport(0)


def record(box: Sandbox, part: str = "train") -> Path:
    return box.study.prediction_record(part, "phantom_001")


def geometry(box: Sandbox) -> Path:
    return box.study.geometry("phantom_001")


def summary(box: Sandbox) -> Path:
    return summary_path(box.study.results_csv)


def of_another_program(box: Sandbox) -> None:
    """Leave what MIST itself would have written."""
    for fold in (0, 1):
        remove(box.study.passport(fold))
    for folder in (box.study.prediction_record("train", "any").parents[1], box.study.geometry("any").parent):
        remove(folder)
    for path in (summary(box), box.study.fingerprint):
        remove(path)


def in_training(box: Sandbox) -> None:
    """Hold the lock of a run that trains a fold, until the test ends; the run is one of another home."""
    remove(box.study.model(0))
    LOCKS.enter_context(
        study_lock("0123456789", box.study, "training", stage="train", partitions=["fold_0"], writes=[0])
    )


LOCKS = ExitStack()


FAULTS = [
    Fault(
        "status/fold-in-training",
        "a missing model that a run is training",
        in_training,
        ("Training fold 0: running since", "(run 01234567)", "To do after these runs: predict 2 held-out patients"),
        status=0,
    ),
    Fault(
        "status/passport-truncated",
        "a passport that is cut short",
        lambda box: cut_short(passport(box)),
        ("Train fold 0", "fold_0.json", "not a valid passport"),
        status=0,
    ),
    Fault(
        "status/passport-list",
        "a passport that is a list",
        lambda box: passport(box).write_text("[]") and None,
        ("Train fold 0", "fold_0.json", "not a valid passport"),
        status=0,
    ),
    Fault(
        "status/passport-of-no-epoch",
        "a passport whose best epoch there was not",
        lambda box: edit_json(passport(box), best_epoch=99),
        ("Train fold 0", "fold_0.json", "not a valid passport"),
        status=0,
    ),
    Fault(
        "status/passport-other-settings",
        "a passport of settings that are not known any more",
        lambda box: edit_json(passport(box), config={"training": 7}),
        "The passport holds settings of another version",
        status=0,
    ),
    Fault(
        "status/passport-missing",
        "a model without its passport",
        lambda box: remove(passport(box)),
        ("Train fold 0", "not on record", "fold_0.json"),
        status=0,
    ),
    Fault(
        "status/model-missing",
        "a passport without its model",
        lambda box: remove(box.study.model(0)),
        ("Train fold 0", "no model"),
        status=0,
    ),
    Fault(
        "status/model-truncated",
        "a model that is cut short",
        lambda box: cut_short(box.study.model(0)),
        "fold_0.pt do not match the passport",
        status=0,
    ),
    Fault(
        "status/geometry-truncated",
        "a record of a grid that is cut short",
        lambda box: cut_short(geometry(box)),
        "Preprocess 1 patient (phantom_001)",
        status=0,
    ),
    Fault(
        "status/geometry-other-types",
        "a record of a grid that holds something else",
        lambda box: edit_json(geometry(box), inputs=[1], stamps=3),
        "Preprocess 1 patient (phantom_001)",
        status=0,
    ),
    Fault(
        "status/array-truncated",
        "an array that is cut short",
        lambda box: cut_short(box.study.image("phantom_001")),
        "Preprocess 1 patient (phantom_001)",
        status=0,
    ),
    Fault(
        "status/image-missing",
        "a missing scan",
        lambda box: remove(box.image()),
        "Preprocess 1 patient (phantom_001): its t1 is missing",
        status=0,
    ),
    Fault(
        "status/record-truncated",
        "a record of a prediction that is cut short",
        lambda box: cut_short(record(box)),
        ("Predict 1 held-out patient (phantom_001)", "not recorded"),
        status=0,
    ),
    Fault(
        "status/record-other-types",
        "a record of a prediction that holds something else",
        lambda box: edit_json(record(box, "test"), models=[1], stamps="none"),
        ("Predict 1 test patient (phantom_001)", "not recorded"),
        status=0,
    ),
    Fault(
        "status/prediction-truncated",
        "a prediction that is cut short",
        lambda box: cut_short(box.study.cv_prediction("phantom_001")),
        "Predict 1 held-out patient (phantom_001): its mask changed",
        status=0,
    ),
    Fault(
        "status/summary-truncated",
        "a summary of scores that is cut short",
        lambda box: cut_short(summary(box)),
        ("Evaluate: results.csv", "not on record"),
        status=0,
    ),
    Fault(
        "status/summary-other-types",
        "a summary of scores that holds something else",
        lambda box: edit_json(summary(box), inputs={"settings": 3, "masks": []}),
        ("Evaluate: results.csv", "not on record"),
        status=0,
    ),
    Fault(
        "status/results-missing",
        "missing scores",
        lambda box: remove(box.study.results_csv),
        "Evaluate: results.csv: missing",
        status=0,
    ),
    Fault(
        "status/numpy-missing",
        "a folder of arrays that is missing",
        lambda box: remove(box.study.numpy),
        "Preprocess 4 patients",
        status=0,
    ),
    Fault(
        "status/models-missing",
        "a folder of models that is missing",
        lambda box: remove(box.study.models),
        ("Train fold 1", "no model"),
        status=0,
    ),
    Fault(
        "status/predictions-missing",
        "a folder of predictions that is missing",
        lambda box: remove(box.study.results / "predictions"),
        "Predict 4 held-out patients (phantom_002, phantom_004, phantom_001, phantom_003)",
        status=0,
    ),
    Fault(
        "status/of-another-program",
        "results that MIST made",
        of_another_program,
        ("Train fold 0", "not on record", "fold_0.json"),
        status=0,
    ),
    Fault(
        "status/patient-removed",
        "a patient who was removed from the table",
        lambda box: edit_rows(box.study.train_paths, lambda rows: [row for row in rows if row["id"] != "phantom_001"]),
        "Analyze 1 new patient (phantom_001)",
        status=0,
    ),
    Fault(
        "status/folds-exchanged",
        "patients who were moved to another fold",
        lambda box: set_folds(box, phantom_001=0, phantom_002=1),
        ("Train fold 1", "added: phantom_001 and removed: phantom_002"),
        status=0,
    ),
    Fault(
        "status/patient-unknown",
        "arrays of a patient who is not in the study",
        lambda box: shutil.copy(box.study.image("phantom_001"), box.study.image("phantom_009")) and None,
        ("Not used", "phantom_009.npy"),
        status=0,
    ),
    Fault(
        "status/fold-of-no-study",
        "a patient in a fold that there is not",
        lambda box: set_folds(box, phantom_001=7),
        ("phantom_001", "fold 7"),
    ),
    Fault(
        "status/paths-missing",
        "a table of patients that is missing",
        lambda box: remove(box.study.train_paths),
        "[table-missing]",
    ),
    Fault(
        "status/paths-cut-short",
        "a table of patients that is cut short",
        lambda box: box.study.train_paths.write_text("id,fold,mask,t1,t2\nphantom_001,") and None,
        "column 'fold' is empty",
    ),
    Fault(
        "status/config-broken",
        "a config.json that is cut short",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    Fault(
        "status/fingerprint-broken",
        "a fingerprint.json that is cut short",
        lambda box: cut_short(box.study.fingerprint),
        ("[json-invalid]", "fingerprint.json"),
    ),
    Fault(
        "status/results-folder-missing",
        "a folder of results that is missing",
        lambda box: ["--results", box.folder / "other"],
        ("[config-missing]", "other"),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_status(trained: Sandbox, fault: Fault) -> None:
    with LOCKS:
        meets(trained, "status", [], fault)


def records_broken(box: Sandbox) -> None:
    for path in (geometry(box), record(box), record(box, "test"), summary(box)):
        cut_short(path)


REPAIRED = [
    Fault(
        "plan/passport-truncated",
        "a passport that is cut short",
        lambda box: cut_short(passport(box)),
        ("Train fold 0", "fold_0.json", "not a valid passport"),
        status=0,
        again=False,
    ),
    Fault(
        "plan/records-broken",
        "broken records of a grid, of predictions and of scores",
        lambda box: (
            [cut_short(path) for path in (geometry(box), record(box), record(box, "test"), summary(box))] and None
        ),
        "Preprocess 1 patient (phantom_001)",
        status=0,
        again=False,
    ),
]


@pytest.mark.parametrize("fault", REPAIRED, ids=lambda fault: fault.key)
def test_a_plan_puts_right_what_is_broken(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "plan", ["--apply", "--device", "cpu"], fault)
    assert "Everything is current." in trained.run("status").said


def test_a_fold_is_not_trained_for_the_sake_of_a_record(trained: Sandbox) -> None:
    before = {fold: trained.study.model(fold).stat().st_mtime_ns for fold in (0, 1)}
    cut_short(geometry(trained))
    assert trained.run("plan", "--apply", "--device", "cpu").status == 0
    assert {fold: trained.study.model(fold).stat().st_mtime_ns for fold in before} == before


def test_a_study_of_another_program_keeps_its_predictions_when_it_is_scored(trained: Sandbox) -> None:
    of_another_program(trained)
    before = {path: path.read_bytes() for path in trained.study.cv_predictions.iterdir()}
    ended = trained.run("finalize", "--device", "cpu")
    assert {path: path.read_bytes() for path in before} == before
    assert "Train fold 0: the origin of its model is not on record" in ended.said
    assert json.loads(summary(trained).read_text())["inputs"]
