from __future__ import annotations

import pytest
import torch

from mist_ops.augmentation import Patch
from mist_ops.augmentation.spatial import flips, zoom


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(6))
def test_image_label_and_distances_are_flipped_together(seed: int) -> None:
    label = torch.arange(4 * 5 * 6, dtype=torch.uint8).reshape(1, 4, 5, 6)
    flipped = flips(Patch(label.float(), label, label.float()), generator(seed))
    assert flipped.dtm is not None
    assert flipped.image.equal(flipped.label.float())
    assert flipped.dtm.equal(flipped.image)


def test_every_one_of_the_eight_flips_occurs() -> None:
    label = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 2, 2)
    draws = generator(0)
    found = {tuple(flips(Patch(label.float(), label), draws).label.flatten().tolist()) for _ in range(200)}
    assert len(found) == 8


@pytest.mark.parametrize("seed", range(4))
def test_zooming_magnifies_a_ball_in_the_middle(seed: int) -> None:
    grid = torch.meshgrid(*[torch.arange(24) - 11.5] * 3, indexing="ij")
    ball = (torch.stack(grid).norm(dim=0) < 6)[None]
    zoomed = zoom(Patch(ball.float(), ball.byte()), generator(seed))
    ratio = float(zoomed.label.sum() / ball.sum()) ** (1 / 3)
    assert 1.0 <= ratio < 1.05 / 0.7
    assert float(((zoomed.image > 0.5) == (zoomed.label == 1)).float().mean()) > 0.98


def test_zooming_neither_overshoots_nor_invents_classes() -> None:
    label = torch.randint(2, (1, 12, 12, 12), dtype=torch.uint8, generator=generator(0)) * 3
    zoomed = zoom(Patch(label.float(), label), generator(0))
    assert set(zoomed.label.unique().tolist()) == {0, 3}
    assert zoomed.image.min() >= 0
    assert zoomed.image.max() <= 3
