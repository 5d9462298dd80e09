"""``mist_predict`` on tables, images, weights and flags with one fault each."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mist_ops.registry import MODELS

from .harness import (
    Arguments,
    Code,
    Fault,
    Sandbox,
    cut_short,
    edit_header,
    edit_json,
    edit_section,
    edit_text,
    meets,
    move_grid,
    remove,
    save,
    voxels,
)

PATIENTS = (1, 2, 3)


def table(box: Sandbox) -> Path:
    return box.folder / "new.csv"


def mask(box: Sandbox, case_id: str) -> Path:
    return box.folder / "predictions" / f"{case_id}.nii.gz"


def weights(box: Sandbox) -> Path:
    return box.study.model(1)


def command(box: Sandbox) -> Arguments:
    folders = ["--models-dir", box.study.models, "--output", box.folder / "predictions"]
    return [*folders, "--config", box.study.config, "--paths-csv", table(box), "--device", "cpu"]


@pytest.fixture
def new(trained: Sandbox) -> Sandbox:
    """A sandbox with a table of three patients and an old mask of the first."""
    write_table(trained)
    mask(trained, "phantom_001").parent.mkdir()
    shutil.copy(trained.mask(), mask(trained, "phantom_001"))
    return trained


def write_table(box: Sandbox, **columns: Callable[[int], object]) -> None:
    """Write the table; a column is a function of the patient's number."""
    known = {"id": lambda n: f"phantom_{n:03}", "t1": box.image, "t2": lambda n: box.image(n, "t2"), **columns}
    with table(box).open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(known)
        rows.writerows([str(cell(number)) for cell in known.values()] for number in PATIENTS)


def first(value: object, otherwise: Callable[[int], object] = "phantom_{:03}".format) -> Callable[[int], object]:
    """A column with a value for the first patient, and others for the rest."""
    return lambda number: value if number == 1 else otherwise(number)


def others_done(box: Sandbox) -> bool:
    """The other two patients are predicted, and the old mask of the first is kept."""
    return all(mask(box, f"phantom_{number:03}").exists() for number in (1, 2, 3))


def none_lost(box: Sandbox) -> bool:
    """The old mask is kept."""
    return mask(box, "phantom_001").exists()


def code(box: Sandbox) -> None:
    """Replace weights by a pickle that creates ``executed`` when it is loaded."""
    weights(box).write_bytes(pickle.dumps({"weights": Code(box.folder / "executed")}))


def zipped_code(box: Sandbox) -> None:
    """The same in the zip format of current torch."""
    torch.save({"weights": Code(box.folder / "executed")}, weights(box))


def other_network(box: Sandbox) -> None:
    network = MODELS["mednext-small"].build(
        in_channels=2, out_channels=3, patch_size=(32, 32, 32), target_spacing=(1.0, 1.0, 1.0)
    )
    torch.save(network.state_dict(), weights(box))


