"""``mist_ensemble`` on folders of predictions with one fault each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mist_ops.imaging.nifti import read_geometry
from mist_ops.imaging.vectors import write_vectors

from .harness import Arguments, Fault, Sandbox, cut_short, meets, move_grid, read_whole, remove, save, voxels

RATERS = ("a", "b", "c")


def rated(box: Sandbox, rater: str = "b", number: int = 1) -> Path:
    return box.folder / "data" / rater / f"phantom_{number:03}.nii.gz"


def output(box: Sandbox) -> Path:
    return box.folder / "out"


@pytest.fixture
def raters(predicted: Sandbox) -> Sandbox:
    """A sandbox with the masks of three raters."""
    for rater in RATERS:
        shutil.copytree(predicted.prediction().parent, rated(predicted, rater).parent)
    return predicted


def combination(box: Sandbox) -> Arguments:
    return ["--predictions", *(rated(box, rater).parent for rater in RATERS), "--output", output(box)]


def others_are_written(box: Sandbox) -> bool:
    found = sorted(output(box).iterdir())
    for path in found:
        read_whole(path)
    return [path.name for path in found] == [f"phantom_{number:03}.nii.gz" for number in (2, 3, 4)]


def all_are_written(box: Sandbox) -> bool:
    return len(list(output(box).iterdir())) == 4


def in_rated(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sandbox], None]:
    return lambda box: save(rated(box), change(voxels(rated(box))))


def on_other_grid(box: Sandbox, field: str) -> None:
    move_grid(rated(box), field)


def emptied(box: Sandbox) -> None:
    for rater in RATERS:
        for number in (1, 2, 3, 4):
            rated(box, rater, number).unlink()


def only(*raters: str) -> Callable[[Sandbox], Arguments]:
    return lambda box: ["--predictions", *(rated(box, rater).parent for rater in raters)]


def twice(box: Sandbox) -> None:
    save(rated(box).with_name("phantom_001.nii"), voxels(rated(box)), np.eye(4))


def output_a_file(box: Sandbox) -> Arguments:
    path = box.folder / "data" / "file"
    path.write_text("mine")
    return ["--output", path]


of_a_patient = partial(Fault, others_done=others_are_written)
refused = partial(Fault, touches=False)
taken = partial(Fault, says="Masks:", status=0, others_done=all_are_written)

OF_LABELS = [
    refused(
        "ensemble/different-patients",
        "a folder without one of the patients",
        lambda box: remove(rated(box)),
        ("[patients-differ]", "b lacks phantom_001"),
    ),
    *(
        of_a_patient(
            f"ensemble/different-{field}",
            f"a mask with another {field}",
            partial(on_other_grid, field=field),
            ("[grid-mismatch]", f"grids: {field}", "Case 'phantom_001'"),
        )
        for field in ("size", "spacing", "origin", "direction")
    ),
    taken(
        "ensemble/other-labels",
        "a rater who uses other labels",
        in_rated(lambda array: np.where(array > 0, 300, 0).astype(np.uint16)),
    ),
    taken("ensemble/mask-empty", "a rater with an empty mask", in_rated(np.zeros_like)),
    of_a_patient(
        "ensemble/truncated",
        "a truncated mask",
        lambda box: cut_short(rated(box)),
        ("[image-unreadable]", "phantom_001.nii.gz"),
    ),
    of_a_patient(
        "ensemble/float-labels",
        "probabilities instead of labels",
        in_rated(lambda array: array * np.float32(0.45)),
        "[labels-not-integer]",
    ),
    of_a_patient(
        "ensemble/nan",
        "a mask with NaN",
        in_rated(lambda array: np.where(array > 0, np.nan, 0).astype(np.float32)),
        "[labels-out-of-range]",
    ),
    refused("ensemble/folders-empty", "empty folders", emptied, "[folder-empty]"),
    refused(
        "ensemble/folder-missing",
        "a folder that does not exist",
        lambda box: ["--predictions", rated(box, "a").parent, box.folder / "none"],
        ("[folder-missing]", "none"),
    ),
    refused("ensemble/patient-twice", "two files of one patient", twice, ("[patient-duplicate]", "phantom_001")),
    refused("ensemble/one-folder", "a single folder", only("a"), "--predictions", status=2),
    refused("ensemble/same-folder-twice", "the same folder twice", only("a", "a"), "[too-few-inputs]"),
    refused(
        "ensemble/backend-unknown",
        "an unknown backend",
        lambda _: ["--ensemble-backend", "stample"],
        ("[unknown-ensemble-backend]", "Did you mean 'staple'?"),
    ),
    refused(
        "ensemble/output-is-input",
        "an output folder that is also an input",
        lambda box: ["--output", rated(box, "a").parent],
        "[output-is-input]",
    ),
    refused("ensemble/output-a-file", "an output that is a file", output_a_file, "[file-not-folder]"),
    refused(
        "ensemble/probabilities-without-config",
        "probabilities without a config.json",
        lambda _: ["--input-type", "probabilities"],
        ("[flags-incomplete]", "--config"),
    ),
]


@pytest.mark.parametrize("fault", OF_LABELS, ids=lambda fault: fault.key)
def test_ensemble(raters: Sandbox, fault: Fault) -> None:
    meets(raters, "ensemble", combination(raters), fault)


@pytest.fixture
def probable(analyzed: Sandbox) -> Sandbox:
    """A sandbox with the probabilities of three classes by three models."""
    for rater in RATERS:
        for number in (1, 2, 3, 4):
            probabilities(analyzed, rater, number, classes=3)
    return analyzed


def probabilities(box: Sandbox, rater: str = "b", number: int = 1, classes: int = 4) -> None:
    grid, generator = read_geometry(box.mask(number)), np.random.default_rng(number)
    write_vectors(rated(box, rater, number), generator.random((classes, *grid.size), dtype=np.float32), grid)


def labels(box: Sandbox) -> None:
    shutil.copy(box.mask(), rated(box))


OF_PROBABILITIES = [
    of_a_patient(
        "ensemble/probabilities-other-classes",
        "probabilities with another number of classes",
        probabilities,
        ("[classes-mismatch]", "phantom_001", "4 classes"),
    ),
    of_a_patient(
        "ensemble/probabilities-truncated",
        "truncated probabilities",
        lambda box: cut_short(rated(box)),
        "Case 'phantom_001'",
    ),
    of_a_patient(
        "ensemble/probabilities-are-labels",
        "labels instead of probabilities",
        labels,
        "[not-probabilities]",
    ),
    refused(
        "ensemble/probabilities-config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "ensemble/probabilities-config-missing",
        "a config.json that does not exist",
        lambda box: remove(box.study.config),
        "config.json",
    ),
]

FAULTS = [*OF_LABELS, *OF_PROBABILITIES]


@pytest.mark.parametrize("fault", OF_PROBABILITIES, ids=lambda fault: fault.key)
def test_ensemble_of_probabilities(probable: Sandbox, fault: Fault) -> None:
    arguments = [*combination(probable), "--input-type", "probabilities", "--config", probable.study.config]
    meets(probable, "ensemble", arguments, fault)
