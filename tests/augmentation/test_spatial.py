from __future__ import annotations

import math

import pytest
import torch

from mist_ops.augmentation import Patch
from mist_ops.augmentation.spatial import flips, rotate, rotation, zoom


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(6))
def test_image_label_and_distances_are_flipped_together(seed: int) -> None:
    label = torch.arange(4 * 5 * 6, dtype=torch.uint8).reshape(1, 4, 5, 6)
    flipped = flips(Patch(label.float(), label, label.float()), generator(seed))
    assert flipped.dtm is not None
    assert flipped.image.equal(flipped.label.float())
    assert flipped.dtm.equal(flipped.image)


def test_all_eight_flips_occur() -> None:
    label = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 2, 2)
    draws = generator(0)
    found = {tuple(flips(Patch(label.float(), label), draws).label.flatten().tolist()) for _ in range(200)}
    assert len(found) == 8


@pytest.mark.parametrize("seed", range(4))
def test_zooming_magnifies_a_ball_in_the_center(seed: int) -> None:
    grid = torch.meshgrid(*[torch.arange(24) - 11.5] * 3, indexing="ij")
    ball = (torch.stack(grid).norm(dim=0) < 6)[None]
    zoomed = zoom(Patch(ball.float(), ball.byte()), generator(seed))
    ratio = float(zoomed.label.sum() / ball.sum()) ** (1 / 3)
    assert 1.0 <= ratio < 1.05 / 0.7
    assert float(((zoomed.image > 0.5) == (zoomed.label == 1)).float().mean()) > 0.98


def test_zooming_neither_overshoots_nor_adds_classes() -> None:
    label = torch.randint(2, (1, 12, 12, 12), dtype=torch.uint8, generator=generator(0)) * 3
    zoomed = zoom(Patch(label.float(), label), generator(0))
    assert set(zoomed.label.unique().tolist()) == {0, 3}
    assert zoomed.image.min() >= 0
    assert zoomed.image.max() <= 3


def test_a_coarse_axis_is_not_zoomed() -> None:
    label = torch.arange(12, dtype=torch.uint8).expand(1, 12, 12, 12)
    zoomed = zoom(Patch(label.float(), label, spacing=(1.0, 1.0, 4.0)), generator(0))
    assert zoomed.image.allclose(label.float())
    assert zoomed.label.equal(label)


@pytest.mark.parametrize("axes, firsts", [("", {0}), ("x", {0, 4}), ("yz", {0, 1, 2, 3})])
def test_only_flip_axes_are_flipped(axes: str, firsts: set[int]) -> None:
    label = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 2, 2)
    patch, draws = Patch(label.float(), label, flip_axes=tuple(axes)), generator(0)
    assert {int(flips(patch, draws).label[0, 0, 0, 0]) for _ in range(100)} == firsts


@pytest.mark.parametrize("axis, turned", [(0, (2, 3)), (1, (3, 1)), (2, (1, 2))])
def test_a_rotation_by_90_degrees_equals_rot90_for_image_label_and_dtm(axis: int, turned: tuple[int, int]) -> None:
    label = torch.arange(5**3, dtype=torch.uint8).reshape(1, 5, 5, 5)
    x, y, z = (math.pi / 2 if dim == axis else 0.0 for dim in range(3))
    rotated = rotate(Patch(label.float(), label, label.float()), (x, y, z))
    assert rotated.label.equal(torch.rot90(label, 1, turned))
    assert rotated.image.allclose(torch.rot90(label.float(), 1, turned), atol=1e-3)
    assert rotated.dtm is not None
    assert rotated.dtm.equal(rotated.image)


def test_a_rotation_by_90_degrees_is_in_mm_and_not_in_voxels() -> None:
    label = torch.zeros((1, 9, 9, 1), dtype=torch.uint8)
    label[0, 8, 4] = 1  # 4 mm from the center along x are 2 voxels along y
    rotated = rotate(Patch(label.float(), label, spacing=(1.0, 2.0, 1.0)), (0.0, 0.0, math.pi / 2))
    assert rotated.label[0, 4, 6] == 1


def test_rotations_about_x_y_and_z_are_applied_in_this_order() -> None:
    label = torch.arange(5**3, dtype=torch.uint8).reshape(1, 5, 5, 5)
    rotated = rotate(Patch(label.float(), label), (math.pi / 2, math.pi, math.pi / 2)).label
    assert rotated.equal(torch.rot90(torch.rot90(torch.rot90(label, 1, (2, 3)), 2, (3, 1)), 1, (1, 2)))


@pytest.mark.parametrize("seed", range(4))
def test_rotating_a_centered_ball_does_not_move_it_or_its_label(seed: int) -> None:
    grid = torch.meshgrid(*[(torch.arange(24) - 11.5)] * 3, indexing="ij")
    ball = (torch.stack(grid).norm(dim=0) < 8)[None]
    rotated = rotation(Patch(ball.float(), ball.byte()), generator(seed))
    assert float((rotated.label == ball).float().mean()) > 0.98
    assert float(((rotated.image > 0.5) == (rotated.label == 1)).float().mean()) > 0.98


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("coarse", [1, 2, 3])
def test_thick_slices_are_rotated_only_in_plane(seed: int, coarse: int) -> None:
    slices = torch.arange(8, dtype=torch.uint8).expand(1, 8, 8, 8).movedim(3, coarse)
    across = torch.arange(8, dtype=torch.uint8).expand(1, 8, 8, 8).movedim(3, coarse % 3 + 1)
    x, y, z = (5.0 if dim == coarse else 1.0 for dim in (1, 2, 3))
    rotated = rotation(Patch(torch.cat([slices, across]).float(), slices, spacing=(x, y, z)), generator(seed))
    assert rotated.label.equal(slices)
    assert rotated.image[:1].allclose(slices.float(), atol=1e-4)
    assert not rotated.image[1:].allclose(across.float(), atol=1e-3)


def test_the_corners_of_a_rotated_patch_are_padded_with_the_edge_value() -> None:
    full = torch.full((1, 9, 9, 9), 3, dtype=torch.uint8)
    rotated = rotate(Patch(full.float(), full), (0.3, 0.4, 0.5))
    assert rotated.label.equal(full)
    assert rotated.image.allclose(full.float())
