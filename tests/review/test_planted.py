"""Mistakes planted in masks are found at the top of a queue that is as long as there are mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from damage import DAMAGES
from scipy import ndimage

from mist_ops.evaluation.score import BoxedLabels
from mist_ops.evaluation.structures import Structures
from mist_ops.imaging.components import label_boxes
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels
from mist_ops.phantoms import phantom
from mist_ops.review.measures import Measured, measure_labels
from mist_ops.review.suspicion import suspects
from mist_ops.types import LabelMap

SHARE = 0.05


def predicted(truth: LabelMap, random: np.random.Generator) -> LabelMap:
    """A mask as a model would predict it: smoother, and with borders that are off here and there."""
    labels = range(int(truth.max()) + 1)
    soft = [
        ndimage.gaussian_filter((truth == label).astype(float), 1.0)
        + ndimage.gaussian_filter(random.normal(size=truth.shape), 2.0)
        for label in labels
    ]
    return np.argmax(soft, axis=0).astype(np.uint8)


def compared(truth: LabelMap, prediction: LabelMap, geometry: Geometry, structures: Structures) -> Measured:
    first, second = (BoxedLabels(labels, label_boxes(labels)) for labels in (truth, prediction))
    return measure_labels(first, second, geometry, structures)


def recall(masks: Sequence[tuple[LabelMap, Geometry]], structures: Structures) -> float:
    """Share of damaged masks in the queue, over all kinds of damage."""
    random = np.random.default_rng(0)
    predictions = [predicted(truth, random) for truth, _ in masks]
    known = {
        str(place): compared(truth, prediction, geometry, structures)
        for place, ((truth, geometry), prediction) in enumerate(zip(masks, predictions, strict=True))
    }
    length = max(1, round(SHARE * len(masks)))
    hits: list[bool] = []
    for damage in DAMAGES.values():
        for _ in range(6):
            planted = {}
            for place in random.choice(len(masks), length, replace=False).tolist():
                truth, geometry = masks[place]
                damaged = np.ascontiguousarray(damage(truth, random))
                planted[str(place)] = compared(damaged, predictions[place], geometry, structures)
            queue = [suspect.id for suspect in suspects({**known, **planted})][:length]
            hits += [name in queue for name in planted]
    return float(np.mean(hits))


def test_mistakes_in_phantoms_are_found() -> None:
    patients = [phantom(seed, varied=False) for seed in range(20)]
    masks = [(patient.labels, patient.geometry) for patient in patients]
    assert recall(masks, {"lesion": (1, 2), "core": (2,), "edge": (1,)}) >= 0.8


def test_mistakes_in_masks_of_the_hippocampus_are_found(shared: Path) -> None:
    files = sorted((shared / "data" / "Task04_Hippocampus" / "labelsTr").glob("h*.nii.gz"))[:40]
    assert files
    assert recall([read_labels(path) for path in files], {"anterior": (1,), "posterior": (2,)}) >= 0.8
