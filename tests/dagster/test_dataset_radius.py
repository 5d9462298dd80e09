"""A change of the dataset makes stale exactly the results that it changes: bytes compared with what the status says.

Each change is applied to a finished study. What its status says then is compared with a study that is made from scratch
with the same plan and folds. The fields of dataset.json and the files of a patient are those of the schema and of the
dataset, so that a new one enters by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from training.small_study import TINY

import mist_ops
from mist_dagster.freshness.status import status
from mist_ops.config import read_config
from mist_ops.dataset import DatasetDescription, read_train_paths
from mist_ops.files import file_hash, write_json
from mist_ops.inference.study import predict_held_out, predict_tests
from mist_ops.phantoms import write_phantoms
from mist_ops.records.arrays import read_record
from mist_ops.records.passport import read_passport
from mist_ops.registry import MODELS
from mist_ops.study import Study

CPU = torch.device("cpu")

SETTINGS: dict[str, Any] = {
    "spatial_config.patch_size": [8, 8, 8],
    "model.architecture": "tiny",
    "training.nfolds": 3,
    "training.folds": [0, 1],
    "training.val_percent": 0.4,
    "training.epochs": 1,
    "training.min_steps_per_epoch": 1,
    "training.hardware.num_cpu_workers": 0,
    "preprocessing.crop_to_foreground": True,
    "preprocessing.compute_dtms": True,
    "inference.tta.enabled": False,
}
"""The last fold is not trained, so that patients of it are only trained on."""


def make(study: Study) -> None:
    """Make all results of an analyzed study."""
    mist_ops.preprocess(study)
    for fold in (0, 1):
        mist_ops.train(study, fold, device="cpu")
    folds = read_train_paths(study.train_paths).fold_of
    outcomes = list(predict_held_out(study, [case_id for case_id, fold in folds.items() if fold < 2], CPU))
    if study.test_paths.is_file():
        outcomes += predict_tests(study, ids_to_test(study), CPU)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    mist_ops.evaluate(study)


def ids_to_test(study: Study) -> list[str]:
    return [row.split(",")[0] for row in study.test_paths.read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    MODELS._load()["tiny"] = TINY
    folder = tmp_path_factory.mktemp("radius")
    data = write_phantoms(folder / "data", patients=6, tests=2, size=(20, 18, 16))
    for mask in (folder / "data" / "train").glob("*/mask.nii.gz"):  # a label that a patient lacks
        if mask.parent.name == "phantom_001":
            put(mask, lambda voxels: np.minimum(voxels, 1))
    study = Study("radius", folder / "numpy", folder / "results", data)
    mist_ops.analyze(study, SETTINGS)
    make(study)
    yield study
    del MODELS._load()["tiny"]


@pytest.fixture
def study(made: Study, tmp_path: Path) -> Study:
    shutil.copytree(made.results.parent, tmp_path / "copy")
    copy = tmp_path / "copy"
    return Study("copy", copy / "numpy", copy / "results", copy / "data" / "dataset.json")


def folder(study: Study) -> Path:
    assert study.data is not None
    return study.data.parent


def describe(study: Study, **values: object) -> None:
    path = folder(study) / "dataset.json"
    write_json(path, {**json.loads(path.read_text()), **values})


def put(path: Path, change: Callable[[Any], Any], spacing: float = 1.0, note: str = "") -> None:
    """Write a file again with other voxels, another spacing or another note in its header."""
    image = nibabel.load(path)
    affine = image.affine @ np.diag([spacing, 1.0, 1.0, 1.0])
    changed = nibabel.Nifti1Image(change(np.asanyarray(image.dataobj).copy()), affine)
    changed.header["descrip"] = note
    nibabel.save(changed, path)


def same(voxels: Any) -> Any:
    return voxels


def other_block(voxels: Any) -> Any:
    """Other values in the middle, where every phantom has tissue, and large enough to survive resampling."""
    place = tuple(slice(length // 2 - 2, length // 2 + 2) for length in voxels.shape)
    is_mask = voxels.dtype.kind in "ui" and voxels.max() < 5
    voxels[place] = voxels[place] == 0 if is_mask else voxels[place] * 2 + 1
    return voxels


def patient(study: Study, fold: int) -> Path:
    """The folder of a patient that a fold holds out."""
    return folder(study) / "train" / read_train_paths(study.train_paths).held_out(fold)[0]


def second_mask(study: Study) -> None:
    for place in (folder(study) / "train").iterdir():
        shutil.copy(place / "mask.nii.gz", place / "rater.nii.gz")
        put(place / "rater.nii.gz", other_block)
    describe(study, mask=["rater"])


def rename(study: Study, part: str) -> None:
    old = next((folder(study) / part).iterdir())
    old.rename(old.with_name("other"))


def move(study: Study, part: str) -> None:
    (folder(study) / part).rename(folder(study) / "elsewhere")
    describe(study, **{f"{part}-data": "elsewhere"})


def add(study: Study, part: str) -> None:
    extra = write_phantoms(study.results.parent / "extra", patients=1, tests=1, seed=9, size=(20, 18, 16)).parent
    shutil.copytree(extra / part / "phantom_001", folder(study) / part / "phantom_new")


def table(study: Study, columns: str, *rows: str) -> None:
    (folder(study) / "patients.csv").write_text("\n".join([columns, *rows]))
    describe(study, patients="patients.csv")


def another_fold(study: Study) -> None:
    moved = read_train_paths(study.train_paths).held_out(0)[0]
    table(study, "id,fold", f"{moved},1")


FIELDS: dict[str, dict[str, Callable[[Study], None]]] = {
    "task": {"": partial(describe, task="another")},
    "modality": {"other": partial(describe, modality="other"), "ct": partial(describe, modality="ct")},
    "train_data": {"": partial(move, part="train")},
    "test_data": {"": partial(move, part="test"), "none": lambda study: describe(study, **{"test-data": None})},
    "mask": {"string": partial(describe, mask=["mask"]), "file": second_mask},
    "images": {
        "string": partial(describe, images={"t1": ["t1"], "t2": ["t2"]}),
        "order": partial(describe, images={"t2": ["t2"], "t1": ["t1"]}),
        "fewer": partial(describe, images={"t1": ["t1"]}),
        "exchanged": partial(describe, images={"t1": ["t2"], "t2": ["t1"]}),
    },
    "labels": {"more": partial(describe, labels=[0, 1, 2, 3])},
    "final_classes": {
        "other": partial(describe, final_classes={"core": [2]}),
        "none": lambda study: describe(study, final_classes=None),
    },
    "patients": {
        "stratum": lambda study: table(study, "id,stratum", "phantom_001,a"),
        "group": lambda study: table(study, "id,group", "phantom_001,a"),
        "fold": another_fold,
    },
}
"""Changes of each field of dataset.json."""

PATIENTS: dict[str, Callable[[Study], object]] = {
    "added": partial(add, part="train"),
    "gone": lambda study: shutil.rmtree(patient(study, 0)),
    "gone, of a fold that is not trained": lambda study: shutil.rmtree(patient(study, 2)),
    "renamed": partial(rename, part="train"),
    "test patient added": partial(add, part="test"),
    "test patient gone": lambda study: shutil.rmtree(next((folder(study) / "test").iterdir())),
    "test patient renamed": partial(rename, part="test"),
}

FILES = ("t1", "t2", "mask")


def of_file(study: Study, name: str, kind: str, fold: int) -> None:
    path = patient(study, fold) / f"{name}.nii.gz"
    put(path, other_block if kind == "voxels" else same, note="" if kind == "voxels" else "written again")


def of_spacing(study: Study) -> None:
    for path in patient(study, 1).iterdir():
        put(path, same, spacing=1.25)


def of_test(study: Study) -> None:
    put(next((folder(study) / "test").iterdir()) / "t2.nii.gz", other_block)


CHANGES: dict[str, Callable[[Study], object]] = {
    **{
        f"dataset.json: {field} {kind}".strip(): make for field, kinds in FIELDS.items() for kind, make in kinds.items()
    },
    **{f"patient {name}": change for name, change in PATIENTS.items()},
    **{
        f"{name}: {kind}, fold {fold}": partial(of_file, name=name, kind=kind, fold=fold)
        for name in FILES
        for kind in ("voxels", "header")
        for fold in ((0, 2) if kind == "voxels" else (1,))
    },
    "all files: spacing": of_spacing,
    "test image: voxels": of_test,
}

SAMPLE = ("dataset.json: labels more", "patient added", "patient gone", "mask: voxels, fold 0")
"""The others are slow tests."""


@dataclass(frozen=True)
class Results:
    """Hashes of results, by patient, fold or file."""

    arrays: dict[str, dict[str, str]]
    models: dict[str, object]
    predictions: dict[str, str]
    tests: dict[str, str]
    scores: tuple[str, str]
    """With the task, which the plot and the pages name."""


def results(study: Study) -> Results:
    ids = [case.id for case in read_train_paths(study.train_paths).cases]
    masks = {path.name.removesuffix(".nii.gz"): file_hash(path) for path in study.cv_predictions.glob("*.nii.gz")}
    of_tests = {path.name.removesuffix(".nii.gz"): file_hash(path) for path in study.test_predictions.glob("*.nii.gz")}
    return Results(
        {case_id: read_record(study, case_id).arrays for case_id in ids},
        {f"fold_{fold}": _model(study, fold) for fold in (0, 1)},
        masks,
        of_tests,
        (study.results_csv.read_text(), read_config(study.config).dataset_info.task),
    )


def _model(study: Study, fold: int) -> object:
    history = read_passport(study.model(fold)).history
    return file_hash(study.model(fold)), [(epoch.training_loss, epoch.validation_loss) for epoch in history]


def test_every_field_of_dataset_json_is_changed() -> None:
    assert FIELDS.keys() == DatasetDescription.model_fields.keys()


def test_every_file_of_a_patient_is_changed(made: Study) -> None:
    assert {path.name.removesuffix(".nii.gz") for path in patient(made, 0).iterdir()} == set(FILES)


@pytest.mark.parametrize(
    "change", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES]
)
def test_exactly_what_a_change_of_the_dataset_changes_is_stale(study: Study, change: str) -> None:
    before = results(study)
    assert status(study).stale == {}
    CHANGES[change](study)
    found = status(study).stale
    if "analyze" in found:
        mist_ops.analyze(study)
        # Reasons may differ: the foreground is known only when images are read.
        updated = {stage: keys.keys() for stage, keys in found.items() if stage != "analyze"}
        assert {stage: keys.keys() for stage, keys in status(study).stale.items()} == updated
    again = replace(study, numpy=study.results.parent / "again/numpy", results=study.results.parent / "again/results")
    again.results.mkdir(parents=True)
    for name in ("config.json", "fingerprint.json", "train_paths.csv", "test_paths.csv", "fg_bboxes.csv"):
        if (study.results / name).is_file():
            shutil.copy(study.results / name, again.results / name)
    relocate(again)
    make(again)
    compare(change, {stage: set(keys) for stage, keys in found.items()}, before, results(again))


def relocate(study: Study) -> None:
    """Paths in tables are relative to them; this one is a folder deeper."""
    for path in (study.train_paths, study.test_paths):
        if path.is_file():
            path.write_text(path.read_text().replace("../data/", "../../data/"))


REWRITTEN = "header"
"""Files that are written again with the same voxels and grid must be read, to know that nothing changed."""


def compare(change: str, stale: dict[str, set[str]], before: Results, after: Results) -> None:
    pairs: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("preprocess", before.arrays, after.arrays),
        ("train", before.models, after.models),
        ("predict", before.predictions, after.predictions),
        ("test", before.tests, after.tests),
        ("evaluate", {"results.csv": before.scores}, {"results.csv": after.scores}),
    ]
    other: dict[str, set[str]] = {}
    for stage, old, new in pairs:
        called = stale.get(stage, set())
        other[stage] = {key for key, value in new.items() if old.get(key) != value}
        assert other[stage] <= called, f"{stage} {other[stage] - called} changed, and is not called stale"
        if REWRITTEN not in change:
            assert called <= new.keys() | old.keys()
            follows = bool(other.get("train") or other.get("preprocess")) and stage in ("predict", "test", "evaluate")
            assert called <= other[stage] or follows, (
                f"{stage} {called - other[stage]} is called stale, and is the same"
            )
