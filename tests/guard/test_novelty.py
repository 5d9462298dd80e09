from __future__ import annotations

import numpy as np
import pytest
from guard.scans import patients

from mist_ops.guard.features import Feature, Measured
from mist_ops.guard.gaussian import population
from mist_ops.guard.measuring import CELLS
from mist_ops.guard.novelty import (
    FALSE_ALARMS,
    Novelty,
    bound,
    left_out,
    scales_of,
    score,
    standardized,
    threshold_of,
)


def drawn(generator: np.random.Generator, shift: float = 0.0) -> Measured:
    """A patient with correlated numbers in three groups."""
    features = {}
    for group, count in (("grid", 4), ("intensities", 8), ("structures", 6)):
        shared = generator.normal()
        for index in range(count):
            value = shift + 0.6 * shared + generator.normal()
            name = f"{group} {index}"
            features[name] = Feature(group, name, value)  # type: ignore[arg-type]
    return Measured(features, generator.normal(size=(1, CELLS, CELLS, CELLS)))


def usual(known: list[Measured]) -> tuple[Novelty, list[float]]:
    distances = {}
    for some, others in left_out(known):
        for index in some:
            distances[index] = others.distances(known[index])
    scales = scales_of([distances[index] for index in range(len(known))])
    scores = [score(standardized(distances[index], scales)) for index in range(len(known))]
    return Novelty(population(known), scales, threshold_of(scores)), scores


@pytest.mark.parametrize("count", [15, 40])
def test_few_new_patients_are_called_unlike_and_shifted_ones_are(count: int) -> None:
    generator = np.random.default_rng(count)
    alarms, found = [], []
    for _ in range(5):
        novelty, _ = usual([drawn(generator) for _ in range(count)])
        alarms += [score(novelty.of(drawn(generator))) > novelty.threshold for _ in range(40)]
        found += [score(novelty.of(drawn(generator, 6.0))) > novelty.threshold for _ in range(5)]
    assert np.mean(alarms) <= FALSE_ALARMS
    assert np.mean(found) > 0.9


def test_each_patient_is_left_out_once_also_of_many() -> None:
    generator = np.random.default_rng(0)
    known = [drawn(generator) for _ in range(60)]
    splits = left_out(known)
    assert sorted(index for some, _ in splits for index in some) == list(range(60))
    assert max(len(some) for some, _ in splits) == 2


def test_patients_that_were_left_out_are_scored_like_new_ones() -> None:
    novelty, scores = usual(patients(20))
    new = [score(novelty.of(each)) for each in patients(20, first=500)]
    assert np.mean(new) == pytest.approx(np.mean(scores), abs=0.6)
    assert sum(each > novelty.threshold for each in [*scores, *new]) <= 1


def test_the_bound_of_a_share_is_that_of_clopper_and_pearson() -> None:
    assert bound(0, 38) == pytest.approx(1 - 0.05 ** (1 / 38))
    assert bound(1, 20) == pytest.approx(0.2161, abs=1e-4)
    assert bound(3, 3) == 1
