"""A single score for a mask, as the objective of a search."""

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
    """Mean over classes of Dice and surface Dice at 1 mm, half each: 0 to 1, higher is better.

    Dice alone hardly changes with a small false positive, and distances are unbounded. A class scores 1 if it is in
    neither mask, and 0 if it is in only one.

    Args:
        case_id: Id of the case.
        labels: The mask to score, on the grid of the true one.
        masks: File of the true mask of each case.
        classes: Classes to score.

    Raises:
        ImageError: The true mask cannot be used.
        ValueError: The masks differ in size.
    """
    truth, geometry = _truth(masks[case_id])
    pairs = [
        MaskPair(_mask(truth, scored.labels), _mask(labels, scored.labels), geometry.spacing)
        for scored in classes.values()
    ]
    return float(np.mean([_overlap(pair) for pair in pairs]))


def _overlap(pair: MaskPair) -> float:
    if not (pair.truth_voxels and pair.prediction_voxels):
        return float(pair.truth_voxels == pair.prediction_voxels)
    return (dice(pair) + surf_dice(pair)) / 2


@lru_cache(maxsize=1)
def _truth(path: Path) -> tuple[LabelMap, Geometry]:
    # A search scores many masks of one case in a row.
    return read_labels(path)


def _mask(labels: LabelMap, values: list[int]) -> Mask:
    found: Mask = np.isin(labels, values)
    return found
