"""Weights of the heads and subsampling of the truth."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from mist_ops.losses.deep_supervision import head_weights, subsample


@pytest.mark.parametrize("heads, parts, whole", [(1, [1], 1), (3, [4, 2, 1], 7), (5, [16, 8, 4, 2, 1], 31)])
def test_each_head_has_half_the_previous_weight_and_they_sum_to_one(heads: int, parts: list[int], whole: int) -> None:
    assert head_weights(heads) == pytest.approx([part / whole for part in parts])


def test_subsampling_is_nearest_neighbor_resampling() -> None:
    classes = torch.randint(0, 3, (2, 1, 8, 16, 4))
    expected = interpolate(classes.float(), (4, 4, 4), mode="nearest")
    assert torch.equal(subsample(classes, (4, 4, 4)).float(), expected)


def test_a_head_that_does_not_divide_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        subsample(torch.zeros(1, 1, 8, 8, 8), (3, 8, 8))
