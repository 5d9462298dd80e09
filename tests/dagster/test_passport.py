"""What a model was made from, checked from the command line."""

import json
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.files import write_json
from mist_ops.study import Study


def verify(study: Study) -> int:
    return cli.passport(["verify", str(study.model(0)), "--numpy", str(study.numpy)])


def test_a_model_is_what_its_passport_says_until_something_changes(
    copied_study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    assert verify(study) == 0
    assert "All holds" in capsys.readouterr().out

    assignment = read_train_paths(study.train_paths)
    trained, *_ = (case.id for case in assignment.cases if assignment.fold_of[case.id] != 0)
    record = json.loads(study.geometry(trained).read_text())
    write_json(study.geometry(trained), {**record, "content": "another"})
    write_config(study.config, override(read_config(study.config), {"training.epochs": 7}))
    study.model(0).write_bytes(study.model(1).read_bytes())
    assert verify(study) == 1
    said = capsys.readouterr().out
    assert f"The arrays of {trained} (training) are not those that were used." in said
    assert "Settings changed since: training.epochs was 1 and is 7." in said
    assert "are not those that the passport was written for" in said


def test_two_folds_differ_in_their_patients(finished: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.passport(["diff", str(finished.model(0)), str(finished.model(1))]) == 0
    said = capsys.readouterr().out
    assert "A alone trains on" in said
    assert "fold is 0 for A and 1 for B." in said
    passport = json.loads(finished.passport(0).read_text())
    assert passport["hardware"]["peak_memory"] > 2**20


def test_a_file_without_a_passport_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.passport(["verify", "none.pt"]) == 1
    assert "has no passport" in capsys.readouterr().err
