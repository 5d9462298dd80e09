"""``mist_analyze`` on datasets with one fault each."""

from __future__ import annotations

import pytest

from .harness import Fault, Sandbox, cut_short, edit_json, meets, remove

FAULTS = [
    Fault(
        "analyze/truncated-gz",
        "an image that is cut short",
        lambda box: cut_short(box.image()),
        "t1.nii.gz cannot be read as a NIfTI image",
    ),
    Fault(
        "analyze/missing-image",
        "an image that is not there",
        lambda box: remove(box.image()),
        "patient 'phantom_001', t1",
    ),
    Fault(
        "analyze/unknown-label",
        "a label that dataset.json does not list",
        lambda box: edit_json(box.study.data, labels=[0, 1], final_classes=None),
        "the mask holds labels [2], but 'labels' lists [0, 1]",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.key)
def test_analyze(described: Sandbox, fault: Fault) -> None:
    meets(described, "analyze", ["--data", described.study.data, "--nfolds", "2"], fault)
