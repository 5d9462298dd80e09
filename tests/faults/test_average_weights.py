"""``mist_average_weights`` on weights files with one fault each."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from .harness import Arguments, Code, Fault, Sandbox, cut_short, fill, meets, remove


def weights(box: Sandbox, fold: int = 1) -> Path:
    return box.folder / "data" / "models" / f"fold_{fold}.pt"


def average(box: Sandbox) -> Path:
    return box.folder / "average.pt"


def executed(box: Sandbox) -> Path:
    """File that the code in a weights file would create."""
    return box.folder / "executed"


@pytest.fixture
def folds(bare: Sandbox, sound: Path) -> Sandbox:
    """A sandbox with the weights of two folds."""
    shutil.copytree(sound / "results" / "models", weights(bare).parent)
    return bare


def averaging(box: Sandbox) -> Arguments:
    return ["--weights", weights(box, 0), weights(box, 1), "--output", average(box)]


def pickled(box: Sandbox) -> None:
    weights(box).write_bytes(pickle.dumps(Code(executed(box))))


def saved_with_code(box: Sandbox) -> None:
    torch.save({**torch.load(weights(box), weights_only=True), "extra": Code(executed(box))}, weights(box))


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Sandbox], None]:
    return lambda box: torch.save(change(torch.load(weights(box), weights_only=True)), weights(box))


def each(change: Callable[[Any], Any]) -> Callable[[Sandbox], None]:
    return changed(lambda found: {name: change(tensor) for name, tensor in found.items()})


def existing_output(box: Sandbox) -> None:
    average(box).write_text("mine")


def as_output(box: Sandbox, path: Callable[[Sandbox], Path]) -> Arguments:
    return ["--output", path(box), "--overwrite"]


refused = partial(Fault, touches=False)

FAULTS = [
    refused("average_weights/single-file", "a single file", lambda box: ["--weights", weights(box)], "--weights", 2),
    refused(
        "average_weights/same-file-twice",
        "the same file twice",
        lambda box: ["--weights", weights(box), weights(box)],
        ("[input-duplicate]", "fold_1.pt"),
    ),
    refused(
        "average_weights/file-missing",
        "a file that does not exist",
        lambda box: remove(weights(box)),
        ("[weights-missing]", "fold_1.pt"),
    ),
    refused(
        "average_weights/truncated",
        "a truncated file",
        lambda box: cut_short(weights(box)),
        ("[weights-unreadable]", "fold_1.pt"),
    ),
    refused(
        "average_weights/text",
        "a text file",
        lambda box: fill(weights(box), "no weights"),
        ("[weights-unreadable]", "fold_1.pt"),
    ),
    refused(
        "average_weights/empty",
        "an empty file",
        lambda box: fill(weights(box)),
        ("[weights-unreadable]", "fold_1.pt"),
    ),
    *(
        refused(
            f"average_weights/{key}",
            what,
            breaks,
            ("[weights-unreadable]", "fold_1.pt"),
            others_done=lambda box: not executed(box).exists(),
        )
        for key, what, breaks in (
            ("with-code", "a pickle that executes code", pickled),
            ("with-code-among-weights", "weights with an object that executes code", saved_with_code),
        )
    ),
    refused(
        "average_weights/checkpoint",
        "a checkpoint instead of weights",
        changed(lambda found: {"network": found, "epoch": 3}),
        ("[weights-invalid]", "fold_1.pt"),
    ),
    refused(
        "average_weights/list", "a list of tensors", changed(lambda found: list(found.values())), "[weights-invalid]"
    ),
    refused(
        "average_weights/different-architectures",
        "weights of another network",
        changed(lambda found: dict(list(found.items())[1:])),
        ("[weights-mismatch]", "fold_1.pt"),
    ),
    refused(
        "average_weights/different-shapes",
        "weights with another number of channels",
        each(lambda tensor: tensor[:1] if tensor.ndim else tensor),
        ("[weights-mismatch]", "fold_1.pt"),
    ),
    refused(
        "average_weights/nan-weights",
        "weights that are NaN",
        each(lambda tensor: tensor * float("nan")),
        ("[weights-not-finite]", "fold_1.pt"),
    ),
    refused(
        "average_weights/output-exists",
        "an output that exists",
        existing_output,
        ("[output-exists]", "average.pt"),
    ),
    *(
        refused(f"average_weights/{key}", what, partial(as_output, path=path), says)
        for key, what, path, says in (
            ("output-is-input", "an output that is also an input", weights, "[output-is-input]"),
            ("output-a-folder", "an output that is a folder", lambda box: weights(box).parent, "[folder-not-file]"),
        )
    ),
    refused(
        "average_weights/output-below-a-file",
        "an output in a folder that is a file",
        lambda box: ["--output", weights(box) / "average.pt"],
        "[file-not-folder]",
    ),
    Fault(
        "average_weights/output-folder-missing",
        "an output in a folder that does not exist",
        lambda box: ["--output", box.folder / "new" / "average.pt"],
        "Weights:",
        status=0,
        others_done=lambda box: (box.folder / "new" / "average.pt").is_file(),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_average_weights(folds: Sandbox, fault: Fault) -> None:
    meets(folds, "average_weights", averaging(folds), fault)
