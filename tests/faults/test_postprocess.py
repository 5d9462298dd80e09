"""``mist_postprocess`` and ``mist_choose_postprocessing`` on masks, strategies and folders with one fault each."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mist_dagster import cli
from mist_dagster.tools import postprocessed

from .harness import Arguments, Fault, Sandbox, cut_short, edit_text, fill, meets, read_whole, remove, save, voxels

STEP = {
    "transform": "remove_small_objects",
    "apply_to_labels": [1],
    "per_label": True,
    "kwargs": {"small_object_threshold": 8},
}
CLASSES = {"core": {"labels": [2], "metrics": {"dice": {}}}}


def strategy(box: Sandbox) -> Path:
    return box.folder / "data" / "strategy.json"


def output(box: Sandbox) -> Path:
    return box.folder / "out"


@pytest.fixture
def planned(predicted: Sandbox) -> Sandbox:
    """A sandbox with predictions and a strategy."""
    strategy(predicted).write_text(json.dumps([STEP]))
    return predicted


def postprocessing(box: Sandbox) -> Arguments:
    folders = ["--base-predictions", box.prediction().parent, "--output", output(box)]
    return [*folders, "--postprocess-strategy", strategy(box)]


def written(box: Sandbox) -> set[str]:
    return {path.name for path in (output(box) / "predictions").iterdir()}


def others_are_written(box: Sandbox) -> bool:
    for name in written(box):
        read_whole(output(box) / "predictions" / name)
    return written(box) == {f"phantom_{number:03}.nii.gz" for number in (2, 3, 4)}


def all_are_written(box: Sandbox) -> bool:
    return len(written(box)) == 4


def step(**values: object) -> Callable[[Sandbox], None]:
    return lambda box: fill(strategy(box), json.dumps([{**STEP, **values}]))


def text(content: str) -> Callable[[Sandbox], None]:
    return lambda box: fill(strategy(box), content)


def as_input(box: Sandbox, name: str) -> Arguments:
    base = box.folder / "data" / name
    base.parent.mkdir(exist_ok=True)
    shutil.copytree(box.prediction().parent, base, dirs_exist_ok=True)
    return ["--base-predictions", base, "--output", box.folder / "data"]


def empty_folder(box: Sandbox) -> Arguments:
    (box.folder / "empty").mkdir()
    return ["--base-predictions", box.folder / "empty"]


def broken_link(box: Sandbox) -> None:
    box.prediction().unlink()
    box.prediction().symlink_to("nowhere.nii.gz")


def twice(box: Sandbox) -> None:
    save(box.prediction().with_name("phantom_001.nii"), voxels(box.prediction()), np.eye(4))


def other_patients(box: Sandbox) -> None:
    folder = output(box) / "predictions"
    folder.mkdir(parents=True)
    shutil.copy(box.prediction(), folder / "other.nii.gz")


def output_a_file(box: Sandbox) -> Arguments:
    path = box.folder / "data" / "file"
    path.write_text("mine")
    return ["--output", path]


def cut_after_a_run(box: Sandbox) -> None:
    assert box.run("postprocess", *postprocessing(box)).status == 0
    cut_short(box.prediction())


of_a_patient = partial(Fault, others_done=others_are_written)
refused = partial(Fault, touches=False)
accepted = partial(Fault, says="Postprocessed:", status=0, others_done=all_are_written)

OF_A_FOLDER = [
    of_a_patient(
        "postprocess/mask-truncated",
        "a truncated mask",
        lambda box: cut_short(box.prediction()),
        ("[image-unreadable]", "phantom_001"),
    ),
    Fault(
        "postprocess/rerun-mask-truncated",
        "a mask truncated since the last run, whose result stays",
        cut_after_a_run,
        ("[image-unreadable]", "phantom_001"),
        others_done=all_are_written,
    ),
    of_a_patient(
        "postprocess/mask-not-an-image",
        "a text file in place of a mask",
        lambda box: fill(box.prediction(), "no image"),
        "phantom_001.nii.gz cannot be read as a NIfTI image",
    ),
    of_a_patient(
        "postprocess/mask-probabilities",
        "probabilities instead of labels",
        lambda box: save(box.prediction(), voxels(box.prediction()) * np.float32(0.45)),
        "[labels-not-integer]",
    ),
    of_a_patient(
        "postprocess/mask-a-broken-link",
        "a mask that is a broken link",
        broken_link,
        "[image-missing]",
        again=False,
    ),
    accepted(
        "postprocess/mask-label-300",
        "a label above 255",
        lambda box: save(box.prediction(), np.where(voxels(box.prediction()) == 2, 300, 0).astype(np.uint16)),
    ),
    accepted(
        "postprocess/mask-empty",
        "a mask without any label",
        lambda box: save(box.prediction(), np.zeros_like(voxels(box.prediction()))),
    ),
    refused("postprocess/patient-twice", "two files of one patient", twice, ("[patient-duplicate]", "phantom_001")),
    refused("postprocess/folder-empty", "a folder without predictions", empty_folder, "[folder-empty]"),
    refused(
        "postprocess/folder-missing",
        "a missing folder of predictions",
        lambda box: ["--base-predictions", box.folder / "none"],
        ("[folder-missing]", "none"),
    ),
    refused(
        "postprocess/strategy-missing",
        "a missing strategy",
        lambda box: remove(strategy(box)),
        ("[file-missing]", "strategy.json"),
    ),
    refused(
        "postprocess/strategy-broken",
        "a strategy that is cut short",
        lambda box: cut_short(strategy(box)),
        ("[json-invalid]", "strategy.json"),
    ),
    refused("postprocess/strategy-empty-file", "a strategy of no bytes", text(""), ("[json-invalid]", "strategy.json")),
    accepted("postprocess/strategy-empty-list", "a strategy without steps", text("[]")),
    refused(
        "postprocess/strategy-an-object",
        "a step that is no list of steps",
        text(json.dumps(STEP)),
        ("[value-invalid]", "strategy.json"),
    ),
    refused("postprocess/strategy-of-no-objects", "a list of numbers", text("[1, 2]"), "strategy.json"),
    refused(
        "postprocess/transform-unknown",
        "an unknown transform",
        step(transform="remove_smal_objects"),
        ("[strategy-invalid]", "Did you mean 'remove_small_objects'?"),
    ),
    refused(
        "postprocess/transform-missing",
        "a step without a transform",
        text('[{"apply_to_labels": [1], "per_label": true}]'),
        ("step 1 of 1", "'transform' is missing"),
    ),
    refused(
        "postprocess/key-unknown",
        "a misspelled key of a step",
        step(apply_to_label=[1]),
        ("[strategy-invalid]", "Did you mean 'apply_to_labels'?"),
    ),
    refused(
        "postprocess/parameter-misspelt",
        "a misspelled parameter",
        step(kwargs={"small_object_treshold": 64}),
        ("[strategy-invalid]", "Did you mean 'small_object_threshold'?"),
    ),
    refused(
        "postprocess/parameter-wrong-type",
        "a parameter of the wrong type",
        step(kwargs={"small_object_threshold": "many"}),
        "step 1 of 1 (remove_small_objects): 'kwargs': 'small_object_threshold'",
    ),
    refused(
        "postprocess/parameter-negative",
        "a parameter below its range",
        step(kwargs={"small_object_threshold": -5}),
        "step 1 of 1 (remove_small_objects): 'kwargs': 'small_object_threshold'",
    ),
    refused(
        "postprocess/labels-negative",
        "a step with a negative label",
        step(apply_to_labels=[-2]),
        ("[strategy-invalid]", "'apply_to_labels'", "-2"),
    ),
    refused("postprocess/labels-empty", "a step without labels", step(apply_to_labels=[]), "'apply_to_labels'"),
    accepted("postprocess/strategy-unknown-label", "a step for a label that no mask has", step(apply_to_labels=[9])),
    refused(
        "postprocess/output-is-input",
        "an output folder that is the folder of the predictions",
        partial(as_input, name="predictions"),
        "[output-is-input]",
    ),
    refused(
        "postprocess/output-of-others",
        "an output folder with masks of other patients",
        other_patients,
        ("[output-not-empty]", "1 mask ", "other.nii.gz"),
    ),
    refused("postprocess/output-a-file", "an output that is a file", output_a_file, "[file-not-folder]"),
    refused(
        "postprocess/eval-config-alone",
        "classes to score without the masks",
        lambda box: ["--eval-config", box.folder / "none.json"],
        ("[flags-incomplete]", "--eval-config", "--paths-csv"),
    ),
]


@pytest.mark.parametrize("fault", OF_A_FOLDER, ids=lambda fault: fault.key)
def test_postprocess(planned: Sandbox, fault: Fault) -> None:
    meets(planned, "postprocess", postprocessing(planned), fault)


def scored_too(box: Sandbox) -> Arguments:
    masks, classes = box.folder / "data" / "masks.csv", box.folder / "data" / "classes.json"
    masks.write_text("id,mask\n" + "".join(f"phantom_{number:03},{box.mask(number)}\n" for number in (1, 2, 3, 4)))
    classes.write_text(json.dumps(CLASSES))
    return [*postprocessing(box), "--paths-csv", masks, "--eval-config", classes]


def test_a_mask_that_fails_stays_and_is_not_scored_and_the_others_are(planned: Sandbox) -> None:
    arguments = scored_too(planned)
    assert planned.run("postprocess", *arguments).status == 0
    masks, first = output(planned) / "predictions", json.loads((output(planned) / "strategy.json").read_text())
    earlier = (masks / "phantom_001.nii.gz").read_bytes()
    sound = planned.prediction().read_bytes()
    cut_short(planned.prediction())
    for threshold in (9, 10):  # the second failure still names the steps of the mask that is there
        step(kwargs={"small_object_threshold": threshold})(planned)
        assert planned.run("postprocess", *arguments).status == 1
        assert (masks / "phantom_001.nii.gz").read_bytes() == earlier
        [(failed, described)] = json.loads((output(planned) / "failures.json").read_text()).items()
        assert (failed, described["strategy"]) == ("phantom_001", first)
        assert "image-unreadable" in described["error"]
        found = (output(planned) / "postprocess_results.csv").read_text().splitlines()
        scored = [row.split(",")[0] for row in found if row.startswith("phantom_")]
        assert scored == ["phantom_002", "phantom_003", "phantom_004"]
        now = json.loads((output(planned) / "strategy.json").read_text())
        assert now[0]["kwargs"] == {"small_object_threshold": threshold}
    planned.prediction().write_bytes(sound)
    assert planned.run("postprocess", *arguments).status == 0
    assert not (output(planned) / "failures.json").exists()


def test_a_rerun_that_is_killed_leaves_the_earlier_masks_and_their_strategy(
    planned: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned.run("postprocess", *postprocessing(planned)).status == 0
    before = planned.files()
    step(kwargs={"small_object_threshold": 9})(planned)
    child = os.fork()
    if not child:
        monkeypatch.setattr(postprocessed, "keep_earlier", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        cli.postprocess([str(argument) for argument in postprocessing(planned)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    after = planned.files()
    assert {path for path in after if before.get(path) != after[path] and ".tmp-" not in str(path)} == {
        strategy(planned)
    }
    assert planned.run("postprocess", *postprocessing(planned)).status == 0


def test_an_invalid_metric_is_reported_before_any_mask_is_written(planned: Sandbox) -> None:
    arguments = scored_too(planned)
    edit_text(planned.folder / "data" / "classes.json", lambda text: text.replace("dice", "dicee"))
    ended = planned.run("postprocess", *arguments)
    assert ended.status == 1
    assert "Did you mean 'dice'?" in ended.said
    assert not output(planned).exists()


@pytest.fixture
def cross_validated(analyzed: Sandbox, sound: Path) -> Sandbox:
    """A sandbox with an analyzed study and its cross-validation predictions."""
    shutil.copytree(sound / "results" / "predictions", analyzed.study.cv_predictions.parent.parent)
    return analyzed


def others_chose(box: Sandbox) -> bool:
    found = json.loads(box.study.strategy_search.read_text())
    return list(found["failures"]) == ["phantom_001"] and box.study.strategy.exists()


def no_predictions(box: Sandbox) -> None:
    for path in box.study.cv_predictions.iterdir():
        path.unlink()


OF_A_STUDY = [
    Fault(
        "choose_postprocessing/prediction-truncated",
        "a truncated cross-validation prediction",
        lambda box: cut_short(box.study.cv_prediction("phantom_001")),
        ("[patients-failed]", "1 of 4 patients", "phantom_001"),
        others_done=others_chose,
    ),
    Fault(
        "choose_postprocessing/mask-missing",
        "a missing mask",
        lambda box: remove(box.mask()),
        ("[patients-failed]", "1 of 4 patients", "phantom_001"),
        others_done=others_chose,
    ),
    refused(
        "choose_postprocessing/no-predictions",
        "a study without predictions",
        lambda box: remove(box.study.cv_predictions),
        "[predictions-missing]",
    ),
    refused(
        "choose_postprocessing/all-predictions-gone",
        "an empty folder of predictions",
        no_predictions,
        "[predictions-missing]",
    ),
    refused(
        "choose_postprocessing/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        "[config-missing]",
    ),
]
FAULTS = [*OF_A_FOLDER, *OF_A_STUDY]


@pytest.mark.parametrize("fault", OF_A_STUDY, ids=lambda fault: fault.key)
def test_choose_postprocessing(cross_validated: Sandbox, fault: Fault) -> None:
    meets(cross_validated, "choose_postprocessing", ["--results", cross_validated.study.results], fault)
