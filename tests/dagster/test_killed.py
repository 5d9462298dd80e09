"""Commands that are killed between two renames: the former state remains, or the new one, whole."""

from pathlib import Path

import pytest
from test_together import KILLED, killed_at

from mist_dagster import cli
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.files import file_hash
from mist_ops.records.arrays import NO_DISTANCES, stale_arrays
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

RUN = "from mist_dagster import cli; sys.exit(getattr(cli, sys.argv[2])(sys.argv[3:]))"


def leftovers(study: Study) -> list[Path]:
    return [
        path
        for folder in (study.numpy, study.results)
        for path in folder.rglob(".*")
        if path.name.startswith((".tmp-", ".replacing-"))
    ]


@pytest.mark.slow
def test_a_killed_preprocessing_leaves_no_patient_with_arrays_of_two_runs(copied_study: Study) -> None:
    study = copied_study
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    write_config(study.config, override(read_config(study.config), {"preprocessing.compute_dtms": True}))
    cases, config = read_train_paths(study.train_paths).cases, read_config(study.config)
    left = len(cases)
    for number in range(6):  # journal, image, label, distance maps, record, and the journal of the next patient
        assert killed_at(number, RUN, "preprocess", *where) == KILLED
        assert cli.status(where) == 0
        reasons = stale_arrays(study, config, cases)
        assert set(reasons.values()) == {NO_DISTANCES}
        assert len(reasons) == (left if number == 0 else left - 1)
        left = len(reasons)
    assert cli.preprocess(where) == 0
    assert stale_arrays(study, config, cases) == {}
    assert leftovers(study) == []


@pytest.mark.slow
def test_a_killed_retraining_leaves_a_model_with_its_own_passport_and_checkpoint(copied_study: Study) -> None:
    study = copied_study
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    flags = ["--folds", "0", "--epochs", "2"]
    former = file_hash(study.model(0))
    for number in range(6):  # journal, model, passport, checkpoint, former curves, curves
        assert killed_at(number, RUN, "train", *where, *flags, "--overwrite") == KILLED
        assert cli.status(where) == 0
        passport = read_passport(study.model(0))
        assert passport.weights == file_hash(study.model(0))
        assert len(passport.history) == (1 if number == 0 else 2)
        assert (passport.weights == former) == (number == 0)
        assert study.attempt(0).exists() == (number == 0)
        assert study.logs(0).is_dir()
        if number == 0:
            assert cli.train([*where, *flags, "--resume"]) == 0
            assert len(read_passport(study.model(0)).history) == 2
            assert leftovers(study) == []
    assert leftovers(study) == []
