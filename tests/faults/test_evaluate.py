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
    voxels,
)

ASKED = {
    "whole_lesion": {"labels": [1, 2], "metrics": {"dice": {}, "surf_dice": {"tolerance": 1.0}}},
    "core": {"labels": [2], "metrics": {"dice": {}, "haus95": {}}},
}


def pairs(box: Sandbox) -> Path:
    return box.folder / "data" / "pairs.csv"


def asked(box: Sandbox) -> Path:
    return box.folder / "data" / "asked.json"


def scores(box: Sandbox) -> Path:
    return box.folder / "scores.csv"


@pytest.fixture
def wanted(predicted: Sandbox) -> Sandbox:
    """A sandbox with predictions, a table of the pairs, and what is to be measured."""
    files = [(predicted.mask(number), predicted.prediction(number)) for number in (1, 2, 3, 4)]
    rows = [f"phantom_{number:03},{mask},{prediction}" for number, (mask, prediction) in enumerate(files, start=1)]
    pairs(predicted).write_text("\n".join(["id,mask,prediction", *rows, ""]))
    asked(predicted).write_text(json.dumps(ASKED))
    return predicted


def evaluation(box: Sandbox) -> Arguments:
    return ["--config", asked(box), "--paths-csv", pairs(box), "--output-csv", scores(box)]


