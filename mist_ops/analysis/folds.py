"""Cross-validation: the assignment of cases to folds, and the training and validation cases of a fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from mist_ops.config import TrainingConfig
from mist_ops.dataset import Assignment, Fold, PatientTable
from mist_ops.errors import ConfigError, DatasetError, counted, few
from mist_ops.files import json_hash

_SHUFFLE_SEED = 42
_EMPTY = PatientTable()


def check_nfolds(nfolds: int, n_cases: int) -> None:
    """Check that every fold holds out a case and has others to train on.

    Raises:
        ConfigError: ``nfolds`` is below 2 or above the number of cases.
    """
    if not 2 <= nfolds <= n_cases:
        raise ConfigError(
            f"Cannot divide {counted(n_cases, 'training case')} into {counted(nfolds, 'fold')}. "
            + (f"Set --nfolds between 2 and {n_cases}, or add cases." if n_cases > 1 else "Add cases."),
            code="nfolds-invalid",
            field="training.nfolds",
            found=nfolds,
            expected=(2, n_cases),
        )


def default_nfolds(ids: Sequence[str], known: PatientTable) -> int:
    """Default number of folds: that of the table of patients if it assigns all cases, else 5."""
    decided = [known.fold_of[case_id] for case_id in ids if case_id in known.fold_of]
    return max(decided) + 1 if decided and len(decided) == len(ids) else TrainingConfig().nfolds


def assign_folds(ids: Sequence[str], nfolds: int, known: PatientTable = _EMPTY) -> dict[str, int]:
    """Assign each case to the fold that holds it out, ordered by fold and then by id.

    Without folds, groups or strata, the assignment is that of scikit-learn's ``KFold(nfolds, shuffle=True,
    random_state=42)`` on the sorted ids. Otherwise, groups are assigned as a whole, largest first, to the fold with the
    fewest cases of their strata, and among equal ones to the smallest (as in ``StratifiedGroupKFold``).

    Args:
        ids: The cases.
        nfolds: Number of folds.
        known: Given folds, groups and strata; cases not among ``ids`` are ignored.

    Raises:
        ConfigError: ``nfolds`` is below 2 or above the number of cases, or a fold would be empty.
        DatasetError: A given fold does not exist, or a group has two.
    """
    check_nfolds(nfolds, len(ids))
    ordered = sorted(ids)
    about = [known.fold_of, known.group_of, known.stratum_of]
    if not any(case_id in column for column in about for case_id in ordered):
        runs = np.array_split(_shuffled(len(ids)), nfolds)
        return {ordered[index]: fold for fold, run in enumerate(runs) for index in sorted(run.tolist())}
    folds = _distribute(ordered, nfolds, known)
    empty = sorted(set(range(nfolds)) - set(folds.values()))
    if empty:
        raise ConfigError(
            f"{'Fold' if len(empty) == 1 else 'Folds'} {few(empty)} would be empty: there are too few groups, or the "
            f"table of patients assigns all cases to other folds. Lower --nfolds ({nfolds}), or correct the table.",
            code="fold-empty",
            found=empty,
        )
    return dict(sorted(folds.items(), key=lambda item: (item[1], item[0])))


def _distribute(ordered: Sequence[str], nfolds: int, known: PatientTable) -> dict[str, int]:
    groups = _groups([ordered[index] for index in _shuffled(len(ordered))], known.group_of)
    names = sorted({known.stratum_of.get(case_id, "") for case_id in ordered})
    strata = {name: index for index, name in enumerate(names)}
    contents = [
        np.bincount([strata[known.stratum_of.get(case_id, "")] for case_id in group], minlength=len(names))
        for group in groups
    ]
    given = [_given_fold(group, nfolds, known) for group in groups]
    totals = np.sum(contents, axis=0)
    counts = np.zeros((nfolds, len(names)))
    folds: dict[str, int] = {}
    # Given folds come first, to be balanced by the others. The sort is stable, so that equal groups stay shuffled.
    for index in sorted(range(len(groups)), key=lambda index: (given[index] is None, -len(groups[index]))):
        fold = given[index]
        if fold is None:
            # Adding u to the counts c of a fold raises the sum of squares by 2 c u, plus a term equal for all folds.
            costs = counts @ (contents[index] / totals**2)
            fold = min(range(nfolds), key=lambda fold: (costs[fold].round(12), counts[fold].sum(), fold))
        counts[fold] += contents[index]
        folds |= dict.fromkeys(groups[index], fold)
    return folds


def _given_fold(group: Sequence[str], nfolds: int, known: PatientTable) -> int | None:
    """Return the given fold of a group, if any of its cases has one."""
    folds = {case_id: known.fold_of[case_id] for case_id in group if case_id in known.fold_of}
    for case_id, fold in folds.items():
        if fold >= nfolds:
            raise DatasetError(
                f"The table of patients assigns case '{case_id}' to fold {fold}, but folds are 0–{nfolds - 1}. Correct "
                "it, or raise --nfolds.",
                code="unknown-fold",
                case=case_id,
                found=fold,
                expected=(0, nfolds - 1),
            )
    if len(set(folds.values())) > 1:
        found = ", ".join(f"{case_id} is in fold {fold}" for case_id, fold in sorted(folds.items()))
        raise DatasetError(
            f"The cases of group '{known.group_of[group[0]]}' must be in one fold, but {found}. Correct the table of "
            "patients; --overwrite discards folds of an earlier analysis.",
            code="group-divided",
            found=folds,
        )
    return next(iter(folds.values()), None)


def _groups(ids: Sequence[str], group_of: Mapping[str, str]) -> list[list[str]]:
    """Group ids in their order; a case without a group is its own."""
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
    """Check that all folds in train_paths.csv exist.

    Raises:
        DatasetError: A case is in a fold that does not exist.
    """
    wrong = {case_id: fold for case_id, fold in assignment.fold_of.items() if not 0 <= fold < nfolds}
    if wrong:
        raise DatasetError(
            f"train_paths.csv: {few([f'{case_id} is in fold {fold}' for case_id, fold in wrong.items()])}, but this "
            f"study has folds 0–{nfolds - 1}. Correct the column 'fold', or training.nfolds.",
            code="unknown-fold",
            field="fold",
            found=wrong,
            expected=(0, nfolds - 1),
        )


def make_fold(
    assignment: Assignment, index: int, val_percent: float, seed: int, validation_cases: int | None = None
) -> Fold:
    """Select the training, validation and held-out cases of a fold, each in the order of the cases.

    Args:
        assignment: Assignment of cases to folds.
        index: The fold.
        val_percent: Fraction of the training cases, in [0, 1), to validate on, rounded up to whole cases and groups.
            With 0, the fold validates on its held-out cases, so that their scores are optimistic.
        seed: Seed of the selection; without groups, it is that of scikit-learn's ``train_test_split``.
        validation_cases: Most cases to validate on, drawn from those; None for all.

    Raises:
        ConfigError: The fold holds out no case, or no case is left to train on.
    """
    held_out = assignment.held_out(index)
    others = [case.id for case in assignment.cases if assignment.fold_of[case.id] != index]
    if not held_out:
        known = sorted(set(assignment.fold_of.values()))
        raise ConfigError(
            f"Fold {index} holds out no case; folds with cases: {few(known)}. Correct training.folds.",
            code="unknown-fold",
            found=index,
            expected=known,
        )
    count = math.ceil(val_percent * len(others))
    chosen = _choose([others[k] for k in np.random.RandomState(seed).permutation(len(others))], count, assignment)
    if len(chosen) == len(others):
        raise ConfigError(
            f"val_percent {val_percent:g} leaves no case to train fold {index} on, of {counted(len(others), 'case')}. "
            "Lower --val-percent.",
            code="training-set-empty",
            field="training.val_percent",
            found=val_percent,
        )
    training = tuple(case_id for case_id in others if case_id not in chosen)
    validation = tuple(case_id for case_id in others if case_id in chosen) or held_out
    if validation_cases is not None:
        # By a hash of the id, so that a case that comes or goes changes the draw only if it is drawn itself.
        drawn = set(sorted(validation, key=lambda case_id: json_hash([seed, index, case_id]))[:validation_cases])
        validation = tuple(case_id for case_id in validation if case_id in drawn)
    return Fold(index, training, validation, held_out)


def _choose(shuffled: Sequence[str], count: int, assignment: Assignment) -> set[str]:
    """Select the first cases, at least ``count``, with the others of their groups."""
    chosen: set[str] = set()
    for group in _groups(shuffled, assignment.group_of):
        if len(chosen) >= count:
            break
        chosen.update(group)
    return chosen
