"""``mist_guard`` on finished studies with one fault each."""

from __future__ import annotations

from functools import partial

import pytest

from .harness import Arguments, Fault, Sandbox, cut_short, meets, remove


def guarded(box: Sandbox) -> Arguments:
    return ["--results", box.study.results, "--damages", "0", "--device", "cpu"]


refused = partial(Fault, touches=False, again=False)

FAULTS = [
    refused(
        "guard/no-model",
        "a study without models",
        lambda box: remove(box.study.models),
        ("[model-missing]", "mist_train"),
    ),
    refused(
        "guard/fold-missing",
        "a fold without a model",
        lambda box: remove(box.study.model(1)),
        ("[model-missing]", "1"),
    ),
    refused(
        "guard/weights-truncated",
        "truncated weights of a fold",
        lambda box: cut_short(box.study.model(0)),
        ("[weights-unreadable]", "fold_0.pt"),
    ),
    refused(
        "guard/mask-truncated",
        "a truncated mask of a patient",
        lambda box: cut_short(box.mask()),
        "phantom_001",
    ),
    refused(
        "guard/image-missing",
        "a missing image of a patient",
        lambda box: remove(box.image()),
        ("phantom_001", "t1"),
    ),
    refused(
        "guard/too-few-patients",
        "a study of four patients",
        lambda _: None,
        ("[guard-too-few]", "at least 5"),
    ),
    refused(
        "guard/no-study",
        "a folder of results without a study",
        lambda box: remove(box.study.config),
        "[config-missing]",
    ),
    refused(
        "guard/config-broken",
        "a truncated config.json",
        lambda box: cut_short(box.study.config),
        ("[json-invalid]", "config.json"),
    ),
    refused(
        "guard/paths-missing",
        "a study without its table of patients",
        lambda box: remove(box.study.train_paths),
        "[table-missing]",
    ),
    refused(
        "guard/damages-negative",
        "a negative number of damages",
        lambda _: ["--damages", "-1"],
        "--damages",
        status=2,
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_guard(trained: Sandbox, fault: Fault) -> None:
    meets(trained, "guard", guarded(trained), fault)
