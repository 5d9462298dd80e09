from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import gaussian_filter
from skimage.metrics import hausdorff_distance

from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import avg_surf, haus95, haus100, surf_dice

SPACING = (1.0, 1.5, 3.0)


def cube() -> np.ndarray:
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[6:14, 6:14, 6:14] = True
    return mask


@pytest.mark.parametrize("axis, expected", [(0, 1.0), (1, 1.5), (2, 3.0)])
def test_the_distance_of_a_cube_shifted_by_one_voxel_is_the_spacing(axis: int, expected: float) -> None:
    assert haus95(MaskPair(cube(), np.roll(cube(), 1, axis=axis), SPACING)) == expected


def test_a_perfect_prediction_has_distance_zero() -> None:
    assert haus95(MaskPair(cube(), cube(), SPACING)) == 0.0


def test_both_directions_count() -> None:
    larger = cube()
    larger[20, 20, 20] = True
    larger[6:14, 6:14, 14:20] = True
    there, back = (haus95(MaskPair(*masks, SPACING)) for masks in ((cube(), larger), (larger, cube())))
    assert there == back > 3.0


def test_the_distance_is_invariant_to_reflections() -> None:
    prediction = np.roll(cube(), (1, 2, 1), axis=(0, 1, 2))
    expected = haus95(MaskPair(cube(), prediction, SPACING))
    assert haus95(MaskPair(np.flip(cube(), 0), np.flip(prediction, 0), SPACING)) == expected


def test_a_speck_below_five_percent_of_the_area_does_not_count() -> None:
    speck = cube()
    speck[22, 22, 22] = True
    assert haus95(MaskPair(cube(), speck, (1.0, 1.0, 1.0))) == 0.0


def test_the_distance_to_an_empty_mask_is_infinite() -> None:
    assert haus95(MaskPair(cube(), np.zeros_like(cube()), SPACING)) == math.inf


def test_metrics_do_not_import_torch() -> None:
    program = "import sys; from mist_ops.registry import METRICS; list(METRICS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_hausdorff_distance_equals_scikit_image() -> None:
    speck = cube()
    speck[22, 22, 22] = True
    pair = MaskPair(cube(), speck, (1.0, 1.0, 1.0))
    points = [np.zeros((26, 26, 26), dtype=bool) for _ in range(2)]
    for image, found in zip(points, (pair.truth_surface, pair.prediction_surface), strict=True):
        image[tuple(found.corners.T)] = True
    assert haus100(pair) == pytest.approx(hausdorff_distance(*points)) == pytest.approx(math.sqrt(3) * 9)


def test_the_mean_distance_of_parallel_plates_is_their_gap() -> None:
    plates = np.zeros((30, 30, 20), dtype=bool), np.zeros((30, 30, 20), dtype=bool)
    plates[0][:, :, 4], plates[1][:, :, 8] = True, True
    assert avg_surf(MaskPair(*plates, (1.0, 1.0, 2.0))) == pytest.approx(7.0, rel=0.05)  # 8 mm, 6 between near faces


@pytest.mark.parametrize("spacing", [0.6, 0.8, 1.2])
def test_a_tolerance_of_one_voxel_includes_one_voxel_despite_rounding_in_the_header(spacing: float) -> None:
    rounded = float(np.float32(spacing))
    pair = MaskPair(cube(), np.roll(cube(), 1, axis=0), (rounded,) * 3)
    assert surf_dice(pair, tolerance=spacing) == 1.0
    assert surf_dice(pair, tolerance=spacing * 0.99) < 0.7


def test_zero_tolerance_counts_only_coinciding_elements() -> None:
    pair = MaskPair(cube(), np.roll(cube(), 1, axis=0), (1.0, 1.0, 1.0))
    shares = [np.sum(found.areas) for found in (pair.truth_surface, pair.prediction_surface)]
    touching = [np.sum(areas[d == 0]) for areas, d in zip(_areas(pair), _distances(pair), strict=True)]
    assert surf_dice(pair, tolerance=0.0) == pytest.approx(sum(touching) / sum(shares))


def _areas(pair: MaskPair) -> tuple[np.ndarray, np.ndarray]:
    return pair.truth_surface.areas, pair.prediction_surface.areas


def _distances(pair: MaskPair) -> tuple[np.ndarray, np.ndarray]:
    return pair.truth_distances, pair.prediction_distances


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_dice_equals_monai() -> None:
    rng = np.random.default_rng(0)
    blobs = [gaussian_filter(rng.standard_normal((24, 24, 24)), 3) > 0.02 for _ in range(2)]
    batch = (torch.from_numpy(np.stack([~blob, blob]))[None].float() for blob in blobs)
    expected = compute_surface_dice(*batch, [1.0], spacing=SPACING, use_subvoxels=True).item()
    assert surf_dice(MaskPair(*blobs, SPACING)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [haus95, haus100, avg_surf, surf_dice])
def test_metrics_are_symmetric_and_invariant_to_rotations_and_reflections(metric: Callable[[MaskPair], float]) -> None:
    rng = np.random.default_rng(1)
    truth, prediction = (gaussian_filter(rng.standard_normal((20, 18, 16)), 2) > 0.03 for _ in range(2))
    expected = pytest.approx(metric(MaskPair(truth, prediction, SPACING)), rel=1e-12)
    assert metric(MaskPair(prediction, truth, SPACING)) == expected
    assert metric(MaskPair(np.flip(truth, 2), np.flip(prediction, 2), SPACING)) == expected
    turned = MaskPair(truth.transpose(1, 2, 0), prediction.transpose(1, 2, 0), (1.5, 3.0, 1.0))
    assert metric(turned) == expected


def test_surface_metrics_of_two_empty_masks_are_nan() -> None:
    empty = MaskPair(np.zeros_like(cube()), np.zeros_like(cube()), SPACING)
    assert math.isnan(avg_surf(empty))
    assert math.isnan(surf_dice(empty))
