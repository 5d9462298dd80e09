"""Resampling under both sets of rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_labels
from mist_ops.imaging.resample import Rules, resample_classes, resample_image, resample_mask
from mist_ops.inference.restore import resample_onto
from mist_ops.types import LabelMap, Size, Spacing

BOTH = pytest.mark.parametrize("rules", ["reference", "accurate"])
ISOTROPIC = (1.0, 1.0, 1.0)


def line(
    values: Sequence[float], spacing: float, target: float, rules: Rules, others: float | None = None
) -> np.ndarray:
    """A row of voxels along z; ``others`` is the spacing along x and y, by default that along z."""
    image = np.array(values, dtype=np.float32)[None, None]
    across = others or spacing
    return resample_image(image, (across, across, spacing), (across, across, target), rules)[0, 0]


def classes_line(values: Sequence[int], spacing: float, target: float, rules: Rules) -> list[int]:
    classes = np.array(values, dtype=np.uint8)[None, None]
    n_classes = max(values) + 1
    return resample_classes(classes, n_classes, (spacing,) * 3, (spacing, spacing, target), rules)[0, 0].tolist()


def ball(size: Size, spacing: Spacing, radius: float = 15.0) -> LabelMap:
    places = np.moveaxis(np.indices(size), 0, -1) * spacing - np.multiply(np.subtract(size, 1), spacing) / 2
    return (np.square(places).sum(axis=-1) <= radius**2).astype(np.uint8)


# ── Reference rules ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_coarse_axis_uses_the_nearest_slice_and_ends_in_zeros() -> None:
    fine = line(range(6), 4.0, 1.0, "reference", others=1.0)
    assert fine.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0, 0]
    half = line(range(6), 4.0, 2.0, "reference", others=1.0)
    assert half.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0]


def test_a_ramp_follows_the_mirrored_spline() -> None:
    ramp = line(range(10), 3.0, 1.0, "reference")
    np.testing.assert_allclose(ramp[:9], [0, 0.165, 0.553, 1, 1.378, 1.697, 2, 2.321, 2.659], atol=6e-4)
    np.testing.assert_allclose(ramp[-6:], [8, 8.447, 8.835, 9, 8.835, 0], atol=6e-4)


def test_a_step_overshoots() -> None:
    step = line([0] * 6 + [1000] * 6, 2.0, 1.0, "reference")
    np.testing.assert_allclose(step[7:17], [26.9, 0, -100.5, 0, 500, 1000, 1100.5, 1000, 973.1, 1000], atol=0.05)
    assert step[-1] == 0


def test_the_spline_equals_scipy_inside_the_volume() -> None:
    image = np.random.default_rng(0).normal(size=(7, 9, 8)).astype(np.float32)
    found = resample_image(image, ISOTROPIC, (0.8, 0.7, 1.3), "reference")
    positions = np.moveaxis(np.moveaxis(np.indices(found.shape), 0, -1) * (0.8, 0.7, 1.3), -1, 0)
    expected = ndimage.map_coordinates(image, positions, order=3, mode="mirror")
    inside = (positions < np.array(image.shape)[:, None, None, None] - 0.5).all(axis=0)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-6)
    assert (found[~inside] == 0).all()


def test_a_tie_goes_to_the_background_and_the_end_is_background() -> None:
    assert classes_line([0, 0, 1, 1], 2.0, 1.0, "reference") == [0, 0, 0, 0, 1, 1, 1, 0]


# ── Accurate rules ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_border_is_extended() -> None:
    assert line(range(6), 4.0, 1.0, "accurate", others=1.0)[-4:].tolist() == [5, 5, 5, 5]
    np.testing.assert_allclose(line(range(10), 3.0, 1.0, "accurate")[-3:], 9, atol=1e-5)
    assert classes_line([0, 0, 1, 1], 2.0, 1.0, "accurate") == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("at", range(20, 28))
def test_the_sum_of_a_thin_bright_slice_hardly_depends_on_its_position(at: int) -> None:
    slices = np.zeros(49)
    slices[at] = 100.0
    assert line(slices, 0.5, 2.0, "accurate").sum() * 2.0 == pytest.approx(100.0 * 0.5, rel=0.1)


def test_coarsening_approximates_a_coarser_scanner() -> None:
    fine = np.random.default_rng(0).normal(size=300).cumsum()
    scanned = np.convolve(fine, np.ones(3) / 3, mode="same")[0::3][2:-2]
    errors = {rules: np.std(line(fine, 1.0, 3.0, rules)[2:-2] - scanned) for rules in ("reference", "accurate")}
    assert errors["accurate"] < 0.3 * errors["reference"]


def test_classes_are_averaged_when_coarsening() -> None:
    stripes = [0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert classes_line(stripes, 1.0, 3.0, "accurate")[:2] == [0, 0]
    assert classes_line(stripes, 1.0, 3.0, "reference")[:2] == [0, 1]


# ── Both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_an_image_at_its_own_spacing_is_returned_unchanged(rules: Rules) -> None:
    image = np.zeros((2, 3, 4), np.float32)
    assert resample_image(image, ISOTROPIC, (1.0, 1.0 + 1e-7, 1.0), rules) is image


@BOTH
def test_a_constant_image_stays_constant_inside_the_volume(rules: Rules) -> None:
    found = resample_image(np.full((5, 6, 1), 7, np.float32), (1.0, 2.0, 3.0), (0.5, 3.0, 3.0), rules)
    assert found.shape == (10, 4, 1)
    np.testing.assert_allclose(found[:9], 7, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0), (0.5, 1.7, 1.0)])
def test_classes_computed_around_each_label_equal_those_of_the_whole_volume(rules: Rules, spacing: Spacing) -> None:
    classes = np.zeros((12, 13, 14), dtype=np.uint8)
    classes[2:5, 3:9, 0:6], classes[4:9, 8:13, 5:9], classes[11, 0, 13] = 1, 2, 4
    target = (0.9, 1.2, 1.5)
    linear = [resample_shares(classes == index, spacing, target, rules) for index in range(5)]
    found = resample_classes(classes, 5, spacing, target, rules)
    sorted_shares = np.sort(linear, axis=0)
    clear = sorted_shares[-1] - sorted_shares[-2] > 1e-5
    np.testing.assert_array_equal(found[clear], np.argmax(linear, axis=0)[clear])
    assert set(np.unique(found)) <= {0, 1, 2, 4}


def resample_shares(mask: np.ndarray, spacing: Spacing, target: Spacing, rules: Rules) -> np.ndarray:
    from mist_ops.imaging import resample

    return resample._apply(resample._operators(resample._linear, mask, spacing, target, rules), mask)


@BOTH
def test_an_empty_mask_stays_empty(rules: Rules) -> None:
    found = resample_classes(np.zeros((4, 5, 6), np.uint8), 3, ISOTROPIC, (2.0, 1.0, 0.5), rules)
    assert found.shape == (2, 5, 12)
    assert found.dtype == np.uint8
    assert not found.any()


def test_a_mask_is_resampled_by_nearest_neighbor() -> None:
    mask = np.array([[[False, True, True, False]]])
    assert resample_mask(mask, ISOTROPIC, (1.0, 1.0, 0.5))[0, 0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]


# ── Back onto the original grid ──────────────────────────────────────────────────────────────────────────────────────


ROUND_TRIPS = [
    ((64, 64, 24), (1.0, 1.0, 3.0), (1.0, 1.0, 1.0), (1, 1, 1), 1.0),
    ((64, 64, 24), (1.0, 1.0, 3.0), (1.0, 1.0, 1.0), (1, 1, -1), 1.0),
    ((64, 64, 30), (1.0, 1.0, 2.5), (1.0, 1.0, 1.0), (1, 1, -1), 1.0),
    ((64, 64, 14), (1.0, 1.0, 5.0), (1.0, 1.0, 2.5), (1, 1, -1), 1.0),
    ((40, 40, 40), (1.6, 1.6, 1.6), (1.0, 1.0, 1.0), (-1, -1, 1), 1.0),
    ((60, 60, 60), (0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (1, 1, 1), 0.984),
    ((60, 60, 60), (0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (-1, -1, 1), 0.984),
    ((50, 50, 40), (0.9, 0.9, 1.2), (1.0, 1.0, 1.0), (-1, -1, -1), 0.995),
]


@BOTH
@pytest.mark.parametrize("size, spacing, target, signs, dice", ROUND_TRIPS)
def test_labels_survive_a_round_trip_in_any_orientation(
    size: Size, spacing: Spacing, target: Spacing, signs: tuple[int, int, int], dice: float, rules: Rules
) -> None:
    direction = tuple(float(value) for value in np.diag(signs).ravel())
    original, labels = Geometry(size, spacing, (3.0, -7.0, 11.0), direction), ball(size, spacing)
    grid, reorientation = original.canonical()
    classes = resample_classes(reorientation.apply(labels), 2, grid.spacing, target, rules)
    shares = [
        resample_onto(torch.from_numpy(classes == index).float(), grid.resampled(target), grid).numpy()
        for index in range(2)
    ]
    restored = reorientation.undo(np.argmax(shares, axis=0))
    assert 2 * (restored * labels).sum() / (restored.sum() + labels.sum()) >= dice


def lost(classes: LabelMap, found: LabelMap, spacing: Spacing, target: Spacing) -> list[int]:
    """Voxels of each component that has less than half of its volume around its place, by SciPy."""
    sizes, ratio = [], np.divide(spacing, target)
    for index in range(1, int(classes.max()) + 1):
        numbers, _ = ndimage.label(classes == index, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(numbers), start=1):
            voxels = int((numbers[box] == number).sum())
            around = tuple(
                slice(max(0, int((along.start - 1) * step)), int(np.ceil(along.stop * step)) + 1)
                for along, step in zip(box, ratio, strict=True)
            )
            if (found[around] == index).sum() < voxels * ratio.prod() / 2:
                sizes.append(voxels)
    return sizes


@BOTH
@pytest.mark.parametrize("target", [(2.0, 2.0, 2.0), pytest.param((3.0, 3.0, 3.0), marks=pytest.mark.slow)])
def test_small_components_of_real_masks_keep_their_volume_on_request(
    shared: Path, rules: Rules, target: Spacing
) -> None:
    without: list[int] = []
    kept: list[int] = []
    for path in sorted((shared / "data" / "brats_masks").rglob("*.nii.gz")):
        classes, grid = read_labels(path)
        for chosen, sizes in ((False, without), (True, kept)):
            found = resample_classes(classes, 5, grid.spacing, target, rules, chosen)
            sizes.extend(lost(classes, found, grid.spacing, target))
    assert len(without) >= 4
    assert kept == []


@BOTH
def test_a_lesion_thinner_than_the_samples_keeps_its_place(rules: Rules) -> None:
    """3.8 mm³ in one slice of 6 mm."""
    spacing, target = (0.4, 0.4, 6.0), (1.0, 1.0, 3.0)
    classes = np.zeros((50, 50, 8), dtype=np.uint8)
    classes[10:40, 10:40, 1:7] = 1
    classes[21:23, 31:33, 4] = 2
    assert not (resample_classes(classes, 3, spacing, target, rules) == 2).any()
    found = resample_classes(classes, 3, spacing, target, rules, keep_small=True)
    assert np.count_nonzero(found == 2) == round(4 * np.prod(spacing) / np.prod(target))
    place, truth = (ndimage.center_of_mass(labels == 2) for labels in (found, classes))
    assert (np.abs(np.multiply(place, target) - np.multiply(truth, spacing)) <= target).all()
    assert np.count_nonzero(found == 1) == np.count_nonzero(resample_classes(classes, 3, spacing, target, rules)) - 1


@pytest.mark.parametrize("seed", range(8))
def test_keeping_small_components_changes_nothing_where_none_is_lost(seed: int) -> None:
    generator = np.random.default_rng(seed)
    classes = np.zeros((20, 22, 18), dtype=np.uint8)
    start = generator.integers(0, 6, 3)
    classes[tuple(slice(at, at + 10) for at in start)] = 1
    target = tuple(generator.uniform(0.5, 1.5, 3).tolist())
    plain = resample_classes(classes, 2, ISOTROPIC, target, "reference")
    np.testing.assert_array_equal(resample_classes(classes, 2, ISOTROPIC, target, "reference", True), plain)
    # Single voxels that are apart all stay, whatever the samples miss.
    classes[:] = 0
    classes[::6, ::6, ::6] = generator.integers(1, 3, classes[::6, ::6, ::6].shape)
    found = resample_classes(classes, 3, ISOTROPIC, (2.7, 2.7, 2.7), "reference", True)
    assert [np.count_nonzero(found == index) for index in (1, 2)] == [np.count_nonzero(classes == i) for i in (1, 2)]