def rows(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def others_are_scored(box: Sandbox) -> bool:
    """Whether the first patient has a row without scores, and a reason in the summary, and all others have scores."""
    found = rows(scores(box))
    told = json.loads(scores(box).with_name("scores_summary.json").read_text())
    others = [float(cell) for number in (2, 3, 4) for cell in found[f"phantom_{number:03}"]]
    return (
        found["phantom_001"] == [""] * 4
        and all(math.isfinite(value) for value in others)
        and told["patients"] == {"given": 4, "scored": 3, "failed": 1}
        and "phantom_001" in told["failures"]
    )


def everybody_is_scored(box: Sandbox) -> bool:
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
    return lambda box: edit_json(asked(box), core={**ASKED["core"], **values})


def unknown_label_checked(box: Sandbox) -> Arguments:
    save(box.prediction(), filled(7, voxels(box.prediction())))
    return ["--validate"]


def over(box: Sandbox, path: Callable[[Sandbox], Path]) -> Arguments:
    return ["--output-csv", path(box)]


def on_other_grid(box: Sandbox, field: str) -> None:
    move_grid(box.prediction(), field)


def class_of_unknown_label(box: Sandbox) -> Arguments:
    classes = {**ASKED, "core": {**ASKED["core"], "labels": [5]}}
    dataset = {"task": "phantoms", "modality": "mr", "images": ["t1", "t2"], "labels": [0, 1, 2]}
    edit_json(asked(box), **dict.fromkeys(ASKED), evaluation=classes, dataset_info=dataset)


def image_as_table(box: Sandbox) -> None:
    shutil.copy(box.mask(), pairs(box))


def both_empty(box: Sandbox) -> None:
    for path in (box.mask(), box.prediction()):
        save(path, np.zeros_like(voxels(path)))


of_a_patient = partial(Fault, others_done=others_are_scored)
of_all = partial(Fault, touches=False)
of_none = partial(Fault, says="Scores:", status=0, others_done=everybody_is_scored)

FAULTS = [
    of_a_patient(
        "evaluate/prediction-missing",
        "a prediction that is not there",
        lambda box: remove(box.prediction()),
        "predicted/phantom_001.nii.gz",
    ),
    of_a_patient(
        "evaluate/prediction-truncated",
        "a prediction that is cut short",
        lambda box: cut_short(box.prediction()),
        "phantom_001.nii.gz cannot be read as a NIfTI image",
    ),
    of_a_patient(
        "evaluate/prediction-empty-file",
        "a prediction of no bytes",
        lambda box: fill(box.prediction()),
        "phantom_001.nii.gz is empty",
    ),
    of_a_patient(
        "evaluate/prediction-not-an-image",
        "a prediction that is a text",
        lambda box: fill(box.prediction(), "no image"),
        "phantom_001.nii.gz cannot be read as a NIfTI image",
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
            f"a prediction of another {field} than its mask",
            partial(on_other_grid, field=field),
            f"lie on different grids: {field}",
        )
        for field in ("size", "spacing", "origin", "direction")
    ),
    of_a_patient(
        "evaluate/prediction-4d",
        "a prediction with a fourth dimension",
        in_prediction(lambda array: np.stack([array, array], axis=-1)),
        "must have three dimensions",
    ),
    of_a_patient(
        "evaluate/prediction-probabilities",
        "probabilities instead of labels",
        in_prediction(lambda array: array.astype(np.float32) * np.float32(0.45)),
        "[labels-not-integer]",
    ),
    of_a_patient(
        "evaluate/prediction-nan",
        "a prediction with NaN in it",
        in_prediction(lambda array: filled(np.nan, array.astype(np.float32))),
        "[labels-out-of-range]",
    ),
    of_a_patient(
        "evaluate/prediction-negative",
        "a prediction with a negative label",
        in_prediction(lambda array: filled(-1, array.astype(np.int16))),
        "holds values from -1 to 2",
    ),
    of_a_patient(
        "evaluate-validate/prediction-unknown-label",
        "a label that no class names, with --validate",
        unknown_label_checked,
        "holds labels [7]; known are [0, 1, 2]",
    ),
    of_a_patient(
        "evaluate/mask-missing",
        "a mask that is not there",
        lambda box: remove(box.mask()),
        "mask.nii.gz",
    ),
    of_a_patient(
        "evaluate/mask-truncated",
        "a mask that is cut short",
        lambda box: cut_short(box.mask()),
        "mask.nii.gz cannot be read as a NIfTI image",
    ),
    of_none("evaluate/both-empty", "a mask and a prediction that are both empty", both_empty),
    of_none(
        "evaluate/prediction-empty",
        "a prediction without any label",
        in_prediction(np.zeros_like),
    ),
    of_all(
        "evaluate/ids-twice",
        "an id that is given twice",
        in_pairs("phantom_002,", "phantom_001,"),
        "the id 'phantom_001' is given twice",
    ),
    *(
        of_all(
            f"evaluate/{key}",
            what,
            in_pairs("\nphantom_001,", f"\n{case_id},"),
            "cannot name a file",
        )
        for key, what, case_id in (
            ("id-dotdot", "an id that leads out of the folder", "../x"),
            ("id-absolute", "an id that is a path", "/elsewhere/x"),
            ("id-very-long", "an id of 300 letters", "x" * 300),
        )
    ),
    of_all(
        "evaluate/id-reserved",
        "a patient called as a summary row",
        in_pairs("\nphantom_001,", "\nMean,"),
        "the ids ['Mean'] are those of summary rows",
    ),
    of_none("evaluate/ids-leading-zeros", "ids with leading zeros", in_pairs("\nphantom_00", "\n00")),
    of_all(
        "evaluate/csv-missing",
        "a table of pairs that is not there",
        lambda box: remove(pairs(box)),
        "There is no table",
    ),
    of_all(
        "evaluate/csv-semicolon",
        "a table with semicolons",
        in_pairs(",", ";"),
        "pairs.csv lacks the columns ['id', 'mask', 'prediction']",
    ),
    of_none("evaluate/csv-bom", "a table that begins with a byte-order mark", in_pairs("id,", "\ufeffid,")),
    of_none("evaluate/csv-crlf", "a table with the line ends of Windows", in_pairs("\n", "\r\n")),
    of_all(
        "evaluate/csv-empty",
        "a table of no bytes",
        lambda box: fill(pairs(box)),
        "pairs.csv cannot be read as a table",
    ),
    of_all(
        "evaluate/csv-header-only",
        "a table without rows",
        lambda box: fill(pairs(box), "id,mask,prediction\n"),
        "pairs.csv has no rows",
    ),
    of_all(
        "evaluate/csv-column-missing",
        "a table without the column prediction",
        in_pairs("id,mask,prediction", "id,mask,predicted"),
        "pairs.csv lacks the columns ['prediction']",
    ),
    of_all(
        "evaluate/csv-cell-empty",
        "an empty cell",
        lambda box: edit(pairs(box), f"phantom_001,{box.mask()},", "phantom_001,,"),
        "row 2, column 'mask' is empty",
    ),
    of_all(
        "evaluate/csv-not-text",
        "an image in place of the table",
        image_as_table,
        "pairs.csv cannot be read as a table",
    ),
    of_all(
        "evaluate/config-missing",
        "a config.json that is not there",
        lambda box: remove(asked(box)),
        "Name a config.json with --config",
    ),
    of_all(
        "evaluate/config-broken",
        "a config.json that is cut short",
        lambda box: cut_short(asked(box)),
        ("[json-invalid]", "asked.json"),
    ),
    of_all(
        "evaluate/config-without-classes",
        "a config.json that asks for nothing",
        lambda box: fill(asked(box), "{}"),
        "asked.json names no class",
    ),
    of_all(
        "evaluate/config-a-list",
        "a config.json that is a list",
        lambda box: fill(asked(box), "[]"),
        "asked.json",
    ),
    of_all(
        "evaluate/class-without-metrics",
        "classes without metrics",
        lambda box: fill(asked(box), json.dumps({"core": {"labels": [2], "metrics": {}}})),
        "asked.json names no class with a metric",
    ),
    of_all(
        "evaluate/metric-unknown",
        "a metric that does not exist",
        one_class(metrics={"dicee": {}}),
        "Did you mean 'dice'?",
    ),
    of_all(
        "evaluate/metric-parameter-misspelt",
        "a parameter of a metric that is misspelt",
        one_class(metrics={"surf_dice": {"tolerence": 2.0}}),
        "Did you mean 'tolerance'?",
    ),
    of_all(
        "evaluate/metric-parameter-wrong-type",
        "a parameter of a metric that is a text",
        one_class(metrics={"surf_dice": {"tolerance": "wide"}}),
        "class 'core', metric 'surf_dice': 'tolerance'",
    ),
    of_all(
        "evaluate/metric-parameter-negative",
        "a parameter of a metric below its range",
        one_class(metrics={"surf_dice": {"tolerance": -1.0}}),
        "class 'core', metric 'surf_dice': 'tolerance'",
    ),
    of_all(
        "evaluate/class-labels-a-string",
        "labels of a class that are texts",
        one_class(labels=["2"]),
        "core.labels.0",
    ),
    of_all(
        "evaluate/class-unknown-label",
        "a class of a label that the dataset does not have",
        class_of_unknown_label,
        "class 'core' names labels [5] that are not among those of the dataset, [0, 1, 2]",
    ),
    of_none(
        "evaluate/class-named-weirdly",
        "a class with a comma, quotes and markup in its name",
        lambda box: edit(asked(box), '"core"', json.dumps('<b>a, "b"/../\u00e4</b>')),
    ),
    of_none(
        "evaluate/output-folder-missing",
        "an output in a folder that does not exist",
        lambda box: ["--output-csv", box.folder / "new" / "folder" / "scores.csv"],
        others_done=lambda box: (box.folder / "new" / "folder" / "scores.csv").is_file(),
    ),
    of_all(
        "evaluate/output-a-folder",
        "an output that is a folder",
        lambda box: ["--output-csv", box.folder / "data"],
        "data is a folder",
    ),
    of_all(
        "evaluate/output-below-a-file",
        "an output in a folder that is a file",
        lambda box: ["--output-csv", asked(box) / "scores.csv"],
        "asked.json is a file, where a folder is to be",
    ),
    *(
        of_all(
            f"evaluate/output-is-{name}",
            f"an output that is {what}",
            partial(over, path=path),
            "would be written over",
        )
        for name, what, path in (
            ("table", "the table of pairs", pairs),
            ("config", "the config.json", asked),
            ("prediction", "a prediction", Sandbox.prediction),
        )
    ),
    of_all(
        "evaluate/output-beside-is-table",
        "a table of pairs that is called as the table of lesions beside the output",
        lambda box: [
            "--paths-csv",
            shutil.copy(pairs(box), box.folder / "data" / "x_lesions.csv"),
            "--output-csv",
            box.folder / "data" / "x.csv",
        ],
        "would be written over",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_evaluate(wanted: Sandbox, fault: Fault) -> None:
    meets(wanted, "evaluate", evaluation(wanted), fault)


def test_scores_of_before_are_kept_where_nothing_could_be_scored(wanted: Sandbox) -> None:
    assert wanted.run("evaluate", *evaluation(wanted)).status == 0
    before = {path: content for path, content in wanted.files().items() if path.name.startswith("scores")}
    cut_short(asked(wanted))
    assert wanted.run("evaluate", *evaluation(wanted)).status == 1
    assert {path: wanted.files().get(path) for path in before} == before


def test_no_score_of_before_is_left_where_a_patient_fails(wanted: Sandbox) -> None:
    assert wanted.run("evaluate", *evaluation(wanted)).status == 0
    figure = scores(wanted).with_name("scores_scores.png")
    drawn = figure.read_bytes()
    remove(wanted.prediction())
    assert wanted.run("evaluate", *evaluation(wanted)).status == 1
    assert others_are_scored(wanted)
    assert figure.read_bytes() != drawn


def test_a_table_with_a_patient_that_failed_is_not_ranked(wanted: Sandbox) -> None:
    assert wanted.run("evaluate", *evaluation(wanted)).status == 0
    whole = shutil.copy(scores(wanted), wanted.folder / "whole.csv")
    remove(wanted.prediction())
    assert wanted.run("evaluate", *evaluation(wanted)).status == 1
    ended = wanted.run("rank", "--results", whole, scores(wanted), "--output-csv", wanted.folder / "ranks.csv")
    assert ended.status == 1
    assert "Scores are missing" in ended.said


def test_with_every_prediction_gone_there_is_no_mean(wanted: Sandbox) -> None:
    remove(wanted.prediction().parent)
    assert wanted.run("evaluate", *evaluation(wanted)).status == 1
    assert list(rows(scores(wanted))) == ["id", *(f"phantom_{number:03}" for number in (1, 2, 3, 4))]
