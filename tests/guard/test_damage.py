from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from guard.scans import GRID, scan

from mist_ops.guard.damage import (
    DAMAGES,
    Scan,
    biased,
    cropped,
    damages,
    inverted,
    mirrored,
    noisy,
    other_contrast,
    swapped,
    wrong_spacing,
)
from mist_ops.imaging.geometry import Geometry

TURNED = Geometry(GRID.size, (1.0, 2.0, 3.0), direction=(0.0, -1.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0))


def whole(grid: Geometry = GRID) -> Scan:
    image, labels = scan(0)
    return Scan({"t1": image, "t2": (2 * image).astype(np.float32)}, labels, grid)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", [*DAMAGES, "swapped channels"])
def test_a_damage_changes_the_scan_keeps_the_mask_on_its_grid_and_is_repeatable(kind: str) -> None:
    before = whole()
    made = [damages(2)[kind](before, generator()) for _ in range(2)]
    first, second = made
    assert first.labels.shape == first.grid.size
    for name, image in first.channels.items():
        assert image.shape == first.grid.size
        assert image.dtype == np.float32
        assert np.array_equal(image, second.channels[name])
    same = first.grid == before.grid and all(
        np.array_equal(first.channels[name], before.channels[name]) for name in before.channels
    )
    assert not same
    assert np.array_equal(before.channels["t1"], scan(0)[0])


@pytest.mark.parametrize("axis", range(3))
def test_a_flip_is_along_an_axis_of_the_patient_and_undoes_itself(axis: int) -> None:
    before = whole(TURNED)
    once = mirrored(before, generator(), axis=axis)
    _, to_patient = TURNED.canonical()
    assert np.array_equal(to_patient.apply(once.labels), np.flip(to_patient.apply(before.labels), axis))
    twice = mirrored(once, generator(), axis=axis)
    assert np.array_equal(twice.channels["t1"], before.channels["t1"])
    assert np.array_equal(twice.labels, before.labels)


def test_a_cropped_scan_shows_a_part_at_its_place() -> None:
    after = cropped(whole(), generator(), share=0.5)
    sizes = np.array(after.grid.size) / GRID.size
    assert sorted(sizes.tolist()) == [0.5, 1.0, 1.0]
    start = np.rint(np.subtract(after.grid.origin, GRID.origin) / GRID.spacing).astype(int)
    part = tuple(slice(first, first + size) for first, size in zip(start, after.grid.size, strict=True))
    assert np.array_equal(whole().channels["t1"][part], after.channels["t1"])
    assert np.array_equal(whole().labels[part], after.labels)


def test_bright_becomes_dark_in_one_channel_and_air_stays_black() -> None:
    before = whole()
    after = inverted(before, generator())
    changed = [name for name in before.channels if not np.array_equal(before.channels[name], after.channels[name])]
    assert len(changed) == 1
    both = np.corrcoef(before.channels[changed[0]].ravel(), after.channels[changed[0]].ravel())
    assert both[0, 1] == pytest.approx(-1, abs=1e-4)
    image = np.zeros(GRID.size, dtype=np.float32)
    image[4:20, 4:20, 4:16] = np.linspace(10, 100, 16)[:, None, None]
    remapped = other_contrast(replace(before, channels={"t1": image}), generator()).channels["t1"]
    assert not remapped[0].any()
    assert remapped[4:20].max() > 80


def test_strengths_are_as_stated() -> None:
    before = whole()
    noise = noisy(before, generator(), level=0.2).channels["t1"] - before.channels["t1"]
    low, high = np.percentile(before.channels["t1"], [1, 99])
    assert float(noise.std()) == pytest.approx(0.2 * (high - low), rel=0.03)
    field = biased(before, generator(), ratio=3.0).channels["t1"] / before.channels["t1"]
    assert float(field.max() / field.min()) == pytest.approx(3, rel=0.01)
    spacings = [wrong_spacing(before, np.random.default_rng(seed), factor=2.0).grid.spacing for seed in range(30)]
    assert set(spacings) == {(2.0, 1.0, 1.5), (1.0, 2.0, 1.5), (1.0, 1.0, 3.0), (2.0, 2.0, 3.0)}
    assert list(swapped(before, generator()).channels) == ["t2", "t1"]


def test_one_channel_cannot_be_swapped() -> None:
    assert "swapped channels" not in damages(1)
    assert isinstance(damages(1)["flipped left-right"], partial)
