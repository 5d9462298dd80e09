from __future__ import annotations

import math

import numpy as np
import pytest

from mist_ops.guard.features import GROUPS
from mist_ops.guard.forecast import COVERAGE, Sample, fit, left_out_dice

CLASS = "whole"


def samples(count: int, seed: int = 0) -> list[Sample]:
    """Patients, each as it is and damaged: the Dice follows the certainty, and falls with what is unusual."""
    generator = np.random.default_rng(seed)
    found = []
    for patient in range(count):
        for damage in ("", "noise", "cropped"):
            unusual = float(generator.uniform(3, 6)) if damage else float(generator.normal())
            certainty = float(generator.uniform(0.7, 0.95))
            dice = certainty - 0.05 * max(unusual, 0) + generator.normal(0, 0.02)
            novelty = {**dict.fromkeys(GROUPS, 0.0), "intensities": unusual}
            found.append(
                Sample(
                    str(patient), damage, novelty, bool(damage), {CLASS: certainty}, {CLASS: float(np.clip(dice, 0, 1))}
                )
            )
    return found


def test_the_dice_of_new_patients_is_near_what_is_expected_and_mostly_in_its_interval() -> None:
    forecast = fit(samples(60), CLASS)
    errors, inside = [], []
    for sample in samples(200, seed=1):
        expected = forecast.expect(sample.novelty, sample.certainty[CLASS], sample.unlike)
        errors.append(expected.dice - sample.dice[CLASS])
        inside.append(expected.low <= sample.dice[CLASS] <= expected.high)
        assert 0 <= expected.low <= expected.dice <= expected.high <= 1
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(inside) == pytest.approx(COVERAGE, abs=0.05)


def test_what_is_expected_of_a_patient_does_not_depend_on_its_own_dice() -> None:
    known = samples(10)
    changed = [
        Sample(each.patient, each.damage, each.novelty, each.unlike, each.certainty, {CLASS: 0.0})
        if each.patient == "3"
        else each
        for each in known
    ]
    own = [index for index, each in enumerate(known) if each.patient == "3"]
    before, after = left_out_dice(known, CLASS), left_out_dice(changed, CLASS)
    assert before[own] == pytest.approx(after[own])
    others = [index for index in range(len(known)) if index not in own]
    assert not np.allclose(before[others], after[others])


def test_a_class_that_is_not_predicted_has_no_certainty() -> None:
    known = samples(20)
    missing = [
        Sample(each.patient, each.damage, each.novelty, each.unlike, {CLASS: math.nan}, {CLASS: 0.0})
        for each in known[:20]
    ]
    forecast = fit([*known[20:], *missing], CLASS)
    usual = dict.fromkeys(GROUPS, 0.0)
    assert forecast.expect(usual, math.nan, False).dice < 0.25
    assert forecast.expect(usual, 0.9, False).dice > 0.7


def test_one_patient_alone_of_a_kind_has_the_interval_of_all() -> None:
    known = [each for each in samples(30) if not each.damage]
    forecast = fit(known, CLASS)
    assert forecast.unlike == forecast.like
