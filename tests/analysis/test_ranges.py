"""Images whose intensities need attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from mist_ops.analysis.ranges import IntensityRange, measure_range, range_warnings
from mist_ops.preprocessing.normalize import normalize


def image(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(100, 20, (20, 21, 22)) * scale).astype(np.float32)


def changed(index: object, value: float) -> np.ndarray:
    found = image()
    found[index] = value
    return found


ODD = {
    "hot": (changed((1, 2, 3), 1e9), "A few voxels"),
    "hotter": (changed((1, 2, 3), 1e30), "A few voxels"),
    "constant": (np.full((20, 21, 22), 7.0, np.float32), "Nearly constant"),
    "nearly": ((1 + 1e-7 * image()).astype(np.float32), None),
    "rounded": ((1e6 + image(scale=1e-3)).astype(np.float32), "Nearly constant"),
    "one voxel": (np.pad(np.ones((1, 1, 1), np.float32), 8), "Nearly constant"),
    "padded": (changed(slice(0, 8), -32768), "padding"),
    "background": (changed(slice(0, 8), 0), None),
    "denormal": (image(scale=1e-42), None),
    "large": (image(scale=1e35), None),
}


@pytest.mark.parametrize("name", ODD)
def test_images_without_spread_are_reported_by_kind(name: str) -> None:
    odd, words = ODD[name]
    found = range_warnings({"p": {"t1": measure_range(odd)}}, "mr")
    assert len(found) == (words is not None)
    assert all(words in message and "t1 of p" in message for message in found)
    # Others keep their contrast, even with MIST's rules.
    middle = normalize(odd, None, None, "reference")[odd != odd.min()]
    spread = np.ptp(np.percentile(middle, (5, 95))) if middle.size else 0.0
    assert (spread < 0.1) == (words is not None) or name == "rounded"


def study(**odd: np.ndarray) -> Mapping[str, Mapping[str, IntensityRange]]:
    usual = {f"p{seed}": image(seed) for seed in range(4)}
    return {case_id: {"ct": measure_range(voxels)} for case_id, voxels in {**usual, **odd}.items()}


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_an_image_in_other_units_than_the_rest_is_reported(modality: str) -> None:
    assert range_warnings(study(), modality) == []
    assert range_warnings(study(bright=image(scale=8.0)), modality) == []
    for odd in (image(scale=1e20), image(scale=1e-3), image() + np.float32(4000)):
        [message] = range_warnings(study(odd=odd), modality)
        assert "ct in 1 patient" in message
        assert "odd (" in message
    assert (
        range_warnings({"a": {"ct": measure_range(image())}, "b": {"ct": measure_range(image(scale=1e9))}}, "ct") == []
    )


def test_percentiles_of_large_images_are_those_of_a_sample() -> None:
    large = np.random.default_rng(0).normal(100, 20, (120, 110, 200)).astype(np.float32)
    found = measure_range(large)
    assert (found.low, found.high) == pytest.approx(np.percentile(large, (0.5, 99.5)).tolist(), rel=1e-2)
    assert found.deviation == pytest.approx(large.std(dtype=np.float64))
    assert (found.minimum, found.maximum) == (large.min(), large.max())
