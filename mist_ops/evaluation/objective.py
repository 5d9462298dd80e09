"""One number for a mask, for searches that need to know which of two masks is better."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from mist_ops.evaluation.score import Classes
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import surf_dice
from mist_ops.types import LabelMap, Mask


def mean_overlap(case_id: str, labels: LabelMap, masks: Mapping[str, Path], classes: Classes) -> float:
    """The mean over classes of Dice and of surface Dice within 1 mm, half each: 0 to 1, higher is better.

    Dice alone hardly notices a false island, distances alone have no bound. A class that is in neither mask counts 1,
    one that is in a single mask 0.

    Args:
        case_id: Whose mask it is.
        labels: The mask in question, on the grid of the true one.
        masks: The file of the true mask of each case.
        classes: What is scored.

    Raises:
        ImageError: The true mask cannot be used.
        ValueError: The masks do not have the same size.
    """
    truth, geometry = _truth(masks[case_id])
    pairs = [
        MaskPair(_mask(truth, wanted.labels), _mask(labels, wanted.labels), geometry.spacing)
        for wanted in classes.values()
    ]
    return float(np.mean([_overlap(pair) for pair in pairs]))


def _overlap(pair: MaskPair) -> float:
    if not (pair.truth_voxels and pair.prediction_voxels):
        return float(pair.truth_voxels == pair.prediction_voxels)
    return (dice(pair) + surf_dice(pair)) / 2


@lru_cache(maxsize=1)
def _truth(path: Path) -> tuple[LabelMap, Geometry]:
    # A search looks at many masks of one case before it turns to the next.
    return read_labels(path)


def _mask(labels: LabelMap, wanted: list[int]) -> Mask:
    found: Mask = np.isin(labels, wanted)
    return found
