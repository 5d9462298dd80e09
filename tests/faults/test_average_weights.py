"""``mist_average_weights`` on files of weights with one fault each; one of them holds code."""

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
    """Where the code in a file of weights would leave a trace."""
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


def in_place_of_an_average(box: Sandbox) -> None:
    average(box).write_text("mine")


def as_output(box: Sandbox, path: Callable[[Sandbox], Path]) -> Arguments:
    return ["--output", path(box), "--overwrite"]


refused = partial(Fault, touches=False)

FAULTS = [
    refused("average_weights/single-file", "one file alone", lambda box: ["--weights", weights(box)], "--weights", 2),
    refused(
        "average_weights/same-file-twice",
        "the same file twice",
        lambda box: ["--weights", weights(box), weights(box)],
        "is given twice",
    ),
    refused(
        "average_weights/file-missing", "a file that is not there", lambda box: remove(weights(box)), "There is no"
    ),
    refused(
        "average_weights/truncated",
        "a file that is cut short",
        lambda box: cut_short(weights(box)),
        "fold_1.pt is damaged, or no file of weights",
    ),
    refused(
        "average_weights/text",
        "a text in place of weights",
        lambda box: fill(weights(box), "no weights"),
        "fold_1.pt is damaged, or no file of weights",
    ),
    refused(
        "average_weights/empty",
        "a file of no bytes",
        lambda box: fill(weights(box)),
        "fold_1.pt is damaged, or no file of weights",
    ),
    *(
        refused(
            f"average_weights/{key}",
            what,
            breaks,
            "fold_1.pt is damaged, or no file of weights",
            others_done=lambda box: not executed(box).exists(),
        )
        for key, what, breaks in (
            ("with-code", "a pickle that would run code", pickled),
            ("with-code-among-weights", "weights with an object that would run code", saved_with_code),
        )
    ),
    refused(
        "average_weights/checkpoint",
        "a whole checkpoint instead of weights",
        changed(lambda found: {"network": found, "epoch": 3}),
        "holds something else than the weights of a network",
    ),
    refused("average_weights/list", "a list of tensors", changed(lambda found: list(found.values())), "something else"),
    refused(
        "average_weights/different-architectures",
        "weights of another network",
        changed(lambda found: dict(list(found.items())[1:])),
        "fold_1.pt belongs to another network than",
    ),
    refused(
        "average_weights/different-shapes",
        "weights of another number of channels",
        each(lambda tensor: tensor[:1] if tensor.ndim else tensor),
        "Average weights of one network",
    ),
    refused(
        "average_weights/nan-weights",
        "weights that are NaN",
        each(lambda tensor: tensor * float("nan")),
        "holds values that are not finite",
    ),
    refused(
        "average_weights/output-exists",
        "an output that is there already",
        in_place_of_an_average,
        "average.pt exists already",
    ),
    *(
        refused(f"average_weights/{key}", what, partial(as_output, path=path), says)
        for key, what, path, says in (
            ("output-is-input", "an output that is one of the files", weights, "is one of the files"),
            ("output-a-folder", "an output that is a folder", lambda box: weights(box).parent, "is a folder"),
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
