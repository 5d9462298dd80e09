"""Soft morphology compared with SciPy and MONAI."""

from __future__ import annotations

import numpy as np
import torch
from monai.losses.cldice import soft_skel
from scipy import ndimage

from mist_ops.losses.morphology import boundary, dilated, skeleton

MASKS = torch.rand(2, 3, 9, 10, 11, generator=torch.Generator().manual_seed(3))


def test_dilation_equals_scipy() -> None:
    expected = ndimage.grey_dilation(MASKS[1, 2].numpy(), size=(5, 3, 7), mode="constant", cval=-1)
    assert np.array_equal(dilated(MASKS, (5, 3, 7))[1, 2].numpy(), expected)


def test_a_boundary_is_the_mask_minus_its_erosion_by_scipy() -> None:
    mask = MASKS[0, 1].numpy()
    expected = mask - ndimage.grey_erosion(mask, size=3, mode="constant", cval=2)
    np.testing.assert_array_equal(boundary(MASKS)[0, 1].numpy(), expected)


def test_a_skeleton_equals_monai() -> None:
    expected = soft_skel(MASKS.flatten(0, 1)[:, None], 10).reshape(MASKS.shape)
    assert torch.equal(skeleton(MASKS, 10), expected)


def test_the_skeleton_of_a_tube_is_its_axis() -> None:
    tube = torch.zeros(1, 1, 9, 9, 15)
    tube[..., 2:7, 2:7, 2:13] = 1
    expected = torch.zeros_like(tube)
    expected[..., 4, 4, 4:11] = 1
    assert torch.equal(skeleton(tube, 10) * expected, expected)
    assert skeleton(tube, 10).sum() < 0.35 * tube.sum()


def test_the_gradient_of_a_skeleton_equals_finite_differences() -> None:
    # Distinct values, so that every maximum is unique.
    ranks = torch.randperm(6**3, generator=torch.Generator().manual_seed(0)).reshape(1, 1, 6, 6, 6)
    masks = (ranks.double() / 6**3).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: skeleton(values, 0), [masks], eps=1e-6)
