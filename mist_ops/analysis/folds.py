"""Who is held out when: the assignment of cases to folds, and what a fold trains and selects on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mist_ops.dataset import Assignment, Fold
from mist_ops.errors import ConfigError

_SHUFFLE_SEED = 42


def check_nfolds(nfolds: int, n_cases: int) -> None:
    """Refuse a number of folds that some fold would be empty with, or nothing be left to train on.

    Raises:
        ConfigError: ``nfolds`` is below 2 or above the number of cases.
    """
    if not 2 <= nfolds <= n_cases:
        found = f"{n_cases} training case{'s' if n_cases != 1 else ''}"
        raise ConfigError(
            f"nfolds is {nfolds} but there are {found}. It must lie between 2 and the "
            "number of cases; set --nfolds or add cases."
        )


def assign_folds(ids: Sequence[str], nfolds: int) -> dict[str, int]:
    """The fold in which each case is held out, ordered by fold and then by id.

    The assignment is that of scikit-learn's ``KFold(nfolds, shuffle=True, random_state=42)`` on the sorted ids: a
    shuffle cut into runs whose lengths differ by at most one.

    Raises:
        ConfigError: ``nfolds`` is below 2 or above the number of cases.
    """
    check_nfolds(nfolds, len(ids))
    shuffled = np.arange(len(ids))
    np.random.RandomState(_SHUFFLE_SEED).shuffle(shuffled)
    ordered = sorted(ids)
    runs = np.array_split(shuffled, nfolds)
    return {ordered[index]: fold for fold, run in enumerate(runs) for index in sorted(run.tolist())}


def make_fold(assignment: Assignment, index: int, val_percent: float, seed: int) -> Fold:
    """The ids that a fold trains on, selects its best weights with, and predicts; each in the order of the cases.

    Args:
        assignment: Which case is held out in which fold.
        index: The fold.
        val_percent: Fraction, in [0, 1), of the training cases that is set aside to select the best weights, rounded
            up to whole cases. With 0 the held-out cases select them, which flatters their scores.
        seed: Seed of the choice, which is that of scikit-learn's ``train_test_split``.

    Raises:
        ConfigError: No case is held out in this fold, or none is left to train on.
    """
    held_out = assignment.held_out(index)
    others = [case.id for case in assignment.cases if case.id not in set(held_out)]
    if not held_out:
        known = sorted(set(assignment.fold_of.values()))
        raise ConfigError(f"No case is held out in fold {index}. The folds are {known}; correct training.folds.")
    count = math.ceil(val_percent * len(others))
    if count >= len(others):
        raise ConfigError(
            f"Fold {index} has {len(others)} cases to train on, and val_percent {val_percent:g} takes {count} of them. "
            "Lower --val-percent so that some are left."
        )
    chosen = {others[k] for k in np.random.RandomState(seed).permutation(len(others))[:count]}
    training = tuple(case_id for case_id in others if case_id not in chosen)
    validation = tuple(case_id for case_id in others if case_id in chosen)
    return Fold(index, training, validation or held_out, held_out)
