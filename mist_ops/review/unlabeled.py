"""Patients without a mask by how much the models of the folds disagree: those that would teach most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mist_ops.evaluation.disagreement import Disagreement
from mist_ops.review.queue import Entry

_REASONS = 3


def ranked(found: Mapping[str, Disagreement]) -> list[Entry]:
    """The patients, those with most disagreement first; scores are in percent."""
    names = {name for one in found.values() for name in one.dice}
    usual = {name: float(np.median([one.dice[name] for one in found.values() if name in one.dice])) for name in names}
    entries = [
        Entry(case_id, None, 100 * one.score, one.place, "", _reasons(one, usual)) for case_id, one in found.items()
    ]
    return sorted(entries, key=lambda entry: -entry.score)


def _reasons(found: Disagreement, usual: Mapping[str, float]) -> tuple[str, ...]:
    worst = sorted(found.dice, key=lambda name: found.dice[name])[:_REASONS]
    return tuple(
        f"{name}: Dice between the models {found.dice[name]:.2f}, usually {usual[name]:.2f}; volumes "
        f"{min(found.volumes_ml[name]):.3g} to {max(found.volumes_ml[name]):.3g} ml."
        for name in worst
    )
