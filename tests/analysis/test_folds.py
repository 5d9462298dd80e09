from __future__ import annotations

from pathlib import Path

import pytest

from mist_ops.analysis.folds import assign_folds, make_fold
from mist_ops.dataset import Assignment, Case
from mist_ops.errors import ConfigError

TWELVE = ["001", "003", "004", "006", "007", "008", "011", "014", "015", "017", "019", "020"]


def assignment(n: int, nfolds: int) -> Assignment:
    folds = assign_folds([f"p{k:02d}" for k in range(n)], nfolds)
    return Assignment(tuple(Case(case_id, {"t1": Path(case_id)}) for case_id in folds), folds)


def test_twelve_patients_are_dealt_out_as_mist_does_it_in_the_order_of_its_table():
    assert assign_folds(TWELVE, 5) == {
        **dict.fromkeys(["001", "017", "019"], 0),
        **dict.fromkeys(["004", "008", "015"], 1),
        **dict.fromkeys(["003", "020"], 2),
        **dict.fromkeys(["007", "014"], 3),
        **dict.fromkeys(["006", "011"], 4),
    }
    assert "".join(assign_folds(TWELVE, 5)) == "001017019004008015003020007014006011"


def test_two_and_three_patients_are_dealt_out_as_mist_does_it():
    assert assign_folds(["a", "b"], 2) == {"b": 0, "a": 1}
    assert assign_folds(["a", "b", "c"], 3) == {"a": 0, "b": 1, "c": 2}


def test_the_order_of_the_ids_does_not_matter():
    assert assign_folds(TWELVE[::-1], 5) == assign_folds(TWELVE, 5)


@pytest.mark.parametrize("nfolds", [-1, 0, 1, 13])
def test_a_number_of_folds_that_cannot_be_is_refused_with_the_number_of_cases(nfolds: int):
    with pytest.raises(ConfigError, match=f"nfolds is {nfolds} but there are 12 training cases"):
        assign_folds(TWELVE, nfolds)


def test_without_val_percent_the_held_out_cases_select_the_weights():
    fold = make_fold(assignment(12, 5), 1, 0.0, 42)
    assert fold.validation == fold.held_out == ("p02", "p05", "p08")
    assert sorted(fold.training + fold.held_out) == [f"p{k:02d}" for k in range(12)]


def test_val_percent_takes_its_share_from_the_training_cases_rounded_up():
    # 9 of the 12 train; sklearn.model_selection.train_test_split(range(9), test_size=0.3, random_state=42) draws these.
    cases = assignment(12, 5)
    others = [case.id for case in cases.cases if cases.fold_of[case.id] != 1]
    fold = make_fold(cases, 1, 0.3, 42)
    assert fold.validation == tuple(others[k] for k in (1, 5, 7))
    assert set(fold.training) == set(others) - set(fold.validation)
    assert fold.held_out == ("p02", "p05", "p08")


def test_a_fold_without_cases_or_with_nothing_left_to_train_on_is_refused():
    with pytest.raises(ConfigError, match=r"held out in fold 7\. The folds are \[0, 1, 2, 3, 4\]"):
        make_fold(assignment(12, 5), 7, 0.0, 42)
    with pytest.raises(ConfigError, match="Fold 0 has 1 cases to train on"):
        make_fold(assignment(2, 2), 0, 0.5, 42)
