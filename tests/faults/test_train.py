"""``mist_train`` on arrays, tables, settings, checkpoints and weights with one fault each."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mist_ops.config import override, read_config, write_config
from mist_ops.registry import MODELS

from .harness import (
    Arguments,
    Code,
    Fault,
    Sandbox,
    cut_short,
    edit_json,
    edit_rows,
    edit_section,
    meets,
    remove,
    set_folds,
)

FOLD_0 = ["--folds", "0", "--device", "cpu"]


def array(box: Sandbox, number: int = 1) -> Path:
    """The image array of a training patient of fold 0."""
    return box.study.image(f"phantom_{number:03}")


def label(box: Sandbox, number: int = 1) -> Path:
    return box.study.label(f"phantom_{number:03}")


def change(path: Path, changed: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, changed(np.load(path)))


def with_nan(image: np.ndarray) -> np.ndarray:
    image[8:16, 8:16, 8:16] = np.nan
    return image


def pickled(path: Path) -> None:
    np.save(path, np.array([{"an": "object"}], dtype=object), allow_pickle=True)


def code(path: Path) -> None:
    """Replace a file by a pickle that creates ``executed`` beside the study when loaded."""
    executed = path.parents[2] / "executed"
    path.write_bytes(pickle.dumps({"weights": Code(executed)}))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def set_config(box: Sandbox, values: Mapping[str, object]) -> None:
    write_config(box.study.config, override(read_config(box.study.config), values))


def add_patient(box: Sandbox) -> None:
    edit_rows(box.study.train_paths, lambda rows: [*rows, {**rows[-1], "id": "phantom_009"}])


def other_network(path: Path, architecture: str = "mednext-small") -> None:
    """Replace weights by those of another architecture."""
    network = MODELS[architecture].build(
        in_channels=2, out_channels=3, patch_size=(32, 32, 32), target_spacing=(1.0, 1.0, 1.0)
    )
    torch.save(network.state_dict(), path)


ARRAYS = [
    Fault(
        "train/array-missing",
        "a missing array",
        lambda box: remove(array(box)),
        ("[arrays-missing]", "images/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/array-truncated",
        "a truncated image array",
        lambda box: cut_short(array(box)),
        ("[array-unreadable]", "images/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/label-truncated",
        "a truncated label array",
        lambda box: cut_short(label(box)),
        ("[array-unreadable]", "labels/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/array-empty",
        "an empty array file",
        lambda box: array(box).write_bytes(b"") and None,
        ("[array-unreadable]", "images/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/array-pickled",
        "an array of pickled objects",
        lambda box: pickled(array(box)),
        ("[array-unreadable]", "images/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/array-other-shape",
        "an image array of another size than the labels",
        lambda box: change(array(box), lambda image: image[:-2]),
        ("[array-shape]", "images/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/array-flat",
        "a label array with two axes",
        lambda box: change(label(box), lambda labels: labels[..., 0, 0]),
        ("[array-shape]", "labels/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/array-other-channels",
        "an array with a channel too few",
        lambda box: change(array(box), lambda image: image[..., :1]),
        "has 1 channel, but this study has 2. Preprocess the case again, or check that --numpy",  # pinned
        touches=False,
    ),
    Fault(
        "train/array-text",
        "an array of strings",
        lambda box: change(array(box), lambda image: np.full(image.shape, "x")),
        ("[array-type]", "str32"),
        touches=False,
    ),
    Fault(
        "train/array-nan",
        "an array with NaN",
        lambda box: change(array(box), with_nan),
        ("[array-not-finite]", "images/phantom_001.npy"),
    ),
    Fault(
        "train/held-out-array-nan",
        "an array with NaN in the validation set",
        lambda box: change(array(box, 2), with_nan),
        ("[array-not-finite]", "images/phantom_002.npy"),
    ),
    Fault(
        "train/label-out-of-range",
        "a class index that is too large",
        lambda box: change(label(box), lambda labels: np.where(labels == 2, 9, labels).astype(np.uint8)),
        ("[labels-out-of-range]", "labels/phantom_001.npy", "9"),
        touches=False,
    ),
    Fault(
        "train/label-negative",
        "a negative class index",
        lambda box: change(label(box), lambda labels: -labels.astype(np.int16)),
        ("[labels-out-of-range]", "labels/phantom_001.npy"),
        touches=False,
    ),
    Fault(
        "train/label-fractional",
        "fractional class indices",
        lambda box: change(label(box), lambda labels: labels + np.float32(0.4)),
        ("[array-type]", "labels/phantom_001.npy", "float32"),
        touches=False,
    ),
    Fault(
        "train/distance-maps-not-wanted",
        "a loss that needs distance maps without --compute-dtms",
        lambda box: ["--loss", "bl"],
        ("[distance-maps-missing]", "bl"),
        touches=False,
    ),
    Fault(
        "train/distance-maps-missing",
        "a loss whose distance maps are missing",
        lambda box: set_config(box, {"preprocessing.compute_dtms": True}) or ["--loss", "bl"],
        ("[arrays-missing]", "--compute-dtms"),
    ),
]

FLAGS = [
    Fault(
        "train/fold-out-of-range",
        "a fold that does not exist",
        lambda box: ["--folds", "5"],
        ("[unknown-fold]", "5"),
        touches=False,
    ),
    Fault(
        "train/fold-negative",
        "a negative fold",
        lambda box: ["--folds=-1"],
        ("[unknown-fold]", "-1"),
        touches=False,
    ),
    Fault(
        "train/epochs-0",
        "no epochs",
        lambda box: ["--epochs", "0"],
        ("--epochs", "at least 1"),
        status=2,
        touches=False,
    ),
    Fault(
        "train/unknown-model",
        "an unknown model",
        lambda box: ["--model", "nnunett"],
        ("[unknown-model]", "Did you mean 'nnunet'?"),
        touches=False,
    ),
    Fault(
        "train/unknown-loss",
        "an unknown loss",
        lambda box: ["--loss", "dicee"],
        ("[unknown-loss]", "Did you mean 'dice'?"),
        touches=False,
    ),
    Fault(
        "train/unknown-optimizer",
        "an unknown optimizer",
        lambda box: ["--optimizer", "adamm"],
        ("[unknown-optimizer]", "Did you mean 'adam"),
        touches=False,
    ),
    Fault(
        "train/unknown-scheduler",
        "an unknown learning-rate schedule",
        lambda box: ["--lr-scheduler", "cosin"],
        ("[unknown-lr-scheduler]", "Did you mean 'cosine'?"),
        touches=False,
    ),
    Fault(
        "train/patch-odd",
        "a patch size that the network does not support",
        lambda box: ["--patch-size", "33", "33", "33"],
        ("[patch-size-unsupported]", "33x33x33"),
        touches=False,
    ),
    Fault(
        "train/patch-negative",
        "a patch size below 1",
        lambda box: ["--patch-size", "0", "32", "32"],
        ("--patch-size", "at least 1"),
        status=2,
        touches=False,
    ),
    Fault(
        "train/patch-beyond-image",
        "a patch larger than every image",
        lambda box: ["--patch-size", "48", "32", "32"],
        "Scores:",
        status=0,
        again=False,
    ),
    Fault(
        "train/patch-beyond-memory",
        "a patch that does not fit into memory",
        lambda box: ["--patch-size", "4096", "4096", "4096"],
        ("[out-of-memory]", "4096x4096x4096"),
        again=False,
    ),
    Fault(
        "train/val-percent-too-large",
        "a validation set of all patients",
        lambda box: ["--val-percent", "0.99"],
        ("[training-set-empty]", "0.99"),
        again=False,
    ),
    Fault(
        "train/device-wrong",
        "a GPU that does not exist",
        lambda box: ["--device", "99"],
        ("[device-missing]", "99"),
        touches=False,
    ),
    Fault(
        "train/device-unknown",
        "an unknown device",
        lambda box: ["--device", "tpu"],
        ("[unknown-device]", "tpu"),
        touches=False,
    ),
    Fault(
        "train/nan-loss",
        "a learning rate at which the loss diverges",
        lambda box: ["--learning-rate", "1e30", "--epochs", "3"],
        "[loss-not-finite]",
        again=False,
    ),
    Fault(
        "train/pretrained-alone",
        "pretrained weights without their config.json",
        lambda box: ["--pretrained-weights", box.study.model(0)],
        ("--pretrained-weights", "--pretrained-config"),
        touches=False,
    ),
]

TABLES = [
    Fault(
        "train/fold-without-patients",
        "a fold without patients",
        lambda box: set_folds(box, phantom_002=1, phantom_004=1),
        ("[unknown-fold]", "Fold 0"),
        touches=False,
    ),
    Fault(
        "train/fold-of-no-study",
        "a patient in a fold that does not exist",
        lambda box: set_folds(box, phantom_001=7),
        ("[unknown-fold]", "phantom_001", "7"),
        touches=False,
    ),
    Fault(
        "train/fold-is-text",
        "a fold that is not a number",
        lambda box: edit_rows(box.study.train_paths, lambda rows: [{**row, "fold": "first"} for row in rows]),
        ("[table-not-integer]", "fold"),
        touches=False,
    ),
    Fault(
        "train/patient-added",
        "a patient in the table without arrays",
        add_patient,
        ("[not-preprocessed]", "phantom_009"),
        touches=False,
    ),
    Fault(
        "train/patient-twice",
        "a patient listed twice",
        lambda box: edit_rows(box.study.train_paths, lambda rows: [*rows, rows[0]]),
        ("[patient-duplicate]", "phantom_002"),
        touches=False,
    ),
    Fault(
        "train/paths-missing",
        "a missing table of patients",
        lambda box: remove(box.study.train_paths),
        "[table-missing]",
        touches=False,
    ),
    Fault(
        "train/paths-header-only",
        "a table of patients without rows",
        lambda box: box.study.train_paths.write_text("id,fold,mask,t1,t2\n") and None,
        "[table-empty]",
        touches=False,
    ),
    Fault(
        "train/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
        touches=False,
    ),
    Fault(
        "train/config-missing",
        "a missing config.json",
        lambda box: remove(box.study.config),
        ("[config-missing]", "config.json"),
        touches=False,
    ),
    Fault(
        "train/config-unknown-key",
        "a misspelled setting",
        lambda box: edit_section(box.study.config, "training", learningrate=0.5),
        ("[unknown-key]", "training.learningrate", "Did you mean 'learning_rate'?"),
        touches=False,
    ),
    Fault(
        "train/config-wrong-type",
        "a setting of the wrong type",
        lambda box: edit_section(box.study.config, "training", epochs="many"),
        ("[value-invalid]", "training.epochs", "many"),
        touches=False,
    ),
    Fault(
        "train/config-no-folds",
        "no folds to train",
        lambda box: edit_section(box.study.config, "training", folds=[]),
        ("[value-invalid]", "training.folds"),
        touches=False,
    ),
    Fault(
        "train/config-fold-twice",
        "a fold listed twice in config.json",
        lambda box: edit_section(box.study.config, "training", folds=[0, 0]),
        ("[value-invalid]", "folds"),
        touches=False,
    ),
    Fault(
        "train/config-newer-version",
        "a config.json of a later version",
        lambda box: edit_json(box.study.config, mist_version="mist-dagster 99.9", future={"on": True}),
        ("[unknown-key]", "mist-dagster 99.9"),
        touches=False,
    ),
    Fault(
        "train/config-other-classes",
        "a network with more classes than labels",
        lambda box: edit_section(box.study.config, "model", params={"in_channels": 2, "out_channels": 7}),
        ("[channels-mismatch]", "out_channels", "7"),
        touches=False,
    ),
    Fault(
        "train/config-no-loss",
        "an unknown loss in config.json",
        lambda box: edit_section(box.study.config, "training", loss={"name": "dicee"}),
        ("[unknown-loss]", "Did you mean 'dice'?"),
        touches=False,
    ),
    Fault(
        "train/fingerprint-broken",
        "a truncated fingerprint.json",
        lambda box: cut_short(box.study.fingerprint),
        ("[json-invalid]", "fingerprint.json"),
        touches=False,
    ),
]


def checkpoint(box: Sandbox) -> Path:
    return box.study.checkpoint(0)


def resumed(*arguments: str) -> Arguments:
    return ["--resume", "--epochs", "2", *arguments]


def break_checkpoint(box: Sandbox, breaks: Callable[[Path], object]) -> Arguments:
    breaks(checkpoint(box))
    return resumed()


def edit_checkpoint(path: Path, **values: object) -> None:
    torch.save({**torch.load(path, weights_only=True), **values}, path)


FOREIGN = {"epoch": 3, "model_state": {}, "optimizer_state": {}}
PARTS = {"a number": 3, "no settings": {"settings": []}}

RESUMED = [
    Fault(
        "train/results-exist",
        "existing models",
        lambda box: [],
        ("[output-exists]", "--resume", "--overwrite"),
        touches=False,
    ),
    Fault(
        "train/resume-and-overwrite",
        "--resume with --overwrite",
        lambda box: ["--resume", "--overwrite"],
        ("[flags-contradict]", "--resume", "--overwrite"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-truncated",
        "a truncated checkpoint",
        lambda box: break_checkpoint(box, cut_short),
        ("[weights-unreadable]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-empty",
        "an empty checkpoint",
        lambda box: break_checkpoint(box, lambda path: path.write_bytes(b"")),
        ("[weights-unreadable]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-bit",
        "a checkpoint with a flipped byte",
        lambda box: break_checkpoint(box, flip_byte),
        ("[weights-unreadable]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-with-code",
        "a checkpoint that executes code when unpickled",
        lambda box: break_checkpoint(box, code),
        ("[weights-unreadable]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-foreign",
        "a checkpoint of another program",
        lambda box: break_checkpoint(box, partial(torch.save, FOREIGN)),
        ("[checkpoint-invalid]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-other-types",
        "a checkpoint with values of other types",
        lambda box: break_checkpoint(box, partial(edit_checkpoint, settings=[], epoch="two")),
        ("[checkpoint-invalid]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/checkpoint-other-network",
        "a checkpoint with the weights of another network",
        lambda box: break_checkpoint(box, partial(edit_checkpoint, model={"conv": torch.zeros(1)})),
        ("[weights-mismatch]", "fold_0_checkpoint.pt"),
        again=False,
    ),
    Fault(
        "train/resume-other-loss",
        "another loss with --resume",
        lambda box: resumed("--loss", "dice"),
        ("[resume-mismatch]", "training.loss.name was dice_ce and is now dice"),
        touches=False,
    ),
    Fault(
        "train/resume-other-model",
        "another model with --resume",
        lambda box: resumed("--model", "mednext-small"),
        ("[resume-mismatch]", "model.architecture was nnunet-pocket and is now mednext-small"),
        touches=False,
    ),
    Fault(
        "train/resume-other-patch",
        "another patch size with --resume",
        lambda box: resumed("--patch-size", "48", "32", "32"),
        ("[resume-mismatch]", "spatial_config.patch_size"),
        touches=False,
    ),
    Fault(
        "train/resume-other-batch",
        "another batch size with --resume",
        lambda box: resumed("--batch-size-per-gpu", "1"),
        "training.batch_size_per_gpu was 2 and is now 1",
        status=0,
        again=False,
    ),
    Fault(
        "train/resume-other-data",
        "other patients with --resume",
        lambda box: set_folds(box, phantom_001=0, phantom_002=1) or resumed(),
        ("[resume-mismatch]", "cases.training.phantom_001"),
        touches=False,
    ),
    Fault(
        "train/resume-other-array",
        "an array that changed before --resume",
        lambda box: edit_json(box.study.geometry("phantom_001"), content="other") or resumed(),
        ("[resume-mismatch]", "cases.training.phantom_001"),
        touches=False,
    ),
    Fault(
        "train/resume-nan-loss",
        "a resumed run whose loss diverges",
        lambda box: resumed("--learning-rate", "1e30", "--epochs", "4"),
        ("[loss-not-finite]", "Lower --learning-rate and resume"),
        again=False,
    ),
    Fault(
        "train/checkpoint-missing-on-resume",
        "a model without its checkpoint with --resume",
        lambda box: remove(checkpoint(box)) or resumed(),
        ("[checkpoint-missing]", "fold_0_checkpoint.pt"),
        touches=False,
    ),
    Fault(
        "train/weights-missing-on-resume",
        "a checkpoint without its model with --resume",
        lambda box: remove(box.study.model(0)) or ["--resume"],
        "Scores:",
        status=0,
        again=False,
    ),
    Fault(
        "train/weights-older-than-checkpoint",
        "weights of another epoch than the checkpoint",
        lambda box: shutil.copy(box.study.model(1), box.study.model(0)) and ["--resume"],
        "Scores:",
        status=0,
        again=False,
    ),
]


def pretrained(box: Sandbox, breaks: Callable[[Path], object]) -> Arguments:
    weights = box.folder / "source" / "models" / "other.pt"
    weights.parent.mkdir(parents=True)
    shutil.copy(box.study.model(0), weights)
    breaks(weights)
    return ["--overwrite", "--pretrained-weights", weights, "--pretrained-config", box.study.config]


PRETRAINED = [
    Fault(
        "train/pretrained-truncated",
        "truncated pretrained weights",
        lambda box: pretrained(box, cut_short),
        ("[weights-unreadable]", "other.pt"),
        touches=False,
    ),
    Fault(
        "train/pretrained-with-code",
        "pretrained weights that execute code when unpickled",
        lambda box: pretrained(box, code),
        ("[weights-unreadable]", "other.pt"),
        touches=False,
    ),
    Fault(
        "train/pretrained-checkpoint",
        "a whole checkpoint as pretrained weights",
        lambda box: pretrained(box, lambda path: shutil.copy(checkpoint(box), path)),
        ("[weights-invalid]", "other.pt"),
        touches=False,
    ),
    Fault(
        "train/pretrained-other-network",
        "pretrained weights that do not match their config.json",
        lambda box: pretrained(box, other_network),
        ("[pretrained-mismatch]", "other.pt"),
        touches=False,
    ),
    Fault(
        "train/pretrained-other-architecture",
        "pretrained weights of another architecture",
        lambda box: [*pretrained(box, lambda path: None), "--model", "mednext-small"],
        ("[pretrained-mismatch]", "nnunet-pocket", "mednext-small"),
        touches=False,
    ),
    Fault(
        "train/pretrained-missing",
        "missing pretrained weights",
        lambda box: pretrained(box, remove),
        ("[weights-missing]", "other.pt"),
        touches=False,
    ),
]


FAULTS = [*ARRAYS, *FLAGS, *TABLES, *RESUMED, *PRETRAINED]


@pytest.mark.parametrize("fault", [*ARRAYS, *FLAGS, *TABLES], ids=lambda fault: fault.key)
def test_a_first_training(preprocessed: Sandbox, fault: Fault) -> None:
    meets(preprocessed, "train", FOLD_0, fault)


@pytest.mark.parametrize("fault", [*RESUMED, *PRETRAINED], ids=lambda fault: fault.key)
def test_a_training_on_top_of_another(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "train", FOLD_0, fault)
    assert not (trained.folder / "executed").exists()
