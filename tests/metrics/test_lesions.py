from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from mist_ops.metrics.lesions import (
    lesion_wise_dice,
    lesion_wise_f1,
    lesion_wise_haus95,
    lesion_wise_surf_dice,
    scored_lesions,
)
from mist_ops.metrics.lesions.matching import Lesion, find_lesions
from mist_ops.metrics.lesions.protocols import rules_of
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import haus95

Cube = tuple[int, int, int, int]
SIZE, SPACING = (40, 30, 30), (1.0, 1.0, 2.0)
DIAGONAL = math.hypot(40, 30, 60)
FAMILY = (lesion_wise_dice, lesion_wise_haus95, lesion_wise_surf_dice, lesion_wise_f1)


def cubes(*places: Cube) -> np.ndarray:
    """A mask of cubes: the first voxel and the edge of each."""
    mask = np.zeros(SIZE, dtype=bool)
    for x, y, z, edge in places:
        mask[x : x + edge, y : y + edge, z : z + edge] = True
    return mask


def pair(truth: Sequence[Cube], prediction: Sequence[Cube]) -> MaskPair:
    return MaskPair(cubes(*truth), cubes(*prediction), SPACING)


def statuses(lesions: Sequence[Lesion]) -> list[str]:
    return [lesion.status for lesion in lesions]


def test_detected_missed_and_false_positive_lesions_are_averaged() -> None:
    both = pair([(2, 2, 2, 4), (20, 2, 2, 4)], [(3, 2, 2, 4), (2, 20, 20, 4)])
    assert lesion_wise_dice(both) == pytest.approx(0.75 / 3)
    assert lesion_wise_haus95(both) == pytest.approx((1.0 + 2 * DIAGONAL) / 3)
    assert lesion_wise_f1(both) == 2 / 4
    assert statuses(find_lesions(both, rules_of())) == ["TP", "FN", "FP"]


def test_all_components_that_match_a_lesion_are_compared_as_one_mask() -> None:
    both = pair([(10, 10, 10, 6)], [(9, 10, 10, 3), (14, 10, 10, 3)])
    [lesion] = find_lesions(both, rules_of())
    assert len(lesion.matches) == 2
    shared = 2 * 9 * 2  # two slabs of 3x3 voxels, two thick
    assert lesion_wise_dice(both) == pytest.approx(2 * shared / (216 + 54))


@pytest.mark.parametrize("dilation, detected", [(0, False), (1, False), (2, True)])
def test_a_component_matches_within_the_dilation_and_zero_disables_it(dilation: int, detected: bool) -> None:
    both = pair([(4, 4, 4, 4)], [(9, 4, 4, 4)])  # one voxel between them
    assert lesion_wise_f1(both, dilation_iters=dilation) == float(detected)


def test_dilation_grows_over_edges_but_not_over_corners() -> None:
    truth = [(4, 4, 4, 4)]
    assert lesion_wise_f1(pair(truth, [(8, 8, 4, 4)]), dilation_iters=1) == 1.0
    assert lesion_wise_f1(pair(truth, [(8, 8, 8, 4)]), dilation_iters=1) == 0.0


@pytest.mark.parametrize("gap, lesions", [(5, 1), (6, 1), (7, 2)])
def test_lesions_closer_than_twice_the_consolidation_are_merged(gap: int, lesions: int) -> None:
    both = pair([(2, 4, 4, 5), (7 + gap, 4, 4, 5)], [(2, 4, 4, 5)])
    assert len(find_lesions(both, rules_of(gt_consolidation_iters=3))) == lesions


def test_a_match_of_an_ignored_lesion_does_not_affect_the_scores() -> None:
    small, large = (30, 20, 20, 1), (4, 4, 4, 4)
    hit, ignored = pair([large, small], [large, small]), pair([large, small], [large])
    for metric, best in zip(FAMILY, (1.0, 0.0, 1.0, 1.0), strict=True):
        assert metric(hit) == metric(ignored) == best
    assert statuses(find_lesions(hit, rules_of())) == ["TP", "ignored", "ignored"]


def test_a_component_that_matches_an_ignored_and_a_counted_lesion_counts() -> None:
    both = pair([(4, 4, 4, 4), (10, 4, 4, 1)], [(4, 4, 4, 7)])
    assert statuses(find_lesions(both, rules_of())) == ["TP", "ignored"]


def test_a_lesion_of_exactly_the_minimum_volume_counts_except_in_brats() -> None:
    both = pair([(4, 4, 4, 4), (20, 4, 4, 2)], [(4, 4, 4, 4)])
    assert lesion_wise_f1(both, min_lesion_volume=16.0) == pytest.approx(2 / 3)
    assert lesion_wise_f1(both, min_lesion_volume=16.0, protocol="brats2023") == 1.0


