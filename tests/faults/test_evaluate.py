"""``mist_evaluate`` on predictions, tables and settings with one fault each."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from .harness import (
    Arguments,
    Fault,
    Sandbox,
    cut_short,
    edit_json,
    edit_text,
    fill,
    meets,
    move_grid,
    remove,
    save,
    seen_by_itk,
    voxels,
)

CLASSES = {
    "whole_lesion": {"labels": [1, 2], "metrics": {"dice": {}, "surf_dice": {"tolerance": 1.0}}},
    "core": {"labels": [2], "metrics": {"dice": {}, "haus95": {}}},
}


def pairs(box: Sandbox) -> Path:
    return box.folder / "data" / "pairs.csv"


def classes_file(box: Sandbox) -> Path:
    return box.folder / "data" / "classes.json"


def scores(box: Sandbox) -> Path:
    return box.folder / "scores.csv"


@pytest.fixture
def scorable(predicted: Sandbox) -> Sandbox:
    """A sandbox with predictions, a table of pairs and the classes to score."""
    files = [(predicted.mask(number), predicted.prediction(number)) for number in (1, 2, 3, 4)]
    rows = [f"phantom_{number:03},{mask},{prediction}" for number, (mask, prediction) in enumerate(files, start=1)]
    pairs(predicted).write_text("\n".join(["id,mask,prediction", *rows, ""]))
    classes_file(predicted).write_text(json.dumps(CLASSES))
    return predicted


def evaluation(box: Sandbox) -> Arguments:
    return ["--config", classes_file(box), "--paths-csv", pairs(box), "--output-csv", scores(box)]


def rows(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def others_are_scored(box: Sandbox) -> bool:
    """Whether only the first patient has no scores, with the reason in the summary."""
    found = rows(scores(box))
    summary = json.loads(scores(box).with_name("scores_summary.json").read_text())
    others = [float(cell) for number in (2, 3, 4) for cell in found[f"phantom_{number:03}"]]
    return (
        found["phantom_001"] == [""] * 4
        and all(math.isfinite(value) for value in others)
        and summary["patients"] == {"given": 4, "scored": 3, "failed": 1}
        and "phantom_001" in summary["failures"]
    )


def all_are_scored(box: Sandbox) -> bool:
    return json.loads(scores(box).with_name("scores_summary.json").read_text())["patients"]["scored"] == 4


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    edit_text(path, lambda text: text.replace(old, new))


def in_pairs(old: str, new: str) -> Callable[[Sandbox], None]:
    return lambda box: edit(pairs(box), old, new)


def in_prediction(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sandbox], None]:
    return lambda box: save(box.prediction(), change(voxels(box.prediction())))


def filled(value: float, array: np.ndarray) -> np.ndarray:
    array[8:12, 8:12, 8:12] = value
    return array


def one_class(**values: object) -> Callable[[Sandbox], None]:
    return lambda box: edit_json(classes_file(box), core={**CLASSES["core"], **values})


def unknown_label_checked(box: Sandbox) -> Arguments:
    save(box.prediction(), filled(7, voxels(box.prediction())))
    return ["--validate"]


def over(box: Sandbox, path: Callable[[Sandbox], Path]) -> Arguments:
    return ["--output-csv", path(box)]


def on_other_grid(box: Sandbox, field: str) -> None:
    move_grid(box.prediction(), field)


def class_of_unknown_label(box: Sandbox) -> Arguments:
    classes = {**CLASSES, "core": {**CLASSES["core"], "labels": [5]}}
    dataset = {"task": "phantoms", "modality": "mr", "images": ["t1", "t2"], "labels": [0, 1, 2]}
    edit_json(classes_file(box), **dict.fromkeys(CLASSES), evaluation=classes, dataset_info=dataset)


def image_as_table(box: Sandbox) -> None:
    shutil.copy(box.mask(), pairs(box))


def both_empty(box: Sandbox) -> None:
    for path in (box.mask(), box.prediction()):
        save(path, np.zeros_like(voxels(path)))


of_a_patient = partial(Fault, others_done=others_are_scored)
refused = partial(Fault, touches=False)
accepted = partial(Fault, says="Scores:", status=0, others_done=all_are_scored)

FAULTS = [
    of_a_patient(
        "evaluate/prediction-missing",
        "a missing prediction",
        lambda box: remove(box.prediction()),
        ("[image-missing]", "predicted/phantom_001.nii.gz"),
    ),
    of_a_patient(
        "evaluate/prediction-truncated",
        "a truncated prediction",
        lambda box: cut_short(box.prediction()),
        ("[image-unreadable]", "phantom_001.nii.gz"),
    ),
    of_a_patient(
        "evaluate/prediction-empty-file",
        "an empty file in place of a prediction",
        lambda box: fill(box.prediction()),
        ("[image-unreadable]", "phantom_001.nii.gz"),
    ),
    of_a_patient(
        "evaluate/prediction-not-an-image",
        "a text file in place of a prediction",
        lambda box: fill(box.prediction(), "no image"),
        ("[image-unreadable]", "phantom_001.nii.gz"),
    ),
    of_a_patient(
        "evaluate/prediction-a-folder",
        "a prediction that is a folder",
        in_pairs("predicted/phantom_001.nii.gz", "predicted"),
        "[image-missing]",
    ),
    *(
        of_a_patient(
            f"evaluate/prediction-other-{field}",
            f"a prediction whose {field} differs from its mask",
            partial(on_other_grid, field=field),
            ("[grid-mismatch]", f"on different grids: {field}"),
        )
        for field in ("size", "spacing", "origin", "direction")
    ),
    accepted(
        "evaluate/prediction-of-itk",
        "a prediction on the grid that only ITK reads from the mask, by its qform",
        lambda box: seen_by_itk(box.prediction(), box.mask()),
        says=("compared voxel by voxel", "phantom_001"),
        again=False,
    ),
    of_a_patient(
        "evaluate/prediction-4d",
        "a prediction with four dimensions",
        in_prediction(lambda array: np.stack([array, array], axis=-1)),
        "[image-not-3d]",
    ),
    of_a_patient(
        "evaluate/prediction-probabilities",
        "probabilities instead of labels",
        in_prediction(lambda array: array.astype(np.float32) * np.float32(0.45)),
        "[labels-not-integer]",
    ),
    of_a_patient(
        "evaluate/prediction-nan",
        "a prediction with NaN",
        in_prediction(lambda array: filled(np.nan, array.astype(np.float32))),
        "[labels-out-of-range]",
    ),
    of_a_patient(
        "evaluate/prediction-negative",
        "a prediction with a negative label",
        in_prediction(lambda array: filled(-1, array.astype(np.int16))),
        ("[labels-out-of-range]", "-1"),
    ),
    of_a_patient(
        "evaluate-validate/prediction-unknown-label",
        "a label that is in no class, with --validate",
        unknown_label_checked,
        ("[unknown-label]", "7", "0, 1, 2"),
    ),
    of_a_patient(
        "evaluate/mask-missing",
        "a missing mask",
        lambda box: remove(box.mask()),
        ("[image-missing]", "mask.nii.gz"),
    ),
    of_a_patient(
        "evaluate/mask-truncated",
        "a truncated mask",
        lambda box: cut_short(box.mask()),
        ("[image-unreadable]", "mask.nii.gz"),
    ),
    accepted("evaluate/both-empty", "an empty mask and an empty prediction", both_empty),
    accepted(
        "evaluate/prediction-empty",
        "a prediction without any label",
        in_prediction(np.zeros_like),
    ),
    refused(
        "evaluate/ids-twice",
        "a duplicate id",
        in_pairs("phantom_002,", "phantom_001,"),
        ("[patient-duplicate]", "phantom_001"),
    ),
    *(
        refused(
            f"evaluate/{key}",
            what,
            in_pairs("\nphantom_001,", f"\n{case_id},"),
            "[id-unsafe]",
        )
        for key, what, case_id in (
            ("id-dotdot", "an id that leaves the folder", "../x"),
            ("id-absolute", "an id that is a path", "/elsewhere/x"),
            ("id-very-long", "an id of 300 letters", "x" * 300),
        )
    ),
    refused(
        "evaluate/id-reserved",
        "a patient with the id of a summary row",
        in_pairs("\nphantom_001,", "\nMean,"),
        ("[id-reserved]", "Mean"),
    ),
    accepted("evaluate/ids-leading-zeros", "ids with leading zeros", in_pairs("\nphantom_00", "\n00")),
    refused(
        "evaluate/csv-missing",
        "a missing table of pairs",
        lambda box: remove(pairs(box)),
        "[table-missing]",
    ),
    accepted("evaluate/csv-semicolon", "a table with semicolons", in_pairs(",", ";")),
    accepted("evaluate/csv-bom", "a table with a byte-order mark", in_pairs("id,", "\ufeffid,")),
    accepted("evaluate/csv-crlf", "a table with Windows line endings", in_pairs("\n", "\r\n")),
    refused(
        "evaluate/csv-empty",
        "an empty file in place of the table",
        lambda box: fill(pairs(box)),
        "pairs.csv",
    ),
    refused(
        "evaluate/csv-header-only",
        "a table without rows",
        lambda box: fill(pairs(box), "id,mask,prediction\n"),
        ("[table-empty]", "pairs.csv"),
    ),
    refused(
        "evaluate/csv-column-missing",
        "a table without the column prediction",
        in_pairs("id,mask,prediction", "id,mask,predicted"),
        ("[table-column-missing]", "pairs.csv", "prediction"),
    ),
    refused(
        "evaluate/csv-cell-empty",
        "an empty cell",
        lambda box: edit(pairs(box), f"phantom_001,{box.mask()},", "phantom_001,,"),
        ("pairs.csv", "row 2", "'mask'"),
    ),
    refused(
        "evaluate/csv-not-text",
        "an image in place of the table",
        image_as_table,
        "pairs.csv",
    ),
    refused(
        "evaluate/config-missing",
        "a missing config.json",
        lambda box: remove(classes_file(box)),
        ("[config-missing]", "classes.json", "--config"),
    ),
    refused(
        "evaluate/config-broken",
        "a truncated config.json",
        lambda box: cut_short(classes_file(box)),
        ("[json-invalid]", "classes.json"),
    ),
    refused(
        "evaluate/config-without-classes",
        "a config.json without classes",
        lambda box: fill(classes_file(box), "{}"),
        ("[evaluation-invalid]", "classes.json"),
    ),
    refused(
        "evaluate/config-a-list",
        "a config.json that is a list",
        lambda box: fill(classes_file(box), "[]"),
        ("[value-invalid]", "classes.json"),
    ),
    refused(
        "evaluate/class-without-metrics",
        "classes without metrics",
        lambda box: fill(classes_file(box), json.dumps({"core": {"labels": [2], "metrics": {}}})),
        ("[evaluation-invalid]", "classes.json"),
    ),
    refused(
        "evaluate/metric-unknown",
        "an unknown metric",
        one_class(metrics={"dicee": {}}),
        ("[unknown-metric]", "Did you mean 'dice'?"),
    ),
    refused(
        "evaluate/metric-parameter-misspelt",
        "a misspelled parameter of a metric",
        one_class(metrics={"surf_dice": {"tolerence": 2.0}}),
        ("[evaluation-invalid]", "Did you mean 'tolerance'?"),
    ),
    refused(
        "evaluate/metric-parameter-wrong-type",
        "a parameter of the wrong type",
        one_class(metrics={"surf_dice": {"tolerance": "wide"}}),
        ("[evaluation-invalid]", "'core'", "'tolerance'"),
    ),
    refused(
        "evaluate/metric-parameter-negative",
        "a parameter below its range",
        one_class(metrics={"surf_dice": {"tolerance": -1.0}}),
        ("[evaluation-invalid]", "'core'", "'tolerance'"),
    ),
    refused(
        "evaluate/class-labels-a-string",
        "labels of a class that are strings",
        one_class(labels=["2"]),
        ("[value-invalid]", "core.labels.0"),
    ),
    refused(
        "evaluate/class-unknown-label",
        "a class with a label that the dataset does not have",
        class_of_unknown_label,
        ("[evaluation-invalid]", "'core'", "0, 1, 2, not 5"),
    ),
    accepted(
        "evaluate/class-named-weirdly",
        "a class with a comma, quotes and markup in its name",
        lambda box: edit(classes_file(box), '"core"', json.dumps('<b>a, "b"/../\u00e4</b>')),
    ),
    accepted(
        "evaluate/output-folder-missing",
        "an output in a folder that does not exist",
        lambda box: ["--output-csv", box.folder / "new" / "folder" / "scores.csv"],
        others_done=lambda box: (box.folder / "new" / "folder" / "scores.csv").is_file(),
    ),
    refused(
        "evaluate/output-a-folder",
        "an output that is a folder",
        lambda box: ["--output-csv", box.folder / "data"],
        ("[folder-not-file]", "data"),
    ),
    refused(
        "evaluate/output-below-a-file",
        "an output in a folder that is a file",
        lambda box: ["--output-csv", classes_file(box) / "scores.csv"],
        ("[file-not-folder]", "classes.json"),
    ),
    *(
        refused(
            f"evaluate/output-is-{name}",
            f"an output that is {what}",
            partial(over, path=path),
            "[output-is-input]",
        )
        for name, what, path in (
            ("table", "the table of pairs", pairs),
            ("config", "the config.json", classes_file),
            ("prediction", "a prediction", Sandbox.prediction),
        )
    ),
    refused(
        "evaluate/output-beside-is-table",
        "a table of pairs with the name of the table of lesions beside the output",
        lambda box: [
            "--paths-csv",
            shutil.copy(pairs(box), box.folder / "data" / "x_lesions.csv"),
            "--output-csv",
            box.folder / "data" / "x.csv",
        ],
        "[output-is-input]",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_evaluate(scorable: Sandbox, fault: Fault) -> None:
    meets(scorable, "evaluate", evaluation(scorable), fault)


def test_earlier_scores_are_kept_if_the_config_is_invalid(scorable: Sandbox) -> None:
    assert scorable.run("evaluate", *evaluation(scorable)).status == 0
    before = {path: content for path, content in scorable.files().items() if path.name.startswith("scores")}
    cut_short(classes_file(scorable))
    assert scorable.run("evaluate", *evaluation(scorable)).status == 1
    assert {path: scorable.files().get(path) for path in before} == before


def test_earlier_scores_of_a_patient_that_fails_are_removed(scorable: Sandbox) -> None:
    assert scorable.run("evaluate", *evaluation(scorable)).status == 0
    figure = scores(scorable).with_name("scores_scores.png")
    drawn = figure.read_bytes()
    remove(scorable.prediction())
    assert scorable.run("evaluate", *evaluation(scorable)).status == 1
    assert others_are_scored(scorable)
    assert figure.read_bytes() != drawn


def test_a_table_with_a_patient_that_failed_is_not_ranked(scorable: Sandbox) -> None:
    assert scorable.run("evaluate", *evaluation(scorable)).status == 0
    whole = shutil.copy(scores(scorable), scorable.folder / "whole.csv")
    remove(scorable.prediction())
    assert scorable.run("evaluate", *evaluation(scorable)).status == 1
    ended = scorable.run("rank", "--results", whole, scores(scorable), "--output-csv", scorable.folder / "ranks.csv")
    assert ended.status == 1
    assert "[scores-missing]" in ended.said
    assert "phantom_001" in ended.said


def test_without_any_prediction_there_are_no_summary_rows(scorable: Sandbox) -> None:
    remove(scorable.prediction().parent)
    assert scorable.run("evaluate", *evaluation(scorable)).status == 1
    assert list(rows(scores(scorable))) == ["id", *(f"phantom_{number:03}" for number in (1, 2, 3, 4))]
