from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from expect import refuses

from mist_ops.analysis.folds import assign_folds, check_folds, default_nfolds, make_fold
from mist_ops.dataset import Assignment, Case, PatientTable
from mist_ops.errors import ConfigError, DatasetError

TWELVE = ["001", "003", "004", "006", "007", "008", "011", "014", "015", "017", "019", "020"]


def assignment(n: int, nfolds: int) -> Assignment:
    folds = assign_folds([f"p{k:02d}" for k in range(n)], nfolds)
    return Assignment(tuple(Case(case_id, {"t1": Path(case_id)}) for case_id in folds), folds)


def test_twelve_patients_are_assigned_and_ordered_as_in_mist():
    assert assign_folds(TWELVE, 5) == {
        **dict.fromkeys(["001", "017", "019"], 0),
        **dict.fromkeys(["004", "008", "015"], 1),
        **dict.fromkeys(["003", "020"], 2),
        **dict.fromkeys(["007", "014"], 3),
        **dict.fromkeys(["006", "011"], 4),
    }
    assert "".join(assign_folds(TWELVE, 5)) == "001017019004008015003020007014006011"


def test_two_and_three_patients_are_assigned_as_in_mist():
    assert assign_folds(["a", "b"], 2) == {"b": 0, "a": 1}
    assert assign_folds(["a", "b", "c"], 3) == {"a": 0, "b": 1, "c": 2}


def test_the_order_of_the_ids_does_not_matter():
    assert assign_folds(TWELVE[::-1], 5) == assign_folds(TWELVE, 5)


@pytest.mark.parametrize("nfolds", [-1, 0, 1, 13])
def test_an_invalid_number_of_folds_is_refused(nfolds: int):
    with refuses("nfolds-invalid", ConfigError, found=nfolds, expected=(2, 12)):
        assign_folds(TWELVE, nfolds)


def test_without_val_percent_a_fold_validates_on_its_held_out_cases():
    fold = make_fold(assignment(12, 5), 1, 0.0, 42)
    assert fold.validation == fold.held_out == ("p02", "p05", "p08")
    assert sorted(fold.training + fold.held_out) == [f"p{k:02d}" for k in range(12)]


def test_val_percent_sets_aside_training_cases_rounded_up():
    # 9 of the 12 train; sklearn.model_selection.train_test_split(range(9), test_size=0.3, random_state=42) draws these.
    cases = assignment(12, 5)
    others = [case.id for case in cases.cases if cases.fold_of[case.id] != 1]
    fold = make_fold(cases, 1, 0.3, 42)
    assert fold.validation == tuple(others[k] for k in (1, 5, 7))
    assert set(fold.training) == set(others) - set(fold.validation)
    assert fold.held_out == ("p02", "p05", "p08")


def test_validation_cases_are_drawn_from_those_of_the_fold():
    whole, part = (make_fold(assignment(40, 2), 0, 0.0, 42, count) for count in (None, 5))
    assert len(part.validation) == 5
    assert part.validation == tuple(case_id for case_id in whole.validation if case_id in part.validation)
    assert (part.training, part.held_out) == (whole.training, whole.held_out)
    assert part == make_fold(assignment(40, 2), 0, 0.0, 42, 5)
    assert part.validation != make_fold(assignment(40, 2), 0, 0.0, 43, 5).validation
    assert make_fold(assignment(40, 2), 0, 0.0, 42, 99) == whole


def test_a_fold_without_held_out_or_training_cases_is_refused():
    with refuses("unknown-fold", ConfigError, found=7, expected=[0, 1, 2, 3, 4]):
        make_fold(assignment(12, 5), 7, 0.0, 42)
    with refuses("training-set-empty", ConfigError, names="fold 0", found=0.5):
        make_fold(assignment(2, 2), 0, 0.5, 42)


def assigned(nfolds: int, *, fold_of=None, group_of=None, stratum_of=None, n: int = 20) -> dict[str, int]:
    known = PatientTable(fold_of or {}, group_of or {}, stratum_of or {})
    return assign_folds([f"p{k:02d}" for k in range(n)], nfolds, known)


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_case_in_an_unknown_fold_is_refused(fold: int):
    cases = assignment(4, 2)
    check_folds(cases, 2)
    with refuses("unknown-fold", DatasetError, found={"p00": fold}, expected=(0, 1)):
        check_folds(Assignment(cases.cases, {**cases.fold_of, "p00": fold}), 2)


def test_a_table_of_other_patients_changes_nothing():
    assert assign_folds(TWELVE, 5, PatientTable({"x": 1}, {"x": "g"}, {"x": "s"})) == assign_folds(TWELVE, 5)


def test_a_group_is_never_divided_and_folds_stay_even():
    group_of = {f"p{k:02d}": f"g{k // 4}" for k in range(16)}  # four groups of four, and four cases without a group
    folds = assigned(5, group_of=group_of)
    for group in set(group_of.values()):
        assert len({folds[case_id] for case_id, name in group_of.items() if name == group}) == 1
    assert np.bincount(list(folds.values())).tolist() == [4, 4, 4, 4, 4]
    assert list(folds) == sorted(folds, key=lambda case_id: (folds[case_id], case_id))


def test_folds_are_balanced_by_stratum():
    stratum_of = {f"p{k:02d}": "rare" if k < 5 else "common" for k in range(20)}
    folds = assigned(5, stratum_of=stratum_of)
    for fold in range(5):
        held_out = [stratum_of[case_id] for case_id, held in folds.items() if held == fold]
        assert sorted(held_out) == ["common"] * 3 + ["rare"]


def test_given_folds_are_kept_and_other_cases_go_to_the_smallest_folds():
    before = assign_folds([f"p{k:02d}" for k in range(10)], 5)
    after = assigned(5, fold_of=before, n=13)
    assert {case_id: after[case_id] for case_id in before} == before
    assert sorted(after[case_id] for case_id in ("p10", "p11", "p12")) == [0, 1, 2]


def test_a_given_fold_applies_to_the_whole_group():
    folds = assigned(5, fold_of={"p03": 4}, group_of={"p03": "twins", "p11": "twins"})
    assert folds["p03"] == folds["p11"] == 4


def test_given_folds_that_are_impossible_are_refused():
    with refuses("unknown-fold", DatasetError, case="p03", found=5, expected=(0, 4)):
        assigned(5, fold_of={"p03": 5})
    with refuses("group-divided", DatasetError, names="'g'", found={"p03": 1, "p04": 2}):
        assigned(5, fold_of={"p03": 1, "p04": 2}, group_of={"p03": "g", "p04": "g"})
    with refuses("fold-empty", ConfigError, found=[2, 3, 4]):
        assigned(5, group_of={f"p{k:02d}": str(k % 2) for k in range(20)})


def test_a_table_that_assigns_all_patients_gives_the_number_of_folds():
    assert default_nfolds(["a", "b"], PatientTable({"a": 0, "b": 2})) == 3
    assert default_nfolds(["a", "b"], PatientTable({"a": 0})) == 5


@pytest.mark.parametrize("seed", range(5))
def test_validation_cases_are_whole_groups(seed: int):
    group_of = {f"p{k:02d}": f"g{k // 3}" for k in range(18)}
    folds = assigned(3, group_of=group_of)
    whole = Assignment(tuple(Case(case_id, {}) for case_id in folds), folds, group_of)
    fold = make_fold(whole, 0, 0.2, seed)
    assert len(fold.validation) >= 3
    assert not {group_of.get(case_id, case_id) for case_id in fold.training} & {
        group_of.get(case_id, case_id) for case_id in (*fold.validation, *fold.held_out)
    }