def edit_weights(box: Sandbox, changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    found = torch.load(weights(box), weights_only=True)
    torch.save({name: changed(tensor) for name, tensor in found.items()}, weights(box))


def edit_passport(box: Sandbox, section: str, **values: object) -> None:
    passport = box.study.passport(1)
    content = json.loads(passport.read_text())
    content["config"][section] |= values
    passport.write_text(json.dumps(content))


def with_nan(path: Path) -> None:
    image = voxels(path).astype(np.float32)
    image[10:15, 10:15, 10:15] = np.nan
    save(path, image)


def sheared(box: Sandbox) -> None:
    for channel in ("t1", "t2"):
        edit_header(box.image(1, channel), srow_x=[1.0, 0.8, 0.0, 0.0], sform_code=1, qform_code=0)


def strategy(box: Sandbox, steps: object) -> Arguments:
    path = box.folder / "strategy.json"
    path.write_text(json.dumps(steps))
    return ["--postprocess-strategy", path]


IMAGES = [
    Fault(
        "predict/image-missing",
        "a missing image",
        lambda box: remove(box.image()),
        ("[image-missing]", "phantom_001", "t1.nii.gz"),
        others_done=others_done,
        again=False,
    ),
    Fault(
        "predict/image-truncated",
        "a truncated image",
        lambda box: cut_short(box.image()),
        ("[image-unreadable]", "phantom_001", "t1.nii.gz"),
        others_done=others_done,
    ),
    Fault(
        "predict/image-4d",
        "an image with four axes",
        lambda box: save(box.image(), np.stack([voxels(box.image())] * 2, axis=-1)),
        ("[image-not-3d]", "phantom_001", "t1.nii.gz"),
        others_done=others_done,
        again=False,
    ),
    Fault(
        "predict/image-nan",
        "an image with NaN",
        lambda box: with_nan(box.image()),
        ("[image-not-finite]", "phantom_001"),
        others_done=others_done,
        again=False,
    ),
    Fault(
        "predict/channel-other-size",
        "channels of different sizes",
        lambda box: move_grid(box.image(1, "t2"), "size"),
        "[grid-mismatch]",
        others_done=others_done,
        again=False,
    ),
    Fault(
        "predict/image-sheared",
        "an image whose axes are not orthogonal",
        sheared,
        ("[grid-sheared]", "phantom_001", "t1.nii.gz"),
        others_done=others_done,
        again=False,
    ),
    Fault(
        "predict/image-no-volume",
        "an image whose voxels have no size",
        lambda box: edit_header(box.image(), srow_x=[0.0] * 4, srow_y=[0.0] * 4, srow_z=[0.0] * 4),
        ("[image-unreadable]", "phantom_001", "t1.nii.gz"),
        others_done=others_done,
        again=False,
    ),
]

TABLES = [
    Fault(
        "predict/channel-column-missing",
        "a table without the column of a channel",
        lambda box: edit_text(table(box), lambda text: text.replace("t2\n", "flair\n")),
        ("[table-column-missing]", "new.csv", "t2"),
        others_done=none_lost,
        touches=False,
    ),
    Fault(
        "predict/cell-empty",
        "an empty cell",
        lambda box: write_table(box, t2=first("", lambda n: box.image(n, "t2"))),
        ("[table-cell-empty]", "new.csv", "t2"),
        touches=False,
    ),
    Fault(
        "predict/id-dotdot",
        "an id that leads out of the folder",
        lambda box: write_table(box, id=first("../x")),
        ("[id-unsafe]", "'../x'"),
        touches=False,
    ),
    Fault(
        "predict/id-absolute",
        "an id that is an absolute path",
        lambda box: write_table(box, id=first(box.folder / "elsewhere")),
        "[id-unsafe]",
        touches=False,
    ),
    Fault(
        "predict/id-long",
        "an id of 300 characters",
        lambda box: write_table(box, id=first("x" * 300)),
        ("[id-unsafe]", "128 characters"),
        touches=False,
    ),
    Fault(
        "predict/ids-twice",
        "a duplicate id",
        lambda box: write_table(box, id=first("phantom_002")),
        ("[patient-duplicate]", "phantom_002"),
        touches=False,
    ),
    Fault(
        "predict/csv-missing",
        "a missing table",
        lambda box: remove(table(box)),
        "[table-missing]",
        touches=False,
    ),
    Fault(
        "predict/csv-empty",
        "an empty table file",
        lambda box: table(box).write_bytes(b"") and None,
        ("[table-unreadable]", "new.csv"),
        touches=False,
    ),
    Fault(
        "predict/csv-header-only",
        "a table without rows",
        lambda box: edit_text(table(box), lambda text: "id,t1,t2\n"),
        ("[table-empty]", "new.csv"),
        touches=False,
    ),
    Fault(
        "predict/csv-semicolon",
        "a table separated by semicolons",
        lambda box: edit_text(table(box), lambda text: text.replace(",", ";")),
        "Predictions:",
        status=0,
        again=False,
    ),
    Fault(
        "predict/csv-bom-and-crlf",
        "a table with a byte-order mark and Windows line ends",
        lambda box: edit_text(table(box), lambda text: text.replace("\n", "\r\n"), "utf-8-sig"),
        "Predictions:",
        status=0,
        again=False,
    ),
    Fault(
        "predict/csv-utf-16",
        "a table in UTF-16",
        lambda box: edit_text(table(box), str, "utf-16"),
        ("[table-unreadable]", "new.csv"),
        touches=False,
    ),
]

MODEL_FILES = [
    Fault(
        "predict/weights-truncated",
        "truncated weights",
        lambda box: cut_short(weights(box)),
        ("[weights-unreadable]", "fold_1.pt"),
        others_done=none_lost,
        touches=False,
    ),
    Fault(
        "predict/weights-with-code",
        "weights that execute code when unpickled",
        code,
        ("[weights-unreadable]", "fold_1.pt"),
        touches=False,
    ),
    Fault(
        "predict/weights-with-code-zipped",
        "weights in the zip format that execute code when unpickled",
        zipped_code,
        ("[weights-unreadable]", "fold_1.pt"),
        touches=False,
    ),
    Fault(
        "predict/weights-of-other-architecture",
        "weights of another architecture",
        other_network,
        ("[weights-mismatch]", "fold_1.pt"),
        touches=False,
    ),
    Fault(
        "predict/weights-nan",
        "weights that are NaN",
        lambda box: edit_weights(box, lambda tensor: tensor * float("nan") if tensor.is_floating_point() else tensor),
        ("[weights-not-finite]", "fold_1.pt"),
        touches=False,
    ),
    Fault(
        "predict/weights-checkpoint",
        "a checkpoint instead of weights",
        lambda box: shutil.copy(box.study.checkpoint(1), weights(box)) and None,
        ("[weights-invalid]", "fold_1.pt"),
        touches=False,
    ),
    Fault(
        "predict/weights-empty-folder",
        "a folder instead of weights",
        lambda box: remove(weights(box)) or weights(box).mkdir(),
        ("[weights-unreadable]", "fold_1.pt"),
        touches=False,
    ),
    Fault(
        "predict/models-missing",
        "a missing folder of models",
        lambda box: remove(box.study.models),
        ("[weights-missing]", "models"),
        touches=False,
    ),
    Fault(
        "predict/models-empty",
        "an empty folder of models",
        lambda box: remove(box.study.models) or box.study.models.mkdir(),
        ("[weights-missing]", "models"),
        touches=False,
    ),
    Fault(
        "predict/passport-truncated",
        "a truncated passport",
        lambda box: cut_short(box.study.passport(1)),
        ("[passport-invalid]", "fold_1.json"),
        touches=False,
    ),
    Fault(
        "predict/passport-other-channels",
        "a model trained on other channels",
        lambda box: edit_passport(box, "dataset_info", images=["t2", "t1"]),
        ("[training-mismatch]", "fold_1.pt", "dataset_info.images"),
        touches=False,
    ),
    Fault(
        "predict/passport-other-labels",
        "a model trained on other labels",
        lambda box: edit_passport(box, "dataset_info", labels=[0, 1, 3]),
        ("[training-mismatch]", "fold_1.pt", "dataset_info.labels 0, 1, 3"),
        touches=False,
    ),
    Fault(
        "predict/config-other-normalization",
        "a config.json with another normalization than in training",
        lambda box: edit_section(box.study.config, "preprocessing", normalize_with_nonzero_mask=True),
        ("[training-mismatch]", "preprocessing.normalize_with_nonzero_mask"),
        touches=False,
    ),
    Fault(
        "predict/config-newer-version",
        "a config.json of a later version",
        lambda box: edit_json(box.study.config, mist_version="9.9", future=1),
        ("[unknown-key]", "9.9"),
        touches=False,
    ),
]

FLAGS = [
    Fault(
        "predict/output-is-a-file",
        "a file instead of the output folder",
        lambda box: table(box).with_name("taken").touch() or ["--output", table(box).with_name("taken")],
        ("[file-not-folder]", "taken"),
        touches=False,
    ),
    Fault(
        "predict/device-wrong",
        "a GPU that does not exist",
        lambda box: ["--device", "99"],
        ("[device-missing]", "99"),
        touches=False,
    ),
    Fault(
        "predict/device-unknown",
        "an unknown device",
        lambda box: ["--device", "tpu"],
        ("[unknown-device]", "tpu"),
        touches=False,
    ),
    Fault(
        "predict/strategy-missing",
        "a missing strategy",
        lambda box: ["--postprocess-strategy", box.folder / "none.json"],
        ("[file-missing]", "none.json"),
        touches=False,
    ),
    Fault(
        "predict/strategy-unknown-step",
        "a strategy with an unknown step",
        partial(
            strategy,
            steps=[{"transform": "fill_hole", "apply_to_labels": [1], "per_label": True}],
        ),
        ("[strategy-invalid]", "fill_hole"),
        touches=False,
    ),
    Fault(
        "predict/probabilities-of-a-bad-patient",
        "a bad image with --output-probs",
        lambda box: cut_short(box.image()) or ["--output-probs"],
        ("[image-unreadable]", "phantom_001", "t1.nii.gz"),
        others_done=lambda box: (
            sorted(path.name for path in (box.folder / "predictions" / "probabilities").iterdir())
            == ["phantom_002.nii.gz", "phantom_003.nii.gz"]
        ),
        again=False,
    ),
]

FAULTS = [*IMAGES, *TABLES, *MODEL_FILES, *FLAGS]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_predict(new: Sandbox, fault: Fault) -> None:
    meets(new, "predict", command(new), fault)
    assert not (new.folder / "executed").exists()


def test_a_pickle_with_code_creates_its_file_when_loaded(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps({"weights": Code(tmp_path / "executed")}))
    assert (tmp_path / "executed").exists()
