from __future__ import annotations

import json
import logging
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_ops.ensembling.labels import majority_vote, staple
from mist_ops.imaging.nifti import read_labels
from mist_ops.registry import LABEL_ENSEMBLERS
from mist_ops.types import LabelMap


def rater(*labels: int) -> LabelMap:
    return np.array(labels, dtype=np.uint16).reshape(-1, 1, 1)


def flat(mask: LabelMap) -> list[int]:
    return [int(label) for label in mask.ravel()]


def test_the_majority_wins_and_a_tie_is_background() -> None:
    raters = [rater(1, 1, 0, 2, 3), rater(1, 2, 0, 2, 2), rater(2, 3, 1, 0, 1)]
    assert flat(majority_vote(raters)) == [1, 0, 0, 2, 0]


def test_labels_above_255_are_kept() -> None:
    assert flat(majority_vote([rater(300, 0), rater(300, 0), rater(1, 0)])) == [300, 0]


@pytest.mark.parametrize("backend", ["majority_vote", "staple"])
def test_empty_masks_give_an_empty_mask(backend: str) -> None:
    assert not LABEL_ENSEMBLERS[backend]([rater(0, 0, 0)] * 3).any()


@pytest.mark.parametrize("backend", ["majority_vote", "staple"])
def test_unanimous_labels_are_kept(backend: str) -> None:
    assert flat(LABEL_ENSEMBLERS[backend]([rater(0, 1, 2, 7)] * 3)) == [0, 1, 2, 7]


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=2, max_size=4))
def test_the_majority_does_not_depend_on_the_order_of_raters(drawn: list[list[int]]) -> None:
    raters = [rater(*labels) for labels in drawn]
    for order in list(permutations(raters))[:6]:
        np.testing.assert_array_equal(majority_vote(order), majority_vote(raters))


@given(st.integers(3, 5), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_staple_equals_simpleitk_where_it_is_decided(raters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.zeros((12, 12, 12), dtype=np.uint8)
    truth[2:7, 3:9, 3:9], truth[7:10, 3:9, 3:9] = 1, 2
    masks = [np.where(rng.random(truth.shape) < 0.15, rng.integers(0, 3, truth.shape), truth) for _ in range(raters)]
    masks = [mask.astype(np.uint8) for mask in masks]
    theirs = sitk.GetArrayFromImage(sitk.MultiLabelSTAPLE([sitk.GetImageFromArray(mask) for mask in masks]))
    ours = staple(masks)
    decided = theirs <= 2
    # A tie up to rounding is background here.
    different = decided & (theirs != ours)
    assert not ours[different].any()
    assert different.sum() <= 2


def test_staple_follows_the_more_reliable_rater() -> None:
    good, bad = rater(*[1] * 40, *[0] * 60), rater(*[1] * 40, *[0] * 60)
    bad[30:60] = 1 - bad[30:60]
    worse = rater(*[0, 1] * 50)
    found = staple([good, bad, worse, good])
    np.testing.assert_array_equal(found, good)


def test_where_two_raters_differ_is_background_and_a_warning_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert flat(staple([rater(1, 1, 2), rater(1, 2, 2)])) == [1, 0, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="of the same size"):
        majority_vote([rater(1), rater(1, 2)])


def test_golden_masks_equal_the_reference_except_that_ties_are_background(shared: Path) -> None:
    for row in pd.read_csv(shared / "golden" / "ensemble.csv").to_dict("records"):
        masks = [read_labels(shared / file)[0] for file in row["files"].split()]
        expected = {int(label): voxels for label, voxels in json.loads(row["label_counts"]).items()}
        # The reference assigns ties the label above the highest.
        expected[0] += expected.pop(5, 0)
        combined = LABEL_ENSEMBLERS[row["backend"]](masks)
        found = dict(zip(*(values.tolist() for values in np.unique(combined, return_counts=True)), strict=True))
        assert found == expected, row["files"]