def test_the_penalty_does_not_depend_on_where_a_false_positive_lies() -> None:
    near, far = (pair([(2, 2, 2, 4)], [(2, 2, 2, 4), (x, 2, 2, 4)]) for x in (12, 34))
    assert lesion_wise_haus95(near) == lesion_wise_haus95(far) == pytest.approx(DIAGONAL / 2)
    assert lesion_wise_haus95(near, protocol="brats2023") == 374 / 2


def test_only_brats_connects_components_at_corners() -> None:
    diagonal = cubes((4, 4, 4, 4), (8, 8, 8, 4))
    both = MaskPair(diagonal, diagonal, SPACING)
    assert len(find_lesions(both, rules_of())) == 2
    assert len(find_lesions(both, rules_of(gt_consolidation_iters=0, protocol="brats2023"))) == 1


def test_one_empty_mask_scores_the_worst_except_for_small_lesions_in_brats() -> None:
    small = pair([(4, 4, 4, 1)], [])
    assert [metric(small) for metric in FAMILY] == pytest.approx([0.0, DIAGONAL, 0.0, 0.0])
    assert [metric(small, protocol="brats2023") for metric in FAMILY] == [1.0, 0.0, 1.0, 1.0]
    false_positive = pair([], [(4, 4, 4, 1)])
    assert [metric(false_positive, protocol="brats2023") for metric in FAMILY] == [0.0, 374.0, 0.0, 0.0]


def test_two_empty_masks_score_the_best() -> None:
    assert [metric(pair([], [])) for metric in FAMILY] == [1.0, 0.0, 1.0, 1.0]


def test_the_four_metrics_share_one_matching() -> None:
    both = pair([(4, 4, 4, 4)], [(5, 4, 4, 4)])
    found = find_lesions(both, rules_of())
    assert find_lesions(both, rules_of(tolerance=3.0)) is found
    assert find_lesions(both, rules_of(dilation_iters=1)) is not found
    assert found[0].pair is not None
    assert lesion_wise_haus95(both) == 1.0
    assert "truth_distances" in vars(found[0].pair)


def test_the_surface_of_a_prediction_that_covers_all_lesions_is_computed_once() -> None:
    both = MaskPair(cubes((4, 4, 4, 3), (20, 20, 20, 3)), np.ones(SIZE, dtype=bool), SPACING)
    first, second = (lesion.pair for lesion in find_lesions(both, rules_of()))
    assert first is not None
    assert second is not None
    assert first.prediction_surface is second.prediction_surface
    plain = MaskPair(cubes((4, 4, 4, 3)), np.ones(SIZE, dtype=bool), SPACING)
    np.testing.assert_array_equal(first.truth, plain.truth)
    assert first.shared_voxels == plain.shared_voxels == 27
    assert haus95(first) == haus95(plain)


def test_lesion_wise_surface_dice_has_a_tolerance() -> None:
    both = pair([(4, 4, 4, 4)], [(6, 4, 4, 4)])
    assert lesion_wise_surf_dice(both, tolerance=2.0) == 1.0
    assert 0.5 < lesion_wise_surf_dice(both, tolerance=1.0) < 1.0


def test_each_lesion_has_its_own_scores() -> None:
    both = pair([(2, 2, 2, 4), (20, 2, 2, 4), (30, 20, 20, 1)], [(2, 2, 2, 4), (2, 20, 20, 4)])
    rows = scored_lesions(both, rules_of())
    assert [(row.lesion.status, row.dice) for row in rows[:2]] == [("TP", 1.0), ("FN", 0.0)]
    assert math.isnan(rows[2].dice)
    assert (rows[3].lesion.status, rows[3].lesion.predicted, rows[3].haus95) == ("FP", True, both.diagonal)
    assert [row.lesion.volume for row in rows] == [128.0, 128.0, 2.0, 128.0]


@pytest.mark.parametrize("protocol", ["mist", "brats2023"])
def test_scores_are_invariant_to_rotations_and_reflections(protocol: str) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = (rng.random((18, 16, 14)) < 0.06 for _ in range(2))
    for metric in FAMILY:
        expected = metric(MaskPair(truth, prediction, SPACING), 2.0, 1, 0, protocol)
        mirrored = MaskPair(np.flip(truth, 1), np.flip(prediction, 1), SPACING)
        turned = MaskPair(truth.transpose(2, 0, 1), prediction.transpose(2, 0, 1), (2.0, 1.0, 1.0))
        assert metric(mirrored, 2.0, 1, 0, protocol) == pytest.approx(expected, rel=1e-12)
        assert metric(turned, 2.0, 1, 0, protocol) == pytest.approx(expected, rel=1e-12)
