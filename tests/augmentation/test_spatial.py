from __future__ import annotations

import math

import pytest
import torch
from augmentation.single import changed, patch_of, with_parameters
from torch import Tensor

SEEDS = pytest.mark.parametrize("seed", range(4))


def numbered(*size: int) -> Tensor:
    return torch.arange(math.prod(size), dtype=torch.uint8).reshape(1, *size)


def ball(size: int, radius: float) -> Tensor:
    grid = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij")
    return (torch.stack(grid).norm(dim=0) < radius)[None]


@pytest.mark.parametrize("seed", range(6))
def test_image_label_and_distances_are_flipped_together(seed: int) -> None:
    label = numbered(4, 5, 6)
    flipped = changed(patch_of(label.float(), label, label.float()), "flips", seed)
    assert flipped.dtm is not None
    assert flipped.image.equal(flipped.label.float())
    assert flipped.dtm.equal(flipped.image)


@pytest.mark.parametrize("axes, firsts", [("", {0}), ("x", {0, 4}), ("yz", {0, 1, 2, 3}), ("xyz", set(range(8)))])
def test_all_flips_of_flip_axes_occur(axes: str, firsts: set[int]) -> None:
    patch = patch_of(numbered(2, 2, 2).float(), numbered(2, 2, 2), flip_axes=tuple(axes))
    assert {int(changed(patch, "flips", seed).label[0, 0, 0, 0, 0]) for seed in range(100)} == firsts


@SEEDS
def test_zooming_magnifies_a_ball_in_the_center(seed: int) -> None:
    small = ball(24, 6)
    zoomed = changed(patch_of(small.float(), small.byte()), "zoom", seed)
    ratio = float(zoomed.label.sum() / small.sum()) ** (1 / 3)
    assert 1.0 <= ratio < 1.05 / 0.7
    assert float(((zoomed.image > 0.5) == (zoomed.label == 1)).float().mean()) > 0.98


def test_zooming_neither_overshoots_nor_adds_classes() -> None:
    label = torch.randint(2, (1, 12, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)) * 3
    zoomed = changed(patch_of(label.float(), label), "zoom")
    assert set(zoomed.label.unique().tolist()) == {0, 3}
    assert zoomed.image.min() >= 0
    assert zoomed.image.max() <= 3


def test_a_coarse_axis_is_not_zoomed() -> None:
    label = torch.arange(12, dtype=torch.uint8).repeat(1, 12, 12, 1)
    zoomed = changed(patch_of(label.float(), label, spacing=(1.0, 1.0, 4.0)), "zoom")
    assert zoomed.image[0].allclose(label.float())
    assert zoomed.label[0].equal(label)


@pytest.mark.parametrize("axis, turned", [(0, (2, 3)), (1, (3, 1)), (2, (1, 2))])
def test_a_rotation_by_90_degrees_equals_rot90_for_image_label_and_dtm(axis: int, turned: tuple[int, int]) -> None:
    label = numbered(5, 5, 5)
    angles = tuple(math.pi / 2 if dim == axis else 0.0 for dim in range(3))
    rotated = with_parameters(patch_of(label.float(), label, label.float()), "rotation", angles)
    assert rotated.label[0].equal(torch.rot90(label, 1, turned))
    assert rotated.image[0].allclose(torch.rot90(label.float(), 1, turned), atol=1e-3)
    assert rotated.dtm is not None
    assert rotated.dtm.equal(rotated.image)


def test_a_rotation_by_90_degrees_is_in_mm_and_not_in_voxels() -> None:
    label = torch.zeros((1, 9, 9, 1), dtype=torch.uint8)
    label[0, 8, 4] = 1  # 4 mm from the center along x are 2 voxels along y
    rotated = with_parameters(
        patch_of(label.float(), label, spacing=(1.0, 2.0, 1.0)), "rotation", (0.0, 0.0, math.pi / 2)
    )
    assert rotated.label[0, 0, 4, 6] == 1


def test_rotations_about_x_y_and_z_are_applied_in_this_order() -> None:
    label = numbered(5, 5, 5)
    rotated = with_parameters(patch_of(label.float(), label), "rotation", (math.pi / 2, math.pi, math.pi / 2)).label
    assert rotated[0].equal(torch.rot90(torch.rot90(torch.rot90(label, 1, (2, 3)), 2, (3, 1)), 1, (1, 2)))


@SEEDS
def test_rotating_a_centered_ball_does_not_move_it_or_its_label(seed: int) -> None:
    centered = ball(24, 8)
    rotated = changed(patch_of(centered.float(), centered.byte()), "rotation", seed)
    assert float((rotated.label[0] == centered).float().mean()) > 0.98
    assert float(((rotated.image > 0.5) == (rotated.label == 1)).float().mean()) > 0.98


@SEEDS
@pytest.mark.parametrize("coarse", [1, 2, 3])
def test_thick_slices_are_rotated_only_in_plane(seed: int, coarse: int) -> None:
    slices = torch.arange(8, dtype=torch.uint8).expand(1, 8, 8, 8).movedim(3, coarse)
    across = torch.arange(8, dtype=torch.uint8).expand(1, 8, 8, 8).movedim(3, coarse % 3 + 1)
    x, y, z = (5.0 if dim == coarse else 1.0 for dim in (1, 2, 3))
    patch = patch_of(torch.cat([slices, across]).float(), slices.contiguous(), spacing=(x, y, z))
    rotated = changed(patch, "rotation", seed)
    assert rotated.label[0].equal(slices)
    assert rotated.image[0, :1].allclose(slices.float(), atol=1e-4)
    assert not rotated.image[0, 1:].allclose(across.float(), atol=1e-3)


def test_the_corners_of_a_rotated_patch_are_padded_with_the_edge_value() -> None:
    full = torch.full((1, 9, 9, 9), 3, dtype=torch.uint8)
    rotated = with_parameters(patch_of(full.float(), full), "rotation", (0.3, 0.4, 0.5))
    assert rotated.label[0].equal(full)
    assert rotated.image[0].allclose(full.float())
