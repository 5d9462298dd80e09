"""Who is held out when: the assignment of cases to folds, and what a fold trains and selects on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from mist_ops.config import TrainingConfig
from mist_ops.dataset import Assignment, Fold, PatientTable
from mist_ops.errors import ConfigError, DatasetError

_SHUFFLE_SEED = 42
_SHOWN = 5
_NOTHING_KNOWN = PatientTable()


def check_nfolds(nfolds: int, n_cases: int) -> None:
    """Refuse a number of folds that some fold would be empty with, or nothing be left to train on.

    Raises:
        ConfigError: ``nfolds`` is below 2 or above the number of cases.
    """
    if not 2 <= nfolds <= n_cases:
        found = "is 1 training case" if n_cases == 1 else f"are {n_cases} training cases"
        raise ConfigError(
            f"nfolds is {nfolds} but there {found}. It must lie between 2 and the "
            "number of cases; set --nfolds or add cases."
        )


def default_nfolds(ids: Sequence[str], known: PatientTable) -> int:
    """The number of folds where nobody chose one: as many as were decided on if that was done for all cases, or 5."""
    decided = [known.fold_of[case_id] for case_id in ids if case_id in known.fold_of]
    return max(decided) + 1 if decided and len(decided) == len(ids) else TrainingConfig().nfolds


def assign_folds(ids: Sequence[str], nfolds: int, known: PatientTable = _NOTHING_KNOWN) -> dict[str, int]:
    """The fold in which each case is held out, ordered by fold and then by id.

    Where nothing is known of the cases, the assignment is that of scikit-learn's ``KFold(nfolds, shuffle=True,
    random_state=42)`` on the sorted ids: a shuffle cut into runs whose lengths differ by at most one. Otherwise the
    cases of a group go to one fold together, largest groups first, each to the fold that has the least of its strata,
    and among those to the smallest (after ``StratifiedGroupKFold``).

    Args:
        ids: The cases.
        nfolds: Number of folds.
        known: Folds that are decided already, groups and strata; cases not among ``ids`` are ignored.

    Raises:
        ConfigError: ``nfolds`` is below 2 or above the number of cases, or a fold would be empty.
        DatasetError: A fold is decided that there is not, or two for the cases of one group.
    """
    check_nfolds(nfolds, len(ids))
    ordered = sorted(ids)
    about = [known.fold_of, known.group_of, known.stratum_of]
    if not any(case_id in column for column in about for case_id in ordered):
        runs = np.array_split(_shuffled(len(ids)), nfolds)
        return {ordered[index]: fold for fold, run in enumerate(runs) for index in sorted(run.tolist())}
    folds = _deal_out(ordered, nfolds, known)
    empty = sorted(set(range(nfolds)) - set(folds.values()))
    if empty:
        raise ConfigError(
            f"No case would be held out in folds {empty}: too few groups, or other folds were decided for all. "
            f"Lower --nfolds (now {nfolds}), or correct the table of patients."
        )
    return dict(sorted(folds.items(), key=lambda item: (item[1], item[0])))


def _deal_out(ordered: Sequence[str], nfolds: int, known: PatientTable) -> dict[str, int]:
    groups = _groups([ordered[index] for index in _shuffled(len(ordered))], known.group_of)
    names = sorted({known.stratum_of.get(case_id, "") for case_id in ordered})
    strata = {name: index for index, name in enumerate(names)}
    contents = [
        np.bincount([strata[known.stratum_of.get(case_id, "")] for case_id in group], minlength=len(names))
        for group in groups
    ]
    decided = [_decided(group, nfolds, known) for group in groups]
    totals = np.sum(contents, axis=0)
    counts = np.zeros((nfolds, len(names)))
    folds: dict[str, int] = {}
    # What is decided counts before anything is dealt out; the sort is stable, so that equals stay shuffled.
    for index in sorted(range(len(groups)), key=lambda index: (decided[index] is None, -len(groups[index]))):
        fold = decided[index]
        if fold is None:
            # Adding u to the counts c of a fold raises the sum of squares of all by 2 c u and what is the same for all.
            costs = counts @ (contents[index] / totals**2)
            fold = min(range(nfolds), key=lambda fold: (costs[fold].round(12), counts[fold].sum(), fold))
        counts[fold] += contents[index]
        folds |= dict.fromkeys(groups[index], fold)
    return folds


def _decided(group: Sequence[str], nfolds: int, known: PatientTable) -> int | None:
    """The fold that is decided for the cases of a group, if it is for any of them."""
    folds = {case_id: known.fold_of[case_id] for case_id in group if case_id in known.fold_of}
    for case_id, fold in folds.items():
        if fold >= nfolds:
            raise DatasetError(
                f"Case '{case_id}' is to be in fold {fold}, but there are folds 0 to {nfolds - 1}. Correct the table "
                "of patients, or raise --nfolds."
            )
    if len(set(folds.values())) > 1:
        found = ", ".join(f"{case_id} in fold {fold}" for case_id, fold in sorted(folds.items()))
        raise DatasetError(
            f"The cases of group '{known.group_of[group[0]]}' must share a fold, but {found}. Correct the table of "
            "patients; folds of an earlier analysis are dropped with --overwrite."
        )
    return next(iter(folds.values()), None)


def _groups(ids: Sequence[str], group_of: Mapping[str, str]) -> list[list[str]]:
    """The ids of each group in their order; a case that is in none is one by itself."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for case_id in ids:
        grouped = case_id in group_of
        groups.setdefault((grouped, group_of[case_id] if grouped else case_id), []).append(case_id)
    return list(groups.values())


