"""Metrics against the values of MIST 2.3.0 and of the BraTS 2023 script, and the values that MIST gets wrong.

A plain implementation of the lesion-wise metrics, on whole volumes, has a switch for each correction. Without
corrections it gives MIST's values, with all of them ours.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels
from mist_ops.metrics.lesions import lesion_wise_dice, lesion_wise_haus95
from mist_ops.metrics.lesions.matching import find_lesions
from mist_ops.metrics.lesions.protocols import rules_of
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import haus95, surf_dice
from mist_ops.registry import METRICS
from mist_ops.types import LabelMap

NEIGHBORS = ndimage.generate_binary_structure(3, 2)
OF_A_LESION = {"lesion_wise_dice": dice, "lesion_wise_haus95": haus95, "lesion_wise_surf_dice": surf_dice}
FAMILY = {*OF_A_LESION, "lesion_wise_f1"}
DIAGONAL, HITS, DILATION = "diagonal of the whole image", "matches of small lesions", "zero dilation"


@lru_cache(maxsize=8)
def labels_in(path: Path) -> tuple[LabelMap, Geometry]:
    return read_labels(path)


@lru_cache(maxsize=8)
def pair_of(mask: Path, prediction: Path, labels: str) -> MaskPair:
    values = list(range(1, 118)) if labels == "1..117" else [int(label) for label in labels.split()]
    (truth, grid), (predicted, _) = labels_in(mask), labels_in(prediction)
    return MaskPair(np.isin(truth, values), np.isin(predicted, values), grid.spacing, grid.diagonal)


def value(pair: MaskPair, name: str, params: dict[str, Any]) -> float:
    """Value of a metric, also for empty masks."""
    metric = METRICS[name]
    if not (pair.truth_voxels or pair.prediction_voxels):
        return metric.best
    if not (pair.truth_voxels and pair.prediction_voxels) and not metric.takes_one_empty:
        return pair.diagonal if math.isinf(metric.worst) else metric.worst
    return metric.function(pair, **params)


def rows(shared: Path) -> Iterator[tuple[Any, MaskPair, dict[str, Any]]]:
    table = pd.read_csv(shared / "golden" / "metrics.csv")
    assert len(table) == 614
    for row in table.sort_values(["mask", "prediction", "labels"]).itertuples():
        yield row, pair_of(shared / row.mask, shared / row.prediction, row.labels), json.loads(row.params)


def plainly(pair: MaskPair, name: str, params: dict[str, Any], corrected: set[str]) -> float:
    """A lesion-wise metric of MIST on whole volumes, with some corrections."""
    dilation = params.get("dilation_iters", 3)
    penalty = pair.diagonal if DIAGONAL in corrected else math.hypot(*np.multiply(pair.truth.shape, pair.spacing))
    joined = params.get("gt_consolidation_iters", 0)
    grown = ndimage.binary_dilation(pair.truth, NEIGHBORS, joined) if joined else pair.truth
    lesions, count = ndimage.label(grown, NEIGHBORS)
    lesions[~pair.truth] = 0
    predicted, number = ndimage.label(pair.prediction, NEIGHBORS)
    scores: list[float] = []
    detected: set[int] = set()
    matched: set[int] = set()
    for index in range(1, count + 1):
        lesion = lesions == index
        # SciPy repeats the dilation until nothing changes if iterations is 0, and so does MIST.
        skipped = dilation == 0 and DILATION in corrected
        reach = lesion if skipped else ndimage.binary_dilation(lesion, NEIGHBORS, dilation)
        hits = set(np.unique(predicted[reach]).tolist()) - {0}
        counts = np.count_nonzero(lesion) * math.prod(pair.spacing) >= params.get("min_lesion_volume", 10.0)
        matched |= hits if counts or HITS in corrected else set()
        if counts and hits:
            detected.add(index)
            both = MaskPair(lesion, np.isin(predicted, list(hits)), pair.spacing)
            scores.append(OF_A_LESION.get(name, dice)(both))
        elif counts:
            scores.append(penalty if name == "lesion_wise_haus95" else 0.0)
    scores += [penalty if name == "lesion_wise_haus95" else 0.0] * (number - len(matched))
    if not scores:
        return METRICS[name].best
    f1 = 2 * len(detected) / (len(detected) + len(scores))
    return f1 if name == "lesion_wise_f1" else sum(scores) / len(scores)


def needed(pair: MaskPair, name: str, params: dict[str, Any], right: float) -> frozenset[str]:
    """Corrections without which the plain implementation does not give the right value."""
    every = {DIAGONAL, HITS, DILATION}
    assert plainly(pair, name, params, every) == pytest.approx(right, abs=1e-9)
    return frozenset(one for one in every if plainly(pair, name, params, every - {one}) != pytest.approx(right))


def test_all_values_equal_the_reference_or_need_a_correction(shared: Path) -> None:
    reasons: Counter[str] = Counter()
    for row, pair, params in rows(shared):
        ours = value(pair, row.metric, params)
        if ours == pytest.approx(row.value, rel=0, abs=1e-9) or row.case == "tol/sp08/t08":
            continue
        if row.case.startswith("mets/") and row.metric in FAMILY:
            continue
        assert plainly(pair, row.metric, params, set()) == pytest.approx(row.value, rel=0, abs=1e-9), row
        reason = needed(pair, row.metric, params, ours)
        if reason == {DIAGONAL} and not math.isnan(row.full_image_diagonal_variant):
            assert ours == pytest.approx(row.full_image_diagonal_variant, rel=0, abs=1e-9)
        reasons[", ".join(sorted(reason))] += 1
    assert reasons == {
        DIAGONAL: 30,
        HITS: 39,
        DILATION: 10,
        f"{DIAGONAL}, {DILATION}": 4,
        f"{HITS}, {DILATION}": 3,
        f"{DIAGONAL}, {HITS}": 1,
        f"{DIAGONAL}, {HITS}, {DILATION}": 1,
    }


def test_a_tolerance_of_one_voxel_includes_one_voxel(shared: Path) -> None:
    masks = shared / "golden" / "masks"
    pair = pair_of(masks / "sp08_gt.nii.gz", masks / "sp08_pr.nii.gz", "1")  # a box of 0.8 mm voxels, shifted by one
    assert surf_dice(pair, tolerance=0.8) == 1.0  # the reference: 0.6663


@pytest.mark.parametrize("joined, hits, before", [(0, 15, 225), (3, 12, 180)])
def test_predictions_of_small_metastases_are_not_false_positives(
    shared: Path, joined: int, hits: int, before: int
) -> None:
    masks = shared / "golden" / "masks"
    pair = pair_of(masks / "mets_gt.nii.gz", masks / "mets_pr.nii.gz", "1")
    lesions = find_lesions(pair, rules_of(gt_consolidation_iters=joined))
    assert sum(lesion.predicted and lesion.status == "ignored" for lesion in lesions) == hits == spared(pair, joined)
    detected = sum(lesion.status == "TP" for lesion in lesions)
    for row, _, params in rows(shared):
        if row.case.startswith("mets/") and row.metric in FAMILY and params.get("gt_consolidation_iters", 0) == joined:
            twice = detected if row.metric == "lesion_wise_f1" else 0
            right = row.value * (before + twice) / (before - hits + twice)
            assert value(pair, row.metric, params) == pytest.approx(right, rel=0, abs=1e-9)


def spared(pair: MaskPair, joined: int) -> int:
    """Predicted components that match only lesions below 10 mm³; all lesions are dilated at once."""
    grown = ndimage.binary_dilation(pair.truth, NEIGHBORS, joined) if joined else pair.truth
    lesions, _ = ndimage.label(grown, NEIGHBORS)
    lesions[~pair.truth] = 0
    counts = np.bincount(lesions.ravel()) * math.prod(pair.spacing) >= 10.0
    predicted, _ = ndimage.label(pair.prediction, NEIGHBORS)
    small, large = (
        set(predicted[ndimage.binary_dilation(pair.truth & (counts[lesions] == size), NEIGHBORS, 3)].tolist())
        for size in (False, True)
    )
    return len(small - large)


def test_the_brats_protocol_equals_its_script(shared: Path) -> None:
    official = [found for found in rows(shared) if not math.isnan(found[0].official_brats2023)]
    assert len(official) == 43
    for row, pair, params in official:
        ours = value(pair, row.metric, {**params, "protocol": "brats2023"})
        assert ours == pytest.approx(row.official_brats2023, rel=0, abs=1e-9), row


def test_the_brats_protocol_equals_its_script_on_two_hundred_metastases(shared: Path) -> None:
    masks = shared / "golden" / "masks"
    pair = pair_of(masks / "mets_gt.nii.gz", masks / "mets_pr.nii.gz", "1")
    statuses = Counter(lesion.status for lesion in find_lesions(pair, rules_of(protocol="brats2023")))
    assert (statuses["TP"], statuses["FP"], statuses["FN"]) == (72, 36, 20)
    assert lesion_wise_dice(pair, protocol="brats2023") == pytest.approx(0.3562929, abs=5e-8)
    assert lesion_wise_haus95(pair, protocol="brats2023") == pytest.approx(165.3265, abs=5e-5)
    assert lesion_wise_dice(pair, 2.0, 1, protocol="brats2023") == pytest.approx(0.3400140, abs=5e-8)
    assert lesion_wise_haus95(pair, 2.0, 1, protocol="brats2023") == pytest.approx(134.9074, abs=5e-5)


@pytest.mark.parametrize(
    "mask, prediction, params, expected",
    [
        # Two of three lesions that count are matched: one shifted by a voxel (Dice 0.9, 1 mm), one next to its
        # prediction (0, 5 mm). One prediction is a false positive, and one on a lesion of 6 mm³ is ignored.
        ("lesGT", "lesPR", {}, (0.9 / 4, (6 / 4, 2 / 4), 4 / 6)),
        ("lesGT", "lesPR", {"min_lesion_volume": 50.0}, (0.9 / 3, (6 / 3, 1 / 3), 4 / 5)),
        # Distances are sums of mm and diagonals. Without dilation the second of them does not overlap its prediction.
        ("lesGT", "lesPR", {"dilation_iters": 0}, (0.9 / 5, (1 / 5, 4 / 5), 2 / 6)),
        ("smallonly", "smallonly", {}, (1.0, (0, 0), 1.0)),
        ("cornertouch", "firstblock", {"dilation_iters": 0}, (1 / 2, (0, 1 / 2), 2 / 3)),
        ("twoblocks_gap5", "bridge", {"min_lesion_volume": 1e9}, (1.0, (0, 0), 1.0)),
    ],
)
def test_corrected_values_follow_from_the_geometry(
    shared: Path, mask: str, prediction: str, params: dict[str, Any], expected: tuple[float, tuple[float, float], float]
) -> None:
    masks = shared / "golden" / "masks"
    pair = pair_of(masks / f"{mask}.nii.gz", masks / f"{prediction}.nii.gz", "1")
    names = ("lesion_wise_dice", "lesion_wise_haus95", "lesion_wise_f1")
    near, penalties = expected[1]
    right = [expected[0], near + penalties * math.hypot(40, 54, 60), expected[2]]
    assert [value(pair, name, params) for name in names] == pytest.approx(right, rel=0, abs=1e-9)
