"""What an update of the analysis would write is known before it runs, and nothing is left to update after it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mist_ops.analysis.analyze import analyze
from mist_ops.analysis.changes import GONE, NEW, pending_update, read_analyzed
from mist_ops.config import override, read_config, write_config
from mist_ops.files import write_json
from mist_ops.study import Study


@pytest.fixture
def study(phantom_dataset: Path, tmp_path: Path) -> Study:
    """An analyzed study of six patients in three folds and one test patient."""
    made = Study("phantoms", tmp_path / "numpy", tmp_path / "results", phantom_dataset)
    list(analyze(made, overrides={"training.nfolds": 3}))
    return made


def folder(study: Study) -> Path:
    assert study.data is not None
    return study.data.parent


def describe(study: Study, **values: object) -> None:
    written = folder(study) / "dataset.json"
    write_json(written, {**json.loads(written.read_text()), **values})


def table(study: Study, *rows: str) -> None:
    (folder(study) / "patients.csv").write_text("\n".join(["id,fold,group", *rows]))
    describe(study, patients="patients.csv")


def add(study: Study, part: str = "train", name: str = "phantom_x") -> None:
    shutil.copytree(next((folder(study) / part).iterdir()), folder(study) / part / name)


def remove(study: Study, part: str, name: str) -> None:
    shutil.rmtree(folder(study) / part / name)


def rename(study: Study) -> None:
    (folder(study) / "train" / "phantom_002").rename(folder(study) / "train" / "another")


def other_masks(study: Study) -> None:
    for patient in (folder(study) / "train").iterdir():
        shutil.copy(patient / "mask.nii.gz", patient / "second_rater.nii.gz")
    describe(study, mask=["second_rater"])


def moved(study: Study) -> None:
    (folder(study) / "train").rename(folder(study) / "patients")
    describe(study, **{"train-data": "patients"})


ALL = [f"phantom_{k:03d}" for k in range(1, 7)]

CHANGES: dict[str, tuple[Callable[[Study], object], dict[str, str]]] = {
    "nothing": (lambda study: None, {}),
    "a new patient": (add, {"phantom_x": NEW}),
    "a patient who is gone": (lambda study: remove(study, "train", "phantom_003"), {"phantom_003": GONE}),
    "another id": (rename, {"phantom_002": GONE, "another": NEW}),
    "a new test patient": (lambda study: add(study, "test"), {"phantom_x (test)": NEW}),
    "another test patient": (
        lambda study: [add(study, "test"), remove(study, "test", "phantom_001")],
        {"phantom_001 (test)": GONE, "phantom_x (test)": NEW},
    ),
    "no test data": (lambda study: describe(study, **{"test-data": None}), {"phantom_001 (test)": GONE}),
    "another task": (lambda study: describe(study, task="x"), {"dataset.json": "task was phantoms and is x"}),
    "another modality": (
        lambda study: describe(study, modality="other"),
        {"dataset.json": "modality was mr and is other"},
    ),
    "another label": (
        lambda study: describe(study, labels=[0, 1, 2, 3]),
        {"dataset.json": "labels was 0, 1, 2 and is 0, 1, 2, 3"},
    ),
    "other classes": (
        lambda study: describe(study, final_classes={"core": [1]}),
        {"dataset.json": "final_classes.whole_lesion was 1, 2 and is not set; final_classes.core was 2 and is 1"},
    ),
    "a channel less": (
        lambda study: describe(study, images={"t1": ["t1"]}),
        {"dataset.json": "images was t1, t2 and is t1"},
    ),
    "another order": (
        lambda study: describe(study, images={"t2": ["t2"], "t1": ["t1"]}),
        {"dataset.json": "images was t1, t2 and is t2, t1"},
    ),
    "other masks": (other_masks, dict.fromkeys(ALL, "its mask is another file")),
    "a moved folder": (moved, dict.fromkeys(ALL, "its t1 and its t2 and its mask are other files")),
    "a fold": (lambda study: table(study, "phantom_001,0,", "phantom_002,1,"), {}),
    "a group": (
        lambda study: table(study, "phantom_001,,a"),
        {"phantom_001": "another group in the table of patients"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_pending_update_is_what_the_update_writes(study: Study, change: str) -> None:
    make, reasons = CHANGES[change]
    before = read_analyzed(study)
    make(study)
    pending = pending_update(study, before)
    if change == "a fold":
        old = before.assignment.fold_of
        asked = {"phantom_001": 0, "phantom_002": 1}
        reasons = {name: f"fold {fold} in the table of patients" for name, fold in asked.items() if old[name] != fold}
        assert reasons
    assert pending.reasons == reasons
    assert read_analyzed(study) == before
    list(analyze(study))
    after = read_analyzed(study)
    assert after.config == pending.result.config
    assert [case.id for case in after.assignment.cases] == [case.id for case in pending.result.assignment.cases]
    assert after.assignment.fold_of == pending.result.assignment.fold_of
    assert after.assignment.group_of == pending.result.assignment.group_of
    assert [resolved(case.files) for case in after.tests] == [resolved(case.files) for case in pending.result.tests]
    assert [resolved(case.files) for case in after.assignment.cases] == [
        resolved(case.files) for case in pending.result.assignment.cases
    ]
    assert pending_update(study, after).reasons == {}


def resolved(paths: tuple[Path, ...]) -> list[Path]:
    return [path.resolve() for path in paths]


def test_a_patient_who_comes_back_is_new(study: Study) -> None:
    shutil.move(folder(study) / "train" / "phantom_003", folder(study) / "away")
    list(analyze(study))
    shutil.move(folder(study) / "away", folder(study) / "train" / "phantom_003")
    assert pending_update(study, read_analyzed(study)).reasons == {"phantom_003": NEW}


@pytest.mark.parametrize(
    "make",
    [
        lambda study: (folder(study) / "dataset.json").unlink(),
        lambda study: (folder(study) / "dataset.json").write_text("{"),
        lambda study: shutil.rmtree(folder(study) / "train"),
        lambda study: [shutil.rmtree(patient) for patient in (folder(study) / "train").iterdir()],
        lambda study: remove(study, "test", "phantom_001"),
        lambda study: describe(study, patients="none.csv"),
    ],
    ids=[
        "no dataset.json",
        "a broken dataset.json",
        "no folder",
        "an empty folder",
        "no test patient",
        "no table of patients",
    ],
)
def test_no_patient_is_gone_if_the_dataset_cannot_be_used(study: Study, make: Callable[[Study], object]) -> None:
    before = read_analyzed(study)
    make(study)
    found = pending_update(study, before)
    assert (found.result, found.reasons) == (before, {})


def test_a_patient_with_missing_files_stays_and_a_new_one_is_only_named(study: Study) -> None:
    before = read_analyzed(study)
    add(study)
    for name in ("phantom_x", "phantom_001"):
        (folder(study) / "train" / name / "mask.nii.gz").unlink()
    found = pending_update(study, before)
    assert found.reasons == {"phantom_x": NEW}
    assert set(found.result.assignment.fold_of) == set(ALL)


def test_edits_of_config_json_are_no_changes_of_the_dataset(study: Study) -> None:
    config = override(read_config(study.config), {"dataset_info.labels": [0, 2, 1], "evaluation.core.labels": [1, 2]})
    write_config(study.config, config)
    assert pending_update(study, read_analyzed(study)).reasons == {}
    describe(study, final_classes={"core": [1]})
    assert pending_update(study, read_analyzed(study)).result.config == config