def _shuffled(count: int) -> Int[np.ndarray, " count"]:
    order = np.arange(count)
    np.random.RandomState(_SHUFFLE_SEED).shuffle(order)
    return order


def check_folds(assignment: Assignment, nfolds: int) -> None:
    """Refuse a table of patients some of whom are in a fold that there is not, and whom no model would predict.

    Raises:
        DatasetError: All of them are named.
    """
    wrong = [f"{case_id} is in fold {fold}" for case_id, fold in assignment.fold_of.items() if not 0 <= fold < nfolds]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DatasetError(
            f"In train_paths.csv {', '.join(wrong[:_SHOWN])}{more}, but this study has folds 0 to {nfolds - 1}. "
            "Correct the column 'fold', or training.nfolds."
        )


def make_fold(assignment: Assignment, index: int, val_percent: float, seed: int) -> Fold:
    """The ids that a fold trains on, selects its best weights with, and predicts; each in the order of the cases.

    Args:
        assignment: Which case is held out in which fold.
        index: The fold.
        val_percent: Fraction, in [0, 1), of the training cases that is set aside to select the best weights, rounded
            up to whole cases and on to whole groups. With 0 the held-out cases select them, which flatters their
            scores.
        seed: Seed of the choice, which is that of scikit-learn's ``train_test_split`` where there are no groups.

    Raises:
        ConfigError: No case is held out in this fold, or none is left to train on.
    """
    held_out = assignment.held_out(index)
    others = [case.id for case in assignment.cases if case.id not in set(held_out)]
    if not held_out:
        known = sorted(set(assignment.fold_of.values()))
        raise ConfigError(f"No case is held out in fold {index}. The folds are {known}; correct training.folds.")
    count = math.ceil(val_percent * len(others))
    chosen = _choose([others[k] for k in np.random.RandomState(seed).permutation(len(others))], count, assignment)
    if len(chosen) == len(others):
        raise ConfigError(
            f"Fold {index} has {len(others)} cases to train on, and val_percent {val_percent:g} takes all of them. "
            "Lower --val-percent so that some are left."
        )
    training = tuple(case_id for case_id in others if case_id not in chosen)
    validation = tuple(case_id for case_id in others if case_id in chosen)
    return Fold(index, training, validation or held_out, held_out)


def _choose(shuffled: Sequence[str], count: int, assignment: Assignment) -> set[str]:
    """The first cases, at least ``count``, with the others of their groups."""
    chosen: set[str] = set()
    for group in _groups(shuffled, assignment.group_of):
        if len(chosen) >= count:
            break
        chosen.update(group)
    return chosen
