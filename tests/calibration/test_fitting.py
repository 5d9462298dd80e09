from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from calibration.synthetic import drawn, softmax

from mist_ops.calibration.fitting import (
    CrossFit,
    cross_fit,
    fit_bent,
    fit_classes,
    fit_temperature,
    groups,
    log_loss,
    simplest,
)
from mist_ops.calibration.reliability import top_curve
from mist_ops.calibration.scaling import Scaling
from mist_ops.calibration.voxels import Voxels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_distorted_probabilities_is_found(temperature: float) -> None:
    voxels = drawn(1, slopes=(temperature,) * 3)

    found = fit_temperature(voxels)

    assert found.temperature == pytest.approx(temperature, rel=0.03)  # the error of 40,000 labels
    scaled = replace(voxels, probabilities=found(voxels.probabilities))
    assert top_curve(scaled).error < 0.01
    assert log_loss(scaled) == pytest.approx(log_loss(voxels, found), abs=1e-6)


def test_the_slope_and_bend_that_distorted_probabilities_are_found() -> None:
    generator = np.random.default_rng(6)
    stated = softmax(generator.normal(0, 2, (3, 100_000)))
    true = Scaling((0.6,) * 3, (0.3,) * 3, (0.0,) * 3)(stated)
    labels = (generator.random(true.shape[1]) > true.cumsum(axis=0)).sum(axis=0).clip(max=2)
    voxels = Voxels(stated, labels, np.ones(len(labels)))

    found = fit_bent(voxels)

    assert found.slopes[0] == pytest.approx(0.6, abs=0.03)
    assert found.bends[0] == pytest.approx(0.3, abs=0.03)
    assert found.shared
    assert found.temperature is None
    assert log_loss(voxels, found) < log_loss(voxels, fit_temperature(voxels)) - 1e-4
    np.testing.assert_array_equal(found(stated).argmax(axis=0), stated.argmax(axis=0))


def test_a_class_with_another_slope_is_found() -> None:
    # Labels are softmax(log p / slope) up to the normalization of p, which is 1 for a class that is left as it is.
    voxels = drawn(2, count=100_000)
    true = voxels.probabilities.astype(np.float64)
    stated = true ** np.array([[1.0], [2.0], [0.5]])
    found = fit_classes(replace(voxels, probabilities=(stated / stated.sum(axis=0))))
    temperature = fit_temperature(replace(voxels, probabilities=(stated / stated.sum(axis=0))))

    distorted = replace(voxels, probabilities=stated / stated.sum(axis=0))
    assert found.slopes[1] < 0.8
    assert found.slopes[2] > 1.2
    assert log_loss(distorted, found) < log_loss(distorted, temperature) - 0.01
    assert found.temperature is None


def test_the_log_loss_has_no_slope_at_what_was_fitted() -> None:
    voxels = drawn(3, slopes=(3.0, 3.0, 3.0))
    found = fit_classes(voxels)
    best = log_loss(voxels, found)

    for index in range(3):
        for step in (-0.05, 0.05):
            slopes, offsets = list(found.slopes), list(found.offsets)
            slopes[index] += step
            assert log_loss(voxels, replace(found, slopes=tuple(slopes))) > best
            offsets[index] += step
            assert log_loss(voxels, replace(found, offsets=tuple(offsets))) > best


def test_weights_count_as_repeated_voxels() -> None:
    voxels = drawn(4, count=600, slopes=(2.0, 2.0, 2.0))
    heavy = replace(voxels, weights=np.where(np.arange(600) < 200, 3.0, 1.0))
    repeated = np.concatenate([np.repeat(np.arange(200), 3), np.arange(200, 600)])
    plain = replace(
        voxels,
        probabilities=voxels.probabilities[:, repeated],
        truth=voxels.truth[repeated],
        weights=np.ones(len(repeated)),
    )

    assert fit_temperature(heavy).temperature == pytest.approx(fit_temperature(plain).temperature, rel=1e-4)


def test_a_true_class_without_probability_leaves_the_loss_finite() -> None:
    voxels = drawn(5, count=10)
    probabilities = np.zeros_like(voxels.probabilities)
    probabilities[0] = 1
    sure = replace(voxels, probabilities=probabilities, truth=np.array([1] * 5 + [0] * 5))

    assert math.isfinite(log_loss(sure))
    assert np.isfinite(fit_classes(sure)(probabilities)).all()


def test_each_group_is_scored_by_a_scaling_that_did_not_see_it() -> None:
    patients = {f"p{index}": drawn(index, count=4000, slopes=(1.0 + index % 2,) * 3) for index in range(4)}
    found = cross_fit(patients, {"p0": 0, "p1": 1, "p2": 0, "p3": 1}, fit_temperature)

    # Group 0 is calibrated and group 1 is not, so each gets the other's temperature.
    assert found.scalings[0].temperature == pytest.approx(2.0, rel=0.1)
    assert found.scalings[1].temperature == pytest.approx(1.0, rel=0.1)
    assert found.losses["p1"] == log_loss(patients["p1"], found.scalings[1])


def test_slopes_for_each_class_are_chosen_only_if_they_help() -> None:
    kept = CrossFit({}, {"a": 0.50, "b": 0.40, "c": 0.45})
    better = CrossFit({}, {"a": 0.45, "b": 0.36, "c": 0.40})
    unsure = CrossFit({}, {"a": 0.40, "b": 0.45, "c": 0.45})

    assert simplest({"temperature": kept, "classes": better}) == "classes"
    assert simplest({"temperature": kept, "classes": unsure}) == "temperature"
    assert simplest({"temperature": CrossFit({}, {"a": 0.5}), "classes": CrossFit({}, {"a": 0.1})}) == "temperature"


def test_patients_of_one_fold_are_dealt_into_groups() -> None:
    assert groups({"a": 1, "b": 0}) == {"a": 1, "b": 0}
    assert groups(dict.fromkeys("abcdef", 3)) == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 0}
